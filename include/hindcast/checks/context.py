"""What a finding must be read with: whether it was planned, and whether another model version had just come."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import distinct, func, select

from hindcast.results import tables
from hindcast.window import HOUR
from hindcast.window import text as time_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from hindcast.checks.run import Run

    Row = dict[str, Any]

# A release is said for a week, and compared with the week before it.
RELEASE_HOURS = 168


@dataclass(frozen=True)
class Release:
    """The served version changed.

    Attributes
    ----------
    before, after : str
        Versions with the most rows of an hour.
    at : datetime
        Start of the first hour of the new one.
    hours : sequence of datetime
        The last hours of the old one, at most `RELEASE_HOURS`.
    """

    before: str
    after: str
    at: datetime
    hours: Sequence[datetime]

    def __str__(self) -> str:
        return f"model version changed from {self.before} to {self.after} at {time_text(self.at)}"


def release(run: Run, start: datetime) -> Release | None:
    """The newest version's coming, if it came in the week before an hour; None while nothing changed.

    Versions that take turns (a canary) are no change but the first time.
    """
    table, first = tables.windows, start - 2 * RELEASE_HOURS * HOUR
    within = (table.c.window_start >= first, table.c.window_start <= start, table.c.rows > 0)
    mine = (table.c.model_name == run.model.model, table.c.model_version != "")
    if run.store.value(select(func.count(distinct(table.c.model_version))).where(*mine, *within)) < 2:
        return None  # as nearly always
    columns = ("window_start", "model_version")
    found = run.store.rows(table, *within, columns=columns, model_name=run.model.model)
    rows = [(row["window_start"], row["model_version"]) for row in found if row["model_version"]]
    if not rows:
        return None
    after = rows[-1][1]
    at = next(hour for hour, version in rows if version == after)
    earlier = [(hour, version) for hour, version in rows if hour < at]
    if not earlier or at <= start - RELEASE_HOURS * HOUR:
        return None
    before = Counter(version for _, version in earlier[-24:]).most_common(1)[0][0]
    return Release(before, after, at, [hour for hour, version in earlier if version == before][-RELEASE_HOURS:])


def stamped(run: Run, findings: Sequence[Row]) -> list[Row]:
    """Findings with the reason for which they were `planned`, if they were, and with what was just released."""
    found, releases = [], {}
    for row in findings:
        start = row["window_start"]
        planned = run.model.calendar.planned(row["subject"], start, row["scale_hours"])
        if start not in releases:
            releases[start] = release(run, start)
        said = [row.get("reason"), str(releases[start]) if releases[start] else None]
        found.append({**row, "planned": planned or None, "reason": "; ".join(part for part in said if part)})
    return found
