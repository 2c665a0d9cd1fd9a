"""Joint drift against published figures, scipy and scikit-learn, theory, and a small world from logs to rows."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score
from sqlalchemy import create_engine, text
from tests import worlds
from tests.worlds import at, rows_of

from hindcast import config, maintenance, tasks
from hindcast.checks.multivariate import (
    AUC,
    CORRELATION,
    ERROR,
    IMPORTANCE,
    LEAST_ROWS,
    Pair,
    compared,
    judge,
    quotas,
    reconstruction,
)
from hindcast.checks.reference import load_reference, reference_sample
from hindcast.config import Feature
from hindcast.drift.multivariate import (
    Rows,
    auc_with_variance,
    chunk_limits,
    correlation_change,
    domain_classifier,
    fit_pca,
    held_out_errors,
    history_limits,
    holm,
    row_norms,
    spearman,
)  # fmt: skip
from hindcast.errors import NotEnoughData, UsageError
from hindcast.profile.hashing import fingerprint64
from hindcast.profile.sampling import Sample
from hindcast.results.sql import Store

PARITY = Path(__file__).parent / "parity"
PUBLISHED = json.loads((PARITY / "nannyml_multivariate.json").read_text())
law = settings(deadline=None, max_examples=50)  # a busy machine proves nothing
WHOLE = (ERROR, AUC, CORRELATION)


def joint(seed: int, n: int = 1500, columns: int = 8, correlation: float = 0.8) -> Rows:
    """The first two columns are correlated normals; margins never change; gaps, and two categorical columns."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(n, columns))
    values[:, 1] = correlation * values[:, 0] + np.sqrt(1 - correlation**2) * values[:, 1]
    values[:, 2:3] = np.exp(values[:, 2:3])
    values[rng.random(values.shape) < 0.02] = np.nan
    return Rows(values, rng.integers(-1, 4, (n, 2)))


# --- parity: PCA reconstruction error ---


@pytest.fixture(scope="module")
def published() -> Rows:
    table = pq.read_table(PARITY / "nannyml_sample_drift.parquet")
    codes = [np.unique(table[name].to_pylist(), return_inverse=True)[1] for name in ("f3", "f4")]
    return Rows(np.column_stack([table["f1"], table["f2"]]), np.column_stack(codes))


@pytest.mark.parametrize("case", PUBLISHED["cases"], ids=lambda case: case["id"])
def test_reconstruction_errors_limits_and_alerts_are_nannymls(published: Rows, case: dict[str, Any]) -> None:
    reference = published.at(np.arange(PUBLISHED["reference_rows"]))
    pca = fit_pca(reference)

    def errors(rows: Rows) -> list[float]:
        if "chunks" in case:
            return [pca.error(chunk) for chunk in rows.chunks(case["chunks"])]
        size = case["chunk_rows"]
        return [pca.error(rows.at(np.arange(i, min(i + size, len(rows))))) for i in range(0, len(rows), size)]

    found = errors(published)
    assert [round(error, case["round"]) for error in found] == [round(e, case["round"]) for e in case["expected"]]
    assert found == pytest.approx(case["measured"], abs=1e-11)
    low, high = chunk_limits(errors(reference))
    assert (low, high) == pytest.approx((case["lower"], case["upper"]), abs=1e-11)
    assert [not low <= error <= high for error in found] == case["alerts"]


def test_gaps_are_filled_and_categories_encoded_as_scikit_learn_does() -> None:
    """NannyML's pipeline, from its parts; frequencies are those after filling, unseen categories have none."""
    from sklearn.decomposition import PCA
    from sklearn.impute import SimpleImputer
    from sklearn.preprocessing import StandardScaler

    then, now = joint(1, 400), joint(2, 300)
    now = Rows(now.numeric, np.where(now.codes == 3, 7, now.codes))
    gaps = [np.where(side.codes < 0, np.nan, side.codes) for side in (then, now)]
    mode = SimpleImputer(strategy="most_frequent").fit(gaps[0])
    mean = SimpleImputer().fit(then.numeric)
    filled = [mode.transform(side) for side in gaps]
    shares = [dict(zip(*np.unique(c, return_counts=True), strict=True)) for c in filled[0].T]
    encoded = [
        np.column_stack(
            [
                mean.transform(rows.numeric),
                *([known.get(code, 0) / len(then) for code in c] for known, c in zip(shares, side.T, strict=True)),
            ]
        )
        for rows, side in zip((then, now), filled, strict=True)
    ]
    scaler = StandardScaler().fit(encoded[0])
    peer = PCA(0.65).fit(scaler.transform(encoded[0]))
    scaled = scaler.transform(encoded[1])
    expected = np.linalg.norm(scaled - peer.inverse_transform(peer.transform(scaled)), axis=1)
    pca = fit_pca(then)
    assert pca.components.shape[0] == peer.n_components_
    assert row_norms(pca.residuals(now)) == pytest.approx(expected, abs=1e-10)
    own = scaler.transform(encoded[0])
    errors = np.linalg.norm(own - peer.inverse_transform(peer.transform(own)), axis=1)
    assert pca.sampling_error(100) == pytest.approx(errors.std(ddof=1) / 10)


