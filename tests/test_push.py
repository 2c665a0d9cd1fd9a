"""Pushing metrics to a real Pushgateway: groups, names, what vanishes, and what happens while the gateway is down."""

from __future__ import annotations

import base64
import json
import re
import ssl
import subprocess
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.request import Request, urlopen

import pyarrow as pa
import pytest
from tests import worlds
from tests.prometheus_server import Prometheus, Pushgateway, Webhook, binary
from tests.worlds import SETTLE, at, rows_of

from hindcast import gateway as gateways
from hindcast import history as history_of
from hindcast import push
from hindcast.checks import CHECKS, Run, execute
from hindcast.checks.run import commit, compute
from hindcast.errors import PushFailed, UsageError
from hindcast.push import drain
from hindcast.replay import replay
from hindcast.results import tables
from hindcast.results.sql import Store
from hindcast.window import Window

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from pathlib import Path

HISTORY = 26


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


@pytest.fixture
def gateway(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Pushgateway]:
    with Pushgateway(tmp_path / "gateway", getattr(request, "param", [])) as made:
        yield made


def waiting(world: worlds.World) -> dict[str, str]:
    """Check -> start of the window whose metrics wait."""
    pushed = {row["check"] for row in rows_of(world.results, "pushes")}
    rows = [row for row in rows_of(world.results, "outbox") if row["check"] not in pushed]
    return {row["check"]: row["window_start"][:13] for row in rows}


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


def test_each_check_is_a_group_with_the_names_of_the_contract(world: worlds.World, gateway: Pushgateway) -> None:
    store = scheduled(world, HISTORY)
    assert set(waiting(world)) == set(CHECKS)
    assert drain(store, gateway.url) == {"status": "ok", "reason": "", "pushed": 6, "refused": 0}
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


def test_a_feature_that_went_away_vanishes(world: worlds.World, gateway: Pushgateway) -> None:
    drain(scheduled(world, HISTORY), gateway.url)
    worlds.write_hours(world, [HISTORY + 1], rows=200, fault=lambda table: table.drop_columns(["feature_stops"]))
    drain(scheduled(world, HISTORY + 1), gateway.url)
    groups = gateway.groups()
    assert (("feature_name", "stops"),) not in groups["drift"]["ml_feature_drift_score"]
    assert (("feature_name", "amount"),) in groups["drift"]["ml_feature_drift_score"]
    assert groups["triage"]["ml_alerts_firing"] == {(("kind", "quality"), ("severity", "critical")): 1}


@pytest.mark.parametrize("pushed", [True, False], ids=["pushed before", "still waiting"])
def test_an_older_window_never_overwrites_a_newer_one(world: worlds.World, gateway: Pushgateway, pushed: bool) -> None:
    store = scheduled(world, HISTORY + 1)
    if pushed:
        drain(store, gateway.url)
    scheduled(world, HISTORY)
    assert hour_text(HISTORY) not in waiting(world).values()
    drain(store, gateway.url)
    for samples in gateway.groups().values():
        assert samples["ml_window_end_timestamp_seconds"][()] == at(HISTORY + 2).timestamp()


def test_the_newest_window_checked_again_is_pushed_again(world: worlds.World, gateway: Pushgateway) -> None:
    drain(scheduled(world, HISTORY, ("pull",)), gateway.url)
    worlds.write_hours(world, [HISTORY], rows=300)
    store = scheduled(world, HISTORY, ("pull",))
    assert drain(store, gateway.url)["pushed"] == 1
    assert gateway.groups()["pull"]["ml_rows_processed"] == {(): 300}
    assert drain(store, gateway.url)["pushed"] == 0


def test_while_the_gateway_is_down_the_outbox_keeps_the_newest_window(
    world: worlds.World, gateway: Pushgateway
) -> None:
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


def test_labels_may_hold_anything(world: worlds.World, gateway: Pushgateway) -> None:
    odd = 'v"1\\\n{}é'

    def named(table: pa.Table) -> pa.Table:
        return table.set_column(table.schema.get_field_index("model_version"), "model_version", pa.array([odd] * 200))

    worlds.write_hours(world, [HISTORY], rows=200, fault=named)
    drain(scheduled(world, HISTORY, ("pull", "performance")), gateway.url)
    versions = {dict(labels)["model_version"] for labels in gateway.groups()["performance"]["ml_model_metric"]}
    assert odd in versions


