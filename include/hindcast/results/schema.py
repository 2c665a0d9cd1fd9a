"""The schema of a store: which revision it has, and its way to the newest.

Opening a store reads one row. Alembic is imported only where that row names another revision than this code's.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import create_engine, inspect, text

from hindcast.errors import StoreMismatch
from hindcast.results import tables

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy import Connection

REVISION = "0005"  # what `tables` describes: the newest step of `migrations/versions`
FIRST = "0001"  # what a store had before revisions were recorded
VERSION_TABLE = "hindcast_version"  # Alembic's usual name may be taken: Airflow's database is a place for results too
MIGRATIONS = Path(__file__).parent / "migrations"


def revision(connection: Connection) -> str | None:
    """What the store says it is; None for a new store, and for one from before revisions were recorded."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    found: str | None = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()
    return found


def migrate(connection: Connection, target: str = REVISION) -> None:
    """Bring a store to a revision, up or down ("base": no tables), in the transaction of the caller, who alone writes.

    Raises
    ------
    StoreMismatch
        A newer Hindcast made the store, or one so old that its tables are not those of the first revision.
    """
    from alembic import command

    known, found, config = revisions(), revision(connection), _config(connection)
    if found == target:  # somebody else came first
        return
    if found is not None and found not in known:
        message = (
            f"the store has revision {found}, this version of Hindcast knows {', '.join(known)}: a newer one made it. "
            "Upgrade Hindcast, or name another store"
        )
        raise StoreMismatch(message)
    if found is None and inspect(connection).has_table(tables.windows.name):
        _recognise(connection)
        command.stamp(config, FIRST)
        found = FIRST
    order = ["base", *known]
    if order.index(found or "base") < order.index(target):
        command.upgrade(config, target)
    else:
        command.downgrade(config, target)


def revisions() -> list[str]:
    """Every revision that this code knows, oldest first."""
    from alembic.script import ScriptDirectory

    return [step.revision for step in ScriptDirectory.from_config(_config()).walk_revisions()][::-1]


def _recognise(connection: Connection) -> None:
    """Refuse a store without a recorded revision unless it has every column of the first one."""
    engine = create_engine("sqlite://")
    with engine.begin() as other:
        migrate(other, FIRST)
        expected = {name: columns(other, name) for name in inspect(other).get_table_names() if name != VERSION_TABLE}
    engine.dispose()
    there = set(inspect(connection).get_table_names())
    missing = sorted(
        f"{name}.{column}" if name in there else name
        for name, wanted in expected.items()
        for column in (wanted - columns(connection, name) if name in there else [""])
    )
    if missing:
        message = (
            f"the store was made by a version from before its revisions were recorded, and lacks {', '.join(missing)}. "
            "Name another store (or move the file away) and replay, or add what is missing by hand"
        )
        raise StoreMismatch(message)


def columns(connection: Connection, table: str) -> set[str]:
    """Names of a table's columns as the database has them."""
    return {column["name"] for column in inspect(connection).get_columns(table)}


def _config(connection: Connection | None = None) -> Config:
    from alembic.config import Config

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    return config


def draft(message: str) -> Path:
    """Write the next step: what `tables` has and the newest revision has not. To be read and corrected by a person."""
    from alembic import command

    known = revisions()
    engine = create_engine("sqlite://")
    with engine.begin() as connection:
        config = _config(connection)
        config.set_main_option("file_template", "v%%(rev)s_%%(slug)s")
        command.upgrade(config, "head")
        step: Any = command.revision(config, message, autogenerate=True, rev_id=f"{int(known[-1]) + 1:04}")
    engine.dispose()
    return Path(step.path)


if __name__ == "__main__":
    sys.stdout.write(f"{draft(' '.join(sys.argv[1:]))}\n")
