"""Replay: the same tables whatever the number of processes, however often it is interrupted, in whatever pieces."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from tests import worlds
from tests.worlds import at, cli, cli_json, rows_of, snapshot, text

from hindcast.replay import replay

HOURS = 28
COMMAND = Path(sys.executable).parent / "hindcast"


def broken(world: worlds.World) -> None:
    """An hour without logs, one with an unreadable object, one that is a copy of another's rows."""
    for path in world.partition(9).iterdir():
        path.unlink()
    (world.partition(17) / "part-1.parquet").write_bytes(b"no parquet")
    pq.write_table(
        pq.read_table(world.partition(20) / "part-0.parquet", partitioning=None), world.partition(20) / "part-2.parquet"
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> worlds.World:
    """Twenty-eight hours: good ones, odd ones, and at the end three with a fall of accuracy and a shifted feature."""
    made = worlds.write(tmp_path_factory.mktemp("replay") / "w", hours=HOURS - 3, rows=200, explain=True)
    worlds.write_hours(made, range(HOURS - 3, HOURS), rows=200, accuracy=0.5)
    broken(made)
    return made


def replayed(world: worlds.World, store: str, first: int = 0, last: int = HOURS, **options: Any) -> dict[str, Any]:
    return replay("alpha", at(first), at(last), config=str(world.models), results=store, **options)


@pytest.fixture(scope="module")
def expected(world: worlds.World) -> dict[str, Any]:
    """What one process leaves, in one go."""
    assert replayed(world, world.results) == {"windows": HOURS, "skipped": 0, "errors": 0}
    assert rows_of(world.results, "alerts")
    return snapshot(world.results)


def test_two_processes_leave_the_same_tables_as_one(world: worlds.World, expected: dict[str, Any]) -> None:
    store = world.store_at("two")
    assert replayed(world, store, jobs=2)["errors"] == 0
    assert worlds.differences(expected, snapshot(store)) == []
    assert worlds.artifacts(store) == worlds.artifacts(world.results)


def test_a_second_replay_does_nothing(world: worlds.World, expected: dict[str, Any]) -> None:
    before = snapshot(world.results, ignore=())
    assert replayed(world, world.results) == {"windows": HOURS, "skipped": HOURS, "errors": 0}
    assert worlds.differences(before, snapshot(world.results, ignore=())) == []


def test_a_replay_repeated_from_the_middle_leaves_the_same_tables(
    world: worlds.World, expected: dict[str, Any]
) -> None:
    assert replayed(world, world.results, 20, again=True)["skipped"] == 0
    assert worlds.differences(expected, snapshot(world.results)) == []


def test_a_replay_in_pieces_leaves_the_same_tables(world: worlds.World, expected: dict[str, Any]) -> None:
    """Nothing that a process holds in memory decides anything."""
    store = world.store_at("pieces")
    for first, last in pairwise((0, 1, 2, 9, 10, 24, 25, 27, HOURS)):
        replayed(world, store, first, last)
    assert worlds.differences(expected, snapshot(store)) == []


def waited(process: subprocess.Popen[bytes], store: str, windows: int) -> None:
    path = Path(store.removeprefix("sqlite:///"))
    while process.poll() is None:
        if path.exists() and path.stat().st_size and len(_checked(store)) >= windows:
            return
        time.sleep(0.02)


def _checked(store: str) -> list[Any]:
    try:
        return rows_of(store, "checks", check="triage")
    except Exception:  # noqa: BLE001 - the table may not be there yet
        return []


def test_a_replay_that_is_killed_goes_on_and_leaves_the_same_tables(
    world: worlds.World, expected: dict[str, Any]
) -> None:
    """SIGKILL of the real command with two processes; neither of them outlives it."""
    store = world.store_at("killed")
    command = [COMMAND, "replay", "alpha", "--from", text(0), "--to", text(HOURS), "--jobs", "2"]
    process = subprocess.Popen(
        [*command, "--config", world.models, "--results", store], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    waited(process, store, 5)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert _gone(process.pid)
    done = len(_checked(store))
    assert 5 <= done < HOURS
    facts = replayed(world, store)
    assert facts["skipped"] >= done - 1
    assert worlds.differences(expected, snapshot(store)) == []
    assert worlds.artifacts(store) == worlds.artifacts(world.results)


def _gone(session: int) -> bool:
    """No process of the session is left, after ten seconds at most."""
    for _ in range(500):
        if not any(_session(path) == session for path in Path("/proc").glob("[0-9]*/stat")):
            return True
        time.sleep(0.02)
    return False


def _session(stat: Path) -> int | None:
    try:
        fields = stat.read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[3])


def test_logs_can_be_pulled_first_and_judged_later(world: worlds.World, expected: dict[str, Any]) -> None:
    store = world.store_at("later")
    cli_json(
        world, "replay", "alpha", "--from", text(0), "--to", text(HOURS), "--only", "pull", "--jobs", "1", results=store
    )
    pulled = snapshot(store)
    assert worlds.differences({n: expected[n] for n in ("windows", "profiles", "references")}, pulled) == []
    assert {row["check"] for row in pulled["checks"]} == {"pull"}
    logs = world.logs()
    logs.rename(logs.with_name("away"))  # drift needs no logs any more
    try:
        facts = cli_json(
            world, "replay", "alpha", "--from", text(0), "--to", text(HOURS), "--only", "drift", results=store
        )
    finally:
        logs.with_name("away").rename(logs)
    assert facts == {"model": "alpha", "windows": HOURS, "skipped": 0, "errors": 0}
    after = snapshot(store)
    for name in ("windows", "profiles"):
        assert after[name] == expected[name]
    # how labels moved is told where labels are joined: by performance
    assert after["drift"] == [row for row in expected["drift"] if row["feature"] != "ground_truth"]
    assert [f for f in expected["findings"] if f["check"] == "drift"] == after["findings"]


def test_the_end_of_a_range_is_exclusive(world: worlds.World) -> None:
    store = world.store_at("range")
    facts = cli_json(world, "replay", "alpha", "--from", text(3), "--to", text(5), "--only", "pull", results=store)
    assert facts["windows"] == 2
    starts = {row["window_start"][:13] for row in rows_of(store, "windows")}
    assert starts == {f"{at(hour):%Y-%m-%d %H}" for hour in (3, 4)}
    assert cli(world, "replay", "alpha", "--from", text(5), "--to", text(5), results=store).exit_code == 2


def test_each_hour_is_replayed_as_of_its_own_settle_time(world: worlds.World, expected: dict[str, Any]) -> None:
    for row in expected["windows"]:
        assert row["as_of"] == row["window_end"] + worlds.SETTLE
    for row in expected["performance"]:
        assert row["as_of"] == row["window_start"] + worlds.HOUR + worlds.SETTLE + row["label_age_hours"] * worlds.HOUR
    assert all(finding["detected_at"] <= at(HOURS) + worlds.SETTLE for finding in expected["findings"])


def test_a_failed_hour_is_tried_again_and_stops_no_other(world: worlds.World) -> None:
    copy = worlds.copied(world, world.folder.parent / "failed")
    store = copy.store_at("failed")
    good = {path: path.read_bytes() for path in copy.partition(4).iterdir()}
    for path in good:
        path.write_bytes(b"no parquet")
    assert replayed(copy, store, 0, 8)["errors"] == 1
    states = [row["status"] for row in sorted(rows_of(store, "windows"), key=lambda row: row["window_start"])]
    assert states == ["ok"] * 4 + ["failed"] + ["ok"] * 3
    for path, content in good.items():
        path.write_bytes(content)
    assert replayed(copy, store, 0, 8) == {"windows": 8, "skipped": 4, "errors": 0}
    clean = copy.store_at("clean")
    replayed(copy, clean, 0, 8)
    expected, found = snapshot(clean), snapshot(store)
    late = {name: found["windows"][4][name] for name in ("late_rows", "late_seconds")}
    assert late["late_rows"] == 200, "what could not be read at first came late"
    expected["windows"][4] |= late
    assert worlds.differences(expected, found) == []


def test_several_models_share_a_store_and_nothing_else(tmp_path: Path) -> None:
    made = worlds.write(tmp_path / "w", hours=3, rows=100, models=("alpha", "beta"))
    for name in ("alpha", "beta"):
        cli_json(made, "replay", name, "--from", text(0), "--to", text(3), "--jobs", "1", "--only", "drift,performance")
    alone = made.store_at("alone")
    cli_json(
        made,
        "replay",
        "beta",
        "--from",
        text(0),
        "--to",
        text(3),
        "--jobs",
        "1",
        "--only",
        "drift,performance",
        results=alone,
    )
    for name, rows in snapshot(made.results).items():
        assert [r for r in rows if "beta" in {r.get("model_name"), r.get("affected_model")}] == snapshot(alone)[name]
