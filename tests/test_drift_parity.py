"""Drift statistics against figures of peers, from their own tests or measured with the named release.

tests/parity/README.md says where inputs and figures come from. Where a peer is wrong, or means something else by the
same word, the test asserts both numbers and says which.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from scipy import special, stats

from hindcast.drift import moments, ranks, significance
from hindcast.drift import statistics as drift

PARITY = Path(__file__).parent / "parity"


def cases(name, *keys):
    """Cases of a peer that have one of the keys."""
    found = json.loads((PARITY / name).read_text("utf-8"))["cases"]
    return [pytest.param(case, id=case["id"]) for case in found if any(key in case for key in keys)]


def own_bins(x, y):
    """Edges, then counts and sums of both sides, with a bin per distinct value."""
    edges = np.unique(np.concatenate([x, y]))
    return edges, *binned(x, edges), *binned(y, edges)


def binned(values, edges):
    place = np.searchsorted(edges, values, side="left")
    return tuple(np.bincount(place, weights, len(edges) + 1) for weights in (None, values))


def test_the_page_counts_the_figures():
    page = (PARITY.parents[1] / "docs" / "statistics.md").read_text("utf-8")
    evidently, nannyml = (len(cases(f"{peer}_drift.json", "id")) for peer in ("evidently", "nannyml"))
    assert f"{evidently} figures of Evidently 0.7.23 and {nannyml} of NannyML 0.13.1" in page


# Evidently


@cache
def golden():
    table = pq.read_table(PARITY / "evidently_rows.parquet")
    names = table["case"].unique().to_pylist()
    return {
        name: [
            table.filter(pc.and_(pc.equal(table["case"], name), pc.equal(table["part"], part)))["num"].to_numpy()
            for part in ("reference", "current")
        ]
        for name in names
    }


def rows_of(case):
    """Rows of both sides; counts of a numeric case are those of the values 0, 1, 2…"""
    if "golden" in case:
        return golden()[case["golden"]]
    if "rows" in case:
        sides = [case["rows"][side] for side in ("reference", "current")]
        return [np.array(s) if isinstance(s, list) else stats.norm.rvs(size=100, random_state=s) for s in sides]
    return [np.repeat(np.arange(len(case[side])) * 1.0, case[side]) for side in ("reference", "current")]


def as_evidently_bins(x, y):
    """Sturges' edges of both sides together, or a bin per value of at most 20, and zero shares filled."""
    edges = np.histogram_bin_edges(np.concatenate([x, y]), bins="sturges")
    few = np.unique(x).size <= 20
    values = np.unique(np.concatenate([x, y]))
    counts = [np.array([(s == v).sum() for v in values]) if few else np.histogram(s, edges)[0] for s in (x, y)]
    return counts, filled(*counts)


def filled(*counts):
    """Evidently's PSI and KL put 0.0001 where a side has none, or a millionth of its smallest share if that is less."""
    shares = [np.array(side) / np.sum(side) for side in counts]
    least = [share[share > 0].min() for share in shares]
    return [np.where(p == 0, 1e-4 if low > 1e-4 else low / 1e6, p) for p, low in zip(shares, least, strict=True)]


def of_rows(method, x, y):
    """Our number on the peer's bins."""
    edges, r, r_sums, c, c_sums = own_bins(x, y)
    if method in {"jensenshannon", "psi", "kl_div"}:
        counts, shares = as_evidently_bins(x, y)
        return {
            "jensenshannon": lambda: drift.jensen_shannon_distance(*counts) * np.sqrt(np.log(2)),
            "psi": lambda: drift.population_stability_index(*shares, smoothing=0),
            "kl_div": lambda: drift.kl_divergence(*shares, smoothing=0),
        }[method]()
    # Their Hellinger takes Sturges' edges of the distinct values.
    distinct = np.histogram_bin_edges(np.unique(np.concatenate([x, y])), bins="sturges")
    return {
        "hellinger": lambda: drift.hellinger_distance(*(np.histogram(side, distinct)[0] for side in (x, y))),
        "ks": lambda: significance.ks_pvalue(drift.ks_statistic(r, c), len(x), len(y)),
        "wasserstein": lambda: moments.wasserstein_distance(edges, r, r_sums, c, c_sums) / max(x.std(), 1e-3),
        "ed": lambda: moments.energy_distance(edges, r, r_sums, c, c_sums),
        "anderson": lambda: ranks.anderson_darling(r, c).pvalue,
        "cramer_von_mises": lambda: ranks.cramer_von_mises(r, c).pvalue,
        "mannw": lambda: ranks.mann_whitney(r, c).pvalue,
        "t_test": lambda: significance.welch(x.mean(), x.std(), len(x), y.mean(), y.std(), len(y)).pvalue,
        "es": lambda: significance.epps_singleton(x, y).pvalue,
    }[method]()


