"""Logs change: each way in which a column may come otherwise than before, seen through `hindcast check` on files."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from tests import worlds
from tests.worlds import World, at, rows_of

ALL = "quality,drift,performance"
Change = Callable[[pa.Table], pa.Table]


def put(table: pa.Table, name: str, values: Any) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), name, [values])


def plain(table: pa.Table, name: str) -> pa.Array:
    return table[name].combine_chunks()


def checked(
    folder: Path,
    change: Change | None,
    *,
    write: Callable[[pa.Table, Path], None] | None = None,
    only: str = "drift,performance",
) -> World:
    """An hour as it was before in one file, and as `change` makes it in the other."""
    world = worlds.write(folder, hours=1)
    path = world.partition(0) / "part-1.parquet"
    table = pq.read_table(path, partitioning=None)
    (write or pq.write_table)(change(table) if change else table, path)
    worlds.check_window(world, 0, "--only", only)
    return world


@pytest.fixture(scope="module")
def as_before(tmp_path_factory: pytest.TempPathFactory) -> World:
    return checked(tmp_path_factory.mktemp("schemas") / "world", None)


def judged(world: World) -> dict[str, list[dict[str, Any]]]:
    """What the checks found; not what says how the files look."""
    tables = worlds.snapshot(world.results)
    for row in tables["windows"]:
        for name in ("bytes", "manifest_digest", "details"):
            row.pop(name)
    return {name: tables[name] for name in ("windows", "quality", "drift", "performance", "outcomes", "findings")}


def same(world: World, other: World) -> None:
    assert worlds.differences(judged(world), judged(other)) == []


def quality(world: World, subject: str) -> dict[str, str]:
    rows = rows_of(world.results, "quality", window_start=at(0), subject=subject)
    return {row["metric"]: row["status"] for row in rows}


# --- what is only written otherwise is the same ---


def timestamps(kind: pa.DataType) -> Change:
    return lambda table: put(table, "timestamp", plain(table, "timestamp").cast(kind, safe=False))


def texts(change: Callable[[pa.Array], pa.Array]) -> Change:
    def changed(table: pa.Table) -> pa.Table:
        for name in ("prediction_id", "model_version", "feature_carrier", "feature_origin"):
            table = put(table, name, change(plain(table, name)))
        return table

    return changed


SAME: dict[str, Change] = {
    "timestamp[ns, UTC]": timestamps(pa.timestamp("ns", "UTC")),
    "timestamp[us], naive": timestamps(pa.timestamp("us")),
    "timestamp[us, New York]": timestamps(pa.timestamp("us", "America/New_York")),
    "timestamp as text": lambda t: put(t, "timestamp", pc.strftime(plain(t, "timestamp"), "%Y-%m-%dT%H:%M:%SZ")),
    "dictionaries": texts(lambda values: values.dictionary_encode()),
    "large text": texts(lambda values: values.cast(pa.large_string())),
    "dictionaries of large text": texts(lambda values: values.cast(pa.large_string()).dictionary_encode()),
    "integers as floats": lambda t: put(t, "prediction", plain(t, "prediction").cast(pa.float64())),
    "another order": lambda t: t.select(t.column_names[::-1]),
}


@pytest.mark.parametrize("how", [name for name in SAME if name != "timestamp as text"])
def test_what_is_only_written_otherwise_changes_no_figure(as_before: World, tmp_path: Path, how: str) -> None:
    same(checked(tmp_path / "world", SAME[how]), as_before)


@pytest.mark.parametrize("kind", ["s", "ms", "int96", "text"])
def test_a_timestamp_of_any_unit_is_in_its_hour(as_before: World, tmp_path: Path, kind: str) -> None:
    """Seconds and milliseconds cut it; no row is misplaced for that, and nothing else differs."""

    def int96(table: pa.Table, path: Path) -> None:
        pq.write_table(table, path, use_deprecated_int96_timestamps=True)

    if kind == "int96":
        world = checked(tmp_path / "world", timestamps(pa.timestamp("ns")), write=int96)
        column = pq.ParquetFile(world.partition(0) / "part-1.parquet").metadata.row_group(0).column(3)
        assert (column.path_in_schema, column.physical_type) == ("timestamp", "INT96")
    else:
        change = SAME["timestamp as text"] if kind == "text" else timestamps(pa.timestamp(kind, "UTC"))
        world = checked(tmp_path / "world", change)
    found, before = judged(world), judged(as_before)
    for tables in (found, before):
        tables["windows"][0].pop("newest_prediction")
    assert worlds.differences(found, before) == []
    assert rows_of(world.results, "windows")[0]["misplaced_rows"] == 0


def test_decimals_are_the_numbers_that_they_show(as_before: World, tmp_path: Path) -> None:
    def cents(table: pa.Table) -> pa.Table:
        for name in ("feature_amount", "latency_ms"):
            rounded = np.round(np.asarray(plain(table, name)), 2)
            table = put(table, name, pa.array(rounded))
        return table

    def decimals(table: pa.Table) -> pa.Table:
        for name in ("feature_amount", "latency_ms"):
            values = [Decimal(f"{value:.2f}") for value in np.asarray(plain(table, name)).tolist()]
            table = put(table, name, pa.array(values, pa.decimal128(12, 2)))
        return table

    same(checked(tmp_path / "a", decimals), checked(tmp_path / "b", cents))


# --- columns that come and go ---


def test_a_new_column_is_named_and_judges_nothing(as_before: World, tmp_path: Path) -> None:
    world = checked(tmp_path / "world", lambda t: t.append_column("feature_mood", [["good"] * t.num_rows]), only=ALL)
    assert set(quality(world, "mood").values()) == {"new_column"}
    found = judged(world)
    (own,) = [row for row in found["drift"] if row["feature"] == "mood"]
    assert own["status"] == "new_column"
    found["drift"].remove(own)
    assert worlds.differences(
        {"drift": found["drift"], "performance": found["performance"]},
        {"drift": judged(as_before)["drift"], "performance": judged(as_before)["performance"]},
    ) == []  # fmt: skip


def test_a_column_that_half_of_the_files_lack_is_missing_in_their_rows(tmp_path: Path) -> None:
    world = checked(tmp_path / "world", lambda t: t.drop_columns(["feature_amount"]), only="quality")
    (row,) = rows_of(world.results, "quality", window_start=at(0), subject="amount", metric="missing_ratio")
    assert (row["value"], row["status"]) == (0.5, "failed")


def test_a_column_that_all_files_lack_is_a_missing_column(tmp_path: Path) -> None:
    world = worlds.write(tmp_path / "world")
    worlds.write_hours(world, [0], fault=lambda t: t.drop_columns(["feature_amount"]))
    worlds.check_window(world, 0)
    assert "missing_column" in quality(world, "amount").values()
    assert {row["status"] for row in rows_of(world.results, "drift", feature="amount")} == {"missing_column"}


@pytest.mark.parametrize(
    ("kind", "status"),
    [(pa.int32(), "ok"), (pa.float32(), "ok"), (pa.float64(), "ok"), (pa.string(), "type_changed")],
)
def test_a_number_may_change_its_type_but_not_become_text(tmp_path: Path, kind: pa.DataType, status: str) -> None:
    """Stops: int64 before, then int32, float32, float64, text."""
    change: Change = lambda t: put(t, "feature_stops", plain(t, "feature_stops").cast(kind))  # noqa: E731 - typed
    world = checked(tmp_path / "world", change, only="quality")
    assert ("type_changed" in quality(world, "stops").values()) is (status == "type_changed")
    # the others go on
    assert set(quality(world, "amount").values()) == {"ok"}
    assert rows_of(world.results, "windows")[0]["status"] == "ok"


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("timestamp", lambda column: column.cast(pa.int64()), "timestamp (int64)"),
        ("timestamp", lambda column: pc.divide(column.cast(pa.int64()), 1e6), "timestamp (double)"),
        ("prediction_id", lambda column: pa.array([[id_] for id_ in column.to_pylist()]),
         "prediction_id (list<element: string>)"),
        ("prediction", lambda column: pa.array([[1]] * len(column)), "prediction (list<element: int64>)"),
    ],
)  # fmt: skip
def test_a_column_of_which_nothing_can_be_made_is_named_with_its_type(
    tmp_path: Path, name: str, change: Callable[[pa.Array], pa.Array], said: str
) -> None:
    """Moments that are numbers may be of any unit: nobody guesses."""
    world = checked(tmp_path / "world", lambda t: put(t, name, change(plain(t, name))), only="quality")
    (window,) = rows_of(world.results, "windows")
    assert (window["status"], window["reason"]) == ("ok", f"nothing can be made of {said}")
    metric = {"timestamp": "misplaced_ratio", "prediction_id": "duplicate_ratio"}.get(name)
    expected = {"timestamp": ("failed", 0.5), "prediction_id": ("insufficient_data", None)}
    for row in rows_of(world.results, "quality", window_start=at(0), subject="*", metric=metric) if metric else ():
        assert (row["status"], row["value"]) == expected[name]


def test_a_column_that_every_log_needs_and_that_stands_twice_is_named(tmp_path: Path) -> None:
    world = checked(tmp_path / "world", lambda t: t.append_column("timestamp", t["timestamp"]), only="quality")
    assert rows_of(world.results, "windows")[0]["reason"] == "nothing can be made of timestamp (stands twice)"


# --- nested structs ---


def nested(table: pa.Table) -> pa.Table:
    """Amount and carrier as fields of one struct, distance two deep."""
    inner = pa.StructArray.from_arrays([plain(table, "feature_distance")], ["km"])
    parts = [plain(table, "feature_amount"), plain(table, "feature_carrier"), inner]
    table = table.drop_columns(["feature_amount", "feature_carrier", "feature_distance"])
    return table.append_column("feature_trip", [pa.StructArray.from_arrays(parts, ["amount", "carrier", "way"])])


def test_fields_of_structs_are_features_with_dotted_names(tmp_path: Path) -> None:
    """As the same columns without the struct would be, in logs and in the reference; also in large files."""
    names = {"amount": "trip.amount", "carrier": "trip.carrier", "distance": "trip.way.km"}

    def world_of(folder: Path, change: Change) -> World:
        kinds = {new: {"type": "categorical" if old == "carrier" else "numeric"} for old, new in names.items()}
        world = worlds.write(folder, features=kinds, segments=["origin"])
        pq.write_table(change(worlds.reference()), folder / "reference.parquet")
        worlds.write_hours(world, [0], rows=40_000, fault=change)
        worlds.check_window(world, 0, "--only", "drift")
        return world

    def dotted(table: pa.Table) -> pa.Table:
        given = {f"feature_{old}": f"feature_{new}" for old, new in names.items()}
        return table.rename_columns([given.get(name, name) for name in table.column_names])

    structs, flat = world_of(tmp_path / "structs", nested), world_of(tmp_path / "flat", dotted)
    same(structs, flat)
    found = {row["feature"] for row in rows_of(structs.results, "drift") if row["value"] is not None}
    assert found >= set(names.values())


def test_a_struct_that_is_null_has_null_fields(tmp_path: Path) -> None:
    def change(table: pa.Table) -> pa.Table:
        table = nested(table)
        mask = pa.array([k % 2 == 0 for k in range(table.num_rows)])
        return put(table, "feature_trip", pc.if_else(mask, plain(table, "feature_trip"), None))

    world = worlds.write(
        tmp_path / "world", features={"trip.amount": {"type": "numeric", "max_missing": 0.1}}, segments=[]
    )
    pq.write_table(nested(worlds.reference()), world.folder / "reference.parquet")
    worlds.write_hours(world, [0], fault=change)
    worlds.check_window(world, 0, "--only", "quality")
    (row,) = rows_of(world.results, "quality", subject="trip.amount", metric="missing_ratio")
    assert (row["value"], row["status"]) == (0.5, "failed")


# --- writers ---


def by_pandas(table: pa.Table, path: Path) -> None:
    table.to_pandas().to_parquet(path, index=False)


def by_polars(table: pa.Table, path: Path) -> None:
    polars = pytest.importorskip("polars")
    polars.from_arrow(table).write_parquet(path)


def by_duckdb(table: pa.Table, path: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    connection.register("rows", table)
    connection.execute(f"COPY rows TO '{path}' (FORMAT parquet, COMPRESSION zstd)")
    connection.close()


WRITERS = {"pandas": by_pandas, "polars": by_polars, "duckdb": by_duckdb}


@pytest.mark.parametrize("writer", WRITERS)
def test_files_of_other_writers_are_the_same_rows(as_before: World, tmp_path: Path, writer: str) -> None:
    world = checked(tmp_path / "world", None, write=WRITERS[writer])
    created = pq.ParquetFile(world.partition(0) / "part-1.parquet").metadata.created_by
    assert writer in {"pandas", created.split()[0].lower()}
    same(world, as_before)


def test_times_before_1970_and_far_ahead_are_only_misplaced(tmp_path: Path) -> None:
    moments = [datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC), at(0) + timedelta(minutes=1)]

    def change(table: pa.Table) -> pa.Table:
        return put(
            table, "timestamp", pa.array([moments[k % 3] for k in range(table.num_rows)], pa.timestamp("us", "UTC"))
        )

    world = checked(tmp_path / "world", change)
    assert rows_of(world.results, "windows")[0]["misplaced_rows"] == 100
