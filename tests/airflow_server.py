"""A real Airflow for tests: three processes on SQLite, with small models that it watches.

The fixture `watched` boots it once per file. Its models: `steady` (three hours of logs with labels), `lost` (its
logs do not exist), and a file `broken.yaml` that is wrong.
"""

from __future__ import annotations

import socket
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from demo.airflow import Airflow

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FIRST_HOUR = datetime(2013, 4, 16, 12, tzinfo=UTC)
LOGGED_HOURS = 3
ROWS = 400


@dataclass(frozen=True)
class Watched:
    """The running Airflow, and where its results are."""

    airflow: Airflow
    results: str
    taken_port: int


def rows(start: datetime, n: int, *, seed: int) -> pa.Table:
    """One hour of predictions, in the log's layout; the prediction is right nine times in ten."""
    draw = np.random.default_rng(seed)
    amount = draw.normal(50, 10, n)
    truth = (amount + draw.normal(0, 5, n) > 50).astype(int)
    prediction = np.where(draw.random(n) < 0.9, truth, 1 - truth)
    seconds = np.sort(draw.integers(0, 3600, n))
    return pa.table(
        {
            "prediction_id": [f"{start:%Y%m%d%H}-{index}" for index in range(n)],
            "model_name": ["steady"] * n,
            "model_version": ["1"] * n,
            "timestamp": pa.array([start + timedelta(seconds=int(s)) for s in seconds], pa.timestamp("us", "UTC")),
            "feature_amount": amount,
            "feature_carrier": draw.choice(["AA", "B6", "UA"], n),
            "prediction": prediction,
            "score": np.clip(0.5 + (prediction - 0.5) * draw.uniform(0.2, 1, n), 0, 1),
            "latency_ms": draw.lognormal(2, 0.5, n),
            "ground_truth": truth,
        }
    )


def write_hour(folder: Path, hour: datetime, table: pa.Table) -> None:
    """Write one hour of a log: ``date=YYYY-MM-DD/hour=HH``."""
    path = folder / f"date={hour:%Y-%m-%d}" / f"hour={hour:%H}"
    path.mkdir(parents=True)
    pq.write_table(table, path / "part-0.parquet")


def write_logs(folder: Path) -> None:
    """Write the logs of `steady`, its labels, which come an hour later, and its reference."""
    for index in range(LOGGED_HOURS):
        hour = FIRST_HOUR + timedelta(hours=index)
        table = rows(hour, ROWS, seed=index)
        write_hour(folder / "logs", hour, table.drop_columns(["ground_truth"]))
        came = pa.array(
            [moment + timedelta(hours=1) for moment in table["timestamp"].to_pylist()], pa.timestamp("us", "UTC")
        )
        labels = table.select(["prediction_id", "ground_truth"]).append_column("label_timestamp", came)
        write_hour(folder / "labels", hour + timedelta(hours=1), labels)
    (folder / "patient").mkdir()
    pq.write_table(rows(FIRST_HOUR - timedelta(days=30), 2000, seed=99), folder / "reference.parquet")


def write_models(folder: Path) -> None:
    """Write the model files; the data of `steady` lies beside them."""
    steady = {
        "model": "steady",
        "owner": {"team": "ops-ml", "oncall": "ops-ml"},
        "task": "binary",
        "logs": {"uri": "../data/logs"},
        "labels": {"uri": "../data/labels"},
        "reference": {"uri": "../data/reference.parquet"},
        "features": {
            "amount": {"type": "numeric", "min": 0, "max": 1000, "max_missing": 0.01},
            "carrier": {"type": "categorical", "values": ["AA", "B6", "UA"]},
        },
        "performance": {"label_ages_hours": [0, 2]},
        "schedule": {"settle_minutes": 10},
    }
    lost = {**steady, "model": "lost", "logs": {"uri": "../data/nowhere"}}
    folder.mkdir()
    # Waits for its newest hour, so that a triggerer runs.
    ready = {"marker": "_SUCCESS", "wait_minutes": 300}
    patient = {**steady, "model": "patient", "logs": {"uri": "../data/patient", "ready": ready}, "labels": None}
    patient |= {"schedule": {"hourly": "manual", "settle_minutes": 0}}
    del patient["labels"]
    for model in (steady, lost, patient):
        (folder / f"{model['model']}.yaml").write_text(yaml.safe_dump(model))
    (folder / "broken.yaml").write_text(yaml.safe_dump({**steady, "model": "broken", "drift": {"seasonal_week": 1}}))


@contextmanager
def running(folder: Path) -> Iterator[Watched]:
    """Airflow watching the models of this module, everything below `folder`."""
    write_logs(folder / "data")
    write_models(folder / "models")
    results = f"sqlite:///{folder}/results/results.db"
    environment = {"HINDCAST_CONFIG": str(folder / "models"), "HINDCAST_RESULTS": results}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with Airflow(folder / "airflow", port, environment=environment) as airflow:
            yield Watched(airflow, results, port)
