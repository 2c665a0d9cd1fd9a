"""The scan counts what a naive reading counts, whatever the types, and however rows lie in files and row groups."""

import io
import itertools
import subprocess
import sys
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hindcast.errors import SourceUnreadable
from hindcast.profile import columns, files, scan
from hindcast.profile.bins import Bins
from hindcast.profile.columns import open_parquet, texts
from hindcast.profile.fit import ValueCounts, fit_bins, kind_of
from hindcast.profile.hashing import fingerprint64
from hindcast.profile.profile import NEW_VALUES_KEPT, NULL, Profile
from hindcast.profile.scan import MISSING, Expected, Scanner
from hindcast.profiling import profile_files

EDGES = np.array([-1e300, -100.0, -1.0, np.nextafter(0, -1), 0.0, 5e-324, 0.1, 0.5, 1.0, 2.0, 7.0, 1e6, 2.0**53, 1e300])
KNOWN = ("a", "b", "1", "true", "é")
BINS = Bins(("feature_n",), (EDGES,), ("feature_t",), (KNOWN,))
EXPECTED = Expected({"feature_n": (0, 5.5)}, {"feature_t": frozenset({"a", "2", "zebra"})})
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Number = float | None


def as_written(table: pa.Table, group: int = 1000, dictionaries: Sequence[str] = ()) -> pq.ParquetFile:
    file = io.BytesIO()
    pq.write_table(table, file, row_group_size=group)
    return open_parquet(file, dictionaries)


def scanned(
    *files: pq.ParquetFile, bins: Bins = BINS, expected: Expected | None = EXPECTED, prefix: str = "feature_"
) -> Profile:
    scanner = Scanner(bins, expected, prefix=prefix)
    for file in files:
        scanner.read(file)
    return scanner.profile


def microseconds(moment: datetime) -> float:
    return float((moment.replace(tzinfo=UTC) - EPOCH) // (datetime.resolution))


def shown(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


# How to make values of a type, and what they are as a number and as text; None: they are neither.
@dataclass(frozen=True)
class Kind:
    type: pa.DataType
    values: st.SearchStrategy[Any]
    number: Callable[[Any], float] | None = None
    text: Callable[[Any], str] | None = None


wide = st.floats() | st.sampled_from(EDGES.tolist())
# numbers that print alike in Python and in Arrow
plain = st.sampled_from([0.0, -0.0, 1.0, 2.0, 0.5, -3.25, 100.0, 2.0**60])
words = st.sampled_from([*KNOWN, "z", "zebra", "", "2"])
days = st.dates(date(1900, 1, 1), date(2200, 1, 1))
moments = st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1))  # noqa: DTZ001 - naive is what Arrow is given
spans = timedelta(days=10_000)
NUMERIC = [
    Kind(pa.float64(), wide, float),
    Kind(pa.float32(), st.floats(width=32), float),
    Kind(pa.float16(), st.floats(width=16).map(np.float16), float),
    *[
        Kind(t, st.integers(-128, 127) if t == pa.int8() else st.integers(-(2**31), 2**31 - 1), float)
        for t in (pa.int8(), pa.int32())
    ],
    Kind(pa.int64(), st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 3), float),
    Kind(pa.uint64(), st.integers(0, 2**64 - 1), float),
    Kind(pa.dictionary(pa.int8(), pa.float64()), st.floats(width=16), float),
    Kind(pa.bool_(), st.booleans(), float),
    Kind(pa.decimal128(12, 2), st.decimals(-9_999_999, 9_999_999, places=2), float),
    *[
        Kind(pa.timestamp(unit, zone), moments.map(lambda m: m.replace(microsecond=0)), microseconds)
        for unit in ("ms", "us", "ns")
        for zone in (None, "UTC")
    ],
    Kind(pa.date32(), days, lambda d: (d - date(1970, 1, 1)).days * 86_400e6),
    Kind(
        pa.duration("ms"),
        st.timedeltas(-spans, spans).map(lambda d: d - d % (1000 * datetime.resolution)),
        lambda d: float(d // datetime.resolution),
    ),
    *[
        Kind(t, words)
        for t in (pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int16(), pa.string()))
    ],
    Kind(pa.list_(pa.int64()), st.lists(st.integers(0, 3))),
    Kind(pa.null(), st.none()),
]
TEXT = [
    *[Kind(t, words, text=str) for t in (pa.string(), pa.large_string(), pa.string_view())],
    Kind(pa.dictionary(pa.int8(), pa.string()), words, text=str),
    Kind(pa.float64(), plain, text=shown),
    Kind(pa.float32(), plain.filter(lambda v: v < 2**50), text=shown),
    Kind(pa.int64(), st.integers(-3, 3), text=str),
    Kind(pa.bool_(), st.booleans(), text=lambda v: str(v).lower()),
    Kind(pa.binary(), words.map(str.encode), text=bytes.decode),
    Kind(pa.struct([("x", pa.int64())]), st.fixed_dictionaries({"x": st.integers(0, 2)})),
    Kind(pa.null(), st.none()),
]  # fmt: skip


