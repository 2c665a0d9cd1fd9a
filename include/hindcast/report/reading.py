"""The rows that a report is made of, read from the results tables and nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import or_

from hindcast.results import tables
from hindcast.window import HOUR, hours

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from sqlalchemy import ColumnElement, Table

    from hindcast.config import ModelFile
    from hindcast.results.sql import Row, Store

CHECKS = ("pull", "quality", "drift", "performance", "importance", "triage")
# What a feature is shown by: the first of these that it has. All of them are bounded, so that features can be compared.
DRIFT_MEASURES = ("ks_statistic", "phi_squared", "jensen_shannon_distance")
SMALL_MULTIPLES = ("roc_auc", "latency_p95_ms", "request_count", "error_rate")
_PAST_DRIFT = ("window_start", "feature", "baseline", "metric", "value", "threshold", "drifted", "status", "reason")


@dataclass(frozen=True)
class Period:
    """What a page shows: hours ``[start, end)``, in charts that begin at `history_start`."""

    start: datetime
    end: datetime
    history_start: datetime

    @property
    def hours(self) -> int:
        """Number of windows."""
        return int((self.end - self.start) / HOUR)

    @property
    def chart_hours(self) -> list[datetime]:
        """Start of every hour of the charts."""
        return [window.start for window in hours(self.history_start, self.end)]


@dataclass(frozen=True)
class Read:
    """Rows of the period, as the tables have them; `past_*` and `alerts` reach back to the start of the charts."""

    windows: list[Row]
    checks: list[Row]
    alerts: list[Row]
    incidents: list[Row]
    performance: list[Row]
    past_performance: list[Row]
    drift: list[Row]
    past_drift: list[Row]
    importance: list[Row]
    quality: list[Row]
    bins: list[str]
    segment_drift: list[Row] = field(default_factory=list)
    multivariate: list[Row] = field(default_factory=list)


def primary_metric(model: ModelFile) -> str:
    """Name the metric that a model is first judged by."""
    return "mean_absolute_error" if model.task == "regression" else "accuracy"


def expected_checks(model: ModelFile) -> list[str]:
    """Name the checks that should have judged the rows: importance needs a model artifact."""
    return [check for check in CHECKS if check != "pull" and (check != "importance" or model.explain.model)]


def measured_drift(rows: list[Row]) -> list[Row]:
    """Keep one drift row per feature, hour and baseline: of the first of `DRIFT_MEASURES` that the feature has."""
    order = {metric: place for place, metric in enumerate(DRIFT_MEASURES)}
    best: dict[str, int] = {}
    for row in rows:
        place = order.get(row["metric"], len(order))
        best[row["feature"]] = min(place, best.get(row["feature"], place))
    return [row for row in rows if order.get(row["metric"]) == best[row["feature"]]]


def deciding_drift(rows: list[Row]) -> list[Row]:
    """Rows of the baseline that decides: the seasonal one, or the reference as long as there is none."""
    measured = measured_drift(rows)
    return [row for row in measured if row["baseline"] == "seasonal"] or measured


def mature(rows: list[Row]) -> list[Row]:
    """Per hour, version, segment and metric the row of the largest label age that has a value, by hour."""
    best: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        key = (row["window_start"], row["model_version"], row["segment"], row["metric"])
        if key not in best or _maturity(row) > _maturity(best[key]):
            best[key] = row
    return [best[key] for key in sorted(best)]


def _maturity(row: Row) -> tuple[bool, int]:
    return row["value"] is not None, row["label_age_hours"]


def begun(store: Store, model: ModelFile, period: Period) -> Period:
    """Let the charts begin with the model's first hour that had predictions, if that is later."""
    windows = tables.windows
    within = (windows.c.window_start >= period.history_start, windows.c.window_start < period.start, windows.c.rows > 0)
    past = store.rows(windows, *within, columns=("window_start",), model_name=model.model)
    return replace(period, history_start=min((row["window_start"] for row in past), default=period.start))


def read(store: Store, model: ModelFile, period: Period) -> Read:
    """Read everything that a page of `period` shows.

    Raises
    ------
    StoreError
        The results cannot be read.
    """

    def rows(table: Table, *where: ColumnElement[bool], columns: tuple[str, ...] = (), **key: Any) -> list[Row]:
        within = (table.c.window_start >= period.start, table.c.window_start < period.end)
        return store.rows(table, *within, *where, columns=columns, model_name=model.model, **key)

    def past(table: Table, *where: ColumnElement[bool], columns: tuple[str, ...] = ()) -> list[Row]:
        within = (table.c.window_start >= period.history_start, table.c.window_start < period.end)
        return store.rows(table, *within, *where, columns=columns, model_name=model.model, segment="*")

    perform, drift, primary = tables.performance, tables.drift, primary_metric(model)
    alerts = _alerts(store, model, period)
    incidents = {alert["incident_id"] for alert in alerts if alert["incident_id"]}
    return Read(
        windows=rows(tables.windows),
        checks=rows(tables.checks),
        alerts=alerts,
        incidents=store.rows(tables.incidents, incident_id=incidents) if incidents else [],
        performance=mature(rows(perform, or_(perform.c.segment == "*", perform.c.metric == primary))),
        past_performance=mature(past(perform, perform.c.metric.in_([primary, *SMALL_MULTIPLES]))),
        drift=rows(drift, segment="*", scale_hours=1),
        past_drift=_past_drift(past),
        importance=rows(tables.importance),
        quality=rows(tables.quality),
        bins=sorted({row["bins_digest"] for row in rows(tables.profiles, columns=("bins_digest",))}),
        segment_drift=rows(drift, drift.c.segment != "*", metric="jensen_shannon_distance", scale_hours=1),
        multivariate=_multivariate(store, model, period),
    )


def _multivariate(store: Store, model: ModelFile, period: Period) -> list[Row]:
    """Rows about several hours, some of which are of the period: the newest ones about all features together first."""
    drift = tables.drift
    within = (drift.c.window_start > period.start - 48 * HOUR, drift.c.window_start < period.end)
    found = store.rows(drift, *within, drift.c.scale_hours > 1, model_name=model.model, segment="*")
    touching = [row for row in found if row["window_start"] + row["scale_hours"] * HOUR > period.start]
    return sorted(touching, key=lambda row: (row["feature"] != "*", -row["window_start"].timestamp()))


def _past_drift(past: Callable[..., list[Row]]) -> list[Row]:
    """One row per feature, hour and baseline; the last resort is read only for features that have nothing better."""
    drift, hourly = tables.drift, tables.drift.c.scale_hours == 1
    *better, last = DRIFT_MEASURES
    found = past(drift, hourly, drift.c.metric.in_(better), columns=_PAST_DRIFT)
    known = {row["feature"] for row in found}
    others = past(drift, hourly, drift.c.metric == last, drift.c.feature.not_in(known), columns=_PAST_DRIFT)
    return measured_drift(found + others)


def _alerts(store: Store, model: ModelFile, period: Period) -> list[Row]:
    """Alerts that were open at any time of the charts, by the time they opened."""
    alerts = tables.alerts
    until_later = or_(alerts.c.resolved_at.is_(None), alerts.c.resolved_at > period.history_start)
    found = store.rows(alerts, alerts.c.opened_at <= period.end, until_later, model_name=model.model)
    return sorted(found, key=lambda alert: (alert["opened_at"], alert["alert_id"]))