def of_counts(method, reference, current):
    """Our number on counts per category."""
    n, m = sum(reference), sum(current)
    shares = filled(reference, current)
    return {
        # Their chi-square and G take the reference for the truth (goodness of fit): ours, of a reference without end.
        "chisquare": lambda: drift.chi2_statistic(np.array(reference) * 1e13, current),
        "g_test": lambda: drift.g_statistic(np.array(reference) * 1e10, current),
        "hellinger": lambda: drift.hellinger_distance(reference, current),
        # Their Jensen-Shannon has natural logarithms.
        "jensenshannon": lambda: drift.jensen_shannon_distance(reference, current) * np.sqrt(np.log(2)),
        "psi": lambda: drift.population_stability_index(*shares, smoothing=0),
        "kl_div": lambda: drift.kl_divergence(*shares, smoothing=0),
        "z": lambda: special.erfc(abs(significance.two_proportion_z(reference[0], n, current[0], m)) / np.sqrt(2)),
        "fisher": lambda: significance.fisher_pvalue(reference[0], n, current[0], m),
    }[method]()


OTHERWISE = {"anderson", "cramer_von_mises", "mannw", "t_test", "ks", "tvd", "g_test", "es"}
EVIDENTLY = cases("evidently_drift.json", "id")


def published(case, result):
    if case["expected"] is not None:
        assert result == pytest.approx(case["expected"], abs=case["tolerance"])


@pytest.mark.parametrize("case", [case for case in EVIDENTLY if case.values[0]["method"] not in OTHERWISE])
def test_what_evidently_defines_as_we_do(case):
    by_rows = "golden" in case or "rows" in case or case.get("numeric")
    if case["method"] in {"z", "fisher", "chisquare"} or not by_rows:
        reference, current = case["reference"], case["current"]
        result = of_counts(case["method"], reference, current)
        if case["method"] == "chisquare":
            result = significance.chi2_pvalue(result, len(reference) - 1)
    else:
        result = of_rows(case["method"], *rows_of(case))
    # Shares of 0.0001 beside the others sum to more than 1, which ours norms.
    tolerance = {"psi": 2e-3, "kl_div": 2e-3}.get(case["method"], 1e-8)
    assert result == pytest.approx(case["measured"], rel=tolerance, abs=1e-8)
    published(case, result)


def test_evidently_has_z_of_a_handful_of_rows_where_ours_is_exact():
    """One and three of four rows: z says .157, Fisher's test .486, which is how often even coins are that uneven."""
    (case,) = (case.values[0] for case in EVIDENTLY if case.values[0]["id"] == "z_target")
    assert case["measured"] == pytest.approx(0.1573, abs=1e-4)
    assert significance.two_proportion_pvalue(1, 4, 3, 4) == pytest.approx(stats.fisher_exact([[1, 3], [3, 1]]).pvalue)


def test_evidently_does_not_see_nulls_that_become_a_category():
    """Half "a" and half null, against half "a" and half "b": null is a category of ours, and all of them moved."""
    (case,) = (case.values[0] for case in EVIDENTLY if case.values[0]["id"] == "z_nan")
    assert case["measured"] == 1
    chi2 = drift.chi2_statistic(case["reference"], case["current"])
    assert chi2 == pytest.approx(20)
    assert significance.chi2_pvalue(chi2, 2) < 1e-4


def evidently(method):
    return pytest.mark.parametrize("case", [case for case in EVIDENTLY if case.values[0]["method"] == method])


