"""All benchmarks, one after the other: ``make bench`` (quick), or ``make bench-results``, which writes RESULTS.md.

Each script stands for itself and has ``--help``; this one only calls them and puts what they print together.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import measure

# Script -> options of the quick and of the full form.
SCRIPTS = {
    "kernel.py": ("--rows 1000000 10000000 --repeats 1", "--rows 1000000 5000000 10000000 --repeats 5"),
    "peers.py": ("--rows 100000", "--rows 1000000"),
    "accuracy.py": ("--rows 10000 200000", "--rows 10000 1000000"),
    "explanations.py": ("--scale 0.2 --repeats 1", "--scale 1 --repeats 3"),
    "sdk.py": ("--records 40000 --blocks 200 --seconds 3 --repeats 1", "--records 100000 --blocks 500 --seconds 10"),
    "files.py": ("--scale 0.2 --repeats 1", "--scale 1 --repeats 3"),
    "repeats.py": ("--rows 200000 --repeats 1", ""),
    "buckets.py": ("--objects 2000 --hours 20", ""),
    "job.py": ("--rows 200000 --repeats 1", "--rows 1000000"),
    "hour.py": ("--repeats 1 --history 24", ""),
    "replay.py": ("--history 168 --hours 30", ""),
    "alert_quality.py": ("--worlds events --seeds 4 --bins 128", ""),
}
RESULTS = measure.HERE / "RESULTS.md"
HEAD = """# Results

What the scripts printed, each under the command that was run; figures that a script did not print do not stand here. In
every table the variants took turns, so compare within a table, and read ratios rather than seconds.
`make bench` runs smaller sizes of the same.
"""


def run(name: str, options: str) -> str:
    """What one script printed; its progress stays on stderr. A script that fails ends the run."""
    start = time.monotonic()
    command = [sys.executable, str(measure.HERE / name), *options.split()]
    # reports of the library on stderr, such as warnings of shap, would hide the progress
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, "PYTHONWARNINGS": "ignore"}
    )
    print(f"({name}: {time.monotonic() - start:.0f} s)", file=sys.stderr)
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help=f"full sizes; write {RESULTS.name}")
    parser.add_argument("--only", nargs="+", choices=SCRIPTS, default=list(SCRIPTS), help="these scripts alone")
    parser.add_argument("--output", type=Path, default=RESULTS, help="where --full writes")
    given = parser.parse_args()
    sections = [HEAD]
    for name in given.only:
        options = SCRIPTS[name][given.full]
        said = run(name, options)
        print(f"\n== {name} {options}\n{said}", flush=True)
        sections.append(f"## `{' '.join(['python benchmarks/' + name, options]).strip()}`\n\n{said}")
    if given.full:
        given.output.write_text("\n".join(sections), encoding="utf-8")
        print(f"wrote {given.output}")


if __name__ == "__main__":
    main()
