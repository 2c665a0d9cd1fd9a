"""The schema: one line of revisions that goes up and down on every database and ends where `tables` is."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Column, Integer, create_engine, inspect, text

from hindcast.errors import StoreMismatch
from hindcast.results import schema, tables
from hindcast.results.schema import FIRST, REVISION, VERSION_TABLE, migrate, revision
from hindcast.results.sql import Store
from hindcast.results.types import Moment, Name, Number, Words

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy import Engine
    from tests.postgres_server import Cluster

HOUR = datetime(2013, 4, 16, 15, tzinfo=UTC)


def test_there_is_one_line_of_revisions_and_the_code_knows_its_end() -> None:
    from alembic.script import ScriptDirectory

    script = ScriptDirectory.from_config(schema._config())
    assert script.get_heads() == [REVISION], "two steps start from the same revision, or schema.REVISION is behind"
    assert schema.revisions() == [f"{number:04}" for number in range(1, int(REVISION) + 1)]
    assert schema.revisions()[0] == FIRST


def test_every_text_moment_and_number_of_a_table_is_of_our_types() -> None:
    """They see to it that every database stores the same."""
    plain = {"Integer", "BigInteger", "Boolean", "LargeBinary"}
    for table in tables.METADATA.tables.values():
        for column in table.c:
            assert isinstance(column.type, Moment | Name | Number | Words) or type(column.type).__name__ in plain, (
                column
            )


class Contract:
    """What a migration does on every database."""

    @pytest.fixture
    def url(self) -> str:
        raise NotImplementedError

    @pytest.fixture
    def engine(self, url: str) -> Iterator[Engine]:
        engine = create_engine(url)
        yield engine
        engine.dispose()

    def test_up_and_down_and_up_again_step_by_step(self, engine: Engine) -> None:
        steps = schema.revisions()
        seen: dict[str, Any] = {}
        for step in steps:
            with engine.begin() as connection:
                migrate(connection, step)
                assert revision(connection) == step
                seen[step] = layout(connection)
        for step in [*steps[-2::-1], *steps[1:]]:
            with engine.begin() as connection:
                migrate(connection, step)
                assert (revision(connection), layout(connection)) == (step, seen[step])
        with engine.begin() as connection:
            migrate(connection, "base")
            assert set(layout(connection)) == {VERSION_TABLE}
            migrate(connection)
            assert layout(connection) == seen[REVISION]

    def test_the_newest_revision_is_what_the_tables_say(self, url: str) -> None:
        from alembic.autogenerate import compare_metadata
        from alembic.migration import MigrationContext

        store = Store(url)
        with store.engine.connect() as connection:
            options = {"version_table": VERSION_TABLE, "compare_type": True, "compare_server_default": True}
            context = MigrationContext.configure(connection, opts=options)
            assert compare_metadata(context, tables.METADATA) == [], "make migration M='what changed'"
            made = layout(connection)
        store.engine.dispose()
        for table in tables.METADATA.tables.values():
            assert made[table.name]["key"] == [column.name for column in table.primary_key.columns]

    def test_a_store_of_before_keeps_its_rows(self, url: str, engine: Engine) -> None:
        """One made by create_all, without a recorded revision."""
        row = {"model_name": "m", "window_start": HOUR, "feature": "a", "importance": 0.5, "status": "ok"}
        with engine.begin() as connection:
            migrate(connection, FIRST)
            connection.execute(text(f"DROP TABLE {VERSION_TABLE}"))
            connection.execute(tables.importance.insert(), row)
        store = Store(url)
        assert store.rows(tables.importance)[0]["importance"] == 0.5
        with store.engine.connect() as connection:
            assert revision(connection) == REVISION
            assert "audit_chain" in layout(connection)["audit"]["indexes"]
        store.engine.dispose()

    def test_a_store_that_is_too_old_is_left_alone_and_says_what_it_lacks(self, url: str, engine: Engine) -> None:
        with engine.begin() as connection:
            migrate(connection, FIRST)
            connection.execute(text(f"DROP TABLE {VERSION_TABLE}"))
            connection.execute(text("DROP TABLE acceptances"))
            connection.execute(text("ALTER TABLE findings DROP COLUMN planned"))
            before = layout(connection)
        with pytest.raises(StoreMismatch, match=r"lacks acceptances, findings\.planned\. Name another store") as caught:
            Store(url)
        assert (caught.value.exit_status, caught.value.transient) == (4, False)
        with engine.connect() as connection:
            assert layout(connection) == before

    def test_a_store_of_a_newer_version_is_refused(self, url: str, engine: Engine) -> None:
        Store(url).engine.dispose()
        with engine.begin() as connection:
            connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
        with pytest.raises(StoreMismatch, match=r"has revision 9999, .* a newer one made it\. Upgrade Hindcast"):
            Store(url)

    def test_a_step_that_fails_leaves_the_store_as_it_was(self, url: str, engine: Engine) -> None:
        """Two lines of the audit that follow the same one: the second revision's index cannot be made."""
        line = {"recorded_at": HOUR, "actor": "a", "action": "b", "content": "{}", "previous_hash": "", "hash": "x"}
        with engine.begin() as connection:
            migrate(connection, FIRST)
            connection.execute(tables.audit.insert(), [line, line])
        with pytest.raises(Exception, match=r"audit_chain|UNIQUE"):
            Store(url)
        with engine.connect() as connection:
            assert revision(connection) == FIRST

    def test_many_who_open_it_at_once_make_it_once(self, url: str) -> None:
        context = multiprocessing.get_context("spawn")
        ready = context.Barrier(3)
        processes = [context.Process(target=_open, args=(url, ready)) for _ in range(3)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)
        assert [process.exitcode for process in processes] == [0, 0, 0]


