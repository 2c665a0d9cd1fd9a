"""The kernel: rows are read once, row group by row group, each column decoded, sorted and searched for the bin edges.

Sorting a block and searching the edges in the sorted values costs about half as much as decoding it; searching every
value in the edges would cost four times as much. All that numbers need happens in place, in one scratch array.
"""

from __future__ import annotations

import threading
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hindcast.profile.columns import (
    SMALL_FILE,
    Block,
    Chosen,
    Rows,
    arrow,
    buffer_values,
    encoded,
    flat,
    flat_schema,
    nulls,
    numbers,
    positions,
    row_groups,
    sound,
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
from hindcast.profile.slicer import Slicer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from concurrent.futures import ThreadPoolExecutor

    import pyarrow.parquet as pq

    from hindcast.profile.bins import Bins
    from hindcast.profile.slicer import Coded
    from hindcast.profile.slices import Slices, Slicing

    Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
    Integers = np.ndarray[tuple[int, ...], np.dtype[np.int64]]
    Flags = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]

MISSING = "(missing)"
# Numbers are sorted in pieces that stay in the cache.
_PIECE = 131_072
# Small blocks are gathered until they have as many rows as a piece, or this many cells: some 32 MB.
_PENDING_CELLS = 4_000_000
_CELLS_WORTH_THREADS = 500_000
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


class _Layout(NamedTuple):
    """Which columns of some rows are read for what."""

    wanted: Sequence[str]  # by the sink
    columns: Mapping[str, str]  # column of the bins -> its name there
    missing: Sequence[str]  # columns of the bins that are not there

    @property
    def sources(self) -> list[str]:
        return list(dict.fromkeys([*self.wanted, *self.columns.values()]))


@dataclass
class _Pending:
    """Small tables that wait for others with the same columns and types."""

    groups: list[tuple[pa.Schema, _Layout, list[pa.Table]]] = field(default_factory=list)
    rows: int = 0
    cells: int = 0

    def add(self, table: pa.Table, layout: _Layout) -> None:
        self.rows += table.num_rows
        self.cells += table.num_rows * table.num_columns
        for other, same, tables in self.groups:
            # files that are read alike share one layout
            if layout is same or (layout == same and table.schema.equals(other)):
                tables.append(table)
                return
        self.groups.append((table.schema, layout, [table]))


