"""From counts and moments to scores: what one exact window and merged outcomes have in common."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy import special

from hindcast.performance.intervals import Score, Z, left_out, mean_score, proportion_score, wilson_interval

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]
    Ints = npt.NDArray[np.int64]

CLASS_METRICS = ("accuracy", "precision", "recall", "f1")
SCORE_METRICS = ("roc_auc", "average_precision", "brier_score_loss", "log_loss")
REGRESSION_METRICS = ("mean_absolute_error", "root_mean_squared_error", "mean_absolute_percentage_error", "r2")


def confusion_scores(tn: int, fp: int, fn: int, tp: int) -> dict[str, Score]:
    """Accuracy, precision, recall and F1 from the counts of a binary confusion matrix."""
    n = tn + fp + fn + tp
    jaccard = proportion_score(tp, tp + fp + fn, "neither positives nor predicted positives" if n else "no rows")
    return {
        "accuracy": proportion_score(tp + tn, n, "no rows"),
        "precision": proportion_score(tp, tp + fp, "no predicted positives" if n else "no rows"),
        "recall": proportion_score(tp, tp + fn, "no positives" if n else "no rows"),
        "f1": replace(
            jaccard,
            value=None if jaccard.value is None else 2 * tp / (2 * tp + fp + fn),
            lower=None if jaccard.lower is None else 2 * jaccard.lower / (1 + jaccard.lower),
            upper=None if jaccard.upper is None else 2 * jaccard.upper / (1 + jaccard.upper),
        ),
    }


def ranking_scores(negatives: Ints, positives: Ints, *, binned: bool = False) -> dict[str, Score]:
    """ROC AUC with DeLong's interval, and average precision, from counts per score.

    Parameters
    ----------
    negatives, positives : arrays of shape (n_values,)
        Rows of each class at every score, scores ascending.
    binned : bool
        The values are bins: rows in one are tied though their scores may not be. The intervals then also span
        every order inside the bins.

    Returns
    -------
    dict of roc_auc and average_precision.
    """
    n_neg, n_pos = int(negatives.sum()), int(positives.sum())
    if n_neg == 0 or n_pos == 0:
        undefined = Score(None, None, None, n_neg + n_pos, "one class only" if n_neg + n_pos else "no rows")
        return {"roc_auc": undefined, "average_precision": undefined}
    below, above = placements(negatives, positives)
    auc = float(np.sum(positives * below) / n_pos)
    slack = float(np.sum(positives / n_pos * (negatives / n_neg)) / 2) if binned else 0.0
    if n_neg > 1 and n_pos > 1 and 0 < auc < 1:
        variance = float(np.sum(positives * (below - auc) ** 2)) / (n_pos - 1) / n_pos
        variance += float(np.sum(negatives * (above - auc) ** 2)) / (n_neg - 1) / n_neg
        lower, upper = auc - Z * math.sqrt(variance), auc + Z * math.sqrt(variance)
    else:
        # DeLong's variance is then 0 or undefined. Disjoint pairs of a positive and a negative are independent
        # trials of which there are min(n_neg, n_pos), and their mean varies at least as much as the AUC does.
        lower, upper = wilson_interval(auc, min(n_neg, n_pos))
    roc_auc = Score(auc, max(0.0, lower - slack), min(1.0, upper + slack), n_neg + n_pos)
    return {"roc_auc": roc_auc, "average_precision": _average_precision(negatives, positives, binned=binned)}


def placements(negatives: Ints, positives: Ints) -> tuple[Floats, Floats]:
    """Give, at each of the ascending scores, the share of negatives below and of positives above, ties as half."""
    below = np.cumsum(negatives) - negatives / 2
    above = positives.sum() - np.cumsum(positives) + positives / 2
    return below / negatives.sum(), above / positives.sum()


def _average_precision(negatives: Ints, positives: Ints, *, binned: bool) -> Score:
    n_pos = int(positives.sum())
    negatives, positives = negatives[::-1], positives[::-1]
    true, false = np.cumsum(positives), np.cumsum(negatives)
    value = worst = best = float(np.sum(positives / n_pos * (true / np.maximum(true + false, 1))))
    if binned:
        worst = _step_precision(true - positives, false, positives) / n_pos
        best = _step_precision(true - positives, false - negatives, positives) / n_pos
    lower = wilson_interval(max(0.0, min(value, worst)), n_pos)[0]
    upper = wilson_interval(min(1.0, max(value, best)), n_pos)[1]
    return Score(value, lower, upper, n_pos + int(negatives.sum()))


def _step_precision(true: Ints, false: Ints, positives: Ints) -> float:
    """Sum of the precision at each positive when those of a bin come one by one after `true` and `false` others.

    That is Σⱼ (true + j) / (true + false + j), j = 1 … positives: a difference of digammas.
    """
    seen = true + false + 1.0
    return float(np.sum(positives - false * (special.digamma(seen + positives) - special.digamma(seen))))


def loss_scores(n: int, improper: int, moments: Sequence[float]) -> dict[str, Score]:
    """Brier score and log loss from their means and mean squares; null when scores are not probabilities."""
    if improper:
        undefined = Score(None, None, None, n, f"{improper} of {n} scores lie outside [0, 1]")
        return {"brier_score_loss": undefined, "log_loss": undefined}
    brier, brier_square, loss, loss_square = moments
    return {
        "brier_score_loss": mean_score(n, brier, brier_square, high=1.0),
        "log_loss": mean_score(n, loss, loss_square),
    }


def matrix_scores(true: Ints, predicted: Ints, count: Ints, n_classes: int) -> dict[str, Score]:
    """Accuracy and macro precision, recall and F1 from the non-empty cells of a confusion matrix.

    Parameters
    ----------
    true, predicted, count : arrays of shape (n_cells,)
        Positions of the classes, and rows.
    n_classes : int
    """
    n = int(count.sum())
    if n == 0:
        return dict.fromkeys(CLASS_METRICS, Score(None, None, None, 0, "no rows"))
    right = true == predicted
    support, chosen, hits = (
        np.bincount(of, weights=weights, minlength=n_classes)
        for of, weights in ((true, count), (predicted, count), (true[right], count[right]))
    )
    scores = {"accuracy": proportion_score(int(hits.sum()), n, "no rows")}
    # Each metric of a class is weight·hits / (row·support + column·chosen).
    for name, weight, row, column in (("precision", 1, 0, 1), ("recall", 1, 1, 0), ("f1", 2, 1, 1)):
        base = row * support + column * chosen
        inverse = np.divide(1.0, base, out=np.zeros(n_classes), where=base > 0)
        each = weight * hits * inverse
        influence = weight * right * inverse[true] - row * (each * inverse)[true] - column * (each * inverse)[predicted]
        value, variance = min(1.0, float(each.mean())), float(np.sum(count * influence**2)) / n_classes**2
        # A perfect or a hopeless class has no variance of its own; its rows still limit what is known.
        equal = n_classes**2 / (weight * float(inverse.sum()))
        effective = min(n, value * (1 - value) / variance) if 0 < value < 1 and variance > 0 else equal
        scores[name] = Score(value, *wilson_interval(value, effective), n)
    return scores


def class_loss_score(n: int, improper: int, loss: float, loss_square: float) -> Score:
    """Multiclass log loss from its mean and mean square; null when scores are not probabilities."""
    if n == 0:
        return Score(None, None, None, 0, "no probabilities")
    if improper:
        return Score(None, None, None, n, f"{improper} of {n} rows have probabilities outside [0, 1]")
    return mean_score(n, loss, loss_square)


@dataclass(frozen=True)
class ErrorMoments:
    """Means over the rows of a window: of e = y_pred - y_true, and of d = y_true - its mean.

    `unlike_zero` rows have a true value that a percentage can be taken of; `relative` is |e / y_true| over them. The
    two moments that only R²'s interval needs are null where rounding has eaten them.
    """

    n: int
    absolute: float
    square: float
    fourth: float
    spread: float
    spread_square: float | None
    mixed: float | None
    unlike_zero: int
    relative: float
    relative_square: float


def moment_scores(m: ErrorMoments) -> dict[str, Score]:
    """MAE, RMSE, MAPE and R² from the moments of the errors."""
    if m.n == 0:
        return dict.fromkeys(REGRESSION_METRICS, Score(None, None, None, 0, "no rows"))
    mse = mean_score(m.n, m.square, m.fourth)
    rmse = math.sqrt(m.square)
    half = 0.0 if rmse == 0 or mse.upper is None else (mse.upper - m.square) / (2 * rmse)
    alone = m.n == 1
    percentage = Score(None, None, None, 0, "all true values are 0")
    if m.unlike_zero:
        percentage = mean_score(m.unlike_zero, m.relative, m.relative_square)
    scores = {
        "mean_absolute_error": mean_score(m.n, m.absolute, m.square),
        "root_mean_squared_error": Score(
            rmse, None if alone else max(0.0, rmse - half), None if alone else rmse + half, m.n
        ),
        "mean_absolute_percentage_error": percentage,
        "r2": _r2(m),
    }
    zeros = m.n - m.unlike_zero if m.unlike_zero else 0
    return left_out(scores, zeros, "with a true value of 0", ("mean_absolute_percentage_error",))


def _r2(m: ErrorMoments) -> Score:
    if m.spread <= 0:
        return Score(None, None, None, m.n, "all true values are equal")
    ratio = m.square / m.spread
    if ratio > 1e60:  # its square, times a kurtosis, must stay a float
        return Score(None, None, None, m.n, "the true values hardly vary")
    if m.spread_square is None or m.mixed is None:
        return Score(1 - ratio, None, None, m.n, "no interval: the true values vary little for their size")
    fourth, mixed, spread_square = (x / m.spread / m.spread for x in (m.fourth, m.mixed, m.spread_square))
    half = Z * math.sqrt(max(0.0, fourth - 2 * ratio * mixed + ratio**2 * spread_square) / m.n)
    return Score(1 - ratio, 1 - ratio - half, min(1.0, 1 - ratio + half), m.n)
