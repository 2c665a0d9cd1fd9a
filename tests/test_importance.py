import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from hindcast.errors import NotEnoughData, UsageError
from hindcast.importance import Importance, global_importance

VALUES = arrays(
    np.float64,
    array_shapes(min_dims=2, max_dims=3, min_side=2, max_side=6),
    elements=st.floats(-1e6, 1e6, allow_subnormal=False),
)


def names(values: np.ndarray) -> list[str]:
    return [f"f{column}" for column in range(values.shape[1])]


@given(VALUES, st.randoms(use_true_random=False))
def test_order_of_rows_changes_nothing_bit_for_bit(values, random):
    rows = list(range(len(values)))
    random.shuffle(rows)
    assert global_importance(values[rows], names(values)) == global_importance(values, names(values))


@given(VALUES, st.randoms(use_true_random=False))
def test_order_of_columns_changes_nothing(values, random):
    columns = list(range(values.shape[1]))
    random.shuffle(columns)
    shuffled = [names(values)[column] for column in columns]
    assert global_importance(values[:, columns], shuffled) == global_importance(values, names(values))


@given(VALUES)
def test_ranks_count_from_one_down_the_importances_and_ties_follow_names(values):
    rows = global_importance(values, names(values))
    assert [row.rank for row in rows] == list(range(1, values.shape[1] + 1))
    assert rows == sorted(rows, key=lambda row: (-row.importance, row.feature))
    assert all(0 <= row.lower <= row.importance <= row.upper for row in rows)
    assert {row.n for row in rows} == {len(values)}


@given(VALUES)
def test_sign_does_not_matter(values):
    assert global_importance(-values, names(values)) == global_importance(values, names(values))


def test_ties_stand_in_order_of_names():
    rows = global_importance([[1.0, -1.0, 1.0], [2.0, 2.0, -2.0]], ["c", "a", "b"])
    assert [(row.feature, row.rank) for row in rows] == [("a", 1), ("b", 2), ("c", 3)]


def test_interval_equals_the_one_of_scipy():
    from scipy import stats

    values = np.random.default_rng(1).normal(size=(37, 3))
    for row in global_importance(values, ["x", "y", "z"]):
        sizes = np.abs(values[:, "xyz".index(row.feature)])
        expected = stats.ttest_1samp(sizes, 0.0).confidence_interval(0.95)
        assert row.importance == pytest.approx(sizes.mean(), rel=1e-12)
        assert (row.lower, row.upper) == pytest.approx((max(expected.low, 0.0), expected.high), rel=1e-12)


def test_several_classes_count_as_their_mean():
    values = np.random.default_rng(2).normal(size=(50, 2, 3))
    by_class = [global_importance(values[:, :, one], ["x", "y"]) for one in range(3)]
    for row in global_importance(values, ["x", "y"]):
        parts = [part.importance for rows in by_class for part in rows if part.feature == row.feature]
        assert row.importance == pytest.approx(np.mean(parts), rel=1e-12)


def test_a_class_axis_of_length_one_changes_nothing():
    values = np.random.default_rng(3).normal(size=(20, 4))
    assert global_importance(values[:, :, None], names(values)) == global_importance(values, names(values))


def test_a_sample_that_is_the_whole_window_leaves_no_doubt_about_it():
    values = np.random.default_rng(4).normal(size=(200, 2))
    assert all(
        row.lower == row.importance == row.upper for row in global_importance(values, ["x", "y"], population=200)
    )


def test_an_endless_population_is_the_default():
    values = np.random.default_rng(5).normal(size=(200, 2))
    endless = global_importance(values, ["x", "y"], population=10**15)
    for one, other in zip(endless, global_importance(values, ["x", "y"]), strict=True):
        assert (one.lower, one.upper) == pytest.approx((other.lower, other.upper), rel=1e-9)


