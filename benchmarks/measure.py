"""What the benchmarks share: the cost of a process, variants that take turns, and tables.

Nothing is asserted about time: machines differ. A table's rows are variants, measured in turns in one run, so that a
slower or busier machine slows all of them alike; read the ratios.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Command = list[str]
HINDCAST = str(Path(sys.executable).with_name("hindcast"))
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Cost:
    """What one process and its children took: CPU seconds (user and system), wall seconds, peak resident megabytes."""

    cpu: float
    wall: float
    peak: float


@dataclass(frozen=True)
class Table:
    """Rows of figures, and one sentence on how they were measured; a column is named ``metric, unit``."""

    title: str
    says: str
    rows: dict[str, dict[str, float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def python(code: str, *arguments: str | Path) -> Command:
    """Command that runs some code in a process of its own."""
    return [sys.executable, "-c", code, *map(str, arguments)]


def script(name: str, *arguments: str | Path) -> Command:
    """Command that runs one of the scripts beside this one."""
    return [sys.executable, str(HERE / name), *map(str, arguments)]


def measure(command: Command) -> Cost:
    """Run a command to its end. What it prints is shown only if it fails, which ends the benchmark.

    The peak of a child starts at that of its parent: no script that measures may hold data itself.
    """
    with tempfile.TemporaryFile() as stderr:
        start = time.perf_counter()
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr)
        _, status, used = os.wait4(child.pid, 0)
        wall = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            stderr.seek(0)
            said = stderr.read().decode(errors="replace")
            message = f"exit status {child.returncode}: {' '.join(command)}\n{said}"
            raise SystemExit(message)
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return Cost(used.ru_utime + used.ru_stime, wall, used.ru_maxrss / unit)


def in_turns(variants: Mapping[str, Command], repeats: int) -> dict[str, Cost]:
    """Measure every variant once, then every one again; medians."""
    found: dict[str, list[Cost]] = {name: [] for name in variants}
    for _ in range(repeats):
        for name, command in variants.items():
            found[name].append(measure(command))
    return {name: median(costs) for name, costs in found.items()}


def median(costs: Sequence[Cost]) -> Cost:
    return Cost(*(statistics.median(getattr(c, name) for c in costs) for name in ("cpu", "wall", "peak")))


def machine(*packages: str) -> str:
    """Date, processor, and versions, on one line."""
    info = Path("/proc/cpuinfo")
    models = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    name = models[0].split(":", 1)[1].strip() if models else platform.processor()
    libraries = ", ".join(f"{package} {version(package)}" for package in ("hindcast", "numpy", "pyarrow", *packages))
    today = dt.datetime.now(tz=dt.UTC).date()
    return f"{today}, {os.cpu_count()} x {name}, {platform.system()}; Python {platform.python_version()}, {libraries}"


def arguments(doc: str | None, *, repeats: int) -> argparse.ArgumentParser:
    """Options that every benchmark has."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=repeats, help=f"measurements of each variant ({repeats})")
    parser.add_argument("--json", action="store_true", help="print [{benchmark, variant, metric, value, unit}]")
    return parser


def report(tables: Sequence[Table], *, as_json: bool, packages: Sequence[str] = ()) -> None:
    """Print tables: as Markdown that also reads as plain text, or as a list of single figures."""
    if as_json:
        print(json.dumps([figure for table in tables for figure in figures(table)], indent=1))
        return
    print(machine(*packages))
    for table in tables:
        print("", f"### {table.title}", "", table.says, "", *lines(table), sep="\n")
        if table.notes:
            print("", *table.notes, sep="\n")


def figures(table: Table) -> list[dict[str, object]]:
    return [
        {"benchmark": table.title, "variant": variant, "metric": metric, "value": value, "unit": unit}
        for variant, row in table.rows.items()
        for (metric, _, unit), value in zip((name.partition(", ") for name in row), row.values(), strict=True)
    ]


def lines(table: Table) -> list[str]:
    """Markdown table, padded so that its columns stand below each other."""
    columns = list(dict.fromkeys(name for row in table.rows.values() for name in row))
    cells = [["", *(name.replace(",", "") for name in columns)]]
    cells += [[name, *(shown(row.get(c)) for c in columns)] for name, row in table.rows.items()]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns) + 1)]
    padded = [
        [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))] for row in cells
    ]
    ruler = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return [f"| {' | '.join(row)} |" for row in [padded[0], ruler, *padded[1:]]]


def shown(value: float | None) -> str:
    """Two or three digits that matter; whole numbers whole.

    >>> shown(50), shown(1234.5), shown(12.34), shown(0.1234), shown(1.2e-5), shown(None)
    ('50', '1,234', '12.3', '0.12', '1.2e-05', '')
    """
    if value is None:
        return ""
    if isinstance(value, int) or value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.2g}"
