"""The kernel alone, as the command `hindcast profile`."""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from hindcast.errors import SourceMissing, SourceUnreadable
from hindcast.profile import files
from hindcast.profile.columns import column_types, flat_schema, source_name
from hindcast.profile.fit import feature_columns, fit_bins, kind_of
from hindcast.profile.profile import high_cardinality
from hindcast.profile.scan import Scanner
from hindcast.sources.files import parquet_files
from hindcast.threads import usable_threads

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hindcast.profile.profile import Profile


# Quantiles of a quarter of a million rows are as good a set of bins as those of ten million.
_ENOUGH = 262_144


def profile_files(
    uris: Sequence[str], bins_from: str | None, output: Path, n_bins: int, connection: str | None = None
) -> dict[str, Any]:
    """Profile files and write the profile.

    Returns
    -------
    dict with rows, columns, bins_digest, high_cardinality (as `high_cardinality` says of the profile that the bins were
    fitted to), cpu_seconds (of the whole process, start included) and peak_mb.

    Raises
    ------
    SourceMissing, SourceUnreadable
        A file is not there, is no Parquet, or has no column to profile.
    """
    given: Profile | None = None
    if bins_from:
        if not Path(bins_from).is_file():
            message = f"{bins_from}: no such file; --bins takes what `hindcast profile -o` wrote"
            raise SourceMissing(message)
        given = files.load(Path(bins_from))
    known = given.bins if given else None
    threads = usable_threads()
    opened = parquet_files(*uris, connection=connection)
    if known and "feature_" in feature_columns(flat_schema(opened[0].schema_arrow).names):
        prefix, kinds = "feature_", {}  # whatever the other files have
    else:
        types = column_types(opened)
        prefix, columns = feature_columns(list(types))
        kinds = _kinds(types, columns)
    if not (known or kinds):
        message = (
            f"{', '.join(uris)}: no column to profile; features are named feature_*, or not as a column of the log"
        )
        raise SourceUnreadable(message)
    texts = known.categorical if known else [name for name, kind in kinds.items() if kind == "categorical"]
    dictionaries = [source_name(name, prefix) for name in texts]
    opened = parquet_files(*uris, dictionaries=dictionaries, connection=connection)
    try:
        bins = known or fit_bins(opened, kinds, n_bins, prefix=prefix, enough=_ENOUGH)
        scanner = Scanner(bins, prefix=prefix, threads=threads)
        with scanner.gathering():
            for file in opened:
                scanner.read(file)
    except (OSError, pa.ArrowException) as error:
        message = f"{', '.join(uris)}: cannot be read: {error}"
        raise SourceUnreadable(message) from error
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_bytes(files.export(scanner.profile))
    return {
        "rows": scanner.profile.rows,
        "columns": len(bins.numeric) + len(bins.categorical),
        "bins_digest": bins.digest,
        "high_cardinality": high_cardinality(given or scanner.profile),
        "cpu_seconds": round(time.process_time(), 3),
        "peak_mb": round(_peak_mb(), 1),
    }


def _kinds(types: Mapping[str, pa.DataType], columns: Mapping[str, str]) -> dict[str, str]:
    kinds = {f"feature_{name}": kind_of(types[column]) for name, column in columns.items()}
    for name in ("prediction", "score", "confidence", "latency_ms"):
        if name in types:
            kinds[name] = kind_of(types[name])
    return {name: kind for name, kind in kinds.items() if kind}


def _peak_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
