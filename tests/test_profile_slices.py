"""Slices: counted beside the profile, they are what profiling the rows of each slice alone would give."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hindcast.errors import UsageError
from hindcast.profile.bins import Bins, fit_edges
from hindcast.profile.scan import Scanner
from hindcast.profile.slices import SLOTS, VERSION, WIDTH, Slices, Slicing, coarse_edges, kept_values

if TYPE_CHECKING:
    from hindcast.profile.profile import Profile

VALUES = tuple(f"v{k:02d}" for k in range(45))


def rows(n: int, seed: int = 0, versions: tuple[str | None, ...] = ("1",)) -> pa.Table:
    """Numbers of every kind, categories beyond the 31 that have a bin of their own, and what is none of these."""
    rng = np.random.default_rng(seed)
    odd = rng.choice([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e300], n)
    return pa.table(
        {
            "model_version": pa.array([versions[k] for k in rng.integers(0, len(versions), n)], pa.string()),
            "feature_a": pa.array(np.where(rng.random(n) < 0.1, odd, rng.normal(0, 1, n)), mask=rng.random(n) < 0.1),
            "feature_b": pa.array(rng.poisson(2, n), pa.int16(), mask=rng.random(n) < 0.1),
            "feature_c": pa.array([None if k == 49 else f"v{k:02d}" for k in rng.integers(0, 50, n)], pa.string()),
            "feature_plan": pa.array([("free", "paid", "trial", None)[k] for k in rng.integers(0, 4, n)], pa.string()),
            "region": pa.array([("north", "south")[k] for k in rng.integers(0, 2, n)]).dictionary_encode(),
        }
    )


def bins() -> Bins:
    rng = np.random.default_rng(9)
    edges = fit_edges(rng.normal(0, 1, 5000), 300), fit_edges(rng.poisson(2, 5000).astype(float), 300)
    return Bins(("feature_a", "feature_b"), edges, ("feature_c", "feature_plan"), (VALUES, ("free", "paid")))


BINS = bins()


def profile_of(table: pa.Table) -> Profile:
    scanner = Scanner(BINS)
    scanner.add(table)
    return scanner.profile


SLICING = Slicing.of(
    profile_of(rows(5000, 1)),
    {
        "plan": {"feature_plan": ("free", "trial"), "plan": None},
        "region": {"feature_region": None, "region": None},
        VERSION: {VERSION: None},
    },
)


def sliced(*tables: pa.Table, threads: int = 1) -> Slices:
    scanner = Scanner(BINS, slicing=SLICING, threads=threads)
    for table in tables:
        scanner.add(table)
    assert scanner.slices is not None
    return scanner.slices


def alone(table: pa.Table) -> dict[tuple[str, str], tuple[int, Any]]:
    """Profile the rows of each slice by themselves, in the fine bins, and put these together."""
    found = {}
    for segment, column, values in (
        ("plan", "feature_plan", ("free", "trial")),
        ("region", "region", ("north", "south")),
        (VERSION, VERSION, {v or "unknown" for v in table[VERSION].to_pylist()}),
    ):
        given_values = table[column].to_pylist()
        for value in values:
            mask = pa.array([(v or "unknown") == value if column == VERSION else v == value for v in given_values])
            of = table.filter(mask)
            if of.num_rows:
                found[segment, value] = (of.num_rows, SLICING.whole(profile_of(of)).tolist())
    return found


def seen(slices: Slices) -> dict[tuple[str, str], tuple[int, Any]]:
    return {label: (slices.rows[label], counts.tolist()) for label, counts in slices.counts.items()}


@pytest.mark.parametrize("n", [1, 300, 5000])
@pytest.mark.parametrize("versions", [("1",), ("1", "2", "3"), ("1", None), (None,)])
def test_a_slice_is_the_profile_of_its_rows_in_coarse_bins(n: int, versions: tuple[str | None, ...]) -> None:
    table = rows(n, versions=versions)
    assert seen(sliced(table)) == alone(table)


def test_text_where_numbers_should_be_lists_and_columns_of_nothing_are_counted_for_what_they_are() -> None:
    table = rows(200, 3)
    for name, values in (
        ("feature_a", pa.array([None, "much"] * 100)),
        ("feature_b", pa.nulls(200)),
        ("feature_c", pa.array([[1], None] * 100)),
        ("feature_c", pa.nulls(200)),
    ):
        changed = table.set_column(table.schema.get_field_index(name), name, values)
        assert seen(sliced(changed)) == alone(changed), name


def test_a_column_that_a_file_lacks_is_counted_nowhere() -> None:
    table = rows(100).drop_columns(["feature_b", "model_version"])
    found = sliced(table)
    assert found.rows[VERSION, "unknown"] == 100
    assert not found.counts[VERSION, "unknown"][1].any()
    assert found.counts[VERSION, "unknown"][0].sum() == 100
    assert set(sliced(rows(100).drop_columns(["region"])).rows) == {("plan", "free"), ("plan", "trial"), (VERSION, "1")}


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 400), min_size=1, max_size=4), st.integers(0, 100))
def test_parts_add_up_in_any_order_and_survive_storing(sizes: list[int], seed: int) -> None:
    tables = [rows(n, seed + k, versions=(str(k % 2), "2")) for k, n in enumerate(sizes)]
    whole = sliced(pa.concat_tables(tables))
    parts = [Slices.from_bytes(sliced(table).to_bytes(), SLICING) for table in reversed(tables)]
    total = Slices(SLICING)
    for part in parts:
        total += part
    assert total == whole == sliced(*tables)


def test_threads_and_files_count_the_same() -> None:
    table, file = rows(300_000, 5, versions=("1", "2")), io.BytesIO()
    pq.write_table(table, file, row_group_size=170_000)
    scanner = Scanner(BINS, slicing=SLICING, threads=2)
    scanner.read(pq.ParquetFile(file, read_dictionary=["feature_c"], pre_buffer=False))
    assert scanner.slices == sliced(table)


def test_of_too_many_values_the_same_ones_stay_whatever_the_order() -> None:
    tables = [rows(400, k).drop_columns(["region"]) for k in range(3)]
    tables = [
        t.append_column("region", pa.array([f"r{400 * k + i}" for i in range(400)])) for k, t in enumerate(tables)
    ]
    found = sliced(*tables)
    assert found == sliced(*reversed(tables)) == sliced(tables[1]) + sliced(tables[2]) + sliced(tables[0])
    assert sorted(v for s, v in found.rows if s == "region") == kept_values(f"r{k}" for k in range(1200))


def test_coarse_bins_are_few_and_hold_about_as_much_of_the_reference_each() -> None:
    reference = profile_of(rows(5000, 1))
    whole = SLICING.whole(reference)
    assert whole.shape == (4, SLOTS)
    assert all(edges.size < WIDTH for edges in SLICING.edges)
    assert (whole.sum(axis=1) == reference.rows).all()
    assert whole[0, :WIDTH].max() < 0.1 * whole[0, :WIDTH].sum()
    assert np.count_nonzero(whole[0, :WIDTH]) > 20
    assert set(SLICING.edges[0]) <= set(BINS.edges[0])
    empty = coarse_edges(np.arange(100.0), np.zeros(101, int))
    assert empty.size == WIDTH - 1


def test_slices_of_other_bins_and_damaged_ones_are_refused() -> None:
    other = Slicing(BINS, (np.array([0.0]), np.array([1.0])), SLICING.segments)
    content = sliced(rows(50)).to_bytes()
    with pytest.raises(UsageError, match="cannot be read with bins"):
        Slices.from_bytes(content, other)
    with pytest.raises(UsageError, match="cannot be added"):
        sliced(rows(50)) + Slices(other)
    for broken in (b"", content[:-3], b"HCP2" + content[4:], content[:20] + b"\x00" + content[21:]):
        with pytest.raises(UsageError, match="no slices, or damaged"):
            Slices.from_bytes(broken, SLICING)
