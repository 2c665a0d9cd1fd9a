"""How much a number moves when nothing is wrong: quantiles, the benign spread, records, memory and episodes."""

import math
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hindcast import spread
from hindcast.spread import ACCEPTED_AFTER, CLOSES_AFTER, TEACHES_WITHIN, Memory

ALPHAS = (0.5, 0.05, 1e-3, 1e-6, 1e-12)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_the_kolmogorov_quantile_is_scipys(alpha: float) -> None:
    from scipy import stats

    assert spread.kolmogorov_quantile(alpha) == pytest.approx(stats.kstwobign.isf(alpha) ** 2, rel=1e-6)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_the_chi_square_quantile_is_scipys(alpha: float) -> None:
    from scipy import stats

    df = np.array([1.0, 2.0, 9.0, 200.0])
    assert spread.chi2_quantile(alpha, df) == pytest.approx(stats.chi2.isf(alpha, df), rel=1e-6)
    assert pytest.approx(stats.chi2.median(1)) == spread.CHI2_1_MEDIAN


@given(st.floats(0.01, 100), st.integers(1, 500))
def test_the_tests_of_a_week_share_the_budget(budget: float, n_series: int) -> None:
    scales = (1, 6, 24)
    expected = sum(168 / s * n_series * spread.alpha_of(budget, s, n_series, len(scales)) for s in scales)
    assert expected == pytest.approx(budget)


