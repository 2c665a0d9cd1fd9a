r"""How far two samples are apart, from their counts per bin: one pure function per statistic.

What all of them share, unless a docstring says otherwise:

- `reference` and `current` are counts of shape ``(..., n_bins)``, integers or (re-weighted baselines) fractions, over
  the same bins in the same order. Leading axes broadcast and are worked on at once; the result is float64 of the
  leading shape, a scalar for one feature. Shapes that do not broadcast raise numpy's ValueError.
- Bins that are empty on both sides change nothing, so that features with fewer bins can be padded with zeros.
- A row with an empty side is nan, without a warning: there is nothing to compare, and the caller stores the status
  ``insufficient_data``.
- ``n`` and ``m`` are the two totals, ``v = 1/n + 1/m``, ``p`` and ``q`` the two proportions per bin, ``k`` the number
  of bins that are not empty on both sides. "With no drift" is what to expect of two independent samples of one
  distribution, with some rows in every bin.
- Distances (Kolmogorov-Smirnov, Jensen-Shannon, Hellinger, total variation, l-infinity, Wasserstein) depend on
  proportions alone. Chi-square and the p-values take the totals for numbers of independent rows: scale the counts of a
  re-weighted baseline to its effective size before.

A statistic that sums over bins sees noise grow with their number: merge the hundreds of bins of a profile
(`merge_bins`), or pool rare categories (`pool_rare`), before reading such a number against a rule of thumb.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

Floats = NDArray[np.float64]

BELOW_ONE = np.nextafter(1.0, 0.0)


class Outcome(NamedTuple):
    """A statistic and its two-sided p-value, both of the leading shape of the counts."""

    statistic: Floats
    pvalue: Floats


def sides(reference: ArrayLike, current: ArrayLike) -> tuple[Floats, Floats, Floats, Floats]:
    """Both sides as float64, and their totals on an axis of length one.

    The total of an empty side is nan, which makes all that is divided by it nan without a warning.
    """
    r, c = np.asarray(reference, dtype=np.float64), np.asarray(current, dtype=np.float64)
    n, m = r.sum(axis=-1, keepdims=True), c.sum(axis=-1, keepdims=True)
    return r, c, np.where(n > 0, n, np.nan), np.where(m > 0, m, np.nan)


def row_sums(values: Floats) -> Floats:
    """Sum over the bins."""
    sums: Floats = values.sum(axis=-1)
    return sums


def proportions(reference: ArrayLike, current: ArrayLike) -> tuple[Floats, Floats]:
    """Share of each side's rows per bin, nan where the side is empty."""
    r, c, n, m = sides(reference, current)
    return r / n, c / m


def _smoothed(reference: ArrayLike, current: ArrayLike, smoothing: float) -> tuple[Floats, Floats]:
    """Proportions after `smoothing` pseudo-rows in every bin that is not empty on both sides."""
    r, c, n, m = sides(reference, current)
    pseudo = smoothing * ((r + c) > 0)
    added = pseudo.sum(axis=-1, keepdims=True)
    return (r + pseudo) / (n + added), (c + pseudo) / (m + added)


# Kolmogorov-Smirnov


def ks_statistic(reference: ArrayLike, current: ArrayLike) -> Floats:
    """Two-sample Kolmogorov-Smirnov D: the largest difference of the two distribution functions at a bin edge.

    Never above D of the raw rows, and equal to it when every distinct value has its own bin.

    Returns
    -------
    float in [0, 1]. With no drift about ``0.87 * sqrt(v)``.

    References
    ----------
    Smirnov (1939), Bulletin Mathématique de l'Université de Moscou 2(2).

    Examples
    --------
    >>> round(float(ks_statistic([5, 3, 2], [2, 3, 5])), 4)
    0.3
    """
    p, q = proportions(reference, current)
    largest: Floats = np.abs(np.cumsum(p - q, axis=-1)).max(axis=-1)
    return np.minimum(largest, 1.0)


# Chi-square and what is made of it


