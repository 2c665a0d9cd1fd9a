"""How surprising a change is with no drift: p-values, which need the numbers of rows beside the distances.

What `hindcast.drift.statistics` says of counts, broadcasting and empty sides holds here too. A p-value is in [0, 1] and
uniform with no drift, or larger where rows are few or tied. It says nothing of how large a change is: of many rows
every change is significant. Rows are taken to be independent; give re-weighted baselines their effective size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import special

from hindcast.drift import moments
from hindcast.drift.statistics import BELOW_ONE, Outcome, degrees_of_freedom, sides

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike, NDArray

    from hindcast.drift.statistics import Floats


def ks_pvalue(statistic: ArrayLike, n: ArrayLike, m: ArrayLike) -> Floats:
    """Asymptotic two-sided p-value of a two-sample D, with Stephens' correction for small samples.

    Ties, and therefore bins, only make it larger than the truth. For a re-weighted baseline give its effective size.

    Parameters
    ----------
    statistic, n, m : array-like, broadcast against each other
        D, and the rows on each side.

    Returns
    -------
    float in [0, 1]. With no drift uniform, but for ties.

    References
    ----------
    Stephens (1970), Journal of the Royal Statistical Society B 32(1), 115-122.

    Examples
    --------
    >>> round(float(ks_pvalue(0.1, 400, 400)), 4)
    0.0341
    """
    rows, others = np.asarray(n, dtype=np.float64), np.asarray(m, dtype=np.float64)
    usable = (rows > 0) & (others > 0)
    root = np.sqrt(1 / (1 / np.where(usable, rows, np.nan) + 1 / np.where(usable, others, np.nan)))
    pvalue: Floats = special.kolmogorov((root + 0.12 + 0.11 / root) * np.asarray(statistic, dtype=np.float64))
    return pvalue


def chi2_pvalue(statistic: ArrayLike, df: ArrayLike) -> Floats:
    """Upper tail of the chi-square distribution; one lone category (no degree of freedom) has 1.

    Returns
    -------
    float in [0, 1]. With no drift uniform.

    Examples
    --------
    >>> round(float(chi2_pvalue(3.1111, 2)), 4)
    0.2111
    """
    value, freedom = np.asarray(statistic, dtype=np.float64), np.asarray(df, dtype=np.float64)
    lone = (freedom == 0) & (value == 0)
    return np.where(lone, 1.0, special.chdtrc(np.where(lone, 1.0, freedom), value))[()]


def pooled_test(test: Callable[[Floats, Floats], Floats], reference: ArrayLike, current: ArrayLike) -> Outcome:
    """Chi-square or G and its p-value after `hindcast.drift.statistics.pool_rare`, also where the pool is small.

    A pool that is expected to hold 5 rows or more in the smaller sample is a category as any other. A smaller one,
    which the chi-square distribution does not describe, is held against the rest by Fisher's exact test, the rest is
    tested as before, and the smaller p-value counts, corrected for being the smaller of two.

    Parameters
    ----------
    test : callable
        `hindcast.drift.statistics.chi2_statistic` or `g_statistic`.
    reference, current : array-like of shape (..., n_bins)
        Counts per category, the last of which is the pool.

    Returns
    -------
    statistic as `test` has it, and p-value in [0, 1]; 1 for one lone category, nan where a side is empty. With no drift
    the p-value is uniform, or larger than that.

    References
    ----------
    Šidák (1967), Journal of the American Statistical Association 62(318), 626-633.

    Examples
    --------
    One of 20 rows has a value that none of 2,000 had, which chi-square takes for impossible:

    >>> from hindcast.drift.statistics import chi2_statistic, degrees_of_freedom
    >>> then, now = np.array([1500, 500, 0]), np.array([14, 5, 1])
    >>> f"{chi2_pvalue(chi2_statistic(then, now), degrees_of_freedom(then, now)):.0e}"
    '2e-22'
    >>> round(float(pooled_test(chi2_statistic, then, now).pvalue), 3)
    0.02
    """
    r, c, n, m = sides(reference, current)
    statistic = test(r, c)
    whole = chi2_pvalue(statistic, degrees_of_freedom(r, c))
    pool = r[..., -1] + c[..., -1]
    small = (pool > 0) & (pool * (np.minimum(n, m) / (n + m))[..., 0] < 5)
    if not small.any():
        return Outcome(statistic, whole)
    rest, others = r[..., :-1], c[..., :-1]
    df = degrees_of_freedom(rest, others)
    # Of a side that lies in the pool alone, nothing is left to be compared.
    kept = np.where(np.isnan(df), 1.0, chi2_pvalue(test(rest, others), df))
    rare = two_proportion_pvalue(r[..., -1], n[..., 0], c[..., -1], m[..., 0])
    both = -np.expm1(2 * np.log1p(-np.minimum(np.minimum(kept, rare), BELOW_ONE)))
    return Outcome(statistic, np.where(small, np.where(df > 0, both, rare), whole)[()])


# Two shares: missing values, zeros, new categories, rows out of range


def two_proportion_z(x1: ArrayLike, n1: ArrayLike, x2: ArrayLike, n2: ArrayLike) -> Floats:
    """The z of the second share less the first, with pooled variance; its square is chi-square of the 2x2 table.

    Parameters
    ----------
    x1, n1, x2, n2 : array-like, broadcast against each other
        Rows that have the property, and all rows, per side.

    Returns
    -------
    float; nan without rows, 0 where all rows or none have it. With no drift standard normal.

    Examples
    --------
    >>> round(float(two_proportion_z(30, 1000, 52, 1000)), 4)
    2.4809
    """
    a, n, b, m = _rows_of(x1, n1, x2, n2)
    share = (a + b) / (n + m)
    variance = share * (1 - share) * (1 / n + 1 / m)
    return ((b / m - a / n) / np.sqrt(np.where(variance == 0, np.inf, variance)))[()]


def two_proportion_pvalue(x1: ArrayLike, n1: ArrayLike, x2: ArrayLike, n2: ArrayLike) -> Floats:
    """Two-sided p-value for ``x1`` of ``n1`` rows against ``x2`` of ``n2``: missing values, new categories.

    The z test with pooled variance, which is chi-square with one degree of freedom; where a cell is expected to hold
    fewer than 5 rows, Fisher's exact test.

    Parameters
    ----------
    x1, n1, x2, n2 : array-like, broadcast against each other
        Rows that have the property, and all rows, per side.

    Returns
    -------
    float in [0, 1]; nan without rows. With no drift uniform (z), or larger than that (Fisher).

    References
    ----------
    Agresti (2013), Categorical Data Analysis, 3.1.3 and 3.5.1.

    Examples
    --------
    >>> round(float(two_proportion_pvalue(30, 1000, 52, 1000)), 4)
    0.0131
    >>> round(float(two_proportion_pvalue(0, 1000, 5, 100)), 7)
    5.7e-06
    """
    a, n, b, m = _rows_of(x1, n1, x2, n2)
    pvalue = np.array(special.erfc(np.abs(two_proportion_z(a, n, b, m)) / np.sqrt(2)))
    share = (a + b) / (n + m)
    small = np.minimum(n, m) * np.minimum(share, 1 - share) < 5
    if small.any():
        pvalue[small] = fisher_pvalue(a[small], n[small], b[small], m[small])
    return pvalue[()]


def outside_pvalue(outside: ArrayLike, n: ArrayLike, m: ArrayLike) -> Floats:
    """P-value of so many current rows below the least or above the greatest of the reference's rows.

    A range is that of its own sample: of another one, two rows in m + 1 lie outside on average, and a test of two
    shares, for which the reference has none there, would take that for drift. Exact for untied rows: the reference cuts
    the current rows into m + 1 runs, of which these are two, and all cuts are equally likely.

    Parameters
    ----------
    outside, n, m : array-like, broadcast against each other
        Current rows outside, all current rows, all rows of the reference.

    Returns
    -------
    float in [0, 1]; nan without rows. With no drift uniform but for its steps, or larger where rows are tied.

    References
    ----------
    Wilks (1942), Annals of Mathematical Statistics 13(4), 400-409.

    Examples
    --------
    >>> round(float(outside_pvalue(2, 200, 2000)), 4), round(float(outside_pvalue(5, 200, 2000)), 6)
    (0.0232, 3.3e-05)
    """
    k, rows, _, others = _rows_of(outside, n, 0.0, m)
    left = rows - k + others
    longest = _log_choose(left, others) - _log_choose(rows + others, others)
    return np.minimum(np.exp(longest) * (1 + k * others / left), 1.0)[()]


def _rows_of(*parts: ArrayLike) -> tuple[Floats, Floats, Floats, Floats]:
    """Both shares as float64, broadcast; the rows are nan where either side has none."""
    a, n, b, m = np.broadcast_arrays(*(np.asarray(part, dtype=np.float64) for part in parts))
    usable = (n > 0) & (m > 0)
    return a, np.where(usable, n, np.nan), b, np.where(usable, m, np.nan)


def fisher_pvalue(x1: ArrayLike, n1: ArrayLike, x2: ArrayLike, n2: ArrayLike) -> Floats:
    """Fisher's exact test of a 2x2 table, two-sided: all tables with its margins that are no likelier than it.

    Counts are rounded to whole rows. Time and memory grow with the smaller side: for many rows and a share that is not
    small, `two_proportion_pvalue` takes the z test instead.

    Parameters
    ----------
    x1, n1, x2, n2 : array-like, broadcast against each other
        Rows that have the property, and all rows, per side.

    Returns
    -------
    float in [0, 1]; nan without rows. With no drift uniform or larger.

    References
    ----------
    Fisher (1935), Journal of the Royal Statistical Society 98(1), 39-82.

    Examples
    --------
    >>> round(float(fisher_pvalue(1, 9, 11, 15)), 4)
    0.0094
    """
    a, n, b, m = (np.rint(part) for part in _rows_of(x1, n1, x2, n2))
    pvalue, usable = np.full(n.shape, np.nan), ~np.isnan(n)
    if usable.any():
        pvalue[usable] = _fisher(a[usable], n[usable], b[usable], m[usable])
    return pvalue[()]


def _fisher(x1: Floats, n1: Floats, x2: Floats, n2: Floats) -> Floats:
    """Fisher's exact test for 1-d arrays of whole numbers.

    All possible tables of all rows lie one after the other in one flat array.
    """
    hits, total = x1 + x2, n1 + n2
    lowest = np.maximum(hits - n2, 0.0)
    tables = (np.minimum(hits, n1) - lowest + 1).astype(np.intp)
    starts = np.cumsum(tables) - tables
    row = np.repeat(np.arange(tables.size), tables)
    x = np.arange(row.size) - starts[row] + lowest[row]

    def log_probability(x: Floats, row: NDArray[np.intp]) -> Floats:
        chosen = _log_choose(hits[row], x) + _log_choose(total[row] - hits[row], n1[row] - x)
        return chosen - _log_choose(total[row], n1[row])

    found = log_probability(x1, np.arange(tables.size))
    each = log_probability(x, row)
    # Equally likely tables differ by rounding.
    return np.minimum(np.add.reduceat(np.where(each <= found[row] + 1e-7, np.exp(each), 0.0), starts), 1.0)


def _log_choose(n: Floats, k: Floats) -> Floats:
    result: Floats = -np.log1p(n) - special.betaln(n - k + 1, k + 1)
    return result


# Level and spread: mean, quantiles, standard deviation


def welch(
    mean1: ArrayLike, std1: ArrayLike, n1: ArrayLike, mean2: ArrayLike, std2: ArrayLike, n2: ArrayLike
) -> Outcome:
    """Welch's t of the second mean less the first: means may differ beyond chance, spreads need not be equal.

    Parameters
    ----------
    mean1, std1, n1, mean2, std2, n2 : array-like, broadcast against each other
        Mean, standard deviation (divisor n, as `moments.binned_std`), and rows, per side.

    Returns
    -------
    t in (-inf, inf), with no drift about standard normal; infinite where constant sides differ, 0 where they are equal.
    Its p-value. Both nan with fewer than two rows on a side.

    References
    ----------
    Welch (1947), Biometrika 34, 28-35.

    Examples
    --------
    >>> found = welch(10.0, 2.0, 50, 11.0, 3.0, 40)
    >>> round(float(found.statistic), 4), round(float(found.pvalue), 4)
    (1.7891, 0.0783)
    """
    parts = (np.asarray(part, dtype=np.float64) for part in (mean1, std1, n1, mean2, std2, n2))
    level, spread, n, other, spread2, m = parts
    spare, spare2 = (np.where(rows >= 2, rows - 1, np.nan) for rows in (n, m))
    unit = np.maximum(spread, spread2)
    unit = np.where(unit > 0, unit, 1.0)  # squares of huge and of tiny spreads are no numbers
    a, b = (spread / unit) ** 2 / spare, (spread2 / unit) ** 2 / spare2
    # Of two constant sides any freedom will do: their p-value is 0 or 1.
    share = a / np.where(a + b == 0, 1.0, a + b)
    with np.errstate(over="ignore"):
        far = (other - level) / unit
    return _student(far, a + b, 1 / (share**2 / spare + (1 - share) ** 2 / spare2))


def _student(difference: Floats, variance: Floats, df: Floats) -> Outcome:
    """Student's t and its two-sided p-value, of a difference with no variance too."""
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where((variance == 0) & (difference == 0), 0.0, difference / np.sqrt(variance))
    return Outcome(t[()], 2 * special.stdtr(df, -np.abs(t)))


