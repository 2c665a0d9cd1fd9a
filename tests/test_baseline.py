"""Baselines: which hours, with which weights, and who stays out."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hindcast.drift.baseline import (
    SCALES,
    TRAIL_HOURS,
    Comparison,
    History,
    Totals,
    comparisons,
    needed_hours,
    same_local_hour,
)
from hindcast.profile.bins import Bins
from hindcast.profile.profile import NULL, Profile, Sparse
from hindcast.window import HOUR

NEW_YORK, UTC_ZONE = ZoneInfo("America/New_York"), ZoneInfo("UTC")
BINS = Bins(("feature_a", "feature_b"), (np.array([0.0, 1.0]), np.array([0.0])), ("feature_c",), (("x", "y"),))
START = datetime(2013, 6, 12, 15, tzinfo=UTC)


def stored(a: tuple[int, int, int], b: int = 0, c: tuple[int, int] = (0, 0), nulls: int = 0) -> bytes:
    """An hour with counts `a` in the bins of a, `b` rows in b's first bin, `c` of the categories."""
    profile = Profile.empty(BINS)
    profile.numeric[0, :3] = a
    profile.numeric[1, 0] = b
    profile.numeric[0, 3 + NULL] = nulls
    profile.categorical[0, :2] = c
    profile.sums[0, :3] = 5
    profile.rows = sum(a) + nulls
    return profile.to_bytes()


def history(hours: Mapping[datetime, bytes]) -> History:
    return History(BINS, lambda wanted: {hour: hours[hour] for hour in wanted if hour in hours})


def compare(
    hours: Mapping[datetime, bytes], flags: Mapping[datetime, np.ndarray] | None = None
) -> dict[tuple[str, int], Comparison]:
    reference = Totals(BINS)
    reference.add(Sparse.from_bytes(stored((10, 10, 10)), BINS))
    found = comparisons(START, history(hours), reference, flags or {}, UTC_ZONE)
    return {(c.tier, c.scale): c for c in found}


# Local time


@pytest.mark.parametrize(
    ("start", "days", "expected"),
    [
        ("2013-03-11T16", 7, "2013-03-04T17"), ("2013-03-11T16", 1, "2013-03-10T16"),
        ("2013-03-10T12", 1, "2013-03-09T13"),
        ("2013-11-04T17", 7, "2013-10-28T16"), ("2013-11-04T17", 1, "2013-11-03T17"),
        ("2013-06-12T15", 28, "2013-05-15T15"),
    ],
)  # fmt: skip
def test_the_same_local_hour_across_a_clock_change(start: str, days: int, expected: str) -> None:
    moment = datetime.fromisoformat(start).replace(tzinfo=UTC)
    assert same_local_hour(moment, days, NEW_YORK) == datetime.fromisoformat(expected).replace(tzinfo=UTC)


