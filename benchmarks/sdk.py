"""The logging SDK beside what a serving process does without it: what a call costs its caller, and what follows.

``python benchmarks/sdk.py --records 200000``: predictions with 20 numeric and 10 text features. The textbook design is
prometheus_client's Counter, two Histograms and one Summary per numeric feature; it keeps no record.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

import measure
from measure import Table

if TYPE_CHECKING:
    from collections.abc import Callable

    Log = Callable[[str, dict[str, Any], int, float, float], Any]

NUMERIC = [f"numeric_{i}" for i in range(20)]
TEXT = [f"text_{i}" for i in range(10)]
LABELS, MODEL = ("model_name", "model_version"), {"model_name": "churn", "model_version": "7"}
OURS, TEXTBOOK, CACHED = "PredictionLogger.log", "textbook, by .labels()", "textbook, children cached"
NOTHING, FOLLOWED = "nothing", "PredictionLogger, Parquet and metrics included"
RATE, SLOW_RATE, BLOCK = 20_000, 2_000, 100


def requests() -> list[dict[str, Any]]:
    """Features of some requests, all different."""
    return [
        {**{name: (i + 1) * 0.37 + k for k, name in enumerate(NUMERIC)},
         **{name: f"value {(7 * i + k) % 13}" for k, name in enumerate(TEXT)}}
        for i in range(500)
    ]  # fmt: skip


def textbook(*, cached: bool) -> Log:
    """One series per metric and numeric feature, found by its labels at every call, or kept."""
    from prometheus_client import CollectorRegistry, Counter, Histogram, Summary

    registry = CollectorRegistry()
    predictions = Counter("ml_predictions_total", "", LABELS, registry=registry)
    latency = Histogram("ml_prediction_latency_seconds", "", LABELS, registry=registry)
    confidence = Histogram("ml_prediction_confidence", "", LABELS, registry=registry)
    values = Summary("ml_feature_value", "", ("model_name", "feature_name"), registry=registry)

    def log(_id: str, features: dict[str, Any], _prediction: int, sure: float, latency_ms: float) -> None:
        predictions.labels(**MODEL).inc()
        latency.labels(**MODEL).observe(latency_ms / 1000)
        confidence.labels(**MODEL).observe(sure)
        for name in NUMERIC:
            values.labels(model_name="churn", feature_name=name).observe(features[name])

    kept = predictions.labels(**MODEL), latency.labels(**MODEL), confidence.labels(**MODEL)
    summaries = {name: values.labels(model_name="churn", feature_name=name) for name in NUMERIC}

    def log_cached(_id: str, features: dict[str, Any], _prediction: int, sure: float, latency_ms: float) -> None:
        kept[0].inc()
        kept[1].observe(latency_ms / 1000)
        kept[2].observe(sure)
        for name, summary in summaries.items():
            summary.observe(features[name])

    return log_cached if cached else log


def json_lines(folder: Path) -> Log:
    """A line of JSON per record in a buffered file: a record, no metrics."""
    file = (folder / "log.jsonl").open("w")

    def log(name: str, features: dict[str, Any], prediction: int, sure: float, latency_ms: float) -> None:
        record = {"prediction_id": name, "timestamp": time.time(), "features": features, "prediction": prediction,
                  "confidence": sure, "latency_ms": latency_ms}  # fmt: skip
        file.write(json.dumps(record) + "\n")

    return log


def logger(folder: Path) -> Any:
    from prometheus_client import CollectorRegistry

    from hindcast.sdk import PredictionLogger

    # a burst of a benchmark is no overload: nothing here goes over the disk
    return PredictionLogger(
        "churn", "7", str(folder / "logs"), spool=folder / "spool", metrics=CollectorRegistry(), queue_records=100_000
    )


def copied() -> Log:
    """The least that is safe: copy the features, keep them."""
    kept: deque[Any] = deque(maxlen=1000)
    return lambda name, features, prediction, sure, latency_ms: kept.append(
        (name, features.copy(), prediction, sure, latency_ms)
    )


# --- what a call costs ---


def calls(folder: Path, blocks: int) -> Table:
    ours = logger(folder)
    variants: dict[str, Log] = {
        TEXTBOOK: textbook(cached=False),
        CACHED: textbook(cached=True),
        "a line of JSON": json_lines(folder),
        OURS: ours.log,
        "copy of the features, kept": copied(),
        NOTHING: lambda *_: None,
    }
    some = requests()
    took: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(blocks):
        block = [(f"id-{turn}-{i}", some[(turn * BLOCK + i) % len(some)], 1, 0.75, 12.5) for i in range(BLOCK)]
        for name, log in variants.items():
            start = time.thread_time_ns()
            for given in block:
                log(*given)
            took[name].append((time.thread_time_ns() - start) / BLOCK)
    ours.close(60)
    empty = statistics.median(took[NOTHING])
    rows = {name: statistics.median(found) - empty for name, found in took.items() if name != NOTHING}
    goal = f"Goal: 15 × less than the textbook with cached children; found {rows[CACHED] / rows[OURS]:.1f} ×."
    says = (
        f"CPU of the calling thread for a call with 20 numeric and 10 text features, in blocks of {BLOCK} that take "
        f"turns in one process, medians of {blocks}; without an empty call ({empty:.0f} ns). The logger's threads work "
        "meanwhile."
    )
    table = {name: {"ns": found, "of the textbook": found / rows[CACHED]} for name, found in rows.items()}
    return Table("What a call costs its caller", says, table, [goal])


# --- how long a call takes, paced ---


def paced(folder: Path, seconds: float) -> Table:
    """Requests at a steady pace; an empty call beside each says what the machine itself does."""
    ours, some, clock = logger(folder), requests(), time.perf_counter
    took: dict[str, list[float]] = {"an empty call": [], OURS: []}
    gc.collect()
    start = clock()
    for i in range(round(seconds * SLOW_RATE)):
        ahead = start + i / SLOW_RATE - clock()
        if ahead > 0:
            time.sleep(ahead)
        features, name = dict(some[i % len(some)]), f"id-{i}"
        before = clock()
        nothing(name, features, 1, 0.75, 12.5)
        between = clock()
        ours.log(name, features, 1, 0.75, 12.5)
        took[OURS].append(clock() - between)
        took["an empty call"].append(between - before)
    ours.close(60)
    table = {}
    for name, found in took.items():
        found.sort()
        at = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}
        table[name] = {f"{label}, µs": 1e6 * found[int(share * (len(found) - 1))] for label, share in at.items()}
    found = table[OURS]
    p50, p999 = found["p50, µs"], found["p99.9, µs"]
    goal = f"Goal: about 1 µs at the median, under 20 µs at p99.9; found {p50:.2f} and {p999:.1f}."
    says = (
        f"{SLOW_RATE:,} requests a second for {seconds:g} s in one thread, each timed. It sleeps between them, "
        "and each has features of its own, made just before, as a server makes them. Garbage is collected as it comes."
    )
    return Table("How long a call takes", says, table, [goal])


def nothing(*_: object) -> None:
    """Be called."""


# --- all that follows ---


def work(variant: str, records: int) -> None:
    """Log so many records at a steady rate, in this process."""
    some = requests()
    with tempfile.TemporaryDirectory() as folder:
        ours = logger(Path(folder)) if variant == FOLLOWED else None
        log: Log = ours.log if ours else textbook(cached=True) if variant == CACHED else nothing
        if variant == "a line of JSON":
            log = json_lines(Path(folder))
        start = time.perf_counter()
        for at in range(0, records, BLOCK):
            ahead = start + at / RATE - time.perf_counter()
            if ahead > 0:
                time.sleep(ahead)
            for i in range(at, min(at + BLOCK, records)):
                log(f"id-{i}", some[i % len(some)], 1, 0.75, 12.5)
        if ours:
            ours.close(60)
            counts = ours.counts()
            if counts["stored"] != records:
                message = f"not everything was stored: {counts}"
                raise SystemExit(message)


def whole(records: int, repeats: int) -> Table:
    variants = (NOTHING, CACHED, "a line of JSON", FOLLOWED)
    commands = {name: measure.script("sdk.py", "--work", name, "--records", str(records)) for name in variants}
    # the imports of the logger are no part of a record
    commands["imports"] = measure.script("sdk.py", "--work", FOLLOWED, "--records", "1")
    commands["imports of the rest"] = measure.script("sdk.py", "--work", NOTHING, "--records", "1")
    found = measure.in_turns(commands, repeats)
    start, idle = found.pop("imports").cpu, found.pop("imports of the rest").cpu
    loop = found.pop(NOTHING).cpu - idle
    rows: dict[str, dict[str, float]] = {}
    for name, cost in found.items():
        micros = (cost.cpu - loop - (start if name == FOLLOWED else idle)) / records * 1e6
        rows[name] = {"CPU a record, µs": micros, "of a core, %": micros * RATE / 1e4, "wall, s": cost.wall}
    for row in rows.values():
        row["of the textbook"] = row["CPU a record, µs"] / rows[CACHED]["CPU a record, µs"]
    micros, share = rows[FOLLOWED]["CPU a record, µs"], rows[FOLLOWED]["of a core, %"]
    textbook_micros = rows[CACHED]["CPU a record, µs"]
    goals = [
        f"Goal: at most 6 µs where the textbook takes 13.5; found {micros:.2f} where it takes {textbook_micros:.1f}.",
        f"Goal: {RATE:,} a second on one core; they take {share:.0f} % of one.",
    ]
    says = (
        f"{records:,} records at {RATE:,} a second, in processes that take turns, medians of {repeats}: CPU of all "
        "threads, without the interpreter, imports and the loop that calls. All records are in the store in the end."
    )
    return Table("All that a record costs", says, rows, goals)


def main() -> None:
    parser = measure.arguments(__doc__, repeats=3)
    parser.add_argument("--records", type=int, default=200_000, help="records of which all costs are counted")
    parser.add_argument("--blocks", type=int, default=1000, help=f"blocks of {BLOCK} calls of each variant")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long a paced stream lasts")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work(given.work, given.records)
        return
    tables = []
    for make in (lambda folder: calls(folder, given.blocks), lambda folder: paced(folder, given.seconds)):
        with tempfile.TemporaryDirectory() as folder:
            tables.append(make(Path(folder)))
    tables.append(whole(given.records, given.repeats))
    measure.report(tables, as_json=given.json, packages=("prometheus-client",))


if __name__ == "__main__":
    sys.exit(main())
