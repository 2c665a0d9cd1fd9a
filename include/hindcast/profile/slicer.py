"""Counts the slices of the rows that a scan passes by.

A row's bin is the number of coarse edges below its value: comparing a column with 31 edges, one after the other, is
several times as fast as searching each value among them. Slices of one column then cost one `bincount`.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hindcast.profile.columns import arrow, as_text, buffer_values, encoded, nulls, numbers, positions, source_name
from hindcast.profile.profile import INVALID, INVALID_CATEGORY, MINUS_INF, NAN, NEW, NULL, NULL_CATEGORY, PLUS_INF
from hindcast.profile.slices import NO_VERSION, SLOTS, VERSION, WIDTH, Slices, kept_values

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hindcast.profile.profile import Profile
    from hindcast.profile.slices import Slicing

    Integers = np.ndarray[tuple[int, ...], np.dtype[np.int64]]
    Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

# Fewer values than this are searched one by one, which costs no pass per edge.
_FEW = 1024
# Numbers are converted and compared in pieces.
_PIECE = 131_072
# Segments are counted together, as pairs of their values, while there are at most so many of them.
_TOGETHER = 1024
# Versions that are told apart; what is beyond belongs to none.
_VERSIONS = 1000


@dataclass
class _Segment:
    """A segment as it is counted: place 0 of `counts` and `rows` has the rows that are in no slice."""

    name: str
    values: list[str]
    open: bool
    counts: Integers
    rows: Integers

    @classmethod
    def of(cls, name: str, values: Sequence[str] | None, columns: int) -> _Segment:
        known = [*(values or ())]
        shape = (len(known) + 1, columns, SLOTS)
        return cls(name, known, values is None, np.zeros(shape, np.int64), np.zeros(len(known) + 1, np.int64))

    def meet(self, names: Sequence[str]) -> None:
        """Make room for values that were not seen before; of too many, those stay that `kept_values` says."""
        new = [name for name in names if name not in self.values] if self.open else []
        if not new:
            return
        every = [*self.values, *new]
        values = every[:_VERSIONS] if self.name == VERSION else kept_values(every)
        places = [0, *(self.values.index(v) + 1 if v in self.values else -1 for v in values)]
        counts = np.zeros((len(places), *self.counts.shape[1:]), np.int64)
        rows = np.zeros(len(places), np.int64)
        for at, before in enumerate(places):
            if before >= 0:
                counts[at], rows[at] = self.counts[before], self.rows[before]
        self.values, self.counts, self.rows = values, counts, rows


@dataclass(frozen=True)
class Coded:
    """Rows of a block: which place of a segment each belongs to, times `SLOTS`; `at` are those that are counted.

    Of several segments it is the place in the table of all combinations, the last segment's running fastest.
    """

    segments: tuple[_Segment, ...]
    codes: Integers
    at: Integers | None

    @property
    def shape(self) -> tuple[int, ...]:
        """Places of every segment."""
        return tuple(segment.rows.size for segment in self.segments)

    def joined(self, other: Coded) -> Coded | None:
        """Both as one; None where that would be too many combinations."""
        if self.at is not None or other.at is not None or math.prod(self.shape) * math.prod(other.shape) > _TOGETHER:
            return None
        codes = self.codes * math.prod(other.shape) + other.codes
        return Coded((*self.segments, *other.segments), codes, None)


class Slicer:
    """Slices of everything that a `hindcast.profile.scan.Scanner` reads.

    Versions are counted by what differs from the first one that is seen, and that one is what is left of the whole: a
    window of one version costs nothing.
    """

    def __init__(self, slicing: Slicing, prefix: str = "feature_") -> None:
        self.slicing = slicing
        self._local = threading.local()
        self._place = {column: i for i, column in enumerate(slicing.columns)}
        self._segments: dict[tuple[str, str], _Segment] = {}
        self._sources = {c: source_name(c, prefix) for columns in slicing.segments.values() for c in columns}
        self._known = [arrow(values[: WIDTH - 1], pa.string()) for values in slicing.bins.categories]
        self._others = [arrow(values[WIDTH - 1 :], pa.string()) for values in slicing.bins.categories]

    @property
    def wants(self) -> list[str]:
        """Columns, as the files name them, that say which slice a row is of."""
        return list(self._sources.values())

    def begin(self, held: Mapping[str, pa.Array], rows: int, mask: pa.Array | None) -> list[Coded]:
        """Which slices the rows of a block belong to; `mask` leaves rows out, and `rows` are left."""
        found: list[Coded] = []
        for name, columns in self.slicing.segments.items():
            column = next((column for column in columns if self._sources[column] in held), None)
            if column is None and name != VERSION:
                continue
            key = (name, column or VERSION)
            if key not in self._segments:
                values = None if column is None else columns[column]
                self._segments[key] = _Segment.of(name, values, len(self.slicing.columns))
            values = pa.nulls(rows, pa.string()) if column is None else held[self._sources[column]]
            if mask is not None and column is not None:
                values = values.filter(mask)
            coded = self._coded(self._segments[key], values)
            joined = found[-1].joined(coded) if found and coded else None
            if joined:
                found[-1] = joined
            elif coded:
                found.append(coded)
        return found

    def _coded(self, segment: _Segment, values: pa.Array) -> Coded | None:
        names, codes = _names_and_codes(values)
        if segment.name == VERSION:
            names = [NO_VERSION if name is None else name for name in names]
        used = np.bincount(codes, minlength=len(names)).tolist()
        segment.meet([name for name, n in zip(names, used, strict=True) if n and name is not None])
        place = {value: k for k, value in enumerate(segment.values, 1)}
        places = np.array([place.get(name, 0) if name is not None else 0 for name in names], np.int64)[codes]
        segment.rows += np.bincount(places, minlength=segment.rows.size)
        if segment.name == VERSION and segment.open:
            at = np.flatnonzero(places != 1)
            return Coded((segment,), places[at] * SLOTS, at) if at.size else None
        return Coded((segment,), places * SLOTS, None)

    def number(self, column: str, values: pa.Array, coded: Sequence[Coded]) -> None:
        """Count a numeric column of a block."""
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        if len(coded) == 1 and coded[0].at is not None:  # of few rows, no others need a bin
            values = values.take(positions(coded[0].at))
            coded = [replace(coded[0], at=None)]
        found, place = numbers(values), self._place[column]
        slots = np.full(len(values), WIDTH + INVALID, np.uint8)
        for start in range(0, 0 if found is None else found.size, _PIECE):
            piece = found[start : start + _PIECE].astype(np.float64, copy=False)
            slots[start : start + _PIECE] = _slots(piece, self.slicing.edges[place])
        absent = _absent(values)
        if absent is not None:
            slots[absent] = WIDTH + NULL
        self._count(place, slots, coded)

    def category(self, column: str, values: pa.Array, coded: Sequence[Coded]) -> None:
        """Count a categorical column of a block, which is best given as a dictionary."""
        place = self._place[column]
        text = _text(values)
        if text is None:
            slots, absent = np.full(len(values), WIDTH + INVALID_CATEGORY, np.uint8), _absent(values)
        else:
            names, indices = text
            absent = nulls(indices)
            codes = buffer_values(indices, indices.type.to_pandas_dtype())
            bins = np.append(self._bins(place - len(self.slicing.bins.numeric), names), np.uint8(WIDTH + NULL_CATEGORY))
            slots = bins[codes if absent is None else np.where(absent, -1, codes)]
        if absent is not None:
            slots[absent] = WIDTH + NULL_CATEGORY
        self._count(place, slots, coded)

    def _bins(self, i: int, names: pa.Array) -> Any:
        """Slot of every value of a dictionary."""
        at = pc.index_in(names, value_set=self._known[i])
        bins, unknown, nameless = buffer_values(at, np.int32).astype(np.uint8), nulls(at), nulls(names)
        if unknown is not None:
            other = numbers(pc.is_in(names, value_set=self._others[i])) == 1
            bins[unknown] = np.where(other, WIDTH - 1, WIDTH + NEW)[unknown]
        if nameless is not None:
            bins[nameless] = WIDTH + NULL_CATEGORY
        return bins

    def _count(self, place: int, slots: Any, coded: Sequence[Coded]) -> None:
        for each in coded:
            cells = each.codes + (slots if each.at is None else slots[each.at])
            shape = each.shape
            counts = np.bincount(cells, minlength=math.prod(shape) * SLOTS).reshape(*shape, SLOTS)
            for k, segment in enumerate(each.segments):
                others = tuple(axis for axis in range(len(shape)) if axis != k)
                segment.counts[:, place] += counts.sum(axis=others)

    def slices(self, profile: Profile) -> Slices:
        """Everything counted so far; `profile` is of the same rows."""
        found = Slices(self.slicing)
        for segment in self._segments.values():
            if segment.name == VERSION and segment.open and segment.values:
                segment.counts[1] = self.slicing.whole(profile) - segment.counts[0] - segment.counts[2:].sum(axis=0)
            labels = [(segment.name, value) for value in segment.values]
            kept = [at for at in range(1, len(labels) + 1) if segment.rows[at]]
            counts = {labels[at - 1]: segment.counts[at].copy() for at in kept}
            found += Slices(self.slicing, counts, {labels[at - 1]: int(segment.rows[at]) for at in kept})
        return found


def _text(values: pa.Array) -> tuple[pa.Array, pa.Array] | None:
    """A column as a dictionary of text and the indices of the rows in it; None where it has no text form."""
    encoding = None if pa.types.is_null(values.type) else encoded(values)
    names = None if encoding is None else as_text(encoding.dictionary)
    return None if encoding is None or names is None else (names, encoding.indices)


def _absent(values: pa.Array) -> Any:
    return np.ones(len(values), np.bool_) if pa.types.is_null(values.type) else nulls(values)


def _names_and_codes(values: pa.Array) -> tuple[list[str | None], Integers]:
    """A column as text and each row's position in it; the last name is None, for what is null or no text."""
    text = _text(values)
    if text is None:
        return [None], np.zeros(len(values), np.int64)
    names, indices = text
    absent = nulls(indices)
    codes = buffer_values(indices, indices.type.to_pandas_dtype()).astype(np.int64)
    return [*names.to_pylist(), None], codes if absent is None else np.where(absent, len(names), codes)


def _slots(values: Floats, edges: Floats) -> Any:
    """Bin of every value: the edges below it; or its slot beyond the bins."""
    if values.size < _FEW:
        found = np.searchsorted(edges, values, side="left").astype(np.uint8)
    else:
        found, above = np.zeros(values.size, np.uint8), np.empty(values.size, np.bool_)
        for edge in edges.tolist():
            np.greater(values, edge, out=above)
            found += above.view(np.uint8)
    strange = np.flatnonzero(~np.isfinite(values))
    if strange.size:
        odd = values[strange]
        found[strange] = WIDTH + np.where(np.isnan(odd), NAN, np.where(odd < 0, MINUS_INF, PLUS_INF))
    return found
