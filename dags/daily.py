"""One DAG per model file, every day: look for files that came late, roll up the day before, delete what is old.

::

    sweep ── roll_up ─┬─ label_maturity ── retention
                      └─ multivariate                     (any task failed) ── watcher

The hours of a day are not waited for: a failed hour is counted as missing and does not silence its day.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from airflow.sdk import DAG, CronDataIntervalTimetable, Param, TriggerRule, get_parsing_context, task

from hindcast import tasks
from hindcast.config import MANUAL
from hindcast.errors import ConfigError

if TYPE_CHECKING:
    from hindcast.config import ModelFile

PREFIX = "hindcast_daily__"
START = datetime(2000, 1, 1, tzinfo=UTC)
AFTER_MIDNIGHT = timedelta(hours=1)  # the last hour has settled by then, and its run has had time

PARAMS = {
    "day": Param(
        None,
        type=["null", "string"],
        title="Day",
        description="UTC day, such as 2013-04-16. Empty: the last one that is complete.",
    )
}

DOC = """\
**The day before, of `{model}`**: `sweep` compares the files of the last {late} hours of that day with those that were
read, and checks the windows again that changed; nobody is paged again. `roll_up` writes the facts of the day to the
table `days` (hours checked, empty, failed and missing, rows, alerts, label coverage by age); `label_maturity` names
windows whose labels never came; `retention` deletes check rows, profiles and row facts that are older than their limits
(`hindcast.maintenance.Keep`), counted back from that day. Alerts, incidents, findings and the audit are kept.
`multivariate` compares the day's sampled rows with the reference and the days before, all features at once.

**On demand**: *Trigger*, with a day or without.

Owner: {team}, on call: {oncall}. Model file: `{file}`.
"""


def daily(model: ModelFile) -> None:
    """Make the DAG of a model."""
    due = AFTER_MIDNIGHT + timedelta(minutes=model.schedule.settle_minutes)
    hour, minute = divmod(int(due.total_seconds()) // 60 % (24 * 60), 60)
    timetable = CronDataIntervalTimetable(f"{minute} {hour} * * *", timezone="UTC")
    schedule = None if model.schedule.hourly == MANUAL else timetable
    words = {"model": model.model, "file": model.path.name, "late": model.logs.late_hours, **model.owner.model_dump()}
    with DAG(
        PREFIX + model.model,
        description=f"The day before, of {model.model}",
        doc_md=DOC.format(**words),
        schedule=schedule,
        start_date=START,
        catchup=False,
        max_active_runs=1,
        dagrun_timeout=timedelta(hours=3),
        tags=["hindcast", "daily", model.task],
        params=PARAMS,
        default_args=tasks.settings(model.owner.team),
    ):
        steps = {
            step: task(task_id=step, multiple_outputs=False, **_options(step, model))(tasks.run_daily)(
                step, str(model.path)
            )
            for step in tasks.DAILY
        }
        # What the sweep could not do makes the run red, and does not silence the day.
        steps["sweep"] >> steps["roll_up"]
        steps["roll_up"] >> steps["label_maturity"] >> steps["retention"]
        steps["roll_up"] >> steps["multivariate"]
        watcher = task(task_id="watcher", trigger_rule=TriggerRule.ONE_FAILED, retries=0)(tasks.watch)()
        [*steps.values()] >> watcher


def _options(step: str, model: ModelFile) -> dict[str, object]:
    """The sweep reads rows; the roll-up is made whatever became of it."""
    if step == "sweep":
        return tasks.resources(model)
    return {"trigger_rule": TriggerRule.ALL_DONE} if step == "roll_up" else {}


def build() -> None:
    """Make every DAG; a worker needs its own alone. What is wrong with a model file, its hourly DAG says."""
    wanted = get_parsing_context().dag_id
    for _, item in tasks.model_files(Path(__file__).parent):
        if not isinstance(item, ConfigError) and wanted in (None, PREFIX + item.model):
            daily(item)


build()
