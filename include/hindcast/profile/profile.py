"""The profile of some rows: counts and sums per bin. Adding two gives the profile of both, exactly, in any order."""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from hindcast.errors import UsageError

if TYPE_CHECKING:
    from hindcast.profile.bins import Bins

    Integers = np.ndarray[tuple[int, ...], np.dtype[np.int64]]
    Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

# What follows a numeric column's bins: values that lie in none.
NULL, NAN, MINUS_INF, PLUS_INF, INVALID = range(5)
# What follows a categorical column's known values.
NEW, NULL_CATEGORY, INVALID_CATEGORY = range(3)
NEW_VALUES_KEPT = 100
_MAGIC = b"HCP2"
_FRAME = struct.Struct("<II")  # bytes unpacked, and CRC-32 of that number and the packed ones


@dataclass
class Profile:
    """Counts and sums of some rows in the bins of one reference.

    Attributes
    ----------
    numeric : int64 array of shape (n_numeric, width + 5)
        Counts per bin, then null, NaN, -inf, +inf, and invalid (not a number at all).
    sums : int64 array of shape (n_numeric, width)
        Sum per bin of ``round((value - center) / unit)``; see `Profile.values`.
    categorical : int64 array of shape (n_categorical, depth + 3)
        Counts per known value, then new, null, and invalid.
    low, high : float64 arrays of shape (n_numeric,)
        Smallest and largest finite value; +inf and -inf when there is none.
    outside : int64 array of shape (n_numeric + n_categorical, 2)
        Rows below and above the configured range; rows with a value that is not allowed (first column).
    types : dict
        Arrow type as found -> rows, per column.
    new_values : dict
        Per categorical column, the new values with the smallest hashes: value -> [hash, rows]. Which ones are kept does
        not depend on the order of the rows, so merging stays exact.
    """

    bins: Bins
    rows: int = 0
    numeric: Integers = field(default_factory=lambda: np.empty(0, np.int64))
    sums: Integers = field(default_factory=lambda: np.empty(0, np.int64))
    categorical: Integers = field(default_factory=lambda: np.empty(0, np.int64))
    low: Floats = field(default_factory=lambda: np.empty(0))
    high: Floats = field(default_factory=lambda: np.empty(0))
    outside: Integers = field(default_factory=lambda: np.empty(0, np.int64))
    types: dict[str, dict[str, int]] = field(default_factory=dict)
    new_values: dict[str, dict[str, tuple[int, int]]] = field(default_factory=dict)

    @classmethod
    def empty(cls, bins: Bins) -> Profile:
        """Profile of no rows."""
        n, c = len(bins.numeric), len(bins.categorical)
        return cls(
            bins,
            0,
            np.zeros((n, bins.width + 5), np.int64),
            np.zeros((n, bins.width), np.int64),
            np.zeros((c, bins.depth + 3), np.int64),
            np.full(n, np.inf),
            np.full(n, -np.inf),
            np.zeros((n + c, 2), np.int64),
        )

    def __iadd__(self, other: Profile) -> Self:
        if self.bins.digest != other.bins.digest:
            message = f"profiles of different bins cannot be added: {self.bins.digest} and {other.bins.digest}"
            raise UsageError(message)
        self.rows += other.rows
        self.numeric += other.numeric
        self.sums += other.sums
        self.categorical += other.categorical
        np.minimum(self.low, other.low, out=self.low)
        np.maximum(self.high, other.high, out=self.high)
        self.outside += other.outside
        for column, found in other.types.items():
            mine = self.types.setdefault(column, {})
            for name, rows in found.items():
                mine[name] = mine.get(name, 0) + rows
        for column, values in other.new_values.items():
            self.add_new_values(column, values)
        return self

    def __add__(self, other: Profile) -> Profile:
        total = Profile.empty(self.bins)
        total += self
        total += other
        return total

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Profile) and self.to_bytes() == other.to_bytes()

    __hash__ = None  # type: ignore[assignment] # mutable

    def add_new_values(self, column: str, values: dict[str, tuple[int, int]]) -> None:
        """Count new values; of too many, the ones with the smallest hashes stay by name."""
        mine = self.new_values.setdefault(column, {})
        for value, (key, rows) in values.items():
            mine[value] = (key, rows + mine.get(value, (key, 0))[1])
        if len(mine) > NEW_VALUES_KEPT:
            kept = sorted(mine, key=lambda value: (mine[value][0], value))[:NEW_VALUES_KEPT]
            self.new_values[column] = {value: mine[value] for value in kept}

    def values(self) -> Floats:
        """Sum of the values in every numeric bin, (n_numeric, width), in the column's own unit."""
        counts = self.numeric[:, : self.bins.width]
        return self.sums * self.bins.unit[:, None] + counts * self.bins.center[:, None]

    def to_bytes(self) -> bytes:
        """Compact form: only the bins that are not empty, compressed; no bins inside (see `export`)."""
        flat = np.concatenate([self.numeric.ravel(), self.categorical.ravel(), self.outside.ravel()])
        filled, summed = np.flatnonzero(flat), np.flatnonzero(self.sums)
        whole = [_narrow(np.diff(filled, prepend=0)), _narrow(flat[filled]), _narrow(np.diff(summed, prepend=0))]
        header = {
            "rows": self.rows,
            "bins": self.bins.digest,
            "filled": int(filled.size),
            "summed": int(summed.size),
            "widths": [array.itemsize for array in whole],
            "types": {k: dict(sorted(v.items())) for k, v in sorted(self.types.items())},
            "new": {k: dict(sorted(v.items())) for k, v in sorted(self.new_values.items()) if v},
        }
        text = json.dumps(header, separators=(",", ":")).encode()
        # The sums' bytes lie place by place, all the high ones together: those are alike, and pack well.
        sums = self.sums.ravel()[summed].astype("<i8").view(np.uint8).reshape(-1, 8).T
        arrays = [*whole, sums, self.low.astype("<f8"), self.high.astype("<f8")]
        body = b"".join([struct.pack("<I", len(text)), text, *(a.tobytes() for a in arrays)])
        packed = bytes(codec().compress(body, asbytes=True))
        return _MAGIC + _FRAME.pack(len(body), zlib.crc32(packed, len(body))) + packed

    @classmethod
    def from_bytes(cls, content: bytes, bins: Bins) -> Profile:
        """Read what `to_bytes` wrote.

        Raises
        ------
        UsageError
            The content is no profile, or of other bins.
        """
        hour = Sparse.from_bytes(content, bins)
        profile = cls.empty(bins)
        flat = np.zeros(profile.numeric.size + profile.categorical.size + profile.outside.size, np.int64)
        flat[hour.filled] = hour.counts
        first, second = profile.numeric.size, profile.numeric.size + profile.categorical.size
        profile.numeric = flat[:first].reshape(profile.numeric.shape)
        profile.categorical = flat[first:second].reshape(profile.categorical.shape)
        profile.outside = flat[second:].reshape(profile.outside.shape)
        profile.sums.ravel()[hour.summed] = hour.sums
        profile.low, profile.high = hour.low.copy(), hour.high.copy()
        profile.rows, profile.types = hour.rows, hour.header["types"]
        profile.new_values = {k: {n: (h, r) for n, (h, r) in v.items()} for k, v in hour.header["new"].items()}
        return profile


