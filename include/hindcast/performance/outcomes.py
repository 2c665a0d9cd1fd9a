"""Outcomes of predictions that can be added: hours into days and baselines, without the rows.

Adding is exact. Counts are integers, and so are the sums: a float64 is a whole number of 2⁻¹⁰⁷⁴, the smallest of them,
and Python's integers have no end. Every order and every split of the same rows therefore gives the same bytes, and
the only rounding is that of each row's own term (its squared error, its log loss), at most one part in 10¹⁵.
"""

from __future__ import annotations

import json
import math
import zlib
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from hindcast.errors import HindcastError, UsageError
from hindcast.performance.counted import Counted
from hindcast.performance.formulas import (
    REGRESSION_METRICS,
    SCORE_METRICS,
    ErrorMoments,
    class_loss_score,
    confusion_scores,
    loss_scores,
    matrix_scores,
    moment_scores,
    ranking_scores,
)
from hindcast.performance.intervals import Score, left_out
from hindcast.performance.scores import (
    UNUSABLE,
    binary_classes,
    class_codes,
    class_losses,
    clean_scores,
    improper_rows,
    percentages,
    probability_columns,
    regression_rows,
    row_losses,
    without_scores,
)

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]
    Ints = npt.NDArray[np.int64]

Task = Literal["binary", "multiclass", "regression"]

VERSION = 1

# Score bins: (-inf, 0], 1,000 right-closed ones over (0, 1], and (1, inf). They are equally wide in arcsin(√p), in
# which a proportion has the same spread everywhere (Anscombe, 1948): equal steps of p would put the scores of a rare
# event (fraud, clicks) into ten bins. Rounded, so that no machine's sine moves an edge.
EDGES = np.round(np.sin(np.linspace(0, np.pi / 2, 1001)) ** 2, 9)
BINS = EDGES.size + 1

# Every float64 is a whole number of these.
QUANTUM = 1074

_NONE = Counted.of([np.empty(0)] * 2)

# Values whose leading bits are added up at once: the sum of 2¹⁷ numbers of 35 bits fits a float64.
_EXTRACTED = 1 << 17
_HUGE = 2.0**1000

K = TypeVar("K")

# A mean of squares loses this much of a variance before its fourth moments are given up as rounding.
FARTHEST = 10**6


