"""Row facts: the sidecar, the sample, duplicate ids, misplaced rows."""

import io
import json
from collections import Counter
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hindcast.errors import UsageError
from hindcast.profile import facts as facts_module
from hindcast.profile.bins import Bins
from hindcast.profile.columns import open_parquet
from hindcast.profile.facts import FINGERPRINT, Noted, RowFacts, Sidecar, as_moments, sidecar_files
from hindcast.profile.hashing import fingerprint64
from hindcast.profile.sampling import SEED, DuplicateCounter, Sample
from hindcast.profile.scan import MISSING, Scanner

START = datetime(2026, 3, 2, 15, tzinfo=UTC)
END = START + timedelta(hours=1)
BINS = Bins(
    ("feature_a", "score"),
    (np.array([0.0, 1.0, 2.0]), np.array([0.5, 1.0])),
    ("feature_c", "prediction"),
    (("x",), ("0", "1")),
)


def row(number: int, **changed: Any) -> dict[str, Any]:
    plain = {
        "prediction_id": f"id-{number:05d}",
        "model_version": "3",
        "timestamp": START + timedelta(seconds=number % 3600),
        "prediction": number % 2,
        "score": number % 7 / 7,
        "latency_ms": 1.5,
        "feature_a": float(number),
        "feature_c": "xyz"[number % 3],
    }
    return {**plain, **changed}


def file(rows: list[dict[str, Any]] | pa.Table, group: int = 1000) -> pq.ParquetFile:
    content = io.BytesIO()
    pq.write_table(rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows), content, row_group_size=group)
    return open_parquet(content, BINS.categorical)


def read(path: Path, *files: pq.ParquetFile, **options: Any) -> tuple[RowFacts, Scanner]:
    given_options = {"filter_rows": False, "numeric_prediction": False, **options}
    facts = RowFacts(path / "facts" / "window.parquet", START, END, **given_options)
    scanner = Scanner(BINS, None, facts)
    for one in files:
        scanner.read(one)
    facts.close()
    return facts, scanner


