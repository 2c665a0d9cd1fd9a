"""Incidents: alerts of one model that are open together, from the first onset to the last resolution."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from hindcast.metrics import METRICS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

Row = dict[str, Any]


def group(alerts: Sequence[Row]) -> list[list[Row]]:
    """Alerts by incident; `alerts` by onset.

    Examples
    --------
    >>> a, b, c = ({"opened_at": o, "resolved_at": r} for o, r in ((1, 5), (4, 9), (12, None)))
    >>> [len(members) for members in group([a, b, c])]
    [2, 1]
    """
    groups: list[list[Row]] = []
    until: Any = None
    for alert in alerts:
        if groups and (until is None or alert["opened_at"] <= until):
            groups[-1].append(alert)
        else:
            groups.append([alert])
        ends = [member["resolved_at"] for member in groups[-1]]
        until = None if None in ends else max(ends)
    return groups


def incident_of(members: Sequence[Row]) -> Row:
    """One row of the table `incidents`, without the texts of the diagnosis."""
    first = members[0]
    opened_at = min(a["opened_at"] for a in members)
    ends = [a["resolved_at"] for a in members]
    resolved_at: datetime | None = None if None in ends else max(ends)
    text = "\0".join([first["model_name"], first["alert_id"]])
    return {
        "incident_id": hashlib.sha256(text.encode()).hexdigest()[:16],
        "severity": severity_of(members),
        "title": title_of(members),
        "opened_at": opened_at,
        "detected_at": min(a["detected_at"] for a in members),
        "affected_model": first["model_name"],
        "symptoms": json.dumps([symptom(a) for a in members]),
        "metrics": json.dumps(sorted({a["metric"] for a in members})),
        "resolved_at": resolved_at,
        "resolution": resolution_of(members) if resolved_at else None,
        "state": "resolved" if resolved_at else "open",
    }


def resolution_of(members: Sequence[Row]) -> str:
    """How the alerts of an incident ended.

    Examples
    --------
    >>> resolution_of([{"subject": "a", "details": '{"resolution": "accepted by kim"}'},
    ...                {"subject": "b", "details": "{}"}])
    'a accepted by kim; all others resolved by themselves'
    """
    told = [(a["subject"], json.loads(a.get("details") or "{}").get("resolution")) for a in members]
    accepted = list(dict.fromkeys(f"{subject} {said}" for subject, said in told if said))
    if not accepted:
        return "all alerts resolved by themselves"
    others = [] if all(said for _, said in told) else ["all others resolved by themselves"]
    return "; ".join([*accepted, *others])


def severity_of(members: Sequence[Row]) -> str:
    """SEV1: the system cannot see the model; SEV2: the whole model degraded; SEV3: another critical; SEV4: warnings.

    Examples
    --------
    >>> severity_of([{"kind": "performance", "severity": "critical", "subject": "*"}])
    'SEV2'
    """
    critical = [a for a in members if a["severity"] == "critical"]
    if any(a["kind"] == "system" for a in critical):
        return "SEV1"
    if any(a["kind"] == "performance" and a["subject"] == "*" for a in critical):
        return "SEV2"
    return "SEV3" if critical else "SEV4"


def symptom(alert: Mapping[str, Any]) -> str:
    """One alert in words."""
    metric = METRICS.get(alert["metric"])
    name = metric.title if metric else alert["metric"]
    where = "" if alert["subject"] == "*" else f" of {alert['subject']}"
    change = alert["change_percent"]
    values = f" {alert['current_value']:.3g}" if alert["current_value"] is not None else ""
    if change is not None and alert["baseline_value"] is not None:
        values = f" {alert['current_value']:.3g} against {alert['baseline_value']:.3g} ({change:+.0f} %)"
    return f"{alert['kind']} ({alert['severity']}): {name}{where}{values}"


def title_of(members: Sequence[Row]) -> str:
    """The gravest symptom, and how many more there are."""
    order = {"system": 0, "performance": 1, "quality": 2, "drift": 3}
    gravest = min(
        members,
        key=lambda a: (a["severity"] != "critical", order.get(a["kind"], 9), a["subject"] != "*", a["opened_at"]),
    )
    more = f", and {len(members) - 1} more" if len(members) > 1 else ""
    return f"{members[0]['model_name']}: {symptom(gravest)}{more}"