@dataclass(frozen=True, eq=False)
class Outcomes:
    """Labelled predictions of one task, summed up; add them with ``+``, start from ``Outcomes(task)``.

    Parameters
    ----------
    task : {"binary", "multiclass", "regression"}
    cells : mapping of (true class, predicted class) to rows
        The confusion matrix, classes as text; of a binary task "1" and "0".
    counts : mapping of name to rows
    sums : mapping of name to integer
        Sums over rows in units of 2⁻¹⁰⁷⁴. Names, counts and cells that are 0 are absent.
    histogram : int64 array of shape (2, 1002)
        Rows per score bin, of the negative and of the positive class.
    ranks : mapping of class to `Counted`
        Rows of the other classes and of this one at each of its scores; of a binary task for "1" only. Finer than the
        histogram, and not stored with the hours (see `unranked`).

    Examples
    --------
    >>> morning = Outcomes.binary([1, 0], [1, 0], [0.9, 0.2])
    >>> evening = Outcomes.binary([1, 0], [0, 0], [0.4, 0.3])
    >>> day = morning + evening
    >>> day.scores()["recall"].value, day.n
    (0.5, 4)
    >>> Outcomes.from_bytes(day.to_bytes()) == evening + morning + Outcomes("binary")
    True
    """

    task: Task
    cells: Mapping[tuple[str, str], int] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    sums: Mapping[str, int] = field(default_factory=dict)
    histogram: Ints = field(default_factory=lambda: np.zeros((2, BINS), np.int64))
    ranks: Mapping[str, Counted] = field(default_factory=dict)

    @classmethod
    def binary(cls, y_true: npt.ArrayLike, y_pred: npt.ArrayLike, score: npt.ArrayLike | None = None) -> Outcomes:
        """Sum up one batch; parameters and errors are those of `hindcast.performance.scores.binary_scores`."""
        truth, guess = binary_classes(y_true, y_pred)
        tally = np.bincount(2 * truth + guess, minlength=4).tolist()
        cells = dict(zip([("0", "0"), ("0", "1"), ("1", "0"), ("1", "1")], tally, strict=True))
        if score is None:
            return cls("binary", _filled(cells))
        scored, p, epsilon = clean_scores(score, truth.size)
        truth = truth[scored]
        sides = [np.sort(p[of_class]) for of_class in (~truth, truth)]
        histogram = np.stack([_counts(ordered) for ordered in sides])
        proper = (p >= 0) & (p <= 1)
        brier, loss = row_losses(truth[proper], p[proper], epsilon)
        counts = {"improper": int((~proper).sum())}
        return cls(
            "binary", _filled(cells), _filled(counts), _loss_sums(brier, loss), histogram, {"1": Counted.of(sides)}
        )

    @classmethod
    def multiclass(
        cls,
        y_true: npt.ArrayLike,
        y_pred: npt.ArrayLike,
        probabilities: npt.ArrayLike | None = None,
        classes: Sequence[Hashable] | None = None,
    ) -> Outcomes:
        """Sum up one batch; parameters and errors are those of `hindcast.performance.scores.multiclass_scores`."""
        return cls.of_codes(*class_codes(y_true, y_pred), probabilities, classes)

    @classmethod
    def of_codes(
        cls,
        names: list[Hashable],
        true: Ints,
        predicted: Ints,
        probabilities: npt.ArrayLike | None = None,
        classes: Sequence[Hashable] | None = None,
    ) -> Outcomes:
        """Sum up one batch of a multiclass task whose classes are given as positions in `names`."""
        pairs, rows = np.unique(true * max(1, len(names)) + predicted, return_counts=True)
        cells: dict[tuple[str, str], int] = {}
        for pair, count in zip(pairs.tolist(), rows.tolist(), strict=True):
            of, said = divmod(pair, len(names))
            key = (str(names[of]), str(names[said]))
            cells[key] = cells.get(key, 0) + count
        if probabilities is None or true.size == 0:
            return cls("multiclass", cells)
        columns, column, p, epsilon = probability_columns(names, true, probabilities, classes)
        usable = (column >= 0) & np.isfinite(p).all(axis=1)
        improper = usable & improper_rows(p)
        proper = usable & ~improper
        counts = {
            "unlisted": int((column < 0).sum()),
            "improper": int(improper.sum()),
            "probable": int(usable.sum()),
        }
        loss = class_losses(column[proper], p[proper], epsilon)
        ranks = {}
        for k, name in enumerate(columns):
            mine = column[usable] == k
            ranks[str(name)] = Counted.of([p[usable, k][side] for side in (~mine, mine)])
        return cls("multiclass", cells, _filled(counts), _loss_sums(loss[:0], loss), ranks=ranks)

    @classmethod
    def regression(cls, y_true: npt.ArrayLike, y_pred: npt.ArrayLike) -> Outcomes:
        """Sum up one batch; parameters and errors are those of `hindcast.performance.scores.regression_scores`."""
        y, error, dropped = regression_rows(y_true, y_pred)
        percent, square, y_square = percentages(y, error), error**2, y**2
        # Two halves of 26 bits each, whose products are exact: R² is a difference of large sums of squares.
        high = 134217729.0 * y - (134217729.0 * y - y)
        low = y - high
        sums = {
            "e": exact_sum(error),
            "|e|": exact_sum(np.abs(error)),
            "e2": exact_sum(square),
            "e4": exact_sum(square**2),
            "y": exact_sum(y),
            "y2": exact_sum(high * high) + exact_sum(2.0 * high * low) + exact_sum(low * low),
            "y3": exact_sum(y_square * y),
            "y4": exact_sum(y_square**2),
            "e2y": exact_sum(square * y),
            "e2y2": exact_sum(square * y_square),
            "|e/y|": exact_sum(percent),
            "(e/y)2": exact_sum(percent**2),
        }
        counts = {"n": y.size, "unlike_zero": percent.size, "dropped": dropped}
        return cls("regression", {}, _filled(counts), _filled(sums))

    @property
    def n(self) -> int:
        """Rows with a label and a prediction that could be used."""
        return self.counts.get("n", 0) if self.task == "regression" else sum(self.cells.values())

    def __add__(self, other: Outcomes) -> Outcomes:
        if self.task != other.task:
            message = f"outcomes of a {self.task} and of a {other.task} model do not add up"
            raise UsageError(message)
        return Outcomes(
            self.task,
            _added(self.cells, other.cells),
            _added(self.counts, other.counts),
            _added(self.sums, other.sums),
            self.histogram + other.histogram,
            {n: self.ranks.get(n, _NONE) + other.ranks.get(n, _NONE) for n in {**self.ranks, **other.ranks}},
        )

    def unranked(self) -> Outcomes:
        """Without the ranks, which take more room than all the rest."""
        return replace(self, ranks={})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Outcomes) and self._state() == other._state()

    def __hash__(self) -> int:
        return hash(self._state())

    def to_bytes(self) -> bytes:
        """Compressed JSON; equal outcomes give equal bytes, an empty one some thirty."""
        return zlib.compress(self._state().encode(), 9)

    @classmethod
    def from_bytes(cls, data: bytes) -> Outcomes:
        """Read what `to_bytes` wrote.

        Raises
        ------
        HindcastError
            The bytes are damaged, or of a version that this code does not know.
        """
        try:
            state: dict[str, Any] = json.loads(zlib.decompress(data))
            version = state["v"]
        except (zlib.error, ValueError, KeyError, TypeError) as error:
            message = f"stored outcomes are damaged: {error}"
            raise HindcastError(message) from error
        if version != VERSION:
            message = f"stored outcomes have version {version}; this release reads {VERSION}"
            raise HindcastError(message)
        return cls(
            state["t"],
            {(true, predicted): count for true, predicted, count in state.get("c", [])},
            state.get("k", {}),
            {name: int(digits, 16) << shift for name, (digits, shift) in state.get("s", {}).items()},
            _dense(state.get("h")),
            {name: Counted.from_json(found) for name, found in state.get("r", {}).items()},
        )

    def _state(self) -> str:
        parts = {
            "c": sorted([*pair, count] for pair, count in self.cells.items()),
            "k": self.counts,
            "s": {name: _shortened(value) for name, value in self.sums.items()},
            "h": _sparse(self.histogram),
            "r": {name: ranks.to_json() for name, ranks in self.ranks.items() if ranks.rows},
        }
        state = {"v": VERSION, "t": self.task} | {key: part for key, part in parts.items() if part}
        return json.dumps(state, sort_keys=True, separators=(",", ":"))

    def scores(self) -> dict[str, Score]:
        """Every metric that the exact functions of `hindcast.performance.scores` give, from the sums.

        Counts and sums give the same numbers as the rows would. Rank metrics do, too, up to 65,536 rows. Beyond, and
        where hours without ranks were added, they come from bins (see `Counted`, and 1,000 of them): the AUC is off by
        some 1e-8, and by 2e-6 at 100,000 rows and 5e-5 at 1,000; scores crowded into few bins by more, so the interval
        of roc_auc and average_precision then also spans every order inside the bins (compare binned with binned). The
        interval of a multiclass roc_auc is the mean of its classes' intervals: not narrower than the truth, however
        these hang together. Without ranks it is null.
        """
        if self.task == "binary":
            return self._binary_scores()
        return self._multiclass_scores() if self.task == "multiclass" else self._regression_scores()

    def _binary_scores(self) -> dict[str, Score]:
        tally = [self.cells.get((true, said), 0) for true in "01" for said in "01"]
        scores = confusion_scores(*tally)
        scored, improper = int(self.histogram.sum()), self.counts.get("improper", 0)
        if scored == 0:
            return scores | without_scores(self.n)
        moments = [_mean(self.sums.get(name, 0), scored) for name in ("brier", "brier2", "loss", "loss2")]
        ranks = self.ranks.get("1", _NONE)
        whole = ranks.rows == scored
        scores |= ranking_scores(*(ranks.counts if whole else self.histogram), binned=not (whole and ranks.exact))
        scores |= loss_scores(scored, improper, moments)
        return left_out(scores, self.n - scored, "without a score", SCORE_METRICS)

    def _multiclass_scores(self) -> dict[str, Score]:
        names = {name: i for i, name in enumerate(sorted({name for pair in self.cells for name in pair}))}
        cells = np.array([(names[a], names[b], rows) for (a, b), rows in sorted(self.cells.items())], np.int64).reshape(
            -1, 3
        )
        true, predicted, rows = cells.T
        probable, unlisted = self.counts.get("probable", 0), self.counts.get("unlisted", 0)
        loss, loss_square = (_mean(self.sums.get(name, 0), max(1, probable)) for name in ("loss", "loss2"))
        scores = matrix_scores(true, predicted, rows, len(names)) | {
            "roc_auc": self._one_vs_rest(),
            "log_loss": class_loss_score(probable, self.counts.get("improper", 0), loss, loss_square),
        }
        if self.n == 0:
            return scores | {"log_loss": scores["roc_auc"]}
        if unlisted:
            unknown = Score(None, None, None, self.n, f"{unlisted} rows of classes without probabilities")
            return scores | {"roc_auc": unknown, "log_loss": unknown}
        without = self.n - probable if probable else 0
        return left_out(scores, without, "without probabilities", ("roc_auc", "log_loss"))

    def _one_vs_rest(self) -> Score:
        """Macro mean of each class's AUC against the others."""
        probable, ranks = self.counts.get("probable", 0), list(self.ranks.values())
        if probable == 0 or any(of_class.rows != probable for of_class in ranks) or not ranks:
            lost = "not kept when hours are added" if probable else "no probabilities"
            return Score(None, None, None, self.n, lost if self.n else "no rows")
        empty = sum(not of_class.counts[1].any() for of_class in ranks)
        if empty or len(ranks) == 1:
            reason = f"{empty} of {len(ranks)} classes have no rows" if len(ranks) > 1 else "one class only"
            return Score(None, None, None, probable, reason)
        areas = [ranking_scores(*each.counts, binned=not each.exact)["roc_auc"] for each in ranks]
        bounds = [(area.value or 0.0, area.lower or 0.0, area.upper or 0.0) for area in areas]
        value, lower, upper = (math.fsum(each) / len(each) for each in zip(*bounds, strict=True))
        return Score(value, lower, upper, probable)

    def _regression_scores(self) -> dict[str, Score]:
        n, unlike_zero = self.n, self.counts.get("unlike_zero", 0)
        mean = {name: Fraction(value, max(1, n) << QUANTUM) for name, value in self.sums.items()}
        y, y2, y3, y4, e2, e2y, e2y2 = (
            mean.get(name, Fraction(0)) for name in ("y", "y2", "y3", "y4", "e2", "e2y", "e2y2")
        )
        spread = y2 - y**2
        near = y**2 <= FARTHEST * spread
        moments = ErrorMoments(
            n=n,
            absolute=float(mean.get("|e|", 0)),
            square=float(e2),
            fourth=float(mean.get("e4", 0)),
            spread=float(spread),
            spread_square=float(y4 - 4 * y * y3 + 6 * y**2 * y2 - 3 * y**4) if near else None,
            mixed=float(e2y2 - 2 * y * e2y + y**2 * e2) if near else None,
            unlike_zero=unlike_zero,
            relative=_mean(self.sums.get("|e/y|", 0), max(1, unlike_zero)),
            relative_square=_mean(self.sums.get("(e/y)2", 0), max(1, unlike_zero)),
        )
        return left_out(moment_scores(moments), self.counts.get("dropped", 0), UNUSABLE, REGRESSION_METRICS)


