"""triage: findings to alerts, alerts to incidents, each incident with its diagnosis."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from hindcast import alerts, incidents
from hindcast.checks.run import Result, Run
from hindcast.diagnosis import diagnose
from hindcast.results import tables
from hindcast.window import HOUR

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from hindcast.config import ModelFile

    Row = dict[str, Any]

# Quiet hours of the night lie between an episode and the windows that resolve it.
_REACH_HOURS = 72
_TOLD_HOURS = 12


def check(run: Run) -> Result:
    """Fold the findings since the oldest episode that can still change; accept levels that have lasted long enough."""
    at_end = {"model_name": run.model.model, "accepted_at": run.window.end, "automatic": True}
    # What this window accepted when it was judged before is found again, or not.
    others = [row for row in run.acceptances if not (row["automatic"] and row["accepted_at"] == run.window.end)]
    folding = Folding(run)
    folded = folding.alerts(others)
    ripe = alerts.due(folded, run.window.end, accepted_after(run.model), others)
    new = [automatic(run.model, alert, run.window.end) for alert in ripe]
    if new:
        folded = folding.alerts([*others, *new])
    firing = [a for a in folded if a["state"] == "firing"]
    opened = [a for a in folded if a["opened_at"] == run.window.end]
    facts: dict[str, Any] = {
        "firing": len(firing),
        "opened": sorted(f"{a['kind']} {a['subject']}" for a in opened),
        "by_severity": by_severity(firing),
    }
    if new:
        facts["accepted"] = sorted(f"{row['kind']} {row['subject']}" for row in new)
    return Result("triage", "ok", "", (("acceptances", at_end, new), *folding.writes(folded)), facts)


def accepted_after(model: ModelFile) -> dict[str, int | None]:
    """Kind -> hours after which a level is accepted by itself.

    A loss of performance is accepted at the latest a day before no hour of its baseline is left.
    """
    hours = model.drift.accept_after_hours
    left = max(model.performance.baseline_days * 24 - 24, 24)
    return {"drift": hours, "quality": hours, "performance": left if hours is None else min(hours, left)}


def automatic(model: ModelFile, alert: Row, end: datetime) -> Row:
    """The acceptance of a level that has lasted long enough."""
    hours = accepted_after(model)[alert["kind"]]
    return alerts.acceptance_of(alert, end, automatic=True, actor="hindcast", reason=f"after {hours} h")


class Folding:
    """What a window's triage reads, folded as often as needed."""

    def __init__(self, run: Run) -> None:
        self.run, name, table = run, run.model.model, tables.findings
        self.published = run.store.rows(tables.alerts, model_name=name)
        horizon = _horizon(run, self.published)
        self.settled = [a for a in self.published if _is_settled(a, horizon)]
        self.open = [a for a in self.published if a not in self.settled]
        self.findings = run.store.rows(table, table.c.window_start >= horizon, model_name=name)
        self.judged = judged(run, horizon)

    def alerts(self, acceptances: Sequence[Row]) -> list[Row]:
        """Every alert that can still change."""
        planned = self.run.model.calendar.planned
        return alerts.fold(self.findings, self.judged, self.open, acceptances=acceptances, planned=planned)

    def moved(self, members: Sequence[Row]) -> datetime:
        """End of the newest window whose run found or resolved anything of these alerts."""
        seen = {(a["kind"], a["subject"]): a["last_seen_at"] for a in sorted(members, key=lambda a: a["last_seen_at"])}
        first = min(a["opened_at"] for a in members)
        ends: list[datetime] = [a["resolved_at"] or a["last_seen_at"] for a in members]
        for row in self.findings:
            end = row["window_start"] + HOUR
            if first <= end <= seen.get((row["kind"], row["subject"]), first - HOUR):
                ends.append(end + row["label_age_hours"] * HOUR)  # by when it was judged
        return max(ends)

    def writes(self, folded: Sequence[Row]) -> list[tuple[str, dict[str, Any], list[Row]]]:
        """Rows of alerts and incidents; only what changed gets a new diagnosis."""
        run, name = self.run, self.run.model.model
        every = sorted([*self.settled, *folded], key=lambda a: (a["opened_at"], a["kind"], a["subject"]))
        before = {row["incident_id"]: row for row in run.store.rows(tables.incidents, affected_model=name)}
        rows = []
        for members in incidents.group(every):
            row = incidents.incident_of(members)
            for alert in members:
                alert["incident_id"] = row["incident_id"]
            rows.append(_with_diagnosis(run, row, members, before.get(row["incident_id"]), self))
        replaced = [a["alert_id"] for a in (*self.open, *folded)]
        return [
            ("alerts", {"model_name": name, "alert_id": replaced}, list(folded)),
            ("incidents", {"affected_model": name}, rows),
        ]


