"""Columns of Parquet files as numbers or as text, row group by row group."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
    Integers = np.ndarray[tuple[int, ...], np.dtype[np.int64]]
    Flags = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]

UNREADABLE = "(unreadable)"
# Below this many cells a row group is decoded in one call; above, column by column, so that memory stays bounded.
_CELLS_AT_ONCE = 1_000_000
# Stands for a column that cannot be read: no text, no numbers.
_NOTHING = pa.list_(pa.null())
# Microseconds per unit of each type that holds moments or durations; nanoseconds are divided.
_MICROSECONDS = {"s": 1e6, "ms": 1e3, "us": 1.0, "ns": 1.0}


def leaves(file: pq.ParquetFile) -> set[str]:
    """Names of the columns that are no struct or list: what can be read as a dictionary."""
    return {file.schema.column(i).path for i in range(len(file.schema))}


def open_parquet(source: Any, dictionaries: Sequence[str] = ()) -> pq.ParquetFile:
    """Open a file, its text columns `dictionaries` read as dictionaries; it may lack some of them.

    `ParquetFile` alone raises KeyError for a name in ``read_dictionary`` that the file has not.

    Raises
    ------
    pyarrow.ArrowException, OSError
        It is no Parquet, or cut short.
    """
    file = pq.ParquetFile(source, pre_buffer=False)
    try:
        present = list(leaves(file).intersection(dictionaries))
    except UnicodeDecodeError as error:
        message = f"a column's name is no UTF-8: {error}"
        raise pa.ArrowInvalid(message) from error
    if not present:
        return file
    return pq.ParquetFile(source, metadata=file.metadata, read_dictionary=present, pre_buffer=False)


def source_name(column: str, prefix: str) -> str:
    """Name that files have for a column of the log, where they have `prefix` instead of ``feature_``.

    Examples
    --------
    >>> source_name("feature_a", ""), source_name("score", "")
    ('a', 'score')
    """
    return prefix + column.removeprefix("feature_") if column.startswith("feature_") else column


class Block:
    """One row group; small ones are decoded at once, large ones column by column, so that memory stays bounded.

    Parameters
    ----------
    file : ParquetFile
    group : int
    names : list of str
        Columns that will be asked for; others may not be.
    """

    def __init__(self, file: pq.ParquetFile, group: int, names: list[str]) -> None:
        self.rows = file.metadata.row_group(group).num_rows
        self._file, self._group = file, group
        # a column that stands twice has no index
        self._readable = {name for name in names if file.schema_arrow.get_field_index(name) >= 0}
        self._table = None
        if self.rows * len(names) <= _CELLS_AT_ONCE:
            self._table = file.read_row_group(group, columns=list(self._readable), use_threads=False)

    def column(self, name: str) -> pa.Array:
        """One column; lists of nothing where it stands twice in the file, so that no value of it is known.

        Raises
        ------
        pyarrow.ArrowException, OSError
            The file is damaged.
        """
        if name not in self._readable:
            return pa.repeat(pa.scalar([], _NOTHING), self.rows)
        table = self._table
        if table is None:
            table = self._file.read_row_group(self._group, columns=[name], use_threads=False)
        chunks = table.column(name)
        values = chunks.chunk(0) if chunks.num_chunks == 1 else pa.concat_arrays(chunks.unify_dictionaries().chunks)
        # views can be neither filtered nor taken from
        return values.cast(pa.string()) if pa.types.is_string_view(values.type) else values


def is_text(kind: pa.DataType) -> bool:
    """Any of Arrow's three string types."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def type_name(kind: pa.DataType) -> str:
    """Type as found; how a writer lays out text is no change of type."""
    if kind == _NOTHING:
        return UNREADABLE
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return "string" if is_text(kind) else str(kind)


def buffer_values(array: pa.Array, dtype: Any) -> Any:
    """View the values of an array by its buffer (`to_numpy` may import pandas); behind nulls stands anything."""
    if not len(array):
        return np.empty(0, dtype)
    return np.frombuffer(array.buffers()[1], dtype, len(array), array.offset * np.dtype(dtype).itemsize)


