"""The logging SDK: what it writes, what it refuses, what it exposes, and that Hindcast reads it."""

import asyncio
import gc
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram, Summary, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from tests import worlds

from hindcast import push
from hindcast.errors import UsageError
from hindcast.sdk import NotDurable, PredictionLogger
from hindcast.sdk.columns import PREDICTION, Columns, parquet
from hindcast.sdk.exposed import CONFIDENCE, LATENCY_SECONDS, MOST_FEATURES
from hindcast.sdk.tally import COUNTING

ROOT = Path(__file__).resolve().parents[1]
NOON = datetime(2024, 3, 4, 12, 30, tzinfo=UTC)


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    return tmp_path / "logs"


@pytest.fixture
def make(tmp_path: Path, logs: Path) -> Callable[..., PredictionLogger]:
    """A logger into `logs`."""

    def made(**options: Any) -> PredictionLogger:
        given = {"spool": tmp_path / "spool", "metrics": False, "labels_uri": str(tmp_path / "labels"), **options}
        return PredictionLogger("churn", "7", str(logs), **given)

    return made


def chunk(made: Columns, records: list[tuple[Any, ...]]) -> Any:
    return made.chunk(list(zip(*records, strict=True)))


def files(root: Path) -> list[Path]:
    return sorted(root.rglob("*.parquet"))


def rows(root: Path) -> list[dict[str, Any]]:
    found = [row for path in files(root) for row in pq.ParquetFile(path).read().to_pylist()]
    return sorted(found, key=lambda row: str(row["prediction_id"]))


# --- what stands in the files ---


def test_a_row_has_the_columns_of_the_contract(make: Callable[..., PredictionLogger], logs: Path) -> None:
    with make() as logger:
        logger.log(
            "a", {"age": 41, "income": 2.5, "country": "DE", "member": True}, 1, 0.8, 3.5, score=0.9, error=None,
            trace_id="t", cost=0.1, revenue=12, timestamp=NOON,
        )  # fmt: skip
    assert rows(logs) == [
        {
            "prediction_id": "a", "model_name": "churn", "model_version": "7", "timestamp": NOON, "feature_age": 41,
            "feature_income": 2.5, "feature_country": "DE", "feature_member": True, "prediction": 1, "confidence": 0.8,
            "latency_ms": 3.5, "score": 0.9, "error": None, "trace_id": "t", "cost": 0.1, "revenue": 12,
        }
    ]  # fmt: skip
    schema = pq.ParquetFile(files(logs)[0]).schema_arrow
    assert schema.field("timestamp").type == pa.timestamp("us", "UTC")
    assert schema.field("feature_age").type == pa.int64()


def test_files_lie_in_the_folder_of_their_hour(make: Callable[..., PredictionLogger], logs: Path) -> None:
    moments = [
        NOON, datetime(2024, 3, 4, 12, 59, 59, 999_999), int(NOON.timestamp() * 1e9) + 3_600_000_000_000,  # noqa: DTZ001 - no zone is UTC
        datetime(2024, 3, 5, 0, 30, tzinfo=timezone(timedelta(hours=2))), datetime(1969, 12, 31, 23, 30, tzinfo=UTC),
    ]  # fmt: skip
    with make() as logger:
        for moment in moments:
            logger.log("a", {"age": 1}, 1, timestamp=moment)
    found = {path.parent.relative_to(logs).as_posix(): pq.read_metadata(path).num_rows for path in files(logs)}
    assert found == {
        "date=2024-03-04/hour=12": 2,
        "date=2024-03-04/hour=13": 1,
        "date=2024-03-04/hour=22": 1,
        "date=1969-12-31/hour=23": 1,
    }


