"""BigQuery finds what the local engine finds: the same rows in a folder, streamed, and profiled by SQL."""

import json
import logging
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests import test_engines as contract
from tests import worlds
from tests.bigquery_server import Emulator, between, emulator

from hindcast.engines import bigquery_repeats
from hindcast.engines.base import Engine, Plan, Scan
from hindcast.engines.bigquery import BigQueryEngine
from hindcast.engines.bigquery_repeats import without_repeats
from hindcast.engines.bigquery_sql import Window, categorical_statements, numeric_statements, sample_statement
from hindcast.engines.local import LocalEngine
from hindcast.errors import SourceBusy, SourceMissing, UsageError
from hindcast.profile.bins import LATENCY_EDGES, PROBABILITY_EDGES, Bins, fit_edges
from hindcast.profile.columns import is_text
from hindcast.profile.scan import Expected
from hindcast.sources import open_source
from hindcast.sources.bigquery import BigQueryTable, quoted
from hindcast.sources.folder import Folder

__all__ = ["emulator"]
START, END = datetime(2024, 3, 4, 15, tzinfo=UTC), datetime(2024, 3, 4, 16, tzinfo=UTC)
HOUR_MICROS = 3_600_000_000
CONNECTION = "bq_emulator"


def moments(micros: np.ndarray) -> pa.Array:
    return pa.array(int(START.timestamp()) * 1_000_000 + micros, pa.int64()).cast(pa.timestamp("us", "UTC"))


def rows(n: int = 900, seed: int = 0) -> pa.Table:
    """An hour with everything that is hard: edges hit exactly, both zeros, infinities, subnormals, ties of rounding."""
    draw = np.random.default_rng(seed)
    wild = draw.normal(0, 1, n)
    wild[:14] = [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 5e-324, -5e-324, 1e308, -1e308, 2.0**52, 0.5, 1.5]
    wild[14:20] = 0.25 + (np.arange(-3, 3) + 0.5) * 2.0**-29  # half way between two units of the sums
    steps = draw.integers(-4000, 4000, n) / 8
    ids = [f"id-{i}" if i % 97 else "id-again" for i in range(n)]
    texts = [f"new-{i % 450}" if i % 3 == 0 else draw.choice(["AA", "B6", "é\U0001f600", ""]) for i in range(n)]
    wholes = [2**53 + 7 if i == 7 else i % 9 for i in range(n)]
    return pa.table(
        {
            "prediction_id": pa.array([None if i % 211 == 5 else text for i, text in enumerate(ids)]),
            "model_version": ["1" if i % 5 else "2" for i in range(n)],
            "timestamp": moments(np.sort(draw.integers(0, HOUR_MICROS, n))),
            "feature_wild": pa.array(wild, mask=np.arange(n) % 17 == 13),
            "feature_steps": steps,
            "feature_count": pa.array([None if i % 13 == 0 else whole for i, whole in enumerate(wholes)], pa.int64()),
            "feature_flag": pa.array([None if i % 11 == 0 else bool(i % 2) for i in range(n)]),
            "feature_when": moments(draw.integers(-HOUR_MICROS, HOUR_MICROS, n)),
            "feature_day": pa.array([date(2024, 1, 1 + i % 28) for i in range(n)], pa.date32()),
            "feature_price": pa.array([Decimal(i % 400) / 100 for i in range(n)], pa.decimal128(38, 9)),
            "feature_void": pa.nulls(n, pa.float64()),
            "feature_words": draw.choice(["not", "a", "number"], n),
            "feature_carrier": pa.array([None if i % 19 == 0 else text for i, text in enumerate(texts)]),
            "feature_code": pa.array(draw.integers(0, 6, n), pa.int64()),
            "feature_yes": pa.array(draw.random(n) < 0.5),
            "feature_ratio": draw.choice([0.5, 1.0, 1e-7], n),
            "feature_unknown": draw.normal(0, 1, n),
            "prediction": draw.integers(0, 2, n),
            "score": draw.random(n),
            "latency_ms": draw.lognormal(2, 1, n),
            "error": pa.array([None if i % 50 else "timeout" for i in range(n)]),
            "revenue": draw.random(n),
        }
    )  # fmt: skip