# --- parity and theory: AUC, rank correlation ---


@law
@given(st.lists(st.integers(0, 9), min_size=2, max_size=40), st.lists(st.integers(0, 9), min_size=2, max_size=40))
def test_the_auc_is_scikit_learns_and_its_variance_is_of_the_placements(a: list[int], b: list[int]) -> None:
    negatives, positives = np.array(a, float), np.array(b, float)
    auc, variance = auc_with_variance(negatives, positives)
    assert auc == pytest.approx(roc_auc_score(np.repeat([0, 1], [len(a), len(b)]), a + b))
    wins = (positives[:, None] > negatives) + 0.5 * (positives[:, None] == negatives)
    plain = wins.mean(axis=1).var(ddof=1) / len(b) + wins.mean(axis=0).var(ddof=1) / len(a)
    assert variance == pytest.approx(max(plain, 0.25 / (len(a) * len(b))))
    assert auc_with_variance(positives, negatives) == pytest.approx((1 - auc, variance))


@pytest.mark.parametrize("gaps", [0.0, 0.3])
def test_rank_correlations_are_scipys(gaps: float) -> None:
    rng = np.random.default_rng(3)
    values = np.round(rng.normal(size=(200, 4)), 1)  # ties
    values[:, 3] += values[:, 0]
    values[rng.random(values.shape) < gaps] = np.nan
    r, n = spearman(values)
    ranks = np.column_stack([np.where(np.isnan(c), np.nan, stats.rankdata(c, nan_policy="omit")) for c in values.T])
    for i in range(4):
        for j in range(4):
            both = ~np.isnan(values[:, i]) & ~np.isnan(values[:, j])
            assert n[i, j] == both.sum()
            assert r[i, j] == pytest.approx(stats.pearsonr(ranks[both, i], ranks[both, j])[0])
    if not gaps:
        assert r == pytest.approx(stats.spearmanr(values).statistic)


@law
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_holms_correction_rejects_what_the_step_down_rejects(values: list[float]) -> None:
    corrected = holm(np.array(values))
    assert (corrected >= values).all()
    assert (corrected <= 1).all()
    for alpha in (0.001, 0.05, 0.5):
        rejected: set[int] = set()
        for step, i in enumerate(sorted(range(len(values)), key=lambda i: values[i])):
            if values[i] * (len(values) - step) > alpha:
                break
            rejected.add(i)
        assert set(np.flatnonzero(corrected <= alpha).tolist()) == rejected


def test_p_values_of_unchanged_correlations_are_uniform() -> None:
    """Of the one pair that there is: no correction."""
    p = [correlation_change(joint(s, 300, 2).numeric, joint(s + 999, 200, 2).numeric)[0].p_value for s in range(400)]
    assert stats.kstest(p, "uniform").pvalue > 0.01


# --- laws ---


@law
@given(st.integers(0, 2**32), st.floats(0.1, 10), st.floats(-5, 5))
def test_units_and_the_order_of_rows_and_columns_change_nothing(seed: int, factor: float, shift: float) -> None:
    then, now = joint(1, 120, 4), joint(2, 90, 4)
    rng = np.random.default_rng(seed)
    columns = rng.permutation(4)

    def turned(rows: Rows) -> Rows:
        order = rng.permutation(len(rows))
        return Rows(rows.numeric[order][:, columns] * factor + shift, rows.codes[order][:, ::-1])

    other_then, other_now = turned(then), turned(now)
    assert fit_pca(other_then).error(other_now) == pytest.approx(fit_pca(then).error(now))
    first, other = (
        {(frozenset((int(at[c.first]), int(at[c.second])))): c.p_value for c in found}
        for found, at in (
            (correlation_change(then.numeric, now.numeric), np.arange(4)),
            (correlation_change(other_then.numeric, other_now.numeric), columns),
        )
    )
    assert other == pytest.approx(first)