def arrow(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """Arrow array of Python values: text, numbers, lists of either, or None.

    `pa.array` would do the same and import pandas, which costs as much as profiling 100,000 rows.

    Examples
    --------
    >>> arrow([[1, 2], None], pa.list_(pa.int64())).to_pylist(), arrow(("a", "é"), pa.string()).to_pylist()
    ([[1, 2], None], ['a', 'é'])
    """
    present = np.array([value is not None for value in values], np.bool_)
    validity = None if present.all() else pa.py_buffer(np.packbits(present, bitorder="little"))
    if not (pa.types.is_list(kind) or pa.types.is_string(kind)):
        numeric = np.array([0 if value is None else value for value in values], kind.to_pandas_dtype())
        return pa.Array.from_buffers(kind, len(values), [validity, pa.py_buffer(numeric)])
    parts = [value.encode() if isinstance(value, str) else value or () for value in values]
    offsets = pa.py_buffer(np.cumsum([0, *map(len, parts)], dtype=np.int32))
    if pa.types.is_string(kind):
        content = pa.py_buffer(b"".join(part for part in parts if part))
        return pa.Array.from_buffers(kind, len(values), [validity, offsets, content])
    items = arrow([item for part in parts for item in part], kind.value_type)
    return pa.Array.from_buffers(kind, len(values), [validity, offsets], children=[items])


def positions(rows: Integers) -> pa.Array:
    """Make an Arrow array of int64 (row numbers for `take`), without the import that `arrow` avoids too."""
    return pa.Array.from_buffers(pa.int64(), rows.size, [None, pa.py_buffer(rows)])


def flags(values: Flags, absent: Flags | None = None) -> pa.Array:
    """Make an Arrow array of booleans, null where `absent`."""
    packed = pa.py_buffer(np.packbits(values, bitorder="little"))
    validity = None if absent is None else pa.py_buffer(np.packbits(~absent, bitorder="little"))
    return pa.Array.from_buffers(pa.bool_(), values.size, [validity, packed])


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def common_type(first: pa.DataType, second: pa.DataType) -> pa.DataType:
    """Type for values of both: float64 for two kinds of numbers, text for anything else that differs.

    Examples
    --------
    >>> common_type(pa.int8(), pa.float32()), common_type(pa.null(), pa.int8()), common_type(pa.bool_(), pa.int8())
    (DataType(double), DataType(int8), DataType(string))
    """
    if first == second or pa.types.is_null(second):
        return first
    if pa.types.is_null(first):
        return second
    return pa.float64() if _is_number(first) and _is_number(second) else pa.string()


def conformed(values: pa.Array, kind: pa.DataType) -> pa.Array:
    """Values in a type that `common_type` chose; null where they have no text form."""
    if values.type == kind:
        return values
    if pa.types.is_null(values.type):
        return pa.nulls(len(values), kind)
    if pa.types.is_floating(kind):
        return values.cast(kind, safe=False)
    converted = as_text(values)
    return pa.nulls(len(values), kind) if converted is None else converted


def _bits(buffer: pa.Buffer, offset: int, n: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    raw = np.frombuffer(buffer, np.uint8, (offset % 8 + n + 7) // 8, offset // 8)
    return np.unpackbits(raw, count=offset % 8 + n, bitorder="little")[offset % 8 :]


def nulls(values: pa.Array) -> Flags | None:
    """Which values are null, (n,); None where none is. Not for dictionaries, unions and the null type.

    Examples
    --------
    >>> nulls(pa.array([1, None, 3])[1:]).tolist()
    [True, False]
    """
    if not values.null_count:
        return None
    absent: Flags = _bits(values.buffers()[0], values.offset, len(values)) == 0
    return absent


def numbers(values: pa.Array) -> Any:
    """Values as numbers, (n,), anything behind nulls; None where the type holds none.

    Moments and durations are in microseconds, whatever the unit of the file, so that profiles of both compare.

    Examples
    --------
    >>> numbers(pa.array([2], pa.timestamp("s"))).tolist(), numbers(pa.array([True])).tolist(), numbers(pa.array(["1"]))
    ([2000000.0], [1], None)
    """
    kind = values.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return buffer_values(values, kind.to_pandas_dtype())
    if pa.types.is_boolean(kind):
        return _bits(values.buffers()[1], values.offset, len(values)) if len(values) else np.empty(0, np.uint8)
    if pa.types.is_decimal(kind):
        # by way of text: the direct cast makes 2.0100000000000002 of 2.01
        return buffer_values(values.cast(pa.string()).cast(pa.float64()), np.float64)
    if not pa.types.is_temporal(kind) or pa.types.is_interval(kind):
        return None
    raw = buffer_values(values, np.int32 if kind.bit_width == 32 else np.int64)
    if pa.types.is_date(kind):
        return raw * (86_400e6 if kind.bit_width == 32 else 1e3)
    return (raw // 1000 if kind.unit == "ns" else raw) * _MICROSECONDS[kind.unit]


def floats(values: pa.Array) -> Floats | None:
    """Non-null values as float64; None where the type holds no numbers.

    Examples
    --------
    >>> floats(pa.array([1, None, 3])).tolist(), floats(pa.array([0.5], pa.float32())).tolist(), floats(pa.array(["1"]))
    ([1.0, 3.0], [0.5], None)
    """
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    found = numbers(values)
    if found is None:
        return None
    absent = nulls(values)
    kept: Floats = (found if absent is None else found[~absent]).astype(np.float64)
    return kept


def texts(values: pa.Array) -> tuple[pa.Array, Integers] | None:
    """Non-null values as text, with how often each occurs; None where the type has no text form.

    A value may stand twice, if it does in the dictionary of the column. A whole number reads the same whether it was
    logged as an integer or a float.

    Examples
    --------
    >>> values, rows = texts(pa.array([2.0, 1.0, 2.0, None]))
    >>> values.to_pylist(), rows.tolist()
    (['2', '1'], [2, 1])
    """
    if pa.types.is_null(values.type):
        return arrow((), pa.string()), np.empty(0, np.int64)
    if not pa.types.is_dictionary(values.type):
        if pa.types.is_nested(values.type):
            return None
        values = values.dictionary_encode()
    names = as_text(values.dictionary)
    if names is None:
        return None
    absent = nulls(values.indices)
    codes = buffer_values(values.indices, values.indices.type.to_pandas_dtype())
    rows = np.bincount(codes if absent is None else codes[~absent], minlength=len(names)).astype(np.int64)
    if rows.size > len(names):
        message = "a dictionary has fewer values than its codes say"
        raise pa.ArrowInvalid(message)
    absent = nulls(names)
    if absent is not None:
        names, rows = names.drop_null(), rows[~absent]
    return names, rows


def as_text(values: pa.Array) -> pa.Array | None:
    """Values as strings, whole floats without a fraction, broken UTF-8 mended; None where the type has no text form.

    Examples
    --------
    >>> as_text(pa.array([1.0, 2.5, None])).to_pylist(), as_text(pa.array([[1]]))
    (['1', '2.5', None], None)
    """
    kind = values.type
    if pa.types.is_floating(kind):
        values = values.cast(pa.float64())
        raw = np.nan_to_num(buffer_values(values, np.float64), nan=0.5, posinf=0.5, neginf=0.5)
        whole = (raw == np.floor(raw)) & (np.abs(raw) < 2.0**63)
        integers = positions(np.where(whole, raw, 0).astype(np.int64)).cast(pa.string())
        # the mask is null where the value is, so that the text is too
        return pc.if_else(flags(whole, nulls(values)), integers, values.cast(pa.string()))
    if pa.types.is_nested(kind):
        return None
    try:
        values = values.cast(pa.string())
        values.validate(full=True)
    except pa.ArrowNotImplementedError:
        return None
    except pa.ArrowInvalid:
        return mended(values) if is_text(kind) else None
    return values


def mended(values: pa.Array) -> pa.Array:
    """Text whose bytes are no UTF-8, with those replaced by U+FFFD."""
    raw = values.cast(pa.large_binary()).to_pylist()
    return arrow([None if text is None else text.decode("utf-8", "replace") for text in raw], pa.string())


def blocks(file: pq.ParquetFile, column: str) -> Iterator[pa.Array]:
    """One column of a file, row group by row group."""
    for group in range(file.num_row_groups):
        if file.metadata.row_group(group).num_rows:
            yield Block(file, group, [column]).column(column)