@dataclass(frozen=True)
class Part:
    """One file: a column of numbers and one of text, or one of both left out; rows per row group."""

    number: Kind | None
    numbers: list[Any]
    text: Kind | None
    texts: list[Any]
    group: int
    read_dictionary: bool

    def file(self, order: Sequence[int] | None = None, group: int | None = None) -> pq.ParquetFile:
        order = range(len(self.numbers)) if order is None else order
        content = {"row": pa.array(order, pa.int64())}
        if self.number:
            content["feature_n"] = pa.array([self.numbers[k] for k in order], self.number.type)
        if self.text:
            content["feature_t"] = pa.array([self.texts[k] for k in order], self.text.type)
        dictionaries = ["feature_t", "feature_n"] if self.read_dictionary else []
        return as_written(pa.table(content), group or self.group, dictionaries)


@st.composite
def parts(draw: st.DrawFn) -> Part:
    number, text = draw(st.none() | st.sampled_from(NUMERIC)), draw(st.none() | st.sampled_from(TEXT))
    n = draw(st.integers(0, 12))
    numbers = draw(st.lists(st.none() | number.values, min_size=n, max_size=n)) if number else [None] * n
    found = draw(st.lists(st.none() | text.values, min_size=n, max_size=n)) if text else [None] * n
    return Part(number, numbers, text, found, draw(st.integers(1, 6)), draw(st.booleans()))


def named(kind: Kind | None) -> str:
    if kind is None:
        return MISSING
    inner = kind.type.value_type if pa.types.is_dictionary(kind.type) else kind.type
    is_text = inner in (pa.string(), pa.large_string(), pa.string_view())
    return "string" if is_text else str(pq.read_schema(written_type(kind)).field(0).type)


def written_type(kind: Kind) -> io.BytesIO:
    """Parquet knows no seconds, and names the items of lists anew."""
    file = io.BytesIO()
    pq.write_table(pa.table({"a": pa.array([], kind.type)}), file)
    return file


def naive(given_parts: Sequence[Part]) -> Profile:
    """The profile as one would count it by hand, value by value."""
    profile, new = Profile.empty(BINS), Counter[str]()
    types: dict[str, Counter[str]] = {"feature_n": Counter(), "feature_t": Counter()}
    for part in given_parts:
        n = len(part.numbers)
        profile.rows += n
        # of a struct, the fields are columns; what it is called itself is none
        text = None if part.text and pa.types.is_struct(part.text.type) else part.text
        types["feature_n"][named(part.number)] += n
        types["feature_t"][named(text)] += n
        if part.number:
            for value in part.numbers:
                count_number(profile, part.number, value)
        if text:
            for value in part.texts:
                count_text(profile, text, value, new)
    profile.types = {k: dict(+v) for k, v in types.items() if +v}
    if new:
        keys = dict(zip(new, fingerprint64(pa.array(list(new))).tolist(), strict=True))
        profile.new_values = {"feature_t": {name: (keys[name], count) for name, count in new.items()}}
    return profile


