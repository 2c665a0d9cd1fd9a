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
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from hindcast.profile.profile import Sparse
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
# The last hours with rows are looked for within so many, which the good hours beside them precede.
_BEFORE_RANGE = 6
_NEEDS = {"week": 2, "day": 3, "trail": 18}
# Not tiers, but beside them. The same hours a week before, as they were: what is like them is no news. And the last
# hours beside all good ones: what lies far outside their range is in another unit.
AGAIN, RANGE = "again", "range"
RANGE_HOURS = 3


def _seasons(weeks: int) -> dict[str, tuple[int, int, int]]:
    """Days apart, blocks at most, blocks back."""
    return {"week": (7, weeks, 2 * weeks), "day": (1, 7, 28)}


# Hours held as arrays, of some hundred kilobytes each; what is older is read again when a week needs it.
_HELD_HOURS = 400
# Sums that follow their hours: one per scale for window and trail, one per hour of the day before and season.
_HELD_SUMS = 5 * len(SCALES) + 1 + 3 * max(SCALES)


class History:
    """Stored profiles by hour, loaded on demand, and sums of them that follow the window from hour to hour.

    Parameters
    ----------
    bins : Bins
    load : callable
        Hours -> stored content of those that are there.
    count : callable, optional
        Hours -> rows of those that are there. Without it the hours themselves are loaded to know which have rows.
    """

    def __init__(
        self,
        bins: Bins,
        load: Callable[[Sequence[datetime]], Mapping[datetime, bytes]],
        count: Callable[[Sequence[datetime]], Mapping[datetime, int]] | None = None,
    ) -> None:
        self.bins = bins
        self._load, self._count = load, count
        self._rows: dict[datetime, int] = {}
        self._hours: OrderedDict[datetime, Sparse | None] = OrderedDict()
        self._sums: OrderedDict[tuple[Any, ...], _Sum] = OrderedDict()

    def want(self, hours: Iterable[datetime]) -> None:
        """Load the hours that are not held yet, in one query."""
        wanted = dict.fromkeys(hours)
        missing = [hour for hour in wanted if hour not in self._hours]
        found = self._load(missing) if missing else {}
        for hour in missing:
            self._hold(hour, found.get(hour))
        for hour in wanted:
            self._hours.move_to_end(hour)
        self._let_go(max(_HELD_HOURS, len(wanted)))

    def put(self, hour: datetime, content: bytes) -> None:
        """Hold one hour that was just profiled."""
        self._hours.pop(hour, None)
        self._hold(hour, content)
        self._let_go(_HELD_HOURS)
        for held in self._sums.values():
            held.forget(hour)

    def _let_go(self, most: int) -> None:
        while len(self._hours) > most:
            self._hours.popitem(last=False)

    def _hold(self, hour: datetime, content: bytes | None) -> None:
        found = _aligned(Sparse.from_bytes(content, self.bins)) if content else None
        self._hours[hour], self._rows[hour] = found, found.rows if found else 0

    def get(self, hour: datetime) -> Sparse | None:
        """One hour; None when nothing is stored or it had no rows."""
        if hour not in self._hours:
            self.want([hour])
        found = self._hours[hour]
        return found if found and found.rows else None

    def rows(self, hours: Iterable[datetime]) -> Mapping[datetime, int]:
        """Rows of every hour known so far, among them all of `hours`; 0 where nothing is stored."""
        missing = list(dict.fromkeys(hour for hour in hours if hour not in self._rows))
        if missing and self._count:
            found = self._count(missing)
            self._rows.update({hour: found.get(hour, 0) for hour in missing})
        elif missing:
            self.want(missing)
        return self._rows

    def sum_of(self, key: tuple[Any, ...], hours: Mapping[datetime, Flags | None], like: Any = None) -> Totals:
        """Sum of `hours`, each without the columns that it flags; hours with rows only.

        Parameters
        ----------
        key : tuple
            Names the sum: only what changed since it was last asked for is added or taken away.
        like : tuple, optional
            Name of another sum to begin with when this one is new.
        """
        held = self._sums.pop(key, None)
        if held is None:
            held = self._sums[like].copy() if like in self._sums else _Sum(self.bins)
        self._sums[key] = held
        while len(self._sums) > _HELD_SUMS:
            self._sums.popitem(last=False)
        return held.follow(hours, self)


