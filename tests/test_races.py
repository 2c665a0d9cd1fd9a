"""Whoever runs a window, how often, side by side or killed half way: the tables are those of one clean run."""

from __future__ import annotations

import multiprocessing
import random
import time
from typing import TYPE_CHECKING, Any

import pytest
from tests import worlds
from tests.worlds import at, differences, snapshot

from hindcast.checks import CHECKS, Run, execute
from hindcast.replay import replay
from hindcast.results import audit, tables
from hindcast.results.sql import Store
from hindcast.window import Window

if TYPE_CHECKING:
    from pathlib import Path

    from tests.postgres_server import Cluster

HOURS, KILLS = 5, 4
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["hindcast.replay", "tests.warm", *(f"hindcast.checks.{check}" for check in CHECKS)])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> worlds.World:
    """A column is missing in the last three hours, so that there are alerts to fold."""
    made = worlds.write(tmp_path_factory.mktemp("races") / "w", hours=HOURS - 3, rows=120)
    worlds.write_hours(
        made, range(HOURS - 3, HOURS), rows=120, fault=lambda table: table.drop_columns(["feature_stops"])
    )
    return made


@pytest.fixture(scope="module")
def clean(world: worlds.World) -> dict[str, Any]:
    """What one process leaves in a SQLite file."""
    assert replay("alpha", at(0), at(HOURS), config=str(world.models), results=world.results)["errors"] == 0
    found = snapshot(world.results)
    assert found["alerts"]
    assert found["incidents"]
    return found


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of an empty store of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/results.db"
    cluster: Cluster = request.getfixturevalue("postgres")
    monkeypatch.setenv("HINDCAST_ARTIFACTS", str(tmp_path / "artifacts"))
    return cluster.store()


def work(config: str, results: str, artifacts: str | None, hours: list[int], ready: Any = None) -> None:
    """Every check of some hours, each a transaction of its own, as the tasks of the hourly DAG are."""
    _place(artifacts)
    if ready is not None:
        ready.wait(60)
    for hour in hours:
        run = Run.open("alpha", Window(at(hour)), at(hour + 1) + worlds.SETTLE, config=config, results=results)
        for check in CHECKS:
            execute(run, check)


def resume(config: str, results: str, artifacts: str | None) -> None:
    """Go on where an earlier one stopped."""
    _place(artifacts)
    replay("alpha", at(0), at(HOURS), config=config, results=results)


def _place(artifacts: str | None) -> None:
    import os

    if artifacts:
        os.environ["HINDCAST_ARTIFACTS"] = artifacts


def started(target: Any, *arguments: Any) -> Any:
    process = CONTEXT.Process(target=target, args=arguments)
    process.start()
    return process


def place(world: worlds.World, store: str, tmp_path: Path) -> tuple[str, str, str | None]:
    return str(world.models), store, str(tmp_path / "artifacts") if store.startswith("postgres") else None


def assert_clean(clean: dict[str, Any], results: str) -> None:
    assert differences(clean, snapshot(results)) == []
    store = Store(results)
    assert audit.verify(store).whole
    assert len(store.rows(tables.audit)) >= HOURS
    store.engine.dispose()


def test_a_replay_leaves_the_same_tables_in_every_database(
    world: worlds.World, clean: dict[str, Any], store: str
) -> None:
    """Two processes, the second of which only reads."""
    found = replay("alpha", at(0), at(HOURS), config=str(world.models), results=store, jobs=2)
    assert found == {"windows": HOURS, "skipped": 0, "errors": 0}
    assert_clean(clean, store)


def test_two_at_the_same_windows_leave_what_one_leaves(
    world: worlds.World, clean: dict[str, Any], store: str, tmp_path: Path
) -> None:
    ready = CONTEXT.Barrier(2)
    both = [started(work, *place(world, store, tmp_path), list(range(HOURS)), ready) for _ in range(2)]
    for process in both:
        process.join(120)
    assert [process.exitcode for process in both] == [0, 0]
    assert_clean(clean, store)


def test_a_backfill_that_races_the_schedule_leaves_what_one_run_leaves(
    world: worlds.World, clean: dict[str, Any], store: str, tmp_path: Path
) -> None:
    """The backfill goes over hours of before, backwards and again, while new hours are checked."""
    where = place(world, store, tmp_path)
    first = HOURS - 3
    work(*where, list(range(first)))
    ready = CONTEXT.Barrier(2)
    schedule = started(work, *where, list(range(first, HOURS)), ready)
    backfill = started(work, *where, [*reversed(range(first)), first - 1, 0], ready)
    for process in (schedule, backfill):
        process.join(120)
    assert [schedule.exitcode, backfill.exitcode] == [0, 0]
    assert_clean(clean, store)


def test_killed_at_any_moment_and_gone_on_leaves_what_one_run_leaves(
    world: worlds.World, clean: dict[str, Any], store: str, tmp_path: Path
) -> None:
    chance, killed = random.Random(7), 0  # noqa: S311 - where to kill
    for _ in range(KILLS):
        process = started(resume, *place(world, store, tmp_path))
        time.sleep(chance.uniform(0.05, 1.2))
        killed += process.is_alive()
        process.kill()
        process.join()
    assert killed
    last = started(resume, *place(world, store, tmp_path))
    last.join(120)
    assert last.exitcode == 0
    assert_clean(clean, store)


def test_what_the_tasks_of_the_dag_call_leaves_the_same(
    world: worlds.World, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two hours, task by task, the store named in the environment; against a replay of them."""
    from types import SimpleNamespace

    from hindcast import tasks

    expected = world.store_at("two-hours")
    replay("alpha", at(0), at(2), config=str(world.models), results=expected)
    monkeypatch.setenv("HINDCAST_RESULTS", store)
    times = SimpleNamespace(run_type="manual", run_after=at(3))
    for hour in range(2):
        asked = {"window_start": worlds.text(hour), "as_of": (at(hour + 1) + worlds.SETTLE).isoformat()}
        for task in tasks.CHECK_OF_TASK:
            tasks.run_check(task, str(world.models / "alpha.yaml"), "", times, asked)
    assert differences(snapshot(expected), snapshot(store)) == []
