"""The reference of a model: bins fitted to it, its profile, and what its features look like."""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hindcast.errors import SourceMissing, SourceUnreadable
from hindcast.infer import infer_features
from hindcast.profile import files
from hindcast.profile.bins import LABEL
from hindcast.profile.columns import ParquetFiles, as_text, column_types, nulls, positions
from hindcast.profile.fit import feature_columns, fit_bins, kind_of
from hindcast.profile.hashing import fingerprint64
from hindcast.profile.profile import Sparse, high_cardinality
from hindcast.profile.sampling import Sample
from hindcast.profile.scan import Scanner
from hindcast.profile.slices import Slices
from hindcast.results import tables
from hindcast.sources.bigquery import BigQueryTable
from hindcast.sources.bigquery_export import exported
from hindcast.sources.files import opened as opened_files
from hindcast.sources.files import parquet_files
from hindcast.threads import usable_threads
from hindcast.unfinished import unfinished

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from hindcast.config import Feature, ModelFile
    from hindcast.profile.bins import Bins
    from hindcast.profile.profile import Profile
    from hindcast.profile.slices import Slicing
    from hindcast.results.sql import Store
    from hindcast.sources.base import Source

# A reference is taken to span two months of hours: pieces of it stand for hours until real ones are known.
_HOURS, _LEAST_ROWS, _MOST_ROWS, _SPANS = 1440, 25, 5000, 4
_held: dict[tuple[str, str, str], Reference] = {}


@dataclass(frozen=True)
class Reference:
    """Training data, or a range of past windows, as a profile.

    `features` are those of the model file, or inferred from the reference where the model file names none. `spans` are
    runs of pieces of it, each about as large as an hour: how much an hour may differ from the whole.
    """

    digest: str
    profile: Profile
    features: Mapping[str, Feature]
    spans: Sequence[Sequence[Sparse]]

    @property
    def bins(self) -> Bins:
        """Bins fitted to this reference."""
        return self.profile.bins

    @property
    def high_cardinality(self) -> Mapping[str, float]:
        """Columns with more values than bins -> share of the reference's rows that have none."""
        return high_cardinality(self.profile)


def load_reference(model: ModelFile, store: Store, logs: Source | None) -> Reference:
    """The fitted reference: held in this process, stored, or fitted now and stored.

    Raises
    ------
    SourceMissing, SourceUnreadable
        The reference is not there, or holds no features.
    """
    opened = _open(model, store, logs)
    digest = _digest(model, opened)
    held = _held.get((store.url, model.model, digest))
    if held:
        return held
    rows = store.rows(tables.references, model_name=model.model, reference_digest=digest)
    if rows:
        profile, pieces = files.load(rows[0]["profile"]), rows[0]["pieces"]
    else:
        sample = Sample(model.explain.sample_rows)
        profile = fit(model, opened, sample)
        _write_sample(sample, _sample_path(model, store, digest))
        pieces = _pieces(profile.bins, opened)
        row = {
            "model_name": model.model,
            "reference_digest": digest,
            "bins_digest": profile.bins.digest,
            "rows": profile.rows,
            "profile": files.export(profile),
            "pieces": pieces,
            "recorded_at": datetime.now(UTC),
        }
        key = {"model_name": model.model, "reference_digest": digest}
        store.write(lambda connection: store.replace(connection, tables.references, [row], **key), model.model)
    features = model.features or infer_features(profile)
    reference = Reference(digest, profile, features, _spans(pieces, profile.bins))
    _held[store.url, model.model, digest] = reference
    return reference


def reference_sample(model: ModelFile, store: Store, logs: Source | None, reference: Reference) -> pa.Table:
    """A sample of the reference's rows, a column per feature, in the order of a hash.

    Made when the reference is fitted, in the same pass; read from it again only where that file is gone.

    Raises
    ------
    SourceMissing, SourceUnreadable
        It must be read again, and the reference is not there.
    """
    path = _sample_path(model, store, reference.digest)
    if not path.exists():
        sample, opened = Sample(model.explain.sample_rows), _open(model, store, logs)
        _scan(model, reference.bins, opened, sample)
        _write_sample(sample, path)
    return pq.read_table(path)


def _sample_path(model: ModelFile, store: Store, digest: str) -> Path:
    return store.artifacts / "references" / model.model / f"{digest}.parquet"


def _write_sample(sample: Sample, path: Path) -> None:
    temporary = unfinished(path)
    pq.write_table(sample.table(), temporary, compression="zstd")
    temporary.replace(path)


