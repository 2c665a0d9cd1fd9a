"""All engines find the same in the same rows, and leave the same row facts.

`CASES` and `same_as_local` are the contract; a module per engine holds its engine to it. This one does so for Spark.
"""

from __future__ import annotations

import functools
import json
import os
import pickle
import re
import shutil
import signal
import socket
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests import worlds
from tests.test_schemas import as_before, same

from hindcast.connections import Connection
from hindcast.engines import spark_session, spark_tasks
from hindcast.engines.base import Plan, Scan
from hindcast.engines.local import LocalEngine
from hindcast.engines.spark import SparkEngine, cut
from hindcast.errors import HindcastError, SourceBusy, SourceMissing, SourceUnreadable, UsageError
from hindcast.performance.evaluation import Question
from hindcast.performance.labels import join_labels
from hindcast.performance.parts import evaluate_part
from hindcast.profile.bins import Bins
from hindcast.profile.facts import sidecar_files
from hindcast.profile.scan import Expected
from hindcast.profile.slices import VERSION, Slicing
from hindcast.sources import open_source
from hindcast.sources.base import LogObject, Manifest, Source
from hindcast.sources.folder import Folder
from hindcast.sources.s3 import WHOLE

if TYPE_CHECKING:
    from tests.s3_server import S3Server

__all__ = ["as_before"]
START = datetime(2026, 3, 2, 15, tzinfo=UTC)
END = START + timedelta(hours=1)
BINS = Bins(
    ("feature_a", "feature_b", "score"),
    (np.array([0.0, 1.0, 2.0]), np.linspace(-3, 3, 40), np.array([0.25, 0.5, 0.75])),
    ("feature_c", "feature_d", "prediction"),
    (("x", "y"), ("red", "green"), ("0", "1")),
)
# A segment of known values that is a feature, one of any value that is not, and the versions.
SLICING = Slicing(
    BINS,
    (np.array([0.0, 2.0]), np.linspace(-3, 3, 40)[::2], np.array([0.5])),
    {"c": {"feature_c": ("x", "z"), "c": None}, "segment": {"segment": None}, VERSION: {VERSION: None}},
)
EXPECTED = Expected({"feature_b": (-1.0, 2.0)}, {"feature_c": frozenset("xy")})
Scanned = Callable[["Case", Plan], Scan]


# ---- the contract


@dataclass(frozen=True)
class Case:
    """Logs of one hour: content of each file by name, tables or bytes that are no Parquet."""

    files: dict[str, pa.Table | bytes] = field(default_factory=dict)
    flat: bool = False
    row_group: int = 1000
    numeric_prediction: bool = False


def rows(n: int, seed: int = 0, first: int = 0, **changed: Any) -> pa.Table:
    """Plain predictions, numbered from `first`; `changed` replaces columns, None takes one away."""
    rng = np.random.default_rng(seed)
    columns = {
        "prediction_id": [f"id-{first + k:06d}" for k in range(n)],
        "model_version": rng.choice(["3", "4"], n),
        "timestamp": pa.array([START + timedelta(seconds=int(s)) for s in rng.integers(0, 3600, n)]),
        "prediction": rng.integers(0, 2, n),
        "score": rng.random(n),
        "latency_ms": rng.exponential(5, n),
        "segment": rng.choice(["north", "south"], n),
        "revenue": rng.integers(0, 100, n),
        "feature_a": rng.normal(1, 1, n),
        "feature_b": rng.normal(0, 1, n).astype(np.float32),
        "feature_c": rng.choice(["x", "y", "z"], n),
        "feature_d": rng.choice(["red", "green", "blue"], n),
        **changed,
    }
    return pa.table({name: values for name, values in columns.items() if values is not None})


def parquet(table: pa.Table, row_group: int = 1000) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=row_group)
    return bytes(sink.getvalue())


