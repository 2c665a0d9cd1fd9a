"""Logs or labels in a BigQuery table: a window is its rows with their time in ``[start, end)``, as of one moment.

That moment is pinned in the manifest, and every query (``FOR SYSTEM_TIME AS OF``) and read session of the window asks
for it, so that rows which arrive meanwhile change nothing.
Source: https://cloud.google.com/bigquery/docs/reference/storage
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from hindcast.errors import SourceUnreadable, UsageError
from hindcast.profile.columns import flat
from hindcast.sources.base import LogObject, Manifest
from hindcast.sources.bigquery_service import Service

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pyarrow.parquet as pq
    from google.cloud.bigquery import SchemaField, Table
    from google.cloud.bigquery_storage_v1.types import ReadSession

_URI = re.compile(
    r"bq://(?P<project>(?:[a-z0-9.-]+:)?[a-z][a-z0-9-]*)\.(?P<dataset>[A-Za-z0-9_]{1,1024})\.(?P<table>[\w-]{1,1024})"
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
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
    """The rows of ``[start, end)`` of a table; the etag is the snapshot, in microseconds since 1970.

    Where `stays` is given, one row of each id is left: the first by `PLACE`, but for the ids named there with another.
    """

    start: datetime
    end: datetime
    stays: tuple[tuple[str, int], ...] | None = field(default=None, compare=False, kw_only=True)

    @property
    def snapshot(self) -> datetime:
        """Moment as of which the rows are read."""
        return _EPOCH + timedelta(microseconds=int(self.etag))


class BigQueryTable(Service):
    """Source for ``bq://project.dataset.table``.

    Parameters
    ----------
    uri : str
    connection_id : str, optional
        Airflow Connection; without one, the credentials of the environment.
    times : str
        Column of moments by which a row belongs to a window: ``timestamp`` of logs, ``label_timestamp`` of labels.
    max_gb : float, optional
        No query may bill, and no read session scan, more than so many 10⁹ bytes.

    Raises
    ------
    UsageError
        The URI names no table.

    Examples
    --------
    >>> BigQueryTable("bq://acme-ml.logs.predictions").name
    'acme-ml.logs.predictions'
    """

    def __init__(
        self,
        uri: str,
        connection_id: str | None = None,
        *,
        times: str = "timestamp",
        max_gb: float | None = None,
    ) -> None:
        found = _URI.fullmatch(uri)
        if not found:
            message = f"{uri}: names no BigQuery table; allowed: bq://project.dataset.table"
            raise UsageError(message)
        super().__init__(uri, found["project"], connection_id, max_gb=max_gb)
        self.dataset, self.table, self.times = found["dataset"], found["table"], times

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
        self._checked()
        sql = f"SELECT * FROM `{self.name}` WHERE `{self.times}` >= @start AND `{self.times}` < @end"
        # no limit: nobody reads all columns
        job = self.query(sql, bounds(start, end), dry_run=True, use_query_cache=False, maximum_bytes_billed=None)
        # the service's clock, not this machine's: a moment in its future is refused
        micros = (job.created - _EPOCH) // timedelta(microseconds=1)
        size, etag = job.total_bytes_processed, str(micros)
        return Manifest("partitioned", (TableSlice(self.name, size, etag, start, end, arrived=job.created),))

    def open(self, item: LogObject, dictionaries: Sequence[str] = ()) -> pq.ParquetFile:  # noqa: ARG002 - Source's
        """Refuse: a table is no file.

        Raises
        ------
        UsageError
        """
        message = f"{self.uri}: {item.name} is read as rows, not as a Parquet file"
        raise UsageError(message)

    def batches(self, item: LogObject, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Some columns of the slice, streamed as Arrow.

        Raises
        ------
        UsageError
            It is estimated to scan more bytes than allowed.
        SourceMissing, SourceUnreadable, SourceBusy
        """
        part = as_slice(item)
        if part.stays is not None:
            yield from self._chosen(part, columns)
            return
        with self.translated():
            session = self.reader.create_read_session(
                parent=f"projects/{self.billed_to}",
                read_session=read_session(self, part, columns),
                max_stream_count=1,
            )
            self.refuse_above(session.estimated_total_bytes_scanned, "a read session would scan")
            schema = pa.ipc.read_schema(pa.py_buffer(session.arrow_schema.serialized_schema))
            for stream in session.streams:
                # it goes on by itself, from where it was, after an error that is worth trying again
                for part in self.reader.read_rows(stream.name):  # type: ignore[no-untyped-call] # Google types it half
                    content = pa.py_buffer(part.arrow_record_batch.serialized_record_batch)
                    yield from _chosen_of(pa.ipc.read_record_batch(content, schema), columns)

    def count(self, item: LogObject) -> int:
        """Rows of the slice, by a query that reads no column but its time.

        Raises
        ------
        SourceMissing, SourceUnreadable, SourceBusy
        """
        sql = f"SELECT COUNT(*) AS found {rows_of(self.name, self.times)}"
        job = self.query(sql, self.parameters(as_slice(item)))
        with self.translated():
            (row,) = job.result(retry=self.retry)
        return int(row["found"])

    def parameters(self, item: TableSlice) -> list[Any]:
        """Values of the clause that `rows_of` gives for a slice."""
        from google.cloud.bigquery import ArrayQueryParameter, ScalarQueryParameter

        snapshot = ScalarQueryParameter("snapshot", "TIMESTAMP", item.snapshot)
        named = [ArrayQueryParameter(name, "STRING", texts) for name, texts in named_of(item.stays).items()]
        return [*bounds(item.start, item.end), snapshot, *named]

    def _chosen(self, item: TableSlice, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Some columns of the rows that a query chooses; a read session could not."""
        sql = f"SELECT {select_list(columns)} {rows_of(self.name, self.times, item.stays)}"
        job = self.query(sql, self.parameters(item))
        with self.translated():
            for batch in job.result(retry=self.retry).to_arrow_iterable(bqstorage_client=self.reader):
                yield from _chosen_of(batch.rename_columns(list(columns)), columns)

    @cached_property
    def types(self) -> dict[str, str]:
        """BigQuery's type of every column, ``ARRAY`` for what repeats; fields of structs are columns, named ``a.b``."""
        return dict(_leaves(self.described(self.name).schema))

    def schema(self) -> pa.Schema:
        """Columns with the Arrow types in which they are streamed."""
        return pa.schema([(name, arrow_type(kind)) for name, kind in self.types.items()])

    def state(self) -> list[str]:
        """What changes whenever the rows of the table do.

        Raises
        ------
        SourceMissing, SourceUnreadable, SourceBusy
        """
        table = self._table("of which nobody can tell when it changed; name a table")
        return [str(table.modified), str(table.num_rows)]

    def _checked(self) -> None:
        table = self._table("which has no snapshots; name the table behind it")
        self.types = dict(_leaves(table.schema))  # columns may have been added since the last window
        if self.types.get(self.times) != "TIMESTAMP":
            message = f"{self.uri}: has no column {self.times} of type TIMESTAMP, which says whose hour a row is"
            raise SourceUnreadable(message)

    def _table(self, otherwise: str) -> Table:
        """What the service knows of the table; `otherwise`: why a view, or whatever else stands there, will not do."""
        table = self.described(self.name)
        if table.table_type not in {"TABLE", None}:
            message = f"{self.uri}: is a {table.table_type}, {otherwise}"
            raise SourceUnreadable(message)
        return table


# The table in the queries of a window, and the place of a row among those of its id: by its time, then by its JSON.
ROW = "hindcast_row"
PLACE = f"ROW_NUMBER() OVER (PARTITION BY `prediction_id` ORDER BY `timestamp`, TO_JSON_STRING({ROW}))"


def rows_of(table: str, times: str, stays: Sequence[tuple[str, int]] | None = None) -> str:
    """The clause that names the rows of a slice, which further conditions may follow.

    Parameters
    ----------
    table, times : str
        Full name of the table, and its column of moments.
    stays : sequence of (id, place), optional
        As of `TableSlice`.
    """
    here = f"FROM `{table}` AS {ROW} FOR SYSTEM_TIME AS OF @snapshot\nWHERE `{times}` >= @start AND `{times}` < @end"
    if stays is None:
        return here
    id_ = "CAST(`prediction_id` AS STRING)"
    first = f"{PLACE} = 1"
    if stays:
        first = f"IF({id_} IN UNNEST(@moved), CONCAT(CAST({PLACE} AS STRING), ':', {id_}) IN UNNEST(@stays), {first})"
    return f"FROM (SELECT {ROW}.* {here}\nQUALIFY `prediction_id` IS NULL OR {first})\nWHERE TRUE"


def named_of(stays: Sequence[tuple[str, int]] | None) -> dict[str, list[str]]:
    """Parameters of `rows_of` beside the window."""
    if not stays:
        return {}
    return {"moved": [id_ for id_, _ in stays], "stays": [f"{place}:{id_}" for id_, place in stays]}


def bounds(start: datetime, end: datetime) -> list[Any]:
    """The window as query parameters."""
    from google.cloud.bigquery import ScalarQueryParameter

    return [ScalarQueryParameter("start", "TIMESTAMP", start), ScalarQueryParameter("end", "TIMESTAMP", end)]


def quoted(name: str) -> str:
    r"""Quote a column's name, or the path of a field: no name of BigQuery holds a dot.

    Examples
    --------
    >>> quoted("feature_a"), quoted("feature_a.b"), quoted("a`b")
    ('`feature_a`', '`feature_a`.`b`', '`a\\`b`')
    """
    escaped = name.replace("\\", "\\\\").replace("`", "\\`")
    return ".".join(f"`{part}`" for part in escaped.split("."))


def select_list(columns: Sequence[str]) -> str:
    """Columns of a query's result, in this order; fields have names that no other column has.

    Examples
    --------
    >>> select_list(["feature_a", "feature_a.b"])
    '`feature_a`, `feature_a`.`b` AS `hindcast_1`'
    """
    names = (f"{quoted(name)} AS `hindcast_{k}`" if "." in name else quoted(name) for k, name in enumerate(columns))
    return ", ".join(names)


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
    whole = dict.fromkeys(name.partition(".")[0] for name in columns)  # of a struct all fields: the caller picks
    return ReadSession(
        table=f"projects/{table.project}/datasets/{table.dataset}/tables/{table.table}",
        data_format=DataFormat.ARROW,
        table_modifiers=ReadSession.TableModifiers(snapshot_time=item.snapshot),
        read_options=ReadSession.TableReadOptions(
            selected_fields=list(whole), row_restriction=f"{table.times} >= {start} AND {table.times} < {end}"
        ),
    )


def _chosen_of(batch: pa.RecordBatch, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Columns as `BigQueryTable.schema` says; a range, which comes as a struct of its two ends, holds no value."""
    found = flat(pa.Table.from_batches([batch]))
    for name in set(columns).difference(found.column_names):
        found = found.append_column(name, pa.repeat(pa.scalar([], arrow_type("RANGE")), batch.num_rows))
    yield from found.select(list(columns)).to_batches()


def arrow_type(kind: str) -> pa.DataType:
    """Arrow type of a BigQuery column as it is streamed.

    Examples
    --------
    >>> arrow_type("FLOAT64"), arrow_type("JSON"), arrow_type("ARRAY")
    (DataType(double), DataType(string), ListType(list<item: null>))
    """
    return pa.list_(pa.null()) if kind in {"ARRAY", "STRUCT", "RANGE"} else _ARROW.get(kind, pa.string())


def _leaves(fields: Sequence[SchemaField], before: str = "") -> Iterator[tuple[str, str]]:
    for each in fields:
        if each.fields and each.mode != "REPEATED":
            yield from _leaves(each.fields, f"{before}{each.name}.")
        else:
            yield before + each.name, _type_of(each)


def _type_of(field: SchemaField) -> str:
    return "ARRAY" if field.mode == "REPEATED" else _MODERN.get(field.field_type, field.field_type)
