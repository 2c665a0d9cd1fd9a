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

    Row = dict[str, Any]

# Quiet hours of the night lie between an episode and the windows that resolve it.
_REACH_HOURS = 72
_TOLD_HOURS = 12


def check(run: Run) -> Result:
    """Fold the findings since the oldest episode that can still change; only what changed gets a new diagnosis."""
    name = run.model.model
    published = run.store.rows(tables.alerts, model_name=name)
    horizon = _horizon(run, published)
    settled = [a for a in published if _is_settled(a, horizon)]
    open_ = [a for a in published if a not in settled]
    table = tables.findings
    findings = run.store.rows(table, table.c.window_start >= horizon, model_name=name)
    folded = alerts.fold(findings, _judged(run, horizon), open_)
    every = sorted([*settled, *folded], key=lambda a: (a["opened_at"], a["kind"], a["subject"]))
    before = {row["incident_id"]: row for row in run.store.rows(tables.incidents, affected_model=name)}
    rows = []
    for members in incidents.group(every):
        row = incidents.incident_of(members)
        for alert in members:
            alert["incident_id"] = row["incident_id"]
        rows.append(_with_diagnosis(run, row, members, before.get(row["incident_id"]), published))
    replaced = [a["alert_id"] for a in (*open_, *folded)]
    writes = (
        ("alerts", {"model_name": name, "alert_id": replaced}, folded),
        ("incidents", {"affected_model": name}, rows),
    )
    firing = [a for a in folded if a["state"] == "firing"]
    opened = [a for a in folded if a["opened_at"] == run.window.end]
    facts = {
        "firing": len(firing),
        "opened": sorted(f"{a['kind']} {a['subject']}" for a in opened),
        "by_severity": _counted(firing),
    }
    return Result("triage", "ok", "", writes, facts)


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


def _counted(firing: Sequence[Row]) -> dict[str, int]:
    counted: dict[str, int] = {}
    for alert in firing:
        key = f"{alert['kind']}/{alert['severity']}"
        counted[key] = counted.get(key, 0) + 1
    return dict(sorted(counted.items()))


def _judged(run: Run, since: datetime) -> Mapping[tuple[str, int], list[datetime]]:
    """Windows that each check judged and that were not empty, by check and label age."""
    store, key = run.store, {"model_name": run.model.model}
    windows, outcomes, checks = tables.windows.c, tables.outcomes.c, tables.checks.c
    found = store.rows(
        tables.windows, windows.rows > 0, windows.window_start >= since, columns=("window_start",), **key
    )
    filled = {row["window_start"] for row in found}
    wanted = ("check", "window_start")
    ended = (checks.window_start >= since, checks.status != "error")
    done = store.rows(tables.checks, *ended, columns=wanted, check=["quality", "drift"], **key)
    wanted = ("label_age_hours", "window_start")
    aged = store.rows(tables.outcomes, outcomes.window_start >= since, columns=wanted, **key)
    judged: dict[tuple[str, int], list[datetime]] = {}
    for row in done:
        if row["window_start"] in filled:
            judged.setdefault((row["check"], 0), []).append(row["window_start"])
    for row in aged:
        judged.setdefault(("performance", row["label_age_hours"]), []).append(row["window_start"])
    return judged


def _with_diagnosis(run: Run, row: Row, members: Sequence[Row], before: Row | None, published: Sequence[Row]) -> Row:
    """Diagnose an incident anew when its alerts changed since the last time; else its texts stand."""
    seen = {a["alert_id"]: (a["last_seen_at"], a["state"], a["severity"]) for a in published}
    same = all(seen.get(a["alert_id"]) == (a["last_seen_at"], a["state"], a["severity"]) for a in members)
    if before and same and before["symptoms"] == row["symptoms"]:
        return {**row, "description": before["description"], "root_cause": before["root_cause"]}
    # The hours that the first alarms were about and the half day after: an incident is told by its beginning.
    start = min(a["opened_at"] - json.loads(a["details"])["onset_scale_hours"] * HOUR for a in members)
    end = min(max(a["last_seen_at"] for a in members), start + _TOLD_HOURS * HOUR)
    found = diagnose(run.store, run.model, start, end, members)
    return {**row, "description": found.text, "root_cause": found.cause}
