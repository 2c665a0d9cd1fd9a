"""How many threads read columns at once."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from hindcast.errors import UsageError

# More wait for each other: what a column costs outside of numpy and Arrow, one thread at a time does.
_MOST = 4


def usable_threads() -> int:
    """How many threads read columns at once.

    ``HINDCAST_THREADS`` if set; else 1 in a process that shares the machine with its siblings (of `hindcast replay
    --jobs` and other pools of multiprocessing), else the processors that this process may use, at most 4: more wait
    for each other.

    Raises
    ------
    UsageError
        HINDCAST_THREADS is no positive number.
    """
    given = os.environ.get("HINDCAST_THREADS", "")
    if given:
        if not given.isdecimal() or not int(given):
            message = f"HINDCAST_THREADS={given}: must be a whole number, 1 or more"
            raise UsageError(message)
        return int(given)
    parents = sys.modules.get("multiprocessing.process")
    if parents is not None and parents.parent_process() is not None:
        return 1
    return min(_MOST, _processors())


def _processors() -> int:
    """Processors that this process may use, by its affinity and its control group."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(allowed, round(int(quota) / int(period))))
    except (OSError, ValueError):  # no control group, or no limit ("max")
        return allowed
