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
    DynamicConfigValue,
    VariableRefresh,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

PROMETHEUS = DataSourceRef(type_val="prometheus", uid="prometheus")
RESULTS = DataSourceRef(type_val="postgres", uid="results")
M = 'model_name=~"$model_name"'
# Hindcast's plugin in Airflow answers there: it knows which run made a figure, and writes the report of its hour.
AIRFLOW = "${airflow:raw}/hindcast/%s?dag_id=hindcast_hourly__%s&%s"
# Of which model a point or a cell is, and of when: seen at a moment, or of an hour.
POINT = ("${__field.labels.model_name}", "at=${__value.time}")
STORED = ("${__field.labels.model_name}", "hour=${__value.time}")
LATEST = ("${__field.labels.model_name}", "at=${__to}")
CELL = ("${__data.fields.model_name}", "at=${__to}")
ROW = ("${__data.fields.model_name}", "hour=${__data.fields.hour}")
CHOSEN = ("${model_name:raw}", "at=${__to}")
STATES = {"0": {"text": "quiet", "color": "green"}, "1": {"text": "warnings", "color": "orange"}, "2": {"text": "critical", "color": "red"}}  # fmt: skip
HIDDEN = dict.fromkeys(("Time", "__name__", "instance", "job"), True)
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


def links(model: str, moment: str) -> list[Any]:
    """To the run in Airflow that made a figure, and to the report of its hour."""
    return [
        boards.DashboardLink(title).type(DashboardLinkType.LINK).url(AIRFLOW % (page, model, moment)).target_blank(True)
        for title, page in (("Airflow: the run behind this", "run"), ("Report of the hour", "report"))
    ]


def panel(
    kind: Any, title: str, unit: str, width: str, said: str, *queries: Any, of: tuple[str, str] | None = None, source: Any = PROMETHEUS
) -> Any:  # fmt: skip
    """A panel with its queries: PromQL with its legend, or SQL; what is clicked in it leads to its run and report."""
    made = kind.Panel().title(title).description(said).datasource(source).unit(unit).height(8).span(WIDTH[width])
    if of:
        made = made.links(links(*of)) if kind is heatmap else made.data_links(links(*of))
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


def chart(
    title: str, unit: str, said: str, *queries: Any, width: str = "half", of: tuple[str, str] | None = POINT, source: Any = PROMETHEUS
) -> Any:  # fmt: skip
    """Lines over time."""
    return panel(timeseries, title, unit, width, said, *queries, of=of, source=source)


def single(title: str, unit: str, said: str, expression: str) -> Any:
    """One number per model."""
    return panel(stat, title, unit, "third", said, (expression, "{{model_name}}"), of=LATEST)


def rows(title: str, said: str, *queries: Any, of: tuple[str, str] = CELL, source: Any = PROMETHEUS) -> Any:
    """A table; several queries, each with a name, a unit and further settings, become one row per model."""
    made = panel(table, title, "short", "full", said, *(q[:2] if isinstance(q, tuple) else q for q in queries), of=of, source=source)  # fmt: skip
    if source is PROMETHEUS:
        if len(queries) > 1:
            made = made.with_transformation(DataTransformerConfig(id_val="merge", options={}))
        made = made.with_transformation(DataTransformerConfig(id_val="organize", options={"excludeByName": HIDDEN}))
    for number, (_, name, *settings) in enumerate(queries if len(queries) > 1 else ()):
        given = {"displayName": name, "unit": settings[0], **(settings[1] if settings[1:] else {})}
        values = [DynamicConfigValue(id_val=key, value=value) for key, value in given.items()]
        made = made.override_by_name(f"Value #{chr(65 + number)}", values)
    return made


def board(uid: str, title: str, said: str, *panels: Any, models: str = "", span: str = "now-24h") -> Any:
    """A dashboard; in `models`, one may choose `one` of them, `several`, or several of those in the `tables`."""
    made = boards.Dashboard(title).uid(uid).description(said).tags(["hindcast"]).time(span, "now").refresh("1m")
    made = made.timezone("utc").readonly()
    made = made.link(
        boards.DashboardLink("Hindcast").type(DashboardLinkType.DASHBOARDS).tags(["hindcast"]).keep_time(True)
    )
    incident = boards.DashboardLink("Airflow: diagnose an incident").type(DashboardLinkType.LINK)
    made = made.link(incident.url("${airflow:raw}/dags/hindcast_incident").target_blank(True))
    address = boards.TextBoxVariable("airflow").label("Airflow").default_value("http://127.0.0.1:8080")
    made = made.with_variable(address)
    if models:
        source, query = KNOWN["tables" if models == "tables" else "prometheus"]
        known = boards.QueryVariable("model_name").label("Model").datasource(source).query(query)
        known = known.refresh(VariableRefresh.ON_TIME_RANGE_CHANGED).multi(models != "one").include_all(models != "one")
        made = made.with_variable(known)
    firing = boards.AnnotationQuery().name("Alerts").datasource(PROMETHEUS).enable(True).icon_color("red")
    firing = firing.expr(FIRING if models in {"one", "several"} else FLEET)
    made = made.annotation(firing)
    for one in panels:
        made = made.with_panel(one)
    return made


