"""Columns of Parquet files as numbers or as text, row group by row group."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
    Integers = np.ndarray[tuple[int, ...], np.dtype[np.int64]]
    Flags = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]

UNREADABLE = "(unreadable)"
# Below this many cells a row group is decoded in one call; above, column by column, so that memory stays bounded.
_CELLS_AT_ONCE = 1_000_000
SMALL_FILE = 16_384  # rows
# Stands for a column that cannot be read: no text, no numbers.
_NOTHING = pa.list_(pa.null())
# Microseconds per unit of each type that holds moments or durations; nanoseconds are divided.
_MICROSECONDS = {"s": 1e6, "ms": 1e3, "us": 1.0, "ns": 1.0}


def leaves(file: pq.ParquetFile) -> set[str]:
    """Names of the columns that are no struct or list: what can be read as a dictionary."""
    return {file.schema.column(i).path for i in range(len(file.schema))}


def open_parquet(
    source: Any, dictionaries: Sequence[str] = (), *, kind: type[pq.ParquetFile] = pq.ParquetFile
) -> pq.ParquetFile:
    """Open a file, its text columns `dictionaries` read as dictionaries; it may lack some of them.

    Of a small file they are read as they stand: a dictionary for a thousand rows takes longer than the rows, and many
    small files are put together before anything is counted.

    Raises
    ------
    pyarrow.ArrowException, OSError
        It is no Parquet, or cut short.
    """
    try:
        if isinstance(source, Path):  # which Arrow would look for among its file systems
            source = pa.OSFile(str(source))
        file = kind(source, pre_buffer=False)
        if file.metadata.num_rows <= SMALL_FILE or not dictionaries:
            return file
        present = leaves(file).intersection(dictionaries)  # `ParquetFile` raises KeyError for others
        return kind(source, metadata=file.metadata, read_dictionary=list(present), pre_buffer=False)
    except UnicodeDecodeError as error:
        message = f"a column's name is no UTF-8: {error}"
        raise pa.ArrowInvalid(message) from error


class ParquetFiles(Sequence["pq.ParquetFile"]):
    """Files that are opened whenever they are asked for: thousands of them would not all fit, open, into memory.

    Parameters
    ----------
    openers : sequence of callables
        Each opens one file.
    """

    def __init__(self, openers: Sequence[Callable[[], pq.ParquetFile]]) -> None:
        self._openers = openers

    def __len__(self) -> int:
        return len(self._openers)

    @overload
    def __getitem__(self, at: int) -> pq.ParquetFile: ...
    @overload
    def __getitem__(self, at: slice) -> ParquetFiles: ...
    def __getitem__(self, at: int | slice) -> pq.ParquetFile | ParquetFiles:
        return ParquetFiles(self._openers[at]) if isinstance(at, slice) else self._openers[at]()


def column_types(files: Iterable[pq.ParquetFile]) -> dict[str, pa.DataType]:
    """Columns of some files -> type in the first file that has them."""
    types: dict[str, pa.DataType] = {}
    last = pa.schema([])
    for file in files:
        schema = flat_schema(file.schema_arrow)
        if not schema.equals(last):
            for field in schema:
                types.setdefault(field.name, field.type)
        last = schema
    return types


def flat_schema(schema: pa.Schema) -> pa.Schema:
    """Schema with the fields of structs as columns of their own, under dotted names.

    Examples
    --------
    >>> flat_schema(pa.schema({"a": pa.struct({"b": pa.int8(), "c": pa.struct({"d": pa.bool_()})})})).names
    ['a.b', 'a.c.d']
    """
    if not any(map(_has_fields, schema.types)):
        return schema
    return pa.schema([leaf for field in schema for leaf in _fields(field.name, field.type)])


def _fields(name: str, kind: pa.DataType) -> list[tuple[str, pa.DataType]]:
    if not _has_fields(kind):
        return [(name, kind)]
    inner = (kind.field(i) for i in range(kind.num_fields))
    return [leaf for field in inner for leaf in _fields(f"{name}.{field.name}", field.type)]


def _has_fields(kind: pa.DataType) -> bool:
    return bool(pa.types.is_struct(kind) and kind.num_fields)


def flat(table: pa.Table) -> pa.Table:
    """The same rows, with the fields of structs as columns: null where the struct is."""
    while any(map(_has_fields, table.schema.types)):
        table = table.flatten()
    return table


def source_name(column: str, prefix: str) -> str:
    """Name that files have for a column of the log, where they have `prefix` instead of ``feature_``.

    Examples
    --------
    >>> source_name("feature_a", ""), source_name("score", "")
    ('a', 'score')
    """
    return prefix + column.removeprefix("feature_") if column.startswith("feature_") else column


class Block(Protocol):
    """Rows whose columns can be asked for, one at a time."""

    rows: int

    def column(self, name: str) -> pa.Array:
        """One column; lists of nothing where it stands twice, so that no value of it is known.

        Raises
        ------
        pyarrow.ArrowException, OSError
            The file is damaged.
        """


class Rows:
    """Rows in memory: a record batch, or a table in any number of chunks.

    Examples
    --------
    >>> Rows(pa.table({"a": pa.chunked_array([["x"], ["y", "x"]]).dictionary_encode()})).column("a").to_pylist()
    ['x', 'y', 'x']
    """

    def __init__(self, table: pa.RecordBatch | pa.Table) -> None:
        self.rows, self.table = table.num_rows, table

    def column(self, name: str) -> pa.Array:
        """One column, whole."""
        at = self.table.schema.get_field_index(name)  # a column that stands twice has no index
        return pa.repeat(pa.scalar([], _NOTHING), self.rows) if at < 0 else _whole(self.table.column(at))


class Chosen:
    """Some rows of a block, those that are flagged, (n,)."""

    def __init__(self, block: Block, chosen: Flags) -> None:
        self.rows, self._block, self._mask = int(chosen.sum()), block, flags(chosen)

    def column(self, name: str) -> pa.Array:
        """One column of these rows."""
        return self._block.column(name).filter(self._mask)


class RowGroup:
    """One row group of a file, decoded column by column as they are asked for.

    Parameters
    ----------
    file : ParquetFile
    group : int
    readable : collection of str
        Columns that stand once in the file.
    """

    def __init__(self, file: pq.ParquetFile, group: int, readable: Collection[str]) -> None:
        self.rows = file.metadata.row_group(group).num_rows
        self._file, self._group, self._readable = file, group, readable

    def column(self, name: str) -> pa.Array:
        """Decode one column."""
        names = [name] if name in self._readable else []
        found = flat(self._file.read_row_group(self._group, columns=names, use_threads=False))
        return Rows(sound(found)).column(name)


def row_groups(
    file: pq.ParquetFile,
    names: Sequence[str],
    groups: Iterable[int] | None = None,
    *,
    schema: pa.Schema | None = None,
    awkward: bool = True,
) -> Iterator[Block]:
    """Row groups of a file that have rows: small ones decoded at once, large ones a column at a time.

    Parameters
    ----------
    file : ParquetFile
    names : sequence of str
        Columns that will be asked for; others may not be.
    groups : iterable of int, optional
        Which row groups; by default all.
    schema : Schema, optional
        The file's, where it is known: a file makes it anew at every look.
    awkward : bool
        Whether a column may be a dictionary, whose codes are looked at, or a struct, whose fields are columns.
    """
    schema = flat_schema(file.schema_arrow) if schema is None else schema
    # a column that stands twice cannot be read by its name
    readable = {name: None for name in names if schema.get_field_index(name) >= 0}
    chosen = range(file.num_row_groups) if groups is None else list(groups)
    if hasattr(file, "announce"):  # of a file that is far away, the columns are fetched ahead
        file.announce(chosen, readable)
    for group in chosen:
        block = RowGroup(file, group, readable)
        if block.rows * max(len(names), 1) > _CELLS_AT_ONCE:
            yield block
        elif block.rows:
            found = file.read_row_group(group, columns=list(readable), use_threads=False)
            yield Rows(sound(flat(found)) if awkward else found)


def _whole(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    """One array, of a type that can be filtered and taken from."""
    if _is_awkward(values.type):
        chunks = [values] if isinstance(values, pa.Array) else values.chunks or [pa.nulls(0, values.type)]
        values = pa.chunked_array([_plain(chunk) for chunk in chunks])
    if isinstance(values, pa.Array):
        return values
    if values.num_chunks == 1:
        return values.chunk(0)
    if not pa.types.is_dictionary(values.type):
        return pa.concat_arrays(values.chunks) if values.num_chunks else pa.nulls(0, values.type)
    try:
        return pa.concat_arrays(values.unify_dictionaries().chunks)
    except pa.ArrowException:  # a dictionary that holds a null, or lists, cannot be joined with another
        return pa.concat_arrays([chunk.dictionary_decode() for chunk in values.chunks])


def _is_awkward(kind: pa.DataType) -> bool:
    """Whether values can be neither filtered nor taken from: views, and values that are written once for a run."""
    inner = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(
        pa.types.is_string_view(inner)
        or pa.types.is_binary_view(inner)
        or pa.types.is_run_end_encoded(inner)
        or isinstance(inner, pa.BaseExtensionType)
    )


def plain_type(kind: pa.DataType) -> pa.DataType:
    """What the values are, without how they are laid out.

    Examples
    --------
    >>> plain_type(pa.dictionary(pa.int8(), pa.int64())), plain_type(pa.run_end_encoded(pa.int32(), pa.string()))
    (DataType(int64), DataType(string))
    """
    if isinstance(kind, pa.BaseExtensionType):
        return plain_type(kind.storage_type)
    inner = pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind)
    return plain_type(kind.value_type) if inner else kind


def _plain(values: pa.Array) -> pa.Array:
    kind = values.type
    if isinstance(kind, pa.BaseExtensionType):
        return _plain(values.storage)
    if pa.types.is_run_end_encoded(kind):
        return _plain(pc.run_end_decode(values))
    if pa.types.is_dictionary(kind):
        return pa.DictionaryArray.from_arrays(values.indices, _plain(values.dictionary))
    if pa.types.is_string_view(kind):
        return values.cast(pa.string())
    return values.cast(pa.binary()) if pa.types.is_binary_view(kind) else values


def sound(table: pa.RecordBatch | pa.Table) -> pa.RecordBatch | pa.Table:
    """The same rows, after a look at the codes of their dictionaries, which Arrow would follow wherever they point.

    Raises
    ------
    pyarrow.ArrowInvalid
        A code lies outside of its dictionary.
    """
    for at, kind in enumerate(table.schema.types):
        if pa.types.is_dictionary(kind):
            column = table.column(at)
            chunks = [column] if isinstance(column, pa.Array) else column.chunks
            if not all(map(_codes_inside, chunks)):
                repaired = [chunk if _codes_inside(chunk) else _without_stray_codes(chunk) for chunk in chunks]
                table = table.set_column(
                    at, table.schema.field(at), repaired[0] if column is chunks[0] else pa.chunked_array(repaired)
                )
    return table


def _codes_inside(values: pa.DictionaryArray) -> bool:
    # without signs, what lies below zero lies far above
    codes = buffer_values(values.indices, np.dtype(f"u{values.indices.type.bit_width // 8}"))
    return bool(not codes.size or codes.max() < len(values.dictionary))


def _without_stray_codes(values: pa.DictionaryArray) -> pa.DictionaryArray:
    """Anything may stand behind a null."""
    kind, absent = values.indices.type, nulls(values.indices)
    codes = buffer_values(values.indices, kind.to_pandas_dtype())
    if absent is None or not (codes[~absent] < len(values.dictionary)).all() or (codes[~absent] < 0).any():
        message = "a dictionary has fewer values than its codes say"
        raise pa.ArrowInvalid(message)
    validity = pa.py_buffer(np.packbits(~absent, bitorder="little"))
    content = pa.py_buffer(np.where(absent, 0, codes).astype(codes.dtype))
    indices = pa.Array.from_buffers(kind, len(values), [validity, content])
    return pa.DictionaryArray.from_arrays(indices, values.dictionary, ordered=values.type.ordered)


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
    """Arrow array of Python values: text, numbers, lists of text, lists or arrays of numbers, or None.

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
    parts = [() if value is None else value.encode() if isinstance(value, str) else value for value in values]
    offsets = pa.py_buffer(np.cumsum([0, *map(len, parts)], dtype=np.int32))
    if pa.types.is_string(kind):
        content = pa.py_buffer(b"".join(part or b"" for part in parts))
        return pa.Array.from_buffers(kind, len(values), [validity, offsets, content])
    if pa.types.is_string(kind.value_type):
        items = arrow([item for part in parts for item in part], kind.value_type)
    else:
        dtype = kind.value_type.to_pandas_dtype()
        items = arrow_numbers(np.concatenate([np.empty(0, dtype), *(np.asarray(part, dtype) for part in parts)]))
    return pa.Array.from_buffers(kind, len(values), [validity, offsets], children=[items])


