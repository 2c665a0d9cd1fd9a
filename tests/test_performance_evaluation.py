"""Evaluations in parts: any split of the rows says the same, and what a reader of the rows would say."""

import pickle
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests import worlds

from hindcast.checks import evaluation as local
from hindcast.checks.run import Run, commit, compute, settle
from hindcast.errors import HindcastError
from hindcast.performance.evaluation import Evaluation, Part, Question, Segment, evaluation, sums_from_bytes
from hindcast.performance.labels import gathered, label_rows
from hindcast.performance.outcomes import Outcomes
from hindcast.performance.parts import evaluate_part, evaluate_parts
from hindcast.profile.facts import FINGERPRINT
from hindcast.window import Window

NOON = datetime(2013, 4, 16, 12, tzinfo=UTC)
SEGMENTS = (
    Segment("origin", {"feature_origin": ("EWR", "JFK"), "origin": None}),
    Segment("plane", {"feature_plane": None, "plane": None}),
)


def at(hours: float) -> datetime:
    return NOON + timedelta(hours=hours)


def labels_table(rows: list[tuple[Any, Any, Any]]) -> pa.Table:
    ids, truth, times = zip(*rows, strict=True) if rows else ((), (), ())
    return pa.table(
        {
            "prediction_id": pa.array(ids, pa.string()),
            "ground_truth": pa.array(truth),
            "label_timestamp": pa.array(times, pa.timestamp("us", "UTC")),
        }
    )


def said(question: Question, facts: pa.Table, labels: pa.Table | None = None, hours: float = 5) -> Evaluation:
    return evaluation(question, evaluate_part(question, facts, labels, at(hours)))


# ---- laws

IDS = [f"id-{k}" for k in range(12)] + [None]
CLASSES = {
    "binary": st.sampled_from([None, "0", "1", "1.0", "true"]),
    "odd": st.sampled_from([None, "0", "1", "maybe"]),
    "named": st.sampled_from([None, "late", "on time"]),
    "several": st.sampled_from([None, "late", "on time", "cancelled"]),
    "multiclass": st.sampled_from([None, "a", "b", "c", "d"]),
    "regression": st.none() | st.floats(-1e6, 1e6) | st.sampled_from([float("nan"), 1e80, 0.1]),
}
TASKS: dict[str, Question] = {
    "binary": Question("binary", 1, SEGMENTS, 2),
    "odd": Question("binary", 1, SEGMENTS, 2),
    "named": Question("binary", "late", SEGMENTS, 2),
    "several": Question("binary", "late", SEGMENTS, 2),
    "multiclass": Question("multiclass", 1, SEGMENTS, 2),
    "regression": Question("regression", 1, SEGMENTS, 2),
}
SCORE = st.none() | st.floats(0, 1) | st.sampled_from([0.25, 0.5, float("nan"), 1.5])


def facts_of(kind: str) -> st.SearchStrategy[list[dict[str, Any]]]:
    scores = {"score_a": SCORE, "score_b": SCORE, "score_c": SCORE} if kind == "multiclass" else {"score": SCORE}
    row = {
        "prediction_id": st.sampled_from(IDS),
        "model_version": st.sampled_from([None, "3", "4"]),
        "prediction": CLASSES[kind],
        "ground_truth": CLASSES[kind],
        "latency_ms": st.none() | st.floats(0, 1e3),
        "error": st.sampled_from([None, "timeout"]),
        "feature_origin": st.sampled_from([None, "EWR", "JFK", "LGA"]),
        "plane": st.sampled_from([None, "N1", "N2", "N3", "N4"]),
        **({} if kind == "regression" else scores),
    }
    return st.lists(st.fixed_dictionaries(row), max_size=25)


def facts_table(rows: list[dict[str, Any]], kind: str) -> pa.Table:
    numbers = {"latency_ms", "score", "score_a", "score_b", "score_c"}
    numbers |= {"prediction", "ground_truth"} if kind == "regression" else set()
    names = ["prediction_id", "model_version", "prediction", "ground_truth", "latency_ms", "error", "feature_origin"]
    names += ["plane", *(["score_a", "score_b", "score_c"] if kind == "multiclass" else ["score"])]
    kinds = {name: pa.float64() if name in numbers else pa.string() for name in names}
    return pa.table({name: pa.array([row.get(name) for row in rows], kind) for name, kind in kinds.items()})


