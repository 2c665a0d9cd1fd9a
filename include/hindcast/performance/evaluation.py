"""One window against the labels known at one moment, in parts that add up; and what their sum says.

A `Part` is sums of some rows: outcomes per model version, counts per segment value, service. What only the whole window
can tell (which class is the negative one, which values of a segment are frequent, the coverage) is settled at the end,
so that every split of the rows that keeps those of one id together gives the same evaluation.
"""

from __future__ import annotations

import base64
import json
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hindcast.errors import HindcastError
from hindcast.performance.intervals import Score, mean_score, proportion_score
from hindcast.performance.labels import class_name
from hindcast.performance.outcomes import QUANTUM, Outcomes, Task
from hindcast.performance.service import Service

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    # Rows, of these with a usable label, the sum of the primary metric's term over those and of its square (in units
    # of 2⁻¹⁰⁷⁴ for a regression), and of a binary task the rows with a class beyond 0 and 1 and those right of them.
    Sums = tuple[int, int, int, int, int, int]

WHOLE = ("*", "")


@dataclass(frozen=True)
class Segment:
    """A monitored segment.

    Attributes
    ----------
    name : str
    columns : dict
        Columns that may hold it -> its values; None takes the most frequent of the window. The first that the facts
        have counts.
    """

    name: str
    columns: Mapping[str, tuple[str, ...] | None]


@dataclass(frozen=True)
class Question:
    """What to evaluate; it can be pickled and sent to executors.

    Attributes
    ----------
    task : {"binary", "multiclass", "regression"}
    positive_class : bool, int, float or str
        Of a binary task.
    segments : tuple of Segment
    label_edges : tuple of float
        Regression: labels are counted in these bins, right-closed; none, and they are not counted.
    most : int
        Values of a segment whose values are not given.
    """

    task: Task
    positive_class: object = 1
    segments: tuple[Segment, ...] = ()
    most: int = 20
    label_edges: tuple[float, ...] = ()

    def wants(self, names: Iterable[str]) -> list[str]:
        """Columns of the row facts that an evaluation reads, of those that there are."""
        names = list(names)
        fixed = {"prediction_fingerprint", "model_version", "prediction", "latency_ms", "error", *self.tells(names)}
        if "prediction_fingerprint" not in names:
            fixed.add("prediction_id")
        score = {"binary": "score", "multiclass": "score_"}.get(self.task)
        scores = {n for n in names if score and (n.startswith(score) if score.endswith("_") else n == score)}
        return [name for name in names if name in fixed or name in scores]

    def tells(self, names: Iterable[str]) -> frozenset[str]:
        """Of these columns those whose mere presence says something: inline labels, and segments."""
        return frozenset(names) & {"ground_truth", *(c for segment in self.segments for c in segment.columns)}