class Scanner:
    """Profiles Parquet files, and rows in memory.

    Parameters
    ----------
    bins : Bins
    expected : Expected
        Ranges and allowed values to count against.
    sink : RowSink, optional
    prefix : str
        What the files call ``feature_<name>``: a training file may leave the prefix out.
    slicing : Slicing, optional
        Count the rows of these slices too.
    threads : int
        How many columns of a large block are read at once; the profile is the same for any number.

    Examples
    --------
    >>> import io
    >>> import pyarrow.parquet as pq
    >>> from hindcast.profile.bins import Bins
    >>> rows = pa.table({"feature_a": [0.5, 1.0, None], "feature_b": ["x", "z", "z"]})
    >>> file = io.BytesIO()
    >>> pq.write_table(rows, file)
    >>> bins = Bins(("feature_a",), (np.array([0.0, 1.0]),), ("feature_b",), (("x", "y"),))
    >>> scanner, other = Scanner(bins), Scanner(bins)
    >>> scanner.read(pq.ParquetFile(file))
    >>> scanner.profile.numeric.tolist()
    [[0, 2, 0, 1, 0, 0, 0, 0]]
    >>> scanner.profile.categorical.tolist(), scanner.profile.new_values["feature_b"]["z"][1]
    ([[1, 0, 2, 0, 0]], 2)

    Small files, or batches, cost less when they are read together:

    >>> with other.gathering():
    ...     for batch in rows.to_batches(max_chunksize=2):
    ...         other.add(batch)
    >>> other.profile == scanner.profile
    True
    """

    def __init__(
        self,
        bins: Bins,
        expected: Expected | None = None,
        sink: RowSink | None = None,
        *,
        prefix: str = "feature_",
        slicing: Slicing | None = None,
        threads: int = 1,
    ) -> None:
        self.bins = bins
        self.expected = expected or Expected()
        self.sink = sink
        self.threads = threads
        self.profile = Profile.empty(bins)
        self._slicer = Slicer(slicing, prefix) if slicing else None
        self._local = threading.local()
        self._pool: ThreadPoolExecutor | None = None
        self._pending: _Pending | None = None
        self._last: tuple[pq.ParquetSchema, Any, tuple[pa.Schema, _Layout, bool]] | None = None
        self._anchors = _ANCHOR * bins.unit
        self._known = [arrow(values, pa.string()) for values in bins.categories]
        self._sources = {c: source_name(c, prefix) for c in (*bins.numeric, *bins.categorical)}
        self._numeric_at = {name: i for i, name in enumerate(bins.numeric)}
        self._categorical_at = {name: i for i, name in enumerate(bins.categorical)}

    @property
    def slices(self) -> Slices | None:
        """What the slices have so far; None where none were asked for."""
        return self._slicer.slices(self.profile) if self._slicer else None

    def read(self, file: pq.ParquetFile, kept: Flags | None = None) -> None:
        """Add every row of one file, or those that are flagged as kept, (n,).

        A column that stands twice in the file counts as invalid; the others go on. With several threads the file must
        have been opened with ``pre_buffer=False``, as `open_parquet` does: that cache is not made for two readers.

        Raises
        ------
        pyarrow.ArrowException, OSError
            The file cannot be read; what was added of it is in the profile, so the caller starts over without it.
        """
        schema, layout, awkward = self._like_last(file)
        with self.gathering():
            for block in row_groups(file, layout.sources, schema=schema, awkward=awkward):
                if kept is None:
                    self._put(block, layout)
                    continue
                chosen, kept = kept[: block.rows], kept[block.rows :]
                if chosen.any():
                    self._put(block if chosen.all() else Chosen(block, chosen), layout)

    def add(self, batch: pa.RecordBatch | pa.Table) -> None:
        """Add rows that are in memory, with columns of any Arrow type.

        Raises
        ------
        pyarrow.ArrowException
            A dictionary has fewer values than its codes say.
        """
        table = flat(batch if isinstance(batch, pa.Table) else pa.Table.from_batches([batch]))
        layout = self._layout(table.schema)
        sources = set(layout.sources)
        table = sound(table.select([at for at, name in enumerate(table.schema.names) if name in sources]))
        with self.gathering():
            for start in range(0, batch.num_rows, _PIECE):
                self._put(Rows(table.slice(start, min(_PIECE, batch.num_rows - start))), layout)

    @contextmanager
    def gathering(self) -> Iterator[None]:
        """Profile small files and batches that are added inside of it together, which costs less.

        Their rows are in the profile, and were given to the sink, when it ends. After an error inside they are not,
        so the caller starts over.
        """
        if self._pending is not None:
            yield
            return
        self._pending = _Pending()
        try:
            yield
            self._flush(self._pending)
        finally:
            self._pending = None
            if self._pool:
                self._pool.shutdown(cancel_futures=True)
                self._pool = None

    def _like_last(self, file: pq.ParquetFile) -> tuple[pa.Schema, _Layout, bool]:
        """Schema of a file, its layout, and whether one may be a dictionary or struct; found anew if it is another.

        Of a thousand small files with fifty columns each, this is a tenth of all that they cost.
        """
        # of two files with one schema, text may be dictionaries in the larger one alone: see `open_parquet`
        own, facts = file.schema, (file.metadata.metadata, file.metadata.num_rows > SMALL_FILE)
        if self._last is None or facts != self._last[1] or not own.equals(self._last[0]):
            given = file.schema_arrow
            schema = flat_schema(given)
            awkward = schema is not given or any(map(pa.types.is_dictionary, schema.types))
            self._last = own, facts, (schema, self._layout(schema), awkward)
        return self._last[2]

    def _layout(self, schema: pa.Schema) -> _Layout:
        names = set(schema.names)
        asked = [*(self.sink.wants(schema) if self.sink else ()), *(self._slicer.wants if self._slicer else ())]
        wanted = [name for name in dict.fromkeys(asked) if name in names]
        columns = {column: source for column, source in self._sources.items() if source in names}
        return _Layout(wanted, columns, [column for column in self._sources if column not in columns])

    def _put(self, block: Block, layout: _Layout) -> None:
        # a table without columns forgets how many rows it has when it is joined with others
        if self._pending is None or not isinstance(block, Rows) or not block.table.num_columns:
            self._block(block, layout)
            return
        self._pending.add(block.table, layout)
        if self._pending.rows >= _PIECE or self._pending.cells >= _PENDING_CELLS:
            pending, self._pending = self._pending, _Pending()
            self._flush(pending)

    def _flush(self, pending: _Pending) -> None:
        for _, layout, tables in pending.groups:
            self._block(Rows(pa.concat_tables(tables)), layout)

    def _block(self, block: Block, layout: _Layout) -> None:
        held: dict[str, pa.Array] = {}
        # what takes microseconds is not worth a thread
        threads = self.threads if block.rows * len(layout.columns) > _CELLS_WORTH_THREADS else 1

        def hold(name: str) -> None:
            held[name] = block.column(name)

        self._each(hold, layout.wanted, threads)
        mask = self.sink.keep({name: held[name] for name in layout.wanted}, block.rows) if self.sink else None
        rows = block.rows if mask is None else mask.true_count
        self.profile.rows += rows
        coded = self._slicer.begin(held, rows, mask) if self._slicer else []
        for column in layout.missing:
            self._note_type(column, MISSING, rows)

        def count(column: str) -> None:
            source = layout.columns[column]
            values = held.pop(source) if source in held else block.column(source)
            self._column(column, values if mask is None else values.filter(mask), rows, coded)

        self._each(count, layout.columns, threads)
        if self.sink:
            self.sink.end_block()

    def _each(self, function: Callable[[str], None], names: Iterable[str], threads: int) -> None:
        """Call a function for every name; each column has rows of its own in the profile, so any order will do."""
        waiting = deque(names)

        def work() -> None:
            while waiting:
                try:
                    name = waiting.popleft()
                except IndexError:  # another thread took the last one
                    return
                function(name)

        if threads == 1 or len(waiting) < 2:
            work()
            return
        if self._pool is None:
            from concurrent.futures import ThreadPoolExecutor

            self._pool = ThreadPoolExecutor(self.threads - 1)
        others = [self._pool.submit(work) for _ in range(threads - 1)]
        try:
            work()
        finally:
            waiting.clear()
            for other in others:
                other.result()

    def _column(self, column: str, values: pa.Array, rows: int, coded: Sequence[Coded]) -> None:
        self._note_type(column, type_name(values.type), rows)
        if self.sink and column.startswith("feature_"):
            self.sink.take(column, values)
        if column in self._numeric_at:
            if coded and self._slicer:
                self._slicer.number(column, values, coded)
            self._numeric(self._numeric_at[column], values)
            return
        if coded and self._slicer:
            values = encoded(values) or values  # once for both
            self._slicer.category(column, values, coded)
        self._categorical(self._categorical_at[column], values)

    def _note_type(self, column: str, name: str, rows: int) -> None:
        if rows:
            found = self.profile.types.setdefault(column, {})
            found[name] = found.get(name, 0) + rows

    def _scratch(self) -> Floats:
        """Memory for one piece, of this thread: fresh memory would be cleared by the system each time."""
        if not hasattr(self._local, "scratch"):
            self._local.scratch = np.empty(_PIECE)
        scratch: Floats = self._local.scratch
        return scratch

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
        if found.dtype.kind in "iu" and self._counted(i, found, absent):
            return
        for start in range(0, found.size, _PIECE):
            piece = self._scratch()[: min(_PIECE, found.size - start)]
            piece[:] = found[start : start + _PIECE]
            if absent is not None:
                piece[np.flatnonzero(absent[start : start + _PIECE])] = np.nan
            piece.sort()  # -inf first, NaN last
            first, last = np.searchsorted(piece, -np.inf, side="right"), np.searchsorted(piece, np.inf, side="left")
            end = np.searchsorted(piece, np.inf, side="right")
            slots[NAN:INVALID] += (piece.size - end, first, end - last)
            self._sorted(i, piece[first:last])
        slots[NAN] -= values.null_count  # nulls were sorted as NaN

    def _counted(self, i: int, found: Any, absent: Flags | None) -> bool:
        """Count integers of a small range without sorting them; False where the range is large."""
        if not found.size:
            return True
        low, high = int(found.min()), int(found.max())
        if high - low >= found.size:
            return False
        if low >= 0 and high < found.size:
            low, steps = 0, found.astype(np.int64, copy=False)
        else:  # whatever the type, differences are right, for int64 wraps around
            steps = np.subtract(found, found.dtype.type(low), dtype=np.int64, casting="unsafe")
        rows = np.bincount(steps)
        if absent is not None:  # counted and taken back: there are few
            rows -= np.bincount(steps[np.flatnonzero(absent)], minlength=rows.size)
        filled = np.flatnonzero(rows)
        self._sorted(i, (filled.astype(found.dtype) + found.dtype.type(low)).astype(np.float64), rows[filled])
        return True

    def _sorted(self, i: int, ordered: Floats, rows: Integers | None = None) -> None:
        """Count sorted finite values, `rows` times each or once; `ordered` is overwritten."""
        if not ordered.size:
            return
        bins, profile, edges = self.bins, self.profile, self.bins.edges[i]
        cuts = np.empty(edges.size + 2, np.intp)
        cuts[0], cuts[1:-1], cuts[-1] = 0, np.searchsorted(ordered, edges, side="right"), ordered.size
        before = None if rows is None else np.append(0, np.cumsum(rows))  # rows before each value
        per_bin = np.diff(cuts if before is None else before[cuts])
        profile.numeric[i, : edges.size + 1] += per_bin
        # adding 0.0 makes one of the two zeros, so that the order of the blocks cannot show
        profile.low[i] = min(profile.low[i], ordered[0] + 0.0)
        profile.high[i] = max(profile.high[i], ordered[-1] + 0.0)
        minimum, maximum = self.expected.limits.get(bins.numeric[i], (None, None))
        if minimum is not None:
            below = np.searchsorted(ordered, minimum, side="left")
            profile.outside[i, 0] += below if before is None else before[below]
        if maximum is not None:
            within = np.searchsorted(ordered, maximum, side="right")
            profile.outside[i, 1] += ordered.size - within if before is None else before[-1] - before[within]
        filled = np.flatnonzero(per_bin)
        anchor = self._anchors[i].view(np.int64)
        steps = self._anchored(i, ordered)
        if rows is not None:
            steps = (steps - anchor) * rows
        # int64 wraps around, there and back
        totals = np.add.reduceat(steps, cuts[filled])
        profile.sums[i, filled] += totals if rows is not None else totals - per_bin[filled] * anchor

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
            expected = pc.is_in(dictionary, value_set=arrow(sorted(allowed), pa.string()))
            self.profile.outside[len(bins.numeric) + i, 0] += rows[numbers(expected) == 0].sum()

    def _new_values(self, column: str, dictionary: pa.Array, rows: Integers) -> None:
        new = np.flatnonzero(rows)
        values = dictionary.take(positions(new))
        keys = fingerprint64(values)
        # a dictionary may hold a million: only those with the smallest hashes are told by name
        kept = np.flatnonzero(keys <= np.unique(keys)[:NEW_VALUES_KEPT][-1])
        # and it may hold a value twice
        keys, first, at = np.unique(keys[kept], return_index=True, return_inverse=True)
        counts = np.bincount(at, weights=rows[new[kept]]).astype(np.int64)
        names = values.take(positions(kept[first])).to_pylist()
        found = zip(names, keys.tolist(), counts.tolist(), strict=True)
        self.profile.add_new_values(column, {name: (key, count) for name, key, count in found})
