"""Airflow's side of the checks: what the DAG files ask while Airflow reads them, and what each task calls.

The DAG files are wiring; what their tasks do is here, and what a check computes is in `hindcast.checks`, which the
command line calls as well. Nothing heavy is imported at module level: Airflow reads
the DAG files, and with them this module, all the time.
"""

from __future__ import annotations

import importlib
import itertools
import json
import logging
import os
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hindcast import config, errors
from hindcast.errors import ConfigError, UsageError
from hindcast.push import drain
from hindcast.requests import SELECTABLE, read_day, read_now, read_period, read_request
from hindcast.window import HOUR, Window, text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hindcast.config import ModelFile

logger = logging.getLogger(__name__)

Facts = dict[str, Any]

CHECK_OF_TASK = {
    "pull": "pull",
    "validate": "quality",
    "detect": "drift",
    "perform": "performance",
    "explain": "importance",
    "triage": "triage",
}
DAILY = ("sweep", "roll_up", "label_maturity", "retention", "multivariate")
# What the checks import when they first need it, beside their own modules.
PRELOADED = ("hindcast.engines.local", "hindcast.explainers", "jinja2.ext", "pyarrow.parquet")
# Libraries that would start threads while they are imported; a process that has threads must not be forked.
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"}


def model_files(dags: Path) -> Iterator[tuple[Path, ModelFile | ConfigError]]:
    """Every model file with its content, or with what is wrong with it.

    Parameters
    ----------
    dags : Path
        Folder of the DAG files; without HINDCAST_CONFIG, the model files are in ``../include/models`` of it.

    Raises
    ------
    ConfigError
        The place does not exist.
    """
    place = config_place(dags)
    return zip(config.paths(place), config.load_all(place), strict=True)


def config_place(dags: Path) -> Path:
    """Where the model files of a folder of DAG files are."""
    return Path(os.environ.get("HINDCAST_CONFIG") or dags.parent / "include" / "models")


def settings(owner: str) -> Facts:
    """Default arguments of every task: what is transient is tried again, with growing pauses.

    Every other error of ours fails on the first try, because it would only fail again.
    """
    from airflow.sdk import ExceptionRetryPolicy, RetryAction, RetryRule

    # The first that matches decides, and `kinds` has what is derived before what it is derived from.
    rules = [
        RetryRule(exception=list(alike), action=RetryAction.RETRY if transient else RetryAction.FAIL)
        for transient, alike in itertools.groupby(errors.kinds(), key=lambda kind: kind.transient)
    ]
    return {
        "owner": owner,
        "retries": 3,
        "retry_policy": ExceptionRetryPolicy(rules=rules),
        "retry_delay": timedelta(seconds=30),
        "retry_exponential_backoff": 2.0,
        "max_retry_delay": timedelta(minutes=5),
        "execution_timeout": timedelta(hours=1),
    }


def resources(model: ModelFile) -> Facts:
    """Where the checks of a model run: pool, queue and executor_config of its model file, as operator arguments."""
    given = model.resources
    found: Facts = {"executor_config": given.executor_config} if given.executor_config else {}
    if given.pool:
        found |= {"pool": given.pool, "pool_slots": given.pool_slots}
    return found | ({"queue": given.queue} if given.queue else {})


def preload() -> None:
    """Import what the tasks need, in a process of which they will be forks; HINDCAST_PRELOAD=0 turns it off.

    No thread is started, no file or connection opened. Great Expectations may be missing: then the task that needs it
    says so.
    """
    if os.environ.get("HINDCAST_PRELOAD") == "0":
        return
    # It reports each method that it documents, which would stand in the scheduler's log.
    logging.getLogger("great_expectations").setLevel(logging.WARNING)
    with _environment(ONE_THREAD):
        for name in (*PRELOADED, *(f"hindcast.checks.{check}" for check in CHECK_OF_TASK.values())):
            importlib.import_module(name)
        try:
            importlib.import_module("hindcast.datadocs").prepare()
        except ImportError as error:
            logger.warning("not preloaded: %s", error)


@contextmanager
def _environment(added: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in added}
    os.environ.update(added)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def run_check(task_name: str, model_file: str, pulled: object = "", dag_run: Any = None, params: Any = None) -> Facts:
    """Run one check for every window of the run; the facts of each, small enough for XCom.

    Parameters
    ----------
    task_name : str
        Key of `CHECK_OF_TASK`.
    model_file : str
        Path of the model file.
    pulled : object
        What the task `pull` returned, for a task that runs even after it failed; None if it did.
    dag_run, params
        Given by Airflow.

    Raises
    ------
    AirflowSkipException
        The form asks for other checks only, or nothing was pulled.
    HindcastError
        The request makes no sense, or the check could not be made.
    """
    from airflow.sdk.exceptions import AirflowSkipException

    from hindcast.checks import Run, execute

    if pulled is None:
        message = "nothing was pulled, so there is nothing to judge"
        raise AirflowSkipException(message)
    check = CHECK_OF_TASK[task_name]
    model = config.load(Path(model_file))
    request = read_request(dag_run, params, model.schedule.settle_minutes)
    if check in SELECTABLE and check not in request.checks:
        message = f"not asked for: only {', '.join(request.checks)}"
        raise AirflowSkipException(message)
    found = []
    for window in request.windows:
        run = Run.open(model.model, window, request.as_of, config=model_file, now=request.now, publish=request.publish)
        facts = {"window": str(window), "as_of": text(run.as_of), **execute(run, check)}
        logger.info("%s of %s: %s", check, model.model, json.dumps(facts, default=str))
        found.append(facts)
    return {"windows": found}


