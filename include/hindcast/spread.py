"""How much a number moves when nothing is wrong, and what it must exceed to be worth waking somebody.

A squared distance of two samples has a noise floor that follows from their sizes, ``v = 1/n + 1/m``. Real streams move
more than that from hour to hour: flights of one hour share one weather report. This benign spread, τ², is estimated per
series from the history of *excesses* ``e = stat - median·v``, from medians, so that past incidents do not inflate it.
"""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import special

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
    Flags = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]
    Counts = np.ndarray[tuple[int, ...], np.dtype[np.int32]]
    Name = tuple[str, ...]

CHI2_1_MEDIAN = 0.4549364231195724
PRIOR_TAU = 0.02
# Above the benign spread by so much, since τ² is itself an estimate.
SPREAD_MARGIN = 1.25
# ... and above the largest excess that the series ever had while quiet; the less is learnt, the further above.
RECORD_MARGIN = 1.5
_FEW = 72
# Hours of excesses that count: two weeks.
REMEMBERED = 336
# An episode closes after so many quiet hours in a row; after a week its level is the new normal.
CLOSES_AFTER, ACCEPTED_AFTER = 6, 168
RECENT = timedelta(hours=24)
# An episode that closes by itself within so many hours teaches its size: benign bursts that recur stop waking people.
TEACHES_WITHIN = 48


def kolmogorov_quantile(alpha: float) -> float:
    """Squared Kolmogorov quantile K²(α): ``P(D² > K²·v) = α`` asymptotically.

    Examples
    --------
    >>> round(kolmogorov_quantile(0.05) ** 0.5, 3)
    1.358
    """
    return float(special.kolmogi(alpha) ** 2)


def chi2_quantile(alpha: float, df: Any) -> Any:
    """Upper quantile of χ² with `df` degrees of freedom.

    Examples
    --------
    >>> round(float(chi2_quantile(0.05, 1)), 2)
    3.84
    """
    return special.chdtri(df, alpha)


@lru_cache(maxsize=64)  # three of a model, in every hour
def _chi2_1_quantile(alpha: float) -> float:
    return float(special.chdtri(1, alpha))


def alpha_of(budget_per_week: float, scale: int, n_series: int, n_scales: int = 3) -> float:
    """Level of one test, so that all of a week's together raise `budget_per_week` false alarms.

    Windows of 6 or 24 hours overlap from hour to hour: a week has 28 or 7 independent ones, and each scale has a share
    of the budget.

    Examples
    --------
    >>> round(1 / alpha_of(1.0, 1, 50)), round(1 / alpha_of(1.0, 24, 50))
    (25200, 1050)
    """
    return budget_per_week / n_scales / (168 / scale * max(n_series, 1))


def benign_spread(excess: Floats, noise: Floats, *, blocks: int, scale: int, least: float = 0.0) -> Floats:
    """Benign spread τ² per series.

    Parameters
    ----------
    excess, noise : float64 arrays of shape (n_remembered, n_series)
        Excesses and their v while quiet; NaN where there was none.
    blocks : int
        Over how many independent blocks the baseline averages (weeks, days…): its own spread counts too.
    scale : int
        Hours per window: windows of 24 hours overlap, so 24 remembered ones weigh like one.
    least : float
        Smallest τ that is believed.

    Returns
    -------
    float64 array (n_series,): the median excess over that of χ²₁, shrunk to 0.02² while little is remembered.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> excess = (0.1 * rng.standard_normal((300, 1))) ** 2
    >>> bool(0.08 < benign_spread(excess, np.full((300, 1), 1e-6), blocks=100, scale=1)[0] ** 0.5 < 0.12)
    True
    """
    count = np.isfinite(excess).sum(axis=0)
    precise = np.where(noise <= nan_median(noise), excess, np.nan)
    tau2 = np.nan_to_num(np.maximum(0.0, nan_median(precise)) / CHI2_1_MEDIAN / (1 + 1 / blocks))
    weight = count / scale
    shrunk: Floats = (weight * tau2 + PRIOR_TAU**2) / (weight + 1)
    return np.maximum(shrunk, least**2)


