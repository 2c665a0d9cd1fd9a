"""A window is ready when its marker or minimum volume is there: the command, the trigger, and what pull says."""

import asyncio
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from tests import worlds
from tests.worlds import World, cli, cli_json, partition, rows_of, text

from hindcast.window import floor_hour


def now_hour() -> datetime:
    """The hour that ended last, which is still waited for."""
    return floor_hour(datetime.now(UTC)) - timedelta(hours=1)


def fresh(folder: Path, ready: dict[str, Any] | None, *, rows: int = 200) -> World:
    """A world whose newest hour is the last one of the clock."""
    logs: dict[str, Any] = {"uri": "../alpha/logs", **({"ready": ready} if ready else {})}
    world = worlds.write(folder / "world", logs=logs, schedule={"settle_minutes": 0})
    log(world, rows, "part-0")
    return world


def log(world: World, rows: int, name: str) -> None:
    path = partition(world.logs(), now_hour()) / f"{name}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(worlds.hour_table("alpha", 0, rows, seed=len(name)).drop_columns(["ground_truth"]), path)


def mark(world: World, name: str = "_SUCCESS") -> None:
    (partition(world.logs(), now_hour()) / name).touch()


def check(world: World, *more: str, status: int = 0) -> Any:
    arguments = ("check", "alpha", "--window", f"{now_hour():%Y-%m-%dT%H}", "--only", "quality", *more)
    if status:
        found = cli(world, *arguments)
        assert found.exit_code == status, found.output
        return found.output
    return cli_json(world, *arguments)["checks"]["pull"]


@pytest.mark.parametrize(
    ("ready", "lacks", "complete"),
    [
        ({"marker": "_SUCCESS"}, "no _SUCCESS", mark),
        ({"marker": "done.flag", "min_rows": 100}, "no done.flag", lambda world: mark(world, "done.flag")),
        ({"min_objects": 2}, "1 of 2 objects", lambda world: log(world, 1, "part-1")),
        ({"min_rows": 201}, "200 of 201 rows", lambda world: log(world, 1, "part-1")),
    ],
)
def test_the_command_says_what_a_window_lacks_until_it_is_there(
    tmp_path: Path, ready: dict[str, Any], lacks: str, complete: Any
) -> None:
    world = fresh(tmp_path, {**ready, "wait_minutes": 120})
    said = check(world, status=3)
    assert f"alpha {now_hour():%Y-%m-%dT%H}:00Z: not ready: {lacks}; check it again later (from " in said
    assert rows_of(world.results, "windows") == []
    complete(world)
    assert (check(world)["status"], rows_of(world.results, "windows")[0]["reason"]) == ("ok", "")


def test_what_is_not_waited_for_is_read_as_it_stands_and_says_so(tmp_path: Path) -> None:
    world = fresh(tmp_path, {"marker": "_SUCCESS", "min_rows": 500, "wait_minutes": 120})
    facts = check(world, "--incomplete")
    reason = "not complete (no _SUCCESS, 200 of 500 rows), read as it stood"
    assert (facts["status"], facts["rows"], facts["reason"]) == ("partial", 200, reason)
    # when it is complete after all, a sweep reads it again, though the marker is no log
    mark(world)
    log(world, 300, "part-1")
    (changed,) = cli_json(world, "sweep", "alpha")["changed"]
    assert (changed["status"], changed["rows"], changed["late_rows"]) == ("ok", 500, 300)


def test_a_marker_alone_that_came_late_makes_it_whole(tmp_path: Path) -> None:
    world = fresh(tmp_path, {"marker": "_SUCCESS", "wait_minutes": 120})
    check(world, "--incomplete")
    assert cli_json(world, "sweep", "alpha")["changed"] == []
    mark(world)
    (changed,) = cli_json(world, "sweep", "alpha")["changed"]
    assert (changed["status"], changed["late_rows"]) == ("ok", 0)


def test_past_windows_are_waited_for_no_longer(tmp_path: Path) -> None:
    world = worlds.write(tmp_path / "world", hours=2, logs={"uri": "../alpha/logs", "ready": {"marker": "_SUCCESS"}})
    assert worlds.check_window(world, 0)["pull"]["status"] == "partial"
    empty = worlds.check_window(world, 5)["pull"]
    assert (empty["status"], empty["reason"]) == ("empty", "not complete (no _SUCCESS), read as it stood; no rows")
    found = cli(world, "replay", "alpha", "--from", text(0), "--to", text(2), "--jobs", "1")
    assert found.exit_code == 0
    found = rows_of(world.results, "windows")
    assert sorted((row["window_start"], row["status"]) for row in found)[1][1] == "partial"


