"""SHAP values by tables: the same as LightGBM's own."""

from __future__ import annotations

from typing import Any

import lightgbm
import numpy as np
import pytest

from hindcast import treeshap
from hindcast.treeshap import LightGBMText

ROWS, FEATURES = 700, 9


def table(seed: int, rows: int = ROWS) -> np.ndarray:
    """Numbers with nulls and zeros; the last two columns are codes of categories."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, FEATURES))
    x[:, :3] = np.where(rng.random((rows, 3)) < 0.2, np.nan, x[:, :3])
    x[:, 3:5] = np.where(rng.random((rows, 2)) < 0.3, 0.0, x[:, 3:5])
    x[:, 7:] = rng.integers(0, 70, (rows, 2))
    return x


def text_of(booster: lightgbm.Booster) -> LightGBMText:
    return LightGBMText.of(booster.model_to_string())


def trained(*, rounds: int = 12, **options: Any) -> lightgbm.Booster:
    x = table(0, 3000)
    signal = np.nan_to_num(x[:, 0]) * x[:, 3] + np.sin(3 * x[:, 5]) + (x[:, 7] % 3) - 0.3 * x[:, 8] % 5
    target = np.digitize(signal, np.quantile(signal, [0.3, 0.6])) if options.get("num_class") else signal
    fixed = {"verbose": -1, "num_threads": 1, "seed": 3, "min_data_in_leaf": 5, "objective": "regression"}
    data = lightgbm.Dataset(x, target, categorical_feature=options.pop("categories", "auto"), free_raw_data=False)
    made = lightgbm.train({**fixed, **options}, data, rounds)
    return lightgbm.Booster(model_str=made.model_to_string())


MODELS = {
    "plain": {},
    "stumps": {"num_leaves": 2},
    "deep": {"num_leaves": 127, "min_data_in_leaf": 1},
    "chain": {"num_leaves": 40, "min_data_in_leaf": 1, "rounds": 2, "feature_fraction": 0.9},
    "categories": {"categories": [7, 8], "num_leaves": 40, "min_data_per_group": 5, "cat_smooth": 1.0},
    "zero as missing": {"zero_as_missing": True},
    "missing like any": {"use_missing": False},
    "classes": {"objective": "multiclass", "num_class": 3},
    "trees without a split": {"min_gain_to_split": 1e9},
}


@pytest.mark.parametrize("name", MODELS)
def test_the_values_are_lightgbms_own(name: str) -> None:
    booster, x = trained(**MODELS[name]), table(1)
    x[:3, 7:] = [[np.nan, -1], [69.5, 1e6], [500, np.nan]]  # no category of the model
    expected = booster.predict(x, pred_contrib=True, num_threads=1).reshape(ROWS, -1, FEATURES + 1)
    model = text_of(booster)
    for _ in range(2):  # tables as made, and as held
        found = treeshap.contributions(model, x)
        assert found is not None
        np.testing.assert_allclose(found[..., :-1], expected[..., :-1], rtol=1e-9, atol=1e-11)


def test_a_model_too_large_to_hold_is_worked_through_tree_by_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(treeshap, "_HELD_LEAVES", 10)
    booster, x = trained(num_leaves=63), table(2)
    expected = booster.predict(x, pred_contrib=True, num_threads=1)
    model = text_of(booster)
    for _ in range(2):
        found = treeshap.contributions(model, x)
        assert found is not None
        np.testing.assert_allclose(found[:, 0, :-1], expected[:, :-1], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    "options",
    [{"linear_tree": True}, {"boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.6}],
    ids=["linear", "forest"],
)
def test_what_is_not_of_the_plain_kind_is_left_to_lightgbm(options: dict[str, Any]) -> None:
    assert treeshap.contributions(text_of(trained(**options)), table(1)) is None


def test_a_text_of_another_version_is_left_to_lightgbm() -> None:
    text = trained(rounds=1).model_to_string()
    assert LightGBMText.of(text).trees is not None
    assert LightGBMText.of(text.replace("version=v4", "version=v5")).trees is None


def test_a_tree_too_deep_for_its_patterns_is_left_to_lightgbm(monkeypatch: pytest.MonkeyPatch) -> None:
    text = trained(num_leaves=31).model_to_string()
    depth = max(treeshap._depth(tree) for tree in LightGBMText.of(text).trees or ())
    monkeypatch.setattr(treeshap, "_DEEPEST", depth)
    assert LightGBMText.of(text).trees is not None
    monkeypatch.setattr(treeshap, "_DEEPEST", depth - 1)
    assert LightGBMText.of(text).trees is None


def nodes_of(tree: dict[str, Any]) -> tuple[dict[int, dict[str, Any]], dict[int, dict[str, Any]]]:
    """Splits and leaves of a tree as LightGBM dumps it, by their numbers."""
    splits, leaves, todo = {}, {}, [tree["tree_structure"]]
    while todo:
        node = todo.pop()
        if "split_index" in node:
            splits[node["split_index"]] = node
            todo += [node["left_child"], node["right_child"]]
        else:
            leaves[node.get("leaf_index", 0)] = node
    return splits, leaves


def number_of(node: dict[str, Any]) -> int:
    return node["split_index"] if "split_index" in node else -node["leaf_index"] - 1


MISSING = {"None": 0, "Zero": 1, "NaN": 2}


@pytest.mark.parametrize("name", MODELS)
def test_the_trees_are_those_that_lightgbm_dumps(name: str) -> None:
    booster = trained(**MODELS[name])
    model, dumped = text_of(booster), booster.dump_model()
    assert model.trees is not None
    assert (model.classes, model.features) == (booster.num_model_per_iteration(), booster.feature_name())
    assert model.infos == {
        feature: (bool(info["values"]), info["max_value"]) for feature, info in dumped["feature_infos"].items()
    }
    for tree, expected in zip(model.trees, dumped["tree_info"], strict=True):
        splits, leaves = nodes_of(expected)
        assert len(tree.left) == len(tree.right) == len(splits)
        assert {k: leaf["leaf_value"] for k, leaf in leaves.items()} == dict(enumerate(tree.value.tolist()))
        if splits:
            assert [leaves[k]["leaf_count"] for k in range(len(leaves))] == tree.leaf_cover
        for k, split in splits.items():
            assert (number_of(split["left_child"]), number_of(split["right_child"])) == (tree.left[k], tree.right[k])
            assert (split["split_feature"], split["internal_count"]) == (tree.feature[k], tree.node_cover[k])
            kind = int(tree.decision[k])
            assert (split["default_left"], MISSING[split["missing_type"]]) == (bool(kind & 2), kind >> 2 & 3)
            if split["decision_type"] == "==":
                words = tree.categories[int(tree.threshold[k])]
                inside = [code for code in range(32 * words.size) if words[code >> 5] >> (code & 31) & 1]
                assert "||".join(map(str, inside)) == split["threshold"]
            else:
                assert split["threshold"] == min(tree.threshold[k], 1e300)  # JSON has no infinity