def nan_median(values: Floats) -> Floats:
    """Median along the first axis, ignoring NaN, NaN where all is; without warnings."""
    if not len(values):
        return np.full(values.shape[1:], np.nan)
    ordered = np.sort(values, axis=0)  # NaN last
    count = np.isfinite(values).sum(axis=0)
    low = np.take_along_axis(ordered, np.maximum((count - 1) // 2, 0)[None], axis=0)[0]
    high = np.take_along_axis(ordered, np.minimum(count // 2, len(values) - 1)[None], axis=0)[0]
    return np.where(count > 0, (low + high) / 2, np.nan)


def threshold(noise_quantile: Floats, noise: Floats, tau2: Floats, alpha: float) -> Floats:
    """What a squared distance must exceed: ``q(α)·v + 1.25·χ²₁(α)·τ²``."""
    limit: Floats = noise_quantile * noise + SPREAD_MARGIN * _chi2_1_quantile(alpha) * tau2
    return limit


def record(excess: Floats, recent: int, few: int = _FEW) -> Floats:
    """What an excess must pass to be news, per series: its largest while quiet, with a margin.

    Parameters
    ----------
    excess : float64 array of shape (n_remembered, n_series), NaN where there was none
    recent : int
        So many of the last rows do not count: they overlap the window, and what rises towards an alarm is no record.
    few : int
        With so many remembered, the margin is twice what it is with very many.

    Examples
    --------
    >>> record(np.full((72, 1), 0.1), 0).round(6)
    array([0.3])
    """
    excess = excess[: max(len(excess) - recent, 0)]
    count = np.isfinite(excess).sum(axis=0)
    largest = np.where(np.isfinite(excess), excess, 0.0).max(axis=0, initial=0.0)
    bound: Floats = RECORD_MARGIN * (1 + few / np.maximum(count, 1)) * largest
    return bound


@dataclass
class Memory:
    """What is remembered of one hour.

    `excess`, `noise` and `peak` have shape (n_tiers, n_scales, n_series), NaN for nothing. `open_hours` counts, per
    series, the hours since an episode began (0: none); `quiet` the quiet hours in a row; `peak` is the largest excess
    of the episode, or, where none is open, what waits for a second look. The noise of an excess that a closed episode
    taught is infinite: it bounds, and does not enter the median.
    """

    excess: Floats
    noise: Floats
    peak: Floats
    open_hours: Counts
    quiet: Counts

    @classmethod
    def blank(cls, n_tiers: int, n_scales: int, n_series: int) -> Memory:
        """Nothing yet."""
        shape = (n_tiers, n_scales, n_series)
        excess, noise, peak = (np.full(shape, np.nan) for _ in range(3))
        return cls(excess, noise, peak, np.zeros(n_series, np.int32), np.zeros(n_series, np.int32))

    def turn(
        self,
        before: Memory | None,
        drifted: Flags,
        *,
        teaches_within: int = TEACHES_WITHIN,
        held: Flags | None = None,
        waiting: Flags | None = None,
        accepted_after: int | None = ACCEPTED_AFTER,
    ) -> None:
        """Open and close episodes; while one is open, nothing is learnt but its size, if it closes soon by itself.

        Series that are `held` stand still: a planned hour opens and closes nothing. What is `waiting` for a second
        look, (n_scales, n_series), is learnt as an episode's size is: when the next hour did not open one.
        """
        was_open = before.open_hours if before else np.zeros_like(self.open_hours)
        was_quiet = before.quiet if before else np.zeros_like(self.quiet)
        quiet = np.where(drifted, 0, was_quiet + 1)
        still = drifted | ((was_open > 0) & (quiet < CLOSES_AFTER))
        open_hours = np.where(still, was_open + 1, 0)
        if held is not None:
            still = np.where(held, was_open > 0, still)
            quiet, open_hours = np.where(held, was_quiet, quiet), np.where(held, was_open, open_hours)
        self.open_hours, self.quiet = open_hours.astype(np.int32), quiet.astype(np.int32)
        peak = before.peak if before else np.full_like(self.peak, np.nan)
        waits = np.zeros(self.peak.shape[1:], bool) if waiting is None else waiting & ~still
        waited = before.waits.any(axis=0) if before else np.zeros_like(still)
        self.peak = np.where(still, np.fmax(peak, self.excess), np.where(waits, self.excess, np.nan))
        out = self.flagged(accepted_after) | waits.any(axis=0)
        self.excess[:, :, out] = np.nan
        self.noise[:, :, out] = np.nan
        taught = ~still & np.where(was_open > 0, was_open <= teaches_within, waited)
        self.excess[:, :, taught] = np.fmax(self.excess, peak)[:, :, taught]
        self.noise[:, :, taught] = np.inf

    @property
    def waits(self) -> Flags:
        """What was beyond its threshold and waits for a second look, (n_scales, n_series)."""
        found: Flags = np.isfinite(self.peak).any(axis=0) & (self.open_hours == 0)
        return found

    def flagged(self, accepted_after: int | None = ACCEPTED_AFTER) -> Flags:
        """Which series are inside an episode whose level is not accepted yet; None: not by its length alone."""
        inside: Flags = self.open_hours > 0
        return inside if accepted_after is None else inside & (self.open_hours <= accepted_after)

    def accept(self, series: Flags) -> Memory:
        """The same with the episodes of these series at an end, having taught nothing: their level is the usual one."""
        return replace(
            self,
            peak=np.where(series, np.nan, self.peak),
            open_hours=np.where(series, 0, self.open_hours).astype(np.int32),
            quiet=np.where(series, CLOSES_AFTER, self.quiet).astype(np.int32),
        )

    def to_bytes(self, names: Sequence[Name]) -> bytes:
        """Compact form, with the names of the series."""
        text = json.dumps([list(self.excess.shape), [list(name) for name in names]]).encode()
        arrays = [a.astype("<f8") for a in (self.excess, self.noise, self.peak)] + [self.open_hours, self.quiet]
        return zlib.compress(struct.pack("<I", len(text)) + text + b"".join(a.tobytes() for a in arrays), 1)

    @staticmethod
    def names_in(content: bytes) -> tuple[Name, ...]:
        """Names of the series that a stored memory holds."""
        body = zlib.decompress(content)
        (size,) = struct.unpack_from("<I", body)
        return _header(body[4 : 4 + size])[1]

    @classmethod
    def from_bytes(cls, content: bytes, names: Sequence[Name]) -> Memory:
        """Read what `to_bytes` wrote, in the order of `names`; a series that it does not hold is blank."""
        body = zlib.decompress(content)
        (size,) = struct.unpack_from("<I", body)
        shape, stored = _header(body[4 : 4 + size])
        cells, at = int(np.prod(shape)), 4 + size
        floats = np.frombuffer(body, "<f8", 3 * cells, at).reshape(3, *shape)
        counts = np.frombuffer(body, "<i4", 2 * shape[2], at + 24 * cells).reshape(2, shape[2])
        if stored == tuple(names):
            return cls(*floats, *counts)
        where = {name: i for i, name in enumerate(stored)}
        memory = cls.blank(shape[0], shape[1], len(names))
        to = [j for j, name in enumerate(names) if name in where]
        of = [where[names[j]] for j in to]
        for mine, theirs in zip((memory.excess, memory.noise, memory.peak), floats, strict=True):
            mine[:, :, to] = theirs[:, :, of]
        memory.open_hours[to], memory.quiet[to] = counts[0][of], counts[1][of]
        return memory


@lru_cache(maxsize=8)  # the same for every hour of a model
def _header(text: bytes) -> tuple[list[int], tuple[Name, ...]]:
    """Shape and names of a stored memory."""
    shape, names = json.loads(text)
    return shape, tuple(tuple(name) for name in names)


def overlapping(hours: Sequence[datetime], start: datetime) -> int:
    """How many of the remembered `hours`, ascending, lie in the day before `start`."""
    return sum(hour >= start - RECENT for hour in hours)


def stacked(past: Sequence[Memory], like: Memory) -> tuple[Floats, Floats]:
    """Excesses and noises of the remembered hours, each (n_hours, n_tiers, n_scales, n_series)."""
    if not past:
        empty = np.empty((0, *like.excess.shape))
        return empty, empty
    # Hours of one tier and scale lie together.
    excess, noise = (np.stack([getattr(hour, name) for hour in past], axis=2) for name in ("excess", "noise"))
    return np.moveaxis(excess, 2, 0), np.moveaxis(noise, 2, 0)
