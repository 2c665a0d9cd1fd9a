"""Inference: the reference meets what is inferred from it, and the written model file loads to the same."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hindcast import config
from hindcast.config import Feature, ModelFile
from hindcast.errors import UsageError
from hindcast.infer import MAX_VALUES, infer_features, missing_limit, model_text
from hindcast.profile.bins import Bins
from hindcast.profile.fit import fit_bins, kind_of
from hindcast.profile.profile import Profile
from hindcast.profile.scan import Expected, Scanner
from hindcast.quality import WindowFacts, assess
from hindcast.window import Window

if TYPE_CHECKING:
    from pathlib import Path


def profile_of(table: pa.Table, features: dict[str, Feature] | None = None) -> Profile:
    file = io.BytesIO()
    pq.write_table(table, file)
    kinds = {name: kind_of(table.schema.field(name).type) or "categorical" for name in table.schema.names}
    expected = Expected(
        {f"feature_{n}": (f.min, f.max) for n, f in (features or {}).items()},
        {f"feature_{n}": frozenset(map(str, f.values)) for n, f in (features or {}).items() if f.values is not None},
    )
    scanner = Scanner(fit_bins([pq.ParquetFile(file)], kinds, 64), expected)
    scanner.read(pq.ParquetFile(file))
    return scanner.profile


def test_types_limits_and_domains_are_those_of_the_reference() -> None:
    table = pa.table(
        {
            "feature_age": pa.array([18, 99, None, 40]),
            "feature_amount": [0.1, -0.30000000000000004, float("nan"), 7.0],
            "feature_plan": ["b", "a", "b", "a"],
            "score": [0.1, 0.2, 0.3, 0.4],
        }
    )
    features = infer_features(profile_of(table))
    assert set(features) == {"age", "amount", "plan"}
    assert (features["age"].min, features["age"].max) == (18, 99)
    assert (features["amount"].min, features["amount"].max) == (-0.30000000000000004, 7.0)
    assert features["amount"].max_missing == missing_limit(1, 4)
    assert features["plan"].values == ("a", "b")
    assert features["plan"].max_missing == 0.01


def test_many_values_are_no_domain() -> None:
    for n, closed in ((MAX_VALUES, True), (MAX_VALUES + 1, False)):
        feature = infer_features(profile_of(pa.table({"feature_id": [f"v{i}" for i in range(n)]})))["id"]
        assert (feature.values is not None) == closed


def test_a_column_of_nulls_has_no_domain() -> None:
    feature = infer_features(profile_of(pa.table({"feature_x": pa.nulls(9, pa.string())})))["x"]
    assert (feature.values, feature.max_missing) == (None, 1.0)


def test_moments_get_no_limits() -> None:
    table = pa.table({"feature_seen": [datetime(2013, 1, 1, tzinfo=UTC), datetime(2013, 1, 2, tzinfo=UTC)]})
    feature = infer_features(profile_of(table))["seen"]
    assert (feature.type, feature.min, feature.max) == ("numeric", None, None)


def test_nothing_is_inferred_from_no_rows() -> None:
    with pytest.raises(UsageError, match="without rows"):
        infer_features(Profile.empty(Bins((), (), (), ())))


@given(st.integers(1, 10**6), st.data())
def test_the_missing_limit_lies_above_what_was_seen_and_has_two_digits(rows: int, data: st.DataObject) -> None:
    missing = data.draw(st.integers(0, rows))
    limit = missing_limit(missing, rows)
    assert max(0.01, missing / rows) <= limit <= 1
    assert limit == float(f"{limit:.2g}")
    assert limit <= missing_limit(min(rows, missing + 1), rows) or missing / rows > 0.9, "it grows with what was seen"


@settings(max_examples=15, deadline=None)
@given(
    st.lists(
        st.tuples(st.none() | st.floats(allow_infinity=False), st.none() | st.text(max_size=3)), min_size=1, max_size=60
    )
)
def test_the_reference_meets_what_is_inferred_from_it(rows: list[tuple[float | None, str | None]]) -> None:
    values, words = zip(*rows, strict=True)
    table = pa.table({"feature_a": pa.array(values, pa.float64()), "feature_b": pa.array(words, pa.string())})
    features = infer_features(profile_of(table))
    profile = profile_of(table, features)
    model = ModelFile.model_validate({"model": "m", "task": "binary", "logs": {"uri": "."}, "reference": {"uri": "."}})
    window = Window.parse("2013-04-16T15")
    facts = WindowFacts(window, profile.rows, 0, 0, window.start, 0)
    statuses = {row["status"] for row in assess(model, features, profile, facts, docs=False).rows}
    assert statuses <= {"ok", "insufficient_data"}


HOSTILE = [
    "<script>",
    "a: b",
    "null",
    "1",
    "# c",
    "a\nb",
    "{x}",
    "? q",
    "- d",
    "true",
    "'",
    '"',
    "x" * 300,
    "é\u202e",
    " ",
    "~",
    "[",
    "%s {0}",
    "\x00",
    "\x85",
    "",
]


def load(text: str, folder: Path) -> ModelFile:
    path = folder / "m.yaml"
    path.write_text(text, encoding="utf-8")
    return config.load(path)


def test_the_written_file_loads_to_what_was_inferred(tmp_path: Path) -> None:
    features = {
        "amount": Feature(type="numeric", min=-1e-7, max=1e22, max_missing=0.01),
        "age": Feature(type="numeric", min=18, max=99.5),
        "plan": Feature(type="categorical", values=("1", "null", "yes", 2, True), store_values=False),
    }
    model = load(model_text("churn.v1", "binary", "../data/train.parquet", features, positive_class="yes"), tmp_path)
    assert (model.model, model.task, model.positive_class) == ("churn.v1", "binary", "yes")
    assert model.features == features
    assert list(model.features) == list(features)
    assert model.resolve(model.reference.uri or "") == str((tmp_path / "../data/train.parquet").resolve())


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_values_and_paths_survive(name: str, tmp_path: Path) -> None:
    features = {name: Feature(type="categorical", values=(name, "a"))}
    model = load(model_text("m", "multiclass", name, features), tmp_path)
    assert model.features == features
    assert model.reference.uri == name


@given(st.dictionaries(st.text(), st.floats(allow_nan=False, allow_infinity=False), max_size=5), st.text())
def test_any_name_and_limit_survives(
    tmp_path_factory: pytest.TempPathFactory, limits: dict[str, float], path: str
) -> None:
    features = {name: Feature(type="numeric", min=low) for name, low in limits.items()}
    model = load(model_text("m", "regression", path, features), tmp_path_factory.getbasetemp())
    assert model.features == features
    assert model.reference.uri == path


@pytest.mark.parametrize("name", ["123", "1e5", "null", "true", "0x1f"])
def test_a_name_that_yaml_would_read_as_something_else_is_quoted(name: str, tmp_path: Path) -> None:
    assert load(model_text(name, "binary", "r.parquet", {}), tmp_path).model == name


@pytest.mark.parametrize(("name", "task"), [("a b", "binary"), ("", "binary"), ("m", "ranking")])
def test_what_the_model_file_would_refuse_is_refused(name: str, task: str) -> None:
    with pytest.raises(UsageError, match=r"^(model|task): got "):
        model_text(name, task, "r.parquet", {})


def test_the_file_says_what_must_be_edited_and_every_section_that_is_commented_out_is_valid(tmp_path: Path) -> None:
    text = model_text("m", "binary", "r.parquet", {"a": Feature(type="numeric")})
    assert "EDIT-ME" in load(text, tmp_path).logs.uri
    assert text == model_text("m", "binary", "r.parquet", {"a": Feature(type="numeric")})
    optional = [
        line for line in text.splitlines() if (line.startswith("# ") and ": {" in line) or line.startswith("# segments")
    ]
    assert len(optional) == 7
    load(text + "\n".join(line.removeprefix("# ") for line in optional), tmp_path)


def test_numbers_without_a_fraction_are_written_as_such() -> None:
    assert "{type: numeric, min: 0, max: 9.5}" in model_text(
        "m", "binary", "r", {"a": Feature(type="numeric", min=0.0, max=9.5)}
    )
