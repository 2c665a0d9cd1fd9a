"""Finished files on the local disk until the store has them, and records that found no room in memory.

::

    <spool>/<destination>/<process>/
        lock                         held by the living process; whoever gets it may take the rest
        <name of the file>.parquet   finished, to be delivered under that name
        overflow-<n>.jsonl           records, a line each, to be made into a file of a name that follows from n

A process that is killed leaves its folder; the next one that logs to the same destination takes it over. Names never
change, so that what was delivered just before the kill is delivered to the same place again.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import os
import shutil
import threading
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hindcast.sdk.stores import sync_folder, write_durably

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from hindcast.sdk.columns import Record

_LOG = logging.getLogger("hindcast.sdk")
# A file of so many bytes is followed by another: each is read as a whole.
_OVERFLOW_BYTES = 16_000_000


class SpoolFull(OSError):
    """The local disk may hold no more."""


@dataclass(frozen=True)
class Finished:
    """A file to be delivered: on the disk, or, where that failed, in memory only."""

    name: str
    rows: int
    size: int
    path: Path | None
    content: bytes | None = None

    def read(self) -> bytes:
        """What is to be delivered."""
        return self.content if self.path is None else self.path.read_bytes()  # type: ignore[return-value] # one of both


@dataclass(frozen=True)
class Overflow:
    """Records of one file, and how many of its lines are none."""

    path: Path
    model: dict[str, str]
    records: list[Record]
    lost: int
    damaged: bool = False  # nothing says whose records these are


class Spool:
    """One process's folder for one destination.

    Parameters
    ----------
    root : Path
    uri : str
        The destination.
    owner : str
        Unique name of this process; part of the names of its files.
    model : mapping
        Columns that are the same in all records.
    most_bytes : int
        Beyond it nothing is taken any more.

    Raises
    ------
    OSError
        The folder cannot be made.
    """

    def __init__(self, root: Path, uri: str, owner: str, model: Mapping[str, str], most_bytes: int) -> None:
        self._group = root / hashlib.sha256(uri.encode()).hexdigest()[:16]
        self._own, self._owner, self._model, self._most = self._group / owner, owner, dict(model), most_bytes
        self._group.mkdir(mode=0o700, parents=True, exist_ok=True)
        # locked before anybody can see it: nobody takes a folder that is being made
        fresh = self._group / f".{owner}"
        fresh.mkdir(mode=0o700)
        self._lock = _new_lock(fresh)
        fresh.rename(self._own)
        self.bytes = 0
        self.spilled = False  # whether there are overflows
        self._overflow: int | None = None  # file that is being written to
        self._overflow_bytes = self._overflows = 0
        # reentrant, since a signal's handler may come in between
        self._counting, self._writing = threading.RLock(), threading.RLock()

    def renew(self) -> None:
        """Make the folder and its lock again if somebody removed them, as cleaners of temporary folders do."""
        if not (self._own / "lock").exists():
            self._own.mkdir(mode=0o700, parents=True, exist_ok=True)
            before, self._lock = self._lock, _new_lock(self._own)
            os.close(before)

    def _grow(self, size: int) -> None:
        with self._counting:
            self.bytes += size

    # --- finished files ---

    def keep(self, name: str, content: Any, rows: int, *, beyond: bool = False) -> Finished:
        """Write a finished file; once this returns, it outlives the process and the machine's power.

        `beyond`: even if the spool is full, since something larger goes for it.

        Raises
        ------
        SpoolFull
        OSError
            The disk did not take it.
        """
        size = len(content)
        if self.bytes + size > self._most and not beyond:
            message = f"{self._own}: holds {self.bytes:,} bytes, and may hold {self._most:,}"
            raise SpoolFull(message)
        path = self._own / quote(name, safe="")
        half = path.with_name(f".{path.name}")
        try:
            write_durably(half, content)
            half.replace(path)
            sync_folder(self._own)
        except OSError:
            half.unlink(missing_ok=True)
            raise
        self._grow(size)
        return Finished(name, rows, size, path)

    def forget(self, item: Finished) -> None:
        """Remove a file that was delivered."""
        if item.path is not None:
            item.path.unlink(missing_ok=True)
            self._grow(-item.size)

    def adopt(self) -> Iterator[Finished]:
        """Take over what dead processes left, file by file; overflows become this process's own."""
        for other in sorted(self._group.iterdir()):
            lock = None if other.name.startswith(".") or other == self._own else _locked(other / "lock")
            if lock is not None:
                try:
                    if other.exists():  # somebody else may have been faster
                        yield from self._taken(other)
                finally:
                    os.close(lock)

    def _taken(self, other: Path) -> Iterator[Finished]:
        for path in sorted(other.glob("[!.]*")):
            if path.suffix == ".parquet":
                yield from self._finished(path)
            elif path.suffix == ".jsonl":
                self._grow(path.stat().st_size)
                path.replace(self._own / path.name)
                self.spilled = True
        if {path.name for path in other.glob("[!.]*")} <= {"lock"}:  # what nobody here wrote stays
            shutil.rmtree(other)

    def _finished(self, path: Path) -> Iterator[Finished]:
        size = path.stat().st_size
        try:
            rows = pq.read_metadata(path).num_rows
        except (pa.ArrowException, OSError):
            kept = self._set_aside(path)
            _LOG.exception("%s: is no readable Parquet file; kept, and not delivered", kept)
            return
        mine = path.replace(self._own / path.name)
        self._grow(size)
        yield Finished(unquote(mine.name), rows, size, mine)

    def _set_aside(self, path: Path) -> Path:
        return path.replace(self._group / f"{path.name}.damaged")

    # --- records for which there was no room ---

    def overflow(self, record: Record, seconds: float) -> bool:
        """Append a record to a file; False if others were writing for so long.

        Raises
        ------
        SpoolFull
        TypeError, ValueError, OSError
            It cannot be written.
        """
        line = json.dumps(record, default=_plain).encode() + b"\n"
        if not self._writing.acquire(timeout=seconds):
            return False
        try:
            if self.bytes + len(line) > self._most:
                message = f"{self._own}: may hold {self._most:,} bytes"
                raise SpoolFull(message)
            if self._overflow is None or self._overflow_bytes > _OVERFLOW_BYTES:
                self._overflow = self._opened()
            _write_whole(self._overflow, line)
            self._overflow_bytes += len(line)
            self.spilled = True
            self._grow(len(line))
        finally:
            self._writing.release()
        return True

    def _opened(self) -> int:
        self._shut()
        self._overflows += 1
        path = self._own / f"overflow-{self._owner}-{self._overflows}.jsonl"
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        header = json.dumps(self._model).encode() + b"\n"
        try:
            _write_whole(file, header)
        except OSError:
            os.close(file)
            path.unlink()
            raise
        self._overflow_bytes = len(header)
        self._grow(len(header))
        return file

    def _shut(self) -> None:
        if self._overflow is not None:
            os.close(self._overflow)
            self._overflow = None

    def overflows(self, width: int) -> Iterator[Overflow]:
        """Files of records of so many values, one after the other, that nobody writes to any more."""
        with self._writing:  # what is begun from here on is not in the list
            self._shut()
            self.spilled = False
            paths = sorted(self._own.glob("overflow-*.jsonl"))
        for path in paths:
            yield _parsed(path, width)

    def done(self, overflow: Overflow) -> None:
        """Remove an overflow whose records stand in finished files."""
        self._grow(-overflow.path.stat().st_size)
        if overflow.damaged:
            kept = self._set_aside(overflow.path)
            _LOG.warning("%s: does not say whose records it holds; kept, and not delivered", kept)
        else:
            overflow.path.unlink()

    # --- the end ---

    def close(self) -> None:
        """Let go of the folder; if nothing waits in it, it goes."""
        self._shut()
        if {path.name for path in self._own.glob("*")} <= {"lock"}:
            shutil.rmtree(self._own, ignore_errors=True)  # somebody may have removed it before
        os.close(self._lock)

    def leave_to_parent(self) -> None:
        """In a forked child: folder and lock are the parent's alone."""
        self._shut()
        os.close(self._lock)