@dataclass(frozen=True)
class Part:
    """Sums of some rows; add them with ``+`` in any order.

    Attributes
    ----------
    task : {"binary", "multiclass", "regression"}
    columns : frozenset of str
        Of ``ground_truth`` and the segments' columns, those that the row facts have.
    service : Service
    others : pair of frozenset of str
        Of a binary task: classes beside the positive one, two at most, of the labels and of the predictions.
    outcomes : dict
        (model version or None, False) -> outcomes of the rows that can be judged. Under True those of a binary task
        about 0 and 1 that have a class beyond these.
    segments : dict
        (column, value) -> sums; ``("*", "")`` is the whole.
    labels : dict
        Class, or number of the bin, of the known labels -> rows.
    """

    task: Task
    columns: frozenset[str] = frozenset()
    service: Service = field(default_factory=Service)
    others: tuple[frozenset[str], frozenset[str]] = (frozenset(), frozenset())
    outcomes: Mapping[tuple[str | None, bool], Outcomes] = field(default_factory=dict)
    segments: Mapping[tuple[str, str], Sums] = field(default_factory=dict)
    labels: Mapping[str, int] = field(default_factory=dict)

    def __add__(self, other: Part) -> Part:
        nothing = Outcomes(self.task)
        keys = {**self.outcomes, **other.outcomes}
        segments = dict(self.segments)
        for key, sums in other.segments.items():
            segments[key] = _plus(segments[key], sums) if key in segments else sums
        return Part(
            self.task,
            self.columns | other.columns,
            self.service + other.service,
            (two(self.others[0] | other.others[0]), two(self.others[1] | other.others[1])),
            {key: self.outcomes.get(key, nothing) + other.outcomes.get(key, nothing) for key in keys},
            segments,
            {k: self.labels.get(k, 0) + other.labels.get(k, 0) for k in sorted({*self.labels, *other.labels})},
        )

    def to_bytes(self) -> bytes:
        """Compressed JSON; equal parts give equal bytes."""
        outcomes = [[*key, base64.b64encode(each.to_bytes()).decode()] for key, each in self.outcomes.items()]
        content = {
            "task": self.task,
            "columns": sorted(self.columns),
            "service": self.service.to_json(),
            "others": [sorted(names) for names in self.others],
            "outcomes": sorted(outcomes, key=lambda row: (row[0] is not None, row[0] or "", row[1])),
            "segments": sorted([*key, *map(hex, sums)] for key, sums in self.segments.items()),
            "labels": dict(sorted(self.labels.items())),
        }
        return zlib.compress(json.dumps(content, sort_keys=True).encode(), 1)

    @classmethod
    def from_bytes(cls, content: bytes) -> Part:
        """Read what `to_bytes` wrote.

        Raises
        ------
        HindcastError
            The bytes are damaged.
        """
        try:
            read: dict[str, Any] = json.loads(zlib.decompress(content))
            truths, predictions = (frozenset(names) for names in read["others"])
            return cls(
                read["task"],
                frozenset(read["columns"]),
                Service.from_json(read["service"]),
                (truths, predictions),
                {(name, odd): Outcomes.from_bytes(base64.b64decode(each)) for name, odd, each in read["outcomes"]},
                {(row[0], row[1]): _sums(int(digits, 16) for digits in row[2:]) for row in read["segments"]},
                read["labels"],
            )
        except (zlib.error, ValueError, KeyError, TypeError) as error:
            message = f"a stored part of an evaluation is damaged: {error}"
            raise HindcastError(message) from error


def two(names: Iterable[str]) -> frozenset[str]:
    """The two smallest of them: enough to tell whether there is one, or more."""
    return frozenset(sorted(names)[:2])


def _sums(values: Iterable[int]) -> Sums:
    rows, known, total, squares, odd, odd_right = values
    return rows, known, total, squares, odd, odd_right


def _plus(left: Sums, right: Sums) -> Sums:
    return _sums(a + b for a, b in zip(left, right, strict=True))


@dataclass(frozen=True)
class Evaluation:
    """A window as judged at one label age.

    Attributes
    ----------
    outcomes : Outcomes
        Without ranks, as the earlier hours that they are added to.
    scores : dict
        Metric -> score (see `Outcomes.scores`).
    coverage : float in [0, 1]
        Share of the rows that can be judged.
    segments : dict
        ``*`` and every ``column=value`` -> rows that can be judged, the sum of the primary metric's term over them
        (correct: 0 or 1, or the absolute error), and the sum of its square.
    by_version : dict
        Where there are several.
    versions : tuple of str
    service : Service
    columns : frozenset of str
        Of ``ground_truth`` and the segments' columns, those that the row facts have.
    labels : dict
        Class, or number of the bin, of the known labels -> rows.
    """

    outcomes: Outcomes
    scores: dict[str, Score]
    coverage: float
    segments: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    by_version: dict[str, dict[str, Score]] = field(default_factory=dict)
    versions: tuple[str, ...] = ("unknown",)
    service: Service = field(default_factory=Service)
    columns: frozenset[str] = frozenset()
    labels: Mapping[str, int] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """What baselines are summed from."""
        whole = base64.b64encode(self.outcomes.to_bytes()).decode()
        content = {"all": whole, "segments": self.segments, "labels": dict(self.labels)}
        return zlib.compress(json.dumps(content, sort_keys=True).encode(), 1)


