"""What a DAG run is about: hours, a day, or a period, from the moments that Airflow gives it and from its trigger form.

Every moment comes from the DAG run, none from a clock, so that a retry, a cleared task and a run repeated a year later
are about the same hours. Airflow accepts any value in a run's configuration: everything is checked here.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Protocol

from hindcast.errors import UsageError
from hindcast.window import HOUR, Window, floor_hour, hours, parse_time, text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SELECTABLE = ("quality", "drift", "performance", "importance")
HOURLY_KEYS = ("window_start", "window_end", "as_of", "only")
INCIDENT_KEYS = ("model", "from", "to")
MAX_HOURS = 7 * 24
DAY = timedelta(days=1)


class RunTimes(Protocol):
    """What Airflow knows about the time of a DAG run.

    `run_after` is when it was due, or triggered; a run without logical date has neither logical date nor data interval.
    """

    run_type: str
    run_after: datetime
    logical_date: datetime | None
    data_interval_start: datetime | None
    data_interval_end: datetime | None
    partition_date: datetime | None


@dataclass(frozen=True)
class Request:
    """What a run of the hourly DAG is asked to do.

    Attributes
    ----------
    windows : tuple of Window
        Hours to check, one after the other; at least one.
    as_of : datetime or None
        Moment from which the labels are seen; None lets `hindcast.checks.Run` limit `now`.
    now : datetime
        When the run was due.
    checks : tuple of str
        Which of `SELECTABLE` to run.
    publish : bool
        Whether metrics go to the Pushgateway: only for a run about the latest hour.
    """

    windows: tuple[Window, ...]
    as_of: datetime | None
    now: datetime
    checks: tuple[str, ...]
    publish: bool


def read_request(times: RunTimes, params: Mapping[str, object], settle_minutes: int = 0) -> Request:
    """Turn a DAG run and its trigger form into windows.

    The first of these that the run has decides: `window_start` (and `window_end`, exclusive) of the form; the partition
    date; the data interval, floored to hours; the hour before the logical date or, without one, before the run was due.
    A settle time of an hour or more moves the data interval back by its whole hours.

    Parameters
    ----------
    times : RunTimes
        The DAG run.
    params : mapping
        The trigger form: `window_start`, `window_end`, `as_of` (ISO texts or null), `only` (list of checks or null).
    settle_minutes : int
        `schedule.settle_minutes` of the model, in minutes.

    Raises
    ------
    UsageError
        A key is unknown, a value makes no sense, or a window is not over yet.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> due = parse_time("2013-04-16T16:10")
    >>> times = SimpleNamespace(run_type="scheduled", run_after=due, logical_date=due - HOUR, partition_date=None,
    ...                         data_interval_start=due - HOUR, data_interval_end=due)
    >>> [str(window) for window in read_request(times, {}, settle_minutes=10).windows]
    ['2013-04-16T15:00Z']
    """
    _refuse_unknown(params, HOURLY_KEYS)
    now = _utc(times.run_after)
    start, end, as_of = (_moment(params, key) for key in ("window_start", "window_end", "as_of"))
    windows = tuple(_explicit_windows(start, end) if start or end else _implied_windows(times, now, settle_minutes))
    if windows[-1].end > now:
        message = f"the window {windows[-1]} is not over: the run is of {text(now)}"
        raise UsageError(message)
    if as_of and as_of < windows[-1].end:
        message = f"as_of {text(as_of)} lies before the end of the window {windows[-1]}; nothing could be known of it"
        raise UsageError(message)
    latest = start is None and as_of is None and str(getattr(times.run_type, "value", times.run_type)) != "backfill"
    return Request(windows, as_of, now, _selected(params.get("only")), publish=latest)


def read_day(times: RunTimes, params: Mapping[str, object], settle_minutes: int = 0) -> datetime:
    """Start of the UTC day that a run of the daily DAG is about.

    `day` of the trigger form, else the partition date, else the last day whose every hour had settled one hour before
    the run was due.

    Raises
    ------
    UsageError
        A key is unknown, `day` is no date, or the day is not over.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> times = SimpleNamespace(run_type="manual", run_after=parse_time("2013-04-17T01:10"), logical_date=None,
    ...                         partition_date=None, data_interval_start=None, data_interval_end=None)
    >>> text(read_day(times, {"day": None}, settle_minutes=10))
    '2013-04-16T00:00Z'
    """
    _refuse_unknown(params, ("day",))
    now = _utc(times.run_after)
    due = _utc(times.data_interval_end or times.logical_date or now)
    asked = _moment(params, "day") or (_utc(times.partition_date) if times.partition_date else None)
    day = _floor_day(asked) if asked else _floor_day(due - timedelta(minutes=settle_minutes) - HOUR) - DAY
    if day + DAY > now:
        message = f"the day {day:%Y-%m-%d} is not over: the run is of {text(now)}"
        raise UsageError(message)
    return day


def read_now(times: RunTimes) -> datetime:
    """When a run was due, or triggered."""
    return _utc(times.run_after)


def read_period(times: RunTimes, params: Mapping[str, object]) -> tuple[datetime, datetime]:
    """Hours ``[from, to)`` of the trigger form of an incident; by default the day before the last whole hour.

    Raises
    ------
    UsageError
        A key is unknown, a moment is none, or there is no whole hour in between.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> times = SimpleNamespace(run_after=parse_time("2013-04-17T09:34"))
    >>> [text(moment) for moment in read_period(times, {"model": "m", "from": None, "to": None})]
    ['2013-04-16T09:00Z', '2013-04-17T09:00Z']
    """
    _refuse_unknown(params, INCIDENT_KEYS)
    end = floor_hour(_moment(params, "to") or _utc(times.run_after))
    start = floor_hour(_moment(params, "from") or end - DAY)
    if start >= end:
        message = f"no whole hour lies between from {text(start)} and to {text(end)} (exclusive)"
        raise UsageError(message)
    return start, end


def _refuse_unknown(params: Mapping[str, object], allowed: Sequence[str]) -> None:
    """Airflow accepts any key; a misspelt one would silently check another window."""
    unknown = sorted(set(params) - set(allowed))
    if unknown:
        message = f"unknown key {unknown[0]!r} in the run's configuration; allowed: {', '.join(allowed)}"
        raise UsageError(message)


def _utc(moment: datetime) -> datetime:
    """Airflow's moments are pendulum's, whose differences are no timedeltas."""
    return parse_time(moment.isoformat())


def _floor_day(moment: datetime) -> datetime:
    return floor_hour(moment).replace(hour=0)


def _moment(params: Mapping[str, object], key: str) -> datetime | None:
    value = params.get(key)
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        message = f"{key}: got {value!r}; write it as text such as 2013-04-16T15:00Z"
        raise UsageError(message)
    try:
        return parse_time(value)
    except UsageError as error:
        message = f"{key}: {error}"
        raise UsageError(message) from None


def _explicit_windows(start: datetime | None, end: datetime | None) -> list[Window]:
    if start is None:
        message = "window_end is given without window_start"
        raise UsageError(message)
    windows = list(hours(start, end)) if end else [Window(floor_hour(start))]
    if not windows:
        message = f"no whole hour lies between window_start {text(start)} and window_end (exclusive)"
        raise UsageError(message)
    if len(windows) > MAX_HOURS:
        message = f"{len(windows)} hours are too many for one run (at most {MAX_HOURS}); use `hindcast replay`"
        raise UsageError(message)
    return windows


def _implied_windows(times: RunTimes, now: datetime, settle_minutes: int) -> list[Window]:
    if times.partition_date:
        return [Window(floor_hour(_utc(times.partition_date)))]
    start, end = times.data_interval_start, times.data_interval_end
    late = timedelta(hours=settle_minutes // 60)
    windows = list(hours(_utc(start) - late, _utc(end) - late)) if start and end else []
    due = _utc(times.logical_date) if times.logical_date else now
    return windows or [Window(floor_hour(due)) - 1]


def _selected(only: object) -> tuple[str, ...]:
    if only is None or only == []:
        return SELECTABLE
    if not isinstance(only, list) or not set(only) <= set(SELECTABLE):
        message = f"only: got {only!r}; allowed: a list of {', '.join(SELECTABLE)}"
        raise UsageError(message)
    return tuple(check for check in SELECTABLE if check in only)