def phi_squared(reference: ArrayLike, current: ArrayLike) -> Floats:
    r"""Squared φ, balanced: :math:`\sum (p - q)^2 / \bar p` with the pooled proportion :math:`\bar p`.

    It is the homogeneity chi-square over ``n * m / (n + m)``: unlike chi-square, it does not grow with the rows, and
    unlike ``chi2 / (n + m)``, it does not shrink when one side is much the larger.

    Returns
    -------
    float in [0, (n + m)² / (n · m)]. With no drift ``degrees_of_freedom * v``.

    References
    ----------
    Cramér (1946), Mathematical Methods of Statistics, 30.6.

    Examples
    --------
    >>> round(float(phi_squared([50, 30, 20], [40, 30, 30])), 6)
    0.062222
    """
    r, c, n, m = sides(reference, current)
    pooled = (r + c) / (n + m)
    # An empty bin has a zero numerator; a denominator of one keeps it from being 0 / 0.
    return row_sums((r / n - c / m) ** 2 / np.where(pooled == 0, 1.0, pooled))


def chi2_statistic(reference: ArrayLike, current: ArrayLike) -> Floats:
    """Chi-square of homogeneity: both sides are samples (a goodness of fit would take the reference for the truth).

    Its approximation by the chi-square distribution needs about 5 expected rows per cell: see `pool_rare`.

    Returns
    -------
    float in [0, n + m]. With no drift `degrees_of_freedom`, the non-empty bins less one.

    References
    ----------
    Pearson (1911), Biometrika 8, 250-254.

    Examples
    --------
    >>> round(float(chi2_statistic([50, 30, 20], [40, 30, 30])), 4)
    3.1111
    """
    _, _, n, m = sides(reference, current)
    return phi_squared(reference, current) / (1 / n + 1 / m)[..., 0]


def g_statistic(reference: ArrayLike, current: ArrayLike) -> Floats:
    r"""G, the likelihood ratio against homogeneity: :math:`2 \sum O \ln(O / E)` over both sides and all bins.

    Near `chi2_statistic` where every cell is expected to hold some 5 rows: see `pool_rare`. Same degrees of freedom.

    Returns
    -------
    float in [0, 2 · (n + m) · ln 2]. With no drift `degrees_of_freedom`.

    References
    ----------
    Wilks (1938), Annals of Mathematical Statistics 9(1), 60-62.

    Examples
    --------
    >>> round(float(g_statistic([50, 30, 20], [40, 30, 30])), 4)
    3.127
    """
    r, c, n, m = sides(reference, current)
    pooled = (r + c) / (n + m)
    cells: Floats = n * special.rel_entr(r / n, pooled) + m * special.rel_entr(c / m, pooled)
    # Rounding can leave the sum for two equal sides a hair below zero.
    return 2 * np.maximum(row_sums(cells), 0.0)


def degrees_of_freedom(reference: ArrayLike, current: ArrayLike) -> Floats:
    """Degrees of freedom of `chi2_statistic`: the bins that are not empty on both sides, less one.

    Examples
    --------
    >>> float(degrees_of_freedom([50, 30, 0, 0], [40, 30, 0, 3]))
    2.0
    """
    r, c, n, m = sides(reference, current)
    used = np.count_nonzero((r + c) > 0, axis=-1)
    return np.where(np.isnan(n + m)[..., 0], np.nan, used - 1.0)[()]


def pool_rare(reference: ArrayLike, current: ArrayLike, *, minimum: float = 5.0) -> tuple[Floats, Floats]:
    """Move the rows of all rare categories into one extra bin at the end.

    Rare is an expected count below `minimum` in the smaller sample, where chi-square's tail is heavier than its
    approximation. The extra bin itself may stay below `minimum`, on purpose: a category that was never seen before is
    expected nearly nowhere, and folding it into a common one would hide it. Judge a pool that small by
    `two_proportion_pvalue`.

    Returns
    -------
    tuple of two arrays of shape (..., n_bins + 1)
        Reference and current, same totals as before; the last bin is the pool, empty if nothing was rare. Unchanged,
        with an empty pool, where a side is empty.

    References
    ----------
    Cochran (1954), Biometrics 10(4), 417-451.

    Examples
    --------
    >>> reference, current = pool_rare([90, 8, 1, 1], [45, 3, 0, 2])
    >>> reference.tolist(), current.tolist()
    ([90.0, 0.0, 0.0, 0.0, 10.0], [45.0, 0.0, 0.0, 0.0, 5.0])
    """
    r, c, n, m = sides(reference, current)
    rare = (r + c) * (np.minimum(n, m) / (n + m)) < minimum
    pooled = [np.where(rare, side, 0.0).sum(axis=-1, keepdims=True) for side in (r, c)]
    kept = [np.where(rare, 0.0, side) for side in (r, c)]
    return np.concatenate([kept[0], pooled[0]], axis=-1), np.concatenate([kept[1], pooled[1]], axis=-1)


