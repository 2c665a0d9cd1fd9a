"""drift: the window against reference and seasonal baseline, every textbook statistic, and the policy's decision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from sqlalchemy import select

from hindcast.baselines import PREVIOUS_WINDOW
from hindcast.checks.context import release
from hindcast.checks.labels import label_of
from hindcast.checks.levels import accepted, hours_before, just_accepted, left_out
from hindcast.checks.refit import refitted
from hindcast.checks.run import Result, Run
from hindcast.checks.segments import segment_rows
from hindcast.checks.statuses import status_of
from hindcast.drift import windows
from hindcast.drift.baseline import RANGE, SCALES, TIERS, Comparison, Totals, comparisons
from hindcast.drift.measures import FURTHER, PRIMARY, measure, p_of
from hindcast.drift.policy import EFFECT_FLOOR, LEAST_ROWS, Decision, Series, decide, pseudo_hours, series_of
from hindcast.drift.unseen import next_sample
from hindcast.profile.bins import LABEL
from hindcast.profile.profile import NEW, Sparse
from hindcast.profile.scan import MISSING
from hindcast.quality import NEW_COLUMN
from hindcast.results import tables
from hindcast.spread import REMEMBERED, Memory, overlapping
from hindcast.window import HOUR

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
    Flags = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]
    Row = dict[str, Any]

# A feature's level is accepted as a whole, whether its distribution or its missing ratio raised the alert.
_KINDS = ("drift", "quality")
_METRIC = {
    "missing": "missing_ratio_change",
    "new": "new_category_ratio_change",
    "range": "out_of_range_ratio",
}


@dataclass(frozen=True)
class Decided:
    """What the policy made of one hour; `learnt` and `episodes` are rows, also of hours that were only profiled."""

    compared: Sequence[Comparison]
    decisions: Sequence[Decision]
    findings: list[Row]
    learnt: list[Row]
    episodes: list[Row]


def check(run: Run) -> Result:
    """Compare, decide, and remember."""
    pulled = run.pulled
    if not pulled["rows"]:
        passed(run)
        return Result("drift", "ok", "no rows", tuple((name, key, []) for name, key in _keys(run)), {"drifted": []})
    refit = refitted(run, run.window.start - _reach(run.model.drift.seasonal_weeks) * HOUR)
    found = decided(run)
    rows = _rows(run, found.compared, found.decisions, pulled["model_version"])
    hours = {"model_name": run.model.model, "window_start": [row["window_start"] for row in found.learnt]}
    writes = (
        ("drift", _hourly(run), rows),
        ("findings", {**run.key, "check": "drift"}, found.findings),
        ("memory", {**hours, "check": "drift"}, found.learnt),
        ("episodes", {**hours, "check": "drift"}, found.episodes),
        *(refit.writes if refit else ()),
    )
    status, reason = "ok", str(refit or "")
    if rows and all(row["status"] != "ok" for row in rows):
        status, reason = "insufficient_data", rows[0]["reason"]
    planned: set[str] = set()
    drifted: set[str] = set()
    for finding in found.findings:
        quiet = run.model.calendar.planned(finding["subject"], run.window.start, finding["scale_hours"])
        (planned if quiet else drifted).add(finding["subject"])
    facts = {"drifted": sorted(drifted), **({"planned": sorted(planned)} if planned else {})}
    return Result("drift", status, reason, writes, facts)


def _told(decisions: Sequence[Decision]) -> list[Decision]:
    """What drifted; a prediction or a confidence that moved with its score says nothing that the score does not."""
    drifted = [decision for decision in decisions if decision.drifted]
    if not any(decision.series.column.startswith("score") for decision in drifted):
        return drifted
    return [decision for decision in drifted if decision.series.column not in {"prediction", "confidence"}]


def passed(run: Run) -> None:
    """Go past an hour without rows: nothing new is known, and 6 and 24 hours were judged at the last that had some."""
    if run.memories.get("drift to") == run.window.start:
        run.memories["drift to"] = run.window.end


def decided(run: Run) -> Decided:
    """Decide about the window from stored profiles and what was learnt before, and remember it for the next."""
    series = series_of(run.reference.bins)
    names = [s.name for s in series]
    past, inside = _past(run, series)
    budget = run.model.drift.budget_false_alarms_per_week
    compared, decisions, memory = _decide(
        run, run.window.start, past, inside, series, budget_per_week=budget, pseudo=_pseudo(run, series)
    )
    new = {**{hour: past[hour] for hour in _unstored(run, past)}, run.window.start: memory}
    run.memories["drift"] = {**past, run.window.start: memory}
    run.memories["drift inside"] = {**inside, run.window.start: _subjects(run, memory, series)}
    run.memories["drift to"] = run.window.end
    key = {"model_name": run.model.model, "check": "drift"}
    return Decided(
        compared,
        decisions,
        [_finding(run, decision) for decision in _told(decisions)],
        [{**key, "window_start": hour, "content": held.to_bytes(names)} for hour, held in new.items()],
        [
            {**key, "window_start": hour, "subject": subject}
            for hour, held in new.items()
            for subject in sorted(_subjects(run, held, series))
        ],
    )


def _keys(run: Run) -> list[tuple[str, dict[str, Any]]]:
    """Under which the window's rows of this check stand."""
    own = {**run.key, "check": "drift"}
    return [("drift", _hourly(run)), ("findings", own), ("memory", own), ("episodes", own)]


