"""Tests of significance and what is measured each hour: laws, scipy on raw rows, the null distribution, odd columns."""

from __future__ import annotations

import re
import warnings
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from hindcast.drift import moments, ranks, significance
from hindcast.drift import statistics as drift
from hindcast.drift.baseline import Comparison, Totals
from hindcast.drift.measures import FURTHER, PRIMARY, QUANTILES, measure, p_of
from hindcast.drift.unseen import next_sample
from hindcast.metrics import METRICS
from hindcast.profile.bins import Bins, fit_edges
from hindcast.profile.profile import NEW, NULL, NULL_CATEGORY

law = settings(deadline=None)  # a busy machine proves nothing

RANKS = {"mann_whitney": ranks.mann_whitney, "anderson_darling": ranks.anderson_darling,
         "cramer_von_mises": ranks.cramer_von_mises}  # fmt: skip
every_rank_test = pytest.mark.parametrize("test", RANKS.values(), ids=RANKS)


@st.composite
def two_sides(draw):
    bins = draw(st.integers(1, 10))
    sides = [draw(st.lists(st.integers(0, 300), min_size=bins, max_size=bins)) for _ in range(2)]
    assume(all(sum(side) > 2 for side in sides))
    return np.array(sides)


def samples():
    """Pairs of raw rows by name, and whether rows are tied."""
    g = np.random.default_rng(7)
    return {
        "normal": (g.normal(size=900), g.normal(size=400), False),
        "shifted": (g.normal(size=900), g.normal(0.15, 1, size=400), False),
        "wider": (g.normal(size=300), g.normal(0, 1.4, size=2000), False),
        "few": (g.normal(size=9), g.normal(0.5, size=12), False),
        "rounded": (g.normal(size=900).round(1), g.normal(0.1, size=400).round(1), True),
        "poisson": (g.poisson(3, 900) * 1.0, g.poisson(3.3, 400) * 1.0, True),
        "zeros": (g.gamma(1, size=900) * (g.random(900) < 0.3), g.gamma(1, size=400) * (g.random(400) < 0.4), True),
    }  # fmt: skip


every_sample = pytest.mark.parametrize(("x", "y", "tied"), samples().values(), ids=samples())


def binned(values, edges):
    place = np.searchsorted(edges, values, side="left")
    return tuple(np.bincount(place, weights, len(edges) + 1) for weights in (None, values))


def own_bins(x, y):
    edges = np.unique(np.concatenate([x, y]))
    return edges, *binned(x, edges), *binned(y, edges)


# Laws


@every_rank_test
@law
@given(sides=two_sides())
def test_equal_sides_are_no_drift_and_p_values_are_shares(test, sides):
    same = test(sides[0], sides[0])
    assert same.statistic == pytest.approx(0.5 if test is ranks.mann_whitney else 0, abs=1e-12)
    assert same.pvalue > 0.75
    found = test(*sides)
    n, m = sides.sum(axis=1)
    highest = {ranks.mann_whitney: 1, ranks.cramer_von_mises: n * m / (n + m) / 2}.get(test, np.inf)
    assert 0 <= found.statistic <= highest * (1 + 1e-12)
    assert 0 <= found.pvalue <= 1


@every_rank_test
@law
@given(sides=two_sides())
def test_sides_and_the_direction_of_the_values_may_be_swapped(test, sides):
    found, swapped, mirrored = test(*sides), test(*sides[::-1]), test(*sides[:, ::-1])
    if test is ranks.mann_whitney:
        assert swapped.statistic == pytest.approx(1 - found.statistic, abs=1e-12)
        assert mirrored.statistic == pytest.approx(1 - found.statistic, abs=1e-12)
    else:
        assert (swapped.statistic, mirrored.statistic) == pytest.approx((found.statistic, found.statistic), abs=1e-9)
    assert (swapped.pvalue, mirrored.pvalue) == pytest.approx((found.pvalue, found.pvalue), rel=1e-6, abs=1e-12)


