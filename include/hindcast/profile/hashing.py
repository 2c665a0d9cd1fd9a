"""FarmHash Fingerprint64 of many strings at once: the hash that BigQuery calls ``FARM_FINGERPRINT``.

Sampling and duplicate counting hang on a hash of the prediction id that every engine computes alike. Strings are
hashed in blocks that stay in the cache; where all strings of a block are equally long, as ids are, words are fetched at
a fixed stride.
Source: https://github.com/google/farmhash (farmhashna, the stable fingerprint).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from hindcast.profile.columns import nulls

if TYPE_CHECKING:
    from collections.abc import Callable

    Integers = np.ndarray[tuple[int, ...], np.dtype[np.int64]]
    Bytes = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
    Words = np.ndarray[tuple[int, ...], np.dtype[np.uint64]]
    # One number for strings of one length, else a number per string.
    Length = int | Integers
    # Reads a little-endian unsigned integer of so many bytes at an offset of each string.
    Fetch = Callable[[Length, int], Words]

_MASK = 0xFFFFFFFFFFFFFFFF
_K0, _K1, _K2 = (np.uint64(k) for k in (0xC3A5C85C97CB3127, 0xB492B66FBE98F273, 0x9AE16A3B2F90404F))
_BLOCK = 16_384


def fingerprint64(values: pa.Array) -> Integers:
    """Fingerprint of every string, signed like BigQuery's.

    Parameters
    ----------
    values : pyarrow.Array of strings, shape (n,)
        Nulls hash like the empty string.

    Returns
    -------
    int64 array of shape (n,)

    Examples
    --------
    The documentation of FARM_FINGERPRINT has these three:

    >>> fingerprint64(pa.array(["1footrue", "2applefalse", "3true"])).tolist()
    [-1541654101129638711, 2794438866806483259, -4880158226897771312]
    """
    values = values.cast(pa.large_string())
    n = len(values)
    if not n:
        return np.empty(0, np.int64)
    offsets = np.frombuffer(values.buffers()[1], np.int64, n + 1, 8 * values.offset)
    content = values.buffers()[2]
    data = np.frombuffer(content, np.uint8) if content else np.empty(0, np.uint8)
    result = np.empty(n, np.uint64)
    with np.errstate(over="ignore"):
        for start in range(0, n, _BLOCK):
            _hash_block(data, offsets[start : start + _BLOCK + 1], result[start : start + _BLOCK])
    absent = nulls(values)
    if absent is not None:
        result[absent] = _K2  # whatever bytes stand behind a null
    return result.view(np.int64)


def _hash_block(data: Bytes, offsets: Integers, result: Words) -> None:
    starts, lengths = offsets[:-1], np.diff(offsets)
    kinds = np.searchsorted(_LONGEST, lengths)
    # Above 64 bytes, strings go together that have as many whole blocks of 64 before the last one.
    kinds = np.where(lengths > 64, kinds + (lengths - 1) // 64, kinds)
    if lengths.min() == lengths.max():
        result[:] = _FUNCTIONS[min(int(kinds[0]), 6)](_strided(data, offsets), int(lengths[0]))
        return
    for kind in np.unique(kinds):
        rows = np.flatnonzero(kinds == kind)
        result[rows] = _FUNCTIONS[min(int(kind), 6)](_scattered(data, starts[rows]), lengths[rows])


def _strided(data: Bytes, offsets: Integers) -> Fetch:
    first, n, stride = int(offsets[0]), offsets.size - 1, int(offsets[1] - offsets[0])

    def fetch(at: Length, size: int) -> Words:
        words = np.ndarray((n,), np.dtype(f"<u{size}"), data, first + int(at), (stride,))
        return words.astype(np.uint64)

    return fetch


def _scattered(data: Bytes, starts: Integers) -> Fetch:
    def fetch(at: Length, size: int) -> Words:
        words: Words = np.ndarray((data.size - size + 1,), np.dtype(f"<u{size}"), data, strides=(1,))
        fetched: Words = words[starts + at].astype(np.uint64)
        return fetched

    return fetch


def _u(value: int) -> np.uint64:
    return np.uint64(value & _MASK)


def _rotate(value: Words, shift: int) -> Words:
    high = value << _u(64 - shift)
    high |= value >> _u(shift)
    return high


def _shift_mix(value: Words) -> Words:
    return value ^ (value >> _u(47))


def _mix(u: Words, v: Words, mul: Words) -> Words:
    a = _shift_mix((u ^ v) * mul)
    a ^= v
    a *= mul
    return _shift_mix(a) * mul


def _words(lengths: Length) -> Words:
    return np.asarray(lengths).astype(np.uint64)


def _mul(lengths: Length) -> Words:
    return _words(lengths) * _u(2) + _K2


def _empty(_fetch: Fetch, lengths: Length) -> Words:
    return _words(lengths) + _K2


def _up_to_3(fetch: Fetch, lengths: Length) -> Words:
    y = fetch(0, 1) + (fetch(lengths >> 1, 1) << _u(8))
    z = _words(lengths) + (fetch(lengths - 1, 1) << _u(2))
    return _shift_mix((y * _K2) ^ (z * _K0)) * _K2


def _up_to_7(fetch: Fetch, lengths: Length) -> Words:
    first, last = fetch(0, 4), fetch(lengths - 4, 4)
    return _mix(_words(lengths) + (first << _u(3)), last, _mul(lengths))


def _up_to_16(fetch: Fetch, lengths: Length) -> Words:
    mul = _mul(lengths)
    a, b = fetch(0, 8) + _K2, fetch(lengths - 8, 8)
    return _mix(_rotate(b, 37) * mul + a, (_rotate(a, 25) + b) * mul, mul)


def _up_to_32(fetch: Fetch, lengths: Length) -> Words:
    mul = _mul(lengths)
    a, b = fetch(0, 8) * _K1, fetch(8, 8)
    c, d = fetch(lengths - 8, 8) * mul, fetch(lengths - 16, 8) * _K2
    return _mix(_rotate(a + b, 43) + _rotate(c, 30) + d, a + _rotate(b + _K2, 18) + c, mul)


def _up_to_64(fetch: Fetch, lengths: Length) -> Words:
    mul = _mul(lengths)
    a, b = fetch(0, 8) * _K2, fetch(8, 8)
    c, d = fetch(lengths - 8, 8) * mul, fetch(lengths - 16, 8) * _K2
    y = _rotate(a + b, 43) + _rotate(c, 30) + d
    z = _mix(y, a + _rotate(b + _K2, 18) + c, mul)
    e, f = fetch(16, 8) * mul, fetch(24, 8)
    g, h = (y + fetch(lengths - 32, 8)) * mul, (z + fetch(lengths - 24, 8)) * mul
    return _mix(_rotate(e + f, 43) + _rotate(g, 30) + h, e + _rotate(f + a, 18) + g, mul)


def _over_64(fetch: Fetch, lengths: Length) -> Words:
    state = _State(fetch)
    last = lengths - 1
    for block in range(int(np.max(last)) // 64):
        state.step(64 * block, _K1, _u(1))
    mul = _K1 + ((state.z & _u(0xFF)) << _u(1))
    (v0, v1), (w0, w1) = state.v, state.w
    w0 = w0 + _words(last & 63)
    v0 = v0 + w0
    state.v, state.w = (v0, v1), (w0 + v0, w1)
    state.step(lengths - 64, mul, _u(9))
    (v0, v1), (w0, w1) = state.v, state.w
    return _mix(_mix(v0, w0, mul) + _shift_mix(state.y) * _K0 + state.z, _mix(v1, w1, mul) + state.x, mul)


class _State:
    """The 56 bytes that farmhash carries from one block of 64 bytes to the next, per string."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        first = fetch(0, 8)
        zero = np.zeros_like(first)
        self.x = first + _u(81) * _K2
        self.y = zero + (_u(81) * _K1 + _u(113))
        self.z = _shift_mix(self.y * _K2 + _u(113)) * _K2
        self.v, self.w = (zero, zero), (zero, zero)

    def step(self, at: Length, mul: Words | np.uint64, factor: np.uint64) -> None:
        """Take in the 64 bytes at an offset."""
        (v0, v1), (w0, w1) = self.v, self.w
        x = (_rotate(self.x + self.y + v0 + self._fetch(at + 8, 8), 37) * mul) ^ (w1 * factor)
        y = _rotate(self.y + v1 + self._fetch(at + 48, 8), 42) * mul + v0 * factor + self._fetch(at + 40, 8)
        z = _rotate(self.z + w0, 33) * mul
        self.v = self._weak(at, v1 * mul, x + w0)
        self.w = self._weak(at + 32, z + w1, y + self._fetch(at + 16, 8))
        self.x, self.y, self.z = z, y, x

    def _weak(self, at: Length, a: Words, b: Words) -> tuple[Words, Words]:
        first, second, third, fourth = (self._fetch(at + 8 * k, 8) for k in range(4))
        a = a + first
        c = a + second + third
        return c + fourth, _rotate(b + a + fourth, 21) + _rotate(c, 44) + a


_LONGEST = np.array([0, 3, 7, 16, 32, 64])
_FUNCTIONS = (_empty, _up_to_3, _up_to_7, _up_to_16, _up_to_32, _up_to_64, _over_64)
