"""What `alert_quality.py` compares: Hindcast's policy, and three rules of the field on the same hourly counts.

Each gives findings as the table `findings` has them, so that one fold makes episodes of all of them.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import numpy as np

from alert_worlds import HISTORY, HOURS, World, hour_at
from hindcast import alerts
from hindcast.calendar import Calendar
from hindcast.checks import levels
from hindcast.config import Quiet
from hindcast.drift import moments, significance, statistics
from hindcast.drift.baseline import SCALES, History, Totals, comparisons
from hindcast.drift.policy import Decision, decide, pseudo_hours, series_of
from hindcast.profile.profile import NULL, Profile, Sparse
from hindcast.spread import ACCEPTED_AFTER, REMEMBERED, Memory, overlapping
from hindcast.window import HOUR

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence
    from datetime import datetime

UTC_ZONE = ZoneInfo("UTC")
PEERS = ("textbook", "Evidently", "NannyML")
Row = dict[str, Any]
# Hours before a window that a baseline of four weeks may read.
REACH = 8 * 168 + 25


def finding(rule: str, subject: str, kind: str, hour: int, scale: int = 1) -> Row:
    """A row of the table `findings`, as far as the fold reads it."""
    at = hour_at(hour)
    return {
        "model_name": rule, "check": "drift", "kind": kind, "subject": subject, "segment": "*", "metric": "distance",
        "scale_hours": scale, "label_age_hours": 0, "window_start": at, "detected_at": at + HOUR, "severity": "warning",
        "value": 1.0, "baseline": None, "change_percent": None, "threshold": 0.0, "reason": "",
    }  # fmt: skip


def episodes(findings: list[Row], judged: list[datetime], acceptances: Sequence[Row] = ()) -> list[Row]:
    """Alerts, as a user would have seen them."""
    return alerts.fold(findings, {("drift", 0): judged}, [], acceptances=acceptances)


class Policy:
    """Hindcast, hour by hour: what `hindcast.checks.drift` and triage do, without the tables."""

    def __init__(self, world: World, budget: float = 1.0) -> None:
        self.world, self.budget = world, budget
        self.series = series_of(world.bins)
        self.reference = Totals(world.bins)
        self.reference.add(Sparse.from_bytes(world.reference.to_bytes(), world.bins))
        self.pseudo = pseudo_hours(self.series, world.spans, self.reference)
        self.stored: dict[datetime, bytes] = {}
        self.history = History(world.bins, lambda hours: {h: self.stored[h] for h in hours if h in self.stored})
        self.past: dict[datetime, Memory] = {}
        self.inside: dict[datetime, set[str]] = {}
        self.acceptances: list[Row] = []
        self.columns = (*world.bins.numeric, *world.bins.categorical)
        entries = [
            Quiet.model_validate({"from": hour_at(start), "to": hour_at(end), "reason": "holiday"})
            for start, end in world.planned
        ]
        self.calendar = Calendar(entries, UTC_ZONE)
        self.masks: dict[frozenset[str], Any] = {}
        self.seconds: list[float] = []
        self.decisions: list[Decision] = []

    def judge(self, hour: int, content: bytes) -> list[Row]:
        """Findings of one hour."""
        at = hour_at(hour)
        self.stored[at] = content
        known = levels.accepted(self.acceptances, ("drift",), at)
        flags = self._flags(at, known)
        begun = time.process_time()
        self.history.put(at, content)
        found = comparisons(at, self.history, self.reference, flags, UTC_ZONE)
        before = list(self.past.values())
        fresh = levels.just_accepted(known, max(self.past, default=None))
        if before and fresh:
            before[-1] = before[-1].accept(self._of(fresh))
        options = {"recent": overlapping(list(self.past), at), "budget_per_week": self.budget, "pseudo": self.pseudo}
        accepted = self._of(known) if known else None
        planned = [bool(self.calendar.planned("*", at, scale)) for scale in SCALES]
        options["planned"] = np.repeat(np.array(planned)[:, None], len(self.series), axis=1) if any(planned) else None
        self.decisions, memory = decide(self.series, found, before, accepted=accepted, accepted_after=None, **options)
        self.seconds.append(time.process_time() - begun)
        self._remember(at, memory)
        return [
            finding("Hindcast", d.series.column, "quality" if d.series.kind == "missing" else "drift", hour, d.scale)
            for d in self.decisions
            if d.drifted and not planned[SCALES.index(d.scale)]
        ]

    def _of(self, columns: Collection[str]) -> Any:
        return np.array([s.column in columns for s in self.series])

    def _remember(self, at: datetime, memory: Memory) -> None:
        """Hold what was learnt, and accept levels that were open for a week."""
        self.past[at] = memory
        while next(iter(self.past)) < at - REMEMBERED * HOUR:
            del self.past[next(iter(self.past))]
        self.inside[at] = {self.series[j].column for j in np.flatnonzero(memory.flagged(None)).tolist()}
        for j in np.flatnonzero(memory.open_hours == ACCEPTED_AFTER).tolist():
            since = at - (ACCEPTED_AFTER - 1) * HOUR
            row = {"kind": "drift", "subject": self.series[j].column, "since": since, "accepted_at": at + HOUR}
            row |= {"actor": "hindcast", "reason": ""}
            self.acceptances.append(row)

    def _flags(self, at: datetime, known: dict[str, Row]) -> dict[datetime, Any]:
        out = levels.left_out(levels.hours_before(at, REACH), self.inside, known, self.calendar, self.columns)
        for left in set(out.values()) - self.masks.keys():
            self.masks[left] = np.array([column in left for column in self.columns])
        return {hour: self.masks[left] for hour, left in out.items()}


class Peers:
    """The rules of the field, every hour against the reference.

    - textbook: Kolmogorov-Smirnov or chi-square of homogeneity, p < 0.05 per feature and hour.
    - Evidently's default for a reference of more than 1,000 rows: Wasserstein distance over the reference's standard
      deviation at least 0.1, for categories (and numbers of at most five values) Jensen-Shannon distance (natural
      logarithm) at least 0.1.
    - NannyML's default: Jensen-Shannon distance (base 2) of the hour, and its share of missing values, beyond the mean
      and three standard deviations of the hours of the reference period, here the four weeks of history.
    """

    def __init__(self, world: World) -> None:
        self.world, bins = world, world.bins
        self.names = (*bins.numeric, *bins.categorical)
        self.then = world.reference.numeric[:, : bins.width].astype(float), world.reference.categorical.astype(float)
        self.scale = np.maximum(moments.binned_std(bins.padded_edges, self.then[0], world.reference.values()), 0.001)
        self.few = (self.then[0] > 0).sum(axis=1) <= 5
        self.known: list[Any] = []

    def judge(self, hour: int, profile: Profile) -> list[Row]:
        """Findings of one hour, of all three."""
        bins = self.world.bins
        now = profile.numeric[:, : bins.width].astype(float), profile.categorical.astype(float)
        n, m = now[0].sum(axis=1), self.then[0].sum(axis=1)
        jensen = [statistics.jensen_shannon_distance(a, b) for a, b in zip(self.then, now, strict=True)]
        p = significance.ks_pvalue(statistics.ks_statistic(self.then[0], now[0]), n, m)
        pooled = statistics.pool_rare(self.then[1], now[1])
        chi2 = significance.chi2_pvalue(statistics.chi2_statistic(*pooled), statistics.degrees_of_freedom(*pooled))
        far = moments.wasserstein_normalized(
            bins.padded_edges, self.then[0], self.world.reference.values(), now[0], profile.values(), scale=self.scale
        )
        natural = [distance * np.log(2) ** 0.5 for distance in jensen]
        flags = {
            "textbook": np.concatenate([p, chi2]) < 0.05,
            "Evidently": np.concatenate([np.where(self.few, natural[0], far), natural[1]]) >= 0.1,
            "NannyML": self._beyond_three_sigma(hour, np.concatenate(jensen), self._missing(profile)),
        }
        return [
            finding(rule, self.names[i], "drift", hour)
            for rule, drifted in flags.items()
            for i in np.flatnonzero(drifted).tolist()
        ]

    def _missing(self, profile: Profile) -> Any:
        bins = self.world.bins
        nulls = [profile.numeric[:, bins.width + NULL], profile.categorical[:, bins.depth + 1]]
        return np.concatenate(nulls) / profile.rows

    def _beyond_three_sigma(self, hour: int, distance: Any, missing: Any) -> Any:
        if hour < HISTORY:
            self.known.append((distance, missing))
            return np.zeros(len(self.names), bool)
        if isinstance(self.known, list):
            hours = np.array(self.known)
            self.known = np.nanmean(hours, axis=0), np.nanstd(hours, axis=0)
        mean, deviation = self.known
        found = np.array([distance, missing])
        low, high = np.maximum(mean - 3 * deviation, 0.0), mean + 3 * deviation
        return (((found > high) | (found < low)) & (deviation > 0)).any(axis=0)


def replay(
    world: World, *, peers: bool = True, say: Callable[[int], None] | None = None
) -> tuple[dict[str, list[Row]], Policy]:
    """Alerts of every rule over the eight weeks of a world, and the policy with the cost of each hour."""
    policy, others = Policy(world), Peers(world)
    found: dict[str, list[Row]] = {rule: [] for rule in ("Hindcast", *(PEERS if peers else ()))}
    judged = []
    for hour, profile in profiles(world):
        judged.append(hour_at(hour))
        rows = policy.judge(hour, profile.to_bytes()) + (others.judge(hour, profile) if peers else [])
        for row in rows:
            found[row["model_name"]].append(row)
        if say:
            say(hour)
    return {
        rule: episodes(rows, judged, policy.acceptances if rule == "Hindcast" else ()) for rule, rows in found.items()
    }, policy


def profiles(world: World) -> Iterator[tuple[int, Profile]]:
    """Hours with rows."""
    for hour in range(HOURS):
        profile = world.profile(hour)
        if profile is not None:
            yield hour, profile
