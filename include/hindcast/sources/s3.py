"""Logs in a bucket: the same two layouts as in a folder, below ``s3://bucket/prefix``.

Listed are only the hours that are asked for, never the bucket. An object is pinned by key and ETag, and by its version
where the bucket keeps versions, and every range of it is asked for under that pin: what was overwritten meanwhile is
noticed, never mixed in. See `docs/sources.md` for permissions, and `docs/adr/0010-pinned-ranges.md` for why pyarrow's
own S3 client does not read them.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from itertools import groupby
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from hindcast import s3
from hindcast.connections import Connection, connection
from hindcast.errors import SourceMissing, SourceUnreadable
from hindcast.profile.columns import open_parquet
from hindcast.sources.ahead import PART, Ahead, RangedFile, RangedParquet
from hindcast.sources.base import LogObject, Manifest
from hindcast.sources.folder import finished, flush_time
from hindcast.window import hours

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import pyarrow.parquet as pq

# An object up to this size is fetched whole, in one request; of a larger one only the columns that are read.
WHOLE = 4 << 20
THREADS = 8
# A body may take the read time-out, and a second for so many bytes.
_SLOWEST = 1 << 18
_PIECE = 1 << 18
# A name may tell its moment in any zone.
_ZONES = timedelta(hours=14)
_NOT_TOLD = {403, 404, 405, 501}


class S3:
    """Source for ``s3://bucket/prefix``.

    Parameters
    ----------
    uri : str
    connection_id : str, optional
        Airflow Connection; without one, the credentials of the environment. See `hindcast.s3.client`.

    Raises
    ------
    UsageError
        The URI names no bucket, or the Connection does not exist.

    Examples
    --------
    >>> S3("s3://logs/churn/").uri
    's3://logs/churn'
    """

    def __init__(self, uri: str, connection_id: str | None = None) -> None:
        self._open(uri, connection(connection_id) if connection_id else Connection(""))

    def _open(self, uri: str, given: Connection) -> None:
        self.bucket, prefix = s3.split(uri)
        self.uri = f"s3://{self.bucket}/{prefix}".rstrip("/")
        self._root = f"{prefix}/" if prefix else ""
        self._given = given
        self._partitioned = False
        self._versions: bool | None = None
        self._small: Ahead[LogObject] = Ahead(self._whole, _submit)

    def __getstate__(self) -> tuple[str, Connection]:
        # an executor has neither our sockets and threads, nor Airflow's Connections
        return self.uri, self._given

    def __setstate__(self, state: tuple[str, Connection]) -> None:
        self._open(*state)

    # --- listing ---

    def manifest(self, start: datetime, end: datetime) -> Manifest:
        """Objects of the hours of ``[start, end)``.

        Raises
        ------
        SourceMissing, SourceUnreadable, SourceBusy
        """
        if self._is_partitioned():
            return Manifest("partitioned", tuple(sorted(self._of_hours(start, end))))
        return Manifest("flat", tuple(sorted(self._flushed(start, end))))

    def below(self) -> list[LogObject]:
        """Every Parquet object below the root, sorted by name."""
        return sorted(item for item in self._listed() if _readable(item.name))

    def named(self, name: str) -> LogObject:
        """One object below the root.

        Raises
        ------
        SourceMissing
            It is not there.
        """
        found = next(self._listed(name), None)
        if found is None or found.name != name:
            message = f"{self.uri}/{name}: no such object"
            raise SourceMissing(message)
        return found

    def has(self, name: str) -> bool:
        """Whether an object lies under a name below the root."""
        found = next(self._listed(name), None)
        return found is not None and found.name == name

    def _is_partitioned(self) -> bool:
        """Whether there is any ``date=*`` folder; once there is, there always is."""
        if not self._partitioned:
            some = self._page(Prefix=f"{self._root}date=", Delimiter="/", MaxKeys=10)
            self._partitioned = bool(some.get("CommonPrefixes"))
            if not self._partitioned and self._root and not self._page(Prefix=self._root, MaxKeys=1).get("Contents"):
                message = f"{self.uri}: nothing lies there; the model file's logs, labels or reference point there"
                raise SourceMissing(message)
        return self._partitioned

    def _of_hours(self, start: datetime, end: datetime) -> Iterator[LogObject]:
        """Day by day: one listing from the first hour on to the last."""
        folders = [(f"date={w.start:%Y-%m-%d}", f"hour={w.start:%H}/") for w in hours(start, end)]
        days = [(day, [hour for _, hour in each]) for day, each in groupby(folders, key=lambda folder: folder[0])]
        for found in _pool(os.getpid()).map(lambda day: list(self._of_day(*day)), days):
            yield from found

    def _of_day(self, day: str, names: Sequence[str]) -> Iterator[LogObject]:
        if len(names) == 1:
            found = self._listed(f"{day}/{names[0]}")
        else:
            found = self._listed(f"{day}/hour=", after=f"{day}/{names[0]}")
        wanted = {f"{day}/{name}" for name in names}
        for item in found:
            if item.name > f"{day}/{names[-1]}\U0010ffff":
                return
            folder, slash, name = item.name.rpartition("/")
            if folder + slash in wanted and _readable(name):
                yield item

    def _flushed(self, start: datetime, end: datetime) -> Iterator[LogObject]:
        """Objects named by a moment of ``[start, end]``: the days that it can be, in any zone and both spellings."""
        first, last = (start.astimezone(UTC) - _ZONES), (end.astimezone(UTC) + _ZONES)
        spelled = [(f"{first:%Y-%m-%d}", f"{last:%Y-%m-%d}"), (f"{first:%Y%m%d}", f"{last:%Y%m%d}")]
        for found in _pool(os.getpid()).map(lambda days: list(self._of_days(*days)), spelled):
            for item in found:
                moment = flush_time(item.name.removesuffix(".parquet"))
                if moment and start <= moment <= end:
                    yield item

    def _of_days(self, first: str, last: str) -> Iterator[LogObject]:
        for item in self._listed(os.path.commonprefix([first, last]), after=first):  # noqa: RUF071 - of letters
            if item.name[: len(last)] > last:
                return
            dashed = item.name[4:5] == "-"  # over years, one spelling lies between days of the other
            if "/" not in item.name and _readable(item.name) and dashed == ("-" in first):
                yield item

    def _listed(self, prefix: str = "", *, after: str = "") -> Iterator[LogObject]:
        """Objects below a prefix, by name, from `after` on; a page is fetched when it is asked for."""
        versions = self._keeps_versions()
        arguments: dict[str, Any] = {"Prefix": self._root + prefix}
        if after:
            arguments["KeyMarker" if versions else "StartAfter"] = self._root + after
        while True:
            page = self._page(versions=versions, **arguments)
            for entry in page.get("Versions" if versions else "Contents", ()):
                if entry.get("IsLatest", True):
                    etag = entry["ETag"].strip('"')
                    pin = f"{etag}@{entry['VersionId']}" if versions else etag
                    yield LogObject(entry["Key"][len(self._root) :], entry["Size"], pin, arrived=entry["LastModified"])
            if not page.get("IsTruncated"):
                return
            if versions:
                arguments |= {"KeyMarker": page["NextKeyMarker"], "VersionIdMarker": page["NextVersionIdMarker"]}
            else:
                arguments["ContinuationToken"] = page["NextContinuationToken"]

    def _page(self, *, versions: bool = False, **arguments: Any) -> dict[str, Any]:
        function = self._client.list_object_versions if versions else self._client.list_objects_v2
        permission = f"s3:ListBucket{'Versions' if versions else ''} on arn:aws:s3:::{self.bucket}"
        return s3.call(self._given, self.uri, permission, function, Bucket=self.bucket, **arguments)

    def _keeps_versions(self) -> bool:
        """Whether the bucket does, as far as this account may know: if it may not, ETags alone pin the objects."""
        if self._versions is None:
            from botocore.exceptions import ClientError

            def asked() -> bool:
                try:
                    answer = self._client.get_bucket_versioning(Bucket=self.bucket)
                except ClientError as error:
                    if s3.answered(error)[0] in _NOT_TOLD and s3.answered(error)[1] != "NoSuchBucket":
                        return False
                    raise
                return bool(answer.get("Status") == "Enabled")

            needed = f"s3:GetBucketVersioning on arn:aws:s3:::{self.bucket}"
            self._versions = s3.call(self._given, self.uri, needed, asked)
        return self._versions

    # --- reading ---

    def announce(self, items: Iterable[LogObject]) -> None:
        """Say which objects will be opened, in this order: the small ones are fetched ahead."""
        self._small.announce((item, item.size) for item in items if item.size <= WHOLE)

    def open(self, item: LogObject, dictionaries: Sequence[str] = ()) -> pq.ParquetFile:
        """One object, as it was pinned.

        Raises
        ------
        SourceUnreadable
            No Parquet, cut short, gone, overwritten, or forbidden. Of a large object this, or `SourceBusy`, may be
            raised by what reads from it, too.
        SourceBusy
        """
        try:
            if item.size <= WHOLE:
                (content,) = self._small.take([item])
                return open_parquet(pa.BufferReader(content), dictionaries)
            ranged = RangedFile(item.size, partial(self._range, item), _submit)
            return open_parquet(ranged, dictionaries, kind=RangedParquet)
        except (OSError, pa.ArrowException) as error:
            message = f"{self.uri}/{item.name}: is no readable Parquet file: {error}"
            raise SourceUnreadable(message) from error

    def content(self, item: LogObject) -> bytes:
        """One object, whole."""
        if not item.size:
            return b""
        ranges = [(at, min(at + PART, item.size)) for at in range(0, item.size, PART)]
        return b"".join(_pool(os.getpid()).map(lambda part: self._range(item, *part), ranges))

    def _whole(self, item: LogObject) -> bytearray:
        return self._range(item, 0, item.size)

    def _range(self, item: LogObject, start: int, stop: int) -> bytearray:
        uri = f"{self.uri}/{item.name}"
        version = "Version" if "@" in item.etag else ""
        needed = f"s3:GetObject{version} on arn:aws:s3:::{self.bucket}/{self._root}{item.name}"
        return s3.call(self._given, uri, needed, self._once, item=item, start=start, stop=stop)

    def _once(self, item: LogObject, start: int, stop: int) -> bytearray:
        """Ask once for a range of the pinned object."""
        from botocore.exceptions import ClientError

        etag, _, version = item.etag.partition("@")
        arguments = {"Bucket": self.bucket, "Key": self._root + item.name, "IfMatch": f'"{etag}"'}
        if version:
            arguments["VersionId"] = version
        if (start, stop) != (0, item.size):
            arguments["Range"] = f"bytes={start}-{stop - 1}"
        try:
            answer = self._client.get_object(**arguments)
        except ClientError as error:
            status, code = s3.answered(error)
            if status == 412:
                raise self._changed(item, "was overwritten") from error
            if status == 404 and code != "NoSuchBucket":
                raise self._changed(item, "is gone") from error
            raise
        if answer["ETag"].strip('"') != etag:  # a server that does not know If-Match
            answer["Body"].close()
            raise self._changed(item, "was overwritten")
        seconds = self._client.meta.config.read_timeout + (stop - start) / _SLOWEST
        return _body(answer["Body"], stop - start, time.monotonic() + seconds)

    def _changed(self, item: LogObject, how: str) -> SourceUnreadable:
        return SourceUnreadable(f"{self.uri}/{item.name}: {how} since the window's objects were pinned; check it again")

    @property
    def _client(self) -> Any:
        return s3.client(self._given)


def _body(body: Any, size: int, deadline: float) -> bytearray:
    """The bytes of an answer, which must be `size`, and here by the deadline.

    Raises
    ------
    Interrupted
    """
    # `body.read` waits until it has all that it was asked for, however slowly it comes
    stream, content, got = body._raw_stream, bytearray(size), 0  # noqa: SLF001 - what comes as it comes is below
    try:
        while got < size and (piece := stream.read1(min(_PIECE, size - got))):
            content[got : got + len(piece)] = piece
            got += len(piece)
            if time.monotonic() > deadline:
                break
    except BaseException:
        body.close()
        raise
    if got < size:
        body.close()  # half read, the connection is of no use
        message = f"its body broke off, or came too slowly: {got} of {size} bytes"
        raise s3.Interrupted(message)
    stream.release_conn()
    return content


def _readable(name: str) -> bool:
    """Whether an object is one to read."""
    last = name.rpartition("/")[2]
    return last.endswith(".parquet") and finished(last)


@cache
def _pool(pid: int) -> ThreadPoolExecutor:  # noqa: ARG001 - a fork has none of its parent's threads
    return ThreadPoolExecutor(THREADS, thread_name_prefix="hindcast-s3")


def _submit(function: Any, *arguments: Any) -> Any:
    return _pool(os.getpid()).submit(function, *arguments)
