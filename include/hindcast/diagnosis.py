"""Diagnosis: which part of the traffic an incident comes from, and what changed with it.

The loss of a period is split over the segments: each segment's rows times how much worse it did than in the week before.
What is left when the worst segments are set aside tells a local cause (one carrier's outage) from a general one.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from hindcast.checks.evaluation import segment_score, sums_from_bytes
from hindcast.checks.performance import PRIMARY
from hindcast.metrics import METRICS
from hindcast.results import tables
from hindcast.window import text as time_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from hindcast.config import ModelFile
    from hindcast.results.sql import Store

_NAMED = 3
_LEAST_ROWS = 5
_MOST_OF_IT = 0.5


@dataclass(frozen=True)
class Part:
    """A segment in the period and in the days before; `share` is its part of the model's loss."""

    segment: str
    rows: int
    value: float
    baseline: float
    share: float

    @property
    def says(self) -> str:
        """In words."""
        change = f", {(self.value - self.baseline) / abs(self.baseline):+.0%}" if self.baseline else ""
        return f"{self.segment}: {self.value:.3g} against {self.baseline:.3g}{change}, {self.rows} labels, {self.share:.0%} of the loss"


@dataclass(frozen=True)
class Diagnosis:
    """What happened between two moments, and where."""

    model: str
    start: datetime
    end: datetime
    metric: str
    label_age_hours: int | None
    value: float | None
    baseline: float | None
    parts: list[Part] = field(default_factory=list)
    drifted: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    alerts: list[str] = field(default_factory=list)
    cause: str = ""

    @property
    def text(self) -> str:
        """The whole of it, for people."""
        lines = [f"{self.model}, {time_text(self.start)} to {time_text(self.end)}"]
        if self.value is None or self.baseline is None:
            lines.append(f"{self.metric}: no labels to compare in this period")
        else:
            change = f" ({(self.value - self.baseline) / abs(self.baseline):+.1%})" if self.baseline else ""
            age = f", labels {self.label_age_hours} h old" if self.label_age_hours is not None else ""
            lines.append(f"{self.metric}: {self.value:.3g} against {self.baseline:.3g} in the days before{change}{age}")
        lines.append(f"Likely cause: {self.cause}")
        lines += [f"  {part.says}" for part in self.parts]
        for title, found in (("Drifted", self.drifted), ("Data quality", self.failed), ("Alerts", self.alerts)):
            lines += [f"{title}:", *(f"  {item}" for item in found)] if found else [f"{title}: nothing"]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """For machines."""
        content = asdict(self)
        return {**content, "start": self.start.isoformat(), "end": self.end.isoformat(), "text": self.text}


def diagnose(store: Store, model: ModelFile, start: datetime, end: datetime) -> Diagnosis:
    """Look back at a period.

    Parameters
    ----------
    start, end : datetime
        Windows that start in ``[start, end)``.
    """
    metric = PRIMARY[model.task]
    age, now, then = _periods(store, model, start, end)
    value, baseline = _whole(model.task, now), _whole(model.task, then)
    parts = _parts(model, now, then)
    drifted, failed = _findings(store, model, start, end)
    alerts = store.rows(tables.alerts, tables.alerts.c.opened_at <= end, model_name=model.model)
    open_then = [a for a in alerts if a["resolved_at"] is None or a["resolved_at"] > start]
    from hindcast.incidents import symptom

    return Diagnosis(
        model.model, start, end, metric, age, value, baseline, parts, drifted, failed,
        [f"since {time_text(a['opened_at'])}: {symptom(a)}" for a in open_then],
        _cause(metric, value, baseline, parts, drifted, failed),
    )  # fmt: skip


def _periods(store: Store, model: ModelFile, start: datetime, end: datetime) -> tuple[int | None, Any, Any]:
    """Label age with the most windows of the period (the greatest of equals), sums of the period and of the days before."""
    table = tables.outcomes
    rows = store.rows(table, table.c.window_start >= start, table.c.window_start < end, model_name=model.model)
    counted: dict[int, int] = {}
    for row in rows:
        counted[row["label_age_hours"]] = counted.get(row["label_age_hours"], 0) + 1
    if not counted:
        return None, {}, {}
    age = max(counted, key=lambda a: (counted[a], a))
    first = start - timedelta(days=model.performance.baseline_days)
    before = store.rows(
        table, table.c.window_start >= first, table.c.window_start < start, model_name=model.model, label_age_hours=age
    )
    return age, _sums([r for r in rows if r["label_age_hours"] == age]), _sums(before)