def many_small() -> Case:
    """Ids come again in every other file."""
    return Case({f"part-{k:02d}.parquet": rows(20 + k, k, first=10 * (k // 2)) for k in range(30)})


def one_large() -> Case:
    return Case({"all.parquet": rows(3000, 1, feature_d=[f"value {k % 700}" for k in range(3000)])}, row_group=100)


def without_ids() -> Case:
    some = [None if k % 3 else f"id-{k}" for k in range(300)]
    return Case(
        {
            "a.parquet": rows(300, 1, prediction_id=some),
            "b.parquet": rows(300, 2, prediction_id=pa.nulls(300, pa.string())),
            "c.parquet": rows(200, 3, prediction_id=pa.array([7] * 100 + [8] * 100)),
            # all in one bucket, which alone sees another type and another column
            "d.parquet": rows(100, 4, prediction_id=["one"] * 100, revenue=["much"] * 100, score_1=[0.5] * 100),
        }
    )


def strange_numbers() -> Case:
    odd = [None, np.nan, np.inf, -np.inf, -0.0, 0.0, 5e-324, 1.7e308, -1.7e308, 1.0]
    return Case(
        {
            "a.parquet": rows(500, 1, feature_a=pa.array(odd * 50), feature_b=pa.array(odd[:6] * 83 + [None] * 2)),
            "b.parquet": rows(200, 2, feature_a=pa.nulls(200), score=pa.array([None, np.nan] * 100)),
        }
    )


def changed_types() -> Case:
    when = [f"2026-03-02T15:{k % 60:02d}:00+00:00" for k in range(100)]
    return Case(
        {
            "a.parquet": rows(100, 1, feature_a=pa.array(range(100)), revenue=pa.array([True, False] * 50)),
            "b.parquet": rows(100, 2, first=100, feature_a=[str(k) for k in range(100)], prediction=["yes"] * 100),
            "c.parquet": rows(100, 3, first=200, feature_c=pa.array(range(100)), timestamp=when, score=["much"] * 100),
            "d.parquet": rows(100, 4, first=300, feature_b=[[1.0]] * 100, revenue=np.linspace(0, 1, 100), segment=None),
            "e.parquet": rows(100, 5, first=400, model_version=pa.array([5] * 100), ground_truth=[1.0, 0.0] * 50),
        }
    )


def missing_columns() -> Case:
    names = ["prediction_id", "model_version", "timestamp", "prediction", "score", "feature_a", "feature_c"]
    files = {f"without-{n}.parquet": rows(80, k, first=1000 * k, **{n: None}) for k, n in enumerate(names)}
    return Case({**files, "more.parquet": rows(80, 9, first=9000, feature_new=range(80), score_1=[0.5] * 80)})


def dictionaries() -> Case:
    plain = rows(200, 1)
    names = ("feature_c", "segment", "model_version", "prediction_id")
    coded = {name: plain[name].combine_chunks().dictionary_encode() for name in names}
    large = rows(200, 2, first=200, feature_c=pa.array(["x", "w"] * 100, pa.large_string()))
    return Case({"a.parquet": plain, "b.parquet": rows(200, 1, first=100, **coded), "c.parquet": large})


def damaged(content: bytes, share: float) -> bytes:
    """The same file with some bytes of its data, at that share of it, overwritten."""
    at = int(len(content) * share)
    return content[:at] + b"\xff" * 400 + content[at + 400 :]


def unreadable() -> Case:
    large = parquet(rows(2000, 3, first=3000), 100)
    return Case(
        {
            "a.parquet": rows(100, 1),
            "b.parquet": b"nonsense",
            "c.parquet": rows(100, 2, first=500),
            "d.parquet": damaged(large, 0.3),
            "e.parquet": large[: len(large) // 2],
            "f.parquet": b"",
            "g.parquet": damaged(large, 0.6),
            "h.parquet": rows(100, 4, first=700),
        }
    )


def all_unreadable() -> Case:
    return Case({"a.parquet": b"nonsense", "b.parquet": damaged(parquet(rows(500), 50), 0.5)})


def flat_layout() -> Case:
    """Files named by flush time; their rows belong to this hour, to others, or to none."""
    spread = [START + timedelta(minutes=k % 150 - 40) if k % 7 else None for k in range(600)]
    return Case(
        {
            "2026-03-02T15-10-00Z.parquet": rows(600, 1, timestamp=spread),
            "2026-03-02T15-50-00Z.parquet": rows(600, 2, first=300, timestamp=spread),
            "2026-03-02T15-55-00Z.parquet": rows(10, 3, timestamp=[END] * 10, revenue=["outside"] * 10),
        },
        flat=True,
        row_group=100,
    )


def logged_twice() -> Case:
    """At least once: the same rows again, rows that came later, rows of one moment that differ, rows without ids."""
    once = rows(300, 1)
    later = [moment + timedelta(seconds=2) for moment in once["timestamp"].to_pylist()[:100]]
    moments = once["timestamp"].slice(100, 100)
    return Case(
        {
            "a.parquet": rows(100, 2, timestamp=later),
            "b.parquet": once,
            "c.parquet": once.slice(40, 150),
            "d.parquet": rows(100, 3, first=100, timestamp=moments),
            "e.parquet": rows(100, 4, first=100, timestamp=moments),
            "f.parquet": rows(30, 5, prediction_id=pa.nulls(30, pa.string())),
            "g.parquet": rows(30, 5, prediction_id=pa.nulls(30, pa.string())),
            "h.parquet": rows(50, 6, first=400),
        },
        row_group=60,
    )


def hostile_names() -> Case:
    odd = ["", " ", "ünï©ode", 'quo"te', "new\nline", "\x00", "a" * 5000, "'; DROP TABLE logs; --"]
    many = rows(400, 2, first=400, feature_d=[f"{odd[k % 8]}{k}" for k in range(400)])
    twice = rows(50, 3, first=900).append_column("feature_a", pa.array(range(50)))
    return Case(
        {
            "sp ace ünï.parquet": rows(400, 1, prediction_id=[f"{odd[k % 8]}{k % 90}" for k in range(400)]),
            "100%25 #1?.parquet": rows(80, 1, first=800, feature_c=odd * 10, segment=odd * 10),
            "many.parquet": many.append_column("feature_né 'w\"\n", pa.array(range(400))),
            "twice.parquet": twice,
        }
    )


def regression() -> Case:
    return Case(
        {
            "a.parquet": rows(200, 1, prediction=np.linspace(0, 9, 200), ground_truth=pa.array([1, None] * 100)),
            "b.parquet": rows(200, 2, first=200, prediction=pa.array(range(200)), ground_truth=["2.5", "3"] * 100),
        },
        numeric_prediction=True,
    )


def nothing() -> Case:
    return Case()


def no_rows() -> Case:
    return Case({"a.parquet": rows(0), "b.parquet": rows(0)})


CASES = {
    made.__name__: made
    for made in (
        many_small, one_large, without_ids, strange_numbers, changed_types, missing_columns, dictionaries, unreadable,
        all_unreadable, logged_twice, flat_layout, hostile_names, regression, nothing, no_rows,
    )
}  # fmt: skip


def plan_of(case: Case, folder: Path) -> Plan:
    """The case written to a folder, and pinned; its row facts will lie beside."""
    hour = folder if case.flat else worlds.partition(folder, START)
    hour.mkdir(parents=True)
    for name, content in case.files.items():
        data = content if isinstance(content, bytes) else parquet(content, case.row_group)
        (hour / name).write_bytes(data)
    source = Folder(str(folder))
    return Plan(
        source=source, manifest=source.manifest(START, END), bins=BINS, expected=EXPECTED, start=START, end=END,
        numeric_prediction=case.numeric_prediction, extra=("segment", "revenue", "feature_c"), sample_rows=150,
        sidecar=folder.with_name(f"{folder.name}-facts") / "hour.parquet", slicing=SLICING,
    )  # fmt: skip


def facts_of(sidecar: Path) -> tuple[dict[str, str], Counter[str]]:
    """Columns with their types, and every row as text, of a sidecar that is a file or a folder."""
    tables = [pq.ParquetFile(path).read() for path in sidecar_files(sidecar)]
    kinds = {name: str(kind) for t in tables for name, kind in zip(t.schema.names, t.schema.types, strict=True)}
    assert all(set(table.column_names) == set(kinds) for table in tables)
    return kinds, Counter(repr([row[name] for name in sorted(kinds)]) for table in tables for row in table.to_pylist())


def seen(scan: Scan, sidecar: Path) -> dict[str, Any]:
    """All that an engine tells and leaves behind, to be compared."""
    sample = scan.sample.table()
    return {
        "profile": scan.profile.to_bytes(),
        "slices": None if scan.slices is None else scan.slices.to_bytes(),
        "noted": scan.noted.to_json(),
        "duplicates": scan.duplicates,
        "dropped": scan.dropped,
        "unknown": scan.unknown,
        "faults": list(scan.faults.items()),
        "sample types": dict(zip(sample.schema.names, sample.schema.types, strict=True)),
        "sample": repr(sample.to_pylist()),
        "facts": facts_of(sidecar),
        "left over": [path.name for path in sidecar.parent.glob("*") if path != sidecar],
    }


def same_as_local(
    case: Case, folder: Path, scanned: Scanned, *, slicing: Slicing | None = SLICING, drop: bool = False
) -> Scan:
    """The contract: an engine sees in a case what the local engine sees, and drops the rows that it drops."""
    plan = replace(plan_of(case, folder / "logs"), slicing=slicing, drop_duplicates=drop)
    local, other = (replace(plan, sidecar=folder / name / "hour.parquet") for name in ("local", "other"))
    scan = LocalEngine().scan(local)
    expected, found = seen(scan, local.sidecar), seen(scanned(case, other), other.sidecar)
    for what, value in expected.items():
        assert found[what] == value, what
    return scan


# ---- Spark


# Small enough for several tasks, buckets and row groups of one file; a task may fail three times.
SMALL = {"unit_bytes": 20_000, "bucket_bytes": 30_000}
MASTER = "local[2,4]"


@pytest.fixture(scope="module")
def spark() -> Iterator[SparkEngine]:
    if shutil.which("java") is None:
        if os.environ.get("REQUIRE_SERVICES") == "1":
            pytest.fail("no java: Spark cannot be started")
        pytest.skip("no java: Spark cannot be started")
    yield SparkEngine(Connection("spark_default", host=MASTER), **SMALL)
    spark_session.stop()


@pytest.mark.parametrize("name", CASES)
def test_spark_finds_what_the_local_engine_finds(name: str, tmp_path: Path, spark: SparkEngine) -> None:
    same_as_local(CASES[name](), tmp_path, lambda _, plan: spark.scan(plan))


@pytest.mark.parametrize("name", ["logged_twice", "unreadable", "flat_layout"])
def test_spark_drops_the_rows_that_the_local_engine_drops(name: str, tmp_path: Path, spark: SparkEngine) -> None:
    found = same_as_local(CASES[name](), tmp_path, lambda _, plan: spark.scan(plan), drop=True)
    assert found.dropped == found.duplicates


def test_spark_drops_rows_of_a_large_object_and_of_row_groups_of_it(tmp_path: Path, spark: SparkEngine) -> None:
    """Units begin within an object: rows are numbered from its beginning all the same."""
    once = rows(2000, 1)
    case = Case(
        {"a.parquet": pa.concat_tables([once, once.slice(700, 900)]), "b.parquet": once.slice(1900)}, row_group=90
    )
    plan = plan_of(case, tmp_path / "logs")
    assert len([unit for unit in cut(plan, SMALL["unit_bytes"], 2) if unit.groups]) > 2
    found = same_as_local(case, tmp_path / "again", lambda _, plan: spark.scan(plan), drop=True)
    assert (found.profile.rows, found.dropped) == (2000, 1000)


def test_spark_finds_in_a_bucket_what_the_local_engine_finds_there(
    tmp_path: Path, spark: SparkEngine, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Executors open the pinned objects themselves, row groups of a large one too; they have no Connection."""
    large = parquet(rows(100_000, 1), 10_000)
    assert len(large) > WHOLE
    case = Case({"all.parquet": large, "b.parquet": b"nonsense", "c.parquet": rows(100, 2, first=200_000)})
    plan = plan_of(case, tmp_path / "logs")
    bucket, client = s3.bucket(), s3.client()
    for item in plan.manifest.objects:
        client.put_object(Bucket=bucket, Key=f"logs/{item.name}", Body=(tmp_path / "logs" / item.name).read_bytes())
    monkeypatch.setenv("AIRFLOW_CONN_LAKE", s3.connection())
    source = open_source(f"s3://{bucket}/logs", "lake")
    plan = replace(plan, source=source, manifest=source.manifest(START, END))
    local, other = (replace(plan, sidecar=tmp_path / name / "hour.parquet") for name in ("local", "other"))
    expected = seen(LocalEngine().scan(local), local.sidecar)
    monkeypatch.delenv("AIRFLOW_CONN_LAKE")
    found = seen(replace(spark, unit_bytes=1_000_000).scan(other), other.sidecar)
    assert len(cut(plan, 1_000_000, 2)) > 2
    for what, value in expected.items():
        assert found[what] == value, what


def test_the_work_was_shared(tmp_path: Path, spark: SparkEngine) -> None:
    plan = plan_of(many_small(), tmp_path / "logs")
    spark.scan(plan)
    assert len(sidecar_files(plan.sidecar)) > 2
    assert len(cut(plan, spark.unit_bytes, 2)) > 5


class DiesOnce:
    """A folder whose reader is killed when it opens one of the files for the first time; later it may be gone."""

    def __init__(self, source: Folder, name: str, marker: Path, gone: bool = False) -> None:
        self.source, self.name, self.marker, self.uri, self.gone = source, name, marker, source.uri, gone

    def manifest(self, start: datetime, end: datetime) -> Manifest:
        return self.source.manifest(start, end)

    def open(self, item: LogObject, dictionaries: Sequence[str] = ()) -> pq.ParquetFile:
        if item.name.endswith(self.name) and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if self.gone:
            message = f"{self.uri}: no such folder"
            raise SourceMissing(message)
        return self.source.open(item, dictionaries)


@pytest.fixture
def sent_by_value(spark: SparkEngine) -> Iterator[None]:
    """Executors cannot import this module: its classes travel with the job."""
    from pyspark import cloudpickle

    module = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(module)
    yield
    cloudpickle.unregister_pickle_by_value(module)


@pytest.mark.usefixtures("sent_by_value")
def test_a_task_that_is_killed_and_tried_again_counts_once(tmp_path: Path, spark: SparkEngine) -> None:
    marker = tmp_path / "died"

    def scanned(_: Case, plan: Plan) -> Scan:
        assert isinstance(plan.source, Folder)
        return spark.scan(replace(plan, source=DiesOnce(plan.source, "part-17.parquet", marker)))

    same_as_local(many_small(), tmp_path, scanned)
    assert marker.exists()


@pytest.mark.usefixtures("sent_by_value")
def test_an_error_of_a_task_keeps_its_kind_and_leaves_the_sidecar_of_before(tmp_path: Path, spark: SparkEngine) -> None:
    plan = plan_of(one_large(), tmp_path / "logs")
    LocalEngine().scan(plan)
    before = facts_of(plan.sidecar)
    assert isinstance(plan.source, Folder)
    with pytest.raises(SourceMissing, match=f"{plan.source.uri}: no such folder"):
        spark.scan(replace(plan, source=DiesOnce(plan.source, "none", tmp_path, gone=True)))
    assert facts_of(plan.sidecar) == before
    assert [path.name for path in plan.sidecar.parent.iterdir()] == ["hour.parquet"]


def test_engines_replace_each_others_sidecars(tmp_path: Path, spark: SparkEngine) -> None:
    plan = plan_of(many_small(), tmp_path / "logs")
    found = [seen(engine.scan(plan), plan.sidecar) for engine in (spark, LocalEngine(), spark, spark, LocalEngine())]
    assert all(one == found[0] for one in found)
    spark.scan(replace(plan, manifest=replace(plan.manifest, objects=())))
    assert not plan.sidecar.exists()


def test_a_window_checked_on_spark_gives_the_same_tables(
    tmp_path: Path, spark: SparkEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = worlds.write(tmp_path / "world", hours=3)
    monkeypatch.setenv("AIRFLOW_CONN_SPARK_DEFAULT", json.dumps({"conn_type": "spark", "host": MASTER}))
    found = {}
    for engine in ("local", "spark"):
        worlds.model_file(world, engine=engine)
        store = world.store_at(engine)
        for hour in (1, 2):
            worlds.cli(world, "check", "alpha", "--window", worlds.text(hour), results=store)
        found[engine] = worlds.snapshot(store)
    for name, table in found["spark"].items():
        for mine, theirs in zip(table, found["local"][name], strict=True):
            assert mine.pop("engine", "spark") == "spark"
            assert theirs.pop("engine", "local") == "local"
            mine.pop("config_digest", None)  # the model file says another engine
            theirs.pop("config_digest", None)
    assert len(found["spark"]["windows"]) == 2
    assert worlds.differences(found["local"], found["spark"]) == []


# ---- labels


WHEN = pa.timestamp("us", "UTC")
MOMENTS = [START + timedelta(hours=hours) for hours in (0, 1, 2, 30)]


def late_labels(folder: Path) -> Folder:
    """Labels that come twice, change type from file to file, are of strangers, or of nobody."""
    texts = [f"id-{k:06d}" for k in range(150)]
    tables = [
        pa.table({"prediction_id": texts, "ground_truth": [k % 2 for k in range(150)]}),
        pa.table({"prediction_id": texts[::2], "ground_truth": ["1"] * 75}),
        pa.table({"prediction_id": [None, "stranger", "id-000400"], "ground_truth": ["0", "1", "0"]}),
        pa.table({"prediction_id": pa.nulls(0, pa.string()), "ground_truth": pa.nulls(0, pa.int64())}),
    ]
    for k, table in enumerate(tables):
        hour = worlds.partition(folder, START + timedelta(hours=k))
        hour.mkdir(parents=True)
        when = pa.array([START + timedelta(hours=k, minutes=m % 90) for m in range(table.num_rows)], WHEN)
        pq.write_table(table.append_column("label_timestamp", when), hour / "labels.parquet")
    return Folder(str(folder))


def read_whole(source: Source, item: LogObject) -> pa.Table:
    return source.open(item).read()


def judged(moment: datetime, facts: pa.Table, labels: pa.Table) -> Counter[tuple[Any, ...]]:
    """Each row's prediction and label as of a moment, counted: what any evaluation is made of."""
    labels = labels.set_column(1, "ground_truth", labels["ground_truth"].cast(pa.string()))
    truth = join_labels(facts["prediction_id"], labels, moment).ground_truth.to_pylist()
    return Counter(zip(facts["prediction"].to_pylist(), facts["segment"].to_pylist(), truth, strict=True))


@pytest.mark.usefixtures("sent_by_value")
def test_labels_are_joined_in_the_executors_as_they_are_here(tmp_path: Path, spark: SparkEngine) -> None:
    plan, labels = plan_of(many_small(), tmp_path / "logs"), late_labels(tmp_path / "labels")
    spark.scan(plan)
    files = labels.manifest(START, START + timedelta(hours=6)).objects
    facts = pa.concat_tables([pq.ParquetFile(path).read() for path in sidecar_files(plan.sidecar)])
    tables = [read_whole(labels, item) for item in files]
    texts = [t.set_column(1, "ground_truth", t["ground_truth"].cast(pa.string())) for t in tables]
    found = []
    for moment in MOMENTS:
        found.append(spark.evaluate(plan.sidecar, labels, files, read_whole, functools.partial(judged, moment)))
        assert found[-1] == judged(moment, facts, pa.concat_tables(texts))
        judge = functools.partial(evaluate_part, Question("binary"), moment=moment)
        part = spark.evaluate(plan.sidecar, labels, files, read_whole, judge)
        assert part == evaluate_part(Question("binary"), facts, pa.concat_tables(texts), moment)
    assert len({frozenset(one.items()) for one in found}) > 2


@pytest.mark.usefixtures("sent_by_value")
def test_without_files_of_labels_every_row_is_judged_all_the_same(tmp_path: Path, spark: SparkEngine) -> None:
    plan = plan_of(many_small(), tmp_path / "logs")
    scan = spark.scan(plan)
    found = spark.evaluate(plan.sidecar, plan.source, (), read_whole, counted)
    assert found == Counter(rows=scan.profile.rows)


def counted(facts: pa.Table, labels: pa.Table | None) -> Counter[str]:
    return Counter({"rows": facts.num_rows} | ({} if labels is None else {"labels": labels.num_rows}))


@pytest.mark.usefixtures("sent_by_value")
def test_a_broken_file_of_labels_is_named(tmp_path: Path, spark: SparkEngine) -> None:
    plan, labels = plan_of(many_small(), tmp_path / "logs"), late_labels(tmp_path / "labels")
    spark.scan(plan)
    files = labels.manifest(START, START + timedelta(hours=6)).objects
    (tmp_path / "labels" / files[1].name).write_bytes(b"nonsense")
    with pytest.raises(SourceUnreadable, match=f"{files[1].name}: is no readable Parquet file"):
        spark.evaluate(plan.sidecar, labels, files, read_whole, counted)


def test_row_facts_of_another_engine_are_refused(tmp_path: Path, spark: SparkEngine) -> None:
    plan = plan_of(many_small(), tmp_path / "logs")
    LocalEngine().scan(plan)
    with pytest.raises(UsageError, match="was not written by engine spark"):
        spark.evaluate(plan.sidecar, plan.source, plan.manifest.objects, read_whole, counted)


# ---- logs that Spark wrote


def test_files_that_spark_writes_are_the_same_rows(as_before: worlds.World, tmp_path: Path, spark: SparkEngine) -> None:
    """Spark's own: INT96 times, no pandas metadata, a `_SUCCESS` and checksums beside them."""
    world = worlds.write(tmp_path / "world", hours=1)
    path = world.partition(0) / "part-1.parquet"
    session = spark_session.session(spark_session.settings(spark.connection))
    session.conf.set("spark.sql.parquet.outputTimestampType", "INT96")
    session.read.parquet(str(path)).coalesce(1).write.parquet(str(tmp_path / "written"))
    path.unlink()
    for written in (tmp_path / "written").iterdir():
        written.rename(path.parent / written.name)
    assert (path.parent / "_SUCCESS").exists()
    worlds.check_window(world, 0, "--only", "drift,performance")
    same(world, as_before)


# ---- pieces, without a cluster


def objects(*sizes: int) -> tuple[LogObject, ...]:
    return tuple(LogObject(f"{k}.parquet", size, "e") for k, size in enumerate(sizes))


@given(st.lists(st.integers(0, 2000), max_size=60), st.integers(1, 50))
def test_units_hold_every_object_once_and_in_order(sizes: list[int], parallelism: int) -> None:
    manifest = Manifest("partitioned", objects(*sizes))
    source = Folder("/")
    plan = Plan(source, manifest, BINS, EXPECTED, START, END, False, (), 10, Path("facts"))
    units = cut(plan, 1000, parallelism)
    assert tuple(item for unit in units for item in unit.objects) == manifest.objects
    assert all(unit.objects for unit in units)
    assert all(len(unit.objects) == 1 or sum(item.size for item in unit.objects) <= 1000 for unit in units)


@given(st.integers(1, 30), st.integers(1, 3000), st.integers(1, 16))
def test_row_groups_are_cut_without_gap_or_overlap(tmp_path_factory: Any, groups: int, unit: int, cores: int) -> None:
    folder = tmp_path_factory.mktemp("cut")
    plan = plan_of(Case({"a.parquet": rows(10 * groups)}, row_group=10), folder / "logs")
    units = cut(plan, unit, cores)
    found = [group for one in units for group in (one.groups or range(groups))]
    assert found == list(range(groups))


@given(st.lists(st.one_of(st.none(), st.text(max_size=5)), max_size=200), st.integers(0, 12))
def test_rows_of_one_id_meet_in_one_bucket_and_none_is_lost(ids: list[str | None], bits: int) -> None:
    batch = pa.RecordBatch.from_pydict({"prediction_id": pa.array(ids, pa.string()), "row": range(len(ids))})
    dealt = list(spark_tasks.dealt([batch], bits))
    of_id: dict[str, set[int]] = {}
    for bucket, part in dealt:
        assert 0 <= bucket < 2**bits
        for name in part.column("prediction_id").drop_null().to_pylist():
            of_id.setdefault(name, set()).add(bucket)
    assert all(len(found) == 1 for found in of_id.values())
    assert sorted(row for _, part in dealt for row in part.column("row").to_pylist()) == list(range(len(ids)))


def test_settling_a_bucket_again_gives_the_same_file(tmp_path: Path) -> None:
    """What a second attempt of a task does, whatever the order in which Spark hands the pieces over."""
    plan = plan_of(many_small(), tmp_path / "logs")
    job = spark_tasks.Job(plan, cut(plan, 20_000, 2), 0, tmp_path / "out")
    job.folder.mkdir()
    numbers = pa.RecordBatch.from_pydict({"id": list(range(len(job.units)))})
    sent = pa.Table.from_batches(list(spark_tasks.scan_units(job, iter([numbers]))))
    rows_of = sent.filter(pa.compute.greater_equal(sent["bucket"], 0))
    first, path = spark_tasks.settle(job, rows_of), job.folder / spark_tasks.file_name(0, 0)
    content = path.read_bytes()
    again = spark_tasks.settle(job, rows_of.take(list(reversed(range(rows_of.num_rows)))))
    assert first.equals(again)
    assert path.read_bytes() == content
    assert [one.name for one in job.folder.iterdir()] == [path.name]
    settled = pickle.loads(first["payload"][0].as_py())  # noqa: S301 - our own
    assert (settled.rows, settled.duplicates) == (1035, LocalEngine().scan(plan).duplicates)


# ---- sessions


def test_the_documented_connector_is_of_the_hadoop_that_pyspark_brings() -> None:
    jars = Path(pytest.importorskip("pyspark").__file__).parent / "jars"
    (bundled,) = [path.stem.rpartition("-")[2] for path in jars.glob("hadoop-client-api-*.jar")]
    page = (Path(__file__).parent.parent / "docs" / "engines.md").read_text(encoding="utf-8")
    assert set(re.findall(r"hadoop-aws:([\d.]+\d)", page)) == {bundled}


def test_a_connection_says_master_conf_and_packages() -> None:
    extra = {"conf": {"spark.executor.memory": "4g", "spark.ui.enabled": True}, "packages": ["a:b:1", "c:d:2"]}
    found = spark_session.settings(Connection("lake", host="spark://head", port=7077, extra=extra))
    assert found["spark.master"] == "spark://head:7077"
    assert found["spark.jars.packages"] == "a:b:1,c:d:2"
    assert (found["spark.executor.memory"], found["spark.ui.enabled"]) == ("4g", "true")
    assert "spark.driver.host" not in found
    assert spark_session.settings(Connection("lake", host="head", port=7077))["spark.master"] == "spark://head:7077"
    assert spark_session.settings(Connection("here", host="local[*]"))["spark.driver.host"] == "127.0.0.1"


def test_conf_cannot_change_what_results_depend_on() -> None:
    conf = {"spark.sql.session.timeZone": "America/New_York"}
    found = spark_session.settings(Connection("lake", host="yarn", extra={"conf": conf}))
    assert found["spark.sql.session.timeZone"] == "UTC"


@pytest.mark.parametrize("given_connection", [Connection("lake"), Connection("lake", host="yarn", extra={"conf": "a"})])
def test_a_connection_without_a_usable_master_or_conf_is_refused(given_connection: Connection) -> None:
    with pytest.raises(UsageError, match="connection 'lake': names no usable Spark"):
        spark_session.settings(given_connection)


def test_a_master_that_does_not_answer_is_a_reason_to_try_again() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        wanted = spark_session.settings(Connection("lake", host="spark://127.0.0.1", port=port))
        if shutil.which("java") is None:
            pytest.skip("no java: that is said first")
        with pytest.raises(SourceBusy, match=f"no master answers within 5 s .127.0.0.1:{port}"):
            spark_session.session(wanted)


def test_missing_java_is_said_plainly(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(UsageError, match=r"bin/java is not there; Spark 4 needs Java 17"):
        spark_session.session({"spark.master": "local[7]"})


@pytest.mark.parametrize(
    ("trace", "kind", "reason"),
    [
        ("Traceback\n  File x\nhindcast.errors.SourceBusy: slow down\n\tat org.apache", SourceBusy, "slow down"),
        ("Traceback\n  File x\nValueError: what\n", HindcastError, "ValueError: what"),
        ("", HindcastError, "no reason given"),
    ],
)
def test_what_a_task_raised_is_raised_here(trace: str, kind: type[Exception], reason: str) -> None:
    assert spark_session._raised(trace) == (kind, reason)