def _hourly(run: Run) -> dict[str, Any]:
    """Key of the window's one-hour rows of everything but the label, which `hindcast.checks.labels` writes.

    Those of a day that starts with it are hindcast.checks.multivariate's.
    """
    table = tables.drift.c
    own = (table.model_name == run.model.model, table.window_start == run.window.start, table.scale_hours == 1)
    stored = run.store.values(select(table.feature).where(*own).distinct())
    subjects = {*run.reference.features, *run.reference.bins.subjects.values(), *run.pulled["unknown_columns"], "*"}
    features = sorted({*subjects, *stored} - {label_of(run.reference.bins)})
    return {**run.key, "scale_hours": 1, "feature": features}


def reference_totals(run: Run) -> Totals:
    """The reference as a baseline.

    Its categories are what another sample would have of them: without this every value of a column of many values is
    news.
    """
    if "reference" not in run.memories:
        totals, depth = Totals(run.reference.bins), run.reference.bins.depth
        totals.add(Sparse.from_bytes(run.reference.profile.to_bytes(), run.reference.bins))
        for counts in totals.categorical:
            counts[:depth], counts[depth + NEW] = next_sample(counts[:depth], counts[depth + NEW])
        run.memories["reference"] = totals
    held: Totals = run.memories["reference"]
    return held


def _pseudo(run: Run, series: Sequence[Series]) -> Memory:
    held: dict[str, Memory] = run.memories.setdefault("pseudo", {})
    digest = run.reference.digest
    if digest not in held:
        held[digest] = pseudo_hours(series, run.reference.spans, reference_totals(run))
    return held[digest]


def _decide(
    run: Run,
    start: datetime,
    past: Mapping[datetime, Memory],
    inside: Mapping[datetime, frozenset[str]],
    series: Sequence[Series],
    *,
    budget_per_week: float,
    pseudo: Memory | None = None,
) -> tuple[list[Comparison], list[Decision], Memory]:
    """Compare the hours that end with one with what was usual before, and decide."""
    settings, known = run.model.drift, accepted(run.acceptances, _KINDS, start)
    compared = [c for c in _comparisons(run, start, inside, known) if _wanted(settings.baselines, c.tier)]
    before = list(past.values())
    fresh = just_accepted(known, max(past, default=None))
    if before and fresh:
        before[-1] = before[-1].accept(_of(run, fresh, series))
    decisions, memory = decide(
        series,
        [c for c in compared if c.tier == RANGE or settings.scales is None or c.scale in settings.scales],
        before,
        recent=overlapping(list(past), start),
        budget_per_week=budget_per_week,
        pseudo=pseudo,
        planned=_planned(run, start, series),
        accepted=_of(run, known, series) if known else None,
        accepted_after=None,
        floors={scale: floor * settings.effect_floor / EFFECT_FLOOR[1] for scale, floor in EFFECT_FLOOR.items()},
    )
    return compared, decisions, memory


def _wanted(baselines: Sequence[str], tier: str) -> bool:
    """Whether the model file has a tier judge: `seasonal` stands for all that are made of earlier hours.

    The range, which tells of another unit, is always looked at.
    """
    return tier == RANGE or ("reference" if tier == "reference" else "seasonal") in baselines


