"""What the DAG run of a small hour costs, beside an empty DAG of the same shape in the same scheduler.

``python benchmarks/hour.py`` starts an Airflow of three processes on SQLite, as ``make up`` does, and triggers the
hourly DAG and the empty one in turns: 2,000 rows x 50 features, a week of history, SHAP of 100 trees of 31 leaves. A
listener, loaded by this Airflow alone, notes the CPU time that each task's process has used when the task ends.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # has no stubs

import measure
import world
from measure import Table, python

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from demo.airflow import Airflow  # noqa: E402 - the script's own folder is on the path, not the repository

OURS, EMPTY = f"hindcast_hourly__{world.NAME}", "empty"
TASKS = ("pull", "validate", "detect", "perform", "explain", "triage", "push")
IMPORTS = ("great_expectations", "shap", "lightgbm", "airflow.sdk", "hindcast.checks.drift")
TOTAL, ALL = "all tasks", "whole Airflow"

# Tasks and edges of dags/hourly.py.
EMPTY_DAG = """
from datetime import datetime, UTC
from airflow.sdk import DAG, TriggerRule, task

with DAG("empty", schedule=None, start_date=datetime(2000, 1, 1, tzinfo=UTC), catchup=False, max_active_runs=1):
    def make(name, *pulled, **options):
        def nothing(*_):
            return {}
        return task(task_id=name, multiple_outputs=False, **options)(nothing)(*pulled)
    pull = make("pull")
    checks = [make(name) for name in ("validate", "detect", "perform", "explain")]
    triage = make("triage", pull, trigger_rule=TriggerRule.ALL_DONE)
    push = make("push")
    watcher = make("watcher", trigger_rule=TriggerRule.ONE_FAILED)
    pull >> checks >> triage >> push
    [pull, *checks, triage, push] >> watcher
"""

# Runs in each task's process, which is a fork: its own CPU time begins with the task.
LISTENER = """
import json, os, resource
from airflow.plugins_manager import AirflowPlugin
from airflow.listeners import hookimpl

class Listener:
    @hookimpl
    def on_task_instance_success(self, previous_state, task_instance):
        used = resource.getrusage(resource.RUSAGE_SELF)
        row = [task_instance.dag_id, task_instance.run_id, task_instance.task_id,
               used.ru_utime + used.ru_stime, used.ru_maxrss / 1024]
        with open(os.environ["COSTS"], "a") as file:
            file.write(json.dumps(row) + chr(10))

class Costs(AirflowPlugin):
    name = "costs"
    listeners = [Listener()]
