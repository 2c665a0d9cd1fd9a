"""What a profile costs beside merely decoding the same columns, measured side by side in one run.

``make bench``, or ``python benchmarks/kernel.py --rows 10000000 --repeats 3``. Every measurement is a process of its
own; the variants take turns, and the table holds medians. Nothing is asserted: machines differ.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

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
COMMAND = str(Path(sys.executable).with_name("hindcast"))


@dataclass(frozen=True)
class Cost:
    """What one process took: CPU seconds (user and system), wall seconds, peak resident megabytes."""

    cpu: float
    wall: float
    peak: float


def measure(command: list[str]) -> Cost:
    """Run a command to its end; its own output goes nowhere."""
    start = time.perf_counter()
    child = os.posix_spawn(
        command[0],
        command,
        os.environ,
        file_actions=[(os.POSIX_SPAWN_OPEN, stream, os.devnull, os.O_WRONLY, 0) for stream in (1, 2)],
    )
    _, status, used = os.wait4(child, 0)
    wall = time.perf_counter() - start
    if os.waitstatus_to_exitcode(status):
        message = f"exit status {os.waitstatus_to_exitcode(status)}: {' '.join(command)}"
        raise SystemExit(message)
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return Cost(used.ru_utime + used.ru_stime, wall, used.ru_maxrss / unit)


def median(costs: list[Cost]) -> Cost:
    return Cost(*(statistics.median(getattr(c, name) for c in costs) for name in ("cpu", "wall", "peak")))


def commands(logs: Path, folder: Path) -> dict[str, tuple[list[str], list[str]]]:
    """Variant -> its command, and the same process doing nothing after its imports."""
    bins, out = str(folder / "bins.parquet"), str(folder / "out.parquet")
    measure([COMMAND, "profile", str(logs), "-o", bins])
    imports = [sys.executable, "-c", "import numpy, pyarrow.parquet"]
    ours = [sys.executable, "-c", "import hindcast.cli, hindcast.profiling"]
    return {
        "decode the 50 features": ([sys.executable, "-c", DECODE, str(logs)], imports),
        "hindcast profile --bins": ([COMMAND, "profile", str(logs), "--bins", bins, "-o", out], ours),
        "hindcast profile, bins fitted": ([COMMAND, "profile", str(logs), "-o", out], ours),
    }


def table(found: dict[str, tuple[Cost, Cost]]) -> list[str]:
    """Lines of the table; ratios are to the first variant."""
    limit, idle = next(iter(found.values()))
    lines = [f"{'':30} {'CPU s':>7} {'ratio':>6} {'net CPU s':>10} {'ratio':>6} {'wall s':>7} {'peak MB':>8}"]
    for name, (cost, start) in found.items():
        net = cost.cpu - start.cpu
        lines.append(
            f"{name:30} {cost.cpu:7.2f} {cost.cpu / limit.cpu:6.2f} {net:10.2f} {net / (limit.cpu - idle.cpu):6.2f}"
            f" {cost.wall:7.2f} {cost.peak:8.0f}"
        )
    return lines


def machine() -> str:
    info = Path("/proc/cpuinfo")
    models = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    name = models[0].split(":", 1)[1].strip() if models else platform.processor()
    libraries = ", ".join(f"{package} {version(package)}" for package in ("hindcast", "numpy", "pyarrow"))
    return f"{os.cpu_count()} x {name}, {platform.system()}; Python {platform.python_version()}, {libraries}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        logs = Path(folder) / "logs.parquet"
        # in a process of its own: the peak of a child counts that of its parent when it started
        measure([sys.executable, str(Path(__file__).with_name("data.py")), str(logs), "--rows", str(given.rows)])
        print(f"{given.rows:,} rows, 50 features, {logs.stat().st_size / 1e6:,.0f} MB; medians of {given.repeats}")
        variants = commands(logs, Path(folder))
        costs: dict[str, tuple[list[Cost], list[Cost]]] = {name: ([], []) for name in variants}
        for _ in range(given.repeats):
            for name, (command, start) in variants.items():
                costs[name][0].append(measure(command))
                costs[name][1].append(measure(start))
    print(*table({name: (median(whole), median(start)) for name, (whole, start) in costs.items()}), sep="\n")
    print("net: without interpreter and imports; ratio: to decoding")


if __name__ == "__main__":
    main()
