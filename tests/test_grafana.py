"""Dashboards: committed as built, every query parsed and run where its data would be, PromQL and SQL alike."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import promql_parser
import pytest
import yaml
from sqlalchemy import text
from tests.prometheus_server import Prometheus, binary, until

from hindcast import push
from hindcast.results import tables
from hindcast.results.sql import Store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.postgres_server import Cluster

INCLUDE = Path(__file__).resolve().parents[1] / "include"
GRAFANA = INCLUDE / "grafana"
NAMES = ("fleet", "model", "pipeline", "history")


def dashboard(name: str) -> dict[str, Any]:
    return json.loads((GRAFANA / "dashboards" / f"{name}.json").read_text(encoding="utf-8"))


def targets(key: str) -> list[Any]:
    """Every query that has a key, and whether its panel's links need to know of which model a figure is."""
    return [
        pytest.param(
            target[key], "model_name}" in str(links), id=f"{name}: {panel['title']} {target.get('refId', 'A')}"
        )
        for name in NAMES
        for panel in dashboard(name)["panels"]
        for links in [panel["fieldConfig"]["defaults"].get("links")]
        for target in panel["targets"]
        if key in target
    ]


def asked(expression: str) -> str:
    """A query as Grafana asks it with every model chosen."""
    return expression.replace("$model_name", "alpha|beta").replace("$__rate_interval", "5m")


