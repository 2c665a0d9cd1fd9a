"""Replay: hour by hour, each as of its own settle time, as if Hindcast had been there.

Hours are read, validated and explained in parallel, ahead of the rest; drift, performance and triage follow in order,
since each hour's decision stands on those before it. One process writes, so every number of jobs gives the same tables.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from hindcast import config as configuration
from hindcast.checks.run import CHECKS, Result, Run, carry_out, commit, compute, settle
from hindcast.errors import HindcastError
from hindcast.profile.profile import Profile
from hindcast.results import tables
from hindcast.results.sql import Store
from hindcast.window import Window, hours

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import datetime

AHEAD = ("pull", "quality", "importance")
# A window's usual volume is read from the days before: nothing may run further ahead of the committed windows.
_MOST_AHEAD = 20
_runs: dict[tuple[str, str, str | None], Run] = {}

Timed = tuple[Result, float]


def replay(
    name: str,
    start: datetime,
    end: datetime,
    *,
    only: Sequence[str] = CHECKS,
    jobs: int = 1,
    again: bool = False,
    config: str | None = None,
    results: str | None = None,
    progress: Callable[[int, int, Window | None], None] = lambda _done, _total, _window: None,
) -> dict[str, Any]:
    """Check every window of ``[start, end)`` in order.

    Windows that were already checked with the same model file are skipped, up to the first that was not.

    Parameters
    ----------
    only : sequence of str
        Checks to run. Without ``pull``, only windows that were never pulled are.
    jobs : int
        Processes that read ahead; 1 does everything in this one.
    again : bool
        Check windows again that were already checked.
    progress : callable
        Told (windows done, of how many, the window just done).
    """
    model = configuration.find(name, config)
    store = Store(results)
    wanted = [check for check in CHECKS if check in only]
    windows = list(hours(start, end))
    pulled = set() if "pull" in wanted else _pulled(store, model.model)
    todo = windows if again else _unfinished(store, model.model, model.digest, windows, wanted)
    done, errors = len(windows) - len(todo), 0
    progress(done, len(windows), None)
    if not todo:
        return {"windows": len(windows), "skipped": done, "errors": 0}
    run = Run(model, todo[0], todo[0].end + settle(model), store)
    # The reference is fitted once, here, before the others look for it; what is held is held by every window's run.
    _ = run.reference, run.history, run.outcomes, run.memories
    skipped = done
    plan = [(window, _ahead_of(window, wanted, pulled)) for window in todo]
    if any("pull" in checks for _, checks in plan):
        _ = run.logs  # logs that do not exist are one error, not one per window
    for window, prepared in _prepared(name, plan, jobs, config, results, run):
        run = run.at(window, window.end + settle(model))
        errors += _finish(run, prepared, wanted)
        done += 1
        progress(done, len(windows), window)
    return {"windows": len(windows), "skipped": skipped, "errors": errors}


def _pulled(store: Store, name: str) -> set[datetime]:
    table = tables.windows
    rows = store.rows(table, table.c.status != "failed", columns=("window_start",), model_name=name)
    return {row["window_start"] for row in rows}


def _ahead_of(window: Window, wanted: Sequence[str], pulled: set[datetime]) -> list[str]:
    """Checks of one window that do not wait for the windows before it."""
    return [c for c in AHEAD if c in wanted or (c == "pull" and window.start not in pulled)]


def _unfinished(store: Store, name: str, digest: str, windows: list[Window], wanted: Sequence[str]) -> list[Window]:
    """Everything from the first window on that lacks a check, or whose check ended in an error."""
    table = tables.checks
    rows = store.rows(
        table,
        table.c.window_start >= windows[0].start if windows else table.c.model_name == name,
        table.c.status != "error",
        columns=("window_start", "check"),
        model_name=name,
        config_digest=digest,
    )
    found = {(row["window_start"], row["check"]) for row in rows}
    for i, window in enumerate(windows):
        if any((window.start, check) not in found for check in wanted):
            return windows[i:]
    return []


def _prepared(
    name: str, plan: list[tuple[Window, list[str]]], jobs: int, config: str | None, results: str | None, run: Run
) -> Iterator[tuple[Window, list[Timed]]]:
    """What can be computed ahead, window by window in order."""
    if jobs <= 1 or not any(checks for _, checks in plan):
        for window, checks in plan:
            yield window, _ahead(run.at(window, window.end + settle(run.model)), checks)
        return
    with ExitStack() as stack:
        context = multiprocessing.get_context("spawn")
        pool = stack.enter_context(ProcessPoolExecutor(jobs, mp_context=context, initializer=_end_with_parent))
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)
        waiting: deque[tuple[Window, Future[list[Timed]]]] = deque()
        for window, checks in plan:
            if len(waiting) == _MOST_AHEAD:
                first, future = waiting.popleft()
                yield first, future.result()
            waiting.append((window, pool.submit(prepare, name, window, checks, config, results)))
        for first, future in waiting:
            yield first, future.result()


def _end_with_parent() -> None:
    """A killed replay leaves no process behind, and Ctrl-C is the parent's to answer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def prepare(name: str, window: Window, checks: Sequence[str], config: str | None, results: str | None) -> list[Timed]:
    """Compute a window's checks of `AHEAD` in a process of the pool; nothing is written to the store."""
    key = (name, str(config), results)
    if key not in _runs:
        model = configuration.find(name, config)
        _runs[key] = Run(model, window, window.end + settle(model), Store(results))
        _ = _runs[key].reference, _runs[key].memories
    run = _runs[key]
    return _ahead(run.at(window, window.end + settle(run.model)), checks)


def _ahead(run: Run, checks: Sequence[str]) -> list[Timed]:
    found: list[Timed] = []
    for check in checks:
        started = time.perf_counter()
        result = _computed(run, check)
        found.append((result, time.perf_counter() - started))
        if check == "pull":
            if result.status in {"failed", "error"}:
                break
            _hand_over(run, result)
    return found


def _computed(run: Run, check: str) -> Result:
    """A check's result, or its error as one: a replay goes on, and the check's row says why."""
    try:
        return compute(run, check)
    except HindcastError as error:
        return Result(check, "error", str(error), error=error)


def _hand_over(run: Run, pulled: Result) -> None:
    """Give the next checks what `pull` found, which is not in the store yet."""
    rows = {name: rows for name, _, rows in pulled.writes}
    run.__dict__["pulled"] = {**rows["windows"][0], **json.loads(rows["windows"][0]["details"])}
    run.__dict__["profile"] = Profile.from_bytes(rows["profiles"][0]["profile"], run.reference.bins)


def _finish(run: Run, prepared: list[Timed], wanted: Sequence[str]) -> int:
    """Commit what was computed ahead, then compute and commit the rest in order; returns how many checks failed."""
    errors = 0
    for result, seconds in prepared:
        commit(run, result, seconds)
        errors += result.error is not None
        if result.check == "pull":
            if result.status in {"failed", "error"}:
                return errors
            _hand_over(run, result)
            run.history.put(run.window.start, result.writes[1][2][0]["profile"])
    for check in wanted:
        if check not in AHEAD:
            errors += carry_out(run, check).error is not None
    return errors
