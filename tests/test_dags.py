import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from hindcast import errors, requests, tasks
from hindcast.errors import ConfigError, UsageError
from hindcast.window import HOUR, Window, parse_time

ROOT = Path(__file__).parents[1]
DAGS = ROOT / "dags"

# task: (upstream tasks, trigger rule)
HOURLY = {
    "pull": ([], "all_success"),
    "validate": (["pull"], "all_success"),
    "detect": (["pull"], "all_success"),
    "perform": (["pull"], "all_success"),
    "explain": (["pull"], "all_success"),
    "triage": (["detect", "explain", "perform", "pull", "validate"], "all_done"),
    "push": (["triage"], "all_success"),
    "watcher": (["detect", "explain", "perform", "pull", "push", "triage", "validate"], "one_failed"),
}
DAILY = {
    "sweep": ([], "all_success"),
    "roll_up": (["sweep"], "all_done"),
    "label_maturity": (["roll_up"], "all_success"),
    "retention": (["label_maturity"], "all_success"),
    "multivariate": (["roll_up"], "all_success"),
    "watcher": (["label_maturity", "multivariate", "retention", "roll_up", "sweep"], "one_failed"),
}
INCIDENT = {
    "diagnose": ([], "all_success"),
    "report": (["diagnose"], "all_success"),
    "multivariate": ([], "all_success"),
}
BROKEN = {"configuration": ([], "all_success")}

RESOURCES = {
    "pool": "large",
    "pool_slots": 4,
    "queue": "big",
    "executor_config": {"pod_template_file": "/pods/big.yaml"},
}
HEAVY = ["pandas", "numpy", "scipy", "shap", "great_expectations", "pyarrow", "sklearn", "lightgbm", "plotly"]

# Reads the DAG files as Airflow does, in a process of its own, and writes what it found as JSON.
READER = """
import json, os, sys, time
from pathlib import Path
import airflow.sdk
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk.definitions._internal.dag_parsing_context import _airflow_parsing_context_manager as parsing

def described(dag):
    return {
        "tasks": {t.task_id: [sorted(t.upstream_task_ids), t.trigger_rule] for t in dag.tasks},
        "owner": sorted({t.owner for t in dag.tasks}),
        "retries": {t.task_id: t.retries for t in dag.tasks},
        "timeouts": {t.task_id: t.execution_timeout and t.execution_timeout.total_seconds() for t in dag.tasks},
        "backoff": sorted({str(t.retry_exponential_backoff) for t in dag.tasks}),
        "schedule": getattr(dag.timetable, "expression", None),
        "timetable": type(dag.timetable).__name__,
        "catchup": dag.catchup,
        "max_active_runs": dag.max_active_runs,
        "start_date": dag.start_date.isoformat(),
        "paused": dag.is_paused_upon_creation,
        "tags": sorted(dag.tags),
        "doc": dag.doc_md,
        "given": {
            t.task_id: [t.pool, t.pool_slots, t.queue, t.executor_config] for t in dag.tasks
        },
        "params": {name: [param.value, param.schema] for name, param in dag.params.items()},
    }

def read(folder):
    return DagBag(dag_folder=folder, bundle_path=Path(folder), bundle_name="dags-folder")

folder, wanted = sys.argv[1:]
heavy = lambda: sorted({name.partition(".")[0] for name in sys.modules} & set(os.environ["HEAVY"].split()))
before, started = heavy(), time.process_time()
bag = read(folder)
found = {"seconds": time.process_time() - started, "heavy": [before, heavy()], "errors": bag.import_errors}
found["dags"] = {dag_id: described(dag) for dag_id, dag in bag.dags.items()}
pull = bag.dags["hindcast_hourly__steady"].task_dict["pull"]
from hindcast import errors
found["retry"] = {
    kind.__name__: pull.retry_policy.evaluate(kind("x"), 1, 3).action.value for kind in errors.kinds()
}
found["retry"]["KeyError"] = pull.retry_policy.evaluate(KeyError("x"), 1, 3).action.value
with parsing(dag_id=wanted):
    found["worker"] = sorted(read(folder).dags)
print("FOUND" + json.dumps(found))
"""


