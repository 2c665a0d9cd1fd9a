"""Prediction logs for the benchmarks: 40 numeric and 10 text features, seeded, written row group by row group.

``python benchmarks/data.py --rows 10000000 out.parquet`` needs some 300 MB however many rows are asked for.
``--shift 0.1`` spreads the numeric features a tenth wider, ``--times 40`` has 40 times the features, ``--distinct`` one
more, of which every row has a value of its own; ``--split 1000`` also cuts the rows into that many files, in a folder
beside the first file.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROW_GROUP = 131_072
NUMERIC, TEXT = 40, 10
SHAPES = ("normal", "lognormal", "exponential", "integers", "zero_inflated")
CARDINALITIES = (3, 7, 12, 25, 60, 150, 400, 1000, 2500, 5000)
START = np.datetime64("2026-03-02T15:00:00", "us")
HOUR_US = 3_600_000_000

Rng = np.random.Generator
Array = np.ndarray


def numeric_column(i: int, rng: Rng, rows: int, shift: float = 0.0) -> Array:
    """One numeric feature: the shapes take turns, each column has its own location and scale."""
    scale, shape = (1.0 + i) * (1.0 + shift), SHAPES[i % len(SHAPES)]
    if shape == "normal":
        return rng.normal(i, scale, rows)
    if shape == "lognormal":
        return rng.lognormal(i / 10 + shift, 0.5 + i / 40, rows)
    if shape == "exponential":
        return rng.exponential(scale, rows)
    if shape == "integers":
        return rng.poisson(5 * scale, rows).astype(np.int64)
    return np.where(rng.random(rows) < 0.6, 0.0, rng.gamma(2.0, scale, rows))


def text_column(cardinality: int, rng: Rng, rows: int) -> pa.DictionaryArray:
    """One text feature: a few frequent values, many rare ones."""
    share = 1.0 / np.arange(1, cardinality + 1)
    codes = np.searchsorted(np.cumsum(share / share.sum())[:-1], rng.random(rows)).astype(np.int32)
    return pa.DictionaryArray.from_arrays(codes, pa.array([f"value_{k:05d}" for k in range(cardinality)]))


def with_nulls(values: Array | pa.Array, share: float, rng: Rng, rows: int) -> pa.Array:
    """Null out a share of the rows."""
    mask = rng.random(rows) < share
    if isinstance(values, pa.DictionaryArray):
        return pa.DictionaryArray.from_arrays(pa.array(values.indices.to_numpy(), mask=mask), values.dictionary)
    return pa.array(values, mask=mask)


def prediction_ids(rng: Rng, rows: int) -> pa.Array:
    """Random version 4 UUIDs as text of 36 characters."""
    nibbles = rng.integers(0, 16, (rows, 32), np.uint8)
    nibbles[:, 12], nibbles[:, 16] = 4, 8 + nibbles[:, 16] % 4
    text = np.full((rows, 36), ord("-"), np.uint8)
    text[:, [k for k in range(36) if k not in {8, 13, 18, 23}]] = np.frombuffer(b"0123456789abcdef", np.uint8)[nibbles]
    offsets = np.arange(0, 36 * rows + 1, 36, dtype=np.int32)
    return pa.StringArray.from_buffers(rows, pa.py_buffer(offsets), pa.py_buffer(text))


def block(group: int, rows: int, seed: int, *, shift: float = 0.0, times: int = 1, distinct: bool = False) -> pa.Table:
    """One row group."""
    rng = np.random.default_rng([seed, group])
    score = rng.beta(2, 5, rows)
    moments = START + np.sort(rng.integers(0, HOUR_US, rows)).astype("timedelta64[us]")
    columns: dict[str, pa.Array] = {
        "prediction_id": prediction_ids(rng, rows),
        "model_name": pa.array(["benchmark"] * rows).dictionary_encode(),
        "model_version": pa.DictionaryArray.from_arrays(
            (rng.random(rows) < 0.2).astype(np.int32), pa.array(["3", "4"])
        ),
        "timestamp": pa.array(moments).cast(pa.timestamp("us", "UTC")),
        "prediction": pa.array((score > 0.5).astype(np.int64)),
        "score": pa.array(score),
        "confidence": pa.array(np.maximum(score, 1 - score)),
        "latency_ms": pa.array(rng.lognormal(2.5, 0.6, rows)),
    }
    for i in range(NUMERIC * times):
        values = numeric_column(i % NUMERIC, rng, rows, shift)
        columns[f"feature_n{i:02d}"] = with_nulls(values, 0.01 + 0.001 * (i % NUMERIC), rng, rows)
    for i in range(TEXT * times):
        texts = text_column(CARDINALITIES[i % TEXT], rng, rows)
        columns[f"feature_t{i:02d}"] = with_nulls(texts, 0.01 + 0.004 * (i % TEXT), rng, rows)
    if distinct:
        columns["feature_t_distinct"] = prediction_ids(rng, rows)
    return pa.table(columns)


def write(
    path: Path,
    rows: int,
    seed: int = 7,
    *,
    shift: float = 0.0,
    times: int = 1,
    distinct: bool = False,
    codec: str = "zstd",
) -> None:
    """Write `rows` rows to one Parquet file, a row group at a time, with the encodings that pyarrow chooses."""
    writer: pq.ParquetWriter | None = None
    for group, start in enumerate(range(0, rows, ROW_GROUP)):
        table = block(group, min(ROW_GROUP, rows - start), seed, shift=shift, times=times, distinct=distinct)
        if writer is None:
            writer = pq.ParquetWriter(path, table.schema, compression=codec, store_schema=False)
        writer.write_table(table, row_group_size=ROW_GROUP)
    if writer is not None:
        writer.close()


def split(path: Path, files: int, codec: str) -> Path:
    """Cut a file's rows into many files of the same size, in a folder beside it."""
    folder, source = path.with_suffix(""), pq.ParquetFile(path)
    folder.mkdir()
    for i, batch in enumerate(source.iter_batches(-(-source.metadata.num_rows // files))):
        pq.write_table(pa.Table.from_batches([batch]), folder / f"{i:05d}.parquet", compression=codec)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--shift", type=float, default=0.0)
    parser.add_argument("--times", type=int, default=1)
    parser.add_argument("--distinct", action="store_true")
    parser.add_argument("--split", type=int, default=0)
    parser.add_argument("--codec", default="zstd")
    given = parser.parse_args()
    options = {"shift": given.shift, "times": given.times, "distinct": given.distinct, "codec": given.codec}
    write(given.path, given.rows, given.seed, **options)
    if given.split:
        split(given.path, given.split, given.codec)
    print(f"{given.path}: {given.rows:,} rows, {given.path.stat().st_size / 1e6:,.0f} MB")


if __name__ == "__main__":
    main()
