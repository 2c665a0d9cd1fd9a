"""Where the results are, and what each kind of database needs: how it is opened, and what a writer waits for."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import create_engine, event, make_url, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, OperationalError

from hindcast.connections import Connection as AirflowConnection
from hindcast.connections import connection as airflow_connection
from hindcast.errors import StoreError, UsageError
from hindcast.results import bigquery

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

DEFAULT_URL = "sqlite:///.hindcast/results.db"
WAIT_SECONDS = 30  # for another writer
# A process that stands still in the middle of a transaction, or whose machine is gone, loses it after this long.
IDLE_SECONDS = 120


def location(given: str | None = None) -> str:
    """URL of the store: what was given, else the environment's, else a SQLite file under the working directory.

    HINDCAST_RESULTS is a URL, HINDCAST_RESULTS_CONN the id of an Airflow Connection.

    Raises
    ------
    UsageError
        Both are set, or there is no such Connection, or it is of a kind that holds no results.
    """
    url, name = os.environ.get("HINDCAST_RESULTS"), os.environ.get("HINDCAST_RESULTS_CONN")
    if given:
        return given
    if url and name:
        message = "both HINDCAST_RESULTS and HINDCAST_RESULTS_CONN are set; keep the one that names the results store"
        raise UsageError(message)
    if name:
        return connection_url(airflow_connection(name))
    return url or DEFAULT_URL


def connection_url(found: AirflowConnection) -> str:
    """URL of a store that an Airflow Connection describes: postgres, google_cloud_platform, or sqlite (a path).

    Examples
    --------
    >>> found = AirflowConnection("r", "postgres", "db", 5432, "results", "kim", "p@ss", {"sslmode": "require"})
    >>> connection_url(found)
    'postgresql+psycopg://kim:p%40ss@db:5432/results?sslmode=require'
    """
    options = {name: str(value) for name, value in found.extra.items() if not isinstance(value, dict | list)}
    if found.kind in {"postgres", "postgresql"}:
        url = URL.create(
            "postgresql+psycopg", found.login, found.password, found.host, found.port, found.schema, options
        )
        return url.render_as_string(hide_password=False)
    if found.kind == "sqlite":
        return f"sqlite:///{found.host or found.schema or ''}"
    if found.kind in {"google_cloud_platform", "gcpbigquery"}:
        project, dataset = found.extra.get("project"), found.extra.get("dataset") or found.schema
        if project and dataset:
            return f"bigquery://{project}/{dataset}?connection={found.id}"
        message = f'connection {found.id!r}: its extra must name where the results are: {{"project": …, "dataset": …}}'
        raise UsageError(message)
    kinds = "postgres, google_cloud_platform or sqlite"
    message = f"connection {found.id!r}: results cannot be kept in {found.kind or 'no type'!r}; use {kinds}"
    raise UsageError(message)


def open_engine(url: str) -> Engine:
    """Engine of a URL; nothing is connected yet.

    Raises
    ------
    UsageError
        The URL is none, or its driver is not installed.
    StoreError
        The folder of a SQLite file cannot be made.
    """
    if bigquery.is_bigquery(url):
        return bigquery.engine_of(url)
    try:
        parsed = make_url(re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", url))
        if parsed.get_backend_name() == "sqlite":
            if parsed.database:
                Path(parsed.database).absolute().parent.mkdir(parents=True, exist_ok=True)
            engine = create_engine(parsed, hide_parameters=True)
            event.listen(engine, "connect", _prepare_sqlite)
            event.listen(engine, "begin", _begin_sqlite)
            return engine
        # A server may have closed what is pooled, and its default isolation may be any.
        return create_engine(parsed, hide_parameters=True, pool_pre_ping=True, isolation_level="READ COMMITTED")
    except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
        shown = re.sub(r"://[^/]*@", "://***@", url)  # a password may stand there
        why = str(error).replace(url, shown)
        message = f"{shown!r} is no usable results URL ({why}); write it as {DEFAULT_URL}, postgresql+psycopg://… or bigquery://…"
        raise UsageError(message) from None
    except OSError as error:
        message = f"{url}: the results folder cannot be made: {error}"
        raise StoreError(message) from error


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # SQLAlchemy emits BEGIN itself, below
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={WAIT_SECONDS * 1000}")
    _write_ahead(cursor)
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()


def _write_ahead(cursor: Any) -> None:
    """Set the journal's mode; of two that make the same file SQLite refuses one at once, whatever `busy_timeout` is."""
    import sqlite3

    def busy(error: BaseException) -> bool:
        return isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY

    try:
        cursor.execute("PRAGMA journal_mode=WAL")
    except sqlite3.OperationalError as error:
        if not busy(error):
            raise
        from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random  # seldom needed

        again = Retrying(
            retry=retry_if_exception(busy),
            stop=stop_after_delay(WAIT_SECONDS),
            wait=wait_random(0.005, 0.05),
            reraise=True,
        )
        again(cursor.execute, "PRAGMA journal_mode=WAL")


def _begin_sqlite(connection: Connection) -> None:
    # IMMEDIATE takes the write lock at once: two writers wait for each other instead of failing half way. A reader
    # takes none: it sees the rows of before, also while a transaction of its own process is open.
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def wait_for_turn(connection: Connection, scope: str | None) -> None:
    """Wait until nobody else writes: nobody at all, or nobody in this scope. SQLite has waited when it began.

    On PostgreSQL these are advisory locks of the transaction: first a shared one of all writers, then the scope's, so
    that no two writers can wait for each other. Without them, of two that replace the same key the second would not
    see the rows that the first one inserts, and leave both. In BigQuery nobody waits: whoever comes second does its
    work again.
    """
    if connection.dialect.name == "bigquery":
        bigquery.watch(connection, scope)
    if connection.dialect.name != "postgresql":
        return
    everything = lock_number("*")
    locks = "pg_advisory_xact_lock(:all)"
    if scope is not None:
        locks = "pg_advisory_xact_lock_shared(:all), pg_advisory_xact_lock(:scope)"
    query = text(
        "SELECT set_config('lock_timeout', :wait, true), "
        f"set_config('idle_in_transaction_session_timeout', :idle, true), {locks}"
    )
    given = {"all": everything, "wait": f"{WAIT_SECONDS}s", "idle": f"{IDLE_SECONDS}s"}
    connection.execute(query, given if scope is None else {**given, "scope": lock_number(scope)})


def wait_for(connection: Connection, scope: str) -> None:
    """Wait for a further scope within a transaction; the caller sees to it that the order is always the same."""
    if connection.dialect.name == "bigquery":
        bigquery.watch(connection, scope)
    elif connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:scope)"), {"scope": lock_number(scope)})


def lock_number(scope: str) -> int:
    """Number of an advisory lock; the locks of a database are shared by all that use it, so they carry our name."""
    return int.from_bytes(hashlib.sha256(f"hindcast {scope}".encode()).digest()[:8], signed=True)


def may_pass(error: BaseException | None) -> bool:
    """Whether a database error may be gone on the next try: the server went away, a deadlock, a wait that was too long.

    SQLite's is not counted: it has waited `WAIT_SECONDS` already.
    """
    if not isinstance(error, DBAPIError) or type(error.orig).__module__.startswith("sqlite3"):
        return False
    return error.connection_invalidated or isinstance(error, OperationalError)
