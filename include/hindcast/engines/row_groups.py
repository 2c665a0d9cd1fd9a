"""Some row groups of an object as if they were all of it: what one of several tasks reads of a large one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    import pyarrow as pa
    import pyarrow.parquet as pq

    from hindcast.sources.base import LogObject, Manifest, Source


def first_row(source: Source, item: LogObject, groups: range | None) -> int:
    """How many rows of an object lie before some of its row groups."""
    if groups is None or not groups.start:
        return 0
    with source.open(item) as file:
        return sum(file.metadata.row_group(number).num_rows for number in range(groups.start))


class Groups:
    """A source whose objects have no row groups but these."""

    def __init__(self, source: Source, groups: range) -> None:
        self.uri, self._source, self._groups = source.uri, source, groups

    def manifest(self, start: datetime, end: datetime) -> Manifest:
        """Objects of the hours of ``[start, end)``."""
        return self._source.manifest(start, end)

    def open(self, item: LogObject, dictionaries: Sequence[str] = ()) -> pq.ParquetFile:
        """One object."""
        return _Part(self._source.open(item, dictionaries), self._groups)


class _Part:
    """The part of a Parquet file that `hindcast.profile.scan.Scanner.read` asks for, its row groups numbered anew."""

    def __init__(self, file: pq.ParquetFile, groups: range) -> None:
        self.schema, self.schema_arrow, self.num_row_groups = file.schema, file.schema_arrow, len(groups)
        self.metadata, self.num_rows = self, file.metadata.num_rows
        # each part unlike the last, as Scanner sees it: it has its schema looked up anew
        self._file, self._groups = file, groups

    def row_group(self, number: int) -> pq.RowGroupMetaData:
        return self._file.metadata.row_group(self._groups[number])

    def announce(self, numbers: Iterable[int], names: Iterable[str]) -> None:
        if hasattr(self._file, "announce"):
            self._file.announce([self._groups[number] for number in numbers], names)

    def read_row_group(self, number: int, **options: Any) -> pa.Table:
        return self._file.read_row_group(self._groups[number], **options)
