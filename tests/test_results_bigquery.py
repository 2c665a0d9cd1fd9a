"""Results in BigQuery: an hour, two at once, killed at any point, and what is said when it cannot be reached.

Against the emulator. What every store does is asked of it in `test_results`.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text, update
from tests import worlds
from tests.bigquery_server import PROJECT, Emulator, between, emulator
from tests.worlds import SETTLE, at, cli, differences, snapshot

from hindcast.checks import CHECKS, Run, execute
from hindcast.errors import StoreError, StoreMismatch, UsageError
from hindcast.results import audit, bigquery, bigquery_tables, tables
from hindcast.results.sql import Store
from hindcast.window import Window

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["emulator"]
HOUR = datetime(2013, 4, 16, 15, tzinfo=UTC)
URL = f"bigquery://{PROJECT}/results?connection=bq"
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.warm", "tests.worlds", *(f"hindcast.checks.{check}" for check in CHECKS)])


@pytest.fixture(scope="module")
def connected(emulator: Emulator) -> Iterator[str]:
    """URL of a dataset that a Connection leads to, for this process and its children."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_CONN_BQ", emulator.results("results"))
        patch.delenv("HINDCAST_RESULTS", raising=False)
        yield URL


@pytest.fixture(scope="module")
def store(connected: str) -> Iterator[Store]:
    """Opened by three at once, who all make its tables."""
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(Store, [connected] * 3))
    yield found[0]
    for each in found:
        each.engine.dispose()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> worlds.World:
    """One hour with segments, whose model has no explanations."""
    return worlds.write(tmp_path_factory.mktemp("bigquery") / "w", hours=1, rows=120)


def check_hour(models: str, results: str, artifacts: str, checks: tuple[str, ...] = CHECKS, ready: Any = None) -> None:
    """The hour, check by check, its metrics to be pushed: each a transaction of its own, as the tasks are."""
    os.environ["HINDCAST_ARTIFACTS"] = artifacts
    if ready is not None:
        ready.wait(60)
    run = Run.open("alpha", Window(at(0)), at(1) + SETTLE, config=models, results=results, publish=True)
    for check in checks:
        execute(run, check)


def started(target: Callable[..., None], *arguments: Any) -> Any:
    process = CONTEXT.Process(target=target, args=(json.dumps({"bq": os.environ["AIRFLOW_CONN_BQ"]}), *arguments))
    process.start()
    return process


def in_child(connection: str, *arguments: Any) -> None:
    # the server of forks has the environment of its start
    os.environ["AIRFLOW_CONN_BQ"] = json.loads(connection)["bq"]
    check_hour(*arguments)


def killed_before_the_script(connection: str, *arguments: Any) -> None:
    """Rows are loaded, nothing else has been asked for."""
    bigquery._run = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]
    in_child(connection, *arguments)


def killed_in_the_script(connection: str, *arguments: Any) -> None:
    """The service is at it, whoever asked has gone."""
    run = bigquery._run

    def begun(*given: Any) -> None:
        threading.Timer(0.15, os.kill, (os.getpid(), signal.SIGKILL)).start()
        run(*given)
        time.sleep(5)

    bigquery._run = begun
    in_child(connection, *arguments)


@pytest.fixture(scope="module")
def clean(world: worlds.World, connected: str) -> dict[str, Any]:
    """What one run leaves in a SQLite file; a child's, which has imported the checks already."""
    process = started(in_child, str(world.models), world.results, str(world.folder / "artifacts"))
    process.join(120)
    assert process.exitcode == 0
    return without_times(snapshot(world.results))


def without_times(found: dict[str, Any]) -> dict[str, Any]:
    """Metrics hold how long a check took."""
    for row in found["outbox"]:
        row["content"] = [part for part in json.loads(row["content"]) if "duration" not in part[0]]
    return found