@given(
    st.datetimes(datetime(2000, 1, 1), datetime(2030, 1, 1)),  # noqa: DTZ001 - zone below
    st.integers(1, 60),
    st.sampled_from(["America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "UTC"]),
)
def test_the_same_local_hour_reads_the_same_on_the_wall_but_where_the_clock_jumped(
    moment: datetime, days: int, name: str
) -> None:
    zone = ZoneInfo(name)
    start = moment.replace(minute=0, second=0, microsecond=0, tzinfo=UTC)
    earlier = same_local_hour(start, days, zone)
    assert earlier == earlier.replace(minute=0, second=0, microsecond=0)
    there, here = earlier.astimezone(zone), start.astimezone(zone)
    wall = here.replace(tzinfo=None) - timedelta(days=days)
    assert abs(there.replace(tzinfo=None) - wall) <= HOUR
    if there.dst() == here.dst():
        assert there.replace(tzinfo=None) == wall


# Seasons


def test_a_seasonal_baseline_has_the_hour_mix_of_the_window() -> None:
    """Two hours with different values: now 30 rows at 15 h and 10 at 14 h, in earlier weeks 100 and 100."""
    hours = {START: stored((0, 30, 0)), START - HOUR: stored((10, 0, 0))}
    hours |= {START - k * HOUR: stored((1, 0, 0)) for k in range(2, 6)}
    for week in (1, 2):
        hours |= {
            START - timedelta(weeks=week): stored((0, 80, 20)),
            START - timedelta(weeks=week) - HOUR: stored((100, 0, 0)),
        }
        hours |= {START - timedelta(weeks=week) - k * HOUR: stored((7, 0, 0)) for k in range(2, 6)}
    found = compare(hours)
    share = found["week", 6].baseline.numeric[0, :3] / found["week", 6].baseline.rows
    # 14 of 44 rows are from hours where all were in the first bin, 30 from the hour where a fifth was in the third.
    assert share == pytest.approx([14 / 44, 24 / 44, 6 / 44])
    assert found["week", 6].current.numeric[0, :3].tolist() == [14, 30, 0]
    assert found["week", 1].baseline.numeric[0, :3] == pytest.approx([0, 160, 40]), "one hour alone keeps its rows"
    assert "2 earlier weeks" in found["week", 6].says


def test_effective_rows_are_kishs() -> None:
    one, other = Totals(BINS), Totals(BINS)
    one.add(Sparse.from_bytes(stored((100, 0, 0)), BINS))
    other.add(Sparse.from_bytes(stored((0, 50, 0)), BINS))
    total = Totals(BINS)
    total.add_block(one, 0.5)
    total.add_block(other, 2.0)
    weights = np.repeat([0.5, 2.0], [100, 50])
    assert total.rows == weights.sum()
    assert total.effective_rows == pytest.approx(weights.sum() ** 2 / (weights**2).sum())
    scaled = total.scaled()
    assert scaled.rows == pytest.approx(total.effective_rows)
    assert scaled.effective_rows == scaled.rows, "scaling again changes nothing"
    assert scaled.numeric / scaled.rows == pytest.approx(total.numeric / total.rows)
    assert scaled.sums / scaled.rows == pytest.approx(total.sums / total.rows)
    assert Totals(BINS).scaled().rows == 0


@given(st.floats(0.01, 100))
def test_one_block_is_worth_its_own_rows_whatever_its_weight(weight: float) -> None:
    block, total = Totals(BINS), Totals(BINS)
    block.add(Sparse.from_bytes(stored((3, 4, 5)), BINS))
    total.add_block(block, weight)
    assert total.scaled().rows == pytest.approx(12)
    assert total.scaled().numeric[0, :3] == pytest.approx([3, 4, 5])


@pytest.mark.parametrize(("tier", "step", "needs", "most"), [("week", 7, 2, 4), ("day", 1, 3, 7)])
def test_a_seasonal_tier_needs_some_blocks_and_takes_the_latest(tier: str, step: int, needs: int, most: int) -> None:
    def world(blocks: int) -> dict[datetime, bytes]:
        return {START: stored((30, 0, 0))} | {
            START - timedelta(days=step * k): stored((0, k, 0)) for k in range(1, blocks + 1)
        }

    assert (tier, 1) not in compare(world(needs - 1))
    assert compare(world(needs))[tier, 1].baseline.rows == pytest.approx(sum(range(1, needs + 1)))
    assert compare(world(8))[tier, 1].baseline.rows == pytest.approx(sum(range(1, most + 1)))
    assert compare(world(8))[tier, 1].blocks == most


def test_the_trail_needs_18_hours_and_takes_the_last_168_that_had_rows() -> None:
    for n, there in ((17, False), (18, True)):
        hours = {START: stored((30, 0, 0))} | {START - k * HOUR: stored((0, 1, 0)) for k in range(1, n + 1)}
        assert (("trail", 1) in compare(hours)) is there
    hours = {START: stored((30, 0, 0))} | {START - 2 * k * HOUR: stored((0, 1, 0)) for k in range(1, 160)}
    found = compare(hours)["trail", 1]
    assert found.baseline.rows == 159
    dense = {START: stored((30, 0, 0))} | {START - k * HOUR: stored((0, 1, 0)) for k in range(1, 300)}
    assert compare(dense)["trail", 1].baseline.rows == TRAIL_HOURS


@pytest.mark.parametrize("scale", SCALES)
def test_a_window_never_lies_in_its_own_trail(scale: int) -> None:
    hours = {START - k * HOUR: stored((1, 0, 0) if k < scale else (0, 1, 0)) for k in range(400)}
    found = compare(hours)["trail", scale]
    assert found.current.numeric[0, :3].tolist() == [scale, 0, 0]
    assert found.baseline.numeric[0, :3].tolist() == [0, TRAIL_HOURS, 0]


def test_the_reference_is_always_there_when_the_window_has_rows() -> None:
    assert set(compare({START: stored((5, 0, 0))})) == {("reference", scale) for scale in SCALES} | {("range", 1)}
    assert compare({START: stored((0, 0, 0))}) == {}
    assert set(compare({START - 2 * HOUR: stored((5, 0, 0))})) == {("reference", 6), ("reference", 24)}


def test_after_an_outage_a_longer_scale_waits_for_half_of_its_usual_hours() -> None:
    def judged(after: int) -> set[int]:
        hours = {START - k * HOUR: stored((5, 0, 0)) for k in range(400) if k < after or k >= 30}
        return {scale for tier, scale in compare(hours) if tier == "trail"}

    assert judged(1) == judged(2) == {1}
    assert judged(3) == judged(11) == {1, 6}
    assert judged(12) == {1, 6, 24}


def test_a_model_that_sleeps_at_night_is_judged_by_its_first_hours_in_the_morning() -> None:
    hours = {START - k * HOUR: stored((5, 0, 0)) for k in range(400) if k % 24 == 0 or k % 24 >= 8}
    assert {scale for tier, scale in compare(hours) if tier == "trail"} == set(SCALES)


def test_the_last_three_hours_with_rows_stand_beside_the_good_ones_before_them() -> None:
    hours = {START - k * HOUR: stored((1, 0, 0)) for k in (0, 2, 3, 5)}
    hours |= {START - k * HOUR: stored((0, 1, 0)) for k in range(6, 40)}
    found = compare(hours, {START - 7 * HOUR: np.ones(3, bool)})["range", 1]
    assert found.current.numeric[0, :3].tolist() == [3, 0, 0]
    assert found.baseline.numeric[0, :3].tolist() == [0, 33, 0], "an hour inside an episode is no good one"


def test_hours_without_a_season_leave_both_sides_and_too_many_leave_no_comparison() -> None:
    weeks = [START - timedelta(weeks=k) for k in (1, 2)]
    hours = {START: stored((90, 0, 0)), START - HOUR: stored((0, 0, 10))} | {w: stored((50, 0, 0)) for w in weeks}
    assert compare(hours)["week", 6].current.rows == 90, "a tenth of the rows has no history: it is set aside"
    hours[START - HOUR] = stored((0, 0, 40))
    assert ("week", 6) not in compare(hours)


# Flags


def test_a_flagged_column_stays_out_and_the_others_stay_in() -> None:
    week = [START - timedelta(weeks=k) for k in (1, 2, 3)]
    hours = {START: stored((30, 0, 0), 5, (1, 2))} | {w: stored((10, 20, 0), 7, (3, 4), nulls=2) for w in week}
    names = (*BINS.numeric, *BINS.categorical)
    for flagged in range(3):
        mask = np.arange(3) == flagged
        found = compare(hours, {week[0]: mask})["week", 1].baseline
        sizes = {
            "feature_a": found.numeric[0].sum(),
            "feature_b": found.numeric[1].sum(),
            "feature_c": found.categorical[0].sum(),
        }
        usual = {"feature_a": 32, "feature_b": 7, "feature_c": 7}
        ratio = {name: sizes[name] / usual[name] for name in names}
        kept = [ratio[name] for name in names if name != names[flagged]]
        assert kept[0] == pytest.approx(kept[1])
        assert ratio[names[flagged]] == pytest.approx(kept[0] * 2 / 3), "two of three weeks are left"
        assert (found.sums[:3].sum() == 0) == (flagged == 9)


def test_flags_of_other_hours_change_nothing() -> None:
    hours = {START - k * HOUR: stored((k % 3 + 1, 2, 0), 1, (1, 1)) for k in range(700)}
    flags = {START + HOUR: np.ones(3, bool), START - 2000 * HOUR: np.ones(3, bool), START - 5 * HOUR: np.zeros(3, bool)}
    with_, without = compare(hours, flags), compare(hours)
    assert with_.keys() == without.keys()
    for key, comparison in with_.items():
        np.testing.assert_array_equal(comparison.baseline.counts, without[key].baseline.counts)


# Totals and history


@given(st.lists(st.tuples(*[st.integers(0, 50)] * 3), min_size=1, max_size=6))
def test_totals_of_hours_are_the_profile_of_all_of_them(hours: list[tuple[int, int, int]]) -> None:
    total, whole = Totals(BINS), Profile.empty(BINS)
    for counts in hours:
        content = stored(counts, b=counts[0], c=(counts[1], counts[2]))
        total.add(Sparse.from_bytes(content, BINS))
        whole += Profile.from_bytes(content, BINS)
    np.testing.assert_array_equal(total.numeric, whole.numeric)
    np.testing.assert_array_equal(total.categorical, whole.categorical)
    np.testing.assert_allclose(total.values, whole.values())
    assert total.rows == whole.rows


def test_a_copy_is_independent() -> None:
    total = Totals(BINS)
    copy = total.copy()
    copy.add(Sparse.from_bytes(stored((1, 1, 1)), BINS))
    assert (total.rows, total.counts.sum()) == (0, 0)


def counting(
    hours: Mapping[datetime, bytes],
) -> tuple[list[list[datetime]], Callable[[Sequence[datetime]], Mapping[datetime, bytes]]]:
    asked: list[list[datetime]] = []

    def load(wanted: Sequence[datetime]) -> Mapping[datetime, bytes]:
        asked.append(list(wanted))
        return {hour: hours[hour] for hour in wanted if hour in hours}

    return asked, load


def test_a_comparison_asks_for_its_hours_in_one_query_and_never_again() -> None:
    asked, load = counting({START - k * HOUR: stored((1, 1, 1)) for k in range(700)})
    held = History(BINS, load)
    reference = Totals(BINS)
    comparisons(START, held, reference, {}, NEW_YORK)
    assert len(asked) == 1
    comparisons(START, held, reference, {}, NEW_YORK)
    assert len(asked) == 1
    held.put(START + HOUR, stored((2, 0, 0)))
    comparisons(START + HOUR, held, reference, {}, NEW_YORK)
    assert all(len(hours) < 100 for hours in asked[1:])
    assert START + HOUR not in {hour for hours in asked[1:] for hour in hours}


def test_every_hour_read_is_among_the_needed_ones() -> None:
    asked, load = counting({START - k * HOUR: stored((1, 1, 1)) for k in range(2000)})
    comparisons(START, History(BINS, load), Totals(BINS), {}, NEW_YORK)
    assert {hour for hours in asked for hour in hours} == set(needed_hours(START, NEW_YORK))