@pytest.mark.parametrize("kind", TASKS)
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_any_split_and_order_of_the_rows_says_the_same(kind: str, data: st.DataObject) -> None:
    """Rows of one id stay together with its labels; other labels may be there or not."""
    question, rows = TASKS[kind], data.draw(facts_of(kind))
    when = st.integers(-1, 6).map(at)
    truth = CLASSES[kind].filter(lambda value: value is not None)
    labels = data.draw(st.lists(st.tuples(st.sampled_from(IDS[:-1]), truth, when), max_size=20))
    whole = evaluate_part(question, facts_table(rows, kind), labels_table(labels), at(2))
    bucket = {name: data.draw(st.integers(0, 3)) for name in IDS}
    total = Part(question.task)
    for k in data.draw(st.permutations(range(4))):
        mine = data.draw(st.permutations([row for row in rows if bucket[row["prediction_id"]] == k]))
        known = [label for label in labels if bucket[label[0]] == k or data.draw(st.booleans())]
        part = evaluate_part(question, facts_table(mine, kind), labels_table(known), at(2))
        total = Part.from_bytes(part.to_bytes()) + total if k % 2 else total + part
    assert total.to_bytes() == whole.to_bytes()
    assert evaluation(question, total) == evaluation(question, whole)
    assert pickle.loads(pickle.dumps(whole)) == whole  # noqa: S301 - made above


@pytest.mark.parametrize("kind", TASKS)
@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_several_moments_at_once_say_what_each_says_alone(kind: str, data: st.DataObject) -> None:
    question, facts = TASKS[kind], facts_table(data.draw(facts_of(kind)), kind)
    truth = CLASSES[kind].filter(lambda value: value is not None)
    rows = data.draw(st.lists(st.tuples(st.sampled_from(IDS[:-1]), truth, st.integers(0, 5).map(at)), max_size=20))
    labels = labels_table(rows)
    moments = [at(hours) for hours in (0, 2, 9)]
    known = gathered([label_rows(labels, numeric=kind == "regression")])
    together = evaluate_parts(question, facts, known, moments)
    assert together == [evaluate_part(question, facts, labels, moment) for moment in moments]


@given(
    rows=facts_of("binary"),
    labels=st.lists(st.tuples(st.sampled_from(IDS[:-1]), st.sampled_from([0, 1]), st.integers(0, 5)), max_size=20),
)
@settings(max_examples=60, deadline=None)
def test_a_binary_window_says_what_its_rows_say(rows: list[dict[str, Any]], labels: list[tuple[str, int, int]]) -> None:
    found = said(TASKS["binary"], facts_table(rows, "binary"), labels_table([(i, t, at(h)) for i, t, h in labels]), 2)
    late: dict[str, tuple[int, int]] = {}
    for name, truth, hour in labels:
        if hour <= 2:
            late[name] = max(late.get(name, (hour, truth)), (hour, truth))
    correct: dict[str, list[bool]] = {"*": []}
    for row in rows:
        truth = late[row["prediction_id"]][1] if row["prediction_id"] in late else row["ground_truth"]
        if truth is not None and row["prediction"] is not None:
            right = (str(truth) == "0") == (row["prediction"] == "0")
            for label in ("*", f"origin={row['feature_origin']}", f"plane={row['plane']}"):
                correct.setdefault(label, []).append(right)
    planes = Counter(row["plane"] for row in rows if row["plane"])
    frequent = sorted(planes, key=lambda name: (-planes[name], name))[:2]
    wanted = ["*", "origin=EWR", "origin=JFK", *(f"plane={name}" for name in frequent)]
    each = {label: correct.get(label, []) for label in wanted}
    assert found.segments == {label: (len(rights), sum(rights), sum(rights)) for label, rights in each.items()}
    assert found.coverage == (len(correct["*"]) / len(rows) if rows else 0)
    assert found.scores["accuracy"].value == (sum(correct["*"]) / len(correct["*"]) if correct["*"] else None)
    assert found.service.failed == sum(row["error"] is not None for row in rows)
    outcomes, segments = sums_from_bytes(found.to_bytes())
    assert (outcomes, segments) == (found.outcomes, found.segments)


# ---- classes