def high_cardinality(fitted: Profile) -> dict[str, float]:
    """Categorical columns with more values than bins were fitted: what is "new" in them may be as old as the reference.

    Parameters
    ----------
    fitted : Profile
        Of the rows that its bins were fitted to.

    Returns
    -------
    dict
        Column -> share of the rows with text that have no bin of their own, in (0, 1]. Empty when bins hold all values.

    Examples
    --------
    >>> from hindcast.profile.bins import Bins
    >>> profile = Profile.empty(Bins((), (), ("feature_city", "feature_plan"), (("Rome",), ("free", "paid"))))
    >>> profile.categorical[:] = [[6, 0, 2, 1, 0], [5, 4, 0, 0, 0]]  # known, known, new, null, invalid
    >>> high_cardinality(profile)
    {'feature_city': 0.25}
    """
    depth = fitted.bins.depth
    known, new = fitted.categorical[:, :depth].sum(axis=1), fitted.categorical[:, depth + NEW]
    counts = zip(fitted.bins.categorical, known.tolist(), new.tolist(), strict=True)
    return {column: rest / (rows + rest) for column, rows, rest in counts if rest}


@dataclass(frozen=True)
class Sparse:
    """The bins of a stored profile that are not empty: what baselines are summed from, at some microseconds an hour.

    Attributes
    ----------
    filled, counts : arrays of shape (n_filled,)
        Positions in ``numeric.ravel()`` followed by ``categorical.ravel()`` and ``outside.ravel()``, and the counts
        there.
    summed, sums : arrays of shape (n_summed,)
        Positions in ``sums.ravel()``, and the fixed-point sums there.
    """

    rows: int
    filled: np.ndarray[tuple[int, ...], np.dtype[np.int32]]
    counts: Integers
    summed: np.ndarray[tuple[int, ...], np.dtype[np.int32]]
    sums: Integers
    low: Floats
    high: Floats
    header: dict[str, Any]

    @classmethod
    def from_bytes(cls, content: bytes, bins: Bins) -> Sparse:
        """Read what `Profile.to_bytes` wrote; same errors as `Profile.from_bytes`."""
        try:
            return cls._read(content, bins)
        except (OSError, struct.error, ValueError, KeyError) as error:
            message = f"not a profile, or a damaged one: {error!r}"
            raise UsageError(message) from error

    @classmethod
    def _read(cls, content: bytes, bins: Bins) -> Sparse:
        if content[:4] != _MAGIC:
            if content[:3] == _MAGIC[:3]:
                message = "a profile of another version of Hindcast, or a damaged one; replay into a new results store"
                raise UsageError(message)
            message = "it does not start like one"
            raise ValueError(message)
        (length, checksum), packed = _FRAME.unpack_from(content, 4), content[4 + _FRAME.size :]
        if zlib.crc32(packed, length) != checksum:
            message = "its checksum is wrong"
            raise ValueError(message)
        body = codec().decompress(packed, length, asbytes=True)
        (size,) = struct.unpack_from("<I", body)
        header = json.loads(body[4 : 4 + size])
        if header["bins"] != bins.digest:
            message = f"a profile of bins {header['bins']} cannot be read with bins {bins.digest}"
            raise UsageError(message)
        at = 4 + size

        def take(dtype: str, n: int) -> Any:
            nonlocal at
            array = np.frombuffer(body, dtype, n, at)
            at += array.nbytes
            return array

        of_filled, of_counts, of_summed = (f"<u{width}" for width in header["widths"])
        filled = np.cumsum(take(of_filled, header["filled"]), dtype=np.int32)
        counts = take(of_counts, header["filled"]).astype(np.int64)
        summed = np.cumsum(take(of_summed, header["summed"]), dtype=np.int32)
        places = take("u1", 8 * header["summed"]).reshape(8, -1)
        sums = np.ascontiguousarray(places.T).view("<i8").ravel()
        low, high = take("<f8", len(bins.numeric)), take("<f8", len(bins.numeric))
        return cls(header["rows"], filled, counts, summed, sums, low, high, header)


@lru_cache
def codec() -> Any:
    """A baseline opens hundreds of profiles: zstandard opens one in a quarter of zlib's time, of half the bytes."""
    import pyarrow as pa

    return pa.Codec("zstd", compression_level=1)


def _narrow(values: Integers) -> np.ndarray[tuple[int, ...], np.dtype[np.unsignedinteger[Any]]]:
    """The same whole numbers, none below 0, in as few bytes as the largest needs."""
    return values.astype(np.min_scalar_type(int(values.max(initial=0))).newbyteorder("<"))