def written(facts: RowFacts) -> list[dict[str, Any]]:
    return pq.ParquetFile(facts.path).read().to_pylist()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all examples of a law; each writes the same sidecar again."""
    return tmp_path_factory.mktemp("facts")


def signed(seed: int) -> int:
    return seed - 2**64 if seed >= 2**63 else seed


# ---- sidecar


def test_the_sidecar_holds_each_row_with_what_later_checks_need(tmp_path: Path) -> None:
    rows = [row(k, segment=k % 3, revenue=1.25 * k, error=None, ground_truth=1.0, trace_id="t") for k in range(7)]
    facts, _ = read(tmp_path, file(rows, 3), extra=("segment", "revenue", "feature_c"))
    assert facts.noted.rows == 7
    assert written(facts) == [
        {
            "prediction_id": f"id-{k:05d}", "model_version": "3", "timestamp": START + timedelta(seconds=k),
            "prediction": str(k % 2), "latency_ms": 1.5, "error": None, "ground_truth": "1", "score": k % 7 / 7,
            "segment": k % 3, "revenue": 1.25 * k, "feature_c": "xyz"[k % 3],
            FINGERPRINT: fingerprint64(pa.array([f"id-{k:05d}"]))[0],
        }
        for k in range(7)
    ]  # fmt: skip
    assert not list(facts.path.parent.glob("*.tmp"))


def test_predictions_of_a_regression_are_numbers(tmp_path: Path) -> None:
    rows = [row(0, prediction=3, ground_truth="2.5"), row(1, prediction=4, ground_truth="-1")]
    facts, _ = read(tmp_path, file(rows), numeric_prediction=True)
    assert [(r["prediction"], r["ground_truth"]) for r in written(facts)] == [(3.0, 2.5), (4.0, -1.0)]


def test_versions_newest_and_missing_columns_are_noted(tmp_path: Path) -> None:
    rows = [row(0), row(1, model_version="4"), row(2, model_version=None)]
    facts, _ = read(tmp_path, file(rows), file(pa.table({"feature_a": [1.0], "model_version": pa.array([7])})))
    assert facts.noted.versions == {"3": 1, "4": 1, "unknown": 1, "7": 1}
    assert facts.noted.newest == START + timedelta(seconds=2)
    assert facts.noted.missing == {"prediction_id", "timestamp", "prediction"}
    assert facts.noted.rows == 4


def test_moments_beyond_the_calendar_are_kept_and_not_the_newest(tmp_path: Path) -> None:
    far = pa.array([2**62, 0], pa.timestamp("us", "UTC"))
    facts, _ = read(tmp_path, file(pa.table({"prediction_id": ["a", "b"], "timestamp": far})))
    assert facts.noted.newest == datetime(1970, 1, 1, tzinfo=UTC)
    assert facts.noted.misplaced == 2


def test_files_of_other_schemas_go_into_one_sidecar_and_lose_nothing(tmp_path: Path) -> None:
    files = [
        file([row(0, revenue=1)]),
        file([row(1, revenue=0.5, score=1)]),
        file([{k: v for k, v in row(2).items() if k not in {"score", "latency_ms"}}]),
        file([row(3, score="high", prediction="yes", revenue="much", score_yes=0.25)]),
        file([row(4, prediction=1.0, timestamp="2026-03-02T15:00:04Z", revenue=None)]),
    ]
    wanted = ("prediction_id", "score", "prediction", "revenue", "latency_ms", "score_yes", "timestamp")
    for buffered in (1, 1000):  # each file a part of its own, or all in one
        with patch.object(facts_module, "_BUFFERED_ROWS", buffered):
            facts, scanner = read(tmp_path, *files, extra=("revenue",))
        second = timedelta(seconds=1)
        assert [tuple(r[name] for name in wanted) for r in written(facts)] == [
            ("id-00000", 0.0, "0", "1", 1.5, None, START),
            ("id-00001", 1.0, "1", "0.5", 1.5, None, START + second),
            ("id-00002", None, "0", None, None, None, START + 2 * second),
            ("id-00003", None, "yes", "much", 1.5, 0.25, START + 3 * second),
            ("id-00004", 4 / 7, "1", None, 1.5, None, START + 4 * second),
        ]
        assert scanner.profile.types["score"] == {"double": 2, "int64": 1, MISSING: 1, "string": 1}
        assert not list(facts.path.parent.glob("*.tmp"))


columns = st.fixed_dictionaries(
    {}, optional={"a": st.sampled_from(["int", "float", "null"]), "b": st.sampled_from(["text", "null", "int"])}
)
MADE = {"int": pa.array([1, 2]), "float": pa.array([0.5, 2.0]), "null": pa.nulls(2), "text": pa.array(["x", None])}


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(columns, min_size=1, max_size=6), st.sampled_from([1, 3, 1000]))
def test_a_sidecar_holds_every_batch_in_order(folder: Path, batches: list[dict[str, str]], buffered: int) -> None:
    sidecar = Sidecar(folder / "sidecar.parquet")
    with patch.object(facts_module, "_BUFFERED_ROWS", buffered):
        for k, kinds in enumerate(batches):
            arrays = {"k": pa.array([k, k])} | {name: MADE[kind] for name, kind in kinds.items()}
            sidecar.add(pa.RecordBatch.from_pydict(arrays))
        sidecar.close()
    found = pq.ParquetFile(folder / "sidecar.parquet").read()
    assert found.column("k").to_pylist() == [k for k in range(len(batches)) for _ in range(2)]
    for name in "ab":
        kinds = [b.get(name) for b in batches]
        expected = [v for kind in kinds for v in (MADE[kind].to_pylist() if kind else [None, None])]
        if name in found.column_names:
            as_text = "text" in kinds and "int" in kinds
            assert found.column(name).to_pylist() == [None if v is None else str(v) if as_text else v for v in expected]
        else:
            assert kinds == [None] * len(kinds)
    assert [p.name for p in folder.iterdir() if p.suffix == ".tmp"] == []


def test_no_rows_no_sidecar_and_an_older_one_goes(tmp_path: Path) -> None:
    facts, _ = read(tmp_path, file([row(1)]))
    assert facts.path.exists()
    facts, _ = read(tmp_path, file(pa.Table.from_pylist([row(1)]).slice(0, 0)))
    assert not facts.path.exists()
    assert facts.sample.table().num_rows == 0


def test_after_a_file_breaks_half_way_the_others_are_read_again_without_it(tmp_path: Path) -> None:
    content = io.BytesIO()
    pq.write_table(
        pa.Table.from_pylist([row(k) for k in range(100, 200)]), content, row_group_size=50, compression="zstd"
    )
    damaged = bytearray(content.getvalue())
    at = pq.ParquetFile(content).metadata.row_group(1).column(0).dictionary_page_offset
    damaged[at : at + 40] = b"\xff" * 40
    facts = RowFacts(tmp_path / "facts.parquet", START, END, filter_rows=False, numeric_prediction=False)
    scanner = Scanner(BINS, None, facts)
    scanner.read(file([row(k) for k in range(10)]))
    with pytest.raises((pa.ArrowException, OSError)):
        scanner.read(pq.ParquetFile(io.BytesIO(damaged)))
    assert 10 <= facts.noted.rows < 110
    facts.discard()
    assert list(tmp_path.iterdir()) == []
    again, rescanned = read(tmp_path, file([row(k) for k in range(10)]))
    assert (again.noted.rows, rescanned.profile.rows, len(written(again))) == (10, 10, 10)


def test_a_sidecar_is_a_file_or_a_folder_of_files_and_either_replaces_the_other(tmp_path: Path) -> None:
    path = tmp_path / "facts" / "window.parquet"
    assert sidecar_files(path) == []
    for name in ("b", "a"):
        part = Sidecar(path / f"{name}.parquet")
        part.add(pa.RecordBatch.from_pydict({"k": [name]}))
        part.close()
    (path / "_SUCCESS").touch()
    assert [file.name for file in sidecar_files(path)] == ["a.parquet", "b.parquet"]
    facts, _ = read(tmp_path, file([row(1)]))
    assert facts.path == path
    assert sidecar_files(path) == [path]
    assert len(written(facts)) == 1


def test_an_engine_that_counts_duplicates_elsewhere_leaves_them_out(tmp_path: Path) -> None:
    facts, _ = read(tmp_path, file([row(0), row(0)]), counts_duplicates=False)
    assert facts.duplicates.count() == 0
    assert facts.noted.rows == 2


moments = st.none() | st.datetimes(datetime(1970, 1, 1), datetime(2250, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - given a zone
noted = st.builds(
    Noted,
    st.integers(0, 9),
    st.integers(0, 9),
    moments,
    st.dictionaries(st.sampled_from(["1", "2", "ü"]), st.integers(1, 9)),
    st.frozensets(st.sampled_from(["prediction", "timestamp"])),
)


@given(noted, noted, noted)
def test_what_was_noted_adds_up_in_any_order_and_survives_json(a: Noted, b: Noted, c: Noted) -> None:
    assert (a + b) + c == c + (b + a)
    assert a + Noted() == a
    assert Noted.from_json(json.loads(json.dumps(a.to_json()))) == a


# ---- places in time


def test_rows_outside_the_window_are_kept_and_counted_in_the_partitioned_layout(tmp_path: Path) -> None:
    outside = [row(1, timestamp=END), row(2, timestamp=START - timedelta(microseconds=1)), row(3, timestamp=None)]
    inside = [row(4, timestamp=START), row(5, timestamp=END - timedelta(microseconds=1))]
    facts, scanner = read(tmp_path, file(inside + outside))
    assert (facts.noted.rows, facts.noted.misplaced, scanner.profile.rows) == (5, 3, 5)


def test_rows_outside_the_window_are_left_out_in_the_flat_layout(tmp_path: Path) -> None:
    rows = [row(k, timestamp=START + timedelta(minutes=7 * k - 30)) for k in range(20)]
    inside = [r for r in rows if START <= r["timestamp"] < END]
    bare = [{"prediction_id": r["prediction_id"], "timestamp": r["timestamp"]} for r in rows]
    nowhere = [row(50, timestamp=None)]
    for group in (1, 4, 100):
        facts, scanner = read(tmp_path, file(rows + nowhere, group), file(bare), filter_rows=True)
        assert (facts.noted.rows, facts.noted.misplaced, scanner.profile.rows) == (2 * len(inside), 1, 2 * len(inside))
        assert [r["prediction_id"] for r in written(facts)] == 2 * [r["prediction_id"] for r in inside]
        alone = Scanner(BINS)
        alone.read(file(inside))
        assert scanner.profile.numeric[:, :-5].tolist() == alone.profile.numeric[:, :-5].tolist()
        assert scanner.profile.types["feature_a"] == {"double": len(inside), MISSING: len(inside)}
        assert sorted(facts.sample.table().column("a").to_pylist(), key=str) == sorted(
            [r["feature_a"] for r in inside] + [None] * len(inside), key=str
        )


zones = st.sampled_from([None, UTC, timezone(timedelta(hours=5, minutes=30)), timezone(-timedelta(hours=8))])
times = st.datetimes(datetime(1700, 1, 1), datetime(2250, 1, 1), timezones=zones)  # noqa: DTZ001 - given a zone, or none
forms = st.sampled_from(["T", " "])


@given(st.lists(st.none() | st.tuples(times, forms), max_size=5))
def test_iso_text_reads_as_the_moment_it_says(found: list[tuple[datetime, str] | None]) -> None:
    column = pa.array([None if f is None else f[0].isoformat(f[1]) for f in found], pa.string())
    expected = [None if f is None else f[0] if f[0].tzinfo else f[0].replace(tzinfo=UTC) for f in found]
    for kind in (pa.string(), pa.large_string(), pa.string_view()):
        assert as_moments(column.cast(kind)).to_pylist() == expected


@pytest.mark.parametrize(
    ("text", "micros"),
    [
        ("1970-01-01T00:00:01Z", 1_000_000),
        ("1970-01-01T00:00:00.123456789Z", 123_456),
        ("1970-01-01", 0),
        ("1970-01-01T01", 3_600_000_000),
        ("1970-01-01T01:00+01:00", 0),
        (" 1970-01-01T00:00:00.5 ", 500_000),
        ("soon", None),
        ("", None),
        ("1970-13-01T00:00:00", None),
    ],
)
def test_forms_of_iso_text(text: str, micros: int | None) -> None:
    assert as_moments(pa.array([text])).cast(pa.int64()).to_pylist() == [micros]
    assert as_moments(pa.array([text, "1970-01-01T00:00:00Z", "never"])).cast(pa.int64()).to_pylist() == [
        micros,
        0,
        None,
    ]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "+05:30"])
def test_timestamps_of_any_unit_and_zone(unit: str, zone: str | None) -> None:
    column = pa.array([1_700_000_000, None]).cast(pa.timestamp("s", zone)).cast(pa.timestamp(unit, zone))
    assert as_moments(column).cast(pa.int64()).to_pylist() == [1_700_000_000_000_000, None]


def test_dates_are_midnights_and_other_types_no_moments() -> None:
    assert as_moments(pa.array([date(1970, 1, 2)])).to_pylist() == [datetime(1970, 1, 2, tzinfo=UTC)]
    assert as_moments(pa.array([5, 6])).to_pylist() == [None, None]


# ---- duplicate ids


@given(
    st.lists(st.lists(st.integers(-3, 3) | st.integers(-(2**63), 2**63 - 1), max_size=30), max_size=8),
    st.integers(1, 40),
)
def test_duplicates_are_exact_also_when_they_spill(blocks: list[list[int]], in_memory: int) -> None:
    counter = DuplicateCounter(in_memory)
    for block in blocks:
        counter.add(np.array(block, np.int64))
    keys = Counter(key for block in blocks for key in block)
    expected = sum(count - 1 for count in keys.values())
    assert [counter.count(), counter.count()] == [expected] * 2
    counter.add(np.array([5, 5, 5]))
    assert counter.count() == expected + 2 + (5 in keys)
    counter.close()


def test_ids_are_held_once_in_memory_and_then_on_disk() -> None:
    counter = DuplicateCounter(1000)
    for start in range(0, 50_000, 500):
        counter.add(fingerprint64(pa.array([f"id-{k % 20_000}" for k in range(start, start + 500)])))
        assert sum(keys.size for keys in counter._held) <= 1000
    assert counter.count() == 30_000


def test_rows_without_an_id_are_no_duplicates(tmp_path: Path) -> None:
    rows = [row(0), row(0), row(1), row(2, prediction_id=None), row(3, prediction_id=None)]
    facts, _ = read(tmp_path, file(rows[:2]), file(rows[2:]))
    assert facts.duplicates.count() == 1
    assert [r[FINGERPRINT] is None for r in written(facts)] == [False, False, False, True, True]
    facts, _ = read(
        tmp_path, file([row(0, prediction_id=7), row(1, prediction_id=7)]), file([row(2, prediction_id="7")])
    )
    assert facts.duplicates.count() == 2


# ---- sample


def smallest(rows: list[dict[str, Any]], size: int) -> list[float]:
    ids = pa.array([r["prediction_id"] for r in rows])
    keys = (fingerprint64(ids) ^ np.int64(signed(SEED))).tolist()
    chosen = sorted(zip(keys, (r["timestamp"] for r in rows), (r["feature_a"] for r in rows), strict=True))[:size]
    return [value for _, _, value in chosen]


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(0, 60), st.integers(0, 20), st.integers(1, 30), st.integers(0, 60), st.randoms(use_true_random=False)
)
def test_the_sample_is_the_rows_with_the_smallest_hashes_in_any_order_and_split(
    folder: Path, n: int, size: int, group: int, cut: int, random: Any
) -> None:
    rows = [row(k) for k in range(n)] + [row(k, timestamp=END - timedelta(seconds=k + 1)) for k in range(0, n, 3)]
    shuffled = list(rows)
    random.shuffle(shuffled)
    files = [file(part, group) for part in (shuffled[:cut], shuffled[cut:]) if part]
    facts, _ = read(folder, *files, sample_rows=size)
    table = facts.sample.table()
    if not (size and rows):
        assert table.num_rows == 0
        return
    by_number = {(r["prediction_id"], r["timestamp"]): r for r in rows}
    assert len(by_number) == len(rows)
    assert table.column("a").to_pylist() == smallest(rows, size)
    assert table.column_names == ["a", "c"]
    assert table.column("c").to_pylist() == ["xyz"[int(a) % 3] for a in table.column("a").to_pylist()]


def taken(rows: list[tuple[int, int, dict[str, Any]]], size: int) -> Sample:
    """Sample of (key, tie, features by type)."""
    sample = Sample(size)
    sample.begin(np.array([key for key, _, _ in rows], np.int64), np.array([tie for _, tie, _ in rows], np.int64))
    for name in ("a", "b", "c"):
        if rows and any(name in values for _, _, values in rows):
            sample.take(f"feature_{name}", pa.array([values.get(name) for _, _, values in rows]))
    sample.end()
    return sample


def in_bytes(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return sink.getvalue().to_pybytes()


features = st.fixed_dictionaries(
    {},
    optional={
        "a": st.none() | st.sampled_from([0.0, -0.0, 0.5, 2.0]),
        "b": st.none() | st.sampled_from([1, 10, 9]),
        "c": st.sampled_from(["x", "", "ü"]),
    },
)
sampled_rows = st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 1), features), max_size=25)


@settings(deadline=None, max_examples=200)
@given(sampled_rows, st.integers(0, 8), st.integers(1, 5), st.randoms(use_true_random=False), st.booleans())
def test_samples_of_any_split_and_order_merge_to_the_same_bytes(
    rows: list[tuple[int, int, dict[str, Any]]], size: int, parts: int, random: Any, sent: bool
) -> None:
    whole = in_bytes(taken(rows, size).table())
    random.shuffle(rows)
    dealt: list[list[Any]] = [[] for _ in range(parts)]
    for one in rows:
        dealt[random.randrange(parts)].append(one)
    total = Sample(size)
    for part in dealt:
        sample = taken(part, size)
        total.merge(Sample.from_arrow(sample.to_arrow()) if sent else sample)
    assert in_bytes(total.table()) == whole
    assert in_bytes(Sample.from_arrow(total.to_arrow()).to_arrow()) == in_bytes(total.to_arrow())


@given(st.permutations([pa.array([1, 2]), pa.array([0.5, 2.0]), pa.array(["x", "1"]), pa.nulls(2)]), st.integers(1, 8))
def test_the_type_of_a_sampled_column_is_that_of_all_rows_seen(parts: list[pa.Array], size: int) -> None:
    """Also where the rows of one type are all pushed out of the sample, or never came into it."""
    kinds = {str(part.type): k for k, part in enumerate(parts)}
    total = Sample(size)
    for part in parts:
        key = sorted(kinds).index(str(part.type)) * 2
        sample = Sample(size)
        sample.begin(np.array([key, key + 1]))
        sample.take("feature_a", part)
        sample.end()
        total.merge(sample)
    assert total.table().schema.field("a").type == pa.string()
    ordered = [value for part in sorted(parts, key=lambda part: str(part.type)) for value in part.to_pylist()]
    chosen = sorted(range(8), key=lambda key: key ^ signed(SEED))[:size]
    expected = [None if ordered[k] is None else f"{ordered[k]:g}" if k < 4 else str(ordered[k]) for k in chosen]
    assert total.table().column("a").to_pylist() == expected


def test_samples_of_another_size_do_not_merge() -> None:
    with pytest.raises(UsageError):
        Sample(3).merge(Sample(4))


def test_another_seed_is_another_sample() -> None:
    ids = fingerprint64(pa.array([f"id-{k}" for k in range(2000)]))

    def chosen(seed: int) -> set[int]:
        sample = Sample(100, seed)
        sample.begin(ids)
        sample.take("feature_a", pa.array(range(2000)))
        sample.end()
        return set(sample.table().column("a").to_pylist())

    assert len(chosen(SEED)) == 100
    assert len(chosen(SEED) & chosen(SEED ^ 0xFEDCBA9876543210)) < 50


def test_without_ids_the_sample_goes_by_the_moments(tmp_path: Path) -> None:
    without = [{k: v for k, v in row(k).items() if k != "prediction_id"} for k in range(300)]
    nulls = [row(k, prediction_id=None) for k in range(300)]
    first, _ = read(tmp_path, file(without, 7), sample_rows=20)
    second, _ = read(tmp_path, file(nulls[150:], 50), file(nulls[:150]), sample_rows=20)
    chosen = first.sample.table().column("a").to_pylist()
    assert chosen == second.sample.table().column("a").to_pylist()
    assert len(chosen) == 20
    # spread over the window, not its first minutes
    assert np.ptp(chosen) > 150


def test_a_sample_of_files_with_other_types_keeps_numbers_numbers(tmp_path: Path) -> None:
    files = [
        file(pa.table({"prediction_id": [f"{kind}{k}" for k in range(4)], "feature_a": column}))
        for kind, column in (
            ("int", pa.array([1, 2, 3, None])),
            ("none", pa.nulls(4)),
            ("float", pa.array([0.5, 1.5, None, 2.5])),
        )
    ]
    facts, _ = read(tmp_path, *files, file([{"prediction_id": "alone"}]))
    column = facts.sample.table().column("a")
    assert column.type == pa.float64()
    assert sorted(column.drop_null().to_pylist()) == [0.5, 1.0, 1.5, 2.0, 2.5, 3.0]
    assert len(column) == 13