def test_a_check_that_fails_goes_on_saying_when_it_last_succeeded(world: worlds.World, gateway: Pushgateway) -> None:
    scheduled(world, HISTORY)
    (world.folder / "model.txt").write_text("no model")
    scheduled(world, HISTORY + 1, ("pull",))
    with pytest.raises(Exception, match="sha256"):
        scheduled(world, HISTORY + 1, ("importance",))
    drain(Store(world.results), gateway.url)
    samples = gateway.groups()["importance"]
    assert samples["ml_window_end_timestamp_seconds"][()] == at(HISTORY + 2).timestamp()
    assert samples["ml_last_success_timestamp_seconds"][()] == at(HISTORY + 1).timestamp()
    assert "ml_feature_importance" not in samples


def test_a_gateway_that_lost_everything_is_given_it_again(
    world: worlds.World, tmp_path: Path, monkeypatch: Any
) -> None:
    with Pushgateway(tmp_path / "forgetful", forgets=True) as gateway:
        monkeypatch.setenv("HINDCAST_PUSHGATEWAY", gateway.url)
        drain(scheduled(world, HISTORY))
        before = gateway.groups()
        gateway.stop()
        gateway.start()
        assert gateway.groups() == {}
        assert drain(Store(world.results))["pushed"] == 0
        assert worlds.cli_json(world, "metrics", "push")["pushed"] == 6
        assert gateway.groups() == before


def test_a_retired_model_leaves_the_gateway(world: worlds.World, gateway: Pushgateway, monkeypatch: Any) -> None:
    monkeypatch.setenv("HINDCAST_PUSHGATEWAY", gateway.url)
    drain(scheduled(world, HISTORY))
    monkeypatch.delenv("HINDCAST_PUSHGATEWAY")
    assert "no gateway is configured" in worlds.cli(world, "metrics", "retire", "alpha").output
    monkeypatch.setenv("HINDCAST_PUSHGATEWAY", gateway.url)
    assert worlds.cli_json(world, "metrics", "retire", "alpha")["deleted"] == sorted(CHECKS)
    assert gateway.groups() == {}
    assert rows_of(world.results, "outbox") == rows_of(world.results, "pushes") == []
    assert "no metrics" in worlds.cli(world, "metrics", "retire", "alpha").output
    assert rows_of(world.results, "windows", window_start=at(HISTORY)), "results stay"


def clash(gateway: Pushgateway) -> None:
    """Somebody else pushes one of our names as a counter; the gateway then refuses ours."""
    body = b"# TYPE ml_feature_drift_score counter\nml_feature_drift_score 1\n"
    with urlopen(Request(f"{gateway.url}/metrics/job/other", data=body, method="PUT"), timeout=5):  # noqa: S310
        pass


def test_a_refused_push_is_a_finding_about_ourselves(world: worlds.World, gateway: Pushgateway) -> None:
    clash(gateway)
    found = drain(scheduled(world, HISTORY), gateway.url)
    assert (found["status"], found["pushed"], found["refused"]) == ("refused", 5, 1)
    assert "400" in found["reason"]
    assert set(gateway.groups()) >= set(CHECKS) - {"drift"}
    assert drain(Store(world.results), gateway.url)["reason"] == "nothing waits to be pushed"
    (finding,) = rows_of(world.results, "findings", check="push")
    assert (finding["kind"], finding["metric"], finding["segment"]) == ("system", "refused_pushes", "check=drift")
    assert rows_of(world.results, "checks", check="push")[0]["status"] == "error"
    # The next triage opens the alert. Once a few pushes went through, it closes.
    drain(scheduled(world, HISTORY + 1), gateway.url)
    (alert,) = rows_of(world.results, "alerts", kind="system")
    assert (alert["state"], alert["severity"], alert["subject"]) == ("firing", "warning", "*")
    assert "refused" in rows_of(world.results, "incidents")[0]["title"]
    with urlopen(Request(f"{gateway.url}/metrics/job/other", method="DELETE"), timeout=5):  # noqa: S310
        pass
    worlds.write_hours(world, range(HISTORY + 3, HISTORY + 6), rows=200)
    for hour in range(HISTORY + 2, HISTORY + 6):
        assert drain(scheduled(world, hour), gateway.url)["status"] == "ok"
    (alert,) = rows_of(world.results, "alerts", kind="system")
    assert alert["state"] == "resolved"


def test_what_came_while_pushing_goes_out_last(world: worlds.World, gateway: Pushgateway) -> None:
    """A slow push of an hour ends after the next hour was committed, and even pushed."""
    store = scheduled(world, HISTORY, ("pull",))
    (old,) = push._waiting(store, again=False)
    drain(scheduled(world, HISTORY + 1, ("pull",)), gateway.url)
    push._send(gateways.find(gateway.url), "alpha", "pull", json.loads(old["content"]))
    push._record(store, old, "ok")
    assert drain(store, gateway.url)["pushed"] == 1
    assert gateway.groups()["pull"]["ml_window_end_timestamp_seconds"][()] == at(HISTORY + 2).timestamp()