def merge_bins(reference: ArrayLike, current: ArrayLike, *, groups: int = 10) -> tuple[Floats, Floats]:
    """Merge neighbouring bins into at most `groups` of about equal reference mass (deciles, by default).

    A bin goes, whole, where the middle of its mass lies, so that a heavy bin stays one group.

    Returns
    -------
    tuple of two arrays of shape (..., groups)
        Reference and current, same totals as before; where the reference is empty, all lies in the first group.

    Examples
    --------
    >>> reference, current = merge_bins([10, 10, 10, 10, 40], [0, 5, 5, 0, 0], groups=2)
    >>> reference.tolist(), current.tolist()
    ([40.0, 40.0], [10.0, 0.0])
    """
    r, c = np.broadcast_arrays(np.asarray(reference, dtype=np.float64), np.asarray(current, dtype=np.float64))
    total = r.sum(axis=-1, keepdims=True)
    middle = (np.cumsum(r, axis=-1) - r / 2) / np.where(total > 0, total, 1.0)
    group = np.minimum((middle * groups).astype(np.intp), groups - 1)
    shape = (*r.shape[:-1], groups)
    rows = int(np.prod(r.shape[:-1]))
    slot = (group.reshape(rows, -1) + groups * np.arange(rows)[:, np.newaxis]).ravel()
    merged = [np.bincount(slot, side.ravel(), rows * groups).reshape(shape) for side in (r, c)]
    return merged[0], merged[1]


def cramers_v(reference: ArrayLike, current: ArrayLike) -> Floats:
    """Cramér's V between side and category, corrected for bias.

    Returns
    -------
    float in [0, 1]. With no drift 0 about half of the time, else near 0; 0 for one lone category.

    References
    ----------
    Bergsma (2013), Journal of the Korean Statistical Society 42(3), 323-328.

    Examples
    --------
    >>> round(float(cramers_v([500, 300, 200], [400, 300, 300])), 4)
    0.1207
    """
    _, _, n, m = sides(reference, current)
    rows = (n + m)[..., 0]
    spare = np.maximum(rows - 1, 1.0)
    df = degrees_of_freedom(reference, current)
    excess = np.maximum(chi2_statistic(reference, current) / rows - df / spare, 0.0)
    bound = np.minimum(df - df**2 / spare, 1 - 1 / spare)
    return np.sqrt(np.clip(excess / np.where(bound <= 0, np.inf, bound), 0.0, 1.0))


# Distances and divergences between proportions


def population_stability_index(reference: ArrayLike, current: ArrayLike, *, smoothing: float = 0.5) -> Floats:
    """PSI, the population stability index: symmetrised Kullback-Leibler divergence, in nats.

    Parameters
    ----------
    reference, current : array-like of shape (..., n_bins)
        Counts per bin, same bins in the same order.
    smoothing : float
        Pseudo-count added to every bin that is not empty on both sides.

    Returns
    -------
    float in [0, inf); inf only without smoothing. With no drift about ``(k - 1) * v``.

    References
    ----------
    Jeffreys (1946), Proceedings of the Royal Society A 186, 453-461; Yurdakul and Naranjo (2020), Journal of Risk Model
    Validation 14(4), for what to expect with no drift.

    Examples
    --------
    >>> round(float(population_stability_index([900, 100], [500, 500])), 4)
    0.8762
    """
    p, q = _smoothed(reference, current, smoothing)
    empty = (p + q) == 0
    with np.errstate(divide="ignore"):
        ratio = np.log(np.where(empty, 1.0, p) / np.where(empty, 1.0, q))
    return row_sums((p - q) * ratio)