def _aligned(hour: Sparse) -> Sparse:
    """Copy the arrays out of the stored bytes, where they lie askew: adding those takes twenty times as long."""
    arrays = {name: getattr(hour, name).copy() for name in ("filled", "counts", "summed", "sums")}
    return replace(hour, **arrays)


class _Sum:
    """A sum of hours that follows a changing set of them: in integers, so that what leaves, leaves exactly."""

    def __init__(self, bins: Bins) -> None:
        self.bins = bins
        self._members: dict[datetime, tuple[Sparse, Flags | None]] = {}
        empty = Totals(bins)
        self._counts, self._sums = empty.counts.astype(np.int64), empty.sums.astype(np.int64)
        self._totals: Totals | None = empty

    def copy(self) -> _Sum:
        """An independent copy."""
        result = _Sum(self.bins)
        result._members, result._totals = dict(self._members), self._totals
        result._counts, result._sums = self._counts.copy(), self._sums.copy()
        return result

    def forget(self, hour: datetime) -> None:
        """Take an hour out, if it is in: it was profiled again."""
        if hour in self._members:
            self._add(*self._members.pop(hour), sign=-1)

    def follow(self, hours: Mapping[datetime, Flags | None], history: History) -> Totals:
        """Become the sum of `hours`."""
        for hour in [h for h, (_, flags) in self._members.items() if h not in hours or not _same(flags, hours[h])]:
            self.forget(hour)
        for hour in [h for h in hours if h not in self._members]:
            found = history.get(hour)
            if found:
                self._members[hour] = found, hours[hour]
                self._add(found, hours[hour], sign=1)
        if self._totals is None:
            self._totals = Totals(self.bins)
            self._totals.counts, self._totals.sums = self._counts.astype(np.float64), self._sums.astype(np.float64)
            self._totals.rows = float(sum(hour.rows for hour, _ in self._members.values()))
        return self._totals

    def _add(self, hour: Sparse, flags: Flags | None, *, sign: int) -> None:
        filled, counts, summed, sums = _kept(hour, flags, self.bins)
        change = np.add.at if sign > 0 else np.subtract.at
        change(self._counts, filled, counts)
        change(self._sums, summed, sums)
        self._totals = None


def _same(flags: Flags | None, others: Flags | None) -> bool:
    if flags is others or flags is None or others is None:
        return flags is others
    return np.array_equal(flags, others)


class Totals:
    """Weighted sum of hours; counts and sums are float64, `n` holds effective rows."""

    def __init__(self, bins: Bins) -> None:
        self.bins = bins
        self._numeric = len(bins.numeric), bins.width + 5
        self._categorical = len(bins.categorical), bins.depth + 3
        self._split = self._numeric[0] * self._numeric[1]
        outside = 2 * (len(bins.numeric) + len(bins.categorical))
        self.counts: Floats = np.zeros(self._split + self._categorical[0] * self._categorical[1] + outside)
        self.sums: Floats = np.zeros(len(bins.numeric) * bins.width)
        self.rows = 0.0
        self._squares = 0.0

    def add(self, hour: Sparse, weight: float = 1.0, skip: Flags | None = None) -> None:
        """Add an hour; columns flagged in `skip` (inside an episode) stay out."""
        filled, counts, summed, sums = _kept(hour, skip, self.bins)
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

    def by_column(self, factor: Floats) -> Totals:
        """A copy with the counts of each column, the numeric ones first, times its factor; 0 leaves it out."""
        result = self.copy()
        numeric, rest = self._numeric[1], factor[len(self.bins.numeric) :]
        after = np.repeat(rest, self._categorical[1])
        result.counts[: self._split] *= np.repeat(factor[: len(self.bins.numeric)], numeric)
        result.counts[self._split : self._split + after.size] *= after
        result.sums *= np.repeat(factor[: len(self.bins.numeric)], self.bins.width)
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