ONES = [pa.array([1, 0, None]), pa.array([1.0, 0.0, None]), pa.array([True, False, None]), pa.array(["1", "0", None])]
ONES += [pa.array(["1.0", "0.0", None]), pa.array(["true", "False", None]), pa.array([" 1 ", "0", None])]
ONES += [pa.array([1, 0, None], pa.uint8()), pa.array([np.float16(1), np.float16(0), None], pa.float16())]
ONES += [pa.array(["1", "0", None]).dictionary_encode(), pa.array([Decimal("1.00"), Decimal("0.00"), None])]
ONES += [pa.array([1.0, 0.0, float("nan")]), pa.array(["1", "0", None], pa.string_view())]


@pytest.mark.parametrize("values", ONES, ids=lambda values: f"{values.type} {values[0]}")
@pytest.mark.parametrize("positive", [1, 1.0, "1", True, 0], ids=repr)
def test_one_is_one_in_every_type(values: pa.Array, positive: object) -> None:
    labels = pa.table({"prediction_id": ["a", "b", "c"], "ground_truth": values, "label_timestamp": [NOON] * 3})
    facts = pa.table({"prediction_id": ["a", "b", "c"], "prediction": ["1", "1", "1"]})
    found = said(Question("binary", positive), facts, labels)
    one = ("0", "1")[positive != 0]
    assert found.outcomes.cells == {(one, one): 1, (("1", "0")[positive != 0], one): 1}
    assert found.coverage == pytest.approx(2 / 3)


def of_classes(positive: object, truth: list[Any], prediction: list[Any]) -> Evaluation:
    return said(Question("binary", positive), pa.table({"prediction": prediction, "ground_truth": truth}))


@pytest.mark.parametrize(
    ("positive", "truth", "prediction", "known"),
    [
        (1, ["1", "0", "yes"], ["1", "0", "1"], 2),  # neither class: left out, not guessed
        (1, ["1", "no", "no"], ["1", "no", "1"], 3),  # the one other name
        (1, ["1", "no", "0"], ["1", "1", "1"], 2),  # 0 is there: the other name is none
        ("late", ["late", "on time", None], ["late", "late", "late"], 2),
        ("late", ["late", "late", "late"], ["late", "on time", "late"], 3),
        ("late", ["late", "on time", "late"], ["late", "early", "late"], 3),  # each side has one other
        ("late", ["late", "on time", "cancelled"], ["late", "late", "late"], 0),  # nothing says which is negative
        ("late", ["late", "late", "late"], ["late", "on time", "cancelled"], 0),
        ("late", [None, None, None], ["late", "late", "late"], 0),
    ],
)
def test_the_negative_class_is_settled_over_the_whole_window(
    positive: object, truth: list[Any], prediction: list[Any], known: int
) -> None:
    assert of_classes(positive, truth, prediction).segments["*"][0] == known
    question = Question("binary", positive)
    parts = [
        evaluate_part(question, pa.table({"prediction": pa.array([p], pa.string()), "ground_truth": [t]}), None, NOON)
        for t, p in zip(truth, prediction, strict=True)
    ]
    assert evaluation(question, sum(parts, Part("binary"))).segments["*"][0] == known


def test_a_dictionary_s_unused_values_are_no_classes() -> None:
    """Neither labels of other windows nor later ones nor what a file's dictionary holds besides."""
    facts = pa.table(
        {"prediction_id": ["a", "b"], "prediction": pa.array(["late", "on time", "x"]).dictionary_encode()[:2]}
    )
    rows = [("a", "late", at(0)), ("b", "on time", at(0)), ("b", "never", at(9)), ("z", "lost", at(0))]
    assert said(Question("binary", "late"), facts, labels_table(rows), 1).scores["accuracy"].value == 1.0


def test_what_there_is_nothing_of() -> None:
    question = TASKS["binary"]
    empty = said(question, pa.table({"prediction_id": pa.array([], pa.string())}))
    assert (empty.coverage, empty.versions, empty.segments) == (0.0, ("unknown",), {"*": (0.0, 0.0, 0.0)})
    assert empty.scores["accuracy"].reason == "no rows"
    unlabelled = said(question, pa.table({"prediction": ["1", "0"], "model_version": ["3", None]}))
    assert (unlabelled.coverage, unlabelled.versions) == (0.0, ("3", "unknown"))
    assert unlabelled.service.rows == 2
    silent = said(question, pa.table({"prediction_id": ["a"]}), labels_table([("a", 1, at(0))]))
    assert silent.coverage == 0.0
    assert evaluation(question, Part("binary")).scores == Outcomes("binary").scores()


