"""The drift policy in simulated worlds: silent in quiet weeks, quick in others, honest about its limits."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from scipy import special

from hindcast.drift.baseline import RANGE, SCALES, TIERS, Comparison, History, Totals, comparisons
from hindcast.drift.policy import EFFECT_FLOOR, LEAST_ROWS, Decision, Series, decide, distances, pseudo_hours, series_of
from hindcast.profile.bins import Bins, fit_edges
from hindcast.profile.profile import NEW, NULL, Profile, Sparse
from hindcast.spread import REMEMBERED, Memory
from hindcast.window import HOUR

if TYPE_CHECKING:
    from collections.abc import Callable

    Change = Callable[[np.ndarray, list[np.ndarray], np.random.Generator], "Hour"]

ZONE, START = ZoneInfo("UTC"), datetime(2013, 4, 1, tzinfo=UTC)
NUMERIC, CATEGORICAL, ROWS = 6, 2, 500
SHARES = np.array([0.4, 0.3, 0.15, 0.1, 0.05])
# Pieces of the reference that stand for hours; 96 of them make the spans.
PIECE, PIECES = 200, 100
REFERENCE = PIECE * PIECES
Floats = np.ndarray
# Numbers (NUMERIC, rows), NaN for null; and counts of the five categories and of new ones.
Hour = tuple[Floats, list[Floats]]


def profiled(bins: Bins, numbers: Floats, categories: list[Floats]) -> bytes:
    profile = Profile.empty(bins)
    profile.rows = numbers.shape[1]
    for i, values in enumerate(numbers):
        known = values[~np.isnan(values)]
        at = np.searchsorted(bins.edges[i], known, side="left")
        steps = np.rint((np.clip(known, *bins.limits[i]) - bins.center[i]) / bins.unit[i])
        profile.numeric[i, : bins.width] = np.bincount(at, minlength=bins.width)
        profile.sums[i] = np.bincount(at, weights=steps, minlength=bins.width).astype(np.int64)
        profile.numeric[i, bins.width + NULL] = values.size - known.size
    for i, counts in enumerate(categories):
        profile.categorical[i, :5], profile.categorical[i, bins.depth + NEW] = counts[:5], counts[5]
    return profile.to_bytes()


@dataclass
class World:
    """A model with six numeric and two categorical features, hour by hour; `jitter` moves hourly means, AR(1), in σ."""

    seed: int
    jitter: float = 0.0
    reference_numbers: Callable[[np.random.Generator], Floats] | None = None
    reference_category: Callable[[np.random.Generator, int], Floats] | None = None
    piece: int = PIECE
    hour: int = 0
    past: dict[datetime, Memory] = field(default_factory=dict)
    decided: list[list[Decision]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = rng = np.random.default_rng(self.seed)
        self.level = np.zeros(NUMERIC)
        numbers = self.reference_numbers(rng) if self.reference_numbers else rng.standard_normal((NUMERIC, REFERENCE))
        names = [tuple(f"feature_{kind}{i}" for i in range(n)) for kind, n in (("n", NUMERIC), ("c", CATEGORICAL))]
        edges = tuple(fit_edges(values, 64) for values in numbers)
        self.bins = Bins(names[0], edges, names[1], (tuple("abcde"),) * CATEGORICAL)
        self.series = series_of(self.bins)
        pieces, total = [], Profile.empty(self.bins)
        for k in range(0, REFERENCE, self.piece):
            content = profiled(self.bins, numbers[:, k : k + self.piece], self._categories(self.piece, reference=True))
            pieces.append(Sparse.from_bytes(content, self.bins))
            total += Profile.from_bytes(content, self.bins)
        self.reference = Totals(self.bins)
        self.reference.add(Sparse.from_bytes(total.to_bytes(), self.bins))
        spans = [pieces[24 * i : 24 * i + 24] for i in range(4)]
        self.pseudo = pseudo_hours(self.series, spans, self.reference)
        self.stored: dict[datetime, bytes] = {}
        self.history = self._opened()

    def _opened(self) -> History:
        """The stored hours, none of them held yet."""
        stored = self.stored
        return History(self.bins, lambda hours: {hour: stored[hour] for hour in hours if hour in stored})

    def _categories(self, rows: int, *, reference: bool = False) -> list[Floats]:
        def draw() -> Floats:
            if reference and self.reference_category:
                return self.reference_category(self.rng, rows)
            return np.append(self.rng.multinomial(rows, SHARES), 0)

        return [draw() for _ in range(CATEGORICAL)]

    def step(self, change: Change | None = None, rows: int = ROWS) -> list[Decision]:
        self.level = 0.8 * self.level + 0.6 * self.rng.standard_normal(NUMERIC)
        drawn: Hour = (
            self.rng.standard_normal((NUMERIC, rows)) + self.jitter * self.level[:, None],
            self._categories(rows),
        )
        at = START + self.hour * HOUR
        self.stored[at] = profiled(self.bins, *(change(*drawn, self.rng) if change else drawn))
        self.history.put(at, self.stored[at])
        found = comparisons(at, self.history, self.reference, self._flags(), ZONE)
        options = {"recent": min(24, len(self.past)), "budget_per_week": 1.0, "pseudo": self.pseudo}
        decisions, self.past[at] = decide(self.series, found, list(self.past.values()), **options)
        if len(self.past) > REMEMBERED:
            del self.past[next(iter(self.past))]
        self.hour += 1
        self.decided.append(decisions)
        return decisions

    def _flags(self) -> dict[datetime, Floats]:
        columns = [*self.bins.numeric, *self.bins.categorical]
        flags = {}
        for hour, memory in self.past.items():
            flagged = {self.series[j].column for j in np.flatnonzero(memory.flagged())}
            if flagged:
                flags[hour] = np.array([name in flagged for name in columns])
        return flags

    def fork(self) -> World:
        """The same world, to go on in another way."""
        other = copy(self)
        other.rng = np.random.default_rng(self.seed + 1)
        other.past, other.decided, other.level = dict(self.past), [], self.level.copy()
        other.stored = dict(self.stored)
        other.history = other._opened()
        return other


def episodes(world: World) -> list[tuple[str, str, int]]:
    """(column, kind, hour) of every drifted decision that no drifted hour of the same series came before within six."""
    last: dict[Series, int] = {}
    found = []
    for hour, decisions in enumerate(world.decided):
        for decision in decisions:
            if decision.drifted:
                if hour - last.get(decision.series, -99) > 6:
                    found.append((decision.series.column, decision.series.kind, hour))
                last[decision.series] = hour
    return found


@cache
def quiet(jitter: float) -> World:
    """Three weeks of 500 rows an hour in which nothing happens."""
    world = World(seed=1, jitter=jitter)
    for _ in range(3 * 168):
        world.step()
    return world


@pytest.mark.parametrize("jitter", [0.0, 0.1])
def test_three_quiet_weeks_of_eight_features_raise_no_more_than_the_budget(jitter: float) -> None:
    world = quiet(jitter)
    assert len(episodes(world)) <= 3
    judged = {(d.tier, d.scale) for decisions in world.decided for d in decisions}
    assert judged == {(tier, scale) for tier in TIERS for scale in SCALES}, "every tier and scale had its say"
    assert all(d.drifted is not None for d in world.decided[-1])


def shift(x: Floats, c: list[Floats], _rng: np.random.Generator) -> Hour:
    x[0] += 0.5
    return x, c


def far(x: Floats, c: list[Floats], _rng: np.random.Generator) -> Hour:
    x[0] += 1
    return x, c


def units(x: Floats, c: list[Floats], _rng: np.random.Generator) -> Hour:
    x[0] *= 100
    return x, c


def nulls(x: Floats, c: list[Floats], rng: np.random.Generator) -> Hour:
    x[0, rng.random(x.shape[1]) < 0.2] = np.nan
    return x, c


def swap(x: Floats, c: list[Floats], _rng: np.random.Generator) -> Hour:
    c[0] = c[0][[1, 2, 0, 3, 4, 5]]
    return x, c


def unknown(x: Floats, c: list[Floats], rng: np.random.Generator) -> Hour:
    moved = rng.binomial(c[0][0], 0.25)
    c[0] = c[0] + np.array([-moved, 0, 0, 0, 0, moved])
    return x, c


INJECTED = {
    "mean": (shift, "feature_n0", "ks"), "unit": (units, "feature_n0", "ks"),
    "null burst": (nulls, "feature_n0", "missing"), "category swap": (swap, "feature_c0", "phi"),
    "new category": (unknown, "feature_c0", "new"),
}  # fmt: skip


@pytest.mark.parametrize("jitter", [0.0, 0.1])
@pytest.mark.parametrize("case", INJECTED)
def test_a_change_is_found_soon_at_a_short_scale_and_nowhere_else(case: str, jitter: float) -> None:
    """Within two hours; half a σ in a feature whose hourly means jitter by 0.1 σ, within eight."""
    change, column, kind = INJECTED[case]
    world = quiet(jitter).fork()
    hours = 8 if case == "mean" and jitter else 2
    found = [d for _ in range(hours) for d in world.step(change) if d.drifted]
    assert any((d.series.column, d.series.kind) == (column, kind) and d.scale in {1, 6} for d in found)
    assert {d.series.column for d in found} == {column}
    assert all(d.value > d.threshold for d in found)


@pytest.mark.parametrize("case", ["mean", "null burst"])
def test_a_change_is_found_again_after_a_quiet_day_and_the_episode_closes_between(case: str) -> None:
    change, column, kind = INJECTED[case]
    world = quiet(0.0).fork()
    world.decided.clear()
    for hour in range(60):
        world.step(change if hour < 8 or hour >= 48 else None)
    mine = [hour for found, of, hour in episodes(world) if (found, of) == (column, kind)]
    assert mine[0] <= 1
    assert any(48 <= hour <= 50 for hour in mine)


def test_a_lasting_change_keeps_its_hours_out_of_the_baseline_and_stays_found() -> None:
    world = quiet(0.0).fork()
    stays = [any(d.drifted and d.series.column == "feature_n0" for d in world.step(shift)) for _ in range(40)]
    assert all(stays[1:])
    mine = next(j for j, s in enumerate(world.series) if (s.column, s.kind) == ("feature_n0", "ks"))
    memories = list(world.past.values())
    assert [memory.open_hours[mine] for memory in memories[-5:]] == [*range(36, 41)]
    assert all(np.isnan(memory.excess[:, :, mine]).all() for memory in memories[-40:])
    world.step()
    assert list(world.past.values())[-1].flagged()[mine], "one quiet hour closes nothing"


# What cannot be judged


def one_value_an_hour(rng: np.random.Generator) -> Floats:
    numbers = rng.standard_normal((NUMERIC, REFERENCE))
    numbers[0] = np.repeat(rng.standard_normal(REFERENCE // PIECE), PIECE)
    return numbers


def one_category(rng: np.random.Generator, rows: int) -> Floats:
    counts = np.zeros(6, int)
    counts[rng.choice(5, p=SHARES)] = rows
    return counts


def shared(x: Floats, c: list[Floats], rng: np.random.Generator) -> Hour:
    x[0] = rng.standard_normal()
    return x, [one_category(rng, int(c[0].sum())), c[1]]


def test_a_feature_that_all_rows_of_an_hour_share_is_never_called_healthy_by_the_hour() -> None:
    world = World(seed=5, reference_numbers=one_value_an_hour, reference_category=one_category)
    for _ in range(100):
        world.step(shared)
    mine = [
        d
        for decisions in world.decided
        for d in decisions
        if d.scale == 1 and (d.series.column, d.series.kind) in {("feature_n0", "ks"), ("feature_c0", "phi")}
    ]
    assert len(mine) == 200
    assert {d.tier for d in mine} >= {"reference", "trail"}
    assert {d.drifted for d in mine} == {None}
    assert all("no test has power" in d.reason for d in mine)


def test_too_few_rows_are_no_decision() -> None:
    world = quiet(0.0).fork()
    decisions = world.step(units, rows=LEAST_ROWS - 1)
    assert not [d for d in decisions if d.scale == 1]
    assert [d for d in decisions if d.scale == 6]


def one_pressure_an_hour(rng: np.random.Generator) -> Floats:
    numbers = one_value_an_hour(rng)
    numbers[0] = 1013 + 8 * numbers[0]
    return numbers


def test_another_unit_is_seen_where_no_test_has_power() -> None:
    """Pressure is one value for all rows of an hour, in hPa; then in inches of mercury."""

    def pressure(x: Floats, c: list[Floats], rng: np.random.Generator) -> Hour:
        x[0] = 1013 + 8 * rng.standard_normal()
        return x, c

    def inches(x: Floats, c: list[Floats], rng: np.random.Generator) -> Hour:
        x, c = pressure(x, c, rng)
        x[0] *= 0.02953
        return x, c

    world = World(seed=5, reference_numbers=one_pressure_an_hour)
    for rows in [ROWS] * 60 + [8] * 20:
        assert not [d for d in world.step(pressure, rows) if d.drifted]
    world = world.fork()
    found = [[d for d in world.step(inches, rows=8) if d.drifted] for _ in range(3)]
    assert [[(d.series.column, d.series.kind) for d in hour] for hour in found] == [[]] + 2 * [
        [("feature_n0", "range")]
    ]
    assert found[1][0].value == pytest.approx(2 / 3)
    assert found[1][0].reason.startswith("67% of the last rows lie far outside the range of the reference and of")
    assert world.past[START + (world.hour - 1) * HOUR].flagged()[0], "an episode, which teaches nothing"
    # What was accepted is the range from then on.
    accepted = np.array([s.column == "feature_n0" for s in world.series])
    compared = comparisons(START + (world.hour - 1) * HOUR, world.history, world.reference, {}, ZONE)
    beside = next(c for c in compared if c.tier == RANGE)
    beside.baseline.numeric[0] = beside.current.numeric[0]
    options = {"recent": 24, "budget_per_week": 1.0, "accepted": accepted}
    decisions, _ = decide(world.series, [c for c in compared if c.tier != "reference"], [], **options)
    assert not [d for d in decisions if d.drifted]


def test_a_handful_of_rows_an_hour_is_judged_by_the_scales_that_hold_enough_of_them() -> None:
    world = World(seed=4)
    for _ in range(120):
        assert not [d for d in world.step(rows=8) if d.drifted]
    assert {d.scale for decisions in world.decided for d in decisions} == {6, 24}
    forked = world.fork()
    found = [(hour, d) for hour in range(24) for d in forked.step(far, rows=8) if d.drifted]
    assert {d.series.column for _, d in found} == {"feature_n0"}
    assert found[0][0] <= 12


# Cold start


def by_day(rng: np.random.Generator) -> Floats:
    numbers = rng.standard_normal((NUMERIC, REFERENCE))
    numbers[0] += np.repeat(0.8 * (np.arange(PIECES) % 7 >= 5), PIECE)
    return numbers


@pytest.mark.parametrize("with_shift", [False, True])
def test_the_first_weekend_is_no_news_and_a_shift_on_it_is(with_shift: bool) -> None:
    """Weekends are 0.8 σ away in the reference and in production; in another feature, half a σ is an event."""

    def weekend(x: Floats, c: list[Floats], _rng: np.random.Generator) -> Hour:
        saturday = 5 * 24 <= world.hour < 7 * 24
        x[0] += 0.8 * saturday
        x[1] += 0.5 * (saturday and with_shift)
        return x, c

    world = World(seed=7, reference_numbers=by_day)
    found = {d.series.column for _ in range(7 * 24) for d in world.step(weekend) if d.drifted}
    assert found == ({"feature_n1"} if with_shift else set())


def test_with_only_a_reference_an_hour_like_its_pieces_is_no_drift_and_another_world_is() -> None:
    for seed in range(5):
        world = World(seed=seed)
        assert not [d for _ in range(6) for d in world.step() if d.drifted]
        assert {d.tier for decisions in world.decided for d in decisions} == {"reference"}
        found = [d for d in world.step(units) if d.drifted]
        assert {(d.series.column, d.tier) for d in found} == {("feature_n0", "reference")}


def test_the_noise_of_small_pieces_of_a_small_reference_hides_no_shift_of_one_sigma() -> None:
    for seed in range(3):
        world = World(seed=seed, piece=25)
        assert not [d for _ in range(6) for d in world.step() if d.drifted]
        assert {d.series.column for d in world.step(far) if d.drifted} == {"feature_n0"}


def test_pieces_of_the_reference_that_differ_raise_the_bar_for_the_first_hours() -> None:
    """Days in the reference differ by 0.7 σ: an hour one σ away is nothing that it does not know."""

    def days(rng: np.random.Generator) -> Floats:
        return rng.standard_normal((NUMERIC, REFERENCE)) + 0.7 * np.repeat(
            rng.standard_normal((NUMERIC, PIECES)), PIECE, axis=1
        )

    found = {}
    for name, numbers in (("days differ", days), ("all alike", None)):
        world = World(seed=3, reference_numbers=numbers)
        found[name] = any(d.drifted and d.series.column == "feature_n0" for d in world.step(far))
    assert found == {"days differ": False, "all alike": True}


def test_no_history_and_no_rows_is_no_decision() -> None:
    world = World(seed=1)
    decisions, memory = decide(world.series, [], [], recent=0, budget_per_week=1.0)
    assert decisions == []
    assert np.isnan(memory.excess).all()
    assert not memory.open_hours.any()


def test_what_a_later_hour_remembers_does_not_change_what_an_earlier_one_decided() -> None:
    """The same hours give the same decisions, and the memories handed in stay as they are."""
    world = quiet(0.1).fork()
    before = [memory.to_bytes([s.name for s in world.series]) for memory in world.past.values()]
    a, b = world.fork(), world.fork()
    assert [repr(d) for d in a.step(shift)] == [repr(d) for d in b.step(shift)]
    assert before == [memory.to_bytes([s.name for s in world.series]) for memory in world.past.values()]


# Distances


def beside(shift: float, scale: int, rows: float = 1e5) -> list[Comparison]:
    """One numeric feature, shifted so many σ against its trail."""
    bins = Bins(("feature_n0",), (np.linspace(-3, 3, 61),), (), ())
    sides = []
    for mean in (shift, 0.0):
        total = Totals(bins)
        below = np.concatenate([[0.0], special.ndtr(bins.edges[0] - mean), [1.0]])
        total.numeric[0, : bins.width] = rows * np.diff(below)
        total.rows = rows
        sides.append(total)
    return [Comparison("trail", scale, *sides, 100, "the last hours")]


def remembering(hourly: float, longer: float) -> list[Memory]:
    """Two weeks of excesses that move as those of this spread do, over an hour and over six."""
    rng, past = np.random.default_rng(0), []
    for _ in range(REMEMBERED):
        memory = Memory.blank(len(TIERS), len(SCALES), 2)
        excess = np.minimum(np.abs(rng.standard_normal(2)), 2.0)[None, :, None] ** 2
        memory.excess[:, :2] = excess * np.array([hourly, longer])[None, :, None] ** 2
        memory.noise[:] = 2e-5
        memory.turn(past[-1] if past else None, np.zeros(2, bool))
        past.append(memory)
    return past


@pytest.mark.parametrize(
    ("scale", "hourly", "longer", "rows", "waits"),
    [
        (1, 0.03, 0.012, 1e5, True), (1, 0.03, 0.03, 1e5, True), (1, 1e-4, 1e-4, 500, True),
        (6, 0.03, 0.03, 1e5, True), (6, 0.03, 0.012, 1e5, False), (6, 1e-4, 1e-4, 500, False),
    ],
)  # fmt: skip
def test_what_is_just_beyond_its_threshold_is_raised_when_the_next_hour_is_too(
    scale: int, hourly: float, longer: float, rows: float, waits: bool
) -> None:
    """Over six hours only if these jitter, and nearly as much as one: else they agree with one another anyway."""
    past = remembering(hourly, longer)

    def judged(shift: float, past: list[Memory]) -> tuple[Decision, Memory]:
        series = series_of(beside(0.0, scale)[0].current.bins)
        decisions, memory = decide(series, beside(shift, scale, rows), past, recent=24, budget_per_week=1.0)
        return next(d for d in decisions if d.series.kind == "ks"), memory

    limit = judged(0.5, past)[0].threshold
    # shifts of which D is that
    just, well = (2 * special.ndtri((1 + limit * factor) / 2) for factor in (1.06, 1.25))
    first, memory = judged(just, past)
    assert first.value > first.threshold
    assert first.drifted is not waits
    if waits:
        assert "if the next hour is, too" in first.reason
        assert not judged(just / 2, [*past, memory])[1].waits.any()
    assert judged(just, [*past, memory])[0].drifted
    assert judged(well, past)[0].drifted, "what is far beyond waits for nothing"


def test_distances_are_scaled_so_that_their_median_without_drift_is_that_of_theory() -> None:
    world = World(seed=9)
    rows: list[Floats] = []
    for _ in range(200):
        hour = Totals(world.bins)
        drawn = (world.rng.standard_normal((NUMERIC, ROWS)), world._categories(ROWS))
        drawn[0][:, : ROWS // 5] = np.nan
        hour.add(Sparse.from_bytes(profiled(world.bins, *drawn), world.bins))
        other = Totals(world.bins)
        drawn = (world.rng.standard_normal((NUMERIC, 4 * ROWS)), world._categories(4 * ROWS))
        drawn[0][:, world.rng.random(4 * ROWS) < 0.2] = np.nan
        other.add(Sparse.from_bytes(profiled(world.bins, *drawn), world.bins))
        measured = distances(world.series, [(hour, other)])[0]
        rows.append(measured.stat / (measured.median * measured.noise))
    kinds = np.array([s.kind for s in world.series])
    ratio = np.array(rows)
    # The bins see the largest distance of the two curves from below, and 400 rows are no infinity.
    assert 0.75 < np.median(ratio[:, kinds == "ks"]) < 1
    assert np.median(ratio[:, kinds == "phi"]) == pytest.approx(1, abs=0.12)


def test_an_effect_below_the_floor_wakes_nobody_and_says_so() -> None:
    """A million rows a side: 0.05 σ is far beyond chance."""
    world = World(seed=2)
    still = [world.rng.multinomial(1_000_000, SHARES)] * CATEGORICAL
    sides = []
    for moved in (0.0, 0.09):
        total = Totals(world.bins)
        values = np.linspace(-3, 3, 200_001)[None].repeat(NUMERIC, axis=0) + moved
        total.add(Sparse.from_bytes(profiled(world.bins, values, [np.append(c, 0) for c in still]), world.bins))
        total.counts *= 10
        total.sums *= 10
        total.rows *= 10
        sides.append(total)
    calm = Memory.blank(len(TIERS), len(SCALES), len(world.series))
    calm.excess[:], calm.noise[:] = 0.0, 1e-6
    compared = [Comparison("week", 1, sides[1], sides[0], 4, "the same hours of 4 earlier weeks")]
    decisions, _ = decide(world.series, compared, [calm] * 100, recent=24, budget_per_week=1.0)
    mine = next(d for d in decisions if d.series.column == "feature_n0" and d.series.kind == "ks")
    assert mine.value > mine.threshold
    assert mine.effect < EFFECT_FLOOR[1]
    assert (mine.drifted, mine.reason.split(",")[0]) == (False, "beyond chance")
