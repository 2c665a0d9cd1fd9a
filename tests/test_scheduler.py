"""The DAGs in a real scheduler; every run is triggered first, so that they share one wait."""

import re
import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

import pytest
from demo.airflow import COMPONENTS, Airflow, AirflowError
from tests.airflow_server import FIRST_HOUR, LOGGED_HOURS, ROWS, Watched, rows, write_hour

from hindcast.results import tables
from hindcast.results.sql import Store
from hindcast.tasks import CHECK_OF_TASK

STEADY = "hindcast_hourly__steady"
LOST = "hindcast_hourly__lost"
BROKEN = "hindcast_hourly__broken"
PATIENT = "hindcast_hourly__patient"
DAILY = "hindcast_daily__steady"
INCIDENT = "hindcast_incident"
# One Airflow for all of them, also when the tests are spread over processes.
pytestmark = pytest.mark.xdist_group("airflow")

CHECKS = ("validate", "detect", "perform", "explain")
GREEN = dict.fromkeys(("pull", *CHECKS, "triage", "push"), "success") | {"watcher": "skipped"}
EMPTY_HOUR = FIRST_HOUR + timedelta(hours=8)


def hour(index: int) -> str:
    return f"{FIRST_HOUR + timedelta(hours=index):%Y-%m-%dT%H:%M:%SZ}"


RUNS = {
    "window": (STEADY, {"window_start": hour(0)}),
    "range": (STEADY, {"window_start": hour(1), "window_end": hour(3), "only": ["performance"]}),
    "empty": (STEADY, {"window_start": f"{EMPTY_HOUR:%Y-%m-%dT%H}"}),
    "nonsense": (LOST, {"window_start": "yesterday"}),
    "lost": (LOST, {"window_start": hour(0)}),
    "broken": (BROKEN, {}),
    "patient": (PATIENT, {}),
}


@pytest.fixture(scope="module")
def triggered(watched: Watched) -> dict[str, str]:
    """Run ids of RUNS; they are triggered before anything runs, and share the waiting."""
    airflow = watched.airflow
    # not the daily one: its own run of today deletes what is as old as these windows
    dag_ids = {dag_id for dag_id, _ in RUNS.values()} | {INCIDENT}
    airflow.wait_for_dags(dag_ids)
    run_ids = {name: airflow.trigger(dag_id, conf) for name, (dag_id, conf) in RUNS.items()}
    for dag_id in sorted(dag_ids):
        airflow.unpause(dag_id)
    return run_ids


@pytest.fixture
def store(watched: Watched) -> Store:
    return Store(watched.results)


def test_a_window_is_checked_and_its_rows_are_stored(watched: Watched, triggered: dict, store: Store) -> None:
    state, states = watched.airflow.wait(STEADY, triggered["window"])
    assert (state, states) == ("success", GREEN)

    window = store.rows(tables.windows, model_name="steady", window_start=FIRST_HOUR)[0]
    assert (window["status"], window["rows"]) == ("ok", ROWS)
    # Triggered long after: as of when the largest label age has passed, and not as of today.
    assert window["as_of"] == FIRST_HOUR + timedelta(hours=1 + 2, minutes=10)
    for table in (tables.quality, tables.drift, tables.performance):
        assert store.rows(table, model_name="steady", window_start=FIRST_HOUR), table.name
    accuracy = store.rows(
        tables.performance,
        model_name="steady",
        window_start=FIRST_HOUR,
        segment="*",
        metric="accuracy",
        label_age_hours=2,
    )
    assert [row["status"] for row in accuracy] == ["ok"]
    assert accuracy[0]["value"] == pytest.approx(0.9, abs=0.06)


def test_what_passes_between_tasks_is_the_window_and_small_facts(watched: Watched, triggered: dict) -> None:
    watched.airflow.wait(STEADY, triggered["window"])
    for task in ("pull", *CHECKS, "triage"):
        value = watched.airflow.xcom(STEADY, triggered["window"], task)
        facts = value["windows"]
        assert [(fact["window"], fact["as_of"]) for fact in facts] == [("2013-04-16T12:00Z", "2013-04-16T15:10Z")], task
        assert len(str(value)) < 2000, task


def test_a_range_is_checked_hour_by_hour_and_only_as_asked(watched: Watched, triggered: dict, store: Store) -> None:
    state, states = watched.airflow.wait(STEADY, triggered["range"])
    assert (state, states) == ("success", GREEN | dict.fromkeys(("validate", "detect", "explain"), "skipped"))
    later = [FIRST_HOUR + timedelta(hours=index) for index in range(1, LOGGED_HOURS)]
    assert [row["rows"] for row in store.rows(tables.windows, model_name="steady", window_start=later)] == [ROWS, ROWS]
    assert store.rows(tables.performance, model_name="steady", window_start=later[-1])
    assert not store.rows(tables.quality, model_name="steady", window_start=later)


