"""Logs of awkward shapes: many small files, very many features, a text feature whose every value is new.

``python benchmarks/files.py --scale 1``: 1,000 files of 1,000 rows, 2,000 features x 100,000 rows, 1,000,000 values.
Each is profiled with given bins, beside the same number of rows or cells in the usual shape.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import measure
from measure import HINDCAST, Command, Table, python, script

IMPORTS = "imports"
CODECS = ("snappy", "zstd")  # the default of pyarrow, pandas and Spark; and what logs are often packed with
DECODED = """
import sys, hindcast.cli, hindcast.profiling
from hindcast.sources.files import parquet_files
for file in parquet_files(sys.argv[1]):
    file.read_row_group(0, use_threads=False)
"""


def logs(folder: Path, name: str, *options: str) -> Path:
    """Write one log in a process of its own."""
    path = folder / f"{name}.parquet"
    measure.measure(script("data.py", path, *options))
    return path


def profile(path: Path, kept: Path) -> Command:
    return [HINDCAST, "profile", str(path), "--bins", str(kept), "-o", str(kept.with_suffix(".out"))]


def bins(path: Path) -> Path:
    """Fit bins to a log and keep them beside it."""
    kept = path.with_suffix(".bins")
    measure.measure([HINDCAST, "profile", str(path), "-o", str(kept)])
    return kept


def table(title: str, variants: dict[str, Command], repeats: int) -> Table:
    """Ratios are to the first variant."""
    idle = {IMPORTS: python("import hindcast.cli, hindcast.profiling")}
    found = measure.in_turns({**variants, **idle}, repeats)
    start = found.pop(IMPORTS).cpu
    first = next(iter(found.values())).cpu - start
    says = f"`hindcast profile`, processes that take turns, medians of {repeats}; net: without interpreter and imports."
    return Table(
        title,
        says,
        {
            name: {
                "CPU, s": cost.cpu,
                "net CPU, s": cost.cpu - start,
                "net ratio": (cost.cpu - start) / first,
                "wall, s": cost.wall,
                "peak, MB": cost.peak,
            }
            for name, cost in found.items()
        },
    )


def many(folder: Path, scale: float, repeats: int, codec: str) -> Table:
    count = max(2, round(1000 * scale))
    one = logs(folder, "one", "--rows", str(1000 * count), "--split", str(count), "--codec", codec)
    kept, files = bins(one), one.with_suffix("")
    variants = {
        "one file": profile(one, kept),
        f"{count:,} files": profile(files, kept),
        f"{count:,} files, only opened and decoded": python(DECODED, files),
    }
    return table(f"Files, {codec}: {count:,} of 1,000 rows beside one of {1000 * count:,}", variants, repeats)


def wide(folder: Path, scale: float, repeats: int) -> Table:
    rows, times = max(1000, round(100_000 * scale)), 40 if scale >= 0.1 else 4
    usual = logs(folder, "usual", "--rows", str(times * rows))
    broad = logs(folder, "broad", "--rows", str(rows), "--times", str(times))
    variants = {
        f"50 features x {times * rows:,} rows": profile(usual, bins(usual)),
        f"{50 * times:,} features x {rows:,} rows": profile(broad, bins(broad)),
    }
    return table(f"Wide: the same number of cells in 50 and in {50 * times:,} features", variants, repeats)


def distinct(folder: Path, scale: float, repeats: int) -> Table:
    rows = max(1000, round(1_000_000 * scale))
    usual = logs(folder, "plain", "--rows", str(rows))
    skewed = logs(folder, "distinct", "--rows", str(rows), "--distinct")
    later = logs(folder, "later", "--rows", str(rows), "--distinct", "--seed", "8")
    known = bins(skewed)
    variants = {
        "50 features": profile(usual, bins(usual)),
        "and one of distinct values, 1,000 of them known": profile(skewed, known),
        "and one of distinct values, none of them known": profile(later, known),
        "and one of distinct values, bins fitted": [HINDCAST, "profile", str(skewed), "-o", str(folder / "out")],
    }
    return table(f"Skewed: a text feature of {rows:,} distinct values in {rows:,} rows", variants, repeats)


def main() -> None:
    parser = measure.arguments(__doc__, repeats=3)
    parser.add_argument("--scale", type=float, default=1.0, help="1: the sizes above; below 0.1, 200 features")
    given = parser.parse_args()
    tables = []
    for shape in (*(partial(many, codec=codec) for codec in CODECS), wide, distinct):
        with tempfile.TemporaryDirectory() as folder:
            tables.append(shape(Path(folder), given.scale, given.repeats))
    measure.report(tables, as_json=given.json)


if __name__ == "__main__":
    main()