def count_number(profile: Profile, kind: Kind, value: Any) -> None:
    bad = profile.numeric[0, BINS.width :]
    if value is None:
        bad[0] += 1
    elif kind.number is None:
        bad[4] += 1
    elif np.isnan(kind.number(value)):
        bad[1] += 1
    elif np.isinf(kind.number(value)):
        bad[2 if kind.number(value) < 0 else 3] += 1
    else:
        x = kind.number(value)
        low, high = BINS.limits[0].tolist()
        profile.numeric[0, bisect_left(EDGES.tolist(), x)] += 1
        steps = Fraction(min(max(x, low), high) - float(BINS.center[0])) / Fraction(float(BINS.unit[0]))
        profile.sums[0, bisect_left(EDGES.tolist(), x)] += round(steps)
        profile.low[0], profile.high[0] = min(profile.low[0], x + 0.0), max(profile.high[0], x + 0.0)
        profile.outside[0] += (x < 0, x > 5.5)


def count_text(profile: Profile, kind: Kind, value: Any, new: Counter[str]) -> None:
    counts = profile.categorical[0]
    if value is None:
        counts[BINS.depth + 1] += 1
    elif kind.text is None:
        counts[BINS.depth + 2] += 1
    else:
        name = kind.text(value)
        counts[KNOWN.index(name) if name in KNOWN else BINS.depth] += 1
        new.update([name] * (name not in KNOWN))
        profile.outside[1, 0] += name not in {"a", "2", "zebra"}


def described(profile: Profile) -> dict[str, Any]:
    arrays = ("numeric", "sums", "categorical", "low", "high", "outside")
    new = {column: dict(sorted(values.items())) for column, values in profile.new_values.items() if values}
    return {"rows": profile.rows, "types": profile.types, "new": new} | {
        a: getattr(profile, a).tolist() for a in arrays
    }


@settings(deadline=None, max_examples=150)
@given(st.lists(parts(), max_size=3), st.sampled_from([0, 1_000_000]), st.sampled_from([2, 131_072]))
def test_counts_are_those_of_a_naive_reading(found: list[Part], cells_at_once: int, piece: int) -> None:
    with patch.object(columns, "_CELLS_AT_ONCE", cells_at_once), patch.object(scan, "_PIECE", piece):
        profile = scanned(*(part.file() for part in found))
    assert described(profile) == described(naive(found))


@settings(deadline=None, max_examples=60)
@given(st.lists(parts(), min_size=1, max_size=4), st.data())
def test_merging_equals_one_pass_in_any_order_and_split(found: list[Part], data: st.DataObject) -> None:
    whole = scanned(*(part.file() for part in found))
    pieces = []
    for part in found:
        order = data.draw(st.permutations(range(len(part.numbers))))
        cut = data.draw(st.integers(0, len(order)))
        group = data.draw(st.integers(1, 7))
        pieces += [scanned(part.file(order[:cut], group)), scanned(part.file(order[cut:], group))]
    pieces = data.draw(st.permutations(pieces))
    while len(pieces) > 1:  # add neighbours in any nesting
        at = data.draw(st.integers(0, len(pieces) - 2))
        pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
    assert pieces[0].to_bytes() == whole.to_bytes()


def test_a_large_row_group_counts_like_numpy_and_sums_within_half_a_unit_per_row() -> None:
    rng = np.random.default_rng(3)
    values = np.where(rng.random(300_000) < 0.2, 0.0, rng.lognormal(0, 3, 300_000))
    absent = rng.random(values.size) < 0.03
    edges = np.unique(np.quantile(values, np.linspace(0, 1, 500)))
    bins = Bins(("feature_n",), (edges,), (), ())
    profile = scanned(
        as_written(pa.table({"feature_n": pa.array(values, mask=absent)}), 300_000), bins=bins, expected=None
    )
    at = np.searchsorted(edges, values[~absent], side="left")
    assert profile.numeric[0, : bins.width].tolist() == np.bincount(at, minlength=bins.width).tolist()
    assert profile.numeric[0, bins.width + NULL] == absent.sum()
    sums = np.bincount(at, weights=values[~absent], minlength=bins.width)
    assert np.abs(profile.values()[0] - sums).max() <= bins.unit[0] * values.size / 2


