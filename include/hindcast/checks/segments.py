"""Drift per segment and per model version: shown beside the whole's, and read by the diagnosis; it wakes nobody."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hindcast.drift.measures import p_of
from hindcast.drift.policy import LEAST_ROWS
from hindcast.drift.sliced import EFFECT, MAIN, MISSING, measure_slices, spoilt
from hindcast.drift.windows import candidates, hours_of
from hindcast.profile.profile import Profile
from hindcast.profile.slices import SLOTS, VERSION, Slices
from hindcast.results import tables
from hindcast.spread import alpha_of
from hindcast.window import HOUR

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from hindcast.checks.run import Run

    Row = dict[str, Any]
    Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
    Flags = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]
    Label = tuple[str, str]

# So many pairs of a slice and a column are stored per baseline and hour, the ones that moved most; every one that
# drifted or is spoilt is.
MOST_STORED = 100
# Of the last hours so many are summed where no hour of earlier weeks or days is known, and so few are enough.
_TRAIL, _ENOUGH = 24, 3
_HELD = 64
# What the whole is, every slice of it is.
_ALIKE = ("constant", "type_changed")


def segment_rows(run: Run, columns: Mapping[str, tuple[str, str, str]], flags: Mapping[datetime, Flags]) -> list[Row]:
    """Rows of the table `drift` of every segment value and version of the window.

    Parameters
    ----------
    run : Run
    columns : mapping
        Column -> what it is called, and status and reason of the whole window's, where they are those of every slice.
    flags : mapping
        Hour -> columns that it says nothing usual about.
    """
    labels = _labels(run)
    if labels is None:
        return _unsliced(run)
    if not labels:
        return []
    slices = held_slices(run, [run.window.start])[run.window.start]
    if slices is None:
        return []
    counts = np.stack([slices.counts[label] for label in labels]).astype(np.float64)
    rows = []
    for name, baseline, says in _baselines(run, labels, flags):
        found = _Found(run, name, says, labels, [slices.rows[label] for label in labels])
        rows += found.rows(columns, counts, baseline)
    return rows


def _labels(run: Run) -> list[Label] | None:
    """Slices that are compared: the most frequent values of each segment, and versions where there are several.

    None where the engine that read the window counts none.
    """
    slices = held_slices(run, [run.window.start])[run.window.start]
    if slices is None:
        return None if run.pulled["engine"] == "bigquery" else []
    most, found = run.model.performance.max_segment_values, []
    for segment in (*run.model.segments, VERSION):
        mine = sorted((label for label in slices.rows if label[0] == segment), key=lambda of: (-slices.rows[of], of[1]))
        found += mine[:most] if segment != VERSION or len(mine) > 1 else []
    return list(dict.fromkeys(found))


def _unsliced(run: Run) -> list[Row]:
    """A row for every segment that nothing is known of, and for the versions where there are several."""
    reason = "read by engine bigquery, which counts no segments and versions; `engine: local` or spark does"
    several = [VERSION] if len(run.pulled["versions"]) > 1 else []
    return [
        {
            **_shared(run, f"{segment}=*", run.pulled["model_version"]),
            "feature": "*",
            "baseline": "reference",
            "metric": EFFECT,
            "status": "insufficient_data",
            "reason": reason,
        }
        for segment in (*run.model.segments, *several)
    ]


def _shared(run: Run, segment: str, version: str | None) -> Row:
    return {**run.key, "model_version": version, "segment": segment, "scale_hours": 1}


def _baselines(run: Run, labels: Sequence[Label], flags: Mapping[datetime, Flags]) -> list[tuple[str, Floats, str]]:
    """Name, counts per slice and description of every baseline of the model file that slices are held against."""
    found: list[tuple[str, Floats, str]] = []
    for name in run.model.drift.baselines:
        if name == "reference":
            found.append((name, _reference(run, labels), "the reference"))
        elif name != "previous_version":
            hours, says = seasonal_hours(run, name, run.window.start)
            if hours:
                found.append((name, _sum(run, hours, labels, flags), says))
    return found


def seasonal_hours(run: Run, name: str, start: datetime) -> tuple[Sequence[datetime], str]:
    """Hours of a baseline: of `seasonal` those of earlier weeks, else of earlier days, else the last ones."""
    zone = run.model.zone
    if name != "seasonal":
        rows = run.history.rows(candidates(name, start, zone))
        hours = hours_of(name, start, rows, zone)
        return hours.hours, hours.says
    weeks = f"same_hour_{run.model.drift.seasonal_weeks}w"
    hours = hours_of(weeks, start, run.history.rows(candidates(weeks, start, zone)), zone)
    if len(hours.hours) >= min(2, run.model.drift.seasonal_weeks):
        return hours.hours, hours.says
    before = [start - k * HOUR for k in range(1, 7 * 24 + 1)]
    rows = run.history.rows(before)
    days = [start - k * 24 * HOUR for k in range(1, 8) if rows[start - k * 24 * HOUR]]
    if len(days) >= _ENOUGH:
        return days, f"the same hour of {len(days)} earlier days"
    trail = [hour for hour in before if rows[hour]][:_TRAIL]
    return (trail, f"the last {len(trail)} hours") if len(trail) >= _ENOUGH else ((), "")


def _reference(run: Run, labels: Sequence[Label]) -> Floats:
    """A version is held against the whole reference: what it was trained on is no version's."""
    known = run.reference_slices
    whole = run.slicing.whole(run.reference.profile).astype(np.float64)
    nothing = np.zeros_like(whole)
    return np.stack([whole if of == VERSION else known.counts.get((of, value), nothing) for of, value in labels])


