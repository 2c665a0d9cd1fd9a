"""Results in any SQL database that SQLAlchemy speaks; SQLite by default.

A write replaces everything under its key in one transaction, so that a crash leaves the rows of before or the rows of
after, and a re-run changes nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Table, create_engine, delete, event, insert, inspect, make_url, select
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from hindcast.errors import StoreError, UsageError
from hindcast.results import tables

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from sqlalchemy import ColumnElement, Connection, Engine

DEFAULT_URL = "sqlite:///.hindcast/results.db"
Row = dict[str, Any]


def location(given: str | None = None) -> str:
    """URL of the store: what was given, else HINDCAST_RESULTS, else a SQLite file under the working directory."""
    return given or os.environ.get("HINDCAST_RESULTS") or DEFAULT_URL


class Store:
    """The results store.

    Parameters
    ----------
    url : str, optional
        SQLAlchemy URL; see `location`.

    Raises
    ------
    UsageError
        The URL is none.
    StoreError
        The database cannot be opened.

    Examples
    --------
    >>> import tempfile
    >>> store = Store(f"sqlite:///{tempfile.mkdtemp()}/results.db")
    >>> moment = datetime(2013, 4, 16, 15, tzinfo=UTC)
    >>> row = {"model_name": "m", "window_start": moment, "feature": "a", "importance": 0.5, "status": "ok"}
    >>> with store.transaction() as connection:
    ...     store.replace(connection, tables.importance, [row], model_name="m", window_start=moment)
    >>> store.rows(tables.importance, model_name="m")[0]["importance"]
    0.5
    """

    def __init__(self, url: str | None = None) -> None:
        self.url = location(url)
        try:
            parsed = make_url(self.url)
            if parsed.get_backend_name() == "sqlite" and parsed.database:
                Path(parsed.database).absolute().parent.mkdir(parents=True, exist_ok=True)
            self.engine: Engine = create_engine(parsed)
        except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
            shown = re.sub(r"://[^/]*@", "://***@", self.url)  # a password may stand there
            why = str(error).replace(self.url, shown)
            message = f"{shown!r} is no usable results URL ({why}); write it as {DEFAULT_URL} or postgresql+psycopg://…"
            raise UsageError(message) from None
        except OSError as error:
            message = f"{self.url}: the results folder cannot be made: {error}"
            raise StoreError(message) from error
        if self.engine.dialect.name == "sqlite":
            event.listen(self.engine, "connect", _prepare_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)
        self._writer = self.engine.execution_options(writes=True)
        with self._mapped():
            missing = set(tables.METADATA.tables) - set(inspect(self.engine).get_table_names())
        if missing:  # looked up first: whoever only reads waits for no writer
            with self.transaction() as connection:
                tables.METADATA.create_all(connection)

    @property
    def artifacts(self) -> Path:
        """Folder for what is too large for rows: facts, samples, Data Docs (HINDCAST_ARTIFACTS, else beside SQLite)."""
        given = os.environ.get("HINDCAST_ARTIFACTS")
        if given:
            return Path(given).absolute()
        database = self.engine.url.database if self.engine.dialect.name == "sqlite" else None
        return (Path(database).absolute().parent if database else Path(".hindcast").absolute()) / "artifacts"

    @contextmanager
    def _mapped(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            shown = self.engine.url.render_as_string(hide_password=True)
            message = f"results store {shown}: {str(error).splitlines()[0]}"
            raise StoreError(message) from error

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """All or nothing."""
        with self._mapped(), self._writer.begin() as connection:
            yield connection

    def replace(self, connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]], **key: Any) -> None:
        """Delete the rows under `key` and insert `rows`; a list as a key's value means any of it."""
        self.replace_all(connection, [(table, key, rows)])

    def replace_all(
        self, connection: Connection, writes: Iterable[tuple[Table, Mapping[str, Any], Sequence[Mapping[str, Any]]]]
    ) -> None:
        """`replace` several times, each table's rows in one statement; no two keys may hold the same row."""
        found: dict[Table, list[Mapping[str, Any]]] = {}
        for table, key, rows in writes:
            connection.execute(delete(table).where(*_conditions(table, key)))
            found.setdefault(table, []).extend(rows)
        for table, rows in found.items():
            names = {name for row in rows for name in row}
            if rows:
                connection.execute(insert(table), [{name: row.get(name) for name in names} for row in rows])

    def rows(self, table: Table, *where: ColumnElement[bool], columns: Iterable[str] = (), **key: Any) -> list[Row]:
        """Rows under `key` that meet `where`, in the order of the primary key."""
        chosen = [table.c[name] for name in columns] or list(table.c)
        query = select(*chosen).where(*_conditions(table, key), *where).order_by(*table.primary_key.columns)
        with self._mapped(), self.engine.connect() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def append_audit(
        self, connection: Connection, *, actor: str, action: str, content: Mapping[str, Any], **key: Any
    ) -> None:
        """Add one line to the hash chain: what was decided, on which inputs, by whom."""
        if connection.dialect.name == "postgresql":
            # Two writers must not both follow the same line; SQLite has one writer at a time.
            connection.exec_driver_sql("LOCK TABLE audit IN EXCLUSIVE MODE")
        newest = select(tables.audit.c.hash).order_by(tables.audit.c.sequence.desc()).limit(1)
        row = {
            "recorded_at": datetime.now(UTC),
            "actor": actor,
            "action": action,
            "content": json.dumps(content, sort_keys=True, default=str),
            "previous_hash": connection.execute(newest).scalar() or "",
            **key,
        }
        connection.execute(insert(tables.audit), {**row, "hash": _audit_hash(row)})


def verify_audit(store: Store) -> int | None:
    """Follow the hash chain of the audit.

    Returns
    -------
    The sequence of the first line that was changed or does not follow the line before it; None when there is none.
    Lines cut off at the end leave no trace here: compare the newest hash with a copy kept elsewhere.
    """
    before = ""
    for row in store.rows(tables.audit):
        if row["previous_hash"] != before or row["hash"] != _audit_hash(row):
            return int(row["sequence"])
        before = row["hash"]
    return None


def _audit_hash(row: Mapping[str, Any]) -> str:
    key = {name: row.get(name) for name in ("model_name", "window_start") if row.get(name) is not None}
    parts = [row["previous_hash"], row["recorded_at"].isoformat(), row["actor"], row["action"]]
    parts += [json.dumps(key, sort_keys=True, default=str), row["content"]]
    # As JSON, so that no text can move from one part into the next.
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _conditions(table: Table, key: Mapping[str, Any]) -> list[ColumnElement[bool]]:
    return [
        table.c[name].in_(value) if isinstance(value, list | tuple | set) else table.c[name] == value
        for name, value in key.items()
    ]


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # SQLAlchemy emits BEGIN itself, below
    cursor = connection.cursor()
    for pragma in ("busy_timeout=30000", "journal_mode=WAL", "synchronous=NORMAL"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    # IMMEDIATE takes the write lock at once: two writers wait for each other instead of failing half way. A reader
    # takes none: it sees the rows of before, also while a transaction of its own process is open.
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
