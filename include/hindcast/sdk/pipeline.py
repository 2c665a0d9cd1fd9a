"""From a caller to the store: a bounded queue, a builder that makes files, a sender that delivers them.

A record is in memory until its file is finished, which is after `max_seconds` or `max_rows`; from then on it is on the
local disk, and then in the store.
"""

from __future__ import annotations

import os
import re
import secrets
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hindcast.errors import NotDurable
from hindcast.sdk import lifecycle
from hindcast.sdk.builder import Builder
from hindcast.sdk.sender import Sender
from hindcast.sdk.spool import Finished, Spool, SpoolFull
from hindcast.sdk.stores import open_store
from hindcast.sdk.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from hindcast.sdk.columns import Record
    from hindcast.sdk.exposed import Exposed


# How long a caller waits, at most, for others who write to the local disk.
DISK_SECONDS = 0.05


@dataclass(frozen=True)
class Limits:
    """When files are finished, and how much there may be of everything."""

    max_rows: int
    max_seconds: float
    queue_records: int
    block_seconds: float
    spool_bytes: int


class Pipeline:
    """Takes the records of one destination.

    Parameters
    ----------
    names : tuple of str
        `columns.PREDICTION` or `columns.LABEL`.
    uri, options
        Of the store.
    spool : Path
    model : mapping
        The model's name and version.
    limits : Limits
    exposed : Exposed, optional
        Metrics.
    """

    def __init__(
        self,
        names: tuple[str, ...],
        uri: str,
        options: Mapping[str, Any],
        spool: Path,
        model: Mapping[str, str],
        limits: Limits,
        exposed: Exposed | None,
    ) -> None:
        self._names, self.uri, self._options, self._spool = names, uri, dict(options), spool
        self._model, self._limits, self._exposed = dict(model), limits, exposed
        open_store(uri, options)  # whatever is wrong with it is said now
        self._begin()

    def _begin(self) -> None:
        self.queue: list[Any] = []  # the values of records, one after the other
        # Nothing has room in a queue that has not been started: so the usual way through `log` asks for nothing else.
        self.limit = 0
        self.closed = False
        self.tally = Tally(self._exposed)
        self._told: Counter[str] = Counter()
        self._builder: Builder | None = None
        self._sender: Sender | None = None
        self._process, self._starting = os.getpid(), threading.RLock()
        self._owner = f"{self._process}-{secrets.token_hex(6)}"

    def forked(self) -> None:
        """In a child: begin with nothing, since everything is the parent's, which lives on."""
        spool = self._builder.spool if self._builder else None
        self._begin()
        if spool is not None:
            spool.leave_to_parent()

    def crowded(self, record: Record) -> None:
        """Take a record for which there was no room: begin, wait for room, put it on the disk, or count it as lost."""
        builder = self._builder or self.start()
        if builder is None or self.closed:
            self.tally.drop(1, "closed")
            return
        deadline = time.monotonic() + self._limits.block_seconds
        while len(self.queue) >= self.limit:
            builder.hurry()
            if time.monotonic() >= deadline:
                self._to_disk(builder.spool, record)
                return
            time.sleep(0.0005)
        self.queue.extend(record)

    def start(self) -> Builder | None:
        """Start the threads, once in a process; None if the pipeline is closed."""
        with self._starting:
            if self._builder is None and not self.closed:
                sender = Sender(open_store(self.uri, self._options), self._delivered, self._failed, self._gone)
                builder = Builder(
                    self.queue, self._names, self._model, self._prefix, self._limits.max_rows,
                    self._limits.max_seconds, self._open_spool, sender, self.tally,
                )  # fmt: skip
                sender.start()
                builder.start()
                self._sender, self._builder = sender, builder
                self.limit = self._limits.queue_records * len(self._names)
                lifecycle.started()
            return self._builder

    @property
    def _prefix(self) -> str:
        name = re.sub(r"[^A-Za-z0-9-]+", "-", self._model["model_name"])[:64]
        return f"{name}-{self._owner}"

    def _open_spool(self) -> Spool:
        return Spool(self._spool, self.uri, self._prefix, self._model, self._limits.spool_bytes)

    def _to_disk(self, spool: Spool | None, record: Record) -> None:
        try:
            if spool is None or not spool.overflow(record, DISK_SECONDS):
                self.tally.drop(1, "queue_full")
        except SpoolFull:
            self.tally.drop(1, "spool_full")
        except OSError as error:
            self.tally.drop(1, "spool_failed", error)
        except (TypeError, ValueError) as error:
            self.tally.drop(1, "unwritable", error)

    def flush(self, seconds: float) -> bool:
        """Wait until everything that was logged before is durable.

        Returns
        -------
        bool
            True: it is in the store. False: some of it waits on the local disk.

        Raises
        ------
        NotDurable
            It is nowhere after so many seconds, or some of what was logged since the last flush was dropped.
        """
        builder, sender = self._builder, self._sender
        if builder is None or sender is None:
            return True
        deadline = time.monotonic() + seconds
        flush = builder.flush()
        if not flush.finished.wait(seconds):
            message = f"{self.uri}: records were not made into files within {seconds:g} s"
            raise NotDurable(message)
        if flush.error is not None:
            message = f"{self.uri}: records could not be made into files: {flush.error!r}"
            raise NotDurable(message) from flush.error
        left = sender.wait(deadline - time.monotonic())
        dropped = self.tally.dropped.copy()
        lost, self._told = dropped - self._told, dropped
        unsafe = lost.total() + sum(item.rows for item in left if item.path is None)
        if unsafe:
            why = f" ({', '.join(f'{reason}: {rows}' for reason, rows in lost.items())})" if lost else ""
            message = (
                f"{self.uri}: {unsafe} records are neither in the store nor on the local disk; "
                f"{lost.total()} are lost{why}"
            )
            raise NotDurable(message)
        return not left and not (builder.spool is not None and builder.spool.spilled)

    def settle(self, seconds: float) -> None:
        """Wait until everything that was logged before is in files, wherever those are."""
        if self._builder is not None:
            self._builder.flush().finished.wait(seconds)

    def waiting(self) -> int:
        """Records that are in memory or on the local disk, as far as they have been counted."""
        builder, sender = self._builder, self._sender
        return (
            len(self.queue) // len(self._names) + (builder.rows() if builder else 0) + (sender.rows() if sender else 0)
        )

    def close(self, seconds: float) -> bool:
        """Take nothing any more, and wait as `flush` does; what waits on the disk after so long, the next one finds."""
        with self._starting:
            first, self.closed, self.limit = not self.closed, True, 0
        builder, sender = self._builder, self._sender
        if not first or builder is None or sender is None:
            return True
        try:
            return self.flush(seconds)
        finally:
            ended = builder.stop(1.0)
            sender.stop(1.0)
            if ended and builder.spool is not None:
                builder.spool.close()

    # --- called by the sender's thread ---

    def _delivered(self, item: Finished) -> None:
        if self._builder is not None and self._builder.spool is not None:
            self._builder.spool.forget(item)
        self.tally.store(item.rows)

    def _failed(self, _item: Finished) -> None:
        self.tally.fail()

    def _gone(self, item: Finished) -> None:
        self.tally.drop(item.rows, "spool_lost")
