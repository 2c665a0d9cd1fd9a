import hashlib
import io
import os
import pickle
import subprocess
import sys
import threading
from importlib.util import find_spec
from pathlib import Path

import joblib
import lightgbm
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shap
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.compose import make_column_transformer
from sklearn.ensemble import (
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from hindcast.errors import ModelRefused, NotEnoughData, SourceMissing, SourceUnreadable
from hindcast.explainers import FORMATS, load_model, shap_values

FEATURES = ["distance km", "carrier", "hour", "stops"]
CATEGORICAL = ["carrier", "stops"]
QUIET = {"verbosity": -1, "num_threads": 1, "num_leaves": 7, "min_data_in_leaf": 5, "deterministic": True}


def flights(rows: int = 600, seed: int = 0) -> pd.DataFrame:
    """Two numbers with nulls, a text category with nulls, and a category of integers that are not their codes."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "distance km": rng.normal(1000, 300, rows),
            "carrier": rng.choice(["UA", "AA", "B6", "DL"], rows),
            "hour": rng.integers(0, 24, rows).astype(float),
            "stops": rng.choice([10, 20, 30], rows),
        }
    )
    frame.loc[rng.random(rows) < 0.1, "distance km"] = np.nan
    frame.loc[rng.random(rows) < 0.1, "carrier"] = None
    return frame


def delayed(frame: pd.DataFrame, classes: int = 2) -> np.ndarray:
    score = frame["distance km"].fillna(500) / 300 + 2 * frame["carrier"].isin(["UA", "B6"]) + (frame["stops"] == 20)
    return np.digitize(score, np.quantile(score, np.linspace(0, 1, classes + 1)[1:-1]))


def with_categories(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(carrier=frame["carrier"].astype("category"), stops=frame["stops"].astype("category"))


def boosted(classes: int = 2) -> lightgbm.Booster:
    objective = {"objective": "binary"} if classes == 2 else {"objective": "multiclass", "num_class": classes}
    frame = flights()
    return lightgbm.train(QUIET | objective, lightgbm.Dataset(with_categories(frame), delayed(frame, classes)), 20)


def table(frame: pd.DataFrame) -> pa.Table:
    return pa.Table.from_pandas(frame, preserve_index=False)


def explain(model: object, sample: pa.Table, **options: object) -> np.ndarray:
    return shap_values(model, sample, **({"features": FEATURES, "categorical": CATEGORICAL} | options))


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def numeric(rows: int = 300, *, missing: float = 0.0) -> tuple[pd.DataFrame, np.ndarray]:
    rng = np.random.default_rng(3)
    frame = pd.DataFrame(rng.normal(size=(rows, 4)), columns=["a", "b", "c", "d"])
    target = (frame["a"] + frame["b"] * frame["c"]).to_numpy()
    return frame.mask(rng.random(frame.shape) < missing), target


# LightGBM: the model's own contributions


@pytest.mark.parametrize("classes", [2, 3])
def test_lightgbm_contributions_and_bias_add_up_to_the_raw_score(classes):
    model = boosted(classes)
    frame = flights(200, seed=1)
    values = explain(model, table(frame))
    known = with_categories(frame)
    bias = model.predict(known, pred_contrib=True).reshape(200, -1, 5)[:, :, -1]
    raw = model.predict(known, raw_score=True).reshape(200, -1)
    assert values.shape == ((200, 4) if classes == 2 else (200, 4, 3))
    np.testing.assert_allclose(values.reshape(200, 4, -1).sum(axis=1) + bias, raw, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("classes", [2, 3])
def test_lightgbm_gets_the_very_codes_of_training(classes):
    model = boosted(classes)
    frame = flights(200, seed=2)
    expected = model.predict(with_categories(frame), pred_contrib=True).reshape(200, -1, 5)[:, :, :-1]
    np.testing.assert_array_equal(explain(model, table(frame)).reshape(200, 4, -1), expected.transpose(0, 2, 1))


def test_codes_survive_the_model_file_and_a_sample_in_which_categories_are_absent(tmp_path):
    model = boosted()
    model.save_model(tmp_path / "model.txt")
    loaded = load_model(tmp_path / "model.txt", format="lightgbm", sha256=None)
    frame = flights(200, seed=2)
    whole = explain(model, table(frame))
    one = (frame["carrier"] == "DL").to_numpy()
    np.testing.assert_array_equal(explain(loaded, table(frame[one])), whole[one])


def test_unseen_categories_count_as_missing():
    model = boosted()
    frame = flights(50, seed=4)
    missing = explain(model, table(frame.assign(carrier=pd.Series([None] * 50, dtype=object))))
    np.testing.assert_array_equal(explain(model, table(frame.assign(carrier="ZZ"))), missing)
    known = frame.assign(carrier=pd.Categorical(["ZZ"] * 50), stops=frame["stops"].astype("category"))
    np.testing.assert_array_equal(missing, model.predict(known, pred_contrib=True)[:, :-1])
    assert not np.array_equal(missing, explain(model, table(frame.assign(carrier="UA"))))


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.none() | st.floats(-1e5, 1e5),
            st.sampled_from([None, "UA", "AA", "B6", "DL", "ZZ", ""]),
            st.none() | st.integers(-5, 30),
            st.sampled_from([None, 10, 20, 30, 40]),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_lightgbm_sees_rows_as_it_would_through_pandas(rows):
    model = MODEL
    distance, carrier, hour, stops = (list(column) for column in zip(*rows, strict=True))
    sample = pa.table(
        {
            "hour": pa.array(hour, pa.int64()),
            "stops": pa.array(stops, pa.int64()),
            "carrier": pa.array(carrier, pa.string()).dictionary_encode(),
            "distance km": pa.array(distance, pa.float64()),
        }
    )
    seen = pd.DataFrame(
        {
            "distance km": np.array(distance, dtype=float),
            "carrier": pd.Categorical([value if value in CARRIERS else None for value in carrier], categories=CARRIERS),
            "hour": np.array(hour, dtype=float),
            "stops": pd.Categorical(
                [value if value in {10, 20, 30} else None for value in stops], categories=[10, 20, 30]
            ),
        }
    )
    np.testing.assert_array_equal(explain(model, sample), model.predict(seen, pred_contrib=True)[:, :-1])


CARRIERS = ["AA", "B6", "DL", "UA"]
MODEL = boosted()


@pytest.mark.parametrize("objective", ["regression", "binary"])
def test_lightgbm_equals_shaps_own_tree_explainer(objective):
    frame, target = numeric(missing=0.1)
    data = lightgbm.Dataset(frame, target if objective == "regression" else target > 0)
    model = lightgbm.train(QUIET | {"objective": objective}, data, 30)
    values = shap_values(model, table(frame), features=list(frame), categorical=[])
    explainer = shap.TreeExplainer(model)
    explainer.model.model_type = "internal"  # else shap asks LightGBM for the values and would agree with anything
    expected = explainer.shap_values(frame)
    np.testing.assert_allclose(values, expected, rtol=1e-6, atol=1e-9)


def test_order_of_features_is_the_callers_and_unused_ones_are_zero():
    frame = flights(40, seed=5)
    names = ["stops", "gate", "hour", "carrier", "distance km"]
    values = explain(MODEL, table(frame.assign(gate=1.0)), features=names)
    plain = explain(MODEL, table(frame))
    assert not values[:, 1].any()
    np.testing.assert_array_equal(values[:, [4, 3, 2, 0]], plain)


def test_a_model_without_names_takes_the_features_in_their_order():
    frame, target = numeric()
    named = lightgbm.train(QUIET, lightgbm.Dataset(frame, target), 10)
    bare = lightgbm.train(QUIET, lightgbm.Dataset(frame.to_numpy(), target), 10)
    results = [shap_values(model, table(frame), features=list("abcd"), categorical=[]) for model in (named, bare)]
    np.testing.assert_array_equal(*results)
    with pytest.raises(ModelRefused, match="recorded no feature names and reads 4 columns; features has 3"):
        shap_values(bare, table(frame), features=list("abc"), categorical=[])


def test_integer_categories_declared_by_name_are_not_confused_with_pandas_categories():
    """`hour` splits as a category without being one of pandas', so the file alone is ambiguous and ours decides."""
    frame = flights().assign(hour=lambda rows: rows["hour"].astype(int))
    frame["stops"] = pd.Categorical(frame["stops"], ordered=True)
    frame["carrier"] = frame["carrier"].astype("category")
    data = lightgbm.Dataset(frame, delayed(flights()), categorical_feature=["carrier", "hour"])
    model = lightgbm.train(QUIET | {"objective": "binary"}, data, 10)
    sample = table(flights(100, seed=6))
    expected = model.predict(with_categories(flights(100, seed=6)), pred_contrib=True)[:, :-1]
    np.testing.assert_array_equal(explain(model, sample), expected)
    with pytest.raises(ModelRefused, match="correct the types under features"):
        explain(model, sample, categorical=["carrier"])


def test_the_scikit_learn_wrapper_is_explained_by_its_booster():
    frame, target = numeric()
    model = lightgbm.LGBMRegressor(n_estimators=5, verbosity=-1, n_jobs=1).fit(frame, target)
    np.testing.assert_array_equal(
        shap_values(model, table(frame), features=list("abcd"), categorical=[]),
        shap_values(model.booster_, table(frame), features=list("abcd"), categorical=[]),
    )


def test_threads_do_not_change_the_values():
    sample = table(flights(100, seed=7))
    np.testing.assert_array_equal(explain(MODEL, sample, threads=2), explain(MODEL, sample, threads=1))


def test_missing_columns_are_named():
    frame = flights(10)
    with pytest.raises(NotEnoughData, match=r"the sample does not have: \['carrier', 'stops'\]"):
        explain(MODEL, table(frame.drop(columns=["carrier", "stops"])))
    with pytest.raises(ModelRefused, match=r"not among the features: \['hour'\];"):
        explain(MODEL, table(frame), features=["distance km", "carrier", "stops"])


def test_columns_of_a_wrong_type_are_named():
    frame = flights(10)
    with pytest.raises(ModelRefused, match=r"feature distance km: the model reads a number.*string"):
        explain(MODEL, table(frame.assign(**{"distance km": "12"})))
    with pytest.raises(ModelRefused, match=r"feature hour: the model reads a number.* timestamp"):
        explain(MODEL, table(frame.assign(hour=pd.Timestamp("2013-04-16"))))
    with pytest.raises(ModelRefused, match=r"feature carrier: the model's categories are like 'AA'.* int64"):
        explain(MODEL, table(frame.assign(carrier=1)))
    with pytest.raises(ModelRefused, match=r"feature stops: the model's categories are like 10.*string"):
        explain(MODEL, table(frame.assign(stops="10")))


def test_no_rows_are_not_enough_data():
    with pytest.raises(NotEnoughData, match="no rows"):
        explain(MODEL, table(flights(5))[:0])


def test_an_unknown_method_is_refused_with_the_known_ones():
    with pytest.raises(ModelRefused, match="'kernel'; allowed: auto, native, tree, permutation"):
        explain(MODEL, table(flights(5)), method="kernel")


def test_a_failure_inside_the_models_library_is_reported_as_ours():
    frame, target = numeric()
    model = lightgbm.train(QUIET | {"linear_tree": True}, lightgbm.Dataset(frame, target), 5)
    with pytest.raises(ModelRefused, match="LightGBMText failed on the sample: LightGBMError"):
        shap_values(model, table(frame), features=list("abcd"), categorical=[])
    values = shap_values(
        model, table(frame)[:3], features=list("abcd"), categorical=[], method="permutation", background=table(frame)
    )
    background = model.predict(frame.iloc[np.sort(np.random.default_rng(0).choice(300, 100, replace=False))])
    np.testing.assert_allclose(values.sum(axis=1), model.predict(frame[:3]) - background.mean(), atol=1e-9)


# scikit-learn: trees and permutations


@pytest.mark.parametrize("missing", [0.0, 0.2])
@pytest.mark.parametrize(
    "model",
    [
        RandomForestClassifier(20, random_state=0),
        RandomForestRegressor(20, random_state=0),
        ExtraTreesRegressor(20, random_state=0),
        HistGradientBoostingClassifier(max_iter=20),
        HistGradientBoostingRegressor(max_iter=20),
    ],
    ids=lambda model: type(model).__name__,
)
def test_tree_contributions_add_up_to_the_models_output(model, missing):
    frame, target = numeric(missing=missing)
    classifies = hasattr(model, "predict_proba")
    model.fit(frame, target > 0 if classifies else target)
    values = shap_values(model, table(frame), features=list("abcd"), categorical=[])
    if hasattr(model, "decision_function"):
        output = model.decision_function(frame)
    else:
        output = model.predict_proba(frame)[:, 1] if classifies else model.predict(frame)
    bias = output - values.sum(axis=1)
    assert values.shape == (300, 4)
    np.testing.assert_allclose(bias, bias[0], atol=1e-6)
    assert np.ptp(values.sum(axis=1)) > 0.1


def test_a_forest_of_three_classes_has_three_columns():
    frame, target = numeric()
    model = RandomForestClassifier(10, random_state=0).fit(frame.to_numpy(), np.digitize(target, [-0.5, 0.5]))
    values = shap_values(model, table(frame), features=list("abcd"), categorical=[], method="tree")
    assert values.shape == (300, 4, 3)
    np.testing.assert_allclose(values.sum(axis=2), 0, atol=1e-9)


def test_permutation_of_a_linear_model_is_exact():
    frame, target = numeric()
    model = LinearRegression().fit(frame, target)
    background = table(frame[:50])
    values = shap_values(model, table(frame[50:60]), features=list("abcd"), categorical=[], background=background)
    np.testing.assert_allclose(values, (frame[50:60] - frame[:50].mean()) * model.coef_, atol=1e-9)


def delay_pipeline() -> object:
    encode = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), ["carrier"]), (StandardScaler(), ["hour"])
    )
    frame = flights()
    return make_pipeline(encode, LogisticRegression()).fit(frame[["carrier", "hour"]], delayed(frame))


