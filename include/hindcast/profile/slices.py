"""Slices: the rows of each segment value and model version, counted in coarse bins in the same pass.

A slice has at most 32 bins per column, each a run of the reference's fine ones, so that an hour of forty slices is
stored in some kilobytes. Adding the slices of two parts of a window gives those of both, exactly, in any order.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from hindcast.errors import UsageError
from hindcast.profile.columns import arrow
from hindcast.profile.hashing import fingerprint64
from hindcast.profile.profile import NEW_VALUES_KEPT, codec

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from hindcast.profile.bins import Bins
    from hindcast.profile.profile import Profile

    Integers = np.ndarray[tuple[int, ...], np.dtype[np.int64]]
    Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
    Label = tuple[str, str]

# Bins per column, and with what follows them: the slots of `hindcast.profile.profile`, numeric or categorical.
WIDTH = 32
SLOTS = WIDTH + 5
# The one slicing that every model has; rows without a version are of this one.
VERSION, NO_VERSION = "model_version", "unknown"
# A bin of so much of the reference, or more, stays by itself.
_HEAVY = 1 / 12
_MAGIC = b"HCS1"
_FRAME = struct.Struct("<II")


@dataclass(frozen=True)
class Slicing:
    """Which rows make a slice, and the coarse bins of every column.

    Parameters
    ----------
    bins : Bins
        The fine bins, which the coarse ones are made of.
    edges : tuple of float64 arrays
        Per numeric column at most 31 of its edges.
    segments : mapping
        Segment -> column of the log that may hold it, the first that is there -> its values; None for any value, of
        too many those with the smallest hashes.
    """

    bins: Bins
    edges: tuple[Floats, ...]
    segments: Mapping[str, Mapping[str, tuple[str, ...] | None]]

    @classmethod
    def of(cls, fitted: Profile, segments: Mapping[str, Mapping[str, tuple[str, ...] | None]]) -> Slicing:
        """Coarse bins of about equal mass in the rows that the fine ones were fitted to."""
        bins = fitted.bins
        edges = (coarse_edges(edges, fitted.numeric[i, : edges.size + 1]) for i, edges in enumerate(bins.edges))
        return cls(bins, tuple(edges), segments)

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Every column that is counted, the numeric ones first."""
        return (*self.bins.numeric, *self.bins.categorical)

    @cached_property
    def digest(self) -> str:
        """Names the coarse bins; slices of two digests are never added."""
        digest = hashlib.sha256(b"hindcast-slices-1" + self.bins.digest.encode())
        for edges in self.edges:
            digest.update(json.dumps(edges.size).encode() + edges.astype("<f8").tobytes())
        return digest.hexdigest()[:16]

    @cached_property
    def asked(self) -> str:
        """Names the coarse bins and the slices that are asked for."""
        asked = json.dumps([self.digest, {name: dict(columns) for name, columns in self.segments.items()}])
        return hashlib.sha256(asked.encode()).hexdigest()[:16]

    def whole(self, profile: Profile) -> Integers:
        """Counts of a profile in the coarse bins, (n_columns, SLOTS)."""
        found, n = np.zeros((len(self.columns), SLOTS), np.int64), len(self.bins.numeric)
        for i, (fine, coarse) in enumerate(zip(self.bins.edges, self.edges, strict=True)):
            starts = np.append(0, np.searchsorted(fine, coarse) + 1)
            found[i, : starts.size] = np.add.reduceat(profile.numeric[i, : fine.size + 1], starts)
            found[i, WIDTH:] = profile.numeric[i, self.bins.width :]
        for i, values in enumerate(self.bins.categories):
            counts = profile.categorical[i, : len(values)]
            known = min(len(values), WIDTH - 1)
            found[n + i, :known], found[n + i, WIDTH - 1] = counts[:known], counts[known:].sum()
            found[n + i, WIDTH : WIDTH + 3] = profile.categorical[i, self.bins.depth :]
        return found


def coarse_edges(edges: Floats, counts: Integers) -> Floats:
    """At most 31 of some edges: the ends of what was seen, both sides of heavy bins, and quantiles.

    Parameters
    ----------
    edges : float64 array of shape (n,), ascending
    counts : int array of shape (n + 1,)
        Rows per bin.

    Examples
    --------
    >>> edges = np.arange(100.0)
    >>> counts = np.ones(101, int)
    >>> counts[[0, 51, 100]] = 0, 40, 0
    >>> found = coarse_edges(edges, counts).tolist()
    >>> len(found) <= 31, found[0], {50.0, 51.0} <= set(found), found[-1]
    (True, 0.0, True, 99.0)
    """
    filled = np.flatnonzero(counts)
    if edges.size < WIDTH or not filled.size:
        return edges[: WIDTH - 1]
    share = np.cumsum(counts) / counts.sum()
    heavy = np.flatnonzero(np.diff(share, prepend=0) >= _HEAVY)
    kept = {int(filled[0]) - 1, int(filled[-1]), *(heavy - 1).tolist(), *heavy.tolist()}
    kept = {at for at in kept if 0 <= at < edges.size}
    quantiles = np.linspace(0, 1, WIDTH - len(kept) + 1)[1:-1]
    kept |= {at for at in np.searchsorted(share, quantiles).tolist() if at < edges.size}
    return edges[sorted(kept)]