"""


def prepare(folder: Path, history: int, hours: int, rows: int) -> dict[str, str]:
    """Write world, history, DAGs and listener; returns what Airflow's environment needs."""
    results = f"sqlite:///{folder}/results/results.db"
    measure.measure(measure.script("world.py", folder, "--hours", str(history + hours), "--rows", str(rows)))
    span = ["--from", f"{world.hour_of(0):%Y-%m-%dT%H}", "--to", f"{world.hour_of(history):%Y-%m-%dT%H}"]
    place = ["--config", str(folder / "models"), "--results", results]
    measure.measure([measure.HINDCAST, "replay", world.NAME, "--jobs", "1", *span, *place])
    for name in ("dags", "plugins"):
        (folder / name).mkdir()
    shutil.copy(ROOT / "dags" / "hourly.py", folder / "dags")
    shutil.copy(ROOT / "plugins" / "hindcast_plugin.py", folder / "plugins")
    (folder / "dags" / "empty.py").write_text(EMPTY_DAG)
    (folder / "plugins" / "costs.py").write_text(LISTENER)
    return {
        "HINDCAST_CONFIG": str(folder / "models"),
        "HINDCAST_RESULTS": results,
        "COSTS": str(folder / "costs.jsonl"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(folder / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(folder / "plugins"),
    }


def used(airflow: Airflow) -> float:
    """CPU seconds of all of Airflow's processes so far, with those that have ended."""
    groups = {pid for pid in airflow.processes().values() if pid}
    total = 0.0
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) in groups:
                total += sum(process.cpu_times()[:4])  # own and ended children's, user and system
        except (ProcessLookupError, psutil.Error):  # it ended meanwhile: its parent has its times
            continue
    return total


def run(airflow: Airflow, dag_id: str, conf: dict[str, str], costs: Path) -> dict[str, tuple[float, float]]:
    """One DAG run: CPU seconds and peak MB by task, and of all of Airflow."""
    before = used(airflow)
    run_id = airflow.trigger(dag_id, conf)
    state, states = airflow.wait(dag_id, run_id)
    if state != "success":
        message = f"{dag_id} ended as {state}: {states}"
        raise SystemExit(message)
    rows = [json.loads(line) for line in costs.read_text().splitlines()]
    found = {task: (cpu, peak) for dag, of, task, cpu, peak in rows if (dag, of) == (dag_id, run_id)}
    total = sum(cpu for cpu, _ in found.values())
    peak = max(peak for _, peak in found.values())
    return {**found, TOTAL: (total, peak), ALL: (used(airflow) - before, peak)}


def runs(folder: Path, history: int, rows: int, repeats: int) -> dict[str, dict[str, tuple[float, float]]]:
    """Medians by DAG and task; the first run of each only warms up."""
    environment = prepare(folder, history, repeats + 1, rows)
    found: dict[str, list[dict[str, tuple[float, float]]]] = {OURS: [], EMPTY: []}
    with Airflow(folder / "airflow", 0, environment=environment) as airflow:
        for dag_id in found:
            airflow.unpause(dag_id)
        for k in range(repeats + 1):
            hour = {"window_start": f"{world.hour_of(history + k):%Y-%m-%dT%H}"}
            found[EMPTY].append(run(airflow, EMPTY, {}, folder / "costs.jsonl"))
            found[OURS].append(run(airflow, OURS, hour, folder / "costs.jsonl"))
    return {
        dag_id: {
            task: (statistics.median(one[task][0] for one in several[1:]), max(one[task][1] for one in several[1:]))
            for task in (*TASKS, TOTAL, ALL)
        }
        for dag_id, several in found.items()
    }


def main() -> None:
    parser = measure.arguments(__doc__, repeats=3)
    parser.add_argument("--history", type=int, default=168, help="hours checked before")
    parser.add_argument("--rows", type=int, default=2000, help="rows an hour")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        found = runs(Path(scratch), given.history, given.rows, given.repeats)
    hour = Table(
        "Cost of a small hour",
        f"CPU of each task's process in a real scheduler, {given.rows:,} rows x 50 features, {given.history} hours of "
        f"history; medians of {given.repeats} runs, in turns with an empty DAG of the same tasks and edges.",
    )
    for task in (*TASKS, TOTAL, ALL):
        (ours, peak), (empty, _) = found[OURS][task], found[EMPTY][task]
        hour.rows[task] = {
            "empty DAG, CPU s": empty,
            "hourly DAG, CPU s": ours,
            "ratio": ours / empty,
            "peak, MB": peak,
        }
    alone = Table("Imports", "CPU of a fresh process that only imports, without the interpreter's own start.")
    # A main module without a file is taken for a doctest by pyspark, which Great Expectations imports where it is.
    path = f"__file__ = 'benchmark'; import sys; sys.path.insert(0, {str(ROOT / 'include')!r})"
    commands = {name: python(f"{path}; import {name}") for name in IMPORTS}
    costs = measure.in_turns({"": python(""), **commands}, given.repeats)
    alone.rows.update({name: {"CPU, s": costs[name].cpu - costs[""].cpu} for name in IMPORTS})
    allowed = 2 * found[EMPTY][TOTAL][0] + sum(alone.rows[name]["CPU, s"] for name in IMPORTS[:2])
    hour.notes.append(
        f"Goal: at most twice the empty DAG and the import of Great Expectations and shap: {allowed:.1f} CPU s; "
        f"found {found[OURS][TOTAL][0]:.1f} CPU s."
    )
    measure.report([hour, alone], as_json=given.json, packages=("apache-airflow", "great-expectations", "shap"))


if __name__ == "__main__":
    main()
