"""Baseline-versus-current degradation: a change that is large enough to matter, and that chance does not explain.

Outcomes within an hour are correlated (one storm delays every flight), so an interval that counts rows as independent
alarms too often. A change counts when it exceeds the threshold of the model file *and* sampling noise plus the benign
spread that the metric's own history shows, at the scale of 1, 6 or 24 hours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import special

from hindcast import spread
from hindcast.metrics import METRICS
from hindcast.spread import Memory

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hindcast.performance.intervals import Score

    Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
    Flags = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]

SCALES = (1, 6, 24)
LEAST_HOURS = 12
LEAST_ROWS = 10
# What is remembered of a pair: its excess in either direction, for the spread, and in the harmful one, for the record.
_SIDES = ("both", "harmful")
_FEW = 12
_PROPORTIONS = {"accuracy", "recall", "error_rate"}
LEARNT = 24
# Until so much is learnt, a metric is taken to move by 3 % of its value from hour to hour.
COLD_SPREAD = 0.03
_Z = 1.959963984540054


@dataclass(frozen=True)
class Pair:
    """One metric of one segment at one scale: now and in the baseline; `hours` of the baseline have labels.

    `rest` is the same of all other rows: what befalls the whole traffic is the whole's alert, not each segment's.
    """

    segment: str
    metric: str
    scale: int
    current: Score
    baseline: Score
    hours: int
    rest: tuple[Score, Score] | None = None

    @property
    def name(self) -> tuple[str, ...]:
        """Under which the series is remembered."""
        return (self.segment, self.metric)


@dataclass(frozen=True)
class Verdict:
    """What was found about a pair; `severity` is None unless it is worth an alert, `threshold` a relative change."""

    pair: Pair
    change_percent: float | None
    threshold: float | None
    severity: str | None
    reason: str


def change_percent(current: float, baseline: float) -> float | None:
    """Signed change against the baseline's magnitude, ×100; None where the baseline is 0.

    Examples
    --------
    >>> round(change_percent(0.72, 0.80), 6), change_percent(1.0, 0.0)
    (-10.0, None)
    """
    return (current - baseline) / abs(baseline) * 100 if baseline else None


def judge(
    pairs: Sequence[Pair],
    remembered: Sequence[Memory],
    names: Sequence[tuple[str, ...]],
    *,
    recent: int,
    threshold: float,
    critical: float,
    budget_per_week: float,
    planned: Flags | None = None,
    accepted_after: int | None = spread.ACCEPTED_AFTER,
) -> tuple[list[Verdict], Memory]:
    """Judge every pair of one window, and say what to remember of it.

    Parameters
    ----------
    pairs : sequence of Pair
    remembered : sequence of Memory
        Of the hours before, oldest first, in the order of `names`.
    names : sequence
        Every series, ``(segment, metric)``.
    recent : int
        How many of them lie in the day before.
    threshold, critical : float
        Relative changes, as fractions.
    budget_per_week : float
        False alarms a week that all series and scales may raise together.
    planned : bool array of shape (n_scales, n_series), optional
        Windows that hold a planned hour: judged, but they open no episode and teach nothing.
    accepted_after : int, optional
        Hours after which the level of an episode counts as usual; None: only when it is accepted.
    """
    memory = Memory.blank(len(_SIDES), len(SCALES), len(names))
    excess, noise = spread.stacked(remembered[-spread.REMEMBERED :], memory)
    alphas = [spread.alpha_of(budget_per_week, scale, len(names), len(SCALES)) for scale in SCALES]
    chances = [float(spread.chi2_quantile(alpha, 1)) for alpha in alphas]
    at = {name: i for i, name in enumerate(names)}
    limits = [_limits(excess[:, :, s], noise[:, 0, s], scale, recent) for s, scale in enumerate(SCALES)]
    verdicts, worse = [], np.zeros(len(names), bool)
    for pair in pairs:
        j, s = at[pair.name], SCALES.index(pair.scale)
        verdict, stat, variance = _verdict(pair, [part[j] for part in limits[s]], threshold, critical, chances[s])
        verdicts.append(verdict)
        memory.excess[0, s, j] = stat - spread.CHI2_1_MEDIAN * variance
        memory.excess[1, s, j] = memory.excess[0, s, j] if _harms(pair) else np.nan
        memory.noise[:, s, j] = variance
        worse[j] |= verdict.severity is not None and (planned is None or not planned[s, j])
    held = None
    if planned is not None:
        memory.excess[:, planned] = memory.noise[:, planned] = np.nan
        held = planned[0]
    # A loss that passed by itself was a loss: the next one of its size is worth as much.
    before = remembered[-1] if remembered else None
    memory.turn(before, worse, teaches_within=0, held=held, accepted_after=accepted_after)
    return verdicts, memory


def _limits(excess: Floats, noise: Floats, scale: int, recent: int) -> tuple[Floats, Floats, Floats]:
    """Per series: benign spread τ², largest excess while quiet, hours learnt."""
    both, harmful = excess[:, 0], excess[:, 1]
    tau2 = spread.benign_spread(both, noise, blocks=100, scale=scale) if len(both) else np.zeros(both.shape[1])
    return tau2, spread.record(harmful, recent, _FEW), np.isfinite(both).sum(axis=0)


def _verdict(
    pair: Pair, limits: Sequence[float], threshold: float, critical: float, chance: float
) -> tuple[Verdict, float, float]:
    now, then = pair.current, pair.baseline
    if now.value is None or then.value is None or pair.hours < LEAST_HOURS or now.n < LEAST_ROWS:
        reason = now.reason or then.reason or f"{now.n} rows; {LEAST_ROWS} are needed to judge"
        if pair.hours < LEAST_HOURS:
            reason = f"the baseline has {pair.hours} hours with labels; {LEAST_HOURS} are needed"
        change = None if now.value is None or then.value is None else change_percent(now.value, then.value)
        return Verdict(pair, change, None, None, reason), np.nan, np.nan
    tau2, record, learnt = limits
    # Under no change the rows vary as they did in the baseline: three wrong answers of three are no proof.
    variance = max(_variance(now), _variance(then) * then.n / now.n) + _variance(then)
    shared, shared_variance = _shared_loss(pair)
    own = abs(now.value - then.value) - shared
    stat = max(own, 0.0) ** 2
    variance += shared_variance
    if pair.metric in _PROPORTIONS:
        variance = max(variance, _binomial_variance(now.value, then.value, now.n, (now.value - then.value) ** 2))
    if learnt < LEARNT:
        tau2 = max(tau2, (COLD_SPREAD * abs(then.value)) ** 2)
    limit = chance * variance + spread.SPREAD_MARGIN * chance * tau2
    limit = max(limit, record + spread.CHI2_1_MEDIAN * variance)
    change = change_percent(now.value, then.value)
    relative = abs(change) / 100 if change is not None else np.inf
    needed = max(threshold, limit**0.5 / abs(then.value)) if then.value else threshold
    severity = None
    reason = ""
    if _harms(pair) and relative > threshold:
        if stat > limit:
            severity = "critical" if relative > critical else "warning"
        else:
            reason = (
                f"{change:+.1f} %, within what {now.n} labels and the history's spread explain (±{100 * needed:.0f} %)"
            )
    return Verdict(pair, change, needed, severity, reason), stat, variance


def _shared_loss(pair: Pair) -> tuple[float, float]:
    """By how much the rest of the traffic got worse, and the variance of that; 0 where it did not."""
    if pair.rest is None or not _harms(pair):
        return 0.0, 0.0
    now, then = pair.rest
    if now.value is None or then.value is None or now.n < LEAST_ROWS:
        return 0.0, 0.0
    sign = 1.0 if METRICS[pair.metric].worse == "lower" else -1.0
    return max(0.0, sign * (then.value - now.value)), _variance(now) + _variance(then)


def _harms(pair: Pair) -> bool:
    now, then, worse = pair.current.value, pair.baseline.value, METRICS[pair.metric].worse
    if now is None or then is None:
        return False
    return now < then if worse == "lower" else now > then and worse == "higher"


def _binomial_variance(value: float, expected: float, n: int, stat: float) -> float:
    """Variance with which the normal test of a proportion has the exact binomial test's p-value.

    Of ten rows, six wrong ones where one and a half are expected are 4 σ by the normal test, and happen once in 700
    times.

    Examples
    --------
    >>> round((0.4 - 0.85) ** 2 / _binomial_variance(0.4, 0.85, 10, (0.4 - 0.85) ** 2), 1)
    9.0
    """
    k = round(value * n)
    p = min(1.0, 2 * float(special.bdtr(k, n, expected) if value < expected else special.bdtrc(k - 1, n, expected)))
    normal = float(spread.chi2_quantile(max(p, 1e-300), 1))
    return stat / normal if normal > 0 else 0.0


def _variance(score: Score) -> float:
    if score.lower is None or score.upper is None:
        return 0.0
    return ((score.upper - score.lower) / (2 * _Z)) ** 2
