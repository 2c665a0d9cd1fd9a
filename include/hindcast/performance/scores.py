"""Performance of one window, each metric with its 95 % interval.

Names and values are scikit-learn's, but for one thing: what is undefined (no positives, one class, constant
target) is null with a reason, never 0, 1 or NaN.

The intervals take rows as independent. Outcomes within an hour are not: they share the weather, the campaign, the
upstream fault, so the same model differs from hour to hour by more than these intervals say. They tell how little a
small window knows; whether a change deserves an alert is decided with the spread of the history as well.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from hindcast.errors import UsageError
from hindcast.performance.formulas import (
    REGRESSION_METRICS,
    SCORE_METRICS,
    ErrorMoments,
    class_loss_score,
    confusion_scores,
    loss_scores,
    matrix_scores,
    moment_scores,
    placements,
    ranking_scores,
)
from hindcast.performance.intervals import Score, Z, left_out, wilson_interval

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    import numpy.typing as npt

    Bools = npt.NDArray[np.bool_]
    Floats = npt.NDArray[np.float64]
    Ints = npt.NDArray[np.int64]

__all__ = ["Score", "binary_scores", "multiclass_scores", "regression_scores"]

# A float32 softmax may give 1.0000001: that is rounding; more is not a probability.
ROUNDING = 1e-6

# Fourth powers of larger values overflow.
LARGEST = 1e75

UNUSABLE = "that are not finite"


def binary_scores(y_true: npt.ArrayLike, y_pred: npt.ArrayLike, score: npt.ArrayLike | None = None) -> dict[str, Score]:
    """Every metric of a binary classifier over one window.

    Parameters
    ----------
    y_true, y_pred : array-like of shape (n,), bool or 0/1
        Truth and predicted class, True the positive one.
    score : array-like of shape (n,), optional
        Probability of the positive class, NaN where there is none; such rows are left out of the last four metrics
        and counted in their reason. Beyond [0, 1] it still ranks, but has no Brier score and no log loss.

    Returns
    -------
    dict of accuracy, precision, recall, f1, roc_auc, average_precision, brier_score_loss, log_loss.
    Guessing gives a ``roc_auc`` of 0.5 and an ``average_precision`` of the share of positives.

    Raises
    ------
    UsageError
        Lengths differ, or a class is neither 0 nor 1.

    References
    ----------
    Intervals: Wilson for accuracy, precision, recall, and for F1 through TP / (TP + FP + FN), a proportion of which
    F1 is a monotone function (the delta method is its first-order form); DeLong, DeLong & Clarke-Pearson (1988),
    Biometrics 44, for the AUC; Boyd, Eng & Page (2013), ECML PKDD, for average precision: binomial in the
    positives, here in Wilson's form; Student's t over the rows for Brier score and log loss.

    Examples
    --------
    >>> scores = binary_scores([1, 1, 0, 0], [1, 0, 0, 0], [0.9, 0.4, 0.6, 0.1])
    >>> scores["recall"].value, scores["roc_auc"].value, round(scores["log_loss"].value, 4)
    (0.5, 0.75, 0.5108)
    >>> binary_scores([0, 0], [0, 0])["precision"].reason
    'no predicted positives'
    """
    truth, guess = binary_classes(y_true, y_pred)
    tn, fp, fn, tp = (int(count) for count in np.bincount(2 * truth + guess, minlength=4))
    scores = confusion_scores(tn, fp, fn, tp)
    if score is None:
        return scores | without_scores(truth.size)
    scored, p, epsilon = clean_scores(score, truth.size)
    truth = truth[scored]
    if truth.size == 0:
        return scores | without_scores(scored.size)
    brier, loss = row_losses(truth, p, epsilon)
    proper = (p >= 0) & (p <= 1)
    moments = [float(np.mean(x)) for x in (brier, brier**2, loss, loss**2)]
    scores |= ranking_scores(*_counts_per_value(truth, p))
    scores |= loss_scores(truth.size, int((~proper).sum()), moments)
    return left_out(scores, int((~scored).sum()), "without a score", SCORE_METRICS)


def binary_classes(y_true: npt.ArrayLike, y_pred: npt.ArrayLike) -> tuple[Bools, Bools]:
    """Both arrays as booleans; raises UsageError on other values than 0 and 1, or on different lengths."""
    truth, guess = np.asarray(y_true), np.asarray(y_pred)
    if truth.shape != guess.shape or truth.ndim != 1:
        message = f"y_true and y_pred are two arrays of one length; got shapes {truth.shape} and {guess.shape}"
        raise UsageError(message)
    for array in (truth, guess):
        if array.dtype != np.bool_ and not ((array == 0) | (array == 1)).all():
            raise UsageError("binary classes are 0 or 1, 1 the positive one")
    return truth.astype(np.bool_), guess.astype(np.bool_)


def clean_scores(score: npt.ArrayLike, n: int) -> tuple[Bools, Floats, float]:
    """Which rows have a score, these scores in float64, and the epsilon at which log loss clips them.

    The epsilon is that of the type in which the scores were logged, as in scikit-learn.
    """
    values = np.asarray(score)
    if values.shape != (n,):
        message = f"score has one value per row; got shape {values.shape} for {n} rows"
        raise UsageError(message)
    epsilon = np.finfo(values.dtype if values.dtype.kind == "f" else np.float64).eps
    widened = values.astype(np.float64)
    scored = np.isfinite(widened)
    p = widened[scored]
    nearly = (p > -ROUNDING) & (p < 1 + ROUNDING)
    return scored, np.where(nearly, np.clip(p, 0.0, 1.0), p), float(epsilon)


def row_losses(truth: Bools, p: Floats, epsilon: float) -> tuple[Floats, Floats]:
    """Squared error and log loss (nats) of each row."""
    given = np.where(truth, p, 1.0 - p)
    return np.square(1.0 - given), -np.log(np.clip(given, epsilon, 1.0 - epsilon))


def _counts_per_value(truth: Bools, p: Floats) -> tuple[Ints, Ints]:
    """Rows of the negative and of the positive class at each distinct score, ascending."""
    values = np.unique(p)
    sides = (np.searchsorted(np.sort(p[of_class]), values, side="right") for of_class in (~truth, truth))
    negatives, positives = (np.diff(side, prepend=0).astype(np.int64) for side in sides)
    return negatives, positives


def without_scores(n: int) -> dict[str, Score]:
    """Give the metrics that need a score when no row has one."""
    return dict.fromkeys(SCORE_METRICS, Score(None, None, None, 0, "no scores" if n else "no rows"))


def multiclass_scores(
    y_true: npt.ArrayLike,
    y_pred: npt.ArrayLike,
    probabilities: npt.ArrayLike | None = None,
    classes: Sequence[Hashable] | None = None,
) -> dict[str, Score]:
    """Every metric of a classifier of three classes or more over one window.

    Parameters
    ----------
    y_true, y_pred : array-like of shape (n,)
        Classes, without nulls, both of one kind.
    probabilities : array-like of shape (n, n_classes), optional
        Used as they are, not normalised.
    classes : sequence, optional
        The classes of the columns of `probabilities`; by default those of `y_true`, sorted.

    Returns
    -------
    dict of accuracy; macro precision, recall and f1 over the classes in `y_true` or `y_pred`, a class that is never
    predicted or never true counting 0 (scikit-learn's ``zero_division=0``); macro one-vs-rest roc_auc; log_loss.
    A class without rows makes roc_auc null: a mean over the others would not compare with other windows.

    Raises
    ------
    UsageError
        Shapes differ, or `probabilities` has another number of columns than there are classes.

    References
    ----------
    Intervals: Wilson for accuracy; for the macro means the delta method over the cells of the confusion matrix
    (Takahashi et al., 2022, Applied Intelligence 52), as the effective sample size of a Wilson interval; for
    roc_auc DeLong's placements averaged over the classes row by row, which accounts for their covariance.

    Examples
    --------
    >>> scores = multiclass_scores(["a", "a", "b", "c"], ["a", "b", "b", "b"])
    >>> scores["accuracy"].value, round(scores["recall"].value, 4), round(scores["precision"].value, 4)
    (0.5, 0.5, 0.4444)
    """
    names, true, predicted = class_codes(y_true, y_pred)
    cells, count = np.unique(true * max(1, len(names)) + predicted, return_counts=True)
    scores = matrix_scores(*np.divmod(cells, max(1, len(names))), count, len(names))
    if probabilities is None or true.size == 0:
        undefined = Score(None, None, None, true.size, "no probabilities" if true.size else "no rows")
        return scores | {"roc_auc": undefined, "log_loss": undefined}
    _, column, p, epsilon = probability_columns(names, true, probabilities, classes)
    if (column < 0).any():
        unknown = Score(None, None, None, true.size, f"{int((column < 0).sum())} rows of classes without probabilities")
        return scores | {"roc_auc": unknown, "log_loss": unknown}
    usable = np.isfinite(p).all(axis=1)
    column, p = column[usable], p[usable]
    scores |= {"roc_auc": _one_vs_rest(column, p), "log_loss": _class_loss(column, p, epsilon)}
    return left_out(scores, int((~usable).sum()), "without probabilities", ("roc_auc", "log_loss"))


def class_codes(y_true: npt.ArrayLike, y_pred: npt.ArrayLike) -> tuple[list[Hashable], Ints, Ints]:
    """Classes of both arrays in order of appearance, and both arrays as positions in that list."""
    sides = [np.asarray(side) for side in (y_true, y_pred)]
    if sides[0].shape != sides[1].shape or sides[0].ndim != 1:
        message = f"y_true and y_pred are two arrays of one length; got shapes {sides[0].shape} and {sides[1].shape}"
        raise UsageError(message)
    rows = [side.tolist() for side in sides]
    position: dict[Hashable, int] = {name: i for i, name in enumerate(dict.fromkeys([*rows[0], *rows[1]]))}
    true, predicted = (np.fromiter((position[name] for name in side), np.int64, len(side)) for side in rows)
    return list(position), true, predicted


def probability_columns(
    names: list[Hashable], true: Ints, probabilities: npt.ArrayLike, classes: Sequence[Hashable] | None
) -> tuple[list[Any], Ints, Floats, float]:
    """Classes of the columns, column of each row's true class (-1: none), probabilities, and log loss's epsilon."""
    p = np.asarray(probabilities)
    present: list[Any] = [names[i] for i in np.unique(true)]
    columns = list(classes) if classes is not None else sorted(present)
    if p.shape != (true.size, len(columns)):
        message = (
            f"probabilities have shape (rows, classes) = ({true.size}, {len(columns)}) for classes {columns}; "
            f"got {p.shape}. Name the classes of the columns with `classes`."
        )
        raise UsageError(message)
    position = {name: i for i, name in enumerate(columns)}
    lookup = np.array([position.get(name, -1) for name in names], np.int64)
    epsilon = np.finfo(p.dtype if p.dtype.kind == "f" else np.float64).eps
    return columns, lookup[true], p.astype(np.float64), float(epsilon)


def class_losses(column: Ints, p: Floats, epsilon: float) -> Floats:
    """Log loss (nats) of each row."""
    return -np.log(np.clip(p[np.arange(column.size), column], epsilon, 1.0 - epsilon))


def improper_rows(p: Floats) -> Bools:
    """Rows with a value that is no probability, rounding apart."""
    return np.asarray(((p < -ROUNDING) | (p > 1 + ROUNDING)).any(axis=1))


def _class_loss(column: Ints, p: Floats, epsilon: float) -> Score:
    loss = class_losses(column, p, epsilon)
    means = (float(np.mean(loss)), float(np.mean(loss**2))) if loss.size else (0.0, 0.0)
    return class_loss_score(column.size, int(improper_rows(p).sum()), *means)


def _one_vs_rest(column: Ints, p: Floats) -> Score:
    n, n_classes = p.shape
    if n == 0:
        return Score(None, None, None, 0, "no probabilities")
    support = np.bincount(column, minlength=n_classes)
    if n_classes < 2 or (support == 0).any():
        empty = (
            f"{int((support == 0).sum())} of {n_classes} classes have no rows" if n_classes > 1 else "one class only"
        )
        return Score(None, None, None, n, empty)
    areas, influence = [], np.zeros(n)
    for k in range(n_classes):
        mine = column == k
        values, at = np.unique(p[:, k], return_inverse=True)
        others, own = (np.bincount(at[side], minlength=values.size) for side in (~mine, mine))
        below, above = placements(others, own)
        placed = np.where(mine, below[at], above[at])
        areas.append(float(placed[mine].mean()))
        influence += (placed - areas[-1]) / np.where(mine, support[k], n - support[k]) / n_classes
    value, half = float(np.mean(areas)), Z * math.sqrt(float(np.sum(influence**2)))
    bounds = (value - half, value + half) if 0 < value < 1 else wilson_interval(value, float(support.min()))
    return Score(value, max(0.0, bounds[0]), min(1.0, bounds[1]), n)


def regression_scores(y_true: npt.ArrayLike, y_pred: npt.ArrayLike) -> dict[str, Score]:
    """Every metric of a regression over one window.

    Parameters
    ----------
    y_true, y_pred : array-like of shape (n,)
        In the target's unit. Rows with NaN, infinity or a value beyond 1e75 are left out and counted in the reason.

    Returns
    -------
    dict of mean_absolute_error and root_mean_squared_error in the target's unit, [0, inf);
    mean_absolute_percentage_error, a fraction, over rows whose true value is not 0 (scikit-learn divides by 2e-16
    instead); r2 in (-inf, 1], 0 for a model that always says the mean.

    Raises
    ------
    UsageError
        Lengths differ.

    References
    ----------
    Intervals: Student's t over the rows for the means; for RMSE and R² the delta method (van der Vaart, 1998,
    Asymptotic Statistics, ch. 3) with the fourth moments as found, not those of a normal.

    Examples
    --------
    >>> scores = regression_scores([1.0, 2.0, 3.0, 4.0], [1.0, 2.5, 3.0, 3.5])
    >>> scores["mean_absolute_error"].value, scores["r2"].value
    (0.25, 0.9)
    """
    y, error, dropped = regression_rows(y_true, y_pred)
    if y.size == 0:
        moments = ErrorMoments(0, 0.0, 0.0, 0.0, 0.0, None, None, 0, 0.0, 0.0)
        return left_out(moment_scores(moments), dropped, UNUSABLE, REGRESSION_METRICS)
    constant = bool(y.min() == y.max())
    square, spread = error**2, np.zeros(y.size) if constant else (y - np.mean(y)) ** 2
    percent = percentages(y, error)
    moments = ErrorMoments(
        n=y.size,
        absolute=float(np.mean(np.abs(error))),
        square=float(np.mean(square)),
        fourth=float(np.mean(square**2)),
        spread=float(np.mean(spread)),
        spread_square=float(np.mean(spread**2)),
        mixed=float(np.mean(square * spread)),
        unlike_zero=percent.size,
        relative=float(np.mean(percent)) if percent.size else 0.0,
        relative_square=float(np.mean(percent**2)) if percent.size else 0.0,
    )
    return left_out(moment_scores(moments), dropped, UNUSABLE, REGRESSION_METRICS)


def regression_rows(y_true: npt.ArrayLike, y_pred: npt.ArrayLike) -> tuple[Floats, Floats, int]:
    """Give true values and errors of the usable rows, and how many rows are not usable."""
    y, guess = np.asarray(y_true, np.float64), np.asarray(y_pred, np.float64)
    if y.shape != guess.shape or y.ndim != 1:
        message = f"y_true and y_pred are two arrays of one length; got shapes {y.shape} and {guess.shape}"
        raise UsageError(message)
    # NaN compares false.
    usable = (np.abs(y) < LARGEST) & (np.abs(guess) < LARGEST)
    return y[usable], guess[usable] - y[usable], int((~usable).sum())


def percentages(y: Floats, error: Floats) -> Floats:
    """|e / y| of the rows whose true value is not 0."""
    unlike_zero = np.abs(y) >= np.finfo(np.float64).eps
    return np.abs(error[unlike_zero] / y[unlike_zero])
