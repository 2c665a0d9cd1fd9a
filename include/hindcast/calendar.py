"""The quiet calendar of a model file: holidays and planned changes, within which nothing wakes anybody.

Ranges are half-open. Plain dates are midnights on the clock of `schedule.timezone`; moments are moments of UTC.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Literal, Protocol

from hindcast.window import HOUR

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from zoneinfo import ZoneInfo

Repeat = Literal["weekly", "yearly"]
LONGEST = {"weekly": timedelta(days=7), "yearly": timedelta(days=365)}


class Entry(Protocol):
    """One entry of the calendar; `subjects` None means all."""

    @property
    def start(self) -> date:
        """First day or moment."""

    @property
    def end(self) -> date:
        """Day or moment at which it is over."""

    @property
    def reason(self) -> str:
        """What is planned."""

    @property
    def subjects(self) -> tuple[str, ...] | None:
        """Subjects of alerts that it is about."""

    @property
    def repeat(self) -> Repeat | None:
        """How often it comes again."""


def moment_of(day: date, zone: ZoneInfo) -> datetime:
    """A moment as it is, a plain date as its midnight in `zone`; both in UTC.

    Examples
    --------
    >>> from zoneinfo import ZoneInfo
    >>> moment_of(date(2026, 12, 24), ZoneInfo("Europe/Berlin")).isoformat()
    '2026-12-23T23:00:00+00:00'
    """
    if not isinstance(day, datetime):
        day = datetime.combine(day, time(), zone)
    return day.astimezone(UTC)


def occurrences(entry: Entry, zone: ZoneInfo, near: datetime) -> Iterator[tuple[datetime, datetime]]:
    """Half-open ranges of an entry that may hold a moment; never before the first."""
    if entry.repeat is None:
        yield moment_of(entry.start, zone), moment_of(entry.end, zone)
        return
    first = moment_of(entry.start, zone)
    passed = (near - first) // timedelta(days=7) if entry.repeat == "weekly" else near.year - first.year
    for k in range(max(passed - 1, 0), max(passed + 2, 1)):
        yield moment_of(_later(entry.start, entry.repeat, k), zone), moment_of(_later(entry.end, entry.repeat, k), zone)


def _later(day: date, repeat: Repeat, k: int) -> date:
    """The same day `k` weeks or years later; what would be 29 February is 1 March where there is none."""
    if repeat == "weekly":
        return day + timedelta(days=7 * k)
    try:
        return day.replace(year=day.year + k)
    except ValueError:
        return day.replace(year=day.year + k, month=3, day=1)


@dataclass(frozen=True)
class Calendar:
    """Every quiet entry of a model.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from zoneinfo import ZoneInfo
    >>> entry = SimpleNamespace(start=date(2024, 12, 24), end=date(2024, 12, 27), reason="Christmas", subjects=None,
    ...                         repeat="yearly")
    >>> calendar = Calendar((entry,), ZoneInfo("UTC"))
    >>> calendar.planned("amount", datetime(2026, 12, 26, 23, tzinfo=UTC))
    'Christmas'
    >>> calendar.planned("amount", datetime(2026, 12, 27, tzinfo=UTC))
    ''
    >>> calendar.planned("amount", datetime(2026, 12, 27, 5, tzinfo=UTC), scale=24)
    'Christmas'
    """

    entries: Sequence[Entry]
    zone: ZoneInfo
    _held: dict[datetime, tuple[Entry, ...]] = field(default_factory=dict, repr=False, compare=False)

    def within(self, start: datetime) -> tuple[Entry, ...]:
        """Entries that the hour from `start` on overlaps."""
        if not self.entries:
            return ()
        if start not in self._held:
            self._held[start] = tuple(
                entry
                for entry in self.entries
                if any(a < start + HOUR and start < b for a, b in occurrences(entry, self.zone, start))
            )
        return self._held[start]

    def planned(self, subject: str, start: datetime, scale: int = 1) -> str:
        """Why nothing about a subject wakes anybody: the reason, or nothing.

        Parameters
        ----------
        subject : str
            Of an alert: a feature, ``column=value``, or ``*``.
        start : datetime
            Of the newest hour of the window.
        scale : int
            Hours of the window: it is planned as long as it holds a planned hour.
        """
        for k in range(scale if self.entries else 0):
            for entry in self.within(start - k * HOUR):
                if entry.subjects is None or subject in entry.subjects:
                    return entry.reason
        return ""
