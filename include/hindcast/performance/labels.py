"""Labels that come late: which prediction has which, as of a moment; and what counts as the same class."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import UTC
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hindcast.errors import UsageError
from hindcast.profile.hashing import fingerprint64

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    import numpy.typing as npt

    Bools = npt.NDArray[np.bool_]
    Floats = npt.NDArray[np.float64]
    Ints = npt.NDArray[np.int64]

_NO_ROWS = np.empty(0, np.int64)
TICKS_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}

WHOLE_NUMBER = re.compile(r"[+-]?\d+(\.0*)?")


class Labels:
    """Every label of some ids, sorted: 28 MB a million however long the ids are, and 8 for each moment asked for.

    Sorting takes another 40 MB for a while.

    Ids are known by their 64-bit fingerprint: two of n ids share one with a probability of n² / 2⁶⁵.

    Parameters
    ----------
    keys : int64 array of shape (n,)
        Fingerprint of the id of each label.
    ticks : int64 array of shape (n,)
        When the label became known, in any unit.
    truth : pyarrow.Array of length n
        Plain or dictionary, without nulls.

    Attributes
    ----------
    keys : int64 array of shape (n_ids,)
        Distinct, ascending.
    ticks, truth
        By id, then time, then value (by Arrow's order: numbers, text, false before true).

    Examples
    --------
    >>> labels = Labels(np.array([7, 5, 7]), np.array([0, 0, 9]), pa.array(["no", "yes", "yes"]))
    >>> at = labels.find(np.array([5, 6, 7]))
    >>> [labels.known(tick)[at].tolist() for tick in (-1, 0, 9)]
    [[-1, -1, -1], [0, -1, 1], [0, -1, 2]]
    """

    def __init__(self, keys: Ints, ticks: Ints, truth: pa.Array) -> None:
        order = np.argsort(keys)
        keys = keys[order]
        fresh = np.append(True, keys[1:] != keys[:-1])[: keys.size]
        if not fresh.all():
            alike = np.flatnonzero(~fresh | np.append(~fresh[1:], False))
            of = order[alike]
            order[alike] = of[np.lexsort((_ranks(truth.take(_positions(of))), ticks[of], keys[alike]))]
        self.ticks, self.truth = ticks[order], truth.take(_positions(order))
        self._starts = np.append(np.flatnonzero(fresh), keys.size)
        self.keys = keys[self._starts[:-1]]
        self._known: dict[int, Ints] = {}

    def find(self, keys: Ints) -> Ints:
        """Position of each id among those with labels; of others ``-1``."""
        return positions_among(self.keys, keys)

    def known(self, tick: int) -> Ints:
        """Row of each id's latest label as of a tick, of equal times that with the largest value; ``-1`` if none yet.

        One entry more, the last, is ``-1`` too: what `find` gives for an id without labels leads there.
        """
        if tick not in self._known:
            rows: Ints | Bools = self.ticks <= tick
            if self.keys.size < self.ticks.size:  # of each id the first so many
                until = np.append(0, np.cumsum(rows))
                rows = until[self._starts[1:]] - until[self._starts[:-1]]
            self._known[tick] = np.append(np.where(rows > 0, self._starts[:-1] + rows - 1, -1), -1)
        return self._known[tick]


def positions_among(ascending: Ints, keys: Ints) -> Ints:
    """Position of each key, (n,), in ascending ones, (m,); -1 where it is not among them."""
    order = np.argsort(keys)  # searching in order stays in the cache
    wanted = keys[order]
    at = np.searchsorted(ascending, wanted)
    at[at == ascending.size] = -1
    found = np.empty(keys.size, np.int64)
    found[order] = np.where(ascending[at] == wanted, at, -1) if ascending.size else -1
    return found


class LabelRows(NamedTuple):
    """Usable labels of one file: fingerprint of the id, microseconds since 1970, and the label, each of shape (n,)."""

    keys: Ints
    ticks: Ints
    truth: pa.Array


def label_rows(labels: pa.Table, *, numeric: bool) -> LabelRows:
    """Make labels small: without ids, and without those that lack id, label or time.

    Parameters
    ----------
    labels : pyarrow.Table
        As for `join_labels`.
    numeric : bool
        Labels are float64, text that is no number is none; otherwise they are a dictionary.

    Raises
    ------
    UsageError
        A column is missing, or its type is neither time nor id.
    """
    ids, truth, ticks, per_second, dated = _columns(labels)
    if numeric:
        truth = pa.Array.from_buffers(pa.float64(), len(truth), [None, pa.py_buffer(as_floats(truth))])
    rows = np.flatnonzero(_usable(ids, truth) & dated)
    every = rows.size == len(truth)
    if not every:
        ids, truth, ticks = ids.take(_positions(rows)), truth.take(_positions(rows)), ticks[rows]
    if not numeric:
        truth = (truth.cast(pa.float32()) if pa.types.is_float16(truth.type) else truth).dictionary_encode()
    # nanoseconds up to the next: a label that is one later than a moment is not known then
    micros = ticks * (1_000_000 // per_second) if per_second <= 1_000_000 else -(-ticks // 1000)
    return LabelRows(fingerprint64(ids), micros, truth)


def gathered(parts: Iterable[LabelRows]) -> Labels:
    """Labels of several files; where one has 1 and another "1", all are text."""
    parts = [part for part in parts if part.keys.size] or [LabelRows(_NO_ROWS, _NO_ROWS, pa.nulls(0))]
    truths = [part.truth for part in parts]
    kinds = {truth.dictionary.type for truth in truths if pa.types.is_dictionary(truth.type)}
    if len(kinds) > 1:
        truths = [pa.DictionaryArray.from_arrays(t.indices, t.dictionary.cast(pa.string())) for t in truths]
    truth = pa.concat_arrays(pa.chunked_array(truths).unify_dictionaries().chunks) if len(truths) > 1 else truths[0]
    keys, ticks = (np.concatenate([part[k] for part in parts]) for k in (0, 1))
    return Labels(keys, ticks, truth)


def _ranks(truth: pa.Array) -> Ints:
    if pa.types.is_dictionary(truth.type):
        ranks: Ints = _ranks(truth.dictionary)[_view(truth.indices, np.int32)]
        return ranks
    return cast("Ints", _view(pc.rank(truth, tiebreaker="dense"), np.uint64).astype(np.int64))


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
    ids, truth, ticks, per_second, dated = _columns(labels)
    wanted = _texts(prediction_ids, "prediction ids")
    real = _usable(ids, truth)
    last = _floor_ticks(as_of, per_second)
    rows = np.flatnonzero(real & dated & (ticks <= last))
    known_labels = Labels(fingerprint64(ids.take(_positions(rows))), ticks[rows], truth.take(_positions(rows)))
    at = np.where(_mask(pc.is_valid(wanted)), known_labels.find(fingerprint64(wanted)), -1)
    row = known_labels.known(last)[at]
    known = row >= 0
    return Joined(
        ground_truth=known_labels.truth.take(_positions(np.maximum(row, 0), known)),
        known=known,
        coverage=float(known.mean()) if known.size else None,
        orphans=known_labels.keys.size - np.unique(at[known]).size,
        superseded=rows.size - known_labels.keys.size,
        undated=int((real & ~dated).sum()),
        delay_hours=None
        if prediction_times is None
        else _delays(prediction_times, known, row, known_labels.ticks, per_second),
    )


def _columns(labels: pa.Table) -> tuple[pa.Array, pa.Array, Ints, int, Bools]:
    """Ids, labels, their times, how many ticks of these make a second, and which are known."""
    absent = {"prediction_id", "ground_truth", "label_timestamp"} - set(labels.column_names)
    if absent:
        message = f"labels lack {', '.join(sorted(absent))}; they have {', '.join(labels.column_names)}"
        raise UsageError(message)
    ticks, dated, per_second = _ticks(labels["label_timestamp"], "label_timestamp")
    ids = _texts(labels["prediction_id"], "prediction_id")
    return ids, _plain(labels["ground_truth"]), ticks, per_second, dated


def _usable(ids: pa.Array, truth: pa.Array) -> Bools:
    return _mask(pc.is_valid(ids)) & ~_mask(pc.is_null(truth, nan_is_null=True))


def as_floats(values: pa.Array) -> Floats:
    """Numbers as float64; NaN where there is none.

    Examples
    --------
    >>> as_floats(pa.array(["1.5", "x", None])).tolist(), as_floats(pa.array([True, None])).tolist()
    ([1.5, nan, nan], [1.0, nan])
    """
    try:
        if pa.types.is_decimal(values.type):  # by way of text: the direct cast makes 2.0100000000000002 of 2.01
            values = values.cast(pa.string())
        numbers = values.cast(pa.float64(), safe=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return np.array([_number(value) for value in values.to_pylist()], np.float64)
    floats = _view(numbers, np.float64)
    return np.where(_mask(pc.is_valid(numbers)), floats, np.nan) if numbers.null_count else floats


def _number(value: object) -> float:
    try:
        return float(str(value))
    except ValueError:
        return math.nan


def microseconds(moment: datetime) -> int:
    """Whole microseconds from 1970 to a moment; without a zone it is UTC."""
    return _floor_ticks(moment, 1_000_000)


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
