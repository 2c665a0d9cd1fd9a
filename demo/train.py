"""Train the demo's model again: ``python -m demo.train`` rewrites `demo/flights_delay.txt`, byte for byte the same.

The file is committed so that its sha256, which the model file pins, does not depend on the machine: LightGBM's sums may
differ in their last digits between processor families.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from demo.flights import (
    CATEGORICAL,
    MODEL,
    SERVED_FROM,
    THRESHOLD,
    features,
    load,
    outcomes,
    score,
    served_rows,
    training_rows,
)

if TYPE_CHECKING:
    import lightgbm
    import pandas as pd

PARAMETERS = {
    "objective": "binary",
    "num_leaves": 8,
    "learning_rate": 0.1,
    "seed": 2013,
    "deterministic": True,
    "force_row_wise": True,
    "num_threads": 1,
    "verbosity": -1,
}
TREES = 80


def fit(frame: pd.DataFrame, late: pd.Series) -> lightgbm.Booster:
    """Train on the columns `FEATURES` and the labels 0 and 1; the same rows give the same booster.

    The categories go in as pandas categoricals, so that the booster keeps them and scores raw values later.
    """
    import lightgbm

    data = lightgbm.Dataset(frame.astype(dict.fromkeys(CATEGORICAL, "category")), late)
    return lightgbm.train(PARAMETERS, data, TREES)


def unseen_scores(
    frame: pd.DataFrame, late: pd.Series, week: pd.Series
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Score every row with a model that was trained on other weeks (four folds of every fourth week)."""
    scores = np.empty(len(frame))
    for fold in range(4):
        held = (week % 4 == fold).to_numpy()
        scores[held] = score(fit(frame[~held], late[~held]), frame[held])
    return scores


def main() -> None:
    """Train, write the model, and print how good it is."""
    from sklearn.metrics import roc_auc_score

    tables = load()
    known, frame = outcomes(tables), features(tables)
    trained, late = training_rows(known), known["ground_truth"]
    booster = fit(frame[trained], late[trained])
    booster.save_model(MODEL)
    served = served_rows(known) & late.notna()
    for name, rows in {"training": trained, "11 March to 28 April": served}.items():
        scores = score(booster, frame[rows])
        accuracy = np.mean((scores >= THRESHOLD) == late[rows])
        print(
            f"{name}: {rows.sum():,} flights, {late[rows].mean():.1%} late, "
            f"AUC {roc_auc_score(late[rows], scores):.4f}, accuracy {accuracy:.4f}"
        )
    week = (known["timestamp"][trained] - SERVED_FROM).dt.days // 7
    scores = unseen_scores(frame[trained], late[trained], week)
    cuts = {cut: np.mean((scores >= cut) == late[trained]) for cut in np.arange(0.3, 0.7, 0.05).round(2).tolist()}
    print("accuracy on training weeks held out, by threshold:", {cut: round(float(a), 4) for cut, a in cuts.items()})
    print(f"sha256 of {MODEL.name}: {hashlib.sha256(MODEL.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main()
