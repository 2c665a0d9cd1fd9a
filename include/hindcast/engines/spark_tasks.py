"""What runs in Spark's executors: the local engine on a piece of a window, and what becomes of each bucket of its rows.

Tasks hand on rows of `SENT`: the facts of some rows, as Arrow bytes, under their bucket (the top bits of the id's
fingerprint, so that all rows of one id meet), and what was found beside them, pickled, under a negative number.
"""

from __future__ import annotations

import functools
import math
import operator
import pickle
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hindcast.engines.base import Scan
from hindcast.engines.local import LocalEngine
from hindcast.engines.row_groups import Groups, first_row
from hindcast.performance.parts import fingerprints, label_table, label_tables
from hindcast.profile.columns import conformed, positions
from hindcast.profile.facts import Sidecar, united
from hindcast.profile.profile import Profile
from hindcast.profile.sampling import DuplicateCounter
from hindcast.profile.slices import Slices

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from hindcast.engines.base import Plan
    from hindcast.engines.repeats import Bytes
    from hindcast.sources.base import LogObject, Source

    Integers = np.ndarray[tuple[int, ...], np.dtype[np.int64]]
    Batches = Iterator[pa.RecordBatch]

SENT: Final = "bucket long, origin long, payload binary"
_SENT: Final = pa.schema({"bucket": pa.int64(), "origin": pa.int64(), "payload": pa.binary()})
# Facts are dealt to the buckets in blocks of so many rows; each leaves one piece per bucket.
_BLOCK_ROWS: Final = 500_000
_PIECE_ROWS: Final = 65_536  # some 4 MB
_PIECES: Final = 1 << 20  # more than a unit has
_SQUEEZED: Final = pa.ipc.IpcWriteOptions(compression="zstd")


@dataclass(frozen=True)
class Unit:
    """What one task reads: whole objects, or some row groups of one."""

    objects: tuple[LogObject, ...]
    groups: range | None = None