@dataclass
class Slices:
    """Counts of some rows per slice; add those of other rows with ``+``.

    Attributes
    ----------
    slicing : Slicing
    counts : dict
        (segment, value) -> int64 array of shape (n_columns, SLOTS).
    rows : dict
        (segment, value) -> rows; a column that some files lack has fewer.
    """

    slicing: Slicing
    counts: dict[Label, Integers] = field(default_factory=dict)
    rows: dict[Label, int] = field(default_factory=dict)

    def __add__(self, other: Slices) -> Slices:
        if self.slicing.digest != other.slicing.digest:
            message = f"slices of different bins cannot be added: {self.slicing.digest} and {other.slicing.digest}"
            raise UsageError(message)
        counts, rows = dict(self.counts), dict(self.rows)
        for label, found in other.counts.items():
            counts[label] = counts[label] + found if label in counts else found
            rows[label] = rows.get(label, 0) + other.rows[label]
        for segment, columns in self.slicing.segments.items():
            if None in columns.values():
                values = [value for of, value in counts if of == segment]
                for value in {*values}.difference(kept_values(values)):
                    del counts[segment, value], rows[segment, value]
        return Slices(self.slicing, counts, rows)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Slices) and self.to_bytes() == other.to_bytes()

    __hash__ = None  # type: ignore[assignment] # mutable

    def to_bytes(self) -> bytes:
        """Compact form, without the bins."""
        labels = sorted(self.counts)
        shape = (len(labels), len(self.slicing.columns), SLOTS)
        cells = np.stack([self.counts[label] for label in labels]) if labels else np.zeros(shape, np.int64)
        kind = np.min_scalar_type(int(cells.max(initial=0))).newbyteorder("<")
        header = {
            "bins": self.slicing.digest,
            "labels": [[*label, self.rows[label]] for label in labels],
            "shape": shape,
            "width": kind.itemsize,
        }
        text = json.dumps(header, separators=(",", ":")).encode()
        body = struct.pack("<I", len(text)) + text + cells.astype(kind).tobytes()
        packed = bytes(codec().compress(body, asbytes=True))
        return _MAGIC + _FRAME.pack(len(body), zlib.crc32(packed, len(body))) + packed

    @classmethod
    def from_bytes(cls, content: bytes, slicing: Slicing) -> Slices:
        """Read what `to_bytes` wrote.

        Raises
        ------
        UsageError
            The content is damaged, or of other bins.
        """
        try:
            header, cells = _read(content)
        except (OSError, struct.error, ValueError, KeyError, TypeError) as error:
            message = f"no slices, or damaged ones: {error!r}"
            raise UsageError(message) from error
        if header["bins"] != slicing.digest:
            message = f"slices of bins {header['bins']} cannot be read with bins {slicing.digest}"
            raise UsageError(message)
        labels = [(segment, value) for segment, value, _ in header["labels"]]
        rows = {(segment, value): n for segment, value, n in header["labels"]}
        return cls(slicing, dict(zip(labels, cells, strict=True)), rows)


def _read(content: bytes) -> tuple[dict[str, Any], Integers]:
    if content[:4] != _MAGIC:
        message = "it does not start like some"
        raise ValueError(message)
    (length, checksum), packed = _FRAME.unpack_from(content, 4), content[4 + _FRAME.size :]
    if zlib.crc32(packed, length) != checksum:
        message = "its checksum is wrong"
        raise ValueError(message)
    body = codec().decompress(packed, length, asbytes=True)
    (size,) = struct.unpack_from("<I", body)
    header = json.loads(body[4 : 4 + size])
    cells = np.frombuffer(body, f"<u{header['width']}", offset=4 + size).reshape(header["shape"])
    return header, cells.astype(np.int64)


def kept_values(values: Iterable[str], most: int = NEW_VALUES_KEPT) -> list[str]:
    """Of too many values those with the smallest hashes, whatever their order.

    Examples
    --------
    >>> kept_values(["b", "a"]), len(kept_values(map(str, range(1000))))
    (['a', 'b'], 100)
    """
    known = sorted(set(values))
    if len(known) <= most:
        return known
    keys = fingerprint64(arrow(known, pa.string())).tolist()
    return sorted(value for _, value in sorted(zip(keys, known, strict=True))[:most])