def _comparisons(
    run: Run, start: datetime, inside: Mapping[datetime, frozenset[str]], known: Mapping[str, Row]
) -> list[Comparison]:
    bins, weeks = run.reference.bins, run.model.drift.seasonal_weeks
    columns = list(bins.subjects.values())
    masks: dict[frozenset[str], Any] = run.memories.setdefault("masks", {})
    flags = {}
    left = left_out(hours_before(start, _reach(weeks)), inside, known, run.model.calendar, columns)
    for hour, subjects in left.items():
        if subjects not in masks:
            masks[subjects] = np.array([column in subjects for column in columns])
        flags[hour] = masks[subjects]
    run.memories["left out"] = flags
    return comparisons(start, run.history, reference_totals(run), flags, run.model.zone, weeks=weeks)


def _reach(weeks: int) -> int:
    """Hours before a window that a baseline may read."""
    return 24 * max(14 * weeks, 28) + 25


def _of(run: Run, subjects: Iterable[str], series: Sequence[Series]) -> Flags:
    """Which series are of these subjects."""
    wanted, names = set(subjects), run.reference.bins.subjects
    return np.array([names[s.column] in wanted for s in series])


def _subjects(run: Run, memory: Memory, series: Sequence[Series]) -> frozenset[str]:
    """What is inside an episode."""
    inside = np.flatnonzero(memory.flagged(None)).tolist()
    return frozenset(run.reference.bins.subjects[series[j].column] for j in inside)


def _planned(run: Run, start: datetime, series: Sequence[Series]) -> Flags | None:
    """Per scale and series, whether the window holds a planned hour; None where none does."""
    calendar = run.model.calendar
    if not any(calendar.within(start - k * HOUR) for k in range(max(SCALES))):
        return None
    columns, names = {s.column for s in series}, run.reference.bins.subjects
    planned = [{c for c in columns if calendar.planned(names[c], start, scale)} for scale in SCALES]
    return np.array([[s.column in of_scale for s in series] for of_scale in planned])


def _past(run: Run, series: Sequence[Series]) -> tuple[dict[datetime, Memory], dict[datetime, frozenset[str]]]:
    """Memories of the two weeks before, oldest first, and the features inside an episode in every hour in reach.

    Hours that were only profiled are measured now, silently.
    """
    first, last = run.window.start - REMEMBERED * HOUR, run.window.start
    reach = last - _reach(run.model.drift.seasonal_weeks) * HOUR
    held: dict[datetime, Memory] = run.memories.get("drift", {})
    inside: dict[datetime, frozenset[str]] = run.memories.get("drift inside", {})
    if held and run.memories.get("drift to") == last:
        past = {hour: memory for hour, memory in held.items() if first <= hour < last}
        return past, {hour: subjects for hour, subjects in inside.items() if subjects and hour >= reach}
    names, within = [s.name for s in series], tables.memory.c.window_start < last
    key = {"model_name": run.model.model, "check": "drift"}
    rows = run.store.rows(tables.memory, tables.memory.c.window_start >= first, within, **key)
    past = {row["window_start"]: Memory.from_bytes(row["content"], names) for row in rows}
    run.memories["stored"] = set(past)
    inside = _stored_episodes(run, reach, last)
    inside |= {hour: _subjects(run, memory, series) for hour, memory in past.items()}
    known = run.history.rows(first + k * HOUR for k in range(REMEMBERED))
    for hour in (first + k * HOUR for k in range(REMEMBERED)):
        if hour not in past and known[hour]:
            before = {h: m for h, m in sorted(past.items()) if h < hour}
            _, _, past[hour] = _decide(run, hour, before, inside, series, budget_per_week=1e-9)
            inside[hour] = _subjects(run, past[hour], series)
    return dict(sorted(past.items())), inside


def _stored_episodes(run: Run, first: datetime, last: datetime) -> dict[datetime, frozenset[str]]:
    found: dict[datetime, frozenset[str]] = {}
    table = tables.episodes
    within = (table.c.window_start >= first, table.c.window_start < last)
    for row in run.store.rows(table, *within, model_name=run.model.model, check="drift"):
        found[row["window_start"]] = found.get(row["window_start"], frozenset()) | {row["subject"]}
    return found


