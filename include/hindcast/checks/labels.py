"""Drift of the label: the truth of a window, once it is known, beside the reference's and that of earlier hours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hindcast.checks.segments import seasonal_hours
from hindcast.drift import significance, statistics
from hindcast.drift.measures import GROUPS
from hindcast.drift.policy import LEAST_ROWS
from hindcast.performance.evaluation import labels_from_bytes
from hindcast.profile.bins import LABEL
from hindcast.results import tables

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from hindcast.checks.run import Run
    from hindcast.performance.evaluation import Evaluation
    from hindcast.profile.bins import Bins
    from hindcast.window import Window

    Row = dict[str, Any]
    Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

_EFFECT = "jensen_shannon_distance"
# As of the other rows that no policy decides about.
_P = 0.001


def label_of(bins: Bins) -> str:
    """What the label is called in results: a feature may have its name.

    Examples
    --------
    >>> from hindcast.profile.bins import Bins
    >>> label_of(Bins((), (), (), ())), label_of(Bins((), (), ("feature_ground_truth",), ((),)))
    ('ground_truth', 'ground_truth (output)')
    """
    return f"{LABEL} (output)" if f"feature_{LABEL}" in {*bins.numeric, *bins.categorical} else LABEL


def label_rows(
    run: Run, window: Window, age: int, found: Evaluation | None, writes: Sequence[tuple[str, Row, list[Row]]] = ()
) -> tuple[str, Row, list[Row]]:
    """What is written to `drift` of the labels of a window at the largest label age, when they are all that will come.

    Parameters
    ----------
    found : Evaluation or None
        None where too few labels are known to tell anything.
    writes : sequence of (table name, key, rows)
        What the same check is about to write: earlier windows that it judges for the first time are a baseline too.
    """
    name = label_of(run.reference.bins)
    key = {"model_name": run.model.model, "window_start": window.start, "feature": name, "scale_hours": 1}
    if found is None or not found.labels:
        return "drift", key, []
    shared = {**key, "segment": "*", "model_version": found.versions[0] if len(found.versions) == 1 else "*"}
    rows: list[Row] = []
    outcomes = ((of, new) for table, of, new in writes if table == "outcomes" and of["label_age_hours"] == age)
    fresh = {of["window_start"]: new for of, new in outcomes}
    for baseline in run.model.drift.baselines:
        then, says = _baseline(run, window, age, baseline, fresh)
        if then:
            said = f"labels {age} h old, against {says}"
            rows += [{**shared, "baseline": baseline, **row} for row in _compared(run, found.labels, then, said)]
    return "drift", key, rows


def _baseline(
    run: Run, window: Window, age: int, baseline: str, fresh: Mapping[datetime, list[Row]]
) -> tuple[dict[str, int], str]:
    """Labels of a baseline: of the reference, if it has them; of earlier hours at the same age, stored or `fresh`."""
    if baseline == "reference":
        return _of_reference(run), "the reference"
    hours: Sequence[datetime] = ()
    if baseline != "previous_version":
        hours, says = seasonal_hours(run, baseline, window.start)
    if not hours:
        return {}, ""
    key: Row = {"model_name": run.model.model, "label_age_hours": age}
    stored = run.store.rows(tables.outcomes, **key, window_start=[hour for hour in hours if hour not in fresh])
    total: dict[str, int] = {}
    for row in (*stored, *(row for hour in hours for row in fresh.get(hour, ()))):
        for label, rows in labels_from_bytes(row["outcomes"]).items():
            total[label] = total.get(label, 0) + rows
    return total, says


def _of_reference(run: Run) -> dict[str, int]:
    bins, profile = run.reference.bins, run.reference.profile
    if LABEL in bins.numeric:
        counts = profile.numeric[bins.numeric.index(LABEL), : bins.width].tolist()
        return {str(k): n for k, n in enumerate(counts) if n}
    if LABEL not in bins.categorical:
        return {}
    i = bins.categorical.index(LABEL)
    return {v: n for v, n in zip(bins.categories[i], profile.categorical[i].tolist(), strict=False) if n}


def _compared(run: Run, now: Mapping[str, int], then: Mapping[str, int], said: str) -> list[Row]:
    """Rows of the statistics of two sets of labels: Kolmogorov-Smirnov for numbers, chi-square for classes."""
    numeric = run.model.task == "regression"
    names = sorted({*now, *then}, key=lambda name: (int(name), name) if numeric else (0, name))
    a, b = (np.array([[side.get(name, 0) for name in names]], np.float64) for side in (then, now))
    n, m = b.sum(axis=1), a.sum(axis=1)
    if numeric:
        statistic = statistics.ks_statistic(a, b)
        metric, pvalue = "ks_statistic", significance.ks_pvalue(statistic, n, m)
        effect = statistics.jensen_shannon_distance(*statistics.merge_bins(a, b, groups=GROUPS))
    else:
        pooled = statistics.pool_rare(a, b)
        statistic = statistics.chi2_statistic(*pooled)
        metric, pvalue = "chi2_statistic", significance.chi2_pvalue(statistic, statistics.degrees_of_freedom(*pooled))
        effect = statistics.jensen_shannon_distance(a, b)
    floor, few = run.model.drift.effect_floor, min(n[0], m[0]) < LEAST_ROWS
    status, reason = "ok", said
    if few:
        status, reason = "insufficient_data", f"{min(n[0], m[0]):.0f} labels; {LEAST_ROWS} are needed; {said}"
    elif len(names) == 1:
        status, reason = "constant", f"one value; {said}"
    known = status == "ok" and bool(np.isfinite(statistic[0]))
    shared = {"status": status, "reason": reason, "n_current": float(n[0]), "n_baseline": float(m[0])}
    shared["drifted"] = bool(pvalue[0] < _P and effect[0] >= floor) if known else None
    return [
        {
            **shared,
            "metric": metric,
            "value": float(statistic[0]) if known else None,
            "p_value": float(pvalue[0]) if known else None,
        },
        {**shared, "metric": _EFFECT, "value": float(effect[0]) if known else None, "threshold": floor},
    ]
