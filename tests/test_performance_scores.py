"""Scores against scikit-learn, their intervals against simulation, and merged outcomes against one pass."""

from __future__ import annotations

import json
import math
import zlib
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from hindcast.errors import HindcastError, UsageError
from hindcast.metrics import METRICS
from hindcast.performance.counted import EXACT_ROWS
from hindcast.performance.intervals import quantile_score, wilson_interval
from hindcast.performance.outcomes import EDGES, Outcomes, exact_sum
from hindcast.performance.scores import Score, binary_scores, multiclass_scores, regression_scores
from hindcast.performance.service import Service, service_scores

CLOSE = {"rel": 1e-12, "abs": 1e-12}


def values(scores):
    return {name: score.value for name, score in scores.items()}


def alike(score, other, rel=1e-12):
    pairs = ((score.value, other.value), (score.lower, other.lower), (score.upper, other.upper))
    close = all(
        (a is None) == (b is None) and (a is None or math.isclose(a, b, rel_tol=rel, abs_tol=rel)) for a, b in pairs
    )
    return close and (score.n, score.reason) == (other.n, other.reason)


def binary_case(name):
    rng = np.random.default_rng(7)
    p = {
        "continuous": rng.random(500),
        "ties": np.round(rng.random(500), 1),
        "heavy ties": rng.choice([0.0, 0.3, 0.3, 1.0], 500),
        "constant": np.full(500, 0.3),
        "rare": rng.beta(1, 30, 500),
        "tiny": rng.random(7),
        "perfect": np.r_[np.zeros(20), np.ones(20)],
        "inverted": np.r_[np.ones(20), np.zeros(20)],
    }[name]
    y = (np.arange(40) >= 20) if p.size == 40 else rng.random(p.size) < 0.15 + 0.7 * p
    return y, p >= 0.5, p


BINARY = ["continuous", "ties", "heavy ties", "constant", "rare", "tiny", "perfect", "inverted"]


@pytest.mark.parametrize("case", BINARY)
def test_binary_scores_equal_scikit_learn(case):
    y, guess, p = binary_case(case)
    scores = values(binary_scores(y, guess, p))
    expected = {
        "accuracy": sk.accuracy_score(y, guess),
        "precision": sk.precision_score(y, guess) if guess.any() else None,
        "recall": sk.recall_score(y, guess),
        "f1": sk.f1_score(y, guess),
        "roc_auc": sk.roc_auc_score(y, p),
        "average_precision": sk.average_precision_score(y, p),
        "brier_score_loss": sk.brier_score_loss(y, p),
        "log_loss": sk.log_loss(y, p, labels=[False, True]),
    }
    assert scores == {
        name: value if value is None else pytest.approx(value, **CLOSE) for name, value in expected.items()
    }


def test_log_loss_clips_at_the_epsilon_of_the_logged_type():
    y = np.array([0, 1, 1, 0])
    for dtype in (np.float64, np.float32):
        p = np.array([1.0, 0.0, 0.9, 0.2], dtype)
        expected = sk.log_loss(y, p, labels=[0, 1])
        # scikit-learn computes float32 scores in float32.
        assert binary_scores(y, y, p)["log_loss"].value == pytest.approx(
            expected, rel=1e-12 if dtype is np.float64 else 1e-6
        )


def test_names_are_those_of_the_registry_and_values_lie_in_its_ranges():
    y, guess, p = binary_case("continuous")
    rng = np.random.default_rng(3)
    found = (
        binary_scores(y, guess, p)
        | multiclass_scores(y, guess, np.c_[1 - p, p])
        | regression_scores(p, p + rng.normal(size=p.size))
        | service_scores(p * 100, y)
    )
    assert set(found) == {name for name, metric in METRICS.items() if metric.family == "performance"}
    for name, score in found.items():
        bounds = [x for x in (score.lower, score.value, score.upper) if x is not None]
        assert bounds == sorted(bounds), name
        assert METRICS[name].low <= bounds[0], name
        assert bounds[-1] <= METRICS[name].high, name


