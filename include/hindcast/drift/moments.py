"""Numbers in a feature's own unit, from counts and sums per bin: mean, spread, quantiles, Wasserstein, energy distance.

What `hindcast.drift.statistics` says of counts, broadcasting, padding and empty sides holds here too. Beside the counts
these functions take the sum of the values per bin and the edges: every side's rows are taken to lie at the mean of
their bin. Where every distinct value has its own bin nothing is lost, and the results are those of the raw rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hindcast.drift.statistics import row_sums, sides

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from hindcast.drift.statistics import Floats

# Of larger numbers the squares of distances overflow, of the inverse they underflow.
_SQUARED = 1e140


def binned_mean(counts: ArrayLike, sums: ArrayLike) -> Floats:
    """Mean of the rows, exactly: `sums` are the sums of the values per bin; nan without rows.

    Examples
    --------
    >>> float(binned_mean([2, 2], [3.0, 9.0]))
    3.0
    """
    total = row_sums(np.asarray(counts, dtype=np.float64))
    return row_sums(np.asarray(sums, dtype=np.float64)) / np.where(total > 0, total, np.nan)


def binned_std(edges: ArrayLike, counts: ArrayLike, sums: ArrayLike) -> Floats:
    """Estimate the standard deviation of the rows themselves (divisor n) from bins and their sums.

    The spread between bins is exact. Within a bin it is estimated from where the bin's mean lies: a mean in the middle
    is taken for evenly spread rows, one at an edge for rows that lie at that edge, and in the open outer bins, or near
    one edge of a wide bin, the rows are taken to thin out exponentially: heavier tails make it a few percent too small.

    Parameters
    ----------
    edges : array-like of shape (..., n_bins - 1)
        Upper ends of all bins but the last, which has none; padded with inf. Bins are right-closed.
    counts, sums : array-like of shape (..., n_bins)
        Rows, and sum of their values, per bin.

    Returns
    -------
    float in [0, inf); nan without rows, or where rows lie in a bin with no edge at all.

    Examples
    --------
    >>> round(float(binned_std([1.0, 2.0, 3.0], [100, 100, 100, 100], [50.0, 150.0, 250.0, 350.0])), 3)
    1.19
    """
    weight = np.asarray(counts, dtype=np.float64)
    places, values, unit = in_units(edges, sums)
    means, within = bin_means(places, weight, values)
    centre = binned_mean(weight, values)[..., np.newaxis]
    spread = np.where(weight > 0, weight * ((means - centre) ** 2 + within), 0.0)
    total = row_sums(weight)
    std: Floats = np.sqrt(row_sums(spread) / np.where(total > 0, total, np.nan)) * unit
    return std


def in_units(edges: ArrayLike, sums: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """Edges and sums in units whose squares are numbers, and the unit, a power of two: 1 but for huge or tiny edges.

    Examples
    --------
    >>> edges, sums, unit = in_units([2.0**1000, np.inf], [2.0**999, 0.0, 0.0])
    >>> edges.tolist(), sums.tolist(), float(unit) == 2.0**1000
    ([1.0, inf], [0.5, 0.0, 0.0], True)
    """
    places = np.asarray(edges, dtype=np.float64)
    unit = unit_of(np.where(np.isfinite(places), np.abs(places), 0.0).max(axis=-1, initial=0.0))
    each = unit[..., np.newaxis]
    return places / each, np.asarray(sums, dtype=np.float64) / each, unit


def unit_of(largest: ArrayLike) -> Floats:
    """The power of two at or below the largest of some numbers, if its square is no number; else 1.

    Examples
    --------
    >>> [float(unit_of(largest)) for largest in (0.0, 3.0, 2.0**1000)] == [1.0, 1.0, 2.0**1000]
    True
    """
    size = np.asarray(largest, dtype=np.float64)
    odd = (size > 0) & ((size > _SQUARED) | (size < 1 / _SQUARED))
    return np.where(odd, np.exp2(np.floor(np.log2(np.where(odd, size, 1.0)))), 1.0)


def bin_means(edges: ArrayLike, counts: ArrayLike, sums: ArrayLike) -> tuple[Floats, Floats]:
    """Mean of each bin's rows, and their estimated variance around it (see `binned_std`).

    Returns
    -------
    two arrays of shape (..., n_bins)
        Both nan in bins without rows.

    Examples
    --------
    >>> means, within = bin_means([0.0, 1.0], [0, 4, 0], [0.0, 2.0, 0.0])
    >>> float(means[1]), round(float(within[1]), 4)
    (0.5, 0.0833)
    """
    lower, upper = _bounds(edges)
    means = _inside(lower, upper, np.asarray(counts, dtype=np.float64), sums)
    with np.errstate(invalid="ignore"):
        below, above = means - lower, upper - means
        # Even spread between two edges: w² / 12 = below * above / 3 at the middle. 0 * inf is no number; fmin skips it.
        near = np.fmin(below, above)
        within = np.fmin(below * above / 3, near * near)
    within[np.isinf(within)] = np.nan
    return means, within


def binned_quantile(counts: ArrayLike, sums: ArrayLike, q: float) -> Floats:
    """Quantile of the rows, every bin's rows taken to lie at its mean; numpy's method ``averaged_inverted_cdf``.

    Exact where every distinct value has its own bin (the median is numpy's), else off by one bin's width at most: of
    1,024 quantile bins, by a thousandth of the rows.

    Parameters
    ----------
    counts, sums : array-like of shape (..., n_bins)
        Rows, and sum of their values, per bin.
    q : float in (0, 1)

    Returns
    -------
    float of the leading shape, in the feature's unit; nan without rows.

    References
    ----------
    Hyndman and Fan (1996), The American Statistician 50(4), 361-365, definition 2.

    Examples
    --------
    >>> float(binned_quantile([2, 1, 1], [2.0, 4.0, 9.0], 0.5))
    2.5
    """
    weight, values = np.broadcast_arrays(np.asarray(counts, dtype=np.float64), np.asarray(sums, dtype=np.float64))
    below = np.cumsum(weight, axis=-1)
    total = below[..., -1:]
    at = q * total
    # Where q falls between two rows, their average; rounding must not decide whether it does.
    slack = 1e-12 * total
    places = [np.argmax(below >= at - slack, axis=-1), np.argmax(below > at + slack, axis=-1)]
    means = values / np.where(weight > 0, weight, np.nan)
    low, high = (np.take_along_axis(means, side[..., np.newaxis], axis=-1)[..., 0] for side in places)
    return ((low + high) / 2)[()]


def wasserstein_distance(
    edges: ArrayLike,
    reference: ArrayLike,
    reference_sums: ArrayLike,
    current: ArrayLike,
    current_sums: ArrayLike,
) -> Floats:
    """First Wasserstein distance, in the feature's unit, with each bin's rows taken to lie at their own mean.

    The means are those of each side, so shifts smaller than a bin and the reach of the open tails count in full. Where
    one distribution function stays above the other, or every bin holds one distinct value, it is exact; otherwise off
    by the spread within the bins where they cross: with 1,024 quantile bins of 1,000,000 rows by less than 0.001
    standard deviations, with 32 bins by up to 0.02.

    Parameters
    ----------
    edges : array-like of shape (..., n_bins - 1)
        Upper ends of all bins but the last, which has none; padded with inf. Bins are right-closed.
    reference, reference_sums, current, current_sums : array-like of shape (..., n_bins)
        Rows, and sum of their values, per bin and side.

    Returns
    -------
    float in [0, inf). With no drift it falls as ``sqrt(v)``: about ``1.29 * sqrt(v)`` standard deviations of a normal
    feature.

    References
    ----------
    Vallender (1974), Theory of Probability and its Applications 18(4), 784-786.

    Examples
    --------
    Four rows in one bin, on average 2 on one side and 2.5 on the other:

    >>> float(wasserstein_distance([10.0], [4, 0], [8.0, 0.0], [4, 0], [10.0, 0.0]))
    0.5
    """
    inside, width, after, distance = _gaps(edges, reference, reference_sums, current, current_sums)
    return row_sums(np.abs(inside) * width) + row_sums(np.abs(after) * distance)


def wasserstein_normalized(
    edges: ArrayLike,
    reference: ArrayLike,
    reference_sums: ArrayLike,
    current: ArrayLike,
    current_sums: ArrayLike,
    *,
    scale: ArrayLike,
) -> Floats:
    """First Wasserstein distance in units of `scale`, the baseline's standard deviation; otherwise as the former.

    Parameters
    ----------
    edges, reference, reference_sums, current, current_sums : array-like
        As in `wasserstein_distance`.
    scale : array-like of the leading shape
        Standard deviation of the baseline. Where it is 0 (a constant feature) there is no unit and the result is nan.

    Returns
    -------
    float in [0, inf). With no drift it falls as ``sqrt(v)``: about ``1.29 * sqrt(v)`` for a normal feature.

    Examples
    --------
    >>> float(wasserstein_normalized([10.0], [4, 0], [8.0, 0.0], [4, 0], [10.0, 0.0], scale=2.0))
    0.25
    """
    unit = np.asarray(scale, dtype=np.float64)
    return wasserstein_distance(edges, reference, reference_sums, current, current_sums) / np.where(
        unit > 0, unit, np.nan
    )


def energy_distance(
    edges: ArrayLike,
    reference: ArrayLike,
    reference_sums: ArrayLike,
    current: ArrayLike,
    current_sums: ArrayLike,
) -> Floats:
    """Energy distance, in the square root of the feature's unit: ``sqrt(2 * integral of (F - G)²)``.

    Exact where every bin holds one distinct value. Otherwise each side's rows lie at the mean of their bin: off by
    little with hundreds of quantile bins, and too large for a side that falls whole into one bin, which hides its
    spread.
    Large gaps weigh more than in `wasserstein_distance`, and tails less.

    Parameters
    ----------
    edges, reference, reference_sums, current, current_sums : array-like
        As in `wasserstein_distance`.

    Returns
    -------
    float in [0, inf). With no drift its square is ``2 * v * integral of F * (1 - F)`` on average: ``1.13 * v * σ`` for
    a normal feature.

    References
    ----------
    Székely and Rizzo (2013), Journal of Statistical Planning and Inference 143(8), 1249-1272; Cramér (1928).

    Examples
    --------
    >>> float(energy_distance([10.0], [4, 0], [8.0, 0.0], [4, 0], [10.0, 0.0]))
    1.0
    """
    inside, width, after, distance = _gaps(edges, reference, reference_sums, current, current_sums)
    return np.sqrt(2 * (row_sums(inside**2 * width) + row_sums(after**2 * distance)))


def _gaps(
    edges: ArrayLike, reference: ArrayLike, reference_sums: ArrayLike, current: ArrayLike, current_sums: ArrayLike
) -> tuple[Floats, Floats, Floats, Floats]:
    """Difference of the two distribution functions, and for how far it lasts: inside each bin, then up to the next."""
    r, c, n, m = sides(reference, current)
    p, q = r / n, c / m
    lower, upper = _bounds(edges)
    mine, other = _inside(lower, upper, r, reference_sums), _inside(lower, upper, c, current_sums)
    gap = np.cumsum(p - q, axis=-1)
    # A bin without rows may stand anywhere between its neighbours: at its upper edge, for instance. Beyond the last
    # edge (last bin, padding) the functions are both 1, and no place counts.
    ends = np.isfinite(upper)
    place = np.where(ends, upper, 0.0)
    first, last = (np.where(np.isnan(end), place, end) for end in (np.fmin(mine, other), np.fmax(mine, other)))
    # Between the two means of a bin the functions differ by the gap after the bin less what comes later.
    inside = gap - p + (p + q) * (mine < other)
    between = ends[..., :-1] * np.maximum(first[..., 1:] - last[..., :-1], 0.0)
    return inside, last - first, gap[..., :-1], between


def _bounds(edges: ArrayLike) -> tuple[Floats, Floats]:
    """Lower and upper end of every bin, open at both ends of the line."""
    inner = np.asarray(edges, dtype=np.float64)
    end = np.full((*inner.shape[:-1], 1), np.inf)
    return np.concatenate([-end, inner], axis=-1), np.concatenate([inner, end], axis=-1)


def _inside(lower: Floats, upper: Floats, counts: Floats, sums: ArrayLike) -> Floats:
    """Mean of each bin's rows, nan without rows; kept inside the bin, which a rounded sum may have left."""
    means = np.asarray(sums, dtype=np.float64) / np.where(counts > 0, counts, np.nan)
    return np.minimum(np.maximum(means, lower), upper)
