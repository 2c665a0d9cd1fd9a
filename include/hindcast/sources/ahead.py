"""Reading ahead of a reader, in parallel and in bounded memory: for objects that are far away.

Whoever reads announces what comes, in the order in which it will ask; `Ahead` has it fetched meanwhile. What was never
announced is fetched when it is asked for.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import Counter, OrderedDict
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import pyarrow.parquet as pq

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from concurrent.futures import Future

K = TypeVar("K")
Range = tuple[int, int]
Content = bytes | bytearray
# What was asked for, if a thread does it, and its size.
_Started = tuple["Future[Content] | None", int]

# Bytes of one request; and how many bytes, and requests, may have been fetched before anybody asked for them.
PART, MOST_BYTES, MOST_STARTED = 4 << 20, 32 << 20, 64
# Two ranges this near to each other are fetched by one request.
_GAP = 1 << 16


class Ahead(Generic[K]):
    """Fetches what was announced, in its order, at most so much before it is asked for; any thread may ask.

    Parameters
    ----------
    fetch : callable
        Key -> content. Called in threads.
    submit : callable
        Of an executor.
    most : int
        Bytes that may lie here, or be under way, before they are asked for; one key's content may be more.

    Examples
    --------
    >>> from concurrent.futures import ThreadPoolExecutor
    >>> with ThreadPoolExecutor(2) as pool:
    ...     ahead = Ahead(lambda key: key.encode(), pool.submit)
    ...     ahead.announce([("a", 1), ("b", 1)])
    ...     ahead.take(["b", "a", "never announced"])
    [b'b', b'a', b'never announced']
    """

    def __init__(
        self, fetch: Callable[[K], Content], submit: Callable[..., Future[Content]], most: int = MOST_BYTES
    ) -> None:
        self._fetch, self._submit, self._most = fetch, submit, most
        self._waiting: OrderedDict[K, int] = OrderedDict()
        self._started: dict[K, _Started] = {}
        self._held = 0
        self._lock = threading.Lock()

    def announce(self, sized: Iterable[tuple[K, int]]) -> None:
        """Say what will be asked for, with its size; what was announced before and was not asked for is dropped."""
        with self._lock:
            coming = OrderedDict(sized)
            for key in [key for key in self._started if key not in coming]:
                future, size = self._started.pop(key)
                self._held -= size
                if future:
                    future.cancel()
            self._waiting = OrderedDict((key, size) for key, size in coming.items() if key not in self._started)
            self._fill()

    def take(self, keys: Sequence[K]) -> list[Content]:
        """Content of some keys, which is forgotten here.

        Raises
        ------
        Exception
            Whatever `fetch` raised.
        """
        with self._lock:
            taken = [self._start(key, alone=len(keys) == 1) for key in keys]
        try:
            return [
                future.result() if future else self._fetch(key) for key, (future, _) in zip(keys, taken, strict=True)
            ]
        finally:
            with self._lock:
                self._held -= sum(size for _, size in taken)
                self._fill()

    def _start(self, key: K, *, alone: bool) -> _Started:
        """Fetch one key now, unless it was: in a thread if there are others, else in the caller's own."""
        started = self._started.pop(key, None)
        if started:
            return started
        size = self._waiting.pop(key, 0)
        self._held += size
        return (None if alone else self._submit(self._fetch, key)), size

    def _fill(self) -> None:
        while self._waiting and self._held < self._most and len(self._started) < MOST_STARTED:
            key, size = self._waiting.popitem(last=False)
            self._held += size
            self._started[key] = self._submit(self._fetch, key), size


