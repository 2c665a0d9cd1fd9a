"""Results in BigQuery: reads go through SQLAlchemy, as everywhere; what a transaction writes is one script at its end.

A transaction that is open on the service while a process thinks would, were that process killed, keep everybody else
from the tables it wrote to for hours. So nothing is: rows go into a staging table by one load job, then one script
deletes and inserts between BEGIN and COMMIT. It begins by asserting that nobody has written in the same scope since the
transaction began: what was read still holds, or the work is done again.
"""

from __future__ import annotations

import re
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from io import BytesIO
from typing import TYPE_CHECKING, Any

from sqlalchemy import Table, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.exc import DatabaseError, DBAPIError, OperationalError
from sqlalchemy.sql import visitors

from hindcast.errors import UsageError
from hindcast.results.gathered import OVERTAKEN, TURNS, Gathered
from hindcast.sources.bigquery_service import Service

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from google.cloud.bigquery import Client
    from sqlalchemy import Connection, Engine

ROLES = "roles/bigquery.dataEditor on the dataset and roles/bigquery.jobUser on the project"
# A script that another one got in the way of is tried again for so long; on the service one takes some seconds.
TRY_SECONDS = 300
_STAGED = timedelta(hours=1)
_URL = re.compile(r"bigquery://(?P<project>[^/?@\s]+)/(?P<dataset>\w+)(?:\?connection=(?P<connection>[^&\s]+))?")
_HELD, _REMOTE = "hindcast_gathered", "hindcast_remote"
# What BigQuery says of a transaction that met another one, and what the emulator of the tests says.
_ABORTED = re.compile(r"aborted due to concurrent update|Failed to commit DuckLake transaction|[Tt]ransaction conflict")
_LIMITED = {"rateLimitExceeded", "quotaExceeded", "jobRateLimitExceeded"}


def is_bigquery(url: str) -> bool:
    """Whether a URL names a dataset."""
    return url.startswith("bigquery:")


def engine_of(url: str) -> Engine:
    """Engine of ``bigquery://PROJECT/DATASET``; the client is made, nothing is asked of the service.

    Raises
    ------
    UsageError
        The URL names no dataset, the packages are not installed, or there are no credentials.
    """
    found = _URL.fullmatch(url)
    if not found:
        message = f"{url!r} names no dataset; write it as bigquery://PROJECT/DATASET, or with ?connection=ID behind it"
        raise UsageError(message)
    try:
        from google.cloud.bigquery import QueryJobConfig

        from hindcast.results.bigquery_dialect import Compiler

        service = Service(url, found["project"], found["connection"])
        remote = Remote(service.client, f"{found['project']}.{found['dataset']}", service.retry)
        remote.client.default_query_job_config = QueryJobConfig(default_dataset=remote.home)
        # its cursors name no retry, and the client's own lasts ten minutes
        remote.client.query_and_wait = partial(remote.client.query_and_wait, retry=remote.retry)  # type: ignore[method-assign] # said above
        named = URL.create(
            "bigquery", host=found["project"], database=found["dataset"], query={"user_supplied_client": "True"}
        )
        # rows come over REST: a read session of the Storage API per statement takes longer than most statements
        given = {"client": remote.client, "prefer_bqstorage_client": False}
        engine = create_engine(named, connect_args=given, execution_options={_REMOTE: remote})
        engine.dialect.statement_compiler = Compiler
    except ModuleNotFoundError as error:
        message = f"{url}: {error.name} is not installed: pip install 'hindcast[bigquery]'"
        raise UsageError(message) from error
    event.listen(engine, "begin", _begin)
    event.listen(engine, "do_execute", _execute)
    event.listen(engine, "do_executemany", _execute)
    event.listen(engine, "commit", _commit)
    event.listen(engine, "rollback", lambda connection: connection.info.pop(_HELD, None))
    return engine


