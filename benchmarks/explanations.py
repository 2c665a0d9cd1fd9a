"""SHAP values of a sample: Hindcast's explainers beside `shap.TreeExplainer` alone, and a permutation explainer.

``python benchmarks/explanations.py --scale 1``. Thirty features; both sides take turns in this one process, on one
thread, each time with a model fresh from its bytes: nothing that was made for an earlier call is reused. What differs
most between the two is shown too.
"""

from __future__ import annotations

import pickle
import statistics
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

import measure
from hindcast.explainers import shap_values
from measure import Table

if TYPE_CHECKING:
    from collections.abc import Callable

FEATURES, TRAINING = 30, 20_000
NAMES = [f"f{i:02d}" for i in range(FEATURES)]


def sample(rows: int, seed: int) -> tuple[pa.Table, np.ndarray]:
    """Correlated features with some missing, and a binary target with interactions."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, FEATURES)) + rng.normal(size=(rows, 1)) / 2
    logit = x[:, 0] + x[:, 1] * x[:, 2] + np.sin(3 * x[:, 3]) + x[:, 4:12].sum(axis=1) / 4
    y = (rng.random(rows) < 1 / (1 + np.exp(-logit))).astype(int)
    return pa.table(list(x.T), names=NAMES), y


def models(scale: float) -> dict[str, tuple[Any, int]]:
    """Variant -> a fitted model, and how many rows to explain: seconds of work each."""
    import lightgbm
    from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier

    trees = max(5, round(500 * scale))
    made: dict[str, tuple[Any, int]] = {
        f"LightGBM, {trees} trees of 63 leaves": (
            lightgbm.LGBMClassifier(n_estimators=trees, num_leaves=63, verbose=-1, random_state=0, n_jobs=1),
            max(600, round(1000 * scale)),
        ),
        f"HistGradientBoosting, {trees} trees of 31 leaves": (
            HistGradientBoostingClassifier(max_iter=trees, early_stopping=False, random_state=0),
            1000,
        ),
        f"random forest, {max(5, trees // 5)} trees of depth 12": (
            RandomForestClassifier(n_estimators=max(5, trees // 5), max_depth=12, random_state=0),
            50,
        ),
    }
    try:
        import xgboost
    except ImportError:
        pass  # the table says which models were explained
    else:
        made[f"XGBoost, {trees} trees of depth 6"] = (xgboost.XGBClassifier(n_estimators=trees, nthread=1), 1000)
    table, target = sample(round(TRAINING * max(scale, 0.05)), 1)
    frame = table.to_pandas()
    return {name: (model.fit(frame, target), rows) for name, (model, rows) in made.items()}


def seconds(work: Callable[[], Any]) -> tuple[float, np.ndarray]:
    """CPU seconds of the process, and what came out."""
    start = time.process_time()
    values = np.asarray(work())
    return time.process_time() - start, values


def compare(model: Any, rows: int, repeats: int) -> dict[str, float]:
    """Rows a second of both, in turns, and the largest difference of a value."""
    import shap

    table, _ = sample(rows, 2)
    frame = table.to_pandas()
    stored = pickle.dumps(model)
    ours, theirs = [], []
    for turn in range(repeats + 1):
        fresh, other = pickle.loads(stored), pickle.loads(stored)  # noqa: S301 - our own bytes
        mine, values = seconds(lambda fresh=fresh: shap_values(fresh, table, features=NAMES, categorical=[]))
        alone, expected = seconds(lambda other=other: shap.TreeExplainer(other).shap_values(frame))
        if turn:  # the first call of each pays for what it imports and compiles
            ours.append(mine)
            theirs.append(alone)
    expected = expected[..., 1] if expected.ndim == 3 else expected
    mine, alone = statistics.median(ours), statistics.median(theirs)
    return {
        "rows": rows,
        "Hindcast, rows/CPU s": rows / mine,
        "shap.TreeExplainer, rows/CPU s": rows / alone,
        "CPU ratio": mine / alone,
        "largest difference": float(np.abs(values - expected).max()),
    }


def permutation(model: Any, rows: int) -> dict[str, float]:
    """A few rows by permutations, for models that no exact explainer knows."""
    table, _ = sample(rows, 2)
    background, _ = sample(200, 3)
    took, _ = seconds(
        lambda: shap_values(
            model, table, features=NAMES, categorical=[], method="permutation", background=background, seed=0
        )
    )
    return {"rows": rows, "Hindcast, rows/CPU s": rows / took}


def main() -> None:
    parser = measure.arguments(__doc__, repeats=3)
    parser.add_argument("--scale", type=float, default=1.0, help="1: 500 trees and 20,000 training rows")
    given = parser.parse_args()
    table = Table(
        f"Explanations: SHAP values of {FEATURES} features",
        f"CPU of this process, both in turns, medians of {given.repeats} after a first call that is not counted; every "
        "call has a fresh model and makes its explainer; permutation: one call on the LightGBM model.",
    )
    fitted = models(given.scale)
    for name, (model, rows) in fitted.items():
        table.rows[name] = compare(model, rows, given.repeats)
    table.rows["permutation of LightGBM"] = permutation(next(iter(fitted.values()))[0], max(1, round(3 * given.scale)))
    measure.report([table], as_json=given.json, packages=["shap", "lightgbm", "scikit-learn"])


if __name__ == "__main__":
    main()
