"""Windows: half-open hours of UTC."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from hindcast.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

HOUR = timedelta(hours=1)


def parse_time(text: str) -> datetime:
    """Read an ISO 8601 moment; without a zone it is UTC.

    Raises
    ------
    UsageError
        The text is no ISO 8601 date or time.

    Examples
    --------
    >>> parse_time("2013-04-16T15")
    datetime.datetime(2013, 4, 16, 15, 0, tzinfo=datetime.timezone.utc)
    >>> parse_time("2013-04-16T11:30:00-04:00")
    datetime.datetime(2013, 4, 16, 15, 30, tzinfo=datetime.timezone.utc)
    """
    try:
        moment = datetime.fromisoformat(text.strip())
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        message = f"{text!r} is not a time; write it as 2013-04-16T15 or 2013-04-16T15:00:00Z"
        raise UsageError(message) from None


def floor_hour(moment: datetime) -> datetime:
    """Start of the UTC hour that `moment` lies in; the hours of some zones begin at half past."""
    utc = moment if moment.tzinfo is None else moment.astimezone(UTC)
    return utc.replace(minute=0, second=0, microsecond=0)


def text(moment: datetime) -> str:
    """Write a moment as people read it, zone included.

    Examples
    --------
    >>> text(datetime(2013, 4, 16, 15, tzinfo=UTC))
    '2013-04-16T15:00Z'
    """
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="minutes") + "Z"


@dataclass(frozen=True, order=True)
class Window:
    """One hour, ``start <= timestamp < end``, in UTC.

    Examples
    --------
    >>> window = Window.parse("2013-04-16T15")
    >>> str(window), text(window.end)
    ('2013-04-16T15:00Z', '2013-04-16T16:00Z')
    """

    start: datetime

    def __post_init__(self) -> None:
        if self.start.tzinfo is None or self.start != floor_hour(self.start):
            message = f"a window starts on the hour, in UTC; got {self.start.isoformat()}"
            raise UsageError(message)
        # Whoever formats the start must find UTC in it.
        object.__setattr__(self, "start", self.start.astimezone(UTC))

    @classmethod
    def parse(cls, value: str) -> Window:
        """Read the hour that a moment lies in."""
        return cls(floor_hour(parse_time(value)))

    @property
    def end(self) -> datetime:
        """First moment after the window."""
        return self.start + HOUR

    def __sub__(self, hours: int) -> Window:
        return Window(self.start - hours * HOUR)

    def __str__(self) -> str:
        return text(self.start)


def hours(start: datetime, end: datetime) -> Iterator[Window]:
    """Every window that starts in ``[start, end)``; both are floored to the hour."""
    moment = floor_hour(start)
    while moment < floor_hour(end):
        yield Window(moment)
        moment += HOUR
