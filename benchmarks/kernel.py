"""What a profile costs beside merely decoding the same columns, at several sizes: cost per row and memory.

``python benchmarks/kernel.py --rows 1000000 5000000 10000000 --repeats 3``. Every measurement is a process of its own.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import measure
from measure import HINDCAST, Command, Cost, Table, python, script

CELLS = 50
# The limit: one thread, one column at a time, text as dictionaries, nothing done with what was read.
DECODE = """
import sys
import numpy, pyarrow.parquet as pq
names = [n for n in pq.read_schema(sys.argv[1]).names if n.startswith("feature_")]
texts = [n for n in names if n.startswith("feature_t")]
file = pq.ParquetFile(sys.argv[1], read_dictionary=texts, pre_buffer=False)
for group in range(file.num_row_groups):
    for name in names:
        file.read_row_group(group, [name], use_threads=False)
"""
IMPORTS = {
    "decode": python("import numpy, pyarrow.parquet"),
    "profile": python("import hindcast.cli, hindcast.profiling"),
}


def commands(logs: Path, folder: Path) -> dict[str, Command]:
    """Each variant's command; given bins are those of an earlier run."""
    bins, out = str(folder / "bins.parquet"), str(folder / "out.parquet")
    measure.measure([HINDCAST, "profile", str(logs), "-o", bins])
    one, two = (["env", f"HINDCAST_THREADS={threads}", HINDCAST, "profile", str(logs), "-o"] for threads in (1, 2))
    return {
        "decode": python(DECODE, logs),
        "profile, bins given": [*one, out, "--bins", bins],
        "profile, bins given, 2 threads": [*two, out, "--bins", bins],
        "profile, bins fitted": [*one, out],
        "profile, bins fitted, 2 threads": [*two, out],
    }


def add(table: Table, rows: int, found: dict[str, Cost]) -> None:
    """Add one size to the table; ratios are to decoding the same rows."""
    idle = {name: found[f"imports of {name}"].cpu for name in IMPORTS}
    limit = found["decode"]
    net_limit = limit.cpu - idle["decode"]
    for name, cost in found.items():
        if name.startswith("imports"):
            continue
        net = cost.cpu - idle[name.partition(",")[0]]
        table.rows[f"{rows:,} rows: {name}"] = {
            "CPU, s": cost.cpu,
            "net CPU, s": net,
            "net, µs/row": net / rows * 1e6,
            "net ratio": net / net_limit,
            "above decode, ns/cell": (net - net_limit) / rows / CELLS * 1e9,
            "wall, s": cost.wall,
            "peak, MB": cost.peak,
        }


def main() -> None:
    parser = measure.arguments(__doc__, repeats=3)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 10_000_000])
    given = parser.parse_args()
    table = Table(
        "Kernel: a profile of 50 features beside decoding them",
        f"Whole processes that take turns, medians of {given.repeats}, on one thread unless it says two; net: without "
        "interpreter and imports; ratio: to decoding the same columns on one thread and doing nothing with them.",
    )
    for rows in given.rows:
        with tempfile.TemporaryDirectory() as folder:
            logs = Path(folder) / "logs.parquet"
            measure.measure(script("data.py", logs, "--rows", str(rows)))
            imports = {f"imports of {name}": command for name, command in IMPORTS.items()}
            add(table, rows, measure.in_turns({**commands(logs, Path(folder)), **imports}, given.repeats))
    measure.report([table], as_json=given.json)


if __name__ == "__main__":
    main()
