"""At-least-once loggers: duplicates are counted, or dropped so that the figures are those without them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests import worlds
from tests.worlds import World, at, cli, rows_of

from hindcast.profile.sampling import DuplicateCounter

DROP = {"uri": "../alpha/logs", "duplicates": "drop"}
# What says that there were duplicates, and which files held them.
ABOUT = (
    "bytes",
    "manifest_digest",
    "config_digest",
    "duplicate_ids",
    "dropped_rows",
    "details",
    "late_rows",
    "late_seconds",
)


def tables_of(world: World) -> dict[str, list[dict[str, Any]]]:
    found = worlds.snapshot(world.results)
    for rows in found.values():
        for row in rows:
            for name in ABOUT:
                row.pop(name, None)
            row.pop("content" if "alert_id" not in row and row.get("check") == "pull" else "", None)
    return found


def rewritten(world: World, hour: int, parts: list[pa.Table]) -> None:
    """An hour in other files."""
    folder = world.partition(hour)
    for path in folder.glob("*.parquet"):
        path.unlink()
    for k, part in enumerate(parts):
        pq.write_table(part, folder / f"part-{k}.parquet", row_group_size=60)


def hour_of(world: World, hour: int) -> pa.Table:
    return pa.concat_tables(pq.read_table(path, partitioning=None) for path in sorted(world.partition(hour).glob("*")))


def test_without_duplicates_and_with_them_dropped_every_table_is_the_same(tmp_path: Path) -> None:
    """Also performance by late labels, the row facts, the sample and the importance that comes from it."""
    clean = worlds.write(tmp_path / "clean", hours=3, explain=True, logs=DROP)
    twice = worlds.copied(clean, tmp_path / "twice")
    draw = np.random.default_rng(3)
    for hour in range(3):
        table = hour_of(twice, hour)
        doubled = draw.integers(0, 300, 80)
        chosen = draw.permutation(np.append(np.arange(300), doubled))
        cut = sorted(draw.integers(0, chosen.size, 3).tolist())
        rewritten(twice, hour, [table.take(part) for part in np.split(chosen, cut)])
    for world in (clean, twice):
        for hour in range(3):
            worlds.check_window(world, hour)
    assert worlds.differences(tables_of(clean), tables_of(twice)) == []
    (row,) = rows_of(twice.results, "windows", window_start=at(2))
    assert (row["rows"], row["duplicate_ids"], row["dropped_rows"]) == (300, 80, 80)
    facts = [
        pq.read_table(world.folder / f"results/artifacts/{kind}/alpha/2024-03-04T02.parquet")
        for kind in ("facts", "samples") for world in (clean, twice)
    ]  # fmt: skip
    assert facts[0].sort_by("prediction_id").equals(facts[1].sort_by("prediction_id"))
    assert facts[2].equals(facts[3])


def test_by_default_they_count(tmp_path: Path) -> None:
    world = worlds.write(tmp_path / "world", hours=1)
    table = hour_of(world, 0)
    rewritten(world, 0, [table, table.slice(0, 30)])
    facts = worlds.check_window(world, 0)
    assert (facts["pull"]["rows"], facts["pull"]["duplicate_ids"], facts["pull"]["dropped_rows"]) == (330, 30, None)
    assert "* duplicate_ratio" in facts["quality"]["failed"]
    worlds.model_file(world, logs=DROP)
    facts = worlds.check_window(world, 0)
    assert (facts["pull"]["rows"], facts["pull"]["duplicate_ids"], facts["pull"]["dropped_rows"]) == (300, 30, 30)
    assert "* duplicate_ratio" not in facts["quality"]["failed"]


@pytest.mark.parametrize("threads", ["1", "3"])
@pytest.mark.parametrize("layout", ["one each", "reversed", "another type"])
def test_the_same_row_stays_whatever_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str, threads: str
) -> None:
    """The earliest; of one moment that with the smallest hash of its values, so the other rows go everywhere."""
    monkeypatch.setenv("HINDCAST_THREADS", threads)
    world = worlds.write(tmp_path / "world", hours=1, logs=DROP)
    table = hour_of(world, 0).slice(0, 100)
    moment = table["timestamp"].cast(pa.int64()).to_numpy()
    later = table.set_column(3, "timestamp", [pa.array(moment + 5, pa.int64()).cast(pa.timestamp("us", "UTC"))])
    later = later.set_column(later.schema.get_field_index("latency_ms"), "latency_ms", [[1e6] * 100])
    # the same moment and other values: whichever stays, it is one row, and the same each time
    other = table.set_column(table.schema.get_field_index("feature_amount"), "feature_amount", [np.full(100, 77.0)])
    copies = [later, table, other]
    parts = {
        "one each": copies,
        "reversed": [copy.take(np.arange(99, -1, -1)) for copy in reversed(copies)],
        "another type": [
            copies[0],
            copies[1].set_column(0, "prediction_id", [copies[1]["prediction_id"].dictionary_encode()]),
            copies[2].set_column(3, "timestamp", [copies[2]["timestamp"].cast(pa.timestamp("ns"))]),
        ],
    }[layout]  # fmt: skip
    rewritten(world, 0, parts)
    facts = worlds.check_window(world, 0)["pull"]
    assert (facts["rows"], facts["duplicate_ids"], facts["dropped_rows"]) == (100, 200, 200)
    kept = pq.read_table(world.folder / "results/artifacts/facts/alpha/2024-03-04T00.parquet").sort_by("prediction_id")
    wanted = table.sort_by("prediction_id")
    assert kept["timestamp"].cast(pa.timestamp("us", "UTC")).equals(wanted["timestamp"])
    assert kept["latency_ms"].equals(wanted["latency_ms"])
    # which of the two rows of one moment stayed: the same ones, and neither always the first nor the last file's
    path = world.folder / "results/artifacts/samples/alpha/2024-03-04T00.parquet"
    stayed = pq.read_table(path)
    rewritten(world, 0, [pa.concat_tables(copies)])
    worlds.check_window(world, 0)
    assert pq.read_table(path).equals(stayed)
    assert 10 < sum(value == 77.0 for value in stayed["amount"].to_pylist()) < 90


def test_looking_at_copies_does_not_import_pandas() -> None:
    """Which `pa.array` of a list does, for a third of a second in every task that has a duplicate."""
    program = """