@pytest.mark.parametrize(("n", "population"), [(300, None), (300, 400)])
def test_interval_covers_the_window_in_95_of_100_samples(n, population):
    rng = np.random.default_rng(6)
    if population is None:
        draws, truth = rng.exponential(size=(n, 2000)), np.ones(2000)
    else:  # every column is a window of its own, of which the first n rows were drawn
        windows = rng.exponential(size=(population, 2000))
        draws, truth = windows[:n], windows.mean(axis=0)
    rows = global_importance(draws, [str(column) for column in range(2000)], population=population)
    covered = np.mean([row.lower <= truth[int(row.feature)] <= row.upper for row in rows])
    assert 0.93 <= covered <= 0.97  # 0.95 with a standard error of 0.005, less a little for the skew


def test_a_group_counts_what_its_columns_add_up_to():
    values = np.array([[1.0, 2.0, -2.0], [3.0, -1.0, 2.0], [1.0, 1.0, 1.0]])
    rows = global_importance(values, ["hour", "jfk", "lga"], groups={"origin": ["jfk", "lga"]})
    assert [(row.feature, row.importance) for row in rows] == [("hour", 5 / 3), ("origin", 1.0)]
    assert rows == global_importance(np.c_[values[:, 0], values[:, 1] + values[:, 2]], ["hour", "origin"])


def test_groups_work_for_several_classes_and_may_keep_a_members_name():
    values = np.random.default_rng(7).normal(size=(9, 3, 4))
    rows = global_importance(values, ["a", "b", "c"], groups={"a": ["a", "c"]})
    together = np.stack([values[:, 1], values[:, 0] + values[:, 2]], axis=1)
    assert rows == global_importance(together, ["b", "a"])


@pytest.mark.parametrize("rows", [0, 1])
def test_fewer_than_two_rows_are_not_enough(rows):
    with pytest.raises(NotEnoughData, match=f"at least 2 explained rows; got {rows}"):
        global_importance(np.ones((rows, 2)), ["x", "y"], population=1)


@pytest.mark.parametrize(
    ("values", "features", "options", "says"),
    [
        (np.ones((3, 2)), ["x"], {}, "1 features"),
        (np.ones(3), ["x"], {}, r"got \(3,\)"),
        (np.ones((3, 1, 0)), ["x"], {}, "third axis"),
        (np.ones((3, 2)), ["x", "x"], {}, r"repeated: \['x'\]"),
        (np.ones((3, 1)), ["x"], {"population": 2}, "at least the sample's 3; got 2"),
        (np.array([[1.0, np.nan], [1.0, 1.0]]), ["x", "y"], {}, r"\['y'\]"),
        (np.array([[1.0, np.inf], [1.0, 1.0]]), ["x", "y"], {}, r"\['y'\]"),
        (np.ones((3, 2)), ["x", "y"], {"groups": {"g": ["z"]}}, r"unknown \['z'\]"),
        (np.ones((3, 2)), ["x", "y"], {"groups": {"x": ["y"]}}, r"outside it \['x'\]"),
        (np.ones((3, 2)), ["x", "y"], {"groups": {"g": ["x"], "h": ["x"]}}, r"two groups \['x'\]"),
    ],
)
def test_contradictions_are_named(values, features, options, says):
    with pytest.raises(UsageError, match=says):
        global_importance(values, features, **options)


def test_rows_are_frozen():
    row = Importance("x", 1.0, 0.5, 1.5, 1, 10)
    with pytest.raises(dataclasses.FrozenInstanceError):
        row.rank = 2


def test_the_callers_array_is_left_alone():
    values = np.random.default_rng(8).normal(size=(20, 3))
    before = values.copy()
    global_importance(values, ["x", "y", "z"], groups={"g": ["x", "y"]})
    np.testing.assert_array_equal(values, before)


@pytest.mark.parametrize("module", ["hindcast.importance", "hindcast.explainers"])
def test_importing_brings_no_heavy_library(module):
    heavy = {"shap", "pandas", "lightgbm", "xgboost", "sklearn", "numba", "scipy.stats", "airflow", "yaml"}
    code = f"import sys, {module}; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
