"""Rows that at-least-once loggers wrote twice: which of them stay, whatever the order of files, rows and threads.

Of the rows with one id the earliest by ``timestamp`` stays (one without comes last); of those of one moment, the one
with the smallest hash of its values; rows that are the same in everything are interchangeable. Rows without an id are
all kept. Nothing else of the window is looked at: the same id in two windows is two rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from hindcast.profile.columns import arrow, as_text, buffer_values, flat_schema, nulls, positions, row_groups
from hindcast.profile.facts import as_moments, within
from hindcast.profile.hashing import fingerprint64
from hindcast.profile.sampling import DuplicateCounter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import pyarrow.parquet as pq

    from hindcast.engines.base import Plan
    from hindcast.profile.columns import Block

    Integers = np.ndarray[tuple[int, ...], np.dtype[np.int64]]
    Flags = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]
    Bytes = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
    # Opens an object by its number; None if it cannot be read.
    Open = Callable[[int], pq.ParquetFile | None]

_ID, _TIME = "prediction_id", "timestamp"
_NO_MOMENT = np.iinfo(np.int64).max
_MOST_ROWS = 1_000_000
_ODD = np.uint64(0x9E3779B97F4A7C15)


@dataclass
class Repeats:
    """What is left out of a window.

    Attributes
    ----------
    rows : int
        How many.
    marks : dict
        Number of an object -> a bit per row of it, set for those that are left out.
    """

    rows: int = 0
    marks: dict[int, Bytes] = field(default_factory=dict)

    def kept(self, item: int, file: pq.ParquetFile) -> Flags | None:
        """Which rows of an object stay, (n,); None if all do."""
        if item not in self.marks:
            return None
        gone = np.unpackbits(self.marks[item])[: file.metadata.num_rows]
        stay: Flags = np.ones(file.metadata.num_rows, np.bool_)  # there may be no bits for the last rows
        stay[: gone.size] = gone == 0
        return stay


def find_repeats(plan: Plan, items: Sequence[int], opened: Open) -> Repeats:
    """Read the ids of a window; where some stand twice, read those rows again, whole.

    Memory is a bit per row of the objects concerned and some 100 MB, however many ids stand twice: they are taken in
    ranges of the hash, each of which is looked for on its own.

    Raises
    ------
    pyarrow.ArrowException, OSError
        An object is damaged.
    """
    counter = DuplicateCounter()
    try:
        for item in items:
            for block, _ in blocks(opened(item), whole=False):
                keys, judged, _ = keys_of(plan, block)
                counter.add(keys[judged])
        found = Repeats(counter.count())
        for repeated in counter.repeated() if found.rows else ():
            _mark(found, plan, items, opened, repeated)
    finally:
        counter.close()
    return found


def _mark(found: Repeats, plan: Plan, items: Sequence[int], opened: Open, repeated: Integers) -> None:
    """Mark every row with one of these ids, ascending, but for the one of each that stays."""
    stays: Integers = np.empty((5, 0), np.int64)  # key, moment, content, object, row
    for item in items:
        file = opened(item)
        flags = np.zeros(file.metadata.num_rows if file else 0, np.bool_)
        names = flat_schema(file.schema_arrow).names if file else []
        for block, at in blocks(file, whole=True):
            found_here = copies(plan, block, names, repeated, item, at)
            flags[found_here[4]] = True
            stays = np.hstack([stays, found_here])
            stays = first_of_each(stays) if stays.shape[1] > _MOST_ROWS else stays
        if flags.any():
            marks = np.packbits(flags)
            found.marks[item] = marks | found.marks[item] if item in found.marks else marks
    for _, _, _, item, row in first_of_each(stays).T.tolist():
        found.marks[item][row >> 3] &= np.uint8(0xFF ^ (0x80 >> (row & 7)))


def copies(plan: Plan, block: Block, names: Sequence[str], repeated: Integers, item: int, at: int) -> Integers:
    """What decides about the rows of a block that have one of some ids, ascending: (5, m).

    Key, moment, hash of the content, number of the object, and of the row in it; `at` rows are before the block.
    """
    keys, judged, moments = keys_of(plan, block)
    place = np.minimum(np.searchsorted(repeated, keys), repeated.size - 1)
    rows = np.flatnonzero(judged & (repeated[place] == keys))
    if not rows.size:
        return np.empty((5, 0), np.int64)
    content = content_of(block, names, rows)
    return np.stack([keys[rows], moments[rows], content, np.full(rows.size, item, np.int64), at + rows])


def first_of_each(rows: Integers) -> Integers:
    """Columns with the smallest of everything of each key."""
    ordered = rows[:, np.lexsort(rows[::-1])]
    return ordered[:, np.append(True, ordered[0, 1:] != ordered[0, :-1])] if ordered.size else ordered


def blocks(file: pq.ParquetFile | None, *, whole: bool) -> Iterator[tuple[Block, int]]:
    """Row groups of an object, with how many rows are before each; only ids and moments unless `whole`."""
    if file is None:
        return
    at = 0
    schema = flat_schema(file.schema_arrow)
    names = dict.fromkeys(schema.names) if whole else [name for name in (_ID, _TIME) if name in schema.names]
    for block in row_groups(file, list(names), schema=schema):
        yield block, at
        at += block.rows


def keys_of(plan: Plan, block: Block) -> tuple[Integers, Flags, Integers]:
    """Fingerprint of each row's id, (n,); which rows have an id and lie in the window; and their moments."""
    ids = _texts(block, _ID)
    if ids is None:
        return np.zeros(block.rows, np.int64), np.zeros(block.rows, np.bool_), np.zeros(block.rows, np.int64)
    absent = nulls(ids)
    judged = np.ones(block.rows, np.bool_) if absent is None else ~absent
    times = as_moments(_decoded(block.column(_TIME)))
    if plan.manifest.layout == "flat":
        judged = judged & within(times, plan.start, plan.end)
    moments, undated = buffer_values(times, np.int64), nulls(times)
    return fingerprint64(ids), judged, moments if undated is None else np.where(undated, _NO_MOMENT, moments)


def _decoded(values: pa.Array) -> pa.Array:
    return values.dictionary_decode() if pa.types.is_dictionary(values.type) else values


def _texts(block: Block, name: str, rows: Integers | None = None) -> pa.Array | None:
    values = block.column(name)
    return as_text(_decoded(values if rows is None else values.take(positions(rows))))


def content_of(block: Block, names: Sequence[str], rows: Integers) -> Integers:
    """Hash of the values of some rows, (n,), as text under their names: the same in any order and encoding."""
    mixed = np.zeros(rows.size, np.uint64)
    for name in sorted({*names} - {_ID, _TIME}):
        texts = _texts(block, name, rows)
        if texts is None or texts.null_count == rows.size:
            continue
        own = fingerprint64(texts).view(np.uint64) ^ fingerprint64(arrow([name], pa.string())).view(np.uint64)
        own = (own ^ (own >> np.uint64(29))) * _ODD
        absent = nulls(texts)
        mixed += own if absent is None else np.where(absent, np.uint64(0), own)
    return mixed.view(np.int64)
