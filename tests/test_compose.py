"""The compose file without an engine: read strictly, its rules kept, and what can run run with what it mounts."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest
import yaml
from botocore.exceptions import ClientError
from click.testing import CliRunner
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import create_engine, make_url, text
from tests.ports import free_port
from tests.prometheus_server import Alertmanager, Prometheus, Pushgateway, binary, fetched
from tests.s3_server import started

from hindcast import push
from hindcast.cli import main
from hindcast.connections import connection as connection_of
from hindcast.results import tables
from hindcast.results.sql import Store
from hindcast.s3 import client as s3_client
from hindcast.sdk import PredictionLogger

if TYPE_CHECKING:
    from tests.postgres_server import Cluster
    from tests.s3_server import S3Server

ROOT = Path(__file__).resolve().parents[1]
ONCE = {"init", "ownership"}
NAMES = re.findall(r"^([A-Z0-9_]+)=", (ROOT / ".env.example").read_text(encoding="utf-8"), re.MULTILINE)


def compose(tmp_path: Path, without: str = "") -> subprocess.CompletedProcess[str]:
    """What `docker compose config` makes of the file, every variable but one set."""
    (tmp_path / "env").write_text("".join(f"{name}=/secret/{name}\n" for name in NAMES if name != without))
    command = [str(Path(sys.executable).parent / "docker-compose"), "--env-file", str(tmp_path / "env")]
    command += ["--profile", "*", "config", "--format", "json"]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, env={"PATH": os.environ["PATH"]}
    )


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    done = compose(tmp_path_factory.mktemp("compose"))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def services(stack: dict[str, Any]) -> dict[str, Any]:
    return stack["services"]


@pytest.mark.parametrize("name", NAMES)
def test_nothing_starts_without_its_secrets(name: str, tmp_path: Path) -> None:
    done = compose(tmp_path, without=name)
    assert done.returncode != 0
    assert f"required variable {name} is missing a value: set it in .env" in done.stderr


def test_no_password_has_a_default_and_every_variable_is_in_the_example() -> None:
    source = (ROOT / "docker-compose.yaml").read_text(encoding="utf-8")
    assert set(re.findall(r"\$\{(\w+)", source)) == set(NAMES)
    assert not re.search(r"\$\{\w+:?-", source)
    assert not re.search(r"=.+", re.sub(r"^#.*$", "", (ROOT / ".env.example").read_text(), flags=re.MULTILINE))


def test_the_stack_is_whole(services: dict[str, Any]) -> None:
    monitoring = {"pushgateway", "prometheus", "alertmanager", "grafana"}
    airflow = {"init", "api-server", "scheduler", "dag-processor", "triggerer", "worker", "redis"}
    assert set(services) == {*airflow, *monitoring, "postgres", "s3", "ownership", "serving", "mlflow"}
    assert services["serving"]["profiles"] == ["demo"]
    assert services["mlflow"]["profiles"] == ["mlflow"]


def test_every_service_is_bounded_healthy_and_nobody_special(services: dict[str, Any]) -> None:
    for name, service in services.items():
        limits = service["deploy"]["resources"]["limits"]
        assert {"cpus", "memory"} <= set(limits), name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert (name in ONCE) != ("healthcheck" in service), name
        assert "privileged" not in service, name
        if name != "ownership":
            assert service["user"].partition(":")[0] not in {"", "0", "root"}, name
        assert "latest" not in service["image"], name
        for port in service.get("ports", []):
            assert port["host_ip"] == "127.0.0.1", name


def test_what_is_mounted_is_there(services: dict[str, Any]) -> None:
    for name, service in services.items():
        for mount in service.get("volumes", []):
            if mount["type"] == "bind" and "/secret/" not in mount["source"]:
                assert Path(mount["source"]).exists(), (name, mount["source"])
                assert mount["read_only"], (name, mount["source"])


def test_prometheus_gateway_and_alertmanager_run_with_exactly_what_is_mounted(
    services: dict[str, Any], tmp_path: Path
) -> None:
    """Flags and files are those of the compose file; only folders of data, and where a file is mounted, are others."""
    for name in ("prometheus", "alertmanager", "pushgateway"):
        command = [binary(f"prometheus-{name}", name), "--help"]
        known = subprocess.run(command, capture_output=True, text=True, check=False)
        for flag in services[name]["command"]:
            assert flag.partition("=")[0] in known.stdout + known.stderr, flag
    prometheus = Prometheus(
        tmp_path / "prometheus", ROOT / "include" / "prometheus" / "prometheus.yml",
        [f"--web.console.templates={ROOT}/include/playbooks", "--web.external-url=http://127.0.0.1:9090"],
    )  # fmt: skip
    with prometheus, Pushgateway(tmp_path / "gateway"):
        groups = json.loads(fetched(f"{prometheus.url}/api/v1/rules"))["data"]["groups"]
        assert {"hindcast_models", "hindcast_recording", "hindcast_models_of_the_files"} <= {g["name"] for g in groups}
        assert "hindcast incidents" in fetched(f"{prometheus.url}/consoles/incident.md")
    with Alertmanager(
        tmp_path / "alertmanager", ROOT / "include" / "alertmanager" / "alertmanager.yml"
    ) as alertmanager:
        assert "person-ada" in fetched(f"{alertmanager.url}/api/v2/receivers")


def test_the_databases_are_made_as_mounted(postgres: Cluster, tmp_path: Path) -> None:
    """By the real psql, in a real cluster: the results belong to hindcast, and the reader reads and does not write."""
    url = make_url(postgres.address("postgres"))
    psql = shutil.which("psql") or next(map(str, Path("/usr/lib/postgresql").glob("*/bin/psql")), None)
    if psql is None:
        pytest.skip("no psql is installed")
    secrets = {"AIRFLOW_DB_PASSWORD": "a'b", "RESULTS_PASSWORD": "c", "RESULTS_READER_PASSWORD": "d"}
    place = {"PGHOST": url.host, "PGPORT": str(url.port), "POSTGRES_USER": "postgres"}
    place["PATH"] = f"{Path(psql).parent}:/bin:/usr/bin"
    script = ROOT / "include" / "compose" / "databases.sh"
    done = subprocess.run(["sh", str(script)], env=secrets | place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    owner, reader = (url.set(username=name, database="results") for name in ("hindcast", "hindcast_reader"))
    Store(owner.render_as_string(hide_password=False)).engine.dispose()
    engine = create_engine(reader)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM windows")).scalar() == 0
        with pytest.raises(Exception, match="permission denied"):
            connection.execute(text("DELETE FROM windows"))
    engine.dispose()


# --- the demo's serving process ---


def test_the_serving_process_logs_and_its_metrics_clash_with_none_that_are_pushed(tmp_path: Path) -> None:
    from demo import serving

    registry = CollectorRegistry()
    with PredictionLogger(
        serving.MODEL, serving.VERSION, str(tmp_path / "logs"), labels_uri=str(tmp_path / "labels"),
        spool=tmp_path / "spool", metrics=registry,
    ) as logger:  # fmt: skip
        count = serving.serve(logger, rate=200, seconds=1, delay=0.2)
    assert count > 10
    assert list((tmp_path / "logs").rglob("*.parquet"))
    assert list((tmp_path / "labels").rglob("*.parquet"))
    exposed = generate_latest(registry).decode()
    families = {family.name: family for family in text_string_to_metric_families(exposed)}
    assert {"ml_predictions", "ml_prediction_latency_seconds", "ml_prediction_confidence", "ml_feature_value"} <= set(
        families
    )
    names = {sample.name for family in families.values() for sample in family.samples} | set(families)
    assert not names & set(push.HELP), "a name has one type, wherever it comes from"
    done = subprocess.run(
        [binary("promtool"), "check", "metrics"], input=exposed, capture_output=True, text=True, check=False
    )
    assert done.returncode in {0, 3}, done.stderr  # 3: advice on names
    assert "error" not in done.stderr.lower().replace("ml_prediction_errors", ""), done.stderr


def test_the_s3_service_runs_with_exactly_what_is_mounted(
    stack: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flags, identities and the Connection of the workers; folders, ports and the address it listens on are others."""
    stack = json.loads(json.dumps(stack).replace("/secret/", "secret-"))  # a slash ends the name of a key
    config, port = tmp_path / "s3.json", free_port()
    config.write_text(stack["configs"]["s3"]["content"])
    service = stack["services"]["s3"]
    others = {"-dir": tmp_path, "-ip.bind": "127.0.0.1", "-s3.port": port, "-s3.config": config}
    (source,) = service["configs"]
    assert f"-s3.config={source['target']}" in service["command"]
    command = [
        f"{flag.partition('=')[0]}={others[flag.partition('=')[0]]}" if flag.partition("=")[0] in others else flag
        for flag in service["command"]
    ]
    connection = json.loads(stack["services"]["worker"]["environment"]["AIRFLOW_CONN_AWS_DEFAULT"])
    assert connection["extra"]["endpoint_url"] == "http://s3:8333"
    assert "-s3.port=8333" in service["command"]
    with started(tmp_path, command, port) as server:
        connection["extra"]["endpoint_url"] = server.endpoint
        for login, expected in ((connection["login"], ["hindcast"]), ("a stranger", None)):
            monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps({**connection, "login": login}))
            client = s3_client(connection_of("aws_default"))
            if expected:
                client.create_bucket(Bucket="hindcast")
                assert [bucket["Name"] for bucket in client.list_buckets()["Buckets"]] == expected
            else:
                with pytest.raises(ClientError):
                    client.list_buckets()


