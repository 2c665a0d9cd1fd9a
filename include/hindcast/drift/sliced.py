"""Drift of slices: every column of every segment value in its coarse bins, all at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hindcast.drift import significance, statistics
from hindcast.drift.measures import GROUPS, p_of
from hindcast.profile.profile import INVALID, INVALID_CATEGORY, NAN, NULL, NULL_CATEGORY
from hindcast.profile.slices import SLOTS, WIDTH

if TYPE_CHECKING:
    Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

MAIN = {"numeric": "ks_statistic", "categorical": "chi2_statistic"}
EFFECT = "jensen_shannon_distance"
MISSING = "missing_ratio_change"


def measure_slices(now: Floats, then: Floats, numeric: int) -> dict[str, Floats]:
    """Distances of slices from their baselines.

    Parameters
    ----------
    now, then : arrays of shape (n_slices, n_columns, SLOTS)
        Counts as `hindcast.profile.slices.Slices` has them, or weighted sums of them.
    numeric : int
        So many columns, the first ones, are numeric.

    Returns
    -------
    dict
        Metric (or `p_of` it) -> array of shape (n_slices, n_columns), NaN where it is not defined; ``n`` and ``m`` are
        the rows compared. The statistic of a numeric column is the Kolmogorov-Smirnov distance over the coarse bins,
        which is at most that of the rows: its p-value errs on the careful side.

    Examples
    --------
    >>> now, then = np.zeros((1, 2, SLOTS)), np.zeros((1, 2, SLOTS))
    >>> now[0, 0, 3], then[0, 0, :4] = 40, 100
    >>> now[0, 1, :2], then[0, 1, :2] = (30, 10), (300, 100)
    >>> found = measure_slices(now, then, 1)
    >>> found["ks_statistic"].tolist(), found["chi2_statistic"].round(6).tolist()
    ([[0.75, nan]], [[nan, 0.0]])
    """
    shape = now.shape[:2]
    found: dict[str, Floats] = {}

    def put(columns: slice, values: dict[str, Floats]) -> None:
        for name, of in values.items():
            table = found.setdefault(name, np.full(shape, np.nan))
            table[:, columns] = of.reshape(shape[0], -1)

    numbers, texts = slice(None, numeric), slice(numeric, None)
    if numeric:
        put(numbers, _numeric(then[:, numbers].reshape(-1, SLOTS), now[:, numbers].reshape(-1, SLOTS)))
    if numeric < shape[1]:
        put(texts, _categorical(then[:, texts].reshape(-1, SLOTS), now[:, texts].reshape(-1, SLOTS)))
    return found


def _numeric(then: Floats, now: Floats) -> dict[str, Floats]:
    a, b = then[:, :WIDTH], now[:, :WIDTH]
    n, m = b.sum(axis=1), a.sum(axis=1)
    ks = statistics.ks_statistic(a, b)
    nulls = [side[:, WIDTH + NULL] + side[:, WIDTH + NAN] for side in (then, now)]
    return {
        "n": n,
        "m": m,
        MAIN["numeric"]: ks,
        p_of(MAIN["numeric"]): significance.ks_pvalue(ks, n, m),
        EFFECT: statistics.jensen_shannon_distance(*statistics.merge_bins(a, b, groups=GROUPS)),
        **_missing(nulls[0], then.sum(axis=1), nulls[1], now.sum(axis=1)),
    }


def _categorical(then: Floats, now: Floats) -> dict[str, Floats]:
    pooled = statistics.pool_rare(then, now)
    chi2 = significance.pooled_test(statistics.chi2_statistic, *pooled)
    nulls = [side[:, WIDTH + NULL_CATEGORY] for side in (then, now)]
    return {
        "n": now.sum(axis=1),
        "m": then.sum(axis=1),
        MAIN["categorical"]: chi2.statistic,
        p_of(MAIN["categorical"]): chi2.pvalue,
        EFFECT: statistics.jensen_shannon_distance(then, now),
        **_missing(nulls[0], then.sum(axis=1), nulls[1], now.sum(axis=1)),
    }


def _missing(x: Floats, n: Floats, y: Floats, m: Floats) -> dict[str, Floats]:
    rows, others = np.where(n > 0, n, np.nan), np.where(m > 0, m, np.nan)
    change = np.where(x + y > 0, y / others - x / rows, np.nan)
    pvalue = significance.two_proportion_pvalue(x, n, y, m)
    return {MISSING: change, p_of(MISSING): np.where(np.isnan(change), np.nan, pvalue)}


def spoilt(now: Floats, numeric: int) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.bool_]], ...]:
    """Of every slice and column, whether it has nothing but nulls, and whether it has values of another type."""
    null, invalid = np.full(now.shape[1], WIDTH + NULL_CATEGORY), np.full(now.shape[1], WIDTH + INVALID_CATEGORY)
    null[:numeric], invalid[:numeric] = WIDTH + NULL, WIDTH + INVALID
    columns = np.arange(now.shape[1])
    total = now.sum(axis=2)
    return (now[:, columns, null] == total) & (total > 0), now[:, columns, invalid] > 0
