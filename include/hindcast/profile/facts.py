"""Row facts: what is kept of each row of a window (ids, prediction, score, latency, segments), in a Parquet sidecar."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hindcast.profile.columns import (
    arrow,
    as_text,
    buffer_values,
    common_type,
    conformed,
    flags,
    is_text,
    mended,
    nulls,
    positions,
)
from hindcast.profile.hashing import fingerprint64
from hindcast.profile.sampling import SEED, DuplicateCounter, Sample

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    Integers = np.ndarray[tuple[int, ...], np.dtype[np.int64]]

__all__ = ["SEED", "DuplicateCounter", "RowFacts", "Sample", "Sidecar"]

_BUFFERED_ROWS = 65_536
_MOMENT = pa.timestamp("us", "UTC")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_LAST_MOMENT = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND


@dataclass
class RowFacts:
    """Sink of the scan: writes the facts of the window's rows to a Parquet sidecar.

    Parameters
    ----------
    path : Path
        Sidecar, written under a temporary name and renamed by `close`.
    start, end : datetime
        The window. Rows outside are counted as misplaced and, where `filter_rows` (flat layout), left out; there, rows
        without a moment are the misplaced ones.
    numeric_prediction : bool
        Regression: predictions and labels are numbers; otherwise they are class names.
    extra : tuple of str
        Further columns: segments and business metrics.
    sample_rows : int

    Attributes
    ----------
    rows, misplaced : int
    newest : datetime or None
        The latest timestamp.
    versions : dict
        Model version -> rows.
    missing : set of str
        Columns that every log should have and some file has not.
    duplicates : DuplicateCounter
        Of the ids; a row without one is no duplicate.
    sample : Sample
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
        self._sidecar = Sidecar(self.path)

    def wants(self, schema: pa.Schema) -> list[str]:
        """Columns of the log that facts are made of."""
        fixed = ["prediction_id", "model_version", "timestamp", "prediction", "confidence", "latency_ms", "error"]
        self.missing |= {"prediction_id", "timestamp", "prediction"} - set(schema.names)
        scores = [name for name in schema.names if _is_score(name)]
        return list(dict.fromkeys([*fixed, "ground_truth", *scores, *self.extra]))

    def keep(self, columns: Mapping[str, pa.Array], rows: int) -> pa.Array | None:
        """Convert the block to facts; in the flat layout, only the rows whose timestamp lies in the window."""
        facts = {name: self._converted(name, values) for name, values in columns.items()}
        mask = None
        if "timestamp" in facts:
            moments = facts["timestamp"]
            inside = self._inside(moments)
            outside = rows - int(inside.sum())
            self.misplaced += moments.null_count if self.filter_rows else outside
            mask = flags(inside) if self.filter_rows and outside else None
        batch = pa.RecordBatch.from_pydict(facts) if facts else None
        if batch is not None and mask is not None:
            batch = batch.filter(mask)
        self._note(batch, rows if batch is None else batch.num_rows)
        return mask

    def take(self, column: str, values: pa.Array) -> None:
        """Feature values go to the sample only."""
        self.sample.take(column, values)

    def end_block(self) -> None:
        """Settle the sample after a block."""
        self.sample.end()

    def close(self) -> None:
        """Finish the sidecar; no rows, no file."""
        self._sidecar.close()

    def discard(self) -> None:
        """Drop what was written."""
        self._sidecar.discard()
        self.duplicates.close()

    def _inside(self, moments: pa.Array) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
        at, absent = buffer_values(moments, np.int64), nulls(moments)
        start, end = ((moment - _EPOCH) // _MICROSECOND for moment in (self.start, self.end))
        inside: np.ndarray[tuple[int, ...], np.dtype[np.bool_]] = (at >= start) & (at < end)
        return inside if absent is None else inside & ~absent

    def _note(self, batch: pa.RecordBatch | None, rows: int) -> None:
        self.rows += rows
        names = batch.schema.names if batch is not None else []
        moments: Integers = np.arange(self.rows - rows, self.rows)
        if batch is not None and "timestamp" in names:
            moments = self._moments_of(batch.column("timestamp"))
        keys = self._keys(
            batch.column("prediction_id") if batch is not None and "prediction_id" in names else None, moments
        )
        self.sample.begin(keys, moments)
        if batch is None or not rows:
            return
        if "model_version" in names:
            for entry in batch.column("model_version").value_counts().to_pylist():
                name = entry["values"] or "unknown"
                self.versions[name] = self.versions.get(name, 0) + entry["counts"]
        self._sidecar.add(batch)

    def _moments_of(self, column: pa.Array) -> Integers:
        """Microseconds since 1970, 0 where there is none; notes the newest."""
        moments: Integers = buffer_values(column, np.int64)
        absent = nulls(column)
        if absent is not None:
            moments = np.where(absent, 0, moments)
        real = moments[(moments <= _LAST_MOMENT) & (True if absent is None else ~absent)]
        if real.size:
            newest = _EPOCH + int(real.max()) * _MICROSECOND
            self.newest = max(self.newest or newest, newest)
        return moments

    def _keys(self, ids: pa.Array | None, moments: Integers) -> Integers:
        """Hash the ids, or the moments of rows that have none."""
        absent = np.ones(moments.size, np.bool_) if ids is None else nulls(ids)
        keys = np.zeros(moments.size, np.int64) if ids is None else fingerprint64(ids)
        if absent is not None:
            keys = np.where(absent, fingerprint64(positions(moments)), keys)
        if ids is not None:
            self.duplicates.add(keys if absent is None else keys[~absent])
        return keys

    def _converted(self, name: str, values: pa.Array) -> pa.Array:
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        if name == "timestamp":
            return as_moments(values)
        as_number = name in {"confidence", "latency_ms"} or _is_score(name)
        if as_number or (self.numeric_prediction and name in {"prediction", "ground_truth"}):
            return _as_numbers(values)
        if name in self.extra and not name.startswith("feature_") and not is_text(values.type):
            return values
        converted = as_text(values)
        return pa.nulls(len(values), pa.string()) if converted is None else converted


def _is_score(name: str) -> bool:
    return name == "score" or name.startswith("score_")


def _as_numbers(values: pa.Array) -> pa.Array:
    """Float64; all null where a value cannot be one, which the profile counts as invalid."""
    try:
        return values.cast(pa.float64(), safe=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return pa.nulls(len(values), pa.float64())


def as_moments(values: pa.Array) -> pa.Array:
    """Timestamps of any unit and zone, dates, or ISO text, as microseconds UTC; without a zone it is UTC.

    Text that is no time becomes null.

    Examples
    --------
    >>> texts = pa.array(["2013-04-16T15:00:00.5+02:00", "2013-04-16 15:00", "soon"])
    >>> [str(moment) for moment in as_moments(texts)]
    ['2013-04-16 13:00:00.500000+00:00', '2013-04-16 15:00:00+00:00', 'None']
    """
    if pa.types.is_timestamp(values.type) or pa.types.is_date(values.type):
        return values.cast(_MOMENT, safe=False)
    if not is_text(values.type):
        return pa.nulls(len(values), _MOMENT)
    values = values.cast(pa.string())
    for kind in (_MOMENT, pa.timestamp("us"), pa.timestamp("ns", "UTC"), pa.timestamp("ns")):
        try:
            return values.cast(kind).cast(_MOMENT, safe=False)
        except pa.ArrowInvalid:
            continue
    read = [_read_moment(text) for text in mended(values).to_pylist()]
    return arrow(read, pa.int64()).cast(_MOMENT)


def _read_moment(text: str | None) -> int | None:
    try:
        moment = datetime.fromisoformat(text.strip()) if text else None
    except ValueError:
        return None
    if moment is None:
        return None
    return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH) // _MICROSECOND


class Sidecar:
    """A Parquet file of record batches whose schemas may differ.

    Columns that some batches lack are null there; a column of two types becomes float64 if both are numbers, else text.
    It appears under its name when it is complete.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "facts.parquet"
    >>> sidecar = Sidecar(path)
    >>> sidecar.add(pa.RecordBatch.from_pydict({"a": [1]}))
    >>> sidecar.add(pa.RecordBatch.from_pydict({"a": [0.5], "b": ["x"]}))
    >>> sidecar.close()
    >>> pq.read_table(path).to_pydict()
    {'a': [1.0, 0.5], 'b': [None, 'x']}
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._name = f"{path.stem}.{secrets.token_hex(8)}"
        self._pending: list[pa.RecordBatch] = []
        self._schema = pa.schema([])
        self._parts: list[Path] = []
        self._writer: pq.ParquetWriter | None = None

    def add(self, batch: pa.RecordBatch) -> None:
        """Write a batch, sooner or later."""
        schema = _united(self._schema, batch.schema)
        if schema != self._schema and self._writer is not None:
            self._flush()
            self._end_part()
        self._schema = schema
        self._pending.append(batch)
        if sum(b.num_rows for b in self._pending) >= _BUFFERED_ROWS:
            self._flush()

    def close(self) -> None:
        """Finish the file; nothing added, no file."""
        self._flush()
        self._end_part()
        if not self._parts:
            self._path.unlink(missing_ok=True)
            return
        if len(self._parts) > 1:
            self._join()
        self._parts.pop().replace(self._path)

    def discard(self) -> None:
        """Drop what was written."""
        self._end_part()
        for part in self._parts:
            part.unlink(missing_ok=True)
        self._parts, self._pending = [], []

    def _flush(self) -> None:
        if self._pending:
            self._write(self._pending)
            self._pending = []

    def _write(self, batches: Iterable[pa.RecordBatch]) -> None:
        if self._writer is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._parts.append(self._path.with_name(f"{self._name}.{len(self._parts)}.tmp"))
            # every id is another: a dictionary of them would be built in vain
            repeated = [f.name for f in self._schema if is_text(f.type) and f.name not in {"prediction_id", "trace_id"}]
            self._writer = pq.ParquetWriter(
                self._parts[-1], self._schema, compression="zstd", use_dictionary=repeated, write_statistics=False
            )
        self._writer.write_table(pa.Table.from_batches([_fitted(batch, self._schema) for batch in batches]))

    def _end_part(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _join(self) -> None:
        """Write the parts, each of its own schema, again as one."""
        parts, self._name = self._parts, f"{self._name}.all"
        self._parts = []
        for part in parts:
            with pq.ParquetFile(part) as file:
                for batch in file.iter_batches(_BUFFERED_ROWS):
                    self._write([batch])
            part.unlink()
        self._end_part()


def _united(first: pa.Schema, second: pa.Schema) -> pa.Schema:
    kinds = {f.name: f.type for f in first}
    for f in second:
        kinds[f.name] = common_type(kinds[f.name], f.type) if f.name in kinds else f.type
    return pa.schema(list(kinds.items()))


def _fitted(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    have = dict(zip(batch.schema.names, batch.columns, strict=True))
    arrays = [conformed(have[f.name], f.type) if f.name in have else pa.nulls(batch.num_rows, f.type) for f in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
