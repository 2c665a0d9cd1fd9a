"""multivariate: the rows of a day, or of any hours, against reference and trailing days, all features at once.

Not a check of a window: it runs once a day, or when somebody asks, on the samples that `pull` kept. What it finds is
shown and wakes nobody; docs/multivariate.md says why.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hindcast.checks.reference import reference_sample
from hindcast.checks.run import Run
from hindcast.drift import moments, multivariate
from hindcast.drift.multivariate import Rows
from hindcast.errors import NotEnoughData, UsageError
from hindcast.profile.columns import as_text, buffer_values, common_type, conformed, nulls, numbers
from hindcast.results import tables
from hindcast.window import HOUR, Window, text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from hindcast.config import Feature, ModelFile
    from hindcast.results.sql import Row, Store

    Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
    Integers = np.ndarray[tuple[int, ...], np.dtype[np.int64]]

DAY = timedelta(days=1)
TRAILING = 6 * DAY  # samples of these days are always still there (hindcast.maintenance.Keep)
HISTORY = 28 * DAY
LEAST_ROWS = 100
ALPHA = 0.001
AUC_FLOOR, CORRELATION_FLOOR = 0.55, 0.10
NAMED = 5
ERROR, AUC, IMPORTANCE, CORRELATION = (
    "pca_reconstruction_error",
    "domain_classifier_auc",
    "domain_classifier_importance",
    "correlation_change",
)


@dataclass(frozen=True)
class Pair:
    """Baseline and window over the features that both have: the numeric names first, as in `Rows`."""

    names: Sequence[str]
    then: Rows
    now: Rows
    unusable: Mapping[str, tuple[str, str]]  # feature -> status, reason


@dataclass(frozen=True)
class Found:
    """One number about all features, the limits between which nothing is said, and a row for each feature.

    `significant` is what its own test says; `features` are metric and columns of a row by feature.
    """

    value: float
    low: float
    high: float
    significant: bool
    says: str
    features: Mapping[str, Mapping[str, Any]]
    p_value: float | None = None


def judge_day(store: Store, model: ModelFile, day: datetime) -> dict[str, Any]:
    """`judge` the UTC day that starts at `day`."""
    return judge(store, model, day, day + DAY)


def judge(store: Store, model: ModelFile, start: datetime, end: datetime) -> dict[str, Any]:
    """Compare the sampled rows of the hours ``[start, end)`` with both baselines, and replace their rows.

    Returns
    -------
    dict
        `status` (ok or insufficient_data), `reason`, `rows` (of the sample), `drifted` (metrics that left their limits,
        by baseline) and `found`: the rows about all features, as stored.

    Raises
    ------
    UsageError
        No whole hour lies between.
    SourceMissing, SourceUnreadable
        The reference is not there.
    """
    scale = int((end - start) / HOUR)
    if scale < 1:
        message = f"no whole hour lies from {text(start)} to {text(end)} (exclusive)"
        raise UsageError(message)
    if scale == 1:  # its rows would stand among those of the hourly check
        reason = "a single hour has too few rows; give at least two"
        return {"status": "insufficient_data", "reason": reason, "rows": 0, "drifted": [], "found": []}
    run = Run(model, Window(end - HOUR), end, store)
    base: Row = {"model_name": model.model, "window_start": start, "scale_hours": scale, "segment": "*"}
    current, version, note = sampled(run, start, end)
    logs = run.logs if model.reference.uri is None else None
    baselines = {"reference": reference_sample(model, store, logs, run.reference)}
    trailing, _, _ = sampled(run, start - TRAILING, start)
    if trailing.num_rows:
        baselines["seasonal"] = trailing
    rows: list[Row] = []
    for name, table in baselines.items():
        own = {**base, "model_version": version, "baseline": name, "config_digest": model.digest}
        rows += compared(run.reference.features, table, current, own, _history(run, {**base, "baseline": name}), note)
    key = {**base, "metric": [ERROR, AUC, IMPORTANCE, CORRELATION]}
    store.write(lambda connection: store.replace(connection, tables.drift, rows, **key), model.model)
    return _facts(rows, current.num_rows)


def _facts(rows: Sequence[Row], n: int) -> dict[str, Any]:
    found = [row for row in rows if row["feature"] == "*"]
    drifted = [f"{row['metric']} ({row['baseline']})" for row in found if row["drifted"]]
    judged = any(row["status"] == "ok" for row in found)
    shown = ("baseline", "metric", "value", "threshold", "p_value", "drifted", "status", "reason")
    return {
        "status": "ok" if judged else "insufficient_data",
        "reason": "" if judged else found[0]["reason"],
        "rows": n,
        "drifted": drifted,
        "found": [{name: row[name] for name in shown} for row in found],
    }


def lines(facts: Mapping[str, Any]) -> list[str]:
    """What `judge` found, as people read it."""
    said = [] if facts["found"] else [f"{facts['status']}: {facts['reason']}"]
    for row in facts["found"]:
        state = ("drifted" if row["drifted"] else "ok") if row["status"] == "ok" else row["status"]
        value = "" if row["value"] is None else f"{row['value']:.4g} "
        said.append(f"{row['baseline']:<9} {row['metric']:<26} {state:<8} {value}({row['reason']})")
    return said


def _history(run: Run, key: Mapping[str, Any]) -> dict[str, list[float]]:
    """Values of earlier windows of the same length against the same baseline, by metric."""
    columns, start = tables.drift.c, key["window_start"]
    within = (columns.window_start >= start - HISTORY, columns.window_start < start, columns.value.is_not(None))
    wanted = {name: value for name, value in key.items() if name != "window_start"}
    metrics = [ERROR, AUC, CORRELATION]
    earlier = run.store.rows(tables.drift, *within, columns=("metric", "value"), feature="*", metric=metrics, **wanted)
    return {metric: [row["value"] for row in earlier if row["metric"] == metric] for metric in metrics}


# --- samples ---


def sampled(run: Run, start: datetime, end: datetime) -> tuple[pa.Table, str | None, str]:
    """Rows of the hours ``[start, end)`` from the samples of their windows, in order of time.

    The rows of a window's sample are ordered by a hash of their ids: the first ones are a sample of the window too.
    Each window gives its first rows, as many as its share of all rows, `explain.sample_rows` in total.

    Returns
    -------
    table with a column per feature, the newest window's model version, and what is missing in words
    """
    moment = tables.windows.c.window_start
    wanted = ("window_start", "rows", "model_version")
    within = (moment >= start, moment < end, tables.windows.c.rows > 0)
    windows = run.store.rows(tables.windows, *within, columns=wanted, model_name=run.model.model)
    paths = [run.artifact("samples", ".parquet", Window(row["window_start"])) for row in windows]
    there = [(row["rows"], path) for row, path in zip(windows, paths, strict=True) if path.exists()]
    gone = len(windows) - len(there)
    note = f"; {gone} of {len(windows)} hours have no sample any more" if gone else ""
    version = windows[-1]["model_version"] if windows else None
    if not there:
        return pa.table({}), version, note
    shares = quotas([rows for rows, _ in there], run.model.explain.sample_rows)
    return _union([pq.read_table(path).slice(0, n) for (_, path), n in zip(there, shares, strict=True)]), version, note


def quotas(rows: Sequence[int], size: int) -> list[int]:
    """How many of each part's rows make up a sample of `size` rows, in proportion; the largest remainders round up.

    Examples
    --------
    >>> quotas([100, 50, 51], 20), quotas([3, 4], 20)
    ([10, 5, 5], [3, 4])
    """
    total = sum(rows)
    if total <= size:
        return list(rows)
    found = [size * n // total for n in rows]
    remainders = [-(size * n % total) for n in rows]
    for at in np.argsort(remainders, kind="stable")[: size - sum(found)].tolist():
        found[at] += 1
    return found


def _union(parts: Sequence[pa.Table]) -> pa.Table:
    """One table; a column that a part lacks is null there, of types that differ the common one."""
    columns = {}
    for name in sorted({name for part in parts for name in part.column_names}):
        found = [
            part.column(name).combine_chunks() if name in part.column_names else pa.nulls(part.num_rows)
            for part in parts
        ]
        kind = reduce(common_type, [values.type for values in found])
        columns[name] = pa.concat_arrays([conformed(values, kind) for values in found])
    return pa.table(columns)


def prepare(features: Mapping[str, Feature], baseline: pa.Table, current: pa.Table) -> Pair:
    """The features that both tables have values of, as numbers."""
    unusable: dict[str, tuple[str, str]] = {}
    numeric: dict[str, tuple[Any, Any]] = {}
    categorical: dict[str, tuple[Any, Any]] = {}
    for name, feature in features.items():
        status = _status(name, baseline, current)
        if status is None:
            then, now = (table.column(name).combine_chunks() for table in (baseline, current))
            number = feature.type == "numeric"
            found = (_numbers(then), _numbers(now)) if number else _codes(then, now)
            status = _judged_values(found, len(then), len(now), number=number)
            if number and status is None:
                found = _in_one_unit(*found)
            (numeric if number else categorical)[name] = found
        if status is not None:
            unusable[name] = status
    names = [name for kept in (numeric, categorical) for name in kept if name not in unusable]
    sides = []
    for side, table in enumerate((baseline, current)):
        values = [numeric[name][side] for name in names if name in numeric]
        codes = [categorical[name][side] for name in names if name in categorical]
        n = table.num_rows
        sides.append(Rows(np.array(values, float).reshape(-1, n).T, np.array(codes, np.int64).reshape(-1, n).T))
    return Pair(names, sides[0], sides[1], unusable)


def _status(name: str, baseline: pa.Table, current: pa.Table) -> tuple[str, str] | None:
    """Status and reason of a feature that cannot be read, before its values are looked at."""
    if name not in current.column_names:
        return "missing_column", "no row of the sample has the column"
    if current.column(name).null_count == current.num_rows:
        return "all_null", "every value is null"
    if name not in baseline.column_names or baseline.column(name).null_count == baseline.num_rows:
        return "insufficient_data", "the baseline has no values of it"
    return None


def _judged_values(found: tuple[Any, Any], n: int, m: int, *, number: bool) -> tuple[str, str] | None:
    """Status and reason of a feature whose values cannot be compared."""
    if any(side is None for side in found):
        return "type_changed", f"values are no {'numbers' if number else 'text'}"
    kept = [side[~np.isnan(side)] if number else side[side >= 0] for side in found]
    if not kept[1].size:
        return "all_null", "no value is finite"
    if not kept[0].size:
        return "insufficient_data", "the baseline has no finite values of it"
    full = kept[0].size + kept[1].size == n + m
    if full and np.unique(np.concatenate(kept)).size == 1:
        return "constant", "one value, in the baseline and in the window"
    return None


def _in_one_unit(then: Floats, now: Floats) -> tuple[Floats, Floats]:
    """Both sides of a feature over their largest value, if its square is no number: none of the three has a unit."""
    unit = moments.unit_of(max(np.nanmax(np.abs(side)) for side in (then, now)))
    return then / unit, now / unit


def _numbers(values: pa.Array) -> Floats | None:
    """Values as float64, NaN where there is none or it is not finite; None where the type holds no numbers."""
    found = numbers(values)
    if found is None:
        return None
    floats: Floats = np.array(found, np.float64)
    absent = nulls(values)
    if absent is not None:
        floats[absent] = np.nan
    floats[~np.isfinite(floats)] = np.nan
    return floats


def _codes(then: pa.Array, now: pa.Array) -> tuple[Integers | None, Integers | None]:
    """Positions of both sides' categories in one dictionary, -1 for null; None where they have no text form."""
    texts = [as_text(then), as_text(now)]
    if any(side is None for side in texts):
        return None, None
    indices = pa.concat_arrays(texts).dictionary_encode().indices
    codes: Integers = buffer_values(indices, np.int32).astype(np.int64)
    absent = nulls(indices)
    if absent is not None:
        codes[absent] = -1
    return codes[: len(then)], codes[len(then) :]