def _new_lock(folder: Path) -> int:
    """Make a folder's lock, which is locked when it can be seen.

    Raises
    ------
    OSError
    """
    fresh = folder / ".lock"
    fresh.touch(mode=0o600)
    lock = _locked(fresh)
    if lock is None:
        message = f"{fresh}: cannot be locked; the spool needs a disk that knows locks"
        raise OSError(message)
    fresh.rename(folder / "lock")
    return lock


def _write_whole(file: int, content: bytes) -> None:
    """Append to a file; where there is no room for all of it, append nothing.

    Raises
    ------
    OSError
    """
    written = os.write(file, content)
    if written < len(content):
        os.ftruncate(file, os.fstat(file).st_size - written)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _locked(path: Path) -> int | None:
    """Open a lock file and lock it; None if somebody has it, or it is not there."""
    try:
        file = os.open(path, os.O_RDWR)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(file)
        return None
    return file


def _plain(value: Any) -> Any:
    """What JSON has no word for, as columns have it: moments are marked, numbers are numbers, all else is text."""
    if isinstance(value, date):
        return {"$moment": value.isoformat()}
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, bytes | bytearray):
        return value.decode(errors="replace")
    return value.item() if isinstance(value, np.generic) else str(value)


def _moment(found: dict[str, Any]) -> Any:
    return datetime.fromisoformat(found["$moment"]) if found.keys() == {"$moment"} else found


def _parsed(path: Path, width: int) -> Overflow:
    """Records of a file; the line at which a process was killed is no record, and was not promised to anybody."""
    first, *lines = path.read_bytes().split(b"\n")[:-1] or [b"null"]
    model = _json(first)
    if not isinstance(model, dict) or not all(isinstance(value, str) for value in model.values()):
        return Overflow(path, {}, [], len(lines), damaged=bool(lines))
    found = [_json(line) for line in lines]
    records = [tuple(record) for record in found if isinstance(record, list) and len(record) == width]
    return Overflow(path, model, records, len(lines) - len(records))


def _json(line: bytes) -> Any:
    try:
        return json.loads(line, object_hook=_moment)
    except (TypeError, ValueError):
        return None
