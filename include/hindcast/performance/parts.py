"""From row facts and labels to the part of an evaluation: what any engine does with some rows of a window."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from hindcast.errors import SourceUnreadable
from hindcast.performance.evaluation import WHOLE, Part, two
from hindcast.performance.labels import Labels, as_floats, class_name, gathered, label_rows, microseconds
from hindcast.performance.outcomes import Outcomes, exact_sum
from hindcast.performance.scores import LARGEST
from hindcast.performance.service import Service
from hindcast.profile.columns import as_text, buffer_values, nulls
from hindcast.profile.facts import FINGERPRINT, as_moments, unfit
from hindcast.profile.hashing import fingerprint64

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from datetime import datetime

    import pyarrow.parquet as pq

    from hindcast.performance.evaluation import Question, Sums
    from hindcast.sources.base import LogObject, Streamed

    Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
    Ints = np.ndarray[tuple[int, ...], np.dtype[np.int64]]
    Flags = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]

LABEL_COLUMNS = ("prediction_id", "ground_truth", "label_timestamp")
# What a row is to a segment's sums.
_UNKNOWN, _WRONG, _RIGHT, _ODD_WRONG, _ODD_RIGHT = range(5)


@dataclass(frozen=True)
class _Coded:
    """A column as positions, (n,), in a list of names; -1 for null."""

    codes: Ints
    names: list[str]

    def used(self, codes: Ints | None = None) -> list[str]:
        """Names that occur: a dictionary may hold others."""
        counts = np.bincount((self.codes if codes is None else codes) + 1, minlength=len(self.names) + 1)[1:]
        return [self.names[k] for k in np.flatnonzero(counts).tolist()]


def label_table(table: pa.Table) -> pa.Table:
    """Labels of a file whatever types it has: ids as text, moments as moments; a column that it lacks is null.

    Examples
    --------
    >>> label_table(pa.table({"prediction_id": [7], "label_timestamp": ["2013-04-16T15:00Z"]})).schema.types
    [DataType(string), DataType(null), TimestampType(timestamp[us, tz=UTC])]
    """
    columns = {name: pa.nulls(table.num_rows) for name in LABEL_COLUMNS}
    columns |= {name: table.column(name).combine_chunks() for name in LABEL_COLUMNS if name in table.column_names}
    ids, moments = as_text(columns["prediction_id"]), as_moments(columns["label_timestamp"])
    columns["prediction_id"] = pa.nulls(table.num_rows, pa.string()) if ids is None else ids
    return pa.table({**columns, "label_timestamp": moments})


def label_tables(file: pq.ParquetFile, name: str) -> Iterator[pa.Table]:
    """Labels of a file, row group by row group.

    Raises
    ------
    SourceUnreadable
        It is no file of labels; `name` says which.
    """
    if file.metadata.num_rows:
        _refuse_unless_labels(file.schema_arrow, name)
    for group in range(file.num_row_groups if file.metadata.num_rows else 0):
        try:
            table = file.read_row_group(group, columns=list(LABEL_COLUMNS), use_threads=False)
        except (OSError, pa.ArrowException) as error:
            message = f"{name}: is no readable file of labels: {error}"
            raise SourceUnreadable(message) from error
        yield label_table(table)


def streamed_labels(source: Streamed, item: LogObject) -> Iterator[pa.Table]:
    """Labels of an object that is no file, batch by batch.

    Raises
    ------
    SourceUnreadable
        A column is missing, or nothing can be made of it.
    SourceError
        It cannot be read.
    """
    _refuse_unless_labels(source.schema(), item.name)
    for batch in source.batches(item, LABEL_COLUMNS):
        yield label_table(pa.Table.from_batches([batch]))


def _refuse_unless_labels(schema: pa.Schema, name: str) -> None:
    absent, wrong = sorted({*LABEL_COLUMNS}.difference(schema.names)), list(unfit(schema, LABEL_COLUMNS))
    if absent or wrong:
        said = [f"it lacks {', '.join(absent)}"] if absent else []
        said += [f"nothing can be made of {', '.join(wrong)}"] if wrong else []
        message = f"{name}: holds no labels: {'; '.join(said)}"
        raise SourceUnreadable(message)


def evaluate_part(question: Question, facts: pa.Table, labels: pa.Table | Labels | None, moment: datetime) -> Part:
    """Sum up some rows of a window as of one moment.

    Parameters
    ----------
    question : Question
    facts : pyarrow.Table of n rows
        Row facts, as the sidecar has them; `Question.wants` names the columns that are read.
    labels : pyarrow.Table or Labels, optional
        All that there are of these ids (see `hindcast.performance.labels.join_labels`), others do no harm. A label
        wins over the ``ground_truth`` of the facts.
    moment : datetime
        A later label does not exist yet.

    Returns
    -------
    Part
        Parts of one window add up to the same whatever the split, where all labels of an id are given with each of
        its rows. A million rows with a million labels take some 0.4 CPU s.

    Raises
    ------
    UsageError
        The table of labels lacks a column.

    Examples
    --------
    >>> from datetime import datetime
    >>> from hindcast.performance.evaluation import Question, evaluation
    >>> facts = pa.table({"prediction_id": ["a", "b", "c"], "prediction": ["1", "0", "1"]})
    >>> labels = pa.table({"prediction_id": ["c", "a"], "ground_truth": [0, 1],
    ...                    "label_timestamp": [datetime(2013, 4, 16, 15), datetime(2013, 4, 16, 17)]})
    >>> question = Question("binary")
    >>> for hour in (16, 18):
    ...     found = evaluation(question, evaluate_part(question, facts, labels, datetime(2013, 4, 16, hour)))
    ...     print(found.scores["accuracy"].value, round(found.coverage, 2))
    0.0 0.33
    0.5 0.67
    """
    if isinstance(labels, pa.Table):
        labels = gathered([label_rows(labels, numeric=question.task == "regression")])
    return evaluate_parts(question, facts, labels, [moment])[0]


def evaluate_parts(
    question: Question, facts: pa.Table, labels: Labels | None, moments: Sequence[datetime]
) -> list[Part]:
    """Do as `evaluate_part` does, as of several moments at once: ids are searched once."""
    columns = {name: _array(facts, name) for name in question.wants(facts.column_names)}
    rows = _Rows(question, columns, facts.num_rows)
    base = Part(question.task, question.tells(facts.column_names), _service(columns, facts.num_rows))
    at = None if labels is None else _found(columns, labels)
    found = []
    for moment in moments:
        late = None if labels is None or at is None else labels.known(microseconds(moment))[at]
        sums = rows.numbers(labels, late) if question.task == "regression" else rows.classes(labels, late)
        found.append(replace(base, **sums))
    return found


def _array(facts: pa.Table, name: str) -> pa.Array:
    column = facts.column(name)
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.concat_arrays(column.unify_dictionaries().chunks) if column.num_chunks else pa.nulls(0, column.type)


def fingerprints(columns: Mapping[str, pa.Array]) -> tuple[Ints, Flags | None] | None:
    """Fingerprint of each row's id, and which rows have none; None where no row has one."""
    if FINGERPRINT in columns:
        return buffer_values(columns[FINGERPRINT], np.int64), nulls(columns[FINGERPRINT])
    ids = columns.get("prediction_id")
    return None if ids is None else (fingerprint64(ids), nulls(ids))


