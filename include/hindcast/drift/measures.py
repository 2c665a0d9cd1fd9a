"""Every statistic of every column of one comparison: what is stored and shown beside the policy's decision.

A metric's value stands under its name in `hindcast.metrics`, the p-value of its test under `p_of` of that name. What
is not defined for a column (a shift in units of a constant baseline's σ, the zeros of a feature where 0 has no bin of
its own, the change of a share that neither side has, everything where a side is empty) is left out: no value is nan or
infinite.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hindcast.drift import moments, ranks, significance, statistics
from hindcast.profile.profile import NAN, NEW, NULL, NULL_CATEGORY

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hindcast.drift.baseline import Comparison, Totals
    from hindcast.drift.statistics import Floats

# PSI, Jensen-Shannon and their kin are defined on so many groups of about equal mass of the baseline.
GROUPS = 10

# What is stored of every baseline, by the kind of column; the first one decides what the textbook says.
PRIMARY = {
    "numeric": (
        "ks_statistic", "population_stability_index", "jensen_shannon_distance", "wasserstein_normalized",
    ),
    "categorical": ("chi2_statistic", "population_stability_index", "jensen_shannon_distance"),
}  # fmt: skip
# What is stored beside it of the reference: the rest of what the field uses.
FURTHER = {
    "numeric": (
        "hellinger_distance", "mann_whitney_superiority", "mean_shift", "standard_deviation_ratio", "median_shift",
        "quantile_05_shift", "quantile_95_shift", "missing_ratio_change", "zero_ratio_change",
        "out_of_range_ratio_change",
    ),
    "categorical": (
        "g_statistic", "cramers_v", "hellinger_distance", "l_infinity", "missing_ratio_change",
        "new_category_ratio_change",
    ),
}  # fmt: skip

# How far each of them moved.
QUANTILES = {"quantile_05_shift": 0.05, "median_shift": 0.5, "quantile_95_shift": 0.95}


def p_of(metric: str) -> str:
    """Key of a metric's p-value.

    Examples
    --------
    >>> p_of("ks_statistic")
    'ks_statistic:p'
    """
    return f"{metric}:p"


def measure(comparison: Comparison, *, further: bool = True) -> dict[str, dict[str, float]]:
    """Measure every column of a window against one baseline.

    Parameters
    ----------
    comparison : Comparison
    further : bool
        Without it only what is `PRIMARY`, at a third of the cost.

    Returns
    -------
    dict
        Column -> metric (or `p_of` it) -> value, finite. ``n`` and ``m`` are the rows of the window and the baseline
        that were compared: those with a number, or all rows of a categorical column, where null is a category.

    Examples
    --------
    >>> from hindcast.drift.baseline import Comparison, Totals
    >>> from hindcast.profile.bins import Bins
    >>> now, then = (Totals(Bins((), (), ("feature_plan",), (("free", "paid"),))) for _ in range(2))
    >>> now.categorical[:] = [[50, 40, 0, 10, 0]]  # known, known, new, null, invalid
    >>> then.categorical[:] = [[60, 40, 0, 0, 0]]
    >>> found = measure(Comparison("reference", 1, now, then, 100, "the reference"))["feature_plan"]
    >>> round(found["missing_ratio_change"], 3), round(found[p_of("missing_ratio_change")], 4)
    (0.1, 0.0012)
    """
    bins = comparison.current.bins
    found: dict[str, dict[str, float]] = {}
    if bins.numeric:
        found |= _by_column(bins.numeric, _numeric(comparison.current, comparison.baseline, further=further))
    if bins.categorical:
        found |= _by_column(bins.categorical, _categorical(comparison.current, comparison.baseline, further=further))
    return found


def _by_column(names: tuple[str, ...], columns: Mapping[str, Floats]) -> dict[str, dict[str, float]]:
    """Turn metric -> values of all columns into column -> metric -> value, without what is no number."""
    table = np.stack(list(columns.values()), axis=1)
    kept = np.isfinite(table).tolist()
    return {
        name: {key: value for key, value, known in zip(columns, values, finite, strict=True) if known}
        for name, values, finite in zip(names, table.tolist(), kept, strict=True)
    }


def _numeric(now: Totals, then: Totals, *, further: bool) -> dict[str, Floats]:
    width, edges = now.bins.width, now.bins.padded_edges
    a, b = then.numeric[:, :width], now.numeric[:, :width]
    sums, others = then.values, now.values
    n, m = b.sum(axis=1), a.sum(axis=1)
    std = moments.binned_std(edges, a, sums)
    unit = np.where(std > 0, std, np.nan)
    groups = statistics.merge_bins(a, b, groups=GROUPS)
    ks = statistics.ks_statistic(a, b)
    found = {
        "n": n,
        "m": m,
        "ks_statistic": ks,
        p_of("ks_statistic"): significance.ks_pvalue(ks, n, m),
        "wasserstein_normalized": moments.wasserstein_normalized(edges, a, sums, b, others, scale=unit),
    }
    found |= _divergences(*groups)
    if further:
        found |= _shifts(edges, (a, sums), (b, others), std) | _shares(now, then)
        found["hellinger_distance"] = statistics.hellinger_distance(*groups)
        found["mann_whitney_superiority"], found[p_of("mann_whitney_superiority")] = ranks.mann_whitney(a, b)
    return found


def _divergences(a: Floats, b: Floats) -> dict[str, Floats]:
    return {
        "population_stability_index": statistics.population_stability_index(a, b),
        "jensen_shannon_distance": statistics.jensen_shannon_distance(a, b),
    }


def _distances(a: Floats, b: Floats) -> dict[str, Floats]:
    return {
        "hellinger_distance": statistics.hellinger_distance(a, b),
        "l_infinity": statistics.l_infinity(a, b),
    }


def _shifts(
    edges: Floats, before: tuple[Floats, Floats], after: tuple[Floats, Floats], std: Floats
) -> dict[str, Floats]:
    """Level and spread, in units of the baseline's standard deviation; `before` and `after` are counts and sums."""
    (a, sums), (b, others) = before, after
    unit = np.where(std > 0, std, np.nan)
    mean, mean2 = moments.binned_mean(a, sums), moments.binned_mean(b, others)
    std2 = moments.binned_std(edges, b, others)
    found = {
        "mean_shift": (mean2 - mean) / unit,
        p_of("mean_shift"): significance.welch(mean, std, a.sum(axis=1), mean2, std2, b.sum(axis=1)).pvalue,
        "standard_deviation_ratio": std2 / unit,
        p_of("standard_deviation_ratio"): significance.brown_forsythe(edges, a, sums, b, others).pvalue,
    }
    for name, q in QUANTILES.items():
        found[name] = (moments.binned_quantile(b, others, q) - moments.binned_quantile(a, sums, q)) / unit
        found[p_of(name)] = significance.quantile_pvalue(a, b, q)
    return found


