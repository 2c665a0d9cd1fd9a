"""Small worlds for tests: seeded logs, late labels, a reference, a model and its file, in the contract's layout.

A world is a folder; `write` makes it, `write_hours` adds hours to it. A fault changes an hour's table.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import sqlite3
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from click.testing import CliRunner, Result
from sqlalchemy import LargeBinary, select

from hindcast.results import tables
from hindcast.results.database import open_engine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

START = datetime(2024, 3, 4, tzinfo=UTC)  # a Monday
HOUR = timedelta(hours=1)
SETTLE = timedelta(minutes=10)  # the default of schedule.settle_minutes
CARRIERS, SHARES = ("AA", "B6", "DL", "UA", "WN"), (0.3, 0.25, 0.2, 0.15, 0.1)
ORIGINS = ("EWR", "JFK", "LGA")
NUMERIC = ("amount", "distance", "stops", "load")
ACCURACY = 0.9
# Delay of a label in hours, and how often; what is left never comes.
DELAYS = ((0.02, 0.7), (3.0, 0.15), (12.0, 0.1))
# Columns that may differ between two runs of one window; a reference says when it was fitted.
VOLATILE = {"recorded_at", "duration_seconds"}


@dataclass(frozen=True)
class World:
    """Where everything lies; the model files are in `models`, one `<name>.yaml` each."""

    folder: Path

    @property
    def models(self) -> Path:
        return self.folder / "models"

    @property
    def results(self) -> str:
        return f"sqlite:///{self.folder}/results/results.db"

    def logs(self, model: str = "alpha") -> Path:
        return self.folder / model / "logs"

    def labels(self, model: str = "alpha") -> Path:
        return self.folder / model / "labels"

    def partition(self, hour: int, model: str = "alpha") -> Path:
        return partition(self.logs(model), at(hour))

    def store_at(self, name: str) -> str:
        """URL of another, empty store."""
        return f"sqlite:///{self.folder}/{name}/results.db"


def at(hour: float) -> datetime:
    """A moment, in hours since the world began."""
    return START + hour * HOUR


def text(hour: float) -> str:
    return f"{at(hour):%Y-%m-%dT%H:%M}"


def partition(root: Path, moment: datetime) -> Path:
    return root / f"date={moment:%Y-%m-%d}" / f"hour={moment:%H}"


def features(rng: np.random.Generator, n: int) -> dict[str, Any]:
    """Four numeric features and two categorical ones; `load` has 2 % nulls."""
    load = rng.uniform(0, 1, n)
    return {
        "feature_amount": rng.normal(50, 10, n),
        "feature_distance": rng.lognormal(6, 0.5, n),
        "feature_stops": rng.poisson(1.0, n),
        "feature_load": pa.array(load, mask=rng.random(n) < 0.02),
        "feature_carrier": rng.choice(CARRIERS, n, p=SHARES),
        "feature_origin": rng.choice(ORIGINS, n),
    }


def hour_table(model: str, hour: int, n: int, *, accuracy: float = ACCURACY, seed: int = 0) -> pa.Table:
    """One hour of predictions with their truth, of which a share `accuracy` is right."""
    rng = np.random.default_rng([seed, hour, *model.encode()])
    columns = features(rng, n)
    truth = (columns["feature_amount"] + rng.normal(0, 5, n) > 50).astype(np.int64)
    prediction = np.where(rng.random(n) < accuracy, truth, 1 - truth)
    start, micros = at(hour), np.sort(rng.integers(0, 3_600_000_000, n))
    moments = int(start.timestamp()) * 1_000_000 + micros
    return pa.table(
        {
            "prediction_id": [f"{model}-{hour}-{i}" for i in range(n)],
            "model_name": [model] * n,
            "model_version": ["1"] * n,
            "timestamp": pa.array(moments, pa.int64()).cast(pa.timestamp("us", "UTC")),
            **columns,
            "prediction": prediction,
            "score": np.clip(0.5 + (prediction - 0.5) * rng.uniform(0.1, 0.95, n), 0, 1),
            "latency_ms": rng.lognormal(3, 0.4, n),
            "error": pa.nulls(n, pa.string()),
            "ground_truth": truth,
        }
    )


def labels_of(table: pa.Table, hour: int, *, seed: int = 0) -> pa.Table:
    """The labels of an hour, each at its own time; `DELAYS` says when, with up to a quarter of an hour more."""
    rng = np.random.default_rng([seed, hour, 7])
    n = table.num_rows
    shares = [share for _, share in DELAYS]
    kind = rng.choice(len(DELAYS) + 1, n, p=[*shares, 1 - sum(shares)])
    delay = np.array([*(hours for hours, _ in DELAYS), math.nan])[kind] + rng.uniform(0, 0.25, n)
    known = np.isfinite(delay)
    made = np.asarray(table["timestamp"].cast(pa.int64()))
    came = made[known] + (delay[known] * 3_600_000_000).astype(np.int64)
    return pa.table(
        {
            "prediction_id": table["prediction_id"].filter(pa.array(known)),
            "ground_truth": table["ground_truth"].filter(pa.array(known)),
            "label_timestamp": pa.array(came, pa.int64()).cast(pa.timestamp("us", "UTC")),
        }
    )


def write_labels(root: Path, labels: pa.Table, name: str) -> None:
    """File labels under the hours in which they came."""
    came = np.asarray(labels["label_timestamp"].cast(pa.int64())) // 3_600_000_000
    for hour in np.unique(came).tolist():
        folder = partition(root, datetime.fromtimestamp(hour * 3600, UTC))
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(labels.filter(pa.array(came == hour)), folder / f"{name}.parquet")


def write_hours(
    world: World,
    hours: Iterable[int],
    *,
    model: str = "alpha",
    rows: int = 300,
    accuracy: float = ACCURACY,
    fault: Callable[[pa.Table], pa.Table] | None = None,
    labels: str = "late",
    seed: int = 0,
) -> None:
    """Log some hours: `labels` is late (a source of their own), inline (a column of the log) or none."""
    for hour in hours:
        table = hour_table(model, hour, rows, accuracy=accuracy, seed=seed)
        if fault:
            table = fault(table)
        if labels == "late":
            write_labels(world.labels(model), labels_of(table, hour, seed=seed), f"of-{hour}")
        logged = table if labels == "inline" else table.drop_columns(["ground_truth"])
        folder = world.partition(hour, model)
        folder.mkdir(parents=True, exist_ok=True)
        half = logged.num_rows // 2
        pq.write_table(logged.slice(0, half), folder / "part-0.parquet")
        pq.write_table(logged.slice(half), folder / "part-1.parquet")


def model_file(world: World, model: str = "alpha", *, labels: bool | dict[str, str] = True, **keys: Any) -> Path:
    """Write a model file; `keys` replace or add top-level keys, None takes one away.

    `labels` says whether there are late ones, in the world's own folder or at another place.
    """
    place = labels if isinstance(labels, dict) else {"uri": f"../{model}/labels"} if labels else None
    content: dict[str, Any] = {
        "model": model,
        "owner": {"team": "ops", "oncall": "ops"},
        "task": "binary",
        "positive_class": 1,
        "logs": {"uri": f"../{model}/logs"},
        "labels": place,
        "reference": {"uri": "../reference.parquet"},
        "features": {
            "amount": {"type": "numeric", "min": -50, "max": 150, "max_missing": 0.01},
            "distance": {"type": "numeric", "min": 0, "max_missing": 0.01},
            "stops": {"type": "numeric", "min": 0, "max": 30, "max_missing": 0.01},
            "load": {"type": "numeric", "min": 0, "max": 1, "max_missing": 0.1},
            "carrier": {"type": "categorical", "values": list(CARRIERS), "max_missing": 0.01},
            "origin": {"type": "categorical", "max_missing": 0.01},
        },
        "segments": ["carrier", "origin"],
        **keys,
    }
    world.models.mkdir(parents=True, exist_ok=True)
    path = world.models / f"{model}.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in content.items() if v is not None}, sort_keys=False))
    return path


def reference(rows: int = 20_000, seed: int = 99) -> pa.Table:
    return pa.table(features(np.random.default_rng(seed), rows))


def booster(path: Path) -> dict[str, str]:
    """Train a small LightGBM model on the reference's features; returns the keys of `explain.model`."""
    import lightgbm

    table = reference(2000)
    x = np.column_stack([np.asarray(table[f"feature_{n}"].combine_chunks().fill_null(0.5), float) for n in NUMERIC])
    options = {"objective": "binary", "num_leaves": 7, "verbose": -1, "num_threads": 1, "seed": 1}
    data = lightgbm.Dataset(x, x[:, 0] > 50, feature_name=list(NUMERIC))
    lightgbm.train(options, data, 10).save_model(path)
    return {"uri": f"../{path.name}", "format": "lightgbm", "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def write(
    folder: Path, *, hours: int = 0, rows: int = 300, models: tuple[str, ...] = ("alpha",), explain: bool = False,
    labels: str = "late", **keys: Any,
) -> World:  # fmt: skip
    """Make a world of `hours` good hours."""
    world = World(folder)
    world.models.mkdir(parents=True)
    pq.write_table(reference(), folder / "reference.parquet", row_group_size=10_000)
    if explain:
        keys["explain"] = {"model": booster(folder / "model.txt"), "sample_rows": 100}
    for model in models:
        world.logs(model).mkdir(parents=True)
        if labels == "late":
            world.labels(model).mkdir(parents=True)
        model_file(world, model, labels=labels == "late", **keys)
        write_hours(world, range(hours), model=model, rows=rows, labels=labels)
    return world