def test_without_a_timestamp_a_row_is_of_now(make: Callable[..., PredictionLogger], logs: Path) -> None:
    before = datetime.now(UTC)
    with make() as logger:
        logger.log("a", {"age": 1}, 1)
    assert before - timedelta(microseconds=1) <= rows(logs)[0]["timestamp"] <= datetime.now(UTC)


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        (0, datetime(1970, 1, 1, tzinfo=UTC)),
        (np.int64(1_700_000_000_000_000_000), datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)),
        (np.datetime64("2024-03-04T12:30"), NOON),
        (pd.Timestamp("2024-03-04 07:30", tz="America/New_York"), NOON),
        (date(2024, 3, 4), datetime(2024, 3, 4, tzinfo=UTC)),
    ],
)
def test_a_moment_may_be_any_of_pythons_and_numpys(
    make: Callable[..., PredictionLogger], logs: Path, tmp_path: Path, moment: Any, expected: datetime
) -> None:
    with make() as logger:
        logger.log("a", {"age": 1}, 1, timestamp=moment)
        logger.log_ground_truth("a", "yes", label_timestamp=moment)
    assert rows(logs)[0]["timestamp"] == expected
    assert rows(tmp_path / "labels")[0]["label_timestamp"] == expected


def test_dictionaries_only_for_text_that_repeats(make: Callable[..., PredictionLogger], logs: Path) -> None:
    with make() as logger:
        for i in range(100):
            logger.log(f"id-{i}", {"age": float(i), "country": "DE"}, "yes", trace_id=f"t-{i}")
    group = pq.ParquetFile(files(logs)[0]).metadata.row_group(0)
    columns = [group.column(i) for i in range(group.num_columns)]
    encoded = {c.path_in_schema for c in columns if "RLE_DICTIONARY" in c.encodings}
    assert encoded == {"model_name", "model_version", "feature_country", "prediction"}


def test_a_caller_may_change_its_dictionary_at_once(make: Callable[..., PredictionLogger], logs: Path) -> None:
    features = {"age": 1}
    with make() as logger:
        for i in range(1000):
            features["age"] = i
            logger.log(f"{i:04}", features, 1)
            features.clear()
    assert [row["feature_age"] for row in rows(logs)] == list(range(1000))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 2, None], [1, 2, None]),
        ([1, 2.5], [1.0, 2.5]),
        ([2.5, 1, None], [2.5, 1.0, None]),
        ([True, None], [True, None]),
        ([True, 2], [1.0, 2.0]),
        (["a", None], ["a", None]),
        (["a", 1], ["a", "1"]),
        ([1.5, "a"], ["1.5", "a"]),
        (["a", float("nan")], ["a", None]),
        ([2**70, 1], [float(2**70), 1.0]),
        ([Decimal("1.50"), None], [1.5, None]),
        ([Decimal("1.5"), 2.0], [1.5, 2.0]),
        ([np.float32(0.5), np.float64(1.5)], [0.5, 1.5]),
        ([np.int64(3), np.int32(4)], [3, 4]),
        ([np.bool_(True), False], [True, False]),
        ([np.str_("x"), "y"], ["x", "y"]),
        ([[1, 2], [3]], ["[1, 2]", "[3]"]),
        ([NOON, date(2024, 3, 4), None], [NOON, datetime(2024, 3, 4, tzinfo=UTC), None]),
        ([NOON, 1], ["2024-03-04 12:30:00+00:00", "1"]),
        ([b"x", None], ["x", None]),
        (["ü", "", "日本"], ["ü", "", "日本"]),
        (["", ""], ["", ""]),
        (["a\0b", "", "\0"], ["a\0b", "", "\0"]),
        ([10**400, 1], [str(10**400), "1"]),
        ([{"b": 1}], ['{"b": 1}']),
        (["\ud800"], ["?"]),
        ([float("inf"), float("-inf")], [float("inf"), float("-inf")]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("apart", [False, True])
def test_values_find_a_type_that_holds_them_all(values: list[Any], expected: list[Any], apart: bool) -> None:
    """In one piece, and in pieces of one row that are put together."""
    made = Columns(PREDICTION)
    records = [(str(i), {"x": v, "y": 0}, 1, None, None, i, {}) for i, v in enumerate(values)]
    chunks = [chunk(made, [record]) for record in records] if apart else [chunk(made, records)]
    table = pq.read_table(pa.BufferReader(parquet(made.table(chunks, {"model_name": "m"}))))
    assert table["feature_x"].to_pylist() == expected


def test_a_value_that_does_not_fit_makes_text_of_one_file_only() -> None:
    made = Columns(PREDICTION)

    def kind(*values: Any) -> Any:
        records = [("a", {"x": value}, 1, None, None, 0, {}) for value in values]
        return made.table([chunk(made, records)], {}).schema.field("feature_x").type

    assert [kind(1.5), kind(1.5, "n/a"), kind(2.5), kind(None), kind(3)] == [
        pa.float64(), pa.string(), pa.float64(), pa.float64(), pa.float64(),
    ]  # fmt: skip


scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.dates() | st.binary(max_size=3)
)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.dictionaries(st.text(max_size=3), scalars, max_size=4), min_size=1, max_size=8))
def test_whatever_the_values_are_every_row_is_written(features: list[dict[str, Any]]) -> None:
    made = Columns(PREDICTION)
    records = [(str(i), f, 1, None, None, 0, {}) for i, f in enumerate(features)]
    chunks = [chunk(made, records[:2]), *([chunk(made, records[2:])] if records[2:] else [])]
    found = pq.read_table(pa.BufferReader(parquet(made.table(chunks, {"model_name": "m"}))))
    assert found["prediction_id"].to_pylist() == [str(i) for i in range(len(features))]
    for name in {name for f in features for name in f}:
        missing = [value is None for value in found[f"feature_{name}"].to_pylist()]
        assert all(missing[i] for i, f in enumerate(features) if f.get(name) is None)


