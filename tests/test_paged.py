"""From the flights of an outage to the pager: real checks, Pushgateway, Prometheus, Alertmanager, and who is on call.

The configuration is what the compose file mounts; only addresses and waiting times are others.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml
from click.testing import CliRunner
from demo import flights
from tests.prometheus_server import Alertmanager, Prometheus, Pushgateway, Webhook, fetched, until

from hindcast import oncall
from hindcast.checks import Run, execute
from hindcast.cli import main
from hindcast.errors import PushFailed
from hindcast.push import drain
from hindcast.results import tables
from hindcast.results.sql import Store
from hindcast.window import HOUR, Window, parse_time

if TYPE_CHECKING:
    from collections.abc import Iterator

INCLUDE = Path(__file__).resolve().parents[1] / "include"
MODEL = flights.MODEL_NAME
# From here on every hour is checked as the schedule does; before it, hours are only learnt from.
LEARNT, FIRST = parse_time("2013-03-16T20"), parse_time("2013-04-16T20")
# The labels of the evening's flights of American Airlines tell at this hour, and three good hours end it.
PAGED, QUIET = parse_time("2013-04-17T02"), parse_time("2013-04-17T14")
CHECKS = ("pull", "performance", "triage")


@dataclass
class World:
    folder: Path
    gateway: Pushgateway
    prometheus: Prometheus
    webhook: Webhook

    @property
    def store(self) -> Store:
        return Store(f"sqlite:///{self.folder}/results/results.db")

    def check(self, hour: datetime) -> None:
        """One scheduled hour: checks, then the task that pushes."""
        as_of = hour + HOUR + timedelta(minutes=10)
        run = Run.open(MODEL, Window(hour), as_of, config=self.folder / "models", results=self.store.url, publish=True)
        for check in CHECKS:
            execute(run, check)

    def push(self) -> None:
        assert drain(self.store, self.gateway.url)["status"] == "ok"

    def firing(self, name: str) -> bool:
        return bool(self.prometheus.query(f'ALERTS{{alertname="{name}", alertstate="firing"}}'))


def rota(folder: Path, url: str) -> Path:
    """Ada is on call this week, since yesterday, and Ben the next."""
    yesterday = datetime.now(UTC) - timedelta(days=1)
    content = {
        "until": f"{yesterday + timedelta(days=21):%Y-%m-%d}",
        "rotations": {"ops-ml": {"owners": ["ops-ml", "hindcast"], "timezone": "Europe/Berlin", "handover": "09:00",
                                 "from": f"{yesterday - timedelta(days=1):%Y-%m-%d}", "people": ["ada", "ben"]}},
        "people": {"ada": {"webhook": f"{url}/ada", "webhook_token": True}, "ben": {"webhook": f"{url}/ben"}},
        "channels": {"ops-ml": {"webhook": f"{url}/channel"}},
        "default": {"webhook": f"{url}/default"},
        "heartbeat": {"webhook": f"{url}/heartbeat"},
    }  # fmt: skip
    path = folder / "oncall.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def replaced(path: Path, *changes: tuple[str, str]) -> None:
    text = path.read_text()
    for old, new in changes:
        assert old in text, (path, old)
        text = text.replace(old, new)
    path.write_text(text)


def written(*command: str) -> None:
    done = CliRunner().invoke(main, list(command))
    assert done.exit_code == 0, done.output


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("paged")
    flights.build(folder / "flights")
    (folder / "models").mkdir()
    model = yaml.safe_load((INCLUDE / "models" / f"{MODEL}.yaml").read_text())
    for key in ("logs", "labels"):
        model[key] = {"uri": str(folder / "flights" / key)}
    model["reference"] = {"uri": str(folder / "flights" / "reference.parquet")}
    del model["explain"]
    (folder / "models" / f"{MODEL}.yaml").write_text(yaml.safe_dump(model))
    shutil.copytree(INCLUDE / "prometheus", folder / "prometheus")
    with Webhook() as webhook, Pushgateway(folder / "gateway") as gateway:
        rotation = str(rota(folder, webhook.url))
        routes, rules = folder / "alertmanager.yml", folder / "prometheus" / "rules"
        (folder / "secrets").mkdir()
        (folder / "secrets" / "webhook_ada").write_text("of-ada")
        secrets = ["--secrets", str(folder / "secrets")]
        written("oncall", "--rota", rotation, "--alertmanager", *secrets, "-o", str(routes))
        replaced(routes, ("group_wait: 30s", "group_wait: 1s"), ("group_interval: 5m", "group_interval: 1s"))
        written(
            "metrics", "rules", "--rota", rotation, "--config", str(folder / "models"), "-o", f"{rules}/models.yaml"
        )
        for path in rules.glob("*.yaml"):
            replaced(path, ("interval: 30s", "interval: 1s"))
        config = folder / "prometheus" / "prometheus.yml"
        with Alertmanager(folder / "alertmanager", routes) as alertmanager:
            # What is sent before Prometheus knows its Alertmanager is lost; the next try comes after this delay.
            arguments = [f"--web.console.templates={INCLUDE}/playbooks", "--rules.alert.resend-delay=1s"]
            prometheus = Prometheus(folder / "server", config, arguments)
            replaced(
                config,
                ("pushgateway:9091", f"127.0.0.1:{gateway.port}"),
                ("alertmanager:9093", f"127.0.0.1:{alertmanager.port}"),
                ("scrape_interval: 15s", "scrape_interval: 1s"),
                ("evaluation_interval: 30s", "evaluation_interval: 1s"),
                ("http://127.0.0.1:9090", prometheus.url),
            )
            with prometheus:
                yield World(folder, gateway, prometheus, webhook)


def test_a_backfill_of_a_month_pushes_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HINDCAST_PUSHGATEWAY", world.gateway.url)
    options = ["--config", str(world.folder / "models"), "--results", world.store.url]
    written(
        "replay", MODEL, "--from", f"{LEARNT:%Y-%m-%dT%H}", "--to", f"{FIRST:%Y-%m-%dT%H}", "--only", "pull", *options
    )
    assert len(world.store.rows(tables.windows)) == 31 * 24
    assert world.store.rows(tables.outbox) == []
    done = CliRunner().invoke(main, ["metrics", "push", *options, "--json"])
    assert json.loads(done.output)["pushed"] == 0
    assert world.gateway.samples() == []


def test_an_outage_pages_once_whoever_is_on_call_and_resolves(world: World) -> None:
    """The demo's outage hours, 16 April 2013; the gateway is down in one of them."""
    hour = FIRST
    while hour < PAGED:
        world.check(hour)
        if hour == FIRST + HOUR:
            world.gateway.stop()
            with pytest.raises(PushFailed):
                drain(world.store, world.gateway.url)
            world.gateway.start()
        else:
            world.push()
        hour += HOUR
    until(lambda: world.prometheus.query("ml_rows_processed"), "a scrape of the gateway")
    assert not world.webhook.notices("/ada")

    world.check(PAGED)
    world.push()
    until(lambda: world.webhook.notices("/ada"), "the page")
    (page,) = world.webhook.notices("/ada")
    signed = {path: headers.get("Authorization") for path, headers, _ in world.webhook.received}
    assert (signed["/ada"], signed["/channel"]) == ("Bearer of-ada", None)
    assert (page["status"], page["groupLabels"]["model_name"]) == ("firing", MODEL)
    (alert,) = page["alerts"]
    assert alert["labels"]["severity"] == "critical"
    assert "accuracy of carrier=AA" in alert["annotations"]["summary"]
    # The link works, and leads to what one needs now.
    assert "hindcast incidents" in fetched(alert["annotations"]["runbook_url"])
    # And the report is of the hour whose labels told; tests of the scheduler ask Airflow for it.
    report = urlsplit(alert["annotations"]["report_url"])
    assert (report.netloc, report.path) == ("127.0.0.1:8080", "/hindcast/report")
    (incident,) = [row for row in world.store.rows(tables.incidents) if row["state"] == "open"]
    opened = int((incident["opened_at"] - HOUR).timestamp()) * 1000
    assert parse_qs(report.query) == {"dag_id": [f"hindcast_hourly__{MODEL}"], "hour": [str(opened)]}
    assert world.firing("HindcastModelDegraded")

    hour = PAGED + HOUR
    while hour <= QUIET:
        world.check(hour)
        world.push()
        hour += HOUR
    until(lambda: world.webhook.notices("/ada")[-1]["status"] == "resolved", "the page's end")
    assert [notice["status"] for notice in world.webhook.notices("/ada")] == ["firing", "resolved"]
    assert world.webhook.notices("/ben") == world.webhook.notices("/default") == [], "is not on call"
    channel = [alert for notice in world.webhook.notices("/channel") for alert in notice["alerts"]]
    told = {alert["labels"]["alertname"] for alert in channel if alert["status"] == "firing"}
    assert "HindcastIncident" in told
    assert "HindcastModelDegraded" not in told, "the incident silences its symptoms"
    until(lambda: world.webhook.notices("/heartbeat"), "the dead man's switch", seconds=120)


def test_whoever_is_on_call_can_be_asked(world: World) -> None:
    given = oncall.load(world.folder / "oncall.yaml")
    shift = oncall.on_call(given.rotations["ops-ml"], given.until, datetime.now(UTC))
    assert shift is not None
    assert shift.person == "ada"
