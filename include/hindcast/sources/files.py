"""Files that are no logs: references, model artifacts, what `hindcast profile` is given; local, or in a bucket."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from hindcast.errors import SourceMissing
from hindcast.profile.columns import ParquetFiles
from hindcast.sources.base import Announced
from hindcast.sources.folder import Folder, local_path

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow.parquet as pq

    from hindcast.sources.base import LogObject, Source
    from hindcast.sources.s3 import S3

# How many of the files that come next a source is told of.
_NEXT = 64


def parquet_files(*uris: str, dictionaries: Sequence[str] = (), connection: str | None = None) -> ParquetFiles:
    """Parquet files, or every one below folders or prefixes, sorted by name; each is opened whenever it is asked for.

    Raises
    ------
    UsageError, SourceMissing
        No source reads this scheme, or nothing is there. A file that is no Parquet raises SourceUnreadable when it is
        asked for.
    """
    found = [_below(uri, connection) for uri in uris]
    return ParquetFiles([opener for source, items in found for opener in _openers(source, items, dictionaries)])


def opened(source: Source, items: Sequence[LogObject]) -> ParquetFiles:
    """Pinned objects of a source; each is opened whenever it is asked for."""
    return ParquetFiles(_openers(source, items, ()))


def content(uri: str, connection: str | None = None) -> bytes:
    """One object of a bucket, whole.

    Raises
    ------
    SourceMissing, SourceUnreadable, SourceBusy
    """
    source, item = _object(uri, connection)
    return source.content(item)


def _openers(source: Source, items: Sequence[LogObject], dictionaries: Sequence[str]) -> list[partial[pq.ParquetFile]]:
    if not isinstance(source, Announced):  # asked once: to look a protocol up takes a while
        return [partial(source.open, item, dictionaries) for item in items]
    return [partial(_open, source, items, at, dictionaries) for at in range(len(items))]


def _open(source: Source, items: Sequence[LogObject], at: int, dictionaries: Sequence[str]) -> pq.ParquetFile:
    if isinstance(source, Announced):
        source.announce(items[at : at + _NEXT])
    return source.open(items[at], dictionaries)


def _below(uri: str, connection: str | None) -> tuple[Source, list[LogObject]]:
    """A source, and the Parquet files that `uri` stands for."""
    if uri.startswith("s3://"):
        from hindcast.sources.s3 import S3

        root = S3(uri, connection)
        items = root.below()
        if items:
            return root, items
        source, item = _object(uri, connection)
        return source, [item]
    path = Path(local_path(uri, connection))
    if not path.is_dir():
        if not path.is_file():
            message = f"{path}: no such Parquet file or folder of Parquet files"
            raise SourceMissing(message)
        folder = Folder(str(path.parent))
        return folder, [folder.named(path.name)]
    folder = Folder(str(path))
    items = folder.below()
    if not items:
        message = f"{path}: no such Parquet file or folder of Parquet files"
        raise SourceMissing(message)
    return folder, items


def _object(uri: str, connection: str | None) -> tuple[S3, LogObject]:
    from hindcast.s3 import split
    from hindcast.sources.s3 import S3

    bucket, key = split(uri)
    parent, _, name = key.rpartition("/")
    source = S3(f"s3://{bucket}/{parent}", connection)
    if not name:
        message = f"{uri}: no Parquet object lies there"
        raise SourceMissing(message)
    return source, source.named(name)