@pytest.mark.parametrize(
    ("y", "guess", "p", "null"),
    [
        ([], [], [], dict.fromkeys(values(binary_scores([], [])), "no rows")),
        (
            [0, 0],
            [0, 0],
            [0.1, 0.2],
            {
                "precision": "no predicted positives",
                "recall": "no positives",
                "f1": "neither positives nor predicted positives",
                "roc_auc": "one class only",
                "average_precision": "one class only",
            },
        ),
        ([1, 1], [1, 0], [0.9, 0.2], {"roc_auc": "one class only", "average_precision": "one class only"}),
        (
            [0, 1],
            [0, 1],
            [math.nan, math.nan],
            dict.fromkeys(["roc_auc", "average_precision", "brier_score_loss", "log_loss"], "no scores"),
        ),
        (
            [0, 1],
            [0, 1],
            None,
            dict.fromkeys(["roc_auc", "average_precision", "brier_score_loss", "log_loss"], "no scores"),
        ),
        (
            [0, 1],
            [0, 1],
            [-3.0, 0.5],
            dict.fromkeys(["brier_score_loss", "log_loss"], "1 of 2 scores lie outside [0, 1]"),
        ),
    ],
    ids=["empty", "no positives", "no negatives", "NaN scores", "no scores", "margins"],
)
def test_what_is_undefined_is_null_with_its_reason_in_one_window_and_in_merged_outcomes(y, guess, p, null):
    y, guess = np.array(y, bool), np.array(guess, bool)
    for scores in (binary_scores(y, guess, p), Outcomes.binary(y, guess, p).scores()):
        assert {name: score.reason for name, score in scores.items() if score.value is None} == null


def test_rows_without_a_score_are_left_out_and_counted():
    y, guess, p = np.array([0, 1, 1, 0]), np.array([0, 1, 1, 1]), np.array([0.2, np.nan, 0.7, 0.6])
    for scores in (binary_scores(y, guess, p), Outcomes.binary(y, guess, p).scores()):
        assert scores["roc_auc"].value == 1
        assert scores["roc_auc"].reason == "1 rows without a score left out"
        assert (scores["accuracy"].n, scores["roc_auc"].n) == (4, 3)


def test_a_float32_softmax_slightly_above_1_is_a_probability():
    scores = binary_scores([1, 0], [1, 0], np.array([1.0000001, 0.1], np.float32))
    assert scores["brier_score_loss"].value == pytest.approx(0.005)


@pytest.mark.parametrize("wrong", [([0, 2], [0, 1]), ([0, 1], [0]), ([[0], [1]], [[0], [1]])])
def test_arrays_that_are_not_binary_classes_of_one_length_are_refused(wrong):
    with pytest.raises(UsageError):
        binary_scores(*wrong)
    with pytest.raises(UsageError):
        Outcomes.binary(*wrong)


def test_a_null_score_has_a_reason_and_no_score_is_nan():
    with pytest.raises(ValueError, match="reason"):
        Score(None, None, None, 0)
    with pytest.raises(ValueError, match="finite"):
        Score(math.nan, None, None, 0)


MULTICLASS = {
    "three classes": (3, 300, None),
    "ties": (4, 300, 1),
    "never predicted": (5, 60, None),
    "a class of one row": (3, 4, None),
}


def multiclass_case(name):
    n_classes, n, decimals = MULTICLASS[name]
    rng = np.random.default_rng(11)
    p = rng.dirichlet(np.ones(n_classes), n)
    p = p if decimals is None else np.round(p, decimals) / np.round(p, decimals).sum(axis=1, keepdims=True)
    y = np.r_[np.arange(n_classes), rng.integers(0, n_classes, n - n_classes)]
    guess = p.argmax(axis=1)
    return y, np.where(guess == 4, 0, guess), p


