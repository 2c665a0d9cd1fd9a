"""What people ask of the results: how each model stands, and what a monitored model still needs."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from hindcast.errors import HindcastError
from hindcast.report.words import late_text
from hindcast.results import tables
from hindcast.window import floor_hour
from hindcast.window import text as time_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from hindcast.config import ModelFile
    from hindcast.results.sql import Store


@dataclass(frozen=True)
class ModelStatus:
    """How a model stands at its newest window."""

    model: str
    owner: str
    window: dict[str, Any] | None
    checks: list[dict[str, Any]]
    firing: list[dict[str, Any]]
    incident: dict[str, Any] | None
    planned: list[dict[str, Any]] = field(default_factory=list)
    late: list[dict[str, Any]] = field(default_factory=list)

    def lines(self) -> list[str]:
        """For people."""
        if self.window is None:
            return [f"{self.model}  never checked; owner {self.owner}"]
        found = self.window
        head = f"{self.model}  window {time_text(found['window_start'])} {found['status']}, {found['rows']} rows"
        lines = [f"{head}, as of {time_text(found['as_of'])}; owner {self.owner}"]
        states = ", ".join(f"{row['check']} {row['status']}" for row in self.checks)
        lines.append(f"  checks: {states or 'none has run'}")
        lines += [f"  {row['check']}: {row['reason']}" for row in self.checks if row["status"] not in {"ok", "empty"}]
        lines += [f"  {late_text(self.late)}"] if self.late else []
        for entry in self.planned:
            about = ", ".join(entry["subjects"]) if entry["subjects"] else "everything"
            lines.append(f"  planned: {entry['reason']}; nothing about {about} wakes anybody")
        if not self.firing:
            lines.append("  nothing firing")
        for alert in self.firing:
            change = f" ({alert['change_percent']:+.0f} %)" if alert["change_percent"] is not None else ""
            lines.append(
                f"  {alert['severity']}: {alert['kind']} {alert['metric']} of {alert['subject']}{change}, "
                f"since {time_text(alert['opened_at'])}"
            )
        if self.incident:
            lines.append(
                f"  incident {self.incident['incident_id']} {self.incident['severity']}: {self.incident['root_cause']}"
            )
        return lines

    def to_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "model": self.model,
            "owner": self.owner,
            "window": {k: v for k, v in self.window.items() if k != "details"} if self.window else None,
            "checks": self.checks,
            "firing": self.firing,
            "incident": self.incident,
            "planned": self.planned,
            "late": self.late,
        }


def model_status(store: Store, model: ModelFile) -> ModelStatus:
    """Read how a model stands."""
    windows = tables.windows
    newest = store.rows(windows, columns=("window_start",), model_name=model.model)
    if not newest:
        return ModelStatus(model.model, model.owner.team, None, [], [], None)
    key = {"model_name": model.model, "window_start": newest[-1]["window_start"]}
    firing = store.rows(tables.alerts, model_name=model.model, state="firing")
    open_incidents = store.rows(tables.incidents, affected_model=model.model, state="open")
    return ModelStatus(
        model.model,
        model.owner.team,
        store.rows(windows, **key)[0],
        store.rows(tables.checks, **key),
        sorted(firing, key=lambda a: (a["severity"], a["opened_at"])),
        max(open_incidents, key=lambda i: i["opened_at"], default=None),
        [
            {"reason": entry.reason, "subjects": entry.subjects and list(entry.subjects)}
            for entry in model.calendar.within(key["window_start"])
        ],
        _late(store, model, newest[-1]["window_start"]),
    )


def _late(store: Store, model: ModelFile, newest: datetime) -> list[dict[str, Any]]:
    table = tables.windows
    first = newest - timedelta(hours=model.logs.late_hours)
    columns = ("window_start", "late_rows", "late_seconds")
    return store.rows(
        table, table.c.window_start > first, table.c.late_rows > 0, columns=columns, model_name=model.model
    )


def checklist(store: Store, model: ModelFile) -> list[dict[str, Any]]:
    """What a monitored model needs, one item each: what, ok, says."""
    from hindcast.sources import labels_of, logs_of
    from hindcast.sources.bigquery import BigQueryTable
    from hindcast.sources.files import parquet_files

    def logs() -> str:
        source = logs_of(model)
        end = _newest(store, model) or floor_hour(datetime.now(UTC))
        found = source.manifest(end - timedelta(days=1), end + timedelta(hours=1))
        return f"{model.logs.uri}: {len(found.objects)} objects in the day before {time_text(end)}"

    def labels() -> str:
        source = labels_of(model)
        if model.labels is None or source is None:
            return "none: performance is judged only if the logs hold ground_truth"
        end = _newest(store, model) or floor_hour(datetime.now(UTC))
        source.manifest(end, end + timedelta(hours=1))
        return model.labels.uri

    def reference() -> str:
        if model.reference.uri is None:
            return f"the logs from {model.reference.start} to {model.reference.end}"
        if model.reference.uri.startswith("bq://"):
            most = model.bigquery.max_gb_billed
            _, rows = BigQueryTable(model.reference.uri, model.reference.connection, max_gb=most).state()
            return f"{rows} rows in a table"
        files = parquet_files(model.resolve(model.reference.uri), connection=model.reference.connection)
        return f"{sum(f.metadata.num_rows for f in files)} rows in {len(files)} files"

    def explained() -> str:
        from hindcast.artifact import load_artifact

        artifact = model.explain.model
        if artifact is None:
            return "no explain.model: no importance"
        load_artifact(model)
        return f"{artifact.format}, sha256 matches" if artifact.sha256 else f"{artifact.format}, without sha256"

    items = [
        _item("logs", logs),
        _item("labels", labels),
        _item("reference", reference),
        _item("model artifact", explained),
        {
            "what": "owner",
            "ok": model.owner.team != "unowned",
            "says": f"{model.owner.team}, on call {model.owner.oncall}",
        },
        {"what": "features", "ok": bool(model.features), "says": f"{len(model.features)} described in the model file"},
        {"what": "Pushgateway", "ok": True, "says": os.environ.get("HINDCAST_PUSHGATEWAY") or "none configured"},
    ]
    newest = _newest(store, model)
    items.append(
        {
            "what": "checked",
            "ok": newest is not None,
            "says": f"newest window {time_text(newest)}" if newest else "never",
        }
    )
    return items


def _newest(store: Store, model: ModelFile) -> datetime | None:
    rows = store.rows(tables.windows, columns=("window_start",), model_name=model.model)
    return rows[-1]["window_start"] if rows else None


def _item(what: str, look: Callable[[], str]) -> dict[str, Any]:
    try:
        return {"what": what, "ok": True, "says": look()}
    except HindcastError as error:
        return {"what": what, "ok": False, "says": str(error)}
