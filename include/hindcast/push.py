"""Metrics for Prometheus: what each check says, the outbox that is filled with its results, and how it is emptied.

One group per (job, model_name, check), replaced as a whole with PUT. No check waits for the gateway; while it is down
the outbox holds the newest window of each check, and nothing older ever replaces it, also once it was pushed. What was
pushed stays in the outbox, so that a gateway that lost everything can be given it again.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, delete, insert, select, update

from hindcast import gateway
from hindcast.config import paths
from hindcast.errors import PushFailed, PushRefused, UsageError
from hindcast.results import tables

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy import Connection

    from hindcast.checks.run import Result, Run
    from hindcast.gateway import Gateway
    from hindcast.results.sql import Store

    Sample = list[Any]

__all__ = ["drain", "fill", "retire", "samples", "shown_features"]

# All models together stay below this; a model's own, beside its features, never exceed FIXED_SERIES: 30 that its groups
# have (12 of them the gateway's), 4 of pull, quality and drift, and the two limits below.
MAX_SERIES = 20_000
FIXED_SERIES = 70
PERFORMANCE_SERIES = 24
TRIAGE_SERIES = 12
FEATURE_FAMILIES = 4
TOP_FEATURES = 50
_GRAVEST = 3
_LABELS_SOUGHT = timedelta(days=14)
HELP = {
    "ml_model_accuracy": "Accuracy of the newest judged window",
    "ml_model_metric": "Performance metric of the newest judged window",
    "ml_model_metric_baseline": "What the metric was in the days before",
    "ml_feature_drift_detected": "1 while the feature is inside a drift episode",
    "ml_feature_drift_score": "Distance of the feature from its baseline",
    "ml_drifted_feature_ratio": "Share of the judged features that drifted",
    "ml_feature_missing_ratio": "Share of missing values",
    "ml_data_quality_success_ratio": "Share of expectations that were met",
    "ml_feature_importance": "Mean absolute SHAP value",
    "ml_alerts_firing": "Alerts that are firing",
    "ml_alert_current_value": "What the gravest alerts are about",
    "ml_incidents_open": "Incidents that are open",
    "ml_incident_opened_timestamp_seconds": "Since when the newest open incident is open",
    "ml_window_end_timestamp_seconds": "End of the newest window",
    "ml_last_success_timestamp_seconds": "When the check last succeeded: end of its window",
    "ml_newest_prediction_timestamp_seconds": "Time of the newest prediction in the logs",
    "ml_newest_labelled_timestamp_seconds": "End of the newest window of which labels are known",
    "ml_rows_processed": "Rows of the newest window",
    "ml_check_duration_seconds": "How long the check took",
}


def shown_features(models: int) -> int:
    """How many features of a model are pushed, so that all models together stay below `MAX_SERIES`.

    Examples
    --------
    >>> shown_features(1), shown_features(80), shown_features(100), shown_features(200)
    (50, 44, 32, 7)
    """
    room = (MAX_SERIES - 1) // max(models, 1) - FIXED_SERIES
    return max(1, min(TOP_FEATURES, room // FEATURE_FAMILIES))


def samples(run: Run, result: Result, seconds: float, connection: Connection) -> list[Sample]:
    """Metrics of one check as ``[name, labels, value]``; the group's own labels are left out."""
    ended = run.window.end if result.status not in {"error", "failed"} else _last_success(run, result.check, connection)
    found: list[Sample] = [
        ["ml_window_end_timestamp_seconds", {}, run.window.end.timestamp()],
        ["ml_check_duration_seconds", {}, seconds],
    ]
    if ended:
        found.append(["ml_last_success_timestamp_seconds", {}, ended.timestamp()])
    if result.check == "pull":
        return found + _pull(run, result, connection)
    if result.check == "performance":
        return found + _performance(run, result, connection)
    if result.check == "triage":
        return found + _triage(result)
    top = shown_features(len(paths(run.model.path.parent)) if run.model.path.name else 1)
    build = {"quality": _quality, "drift": _drift, "importance": _importance}[result.check]
    return found + build(result, top)


def _rows(result: Result, table: str) -> list[dict[str, Any]]:
    return [row for name, _, rows in result.writes if name == table for row in rows]