def test_a_classifier_gives_the_same_every_time_and_has_no_side() -> None:
    then, now = joint(1, 400), joint(2, 400, correlation=-0.8)
    first, again, swapped = domain_classifier(then, now), domain_classifier(then, now), domain_classifier(now, then)
    assert (first.auc, first.lower, first.importance.tolist()) == (again.auc, again.lower, again.importance.tolist())
    assert first.lower < swapped.auc < first.upper
    assert first.importance.sum() == pytest.approx(1)
    assert 0 <= first.lower < first.auc < first.upper <= 1


def test_nothing_is_changed_that_was_given() -> None:
    then, now = joint(1, 200), joint(2, 200)
    copies = [array.copy() for rows in (then, now) for array in (rows.numeric, rows.codes)]
    held_out_errors(then)
    fit_pca(then).error(now)
    domain_classifier(then, now)
    correlation_change(then.numeric, now.numeric)
    for array, copy in zip((then.numeric, then.codes, now.numeric, now.codes), copies, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_what_cannot_be_judged_is_said() -> None:
    none = np.empty((50, 0), np.int64)
    with pytest.raises(NotEnoughData, match="1 columns"):
        fit_pca(Rows(np.ones((50, 1)), none))
    with pytest.raises(NotEnoughData, match="no column varies"):
        fit_pca(Rows(np.ones((50, 2)), none))
    with pytest.raises(NotEnoughData, match="no values"):
        fit_pca(Rows(np.full((50, 2), np.nan), none))
    with pytest.raises(NotEnoughData, match="no rows"):
        fit_pca(joint(1)).error(joint(1).at(np.arange(0)))
    with pytest.raises(NotEnoughData, match="folds"):
        domain_classifier(joint(1, 9), joint(2))
    with pytest.raises(NotEnoughData, match="1 numeric column"):
        correlation_change(joint(1).numeric[:, :1], joint(2).numeric[:, :1])
    with pytest.raises(NotEnoughData, match="two chunks"):
        chunk_limits([1.0])


def test_two_rare_events_that_meet_once_are_no_correlation() -> None:
    then, now = np.zeros((500, 3)), np.zeros((500, 3))
    then[:3, 0] = then[3:6, 1] = now[:3, 0] = now[:3, 1] = 1
    then[:, 2], now[:, 2] = np.arange(500), np.arange(500)
    with pytest.raises(NotEnoughData):
        correlation_change(then, now)


# --- what they find, and what they leave alone ---


def verdicts(then: Rows, now: Rows) -> dict[str, dict[str, Any]]:
    """Rows about all features, as the check would store them."""
    features = {f"n{i}": Feature(type="numeric") for i in range(then.numeric.shape[1])}
    features |= {f"c{i}": Feature(type="categorical") for i in range(then.codes.shape[1])}
    rows = compared(features, table_of(then), table_of(now), {}, {})
    return {row["metric"]: row for row in rows if row["feature"] == "*"}


def table_of(rows: Rows) -> pa.Table:
    numeric = {f"n{i}": pa.array(c, mask=np.isnan(c)) for i, c in enumerate(rows.numeric.T)}
    codes = {f"c{i}": pa.array([None if v < 0 else f"v{v}" for v in c.tolist()]) for i, c in enumerate(rows.codes.T)}
    return pa.table({**numeric, **codes})


def test_a_correlation_that_flips_is_found_and_named_by_all_three_where_every_margin_stays() -> None:
    then, now = joint(1), joint(2, correlation=-0.8)
    for a, b in zip(then.numeric.T, now.numeric.T, strict=True):
        assert stats.ks_2samp(a[~np.isnan(a)], b[~np.isnan(b)]).pvalue > 0.01
    found = verdicts(then, now)
    assert {metric: row["drifted"] for metric, row in found.items()} == dict.fromkeys(WHOLE, True)
    assert found[CORRELATION]["value"] > 1.4
    assert "n0 with n1" in found[CORRELATION]["reason"]
    pca, trees = fit_pca(then), domain_classifier(then, now)
    residuals = [np.abs(pca.residuals(side)).mean(axis=0) for side in (then, now)]
    assert set(np.argsort(-np.abs(residuals[1] - residuals[0]))[:2]) == {0, 1}
    assert set(np.argsort(-trees.importance)[:2]) == {0, 1}


def test_without_drift_nothing_is_found_over_many_seeds() -> None:
    """PCA and correlations on 60 pairs of samples, few and many columns; the trees, which cost more, on 12."""
    for seed in range(60):
        columns = (5, 20, 40)[seed % 3]
        then, now = joint(seed, 600, columns), joint(seed + 10_000, 500, columns)
        pca = reconstruction(Pair([f"f{i}" for i in range(columns + 2)], then, now, {}))
        assert pca.low <= pca.value <= pca.high, seed
        worst = correlation_change(then.numeric, now.numeric)[0]
        assert worst.p_value >= 0.001, seed
        if seed < 12:
            found = domain_classifier(then, now)
            assert found.auc < 0.55, seed
            assert found.p_value >= 0.001, seed


def test_limits_from_the_rows_of_the_fit_would_be_exceeded_without_drift() -> None:
    """Why the check holds chunks out: with many unrelated features the plane bends to its own rows."""
    then, now = joint(1, 3000, 48), joint(2, 3000, 48)
    pca = fit_pca(then)
    assert pca.error(now) > chunk_limits([pca.error(chunk) for chunk in then.chunks(10)])[1]
    assert pca.error(now) < chunk_limits(held_out_errors(then))[1]


def test_history_widens_the_limits_and_one_incident_in_it_does_not() -> None:
    assert history_limits([1.0] * 6) is None
    usual = [0.60, 0.62, 0.61, 0.59, 0.60, 0.62, 0.60, 0.61]
    limits = history_limits(usual)
    assert limits is not None
    assert limits[0] < min(usual) < max(usual) < limits[1] < 0.7
    echo = history_limits([*usual, 0.99])
    assert echo is not None
    assert echo[1] < 0.7
    then, now = joint(1, 600), joint(2, 600, correlation=0.3)
    features = {f"n{i}": Feature(type="numeric") for i in range(8)}

    def auc(history: dict[str, list[float]]) -> dict[str, Any]:
        rows = compared(features, table_of(then), table_of(now), {}, history)
        return next(row for row in rows if row["metric"] == AUC)

    alone = auc({})
    assert alone["drifted"] is True
    lived = auc({AUC: [alone["value"] + step for step in (-0.02, -0.01, 0, 0, 0.01, 0.02, 0.03)]})
    assert lived["drifted"] is False
    assert lived["threshold"] > alone["value"] == lived["value"]


def test_columns_that_cannot_be_compared_have_a_row_that_says_so_and_stop_no_other() -> None:
    n = LEAST_ROWS
    rng = np.random.default_rng(0)
    good = {name: rng.normal(size=n) for name in ("a", "b")}
    then = pa.table({**good, "gone": good["a"], "null": good["a"], "same": np.ones(n), "text": good["a"],
                     "fresh": pa.nulls(n), "endless": good["a"], "kind": ["x", "y"] * (n // 2)})  # fmt: skip
    now = pa.table({**good, "null": pa.nulls(n), "same": np.ones(n), "text": ["x"] * n, "fresh": good["a"],
                    "endless": np.full(n, np.inf), "kind": ["x", None] * (n // 2)})  # fmt: skip
    features = {name: Feature(type="categorical" if name == "kind" else "numeric") for name in then.column_names}
    rows = compared(features, then, now, {}, {})
    said = {row["feature"]: row["status"] for row in rows if row["metric"] == ERROR}
    assert said == {
        "*": "ok", "a": "ok", "b": "ok", "kind": "ok", "gone": "missing_column", "null": "all_null", "same": "constant",
        "text": "type_changed", "fresh": "insufficient_data", "endless": "all_null",
    }  # fmt: skip
    assert all(row["value"] is not None or (row["reason"] and row["status"] != "ok") for row in rows)
    assert {row["status"] for row in rows if row["feature"] == "*"} == {"ok"}
    assert len({(row["feature"], row["metric"]) for row in rows}) == len(rows)
    one = compared({"a": features["a"]}, then, now, {}, {})
    assert {row["metric"]: row["status"] for row in one if row["feature"] == "*"} == {
        ERROR: "insufficient_data", AUC: "ok", CORRELATION: "insufficient_data",
    }  # fmt: skip
    few = compared(features, then, now.slice(0, LEAST_ROWS - 1), {}, {})
    assert [(row["feature"], row["status"]) for row in few] == [("*", "insufficient_data")] * 3


def test_features_have_no_unit_however_large_their_values_are() -> None:
    rng = np.random.default_rng(1)
    then, now = ({name: rng.normal(size=2 * LEAST_ROWS) for name in "ab"} for _ in range(2))
    now["b"] = now["a"] + 0.1 * now["b"]
    features = {name: Feature(type="numeric") for name in "ab"}
    found = []
    for unit in (1.0, 2.0**1000):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            rows = compared(features, *(pa.table({**side, "b": side["b"] * unit}) for side in (then, now)), {}, {})
        found.append({(row["feature"], row["metric"]): row["value"] for row in rows})
    assert found[0] == pytest.approx(found[1])


def test_category_names_are_the_same_whatever_type_a_file_has() -> None:
    n = LEAST_ROWS
    numbers, texts = pa.array([1, 2] * (n // 2)), pa.array(["1", "2"] * (n // 2))
    noise = np.arange(n) * 7919 % n
    features = {"a": Feature(type="categorical"), "b": Feature(type="numeric")}
    rows = compared(features, pa.table({"a": numbers, "b": noise}), pa.table({"a": texts, "b": noise}), {}, {})
    assert next(row for row in rows if row["metric"] == AUC)["value"] < 0.6


@law
@given(st.lists(st.integers(1, 5000), min_size=1, max_size=30), st.integers(1, 4000))
def test_a_sample_of_hours_has_its_size_and_each_hour_its_share(rows: list[int], size: int) -> None:
    found = quotas(rows, size)
    assert sum(found) == min(size, sum(rows))
    share = min(size / sum(rows), 1)
    assert all(n <= hour and abs(n - hour * share) < 1 for n, hour in zip(found, rows, strict=True))


# --- a small world, from logs to rows ---


def coupled(table: pa.Table) -> pa.Table:
    """The same distances, given to other rows: the larger the amount, the larger the distance."""
    amount, distance = (np.asarray(table[f"feature_{name}"]) for name in ("amount", "distance"))
    noise = np.random.default_rng(5).normal(0, 5, amount.size)
    given_out = np.empty(amount.size)
    given_out[np.argsort(amount + noise)] = np.sort(distance)
    return table.set_column(table.column_names.index("feature_distance"), "feature_distance", pa.array(given_out))


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> worlds.World:
    """Two days that were checked, the second with coupled features."""
    world = worlds.write(tmp_path_factory.mktemp("joint") / "w", labels="none")
    worlds.model_file(world, labels=False, explain={"sample_rows": 600})
    worlds.write_hours(world, range(24), rows=50, labels="none")
    worlds.write_hours(world, range(24, 48), rows=50, labels="none", fault=coupled)
    found = worlds.cli(world, "replay", "alpha", "--from", worlds.text(0), "--to", worlds.text(48), "--jobs", "1",
                       "--only", "pull,quality,drift")  # fmt: skip
    assert found.exit_code == 0, found.output
    return world


@pytest.fixture
def world(replayed: worlds.World, tmp_path: Path) -> worlds.World:
    return worlds.copied(replayed, tmp_path / "w")


def judged(world: worlds.World, *more: str) -> dict[tuple[str, str], dict[str, Any]]:
    found = worlds.cli_json(world, "multivariate", "alpha", *more)["found"]
    return {(row["baseline"], row["metric"]): row for row in found}


def stored(world: worlds.World, *, hourly: bool) -> list[dict[str, Any]]:
    return [row for row in rows_of(world.results, "drift") if (row["scale_hours"] == 1) == hourly]


def test_a_joint_shift_is_found_on_its_day_where_no_single_feature_alarms(world: worlds.World) -> None:
    before = stored(world, hourly=True)
    assert rows_of(world.results, "findings") == []
    quiet = judged(world, "--day", "2024-03-04")
    assert not any(row["drifted"] for row in quiet.values())
    assert {baseline for baseline, _ in quiet} == {"reference"}
    found = judged(world, "--day", "2024-03-05")
    assert set(found) == {(baseline, metric) for baseline in ("reference", "seasonal") for metric in WHOLE}
    for baseline in ("reference", "seasonal"):
        assert found[baseline, AUC]["drifted"]
        assert found[baseline, CORRELATION]["drifted"]
        assert "amount with distance" in found[baseline, CORRELATION]["reason"]
    assert stored(world, hourly=True) == before
    assert rows_of(world.results, "findings") == rows_of(world.results, "alerts") == []

    rows = rows_of(world.results, "drift", scale_hours=24, window_start=at(24), baseline="reference")
    assert {row["n_current"] for row in rows} == {row["n_baseline"] for row in rows} == {600}
    shares = {row["feature"]: row["value"] for row in rows if row["metric"] == IMPORTANCE}
    assert set(sorted(shares, key=lambda name: -shares[name])[:2]) == {"amount", "distance"}
    assert sum(shares.values()) == pytest.approx(1)
    assert {row["feature"] for row in rows if row["metric"] == CORRELATION and row["drifted"]} == {
        "*", "amount", "distance",
    }  # fmt: skip


def test_a_day_judged_again_and_its_hours_checked_again_have_the_same_rows(world: worlds.World) -> None:
    judged(world, "--day", "2024-03-05")
    first = worlds.snapshot(world.results)
    judged(world, "--day", "2024-03-05")
    assert worlds.differences(first, worlds.snapshot(world.results)) == []
    worlds.run_checks(str(world.models), world.results, 24, ("pull", "drift"))  # the hour that the day starts with
    after = worlds.snapshot(world.results)
    assert [row for row in after["drift"] if row["scale_hours"] == 24] == [
        row for row in first["drift"] if row["scale_hours"] == 24
    ]


def test_a_write_that_breaks_half_way_leaves_the_rows_of_before(world: worlds.World) -> None:
    judged(world, "--day", "2024-03-05")
    expected = worlds.snapshot(world.results)
    engine = create_engine(world.results)
    with engine.begin() as connection:
        connection.execute(
            text(
                "CREATE TRIGGER broken BEFORE INSERT ON drift WHEN NEW.baseline = 'seasonal'"
                " BEGIN SELECT RAISE(ABORT, 'disk on fire'); END"
            )
        )
    assert worlds.cli(world, "multivariate", "alpha", "--day", "2024-03-05").exit_code == 4
    assert worlds.differences(expected, worlds.snapshot(world.results)) == []
    with engine.begin() as connection:
        connection.execute(text("DROP TRIGGER broken"))
    engine.dispose()
    judged(world, "--day", "2024-03-05")
    assert worlds.differences(expected, worlds.snapshot(world.results)) == []


def test_a_process_killed_before_it_wrote_leaves_nothing_and_another_does_its_work(world: worlds.World) -> None:
    """It waits for the lock that is held here, so that it is killed with its rows at hand."""
    clean = worlds.copied(world, world.folder.parent / "clean")
    judged(clean, "--day", "2024-03-05")
    before = worlds.snapshot(world.results)
    command = [sys.executable, "-m", "hindcast.cli", "multivariate", "alpha", "--day", "2024-03-05",
               "--config", str(world.models), "--results", world.results]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": "include"}
    holder = create_engine(world.results, isolation_level="AUTOCOMMIT")
    with holder.connect() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        process = subprocess.Popen(command, env=environment, cwd=Path(__file__).parents[1])
        # LightGBM is imported once the samples were read, so the process is well under way.
        maps = Path(f"/proc/{process.pid}/maps")
        while process.poll() is None and maps.exists() and "lightgbm" not in maps.read_text():
            time.sleep(0.01)
        assert process.poll() is None
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        connection.exec_driver_sql("ROLLBACK")
    holder.dispose()
    assert worlds.differences(before, worlds.snapshot(world.results)) == []
    judged(world, "--day", "2024-03-05")
    assert worlds.differences(worlds.snapshot(clean.results), worlds.snapshot(world.results)) == []


def test_hours_of_an_incident_are_judged_as_a_day_is(world: worlds.World) -> None:
    found = judged(world, "--from", worlds.text(30), "--to", worlds.text(40))
    assert found["seasonal", CORRELATION]["drifted"]
    rows = rows_of(world.results, "drift", scale_hours=10)
    assert {row["window_start"] for row in rows} == {f"{at(30):%Y-%m-%d %H:%M:%S.%f}"}
    said = worlds.cli_json(world, "multivariate", "alpha", "--from", worlds.text(30), "--to", worlds.text(31))
    assert (said["status"], said["found"]) == ("insufficient_data", [])


@pytest.mark.parametrize(
    "arguments",
    [(), ("--day", "2024-03-05", "--from", "2024-03-05"), ("--from", "2024-03-05"), ("--to", "2024-03-05"),
     ("--day", "soon"), ("--from", "2024-03-05T10", "--to", "2024-03-05T10")],
)  # fmt: skip
def test_a_period_that_makes_no_sense_is_refused(replayed: worlds.World, arguments: tuple[str, ...]) -> None:
    assert worlds.cli(replayed, "multivariate", "alpha", *arguments).exit_code == 2


def test_a_day_without_rows_and_samples_that_are_gone_are_said(world: worlds.World) -> None:
    empty = judged(world, "--day", "2024-03-20")
    assert {row["status"] for row in empty.values()} == {"insufficient_data"}
    folder = Store(world.results).artifacts / "samples" / "alpha"
    for path in sorted(folder.glob("2024-03-05T*"))[:3]:
        path.unlink()
    found = judged(world, "--day", "2024-03-05")
    assert "3 of 24 hours have no sample any more" in found["reference", AUC]["reason"]
    assert found["reference", AUC]["drifted"]


def test_the_tasks_of_the_dags_do_what_the_command_does(world: worlds.World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HINDCAST_RESULTS", world.results)
    monkeypatch.setenv("HINDCAST_CONFIG", str(world.models))

    class Run:
        """What Airflow gives."""

        run_type, logical_date, partition_date, data_interval_start, data_interval_end = (
            "manual",
            None,
            None,
            None,
            None,
        )
        run_after = datetime(2024, 3, 7, tzinfo=UTC)

    judged(world, "--day", "2024-03-05")
    expected = stored(world, hourly=False)
    facts = tasks.run_daily("multivariate", str(world.models / "alpha.yaml"), Run(), {"day": "2024-03-05"})
    assert stored(world, hourly=False) == expected
    assert facts["drifted"]
    json.dumps(facts)  # XCom
    period = {"model": "alpha", "from": "2024-03-05T00", "to": "2024-03-06T00"}
    again = tasks.judge(str(world.folder), Run(), period)
    assert stored(world, hourly=False) == expected
    assert again["drifted"] == facts["drifted"]


def test_the_sample_of_the_reference_is_made_with_it_and_again_where_it_is_gone(tmp_path: Path) -> None:
    world = worlds.write(tmp_path / "w", labels="none")
    worlds.model_file(world, labels=False, explain={"sample_rows": 500})
    model, store = config.find("alpha", world.models), Store(world.results)
    reference = load_reference(model, store, None)
    (path,) = store.artifacts.glob("references/alpha/*.parquet")
    first = path.read_bytes()
    found = reference_sample(model, store, None, reference)
    path.unlink()
    assert reference_sample(model, store, None, reference).equals(found)
    assert path.read_bytes() == first
    # A reference without ids: the rows whose numbers have the smallest hashes, read here by the simplest means.
    table = worlds.reference()
    keys = fingerprint64(pa.array(np.arange(table.num_rows))) ^ Sample(0).seed
    rows = np.argsort(keys)[:500]
    assert found["amount"].to_pylist() == table["feature_amount"].take(rows).to_pylist()
    assert set(found.column_names) == set(reference.features)


def test_retention_leaves_the_samples_that_the_next_day_needs(world: worlds.World) -> None:
    model, store = config.find("alpha", world.models), Store(world.results)
    day = at(24 + 6 * 24)  # the trailing days of this one begin with the second day of the world
    maintenance.retention(store, model, day)
    found = judge(store, model, day, day + timedelta(days=1))
    assert {row["baseline"] for row in found["found"]} == {"reference", "seasonal"}
    with pytest.raises(UsageError):
        judge(store, model, day, day)
