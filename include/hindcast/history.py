"""Stored hours as OpenMetrics with their times: what was never pushed, such as a backfill, brought into Prometheus.

The Pushgateway holds the newest state alone. This writes the states of then, with the families and labels that would
have been pushed, for `promtool tsdb create-blocks-from openmetrics`.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from hindcast import push
from hindcast.checks import CHECKS, Run
from hindcast.checks.run import Result, settle
from hindcast.checks.triage import by_severity
from hindcast.errors import UsageError
from hindcast.gateway import JOB
from hindcast.quality import success_ratio
from hindcast.results import tables
from hindcast.window import HOUR, Window, text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection

    from hindcast.config import ModelFile
    from hindcast.results.sql import Store

# Prometheus looks five minutes back for a sample: one every four makes a line.
STEP = timedelta(minutes=4)

_ESCAPED = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})

Series = tuple[str, tuple[tuple[str, str], ...]]
Rows = list[dict[str, Any]]


def openmetrics(store: Store, model: ModelFile, start: datetime, end: datetime) -> Iterator[str]:
    """Lines of OpenMetrics: what was known of a model at every moment of ``[start, end)``.

    An hour is known from its settle time on, until the next checked hour is, or for a day. Values are those of the
    tables now; alerts are told as far as they were open.

    Raises
    ------
    UsageError
        No checked hour was known in that time.
    """
    states = dict(_states(store, model, start - timedelta(days=1), end))
    found: dict[str, dict[Series, list[tuple[datetime, float]]]] = defaultdict(lambda: defaultdict(list))
    newest = None
    steps = {start + number * STEP for number in range(-((start - end) // STEP))}
    for moment in sorted(steps | states.keys()):
        newest = moment if moment in states else newest
        if start <= moment < end and newest and moment - newest < timedelta(days=1):
            for series, value in states[newest]:
                found[series[0]][series].append((moment, value))
    if not found:
        message = f"no hour of {model.model} that was checked was known between {text(start)} and {text(end)}"
        raise UsageError(message)
    for name in sorted(found):
        yield f"# HELP {name} {push.HELP[name]}"
        yield f"# TYPE {name} gauge"
        for series in sorted(found[name]):
            shown = _shown(series)
            yield from (f"{shown} {value!r} {at.timestamp():.0f}" for at, value in found[name][series])
    yield "# EOF"


def _shown(series: Series) -> str:
    r"""Name and labels.

    Examples
    --------
    >>> print(_shown(("ml_rows_processed", (("check", "pull"), ("model_name", 'a"b')))))
    ml_rows_processed{check="pull",model_name="a\"b"}
    """
    name, labels = series
    shown = (f'{label}="{value.translate(_ESCAPED)}"' for label, value in labels)
    return f"{name}{{{','.join(shown)}}}"


def _states(
    store: Store, model: ModelFile, start: datetime, end: datetime
) -> Iterator[tuple[datetime, list[tuple[Series, float]]]]:
    """When each checked hour was known, and what of it would have been pushed."""
    table = tables.checks.c
    where = (table.window_start >= start - HOUR - settle(model), table.window_start < end)
    checked: dict[datetime, Rows] = defaultdict(list)
    for row in store.rows(tables.checks, *where, model_name=model.model):
        checked[row["window_start"]].append(row)
    for hour, rows in sorted(checked.items()):
        window = Window(hour)
        run = Run(model, window, window.end + settle(model), store)
        with store.engine.connect() as connection:
            yield run.as_of, list(_state(run, rows, connection))


def _state(run: Run, checked: Rows, connection: Connection) -> Iterator[tuple[Series, float]]:
    for row in checked:
        if row["check"] not in CHECKS:
            continue
        group = {"job": JOB, "model_name": run.model.model, "check": row["check"]}
        seconds = row["duration_seconds"] or 0.0
        for name, labels, value in push.samples(run, result_of(run, row), seconds, connection):
            yield (name, tuple(sorted({**group, **labels}.items()))), float(value)


def result_of(run: Run, checked: dict[str, Any]) -> Result:
    """What a check had found, from what the tables say of it, as far as metrics are made of it."""
    check: str = checked["check"]
    facts: dict[str, Any] = {}
    writes: list[Any] = []
    if check == "pull":
        (window,) = run.store.rows(tables.windows, **run.key) or ({"rows": 0},)
        facts["rows"] = window["rows"]
    elif check == "performance":
        ages = run.model.performance.label_ages_hours
        aged = [{**run.key, "window_start": run.window.start - age * HOUR, "label_age_hours": age} for age in ages]
        writes = [("performance", {}, run.store.rows(tables.performance, **each, segment="*")) for each in aged]
    elif check == "triage":
        facts, writes = _triage(run)
    else:
        rows = run.store.rows(getattr(tables, check), **run.key)
        writes = [(check, run.key, rows)]
        if check == "quality":
            facts["success_ratio"] = success_ratio(rows)
        if check == "drift":
            found = run.store.rows(tables.findings, **run.key, check="drift")
            facts["drifted"] = sorted({row["subject"] for row in found if not row["planned"]})
    return Result(check, checked["status"], checked["reason"] or "", writes, facts)


def _triage(run: Run) -> tuple[dict[str, Any], list[Any]]:
    """Alerts and incidents that were open when the window ended."""
    name = run.model.model

    def opened(table: Any, **key: str) -> Rows:
        late = (table.c.resolved_at.is_(None)) | (table.c.resolved_at > run.window.end)
        return run.store.rows(table, table.c.opened_at <= run.window.end, late, **key)

    firing = [{**row, "state": "firing"} for row in opened(tables.alerts, model_name=name)]
    incidents = [{**row, "state": "open"} for row in opened(tables.incidents, affected_model=name)]
    return {"by_severity": by_severity(firing)}, [("alerts", {}, firing), ("incidents", {}, incidents)]
