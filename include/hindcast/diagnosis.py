"""Diagnosis: which part of the traffic an incident comes from, and what changed with it.

Each segment is held against itself in the days before, and against the rest of the traffic meanwhile: that tells a
local cause (one carrier's outage) from a general one (a storm), even when the whole did as well as ever.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from hindcast.checks.evaluation import segment_score, sums_from_bytes
from hindcast.checks.performance import PRIMARY
from hindcast.checks.segments import drifted_segments
from hindcast.drift.sliced import EFFECT
from hindcast.metrics import METRICS
from hindcast.profile.bins import outputs_among
from hindcast.results import tables
from hindcast.window import HOUR
from hindcast.window import text as time_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from hindcast.config import ModelFile
    from hindcast.results.sql import Store

_NAMED = 3
_SHOWN = 6
_LEAST_ROWS = 10
_CONSPICUOUS = 3.5


@dataclass(frozen=True)
class Part:
    """A segment in the period and in the days before.

    `share` is its part of what the segments of its column lost; `sigmas` by how many standard errors it fell further
    than the rest of the traffic.
    """

    segment: str
    rows: int
    value: float
    baseline: float
    share: float
    sigmas: float

    @property
    def says(self) -> str:
        """In words."""
        change = f", {(self.value - self.baseline) / abs(self.baseline):+.0%}" if self.baseline else ""
        far = f", {self.sigmas:.1f} standard errors beyond the rest" if self.sigmas >= 1 else ""
        return f"{self.segment}: {self.value:.3g} against {self.baseline:.3g}{change}, {self.rows} labels{far}"


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
    segments: list[str] = field(default_factory=list)
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
        lines += ["Drifted in segments:", *(f"  {item}" for item in self.segments)] if self.segments else []
        for title, found in (("Drifted", self.drifted), ("Data quality", self.failed), ("Alerts", self.alerts)):
            lines += [f"{title}:", *(f"  {item}" for item in found)] if found else [f"{title}: nothing"]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """For machines."""
        content = asdict(self)
        return {**content, "start": self.start.isoformat(), "end": self.end.isoformat(), "text": self.text}


def diagnose(
    store: Store, model: ModelFile, start: datetime, end: datetime, alerts: Sequence[Mapping[str, Any]] | None = None,
    *, known: datetime | None = None,
) -> Diagnosis:  # fmt: skip
    """Look back at a period.

    Parameters
    ----------
    start, end : datetime
        Windows that start in ``[start, end)``.
    alerts : sequence of rows of the table `alerts`, optional
        Of the period, where they are about to be written; else those that stand in the table.
    known : datetime, optional
        Labels that were judged by a later window's run do not exist.
    """
    metric = PRIMARY[model.task]
    age, now, then = _periods(store, model, start, end, known)
    value, baseline = _whole(model.task, now), _whole(model.task, then)
    parts = _parts(model, now, then)
    drifted, failed = _findings(store, model, start, end)
    segments = _segments(store, model, start, end)
    if alerts is None:
        alerts = store.rows(tables.alerts, tables.alerts.c.opened_at <= end, model_name=model.model)
    open_then = [a for a in alerts if a["resolved_at"] is None or a["resolved_at"] > start]
    from hindcast.incidents import symptom

    return Diagnosis(
        model.model, start, end, metric, age, value, baseline, parts, drifted, segments, failed,
        [f"since {time_text(a['opened_at'])}: {symptom(a)}" for a in open_then],
        _cause(metric, value, baseline, parts, drifted or segments, failed),
    )  # fmt: skip


def _periods(
    store: Store, model: ModelFile, start: datetime, end: datetime, known: datetime | None
) -> tuple[int | None, Any, Any]:
    """Label age with the most windows of the period (the greatest of equals), sums of it and of the days before."""
    table = tables.outcomes
    rows = store.rows(table, table.c.window_start >= start, table.c.window_start < end, model_name=model.model)
    if known:
        rows = [row for row in rows if row["window_start"] + (1 + row["label_age_hours"]) * HOUR <= known]
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
    """The segments that got worse, most conspicuous first."""
    if not (now.get("*", [0])[0] and then.get("*", [0])[0]):
        return []
    sign = 1.0 if METRICS[PRIMARY[model.task]].worse == "lower" else -1.0
    found, lost = [], dict[str, float]()
    for name in now:
        if name == "*" or now[name][0] < _LEAST_ROWS or not then.get(name, [0])[0]:
            continue
        value, baseline = now[name][1] / now[name][0], then[name][1] / then[name][0]
        own = sign * (baseline - value)
        if own > 0:
            column = name.split("=", 1)[0]
            lost[column] = lost.get(column, 0.0) + own * now[name][0]
            found.append((name, value, baseline, own, _sigmas(sign, own, name, now, then)))
    parts = [
        Part(name, int(now[name][0]), value, baseline, own * now[name][0] / lost[name.split("=", 1)[0]], sigmas)
        for name, value, baseline, own, sigmas in found
    ]
    return sorted(parts, key=lambda p: (-p.sigmas, p.segment))[:_SHOWN]


def _sigmas(
    sign: float, own: float, name: str, now: Mapping[str, Sequence[float]], then: Mapping[str, Sequence[float]]
) -> float:
    """Standard errors by which a segment fell further than the rest; rows count as independent: it ranks, no more."""
    rest = [now["*"][k] - now[name][k] for k in range(3)], [then["*"][k] - then[name][k] for k in range(3)]
    shared, variance = 0.0, _variance(now[name], then[name])
    if rest[0][0] and rest[1][0]:
        shared = max(0.0, sign * (rest[1][1] / rest[1][0] - rest[0][1] / rest[0][0]))
        variance += _variance(*rest)
    return float(max(0.0, own - shared) / variance**0.5)


def _variance(now: Sequence[float], then: Sequence[float]) -> float:
    """Variance of a change of the mean; a small period may show less spread than there is, a bad one has more."""
    spreads = [max(squares / n - (total / n) ** 2, 1e-12) for n, total, squares in (now, then)]
    return max(spreads) / now[0] + spreads[1] / then[0]


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


def _segments(store: Store, model: ModelFile, start: datetime, end: datetime) -> list[str]:
    """Features that drifted in a segment and not in the whole, by the baseline of earlier hours where there is one."""
    table = tables.drift
    within = (table.c.window_start >= start, table.c.window_start < end)
    rows = store.rows(table, *within, model_name=model.model, metric=EFFECT, scale_hours=1, drifted=True)
    whole = {(row["window_start"], row["feature"]) for row in rows if row["segment"] == "*"}
    own = [row for row in rows if (row["window_start"], row["feature"]) not in whole]
    seasonal = [row for row in own if row["baseline"] == "seasonal"]
    found = drifted_segments(seasonal or own)[:_SHOWN]
    return [
        f"{row['segment']}: {row['feature']}, {'1 hour' if hours == 1 else f'{hours} hours'}, Jensen-Shannon distance "
        f"{row['value']:.2g} ({row['reason']})"
        for row, hours in found
    ]


def _cause(
    metric: str,
    value: float | None,
    baseline: float | None,
    parts: Sequence[Part],
    drifted: Sequence[str],
    failed: Sequence[str],
) -> str:
    """The most specific thing that the figures support."""
    causes = []
    if failed:
        causes.append(f"broken data: {failed[0]}" + (f", and {len(failed) - 1} more" if len(failed) > 1 else ""))
    harm = METRICS[metric].worse
    lost = value is not None and baseline is not None and (value < baseline if harm == "lower" else value > baseline)
    local = [part for part in parts if part.sigmas >= _CONSPICUOUS]
    # One column tells it best: the carrier, rather than the airport that this carrier flies from.
    column = local[0].segment.split("=", 1)[0] if local else ""
    named = [part for part in local if part.segment.split("=", 1)[0] == column][:_NAMED]
    if named:
        share = sum(part.share for part in named)
        fell = " and ".join(f"{part.segment} ({part.value:.2g} against {part.baseline:.2g})" for part in named)
        rest = "the rest of the traffic suffered less" if lost else "the rest of the traffic did as well as ever"
        causes.append(f"local to {fell}: {share:.0%} of what any {column} lost; {rest}")
    if not causes and drifted:
        names = list(dict.fromkeys(d.split(":")[0] for d in drifted))
        outputs = outputs_among(names)
        inputs = [name for name in names if name not in outputs]
        what = f"inputs changed ({'; '.join(inputs[:5])})"
        if not inputs:
            what = f"outputs changed ({'; '.join(names[:5])}), while no input alone did"
        causes.append(what + ("" if lost else f", and {metric} did not suffer"))
    if not causes and lost:
        causes.append("the whole of the traffic, while no input changed: the relation between inputs and outcome did")
    return "; ".join(causes) or "nothing stands out"
