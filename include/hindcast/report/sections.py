"""What each section of a report shows: pure functions from the rows read to table rows, charts and sentences."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from hindcast.metrics import METRICS
from hindcast.report import charts
from hindcast.report.reading import SMALL_MULTIPLES, deciding_drift, primary_metric
from hindcast.report.words import because, counted, number, percent, plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from hindcast.config import ModelFile
    from hindcast.report.reading import Period, Read
    from hindcast.results.sql import Row

Section = dict[str, Any]
# More rows than this in a heat map or a bar chart cannot be read; the tables have them all.
MAX_FEATURES = 30
MAX_SEGMENTS = 50


def worst_hours(rows: Iterable[Row], key: tuple[str, ...], badness: Callable[[Row], float]) -> list[Row]:
    """Per key the row of its worst hour, with the number of `hours` and of those `marked` as bad; worst first.

    Examples
    --------
    >>> rows = [{"feature": "a", "value": v, "status": "ok", "drifted": v > 2} for v in (1, 3, 2)]
    >>> worst_hours(rows, ("feature",), lambda row: row["value"])
    [{'feature': 'a', 'value': 3, 'status': 'ok', 'drifted': True, 'hours': 3, 'marked': 1}]
    """
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in key), []).append(row)
    ranked = sorted(((max(group, key=badness), group) for group in groups.values()), key=lambda pair: -badness(pair[0]))
    return [{**worst, "hours": len(group), "marked": sum(_marked(row) for row in group)} for worst, group in ranked]


def _marked(row: Row) -> bool:
    return bool(row.get("drifted")) or row["status"] not in {"ok", "insufficient_data"}


def _reasons(rows: Iterable[Row]) -> list[tuple[str, int]]:
    """Why rows have no value, and how many: the commonest five."""
    return Counter(because(row) for row in rows).most_common(5)


def performance(model: ModelFile, period: Period, read: Read, alerts: Sequence[Row]) -> Section:
    """Section on performance: a chart per metric, the metrics of all rows, and the segments, worst first."""
    primary = primary_metric(model)
    # Alerts of the history that were over before the period have no number and keep their own end.
    known = {alert["alert_id"]: alert for alert in alerts}
    spans = [
        known.get(alert["alert_id"], {**alert, "number": None, "until": alert["resolved_at"]}) for alert in read.alerts
    ]
    drawn = [_metric(metric, period, read, spans, primary=metric == primary) for metric in (primary, *SMALL_MULTIPLES)]
    of_all = [row for row in read.performance if row["segment"] == "*"]
    segments = [row for row in read.performance if row["segment"] != "*" and row["metric"] == primary]

    def harm(row: Row) -> float:
        return _harm(model, row)

    def evident_harm(row: Row) -> float:
        # A segment of three rows may change by anything; one whose interval excludes the baseline did change.
        return harm(row) + (1e6 if harm(row) > 0 and _excludes_baseline(row) else 0)

    order = {metric: place for place, metric in enumerate((primary, *METRICS))}
    metrics = worst_hours(of_all, ("metric", "model_version"), harm)
    return {
        "primary": primary,
        "charts": [chart for chart in drawn if chart["figure"] or chart["metric"] == primary],
        "metrics": sorted(metrics, key=lambda row: (order.get(row["metric"], len(order)), row["metric"])),
        "segments": worst_hours(
            (row for row in segments if row["change_percent"] is not None), ("segment", "model_version"), evident_harm
        ),
        "segments_unjudged": _reasons(row for row in segments if row["change_percent"] is None),
    }


def _excludes_baseline(row: Row) -> bool:
    below = row["upper"] is not None and row["upper"] < row["baseline"]
    return below or (row["lower"] is not None and row["lower"] > row["baseline"])


def _harm(model: ModelFile, row: Row) -> float:
    """Change in the direction that harms, in percent; what has no direction harms either way."""
    change = float(row["change_percent"] or 0)
    known: Any = METRICS.get(row["metric"]) or model.business.get(row["metric"])
    return {"lower": -change, "higher": change}.get(known and known.worse, abs(change))


def _metric(metric: str, period: Period, read: Read, spans: Sequence[Row], *, primary: bool) -> Section:
    """One chart: the primary metric's carries every alert but drift's, which has its own section."""
    rows = [row for row in read.past_performance if row["metric"] == metric]
    mine = [alert for alert in spans if alert["metric"] == metric or (primary and alert["kind"] != "drift")]
    figure = charts.metric_chart(rows, period.chart_hours, mine, coverage=primary) if rows else None
    return {"metric": metric, "said": _said_of_metric(rows, period), "figure": figure}


def _said_of_metric(rows: Sequence[Row], period: Period) -> str:
    """One sentence instead of the chart: where the metric stands, and between what it moved."""
    values = [row for row in rows if row["value"] is not None]
    # An hour with one label in fifty is drawn, but it is not where the metric stands.
    values = [row for row in values if row["status"] == "ok"] or values
    if not values:
        return f"No hour has a value{f' ({plain(because(rows[-1]))})' if rows else ''}."
    last, low, high = values[-1], min(row["value"] for row in values), max(row["value"] for row in values)
    late = last["window_start"] < rows[-1]["window_start"] or last["window_start"] < period.start
    at = f" at {last['window_start']:%d %b %H:%M} UTC, the last hour that could be judged" if late else ""
    baseline = "" if last["baseline"] is None else f", baseline {number(last['baseline'])}"
    change = "" if last["change_percent"] is None else f" ({percent(last['change_percent'])})"
    reach = f"{number(low)} to {number(high)} over {counted(len(values), 'hour')}"
    return f"{number(last['value'])}{at}{baseline}{change}; {reach}."


def drift(period: Period, read: Read) -> Section:
    """Section on drift: a heat map per baseline, and the worst hour of every feature and metric."""
    maps = []
    for baseline in ("seasonal", "reference"):
        rows = [row for row in read.past_drift if row["baseline"] == baseline]
        features = _by_drift(rows, period)
        figure = charts.heat_map(rows, period.chart_hours, features[:MAX_FEATURES]) if rows else None
        said = _said_of_drift(rows, period, hidden=max(0, len(features) - MAX_FEATURES))
        maps.append({"baseline": baseline, "said": said, "figure": figure})
    judged = deciding_drift(read.drift)
    chosen = {id(row) for row in judged}
    others = [row for row in read.drift if id(row) not in chosen]
    key = ("feature", "baseline", "metric")
    drifted = [row for row in read.segment_drift if row["drifted"]]
    return {
        "maps": maps,
        "judged": worst_hours(judged, key, _excess),
        "others": worst_hours(others, key, _excess),
        "segments": worst_hours(drifted, ("segment", "feature", "baseline"), _excess)[:MAX_SEGMENTS],
        "segments_compared": len({row["segment"] for row in read.segment_drift}),
        "multivariate": [row for row in read.multivariate if row["feature"] == "*"],
    }


def _by_drift(rows: Sequence[Row], period: Period) -> list[str]:
    """Features by the hours they drifted in the period, then in the history, then by value over threshold."""
    recent = Counter(row["feature"] for row in rows if row["drifted"] and row["window_start"] >= period.start)
    ever = Counter(row["feature"] for row in rows if row["drifted"])
    reach: dict[str, float] = {}
    for row in rows:
        reach[row["feature"]] = max(reach.get(row["feature"], -1.0), _excess(row))
    return sorted(reach, key=lambda feature: (-recent[feature], -ever[feature], -reach[feature], feature))


def _excess(row: Row) -> float:
    """Rank of a drift row: what drifted, then by value over threshold, at last what was not judged."""
    if row["value"] is None:
        return -1.0
    ratio = float(row["value"] / row["threshold"]) if row["threshold"] else 0.0
    return ratio + (1e6 if row["drifted"] else 0.0)


def _said_of_drift(rows: Sequence[Row], period: Period, hidden: int) -> str:
    """One sentence or two instead of the heat map."""
    if not rows:
        return "No rows: nothing was compared with this baseline."
    now = [row for row in rows if row["window_start"] >= period.start]
    drifted = Counter(plain(row["feature"], limit=60) for row in now if row["drifted"])
    unjudged = {row["feature"] for row in now} - {row["feature"] for row in now if row["value"] is not None}
    often = [f"{name} ({counted(n, 'hour')})" if period.hours > 1 else name for name, n in drifted.most_common(5)]
    names = ", ".join(often) + (f" and {len(drifted) - len(often)} more" if len(drifted) > len(often) else "")
    said = (
        f"{counted(len(drifted), 'feature')} drifted in this period: {names}."
        if drifted
        else "No feature drifted in this period."
    )
    said += f" {counted(len(unjudged), 'feature')} could not be judged." if unjudged else ""
    return said + (f" Left out: {counted(hidden, 'feature')} that moved less." if hidden else "")


def importance(model: ModelFile, read: Read) -> Section:
    """Section on importance: the newest window of the period that has any."""
    known = [row for row in read.importance if row["importance"] is not None]
    newest = max((row["window_start"] for row in known), default=None)
    ranked = [row for row in known if row["window_start"] == newest]
    ranked.sort(key=lambda row: (row["rank"] is None, row["rank"], row["feature"]))
    return {
        "rows": ranked,
        "at": newest,
        "figure": charts.importance_chart(ranked[:MAX_FEATURES]) if ranked else None,
        "configured": model.explain.model is not None,
        "unjudged": _reasons(row for row in read.importance if row["importance"] is None),
    }


_SOUND = {"ok": 0, "insufficient_data": 1, "constant": 2, "new_column": 2}


def quality(read: Read) -> Section:
    """Section on quality: what failed first, and how many results there are of each status."""
    worst = worst_hours(read.quality, ("subject", "metric"), lambda row: _SOUND.get(row["status"], 3))
    counts = Counter(row["status"] for row in read.quality)
    return {
        "rows": [row for row in worst if row["status"] != "ok"],
        "sound": [row for row in worst if row["status"] == "ok"],
        "counts": sorted(counts.items(), key=lambda pair: (-_SOUND.get(pair[0], 3), -pair[1], pair[0])),
    }
