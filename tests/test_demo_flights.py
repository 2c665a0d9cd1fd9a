import doctest
import hashlib
import json
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import lightgbm
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from demo import flights
from demo.flights import FEATURES, MODEL, Tables, backlog, build, features, outcomes, recent_delay, timetable
from demo.train import fit
from hypothesis import given
from hypothesis import strategies as st

from hindcast.errors import SourceUnreadable, UsageError

MODEL_FILE = Path(__file__).parents[1] / "include" / "models" / "flights_delay.yaml"
OUTCOME_COLUMNS = ["dep_time", "dep_delay", "arr_time", "arr_delay", "air_time"]


@pytest.fixture(scope="module")
def tables() -> Tables:
    return flights.load()


@pytest.fixture(scope="module")
def moments(tables):
    return timetable(tables)


@pytest.fixture(scope="module")
def everything(tables):
    return features(tables)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "flights"
    build(folder)
    return folder


@pytest.fixture(scope="module")
def logs(root):
    return read(root / "logs")


@pytest.fixture(scope="module")
def labels(root):
    return read(root / "labels")


@pytest.fixture(scope="module")
def judged(logs, labels):
    """Logs beside the labels that came, and whether the prediction was right."""
    both = logs.merge(labels, on="prediction_id", how="inner", validate="one_to_one")
    return both.assign(right=both["prediction"] == both["ground_truth"])


def read(folder: Path) -> pd.DataFrame:
    """All rows under a folder, with the hour of the partition that each was found in."""
    parts = []
    for path in sorted(folder.glob("date=*/hour=*/part-0.parquet")):
        hour = f"{path.parts[-3].removeprefix('date=')}T{path.parts[-2].removeprefix('hour=')}:00Z"
        parts.append(pq.ParquetFile(path).read().to_pandas().assign(partition=pd.Timestamp(hour)))
    return pd.concat(parts, ignore_index=True)


def as_of(tables: Tables, moments: pd.DataFrame, moment: pd.Timestamp) -> Tables:
    """The tables as they were at `moment`: the schedule, but nothing that had not happened yet."""
    near = (moments["scheduled_departure"] - moment).abs() < pd.Timedelta(days=2)
    known = tables.flights[near].copy()
    not_left = ~(moments["departure"] < moment)[near]
    not_landed = ~(moments["arrival"] < moment)[near]
    known.loc[not_left, OUTCOME_COLUMNS] = np.nan
    known.loc[not_landed, ["arr_time", "arr_delay", "air_time"]] = np.nan
    # The observation of an hour is complete at its 51st minute.
    observed = pd.to_datetime(tables.weather["time_hour"]).dt.tz_localize(None) + pd.Timedelta(minutes=51)
    return replace(tables, flights=known, weather=tables.weather[observed <= moment])


@pytest.mark.parametrize("seed", range(30))
def test_no_feature_looks_into_the_future(tables, moments, everything, seed):
    """The features of a flight are the same from data that ends at its scheduled departure."""
    row = np.random.default_rng(seed).integers(len(everything))
    moment = moments["scheduled_departure"].loc[row]
    truncated = as_of(tables, moments, moment)
    pd.testing.assert_frame_equal(features(truncated).loc[[row]], everything.loc[[row]], check_dtype=False)


@pytest.mark.parametrize("column", ["recent_delay", "backlog", "temp"])
def test_truncating_the_data_earlier_is_noticed(tables, moments, everything, column):
    """The test above can fail: an hour less of knowledge changes the feature on a busy afternoon."""
    afternoon = moments.index[moments["scheduled_departure"] == pd.Timestamp("2013-04-19T21:00")]
    moment = moments["scheduled_departure"].loc[afternoon[0]] - pd.Timedelta(minutes=70)
    truncated = features(as_of(tables, moments, moment)).loc[afternoon, column]
    assert not truncated.equals(everything.loc[afternoon, column])