def _last_success(run: Run, check: str, connection: Connection) -> datetime | None:
    """End of the newest window that the check could judge."""
    table = tables.checks.c
    where = (table.model_name == run.model.model, table.window_start <= run.window.start, table.check == check)
    query = select(table.window_start).where(*where, table.status.not_in(["error", "failed"]))
    newest = connection.execute(query.order_by(table.window_start.desc()).limit(1)).scalar()
    return newest + (run.window.end - run.window.start) if newest else None


def _pull(run: Run, result: Result, connection: Connection) -> list[Sample]:
    table = tables.windows.c
    where = (table.model_name == run.model.model, table.window_start <= run.window.start)
    query = select(table.newest_prediction).where(*where, table.newest_prediction.is_not(None))
    newest = connection.execute(query.order_by(table.window_start.desc()).limit(1)).scalar()
    found: list[Sample] = [["ml_rows_processed", {}, result.facts.get("rows", 0)]]
    return found + ([["ml_newest_prediction_timestamp_seconds", {}, newest.timestamp()]] if newest else [])


def _quality(result: Result, top: int) -> list[Sample]:
    found: list[Sample] = []
    if result.facts.get("success_ratio") is not None:
        found.append(["ml_data_quality_success_ratio", {}, result.facts["success_ratio"]])
    rows = _rows(result, "quality")
    missing = [row for row in rows if row["metric"] == "missing_ratio" and row["value"] is not None]
    missing.sort(key=lambda row: (-row["value"], row["subject"]))
    return found + [["ml_feature_missing_ratio", {"feature_name": r["subject"]}, r["value"]] for r in missing[:top]]


def _drift(result: Result, top: int) -> list[Sample]:
    from hindcast.profile.bins import outputs_among  # with numpy, which the task that pushes does without

    drifted = set(result.facts.get("drifted", ()))
    scored = [
        row
        for row in _rows(result, "drift")
        if (row["segment"], row["baseline"], row["metric"]) == ("*", "seasonal", "jensen_shannon_distance")
        and row["value"] is not None
    ]
    outputs = outputs_among({row["feature"] for row in scored})
    scored = [row for row in scored if row["feature"] not in outputs]
    scored.sort(key=lambda row: (row["feature"] not in drifted, -row["value"], row["feature"]))
    found: list[Sample] = []
    if scored:
        ratio = len(drifted & {row["feature"] for row in scored}) / len(scored)
        found.append(["ml_drifted_feature_ratio", {}, ratio])
    for row in scored[:top]:
        labels = {"feature_name": row["feature"]}
        found.append(["ml_feature_drift_detected", labels, float(row["feature"] in drifted)])
        found.append(["ml_feature_drift_score", labels, row["value"]])
    return found


def _importance(result: Result, top: int) -> list[Sample]:
    found = [row for row in _rows(result, "importance") if row["importance"] is not None]
    found.sort(key=lambda row: row["rank"])
    return [["ml_feature_importance", {"feature_name": row["feature"]}, row["importance"]] for row in found[:top]]


def _performance(run: Run, result: Result, connection: Connection) -> list[Sample]:
    written = [row for row in _rows(result, "performance") if row["segment"] == "*"]
    newest: dict[tuple[str, str], dict[str, Any]] = {}
    for row in sorted(written, key=lambda row: row["window_start"]):
        if row["value"] is not None and row["status"] == "ok":
            newest[row["model_version"], row["metric"]] = row
    found = _labelled(run, written, connection)
    # Versions with the newest windows come first; what has no room in the budget of series is in the tables.
    recent = {version: max(r["window_start"] for (v, _), r in newest.items() if v == version) for version, _ in newest}
    for version in sorted(recent, key=lambda version: (recent[version], version), reverse=True):
        own = [row for (of, _), row in sorted(newest.items()) if of == version]
        made = _of_version(version, own)
        if len(found) + len(made) <= PERFORMANCE_SERIES or version == max(recent, key=lambda v: (recent[v], v)):
            found += made[: PERFORMANCE_SERIES - len(found)]
    return found