def test_new_values_by_name_are_the_hundred_with_the_smallest_hashes_however_rows_are_split() -> None:
    rng = np.random.default_rng(5)
    values = [f"v{k}" for k in rng.zipf(1.3, 4000) % 900]
    whole = scanned(as_written(pa.table({"feature_t": values}), 5000))
    counts = Counter(values)
    keys = dict(zip(counts, fingerprint64(pa.array(list(counts))).tolist(), strict=True))
    smallest = sorted(counts, key=keys.__getitem__)[:NEW_VALUES_KEPT]
    assert len(counts) > 2 * NEW_VALUES_KEPT
    assert whole.new_values == {"feature_t": {name: (keys[name], counts[name]) for name in smallest}}
    assert whole.categorical[0, BINS.depth] == 4000
    shuffled = [values[k] for k in rng.permutation(len(values))]
    files = [as_written(pa.table({"feature_t": shuffled[k : k + 700]}), 90, ["feature_t"]) for k in range(0, 4000, 700)]
    merged = Profile.empty(BINS)
    for file in reversed(files):
        merged += scanned(file)
    assert merged.to_bytes() == whole.to_bytes() == scanned(*files).to_bytes()


def test_a_dictionary_may_hold_a_null_and_a_value_twice() -> None:
    column = pa.DictionaryArray.from_arrays(pa.array([0, 1, 2, None, 2, 1], pa.int8()), pa.array(["x", None, "x"]))
    found = texts(column)
    assert found is not None
    assert (found[0].to_pylist(), found[1].tolist()) == (["x", "x"], [1, 2])
    # two zeros, one text
    profile = scanned(as_written(pa.table({"feature_t": [0.0, -0.0, 0.0]})))
    assert {name: count for name, (_, count) in profile.new_values["feature_t"].items()} == {"0": 3}


def test_an_unused_dictionary_value_is_not_a_new_value() -> None:
    column = pa.DictionaryArray.from_arrays(pa.array([0, 0], pa.int8()), pa.array(["a", "unused"]))
    profile = scanned(as_written(pa.table({"feature_t": column})))
    assert profile.new_values.get("feature_t", {}) == {}


def test_text_that_is_no_utf8_is_counted_by_its_mended_form() -> None:
    broken = pa.StringArray.from_buffers(2, pa.py_buffer(np.array([0, 1, 2], np.int32)), pa.py_buffer(b"\xffa"))
    profile = scanned(as_written(pa.table({"feature_t": broken})))
    assert list(profile.new_values["feature_t"]) == ["\ufffd"]
    assert profile.categorical[0].tolist() == [1, 0, 0, 0, 0, 1, 0, 0]


def test_a_column_that_stands_twice_is_invalid_and_the_others_go_on() -> None:
    text = pa.array(["a", "b", "z"])
    twice = pa.table([pa.array([1, 2, 9]), text, text], names=["feature_n", "feature_t", "feature_t"])
    for at_once in (0, 1_000_000):
        with patch.object(columns, "_CELLS_AT_ONCE", at_once):
            profile = scanned(as_written(twice))
        assert profile.categorical[0].tolist() == [0, 0, 0, 0, 0, 0, 0, 3]
        assert profile.types == {"feature_n": {"int64": 3}, "feature_t": {"(unreadable)": 3}}
        assert profile.numeric[0, : BINS.width].sum() == 3


def test_files_without_rows_or_row_groups_change_nothing() -> None:
    schema = pa.schema([("feature_n", pa.float64())])
    empty, no_groups = io.BytesIO(), io.BytesIO()
    pq.write_table(schema.empty_table(), empty)
    pq.ParquetWriter(no_groups, schema).close()
    assert pq.ParquetFile(no_groups).num_row_groups == 0
    profile = scanned(pq.ParquetFile(empty), pq.ParquetFile(no_groups))
    assert profile.to_bytes() == Profile.empty(BINS).to_bytes()


def test_training_files_may_leave_the_prefix_out() -> None:
    prefixed = scanned(as_written(pa.table({"feature_n": [1.0, 2.0], "feature_t": ["a", "q"]})))
    bare = scanned(as_written(pa.table({"n": [1.0, 2.0], "t": ["a", "q"]})), prefix="")
    assert bare.to_bytes() == prefixed.to_bytes()


def test_units_of_time_do_not_show() -> None:
    moments = [datetime(2026, 3, 2, 15, 4, 5), None, datetime(1969, 12, 31)]  # noqa: DTZ001 - naive is UTC
    profiles = [
        scanned(as_written(pa.table({"feature_n": pa.array(moments, pa.timestamp(u))})))
        for u in ("s", "ms", "us", "ns")
    ]
    assert len({str(profile.numeric.tolist() + profile.sums.tolist()) for profile in profiles}) == 1


