"""Profiles add up exactly, survive storage, and their bins hold what they were fitted to."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hindcast.errors import SourceUnreadable, UsageError
from hindcast.profile import files
from hindcast.profile.bins import Bins, fit_categories, fit_edges
from hindcast.profile.hashing import fingerprint64
from hindcast.profile.profile import NEW_VALUES_KEPT, Profile, Sparse
from hindcast.profile.scan import Expected, Scanner

finite = st.floats(allow_nan=False, allow_infinity=False)
edges = st.lists(finite.map(lambda x: x + 0.0), min_size=1, max_size=9, unique=True).map(lambda e: np.array(sorted(e)))
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)


@st.composite
def bins(draw: st.DrawFn) -> Bins:
    numeric = draw(st.lists(names, max_size=3, unique=True))
    categorical = draw(st.lists(names, max_size=3, unique=True))
    values = [tuple(draw(st.lists(names, max_size=4, unique=True))) for _ in categorical]
    return Bins(tuple(numeric), tuple(draw(edges) for _ in numeric), tuple(categorical), tuple(values))


@st.composite
def profiles(draw: st.DrawFn, of: Bins) -> Profile:
    """What scanning some rows of these columns gives."""
    rows = draw(st.integers(0, 8))
    content: dict[str, pa.Array] = {"row": pa.array(range(rows))}
    for name in of.numeric:
        content[f"feature_n{name}"] = pa.array(
            draw(st.lists(st.none() | st.floats(), min_size=rows, max_size=rows)), pa.float64()
        )
    for name in of.categorical:
        content[f"feature_t{name}"] = pa.array(
            draw(st.lists(st.none() | names, min_size=rows, max_size=rows)), pa.string()
        )
    file = io.BytesIO()
    pq.write_table(pa.table(content), file)
    inner = Bins(
        tuple(f"feature_n{n}" for n in of.numeric),
        of.edges,
        tuple(f"feature_t{n}" for n in of.categorical),
        of.categories,
    )
    limits = {name: draw(st.sampled_from([(None, 1.0), (-1.0, None), (0.0, 2.0)])) for name in inner.numeric}
    scanner = Scanner(inner, Expected(limits, dict.fromkeys(inner.categorical, frozenset({"a", ""}))))
    scanner.read(pq.ParquetFile(file))
    return scanner.profile


some_profiles = bins().flatmap(lambda b: st.lists(profiles(b), min_size=1, max_size=4))
one_profile = bins().flatmap(profiles)


@settings(deadline=None, max_examples=50)
@given(some_profiles, st.randoms(use_true_random=False))
def test_the_order_of_adding_does_not_show(parts: list[Profile], random: object) -> None:
    before = [part.to_bytes() for part in parts]
    straight, shuffled = Profile.empty(parts[0].bins), list(parts)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    for part in parts:
        straight += part
    nested = shuffled[0]
    for part in shuffled[1:]:
        nested = part + nested
    assert straight == nested
    assert straight.rows == sum(part.rows for part in parts)
    assert [part.to_bytes() for part in parts] == before


@settings(deadline=None, max_examples=50)
@given(one_profile)
def test_storage_gives_back_the_same_profile(profile: Profile) -> None:
    assert Profile.from_bytes(profile.to_bytes(), profile.bins).to_bytes() == profile.to_bytes()
    exported = files.export(profile)
    loaded = files.load(exported)
    assert loaded.bins.digest == profile.bins.digest
    assert loaded.to_bytes() == profile.to_bytes()
    assert files.export(loaded) == exported


@settings(deadline=None, max_examples=50)
@given(one_profile)
def test_the_sparse_form_holds_every_count(profile: Profile) -> None:
    sparse = Sparse.from_bytes(profile.to_bytes(), profile.bins)
    whole = np.concatenate([profile.numeric.ravel(), profile.categorical.ravel(), profile.outside.ravel()])
    rebuilt, sums = np.zeros_like(whole), np.zeros_like(profile.sums.ravel())
    rebuilt[sparse.filled], sums[sparse.summed] = sparse.counts, sparse.sums
    assert rebuilt.tolist() == whole.tolist()
    assert sums.tolist() == profile.sums.ravel().tolist()
    assert (sparse.counts != 0).all()
    assert (sparse.low.tolist(), sparse.high.tolist()) == (profile.low.tolist(), profile.high.tolist())


@settings(deadline=None, max_examples=50)
@given(one_profile)
def test_every_row_lies_in_one_place_of_each_column(profile: Profile) -> None:
    assert (profile.numeric.sum(axis=1) == profile.rows).all()
    assert (profile.categorical.sum(axis=1) == profile.rows).all()
    assert all(sum(found.values()) == profile.rows for found in profile.types.values())


@given(one_profile, st.data())
@settings(deadline=None, max_examples=50)
def test_damaged_bytes_are_refused(profile: Profile, data: st.DataObject) -> None:
    content = profile.to_bytes()
    cut = data.draw(st.integers(0, len(content) - 1))
    with pytest.raises(UsageError, match="damaged"):
        Profile.from_bytes(content[:cut], profile.bins)
    with pytest.raises(SourceUnreadable, match="no profile"):
        files.load(content)


def test_a_parquet_file_that_is_no_profile_is_refused() -> None:
    file = io.BytesIO()
    pq.write_table(pa.table({"a": [1]}), file)
    with pytest.raises(SourceUnreadable, match="no profile"):
        files.load(file.getvalue())


def test_profiles_of_different_bins_do_not_add_and_do_not_read_each_other() -> None:
    first, second = (Bins(("a",), (np.array([0.0, x]),), (), ()) for x in (1.0, 2.0))
    with pytest.raises(UsageError, match=f"{first.digest} and {second.digest}"):
        Profile.empty(first) + Profile.empty(second)
    with pytest.raises(UsageError, match="cannot be read with bins"):
        Profile.from_bytes(Profile.empty(first).to_bytes(), second)


@given(bins(), bins())
def test_a_digest_names_its_bins(first: Bins, second: Bins) -> None:
    def content(b: Bins) -> object:
        return (b.numeric, [e.tolist() for e in b.edges], b.categorical, b.categories)

    assert (first.digest == second.digest) == (content(first) == content(second))


def test_digests_tell_apart_values_that_contain_separators() -> None:
    def digest(*values: str) -> str:
        return Bins((), (), ("a",), (values,)).digest

    assert len({digest("x", "y"), digest("x\0y"), digest('x", "y'), digest("y", "x")}) == 4


@pytest.mark.parametrize("wrong", [[], [1.0, 1.0], [2.0, 1.0], [0.0, np.inf], [np.nan]])
def test_edges_that_do_not_ascend_are_refused(wrong: list[float]) -> None:
    with pytest.raises(UsageError, match="ascending"):
        Bins(("a",), (np.array(wrong),), (), ())


def test_new_values_stay_bounded_and_exact_when_many_profiles_are_added() -> None:
    of = Bins((), (), ("t",), ((),))
    values = [f"v{k}" for k in range(5 * NEW_VALUES_KEPT)]
    keys = fingerprint64(pa.array(values)).tolist()
    total = Profile.empty(of)
    for start in range(7):
        part = Profile.empty(of)
        part.add_new_values("t", {values[k]: (keys[k], 1) for k in range(start, len(values), 7)})
        total += part
        total += part
    smallest = sorted(range(len(values)), key=keys.__getitem__)[:NEW_VALUES_KEPT]
    assert total.new_values == {"t": {values[k]: (keys[k], 2) for k in smallest}}


def test_sums_recover_the_values_of_each_bin() -> None:
    of = Bins(("feature_a",), (np.array([0.0, 1.0, 10.0]),), (), ())
    values = [-5.0, 0.0, 0.25, 1.0, 3.5, 10.0, 1e9]
    file = io.BytesIO()
    pq.write_table(pa.table({"feature_a": values}), file)
    scanner = Scanner(of)
    scanner.read(pq.ParquetFile(file))
    # values beyond the outermost edges enter the sums as the edge
    assert np.allclose(scanner.profile.values(), [[0.0, 1.25, 13.5, 10.0]], rtol=0, atol=4 * of.unit[0])


@given(st.lists(finite, min_size=1, max_size=60), st.integers(2, 40))
def test_fitted_edges_make_bins_and_surround_the_values(values: list[float], n_bins: int) -> None:
    found = fit_edges(np.array(values), n_bins)
    of = Bins(("a",), (found,), (), ())
    largest = np.finfo(np.float64).max / 4
    assert found[0] < max(min(values), -largest) or found[0] == -largest
    assert found[-1] > min(max(values), largest) or found[-1] == largest
    assert np.isfinite(of.unit).all()
    assert (of.unit > 0).all()


@given(st.lists(st.integers(-50, 50), min_size=30, max_size=80), st.integers(-50, 50))
def test_a_heavy_value_has_its_own_bin(values: list[int], heavy: int) -> None:
    column = np.array([*values, *[heavy] * len(values)], np.float64)
    found = fit_edges(column, 16)
    at = np.searchsorted(found, column, side="left")
    assert set(column[at == at[-1]]) == {heavy}


@given(st.lists(st.sampled_from([0.0, -0.0, 1.5, 2.0, 7.25]), min_size=1, max_size=40))
def test_few_distinct_values_have_a_bin_each(values: list[float]) -> None:
    column = np.array(values)
    at = np.searchsorted(fit_edges(column, 64), column, side="left")
    assert np.unique(at).size == len(set(values))


def test_no_values_no_edges() -> None:
    assert fit_edges(np.empty(0), 16).size == 0


def test_quantile_bins_share_the_rows_evenly() -> None:
    values = np.random.default_rng(2).normal(size=50_000)
    found = fit_edges(values, 128)
    counts = np.bincount(np.searchsorted(found, values, side="left"))
    assert counts.max() <= 2 * values.size / 127


def test_of_too_many_categories_the_most_frequent_stay() -> None:
    counts = {f"v{k:04d}": 1 + k % 3 for k in range(1500)}
    kept = fit_categories(counts)
    assert len(kept) == 1000
    assert {counts[name] for name in kept[:500]} == {3}
    assert list(kept[:3]) == ["v0002", "v0005", "v0008"]
