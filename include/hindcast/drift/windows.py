"""Baselines that a model file may name beside those that decide: which stored hours each of them is the sum of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hindcast.baselines import PREVIOUS_WINDOW, same_hour_weeks, trailing_days
from hindcast.drift.baseline import same_local_hour
from hindcast.window import HOUR

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from zoneinfo import ZoneInfo

# The window before is the last one with rows of so many hours.
_PREVIOUS_WITHIN = 24


@dataclass(frozen=True)
class Hours:
    """Hours with rows that make a baseline, newest first, and what they are called."""

    hours: Sequence[datetime]
    says: str


def candidates(name: str, start: datetime, zone: ZoneInfo) -> list[datetime]:
    """Every hour that a baseline of this name may be made of, newest first; none of those that are no sum of hours.

    Examples
    --------
    >>> from datetime import UTC, datetime
    >>> from zoneinfo import ZoneInfo
    >>> noon = datetime(2013, 4, 16, 12, tzinfo=UTC)
    >>> len(candidates("trailing_7d", noon, ZoneInfo("UTC"))), len(candidates("seasonal", noon, ZoneInfo("UTC")))
    (168, 0)
    >>> [f"{hour:%d.%m. %H}" for hour in candidates("same_hour_2w", noon, ZoneInfo("UTC"))]
    ['09.04. 12', '02.04. 12', '26.03. 12', '19.03. 12']
    """
    if name == PREVIOUS_WINDOW:
        return [start - k * HOUR for k in range(1, _PREVIOUS_WITHIN + 1)]
    days, weeks = trailing_days(name) or 0, same_hour_weeks(name) or 0
    # Of the hours of twice as many weeks the latest ones with rows count: some may have none.
    return [
        *(start - k * HOUR for k in range(1, 24 * days + 1)),
        *(same_local_hour(start, 7 * k, zone) for k in range(1, 2 * weeks + 1)),
    ]


def hours_of(name: str, start: datetime, rows: Mapping[datetime, int], zone: ZoneInfo) -> Hours:
    """Hours of a baseline, of its `candidates`; `rows` knows how many rows each of them has."""
    filled = [hour for hour in candidates(name, start, zone) if rows.get(hour)]
    if name == PREVIOUS_WINDOW:
        return Hours(filled[:1], "the window before")
    days, weeks = trailing_days(name), same_hour_weeks(name)
    if days:
        return Hours(filled, f"the {len(filled)} hours with rows of the last {days} days")
    kept = filled[: weeks or 0]
    return Hours(kept, f"the same hour of {len(kept)} earlier weeks")
