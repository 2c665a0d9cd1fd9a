"""Windows: half-open hours of UTC, however they are written."""

from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hindcast.errors import UsageError
from hindcast.window import HOUR, Window, floor_hour, hours, parse_time, text

first, last = datetime(1, 1, 2), datetime(9999, 12, 30)  # noqa: DTZ001 - hypothesis adds the zone
moments = st.datetimes(first, last, timezones=st.just(UTC))
offsets = st.integers(-23 * 60, 23 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@pytest.mark.parametrize(
    ("written", "hour"),
    [
        ("2013-04-16T15", 15), ("2013-04-16 15:59:59.999999", 15), ("2013-04-16T15:00Z", 15), ("20130416T150000Z", 15),
        ("2013-04-16T11:30:00-04:00", 15), ("2013-04-16T20:45+05:30", 15), ("2013-04-16", 0), ("  2013-04-16T15\n", 15),
    ],
)  # fmt: skip
def test_a_window_is_the_hour_that_a_moment_lies_in(written: str, hour: int) -> None:
    window = Window.parse(written)
    assert window == Window(datetime(2013, 4, 16, hour, tzinfo=UTC))
    assert window.end - window.start == HOUR


@pytest.mark.parametrize(
    "written", ["", "yesterday", "2013-04-31", "2013-04-16T25", "15:00", "1366124400", "0001-01-01T00:00+14:00"]
)
def test_what_is_no_time_is_refused_with_an_example(written: str) -> None:
    with pytest.raises(UsageError, match="is not a time; write it as 2013-04-16T15"):
        parse_time(written)


@pytest.mark.parametrize(
    "start",
    [
        datetime(2013, 4, 16, 15),  # noqa: DTZ001 - the fault under test
        datetime(2013, 4, 16, 15, 30, tzinfo=UTC),
        datetime(2013, 4, 16, 15, 0, 0, 1, tzinfo=UTC),
        datetime(2013, 4, 16, 15, tzinfo=ZoneInfo("Asia/Kolkata")),
    ],
)
def test_a_window_starts_on_the_hour_in_utc(start: datetime) -> None:
    with pytest.raises(UsageError, match="a window starts on the hour, in UTC"):
        Window(start)


def test_a_start_in_another_zone_is_the_same_window_and_prints_utc() -> None:
    window = Window(datetime(2013, 4, 16, 20, 30, tzinfo=ZoneInfo("Asia/Kolkata")))
    assert window == Window.parse("2013-04-16T15")
    assert f"{window.start:%Y-%m-%d %H}" == "2013-04-16 15"


@pytest.mark.parametrize(("day", "zone"), [("2013-03-10", "America/New_York"), ("2013-11-03", "America/New_York")])
def test_a_local_day_of_a_clock_change_has_as_many_windows_as_hours(day: str, zone: str) -> None:
    start = datetime.fromisoformat(day).replace(tzinfo=ZoneInfo(zone))
    found = list(hours(start, start + timedelta(days=1)))
    assert len(found) == {"2013-03-10": 23, "2013-11-03": 25}[day]
    assert {(b.start - a.start) for a, b in pairwise(found)} == {HOUR}


def test_a_range_is_half_open() -> None:
    start, end = parse_time("2013-04-16T15"), parse_time("2013-04-16T17")
    assert [str(w) for w in hours(start, end)] == ["2013-04-16T15:00Z", "2013-04-16T16:00Z"]
    assert list(hours(start, start)) == list(hours(end, start)) == []


@given(moments, offsets)
def test_the_window_of_a_moment_holds_it_in_every_zone(moment: datetime, zone: timezone) -> None:
    window = Window(floor_hour(moment.astimezone(zone)))
    assert window.start <= moment < window.end
    assert Window.parse(moment.astimezone(zone).isoformat()) == window


@given(moments)
def test_what_is_written_can_be_read(moment: datetime) -> None:
    window = Window(floor_hour(moment))
    assert Window.parse(str(window)) == window
    assert parse_time(text(moment)) == moment.replace(second=0, microsecond=0)


@given(moments, st.integers(0, 50), st.integers(0, 50))
def test_ranges_that_meet_are_one_range(moment: datetime, a: int, b: int) -> None:
    start = floor_hour(moment)
    if start.year > 9990:
        return
    whole = list(hours(start, start + (a + b) * HOUR))
    assert whole == [*hours(start, start + a * HOUR), *hours(start + a * HOUR, start + (a + b) * HOUR)]
    assert len(whole) == a + b


@given(moments, st.integers(0, 1000))
def test_going_back_hours_undoes_going_forward(moment: datetime, n: int) -> None:
    window = Window(floor_hour(moment.replace(year=2013)))
    assert Window(window.start + n * HOUR) - n == window
