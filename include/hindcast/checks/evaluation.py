"""One window against the labels known at one moment: scores of the whole, and sums per segment that can be added."""

from __future__ import annotations

import base64
import json
import zlib
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hindcast.errors import SourceUnreadable
from hindcast.performance.intervals import Score, mean_score, proportion_score
from hindcast.performance.labels import class_names, encode_binary, join_labels
from hindcast.performance.outcomes import Outcomes
from hindcast.performance.scores import binary_scores, multiclass_scores, regression_scores
from hindcast.profile.columns import as_text
from hindcast.profile.facts import as_moments
from hindcast.window import HOUR

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from hindcast.checks.run import Run
    from hindcast.sources.base import LogObject, Source
    from hindcast.window import Window

    Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
    Flags = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]

_LABEL_TABLES: OrderedDict[tuple[str, str, str], pa.Table] = OrderedDict()
_LABEL_TABLES_HELD = 256
_LABEL_SCHEMA = pa.schema(
    {"prediction_id": pa.string(), "ground_truth": pa.null(), "label_timestamp": pa.timestamp("us", "UTC")}
)


@dataclass(frozen=True)
class Evaluation:
    """A window as judged at one label age.

    `segments` maps ``*`` and every ``column=value`` to rows with labels, the sum of the primary metric's term over them
    (correct: 0 or 1, or the absolute error), and the sum of its square.
    """

    outcomes: Outcomes
    scores: dict[str, Score]
    coverage: float
    segments: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    by_version: dict[str, dict[str, Score]] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """What baselines are summed from."""
        content = {"all": base64.b64encode(self.outcomes.to_bytes()).decode(), "segments": self.segments}
        return zlib.compress(json.dumps(content, sort_keys=True).encode(), 1)


def sums_from_bytes(content: bytes) -> tuple[Outcomes, dict[str, tuple[float, float, float]]]:
    """Read what `Evaluation.to_bytes` wrote: the whole window's outcomes, and the segments' sums."""
    read = json.loads(zlib.decompress(content))
    return Outcomes.from_bytes(base64.b64decode(read["all"])), {k: tuple(v) for k, v in read["segments"].items()}


def segment_score(task: str, sums: Sequence[float]) -> Score:
    """Primary metric of one segment: accuracy, or the mean absolute error."""
    n = int(sums[0])
    if not n:
        return Score(None, None, None, 0, "no labels")
    if task == "regression":
        return mean_score(n, sums[1] / n, sums[2] / n)
    return proportion_score(round(sums[1]), n, "no labels")


def read_facts(run: Run, window: Window) -> pa.Table | None:
    """Row facts of a window; None when it had no rows or was never pulled."""
    path = run.artifact("facts", ".parquet", window)
    return pq.read_table(path, use_threads=False, memory_map=False) if path.exists() else None


def evaluate(run: Run, window: Window, facts: pa.Table, moment: datetime) -> Evaluation:
    """Judge the rows of a window against the labels known at `moment`."""
    truth = _ground_truth(run, window, facts, moment)
    known, term, arrays = _encoded(run, facts, truth)
    coverage = float(known.sum()) / facts.num_rows if facts.num_rows else 0.0
    exact, outcomes = _scored(run.model.task, arrays, known)
    segments = {}
    for label, rows in {"*": np.ones(facts.num_rows, bool), **segment_rows(run, facts)}.items():
        values = term[rows & known]
        segments[label] = (float(values.size), float(values.sum()), float((values * values).sum()))
    by_version = {}
    versions = facts.column("model_version").combine_chunks() if "model_version" in facts.column_names else None
    names = versions.unique().drop_null().to_pylist() if versions is not None else []
    for name in sorted(names) if len(names) > 1 else ():
        rows = as_flags(pc.equal(versions, name)) & known
        by_version[name], _ = _scored(run.model.task, arrays, rows)
    return Evaluation(outcomes, exact, coverage, segments, by_version)


def segment_rows(run: Run, facts: pa.Table) -> dict[str, Flags]:
    """Rows of each monitored segment value, as ``column=value``: the values that the reference knows best.

    A segment that is no feature has no reference; its most frequent values of the window count.
    """
    most, found = run.model.performance.max_segment_values, {}
    bins = run.reference.bins
    for name, columns in run.segment_columns.items():
        column = next((c for c in columns if c in facts.column_names), None)
        if column is None:
            continue
        values = facts.column(column).combine_chunks().cast(pa.string())
        if column in bins.categorical:
            wanted: Sequence[str] = bins.categories[bins.categorical.index(column)][:most]
        else:
            counted = sorted(values.value_counts().to_pylist(), key=lambda e: (-e["counts"], str(e["values"])))
            wanted = [entry["values"] for entry in counted if entry["values"] is not None][:most]
        encoded = values.dictionary_encode()
        codes = np.asarray(encoded.indices.fill_null(-1))
        at = {value: i for i, value in enumerate(encoded.dictionary.to_pylist())}
        found.update({f"{name}={value}": codes == at.get(value, -2) for value in wanted})
    return found


def _ground_truth(run: Run, window: Window, facts: pa.Table, moment: datetime) -> pa.Array | None:
    """Label per row, null where unknown; the label source wins over the log. None when there can be none."""
    inline = facts.column("ground_truth").combine_chunks() if "ground_truth" in facts.column_names else None
    if run.labels is None:
        return inline
    labels = read_labels(run.labels, window.start, moment)
    if "prediction_id" not in facts.column_names:
        return inline
    ids = facts.column("prediction_id").combine_chunks()
    late = join_labels(ids, labels, moment).ground_truth
    if inline is None:
        return late
    if pa.types.is_floating(inline.type):
        return pc.coalesce(pa.array(as_floats(late), from_pandas=True), inline)
    return pc.coalesce(late.cast(pa.string()), inline.cast(pa.string()))


