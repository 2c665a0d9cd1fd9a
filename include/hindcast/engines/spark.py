"""Spark: the local engine in every executor, each on a piece of the window; the driver holds profiles and a sample.

1. The driver cuts the manifest into units: many small objects, one object, or some row groups of a large one.
2. Each task reads a unit as the local engine reads a window, and deals its row facts to buckets by the id's hash.
3. Each bucket is written to its own file of the sidecar, and its duplicate ids are counted there. What was found beside
   the rows (profile, sample, counts) is added up in √n groups on the way, and these in the driver.
4. Labels are dealt to the same buckets later, and each bucket is judged by itself.
"""

from __future__ import annotations

import math
import pickle
import shutil
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Final, TypeVar

from hindcast.connections import connection
from hindcast.engines import spark_repeats
from hindcast.engines import spark_tasks as tasks
from hindcast.engines.local import LocalEngine
from hindcast.engines.spark_session import failures, session, settings
from hindcast.engines.spark_tasks import SENT, Found, Job, Join, Settled, Unit
from hindcast.errors import SourceUnreadable, UsageError
from hindcast.profile.facts import sidecar_files
from hindcast.unfinished import remove, unfinished

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    import pyarrow as pa
    from pyspark.sql import DataFrame, SparkSession

    from hindcast.config import ModelFile
    from hindcast.connections import Connection
    from hindcast.engines.base import Plan, Scan
    from hindcast.sources.base import LogObject, Source

P = TypeVar("P")

_MEGABYTE: Final = 1 << 20
_MOST_BITS: Final = 12
# A task is worth starting for so much of a full unit, and opening an object costs as much as reading so much of it.
_SMALLEST_UNIT, _OPENING = 1 / 16, 1 / 512


