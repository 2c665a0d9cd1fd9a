"""Labels that come late: which prediction has which, as of a moment; and what counts as the same class."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hindcast.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    import numpy.typing as npt

    Bools = npt.NDArray[np.bool_]
    Floats = npt.NDArray[np.float64]
    Ints = npt.NDArray[np.int64]

TICKS_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}

WHOLE_NUMBER = re.compile(r"[+-]?\d+(\.0*)?")
EXAMPLES = 3


@dataclass(frozen=True)
class Joined:
    """Labels of a window's predictions, as known at one moment.

    Parameters
    ----------
    ground_truth : pyarrow.Array of length n
        Aligned with the predictions, null where unknown.
    known : bool array of shape (n,)
    coverage : float in [0, 1] or None
        Share of the predictions with a label; None without predictions.
    orphans : int
        Ids with a label and no prediction in this window.
    superseded : int
        Labels that a later one of the same id replaced.
    undated : int
        Labels without a time: nobody can tell when they became known, so they are not used.
    delay_hours : float array of shape (n,) or None
        From prediction to label, NaN where unknown; None unless prediction times were given.
    """

    ground_truth: pa.Array
    known: Bools
    coverage: float | None
    orphans: int
    superseded: int
    undated: int
    delay_hours: Floats | None = None


def join_labels(
    prediction_ids: pa.Array, labels: pa.Table, as_of: datetime, *, prediction_times: pa.Array | None = None
) -> Joined:
    """Give each prediction the label that was known at `as_of`.

    A label with a later `label_timestamp` does not exist yet. Of several labels of one id the latest wins; of those
    of the same moment the largest (by Arrow's order: numbers, text, false before true), whatever the order of the
    rows or files. A null or NaN is no label: it neither counts nor replaces one. Every row of a repeated id gets its
    label.

    Parameters
    ----------
    prediction_ids : pyarrow.Array or ChunkedArray of length n
        Strings of any Arrow type, or integers; a null id has no label.
    labels : pyarrow.Table
        Columns prediction_id, ground_truth, label_timestamp (date or timestamp of any unit; without a zone it is UTC).
    as_of : datetime
        Without a zone it is UTC.
    prediction_times : pyarrow.Array of length n, optional
        Timestamps of the predictions, for the delay of the labels.

    Returns
    -------
    Joined
        Usable labels = ids matched + orphans + superseded.

    Raises
    ------
    UsageError
        A column is missing, or its type is neither time nor id.

    Examples
    --------
    >>> from datetime import datetime
    >>> labels = pa.table({
    ...     "prediction_id": ["a", "a", "z"],
    ...     "ground_truth": [0, 1, 1],
    ...     "label_timestamp": [datetime(2013, 4, 16, hour) for hour in (15, 17, 15)],
    ... })
    >>> joined = join_labels(pa.array(["a", "b"]), labels, datetime(2013, 4, 16, 18))
    >>> joined.ground_truth.to_pylist(), joined.coverage, joined.orphans, joined.superseded
    ([1, None], 0.5, 1, 1)
    >>> join_labels(pa.array(["a", "b"]), labels, datetime(2013, 4, 16, 16)).ground_truth.to_pylist()
    [0, None]
    """
    absent = {"prediction_id", "ground_truth", "label_timestamp"} - set(labels.column_names)
    if absent:
        message = f"labels lack {', '.join(sorted(absent))}; they have {', '.join(labels.column_names)}"
        raise UsageError(message)
    truth = _plain(labels["ground_truth"])
    ticks, dated, per_second = _ticks(labels["label_timestamp"], "label_timestamp")
    ids = _texts(labels["prediction_id"], "prediction_id")
    real = _mask(pc.is_valid(ids)) & ~_mask(pc.is_null(truth, nan_is_null=True))
    rows = np.flatnonzero(real & dated & (ticks <= _floor_ticks(as_of, per_second)))
    codes, wanted = _codes(ids.take(_positions(rows)), _texts(prediction_ids, "prediction ids"))
    winner = _latest(codes, ticks[rows], truth, rows)
    # A prediction's id that no label has comes after all of the labels' ids.
    known = (wanted >= 0) & (wanted < winner.size)
    row = np.zeros(known.size, np.int64)
    row[known] = winner[wanted[known]]
    matched = np.zeros(winner.size, np.bool_)
    matched[wanted[known]] = True
    return Joined(
        ground_truth=truth.take(_positions(row, known)),
        known=known,
        coverage=float(known.mean()) if known.size else None,
        orphans=int((~matched).sum()),
        superseded=rows.size - winner.size,
        undated=int((real & ~dated).sum()),
        delay_hours=None if prediction_times is None else _delays(prediction_times, known, row, ticks, per_second),
    )


def _codes(label_ids: pa.Array, prediction_ids: pa.Array) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Give the ids of both sides numbers by appearance, labels first, -1 for null; one hash table serves both."""
    numbers = pa.concat_arrays([label_ids, prediction_ids]).dictionary_encode().indices
    codes = _view(numbers, np.int32, null=-1)
    return codes[: len(label_ids)], codes[len(label_ids) :]


def _latest(codes: npt.NDArray[np.int32], ticks: Ints, truth: pa.Array, rows: Ints) -> Ints:
    """Row of each id's latest label; of equal times, that with the largest value."""
    count = np.bincount(codes)
    winner = np.empty(count.size, np.int64)
    winner[codes] = rows
    repeated = np.flatnonzero((count > 1)[codes])
    if repeated.size:
        value = _view(pc.rank(truth.take(_positions(rows[repeated])), tiebreaker="dense"), np.uint64)
        order = repeated[np.lexsort((value, ticks[repeated], codes[repeated]))]
        last = np.flatnonzero(np.diff(codes[order], append=-1))
        winner[codes[order[last]]] = rows[order[last]]
    return winner


def _delays(times: pa.Array, known: Bools, row: Ints, ticks: Ints, per_second: int) -> Floats:
    predicted, dated, own_per_second = _ticks(times, "prediction times")
    hours = np.full(known.size, np.nan)
    both = known & dated
    # Whole seconds apart from their fractions: nanoseconds since 1970 do not fit a float.
    labelled, label_rest = np.divmod(ticks[row[both]], per_second)
    made, made_rest = np.divmod(predicted[both], own_per_second)
    hours[both] = ((labelled - made) + (label_rest / per_second - made_rest / own_per_second)) / 3600
    return hours


def _floor_ticks(moment: datetime, per_second: int) -> int:
    """Whole ticks since 1970 up to the moment."""
    aware = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    seconds = int(aware.replace(microsecond=0).timestamp())
    return seconds * per_second + aware.microsecond * per_second // 1_000_000


def _ticks(column: pa.Array | pa.ChunkedArray, name: str) -> tuple[Ints, Bools, int]:
    """Time as integers, which of them are not null, and how many make a second."""
    times = _plain(column)
    if pa.types.is_null(times.type) or pa.types.is_date(times.type):
        times = times.cast(pa.timestamp("s" if pa.types.is_date32(times.type) else "ms"))
    if not pa.types.is_timestamp(times.type):
        message = f"{name} has type {times.type}; it must be a timestamp or a date"
        raise UsageError(message)
    valid = _mask(pc.is_valid(times))
    return _view(times.cast(pa.int64()), np.int64), valid, TICKS_PER_SECOND[times.type.unit]


def _texts(ids: pa.Array | pa.ChunkedArray, name: str) -> pa.Array:
    """Ids as one array of one string type, so that every Arrow spelling of an id is the same id."""
    plain = _plain(ids)
    kind = plain.type
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    if not (text or pa.types.is_integer(kind) or pa.types.is_null(kind)):
        message = f"{name} have type {kind}; they must be strings or integers"
        raise UsageError(message)
    return plain.cast(pa.large_string())


def _plain(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    """One array without a dictionary or a view."""
    chunks = values.chunks if isinstance(values, pa.ChunkedArray) else [values]
    kind = values.type.value_type if pa.types.is_dictionary(values.type) else values.type
    # 64-bit offsets: the chunks together may hold more than 2 GiB of text.
    wide = pa.types.is_string(kind) or pa.types.is_string_view(kind)
    chunks = [chunk.cast(kind) if pa.types.is_dictionary(chunk.type) else chunk for chunk in chunks]
    chunks = [chunk.cast(pa.large_string()) if wide else chunk for chunk in chunks]
    if len(chunks) == 1:
        return chunks[0]
    return pa.concat_arrays(chunks) if chunks else pa.nulls(0, pa.large_string() if wide else kind)


def _view(values: pa.Array, dtype: type[np.generic], null: int = 0) -> Any:
    """Numbers of an array, uncopied unless it has nulls; `to_numpy` and `fill_null` import pandas, for 0.25 s."""
    buffer = values.buffers()[1]
    if buffer is None or len(values) == 0:
        return np.full(len(values), null, dtype)
    numbers = np.frombuffer(buffer, dtype)[values.offset : values.offset + len(values)]
    return np.where(_mask(pc.is_valid(values)), numbers, dtype(null)) if values.null_count else numbers


def _positions(rows: Ints, valid: Bools | None = None) -> pa.Array:
    """Rows to take, null where not `valid`; made of buffers because `pa.array` imports pandas, for 0.25 s."""
    bitmap = None if valid is None else pa.py_buffer(np.packbits(valid, bitorder="little"))
    return pa.Array.from_buffers(pa.int64(), rows.size, [bitmap, pa.py_buffer(np.ascontiguousarray(rows))])


def _mask(values: pa.Array) -> Bools:
    """Booleans of an array without nulls."""
    return cast("Bools", _view(values.cast(pa.uint8()), np.uint8).astype(np.bool_))


@dataclass(frozen=True)
class Encoded:
    """Values as positions in a list of classes.

    Parameters
    ----------
    codes : int64 array of shape (n,)
        Position of the class; -1 for a null and for a value that is none of the classes.
    missing : int
        Nulls and NaN.
    unknown : int
        Values that are none of the classes; `examples` names a few of them.
    """

    codes: Ints
    missing: int
    unknown: int
    examples: tuple[str, ...]

    @property
    def known(self) -> Bools:
        """Rows whose class is one of the classes."""
        return self.codes >= 0


def class_name(value: object) -> str | None:
    """Canonical text of a class: "1", 1, 1.0, "1.0", True and "true" are one class; None for a null or NaN.

    Examples
    --------
    >>> [class_name(value) for value in (1, 1.0, True, " 1.0", "TRUE", "late", 0.5, float("nan"))]
    ['1', '1', '1', '1', '1', 'late', '0.5', None]
    """
    if value is None or value != value:  # noqa: PLR0124 - NaN is what differs from itself, of any number type
        return None
    text = str(value).strip()
    if text.lower() in {"true", "false"}:
        return "1" if text.lower() == "true" else "0"
    return str(int(text.partition(".")[0])) if WHOLE_NUMBER.fullmatch(text) else text


def class_names(*columns: pa.Array | pa.ChunkedArray) -> list[str]:
    """Distinct classes of these columns, as canonical text, sorted.

    Examples
    --------
    >>> class_names(pa.array([2, 1, None]), pa.array(["1", "3"]))
    ['1', '2', '3']
    """
    names = {class_name(value) for column in columns for value in _distinct(column)[1].to_pylist()}
    return sorted(name for name in names if name is not None)


def encode_classes(values: pa.Array | pa.ChunkedArray, classes: Sequence[object]) -> Encoded:
    """Give the position of each value in `classes`, whatever type it was logged as.

    Parameters
    ----------
    values : pyarrow.Array or ChunkedArray of length n
        Booleans, numbers or strings; plain or dictionary.
    classes : sequence
        Distinct after `class_name`.

    Raises
    ------
    UsageError
        Two classes are the same, or one is null.

    Examples
    --------
    >>> encode_classes(pa.array(["b", "a", "?", None]), ["a", "b"])
    Encoded(codes=array([ 1,  0, -1, -1]), missing=1, unknown=1, examples=('?',))
    """
    names = [class_name(value) for value in classes]
    if len(set(names)) < len(names) or None in names:
        message = f"classes are distinct and not null; got {list(classes)}"
        raise UsageError(message)
    position = {name: i for i, name in enumerate(names)}
    indices, distinct = _distinct(values)
    found = [class_name(value) for value in distinct.to_pylist()]
    # One slot more, the last, which a null's index of -1 finds.
    lookup = np.array([*(position.get(name, -1) for name in found), -1], np.int64)
    is_missing = np.array([*(name is None for name in found), True], np.bool_)
    codes = lookup[indices]
    missing = int(is_missing[indices].sum())
    strange = sorted({name for name in found if name is not None and name not in position})
    return Encoded(codes, missing, int((codes < 0).sum()) - missing, tuple(strange[:EXAMPLES]))


def _distinct(values: pa.Array | pa.ChunkedArray) -> tuple[npt.NDArray[np.int32], pa.Array]:
    """Position of each value in the distinct values, -1 for nulls."""
    plain = _plain(values)
    if pa.types.is_float16(plain.type):
        plain = plain.cast(pa.float32())
    encoded = plain.dictionary_encode()
    return _view(encoded.indices, np.int32, null=-1), encoded.dictionary


@dataclass(frozen=True)
class Binary:
    """Values of a binary column.

    Parameters
    ----------
    positive : bool array of shape (n,)
        False also where not known.
    known : bool array of shape (n,)
        The value is the positive or the negative class.
    missing : int
        Nulls and NaN.
    unknown : int
        Values that are neither class, of which `examples` names a few. They are never guessed.
    """

    positive: Bools
    known: Bools
    missing: int
    unknown: int
    examples: tuple[str, ...]


def encode_binary(
    values: pa.Array | pa.ChunkedArray, positive_class: object, negative_class: object | None = None
) -> Binary:
    """Tell positives from negatives, whatever type they were logged as.

    Parameters
    ----------
    values : pyarrow.Array or ChunkedArray of length n
        Booleans, numbers or strings; "1", 1, 1.0, True and "true" are one class.
    positive_class : bool, int, float or str
    negative_class : bool, int, float or str, optional
        By default the other one of 0 and 1, or, of other names, the one other value found. When several others are
        found nothing says which is the negative class: no row is known, and all that are not missing are counted.

    Examples
    --------
    >>> encode_binary(pa.array(["1", "0", "1.0", "maybe", None]), 1)
    Binary(positive=array([ True, False,  True, False, False]), known=array([ True,  True,  True, False, False]),
           missing=1, unknown=1, examples=('maybe',))
    >>> encode_binary(pa.array(["late", "on time"]), "late").positive
    array([ True, False])
    """
    positive = class_name(positive_class)
    others = [name for name in class_names(values) if name != positive]
    negative = {"0": "1", "1": "0"}.get(positive or "") if negative_class is None else class_name(negative_class)
    if negative is None and len(others) > 1:
        count = encode_classes(values, class_names(values))
        nothing = np.zeros(count.codes.size, np.bool_)
        return Binary(nothing, nothing, count.missing, int(count.known.sum()), tuple(others[:EXAMPLES]))
    classes = [positive] if negative is None and not others else [positive, negative or others[0]]
    encoded = encode_classes(values, classes)
    return Binary(encoded.codes == 0, encoded.known, encoded.missing, encoded.unknown, encoded.examples)
