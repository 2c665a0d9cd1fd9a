"""One window against the labels known at some moments: row facts and labels are read a bounded number at a time."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hindcast.performance.evaluation import (
    Evaluation,
    Part,
    Question,
    Segment,
    evaluation,
    segment_score,
    sums_from_bytes,
)
from hindcast.performance.labels import LabelRows, Labels, gathered, label_rows, microseconds, positions_among
from hindcast.performance.parts import evaluate_part, evaluate_parts, fingerprints, label_tables, streamed_labels
from hindcast.profile.bins import LABEL
from hindcast.profile.columns import flags, is_text, open_parquet, positions
from hindcast.profile.facts import FINGERPRINT, sidecar_files
from hindcast.sources.base import Announced, Streamed
from hindcast.window import HOUR

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime
    from pathlib import Path

    from hindcast.checks.run import Run
    from hindcast.sources.base import LogObject, Source
    from hindcast.window import Window

    Integers = np.ndarray[tuple[int, ...], np.dtype[np.int64]]

__all__ = ["Evaluation", "evaluate", "question", "segment_score", "sums_from_bytes"]

# Rows of facts, and of labels, that are joined at once.
_JOINED_ROWS = 4_000_000
_HELD: OrderedDict[tuple[str, str, str, bool], tuple[LabelRows, ...]] = OrderedDict()
_HELD_FILES, _HELD_ROWS = 256, 4_000_000


def question(run: Run) -> Question:
    """What is asked of every window of a model: of segments that the reference knows, the values it knows best."""
    segments = tuple(Segment(name, columns) for name, columns in run.segment_values.items())
    bins, most = run.reference.bins, run.model.performance.max_segment_values
    edges: tuple[float, ...] = ()
    if LABEL in bins.numeric:
        edges = tuple(bins.edges[bins.numeric.index(LABEL)].tolist())
    return Question(run.model.task, run.model.positive_class, segments, most, edges)


def evaluate(run: Run, window: Window, moments: Sequence[datetime]) -> list[Evaluation] | None:
    """Judge the rows of a window against the labels known at each of some moments.

    Row facts are read a row group at a time. Labels are held without their ids (see `Labels`); of more than four
    million only those of the window's rows are, and a window of more than four million rows is judged in parts by the
    hash of the ids, each of which reads both sides again. A million rows with late labels, two segments and three
    moments take some 0.8 CPU s; memory is 60 MB and 90 a million labels joined at once, so at most some 400 MB.

    Returns
    -------
    list of Evaluation, or None
        One per moment; None when the window had no rows or was never pulled.

    Raises
    ------
    SourceUnreadable
        A file of labels cannot be read.
    """
    files = sidecar_files(run.artifact("facts", ".parquet", window))
    if not files:
        return None
    asked = question(run)
    try:
        totals = _in_executors(run, window, asked, moments) or _totals(run, window, asked, files, moments)
    except _FiledLate:
        totals = [_totals(run, window, asked, files, [moment])[0] for moment in moments]
    return [evaluation(asked, total) for total in totals]


def _in_executors(run: Run, window: Window, asked: Question, moments: Sequence[datetime]) -> list[Part] | None:
    """Where Spark left the row facts in buckets, it joins files of labels too; None where it did not."""
    folder = run.artifact("facts", ".parquet", window)
    if run.labels is None or not folder.is_dir() or not (run.model.spark or run.model.engine == "spark"):
        return None
    if isinstance(run.labels, Streamed):  # a table's rows come in one stream, to this process
        return None
    from hindcast.engines.spark import SparkEngine
    from hindcast.engines.spark_tasks import read_labels

    engine, found = SparkEngine.of(run.model), []
    for moment in moments:
        objects = run.labels.manifest(window.start, moment + HOUR).objects
        judge = partial(evaluate_part, asked, moment=moment)
        found.append(engine.evaluate(folder, run.labels, objects, read_labels, judge))
    return found


class _FiledLate(Exception):
    """A label stands in a file that did not exist at one of the moments, though it is older than that."""


def _totals(run: Run, window: Window, asked: Question, files: list[Path], moments: Sequence[datetime]) -> list[Part]:
    totals = [Part(asked.task) for _ in moments]
    rows = sum(pq.read_metadata(file).num_rows for file in files)
    parts = 1 if run.labels is None else -(-rows // _JOINED_ROWS)
    filed = [] if run.labels is None else _filed(run.labels, window.start, moments)
    for part in range(parts):
        labels = None
        if run.labels is not None:
            own = None if parts == 1 else _keys(asked, files, part, parts)
            labels = _labels(run.labels, filed, asked, files, own)
        for block in _blocks(asked, files):
            chosen = block if parts == 1 else block.filter(flags(_of(block, parts) == part))
            found = evaluate_parts(asked, chosen, labels, moments)
            totals = [total + each for total, each in zip(totals, found, strict=True)]
    return totals


def _blocks(asked: Question, files: list[Path], *columns: str) -> Iterator[pa.Table]:
    """Row facts, row group by row group, text as dictionaries."""
    for path in files:
        schema = pq.read_schema(path)
        wanted = [name for name in asked.wants(schema.names) if not columns or name in columns]
        names = [name for name in wanted if is_text(schema.field(name).type) and name != "prediction_id"]
        with open_parquet(path, names) as file:
            for group in range(file.num_row_groups):
                yield file.read_row_group(group, columns=wanted, use_threads=False)


def _of(block: pa.Table, parts: int) -> Integers:
    """Part of the window that a row is judged in, (n,): by the hash of its id, the first for rows without."""
    found = fingerprints({name: block.column(name).combine_chunks() for name in block.column_names})
    if found is None:
        return np.zeros(block.num_rows, np.int64)
    keys, absent = found
    part = (keys.view(np.uint64) % np.uint64(parts)).astype(np.int64)
    return part if absent is None else np.where(absent, 0, part)


def _keys(asked: Question, files: list[Path], part: int, parts: int) -> Integers:
    """Fingerprints of the ids in one part of a window, ascending."""
    keys = [np.empty(0, np.int64)]
    for block in _blocks(asked, files, FINGERPRINT, "prediction_id"):
        found = fingerprints({name: block.column(name).combine_chunks() for name in block.column_names})
        if found is not None:
            keys.append(found[0][_of(block, parts) == part])
    return np.sort(np.concatenate(keys))


def _filed(source: Source, start: datetime, moments: Sequence[datetime]) -> list[tuple[LogObject, int]]:
    """Files of labels that came from `start` on, with the last moment at which each was not there, in microseconds.

    A table has one snapshot for all moments; when a row of it came is told by its time alone.
    """
    moments = [max(moments)] if isinstance(source, Streamed) else moments
    found: dict[str, LogObject] = {}
    hidden: dict[str, int] = {}
    before = -(2**63)
    for moment in sorted(moments):
        for item in source.manifest(start, moment + HOUR).objects:
            found[item.name] = item
            hidden.setdefault(item.name, before)
        before = microseconds(moment)
    return [(item, hidden[name]) for name, item in found.items()]


def _labels(
    source: Source, filed: list[tuple[LogObject, int]], asked: Question, files: list[Path], own: Integers | None
) -> Labels:
    """Labels of these files; only those of the fingerprints `own`, or, of many, of any row of the window."""
    parts: list[LabelRows] = []
    numeric = asked.task == "regression"
    if isinstance(source, Announced):
        source.announce(item for item, _ in filed if (source.uri, item.name, item.etag, numeric) not in _HELD)
    for item, hidden in filed:
        for rows in _label_rows(source, item, numeric=numeric):
            if (rows.ticks <= hidden).any():
                raise _FiledLate
            parts.append(rows if own is None else _among(rows, own))
            if own is None and sum(part.keys.size for part in parts) > _JOINED_ROWS:
                own = _keys(asked, files, 0, 1)
                parts = [_among(part, own) for part in parts]
    return gathered(parts)


def _among(rows: LabelRows, own: Integers) -> LabelRows:
    kept = np.flatnonzero(positions_among(own, rows.keys) >= 0)
    return LabelRows(rows.keys[kept], rows.ticks[kept], rows.truth.take(positions(kept)))


def _label_rows(source: Source, item: LogObject, *, numeric: bool) -> tuple[LabelRows, ...] | Iterator[LabelRows]:
    """Labels of a file, row group by row group; those of smaller files are kept for the next window.

    Raises
    ------
    SourceUnreadable
        It cannot be read.
    """
    if isinstance(source, Streamed):
        return (label_rows(table, numeric=numeric) for table in streamed_labels(source, item))
    key = (source.uri, item.name, item.etag, numeric)
    if key in _HELD:
        return _HELD[key]
    file = source.open(item)
    if file.metadata.num_rows > _HELD_ROWS:
        return (label_rows(table, numeric=numeric) for table in label_tables(file, item.name))
    held = tuple(label_rows(table, numeric=numeric) for table in label_tables(file, item.name))
    _HELD[key] = held
    while len(_HELD) > _HELD_FILES or sum(rows.keys.size for each in _HELD.values() for rows in each) > _HELD_ROWS:
        _HELD.popitem(last=False)
    return held
