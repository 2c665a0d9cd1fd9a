"""The kernel: rows are read once, row group by row group, each column decoded, sorted and searched for the bin edges.

Sorting a block and searching the edges in the sorted values costs about half as much as decoding it; searching every
value in the edges would cost four times as much. All that numbers need happens in place, in one scratch array.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hindcast.profile.columns import (
    Block,
    arrow,
    buffer_values,
    nulls,
    numbers,
    positions,
    source_name,
    texts,
    type_name,
)
from hindcast.profile.hashing import fingerprint64
from hindcast.profile.profile import (
    INVALID,
    INVALID_CATEGORY,
    NAN,
    NEW,
    NEW_VALUES_KEPT,
    NULL,
    NULL_CATEGORY,
    Profile,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pyarrow.parquet as pq

    from hindcast.profile.bins import Bins

    Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
    Integers = np.ndarray[tuple[int, ...], np.dtype[np.int64]]

MISSING = "(missing)"
# Numbers are sorted in pieces that stay in the cache.
_PIECE = 131_072
# Adding this many units to a float64 below 2**51 units rounds it to whole units, ties to even, and leaves their number
# in the low bits of the sum.
_ANCHOR = 1.5 * 2.0**52


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
        self._scratch = np.empty(_PIECE)
        self._anchors = _ANCHOR * bins.unit
        self._known = [arrow(values, pa.string()) for values in bins.categories]
        self._numeric_at = {name: i for i, name in enumerate(bins.numeric)}
        self._categorical_at = {name: i for i, name in enumerate(bins.categorical)}

    def read(self, file: pq.ParquetFile) -> None:
        """Add every row of one file.

        A column that stands twice in the file counts as invalid; the others go on.

        Raises
        ------
        pyarrow.ArrowException, OSError
            The file cannot be read; what was added of it is in the profile, so the caller starts over without it.
        """
        names = set(file.schema_arrow.names)
        wanted = [n for n in (self.sink.wants(file.schema_arrow) if self.sink else []) if n in names]
        every = (*self.bins.numeric, *self.bins.categorical)
        columns = {c: source_name(c, self.prefix) for c in every if source_name(c, self.prefix) in names}
        missing = [column for column in every if column not in columns]
        sources = list(dict.fromkeys([*wanted, *columns.values()]))
        for group in range(file.num_row_groups):
            if file.metadata.row_group(group).num_rows:
                self._block(Block(file, group, sources), wanted, columns, missing)

    def _block(self, block: Block, wanted: list[str], columns: dict[str, str], missing: list[str]) -> None:
        held = {name: block.column(name) for name in wanted}
        mask = self.sink.keep(held, block.rows) if self.sink else None
        rows = block.rows if mask is None else mask.true_count
        self.profile.rows += rows
        for column in missing:
            self._note_type(column, MISSING, rows)
        for column, source in columns.items():
            values = held.pop(source) if source in held else block.column(source)
            if mask is not None:
                values = values.filter(mask)
            self._note_type(column, type_name(values.type), rows)
            if self.sink and column.startswith("feature_"):
                self.sink.take(column, values)
            if column in self._numeric_at:
                self._numeric(self._numeric_at[column], values)
            else:
                self._categorical(self._categorical_at[column], values)
        if self.sink:
            self.sink.end_block()

    def _note_type(self, column: str, name: str, rows: int) -> None:
        if rows:
            found = self.profile.types.setdefault(column, {})
            found[name] = found.get(name, 0) + rows

    def _numeric(self, i: int, values: pa.Array) -> None:
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        slots = self.profile.numeric[i, self.bins.width :]
        slots[NULL] += values.null_count
        found = numbers(values)
        if found is None:
            slots[INVALID] += len(values) - values.null_count
            return
        absent = nulls(values)
        for start in range(0, found.size, _PIECE):
            piece = self._scratch[: min(_PIECE, found.size - start)]
            piece[:] = found[start : start + _PIECE]
            if absent is not None:
                piece[absent[start : start + _PIECE]] = np.nan
            piece.sort()  # -inf first, NaN last
            self._sorted(i, piece)
        slots[NAN] -= values.null_count  # nulls were sorted as NaN

    def _sorted(self, i: int, ordered: Floats) -> None:
        """Count sorted values; `ordered` is overwritten."""
        bins, profile = self.bins, self.profile
        first, last = np.searchsorted(ordered, -np.inf, side="right"), np.searchsorted(ordered, np.inf, side="left")
        end = np.searchsorted(ordered, np.inf, side="right")
        profile.numeric[i, bins.width + NAN : bins.width + INVALID] += (ordered.size - end, first, end - last)
        ordered = ordered[first:last]
        if not ordered.size:
            return
        edges = bins.edges[i]
        cuts = np.empty(edges.size + 2, np.intp)
        cuts[0], cuts[1:-1], cuts[-1] = 0, np.searchsorted(ordered, edges, side="right"), ordered.size
        per_bin = cuts[1:] - cuts[:-1]
        profile.numeric[i, : edges.size + 1] += per_bin
        # adding 0.0 makes one of the two zeros, so that the order of the blocks cannot show
        profile.low[i] = min(profile.low[i], ordered[0] + 0.0)
        profile.high[i] = max(profile.high[i], ordered[-1] + 0.0)
        minimum, maximum = self.expected.limits.get(bins.numeric[i], (None, None))
        if minimum is not None:
            profile.outside[i, 0] += np.searchsorted(ordered, minimum, side="left")
        if maximum is not None:
            profile.outside[i, 1] += ordered.size - np.searchsorted(ordered, maximum, side="right")
        filled = np.flatnonzero(per_bin)
        steps = np.add.reduceat(self._anchored(i, ordered), cuts[filled])
        # int64 wraps around, there and back
        profile.sums[i, filled] += steps - per_bin[filled] * self._anchors[i].view(np.int64)

    def _anchored(self, i: int, ordered: Floats) -> Integers:
        """Count units from the center, each plus the bits of the anchor; `ordered` is overwritten."""
        low, high = self.bins.limits[i]
        if ordered[0] < low or ordered[-1] > high:
            np.clip(ordered, low, high, out=ordered)
        ordered -= self.bins.center[i]
        ordered += self._anchors[i]
        return ordered.view(np.int64)

    def _categorical(self, i: int, values: pa.Array) -> None:
        bins, column = self.bins, self.bins.categorical[i]
        known, slots = len(bins.categories[i]), self.profile.categorical[i, bins.depth :]
        encoded = texts(values)
        if encoded is None:
            slots[NULL_CATEGORY] += values.null_count
            slots[INVALID_CATEGORY] += len(values) - values.null_count
            return
        dictionary, rows = encoded
        slots[NULL_CATEGORY] += len(values) - rows.sum()
        position = pc.index_in(dictionary, value_set=self._known[i])
        at, new = buffer_values(position, np.int32), nulls(position)
        at = at if new is None else np.where(new, known, at)
        per_value = np.bincount(at, weights=rows, minlength=known + 1).astype(np.int64)
        self.profile.categorical[i, :known] += per_value[:-1]
        slots[NEW] += per_value[-1]
        if per_value[-1]:
            self._new_values(column, dictionary, rows * (at == known))
        allowed = self.expected.allowed.get(column)
        if allowed is not None:
            unexpected = [value not in allowed for value in dictionary.to_pylist()]
            self.profile.outside[len(bins.numeric) + i, 0] += rows[unexpected].sum()

    def _new_values(self, column: str, dictionary: pa.Array, rows: Integers) -> None:
        new = np.flatnonzero(rows)
        values = dictionary.take(positions(new))
        # a dictionary may hold a value twice
        keys, first, at = np.unique(fingerprint64(values), return_index=True, return_inverse=True)
        counts = np.bincount(at, weights=rows[new]).astype(np.int64)
        names = values.take(positions(first[:NEW_VALUES_KEPT])).to_pylist()
        found = zip(names, keys.tolist(), counts.tolist(), strict=False)
        self.profile.add_new_values(column, {name: (key, count) for name, key, count in found})
