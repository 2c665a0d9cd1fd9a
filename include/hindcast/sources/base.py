"""What every source of logs and labels can do.

A window's objects are pinned once, in a manifest; whatever arrives later changes nothing until manifests are compared.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import datetime

    import pyarrow as pa
    import pyarrow.parquet as pq

GIGABYTE = 10**9
Layout = Literal["partitioned", "flat"]


@dataclass(frozen=True, order=True)
class LogObject:
    """One file, pinned: its name below the root, size in bytes, and what changes when its content does.

    In a bucket that last one is the ETag, and after an ``@`` the version's id where versions are kept. `arrived` is
    when it came, if the system tells; it says nothing about what the object is.
    """

    name: str
    size: int
    etag: str
    arrived: datetime | None = field(default=None, compare=False, kw_only=True)


@dataclass(frozen=True)
class Manifest:
    """The objects that may hold rows of a window, sorted by name."""

    layout: Layout
    objects: tuple[LogObject, ...]

    @property
    def bytes(self) -> int:
        """Size of all objects."""
        return sum(item.size for item in self.objects)

    @property
    def digest(self) -> str:
        """Changes when an object is added, removed or rewritten."""
        return hashlib.sha256(json.dumps([self.layout, self.to_json()]).encode()).hexdigest()[:16]

    def to_json(self) -> list[list[Any]]:
        """Name, size and etag per object."""
        return [[item.name, item.size, item.etag] for item in self.objects]


class Source(Protocol):
    """Parquet objects below a root, by time.

    Every method raises `SourceMissing` when the root is not there, `SourceUnreadable` when an object cannot be read,
    and `SourceBusy` when trying again makes sense.
    """

    uri: str

    def manifest(self, start: datetime, end: datetime) -> Manifest:
        """Objects of the hours of ``[start, end)``; in the flat layout, those flushed in it or at its end."""

    def open(self, item: LogObject, dictionaries: Sequence[str] = ()) -> pq.ParquetFile:
        """One object, its text columns `dictionaries` read as dictionaries."""


@runtime_checkable
class Marked(Protocol):
    """A source of files, beside which others may lie that say something about them."""

    def has(self, name: str) -> bool:
        """Whether anything lies under a name below the root, finished or not, empty or not."""


@runtime_checkable
class Announced(Protocol):
    """A source that is far away: what it is told of, it fetches ahead."""

    def announce(self, items: Iterable[LogObject]) -> None:
        """Say which objects will be opened, in this order."""


@runtime_checkable
class Streamed(Protocol):
    """A source whose objects are no files: their rows come as Arrow batches."""

    def schema(self) -> pa.Schema:
        """Every column that there is."""

    def batches(self, item: LogObject, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Some columns of one object."""

    def count(self, item: LogObject) -> int:
        """How many rows an object has."""