# --- the three ---


def reconstruction(pair: Pair) -> Found:
    """PCA reconstruction error against the limits of the baseline's chunks."""
    pca = multivariate.fit_pca(pair.then)
    low, high = multivariate.chunk_limits(multivariate.held_out_errors(pair.then))
    before, after = (np.abs(pca.residuals(side)).mean(axis=0).tolist() for side in (pair.then, pair.now))
    order = np.argsort(-np.abs(np.subtract(after, before)), kind="stable")[:NAMED].tolist()
    named = ", ".join(f"{pair.names[i]} ({before[i]:.2f} to {after[i]:.2f})" for i in order)
    features = {
        name: {"metric": ERROR, "value": after[i], "reason": f"{before[i]:.4g} in the baseline"}
        for i, name in enumerate(pair.names)
    }
    kept, error = len(pca.components), pca.sampling_error(len(pair.now))
    says = f"limits {low:.4g} to {high:.4g}; sampling error {error:.2g}; {kept} components; changed most: {named}"
    return Found(pca.error(pair.now), low, high, significant=True, says=says, features=features)


def separation(pair: Pair) -> Found:
    """AUC of a classifier that tells window from baseline."""
    found = multivariate.domain_classifier(pair.then, pair.now)
    shares = found.importance.tolist()
    order = np.argsort(-found.importance, kind="stable")[:NAMED].tolist()
    named = ", ".join(f"{pair.names[i]} ({shares[i]:.0%})" for i in order)
    features = {
        name: {"metric": IMPORTANCE, "value": shares[i], "reason": "share of the classifier's gain"}
        for i, name in enumerate(pair.names)
    }
    says = f"95 % interval {found.lower:.3f} to {found.upper:.3f}; gain from: {named}"
    significant = found.p_value < ALPHA
    return Found(found.auc, -np.inf, AUC_FLOOR, significant, says, features, p_value=found.p_value)


