"""The quiet calendar: within it nothing wakes anybody, and what it holds is no baseline."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests import worlds
from tests.test_acceptance import TWO, higher, lives, replayed, written
from tests.worlds import HOUR, at, cli, cli_json, rows_of

from hindcast import config
from hindcast.calendar import Calendar, occurrences
from hindcast.checks.levels import left_out
from hindcast.replay import replay
from hindcast.spread import Memory

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa

DAY = timedelta(days=1)
UTC_ZONE, BERLIN = ZoneInfo("UTC"), ZoneInfo("Europe/Berlin")
HISTORY = 176


def entry(start: date, end: date, **more: Any) -> config.Quiet:
    return config.Quiet.model_validate({"from": start, "to": end, "reason": "holiday", **more})


# --- the calendar itself


@given(st.integers(0, 10**9), st.integers(1, 500), st.integers(-800, 800))
def test_an_hour_is_planned_if_it_overlaps_the_range_and_only_then(seconds: int, length: int, offset: int) -> None:
    first = at(0) + timedelta(seconds=seconds)
    last = first + length * HOUR
    hour = first.replace(minute=0, second=0, microsecond=0) + offset * HOUR
    found = Calendar((entry(first, last),), UTC_ZONE).planned("a", hour)
    assert bool(found) == (hour < last and first < hour + HOUR)


@given(st.dates(date(2020, 1, 1), date(2024, 12, 31)), st.integers(1, 20), st.integers(0, 9), st.integers(-30, 30))
def test_what_repeats_each_year_covers_the_same_days_of_every_later_year(
    start: date, days: int, years: int, offset: int
) -> None:
    entries = (entry(start, start + days * DAY, repeat="yearly"),)
    try:
        begins = start.replace(year=start.year + years)
    except ValueError:
        begins = date(start.year + years, 3, 1)
    wanted = {(start + k * DAY).strftime("%m-%d") for k in range(days)}
    day = begins + offset * DAY
    planned = bool(Calendar(entries, UTC_ZONE).within(datetime(day.year, day.month, day.day, 12, tzinfo=UTC)))
    assert planned == (day.strftime("%m-%d") in wanted and day >= start)


def test_what_repeats_each_week_follows_the_clock_on_the_wall() -> None:
    """Clocks went forward in Berlin on 29 March 2026."""
    sunday = entry(date(2026, 3, 22), date(2026, 3, 23), repeat="weekly")
    near = datetime(2026, 3, 29, 12, tzinfo=UTC)
    assert (datetime(2026, 3, 28, 23, tzinfo=UTC), datetime(2026, 3, 29, 22, tzinfo=UTC)) in list(
        occurrences(sunday, BERLIN, near)
    )
    calendar = Calendar((sunday,), BERLIN)
    hours = [datetime(2026, 3, 28, tzinfo=UTC) + k * HOUR for k in range(72)]
    assert sum(bool(calendar.planned("a", hour)) for hour in hours) == 23
    assert not calendar.planned("a", datetime(2026, 3, 15, 12, tzinfo=UTC)), "nothing before the first"


def test_the_twenty_ninth_of_february_is_nothing_in_other_years() -> None:
    calendar = Calendar((entry(date(2024, 2, 29), date(2024, 3, 1), repeat="yearly"),), UTC_ZONE)
    assert calendar.planned("a", datetime(2028, 2, 29, 5, tzinfo=UTC))
    days = [datetime(2025, 2, 27, 5, tzinfo=UTC) + k * DAY for k in range(5)]
    assert not any(calendar.planned("a", day) for day in days)


def test_a_longer_window_is_planned_as_long_as_it_holds_a_planned_hour_and_only_for_its_subjects() -> None:
    calendar = Calendar((entry(at(10), at(12), subjects=["a"]),), UTC_ZONE)
    planned = [h for h in range(48) if calendar.planned("a", at(h), 6)]
    assert planned == list(range(10, 17))
    assert not any(calendar.planned("b", at(h), 24) for h in range(48))


def test_planned_hours_leave_the_baselines_of_their_subjects() -> None:
    calendar = Calendar((entry(at(3), at(5)), entry(at(6), at(7), subjects=["a"])), UTC_ZONE)
    found = left_out([at(h) for h in range(9)], {}, {}, calendar, ["a", "b"])
    assert found == {at(3): {"a", "b"}, at(4): {"a", "b"}, at(6): {"a"}}


def test_what_is_held_stands_still() -> None:
    before = Memory.blank(1, 1, 3)
    before.open_hours[:], before.quiet[:] = [5, 0, 5], [2, 9, 5]
    before.peak[0, 0] = [0.3, np.nan, 0.4]
    now = Memory.blank(1, 1, 3)
    now.turn(before, np.array([True, True, False]), held=np.array([True, True, False]))
    assert (now.open_hours.tolist(), now.quiet.tolist()) == ([5, 0, 0], [2, 9, 6])
    assert now.peak[0, 0, 0] == 0.3


# --- hour by hour


def nulls(table: pa.Table) -> pa.Table:
    """A third of the carriers go missing, and amounts rise."""
    at_ = table.schema.get_field_index("feature_carrier")
    column = pc.if_else(pc.equal(table["feature_carrier"], "AA"), None, table["feature_carrier"])
    return higher(table.set_column(at_, "feature_carrier", column))


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> worlds.World:
    """A quiet week and a bit."""
    world = worlds.write(tmp_path_factory.mktemp("quiet") / "w", labels="none", **TWO)
    written(world, 0, HISTORY)
    replayed(world, 0, HISTORY)
    return world


@pytest.fixture
def copy(quiet: worlds.World, tmp_path: Path) -> worlds.World:
    return worlds.copied(quiet, tmp_path / "w")


def planned(world: worlds.World, first: int, end: int, **more: Any) -> None:
    keys = {"from": at(first), "to": at(end), "reason": "spring sale", **more}
    worlds.model_file(world, labels=False, **TWO, quiet=[keys])


def test_a_planned_day_wakes_nobody_not_even_when_it_is_over(copy: worlds.World) -> None:
    first, end = HISTORY + 4, HISTORY + 28
    planned(copy, first, end)
    written(copy, HISTORY, first)
    written(copy, first, end, nulls)
    written(copy, end, end + 40)
    replayed(copy, HISTORY, end + 40)
    assert lives(copy) == []
    found = rows_of(copy.results, "findings")
    assert {row["planned"] for row in found} == {"spring sale"}
    assert {row["subject"] for row in found} == {"amount", "carrier"}
    assert any(row["window_start"] >= f"{at(end):%Y-%m-%d %H}" for row in found), "a day still holds them"
    hourly = rows_of(copy.results, "drift", window_start=at(first + 2), feature="amount", baseline="seasonal")
    assert all(row["reason"].startswith("planned: spring sale; ") and row["drifted"] for row in hourly)
    assert rows_of(copy.results, "episodes") == []


def test_the_status_and_the_report_say_what_is_planned(copy: worlds.World, tmp_path: Path) -> None:
    planned(copy, HISTORY, HISTORY + 24, subjects=["amount"])
    written(copy, HISTORY, HISTORY + 3, higher)
    replayed(copy, HISTORY, HISTORY + 3)
    assert "planned: spring sale; nothing about amount wakes anybody" in cli(copy, "status", "alpha").stdout
    (found,) = cli_json(copy, "status", "alpha")
    assert found["planned"] == [{"reason": "spring sale", "subjects": ["amount"]}]
    page = tmp_path / "page.html"
    assert cli(copy, "report", "alpha", "--window", worlds.text(HISTORY + 2), "-o", str(page)).exit_code == 0
    assert "Planned, so that it wakes nobody: spring sale (amount)." in page.read_text()
    facts = worlds.check_window(copy, HISTORY + 2, "--only", "drift")["drift"]
    assert (facts["drifted"], facts["planned"]) == ([], ["amount"])


def test_other_subjects_still_wake_somebody(copy: worlds.World) -> None:
    planned(copy, HISTORY, HISTORY + 24, subjects=["carrier"])
    written(copy, HISTORY, HISTORY + 5, nulls)
    replayed(copy, HISTORY, HISTORY + 5)
    assert [subject for subject, _, _ in lives(copy)] == ["amount"]


def test_an_alert_that_is_open_stays_open_through_it(copy: worlds.World) -> None:
    """It is quiet only after the planned hours that nobody can tell its end in them."""
    first, end = HISTORY + 5, HISTORY + 15
    planned(copy, first, end)
    written(copy, HISTORY, first, higher)
    written(copy, first, end + 60)
    replayed(copy, HISTORY, end)
    ((subject, onset, resolved),) = lives(copy)
    assert (subject, resolved) == ("amount", None)
    replayed(copy, end, end + 60)
    ((_, again, resolved),) = lives(copy)
    assert again == onset
    assert resolved is not None
    assert resolved >= end + 3


def test_losses_of_performance_and_broken_limits_are_planned_too(tmp_path: Path) -> None:
    world = worlds.write(tmp_path / "w", hours=40, rows=200, labels="inline")
    worlds.write_hours(world, range(40, 44), rows=200, labels="inline", accuracy=0.4, fault=_without_stops)
    worlds.write_hours(world, range(44, 50), rows=200, labels="inline")
    worlds.model_file(world, labels=False, quiet=[{"from": at(40), "to": at(44), "reason": "migration"}])
    only = ("pull", "quality", "performance", "triage")
    replay("alpha", at(0), at(50), only=only, config=str(world.models), results=world.results)
    found = rows_of(world.results, "findings")
    assert {row["kind"] for row in found if row["planned"] == "migration"} == {"performance", "quality"}
    assert rows_of(world.results, "alerts") == []
    assert json.loads(rows_of(world.results, "audit", action="triage")[-1]["content"])["firing"] == 0


def _without_stops(table: pa.Table) -> pa.Table:
    return table.drop_columns(["feature_stops"])


# --- releases


def second(table: pa.Table) -> pa.Table:
    """What model version 2 logs."""
    at_ = table.schema.get_field_index("model_version")
    return higher(table.set_column(at_, "model_version", pc.if_else(pc.is_valid(table["model_version"]), "2", "2")))


def test_a_release_is_said_where_something_changed_with_it_and_both_versions_are_shown(copy: worlds.World) -> None:
    written(copy, HISTORY, HISTORY + 4, second)
    replayed(copy, HISTORY, HISTORY + 4)
    (alert,) = rows_of(copy.results, "alerts")
    said = f"model version changed from 1 to 2 at {at(HISTORY):%Y-%m-%dT%H:%M}Z"
    assert said in json.loads(alert["details"])["onset"]
    rows = rows_of(copy.results, "drift", window_start=at(HISTORY + 2), feature="amount", metric="ks_statistic")
    by_baseline = {row["baseline"]: row for row in rows}
    assert set(by_baseline) == {"reference", "seasonal", "previous_version"}, "the new one starts from the old one's"
    assert {row["model_version"] for row in rows} == {"2"}
    shown = by_baseline["previous_version"]
    assert (shown["drifted"], shown["n_baseline"]) == (1, 168 * 120)
    assert f"the last 168 hours of model version 1; {said}" in shown["reason"]
    assert not rows_of(copy.results, "drift", window_start=at(HISTORY - 1), baseline="previous_version")