def test_rows_may_have_different_features(make: Callable[..., PredictionLogger], logs: Path) -> None:
    with make() as logger:
        logger.log("a", {"x": 1, "y": 2}, 1)
        logger.log("b", {"y": 3, "x": 4}, 1)
        logger.log("c", {"z": 5}, 1)
        logger.log("d", None, None, error="timeout")
    found = [{k: row[k] for k in ("feature_x", "feature_y", "feature_z", "error")} for row in rows(logs)]
    assert [list(row.values()) for row in found] == [
        [1, 2, None, None], [4, 3, None, None], [None, None, 5, None], [None, None, None, "timeout"],
    ]  # fmt: skip


# --- many at once, labels, threads ---


@pytest.mark.parametrize(
    "features",
    [
        [{"age": 1.5, "country": "DE"}, {"age": 2.5, "country": None}],
        {"age": [1.5, 2.5], "country": ["DE", None]},
        {"age": np.array([1.5, 2.5]), "country": ("DE", None)},
        pd.DataFrame({"age": [1.5, 2.5], "country": ["DE", None]}),
        pa.table({"age": [1.5, 2.5], "country": ["DE", None]}),
    ],
    ids=["dicts", "columns", "arrays", "pandas", "arrow"],
)
def test_a_batch_is_logged_row_by_row(make: Callable[..., PredictionLogger], logs: Path, features: Any) -> None:
    with make() as logger:
        logger.log_batch(
            pd.Series(["a", "b"]), features, np.array([1, 0]), [0.9, None], score=[0.9, 0.2],
            timestamps=[NOON, NOON + timedelta(hours=1)],
        )  # fmt: skip
    names = ("prediction_id", "timestamp", "feature_age", "feature_country", "prediction", "confidence", "score")
    assert [[row[name] for name in names] for row in rows(logs)] == [
        ["a", NOON, 1.5, "DE", 1, 0.9, 0.9],
        ["b", NOON + timedelta(hours=1), 2.5, None, 0, None, 0.2],
    ]


def test_a_batch_of_different_lengths_is_refused_as_a_whole(make: Callable[..., PredictionLogger], logs: Path) -> None:
    with make() as logger:
        with pytest.raises(UsageError, match=r"2 prediction_ids, and as many are needed of each: {'score': 1}"):
            logger.log_batch(["a", "b"], {"x": [1, 2]}, [1, 0], score=[0.5])
        with pytest.raises(UsageError, match=r"columns of features have \[1, 2\] rows"):
            logger.log_batch(["a", "b"], {"x": [1, 2], "y": [1]}, [1, 0])
    assert not files(logs)