def arrow_numbers(values: Floats | Integers) -> pa.Array:
    """Make an Arrow array of numbers without the import that `arrow` avoids too."""
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), values.size, [None, pa.py_buffer(values)])


def positions(rows: Integers) -> pa.Array:
    """Make an Arrow array of int64: row numbers for `take`."""
    return arrow_numbers(rows)


def lists(column: pa.ChunkedArray) -> list[Any]:
    """Each list of numbers as an array.

    Examples
    --------
    >>> [part.tolist() for part in lists(pa.chunked_array([[[1, 2], None], [[3]]]))]
    [[1, 2], [], [3]]
    """
    found = []
    for chunk in column.chunks:
        values = buffer_values(chunk.values, chunk.type.value_type.to_pandas_dtype())
        ends = buffer_values(chunk.offsets, np.int32).tolist()
        found += [values[start:end] for start, end in pairwise(ends)]
    return found


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
    kept: Floats = (found if absent is None else found[~absent]).astype(np.float64, copy=False)
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
        encoding = encoded(values)
        if encoding is None:
            return None
        values = encoding
    names = as_text(values.dictionary)
    if names is None:
        return None
    absent = nulls(values.indices)
    codes = buffer_values(values.indices, values.indices.type.to_pandas_dtype())
    rows = np.bincount(codes, minlength=len(names)).astype(np.int64)
    if absent is not None:  # counted and taken back: there are few
        rows -= np.bincount(codes[np.flatnonzero(absent)], minlength=rows.size)
    absent = nulls(names)
    if absent is not None:
        names, rows = names.drop_null(), rows[~absent]
    return names, rows


def encoded(values: pa.Array) -> pa.DictionaryArray | None:
    """Values as a dictionary, of text where Arrow knows none of their type; None where they have no text form.

    Examples
    --------
    >>> encoded(pa.array(["x", None, "x"])).indices.to_pylist()
    [0, None, 0]
    """
    if pa.types.is_dictionary(values.type):
        return values
    try:
        return values.dictionary_encode()
    except pa.ArrowNotImplementedError:
        text = as_text(values)
        return None if text is None else text.dictionary_encode()


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