@pytest.mark.parametrize("case", MULTICLASS)
@pytest.mark.parametrize("named", [False, True])
def test_multiclass_scores_equal_scikit_learn(case, named):
    y, guess, p = multiclass_case(case)
    names = np.array(list("abcde"))
    y, guess = (names[y], names[guess]) if named else (y, guess)
    macro = {"average": "macro", "zero_division": 0}
    expected = {
        "accuracy": sk.accuracy_score(y, guess),
        "precision": sk.precision_score(y, guess, **macro),
        "recall": sk.recall_score(y, guess, **macro),
        "f1": sk.f1_score(y, guess, **macro),
        "roc_auc": sk.roc_auc_score(y, p, multi_class="ovr"),
        "log_loss": sk.log_loss(y, p),
    }
    scores = multiclass_scores(y, guess, p)
    assert values(scores) == {name: pytest.approx(value, **CLOSE) for name, value in expected.items()}
    reversed_columns = multiclass_scores(y, guess, p[:, ::-1], sorted(set(y.tolist()), reverse=True))
    assert values(reversed_columns) == pytest.approx(values(scores), **CLOSE)


def test_macro_means_run_over_the_union_of_true_and_predicted_classes():
    y, guess = ["a", "a", "b"], ["a", "c", "c"]
    scores = multiclass_scores(y, guess)
    for name, function in (("precision", sk.precision_score), ("recall", sk.recall_score), ("f1", sk.f1_score)):
        assert scores[name].value == pytest.approx(function(y, guess, average="macro", zero_division=0), **CLOSE)


def test_multiclass_says_what_it_cannot_judge():
    p = np.array([[0.5, 0.3, 0.2], [0.2, 0.7, 0.1]])
    assert multiclass_scores([0, 1], [0, 1], p, [0, 1, 2])["roc_auc"].reason == "1 of 3 classes have no rows"
    assert (
        multiclass_scores([0, 9], [0, 1], p, [0, 1, 2])["log_loss"].reason == "1 rows of classes without probabilities"
    )
    assert multiclass_scores([0, 1], [0, 1])["roc_auc"].reason == "no probabilities"
    assert {score.reason for score in multiclass_scores([], []).values()} == {"no rows"}
    assert {score.reason for score in Outcomes.multiclass([], []).scores().values()} == {"no rows"}
    holes = multiclass_scores([0, 1, 1], [0, 1, 1], [[0.5, 0.5], [np.nan, 0.2], [0.1, 0.9]])
    assert holes["log_loss"].reason == "1 rows without probabilities left out"
    with pytest.raises(UsageError, match="classes"):
        multiclass_scores([0, 1], [0, 1], p)


def test_two_classes_give_the_same_auc_and_interval_either_way():
    y, guess, p = binary_case("ties")
    one, many = binary_scores(y, guess, p)["roc_auc"], multiclass_scores(y, guess, np.c_[1 - p, p])["roc_auc"]
    assert many.value == pytest.approx(one.value, **CLOSE)
    # The sample variance of the placements divides by n - 1 in the one and by n in the other.
    assert many.lower == pytest.approx(one.lower, abs=1e-3)


@pytest.mark.parametrize("offset", [0.0, 100.0, 1e7])
def test_regression_scores_equal_scikit_learn(offset):
    rng = np.random.default_rng(5)
    y = rng.normal(3, 2, 400) + offset
    guess = y + rng.standard_t(4, 400)
    expected = {
        "mean_absolute_error": sk.mean_absolute_error(y, guess),
        "root_mean_squared_error": sk.root_mean_squared_error(y, guess),
        "mean_absolute_percentage_error": sk.mean_absolute_percentage_error(y, guess),
        "r2": sk.r2_score(y, guess),
    }
    close = {name: pytest.approx(value, **CLOSE) for name, value in expected.items()}
    assert values(regression_scores(y, guess)) == close
    merged = Outcomes.regression(y, guess).scores()
    assert values(merged) == close
    # Fourth moments around the mean are lost far from 0: then there is no interval rather than a wrong one.
    assert (merged["r2"].lower is None) == (offset == 1e7)


def test_merged_r2_survives_an_offset_that_eats_naive_sums_of_squares():
    rng = np.random.default_rng(5)
    y = 1e9 + rng.normal(size=300)
    guess = y + 0.5 * rng.normal(size=300)
    assert Outcomes.regression(y, guess).scores()["r2"].value == pytest.approx(sk.r2_score(y, guess), abs=1e-9)


