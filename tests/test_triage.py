"""Triage folds only what an hour can still touch; that must give what folding everything gives."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pytest

from hindcast import alerts, config
from hindcast.checks.run import Run, commit, compute
from hindcast.results import tables
from hindcast.results.sql import Row, Store
from hindcast.window import HOUR, Window

if TYPE_CHECKING:
    from pathlib import Path

START = datetime(2024, 3, 4, tzinfo=UTC)
HOURS = 24 * 12
MODEL = """
model: alpha
task: binary
logs: {uri: .}
reference: {uri: .}
"""


def found(rng: np.random.Generator, hour: int) -> list[Row]:
    """Bursts of findings of two features at all scales, with pauses of hours and of days."""
    rows = []
    for subject, period in (("a", 37), ("b", 61)):
        for scale in (1, 6, 24):
            if hour % period < 2 + scale and rng.random() < 0.4:
                row = {"model_name": "alpha", "window_start": START + hour * HOUR, "check": "drift", "kind": "drift"}
                row |= {"subject": subject, "segment": "*", "metric": "ks_statistic", "scale_hours": scale}
                row |= {"label_age_hours": 0, "value": 0.5, "threshold": 0.1, "severity": "warning", "reason": "far"}
                rows.append({**row, "detected_at": START + (hour + 1) * HOUR, "baseline": None, "change_percent": None})
    return rows


@pytest.mark.parametrize("seed", range(3))
def test_hour_by_hour_gives_the_alerts_of_one_fold_over_everything(seed: int, tmp_path: Path) -> None:
    path = tmp_path / "alpha.yaml"
    path.write_text(MODEL)
    model, store = config.load(path), Store(f"sqlite:///{tmp_path}/results.db")
    rng = np.random.default_rng(seed)
    every: list[Row] = []
    for hour in range(HOURS):
        window = Window(START + hour * HOUR)
        key = {"model_name": "alpha", "window_start": window.start}
        seen = {"window_end": window.end, "as_of": window.end, "rows": 9, "bytes": 9, "status": "ok"}
        rows = found(rng, hour)
        every += rows
        with store.transaction() as connection:
            store.replace(connection, tables.windows, [{**key, **seen, "details": json.dumps({})}], **key)
            judged = {**key, "check": "drift", "status": "ok", "as_of": window.end}
            store.replace(connection, tables.checks, [judged], **key, check="drift")
            store.replace(connection, tables.findings, rows, **key)
        run = Run(model, window, window.end + timedelta(minutes=10), store)
        commit(run, compute(run, "triage"), 0.0)
    windows = [START + hour * HOUR for hour in range(HOURS)]
    expected = alerts.fold(every, {("drift", 0): windows}, [])
    stored = sorted(store.rows(tables.alerts), key=lambda a: (a["opened_at"], a["kind"], a["subject"]))
    assert len(expected) > 5
    names = list(expected[0])
    assert [{name: row[name] for name in names} for row in stored] == expected