def test_the_demo_profile_is_monitored_by_its_model_file(
    services: dict[str, Any], s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commands, environment, folders and the file itself are those of the stack; addresses and keys are others."""

    def environment(service: str) -> dict[str, str]:
        known = {"http://s3:8333": s3.endpoint, "/secret/S3_ACCESS_KEY": s3.login, "/secret/S3_SECRET_KEY": s3.password}
        text = json.dumps(services[service]["environment"])
        for old, new in known.items():
            text = text.replace(old, new)
        return json.loads(text)

    s3.bucket("hindcast")
    command = [sys.executable, *services["serving"]["command"][1:], "--seconds", "3", "--rate", "200", "--delay", "1"]
    command[command.index("--port") + 1] = "0"
    given = {name: text for name, text in environment("serving").items() if name.startswith("AWS_")}
    place = {"HINDCAST_SPOOL": str(tmp_path / "spool"), "PATH": os.environ["PATH"]}
    done = subprocess.run(command, env=given | place, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    count = int(done.stdout.split()[0])

    (mount,) = [m for m in services["worker"]["volumes"] if m["source"].endswith("include/models")]
    assert mount["target"] == environment("worker")["HINDCAST_CONFIG"] == "/opt/hindcast/include/models"
    models = tmp_path / "include" / "models"
    models.mkdir(parents=True)
    shutil.copy(ROOT / "demo" / "demo_serving.yaml", models)
    shutil.copytree(ROOT / "demo", tmp_path / "demo", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", environment("worker")["AIRFLOW_CONN_AWS_DEFAULT"])
    store = Store(f"sqlite:///{tmp_path}/results.db")
    options = ["--config", str(models), "--results", f"sqlite:///{tmp_path}/results.db"]
    keys = [o["Key"] for o in s3.client().list_objects_v2(Bucket="hindcast", Prefix="logs/")["Contents"]]
    hours = sorted({re.sub(r".*date=(.*)/hour=(..)/.*", r"\1T\2", key) for key in keys})
    for hour in hours:  # two, if one ended meanwhile
        end = f"{hour[:10]}T23:59" if hour.endswith("23") else f"{hour[:11]}{int(hour[11:]) + 1:02}:10"
        done = CliRunner().invoke(main, ["check", "demo_serving", "--window", hour, "--as-of", end, *options])
        assert done.exit_code == 0, done.output
    assert sum(row["rows"] for row in store.rows(tables.windows)) == count
    assert {row["status"] for row in store.rows(tables.checks)} == {"ok"}
    judged = store.rows(tables.performance, metric="accuracy", segment="*", label_age_hours=0)
    assert all(row["status"] == "ok" and row["label_coverage"] > 0.3 for row in judged)
    assert not [row for row in store.rows(tables.quality) if row["status"] == "failed"]


def test_the_reference_of_the_demo_profile_is_what_its_process_draws(tmp_path: Path) -> None:
    from demo import serving

    serving.reference(tmp_path / "again.parquet")
    assert pq.read_table(tmp_path / "again.parquet").equals(pq.read_table(serving.REFERENCE))


def test_scraped_targets_are_services(services: dict[str, Any]) -> None:
    config = yaml.safe_load((ROOT / "include" / "prometheus" / "prometheus.yml").read_text())
    listed = yaml.safe_load((ROOT / "include" / "prometheus" / "targets" / "serving.yaml").read_text())
    static = [job["static_configs"][0]["targets"][0] for job in config["scrape_configs"] if "static_configs" in job]
    for target in [*static, *listed[0]["targets"]]:
        assert target.partition(":")[0] in {*services, "localhost"}, target