def _kept(hour: Sparse, skip: Flags | None, bins: Bins) -> tuple[Any, Any, Any, Any]:
    """Positions and counts, positions and sums of an hour, without the columns flagged in `skip`."""
    filled, counts, summed, sums = hour.filled, hour.counts, hour.summed, hour.sums
    if skip is not None and skip.any():
        kept = ~skip[_column_of(filled, bins)]
        filled, counts = filled[kept], counts[kept]
        kept = ~skip[summed // bins.width]
        summed, sums = summed[kept], sums[kept]
    return filled, counts, summed, sums


def _column_of(positions: Positions, bins: Bins) -> Any:
    """Column, the numeric ones first, of positions in `Totals.counts`; what follows the counts has the last one's."""
    width, last = bins.width + 5, len(bins.numeric) + len(bins.categorical) - 1
    after = positions - len(bins.numeric) * width
    categorical = np.minimum(len(bins.numeric) + after // max(bins.depth + 3, 1), last)
    return np.where(after < 0, positions // width, categorical)


@dataclass(frozen=True)
class Comparison:
    """A window at one scale beside one baseline."""

    tier: str
    scale: int
    current: Totals
    baseline: Totals
    blocks: int
    says: str


@lru_cache(maxsize=4096)  # a window asks for nearly the same hours as the one before
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
    rows = history.rows(needed_hours(start, zone, weeks))
    seasons = {tier: _blocks(start, rows, zone, _NEEDS[tier], season) for tier, season in _seasons(weeks).items()}
    trails, windows = _trails(start, rows), {scale: _filled(start, scale, rows) for scale in SCALES}
    seasons[AGAIN] = _blocks(start, rows, zone, 1, (7, 1, 1))
    of_seasons = [hour for blocks in seasons.values() for at, block in blocks.items() for hour in (at, *block)]
    history.want([*windows[max(SCALES)], *of_seasons, *(hour for trail in trails.values() for hour in trail)])
    current, found, like = {}, [], None
    for scale, hours in windows.items():
        current[scale] = history.sum_of(("window", scale), dict.fromkeys(hours), like)
        like = ("window", scale)
    for tier, season in _seasons(weeks).items():
        found += _seasonal(tier, season[1], seasons[tier], windows, current, history, flags)
    if not _all_known([c for c in found if c.tier == "week"]):
        found += _seasonal(AGAIN, 1, seasons[AGAIN], windows, current, history, {})
    for scale, trail in trails.items():
        if not current[scale].rows:
            continue
        if len(trail) >= _NEEDS["trail"]:
            total = history.sum_of(("trail", scale), _flagged(trail, flags), ("trail", SCALES[0]))
            share = _kept_share(trail, flags, rows, _NEEDS["trail"])
            if share is not None:
                total = total.by_column(np.isfinite(share).astype(float))
            found.append(Comparison("trail", scale, current[scale], total, 100, f"the last {len(trail)} good hours"))
        found.append(Comparison("reference", scale, current[scale], reference, 100, "the reference"))
    enough = {scale for scale, hours in windows.items() if 2 * len(hours) >= _usual_hours(start, scale, rows)}
    found = [c for c in found if c.scale in enough]
    return [*found, *_ranges(start, rows, trails[_BEFORE_RANGE], history, flags)]


def _ranges(
    start: datetime,
    rows: Mapping[datetime, int],
    trail: Sequence[datetime],
    history: History,
    flags: Mapping[datetime, Flags],
) -> list[Comparison]:
    """The last hours that have rows, the window's among them, beside the good hours before."""
    if not rows[start]:
        return []
    last = [hour for hour in (start - k * HOUR for k in range(_BEFORE_RANGE)) if rows[hour]][:RANGE_HOURS]
    now = history.sum_of((RANGE,), dict.fromkeys(last), ("window", SCALES[0]))
    then = history.sum_of(("trail", _BEFORE_RANGE), _flagged(trail, flags))
    return [Comparison(RANGE, 1, now, then, 100, f"the range of the reference and of {len(trail)} good hours")]


def _all_known(of_weeks: Sequence[Comparison]) -> bool:
    """Whether earlier weeks tell of every column at every scale."""
    if len(of_weeks) < len(SCALES):
        return False
    return all(side.sum(axis=1).all() for c in of_weeks for side in (c.baseline.numeric, c.baseline.categorical))


def _filled(start: datetime, scale: int, rows: Mapping[datetime, int]) -> list[datetime]:
    """Hours with rows of the window of this scale, newest first."""
    return [hour for hour in (start - k * HOUR for k in range(scale)) if rows[hour]]


def _usual_hours(start: datetime, scale: int, rows: Mapping[datetime, int]) -> float:
    """Hours with rows that such a window has: a week before, else, had it none, on average in the week before it.

    After an outage, a day of which two hours are there jitters like two hours, not like a day.
    """
    if same := _filled(start - TRAIL_HOURS * HOUR, scale, rows):
        return len(same)
    before = (start - k * HOUR for k in range(scale, scale + TRAIL_HOURS))
    return scale * sum(rows[hour] > 0 for hour in before) / TRAIL_HOURS


def _flagged(hours: Iterable[datetime], flags: Mapping[datetime, Flags]) -> dict[datetime, Flags | None]:
    return {hour: flags.get(hour) for hour in hours}


def _trails(start: datetime, rows: Mapping[datetime, int]) -> dict[int, list[datetime]]:
    """Per scale, the last good hours before its window."""
    before = [start - k * HOUR for k in range(1, max(SCALES) + 2 * TRAIL_HOURS)]
    good = [hour for hour in before if rows[hour]]
    return {scale: [hour for hour in good if hour <= start - scale * HOUR][:TRAIL_HOURS] for scale in SCALES}


def _blocks(
    start: datetime, rows: Mapping[datetime, int], zone: ZoneInfo, needs: int, season: tuple[int, int, int]
) -> dict[datetime, list[datetime]]:
    """Hour of the day that ends with the window -> its latest same hours with rows; hours with enough of them only."""
    days, most, back = season
    found = {}
    for at in _filled(start, max(SCALES), rows):
        earlier = (same_local_hour(at, days * k, zone) for k in range(1, back + 1))
        same = [hour for hour in earlier if rows[hour]][:most]
        if len(same) >= min(needs, most):
            found[at] = same
    return found


def _seasonal(
    tier: str,
    most: int,
    blocks: Mapping[datetime, Sequence[datetime]],
    windows: Mapping[int, Sequence[datetime]],
    whole: Mapping[int, Totals],
    history: History,
    flags: Mapping[datetime, Flags],
) -> list[Comparison]:
    """Each scale beside the hours of its blocks, which have the weight of the hour that they stand for.

    So they have for every column by itself: a column that some of the blocks leave out has the others' mean in their
    place, and is not compared at all where too few are left. Else a day of which half was an incident last week would
    have a baseline of the other half.
    """
    rows, baseline, fewest, done, found = history.rows(()), Totals(history.bins), most, 0, []
    weight: Floats = np.zeros(len(history.bins.numeric) + len(history.bins.categorical))
    stood_for, uneven = 0, False
    for scale, hours in windows.items():
        for at in hours[done:]:
            if at in blocks:
                block = history.sum_of((tier, at), _flagged(blocks[at], flags))
                share = _kept_share(blocks[at], flags, rows, min(_NEEDS.get(tier, 1), most))
                uneven |= share is not None
                scaled = block if share is None else block.by_column(np.where(np.isfinite(share), share, 0))
                baseline.add_block(scaled, rows[at] / block.rows)
                weight += rows[at] * (1.0 if share is None else share)
                stood_for += rows[at]
                fewest = min(fewest, len(blocks[at]))
        done, judged = len(hours), [at for at in hours if at in blocks]
        total = sum(rows[at] for at in hours)
        if total and sum(rows[at] for at in judged) >= 0.8 * total:
            same = len(judged) == len(hours)
            now = whole[scale] if same else history.sum_of((tier, scale), dict.fromkeys(judged), ("window", scale))
            says = f"the same hours of {fewest} earlier {tier}s" if tier != AGAIN else "the same hours a week before"
            then = baseline.scaled()
            # Of as many rows as there really are behind each column.
            then = then.by_column(stood_for / weight) if uneven else then
            found.append(Comparison(tier, scale, now, then, most, says))
    return found


def _kept_share(
    hours: Sequence[datetime], flags: Mapping[datetime, Flags], rows: Mapping[datetime, int], needs: int
) -> Floats | None:
    """Per column, the rows of all `hours` over those of the hours that do not leave it out.

    Infinite where fewer than `needs` are left; None where no hour leaves anything out.
    """
    flagged = [hour for hour in hours if hour in flags]
    if not flagged:
        return None
    left_out = np.array([flags[hour] for hour in flagged])
    total = sum(rows[hour] for hour in hours)
    kept = total - np.array([rows[hour] for hour in flagged]) @ left_out
    enough = len(hours) - left_out.sum(axis=0) >= needs
    return np.where(enough & (kept > 0), total / np.maximum(kept, 1), np.inf)