def read_labels(source: Source, start: datetime, moment: datetime) -> pa.Table:
    """Every label that came from `start` on and was filed by `moment`; files are kept for the next window.

    Raises
    ------
    SourceUnreadable
        A file of labels cannot be read.
    """
    manifest = source.manifest(start, moment + HOUR)
    parts = [_LABEL_SCHEMA.empty_table()]
    for item in manifest.objects:
        key = (source.uri, item.name, item.etag)
        if key not in _LABEL_TABLES:
            _LABEL_TABLES[key] = _read_label_file(source, item)
            if len(_LABEL_TABLES) > _LABEL_TABLES_HELD:
                _LABEL_TABLES.popitem(last=False)
        parts.append(_LABEL_TABLES[key])
    kinds = {part.schema.field("ground_truth").type for part in parts} - {pa.null()}
    if len(kinds) > 1:  # one file has 1, another "1"
        parts = [p.set_column(1, "ground_truth", p.column("ground_truth").cast(pa.string())) for p in parts]
    return pa.concat_tables(parts, promote_options="permissive")


def _read_label_file(source: Source, item: LogObject) -> pa.Table:
    """Columns of `_LABEL_SCHEMA`, each of one type whatever the file has; null where the file lacks one."""
    file = source.open(item)
    try:
        table = file.read(columns=_LABEL_SCHEMA.names, use_threads=False)
    except (OSError, pa.ArrowException) as error:
        message = f"{item.name}: is no readable file of labels: {error}"
        raise SourceUnreadable(message) from error
    columns = {name: pa.nulls(table.num_rows) for name in _LABEL_SCHEMA.names}
    columns |= {name: table.column(name).combine_chunks() for name in table.column_names}
    truth = columns["ground_truth"]
    if pa.types.is_dictionary(truth.type):
        columns["ground_truth"] = truth.dictionary_decode()
    ids, moments = as_text(columns["prediction_id"]), as_moments(columns["label_timestamp"])
    columns["prediction_id"] = pa.nulls(table.num_rows, pa.string()) if ids is None else ids
    return pa.table({**columns, "label_timestamp": moments})


def _encoded(run: Run, facts: pa.Table, truth: pa.Array | None) -> tuple[Flags, Floats, tuple[Any, ...]]:
    """Rows that can be judged; the primary metric's term per row; (truth, prediction, scores, classes)."""
    n, task = facts.num_rows, run.model.task
    if truth is None or "prediction" not in facts.column_names:
        nothing = np.zeros(n)
        return nothing.astype(bool), nothing, (nothing, nothing, None, None)
    prediction = facts.column("prediction").combine_chunks()
    if task == "regression":
        y, p = as_floats(truth), as_floats(prediction)
        return np.isfinite(y) & np.isfinite(p), np.abs(p - y), (y, p, None, None)
    if task == "binary":
        positive = run.model.positive_class
        named = encode_binary(pa.array([positive]), positive)
        others = set(class_names(prediction, truth)) - set(class_names(pa.array([positive])))
        negative = others.pop() if len(others) == 1 and not named.unknown else None
        true, said = (encode_binary(values, positive, negative) for values in (truth, prediction))
        score = as_floats(facts.column("score").combine_chunks()) if "score" in facts.column_names else None
        correct = (true.positive == said.positive).astype(np.float64)
        return true.known & said.known, correct, (true.positive, said.positive, score, None)
    y, p = (np.asarray(values.cast(pa.string()).to_pylist(), object) for values in (truth, prediction))
    known = np.array([a is not None and b is not None for a, b in zip(y, p, strict=True)], bool)
    columns = [name for name in facts.column_names if name.startswith("score_")]
    matrix = np.stack([as_floats(facts.column(c).combine_chunks()) for c in columns], axis=1) if columns else None
    classes = [name.removeprefix("score_") for name in columns] or None
    return known, (y == p).astype(np.float64), (y, p, matrix, classes)


def _scored(task: str, arrays: tuple[Any, ...], rows: Flags) -> tuple[dict[str, Score], Outcomes]:
    """Scores and mergeable outcomes of the flagged rows of what `_encoded` gave."""
    y, p = arrays[0][rows], arrays[1][rows]
    score, classes = (None if arrays[2] is None else arrays[2][rows]), arrays[3]
    if task == "regression":
        return regression_scores(y, p), Outcomes.regression(y, p)
    if task == "binary":
        return binary_scores(y, p, score), Outcomes.binary(y, p, score)
    return multiclass_scores(y, p, score, classes), Outcomes.multiclass(y, p, score, classes)


def as_floats(values: pa.Array) -> Floats:
    """Numbers as float64; NaN where there is none."""
    try:
        numbers = values.cast(pa.float64(), safe=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        numbers = pa.array([_number(value) for value in values.to_pylist()], pa.float64())
    return np.asarray(pc.fill_null(numbers, float("nan")))


def _number(value: object) -> float | None:
    try:
        return float(str(value))
    except ValueError:
        return None


def as_flags(values: pa.Array) -> Flags:
    """Booleans, null as False."""
    return np.asarray(pc.fill_null(values, False), dtype=bool)  # noqa: FBT003