def test_an_hour_without_rows_is_empty_and_green(watched: Watched, triggered: dict, store: Store) -> None:
    state, states = watched.airflow.wait(STEADY, triggered["empty"])
    assert (state, states) == ("success", GREEN)
    window = store.rows(tables.windows, model_name="steady", window_start=EMPTY_HOUR)[0]
    assert (window["status"], window["rows"]) == ("empty", 0)
    assert watched.airflow.xcom(STEADY, triggered["empty"], "pull")["windows"][0]["status"] == "empty"


def test_the_schedule_checks_the_hour_before(watched: Watched, triggered: dict, store: Store) -> None:
    """Unpausing starts the run that was due last; the models have no logs of today, so that its hour is empty."""
    runs = watched.airflow.request("GET", f"/dags/{STEADY}/dagRuns", run_type="scheduled")["dag_runs"]
    state, states = watched.airflow.wait(STEADY, runs[0]["dag_run_id"])
    assert (state, states) == ("success", GREEN)
    due = datetime.fromisoformat(runs[0]["run_after"]).astimezone(UTC)
    assert due.minute == 10
    window = due.replace(minute=0) - timedelta(hours=1)
    row = store.rows(tables.windows, model_name="steady", window_start=window)[0]
    assert (row["status"], row["as_of"]) == ("empty", due)
    # Only what the schedule checks is meant for the Pushgateway.
    waiting = {row["check"]: row["window_start"] for row in store.rows(tables.outbox)}
    assert waiting == dict.fromkeys(CHECK_OF_TASK.values(), window)


def test_missing_logs_make_the_run_red_on_the_first_try(watched: Watched, triggered: dict, store: Store) -> None:
    state, states = watched.airflow.wait(LOST, triggered["lost"])
    assert state == "failed"
    assert states == {
        "pull": "failed",
        **dict.fromkeys(CHECKS, "upstream_failed"),
        **dict.fromkeys(("triage", "push"), "skipped"),
        "watcher": "failed",
    }
    path = f"/dags/{LOST}/dagRuns/{triggered['lost']}/taskInstances/pull"
    assert watched.airflow.request("GET", path)["try_number"] == 1
    log = watched.airflow.task_log(LOST, triggered["lost"], "pull")
    assert "SourceMissing" in log
    assert "data/nowhere" in log
    row = store.rows(tables.checks, model_name="lost", window_start=FIRST_HOUR, check="pull")[0]
    assert (row["status"], "data/nowhere" in row["reason"]) == ("error", True)


def test_a_run_waits_for_its_marker_without_a_worker(watched: Watched, triggered: dict, store: Store) -> None:
    path = f"/dags/{PATIENT}/dagRuns/{triggered['patient']}"
    task = f"{path}/taskInstances/wait"
    deadline = time.monotonic() + 60
    while watched.airflow.request("GET", task)["state"] != "deferred" and time.monotonic() < deadline:
        time.sleep(0.5)
    waiting = watched.airflow.request("GET", task)
    assert (waiting["state"], waiting["trigger"]["classpath"]) == ("deferred", "hindcast.waiting.LogsReady")
    due = datetime.fromisoformat(watched.airflow.request("GET", path)["run_after"]).astimezone(UTC)
    window = due.replace(minute=0, second=0, microsecond=0) - timedelta(hours=1)
    logs = watched.airflow.home.parent / "data" / "patient"
    write_hour(logs, window, rows(window, ROWS, seed=1))
    (logs / f"date={window:%Y-%m-%d}" / f"hour={window:%H}" / "_SUCCESS").touch()
    state, states = watched.airflow.wait(PATIENT, triggered["patient"])
    assert (state, states) == ("success", {"wait": "success", **GREEN})
    assert watched.airflow.xcom(PATIENT, triggered["patient"], "wait") == {"ready": True, "reason": ""}
    row = store.rows(tables.windows, model_name="patient", window_start=window)[0]
    assert (row["status"], row["rows"]) == ("ok", ROWS)


def test_a_form_that_makes_no_sense_says_why(watched: Watched, triggered: dict) -> None:
    state, states = watched.airflow.wait(LOST, triggered["nonsense"])
    assert (state, states["pull"]) == ("failed", "failed")
    log = watched.airflow.task_log(LOST, triggered["nonsense"], "pull")
    assert "window_start: 'yesterday' is not a time; write it as 2013-04-16T15" in log