def simulated(tau: float, hours: int, series: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Excesses of squared distances whose means jitter by τ, and their noise: (hours, series)."""
    noise = 1 / rng.integers(300, 3000, (hours, series)) + 1e-6
    moved = tau * rng.standard_normal((hours, series)) + np.sqrt(noise) * rng.standard_normal((hours, series))
    return moved**2 - spread.CHI2_1_MEDIAN * noise, noise


@pytest.mark.parametrize("tau", [0.05, 0.1, 0.4])
def test_the_benign_spread_is_recovered(tau: float) -> None:
    excess, noise = simulated(tau, 336, 200, np.random.default_rng(1))
    found = spread.benign_spread(excess, noise, blocks=100, scale=1) ** 0.5
    assert np.median(found) == pytest.approx(tau, rel=0.1)
    assert (np.abs(found / tau - 1) < 0.45).all()


def test_a_baseline_of_few_blocks_moves_too_and_its_share_is_taken_off() -> None:
    excess, noise = simulated(0.1, 336, 1, np.random.default_rng(2))
    many, few = (spread.benign_spread(excess, noise, blocks=k, scale=1)[0] for k in (100, 4))
    assert many / few == pytest.approx((1 + 1 / 4) / (1 + 1 / 100), rel=0.01)


def test_past_incidents_in_a_fifth_of_the_hours_hardly_inflate_it() -> None:
    rng = np.random.default_rng(3)
    excess, noise = simulated(0.1, 336, 100, rng)
    clean = spread.benign_spread(excess, noise, blocks=100, scale=1) ** 0.5
    excess[rng.random(excess.shape) < 0.2] = 4.0
    dirty = spread.benign_spread(excess, noise, blocks=100, scale=1) ** 0.5
    assert np.median(dirty / clean) < 1.45
    assert dirty.max() < 0.3, "a mean of squares would say 0.9"


def test_with_nothing_learnt_the_spread_is_the_prior_and_never_below_the_least() -> None:
    nothing = np.full((5, 2), np.nan)
    assert spread.benign_spread(nothing, nothing, blocks=4, scale=1) == pytest.approx([spread.PRIOR_TAU**2] * 2)
    assert spread.benign_spread(nothing, nothing, blocks=4, scale=1, least=0.06) == pytest.approx([0.0036] * 2)
    assert spread.benign_spread(np.empty((0, 2)), np.empty((0, 2)), blocks=4, scale=1).shape == (2,)


def test_overlapping_windows_weigh_less() -> None:
    excess, noise = np.full((24, 1), 0.01), np.full((24, 1), 1e-6)
    hourly, daily = (spread.benign_spread(excess, noise, blocks=100, scale=s)[0] for s in (1, 24))
    full = 0.01 / spread.CHI2_1_MEDIAN / 1.01
    assert hourly == pytest.approx((24 * full + 0.0004) / 25)
    assert daily == pytest.approx((full + 0.0004) / 2)


@given(st.lists(st.one_of(st.floats(-10, 10), st.just(float("nan"))), min_size=1, max_size=12))
def test_the_median_ignores_what_is_not_there(values: list[float]) -> None:
    found = spread.nan_median(np.array(values)[:, None])[0]
    known = [v for v in values if not np.isnan(v)]
    assert found == pytest.approx(np.median(known)) if known else np.isnan(found)


def test_a_taught_excess_with_infinite_noise_does_not_enter_the_median() -> None:
    excess, noise = simulated(0.1, 100, 1, np.random.default_rng(4))
    before = spread.benign_spread(excess, noise, blocks=100, scale=1)[0]
    taught = np.vstack([excess, np.full((20, 1), 0.9)]), np.vstack([noise, np.full((20, 1), np.inf)])
    assert spread.benign_spread(*taught, blocks=100, scale=1)[0] == pytest.approx(before, rel=0.05)
    assert spread.record(taught[0], 0)[0] > 0.9


def test_the_record_has_a_margin_that_shrinks_with_what_is_learnt() -> None:
    for n, margin in ((1, 1.5 * 73), (72, 3.0), (336, 1.5 * (1 + 72 / 336))):
        assert spread.record(np.full((n, 1), 0.1), 0)[0] == pytest.approx(margin * 0.1)
    assert spread.record(np.empty((0, 3)), 0).tolist() == [0, 0, 0]


def test_recent_hours_and_what_is_not_there_set_no_record() -> None:
    excess = np.array([0.1, np.nan, 0.2, 0.9, 0.9])[:, None]
    assert spread.record(excess, 2, few=0)[0] == pytest.approx(1.5 * 0.2)
    assert spread.record(excess, 0, few=0)[0] == pytest.approx(1.5 * 0.9)
    for more_than_there_are in (5, 6, 8, 100):
        assert spread.record(excess, more_than_there_are)[0] == 0


def test_the_threshold_is_noise_plus_spread() -> None:
    found = spread.threshold(np.array([6.0]), np.array([0.01]), np.array([0.04]), 0.05)
    assert found[0] == pytest.approx(0.06 + 1.25 * 3.841459 * 0.04)


def test_recent_hours_are_those_of_the_day_before() -> None:
    start = datetime(2013, 4, 16, 15, tzinfo=UTC)
    hours = [start - timedelta(hours=k) for k in (300, 25, 24, 23, 1)]
    assert spread.overlapping(hours, start) == 3
    assert spread.overlapping([], start) == 0


# Memory


def random_memory(n_series: int, seed: int) -> Memory:
    rng = np.random.default_rng(seed)
    memory = Memory.blank(4, 3, n_series)
    for array in (memory.excess, memory.noise, memory.peak):
        array[...] = np.where(rng.random(array.shape) < 0.3, np.nan, rng.standard_normal(array.shape))
    memory.open_hours[:] = rng.integers(0, 400, n_series)
    memory.quiet[:] = rng.integers(0, 400, n_series)
    return memory


def arrays(memory: Memory) -> list[list[object]]:
    found = (memory.excess, memory.noise, memory.peak, memory.open_hours, memory.quiet)
    return [[None if math.isnan(value) else value for value in array.ravel().tolist()] for array in found]


names_ = st.lists(st.tuples(st.text(max_size=6), st.sampled_from(["ks", "missing", "new"])), unique=True, max_size=8)


@given(names_, st.integers(0, 1000))
def test_memory_is_read_as_it_was_written(names: list[tuple[str, ...]], seed: int) -> None:
    memory = random_memory(len(names), seed)
    assert arrays(Memory.from_bytes(memory.to_bytes(names), names)) == arrays(memory)


@given(names_, names_, st.integers(0, 1000), st.randoms(use_true_random=False))
def test_series_are_found_again_by_name(
    names: list[tuple[str, ...]], new: list[tuple[str, ...]], seed: int, random: object
) -> None:
    memory = random_memory(len(names), seed)
    wanted = list(dict.fromkeys([*names[1:], *new]))
    random.shuffle(wanted)  # type: ignore[attr-defined]
    found = Memory.from_bytes(memory.to_bytes(names), wanted)
    blank = Memory.blank(4, 3, 1)
    for j, name in enumerate(wanted):
        source, i = (memory, names.index(name)) if name in names else (blank, 0)
        np.testing.assert_array_equal(found.excess[:, :, j], source.excess[:, :, i])
        np.testing.assert_array_equal(found.noise[:, :, j], source.noise[:, :, i])
        np.testing.assert_array_equal(found.peak[:, :, j], source.peak[:, :, i])
        assert (found.open_hours[j], found.quiet[j]) == (source.open_hours[i], source.quiet[i])


# Episodes


def live(drifted: str, excess: float = 0.5, **options: int) -> list[Memory]:
    """Hours of one series: `x` where it drifted, `.` where not."""
    past: list[Memory] = []
    for sign in drifted:
        memory = Memory.blank(1, 1, 1)
        memory.excess[:] = excess if sign == "x" else 0.01
        memory.noise[:] = 1e-3
        memory.turn(past[-1] if past else None, np.array([sign == "x"]), **options)
        past.append(memory)
    return past


def flags(past: list[Memory]) -> str:
    return "".join("x" if memory.flagged()[0] else "." for memory in past)


def test_an_episode_closes_after_its_quiet_hours() -> None:
    assert flags(live(".." + "x" + "." * 8)) == ".." + "x" * CLOSES_AFTER + "." * 3
    assert flags(live("x" + "." * (CLOSES_AFTER - 1) + "x" + "." * 7)) == "x" * (2 * CLOSES_AFTER) + ".."


def test_nothing_is_learnt_inside_an_episode() -> None:
    past = live("..xx" + "." * 8)
    learnt = [bool(np.isfinite(memory.excess).any()) for memory in past]
    assert learnt == [True, True] + [False] * (CLOSES_AFTER + 1) + [True] * 3


def test_after_a_week_the_level_is_accepted_and_learnt() -> None:
    past = live("x" * (ACCEPTED_AFTER + 5))
    assert flags(past) == "x" * ACCEPTED_AFTER + "....."
    assert [bool(np.isfinite(memory.excess).any()) for memory in past[-6:]] == [False] + [True] * 5


def test_an_episode_that_closes_soon_by_itself_teaches_its_size() -> None:
    past = live("." + "x" * 3 + "." * 6, excess=0.7)
    closing = past[1 + 3 + CLOSES_AFTER - 1]
    assert closing.open_hours[0] == 0
    assert closing.excess.item() == 0.7
    assert np.isinf(closing.noise.item())
    assert np.isnan(closing.peak.item())
    assert spread.record(np.stack([m.excess[0] for m in past])[:, 0], 0)[0] > 0.7


def test_a_long_episode_and_a_policy_without_teaching_teach_nothing() -> None:
    long = live("x" * (TEACHES_WITHIN + 1) + "." * 7, excess=0.7)
    untaught = live("xxx" + "." * 7, excess=0.7, teaches_within=0)
    for past in (long, untaught):
        assert np.nanmax([memory.excess.item() for memory in past]) == 0.01


def looked_at(hours: str) -> list[Memory]:
    """Hours of one series at two scales: `w` where the first is beyond its threshold and waits for a second look."""
    past: list[Memory] = []
    for k, sign in enumerate(hours):
        memory = Memory.blank(1, 2, 1)
        memory.excess[:] = 0.01 if sign == "." else 0.5 + k / 100
        memory.noise[:] = 1e-3
        waiting = np.array([[sign == "w"], [False]])
        memory.turn(past[-1] if past else None, np.array([sign == "x"]), waiting=waiting)
        past.append(memory)
    return past


def test_what_waits_for_a_second_look_is_learnt_only_if_that_finds_nothing() -> None:
    *_, waits, after = looked_at(".w.")
    assert waits.waits.tolist() == [[True], [False]]
    assert np.isnan(waits.excess).all()
    assert flags([waits, after]) == ".."
    assert after.excess.ravel().tolist() == [0.51, 0.01]
    assert np.isinf(after.noise).all()
    assert not after.waits.any()
    *_, waits, opened = looked_at(".wx")
    assert flags([waits, opened]) == ".x"
    assert np.isnan(opened.excess).all()
    assert opened.peak.ravel().tolist() == [0.52, 0.52]
    assert not opened.waits.any(), "an episode waits for nothing"


@given(st.text("x.", min_size=1, max_size=60))
def test_every_drifted_hour_is_inside_an_episode_and_open_hours_count_up(drifted: str) -> None:
    past = live(drifted)
    before = 0
    for sign, memory in zip(drifted, past, strict=True):
        hours = int(memory.open_hours[0])
        assert hours == 0 or hours == before + 1
        assert hours > 0 or sign == "."
        before = hours
