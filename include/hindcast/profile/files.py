"""A profile with its bins as one Parquet file: a row per column, readable by anything that reads Parquet."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hindcast.errors import SourceUnreadable
from hindcast.profile.bins import Bins
from hindcast.profile.columns import arrow, lists
from hindcast.profile.profile import Profile

if TYPE_CHECKING:
    from pathlib import Path

_SCHEMA = pa.schema(
    [
        ("column", pa.string()),
        ("kind", pa.string()),
        ("rows", pa.int64()),
        ("edges", pa.list_(pa.float64())),
        ("categories", pa.list_(pa.string())),
        ("counts", pa.list_(pa.int64())),
        ("sums", pa.list_(pa.int64())),
        ("sum_center", pa.float64()),
        ("sum_unit", pa.float64()),
        ("null", pa.int64()),
        ("nan", pa.int64()),
        ("minus_inf", pa.int64()),
        ("plus_inf", pa.int64()),
        ("invalid", pa.int64()),
        ("new", pa.int64()),
        ("min", pa.float64()),
        ("max", pa.float64()),
        ("below_min", pa.int64()),
        ("above_max", pa.int64()),
        ("types", pa.string()),
        ("new_values", pa.string()),
    ]
)
_LISTS = ("edges", "counts", "sums")


def export(profile: Profile) -> bytes:
    """Parquet bytes of a profile and its bins; equal profiles give equal bytes."""
    rows = [*_numeric_rows(profile), *_categorical_rows(profile)]
    metadata = {"hindcast": json.dumps({"rows": profile.rows, "bins_digest": profile.bins.digest, "version": 1})}
    arrays = [arrow([row.get(field.name) for row in rows], field.type) for field in _SCHEMA]
    table = pa.Table.from_arrays(arrays, schema=_SCHEMA.with_metadata(metadata))
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def _numeric_rows(profile: Profile) -> list[dict[str, Any]]:
    bins, rows = profile.bins, []
    for i, name in enumerate(bins.numeric):
        n = bins.edges[i].size + 1
        null, nan, minus, plus, invalid = profile.numeric[i, bins.width :].tolist()
        seen = profile.low[i] <= profile.high[i]
        rows.append(
            {
                "column": name,
                "kind": "numeric",
                "rows": profile.rows,
                "edges": bins.edges[i],
                "counts": profile.numeric[i, :n],
                "sums": profile.sums[i, :n],
                "sum_center": float(bins.center[i]),
                "sum_unit": float(bins.unit[i]),
                "null": null,
                "nan": nan,
                "minus_inf": minus,
                "plus_inf": plus,
                "invalid": invalid,
                "min": float(profile.low[i]) if seen else None,
                "max": float(profile.high[i]) if seen else None,
                **_common(profile, i, name),
            }
        )
    return rows


def _categorical_rows(profile: Profile) -> list[dict[str, Any]]:
    bins, rows = profile.bins, []
    for i, name in enumerate(bins.categorical):
        new, null, invalid = profile.categorical[i, bins.depth :].tolist()
        rows.append(
            {
                "column": name,
                "kind": "categorical",
                "rows": profile.rows,
                "categories": list(bins.categories[i]),
                "counts": profile.categorical[i, : len(bins.categories[i])],
                "null": null,
                "invalid": invalid,
                "new": new,
                "new_values": json.dumps(dict(sorted(profile.new_values.get(name, {}).items()))),
                **_common(profile, len(bins.numeric) + i, name),
            }
        )
    return rows


def _common(profile: Profile, i: int, name: str) -> dict[str, Any]:
    below, above = profile.outside[i].tolist()
    types = json.dumps(dict(sorted(profile.types.get(name, {}).items())))
    return {"below_min": below, "above_max": above, "types": types}


def load(source: bytes | Path) -> Profile:
    """Read what `export` wrote.

    Raises
    ------
    SourceUnreadable
        The file is no profile.
    """
    try:
        # `read_table` would import pandas
        table = pq.ParquetFile(io.BytesIO(source) if isinstance(source, bytes) else source).read(use_threads=False)
        facts = json.loads(table.schema.metadata[b"hindcast"])
        rows = table.drop_columns(list(_LISTS)).to_pylist()
        for name in _LISTS:  # as Python's numbers, those of a wide model would take half a gigabyte
            for row, values in zip(rows, lists(table.column(name)), strict=True):
                row[name] = values
        numeric = [row for row in rows if row["kind"] == "numeric"]
        categorical = [row for row in rows if row["kind"] == "categorical"]
        bins = Bins(
            tuple(row["column"] for row in numeric),
            tuple(row["edges"].astype(np.float64) for row in numeric),
            tuple(row["column"] for row in categorical),
            tuple(tuple(row["categories"]) for row in categorical),
        )
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        shown = "profile" if isinstance(source, bytes) else source
        message = f"{shown}: is no profile written by `hindcast profile`: {error!r}"
        raise SourceUnreadable(message) from error
    profile = Profile.empty(bins)
    profile.rows = facts["rows"]
    for i, row in enumerate(numeric):
        n = len(row["counts"])
        profile.numeric[i, :n], profile.sums[i, :n] = row["counts"], row["sums"]
        profile.numeric[i, bins.width :] = [row[k] for k in ("null", "nan", "minus_inf", "plus_inf", "invalid")]
        if row["min"] is not None:
            profile.low[i], profile.high[i] = row["min"], row["max"]
    for i, row in enumerate(categorical):
        profile.categorical[i, : len(row["counts"])] = row["counts"]
        profile.categorical[i, bins.depth :] = [row[k] for k in ("new", "null", "invalid")]
        profile.new_values[row["column"]] = {v: (h, n) for v, (h, n) in json.loads(row["new_values"]).items()}
    for i, row in enumerate([*numeric, *categorical]):
        profile.outside[i] = [row["below_min"], row["above_max"]]
        if row["types"] != "{}":
            profile.types[row["column"]] = json.loads(row["types"])
    return profile