def test_a_wrong_model_file_is_a_dag_that_says_so(watched: Watched, triggered: dict) -> None:
    assert watched.airflow.wait(BROKEN, triggered["broken"]) == ("failed", {"configuration": "failed"})
    log = watched.airflow.task_log(BROKEN, triggered["broken"], "configuration")
    assert "broken.yaml: drift.seasonal_week: unknown key 'seasonal_week' (did you mean 'seasonal_weeks'?)" in log
    assert watched.airflow.request("GET", "/importErrors")["import_errors"] == []


def test_an_incident_is_diagnosed_and_reported(watched: Watched, triggered: dict, store: Store) -> None:
    for name in ("window", "range"):
        watched.airflow.wait(STEADY, triggered[name])
    run = watched.airflow.trigger(INCIDENT, {"model": "steady", "from": hour(0), "to": hour(LOGGED_HOURS)})
    state, states = watched.airflow.wait(INCIDENT, run)
    assert (state, set(states.values())) == ("success", {"success"})
    page = store.artifacts / "reports" / "steady" / "2013-04-16T14.html"
    assert "steady" in page.read_text()


def test_the_day_is_rolled_up(watched: Watched, triggered: dict, store: Store) -> None:
    for name in ("window", "range", "empty"):
        watched.airflow.wait(STEADY, triggered[name])
    watched.airflow.unpause(DAILY)
    run = watched.airflow.trigger(DAILY, {"day": "2013-04-16"})
    state, states = watched.airflow.wait(DAILY, run)
    assert (state, states.pop("watcher"), set(states.values())) == ("success", "skipped", {"success"})
    assert watched.airflow.xcom(DAILY, run, "sweep") == {"windows": LOGGED_HOURS + 1, "changed": []}
    day = store.rows(tables.days, model_name="steady", day=FIRST_HOUR.replace(hour=0))[0]
    assert (day["hours_ok"], day["hours_empty"], day["hours_missing"]) == (LOGGED_HOURS, 1, 24 - LOGGED_HOURS - 1)
    assert day["rows"] == LOGGED_HOURS * ROWS


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads the libraries of a process in /proc")
def test_the_scheduler_alone_holds_what_its_tasks_inherit(watched: Watched) -> None:
    pids = watched.airflow.processes()
    del pids["triggerer"]  # it looks at files, once a run waits
    holds = {name for name, pid in pids.items() if "libarrow" in Path(f"/proc/{pid}/maps").read_text()}
    assert holds == {"scheduler"}


# --- where links of dashboards lead; the api-server holds pyarrow from here on ---


def visited(watched: Watched, path: str, *, accept: str = "text/html", known: bool = True, **query: str) -> Any:
    """Follow a link as somebody who is logged in, or as nobody."""
    import httpx

    url, cookies = watched.airflow.url, {}
    if known:
        login = {"username": "admin", "password": watched.airflow.password}
        cookies["_token"] = httpx.post(f"{url}/auth/token", json=login).json()["access_token"]
    return httpx.get(f"{url}/hindcast/{path}", params=query, cookies=cookies, headers={"Accept": accept}, timeout=60)


def milliseconds(moment: datetime) -> str:
    """A moment as Grafana's `${__value.time}` has it."""
    return str(int(moment.timestamp() * 1000))


def test_a_link_leads_to_the_run_of_an_hour(watched: Watched, triggered: dict) -> None:
    for name in ("window", "range"):
        watched.airflow.wait(STEADY, triggered[name])

    def newest() -> dict:
        """Of the schedule, which may fire while this test runs."""
        query = {"run_type": "scheduled", "order_by": "-run_after"}
        return watched.airflow.request("GET", f"/dags/{STEADY}/dagRuns", **query)["dag_runs"][0]

    scheduled = newest()
    watched.airflow.wait(STEADY, scheduled["dag_run_id"])
    due = datetime.fromisoformat(scheduled["run_after"]).astimezone(UTC)
    for query, run in (
        ({"hour": hour(0)}, triggered["window"]),
        ({"hour": milliseconds(FIRST_HOUR + timedelta(hours=2))}, triggered["range"]),
        ({"hour": f"{due - timedelta(minutes=70):%Y-%m-%dT%H}"}, scheduled["dag_run_id"]),
        # What a chart shows now was pushed by the newest run of the schedule, and not by those for a chosen hour.
        ({"at": milliseconds(datetime.now(UTC))}, None),
        ({}, None),
    ):
        known = {run or newest()["dag_run_id"]}
        answer = visited(watched, "run", dag_id=STEADY, **query)
        known.add(run or newest()["dag_run_id"])
        found = unquote(answer.headers["location"]).removeprefix(f"/dags/{STEADY}/runs/")
        assert (answer.status_code, found in known) == (303, True), (query, found, known)
        assert watched.airflow.request("GET", f"/dags/{STEADY}/dagRuns/{found}")["dag_run_id"] == found
    early = visited(watched, "run", dag_id=STEADY, at=milliseconds(FIRST_HOUR))
    assert (early.status_code, "had published anything at 2013-04-16T12:00Z" in early.text) == (404, True)


