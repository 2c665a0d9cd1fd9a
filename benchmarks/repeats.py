"""What `logs.duplicates: drop` costs beside `count`: without duplicated ids, with few, and with many.

``python benchmarks/repeats.py --rows 1000000``. A process of its own fits bins and imports everything, then reads the
window as the check `pull` does, in one thread; CPU seconds are counted from there. Duplicated rows are whole copies,
spread over the file.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import data
import measure
from measure import Table

START = datetime(2026, 3, 2, 15, tzinfo=UTC)
SHARES = (0.0, 0.001, 0.1)
FITTED_ROWS, BINS = 100_000, 256


def write(root: Path, rows: int, share: float) -> None:
    """One hour; of the last rows of each row group some are copies of its first."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = root / f"date={START:%Y-%m-%d}" / f"hour={START:%H}"
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as scratch:
        plain = Path(scratch) / "plain.parquet"
        data.write(plain, rows)
        source = pq.ParquetFile(plain)
        with pq.ParquetWriter(folder / "part-0.parquet", source.schema_arrow, compression="zstd") as writer:
            for group in range(source.num_row_groups):
                table = source.read_row_group(group)
                copies = round(table.num_rows * share)
                table = pa.concat_tables([table.slice(0, table.num_rows - copies), table.slice(0, copies)])
                writer.write_table(table, row_group_size=data.ROW_GROUP)


def child(root: Path, *, drop: bool) -> dict[str, float]:
    """Read the window: CPU seconds, rows left out, peak MB of the process."""
    import pyarrow.parquet as pq

    from hindcast.engines.base import Plan
    from hindcast.engines.local import LocalEngine
    from hindcast.profile.fit import fit_bins
    from hindcast.profile.scan import Expected
    from hindcast.sources import open_source
    from hindcast.window import HOUR

    source = open_source(str(root))
    manifest = source.manifest(START, START + HOUR)
    with tempfile.TemporaryDirectory() as scratch:
        head = pq.ParquetFile(root / manifest.objects[0].name).read_row_group(0).slice(0, FITTED_ROWS)
        pq.write_table(head, Path(scratch) / "head.parquet")
        kinds = {f.name: "categorical" if f.name.startswith("feature_t") else "numeric" for f in head.schema}
        kinds = {name: kind for name, kind in kinds.items() if name.startswith("feature_")}
        bins = fit_bins([pq.ParquetFile(Path(scratch) / "head.parquet")], kinds, BINS)
        plan = Plan(
            source, manifest, bins, Expected(), START, START + HOUR, numeric_prediction=False, extra=(),
            sample_rows=3000, sidecar=Path(scratch) / "facts.parquet", drop_duplicates=drop,
        )  # fmt: skip
        start = time.process_time()
        found = LocalEngine().scan(plan)
        seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return {"cpu": seconds, "duplicates": found.duplicates, "dropped": found.dropped, "peak": peak}


def main() -> None:
    parser = measure.arguments(__doc__, repeats=3)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--drop", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--share", type=float, default=0.0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.write:
        write(given.write, given.rows, given.share)
        return
    if given.child:
        print(json.dumps(child(given.child, drop=given.drop)))
        return
    rows: dict[str, dict[str, float]] = {}
    environment = {**os.environ, "HINDCAST_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        for share in SHARES:
            root = Path(folder) / f"{share}"
            options = ["--rows", str(given.rows), "--share", str(share)]
            measure.measure(measure.script("repeats.py", "--write", root, *options))
            runs: dict[str, list[dict[str, float]]] = {"count": [], "drop": []}
            for _ in range(given.repeats):
                for how, found in runs.items():
                    command = measure.script("repeats.py", "--child", root, *(["--drop"] if how == "drop" else []))
                    found.append(json.loads(subprocess.check_output(command, text=True, env=environment)))
            first = statistics.median(run["cpu"] for run in runs["count"])
            for how, found in runs.items():
                cpu = statistics.median(run["cpu"] for run in found)
                rows[f"{share:.1%} duplicated, {how}"] = {
                    "CPU of a million rows, s": cpu / given.rows * 1e6,
                    "ratio to count": cpu / first,
                    "duplicates": found[0]["duplicates"],
                    "dropped": found[0]["dropped"],
                    "peak, MB": statistics.median(run["peak"] for run in found),
                }
    says = (
        f"A window of {given.rows:,} rows x 50 features, one thread, imports and the fit of bins before it; "
        f"medians of {given.repeats} processes that take turns."
    )
    measure.report([Table("Dropping duplicated ids", says, rows)], as_json=given.json)


if __name__ == "__main__":
    main()
