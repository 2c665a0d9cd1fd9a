"""Simulated models for `alert_quality.py`: fifty features, hour by hour, with what is benign and what is not.

A numeric feature is a monotone function of a latent variable with a level: seasons, jitter, trends and shifts move the
level, in standard deviations of the latent variable. So the share of rows in each bin is known, and an hour is one
multinomial draw over the bins: equal in distribution to drawing its rows and counting them, at a hundredth of the cost.
Within a bin, values count as in the reference; `rows_of` draws the rows themselves, and a test holds the two together.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np
from scipy import special

from hindcast.profile.bins import Bins, fit_edges
from hindcast.profile.profile import NEW, NULL, NULL_CATEGORY, Profile, Sparse

Floats = np.ndarray
FIRST = datetime(2026, 1, 5, tzinfo=UTC)  # a Monday
WEEK = 168
HISTORY, JUDGED = 4 * WEEK, 4 * WEEK
HOURS = HISTORY + JUDGED
FAMILIES = ("normal",) * 12 + ("lognormal",) * 8 + ("heavy",) * 6 + ("zeros",) * 6 + ("poisson",) * 6
CATEGORICAL = 12
FEATURES = len(FAMILIES) + CATEGORICAL
REFERENCE_ROWS = 40_000
PIECE = 27  # rows, 1/1440 of the reference
# Rows an hour, one after the other by seed.
VOLUMES = (50, 150, 500, 1500, 5000, 15_000, 50_000)
# Kind of event -> size, and hours that it lasts.
EVENTS = {
    "shift 0.1": (0.1, 72), "shift 0.2": (0.2, 72), "shift 0.5": (0.5, 48), "variance x1.5": (1.5, 72),
    "unit x100": (100.0, 12), "ramp to 0.5": (0.5, 96), "nulls 15 %": (0.15, 12), "swap": (1.0, 48),
    "new category 5 %": (0.05, 24),
}  # fmt: skip
KINDS = (
    "quiet", "quiet rho=.9", "events", "events rho=.9", "trend", "holiday", "release", "missing hours", "growth",
    "holiday unknown", "quiet, other jitter", "events, other jitter",
)  # fmt: skip


@dataclass(frozen=True)
class Event:
    """What befalls one feature from hour `start` (inclusive) to `end`."""

    kind: str
    feature: int
    start: int
    end: int

    def size(self, hour: int) -> float:
        """How large it is at an hour; a ramp takes half of its time to grow."""
        size = EVENTS[self.kind][0] if self.kind in EVENTS else 0.5
        return size * min(1.0, 2 * (hour + 1 - self.start) / (self.end - self.start)) if "ramp" in self.kind else size


@dataclass
class World:
    """One model's stream: `levels` (hours, features) of the latent variables, `rows` per hour, and events.

    `planned` is what the calendar of the model file would say: hours from and to. `cluster` rows at a time
    share all their values (the members of a household).
    """

    kind: str
    seed: int
    n_bins: int = 256
    cluster: int = 1
    jitter_scale: float = 1.0
    events: list[Event] = field(default_factory=list)
    planned: list[tuple[int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = rng = np.random.default_rng([self.seed, KINDS.index(self.kind) if self.kind in KINDS else 99])
        self.volume = VOLUMES[self.seed % len(VOLUMES)]
        self.other = "other" in self.kind
        self.correlation = 0.9 if "rho" in self.kind else 0.6 if self.other else 0.0
        self.jitter = self.jitter_scale * np.exp(rng.uniform(np.log(0.01), np.log(0.06), FEATURES))
        self.amplitude = np.array([0.0, 0.2, 1.0])[np.arange(FEATURES) % 3]
        self.phase = rng.uniform(0, 24, FEATURES)
        self.missing = rng.choice([0.0, 0.0, 0.01, 0.03], FEATURES)
        hours = np.arange(-HISTORY, HOURS)
        levels = self._season(hours) + self._jittered(len(hours))
        self._reference_levels, self.levels = levels[:HISTORY], levels[HISTORY:]
        self.rows = rng.poisson(self.volume * self._traffic(hours[HISTORY:]))
        self._shape()
        self._special()
        self._fit()

    # The stream

    def _season(self, hours: Floats) -> Floats:
        daily = np.sin(2 * np.pi * (hours[:, None] - self.phase) / 24)
        weekend = (hours // 24 % 7 >= 5)[:, None] * np.where(np.arange(FEATURES) % 2, 0.8, -0.8)
        if self.other:  # no two days are alike: some seasons are stronger, for all features at once
            daily *= 1 + 0.05 * self.rng.standard_normal(len(hours) // 24)[np.arange(len(hours)) // 24, None]
        return self.amplitude * (daily + weekend)

    def _jittered(self, n: int) -> Floats:
        steps = self.rng.standard_normal((n, FEATURES))
        if self.other:  # half of it shared by all features, and with the tails of Student's t with five degrees
            tails = 0.6**0.5 * self.rng.standard_t(5, (n, FEATURES + 1))
            steps = 0.5**0.5 * (tails[:, :1] + tails[:, 1:])
        level = np.empty_like(steps)
        level[0] = steps[0]
        for t in range(1, n):
            level[t] = self.correlation * level[t - 1] + (1 - self.correlation**2) ** 0.5 * steps[t]
        return level * self.jitter

    def _traffic(self, hours: Floats) -> Floats:
        depth = 0.6 * (self.seed % 2)
        return 1 + depth * np.sin(2 * np.pi * (hours - 9) / 24)

    def _shape(self) -> None:
        rng = self.rng
        self.rate = rng.choice([2.0, 5.0, 20.0], len(FAMILIES))
        sizes = rng.integers(3, 25, CATEGORICAL)
        self.depth = int(sizes.max())
        self.logits = np.full((CATEGORICAL, self.depth), -np.inf)
        for i, size in enumerate(sizes):
            self.logits[i, :size] = np.log(1 / (1 + np.arange(size)) ** 1.2)
        self.tilt = rng.standard_normal((CATEGORICAL, self.depth))

    def _special(self) -> None:
        """What is particular to a kind of world."""
        rng, numeric = self.rng, len(FAMILIES)
        if self.kind.startswith("events") or self.kind in {"trend", "missing hours", "growth"}:
            self.events += self._drawn_events(1 if self.kind in {"trend", "growth", "missing hours"} else 2)
        if self.kind == "trend":
            self.levels[:, :numeric:3] += 0.5 * np.arange(HOURS)[:, None] / HOURS
        elif self.kind.startswith("holiday"):
            day = HISTORY + 24 * int(rng.choice([1, 2, 8, 9]))
            self.levels[day : day + 24] += self.amplitude * np.where(np.arange(FEATURES) % 2, 0.8, -0.8)
            self.rows[day : day + 24] //= 2
            self.planned += [] if "unknown" in self.kind else [(day, day + 24)]
        elif self.kind == "release":
            start = HISTORY + int(rng.integers(100, 300))
            self.events += [Event("release 0.5", int(f), start, HOURS) for f in rng.choice(12, 3, replace=False)]
        elif self.kind == "missing hours":
            gap = HISTORY + int(rng.integers(50, 500))
            self.rows[rng.random(HOURS) < 0.05] = 0
            self.rows[gap : gap + 30] = 0
        elif self.kind == "growth":
            self.rows = rng.poisson(self.rows * 4 ** (np.arange(HOURS) / HOURS))

    def _drawn_events(self, each: int) -> list[Event]:
        """`each` events of every kind, each in a feature of its own, at random hours of the judged weeks."""
        numeric, free = len(FAMILIES), list(self.rng.permutation(FEATURES))
        found = []
        for kind in list(EVENTS) * each:
            categorical = kind in {"swap", "new category 5 %"}
            wanted = range(numeric, FEATURES) if categorical else range(numeric)
            if kind.startswith(
                "variance"
            ):  # a rate has no variance of its own, and the variance of mostly zeros hardly shows
                wanted = range(26)
            feature = next((f for f in free if f in wanted), None)
            if feature is None:
                continue
            free.remove(feature)
            start = HISTORY + int(self.rng.integers(0, JUDGED - EVENTS[kind][1] - 24))
            found.append(Event(kind, int(feature), start, start + EVENTS[kind][1]))
        return found

    # Values

    def _fit(self) -> None:
        """Bins, profile and pieces of the reference, from rows in the order of time, of the four weeks before."""
        at = np.sort(self.rng.integers(0, HISTORY, REFERENCE_ROWS // self.cluster))
        numbers, codes = self._drawn_rows(self._reference_levels[at].T)
        numbers, codes = (np.repeat(part, self.cluster, axis=1) for part in (numbers, codes))
        names = [f"feature_{i:02d}" for i in range(FEATURES)]
        categories = tuple(tuple(f"v{k}" for k in np.flatnonzero(np.isfinite(row))) for row in self.logits)
        edges = tuple(fit_edges(row[~np.isnan(row)], self.n_bins) for row in numbers)
        self.bins = Bins(tuple(names[: len(FAMILIES)]), edges, tuple(names[len(FAMILIES) :]), categories)
        self.reference = self.counted(numbers, codes)
        self.representative = self._typical_values()
        self.cuts = self.latent(self.bins.padded_edges)
        starts = np.linspace(0, numbers.shape[1] - 24 * PIECE, 4).astype(int)
        self.spans = [[self._piece(numbers, codes, s + k * PIECE) for k in range(24)] for s in starts]

    def _piece(self, numbers: Floats, codes: Floats, start: int) -> Sparse:
        some = slice(start, start + PIECE)
        return Sparse.from_bytes(self.counted(numbers[:, some], codes[:, some]).to_bytes(), self.bins)

    def _drawn_rows(self, levels: Floats) -> tuple[Floats, Floats]:
        """Rows of the numeric features, NaN for null, and category codes, -1 for null; `levels` (features, rows)."""
        rng, numeric = self.rng, len(FAMILIES)
        n = levels.shape[1]
        numbers, codes = np.empty((numeric, n)), np.empty((CATEGORICAL, n), int)
        for i, family in enumerate(FAMILIES):
            if family == "poisson":
                numbers[i] = rng.poisson(self._rates(levels[i], self.rate[i]))
            else:
                noise = rng.standard_t(3, n) / 3**0.5 if family == "heavy" else rng.standard_normal(n)
                numbers[i] = value_of(family, noise + levels[i])
            numbers[i, rng.random(n) < self.missing[i]] = np.nan
        for i in range(CATEGORICAL):
            weight = np.exp(self.logits[i][:, None] + 0.5 * levels[numeric + i] * self.tilt[i][:, None])
            weight = np.cumsum(weight / weight.sum(axis=0), axis=0)
            codes[i] = np.minimum((weight < rng.random(n)).sum(axis=0), np.isfinite(self.logits[i]).sum() - 1)
            codes[i, rng.random(n) < self.missing[numeric + i]] = -1
        return numbers, codes

    def rows_of(self, hour: int) -> Profile:
        """The profile of an hour without events, from rows that are drawn and counted one by one."""
        levels = np.repeat(self.levels[hour][:, None], self.rows[hour], axis=1)
        return self.counted(*self._drawn_rows(levels))

    def counted(self, numbers: Floats, codes: Floats) -> Profile:
        """Profile of some rows."""
        bins, profile = self.bins, Profile.empty(self.bins)
        profile.rows = numbers.shape[1]
        for i, values in enumerate(numbers):
            known = values[~np.isnan(values)]
            at = np.searchsorted(bins.edges[i], known, side="left")
            steps = np.rint((np.clip(known, *bins.limits[i]) - bins.center[i]) / bins.unit[i])
            profile.numeric[i, : bins.width] = np.bincount(at, minlength=bins.width)
            profile.sums[i] = np.bincount(at, weights=steps, minlength=bins.width).astype(np.int64)
            profile.numeric[i, bins.width + NULL] = values.size - known.size
        for i, values in enumerate(codes):
            profile.categorical[i, : bins.depth] = np.bincount(values[values >= 0], minlength=bins.depth)
            profile.categorical[i, bins.depth + NULL_CATEGORY] = (values < 0).sum()
        return profile

    def _typical_values(self) -> Floats:
        """Value of a row of each bin, in steps of the sums: the reference's mean there, or the bin's middle."""
        bins, counts = self.bins, self.reference.numeric[:, : self.bins.width]
        edges = bins.padded_edges
        ends = [edges[:, :1], np.where(np.isfinite(edges), edges, 0.0), np.zeros((len(edges), 1))]
        low, high = np.concatenate(ends[:2], axis=1), np.concatenate(ends[1:], axis=1)
        steps = np.clip(np.rint(((low + high) / 2 - bins.center[:, None]) / bins.unit[:, None]), -(2.0**30), 2.0**30)
        return np.where(counts > 0, np.rint(self.reference.sums / np.maximum(counts, 1)), steps).astype(np.int64)

    # Shares per bin

    def _rates(self, level: Floats, rate: Floats) -> Floats:
        return np.maximum(rate + level * rate**0.5, 0.05)

    def latent(self, values: Floats) -> Floats:
        """Level of the latent variable that gives each value; for Poisson features the value itself."""
        found = np.empty_like(values)
        for i, family in enumerate(FAMILIES):
            found[i] = values[i] if family == "poisson" else latent_of(family, values[i])
        return found

    def shares(self, hour: int, events: list[Event]) -> tuple[Floats, Floats]:
        """Shares of the valid rows: (n_numeric, width) per bin, (n_categorical, depth + 1) per category and new."""
        numeric = len(FAMILIES)
        level, spread, cuts = self.levels[hour].copy(), np.ones(numeric), self.cuts
        for event in events:
            size = event.size(hour)
            if event.kind.startswith(("shift", "ramp", "release")):
                level[event.feature] += size
            elif event.kind.startswith("variance"):
                spread[event.feature] = size**0.5
            elif event.kind.startswith("unit"):
                cuts = cuts.copy()
                cuts[event.feature] = self.latent(self.bins.padded_edges / size)[event.feature]
        below = np.empty_like(cuts)
        scaled = (cuts - level[:numeric, None]) / spread[:, None]
        below[:20], below[26:32] = special.ndtr(scaled[:20]), special.ndtr(scaled[26:32])
        below[20:26] = special.stdtr(3.0, scaled[20:26] * 3**0.5)
        whole = np.floor(np.maximum(cuts[32:], -1.0))
        below[32:] = np.where(
            whole < 0, 0.0, special.pdtr(whole, self._rates(level[32:numeric], self.rate[32:])[:, None])
        )
        cells = np.diff(below, axis=1, prepend=0.0, append=1.0)
        weight = np.exp(self.logits + 0.5 * level[numeric:, None] * self.tilt)
        known = weight / weight.sum(axis=1, keepdims=True)
        for event in events:
            if event.kind == "swap":
                known[event.feature - numeric, [0, 1]] = known[event.feature - numeric, [1, 0]]
        new = np.zeros((CATEGORICAL, 1))
        for event in events:
            if event.kind.startswith("new"):
                new[event.feature - numeric] = event.size(hour)
        return np.maximum(cells, 0.0), np.concatenate([known * (1 - new), new], axis=1)

    def profile(self, hour: int) -> Profile | None:
        """The profile of an hour; None when it has no rows."""
        drawn = int(self.rows[hour]) // self.cluster
        if not drawn:
            return None
        bins, numeric, result = self.bins, len(FAMILIES), Profile.empty(self.bins)
        active = [event for event in self.events if event.start <= hour < event.end]
        cells, categories = self.shares(hour, active)
        missing = self.missing.copy()
        for event in active:
            if event.kind.startswith("nulls"):
                missing[event.feature] += event.size(hour)
        nulls = self.rng.binomial(drawn, missing)
        valid = drawn - nulls
        counts = self.rng.multinomial(valid[:numeric], cells / cells.sum(axis=1, keepdims=True))
        result.numeric[:, : bins.width] = self.cluster * counts
        result.numeric[:, bins.width + NULL] = self.cluster * nulls[:numeric]
        result.sums[:] = self.cluster * counts * self.representative
        counts = self.cluster * self.rng.multinomial(
            valid[numeric:], categories / categories.sum(axis=1, keepdims=True)
        )
        result.categorical[:, : bins.depth], result.categorical[:, bins.depth + NEW] = counts[:, :-1], counts[:, -1]
        result.categorical[:, bins.depth + NULL_CATEGORY] = self.cluster * nulls[numeric:]
        result.rows = self.cluster * drawn
        return result


def value_of(family: str, latent: Floats) -> Floats:
    """Value of a feature whose latent variable is this."""
    if family == "lognormal":
        return np.exp(0.8 * latent)
    if family == "zeros":
        return np.expm1(np.maximum(latent - 0.25, 0.0))
    return 10 + 2 * latent if family == "normal" else latent


def latent_of(family: str, values: Floats) -> Floats:
    """Largest latent variable whose value is at most this; -inf below all values.

    >>> latent_of("zeros", value_of("zeros", np.array([-1.0, 0.25, 2.0])))
    array([0.25, 0.25, 2.  ])
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        if family == "lognormal":
            return np.where(values > 0, np.log(np.maximum(values, 0.0)) / 0.8, -np.inf)
        if family == "zeros":
            return np.where(values >= 0, np.log1p(np.maximum(values, 0.0)) + 0.25, -np.inf)
    return (values - 10) / 2 if family == "normal" else values


def hour_at(index: int) -> datetime:
    """Start of an hour of a world."""
    return FIRST + timedelta(hours=index)
