"""A score, and the 95 % intervals that the metrics share."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy import special

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy.typing as npt

Z = float(special.ndtri(0.975))


@dataclass(frozen=True)
class Score:
    """A number, its 95 % interval, the rows behind it, and what a reader must know about it.

    A null `value` always has a `reason`; a value has one when rows were left out of it. A null bound means that the
    rows are too few for it, or that the number has no sampling error.

    Raises
    ------
    ValueError
        A null value without a reason, or a number that is not finite.
    """

    value: float | None
    lower: float | None
    upper: float | None
    n: int
    reason: str = ""

    def __post_init__(self) -> None:
        if self.value is None and not self.reason:
            raise ValueError("a null score needs a reason")
        if not all(math.isfinite(x) for x in (self.value, self.lower, self.upper) if x is not None):
            message = f"a score is finite or null; got {self.value}, {self.lower}, {self.upper}"
            raise ValueError(message)


def wilson_interval(proportion: float, n: float) -> tuple[float, float]:
    """Wilson's 95 % interval of a proportion seen in `n` independent trials.

    Parameters
    ----------
    proportion : float in [0, 1]
    n : float above 0
        Trials; need not be whole, so that it can be an effective sample size.

    Returns
    -------
    (lower, upper) in [0, 1]. The true proportion lies inside 95 times in a hundred, also near 0 and 1.

    References
    ----------
    Wilson (1927), JASA 22; Brown, Cai & DasGupta (2001), Statistical Science 16(2).

    Examples
    --------
    >>> [round(bound, 4) for bound in wilson_interval(0.0, 10)]
    [0.0, 0.2775]
    """
    shrink = 1 + Z * Z / n
    centre = (proportion + Z * Z / (2 * n)) / shrink
    half = Z * math.sqrt(proportion * (1 - proportion) / n + Z * Z / (4 * n * n)) / shrink
    lower = 0.0 if proportion <= 0 else min(max(0.0, centre - half), proportion)
    upper = 1.0 if proportion >= 1 else max(min(1.0, centre + half), proportion)
    return lower, upper


def proportion_score(successes: int, n: int, reason: str) -> Score:
    """Share of successes with Wilson's interval; null with `reason` when there are no trials."""
    if n == 0:
        return Score(None, None, None, 0, reason)
    return Score(successes / n, *wilson_interval(successes / n, n), n)


def mean_score(n: int, mean: float, mean_square: float, *, high: float = math.inf, reason: str = "") -> Score:
    """Mean of a non-negative quantity per row, with Student's interval from the variance between rows.

    Parameters
    ----------
    n : int
        Rows, at least 1; of a single row there is no interval.
    mean, mean_square : float
        Mean over the rows of the quantity and of its square.
    high : float
        Largest value possible.
    """
    if n == 1:
        return Score(mean, None, None, n, reason)
    half = float(special.stdtrit(n - 1, 0.975)) * math.sqrt(max(0.0, mean_square - mean * mean) / (n - 1))
    return Score(mean, max(0.0, mean - half), min(high, mean + half), n, reason)


def quantile_score(values: npt.NDArray[np.float64], q: float, until: npt.NDArray[np.int64] | None = None) -> Score:
    """Quantile (linear, as numpy's) of ascending values, its interval between two order statistics.

    Parameters
    ----------
    values : float64 array of shape (n,)
    q : float in (0, 1)
    until : int64 array of shape (n,), optional
        Rows up to and including each value; by default every value is one row.

    See `hindcast.performance.service.service_scores` for the source and for when a bound is null.
    """
    n = values.size if until is None else int(until[-1]) if until.size else 0
    if n == 0:
        return Score(None, None, None, 0, "no latency logged")

    def at(rank: int) -> float:
        return float(values[rank if until is None else np.searchsorted(until, rank, side="right")])

    first, last = _binomial_quantile(0.025, n, q), _binomial_quantile(0.975, n, q) + 1
    lower = at(first - 1) if first >= 1 else None
    upper = at(last - 1) if last <= n else None
    below = int((n - 1) * q)
    value = float(np.quantile([at(below), at(min(below + 1, n - 1))], (n - 1) * q - below))
    return Score(value, lower, upper, n)


def _binomial_quantile(level: float, n: int, q: float) -> int:
    """Smallest k with P(Binomial(n, q) ≤ k) ≥ level."""
    k = max(0, math.ceil(float(special.bdtrik(level, n, q))))
    # The inverse is only as exact as a float: step down when one less already suffices.
    return k - 1 if k > 0 and float(special.bdtr(k - 1, n, q)) >= level else k


def left_out(scores: dict[str, Score], rows: int, what: str, metrics: Iterable[str]) -> dict[str, Score]:
    """Say in the reason of these metrics how many rows they lack."""
    if rows == 0:
        return scores
    note = f"{rows} rows {what} left out"
    return scores | {
        name: replace(scores[name], reason=f"{scores[name].reason}; {note}" if scores[name].reason else note)
        for name in metrics
    }