KNOWN = {
    "prometheus": (PROMETHEUS, "label_values(ml_window_end_timestamp_seconds, model_name)"),
    "tables": (RESULTS, "SELECT DISTINCT model_name FROM windows ORDER BY model_name"),
}
FLEET = 'ALERTS{alertstate="firing", class!="heartbeat"}'
FIRING = f'ALERTS{{alertstate="firing", class!="heartbeat", {M}}}'


def fleet() -> Any:
    """All models, one row each."""
    return board(
        "hindcast-fleet", "Hindcast: fleet", "All models, one row each",
        rows(
            "Models", "State (0 quiet, 1 warnings, 2 a critical alert), freshness, accuracy, drifted share, firing alerts",
            ('2 * (sum by (model_name) (ml_alerts_firing{severity="critical"}) > bool 0) or sum by (model_name) (ml_alerts_firing) > bool 0 or 0 * max by (model_name) (ml_window_end_timestamp_seconds)', "state", "short",
             {"mappings": [{"type": "value", "options": STATES}], "custom.cellOptions": {"type": "color-background"}}),
            ("max by (model_name) (hindcast:checks:age_seconds)", "checked, ago", "s"),
            ('max by (model_name) (ml_model_accuracy{time_window="1h"})', "accuracy", "percentunit"),
            ("max by (model_name) (ml_drifted_feature_ratio)", "drifted share", "percentunit"),
            ("sum by (model_name) (ml_alerts_firing) or 0 * max by (model_name) (ml_window_end_timestamp_seconds)", "firing alerts", "short"),
        ),
        chart("Accuracy", "percentunit", "Newest judged hour of each model", ('max by (model_name) (ml_model_accuracy{time_window="1h"})', "{{model_name}}")),
        chart("Drifted features", "percentunit", "Share of the judged features", ("max by (model_name) (ml_drifted_feature_ratio)", "{{model_name}}")),
        chart("Predictions per second", "reqps", "Serving process, or the logs", ("hindcast:predictions:rate1h", "{{model_name}}")),
        chart("Firing alerts", "short", "By kind and severity", ("sum by (model_name, kind, severity) (ml_alerts_firing)", "{{model_name}} {{kind}} {{severity}}")),
        rows("Firing in Prometheus", "What Alertmanager was told of", (FLEET, "")),
    )  # fmt: skip


def model() -> Any:
    """One model."""
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
        panel(heatmap, "Confidence", "short", "half", "Distribution of the confidence", (f"sum by (le) (increase(ml_prediction_confidence_bucket{{{M}}}[10m]))", "{{le}}"), of=CHOSEN),
        panel(heatmap, "Drift of features", "short", "half", "Distance of each feature from its season", (f"max by (feature_name) (ml_feature_drift_score{{{M}}})", "{{feature_name}}"), of=CHOSEN),
        chart("Features inside a drift episode", "short", "1 while it lasts", (f"ml_feature_drift_detected{{{M}}} == 1 or 0 * ml_feature_drift_detected{{{M}}}", "{{model_name}} {{feature_name}}")),
        chart("Expectations met", "percentunit", "Data quality", (f"ml_data_quality_success_ratio{{{M}}}", "{{model_name}}")),
        chart("Missing values", "percentunit", "The highest", (f"topk(10, ml_feature_missing_ratio{{{M}}})", "{{model_name}} {{feature_name}}")),
        chart("Importance", "short", "Mean absolute SHAP value", (f"topk(10, ml_feature_importance{{{M}}})", "{{model_name}} {{feature_name}}")),
        chart("Mean of features", "short", "Serving process", (f"sum by (model_name, feature_name) (rate(ml_feature_value_sum{{{M}}}[1h])) / sum by (model_name, feature_name) (rate(ml_feature_value_count{{{M}}}[1h]))", "{{model_name}} {{feature_name}}")),
        rows("Gravest alerts", "What they are about", (f"ml_alert_current_value{{{M}}}", "")),
        models="one",
    )  # fmt: skip


