"""Python's values as Arrow arrays, by their buffers.

``pa.array`` of a list imports pandas, wherever that is installed: seconds of a serving process's time, in the middle of
a request or at its exit. What is made here needs no pandas, and is as fast.
"""

from __future__ import annotations

import json
import struct
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from hindcast.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

MOMENT = pa.timestamp("us", "UTC")
_FLOAT, _TEXT = pa.float64(), pa.string()
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NUMBERS = (int, float, Decimal, np.number, np.bool_)
# Arrow counts the bytes of a text column in 32 bits.
_MOST_BYTES = 2**31 - 1


def floats(values: Sequence[Any]) -> pa.Array:
    """Numbers as floats; null where None.

    Raises
    ------
    TypeError
        One is no number, or beyond all floats.

    Examples
    --------
    >>> floats([1.5, None, 2]).to_pylist()
    [1.5, None, 2.0]
    """
    try:
        return _array(_FLOAT, None, _packed("d", values))
    except TypeError:
        return _array(_FLOAT, _present(values), _packed("d", [0.0 if value is None else value for value in values]))


def _packed(code: str, values: Sequence[Any]) -> Any:
    """Numbers in 8 bytes each; `struct` takes a quarter of the time of `array` and of numpy."""
    try:
        return np.frombuffer(struct.pack(f"{len(values)}{code}", *values), code)
    except struct.error as error:
        raise TypeError(*error.args) from error


def texts(values: Sequence[Any]) -> pa.Array:
    """Text as it stands; null where None.

    Raises
    ------
    TypeError, ValueError
        One is no text, or cannot be written in UTF-8.

    Examples
    --------
    >>> texts(["a", None, "ü"]).to_pylist()
    ['a', None, 'ü']
    """
    present = None
    try:
        whole = "\0".join(values).encode()
    except TypeError:
        present = _present(values)
        values = ["" if value is None else value for value in values]
        whole = "\0".join(values).encode()
    if len(whole) > _MOST_BYTES:
        message = f"{len(whole):,} bytes of text in {len(values):,} values"
        raise ValueError(message)
    ends = np.zeros(len(values) + 1, np.int32)
    between = np.flatnonzero(np.frombuffer(whole, np.uint8) == 0)
    if len(between) == len(values) - 1:  # cheaper than the length of each
        ends[1:-1], ends[-1] = between - np.arange(len(between)), len(whole) - len(between)
        return _array(_TEXT, present, ends, whole.replace(b"\0", b""))
    parts = [value.encode() for value in values]  # some hold zeros themselves
    ends[1:] = np.cumsum([len(part) for part in parts])
    return _array(_TEXT, present, ends, b"".join(parts))


def constant(value: str, rows: int) -> pa.Array:
    """The same text in every row."""
    codes = pa.Array.from_buffers(pa.int32(), rows, [None, pa.py_buffer(np.zeros(rows, np.int32))])
    return pa.DictionaryArray.from_arrays(codes, texts([value])).dictionary_decode()


def moments(nanoseconds: Sequence[int]) -> pa.Array:
    """Nanoseconds since 1970 as moments, of which microseconds are kept."""
    micros = _packed("q", nanoseconds) // 1000
    return pa.Array.from_buffers(MOMENT, len(micros), [None, pa.py_buffer(micros)])


def nanoseconds(moment: object) -> int:
    """Nanoseconds since 1970 of a datetime (without a zone: UTC), a date, numpy's, or of such a number.

    Raises
    ------
    UsageError
        It is neither.

    Examples
    --------
    >>> nanoseconds(datetime(1970, 1, 1, 1)), nanoseconds(5)
    (3600000000000, 5)
    """
    if isinstance(moment, int | np.integer) and not isinstance(moment, bool):
        return int(moment)
    if isinstance(moment, np.datetime64):
        moment = moment.astype("datetime64[us]").item()
    if isinstance(moment, date) and not isinstance(moment, datetime):
        moment = datetime(moment.year, moment.month, moment.day, tzinfo=UTC)
    if isinstance(moment, datetime) and moment == moment:  # noqa: PLR0124 - pandas' NaT is a datetime, and not itself
        aware = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
        return (aware - _EPOCH) // timedelta(microseconds=1) * 1000
    message = f"a timestamp is a datetime, or nanoseconds since 1970 as time.time_ns() gives; got {moment!r}"
    raise UsageError(message)


def inferred(values: Sequence[Any]) -> pa.Array:
    """Values in the type that they have: float where numbers differ in kind, text where nothing else holds them all.

    Examples
    --------
    >>> for some in ([1, 2], [1, 2.5], [True, None], ["a", 2], [None], [date(2024, 3, 4)]):
    ...     print(inferred(some).type, end=" ")
    int64 double bool string null timestamp[us, tz=UTC]
    """
    kinds = set(map(type, values)) - {type(None)}
    if not kinds:
        return pa.nulls(len(values))
    try:
        if all(issubclass(kind, _NUMBERS) for kind in kinds):
            return _numbers(values, kinds)
        if all(issubclass(kind, str) for kind in kinds):
            return texts(values)
        if all(issubclass(kind, date) for kind in kinds):
            micros = [0 if value is None else nanoseconds(value) // 1000 for value in values]
            return _array(MOMENT, _present(values), _packed("q", micros))
    except (TypeError, ValueError):  # surrogates, or a number beyond all floats
        pass
    return as_text(values)


def _numbers(values: Sequence[Any], kinds: set[type]) -> pa.Array:
    if all(issubclass(kind, bool | np.bool_) for kind in kinds):
        bits = np.packbits(np.array([bool(value) for value in values]), bitorder="little")
        return _array(pa.bool_(), _present(values), bits)
    if all(issubclass(kind, int | np.integer) and kind is not bool for kind in kinds):
        try:
            return _array(pa.int64(), _present(values), _packed("q", [0 if v is None else v for v in values]))
        except TypeError:  # beyond 64 bits: as floats
            pass
    return floats(values)


def as_text(values: Sequence[Any]) -> pa.Array:
    """Whatever it is as text; null where None or NaN.

    Examples
    --------
    >>> as_text([1, [1, 2], b"x", float("nan")]).to_pylist()
    ['1', '[1, 2]', 'x', None]
    """
    return texts([_text(value) for value in values])


def _text(value: Any) -> str | None:
    if value is None or (isinstance(value, float) and value != value):  # noqa: PLR0124 - what NaN is
        return None
    if isinstance(value, dict | list | tuple):
        value = json.dumps(value, default=str)
    if isinstance(value, bytes | bytearray):
        return value.decode(errors="replace")
    return str(value).encode("utf-8", "replace").decode()


def _present(values: Sequence[Any]) -> Any:
    return np.fromiter((value is not None for value in values), np.bool_, len(values))


def _array(kind: pa.DataType, present: Any, *buffers: Any) -> pa.Array:
    """An array of its buffers, null where not `present`."""
    valid = None if present is None or present.all() else pa.py_buffer(np.packbits(present, bitorder="little"))
    rows = len(buffers[0]) - (kind is _TEXT) if present is None else len(present)
    return pa.Array.from_buffers(kind, rows, [valid, *map(pa.py_buffer, buffers)])