@pytest.mark.parametrize("column", ["feature_n", "feature_t"])
def test_a_damaged_file_is_an_arrow_error(column: str) -> None:
    file = io.BytesIO()
    table = pa.table({"feature_n": np.arange(1000.0), "feature_t": ["abcdefgh" * 8] * 1000})
    pq.write_table(table, file, row_group_size=500, compression="zstd", use_dictionary=False)
    content = bytearray(file.getvalue())
    at = pq.ParquetFile(file).metadata.row_group(1).column(table.schema.get_field_index(column)).data_page_offset
    content[at : at + 60] = b"\xff" * 60
    scanner = Scanner(BINS)
    with pytest.raises((pa.ArrowException, OSError)):
        scanner.read(pq.ParquetFile(io.BytesIO(content)))
    assert scanner.profile == Profile.empty(BINS)


SOUND = io.BytesIO()
pq.write_table(
    pa.table({"feature_n": np.arange(300.0), "feature_t": ["a", "b", "zebra"] * 100}), SOUND, row_group_size=100
)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(4, len(SOUND.getvalue()) - 9), st.integers(0, 255)), min_size=1, max_size=5))
def test_whatever_bytes_are_damaged_it_reads_or_is_an_arrow_error(changes: list[tuple[int, int]]) -> None:
    content = bytearray(SOUND.getvalue())
    for at, byte in changes:
        content[at] = byte
    try:
        profile = scanned(open_parquet(io.BytesIO(content), ["feature_t"]))
    except (pa.ArrowException, OSError):
        return
    assert (profile.numeric.sum(), profile.categorical.sum()) in {
        (profile.rows, profile.rows),
        (profile.rows, 0),
        (0, profile.rows),
        (0, 0),
    }


def test_bins_are_fitted_to_all_files_and_hold_what_they_were_fitted_to() -> None:
    first = pa.table({"feature_n": pa.array([1, 2, None]), "feature_t": ["x", "x", "y"], "feature_e": pa.nulls(3)})
    second = pa.table(
        {"feature_n": [0.5, float("nan"), float("inf")], "feature_t": pa.array(["y", None, "x"]).dictionary_encode()}
    )
    both = [as_written(first), as_written(second)]
    kinds = {"feature_n": "numeric", "feature_t": "categorical", "feature_e": "numeric", "latency_ms": "numeric"}
    bins = fit_bins(both, kinds, 16)
    assert (bins.numeric, bins.categorical, bins.categories) == (
        ("feature_n", "latency_ms"),
        ("feature_t",),
        (("x", "y"),),
    )
    assert {0.5, 1.0, 2.0} <= set(bins.edges[0].tolist())
    profile = scanned(*both, bins=bins, expected=None)
    assert profile.numeric[0, : bins.width].sum() == 3
    assert profile.categorical[0].tolist() == [3, 2, 0, 1, 0]
    assert profile.types["latency_ms"] == {MISSING: 6}
    with pytest.raises(SourceUnreadable, match="feature_t is configured as numeric and holds string"):
        fit_bins(both, {"feature_t": "numeric"}, 16)


@pytest.mark.parametrize(
    ("type_", "kind"),
    [
        (pa.large_string(), "categorical"), (pa.string_view(), "categorical"), (pa.float16(), "numeric"),
        (pa.decimal128(5, 2), "numeric"), (pa.timestamp("ns"), "numeric"), (pa.date32(), "numeric"),
        (pa.dictionary(pa.int8(), pa.int64()), "numeric"), (pa.bool_(), "categorical"), (pa.binary(), None),
        (pa.struct([]), None), (pa.null(), None),
    ],
)  # fmt: skip
def test_kind_of_a_column_follows_its_type(type_: pa.DataType, kind: str | None) -> None:
    assert kind_of(type_) == kind


