"""What became of the records, counted; nothing is lost without being counted, and said once a minute."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hindcast.sdk.columns import Chunk
    from hindcast.sdk.exposed import Exposed

_LOG = logging.getLogger("hindcast.sdk")
_TOLD_S = 60.0
# A fork waits for whoever holds it, so that no child inherits a metric that is locked for ever. Reentrant, since a
# signal's handler may come in between.
COUNTING = threading.RLock()


class Tally:
    """Counts the records of one destination.

    Parameters
    ----------
    exposed : Exposed, optional
        Metrics that are counted too.

    Examples
    --------
    >>> tally = Tally(None)
    >>> tally.store(2)
    >>> tally.stored, tally.dropped.total()
    (2, 0)
    """

    def __init__(self, exposed: Exposed | None) -> None:
        self._exposed = exposed
        self._told: dict[str, float] = {}
        self.logged = self.adopted = self.stored = 0
        self.dropped: Counter[str] = Counter()

    def log(self, chunk: Chunk) -> None:
        """Count records by their columns."""
        with COUNTING:
            self.logged += len(chunk["prediction_id"])
            if self._exposed is not None:
                self._exposed.predicted(chunk)

    def adopt(self, rows: int) -> None:
        """Count records that a dead process left."""
        with COUNTING:
            self.adopted += rows

    def store(self, rows: int) -> None:
        """Count records that the store has."""
        with COUNTING:
            self.stored += rows
            if self._exposed is not None:
                self._exposed.stored(rows)

    def drop(self, rows: int, reason: str, error: BaseException | None = None) -> None:
        """Count records that are lost, and say so."""
        if not rows:
            return
        with COUNTING:
            self.dropped[reason] += rows
            if self._exposed is not None:
                self._exposed.dropped(rows, reason)
        self.say(reason, f"{self.dropped[reason]} records dropped so far: {reason}", error)

    def fail(self) -> None:
        """Count an attempt to deliver that failed."""
        with COUNTING:
            if self._exposed is not None:
                self._exposed.failed()

    def wait(self, records: int, spooled: int) -> None:
        """Expose what is in memory and on the disk."""
        with COUNTING:
            if self._exposed is not None:
                self._exposed.waiting(records, spooled)

    def say(self, about: str, message: str, error: BaseException | None = None) -> None:
        """Log a warning, the same once a minute."""
        now = time.monotonic()
        if now - self._told.get(about, -_TOLD_S) >= _TOLD_S:
            self._told[about] = now
            _LOG.warning("%s", message, exc_info=error)