def _horizon(run: Run, published: Sequence[Row]) -> datetime:
    """From when on findings are folded: before every episode that this window's findings may touch or re-open."""
    horizon = run.window.start - (max(run.model.performance.label_ages_hours) + _REACH_HOURS) * HOUR
    while True:
        touched = [a["opened_at"] for a in published if not _is_settled(a, horizon)]
        # A label age later, an onset may turn out to lie up to a day before the one that was published.
        earlier = min([horizon, *(opened_at - 25 * HOUR for opened_at in touched if opened_at <= horizon)])
        if earlier == horizon:
            return horizon
        horizon = earlier


def _is_settled(alert: Row, horizon: datetime) -> bool:
    """Nothing from `horizon` on can belong to it: neither an echo of its findings nor what would re-open it."""
    return alert["resolved_at"] is not None and alert["resolved_at"] + alerts.SETTLED_AFTER <= horizon


def by_severity(firing: Sequence[Row]) -> dict[str, int]:
    """Kind and severity, as ``kind/severity`` -> how many alerts are of them."""
    counted: dict[str, int] = {}
    for alert in firing:
        key = f"{alert['kind']}/{alert['severity']}"
        counted[key] = counted.get(key, 0) + 1
    return dict(sorted(counted.items()))


def judged(run: Run, since: datetime) -> Mapping[tuple[str, int], list[datetime]]:
    """Windows that each check judged and that were not empty, by check and label age."""
    store, key = run.store, {"model_name": run.model.model}
    windows, outcomes, checks = tables.windows.c, tables.outcomes.c, tables.checks.c
    found = store.rows(
        tables.windows, windows.rows > 0, windows.window_start >= since, columns=("window_start",), **key
    )
    filled = {row["window_start"] for row in found}
    wanted = ("check", "window_start")
    ended = (checks.window_start >= since, checks.status != "error")
    done = store.rows(tables.checks, *ended, columns=wanted, check=["quality", "drift", "push"], **key)
    wanted = ("label_age_hours", "window_start")
    aged = store.rows(tables.outcomes, outcomes.window_start >= since, columns=wanted, **key)
    found_by: dict[tuple[str, int], list[datetime]] = {}
    for row in done:
        if row["window_start"] in filled:
            found_by.setdefault((row["check"], 0), []).append(row["window_start"])
    for row in aged:
        found_by.setdefault(("performance", row["label_age_hours"]), []).append(row["window_start"])
    return found_by


def _with_diagnosis(run: Run, row: Row, members: Sequence[Row], before: Row | None, folding: Folding) -> Row:
    """Diagnose an incident anew when its alerts changed since the last time; else its texts stand.

    The run that moved it last does so in any case: another run may have folded this one's findings before, while the
    rest of its window was not there yet. What was known to that run alone is looked at, so that the texts do not depend
    on what else had been judged by the time.
    """
    moved = folding.moved(members)
    seen = {a["alert_id"]: (a["last_seen_at"], a["state"], a["severity"]) for a in folding.published}
    same = moved != run.window.end and all(
        seen.get(a["alert_id"]) == (a["last_seen_at"], a["state"], a["severity"]) for a in members
    )
    if before and same and before["symptoms"] == row["symptoms"]:
        return {**row, "description": before["description"], "root_cause": before["root_cause"]}
    # The hours that the first alarms were about and the half day after: an incident is told by its beginning.
    start = min(a["opened_at"] - json.loads(a["details"])["onset_scale_hours"] * HOUR for a in members)
    end = min(max(a["last_seen_at"] for a in members), start + _TOLD_HOURS * HOUR)
    found = diagnose(run.store, run.model, start, end, members, known=moved)
    return {**row, "description": found.text, "root_cause": found.cause}
