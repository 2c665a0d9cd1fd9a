"""The rows that a report is made of, read from the results tables and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import or_

from hindcast.results import tables
from hindcast.window import HOUR, hours

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import ColumnElement, Table

    from hindcast.config import ModelFile
    from hindcast.results.sql import Row, Store

CHECKS = ("quality", "drift", "performance", "importance")
# One statistic per kind of feature: the one that the alert policy judges.
JUDGED_DRIFT = ("ks_statistic", "phi_squared")
SMALL_MULTIPLES = ("roc_auc", "latency_p95_ms", "request_count", "error_rate")
_PAST_DRIFT = ("window_start", "feature", "baseline", "value", "threshold", "drifted", "status", "reason")


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


def primary_metric(model: ModelFile) -> str:
    """Name the metric that a model is first judged by."""
    return "mean_absolute_error" if model.task == "regression" else "accuracy"


def expected_checks(model: ModelFile) -> list[str]:
    """Name the checks that should have run: importance needs a model artifact."""
    return [check for check in CHECKS if check != "importance" or model.explain.model]


def judged_drift(rows: list[Row]) -> list[Row]:
    """Rows that the alert policy decides on: seasonal ones, or the reference's as long as there are none."""
    judged = [row for row in rows if row["metric"] in JUDGED_DRIFT]
    return [row for row in judged if row["baseline"] == "seasonal"] or judged


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
        past_drift=past(drift, drift.c.metric.in_(JUDGED_DRIFT), drift.c.scale_hours == 1, columns=_PAST_DRIFT),
        importance=rows(tables.importance),
        quality=rows(tables.quality),
        bins=sorted({row["bins_digest"] for row in rows(tables.profiles, columns=("bins_digest",))}),
    )


def _alerts(store: Store, model: ModelFile, period: Period) -> list[Row]:
    """Alerts that were open at any time of the charts, by the time they opened."""
    alerts = tables.alerts
    until_later = or_(alerts.c.resolved_at.is_(None), alerts.c.resolved_at > period.history_start)
    found = store.rows(alerts, alerts.c.opened_at <= period.end, until_later, model_name=model.model)
    return sorted(found, key=lambda alert: (alert["opened_at"], alert["alert_id"]))
