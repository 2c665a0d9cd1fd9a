"""Baselines: sums of stored hourly profiles, chosen so that seasons cancel.

Four tiers, each with what it needs and how many blocks of history it averages over:

===== ============================================================ =====
tier  hours                                                        needs
===== ============================================================ =====
week  same hours of the week, the latest 4 within 8 weeks          2
day   same hours of the day, the latest 7 within 28 days           3
trail the last 168 good hours                                      18
ref   the reference                                                -
===== ============================================================ =====

In the first two, each hour is weighted by the rows of the hour it is compared with, so that a baseline has the hour mix
of the window.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from hindcast.profile.profile import Profile, Sparse
from hindcast.window import HOUR

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from zoneinfo import ZoneInfo

    from hindcast.profile.bins import Bins

    Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
    Flags = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]
    Positions = np.ndarray[tuple[int, ...], np.dtype[np.int32]]

TIERS = ("week", "day", "trail", "reference")
SCALES = (1, 6, 24)
TRAIL_HOURS = 168
_NEEDS = {"week": 2, "day": 3, "trail": 18}


def _seasons(weeks: int) -> dict[str, tuple[int, int, int]]:
    """Days apart, blocks at most, blocks back."""
    return {"week": (7, weeks, 2 * weeks), "day": (1, 7, 28)}


_CACHED_HOURS = 2000


class History:
    """Stored profiles by hour, loaded on demand and kept.

    Parameters
    ----------
    bins : Bins
    load : callable
        Hours -> stored content of those that are there.
    """

    def __init__(self, bins: Bins, load: Callable[[Sequence[datetime]], Mapping[datetime, bytes]]) -> None:
        self.bins = bins
        self._load = load
        self._hours: OrderedDict[datetime, Sparse | None] = OrderedDict()

    def want(self, hours: Iterable[datetime]) -> None:
        """Load the hours that are not held yet, in one query."""
        missing = [hour for hour in dict.fromkeys(hours) if hour not in self._hours]
        found = self._load(missing) if missing else {}
        for hour in missing:
            content = found.get(hour)
            self._hours[hour] = Sparse.from_bytes(content, self.bins) if content else None
        while len(self._hours) > _CACHED_HOURS:
            self._hours.popitem(last=False)

    def put(self, hour: datetime, content: bytes) -> None:
        """Hold one hour that was just profiled."""
        self._hours.pop(hour, None)
        self._hours[hour] = Sparse.from_bytes(content, self.bins)

    def get(self, hour: datetime) -> Sparse | None:
        """One hour; None when nothing is stored or it had no rows."""
        if hour not in self._hours:
            self.want([hour])
        found = self._hours[hour]
        return found if found and found.rows else None


class Totals:
    """Weighted sum of hours; counts and sums are float64, `n` holds effective rows."""

    def __init__(self, bins: Bins) -> None:
        shape = Profile.empty(bins)
        self.bins = bins
        self._numeric, self._categorical = shape.numeric.shape, shape.categorical.shape
        self._split = shape.numeric.size
        self.counts: Floats = np.zeros(shape.numeric.size + shape.categorical.size + shape.outside.size)
        self.sums: Floats = np.zeros(shape.sums.size)
        self.rows = 0.0
        self._squares = 0.0

    def add(self, hour: Sparse, weight: float = 1.0, skip: Flags | None = None) -> None:
        """Add an hour; columns flagged in `skip` (inside an episode) stay out."""
        filled, counts, summed, sums = hour.filled, hour.counts, hour.summed, hour.sums
        if skip is not None and skip.any():
            kept = ~skip[self._column_of(filled)]
            filled, counts = filled[kept], counts[kept]
            kept = ~skip[summed // self.bins.width]
            summed, sums = summed[kept], sums[kept]
        self.counts[filled] += counts * weight
        self.sums[summed] += sums * weight
        self.rows += hour.rows * weight

    def add_block(self, block: Totals, weight: float) -> None:
        """Add another sum; for the effective size, its rows count as one independent block."""
        self.counts += block.counts * weight
        self.sums += block.sums * weight
        self.rows += block.rows * weight
        self._squares += block.rows * weight**2

    @property
    def effective_rows(self) -> float:
        """Rows that an unweighted sample of the same precision would have (Kish)."""
        return self.rows**2 / self._squares if self._squares else self.rows

    def scaled(self) -> Totals:
        """The same proportions, with `effective_rows` rows."""
        factor = self.effective_rows / self.rows if self.rows else 1.0
        result = Totals(self.bins)
        result.add_block(self, factor)
        result._squares = 0.0
        return result

    def copy(self) -> Totals:
        """An independent copy."""
        result = Totals(self.bins)
        result.counts, result.sums = self.counts.copy(), self.sums.copy()
        result.rows, result._squares = self.rows, self._squares
        return result

    @property
    def numeric(self) -> Floats:
        """Counts like `Profile.numeric`."""
        return self.counts[: self._split].reshape(self._numeric)

    @property
    def categorical(self) -> Floats:
        """Counts like `Profile.categorical`."""
        size = self._categorical[0] * self._categorical[1]
        return self.counts[self._split : self._split + size].reshape(self._categorical)

    @property
    def values(self) -> Floats:
        """Sum of the values per numeric bin."""
        sums = self.sums.reshape(self._numeric[0], self.bins.width)
        return sums * self.bins.unit[:, None] + self.numeric[:, : self.bins.width] * self.bins.center[:, None]

    def _column_of(self, positions: Positions) -> Any:
        numeric, depth = self._numeric, max(self._categorical[1], 1)
        after = positions - self._split
        categorical = np.minimum(numeric[0] + after // depth, numeric[0] + self._categorical[0] - 1)
        return np.where(after < 0, positions // (self.bins.width + 5), categorical)


@dataclass(frozen=True)
class Comparison:
    """A window at one scale beside one baseline."""

    tier: str
    scale: int
    current: Totals
    baseline: Totals
    blocks: int
    says: str


def same_local_hour(start: datetime, days: int, zone: ZoneInfo) -> datetime:
    """The hour `days` earlier on the wall clock of `zone`.

    Examples
    --------
    >>> from zoneinfo import ZoneInfo
    >>> monday = datetime(2013, 3, 11, 16, tzinfo=UTC)  # clocks went forward on the 10th
    >>> same_local_hour(monday, 7, ZoneInfo("America/New_York")).isoformat()
    '2013-03-04T17:00:00+00:00'
    """
    local = start.astimezone(zone)
    return (local - timedelta(days=days)).astimezone(UTC).replace(minute=0)


def needed_hours(start: datetime, zone: ZoneInfo, weeks: int = 4) -> list[datetime]:
    """Every hour that `comparisons` of this window may read."""
    current = [start - k * HOUR for k in range(max(SCALES))]
    seasons = [
        same_local_hour(hour, days * k, zone)
        for hour in current
        for days, _, back in _seasons(weeks).values()
        for k in range(1, back + 1)
    ]
    trail = [start - k * HOUR for k in range(1, max(SCALES) + 2 * TRAIL_HOURS)]
    return [*current, *seasons, *trail]


def comparisons(
    start: datetime,
    history: History,
    reference: Totals,
    flags: Mapping[datetime, Flags],
    zone: ZoneInfo,
    *,
    weeks: int = 4,
) -> list[Comparison]:
    """Every (scale, tier) that has enough history for the window that starts at `start`.

    Parameters
    ----------
    flags : mapping
        Hour -> which columns were inside an episode then, (n_numeric + n_categorical,).
    weeks : int
        The latest so many good weeks, within twice as many, make the tier ``week``.
    """
    history.want(needed_hours(start, zone, weeks))
    found: list[Comparison] = []
    for tier in ("week", "day"):
        found += _seasonal(tier, _seasons(weeks)[tier], start, history, flags, zone)
    trails = _trails(start, history, flags)
    for scale in SCALES:
        current = Totals(history.bins)
        for k in range(scale):
            hour = history.get(start - k * HOUR)
            if hour:
                current.add(hour)
        if not current.rows:
            continue
        trail, used = trails[scale]
        if used >= _NEEDS["trail"]:
            found.append(Comparison("trail", scale, current, trail, 100, f"the last {used} good hours"))
        found.append(Comparison("reference", scale, current, reference, 100, "the reference"))
    return found


def _trails(start: datetime, history: History, flags: Mapping[datetime, Flags]) -> dict[int, tuple[Totals, int]]:
    """Per scale, the sum of the last good hours before its window, and how many they are."""
    before = [start - k * HOUR for k in range(1, max(SCALES) + 2 * TRAIL_HOURS)]
    good = [hour for hour in before if history.get(hour)]
    first = {scale: sum(hour > start - scale * HOUR for hour in good) for scale in SCALES}
    shared = range(max(first.values()), min(min(first.values()) + TRAIL_HOURS, len(good)))
    common = Totals(history.bins)

    def add(total: Totals, i: int) -> None:
        hour = history.get(good[i])
        if hour:
            total.add(hour, skip=flags.get(good[i]))

    for i in shared:
        add(common, i)
    found = {}
    for scale, i in first.items():
        total, last = common.copy(), min(i + TRAIL_HOURS, len(good))
        for k in range(i, last):
            if k not in shared:
                add(total, k)
        found[scale] = (total, last - i)
    return found


def _seasonal(
    tier: str,
    season: tuple[int, int, int],
    start: datetime,
    history: History,
    flags: Mapping[datetime, Flags],
    zone: ZoneInfo,
) -> list[Comparison]:
    days, most, back = season
    current, baseline = Totals(history.bins), Totals(history.bins)
    rows, fewest, found = 0, most, []
    for k in range(max(SCALES)):
        at = start - k * HOUR
        hour = history.get(at)
        if hour:
            rows += hour.rows
            block, used = Totals(history.bins), 0
            for back_k in range(1, back + 1):
                earlier = same_local_hour(at, days * back_k, zone)
                same = history.get(earlier)
                if same and used < most:
                    block.add(same, skip=flags.get(earlier))
                    used += 1
            if used >= min(_NEEDS[tier], most) and block.rows:
                current.add(hour)
                baseline.add_block(block, hour.rows / block.rows)
                fewest = min(fewest, used)
        if k + 1 in SCALES and rows and current.rows >= 0.8 * rows:
            says = f"the same hours of {fewest} earlier {tier}s"
            found.append(Comparison(tier, k + 1, current.copy(), baseline.scaled(), most, says))
    return found