def reference_slices(
    model: ModelFile, store: Store, logs: Source | None, reference: Reference, slicing: Slicing
) -> Slices:
    """Segments of the reference: stored, or counted now, once; none where the model file has none.

    Raises
    ------
    SourceMissing, SourceUnreadable
        It must be read again, and the reference is not there.
    """
    key = {"model_name": model.model, "reference_digest": reference.digest, "slicing_digest": slicing.asked}
    if not model.segments:
        return Slices(slicing)
    rows = store.rows(tables.reference_slices, **key)
    if rows:
        return Slices.from_bytes(rows[0]["content"], slicing)
    scanner = _scanned(model, reference.bins, _open(model, store, logs), None, slicing)
    found = scanner.slices or Slices(slicing)
    row = {**key, "content": found.to_bytes()}
    store.write(lambda connection: store.replace(connection, tables.reference_slices, [row], **key), model.model)
    return found


class _Sampled:
    """Sink of the scan that keeps a sample: by the hash of the id, or of the row's number where it has none."""

    def __init__(self, sample: Sample) -> None:
        self._sample, self._rows = sample, 0

    def wants(self, schema: pa.Schema) -> list[str]:  # noqa: ARG002 - what a sink is asked
        return ["prediction_id"]

    def keep(self, columns: Mapping[str, pa.Array], rows: int) -> None:
        numbers = np.arange(self._rows, self._rows + rows)
        self._rows += rows
        keys, ids = fingerprint64(positions(numbers)), columns.get("prediction_id")
        ids = ids.dictionary_decode() if ids is not None and pa.types.is_dictionary(ids.type) else ids
        texts = as_text(ids) if ids is not None else None
        if texts is not None:
            absent = nulls(texts)
            keys = fingerprint64(texts) if absent is None else np.where(absent, keys, fingerprint64(texts))
        self._sample.begin(keys, numbers)

    def take(self, column: str, values: pa.Array) -> None:
        self._sample.take(column, values)

    def end_block(self) -> None:
        self._sample.end()


def fit(model: ModelFile, opened: Sequence[pq.ParquetFile], sample: Sample | None = None) -> Profile:
    """Fit bins to the files of a reference and profile them; fill a sample in the same pass."""
    types = column_types(opened)
    prefix, columns = feature_columns(list(types))
    kinds = _kinds(model, types, columns)
    bins = fit_bins(opened, kinds, model.drift.bins, prefix=prefix)
    return _scan(model, bins, opened, sample)


def _scan(model: ModelFile, bins: Bins, opened: Sequence[pq.ParquetFile], sample: Sample | None) -> Profile:
    return _scanned(model, bins, opened, sample).profile


def _scanned(
    model: ModelFile,
    bins: Bins,
    opened: Sequence[pq.ParquetFile],
    sample: Sample | None,
    slicing: Slicing | None = None,
) -> Scanner:
    prefix, _ = feature_columns(list(column_types(opened)))
    sink = _Sampled(sample) if sample is not None else None
    scanner = Scanner(bins, sink=sink, prefix=prefix, slicing=slicing, threads=usable_threads())
    try:
        with scanner.gathering():
            for file in opened:
                scanner.read(file)
    except (OSError, pa.ArrowException) as error:
        message = f"reference of {model.model}: cannot be read: {error}"
        raise SourceUnreadable(message) from error
    return scanner