def _sum(run: Run, hours: Sequence[datetime], labels: Sequence[Label], flags: Mapping[datetime, Flags]) -> Floats:
    """Sum of the hours; a version is held against all versions of them, so that a new one has a baseline."""
    total = np.zeros((len(labels), len(run.slicing.columns), SLOTS))
    versions = np.array([of == VERSION for of, _ in labels])
    wholes = run.wholes(hours) if versions.any() else {}
    for hour, slices in held_slices(run, hours).items():
        kept = 1.0 - flags[hour][:, None] if hour in flags else 1.0
        for j, label in enumerate(labels):
            if slices and not versions[j] and label in slices.counts:
                total[j] += slices.counts[label] * kept
        if hour in wholes:
            whole = run.slicing.whole(Profile.from_bytes(wholes[hour], run.reference.bins))
            total[versions] += whole * kept
    return total


def held_slices(run: Run, hours: Sequence[datetime]) -> dict[datetime, Slices | None]:
    """Stored slices of some hours, the latest of which stay in memory."""
    held: dict[datetime, Slices | None] = run.memories.setdefault(("slices", run.slicing.digest), {})
    missing = [hour for hour in hours if hour not in held or hour == run.window.start]
    key = {"model_name": run.model.model, "bins_digest": run.slicing.digest}
    again = run.memories.get("resliced", {})
    stored = {hour: Slices.from_bytes(again[hour], run.slicing) for hour in missing if hour in again}
    for first in range(0, len(missing), 500):
        for row in run.store.rows(tables.slices, window_start=missing[first : first + 500], **key):
            stored[row["window_start"]] = Slices.from_bytes(row["content"], run.slicing)
    found = {hour: stored.get(hour) if hour in stored or hour in missing else held[hour] for hour in hours}
    held.update(found)
    for hour in sorted(held)[: max(0, len(held) - max(_HELD, len(hours)))]:
        del held[hour]
    return found