@pytest.mark.parametrize(
    ("y", "guess", "metric", "value", "reason"),
    [
        ([], [], "mean_absolute_error", None, "no rows"),
        ([2.0, 2.0], [1.0, 2.0], "r2", None, "all true values are equal"),
        ([0.0, 0.0], [1.0, 2.0], "mean_absolute_percentage_error", None, "all true values are 0"),
        ([0.0, 2.0], [1.0, 1.0], "mean_absolute_percentage_error", 0.5, "1 rows with a true value of 0 left out"),
        (
            [1.0, np.nan, np.inf, 2.0],
            [1.0, 1.0, 1.0, 1e80],
            "mean_absolute_error",
            0.0,
            "3 rows that are not finite left out",
        ),
    ],
)
def test_regression_says_what_it_left_out(y, guess, metric, value, reason):
    for scores in (regression_scores(y, guess), Outcomes.regression(y, guess).scores()):
        assert (scores[metric].value, scores[metric].reason) == (value, reason)


def test_service_scores_are_numpy_quantiles_between_order_statistics():
    rng = np.random.default_rng(2)
    latency, failed = rng.lognormal(3, 1, 1000), rng.random(1000) < 0.02
    scores = service_scores(np.r_[latency, np.nan], np.r_[failed, True])
    for q, name in ((0.5, "latency_p50_ms"), (0.95, "latency_p95_ms"), (0.99, "latency_p99_ms")):
        assert scores[name].value == pytest.approx(np.quantile(latency, q), **CLOSE)
        assert {scores[name].lower, scores[name].upper} < set(latency)
    assert scores["request_count"].value == 1001
    assert scores["error_rate"].value == (failed.sum() + 1) / 1001


def test_a_quantile_of_too_few_rows_has_no_upper_bound():
    # 0.99^367 = 0.02501: the largest of 367 is not yet surely enough above the 99th percentile.
    assert quantile_score(np.arange(367.0), 0.99).upper is None
    assert quantile_score(np.arange(368.0), 0.99).upper == 367
    assert service_scores([], [])["latency_p50_ms"].reason == "no latency logged"
    assert service_scores([], [])["error_rate"].reason == "no requests"
    assert service_scores([], [])["request_count"].value == 0


def test_delong_interval_equals_the_definition():
    """Placements by comparing every pair, variances by numpy."""
    y, guess, p = binary_case("ties")
    wins = (p[y][:, None] > p[~y][None]) + 0.5 * (p[y][:, None] == p[~y][None])
    deviation = math.sqrt(np.var(wins.mean(1), ddof=1) / y.sum() + np.var(wins.mean(0), ddof=1) / (~y).sum())
    score = binary_scores(y, guess, p)["roc_auc"]
    assert score.value == pytest.approx(wins.mean(), **CLOSE)
    assert score.upper - score.value == pytest.approx(1.959963984540054 * deviation, rel=1e-9)


def test_f1_interval_is_the_delta_method_in_large_samples():
    rng = np.random.default_rng(1)
    y = rng.random(200_000) < 0.3
    guess = y ^ (rng.random(y.size) < 0.1)
    tp, wrong = (y & guess).sum(), (y ^ guess).sum()
    f1 = 2 * tp / (2 * tp + wrong)
    deviation = math.sqrt(tp * (2 - 2 * f1) ** 2 + wrong * f1**2) / (2 * tp + wrong)
    score = binary_scores(y, guess)["f1"]
    assert (score.upper - score.lower) / 2 == pytest.approx(1.96 * deviation, rel=1e-3)


def test_order_of_the_rows_does_not_matter():
    y, guess, p = binary_case("continuous")
    shuffle = np.random.default_rng(0).permutation(y.size)
    once, again = binary_scores(y, guess, p), binary_scores(y[shuffle], guess[shuffle], p[shuffle])
    assert values(once) == pytest.approx(values(again), **CLOSE)


