"""FarmHash Fingerprint64 of many strings at once: the hash that BigQuery calls ``FARM_FINGERPRINT``.

Sampling and duplicate counting hang on a hash of the prediction id that every engine computes alike.
Source: https://github.com/google/farmhash (farmhashna, the stable fingerprint).
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

_K0, _K1, _K2 = 0xC3A5C85C97CB3127, 0xB492B66FBE98F273, 0x9AE16A3B2F90404F
_MASK = 0xFFFFFFFFFFFFFFFF
Words = np.ndarray[tuple[int, ...], np.dtype[np.uint64]]


def fingerprint64(values: pa.Array) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
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
    starts, lengths = offsets[:-1], np.diff(offsets)
    # Eight spare bytes, so that a word may be fetched at any byte of a short string.
    data = np.zeros(int(offsets[-1] - offsets[0]) + 8, np.uint8)
    if offsets[-1] > offsets[0]:
        data[:-8] = np.frombuffer(values.buffers()[2], np.uint8)[offsets[0] : offsets[-1]]
    starts = starts - offsets[0]
    result = np.full(n, _K2, np.uint64)
    bounds = ((1, 3, _up_to_3), (4, 7, _up_to_7), (8, 16, _up_to_16), (17, 32, _up_to_32), (33, 64, _up_to_64))
    with np.errstate(over="ignore"):
        for low, high, function in bounds:
            rows = np.flatnonzero((lengths >= low) & (lengths <= high))
            if rows.size:
                result[rows] = function(data, starts[rows], lengths[rows])
    for row in np.flatnonzero(lengths > 64):
        result[row] = _long(data[starts[row] : starts[row] + lengths[row]].tobytes())
    return result.view(np.int64)


def _fetch64(data: np.ndarray, at: np.ndarray) -> Words:
    words = np.ndarray((data.size - 7,), np.dtype("<u8"), data, strides=(1,))
    return words[at].astype(np.uint64, copy=False)


def _fetch32(data: np.ndarray, at: np.ndarray) -> Words:
    words = np.ndarray((data.size - 3,), np.dtype("<u4"), data, strides=(1,))
    return words[at].astype(np.uint64)


def _u(value: int) -> np.uint64:
    return np.uint64(value & _MASK)


def _rotate(value: Words, shift: int) -> Words:
    return (value >> _u(shift)) | (value << _u(64 - shift))


def _mix(u: Words, v: Words, mul: Words) -> Words:
    a = (u ^ v) * mul
    a ^= a >> _u(47)
    b = (v ^ a) * mul
    b ^= b >> _u(47)
    return b * mul


def _mul(lengths: np.ndarray) -> Words:
    return _u(_K2) + lengths.astype(np.uint64) * _u(2)


def _up_to_3(data: np.ndarray, at: np.ndarray, lengths: np.ndarray) -> Words:
    first, middle, last = (data[at + k].astype(np.uint64) for k in (0, lengths >> 1, lengths - 1))
    y = first + (middle << _u(8))
    z = lengths.astype(np.uint64) + (last << _u(2))
    mixed = (y * _u(_K2)) ^ (z * _u(_K0))
    return (mixed ^ (mixed >> _u(47))) * _u(_K2)


def _up_to_7(data: np.ndarray, at: np.ndarray, lengths: np.ndarray) -> Words:
    first, last = _fetch32(data, at), _fetch32(data, at + lengths - 4)
    return _mix(lengths.astype(np.uint64) + (first << _u(3)), last, _mul(lengths))


def _up_to_16(data: np.ndarray, at: np.ndarray, lengths: np.ndarray) -> Words:
    mul = _mul(lengths)
    a, b = _fetch64(data, at) + _u(_K2), _fetch64(data, at + lengths - 8)
    return _mix(_rotate(b, 37) * mul + a, (_rotate(a, 25) + b) * mul, mul)


def _up_to_32(data: np.ndarray, at: np.ndarray, lengths: np.ndarray) -> Words:
    mul = _mul(lengths)
    a, b = _fetch64(data, at) * _u(_K1), _fetch64(data, at + 8)
    c, d = _fetch64(data, at + lengths - 8) * mul, _fetch64(data, at + lengths - 16) * _u(_K2)
    return _mix(_rotate(a + b, 43) + _rotate(c, 30) + d, a + _rotate(b + _u(_K2), 18) + c, mul)


def _up_to_64(data: np.ndarray, at: np.ndarray, lengths: np.ndarray) -> Words:
    mul, end = _mul(lengths), at + lengths
    a, b = _fetch64(data, at) * _u(_K2), _fetch64(data, at + 8)
    c, d = _fetch64(data, end - 8) * mul, _fetch64(data, end - 16) * _u(_K2)
    y = _rotate(a + b, 43) + _rotate(c, 30) + d
    z = _mix(y, a + _rotate(b + _u(_K2), 18) + c, mul)
    e, f = _fetch64(data, at + 16) * mul, _fetch64(data, at + 24)
    g, h = (y + _fetch64(data, end - 32)) * mul, (z + _fetch64(data, end - 24)) * mul
    return _mix(_rotate(e + f, 43) + _rotate(g, 30) + h, e + _rotate(f + a, 18) + g, mul)


def _long(s: bytes) -> int:
    """Strings over 64 bytes, one by one: ids that long are rare."""

    def fetch(at: int) -> int:
        return int.from_bytes(s[at : at + 8], "little")

    def rotate(value: int, shift: int) -> int:
        value &= _MASK
        return (value >> shift) | (value << (64 - shift)) & _MASK

    def weak(at: int, a: int, b: int) -> tuple[int, int]:
        w, x, y, z = (fetch(at + 8 * k) for k in range(4))
        a += w
        b, c = rotate(b + a + z, 21), a
        a += x + y
        return (a + z) & _MASK, (b + rotate(a, 44) + c) & _MASK

    def mix(u: int, v: int, mul: int) -> int:
        a = ((u ^ v) & _MASK) * mul & _MASK
        a ^= a >> 47
        b = ((v ^ a) & _MASK) * mul & _MASK
        return (b ^ (b >> 47)) * mul & _MASK

    def shift_mix(value: int) -> int:
        value &= _MASK
        return value ^ (value >> 47)

    def step(at: int, mul: int, nine: int) -> None:
        nonlocal x, y, z, v, w
        x = rotate(x + y + v[0] + fetch(at + 8), 37) * mul & _MASK
        y = rotate(y + v[1] + fetch(at + 48), 42) * mul & _MASK
        x ^= w[1] * nine & _MASK
        y = (y + v[0] * nine + fetch(at + 40)) & _MASK
        z = rotate(z + w[0], 33) * mul & _MASK
        v = weak(at, v[1] * mul, x + w[0])
        w = weak(at + 32, z + w[1], y + fetch(at + 16))
        z, x = x, z

    rest = (len(s) - 1) & 63
    end = len(s) - 1 - rest
    y = (81 * _K1 + 113) & _MASK
    z = shift_mix(y * _K2 + 113) * _K2 & _MASK
    x = (81 * _K2 + fetch(0)) & _MASK
    v, w = (0, 0), (0, 0)
    for at in range(0, end, 64):
        step(at, _K1, 1)
    mul = (_K1 + ((z & 0xFF) << 1)) & _MASK
    w = ((w[0] + rest) & _MASK, w[1])
    v = ((v[0] + w[0]) & _MASK, v[1])
    w = ((w[0] + v[0]) & _MASK, w[1])
    step(len(s) - 64, mul, 9)
    return mix(
        mix(v[0], w[0], mul) + shift_mix(y) * _K0 + z & _MASK,
        mix(v[1], w[1], mul) + x & _MASK,
        mul,
    )
