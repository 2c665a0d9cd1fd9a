"""One hour from the outside: what a window leaves in the tables, whatever its data look like."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import signal
import sqlite3
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from tests import worlds
from tests.worlds import SETTLE, at, check_window, cli, rows_of, snapshot

from hindcast.replay import replay
from hindcast.results.tables import STATUSES
from hindcast.results.types import bounded

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CHECK_NAMES = ("pull", "quality", "drift", "performance", "importance", "triage")
HOSTILE = (
    "'; DROP TABLE alerts; --",
    "<script>alert(1)</script>",
    "../../etc/passwd",
    "🛫 naïve",
    "x" * 5000,
    "a=b|c\n",
    "",
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> worlds.World:
    """Thirty-two good hours, all checked in order."""
    world = worlds.write(tmp_path_factory.mktemp("base") / "w", hours=32, explain=True)
    facts = replay("alpha", at(0), at(32), config=str(world.models), results=world.results)
    assert facts == {"windows": 32, "skipped": 0, "errors": 0}
    return world


@pytest.fixture
def copy(base: worlds.World, tmp_path: Path) -> worlds.World:
    return worlds.copied(base, tmp_path / "w")


def one_hour(folder: Path, change: Callable[[pa.Table], pa.Table] | None = None, **keys: Any) -> worlds.World:
    """A world of one hour, number 0, changed."""
    world = worlds.write(folder / "w", **keys)
    worlds.write_hours(world, [0], fault=change)
    return world


def replaced(table: pa.Table, name: str, values: Any) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), name, values)


# --- the same window again


def test_a_window_checked_again_leaves_every_table_as_it_was(copy: worlds.World) -> None:
    before = snapshot(copy.results)
    for as_of in (at(27) + SETTLE, at(27) + SETTLE):
        check_window(copy, 26, "--as-of", as_of.isoformat())
        assert worlds.differences(before, snapshot(copy.results)) == []


def test_a_mature_window_checked_long_after_differs_in_its_as_of_alone(copy: worlds.World) -> None:
    """All label ages of window 7 had passed when window 31 was replayed: there is nothing new to know."""
    before = snapshot(copy.results)
    check_window(copy, 7)
    after = snapshot(copy.results)
    for table in ("windows", "checks"):
        assert {row.pop("as_of") for row in after[table] if row["window_start"] == at(7)} == {
            at(8) + SETTLE + 24 * worlds.HOUR
        }
        for row in before[table]:
            if row["window_start"] == at(7):
                del row["as_of"]
    assert worlds.differences(before, after) == []


def test_only_the_audit_grows_and_its_chain_holds(copy: worlds.World) -> None:
    before = rows_of(copy.results, "audit")
    check_window(copy, 20)
    after = rows_of(copy.results, "audit")
    assert after[: len(before)] == before
    assert len(after) == len(before) + 1
    assert [row["previous_hash"] for row in after] == ["", *(row["hash"] for row in after[:-1])]


# --- killed, and two at once


@pytest.fixture(scope="module")
def processes() -> Any:
    """Processes that have imported everything already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.warm", "hindcast.checks.drift", "tests.worlds"])
    return context


@pytest.fixture(scope="module")
def clean(
    base: worlds.World, tmp_path_factory: pytest.TempPathFactory
) -> tuple[worlds.World, dict[str, Any], dict[str, str]]:
    """A window after the replayed ones, not checked yet; what a clean run of it leaves."""
    world = worlds.copied(base, tmp_path_factory.mktemp("clean") / "w")
    worlds.write_hours(world, [32], accuracy=0.6)
    done = worlds.copied(world, world.folder.parent / "done")
    worlds.run_checks(str(done.models), done.results, 32)
    return world, snapshot(done.results), worlds.artifacts(done.results)


@pytest.mark.parametrize("after", ["pull", "drift", "performance", "importance", 0.02, 0.2])
def test_a_window_killed_in_the_middle_and_run_again_is_as_a_clean_run(
    clean: tuple[worlds.World, dict[str, Any], dict[str, str]], processes: Any, tmp_path: Path, after: str | float
) -> None:
    """Killed once the row of one check is there, or so many seconds after the first."""
    world, expected, files = clean
    copy = worlds.copied(world, tmp_path / "w")
    process = processes.Process(target=worlds.run_checks, args=(str(copy.models), copy.results, 32))
    process.start()
    awaited = after if isinstance(after, str) else "pull"
    while process.is_alive() and not rows_of(copy.results, "checks", window_start=at(32), check=awaited):
        time.sleep(0.002)
    if not isinstance(after, str):
        time.sleep(after)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    worlds.run_checks(str(copy.models), copy.results, 32)
    assert worlds.differences(expected, snapshot(copy.results)) == []
    assert worlds.artifacts(copy.results) == files


