"""The alert policy for drift: few, early, right.

Each hour, the last 1, 6 and 24 hours are compared with baselines in which the seasons cancel
(`hindcast.drift.baseline`). A series (the distribution, the missing ratio or the ratio of new categories of one
feature) is drifted when its squared distance exceeds sampling noise *and* the benign spread learnt from its own history
*and* anything it ever did while quiet, and when the effect is large enough to matter. See docs/alert-policy.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from scipy import special

from hindcast import spread
from hindcast.drift import moments, statistics
from hindcast.drift.baseline import AGAIN, RANGE, SCALES, TIERS, Totals
from hindcast.profile.bins import LABEL
from hindcast.profile.profile import NEW, NULL
from hindcast.spread import REMEMBERED, Memory, stacked

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from hindcast.drift.baseline import Comparison
    from hindcast.profile.bins import Bins
    from hindcast.profile.profile import Sparse

    Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
    Flags = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]
    Columns = np.ndarray[tuple[int, ...], np.dtype[np.intp]]

LEAST_ROWS = 20
LEARNT = {"week": 48, "day": 24, "trail": 48, "reference": 0}
# A tier that remembers so many hours, two weekends among them, takes the place of a better one whose squared threshold
# is more than twice as high.
SETTLED, SHARPER = 264, 2.0
LEAST_TAU = {"week": 0.0, "day": 0.0, "trail": 0.0, "reference": 0.06}
EFFECT_FLOOR = {1: 0.10, 6: 0.07, 24: 0.05}
RATIO_FLOOR, RATIO_ROWS = 0.02, 5
# What exceeds its threshold by less than this, in squares, has to do so again an hour later; over several hours only
# where jitter sets it, and if their median excess is more than so much of an hour's: else jitter averages out.
MARGINAL, LASTING = 1.5, 0.5
# Units changed: so many of the last hours' rows lie beyond the range of good history by so many of its widths.
RANGE_SHARE, RANGE_WIDTHS = 0.5, 0.5
# A threshold that nothing exceeds judges nothing. D² ends at 1; φ² is 19 when every row has one value that 5 % had.
POWERLESS = {"ks": 1.0, "phi": 19.0}
_RARE = 0.01
_KS_MEDIAN = 0.8275735551899077**2


@dataclass(frozen=True)
class Series:
    """What is tested: one kind of distance of one column."""

    column: str
    kind: str  # ks | phi | missing | new; range, which is decided and not remembered
    at: int  # row in `Profile.numeric` or `Profile.categorical`

    @property
    def name(self) -> tuple[str, ...]:
        """Under which it is remembered."""
        return (self.column, self.kind)


def series_of(bins: Bins) -> list[Series]:
    """Every series of `bins`, in a fixed order: features, and the distributions of what the model puts out.

    Latency is left to the performance check, labels come at ages of their own, and a prediction that is missing is an
    error, which is judged there too.
    """
    numeric = [(c, i) for i, c in enumerate(bins.numeric) if c.startswith("feature_")]
    categorical = [(c, i) for i, c in enumerate(bins.categorical) if c.startswith("feature_")]
    put_out = [
        (c, i) for i, c in enumerate(bins.numeric) if not c.startswith("feature_") and c not in {"latency_ms", LABEL}
    ]
    classes = [(c, i) for i, c in enumerate(bins.categorical) if not c.startswith("feature_") and c != LABEL]
    return [
        *(Series(c, "ks", i) for c, i in numeric + put_out),
        *(Series(c, "phi", i) for c, i in categorical + classes),
        *(Series(c, "missing", i) for c, i in numeric + categorical),
        *(Series(c, "new", i) for c, i in categorical),
    ]


@dataclass(frozen=True)
class Distances:
    """Squared distances of a comparison, each array of shape (n_series,); NaN where a side has too few rows."""

    stat: Floats
    noise: Floats  # v
    median: Floats  # of stat / v under no change
    df: Floats  # 0: the Kolmogorov distribution; else chi-square's
    rows: Floats


def distances(series: Sequence[Series], pairs: Sequence[tuple[Totals, Totals]]) -> list[Distances]:
    """Measure every series of several comparisons, each of a current and a baseline of the same bins, all at once."""
    if not pairs:
        return []
    bins = pairs[0][0].bins
    of = {kind: np.array([s.at for s in series if s.kind == kind], np.intp) for kind in ("ks", "phi", "new")}
    missing = [s for s in series if s.kind == "missing"]
    # current and baseline: (n_comparisons, n_columns, n_slots)
    numeric = [np.stack([pair[side].numeric for pair in pairs]) for side in (0, 1)]
    categorical = [np.stack([pair[side].categorical for pair in pairs]) for side in (0, 1)]
    now, then = (counts[:, of["ks"], : bins.width] for counts in numeric)
    n, m = now.sum(axis=-1), then.sum(axis=-1)
    parts = [(statistics.ks_statistic(then, now) ** 2, n, m, np.zeros(n.shape))]
    now, then = (counts[:, of["phi"]] for counts in categorical)
    then, now = statistics.pool_rare(then, now)
    df = np.maximum(statistics.degrees_of_freedom(then, now), 1.0)
    parts.append((statistics.phi_squared(then, now), now.sum(axis=-1), then.sum(axis=-1), df))
    nulls = (_missing(missing, bins, *counts) for counts in zip(numeric, categorical, strict=True))
    parts.append(_ratio(*nulls))
    slot = bins.depth + NEW
    new = (counts[:, of["new"]] for counts in categorical)
    parts.append(_ratio(*((counts[..., slot], counts.sum(axis=-1)) for counts in new)))
    stat, n, m, df = (np.concatenate(column, axis=-1) for column in zip(*parts, strict=True))
    with np.errstate(divide="ignore", invalid="ignore"):
        noise = np.where((n >= LEAST_ROWS) & (m >= LEAST_ROWS), 1 / n + 1 / m, np.nan)
    median = np.where(df == 0, _KS_MEDIAN, special.chdtri(np.maximum(df, 1.0), 0.5))
    stat = np.where(np.isnan(noise), np.nan, stat)
    return [Distances(*rows) for rows in zip(stat, noise, median, df, n, strict=True)]


def _missing(series: Sequence[Series], bins: Bins, numeric: Floats, categorical: Floats) -> tuple[Floats, Floats]:
    """Missing values and rows, each (n_comparisons, n_series)."""
    known = set(bins.numeric)
    numbers = numeric[:, [s.at for s in series if s.column in known]]
    classes = categorical[:, [s.at for s in series if s.column not in known]]
    nulls = [numbers[..., bins.width + NULL] + numbers[..., bins.width + 1], classes[..., bins.depth + 1]]
    return np.concatenate(nulls, axis=-1), np.concatenate([numbers.sum(axis=-1), classes.sum(axis=-1)], axis=-1)


def _ratio(current: tuple[Floats, Floats], baseline: tuple[Floats, Floats]) -> tuple[Floats, Floats, Floats, Floats]:
    """Squared difference of two proportions in units of their pooled variance, so that its noise is v·χ²₁."""
    (x, n), (y, m) = current, baseline
    with np.errstate(divide="ignore", invalid="ignore"):
        pooled = (x + y + 0.5) / (n + m + 1)
        stat = (x / n - y / m) ** 2 / (pooled * (1 - pooled))
    return stat, n, m, np.ones(n.shape)


@dataclass(frozen=True)
class Decision:
    """What was decided about one series at one scale.

    `value` and `threshold` are in units of the statistic (not squared); `drifted` is None when nothing could be judged.
    At scales beyond the shortest, the threshold of what sampling alone explains is NaN: it was not looked for.
    """

    series: Series
    scale: int
    tier: str
    says: str
    value: float
    threshold: float
    effect: float
    rows: float
    drifted: bool | None
    reason: str


def decide(
    series: Sequence[Series],
    compared: Sequence[Comparison],
    remembered: Sequence[Memory],
    *,
    recent: int,
    budget_per_week: float,
    pseudo: Memory | None = None,
    planned: Flags | None = None,
    accepted: Flags | None = None,
    accepted_after: int | None = spread.ACCEPTED_AFTER,
    floors: Mapping[int, float] = EFFECT_FLOOR,
) -> tuple[list[Decision], Memory]:
    """Decide about every series of one hour, and what to remember of it.

    Parameters
    ----------
    series : sequence of Series
    compared : sequence of Comparison
        From `hindcast.drift.baseline.comparisons`.
    remembered : sequence of Memory
        Of the hours before, oldest first; the last `REMEMBERED` count.
    recent : int
        How many of them lie in the day before.
    budget_per_week : float
        False alarms a week that all series and scales of the model may raise together.
    pseudo : Memory, optional
        How much pieces of the reference differ from the whole of it (`pseudo_hours`), as if they had been hours.
    planned : bool array of shape (n_scales, n_series), optional
        Windows that hold a planned hour: decided about, but they open no episode and teach nothing.
    accepted : bool array of shape (n_series,), optional
        Series whose new level was accepted: what the reference was like says nothing about them any more.
    accepted_after : int, optional
        Hours after which the level of an episode counts as usual; None: only when it is accepted.
    floors : mapping
        Scale -> smallest effect that matters.

    Returns
    -------
    decisions, one per series and scale that has a baseline; and the hour's own memory.
    """
    memory = Memory.blank(len(TIERS), len(SCALES), len(series))
    past = remembered[-REMEMBERED:]
    excess, noise = stacked(past, memory)
    count = np.isfinite(excess).sum(axis=0)
    usual = _usual_spread(compared)
    alphas = {s: spread.alpha_of(budget_per_week, s, len(series), len(SCALES)) for s in SCALES}
    able: list[tuple[Comparison, Distances, Flags, Floats]] = []
    known = {c.scale for c in compared if c.tier in {AGAIN, "week"}}
    covered = np.zeros((len(SCALES), len(series)), bool)  # by a tier before; the reference comes last
    beyond = np.zeros((len(SCALES), len(series)), bool)  # what sampling alone explains
    deciding = [comparison for comparison in compared if comparison.tier in TIERS]
    measures = distances(series, [(comparison.current, comparison.baseline) for comparison in deciding])
    for comparison, measured in zip(deciding, measures, strict=True):
        t, s = TIERS.index(comparison.tier), SCALES.index(comparison.scale)
        memory.excess[t, s] = measured.stat - measured.median * measured.noise
        memory.noise[t, s] = measured.noise
        enough = count[t, s] >= LEARNT[comparison.tier]
        can = enough & np.isfinite(measured.stat)
        if accepted is not None and comparison.tier == "reference":
            can &= ~accepted
        needed = comparison.tier != "reference" or comparison.scale not in known or not covered[s].all()
        covered[s] |= can
        if can.any() and needed:
            chance = _chance(measured, alphas[comparison.scale])
            able.append((comparison, measured, can, chance))
            beyond[s] |= can & (measured.stat > chance * measured.noise)
    # What an hour would have had to exceed is shown, whatever it was like; at longer scales only what may be news is
    # laid beside its history, which is most of the work.
    beyond[0] = True
    judges: list[_Judge] = []
    for comparison, measured, can, chance in able:
        s = SCALES.index(comparison.scale)
        learnt = _learnt(comparison, excess, noise, pseudo)
        alpha, floor = alphas[comparison.scale], floors[comparison.scale]
        columns = np.flatnonzero(beyond[s])
        judges.append(_Judge(comparison, measured, learnt, recent, alpha, chance, usual, floor, can, columns))
    decided, tau2 = _sharpest(judges, series)
    inside = past[-1].open_hours > 0 if past else np.zeros(len(series), bool)
    _without_recurring(decided, [c for c in compared if c.tier == AGAIN], series, inside, tau2, alphas)
    _without_known(decided, judges, known, inside)
    waiting = _without_second_look(decided, judges, past, excess, planned)
    far = _beyond_range(series, compared, accepted)
    drifted = np.zeros(len(series), bool)
    for (s, j), decision in [*decided.items(), *(((0, j), decision) for j, decision in far.items())]:
        drifted[j] |= bool(decision.drifted) and (planned is None or not planned[s, j])
    if planned is not None:
        memory.excess[:, planned] = memory.noise[:, planned] = np.nan
    held = None if planned is None else planned[0]
    memory.turn(past[-1] if past else None, drifted, held=held, waiting=waiting, accepted_after=accepted_after)
    return [*(decided[key] for key in sorted(decided)), *far.values()], memory


def _learnt(
    comparison: Comparison, excess: Floats, noise: Floats, pseudo: Memory | None
) -> tuple[Floats, Floats, Floats]:
    """Excesses, their noise, and what counts as records, of the hours before; the reference has its pieces too."""
    t, s = TIERS.index(comparison.tier), SCALES.index(comparison.scale)
    seen, noises = excess[:, t, s], noise[:, t, s]
    if comparison.tier != "reference" or pseudo is None:
        return seen, noises, seen
    bounds = np.concatenate([pseudo.peak[:, s], seen])
    return np.concatenate([pseudo.excess[:, s], seen]), np.concatenate([pseudo.noise[:, s], noises]), bounds


def _sharpest(judges: Sequence[_Judge], series: Sequence[Series]) -> tuple[dict[tuple[int, int], Decision], Floats]:
    """Decisions by the first tier that is able to; by a later one that is settled and notices far smaller changes.

    Which tier that is depends on what was learnt, not on what is tested: a slow trend makes the weeks before a poor
    measure and the last days a good one.
    """
    decided: dict[tuple[int, int], Decision] = {}
    tau2 = np.zeros((len(SCALES), len(series)))
    for s, scale in enumerate(SCALES):
        mine = sorted((j for j in judges if j.comparison.scale == scale), key=lambda j: TIERS.index(j.comparison.tier))
        if not mine:
            continue
        best, limit = np.full(len(series), -1), np.full(len(series), np.inf)
        for k, judge in enumerate(mine):
            sharper = judge.settled & (SHARPER * judge.limit < limit)
            chosen = judge.able & ((best < 0) | sharper)
            best[chosen], limit[chosen] = k, judge.limit[chosen]
        for j in np.flatnonzero(best >= 0).tolist():
            judge = mine[best[j]]
            tau2[s, j] = judge.tau2[j]
            decided[s, j] = judge.decision(j, series[j])
    return decided, tau2


def _without_recurring(
    decided: dict[tuple[int, int], Decision],
    again: Sequence[Comparison],
    series: Sequence[Series],
    inside: Flags,
    tau2: Floats,
    alphas: Mapping[int, float],
) -> None:
    """Take back what begins as it did a week before: a season that the baseline does not know yet.

    The hours of a week before count as they were, even inside an episode: else every weekend would be an episode, its
    hours would stay out of the baseline, and the next would be one too.
    """
    new = {(s, j) for (s, j), d in decided.items() if d.drifted and d.tier != "week" and not inside[j]}
    for comparison in again:
        s = SCALES.index(comparison.scale)
        if not any(key[0] == s for key in new):
            continue
        measured = distances(series, [(comparison.current, comparison.baseline)])[0]
        alpha = alphas[comparison.scale]
        limit = spread.threshold(_chance(measured, alpha), measured.noise, 2 * tau2[s], alpha)  # both sides move
        for j in [j for of, j in new if of == s and measured.stat[j] <= limit[j]]:
            reason = f"as in {comparison.says}"
            decided[s, j] = replace(decided[s, j], drifted=False, reason=reason)


def _without_known(
    decided: dict[tuple[int, int], Decision], judges: Sequence[_Judge], known: Collection[int], inside: Flags
) -> None:
    """Take back, in the first week, what is no farther from the reference than its pieces and the hours so far were.

    The first Saturday is unlike the days before, and there is no week before to tell that Saturdays are.
    """
    for judge in judges:
        s = SCALES.index(judge.comparison.scale)
        if judge.comparison.tier != "reference" or judge.comparison.scale in known:
            continue
        for (of, j), decision in decided.items():
            new = of == s and decision.drifted and decision.tier != "reference" and not inside[j]
            if new and judge.able[j] and judge.measured.stat[j] <= judge.known[j]:
                reason = "no farther from the reference than usual, and no week before tells of these hours"
                decided[of, j] = replace(decision, drifted=False, reason=reason)


def _without_second_look(
    decided: dict[tuple[int, int], Decision],
    judges: Sequence[_Judge],
    past: Sequence[Memory],
    excess: Floats,
    planned: Flags | None,
) -> Flags:
    """Take back, until the next hour confirms it, what begins by little; which that is, (n_scales, n_series).

    What is learnt of jitter is an estimate, and says little of its tails. Over several hours this is asked only where
    it sets the threshold and lasts for hours, such windows saying less than their number, or where ties and small
    samples hide how large it is.
    """
    waiting = np.zeros(excess.shape[2:], bool)
    inside, waited = (past[-1].open_hours > 0, past[-1].waits) if past else (waiting[0], waiting)
    by = {(judge.comparison.scale, judge.comparison.tier): judge for judge in judges}
    for (s, j), d in decided.items():
        begins = d.drifted and not inside[j] and (planned is None or not planned[s, j])
        if begins and not waited[s, j] and d.value**2 < MARGINAL * d.threshold**2:
            waiting[s, j] = s == 0 or _lasts(excess[:, TIERS.index(d.tier), :2, j], by[d.scale, d.tier].jitters[j])
    for s, j in np.argwhere(waiting).tolist():
        reason = "just beyond what its hours do by themselves: raised if the next hour is, too"
        decided[s, j] = replace(decided[s, j], drifted=False, reason=reason)
    return waiting


def _lasts(excess: Floats, jitters: bool) -> bool:  # noqa: FBT001 - of one series
    """Whether jitter sets the threshold, and lasts for hours; excesses of one hour and of six, (n_remembered, 2)."""
    hourly, longer = spread.nan_median(excess).tolist()
    return bool((jitters or hourly <= 0) and longer > LASTING * hourly)


def _beyond_range(
    series: Sequence[Series], compared: Sequence[Comparison], accepted: Flags | None
) -> dict[int, Decision]:
    """Numeric features, by series, of which half of the last hours' rows lie far outside the range of good history.

    Where hours differ so much that no test has power, a change of the unit is seen all the same.
    """
    beside = next((c for c in compared if c.tier == RANGE), None)
    if beside is None:
        return {}
    bins, edges = beside.current.bins, beside.current.bins.padded_edges
    usual = beside.baseline.numeric[:, : bins.width] > 0
    reference = next((c.baseline for c in compared if c.tier == "reference"), None)
    now = beside.current.numeric[:, : bins.width]
    rows = now.sum(axis=1)
    found: dict[int, Decision] = {}
    for j, one in enumerate(series):
        if one.kind != "ks" or not one.column.startswith("feature_") or rows[one.at] < RATIO_ROWS:
            continue
        filled = usual[one.at]
        if reference is not None and not (accepted is not None and accepted[j]):
            filled = filled | (reference.numeric[one.at, : bins.width] > 0)
        share = float(now[one.at, _outside(filled, edges[one.at])].sum() / rows[one.at])
        if share >= RANGE_SHARE:
            kind = Series(one.column, RANGE, one.at)
            reason = f"{share:.0%} of the last rows lie far outside {beside.says}: another unit?"
            found[j] = Decision(
                kind, 1, RANGE, beside.says, share, RANGE_SHARE, share, float(rows[one.at]), drifted=True, reason=reason
            )
    return found


def _outside(filled: Flags, edges: Floats) -> Flags:
    """Bins that lie beyond the range of the filled ones by half of its width, wholly."""
    lower, upper = np.concatenate([[-np.inf], edges]), np.concatenate([edges, [np.inf]])
    at = np.flatnonzero(filled)
    if not at.size:
        return np.zeros(filled.size, bool)
    low, high = lower[at[0]], upper[at[-1]]
    width = high - low
    if not np.isfinite(width):  # it held nearly anything before
        return np.zeros(filled.size, bool)
    beyond = RANGE_WIDTHS * (1 - 1e-9) * width  # guards stand just there
    outside: Flags = (upper <= low - beyond) | (lower >= high + beyond)
    return outside


def pseudo_hours(series: Sequence[Series], spans: Sequence[Sequence[Sparse]], reference: Totals) -> Memory:
    """How much pieces of the reference, in row order, differ from the whole of it.

    Parameters
    ----------
    spans : sequence of sequences of Sparse
        Runs of consecutive pieces of the reference, each piece about as large as an hour.

    Returns
    -------
    Memory with a first axis of pieces instead of tiers: (n_pieces, n_scales, n_series). Its `peak` is how far a piece
    went beyond what chance does to one in a hundred: a piece is smaller than an hour, and its noise is no record.
    """
    pieces = [(span, k) for span in spans for k in range(len(span))]
    memory = Memory.blank(max(len(pieces), 1), len(SCALES), len(series))
    for row, (span, k) in enumerate(pieces):
        for s, scale in enumerate(SCALES):
            if (k + 1) % scale == 0:
                current = Totals(reference.bins)
                for piece in span[k + 1 - scale : k + 1]:
                    current.add(piece)
                measured = distances(series, [(current, reference)])[0]
                memory.excess[row, s] = measured.stat - measured.median * measured.noise
                memory.noise[row, s] = measured.noise
                memory.peak[row, s] = np.maximum(0.0, measured.stat - _chance(measured, _RARE) * measured.noise)
    return memory


def _usual_spread(compared: Sequence[Comparison]) -> Floats:
    """Standard deviation of every numeric column in the reference."""
    reference = next((c.baseline for c in compared if c.tier == "reference"), None)
    if reference is None:
        return np.zeros(len(compared[0].current.bins.numeric) if compared else 0)
    return _spread_of(reference)


@lru_cache(maxsize=4)  # the reference is the same in every window
def _spread_of(baseline: Totals) -> Floats:
    bins = baseline.bins
    return moments.binned_std(bins.padded_edges, baseline.numeric[:, : bins.width], baseline.values)


def _chance(measured: Distances, alpha: float) -> Floats:
    """Upper quantile of ``stat / noise`` under no change."""
    ks, phi = spread.kolmogorov_quantile(alpha), spread.chi2_quantile(alpha, np.maximum(measured.df, 1.0))
    return np.where(measured.df == 0, ks, phi)


class _Judge:
    """Thresholds of one comparison; NaN for series that are not among the `columns`, which sampling explains."""

    def __init__(
        self,
        comparison: Comparison,
        measured: Distances,
        past: tuple[Floats, Floats, Floats],
        recent: int,
        alpha: float,
        chance: Floats,
        usual: Floats,
        floor: float,
        able: Flags,
        columns: Columns,
    ) -> None:
        self.comparison, self.measured, self.usual, self.floor = comparison, measured, usual, floor
        tier, (excess, noise, bounds) = comparison.tier, past
        self.able = able
        self.settled = (np.isfinite(excess).sum(axis=0) >= SETTLED) & (tier != "reference")
        learnt = np.full(able.size, np.nan)
        record = learnt.copy()
        learnt[columns] = spread.benign_spread(
            excess[:, columns], noise[:, columns], blocks=comparison.blocks, scale=comparison.scale
        )
        record[columns] = spread.record(bounds[:, columns], recent)
        record += measured.median * measured.noise
        self.tau2 = np.maximum(learnt, LEAST_TAU[tier] ** 2)
        self.jitters = spread.threshold(chance, measured.noise, self.tau2, alpha) > 2 * chance * measured.noise
        # `known` is what has been seen; the limit believes it from a least spread on.
        self.known, self.limit = (
            np.maximum(spread.threshold(chance, measured.noise, tau2, alpha), record) for tau2 in (learnt, self.tau2)
        )

    def decision(self, j: int, series: Series) -> Decision:
        """Compare statistic with threshold, and effect with its floor."""
        stat, limit = float(self.measured.stat[j]), float(self.limit[j])
        comparison, scale = self.comparison, self.comparison.scale
        effect, reason = float("nan"), ""
        drifted: bool | None = False
        if limit >= POWERLESS.get(series.kind, np.inf):
            drifted = None
            reason = "its hours differ among themselves as much as any two samples can: no test has power"
        elif stat > limit:
            effect, floor = _effect(series, comparison, self.usual), self.floor
            if series.kind in {"missing", "new"}:
                floor = RATIO_FLOOR
                enough = abs(effect) * self.measured.rows[j] >= RATIO_ROWS
                drifted = abs(effect) >= floor and enough
            else:
                drifted = effect >= floor
            if not drifted:
                reason = f"beyond chance, but the effect {effect:.3g} is below what matters ({floor:g})"
        return Decision(
            series, scale, comparison.tier, comparison.says, stat**0.5, limit**0.5, effect,
            float(self.measured.rows[j]), drifted, reason,
        )  # fmt: skip


def _effect(series: Series, comparison: Comparison, usual: Floats) -> float:
    """How large a change is, in units that people know: σ, Jensen-Shannon distance, or points of a ratio."""
    now, then, bins = comparison.current, comparison.baseline, comparison.current.bins
    i = series.at
    if series.kind == "ks":
        edges = bins.padded_edges[i]
        before, after = then.numeric[i, : bins.width], now.numeric[i, : bins.width]
        # Rain after two dry weeks is infinitely many σ of these weeks: a quarter of the reference's σ is the least.
        spreads = (moments.binned_std(edges, before, then.values[i]), usual[i] / 4)
        scale = max(float(np.nan_to_num(s)) for s in spreads) or 1.0
        return float(moments.wasserstein_normalized(edges, before, then.values[i], after, now.values[i], scale=scale))
    if series.kind == "phi":
        return float(statistics.jensen_shannon_distance(then.categorical[i], now.categorical[i]))
    ratios = []
    for totals in (now, then):
        numeric = series.column in bins.numeric
        counts = totals.numeric[i] if numeric else totals.categorical[i]
        slots = (bins.width + NULL, bins.width + 1) if numeric else (bins.depth + 1,)
        slots = (bins.depth + NEW,) if series.kind == "new" else slots
        ratios.append(float(sum(counts[k] for k in slots) / max(counts.sum(), 1e-9)))
    return ratios[0] - ratios[1]
