"""The whole hourly job on a large window, check by check: 1,000,000 rows x 50 features, labels, two segments.

``python benchmarks/job.py --rows 1000000``. Every row gets a label within a day, and the window is judged at the label
ages 0, 6 and 24 hours. A process of its own imports what the checks import, fits the reference, then runs every check
but importance, whose cost is that of its sample; CPU seconds are counted from there.
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
from datetime import UTC, datetime, timedelta
from pathlib import Path

import data
import measure
from measure import Table

NAME, START = "job", datetime(2026, 3, 2, 15, tzinfo=UTC)
CHECKS = ("pull", "quality", "drift", "performance", "triage")
REFERENCE_ROWS = 200_000


def place(root: Path, moment: datetime) -> Path:
    folder = root / f"date={moment:%Y-%m-%d}" / f"hour={moment:%H}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write(folder: Path, rows: int) -> None:
    """One hour of logs, the labels of the day after it, a reference and a model file."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    import yaml

    logs = place(folder / "logs", START) / "part-0.parquet"
    data.write(logs, rows)
    data.write(folder / "reference.parquet", min(rows, REFERENCE_ROWS), seed=8)
    made = pq.read_table(logs, columns=["prediction_id", "score", "timestamp"])
    rng = np.random.default_rng(3)
    delay = rng.integers(0, 23 * data.HOUR_US, rows)
    truth = (rng.random(rows) < np.asarray(made["score"])).astype(np.int64)
    at = np.asarray(made["timestamp"].cast(pa.int64())) + delay
    hour = (at - int(START.timestamp() * 1e6)) // data.HOUR_US
    for k in np.unique(hour).tolist():
        these = np.flatnonzero(hour == k)
        labels = {
            "prediction_id": made["prediction_id"].take(pa.array(these)),
            "ground_truth": pa.array(truth[these]),
            "label_timestamp": pa.array(at[these]).cast(pa.timestamp("us", "UTC")),
        }
        path = place(folder / "labels", START + timedelta(hours=k)) / "labels.parquet"
        pq.write_table(pa.table(labels), path, compression="zstd")
    model = {
        "model": NAME,
        "task": "binary",
        "logs": {"uri": "logs"},
        "labels": {"uri": "labels"},
        "reference": {"uri": "reference.parquet"},
        "segments": ["t02", "t04"],
        "performance": {"label_ages_hours": [0, 6, 24]},
    }
    (folder / f"{NAME}.yaml").write_text(yaml.safe_dump(model), encoding="utf-8")


def child(folder: Path) -> dict[str, float]:
    """Run the checks in this process: CPU seconds of each, and peak MB of the process."""
    from hindcast.checks.run import Run, commit, compute
    from hindcast.tasks import preload
    from hindcast.window import Window

    preload()
    later = START + timedelta(days=2)
    with tempfile.TemporaryDirectory() as results:
        store = f"sqlite:///{results}/results.db"
        run = Run.open(NAME, Window(START), config=str(folder / f"{NAME}.yaml"), results=store, now=later)
        _ = run.reference, run.reference_slices
        found = {}
        for check in CHECKS:
            start = time.process_time()
            commit(run, compute(run, check), 0.0)
            found[check] = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return {**found, "all": sum(found.values()), "peak": peak}


def main() -> None:
    parser = measure.arguments(__doc__, repeats=3)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.write:
        write(given.write, given.rows)
        return
    if given.child:
        print(json.dumps(child(given.child)))
        return
    with tempfile.TemporaryDirectory() as folder:
        measure.measure(measure.script("job.py", "--write", folder, "--rows", str(given.rows)))
        command = measure.script("job.py", "--child", folder)
        runs = [json.loads(subprocess.check_output(command, text=True)) for _ in range(given.repeats)]
    middle = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    rows = {
        name: {"CPU, s": middle[name], "CPU of a million rows, s": middle[name] / given.rows * 1e6}
        for name in (*CHECKS, "all")
    }
    says = (
        f"CPU seconds of each check of a window of {given.rows:,} rows x 50 features, a label for every row, three "
        f"label ages, two segments; imports, the reference's fit and its slices before it; medians of {given.repeats} "
        "processes."
    )
    notes = [f"Peak of the process: {middle['peak']:,.0f} MB, the reference's fit included."]
    measure.report([Table("The whole hour, check by check", says, rows, notes)], as_json=given.json)


if __name__ == "__main__":
    main()
