"""Pushing metrics to a real Pushgateway: groups, names, what vanishes, and what happens while the gateway is down."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
import urllib.request
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests import worlds
from tests.worlds import SETTLE, at, rows_of

from hindcast.checks import CHECKS, Run, execute
from hindcast.push import PushFailed, drain
from hindcast.replay import replay
from hindcast.results.sql import Store
from hindcast.window import Window

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HISTORY = 26
BINARY = shutil.which("prometheus-pushgateway") or shutil.which("pushgateway")


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> worlds.World:
    made = worlds.write(tmp_path_factory.mktemp("push") / "w", hours=HISTORY, rows=200, explain=True)
    replay("alpha", at(0), at(HISTORY), config=str(made.models), results=made.results)
    return made


@pytest.fixture
def world(history: worlds.World, tmp_path: Path) -> worlds.World:
    copy = worlds.copied(history, tmp_path / "w")
    worlds.write_hours(copy, range(HISTORY, HISTORY + 3), rows=200)
    return copy


def scheduled(world: worlds.World, hour: int, checks: tuple[str, ...] = CHECKS) -> Store:
    """Check a window as the schedule does."""
    run = Run.open(
        "alpha", Window(at(hour)), at(hour + 1) + SETTLE, config=world.models, results=world.results, publish=True
    )
    for check in checks:
        execute(run, check)
    return run.store


class Gateway:
    """A Pushgateway that keeps its groups while it is down, as Debian's does."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        with (self.folder / "gateway.log").open("ab") as log:
            self.process = subprocess.Popen(
                [BINARY, f"--web.listen-address=127.0.0.1:{self.port}", f"--persistence.file={self.folder}/groups"],
                stdout=log, stderr=log,
            )  # fmt: skip
        for _ in range(500):
            try:
                with urllib.request.urlopen(f"{self.url}/-/ready", timeout=5):  # noqa: S310 - our own gateway
                    return
            except OSError:
                time.sleep(0.02)
        pytest.fail((self.folder / "gateway.log").read_text())

    def stop(self) -> None:
        if self.process:
            self.process.terminate()
            self.process.wait()
            self.process = None

    def groups(self) -> dict[str, dict[str, dict[tuple[tuple[str, str], ...], float]]]:
        """Check -> metric -> labels but those of the group -> value."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=5) as answer:  # noqa: S310 - our own gateway
            text = answer.read().decode()
        found: dict[str, Any] = defaultdict(lambda: defaultdict(dict))
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = dict(sample.labels)
                if sample.name.startswith("ml_"):
                    assert (labels.pop("job"), labels.pop("model_name"), labels.pop("instance")) == (
                        "hindcast",
                        "alpha",
                        "",
                    )
                    found[labels.pop("check")][sample.name][tuple(sorted(labels.items()))] = sample.value
        return found


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    if BINARY is None:
        reason = "no prometheus-pushgateway is installed"
        if os.environ.get("REQUIRE_SERVICES") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    made = Gateway(tmp_path)
    made.start()
    yield made
    made.stop()


def waiting(world: worlds.World) -> dict[str, str]:
    """Check -> start of the window whose metrics wait."""
    return {row["check"]: row["window_start"][:13] for row in rows_of(world.results, "outbox") if row["content"]}


def hour_text(hour: int) -> str:
    return f"{at(hour):%Y-%m-%d %H}"


def test_without_a_gateway_nothing_is_needed(world: worlds.World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HINDCAST_PUSHGATEWAY", raising=False)
    found = drain(scheduled(world, HISTORY, ("pull",)))
    assert (found["status"], found["pushed"]) == ("ok", 0)
    assert "HINDCAST_PUSHGATEWAY" in found["reason"]


def test_replays_and_commands_push_nothing(world: worlds.World) -> None:
    worlds.check_window(world, HISTORY)
    replay("alpha", at(HISTORY + 1), at(HISTORY + 2), config=str(world.models), results=world.results)
    assert rows_of(world.results, "outbox") == []


def test_each_check_is_a_group_with_the_names_of_the_contract(world: worlds.World, gateway: Gateway) -> None:
    store = scheduled(world, HISTORY)
    assert set(waiting(world)) == set(CHECKS)
    assert drain(store, gateway.url) == {"status": "ok", "reason": "", "pushed": 6}
    groups = gateway.groups()
    assert set(groups) == set(CHECKS)
    for samples in groups.values():
        assert samples["ml_window_end_timestamp_seconds"] == {(): at(HISTORY + 1).timestamp()}
        assert samples["ml_last_success_timestamp_seconds"].keys() == {()}
        assert samples["ml_check_duration_seconds"][()] > 0
    assert groups["pull"]["ml_rows_processed"] == {(): 200}
    assert groups["quality"]["ml_data_quality_success_ratio"] == {(): 1}
    features = {(("feature_name", name),) for name in (*worlds.NUMERIC, "carrier", "origin")}
    for check, name in (
        ("quality", "ml_feature_missing_ratio"),
        ("drift", "ml_feature_drift_score"),
        ("drift", "ml_feature_drift_detected"),
    ):
        assert set(groups[check][name]) == features
    assert {("feature_name", "amount")} <= {
        pair for labels in groups["importance"]["ml_feature_importance"] for pair in labels
    }
    row = rows_of(
        world.results, "performance", window_start=at(HISTORY), metric="accuracy", segment="*", label_age_hours=0
    )[0]
    labels = (("model_version", "1"), ("time_window", "1h"))
    assert groups["performance"]["ml_model_accuracy"] == {labels: row["value"]}
    assert (("metric", "latency_p95_ms"), *labels) in groups["performance"]["ml_model_metric"]
    for samples in groups.values():
        for name in samples:
            assert re.fullmatch(r"ml_[a-z_]+", name)


def test_a_feature_that_went_away_vanishes(world: worlds.World, gateway: Gateway) -> None:
    drain(scheduled(world, HISTORY), gateway.url)
    worlds.write_hours(world, [HISTORY + 1], rows=200, fault=lambda table: table.drop_columns(["feature_stops"]))
    drain(scheduled(world, HISTORY + 1), gateway.url)
    groups = gateway.groups()
    assert (("feature_name", "stops"),) not in groups["drift"]["ml_feature_drift_score"]
    assert (("feature_name", "amount"),) in groups["drift"]["ml_feature_drift_score"]
    assert groups["triage"]["ml_alerts_firing"] == {(("kind", "quality"), ("severity", "critical")): 1}


@pytest.mark.parametrize("pushed", [True, False], ids=["pushed before", "still waiting"])
def test_an_older_window_never_overwrites_a_newer_one(world: worlds.World, gateway: Gateway, pushed: bool) -> None:
    store = scheduled(world, HISTORY + 1)
    if pushed:
        drain(store, gateway.url)
    scheduled(world, HISTORY)
    assert hour_text(HISTORY) not in waiting(world).values()
    drain(store, gateway.url)
    for samples in gateway.groups().values():
        assert samples["ml_window_end_timestamp_seconds"][()] == at(HISTORY + 2).timestamp()


def test_the_newest_window_checked_again_is_pushed_again(world: worlds.World, gateway: Gateway) -> None:
    drain(scheduled(world, HISTORY, ("pull",)), gateway.url)
    worlds.write_hours(world, [HISTORY], rows=300)
    store = scheduled(world, HISTORY, ("pull",))
    assert drain(store, gateway.url)["pushed"] == 1
    assert gateway.groups()["pull"]["ml_rows_processed"] == {(): 300}
    assert drain(store, gateway.url)["pushed"] == 0


def test_while_the_gateway_is_down_the_outbox_keeps_the_newest_window(world: worlds.World, gateway: Gateway) -> None:
    gateway.stop()
    for hour in (HISTORY, HISTORY + 1):
        store = scheduled(world, hour)
        with pytest.raises(PushFailed, match="outbox") as failed:
            drain(store, gateway.url)
        assert failed.value.transient
    assert waiting(world) == dict.fromkeys(CHECKS, hour_text(HISTORY + 1))
    gateway.start()
    assert drain(store, gateway.url)["pushed"] == 6
    assert gateway.groups()["pull"]["ml_window_end_timestamp_seconds"][()] == at(HISTORY + 2).timestamp()


def test_labels_may_hold_anything(world: worlds.World, gateway: Gateway) -> None:
    odd = 'v"1\\\n{}é'

    def named(table: pa.Table) -> pa.Table:
        return table.set_column(table.schema.get_field_index("model_version"), "model_version", pa.array([odd] * 200))

    worlds.write_hours(world, [HISTORY], rows=200, fault=named)
    drain(scheduled(world, HISTORY, ("pull", "performance")), gateway.url)
    versions = {dict(labels)["model_version"] for labels in gateway.groups()["performance"]["ml_model_metric"]}
    assert odd in versions


def test_a_check_that_fails_leaves_its_last_success_out(world: worlds.World, gateway: Gateway) -> None:
    (world.folder / "model.txt").write_text("no model")
    scheduled(world, HISTORY, ("pull",))
    with pytest.raises(Exception, match="sha256"):
        scheduled(world, HISTORY, ("importance",))
    drain(Store(world.results), gateway.url)
    samples = gateway.groups()["importance"]
    assert "ml_last_success_timestamp_seconds" not in samples
    assert "ml_feature_importance" not in samples
