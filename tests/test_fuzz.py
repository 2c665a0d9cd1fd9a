"""Whatever bytes lie where logs, labels, references and model files should: an exit status, and no traceback.

`HINDCAST_FUZZ=5000` runs so many examples of each instead of the few of every day.
"""

import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests import worlds
from tests.worlds import World, text

EXAMPLES = int(os.environ.get("HINDCAST_FUZZ", "0"))
DOCUMENTED = {0, 1, 2, 3, 4}


def often(examples: int) -> Any:
    return settings(
        max_examples=EXAMPLES or examples,
        deadline=None,
        derandomize=not EXAMPLES,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A sound hour of few rows, with a reference that is quick to fit."""
    world = worlds.write(tmp_path_factory.mktemp("fuzz") / "world", hours=1, rows=40)
    pq.write_table(worlds.reference(500), world.folder / "reference.parquet")
    return world


@pytest.fixture
def world(whole: World, tmp_path: Path) -> World:
    return worlds.copied(whole, tmp_path / "world")


def run(world: World, *arguments: str, allowed: set[int] = DOCUMENTED) -> str:
    """Run a command; it must end with a documented status, and say why if that is not 0."""
    from hindcast.cli import main

    found = CliRunner().invoke(main, [*arguments, "--config", str(world.models), "--results", world.results])
    assert found.exception is None or isinstance(found.exception, SystemExit), repr(found.exception)
    assert "Traceback" not in found.output
    # what `hindcast.checks.run.compute` makes of a fault that nobody foresaw
    assert not re.search(r"unexpected [A-Z]\w+: ", found.output), found.output
    assert found.exit_code in allowed, found.output
    if found.exit_code:
        assert found.stderr.strip(), "it failed and said nothing"
    return str(found.output)


ALL = ("check", "alpha", "--window", text(0), "--only", "performance")


@often(8)
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=12), st.floats(0, 1))
def test_mutated_log_files(world: World, changes: list[tuple[float, int]], cut: float) -> None:
    """The object is read, or named and left out: never an error of the check."""
    path = world.partition(0) / "part-1.parquet"
    content = bytearray((world.partition(0) / "part-0.parquet").read_bytes())
    for place, value in changes:
        content[min(int(place * len(content)), len(content) - 1)] = value
    path.write_bytes(bytes(content[: int(cut * len(content)) + 1] if cut < 0.3 else content))
    run(world, *ALL, allowed={0})


@often(5)
@given(st.binary(max_size=300), st.sampled_from(["logs", "labels", "reference"]))
def test_any_bytes_where_a_file_should_be(whole: World, tmp_path: Path, content: bytes, where: str) -> None:
    shutil.rmtree(tmp_path / "world", ignore_errors=True)
    world = worlds.copied(whole, tmp_path / "world")
    path = {
        "logs": world.partition(0) / "part-1.parquet",
        "labels": next(world.labels().rglob("*.parquet")),
        "reference": world.folder / "reference.parquet",
    }[where]
    path.write_bytes(content)
    said = run(world, *ALL, allowed={0} if where == "logs" else {3})
    assert path.name in said


NAMES = ("prediction_id", "timestamp", "prediction", "score", "latency_ms", "feature_amount", "feature_carrier",
         "feature_new", "model_version", "error", "ground_truth", "confidence")  # fmt: skip


@st.composite
def columns(draw: st.DrawFn, rows: int) -> pa.Array:
    """A column of any type that Parquet holds, with values of its kind."""
    kind = draw(st.sampled_from([
        pa.int8(), pa.uint64(), pa.float32(), pa.float64(), pa.bool_(), pa.string(), pa.large_string(), pa.binary(),
        pa.date32(), pa.timestamp("s"), pa.timestamp("ns", "America/New_York"), pa.time64("us"), pa.duration("ms"),
        pa.decimal128(5, 2), pa.null(), pa.list_(pa.int64()), pa.struct({"x": pa.int64(), "y": pa.string()}),
        pa.map_(pa.string(), pa.int64()), pa.dictionary(pa.int32(), pa.string()),
    ]))  # fmt: skip
    seed = draw(st.integers(0, 2**16))
    mask = np.random.default_rng(seed).random(rows) < draw(st.sampled_from([0.0, 0.3, 1.0]))
    return made(kind, rows, seed, mask)


def made(kind: pa.DataType, rows: int, seed: int, mask: Any) -> pa.Array:
    draw = np.random.default_rng(seed)
    numbers = draw.choice([0, 1, -1, 7, 100], rows)
    if pa.types.is_floating(kind):
        values: Any = draw.choice([0.0, -0.0, np.nan, np.inf, -np.inf, 1e38, 0.5], rows).tolist()
    elif pa.types.is_unsigned_integer(kind):
        values = [(0, 1, 2**64 - 1)[k] for k in draw.integers(0, 3, rows).tolist()]
    elif pa.types.is_boolean(kind):
        values = (numbers > 0).tolist()
    elif pa.types.is_nested(kind):
        values = {"list": [[1, None]], "struct": [{"x": 1, "y": "a"}], "map": [[("a", 1)]]}[
            str(kind).partition("<")[0]
        ] * rows
    elif pa.types.is_null(kind):
        return pa.nulls(rows)
    elif pa.types.is_dictionary(kind) or "string" in str(kind):
        values = draw.choice(["", "1", "AA", "é\u202e", "2024-03-04T00:10Z", "x" * 300], rows).tolist()
        return pa.array([None if m else v for v, m in zip(values, mask, strict=True)], pa.string()).cast(
            kind.value_type if pa.types.is_dictionary(kind) else kind
        )
    elif pa.types.is_binary(kind):
        values = [b"\xff\x00"] * rows
    elif pa.types.is_decimal(kind):
        return pa.array([None if m else int(v) for v, m in zip(numbers, mask, strict=True)], pa.int64()).cast(
            pa.decimal128(22, 2)
        )
    elif pa.types.is_date(kind):
        values = numbers.astype("int32").tolist()
        return pa.array([None if m else v for v, m in zip(values, mask, strict=True)], pa.int32()).cast(kind)
    else:
        raw = [None if m else abs(int(v)) for v, m in zip(numbers, mask, strict=True)]
        return pa.array(raw, pa.int64()).cast(kind)
    return pa.array([None if m else v for v, m in zip(values, mask, strict=True)], kind)


@often(8)
@given(st.data())
def test_odd_schemas(world: World, data: st.DataObject) -> None:
    """Any columns, of any types, under the names that mean something: the check is made."""
    rows = data.draw(st.sampled_from([0, 1, 30]))
    names = data.draw(st.lists(st.sampled_from(NAMES), unique=True, min_size=1))
    table = pa.table({name: data.draw(columns(rows)) for name in names})
    if data.draw(st.booleans()):  # a column that stands twice
        table = table.append_column(names[0], table.column(0))
    pq.write_table(table, world.partition(0) / "part-1.parquet")
    run(world, *ALL, allowed={0})


@often(5)
@given(st.data())
def test_odd_labels_and_references(whole: World, tmp_path: Path, data: st.DataObject) -> None:
    shutil.rmtree(tmp_path / "world", ignore_errors=True)
    world = worlds.copied(whole, tmp_path / "world")
    where = data.draw(st.sampled_from(["labels", "reference"]))
    names = (
        ["prediction_id", "ground_truth", "label_timestamp"] if where == "labels" else ["feature_amount", "feature_new"]
    )
    table = pa.table(
        {name: data.draw(columns(30)) for name in data.draw(st.lists(st.sampled_from(names), unique=True))}
    )
    path = next(world.labels().rglob("*.parquet")) if where == "labels" else world.folder / "reference.parquet"
    pq.write_table(table, path)
    run(world, *ALL, allowed={0, 2, 3})


leaves = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=20),
    st.sampled_from(["binary", "spark", "bq://a.b.c", "s3://", "drop", "../x", "2013-01-01", "10 * * * *"]),
)  # fmt: skip
trees = st.recursive(
    leaves,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=6,
)  # fmt: skip
KEYS = ("model", "task", "logs", "labels", "reference", "features", "segments", "performance", "drift", "quality",
        "explain", "business", "quiet", "schedule", "engine", "spark", "bigquery", "resources", "owner")  # fmt: skip
COMMANDS = (
    ("validate",), ("check", "alpha", "--window", text(0), "--only", "quality"), ("status",), ("checklist", "alpha"),
    ("sweep", "alpha"), ("replay", "alpha", "--from", text(0), "--to", text(1), "--jobs", "1", "--only", "pull"),
)  # fmt: skip


@often(12)
@given(st.dictionaries(st.sampled_from(KEYS), trees, min_size=1, max_size=3), st.sampled_from(COMMANDS), st.data())
def test_odd_model_files(world: World, changes: dict[str, Any], command: tuple[str, ...], data: st.DataObject) -> None:
    """A sound file with some keys replaced, or some key of a section."""
    path = world.models / "alpha.yaml"
    content = (
        yaml.safe_load((world.folder / "alpha.sound").read_text()) if (world.folder / "alpha.sound").exists() else None
    )
    if content is None:
        shutil.copy(path, world.folder / "alpha.sound")
        content = yaml.safe_load(path.read_text())
    for key, value in changes.items():
        section = content.get(key)
        if isinstance(section, dict) and data.draw(st.booleans()):
            section[data.draw(st.sampled_from(sorted(section)))] = value
        else:
            content[key] = value
    path.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    run(world, *command)


@often(12)
@given(
    st.one_of(st.binary(max_size=200), st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
)
def test_any_bytes_as_a_model_file(world: World, content: bytes) -> None:
    (world.models / "alpha.yaml").write_bytes(content)
    said = run(world, "validate", allowed={2})
    assert "alpha.yaml" in said


WORDS = st.one_of(
    st.sampled_from(["alpha", "--window", "--from", "--to", "--day", "--only", "--as-of", text(0)]),
    st.text(max_size=10).filter(lambda word: not word.startswith("-") and "\0" not in word),
)


@often(8)
@given(
    st.sampled_from(["check", "replay", "sweep", "status", "report", "diagnose", "incidents", "multivariate"]),
    st.lists(WORDS, max_size=5),
)
def test_any_arguments(whole: World, command: str, arguments: list[str]) -> None:
    run(whole, command, *arguments)