def test_repeating_the_rows_changes_no_value_and_narrows_every_interval():
    y, guess, p = binary_case("ties")
    once, twice = (binary_scores(np.tile(y, k), np.tile(guess, k), np.tile(p, k)) for k in (1, 2))
    assert values(once) == pytest.approx(values(twice), **CLOSE)
    assert all(twice[name].upper - twice[name].lower < once[name].upper - once[name].lower for name in once)


SIMULATED = 1000
# 95 % ± 2.2 points: three standard errors of a share of 1,000. Where the method is only asymptotic, or conservative,
# the tolerance says so.
COVERAGE = {
    "accuracy": (0.928, 0.972),
    "precision": (0.928, 0.972),
    "recall": (0.928, 0.972),
    "f1": (0.928, 0.972),
    "roc_auc": (0.92, 0.972),
    "average_precision": (0.92, 1.0),
    "brier_score_loss": (0.928, 0.972),
    "log_loss": (0.92, 0.972),
}


def coverage(draw, truth, count=SIMULATED):
    rng = np.random.default_rng(42)
    inside = dict.fromkeys(truth, 0)
    for _ in range(count):
        scores = draw(rng)
        for name, value in truth.items():
            inside[name] += scores[name].lower <= value <= scores[name].upper
    return {name: hits / count for name, hits in inside.items()}


def test_binary_intervals_cover_the_truth_95_times_in_a_hundred():
    def draw(rng, n=300, function=binary_scores):
        p = rng.beta(2, 3, n)
        return function(rng.random(n) < p, p > 0.5, p)

    truth = values(draw(np.random.default_rng(0), 2_000_000))
    found = coverage(draw, truth)
    assert {name: share for name, share in found.items() if not COVERAGE[name][0] <= share <= COVERAGE[name][1]} == {}


def test_regression_and_multiclass_intervals_cover_the_truth():
    def regression(rng, n=300):
        y = rng.gamma(3, 1, n) + 1
        return regression_scores(y, y + rng.normal(0, 0.5, n))

    def multiclass(rng, n=300):
        p = rng.dirichlet([3, 2, 1], n)
        return multiclass_scores((rng.random(n)[:, None] > p.cumsum(axis=1)).sum(axis=1), p.argmax(axis=1), p)

    for draw, low in ((regression, 0.92), (multiclass, 0.92)):
        truth = values(draw(np.random.default_rng(0), 1_000_000))
        found = coverage(draw, truth, 600)
        assert all(low <= share <= 0.98 for share in found.values()), found


def test_latency_intervals_cover_the_truth_at_least_95_times_in_a_hundred():
    truth = {"latency_p50_ms": math.exp(3), "latency_p95_ms": math.exp(3 + 1.6448536269514722)}
    found = coverage(lambda rng: service_scores(rng.lognormal(3, 1, 400), np.zeros(400, bool)), truth)
    assert all(0.935 <= share <= 0.985 for share in found.values()), found


def test_a_perfect_auc_of_few_rows_is_not_certain():
    score = binary_scores([0, 0, 1, 1], [0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9])["roc_auc"]
    assert (score.lower, score.upper) == (wilson_interval(1.0, 2)[0], 1.0)
    assert score.lower < 0.5


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=30))
def test_exact_sum_has_no_rounding(numbers):
    assert Fraction(exact_sum(np.array(numbers, float)), 2**1074) == sum(map(Fraction, numbers), Fraction(0))


def test_exact_sum_of_more_rows_than_a_block():
    numbers = np.random.default_rng(0).normal(size=(1 << 20) + 3)
    assert exact_sum(numbers) / 2**1074 == math.fsum(numbers)


PROBABILITY = st.one_of(
    st.floats(0, 1), st.sampled_from([0.0, 1.0, 0.25, float(EDGES[3]), math.nan, 1.5, -0.1, 1 - 2**-53])
)
TARGET = st.one_of(st.floats(-1e6, 1e6), st.sampled_from([0.0, math.nan, 1e-300, 1e74, 1e80]))
ROWS = {
    "binary": st.tuples(st.booleans(), st.booleans(), PROBABILITY),
    "multiclass": st.tuples(st.sampled_from("abc"), st.sampled_from("abcd"), PROBABILITY, PROBABILITY, PROBABILITY),
    "regression": st.tuples(TARGET, TARGET),
}


