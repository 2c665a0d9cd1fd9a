"""Rows of a table that stand twice: found by SQL, and left out of every query and read of the window.

The rule is that of `hindcast.engines.repeats`: of one id the earliest row stays, and of those of one moment the one
with the smallest hash of its values. The hash is the kernel's, so the few rows that differ at one moment are fetched;
each has a place in the order of its JSON, and where the first does not stay, later queries are told which does.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from hindcast.engines.repeats import content_of
from hindcast.errors import SourceUnreadable, UsageError
from hindcast.profile.columns import Rows, buffer_values
from hindcast.sources.bigquery import PLACE, ROW, rows_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hindcast.sources.bigquery import BigQueryTable, TableSlice

# So many ids are named in a query, which may hold 10 MB.
MOST_NAMED = 50_000
_PLACE = "hindcast_place"


def without_repeats(source: BigQueryTable, item: TableSlice, **config: Any) -> tuple[TableSlice, int]:
    """The slice with one row of each id, and how many it leaves out.

    Parameters
    ----------
    source : BigQueryTable
    item : TableSlice
    config
        Of the queries, see `hindcast.sources.bigquery_service.Service.query`.

    Raises
    ------
    UsageError
        A query would bill too much; or too many ids have rows of one moment with different values.
    SourceMissing, SourceUnreadable, SourceBusy
    """
    kind = source.types.get("prediction_id")
    if kind is None:
        return item, 0
    if kind not in {"STRING", "INT64"}:
        message = f"{source.uri}: prediction_id is {kind}; allowed: STRING, INT64"
        raise SourceUnreadable(message)
    (count,) = _run(source, item, _COUNT, **config)
    repeated = int(count.column(0)[0].as_py())
    if not repeated:
        return item, 0
    moved = _moved(_run(source, item, _TIES, **config))
    if len(moved) > MOST_NAMED:
        message = (
            f"{source.uri}: {len(moved)} ids have rows of one moment with different values, more than the {MOST_NAMED} "
            "that a query can name; say logs.duplicates: count, and look at what writes them"
        )
        raise UsageError(message)
    return replace(item, stays=moved), repeated


_COUNT = "SELECT COUNT(`prediction_id`) - COUNT(DISTINCT `prediction_id`) AS repeated {rows}"
# Rows of the earliest moment of their id, where they are not all the same.
_TIES = f"""SELECT {ROW}.*, {PLACE} AS {_PLACE}
{{rows}} AND `prediction_id` IS NOT NULL
QUALIFY `timestamp` = MIN(`timestamp`) OVER (PARTITION BY `prediction_id`)
AND MIN(TO_JSON_STRING({ROW})) OVER (PARTITION BY `prediction_id`, `timestamp`)
< MAX(TO_JSON_STRING({ROW})) OVER (PARTITION BY `prediction_id`, `timestamp`)"""


def _run(source: BigQueryTable, item: TableSlice, sql: str, **config: Any) -> Iterable[pa.RecordBatch]:
    job = source.query(sql.format(rows=rows_of(source.name, source.times)), source.parameters(item), **config)
    with source.translated():
        yield from job.result(retry=source.retry).to_arrow_iterable(bqstorage_client=source.reader)


def _moved(batches: Iterable[pa.RecordBatch]) -> tuple[tuple[str, int], ...]:
    """Ids of which another row stays than the first, with its place."""
    best: dict[str, tuple[int, int]] = {}
    for batch in batches:
        table = pa.Table.from_batches([batch])
        names = [name for name in table.column_names if name != _PLACE]
        contents = content_of(Rows(table.select(names)), names, np.arange(table.num_rows)).tolist()
        places = buffer_values(batch.column(_PLACE), np.int64).tolist()
        ids = batch.column("prediction_id").cast(pa.string()).to_pylist()
        for id_, candidate in zip(ids, zip(contents, places, strict=True), strict=True):
            best[id_] = min(best.get(id_, candidate), candidate)
    return tuple(sorted((id_, place) for id_, (_, place) in best.items() if place != 1))
