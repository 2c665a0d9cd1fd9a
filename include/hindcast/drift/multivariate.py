"""Drift that no single feature need show: rows off the baseline's plane, that trees tell apart, that correlate anew.

Each of the three compares a sample of rows with a sample of baseline rows, one matrix each; neither is changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hindcast.errors import NotEnoughData

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
    Integers = np.ndarray[tuple[int, ...], np.dtype[np.int64]]

VARIANCE_KEPT = 0.65  # NannyML's default
CHUNKS, DEVIATIONS = 10, 3.0
FOLDS = 5
# Of a column, so many rows must differ from its most common value: two rare events that meet once correlate by chance.
LEAST_SPREAD = 0.05
LEAST_HISTORY, HISTORY_DEVIATIONS = 7, 3.0


@dataclass(frozen=True)
class Rows:
    """Rows of several features as numbers.

    Attributes
    ----------
    numeric : float array of shape (n, p)
        NaN where there is no value.
    codes : int array of shape (n, q)
        Position of a category in a dictionary that baseline and window share; -1 where there is none.
    """

    numeric: Floats
    codes: Integers

    def __len__(self) -> int:
        return self.numeric.shape[0]

    @property
    def columns(self) -> int:
        """Features: the numeric ones, then the categorical ones."""
        return self.numeric.shape[1] + self.codes.shape[1]

    def at(self, rows: Integers) -> Rows:
        """Some of the rows, by position."""
        return Rows(self.numeric[rows], self.codes[rows])

    def chunks(self, count: int) -> list[Rows]:
        """`count` runs of rows, as equal as can be."""
        return [self.at(rows) for rows in np.array_split(np.arange(len(self)), count)]


# --- PCA reconstruction error ---


@dataclass(frozen=True)
class Pca:
    """What `fit_pca` learnt: how to fill, encode and scale a row, and the plane that it should lie in.

    Attributes
    ----------
    means : float array of shape (p,)
        Of the numeric features: what fills a gap.
    modes : int array of shape (q,)
        The most frequent code of each categorical feature.
    frequencies : sequence of q float arrays
        Share of each code.
    center, scale : float arrays of shape (p + q,)
    components : float array of shape (k, p + q)
        Orthonormal rows.
    spread : float
        Standard deviation of the reference's row errors.
    """

    means: Floats
    modes: Integers
    frequencies: Sequence[Floats]
    center: Floats
    scale: Floats
    components: Floats
    spread: float

    def residuals(self, rows: Rows) -> Floats:
        """What the plane leaves of each scaled value, (n, p + q)."""
        scaled = (_encoded(rows, self.means, self.modes, self.frequencies) - self.center) / self.scale
        found: Floats = scaled - scaled @ self.components.T @ self.components
        return found

    def error(self, rows: Rows) -> float:
        """Mean Euclidean norm of the residuals, in standard deviations of the reference.

        Raises
        ------
        NotEnoughData
            There are no rows.
        """
        if not len(rows):
            raise NotEnoughData("no rows to reconstruct")
        return float(row_norms(self.residuals(rows)).mean())

    def sampling_error(self, n: int) -> float:
        """Standard error of the error of `n` rows."""
        return float(self.spread / np.sqrt(n))


def row_norms(residuals: Floats) -> Floats:
    """Euclidean norm of each row, (n,)."""
    found: Floats = np.sqrt(np.einsum("ij,ij->i", residuals, residuals))
    return found


def _encoded(rows: Rows, means: Floats, modes: Integers, frequencies: Sequence[Floats]) -> Floats:
    numeric = np.where(np.isnan(rows.numeric), means, rows.numeric)
    codes = np.where(rows.codes < 0, modes, rows.codes)
    shares = [_shares(codes[:, j], known) for j, known in enumerate(frequencies)]
    return np.column_stack([numeric, *shares])


def _shares(codes: Integers, known: Floats) -> Floats:
    """Share of each code in the reference; 0 for one that it does not have."""
    padded = np.append(known, 0.0)
    found: Floats = padded[np.minimum(codes, known.size)]
    return found


def fit_pca(reference: Rows, *, variance: float = VARIANCE_KEPT, components: int | None = None) -> Pca:
    """Fill gaps with the mean or the most frequent category, put frequencies for categories, scale, and fit a PCA.

    Parameters
    ----------
    reference : Rows
    variance : float in (0, 1)
        The smallest number of components that explain more than this share of the variance are kept.
    components : int, optional
        So many instead.

    Raises
    ------
    NotEnoughData
        Fewer than two rows or two columns, a column without any value, or no column varies.

    Notes
    -----
    NannyML's definition (`DataReconstructionDriftCalculator` of nannyml 0.13), to rounding. Integers that are
    categories must be given as codes.

    Examples
    --------
    >>> steps = np.arange(100.0)
    >>> line = Rows(np.column_stack([steps, 2 * steps]), np.empty((100, 0), np.int64))
    >>> pca = fit_pca(line)
    >>> round(pca.error(line), 6), round(pca.error(Rows(line.numeric * [1, -1], line.codes)), 2)
    (0.0, 2.43)
    """
    if len(reference) < 2 or reference.columns < 2:
        message = f"{len(reference)} rows of {reference.columns} columns; a plane needs two of each"
        raise NotEnoughData(message)
    filled = ~np.isnan(reference.numeric)
    if not filled.any(axis=0).all() or not (reference.codes >= 0).any(axis=0).all():
        raise NotEnoughData("a column has no values")
    means = np.where(filled, reference.numeric, 0.0).sum(axis=0) / filled.sum(axis=0)
    known = [np.bincount(codes[codes >= 0]) for codes in reference.codes.T]
    modes = np.array([int(counts.argmax()) for counts in known], np.int64)
    # NannyML fills the gaps first, so they count for the most frequent category.
    frequencies = [
        np.bincount(np.where(codes < 0, mode, codes)) / len(reference)
        for codes, mode in zip(reference.codes.T, modes, strict=True)
    ]
    values = _encoded(reference, means, modes, frequencies)
    center, scale = values.mean(axis=0), values.std(axis=0)
    scale[scale <= 10 * np.finfo(float).eps * np.abs(center)] = 1.0  # a constant, but for rounding
    scaled = (values - center) / scale
    plane = _components(scaled, variance, components)
    norms = row_norms(scaled - scaled @ plane.T @ plane)
    return Pca(means, modes, frequencies, center, scale, plane, float(norms.std(ddof=1)))


def _components(scaled: Floats, variance: float, count: int | None) -> Floats:
    values, vectors = np.linalg.eigh(scaled.T @ scaled)
    explained = np.cumsum(values[::-1])
    if explained[-1] <= 0:
        raise NotEnoughData("no column varies")
    kept = count or int(np.searchsorted(explained / explained[-1], variance, side="right")) + 1
    found: Floats = vectors[:, ::-1][:, :kept].T
    return found


def held_out_errors(reference: Rows, *, chunks: int = CHUNKS, variance: float = VARIANCE_KEPT) -> list[float]:
    """Error of each chunk of the reference in the plane of the others, of as many components as that of all; (chunks,).

    The plane of a few thousand rows bends towards them: with fifty unrelated features, rows that it was not fitted to
    lie ten chunk deviations further off, so that limits from the rows of the fit would be exceeded every day.

    Raises
    ------
    NotEnoughData
        As in `fit_pca`, of a part of the rows.

    Examples
    --------
    >>> values = np.sin(np.arange(600.0) ** 2).reshape(100, 6)
    >>> rows = Rows(values, np.empty((100, 0), np.int64))
    >>> pca, parts = fit_pca(rows), rows.chunks(5)
    >>> [round(float(np.mean(e)), 2) for e in ([pca.error(part) for part in parts], held_out_errors(rows, chunks=5))]
    [1.13, 1.34]
    """
    every, kept = np.arange(len(reference)), len(fit_pca(reference, variance=variance).components)
    return [
        fit_pca(reference.at(np.delete(every, held)), components=kept).error(reference.at(held))
        for held in np.array_split(every, chunks)
    ]


def chunk_limits(errors: Iterable[float], *, deviations: float = DEVIATIONS) -> tuple[float, float]:
    """Limits of a chunk's error: mean plus and minus some standard deviations of the reference's chunks.

    NannyML's rule; a chunk should have as many rows as what is held against the limits. With fewer they are wider
    than they need be.

    Raises
    ------
    NotEnoughData
        There are fewer than two chunks.

    Examples
    --------
    >>> [round(limit, 3) for limit in chunk_limits([1.0, 1.1, 0.9])]
    [0.755, 1.245]
    """
    found = np.array(list(errors))
    if found.size < 2:
        raise NotEnoughData("limits need two chunks of the reference")
    mean, deviation = found.mean(), found.std()
    return float(mean - deviations * deviation), float(mean + deviations * deviation)


# --- domain classifier ---


@dataclass(frozen=True)
class Separation:
    """How well a classifier tells window from baseline.

    Attributes
    ----------
    auc, lower, upper : float
        Cross-validated ROC AUC with its 95 % interval.
    p_value : float
        Of an AUC no larger than a half.
    importance : float array of shape (p + q,)
        Share of the trees' gain; sums to 1, or is 0 where they found no split.
    """

    auc: float
    lower: float
    upper: float
    p_value: float
    importance: Floats


def domain_classifier(baseline: Rows, current: Rows, *, folds: int = FOLDS, seed: int = 13) -> Separation:
    """Cross-validated AUC of boosted trees that tell the rows of two samples apart.

    Parameters
    ----------
    baseline, current : Rows
        A gap is a value of its own; categories are ranked by their frequency in the baseline.
    folds : int
        Each side's rows are dealt out in turn, so that every fold holds both.
    seed : int

    Returns
    -------
    Separation
        `auc` about 0.5 when nothing has changed: the mean over the folds, each of rows its trees did not see. Its
        interval is DeLong's of each fold, averaged as of independent rows (LeDell, Petersen & van der Laan, 2015,
        Computationally efficient confidence intervals for cross-validated area under the ROC curve estimates).

    Raises
    ------
    NotEnoughData
        A side has fewer than two rows a fold.

    Notes
    -----
    The trees are LightGBM's with NannyML's settings (100 trees of 31 leaves), but 63 bins instead of 255, for half the
    cost. NannyML pools the scores of folds whose trees differ, which biases the AUC downwards, drops rows that both
    sides have, and gives no interval.

    Examples
    --------
    >>> steps = np.arange(200.0)[:, None]
    >>> codes = np.empty((200, 0), np.int64)
    >>> domain_classifier(Rows(steps, codes), Rows(steps + 400, codes)).auc
    1.0
    """
    if min(len(baseline), len(current)) < 2 * folds:
        message = f"{min(len(baseline), len(current))} rows on a side; {folds} folds need {2 * folds}"
        raise NotEnoughData(message)
    values = _for_trees(baseline, current)
    side = np.repeat([0.0, 1.0], [len(baseline), len(current)])
    fold = np.concatenate([np.arange(len(baseline)), np.arange(len(current))]) % folds
    found, gains = [], np.zeros(values.shape[1])
    for held in range(folds):
        seen = fold != held
        scores, gain = _boosted(values[seen], side[seen], values[~seen], seed)
        found.append(auc_with_variance(scores[side[~seen] == 0], scores[side[~seen] == 1]))
        gains += gain / max(gain.sum(), 1.0) / folds
    auc = float(np.mean([a for a, _ in found]))
    error = float(np.sqrt(np.sum([variance for _, variance in found]))) / folds
    importance = gains / gains.sum() if gains.sum() > 0 else gains
    lower, upper = max(auc - 1.959964 * error, 0.0), min(auc + 1.959964 * error, 1.0)
    return Separation(auc, lower, upper, float(_above((auc - 0.5) / error)), importance)


def _for_trees(baseline: Rows, current: Rows) -> Floats:
    """Both sides, one under the other; categories as ranks, so that a split parts frequent from rare."""
    ranks = []
    for then, now in zip(baseline.codes.T, current.codes.T, strict=True):
        both = np.concatenate([then, now])
        counts = np.bincount(then[then >= 0], minlength=int(both.max(initial=0)) + 1)
        rank = np.empty(counts.size)
        rank[np.argsort(-counts, kind="stable")] = np.arange(counts.size)
        ranks.append(np.where(both < 0, np.nan, rank[both]))
    return np.column_stack([np.concatenate([baseline.numeric, current.numeric]), *ranks])


def _boosted(seen: Floats, side: Floats, held: Floats, seed: int) -> tuple[Floats, Floats]:
    """Scores of the rows held out, and the gain of each column."""
    import lightgbm

    options = {
        "objective": "binary", "num_leaves": 31, "learning_rate": 0.1, "min_data_in_leaf": 20, "seed": seed,
        "deterministic": True, "force_col_wise": True, "num_threads": 1, "verbose": -1, "max_bin": 63,
    }  # fmt: skip
    trees = lightgbm.train(options, lightgbm.Dataset(seen, side), 100)
    return np.asarray(trees.predict(held, num_threads=1)), np.asarray(trees.feature_importance("gain"))


def auc_with_variance(negatives: Floats, positives: Floats) -> tuple[float, float]:
    """ROC AUC and DeLong's variance of it.

    Parameters
    ----------
    negatives, positives : array of shape (n,), (m,)
        Scores; ties count half.

    Returns
    -------
    AUC in [0, 1], 0.5 when both come from one distribution; its variance, never below ``0.25 / (n * m)``: scores that
    part perfectly, or not at all, leave DeLong none.

    Raises
    ------
    NotEnoughData
        A side has fewer than two scores.

    Notes
    -----
    DeLong, DeLong & Clarke-Pearson (1988), by the mid-ranks of Sun & Xu (2014).

    Examples
    --------
    >>> auc, variance = auc_with_variance(np.array([1.0, 2, 3]), np.array([2.0, 4]))
    >>> round(auc, 4), round(variance, 4)
    (0.75, 0.0833)
    """
    n, m = negatives.size, positives.size
    if min(n, m) < 2:
        raise NotEnoughData("an AUC needs two scores on either side")
    ranks = midranks(np.concatenate([negatives, positives]))
    below = (ranks[n:] - midranks(positives)) / n  # of each positive, the share of negatives below it
    above = 1.0 - (ranks[:n] - midranks(negatives)) / m
    variance = below.var(ddof=1) / m + above.var(ddof=1) / n
    return float(below.mean()), float(max(variance, 0.25 / (n * m)))


def midranks(values: Floats) -> Floats:
    """Ranks from 1, ties share their mean.

    Examples
    --------
    >>> midranks(np.array([5.0, 1.0, 5.0])).tolist()
    [2.5, 1.0, 2.5]
    """
    _, at, counts = np.unique(values, return_inverse=True, return_counts=True)
    found: Floats = (np.cumsum(counts) - (counts - 1) / 2)[at]
    return found


def _above(z: Floats | float) -> Floats:
    """Probability of a standard normal beyond `z`."""
    from scipy.special import ndtr

    found: Floats = ndtr(-np.asarray(z))
    return found


# --- correlations ---


@dataclass(frozen=True)
class PairChange:
    """How the rank correlation of two columns changed; `p_value` is corrected for the number of pairs."""

    first: int
    second: int
    before: float
    after: float
    p_value: float

    @property
    def change(self) -> float:
        """Absolute difference, in [0, 2]."""
        return abs(self.after - self.before)


def correlation_change(baseline: Floats, current: Floats) -> list[PairChange]:
    """Pairs of columns whose Spearman correlation changed, the least likely by chance first.

    Parameters
    ----------
    baseline, current : array of shape (n, p), (m, p)
        NaN where there is no value: a pair is judged on the rows that have both. Columns of which hardly any value
        differs from the most common one are left out (`LEAST_SPREAD`).

    Returns
    -------
    list of PairChange
        p-values of Fisher's z, with the variance ``(1 + r**2 / 2) / (n - 3)`` that it has for ranks (Bonett & Wright,
        2000, Sample size requirements for estimating Pearson, Kendall and Spearman correlations), and Holm's (1979)
        correction over all pairs, which holds under any dependence. When nothing has changed, the first is below p in
        at most a share p of samples. Rows that depend on each other make them too small.

    Raises
    ------
    NotEnoughData
        Fewer than two columns vary, or no pair has ten rows.

    Examples
    --------
    >>> steps = np.arange(200.0)
    >>> noise = steps * 7919 % 200
    >>> before, after = (np.column_stack([steps, noise + way * steps]) for way in (2, -2))
    >>> [(pair.first, pair.second, round(pair.before, 2), round(pair.after, 2)) for pair in
    ...  correlation_change(before, after)]
    [(0, 1, 0.9, -0.9)]
    """
    usable = np.flatnonzero(_varies(baseline) & _varies(current))
    if usable.size < 2:
        raise NotEnoughData(f"{usable.size} numeric columns vary on both sides; a correlation needs two")
    (before, n), (after, m) = (spearman(side[:, usable]) for side in (baseline, current))
    judged = np.triu((np.minimum(n, m) >= 10) & np.isfinite(before) & np.isfinite(after), 1)
    if not judged.any():
        raise NotEnoughData("no pair of columns has ten rows with both values")
    first, second = (usable[at] for at in np.nonzero(judged))
    r, s = before[judged], after[judged]
    z = np.abs(_fisher_z(r, n[judged], s, m[judged]))
    order = np.lexsort((second, first, -z))
    columns = (values[order].tolist() for values in (first, second, r, s, holm(2 * _above(z))))
    return [PairChange(*pair) for pair in zip(*columns, strict=True)]


def _fisher_z(before: Floats, n: Floats, after: Floats, m: Floats) -> Floats:
    """Standardised difference of two independent rank correlations; one of exactly 1 is taken for a little less."""
    r, s = (np.clip(side, -1 + 1e-9, 1 - 1e-9) for side in (before, after))
    variance = (1 + r**2 / 2) / (n - 3) + (1 + s**2 / 2) / (m - 3)
    found: Floats = (np.arctanh(s) - np.arctanh(r)) / np.sqrt(variance)
    return found


def _varies(values: Floats) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Of which columns enough values differ from the most common one."""
    found = []
    for column in values.T:
        counts = np.unique(column[~np.isnan(column)], return_counts=True)[1]
        found.append(counts.size > 1 and 1 - counts.max() / counts.sum() >= LEAST_SPREAD)
    return np.array(found, np.bool_)