def test_permutation_of_a_pipeline_takes_raw_text_nulls_and_unseen_categories():
    model = delay_pipeline()
    frame = flights(20, seed=8).astype({"carrier": object})
    frame.loc[:2, "carrier"] = ["ZZ", None, "UA"]
    reference = flights(60, seed=9)
    values = explain(model, table(frame), background=table(reference))
    expected = model.predict_proba(table(frame).to_pandas())[:, 1] - model.predict_proba(reference)[:, 1].mean()
    np.testing.assert_allclose(values.sum(axis=1), expected, atol=1e-9)
    assert not values[:, [0, 3]].any()
    assert values[:, 1].any()
    assert values[:, 2].any()


def test_permutation_is_deterministic_and_leaves_numpys_global_generator_alone():
    model, sample, background = delay_pipeline(), table(flights(5, seed=8)), table(flights(300, seed=9))
    np.random.seed(1)  # noqa: NPY002 - the global generator is what is tested
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    first = explain(model, sample, background=background)
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    np.testing.assert_array_equal(first, explain(model, sample, background=background))
    assert not np.array_equal(first, explain(model, sample, background=background, seed=1))


def test_permutation_agrees_with_native_on_an_additive_model():
    frame, _ = numeric()
    stumps = QUIET | {"num_leaves": 2, "num_iterations": 30}
    model = lightgbm.train(stumps, lightgbm.Dataset(frame, frame["a"] + 2 * frame["b"]))
    options = {"features": list("abcd"), "categorical": []}
    native = shap_values(model, table(frame[:100]), **options)
    permuted = shap_values(model, table(frame[:100]), **options, method="permutation", background=table(frame[200:]))
    # Both are additive; they differ by each feature's mean over the background only.
    difference = permuted - native
    np.testing.assert_allclose(difference, np.broadcast_to(difference[0], difference.shape), atol=1e-9)


