"""drift: the window against reference and seasonal baseline, every textbook statistic, and the policy's decision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hindcast.checks.run import Result, Run
from hindcast.drift import statistics
from hindcast.drift.baseline import TIERS, Totals, comparisons
from hindcast.drift.policy import EFFECT_FLOOR, LEAST_ROWS, Decision, Series, decide, pseudo_hours, series_of
from hindcast.profile.profile import INVALID, NEW, NULL, Profile, Sparse
from hindcast.profile.scan import MISSING
from hindcast.results import tables
from hindcast.spread import REMEMBERED, Memory, overlapping
from hindcast.window import HOUR

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from hindcast.drift.baseline import Comparison

    Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

_METRIC = {"missing": "missing_ratio_change", "new": "new_category_ratio_change"}
PSI_GROUPS = 10


def check(run: Run) -> Result:
    """Compare, decide, and remember."""
    pulled = run.pulled
    if not pulled["rows"]:
        # Nothing new is known of any feature; the 6 and 24 hours were judged at the last hour that had rows.
        if run.memories.get("drift to") == run.window.start:
            run.memories["drift to"] = run.window.end
        return Result("drift", "ok", "no rows", tuple((name, key, []) for name, key in _keys(run)), {"drifted": []})
    series = series_of(run.reference.bins)
    past = _memories(run, series)
    compared = _comparisons(run, run.window.start, past, series)
    decisions, memory = decide(
        series,
        compared,
        list(past.values()),
        recent=overlapping(list(past), run.window.start),
        budget_per_week=run.model.drift.budget_false_alarms_per_week,
        pseudo=_pseudo(run, series),
    )
    run.memories["drift"] = {**past, run.window.start: memory}
    run.memories["drift to"] = run.window.end
    rows = _rows(run, compared, decisions, pulled["model_version"])
    findings = [_finding(run, decision) for decision in decisions if decision.drifted]
    drifted = sorted({finding["subject"] for finding in findings})
    names = [s.name for s in series]
    learnt = _new_memories(run, past, series)
    learnt.append({**run.key, "check": "drift", "content": memory.to_bytes(names)})
    hours = [row["window_start"] for row in learnt]
    writes = (
        ("drift", run.key, rows),
        ("findings", {**run.key, "check": "drift"}, findings),
        ("memory", {"model_name": run.model.model, "window_start": hours, "check": "drift"}, learnt),
    )
    status, reason = "ok", ""
    if rows and all(row["status"] != "ok" for row in rows):
        status, reason = "insufficient_data", rows[0]["reason"]
    return Result("drift", status, reason, writes, {"drifted": drifted})


def _keys(run: Run) -> list[tuple[str, dict[str, Any]]]:
    """Under which the window's rows of this check stand."""
    own = {**run.key, "check": "drift"}
    return [("drift", run.key), ("findings", own), ("memory", own)]


def reference_totals(run: Run) -> Totals:
    """The reference as a baseline.

    A category that it holds once counts as new there: of what a sample has not seen there is as much as of what it has
    seen once (Good, 1953), and without this every value of a column of many values is news.
    """
    if "reference" not in run.memories:
        totals, depth = Totals(run.reference.bins), run.reference.bins.depth
        totals.add(Sparse.from_bytes(run.reference.profile.to_bytes(), run.reference.bins))
        known = totals.categorical[:, :depth]
        totals.categorical[:, depth + NEW] += (known == 1).sum(axis=1)
        known[known == 1] = 0
        run.memories["reference"] = totals
    held: Totals = run.memories["reference"]
    return held


def _pseudo(run: Run, series: Sequence[Series]) -> Memory:
    held: dict[str, Memory] = run.memories.setdefault("pseudo", {})
    digest = run.reference.digest
    if digest not in held:
        held[digest] = pseudo_hours(series, run.reference.spans, reference_totals(run))
    return held[digest]


def _comparisons(
    run: Run, start: datetime, past: Mapping[datetime, Memory], series: Sequence[Series]
) -> list[Comparison]:
    flags = {}
    bins = run.reference.bins
    columns = {name: i for i, name in enumerate((*bins.numeric, *bins.categorical))}
    for hour, memory in past.items():
        flagged = memory.flagged()
        if flagged.any():
            mask = np.zeros(len(columns), bool)
            mask[[columns[series[j].column] for j in np.flatnonzero(flagged).tolist()]] = True
            flags[hour] = mask
    return comparisons(
        start, run.history, reference_totals(run), flags, run.model.zone, weeks=run.model.drift.seasonal_weeks
    )


