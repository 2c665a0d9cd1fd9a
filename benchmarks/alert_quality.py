"""How good the alerts are: false episodes, precision, recall and delay in simulated worlds of known truth.

``python benchmarks/alert_quality.py`` replays eight weeks of fifty features, four of history and four judged, for every
kind of world of `alert_worlds.py` and several seeds, through the library's own comparisons, policy and fold, hour by
hour; beside it, on the same counts, the textbook's rule, Evidently's default and NannyML's (`alert_rules.py`).

An episode is an alert as a user sees it. It is true when it opened while an event befell its feature, or less than
24 hours after, else false. An event is found when a true episode opened; its delay is the end of the window that raised
the alert less the event's start, so that 1 hour is the least. *Findable* are the events that a test at the policy's own
level would find in one look, nineteen times of twenty, at one of the scales it lasts for: where

    D > sqrt(q(α)·v + χ²₁(α)·τ²) + 1.645·sqrt(v/4 + τ²),   v = 1/n + 1/m

and the effect is above the floor. D is the true distance from the usual shares, n the rows of one window, m of four,
and τ the true jitter's distance at that scale.
"""

from __future__ import annotations

import pickle
import statistics
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import alert_rules
import measure
from alert_worlds import EVENTS, FAMILIES, HISTORY, HOURS, JUDGED, KINDS, Event, World, hour_at
from hindcast import spread
from hindcast.drift import moments
from hindcast.drift.baseline import SCALES
from hindcast.drift.policy import EFFECT_FLOOR, RATIO_FLOOR
from measure import Table

ECHO = 24
# Seeds of the quick form; the full form has seven, one per volume.
QUICK = (2, 5)


@dataclass
class Score:
    """What one rule did in one world."""

    world: str
    volume: int
    rule: str
    true: int = 0
    false: int = 0
    again: int = 0  # false ones in a feature that had an event before: echoes
    cold: int = 0  # episodes of the first four weeks
    found: list[tuple[str, bool, float | None]] = field(default_factory=list)  # kind, findable, delay
    milliseconds: float = 0.0
    details: list[str] = field(default_factory=list)


def score(world: World, rule: str, alerts: list[dict[str, Any]], findable: list[bool]) -> Score:
    """Match episodes with events."""
    result = Score(world.kind, world.volume, rule)
    names = (*world.bins.numeric, *world.bins.categorical)
    delays: dict[Event, float] = {}
    for alert in alerts:
        hour = (alert["opened_at"] - hour_at(0)).total_seconds() / 3600
        if hour <= HISTORY:
            result.cold += 1
            continue
        feature = names.index(alert["subject"])
        mine = [e for e in world.events if e.feature == feature]
        event = next((e for e in mine if e.start < hour <= e.end + ECHO), None)
        if event is None:
            result.false += 1
            result.again += any(e.end + ECHO < hour for e in mine)
            result.details.append(f"false {alert['subject']} {alert['kind']} at {hour:.0f}: {alert['details']}")
        else:
            result.true += 1
            delays.setdefault(event, hour - event.start)
    for event, possible in zip(world.events, findable, strict=True):
        result.found.append((event.kind, possible, delays.get(event)))
        if possible and event not in delays:
            result.details.append(f"missed {event}")
    return result


def findable(world: World, event: Event, n_series: int) -> bool:
    """Whether a single look at the policy's level finds this event; see the top of this file."""
    numeric, feature = len(FAMILIES), event.feature
    middle = (event.start + event.end) // 2
    usual, now = world.shares(middle, []), world.shares(middle, [event])
    # What jitter of one standard deviation does to the same shares.
    level = world.levels[middle, feature]
    world.levels[middle, feature] += world.jitter[feature]
    moved = world.shares(middle, [])
    world.levels[middle, feature] = level
    distance, jitter, effect, floors = _distances(world, event, usual, now, moved)
    lasting = range(event.start, min(event.end, HOURS))
    for scale in [s for s in SCALES if s <= len(lasting)]:
        n = float(np.mean([world.rows[h] for h in lasting])) * scale
        noise = 1 / max(n, 1) + 1 / max(4 * n, 1)
        alpha = spread.alpha_of(1.0, scale, n_series, len(SCALES))
        chance = float(spread.chi2_quantile(alpha, 1))
        q = spread.kolmogorov_quantile(alpha) if feature < numeric else chance
        tau2 = 1.25 * (jitter * _shrink(world.correlation, scale)) ** 2
        limit = (q * noise + chance * tau2) ** 0.5 + 1.645 * (noise / 4 + tau2) ** 0.5
        if distance > limit and effect >= 1.1 * floors[scale]:
            return True
    return False


