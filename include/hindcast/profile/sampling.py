"""What hangs on the hash of a row's id: a sample that is the same in any order of reading, and duplicate ids."""

from __future__ import annotations

import tempfile
from typing import IO, TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hindcast.errors import UsageError
from hindcast.profile.columns import as_text, buffer_values, common_type, conformed, positions

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    Keys = np.ndarray[tuple[int, ...], np.dtype[np.int64]]

# All 64 bits of a seed matter: low bits alone would hardly change which hashes are smallest.
SEED = 0x5EED0FA5A3B1C297
_PARTS = 256


class DuplicateCounter:
    """Counts rows whose id was seen before, by a 64-bit fingerprint, in bounded memory.

    Beyond `in_memory` ids they spill, sorted and at most twice each, to a temporary file; at the end one of 256 ranges
    of the hash is read at a time. Two different ids share a fingerprint once in some 2**65 / n**2 windows of n rows.

    Examples
    --------
    >>> counter = DuplicateCounter()
    >>> counter.add(np.array([1, 2, 1, 1]))
    >>> counter.count(), [keys.tolist() for keys in counter.repeated()]
    (2, [[1]])
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

    def repeated(self, at_once: int = 1_000_000) -> Iterator[Keys]:
        """Ids of more than one row, ascending, in portions of about `at_once`; nothing may be added any more."""
        if not self._file:
            found = _repeated(self._held)
            if found.size:
                yield found
            return
        self._spill()
        held: list[Keys] = []
        for part in range(_PARTS):
            held.append(_repeated([_read(self._file, at, bounds[part : part + 2]) for at, bounds in self._runs]))
            if sum(keys.size for keys in held) >= at_once or part == _PARTS - 1:
                found, held = np.concatenate(held), []
                if found.size:
                    yield found

    def close(self) -> None:
        """Give back memory and disk."""
        if self._file:
            self._file.close()
        self._file, self._held, self._runs = None, [], []

    def _spill(self) -> None:
        if not self._held:
            return
        self._file = self._file or tempfile.TemporaryFile()  # noqa: SIM115 - lives until `close`
        keys = _at_most_twice(self._held)
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


def _at_most_twice(parts: list[Keys]) -> Keys:
    ordered = np.concatenate([np.empty(0, np.int64), *parts])
    ordered.sort()
    kept: Keys = ordered[np.append([True, True], ordered[2:] != ordered[:-2])[: ordered.size]]
    return kept


def _repeated(parts: list[Keys]) -> Keys:
    ordered = np.concatenate([np.empty(0, np.int64), *parts])
    ordered.sort()
    return _distinct([ordered[1:][ordered[1:] == ordered[:-1]]])


class Sample:
    """The `size` rows with the smallest ``fingerprint64(id) ^ seed``: the same rows in any order and any split.

    Rows of one key and one tie are ordered by their values as text, so that nothing depends on which came first. A
    type that differs between files becomes what `hindcast.profile.columns.common_type` says of all rows ever seen,
    sampled or not.

    Parameters
    ----------
    size : int
    seed : int
        Any 64 bits.

    Examples
    --------
    >>> first, second = Sample(2, seed=0), Sample(2, seed=0)
    >>> for sample, keys, values in ((first, [5, 3], ["five", "three"]), (second, [4, 9], ["four", "nine"])):
    ...     sample.begin(np.array(keys))
    ...     sample.take("feature_a", pa.array(values))
    ...     sample.end()
    >>> first.merge(Sample.from_arrow(second.to_arrow()))
    >>> first.table().to_pydict()
    {'a': ['three', 'four']}
    """

    def __init__(self, size: int, seed: int = SEED) -> None:
        self.size, self.seed = size, np.uint64(seed % 2**64).view(np.int64)
        self._keys: Keys = np.empty(0, np.int64)
        self._ties: Keys = self._keys
        self._fresh: Keys = self._keys
        self._fresh_ties: Keys = self._keys
        self._rows = positions(self._keys)
        self._columns: dict[str, pa.Array] = {}
        self._block: dict[str, pa.Array] = {}
        self._types: dict[str, pa.DataType] = {}

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
        if self.size and len(values):
            kind = values.type.value_type if pa.types.is_dictionary(values.type) else values.type
            self._types[column] = common_type(self._types.get(column, pa.null()), kind)
        if len(self._rows):
            chosen = values.take(self._rows)
            chosen = chosen.dictionary_decode() if pa.types.is_dictionary(chosen.type) else chosen
            self._block[column] = _one_zero(chosen)

    def end(self) -> None:
        """Keep the smallest of what was held and what the block brought."""
        if not self._fresh.size:
            return
        keys, ties = np.append(self._keys, self._fresh), np.append(self._ties, self._fresh_ties)
        held, fresh = self._keys.size, self._fresh.size
        columns = {
            name: _stacked(self._columns.get(name), held, self._block.get(name), fresh)
            for name in {**self._columns, **self._block}
        }
        rows = _order(keys, ties, columns)[: self.size]
        self._columns = {name: values.take(positions(rows)) for name, values in columns.items()}
        self._keys, self._ties = keys[rows], ties[rows]
        self._fresh, self._block = self._fresh[:0], {}

    def merge(self, other: Sample) -> None:
        """Add what a sample of other rows holds, as if these had been read here.

        Raises
        ------
        UsageError
            The other has another size or seed.
        """
        if (self.size, self.seed) != (other.size, other.seed):
            raise UsageError("samples of different size or seed do not add up")
        for name, kind in other._types.items():
            self._types[name] = common_type(self._types.get(name, pa.null()), kind)
        self._fresh, self._fresh_ties, self._block = other._keys, other._ties, dict(other._columns)
        self.end()

    def to_arrow(self) -> pa.Table:
        """Everything: columns ``key`` and ``tie``, and one per feature; size and seed are metadata."""
        columns = {"key": positions(self._keys), "tie": positions(self._ties), **self._conformed()}
        metadata = {"size": str(self.size), "seed": str(self.seed)}
        return pa.table(columns).replace_schema_metadata(metadata)

    @classmethod
    def from_arrow(cls, table: pa.Table) -> Sample:
        """Read what `to_arrow` gave."""
        sample = cls(*(int(table.schema.metadata[name]) for name in (b"size", b"seed")))
        columns = {name: _joined(table.column(name)) for name in table.column_names}
        sample._keys, sample._ties = (buffer_values(columns.pop(name), np.int64) for name in ("key", "tie"))
        sample._columns, sample._types = columns, {name: values.type for name, values in columns.items()}
        return sample

    def table(self) -> pa.Table:
        """Features under their own names, rows by ascending key."""
        return pa.table({name.removeprefix("feature_"): values for name, values in self._conformed().items()})

    def _conformed(self) -> dict[str, pa.Array]:
        """Columns by name, each in the type for all rows seen."""
        empty = pa.nulls(self._keys.size)
        return {n: conformed(self._columns.get(n, empty), kind) for n, kind in sorted(self._types.items())}


def _order(keys: Keys, ties: Keys, columns: Mapping[str, pa.Array]) -> Keys:
    """Rows by key, then tie, then content."""
    order = np.lexsort((ties, keys))
    same = (np.diff(keys[order]) == 0) & (np.diff(ties[order]) == 0)
    if not same.any():
        return order
    alike = np.flatnonzero(np.append(same, False) | np.append(False, same))
    texts = [as_text(columns[name].take(positions(order[alike]))) for name in sorted(columns)]
    content = list(zip(*(text.to_pylist() for text in texts if text is not None), strict=True)) or [()] * alike.size
    by_content = sorted(
        range(alike.size),
        key=lambda k: (keys[order[alike[k]]], ties[order[alike[k]]], [(v is not None, v or "") for v in content[k]]),
    )
    order[alike] = order[alike[by_content]]
    return order


def _one_zero(values: pa.Array) -> pa.Array:
    """Without negative zeros, which as text are zeros too."""
    if not (pa.types.is_float32(values.type) or pa.types.is_float64(values.type)):
        return values
    zeros = np.zeros(len(values), values.type.to_pandas_dtype())
    return pc.add(values, pa.Array.from_buffers(values.type, len(values), [None, pa.py_buffer(zeros)]))


def _joined(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks or [pa.nulls(0, column.type)])


def _stacked(first: pa.Array | None, n_first: int, second: pa.Array | None, n_second: int) -> pa.Array:
    """One column of two files, of which one may lack it or have it in another type."""
    first = pa.nulls(n_first) if first is None else first
    second = pa.nulls(n_second) if second is None else second
    kind = common_type(first.type, second.type)
    return pa.concat_arrays([conformed(first, kind), conformed(second, kind)])