class TestSQLite(Contract):
    """A file."""

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/results.db"


class TestPostgreSQL(Contract):
    """A server."""

    @pytest.fixture
    def url(self, postgres: Cluster) -> str:
        return postgres.database()


def _open(url: str, ready: Any) -> None:
    ready.wait(60)
    for _ in range(3):
        Store(url).rows(tables.windows)


def layout(connection: Any) -> dict[str, Any]:
    """Every table with its columns, key and indexes, as the database has them."""
    found = inspect(connection)
    return {
        name: {
            "columns": {
                column["name"]: (str(column["type"]), column["nullable"]) for column in found.get_columns(name)
            },
            "key": found.get_pk_constraint(name)["constrained_columns"],
            "indexes": {index["name"]: index["unique"] for index in found.get_indexes(name)},
        }
        for name in found.get_table_names()
    }


def test_opening_a_store_that_is_up_to_date_imports_no_alembic(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/results.db"
    code = f"import sys; from hindcast.results.sql import Store; Store({url!r}); print('alembic' in sys.modules)"
    opened = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in "12"]
    assert [done.stdout.strip() for done in opened] == ["True", "False"]


def test_a_new_column_is_drafted_as_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe of CONTRIBUTING.md, in a copy of the package."""
    import shutil

    shutil.copytree(schema.MIGRATIONS, tmp_path / "migrations")
    monkeypatch.setattr(schema, "MIGRATIONS", tmp_path / "migrations")
    changed = Column("shiny_rows", Integer)
    tables.windows.append_column(changed)
    try:
        path = schema.draft("windows has shiny_rows")
    finally:
        tables.windows._columns.remove(changed)
    step = path.read_text()
    assert path.name == f"v{int(REVISION) + 1:04}_windows_has_shiny_rows.py"
    assert f'down_revision = "{REVISION}"' in step
    assert 'op.add_column("windows", sa.Column("shiny_rows", sa.Integer(), nullable=True))' in step.replace("'", '"')
    assert 'op.drop_column("windows", "shiny_rows")' in step.replace("'", '"')