@dataclass(frozen=True)
class Remote:
    """A dataset, as ``project.dataset``, the client to it, and what of its calls is tried again for how long."""

    client: Client
    home: str
    retry: Any

    @classmethod
    def of(cls, connection: Connection) -> Remote:
        """The dataset of a connection."""
        found: Remote = connection.get_execution_options()[_REMOTE]
        return found

    def listed(self, table: str, **columns: str) -> list[dict[str, Any]]:
        """All rows of a small table; listing them is no query, and costs nothing."""
        from google.cloud.bigquery import SchemaField

        fields = [SchemaField(name, kind) for name, kind in columns.items()]
        rows = self.client.list_rows(f"{self.home}.{table}", selected_fields=fields, retry=self.retry)
        return [dict(row.items()) for row in rows]


def gather(connection: Connection, table: Table, names: Sequence[str], columns: Sequence[Sequence[Any]]) -> None:
    """Rows to insert, column by column, values as the database takes them."""
    held: Gathered = connection.info[_HELD]
    held.insert(table, [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)])


def watch(connection: Connection, scope: str | None) -> None:
    """Nobody else may write in this scope until the transaction is committed, or its work is done again."""
    turns = {row["scope"]: row["turn"] for row in _turns(connection)}
    connection.info[_HELD].watch(turns, scope)


# --- what SQLAlchemy does, in its order ---


def _begin(connection: Connection) -> None:
    connection.info.pop(_HELD, None)
    if connection.get_execution_options().get("writes", False):
        connection.info[_HELD] = Gathered()


def _execute(cursor: Any, text: str, values: Any, context: Any) -> bool:
    """Gather what writes; let a query see what its own transaction has written so far."""
    held: Gathered | None = context.root_connection.info.get(_HELD)
    home = Remote.of(context.root_connection).home
    if context.isinsert and held and context.compiled:
        held.insert(context.compiled.statement.table, values if isinstance(values, list) else [values])
        return True
    if (context.isdelete or context.isupdate) and held and context.compiled:
        table = context.compiled.statement.table
        if context.execution_options.get("preserve_rowcount"):
            cursor.rowcount = _count(cursor, held, home, table, text, values)
        held.change(table, "delete" if context.isdelete else "update", text, values)
        return True
    if held and context.compiled:
        before, own = held.seen_by(_tables_in(context.compiled.statement), home)
        text, values = before + text, {**values, **own}
    with translated(text):
        cursor.execute(text, values)
        # all pages, here: whatever the client raises between them would come out as it is
        cursor._query_data = iter(cursor.fetchall())  # noqa: SLF001 - said above
    return True


def _count(cursor: Any, held: Gathered, home: str, table: Table, text: str, values: dict[str, Any]) -> int:
    """How many rows a statement is going to delete or update."""
    before, own = held.seen_by({table.name}, home)
    condition = text.partition(" WHERE ")[2] or "TRUE"
    used = {name: value for name, value in values.items() if f"%({name}" in condition}
    counting = cursor.connection.cursor()
    with translated("count"):
        counting.execute(f"{before}SELECT COUNT(*) FROM `{table.name}` WHERE {condition}", {**used, **own})
        return int(counting.fetchone()[0])


def _tables_in(statement: Any) -> set[str]:
    return {each.name for each in visitors.iterate(statement) if isinstance(each, Table)}


def _commit(connection: Connection) -> None:
    """Load the rows, then do everything in one script; it is tried again where another one got in its way."""
    held: Gathered | None = connection.info.pop(_HELD, None)
    if held is None or not held.steps:
        return
    remote = Remote.of(connection)
    staging = f"hindcast_staging_{held.token}"
    rows = held.staged()
    try:
        if rows is not None:
            with translated("load"):
                _load(remote, staging, rows)
        where_free(_run, connection, held, staging)
    finally:
        if rows is not None:
            with suppress(DBAPIError), translated("drop"):  # what is done is done, and the table goes by itself
                remote.client.delete_table(f"{remote.home}.{staging}", not_found_ok=True, retry=remote.retry)