def test_a_link_leads_to_the_report_of_an_hour(watched: Watched, triggered: dict) -> None:
    for name in ("window", "range"):
        watched.airflow.wait(STEADY, triggered[name])
    # The hour that ended at 15:00 is checked ten minutes later.
    for query, shown in (
        ({"hour": hour(0)}, "2013-04-16 12:00"),
        ({"at": milliseconds(FIRST_HOUR + timedelta(hours=3, minutes=10))}, "2013-04-16 14:00"),
        ({"at": milliseconds(FIRST_HOUR + timedelta(hours=3, minutes=9))}, "2013-04-16 13:00"),
    ):
        answer = visited(watched, "report", dag_id=STEADY, **query)
        assert answer.status_code == 200, answer.text
        assert re.search(rf"<title>[^<]*steady[^<]*{shown}", answer.text), query
        assert answer.headers["content-security-policy"].startswith("sandbox allow-scripts"), (
            "the cookie is out of reach"
        )
    early = visited(watched, "report", dag_id=STEADY, at=milliseconds(FIRST_HOUR))
    assert (early.status_code, "no hour of steady had been checked at" in early.text) == (404, True)


def test_links_say_what_is_wrong_with_them(watched: Watched) -> None:
    for query, message in (
        ({"dag_id": "hindcast_hourly__nobody"}, "nobody"),
        ({"dag_id": INCIDENT}, "is no hourly DAG"),
        ({"dag_id": STEADY, "hour": "noon"}, "'noon' is not a time"),
        ({"dag_id": STEADY, "at": "9" * 30}, "is not a time"),
    ):
        for path in ("run", "report"):
            answer = visited(watched, path, **query)
            assert (answer.status_code, message in answer.text) == (404, True), (path, query, answer.text)


def test_links_ask_who_is_there(watched: Watched) -> None:
    for path in ("run", "report"):
        assert visited(watched, path, known=False, accept="*/*", dag_id=STEADY).status_code == 401
        answer = visited(watched, path, known=False, dag_id=STEADY, hour=hour(0))
        assert answer.status_code == 303
        login = urlsplit(answer.headers["location"])
        assert login.path == "/auth/login"
        back = parse_qs(login.query)["next"][0]
        assert back == f"/hindcast/{path}?{urlencode({'dag_id': STEADY, 'hour': hour(0)})}"
    for path in ("docs", "openapi.json", "redoc"):
        assert visited(watched, path).status_code == 404


def test_starting_twice_changes_nothing(watched: Watched) -> None:
    before = watched.airflow.processes()
    assert watched.airflow.up() is False
    assert watched.airflow.processes() == before
    assert all(before.values())


def test_secrets_are_for_their_owner_alone(watched: Watched) -> None:
    home = watched.airflow.home
    for name in ("secrets.json", "passwords.json"):
        assert (home / name).stat().st_mode & 0o077 == 0, name
    assert home.stat().st_mode & 0o077 == 0


def test_a_taken_port_is_left_alone(watched: Watched) -> None:
    assert not watched.airflow.url.endswith(f":{watched.taken_port}")
    parts = ("metadatabase", "scheduler", "dag_processor", "triggerer")
    assert watched.airflow.health() == dict.fromkeys(parts, "healthy")


def test_nobody_is_let_in_without_the_password(watched: Watched) -> None:
    import httpx

    url = watched.airflow.url
    assert httpx.get(f"{url}/api/v2/dags").status_code == 401
    wrong = {"username": "admin", "password": "admin"}
    assert httpx.post(f"{url}/auth/token", json=wrong).status_code == 401


def test_a_stale_pid_file_ends_no_other_program(tmp_path: Path) -> None:
    other = subprocess.Popen(["sleep", "60"], start_new_session=True)
    try:
        airflow = Airflow(tmp_path)
        for name in COMPONENTS:
            (tmp_path / f"{name}.pid").write_text(str(other.pid))
        assert airflow.processes() == dict.fromkeys(COMPONENTS)
        assert airflow.down() is False
        assert other.poll() is None
        assert not list(tmp_path.glob("*.pid"))
    finally:
        other.kill()
        other.wait()


def test_a_start_that_fails_shows_the_end_of_the_log(tmp_path: Path) -> None:
    airflow = Airflow(tmp_path, environment={"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "nonsense://"})
    with pytest.raises(AirflowError, match=r"(?s)airflow db migrate ended with 1; the end of .*nonsense"):
        airflow.up()
    assert airflow.processes() == dict.fromkeys(COMPONENTS)
