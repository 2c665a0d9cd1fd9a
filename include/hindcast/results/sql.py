"""Results in SQLite, PostgreSQL or BigQuery.

A write replaces everything under its key in one transaction, so that a crash leaves the rows of before or the rows of
after, and a re-run changes nothing.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import Table, delete, insert, select
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from hindcast.errors import StoreError, StoreMismatch
from hindcast.results import audit, bigquery, schema
from hindcast.results.database import location, may_pass, open_engine, wait_for_turn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from sqlalchemy import ColumnElement, Connection, Dialect, Engine, Select

Row = dict[str, Any]
_Found = TypeVar("_Found")
_TRIES, _TRY_SECONDS = 6, 60
# A commit takes seconds in BigQuery, and whoever comes second does the work again.
_REMOTE_TRIES, _REMOTE_SECONDS = 30, 600


class Store:
    """The results store.

    Parameters
    ----------
    url : str, optional
        SQLAlchemy URL; see `hindcast.results.database.location`.

    Raises
    ------
    UsageError
        The URL is none.
    StoreError
        The database cannot be opened, or its tables are not those of this version and cannot be made so.

    Examples
    --------
    >>> import tempfile
    >>> from datetime import UTC, datetime
    >>> from hindcast.results import tables
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
        self.engine: Engine = open_engine(self.url)
        self._writer = self.engine.execution_options(writes=True)
        with self._mapped(), self.engine.connect() as connection:
            if self._remote:
                from hindcast.results.bigquery_tables import prepare

                prepare(connection)
                return
            found = schema.revision(connection)
        if found != schema.REVISION:  # looked up first: whoever only reads waits for no writer
            with self.transaction() as connection:
                schema.migrate(connection)

    @property
    def _remote(self) -> bool:
        return self.engine.dialect.name == "bigquery"

    @property
    def artifacts(self) -> Path:
        """Folder for what is too large for rows: facts, samples, Data Docs (HINDCAST_ARTIFACTS, else beside SQLite)."""
        given = os.environ.get("HINDCAST_ARTIFACTS")
        if given:
            return Path(given).absolute()
        database = self.engine.url.database if self.engine.dialect.name == "sqlite" else None
        return (Path(database).absolute().parent if database else Path(".hindcast").absolute()) / "artifacts"

    @property
    def shown(self) -> str:
        """The URL without its password."""
        return self.url if self._remote else self.engine.url.render_as_string(hide_password=True)

    @contextmanager
    def _mapped(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            says = error.orig if self._remote and isinstance(error, DBAPIError) else str(error).splitlines()[0]
            message = f"results store {self.shown}: {says}"
            raise StoreError(message) from error
        except StoreMismatch as error:
            message = f"results store {self.shown}: {error}"
            raise StoreMismatch(message) from error

    @contextmanager
    def transaction(self, scope: str | None = None) -> Iterator[Connection]:
        """All or nothing; writers come one after the other, those of different scopes (models) side by side.

        On SQLite nobody else writes meanwhile. On PostgreSQL nobody of the same scope does, nor anybody without one;
        without a scope, nobody at all. In BigQuery whoever commits second gets a `StoreError`, and has to begin again:
        `write` does so by itself.
        """
        with self._mapped(), self._writer.begin() as connection:
            wait_for_turn(connection, scope)
            yield connection

    def write(self, work: Callable[[Connection], _Found], scope: str | None = None) -> _Found:
        """Do `work` in a transaction, and again if the database went away or gave up: it must leave the same rows."""
        from tenacity import Retrying, retry_if_exception, stop_after_attempt, stop_after_delay, wait_random_exponential

        def attempt() -> _Found:
            with self.transaction(scope) as connection:
                return work(connection)

        tries, seconds = (_REMOTE_TRIES, _REMOTE_SECONDS) if self._remote else (_TRIES, _TRY_SECONDS)
        again = Retrying(
            retry=retry_if_exception(lambda error: may_pass(error.__cause__)),
            wait=wait_random_exponential(multiplier=0.1, max=5),
            stop=stop_after_attempt(tries) | stop_after_delay(seconds),
            reraise=True,
        )
        return again(attempt)

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
            if rows:
                _insert(connection, table, rows)

    def rows(self, table: Table, *where: ColumnElement[bool], columns: Iterable[str] = (), **key: Any) -> list[Row]:
        """Rows under `key` that meet `where`, in the order of the primary key."""
        chosen = [table.c[name] for name in columns] or list(table.c)
        query = select(*chosen).where(*_conditions(table, key), *where).order_by(*table.primary_key.columns)
        with self._mapped(), self.engine.connect() as connection:
            found = connection.execute(query)
            names = list(found.keys())
            return [dict(zip(names, row, strict=True)) for row in found]

    def value(self, query: Select[Any]) -> Any:
        """The one value that a query finds."""
        with self._mapped(), self.engine.connect() as connection:
            return connection.execute(query).scalar()

    def values(self, query: Select[Any]) -> list[Any]:
        """The first column of what a query finds."""
        with self._mapped(), self.engine.connect() as connection:
            return list(connection.execute(query).scalars())

    def append_audit(
        self, connection: Connection, *, actor: str, action: str, content: Mapping[str, Any], **key: Any
    ) -> None:
        """Add one line to the hash chain: what was decided, on which inputs, by whom."""
        audit.append(connection, actor=actor, action=action, content=content, **key)


def _insert(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert many rows, whose values are converted column by column, each distinct one once.

    A statement of SQLAlchemy converts every value of every row by itself: half the time of an hour's drift.
    """
    given = {name for row in rows for name in row}
    names = tuple(sorted(given, key=list(table.c.keys()).index))
    sql, converters = _insertion(table, names, connection.dialect)
    columns = []
    for name, convert in zip(names, converters, strict=True):
        values = [row.get(name) for row in rows]
        if convert is not None:
            try:
                known = {value: convert(value) for value in set(values)}
            except (TypeError, ValueError) as error:
                message = f"{table.name}.{name}: {error}"
                raise StoreError(message) from error
            values = [known[value] for value in values]
        columns.append(values)
    if connection.dialect.name == "bigquery":
        bigquery.gather(connection, table, names, columns)
        return
    places = zip(*columns, strict=True)
    if connection.dialect.positional:
        connection.exec_driver_sql(sql, list(places))
    else:
        connection.exec_driver_sql(sql, [dict(zip(names, values, strict=True)) for values in places])


@lru_cache(maxsize=256)
def _insertion(table: Table, names: tuple[str, ...], dialect: Dialect) -> tuple[str, list[Callable[[Any], Any] | None]]:
    """The statement that inserts these columns, in the order of the table, and what converts the values of each."""
    kinds = [table.c[name].type.dialect_impl(dialect) for name in names]
    sql = str(insert(table).compile(dialect=dialect, column_keys=list(names)))
    return sql, [kind.bind_processor(dialect) for kind in kinds]


def _conditions(table: Table, key: Mapping[str, Any]) -> list[ColumnElement[bool]]:
    return [
        table.c[name].in_(value) if isinstance(value, list | tuple | set) else table.c[name] == value
        for name, value in key.items()
    ]
