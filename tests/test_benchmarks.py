"""Every benchmark runs at a tiny size and prints its table; what the figures are is nobody's business here."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT / "benchmarks"


def run(name: str, *options: str) -> str:
    command = [sys.executable, str(BENCHMARKS / name), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=400)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("name", "options", "variants", "metrics"),
    [
        ("kernel.py", "--rows 2000 --repeats 1", {"2,000 rows: decode", "2,000 rows: profile, bins given"}, {"CPU"}),
        ("accuracy.py", "--rows 500 --bins 64", {"500 rows, 64 bins, no drift"}, {"KS max", "W/σ median"}),
        ("files.py", "--scale 0.001 --repeats 1", {"2 files", "one file"}, {"peak", "net ratio"}),
        ("sdk.py", "--records 2000 --blocks 3 --seconds 0.1 --repeats 1", {"PredictionLogger.log"}, {"ns", "p99.9"}),
        ("repeats.py", "--rows 3000 --repeats 1", {"0.0% duplicated, count", "0.1% duplicated, drop"}, {"dropped"}),
        ("buckets.py", "--objects 40 --hours 4", {"pin one hour", "pin and open one hour"}, {"objects", "requests"}),
        ("job.py", "--rows 2000 --repeats 1", {"pull", "performance", "all"}, {"CPU"}),
        ("explanations.py", "--scale 0.01 --repeats 1", {"permutation of LightGBM"}, {"largest difference"}),
    ],
)  # fmt: skip
def test_a_benchmark_prints_a_figure_for_every_variant_and_metric(
    name: str, options: str, variants: set[str], metrics: set[str]
) -> None:
    figures = json.loads(run(name, *options.split(), "--json"))
    assert all(set(figure) == {"benchmark", "variant", "metric", "value", "unit"} for figure in figures)
    assert variants <= {figure["variant"] for figure in figures}
    assert metrics <= {figure["metric"] for figure in figures}
    assert all(math.isfinite(figure["value"]) for figure in figures)


def test_peers_that_are_not_installed_are_said_and_ours_is_measured(tmp_path: Path) -> None:
    said = run("peers.py", "--rows", "2000", "--installed", "--envs", str(tmp_path))
    table = [line for line in said.splitlines() if line.startswith("|")]
    assert [line.split("|")[1].strip() for line in table[2:]] == [
        "Hindcast, one thread, reference profile kept",
        "Hindcast, one thread, reference profiled too",
    ]
    assert "Skipped: Evidently, drift preset: not installed yet." in said
    assert "hindcast" in said.splitlines()[0]


def test_exact_and_binned_statistics_agree_where_every_value_has_its_own_bin(tmp_path: Path) -> None:
    """The benchmark's own exact side, on rows whose profile loses nothing."""
    script = """
import sys
import numpy as np, accuracy
from hindcast.drift import statistics
reference, current = np.array([0.0, 0, 0, 1, 1, 2]), np.array([0.0, 1, 1, 2, 2])
ks, js, psi, *_ = accuracy.exact(reference, current)
a, b = statistics.merge_bins([3, 2, 1], [1, 2, 2], groups=10)
print(ks - statistics.ks_statistic(a, b), js - statistics.jensen_shannon_distance(a, b),
      psi - statistics.population_stability_index(a, b))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=BENCHMARKS, timeout=400
    )
    assert done.returncode == 0, done.stderr
    assert max(abs(float(difference)) for difference in done.stdout.split()) < 1e-12


def test_a_benchmark_ends_with_the_message_of_a_process_that_failed() -> None:
    script = "import measure; measure.measure(measure.python('raise SystemExit(\"no such thing\")'))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=BENCHMARKS, timeout=400
    )
    assert done.returncode == 1
    assert "no such thing" in done.stderr


def test_simulated_hours_are_distributed_as_rows_that_are_drawn_and_counted() -> None:
    """Of every feature, the counts of both ways: one homogeneity test each, none of fifty beyond 1 in 50,000."""
    script = """
import numpy as np
from alert_worlds import World
from hindcast.drift.significance import chi2_pvalue
from hindcast.drift.statistics import chi2_statistic, degrees_of_freedom, pool_rare
world = World("quiet", 3, n_bins=32)
drawn, counted = (sum((make(h) for h in range(700, 712)), start=make(699)) for make in (world.profile, world.rows_of))
for name in ("numeric", "categorical"):
    pooled = pool_rare(getattr(drawn, name), getattr(counted, name))
    p = chi2_pvalue(chi2_statistic(*pooled), degrees_of_freedom(*pooled))
    print(drawn.rows == counted.rows, len(p), p.min() > 2e-5, np.median(p) > 0.2)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=BENCHMARKS, timeout=400
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["True 38 True True", "True 12 True True"]


def test_alert_quality_counts_episodes_of_every_rule() -> None:
    figures = json.loads(run("alert_quality.py", "--worlds", "quiet", "--seeds", "0", "--bins", "16", "--json"))
    rules = {figure["variant"] for figure in figures if figure["metric"] == "false a week"}
    assert {f"{rule}: quiet" for rule in ("Hindcast", "textbook", "Evidently", "NannyML")} <= rules
    assert all(math.isfinite(figure["value"]) for figure in figures)