def test_ground_truth_goes_to_its_own_root(make: Callable[..., PredictionLogger], tmp_path: Path) -> None:
    with make() as logger:
        logger.log_ground_truth("a", 1, label_timestamp=NOON)
        logger.log_ground_truth("b", 0, label_timestamp=NOON + timedelta(hours=1), region="north")
    assert [path.parent.name for path in files(tmp_path / "labels")] == ["hour=12", "hour=13"]
    assert rows(tmp_path / "labels")[0] == {
        "model_name": "churn", "model_version": "7", "prediction_id": "a", "ground_truth": 1, "label_timestamp": NOON,
    }  # fmt: skip
    assert rows(tmp_path / "labels")[1]["region"] == "north"


def test_threads_log_at_the_same_time(make: Callable[..., PredictionLogger], logs: Path) -> None:
    with make(max_rows=500) as logger:

        def work(thread: int) -> None:
            for i in range(2000):
                logger.log(f"{thread}-{i}", {"thread": thread, "name": "x"}, i)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found = rows(logs)
    assert {row["prediction_id"] for row in found} == {f"{t}-{i}" for t in range(6) for i in range(2000)}
    assert len(found) == 12_000
    assert logger.counts() == {"logged": 12_000, "adopted": 0, "stored": 12_000, "waiting": 0, "dropped": {}}


def test_coroutines_log_and_the_loop_goes_on_while_it_closes(make: Callable[..., PredictionLogger], logs: Path) -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0)
            ticks += 1

    async def request(logger: PredictionLogger, i: int) -> None:
        await asyncio.sleep(0)
        logger.log(f"{i:03}", {"x": i}, i)

    async def serve() -> int:
        ticking = asyncio.create_task(tick())
        async with make() as logger:
            await asyncio.gather(*(request(logger, i) for i in range(200)))
            before = ticks
        ticking.cancel()
        return ticks - before

    assert asyncio.run(serve()) > 1
    assert [row["feature_x"] for row in rows(logs)] == list(range(200))


def test_what_waits_is_nothing_that_the_garbage_collector_goes_through(make: Callable[..., PredictionLogger]) -> None:
    """Else it would do so in the middle of some calls, and take longer than they."""
    with make() as logger:
        queue = logger._predictions.queue
        with COUNTING:
            logger.log("first", {"x": 1.0}, 1)
            while queue:  # whoever takes it waits afterwards
                time.sleep(0.01)
            for i in range(100):
                logger.log(f"{i}", {"x": float(i), "name": "a"}, 1, 0.5, 3.0)
            waiting = list(queue)
        assert len(waiting) == 100 * len(PREDICTION)
        assert not any(map(gc.is_tracked, waiting))


def test_a_file_is_finished_when_it_is_full_or_old(make: Callable[..., PredictionLogger], logs: Path) -> None:
    with make(max_rows=1000, max_seconds=3600) as logger:
        for i in range(3500):
            logger.log(f"{i}", {"x": i}, i, timestamp=NOON)
    assert sorted(pq.read_metadata(path).num_rows for path in files(logs)) == [500, 1000, 1000, 1000]
    with make(max_seconds=0.01) as logger:
        logger.log("late", {"x": 1}, 1, timestamp=NOON + timedelta(hours=5))
        done = threading.Event()
        while not any("hour=17" in str(path) for path in files(logs)):
            done.wait(0.02)