flight_lists = st.lists(
    st.tuples(st.integers(0, 900), st.none() | st.integers(-30, 500)), min_size=1, max_size=40
)  # scheduled minute, delay or cancelled


def as_arrays(rows):
    scheduled = np.datetime64("2013-04-16T00:00", "us") + np.array([at for at, _ in rows]).astype("timedelta64[m]")
    delay = np.array([np.nan if late is None else late for _, late in rows], dtype=float)
    departed = np.array(
        [
            np.datetime64("NaT") if late is None else at + np.timedelta64(late, "m")
            for at, (_, late) in zip(scheduled, rows, strict=True)
        ],
        dtype="datetime64[us]",
    )
    return scheduled, departed, delay


@given(flight_lists)
def test_recent_delay_is_the_mean_over_departures_of_the_two_hours_before(rows):
    expected = []
    for at, _ in rows:
        seen = [late for sched, late in rows if late is not None and at - 120 <= sched + late < at]
        expected.append(sum(seen) / len(seen) if seen else np.nan)
    np.testing.assert_allclose(recent_delay(*as_arrays(rows)), expected)


@given(flight_lists)
def test_backlog_counts_who_was_due_and_has_not_left(rows):
    expected = [
        sum(at - 360 <= sched < at and (late is None or sched + late >= at) for sched, late in rows) for at, _ in rows
    ]
    assert backlog(*as_arrays(rows)[:2]).tolist() == expected


def test_doctests():
    assert doctest.testmod(flights).failed == 0


def test_arrivals_show_the_clock_of_the_destination(tables, moments):
    """Scheduled arrival in UTC, read on the destination's clock, is what the timetable prints."""
    zones = tables.airports.set_index("faa")["tzone"].to_dict() | flights.ATLANTIC
    for zone, rows in tables.flights.groupby(tables.flights["dest"].map(zones)):
        local = moments.loc[rows.index, "scheduled_arrival"].dt.tz_localize("UTC").dt.tz_convert(zone)
        pd.testing.assert_series_equal(
            local.dt.hour * 100 + local.dt.minute, rows["sched_arr_time"], check_names=False, check_dtype=False
        )


def test_scheduled_block_times_are_plausible(tables, moments, everything):
    """Beside the time in the air, taxiing takes a quarter of an hour to an hour; a wrong zone would show here."""
    slack = (everything["block_minutes"] - tables.flights["air_time"]).groupby(tables.flights["dest"]).median()
    assert slack.between(15, 60).all()
    assert everything["block_minutes"].between(40, 720).all()


def test_atlantic_destinations_are_handled_and_an_unknown_one_is_refused(tables):
    assert set(flights.ATLANTIC) == set(tables.flights["dest"]) - set(tables.airports["faa"])
    lost = tables.flights.head(3).assign(dest="XYZ")
    with pytest.raises(SourceUnreadable, match="XYZ"):
        timetable(replace(tables, flights=lost))


def test_a_label_comes_after_the_departure_and_never_without_an_arrival(tables, moments, judged):
    assert (moments["arrival"] > moments["departure"])[moments["arrival"].notna()].all()
    assert (judged["label_timestamp"] > judged["timestamp"]).all()
    known = outcomes(tables)
    assert known["ground_truth"].notna().equals(tables.flights["arr_delay"].notna())
    assert known["label_timestamp"].notna().equals(known["ground_truth"].notna())