def spearman(values: Floats) -> tuple[Floats, Floats]:
    """Rank correlation of every pair of columns and the rows that it stands on, both (p, p).

    Ranks are those within the whole column; where values are missing, a pair is correlated over the rows with both.
    NaN where a column is constant in them.

    Examples
    --------
    >>> r, n = spearman(np.array([[1.0, 10], [2, 20], [3, 15], [4, np.nan]]))
    >>> round(float(r[0, 1]), 2), float(n[0, 1])
    (0.5, 3.0)
    """
    there = ~np.isnan(values)
    ranks = np.zeros(values.shape)
    for j, present in enumerate(there.T):
        found = midranks(values[present, j])
        ranks[present, j] = found - found.mean() if found.size else found
    both = there.astype(np.float64)
    n = both.T @ both
    with np.errstate(invalid="ignore", divide="ignore"):
        sums = ranks.T @ both  # of column i, over the rows where j is there too
        squares = (ranks**2).T @ both - sums**2 / n
        r = (ranks.T @ ranks - sums * sums.T / n) / np.sqrt(squares * squares.T)
    return np.clip(r, -1.0, 1.0), n


def holm(p_values: Floats) -> Floats:
    """Holm's step-down correction of p-values for their number.

    Examples
    --------
    >>> [round(p, 6) for p in holm(np.array([0.01, 0.04, 0.03])).tolist()]
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values, kind="stable")
    scaled = p_values[order] * np.arange(p_values.size, 0, -1)
    corrected = np.empty(p_values.size)
    corrected[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return corrected


# --- history ---


def history_limits(values: Sequence[float]) -> tuple[float, float] | None:
    """Where a number of the same kind has lain: median plus and minus 3 robust standard deviations of earlier days.

    None before there are `LEAST_HISTORY` values. Past incidents hardly move a median.

    Examples
    --------
    >>> history_limits([0.5] * 6) is None
    True
    >>> [round(limit, 3) for limit in history_limits([0.50, 0.51, 0.49, 0.50, 0.52, 0.48, 0.90]) or ()]
    [0.456, 0.544]
    """
    if len(values) < LEAST_HISTORY:
        return None
    median = float(np.median(values))
    deviation = 1.4826 * float(np.median(np.abs(np.asarray(values) - median)))
    return median - HISTORY_DEVIATIONS * deviation, median + HISTORY_DEVIATIONS * deviation
