"""Writes the dashboards: `make monitoring`, or `python include/grafana/build.py [FOLDER]`.

Four of them: fleet (all models), model, pipeline (Prometheus: now) and history (the results tables in PostgreSQL: then).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.builders import dashboard as boards
from grafana_foundation_sdk.builders import heatmap, prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models.dashboard import (
    DashboardLinkType,
    DataSourceRef,
    DataTransformerConfig,
    VariableRefresh,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

PROMETHEUS = DataSourceRef(type_val="prometheus", uid="prometheus")
RESULTS = DataSourceRef(type_val="postgres", uid="results")
M = 'model_name=~"$model_name"'
RUNS = "${airflow}/dags/hindcast_hourly__${model_name}/runs"
REPORT = "${airflow}/dags/hindcast_incident/runs"
WIDTH = {"third": 8, "half": 12, "full": 24}


class Query(Dataquery):
    """SQL, for Grafana's PostgreSQL source, of which the SDK has no query."""

    def __init__(self, sql: str, kind: str) -> None:
        self.sql, self.kind = " ".join(sql.split()), kind

    def to_json(self) -> dict[str, Any]:
        """What a panel's target holds."""
        plain = {"refId": "A", "datasource": {"type": "postgres", "uid": "results"}, "editorMode": "code"}
        return {**plain, "rawQuery": True, "rawSql": self.sql, "format": self.kind}


class SQL(Builder[Dataquery]):
    """Builds a `Query`."""

    def __init__(self, sql: str, kind: str = "time_series") -> None:
        self.query = Query(sql, kind)

    def build(self) -> Dataquery:
        """The query itself."""
        return self.query


def links() -> list[Any]:
    """From a panel to the runs of the model's DAG in Airflow, and to the DAG that writes reports."""
    return [
        boards.DashboardLink(title).type(DashboardLinkType.LINK).url(url).target_blank(True)
        for title, url in (
            ("Airflow: runs of the model", RUNS),
            ("Airflow: write a report", REPORT),
        )
    ]


def panel(kind: Any, title: str, unit: str, width: str, said: str, *queries: Any, source: Any = PROMETHEUS) -> Any:
    """A panel with its queries: PromQL with its legend, or SQL."""
    made = kind.Panel().title(title).description(said).datasource(source).unit(unit).height(8).span(WIDTH[width])
    made = made.links(links())
    for number, query in enumerate(queries):
        if isinstance(query, tuple):
            asked = prometheus.Dataquery().expr(query[0]).legend_format(query[1]).ref_id(chr(65 + number))
            if kind is table:
                asked = asked.instant().format(PromQueryFormat.TABLE)
            if kind is heatmap and "_bucket" in query[0]:
                asked = asked.format(PromQueryFormat.HEATMAP)
            made = made.with_target(asked)
        else:
            made = made.with_target(query)
    return made


def chart(title: str, unit: str, said: str, *queries: Any, width: str = "half", source: Any = PROMETHEUS) -> Any:
    """Lines over time."""
    return panel(timeseries, title, unit, width, said, *queries, source=source)


def single(title: str, unit: str, said: str, expression: str) -> Any:
    """One number per model."""
    return panel(stat, title, unit, "third", said, (expression, "{{model_name}}"))


def rows(title: str, said: str, *queries: Any, source: Any = PROMETHEUS) -> Any:
    """A table; several queries become one row per model."""
    made = panel(table, title, "short", "full", said, *queries, source=source)
    if len(queries) > 1:
        made = made.with_transformation(DataTransformerConfig(id_val="merge", options={}))
    return made


def board(uid: str, title: str, said: str, *panels: Any, models: bool = True, span: str = "now-24h") -> Any:
    """A dashboard; `models` lets one choose them."""
    made = boards.Dashboard(title).uid(uid).description(said).tags(["hindcast"]).time(span, "now").refresh("1m")
    made = made.timezone("utc").readonly()
    made = made.link(
        boards.DashboardLink("Hindcast").type(DashboardLinkType.DASHBOARDS).tags(["hindcast"]).keep_time(True)
    )
    address = boards.TextBoxVariable("airflow").label("Airflow").default_value("http://127.0.0.1:8080")
    made = made.with_variable(address)
    if models:
        known = boards.QueryVariable("model_name").label("Model").datasource(PROMETHEUS).multi(True).include_all(True)
        known = known.query("label_values(ml_window_end_timestamp_seconds, model_name)").refresh(
            VariableRefresh.ON_TIME_RANGE_CHANGED
        )
        made = made.with_variable(known)
    firing = boards.AnnotationQuery().name("Alerts").datasource(PROMETHEUS).enable(True).icon_color("red")
    firing = firing.expr(FIRING if models else FLEET)
    made = made.annotation(firing)
    for one in panels:
        made = made.with_panel(one)
    return made