def test_a_marker_in_the_flat_layout_is_refused(tmp_path: Path) -> None:
    world = worlds.write(tmp_path / "world", logs={"uri": "../alpha/logs", "ready": {"marker": "_SUCCESS"}})
    pq.write_table(worlds.hour_table("alpha", 0, 10), world.logs() / "2024-03-04T00-30-00.parquet")
    found = cli(world, "check", "alpha", "--window", text(0))
    assert found.exit_code == 2
    assert "has no folder per hour, where _SUCCESS could lie; use min_objects or min_rows" in found.output


@pytest.mark.parametrize(
    ("ready", "said"),
    [
        ({}, "logs.ready: needs marker, min_objects or min_rows"),
        ({"marker": "../x"}, "logs.ready.marker: got '../x'"),
        ({"min_rows": 0}, "logs.ready.min_rows: got 0"),
        ({"min_rows": 1, "wait_minutes": 1000}, "logs.ready.wait_minutes: got 1000"),
    ],
)
def test_a_wrong_section_is_refused(tmp_path: Path, ready: dict[str, Any], said: str) -> None:
    world = World(tmp_path)
    worlds.model_file(world, logs={"uri": "logs", "ready": ready})
    found = cli(world, "validate")
    assert (found.exit_code, said in found.output) == (2, True), found.output


def test_a_table_has_no_marker(tmp_path: Path) -> None:
    world = World(tmp_path)
    worlds.model_file(world, logs={"uri": "bq://a.b.c", "ready": {"marker": "_SUCCESS"}})
    assert "has neither a marker nor objects; allowed: min_rows" in cli(world, "validate").output


# --- what the triggerer runs ---


def trigger(world: World, *, seconds: float = 60, windows: list[str] | None = None) -> Any:
    pytest.importorskip("airflow")
    from hindcast.waiting import LogsReady

    until = (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()
    windows = windows or [f"{now_hour():%Y-%m-%dT%H:%MZ}"]
    made = LogsReady(model_file=str(world.models / "alpha.yaml"), windows=windows, until=until, poll=0.02)
    path, given = made.serialize()
    assert path == f"{LogsReady.__module__}.{LogsReady.__qualname__}"
    return LogsReady(**given)  # as the triggerer makes it again


def events(made: Any, meanwhile: Any = None) -> list[Any]:
    async def collect() -> list[Any]:
        task = asyncio.ensure_future(anext(made.run()))
        await asyncio.sleep(0.2)
        assert task.done() is (meanwhile is None)
        if meanwhile:
            meanwhile()
        return [(await task).payload]

    return asyncio.run(collect())


def test_the_trigger_waits_and_tells_when_the_marker_comes(tmp_path: Path) -> None:
    world = fresh(tmp_path, {"marker": "_SUCCESS", "min_rows": 10})
    assert events(trigger(world), lambda: mark(world)) == [{"reason": ""}]


def test_the_trigger_gives_up_at_its_time_and_says_what_was_missing(tmp_path: Path) -> None:
    world = fresh(tmp_path, {"marker": "_SUCCESS"})
    assert events(trigger(world, seconds=0)) == [{"reason": f"{now_hour():%Y-%m-%dT%H}:00Z: no _SUCCESS"}]


def test_what_cannot_be_looked_at_ends_the_waiting(tmp_path: Path) -> None:
    world = fresh(tmp_path, {"marker": "_SUCCESS"})
    world.logs().rename(world.folder / "elsewhere")
    (found,) = events(trigger(world))
    assert "no such folder" in found["reason"]


def test_of_several_windows_all_must_be_ready_and_each_object_is_opened_once(tmp_path: Path) -> None:
    from hindcast.waiting import Looker

    world = worlds.write(tmp_path / "world", hours=2, logs={"uri": "../alpha/logs", "ready": {"min_rows": 300}})
    worlds.write_hours(world, [2], rows=299)
    looker = Looker(str(world.models / "alpha.yaml"), [f"{text(hour)}Z" for hour in range(3)])
    assert looker.look().reason == f"{text(2)}Z: 299 of 300 rows"
    for path in world.partition(2).glob("*.parquet"):
        path.write_bytes(path.read_bytes()[:-8] + bytes(8))  # the same size; another time of change, so another etag
        os.utime(path, ns=(0, 0))
    assert looker.look().reason == f"{text(2)}Z: 0 of 300 rows"
