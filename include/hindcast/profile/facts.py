"""Row facts: what is kept of each row (ids, prediction, score, latency, segments), a seeded sample, duplicate ids."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hindcast.profile.hashing import fingerprint64
from hindcast.profile.columns import as_text

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    Keys = np.ndarray[tuple[int, ...], np.dtype[np.int64]]

SEED = 0x5EED
_TEXT = ("prediction_id", "model_version", "error", "trace_id")
_BUFFERED_ROWS = 65_536


class DuplicateCounter:
    """Counts rows whose id was seen before, by a 64-bit fingerprint, in bounded memory.

    Beyond `in_memory` ids they spill to files by their top bits, each of which fits again. Two different ids share a
    fingerprint once in some 2**65 / n**2 windows of n rows.

    Examples
    --------
    >>> counter = DuplicateCounter()
    >>> counter.add(np.array([1, 2, 1, 1]))
    >>> counter.count()
    2
    """

    def __init__(self, in_memory: int = 4_000_000) -> None:
        self._limit = in_memory
        self._held: list[Keys] = []
        self._rows = 0
        self._files: list[IO[bytes]] = []

    def add(self, keys: Keys) -> None:
        """Take the fingerprints of some rows."""
        self._held.append(keys)
        self._rows += keys.size
        if self._rows > self._limit:
            self._spill()

    def count(self) -> int:
        """Rows beyond the first of each id."""
        if not self._files:
            return _repeated(np.concatenate(self._held)) if self._held else 0
        self._spill()
        total = 0
        for file in self._files:
            file.seek(0)
            total += _repeated(np.frombuffer(file.read(), np.int64))
            file.close()
        self._files = []
        return total

    def _spill(self) -> None:
        if not self._files:
            self._files = [tempfile.TemporaryFile() for _ in range(64)]
        keys = np.concatenate(self._held)
        part = (keys.view(np.uint64) >> np.uint64(58)).astype(np.intp)
        for i, file in enumerate(self._files):
            file.write(keys[part == i].tobytes())
        self._held, self._rows = [], 0


def _repeated(keys: Keys) -> int:
    ordered = np.sort(keys)
    return int((ordered[1:] == ordered[:-1]).sum())


class Sample:
    """The `size` rows with the smallest ``fingerprint64(id) ^ seed``: the same rows in any order of reading."""

    def __init__(self, size: int, seed: int = SEED) -> None:
        self.size, self.seed = size, np.int64(seed)
        self._keys: Keys = np.empty(0, np.int64)
        self._columns: dict[str, pa.Array] = {}
        self._rows = pa.array([], pa.int64())
        self._fresh: Keys = self._keys

    def begin(self, keys: Keys) -> None:
        """Choose among the rows of a block."""
        keys = keys ^ self.seed
        limit = self._keys[-1] if self._keys.size >= self.size else None
        rows = np.flatnonzero(keys < limit) if limit is not None else np.arange(keys.size)
        if rows.size > self.size:
            rows = np.sort(rows[np.argpartition(keys[rows], self.size - 1)[: self.size]])
        self._rows, self._fresh = pa.array(rows), keys[rows]
        self._block: dict[str, pa.Array] = {}

    def take(self, column: str, values: pa.Array) -> None:
        """One feature column of the block."""
        if len(self._rows):
            chosen = values.take(self._rows)
            self._block[column] = chosen.dictionary_decode() if pa.types.is_dictionary(chosen.type) else chosen

    def end(self) -> None:
        """Keep the smallest of what was held and what the block brought."""
        if not self._fresh.size:
            return
        keys = np.concatenate([self._keys, self._fresh])
        order = np.argsort(keys, kind="stable")[: self.size]
        rows = pa.array(order)
        held = self._keys.size
        for column in {**self._columns, **self._block}:
            parts = [self._columns.get(column), self._block.get(column)]
            self._columns[column] = _stack(parts, (held, self._fresh.size)).take(rows)
        self._keys = keys[order]

    def table(self) -> pa.Table:
        """The sample, features under their own names, rows by ascending key."""
        return pa.table({name.removeprefix("feature_"): values for name, values in sorted(self._columns.items())})


def _stack(parts: list[pa.Array | None], sizes: tuple[int, int]) -> pa.Array:
    known = next(part.type for part in parts if part is not None)
    filled = [pa.nulls(n, known) if part is None else part for part, n in zip(parts, sizes, strict=True)]
    if filled[0].type != filled[1].type:
        filled = [as_text(part) if as_text(part) is not None else pa.nulls(len(part), pa.string()) for part in filled]
    return pa.concat_arrays(filled)


@dataclass
class RowFacts:
    """Sink of the scan: writes the facts of the window's rows to a Parquet sidecar.

    Parameters
    ----------
    path : Path
        Sidecar, written under a temporary name and renamed by `close`.
    start, end : datetime
        The window. Rows outside are counted as misplaced and, where `filter_rows` (flat layout), left out.
    numeric_prediction : bool
        Regression: predictions and labels are numbers; otherwise they are class names.
    extra : tuple of str
        Further columns: segments and business metrics.
    sample_rows : int
    """

    path: Path
    start: datetime
    end: datetime
    filter_rows: bool
    numeric_prediction: bool
    extra: tuple[str, ...] = ()
    sample_rows: int = 3000
    misplaced: int = 0
    rows: int = 0
    newest: datetime | None = None
    versions: dict[str, int] = field(default_factory=dict)
    missing: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.duplicates = DuplicateCounter()
        self.sample = Sample(self.sample_rows)
        self._pending: list[pa.RecordBatch] = []
        self._writer: pq.ParquetWriter | None = None
        self._schema: pa.Schema | None = None
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._temporary = self.path.with_suffix(f".{id(self)}.tmp")

    def wants(self, schema: pa.Schema) -> list[str]:
        """Columns of the log that facts are made of."""
        fixed = ["prediction_id", "model_version", "timestamp", "prediction", "confidence", "latency_ms", "error"]
        self.missing |= {"prediction_id", "timestamp", "prediction"} - set(schema.names)
        scores = [name for name in schema.names if name == "score" or name.startswith("score_")]
        return [*fixed, "ground_truth", *scores, *self.extra]

    def keep(self, columns: Mapping[str, pa.Array], rows: int) -> pa.Array | None:
        """Convert the block to facts; in the flat layout, only the rows whose timestamp lies in the window."""
        facts = {name: self._converted(name, values) for name, values in columns.items()}
        mask = None
        if "timestamp" in facts:
            inside = self._inside(facts["timestamp"])
            outside = rows - (pc.sum(inside).as_py() or 0)
            if self.filter_rows:
                mask = inside if outside else None
            else:
                self.misplaced += outside
        batch = pa.RecordBatch.from_pydict(facts) if facts else None
        if batch is not None and mask is not None:
            batch = batch.filter(mask)
        self._note(batch, rows)
        return mask

    def _inside(self, moments: pa.Array) -> pa.Array:
        start, end = (pa.scalar(moment, moments.type) for moment in (self.start, self.end))
        return pc.and_(pc.greater_equal(moments, start), pc.less(moments, end)).fill_null(False)  # noqa: FBT003

    def _note(self, batch: pa.RecordBatch | None, rows: int) -> None:
        ids = batch.column("prediction_id") if batch is not None and "prediction_id" in batch.schema.names else None
        n = batch.num_rows if batch is not None else rows
        self.rows += n
        keys = fingerprint64(ids) if ids is not None else np.arange(self.rows - n, self.rows, dtype=np.int64)
        if ids is not None:
            self.duplicates.add(keys)
        self.sample.begin(keys)
        if batch is None or not n:
            return
        if "timestamp" in batch.schema.names:
            newest = pc.max(batch.column("timestamp")).as_py()
            self.newest = max(filter(None, (self.newest, newest)), default=None)
        if "model_version" in batch.schema.names:
            for entry in batch.column("model_version").value_counts().to_pylist():
                name = entry["values"] or "unknown"
                self.versions[name] = self.versions.get(name, 0) + entry["counts"]
        self._pending.append(batch)
        if sum(b.num_rows for b in self._pending) >= _BUFFERED_ROWS:
            self._flush()

    def take(self, column: str, values: pa.Array) -> None:
        """Feature values go to the sample only."""
        self.sample.take(column, values)

    def end_block(self) -> None:
        """Settle the sample after a block."""
        self.sample.end()

    def _converted(self, name: str, values: pa.Array) -> pa.Array:
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        if name == "timestamp":
            return _moments(values)
        as_number = name in {"confidence", "latency_ms"} or name == "score" or name.startswith("score_")
        if as_number or (self.numeric_prediction and name in {"prediction", "ground_truth"}):
            return pc.cast(values, pa.float64(), safe=False)
        if name in self.extra and not name.startswith("feature_"):
            return values
        converted = as_text(values)
        return pa.nulls(len(values), pa.string()) if converted is None else converted

    def _flush(self) -> None:
        table = pa.concat_tables([pa.Table.from_batches([b]) for b in self._pending], promote_options="permissive")
        self._pending = []
        if self._writer is None:
            self._schema = table.schema
            self._writer = pq.ParquetWriter(self._temporary, table.schema, compression="zstd")
        if table.schema != self._schema and self._schema is not None:
            # A later file has other columns: the sidecar keeps the first file's, missing ones become null.
            arrays = [
                table.column(f.name).cast(f.type) if f.name in table.schema.names else pa.nulls(table.num_rows, f.type)
                for f in self._schema
            ]
            table = pa.table(arrays, schema=self._schema)
        self._writer.write_table(table)

    def close(self) -> None:
        """Finish the sidecar; no rows, no file."""
        if self._pending:
            self._flush()
        if self._writer is None:
            self.path.unlink(missing_ok=True)
            return
        self._writer.close()
        self._temporary.replace(self.path)

    def discard(self) -> None:
        """Drop what was written."""
        if self._writer is not None:
            self._writer.close()
        self._temporary.unlink(missing_ok=True)


def _moments(values: pa.Array) -> pa.Array:
    """Timestamps of any unit and zone, or ISO text, as microseconds UTC; a naive one is UTC."""
    target = pa.timestamp("us", "UTC")
    if pa.types.is_timestamp(values.type):
        naive = values.type.tz is None
        return pc.assume_timezone(values, "UTC").cast(target, safe=False) if naive else values.cast(target, safe=False)
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        return pc.strptime(values, format="%Y-%m-%dT%H:%M:%S", unit="us", error_is_null=True).cast(target)
    return pa.nulls(len(values), target)