def outcomes_of(task, rows):
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    if not columns:
        return Outcomes(task)
    if task == "multiclass":
        return Outcomes.multiclass(columns[0], columns[1], np.column_stack(columns[2:]), list("abc"))
    return getattr(Outcomes, task)(*columns)


@pytest.mark.parametrize("task", ROWS)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_order_and_any_split_give_the_same_bytes(task, data):
    rows = data.draw(st.lists(ROWS[task], max_size=40))
    whole = outcomes_of(task, rows)
    shuffled = data.draw(st.permutations(rows))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(rows)), max_size=5)))
    parts = [outcomes_of(task, shuffled[a:b]) for a, b in zip([0, *cuts], [*cuts, len(rows)], strict=True)]
    left = sum(parts, Outcomes(task))
    middle = len(parts) // 2
    right = sum(parts[:middle], Outcomes(task)) + sum(reversed(parts[middle:]), Outcomes(task))
    assert left.to_bytes() == right.to_bytes() == whole.to_bytes()
    assert Outcomes.from_bytes(whole.to_bytes()) == whole
    assert hash(left) == hash(whole)
    assert left.scores() == whole.scores()


RANKED = {"roc_auc", "average_precision"}


@pytest.mark.parametrize("case", BINARY)
def test_merged_binary_outcomes_score_as_the_rows_do(case):
    y, guess, p = binary_case(case)
    exact = binary_scores(y, guess, p)
    parts = [Outcomes.binary(y[i::3], guess[i::3], p[i::3]) for i in range(3)]
    assert sum(parts, Outcomes("binary")).scores()["roc_auc"] == exact["roc_auc"]
    merged = sum(parts, Outcomes("binary")).unranked().scores()
    for name in set(exact) - RANKED:
        assert alike(merged[name], exact[name]), name
    for name in RANKED:
        assert merged[name].lower <= exact[name].lower + 1e-3
        assert merged[name].upper >= exact[name].upper - 1e-3
        assert merged[name].value == pytest.approx(exact[name].value, abs=1e-3 if case != "rare" else 1e-2)


def test_merged_multiclass_and_regression_outcomes_score_as_the_rows_do():
    y, guess, p = multiclass_case("three classes")
    exact, outcomes = multiclass_scores(y, guess, p), Outcomes.multiclass(y, guess, p)
    merged = outcomes.scores()
    area = merged.pop("roc_auc")
    assert area.value == pytest.approx(exact["roc_auc"].value, abs=2e-4)
    assert area.lower <= exact["roc_auc"].lower + 1e-4
    assert area.upper >= exact["roc_auc"].upper - 1e-4
    stored = Outcomes.from_bytes(outcomes.unranked().to_bytes())
    assert (stored + outcomes).scores()["roc_auc"].reason == "not kept when hours are added"
    for name, score in merged.items():
        assert alike(score, exact[name]), name
    rng = np.random.default_rng(9)
    target = rng.normal(20, 5, 300)
    said = target + rng.normal(size=300)
    exact, merged = regression_scores(target, said), Outcomes.regression(target, said).scores()
    for name, score in merged.items():
        assert alike(score, exact[name], rel=1e-9), name


@pytest.mark.parametrize(("n", "error"), [(1_000, 1e-3), (100_000, 2e-5)])
def test_auc_of_bins_is_close_to_the_exact_one(n, error):
    for seed in range(5):
        rng = np.random.default_rng(seed)
        for p, y in ((rng.random(n), rng.random(n) < 0.5), (q := rng.random(n), rng.random(n) < q)):
            exact = binary_scores(y, y, p)["roc_auc"].value
            ranked, stored = Outcomes.binary(y, y, p), Outcomes.binary(y, y, p).unranked()
            assert stored.scores()["roc_auc"].value == pytest.approx(exact, abs=error)
            assert ranked.scores()["roc_auc"].value == pytest.approx(exact, abs=0 if n <= EXACT_ROWS else 1e-6)


