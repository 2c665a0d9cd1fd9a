"""Rows that stand twice, found by Spark's executors: the rule is that of `hindcast.engines.repeats`, and its code.

1. Each task sends the fingerprints of the ids of a unit to their buckets, where those that stand twice are found.
2. If there are any, each task reads its unit again and sends what decides about the rows that have one of them.
3. The driver says which row of each id stays, and gives the scan a bit per row of the objects that lose some.

The driver holds 8 bytes for each repeated id, and 40 for each row that has one.
"""

from __future__ import annotations

import math
import pickle
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from hindcast.engines.local import why
from hindcast.engines.repeats import blocks, copies, first_of_each, keys_of
from hindcast.engines.row_groups import Groups, first_row
from hindcast.engines.spark_tasks import SENT, sent_row
from hindcast.errors import SourceUnreadable
from hindcast.profile.columns import flat_schema
from hindcast.sources.base import Announced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from pyspark.sql import Row, SparkSession

    from hindcast.engines.repeats import Bytes, Integers
    from hindcast.engines.spark_tasks import Job, Unit
    from hindcast.sources.base import LogObject, Source

    Batches = Iterator[pa.RecordBatch]

_FAULTS, _ROWS = -1, -2


class Unreadable(Exception):
    """Objects whose ids cannot be read, with why: the window is looked at without them."""

    def __init__(self, faults: Mapping[str, str]) -> None:
        self.faults = dict(faults)


def find(spark: SparkSession, job: Job) -> tuple[dict[str, Bytes], int]:
    """Which rows to leave out of each object, as bits, and how many in all.

    Raises
    ------
    Unreadable
    """
    # lambdas, since Spark looks for types of its own liking in the annotations of others
    n = len(job.units)
    found = (
        spark.range(0, n, 1, n)
        .mapInArrow(lambda numbers: send_ids(job, numbers), SENT)
        .repartition(min(n, 2**job.bits) + 1, "bucket")
        .groupBy("bucket")
        .applyInArrow(lambda sent: repeated_ids(sent), SENT)  # noqa: PLW0108
        .collect()
    )
    _refuse_faults(found)
    repeated = np.sort(np.concatenate([_integers(row.payload) for row in found] or [np.empty(0, np.int64)]))
    if not repeated.size:
        return {}, 0
    rows = (
        spark.range(0, n, 1, n)
        .mapInArrow(lambda numbers: send_copies(job, repeated, numbers), SENT)
        .repartition(math.isqrt(n))
        .collect()
    )
    _refuse_faults(rows)
    return _marks(job, np.hstack([_integers(row.payload).reshape(5, -1) for row in rows]))


def _refuse_faults(sent: Iterable[Row]) -> None:
    faults = _merged(row.payload for row in sent if row.bucket == _FAULTS)
    if faults:
        raise Unreadable(faults)


def _merged(payloads: Iterable[bytes]) -> dict[str, str]:
    """Name of an object -> why it cannot be read."""
    faults: dict[str, str] = {}
    for payload in payloads:
        faults |= pickle.loads(payload)  # noqa: S301 - from our own task
    return faults


def _marks(job: Job, rows: Integers) -> tuple[dict[str, Bytes], int]:
    """Bits of the rows that do not stay, from what decides about all rows with repeated ids, (5, n)."""
    names = [item.name for item in job.plan.manifest.objects]
    stays = {(item, row) for _, _, _, item, row in first_of_each(rows).T.tolist()}
    leaves: dict[int, list[int]] = {}
    for item, row in rows[3:].T.tolist():
        if (item, row) not in stays:
            leaves.setdefault(item, []).append(row)
    marks: dict[str, Bytes] = {}
    for item, left_out in leaves.items():
        flags = np.zeros(max(left_out) + 1, np.bool_)
        flags[left_out] = True
        marks[names[item]] = np.packbits(flags)
    return marks, sum(map(len, leaves.values()))


def send_ids(job: Job, batches: Batches) -> Batches:
    """Fingerprints of the ids of the units whose numbers Spark gives, by bucket; and why an object has none."""

    def read(source: Source, item: LogObject, number: int) -> Batches:
        for block, _ in blocks(source.open(item), whole=False):
            keys, judged, _ = keys_of(job.plan, block)
            yield from _dealt(keys[judged], job.bits, number)

    return _of_objects(job, batches, read)


def _of_objects(job: Job, batches: Batches, read: Callable[[Source, LogObject, int], Batches]) -> Batches:
    """What is read of every object of the units whose numbers Spark gives; of one that breaks, why it does."""
    for batch in batches:
        for number in batch.column(0).to_pylist():
            unit = job.units[number]
            source = _source(job, unit)
            for item in unit.objects:
                try:
                    yield from read(source, item, number)
                except (OSError, pa.ArrowException, SourceUnreadable) as error:
                    yield _fault(item, number, error)


def _fault(item: LogObject, origin: int, error: Exception) -> pa.RecordBatch:
    return sent_row(_FAULTS, origin, pickle.dumps({item.name: why(item.name, error)}))


def _dealt(keys: Integers, bits: int, origin: int) -> Batches:
    at = (keys.view(np.uint64) >> np.uint64(64 - bits)).astype(np.int64) if bits else np.zeros(keys.size, np.int64)
    for bucket in np.unique(at).tolist():
        yield sent_row(bucket, origin, keys[at == bucket].tobytes())


def repeated_ids(sent: pa.Table) -> pa.Table:
    """Those of a bucket that stand twice; or all faults, as one `SENT` row."""
    bucket, payloads = sent.column("bucket")[0].as_py(), sent.column("payload").to_pylist()
    if bucket == _FAULTS:
        return pa.Table.from_batches([sent_row(bucket, 0, pickle.dumps(_merged(payloads)))])
    keys = np.sort(np.concatenate([_integers(payload) for payload in payloads]))
    repeated = np.unique(keys[1:][keys[1:] == keys[:-1]])
    return pa.Table.from_batches([sent_row(bucket, 0, repeated.tobytes())])


def send_copies(job: Job, repeated: Integers, batches: Batches) -> Batches:
    """What decides about the rows with one of some ids, ascending, of the units whose numbers Spark gives."""
    numbers = {item.name: k for k, item in enumerate(job.plan.manifest.objects)}

    def read(source: Source, item: LogObject, number: int) -> Batches:
        file, first = source.open(item), first_row(job.plan.source, item, job.units[number].groups)
        names = flat_schema(file.schema_arrow).names
        for block, at in blocks(file, whole=True):
            rows = copies(job.plan, block, names, repeated, numbers[item.name], first + at)
            if rows.size:
                yield sent_row(_ROWS, number, rows.tobytes())

    return _of_objects(job, batches, read)


def _source(job: Job, unit: Unit) -> Source:
    source = job.plan.source
    if isinstance(source, Announced):
        source.announce(unit.objects)
    return source if unit.groups is None else Groups(source, unit.groups)


def _integers(payload: bytes) -> Integers:
    return np.frombuffer(payload, np.int64)
