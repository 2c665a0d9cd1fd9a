"""Logs in a folder: ``date=YYYY-MM-DD/hour=HH/*.parquet`` (UTC), or ``<ISO timestamp>.parquet`` by flush time."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from hindcast.errors import SourceMissing, SourceUnreadable, UsageError
from hindcast.profile.columns import open_parquet
from hindcast.sources.base import LogObject, Manifest
from hindcast.window import hours

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Sequence


class Folder:
    """Source for a local (or mounted) folder.

    Parameters
    ----------
    root : str
        Absolute path.

    Raises
    ------
    SourceMissing
        The folder does not exist.
    """

    def __init__(self, root: str) -> None:
        self.uri = root
        self._root = Path(root)
        if not self._root.is_dir():
            message = f"{root}: no such folder; the model file's logs, labels or reference point there"
            raise SourceMissing(message)

    def manifest(self, start: datetime, end: datetime) -> Manifest:
        """Objects of the hours of ``[start, end)``."""
        if self._partitioned():
            folders = [self._root / f"date={w.start:%Y-%m-%d}" / f"hour={w.start:%H}" for w in hours(start, end)]
            return Manifest("partitioned", self._pinned(p for f in folders for p in f.glob("*.parquet")))
        named = ((flush_time(path.stem), path) for path in self._root.glob("*.parquet"))
        return Manifest("flat", self._pinned(path for time, path in named if time and start <= time <= end))

    def has(self, name: str) -> bool:
        """Whether a file lies under a name below the root."""
        return (self._root / name).exists()

    def open(self, item: LogObject, dictionaries: Sequence[str] = ()) -> pq.ParquetFile:
        """One object, as it was pinned.

        Raises
        ------
        SourceUnreadable
            No Parquet, cut short, gone, or overwritten.
        """
        path = self._root / item.name
        try:
            file = open_parquet(path, dictionaries)
            same = _pin(path.stat()) == item.etag  # what is open now stays what it is, if writers rename
        except (OSError, pa.ArrowException) as error:
            message = f"{path}: is no readable Parquet file: {error}"
            raise SourceUnreadable(message) from error
        if not same:
            file.close()
            message = f"{path}: was overwritten since the window's objects were pinned; check it again"
            raise SourceUnreadable(message)
        return file

    def below(self) -> list[LogObject]:
        """Every Parquet file below the root, sorted by name."""
        return sorted(self._pinned(self._root.rglob("*.parquet")))

    def named(self, name: str) -> LogObject:
        """One file below the root, whatever its name.

        Raises
        ------
        SourceMissing
        """
        path = self._root / name
        if not path.is_file():
            message = f"{path}: no such Parquet file or folder of Parquet files"
            raise SourceMissing(message)
        return self._described(path)

    def _partitioned(self) -> bool:
        return any(path.is_dir() for path in self._root.glob("date=*"))

    def _pinned(self, paths: Iterable[Path]) -> tuple[LogObject, ...]:
        return tuple(self._described(path) for path in sorted(paths) if finished(path.name))

    def _described(self, path: Path) -> LogObject:
        facts = path.stat()
        arrived = datetime.fromtimestamp(facts.st_mtime, UTC)
        return LogObject(path.relative_to(self._root).as_posix(), facts.st_size, _pin(facts), arrived=arrived)


def _pin(facts: os.stat_result) -> str:
    """What changes when a file is rewritten."""
    return f"{facts.st_mtime_ns:x}-{facts.st_size:x}"


def finished(name: str) -> bool:
    """Whether a file is one to read: writers keep what they have not finished under a leading dot or underscore."""
    return name[0] not in "._"


def flush_time(stem: str) -> datetime | None:
    """Moment in a file's name; colons may be written as dashes, a suffix may follow an underscore; no zone is UTC.

    Examples
    --------
    >>> flush_time("2013-04-16T15:00:00Z"), flush_time("2013-04-16T15-00-00_a1"), flush_time("part-0")
    (datetime.datetime(2013, 4, 16, 15, 0, tzinfo=datetime.timezone.utc),
     datetime.datetime(2013, 4, 16, 15, 0, tzinfo=datetime.timezone.utc), None)
    """
    text = re.sub(
        r"T(\d\d)-(\d\d)(?:-(\d\d))?",
        lambda m: "T" + ":".join(g for g in m.groups() if g),
        stem.split("_", maxsplit=1)[0],
    )
    try:
        moment = datetime.fromisoformat(text)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def local_path(uri: str, connection: str | None = None) -> str:
    """Path in a URI of this machine, or as it stands.

    Raises
    ------
    UsageError
        It is of another scheme.
    """
    scheme = uri.split("://", maxsplit=1)[0] if "://" in uri else "file"
    if scheme != "file":
        message = f"{uri}: sources of scheme {scheme}:// are not built in yet; use a folder (connection: {connection})"
        raise UsageError(message)
    return uri.removeprefix("file://")