def where_free(work: Callable[..., None], *given: Any) -> None:
    """Do something, and again where another one got in its way."""
    from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

    again = Retrying(
        retry=retry_if_exception(lambda error: bool(_ABORTED.search(str(error)))),
        wait=wait_random_exponential(multiplier=0.2, max=15),
        stop=stop_after_delay(TRY_SECONDS),
        reraise=True,
    )
    again(work, *given)


def _run(connection: Connection, held: Gathered, staging: str) -> None:
    text, values = held.script(staging)
    cursor = connection.connection.cursor()
    try:
        with translated("commit"):
            cursor.execute(text, values)
    except DatabaseError:
        # An answer may be lost on the way, and the client asks again: then it had been done.
        if held.token not in {row["token"] for row in _turns(connection)}:
            raise


def _turns(connection: Connection) -> list[dict[str, Any]]:
    with translated("turns"):
        return Remote.of(connection).listed(TURNS, scope="STRING", turn="INT64", token="STRING")  # noqa: S106 - a type


def _load(remote: Remote, name: str, rows: Any) -> None:
    """Load rows into a new table, which goes away by itself if nobody drops it."""
    import pyarrow.parquet as pq
    from google.cloud.bigquery import LoadJobConfig, SchemaField
    from google.cloud.bigquery import Table as BigQueryTable

    kinds = {"int64": "INT64", "double": "FLOAT64", "string": "STRING", "bool": "BOOL", "binary": "BYTES"}
    fields = [SchemaField(each.name, kinds.get(str(each.type), "TIMESTAMP")) for each in rows.schema]
    table = BigQueryTable(f"{remote.home}.{name}", fields)
    table.expires = datetime.now(UTC) + _STAGED
    remote.client.create_table(table, retry=remote.retry)
    file = BytesIO()
    pq.write_table(rows, file, compression="zstd")
    file.seek(0)
    config = LoadJobConfig(source_format="PARQUET", write_disposition="WRITE_APPEND")
    remote.client.load_table_from_file(file, table.reference, job_config=config).result(retry=remote.retry)


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Turn what the client raises into errors as SQLAlchemy has them: an `OperationalError` may pass."""
    from google.api_core import exceptions as api
    from google.auth import exceptions as auth
    from google.cloud.bigquery import dbapi
    from requests.exceptions import RequestException

    try:
        yield
    except (api.GoogleAPIError, dbapi.Error, auth.GoogleAuthError, RequestException, ConnectionError) as error:
        cause = error.args[0] if isinstance(error, dbapi.Error) and error.args else error
        says, passes = _meaning(cause)
        kind = OperationalError if passes else DatabaseError
        raise kind(what, None, Exception(says)) from error


def _meaning(error: Any) -> tuple[str, bool]:
    """What an error says, with what to do about it, and whether it may be gone on the next try."""
    from google.api_core import exceptions as api
    from google.auth import exceptions as auth

    says = next(iter(str(error).splitlines()), type(error).__name__)
    reasons = {entry.get("reason") for entry in getattr(error, "errors", None) or () if isinstance(entry, dict)}
    if isinstance(error, api.Forbidden) and not reasons & _LIMITED:
        return f"forbidden: {says} (the store needs {ROLES})", False
    if isinstance(error, api.NotFound):
        return f"not found: {says}", False
    if isinstance(error, auth.GoogleAuthError) and not isinstance(error, auth.TransportError):
        return f"refused: {says}", False
    if isinstance(error, api.ClientError) and not isinstance(error, api.TooManyRequests) and not reasons & _LIMITED:
        begun = isinstance(error, api.Conflict)  # asked for once already: the answer was lost
        return says, bool(begun or OVERTAKEN in says or _ABORTED.search(says))
    return f"no answer: {says}" if not isinstance(error, api.ClientError) else says, True
