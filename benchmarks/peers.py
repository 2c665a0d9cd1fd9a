"""Profile and drift of the same two Parquet files: Hindcast beside the libraries that people use today.

``python benchmarks/peers.py --rows 1000000 --repeats 1``. Each library has an environment of its own, which this script
builds with uv and keeps (``--envs``); what cannot be installed is skipped and said. What each is asked to do stands in
``peer_work.py``.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import measure
from measure import Command, Cost, Table, script

ROOT = measure.HERE.parent
PYTHONS = ("3.11", "3.10", "3.12")  # the first one that is here; some of the libraries have no newer wheels
FRAMES = ("pandas==2.3.3", "numpy==2.4.6", "pyarrow==26.0.1", "scipy==1.17.1")


@dataclass(frozen=True)
class Peer:
    """A variant: its function in peer_work.py, its packages, and what its process imports before it works."""

    work: str
    packages: tuple[str, ...]
    imports: str


EVIDENTLY = ("evidently==0.7.23", *FRAMES)
PEERS = {
    "frouros, KS and chi-square": Peer(
        "frouros",
        ("frouros==0.9.0", "numpy==2.1.3", "pyarrow==26.0.1"),
        "pyarrow.parquet, frouros.detectors.data_drift",
    ),
    "pandas and scipy": Peer("pandas_scipy", FRAMES, "pandas, pyarrow.parquet, scipy.stats"),
    "Great Expectations, 150 expectations": Peer(
        "great_expectations",
        ("great-expectations==1.24.1", *FRAMES),
        "pandas, pyarrow.parquet, great_expectations.expectations",
    ),
    "NannyML, univariate drift": Peer(
        "nannyml", ("nannyml==0.13.1", "statsmodels==0.15.0", *FRAMES), "pandas, pyarrow.parquet, nannyml"
    ),
    "whylogs, profiles and drift": Peer(
        "whylogs",
        ("whylogs[viz]==1.6.4", "pandas==2.2.3", "numpy==1.26.4", "pyarrow==18.1.0"),
        "pandas, pyarrow.parquet, whylogs.viz.drift.column_drift_algorithms",
    ),
    "Evidently, summary preset": Peer("evidently_summary", EVIDENTLY, "pandas, pyarrow.parquet, evidently.presets"),
    "Evidently, drift preset": Peer("evidently_drift", EVIDENTLY, "pandas, pyarrow.parquet, evidently.presets"),
}
OURS = "Hindcast, one thread, reference profile kept"
BOTH = "Hindcast, one thread, reference profiled too"
# What is compared is CPU; a second thread takes a third off our wall time for a tenth more of it.
ONE_THREAD = ["env", "HINDCAST_THREADS=1"]
OUR_IMPORTS = "hindcast.profiling, hindcast.profile.files, hindcast.drift.statistics"


def interpreter() -> str:
    """The first Python of PYTHONS that runs; version managers leave commands on PATH that do not."""
    for wanted in PYTHONS:
        found = [shutil.which(f"python{wanted}"), *sorted(Path.home().glob(f".pyenv/versions/{wanted}.*/bin/python"))]
        for candidate in filter(None, found):
            if not subprocess.run([candidate, "-c", ""], capture_output=True, check=False).returncode:
                return str(candidate)
    message = f"no Python {' or '.join(PYTHONS)} on PATH"
    raise LookupError(message)


def environment(peer: Peer, folder: Path, *, build: bool) -> str:
    """Path of the Python of a peer's environment, built if need be; LookupError says why it cannot be had."""
    python, stamp = folder / "bin" / "python", folder / "built.json"
    if stamp.exists() and json.loads(stamp.read_text()) == list(peer.packages):
        return str(python)
    if not build:
        message = "not installed yet"
        raise LookupError(message)
    uv = [sys.executable, "-m", "uv", "--quiet"]
    create = [*uv, "venv", "--clear", "--no-python-downloads", "--python", interpreter(), str(folder)]
    for command in (create, [*uv, "pip", "install", "--python", str(python), *peer.packages]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            said = " ".join(done.stderr.split())
            message = f"cannot be installed: {said[:300]}"
            raise LookupError(message)
    stamp.write_text(json.dumps(peer.packages))
    return str(python)


def installed(envs: Path, *, build: bool) -> tuple[dict[str, str], list[str]]:
    """Variant -> its Python, and one line on every variant that is skipped."""
    pythons, skipped = {}, []
    for name, peer in PEERS.items():
        print(f"environment: {name}", file=sys.stderr)
        try:
            pythons[name] = environment(peer, envs / peer.packages[0].split("=")[0].split("[")[0], build=build)
        except LookupError as error:
            skipped.append(f"Skipped: {name}: {error}.")
    return pythons, skipped


def versions(pythons: dict[str, str]) -> str:
    """Python and packages of each environment, on one line."""
    said = [f"{PEERS[name].packages[0]} with {', '.join(PEERS[name].packages[1:])}" for name in pythons]
    asked = next(iter(pythons.values()), sys.executable)
    number = subprocess.run([asked, "-V"], capture_output=True, text=True, check=True).stdout.strip()
    return f"{number}; " + "; ".join(dict.fromkeys(said)) if said else "No other library is installed."


def measured(pythons: dict[str, str], folder: Path, rows: int, repeats: int) -> dict[str, tuple[Cost, Cost]]:
    """Whole process and its mere imports, in turns; ours are measured again before every peer."""
    reference, current, kept = (str(folder / name) for name in ("reference.parquet", "current.parquet", "kept.parquet"))
    for path, seed in ((reference, 7), (current, 8)):
        measure.measure(script("data.py", path, "--rows", str(rows), "--seed", str(seed)))
    measure.measure([measure.HINDCAST, "profile", reference, "-o", kept])
    ours = {OURS: ("hindcast", kept), BOTH: ("hindcast_both", reference)}
    costs: dict[str, list[tuple[Cost, Cost]]] = {}

    def once(name: str, python: str, work: str, then: str, imports: str) -> None:
        print(f"measuring: {name}", file=sys.stderr)
        command: Command = [*ONE_THREAD, python, str(measure.HERE / "peer_work.py"), work, then, current]
        whole, start = measure.measure(command), measure.measure([python, "-c", f"import {imports}"])
        costs.setdefault(name, []).append((whole, start))

    for _ in range(repeats):
        for name in pythons or [None]:
            for own, (work, then) in ours.items():
                once(own, sys.executable, work, then, OUR_IMPORTS)
            if name:
                once(name, pythons[name], PEERS[name].work, reference, PEERS[name].imports)
    return {name: (measure.median([w for w, _ in c]), measure.median([s for _, s in c])) for name, c in costs.items()}


def table(found: dict[str, tuple[Cost, Cost]], rows: int, repeats: int, notes: list[str]) -> Table:
    ours, idle = found[OURS]
    result = Table(
        f"Peers: profile and drift of {rows:,} rows x 50 features against {rows:,} reference rows",
        f"Whole processes on the same two Parquet files; medians of {repeats}, ours measured again before each peer; "
        "net: without interpreter and imports; the ratios are to Hindcast with the profile of the reference kept.",
        notes=notes,
    )
    for name, (whole, start) in found.items():
        net = whole.cpu - start.cpu
        result.rows[name] = {
            "CPU, s": whole.cpu,
            "CPU ratio": whole.cpu / ours.cpu,
            "net CPU, s": net,
            "net ratio": net / (ours.cpu - idle.cpu),
            "wall, s": whole.wall,
            "peak, MB": whole.peak,
        }
    return result


def main() -> None:
    parser = measure.arguments(__doc__, repeats=1)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument(
        "--envs", type=Path, default=ROOT / ".hindcast" / "benchmarks", help="where environments are kept"
    )
    parser.add_argument("--installed", action="store_true", help="install nothing: only what --envs has already")
    given = parser.parse_args()
    pythons, skipped = installed(given.envs.resolve(), build=not given.installed)
    with tempfile.TemporaryDirectory() as folder:
        found = measured(pythons, Path(folder), given.rows, given.repeats)
    notes = [versions(pythons), *skipped]
    measure.report([table(found, given.rows, given.repeats, notes)], as_json=given.json, packages=["scipy"])


if __name__ == "__main__":
    main()
