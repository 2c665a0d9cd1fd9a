"""Forks, exits and SIGTERM: an orderly end loses nothing, and a forked child writes nothing twice."""

from __future__ import annotations

import atexit
import logging
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from hindcast.errors import HindcastError
from hindcast.sdk.tally import COUNTING

if TYPE_CHECKING:
    from types import FrameType

    from hindcast.sdk.pipeline import Pipeline

_LOG = logging.getLogger("hindcast.sdk")
# Open pipelines, and how many seconds each may take at the end.
_OPEN: dict[Pipeline, float] = {}
_INSTALLED: dict[str, Any] = {}


def watch(pipeline: Pipeline, seconds: float) -> None:
    """Close a pipeline at exit and on SIGTERM, within some seconds, and begin it anew in forked children.

    SIGTERM is handled if this is called in the main thread, the only one that may ask for it, and unless the process
    ignores it. The handler that was there is called afterwards.
    """
    if not _INSTALLED:
        _INSTALLED["exit"] = atexit.register(close_all)
        os.register_at_fork(before=COUNTING.acquire, after_in_parent=COUNTING.release, after_in_child=_forked)
    if "sigterm" not in _INSTALLED and threading.current_thread() is threading.main_thread():
        before = signal.getsignal(signal.SIGTERM)
        if before not in {None, signal.SIG_IGN}:
            _INSTALLED["sigterm"] = before  # once only: handlers that call each other would do so for ever
            signal.signal(signal.SIGTERM, _terminated)
    _OPEN[pipeline] = seconds


def forget(pipeline: Pipeline) -> None:
    """A pipeline was closed."""
    _OPEN.pop(pipeline, None)


def started() -> None:
    """Threads were started in this process: children of multiprocessing end without atexit."""
    process = sys.modules.get("multiprocessing.process")
    if process is not None and process.parent_process() is not None:
        from multiprocessing import util

        util.Finalize(None, close_all, exitpriority=100)


def close_all() -> None:
    """Close every pipeline, each within the seconds that it may take."""
    start = time.monotonic()
    for pipeline, seconds in list(_OPEN.items()):
        forget(pipeline)
        try:
            if not pipeline.close(max(0.5, seconds - (time.monotonic() - start))):
                _LOG.warning("%s: some records wait on the local disk for the next process", pipeline.uri)
        except HindcastError:
            _LOG.exception("at exit")


def _forked() -> None:
    COUNTING.release()
    for pipeline in _OPEN:
        pipeline.forked()


def _terminated(number: int, frame: FrameType | None) -> None:
    before = _INSTALLED["sigterm"]
    if callable(before):
        # The process may go on serving for a while: what there is goes to the disk, and logging goes on.
        for pipeline, seconds in list(_OPEN.items()):
            pipeline.settle(seconds)
        before(number, frame)
        return
    close_all()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