def test_categorical_splits_of_histgradientboosting_are_not_left_to_shaps_tree_explainer():
    frame = flights(300)[["hour", "carrier"]].astype({"carrier": "category"})
    model = HistGradientBoostingClassifier(max_iter=10, categorical_features="from_dtype").fit(
        frame, delayed(flights(300))
    )
    sample, background = table(flights(10, seed=8)), table(flights(50, seed=9))
    with pytest.raises(ModelRefused, match="tree does not fit HistGradientBoostingClassifier; put auto or permutation"):
        explain(model, sample, method="tree")
    values = explain(model, sample, background=background)
    output, base = (
        model.predict_proba(flights(rows, seed=seed)[["hour", "carrier"]].astype({"carrier": "category"}))[:, 1]
        for rows, seed in ((10, 8), (50, 9))
    )
    np.testing.assert_allclose(values.sum(axis=1), output - base.mean(), atol=1e-9)


def test_methods_that_do_not_fit_the_model_are_refused():
    frame, target = numeric()
    forest = RandomForestRegressor(3).fit(frame, target)
    several = GradientBoostingClassifier(n_estimators=3).fit(frame, np.digitize(target, [-0.5, 0.5]))
    options = {"features": list("abcd"), "categorical": []}
    with pytest.raises(ModelRefused, match="native does not fit RandomForestRegressor"):
        shap_values(forest, table(frame), **options, method="native")
    with pytest.raises(ModelRefused, match="tree does not fit GradientBoostingClassifier"):
        shap_values(several, table(frame), **options, method="tree")
    with pytest.raises(
        ModelRefused, match=r"against background rows of the reference: no column \['a', 'b', 'c', 'd'\]"
    ):
        shap_values(several, table(frame), **options)
    with pytest.raises(ModelRefused, match=r"no column \['d'\]"):
        shap_values(several, table(frame), **options, background=table(frame[["a", "b", "c"]]))
    with pytest.raises(ModelRefused, match="of the reference: there is no row"):
        shap_values(several, table(frame), **options, background=table(frame[:0]))
    with pytest.raises(ModelRefused, match="at most 50000 rows; got 51000"):
        shap_values(several, pa.concat_tables([table(frame)] * 170), **options, background=table(frame))
    assert shap_values(several, table(frame)[:2], **options, background=table(frame)).shape == (2, 4, 3)


