"""One DAG per model file, every hour: pull the previous hour's logs, check them, decide who is told.

::

    pull ─┬─ validate ─┬─ triage ── push
          ├─ detect   ─┤
          ├─ perform  ─┤
          └─ explain  ─┘                    (any task failed) ── watcher

A model that asks for complete logs (``logs.ready``) has a task ``wait`` before ``pull``, which gives its worker back.

Adding a model is adding a file to ``include/models``. A file that is wrong becomes a DAG that says what is wrong with
it, and stops no other.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from airflow.sdk import DAG, CronDataIntervalTimetable, Param, TriggerRule, get_parsing_context, task

from hindcast import requests, tasks
from hindcast.config import MANUAL
from hindcast.errors import ConfigError

if TYPE_CHECKING:
    from hindcast.config import ModelFile

PREFIX = "hindcast_hourly__"
START = datetime(2000, 1, 1, tzinfo=UTC)  # before any log: a manual run dated before a DAG's start would do nothing
DEFAULT_SETTLE_MINUTES = 10

PARAMS = {
    "window_start": Param(
        None,
        type=["null", "string"],
        title="First hour",
        description="ISO time, UTC unless it names a zone: 2013-04-16T15. Empty: the previous hour.",
        section="What to check",
    ),
    "window_end": Param(
        None,
        type=["null", "string"],
        title="End, exclusive",
        description="Check every hour from the first up to this one, in order. Empty: the first hour only.",
        section="What to check",
    ),
    "only": Param(
        None,
        type=["null", "array"],
        items={"type": "string", "enum": list(requests.SELECTABLE)},
        examples=list(requests.SELECTABLE),
        title="Only these checks",
        description="Empty: all of them.",
        section="What to check",
    ),
    "as_of": Param(
        None,
        type=["null", "string"],
        title="As of",
        description="Labels that came later do not exist. Empty: now, or when the oldest label age has passed.",
        section="Advanced",
    ),
}

DOC = """\
**What happened to `{model}` in the last hour**: data quality, drift against reference and season, degradation of
performance, global SHAP importance; then alerts and incidents. A check that *finds* something succeeds. A red task
means that a check could not be made, and its log says why.

**On demand**: *Trigger* checks the previous hour; the form takes another hour, or a range, and a choice of checks.
A window that was checked before is replaced, never doubled. The same without Airflow:
`hindcast check {model} --window 2013-04-16T15`.

**Results**: the tables `windows`, `quality`, `drift`, `performance`, `importance`, `alerts` and `incidents` of the
results store (`HINDCAST_RESULTS`), and `hindcast report {model} --window …` as a page.

Owner: {team}, on call: {oncall}. Model file: `{file}`.
"""

BROKEN_DOC = """\
**The model file is wrong, so nothing is checked.** Correct it; this page becomes the model's DAG within a minute.
`hindcast validate` says the same on the command line.

```
{error}
```
"""


def hourly(model: ModelFile) -> None:
    """Make the DAG of a model."""
    cron = model.schedule.hourly or f"{model.schedule.settle_minutes % 60} * * * *"
    schedule = None if cron == MANUAL else CronDataIntervalTimetable(cron, timezone="UTC")
    words = {"model": model.model, "file": model.path.name, **model.owner.model_dump()}
    with DAG(
        PREFIX + model.model,
        description=f"What happened to {model.model} in the last hour",
        doc_md=DOC.format(**words),
        schedule=schedule,
        start_date=START,
        catchup=False,
        max_active_runs=1,
        dagrun_timeout=timedelta(hours=6),
        tags=["hindcast", "hourly", model.task],
        params=PARAMS,
        default_args=tasks.settings(model.owner.team),
    ):

        def check(task_id: str, *pulled: object, **options: object) -> object:
            options |= tasks.resources(model)
            make = task(task_id=task_id, multiple_outputs=False, **options)(tasks.run_check)
            return make(task_id, str(model.path), *pulled)

        pull = check("pull")
        wait = None
        if model.logs.ready:
            # Only here: a DAG that waits for nothing does not pay for the import.
            from hindcast.waiting import WaitForLogs

            minutes = timedelta(minutes=model.logs.ready.wait_minutes + 15)
            wait = WaitForLogs(task_id="wait", model_file=str(model.path), execution_timeout=minutes)
            wait >> pull
        checks = [check(task_id) for task_id in ("validate", "detect", "perform", "explain")]
        # After all checks, however they ended. No trigger rule says "but not after a pull that failed" while it accepts
        # checks that nobody asked for, so triage is given what pull returned, and skips itself when that is nothing.
        triage = check("triage", pull, trigger_rule=TriggerRule.ALL_DONE)
        # What a gateway that is down did not take, the next run pushes.
        push = task(task_id="push", multiple_outputs=False, retries=1)(tasks.push)()
        # Triage and push run after a failed check, and would make the run green.
        watcher = task(task_id="watcher", trigger_rule=TriggerRule.ONE_FAILED, retries=0)(tasks.watch)()
        pull >> checks >> triage >> push
        [*([wait] if wait else []), pull, *checks, triage, push] >> watcher


def broken(stem: str, error: ConfigError) -> None:
    """Make the DAG of a model file that is wrong: paused when new; red every hour if the model was being watched."""
    with DAG(
        PREFIX + stem,
        description="The model file is wrong; nothing is checked",
        doc_md=BROKEN_DOC.format(error=error),
        schedule=CronDataIntervalTimetable(f"{DEFAULT_SETTLE_MINUTES} * * * *", timezone="UTC"),
        start_date=START,
        catchup=False,
        max_active_runs=1,
        is_paused_upon_creation=True,
        tags=["hindcast", "hourly", "broken"],
    ):
        task(task_id="configuration", retries=0)(tasks.refuse)(str(error))


def build() -> None:
    """Make every DAG; a worker needs its own alone."""
    wanted = get_parsing_context().dag_id
    files = list(tasks.model_files(Path(__file__).parent))
    names = {item.model for _, item in files if not isinstance(item, ConfigError)}
    for path, item in files:
        if not isinstance(item, ConfigError):
            if wanted in (None, PREFIX + item.model):
                hourly(item)
            continue
        stem = re.sub(r"[^A-Za-z0-9_.-]", "_", path.stem)
        stem = f"{stem}.{path.suffix[1:]}.broken" if stem in names else stem
        names.add(stem)
        if wanted in (None, PREFIX + stem):
            broken(stem, item)


build()
