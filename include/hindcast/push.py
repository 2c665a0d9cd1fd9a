"""Pushes metrics to a Prometheus Pushgateway, from an outbox that was filled when the results were committed.

One group per (job, model_name, check), replaced as a whole with PUT. No check waits for the gateway; while it is down
the outbox holds the newest window of each check, and nothing older ever replaces it, also once it was pushed.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError

from sqlalchemy import update

from hindcast.errors import HindcastError
from hindcast.results import tables

if TYPE_CHECKING:
    from hindcast.checks.run import Result
    from hindcast.results.sql import Store
    from hindcast.window import Window

JOB = "hindcast"
TOP_FEATURES = 50
_HELP = {
    "ml_model_accuracy": "Accuracy of the newest judged window",
    "ml_model_metric": "Performance metric of the newest judged window",
    "ml_feature_drift_detected": "1 while the feature is inside a drift episode",
    "ml_feature_drift_score": "Distance of the feature from its baseline",
    "ml_feature_missing_ratio": "Share of missing values",
    "ml_data_quality_success_ratio": "Share of expectations that were met",
    "ml_feature_importance": "Mean absolute SHAP value",
    "ml_alerts_firing": "Alerts that are firing",
    "ml_window_end_timestamp_seconds": "End of the newest window",
    "ml_last_success_timestamp_seconds": "When the check last succeeded: end of its window",
    "ml_rows_processed": "Rows of the newest window",
    "ml_check_duration_seconds": "How long the check took",
}


class PushFailed(HindcastError):
    """The gateway refused or could not be reached; the outbox keeps what was to be pushed."""

    transient = True


def gateway() -> str | None:
    """URL of the Pushgateway from HINDCAST_PUSHGATEWAY; none is fine."""
    return os.environ.get("HINDCAST_PUSHGATEWAY") or None


def samples(model: str, window: Window, result: Result, seconds: float) -> list[list[Any]]:
    """Metrics of one check as ``[name, labels, value]``; the group's own labels are left out."""
    end = window.end.timestamp()
    found: list[list[Any]] = [["ml_window_end_timestamp_seconds", {}, end], ["ml_check_duration_seconds", {}, seconds]]
    if result.status != "error":
        found.append(["ml_last_success_timestamp_seconds", {}, end])
    rows = {name: rows for name, _, rows in result.writes if rows}
    build = {"pull": _pull, "quality": _quality, "drift": _drift, "performance": _performance,
             "importance": _importance, "triage": _triage}[result.check]  # fmt: skip
    return found + build(model, rows, result)


def _pull(_model: str, _rows: dict[str, Any], result: Result) -> list[list[Any]]:
    return [["ml_rows_processed", {}, result.facts.get("rows", 0)]]


def _quality(_model: str, rows: dict[str, Any], result: Result) -> list[list[Any]]:
    found = rows.get("quality", [])
    samples_: list[list[Any]] = []
    if result.facts.get("success_ratio") is not None:
        samples_.append(["ml_data_quality_success_ratio", {}, result.facts["success_ratio"]])
    missing = [row for row in found if row["metric"] == "missing_ratio" and row["value"] is not None]
    missing.sort(key=lambda row: (-row["value"], row["subject"]))
    samples_ += [
        ["ml_feature_missing_ratio", {"feature_name": r["subject"]}, r["value"]] for r in missing[:TOP_FEATURES]
    ]
    return samples_


def _drift(_model: str, rows: dict[str, Any], result: Result) -> list[list[Any]]:
    from hindcast.profile.bins import outputs_among  # with numpy, which the task that pushes does without

    drifted = set(result.facts.get("drifted", ()))
    scored = [
        row
        for row in rows.get("drift", [])
        if row["baseline"] == "seasonal" and row["metric"] == "jensen_shannon_distance" and row["value"] is not None
    ]
    outputs = outputs_among({row["feature"] for row in scored})
    scored = [row for row in scored if row["feature"] not in outputs]
    scored.sort(key=lambda row: (row["feature"] not in drifted, -row["value"], row["feature"]))
    samples_: list[list[Any]] = []
    for row in scored[:TOP_FEATURES]:
        labels = {"feature_name": row["feature"]}
        samples_.append(["ml_feature_drift_detected", labels, float(row["feature"] in drifted)])
        samples_.append(["ml_feature_drift_score", labels, row["value"]])
    return samples_


