"""Drift statistics against scipy on raw rows, and against theory."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial import distance
from scipy.stats.contingency import crosstab

from hindcast.drift import moments, significance
from hindcast.drift import statistics as drift

law = settings(deadline=None)  # a busy machine proves nothing


def line(statistic, **options):
    """A statistic of values as one of counts: bin i holds the rows whose value is i."""

    def of_counts(reference, current):
        place = np.arange(np.shape(reference)[-1])
        r, c = np.asarray(reference), np.asarray(current)
        return statistic(place[:-1] + 0.5, r, r * place, c, c * place, **options)

    return of_counts


# claim: symmetric, blind to the order of the bins, blind to the sizes of the sides, and the upper end of the range.
SYMMETRIC, ORDERLESS, SIZELESS = "symmetric", "orderless", "sizeless"
STATISTICS = {
    "ks_statistic": (drift.ks_statistic, {SYMMETRIC, SIZELESS}, 1.0),
    "phi_squared": (drift.phi_squared, {SYMMETRIC, ORDERLESS}, np.inf),
    "chi2_statistic": (drift.chi2_statistic, {SYMMETRIC, ORDERLESS}, np.inf),
    "g_statistic": (drift.g_statistic, {SYMMETRIC, ORDERLESS}, np.inf),
    "cramers_v": (drift.cramers_v, {SYMMETRIC, ORDERLESS}, 1.0),
    "population_stability_index": (drift.population_stability_index, {SYMMETRIC, ORDERLESS}, np.inf),
    "psi, unsmoothed": (
        lambda r, c: drift.population_stability_index(r, c, smoothing=0),
        {SYMMETRIC, ORDERLESS, SIZELESS},
        np.inf,
    ),
    "kl_divergence": (drift.kl_divergence, {ORDERLESS}, np.inf),
    "kl, unsmoothed": (lambda r, c: drift.kl_divergence(r, c, smoothing=0), {ORDERLESS, SIZELESS}, np.inf),
    "jensen_shannon_distance": (drift.jensen_shannon_distance, {SYMMETRIC, ORDERLESS, SIZELESS}, 1.0),
    "hellinger_distance": (drift.hellinger_distance, {SYMMETRIC, ORDERLESS, SIZELESS}, 1.0),
    "total_variation": (drift.total_variation, {SYMMETRIC, ORDERLESS, SIZELESS}, 1.0),
    "l_infinity": (drift.l_infinity, {SYMMETRIC, ORDERLESS, SIZELESS}, 1.0),
    "wasserstein_distance": (line(moments.wasserstein_distance), {SYMMETRIC, SIZELESS}, np.inf),
    "energy_distance": (line(moments.energy_distance), {SYMMETRIC, SIZELESS}, np.inf),
    "wasserstein_normalized": (line(moments.wasserstein_normalized, scale=2.5), {SYMMETRIC, SIZELESS}, np.inf),
}
every_statistic = pytest.mark.parametrize("name", STATISTICS)


def claiming(claim):
    return pytest.mark.parametrize("name", [name for name, (_, claims, _) in STATISTICS.items() if claim in claims])


@st.composite
def two_sides(draw):
    bins = draw(st.integers(1, 12))
    count = st.one_of(st.just(0), st.integers(0, 2000))
    sides = [draw(st.lists(count, min_size=bins, max_size=bins)) for _ in range(2)]
    assume(all(sum(side) for side in sides))
    return sides


def close(left, right):
    """Equal but for rounding; a square root turns a rounding of 1e-16 next to zero into 1e-8."""
    np.testing.assert_allclose(left, right, rtol=1e-9, atol=3e-8)


# Laws


@every_statistic
@law
@given(sides=two_sides())
def test_a_side_does_not_differ_from_itself_and_results_stay_in_range(name, sides):
    statistic, _, highest = STATISTICS[name]
    assert statistic(sides[0], sides[0]) == 0
    assert 0 <= statistic(*sides) <= highest


@claiming(SYMMETRIC)
@law
@given(sides=two_sides())
def test_sides_may_be_swapped(name, sides):
    statistic = STATISTICS[name][0]
    close(statistic(*sides), statistic(*sides[::-1]))


@claiming(ORDERLESS)
@law
@given(sides=two_sides(), seed=st.integers(0, 99))
def test_categories_may_stand_in_any_order(name, sides, seed):
    statistic = STATISTICS[name][0]
    order = np.random.default_rng(seed).permutation(len(sides[0]))
    close(statistic(*np.array(sides)[:, order]), statistic(*sides))


@claiming(SIZELESS)
@law
@given(sides=two_sides(), weight=st.sampled_from([2, 7, 0.125]))
def test_weights_are_repetitions(name, sides, weight):
    statistic = STATISTICS[name][0]
    close(statistic(np.array(sides[0]) * weight, sides[1]), statistic(*sides))


@every_statistic
@law
@given(sides=two_sides(), padding=st.integers(1, 5))
def test_bins_that_are_empty_on_both_sides_change_nothing(name, sides, padding):
    statistic = STATISTICS[name][0]
    close(statistic(*np.pad(sides, [(0, 0), (0, padding)])), statistic(*sides))


@every_statistic
def test_features_are_worked_on_at_once_and_broadcast(name):
    statistic = STATISTICS[name][0]
    rng = np.random.default_rng(1)
    reference, current = rng.integers(1, 90, (1, 4, 7)), rng.integers(1, 90, (3, 4, 7)) / 4
    result = statistic(reference, current)
    assert result.shape == (3, 4)
    assert result.dtype == np.float64
    close(result, [[statistic(reference[0, j], current[i, j]) for j in range(4)] for i in range(3)])
    assert isinstance(statistic(reference[0, 0], current[0, 0]), float)


@every_statistic
def test_an_empty_side_gives_nan_in_its_row_alone_and_no_warning(name):
    statistic = STATISTICS[name][0]
    reference, current = [[0, 0, 0], [3, 2, 1], [0, 0, 0], [3, 2, 1]], [[1, 2, 0], [0, 0, 0], [0, 0, 0], [1, 1, 0]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = statistic(reference, current)
        assert np.isnan(statistic([0], [3]))
    assert np.isnan(result).tolist() == [True, True, True, False]


def test_helpers_of_the_statistics_are_nan_without_rows_too_and_do_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(drift.degrees_of_freedom([0, 0], [1, 1]))
        assert np.isnan(significance.chi2_pvalue(np.nan, np.nan))
        assert np.isnan(significance.ks_pvalue(np.nan, 0, 5))
        assert np.isnan(significance.two_proportion_pvalue([0, 1], [0, 5], [1, 0], [5, 0])).all()
        assert np.isnan(moments.binned_mean([0, 0], [0.0, 0.0]))
        assert np.isnan(moments.binned_std([1.0], [0, 0], [0.0, 0.0]))
        assert np.isnan(moments.wasserstein_normalized([1.0], [3, 0], [3.0, 0.0], [3, 0], [3.0, 0.0], scale=0.0))
        assert [side.tolist() for side in drift.pool_rare([0, 0], [9, 1])] == [[0, 0, 0], [9, 1, 0]]


# Parity with scipy, on raw rows


def samples():
    """Pairs of raw rows by name: continuous, tied, discrete, with and without drift."""
    rng = np.random.default_rng(7)
    n, m = 3000, 800
    return {
        "normal": (rng.normal(size=n), rng.normal(size=m)),
        "shifted": (rng.normal(size=n), rng.normal(0.2, 1.3, size=m)),
        "rounded": (rng.normal(size=n).round(1), rng.normal(0.1, size=m).round(1)),
        "poisson": (rng.poisson(3, n) * 1.0, rng.poisson(3.3, m) * 1.0),
        "zeros": (rng.exponential(size=n) * (rng.random(n) < 0.3), rng.exponential(size=m) * (rng.random(m) < 0.35)),
        "disjoint": (rng.random(n), rng.random(m) + 2),
        "one against many": (np.array([0.5]), rng.random(m)),
    }


every_sample = pytest.mark.parametrize(("x", "y"), samples().values(), ids=samples())


def binned(values, edges):
    """Counts and sums per right-closed bin."""
    place = np.searchsorted(edges, values, side="left")
    return tuple(np.bincount(place, weights, len(edges) + 1) for weights in (None, values))


def quantile_edges(values, bins):
    ordered = np.sort(values)
    return np.unique(ordered[np.arange(1, bins) * len(ordered) // bins])


@every_sample
def test_ks_is_exact_with_a_bin_per_value_and_otherwise_low_by_one_bin_at_most(x, y):
    truth = stats.ks_2samp(x, y).statistic
    every_value = np.unique(np.concatenate([x, y]))[:-1]
    assert drift.ks_statistic(binned(x, every_value)[0], binned(y, every_value)[0]) == pytest.approx(truth, abs=1e-12)
    edges = quantile_edges(x, 64)
    r, c = binned(x, edges)[0], binned(y, edges)[0]
    heaviest = max(r.max() / len(x), c.max() / len(y))
    assert truth - heaviest - 1e-12 <= drift.ks_statistic(r, c) <= truth + 1e-12


@pytest.mark.parametrize(("n", "m"), [(30, 30), (50, 83), (200, 200), (300, 409), (20, 1000), (1000, 5000)])
def test_ks_pvalue_holds_to_the_exact_one(n, m):
    """D moves in steps of 1 / lcm(n, m), and between steps the exact p-value stays.

    With n = m a step is sqrt(2 / n) in units of the limit distribution, whose density is 1.66 at most: half a step is
    an error of 0.83 * sqrt(2 / n) / 2 = 0.3 / sqrt(n * m / (n + m)). Unequal sizes have finer steps, but an error of
    that order remains in the expansion. Where it matters, in the tail, the ratio is held as well.
    """
    rng = np.random.default_rng(n)
    effective = n * m / (n + m)
    for shift in np.linspace(0, 3, 40):
        x, y = rng.normal(size=n), rng.normal(shift / np.sqrt(effective), size=m)
        truth = stats.ks_2samp(x, y, method="exact")
        pvalue = significance.ks_pvalue(truth.statistic, n, m)
        assert pvalue == pytest.approx(truth.pvalue, abs=0.3 / np.sqrt(effective))
        if 1e-6 < truth.pvalue < 0.1:
            assert 0.4 < pvalue / truth.pvalue < 2.5


def categories():
    """Rows of a few, of many, and of rare categories; None is one of them."""
    rng = np.random.default_rng(3)
    letters = np.array(["a", "b", "c", "d", "null"])
    return {
        "null is a category": (rng.choice(letters, 900, p=[0.4, 0.3, 0.15, 0.1, 0.05]), rng.choice(letters, 400)),
        "binary": (rng.random(500) < 0.1, rng.random(80) < 0.2),
        "many": (rng.zipf(1.6, 5000).clip(max=300), rng.zipf(1.7, 700).clip(max=320)),
        "disjoint": (np.zeros(20, int), np.ones(30, int)),
    }


@pytest.mark.parametrize(("x", "y"), categories().values(), ids=categories())
def test_chi2_is_scipys_contingency_test_with_and_without_pooling(x, y):
    side = np.repeat([0, 1], [len(x), len(y)])
    table = crosstab(side, np.concatenate([x, y])).count
    pooled = np.array(drift.pool_rare(*table))
    for counts in (table, pooled):
        truth = stats.chi2_contingency(counts[:, counts.any(axis=0)], correction=False)
        statistic, df = drift.chi2_statistic(*counts), drift.degrees_of_freedom(*counts)
        assert (statistic, df) == pytest.approx((truth.statistic, truth.dof))
        likelihood = stats.chi2_contingency(counts[:, counts.any(axis=0)], correction=False, lambda_="log-likelihood")
        assert drift.g_statistic(*counts) == pytest.approx(likelihood.statistic)
        assert significance.chi2_pvalue(statistic, df) == pytest.approx(truth.pvalue, rel=1e-9)
        n, m = counts.sum(axis=1)
        assert drift.phi_squared(*counts) == pytest.approx(truth.statistic / (n * m / (n + m)))
        assert drift.cramers_v(*counts) == pytest.approx(bergsma(counts[:, counts.any(axis=0)], truth.statistic))


def bergsma(table, chi2):
    """Section 3 of Bergsma (2013), for any table."""
    rows, (r, c) = table.sum(), table.shape
    phi2 = max(0, chi2 / rows - (r - 1) * (c - 1) / (rows - 1))
    return np.sqrt(phi2 / min(r - (r - 1) ** 2 / (rows - 1) - 1, c - (c - 1) ** 2 / (rows - 1) - 1))


@law
@given(sides=two_sides(), at=st.integers(0, 10))
def test_merging_two_bins_never_brings_the_sides_apart(sides, at):
    """Data processing: what is no longer told apart cannot differ; true of every f-divergence and of KS."""
    assume(len(sides[0]) > 1)
    at = min(at, len(sides[0]) - 2)
    counts = np.array(sides, float)
    merged = np.concatenate([counts[:, :at], counts[:, at : at + 2].sum(axis=1, keepdims=True), counts[:, at + 2 :]], 1)
    for name in ("ks_statistic", "phi_squared", "g_statistic", "psi, unsmoothed", "kl, unsmoothed",
                 "jensen_shannon_distance", "hellinger_distance", "total_variation"):  # fmt: skip
        statistic = STATISTICS[name][0]
        whole = statistic(*counts)
        assert statistic(*merged) <= whole + 3e-8 * max(whole, 1)


@law
@given(sides=two_sides(), minimum=st.sampled_from([1.0, 5.0, 50.0]))
def test_pooling_keeps_totals_and_leaves_no_rare_category_but_the_pool(sides, minimum):
    counts = np.array(drift.pool_rare(*sides, minimum=minimum))
    np.testing.assert_array_equal(counts.sum(axis=1), np.sum(sides, axis=1))
    kept = counts[:, :-1]
    expected = kept.sum(axis=0) * counts.sum(axis=1).min() / counts.sum()
    assert (expected[kept.any(axis=0)] >= minimum).all()
    np.testing.assert_array_equal(kept, np.where(kept.any(axis=0), sides, 0))


@every_sample
def test_merged_bins_are_deciles_of_the_raw_rows(x, y):
    edges = quantile_edges(x, 500)
    merged = np.array(drift.merge_bins(binned(x, edges)[0], binned(y, edges)[0]))
    assert merged.shape == (2, 10)
    assert merged.sum(axis=1).tolist() == [len(x), len(y)]
    if len(np.unique(x)) == len(x) > 500:
        np.testing.assert_allclose(merged[0], len(x) / 10, atol=len(x) / 250)


@pytest.mark.parametrize("counts", [([50, 30, 20], [40, 30, 30]), ([9, 0, 1], [2, 5, 3]), ([1, 0], [0, 4])])
def test_divergences_are_scipys(counts):
    p, q = (np.array(side) / sum(side) for side in counts)
    assert drift.jensen_shannon_distance(*counts) == pytest.approx(distance.jensenshannon(p, q, base=2))
    assert drift.kl_divergence(*counts, smoothing=0) == pytest.approx(stats.entropy(p, q))
    both_ways = stats.entropy(p, q) + stats.entropy(q, p)
    assert drift.population_stability_index(*counts, smoothing=0) == pytest.approx(both_ways)
    smooth = [np.array(side) + 0.5 for side in counts]
    both_ways = stats.entropy(*smooth) + stats.entropy(*smooth[::-1])
    assert drift.population_stability_index(*counts) == pytest.approx(both_ways)
    assert drift.kl_divergence(*counts) == pytest.approx(stats.entropy(*smooth))
    assert drift.hellinger_distance(*counts) == pytest.approx(np.sqrt(1 - np.sqrt(p * q).sum()))
    assert drift.total_variation(*counts) == pytest.approx(distance.cityblock(p, q) / 2)
    assert drift.l_infinity(*counts) == pytest.approx(distance.chebyshev(p, q))


@law
@given(st.integers(1, 400), st.integers(1, 400), st.floats(0, 1), st.floats(0, 1))
def test_two_proportions_are_scipys_fisher_where_cells_are_small_and_chi2_elsewhere(n, m, p, q):
    x, y = round(n * p), round(m * q)
    table = np.array([[x, n - x], [y, m - y]])
    smallest = stats.contingency.expected_freq(table).min()
    assume(abs(smallest - 5) > 1e-9)  # on the border rounding decides
    small = smallest < 5
    truth = stats.fisher_exact(table) if small else stats.chi2_contingency(table, correction=False)
    assert significance.two_proportion_pvalue(x, n, y, m) == pytest.approx(truth.pvalue, rel=1e-7)


def test_two_proportions_of_many_rows_and_of_large_samples():
    x, n, y, m = np.array([0, 3, 900, 12]), np.array([1_000_000, 1_000_000, 1_000_000, 40]), [4, 0, 2, 11], 5000
    found = significance.two_proportion_pvalue(x, n, y, m)
    assert found == pytest.approx(
        [stats.fisher_exact([[a, t - a], [b, m - b]]).pvalue for a, t, b in zip(x, n, y, strict=True)], rel=1e-6
    )


# Values: Wasserstein, mean, standard deviation


def forty_distributions():
    """Families of features, each without drift and with several kinds of it."""
    features = {
        "normal": lambda g, n: g.normal(size=n),
        "lognormal": lambda g, n: g.lognormal(sigma=1.0, size=n),
        "heavy lognormal": lambda g, n: g.lognormal(sigma=1.5, size=n),
        "exponential": lambda g, n: g.exponential(size=n),
        "uniform": lambda g, n: g.random(n),
        "integers": lambda g, n: g.integers(0, 40, n) * 1.0,
        "large integers": lambda g, n: np.floor(g.normal(2000, 45, n)),
        "zero-inflated": lambda g, n: np.where(g.random(n) < 0.6, 0.0, g.lognormal(size=n)),
    }
    drifts = {
        "none": lambda v, _: v,
        "less than a bin": lambda v, s: v + 1e-4 * s,
        "shift": lambda v, s: v + 0.1 * s,
        "wider": lambda v, _: v * 1.05,
        "units": lambda v, _: v * 100,
    }
    return [pytest.param(f, d, id=f"{name}, {drift}") for name, f in features.items() for drift, d in drifts.items()]


@pytest.mark.parametrize(("feature", "drifted"), forty_distributions())
def test_wasserstein_of_a_million_rows_is_within_a_thousandth_of_a_standard_deviation(feature, drifted):
    rng = np.random.default_rng(11)
    x = np.sort(feature(rng, 1_000_000))
    y = np.sort(drifted(feature(rng, 1_000_000), x.std()))
    truth = np.abs(x - y).mean()  # for sides of one size, the distance between rows of the same rank
    edges = quantile_edges(x, 1024)
    (r, r_sums), (c, c_sums) = binned(x, edges), binned(y, edges)
    result = moments.wasserstein_normalized(edges, r, r_sums, c, c_sums, scale=x.std())
    assert result == pytest.approx(truth / x.std(), abs=1e-3)


@every_sample
def test_wasserstein_is_scipys_with_a_bin_per_value_and_near_it_otherwise(x, y):
    truth = stats.wasserstein_distance(x, y)
    for edges, error in ((np.unique(np.concatenate([x, y]))[:-1], 1e-12), (quantile_edges(x, 256), 5e-3 * y.std())):
        (r, r_sums), (c, c_sums) = binned(x, edges), binned(y, edges)
        assert moments.wasserstein_distance(edges, r, r_sums, c, c_sums) == pytest.approx(truth, abs=error)


@every_sample
def test_energy_distance_is_scipys_with_a_bin_per_value_and_near_it_otherwise(x, y):
    truth, unit = stats.energy_distance(x, y), np.sqrt(y.std())
    for edges, error in ((np.unique(np.concatenate([x, y]))[:-1], 1e-7), (quantile_edges(x, 256), 5e-3 * unit)):
        (r, r_sums), (c, c_sums) = binned(x, edges), binned(y, edges)
        found = moments.energy_distance(edges, r, r_sums, c, c_sums)
        if error < 1e-6 or c.max() < 0.25 * y.size:
            assert found == pytest.approx(truth, abs=error)
        else:  # a side that lies in one bin has no spread there
            assert 0.995 * truth < found < 1.25 * truth


@every_sample
@pytest.mark.parametrize("q", [0.05, 0.25, 0.5, 0.95])
def test_quantiles_are_numpys_with_a_bin_per_value_and_otherwise_within_their_bin(x, y, q):
    truth = np.quantile(y, q, method="averaged_inverted_cdf")
    every_value = np.unique(np.concatenate([x, y]))[:-1]
    assert moments.binned_quantile(*binned(y, every_value), q) == pytest.approx(truth)
    edges = quantile_edges(y, 64)
    counts, sums = binned(y, edges)
    place = np.searchsorted(edges, truth)
    low, high = (np.r_[y.min(), edges, y.max()][slice(max(place - 1, 0), place + 3)][end] for end in (0, -1))
    assert low <= moments.binned_quantile(counts, sums, q) <= high


@law
@given(sides=two_sides(), shift=st.floats(0, 0.5))
def test_wasserstein_of_a_shift_inside_the_bins_is_the_shift(sides, shift):
    counts = np.array(sides[0])
    place = np.arange(counts.size)
    moved = counts * (place + shift)
    found = moments.wasserstein_distance(place[:-1] + 0.5, counts, counts * place, counts, moved)
    assert found == pytest.approx(shift, abs=1e-9)


def test_wasserstein_and_std_of_features_padded_into_one_matrix_are_those_of_each_feature():
    """Also with the values far from zero, where padding must not stand for a place."""
    rng = np.random.default_rng(2)
    pairs = [(rng.normal(-1e9, 3, 500), rng.normal(-1e9, 4, 90), 40), (rng.exponential(9, 400), rng.random(50), 7)]
    edges, counts, alone = np.full((2, 59), np.inf), np.zeros((4, 2, 60)), []
    for row, (x, y, bins) in enumerate(pairs):
        inner = quantile_edges(x, bins)
        sides = (*binned(x, inner), *binned(y, inner))
        alone.append((moments.wasserstein_distance(inner, *sides), moments.binned_std(inner, *sides[:2])))
        edges[row, : len(inner)] = inner
        counts[:, row, : len(inner) + 1] = sides
    together = moments.wasserstein_distance(edges, *counts), moments.binned_std(edges, *counts[:2])
    np.testing.assert_allclose(np.transpose(together), alone, rtol=1e-9)


@pytest.mark.parametrize("feature", [parameter.values[0] for parameter in forty_distributions()[::5]])
def test_mean_is_exact_and_std_near(feature):
    """Coarse bins, and tails as heavy as lognormal(1.5), leave more to the assumption about open bins."""
    values = feature(np.random.default_rng(5), 200_000)
    for bins, error in ((1024, 0.01 if stats.skew(values) < 20 else 0.05), (32, 0.2)):
        edges = quantile_edges(values, bins)
        counts, sums = binned(values, edges)
        assert moments.binned_mean(counts, sums) == pytest.approx(values.mean())
        assert moments.binned_std(edges, counts, sums) == pytest.approx(values.std(), rel=error)


def test_std_of_rows_that_all_lie_at_edges_is_exact_and_without_any_edge_unknown():
    assert moments.binned_std([1.0, 2.0], [3, 1, 0], [3.0, 2.0, 0.0]) == pytest.approx(np.std([1, 1, 1, 2]))
    assert np.isnan(moments.binned_std([], [4], [8.0]))


def test_std_of_a_constant_feature_is_zero_though_rounded_sums_put_the_mean_outside_its_bin():
    edges, beyond = [0.5, 1.0], 3 * np.nextafter(1.0, 2)
    assert beyond > 3
    assert moments.binned_std(edges, [0, 3, 0], [0.0, beyond, 0.0]) == pytest.approx(0, abs=1e-15)


# With no drift: simulation against what the docstrings say


N, M, TRIALS = 20_000, 3000, 4000
V = 1 / N + 1 / M
SHARES = np.array([0.3, 0.2, 0.15, 0.1, 0.1, 0.05, 0.05, 0.05])


def null_pairs(shares):
    rng = np.random.default_rng(17)
    return rng.multinomial(N, shares, TRIALS), rng.multinomial(M, shares, TRIALS)


@pytest.mark.parametrize(
    ("statistic", "power", "expected"),
    [
        (drift.phi_squared, 1, 7 * V),
        (drift.chi2_statistic, 1, 7),
        (drift.g_statistic, 1, 7),
        (drift.population_stability_index, 1, 7 * V),
        (drift.kl_divergence, 1, 7 * V / 2),
        (drift.jensen_shannon_distance, 2, 7 * V / (8 * np.log(2))),
        (drift.hellinger_distance, 2, 7 * V / 8),
        (drift.total_variation, 1, np.sqrt(SHARES * (1 - SHARES) * V / (2 * np.pi)).sum()),
    ],
)
def test_statistics_average_to_what_theory_expects_with_no_drift(statistic, power, expected):
    """Within 4 standard errors of the simulation, and 1 % for terms of higher order in 1/m."""
    values = statistic(*null_pairs(SHARES)) ** power
    error = values.std() / np.sqrt(TRIALS)
    assert values.mean() == pytest.approx(expected, abs=4 * error + 0.01 * expected)


def test_ks_and_wasserstein_of_a_normal_feature_average_to_what_theory_expects_with_no_drift():
    edges = stats.norm.ppf(np.arange(1, 200) / 200)
    density = stats.norm.pdf(np.concatenate([[-np.inf], edges, [np.inf]]))
    means = -np.diff(density) * 200
    r, c = null_pairs(np.full(200, 1 / 200))
    # Looking at a Brownian path in 200 places misses 0.5826 / sqrt(200) of its maximum (Asmussen et al. 1995).
    values = drift.ks_statistic(r, c)
    assert values.mean() == pytest.approx((0.8687 - 0.5826 / np.sqrt(200)) * np.sqrt(V), rel=0.015)
    values = moments.wasserstein_distance(edges, r, r * means, c, c * means)
    assert values.mean() == pytest.approx(1.29 * np.sqrt(V), rel=0.03)


def test_pvalues_reject_as_often_as_they_say_with_no_drift():
    """Rejections are binomial; the bounds are passed by chance once in a million runs of another seed."""
    r, c = null_pairs(SHARES)
    fine = null_pairs(np.full(1000, 1 / 1000))
    found = {
        "chi2": significance.chi2_pvalue(drift.chi2_statistic(r, c), drift.degrees_of_freedom(r, c)),
        "two proportions": significance.two_proportion_pvalue(r[:, 0], N, c[:, 0], M),
        "ks": significance.ks_pvalue(drift.ks_statistic(*fine), N, M),
    }
    for level in (0.01, 0.05, 0.2):
        low, high = stats.binom.ppf([5e-7, 1 - 5e-7], TRIALS, level)
        assert {name: low <= (p < level).sum() <= high for name, p in found.items()} == dict.fromkeys(found, True)
    coarse = significance.ks_pvalue(drift.ks_statistic(r, c), N, M)
    assert (coarse < 0.05).mean() < 0.05  # ties only make KS careful