def _sums(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Rows, sum and sum of squares of the primary metric's term: of the whole, ``*``, and of every segment."""
    sums: dict[str, list[float]] = {}
    for row in rows:
        for name, values in sums_from_bytes(row["outcomes"])[1].items():
            total = sums.setdefault(name, [0.0, 0.0, 0.0])
            for k in range(3):
                total[k] += values[k]
    return sums


def _whole(task: str, sums: Mapping[str, Sequence[float]]) -> float | None:
    return segment_score(task, sums["*"]).value if "*" in sums else None


def _parts(model: ModelFile, now: Mapping[str, Sequence[float]], then: Mapping[str, Sequence[float]]) -> list[Part]:
    """The segments that lost most, worst first."""
    if "*" not in now or "*" not in then:
        return []
    sign = 1.0 if METRICS[PRIMARY[model.task]].worse == "lower" else -1.0
    mean = {name: sums[1] / sums[0] for name, sums in now.items() if sums[0]}
    base = {name: sums[1] / sums[0] for name, sums in then.items() if sums[0]}
    if "*" not in mean or "*" not in base:
        return []
    lost = sign * (base["*"] - mean["*"]) * now["*"][0]
    found = []
    for name in mean:
        if name == "*" or name not in base or now[name][0] < _LEAST_ROWS:
            continue
        own = sign * (base[name] - mean[name]) * now[name][0]
        found.append(Part(name, int(now[name][0]), mean[name], base[name], own / lost if lost > 0 else 0.0))
    found.sort(key=lambda p: (-sign * (p.baseline - p.value) * p.rows, p.segment))
    return [p for p in found if sign * (p.baseline - p.value) > 0][: 2 * _NAMED]


def _findings(store: Store, model: ModelFile, start: datetime, end: datetime) -> tuple[list[str], list[str]]:
    table = tables.findings
    rows = store.rows(table, table.c.window_start >= start, table.c.window_start < end, model_name=model.model)
    drifted: dict[str, str] = {}
    failed: dict[str, str] = {}
    for row in rows:
        into = drifted if row["check"] == "drift" else failed if row["check"] == "quality" else None
        if into is not None:
            title = METRICS[row["metric"]].title if row["metric"] in METRICS else row["metric"]
            into.setdefault(f"{row['subject']} {row['metric']}", f"{row['subject']}: {title} ({row['reason']})")
    return sorted(drifted.values()), sorted(failed.values())


def _cause(
    metric: str, value: float | None, baseline: float | None, parts: Sequence[Part], drifted: Sequence[str], failed: Sequence[str]
) -> str:
    """The most specific thing that the figures support."""
    if failed:
        return f"broken data: {failed[0]}" + (f", and {len(failed) - 1} more" if len(failed) > 1 else "")
    harm = METRICS[metric].worse
    lost = value is not None and baseline is not None and (value < baseline if harm == "lower" else value > baseline)
    if not lost:
        changed = f"inputs changed ({drifted[0]}), and {metric} did not suffer" if drifted else "nothing stands out"
        return changed
    by_column: dict[str, list[Part]] = {}
    for part in parts:
        by_column.setdefault(part.segment.split("=", 1)[0], []).append(part)
    for members in sorted(by_column.values(), key=lambda ms: -sum(m.share for m in ms[:_NAMED])):
        local = [m for m in members if m.share >= _MOST_OF_IT / _NAMED][:_NAMED]
        share = sum(m.share for m in local)
        if local and share >= _MOST_OF_IT and _stand_out(local, value or 0.0, baseline or 0.0):
            names = " and ".join(m.segment for m in local)
            return f"local to {names}: {min(share, 1.0):.0%} of the loss of {metric} lies there"
    if drifted:
        return f"the whole of the traffic, with changed inputs: {'; '.join(d.split(':')[0] for d in drifted[:5])}"
    return "the whole of the traffic, while no input changed: the relation between inputs and outcome did"


def _stand_out(local: Sequence[Part], value: float, baseline: float) -> bool:
    """A segment explains a loss when it fell at least half as much again as the whole did."""
    whole = abs(value - baseline)
    rows = sum(p.rows for p in local)
    return sum(abs(p.value - p.baseline) * p.rows for p in local) / max(rows, 1) >= 1.5 * whole