def copied(world: World, folder: Path) -> World:
    """A copy with its results and artifacts, to go on from."""
    shutil.copytree(world.folder, folder)
    return World(folder)


def snapshot(results: str, *, ignore: Iterable[str] = ("audit",)) -> dict[str, list[dict[str, Any]]]:
    """Every table but `ignore`, every column but the volatile ones, in a fixed order; blobs by their digest."""
    engine = open_engine(results)
    found: dict[str, list[dict[str, Any]]] = {}
    with engine.connect() as connection:
        for name, table in tables.METADATA.tables.items():
            if name not in ignore:
                columns = [c for c in table.c if c.name not in VOLATILE]
                query = select(*columns).order_by(*table.primary_key.columns)
                found[name] = [dict(row) for row in connection.execute(query).mappings()]
                for column in columns:
                    if isinstance(column.type, LargeBinary):
                        for row in found[name]:
                            row[column.name] = hashlib.sha256(row[column.name]).hexdigest()
    engine.dispose()
    return found


def artifacts(results: str) -> dict[str, str]:
    """Digest of every row-facts and sample file beside a store."""
    root = Path(results.removeprefix("sqlite:///")).parent / "artifacts"
    paths = [*root.glob("facts/*/*"), *root.glob("samples/*/*")]
    return {p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(paths)}


