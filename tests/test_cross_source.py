"""Logs in one system and labels in another: performance is joined all the same, and to the same figures."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests import worlds
from tests.bigquery_server import DATASET, PROJECT, Emulator, emulator
from tests.s3_server import S3Server
from tests.worlds import World, at

from hindcast.errors import SourceMissing, SourceUnreadable, UsageError
from hindcast.performance.parts import streamed_labels
from hindcast.sources import open_source
from hindcast.sources.bigquery import BigQueryTable
from hindcast.window import HOUR

__all__ = ["emulator"]
HOURS = 3
AGES = {"label_ages_hours": [0, 2]}
# What says where rows came from, and in how many objects.
ABOUT = ("config_digest", "manifest_digest", "bytes", "details", "content")


@pytest.fixture(autouse=True)
def _connected(emulator: Emulator, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_BQ", json.dumps(emulator.connection))
    monkeypatch.setenv("AIRFLOW_CONN_LAKE", s3.connection())


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return worlds.write(tmp_path_factory.mktemp("cross") / "world", hours=HOURS, performance=AGES)


def in_table(emulator: Emulator, root: Path, name: str) -> dict[str, str]:
    parts = [pq.read_table(path, partitioning=None) for path in sorted(root.rglob("*.parquet"))]
    return {"uri": emulator.load(name, pa.concat_tables(parts)), "connection": "bq"}


def in_bucket(s3: S3Server, root: Path) -> dict[str, str]:
    bucket, client = s3.bucket(), s3.client()
    for path in root.rglob("*.parquet"):
        client.put_object(Bucket=bucket, Key=f"at/{path.relative_to(root).as_posix()}", Body=path.read_bytes())
    return {"uri": f"s3://{bucket}/at", "connection": "lake"}


def checked(world: World, store: str, **keys: Any) -> dict[str, list[dict[str, Any]]]:
    """Every table after two hours were checked from the command line."""
    worlds.model_file(world, performance=AGES, **keys)
    for hour in range(1, HOURS):
        done = worlds.cli(world, "check", "alpha", "--window", worlds.text(hour), results=world.store_at(store))
        assert done.exit_code == 0, done.output
    found = worlds.snapshot(world.store_at(store))
    for row in (row for table in found.values() for row in table):
        for name in ABOUT:
            row.pop(name, None)
    return found


def test_labels_are_joined_from_wherever_they_lie(emulator: Emulator, s3: S3Server, world: World) -> None:
    logs, labels = world.logs(), world.labels()
    logs_in_table, labels_in_table = in_table(emulator, logs, "logs"), in_table(emulator, labels, "labels")
    places = {
        "labels in a table": {"logs": in_bucket(s3, logs), "labels": labels_in_table},
        "logs in a table": {"logs": logs_in_table, "labels": in_bucket(s3, labels)},
        "both in tables": {"logs": logs_in_table, "labels": labels_in_table},
    }
    expected = checked(world, "folders")
    joined = [row for row in expected["performance"] if row["label_age_hours"] == 2 and row["label_coverage"]]
    assert {row["window_start"] for row in joined} == {at(1), at(2)}
    truth = worlds.naive_join(world, 1, at(2) + 2 * HOUR + worlds.SETTLE)
    (accuracy,) = [
        row for row in joined if (row["window_start"], row["segment"], row["metric"]) == (at(1), "*", "accuracy")
    ]
    assert accuracy["value"] == pytest.approx(sum(t == p for t, p, _ in truth) / len(truth))
    assert accuracy["n"] == len(truth)
    for place, keys in places.items():
        assert worlds.differences(expected, checked(world, place.replace(" ", "-"), **keys)) == [], place


def labels_in(emulator: Emulator, name: str, columns: dict[str, Any], **options: Any) -> BigQueryTable:
    uri = emulator.load(name, pa.table(columns))
    source = open_source(uri, "bq", times="label_timestamp", **options)
    assert isinstance(source, BigQueryTable)
    return source


THREE = {
    "prediction_id": ["a", "b", "c"],
    "ground_truth": [1, 0, 1],
    "label_timestamp": pa.array([at(-0.001), at(0), at(1)], pa.timestamp("us", "UTC")),
    "comment": ["x" * 50] * 3,
}


def test_of_a_table_of_labels_the_hours_and_the_three_columns_are_read(emulator: Emulator) -> None:
    source = labels_in(emulator, "three", THREE)
    (item,) = source.manifest(at(0), at(1)).objects
    (table,) = streamed_labels(source, item)
    assert table.to_pydict() == {"prediction_id": ["b"], "ground_truth": [0], "label_timestamp": [at(0)]}
    whole = source.manifest(at(-1), at(2))
    assert sum(table.num_rows for table in streamed_labels(source, whole.objects[0])) == 3
    assert source.count(whole.objects[0]) == 3


def test_ids_may_be_numbers_and_labels_of_any_type(emulator: Emulator) -> None:
    columns = {**THREE, "prediction_id": pa.array([1, 2, 3], pa.int64()), "ground_truth": ["yes", None, "no"]}
    source = labels_in(emulator, "kinds", columns)
    (item,) = source.manifest(at(-1), at(2)).objects
    (table,) = streamed_labels(source, item)
    assert table.sort_by("prediction_id").to_pydict() == {
        "prediction_id": ["1", "2", "3"],
        "ground_truth": ["yes", None, "no"],
        "label_timestamp": [at(-0.001), at(0), at(1)],
    }


def test_a_table_that_holds_no_labels_is_refused(emulator: Emulator) -> None:
    untimed = labels_in(emulator, "untimed", {name: THREE[name] for name in ("prediction_id", "ground_truth")})
    with pytest.raises(SourceUnreadable, match="has no column label_timestamp of type TIMESTAMP"):
        untimed.manifest(at(0), at(1))
    untrue = labels_in(emulator, "untrue", {name: THREE[name] for name in ("prediction_id", "label_timestamp")})
    (item,) = untrue.manifest(at(0), at(1)).objects
    with pytest.raises(SourceUnreadable, match=r"logs\.untrue: holds no labels: it lacks ground_truth"):
        list(streamed_labels(untrue, item))
    gone = open_source(f"bq://{PROJECT}.{DATASET}.gone", "bq", times="label_timestamp")
    with pytest.raises(SourceMissing, match=r"logs\.gone: not found"):
        gone.manifest(at(0), at(1))


def test_what_a_read_session_would_scan_is_capped(emulator: Emulator) -> None:
    source = labels_in(emulator, "dear", THREE, max_gb=1e-9)
    (item,) = source.manifest(at(-1), at(2)).objects
    with pytest.raises(UsageError, match=r"a read session would scan .* GB, more than bigquery\.max_gb_billed = 1e-09"):
        list(streamed_labels(source, item))


def test_the_cap_of_the_model_file_is_that_of_its_logs_and_labels(emulator: Emulator, world: World) -> None:
    places = {"logs": in_table(emulator, world.logs(), "logs"), "labels": in_table(emulator, world.labels(), "labels")}
    for name, place in places.items():
        worlds.model_file(world, bigquery={"max_gb_billed": 1e-9}, **{name: place})
        done = worlds.cli(world, "check", "alpha", "--window", worlds.text(1), results=world.store_at(f"dear-{name}"))
        assert done.exit_code == 2, done.output
        assert f"{place['uri']}: a read session would scan" in done.output
