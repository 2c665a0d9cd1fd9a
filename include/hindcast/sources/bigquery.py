"""Logs in a BigQuery table: a window is its rows with ``timestamp`` in ``[start, end)``, as they were at one moment.

That moment is pinned in the manifest, and every query (``FOR SYSTEM_TIME AS OF``) and read session of the window asks
for it, so that rows which arrive meanwhile change nothing.
Source: https://cloud.google.com/bigquery/docs/reference/storage
"""

from __future__ import annotations

import json
import re
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from hindcast.connections import Connection, connection
from hindcast.errors import SourceBusy, SourceMissing, SourceUnreadable, UsageError
from hindcast.sources.base import LogObject, Manifest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pyarrow.parquet as pq
    from google.cloud.bigquery import Client, SchemaField, Table
    from google.cloud.bigquery_storage_v1 import BigQueryReadClient
    from google.cloud.bigquery_storage_v1.types import ReadSession

# Google's client tries again for ten minutes; a task that Airflow retries need not hang so long.
RETRY_SECONDS = 120.0
_URI = re.compile(
    r"bq://(?P<project>(?:[a-z0-9.-]+:)?[a-z][a-z0-9-]*)\.(?P<dataset>[A-Za-z0-9_]{1,1024})\.(?P<table>[\w-]{1,1024})"
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)
_LIMITED = {"rateLimitExceeded", "quotaExceeded", "jobRateLimitExceeded"}
_NEEDED = "bigquery.jobs.create, bigquery.tables.get, bigquery.tables.getData, bigquery.readsessions.create"
# What the Storage Read API gives for a column; whatever is not here is text or binary.
_ARROW = {
    "INT64": pa.int64(),
    "FLOAT64": pa.float64(),
    "BOOL": pa.bool_(),
    "STRING": pa.string(),
    "TIMESTAMP": pa.timestamp("us", "UTC"),
    "DATETIME": pa.timestamp("us"),
    "DATE": pa.date32(),
    "TIME": pa.time64("us"),
    "NUMERIC": pa.decimal128(38, 9),
    "BIGNUMERIC": pa.decimal256(76, 38),
    "BYTES": pa.binary(),
}
# The REST service still answers with the names of its first dialect.
_MODERN = {"INTEGER": "INT64", "FLOAT": "FLOAT64", "BOOLEAN": "BOOL", "RECORD": "STRUCT"}


@dataclass(frozen=True, order=True)
class TableSlice(LogObject):
    """The rows of ``[start, end)`` of a table; the etag is the snapshot, in microseconds since 1970."""

    start: datetime
    end: datetime

    @property
    def snapshot(self) -> datetime:
        """Moment as of which the rows are read."""
        return _EPOCH + timedelta(microseconds=int(self.etag))