def exact_sum(values: Floats) -> int:
    """Sum of finite float64 values, without any rounding, in units of 2⁻¹⁰⁷⁴.

    Each pass takes the leading 35 bits of every value off and adds them up exactly (Rump, Ogita & Oishi, 2008, SIAM
    Journal on Scientific Computing 31).

    Examples
    --------
    >>> total = exact_sum(np.array([1e100, 1.0, -1e100]))
    >>> total / 2**1074
    1.0
    """
    total = 0
    for start in range(0, values.size, _EXTRACTED):
        rest = values[start : start + _EXTRACTED]
        while (largest := float(np.abs(rest).max())) > 0.0:
            if largest > _HUGE:  # the anchor would be infinite
                huge = np.abs(rest) > _HUGE
                total += exact_sum(np.ldexp(rest[huge], -128)) << 128
                rest = np.where(huge, 0.0, rest)
                continue
            anchor = math.ldexp(1.0, math.frexp(largest)[1] + _EXTRACTED.bit_length())
            # multiples of one unit, so few that any order of adding them is exact
            high = (rest + anchor) - anchor
            numerator, denominator = float(high.sum()).as_integer_ratio()
            total += (numerator << QUANTUM) // denominator
            rest = rest - high
    return total


def _counts(ordered: Floats) -> Ints:
    """Rows per score bin; searching the edges in sorted scores costs a fifth of searching every score."""
    cuts = np.searchsorted(ordered, EDGES, side="right")
    counts: Ints = np.diff(cuts, prepend=0, append=ordered.size).astype(np.int64)
    return counts