def _distances(
    world: World, event: Event, usual: Any, now: Any, moved: Any
) -> tuple[float, float, float, dict[int, float]]:
    """Distance of an event, of one standard deviation of jitter, the effect, and its floors."""
    numeric, feature = len(FAMILIES), event.feature
    if event.kind.startswith(("nulls", "new")):
        size, before = event.size(event.end - 1), world.missing[feature] if event.kind.startswith("nulls") else 0.0
        pooled = before + 0.2 * size
        return size / max(pooled * (1 - pooled), 1e-9) ** 0.5, 0.0, size, dict.fromkeys(SCALES, RATIO_FLOOR)
    if feature >= numeric:
        i = feature - numeric
        p, q, r = usual[1][i], now[1][i], moved[1][i]
        return phi(p, q), phi(p, r), 1.0, EFFECT_FLOOR
    p, q, r = usual[0][feature], now[0][feature], moved[0][feature]
    edges, sums = world.bins.padded_edges[feature], world.reference.values()[feature]
    counts = world.reference.numeric[feature, : world.bins.width]
    mean = np.where(counts > 0, sums / np.maximum(counts, 1), 0.0)
    spread_of = float(moments.binned_std(edges, 1e6 * p, 1e6 * p * mean))
    effect = float(
        moments.wasserstein_normalized(edges, 1e6 * p, 1e6 * p * mean, 1e6 * q, 1e6 * q * mean, scale=spread_of)
    )
    if event.kind.startswith("unit"):
        effect = 1.0
    ks = [float(np.abs(np.cumsum(p - other)).max()) for other in (q, r)]
    return ks[0], ks[1], effect, EFFECT_FLOOR


def phi(p: Any, q: Any) -> float:
    pooled = (4 * p + q) / 5
    return float(np.sqrt(np.sum((p - q) ** 2 / np.where(pooled > 0, pooled, 1.0))))


def _shrink(correlation: float, scale: int) -> float:
    """Standard deviation of the mean of `scale` hours of autocorrelated jitter, over that of one."""
    lags = np.arange(1, scale)
    return float(np.sqrt((scale + 2 * np.sum((scale - lags) * correlation**lags)) / scale**2))


def judge(kind: str, seed: int, options: dict[str, Any]) -> list[Score]:
    """Scores of every rule in one world."""
    peers = options.pop("peers", True)
    world = World(kind, seed, **options)
    alerts, policy = alert_rules.replay(world, peers=peers)
    possible = [findable(world, event, len(policy.series)) for event in world.events]
    scores = [score(world, rule, found, possible) for rule, found in alerts.items()]
    scores[0].milliseconds = 1000 * statistics.median(policy.seconds[HISTORY:])
    return scores


def households(seed: int, options: dict[str, Any]) -> dict[str, float]:
    """A stationary stream of which five rows at a time are alike: hours in which anything was drifted, of all hours."""
    world = World("households", seed, n_bins=options["n_bins"], cluster=5, jitter_scale=0.0)
    world.levels[:] = 0.0
    world.rows[:] = world.volume
    policy, alarmed, hours = alert_rules.Policy(world), 0, 0
    for hour, profile in alert_rules.profiles(world):
        if hour >= 504:
            break
        alarmed += bool(policy.judge(hour, profile.to_bytes()))
        hours += 1
    return {"rows an hour": world.volume, "hours, %": 100 * alarmed / hours}


def kept(folder: Path | None, kind: str, seed: int, options: dict[str, Any]) -> Any:
    """What one world gives: judged now, or, with a folder, once and read from there ever after."""
    path = folder / f"{kind}-{seed}-{options['n_bins']}-{options['peers']}.pickle" if folder else None
    if path and path.exists():
        return pickle.loads(path.read_bytes())  # noqa: S301 - this script wrote it
    found = households(seed, options) if kind == "households" else judge(kind, seed, dict(options))
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pickle.dumps(found))
    return found


# Tables


def weeks(scores: list[Score]) -> float:
    return len(scores) * JUDGED / 168


def overview(scores: list[Score]) -> Table:
    """Rules × worlds."""
    table = Table("Episodes", "Four judged weeks of fifty features per world; cold start: the four weeks before.")
    for rule in ("Hindcast", *alert_rules.PEERS):
        for kind in KINDS:
            some = [s for s in scores if s.rule == rule and s.world == kind]
            if not some:
                continue
            true, false = sum(s.true for s in some), sum(s.false for s in some)
            row = {"worlds": len(some), "false a week": false / weeks(some)}
            if any(s.found for s in some):
                found = [delay is not None for s in some for _, possible, delay in s.found if possible]
                row |= {"precision": true / max(true + false, 1), "recall": float(np.mean(found)) if found else 0.0}
                row |= {"echoes": sum(s.again for s in some)}
            if rule == "Hindcast":
                row |= {"cold start a week": sum(s.cold for s in some) / (len(some) * HISTORY / 168)}
            table.rows[f"{rule}: {kind}"] = row
    return table