@every_rank_test
@law
@given(sides=two_sides(), at=st.integers(0, 10))
def test_bins_that_are_empty_on_both_sides_may_stand_anywhere(test, sides, at):
    found, wide = test(*sides), test(*np.insert(sides, min(at, sides.shape[1]), 0, axis=1))
    assert (wide.statistic, wide.pvalue) == pytest.approx((found.statistic, found.pvalue), rel=1e-9, abs=1e-12)


@every_rank_test
def test_features_are_worked_on_at_once_and_an_empty_side_is_nan_in_its_row_alone(test):
    g = np.random.default_rng(1)
    reference, current = g.integers(1, 90, (1, 4, 7)), g.integers(1, 90, (3, 4, 7)) / 4
    found = test(reference, current)
    each = [[test(reference[0, j], current[i, j]) for j in range(4)] for i in range(3)]
    np.testing.assert_allclose(found.statistic, [[one.statistic for one in row] for row in each], rtol=1e-12)
    np.testing.assert_allclose(found.pvalue, [[one.pvalue for one in row] for row in each], rtol=1e-9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        empty = test(
            [[0, 0, 0], [3, 2, 1], [0, 0, 0], [3, 2, 1], [4, 0, 0]], [[1, 2, 0], [0] * 3, [0] * 3, [1, 1, 0], [3, 0, 0]]
        )
    for part in empty:
        assert np.isnan(part).tolist() == [True, True, True, False, False]
    assert empty.pvalue[4] > 0.9  # a constant that stays


spreads = st.floats(0, 9, allow_subnormal=False)


@law
@given(st.floats(-5, 5), spreads, st.integers(2, 999), st.floats(-5, 5), spreads, st.integers(2, 999))
def test_welch_is_antisymmetric_in_the_sides_and_blind_to_the_unit(mean, std, n, mean2, std2, m):
    found = significance.welch(mean, std, n, mean2, std2, m)
    swapped = significance.welch(mean2, std2, m, mean, std, n)
    scaled = significance.welch(8 * mean, 8 * std, n, 8 * mean2, 8 * std2, m)
    assert 0 <= found.pvalue <= 1
    assert (swapped.statistic, swapped.pvalue) == pytest.approx((-found.statistic, found.pvalue), rel=1e-9)
    assert (scaled.statistic, scaled.pvalue) == pytest.approx((found.statistic, found.pvalue), rel=1e-9, abs=1e-300)


def test_tests_of_constants_and_of_nothing_are_documented_numbers_without_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same, moved = significance.welch(1.0, 0.0, 9, 1.0, 0.0, 9), significance.welch(1.0, 0.0, 9, 2.0, 0.0, 9)
        assert (same.statistic, same.pvalue, moved.statistic, moved.pvalue) == (0, 1, np.inf, 0)
        assert np.isnan(significance.welch(1.0, 0.0, 1, 2.0, 0.0, 9)).all()
        edges, one = [0.0, 1.0], ([0, 9, 0], [0.0, 9.0, 0.0])
        assert significance.brown_forsythe(edges, *one, *one).pvalue == 1
        nothing = ([0, 0, 0], [0.0, 0.0, 0.0])
        assert np.isnan(significance.brown_forsythe(edges, *nothing, *one)).all()
        assert np.isnan(moments.binned_quantile(*nothing, 0.5))
        assert np.isnan(moments.energy_distance(edges, *nothing, *one))
        assert np.isnan(significance.quantile_pvalue([0, 0], [1, 2], 0.5))
        assert np.isnan(significance.fisher_pvalue([0, 3], [0, 5], [1, 1], [4, 0])).all()
        assert np.isnan(significance.two_proportion_z(0, 0, 1, 4))
        assert np.isnan(significance.epps_singleton([1.0, 2, 3], np.arange(9.0))).all()
        assert np.isnan(significance.epps_singleton(np.ones(9), np.ones(9))).all()
        assert np.isnan(significance.outside_pvalue([0, 1], [0, 9], [9, 0])).all()
        tiny, huge = (significance.epps_singleton(np.arange(9) * s, np.arange(9) ** 2 * s) for s in (5e-324, 1e300))
        assert tiny.pvalue == pytest.approx(huge.pvalue)


# scipy, on raw rows


@every_sample
def test_mann_whitney_is_scipys_with_a_bin_per_value(x, y, tied):
    found, truth = ranks.mann_whitney(*own_bins(x, y)[1::2]), stats.mannwhitneyu(y, x, method="asymptotic")
    assert found.statistic * x.size * y.size == pytest.approx(truth.statistic, rel=1e-12)
    assert found.pvalue == pytest.approx(truth.pvalue, rel=1e-9)


@every_sample
def test_anderson_darling_is_scipys_with_a_bin_per_value_and_its_p_value_within_its_table(x, y, tied):
    found = ranks.anderson_darling(*own_bins(x, y)[1::2])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy's p-value is clipped
        truth = stats.anderson_ksamp([x, y])
    sd = ranks.anderson_darling_sd(x.size, y.size)
    assert (found.statistic - 1) / sd == pytest.approx(truth.statistic, rel=1e-9, abs=1e-9)
    if tied:  # scipy's standard deviation is that of untied rows
        assert found.pvalue > truth.pvalue
        assert found.pvalue == near_chance(ranks.anderson_darling, x, y)
    else:
        assert np.clip(found.pvalue, 0.001, 0.25) == pytest.approx(truth.pvalue, rel=0.04)


def near_chance(test, x, y, trials=400):
    """Share of shuffles with a statistic as large, within four standard errors and 0.02."""
    shuffled = np.random.default_rng(3).permuted(np.tile(np.concatenate([x, y]), (trials, 1)), axis=1)
    edges = np.unique(shuffled)
    pairs = [[binned(side, edges)[0] for side in (row[: x.size], row[x.size :])] for row in shuffled]
    sides = np.swapaxes(pairs, 0, 1)
    chance = (test(*sides).statistic >= test(*own_bins(x, y)[1::2]).statistic).mean()
    return pytest.approx(chance, abs=0.02 + 4 * np.sqrt(chance * (1 - chance) / trials))


@every_sample
def test_cramer_von_mises_is_scipys_of_untied_rows_and_of_ties_is_no_drift_where_there_is_none(x, y, tied):
    found, truth = ranks.cramer_von_mises(*own_bins(x, y)[1::2]), stats.cramervonmises_2samp(x, y, method="asymptotic")
    if not tied:
        assert (found.statistic, found.pvalue) == pytest.approx((truth.statistic, truth.pvalue), rel=1e-9)
        return
    # With midranks where untied ranks belong, scipy measures the ties: of a sample against itself too.
    assert truth.statistic > found.statistic
    thrice = np.tile(x, 3)
    assert stats.cramervonmises_2samp(x, thrice, method="asymptotic").statistic > 0.01
    assert ranks.cramer_von_mises(*own_bins(x, thrice)[1::2]).statistic == pytest.approx(0, abs=1e-12)
    assert found.pvalue == near_chance(ranks.cramer_von_mises, x, y)


@every_sample
def test_median_spread_and_level_are_scipys_with_a_bin_per_value(x, y, tied):
    edges, r, r_sums, c, c_sums = own_bins(x, y)
    levene = stats.levene(x, y, center="median")
    found = significance.brown_forsythe(edges, r, r_sums, c, c_sums)
    assert (found.statistic, found.pvalue) == pytest.approx((levene.statistic, levene.pvalue), rel=1e-6)
    mood = stats.median_test(x, y, correction=False)
    if mood.table.min() >= 5:
        assert significance.quantile_pvalue(r, c, 0.5) == pytest.approx(mood.pvalue, rel=1e-7)
    level = [
        (moments.binned_mean(*side), moments.binned_std(edges, *side), side[0].sum())
        for side in ((r, r_sums), (c, c_sums))
    ]
    welch = stats.ttest_ind(y, x, equal_var=False)
    found = significance.welch(*level[0], *level[1])
    assert (found.statistic, found.pvalue) == pytest.approx((welch.statistic, welch.pvalue), rel=1e-6)
    if np.subtract(*np.percentile(np.concatenate([x, y]), [75, 25])) > 0:
        epps = stats.epps_singleton_2samp(x, y)
        found = significance.epps_singleton(x, y)
        assert (found.statistic, found.pvalue) == pytest.approx((epps.statistic, epps.pvalue), rel=1e-7)


@law
@given(st.integers(0, 40), st.integers(1, 40), st.integers(0, 300), st.integers(1, 300))
def test_fisher_is_scipys(x, n, y, m):
    x, y = min(x, n), min(y, m)
    truth = stats.fisher_exact([[x, n - x], [y, m - y]]).pvalue
    assert significance.fisher_pvalue(x, n, y, m) == pytest.approx(truth, rel=1e-7)


@law
@given(st.integers(1, 400), st.integers(1, 400), st.floats(0, 1))
def test_rows_outside_of_another_samples_range_are_a_negative_hypergeometric(n, m, share):
    """The current rows that are drawn before the second of the reference's rows."""
    k = round(share * n)
    assume(m > 1)  # outside of one row lie all
    truth = stats.nhypergeom(n + m, n, 2).sf(k - 1)
    assert significance.outside_pvalue(k, n, m) == pytest.approx(truth, rel=1e-6, abs=1e-10)


@law
@given(sides=two_sides())
def test_a_pool_is_a_category_like_others_unless_it_is_small(sides):
    pooled = drift.pool_rare(*sides)
    n, m = sides.sum(axis=1)
    both = pooled[0] + pooled[1]
    expected = both[-1] * min(n, m) / (n + m)
    plain = significance.chi2_pvalue(drift.chi2_statistic(*pooled), drift.degrees_of_freedom(*pooled))
    found = significance.pooled_test(drift.chi2_statistic, *pooled).pvalue
    swapped = significance.pooled_test(drift.chi2_statistic, *pooled[::-1]).pvalue
    assert 0 <= found <= 1
    assert swapped == pytest.approx(found, rel=1e-6, abs=1e-12)
    if both[-1] == 0 or expected >= 5:
        assert found == plain
    elif np.count_nonzero(both[:-1]) == 1:
        (a, b), (c, d) = np.array(pooled)[:, np.r_[np.flatnonzero(both[:-1]), -1]]
        assert found == pytest.approx(stats.fisher_exact([[a, b], [c, d]]).pvalue, rel=1e-6)


def test_p_values_of_rare_categories_reject_no_oftener_than_they_say_with_no_drift():
    """One row of a value that the other side lacks is impossible to chi-square, and common."""
    g, trials = np.random.default_rng(23), 4000
    for n, m, rare in ((30, 2000, 0.005), (200, 20_000, 0.005), (20_000, 60, 0.02)):
        shares = [0.7, 0.3 - rare, rare]
        pooled = drift.pool_rare(g.multinomial(m, shares, trials), g.multinomial(n, shares, trials))
        plain = significance.chi2_pvalue(drift.chi2_statistic(*pooled), drift.degrees_of_freedom(*pooled))
        assert (plain < 0.001).mean() > 0.002  # what chi-square itself would say
        for test in (drift.chi2_statistic, drift.g_statistic):
            found = significance.pooled_test(test, *pooled).pvalue
            for level in (0.001, 0.01, 0.05):
                most = stats.binom.ppf(1 - 5e-7, trials, level)
                assert (found < level).sum() <= 1.2 * most, (n, m, test, level)


def test_a_range_is_exceeded_by_another_sample_as_often_as_its_p_value_says():
    g, trials = np.random.default_rng(29), 4000
    for n, m in ((20, 20), (2000, 50), (60, 300)):
        then, now = g.random((trials, m)), g.random((trials, n))
        beyond = ((now < then.min(axis=1)[:, None]) | (now > then.max(axis=1)[:, None])).sum(axis=1)
        found = significance.outside_pvalue(beyond, n, m)
        for level in (0.01, 0.05, 0.2):
            assert (found < level).sum() <= stats.binom.ppf(1 - 5e-7, trials, level)
        assert (found < 0.2).mean() > 0.05  # and not never


@pytest.mark.parametrize(
    ("values", "slope", "n"), [(5000, 1.1, 20_000), (50_000, 1.1, 100_000), (20_000, 0.7, 200_000), (300, 1.1, 2000)]
)
def test_the_next_sample_has_as_many_rows_of_other_values_as_foreseen(values, slope, n):
    """Of 1,000 known values at most: the share of the rest is foreseen without bias, its own is too small."""
    g = np.random.default_rng(31)
    shares = np.arange(1, values + 1) ** -slope / (np.arange(1, values + 1) ** -slope).sum()
    foreseen, seen, truth = [], [], []
    for _ in range(60):
        counts = g.multinomial(n, shares)
        known = np.lexsort((g.random(values), -counts))[:1000]
        known = known[counts[known] > 0]
        others = n - counts[known].sum()
        left, new = next_sample(counts[known], others)
        assert left.sum() + new == pytest.approx(n)
        assert (left >= 0).all()
        foreseen.append(new)
        seen.append(others)
        truth.append(n * (1 - shares[known].sum()))
    error = np.std(np.subtract(foreseen, truth)) / np.sqrt(60)
    surplus = np.mean(truth) - np.mean(seen)
    assert np.mean(foreseen) == pytest.approx(np.mean(truth), abs=4 * error + 0.05 * surplus)
    assert surplus > 10 * error


@pytest.mark.parametrize("unit", [1e-300, 1.0, 1e300])
def test_values_near_the_ends_of_the_numbers_have_the_statistics_of_any_unit(unit):
    g = np.random.default_rng(5)
    rows = [g.normal(0, 1, 500) * unit, g.normal(0.3, 1.2, 300) * unit]
    edges, r, r_sums, c, c_sums = own_bins(*rows)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        spread = moments.binned_std(edges, r, r_sums), moments.binned_std(edges, c, c_sums)
        levels = moments.binned_mean(r, r_sums), moments.binned_mean(c, c_sums)
        found = (
            significance.welch(levels[0], spread[0], 500, levels[1], spread[1], 300).pvalue,
            significance.brown_forsythe(edges, r, r_sums, c, c_sums).pvalue,
            moments.wasserstein_normalized(edges, r, r_sums, c, c_sums, scale=spread[0]),
        )
    x, y = (side / unit for side in rows)
    truth = (
        stats.ttest_ind(y, x, equal_var=False).pvalue,
        stats.levene(x, y, center="median").pvalue,
        stats.wasserstein_distance(x, y) / x.std(),
    )
    assert found == pytest.approx(truth, rel=1e-6)


# Bins of a continuous feature: what docs/statistics.md states of 256 quantile bins

BINNED = {"ks": 0.004, "mann_whitney": 2e-4, "cramer_von_mises": 0.02, "anderson_darling": 0.03, "welch": 0.02,
          "brown_forsythe": 0.05, "quantile": 0.02, "energy": 2e-3}  # fmt: skip


def errors_of_bins(x, y):
    """Per test, how far the number from quantile bins of the first side is from that of the raw rows."""
    ordered = np.sort(x)
    edges = np.unique(ordered[np.arange(1, 256) * x.size // 256])
    a, b = binned(x, edges), binned(y, edges)
    level = [(moments.binned_mean(*side), moments.binned_std(edges, *side), side[0].sum()) for side in (a, b)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        anderson = stats.anderson_ksamp([x, y]).statistic * ranks.anderson_darling_sd(x.size, y.size) + 1
    # Statistics that grow with drift, per unit of themselves.
    growing = {
        "cramer_von_mises": (
            ranks.cramer_von_mises(a[0], b[0]).statistic, stats.cramervonmises_2samp(x, y).statistic,
        ),
        "anderson_darling": (ranks.anderson_darling(a[0], b[0]).statistic, anderson),
        "welch": (significance.welch(*level[0], *level[1]).statistic, stats.ttest_ind(y, x, equal_var=False).statistic),
        "brown_forsythe": (
            significance.brown_forsythe(edges, *a, *b).statistic, stats.levene(x, y, center="median").statistic,
        ),
    }  # fmt: skip
    found = {
        "ks": drift.ks_statistic(a[0], b[0]) - stats.ks_2samp(x, y).statistic,
        "mann_whitney": ranks.mann_whitney(a[0], b[0]).statistic - stats.mannwhitneyu(y, x).statistic / x.size / y.size,
        "quantile": (moments.binned_quantile(*b, 0.5) - np.median(y)) / x.std(),
        "energy": (moments.energy_distance(edges, *a, *b) - stats.energy_distance(x, y)) / np.sqrt(x.std()),
    } | {name: (ours - truth) / max(abs(truth), 1) for name, (ours, truth) in growing.items()}
    return {name: abs(float(error)) for name, error in found.items()}


@pytest.mark.parametrize("shift", [0.0, 0.05, 0.2])
@pytest.mark.parametrize("family", ["normal", "lognormal", "exponential"])
def test_bins_of_a_continuous_feature_cost_little(family, shift):
    g = np.random.default_rng(11)
    x, y = getattr(g, family)(size=20_000), getattr(g, family)(size=3000)
    errors = errors_of_bins(x, y + shift * x.std())
    assert {name: error <= BINNED[name] for name, error in errors.items()} == dict.fromkeys(BINNED, True), errors


# With no drift

N, M, TRIALS = 3000, 800, 3000


def test_p_values_reject_as_often_as_they_say_with_no_drift():
    """Rejections are binomial; the bounds are passed by chance once in a million runs of another seed."""
    g = np.random.default_rng(17)
    edges = stats.norm.ppf(np.arange(1, 300) / 300)
    means = -np.diff(stats.norm.pdf(np.concatenate([[-np.inf], edges, [np.inf]]))) * 300
    r, c = g.multinomial(N, np.full(300, 1 / 300), TRIALS), g.multinomial(M, np.full(300, 1 / 300), TRIALS)
    heavy = np.array([0.6, 0.2, 0.1, 0.05, 0.05])
    a, b = g.multinomial(N, heavy, TRIALS), g.multinomial(M, heavy, TRIALS)
    level = [
        (moments.binned_mean(s, s * means), moments.binned_std(edges, s, s * means), s.sum(axis=1)) for s in (r, c)
    ]
    found = {
        "welch": significance.welch(*level[0], *level[1]).pvalue,
        "brown_forsythe": significance.brown_forsythe(edges, r, r * means, c, c * means).pvalue,
        "median": significance.quantile_pvalue(r, c, 0.5),
        "p95": significance.quantile_pvalue(r, c, 0.95),
        "g": significance.chi2_pvalue(drift.g_statistic(a, b), drift.degrees_of_freedom(a, b)),
    }
    for name, test in RANKS.items():
        found |= {name: test(r, c).pvalue, f"{name}, five values": test(a, b).pvalue}
    for level_ in (0.01, 0.05, 0.2):
        low, high = stats.binom.ppf([5e-7, 1 - 5e-7], TRIALS, level_)
        # The standard deviation from bins, and limits for ties, are approximations: two parts in ten are allowed.
        inside = {name: 0.8 * low <= (p < level_).sum() <= 1.2 * high for name, p in found.items()}
        assert inside == dict.fromkeys(found, True), level_
    assert ranks.anderson_darling(r, c).statistic.mean() == pytest.approx(1, abs=0.06)
    assert ranks.cramer_von_mises(r, c).statistic.mean() == pytest.approx(1 / 6, abs=0.012)
    energy = moments.energy_distance(edges, r, r * means, c, c * means)
    assert (energy**2).mean() == pytest.approx(1.13 * (1 / N + 1 / M), rel=0.06)


def test_tails_of_the_limits_are_those_that_are_tabulated():
    """Marsaglia and Marsaglia (2004) for Anderson-Darling; scipy's function for Cramér-von Mises."""
    tails = {1.9329578: 0.1, 2.4923671: 0.05, 3.8781250: 0.01, 5.9694: 0.001}
    found = [float(ranks._tail(np.array(z), ranks._ANDERSON_DARLING)) for z in tails]
    assert found == pytest.approx(list(tails.values()), rel=2e-3)
    t = np.linspace(0.02, 2, 60)
    truth = [1 - float(stats._hypotests._cdf_cvm_inf(x)) for x in t]
    np.testing.assert_allclose(ranks._tail(6 * t, ranks._CRAMER_VON_MISES), truth, rtol=1e-4)
    assert all(x >= y for x, y in pairwise(ranks._tail(np.linspace(0, 40, 500), ranks._ANDERSON_DARLING)))


# What is measured each hour


def compared(now_rows, then_rows, now_words=(), then_words=()):
    """Comparison of one numeric column, bins fitted to the second side, and one of words a to c."""
    edges = fit_edges(np.array([value for value in then_rows if np.isfinite(value)] or [0.0]), 64)
    bins = Bins(("feature_x",), (edges,), ("feature_w",), (("a", "b", "c"),))
    totals = []
    for rows, words in ((now_rows, now_words), (then_rows, then_words)):
        total, values = Totals(bins), np.asarray(rows, float)
        counts, sums = binned(values[~np.isnan(values)], edges)
        total.numeric[0, : bins.width] = counts
        total.numeric[0, bins.width + NULL] = np.isnan(values).sum()
        total.sums[:] = (sums - counts * bins.center[0]) / bins.unit[0]
        slots = {"a": 0, "b": 1, "c": 2, None: bins.depth + NULL_CATEGORY}
        for word in words:
            total.categorical[0, slots.get(word, bins.depth + NEW)] += 1
        total.rows = float(len(rows))
        totals.append(total)
    return Comparison("reference", 1, *totals, 100, "the reference")


def rows_with(size, missing=0, zeros=0, seed=1):
    values = np.random.default_rng(seed).lognormal(size=size)
    values[:missing] = np.nan
    values[missing : missing + zeros] = 0
    return values


WORDS = ["a"] * 120 + ["b"] * 60 + ["c"] * 19 + [None]
ODD = {
    "empty": ([], rows_with(200), [], WORDS),
    "all null": ([np.nan] * 200, rows_with(200), [None] * 200, WORDS),
    "constant": ([1.0] * 200, [1.0] * 200, ["a"] * 200, ["a"] * 200),
    "no longer constant": (rows_with(200), [1.0] * 200, WORDS, ["a"] * 200),
    "all new": (rows_with(200) + 1e9, rows_with(200), ["z"] * 200, WORDS),
    "one row": ([3.0], rows_with(200), ["a"], WORDS),
    "baseline of nulls": (rows_with(200), [np.nan] * 200 + [1.0], WORDS, [None] * 200),
}


@pytest.mark.parametrize("rows", ODD.values(), ids=ODD)
@pytest.mark.parametrize("further", [True, False])
def test_odd_columns_have_numbers_or_nothing_and_never_warn(rows, further):
    now, then, now_words, then_words = rows
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = measure(compared(now, then, now_words, then_words), further=further)
    for measured in found.values():
        assert {"n", "m"} <= set(measured)
        assert all(np.isfinite(value) for value in measured.values())


def test_what_is_measured_is_what_is_stored_and_registered_within_its_range():
    now = np.append(rows_with(300, 20, 90, seed=2), 1e6)
    found = measure(compared(now, rows_with(2000, 40, 500), WORDS + ["z"] * 9, WORDS * 3))
    for column, kind in (("feature_x", "numeric"), ("feature_w", "categorical")):
        names = {name for name in found[column] if not name.endswith(":p")} - {"n", "m"}
        assert names == {*PRIMARY[kind], *FURTHER[kind]}
        for name in names:
            metric = METRICS[name]
            assert metric.family == "drift"
            assert metric.low <= found[column][name] <= metric.high
        assert all(0 <= value <= 1 for name, value in found[column].items() if name.endswith(":p"))
        primary = set(measure(compared(rows_with(300), rows_with(300), WORDS, WORDS), further=False)[column])
        assert {name for name in primary if not name.endswith(":p")} == {*PRIMARY[kind], "n", "m"}


def test_every_metric_that_is_measured_and_every_error_of_bins_is_documented():
    page = (Path(__file__).parents[1] / "docs" / "statistics.md").read_text("utf-8")
    cells = [line.split(" | ") for line in page.splitlines() if line.startswith("| ")]
    named = {name for row in cells for name in re.findall(r"`(\w+)`", row[0])}
    assert {name for metrics in (PRIMARY, FURTHER) for kind in metrics.values() for name in kind} <= named
    stated = dict(re.findall(r"<!-- (\w+) --> ([0-9.e-]+)", page))
    assert {name: float(error) for name, error in stated.items()} == BINNED


def test_shares_are_of_the_rows_that_they_concern():
    now = np.concatenate([rows_with(300, missing=60, zeros=120, seed=2), [1e6, -5.0]])
    found = measure(compared(now, rows_with(2000, zeros=500), [*WORDS, "z", "z"], WORDS))
    number, word = found["feature_x"], found["feature_w"]
    assert number["missing_ratio_change"] == pytest.approx(60 / 302)
    assert number["zero_ratio_change"] == pytest.approx(120 / 242 - 0.25)
    assert number["out_of_range_ratio_change"] == pytest.approx(2 / 242)
    assert word["new_category_ratio_change"] == pytest.approx(2 / 202)
    truth = stats.fisher_exact([[0, 200], [2, 200]]).pvalue
    assert word[p_of("new_category_ratio_change")] == pytest.approx(truth)


def test_zeros_that_have_no_bin_of_their_own_and_shares_that_nobody_has_are_left_out():
    found = measure(compared([*rows_with(300), -1.0], rows_with(2000), WORDS, WORDS))
    for name in ("zero_ratio_change", "missing_ratio_change"):
        assert not {name, p_of(name)} & set(found["feature_x"])
    assert found["feature_x"]["out_of_range_ratio_change"] == pytest.approx(1 / 301)
    assert not {name for name in found["feature_w"] if name.startswith("new_category")}
    assert found["feature_w"]["missing_ratio_change"] == 0


def test_level_and_spread_are_in_standard_deviations_of_the_baseline():
    then = np.random.default_rng(3).normal(10, 2, 5000)
    found = measure(compared(then * 1.5 + 1, then))["feature_x"]
    assert found["mean_shift"] == pytest.approx((then.mean() * 0.5 + 1) / then.std(), rel=0.03)
    assert found["standard_deviation_ratio"] == pytest.approx(1.5, rel=0.05)
    moved = then * 1.05 + 0.1
    nearby = measure(compared(moved, then))["feature_x"]
    for name, q in QUANTILES.items():  # a bin of sixty-four is a tenth of σ wide in the middle, more towards the ends
        assert nearby[name] == pytest.approx((np.quantile(then, q) * 0.05 + 0.1) / then.std(), abs=0.15)
    assert nearby["quantile_05_shift"] < nearby["median_shift"] < nearby["quantile_95_shift"]
    assert max(found[p_of(name)] for name in ("mean_shift", "standard_deviation_ratio", "median_shift")) < 1e-30
    tail = measure(compared(np.where(then > np.quantile(then, 0.9), then + 2, then), then))["feature_x"]
    assert tail["median_shift"] == pytest.approx(0, abs=1e-9)
    assert tail["quantile_95_shift"] == pytest.approx(2 / then.std(), abs=0.25)