def test_profiling_imports_nothing_heavy(tmp_path: Path) -> None:
    pq.write_table(
        pa.table(
            {"feature_n": [1.0, None, 2.5] * 9, "feature_t": ["x", "y", None] * 9, "prediction": [0.0, 1.0, 1.0] * 9}
        ),
        tmp_path / "in.parquet",
    )
    program = """
import sys
from pathlib import Path
from hindcast.profiling import profile_files
profile_files([sys.argv[1]], None, Path(sys.argv[2]), 64)
facts = profile_files([sys.argv[1]], sys.argv[2], Path(sys.argv[3]), 64)
heavy = {"pandas", "scipy", "sqlalchemy", "pydantic", "pyarrow.dataset", "airflow", "sklearn", "jinja2"}
print(facts["rows"], sorted(heavy & set(sys.modules)))
"""
    paths = [str(tmp_path / name) for name in ("in.parquet", "first.parquet", "again.parquet")]
    done = subprocess.run([sys.executable, "-c", program, *paths], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "27 []"
    assert Path(paths[1]).read_bytes() == Path(paths[2]).read_bytes()


def test_float32_is_widened_before_it_is_compared() -> None:
    tenth = np.float32(0.1)
    bins = Bins(("feature_n",), (np.array([0.1, float(tenth)]),), (), ())
    profile = scanned(as_written(pa.table({"feature_n": pa.array([tenth], pa.float32())})), bins=bins, expected=None)
    assert float(tenth) > 0.1
    assert profile.numeric[0, :3].tolist() == [0, 1, 0]


def test_decimals_of_categories_read_as_written() -> None:
    column = pa.array([Decimal("1.50"), Decimal("1.50"), None], pa.decimal128(5, 2))
    profile = scanned(as_written(pa.table({"feature_t": column})))
    assert {name: count for name, (_, count) in profile.new_values["feature_t"].items()} == {"1.50": 2}


def in_memory(table: pa.Table, sizes: Sequence[int]) -> pa.Table:
    """The same rows, in chunks of these sizes, each text with a dictionary of its own."""
    starts = np.cumsum([0, *sizes]).tolist()
    chunks = [table.slice(a, b - a) for a, b in itertools.pairwise([*starts, max(table.num_rows, starts[-1])])]
    encoded = [
        pa.table(
            {n: c.combine_chunks().dictionary_encode() if n == "t" else c for n, c in zip("nt", k.columns, strict=True)}
        )
        for k in chunks
    ]
    return pa.concat_tables(encoded)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.none() | wide, st.none() | words), max_size=30),
    st.lists(st.integers(0, 6), max_size=5),
    st.integers(1, 4),
)
def test_rows_in_memory_count_like_the_same_rows_in_a_file(
    rows: list[tuple[float | None, str | None]], sizes: list[int], batch: int
) -> None:
    numbers_, texts_ = [n for n, _ in rows], [t for _, t in rows]
    table = pa.table({"feature_n": pa.array(numbers_, pa.float64()), "feature_t": pa.array(texts_, pa.string())})
    expected = scanned(as_written(table))
    plain = pa.table({"n": table.column(0), "t": table.column(1)})
    chunked = in_memory(plain, sizes).rename_columns(["feature_n", "feature_t"])
    for given_rows in (
        table,
        chunked,
        pa.table({"x": range(len(rows)), **dict(zip(table.column_names, table.columns, strict=True))}),
    ):
        scanner = Scanner(BINS, EXPECTED)
        scanner.add(given_rows)
        assert scanner.profile == expected
    for gathered in (False, True):
        scanner = Scanner(BINS, EXPECTED)
        with scanner.gathering() if gathered else nullcontext():
            for part in chunked.to_batches(max_chunksize=batch):
                scanner.add(part)
        assert scanner.profile == expected


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["a", None, "z"], pa.string_view()), pa.array([b"a", None, b"z"], pa.binary_view()),
        pc.run_end_encode(pa.array(["a", None, "z"])),
        pa.DictionaryArray.from_arrays(pa.array([0, 1, 2], pa.uint8()), pa.array(["a", None, "z"], pa.string_view())),
    ],
)  # fmt: skip
def test_types_that_only_memory_knows_count_like_text(column: pa.Array) -> None:
    for given_rows in (
        pa.table({"feature_t": column}),
        pa.table({"feature_t": pa.chunked_array([column[:1], column[1:]])}),
    ):
        scanner = Scanner(BINS, EXPECTED)
        scanner.add(given_rows)
        assert scanner.profile.categorical[0].tolist() == [1, 0, 0, 0, 0, 1, 1, 0]


