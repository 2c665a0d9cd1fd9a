"""What hangs on the hash of a row's id: a sample that is the same in any order of reading, and duplicate ids."""

from __future__ import annotations

import tempfile
from typing import IO, TYPE_CHECKING

import numpy as np
import pyarrow as pa

from hindcast.profile.columns import common_type, conformed, positions

if TYPE_CHECKING:
    Keys = np.ndarray[tuple[int, ...], np.dtype[np.int64]]

# All 64 bits of a seed matter: low bits alone would hardly change which hashes are smallest.
SEED = 0x5EED0FA5A3B1C297
_PARTS = 256


class DuplicateCounter:
    """Counts rows whose id was seen before, by a 64-bit fingerprint, in bounded memory.

    Beyond `in_memory` ids they spill, sorted and once each, to a temporary file; at the end one of 256 ranges of the
    hash is read at a time. Two different ids share a fingerprint once in some 2**65 / n**2 windows of n rows.

    Examples
    --------
    >>> counter = DuplicateCounter()
    >>> counter.add(np.array([1, 2, 1, 1]))
    >>> counter.count()
    2
    """

    def __init__(self, in_memory: int = 1_000_000) -> None:
        self._limit = in_memory
        self._held: list[Keys] = []
        self._size = 0
        self._rows = 0
        self._file: IO[bytes] | None = None
        self._runs: list[tuple[int, Keys]] = []  # where in the file a run starts, and each part in it

    def add(self, keys: Keys) -> None:
        """Take the fingerprints of some rows."""
        self._held.append(keys)
        self._size += keys.size
        self._rows += keys.size
        if self._size > self._limit:
            self._spill()

    def count(self) -> int:
        """Rows beyond the first of each id."""
        if not self._file:
            return self._rows - _distinct(self._held).size
        self._spill()
        different = 0
        for part in range(_PARTS):
            different += _distinct([_read(self._file, at, bounds[part : part + 2]) for at, bounds in self._runs]).size
        return self._rows - different

    def close(self) -> None:
        """Give back memory and disk."""
        if self._file:
            self._file.close()
        self._file, self._held, self._runs = None, [], []

    def _spill(self) -> None:
        if not self._held:
            return
        self._file = self._file or tempfile.TemporaryFile()  # noqa: SIM115 - lives until `close`
        keys = _distinct(self._held)
        starts = np.arange(-_PARTS // 2, _PARTS // 2, dtype=np.int64) * (2**64 // _PARTS)
        at = self._file.seek(0, 2)
        self._runs.append((at, np.append(np.searchsorted(keys, starts), keys.size)))
        self._file.write(keys.tobytes())
        self._held, self._size = [], 0


def _read(file: IO[bytes], at: int, bounds: Keys) -> Keys:
    first, last = bounds.tolist()
    file.seek(at + 8 * first)
    return np.frombuffer(file.read(8 * (last - first)), np.int64)


def _distinct(parts: list[Keys]) -> Keys:
    ordered = np.concatenate([np.empty(0, np.int64), *parts])
    ordered.sort()
    return ordered[np.append(True, ordered[1:] != ordered[:-1])] if ordered.size else ordered


class Sample:
    """The `size` rows with the smallest ``fingerprint64(id) ^ seed``: the same rows in any order of reading.

    Parameters
    ----------
    size : int
    seed : int
        Any 64 bits.

    Examples
    --------
    >>> sample = Sample(2, seed=0)
    >>> for keys, values in (([5, 3], ["five", "three"]), ([4, 9], ["four", "nine"])):
    ...     sample.begin(np.array(keys))
    ...     sample.take("feature_a", pa.array(values))
    ...     sample.end()
    >>> sample.table().to_pydict()
    {'a': ['three', 'four']}
    """

    def __init__(self, size: int, seed: int = SEED) -> None:
        self.size, self.seed = size, np.uint64(seed).view(np.int64)
        self._keys: Keys = np.empty(0, np.int64)
        self._ties = self._fresh = self._fresh_ties = self._keys
        self._rows = positions(self._keys)
        self._columns: dict[str, pa.Array] = {}
        self._block: dict[str, pa.Array] = {}

    def begin(self, keys: Keys, ties: Keys | None = None) -> None:
        """Choose among the rows of a block.

        Parameters
        ----------
        keys : int64 array of shape (n,)
        ties : int64 array of shape (n,), optional
            Which of two rows with one key comes first.
        """
        keys = keys ^ self.seed
        rows = np.arange(keys.size if self.size else 0)
        if self._keys.size >= self.size > 0:
            rows = np.flatnonzero(keys <= self._keys[-1])
        if rows.size > self.size:
            rows = rows[keys[rows] <= np.partition(keys[rows], self.size - 1)[self.size - 1]]
        self._rows, self._fresh = positions(rows), keys[rows]
        self._fresh_ties = np.zeros(rows.size, np.int64) if ties is None else ties[rows]
        self._block = {}

    def take(self, column: str, values: pa.Array) -> None:
        """One feature column of the block."""
        if len(self._rows):
            chosen = values.take(self._rows)
            self._block[column] = chosen.dictionary_decode() if pa.types.is_dictionary(chosen.type) else chosen

    def end(self) -> None:
        """Keep the smallest of what was held and what the block brought."""
        if not self._fresh.size:
            return
        keys, ties = np.append(self._keys, self._fresh), np.append(self._ties, self._fresh_ties)
        order = np.lexsort((ties, keys))[: self.size]
        rows, held = positions(order), self._keys.size
        for column in {**self._columns, **self._block}:
            old, new = self._columns.get(column), self._block.get(column)
            self._columns[column] = _stacked(old, held, new, self._fresh.size).take(rows)
        self._keys, self._ties = keys[order], ties[order]

    def table(self) -> pa.Table:
        """Features under their own names, rows by ascending key."""
        return pa.table({name.removeprefix("feature_"): values for name, values in sorted(self._columns.items())})


def _stacked(first: pa.Array | None, n_first: int, second: pa.Array | None, n_second: int) -> pa.Array:
    """One column of two files, of which one may lack it or have it in another type."""
    first = pa.nulls(n_first) if first is None else first
    second = pa.nulls(n_second) if second is None else second
    kind = common_type(first.type, second.type)
    return pa.concat_arrays([conformed(first, kind), conformed(second, kind)])
