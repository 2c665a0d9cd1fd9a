"""The page in one sentence: what fires, else what could not be judged, else that nothing fires.

Silence is never taken for health: a check that has not run, that failed, or that had too little data is a gap, and a
gap is said before calm is.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from hindcast.report.reading import CHECKS, deciding_drift, expected_checks, primary_metric
from hindcast.report.words import because, counted, duration, percent, plain, tally, title
from hindcast.window import HOUR

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hindcast.config import ModelFile
    from hindcast.report.reading import Period, Read
    from hindcast.results.sql import Row

# Statuses that say something about the data; the others say that nothing could be said.
JUDGED = frozenset({"ok", "failed", "missing_column", "all_null", "type_changed", "new_column", "constant"})


@dataclass(frozen=True)
class Verdict:
    """What the page says first; `gaps` are what could not be judged, and why."""

    level: Literal["alert", "unknown", "quiet"]
    sentence: str
    gaps: tuple[str, ...]


def verdict(firing: Sequence[Row], gaps: Sequence[str], judged: str) -> Verdict:
    """Say what matters most.

    Parameters
    ----------
    firing
        Alerts that fire at the end of the period (see `shown_alerts`).
    gaps
        What could not be judged (see `gaps`).
    judged
        What was judged, in words.

    Examples
    --------
    >>> verdict([], [], "quality, drift").sentence
    'Nothing firing; judged: quality, drift.'
    >>> verdict([], ["drift has not run"], "quality").sentence
    'Cannot judge: drift has not run. No alert is firing, but that is not a sign of health.'
    """
    if firing:
        return Verdict("alert", _worst_of(firing), tuple(gaps))
    if gaps:
        more = f" (and {counted(len(gaps) - 1, 'more gap')}, below)" if len(gaps) > 1 else ""
        calm = "No alert is firing, but that is not a sign of health."
        return Verdict("unknown", f"Cannot judge: {gaps[0]}{more}. {calm}", tuple(gaps))
    return Verdict("quiet", f"Nothing firing; judged: {judged}.", ())


def _worst_of(firing: Sequence[Row]) -> str:
    worst = min(firing, key=lambda alert: (alert["severity"] != "critical", -abs(alert["change_percent"] or 0)))
    critical = sum(alert["severity"] == "critical" for alert in firing)
    grade = f" ({critical} critical)" if critical else ""
    change = "" if worst["change_percent"] is None else f" {percent(worst['change_percent'])}"
    where = "" if worst["subject"] in {"*", worst["metric"]} else f" of {plain(worst['subject'], limit=60)}"
    said = f"{title(worst['metric'])}{change}{where}, for {duration(worst['lasted'])}"
    return f"{counted(len(firing), 'alert')} firing{grade}, worst: {said}."


def gaps(model: ModelFile, period: Period, read: Read) -> list[str]:
    """List what could not be judged in the period, and why; empty only if silence means health."""
    if not read.windows:
        return ["this period has not been checked"]
    unread = [row for row in read.windows if row["status"] not in {"ok", "empty"}]
    found = [f"logs at {row['window_start']:%H:%M} UTC: {plain(because(row))}" for row in unread[:1]]
    if len(read.windows) < period.hours:
        found.append(f"{period.hours - len(read.windows)} of {period.hours} hours have not been checked")
    if not any(row["rows"] for row in read.windows):
        return [*found, "no predictions were logged"]
    of_all = [row for row in read.performance if row["segment"] == "*" and row["metric"] == primary_metric(model)]
    evidence = {
        "triage": read.windows,  # what it writes are the alerts; having run is all it owes
        "quality": read.quality,
        "drift": deciding_drift(read.drift),
        "performance": of_all,
        "importance": read.importance,
    }
    return found + [said for check in expected_checks(model) if (said := _gap(check, read.checks, evidence[check]))]


def _gap(check: str, states: Sequence[Row], rows: Sequence[Row]) -> str | None:
    """Why `check` says nothing about health, or None if it does; `rows` are its results.

    Examples
    --------
    >>> _gap("drift", [], [])
    'drift has not run'
    >>> ran = [{"check": "drift", "status": "ok", "reason": None}]
    >>> _gap("drift", ran, [{"status": "insufficient_data", "reason": "20 rows are needed"}])
    'drift: 1 of 1 results not judged (insufficient_data: 20 rows are needed)'
    >>> _gap("drift", ran, [{"status": "ok", "reason": None}]) is None
    True
    """
    mine = [state for state in states if state["check"] == check]
    if not mine:
        return f"{check} has not run"
    lost = [state for state in mine if state["status"] not in JUDGED]
    if any(state["status"] == "error" for state in lost) or 2 * len(lost) > len(mine):
        often = f" (and so {len(lost)} of {len(mine)} hours)" if len(lost) > 1 else ""
        return f"{check}: {plain(because(lost[0]))}{often}"
    if not rows:
        return f"{check} ran and wrote no results"
    unjudged = [because(row) for row in rows if row["status"] not in JUDGED]
    if 2 * len(unjudged) <= len(rows):
        return None
    return (
        f"{check}: {len(unjudged)} of {len(rows)} results not judged ({plain(Counter(unjudged).most_common(1)[0][0])})"
    )


def check_states(model: ModelFile, period: Period, read: Read) -> list[dict[str, Any]]:
    """Status of the window and of every check, those that have not run included."""
    states = [_state("window", read.windows, period.hours, "not checked")]
    for check in [*CHECKS, *sorted({row["check"] for row in read.checks} - set(CHECKS))]:
        mine = [row for row in read.checks if row["check"] == check]
        # An hour without predictions leaves nothing to check.
        checked = {row["window_start"] for row in mine}
        idle = sum(row["status"] == "empty" and row["window_start"] not in checked for row in read.windows)
        absent = "has not run" if check in expected_checks(model) or mine else "not configured (no explain.model)"
        states.append(_state(check, mine, period.hours - idle, absent))
    return states


def _state(name: str, rows: Sequence[Row], expected: int, absent: str) -> dict[str, Any]:
    missing = expected - len(rows)
    # Over a day the ordinary needs no words: a night without flights, a check that had nothing to do.
    fine = {"ok", "empty"}
    reasons = Counter(row["reason"] for row in rows if row["reason"] and (len(rows) == 1 or row["status"] not in fine))
    return {
        "name": name,
        "status": tally([row["status"] for row in rows]) if rows or missing else "nothing to check",
        "missing": "" if not missing else f"{absent} in {counted(missing, 'hour')}" if rows else absent,
        "good": not missing and all(row["status"] in fine for row in rows),
        "as_of": max((row["as_of"] for row in rows), default=None),
        "reasons": [f"{plain(reason)} ({n} hours)" if n > 1 else plain(reason) for reason, n in reasons.most_common(5)],
    }


def shown_alerts(read: Read, period: Period) -> list[Row]:
    """Alerts that were open in the period, as they stood at its end: firing first, then critical, then newest.

    An alert opens at the end of the window that raised it, so that one opened at the period's end belongs to it.
    """
    newest = max((row["window_end"] for row in read.windows), default=period.end)
    found = []
    for alert in read.alerts:
        resolved = alert["resolved_at"]
        if resolved is None or resolved > period.start:
            firing = resolved is None or resolved > period.end
            until = max(newest, alert["opened_at"]) if firing else resolved
            found.append({**alert, "firing": firing, "until": until, "lasted": until - alert["opened_at"] + HOUR})
    found.sort(key=lambda a: (not a["firing"], a["severity"] != "critical", -a["opened_at"].timestamp(), a["alert_id"]))
    return [{**alert, "number": f"A{place}"} for place, alert in enumerate(found, 1)]