def _found(columns: Mapping[str, pa.Array], labels: Labels) -> Ints | None:
    found = fingerprints(columns)
    if found is None:
        return None
    keys, absent = found
    at = labels.find(keys)
    return at if absent is None else np.where(absent, -1, at)


def _service(columns: Mapping[str, pa.Array], rows: int) -> Service:
    latency = as_floats(columns["latency_ms"]) if "latency_ms" in columns else np.empty(0)
    failed: Flags = np.zeros(rows, np.bool_)
    if "error" in columns and columns["error"].null_count < rows:
        absent = nulls(_plain(columns["error"]))
        failed = np.ones(rows, np.bool_) if absent is None else ~absent
    return Service.of(latency, failed)


def _plain(values: pa.Array) -> pa.Array:
    return values.indices if pa.types.is_dictionary(values.type) else values


def _coded(values: pa.Array) -> _Coded:
    if pa.types.is_null(values.type):
        return _Coded(np.full(len(values), -1, np.int64), [])
    encoded = values if pa.types.is_dictionary(values.type) else values.dictionary_encode()
    indices = encoded.indices
    codes: Ints = buffer_values(indices, indices.type.to_pandas_dtype()).astype(np.int64)
    absent = nulls(indices)
    return _Coded(codes if absent is None else np.where(absent, -1, codes), _names(encoded.dictionary))