def _memories(run: Run, series: Sequence[Series]) -> dict[datetime, Memory]:
    """Memories of the two weeks before, oldest first; hours that were only profiled are measured now, silently."""
    first, last = run.window.start - REMEMBERED * HOUR, run.window.start
    held: dict[datetime, Memory] = run.memories.get("drift", {})
    if held and run.memories.get("drift to") == last:
        return {hour: memory for hour, memory in held.items() if first <= hour < last}
    table, names = tables.memory, [s.name for s in series]
    rows = run.store.rows(
        table,
        table.c.window_start >= first,
        table.c.window_start < last,
        model_name=run.model.model,
        check="drift",
    )
    past = {row["window_start"]: Memory.from_bytes(row["content"], names) for row in rows}
    run.memories["stored"] = set(past)
    known = run.history.rows(first + k * HOUR for k in range(REMEMBERED))
    hour = first
    while hour < last:
        if hour not in past and known[hour]:
            before = {h: m for h, m in past.items() if h < hour}
            compared = _comparisons(run, hour, before, series)
            _, memory = decide(
                series, compared, list(before.values()), recent=overlapping(list(before), hour), budget_per_week=1e-9
            )
            past[hour] = memory
        hour += HOUR
    return dict(sorted(past.items()))


def _new_memories(run: Run, past: Mapping[datetime, Memory], series: Sequence[Series]) -> list[dict[str, Any]]:
    stored = run.memories.get("stored", set(past))
    names = [s.name for s in series]
    new = [hour for hour in past if hour not in stored]
    run.memories["stored"] = set(past) | {run.window.start}
    key = {"model_name": run.model.model, "check": "drift"}
    return [{**key, "window_start": hour, "content": past[hour].to_bytes(names)} for hour in new]