def differences(a: dict[str, list[Any]], b: dict[str, list[Any]]) -> list[str]:
    """The first differing rows of each table that differs; empty when both are the same."""
    found = []
    for name, mine in a.items():
        theirs = b[name]
        if mine != theirs:
            rows = [json.dumps([x, y], default=str) for x, y in zip(mine, theirs, strict=False) if x != y]
            found.append(f"{name}: {len(mine)} and {len(theirs)} rows; {rows[:2]}")
    return found


def rows_of(results: str, table: str, **key: Any) -> list[dict[str, Any]]:
    """Rows of a table by plain SQL, as a stranger would read them."""
    connection = sqlite3.connect(results.removeprefix("sqlite:///"))
    connection.row_factory = sqlite3.Row
    where = " AND ".join(f'"{name}" IS ?' for name in key) or "1"
    values = [
        v.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f") if isinstance(v, datetime) else v for v in key.values()
    ]
    found = [dict(row) for row in connection.execute(f'SELECT * FROM "{table}" WHERE {where}', values)]
    connection.close()
    return found


def known_labels(world: World, moment: datetime, model: str = "alpha") -> dict[str, int]:
    """Label per id as of `moment`, by the simplest means."""
    newest: dict[str, tuple[datetime, int]] = {}
    for path in world.labels(model).rglob("*.parquet"):
        for row in pq.read_table(path, partitioning=None).to_pylist():
            seen = newest.get(row["prediction_id"])
            if row["label_timestamp"] <= moment and (seen is None or row["label_timestamp"] >= seen[0]):
                newest[row["prediction_id"]] = (row["label_timestamp"], row["ground_truth"])
    return {key: truth for key, (_, truth) in newest.items()}


def naive_join(world: World, hour: int, moment: datetime, model: str = "alpha") -> list[tuple[Any, Any, Any]]:
    """(truth, prediction, score) of every row of an hour whose label was known at `moment`."""
    known = known_labels(world, moment, model)
    files = sorted(world.partition(hour, model).glob("*.parquet"))
    rows = [row for path in files for row in pq.read_table(path, partitioning=None).to_pylist()]
    return [(known[r["prediction_id"]], r["prediction"], r["score"]) for r in rows if r["prediction_id"] in known]


def cli(world: World, *arguments: str, results: str | None = None) -> Result:
    """Run the command in this process; whatever happens, it ends with an exit status and no traceback."""
    from hindcast.cli import main

    options = ["--config", str(world.models), "--results", results or world.results]
    found = CliRunner().invoke(main, [*arguments, *options])
    assert found.exception is None or isinstance(found.exception, SystemExit), repr(found.exception)
    assert "Traceback" not in found.output
    return found


def cli_json(world: World, *arguments: str, results: str | None = None, status: int = 0) -> Any:
    """What the command prints with --json; `status` is the exit status that it must have."""
    found = cli(world, *arguments, "--json", results=results)
    assert found.exit_code == status, found.output
    return json.loads(found.stdout, parse_constant=_not_json)


def _not_json(name: str) -> float:
    message = f"{name} is no JSON"
    raise ValueError(message)


def check_window(world: World, hour: int, *more: str, results: str | None = None, status: int = 0) -> Any:
    """Check one window with the command; returns its facts by check."""
    return cli_json(world, "check", "alpha", "--window", text(hour), *more, results=results, status=status)["checks"]


def run_checks(models: str, results: str, hour: int, checks: tuple[str, ...] = ()) -> None:
    """Check one window as a process of its own would: for tests that kill it, or run several at once."""
    from hindcast.checks import CHECKS, Run, execute
    from hindcast.window import Window

    run = Run.open("alpha", Window(at(hour)), config=models, results=results)
    for check in checks or CHECKS:
        execute(run, check)
