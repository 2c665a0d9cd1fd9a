"""Logs in a folder: ``date=YYYY-MM-DD/hour=HH/*.parquet`` (UTC), or ``<ISO timestamp>.parquet`` by flush time."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from hindcast.errors import SourceMissing, SourceUnreadable, UsageError
from hindcast.profile.columns import ParquetFiles, open_parquet
from hindcast.sources.base import LogObject, Manifest
from hindcast.window import hours

if TYPE_CHECKING:
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

    def open(self, item: LogObject, dictionaries: Sequence[str] = ()) -> pq.ParquetFile:
        """One object.

        Raises
        ------
        SourceUnreadable
            No Parquet, or cut short.
        """
        path = self._root / item.name
        try:
            return open_parquet(path, dictionaries)
        except (OSError, pa.ArrowException) as error:
            message = f"{path}: is no readable Parquet file: {error}"
            raise SourceUnreadable(message) from error

    def _partitioned(self) -> bool:
        return any(path.is_dir() for path in self._root.glob("date=*"))

    def _pinned(self, paths: Iterable[Path]) -> tuple[LogObject, ...]:
        items = []
        for path in sorted(filter(_finished, paths)):
            facts = path.stat()
            name = path.relative_to(self._root).as_posix()
            etag, arrived = f"{facts.st_mtime_ns:x}-{facts.st_size:x}", datetime.fromtimestamp(facts.st_mtime, UTC)
            items.append(LogObject(name, facts.st_size, etag, arrived=arrived))
        return tuple(items)


def _finished(path: Path) -> bool:
    """Whether a file is one to read: writers keep what they have not finished under a leading dot or underscore."""
    return path.name[0] not in "._"


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


def parquet_files(*uris: str, dictionaries: Sequence[str] = ()) -> ParquetFiles:
    """Parquet files, or every one below folders, sorted by name; each is opened whenever it is asked for.

    Raises
    ------
    UsageError, SourceMissing
        No source reads this scheme, or nothing is there. A file that is no Parquet raises SourceUnreadable when it is
        asked for.
    """
    return ParquetFiles([partial(_open, path, dictionaries) for uri in uris for path in _parquet_paths(uri)])


def _parquet_paths(uri: str) -> list[Path]:
    root = Path(local_path(uri))
    paths = sorted(filter(_finished, root.rglob("*.parquet"))) if root.is_dir() else [root]
    if not root.exists() or not paths:
        message = f"{root}: no such Parquet file or folder of Parquet files"
        raise SourceMissing(message)
    return paths


def _open(path: Path, dictionaries: Sequence[str]) -> pq.ParquetFile:
    try:
        return open_parquet(path, dictionaries)
    except (OSError, pa.ArrowException) as error:
        message = f"{path}: is no readable Parquet: {error}"
        raise SourceUnreadable(message) from error