def test_labels_of_two_types_meet_as_text_and_fingerprints_stand_for_ids() -> None:
    facts = pa.table({"prediction_id": ["a", "b"], "prediction": ["1", "0"]})
    parts = [labels_table([("a", 1, at(0))]), labels_table([("b", "0", at(0))])]
    known = gathered([label_rows(part, numeric=False) for part in parts])
    assert evaluation(Question("binary"), evaluate_parts(Question("binary"), facts, known, [NOON])[0]).coverage == 1.0
    keys = label_rows(parts[0], numeric=False).keys
    hashed = pa.table({FINGERPRINT: pa.array([int(keys[0]), None]), "prediction": ["1", "0"]})
    assert said(Question("binary"), hashed, parts[0]).coverage == 0.5


@pytest.mark.parametrize("damage", [b"", b"junk", Part("binary").to_bytes()[:-3]])
def test_damaged_parts_are_refused(damage: bytes) -> None:
    with pytest.raises(HindcastError, match="damaged"):
        Part.from_bytes(damage)


def test_executors_need_neither_airflow_nor_sqlalchemy_nor_pandas() -> None:
    program = """
import sys, hindcast.performance.parts
heavy = {"airflow", "sqlalchemy", "great_expectations", "pandas", "pydantic", "sklearn", "scipy.stats"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True)


# ---- files


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> worlds.World:
    """One pulled hour and its labels; the segment origin is no feature."""
    made = worlds.write(tmp_path_factory.mktemp("evaluation"), hours=1, rows=300)
    with_run(made)
    return made


def with_run(world: worlds.World) -> Run:
    run = Run.open("alpha", Window(worlds.at(0)), worlds.at(48), config=world.models, results=world.results)
    if not run.artifact("facts", ".parquet").exists():
        commit(run, compute(run, "pull"), 0.0)
    return run


def evaluated(run: Run, *ages: float) -> list[Evaluation]:
    local._HELD.clear()
    moments = [run.window.end + settle(run.model) + timedelta(hours=age) for age in ages]
    found = local.evaluate(run, run.window, moments)
    assert found is not None
    return found


def test_parts_by_the_hash_of_the_ids_say_what_the_whole_says(world: worlds.World) -> None:
    run = with_run(world)
    whole = evaluated(run, 0, 6, 24)
    assert [round(each.coverage, 2) for each in whole] == sorted(round(each.coverage, 2) for each in whole)
    assert 0 < whole[0].coverage < whole[2].coverage < 1
    for rows in (299, 100, 7):
        with patch.object(local, "_JOINED_ROWS", rows), patch.object(local, "_HELD_ROWS", rows):
            assert evaluated(run, 0, 6, 24) == whole


def test_a_sidecar_in_a_folder_says_what_one_file_says(world: worlds.World, tmp_path: Path) -> None:
    copy = worlds.copied(world, tmp_path / "w")
    run = with_run(copy)
    whole, path = evaluated(run, 0, 24), run.artifact("facts", ".parquet")
    facts = pq.read_table(path)
    path.unlink()
    path.mkdir()
    for k in range(3):
        rows = facts.filter(pa.array((np.arange(facts.num_rows) % 3 == k).tolist()))
        pq.write_table(rows if k else rows.drop_columns(FINGERPRINT), path / f"bucket-{k}.parquet", row_group_size=40)
    assert evaluated(run, 0, 24) == whole


def test_a_label_filed_after_a_moment_is_unknown_then_however_old_it_is(world: worlds.World, tmp_path: Path) -> None:
    copy = worlds.copied(world, tmp_path / "w")
    run = with_run(copy)
    before = evaluated(run, 0, 24)
    ids = pq.read_table(run.artifact("facts", ".parquet")).column("prediction_id").to_pylist()
    late = labels_table([(name, 1, worlds.at(0.5)) for name in ids])
    folder = worlds.partition(copy.labels(), worlds.at(12))
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(late, folder / "filed-late.parquet")
    after = evaluated(run, 0, 24)
    assert after[0] == before[0]
    assert after[1].coverage == 1.0
    assert after == [evaluated(run, 0)[0], evaluated(run, 24)[0]]


def test_a_window_without_rows_is_not_evaluated(world: worlds.World) -> None:
    run = with_run(world)
    assert local.evaluate(run, run.window - 5, [worlds.at(3)]) is None
