"""Records, as a caller gave them, become the columns of the log's contract, one table an hour.

A column's type is what its values are. Whole numbers and others make floats; what fits no common type becomes text, for
this table; a column whose values are all missing keeps the type that it had before.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from hindcast.sdk import arrays

if TYPE_CHECKING:
    from collections.abc import Mapping

Record = tuple[Any, ...]
# Of some records, all values of each parameter.
Values = Sequence[Sequence[Any]]
Chunk = dict[str, pa.Array]
# Every record begins with its id and ends with its moment and further columns.
PREDICTION = ("prediction_id", "features", "prediction", "confidence", "latency_ms", "timestamp", "more")
LABEL = ("prediction_id", "ground_truth", "label_timestamp", "more")
# Columns that are not the caller's to name.
RESERVED = frozenset({"model_name", "model_version"})

_HOUR_NS = 3_600_000_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_IDS = ("prediction_id", "trace_id")
_TEXT = {*_IDS, "error"}
# Of these two types no value is changed by a conversion.
_USUAL = {pa.float64(): arrays.floats, pa.string(): arrays.texts}


def hour(moment: object) -> int:
    """Hours since 1970 of a moment, as `arrays.nanoseconds` reads it.

    Raises
    ------
    UsageError
        It is none.
    """
    return arrays.nanoseconds(moment) // _HOUR_NS


def one_hour(moments: Sequence[Any]) -> int | None:
    """The hour of moments that are all of the same one, in nanoseconds; None for any others.

    Examples
    --------
    >>> one_hour([5, 7]), one_hour([5, _HOUR_NS]), one_hour(["yesterday"])
    (0, None, None)
    """
    if set(map(type, moments)) != {int}:
        return None
    first, last = min(moments) // _HOUR_NS, max(moments) // _HOUR_NS
    return first if first == last else None


def folder_of(hour: int) -> str:
    """Folder of an hour, counted since 1970.

    Examples
    --------
    >>> folder_of(492_000)
    'date=2026-02-16/hour=00'
    """
    start = _EPOCH + timedelta(hours=hour)
    return f"date={start:%Y-%m-%d}/hour={start:%H}"


class Columns:
    """Makes columns of records; remembers the types that it has seen.

    Parameters
    ----------
    names : tuple of str
        `PREDICTION` or `LABEL`.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names
        self._kinds: dict[str, pa.DataType] = {}

    def chunk(self, given: Values) -> Chunk:
        """Columns of some records, given all values of each parameter.

        Raises
        ------
        UsageError
            A timestamp is none.
        """
        columns: dict[str, Sequence[Any]] = {}
        for name, values in zip(self._names, given, strict=True):
            if name == "features":
                columns |= _spread(values, "feature_")
            elif name != "more":
                columns[name] = values
            elif any(values):
                columns |= _spread(values, "")
        moment = self._names[-2]
        found = {name: self._array(name, values) for name, values in columns.items() if name != moment}
        return {**found, moment: _moments(columns[moment])}

    def table(self, chunks: Sequence[Chunk], model: Mapping[str, str]) -> pa.Table:
        """Chunks as one table, with the model's name and version in every row."""
        names = list(dict.fromkeys(chain.from_iterable(chunks)))
        lengths = [len(chunk[self._names[0]]) for chunk in chunks]
        columns = {name: _joined([chunk.get(name) for chunk in chunks], lengths, self._kinds.get(name))
                   for name in names}  # fmt: skip
        rows = sum(lengths)
        whole = {**{name: arrays.constant(value, rows) for name, value in model.items()}, **columns}
        return pa.Table.from_arrays(list(whole.values()), list(whole))  # `pa.table` would import pandas

    def _array(self, name: str, values: Sequence[Any]) -> pa.Array:
        kind = pa.string() if name in _TEXT else self._kinds.get(name)
        make = None if kind is None else _USUAL.get(kind)
        if make is not None:
            try:
                return make(values)
            except (TypeError, ValueError, OverflowError):
                if name in _TEXT:
                    return arrays.as_text(values)
        found = arrays.inferred(values)
        if not pa.types.is_null(found.type) and (kind is None or kind != pa.float64() or not _is_text(found.type)):
            self._kinds[name] = found.type if kind is None else common(kind, found.type)
        return found


def _spread(mappings: Sequence[Any], prefix: str) -> dict[str, Sequence[Any]]:
    """Columns of the values of some dictionaries, which need not have the same keys."""
    if set(map(type, mappings)) != {dict}:
        mappings = [dict(mapping or {}) for mapping in mappings]
    keys = list(mappings[0])
    n = len(keys)
    if list(chain.from_iterable(mappings)) == keys * len(mappings):  # the usual case: the same keys, in the same order
        flat = list(chain.from_iterable(map(dict.values, mappings)))
        return {f"{prefix}{key}": flat[at::n] for at, key in enumerate(keys)}
    names = dict.fromkeys(chain.from_iterable(mappings))
    return {f"{prefix}{key}": [mapping.get(key) for mapping in mappings] for key in names}


def _moments(values: Sequence[Any]) -> pa.Array:
    if set(map(type, values)) != {int}:
        values = [arrays.nanoseconds(value) for value in values]
    return arrays.moments(values)


def common(first: pa.DataType, second: pa.DataType) -> pa.DataType:
    """Type that holds the values of both.

    Examples
    --------
    >>> common(pa.int64(), pa.float64()), common(pa.bool_(), pa.string()), common(pa.null(), pa.bool_())
    (DataType(double), DataType(string), DataType(bool))
    """
    if first == second or pa.types.is_null(second):
        return first
    if pa.types.is_null(first):
        return second
    return pa.float64() if _is_number(first) and _is_number(second) else pa.string()


def _is_number(kind: pa.DataType) -> bool:
    return any(
        test(kind) for test in (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_boolean)
    )


def _is_text(kind: pa.DataType) -> bool:
    return bool(kind == pa.string())


def _joined(arrays: Sequence[pa.Array | None], lengths: Sequence[int], known: pa.DataType | None) -> pa.ChunkedArray:
    """One column of all chunks, in one type; null in chunks that lack it."""
    kind = pa.null()
    for array in arrays:
        kind = kind if array is None else common(kind, array.type)
    if pa.types.is_null(kind) and known is not None:
        kind = known
    parts = [pa.nulls(n, kind) if array is None else _cast(array, kind)
             for array, n in zip(arrays, lengths, strict=True)]  # fmt: skip
    return pa.chunked_array(parts, kind)


def _cast(array: pa.Array, kind: pa.DataType) -> pa.Array:
    if array.type == kind:
        return array
    if pa.types.is_null(array.type):
        return pa.nulls(len(array), kind)
    return arrays.as_text(array.to_pylist()) if _is_text(kind) else arrays.floats(array.to_pylist())


def parquet(table: pa.Table) -> pa.Buffer:
    """A table as a Parquet file: dictionaries for text that repeats only, statistics for the moment only."""
    sink = pa.BufferOutputStream()
    text = [field.name for field in table.schema if _is_text(field.type) and field.name not in _IDS]
    moments = [name for name in ("timestamp", "label_timestamp") if name in table.schema.names]
    pq.write_table(table, sink, compression="snappy", use_dictionary=text or False, write_statistics=moments)
    return sink.getvalue()
