"""Fits the bins to a reference, and says what each column holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from hindcast.errors import SourceUnreadable
from hindcast.profile.bins import LATENCY_EDGES, PROBABILITY_EDGES, Bins, fit_categories, fit_edges
from hindcast.profile.columns import (
    arrow,
    flat_schema,
    floats,
    is_text,
    positions,
    row_groups,
    source_name,
    texts,
    type_name,
)
from hindcast.profile.hashing import fingerprint64

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import pyarrow.parquet as pq

    Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
    Integers = np.ndarray[tuple[int, ...], np.dtype[np.int64]]

# Values that are held while bins are fitted, 64 MB: of so many columns at once, and of at least one.
_VALUES_HELD = 8_000_000
# Values of a text column that wait to be counted together.
_VALUES_WAITING = 32_768
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
    """Bins of every column in `kinds`, fitted to the rows of `files`, some columns at a time.

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
    numeric: dict[str, Floats] = {}
    categorical: dict[str, str] = {}
    fitted: dict[str, str] = {}
    for column, kind in kinds.items():
        if column == "latency_ms":
            numeric[column] = LATENCY_EDGES
        elif column in {"confidence", "score"} or column.startswith("score_"):
            numeric[column] = PROBABILITY_EDGES
        elif kind == "numeric":
            numeric[column] = np.empty(0)  # keeps the order of the columns
            fitted[column] = source_name(column, prefix)
        else:
            categorical[column] = source_name(column, prefix)
    chosen = _spread_groups(files, enough) if fitted else {}
    rows = sum(sum(groups.values()) for groups in chosen.values())
    at_once = max(1, _VALUES_HELD // max(rows, 1))
    names = list(fitted)
    for start in range(0, len(names), at_once):
        some = {column: fitted[column] for column in names[start : start + at_once]}
        for column, values in _all_values(files, chosen, some, rows).items():
            numeric[column] = fit_edges(values, n_bins)
    numeric = {column: edges for column, edges in numeric.items() if edges.size}
    known = {column: fit_categories(counts.most()) for column, counts in _all_counts(files, categorical).items()}
    return Bins(tuple(numeric), tuple(numeric.values()), tuple(known), tuple(known.values()))


def _spread_groups(files: Sequence[pq.ParquetFile], enough: int | None) -> dict[int, dict[int, int]]:
    """File -> row group -> rows of the row groups to fit to: all, or evenly spread ones of about `enough` rows."""
    groups: list[tuple[int, int, int]] = []
    for at, file in enumerate(files):
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        groups += [(at, group, size) for group, size in enumerate(sizes) if size]
    total = sum(size for _, _, size in groups)
    if enough is not None and total > enough:
        count = max(1, round(len(groups) * enough / total))
        groups = [groups[int(i)] for i in np.linspace(0, len(groups) - 1, count).round()]
    chosen: dict[int, dict[int, int]] = {}
    for at, group, size in groups:
        chosen.setdefault(at, {})[group] = size
    return chosen


def _all_values(
    files: Sequence[pq.ParquetFile], chosen: Mapping[int, Mapping[int, int]], sources: Mapping[str, str], rows: int
) -> dict[str, Floats]:
    """Finite values of some columns in the chosen row groups."""
    held = {column: np.empty(rows) for column in sources}
    sizes = dict.fromkeys(sources, 0)
    for at, groups in chosen.items():
        file = files[at]
        names = set(flat_schema(file.schema_arrow).names)
        having = {column: source for column, source in sources.items() if source in names}
        for block in row_groups(file, list(having.values()), groups):
            for column, source in having.items():
                finite = _finite(column, block.column(source))
                held[column][sizes[column] : sizes[column] + finite.size] = finite
                sizes[column] += finite.size
    return {column: values[: sizes[column]] for column, values in held.items()}


def _finite(column: str, values: pa.Array) -> Floats:
    found = floats(values)
    if found is None and values.null_count < len(values):
        message = f"reference: {column} is configured as numeric and holds {type_name(values.type)}"
        raise SourceUnreadable(message)
    if found is None:
        return np.empty(0)
    finite = np.isfinite(found)
    return found if finite.all() else found[finite]


def _all_counts(files: Iterable[pq.ParquetFile], sources: Mapping[str, str]) -> dict[str, ValueCounts]:
    counts = {column: ValueCounts() for column in sources}
    for file in files if sources else ():
        names = set(flat_schema(file.schema_arrow).names)
        having = {column: source for column, source in sources.items() if source in names}
        for block in row_groups(file, list(having.values())):
            for column, source in having.items():
                encoded = texts(block.column(source))
                if encoded is not None:
                    counts[column].add(*encoded)
    return counts


class ValueCounts:
    """How often each value of a column occurs, in bounded memory.

    Exact while no more than `kept` different values were seen. Beyond, the count of the first one too many is taken
    from all, and what is left of the others stays: a value's count is too low by at most rows / kept, and a value that
    occurs more often than that is never lost. Values are told apart by 64 bits of hash.
    Source: Misra and Gries, Finding repeated elements (1982); merged as in Agarwal et al., Mergeable summaries (2013).

    Examples
    --------
    >>> counts = ValueCounts(kept=2)
    >>> counts.add(pa.array(["a", "b", "a"]), np.array([5, 3, 1]))
    >>> counts.most() == {"a": 6, "b": 3}
    True
    >>> counts.add(pa.array(["c"]), np.array([1]))
    >>> counts.most() == {"a": 5, "b": 2}
    True
    """

    def __init__(self, kept: int = 131_072) -> None:
        self._kept = kept
        self._rows = np.empty(0, np.int64)
        self._names = arrow((), pa.string())
        self._waiting: list[tuple[pa.Array, Integers]] = []
        self._size = 0

    def add(self, names: pa.Array, rows: Integers) -> None:
        """Count values; a value may stand twice among them, or with no rows."""
        self._waiting.append((names, rows))
        self._size += rows.size
        if self._size > _VALUES_WAITING:
            self._settle()

    def _settle(self) -> None:
        names = pa.concat_arrays([self._names, *(some for some, _ in self._waiting)])
        rows = np.concatenate([self._rows, *(counts for _, counts in self._waiting)])
        self._waiting, self._size = [], 0
        _, first, at = np.unique(fingerprint64(names), return_index=True, return_inverse=True)
        counts = np.bincount(at, weights=rows, minlength=first.size).astype(np.int64)
        if np.count_nonzero(counts) > self._kept:
            counts -= np.partition(counts, -self._kept - 1)[-self._kept - 1]
        left = np.flatnonzero(counts > 0)
        self._rows, self._names = counts[left], names.take(positions(first[left]))

    def most(self) -> dict[str, int]:
        """Values that are left -> rows."""
        self._settle()
        return dict(zip(self._names.to_pylist(), self._rows.tolist(), strict=True))