@dataclass(frozen=True)
class Job:
    """One scan, as it is sent to the executors.

    Attributes
    ----------
    plan : Plan
    units : tuple of Unit
        In the order of the manifest.
    bits : int
        There are ``2**bits`` buckets.
    folder : Path
        Where their files go: the same place for every executor and for the driver.
    marks : mapping
        Name of an object -> a bit per row of it, set for those that are left out.
    """

    plan: Plan
    units: tuple[Unit, ...]
    bits: int
    folder: Path
    marks: Mapping[str, Bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """What neighbouring units gave; `schema` is that of their row facts."""

    scan: Scan
    schema: pa.Schema

    def __add__(self, other: Found) -> Found:
        """Add what the units after these gave; the order matters where two rows are alike in all but content."""
        mine, more = self.scan, other.scan
        mine.sample.merge(more.sample)
        scan = Scan(
            mine.profile + more.profile,
            mine.noted + more.noted,
            mine.sample,
            0,  # the same id may be in another unit: buckets count
            mine.unknown | more.unknown,
            {**more.faults, **mine.faults},  # of two pieces of one object, the first tells
            slices=mine.slices + more.slices if mine.slices and more.slices else None,
        )
        return Found(scan, united(self.schema, other.schema))

    def to_bytes(self) -> bytes:
        """Without the bins, which every task has."""
        scan = self.scan
        slices = scan.slices and scan.slices.to_bytes()
        parts = (scan.profile.to_bytes(), scan.noted, scan.sample, scan.unknown, scan.faults, slices, self.schema)
        return pickle.dumps(parts)

    @classmethod
    def from_bytes(cls, content: bytes, plan: Plan) -> Found:
        """Read what `to_bytes` wrote."""
        # from a task of the same job, as all that Spark hands over
        profile, noted, sample, unknown, faults, sliced, schema = pickle.loads(content)  # noqa: S301
        slices = Slices.from_bytes(sliced, plan.slicing) if sliced and plan.slicing else None
        return cls(
            Scan(Profile.from_bytes(profile, plan.bins), noted, sample, 0, unknown, faults, slices=slices), schema
        )


@dataclass(frozen=True)
class Settled:
    """What the row facts of a bucket gave: rows, rows of an id that another has too, and the schema of the file."""

    rows: int
    duplicates: int
    schema: pa.Schema


def scan_units(job: Job, batches: Batches) -> Batches:
    """Read the units whose numbers Spark gives: `SENT` rows of what was found, and of row facts by bucket."""
    for batch in batches:
        for number in batch.column(0).to_pylist():
            with tempfile.TemporaryDirectory(prefix="hindcast-") as folder:
                yield from _scan_unit(job, number, Path(folder, "facts.parquet"))


def _scan_unit(job: Job, number: int, sidecar: Path) -> Batches:
    unit, plan = job.units[number], job.plan
    source: Source = plan.source if unit.groups is None else Groups(plan.source, unit.groups)
    manifest = replace(plan.manifest, objects=unit.objects)
    engine = LocalEngine(_marks_of(job, unit) if plan.drop_duplicates else None)
    scan = engine.scan(replace(plan, source=source, manifest=manifest, sidecar=sidecar))
    group, origin = group_of(number, len(job.units)), number * _PIECES
    if not sidecar.exists():
        yield sent_row(group, origin, Found(scan, pa.schema([])).to_bytes())
        return
    with pq.ParquetFile(sidecar) as facts:
        yield sent_row(group, origin, Found(scan, facts.schema_arrow).to_bytes())
        blocks = facts.iter_batches(_BLOCK_ROWS, use_threads=False)
        for piece, (bucket, rows) in enumerate(dealt(blocks, job.bits)):
            yield sent_row(bucket, origin + piece, _to_bytes(rows))


def _marks_of(job: Job, unit: Unit) -> dict[str, Bytes]:
    """Bits of the rows of a unit that are to be left out, by object, counted from the unit's first row of it."""
    marks = {item.name: job.marks[item.name] for item in unit.objects if item.name in job.marks}
    if unit.groups is None:
        return marks
    return {
        item.name: np.packbits(np.unpackbits(marks[item.name])[first_row(job.plan.source, item, unit.groups) :])
        for item in unit.objects
        if item.name in marks
    }


def group_of(number: int, units: int) -> int:
    """Negative number of the group in which a unit's findings are added up: neighbours, √n groups of √n.

    Examples
    --------
    >>> [group_of(number, 9) for number in range(9)]
    [-1, -1, -1, -2, -2, -2, -3, -3, -3]
    """
    return -1 - number // math.isqrt(max(1, units))


def dealt(blocks: Iterable[pa.RecordBatch], bits: int) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Rows by bucket, block after block."""
    for block in blocks:
        at = buckets(block, bits)
        order = np.argsort(at, kind="stable")
        rows = block.take(positions(order))
        start = 0
        for bucket, size in zip(*(a.tolist() for a in np.unique(at, return_counts=True)), strict=True):
            for first in range(start, start + size, _PIECE_ROWS):
                yield bucket, rows.slice(first, min(_PIECE_ROWS, start + size - first))
            start += size


def buckets(rows: pa.RecordBatch, bits: int) -> Integers:
    """Bucket of each row: the top `bits` of its id's fingerprint; rows without an id take turns.

    Parameters
    ----------
    rows : RecordBatch of n rows
        ``prediction_id``, if there, is text.
    bits : int

    Returns
    -------
    int64 array of shape (n,), from 0 to ``2**bits - 1``

    Examples
    --------
    >>> buckets(pa.RecordBatch.from_pydict({"prediction_id": ["a", "b", "a", None]}), 2).tolist()
    [2, 2, 2, 3]
    """
    turns = np.arange(rows.num_rows, dtype=np.int64) & ((1 << bits) - 1)
    found = fingerprints(dict(zip(rows.schema.names, rows.columns, strict=True))) if bits else None
    if found is None:
        return turns
    keys, absent = found
    top = (keys.view(np.uint64) >> np.uint64(64 - bits)).astype(np.int64)
    return top if absent is None else np.where(absent, turns, top)


def settle(job: Job, sent: pa.Table) -> pa.Table:
    """Add up a group of findings; or write the row facts of a bucket to its file, and count its duplicate ids.

    Gives one `SENT` row: `Found.to_bytes`, or a pickled `Settled`.
    """
    sent = sent.sort_by("origin")  # Spark gives them as they come
    bucket, payloads = sent.column("bucket")[0].as_py(), (payload.as_py() for payload in sent.column("payload"))
    if bucket >= 0:
        settled = _settle_rows(job.folder / file_name(bucket, job.bits), payloads)
        return pa.Table.from_batches([sent_row(bucket, bucket, pickle.dumps(settled))])
    total, *others = (Found.from_bytes(payload, job.plan) for payload in payloads)
    for other in others:
        total += other
    return pa.Table.from_batches([sent_row(bucket, bucket, total.to_bytes())])


def _settle_rows(path: Path, payloads: Iterable[bytes]) -> Settled:
    sidecar, ids, rows, schema = Sidecar(path), DuplicateCounter(), 0, pa.schema([])
    for payload in payloads:
        for batch in _from_bytes(payload):
            sidecar.add(batch)
            rows, schema = rows + batch.num_rows, united(schema, batch.schema)
            found = fingerprints(dict(zip(batch.schema.names, batch.columns, strict=True)))
            if found is not None:
                keys, absent = found
                ids.add(keys if absent is None else keys[~absent])
    sidecar.close()  # renames: another attempt of this task writes the same under a name of its own
    duplicates = ids.count()
    ids.close()
    return Settled(rows, duplicates, schema)


def conform(job: Job, schema: pa.Schema, batches: Batches) -> Batches:
    """Write the files of the buckets that Spark names again, in a schema that holds those of all buckets."""
    for batch in batches:
        for bucket in batch.column(0).to_pylist():
            path = job.folder / file_name(bucket, job.bits)
            sidecar = Sidecar(path)
            sidecar.add(_no_rows(schema))
            with pq.ParquetFile(path) as facts:
                for rows in facts.iter_batches(use_threads=False):
                    sidecar.add(rows)
            sidecar.close()
            yield sent_row(bucket, bucket, b"")


def file_name(bucket: int, bits: int) -> str:
    """Name of a bucket's file in the folder.

    Examples
    --------
    >>> file_name(3, 4)
    'bucket-00003-of-00016.parquet'
    """
    return f"bucket-{bucket:05d}-of-{1 << bits:05d}.parquet"


@dataclass(frozen=True)
class Join:
    """Labels and the row facts that they are joined to, as they are sent to the executors.

    Attributes
    ----------
    source : Source
    objects : tuple of LogObject
        The files of labels.
    read : callable
        Gives one of them as a table with a text column ``prediction_id``.
    judge : callable
        Makes of the row facts and the labels of some ids (None without files) what can be pickled, and added
        with ``+``.
    files : dict
        Bucket -> its file of row facts.
    bits : int
    """

    source: Source
    objects: tuple[LogObject, ...]
    read: Callable[[Source, LogObject], pa.Table]
    judge: Callable[[pa.Table, pa.Table | None], Any]
    files: dict[int, Path]
    bits: int


def read_labels(source: Source, item: LogObject) -> pa.Table:
    """One file of labels.

    Raises
    ------
    SourceUnreadable
        It is no Parquet, or cut short.
    """
    with source.open(item) as file:
        none = label_table(file.schema_arrow.empty_table())  # of what type labels are is known of an empty file too
        return pa.concat_tables([none, *label_tables(file, item.name)])


def deal_labels(join: Join, batches: Batches) -> Batches:
    """Deal the labels of the objects whose numbers Spark gives to the buckets of their ids, where these have rows."""
    for batch in batches:
        for number in batch.column(0).to_pylist():
            table = join.read(join.source, join.objects[number]) if join.objects else pa.table({})
            blocks = table.to_batches(max_chunksize=_BLOCK_ROWS) or [_no_rows(table.schema)]
            for piece, (bucket, rows) in enumerate(dealt(blocks, join.bits)):
                if bucket in join.files:
                    yield sent_row(bucket, number * _PIECES + piece, _to_bytes(rows))
            # of what type labels are is known also where there are none
            for bucket in join.files:
                yield sent_row(bucket, number * _PIECES + _PIECES - 1, _to_bytes(_no_rows(table.schema)))


def judge_bucket(join: Join, sent: pa.Table) -> pa.Table:
    """Judge the row facts of a bucket by the labels that were dealt to it; gives one `SENT` row."""
    sent = sent.sort_by("origin")
    labels = [batch for payload in sent.column("payload") for batch in _from_bytes(payload.as_py())]
    schema = functools.reduce(united, (batch.schema for batch in labels))
    columns = [
        pa.chunked_array([conformed(batch.column(name), kind) for batch in labels], kind)
        for name, kind in zip(schema.names, schema.types, strict=True)
    ]
    bucket = sent.column("bucket")[0].as_py()
    with pq.ParquetFile(join.files[bucket]) as file:
        facts = file.read(use_threads=False)
    labelled = pa.Table.from_arrays(columns, schema=schema) if join.objects else None
    part = join.judge(facts, labelled)
    return pa.Table.from_batches([sent_row(bucket, bucket, pickle.dumps(part))])


def add_parts(batches: Batches) -> Batches:
    """Add up what buckets gave, in any order: one `SENT` row, or none."""
    parts = [pickle.loads(part.as_py()) for batch in batches for part in batch.column("payload")]  # noqa: S301 - ours
    if parts:
        yield sent_row(0, 0, pickle.dumps(functools.reduce(operator.add, parts)))


def _no_rows(schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.nulls(0, kind) for kind in schema.types], schema=schema)


def sent_row(bucket: int, origin: int, payload: bytes) -> pa.RecordBatch:
    """One row of `SENT`."""
    return pa.RecordBatch.from_pylist([{"bucket": bucket, "origin": origin, "payload": payload}], _SENT)


def _to_bytes(rows: pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema, options=_SQUEEZED) as writer:
        writer.write_batch(rows)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def _from_bytes(content: bytes) -> Batches:
    with pa.ipc.open_stream(content) as reader:
        yield from reader