@dataclass(frozen=True)
class SparkEngine:
    """Reads windows on a Spark cluster.

    Parameters
    ----------
    connection : Connection
        Master, conf and packages; see `hindcast.engines.spark_session.settings`.
    unit_bytes, bucket_bytes : int
        Bytes of log objects that a task reads at most, and whose row facts make a bucket.
    """

    connection: Connection
    unit_bytes: int = 128 * _MEGABYTE
    bucket_bytes: int = 128 * _MEGABYTE

    @classmethod
    def of(cls, model: ModelFile) -> SparkEngine:
        """The engine that the model file names.

        Raises
        ------
        UsageError
            The Connection does not exist.
        """
        return cls(connection(model.spark.connection if model.spark else "spark_default"))

    def scan(self, plan: Plan) -> Scan:
        """Read the rows once.

        Raises
        ------
        UsageError
            pyspark or Java is missing, or the executors write where this process cannot read.
        SourceBusy
            The cluster does not answer, or gave up.
        """
        faults: dict[str, str] = {}
        while True:
            objects = tuple(item for item in plan.manifest.objects if item.name not in faults)
            kept = replace(plan, manifest=replace(plan.manifest, objects=objects))
            try:
                found, broken = self._scan(kept) if objects else (LocalEngine().scan(kept), {})
            except spark_repeats.Unreadable as unreadable:
                faults |= unreadable.faults
                continue
            faults |= found.faults
            if not broken:
                order = [item.name for item in plan.manifest.objects if item.name in faults]
                return replace(found, faults={name: faults[name] for name in order})
            # An object that several tasks read and one of them could not: what the others counted is in already.
            faults |= broken

    def _scan(self, plan: Plan) -> tuple[Scan, dict[str, str]]:
        """What was found; and, instead, the objects to leave out."""
        spark = session(settings(self.connection))
        units = cut(plan, self.unit_bytes, spark.sparkContext.defaultParallelism)
        bits = min(_MOST_BITS, ((plan.manifest.bytes - 1) // self.bucket_bytes).bit_length())
        folder = unfinished(plan.sidecar)
        job = Job(plan, units, bits, folder)
        folder.mkdir(parents=True)
        try:
            with failures(f"{plan.source.uri} {plan.start:%Y-%m-%dT%H}"):
                marks, dropped = spark_repeats.find(spark, job) if plan.drop_duplicates else ({}, 0)
                job = replace(job, marks=marks)
                found, settled = _run(spark, job)
            broken = {
                unit.objects[0].name: found.scan.faults[unit.objects[0].name]
                for unit in units
                if unit.groups is not None and unit.objects[0].name in found.scan.faults
            }
            if plan.drop_duplicates:  # an object whose rows were looked at, and then could not be read
                broken |= found.scan.faults
            if not broken:
                _publish(job, settled)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        duplicates = dropped + sum(one.duplicates for one in settled.values())
        return replace(found.scan, duplicates=duplicates, dropped=dropped), broken

    def evaluate(
        self,
        sidecar: Path,
        labels: Source,
        objects: Sequence[LogObject],
        read: Callable[[Source, LogObject], pa.Table],
        judge: Callable[[pa.Table, pa.Table | None], P],
    ) -> P:
        """Join labels to the row facts that `scan` left, bucket by bucket where they lie.

        Parameters
        ----------
        sidecar : Path
            A folder that this engine wrote.
        labels : Source
        objects : sequence of LogObject
            The files of labels, of which there may be none.
        read : callable
            Gives one file as a table with a text column ``prediction_id``.
        judge : callable
            Makes a part of the row facts of some ids and all labels that these have, or None. Parts add up with ``+``,
            in any order. Both functions are pickled.

        Returns
        -------
        The sum of the parts.

        Raises
        ------
        UsageError
            The sidecar is none of this engine's.
        SourceUnreadable, SourceBusy
            A file of labels cannot be read; the cluster gave up.
        """
        files = {int(path.name[7:12]): path for path in sidecar_files(sidecar) if path.name.startswith("bucket-")}
        if not files:
            message = f"{sidecar}: was not written by engine spark, so its labels are joined in this process"
            raise UsageError(message)
        buckets = int(next(iter(files.values())).stem.rpartition("-")[2])
        join = Join(labels, tuple(objects), read, judge, files, buckets.bit_length() - 1)
        spark = session(settings(self.connection))
        with failures(f"labels of {sidecar.stem}"):
            found = (
                spark.range(0, max(1, len(objects)), 1, max(1, len(objects)))
                .mapInArrow(lambda numbers: tasks.deal_labels(join, numbers), SENT)
                .repartition(len(files), "bucket")
                .groupBy("bucket")
                .applyInArrow(lambda sent: tasks.judge_bucket(join, sent), SENT)
                .repartition(math.isqrt(len(files)))
                .mapInArrow(lambda parts: tasks.add_parts(parts), SENT)  # noqa: PLW0108 - see `_run`
                .collect()
            )
        total: P = reduce(add, (pickle.loads(row.payload) for row in found))  # noqa: S301 - from our own task
        return total


def cut(plan: Plan, unit_bytes: int, parallelism: int) -> tuple[Unit, ...]:
    """Cut the objects of a window into what one task reads each, in their order.

    Parameters
    ----------
    plan : Plan
    unit_bytes : int
        At most so many bytes, as far as row groups allow; less where that leaves cores without work.
    parallelism : int
        Cores of the cluster.
    """
    most = min(unit_bytes, max(plan.manifest.bytes / (2 * parallelism), unit_bytes * _SMALLEST_UNIT))
    units: list[Unit] = []
    pending: list[LogObject] = []
    size = 0.0
    for item in plan.manifest.objects:
        cost = item.size + unit_bytes * _OPENING
        if pending and size + cost > most:
            units.append(Unit(tuple(pending)))
            pending, size = [], 0.0
        if item.size > 2 * most:
            units += [Unit((item,), groups) for groups in _ranges(plan, item, most)]
        else:
            pending.append(item)
            size += cost
    return (*units, Unit(tuple(pending))) if pending else tuple(units)


def _ranges(plan: Plan, item: LogObject, most: float) -> Iterator[range | None]:
    """Row groups of a large object, a unit's worth at a time; None for one that cannot be cut."""
    try:
        file = plan.source.open(item)
    except SourceUnreadable:
        yield None  # its task says why
        return
    with file:
        groups = file.num_row_groups
    pieces = min(groups, int(-(-item.size // most)))
    if pieces < 2:
        yield None
        return
    for piece in range(pieces):
        yield range(piece * groups // pieces, (piece + 1) * groups // pieces)


def _run(spark: SparkSession, job: Job) -> tuple[Found, dict[int, Settled]]:
    """Read, deal, settle: one job.

    The functions are lambdas since Spark looks for types of its own liking in the annotations of others.
    """
    n = len(job.units)
    rows = (
        spark.range(0, n, 1, n)
        .mapInArrow(lambda numbers: tasks.scan_units(job, numbers), SENT)
        .repartition(min(n, 2**job.bits) + tasks.group_of(0, n) - tasks.group_of(n - 1, n) + 1, "bucket")
        .groupBy("bucket")
        .applyInArrow(lambda sent: tasks.settle(job, sent), SENT)
        .collect()
    )
    rows.sort(key=lambda row: -int(row.bucket))
    settled = {row.bucket: pickle.loads(row.payload) for row in rows if row.bucket >= 0}  # noqa: S301 - from our own task
    found = reduce(add, (Found.from_bytes(row.payload, job.plan) for row in rows if row.bucket < 0))
    if any(one.schema != found.schema for one in settled.values()):
        _conform(spark, job, found.schema, [n for n, one in settled.items() if one.schema != found.schema])
    return found, settled


def _conform(spark: SparkSession, job: Job, schema: pa.Schema, buckets: Sequence[int]) -> None:
    """Give every file of the sidecar the same columns, each of one type."""
    numbers: DataFrame = spark.createDataFrame([(bucket,) for bucket in buckets], "bucket long")
    numbers.repartition(len(buckets), "bucket").mapInArrow(
        lambda batches: tasks.conform(job, schema, batches), SENT
    ).collect()


def _publish(job: Job, settled: dict[int, Settled]) -> None:
    """Put the folder in the place of the sidecar, once every file of it can be seen from here."""
    unseen = [bucket for bucket in settled if not (job.folder / tasks.file_name(bucket, job.bits)).exists()]
    path = job.plan.sidecar
    if unseen:
        message = (
            f"{path.parent}: {len(unseen)} of {len(settled)} files that the executors wrote there are not seen "
            "from here; the folder of the results store must be a file system that all share"
        )
        raise UsageError(message)
    _clear(path)
    if settled:
        job.folder.rename(path)


def _clear(sidecar: Path) -> None:
    """Remove a file, or a folder: under another name first, so that nobody reads half of it."""
    if not sidecar.exists():
        return
    gone = unfinished(sidecar)
    sidecar.rename(gone)
    remove(gone)
