"""Row facts: what is kept of each row of a window (ids, prediction, score, latency, segments), in a Parquet sidecar."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

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
    plain_type,
    positions,
)
from hindcast.profile.hashing import fingerprint64
from hindcast.profile.sampling import SEED, DuplicateCounter, Sample
from hindcast.unfinished import unfinished

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    Integers = np.ndarray[tuple[int, ...], np.dtype[np.int64]]
    Flags = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]

__all__ = ["SEED", "DuplicateCounter", "Noted", "RowFacts", "Sample", "Sidecar"]

# Column of the sidecar with `fingerprint64` of the id, null where there is none: what labels are joined by.
FINGERPRINT = "prediction_fingerprint"
_NEEDED = frozenset({"prediction_id", "timestamp", "prediction"})
_BUFFERED_ROWS = 65_536
_MOMENT = pa.timestamp("us", "UTC")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_LAST_MOMENT = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND


@dataclass(frozen=True)
class Noted:
    """What a pass over rows found beside profile, sample and duplicates; add the parts of a window with ``+``.

    Attributes
    ----------
    rows, misplaced : int
    newest : datetime or None
        The latest timestamp.
    versions : dict
        Model version -> rows.
    missing : frozenset of str
        Columns that every log should have and some file has not.
    unfit : frozenset of str
        Of these, what some file has in a type of which nothing can be made: ``timestamp (int64)``.

    Examples
    --------
    >>> whole = Noted(3, versions={"1": 3}) + Noted(2, 1, versions={"1": 1, "2": 1}) + Noted()
    >>> whole.rows, whole.misplaced, whole.versions, Noted.from_json(whole.to_json()) == whole
    (5, 1, {'1': 4, '2': 1}, True)
    """

    rows: int = 0
    misplaced: int = 0
    newest: datetime | None = None
    versions: dict[str, int] = field(default_factory=dict)
    missing: frozenset[str] = frozenset()
    unfit: frozenset[str] = frozenset()

    def __add__(self, other: Noted) -> Noted:
        versions = {**self.versions, **other.versions}
        return Noted(
            self.rows + other.rows,
            self.misplaced + other.misplaced,
            max((moment for moment in (self.newest, other.newest) if moment), default=None),
            {name: self.versions.get(name, 0) + other.versions.get(name, 0) for name in sorted(versions)},
            self.missing | other.missing,
            self.unfit | other.unfit,
        )

    def to_json(self) -> dict[str, Any]:
        """What `json` can write."""
        newest = None if self.newest is None else self.newest.isoformat()
        return {**asdict(self), "newest": newest, "missing": sorted(self.missing), "unfit": sorted(self.unfit)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Noted:
        """Read what `to_json` gave."""
        newest = None if content["newest"] is None else datetime.fromisoformat(content["newest"])
        sets = {name: frozenset(content[name]) for name in ("missing", "unfit")}
        return cls(**{**content, "newest": newest, **sets})


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
    counts_duplicates : bool
        False where the rows of one id may be in several parts of the window: who puts these together counts.

    Attributes
    ----------
    noted : Noted
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
    counts_duplicates: bool = True
    noted: Noted = Noted()

    def __post_init__(self) -> None:
        self.duplicates = DuplicateCounter()
        self.sample = Sample(self.sample_rows)
        self._sidecar = Sidecar(self.path)

    def wants(self, schema: pa.Schema) -> list[str]:
        """Columns of the log that facts are made of."""
        fixed = ["prediction_id", "model_version", "timestamp", "prediction", "confidence", "latency_ms", "error"]
        self.noted += Noted(missing=_NEEDED.difference(schema.names), unfit=frozenset(unfit(schema, _NEEDED)))
        scores = [name for name in schema.names if _is_score(name)]
        return list(dict.fromkeys([*fixed, "ground_truth", *scores, *self.extra]))

    def keep(self, columns: Mapping[str, pa.Array], rows: int) -> pa.Array | None:
        """Convert the block to facts; in the flat layout, only the rows whose timestamp lies in the window."""
        facts = {name: self._converted(name, values) for name, values in columns.items()}
        mask = None
        if "timestamp" in facts:
            moments = facts["timestamp"]
            inside = within(moments, self.start, self.end)
            outside = rows - int(inside.sum())
            self.noted += Noted(misplaced=moments.null_count if self.filter_rows else outside)
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

    def _note(self, batch: pa.RecordBatch | None, rows: int) -> None:
        names = batch.schema.names if batch is not None else []
        versions: dict[str, int] = {}
        if batch is not None and "model_version" in names:
            for entry in batch.column("model_version").value_counts().to_pylist():
                name = entry["values"] or "unknown"
                versions[name] = versions.get(name, 0) + entry["counts"]
        moments: Integers = np.arange(self.noted.rows, self.noted.rows + rows)
        newest = None
        if batch is not None and "timestamp" in names:
            moments, newest = _moments_of(batch.column("timestamp"))
        self.noted += Noted(rows, newest=newest, versions=versions)
        ids = batch.column("prediction_id") if batch is not None and "prediction_id" in names else None
        keys, absent = self._keys(ids, moments)
        self.sample.begin(keys, moments)
        if batch is not None and rows:
            if ids is not None and FINGERPRINT not in names:
                batch = batch.append_column(FINGERPRINT, _int64(keys, absent))
            self._sidecar.add(batch)

    def _keys(self, ids: pa.Array | None, moments: Integers) -> tuple[Integers, Flags | None]:
        """Hash the ids, or the moments of rows that have none; and which these are."""
        absent = np.ones(moments.size, np.bool_) if ids is None else nulls(ids)
        keys = np.zeros(moments.size, np.int64) if ids is None else fingerprint64(ids)
        if absent is not None:
            keys = np.where(absent, fingerprint64(positions(moments)), keys)
        if ids is not None and self.counts_duplicates:
            self.duplicates.add(keys if absent is None else keys[~absent])
        return keys, absent

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


def within(moments: pa.Array, start: datetime, end: datetime) -> Flags:
    """Which moments, in microseconds UTC, lie in ``[start, end)``, (n,); null does not."""
    at, absent = buffer_values(moments, np.int64), nulls(moments)
    first, last = ((moment - _EPOCH) // _MICROSECOND for moment in (start, end))
    inside: Flags = (at >= first) & (at < last)
    return inside if absent is None else inside & ~absent


def _moments_of(column: pa.Array) -> tuple[Integers, datetime | None]:
    """Microseconds since 1970, 0 where there is none; and the newest."""
    moments: Integers = buffer_values(column, np.int64)
    absent = nulls(column)
    if absent is not None:
        moments = np.where(absent, 0, moments)
    real = moments[(moments <= _LAST_MOMENT) & (True if absent is None else ~absent)]
    return moments, _EPOCH + int(real.max()) * _MICROSECOND if real.size else None


def _int64(values: Integers, absent: Flags | None) -> pa.Array:
    validity = None if absent is None else pa.py_buffer(np.packbits(~absent, bitorder="little"))
    return pa.Array.from_buffers(pa.int64(), values.size, [validity, pa.py_buffer(values)])


def unfit(schema: pa.Schema, needed: Iterable[str]) -> Iterator[str]:
    """Columns of which nothing can be made, with their type: moments that are none, other values that are lists.

    Examples
    --------
    >>> list(unfit(pa.schema({"timestamp": pa.int64(), "prediction": pa.int64()}), ["timestamp", "prediction"]))
    ['timestamp (int64)']
    """
    for name in (name for name in needed if name in schema.names):
        places = schema.get_all_field_indices(name)
        kind = plain_type(schema.field(places[0]).type)
        moments = pa.types.is_timestamp(kind) or pa.types.is_date(kind) or pa.types.is_null(kind) or is_text(kind)
        if len(places) > 1:
            yield f"{name} (stands twice)"
        elif not moments if name.endswith("timestamp") else pa.types.is_nested(kind):
            yield f"{name} ({kind})"


def _is_score(name: str) -> bool:
    return name == "score" or name.startswith("score_")


def _as_numbers(values: pa.Array) -> pa.Array:
    """Float64; all null where a value cannot be one, which the profile counts as invalid."""
    try:
        if pa.types.is_decimal(values.type):  # by way of text: the direct cast makes 2.0100000000000002 of 2.01
            values = values.cast(pa.string())
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


def sidecar_files(path: Path) -> list[Path]:
    """Parquet files of a sidecar: itself, or those of a folder, each written by another executor; none without rows."""
    if path.is_dir():
        return sorted(path.glob("*.parquet"))
    return [path] if path.exists() else []


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
        self._pending: list[pa.RecordBatch] = []
        self._schema = pa.schema([])
        self._parts: list[Path] = []
        self._writer: pq.ParquetWriter | None = None

    def add(self, batch: pa.RecordBatch) -> None:
        """Write a batch, sooner or later."""
        schema = united(self._schema, batch.schema)
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
        if len(self._parts) > 1:
            self._join()
        if self._path.is_dir():  # several executors wrote the one before
            shutil.rmtree(self._path)
        if self._parts:
            self._parts.pop().replace(self._path)
        else:
            self._path.unlink(missing_ok=True)

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
            self._parts.append(unfinished(self._path))
            # every id is another: a dictionary of them would be built in vain
            repeated = [f.name for f in self._schema if is_text(f.type) and f.name not in {"prediction_id", "trace_id"}]
            # nor can measurements and hashes be squeezed
            plain = {f.name for f in self._schema if pa.types.is_floating(f.type)} | {FINGERPRINT}
            compression = {name: "none" if name in plain else "zstd" for name in self._schema.names}
            self._writer = pq.ParquetWriter(
                self._parts[-1], self._schema, compression=compression, use_dictionary=repeated, write_statistics=False
            )
        self._writer.write_table(pa.Table.from_batches([_fitted(batch, self._schema) for batch in batches]))

    def _end_part(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _join(self) -> None:
        """Write the parts, each of its own schema, again as one."""
        parts, self._parts = self._parts, []
        for part in parts:
            with pq.ParquetFile(part) as file:
                for batch in file.iter_batches(_BUFFERED_ROWS):
                    self._write([batch])
            part.unlink()
        self._end_part()


def united(first: pa.Schema, second: pa.Schema) -> pa.Schema:
    """Schema for row facts of two.

    Examples
    --------
    >>> united(pa.schema({"a": pa.int64()}), pa.schema({"a": pa.float64(), "b": pa.string()})).types
    [DataType(double), DataType(string)]
    """
    kinds = {f.name: f.type for f in first}
    for f in second:
        kinds[f.name] = common_type(kinds[f.name], f.type) if f.name in kinds else f.type
    return pa.schema(list(kinds.items()))


def _fitted(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    have = dict(zip(batch.schema.names, batch.columns, strict=True))
    arrays = [conformed(have[f.name], f.type) if f.name in have else pa.nulls(batch.num_rows, f.type) for f in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