# --- what is refused ---


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("", "7", "logs"), {}, "model_name='': must be a text"),
        (("churn", 7, "logs"), {}, "model_version=7: must be a text"),
        (("churn", "7", ""), {}, "uri is empty"),
        (("churn", "7", "gs://bucket"), {}, "allowed are a folder"),
        (("churn", "7", "s3://B_ad"), {}, "names no bucket"),
        (("churn", "7", "bq://a.b"), {}, "names no BigQuery table"),
        (("churn", "7", "logs"), {"store_options": {"region_name": "x"}}, "allowed are a folder"),
        (("churn", "7", "logs"), {"max_rows": 0}, "max_rows=0: must be a whole number, more than 0"),
        (("churn", "7", "logs"), {"max_rows": 1000.5}, r"max_rows=1000\.5: must be a whole number"),
        (("churn", "7", "logs"), {"queue_records": "9"}, "queue_records='9': must be a whole number"),
        (("churn", "7", "logs"), {"max_seconds": float("nan")}, "max_seconds=nan: must be a number, more than 0"),
        (("churn", "7", "logs"), {"block_seconds": -1}, "block_seconds=-1: must be a number, not less than 0"),
        (("churn", "7", "logs"), {"labels_uri": "gs://bucket"}, "allowed are a folder"),
        (("churn", "7", "logs"), {"spool": "/proc/nowhere"}, "spool /proc/nowhere: .*name a folder on the local disk"),
    ],
)  # fmt: skip
def test_arguments_that_make_no_sense_are_refused(
    arguments: tuple[Any, ...], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        PredictionLogger(*arguments, metrics=False, **options)


def test_a_call_that_makes_no_sense_is_refused_where_it_is_made(tmp_path: Path, logs: Path) -> None:
    with PredictionLogger("churn", "7", str(logs), spool=tmp_path / "spool", metrics=False) as logger:
        for features in ((1, 2), [1, 2], {1}, "text", np.array([1.0, 2.0]), pd.Series({"x": 1}), pd.DataFrame()):
            says = f"features must be a dict of names to values; got {type(features).__name__}"
            with pytest.raises(TypeError, match=says):
                logger.log("a", features, 1)  # type: ignore[arg-type] # on purpose
        with pytest.raises(TypeError, match="model_name and model_version are those of the logger"):
            logger.log("a", {"x": 1}, 1, model_version="8")
        with pytest.raises(UsageError, match="give PredictionLogger a labels_uri"):
            logger.log_ground_truth("a", 1)
    assert logger.counts()["logged"] == 0


def test_a_record_that_cannot_be_written_is_counted_and_takes_no_other_with_it(
    make: Callable[..., PredictionLogger], logs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(tzinfo):
        def __str__(self) -> str:
            raise RuntimeError

        def utcoffset(self, _: Any) -> Any:
            raise RuntimeError

    logger = make()
    for i in range(50):
        logger.log(f"good-{i}", {"x": i}, 1)
    for moment in ("yesterday", pd.NaT, 10**30, datetime(1, 1, 1), datetime(2024, 3, 4, tzinfo=Broken())):  # noqa: DTZ001 - on purpose
        logger.log("bad-time", {"x": 1}, 1, timestamp=moment)  # type: ignore[arg-type] # on purpose
    logger.log("bad-value", {"x": Broken()}, 1)
    with pytest.raises(NotDurable, match=r"6 records are neither in the store .* 6 are lost \(unwritable: 6\)"):
        logger.flush()
    logger.close()
    assert len(rows(logs)) == 50
    assert logger.counts() == {
        "logged": 50, "adopted": 0, "stored": 50, "waiting": 0, "dropped": {"unwritable": 6},
    }  # fmt: skip
    assert "1 records dropped so far: unwritable" in caplog.text


def test_what_is_logged_after_the_end_is_counted(make: Callable[..., PredictionLogger], logs: Path) -> None:
    logger = make()
    logger.log("a", {"x": 1}, 1)
    assert logger.close()
    logger.log("b", {"x": 1}, 1)
    assert logger.close()
    assert logger.counts()["dropped"] == {"closed": 1}
    assert [row["prediction_id"] for row in rows(logs)] == ["a"]


# --- metrics ---


def samples(text: str) -> dict[tuple[str, ...], float]:
    """Samples but the times of creation: name, and values of labels in the order of their names -> value."""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def test_the_metrics_are_those_of_the_textbook(make: Callable[..., PredictionLogger]) -> None:
    """Beside prometheus_client's own way, one observation at a time."""
    rng = np.random.default_rng(5)
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    labels, model = ("model_name", "model_version"), {"model_name": "churn", "model_version": "7"}
    predictions = Counter("ml_predictions_total", "", labels, registry=theirs).labels(**model)
    errors = Counter("ml_prediction_errors_total", "", labels, registry=theirs).labels(**model)
    latency = Histogram(
        "ml_prediction_latency_seconds", "", labels, registry=theirs, buckets=LATENCY_SECONDS
    ).labels(**model)  # fmt: skip
    confidence = Histogram("ml_prediction_confidence", "", labels, registry=theirs, buckets=CONFIDENCE).labels(**model)
    feature = Summary("ml_feature_value", "", (*labels, "feature_name"), registry=theirs)
    with make(metrics=ours) as logger:
        for i in range(3000):
            seconds = 0.25 if i % 7 == 0 else float(rng.exponential(0.05))  # some on the edge of a bucket
            sure, age = round(float(rng.random()), 1), [None, float("nan"), float("inf"), 2.5, 3][i % 5]
            error = "timeout" if i % 11 == 0 else None
            logger.log(str(i), {"age": age, "country": "DE", "n": i}, 1, sure, 1000 * seconds, error=error)
            predictions.inc()
            errors.inc(1 if error else 0)
            latency.observe(1000 * seconds / 1000)
            confidence.observe(sure)
            feature.labels(**model, feature_name="n").observe(i)
            if age in {2.5, 3}:
                feature.labels(**model, feature_name="age").observe(age)
        logger.flush()
    found, expected = samples(generate_latest(ours).decode()), samples(generate_latest(theirs).decode())
    assert {key: found[key] for key in expected} == pytest.approx(expected)
    assert {key[0] for key in found if key not in expected} == {
        "ml_log_stored_total", "ml_log_delivery_failures_total", "ml_log_queued_records", "ml_log_spooled_bytes",
    }  # fmt: skip
    assert found["ml_log_stored_total", "churn", "7"] == 3000


def test_the_families_are_those_of_the_documentation(make: Callable[..., PredictionLogger]) -> None:
    section = (ROOT / "docs/metrics.md").read_text().partition("## Exposed")[2].partition("## Pushed")[0]
    described = {}
    for line in section.splitlines():
        if line.startswith("| `"):
            name, kind, labels, _ = (cell.strip() for cell in line.strip("|").split("|"))
            described[name.strip("` ")] = (kind.split()[0], {label.strip("` ") for label in labels.split(",")} - {""})
    registry = CollectorRegistry()
    with make(metrics=registry) as logger:
        logger.log("a", {"x": 1.0}, 1)
    logger.log("b", {"x": 1.0}, 1)
    found = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        if not family.name.endswith("_created"):
            found[name] = (family.type, labels - {"model_name", "model_version"})
            assert labels >= {"model_name", "model_version"}
    assert found == described
    assert not set(found) & set(push.HELP)


def test_loggers_of_two_models_share_the_families_and_other_owners_are_named(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    for model in ("a", "b"):
        with PredictionLogger(model, "1", str(tmp_path / model), metrics=registry) as logger:
            logger.log("1", {"x": 1.0}, 1)
    found = samples(generate_latest(registry).decode())
    assert (found["ml_predictions_total", "a", "1"], found["ml_predictions_total", "b", "1"]) == (1, 1)

    taken = CollectorRegistry()
    Counter("ml_predictions_total", "somebody's own", registry=taken)
    with pytest.raises(UsageError, match="another part of this process registers a metric of that name"):
        PredictionLogger("a", "1", str(tmp_path), metrics=taken)


def test_labels_are_bounded(make: Callable[..., PredictionLogger]) -> None:
    registry = CollectorRegistry()
    with make(metrics=registry) as logger:
        logger.log("a", {f"x{i}": float(i) for i in range(MOST_FEATURES + 20)}, 1)
    found = samples(generate_latest(registry).decode())
    assert len([key for key in found if key[0] == "ml_feature_value_count"]) == MOST_FEATURES


def test_processes_share_metrics_in_the_multiprocess_mode(tmp_path: Path) -> None:
    """Three processes, forked from one that had a logger already; a fourth reads what they leave."""
    script = """
import os, sys
from hindcast.sdk import PredictionLogger
logger = PredictionLogger("churn", "7", sys.argv[1], spool=sys.argv[2])
children = []
for n in range(3):
    if (child := os.fork()) == 0:
        for i in range(100):
            logger.log(f"{n}-{i}", {"x": 2.0}, 1, 0.5, 10.0)
        logger.close()
        os._exit(0)
    children.append(child)
assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
from prometheus_client import CollectorRegistry, generate_latest, multiprocess
registry = CollectorRegistry()
multiprocess.MultiProcessCollector(registry)
print(generate_latest(registry).decode())
"""
    (tmp_path / "metrics").mkdir()
    environment = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "metrics"), "PYTHONPATH": str(ROOT / "include")}
    command = [sys.executable, "-c", script, str(tmp_path / "logs"), str(tmp_path / "spool")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=60)
    assert done.returncode == 0, done.stderr
    found = samples(done.stdout)
    assert found["ml_predictions_total", "churn", "7"] == 300
    assert found["ml_prediction_latency_seconds_bucket", "0.01", "churn", "7"] == 300
    assert found["ml_feature_value_sum", "x", "churn", "7"] == 600
    assert len(rows(tmp_path / "logs")) == 300


# --- alone, and with the rest of Hindcast ---


@pytest.mark.parametrize("installed", ["all", "little"])
def test_it_imports_nothing_heavy_and_works_where_little_is_installed(tmp_path: Path, installed: str) -> None:
    """Nothing but pyarrow, numpy and prometheus_client; pyarrow would import pandas for a list, wherever it is."""
    script = """
import sys, sysconfig
allowed = {"hindcast", "numpy", "pyarrow", "prometheus_client"} | set(sys.stdlib_module_names)
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in allowed and not name.startswith("_"):
            raise ModuleNotFoundError(name)
if sys.argv[3] == "little":
    sys.meta_path.insert(0, Refuse())
from hindcast.sdk import PredictionLogger
with PredictionLogger("churn", "7", sys.argv[1], spool=sys.argv[2]) as logger:
    for age in (41, 42.5, None, True, "old"):
        logger.log("a", {"age": age, "country": "DE"}, 1, 0.5, 3.0)
heavy = {"airflow", "shap", "great_expectations", "pandas", "scipy", "sqlalchemy", "boto3"} & set(sys.modules)
assert not heavy, heavy
"""
    command = [sys.executable, "-c", script, str(tmp_path / "logs"), str(tmp_path / "spool"), installed]
    environment = {"PYTHONPATH": str(ROOT / "include")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(rows(tmp_path / "logs")) == 5


def test_what_it_logs_is_checked_as_any_other_log(tmp_path: Path) -> None:
    """The rows of a world, logged anew by the SDK: every check finds the same."""
    original = worlds.write(tmp_path / "w", hours=3)
    logged = worlds.copied(original, tmp_path / "v")
    for path in files(logged.folder / "alpha"):
        path.unlink()
    spool, labels = tmp_path / "spool", str(logged.labels())
    with PredictionLogger(
        "alpha", "1", f"file://{logged.logs()}", labels_uri=labels, spool=spool, metrics=False
    ) as logger:
        for row in rows(original.logs()):
            features = {k.removeprefix("feature_"): v for k, v in row.items() if k.startswith("feature_")}
            logger.log(
                row["prediction_id"], features, row["prediction"], None, row["latency_ms"], timestamp=row["timestamp"],
                score=row["score"], error=row["error"],
            )  # fmt: skip
        for row in rows(original.labels()):
            logger.log_ground_truth(row["prediction_id"], row["ground_truth"], label_timestamp=row["label_timestamp"])
    for world in (original, logged):
        facts = worlds.check_window(world, 1)
        assert facts["pull"]["rows"] == 300
    found = [worlds.snapshot(world.results) for world in (original, logged)]
    for table in ("quality", "drift", "performance", "findings", "alerts"):
        assert found[0][table] == found[1][table], table
    assert found[0]["performance"]