def push() -> Facts:
    """Send the metrics that wait in the outbox to the Pushgateway; nothing happens when none is configured."""
    from hindcast.results.sql import Store

    found = drain(Store())
    if found.get("refused"):
        logger.warning("%s groups were refused: %s", found["refused"], found["reason"])
    return found


def run_daily(step: str, model_file: str, dag_run: Any = None, params: Any = None) -> Facts:
    """Run one of `DAILY` for the day of the run.

    Raises
    ------
    HindcastError
        The request makes no sense, or the store could not be reached.
    """
    from hindcast import maintenance
    from hindcast.checks import multivariate
    from hindcast.results.sql import Store

    model = config.load(Path(model_file))
    day = read_day(dag_run, params, model.schedule.settle_minutes)
    if step == "sweep":
        return _sweep(Store(), model, day + timedelta(days=1), read_now(dag_run))
    steps = {
        "roll_up": maintenance.roll_up,
        "label_maturity": maintenance.label_maturity,
        "retention": maintenance.retention,
        "multivariate": multivariate.judge_day,
    }
    facts = {"day": f"{day:%Y-%m-%d}", **steps[step](Store(), model, day)}
    logger.info("%s of %s: %s", step, model.model, json.dumps(facts, default=str))
    return {key: text(value) if isinstance(value, datetime) else value for key, value in facts.items()}


def _sweep(store: Any, model: ModelFile, end: datetime, now: datetime) -> Facts:
    from hindcast.sweep import sweep

    found = sweep(store, model, end - model.logs.late_hours * HOUR, end, now)
    for line in found.lines():
        logger.info("sweep of %s: %s", model.model, line)
    if found.error:
        raise found.error
    return found.to_json()


def diagnose(dags: str, dag_run: Any = None, params: Any = None) -> Facts:
    """Say what is behind the alerts of a model between two moments.

    Raises
    ------
    HindcastError
        The request makes no sense, or the store could not be reached.
    """
    from hindcast import diagnosis
    from hindcast.results.sql import Store

    start, end = read_period(dag_run, params)
    model = config.find(params["model"], config_place(Path(dags)))
    found = diagnosis.diagnose(Store(), model, start, end)
    logger.info("%s", found.text)
    return {"model": model.model, "from": text(start), "to": text(end), "text": found.text}


def judge(dags: str, dag_run: Any = None, params: Any = None) -> Facts:
    """Judge all features of the period at once.

    Raises
    ------
    HindcastError
        The request makes no sense, or the reference or the store could not be reached.
    """
    from hindcast.checks import multivariate
    from hindcast.results.sql import Store

    start, end = read_period(dag_run, params)
    model = config.find(params["model"], config_place(Path(dags)))
    found = multivariate.judge(Store(), model, start, end)
    logger.info("%s", "\n".join(multivariate.lines(found)))
    return {"model": model.model, "from": text(start), "to": text(end), **found}


def report(dags: str, dag_run: Any = None, params: Any = None) -> Facts:
    """Write the report of the last hour of the period that was checked.

    Raises
    ------
    HindcastError
        The request makes no sense, nothing was checked in the period, or the page cannot be written.
    """
    from hindcast.report import pages
    from hindcast.results import tables
    from hindcast.results.sql import Store

    start, end = read_period(dag_run, params)
    model = config.find(params["model"], config_place(Path(dags)))
    store = Store()
    moment = tables.windows.c.window_start
    checked = store.rows(
        tables.windows, moment >= start, moment < end, columns=["window_start"], model_name=model.model
    )
    if not checked:
        message = f"no window of {model.model} was checked between {text(start)} and {text(end)}"
        raise UsageError(message)
    window = Window(checked[-1]["window_start"])
    path = store.artifacts / "reports" / model.model / f"{window.start:%Y-%m-%dT%H}.html"
    pages.write(path, pages.window_page(store, model, window))
    logger.info("report: %s", path)
    return {"window": str(window), "path": str(path)}


def watch() -> None:
    """Make the run red: some task of it failed.

    Raises
    ------
    AirflowFailException
        Always; the task runs only when another one failed.
    """
    from airflow.sdk.exceptions import AirflowFailException

    message = "a task of this run failed; its own log says why"
    raise AirflowFailException(message)


def refuse(error: str) -> None:
    """Fail with what is wrong with a model file.

    Raises
    ------
    ConfigError
        Always.
    """
    raise ConfigError(error)