def sums_from_bytes(content: bytes) -> tuple[Outcomes, dict[str, tuple[float, float, float]]]:
    """Read what `Evaluation.to_bytes` wrote: the whole window's outcomes, and the segments' sums."""
    read = json.loads(zlib.decompress(content))
    return Outcomes.from_bytes(base64.b64decode(read["all"])), {k: tuple(v) for k, v in read["segments"].items()}


def labels_from_bytes(content: bytes) -> dict[str, int]:
    """Labels of what `Evaluation.to_bytes` wrote; none of what an earlier version wrote."""
    labels: dict[str, int] = json.loads(zlib.decompress(content)).get("labels", {})
    return labels


def segment_score(task: str, sums: Sequence[float]) -> Score:
    """Primary metric of one segment: accuracy, or the mean absolute error."""
    n = int(sums[0])
    if not n:
        return Score(None, None, None, 0, "no labels")
    if task == "regression":
        return mean_score(n, sums[1] / n, sums[2] / n)
    return proportion_score(round(sums[1]), n, "no labels")


def evaluation(question: Question, part: Part) -> Evaluation:
    """What the sum of all parts of a window says.

    Examples
    --------
    >>> part = Part("binary", outcomes={("1", False): Outcomes.binary([1, 0, 1], [1, 0, 0])},
    ...             segments={WHOLE: (4, 3, 2, 2, 0, 0)})
    >>> found = evaluation(Question("binary"), part)
    >>> round(found.scores["accuracy"].value, 4), found.coverage, found.segments
    (0.6667, 0.75, {'*': (3.0, 2.0, 2.0)})
    """
    usual, odd = _judged(question, part)

    def total(versions: Iterable[str | None]) -> Outcomes:
        nothing = Outcomes(part.task)
        kept = [(name, flag) for name in versions for flag, counts in ((False, usual), (True, odd)) if counts]
        return sum((part.outcomes.get(key, nothing) for key in kept), nothing)

    names = {name for name, _ in part.outcomes}
    real = sorted(name for name in names if name is not None)
    outcomes = total(names)
    segments = {label: _resolved(part.task, sums, usual=usual, odd=odd) for label, sums in _labelled(question, part)}
    rows = part.segments.get(WHOLE, (0,))[0]
    return Evaluation(
        outcomes.unranked(),
        outcomes.scores(),
        segments["*"][0] / rows if rows else 0.0,
        segments,
        {name: total([name]).scores() for name in real} if len(real) > 1 else {},
        tuple(sorted({name or "unknown" for name in names})) or ("unknown",),
        part.service,
        part.columns,
        part.labels,
    )


def _judged(question: Question, part: Part) -> tuple[bool, bool]:
    """Whether the usual rows count, and those with a class beyond 0 and 1.

    Of a positive class that is neither 0 nor 1, the negative one is the one other class. Where there are several,
    nothing says which it is, and no row can be judged. Of 0 and 1 it is the other, unless one other name is found.
    """
    truths, predictions = part.others
    if question.task != "binary" or class_name(question.positive_class) in {"0", "1"}:
        return True, len(truths | predictions) == 1
    return len(truths) < 2 and len(predictions) < 2, False


def _resolved(task: Task, sums: Sums, *, usual: bool, odd: bool) -> tuple[float, float, float]:
    _, known, total, squares, strange, right = sums
    if task == "regression":
        return float(known), total / (1 << QUANTUM), squares / (1 << QUANTUM)
    n, correct = usual * known + odd * strange, usual * total + odd * right
    return float(n), float(correct), float(correct)


def _labelled(question: Question, part: Part) -> Iterable[tuple[str, Sums]]:
    """``*`` and ``column=value`` with their sums: the values wanted, or the most frequent ones."""
    nothing = (0, 0, 0, 0, 0, 0)
    yield "*", part.segments.get(WHOLE, nothing)
    for segment in question.segments:
        column = next((name for name in segment.columns if name in part.columns), None)
        if column is None:
            continue
        wanted = segment.columns[column]
        if wanted is None:
            rows = {value: sums[0] for (of, value), sums in part.segments.items() if of == column}
            wanted = tuple(sorted(rows, key=lambda value: (-rows[value], value))[: question.most])
        for value in wanted:
            yield f"{segment.name}={value}", part.segments.get((column, value), nothing)
