"""Sweep: files that came after their window was checked are found by comparing manifests, and the window is run again.

Nobody is paged again: alerts are folded from findings and keep their ids, and metrics of past windows are not pushed.
What later windows decided with what was known then, stands; only labels that are joined to a window's rows are judged
again at every age that has passed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hindcast.checks.run import CHECKS, Run, execute, ripe
from hindcast.errors import HindcastError, UsageError
from hindcast.ready import pinned, readiness
from hindcast.results import tables
from hindcast.sources.base import Streamed
from hindcast.window import HOUR, Window, text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime

    from hindcast.config import ModelFile
    from hindcast.results.sql import Row, Store

# What a window's own rows are judged by at later ages, in the runs of later windows.
_AGED = ("performance", "triage")


@dataclass(frozen=True)
class Swept:
    """What a sweep found.

    Attributes
    ----------
    windows : int
        Checked windows that were compared.
    changed : list of dict
        Of each that was run again: window, status, rows, late_rows (in all), late_seconds, error.
    error : HindcastError or None
        The first one; the sweep went on.
    """

    windows: int
    changed: list[Row]
    error: HindcastError | None = None

    def to_json(self) -> dict[str, Any]:
        """For machines, and XCom."""
        return {"windows": self.windows, "changed": self.changed}

    def lines(self) -> Iterator[str]:
        """For people."""
        for row in self.changed:
            if row["error"]:
                yield f"{row['window']}  {row['error']}"
                continue
            lag = "" if row["late_seconds"] is None else f", up to {row['late_seconds'] / 60:.0f} min after its end"
            yield f"{row['window']}  {row['status']}, {row['rows']} rows, {row['late_rows']} of them late{lag}"
        yield f"{self.windows} windows compared, {len(self.changed)} of them changed and run again"


def last_windows(store: Store, model: ModelFile, start: datetime | None, end: datetime | None) -> tuple[datetime, ...]:
    """Hours ``[start, end)`` to sweep: by default the last `logs.late_hours` up to the newest window that was checked.

    Raises
    ------
    UsageError
        There is no hour in between, or nothing was checked.
    """
    if end is None:
        known = store.rows(tables.windows, columns=("window_start",), model_name=model.model)
        if not known:
            message = f"{model.model}: no window was checked yet, so that none can have changed"
            raise UsageError(message)
        end = known[-1]["window_start"] + HOUR
    start = end - model.logs.late_hours * HOUR if start is None else start
    if start > end:
        message = f"from {text(start)} must lie before to {text(end)}, which is exclusive"
        raise UsageError(message)
    return start, end


def sweep(store: Store, model: ModelFile, start: datetime, end: datetime, now: datetime) -> Swept:
    """Compare the stored manifest of every checked window of ``[start, end)`` with what is there, and run again.

    Parameters
    ----------
    now : datetime
        Labels that came later do not exist.

    Raises
    ------
    SourceError
        The logs cannot be listed.
    """
    moment = tables.windows.c.window_start
    stored = store.rows(tables.windows, moment >= start, moment < end, model_name=model.model)
    changed: list[Row] = []
    errors: list[HindcastError] = []
    opened: dict[str, Any] = {}

    def run_of(hour: datetime) -> Run:
        """A run of its own memory, since it decides again, sharing what was opened."""
        window = Window(hour)
        run = Run(model, window, max(min(ripe(model, window), now), window.end), store)
        run.__dict__.update(opened)
        return run

    for row in stored:
        run = run_of(row["window_start"])
        differs = _differs(run, row)
        opened["logs"] = run.logs
        if differs:
            error = _again(run, CHECKS)
            changed.append(_said(run, error))
            errors += [error] if error else []
            opened |= {name: run.__dict__[name] for name in ("labels", "reference") if name in run.__dict__}
    done = {row["window"] for row in changed}
    for hour in _judged_at_later_ages(store, model, done):
        error = _again(run_of(hour), _AGED)
        errors += [error] if error else []
    return Swept(len(stored), changed, errors[0] if errors else None)


def _differs(run: Run, row: Row) -> bool:
    if json.loads(row["details"] or "{}").get("incomplete") and readiness(run.model, run.logs, run.window).ready:
        return True
    manifest = pinned(run.model, run.logs, run.window)
    if isinstance(run.logs, Streamed):  # its manifest names a moment, which is another each time
        known = int(row["rows"]) + int(row["dropped_rows"] or 0)
        return sum(run.logs.count(item) for item in manifest.objects) != known
    return manifest.digest != str(row["manifest_digest"])


def _again(run: Run, checks: Iterable[str]) -> HindcastError | None:
    """Run checks of a window again; the first error, after which the others still have their turn, but for a pull's."""
    first = None
    for check in checks:
        try:
            execute(run, check)
        except HindcastError as error:
            first = first or error
            if check == "pull":
                break
    return first


def _said(run: Run, error: HindcastError | None) -> Row:
    (row,) = run.store.rows(tables.windows, **run.key)
    kept = {name: row[name] for name in ("status", "rows", "late_rows", "late_seconds")}
    return {"window": str(run.window), **kept, "error": str(error) if error else None}


def _judged_at_later_ages(store: Store, model: ModelFile, changed: set[str]) -> list[datetime]:
    """Windows whose runs judged changed ones at a later label age, and were not run again themselves."""
    ages = [age for age in model.performance.label_ages_hours if age]
    hours = {Window.parse(window).start + age * HOUR for window in changed for age in ages}
    known = {
        row["window_start"] for row in store.rows(tables.windows, columns=("window_start",), model_name=model.model)
    }
    return sorted(hour for hour in hours & known if str(Window(hour)) not in changed)