def _shares(now: Totals, then: Totals) -> dict[str, Floats]:
    """Missing values, of all rows; zeros and rows beyond the baseline's range, of the rows with a number."""
    width = now.bins.width
    a, b = then.numeric[:, :width], now.numeric[:, :width]
    missing = [t.numeric[:, width + NULL] + t.numeric[:, width + NAN] for t in (then, now)]
    zeros = [_zeros(now.bins.padded_edges, counts) for counts in (a, b)]
    return (
        _share("missing_ratio_change", missing[0], then.numeric.sum(axis=1), missing[1], now.numeric.sum(axis=1))
        | _share("zero_ratio_change", zeros[0], a.sum(axis=1), zeros[1], b.sum(axis=1))
        | _outside(a, b)
    )


def _outside(a: Floats, b: Floats) -> dict[str, Floats]:
    name, beyond, n, m = "out_of_range_ratio_change", _beyond(a, b), b.sum(axis=1), a.sum(axis=1)
    some = beyond > 0
    return {
        name: np.where(some & (m > 0), beyond / np.where(some, n, 1.0), np.nan),
        p_of(name): np.where(some, significance.outside_pvalue(beyond, n, m), np.nan),
    }


def _share(name: str, x1: Floats, n1: Floats, x2: Floats, n2: Floats) -> dict[str, Floats]:
    """Change of a share and its p-value, nan where neither side has such rows: most columns never miss a value."""
    some, others = (np.where(rows > 0, rows, np.nan) for rows in (n1, n2))
    change = np.where(x1 + x2 > 0, x2 / others - x1 / some, np.nan)
    pvalue = significance.two_proportion_pvalue(x1, n1, x2, n2)
    return {name: change, p_of(name): np.where(np.isnan(change), np.nan, pvalue)}


def _zeros(edges: Floats, counts: Floats) -> Floats:
    """Rows that are exactly zero, nan where 0 shares its bin with other values."""
    own = (edges[:, 1:] == 0) & (edges[:, :-1] == np.nextafter(0.0, -1.0))
    rows = np.where(own, counts[:, 1:-1], 0.0).sum(axis=1)
    known: Floats = np.where(own.any(axis=1), rows, np.nan)
    return known


def _beyond(baseline: Floats, current: Floats) -> Floats:
    """Rows of `current` in bins before the first and after the last one with rows of the baseline."""
    reached = np.cumsum(baseline, axis=1)
    outside = (reached == 0) | (reached - baseline == reached[:, -1:])
    return statistics.row_sums(np.where(outside, current, 0.0))


def _categorical(now: Totals, then: Totals, *, further: bool) -> dict[str, Floats]:
    depth = now.bins.depth
    a, b = then.categorical, now.categorical
    n, m = b.sum(axis=1), a.sum(axis=1)
    pooled = statistics.pool_rare(a, b)
    chi2 = significance.pooled_test(statistics.chi2_statistic, *pooled)
    found = {
        "n": n,
        "m": m,
        "chi2_statistic": chi2.statistic,
        p_of("chi2_statistic"): chi2.pvalue,
        # The index sums over bins, and rare categories would fill it with noise.
        "population_stability_index": statistics.population_stability_index(*pooled),
        "jensen_shannon_distance": statistics.jensen_shannon_distance(a, b),
    }
    if further:
        found["g_statistic"], found[p_of("g_statistic")] = significance.pooled_test(statistics.g_statistic, *pooled)
        found["cramers_v"] = statistics.cramers_v(*pooled)
        missing, new = depth + NULL_CATEGORY, depth + NEW
        found |= _distances(a, b) | _share("missing_ratio_change", a[:, missing], m, b[:, missing], n)
        found |= _share("new_category_ratio_change", a[:, new], m, b[:, new], n)
    return found
