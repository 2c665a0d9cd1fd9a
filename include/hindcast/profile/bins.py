"""Bins: fixed when the reference is fitted, shared by every profile that is ever compared with it.

Numeric bins are right-closed, ``edges[i-1] < x <= edges[i]``: quantiles of the reference, an own bin for every heavy
repeated value (zero-inflated and integer columns are invisible to quantiles), and guard bins far outside the range (a
unit change must be visible). Categorical bins are the known values, most frequent first.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from hindcast.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

# Columns of the log that are no features have fixed bins, the same for every model.
PROBABILITY_EDGES: Floats = np.linspace(0, 1, 1001)
LATENCY_EDGES: Floats = np.geomspace(1e-2, 1e7, 721)
OUTPUTS = ("prediction", "score", "confidence", "latency_ms")
LABEL = "ground_truth"
GUARDS = (0.5, 2.0, 10.0, 100.0)
MAX_CATEGORIES = 1000

# Values enter the sums as integers of 31 bits, so that sums are exact in any order; int64 holds 2**32 of them.
_SUM_BITS = 30
# Sums clip values beyond this, so that no step of their arithmetic overflows.
_LARGEST_SUMMED = 2.0**1000


@dataclass(frozen=True)
class Bins:
    """Bin edges of every numeric column and known values of every categorical one.

    Parameters
    ----------
    numeric, categorical : tuple of str
        Column names as in the log (``feature_amount``, ``score``…).
    edges : tuple of float64 arrays
        Ascending, finite; one array per numeric column.
    categories : tuple of tuple of str
        One tuple per categorical column.

    Examples
    --------
    >>> bins = Bins(("feature_a",), (np.array([0.0, 1.0]),), ("feature_b",), (("x", "y"),))
    >>> bins.width, bins.depth
    (3, 2)
    """

    numeric: tuple[str, ...]
    edges: tuple[Floats, ...]
    categorical: tuple[str, ...]
    categories: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        for name, edges in zip(self.numeric, self.edges, strict=True):
            if not (edges.size and np.isfinite(edges).all() and (np.diff(edges) > 0).all()):
                message = f"{name}: edges must be finite and ascending"
                raise UsageError(message)

    @cached_property
    def width(self) -> int:
        """Bins per numeric column, after padding to the widest."""
        return 1 + max((edges.size for edges in self.edges), default=0)

    @cached_property
    def depth(self) -> int:
        """Known values per categorical column, after padding to the deepest."""
        return max((len(values) for values in self.categories), default=0)

    @cached_property
    def padded_edges(self) -> Floats:
        """Edges as one matrix (n_numeric, width - 1), padded with inf: nothing finite falls into the padding."""
        matrix = np.full((len(self.numeric), self.width - 1), np.inf)
        for row, edges in zip(matrix, self.edges, strict=True):
            row[: edges.size] = edges
        return matrix

    @cached_property
    def subjects(self) -> dict[str, str]:
        """Column -> what it is called in results: features without their prefix, outputs as in the log.

        Examples
        --------
        >>> Bins((), (), ("feature_plan", "prediction", "score", "feature_score"), ((), (), (), ())).subjects
        {'feature_plan': 'plan', 'prediction': 'prediction', 'score': 'score (output)', 'feature_score': 'score'}
        """
        columns = (*self.numeric, *self.categorical)
        features = {column: column.removeprefix("feature_") for column in columns if column.startswith("feature_")}
        taken = set(features.values())
        return {c: features.get(c, f"{c} (output)" if c in taken else c) for c in columns}

    @cached_property
    def limits(self) -> Floats:
        """Values beyond these, (n_numeric, 2), enter the sums clipped: the guard bins' outermost edges."""
        ends = np.array([[edges[0], edges[-1]] for edges in self.edges]).reshape(-1, 2)
        return _summable(ends)

    @cached_property
    def center(self) -> Floats:
        """What is subtracted before a value is summed, (n_numeric,)."""
        return _summable(np.array([edges[edges.size // 2] for edges in self.edges]))

    @cached_property
    def unit(self) -> Floats:
        """One step of the fixed-point sums, (n_numeric,); a power of two."""
        reach = np.abs(self.limits - self.center[:, None]).max(axis=1, initial=np.finfo(np.float64).tiny)
        steps: Floats = np.exp2(np.ceil(np.log2(reach)) - _SUM_BITS)
        return steps

    @cached_property
    def digest(self) -> str:
        """Names these bins; profiles of two digests are never added."""
        digest = hashlib.sha256(b"hindcast-bins-2")
        for name, edges in zip(self.numeric, self.edges, strict=True):
            digest.update(json.dumps([name, edges.size]).encode() + edges.astype("<f8").tobytes())
        for name, values in zip(self.categorical, self.categories, strict=True):
            digest.update(json.dumps([name, *values]).encode())
        return digest.hexdigest()[:16]


def outputs_among(subjects: Collection[str]) -> set[str]:
    """Which of some subjects are what a model puts out, as `Bins.subjects` calls it, and no features.

    Examples
    --------
    >>> sorted(outputs_among(["plan", "score", "score (output)", "prediction"]))
    ['prediction', 'score (output)']
    """
    named = {column: f"{column} (output)" for column in OUTPUTS}
    return {named[column] if named[column] in subjects else column for column in OUTPUTS}.intersection(subjects)


def _summable(values: Floats) -> Floats:
    clipped: Floats = np.clip(values, -_LARGEST_SUMMED, _LARGEST_SUMMED)
    return clipped


def fit_edges(values: Floats, n_bins: int) -> Floats:
    """Edges for one numeric column.

    Parameters
    ----------
    values : float64 array of shape (n,)
        Finite values of the reference, in any order.
    n_bins : int
        About so many quantile bins; heavy values and guards come on top.

    Returns
    -------
    float64 array, ascending; empty when there are no values.

    Examples
    --------
    A value that a quarter of the rows share has its own bin, and guards lie outside the range:

    >>> edges = fit_edges(np.array([0.0, 0, 0, 1, 2, 3, 4, 5]), 4)
    >>> bool(np.nextafter(0, -1) in edges and 0.0 in edges and edges[0] < -100 and edges[-1] > 100)
    True
    """
    if not values.size:
        return np.empty(0)
    largest = float(np.finfo(np.float64).max) / 4
    ordered = np.clip(values, -largest, largest)
    ordered.sort()
    ordered += 0.0  # -0.0 becomes 0.0
    quantiles = ordered[np.linspace(0, ordered.size - 1, n_bins).round().astype(np.intp)]
    distinct, counts = np.unique(quantiles, return_counts=True)
    heavy = distinct[counts >= 2]
    if distinct.size * 2 < n_bins:
        few = ordered[np.concatenate([[True], ordered[1:] != ordered[:-1]])]
        heavy = few if few.size <= n_bins // 2 else heavy
    low, high = float(ordered[0]), float(ordered[-1])
    spread = high - low or max(abs(high), 1.0)
    outside = [low - g * spread for g in GUARDS] + [high + g * spread for g in GUARDS]
    own = np.concatenate([heavy, np.nextafter(heavy, -np.inf), [np.nextafter(low, -np.inf)]])
    return np.unique(np.clip(np.concatenate([distinct, own, outside]), -largest, largest))


def fit_categories(counts: Mapping[str, int]) -> tuple[str, ...]:
    """Known values of one categorical column: the most frequent, ties by name.

    Examples
    --------
    >>> fit_categories({"b": 2, "a": 2, "c": 9})
    ('c', 'a', 'b')
    """
    return tuple(sorted(counts, key=lambda value: (-counts[value], value))[:MAX_CATEGORIES])