def bins_of(table: pa.Table) -> Bins:
    """Bins that hit values of the table exactly; of `feature_gone` there is no column."""
    wild = np.array([-1.0, -0.5, 0.0, 0.25, 1.0, 2.0])
    steps = fit_edges(np.asarray(table["feature_steps"]), 64)
    whole, micros = np.arange(9.0), np.linspace(1.7095e15, 1.7096e15, 30)
    days = np.linspace(1.704e15, 1.707e15, 12)
    numeric = {
        "feature_wild": wild, "feature_steps": steps, "feature_count": whole, "feature_flag": np.array([0.0, 1.0]),
        "feature_when": micros, "feature_day": days, "feature_price": np.array([0.5, 1.25, 2.01]),
        "feature_void": whole, "feature_words": whole, "feature_gone": whole,
        "score": PROBABILITY_EDGES, "latency_ms": LATENCY_EDGES,
    }  # fmt: skip
    categorical = {
        "feature_carrier": ("AA", "B6", "UA", ""), "feature_code": ("1", "2"), "feature_yes": ("true",),
        "feature_ratio": ("0.5", "1"), "feature_lost": ("x",), "prediction": ("0", "1"),
    }  # fmt: skip
    return Bins(tuple(numeric), tuple(numeric.values()), tuple(categorical), tuple(categorical.values()))


EXPECTED = Expected(
    {"feature_wild": (-1.0, 1.0), "feature_steps": (None, 100.5), "feature_count": (1, None)},
    {"feature_carrier": frozenset({"AA", "new-3", "UA"}), "feature_code": frozenset({"1", "4"})},
)


def in_folder(root: Path, table: pa.Table) -> Folder:
    """The same rows in two files; a folder has the rows of the hour only."""
    path = root / f"date={START:%Y-%m-%d}" / f"hour={START:%H}"
    path.mkdir(parents=True)
    half = table.num_rows // 2
    for name, part in (("a", table.slice(0, half)), ("b", table.slice(half))):
        pq.write_table(part, path / f"{name}.parquet")
    return Folder(str(root))


def plan_of(source: Folder | BigQueryTable, bins: Bins, sidecar: Path, sample_rows: int = 100) -> Plan:
    return Plan(
        source, source.manifest(START, END), bins, EXPECTED, START, END, numeric_prediction=False,
        extra=("feature_code", "revenue"), sample_rows=sample_rows, sidecar=sidecar,
    )  # fmt: skip


def facts_of(path: Path) -> pa.Table | None:
    """Row facts in an order of their own: which rows they are matters, not where."""
    if not path.exists():
        return None
    table = pq.read_table(path)
    table = table.select(sorted(table.column_names))
    return table.sort_by([(name, "ascending") for name in table.column_names])


@pytest.fixture(autouse=True)
def _connected(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"AIRFLOW_CONN_{CONNECTION.upper()}", json.dumps(emulator.connection))


def assert_same(found: Scan, expected: Scan) -> None:
    assert found.profile.types == expected.profile.types
    for name in ("numeric", "sums", "categorical", "outside", "low", "high"):
        np.testing.assert_array_equal(getattr(found.profile, name), getattr(expected.profile, name), name)
    assert found.profile.new_values == expected.profile.new_values
    assert found.profile.to_bytes() == expected.profile.to_bytes()
    assert found.noted == expected.noted
    assert found.duplicates == expected.duplicates
    assert found.unknown == expected.unknown
    assert found.sample.table().schema == expected.sample.table().schema
    assert repr(found.sample.table().to_pylist()) == repr(expected.sample.table().to_pylist())


ENGINES: dict[str, Engine] = {"streamed": LocalEngine(), "sql": BigQueryEngine("Alpha.1", 1.0)}