def test_dashboards_are_as_built(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("grafana_build", GRAFANA / "build.py")
    assert spec
    assert spec.loader
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    build.write(tmp_path)
    for name in NAMES:
        written = (tmp_path / f"{name}.json").read_text(encoding="utf-8")
        assert written == (GRAFANA / "dashboards" / f"{name}.json").read_text(encoding="utf-8"), "run: make monitoring"


def test_panels_use_provisioned_sources() -> None:
    known = yaml.safe_load((GRAFANA / "provisioning" / "datasources" / "hindcast.yaml").read_text())["datasources"]
    kinds = {(source["uid"], source["type"]) for source in known}
    for name in NAMES:
        for panel in dashboard(name)["panels"]:
            assert (panel["datasource"]["uid"], panel["datasource"]["type"]) in kinds, panel["title"]


def led(panel: dict[str, Any]) -> list[str]:
    """Where a panel leads, and what is clicked in it."""
    return [link["url"] for link in [*panel.get("links", []), *panel["fieldConfig"]["defaults"].get("links", [])]]


# Of which model, and of when: a point, a row of a table, the model that the dashboard is of.
LINK = re.compile(
    r"\$\{airflow:raw\}/hindcast/(run|report)\?dag_id=hindcast_hourly__"
    r"(\$\{__field\.labels\.model_name\}|\$\{__data\.fields\.model_name\}|\$\{model_name:raw\})"
    r"&(?:at=(?:\$\{__value\.time\}|\$\{__to\})|hour=(?:\$\{__value\.time\}|\$\{__data\.fields\.hour\}))"
)


def test_links_lead_from_every_panel_to_the_run_and_the_report() -> None:
    for name in NAMES:
        content = dashboard(name)
        variables = {variable["name"]: variable for variable in content["templating"]["list"]}
        assert variables["airflow"]["type"] == "textbox"
        for panel in content["panels"]:
            found = [LINK.fullmatch(url) for url in led(panel)]
            if panel["title"] == "Scraped":
                assert not found, "it is of no model"
                continue
            assert [match and match[1] for match in found] == ["run", "report"], panel["title"]
            if "${model_name:raw}" in str(led(panel)):
                assert not variables["model_name"].get("multi", False), "several models have no one run"


@pytest.mark.parametrize(("expression", "of_a_model"), targets("expr"))
def test_every_query_is_promql(expression: str, of_a_model: bool) -> None:
    promql_parser.parse(asked(expression))


def test_the_queries_of_the_textbook_are_there() -> None:
    every = " ".join(param.values[0] for param in targets("expr"))
    for piece in ("ml_predictions_total", "ml_prediction_latency_seconds_bucket", "ml_prediction_confidence_bucket",
                  "ml_feature_drift_detected", 'time_window="1h"', "histogram_quantile(0.95, sum by (le,"):  # fmt: skip
        assert piece in every


# --- Prometheus, with two hours of history ---

GROUP = 'job="hindcast",instance="",model_name="alpha",check="%s"'
VERSION = 'model_version="1",time_window="1h"'
# What a model pushes and its serving process exposes: family, type, labels, value at a minute.
SERVED = 'model_name="alpha",model_version="1"'


def openmetrics(now: int) -> str:
    """Two hours, a sample a minute, of everything that is pushed and exposed."""
    lines: list[str] = []
    minutes = range(now - 7200, now, 60)

    def family(name: str, kind: str, *series: tuple[str, Any]) -> None:
        lines.append(f"# TYPE {name} {kind}")
        for shown, value in series:
            lines.extend(f"{shown} {value(moment)} {moment}" for moment in minutes)

    for name in sorted(push.HELP):
        value = (lambda moment: moment - 600) if name.endswith("timestamp_seconds") else (lambda _: 0.9)
        family(name, "gauge", *((f"{name}{{{labels}}}", value) for labels in pushed(name)))
    for name, age in (("push_time_seconds", 60), ("push_failure_time_seconds", 600)):
        family(name, "gauge", (f"{name}{{{GROUP % 'triage'}}}", lambda moment, age=age: moment - age))

    def counted(moment: int) -> int:
        return moment - now + 7200

    for name in ("ml_predictions", "ml_prediction_errors"):
        family(name, "counter", (f"{name}_total{{{SERVED}}}", counted))
    for name in ("ml_prediction_latency_seconds", "ml_prediction_confidence"):
        edges = ("0.5", "1", "+Inf")
        family(name, "histogram", *((f'{name}_bucket{{{SERVED},le="{edge}"}}', counted) for edge in edges))
    named = f'{SERVED},feature_name="amount"'
    family(
        "ml_feature_value", "summary", *((f"ml_feature_value{end}{{{named}}}", counted) for end in ("_sum", "_count"))
    )
    return "\n".join([*lines, "# EOF\n"])


OF_CHECK = {
    "ml_feature_missing_ratio": "quality", "ml_data_quality_success_ratio": "quality",
    "ml_feature_importance": "importance", "ml_rows_processed": "pull",
    "ml_newest_prediction_timestamp_seconds": "pull",
    "ml_feature_drift_score": "drift", "ml_feature_drift_detected": "drift", "ml_drifted_feature_ratio": "drift",
    "ml_model_accuracy": "performance", "ml_model_metric": "performance", "ml_model_metric_baseline": "performance",
    "ml_newest_labelled_timestamp_seconds": "performance",
}  # fmt: skip
OF_MODEL = [f'{VERSION},metric="{name}"' for name in ("accuracy", "latency_p95_ms", "error_rate", "roc_auc")]
FURTHER = {
    "ml_model_accuracy": [VERSION],
    "ml_model_metric": OF_MODEL,
    "ml_model_metric_baseline": OF_MODEL,
    "ml_alerts_firing": ['kind="performance",severity="critical"'],
    "ml_alert_current_value": ['kind="performance",severity="critical",subject="carrier=AA",metric="accuracy"'],
    "ml_incidents_open": ['severity="SEV3"'],
}


def pushed(name: str) -> list[str]:
    """Labels of a pushed metric's series, those of its group first."""
    group = GROUP % OF_CHECK.get(name, "triage")
    feature = ['feature_name="amount"'] if name.startswith("ml_feature") else [""]
    return [",".join(filter(None, (group, extra))) for extra in FURTHER.get(name, feature)]


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    folder = tmp_path_factory.mktemp("grafana")
    (folder / "history.txt").write_text(openmetrics(int(time.time())))
    command = [binary("promtool"), "tsdb", "create-blocks-from", "openmetrics", "history.txt", "server/tsdb"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    shutil.copytree(INCLUDE / "prometheus" / "rules", folder / "rules")
    for path in (folder / "rules").glob("*.yaml"):
        path.write_text(path.read_text().replace("interval: 30s", "interval: 1s"))
    config = {"global": {"evaluation_interval": "1s", "scrape_interval": "1s", "external_labels": {"runbooks": "http://r"}},
              "rule_files": ["rules/*.yaml"]}  # fmt: skip
    server = Prometheus(folder / "server", folder / "prometheus.yml", ["--storage.tsdb.retention.time=30d"])
    own = {"job_name": "prometheus", "static_configs": [{"targets": [f"127.0.0.1:{server.port}"]}]}
    (folder / "prometheus.yml").write_text(yaml.safe_dump({**config, "scrape_configs": [own]}))
    with server:
        until(
            lambda: server.query('ALERTS{alertstate="firing", alertname="HindcastIncident"}') and server.query("up"),
            "rules",
        )
        yield server


@pytest.mark.parametrize(("expression", "of_a_model"), targets("expr"))
def test_every_query_returns_series(expression: str, of_a_model: bool, prometheus: Prometheus) -> None:
    found = until(lambda: prometheus.query(asked(expression)), expression, seconds=20)
    if of_a_model:
        assert any("model_name" in series["metric"] for series in found), "or its links lead nowhere"


@pytest.mark.parametrize("name", ["fleet", "model", "pipeline"])
def test_annotations_and_variables_find_what_they_ask_for(name: str, prometheus: Prometheus) -> None:
    content = dashboard(name)
    (annotation,) = content["annotations"]["list"]
    assert prometheus.query(asked(annotation["expr"]))
    for variable in content["templating"]["list"]:
        if variable["type"] == "query":
            (series,) = re.findall(r"label_values\((\w+),", variable["query"])
            assert prometheus.query(series)


# --- PostgreSQL ---

NOW = datetime(2026, 3, 2, 15, tzinfo=UTC)


def expanded(sql: str) -> str:
    """Grafana's macro and variable, as its documentation defines them."""
    start, end = (f"'{moment:%Y-%m-%dT%H:%M:%SZ}'" for moment in (NOW - timedelta(days=30), NOW + timedelta(days=1)))
    sql = sql.replace("${model_name:sqlstring}", "'alpha','beta'")
    return re.sub(r"\$__timeFilter\((\w+)\)", rf"\1 BETWEEN {start} AND {end}", sql)


@pytest.fixture(scope="module")
def history(postgres: Cluster) -> Store:
    store = Store(postgres.store())
    key = {"model_name": "alpha", "window_start": NOW}
    scored = {**key, "model_version": "1", "segment": "*", "status": "ok", "value": 0.5}
    performed = {**scored, "metric": "accuracy", "estimated": False, "as_of": NOW}
    alert = {
        "model_name": "alpha",
        "kind": "drift",
        "severity": "warning",
        "subject": "a",
        "metric": "m",
        "state": "firing",
    }
    moments = {"opened_at": NOW, "detected_at": NOW}
    rows: list[tuple[Any, dict[str, Any]]] = [
        (tables.windows, {**key, "window_end": NOW, "as_of": NOW, "rows": 5, "bytes": 9, "status": "ok"}),
        (tables.performance, {**performed, "label_age_hours": 0, "value": 0.1}),
        (tables.performance, {**performed, "label_age_hours": 24, "value": 0.9}),
        (tables.performance, {**performed, "label_age_hours": 24, "segment": "carrier=AA"}),
        (
            tables.drift,
            {**scored, "feature": "a", "baseline": "seasonal", "scale_hours": 1, "metric": "jensen_shannon_distance"},
        ),
        (tables.quality, {**key, "subject": "a", "metric": "missing_ratio", "value": 0.1, "status": "ok"}),
        (tables.importance, {**key, "feature": "a", "importance": 0.1, "status": "ok"}),
        (tables.alerts, {**alert, **moments, "alert_id": "1", "state": "firing", "last_seen_at": NOW}),
        (
            tables.incidents,
            {**moments, "incident_id": "1", "severity": "SEV4", "affected_model": "alpha", "state": "open"},
        ),
    ]
    with store.transaction() as connection:
        for table, row in rows:
            connection.execute(table.insert(), row)
    return store


@pytest.mark.parametrize(("sql", "of_a_model"), targets("rawSql"))
def test_every_sql_query_returns_rows(sql: str, of_a_model: bool, history: Store) -> None:
    with history.engine.connect() as connection:
        (row,) = connection.execute(text(re.sub(r":(?=\w)", r"\:", expanded(sql)))).mappings()
    assert of_a_model
    assert row["model_name"] == "alpha"
    if "AS time" in sql:
        assert (row["time"], {"time", "model_name", "value"} <= set(row)) == (NOW, True)
        numbers = [name for name, value in row.items() if isinstance(value, int | float)]
        assert numbers == ["value"], "every other column becomes a label"
    else:
        assert row["hour"] == f"{NOW - timedelta(hours=1):%Y-%m-%dT%H}"
    if "metric = 'accuracy'" in sql and "segment = '*'" in sql:
        assert row["value"] == 0.9, "of the largest label age"


def test_the_history_offers_the_models_that_the_tables_know(history: Store) -> None:
    (variable,) = [v for v in dashboard("history")["templating"]["list"] if v["type"] == "query"]
    with history.engine.connect() as connection:
        assert connection.execute(text(variable["query"])).scalars().all() == ["alpha"]