def _unstored(run: Run, past: Mapping[datetime, Memory]) -> list[datetime]:
    """Remembered hours that the store does not have yet."""
    stored = run.memories.get("stored", set(past))
    run.memories["stored"] = set(past) | {run.window.start}
    return [hour for hour in past if hour not in stored]


def _finding(run: Run, decision: Decision) -> dict[str, Any]:
    metric = _METRIC.get(decision.series.kind)
    metric = metric or ("ks_statistic" if decision.series.kind == "ks" else "phi_squared")
    return {
        **run.key,
        "check": "drift",
        # A feature that goes missing is one alert, whether a limit or its own history noticed.
        "kind": "quality" if decision.series.kind == "missing" else "drift",
        "subject": run.reference.bins.subjects[decision.series.column],
        "segment": "*",
        "metric": metric,
        "scale_hours": decision.scale,
        "label_age_hours": 0,
        "value": decision.effect if metric in _METRIC.values() else decision.value,
        "threshold": decision.threshold,
        "severity": "warning",
        "detected_at": run.detected_at,
        "reason": f"{decision.scale} h against {decision.says}; effect {decision.effect:.3g}",
    }


def _rows(
    run: Run, compared: Sequence[Comparison], decisions: Sequence[Decision], version: str
) -> list[dict[str, Any]]:
    """One-hour rows: features and outputs, against the reference and against the best seasonal baseline there is."""
    hourly = {c.tier: c for c in compared if c.scale == 1}
    decided = {d.series.name: d for d in decisions if d.scale == 1}
    rows = []
    for baseline in run.model.drift.baselines:
        comparison = _chosen(run, baseline, hourly)
        if comparison is None:
            continue
        # The textbook is whole beside the reference; the seasonal baseline has what is primary, to keep an hour cheap.
        measured = measure(comparison, further=baseline == "reference")
        for column, name in _shown(run, baseline).items():
            status, reason = status_of(run.profile, run.reference.profile, column)
            found = measured.get(column, {})
            n, m = found.get("n", 0.0), found.get("m", 0.0)
            if status == "ok" and min(n, m) < LEAST_ROWS:
                status, reason = "insufficient_data", f"{min(n, m):.0f} values; {LEAST_ROWS} are needed"
            decision = decided.get((column, "ks")) or decided.get((column, "phi"))
            if status == "ok" and decision and decision.drifted is None and decision.tier == comparison.tier:
                status, reason = "insufficient_data", decision.reason
            rows += _metric_rows(run, column, name, baseline, comparison, found, decision, status, reason, version)
    rows += segment_rows(run, _columns(run), run.memories["left out"])
    rows += [_unknown_row(run, name, version) for name in run.pulled["unknown_columns"]]
    crowded = {run.reference.bins.subjects[column]: share for column, share in run.reference.high_cardinality.items()}
    for row in rows:
        planned = run.model.calendar.planned(row["feature"], run.window.start)
        if planned:
            row["reason"] = f"planned: {planned}; {row['reason']}"
        share = crowded.get(row["feature"])
        if share:
            row["reason"] += f"; {share:.0%} of the reference's rows have a value without a bin: these count as one"
    return rows


def _unknown_row(run: Run, name: str, version: str) -> Row:
    """The one row of a feature that the reference knows no value of."""
    status, reason = NEW_COLUMN
    key = {
        "segment": "*",
        "feature": name,
        "baseline": "reference",
        "scale_hours": 1,
        "metric": "jensen_shannon_distance",
    }
    return {**run.key, "model_version": version, **key, "status": status, "reason": reason}


def _columns(run: Run) -> dict[str, tuple[str, str, str]]:
    """Column -> what it is called, and what can be said of it in every slice: some have numbers where others do not."""
    found = {}
    for column, name in _shown(run, "reference").items():
        status, reason = status_of(run.profile, run.reference.profile, column)
        some = status == "type_changed" and column in run.reference.bins.numeric
        found[column] = (name, "ok", "") if some else (name, status, reason)
    return found