@pytest.mark.parametrize("name", ENGINES)
def test_the_same_rows_give_the_same_scan_bit_for_bit(emulator: Emulator, tmp_path: Path, name: str) -> None:
    table = rows()
    bins = bins_of(table)
    outside = rows(40, seed=9).set_column(2, "timestamp", moments(np.array([-1, HOUR_MICROS] * 20)))
    uri = emulator.load("hard", pa.concat_tables([outside, table, outside]))
    there = plan_of(open_source(uri, CONNECTION), bins, tmp_path / "there.parquet")
    here = plan_of(in_folder(tmp_path / "logs", table), bins, tmp_path / "here.parquet")
    expected = LocalEngine().scan(here)
    found = ENGINES[name].scan(there)
    assert expected.profile.rows == found.profile.rows == 900
    assert_same(found, expected)
    assert facts_of(there.sidecar).equals(facts_of(here.sidecar))


def without(*names: str) -> Callable[[pa.Table], pa.Table]:
    return lambda table: table.drop_columns(list(names))


def whole_ids(table: pa.Table) -> pa.Table:
    return table.set_column(0, "prediction_id", pa.array(np.arange(table.num_rows) // 2, pa.int64()))


def one_moment(table: pa.Table) -> pa.Table:
    """All rows share id and moment: which of them are sampled hangs on their content alone."""
    same = table.set_column(2, "timestamp", moments(np.zeros(table.num_rows, np.int64)))
    return same.set_column(0, "prediction_id", pa.array(["same"] * table.num_rows))


SHAPES: dict[str, Callable[[pa.Table], pa.Table]] = {
    "no ids": without("prediction_id"),
    "ids that are numbers": whole_ids,
    "one id at one moment": one_moment,
    "only facts": lambda table: table.select(["prediction_id", "timestamp", "prediction", "feature_carrier"]),
    "no prediction, no categories": without("prediction", "feature_carrier", "feature_code", "feature_yes"),
    "one row": lambda table: table.slice(3, 1),
    "no row": lambda table: table.slice(0, 0),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_logs_of_any_shape_give_the_same_scan(emulator: Emulator, tmp_path: Path, shape: str) -> None:
    table = rows()
    bins, table = bins_of(table), SHAPES[shape](table)
    uri = emulator.load("shape", table)
    here = plan_of(in_folder(tmp_path / "logs", table), bins, tmp_path / "here.parquet", 40)
    expected = LocalEngine().scan(here)
    for name, engine in ENGINES.items():
        there = plan_of(open_source(uri, CONNECTION), bins, tmp_path / f"{name}.parquet", 40)
        found = engine.scan(there)
        assert_same(found, expected)
        kept = facts_of(there.sidecar)
        assert kept is None if not table.num_rows else kept.equals(facts_of(here.sidecar))
    assert (expected.profile.rows == 0) == (shape == "no row")


def nested(table: pa.Table) -> pa.Table:
    """Some features as fields of a struct that is null now and then, one of them of a struct in it."""
    deep, *others = (table[f"feature_{name}"].combine_chunks() for name in ("carrier", "steps", "carrier", "flag"))
    inner = pa.StructArray.from_arrays([deep], ["carrier"])
    absent = pa.array(np.arange(table.num_rows) % 23 == 7)
    trip = pa.StructArray.from_arrays([*others, inner], ["steps", "carrier", "flag", "deep"], mask=absent)
    return without("feature_steps", "feature_carrier", "feature_flag")(table).append_column("feature_trip", trip)


@pytest.mark.parametrize("drop", [False, True])
def test_fields_of_structs_are_features(emulator: Emulator, tmp_path: Path, drop: bool) -> None:
    table = nested(rows())
    uri = emulator.load("nested", table)
    bins = bins_of(rows())
    moved = {"feature_steps": "feature_trip.steps", "feature_flag": "feature_trip.flag"}
    moved |= {"feature_carrier": "feature_trip.deep.carrier", "feature_lost": "feature_trip.carrier"}
    numeric, categorical = (tuple(moved.get(n, n) for n in names) for names in (bins.numeric, bins.categorical))
    bins = replace(bins, numeric=numeric, categorical=categorical)

    def plan(source: Folder | BigQueryTable, name: str) -> Plan:
        planned = plan_of(source, bins, tmp_path / f"{name}.parquet")
        return replace(planned, drop_duplicates=drop, extra=("feature_trip.deep.carrier",))

    expected = LocalEngine().scan(plan(in_folder(tmp_path / "logs", table), "here"))
    at = numeric.index("feature_trip.steps")
    assert expected.profile.numeric[at, : bins.width].sum() > 500
    assert (expected.dropped > 0) == drop
    for name, engine in ENGINES.items():
        assert_same(engine.scan(plan(open_source(uri, CONNECTION), name)), expected)
        assert facts_of(tmp_path / f"{name}.parquet").equals(facts_of(tmp_path / "here.parquet"))


def test_columns_are_cut_into_statements_that_fit() -> None:
    names = tuple(f"feature_n{i}" for i in range(230))
    few = Bins(names, (np.arange(3.0),) * 230, names, (("x",),) * 230)
    many = Bins(names[:50], (np.arange(4096.0),) * 50, names[:5], (tuple(f"{i:0>1000}" for i in range(900)),) * 5)
    types = dict.fromkeys(names, "INT64")
    for build in (numeric_statements, categorical_statements):
        parts = build(window(), few, Expected(), types, range(230))
        assert [len(part.columns) for part in parts] == [100, 100, 30]
        assert [i for part in parts for i in part.columns] == list(range(230))
        assert max(len(part.sql) for part in parts) < 1_000_000
    assert [len(s.columns) for s in numeric_statements(window(), many, Expected(), types, range(50))] == [25, 25]
    assert [len(s.columns) for s in categorical_statements(window(), many, Expected(), types, range(5))] == [2, 2, 1]


def test_what_several_statements_find_adds_up(emulator: Emulator, tmp_path: Path) -> None:
    table = rows(60)
    long = tuple(f"{i:0>1000}" for i in range(1100))
    bins = Bins((), (), ("feature_words", "feature_yes"), (("not", *long), ("true", *long)))
    plan = plan_of(open_source(emulator.load("cut", table), CONNECTION), bins, tmp_path / "there.parquet")
    assert isinstance(plan.source, BigQueryTable)
    assert len(categorical_statements(window(), bins, EXPECTED, plan.source.types, range(2))) == 2
    expected = LocalEngine().scan(plan_of(in_folder(tmp_path / "logs", table), bins, tmp_path / "here.parquet"))
    assert_same(ENGINES["sql"].scan(plan), expected)


# --- the contract of all engines ---

# Files that are damaged, flat or of several schemas are no tables.
TABLES = ("many_small", "one_large", "without_ids", "strange_numbers", "missing_columns", "dictionaries", "regression",
          "logged_twice")  # fmt: skip


def as_one_table(case: contract.Case) -> contract.Case:
    """The rows of a case that belong to the hour, as BigQuery can hold them: one schema, its own types."""
    tables = [table for table in case.files.values() if isinstance(table, pa.Table)]
    fields = [field for table in tables for field in table.schema]
    texts = {field.name for field in fields if is_text(field.type) or pa.types.is_dictionary(field.type)}
    held = [_held(table, texts) for table in tables]
    whole = pa.concat_tables(held, promote_options="permissive")
    at = np.asarray(whole["timestamp"].cast(pa.int64()).fill_null(0)) // 1_000_000
    inside = (at >= contract.START.timestamp()) & (at < contract.END.timestamp())
    return replace(case, files={"all.parquet": whole.filter(pa.array(inside))})


def _held(table: pa.Table, texts: set[str]) -> pa.Table:
    columns = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        floating = pa.types.is_floating(column.type)
        kind = pa.string() if name in texts else pa.float64() if floating else column.type
        columns[name] = column.cast(pa.timestamp("us", "UTC") if name == "timestamp" else kind)
    return pa.table(columns)


@pytest.mark.parametrize("name", TABLES)
def test_bigquery_keeps_the_contract_of_all_engines(emulator: Emulator, tmp_path: Path, name: str) -> None:
    case = as_one_table(contract.CASES[name]())
    (table,) = case.files.values()
    assert isinstance(table, pa.Table)
    uri = emulator.load(name, table)

    assert keeps(case, tmp_path, uri).dropped == 0


def test_bigquery_drops_the_rows_that_the_local_engine_drops(emulator: Emulator, tmp_path: Path) -> None:
    case = as_one_table(contract.CASES["logged_twice"]())
    (table,) = case.files.values()
    assert isinstance(table, pa.Table)
    uri = emulator.load("twice", table.take(np.random.default_rng(1).permutation(table.num_rows)))
    assert keeps(case, tmp_path, uri, drop=True).dropped == 450


@pytest.mark.parametrize("kind", [pa.string(), pa.int64()])
def test_which_row_stays_is_told_where_it_is_not_the_first_by_its_content(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch, kind: pa.DataType
) -> None:
    table = pa.table(
        {
            "prediction_id": pa.array([k // 3 for k in range(60)], pa.int64()).cast(kind),
            "timestamp": moments(np.arange(60) // 3 * 1000),
            "feature_a": np.arange(60, dtype=np.float64),
        }
    )
    source = open_source(emulator.load(f"{kind}_ties", table), CONNECTION, max_gb=2.5)
    assert isinstance(source, BigQueryTable)
    (item,) = source.manifest(START, END).objects
    found, dropped = without_repeats(source, item)
    assert dropped == 40
    assert found.stays
    assert {place for _, place in found.stays} == {2, 3}
    kept = [row for batch in source.batches(found, ["prediction_id", "feature_a"]) for row in batch.to_pylist()]
    assert sorted(row["prediction_id"] for row in kept) == sorted({*table["prediction_id"].to_pylist()})
    caps = {
        job.maximum_bytes_billed for job in jobs(emulator) if job.job_type == "query" and f"{kind}_ties`" in job.query
    }
    assert caps == {2_500_000_000}
    monkeypatch.setattr(bigquery_repeats, "MOST_NAMED", 3)
    with pytest.raises(UsageError, match=r"ids have rows of one moment with different values, more than the 3 that"):
        without_repeats(source, item)


def test_a_table_without_ids_or_repeats_is_left_as_it_is(emulator: Emulator) -> None:
    table = rows(20)
    for name, logged in {"single": table, "nameless": table.drop_columns(["prediction_id"])}.items():
        source = open_source(emulator.load(name, logged), CONNECTION)
        assert isinstance(source, BigQueryTable)
        (item,) = source.manifest(START, END).objects
        assert without_repeats(source, item) == (item, 0)


def keeps(case: contract.Case, folder: Path, uri: str, *, drop: bool = False) -> Scan:
    """Hold both ways to read a table to the contract; gives what the local engine found in files."""

    def scanned(engine: Engine) -> contract.Scanned:
        def scan(_: contract.Case, plan: Plan) -> Scan:
            source = open_source(uri, CONNECTION)
            return engine.scan(replace(plan, source=source, manifest=source.manifest(plan.start, plan.end)))

        return scan

    for engine_name, engine in ENGINES.items():
        # SQL counts no slices, and the table `drift` says so
        slicing = contract.SLICING if engine_name == "streamed" else None
        found = contract.same_as_local(case, folder / engine_name, scanned(engine), slicing=slicing, drop=drop)
    return found


# --- what may be billed, and who pays ---


def jobs(emulator: Emulator) -> list[object]:
    return list(emulator.client().list_jobs(all_users=True, max_results=500))


def test_every_query_is_capped_and_labelled_and_the_log_says_what_it_costs(
    emulator: Emulator, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = rows(50)
    plan = plan_of(open_source(emulator.load("capped", table), CONNECTION), bins_of(table), tmp_path / "facts.parquet")
    before = {job.job_id for job in jobs(emulator)}
    with caplog.at_level(logging.INFO, "hindcast.engines.bigquery"):
        BigQueryEngine("Alpha.1", 2.5).scan(plan)
    ran = [job for job in jobs(emulator) if job.job_id not in before and not job.dry_run]
    assert len(ran) == 3, "numbers, categories, sample"
    assert {job.maximum_bytes_billed for job in ran} == {2_500_000_000}
    labels = {"model": "alpha_1", "window": "2024-03-04t15", "check": "pull"}
    assert [job.labels for job in ran] == [labels] * 3
    assert "3 queries of 0, 0, 0 GB (estimated by a dry run)" in caplog.text


def test_a_query_that_would_bill_too_much_is_refused_before_anything_is_read(
    emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = rows(50)
    uri = emulator.load("dear", table)

    def dear(path: str, answer: object) -> tuple[int, object]:
        text = re.sub(r'"totalBytesProcessed": "\d+"', '"totalBytesProcessed": "7000000000"', json.dumps(answer))
        return 200, json.loads(text)

    with between(emulator, dear) as proxy:
        monkeypatch.setenv(f"AIRFLOW_CONN_{CONNECTION.upper()}", json.dumps(proxy.connection))
        plan = plan_of(open_source(uri, CONNECTION), bins_of(table), tmp_path / "facts.parquet")
        assert plan.manifest.bytes == 7_000_000_000
        before = len(jobs(emulator))
        with pytest.raises(UsageError, match=r"would bill 7 GB, more than bigquery\.max_gb_billed = 6\.5"):
            BigQueryEngine("alpha", 6.5).scan(plan)
        assert not [job for job in jobs(emulator)[: len(jobs(emulator)) - before] if not job.dry_run]
        assert BigQueryEngine("alpha", 7).scan(plan).profile.rows == 50
    assert not list(tmp_path.glob("*.tmp"))


# --- one snapshot ---


def test_queries_see_the_pinned_snapshot_and_two_states_are_never_mixed(emulator: Emulator, tmp_path: Path) -> None:
    """The emulator's read sessions ignore the snapshot, so that here, and only here, the two differ."""
    table = rows(60)
    uri = emulator.load("moving", table)
    plan = plan_of(open_source(uri, CONNECTION), bins_of(table), tmp_path / "facts.parquet")
    client = emulator.client()
    client.query(f"INSERT INTO `{uri[5:]}` SELECT * FROM `{uri[5:]}` LIMIT 7").result()
    with pytest.raises(SourceBusy, match="counted 60 rows where 67 were streamed: not one snapshot") as caught:
        ENGINES["sql"].scan(plan)
    assert caught.value.transient
    assert list(tmp_path.iterdir()) == [], "nothing half done stays"
    again = replace(plan, manifest=plan.source.manifest(START, END))
    assert ENGINES["sql"].scan(again).profile.rows == 67


@pytest.mark.parametrize("name", ENGINES)
def test_a_table_that_vanished_meanwhile_is_missing_and_leaves_nothing(
    emulator: Emulator, tmp_path: Path, name: str
) -> None:
    table = rows(30)
    uri = emulator.load("vanishing", table)
    plan = plan_of(open_source(uri, CONNECTION), bins_of(table), tmp_path / "facts.parquet")
    emulator.client().delete_table(uri[5:])
    with pytest.raises(SourceMissing, match="not found"):
        ENGINES[name].scan(plan)
    assert list(tmp_path.iterdir()) == []


# --- from the command line ---


def test_a_checked_hour_gives_the_same_tables_whoever_reads_it_from_wherever(
    emulator: Emulator, tmp_path: Path
) -> None:
    world = worlds.write(tmp_path / "world", hours=3)
    parts = [pq.read_table(path, partitioning=None) for path in sorted(world.logs().rglob("*.parquet"))]
    logs = {"uri": emulator.load("alpha", pa.concat_tables(parts)), "connection": CONNECTION}
    found = {}
    for name, keys in {"folder": {}, "streamed": {"logs": logs}, "sql": {"logs": logs, "engine": "bigquery"}}.items():
        worlds.model_file(world, **keys)
        store = world.store_at(name)
        for hour in (1, 2):
            done = worlds.cli(world, "check", "alpha", "--window", worlds.text(hour), results=store)
            assert done.exit_code == 0, done.output
        found[name] = worlds.snapshot(store)
    read_by = {name: [row["engine"] for row in tables["windows"]] for name, tables in found.items()}
    assert read_by == {"folder": ["local"] * 2, "streamed": ["local"] * 2, "sql": ["bigquery"] * 2}
    assert [row["rows"] for row in found["folder"]["windows"]] == [300, 300]
    for tables in found.values():
        for row in (row for table in tables.values() for row in table):
            for name in ("config_digest", "manifest_digest", "bytes", "engine"):
                row.pop(name, None)
        for row in tables["windows"]:
            details = json.loads(row["details"])
            row["details"] = {key: value for key, value in details.items() if key not in {"objects", "engine"}}
    assert found["streamed"] == found["folder"]
    # the query counts no slices: no segment's drift is judged there, and everything else is the same
    assert found["folder"]["slices"]
    assert (found["sql"].pop("slices"), found["sql"].pop("reference_slices")) == ([], [])
    del found["folder"]["slices"], found["folder"]["reference_slices"]
    found["folder"]["drift"] = [row for row in found["folder"]["drift"] if row["segment"] == "*"]
    assert found["sql"] == found["folder"]


# --- the text itself ---


def window() -> Window:
    return Window("acme-ml.logs.predictions", datetime(2024, 3, 4, 16, 10, tzinfo=UTC), START, END)


def test_the_query_of_numbers_reads_as_written_here() -> None:
    bins = Bins(("feature_a", "feature_b"), (np.array([0.0, 1.0]), np.array([2.0, 4.0])), (), ())
    types = {"feature_a": "FLOAT64", "feature_b": "INT64"}
    (statement,) = numeric_statements(window(), bins, Expected({"feature_a": (0, None)}), types, [0, 1])
    assert (
        statement.sql
        == """WITH chosen AS (
SELECT `feature_a` AS x0,
CAST(`feature_b` AS FLOAT64) AS x1
FROM `acme-ml.logs.predictions` AS hindcast_row FOR SYSTEM_TIME AS OF @snapshot
WHERE `timestamp` >= @start AND `timestamp` < @end
), placed AS (
SELECT *, RANGE_BUCKET(-x0, @c0.mirrored) AS b0,
RANGE_BUCKET(-x1, @c1.mirrored) AS b1
FROM chosen
), cells AS (
SELECT cell.position, cell.x, cell.units, cell.below, cell.above, \
CASE WHEN cell.x IS NULL THEN -1 WHEN IS_NAN(cell.x) THEN -2 WHEN cell.x = CAST('-inf' AS FLOAT64) THEN -3 \
WHEN cell.x = CAST('inf' AS FLOAT64) THEN -4 ELSE cell.bucket END AS slot
FROM placed CROSS JOIN UNNEST([
STRUCT(0 AS position, x0 AS x, b0 AS bucket, \
(((LEAST(GREATEST(x0, @c0.low), @c0.high) - @c0.center) + @c0.anchor) - @c0.anchor) / @c0.unit AS units, \
x0 < @c0.minimum AS below, x0 > @c0.maximum AS above),
STRUCT(1 AS position, x1 AS x, b1 AS bucket, \
(((LEAST(GREATEST(x1, @c1.low), @c1.high) - @c1.center) + @c1.anchor) - @c1.anchor) / @c1.unit AS units, \
x1 < @c1.minimum AS below, x1 > @c1.maximum AS above)
]) AS cell
)
SELECT position, slot, COUNT(*) AS found, SUM(IF(slot >= 0, CAST(units AS INT64), 0)) AS units,
MIN(x) AS low, MAX(x) AS high, COUNTIF(below) AS below, COUNTIF(above) AS above
FROM cells GROUP BY position, slot"""
    )
    assert statement.parameters["c0"] == {
        "mirrored": [-1.0, -0.0], "low": 0.0, "high": 1.0, "center": 1.0, "anchor": 1.5 * 2**52 * 2.0**-30,
        "unit": 2.0**-30, "minimum": 0.0, "maximum": None,
    }  # fmt: skip
    assert [statement.parameters[name] for name in ("start", "end")] == [START, END]


def test_the_query_of_categories_reads_as_written_here() -> None:
    bins = Bins((), (), ("feature_a", "feature_b"), (("x", "y'"), ("1",)))
    expected = Expected(allowed={"feature_b": frozenset({"1", "2"})})
    types = {"feature_a": "STRING", "feature_b": "INT64"}
    (statement,) = categorical_statements(window(), bins, expected, types, [0, 1])
    assert (
        statement.sql
        == """WITH chosen AS (
SELECT `feature_a` AS t0,
CAST(`feature_b` AS STRING) AS t1
FROM `acme-ml.logs.predictions` AS hindcast_row FOR SYSTEM_TIME AS OF @snapshot
WHERE `timestamp` >= @start AND `timestamp` < @end
), counted AS (
SELECT cell.position, cell.text, COUNT(*) AS found
FROM chosen CROSS JOIN UNNEST([
STRUCT(0 AS position, t0 AS text),
STRUCT(1 AS position, t1 AS text)
]) AS cell
GROUP BY position, text
), judged AS (
SELECT position, text, found, FARM_FINGERPRINT(text) AS hash,
CASE WHEN text IS NULL THEN NULL WHEN position = 0 THEN text IN UNNEST(@k0) \
WHEN position = 1 THEN text IN UNNEST(@k1) END AS known,
CASE WHEN text IS NULL THEN TRUE WHEN position = 1 THEN text IN UNNEST(@a1) ELSE TRUE END AS allowed
FROM counted
)
SELECT position, known, SUM(found) AS found, SUM(IF(allowed, 0, found)) AS unexpected,
ARRAY_AGG(STRUCT(text AS text, found AS found, hash AS hash) ORDER BY hash, text LIMIT 100) AS kept
FROM judged GROUP BY position, known"""
    )
    values = {name: statement.parameters[name] for name in ("k0", "k1", "a1")}
    assert values == {"k0": ["x", "y'"], "k1": ["1"], "a1": ["1", "2"]}


def test_the_query_of_the_sample_reads_as_written_here() -> None:
    types = {"prediction_id": "STRING", "feature_a": "FLOAT64"}
    statement = sample_statement(window(), types, ["feature_a"], 12, -5)
    assert (
        statement.sql
        == """SELECT FARM_FINGERPRINT(IFNULL(`prediction_id`, CAST(UNIX_MICROS(`timestamp`) AS STRING))) AS key, \
UNIX_MICROS(`timestamp`) AS moment,
`feature_a` AS f0
FROM `acme-ml.logs.predictions` AS hindcast_row FOR SYSTEM_TIME AS OF @snapshot
WHERE `timestamp` >= @start AND `timestamp` < @end
AND (FARM_FINGERPRINT(IFNULL(`prediction_id`, CAST(UNIX_MICROS(`timestamp`) AS STRING))) ^ @seed) <= @at_most"""
    )
    assert (statement.parameters["seed"], statement.parameters["at_most"]) == (-5, 12)


@pytest.mark.parametrize("name", ["a`; DROP TABLE x; --", "a\\`b", "`"])
def test_no_name_ends_its_quotes(name: str) -> None:
    inner = quoted(name)[1:-1]
    assert not re.search(r"(?<!\\)(\\\\)*`", inner), inner


@pytest.mark.parametrize("name", ["a.b", "a`.b", ".", "a.`; DROP TABLE x; --"])
def test_a_dot_leads_into_a_struct_and_nowhere_else(name: str) -> None:
    assert re.fullmatch(r"`(\\.|[^`\\])*`(\.`(\\.|[^`\\])*`)*", quoted(name))


def test_an_engine_for_tables_refuses_a_folder(tmp_path: Path) -> None:
    table = rows(20)
    plan = plan_of(in_folder(tmp_path, table), bins_of(table), tmp_path / "facts.parquet")
    with pytest.raises(UsageError, match=r"engine bigquery cannot read .*; use auto or local"):
        ENGINES["sql"].scan(plan)