@pytest.mark.parametrize(
    "column",
    [
        pa.nulls(2, pa.month_day_nano_interval()), pa.array([[1], [2]], pa.list_view(pa.int64())),
        pa.UnionArray.from_sparse(pa.array([0, 1], pa.int8()), [pa.array([1, 2]), pa.array(["a", "b"])]),
        pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"0" * 16, b"1" * 16], pa.binary(16))),
    ],
)  # fmt: skip
def test_a_column_of_a_type_that_is_no_value_is_invalid_or_null_and_the_others_go_on(column: pa.Array) -> None:
    scanner = Scanner(BINS, EXPECTED)
    scanner.add(pa.table({"feature_n": column, "feature_t": column}))
    assert scanner.profile.numeric[0, : BINS.width].sum() == 0
    assert scanner.profile.categorical[0, : BINS.depth + 1].sum() in {0, 2}
    assert (scanner.profile.numeric.sum(), scanner.profile.categorical.sum()) == (2, 2)


def test_a_code_outside_of_its_dictionary_is_an_arrow_error_unless_a_null_stands_before_it() -> None:
    codes = pa.py_buffer(np.array([0, 9, 1], np.int32))
    for validity, chunks in ((None, 1), (None, 2), (0b101, 1), (0b101, 2)):
        valid = None if validity is None else pa.py_buffer(bytes([validity]))
        column = pa.DictionaryArray.from_arrays(
            pa.Array.from_buffers(pa.int32(), 3, [valid, codes]), pa.array(["a", "z"]), safe=False
        )
        table = pa.table({"feature_t": pa.chunked_array([column] * chunks)})
        scanner = Scanner(BINS, EXPECTED)
        if validity is None:
            with pytest.raises(pa.ArrowInvalid, match="fewer values"):
                scanner.add(table)
        else:
            scanner.add(table)
            assert scanner.profile.categorical[0].tolist() == [chunks, 0, 0, 0, 0, chunks, chunks, 0]


def test_any_number_of_threads_gives_the_same_profile() -> None:
    rng = np.random.default_rng(11)
    columns_ = {f"feature_n{k}": pa.array(rng.normal(size=60_000), mask=rng.random(60_000) < 0.1) for k in range(8)}
    columns_ |= {f"feature_t{k}": pa.array(rng.integers(0, 3000, 60_000)).cast(pa.string()) for k in range(3)}
    names = sorted(columns_)
    bins = Bins(tuple(names[:8]), (np.linspace(-3, 3, 200),) * 8, tuple(names[8:]), (("1", "2"),) * 3)
    file = as_written(pa.table(columns_), 50_000, names[8:])
    profiles = []
    for threads in (1, 2, 3):
        scanner = Scanner(bins, threads=threads)
        scanner.read(file)
        profiles.append(scanner.profile.to_bytes())
    assert profiles[0] == profiles[1] == profiles[2]