def correlations(pair: Pair) -> Found:
    """The largest change of a rank correlation that chance does not explain."""
    changes = multivariate.correlation_change(pair.then.numeric, pair.now.numeric)
    real = sorted((c for c in changes if c.p_value < ALPHA), key=lambda c: -c.change)
    worst = (real or changes)[0]

    def words(c: multivariate.PairChange) -> str:
        return f"{pair.names[c.first]} with {pair.names[c.second]} {c.before:.2f} to {c.after:.2f}"

    features: dict[str, dict[str, Any]] = {}
    for c in [*real, *changes]:
        for i, other in ((c.first, c.second), (c.second, c.first)):
            far = c.p_value < ALPHA and c.change >= CORRELATION_FLOOR
            says = f"with {pair.names[other]}: {c.before:.2f} to {c.after:.2f}"
            row = {"metric": CORRELATION, "value": c.change, "p_value": c.p_value, "drifted": far, "reason": says}
            features.setdefault(pair.names[i], row)
    says = f"{len(real)} of {len(changes)} pairs changed; most: {', '.join(map(words, real[:NAMED] or changes[:1]))}"
    return Found(worst.change, -np.inf, CORRELATION_FLOOR, bool(real), says, features, p_value=worst.p_value)


METHODS: dict[str, Callable[[Pair], Found]] = {ERROR: reconstruction, AUC: separation, CORRELATION: correlations}