def brown_forsythe(
    edges: ArrayLike, reference: ArrayLike, reference_sums: ArrayLike, current: ArrayLike, current_sums: ArrayLike
) -> Outcome:
    """Brown-Forsythe test of spread: Levene's test, on distances from each side's own median.

    The classic F test of two variances takes every feature for normal, and rejects nearly always where it is not.

    Parameters
    ----------
    edges, reference, reference_sums, current, current_sums : array-like
        As in `moments.wasserstein_distance`.

    Returns
    -------
    F in [0, inf), of 1 and n + m - 2 degrees of freedom, with no drift about 1; infinite where distances are constant
    on each side and differ. Its p-value. Both nan with fewer than three rows, or where rows lie in a bin with no edge.

    References
    ----------
    Brown and Forsythe (1974), Journal of the American Statistical Association 69(346), 364-367.

    Examples
    --------
    >>> place = np.arange(5.0)
    >>> sides = np.array([1, 8, 8, 1, 0]), np.array([5, 4, 4, 5, 0])
    >>> found = brown_forsythe(place[:-1], sides[0], sides[0] * place, sides[1], sides[1] * place)
    >>> round(float(found.statistic), 4), round(float(found.pvalue), 4)
    (9.7143, 0.0037)
    """
    places, sums, unit = moments.in_units(edges, reference_sums)
    sums2 = np.asarray(current_sums, dtype=np.float64) / unit[..., np.newaxis]
    n, distance, squares = _from_median(places, reference, sums)
    m, other, squares2 = _from_median(places, current, sums2)
    df = np.where(n + m > 2, n + m - 2, np.nan)
    found = _student(other - distance, (squares + squares2) / df * (1 / n + 1 / m), df)
    return Outcome(found.statistic**2, found.pvalue)