def _pieces(bins: Bins, opened: Sequence[pq.ParquetFile]) -> bytes:
    """Profiles of `_SPANS` runs of 24 consecutive pieces, spread over the reference in row order."""
    prefix, _ = feature_columns(list(column_types(opened)))
    total = sum(file.metadata.num_rows for file in opened)
    rows = int(np.clip(total // _HOURS, _LEAST_ROWS, _MOST_ROWS))
    starts = np.linspace(0, max(total - 24 * rows, 0), _SPANS).astype(int).tolist()
    known: dict[int, bytes] = {}
    at = 0
    for file in opened:
        for group in range(file.num_row_groups):
            size = file.metadata.row_group(group).num_rows
            inside = [
                s + k * rows
                for s in starts
                for k in range(24)
                if at <= s + k * rows and s + (k + 1) * rows <= at + size
            ]
            if inside:
                table = file.read_row_group(group)
                known |= {start: _profile_of(bins, table.slice(start - at, rows), prefix) for start in inside}
            at += size
    spans = [[known[s + k * rows] for k in range(24) if s + k * rows in known] for s in starts]
    content = [[base64.b64encode(piece).decode() for piece in span] for span in spans]
    return zlib.compress(json.dumps(content).encode(), 1)


def _profile_of(bins: Bins, table: pa.Table, prefix: str) -> bytes:
    scanner = Scanner(bins, prefix=prefix)
    scanner.add(table)
    return scanner.profile.to_bytes()


def _spans(content: bytes, bins: Bins) -> list[list[Sparse]]:
    spans = json.loads(zlib.decompress(content))
    return [[Sparse.from_bytes(base64.b64decode(piece), bins) for piece in span] for span in spans]


def _kinds(model: ModelFile, types: Mapping[str, pa.DataType], columns: Mapping[str, str]) -> dict[str, str]:
    """Column of the log -> kind: the features, then what every log has."""
    kinds: dict[str, str] = {}
    for name in model.features or columns:
        if name in model.features:
            kinds[f"feature_{name}"] = model.features[name].type
            continue
        kind = kind_of(types[columns[name]])
        if kind:
            kinds[f"feature_{name}"] = kind
    if not kinds:
        message = f"reference of {model.model}: has no feature columns; it has {', '.join(types) or 'no columns'}"
        raise SourceUnreadable(message)
    if "prediction" in types:
        kinds["prediction"] = "numeric" if model.task == "regression" else "categorical"
    if model.task != "regression":
        kinds.update(dict.fromkeys(["score", *(name for name in types if name.startswith("score_"))], "numeric"))
    kinds.update(dict.fromkeys(["confidence", "latency_ms"], "numeric"))
    if LABEL in types and kind_of(types[LABEL]):
        kinds[LABEL] = "numeric" if model.task == "regression" else "categorical"
    return kinds


def _open(model: ModelFile, store: Store, logs: Source | None) -> ParquetFiles:
    reference = model.reference
    if reference.uri is not None and reference.uri.startswith("bq://"):
        most = model.bigquery.max_gb_billed
        return _of_table(model, store, BigQueryTable(reference.uri, reference.connection, max_gb=most))
    if reference.uri is not None:
        return parquet_files(model.resolve(reference.uri), connection=reference.connection)
    if logs is None or reference.start is None or reference.end is None:
        message = f"reference of {model.model}: has neither a uri nor a range"
        raise SourceMissing(message)
    if isinstance(logs, BigQueryTable):
        return _of_table(model, store, logs, (reference.start, reference.end))
    manifest = logs.manifest(reference.start, reference.end)
    if not manifest.objects:
        message = f"reference of {model.model}: the logs have no rows from {reference.start} to {reference.end}"
        raise SourceMissing(message)
    return opened_files(logs, manifest.objects)


def _of_table(
    model: ModelFile, store: Store, table: BigQueryTable, between: tuple[datetime, datetime] | None = None
) -> ParquetFiles:
    """A table, or rows of it, as the file that it was exported to."""
    columns = _wanted(model, table.types)
    if not columns:
        message = f"reference of {model.model}: has no feature columns; it has {', '.join(table.types) or 'no columns'}"
        raise SourceUnreadable(message)
    folder = _sample_path(model, store, "").parent
    return parquet_files(str(exported(table, columns, folder, between)))


def _wanted(model: ModelFile, types: Mapping[str, str]) -> list[str]:
    """Columns of a table that a reference is made of, in its order; what repeats or is nested is left out."""
    _, features = feature_columns(list(types))
    wanted = {features[name] for name in model.features or features if name in features}
    wanted |= {column for name in model.segments for column in (name, f"feature_{name}")}
    wanted |= {"prediction_id", "timestamp", "prediction", "score", "confidence", "latency_ms", LABEL}
    flat = [name for name, kind in types.items() if kind not in {"ARRAY", "STRUCT", "RANGE"}]
    return [name for name in flat if name in wanted or name.startswith("score_")]


def _statistics(chunk: Any) -> str:
    """Statistics of a column chunk by value: their own text holds an address in memory."""
    found = chunk.statistics.to_dict() if chunk.statistics else None
    return json.dumps([chunk.total_compressed_size, found], sort_keys=True, default=str)


def _digest(model: ModelFile, opened: Sequence[pq.ParquetFile]) -> str:
    """Changes with the data (by its footers) and with what the bins are fitted to."""
    digest = hashlib.sha256()
    for file in opened:
        meta = file.metadata
        groups = [meta.row_group(i) for i in range(meta.num_row_groups)]
        stats = [[_statistics(g.column(j)) for j in range(g.num_columns)] for g in groups]
        digest.update(json.dumps([meta.num_rows, str(file.schema_arrow), stats]).encode())
    kinds = {name: feature.type for name, feature in model.features.items()}
    digest.update(json.dumps([model.drift.bins, model.task, kinds]).encode())
    return digest.hexdigest()[:16]