# Loading


class Malicious:
    """A pickle that creates a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("form", ["pickle", "joblib", "compressed joblib"])
@pytest.mark.parametrize(("allow", "which"), [(False, None), (False, "right"), (True, None), (True, "wrong")], ids=str)
def test_a_pickles_code_does_not_run_unless_allowed_and_pinned(tmp_path, form, allow, which):
    trap = tmp_path / "trap"
    buffer = io.BytesIO()
    if form == "pickle":
        pickle.dump(Malicious(trap), buffer)
    else:
        joblib.dump(Malicious(trap), buffer, compress=3 if form != "joblib" else 0)
    sha256 = {None: None, "right": digest(buffer.getvalue()), "wrong": "0" * 64}[which]
    path = tmp_path / "model.pkl"
    path.write_bytes(buffer.getvalue())
    with pytest.raises(ModelRefused, match=digest(buffer.getvalue())):
        load_model(path, format="sklearn", sha256=sha256, allow_pickle=allow)
    assert not trap.exists()
    load_model(path, format="sklearn", sha256=digest(buffer.getvalue()), allow_pickle=True)
    assert trap.exists()  # the trap works: what kept it shut above were the rules


@pytest.mark.parametrize("name", ["lightgbm", "xgboost", "onnx"])
def test_no_other_format_unpickles(tmp_path, name):
    data = pickle.dumps(Malicious(tmp_path / "trap"))
    with pytest.raises(ModelRefused):
        load_model(data, format=name, sha256=digest(data), allow_pickle=True)
    assert not (tmp_path / "trap").exists()


def test_a_refused_pickle_says_what_to_put_in_the_model_file():
    data = pickle.dumps({})
    with pytest.raises(ModelRefused) as refused:
        load_model(data, format="sklearn", sha256=None)
    assert "explain.model" in str(refused.value)
    assert f"`allow_pickle: true` and `sha256: {digest(data)}`" in str(refused.value)


def test_an_allowed_pickle_is_the_model_that_was_saved():
    frame, target = numeric()
    model = RandomForestClassifier(10, random_state=0, n_jobs=-1).fit(frame, target > 0)
    buffer = io.BytesIO()
    joblib.dump(model, buffer, compress=True)
    loaded = load_model(
        buffer.getvalue(), format="sklearn", sha256=digest(buffer.getvalue()).upper(), allow_pickle=True
    )
    np.testing.assert_array_equal(loaded.predict_proba(frame), model.predict_proba(frame))
    assert loaded.n_jobs == 1


def test_a_pipelines_steps_take_one_thread_each():
    frame, target = numeric()
    data = pickle.dumps(make_pipeline(StandardScaler(), RandomForestRegressor(3, n_jobs=2)).fit(frame, target))
    assert load_model(data, format="sklearn", sha256=digest(data), allow_pickle=True)[-1].n_jobs == 1


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_a_wrong_sha256_is_refused_for_every_format(name, tmp_path):
    path = tmp_path / "model"
    path.write_bytes(MODEL.model_to_string().encode())
    with pytest.raises(ModelRefused, match=f"expected {'f' * 64}, found {digest(path.read_bytes())}"):
        load_model(path, format=name, sha256="f" * 64, allow_pickle=True)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_the_hashed_bytes_are_the_loaded_ones(tmp_path):
    """A pipe gives its bytes once: hashing the file and then loading it again would wait for ever."""
    data = MODEL.model_to_string().encode()
    os.mkfifo(tmp_path / "model.txt")
    writer = threading.Thread(target=(tmp_path / "model.txt").write_bytes, args=(data,), daemon=True)
    writer.start()
    loaded = load_model(tmp_path / "model.txt", format="lightgbm", sha256=digest(data))
    writer.join()
    assert len(loaded.trees) == MODEL.num_trees()


def test_the_right_sha256_loads_whatever_its_case(tmp_path):
    data = MODEL.model_to_string().encode()
    (tmp_path / "model.txt").write_bytes(data)
    for sha256 in (digest(data), digest(data).upper(), None):
        assert load_model(tmp_path / "model.txt", format="lightgbm", sha256=sha256).text.encode() == data


@pytest.mark.parametrize("keep", [0.0, 0.02, 0.5, 0.99])
def test_a_lightgbm_file_cut_off_is_refused(keep):
    """LightGBM itself would end the process with a segmentation fault, or load fewer trees."""
    text = lightgbm.train(QUIET, lightgbm.Dataset(*numeric()), 100).model_to_string()
    text = text[: text.index("end of parameters")]
    with pytest.raises(ModelRefused, match=r"not a LightGBM text model, or cut off; .*save_model"):
        load_model(text[: int(len(text) * keep)].encode(), format="lightgbm", sha256=None)


@pytest.mark.parametrize("damage", [b"\xff\xfe\x00", b"hello", b"tree\nversion=v4\ntree_sizes=5\n\nTree=0\n"])
def test_what_is_no_lightgbm_model_is_refused(damage):
    with pytest.raises(ModelRefused, match="not a LightGBM text model"):
        load_model(damage, format="lightgbm", sha256=None)


def test_a_lightgbm_file_with_a_lost_tree_is_refused():
    text = MODEL.model_to_string()
    third, fourth = text.index("Tree=3\n"), text.index("Tree=4\n")
    with pytest.raises(ModelRefused, match="cut off"):
        load_model((text[:third] + text[fourth:]).encode(), format="lightgbm", sha256=None)


def test_damaged_categories_are_refused():
    data = MODEL.model_to_string().strip().removesuffix("]").encode()
    with pytest.raises(ModelRefused, match="cannot be read as lightgbm: JSONDecodeError"):
        load_model(data, format="lightgbm", sha256=None)


def test_a_damaged_pickle_is_refused():
    data = pickle.dumps(LinearRegression())[:-20]
    with pytest.raises(ModelRefused, match="model: cannot be read as sklearn: "):
        load_model(data, format="sklearn", sha256=digest(data), allow_pickle=True)


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path):
    with pytest.raises(SourceMissing, match=r"model\.txt: no such model file"):
        load_model(tmp_path / "model.txt", format="lightgbm", sha256=None)
    with pytest.raises(SourceUnreadable, match=r"a folder, not a file.*`format: mlflow`"):
        load_model(tmp_path, format="lightgbm", sha256=None)


def test_an_unknown_format_is_refused_with_the_known_ones():
    with pytest.raises(ModelRefused, match="'pmml'; allowed: lightgbm, mlflow, onnx, sklearn, xgboost"):
        load_model(b"", format="pmml", sha256=None)


# MLflow's folders


def mlflow_folder(folder: Path, flavors: str, **files: bytes) -> Path:
    (folder / "MLmodel").write_text(f"artifact_path: model\nflavors:\n{flavors}", encoding="utf-8")
    for name, data in files.items():
        (folder / name.replace("_", ".")).write_bytes(data)
    return folder


PYFUNC = "  python_function:\n    loader_module: mlflow.pyfunc.model\n    python_model: python_model.pkl\n"


def test_an_mlflow_folder_gives_its_native_booster(tmp_path):
    data = MODEL.model_to_string().encode()
    folder = mlflow_folder(tmp_path, PYFUNC + "  lightgbm:\n    data: model.lgb\n", model_lgb=data)
    assert load_model(folder, format="mlflow", sha256=digest(data)).text.encode() == data
    with pytest.raises(ModelRefused, match=f"model.lgb: sha256 differs.* expected {'0' * 64}"):
        load_model(folder, format="mlflow", sha256="0" * 64)


@pytest.mark.parametrize("flavor", ["  sklearn:\n    pickled_model: model.pkl\n", "  lightgbm:\n    data: model.pkl\n"])
def test_an_mlflow_pickle_needs_the_same_two_permissions(tmp_path, flavor):
    trap = tmp_path / "trap"
    data = pickle.dumps(Malicious(trap))
    folder = mlflow_folder(tmp_path, flavor, model_pkl=data)
    with pytest.raises(ModelRefused, match="a pickle, which runs code"):
        load_model(folder, format="mlflow", sha256=digest(data))
    with pytest.raises(ModelRefused, match="a pickle, which runs code"):
        load_model(folder, format="mlflow", sha256=None, allow_pickle=True)
    assert not trap.exists()
    load_model(folder, format="mlflow", sha256=digest(data), allow_pickle=True)
    assert trap.exists()


@pytest.mark.parametrize("flavors", [PYFUNC, "  - 1\n", "  lightgbm: {}\n", "  [\n", "  lightgbm: 3\n"])
def test_an_mlflow_folder_without_a_native_flavour_is_refused(tmp_path, flavors):
    with pytest.raises(ModelRefused, match="no file of a native flavour"):
        load_model(mlflow_folder(tmp_path, flavors), format="mlflow", sha256=None, allow_pickle=True)


def test_an_mlflow_file_outside_its_folder_is_refused(tmp_path):
    (tmp_path / "secret").write_bytes(b"")
    (tmp_path / "run").mkdir()
    folder = mlflow_folder(tmp_path / "run", "  lightgbm:\n    data: ../secret\n")
    with pytest.raises(ModelRefused, match="lies outside the folder"):
        load_model(folder, format="mlflow", sha256=None)


def test_an_mlflow_folder_must_be_one(tmp_path):
    with pytest.raises(SourceMissing, match="a local folder with an MLmodel file"):
        load_model(tmp_path / "run", format="mlflow", sha256=None)
    with pytest.raises(SourceMissing, match="MLmodel: no such model file"):
        load_model(tmp_path, format="mlflow", sha256=None)


# Libraries that may not be installed


@pytest.mark.parametrize(
    ("name", "module", "package", "start"),
    [
        ("xgboost", "xgboost", "xgboost", b"{"),
        ("onnx", "onnxruntime", "onnxruntime", b""),
        ("sklearn", "sklearn", "scikit-learn", b""),
        ("sklearn", "skops", "skops", b"PK\x03\x04"),
    ],
)
def test_a_library_that_is_not_installed_is_named(name, module, package, start):
    """In an interpreter that cannot import it, whether or not this environment could."""
    code = (
        f"import sys; sys.modules[{module!r}] = None\n"
        "from hindcast.explainers import load_model\n"
        f"try: load_model({start!r}, format={name!r}, sha256=None)\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"ModelRefused this model needs the package {package},")
    assert done.stdout.strip().endswith(f"pip install {package}")


def test_a_lightgbm_text_is_explained_without_lightgbm_where_its_tables_do(tmp_path):
    """From 500 rows on; below, the library itself is faster, and named when it is not there."""
    MODEL.save_model(tmp_path / "model.txt")
    pq.write_table(table(flights(rows=700)), tmp_path / "sample.parquet")
    code = (
        "import sys; sys.modules['lightgbm'] = sys.modules['shap'] = sys.modules['sklearn'] = None\n"
        "import pyarrow.parquet as pq\n"
        "from pathlib import Path\n"
        "from hindcast.explainers import load_model, shap_values\n"
        "model = load_model(Path('model.txt'), format='lightgbm', sha256=None)\n"
        f"sample, options = pq.read_table('sample.parquet'), {{'features': {FEATURES}, 'categorical': {CATEGORICAL}}}\n"
        "print(abs(shap_values(model, sample, **options)).mean(), 'pandas' in sys.modules)\n"
        "try: shap_values(model, sample.slice(0, 10), **options)\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    values, said = done.stdout.splitlines()
    expected = MODEL.predict(with_categories(flights(rows=700)), pred_contrib=True)[:, :-1]
    assert float(values.split()[0]) == pytest.approx(np.abs(expected).mean())
    assert said.startswith("ModelRefused this model needs the package lightgbm,")


# The tests below run where the optional library is installed, and do not exist elsewhere.

if find_spec("xgboost"):

    @pytest.mark.parametrize("form", ["json", "ubj"])
    @pytest.mark.parametrize("classes", [2, 3])
    def test_xgboost_contributions_are_its_own_with_the_codes_of_training(form, classes):
        import xgboost

        frame, sample = flights().drop(columns=["distance km"]), flights(100, seed=1).astype({"carrier": object})
        objective = (
            {"objective": "multi:softprob", "num_class": 3} if classes == 3 else {"objective": "binary:logistic"}
        )
        data = xgboost.DMatrix(with_categories(frame), delayed(flights(), classes), enable_categorical=True)
        model = xgboost.train({"nthread": 1, **objective}, data, 10)
        saved = bytes(model.save_raw(form))
        loaded = load_model(saved, format="xgboost", sha256=digest(saved))
        known = xgboost.DMatrix(with_categories(sample)[list(frame)], enable_categorical=True)
        expected = model.predict(known, pred_contribs=True).reshape(100, -1, 4)[:, :, :-1].transpose(0, 2, 1)
        values = explain(loaded, table(sample))
        np.testing.assert_allclose(values[:, 1:].reshape(100, 3, -1), expected, rtol=1e-6)
        assert not values[:, 0].any()
        unseen = explain(loaded, table(sample.assign(carrier="ZZ")))
        np.testing.assert_array_equal(unseen, explain(loaded, table(sample.assign(carrier=None))))

    @pytest.mark.parametrize("data", [b"", b"{", b"binf" * 20, b"{L" + b"\0" * 40])
    def test_what_is_no_xgboost_model_is_refused(data):
        with pytest.raises(ModelRefused, match=r"not XGBoost's JSON|cannot be read as xgboost"):
            load_model(data, format="xgboost", sha256=None)


if find_spec("onnxruntime") and find_spec("skl2onnx"):

    @pytest.mark.parametrize("zipmap", [False, True])
    def test_an_onnx_pipeline_is_explained_by_permutation(zipmap):
        from skl2onnx import convert_sklearn
        from skl2onnx.common.data_types import FloatTensorType, StringTensorType

        model = delay_pipeline()
        inputs = [("carrier", StringTensorType([None, 1])), ("hour", FloatTensorType([None, 1]))]
        data = convert_sklearn(model, initial_types=inputs, options={"zipmap": zipmap}).SerializeToString()
        sample, background = table(flights(10, seed=1).dropna()), table(flights(50, seed=2).dropna())
        session = load_model(data, format="onnx", sha256=None)
        expected = explain(model, sample, background=background)
        np.testing.assert_allclose(explain(session, sample, background=background), expected, atol=1e-5)
        with pytest.raises(ModelRefused, match="tree does not fit InferenceSession"):
            explain(session, sample, method="tree")

    def test_an_onnx_forest_takes_one_matrix():
        from skl2onnx import to_onnx

        frame, target = numeric()
        model = RandomForestRegressor(5, random_state=0).fit(frame.to_numpy(np.float32), target)
        data = to_onnx(model, frame[:1].to_numpy(np.float32)).SerializeToString()
        options = {"features": list("abcd"), "categorical": [], "background": table(frame[200:])}
        sample = table(frame.astype(np.float32)[:5])
        values = shap_values(load_model(data, format="onnx", sha256=None), sample, **options)
        expected = shap_values(model, sample, **options, method="permutation")
        np.testing.assert_allclose(values, expected, atol=1e-5)

    def test_what_is_no_onnx_model_is_refused():
        with pytest.raises(ModelRefused, match="cannot be read as onnx: "):
            load_model(b"hello", format="onnx", sha256=None)


if find_spec("skops"):

    def test_a_skops_forest_needs_a_sha256_and_no_pickle_permission():
        import skops.io

        frame, target = numeric()
        model = RandomForestRegressor(3, random_state=0).fit(frame, target)
        data = skops.io.dumps(model)
        with pytest.raises(ModelRefused, match=r"nobody audited \(sklearn\.tree\._tree\.Tree\)"):
            load_model(data, format="sklearn", sha256=None, allow_pickle=True)
        loaded = load_model(data, format="sklearn", sha256=digest(data))
        np.testing.assert_array_equal(loaded.predict(frame), model.predict(frame))

    def test_other_types_in_a_skops_file_need_both_permissions():
        import skops.io

        data = skops.io.dumps({"path": Path})
        with pytest.raises(ModelRefused, match="Path"):
            load_model(data, format="sklearn", sha256=digest(data))
        assert load_model(data, format="sklearn", sha256=digest(data), allow_pickle=True) == {"path": Path}