@pytest.fixture(scope="module")
def hour(world: worlds.World, store: Store) -> tuple[str, str, str]:
    """An hour that two processes begin at once; the second one asks for less, since a statement takes so long here."""
    where = (str(world.models), store.url, str(world.folder / "artifacts"))
    ready = CONTEXT.Barrier(2)
    both = [started(in_child, *where, checks, ready) for checks in (CHECKS, ("pull",))]
    for process in both:
        process.join(240)
    assert [process.exitcode for process in both] == [0, 0]
    return where


def test_an_hour_that_two_check_at_once_leaves_what_one_run_leaves_in_sqlite(
    hour: tuple[str, str, str], store: Store, clean: dict[str, Any]
) -> None:
    assert differences(clean, without_times(snapshot(store.url))) == []
    assert clean["drift"]
    found = audit.verify(store)
    assert (found.whole, found.lines) == (True, 1)


@pytest.mark.parametrize("how", [killed_before_the_script, killed_in_the_script])
def test_killed_in_the_middle_of_a_write_and_run_again_leaves_the_same(
    hour: tuple[str, str, str], store: Store, clean: dict[str, Any], how: Callable[..., None]
) -> None:
    with store.transaction() as connection:  # so that what is missing would be missed
        for table in (tables.quality, tables.checks):
            connection.execute(table.delete().where(table.c.window_start == at(0)))
    dead = started(how, *hour, ("quality",))
    dead.join(60)
    assert dead.exitcode == -signal.SIGKILL
    # the script goes on where it was begun: it may end before this looks, or after
    both = "SELECT (SELECT COUNT(*) FROM quality), (SELECT COUNT(*) FROM checks WHERE `check` = 'quality')"
    with store.engine.connect() as connection:
        assert tuple(connection.execute(text(both)).one()) in {(0, 0), (len(clean["quality"]), 1)}
    again = started(in_child, *hour, ("quality",))
    again.join(120)
    assert again.exitcode == 0
    found = snapshot(store.url, ignore=set(tables.METADATA.tables) - {"quality", "checks"})
    assert differences({"quality": clean["quality"]}, found) == []
    assert found["checks"] == [row for row in clean["checks"] if row["check"] == "quality"]


def test_staging_tables_are_dropped_and_would_go_by_themselves(store: Store, emulator: Emulator) -> None:
    client = emulator.client()
    left = [each.table_id for each in client.list_tables("results") if "staging" in each.table_id]
    assert len(left) <= 2, "of those who were killed"
    for name in left:
        expires = client.get_table(f"{PROJECT}.results.{name}").expires
        assert timedelta(0) < expires - datetime.now(UTC) <= timedelta(hours=1)


def test_an_edit_in_the_audit_is_found_by_the_command(
    hour: tuple[str, str, str], store: Store, world: worlds.World
) -> None:
    assert cli(world, "audit", "verify", results=store.url).exit_code == 0
    with store.transaction() as connection:
        connection.execute(update(tables.audit).where(tables.audit.c.sequence == 1).values(actor="somebody"))
    done = cli(world, "audit", "verify", results=store.url)
    assert done.exit_code == 1
    assert "line 1 was changed" in done.output


def put(store: Store, hour: datetime, *names: str) -> None:
    """Rows of some features, each with the hour's number of days as its value."""
    rows = [
        {"model_name": "m", "window_start": hour, "feature": name, "importance": 0.5, "status": "ok"} for name in names
    ]
    store.write(
        lambda connection: store.replace(connection, tables.importance, rows, model_name="m", window_start=hour), "m"
    )


def test_retention_counts_and_deletes_what_is_old_and_says_so_in_the_audit(store: Store, tmp_path: Path) -> None:
    from tests.test_maintenance import model

    from hindcast import maintenance

    os.environ["HINDCAST_ARTIFACTS"] = str(tmp_path)
    old = HOUR - timedelta(days=200)
    put(store, old, "a", "b")
    put(store, HOUR, "a")
    chosen = model().model_copy(update={"model": "m"})
    gone = maintenance.retention(store, chosen, HOUR.replace(hour=0))
    assert {name: count for name, count in gone.items() if count} == {"importance": 2}
    assert [row["window_start"] for row in store.rows(tables.importance, model_name="m")] == [HOUR]
    assert store.rows(tables.audit)[-1]["action"] == "delete"