class RangedFile:
    """A file of which only ranges are fetched: what `pyarrow.PythonFile` reads from.

    Parameters
    ----------
    size : int
    fetch : callable
        ``(start, stop)`` -> those bytes.
    submit : callable
        Of an executor.
    """

    closed = False

    def __init__(self, size: int, fetch: Callable[[int, int], Content], submit: Callable[..., Future[Content]]) -> None:
        self._size, self._at = size, 0
        self._ahead: Ahead[Range] = Ahead(lambda part: fetch(*part), submit)
        self._parts: list[Range] = []
        # parts that several reads share: how many are still to come, and the content once it is here
        self._uses: Counter[Range] = Counter()
        self._shared: dict[Range, Content] = {}

    def announce(self, ranges: Sequence[Range]) -> None:
        """Say which ranges will be read, whole, in this order."""
        parts = list(_parts(ranges))
        self._uses = Counter()
        self._parts = sorted(set(parts))
        self._shared.clear()
        for start, stop in ranges:
            self._uses.update(self._covering(start, stop))
        self._ahead.announce((part, part[1] - part[0]) for part in parts)

    def read(self, size: int = -1) -> bytes | memoryview:
        """Bytes from where the file stands."""
        start = self._at
        stop = self._size if size < 0 else min(self._size, start + size)
        self._at = stop
        if start >= stop:
            return b""
        parts = self._covering(start, stop)
        if not parts or not all(part in self._uses for part in parts):  # nobody said so, or it was read before
            parts = list(_pieces(start, stop))
        wanted = [part for part in parts if part not in self._shared]
        self._shared.update(zip(wanted, self._ahead.take(wanted), strict=True))
        content = [memoryview(self._shared[part]) for part in parts]
        for part in parts:
            self._uses[part] -= 1
            if self._uses[part] <= 0:
                del self._shared[part], self._uses[part]
        joined = content[0] if len(content) == 1 else memoryview(b"".join(content))
        return joined[start - parts[0][0] : stop - parts[0][0]]

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move, as `io.IOBase.seek` does."""
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def tell(self) -> int:
        """Where the file stands."""
        return self._at

    def seekable(self) -> bool:
        """Whether it can move."""
        return True

    def readable(self) -> bool:
        """Whether it can be read."""
        return True

    def close(self) -> None:
        """Forget everything."""
        self._ahead.announce(())
        self._shared.clear()

    def _covering(self, start: int, stop: int) -> list[Range]:
        """Announced parts that hold a range between them, or none."""
        at = bisect_right(self._parts, (start, self._size + 1)) - 1
        found: list[Range] = []
        while start < stop and 0 <= at < len(self._parts):
            first, last = self._parts[at]
            if not (first == start or (first < start < last and not found)):  # a gap, or parts that overlap
                return []
            found.append((first, last))
            start, at = last, at + 1
        return found if start >= stop else []


def _parts(ranges: Iterable[Range]) -> Iterator[Range]:
    """Requests for ranges: neighbours together, large ones in pieces.

    Examples
    --------
    >>> list(_parts([(0, 10), (10, 20), (9_000_000, 9_000_001)])), len(list(_parts([(0, 2 * PART + 1)])))
    ([(0, 20), (9000000, 9000001)], 3)
    """
    first, last = 0, 0
    for start, stop in ranges:
        if first < last <= start <= last + _GAP and stop - first <= PART:
            last = stop
            continue
        yield from _pieces(first, last)
        first, last = start, stop
    yield from _pieces(first, last)


def _pieces(start: int, stop: int) -> Iterator[Range]:
    return ((at, min(at + PART, stop)) for at in range(start, stop, PART))


def chunk_ranges(file: pq.ParquetFile, groups: Iterable[int], names: Iterable[str]) -> list[Range]:
    """Where the columns `names` of some row groups lie in a file, group by group, in the order of the names."""
    schema = file.schema
    paths = [schema.column(at).path for at in range(len(schema))]
    wanted = [at for name in names for at, path in enumerate(paths) if path == name or path.startswith(f"{name}.")]
    found = []
    for group in groups:
        meta = file.metadata.row_group(group)
        for chunk in map(meta.column, wanted):
            starts = [chunk.data_page_offset, chunk.dictionary_page_offset]
            start = min(offset for offset in starts if offset)
            found.append((start, start + chunk.total_compressed_size))
    return found


class RangedParquet(pq.ParquetFile):  # type: ignore[misc] # pyarrow has no types
    """A `pyarrow.parquet.ParquetFile` whose reader may say what it will read: `hindcast.profile.columns.row_groups`."""

    def __init__(self, source: RangedFile, **options: Any) -> None:
        super().__init__(source, **options)
        self._ranged = source

    def announce(self, groups: Iterable[int], names: Iterable[str]) -> None:
        """Columns of row groups that will be read, group by group."""
        self._ranged.announce(chunk_ranges(self, groups, names))