class _Found:
    """The rows of one baseline."""

    def __init__(self, run: Run, baseline: str, says: str, labels: Sequence[Label], sizes: Sequence[int]) -> None:
        self.run, self.baseline, self.says, self.labels, self.sizes = run, baseline, says, labels, sizes
        self.numeric = len(run.slicing.bins.numeric)
        self.columns = run.slicing.columns

    def rows(self, shown: Mapping[str, tuple[str, str, str]], now: Floats, then: Floats) -> list[Row]:
        """Rows of every slice that is large enough, the most conspicuous ones of too many; one of every other."""
        found = measure_slices(now, then, self.numeric)
        null, other_type = spoilt(now, self.numeric)
        score, drifted = self._conspicuous(shown, found, null | other_type)
        rows: list[Row] = [self._small(j) for j, size in enumerate(self.sizes) if size < LEAST_ROWS]
        # NaN: says nothing, and sorts last
        order = np.argsort(-score, axis=None, kind="stable")[: np.count_nonzero(~np.isnan(score))]
        kept = order[: max(MOST_STORED, np.count_nonzero(score >= 1))]
        for j, at in zip(*(places.tolist() for places in np.unravel_index(kept, score.shape)), strict=True):
            column = self.columns[at]
            values = {name: float(table[j, at]) for name, table in found.items()}
            broken = "type_changed" if other_type[j, at] else "all_null" if null[j, at] else ""
            state = self._status(shown[column], values, broken)
            rows += self._cell(j, column, shown[column][0], values, state, drifted=bool(drifted[j, at]))
        return rows

    def _conspicuous(
        self, shown: Mapping[str, tuple[str, str, str]], found: Mapping[str, Floats], broken: Flags
    ) -> tuple[Floats, Flags]:
        """How conspicuous each slice's column is, from 1 on if it drifted or is spoilt; and which drifted.

        Below 0 is what cannot be judged; NaN what is not looked at: small slices, and what a segment is made of.
        """
        shape, numeric = broken.shape, np.arange(broken.shape[1]) < self.numeric
        states = [shown[column][1] if column in shown else "" for column in self.columns]
        there = np.array([state not in {"missing_column", "insufficient_data"} for state in states])
        enough = np.minimum(found["n"], found["m"]) >= LEAST_ROWS
        ok = there & ~np.isin(states, _ALIKE) & ~broken & enough
        pvalue = np.full(shape, np.nan)
        for kind, columns in (("numeric", numeric), ("categorical", ~numeric)):
            if columns.any():
                pvalue[:, columns] = found[p_of(MAIN[kind])][:, columns]
        # One test per slice and column and hour, all of which share the budget of the model.
        budget = self.run.model.drift.budget_false_alarms_per_week
        alpha = alpha_of(budget, 1, len(self.labels) * len(shown), 1)
        effect = np.nan_to_num(found[EFFECT])
        drifted = ok & (pvalue < alpha) & (effect >= self.run.model.drift.effect_floor)
        score = np.where(ok, 1 - np.nan_to_num(pvalue, nan=1.0), -1.0)
        score = np.where(drifted, 1 + effect, np.where(there & broken, 1.0, np.minimum(score, np.nextafter(1.0, 0))))
        for j, (segment, _) in enumerate(self.labels):
            own = self.run.segment_columns.get(segment, ())  # says nothing within its own segment
            skipped = [column not in shown or column in own for column in self.columns]
            score[j, np.array(skipped) | (self.sizes[j] < LEAST_ROWS)] = np.nan
        return score, drifted

    def _status(self, whole: tuple[str, str, str], values: Mapping[str, float], broken: str) -> tuple[str, str]:
        """What can be said of a slice's column; `whole` is what can be of the whole window's."""
        _, status, reason = whole
        if status in {"missing_column", "insufficient_data"}:
            return status, reason
        if broken:
            return broken, "every value is null" if broken == "all_null" else "some values are of another type"
        least = min(values["n"], values["m"])
        if least < LEAST_ROWS:
            return "insufficient_data", f"{least:.0f} values; {LEAST_ROWS} are needed"
        return (status, reason) if status in _ALIKE else ("ok", "")

    def _small(self, j: int) -> Row:
        return {
            **self._shared(j),
            "feature": "*",
            "metric": EFFECT,
            "status": "insufficient_data",
            "n_current": float(self.sizes[j]),
            "reason": f"{self.sizes[j]} rows; {LEAST_ROWS} are needed",
        }

    def _shared(self, j: int) -> Row:
        segment, value = self.labels[j]
        version = value if segment == VERSION else self.run.pulled["model_version"]
        return {**_shared(self.run, f"{segment}={value}", version), "baseline": self.baseline}

    def _cell(
        self, j: int, column: str, name: str, values: Mapping[str, float], state: tuple[str, str], *, drifted: bool
    ) -> list[Row]:
        status, reason = state
        main = MAIN["numeric" if column in self.run.slicing.bins.numeric else "categorical"]
        floor = self.run.model.drift.effect_floor
        shared = {
            **self._shared(j),
            "feature": name,
            "drifted": drifted if status == "ok" else None,
            "status": status,
            "reason": reason or f"against {self.says}",
            "n_current": values["n"],
            "n_baseline": values["m"],
        }
        rows = []
        for metric, threshold in ((main, None), (EFFECT, floor), (MISSING, None)):
            value = values[metric] if status in {"ok", "constant"} else float("nan")
            if metric == MISSING and not np.isfinite(value):
                continue
            known = {"metric": metric, "threshold": threshold, "value": None, "p_value": None}
            if np.isfinite(value):
                known["value"], known["p_value"] = value, _finite(values.get(p_of(metric), float("nan")))
            elif status == "ok":
                known |= {"status": "insufficient_data", "reason": f"not defined for these counts, against {self.says}"}
            rows.append({**shared, **known})
        return rows


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def drifted_segments(rows: Sequence[Row], wanted: Callable[[Row], bool] = lambda _: True) -> list[tuple[Row, int]]:
    """Of rows of the table `drift` the segments and features that drifted, each in its worst hour and in how many."""
    worst: dict[tuple[str, str], Row] = {}
    hours: dict[tuple[str, str], set[Any]] = {}
    for row in rows:
        if row["segment"] != "*" and row["drifted"] and row["metric"] == EFFECT and wanted(row):
            key = (row["segment"], row["feature"])
            hours.setdefault(key, set()).add(row["window_start"])
            if key not in worst or (row["value"] or 0) > (worst[key]["value"] or 0):
                worst[key] = row
    found = [(worst[key], len(hours[key])) for key in worst]
    return sorted(found, key=lambda pair: (-pair[1], -(pair[0]["value"] or 0), pair[0]["segment"], pair[0]["feature"]))
