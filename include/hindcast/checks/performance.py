"""performance: the window against its labels, earlier windows whose labels have ripened, and degradation."""

from __future__ import annotations

from datetime import timedelta
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from hindcast.checks.evaluation import Evaluation, evaluate, segment_score, sums_from_bytes
from hindcast.checks.labels import label_rows
from hindcast.checks.levels import accepted, hours_before, just_accepted, left_out
from hindcast.checks.run import Result, Run, settle
from hindcast.performance.degradation import LEAST_ROWS, SCALES, Pair, Verdict, change_percent, judge
from hindcast.performance.intervals import Score
from hindcast.performance.outcomes import Outcomes
from hindcast.results import tables
from hindcast.spread import REMEMBERED, Memory, overlapping
from hindcast.window import HOUR, Window

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    Name = tuple[str, str]

PRIMARY = {"binary": "accuracy", "multiclass": "accuracy", "regression": "mean_absolute_error"}
BY_TASK = {
    "binary": ("accuracy", "precision", "recall", "f1", "roc_auc", "average_precision", "brier_score_loss", "log_loss"),
    "multiclass": ("accuracy", "precision", "recall", "f1", "roc_auc", "log_loss"),
    "regression": ("mean_absolute_error", "root_mean_squared_error", "mean_absolute_percentage_error", "r2"),
}
SERVICE = ("latency_p50_ms", "latency_p95_ms", "latency_p99_ms", "request_count", "error_rate")
# Precision, F1 and average precision follow the share of positives, which is no fault of the model: they are shown, and
# judged only where the model file asks for them.
_JUDGED = {
    "binary": ("accuracy", "recall", "roc_auc", "brier_score_loss", "log_loss"),
    "multiclass": ("accuracy", "log_loss"),
    "regression": ("mean_absolute_error", "root_mean_squared_error"),
}
_JUDGED_SERVICE = ("latency_p95_ms", "error_rate")


def check(run: Run) -> Result:
    """Evaluate the window at every label age that has passed, and the windows that reach an age now."""
    pulled = run.pulled
    writes: list[tuple[str, dict[str, Any], list[dict[str, Any]]]] = []
    degraded: set[str] = set()
    facts: dict[str, Any] = {}
    for window, aged in groupby(evaluations(run), key=itemgetter(0)):
        ages = list(aged)
        found: Sequence[Evaluation | None] = evaluate(run, window, [moment for _, _, moment in ages]) or [None] * len(
            ages
        )
        for (_, age, moment), evaluation in zip(ages, found, strict=True):
            for earlier in _unjudged(run, window, age, moment):
                writes += _silent(run, earlier, age).writes()
            if evaluation is None and window != run.window:
                continue
            judged = _Judged(run, window, age, moment, evaluation)
            writes += judged.writes()
            degraded |= {f"{f['segment']} {f['metric']}" for f in judged.findings}
            if age == max(run.model.performance.label_ages_hours):
                writes.append(label_rows(run, window, age, evaluation if judged.mature else None, writes))
            if evaluation and window == run.window:
                facts[f"label_coverage_{age}h"] = round(evaluation.coverage, 4)
    facts["degraded"] = sorted(degraded)
    return Result("performance", "ok", "" if pulled["rows"] else "no rows", writes, facts)


def rejudged(run: Run) -> list[dict[str, Any]]:
    """Findings of what `check` judges, from stored outcomes and service figures: no logs are read, nothing is written.

    What was never judged, or had too few labels under the model file of then, stays so.
    """
    findings: list[dict[str, Any]] = []
    for window, age, moment in evaluations(run):
        found = _stored(run, window, age)
        if found:
            findings += _Judged(run, window, age, moment, found[0], service=found[1]).findings
    return findings


def _stored(run: Run, window: Window, age: int) -> tuple[Evaluation, dict[str, Score]] | None:
    """A window's evaluation and service, as far as the policy reads them; None where it was not judged at this age."""
    key: dict[str, Any] = {"model_name": run.model.model, "window_start": window.start}
    aged = {**key, "label_age_hours": age}
    known = run.store.rows(tables.memory, **key, check=f"performance@{age}")
    if not known:
        return None
    outcomes = run.store.rows(tables.outcomes, **aged)
    total, sums = sums_from_bytes(outcomes[0]["outcomes"]) if outcomes else (Outcomes(run.model.task), {})
    segments = {name: sums.get(name, (0.0, 0.0, 0.0)) for name in ("*", *_segments(known[0]["content"]))}
    rows = run.store.rows(tables.performance, **aged, segment="*")
    coverage = max((row["label_coverage"] or 0.0 for row in rows), default=0.0) if outcomes else 0.0
    service = {
        row["metric"]: Score(row["value"], row["lower"], row["upper"], row["n"], row["reason"] or "not stored")
        for row in rows
        if row["metric"] in SERVICE
    }
    return Evaluation(total, {}, coverage, segments), service


