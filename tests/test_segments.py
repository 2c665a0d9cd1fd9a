"""Drift per segment and version, and baselines by name: from logs to the rows of the table, by the command."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests import worlds
from tests.worlds import World, at, check_window, cli_json, rows_of, write_hours

from hindcast.checks.segments import drifted_segments

if TYPE_CHECKING:
    from pathlib import Path

HOURS, LAST = 7, 6
BASELINES = ["reference", "seasonal", "previous_window", "trailing_2d", "same_hour_4w"]


def put(table: pa.Table, name: str, values: Any) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), name, values)


def odd(table: pa.Table) -> pa.Table:
    """Distances of WN double, its loads are gone, DL says nothing, and every fifth row is of another version."""
    carrier = np.asarray(table["feature_carrier"])
    distance = np.asarray(table["feature_distance"])
    table = put(table, "feature_distance", pa.array(np.where(carrier == "WN", 2 * distance, distance)))
    load = table["feature_load"].to_pylist()
    table = put(table, "feature_load", pa.array([None if c == "WN" else v for c, v in zip(carrier, load, strict=True)]))
    table = put(table, "model_version", pa.array(np.where(np.arange(table.num_rows) % 5 == 0, "2", "1")))
    return table.filter(pa.array(carrier != "DL"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = worlds.write(
        tmp_path_factory.mktemp("segments") / "world", hours=LAST, rows=800, drift={"baselines": BASELINES},
        segments=["carrier", "origin", "region"],
    )  # fmt: skip
    write_hours(world, [LAST], rows=800, fault=odd)
    for hour in range(HOURS):
        check_window(world, hour, "--only", "drift")
    return world


def of(world: World, **key: Any) -> list[dict[str, Any]]:
    return rows_of(world.results, "drift", **{"window_start": at(LAST), **key})


def test_a_drift_of_one_segment_that_the_whole_does_not_show_is_found_and_wakes_nobody(world: World) -> None:
    rows = of(world, feature="distance")
    far = {(row["segment"], row["baseline"]) for row in rows if row["drifted"]}
    assert far == {("carrier=WN", name) for name in ("reference", "seasonal", "previous_window", "trailing_2d")}
    assert rows_of(world.results, "findings", model_name="alpha", subject="distance") == []
    (row,) = [row for row in rows if row["metric"] == "ks_statistic" and row["baseline"] == "seasonal"
              and row["segment"] == "carrier=WN"]  # fmt: skip
    assert row["p_value"] < 1e-6
    assert row["reason"] == "against the last 6 hours"


def test_segments_that_did_not_change_have_not_drifted(world: World) -> None:
    calm = [row for row in of(world) if row["segment"].startswith("origin=") and row["feature"] in {"amount", "stops"}]
    assert len({row["segment"] for row in calm}) == 3
    assert not any(row["drifted"] for row in calm)


def test_rows_of_a_segment_are_those_of_its_rows(world: World) -> None:
    """Counted by hand from the logs."""
    table = odd(worlds.hour_table("alpha", LAST, 800))
    for carrier in ("WN", "UA"):
        n = table["feature_carrier"].to_pylist().count(carrier)
        found = of(world, segment=f"carrier={carrier}", feature="amount", metric="ks_statistic", baseline="reference")
        assert [row["n_current"] for row in found] == [n]


def test_versions_of_a_window_are_held_against_all_rows_of_the_baseline(world: World) -> None:
    rows = of(world, feature="amount", metric="ks_statistic", baseline="seasonal")
    seen = {row["segment"]: (row["model_version"], row["n_current"]) for row in rows}
    total = odd(worlds.hour_table("alpha", LAST, 800))["model_version"].to_pylist()
    assert seen["model_version=2"] == ("2", total.count("2"))
    assert seen["model_version=1"] == ("1", total.count("1"))
    assert not [r for r in rows_of(world.results, "drift", window_start=at(0)) if "version" in r["segment"]]


def test_what_cannot_be_judged_of_a_segment_is_said_and_is_no_number(world: World) -> None:
    (row,) = of(world, segment="carrier=WN", feature="load", metric="ks_statistic", baseline="reference")
    assert (row["status"], row["value"], row["drifted"]) == ("all_null", None, None)
    assert of(world, segment="carrier=DL") == []  # no rows, no slice
    assert of(world, segment="region=*") == []  # no log has the column
    for row in of(world):
        assert row["status"] != "ok" or math.isfinite(row["value"])
        assert row["value"] is not None or row["reason"]


def test_every_baseline_of_the_model_file_has_rows_where_it_has_hours(world: World) -> None:
    whole = of(world, segment="*", feature="amount", metric="ks_statistic")
    reasons = {row["baseline"]: row["reason"] for row in whole}
    assert reasons["previous_window"] == "against the window before"
    assert reasons["trailing_2d"] == "against the 6 hours with rows of the last 2 days"
    assert "same_hour_4w" not in reasons  # the world is younger
    sizes = {row["baseline"]: row["n_baseline"] for row in whole}
    assert (sizes["previous_window"], sizes["trailing_2d"], sizes["reference"]) == (800, 4800, 20_000)
    assert not rows_of(world.results, "drift", baseline="previous_version")


def test_the_diagnosis_names_the_segment(world: World) -> None:
    worlds.check_window(world, LAST)
    found = cli_json(world, "diagnose", "alpha", "--from", worlds.text(LAST), "--to", worlds.text(LAST + 1))
    assert any(line.startswith("carrier=WN: distance") for line in found["segments"])


def test_the_report_has_a_table_of_drifted_segments(world: World, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    assert worlds.cli(world, "report", "alpha", "--window", worlds.text(LAST), "-o", str(page)).exit_code == 0
    table = page.read_text().partition('id="drift-segments"')[2].partition("</table>")[0]
    assert "carrier=WN" in table
    assert "distance" in table


def test_a_small_segment_has_one_row_that_says_so(tmp_path: Path) -> None:
    world = worlds.write(tmp_path / "world", hours=1, rows=60)
    check_window(world, 0, "--only", "drift")
    small = of(world, window_start=at(0), segment="carrier=WN")
    assert [(row["feature"], row["status"]) for row in small] == [("*", "insufficient_data")]
    assert small[0]["reason"].endswith("rows; 20 are needed")


def test_the_worst_hour_of_a_drifted_segment_is_told_once() -> None:
    base = {"segment": "a=1", "feature": "f", "metric": "jensen_shannon_distance", "drifted": True}
    rows = [{**base, "window_start": k, "value": v} for k, v in enumerate((0.2, 0.4, 0.3))]
    others = [{**base, "segment": "*", "window_start": 0, "value": 1.0}, {**base, "drifted": False, "feature": "g"}]
    assert [(row["value"], hours) for row, hours in drifted_segments([*rows, *others])] == [(0.4, 3)]


def test_what_a_column_is_like_is_said_of_the_whole_and_of_each_segment(tmp_path: Path) -> None:
    world = worlds.write(tmp_path / "world", features=None, labels="none")
    constant = worlds.reference(5000).append_column("feature_const", pa.array([1.0] * 5000))
    constant = constant.append_column("feature_void", pa.nulls(5000, pa.float64()))
    pq.write_table(constant, world.folder / "reference.parquet")

    def strange(table: pa.Table) -> pa.Table:
        n = table.num_rows
        table = table.append_column("feature_const", pa.array([1.0] * n)).drop_columns(["feature_distance"])
        table = table.append_column("feature_extra", pa.array(range(n)))
        table = table.append_column("feature_void", pa.array(range(n)))
        table = put(table, "feature_origin", pa.array(np.arange(n) % 3 + 0.5))
        table = put(table, "feature_load", pa.nulls(n, pa.float64()))
        return put(table, "feature_stops", pa.array(["many"] * n))

    write_hours(world, [0], fault=strange, labels="none")
    check_window(world, 0)
    expected = {
        "distance": "missing_column", "load": "all_null", "stops": "type_changed", "const": "constant", "amount": "ok",
        "origin": "type_changed",
    }  # fmt: skip
    for segment in ("*", "carrier=AA"):
        rows = of(world, window_start=at(0), segment=segment)
        found = {row["feature"]: row["status"] for row in rows if row["feature"] in expected}
        assert found == expected
        assert all(row["value"] is None or math.isfinite(row["value"]) for row in rows)
    for name in ("extra", "void"):
        assert [row["status"] for row in rows_of(world.results, "quality", subject=name)] == ["new_column"]
        assert [row["status"] for row in of(world, window_start=at(0), feature=name)] == ["new_column"]
    (gone,) = of(world, window_start=at(0), segment="*", feature="load", metric="missing_ratio_change")
    assert gone["value"] == pytest.approx(0.98, abs=0.02)
    assert gone["p_value"] < 1e-9
    check_window(world, 0)  # replaces its rows
    assert len(of(world, window_start=at(0), feature="extra")) == 1
