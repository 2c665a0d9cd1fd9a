"""Statistics from profiles beside the same statistics of the raw rows, for the 40 numeric features of `data.py`.

``python benchmarks/accuracy.py --rows 10000 1000000``. Each row of the table is one pair of files: the current rows of
the same distribution as the reference, or spread a tenth wider. Raw rows are judged by scipy and numpy alone.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from scipy.spatial.distance import jensenshannon
from scipy.stats import ks_2samp, wasserstein_distance

import measure
from data import NUMERIC
from hindcast.drift import moments, statistics
from hindcast.profile import files
from hindcast.profiling import profile_files
from measure import Table, script

Array = np.ndarray
METRICS = ("KS", "JS", "PSI", "W / exact σ", "W/σ")


def column(path: Path, name: str) -> Array:
    """Values of one feature, without its nulls."""
    values: Array = pq.ParquetFile(path).read([name]).column(name).drop_null().to_numpy()
    return values.astype(np.float64)


def decile_counts(reference: Array, current: Array) -> tuple[Array, Array]:
    """Rows per tenth of the reference; rows of one value stay together, in the tenth where their middle lies."""
    distinct, each = np.unique(np.concatenate([reference, current]), return_inverse=True)
    a, b = np.bincount(each[: len(reference)], minlength=len(distinct)), np.bincount(each[len(reference) :])
    middle = (np.cumsum(a) - a / 2) / a.sum()
    group = np.minimum((middle * 10).astype(int), 9)
    b = np.pad(b, (0, len(distinct) - len(b)))
    return np.bincount(group, a, 10), np.bincount(group, b, 10)


def exact(reference: Array, current: Array) -> tuple[float, ...]:
    """METRICS of raw rows, and the standard deviation of the reference."""
    a, b = decile_counts(reference, current)
    used = (a + b) > 0
    p, q = ((side[used] + 0.5) / (side[used] + 0.5).sum() for side in (a, b))  # PSI with half a row more in every bin
    psi = float(((p - q) * np.log(p / q)).sum())
    ks = float(ks_2samp(reference, current, method="asymp").statistic)
    sigma = float(reference.std())
    distance = float(wasserstein_distance(reference, current)) / sigma
    return ks, float(jensenshannon(a, b, base=2)), psi, distance, distance, sigma


def binned(reference: Path, current: Path, n_bins: int, sigma: Array) -> Array:
    """METRICS of two profiles, of shape (metrics, features)."""
    kept, found = (path.with_suffix(".profile") for path in (reference, current))
    profile_files([str(reference)], None, kept, n_bins)
    profile_files([str(current)], str(kept), found, n_bins)
    then, now = files.load(kept), files.load(found)
    bins = then.bins
    use = [bins.numeric.index(f"feature_n{i:02d}") for i in range(NUMERIC)]
    a, b = then.numeric[use, : bins.width], now.numeric[use, : bins.width]
    edges, sums, others = bins.padded_edges[use], then.values()[use], now.values()[use]
    deciles = statistics.merge_bins(a, b, groups=10)
    distance = moments.wasserstein_distance(edges, a, sums, b, others)
    return np.array(
        [
            statistics.ks_statistic(a, b),
            statistics.jensen_shannon_distance(*deciles),
            statistics.population_stability_index(*deciles),
            distance / sigma,
            distance / moments.binned_std(edges, a, sums),
        ]
    )


def errors(folder: Path, rows: int, shift: float, bins: list[int]) -> dict[str, dict[str, float]]:
    """Rows of the table for one pair of files."""
    reference, current = folder / "reference.parquet", folder / "current.parquet"
    measure.measure(script("data.py", reference, "--rows", str(rows), "--seed", "7"))
    measure.measure(script("data.py", current, "--rows", str(rows), "--seed", "8", "--shift", str(shift)))
    names = [f"feature_n{i:02d}" for i in range(NUMERIC)]
    truth = np.array([exact(column(reference, name), column(current, name)) for name in names]).T
    found = {}
    for n_bins in bins:
        off = np.abs(binned(reference, current, n_bins, truth[-1]) - truth[:-1])
        case = f"{rows:,} rows, {n_bins:,} bins, {f'{shift:.0%} wider' if shift else 'no drift'}"
        found[case] = {
            f"{name} {which.__name__}": float(which(off[i]))
            for which in (np.max, np.median)
            for i, name in enumerate(METRICS)
        }
    return found


def main() -> None:
    parser = measure.arguments(__doc__, repeats=1)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--bins", type=int, nargs="+", default=[256, 1024])
    given = parser.parse_args()
    table = Table(
        "Accuracy: statistics from profiles beside exact ones of the raw rows",
        f"Largest and median absolute error over the {NUMERIC} numeric features; exact: scipy's ks_2samp, "
        "jensenshannon and wasserstein_distance (W); JS and PSI on tenths of the reference; W in exact standard "
        "deviations of the reference (W / exact σ), and in those that the profile itself estimates (W/σ).",
    )
    for rows in given.rows:
        for shift in (0.0, 0.1):
            with tempfile.TemporaryDirectory() as folder:
                table.rows.update(errors(Path(folder), rows, shift, given.bins))
    measure.report([table], as_json=given.json, packages=["scipy"])


if __name__ == "__main__":
    main()
