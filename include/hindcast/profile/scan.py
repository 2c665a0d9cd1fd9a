"""The kernel: rows are read once, row group by row group, each column decoded, sorted and searched for the bin edges.

Sorting a block and searching the edges in the sorted values costs about as much as decoding it; searching each value in
the edges would cost four times as much.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hindcast.profile.hashing import fingerprint64
from hindcast.profile.profile import INVALID, INVALID_CATEGORY, NEW, NULL, NULL_CATEGORY, NEW_VALUES_KEPT, Profile

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import pyarrow.parquet as pq

    from hindcast.profile.bins import Bins

    Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

MISSING = "(missing)"
# Below this many cells a row group is decoded in one call; above, column by column, so that memory stays bounded.
_CELLS_AT_ONCE = 1_000_000


class RowSink(Protocol):
    """Whoever wants rows of the same pass."""

    def wants(self, schema: pa.Schema) -> list[str]:
        """Columns that it must be given with each block."""

    def keep(self, columns: Mapping[str, pa.Array], rows: int) -> pa.Array | None:
        """Mask of the rows that belong to the window; None keeps all. Called first for each block."""

    def take(self, column: str, values: pa.Array) -> None:
        """One feature column of the block, after `keep` filtered it."""

    def end_block(self) -> None:
        """All columns of the block were given."""


@dataclass(frozen=True)
class Expected:
    """What the model file allows, counted in the same pass."""

    limits: Mapping[str, tuple[float | None, float | None]] = field(default_factory=dict)
    allowed: Mapping[str, frozenset[str]] = field(default_factory=dict)


class Scanner:
    """Profiles Parquet files.

    Parameters
    ----------
    bins : Bins
    expected : Expected
        Ranges and allowed values to count against.
    sink : RowSink, optional
    prefix : str
        What the files call ``feature_<name>``: a training file may leave the prefix out.

    Examples
    --------
    >>> import io
    >>> import pyarrow.parquet as pq
    >>> from hindcast.profile.bins import Bins
    >>> file = io.BytesIO()
    >>> pq.write_table(pa.table({"feature_a": [0.5, 1.0, None], "feature_b": ["x", "z", "z"]}), file)
    >>> bins = Bins(("feature_a",), (np.array([0.0, 1.0]),), ("feature_b",), (("x", "y"),))
    >>> scanner = Scanner(bins)
    >>> scanner.read(pq.ParquetFile(file))
    >>> scanner.profile.numeric.tolist()
    [[0, 2, 0, 1, 0, 0, 0, 0]]
    >>> scanner.profile.categorical.tolist(), scanner.profile.new_values["feature_b"]["z"][1]
    ([[1, 0, 2, 0, 0]], 2)
    """

    def __init__(
        self, bins: Bins, expected: Expected | None = None, sink: RowSink | None = None, *, prefix: str = "feature_"
    ) -> None:
        self.bins = bins
        self.expected = expected or Expected()
        self.sink = sink
        self.prefix = prefix
        self.profile = Profile.empty(bins)
        self._known = [pa.array(values, pa.string()) for values in bins.categories]
        self._numeric_at = {name: i for i, name in enumerate(bins.numeric)}
        self._categorical_at = {name: i for i, name in enumerate(bins.categorical)}

    def source_name(self, column: str) -> str:
        """What the files call a column."""
        return self.prefix + column.removeprefix("feature_") if column.startswith("feature_") else column

    def read(self, file: pq.ParquetFile) -> None:
        """Add every row of one file.

        Raises
        ------
        pyarrow.ArrowException, OSError
            The file cannot be read; what was added of it is in the profile, so the caller starts over without it.
        """
        names = set(file.schema_arrow.names)
        wanted = [n for n in (self.sink.wants(file.schema_arrow) if self.sink else []) if n in names]
        columns = [c for c in (*self.bins.numeric, *self.bins.categorical) if self.source_name(c) in names]
        for column in {*self.bins.numeric, *self.bins.categorical} - set(columns):
            if file.metadata.num_rows:
                self._note_type(column, MISSING, file.metadata.num_rows)
        every = list(dict.fromkeys([*wanted, *(self.source_name(c) for c in columns)]))
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if rows:
                self._block(_Block(file, group, every, rows), wanted, columns)

    def _block(self, block: _Block, wanted: list[str], columns: list[str]) -> None:
        mask = None
        if self.sink:
            mask = self.sink.keep({name: block.column(name) for name in wanted}, block.rows)
        rows = block.rows if mask is None else pc.sum(mask).as_py() or 0
        self.profile.rows += rows
        for column in columns:
            values = block.column(self.source_name(column))
            if mask is not None:
                values = values.filter(mask)
            self._note_type(column, _type_name(values.type), rows)
            if self.sink and column.startswith("feature_"):
                self.sink.take(column, values)
            if column in self._numeric_at:
                self._numeric(self._numeric_at[column], column, values)
            else:
                self._categorical(self._categorical_at[column], column, values)
        if self.sink:
            self.sink.end_block()

    def _note_type(self, column: str, name: str, rows: int) -> None:
        found = self.profile.types.setdefault(column, {})
        found[name] = found.get(name, 0) + rows

    def _numeric(self, i: int, column: str, values: pa.Array) -> None:
        bins, counts = self.bins, self.profile.numeric[i]
        counts[bins.width + NULL] += values.null_count
        found = floats(values)
        if found is None:
            counts[bins.width + INVALID] += len(values) - values.null_count
            return
        ordered = np.sort(found)  # -inf first, NaN last
        start, end = np.searchsorted(ordered, [-np.inf, np.inf], side="right").tolist()
        first_inf = int(np.searchsorted(ordered, np.inf, side="left"))
        # NULL is slot 0; NaN, -inf and +inf are the next three
        counts[bins.width + 1 : bins.width + 4] += (ordered.size - end, start, end - first_inf)
        ordered = ordered[start:first_inf]
        if not ordered.size:
            return
        edges = bins.edges[i]
        cuts = np.concatenate([[0], np.searchsorted(ordered, edges, side="right"), [ordered.size]])
        per_bin = np.diff(cuts)
        counts[: edges.size + 1] += per_bin
        filled = np.flatnonzero(per_bin)
        fixed = self._fixed_point(i, ordered)
        self.profile.sums[i, filled] += np.add.reduceat(fixed, cuts[filled])
        low, high = self.profile.low, self.profile.high
        low[i], high[i] = min(low[i], ordered[0]), max(high[i], ordered[-1])
        minimum, maximum = self.expected.limits.get(column, (None, None))
        if minimum is not None:
            self.profile.outside[i, 0] += np.searchsorted(ordered, minimum, side="left")
        if maximum is not None:
            self.profile.outside[i, 1] += ordered.size - np.searchsorted(ordered, maximum, side="right")

    def _fixed_point(self, i: int, ordered: Floats) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
        low, high = self.bins.limits[i]
        if ordered[0] < low or ordered[-1] > high:
            ordered = np.clip(ordered, low, high)
        scaled = ordered - self.bins.center[i]
        scaled /= self.bins.unit[i]
        return np.rint(scaled, out=scaled).astype(np.int64)

    def _categorical(self, i: int, column: str, values: pa.Array) -> None:
        bins, counts = self.bins, self.profile.categorical[i]
        counts[bins.depth + NULL_CATEGORY] += values.null_count
        encoded = texts(values)
        if encoded is None:
            counts[bins.depth + INVALID_CATEGORY] += len(values) - values.null_count
            return
        dictionary, rows = encoded
        position = pc.index_in(dictionary, value_set=self._known[i])
        at = buffer_values(position.fill_null(len(bins.categories[i])), np.int32)
        per_value = np.bincount(at, weights=rows, minlength=len(bins.categories[i]) + 1).astype(np.int64)
        counts[: len(bins.categories[i])] += per_value[:-1]
        counts[bins.depth + NEW] += per_value[-1]
        if per_value[-1]:
            self._new_values(column, dictionary, rows * (at == len(bins.categories[i])))
        allowed = self.expected.allowed.get(column)
        if allowed is not None:
            unexpected = [value.as_py() not in allowed for value in dictionary]
            self.profile.outside[len(bins.numeric) + i, 0] += int(rows[unexpected].sum())

    def _new_values(
        self, column: str, dictionary: pa.Array, rows: np.ndarray[tuple[int, ...], np.dtype[np.int64]]
    ) -> None:
        new = np.flatnonzero(rows)
        values = dictionary.take(pa.array(new))
        keys = fingerprint64(values)
        smallest = np.argsort(keys, kind="stable")[:NEW_VALUES_KEPT]
        found = {values[int(k)].as_py(): (int(keys[k]), int(rows[new[k]])) for k in smallest}
        self.profile.add_new_values(column, found)


class _Block:
    """One row group; small ones are decoded at once, large ones column by column."""

    def __init__(self, file: pq.ParquetFile, group: int, names: list[str], rows: int) -> None:
        self.rows = rows
        self._file, self._group = file, group
        self._table = None
        if rows * len(names) <= _CELLS_AT_ONCE:
            self._table = file.read_row_group(group, columns=names, use_threads=False)

    def column(self, name: str) -> pa.Array:
        table = self._table
        if table is None:
            table = self._file.read_row_group(self._group, columns=[name], use_threads=False)
        chunks = table.column(name)
        return chunks.chunk(0) if chunks.num_chunks == 1 else pa.concat_arrays(_same_dictionary(chunks))


def _same_dictionary(chunks: pa.ChunkedArray) -> list[pa.Array]:
    return list(chunks.unify_dictionaries().chunks)


def _type_name(kind: pa.DataType) -> str:
    return str(kind.value_type if pa.types.is_dictionary(kind) else kind)


def buffer_values(array: pa.Array, dtype: type) -> np.ndarray:  # type: ignore[type-arg]
    """The values of an array without nulls, by its buffer (`to_numpy` may import pandas)."""
    item = np.dtype(dtype).itemsize
    return np.frombuffer(array.buffers()[1], dtype, len(array), array.offset * item) if len(array) else np.empty(0, dtype)


def floats(values: pa.Array) -> Floats | None:
    """Non-null values as float64; None where the type holds no numbers.

    Examples
    --------
    >>> floats(pa.array([1, None, 3])).tolist(), floats(pa.array([True, False])).tolist(), floats(pa.array(["1"]))
    ([1.0, 3.0], [1.0, 0.0], None)
    """
    kind = values.type
    if pa.types.is_dictionary(kind):
        values, kind = values.dictionary_decode(), kind.value_type
    if values.null_count:
        values = values.drop_null()
    if pa.types.is_float64(kind):
        return buffer_values(values, np.float64)
    if pa.types.is_float32(kind):
        return buffer_values(values, np.float32).astype(np.float64)
    if pa.types.is_temporal(kind) and not pa.types.is_interval(kind):
        kind = pa.int32() if kind.bit_width == 32 else pa.int64()
        values = values.cast(kind)
    if pa.types.is_boolean(kind):
        values, kind = values.cast(pa.int8()), pa.int8()
    if pa.types.is_integer(kind):
        return buffer_values(values, kind.to_pandas_dtype()).astype(np.float64)
    if pa.types.is_decimal(kind) or pa.types.is_floating(kind):
        return buffer_values(values.cast(pa.float64()), np.float64)
    return None


def texts(values: pa.Array) -> tuple[pa.Array, np.ndarray[tuple[int, ...], np.dtype[np.int64]]] | None:
    """Distinct non-null values as text, with how often each occurs; None where the type has no text form.

    A whole number reads the same whether it was logged as an integer or a float.

    Examples
    --------
    >>> values, rows = texts(pa.array([2.0, 1.0, 2.0, None]))
    >>> values.to_pylist(), rows.tolist()
    (['2', '1'], [2, 1])
    """
    if values.null_count:
        values = values.drop_null()
    if not pa.types.is_dictionary(values.type):
        if pa.types.is_nested(values.type) or pa.types.is_null(values.type):
            return None if len(values) else (pa.array([], pa.string()), np.empty(0, np.int64))
        values = values.dictionary_encode()
    names = as_text(values.dictionary)
    if names is None:
        return None
    codes = buffer_values(values.indices.cast(pa.int32()), np.int32)
    rows = np.bincount(codes, minlength=len(names)).astype(np.int64)
    return names, rows


def as_text(values: pa.Array) -> pa.Array | None:
    """Values as strings, whole floats without a fraction; None where the type has no text form."""
    kind = values.type
    if pa.types.is_floating(kind):
        values = values.cast(pa.float64())
        whole = pc.and_(pc.equal(values, pc.floor(values)), pc.less(pc.abs(values), 2.0**53))
        integers = pc.if_else(whole, values, 0.0).cast(pa.int64()).cast(pa.string())
        return pc.if_else(whole, integers, values.cast(pa.string()))
    if pa.types.is_nested(kind):
        return None
    try:
        return values.cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None


def blocks(file: pq.ParquetFile, column: str) -> Iterator[pa.Array]:
    """One column of a file, row group by row group."""
    for group in range(file.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        if rows:
            yield _Block(file, group, [column], rows).column(column)
