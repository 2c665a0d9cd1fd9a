"""Airflow's side of waiting for logs: a task that gives its worker back, and what looks meanwhile, in the triggerer.

Only DAGs of models that ask for it (`logs.ready`), and the triggerer, import this module.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.triggers.base import BaseTrigger, TriggerEvent

from hindcast import config, ready
from hindcast.errors import HindcastError
from hindcast.requests import read_request
from hindcast.window import Window, parse_time, text

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

logger = logging.getLogger(__name__)

POLL_SECONDS = 15.0
# For a triggerer that does not run: the task ends, is tried again, and the window is read as it stands.
_GRACE = timedelta(minutes=10)


class WaitForLogs(BaseOperator):
    """Wait until the windows of a run are complete, or waited for no longer; never fails for want of rows.

    Parameters
    ----------
    model_file : str
        Path of the model file.
    """

    def __init__(self, *, model_file: str, **options: Any) -> None:
        super().__init__(**options)
        self.model_file = model_file

    def execute(self, context: Any) -> dict[str, Any]:
        """Look once, here; then give the worker back."""
        model = config.load(Path(self.model_file))
        request = read_request(context["dag_run"], context["params"], model.schedule.settle_minutes)
        windows = [str(window) for window in request.windows]
        found = Looker(self.model_file, windows).look()
        until = max(ready.deadline(model, window) for window in request.windows)
        now = datetime.now(UTC)
        if not found.ready and now < until:
            logger.info("%s: waiting for %s until %s: %s", model.model, ", ".join(windows), text(until), found.reason)
            trigger = LogsReady(model_file=self.model_file, windows=windows, until=until.isoformat())
            self.defer(trigger=trigger, method_name="resume", timeout=until - now + _GRACE)
        return self.resume(context, {"reason": found.reason})

    def resume(self, context: Any, event: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002 - Airflow calls it so
        """Say how the waiting ended; what is missing does not keep the window from being read."""
        if event["reason"]:
            logger.warning("not complete: %s; the window is read as it stands", event["reason"])
        return {"ready": not event["reason"], "reason": event["reason"]}


class LogsReady(BaseTrigger):
    """Looks every few seconds whether windows are complete, until they are or their time is over.

    Parameters
    ----------
    model_file : str
    windows : list of str
    until : str
        ISO moment.
    poll : float
        Seconds between two looks.
    """

    def __init__(self, *, model_file: str, windows: list[str], until: str, poll: float = POLL_SECONDS) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # Airflow types it half
        self.model_file, self.windows, self.until, self.poll = model_file, windows, until, poll

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """What the triggerer makes it of again."""
        given = {"model_file": self.model_file, "windows": self.windows, "until": self.until, "poll": self.poll}
        return "hindcast.waiting.LogsReady", given

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """One event, when the waiting is over; each look is a listing in a thread, beside which others go on."""
        looker, until = Looker(self.model_file, self.windows), parse_time(self.until)
        while True:
            try:
                found = await asyncio.to_thread(looker.look)
            except HindcastError as error:  # whoever reads the rows says so, and fails
                found = ready.Readiness(ready=False, reason=str(error))
                until = datetime.now(UTC)
            if found.ready or datetime.now(UTC) >= until:
                yield TriggerEvent({"reason": found.reason})  # type: ignore[no-untyped-call] # as above
                return
            await asyncio.sleep(self.poll)


class Looker:
    """Looks at the windows of a model, with its source open and each object opened once."""

    def __init__(self, model_file: str, windows: list[str]) -> None:
        self._model_file, self._windows = model_file, [Window.parse(window) for window in windows]
        self._source: Any = None
        self._known: dict[tuple[str, str], int] = {}

    def look(self) -> ready.Readiness:
        """Ready if all are.

        Raises
        ------
        HindcastError
            The model file is wrong, or the logs cannot be listed.
        """
        from hindcast.sources import logs_of

        model = config.load(Path(self._model_file))
        if self._source is None:
            self._source = logs_of(model)
        waiting = list(self._windows)
        for window in waiting:
            found = ready.readiness(model, self._source, window, self._known)
            if not found.ready:
                return ready.Readiness(ready=False, reason=f"{window}: {found.reason}")
            self._windows.remove(window)
        return ready.Readiness(ready=True)
