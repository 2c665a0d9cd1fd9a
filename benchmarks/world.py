"""A monitored model for the benchmarks: hours of logs with late labels, a reference, a LightGBM model, a model file.

Fifty features as in `data.py`. Labels come up to an hour after the prediction. The model that SHAP explains has 100
trees of 31 leaves and reads all fifty. ``python benchmarks/world.py FOLDER --hours 24 --rows 2000``.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

sys.path.insert(0, str(Path(__file__).parent))
from data import START as BLOCK_START
from data import block

NAME = "wide"
FIRST = datetime(2026, 1, 5, tzinfo=UTC)  # a Monday
TREES, LEAVES = 100, 31
TRAINING_ROWS = 20_000
US = timedelta(microseconds=1)


def hour_of(index: int) -> datetime:
    """Start of an hour, counted from the first."""
    return FIRST + timedelta(hours=index)


def _partition(root: Path, moment: datetime) -> Path:
    folder = root / f"date={moment:%Y-%m-%d}" / f"hour={moment:%H}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def hour_rows(index: int, rows: int, seed: int) -> pa.Table:
    """One hour of predictions."""
    table = block(index, rows, seed)
    shift = (hour_of(index).replace(tzinfo=None) - BLOCK_START.astype(datetime)) // US
    moments = pc.add(table["timestamp"].cast(pa.int64()), shift).cast(pa.timestamp("us", "UTC"))
    return table.set_column(table.schema.get_field_index("timestamp"), "timestamp", moments)


def labels_of(table: pa.Table, rng: np.random.Generator) -> pa.Table:
    """Whether each prediction's event came, as often as its score says; known up to an hour later."""
    score = np.asarray(table["score"])
    known = table["timestamp"].cast(pa.int64()).to_numpy() + rng.integers(0, 3_600_000_000, score.size)
    return pa.table(
        {
            "prediction_id": table["prediction_id"],
            "ground_truth": pa.array((rng.random(score.size) < score).astype(np.int64)),
            "label_timestamp": pa.array(known).cast(pa.timestamp("us", "UTC")),
        }
    )


def write_hours(folder: Path, hours: range, rows: int, seed: int = 7) -> None:
    """Log some hours, one file each, and their labels, filed under the hour in which they came."""
    for index in hours:
        table, rng = hour_rows(index, rows, seed), np.random.default_rng([seed, index, 1])
        pq.write_table(table, _partition(folder / "logs", hour_of(index)) / "part-0.parquet", compression="zstd")
        labels = labels_of(table, rng)
        came = pc.greater_equal(labels["label_timestamp"], pa.scalar(hour_of(index + 1), pa.timestamp("us", "UTC")))
        for late, part in ((0, labels.filter(pc.invert(came))), (1, labels.filter(came))):
            path = _partition(folder / "labels", hour_of(index + late)) / f"of-{index:05d}.parquet"
            pq.write_table(part, path, compression="zstd")


def _booster(reference: pa.Table, path: Path, seed: int) -> dict[str, str]:
    """Train on the head of the reference and keep the model; returns the keys of ``explain.model``."""
    import lightgbm

    names = [name for name in reference.column_names if name.startswith("feature_")]
    frame = reference.select(names).slice(0, TRAINING_ROWS).to_pandas()
    frame.columns = [name.removeprefix("feature_") for name in names]
    texts = [name for name in frame if name.startswith("t")]
    frame[texts] = frame[texts].astype("category")
    numbers = frame.drop(columns=texts).astype(float)
    ranks = numbers.rank(pct=True).fillna(0.5) - 0.5
    draw = np.random.default_rng(seed)
    signal = ranks.to_numpy() @ draw.normal(size=ranks.shape[1]) + frame["t00"].cat.codes.to_numpy() / 3
    target = (signal + draw.normal(size=len(frame)) > np.median(signal)).astype(int)
    frame[numbers.columns] = numbers
    options = {"objective": "binary", "num_leaves": LEAVES, "verbose": -1, "num_threads": 1, "seed": seed}
    lightgbm.train(options, lightgbm.Dataset(frame, target), TREES).save_model(path)
    return {"uri": f"../{path.name}", "format": "lightgbm", "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def _features(reference: Path) -> dict[str, Any]:
    """What ``hindcast init`` writes under ``features``."""
    from hindcast.checks.reference import fit
    from hindcast.config import ModelFile
    from hindcast.infer import infer_features
    from hindcast.sources.files import parquet_files

    content = {"model": NAME, "task": "binary", "logs": {"uri": "."}, "reference": {"uri": str(reference)}}
    profile = fit(ModelFile.model_validate(content), parquet_files(str(reference)))
    return {k: v.model_dump(mode="json", exclude_defaults=True) for k, v in infer_features(profile).items()}


def write(folder: Path, hours: int, rows: int = 2000, *, reference_rows: int = 100_000, seed: int = 7) -> Path:
    """Make the whole world; returns the folder of its model file, for ``--config``."""
    folder.mkdir(parents=True, exist_ok=True)
    reference = block(1_000_000, reference_rows, seed)
    pq.write_table(reference, folder / "reference.parquet", compression="zstd", row_group_size=50_000)
    content = {
        "model": NAME,
        "task": "binary",
        "positive_class": 1,
        "logs": {"uri": "../logs"},
        "labels": {"uri": "../labels"},
        "reference": {"uri": "../reference.parquet"},
        "features": _features(folder / "reference.parquet"),
        "segments": ["t00", "t01"],
        "explain": {"model": _booster(reference, folder / "model.txt", seed)},
    }
    models = folder / "models"
    models.mkdir(exist_ok=True)
    (models / f"{NAME}.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    write_hours(folder, range(hours), rows, seed)
    return models


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--hours", type=int, default=24)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=7)
    given = parser.parse_args()
    print(f"model file in {write(given.folder, given.hours, given.rows, seed=given.seed)}")


if __name__ == "__main__":
    main()
