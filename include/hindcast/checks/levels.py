"""Which past hours a baseline may hold: not inside an episode, not planned, and of the level that was accepted.

An acceptance is a fact with a moment of the data: windows from that moment on take the hours since the onset as usual
and leave those before it out; windows before it know nothing of it, whenever they are judged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hindcast.window import HOUR

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from datetime import datetime

    from hindcast.calendar import Calendar

    Row = dict[str, Any]


def accepted(acceptances: Iterable[Row], kinds: Collection[str], start: datetime) -> dict[str, Row]:
    """Subject -> the newest acceptance that a window starting at `start` knows of."""
    known = [row for row in acceptances if row["kind"] in kinds and row["accepted_at"] <= start]
    return {row["subject"]: row for row in sorted(known, key=lambda row: row["accepted_at"])}


def just_accepted(known: Mapping[str, Row], last: datetime | None) -> set[str]:
    """Subjects whose acceptance the hour `last`, the newest that was judged before, did not know of."""
    return {subject for subject, row in known.items() if last is None or row["accepted_at"] > last}


def left_out(
    hours: Iterable[datetime],
    inside: Mapping[datetime, Collection[str]],
    known: Mapping[str, Row],
    calendar: Calendar,
    subjects: Sequence[str],
) -> dict[datetime, frozenset[str]]:
    """Subjects that each hour says nothing usual about; hours without any are not there.

    Parameters
    ----------
    hours : iterable of datetime
        Of the past.
    inside : mapping
        Hour -> subjects that were inside an episode then.
    known : mapping
        Subject -> its newest acceptance.
    calendar : Calendar
    subjects : sequence of str
        All of them: what a planned hour without subjects is about.

    Examples
    --------
    >>> from datetime import UTC, datetime
    >>> from zoneinfo import ZoneInfo
    >>> from hindcast.calendar import Calendar
    >>> hours = [datetime(2026, 3, 2, h, tzinfo=UTC) for h in range(6)]
    >>> known = {"a": {"since": hours[2], "accepted_at": hours[4]}}
    >>> found = left_out(hours, {h: ["a", "b"] for h in hours[2:]}, known, Calendar((), ZoneInfo("UTC")), ["a", "b"])
    >>> [sorted(found.get(hour, ())) for hour in hours]
    [['a'], ['a'], ['b'], ['b'], ['a', 'b'], ['a', 'b']]
    """
    if not known and not calendar.entries:
        return {hour: frozenset(inside[hour]) for hour in hours if inside.get(hour)}
    found: dict[datetime, frozenset[str]] = {}
    for hour in hours:
        out = {s for s in inside.get(hour, ()) if s not in known or hour >= known[s]["accepted_at"]}
        out |= {subject for subject, row in known.items() if hour < row["since"]}
        for entry in calendar.within(hour):
            out |= set(subjects if entry.subjects is None else entry.subjects)
        if out:
            found[hour] = frozenset(out)
    return found


def hours_before(start: datetime, count: int) -> list[datetime]:
    """The `count` hours before a window, newest first."""
    return [start - k * HOUR for k in range(1, count + 1)]
