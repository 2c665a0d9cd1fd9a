"""Degradation: large enough to matter, and more than chance, sample size and the history's spread explain."""

from typing import Any

import numpy as np
import pytest

from hindcast.performance.degradation import (
    LEARNT,
    LEAST_HOURS,
    LEAST_ROWS,
    Pair,
    Verdict,
    _binomial_variance,
    change_percent,
    judge,
)  # fmt: skip
from hindcast.performance.intervals import Score, mean_score, proportion_score
from hindcast.spread import Memory, chi2_quantile

OPTIONS: dict[str, Any] = {"recent": 0, "threshold": 0.05, "critical": 0.10, "budget_per_week": 1.0}


def share(right: float, n: int) -> Score:
    return proportion_score(round(right * n), n, "no labels")


def error(mean: float, n: int, sd: float = 1.0) -> Score:
    return mean_score(n, mean, mean * mean + sd * sd, reason="")


def pair(now: Score, then: Score, metric: str = "accuracy", segment: str = "*", **changed: Any) -> Pair:
    return Pair(segment, metric, **{"scale": 1, "current": now, "baseline": then, "hours": 100, **changed})


def one(given: Pair, remembered: list[Memory] = [], **options: Any) -> Verdict:  # noqa: B006 - never changed
    (verdict,), _ = judge([given], remembered, [given.name], **{**OPTIONS, **options})
    return verdict


def past(given: Pair, values: list[Score]) -> list[Memory]:
    """What is remembered of hours with these values, judged one after the other."""
    remembered: list[Memory] = []
    for value in values:
        _, memory = judge(
            [pair(value, given.baseline, given.metric, given.segment)], remembered, [given.name], **OPTIONS
        )
        remembered.append(memory)
    return remembered


def calm(given: Pair, hours: int, sd: float, n: int = 5000, seed: int = 0) -> list[Memory]:
    rng = np.random.default_rng(seed)
    then = given.baseline.value or 0.0
    return past(given, [share(float(np.clip(then + sd * z, 0, 1)), n) for z in rng.standard_normal(hours)])


@pytest.mark.parametrize(
    ("k", "n", "expected"), [(4, 10, 0.85), (0, 12, 0.3), (12, 12, 0.6), (90, 100, 0.95), (30, 500, 0.02)]
)
def test_the_variance_of_a_small_proportion_gives_the_exact_tests_p(k: int, n: int, expected: float) -> None:
    from scipy import stats

    side = "less" if k / n < expected else "greater"
    exact = min(1.0, 2 * stats.binomtest(k, n, expected, side).pvalue)
    squared = (k / n - expected) ** 2
    assert stats.chi2.sf(squared / _binomial_variance(k / n, expected, n, squared), 1) == pytest.approx(exact, rel=1e-6)


def test_the_variance_of_what_is_as_expected_or_impossible_is_a_number() -> None:
    assert _binomial_variance(0.5, 0.5, 10, 0.0) == 0
    for value, expected in ((0.9, 1.0), (0.1, 0.0)):
        assert 0 < _binomial_variance(value, expected, 50, 0.01) < 1e-3


def test_a_large_loss_of_many_rows_is_critical_and_says_its_change() -> None:
    verdict = one(pair(share(0.70, 4000), share(0.85, 100_000)))
    assert (verdict.severity, round(verdict.change_percent or 0, 1)) == ("critical", -17.6)
    assert verdict.threshold is not None
    assert 0.05 <= verdict.threshold < 0.176


def test_warning_beyond_the_threshold_and_critical_beyond_the_critical_change() -> None:
    given = pair(share(0.79, 5000), share(0.85, 200_000))
    remembered = calm(given, 60, 0.002)
    assert one(given, remembered).severity == "warning"
    assert one(given, remembered, critical=0.06).severity == "critical"
    assert one(given, remembered, threshold=0.08).severity is None
    assert one(pair(share(0.81, 5000), share(0.85, 200_000)), remembered).severity is None, "4.7 % of it"


def test_a_small_sample_explains_a_large_change() -> None:
    for n, severity in ((30, None), (4000, "critical")):
        verdict = one(pair(share(0.7, n), share(0.85, 100_000)))
        assert verdict.severity == severity
        if severity is None:
            assert "within what 30 labels and the history's spread explain" in verdict.reason


