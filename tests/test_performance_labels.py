"""Late labels joined as of a moment, against a join written out in Python; classes that are the same in any type."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, date, datetime, timedelta, timezone

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hindcast.errors import SourceUnreadable, UsageError
from hindcast.performance.labels import join_labels
from hindcast.performance.parts import label_tables

NOON = datetime(2013, 4, 16, 12, tzinfo=UTC)


def labels_table(rows, *, ids=None, truth=None, times=None):
    columns = list(zip(*rows, strict=True)) or [[], [], []]
    return pa.table(
        {
            "prediction_id": pa.array(columns[0], ids or pa.string()),
            "ground_truth": pa.array(columns[1], truth or pa.int64()),
            "label_timestamp": pa.array(columns[2], times or pa.timestamp("us", "UTC")),
        }
    )


def at(hours):
    return NOON + timedelta(hours=hours)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"ground_truth": [[1, None]]}, "nothing can be made of ground_truth (list<element: int64>)"),
        ({"ground_truth": [{"x": 1}]}, "nothing can be made of ground_truth (struct<x: int64>)"),
        ({"label_timestamp": [1_700_000_000]}, "nothing can be made of label_timestamp (int64)"),
        ({"prediction_id": [["a"]]}, "nothing can be made of prediction_id (list<element: string>)"),
        ({"id": ["a"], "prediction_id": None}, "it lacks prediction_id"),
        ({"ground_truth": None, "label_timestamp": None}, "it lacks ground_truth, label_timestamp"),
    ],
)
def test_a_file_that_holds_no_labels_is_named_with_the_reason(tmp_path, columns, said):
    given = {"prediction_id": ["a"], "ground_truth": [1], "label_timestamp": [NOON], **columns}
    table = pa.table({name: values for name, values in given.items() if values is not None})
    pq.write_table(table, tmp_path / "labels.parquet")
    with pq.ParquetFile(tmp_path / "labels.parquet") as file, pytest.raises(SourceUnreadable) as error:
        list(label_tables(file, "day/labels.parquet"))
    assert str(error.value) == f"day/labels.parquet: holds no labels: {said}"
    pq.write_table(table.slice(0, 0), tmp_path / "labels.parquet")
    with pq.ParquetFile(tmp_path / "labels.parquet") as file:
        assert list(label_tables(file, "day/labels.parquet")) == [], "of no rows nothing is asked"


def test_a_label_from_after_as_of_does_not_exist_yet():
    labels = labels_table([("a", 0, at(0)), ("a", 1, at(2)), ("b", 1, at(1))])
    ids = pa.array(["a", "b", "c"])
    assert join_labels(ids, labels, at(-1)).ground_truth.to_pylist() == [None, None, None]
    assert join_labels(ids, labels, at(0)).ground_truth.to_pylist() == [0, None, None]
    assert join_labels(ids, labels, at(1)).ground_truth.to_pylist() == [0, 1, None]
    assert join_labels(ids, labels, at(2)).ground_truth.to_pylist() == [1, 1, None]


def test_counts_say_what_became_of_every_label():
    labels = labels_table(
        [
            ("a", 0, at(0)),
            ("a", 1, at(1)),
            ("z", 1, at(0)),
            ("z", 0, at(-1)),
            ("b", None, at(0)),
            ("c", 1, None),
            (None, 1, at(0)),
        ]
    )
    joined = join_labels(pa.array(["a", "b", "c", None]), labels, at(5))
    assert joined.ground_truth.to_pylist() == [1, None, None, None]
    assert joined.known.tolist() == [True, False, False, False]
    assert (joined.coverage, joined.orphans, joined.superseded, joined.undated) == (0.25, 1, 2, 1)


def test_a_null_label_does_not_replace_a_known_one():
    joined = join_labels(pa.array(["a"]), labels_table([("a", 1, at(0)), ("a", None, at(1))]), at(5))
    assert joined.ground_truth.to_pylist() == [1]


def test_nan_is_no_label_either():
    labels = labels_table([("a", 1.5, at(0)), ("a", float("nan"), at(1))], truth=pa.float64())
    assert join_labels(pa.array(["a"]), labels, at(5)).ground_truth.to_pylist() == [1.5]


def test_every_row_of_a_repeated_id_gets_the_label():
    joined = join_labels(pa.array(["a", "b", "a"]), labels_table([("a", 1, at(0))]), at(5))
    assert joined.ground_truth.to_pylist() == [1, None, 1]
    assert joined.coverage == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("kind", "values", "winner"),
    [
        (pa.int64(), [1, 0], 1),
        (pa.float64(), [0.5, 2.5], 2.5),
        (pa.bool_(), [True, False], True),
        (pa.string(), ["ham", "spam"], "spam"),
        (pa.dictionary(pa.int8(), pa.string()), ["spam", "ham"], "spam"),
    ],
)
def test_of_labels_of_the_same_moment_the_largest_wins_in_any_order(kind, values, winner):
    rows = [("a", value, at(0)) for value in values]
    for order in (rows, rows[::-1]):
        joined = join_labels(pa.array(["a"]), labels_table(order, truth=kind), at(5))
        assert joined.ground_truth.to_pylist() == [winner]


IDS = [
    pa.string(),
    pa.large_string(),
    pa.string_view(),
    pa.dictionary(pa.int32(), pa.string()),
    pa.dictionary(pa.int8(), pa.large_string()),
]


@pytest.mark.parametrize("left", IDS, ids=str)
@pytest.mark.parametrize("right", IDS, ids=str)
def test_ids_match_across_string_types(left, right):
    labels = labels_table([("b", 1, at(0)), ("a", 0, at(0)), (None, 1, at(0))], ids=right)
    ids = (
        pa.array(["x", "a", "b", None], pa.string()).cast(left)
        if not pa.types.is_dictionary(left)
        else pa.array(["x", "a", "b", None], left)
    )
    assert join_labels(ids, labels, at(5)).ground_truth.to_pylist() == [None, 0, 1, None]


def test_integer_ids_match_their_text():
    labels = labels_table([("7", 1, at(0))])
    assert join_labels(pa.array([7, 8]), labels, at(5)).known.tolist() == [True, False]


def test_chunks_and_slices_change_nothing():
    labels = labels_table([("x", 9, at(0)), ("a", 0, at(0)), ("b", None, at(0)), ("b", 1, at(0))])
    halves = pa.concat_tables([labels.slice(1, 1), labels.slice(2)])
    ids = pa.chunked_array([pa.array(["q", "a"]).slice(1), pa.array([], pa.string()), pa.array(["b", "c"])])
    assert join_labels(ids, halves, at(5)).ground_truth.to_pylist() == [0, 1, None]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "America/New_York"])
def test_a_label_of_exactly_as_of_is_known_in_every_unit_and_zone(unit, zone):
    """A naive time is UTC, that of a zone is the same moment whatever the zone."""
    moment = NOON.replace(tzinfo=None) if zone is None else NOON
    labels = labels_table([("a", 1, moment)], times=pa.timestamp(unit, zone))
    ids = pa.array(["a"])
    assert join_labels(ids, labels, NOON).known.all()
    assert not join_labels(ids, labels, NOON - timedelta(microseconds=1)).known.any()
    assert join_labels(ids, labels, NOON.replace(tzinfo=None)).known.all()
    assert join_labels(ids, labels, NOON.astimezone(timezone(timedelta(hours=9)))).known.all()


def test_a_nanosecond_after_as_of_is_after_it():
    nanoseconds = int(NOON.timestamp()) * 10**9
    labels = labels_table([("a", 1, nanoseconds), ("b", 1, nanoseconds + 1)], times=pa.timestamp("ns", "UTC"))
    assert join_labels(pa.array(["a", "b"]), labels, NOON).known.tolist() == [True, False]


def test_as_of_before_1970_rounds_down():
    labels = labels_table([("a", 1, -1)], times=pa.timestamp("s"))
    assert not join_labels(pa.array(["a"]), labels, datetime(1969, 12, 31, 23, 59, 58, 999999, tzinfo=UTC)).known.any()
    assert join_labels(pa.array(["a"]), labels, datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC)).known.all()


def test_dates_are_midnights():
    labels = labels_table([("a", 1, date(2013, 4, 16))], times=pa.date32())
    assert join_labels(pa.array(["a"]), labels, datetime(2013, 4, 16, tzinfo=UTC)).known.all()


def test_empty_sides():
    ids, labels = pa.array(["a"]), labels_table([("a", 1, at(0))])
    untyped = pa.table({"prediction_id": [], "ground_truth": [], "label_timestamp": []})
    for empty in (labels.slice(0, 0), untyped, pa.Table.from_batches([], labels.schema)):
        joined = join_labels(ids, empty, at(5))
        assert (joined.ground_truth.to_pylist(), joined.coverage, joined.orphans) == ([None], 0.0, 0)
    for none in (pa.array([], pa.string()), pa.array([])):
        joined = join_labels(none, labels, at(5))
        assert (len(joined.ground_truth), joined.known.size, joined.coverage, joined.orphans) == (0, 0, None, 1)


def test_delay_is_in_hours_and_unknown_without_a_label():
    labels = labels_table([("a", 1, at(6)), ("b", 1, at(1))])
    times = pa.array([NOON, None, NOON], pa.timestamp("ns", "UTC"))
    joined = join_labels(pa.array(["a", "b", "c"]), labels, at(9), prediction_times=times)
    assert joined.delay_hours.tolist() == pytest.approx([6.0, np.nan, np.nan], nan_ok=True)
    assert join_labels(pa.array(["a"]), labels, at(9)).delay_hours is None


def test_tables_that_are_no_labels_are_refused():
    labels = labels_table([("a", 1, at(0))])
    with pytest.raises(UsageError, match="label_timestamp"):
        join_labels(pa.array(["a"]), labels.drop_columns("label_timestamp"), NOON)
    with pytest.raises(UsageError, match="must be a timestamp"):
        join_labels(pa.array(["a"]), labels.set_column(2, "label_timestamp", pa.array(["noon"])), NOON)
    with pytest.raises(UsageError, match="must be strings or integers"):
        join_labels(pa.array([0.5]), labels, NOON)


def joined_by_hand(ids, rows, as_of):
    best = {}
    for name, truth, time in rows:
        if name is not None and truth is not None and time is not None and time <= as_of:
            best[name] = max(best.get(name, (time, truth)), (time, truth))
    return [best[name][1] if name in best else None for name in ids], len(set(best) - set(ids))


NAME = st.one_of(st.none(), st.sampled_from("abcdef"))
LABEL = st.tuples(NAME, st.one_of(st.none(), st.integers(0, 3)), st.one_of(st.none(), st.integers(0, 5).map(at)))


@given(ids=st.lists(NAME, max_size=12), rows=st.lists(LABEL, max_size=25), hours=st.integers(-1, 6), data=st.data())
@settings(max_examples=150, deadline=None)
def test_join_equals_the_join_by_hand_in_any_order_of_the_labels(ids, rows, hours, data):
    expected, orphans = joined_by_hand(ids, rows, at(hours))
    joined = join_labels(pa.array(ids, pa.string()), labels_table(data.draw(st.permutations(rows))), at(hours))
    assert joined.ground_truth.to_pylist() == expected
    assert joined.known.tolist() == [truth is not None for truth in expected]
    assert joined.orphans == orphans
    usable = sum(None not in row and row[2] <= at(hours) for row in rows)
    assert (
        usable
        == len({name for name, truth in zip(ids, expected, strict=True) if truth is not None})
        + orphans
        + joined.superseded
    )


def test_many_rows_join_as_a_dictionary_does():
    rng = np.random.default_rng(0)
    names = [f"{i:08x}" for i in rng.permutation(50_000)]
    of = rng.integers(0, 40_000, 60_000)
    seconds = rng.integers(0, 10**9, of.size)
    truth = rng.integers(0, 2, of.size)
    labels = pa.table(
        {
            "prediction_id": [names[i] for i in of],
            "ground_truth": truth,
            "label_timestamp": pa.array(seconds, pa.timestamp("s")),
        }
    )
    expected = {}
    for i in np.lexsort((truth, seconds)).tolist():
        if seconds[i] <= 5 * 10**8:
            expected[names[of[i]]] = int(truth[i])
    wanted = names[10_000:]
    joined = join_labels(pa.array(wanted), labels, datetime.fromtimestamp(5 * 10**8, UTC))
    assert joined.ground_truth.to_pylist() == [expected.get(name) for name in wanted]


def test_the_join_does_not_import_pandas():
    """Which `pa.array`, `pa.scalar` and `to_numpy` do, for a quarter of a second in every task."""
    program = """
import sys
import numpy as np, pyarrow as pa
from datetime import datetime
from hindcast.performance.labels import join_labels
numbers = pa.Array.from_buffers(pa.int64(), 3, [pa.py_buffer(bytes([5])), pa.py_buffer(np.arange(3).tobytes())])
columns = {"prediction_id": numbers, "ground_truth": numbers, "label_timestamp": numbers.cast(pa.timestamp("us"))}
labels = pa.table(columns)
joined = join_labels(numbers, labels, datetime(2013, 4, 16))
assert joined.known.tolist() == [True, False, True], joined
assert "pandas" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)