@evidently("ks")
def test_ks_of_evidently_is_the_exact_p_value_and_ours_the_limit(case):
    result, theirs = of_rows("ks", *rows_of(case)), case["measured"]
    if theirs > 1e-4:
        assert result == pytest.approx(theirs, rel=0.06)
    elif theirs > 1e-100:
        assert np.log10(result) == pytest.approx(np.log10(theirs), rel=0.02)
    else:
        assert result < 1e-100


@evidently("anderson")
def test_anderson_darling_of_evidently_is_scipys_table_that_ends_at_a_quarter_and_a_thousandth(case):
    x, y = rows_of(case)
    result, theirs = of_rows("anderson", x, y), case["measured"]
    if "binary" in case["id"]:
        # Two values: scipy's spread is that of untied rows, and its p-value half of what the z test says, or less.
        z = significance.two_proportion_pvalue((x == 0).sum(), x.size, (y == 0).sum(), y.size)
        assert result == pytest.approx(z, rel=0.2)
        assert theirs < z / 2
        return
    assert np.clip(result, 0.001, 0.25) == pytest.approx(theirs, rel=0.02)
    if theirs == 0.25:
        assert result > 0.5  # the table tells nothing from no drift to a quarter
    published(case, theirs)


@evidently("cramer_von_mises")
def test_cramer_von_mises_of_evidently_is_wrong_of_ties_and_below_1e_9(case):
    x, y = rows_of(case)
    result, theirs = of_rows("cramer_von_mises", x, y), case["measured"]
    tied = np.unique(np.concatenate([x, y])).size < x.size + y.size
    truth = stats.cramervonmises_2samp(x, y, method="asymptotic").pvalue
    if not tied and theirs > 1e-3:
        assert result == pytest.approx(theirs, rel=1e-9)
        assert result == pytest.approx(truth, rel=1e-9)
        published(case, result)
    elif "binary" in case["id"]:
        # Two values: the z test of the same rows says .31 and .011, Cramér-von Mises with midranks 1e-10 and 1e-7.
        z = significance.two_proportion_pvalue((x == 0).sum(), x.size, (y == 0).sum(), y.size)
        assert result == pytest.approx(z, rel=0.15)
        assert theirs < 1e-6
    else:
        # Their sum for the limit stops at 1e-7 or so; the tail is far below. Both reject.
        assert result < theirs * 1.1
        assert theirs < 1e-6


@evidently("mannw")
def test_mann_whitney_of_evidently_is_one_sided(case):
    """Theirs is half of the two-sided one if the current rows lie higher, and one less that half if lower."""
    x, y = rows_of(case)
    result = of_rows("mannw", x, y)
    assert result == pytest.approx(stats.mannwhitneyu(x, y, method="asymptotic").pvalue, rel=1e-9)
    one_sided = stats.mannwhitneyu(x, y, alternative="less", method="asymptotic").pvalue
    assert case["measured"] == pytest.approx(min(one_sided, 1), rel=1e-9)
    higher = ranks.mann_whitney(*own_bins(x, y)[1::2]).statistic > 0.5
    assert result == pytest.approx(2 * (case["measured"] if higher else 1 - case["measured"]), rel=1e-2)


@evidently("t_test")
def test_t_of_evidently_takes_the_spreads_for_equal_and_ours_is_welchs(case):
    x, y = rows_of(case)
    assert stats.ttest_ind(x, y).pvalue == pytest.approx(case["measured"], rel=1e-9)
    assert of_rows("t_test", x, y) == pytest.approx(stats.ttest_ind(x, y, equal_var=False).pvalue, rel=1e-7)
    published(case, stats.ttest_ind(x, y).pvalue)


@evidently("es")
def test_epps_singleton_is_not_defined_where_evidently_raises(case):
    result = of_rows("es", *rows_of(case))
    if case["measured"] is None:
        assert np.isnan(result)
    else:
        assert result == pytest.approx(case["measured"], rel=1e-9)
        published(case, result)


