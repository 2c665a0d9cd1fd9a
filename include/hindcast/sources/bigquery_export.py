"""Rows of a table as a Parquet file of this machine: for references, which are read several times, in one order.

Rows of a table have no order, and pieces of a reference stand for hours: they are put in order of their time, if they
have one, and then of a hash of their content, so that the same rows make the same file.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from hindcast.errors import SourceMissing
from hindcast.sources.bigquery import bounds, quoted, select_list
from hindcast.unfinished import unfinished

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import datetime
    from pathlib import Path

    from hindcast.sources.bigquery import BigQueryTable

ROW_GROUP = 100_000


def exported(
    table: BigQueryTable, columns: Sequence[str], folder: Path, between: tuple[datetime, datetime] | None = None
) -> Path:
    """File of some columns of a table, or of its rows of ``[start, end)``, kept in a folder that is its own.

    A table is exported again when it was changed since; a range of it is taken once, for good, since the table of the
    logs changes all the time. Other files of exports are removed.

    Raises
    ------
    UsageError
        The query would bill more than allowed.
    SourceMissing
        There are no rows, or no table.
    SourceUnreadable, SourceBusy
    """
    state = [str(moment) for moment in between] if between else table.state()
    content = json.dumps([table.name, list(columns), state])
    path = folder / f"table-{hashlib.sha256(content.encode()).hexdigest()[:16]}.parquet"
    if not path.exists():
        _export(table, columns, path, between)
        for other in folder.glob("table-*.parquet"):
            if other != path:
                other.unlink(missing_ok=True)
    return path


def _export(
    table: BigQueryTable, columns: Sequence[str], path: Path, between: tuple[datetime, datetime] | None
) -> None:
    sql = statement(table, columns, ranged=between is not None)
    job = table.query(sql, bounds(*between) if between else [])
    with table.translated():
        found = job.result(retry=table.retry)
        if not found.total_rows:
            message = f"{table.uri}: has no rows" + (f" from {between[0]} to {between[1]}" if between else "")
            raise SourceMissing(message)
        batches = found.to_arrow_iterable(bqstorage_client=table.reader)
        _write((batch.rename_columns(list(columns)) for batch in batches), path)


def statement(table: BigQueryTable, columns: Sequence[str], *, ranged: bool) -> str:
    """The query, with the parameters ``start`` and ``end`` if it is for a range.

    Examples
    --------
    >>> from hindcast.sources.bigquery import BigQueryTable
    >>> table = BigQueryTable("bq://acme.train.rows")
    >>> table.types = {"timestamp": "TIMESTAMP", "feature_a": "FLOAT64"}
    >>> print(statement(table, ["timestamp", "feature_a"], ranged=True))
    SELECT `timestamp`, `feature_a`
    FROM `acme.train.rows` AS line
    WHERE `timestamp` >= @start AND `timestamp` < @end
    ORDER BY `timestamp`, MD5(TO_JSON_STRING(STRUCT(`timestamp`, `feature_a`)))
    """
    names = select_list(columns)
    order = f"MD5(TO_JSON_STRING(STRUCT({names})))"
    if table.types.get(table.times) == "TIMESTAMP":
        order = f"{quoted(table.times)}, {order}"
    where = f"\nWHERE {quoted(table.times)} >= @start AND {quoted(table.times)} < @end" if ranged else ""
    return f"SELECT {names}\nFROM `{table.name}` AS line{where}\nORDER BY {order}"


def _write(batches: Iterable[pa.RecordBatch], path: Path) -> None:
    temporary = unfinished(path)
    temporary.parent.mkdir(parents=True, exist_ok=True)
    writer: pq.ParquetWriter | None = None
    try:
        for rows in _groups(batches):
            writer = writer or pq.ParquetWriter(temporary, rows.schema, compression="zstd")
            writer.write_table(rows, row_group_size=ROW_GROUP)
    finally:
        if writer:
            writer.close()
    temporary.replace(path)


def _groups(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Rows by `ROW_GROUP`, however they came."""
    held: list[pa.Table] = []
    for batch in batches:
        held.append(pa.Table.from_batches([batch]))
        if sum(part.num_rows for part in held) >= ROW_GROUP:
            whole = pa.concat_tables(held)
            for start in range(0, whole.num_rows - ROW_GROUP + 1, ROW_GROUP):
                yield whole.slice(start, ROW_GROUP)
            held = [whole.slice(whole.num_rows // ROW_GROUP * ROW_GROUP)]
    rest = pa.concat_tables(held)
    if rest.num_rows:
        yield rest
