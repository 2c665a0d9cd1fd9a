"""Accepting a lasting shift: its alerts end, and its level is the usual one from the newest window on.

An acceptance is a row with a moment of the data; alerts, baselines and what the policy remembers follow from it
(`hindcast.alerts.fold`, `hindcast.checks.levels`), so that windows that run again give what they gave.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from hindcast import alerts
from hindcast.checks import triage
from hindcast.checks.run import Run, commit
from hindcast.errors import UsageError
from hindcast.results import tables
from hindcast.window import HOUR, Window
from hindcast.window import text as time_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hindcast.config import ModelFile
    from hindcast.results.sql import Row, Store


def incident_of(store: Store, incident_id: str) -> Row:
    """The incident whose id is, or begins with, the given text.

    Raises
    ------
    UsageError
        There is none, or there are several.
    """
    found = [row for row in store.rows(tables.incidents) if incident_id and row["incident_id"].startswith(incident_id)]
    if len(found) != 1:
        several = f"{len(found)} incidents begin so; " if found else ""
        message = f"unknown incident {incident_id!r}: {several}`hindcast incidents --all` lists their ids"
        raise UsageError(message)
    return found[0]


def alerts_of(store: Store, model: ModelFile, incident: Row) -> list[Row]:
    """The alerts of an incident by onset, each with its `life` in words."""
    rows = store.rows(tables.alerts, incident_id=incident["incident_id"])
    return [{**row, "life": _life(model, row)} for row in sorted(rows, key=lambda row: row["opened_at"])]


def _life(model: ModelFile, alert: Row) -> str:
    since = f"since {time_text(alert['opened_at'])}, last seen {time_text(alert['last_seen_at'])}"
    if alert["resolved_at"]:
        how = json.loads(alert["details"]).get("resolution", "by itself")
        return f"{since}, resolved {time_text(alert['resolved_at'])} {how}"
    hours = triage.accepted_after(model).get(alert["kind"]) if alerts.is_level(alert) else None
    return f"{since}, open" + (f"; accepted by itself {time_text(alert['opened_at'] + hours * HOUR)}" if hours else "")


def accept(
    store: Store, model: ModelFile, incident_id: str, *, subject: str | None = None, actor: str, reason: str = ""
) -> list[Row]:
    """Accept the levels that an incident's open alerts are about, from the end of the newest window on.

    The acceptances, the line of the audit that says who accepted what, the alerts and the incident are written in one
    transaction.

    Parameters
    ----------
    subject : str, optional
        Only alerts about it.
    actor : str
        Who accepts.

    Returns
    -------
    Rows of the table `acceptances`.

    Raises
    ------
    UsageError
        The incident is unknown, or has no open alert about a level.
    """
    incident = incident_of(store, incident_id)
    members = store.rows(tables.alerts, incident_id=incident["incident_id"], state="firing")
    chosen = _acceptable(incident, members, subject)
    newest = store.rows(tables.windows, columns=("window_start", "as_of"), model_name=model.model)[-1]
    run = Run(model, Window(newest["window_start"]), newest["as_of"], store)
    started, now = time.perf_counter(), datetime.now(UTC)
    said = {"automatic": False, "actor": actor, "reason": reason, "recorded_at": now}
    rows = [alerts.acceptance_of(alert, run.window.end, **said) for alert in chosen]
    run.acceptances += rows
    found = triage.check(run)
    key = {"model_name": model.model, "accepted_at": run.window.end, "alert_id": [row["alert_id"] for row in rows]}
    commit(run, replace(found, writes=(("acceptances", key, rows), *found.writes)), time.perf_counter() - started)
    return rows


def _acceptable(incident: Row, members: Sequence[Row], subject: str | None) -> list[Row]:
    """Open alerts that end when their level is accepted."""
    asked = [alert for alert in members if subject in {None, alert["subject"]}]
    if not asked:
        subjects = sorted({alert["subject"] for alert in members})
        about = f" about {subject!r}; it has some about: {', '.join(subjects)}" if subject and subjects else ""
        message = f"incident {incident['incident_id']}: has no open alert{about}"
        raise UsageError(message)
    found = [a for a in asked if alerts.ends_accepted(a["kind"], json.loads(a["details"])["metrics"])]
    if not found:
        named = ", ".join(f"{alert['kind']} {alert['metric']} of {alert['subject']}" for alert in asked)
        message = f"incident {incident['incident_id']}: {named}: a limit is no level; change it in the model file"
        raise UsageError(message)
    return found
