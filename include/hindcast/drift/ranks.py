"""Tests of two distributions by the order of their rows, from counts per bin in ascending order of the values.

What `hindcast.drift.statistics` says of counts, broadcasting, padding and empty sides holds here too. Rows of one bin
are ties, which all of these tests allow for: where every distinct value has its own bin they are the tests of the raw
rows, and bins of a continuous feature cost them little. None depends on the values themselves: any ascending
transformation of a feature gives the same. A p-value is uniform with no drift, but for ties and few rows; the rows are
taken to be independent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import special

from hindcast.drift.statistics import Outcome, row_sums, sides

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike

    from hindcast.drift.statistics import Floats


def mann_whitney(reference: ArrayLike, current: ArrayLike) -> Outcome:
    """Mann-Whitney U over all pairs: the probability that a current row lies above one of the reference, ties half.

    U itself is the statistic times ``n * m``; it is also the ROC AUC of the feature for telling the sides apart. The
    p-value is that of the normal approximation, corrected for ties and for continuity; with fewer than some 8 rows on
    a side it is rough.

    Returns
    -------
    statistic in [0, 1]. With no drift 0.5, give or take ``sqrt(v / 12)``; 0.5 and p-value 1 where all rows are tied.

    References
    ----------
    Mann and Whitney (1947), Annals of Mathematical Statistics 18(1), 50-60; ties: Lehmann (1975), Nonparametrics, 1.4.

    Examples
    --------
    >>> found = mann_whitney([50, 30, 20], [40, 30, 30])
    >>> round(float(found.statistic), 4), round(float(found.pvalue), 4)
    (0.565, 0.0882)
    """
    r, c, totals, others = sides(reference, current)
    n, m = totals[..., 0], others[..., 0]
    rows = n + m
    above = row_sums(c * (np.cumsum(r, axis=-1) - r / 2)) / (n * m)
    tied = r + c
    # Of one row on each side, or of ties alone, U cannot vary.
    spare = np.maximum(rows * (rows - 1), 1.0)
    variance = (rows + 1 - row_sums(tied**3 - tied) / spare) / (12 * n * m)
    distance = np.maximum(np.abs(above - 0.5) - 0.5 / (n * m), 0.0)
    z = distance / np.sqrt(np.where(variance > 0, variance, np.inf))
    return Outcome(above, special.erfc(z / np.sqrt(2)))


def cramer_von_mises(reference: ArrayLike, current: ArrayLike) -> Outcome:
    """Two-sample Cramér-von Mises T: the squared difference of the distribution functions over the pooled rows.

    In a bin it is the mean of the squares at both ends: untied rows inside would make as much of it on average, the
    order of the values may be reversed, and equal shares give 0. (With midranks in the formula for untied rows, as
    scipy has it, ties count as drift unless both sides have one size.) The p-value takes mean and variance under
    permutation of the ties that were found, and the limit distribution for the rest.

    Returns
    -------
    statistic in [0, n * m / (n + m) / 2]. With no drift about 1/6; less of tied rows.

    References
    ----------
    Anderson (1962), Annals of Mathematical Statistics 33(3), 1148-1159; Csörgő and Faraway (1996), Journal of the Royal
    Statistical Society B 58(1), 221-234, for the limit.

    Examples
    --------
    >>> found = cramer_von_mises([50, 30, 20], [40, 30, 30])
    >>> round(float(found.statistic), 4), round(float(found.pvalue), 4)
    (0.325, 0.1129)
    """
    r, c, n, m = sides(reference, current)
    rows = n + m
    tied = (r + c) / rows
    share = np.cumsum(tied, axis=-1)[..., :-1]
    # Squares at an edge count for half of the bin before and half of the bin after; those at both ends are zero.
    weight = (tied[..., :-1] + tied[..., 1:]) / 2
    gap = np.cumsum(r / n - c / m, axis=-1)[..., :-1]
    n, m, rows = n[..., 0], m[..., 0], rows[..., 0]
    statistic = n * m / rows * row_sums(weight * gap**2)
    spread = np.maximum(share * (1 - share), 0.0)
    expected = row_sums(weight * spread) * rows / np.maximum(rows - 1, 1.0)
    # Covariance of the bridge at two edges, squared: share² of the lower one times (1 - share)² of the upper one.
    low = weight * share**2
    pairs = 2 * (np.cumsum(low, axis=-1) - low) + low
    variance = 2 * row_sums(weight * (1 - share) ** 2 * pairs) * _finite_variance(n, m)
    scale = np.sqrt(45 * np.where(variance > 0, variance, np.inf))
    pvalue = _tail(1 + 6 * (statistic - expected) / scale, _CRAMER_VON_MISES)
    return Outcome(statistic, np.where(variance > 0, pvalue, np.where(np.isnan(statistic), np.nan, 1.0))[()])


def _finite_variance(n: Floats, m: Floats) -> Floats:
    """Variance of T of untied rows over that of its limit: Anderson's formula, and the sum it is a limit of."""
    rows = n + m
    exact = (rows + 1) * (4 * n * m * rows - 3 * (n**2 + m**2) - 2 * n * m) / (180 * rows**2 * n * m)
    return exact / ((rows**2 - 1) * (2 * rows**2 + 7) / (90 * rows**4))