def recall(scores: list[Score], rule: str) -> Table:
    """By kind of event."""
    table = Table(f"Onsets found, {rule}", "Of findable events, and of all; delays in hours of those found.")
    mine = [entry for s in scores if s.rule == rule for entry in s.found]
    for kind in [*EVENTS, "release 0.5"]:
        some = [(possible, delay) for of, possible, delay in mine if of == kind]
        can = [delay for possible, delay in some if possible]
        delays = [delay for _, delay in some if delay is not None]
        if some:
            row: dict[str, float] = {"events": len(some), "findable": len(can)}
            if can:
                row["recall"] = sum(d is not None for d in can) / len(can)
                row["median delay, h"] = statistics.median(d if d is not None else 999 for d in can)
            row["recall of all"] = len(delays) / len(some)
            table.rows[kind] = row
    return table


def by_volume(scores: list[Score]) -> Table:
    """By rows an hour."""
    table = Table("By volume, Hindcast", "Events of 0.2 σ or more, and of 0.1 σ; findable ones, and all.")
    mine = [s for s in scores if s.rule == "Hindcast"]
    for volume in sorted({s.volume for s in mine}):
        some = [s for s in mine if s.volume == volume]
        row: dict[str, float] = {"false a week": sum(s.false for s in some) / weeks(some)}
        for name, small in (("0.2 and more", False), ("0.1", True)):
            entries = [e for s in some for e in s.found if (e[0] == "shift 0.1") == small]
            can = [delay is not None for _, possible, delay in entries if possible]
            if can:
                row[f"recall {name}"] = float(np.mean(can))
            if entries:
                row[f"of all {name}"] = float(np.mean([delay is not None for *_, delay in entries]))
        table.rows[f"{volume:,} rows an hour"] = row
    return table


def main() -> None:
    parser = measure.arguments(__doc__, repeats=1)
    parser.add_argument("--quick", action="store_true", help="two seeds, the four main worlds")
    parser.add_argument("--worlds", nargs="+", choices=(*KINDS, "households"), help="these kinds alone")
    parser.add_argument("--seeds", nargs="+", type=int, help="these seeds; a seed's remainder by 7 sets the volume")
    parser.add_argument("--bins", type=int, default=256, help="quantile bins per numeric feature (256)")
    parser.add_argument("--jobs", type=int, default=2, help="worlds at a time (2)")
    parser.add_argument("--keep", type=Path, help="folder for what each world gave; what is there is not judged again")
    parser.add_argument("--alone", action="store_true", help="without the other rules")
    parser.add_argument("--details", action="store_true", help="every false and every missed one on stderr")
    given = parser.parse_args()
    kinds = given.worlds or (KINDS[:4] if given.quick else (*KINDS, "households"))
    seeds = given.seeds or (QUICK if given.quick else range(7))
    options = {"n_bins": given.bins, "peers": not given.alone}
    scores: list[Score] = []
    dependent: dict[str, dict[str, float]] = {}
    with ProcessPoolExecutor(given.jobs) as pool:
        worlds = [(kind, seed) for kind in kinds for seed in seeds]
        work = {(kind, seed): pool.submit(kept, given.keep, kind, seed, options) for kind, seed in worlds}
        for (kind, seed), future in work.items():
            found = future.result()
            if isinstance(found, dict):
                dependent[f"seed {seed}"] = found
                continue
            scores += found
            mine = found[0]
            said = f"{kind} {seed}: {mine.volume} rows an hour, {mine.true} true, {mine.false} false, {mine.cold} cold"
            print(said, *(mine.details if given.details else ()), sep="\n  ", file=sys.stderr, flush=True)
    measure.report(tables(scores, dependent), as_json=given.json)


def tables(scores: list[Score], dependent: dict[str, dict[str, float]]) -> list[Table]:
    found = []
    if scores:
        found += [overview(scores), recall(scores, "Hindcast"), by_volume(scores)]
        times = [s.milliseconds for s in scores if s.rule == "Hindcast"]
        cost = Table("Cost", "CPU of one window: baselines of 1, 6 and 24 hours, every distance, every decision.")
        cost.rows["50 features"] = {"median of worlds, ms": statistics.median(times), "largest, ms": max(times)}
        found.append(cost)
    if dependent:
        says = "Rows of a household are alike; three weeks from the first hour on: hours with any alarm, of all."
        found.append(Table("A stationary stream of dependent rows", says, dependent))
    return [table for table in found if table.rows]


if __name__ == "__main__":
    main()