def _segments(content: bytes) -> list[str]:
    """Segments that were judged, in their order."""
    return [segment for segment, _ in Memory.names_in(content) if segment != "*"]


def _silent(run: Run, window: Window, age: int) -> _Judged:
    """Judge an earlier window at an age, to learn from it only."""
    moment = window.end + settle(run.model) + timedelta(hours=age)
    found = evaluate(run, window, [moment])
    return _Judged(run, window, age, moment, found[0] if found else None, silent=True)


def evaluations(run: Run) -> list[tuple[Window, int, datetime]]:
    """What a run judges: (window, label age in hours, moment as of which labels are known), oldest window first."""
    settled = run.window.end + settle(run.model)
    found = []
    for age in run.model.performance.label_ages_hours:
        moment = settled + timedelta(hours=age)
        if age == 0 or moment <= run.as_of:
            found.append((run.window, age, min(moment, run.as_of)))
        if age > 0 and settled <= run.as_of:
            found.append((run.window - age, age, settled))
    return sorted(found)


def _unjudged(run: Run, window: Window, age: int, moment: datetime) -> list[Window]:
    """Windows of the two weeks before, pulled and never judged at this age, oldest first: history to learn from."""
    series, table, key = f"performance@{age}", tables.windows, {"model_name": run.model.model}
    follows = run.memories.get(f"{series} to") == window.start
    run.memories[f"{series} to"] = window.end
    if follows:  # a replay: nothing lies between this window and the one just judged
        return []
    known: set[datetime] = run.memories.setdefault(f"{series} known", set())
    first, last = window.start - REMEMBERED * HOUR, window.start
    ripe = moment - settle(run.model) - timedelta(hours=age + 1)
    where = (table.c.window_start >= first, table.c.window_start < last, table.c.window_start <= ripe, table.c.rows > 0)
    pulled = {row["window_start"] for row in run.store.rows(table, *where, columns=("window_start",), **key)}
    if not pulled <= known:
        memory = tables.memory
        within = (memory.c.window_start >= first, memory.c.window_start < last)
        rows = run.store.rows(memory, *within, columns=("window_start",), check=series, **key)
        known |= {row["window_start"] for row in rows}
    missing = sorted(pulled - known)
    known |= {*missing, window.start}
    return [Window(start) for start in missing]


