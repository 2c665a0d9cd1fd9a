"""The thread that takes finished files to the store, and tries again for as long as it takes."""

from __future__ import annotations

import logging
import random
import threading
import time
from typing import TYPE_CHECKING

from hindcast.errors import NotDelivered

if TYPE_CHECKING:
    from collections.abc import Callable

    from hindcast.sdk.spool import Finished
    from hindcast.sdk.stores import Store

_LOG = logging.getLogger("hindcast.sdk")
FIRST_WAIT, LONGEST_WAIT = 0.25, 30.0
# The same trouble is told once in so many seconds.
_TOLD_S = 60.0


class Sender:
    """Delivers files, one after the other; one that fails goes to the end of the line.

    Parameters
    ----------
    store : Store
    delivered, failed, gone : callable
        Called, in this thread, with a file that the store has, or did not take this time, or that somebody removed.
    """

    def __init__(
        self,
        store: Store,
        delivered: Callable[[Finished], None],
        failed: Callable[[Finished], None],
        gone: Callable[[Finished], None],
    ) -> None:
        self._store, self._delivered, self._failed, self._gone = store, delivered, failed, gone
        self._waiting: dict[str, Finished] = {}
        self._changed = threading.Condition()  # reentrant, since a signal's handler may come in between
        self._failures, self._told = 0, -_TOLD_S
        self._hurried = self._stopped = False
        self._thread = threading.Thread(target=self._run, name="hindcast-sender", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def add(self, item: Finished) -> None:
        """Deliver a file, some time."""
        with self._changed:
            self._waiting[item.name] = item
            self._changed.notify_all()

    def in_memory(self) -> int:
        """Bytes of files that are nowhere else."""
        with self._changed:
            return sum(item.size for item in self._waiting.values() if item.path is None)

    def rows(self) -> int:
        """Records that wait."""
        with self._changed:
            return sum(item.rows for item in self._waiting.values())

    def wait(self, seconds: float) -> list[Finished]:
        """Try now what waits, wait until it is delivered, and return what is not after so many seconds."""
        with self._changed:
            names = set(self._waiting)
            self._hurried, self._failures = True, min(self._failures, 1)
            self._changed.notify_all()
            self._changed.wait_for(lambda: not names & self._waiting.keys(), max(0.0, seconds))
            return [item for name, item in self._waiting.items() if name in names]

    def stop(self, seconds: float) -> None:
        """End the thread, when it has finished what it is at."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._thread.join(max(0.0, seconds))

    def _run(self) -> None:
        while (item := self._next()) is not None:
            try:
                self._deliver(item)
            except Exception as error:  # noqa: BLE001 - whatever a client raises, the file is tried again
                self._again(item, error)
            else:
                with self._changed:
                    self._failures = 0
                    self._waiting.pop(item.name, None)
                    self._changed.notify_all()

    def _deliver(self, item: Finished) -> None:
        try:
            content = item.read()
        except FileNotFoundError:
            _LOG.exception("%s: somebody removed it before it was delivered", item.path)
            self._gone(item)
            return
        self._store.put(item.name, content)
        self._delivered(item)

    def _next(self) -> Finished | None:
        """The first that waits, once it is its time; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or bool(self._waiting))
            if self._failures and not self._stopped:
                longest = min(LONGEST_WAIT, FIRST_WAIT * 2 ** min(self._failures - 1, 10))
                seconds = random.uniform(longest / 2, longest)  # noqa: S311 - so that processes do not come together
                self._changed.wait_for(lambda: self._stopped or self._hurried, seconds)
            self._hurried = False
            return None if self._stopped else next(iter(self._waiting.values()))

    def _again(self, item: Finished, error: Exception) -> None:
        with self._changed:
            self._failures += 1
            self._waiting[item.name] = self._waiting.pop(item.name)
        self._failed(item)
        if time.monotonic() - self._told > _TOLD_S:
            self._told = time.monotonic()
            kind = "" if isinstance(error, NotDelivered) else f"{type(error).__name__}: "
            _LOG.warning("not delivered, will be tried again: %s%s", kind, error)