def kl_divergence(reference: ArrayLike, current: ArrayLike, *, smoothing: float = 0.5) -> Floats:
    """Kullback-Leibler divergence KL(reference ‖ current), in nats.

    Parameters
    ----------
    reference, current : array-like of shape (..., n_bins)
        Counts per bin, same bins in the same order.
    smoothing : float
        Pseudo-count added to every bin that is not empty on both sides.

    Returns
    -------
    float in [0, inf); inf only without smoothing. With no drift about ``(k - 1) * v / 2``.

    References
    ----------
    Kullback and Leibler (1951), Annals of Mathematical Statistics 22(1), 79-86.

    Examples
    --------
    >>> round(float(kl_divergence([900, 100], [500, 500])), 4)
    0.3672
    """
    p, q = _smoothed(reference, current, smoothing)
    terms: Floats = special.rel_entr(p, q)
    # Rounding can leave the sum for two equal sides a hair below zero.
    return np.maximum(row_sums(terms), 0.0)


def jensen_shannon_distance(reference: ArrayLike, current: ArrayLike) -> Floats:
    """Jensen-Shannon distance: square root of the divergence in bits.

    Returns
    -------
    float in [0, 1]. With no drift about ``sqrt((k - 1) * v / (8 * ln 2))``.

    References
    ----------
    Endres and Schindelin (2003), IEEE Transactions on Information Theory 49(7), 1858-1860.

    Examples
    --------
    >>> round(float(jensen_shannon_distance([900, 100], [500, 500])), 4)
    0.3831
    """
    p, q = proportions(reference, current)
    both = p + q
    # With t = (p - q) / (p + q), p / mean = 1 + t and q / mean = 1 - t: log1p keeps small differences exact. At t = ±1
    # the logarithm has a factor of zero and only has to be finite.
    t = np.clip((p - q) / np.where(both == 0, 1.0, both), -BELOW_ONE, BELOW_ONE)
    bits: Floats = row_sums(p * np.log1p(t) + q * np.log1p(-t)) / (2 * np.log(2))
    return np.sqrt(np.clip(bits, 0.0, 1.0))


def hellinger_distance(reference: ArrayLike, current: ArrayLike) -> Floats:
    """Hellinger distance.

    Returns
    -------
    float in [0, 1]. With no drift about ``sqrt((k - 1) * v / 8)``.

    References
    ----------
    Hellinger (1909), Journal für die reine und angewandte Mathematik 136, 210-271.

    Examples
    --------
    >>> round(float(hellinger_distance([900, 100], [500, 500])), 4)
    0.3249
    """
    p, q = proportions(reference, current)
    return np.sqrt(np.clip(row_sums((np.sqrt(p) - np.sqrt(q)) ** 2) / 2, 0.0, 1.0))


def total_variation(reference: ArrayLike, current: ArrayLike) -> Floats:
    """Total variation distance: the share of rows that would have to change their bin.

    Returns
    -------
    float in [0, 1]. With no drift about ``0.4 * sum(sqrt(p * (1 - p) * v))``.

    References
    ----------
    Levin, Peres and Wilmer (2017), Markov Chains and Mixing Times, chapter 4.

    Examples
    --------
    >>> float(total_variation([900, 100], [500, 500]))
    0.4
    """
    p, q = proportions(reference, current)
    return np.clip(row_sums(np.abs(p - q)) / 2, 0.0, 1.0)


def l_infinity(reference: ArrayLike, current: ArrayLike) -> Floats:
    """Largest change of one bin's share.

    Returns
    -------
    float in [0, 1]. With no drift about ``sqrt(p * (1 - p) * v)`` of the commonest bin, or somewhat more.

    References
    ----------
    Breck et al. (2019), Data Validation for Machine Learning, MLSys.

    Examples
    --------
    >>> round(float(l_infinity([50, 30, 20], [40, 30, 30])), 4)
    0.1
    """
    p, q = proportions(reference, current)
    largest: Floats = np.abs(p - q).max(axis=-1)
    return largest