def _from_median(edges: ArrayLike, counts: ArrayLike, sums: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """Rows (nan for none), their mean distance from the median, and the squares of the distances around that mean."""
    weight = np.asarray(counts, dtype=np.float64)
    means, within = moments.bin_means(edges, weight, sums)
    median = moments.binned_quantile(weight, sums, 0.5)[..., np.newaxis]
    away = np.where(weight > 0, np.abs(means - median), 0.0)
    total = weight.sum(axis=-1)
    rows = np.where(total > 0, total, np.nan)
    mean = (weight * away).sum(axis=-1) / rows
    around = (away - mean[..., np.newaxis]) ** 2 + within
    return rows, mean, np.where(weight > 0, weight * around, 0.0).sum(axis=-1)


def quantile_pvalue(reference: ArrayLike, current: ArrayLike, q: float) -> Floats:
    """Mood's test that a quantile is the same: shares of both sides above the pooled quantile, counts per bin.

    Parameters
    ----------
    reference, current : array-like of shape (..., n_bins)
        Counts per bin, in ascending order of the values.
    q : float in (0, 1)
        0.5 for the median test.

    Returns
    -------
    float in [0, 1]; nan without rows. With no drift uniform, or larger where rows are tied at the quantile.

    References
    ----------
    Mood (1954), Annals of Mathematical Statistics 25(3), 514-522.

    Examples
    --------
    >>> round(float(quantile_pvalue([50, 30, 20], [40, 30, 30], 0.5)), 4)
    0.1025
    """
    r, c = np.broadcast_arrays(np.asarray(reference, dtype=np.float64), np.asarray(current, dtype=np.float64))
    below, others = np.cumsum(r, axis=-1), np.cumsum(c, axis=-1)
    n, m = below[..., -1], others[..., -1]
    at = q * (n + m)[..., np.newaxis]
    place = np.argmax(below + others >= at * (1 - 1e-12), axis=-1)[..., np.newaxis]
    x, y = (np.take_along_axis(side, place, axis=-1)[..., 0] for side in (below, others))
    return two_proportion_pvalue(n - x, n, m - y, m)


# From rows, where they are at hand


def epps_singleton(reference: ArrayLike, current: ArrayLike, *, at: tuple[float, ...] = (0.4, 0.8)) -> Outcome:
    """Epps-Singleton W, from rows: difference of the empirical characteristic functions at a few points.

    Sensitive to more than shifts, and valid for discrete features. No counts per bin: it needs the rows of a sample.

    Parameters
    ----------
    reference, current : array-like of shape (n,) and (m,)
        Finite values.
    at : tuple of float
        Points, in units of half the pooled interquartile range.

    Returns
    -------
    W in [0, inf), with no drift chi-square with as many degrees of freedom as twice the points, or fewer where the
    values are few. Its p-value. Both nan with fewer than 5 rows on a side, or an interquartile range of 0.

    References
    ----------
    Epps and Singleton (1986), Journal of Statistical Computation and Simulation 26(3-4), 177-203; Goerg and Kaiser
    (2009), Stata Journal 9(3), 454-465, for the correction of small samples.

    Examples
    --------
    >>> found = epps_singleton(np.arange(30.0), np.arange(30.0) ** 1.2)
    >>> round(float(found.statistic), 4), round(float(found.pvalue), 4)
    (18.3285, 0.0011)
    """
    x, y = (np.asarray(side, dtype=np.float64) for side in (reference, current))
    n, m = x.size, y.size
    quarters = np.percentile(np.concatenate([x, y]), [25, 75]) if min(n, m) >= 5 else np.zeros(2)
    unit = (quarters[1] - quarters[0]) / 2
    if not unit > 0:
        return Outcome(np.array(np.nan), np.array(np.nan))
    waves = [_waves(side / unit, np.array(at)) for side in (x, y)]
    covariance = (n + m) * sum(np.cov(wave, bias=True) / wave.shape[1] for wave in waves)
    inverse, rank = np.linalg.pinv(covariance, hermitian=True), np.linalg.matrix_rank(covariance, hermitian=True)
    gap = waves[0].mean(axis=1) - waves[1].mean(axis=1)
    few = 1 + (n + m) ** -0.45 + 10.1 * (n**-1.7 + m**-1.7) if max(n, m) < 25 else 1.0
    statistic: Floats = np.array((n + m) * (gap @ inverse @ gap) / few)[()]
    return Outcome(statistic, special.chdtrc(float(rank), statistic))


def _waves(values: Floats, points: Floats) -> Floats:
    """Real and imaginary parts of the characteristic function of every row, (2 * n_points, n)."""
    angle = np.outer(points, values)
    return np.concatenate([np.cos(angle), np.sin(angle)])