def test_the_spread_of_the_history_explains_a_change() -> None:
    given = pair(share(0.78, 5000), share(0.85, 200_000))
    assert one(given, calm(given, 100, 0.003)).severity == "warning"
    assert one(given, calm(given, 100, 0.04)).severity is None


def test_until_enough_is_learnt_a_metric_is_taken_to_move() -> None:
    given = pair(share(0.79, 20_000), share(0.85, 200_000))
    assert one(given, calm(given, LEARNT - 1, 0.001)).severity is None
    assert one(given, calm(given, LEARNT, 0.001)).severity == "warning"


def test_the_worst_quiet_hour_is_a_record_to_beat() -> None:
    given = pair(share(0.79, 5000), share(0.85, 200_000))
    quiet = [share(0.849, 5000)] * 60
    assert one(given, past(given, quiet)).severity == "warning"
    # 5 % below, an hour that was not alerted on, and not recent.
    worst = past(given, [*quiet[:30], share(0.81, 5000), *quiet[:30]])
    assert all(memory.open_hours[0] == 0 for memory in worst)
    assert one(given, worst).severity == "warning"
    assert one(pair(share(0.80, 5000), given.baseline), worst).severity is None
    better = past(given, [*quiet[:30], share(0.93, 5000), *quiet[:30]])
    assert one(pair(share(0.80, 5000), given.baseline), better).severity == "warning", (
        "a record of the good side is none"
    )


@pytest.mark.parametrize(
    ("metric", "now", "then"),
    [
        ("accuracy", share(0.99, 9000), share(0.80, 90_000)),
        ("error_rate", share(0.0, 9000), share(0.2, 90_000)),
        ("mean_absolute_error", error(3, 9000), error(10, 90_000)),
        ("log_loss", error(0.1, 9000, 0.1), error(0.5, 90_000, 0.1)),
    ],
)
def test_an_improvement_never_alerts_and_its_mirror_image_does(metric: str, now: Score, then: Score) -> None:
    assert one(pair(now, then, metric)).severity is None
    assert one(pair(then, now, metric)).severity == "critical"


def test_a_metric_without_a_harmful_direction_never_alerts() -> None:
    for now, then in ((10.0, 1000.0), (1000.0, 10.0)):
        given = pair(Score(now, None, None, 5000), Score(then, None, None, 100), "request_count")
        assert one(given).severity is None


def test_below_the_least_rows_and_hours_nothing_is_judged_and_the_reason_says_so() -> None:
    few = one(pair(share(0.0, LEAST_ROWS - 1), share(0.9, 90_000)))
    assert (few.severity, few.reason) == (None, f"{LEAST_ROWS - 1} rows; {LEAST_ROWS} are needed to judge")
    assert few.change_percent == pytest.approx(-100)
    young = one(pair(share(0.0, 5000), share(0.9, 90_000), hours=LEAST_HOURS - 1))
    assert (young.severity, young.reason) == (
        None,
        f"the baseline has {LEAST_HOURS - 1} hours with labels; {LEAST_HOURS} are needed",
    )
    missing = one(pair(share(0, 0), share(0.9, 90_000)))
    assert (missing.severity, missing.change_percent, missing.reason) == (None, None, "no labels")


def test_what_is_not_judged_is_not_remembered() -> None:
    for given in (
        pair(share(0.0, 5), share(0.9, 9000)),
        pair(share(0, 0), share(0.9, 9000)),
        pair(share(0.1, 900), share(0, 0)),
    ):
        _, memory = judge([given], [], [given.name], **OPTIONS)
        assert np.isnan(memory.excess).all()
        assert memory.open_hours.tolist() == [0]


def test_a_rate_that_was_zero_has_no_change_and_can_alert() -> None:
    verdict = one(pair(share(0.3, 2000), share(0.0, 90_000), "error_rate"))
    assert (verdict.severity, verdict.change_percent) == ("critical", None)
    assert one(pair(share(0.0, 2000), share(0.0, 90_000), "error_rate")).severity is None


# Segments beside the rest of the traffic