def _of_version(version: str, rows: Iterable[dict[str, Any]]) -> list[Sample]:
    labels = {"model_version": version, "time_window": "1h"}
    values: list[Sample] = [["ml_model_metric", {**labels, "metric": r["metric"]}, r["value"]] for r in rows]
    accuracy: list[Sample] = [["ml_model_accuracy", labels, r["value"]] for r in rows if r["metric"] == "accuracy"]
    baselines: list[Sample] = [
        ["ml_model_metric_baseline", {**labels, "metric": row["metric"]}, row["baseline"]]
        for row in rows
        if row["baseline"] is not None
    ]
    return accuracy + values + baselines


def _labelled(run: Run, written: Sequence[dict[str, Any]], connection: Connection) -> list[Sample]:
    """The clock of the labels: end of the newest window of which any is known."""
    starts = [row["window_start"] for row in written if row["label_coverage"]]
    if not starts:
        table, first = tables.performance.c, run.window.start - _LABELS_SOUGHT
        where = (table.model_name == run.model.model, table.window_start >= first, table.segment == "*")
        query = select(table.window_start).where(
            *where, table.window_start <= run.window.start, table.label_coverage > 0
        )
        starts = list(connection.execute(query.order_by(table.window_start.desc()).limit(1)).scalars())
    length = run.window.end - run.window.start
    return [["ml_newest_labelled_timestamp_seconds", {}, (max(starts) + length).timestamp()]] if starts else []


def _triage(result: Result) -> list[Sample]:
    found: list[Sample] = []
    incidents = [row for row in _rows(result, "incidents") if row["state"] == "open"]
    if incidents:
        newest = max(incidents, key=lambda row: row["opened_at"])
        found.append(["ml_incident_opened_timestamp_seconds", {}, newest["opened_at"].timestamp()])
        gravest = min(row["severity"] for row in incidents)
        found.append(["ml_incidents_open", {"severity": gravest}, len(incidents)])
    firing = [row for row in _rows(result, "alerts") if row["state"] == "firing" and row["current_value"] is not None]
    firing.sort(key=lambda row: (row["severity"], -abs(row["change_percent"] or 0), row["subject"]))
    for row in firing[:_GRAVEST]:
        labels = {name: row[name] for name in ("kind", "severity", "subject", "metric")}
        found.append(["ml_alert_current_value", labels, row["current_value"]])
    counted = result.facts.get("by_severity", {})
    for key in sorted(counted, key=lambda key: (key.partition("/")[2], key))[: TRIAGE_SERIES - len(found)]:
        kind, severity = key.split("/")
        found.append(["ml_alerts_firing", {"kind": kind, "severity": severity}, counted[key]])
    return found


# --- the outbox ---


def fill(run: Run, result: Result, seconds: float, connection: Connection) -> None:
    """Put a check's metrics into the outbox, unless it holds those of a newer window."""
    key = {"model_name": run.model.model, "check": result.check}
    outbox, pushes = tables.outbox, tables.pushes
    newest = connection.execute(select(outbox.c.window_start).where(*_is(outbox, key))).scalar()
    if newest is not None and newest > run.window.start:
        return
    content = json.dumps(samples(run, result, seconds, connection))
    run.store.replace(connection, outbox, [{**key, "window_start": run.window.start, "content": content}], **key)
    connection.execute(delete(pushes).where(*_is(pushes, key)))


def _is(table: Any, key: dict[str, Any]) -> list[Any]:
    return [table.c[name] == value for name, value in key.items()]


def drain(store: Store, url: str | None = None, *, again: bool = False) -> dict[str, Any]:
    """Push what waits in the outbox; `again` pushes all that it holds, for a gateway that lost it.

    A group that the gateway refuses is a finding about ourselves (kind system, also in the table `pushes`), and is not
    tried again until its check has run again; the others are pushed.

    Raises
    ------
    PushFailed
        The gateway could not be reached; what was not pushed stays in the outbox.
    """
    found = gateway.find(url)
    if found is None:
        return {"status": "ok", "reason": "no gateway is configured (HINDCAST_PUSHGATEWAY)", "pushed": 0}
    refused = []
    rows = _waiting(store, again=again)
    for row in rows:
        try:
            _send(found, row["model_name"], row["check"], json.loads(row["content"]))
        except PushRefused as error:
            refused.append(f"{row['model_name']} {row['check']}: {error}")
            _record(store, row, "refused", str(error))
        except PushFailed as error:
            message = f"{error}; what was to be pushed stays in the outbox"
            raise PushFailed(message) from error
        else:
            _record(store, row, "ok")
    reason = "; ".join(refused) if rows else "nothing waits to be pushed"
    pushed = len(rows) - len(refused)
    return {"status": "refused" if refused else "ok", "reason": reason, "pushed": pushed, "refused": len(refused)}