# --- who comes second, and whose answer is lost ---


def test_who_comes_second_does_the_work_again_on_what_is_there_then(store: Store) -> None:
    seen = []

    def work(connection: Any) -> None:
        seen.append({row["feature"] for row in store.rows(tables.importance, model_name="m", window_start=HOUR)})
        store.replace(connection, tables.importance, [], model_name="nobody")
        if len(seen) == 1:
            put(store, HOUR, "between")

    put(store, HOUR, "before")
    store.write(work, "m")
    assert seen == [{"before"}, {"between"}]

    def come_second() -> None:
        with store.transaction("m") as connection:
            store.replace(connection, tables.importance, [], model_name="m")
            put(store, HOUR, "other")

    with pytest.raises(StoreError, match="somebody else wrote first") as caught:
        come_second()
    assert caught.value.transient
    assert [row["feature"] for row in store.rows(tables.importance, model_name="m")] == ["other"]
    with store.transaction("another") as connection:
        store.replace(connection, tables.importance, [], model_name="another")
        put(store, HOUR, "m goes on")


def test_an_answer_that_is_lost_on_the_way_writes_nothing_twice(
    store: Store, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client asks again; the second script finds that the first one had done it."""
    lost: list[str] = []
    tries = []

    def lose(path: str, answer: Any) -> tuple[int, Any]:
        if tries and "/queries" in path and not lost and (answer or {}).get("jobComplete"):
            lost.append(path)
            return 503, {"error": {"code": 503, "message": "gone", "errors": [{"reason": "backendError"}]}}
        return 200, answer

    before = len(store.rows(tables.audit))
    with between(emulator, lose) as shaky:
        content = json.loads(os.environ["AIRFLOW_CONN_BQ"])
        content["extra"]["api_endpoint"] = shaky.connection["extra"]["api_endpoint"]
        monkeypatch.setenv("AIRFLOW_CONN_SHAKY", json.dumps(content))
        other = Store(URL.replace("=bq", "=shaky"))

        def work(connection: Any) -> None:
            other.append_audit(connection, actor="a", action="b", content={})
            tries.append(1)

        other.write(work)
    assert (len(lost), len(tries)) == (1, 1)
    assert len(store.rows(tables.audit)) == before + 1


def test_a_transaction_sees_what_it_has_written_and_counts_what_it_changes(store: Store) -> None:
    table = tables.importance
    counted = {"preserve_rowcount": True}
    put(store, HOUR, "a", "b", "c")
    with store.transaction("m") as connection:
        gone = table.delete().where(table.c.feature == "a", table.c.model_name == "m")
        assert connection.execute(gone, execution_options=counted).rowcount == 1
        assert connection.execute(gone, execution_options=counted).rowcount == 0
        row = {"model_name": "m", "window_start": HOUR, "feature": "d", "status": "ok"}
        connection.execute(table.insert(), row)
        found = connection.execute(table.select().where(table.c.model_name == "m").order_by(table.c.feature))
        assert [row["feature"] for row in found.mappings()] == ["b", "c", "d"]
        connection.execute(table.update().where(table.c.feature == "b").values(status="failed"))
        with pytest.raises(Exception, match="cannot read what it has updated"):
            connection.execute(table.select())
    with store.transaction("m") as connection:
        connection.execute(table.delete())
        connection.rollback()
    found = {row["feature"]: row["status"] for row in store.rows(table, model_name="m")}
    assert found == {"b": "failed", "c": "ok", "d": "ok"}


# --- the tables ---


def test_tables_are_partitioned_by_day_and_clustered_by_model(store: Store, emulator: Emulator) -> None:
    client = emulator.client()
    for table in tables.METADATA.tables.values():
        made = client.get_table(f"{PROJECT}.results.{table.name}")
        assert [field.name for field in made.schema] == [column.name for column in table.c]
        if "window_start" in table.c and table.c.window_start.primary_key:
            assert made.time_partitioning.field == "window_start"
            assert made.time_partitioning.type_ == "DAY"
            assert not made.require_partition_filter
            assert made.clustering_fields[0] == "model_name"


def test_a_store_of_an_earlier_version_gets_what_it_lacks_and_keeps_its_rows(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_OLD", emulator.results("old"))
    client, home = emulator.client(), f"{PROJECT}.old"
    older = bigquery_tables.described(tables.days, home)
    older.schema = [field for field in older.schema if field.name not in {"label_coverage", "config_digest"}]
    client.create_table(older)
    names = ", ".join(f"`{field.name}`" for field in older.schema[2:])
    client.query_and_wait(
        f"INSERT INTO `{home}.days` (model_name, day, {names}) VALUES ('m', TIMESTAMP '2013-04-16 00:00:00+00'"
        + ", 1" * len(older.schema[2:]) + ")"
    )  # fmt: skip
    url = f"bigquery://{PROJECT}/old?connection=old"
    store = Store(url)
    (row,) = store.rows(tables.days)
    assert (row["hours_ok"], row["label_coverage"]) == (1, None)
    client.query_and_wait(f"INSERT INTO `{home}.hindcast_version` (version_num) VALUES ('9999')")
    with pytest.raises(StoreMismatch, match=r"has revision 9999, .* a newer one made it\. Upgrade Hindcast"):
        Store(url)


# --- the way in ---


def test_the_store_may_be_an_airflow_connection(
    store: Store, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HINDCAST_RESULTS_CONN", "bq")
    found = Store()
    assert found.url == found.shown == URL
    put(found, HOUR, "by connection")
    assert [row["feature"] for row in store.rows(tables.importance, model_name="m")] == ["by connection"]
    monkeypatch.setenv("AIRFLOW_CONN_BQ", json.dumps(emulator.connection))
    with pytest.raises(UsageError, match="its extra must name where the results are"):
        Store()


@pytest.mark.parametrize(
    "url", ["bigquery://", "bigquery://p", "bigquery://p/d/t", "bigquery://p/d-d", "bigquery://p/d?key=x"]
)
def test_what_names_no_dataset_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="names no dataset; write it as bigquery://PROJECT/DATASET"):
        Store(url)


def test_without_credentials_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GCE_METADATA_HOST", "127.0.0.1:1")
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    with pytest.raises(UsageError, match="no credentials: name a Connection with a key, or log in"):
        Store("bigquery://p/d")


def test_a_dataset_that_is_not_there_is_named_with_the_command_that_makes_it(connected: str) -> None:
    url = f"bigquery://{PROJECT}/nowhere?connection=bq"
    with pytest.raises(StoreError, match=f"no such dataset: .* bq mk --location=EU --dataset {PROJECT}:nowhere"):
        Store(url)


@pytest.mark.parametrize(
    ("status", "says"),
    [(403, r"forbidden: .* \(the store needs roles/bigquery.dataEditor on the dataset"), (503, "no answer")],
)
def test_a_refusal_and_an_outage_are_told_apart(
    connected: str, emulator: Emulator, monkeypatch: pytest.MonkeyPatch, status: int, says: str
) -> None:
    def refuse(_path: str, _answer: Any) -> tuple[int, Any]:
        reason = "accessDenied" if status == 403 else "backendError"
        return status, {"error": {"code": status, "message": "no", "errors": [{"reason": reason}]}}

    with between(emulator, refuse) as shut:
        extra = {**shut.connection["extra"], "retry_seconds": 1}
        monkeypatch.setenv("AIRFLOW_CONN_SHUT", json.dumps({**shut.connection, "extra": extra}))
        with pytest.raises(StoreError, match=says) as caught:
            Store(f"bigquery://{PROJECT}/results?connection=shut")
    assert caught.value.exit_status == 4
