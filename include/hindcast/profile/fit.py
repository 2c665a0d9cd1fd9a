"""Fits the bins to a reference, and says what each column holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from hindcast.errors import SourceUnreadable
from hindcast.profile.bins import LATENCY_EDGES, PROBABILITY_EDGES, Bins, fit_categories, fit_edges
from hindcast.profile.columns import Block, blocks, floats, is_text, source_name, texts, type_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import pyarrow.parquet as pq

RESERVED = frozenset(
    {
        "prediction_id", "model_name", "model_version", "timestamp", "prediction", "confidence", "score", "latency_ms",
        "ground_truth", "error", "trace_id", "cost", "label_timestamp",
    }
)  # fmt: skip


def feature_columns(names: Sequence[str]) -> tuple[str, dict[str, str]]:
    """Features of a file: the prefix that its columns have, and feature -> column.

    If any column is ``feature_*``, only those are features; else every column that the log schema does not reserve.

    Examples
    --------
    >>> feature_columns(["feature_a", "b", "score"])
    ('feature_', {'a': 'feature_a'})
    >>> feature_columns(["a", "prediction", "score_yes"])
    ('', {'a': 'a'})
    """
    prefixed = {name.removeprefix("feature_"): name for name in names if name.startswith("feature_")}
    if prefixed:
        return "feature_", prefixed
    return "", {name: name for name in names if name not in RESERVED and not name.startswith("score_")}


def kind_of(type_: pa.DataType) -> str | None:
    """``numeric``, ``categorical``, or None where the type is neither.

    Examples
    --------
    >>> texts = pa.dictionary(pa.int32(), pa.string())
    >>> kind_of(pa.int8()), kind_of(pa.bool_()), kind_of(texts), kind_of(pa.list_(pa.int8()))
    ('numeric', 'categorical', 'categorical', None)
    """
    kind = type_.value_type if pa.types.is_dictionary(type_) else type_
    if is_text(kind) or pa.types.is_boolean(kind):
        return "categorical"
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "numeric"
    return "numeric" if pa.types.is_temporal(kind) and not pa.types.is_interval(kind) else None


def fit_bins(
    files: Sequence[pq.ParquetFile],
    kinds: Mapping[str, str],
    n_bins: int,
    *,
    prefix: str = "feature_",
    enough: int | None = None,
) -> Bins:
    """Bins of every column in `kinds`, fitted to the rows of `files`; one column at a time is held in memory.

    Parameters
    ----------
    files : sequence of ParquetFile
    kinds : mapping
        Column of the log -> ``numeric`` or ``categorical``. ``score*``, ``confidence`` and ``latency_ms`` have fixed
        bins. A numeric column that no file has, or that has no finite value, is left out; a categorical one knows
        no value.
    n_bins : int
    prefix : str
        What the files call ``feature_``.
    enough : int, optional
        So many rows are enough for quantiles: of more, row groups evenly spread over the files are read. The range
        beyond them has guard bins; categories are counted in all rows.

    Raises
    ------
    SourceUnreadable
        A numeric column holds text.
    """
    groups = _spread_groups(files, enough)
    numeric: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float64]]] = {}
    categorical: dict[str, tuple[str, ...]] = {}
    for column, kind in kinds.items():
        source = source_name(column, prefix)
        having = [file for file in files if source in file.schema_arrow.names]
        if column == "latency_ms":
            numeric[column] = LATENCY_EDGES
        elif column in {"confidence", "score"} or column.startswith("score_"):
            numeric[column] = PROBABILITY_EDGES
        elif kind == "numeric":
            edges = fit_edges(_all_values([(f, g) for f, g in groups if f in having], source, column), n_bins)
            if edges.size:
                numeric[column] = edges
        else:
            categorical[column] = fit_categories(_all_counts(having, source))
    return Bins(tuple(numeric), tuple(numeric.values()), tuple(categorical), tuple(categorical.values()))


def _spread_groups(files: Sequence[pq.ParquetFile], enough: int | None) -> list[tuple[pq.ParquetFile, int]]:
    """Row groups to fit to: all, or evenly spread ones that hold about `enough` rows."""
    groups = [(file, g) for file in files for g in range(file.num_row_groups) if file.metadata.row_group(g).num_rows]
    total = sum(file.metadata.num_rows for file in files)
    if enough is None or total <= enough:
        return groups
    count = max(1, round(len(groups) * enough / total))
    return [groups[int(i)] for i in np.linspace(0, len(groups) - 1, count).round()]


def _all_values(
    groups: Sequence[tuple[pq.ParquetFile, int]], source: str, column: str
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    held = np.empty(sum(file.metadata.row_group(group).num_rows for file, group in groups))
    size = 0
    for file, group in groups:
        block = Block(file, group, [source]).column(source)
        values = floats(block)
        if values is None and block.null_count < len(block):
            message = f"reference: {column} is configured as numeric and holds {type_name(block.type)}"
            raise SourceUnreadable(message)
        finite = values[np.isfinite(values)] if values is not None else np.empty(0)
        held[size : size + finite.size] = finite
        size += finite.size
    return held[:size]


def _all_counts(files: Iterable[pq.ParquetFile], source: str) -> dict[str, int]:
    counts: dict[str, int] = {}
    for file in files:
        for block in blocks(file, source):
            encoded = texts(block)
            if encoded is not None:
                for value, rows in zip(encoded[0].to_pylist(), encoded[1].tolist(), strict=True):
                    if rows:
                        counts[value] = counts.get(value, 0) + rows
    return counts