def _performance(_model: str, _rows: dict[str, Any], result: Result) -> list[list[Any]]:
    written = [row for name, _, some in result.writes if name == "performance" for row in some]
    newest: dict[tuple[str, str], dict[str, Any]] = {}
    for row in written:
        if row["segment"] == "*" and row["value"] is not None and row["status"] == "ok":
            key = (row["model_version"], row["metric"])
            if key not in newest or row["window_start"] > newest[key]["window_start"]:
                newest[key] = row
    samples_: list[list[Any]] = []
    for (version, metric), row in sorted(newest.items()):
        labels = {"model_version": version, "time_window": "1h"}
        if metric == "accuracy":
            samples_.append(["ml_model_accuracy", labels, row["value"]])
        samples_.append(["ml_model_metric", {**labels, "metric": metric}, row["value"]])
    return samples_


def _importance(_model: str, rows: dict[str, Any], _result: Result) -> list[list[Any]]:
    found = [row for row in rows.get("importance", []) if row["importance"] is not None]
    found.sort(key=lambda row: row["rank"])
    return [["ml_feature_importance", {"feature_name": r["feature"]}, r["importance"]] for r in found[:TOP_FEATURES]]


def _triage(_model: str, _rows: dict[str, Any], result: Result) -> list[list[Any]]:
    found = []
    for key, count in result.facts.get("by_severity", {}).items():
        kind, severity = key.split("/")
        found.append(["ml_alerts_firing", {"kind": kind, "severity": severity}, count])
    return found


def drain(store: Store, url: str | None = None) -> dict[str, Any]:
    """Push everything that waits in the outbox. What was pushed is emptied and stays, so that nothing older follows it.

    Raises
    ------
    PushFailed
        The gateway could not be reached, or refused a group; the others were pushed.
    """
    url = url or gateway()
    if url is None:
        return {"status": "ok", "reason": "no gateway is configured (HINDCAST_PUSHGATEWAY)", "pushed": 0}
    table = tables.outbox
    pending, refused = store.rows(table, table.c.content != ""), []
    for row in pending:
        try:
            _push(url, row["model_name"], row["check"], json.loads(row["content"]))
        except HTTPError as error:
            refused.append(f"{row['model_name']} {row['check']}: {error}")
            continue
        except OSError as error:
            message = f"Pushgateway {url}: {error}; what was to be pushed stays in the outbox"
            raise PushFailed(message) from error
        # Something newer may have come meanwhile: only what was pushed is emptied.
        same = [table.c[name] == row[name] for name in ("model_name", "check", "window_start", "content")]
        with store.transaction() as connection:
            connection.execute(update(table).where(*same).values(content=""))
    if refused:
        message = f"Pushgateway {url} refused {'; '.join(refused)}; it stays in the outbox"
        raise PushFailed(message)
    return {"status": "ok", "reason": "" if pending else "nothing waits to be pushed", "pushed": len(pending)}


def _push(url: str, model: str, check: str, content: list[list[Any]]) -> None:
    from prometheus_client import CollectorRegistry, Gauge, push_to_gateway

    registry = CollectorRegistry()
    gauges: dict[str, Gauge] = {}
    for name, labels, value in content:
        if name not in gauges:
            gauges[name] = Gauge(name, _HELP[name], sorted(labels), registry=registry)
        gauge = gauges[name].labels(**labels) if labels else gauges[name]
        gauge.set(value)
    push_to_gateway(url, job=JOB, registry=registry, grouping_key={"model_name": model, "check": check}, timeout=10)