FLEET = 'ALERTS{alertstate="firing", class!="heartbeat"}'
FIRING = f'ALERTS{{alertstate="firing", class!="heartbeat", {M}}}'


def fleet() -> Any:
    """All models, one row each."""
    return board(
        "hindcast-fleet", "Hindcast: fleet", "All models, one row each",
        rows(
            "Models", "State (0 quiet, 1 warnings, 2 a critical alert), freshness, accuracy, drifted share, firing alerts",
            ('2 * (sum by (model_name) (ml_alerts_firing{severity="critical"}) > bool 0) or sum by (model_name) (ml_alerts_firing) > bool 0 or 0 * max by (model_name) (ml_window_end_timestamp_seconds)', "state"),
            ("hindcast:checks:age_seconds", "checked, seconds ago"),
            ('max by (model_name) (ml_model_accuracy{time_window="1h"})', "accuracy"),
            ("max by (model_name) (ml_drifted_feature_ratio)", "drifted share"),
            ("sum by (model_name) (ml_alerts_firing) or 0 * max by (model_name) (ml_window_end_timestamp_seconds)", "firing"),
        ),
        chart("Accuracy", "percentunit", "Newest judged hour of each model", ('max by (model_name) (ml_model_accuracy{time_window="1h"})', "{{model_name}}")),
        chart("Drifted features", "percentunit", "Share of the judged features", ("max by (model_name) (ml_drifted_feature_ratio)", "{{model_name}}")),
        chart("Predictions per second", "reqps", "Serving process, or the logs", ("hindcast:predictions:rate1h", "{{model_name}}")),
        chart("Firing alerts", "short", "By kind and severity", ("sum by (model_name, kind, severity) (ml_alerts_firing)", "{{model_name}} {{kind}} {{severity}}")),
        rows("Firing in Alertmanager", "What Prometheus itself holds firing", (FLEET, "")),
        models=False,
    )  # fmt: skip


def model() -> Any:
    """One model, or a few side by side."""
    quantiles = [
        (f"histogram_quantile({q}, sum by (le, model_name) (rate(ml_prediction_latency_seconds_bucket{{{M}}}[5m])))", f"p{100 * q:g} {{{{model_name}}}}")
        for q in (0.5, 0.95, 0.99)
    ]  # fmt: skip
    return board(
        "hindcast-model", "Hindcast: model", "How one model is served and how it does",
        chart("Prediction rate", "reqps", "Serving process", (f"sum by (model_name, model_version) (rate(ml_predictions_total{{{M}}}[5m]))", "{{model_name}} {{model_version}}")),
        chart("Latency", "s", "Serving process: p50, p95, p99", *quantiles),
        chart("Latency of the checked hour", "ms", "From the logs", (f'ml_model_metric{{{M}, metric=~"latency_p.*"}}', "{{model_name}} {{metric}}")),
        chart("Errors", "percentunit", "Share of predictions that fail", (f"hindcast:errors:ratio{{{M}}}", "{{model_name}}")),
        chart("Accuracy by hour against baseline", "percentunit", "Newest judged hour, and the days before",
              (f'ml_model_accuracy{{{M}, time_window="1h"}}', "{{model_name}} {{model_version}}"),
              (f'ml_model_metric_baseline{{{M}, metric="accuracy"}}', "baseline {{model_name}}")),
        chart("All metrics", "short", "Newest judged hour", (f'ml_model_metric{{{M}, metric!~"latency.*|request_count"}}', "{{model_name}} {{metric}}")),
        panel(heatmap, "Confidence", "short", "half", "Distribution of the confidence", (f"sum by (le) (increase(ml_prediction_confidence_bucket{{{M}}}[10m]))", "{{le}}")),
        panel(heatmap, "Drift of features", "short", "half", "Distance of each feature from its season", (f"max by (feature_name) (ml_feature_drift_score{{{M}}})", "{{feature_name}}")),
        chart("Features inside a drift episode", "short", "1 while it lasts", (f"ml_feature_drift_detected{{{M}}} == 1 or 0 * ml_feature_drift_detected{{{M}}}", "{{model_name}} {{feature_name}}")),
        chart("Expectations met", "percentunit", "Data quality", (f"ml_data_quality_success_ratio{{{M}}}", "{{model_name}}")),
        chart("Missing values", "percentunit", "The highest", (f"topk(10, ml_feature_missing_ratio{{{M}}})", "{{model_name}} {{feature_name}}")),
        chart("Importance", "short", "Mean absolute SHAP value", (f"topk(10, ml_feature_importance{{{M}}})", "{{model_name}} {{feature_name}}")),
        chart("Mean of features", "short", "Serving process", (f"sum by (model_name, feature_name) (rate(ml_feature_value_sum{{{M}}}[1h])) / sum by (model_name, feature_name) (rate(ml_feature_value_count{{{M}}}[1h]))", "{{model_name}} {{feature_name}}")),
        rows("Gravest alerts", "What they are about", (f"ml_alert_current_value{{{M}}}", "")),
    )  # fmt: skip