def pipeline() -> Any:
    """Whether Hindcast itself is well."""
    return board(
        "hindcast-pipeline", "Hindcast: pipeline", "Runs, durations, lateness, pushes",
        single("Checked, ago", "s", "Oldest last success of a model's checks", f"hindcast:checks:age_seconds{{{M}}}"),
        single("Newest prediction, ago", "s", "In the logs", f"hindcast:predictions:age_seconds{{{M}}}"),
        single("Newest labelled hour, ago", "s", "Of which any label is known", f"hindcast:labels:age_seconds{{{M}}}"),
        chart("Runs", "short", "Hours checked in the day before; 24 when none is missed", (f'max by (model_name) (changes(ml_window_end_timestamp_seconds{{{M}, check="triage"}}[1d]))', "{{model_name}}")),
        chart("Duration of the checks", "s", "Newest run", (f"max by (model_name, check) (ml_check_duration_seconds{{{M}}})", "{{model_name}} {{check}}")),
        chart("Lateness", "s", "From the window's end to the push of its triage", (f'push_time_seconds{{{M}, check="triage"}} - on (model_name) ml_window_end_timestamp_seconds{{{M}, check="triage"}}', "{{model_name}}")),
        chart("Rows", "short", "Of the newest window", (f"max by (model_name) (ml_rows_processed{{{M}}})", "{{model_name}}")),
        chart("Since the last push", "s", "By check", (f"time() - max by (model_name, check) (push_time_seconds{{{M}}})", "{{model_name}} {{check}}")),
        chart("Refused pushes", "short", "1 where the newest push was refused", (f"max by (model_name, check) (push_failure_time_seconds{{{M}}}) > bool max by (model_name, check) (push_time_seconds{{{M}}})", "{{model_name}} {{check}}")),
        chart("Scraped", "short", "1 while it answers Prometheus", ("up", "{{job}} {{instance}}"), of=None),
        models="several",
    )  # fmt: skip


def history() -> Any:
    """What the tables say of then, replays and backfills included."""
    chosen = "model_name IN (${model_name:sqlstring})"
    within = f"$__timeFilter(window_start) AND {chosen}"

    def then(
        title: str, unit: str, said: str, value: str, table: str, condition: str, *by: str, group: bool = False
    ) -> Any:
        """Lines of a table; the text columns name them, and become their labels."""
        columns = ", ".join(("model_name", *by))
        sql = f"SELECT window_start AS time, {columns}, {value} AS value FROM {table} WHERE {within} AND {condition}"
        sql += f" GROUP BY window_start, {columns}" if group else ""
        made = chart(title, unit, said, SQL(f"{sql} ORDER BY window_start"), of=STORED, source=RESULTS)
        return made.display_name(" ".join(f"${{__field.labels.{name}}}" for name in ("model_name", *by)))

    oldest = "(array_agg(value ORDER BY label_age_hours DESC))[1]"
    hour = "to_char(opened_at - interval '1 hour', 'YYYY-MM-DD\"T\"HH24') AS hour"
    opened = "$__timeFilter(opened_at)"
    return board(
        "hindcast-history", "Hindcast: history", "The results tables: then, where Prometheus is now",
        then("Accuracy", "percentunit", "At the largest label age that was judged", oldest, "performance", "segment = '*' AND metric = 'accuracy' AND value IS NOT NULL", group=True),
        then("Accuracy by segment", "percentunit", "The same, per segment", oldest, "performance", "segment <> '*' AND metric = 'accuracy' AND value IS NOT NULL", "segment", group=True),
        then("Drift of features", "short", "Jensen-Shannon distance from the season", "value", "drift", "segment = '*' AND baseline = 'seasonal' AND metric = 'jensen_shannon_distance' AND value IS NOT NULL", "feature"),
        then("Missing values", "percentunit", "By feature", "value", "quality", "metric = 'missing_ratio' AND value IS NOT NULL", "subject"),
        then("Importance", "short", "Mean absolute SHAP value", "importance", "importance", "importance IS NOT NULL", "feature"),
        then("Rows", "short", "Of each window", "rows", "windows", "TRUE"),
        rows("Incidents", "Newest first", SQL(f"SELECT affected_model AS model_name, {hour}, opened_at, resolved_at, severity, title, root_cause FROM incidents WHERE {opened} AND {chosen.replace('model_name IN', 'affected_model IN')} ORDER BY opened_at DESC", "table"), of=ROW, source=RESULTS),
        rows("Alerts", "Newest first", SQL(f"SELECT model_name, {hour}, opened_at, resolved_at, severity, kind, subject, metric, current_value, baseline_value FROM alerts WHERE {opened} AND {chosen} ORDER BY opened_at DESC", "table"), of=ROW, source=RESULTS),
        models="tables", span="now-30d",
    )  # fmt: skip


def write(folder: Path) -> None:
    """Write every dashboard as JSON."""
    for name, made in (("fleet", fleet()), ("model", model()), ("pipeline", pipeline()), ("history", history())):
        text = JSONEncoder(sort_keys=True, indent=1).encode(made.build())
        (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "dashboards")