def test_logs_keep_the_contract(root, logs):
    schema = pq.ParquetFile(next((root / "logs").rglob("*.parquet"))).schema_arrow
    text, number, whole = pa.string(), pa.float64(), pa.int64()
    expected = {"prediction_id": text, "model_name": text, "model_version": text}
    expected |= {"timestamp": pa.timestamp("us", tz="UTC")}
    for name in FEATURES:
        categorical, integer = name in flights.CATEGORICAL, name in flights.INTEGERS
        expected[f"feature_{name}"] = text if categorical else whole if integer else number
    expected |= {"prediction": whole, "score": number, "confidence": number, "latency_ms": number, "error": text}
    assert {field.name: field.type for field in schema} == expected
    assert len(FEATURES) == 19
    assert logs["prediction_id"].is_unique
    assert logs["error"].isna().all()
    assert (logs["confidence"] == np.maximum(logs["score"], 1 - logs["score"])).all()
    assert (logs["prediction"] == (logs["score"] >= flights.THRESHOLD)).all()
    assert (logs["latency_ms"] > 0).all()


def test_every_row_lies_in_the_partition_of_its_hour(logs, labels):
    assert (logs["timestamp"].dt.floor("h") == logs["partition"]).all()
    assert (labels["label_timestamp"].dt.floor("h") == labels["partition"]).all()
    assert logs["timestamp"].min() >= pd.Timestamp("2013-03-11T04:00Z")
    assert logs["timestamp"].max() < pd.Timestamp("2013-04-29T04:00Z")


def test_an_hour_without_flights_has_no_folder(root, logs):
    """No flight is scheduled between one and five in the morning, New York time."""
    folders = {path.parent for path in (root / "logs").rglob("*.parquet")}
    assert set((root / "logs").glob("date=*/hour=*")) == folders
    assert len(folders) == logs["partition"].nunique()
    assert not set(logs["partition"].dt.hour) & {5, 6, 7, 8}


def test_every_flight_of_the_period_is_served_once(tables, logs, labels):
    day = pd.to_datetime(tables.flights[["year", "month", "day"]])
    period = tables.flights[(day >= "2013-03-11") & (day < "2013-04-29")]
    assert len(logs) == len(period)
    assert len(labels) == period["arr_delay"].notna().sum()
    assert labels["prediction_id"].isin(logs["prediction_id"]).all()
    late = period["arr_delay"].gt(15).sum()
    assert labels["ground_truth"].sum() == late


def test_facts_are_those_of_the_files(root, logs, judged):
    facts = build(root)
    delay = (judged["label_timestamp"] - judged["timestamp"]).dt.total_seconds() / 3600
    assert (facts.predictions, facts.labels, facts.hours) == (len(logs), len(judged), logs["partition"].nunique())
    assert facts.cancelled_or_diverted == len(logs) - len(judged)
    assert facts.median_label_delay_hours == delay.median() == pytest.approx(2.8, abs=0.2)
    assert facts.auc == pytest.approx(0.72, abs=0.02)