class _Judged:
    """One window at one label age: rows, findings, memory; `silent` raises nothing and only learns."""

    def __init__(
        self,
        run: Run,
        window: Window,
        age: int,
        moment: datetime,
        evaluation: Evaluation | None,
        *,
        silent: bool = False,
        service: dict[str, Score] | None = None,
    ) -> None:
        self.silent = silent
        self.run, self.window, self.age, self.moment = run, window, age, moment
        self.key = {"model_name": run.model.model, "window_start": window.start}
        self.evaluation = evaluation
        self.service = service or {}
        if evaluation and age == 0 and service is None:
            self.service = evaluation.service.scores()
        self.mature = bool(
            self.evaluation
            and self.evaluation.outcomes.n
            and self.evaluation.coverage >= run.model.performance.min_label_coverage
        )
        self.names: list[Name] = []
        self.verdicts: dict[tuple[str, str, int], Verdict] = {}
        self.findings: list[dict[str, Any]] = []
        self.memory: Memory | None = None
        if self.evaluation:
            self._judge()

    def writes(self) -> list[tuple[str, dict[str, Any], list[dict[str, Any]]]]:
        """Everything that this part replaces."""
        aged = {**self.key, "label_age_hours": self.age}
        rows = self._rows() if self.evaluation else []
        outcomes, memory = [], []
        if self.evaluation and self.mature:
            outcomes = [{**aged, "outcomes": self.evaluation.to_bytes()}]
        if self.memory is not None:
            memory = [{**self.key, "check": self._series, "content": self.memory.to_bytes(self.names)}]
        return [
            ("performance", aged, rows),
            ("outcomes", aged, outcomes),
            ("memory", {**self.key, "check": self._series}, memory),
            ("findings", {**aged, "check": "performance"}, self.findings),
        ]

    @property
    def _series(self) -> str:
        return f"performance@{self.age}"

    def _judge(self) -> None:
        run, evaluation = self.run, self.evaluation
        if evaluation is None:
            return
        settings, task = run.model.performance, run.model.task
        metrics = [m for m in (settings.metrics or _JUDGED[task]) if m in BY_TASK[task]]
        self.names = [("*", metric) for metric in metrics]
        self.names += [(segment, PRIMARY[task]) for segment in evaluation.segments if segment != "*"]
        if self.age == 0:
            self.names += [("*", metric) for metric in _JUDGED_SERVICE]
        past = self._remembered()
        known = self._accepted()
        flagged = self._left_out(past, known)
        before = list(past.values())
        fresh = just_accepted(known, max(past, default=None))
        if before and fresh:
            before[-1] = before[-1].accept(np.array([segment in fresh for segment, _ in self.names]))
        pairs = [*self._label_pairs(flagged), *self._service_pairs(flagged)]
        verdicts, self.memory = judge(
            pairs,
            before,
            self.names,
            recent=overlapping(list(past), self.window.start),
            threshold=settings.threshold,
            critical=settings.critical,
            budget_per_week=1e-9 if self.silent else run.model.drift.budget_false_alarms_per_week,
            planned=self._planned(),
            accepted_after=None,
        )
        run.memories[self._series] = (tuple(self.names), {**past, self.window.start: self.memory})
        self.verdicts = {(*v.pair.name, v.pair.scale): v for v in verdicts}  # type: ignore[misc]
        self.findings = [self._finding(v) for v in verdicts if v.severity]

    def _accepted(self) -> dict[str, dict[str, Any]]:
        """Segment -> its newest acceptance; what is accepted for the whole traffic is so for each part of it."""
        known = accepted(self.run.acceptances, ("performance",), self.window.start)
        if "*" in known:
            newest = {segment: known.get(segment, known["*"]) for segment, _ in self.names}
            known = {s: max(row, known["*"], key=lambda each: each["accepted_at"]) for s, row in newest.items()}
        return known

    def _left_out(self, past: Mapping[datetime, Memory], known: Mapping[str, Any]) -> dict[datetime, frozenset[str]]:
        """Segments that an hour of the baseline says nothing usual about."""
        inside = {hour: {self.names[j][0] for j in np.flatnonzero(m.flagged(None))} for hour, m in past.items()}
        segments = list(dict.fromkeys(segment for segment, _ in self.names))
        reach = hours_before(self.window.start, self.run.model.performance.baseline_days * 24 + max(SCALES))
        return left_out(reach, inside, known, self.run.model.calendar, segments)

    def _planned(self) -> Any:
        """Per scale and series, whether the window holds a planned hour; None where none does."""
        calendar, start = self.run.model.calendar, self.window.start
        if not any(calendar.within(start - k * HOUR) for k in range(max(SCALES))):
            return None
        return np.array([[bool(calendar.planned(s, start, scale)) for s, _ in self.names] for scale in SCALES])

    def _remembered(self) -> dict[datetime, Memory]:
        first, last = self.window.start - REMEMBERED * HOUR, self.window.start
        names, held = self.run.memories.get(self._series, ((), {}))
        held = held if names == tuple(self.names) else {}
        since, past = _continued(held, first, last)
        if since < last:
            table = tables.memory
            where = (table.c.window_start >= since, table.c.window_start < last)
            rows = self.run.store.rows(table, *where, model_name=self.run.model.model, check=self._series)
            past.update({row["window_start"]: Memory.from_bytes(row["content"], self.names) for row in rows})
        return past

    def _label_pairs(self, flagged: Mapping[datetime, frozenset[str]]) -> Iterable[Pair]:
        """Whole window and segments, at each scale, beside the days before."""
        if not self.mature or self.evaluation is None:
            return
        past = self._past()
        past[self.window.start] = (self.evaluation.outcomes, self.evaluation.segments)
        task, days = self.run.model.task, self.run.model.performance.baseline_days
        metrics = [metric for segment, metric in self.names if segment == "*" and metric not in SERVICE]
        segments = list(self.evaluation.segments)
        table = self._table(segments, past)
        for scale in SCALES:
            since = self.window.start - (scale - 1) * HOUR
            now = [hour for hour in past if since <= hour]
            then = [hour for hour in past if since - days * 24 * HOUR <= hour < since]
            good = [hour for hour in then if "*" not in flagged.get(hour, ())]
            current = sum((past[h][0] for h in now), Outcomes(task)).scores()
            baseline = self._pooled(good, past).scores()
            for metric in metrics:
                yield Pair("*", metric, scale, _enough_of_each(current, metric), baseline[metric], len(good))
            keep = np.ones((len(then), len(segments)), bool)
            for i, hour in enumerate(then):
                if hour in flagged:
                    keep[i] = [segment not in flagged[hour] for segment in segments]
            stack = np.array([table[h] for h in then]).reshape(len(then), len(segments), 3) * keep[:, :, None]
            present = np.array([table[h] for h in now]).sum(axis=0)
            total, hours = stack.sum(axis=0), (stack[:, :, 0] > 0).sum(axis=0)
            whole = segments.index("*")
            both = keep & keep[:, [whole]]
            beside = ((stack[:, [whole]] - stack) * both[:, :, None]).sum(axis=0)
            for j, segment in enumerate(segments):
                if j != whole:
                    pair = (segment_score(task, present[j]), segment_score(task, total[j]), int(hours[j]))
                    rest = (segment_score(task, present[whole] - present[j]), segment_score(task, beside[j]))
                    yield Pair(segment, PRIMARY[task], scale, *pair, rest)

    def _table(self, segments: Sequence[str], past: Mapping[datetime, Any]) -> dict[datetime, Any]:
        """Hour -> the sums of every segment, (n_segments, 3); kept for the next window."""
        held, known = self.run.memories.get(("segment sums", self.age), ((), {}))
        known = known if held == tuple(segments) else {}
        table = {
            hour: known[hour] if hour in known else np.array([sums.get(s, (0, 0, 0)) for s in segments])
            for hour, (_, sums) in past.items()
        }
        earlier = {hour: sums for hour, sums in table.items() if hour != self.window.start}
        self.run.memories["segment sums", self.age] = (tuple(segments), earlier)
        return table

    def _past(self) -> dict[datetime, Any]:
        """Outcomes of the hours before at this age, oldest first."""
        days = self.run.model.performance.baseline_days
        first, last = self.window.start - (days * 24 + max(SCALES)) * HOUR, self.window.start
        since, past = _continued(self.run.outcomes.setdefault(self.age, {}), first, last)
        if since < last:
            table = tables.outcomes
            where = (table.c.window_start >= since, table.c.window_start < last)
            rows = self.run.store.rows(table, *where, model_name=self.run.model.model, label_age_hours=self.age)
            past.update({row["window_start"]: sums_from_bytes(row["outcomes"]) for row in rows})
        if self.evaluation:
            own = (self.evaluation.outcomes, self.evaluation.segments)
            self.run.outcomes[self.age] = {**past, self.window.start: own}
        return past

    def _pooled(self, hours: Sequence[datetime], past: dict[datetime, Any]) -> Outcomes:
        """Sum of many hours, whole days of them kept for the next window."""
        task = self.run.model.task
        days: dict[Any, list[datetime]] = {}
        for hour in hours:
            days.setdefault(hour.date(), []).append(hour)
        held = self.run.outcomes.setdefault("days", {})
        total = Outcomes(task)
        for of_day in days.values():
            key = (self.age, tuple(of_day))
            if key not in held:
                held[key] = sum((past[hour][0] for hour in of_day), Outcomes(task))
                if len(held) > 400:
                    del held[next(iter(held))]
            total = total + held[key]
        return total

    def _service_pairs(self, flagged: Mapping[datetime, frozenset[str]]) -> Iterable[Pair]:
        """Latency and errors of the hour beside the median hour of the days before."""
        if not self.service:
            return
        for metric in SERVICE:
            values = self._service_history(metric, flagged)
            baseline = Score(float(np.median(values)), None, None, len(values)) if values else None
            if baseline and metric in _JUDGED_SERVICE:
                yield Pair("*", metric, 1, self.service[metric], baseline, len(values))

    def _service_history(self, metric: str, flagged: Mapping[datetime, frozenset[str]]) -> list[float]:
        days = self.run.model.performance.baseline_days
        first, last = self.window.start - days * 24 * HOUR, self.window.start
        held: dict[str, dict[datetime, float]] = self.run.outcomes.setdefault("service", {})
        if metric not in held or not held[metric] or not last - 24 * HOUR <= max(held[metric]) < last:
            table = tables.performance
            rows = self.run.store.rows(
                table,
                table.c.window_start >= first,
                table.c.window_start < last,
                table.c.value.is_not(None),
                columns=("window_start", "value"),
                model_name=self.run.model.model,
                segment="*",
                metric=metric,
                label_age_hours=0,
            )
            held[metric] = {row["window_start"]: row["value"] for row in rows}
        found = {hour: value for hour, value in held[metric].items() if first <= hour < last}
        now = self.service[metric].value
        held[metric] = {**found, **({self.window.start: now} if now is not None else {})}
        return [value for hour, value in found.items() if "*" not in flagged.get(hour, ())]

    def _finding(self, verdict: Verdict) -> dict[str, Any]:
        pair = verdict.pair
        return {
            **self.key,
            "check": "performance",
            "kind": "performance",
            "subject": pair.segment,
            "segment": pair.segment,
            "metric": pair.metric,
            "scale_hours": pair.scale,
            "label_age_hours": self.age,
            "value": pair.current.value,
            "baseline": pair.baseline.value,
            "change_percent": verdict.change_percent,
            "threshold": verdict.threshold,
            "severity": verdict.severity,
            "detected_at": self.moment,
            "reason": f"{pair.scale} h, {pair.current.n} rows, labels {self.age} h old, against {pair.hours} h before",
        }

    def _rows(self) -> list[dict[str, Any]]:
        evaluation = self.evaluation
        if evaluation is None:
            return []
        run, task = self.run, self.run.model.task
        overall = evaluation.versions[0] if len(evaluation.versions) == 1 else "*"
        rows = []
        if self.age == 0:
            rows += [self._row(overall, "*", metric, self.service[metric], None) for metric in SERVICE]
        unlabelled = run.labels is None and "ground_truth" not in evaluation.columns
        if unlabelled and self.age:
            return rows
        wanted = run.model.performance.metrics or BY_TASK[task]
        for metric in (m for m in BY_TASK[task] if m in wanted):
            score = evaluation.scores[metric]
            if unlabelled:
                score = Score(
                    None, None, None, 0, "no ground truth is configured: neither labels nor a ground_truth column"
                )
            rows.append(self._row(overall, "*", metric, score, evaluation.coverage))
            for version, scores in evaluation.by_version.items():
                rows.append(self._row(version, "*", metric, scores[metric], evaluation.coverage))
        for segment, sums in evaluation.segments.items():
            if sums[0] and segment != "*":
                rows.append(self._row(overall, segment, PRIMARY[task], segment_score(task, sums), evaluation.coverage))
        return rows

    def _row(self, version: str, segment: str, metric: str, score: Score, coverage: float | None) -> dict[str, Any]:
        verdict = self.verdicts.get((segment, metric, 1))
        baseline = verdict.pair.baseline.value if verdict else None
        if metric in SERVICE and baseline is None:
            values = [
                v for h, v in self.run.outcomes.get("service", {}).get(metric, {}).items() if h < self.window.start
            ]
            baseline = float(np.median(values)) if values else None
        change = None
        if baseline is not None and score.value is not None:
            change = change_percent(score.value, baseline)
        reason, status = score.reason, "ok" if score.value is not None else "insufficient_data"
        if coverage == 0 and reason == "no rows":
            reason = "no label of these rows is known yet"
        least = self.run.model.performance.min_label_coverage
        if coverage is not None and score.value is not None and coverage < least:
            status, reason = (
                "insufficient_data",
                f"{coverage:.0%} of the labels are known; {least:.0%} are needed to judge",
            )
        return {
            **self.key,
            "model_version": version,
            "segment": segment,
            "metric": metric,
            "value": score.value,
            "lower": score.lower,
            "upper": score.upper,
            "baseline": baseline,
            "change_percent": change,
            "estimated": False,
            "label_coverage": coverage,
            "as_of": self.moment,
            "status": status,
            "label_age_hours": self.age,
            "n": score.n,
            "reason": reason or (verdict.reason if verdict else ""),
        }


def _continued(held: Mapping[datetime, Any], first: datetime, last: datetime) -> tuple[datetime, dict[datetime, Any]]:
    """Split the hours in ``[first, last)``: from when on the store must be asked, and what is held of those before."""
    if not held or max(held) >= last:
        return first, {}
    return max(first, max(held) + HOUR), {hour: content for hour, content in held.items() if hour >= first}


def _enough_of_each(scores: dict[str, Score], metric: str) -> Score:
    """A ranking of three late flights among sixty is no ranking: ROC AUC is judged with ten rows of each class."""
    score = scores[metric]
    if metric != "roc_auc" or "recall" not in scores or scores["recall"].value is None:
        return score
    positives = scores["recall"].n
    fewest = min(positives, score.n - positives)
    if fewest >= LEAST_ROWS:
        return score
    return Score(None, None, None, score.n, f"{fewest} rows of the rarer class; {LEAST_ROWS} are needed to judge")