def _waiting(store: Store, *, again: bool) -> list[dict[str, Any]]:
    """Rows of the outbox; content is empty where a version before this one had pushed it."""
    outbox, pushes = tables.outbox, tables.pushes
    same = and_(outbox.c.model_name == pushes.c.model_name, outbox.c.check == pushes.c.check)
    joined = outbox.outerjoin(pushes, same)
    query = select(*outbox.c).select_from(joined).where(outbox.c.content != "").order_by(*outbox.primary_key.columns)
    if not again:
        query = query.where(pushes.c.status.is_(None))
    with store.engine.connect() as connection:
        return [dict(row) for row in connection.execute(query).mappings()]


def _send(found: Gateway, model: str, check: str, content: list[Sample]) -> None:
    from prometheus_client import Gauge

    gauges: dict[str, Gauge] = {}
    for name, labels, value in content:
        if name not in gauges:
            gauges[name] = Gauge(name, HELP[name], sorted(labels), registry=None)
        gauge = gauges[name].labels(**labels) if labels else gauges[name]
        gauge.set(value)
    found.put({"model_name": model, "check": check}, list(gauges.values()))


def _record(store: Store, row: dict[str, Any], status: str, reason: str = "") -> None:
    """Note how a push ended. If something newer came meanwhile, it goes out next, after what was just sent."""
    outbox, pushes, checks, findings = tables.outbox, tables.pushes, tables.checks, tables.findings
    key = {name: row[name] for name in ("model_name", "check")}
    now = datetime.now(UTC)

    def work(connection: Connection) -> None:
        connection.execute(delete(pushes).where(*_is(pushes, key)))
        # An update, and not a look: it keeps the row until the end of the transaction.
        start = row["window_start"]
        same = update(outbox).where(*_is(outbox, {**key, "window_start": start, "content": row["content"]}))
        counted = {"preserve_rowcount": True}
        if connection.execute(same.values(window_start=start), execution_options=counted).rowcount != 1:
            return
        window = {"model_name": row["model_name"], "window_start": start}
        noted = {**key, "window_start": start, "pushed_at": now, "status": status, "reason": reason}
        connection.execute(insert(pushes), noted)
        system = {**window, "check": "push", "kind": "system", "subject": "*", "segment": f"check={row['check']}"}
        connection.execute(delete(findings).where(*_is(findings, system)))
        if status == "refused":
            finding = {"metric": "refused_pushes", "scale_hours": 1, "label_age_hours": 0, "value": 1.0,
                       "severity": "warning", "detected_at": now, "reason": reason}  # fmt: skip
            connection.execute(insert(findings), {**system, **finding})
        own = {**window, "check": "push"}
        bad = connection.execute(select(findings.c.reason).where(*_is(findings, own)).limit(1)).scalar()
        connection.execute(delete(checks).where(*_is(checks, own)))
        ended = {**own, "status": "error" if bad else "ok", "reason": bad or "", "as_of": now, "recorded_at": now}
        connection.execute(insert(checks), ended)

    store.write(work)


def retire(store: Store, model: str, url: str | None = None) -> list[str]:
    """Delete a model's groups on the gateway, and what the outbox holds of it; returns the checks it had.

    Raises
    ------
    UsageError
        No gateway is configured.
    PushFailed, PushRefused
        The gateway did not delete a group; those before it are gone.
    """
    found = gateway.find(url)
    if found is None:
        message = "no gateway is configured: set HINDCAST_PUSHGATEWAY, or what it shows of the model stays for ever"
        raise UsageError(message)
    rows = store.rows(tables.outbox, columns=("check",), model_name=model)
    known = sorted({row["check"] for row in rows})
    for check in known:
        found.delete({"model_name": model, "check": check})
        key = {"model_name": model, "check": check}
        store.write(partial(store.replace_all, writes=[(tables.outbox, key, []), (tables.pushes, key, [])]))
    return known