@evidently("g_test")
def test_g_of_evidently_is_a_goodness_of_fit_that_raises_when_sizes_differ(case):
    reference, current = np.array(case["reference"]), np.array(case["current"])
    assert (case["measured"] is None) == (reference.sum() != current.sum())
    truth = stats.chi2_contingency(
        np.array([reference, current])[:, (reference + current) > 0], lambda_="log-likelihood"
    )
    if reference.size > 2:
        assert drift.g_statistic(reference, current) == pytest.approx(truth.statistic)
    if case["measured"] is not None:
        fit = significance.chi2_pvalue(of_counts("g_test", reference, current), reference.size - 1)
        assert fit == pytest.approx(case["measured"], rel=1e-4)
        published(case, fit)
        # Of two samples of one size half as much speaks against homogeneity: .82 becomes .90.
        two_sided = significance.chi2_pvalue(drift.g_statistic(reference, current), reference.size - 1)
        assert two_sided > fit


@evidently("tvd")
def test_total_variation_of_evidently_is_stored_as_a_permutation_p_value(case):
    """Share of 1,000 shuffles that lie further apart; of those that lie as far, rounding decides there."""
    reference, current = np.array(case["reference"]), np.array(case["current"])
    counts = np.array([reference, current])[:, (reference + current) > 0]
    rng = np.random.default_rng(5)
    shuffled = stats.random_table(counts.sum(axis=1), counts.sum(axis=0)).rvs(4000, random_state=rng)
    found = drift.total_variation(*counts)
    others = drift.total_variation(shuffled[:, 0], shuffled[:, 1])
    further, as_far = ((others > found + slack).mean() for slack in (1e-12, -1e-12))
    # Both are shares of random draws: five standard errors of the peer's 1,000 and of ours.
    below, above = (5 * np.sqrt((p * (1 - p) + 1e-3) * (1 / 1000 + 1 / 4000)) for p in (further, as_far))
    assert further - below <= case["measured"] <= as_far + above


# NannyML


def nannyml_rows(random, kind, what, *numbers):
    if kind == "normal":
        return random.normal(what, *numbers)
    return random.choice(np.linspace(0, 2, what) if kind == "choice" else list(what), *numbers)


def nannyml_bins(x, y):
    """Doane's bins of the reference, and one more for rows outside; a bin per value for few values and for words."""
    values = np.unique(np.concatenate([x, y]))
    if len(values) < 50:
        return [np.array([(side == value).sum() for value in values]) for side in (x, y)]
    edges = np.histogram_bin_edges(x, bins="doane")
    counts = [np.histogram(side, edges)[0] for side in (x, y)]
    return [np.append(count, len(side) - count.sum()) for count, side in zip(counts, (x, y), strict=True)]


@pytest.mark.parametrize("case", cases("nannyml_drift.json", "reference"))
def test_figures_of_nannyml_on_counts(case):
    reference, current = np.array(case["reference"]), np.array(case["current"])
    result = getattr(drift, case["metric"])(reference, current)
    if case["metric"] == "chi2_statistic" and len(reference) == 2:
        # They correct two categories for continuity (Yates), scipy's default; without it, ours is scipy's.
        plain = [stats.chi2_contingency([reference, c], correction=False).statistic for c in current]
        np.testing.assert_allclose(result, plain, rtol=1e-9)
        n, m = reference.sum(), current.sum(axis=-1)
        result = result * (1 - (n + m) / (2 * n * m * drift.total_variation(reference, current))) ** 2
    # Of two sides that hardly differ, theirs has lost digits.
    np.testing.assert_allclose(result, case["measured"], rtol=1e-9, atol=2e-11)
    if case["expected"] is not None:
        np.testing.assert_allclose(result, case["expected"], atol=0.005)


@pytest.mark.parametrize("case", cases("nannyml_drift.json", "rows"))
def test_figures_of_nannyml_on_rows(case):
    random = np.random.RandomState(1)
    x = nannyml_rows(random, *case["rows"]["reference"])
    y = nannyml_rows(random, *case["rows"]["current"]) if case["rows"]["current"] else x
    if case["metric"] == "wasserstein_distance":
        edges = np.unique(np.quantile(x, np.arange(1, 1024) / 1024))
        result = moments.wasserstein_distance(edges, *binned(x, edges), *binned(y, edges))
        # Above 10,000 rows they bin as well, more coarsely, so that the published figure is what both must round to.
        assert result == pytest.approx(stats.wasserstein_distance(x, y), abs=1e-3)
    else:
        result = getattr(drift, case["metric"])(*nannyml_bins(x, y))
        assert result == pytest.approx(case["measured"], rel=1e-9, abs=1e-6)
    assert result == pytest.approx(case["expected"], abs=0.5001 * 10.0 ** -case["round"])