def anderson_darling(reference: ArrayLike, current: ArrayLike) -> Outcome:
    """Two-sample Anderson-Darling A², midranks for ties: as Cramér-von Mises, with the tails weighing as the middle.

    The p-value is that of the limit distribution, at a statistic with its mean and variance: the variance is that of
    the ties that were found, without which five values reject three times as often as they should. It is continuous:
    scipy's table ends at 0.25 and 0.001.

    Returns
    -------
    statistic in [0, inf). With no drift about 1; ``(statistic - 1) / sd`` is what scipy's `anderson_ksamp` returns.

    References
    ----------
    Scholz and Stephens (1987), Journal of the American Statistical Association 82(399), 918-924, formula 7.

    Examples
    --------
    >>> found = anderson_darling([50, 30, 20], [40, 30, 30])
    >>> round(float(found.statistic), 4), round(float(found.pvalue), 4)
    (2.4724, 0.0991)
    """
    r, c, n, m = sides(reference, current)
    rows, tied = n + m, r + c
    middle = np.cumsum(tied, axis=-1) - tied / 2
    gap = (np.cumsum(r, axis=-1) - r / 2) / n - (np.cumsum(c, axis=-1) - c / 2) / m
    width = middle * (rows - middle) - rows * tied / 4
    # One lone bin has no width: nothing can differ.
    weight = tied / np.where(width > 1e-14 * rows**2 * (tied > 0), width, np.inf)
    # Covariance of the bridge in the middles of two bins, squared, as in `cramer_von_mises`; of one bin, its width.
    low = weight * middle**2
    pairs = row_sums(weight * (rows - middle) ** 2 * (np.cumsum(low, axis=-1) - low))
    own = row_sums(np.where(weight > 0, tied, 0.0) ** 2)
    n, m, rows = n[..., 0], m[..., 0], rows[..., 0]
    statistic = row_sums(weight * gap**2) * n * m * (rows - 1) / rows
    # Of untied rows that sum is 1 + 4/N times its limit, within a percent; Scholz and Stephens have the exact variance.
    variance = 2 * (own + 2 * pairs) / (rows**2 + 4 * rows)
    scale = anderson_darling_sd(n, m) * np.sqrt(variance)
    pvalue = _tail(1 + (statistic - 1) * _LIMIT_VARIANCE / np.where(scale > 0, scale, np.inf), _ANDERSON_DARLING)
    return Outcome(statistic, np.where(scale == 0, 1.0, pvalue)[()])


def anderson_darling_sd(n: ArrayLike, m: ArrayLike) -> Floats:
    """Standard deviation of A² with no drift, of untied rows; nan of three rows or fewer.

    Examples
    --------
    >>> round(float(anderson_darling_sd(1000, 1000)), 4)
    0.7607
    """
    rows, others = np.asarray(n, dtype=np.float64), np.asarray(m, dtype=np.float64)
    total = np.where(rows + others > 3, rows + others, np.nan)
    inverse = 1 / np.where(rows > 0, rows, np.nan) + 1 / np.where(others > 0, others, np.nan)
    # Sums of 1/i up to N - 1, of 1/i², and of 1 / ((N - i) j) over i < j, in closed form.
    h = special.digamma(total) + np.euler_gamma
    g = np.pi**2 / 6 - special.zeta(2, total) - 2 * h / total
    a = 4 * g - 6 + (10 - 6 * g) * inverse
    b = 8 * g - 16 + 16 * h + (2 * g - 14 * h - 4) * inverse - 8 * h + 4 * g - 6
    c = 4 * (6 * h + 2 * g - 2) + 2 * (4 * h - 4 * g + 6) + (2 * h - 6) * inverse + 4 * h
    d = 4 * (2 * h + 6) - 8 * h
    variance = (a * total**3 + b * total**2 + c * total + d) / ((total - 1) * (total - 2) * (total - 3))
    sd: Floats = np.sqrt(variance)
    return sd


# Limits of both statistics: weighted sums of squares of independent normals. The weights are the inverses of the zeros
# of D(x) = E[exp(x/2 * limit)] ** -2, here in units of the limit's mean.

_POINTS, _INTERVALS = 16, 8


def _limit(mean: float, zeros: Floats, determinant: Callable[[Floats], Floats]) -> tuple[Floats, Floats]:
    """Places and weights of Smirnov's formula: the tail at t means is the sum of ``weight * exp(-place * t)``.

    It is the sum of integrals of ``exp(-x * t / 2) / (π * x * sqrt(-D))`` from each odd zero to the next, with signs in
    turn. The root vanishes at both ends, which Gauss-Chebyshev quadrature takes in.

    References
    ----------
    Martynov (1975), Theory of Probability and its Applications 20(4), 782-793.
    """
    low, high = zeros[::2, np.newaxis], zeros[1::2, np.newaxis]
    x = (low + high) / 2 + (high - low) / 2 * np.cos((np.arange(_POINTS) + 0.5) * np.pi / _POINTS)
    smooth = np.abs(determinant(x)) / ((x - low) * (high - x))
    turns = (-1.0) ** np.arange(low.size)[:, np.newaxis]
    return (x * mean / 2).ravel(), (turns / (_POINTS * x * np.sqrt(smooth))).ravel()


_LIMIT_VARIANCE = 2 * (np.pi**2 - 9) / 3  # of A²
_ORDER = np.arange(1.0, 2 * _INTERVALS + 1)
_CRAMER_VON_MISES = _limit(1 / 6, (_ORDER * np.pi) ** 2, lambda x: np.sin(np.sqrt(x)) / np.sqrt(x))
_ANDERSON_DARLING = _limit(1.0, _ORDER * (_ORDER + 1), lambda x: np.cos(np.pi / 2 * np.sqrt(1 + 4 * x)) / (np.pi * x))


def _tail(statistic: Floats, limit: tuple[Floats, Floats]) -> Floats:
    """Chance that the limit exceeds `statistic`, which is in units of its mean."""
    places, weights = limit
    # Below .12 means lies less than a thousandth of either, and the sum would need more intervals.
    small = statistic < 0.12
    terms = weights * np.exp(-places * np.where(small, 1.0, statistic)[..., np.newaxis])
    return np.where(small, 1.0, np.clip(row_sums(terms), 0.0, 1.0))[()]