def _names(dictionary: pa.Array) -> list[str]:
    names: list[str] = dictionary.cast(pa.string()).to_pylist()
    return names


def _counted(truth: _Coded) -> dict[str, int]:
    """Rows of each class among the known labels."""
    counts, found = np.bincount(truth.codes + 1, minlength=len(truth.names) + 1)[1:].tolist(), dict[str, int]()
    for name, rows in zip(map(class_name, truth.names), counts, strict=True):
        if rows and name is not None:
            found[name] = found.get(name, 0) + rows
    return found


class _Rows:
    """The columns of some rows, made ready once for any moment."""

    def __init__(self, question: Question, columns: Mapping[str, pa.Array], n: int) -> None:
        self.question, self.n = question, n
        self.versions = _coded(columns.get("model_version", pa.nulls(n)))
        every = {column: values for segment in question.segments for column, values in segment.columns.items()}
        self.segments = {WHOLE[0]: _Coded(np.zeros(n, np.int64), [WHOLE[1]])}
        self.segments |= {column: _coded(columns[column]) for column in every if column in columns}
        self.wanted = {column: None if values is None else set(values) for column, values in every.items()}
        self.inline = columns.get("ground_truth")
        self.prediction = columns.get("prediction")
        self.columns = columns

    def numbers(self, labels: Labels | None, late: Ints | None) -> dict[str, Any]:
        """Outcomes and segments of a regression; `late` is each row's label, -1 without."""
        y = np.full(self.n, np.nan) if self.inline is None else as_floats(self.inline)
        if labels is not None and late is not None:
            y = np.where(late >= 0, as_floats(labels.truth)[late] if len(labels.truth) else np.nan, y)
        p = np.full(self.n, np.nan) if self.prediction is None else as_floats(self.prediction)
        finite = np.isfinite(y) & np.isfinite(p)
        with np.errstate(invalid="ignore"):
            error = np.abs(p - y)
            known = (np.abs(y) < LARGEST) & (np.abs(p) < LARGEST)
        outcomes = self._by_version(finite, lambda rows: Outcomes.regression(y[rows], p[rows]))
        counted: dict[str, int] = {}
        if self.question.label_edges:
            bins = np.searchsorted(np.array(self.question.label_edges), y[np.isfinite(y)], side="left")
            counted = {str(k): n for k, n in enumerate(np.bincount(bins).tolist()) if n}
        return {"outcomes": outcomes, "segments": self._error_sums(error, known), "labels": counted}

    def classes(self, labels: Labels | None, late: Ints | None) -> dict[str, Any]:
        """Outcomes, segments and classes of a classification; `late` is each row's label, -1 without."""
        truth = self._truth(labels, late)
        counted = {"labels": _counted(truth)}
        said = _coded(pa.nulls(self.n)) if self.prediction is None else _coded(self.prediction)
        if self.prediction is None:
            truth = _coded(pa.nulls(self.n))
        if self.question.task == "multiclass":
            return self._multiclass(truth, said) | counted
        return self._binary(truth, said) | counted

    def _truth(self, labels: Labels | None, late: Ints | None) -> _Coded:
        inline = _coded(pa.nulls(self.n) if self.inline is None else self.inline)
        if labels is None or late is None or not len(labels.truth):
            return inline
        known = _coded(labels.truth)
        codes = np.where(late >= 0, known.codes[late], -1)
        if inline.names:
            codes = np.where((codes < 0) & (inline.codes >= 0), inline.codes + len(known.names), codes)
        return _Coded(codes, known.names + inline.names)

    def _binary(self, truth: _Coded, said: _Coded) -> dict[str, Any]:
        positive = class_name(self.question.positive_class)
        known, odd, sides, others = np.ones(self.n, np.bool_), np.zeros(self.n, np.bool_), [], []
        for side in (truth, said):
            names = [*map(class_name, side.names), None]
            is_known = np.array([name is not None for name in names])[side.codes]
            zero_one = positive in {"0", "1"}
            is_odd = np.array([zero_one and name not in {"0", "1", None} for name in names])[side.codes]
            sides.append(np.array([name == positive for name in names])[side.codes])
            used = {class_name(name) for name in side.used()} - {positive, None}
            others.append(two(name for name in used if name is not None))
            known, odd = known & is_known, odd | is_odd
        y, p = sides
        score = as_floats(self.columns["score"]) if "score" in self.columns else None

        def outcomes(rows: Ints) -> Outcomes:
            return Outcomes.binary(y[rows], p[rows], None if score is None else score[rows])

        kind = np.where(known, _WRONG + (y == p) + 2 * odd, _UNKNOWN)
        found = self._by_version(known & ~odd, outcomes)
        if (known & odd).any():
            strange = self._by_version(known & odd, outcomes)
            found |= {(name, True): each for (name, _), each in strange.items() if each.n}
        return {"outcomes": found, "segments": self._class_sums(kind), "others": tuple(others)}

    def _multiclass(self, truth: _Coded, said: _Coded) -> dict[str, Any]:
        names = list(dict.fromkeys([*truth.names, *said.names]))
        position = {name: k for k, name in enumerate(names)}
        y, p = (np.array([*(position[n] for n in side.names), -1], np.int64)[side.codes] for side in (truth, said))
        known = (y >= 0) & (p >= 0)
        scores = [name for name in self.columns if name.startswith("score_")]
        matrix = np.stack([as_floats(self.columns[name]) for name in scores], axis=1) if scores else None
        classes = [name.removeprefix("score_") for name in scores]

        def outcomes(rows: Ints) -> Outcomes:
            return Outcomes.of_codes([*names], y[rows], p[rows], None if matrix is None else matrix[rows], classes)

        kind = np.where(known, _WRONG + (y == p), _UNKNOWN)
        return {"outcomes": self._by_version(known, outcomes), "segments": self._class_sums(kind)}

    def _by_version(
        self, judged: Flags, outcomes: Callable[[Ints], Outcomes]
    ) -> dict[tuple[str | None, bool], Outcomes]:
        """Outcomes of the flagged rows of every version, also of one that has none."""
        codes, names = self.versions.codes, [*self.versions.names, None]
        found: dict[tuple[str | None, bool], Outcomes] = {}
        used = np.flatnonzero(np.bincount(codes + 1, minlength=len(names))) - 1
        for k in used.tolist():
            key, rows = (names[k], False), np.flatnonzero(judged & (codes == k) if used.size > 1 else judged)
            found[key] = found[key] + outcomes(rows) if key in found else outcomes(rows)
        return found

    def _class_sums(self, kind: Ints) -> dict[tuple[str, str], Sums]:
        found = {}
        for column, coded in self.segments.items():
            n = len(coded.names)
            table = np.bincount(5 * (coded.codes + 1) + kind, minlength=5 * (n + 1)).reshape(-1, 5)[1:]
            for k in self._shown(column, coded, table.sum(axis=1) > 0):
                unknown, wrong, right, odd_wrong, odd_right = table[k].tolist()
                odd = odd_wrong + odd_right
                sums = (unknown + wrong + right + odd, wrong + right, right, right, odd, odd_right)
                found[column, coded.names[k]] = sums
        return found

    def _error_sums(self, error: Floats, known: Flags) -> dict[tuple[str, str], Sums]:
        found = {}
        for column, coded in self.segments.items():
            counts = np.bincount(coded.codes + 1, minlength=len(coded.names) + 1)[1:]
            order = np.argsort(coded.codes, kind="stable")[self.n - int(counts.sum()) :]
            ends = np.cumsum(counts)
            for k in self._shown(column, coded, counts > 0):
                rows = order[ends[k] - counts[k] : ends[k]]
                terms = error[rows[known[rows]]]
                sums = (int(counts[k]), terms.size, exact_sum(terms), exact_sum(terms * terms), 0, 0)
                found[column, coded.names[k]] = sums
        return found

    def _shown(self, column: str, coded: _Coded, present: Flags) -> list[int]:
        """Positions of the values that occur and are wanted; of a segment without reference that is every value."""
        wanted = self.wanted.get(column)
        every = np.flatnonzero(present).tolist()
        return every if wanted is None else [k for k in every if coded.names[k] in wanted]