# --- what was never pushed ---


def test_history_is_what_would_have_been_pushed(world: worlds.World) -> None:
    """Hours of the schedule, one of them with an alert: the tables give the samples that were in the outbox."""
    worlds.write_hours(world, [HISTORY + 1], rows=200, fault=lambda table: table.drop_columns(["feature_stops"]))
    for hour in (HISTORY, HISTORY + 1):
        store = scheduled(world, hour)
        expected = {row["check"]: json.loads(row["content"]) for row in rows_of(world.results, "outbox")}
        assert ["ml_alerts_firing", {"kind": "quality", "severity": "critical"}, 1] in expected[
            "triage"
        ] or hour == HISTORY
        run = Run.open("alpha", Window(at(hour)), at(hour + 1) + SETTLE, config=world.models, results=world.results)
        for row in store.rows(tables.checks, **run.key):
            with store.engine.connect() as connection:
                found = push.samples(run, history_of.result_of(run, row), row["duration_seconds"], connection)
            assert found == expected[row["check"]], row["check"]


def test_a_backfill_becomes_blocks_of_prometheus(world: worlds.World, tmp_path: Path) -> None:
    """Of a world that was only replayed, by the real promtool, asked of a real Prometheus."""
    command = ["metrics", "history", "alpha", "--from", worlds.text(20), "--to", worlds.text(24)]
    said = worlds.cli_json(world, *command, "-o", str(tmp_path / "history.txt"))
    text = (tmp_path / "history.txt").read_text()
    assert worlds.cli(world, *command).output == text
    assert said["samples"] == len([line for line in text.splitlines() if not line.startswith("#")])
    done = subprocess.run(
        [binary("promtool"), "tsdb", "create-blocks-from", "openmetrics", "history.txt", "server/tsdb"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (tmp_path / "prometheus.yml").write_text("{}")
    arguments = ["--storage.tsdb.retention.time=100y"]
    with Prometheus(tmp_path / "server", tmp_path / "prometheus.yml", arguments) as prometheus:
        # The hour that ended at 22 is known from its settle time on: not a minute before, and still an hour later.
        for moment, hour in (
            (at(22) + SETTLE, 21),
            (at(23), 21),
            (at(23) + timedelta(minutes=9), 21),
            (at(22) + timedelta(minutes=9), 20),
        ):

            def found(expression: str, moment: datetime = moment) -> float:
                (series,) = prometheus.query(expression, moment.timestamp())
                assert series["metric"]["job"] == "hindcast"
                return float(series["value"][1])

            rows = rows_of(world.results, "performance", window_start=at(hour), metric="accuracy", label_age_hours=0)
            (accuracy,) = [row["value"] for row in rows if row["segment"] == "*"]
            assert found('ml_model_accuracy{time_window="1h"}') == accuracy
            assert found('ml_window_end_timestamp_seconds{check="triage"}') == at(hour + 1).timestamp()
        line = prometheus.query_range("ml_rows_processed", at(20.5).timestamp(), at(24).timestamp() - 60, 60)
        assert len(line[0]["values"]) == 3.5 * 60, "without a gap"
    assert "was known between" in worlds.cli(world, *command[:4], "2000-01-01", "--to", "2000-01-02").output


# --- how much ---


@pytest.mark.parametrize("gateway", [["--push.disable-consistency-check"]], indirect=True)  # it compares all with all
def test_200_models_of_50_features_stay_under_20000_series(world: worlds.World, gateway: Pushgateway) -> None:
    """The real rows of a window, as 50 features would write them, for 200 models on a real gateway."""
    for number in range(199):
        (world.models / f"beta{number}.yaml").write_text("")
    run = Run.open("alpha", Window(at(HISTORY)), config=world.models, results=world.results)
    store = Store(world.results)
    execute(run, "pull")
    made = {}
    for check in CHECKS:
        result = compute(run, check)
        commit(run, result, 1.0)
        writes = [(name, key, widened(name, rows)) for name, key, rows in result.writes]
        facts = result.facts | ({"by_severity": BUSY} if check == "triage" else {})
        with store.engine.connect() as connection:
            made[check] = push.samples(run, replace(result, writes=writes, facts=facts), 1.0, connection)
    for number in range(200):
        for check, content in made.items():
            push._send(gateways.find(gateway.url), f"model{number}", check, content)
    found = gateway.samples()
    assert len(found) < push.MAX_SERIES
    names = {sample.name for sample in found}
    assert names >= {"ml_feature_drift_score", "ml_feature_importance", "ml_feature_missing_ratio", "push_time_seconds"}
    for check, content in made.items():
        of_features = [name for name, labels, _ in content if "feature_name" in labels]
        assert len(of_features) == len(set(of_features)) * push.shown_features(200), check
    everything = sum(len(content) for content in made.values()) + 2 * len(made)
    assert everything <= push.FIXED_SERIES + push.FEATURE_FAMILIES * push.shown_features(200)


KINDS = ("quality", "drift", "performance", "importance", "system", "staleness")
BUSY = {f"{kind}/{severity}": 1 for kind in KINDS for severity in ("critical", "warning")}


def widened(table: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of one feature for fifty of them, those of performance for three versions, and three alerts."""
    column = {"quality": "subject", "drift": "feature", "importance": "feature"}.get(table)
    if column:
        return [{**row, column: f"f{k}"} for k in range(50) for row in rows if row[column] == "amount"]
    if table == "performance":
        return [{**row, "model_version": str(k), "baseline": row["value"]} for k in range(3) for row in rows]
    return rows


def test_one_model_shows_all_of_its_features() -> None:
    assert push.shown_features(1) == push.TOP_FEATURES == 50


# --- signing in ---


def test_bearer_and_basic_come_from_an_airflow_connection(world: worlds.World, monkeypatch: Any) -> None:
    store = scheduled(world, HISTORY, ("pull",))
    with Webhook() as server:
        address = {"host": "127.0.0.1", "port": server.server.server_port}
        monkeypatch.setenv("HINDCAST_PUSHGATEWAY", "push")
        for extra, header in (
            ({"extra": {"token": "open sesame"}}, "Bearer open sesame"),
            ({"login": "ali", "password": "baba"}, "Basic " + base64.b64encode(b"ali:baba").decode()),
        ):
            monkeypatch.setenv("AIRFLOW_CONN_PUSH", json.dumps({"conn_type": "http", **address, **extra}))
            assert drain(store, again=True)["pushed"] == 1
            assert server.received[-1][1]["Authorization"] == header


def test_basic_authentication_over_tls_with_an_authority_of_its_own(
    world: worlds.World, tmp_path: Path, monkeypatch: Any
) -> None:
    store = scheduled(world, HISTORY, ("pull",))
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    (tmp_path / "web.yml").write_text(
        f"tls_server_config: {{cert_file: {tmp_path}/cert.pem, key_file: {tmp_path}/key.pem}}\n"
        f"basic_auth_users: {{ali: '{SESAME}'}}\n"
    )
    with Pushgateway(tmp_path / "gateway", [f"--web.config.file={tmp_path}/web.yml"]) as gateway:
        monkeypatch.setenv("HINDCAST_PUSHGATEWAY", "push")

        def connect(**given: Any) -> None:
            content = {"conn_type": "http", "schema": "https", "host": "127.0.0.1", "port": gateway.port, **given}
            monkeypatch.setenv("AIRFLOW_CONN_PUSH", json.dumps(content))

        ali = {"login": "ali", "password": "open sesame"}
        trusted = {"extra": {"ca": f"{tmp_path}/cert.pem"}}
        connect(**ali, **trusted)
        assert drain(store, again=True)["pushed"] == 1
        connect(**{**ali, "password": "wrong"}, **trusted)
        with pytest.raises(PushFailed, match=r"401.*check login") as failed:
            drain(store, again=True)
        assert "wrong" not in str(failed.value)
        connect(**ali)
        with pytest.raises(PushFailed, match="certificate"):
            drain(store, again=True)
        shown = Request(f"https://127.0.0.1:{gateway.port}/metrics")
        shown.add_header("Authorization", "Basic " + base64.b64encode(b"ali:open sesame").decode())
        context = ssl.create_default_context(cafile=f"{tmp_path}/cert.pem")
        with urlopen(shown, timeout=5, context=context) as answer:  # noqa: S310
            assert "ml_rows_processed" in answer.read().decode()


SESAME = "$2b$05$abcdefghijklmnopqrstuupx2xBUC4954936wVIjyyPHmUBFu0wCW"  # bcrypt of "open sesame"


@pytest.mark.parametrize(
    ("value", "said"),
    [("ftp://a", "no http"), ("http://u:p@a:1", "holds a password"), ("nowhere", "connection 'nowhere'")],
)
def test_an_address_that_cannot_be_used_says_why(value: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        gateways.find(value)