def _chosen(run: Run, baseline: str, hourly: Mapping[str, Comparison]) -> Comparison | None:
    """The window beside a baseline of the model file; None where that has no hours."""
    if baseline == "reference":
        return hourly.get("reference")
    if baseline == "seasonal":
        return next((hourly[tier] for tier in TIERS[:-1] if tier in hourly), None)
    if not hourly:
        return None
    now = next(iter(hourly.values()))
    if baseline == "previous_version":
        return _previous_version(run, now)
    start, zone = run.window.start, run.model.zone
    wanted = windows.hours_of(baseline, start, run.history.rows(windows.candidates(baseline, start, zone)), zone)
    if not wanted.hours:
        return None
    # As the policy's own baselines, without the hours of incidents; the window before is what it was.
    flags = {} if baseline == PREVIOUS_WINDOW else run.memories["left out"]
    run.history.want(wanted.hours)
    then = run.history.sum_of(("chosen", baseline), {hour: flags.get(hour) for hour in wanted.hours})
    return Comparison(baseline, 1, now.current, then, 100, wanted.says)


def _shown(run: Run, baseline: str) -> dict[str, str]:
    """Column -> subject: every feature, and the outputs that the logs have and the baseline may know."""
    bins, types = run.reference.bins, run.profile.types
    shown = {f"feature_{name}": name for name in run.reference.features}
    for column, subject in bins.subjects.items():
        known = baseline != "reference" or MISSING not in run.reference.profile.types.get(column, {MISSING: 1})
        if (
            not column.startswith("feature_")
            and column != LABEL
            and set(types.get(column, {MISSING: 1})) != {MISSING}
            and known
        ):
            shown[column] = subject
    return shown


def _previous_version(run: Run, now: Comparison) -> Comparison | None:
    """For a week after a release, the hour beside the last week of the version before: shown, deciding nothing."""
    found = release(run, run.window.start)
    if found is None:
        return None
    run.history.want(found.hours)
    then = run.history.sum_of(("version", found.at), dict.fromkeys(found.hours))
    says = f"the last {len(found.hours)} hours of model version {found.before}; {found}"
    return Comparison("previous_version", 1, now.current, then, 100, says)


def _metric_rows(
    run: Run, column: str, name: str, baseline: str, comparison: Comparison, found: Mapping[str, Any],
    decision: Decision | None, status: str, reason: str, version: str,
) -> list[dict[str, Any]]:  # fmt: skip
    kind = "ks" if column in run.reference.bins.numeric else "phi"
    main = "ks_statistic" if kind == "ks" else "chi2_statistic"
    columns = "numeric" if kind == "ks" else "categorical"
    # Of nulls alone, that they are missing is all that can be said.
    told = {"ok": FURTHER[columns], "all_null": ("missing_ratio_change",)}.get(status, ())
    metrics = [*PRIMARY[columns], *(metric for metric in told if metric in found)]
    seasonal = decision is not None and decision.tier == comparison.tier
    effect = found.get("wasserstein_normalized" if kind == "ks" else "jensen_shannon_distance", float("nan"))
    drifted = None
    if status == "ok":
        # Beside the baseline that decides, the reference is judged by textbook and effect: shown, waking nobody.
        drifted = bool(decision.drifted) if seasonal and decision else _far(found, main, effect)
    shared = {
        **run.key,
        "model_version": version,
        "segment": "*",
        "feature": name,
        "baseline": baseline,
        "scale_hours": 1,
        "drifted": drifted,
        "n_current": found.get("n"),
        "n_baseline": found.get("m"),
    }
    said = reason or (decision.reason if decision and seasonal else "") or f"against {comparison.says}"
    rows = []
    for metric in metrics:
        value = found.get(metric)
        threshold = None
        if metric == main and seasonal and decision and kind == "ks":
            threshold = decision.threshold
        elif metric == ("wasserstein_normalized" if kind == "ks" else "jensen_shannon_distance"):
            threshold = run.model.drift.effect_floor
        undefined = reason or f"not defined for these counts, against {comparison.says}"
        rows.append(
            {
                **shared,
                "metric": metric,
                "value": value if status in {"ok", "constant", "type_changed"} or metric in told else None,
                "threshold": threshold,
                "p_value": found.get(p_of(metric)) if status == "ok" or metric in told else None,
                "status": "insufficient_data" if status == "ok" and value is None else status,
                "reason": undefined if value is None else said,
            }
        )
    return rows


def _far(found: Mapping[str, float], main: str, effect: float) -> bool:
    return p_of(main) in found and found[p_of(main)] < 0.001 and effect >= EFFECT_FLOOR[1]