import sys
import numpy as np, pyarrow as pa
from hindcast.engines.repeats import content_of
from hindcast.profile.columns import Rows, arrow
rows = Rows(pa.table({"a": arrow(["x", "y", "x"], pa.string()), "b": arrow([1, 2, 1], pa.int64())}))
first, second, third = content_of(rows, ["a", "b"], np.arange(3)).tolist()
assert first == third != second
assert "pandas" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_rows_without_an_id_are_all_kept(tmp_path: Path) -> None:
    world = worlds.write(tmp_path / "world", hours=1, logs=DROP)
    table = hour_of(world, 0)
    anonymous = table.set_column(0, "prediction_id", [pa.nulls(300, pa.string())])
    rewritten(world, 0, [table, table, anonymous, anonymous])
    facts = worlds.check_window(world, 0)["pull"]
    assert (facts["rows"], facts["duplicate_ids"]) == (900, 300)
    rewritten(world, 0, [table.drop_columns(["prediction_id"]), table.drop_columns(["timestamp"]), table])
    facts = worlds.check_window(world, 0)["pull"]
    assert (facts["rows"], facts["duplicate_ids"]) == (600, 300)


def test_in_the_flat_layout_a_row_of_another_hour_never_takes_the_place(tmp_path: Path) -> None:
    world = worlds.write(tmp_path / "world", hours=1, logs=DROP)
    table = hour_of(world, 0)
    earlier = pa.array(table["timestamp"].cast(pa.int64()).to_numpy() - 3_600_000_000).cast(pa.timestamp("us", "UTC"))
    for path in world.partition(0).glob("*"):
        path.unlink()
    world.partition(0).rmdir()
    world.partition(0).parent.rmdir()
    for name, part in (("00-30-00_a", table), ("00-40-00_b", table.set_column(3, "timestamp", [earlier]))):
        pq.write_table(part, world.logs() / f"2024-03-04T{name}.parquet")
    facts = worlds.check_window(world, 0)["pull"]
    assert (facts["rows"], facts["duplicate_ids"]) == (300, 0)


def test_a_damaged_object_takes_part_in_nothing(tmp_path: Path) -> None:
    """Its rows are dropped by nobody's doing but its own, and drop no other."""
    world = worlds.write(tmp_path / "world", hours=1, logs=DROP)
    table = hour_of(world, 0)
    rewritten(world, 0, [table, table])
    path = world.partition(0) / "part-0.parquet"
    content = bytearray(path.read_bytes())
    content[200 : len(content) // 2] = bytes(len(content) // 2 - 200)
    path.write_bytes(bytes(content))
    facts = worlds.check_window(world, 0)["pull"]
    assert (facts["status"], facts["rows"], facts["duplicate_ids"]) == ("partial", 300, 0)


def test_they_count_or_are_dropped_and_nothing_else(tmp_path: Path) -> None:
    world = World(tmp_path)
    worlds.model_file(world, logs={**DROP, "duplicates": "keep"})
    found = cli(world, "validate")
    said = "logs.duplicates: got 'keep'; allowed: 'count' or 'drop'"
    assert (found.exit_code, said in found.output) == (2, True), found.output


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(-50, 50), max_size=30), max_size=8), st.integers(1, 40))
def test_repeated_ids_are_found_also_when_they_spill(parts: list[list[int]], in_memory: int) -> None:
    counter = DuplicateCounter(in_memory)
    for part in parts:
        counter.add(np.array(part, np.int64) * 2**57)
    flat = [key * 2**57 % 2**64 for part in parts for key in part]
    wanted = sorted({key for key in flat if flat.count(key) > 1})
    assert counter.count() == len(flat) - len(set(flat))
    found = [int(key) % 2**64 for keys in counter.repeated(at_once=3) for key in keys]
    counter.close()
    assert sorted(found) == wanted


def test_details_say_nothing_of_ids(tmp_path: Path) -> None:
    world = worlds.write(tmp_path / "world", hours=1, logs=DROP)
    worlds.check_window(world, 0)
    (row,) = rows_of(world.results, "windows")
    assert "alpha-0-" not in json.dumps(row)
