"""After a refit, hours stored in other bins are re-binned, profiled again, or said to be left out."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
from tests import worlds
from tests.worlds import World, check_window, model_file, rows_of

from hindcast.profile.bins import Bins
from hindcast.profile.rebin import rebinned, resliced
from hindcast.profile.scan import Scanner
from hindcast.profile.slices import Slices, Slicing

if TYPE_CHECKING:
    from pathlib import Path

    from hindcast.profile.profile import Profile

LAST = 4


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = worlds.write(tmp_path_factory.mktemp("refit") / "world", hours=LAST + 1, rows=200)
    for hour in range(LAST):
        check_window(world, hour, "--only", "drift")
    return world


def after(checked: World, folder: Path, **keys: Any) -> tuple[World, str, list[dict[str, Any]]]:
    """The last hour, checked under another model file: the reason of the check, and the profiles."""
    world = worlds.copied(checked, folder)
    model_file(world, **keys)
    check_window(world, LAST, "--only", "drift")
    (found,) = rows_of(world.results, "checks", check="drift", window_start=worlds.at(LAST))
    return world, found["reason"], rows_of(world.results, "profiles")


def by_hour(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: str(row["window_start"]))


def test_bins_that_nest_are_made_of_the_old_ones_without_a_look_at_the_logs(checked: World, tmp_path: Path) -> None:
    features = {"amount": {"type": "numeric"}, "carrier": {"type": "categorical"}}
    world = worlds.copied(checked, tmp_path / "gone")
    for hour in range(LAST):
        shutil.rmtree(world.partition(hour))
    world, reason, profiles = after(world, tmp_path / "world", features=features)
    assert reason == f"the reference was fitted anew: {LAST} hours re-binned"
    assert len({row["bins_digest"] for row in profiles}) == 1
    seasonal = rows_of(world.results, "drift", window_start=worlds.at(LAST), segment="carrier=AA", baseline="seasonal")
    assert "ok" in {row["status"] for row in seasonal}
    fresh = worlds.copied(checked, tmp_path / "fresh")
    model_file(fresh, features=features)
    store = fresh.store_at("anew")
    for hour in range(LAST + 1):
        check_window(fresh, hour, "--only", "drift", results=store)
    assert by_hour(rows_of(store, "slices")) == by_hour(rows_of(world.results, "slices"))


def test_bins_that_cut_through_are_counted_anew_from_the_logs(checked: World, tmp_path: Path) -> None:
    world, reason, profiles = after(
        checked, tmp_path / "world", drift={"bins": 64, "baselines": ["reference", "trailing_1d"]}
    )
    assert reason == f"the reference was fitted anew: {LAST} profiled again from the logs"
    assert len({row["bins_digest"] for row in profiles}) == 1
    (row,) = rows_of(
        world.results, "drift", feature="amount", metric="ks_statistic", baseline="trailing_1d", segment="*"
    )
    assert row["n_baseline"] == 200 * LAST
    segment = rows_of(world.results, "drift", baseline="trailing_1d", segment="carrier=AA", feature="amount")
    assert {row["status"] for row in segment} == {"ok"}
    fresh = worlds.copied(world, tmp_path / "fresh")
    store = fresh.store_at("anew")
    for hour in range(LAST + 1):
        check_window(fresh, hour, "--only", "drift", results=store)
    for name in ("profiles", "slices"):
        assert by_hour(rows_of(store, name)) == by_hour(rows_of(world.results, name))


def test_hours_whose_logs_are_gone_or_changed_are_left_out_and_named(checked: World, tmp_path: Path) -> None:
    world = worlds.copied(checked, tmp_path / "gone")
    shutil.rmtree(world.partition(0))
    shutil.rmtree(world.partition(1))
    (world.partition(2) / "part-0.parquet").unlink()
    _, reason, profiles = after(world, tmp_path / "world", drift={"bins": 64})
    assert "1 profiled again from the logs, 3 left out of baselines" in reason
    assert len({row["bins_digest"] for row in profiles}) == 2


def sliced(slicing: Slicing, rows: pa.Table) -> Slices:
    scanner = Scanner(slicing.bins, slicing=slicing)
    scanner.add(rows)
    found = scanner.slices
    assert found is not None
    return found


def test_slices_in_other_bins_are_what_counting_anew_would_have_given() -> None:
    edges, fine = np.linspace(-2, 2, 21), np.linspace(-2, 2, 41)
    asked = {"feature_c": {"feature_c": ("x", "w")}, "model_version": {"model_version": None}}
    rows = table(2000, 7).append_column("model_version", pa.array(["1", "2"] * 1000))
    old = Slicing(Bins(("feature_a",), (fine,), ("feature_c",), (("x", "y", "z"),)), (edges,), asked)
    for categories, coarse in ((("z", "x", "y"), edges[::4]), (("x", "y"), edges), (("x",), edges[[3]])):
        new = Slicing(Bins(("feature_a",), (fine,), ("feature_c",), (categories,)), (coarse,), asked)
        assert resliced(sliced(old, rows), new) == sliced(new, rows)
    assert resliced(Slices(old), new) == Slices(new)
    cut = Slicing(old.bins, (np.array([0.05]),), asked)
    told_apart = Slicing(replace(old.bins, categories=(("x", "y", "z", "w"),)), (edges,), asked)  # w was new
    for new in (cut, told_apart, Slicing(replace(old.bins, numeric=("feature_b",)), (edges,), asked)):
        assert resliced(sliced(old, rows), new) is None


def test_values_that_lay_together_stay_together_or_are_refused() -> None:
    values = [f"v{k:02}" for k in range(40)]
    rows = pa.table({"feature_c": values * 3, "model_version": ["1", "2"] * 60})
    asked = {"model_version": {"model_version": None}}
    old = Slicing(Bins((), (), ("feature_c",), (tuple(values),)), (), asked)
    swapped = Slicing(Bins((), (), ("feature_c",), ((values[1], values[0], *values[2:]),)), (), asked)
    assert resliced(sliced(old, rows), swapped) == sliced(swapped, rows)
    fewer = Slicing(Bins((), (), ("feature_c",), (tuple(values[:31]),)), (), asked)
    assert resliced(sliced(old, rows), fewer) == sliced(fewer, rows)
    torn = Slicing(Bins((), (), ("feature_c",), (tuple(values[:35]),)), (), asked)
    assert resliced(sliced(old, rows), torn) is None


def table(n: int, seed: int) -> pa.Table:
    rng = np.random.default_rng(seed)
    return pa.table(
        {
            "feature_a": pa.array(np.where(rng.random(n) < 0.1, np.inf, rng.normal(0, 1, n)), mask=rng.random(n) < 0.1),
            "feature_c": [("x", "y", "z", "w", None)[k] for k in rng.integers(0, 5, n)],
        }
    )


def profiled(bins: Bins, rows: pa.Table) -> Profile:
    scanner = Scanner(bins)
    scanner.add(rows)
    return scanner.profile


def test_rebinning_is_what_counting_in_the_new_bins_would_have_given() -> None:
    edges = np.linspace(-2, 2, 41)
    fine = Bins(("feature_a",), (edges,), ("feature_c",), (("x", "y"),))
    for new in (
        Bins(("feature_a",), (edges[::5],), ("feature_c",), (("y", "x"),)),
        Bins(
            ("feature_a",), (edges[[0, 3, 9, 40]],), ("feature_c",), (("x", "z", "y"),)
        ),  # z was new, and known by name
        Bins((), (), ("feature_c",), (("x", "y"),)),
    ):
        rows = table(3000, 5)
        found, expected = rebinned(profiled(fine, rows), new), profiled(new, rows)
        assert found is not None
        np.testing.assert_allclose(found.values(), expected.values(), rtol=1e-6, atol=1e-5)
        assert replace(found, sums=expected.sums) == expected


@pytest.mark.parametrize(
    "new",
    [
        Bins(("feature_a",), (np.array([-2, 0.05, 2]),), ("feature_c",), (("x", "y"),)),  # cuts through a bin
        Bins(("feature_a",), (np.array([-2.0, 0, 9]),), ("feature_c",), (("x", "y"),)),  # other ends
        Bins(("feature_b",), (np.array([-2.0, 2]),), ("feature_c",), (("x", "y"),)),  # another column
        Bins(("feature_a",), (np.array([-2.0, 2]),), ("feature_c",), (("x",),)),  # loses a value with rows
    ],
)
def test_bins_that_do_not_nest_are_refused(new: Bins) -> None:
    fine = Bins(("feature_a",), (np.linspace(-2, 2, 41),), ("feature_c",), (("x", "y"),))
    assert rebinned(profiled(fine, table(500, 1)), new) is None
