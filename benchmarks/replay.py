"""How many hours a second one process replays: 2,000 rows x 50 features an hour, three weeks of history.

``python benchmarks/replay.py`` writes the world of `world.py`, pulls all of it, and replays its last hours in a
process of its own per variant: drift alone, then all checks with SHAP explanations of 100 trees of 31 leaves. The first
hours of a process, which load what is held from then on, are its warm-up.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import measure
import world
from measure import Table

VARIANTS = {"drift alone": ("drift",), "all checks": ()}
GOALS = {"drift alone": 10.0, "all checks": 4.0}
WARM_UP = 10


def store(folder: Path) -> str:
    return f"sqlite:///{folder}/results/results.db"


def replayed(folder: Path, first: int, last: int, only: tuple[str, ...]) -> dict[str, float]:
    """Replay hours in this process: CPU seconds and wall seconds of the median window, of the start, and peak MB."""
    from hindcast.checks import CHECKS
    from hindcast.replay import replay

    marks: list[tuple[float, float]] = []
    found = replay(
        world.NAME,
        world.hour_of(first),
        world.hour_of(last),
        only=only or CHECKS,
        again=True,
        config=str(folder / "models"),
        results=store(folder),
        progress=lambda *_: marks.append((time.process_time(), time.perf_counter())),
    )
    if found["errors"]:
        message = f"{found['errors']} checks failed"
        raise SystemExit(message)
    each = [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(marks)]
    cpu, wall = (statistics.median(column) for column in zip(*each[WARM_UP:], strict=True))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return {"cpu": cpu, "wall": wall, "start": sum(c for c, _ in each[:WARM_UP]), "peak": peak}


def child(folder: Path, first: int, last: int, only: tuple[str, ...]) -> dict[str, float]:
    """The same in a process of its own."""
    command = measure.script("replay.py", "--child", folder, str(first), str(last), ",".join(only))
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise SystemExit(ended.stderr)
    result: dict[str, float] = json.loads(ended.stdout)
    return result


def by_check(folder: Path, first: int, last: int) -> dict[str, float]:
    """Check -> median wall milliseconds of computing it, as the table ``checks`` has it."""
    from hindcast.results import tables
    from hindcast.results.sql import Store

    found: dict[str, list[float]] = {}
    hours = [world.hour_of(first) + timedelta(hours=k) for k in range(WARM_UP, last - first)]
    for row in Store(store(folder)).rows(tables.checks, model_name=world.NAME, window_start=hours):
        found.setdefault(row["check"], []).append(1000 * row["duration_seconds"])
    return {check: statistics.median(times) for check, times in found.items()}


def benchmark(folder: Path, history: int, hours: int, rows: int, repeats: int) -> list[Table]:
    last = history + hours
    measure.measure(measure.script("world.py", folder, "--hours", str(last), "--rows", str(rows)))
    child(folder, 0, last, ("pull",))
    says = f"One process, {rows:,} rows x 50 features an hour, {history} hours of history, the last {hours} hours,"
    rates = Table("Replay rate", f"{says} medians of {hours - WARM_UP} windows; of {repeats} runs in turns.")
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
    for _ in range(repeats):
        for name, only in VARIANTS.items():
            runs[name].append(child(folder, history, last, only))
    for name, found in runs.items():
        middle = {key: statistics.median(run[key] for run in found) for key in found[0]}
        rates.rows[name] = {
            "windows a CPU second, 1/s": 1 / middle["cpu"],
            "goal, 1/s": GOALS[name],
            "CPU a window, ms": 1000 * middle["cpu"],
            "wall a window, ms": 1000 * middle["wall"],
            "CPU of the warm-up, s": middle["start"],
            "peak, MB": middle["peak"],
        }
    split = Table("Replay, by check", "Wall time of computing one window, medians of the last run of all checks.")
    split.rows.update({check: {"wall, ms": ms} for check, ms in by_check(folder, history, last).items()})
    return [rates, split]


def main() -> None:
    parser = measure.arguments(__doc__, repeats=1)
    parser.add_argument("--history", type=int, default=21 * 24, help="hours that are only pulled before")
    parser.add_argument("--hours", type=int, default=50, help=f"hours replayed, of which {WARM_UP} are the warm-up")
    parser.add_argument("--rows", type=int, default=2000, help="rows an hour")
    parser.add_argument("--child", nargs=4, metavar=("FOLDER", "FIRST", "LAST", "ONLY"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        folder, first, last, only = given.child
        print(json.dumps(replayed(Path(folder), int(first), int(last), tuple(filter(None, only.split(","))))))
        return
    with tempfile.TemporaryDirectory() as scratch:
        tables = benchmark(Path(scratch), given.history, given.hours, given.rows, given.repeats)
    measure.report(tables, as_json=given.json, packages=("great-expectations", "lightgbm"))


if __name__ == "__main__":
    main()