class BigQueryTable:
    """Source for ``bq://project.dataset.table``.

    Parameters
    ----------
    uri : str
    connection_id : str, optional
        Airflow Connection; without one, the credentials of the environment.

    Raises
    ------
    UsageError
        The URI names no table.

    Examples
    --------
    >>> BigQueryTable("bq://acme-ml.logs.predictions").name
    'acme-ml.logs.predictions'
    """

    def __init__(self, uri: str, connection_id: str | None = None) -> None:
        found = _URI.fullmatch(uri)
        if not found:
            message = f"{uri}: names no BigQuery table; allowed: bq://project.dataset.table"
            raise UsageError(message)
        self.uri, self._connection_id = uri, connection_id
        self.project, self.dataset, self.table = found["project"], found["dataset"], found["table"]

    @property
    def name(self) -> str:
        """Full name of the table."""
        return f"{self.project}.{self.dataset}.{self.table}"

    def manifest(self, start: datetime, end: datetime) -> Manifest:
        """One object: the rows of ``[start, end)`` as of now; its size is what a dry run says of all columns.

        Raises
        ------
        SourceMissing, SourceUnreadable, SourceBusy
        """
        from google.cloud.bigquery import QueryJobConfig

        self.__dict__.pop("types", None)  # columns may have been added since the last window
        self._checked()
        sql = f"SELECT * FROM `{self.name}` WHERE `timestamp` >= @start AND `timestamp` < @end"
        with self.translated():
            config = QueryJobConfig(dry_run=True, use_query_cache=False, query_parameters=bounds(start, end))
            job = self.client.query(sql, job_config=config, retry=self.retry)
        # the service's clock, not this machine's: a moment in its future is refused
        micros = (job.created - _EPOCH) // timedelta(microseconds=1)
        size, etag = job.total_bytes_processed, str(micros)
        return Manifest("partitioned", (TableSlice(self.name, size, etag, start, end, arrived=job.created),))

    def open(self, item: LogObject, dictionaries: Sequence[str] = ()) -> pq.ParquetFile:  # noqa: ARG002 - Source's
        """Refuse: labels and references are read as Parquet files.

        Raises
        ------
        UsageError
        """
        message = f"{self.uri}: labels and references are not read from BigQuery yet; export {item.name} as Parquet"
        raise UsageError(message)

    def batches(self, item: LogObject, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Some columns of the slice, streamed as Arrow.

        Raises
        ------
        SourceMissing, SourceUnreadable, SourceBusy
        """
        with self.translated():
            session = self.reader.create_read_session(
                parent=f"projects/{self.billed_to}",
                read_session=read_session(self, as_slice(item), columns),
                max_stream_count=1,
            )
            schema = pa.ipc.read_schema(pa.py_buffer(session.arrow_schema.serialized_schema))
            for stream in session.streams:
                # it goes on by itself, from where it was, after an error that is worth trying again
                for part in self.reader.read_rows(stream.name):  # type: ignore[no-untyped-call] # Google types it half
                    content = pa.py_buffer(part.arrow_record_batch.serialized_record_batch)
                    yield pa.ipc.read_record_batch(content, schema)

    def count(self, item: LogObject) -> int:
        """Rows of the slice, by a query that reads no column but its time.

        Raises
        ------
        SourceMissing, SourceUnreadable, SourceBusy
        """
        from google.cloud.bigquery import QueryJobConfig, ScalarQueryParameter

        part = as_slice(item)
        sql = (
            f"SELECT COUNT(*) AS found FROM `{self.name}` FOR SYSTEM_TIME AS OF @snapshot "
            "WHERE `timestamp` >= @start AND `timestamp` < @end"
        )
        snapshot = ScalarQueryParameter("snapshot", "TIMESTAMP", part.snapshot)
        config = QueryJobConfig(query_parameters=[*bounds(part.start, part.end), snapshot])
        with self.translated():
            (row,) = self.client.query(sql, job_config=config, retry=self.retry).result(retry=self.retry)
        return int(row["found"])

    @cached_property
    def types(self) -> dict[str, str]:
        """BigQuery's type of every column, ``ARRAY`` for what repeats."""
        return {field.name: _type_of(field) for field in self._described().schema}

    def schema(self) -> pa.Schema:
        """Columns with the Arrow types in which they are streamed."""
        return pa.schema([(name, arrow_type(kind)) for name, kind in self.types.items()])

    def _described(self) -> Table:
        with self.translated():
            return self.client.get_table(self.name, retry=self.retry)

    def _checked(self) -> None:
        table = self._described()
        if table.table_type not in {"TABLE", None}:
            message = (
                f"{self.uri}: is a {table.table_type}, which has no snapshots; point the logs at the table behind it"
            )
            raise SourceUnreadable(message)
        if self.types.get("timestamp") != "TIMESTAMP":
            message = f"{self.uri}: has no column timestamp of type TIMESTAMP, which says to which hour a row belongs"
            raise SourceUnreadable(message)

    # --- the service ---

    @cached_property
    def _given(self) -> Connection:
        return connection(self._connection_id) if self._connection_id else Connection("")

    @property
    def billed_to(self) -> str:
        """Project that runs the jobs: the Connection's, else the table's own."""
        return str(self._given.extra.get("project") or self.project)

    @cached_property
    def retry(self) -> Any:
        """What Google's client tries again, for as long as the Connection's ``retry_seconds`` says."""
        from google.cloud.bigquery import DEFAULT_RETRY

        return DEFAULT_RETRY.with_timeout(float(self._given.extra.get("retry_seconds", RETRY_SECONDS)))

    @cached_property
    def client(self) -> Client:
        """Jobs and tables, over REST."""
        from google.cloud import bigquery

        endpoint = self._given.extra.get("api_endpoint")
        options = {"api_endpoint": endpoint} if endpoint else None
        with self.translated():
            return bigquery.Client(self.billed_to, credentials=_credentials(self._given), client_options=options)

    @cached_property
    def reader(self) -> BigQueryReadClient:
        """Rows as Arrow, over gRPC; ``grpc_endpoint`` is an emulator's, without encryption."""
        from google.cloud.bigquery_storage_v1 import BigQueryReadClient

        endpoint = self._given.extra.get("grpc_endpoint")
        with self.translated():
            if not endpoint:
                return BigQueryReadClient(credentials=_credentials(self._given))  # type: ignore[no-untyped-call] # Google types it half
            import grpc  # type: ignore[import-untyped] # it ships none
            from google.cloud.bigquery_storage_v1.services.big_query_read.transports import BigQueryReadGrpcTransport

            # a message may hold 16 MB of rows
            channel = grpc.insecure_channel(endpoint, [("grpc.max_receive_message_length", -1)])
            return BigQueryReadClient(transport=BigQueryReadGrpcTransport(channel=channel))  # type: ignore[no-untyped-call] # Google types it half

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Turn the vendor's errors into ours; what is worth trying again has been, and is `SourceBusy`."""
        from google.api_core import exceptions as api
        from google.auth import exceptions as auth

        try:
            yield
        except api.NotFound as error:
            message = f"{self.uri}: not found: {_first_line(error)}"
            raise SourceMissing(message) from error
        except auth.DefaultCredentialsError as error:
            message = f"{self.uri}: no credentials: name a Connection with a key, or log in: {_first_line(error)}"
            raise UsageError(message) from error
        except (api.ServerError, api.TooManyRequests, api.RetryError, auth.TransportError, ConnectionError) as error:
            message = f"{self.uri}: no answer: {_first_line(error)}"
            raise SourceBusy(message) from error
        except api.Forbidden as error:
            if {entry.get("reason") for entry in error.errors or ()} & _LIMITED:
                message = f"{self.uri}: a quota is used up: {_first_line(error)}"
                raise SourceBusy(message) from error
            message = f"{self.uri}: forbidden: {_first_line(error)} (reading needs {_NEEDED})"
            raise SourceUnreadable(message) from error
        except (api.GoogleAPICallError, auth.GoogleAuthError) as error:
            message = f"{self.uri}: refused: {_first_line(error)}"
            raise SourceUnreadable(message) from error


def bounds(start: datetime, end: datetime) -> list[Any]:
    """The window as query parameters."""
    from google.cloud.bigquery import ScalarQueryParameter

    return [ScalarQueryParameter("start", "TIMESTAMP", start), ScalarQueryParameter("end", "TIMESTAMP", end)]


def as_slice(item: LogObject) -> TableSlice:
    """What a manifest of this source holds."""
    if not isinstance(item, TableSlice):
        message = f"{item.name}: is no part of a BigQuery table"
        raise UsageError(message)
    return item


def read_session(table: BigQueryTable, item: TableSlice, columns: Sequence[str]) -> ReadSession:
    """What is asked of the Storage Read API: columns, rows of the window, snapshot."""
    from google.cloud.bigquery_storage_v1.types import DataFormat, ReadSession

    start, end = (
        f"TIMESTAMP '{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}+00:00'" for moment in (item.start, item.end)
    )
    return ReadSession(
        table=f"projects/{table.project}/datasets/{table.dataset}/tables/{table.table}",
        data_format=DataFormat.ARROW,
        table_modifiers=ReadSession.TableModifiers(snapshot_time=item.snapshot),
        read_options=ReadSession.TableReadOptions(
            selected_fields=list(columns), row_restriction=f"timestamp >= {start} AND timestamp < {end}"
        ),
    )


def arrow_type(kind: str) -> pa.DataType:
    """Arrow type of a BigQuery column as it is streamed.

    Examples
    --------
    >>> arrow_type("FLOAT64"), arrow_type("JSON"), arrow_type("ARRAY")
    (DataType(double), DataType(string), ListType(list<item: null>))
    """
    return pa.list_(pa.null()) if kind in {"ARRAY", "STRUCT", "RANGE"} else _ARROW.get(kind, pa.string())


def _type_of(field: SchemaField) -> str:
    return "ARRAY" if field.mode == "REPEATED" else _MODERN.get(field.field_type, field.field_type)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _credentials(given: Connection) -> Any:
    """Of a service account's key, anonymous for an emulator, or None for those of the environment."""
    from google.auth.credentials import AnonymousCredentials
    from google.oauth2.service_account import Credentials

    if given.extra.get("is_anonymous"):
        return AnonymousCredentials()  # type: ignore[no-untyped-call] # Google types it half
    try:
        if given.extra.get("key_path"):
            return Credentials.from_service_account_file(given.extra["key_path"], scopes=_SCOPES)  # type: ignore[no-untyped-call] # Google types it half
        key = given.extra.get("keyfile_dict")
        if key:
            content = json.loads(key) if isinstance(key, str) else key
            return Credentials.from_service_account_info(content, scopes=_SCOPES)  # type: ignore[no-untyped-call] # Google types it half
    except (OSError, ValueError) as error:
        # what was given is a secret: it is not repeated
        message = f"connection {given.id!r}: holds no readable key of a service account: {type(error).__name__}"
        raise UsageError(message) from error
    return None