def model(name: str, **more: object) -> dict[str, object]:
    return {
        "model": name,
        "owner": {"team": "ops-ml", "oncall": "night-shift"},
        "task": "binary",
        "logs": {"uri": "logs"},
        "reference": {"uri": "reference.parquet"},
        **more,
    }


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What Airflow reads from the DAG files, with ten good model files and three bad ones."""
    home = tmp_path_factory.mktemp("airflow")
    models = home / "models"
    models.mkdir()
    contents = {
        "steady": model("steady"),
        "slow": model("slow", schedule={"settle_minutes": 70}, resources=RESOURCES),
        "own_time": model("own_time", schedule={"hourly": "25 * * * *"}),
        **{f"more{index}": model(f"more{index}") for index in range(7)},
        "wrong": model("wrong", tusk="binary"),
        "twice": model("steady"),
        "more0 copy": {"model": "x"},
    }
    for stem, content in contents.items():
        (models / f"{stem}.yaml").write_text(yaml.safe_dump(content))
    (models / "steady.yml").write_text("model: [")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("AIRFLOW")} | {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(home / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        "HINDCAST_CONFIG": str(models),
        "PYTHONPATH": str(ROOT / "include"),
        "HEAVY": " ".join(HEAVY),
    }
    command = [sys.executable, "-c", READER, str(DAGS), "hindcast_hourly__slow"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=home, check=False)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.partition("FOUND")[2])


def test_every_file_loads(found: dict) -> None:
    assert found["errors"] == {}


def test_there_is_an_hourly_and_a_daily_dag_for_each_model_file(found: dict) -> None:
    names = ["steady", "slow", "own_time", *[f"more{index}" for index in range(7)]]
    expected = {f"hindcast_{kind}__{name}" for kind in ("hourly", "daily") for name in names}
    expected |= {f"hindcast_hourly__{stem}" for stem in ("wrong", "twice", "more0_copy", "steady.yml.broken")}
    assert set(found["dags"]) == expected | {"hindcast_incident"}


@pytest.mark.parametrize(
    ("dag_id", "expected"),
    [
        ("hindcast_hourly__steady", HOURLY),
        ("hindcast_daily__steady", DAILY),
        ("hindcast_incident", INCIDENT),
        ("hindcast_hourly__wrong", BROKEN),
    ],
)
def test_tasks_depend_on_each_other_as_drawn(found: dict, dag_id: str, expected: dict) -> None:
    assert found["dags"][dag_id]["tasks"] == {task: list(wiring) for task, wiring in expected.items()}


@pytest.mark.parametrize(
    ("dag_id", "cron"),
    [
        ("hindcast_hourly__steady", "10 * * * *"),
        ("hindcast_hourly__slow", "10 * * * *"),
        ("hindcast_hourly__own_time", "25 * * * *"),
        ("hindcast_daily__steady", "10 1 * * *"),
        ("hindcast_daily__slow", "10 2 * * *"),
    ],
)
def test_the_settle_time_sets_the_schedule(found: dict, dag_id: str, cron: str) -> None:
    dag = found["dags"][dag_id]
    assert (dag["timetable"], dag["schedule"]) == ("CronDataIntervalTimetable", cron)


def test_every_scheduled_dag_is_explicit_about_how_it_runs(found: dict) -> None:
    for dag_id, dag in found["dags"].items():
        assert dag["catchup"] is False, dag_id
        assert datetime.fromisoformat(dag["start_date"]) < datetime(2013, 1, 1, tzinfo=UTC), dag_id
        if dag_id != "hindcast_incident":
            assert dag["max_active_runs"] == 1, dag_id
        if "broken" in dag["tags"]:
            continue
        assert dag["backoff"] == ["2.0"], dag_id
        assert all(dag["timeouts"].values()), dag_id
        assert {task: n for task, n in dag["retries"].items() if not n} in ({}, {"watcher": 0}), dag_id


def test_a_models_resources_reach_its_checks_alone(found: dict) -> None:
    ours, usual = found["dags"]["hindcast_hourly__slow"]["given"], found["dags"]["hindcast_hourly__steady"]["given"]
    for task_id in ("pull", "validate", "detect", "perform", "explain", "triage"):
        assert ours[task_id] == ["large", 4, "big", {"pod_template_file": "/pods/big.yaml"}]
        assert usual[task_id] == ["default_pool", 1, "default", {}]
    assert ours["push"] == ours["watcher"] == usual["push"]


def test_the_owner_and_the_instructions_come_from_the_model_file(found: dict) -> None:
    dag = found["dags"]["hindcast_hourly__steady"]
    assert dag["owner"] == ["ops-ml"]
    for part in ("`steady`", "night-shift", "Trigger", "HINDCAST_RESULTS", "steady.yaml"):
        assert part in dag["doc"]


def test_every_param_is_optional(found: dict) -> None:
    """A form with a required field could not be triggered without it, and a scheduled run would fail."""
    for dag_id in ("hindcast_hourly__steady", "hindcast_daily__steady"):
        for name, (value, schema) in found["dags"][dag_id]["params"].items():
            assert value is None, name
            assert "null" in schema["type"], name
    assert set(found["dags"]["hindcast_hourly__steady"]["params"]) == set(requests.HOURLY_KEYS)
    incident = found["dags"]["hindcast_incident"]["params"]
    assert set(incident) == set(requests.INCIDENT_KEYS)
    assert incident["model"][1]["enum"] == sorted(["steady", "slow", "own_time", *[f"more{n}" for n in range(7)]])


@pytest.mark.parametrize(
    ("stem", "message"),
    [("wrong", "unknown key 'tusk'"), ("twice", "already the name in"), ("steady.yml.broken", "no valid YAML")],
)
def test_a_wrong_model_file_shows_its_fault_and_stops_no_other(found: dict, stem: str, message: str) -> None:
    dag = found["dags"][f"hindcast_hourly__{stem}"]
    assert message in dag["doc"]
    assert "broken" in dag["tags"]
    assert dag["paused"] is True


def test_reading_the_files_imports_nothing_heavy(found: dict) -> None:
    assert found["heavy"] == [[], []]


PRELOADER = """
import json, os, sys
sys.argv = ["airflow", *sys.argv[1:]]
from airflow.listeners.listener import get_listener_manager
Job = type("Job", (), {})  # as the scheduler's own, which needs a database
before = dict(os.environ)
get_listener_manager().hook.on_starting(component=Job())
heavy = sorted({name.partition(".")[0] for name in sys.modules} & set(os.environ["HEAVY"].split()))
print("FOUND" + json.dumps([heavy, len(os.listdir("/proc/self/task")), before == dict(os.environ)]))
"""


def preloaded(home: Path, component: str, **environment: str) -> list:
    """What is imported when a component starts, its threads, and whether its environment is as it was."""
    given = {key: value for key, value in os.environ.items() if not key.startswith("AIRFLOW")} | {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "PYTHONPATH": str(ROOT / "include"),
        "HEAVY": " ".join(HEAVY),
        **environment,
    }
    command = [sys.executable, "-c", PRELOADER, component]
    ended = subprocess.run(command, env=given, capture_output=True, text=True, cwd=home, check=False)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.partition("FOUND")[2])


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted in /proc")
def test_the_scheduler_imports_what_tasks_need_and_starts_no_thread(tmp_path: Path) -> None:
    found, threads, unchanged = preloaded(tmp_path, "scheduler")
    assert {"numpy", "pyarrow", "scipy", "pandas", "great_expectations"} <= set(found)
    assert not {"shap", "lightgbm", "plotly"} & set(found), "only some models need them"
    assert threads == 1, "a process with threads must not be forked"
    assert unchanged


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted in /proc")
@pytest.mark.parametrize(
    ("component", "environment"),
    [("api-server", {}), ("dag-processor", {}), ("triggerer", {}), ("scheduler", {"HINDCAST_PRELOAD": "0"})],
)
def test_no_other_component_imports_anything_heavy(tmp_path: Path, component: str, environment: dict) -> None:
    assert preloaded(tmp_path, component, **environment) == [[], 1, True]


def test_a_worker_builds_its_own_dag_alone(found: dict) -> None:
    assert [dag_id for dag_id in found["worker"] if dag_id != "hindcast_incident"] == ["hindcast_hourly__slow"]


def test_only_transient_errors_are_tried_again(found: dict) -> None:
    """`kinds` has every error there is: test_architecture.py."""
    expected = {kind.__name__: "retry" if kind.transient else "fail" for kind in errors.kinds()}
    assert found["retry"] == {**expected, "KeyError": "default"}
    assert {name for name, action in found["retry"].items() if action == "retry"} == {
        "SourceBusy",
        "StoreError",
        "PushFailed",
        "NotDelivered",
    }


def test_a_missing_place_for_model_files_is_an_import_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HINDCAST_CONFIG", str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="nowhere: no such file or directory"):
        list(tasks.model_files(DAGS))


def test_without_a_setting_the_models_lie_beside_the_dags(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HINDCAST_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)
    assert tasks.config_place(DAGS) == ROOT / "include" / "models"


# --- which windows a run is about ---


@dataclass(frozen=True)
class Times:
    """The moments of a DAG run, as Airflow hands them to a task."""

    run_type: str
    run_after: datetime
    logical_date: datetime | None = None
    data_interval_start: datetime | None = None
    data_interval_end: datetime | None = None
    partition_date: datetime | None = None


def run_of(kind: str, after: str, *interval: str, partition: str | None = None) -> Times:
    """A run that was due `after`; its logical date, data interval start and end, if it has them."""
    moments = [parse_time(moment) for moment in interval] or [None] * 3
    return Times(kind, parse_time(after), *moments, parse_time(partition) if partition else None)


SCHEDULED = run_of("scheduled", "2013-04-16T16:10", "2013-04-16T15:10", "2013-04-16T15:10", "2013-04-16T16:10")
MANUAL = run_of("manual", "2013-04-20T14:34")
NO_FORM = MappingProxyType(dict.fromkeys(requests.HOURLY_KEYS))


@pytest.mark.parametrize(
    ("times", "params", "settle", "expected", "published"),
    [
        pytest.param(SCHEDULED, {}, 10, ["2013-04-16T15"], True, id="scheduled"),
        pytest.param(
            run_of("scheduled", "2013-04-16T16:00", "2013-04-16T15", "2013-04-16T15", "2013-04-16T16"),
            {},
            0,
            ["2013-04-16T15"],
            True,
            id="scheduled-on-the-hour",
        ),
        pytest.param(SCHEDULED, {}, 70, ["2013-04-16T14"], True, id="scheduled-that-settles-for-more-than-an-hour"),
        pytest.param(
            run_of("scheduled", "2013-04-16T16:10", "2013-04-16T13:10", "2013-04-16T13:10", "2013-04-16T16:10"),
            {},
            10,
            ["2013-04-16T13", "2013-04-16T14", "2013-04-16T15"],
            True,
            id="scheduled-every-three-hours",
        ),
        pytest.param(
            run_of("backfill", "2013-04-10T16:10", "2013-04-10T15:10", "2013-04-10T15:10", "2013-04-10T16:10"),
            {},
            10,
            ["2013-04-10T15"],
            False,
            id="backfill",
        ),
        pytest.param(MANUAL, {}, 10, ["2013-04-20T13"], True, id="manual-null"),
        pytest.param(
            run_of("manual", "2013-04-20T14:34", "2013-04-20T14:34", "2013-04-20T13:10", "2013-04-20T14:10"),
            {},
            10,
            ["2013-04-20T13"],
            True,
            id="manual-with-logical-date",
        ),
        pytest.param(
            run_of("manual", "2013-04-20T14:34", "2013-04-18T09:20", "2013-04-18T09:20", "2013-04-18T09:20"),
            {},
            10,
            ["2013-04-18T08"],
            True,
            id="manual-with-an-empty-interval",
        ),
        pytest.param(
            run_of("asset_triggered", "2013-04-20T14:34", partition="2013-04-18T09:00"),
            {},
            10,
            ["2013-04-18T09"],
            True,
            id="partition",
        ),
        pytest.param(MANUAL, {"window_start": "2013-04-16T15"}, 10, ["2013-04-16T15"], False, id="explicit-hour"),
        pytest.param(
            SCHEDULED, {"window_start": "2013-04-01T02:30:00Z"}, 10, ["2013-04-01T02"], False, id="explicit-wins"
        ),
        pytest.param(
            MANUAL, {"window_start": "2013-04-16T11:00:00-04:00"}, 10, ["2013-04-16T15"], False, id="explicit-zone"
        ),
        pytest.param(
            MANUAL,
            {"window_start": "2013-04-16T22", "window_end": "2013-04-17T01"},
            10,
            ["2013-04-16T22", "2013-04-16T23", "2013-04-17T00"],
            False,
            id="explicit-range-is-half-open",
        ),
        pytest.param(MANUAL, {"window_start": "", "window_end": ""}, 10, ["2013-04-20T13"], True, id="empty-form"),
    ],
)
def test_the_windows_of_a_run(times: Times, params: dict, settle: int, expected: list, published: bool) -> None:
    request = requests.read_request(times, {**NO_FORM, **params}, settle)
    assert request.windows == tuple(Window.parse(hour) for hour in expected)
    assert (request.publish, request.now, request.as_of) == (published, times.run_after, None)
    assert request.checks == requests.SELECTABLE


@given(
    due=st.datetimes(datetime(2001, 1, 1), datetime(2099, 1, 1)).map(lambda moment: moment.replace(tzinfo=UTC)),  # noqa: DTZ001
    kind=st.sampled_from(["scheduled", "manual", "backfill"]),
    settle=st.integers(0, 24 * 60),
)
def test_a_run_is_about_settled_hours_and_says_so_every_time(due: datetime, kind: str, settle: int) -> None:
    due = due.replace(minute=settle % 60, second=0, microsecond=0)
    times = Times(kind, due, due - HOUR, due - HOUR, due)
    request = requests.read_request(times, NO_FORM, settle)
    assert len(request.windows) == 1
    unsettled = due - (request.windows[0].end + timedelta(minutes=settle))
    assert timedelta(0) <= unsettled < HOUR
    assert requests.read_request(times, NO_FORM, settle) == request


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"window_start": "yesterday"}, "window_start: 'yesterday' is not a time"),
        ({"window_start": 20130416}, "window_start: got 20130416; write it as text"),
        ({"window_end": "2013-04-16T15"}, "window_end is given without window_start"),
        ({"window_start": "2013-04-16T15", "window_end": "2013-04-16T15"}, "no whole hour"),
        ({"window_start": "2013-04-16T15", "window_end": "2013-04-16T14"}, "no whole hour"),
        ({"window_start": "2013-01-01", "window_end": "2013-04-01"}, "2160 hours are too many"),
        (
            {"window_start": "2013-04-20T14"},
            "the window 2013-04-20T14:00Z is not over: the run is of 2013-04-20T14:34Z",
        ),
        ({"window_start": "2013-04-16T15", "as_of": "2013-04-16T15:59"}, "lies before the end of the window"),
        ({"as_of": "soon"}, "as_of: 'soon' is not a time"),
        ({"only": ["drifts"]}, "only: got ['drifts']; allowed: a list of quality, drift, performance, importance"),
        ({"only": "drift"}, "only: got 'drift'; allowed: a list of"),
        (
            {"windowstart": "2013-04-16T15"},
            "unknown key 'windowstart' in the run's configuration; allowed: window_start",
        ),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(params: dict, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        requests.read_request(MANUAL, {**NO_FORM, **params}, 10)


def test_a_request_can_choose_checks_and_a_moment() -> None:
    params = {"window_start": "2013-04-16T15", "only": ["importance", "quality"], "as_of": "2013-04-16T18"}
    request = requests.read_request(MANUAL, params, 10)
    assert request.checks == ("quality", "importance")
    assert request.as_of == parse_time("2013-04-16T18")
    assert request.publish is False


@pytest.mark.parametrize(
    ("times", "params", "settle", "expected"),
    [
        (
            run_of("scheduled", "2013-04-17T01:10", "2013-04-16T01:10", "2013-04-16T01:10", "2013-04-17T01:10"),
            {},
            10,
            "2013-04-16",
        ),
        (
            run_of("scheduled", "2013-04-17T01:00", "2013-04-16T01:00", "2013-04-16T01:00", "2013-04-17T01:00"),
            {},
            24 * 60,
            "2013-04-15",
        ),
        (run_of("manual", "2013-04-17T00:30"), {}, 10, "2013-04-15"),
        (run_of("manual", "2013-04-17T15:30"), {}, 10, "2013-04-16"),
        (run_of("manual", "2013-04-17T15:30"), {"day": "2013-03-02"}, 10, "2013-03-02"),
        (run_of("asset_triggered", "2013-04-17T15:30", partition="2013-03-02"), {}, 10, "2013-03-02"),
    ],
)
def test_the_day_of_a_run(times: Times, params: dict, settle: int, expected: str) -> None:
    assert requests.read_day(times, {"day": None, **params}, settle) == parse_time(expected)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"day": "2013-04-17"}, "the day 2013-04-17 is not over"),
        ({"day": "16/4/2013"}, "day: '16/4/2013' is not a time"),
        ({"date": "2013-04-16"}, "unknown key 'date'"),
    ],
)
def test_a_day_that_makes_no_sense_is_refused(params: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        requests.read_day(run_of("manual", "2013-04-17T15:30"), params, 10)


def test_the_period_of_an_incident_is_half_open_hours() -> None:
    params = {"model": "m", "from": "2013-04-15T10:30", "to": "2013-04-16T08:59"}
    assert requests.read_period(MANUAL, params) == (parse_time("2013-04-15T10"), parse_time("2013-04-16T08"))
    with pytest.raises(UsageError, match="no whole hour lies between"):
        requests.read_period(MANUAL, {"model": "m", "from": "2013-04-16T08", "to": "2013-04-16T08:30"})
