"""The label as a subject of drift: judged at the largest label age, shown beside reference and earlier hours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tests import worlds
from tests.worlds import World, at, check_window, naive_join, rows_of, write_hours

if TYPE_CHECKING:
    from pathlib import Path

LAST = 4


def put(table: pa.Table, name: str, values: Any) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), name, values)


def mostly_ones(table: pa.Table) -> pa.Table:
    truth = np.asarray(table["ground_truth"]).copy()
    truth[::2] = 1
    return put(table, "ground_truth", pa.array(truth))


def made(folder: Path, truth: Any, *, fault: Any, **keys: Any) -> World:
    world = worlds.write(folder / "world", hours=LAST, rows=400, **keys)
    table = worlds.reference(5000)
    pq.write_table(table.append_column("ground_truth", truth(table)), world.folder / "reference.parquet")
    write_hours(world, [LAST], rows=400, fault=fault)
    for hour in range(LAST + 1):
        check_window(world, hour, "--only", "drift,performance")
    return world


def of(world: World, **key: Any) -> list[dict[str, Any]]:
    return rows_of(world.results, "drift", feature="ground_truth", **key)


def test_late_labels_that_changed_are_shown_and_wake_nobody(tmp_path: Path) -> None:
    world = made(tmp_path, lambda t: pa.array((np.asarray(t["feature_amount"]) > 50).astype(int)), fault=mostly_ones)
    rows = of(world, window_start=at(LAST), metric="chi2_statistic")
    assert {row["baseline"]: row["drifted"] for row in rows} == {"reference": 1, "seasonal": 1}
    known = naive_join(world, LAST, at(LAST + 1 + 24) + worlds.SETTLE)
    assert {row["n_current"] for row in rows} == {len(known)}
    before = of(world, window_start=at(LAST - 1), metric="jensen_shannon_distance")
    assert before
    assert not any(row["drifted"] for row in before)
    assert not [row for row in rows_of(world.results, "findings", check="drift") if row["subject"] == "ground_truth"]
    assert not rows_of(world.results, "drift", feature="ground_truth", status="error")
    check_window(world, LAST, "--only", "drift")  # writes its own rows again, and leaves these
    assert of(world, window_start=at(LAST), metric="chi2_statistic") == rows


def test_numbers_are_compared_in_the_bins_of_the_references_labels(tmp_path: Path) -> None:
    def noisy(table: pa.Table) -> pa.Array:
        return pa.array(np.asarray(table["feature_amount"]) * 2.0)

    def higher(table: pa.Table) -> pa.Table:
        return put(put(table, "prediction", pa.array(np.asarray(noisy(table)) + 1)), "ground_truth",
                   pa.array(np.asarray(noisy(table)) + 40))  # fmt: skip

    world = made(tmp_path, noisy, fault=higher, task="regression", positive_class=None, segments=[])
    (row,) = of(world, window_start=at(LAST), metric="ks_statistic", baseline="reference")
    assert row["drifted"] == 1
    assert row["value"] > 0.5
    assert row["reason"] == "labels 24 h old, against the reference"


def test_without_labels_in_the_reference_earlier_hours_are_the_only_baseline(tmp_path: Path) -> None:
    world = worlds.write(tmp_path / "world", hours=LAST + 1, rows=300)
    for hour in range(LAST + 1):
        check_window(world, hour, "--only", "drift,performance")
    assert {row["baseline"] for row in of(world, window_start=at(LAST))} == {"seasonal"}
    assert of(world, window_start=at(0)) == []
