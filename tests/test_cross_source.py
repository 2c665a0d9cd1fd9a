"""Logs in one system and labels in another: performance is joined all the same, and to the same figures."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests import worlds
from tests.bigquery_server import DATASET, PROJECT, Emulator, between, emulator
from tests.s3_server import S3Server
from tests.worlds import World, at

from hindcast import config
from hindcast.checks.reference import Reference, load_reference
from hindcast.errors import SourceMissing, SourceUnreadable, UsageError
from hindcast.performance.parts import streamed_labels
from hindcast.results.sql import Store
from hindcast.sources import bigquery_export, open_source
from hindcast.sources.bigquery import BigQueryTable
from hindcast.sources.bigquery_export import exported
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
    """Every table after an hour was checked from the command line."""
    worlds.model_file(world, performance=AGES, **keys)
    done = worlds.cli(world, "check", "alpha", "--window", worlds.text(1), results=world.store_at(store))
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
    assert {row["window_start"] for row in joined} == {at(1)}
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


# --- duplicates ---


def test_duplicates_in_a_table_are_dropped_and_the_sweep_knows_them(emulator: Emulator, world: World) -> None:
    table = pa.concat_tables(pq.read_table(path, partitioning=None) for path in world.partition(1).glob("*"))
    uri = emulator.load("twice", pa.concat_tables([table, table.slice(0, 40)]))
    worlds.model_file(world, logs={"uri": uri, "connection": "bq", "duplicates": "drop"})
    store = world.store_at("twice")
    done = worlds.cli(world, "check", "alpha", "--window", worlds.text(1), results=store)
    assert done.exit_code == 0, done.output
    swept = worlds.cli_json(world, "sweep", "alpha", results=store)
    assert (swept["windows"], swept["changed"]) == (1, [])
    emulator.client().query(f"INSERT INTO `{uri[5:]}` SELECT * FROM `{uri[5:]}` LIMIT 5").result()
    swept = worlds.cli_json(world, "sweep", "alpha", results=store)
    assert [row["rows"] for row in swept["changed"]] == [300]
    (row,) = worlds.snapshot(store)["windows"]
    assert (row["rows"], row["duplicate_ids"], row["dropped_rows"]) == (300, 45, 45)


# --- references ---


def reference_of(world: World, store: str) -> dict[str, Any]:
    """The one reference that was fitted."""
    (row,) = worlds.snapshot(world.store_at(store))["references"]
    return row


def exports(emulator: Emulator, table: str) -> list[str]:
    """Queries that were run to export a table."""
    jobs = [job for job in emulator.client().list_jobs(all_users=True) if job.job_type == "query"]
    return [job.query for job in jobs if f".{table}` AS line" in job.query]


def test_a_reference_may_be_a_table(emulator: Emulator, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bins as from the file, whatever the order of the rows; read once, and again when the table changed."""
    table = pq.read_table(world.folder / "reference.parquet").append_column("comment", [["x"] * 20_000])
    changed = "1700000000000"

    def dated(path: str, answer: Any) -> tuple[int, Any]:
        """The emulator says that every table was changed just now."""
        if path.partition("?")[0].endswith("/tables/train"):
            answer["lastModifiedTime"] = changed
        return 200, answer

    def fitted(rows: pa.Table, **keys: Any) -> Reference:
        emulator.load("train", rows)
        model = config.load(worlds.model_file(world, **keys))
        return load_reference(model, Store(world.store_at("references")), None)

    in_table = {"uri": f"bq://{PROJECT}.{DATASET}.train", "connection": "bq"}
    expected = fitted(table)
    with between(emulator, dated) as proxy:
        monkeypatch.setenv("AIRFLOW_CONN_BQ", json.dumps(proxy.connection))
        found = fitted(table, reference=in_table)
        assert (found.bins.digest, found.profile.to_bytes()) == (expected.bins.digest, expected.profile.to_bytes())
        assert fitted(table, reference=in_table).digest == found.digest
        (sql,) = exports(emulator, "train")
        assert "`feature_amount`" in sql
        assert "comment" not in sql
        changed = "1700000000001"
        backwards = table.take(np.arange(20_000)[::-1])
        assert fitted(backwards, reference=in_table).digest == found.digest
        assert len(exports(emulator, "train")) == 2
        assert fitted(table.slice(10_000), reference=in_table).profile.rows == 10_000


def test_a_reference_in_a_table_may_hold_structs(emulator: Emulator, world: World) -> None:
    flat = pq.read_table(world.folder / "reference.parquet")
    both = pa.StructArray.from_arrays([flat["feature_amount"].combine_chunks()] * 2, ["small", "large"])
    twice = pa.StructArray.from_arrays([flat["feature_amount"].combine_chunks()], ["small"])
    table = flat.append_column("feature_trip", both).append_column("feature_way", twice)
    table = table.append_column("feature_way__small", flat["feature_amount"])
    emulator.load("nested", table)
    in_table = {"uri": f"bq://{PROJECT}.{DATASET}.nested", "connection": "bq"}
    model = config.load(worlds.model_file(world, reference=in_table, features={}))
    found = load_reference(model, Store(world.store_at("nested")), None)
    assert {"feature_trip.small", "feature_trip.large", "feature_way.small"} < {*found.bins.numeric}
    at = [found.bins.numeric.index(name) for name in ("feature_amount", "feature_trip.large", "feature_way.small")]
    for other in at[1:]:
        assert (found.profile.numeric[other] == found.profile.numeric[at[0]]).all()


def test_a_reference_may_be_hours_of_logs_in_a_table(emulator: Emulator, world: World) -> None:
    logs = in_table(emulator, world.logs(), "logs")
    worlds.model_file(world, logs=logs, reference={"from": worlds.text(0), "to": worlds.text(2)})
    done = worlds.cli(world, "check", "alpha", "--window", worlds.text(2), results=world.store_at("range"))
    assert done.exit_code == 0, done.output
    assert reference_of(world, "range")["rows"] == 600
    worlds.model_file(world, logs=logs, reference={"from": worlds.text(-9), "to": worlds.text(-8)})
    done = worlds.cli(world, "check", "alpha", "--window", worlds.text(2), results=world.store_at("range"))
    assert done.exit_code == 3, done.output
    assert f"{logs['uri']}: has no rows from 2024-03-03" in done.output


def test_a_reference_that_costs_too_much_or_is_a_view_is_refused(emulator: Emulator, tmp_path: Path) -> None:
    uri = emulator.load("small", pa.table({"feature_a": [1.0, 2.0]}))
    emulator.client().query(f"CREATE OR REPLACE VIEW `{uri[5:]}_view` AS SELECT * FROM `{uri[5:]}`").result()
    view = BigQueryTable(f"{uri}_view", "bq")
    with pytest.raises(SourceUnreadable, match="is a VIEW, of which nobody can tell when it changed"):
        exported(view, ["feature_a"], tmp_path)
    path = exported(BigQueryTable(uri, "bq", max_gb=2.5), ["feature_a"], tmp_path)
    jobs = [job for job in emulator.client().list_jobs(all_users=True) if job.job_type == "query"]
    assert [job.maximum_bytes_billed for job in jobs if ".small` AS line" in job.query] == [2_500_000_000]
    assert pq.read_table(path)["feature_a"].to_pylist() in ([1.0, 2.0], [2.0, 1.0])


def test_an_export_is_cut_into_row_groups_of_one_size(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(bigquery_export, "ROW_GROUP", 10)
    batches = [pa.record_batch({"a": list(range(n))}) for n in (3, 25, 1, 4)]
    assert [part.num_rows for part in bigquery_export._groups(batches)] == [10, 10, 10, 3]