def _finding(run: Run, decision: Decision) -> dict[str, Any]:
    metric = _METRIC.get(decision.series.kind)
    metric = metric or ("ks_statistic" if decision.series.kind == "ks" else "phi_squared")
    return {
        **run.key,
        "check": "drift",
        # A feature that goes missing is one alert, whether a limit or its own history noticed.
        "kind": "quality" if decision.series.kind == "missing" else "drift",
        "subject": decision.series.column.removeprefix("feature_"),
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
    """One-hour rows: each feature, against the reference and against the best seasonal baseline there is."""
    hourly = {c.tier: c for c in compared if c.scale == 1}
    decided = {d.series.name: d for d in decisions if d.scale == 1}
    chosen = {
        "reference": hourly.get("reference"),
        "seasonal": next((hourly[tier] for tier in TIERS[:-1] if tier in hourly), None),
    }
    rows = []
    for baseline, comparison in chosen.items():
        if comparison is None:
            continue
        measured = _measure(comparison)
        for name in run.reference.features:
            column = f"feature_{name}"
            status, reason = status_of(run.profile, run.reference.profile, column)
            found = measured.get(column, {})
            n, m = found.get("n", 0.0), found.get("m", 0.0)
            if status == "ok" and min(n, m) < LEAST_ROWS:
                status, reason = "insufficient_data", f"{min(n, m):.0f} values; {LEAST_ROWS} are needed"
            decision = decided.get((column, "ks")) or decided.get((column, "phi"))
            if status == "ok" and decision and decision.drifted is None and decision.tier == comparison.tier:
                status, reason = "insufficient_data", decision.reason
            rows += _metric_rows(run, name, baseline, comparison, found, decision, status, reason, version)
    crowded = run.reference.high_cardinality
    for row in rows:
        share = crowded.get(f"feature_{row['feature']}")
        if share:
            row["reason"] += f"; {share:.0%} of the reference's rows have a value without a bin: these count as one"
    return rows


def _metric_rows(
    run: Run, name: str, baseline: str, comparison: Comparison, found: Mapping[str, Any],
    decision: Decision | None, status: str, reason: str, version: str,
) -> list[dict[str, Any]]:  # fmt: skip
    kind = "ks" if f"feature_{name}" in run.reference.bins.numeric else "phi"
    main = "ks_statistic" if kind == "ks" else "chi2_statistic"
    metrics = [main, "population_stability_index", "jensen_shannon_distance"]
    if kind == "ks":
        metrics.append("wasserstein_normalized")
    seasonal = decision is not None and decision.tier == comparison.tier
    effect = found.get("wasserstein_normalized" if kind == "ks" else "jensen_shannon_distance", float("nan"))
    drifted = None
    if status == "ok":
        # Beside the baseline that decides, the reference is judged by textbook and effect: shown, waking nobody.
        drifted = bool(decision.drifted) if seasonal and decision else bool(_far(found, main, effect))
    rows = []
    for metric in metrics:
        value = found.get(metric)
        usable = value is not None and np.isfinite(value)
        threshold = None
        if metric == main and seasonal and decision and kind == "ks":
            threshold = decision.threshold
        elif metric in {"wasserstein_normalized", "jensen_shannon_distance"} and (
            metric != "jensen_shannon_distance" or kind == "phi"
        ):
            threshold = EFFECT_FLOOR[1]
        shown = status if usable or status != "ok" else "insufficient_data"
        undefined = "" if usable else f"not defined for these counts, against {comparison.says}"
        rows.append(
            {
                **run.key,
                "model_version": version,
                "segment": "*",
                "feature": name,
                "baseline": baseline,
                "scale_hours": 1,
                "metric": metric,
                "value": float(value)
                if value is not None and usable and status in {"ok", "constant", "type_changed"}
                else None,
                "threshold": threshold,
                "p_value": found.get("p") if metric == main and status == "ok" else None,
                "drifted": drifted,
                "status": shown,
                "n_current": found.get("n"),
                "n_baseline": found.get("m"),
                "reason": reason
                or undefined
                or (decision.reason if decision and seasonal else "")
                or f"against {comparison.says}",
            }
        )
    return rows


def _far(found: Mapping[str, Any], main: str, effect: float) -> bool:
    if "p" not in found or not np.isfinite(found["p"]) or not np.isfinite(effect):
        return False
    return bool(found["p"] < 0.001 and effect >= EFFECT_FLOOR[1] and found.get(main) is not None)


def _measure(comparison: Comparison) -> dict[str, dict[str, float]]:
    """Every textbook statistic of every column, from the bins."""
    now, then, bins = comparison.current, comparison.baseline, comparison.current.bins
    found: dict[str, dict[str, float]] = {}
    if bins.numeric:
        a, b = then.numeric[:, : bins.width], now.numeric[:, : bins.width]
        edges = bins.padded_edges
        ks = statistics.ks_statistic(a, b)
        n, m = b.sum(axis=1), a.sum(axis=1)
        scale = statistics.binned_std(edges, a, then.values)
        grouped = statistics.merge_bins(a, b, groups=PSI_GROUPS)
        columns = {
            "n": n,
            "m": m,
            "ks_statistic": ks,
            "p": statistics.ks_pvalue(ks, n, m),
            "population_stability_index": statistics.population_stability_index(*grouped),
            "jensen_shannon_distance": statistics.jensen_shannon_distance(*grouped),
            "wasserstein_normalized": statistics.wasserstein_normalized(
                edges, a, then.values, b, now.values, scale=np.where(scale > 0, scale, np.nan)
            ),
        }
        for i, name in enumerate(bins.numeric):
            found[name] = {key: float(values[i]) for key, values in columns.items()}
    if bins.categorical:
        a, b = then.categorical, now.categorical
        pooled = statistics.pool_rare(a, b)
        chi2, df = statistics.chi2_statistic(*pooled), statistics.degrees_of_freedom(*pooled)
        columns = {
            "n": b.sum(axis=1),
            "m": a.sum(axis=1),
            "chi2_statistic": chi2,
            "p": statistics.chi2_pvalue(chi2, df),
            "population_stability_index": statistics.population_stability_index(*pooled),
            "jensen_shannon_distance": statistics.jensen_shannon_distance(a, b),
        }
        for i, name in enumerate(bins.categorical):
            found[name] = {key: float(values[i]) for key, values in columns.items()}
    return found


def status_of(profile: Profile, reference: Profile, column: str) -> tuple[str, str]:
    """What can be said of a column of the window at all.

    Returns
    -------
    status and reason; ``ok`` with no reason when its distribution can be compared.
    """
    types = profile.types.get(column, {})
    bins = profile.bins
    if column not in bins.numeric and column not in bins.categorical:
        return "insufficient_data", "the reference has no values of it"
    if profile.rows and set(types) == {MISSING}:
        return "missing_column", f"no log file of the window has the column {column}"
    numeric = column in bins.numeric
    i = (bins.numeric if numeric else bins.categorical).index(column)
    counts = profile.numeric[i] if numeric else profile.categorical[i]
    null, invalid = (bins.width + NULL, bins.width + INVALID) if numeric else (bins.depth + 1, bins.depth + 2)
    if counts[invalid]:
        return "type_changed", f"{counts[invalid]} values are no {'numbers' if numeric else 'text'}: {', '.join(types)}"
    if profile.rows and counts[null] == counts.sum():
        return "all_null", "every value is null"
    then = reference.numeric[i, : bins.width] if numeric else reference.categorical[i]
    same = np.count_nonzero(then) == 1 and np.array_equal(counts[: then.size] > 0, then > 0)
    return ("constant", "one value, in the reference and in the window") if same else ("ok", "")
