"""Logs in a folder: ``date=YYYY-MM-DD/hour=HH/*.parquet`` (UTC), or ``<ISO timestamp>.parquet`` by flush time."""

from __future__ import annotations

import os
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
        """Objects of the hours of ``[start, end)``.

        Raises
        ------
        SourceUnreadable
            A folder may not be listed.
        """
        if self._partitioned():
            folders = [self._root / f"date={w.start:%Y-%m-%d}" / f"hour={w.start:%H}" for w in hours(start, end)]
            return Manifest("partitioned", self._pinned(path for folder in folders for path in _within(folder)))
        named = ((flush_time(path.stem), path) for path in _within(self._root))
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
        found = os.walk(self._root, onerror=_refuse)
        return sorted(self._pinned(Path(folder) / name for folder, _, names in found for name in names))

    def named(self, name: str) -> LogObject:
        """One file below the root, whatever its name.

        Raises
        ------
        SourceMissing
        """
        path = self._root / name
        found = self._described(path) if path.is_file() else None
        if found is None:
            message = f"{path}: no such Parquet file or folder of Parquet files"
            raise SourceMissing(message)
        return found

    def _partitioned(self) -> bool:
        return any(path.is_dir() for path in _within(self._root, "date="))

    def _pinned(self, paths: Iterable[Path]) -> tuple[LogObject, ...]:
        found = (self._described(path) for path in sorted(paths) if path.suffix == ".parquet" and finished(path.name))
        return tuple(item for item in found if item)

    def _described(self, path: Path) -> LogObject | None:
        """What a file is, or a link that leads nowhere and cannot be opened; None if it is gone since it was listed."""
        try:
            facts = path.stat()
        except FileNotFoundError:
            if not path.is_symlink():
                return None
            facts = path.lstat()
        arrived = datetime.fromtimestamp(facts.st_mtime, UTC)
        return LogObject(path.relative_to(self._root).as_posix(), facts.st_size, _pin(facts), arrived=arrived)


def _within(folder: Path, prefix: str = "") -> list[Path]:
    """What lies in a folder under names that begin so; nothing where there is no such folder.

    Raises
    ------
    SourceUnreadable
    """
    try:
        return [path for path in folder.iterdir() if path.name.startswith(prefix)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        _refuse(error)
        raise


def _refuse(error: OSError) -> None:
    """Say which folder cannot be listed, instead of taking it for an empty one."""
    message = f"{error.filename}: cannot be listed: {error.strerror}"
    raise SourceUnreadable(message) from error


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