def segment(now: float, then: float, rest_now: float, rest_then: float, n: int = 3000) -> Pair:
    rest = (share(rest_now, 20_000), share(rest_then, 400_000))
    return pair(share(now, n), share(then, 40_000), segment="carrier=HA", rest=rest)


def test_a_loss_that_all_share_is_not_the_segments() -> None:
    assert one(segment(0.60, 0.85, 0.60, 0.85)).severity is None
    assert one(segment(0.60, 0.85, 0.85, 0.85)).severity == "critical"
    assert one(segment(0.40, 0.85, 0.70, 0.85)).severity == "critical", "it lost twice more than the rest"
    assert one(segment(0.60, 0.85, 0.95, 0.85)).severity == "critical", "that the rest got better excuses nothing"


def test_a_segment_that_fell_less_than_the_rest_is_silent() -> None:
    assert one(segment(0.75, 0.85, 0.50, 0.85)).severity is None


def test_the_shared_loss_of_an_error_goes_up() -> None:
    def given(now: float, rest_now: float) -> Pair:
        rest = (error(rest_now, 20_000), error(10, 400_000))
        return pair(error(now, 3000), error(10, 40_000), "mean_absolute_error", "carrier=HA", rest=rest)

    assert one(given(14, 14)).severity is None
    assert one(given(14, 10)).severity == "critical"


# Episodes and false alarms


def test_a_lasting_loss_stays_found_while_it_lasts_and_is_not_learnt() -> None:
    given = pair(share(0.70, 4000), share(0.85, 100_000))
    remembered = calm(given, 60, 0.003)
    for _ in range(30):
        (verdict,), memory = judge([given], remembered, [given.name], **OPTIONS)
        assert verdict.severity == "critical"
        assert np.isnan(memory.excess).all()
        remembered.append(memory)
    assert remembered[-1].open_hours.tolist() == [30]


def test_series_are_judged_apart_and_in_any_order() -> None:
    bad, good = pair(share(0.6, 4000), share(0.85, 90_000)), pair(share(0.85, 4000), share(0.85, 90_000), "recall")
    names = [good.name, bad.name]
    found = {}
    for pairs in ([bad, good], [good, bad]):
        verdicts, memory = judge(pairs, [], names, **OPTIONS)
        found[tuple(p.metric for p in pairs)] = (
            {v.pair.metric: v.severity for v in verdicts},
            memory.open_hours.tolist(),
        )
    assert list(found.values()) == [({"accuracy": "critical", "recall": None}, [0, 1])] * 2


@pytest.mark.parametrize("jitter", [0.0, 0.02])
def test_three_quiet_weeks_raise_no_more_than_the_budget(jitter: float) -> None:
    """20 segments, 60 rows an hour each, an accuracy of 0.8 that also moves by itself: at most 2 alarms in 3 weeks."""
    rng = np.random.default_rng(11)
    names = [(f"s{i}", "accuracy") for i in range(20)]
    remembered: list[Memory] = []
    then, alarms = share(0.8, 60 * 168), 0
    for _ in range(504):
        level = 0.8 + jitter * rng.standard_normal(20)
        right = rng.binomial(60, np.clip(level, 0, 1))
        pairs = [pair(share(k / 60, 60), then, segment=name[0]) for k, name in zip(right, names, strict=True)]
        verdicts, memory = judge(pairs, remembered[-336:], names, **{**OPTIONS, "recent": min(24, len(remembered))})
        alarms += sum(v.severity is not None for v in verdicts)
        remembered.append(memory)
    assert alarms <= 2


def test_change_is_signed_and_against_the_magnitude() -> None:
    assert change_percent(-12.0, -10.0) == pytest.approx(-20)
    assert change_percent(0.5, 0.4) == pytest.approx(25)
    assert change_percent(0.5, 0.0) is None


def test_the_quantile_of_the_threshold_grows_as_the_budget_shrinks() -> None:
    given = pair(share(0.76, 300), share(0.85, 100_000))
    found = [one(given, budget_per_week=budget).threshold or 0 for budget in (100, 1, 0.01)]
    assert found == sorted(found)
    assert found[0] < found[-1]
    assert float(chi2_quantile(1e-6, 1)) > float(chi2_quantile(1e-3, 1))