def test_a_second_build_touches_nothing_and_a_stale_one_is_replaced(root):
    stamp, reference = root / "build.json", root / "reference.parquet"
    before, content = reference.stat(), reference.read_bytes()
    facts = build(root)
    assert (reference.stat().st_ino, reference.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    stamp.write_text(json.dumps({"digest": "of an older version", "facts": asdict(facts)}))
    (root / "logs" / "date=1999-12-31").mkdir()
    assert build(root) == facts
    assert reference.stat().st_ino != before.st_ino
    assert reference.read_bytes() == content
    assert not (root / "logs" / "date=1999-12-31").exists()
    assert list(root.parent.iterdir()) == [root]


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="no earlier build"):
        build(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_the_committed_model_scores_the_logged_rows_to_the_bit(logs):
    """Raw values, cast to categories of whatever rows are at hand, find the categories stored in the booster."""
    booster = lightgbm.Booster(model_file=MODEL)
    assert booster.feature_name() == FEATURES
    hour = logs[logs["partition"] == pd.Timestamp("2013-04-16T15:00Z")]
    rows = hour[[f"feature_{name}" for name in FEATURES]].set_axis(FEATURES, axis=1)
    assert np.array_equal(flights.score(booster, rows), hour["score"])


def test_training_again_gives_the_committed_model(tables, everything):
    """On one processor family to the byte; between families sums may differ in the last digits, scores hardly."""
    known = outcomes(tables)
    rows = flights.training_rows(known)
    first, second = (fit(everything[rows], known["ground_truth"][rows]) for _ in range(2))
    assert first.model_to_string() == second.model_to_string()
    committed = flights.score(lightgbm.Booster(model_file=MODEL), everything[rows])
    assert np.abs(flights.score(first, everything[rows]) - committed).mean() < 1e-3


def test_the_reference_is_the_training_rows_in_order(root, tables):
    reference = pq.ParquetFile(root / "reference.parquet").read().to_pandas()
    day = pd.to_datetime(tables.flights[["year", "month", "day"]])
    assert len(reference) == ((day <= "2013-02-24") & tables.flights["arr_delay"].notna()).sum()
    assert reference["timestamp"].is_monotonic_increasing
    assert set(reference) == {f"feature_{name}" for name in FEATURES} | {
        "timestamp", "prediction", "score", "confidence", "ground_truth",
    }  # fmt: skip


def test_the_outage_of_16_april_is_in_the_data(judged):
    """American Airlines' reservation system was down that day; its flights were late and the model could not know."""
    day = judged[judged["timestamp"].between(pd.Timestamp("2013-04-16T14Z"), pd.Timestamp("2013-04-17T00Z"), "left")]
    american = day["feature_carrier"].isin(["AA", "MQ"])
    assert day["right"][american].mean() == pytest.approx(0.24, abs=0.04)
    assert day["right"][~american].mean() == pytest.approx(0.855, abs=0.02)


@pytest.mark.parametrize(("age", "expected"), [(0, 0.03), (3, 0.67), (6, 0.94), (24, 0.98)])
def test_labels_come_late(logs, labels, age, expected):
    """The shares that the model file quotes, each hour judged ten minutes after its end and its label age."""
    came = logs.merge(labels.drop(columns="partition"), on="prediction_id", how="left")
    as_of_hour = came["partition"] + pd.Timedelta(hours=1 + age, minutes=10)
    assert (came["label_timestamp"] <= as_of_hour).mean() == pytest.approx(expected, abs=0.01)


def test_the_model_file_fits_the_data(root, logs):
    """The limits hold in every training row, and the missing rates in every hour of the logs that has 20 rows."""
    model = yaml.safe_load(MODEL_FILE.read_text())
    assert list(model["features"]) == FEATURES
    assert model["explain"]["model"]["sha256"] == hashlib.sha256(MODEL.read_bytes()).hexdigest()
    assert (MODEL_FILE.parent / model["explain"]["model"]["uri"]).resolve() == MODEL
    assert model["model"] == logs["model_name"].unique().item()
    reference = pq.ParquetFile(root / "reference.parquet").read().to_pandas()
    rows = logs.groupby("partition")["prediction_id"].transform("size")
    for name, rule in model["features"].items():
        values = reference[f"feature_{name}"]
        if rule["type"] == "categorical":
            assert set(values) == set(rule.get("values", values))
        else:
            assert values.dropna().between(rule["min"], rule["max"]).all(), name
        missing = logs[f"feature_{name}"].isna()[rows >= 20].groupby(logs["partition"]).mean()
        assert (missing <= rule.get("max_missing", 1)).mean() > 0.99, name


def test_hours_follow_local_time_and_the_period_ends_at_midnight(logs):
    local = logs["timestamp"].dt.tz_convert("America/New_York")
    assert (local.dt.hour == logs["feature_hour"]).all()
    assert (local.dt.day_of_week == logs["feature_day_of_week"]).all()
    first, last = local.dt.date.min(), local.dt.date.max()
    assert (first, last) == (datetime(2013, 3, 11, tzinfo=UTC).date(), datetime(2013, 4, 28, tzinfo=UTC).date())
    assert local.dt.date.nunique() == (last - first + timedelta(days=1)).days
