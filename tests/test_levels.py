"""Baselines without some hours of some columns: every column keeps the hour mix of the window, or is not compared."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from hindcast.drift.baseline import Comparison, History, Totals, comparisons
from hindcast.profile.bins import Bins
from hindcast.profile.profile import Profile
from hindcast.window import HOUR

ROWS, NAMES = 120, ("feature_a", "feature_b")
BINS = Bins(NAMES, (np.arange(0.5, 23.5),) * 2, (), ())
START = datetime(2026, 1, 5, tzinfo=UTC)
WEEKS = 4
LAST = START + (WEEKS * 7 * 24 + 23) * HOUR
Flags = dict[datetime, np.ndarray]


def hour_of_day(at: datetime) -> bytes:
    """Every row of an hour has the hour of the day as its value."""
    profile = Profile.empty(BINS)
    profile.rows = ROWS
    profile.numeric[:, at.hour] = ROWS
    return profile.to_bytes()


STORED = {START + k * HOUR: hour_of_day(START + k * HOUR) for k in range((LAST - START) // HOUR + 1)}


def found(flags: Flags) -> dict[tuple[str, int], Comparison]:
    history = History(BINS, lambda hours: {hour: STORED[hour] for hour in hours if hour in STORED})
    compared = comparisons(LAST, history, Totals(BINS), flags, ZoneInfo("UTC"))
    return {(c.tier, c.scale): c for c in compared}


def without_a(*days_and_hours: tuple[int, range]) -> Flags:
    """The first column is left out in some hours of days so many before the last."""
    midnight = LAST.replace(hour=0)
    return {
        midnight + (-24 * days + hour) * HOUR: np.array([True, False])
        for days, hours in days_and_hours
        for hour in hours
    }


@pytest.mark.parametrize("tier", ["week", "day"])
def test_half_a_day_left_out_changes_no_columns_mix_and_costs_it_rows(tier: str) -> None:
    step = 7 if tier == "week" else 1
    comparison = found(without_a((step, range(12)), (2 * step, range(12))))[tier, 24]
    a, b = comparison.baseline.numeric[:, :24]
    assert a / a.sum() == pytest.approx(np.full(24, 1 / 24))
    assert b / b.sum() == pytest.approx(np.full(24, 1 / 24))
    assert 0.5 * b.sum() < a.sum() < 0.95 * b.sum(), "of as many rows as are really behind it"
    assert comparison.current.numeric[0, :24].tolist() == [ROWS] * 24


def test_a_column_with_too_few_hours_left_is_not_compared_with_that_tier() -> None:
    weeks = found(without_a((7, range(5, 6)), (14, range(5, 6)), (21, range(5, 6))))
    assert weeks["week", 24].baseline.numeric[0].sum() == 0
    assert weeks["week", 24].baseline.numeric[1].sum() > 0
    assert weeks["week", 1].baseline.numeric[0].sum() > 0, "that hour of the day is not in it"
    everything = {hour: np.array([True, False]) for hour in STORED if hour < LAST - 10 * HOUR}
    trail = found(everything)["trail", 1].baseline
    assert (trail.numeric[0].sum(), trail.numeric[1].sum()) == (0, 168 * ROWS)


def test_with_nothing_left_out_nothing_changes() -> None:
    for key, comparison in found({}).items():
        if key[0] != "reference":
            a, b = comparison.baseline.numeric[:, :24]
            assert np.array_equal(a, b)
