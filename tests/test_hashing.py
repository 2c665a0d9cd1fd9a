"""fingerprint64 is FarmHash's, however the strings are laid out."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hindcast.profile.hashing import _BLOCK, fingerprint64

PARITY = json.loads((Path(__file__).parent / "parity" / "farmhash.json").read_text())
CASES = [(text, number - 2**64 if number >= 2**63 else number) for text, number in PARITY["cases"]]
TEXTS, EXPECTED = [text for text, _ in CASES], [number for _, number in CASES]


def one_by_one(texts: list[str]) -> list[int]:
    return [int(fingerprint64(pa.array([text]))[0]) for text in texts]


def test_equals_farmhash_for_strings_of_every_length_together() -> None:
    assert fingerprint64(pa.array(TEXTS)).tolist() == EXPECTED


def test_equals_farmhash_for_blocks_of_one_length() -> None:
    for text, expected in CASES:
        assert fingerprint64(pa.array([text] * 3)).tolist() == [expected] * 3


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
)
def test_every_layout_of_text_hashes_alike(kind: pa.DataType) -> None:
    assert fingerprint64(pa.array(TEXTS).cast(kind)).tolist() == EXPECTED


@given(st.lists(st.text(max_size=150)), st.integers(0, 5))
def test_a_string_hashes_alike_alone_and_among_others(texts: list[str], skipped: int) -> None:
    assert fingerprint64(pa.array(texts, pa.string())[skipped:]).tolist() == one_by_one(texts[skipped:])


@given(st.integers(1, 140).flatmap(lambda n: st.lists(st.text("abc01", min_size=n, max_size=n), min_size=1)))
def test_strings_of_one_length_hash_like_strings_of_many(texts: list[str]) -> None:
    mixed = fingerprint64(pa.array([*texts, "of another length"]))
    assert fingerprint64(pa.array(texts)).tolist() == mixed[:-1].tolist()


def test_numbers_of_ids_beyond_one_block() -> None:
    texts = [f"id-{k:033d}" for k in range(2 * _BLOCK + 7)]
    found = fingerprint64(pa.array(texts))
    some = [0, 1, _BLOCK - 1, _BLOCK, 2 * _BLOCK, len(texts) - 1]
    assert found[some].tolist() == one_by_one([texts[k] for k in some])
    assert np.unique(found).size == len(texts)


def test_nulls_hash_like_the_empty_string_whatever_bytes_stand_behind_them() -> None:
    whole = pa.array(["abc", "def"])
    validity = pa.py_buffer(b"\x01")
    hidden = pa.StringArray.from_buffers(2, whole.buffers()[1], whole.buffers()[2], validity)
    assert hidden.to_pylist() == ["abc", None]
    assert fingerprint64(hidden).tolist() == one_by_one(["abc", ""])


def test_no_strings_no_hashes() -> None:
    assert fingerprint64(pa.array([], pa.string())).tolist() == []
    assert fingerprint64(pa.nulls(2)).tolist() == one_by_one(["", ""])