def test_two_processes_that_check_one_window_at_once_leave_the_same_tables(
    clean: tuple[worlds.World, dict[str, Any], dict[str, str]], processes: Any, tmp_path: Path
) -> None:
    world, expected, files = clean
    copy = worlds.copied(world, tmp_path / "w")
    both = [processes.Process(target=worlds.run_checks, args=(str(copy.models), copy.results, 32)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    assert worlds.differences(expected, snapshot(copy.results)) == []
    assert worlds.artifacts(copy.results) == files


# --- labels


@pytest.mark.parametrize(("age", "hour"), [(0, 31), (0, 5), (6, 20), (24, 3)])
def test_performance_counts_the_labels_known_at_its_moment_and_no_other(
    base: worlds.World, age: int, hour: int
) -> None:
    """Against a naive join, scored by scikit-learn."""
    from sklearn import metrics

    rows = rows_of(base.results, "performance", window_start=at(hour), segment="*", label_age_hours=age)
    rows = [
        row for row in rows if row["metric"] not in {"request_count", "error_rate"} and "latency" not in row["metric"]
    ]
    moment = at(hour + 1) + SETTLE + age * worlds.HOUR
    assert {datetime.fromisoformat(row["as_of"]).replace(tzinfo=UTC) for row in rows} == {moment}
    truth, prediction, score = map(np.array, zip(*worlds.naive_join(base, hour, moment), strict=True))
    expected = {
        "accuracy": metrics.accuracy_score(truth, prediction),
        "precision": metrics.precision_score(truth, prediction),
        "recall": metrics.recall_score(truth, prediction),
        "f1": metrics.f1_score(truth, prediction),
        "roc_auc": metrics.roc_auc_score(truth, score),
        "average_precision": metrics.average_precision_score(truth, score),
        "brier_score_loss": metrics.brier_score_loss(truth, score),
        "log_loss": metrics.log_loss(truth, score),
    }
    found = {row["metric"]: row["value"] for row in rows}
    assert found == pytest.approx(expected, rel=1e-9)
    assert {row["label_coverage"] for row in rows} == {truth.size / 300}
    assert next(row["n"] for row in rows if row["metric"] == "accuracy") == truth.size


def test_each_label_age_has_rows_of_its_own(base: worlds.World) -> None:
    rows = rows_of(base.results, "performance", window_start=at(3), segment="*", metric="accuracy")
    coverage = {row["label_age_hours"]: row["label_coverage"] for row in rows}
    assert sorted(coverage) == [0, 6, 24]
    assert coverage[0] < coverage[6] < coverage[24] < 1


def test_a_segment_is_scored_on_its_own_rows(base: worlds.World) -> None:
    row = rows_of(base.results, "performance", window_start=at(3), segment="carrier=AA", label_age_hours=24)[0]
    moment = at(4) + SETTLE + 24 * worlds.HOUR
    carriers = [
        c
        for p in sorted(base.partition(3).glob("*"))
        for c in pq.read_table(p, partitioning=None)["feature_carrier"].to_pylist()
    ]
    table = pa.concat_tables([pq.read_table(p, partitioning=None) for p in sorted(base.partition(3).glob("*"))])
    of_carrier = dict(zip(table["prediction_id"].to_pylist(), carriers, strict=True))
    known = worlds.known_labels(base, moment)
    right = [
        p == known[i]
        for i, p in zip(table["prediction_id"].to_pylist(), table["prediction"].to_pylist(), strict=True)
        if of_carrier[i] == "AA" and i in known
    ]
    assert (row["n"], row["value"]) == (len(right), pytest.approx(np.mean(right)))


def test_a_label_from_after_the_evaluation_does_not_exist(tmp_path: Path) -> None:
    world = one_hour(tmp_path)
    early = check_window(world, 0, "--only", "performance", "--as-of", (at(1) + timedelta(minutes=1)).isoformat())
    truth = worlds.naive_join(world, 0, at(1) + timedelta(minutes=1))
    assert early["performance"]["label_coverage_0h"] == pytest.approx(len(truth) / 300, abs=1e-4)
    assert not rows_of(world.results, "performance", label_age_hours=6)


def test_a_later_label_replaces_the_earlier_one_from_its_own_time_on(tmp_path: Path) -> None:
    world = worlds.write(tmp_path / "w", labels="late")
    worlds.write_hours(world, [0], labels="none")
    table = worlds.hour_table("alpha", 0, 300)
    ids, prediction = table["prediction_id"], table["prediction"]
    for moment, truth in ((at(0.9), prediction), (at(4), pc.subtract(1, prediction))):
        when = pa.array([moment] * 300, pa.timestamp("us", "UTC"))
        worlds.write_labels(
            world.labels(), pa.table({"prediction_id": ids, "ground_truth": truth, "label_timestamp": when}), "x"
        )
    check_window(world, 0)
    rows = rows_of(world.results, "performance", segment="*", metric="accuracy")
    assert {row["label_age_hours"]: row["value"] for row in rows} == {0: 1.0, 6: 0.0, 24: 0.0}


def test_ground_truth_inside_the_log_counts_at_once(tmp_path: Path) -> None:
    world = worlds.write(tmp_path / "w", hours=1, labels="inline")
    check_window(world, 0)
    table = worlds.hour_table("alpha", 0, 300)
    right = np.mean(np.asarray(table["prediction"]) == np.asarray(table["ground_truth"]))
    rows = rows_of(world.results, "performance", segment="*", metric="accuracy")
    assert [(row["label_coverage"], row["value"], row["status"]) for row in rows] == [
        (1.0, pytest.approx(right), "ok")
    ] * 3


def test_without_any_labels_performance_says_so(tmp_path: Path) -> None:
    world = worlds.write(tmp_path / "w", hours=1, labels="none")
    check_window(world, 0)
    rows = rows_of(world.results, "performance", segment="*", metric="accuracy")
    assert [(row["value"], row["status"]) for row in rows] == [(None, "insufficient_data")]
    assert "no ground truth" in rows[0]["reason"]
    assert [row["status"] for row in rows_of(world.results, "performance", metric="latency_p95_ms")] == ["ok"]


def test_labels_of_mixed_types_are_the_same_labels(tmp_path: Path) -> None:
    """One file has numbers, another text, one is dated in text."""
    world = worlds.write(tmp_path / "w")
    worlds.write_hours(world, [0], labels="none")
    table = worlds.hour_table("alpha", 0, 300)
    labels = pa.table({
        "prediction_id": table["prediction_id"],
        "ground_truth": table["prediction"],
        "label_timestamp": pa.array([at(1)] * 300, pa.timestamp("us", "UTC")),
    })  # fmt: skip
    texts = replaced(labels.slice(100, 100), "ground_truth", labels["ground_truth"].slice(100, 100).cast(pa.string()))
    dated = replaced(labels.slice(200), "label_timestamp", pa.array([at(1).isoformat()] * 100))
    folder = worlds.partition(world.labels(), at(1))
    folder.mkdir(parents=True)
    for name, part in (("a", labels.slice(0, 100)), ("b", texts), ("c", dated)):
        pq.write_table(part, folder / f"{name}.parquet")
    check_window(world, 0)
    row = rows_of(world.results, "performance", segment="*", metric="accuracy", label_age_hours=0)[0]
    assert (row["label_coverage"], row["value"]) == (1.0, 1.0)


def test_a_broken_file_of_labels_stops_performance_alone(tmp_path: Path) -> None:
    world = one_hour(tmp_path)
    path = next(worlds.partition(world.labels(), at(0)).glob("*.parquet"))
    path.write_bytes(path.read_bytes()[:-20])
    found = check_window(world, 0, status=3)
    assert path.name in found["performance"]["reason"]
    assert {name: facts["status"] for name, facts in found.items() if name != "performance"} == dict.fromkeys(
        (n for n in CHECK_NAMES if n != "performance"), "ok"
    )


def test_a_regression_is_scored_like_scikit_learn(tmp_path: Path) -> None:
    from sklearn import metrics

    rng = np.random.default_rng(5)
    truth, prediction = rng.normal(100, 20, 300), rng.normal(100, 20, 300)

    def regression(table: pa.Table) -> pa.Table:
        table = replaced(replaced(table, "prediction", pa.array(prediction)), "ground_truth", pa.array(truth))
        table = table.append_column("confidence", pa.array(rng.random(300)))
        return table.drop_columns(["score"])

    world = worlds.write(tmp_path / "w", labels="inline", task="regression", positive_class=None)
    reference = worlds.reference(2000)
    pq.write_table(
        reference.append_column("confidence", pa.array(rng.random(2000))), world.folder / "reference.parquet"
    )
    worlds.write_hours(world, [0], fault=regression, labels="inline")
    check_window(world, 0)
    assert {row["status"] for row in rows_of(world.results, "drift", segment="*", feature="confidence")} == {"ok"}
    found = {r["metric"]: r["value"] for r in rows_of(world.results, "performance", segment="*", label_age_hours=24)}
    assert found == pytest.approx({
        "mean_absolute_error": metrics.mean_absolute_error(truth, prediction),
        "root_mean_squared_error": metrics.root_mean_squared_error(truth, prediction),
        "mean_absolute_percentage_error": metrics.mean_absolute_percentage_error(truth, prediction),
        "r2": metrics.r2_score(truth, prediction),
    })  # fmt: skip


# --- bad input


def window_row(world: worlds.World, hour: int = 0) -> dict[str, Any]:
    return rows_of(world.results, "windows", window_start=at(hour))[0]


def truncated_pages(path: Path) -> None:
    """A file whose footer is whole and whose data pages are not."""
    content = bytearray(path.read_bytes())
    content[len(content) // 4 : len(content) // 2] = bytes(len(content) // 2 - len(content) // 4)
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b"no parquet"),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:2000]),
        truncated_pages,
    ],
    ids=["text", "empty", "cut short", "pages overwritten"],
)
def test_a_broken_object_among_good_ones_is_named_and_left_out(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    world = one_hour(tmp_path)
    damage(world.partition(0) / "part-1.parquet")
    found = check_window(world, 0)
    row = window_row(world)
    assert (row["status"], row["rows"]) == ("partial", 150)
    assert "part-1.parquet" in row["reason"]
    assert found["pull"]["status"] == "partial"
    assert rows_of(world.results, "quality", metric="unreadable_objects")[0]["value"] == 1
    assert [a["metric"] for a in rows_of(world.results, "alerts")] == ["unreadable_objects"]


def test_only_broken_objects_fail_the_window(tmp_path: Path) -> None:
    world = one_hour(tmp_path)
    for path in world.partition(0).glob("*.parquet"):
        path.write_bytes(b"no parquet")
    found = cli(world, "check", "alpha", "--window", worlds.text(0))
    assert found.exit_code == 3
    assert "part-0.parquet" in found.stderr
    assert window_row(world)["status"] == "failed"


def feature_statuses(world: worlds.World, table: str, feature: str) -> set[str]:
    name = "subject" if table == "quality" else "feature"
    return {row["status"] for row in rows_of(world.results, table, **{name: feature})}


def others_are_fine(world: worlds.World, feature: str) -> None:
    """Every other feature has ok rows, in every table."""
    for name in {"amount", "distance", "stops", "load", "carrier", "origin"} - {feature}:
        assert feature_statuses(world, "quality", name) == {"ok"}
        assert "ok" in feature_statuses(world, "drift", name)
    statuses = {row["check"]: row["status"] for row in rows_of(world.results, "checks")}
    assert statuses == dict.fromkeys(CHECK_NAMES, "ok")
    importances = [r for r in rows_of(world.results, "importance") if r["importance"] is not None]
    assert {"amount", "distance", "stops", "load"} - {feature} <= {row["feature"] for row in importances}


def test_a_missing_column_is_one_features_trouble(tmp_path: Path) -> None:
    world = one_hour(tmp_path, lambda t: t.drop_columns(["feature_stops"]), explain=True)
    check_window(world, 0)
    assert feature_statuses(world, "drift", "stops") == {"missing_column"}
    assert "missing_column" in feature_statuses(world, "quality", "stops")
    others_are_fine(world, "stops")
    alerts = rows_of(world.results, "alerts")
    assert [(a["kind"], a["subject"], a["severity"]) for a in alerts] == [("quality", "stops", "critical")]


def test_text_in_a_numeric_feature_is_a_changed_type(tmp_path: Path) -> None:
    world = one_hour(tmp_path, lambda t: replaced(t, "feature_stops", pa.array(["many"] * 300)), explain=True)
    check_window(world, 0)
    assert feature_statuses(world, "drift", "stops") == {"type_changed"}
    assert "type_changed" in feature_statuses(world, "quality", "stops")
    others_are_fine(world, "stops")


@pytest.mark.parametrize(
    "change",
    [lambda t: t.drop_columns(["feature_stops"]), lambda t: replaced(t, "feature_stops", pa.array(["many"] * 300))],
)
def test_importance_explains_the_features_that_are_there(
    tmp_path: Path, change: Callable[[pa.Table], pa.Table]
) -> None:
    world = one_hour(tmp_path, change, explain=True)
    found = check_window(world, 0)
    assert "stops" in found["importance"]["reason"]
    rows = {row["feature"]: row for row in rows_of(world.results, "importance")}
    assert rows["stops"]["importance"] is None
    assert rows["stops"]["status"] in {"missing_column", "type_changed"}
    assert rows["stops"]["reason"]
    assert rows["amount"]["rank"] == 1
    sound(world)


def test_a_feature_that_is_all_null_is_said_to_be(tmp_path: Path) -> None:
    world = one_hour(tmp_path, lambda t: replaced(t, "feature_amount", pa.nulls(300, pa.float64())), explain=True)
    check_window(world, 0)
    assert feature_statuses(world, "drift", "amount") == {"all_null"}
    assert "all_null" in feature_statuses(world, "quality", "amount")
    others_are_fine(world, "amount")


def test_a_new_column_is_noted_and_wakes_nobody(tmp_path: Path) -> None:
    world = one_hour(tmp_path, lambda t: t.append_column("feature_surprise", pa.array(range(300))), explain=True)
    check_window(world, 0)
    assert feature_statuses(world, "quality", "surprise") == {"new_column"}
    assert feature_statuses(world, "drift", "surprise") == {"new_column"}
    others_are_fine(world, "surprise")
    assert rows_of(world.results, "alerts") == []


def test_a_feature_that_was_always_one_value_is_constant(tmp_path: Path) -> None:
    world = one_hour(tmp_path, lambda t: t.append_column("feature_fixed", pa.array([7.0] * 300)), features=None)
    table = worlds.reference().append_column("feature_fixed", pa.array([7.0] * 20_000))
    pq.write_table(table, world.folder / "reference.parquet")
    check_window(world, 0)
    assert feature_statuses(world, "drift", "fixed") == {"constant"}


def test_a_feature_with_more_values_than_bins_says_so(tmp_path: Path) -> None:
    """4,000 cities, of which 1,000 have a bin."""
    cities = pa.array([f"city {k % 4000}" for k in range(20_000)])
    world = one_hour(tmp_path, lambda t: t.append_column("feature_city", cities[:300]), features=None)
    pq.write_table(worlds.reference().append_column("feature_city", cities), world.folder / "reference.parquet")
    check_window(world, 0)
    reasons = [row["reason"] for row in rows_of(world.results, "drift", feature="city")]
    assert reasons
    assert all("75% of the reference's rows have a value without a bin" in reason for reason in reasons)


def test_an_hour_without_partition_is_empty_and_no_fault(tmp_path: Path) -> None:
    world = one_hour(tmp_path)
    found = check_window(world, 5)
    assert (window_row(world, 5)["status"], window_row(world, 5)["rows"]) == ("empty", 0)
    assert {facts["status"] for facts in found.values()} == {"ok", "empty"}
    for table in ("drift", "performance", "importance", "findings"):
        assert rows_of(world.results, table, window_start=at(5)) == []


def test_logs_that_do_not_exist_are_exit_3_with_their_path(tmp_path: Path) -> None:
    world = one_hour(tmp_path)
    worlds.model_file(world, logs={"uri": "../nowhere/at/all"})
    for command in (
        ["check", "alpha", "--window", worlds.text(0)],
        ["replay", "alpha", "--from", worlds.text(0), "--to", worlds.text(2)],
    ):
        found = cli(world, *command)
        assert found.exit_code == 3
        assert "nowhere/at/all" in found.stderr


def test_an_artifact_with_another_sha256_stops_importance_alone(tmp_path: Path) -> None:
    world = one_hour(tmp_path, explain=True)
    with (world.folder / "model.txt").open("a") as file:
        file.write("\n")
    found = check_window(world, 0, status=1)
    assert found.pop("importance")["status"] == "error"
    assert {facts["status"] for facts in found.values()} == {"ok"}
    row = rows_of(world.results, "checks", check="importance")[0]
    assert (row["status"], "sha256" in row["reason"]) == ("error", True)


def test_duplicated_ids_are_counted(tmp_path: Path) -> None:
    world = one_hour(tmp_path, lambda t: pa.concat_tables([t, t.slice(0, 30)]))
    check_window(world, 0)
    assert window_row(world)["duplicate_ids"] == 30
    row = rows_of(world.results, "quality", metric="duplicate_ratio")[0]
    assert (row["value"], row["status"]) == (pytest.approx(30 / 330), "failed")


def test_rows_of_another_hour_are_counted_as_misplaced(tmp_path: Path) -> None:
    def late(table: pa.Table) -> pa.Table:
        moments = table["timestamp"].cast(pa.int64()).to_pylist()
        return replaced(
            table,
            "timestamp",
            pa.array([m + (i < 12) * 3_600_000_000 for i, m in enumerate(moments)]).cast(pa.timestamp("us", "UTC")),
        )

    world = one_hour(tmp_path, late)
    check_window(world, 0)
    assert window_row(world)["misplaced_rows"] == 12
    assert rows_of(world.results, "quality", metric="misplaced_ratio")[0]["value"] == pytest.approx(0.04)


def test_in_the_flat_layout_each_hour_takes_its_own_rows(tmp_path: Path) -> None:
    """Files are named by flush time and straddle the hours; every row is counted once, in its hour."""
    world = worlds.write(tmp_path / "w", labels="none")
    table = pa.concat_tables([worlds.hour_table("alpha", h, 300) for h in range(3)])
    for start in range(0, 900, 50):
        part = table.slice(start + 25, 50) if start < 850 else pa.concat_tables([table.slice(875), table.slice(0, 25)])
        flushed = max(part["timestamp"].to_pylist()) + timedelta(seconds=5)
        pq.write_table(part, world.logs() / f"{flushed:%Y-%m-%dT%H-%M-%S}Z.parquet")
    for hour in (0, 1, 2):
        check_window(world, hour, "--only", "quality")
    # The first rows of hour 0 were flushed two hours later: too late for its settle time.
    assert [window_row(world, hour)["rows"] for hour in (0, 1, 2)] == [275, 300, 300]
    # nobody else reads them: the hour of the flush says so
    assert [window_row(world, hour)["misplaced_rows"] for hour in (0, 1, 2)] == [0, 0, 25]
    assert [a["metric"] for a in rows_of(world.results, "alerts")] == ["misplaced_ratio"]


def test_hostile_text_is_only_text(tmp_path: Path) -> None:
    values = [*HOSTILE, *worlds.CARRIERS]

    def hostile(table: pa.Table) -> pa.Table:
        chosen = pa.array([values[i % len(values)] for i in range(300)])
        table = replaced(replaced(table, "feature_carrier", chosen), "model_version", chosen)
        return replaced(table, "feature_origin", chosen).append_column("team", chosen)

    world = one_hour(tmp_path, hostile, segments=["carrier", "team"])
    check_window(world, 0)
    segments = {row["segment"] for row in rows_of(world.results, "performance")}
    assert {bounded(f"team={value}") for value in HOSTILE} <= segments
    page = tmp_path / "report.html"
    assert cli(world, "report", "alpha", "--window", worlds.text(0), "-o", str(page)).exit_code == 0
    assert "<script>alert(1)" not in page.read_text()
    for docs in (world.folder / "results/artifacts/datadocs").rglob("*.html"):
        assert "<script>alert(1)" not in docs.read_text()
    assert not list(tmp_path.glob("etc*"))


@pytest.mark.parametrize("name", ["../escape", "a/b", "..", "", ".hidden", "x" * 200, "a\nb"])
def test_a_models_name_cannot_leave_its_folder(tmp_path: Path, name: str) -> None:
    world = one_hour(tmp_path)
    worlds.model_file(world).rename(world.models / "odd.yaml")
    path = world.models / "odd.yaml"
    path.write_text(path.read_text().replace("model: alpha", f"model: {json.dumps(name)}", 1))
    found = cli(world, "check", name, "--window", worlds.text(0))
    assert found.exit_code == 2
    assert not (world.folder / "results").exists() or not list((world.folder / "results").rglob("*.parquet"))


@pytest.mark.parametrize("column", ["prediction_id", "timestamp", "prediction", "score", "latency_ms", "model_version"])
def test_a_log_without_one_of_its_own_columns_is_still_checked(tmp_path: Path, column: str) -> None:
    world = one_hour(tmp_path, lambda t: t)
    for path in world.partition(0).glob("*.parquet"):
        table = pq.read_table(path, partitioning=None)
        pq.write_table(table.drop_columns([column]), path)
    found = check_window(world, 0)
    assert {facts["status"] for facts in found.values()} == {"ok"}
    sound(world)


@pytest.mark.parametrize(
    "column", ["prediction_id", "timestamp", "prediction", "score", "latency_ms", "model_version", "error"]
)
def test_a_column_of_another_type_is_still_checked(tmp_path: Path, column: str) -> None:
    def odd(table: pa.Table) -> pa.Table:
        values = (
            pa.array(range(300)) if column in {"prediction_id", "model_version", "error"} else pa.array(["odd"] * 300)
        )
        return replaced(table, column, values)

    world = worlds.write(tmp_path / "w", labels="none")
    worlds.write_hours(world, [0], fault=odd, labels="none")
    check_window(world, 0)
    assert window_row(world)["status"] == "ok"
    sound(world)


# --- what holds of every row


def sound(world: worlds.World) -> None:
    """Statuses are of the contract, a null value has a reason, moments are UTC, nothing is NaN."""
    found = snapshot(world.results, ignore=())
    for name in ("quality", "drift", "performance", "importance"):
        for row in found[name]:
            value = row["importance"] if name == "importance" else row["value"]
            assert row["status"] in STATUSES, row
            assert value is not None or row["reason"], row
            assert row["config_digest"], row
    assert {row["status"] for row in found["windows"]} <= {"ok", "empty", "partial", "failed"}
    for name, rows in found.items():
        for row in rows:
            for column, value in row.items():
                assert not (isinstance(value, float) and not math.isfinite(value)), (name, row)
                if isinstance(value, datetime):
                    assert value.tzinfo is not None
                    assert value.utcoffset() == timedelta(0), (name, column)


def test_every_row_of_a_good_day_is_sound(base: worlds.World) -> None:
    sound(base)
    assert not rows_of(base.results, "alerts")


def test_every_table_has_the_columns_of_the_contract(base: worlds.World) -> None:
    contract = {
        "windows": "model_name window_start window_end as_of rows bytes manifest_digest config_digest status reason",
        "quality": "model_name model_version window_start subject metric value threshold status reason",
        "drift": "model_name model_version window_start segment feature baseline scale_hours metric value threshold "
        "p_value drifted status n_current n_baseline reason",
        "performance": "model_name model_version window_start segment metric value lower upper baseline change_percent "
        "estimated label_coverage as_of status reason",
        "importance": "model_name model_version window_start feature importance lower upper rank n",
        "alerts": "alert_id model_name kind severity subject metric current_value baseline_value change_percent state "
        "opened_at last_seen_at resolved_at incident_id details",
        "incidents": "incident_id severity title description detected_at affected_model symptoms metrics resolved_at "
        "root_cause resolution state",
        "profiles": "",
        "audit": "",
    }
    connection = sqlite3.connect(base.results.removeprefix("sqlite:///"))
    for table, columns in contract.items():
        found = {row[1] for row in connection.execute(f'PRAGMA table_info("{table}")')}
        assert set(columns.split()) <= found, table
    connection.close()


# --- degradation and drift, after a clean fortnight


@pytest.fixture(scope="module")
def fortnight(tmp_path_factory: pytest.TempPathFactory) -> worlds.World:
    """Two clean weeks of 500 rows an hour; the data quality of the last day of them is checked too."""
    world = worlds.write(tmp_path_factory.mktemp("fortnight") / "w", hours=336, rows=500)
    place = {"config": str(world.models), "results": world.results}
    replay("alpha", at(0), at(336), only=("pull", "drift", "performance", "triage"), jobs=2, **place)
    replay("alpha", at(312), at(336), only=("quality", "triage"), **place)
    return world


def test_a_clean_fortnight_raises_nothing(fortnight: worlds.World) -> None:
    assert len(rows_of(fortnight.results, "checks", check="drift", status="ok")) == 336
    assert rows_of(fortnight.results, "alerts") == []
    assert rows_of(fortnight.results, "incidents") == []


@pytest.fixture
def after(fortnight: worlds.World, tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    """Go on from the fortnight with hours of 1,000 rows, faulty or not; returns the alerts."""
    world = worlds.copied(fortnight, tmp_path / "w")
    state = {"hour": 336}

    def go_on(hours: int, **options: Any) -> list[dict[str, Any]]:
        first = state["hour"]
        state["hour"] += hours
        worlds.write_hours(world, range(first, first + hours), rows=1000, **options)
        replay(
            "alpha",
            at(first),
            at(first + hours),
            only=(*CHECK_NAMES[:-2], "triage"),
            config=str(world.models),
            results=world.results,
        )
        alerts = rows_of(world.results, "alerts")
        for alert in alerts:
            for name in ("opened_at", "last_seen_at", "resolved_at", "detected_at"):
                alert[name] = alert[name] and datetime.fromisoformat(alert[name]).replace(tzinfo=UTC)
        return alerts

    go_on.world = world  # type: ignore[attr-defined]
    return go_on


def test_a_fall_of_accuracy_is_critical_at_the_end_of_its_window_and_resolves(
    after: Callable[..., list[dict[str, Any]]],
) -> None:
    alerts = after(1, accuracy=0.7)
    whole = [a for a in alerts if a["kind"] == "performance" and a["subject"] == "*"]
    assert [(a["severity"], a["opened_at"], a["state"], a["resolved_at"]) for a in whole] == [
        ("critical", at(337), "firing", None)
    ]
    assert [a["kind"] for a in alerts] == ["performance"] * len(alerts)
    assert whole[0]["change_percent"] < -10
    incident = rows_of(after.world.results, "incidents")[0]
    assert (incident["severity"], incident["state"], incident["incident_id"]) == (
        "SEV2",
        "open",
        whole[0]["incident_id"],
    )
    # The last six hours hold the bad one until hour 342; three quiet windows after the last finding it is over.
    (resolved,) = (a for a in after(9) if a["subject"] == "*")
    assert (resolved["alert_id"], resolved["state"], resolved["opened_at"]) == (
        whole[0]["alert_id"],
        "resolved",
        at(337),
    )
    assert resolved["last_seen_at"] <= at(342)
    assert resolved["resolved_at"] == resolved["last_seen_at"] + 3 * worlds.HOUR
    assert rows_of(after.world.results, "incidents")[0]["state"] == "resolved"
    sound(after.world)


def test_a_fall_of_one_segment_is_that_segments_alert(after: Callable[..., list[dict[str, Any]]]) -> None:
    def wrong(table: pa.Table) -> pa.Table:
        chosen = pc.and_(
            pc.equal(table["feature_carrier"], "B6"), pa.array(np.random.default_rng(1).random(1000) < 0.6)
        )
        flipped = pc.subtract(1, table["prediction"])
        table = replaced(table, "score", pc.if_else(chosen, pc.subtract(1.0, table["score"]), table["score"]))
        return replaced(table, "prediction", pc.if_else(chosen, flipped, table["prediction"]))

    alerts = after(2, fault=wrong)
    segments = [a for a in alerts if a["subject"] != "*"]
    assert {(a["kind"], a["subject"], a["severity"]) for a in segments} == {("performance", "carrier=B6", "critical")}
    incident = rows_of(after.world.results, "incidents")[0]
    assert "carrier=B6" in incident["root_cause"]
    diagnosis = worlds.cli_json(after.world, "diagnose", "alpha", "--from", worlds.text(336), "--to", worlds.text(338))
    assert "carrier=B6" in diagnosis["cause"]


def test_half_a_sigma_is_drift_within_two_hours(after: Callable[..., list[dict[str, Any]]]) -> None:
    alerts = after(2, fault=lambda t: replaced(t, "feature_amount", pc.add(t["feature_amount"], 5.0)))
    drift = [a for a in alerts if a["kind"] == "drift"]
    assert [a["subject"] for a in drift] == ["amount"]
    assert drift[0]["opened_at"] <= at(338)
    whole = {"segment": "*", "baseline": "seasonal", "metric": "ks_statistic"}
    rows = rows_of(after.world.results, "drift", window_start=at(337), **whole)
    assert {row["feature"]: row["drifted"] for row in rows} == {
        name: int(name == "amount") for name in (*worlds.NUMERIC, "score", "latency_ms")
    }  # fmt: skip
    sound(after.world)


def test_a_score_that_moves_is_drift_and_no_input(after: Callable[..., list[dict[str, Any]]]) -> None:
    def fault(table: pa.Table) -> pa.Table:
        return replaced(table, "score", pc.power(table["score"], 3.0))

    alerts = after(2, fault=fault)
    assert [a["subject"] for a in alerts if a["kind"] == "drift"] == ["score"]
    (incident,) = rows_of(after.world.results, "incidents", state="open")
    assert "outputs changed (score)" in incident["root_cause"]
    sound(after.world)


def test_swapped_categories_are_drift(after: Callable[..., list[dict[str, Any]]]) -> None:
    def swapped(table: pa.Table) -> pa.Table:
        other = dict(zip(worlds.CARRIERS, reversed(worlds.CARRIERS), strict=True))
        return replaced(table, "feature_carrier", pa.array([other[c] for c in table["feature_carrier"].to_pylist()]))

    alerts = after(1, fault=swapped)
    assert {(a["kind"], a["subject"], a["opened_at"]) for a in alerts if a["kind"] == "drift"} == {
        ("drift", "carrier", at(337))
    }


def test_a_burst_of_nulls_is_one_quality_alert(after: Callable[..., list[dict[str, Any]]]) -> None:
    def nulls(table: pa.Table) -> pa.Table:
        keep = pa.array(np.random.default_rng(2).random(1000) > 0.3)
        return replaced(table, "feature_amount", pc.if_else(keep, table["feature_amount"], None))

    alerts = after(1, fault=nulls)
    assert [(a["kind"], a["subject"], a["opened_at"]) for a in alerts] == [("quality", "amount", at(337))]


@pytest.mark.parametrize("factor", [100.0, 0.01])
def test_a_changed_unit_is_noticed_in_its_first_hour(after: Callable[..., list[dict[str, Any]]], factor: float) -> None:
    alerts = after(1, fault=lambda t: replaced(t, "feature_distance", pc.multiply(t["feature_distance"], factor)))
    assert {(a["kind"], a["subject"], a["opened_at"]) for a in alerts} == {("drift", "distance", at(337))}