def pipeline() -> Any:
    """Whether Hindcast itself is well."""
    return board(
        "hindcast-pipeline", "Hindcast: pipeline", "Runs, durations, lateness, pushes",
        single("Checked, ago", "s", "Oldest last success of a model's checks", f"hindcast:checks:age_seconds{{{M}}}"),
        single("Newest prediction, ago", "s", "In the logs", f"hindcast:predictions:age_seconds{{{M}}}"),
        single("Newest labelled hour, ago", "s", "Of which any label is known", f"hindcast:labels:age_seconds{{{M}}}"),
        chart("Duration of the checks", "s", "Newest run", (f"max by (model_name, check) (ml_check_duration_seconds{{{M}}})", "{{model_name}} {{check}}")),
        chart("Lateness", "s", "From the window's end to the push of its triage", (f'push_time_seconds{{{M}, check="triage"}} - on (model_name) ml_window_end_timestamp_seconds{{{M}, check="triage"}}', "{{model_name}}")),
        chart("Rows", "short", "Of the newest window", (f"max by (model_name) (ml_rows_processed{{{M}}})", "{{model_name}}")),
        chart("Since the last push", "s", "By check", (f"time() - max by (model_name, check) (push_time_seconds{{{M}}})", "{{model_name}} {{check}}")),
        chart("Refused pushes", "short", "1 where the newest push was refused", (f"max by (model_name, check) (push_failure_time_seconds{{{M}}}) > bool max by (model_name, check) (push_time_seconds{{{M}}})", "{{model_name}} {{check}}")),
        chart("Scraped", "short", "1 while it answers Prometheus", ("up", "{{job}} {{instance}}")),
    )  # fmt: skip


def history() -> Any:
    """What the tables say of then, replays and backfills included."""
    at = "window_start AS time"
    within = "$__timeFilter(window_start)"
    hour = f"{within} AND segment = '*'"

    def then(title: str, unit: str, said: str, sql: str, width: str = "half") -> Any:
        return chart(title, unit, said, SQL(sql), width=width, source=RESULTS)

    return board(
        "hindcast-history", "Hindcast: history", "The results tables: then, where Prometheus is now",
        then("Accuracy", "percentunit", "At the largest label age that was judged", f"SELECT {at}, model_name AS metric, (array_agg(value ORDER BY label_age_hours DESC))[1] AS value FROM performance WHERE {hour} AND metric = 'accuracy' AND value IS NOT NULL GROUP BY window_start, model_name ORDER BY window_start"),
        then("Accuracy by segment", "percentunit", "The same, per segment", f"SELECT {at}, model_name || ' ' || segment AS metric, (array_agg(value ORDER BY label_age_hours DESC))[1] AS value FROM performance WHERE {within} AND segment <> '*' AND metric = 'accuracy' AND value IS NOT NULL GROUP BY window_start, model_name, segment ORDER BY window_start"),
        then("Drift of features", "short", "Jensen-Shannon distance from the season", f"SELECT {at}, model_name || ' ' || feature AS metric, value FROM drift WHERE {hour} AND baseline = 'seasonal' AND metric = 'jensen_shannon_distance' AND value IS NOT NULL ORDER BY window_start"),
        then("Missing values", "percentunit", "By feature", f"SELECT {at}, model_name || ' ' || subject AS metric, value FROM quality WHERE {within} AND metric = 'missing_ratio' AND value IS NOT NULL ORDER BY window_start"),
        then("Importance", "short", "Mean absolute SHAP value", f"SELECT {at}, model_name || ' ' || feature AS metric, importance AS value FROM importance WHERE {within} AND importance IS NOT NULL ORDER BY window_start"),
        then("Rows", "short", "Of each window", f"SELECT {at}, model_name AS metric, rows AS value FROM windows WHERE {within} ORDER BY window_start"),
        rows("Incidents", "Newest first", SQL("SELECT opened_at, resolved_at, affected_model, severity, title, root_cause FROM incidents WHERE $__timeFilter(opened_at) ORDER BY opened_at DESC", "table"), source=RESULTS),
        rows("Alerts", "Newest first", SQL("SELECT opened_at, resolved_at, model_name, severity, kind, subject, metric, current_value, baseline_value FROM alerts WHERE $__timeFilter(opened_at) ORDER BY opened_at DESC", "table"), source=RESULTS),
        models=False, span="now-30d",
    )  # fmt: skip


def write(folder: Path) -> None:
    """Write every dashboard as JSON."""
    for name, made in (("fleet", fleet()), ("model", model()), ("pipeline", pipeline()), ("history", history())):
        text = JSONEncoder(sort_keys=True, indent=1).encode(made.build())
        (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "dashboards")