def test_interval_of_a_binned_auc_holds_the_exact_one_even_when_one_bin_holds_all_scores():
    p = np.linspace(0.50001, 0.50002, 100)
    y = np.arange(100) >= 50
    exact, merged = binary_scores(y, y, p), Outcomes.binary(y, y, p).unranked().scores()
    assert (exact["roc_auc"].value, merged["roc_auc"].value) == (1.0, 0.5)
    assert merged["roc_auc"].upper == 1.0
    assert merged["average_precision"].upper == pytest.approx(1.0)


def test_stored_outcomes_are_small():
    assert max(len(Outcomes(task).to_bytes()) for task in ROWS) < 50
    rng = np.random.default_rng(0)
    p = rng.random(1_000)
    assert len(Outcomes.binary(p > 0.4, p > 0.5, p).unranked().to_bytes()) < 1_200


def test_outcomes_of_different_tasks_do_not_add_up():
    with pytest.raises(UsageError, match="binary"):
        Outcomes("binary") + Outcomes("regression")


@pytest.mark.parametrize("damage", [b"", b"junk", Outcomes("binary").to_bytes()[:-3]])
def test_damaged_bytes_are_refused(damage):
    with pytest.raises(HindcastError, match="damaged"):
        Outcomes.from_bytes(damage)


def test_bytes_of_another_version_are_refused():
    with pytest.raises(HindcastError, match="version 2"):
        Outcomes.from_bytes(zlib.compress(b'{"v":2,"t":"binary"}'))


def test_adding_many_hours_equals_one_pass():
    rng = np.random.default_rng(4)
    p = rng.beta(1, 3, 20_000)
    y = rng.random(p.size) < p
    hours = [Outcomes.binary(y[i : i + 500], p[i : i + 500] > 0.5, p[i : i + 500]) for i in range(0, p.size, 500)]
    assert sum(hours[::-1], Outcomes("binary")) == Outcomes.binary(y, p > 0.5, p)


def service_of(rows):
    return Service.of([ms for ms, _ in rows], [failed for _, failed in rows])


SERVED = st.tuples(st.floats(0, 1e4) | st.just(float("nan")) | st.sampled_from([1.0, 2.0, -1.0]), st.booleans())


@given(rows=st.lists(SERVED, max_size=30), data=st.data())
def test_service_of_any_order_and_any_split_is_the_same(rows, data):
    shuffled = data.draw(st.permutations(rows))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(rows)), max_size=4)))
    parts = [service_of(shuffled[a:b]) for a, b in zip([0, *cuts], [*cuts, len(rows)], strict=True)]
    total = sum(parts, Service())
    assert total == service_of(rows)
    assert Service.from_json(json.loads(json.dumps(total.to_json()))) == total
    finite = [ms for ms, _ in rows if math.isfinite(ms)]
    if finite:
        assert total.scores()["latency_p95_ms"].value == np.quantile(finite, 0.95)


@pytest.mark.parametrize("rows", [EXACT_ROWS, EXACT_ROWS + 1, 200_000])
def test_latencies_beyond_the_exact_ones_fall_into_narrow_buckets_in_any_split(rows):
    rng = np.random.default_rng(rows)
    latency = rng.lognormal(2.5, 0.8, rows)
    failed = np.zeros(rows, bool)
    whole = Service.of(latency, failed)
    order = rng.permutation(rows)
    assert sum((Service.of(latency[part], failed[part]) for part in np.array_split(order, 7)), Service()) == whole
    for q, name in ((0.5, "latency_p50_ms"), (0.95, "latency_p95_ms"), (0.99, "latency_p99_ms")):
        exact = np.quantile(latency, q)
        found = whole.scores()[name]
        assert found.value == exact if rows <= EXACT_ROWS else found.value == pytest.approx(exact, rel=2**-13)
        assert found.lower < exact < found.upper
        assert found.n == rows