def compared(
    features: Mapping[str, Feature], baseline: pa.Table, current: pa.Table, base: Row,
    history: Mapping[str, Sequence[float]], note: str = "",
) -> list[Row]:  # fmt: skip
    """Rows of every method against one baseline: one about all features, then one per feature.

    Parameters
    ----------
    features : mapping of str to Feature
    baseline, current : Table
        A column per feature.
    base : dict
        What every row begins with.
    history : mapping
        Earlier values by metric: they widen the limits.
    note : str
        Appended to the reason of each row about all features.
    """
    n, m = current.num_rows, baseline.num_rows
    empty = {**dict.fromkeys(("value", "threshold", "p_value", "drifted")), "n_current": n, "n_baseline": m}
    base = {**base, **empty, "status": "ok"}
    whole = [{**base, "feature": "*", "metric": metric} for metric in METHODS]
    if min(n, m) < LEAST_ROWS:
        reason = f"{min(n, m)} rows in the smaller sample; {LEAST_ROWS} are needed{note}"
        return [{**row, "status": "insufficient_data", "reason": reason} for row in whole]
    pair = prepare(features, baseline, current)
    if pair.unusable:
        note += "; left out: " + ", ".join(f"{name} ({status})" for name, (status, _) in pair.unusable.items())
    rows = _unusable_rows(base, pair, features)
    for row in whole:
        try:
            found = METHODS[row["metric"]](pair)
        except NotEnoughData as error:
            rows.append({**row, "status": "insufficient_data", "reason": f"{error}{note}"})
            continue
        except ImportError as error:
            rows.append({**row, "status": "error", "reason": f"{error}; install hindcast[checks]{note}"})
            continue
        rows.append({**row, **_verdict(found, history.get(row["metric"], []), note)})
        rows += [{**base, "feature": name, **columns} for name, columns in found.features.items()]
    return rows


def _unusable_rows(base: Row, pair: Pair, features: Mapping[str, Feature]) -> list[Row]:
    """A row of every metric for every feature that was left out."""
    rows = []
    for name, (status, reason) in pair.unusable.items():
        metrics = [ERROR, IMPORTANCE, *([CORRELATION] if features[name].type == "numeric" else [])]
        rows += [{**base, "feature": name, "metric": metric, "status": status, "reason": reason} for metric in metrics]
    return rows


def _verdict(found: Found, earlier: Sequence[float], note: str) -> Row:
    """Value, limit and whether it was left: the method's own limits, widened to where earlier windows lay."""
    low, high = found.low, found.high
    said = f"; {len(earlier)} earlier windows, {multivariate.LEAST_HISTORY} are needed to know the usual spread"
    lived = multivariate.history_limits(earlier)
    if lived:
        low, high = min(low, lived[0]), max(high, lived[1])
        said = f"; limits widened to the spread of {len(earlier)} earlier windows"
    outside = not low <= found.value <= high
    return {
        "value": found.value,
        "threshold": low if found.value < (low + high) / 2 else high,
        "p_value": found.p_value,
        "drifted": outside and found.significant,
        "reason": found.says + said + note,
    }
