"""Files that come after their window was checked, and objects that cannot be read: seen from outside."""

import json
import os
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from tests import worlds
from tests.worlds import HOUR, World, at, cli, cli_json, partition, rows_of, text

HOURS = 30


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A world whose hours were checked; `amount` went up in the last six, so that an alert is open."""

    def shift(table: Any) -> Any:
        at = table.schema.get_field_index("feature_amount")
        amount = table["feature_amount"].combine_chunks().to_numpy() + 40
        return table.set_column(at, "feature_amount", [amount])

    world = worlds.write(tmp_path_factory.mktemp("late") / "world", hours=HOURS - 6)
    worlds.write_hours(world, range(HOURS - 6, HOURS), fault=shift)
    found = cli(world, "replay", "alpha", "--from", text(0), "--to", text(HOURS), "--jobs", "1")
    assert found.exit_code == 0, found.output
    return world


def arrive(
    world: World, hour: int, *, rows: int = 90, after: timedelta = timedelta(hours=2), name: str = "late"
) -> None:
    """A file that comes `after` the end of its hour."""
    table = worlds.hour_table("alpha", hour, rows, seed=5).drop_columns(["ground_truth"])
    ids = [f"{name}-{hour}-{k}" for k in range(rows)]
    path = partition(world.logs(), at(hour)) / f"{name}.parquet"
    pq.write_table(table.set_column(0, "prediction_id", [ids]), path)
    came = (at(hour) + HOUR + after).timestamp()
    os.utime(path, (came, came))


def window(world: World, hour: int) -> dict[str, Any]:
    (row,) = rows_of(world.results, "windows", model_name="alpha", window_start=at(hour))
    return row


def test_a_sweep_runs_again_what_changed_and_counts_what_was_late(checked: World, tmp_path: Path) -> None:
    world = worlds.copied(checked, tmp_path / "world")
    before = rows_of(world.results, "alerts")
    assert [row["subject"] for row in before] == ["amount"]
    arrive(world, HOURS - 3)
    arrive(world, HOURS - 10, rows=10, after=timedelta(minutes=30))

    found = cli_json(world, "sweep", "alpha")
    assert (found["from"], found["to"], found["windows"]) == (text(HOURS - 48) + "Z", text(HOURS) + "Z", HOURS)
    assert found["changed"] == [
        {"window": f"{text(HOURS - 10)}Z", "status": "ok", "rows": 310, "late_rows": 10, "late_seconds": 1800,
         "error": None},
        {"window": f"{text(HOURS - 3)}Z", "status": "ok", "rows": 390, "late_rows": 90, "late_seconds": 7200,
         "error": None},
    ]  # fmt: skip
    assert [window(world, HOURS - 3)[name] for name in ("rows", "late_rows", "late_seconds")] == [390, 90, 7200]
    said = "100 rows of 2 windows came after these were checked, up to 2.0 h after the hour"
    assert said in cli(world, "status", "alpha").output
    page = tmp_path / "day.html"
    cli_json(world, "report", "alpha", "--day", f"{at(HOURS - 10):%Y-%m-%d}", "-o", str(page))
    assert "10 rows of 1 window came after it was checked, up to 0.5 h after the hour" in page.read_text()

    # nobody is paged again: the same alert under the same id, and nothing for the Pushgateway
    after = rows_of(world.results, "alerts")
    assert [(row["alert_id"], row["opened_at"], row["state"]) for row in after] == [
        (row["alert_id"], row["opened_at"], row["state"]) for row in before
    ]
    assert rows_of(world.results, "outbox") == []

    # and a second sweep finds nothing to do
    tables = worlds.snapshot(world.results)
    assert cli_json(world, "sweep", "alpha")["changed"] == []
    assert worlds.differences(worlds.snapshot(world.results), tables) == []


def test_after_a_sweep_the_window_is_as_if_nothing_had_been_late(checked: World, tmp_path: Path) -> None:
    """But for what says that rows were late, and for what later windows had decided before."""
    world = worlds.copied(checked, tmp_path / "world")
    hour = HOURS - 2
    arrive(world, hour)
    cli_json(world, "sweep", "alpha", "--from", text(hour), "--to", text(hour + 1))
    clean = World(tmp_path / "clean")
    shutil.copytree(world.folder, clean.folder, ignore=shutil.ignore_patterns("results"))
    cli(clean, "replay", "alpha", "--from", text(0), "--to", text(HOURS), "--jobs", "1")
    found = [worlds.snapshot(each.results) for each in (world, clean)]
    for tables in found:
        for row in tables["windows"]:
            assert (row.pop("late_rows"), row.pop("late_seconds")) in {(0, None), (90, 7200)}
            row.pop("as_of")  # a replay is as of the settle time, a sweep as of when the last labels were due
    mine, theirs = ({name: [r for r in tables[name] if r["window_start"] == at(hour)] for name in ("windows", "quality",
                    "drift", "profiles", "outcomes")} for tables in found)  # fmt: skip
    theirs["outcomes"] = mine["outcomes"] = [r for r in mine["outcomes"] if r["label_age_hours"] == 0]
    # so that the sweep alone judges the labels that were due only after the settle time
    due_later = [row for row in mine["drift"] if row["reason"].startswith("labels 24 h old")]
    assert {(row["feature"], row["segment"]) for row in due_later} == {("ground_truth", "*")}
    mine["drift"] = [row for row in mine["drift"] if row not in due_later]
    assert worlds.differences(mine, theirs) == []
    assert mine["profiles"]


def test_a_label_age_that_another_run_judged_is_judged_again(checked: World, tmp_path: Path) -> None:
    world = worlds.copied(checked, tmp_path / "world")
    hour = HOURS - 8  # the run of two hours before the end judged it at 6 h
    arrive(world, hour)
    cli_json(world, "sweep", "alpha")
    judged = rows_of(
        world.results, "performance", window_start=at(hour), metric="request_count", segment="*", label_age_hours=0
    )
    assert [row["value"] for row in judged] == [390]
    aged = rows_of(
        world.results, "performance", window_start=at(hour), metric="accuracy", segment="*", label_age_hours=6
    )
    # the late rows have no labels
    assert aged[0]["label_coverage"] == pytest.approx(0.85 * 300 / 390, abs=0.05)


def test_an_object_that_is_mended_is_found_too(tmp_path: Path) -> None:
    world = worlds.write(tmp_path / "world", hours=2)
    path = world.partition(1) / "part-1.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:-200])
    cli(world, "check", "alpha", "--window", text(0))
    facts = worlds.check_window(world, 1)["pull"]
    assert (facts["status"], facts["rows"]) == ("partial", 150)
    path.write_bytes(whole)
    (changed,) = cli_json(world, "sweep", "alpha", "--from", text(0))["changed"]
    assert (changed["status"], changed["rows"], changed["late_rows"]) == ("ok", 300, 150)


def test_a_window_that_cannot_be_run_again_stops_no_other(checked: World, tmp_path: Path) -> None:
    world = worlds.copied(checked, tmp_path / "world")
    for path in world.partition(HOURS - 5).glob("*.parquet"):
        path.write_bytes(b"PAR1")
    arrive(world, HOURS - 4)
    found = cli_json(world, "sweep", "alpha", status=3)
    assert [row["status"] for row in found["changed"]] == ["failed", "ok"]
    assert "none of 2 objects could be read" in found["changed"][0]["error"]
    assert found["changed"][1]["late_rows"] == 90


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--from", text(5), "--to", text(4)], "must lie before to"),
        (["--from", "soon"], "'soon' is not a time"),
    ],
)
def test_a_sweep_of_no_hours_is_refused(checked: World, arguments: list[str], said: str) -> None:
    found = cli(checked, "sweep", "alpha", *arguments)
    assert (found.exit_code, said in found.output) == (2, True)


def test_nothing_checked_is_nothing_to_sweep(tmp_path: Path) -> None:
    found = cli(worlds.write(tmp_path / "world", hours=1), "sweep", "alpha")
    assert (found.exit_code, "no window was checked yet" in found.output) == (2, True)


# --- objects that cannot be read ---


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif how == "no parquet":
        path.write_bytes(b"{}" * 100)
    elif how == "empty":
        path.write_bytes(b"")
    else:  # a page in the middle
        path.write_bytes(content[:200] + bytes(len(content) // 2) + content[200 + len(content) // 2 :])


@pytest.mark.parametrize("how", ["truncated", "no parquet", "empty", "damaged page"])
def test_a_damaged_object_is_named_and_the_rest_is_processed(tmp_path: Path, how: str) -> None:
    world = worlds.write(tmp_path / "world", hours=1)
    damage(world.partition(0) / "part-1.parquet", how)
    facts = worlds.check_window(world, 0)["pull"]
    name = f"date={at(0):%Y-%m-%d}/hour=00/part-1.parquet"
    assert (facts["status"], facts["rows"]) == ("partial", 150)
    assert facts["reason"].startswith("1 of 2 objects could not be read: ")
    assert name in facts["reason"]
    row = window(world, 0)
    assert (row["status"], row["rows"], list(json.loads(row["details"])["unreadable"])) == ("partial", 150, [name])
    # what the other object holds is judged
    assert rows_of(world.results, "drift", window_start=at(0))


def test_beyond_the_limit_a_window_is_failed_and_nothing_is_judged(tmp_path: Path) -> None:
    world = worlds.write(tmp_path / "world", hours=2)
    worlds.check_window(world, 0)
    logs = {"uri": "../alpha/logs", "max_unreadable": 0.4}
    worlds.model_file(world, logs=logs)
    damage(world.partition(0) / "part-1.parquet", "truncated")
    found = worlds.check_window(world, 0, status=3)
    assert list(found) == ["pull"]
    assert "1 of 2 objects could not be read" in found["pull"]["reason"]
    assert found["pull"]["reason"].endswith("more than logs.max_unreadable = 0.4 of them")
    row = window(world, 0)
    assert (row["status"], row["rows"]) == ("failed", 0)
    assert rows_of(world.results, "profiles", window_start=at(0)) == []
    assert not list((world.folder / "results/artifacts/facts").rglob("*.parquet"))
    worlds.model_file(world, logs={**logs, "max_unreadable": 0.5})
    assert worlds.check_window(world, 0)["pull"]["status"] == "partial"


def test_what_was_read_before_an_hour_failed_is_not_late_when_it_counts_again(tmp_path: Path) -> None:
    world = worlds.write(tmp_path / "world", hours=1, logs={"uri": "../alpha/logs", "max_unreadable": 0.3})
    path = world.partition(0) / "part-1.parquet"
    whole = path.read_bytes()
    damage(path, "truncated")
    worlds.check_window(world, 0, status=3)
    path.write_bytes(whole)
    (changed,) = cli_json(world, "sweep", "alpha", "--from", text(0))["changed"]
    assert (changed["status"], changed["rows"], changed["late_rows"]) == ("ok", 300, 150)
    arrive(world, 0)
    late = path.with_name("late.parquet")
    whole = late.read_bytes()
    path.with_name("more.parquet").write_bytes(b"PAR1")
    late.write_bytes(whole[:-9])
    assert cli_json(world, "sweep", "alpha", "--from", text(0), status=3)["changed"][0]["status"] == "failed"
    path.with_name("more.parquet").unlink()
    late.write_bytes(whole)
    (changed,) = cli_json(world, "sweep", "alpha", "--from", text(0))["changed"]
    assert (changed["status"], changed["rows"], changed["late_rows"]) == ("ok", 390, 240)


# --- the flat layout ---


@pytest.mark.parametrize("kind", ["moments", "text", "dictionaries"])
def test_every_row_of_flat_files_is_in_one_hour_or_counted_as_misplaced(tmp_path: Path, kind: str) -> None:
    """Flushed at any time, up to an hour after the settle time or before the row's own hour."""
    world = worlds.write(tmp_path / "world", models=("alpha",))
    draw = np.random.default_rng(5)
    read, lost = [0] * 3, [0] * 4
    for k in range(24):
        flushed = 10 * k + 5  # minutes; the settle time is 10
        moments = np.sort(draw.integers(flushed - 90, flushed + 20, 40))
        moments = moments[(moments >= 0) & (moments < 180)]
        for minute in moments.tolist():
            hour = minute // 60
            if hour * 60 <= flushed <= hour * 60 + 70:
                read[hour] += 1
            else:
                lost[flushed // 60] += 1
        table = worlds.hour_table("alpha", 0, len(moments), seed=k).drop_columns(["ground_truth"])
        times: Any = pa.array([at(minute / 60) for minute in moments.tolist()], pa.timestamp("us", "UTC"))
        if kind != "moments":
            times = pc.strftime(times.cast(pa.timestamp("ms", "UTC")), "%Y-%m-%dT%H:%M:%SZ")
            times = times.dictionary_encode() if kind == "dictionaries" else times
        table = table.set_column(table.schema.get_field_index("timestamp"), "timestamp", [times])
        pq.write_table(table, world.logs() / f"{at(flushed / 60):%Y-%m-%dT%H-%M-%S}_{k}.parquet")
    found = [worlds.check_window(world, hour, "--only", "quality")["pull"]["rows"] for hour in range(4)]
    assert found == [*read, 0]
    assert [window(world, hour)["misplaced_rows"] for hour in range(4)] == lost
    assert sum(lost) > 20


# --- labels ---


def test_a_file_of_labels_that_holds_none_ends_the_check_with_its_name(tmp_path: Path) -> None:
    """Nothing is left of the others: a part of the labels is no random part."""
    world = worlds.write(tmp_path / "world", hours=1)
    arguments = ("check", "alpha", "--window", text(0), "--only", "performance")
    (path, *_) = sorted(world.labels().rglob("*.parquet"))
    table = pq.read_table(path, partitioning=None)
    pq.write_table(table.drop_columns(["prediction_id"]), path.with_name("other.parquet"))
    found = cli(world, *arguments)
    assert found.exit_code == 3
    assert "other.parquet: holds no labels: it lacks prediction_id" in found.output
    assert rows_of(world.results, "performance") == []
    path.with_name("other.parquet").unlink()
    assert cli(world, *arguments).exit_code == 0
    assert {row["status"] for row in rows_of(world.results, "performance", metric="accuracy", segment="*")} == {"ok"}


def test_rows_without_any_label_say_so(tmp_path: Path) -> None:
    world = worlds.write(tmp_path / "world", hours=1)
    for path in world.labels().rglob("*.parquet"):
        path.unlink()
    assert cli(world, "check", "alpha", "--window", text(0), "--only", "performance").exit_code == 0
    found = rows_of(world.results, "performance", metric="accuracy", segment="*")
    assert {(row["status"], row["reason"]) for row in found} == {
        ("insufficient_data", "no label of these rows is known yet")
    }