def _sparse(histogram: Ints) -> list[list[int]] | None:
    bins = np.flatnonzero(histogram.any(axis=0))
    return [np.diff(bins, prepend=0).tolist(), *histogram[:, bins].tolist()] if bins.size else None


def _dense(found: list[list[int]] | None) -> Ints:
    histogram = np.zeros((2, BINS), np.int64)
    if found:
        steps, negatives, positives = (np.array(row, np.int64) for row in found)
        histogram[:, np.cumsum(steps)] = negatives, positives
    return histogram


def _loss_sums(brier: Floats, loss: Floats) -> dict[str, int]:
    terms = {"brier": brier, "brier2": brier**2, "loss": loss, "loss2": loss**2}
    return _filled({name: exact_sum(values) for name, values in terms.items()})


def _mean(total: int, n: int) -> float:
    return total / (n << QUANTUM)


def _filled(entries: Mapping[K, int]) -> dict[K, int]:
    """Without the zeros, so that equal outcomes have equal bytes whatever they were added from."""
    return {key: value for key, value in entries.items() if value}


def _added(left: Mapping[K, int], right: Mapping[K, int]) -> dict[K, int]:
    """Sum entry by entry; a sum of signed errors may come to 0."""
    return _filled({key: left.get(key, 0) + right.get(key, 0) for key in {**left, **right}})


def _shortened(value: int) -> tuple[str, int]:
    """Hexadecimal digits without the trailing zero bits, and how many these were."""
    shift = (value & -value).bit_length() - 1
    return format(value >> shift, "x"), shift
