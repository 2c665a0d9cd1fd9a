"""The thread that makes columns of records, and files of columns."""

from __future__ import annotations

import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from hindcast.sdk import columns
from hindcast.sdk.spool import Finished, Spool, SpoolFull

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from hindcast.sdk.columns import Chunk, Record, Values
    from hindcast.sdk.sender import Sender
    from hindcast.sdk.spool import Overflow
    from hindcast.sdk.tally import Tally

# Records that become columns at once: enough for arrays to pay, few enough not to hold the interpreter for long.
CHUNK = 2000
_POLL_S, _LINGER_S, _ADOPT_S, _EXPOSE_S = 0.05, 0.25, 60.0, 1.0
# Finished files that the local disk did not take may be in memory up to so many bytes.
MEMORY_BYTES = 64_000_000


@dataclass
class Flush:
    """Somebody waits until everything that was logged before is in files, or was counted as lost."""

    finished: threading.Event = field(default_factory=threading.Event)
    error: Exception | None = None  # why it was not done


@dataclass
class Pending:
    """Columns of one hour that are not in a file yet."""

    since: float
    rows: int = 0
    chunks: list[Chunk] = field(default_factory=list)


class Builder:
    """Takes records from a queue and hands files to a sender.

    Parameters
    ----------
    queue : list
        The values of records, one record after the other; others extend it.
    names : tuple of str
        `columns.PREDICTION` or `columns.LABEL`.
    model : mapping
        The model's name and version.
    prefix : str
        Begins the names of all files of this process, and of no other.
    max_rows, max_seconds
        A file is finished when it has so many rows, or its oldest is so old.
    open_spool : callable
    sender : Sender
    tally : Tally
    """

    def __init__(
        self,
        queue: list[Any],
        names: tuple[str, ...],
        model: Mapping[str, str],
        prefix: str,
        max_rows: int,
        max_seconds: float,
        open_spool: Callable[[], Spool],
        sender: Sender,
        tally: Tally,
    ) -> None:
        self.spool: Spool | None = None
        # before the first record that may need it; if it fails, this thread tries again, and says so
        with suppress(OSError):
            self.spool = open_spool()
        self._queue, self._names, self._model, self._prefix = queue, names, dict(model), prefix
        self._max_rows, self._max_seconds, self._at_once = max_rows, max_seconds, min(CHUNK, max_rows)
        self._open_spool, self._sender, self._tally = open_spool, sender, tally
        self._columns = columns.Columns(names)
        self._pending: dict[int, Pending] = {}
        self._files = 0
        self._flushes: deque[Flush] = deque()
        self._wake: SimpleQueue[None] = SimpleQueue()  # reentrant, as `threading.Event` is not
        self._ending = False
        self._drained = self._adopted = self._exposed = self._refused = -_ADOPT_S
        self._thread = threading.Thread(target=self._run, name="hindcast-builder", daemon=True)

    # --- other threads ---

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def hurry(self) -> None:
        """Look into the queue now."""
        self._wake.put(None)

    def flush(self) -> Flush:
        """Ask that all that was logged before be put into files."""
        flush = Flush()
        self._flushes.append(flush)
        self.hurry()
        return flush

    def stop(self, seconds: float) -> bool:
        """End the thread once its queue is empty; False if it has not ended after so many seconds."""
        self._ending = True
        self.hurry()
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def rows(self) -> int:
        """Records that are columns, and in no file yet."""
        return sum(pending.rows for pending in list(self._pending.values()))

    # --- this thread ---

    def _run(self) -> None:
        ending = False
        while not ending:
            hurried = False
            with suppress(Empty):
                self._wake.get(timeout=_POLL_S)
                hurried = True
                while True:  # many callers may have found the queue full
                    self._wake.get_nowait()
            ending = self._ending  # before looking: there is a turn after the last record
            flushes = [self._flushes.popleft() for _ in range(len(self._flushes))]
            failed = None
            try:
                self._turn(hurried=hurried, everything=ending or bool(flushes))
            except Exception as error:  # noqa: BLE001 - the thread must go on, whatever a record or a disk does
                failed = error
                self._tally.say("unexpected", f"logging goes on after: {error!r}", error)
            for flush in flushes:
                flush.error = failed
                flush.finished.set()
        self._tally.drop(self._waiting() + self.rows(), "unwritable", failed)

    def _turn(self, *, hurried: bool, everything: bool) -> None:
        now = time.monotonic()
        self._look_after_spool(now)
        waiting = self._waiting()
        if everything or hurried or now - self._drained >= _LINGER_S:
            self._drained, count = now, waiting
        else:
            count = waiting - waiting % self._at_once
        for start in range(0, count, self._at_once):
            end = min(self._at_once, count - start) * len(self._names)
            values = self._queue[:end]
            del self._queue[:end]
            self._take([values[at :: len(self._names)] for at in range(len(self._names))])
            self._finish(everything=False)
            time.sleep(0)  # a request that waits for the interpreter goes first
        self._finish(everything=everything)
        if self.spool is not None and self.spool.spilled:
            idle = self._waiting() < self._at_once and now - self._refused >= _EXPOSE_S
            if everything or idle:
                self._empty(self.spool)
        if now - self._exposed >= _EXPOSE_S:
            self._exposed = now
            self._tally.wait(self._waiting() + self.rows(), self.spool.bytes if self.spool else 0)

    def _waiting(self) -> int:
        return len(self._queue) // len(self._names)

    def _look_after_spool(self, now: float) -> None:
        """Have a spool, and take over those of the dead."""
        if now - self._adopted < _ADOPT_S:
            return
        self._adopted = now
        try:
            self.spool = self.spool or self._open_spool()
            self.spool.renew()
            for item in self.spool.adopt():
                self._tally.adopt(item.rows)
                self._sender.add(item)
        except Exception as error:  # noqa: BLE001 - anything may lie there
            self._tally.say("spool", f"the local disk cannot be used as a spool: {error}", error)

    # --- records into columns ---

    def _take(self, values: Values) -> None:
        """Take the values of some records, parameter by parameter."""
        only = columns.one_hour(values[-2])
        hours = self._by_hour(zip(*values, strict=True)) if only is None else [(only, values)]
        for hour, some in hours:
            chunk = self._chunk(self._columns, some)
            if chunk is not None:
                pending = self._pending.setdefault(hour, Pending(time.monotonic()))
                pending.rows += len(chunk["prediction_id"])
                pending.chunks.append(chunk)
                self._tally.log(chunk)

    def _by_hour(self, records: Iterable[Record]) -> Iterator[tuple[int, Values]]:
        hours: dict[int, list[Record]] = {}
        for record in records:
            try:
                hours.setdefault(columns.hour(record[-2]), []).append(record)
            except Exception as error:  # noqa: BLE001 - a moment may be anything, and its time zone do anything
                self._tally.drop(1, "unwritable", error)
        for hour, some in hours.items():
            yield hour, list(zip(*some, strict=True))

    def _chunk(self, made: columns.Columns, values: Values) -> Chunk | None:
        """Columns of some records; those that cannot be written are counted and left out."""
        try:
            return made.chunk(values)
        except Exception as error:  # noqa: BLE001 - a record may hold anything
            if len(values[0]) == 1:
                self._tally.drop(1, "unwritable", error)
                return None
        good = [record for record in zip(*values, strict=True) if self._alone(record) is not None]
        return made.chunk(list(zip(*good, strict=True))) if good else None

    def _alone(self, record: Record) -> Chunk | None:
        return self._chunk(columns.Columns(self._names), [(value,) for value in record])

    # --- columns into files ---

    def _finish(self, *, everything: bool) -> None:
        now = time.monotonic()
        for hour, pending in list(self._pending.items()):
            if everything or pending.rows >= self._max_rows or now - pending.since >= self._max_seconds:
                del self._pending[hour]
                self._files += 1
                name = f"{columns.folder_of(hour)}/{self._prefix}-{self._files:06d}.parquet"
                self._file(name, pending)

    def _file(self, name: str, pending: Pending) -> None:
        try:
            content = columns.parquet(self._columns.table(pending.chunks, self._model))
        except Exception as error:  # noqa: BLE001 - columns may hold anything
            self._tally.drop(pending.rows, "unwritable", error)
            return
        try:
            item = self._kept(name, content, pending.rows)
        except SpoolFull as error:
            self._tally.drop(pending.rows, "spool_full", error)
            return
        except OSError as error:
            if self._sender.in_memory() + len(content) > MEMORY_BYTES:
                self._tally.drop(pending.rows, "spool_failed", error)
                return
            self._tally.say("spool", f"the local disk takes nothing, files wait in memory: {error}", error)
            item = Finished(name, pending.rows, len(content), None, content.to_pybytes())
        self._sender.add(item)

    def _kept(self, name: str, content: Any, rows: int) -> Finished:
        if self.spool is None:
            self.spool = self._open_spool()
        try:
            return self.spool.keep(name, content, rows)
        except FileNotFoundError:  # somebody removed the folder, as cleaners of temporary folders do
            self.spool.renew()
            return self.spool.keep(name, content, rows)

    def _empty(self, spool: Spool) -> None:
        try:
            for overflow in spool.overflows(len(self._names)):
                self._convert(spool, overflow)
        except Exception as error:
            spool.spilled, self._refused = True, time.monotonic()  # later again
            if not isinstance(error, OSError):
                raise
            self._tally.say("spool", f"records wait on the local disk, which takes no file: {error}", error)

    def _convert(self, spool: Spool, overflow: Overflow) -> None:
        """Make files of an overflow; until all are on the disk it stays, and would be made into the same again."""
        made, kept, chunks = columns.Columns(self._names), [], []
        try:
            for hour, values in self._by_hour(overflow.records):
                chunk = self._chunk(made, values)
                if chunk is not None:
                    name = f"{columns.folder_of(hour)}/{overflow.path.stem}.parquet"
                    content = columns.parquet(made.table([chunk], overflow.model))
                    kept.append(spool.keep(name, content, len(chunk["prediction_id"]), beyond=True))
                    chunks.append(chunk)
        except OSError:
            for item in kept:
                spool.forget(item)
            raise
        spool.done(overflow)
        self._tally.drop(overflow.lost, "unreadable")
        for item, chunk in zip(kept, chunks, strict=True):
            self._sender.add(item)
            self._tally.log(chunk)
