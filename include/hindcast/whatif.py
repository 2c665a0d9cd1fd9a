"""What another model file would have raised: stored history decided again, nothing written.

The same functions as in the checks decide, hour by hour, from stored profiles, outcomes and findings of quality; what
was learnt before the first hour is taken as it stands. So the answer is: had the file been changed at the first hour.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from hindcast import alerts
from hindcast import config as configuration
from hindcast.checks import drift, performance, triage
from hindcast.checks.context import stamped
from hindcast.checks.run import Run, settle
from hindcast.errors import ConfigError, UsageError
from hindcast.results import tables
from hindcast.results.sql import Store
from hindcast.window import HOUR, Window, hours

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from hindcast.config import ModelFile
    from hindcast.results.sql import Row

# What the policy reads and stored history can tell; every other key that decides something must be the same.
DECIDED = (
    "drift.budget_false_alarms_per_week", "drift.seasonal_weeks", "drift.effect_floor", "drift.scales",
    "drift.accept_after_hours", "performance.metrics", "performance.baseline_days", "performance.threshold",
    "performance.critical", "performance.min_label_coverage", "quiet", "schedule.timezone",
)  # fmt: skip
HARMLESS = ("owner", "explain", "business", "engine", "spark", "bigquery", "resources", "schedule.hourly")
# Findings from so long before the first hour on may belong to an alert of its time.
_REACH = timedelta(days=14)
# Keys that only one of the checks reads: while nothing else differs, the other's findings are what they were.
_OF_DRIFT = ("drift.effect_floor", "drift.scales", "drift.seasonal_weeks")
_OF_PERFORMANCE = tuple(key for key in DECIDED if key.startswith("performance."))
_NOTHING: dict[str, Any] = dict.fromkeys(column.name for column in tables.findings.c)


class _Stored(Store):
    """The results store, for reading only."""

    def transaction(self, scope: str | None = None) -> NoReturn:  # noqa: ARG002 - as of any store
        message = "what-if writes nothing, and this store lacks what it reads: check or profile its windows first"
        raise UsageError(message)


@dataclass(frozen=True)
class Outcome:
    """An alert that was raised, one that would have been, or both."""

    what: Literal["added", "gone", "same"]
    kind: str
    subject: str
    raised: Row | None
    would: Row | None

    def to_json(self) -> dict[str, Any]:
        """For machines."""
        names = ("metric", "severity", "opened_at", "last_seen_at", "resolved_at", "state", "details")
        sides = {"raised": self.raised, "would": self.would}
        return {
            "what": self.what,
            "kind": self.kind,
            "subject": self.subject,
            **{side: {name: row[name] for name in names} if row else None for side, row in sides.items()},
        }


@dataclass(frozen=True)
class WhatIf:
    """What was raised beside what would have been, over windows decided again."""

    start: datetime
    windows: int
    outcomes: list[Outcome]

    def weeks(self) -> list[dict[str, Any]]:
        """Totals per week from the first hour on, by onset."""
        found: dict[int, dict[str, int]] = defaultdict(lambda: {"raised": 0, "would": 0})
        for outcome in self.outcomes:
            for side, row in (("raised", outcome.raised), ("would", outcome.would)):
                if row:
                    found[(row["opened_at"] - self.start - HOUR) // timedelta(days=7)][side] += 1
        return [{"from": self.start + week * timedelta(days=7), **found[week]} for week in sorted(found)]

    def to_json(self) -> dict[str, Any]:
        """For machines."""
        counts = {what: sum(o.what == what for o in self.outcomes) for what in ("same", "added", "gone")}
        alerts_ = [outcome.to_json() for outcome in self.outcomes]
        return {"windows": self.windows, **counts, "weeks": self.weeks(), "alerts": alerts_}


def what_if(
    name: str,
    path: Path,
    start: datetime,
    end: datetime,
    *,
    config: str | None = None,
    results: str | None = None,
    progress: Callable[[int, int, Window | None], None] = lambda _done, _total, _window: None,
) -> WhatIf:
    """Decide about ``[start, end)`` again as the model file at `path` would have.

    Parameters
    ----------
    name : str
        Model whose stored history it is.
    progress : callable
        Told (windows done, of how many, the window just done).

    Raises
    ------
    ConfigError
        The other file is wrong, or differs in what only the logs can tell.
    UsageError
        No window of the time was checked.
    """
    current = configuration.find(name, config)
    model = candidate(current, configuration.load(path))
    store = _Stored(results)
    windows = list(hours(start, end))
    known = _filled(store, name, windows)
    if not known:
        message = f"{name}: no window with rows was checked from {windows[0] if windows else start} on"
        raise UsageError(message)
    run = Run(model, windows[0], windows[0].end + settle(model), store)
    history = _History(run, windows[0].start, decides(current, model))
    for done, window in enumerate(windows, 1):
        history.decide(window, filled=window.start in known)
        progress(done, len(windows), window)
    first, last = windows[0].start, windows[-1].end
    within = (tables.alerts.c.opened_at > first, tables.alerts.c.opened_at <= last)
    raised = store.rows(tables.alerts, *within, model_name=name)
    would = [alert for alert in history.alerts(last) if first < alert["opened_at"] <= last]
    return WhatIf(first, len(known), compared(raised, would))


def candidate(current: ModelFile, other: ModelFile) -> ModelFile:
    """The other file's policy on the current one's data.

    Raises
    ------
    ConfigError
        They differ in what decides and is not in stored history: file, key, both values.
    """
    mine, theirs = _flat(current), _flat(other)

    def same_place(key: str) -> bool:
        """Whether two paths, each relative to its own file, name one place."""
        a, b = mine.get(key), theirs.get(key)
        return key.endswith(".uri") and bool(a and b) and current.resolve(str(a)) == other.resolve(str(b))

    faults = [
        f"{other.path}: {key}: {theirs.get(key)!r} instead of {mine.get(key)!r}; stored history cannot tell what that "
        f"would change: use another --config and --results and replay the logs"
        for key in sorted({*mine, *theirs})
        if mine.get(key) != theirs.get(key) and not _may_differ(key) and not same_place(key)
    ]
    if faults:
        raise ConfigError("\n".join(faults))
    # The same features, in the order in which their bins were fitted.
    return other.model_copy(update={"path": current.path, "features": current.features})


def decides(current: ModelFile, other: ModelFile) -> set[str]:
    """Checks whose findings another model file may change; all of them where it changes nothing."""
    mine, theirs = _flat(current), _flat(other)
    changed = [key for key in DECIDED if mine.get(key) != theirs.get(key)]
    found = set()
    if not changed or any(key not in _OF_PERFORMANCE for key in changed):
        found.add("drift")
    if not changed or any(key not in _OF_DRIFT for key in changed):
        found.add("performance")
    return found


def _may_differ(key: str) -> bool:
    return any(key == allowed or key.startswith(f"{allowed}.") for allowed in (*DECIDED, *HARMLESS))


def _flat(model: ModelFile) -> dict[str, Any]:
    """Every value by its dotted key."""

    def walk(value: Any, key: str) -> Iterator[tuple[str, Any]]:
        if isinstance(value, dict):
            for name, inner in value.items():
                yield from walk(inner, f"{key}.{name}" if key else name)
        else:
            yield key, value

    return dict(walk(model.model_dump(mode="json", by_alias=True), ""))


def _filled(store: Store, name: str, windows: Sequence[Window]) -> set[datetime]:
    table = tables.windows
    if not windows:
        return set()
    within = (table.c.window_start >= windows[0].start, table.c.window_start <= windows[-1].start)
    rows = store.rows(table, *within, table.c.rows > 0, columns=("window_start",), model_name=name)
    return {row["window_start"] for row in rows}


class _History:
    """Findings and acceptances as they would have come, window by window."""

    def __init__(self, run: Run, start: datetime, again: Collection[str]) -> None:
        store, name = run.store, run.model.model
        self.run, self.again = run, again
        # What is held is held by every window's run.
        _ = run.reference, run.history, run.outcomes, run.memories
        table = tables.findings
        stored = store.rows(table, table.c.window_start >= start - _REACH, model_name=name)
        self.findings = [row for row in stored if row["window_start"] < start]
        self._taken: dict[datetime, list[Row]] = defaultdict(list)
        for row in stored:
            if row["window_start"] >= start and row["check"] not in again:
                planned = run.model.calendar.planned(row["subject"], row["window_start"], row["scale_hours"])
                self._taken[row["window_start"]].append({**row, "planned": planned or None})
        self.acceptances = [r for r in run.acceptances if not r["automatic"] or r["accepted_at"] <= start]
        self.published = store.rows(tables.alerts, tables.alerts.c.opened_at <= start, model_name=name)
        self.published = [a for a in self.published if not a["resolved_at"] or a["resolved_at"] > start - _REACH]
        self._judged = triage.judged(run, start - _REACH)
        self._first: dict[tuple[str, str], datetime] = {}
        self._note(self.findings)

    def decide(self, window: Window, *, filled: bool) -> None:
        """What the checks of one window would have found, and what would have been accepted at its end."""
        self.run = run = self.run.at(window, window.end + settle(self.run.model))
        run.acceptances = self.acceptances
        new: list[Row] = []
        if "drift" in self.again and filled:
            new += drift.decided(run).findings
        elif "drift" in self.again:
            drift.passed(run)
        if "performance" in self.again:
            new += performance.rejudged(run)
        new = [{**_NOTHING, **row} for row in stamped(run, new)] + self._taken.get(window.start, [])
        self.findings += new
        self._note(new)
        after = triage.accepted_after(run.model)
        old = {key for key, since in self._first.items() if (h := after.get(key[0])) and since + h * HOUR <= window.end}
        if old:
            ripe = alerts.due(self.alerts(window.end, old), window.end, after, self.acceptances)
            self.acceptances = [*self.acceptances, *(triage.automatic(run.model, a, window.end) for a in ripe)]

    def _note(self, findings: Sequence[Row]) -> None:
        for row in findings:
            if not row["planned"]:
                self._first.setdefault((row["kind"], row["subject"]), row["window_start"])

    def alerts(self, end: datetime, keys: set[tuple[str, str]] | None = None) -> list[Row]:
        """Every alert, or those of some kinds and subjects, as known at the end of a window."""
        found = [row for row in self.findings if keys is None or (row["kind"], row["subject"]) in keys]
        judged = {
            (check, age): [start for start in starts if start + (age + 1) * HOUR <= end]
            for (check, age), starts in self._judged.items()
        }
        planned = self.run.model.calendar.planned
        return alerts.fold(found, judged, self.published, acceptances=self.acceptances, planned=planned)


def compared(raised: Sequence[Row], would: Sequence[Row]) -> list[Outcome]:
    """Alerts of the same kind and subject that overlap are the same one; each is matched once, by onset.

    Examples
    --------
    >>> from datetime import UTC, datetime
    >>> at = lambda day: datetime(2026, 3, day, tzinfo=UTC)
    >>> alert = lambda subject, a, b: {
    ...     "kind": "drift", "subject": subject, "opened_at": at(a), "resolved_at": b and at(b)}
    >>> found = compared([alert("a", 2, 5), alert("b", 3, 4)], [alert("a", 4, None), alert("a", 9, None)])
    >>> [(outcome.what, outcome.subject) for outcome in found]
    [('same', 'a'), ('gone', 'b'), ('added', 'a')]
    """
    left = sorted(would, key=_onset)
    found = []
    for alert in sorted(raised, key=_onset):
        match = next((other for other in left if _overlap(alert, other)), None)
        if match:
            left.remove(match)
        found.append(Outcome("same" if match else "gone", alert["kind"], alert["subject"], alert, match))
    found += [Outcome("added", alert["kind"], alert["subject"], None, alert) for alert in left]
    return sorted(found, key=lambda outcome: _onset(outcome.raised or outcome.would or {}))


def _onset(alert: Mapping[str, Any]) -> tuple[datetime, str, str]:
    return alert["opened_at"], alert["kind"], alert["subject"]


def _overlap(a: Row, b: Row) -> bool:
    if (a["kind"], a["subject"]) != (b["kind"], b["subject"]):
        return False
    return (b["resolved_at"] is None or a["opened_at"] <= b["resolved_at"]) and (
        a["resolved_at"] is None or b["opened_at"] <= a["resolved_at"]
    )