@pytest.mark.parametrize("case", cases("nannyml_drift.json", "feature"))
def test_figures_of_nannyml_on_its_sample(case):
    """All rows in chunks, against the first half."""
    rows = pq.read_table(PARITY / "nannyml_sample_drift.parquet")[case["feature"]].to_numpy()
    x = rows[: rows.size // 2]
    size = case["chunks"].get("chunk_size") or rows.size // case["chunks"].get("chunk_number", 10)
    for at, (measured, y) in enumerate(
        zip(case["measured"], (rows[k : k + size] for k in range(0, rows.size, size)), strict=True)
    ):
        x_, y_ = x[~np.isnan(x)], y[~np.isnan(y)]
        edges, r, r_sums, c, c_sums = own_bins(x_, y_)
        if case["metric"] == "ks_statistic":
            result = drift.ks_statistic(r, c)
            assert result == pytest.approx(stats.ks_2samp(x_, y_).statistic, abs=1e-12)
            # Of 10,000 reference rows or more they look at the edges of 10,000 bins alone: never more than D.
            assert result - 1e-3 <= measured <= result + 1e-12
        elif case["metric"] == "wasserstein_distance":
            result = moments.wasserstein_distance(edges, r, r_sums, c, c_sums)
            assert result == pytest.approx(stats.wasserstein_distance(x_, y_), rel=1e-9)
            # From bins of the reference's range: rows outside lie at its ends.
            assert measured == pytest.approx(result, abs=0.01 * x_.std())
        else:
            assert getattr(drift, case["metric"])(*nannyml_bins(x_, y_)) == pytest.approx(measured, rel=1e-9)
        if case["expected"] is not None:
            assert measured == pytest.approx(case["expected"][at], abs=6e-7)


@pytest.mark.parametrize("case", cases("nannyml_drift.json", "binned"))
def test_figures_of_nannyml_on_data_sets_that_are_kept_as_bins(case):
    """Theirs from 10,000 bins of one width, ours from 256 quantile bins: both approximate the raw rows."""
    table = pq.read_table(PARITY / "nannyml_car_loan_bins.parquet")
    table = table.filter(pc.equal(table["feature"], case["binned"]))
    chunks = np.unique(table["chunk"].to_numpy()).size
    edge, counts, sums = (table[name].to_numpy().reshape(chunks, -1) for name in ("edge", "count", "sum"))
    edges = edge[0, :-1]
    if case["metric"] == "ks_statistic":
        np.testing.assert_allclose(drift.ks_statistic(counts[0], counts[1:]), case["measured"], atol=1.1e-3)
    else:
        found = moments.wasserstein_distance(edges, counts[0], sums[0], counts[1:], sums[1:])
        unit = moments.binned_std(edges, counts[0], sums[0])
        np.testing.assert_allclose(found / unit, case["measured"] / unit, atol=6e-4)


@pytest.mark.parametrize(
    "case", [case for case in cases("nannyml_drift.json", "id") if case.values[0]["metric"] == "share"]
)
def test_shares_of_nannyml(case):
    """Missing values, unseen values, rows out of the reference's range: of 20 chunks, half of them the reference."""
    counts = np.array(case["current"])
    rates = counts[:, 0] / counts.sum(axis=1)
    np.testing.assert_allclose(rates, case["measured"], atol=1e-12)
    np.testing.assert_allclose(rates, case["expected"], atol=1e-6)
    # What they call an alert, three standard deviations of the reference's chunks, is beyond chance here too.
    before, rows = counts[:10].sum(axis=0)[0], counts[:10].sum()
    alerts = np.abs(rates - rates[:10].mean()) > 3 * rates[:10].std()
    assert alerts.any()
    assert (significance.two_proportion_pvalue(before, rows, counts[alerts, 0], 5000) < 0.01).all()
