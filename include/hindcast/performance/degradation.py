"""Baseline-versus-current degradation: a change that is large enough to matter, and that chance does not explain.

Outcomes within an hour are correlated (one storm delays every flight), so an interval that counts rows as independent
alarms too often. A change counts when it exceeds the threshold of the model file *and* sampling noise plus the benign
spread that the metric's own history shows, at the scale of 1, 6 or 24 hours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hindcast import spread
from hindcast.metrics import METRICS
from hindcast.spread import Memory

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hindcast.performance.intervals import Score

    Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

SCALES = (1, 6, 24)
LEAST_HOURS = 12
LEARNT = 24
# Until so much is learnt, a metric is taken to move by 3 % of its value from hour to hour.
COLD_SPREAD = 0.03
_Z = 1.959963984540054


@dataclass(frozen=True)
class Pair:
    """One metric of one segment at one scale: now and in the baseline; `hours` of the baseline have labels."""

    segment: str
    metric: str
    scale: int
    current: Score
    baseline: Score
    hours: int

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
    threshold: float,
    critical: float,
    budget_per_week: float,
) -> tuple[list[Verdict], Memory]:
    """Judge every pair of one window, and say what to remember of it.

    Parameters
    ----------
    pairs : sequence of Pair
    remembered : sequence of Memory
        Of the hours before, oldest first, in the order of `names`.
    names : sequence
        Every series, ``(segment, metric)``.
    threshold, critical : float
        Relative changes, as fractions.
    budget_per_week : float
        False alarms a week that all series and scales may raise together.
    """
    memory = Memory.blank(1, len(SCALES), len(names))
    excess, noise = spread.stacked(remembered[-spread.REMEMBERED :], memory)
    alpha = budget_per_week / (168 * len(SCALES) * max(len(names), 1))
    chance = float(spread.chi2_quantile(alpha, 1))
    at = {name: i for i, name in enumerate(names)}
    limits = [_limits(excess[:, 0, s], noise[:, 0, s], scale) for s, scale in enumerate(SCALES)]
    verdicts, worse = [], np.zeros(len(names), bool)
    for pair in pairs:
        j, s = at[pair.name], SCALES.index(pair.scale)
        verdict, stat, variance = _verdict(pair, [part[j] for part in limits[s]], threshold, critical, chance)
        verdicts.append(verdict)
        memory.excess[0, s, j] = stat - spread.CHI2_1_MEDIAN * variance
        memory.noise[0, s, j] = variance
        worse[j] |= verdict.severity is not None
    memory.turn(remembered[-1] if remembered else None, worse)
    return verdicts, memory


def _limits(excess: Floats, noise: Floats, scale: int) -> tuple[Floats, Floats, Floats]:
    """Per series: benign spread τ², largest excess while quiet, hours learnt."""
    tau2 = spread.benign_spread(excess, noise, blocks=100, scale=scale) if len(excess) else np.zeros(excess.shape[1])
    record = np.where(np.isfinite(excess), excess, 0.0).max(axis=0, initial=0.0)
    return tau2, record, np.isfinite(excess).sum(axis=0)


def _verdict(
    pair: Pair, limits: Sequence[float], threshold: float, critical: float, chance: float
) -> tuple[Verdict, float, float]:
    now, then = pair.current, pair.baseline
    if now.value is None or then.value is None or pair.hours < LEAST_HOURS:
        reason = now.reason or then.reason
        if pair.hours < LEAST_HOURS:
            reason = f"the baseline has {pair.hours} hours with labels; {LEAST_HOURS} are needed"
        change = None if now.value is None or then.value is None else change_percent(now.value, then.value)
        return Verdict(pair, change, None, None, reason), np.nan, np.nan
    tau2, record, learnt = limits
    variance = _variance(now) + _variance(then)
    stat = (now.value - then.value) ** 2
    if learnt < LEARNT:
        tau2 = max(tau2, (COLD_SPREAD * abs(then.value)) ** 2)
    limit = chance * variance + spread.SPREAD_MARGIN * chance * tau2
    limit = max(limit, spread.RECORD_MARGIN * record + spread.CHI2_1_MEDIAN * variance)
    change = change_percent(now.value, then.value)
    harm = METRICS[pair.metric].worse
    harms = (now.value < then.value) if harm == "lower" else (now.value > then.value and harm == "higher")
    relative = abs(change) / 100 if change is not None else np.inf
    needed = max(threshold, limit**0.5 / abs(then.value)) if then.value else threshold
    severity = None
    reason = ""
    if harms and relative > threshold:
        if stat > limit:
            severity = "critical" if relative > critical else "warning"
        else:
            reason = (
                f"{change:+.1f} %, within what {now.n} labels and the history's spread explain (±{100 * needed:.0f} %)"
            )
    return Verdict(pair, change, needed, severity, reason), stat, variance


def _variance(score: Score) -> float:
    if score.lower is None or score.upper is None:
        return 0.0
    return ((score.upper - score.lower) / (2 * _Z)) ** 2


def series_names(
    segments: Mapping[str, object] | Sequence[str], metrics: Sequence[str], primary: str
) -> list[tuple[str, str]]:
    """Which series are judged: every metric of the whole window, the primary one of each segment."""
    return [("*", metric) for metric in metrics] + [(segment, primary) for segment in segments if segment != "*"]