def test_threads_follow_the_environment_and_children_of_a_pool_take_one() -> None:
    program = """
import multiprocessing, os
from hindcast.errors import UsageError
from hindcast.threads import usable_threads
def main():
    os.environ.pop("HINDCAST_THREADS", None)
    alone = usable_threads()
    with multiprocessing.get_context("fork").Pool(1) as pool:
        inside = pool.apply(usable_threads)
    os.environ["HINDCAST_THREADS"] = "3"
    three = usable_threads()
    os.environ["HINDCAST_THREADS"] = "many"
    try:
        usable_threads()
    except UsageError as error:
        print(1 <= alone <= len(os.sched_getaffinity(0)), inside, three, error)
main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True 1 3 HINDCAST_THREADS=many: must be a whole number, 1 or more"


def test_small_files_read_together_count_like_one_whatever_their_columns() -> None:
    kinds = [pa.float64(), pa.int64(), pa.string()]
    tables = [
        pa.table({"feature_n": pa.array([k, None, 2], kinds[0]).cast(kinds[k % 3]), "feature_t": ["a", "z", str(k)]})
        for k in range(9)
    ]
    tables += [tables[0].drop_columns(["feature_t"]), pa.table({"other": [1, 2]})]
    together = Scanner(BINS, EXPECTED)
    with together.gathering():
        for table in tables:
            together.read(as_written(table, 2))
    one_by_one = Profile.empty(BINS)
    for table in tables:
        one_by_one += scanned(as_written(table))
    assert together.profile == one_by_one


def test_files_that_differ_only_in_how_arrow_wrote_them_are_read_as_each_says() -> None:
    text = ["a", None, "z", "a"]
    plain, coded = pa.table({"feature_t": text}), pa.table({"feature_t": pa.array(text).dictionary_encode()})
    moments = [pa.table({"feature_n": pa.array([1, 2], pa.timestamp("us", tz=zone))}) for zone in (None, "UTC")]
    together, alone = Scanner(BINS, EXPECTED), Profile.empty(BINS)
    with together.gathering():
        for table in (plain, coded, coded, plain, *moments, *moments):
            together.read(as_written(table))
            alone += scanned(as_written(table))
    assert together.profile == alone
    assert together.profile.types["feature_n"] == {"timestamp[us]": 4, "timestamp[us, tz=UTC]": 4, MISSING: 16}


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(st.sampled_from("abcdefghij"), max_size=12), max_size=6), st.integers(1, 12))
def test_counts_of_values_are_exact_while_they_fit_and_never_lose_a_frequent_one(
    blocks: list[list[str]], kept: int
) -> None:
    found, true = ValueCounts(kept), Counter(itertools.chain(*blocks))
    for block in blocks:
        counted = Counter(block)
        found.add(pa.array(list(counted), pa.string()), np.array(list(counted.values()), np.int64))
    counts, rows = found.most(), true.total()
    if len(true) <= kept:
        assert counts == true
    assert len(counts) <= kept
    for value, count in true.items():
        assert count - rows / kept <= counts.get(value, 0) <= count


def test_a_column_of_countless_values_is_named_and_keeps_its_frequent_ones(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    values = np.where(rng.random(400_000) < 0.2, "common", rng.integers(0, 10**9, 400_000).astype(str))
    table = pa.table({"feature_id": values, "feature_t": np.where(rng.random(400_000) < 0.5, "x", "y")})
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=100_000)
    facts = profile_files([str(tmp_path / "in.parquet")], None, tmp_path / "fitted.parquet", 64)
    again = profile_files(
        [str(tmp_path / "in.parquet")], str(tmp_path / "fitted.parquet"), tmp_path / "again.parquet", 64
    )
    assert list(facts["high_cardinality"]) == ["feature_id"]
    assert 0.79 < facts["high_cardinality"]["feature_id"] < 0.81
    assert again["high_cardinality"] == facts["high_cardinality"]
    profile = files.load(tmp_path / "fitted.parquet")
    assert profile.bins.categories[0][0] == "common"
    assert profile.categorical[0, 0] == (values == "common").sum()


def test_more_files_than_may_be_open_at_once_are_profiled(tmp_path: Path) -> None:
    for k in range(80):
        pq.write_table(pa.table({"feature_n": [float(k)], "feature_t": ["a"]}), tmp_path / f"{k:02d}.parquet")
    program = """
import resource, sys
from pathlib import Path
from hindcast.profiling import profile_files
resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
print(profile_files([sys.argv[1]], None, Path(sys.argv[2]), 16)["rows"])
"""
    arguments = [sys.executable, "-c", program, str(tmp_path), str(tmp_path.parent / "many.parquet")]
    assert subprocess.run(arguments, capture_output=True, text=True, check=True).stdout.strip() == "80"


@pytest.mark.parametrize("order", [(20_000, 10), (10, 20_000), (20_000, 10, 20_000, 10)])
def test_large_and_small_files_of_one_schema_are_added_up_in_any_order(order: tuple[int, ...]) -> None:
    """Text of the large ones alone is read as dictionaries."""
    bins = Bins((), (), ("feature_t",), (("x",),))
    scanner = Scanner(bins)
    with scanner.gathering():
        for rows in order:
            written = io.BytesIO()
            pq.write_table(pa.table({"feature_t": ["x"] * rows}), written)
            scanner.read(open_parquet(written, ["feature_t"]))
    assert scanner.profile.categorical[0, 0] == sum(order)
