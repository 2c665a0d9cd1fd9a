"""Rows of a flat file that no hour reads: flushed too long after their own hour, or before it began.

An hour reads the files that are named by a moment from its start to its end plus the settle time, and of these its own
rows. So of each file the rows of some hours are wanted; the others are lost, and are counted, once: by the hour in
which the file was flushed.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from hindcast.profile.columns import row_groups
from hindcast.profile.facts import as_moments, within
from hindcast.sources.folder import flush_time
from hindcast.window import floor_hour

if TYPE_CHECKING:
    import pyarrow.parquet as pq

    from hindcast.engines.base import Plan
    from hindcast.sources.base import LogObject

_TIME = "timestamp"


def strayed(plan: Plan, item: LogObject, file: pq.ParquetFile) -> int:
    """How many rows of a file no hour reads; 0 unless the window is the one in which it was flushed.

    Raises
    ------
    pyarrow.ArrowException, OSError
        The file is damaged.
    """
    flushed = flush_time(PurePath(item.name).stem) if plan.manifest.layout == "flat" else None
    if flushed is None or not plan.start <= flushed < plan.end or _TIME not in file.schema_arrow.names:
        return 0
    first = wanted_from(flushed, plan.settle)
    if _surely_inside(file, first, plan.end):
        return 0
    lost = 0
    for block in row_groups(file, [_TIME]):
        values = block.column(_TIME)
        moments = as_moments(values.dictionary_decode() if pa.types.is_dictionary(values.type) else values)
        lost += block.rows - moments.null_count - int(within(moments, first, plan.end).sum())
    return lost


def wanted_from(flushed: datetime, settle: timedelta) -> datetime:
    """Start of the first hour that reads a file.

    Examples
    --------
    >>> [f"{wanted_from(datetime(2026, 3, 2, 15, minute), timedelta(minutes=10)):%H:%M}" for minute in (10, 11)]
    ['14:00', '15:00']
    """
    return floor_hour(flushed - settle - timedelta(microseconds=1))


def _surely_inside(file: pq.ParquetFile, first: datetime, last: datetime) -> bool:
    """Whether the file says so itself, of each of its row groups."""
    paths = [file.schema.column(k).path for k in range(len(file.schema))]
    if paths.count(_TIME) != 1:
        return False
    groups = (file.metadata.row_group(number) for number in range(file.num_row_groups))
    return all(_says(group.column(paths.index(_TIME)).statistics, first, last) for group in groups)


def _says(statistics: Any, first: datetime, last: datetime) -> bool:
    if statistics is None or not statistics.has_min_max:
        return False
    return all(
        isinstance(moment, datetime) and moment.tzinfo is not None and first <= moment < last
        for moment in (statistics.min, statistics.max)
    )
