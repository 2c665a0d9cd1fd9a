"""Files made to fit a table of BigQuery, whose columns have one type each from the first file on.

The service refuses a file of another type, or, worse, cuts what it holds. Here a column becomes what the table has,
where no value is changed by it; whole numbers of the table become floats where floats come; and a value that fits
neither way goes, as text, into a column beside.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from hindcast.sdk import arrays

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

BESIDE = "unfit_"
_FLOAT, _WHOLE, _TRUTH, _TEXT = pa.float64(), pa.int64(), pa.bool_(), pa.string()
# What the service's own names of types are here; columns of others are its to judge.
_KINDS = {
    "FLOAT": _FLOAT, "FLOAT64": _FLOAT, "INTEGER": _WHOLE, "INT64": _WHOLE, "BOOLEAN": _TRUTH, "BOOL": _TRUTH,
    "STRING": _TEXT, "TIMESTAMP": arrays.MOMENT,
}  # fmt: skip


def fitted(content: bytes, kinds: Mapping[str, str]) -> tuple[bytes, list[str]]:
    """A file that fits a table, and which of the table's columns must become floats before.

    Parameters
    ----------
    content : bytes
        Parquet, as the logger makes it.
    kinds : mapping
        Types of the table's columns, by their names in lower case; empty if there is no table yet.
    """
    schema = pq.read_schema(pa.BufferReader(content))
    wanted = {field.name: _KINDS.get(kinds.get(field.name.lower(), ""), field.type) for field in schema}
    typed = [field for field in schema if not pa.types.is_null(field.type)]  # those of no type cannot be loaded
    if len(typed) == len(schema) and all(wanted[field.name] == field.type for field in typed):
        return content, []
    table = pq.read_table(pa.BufferReader(content), columns=[field.name for field in typed], use_threads=False)
    found: dict[str, Any] = {}
    widened = []
    for field in typed:
        column, kind = table[field.name], wanted[field.name]
        if column.type == kind:
            found[field.name] = column
            continue
        found[field.name], beside = _converted(column.to_pylist(), kind)
        if kind == _WHOLE and found[field.name].type == _FLOAT:
            widened.append(field.name)
        if any(value is not None for value in beside):
            found[f"{BESIDE}{field.name}"] = arrays.as_text(beside)
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_arrays(list(found.values()), list(found)), sink)
    return sink.getvalue().to_pybytes(), widened


def _converted(values: Sequence[Any], kind: pa.DataType) -> tuple[pa.Array, list[Any]]:
    """Values in a type, floats where whole numbers are wanted and others came, and those that do not fit.

    Examples
    --------
    >>> array, beside = _converted(["1", "n/a", None], pa.float64())
    >>> array.to_pylist(), beside
    ([1.0, None, None], [None, 'n/a', None])
    >>> _converted([2.0, True], pa.int64())[0].to_pylist(), _converted([2.5], pa.int64())[0].to_pylist()
    ([2, 1], [2.5])
    """
    if kind == _TEXT:
        return arrays.as_text(values), []
    read = {_FLOAT: _number, _WHOLE: _number, _TRUTH: _truth}.get(kind, lambda _: None)
    fits = [read(value) for value in values]
    beside = [value if fit is None else None for value, fit in zip(values, fits, strict=True)]
    if kind == _WHOLE:
        exact = [int(fit) if fit is not None and fit == fit // 1 and abs(fit) < 2**63 else None for fit in fits]
        if exact.count(None) == fits.count(None):
            return _of(_WHOLE, exact), beside
        kind = _FLOAT
    return _of(kind, fits), beside


def _of(kind: pa.DataType, values: Sequence[Any]) -> pa.Array:
    if kind == _FLOAT:
        return arrays.floats(values)
    found = arrays.inferred(values)
    return pa.nulls(len(values), kind) if pa.types.is_null(found.type) else found


def _number(value: Any) -> float | None:
    if isinstance(value, int | float):
        return value
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _truth(value: Any) -> bool | None:
    return bool(value) if value in {0, 1} else None
