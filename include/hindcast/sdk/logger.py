"""What a serving process calls: `PredictionLogger`."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from hindcast.errors import UsageError
from hindcast.sdk import lifecycle
from hindcast.sdk.columns import LABEL, PREDICTION, RESERVED
from hindcast.sdk.pipeline import Limits, Pipeline

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from types import TracebackType

    from prometheus_client import CollectorRegistry

_now = time.time_ns
_WHOLE = ("max_rows", "queue_records", "spool_bytes")
_REFUSED = f"{' and '.join(sorted(RESERVED))} are those of the logger; make a logger for each"


class PredictionLogger:
    """Logs predictions as Hindcast reads them, at about a microsecond each for the caller.

    Safe to be called from any thread, from coroutines, and in forked children. Durability: see ``docs/logging.md``.

    Parameters
    ----------
    model_name, model_version : str
    uri : str
        Root of the logs: a folder, ``s3://bucket/prefix``, or ``bq://project.dataset.table``.
    labels_uri : str, optional
        Root of ground truth that comes later: `log_ground_truth`.
    spool : path, optional
        Folder on the local disk for what the store does not have yet. Default ``HINDCAST_SPOOL``, else a folder of this
        user below the system's folder for temporary files; name one that outlives a restart.
    max_seconds, max_rows
        A file is finished when its oldest record is so old (30 s; BigQuery 300 s, since it allows 1,500 load jobs a
        table and day), or it has so many.
    queue_records : int
        Records in memory that are no columns yet.
    block_seconds : float
        How long `log` may wait for room in the queue; then the record goes to the local disk, for whose turn it waits
        50 ms at most.
    spool_bytes : int
        How much may wait on the local disk; beyond that records are dropped, and counted.
    exit_seconds : float
        How long an exit, or SIGTERM, waits for the store; what is not there by then waits on the local disk.
    metrics : bool or CollectorRegistry
        Whether, or to which registry, metrics are exposed to Prometheus.
    store_options : mapping, optional
        Keyword arguments of ``boto3.client("s3")`` or ``google.cloud.bigquery.Client``.

    Raises
    ------
    UsageError
        An argument makes no sense; the message says what would.

    Examples
    --------
    >>> import tempfile
    >>> root = tempfile.mkdtemp()
    >>> with PredictionLogger("churn", "7", root, metrics=False) as logger:
    ...     logger.log("request-1", {"age": 41.0, "country": "DE"}, 1, confidence=0.8, latency_ms=3.2, score=0.8)
    >>> len(list(Path(root).glob("date=*/hour=*/*.parquet")))
    1
    """

    def __init__(
        self,
        model_name: str,
        model_version: str,
        uri: str,
        *,
        labels_uri: str | None = None,
        spool: str | Path | None = None,
        max_seconds: float | None = None,
        max_rows: int = 100_000,
        queue_records: int = 20_000,
        block_seconds: float = 0.01,
        spool_bytes: int = 1_000_000_000,
        exit_seconds: float = 5.0,
        metrics: bool | CollectorRegistry = True,
        store_options: Mapping[str, Any] | None = None,
    ) -> None:
        model = {
            "model_name": _named("model_name", model_name),
            "model_version": _named("model_version", model_version),
        }
        seconds = max_seconds if max_seconds is not None else 300.0 if uri.startswith("bq://") else 30.0
        limits = Limits(max_rows, seconds, queue_records, block_seconds, spool_bytes)
        _check_limits({**vars(limits), "exit_seconds": exit_seconds})
        folder, options = _spool_folder(spool), store_options or {}
        self._exit_seconds = exit_seconds
        exposed = None
        if metrics is not False:
            from prometheus_client import REGISTRY

            from hindcast.sdk.exposed import Exposed

            exposed = Exposed(model, REGISTRY if metrics is True else metrics)
        self._predictions = Pipeline(PREDICTION, uri, options, folder, model, limits, exposed)
        self._labels = labels_uri and Pipeline(LABEL, labels_uri, options, folder, model, limits, None)
        for pipeline in self._pipelines:
            lifecycle.watch(pipeline, exit_seconds)

    @property
    def _pipelines(self) -> list[Pipeline]:
        return [self._predictions, self._labels] if self._labels else [self._predictions]

    def log(
        self,
        prediction_id: str,
        features: Mapping[str, Any] | None,
        prediction: Any,
        confidence: float | None = None,
        latency_ms: float | None = None,
        *,
        timestamp: datetime | int | None = None,
        **columns: Any,
    ) -> None:
        """Log one prediction. The features may be changed afterwards; their values are scalars.

        Parameters
        ----------
        prediction_id : str
            Unique; labels are joined by it.
        features : dict
            Name -> value, as the model got them.
        prediction : class or number
            None if the request failed.
        confidence, latency_ms : float, optional
        timestamp : datetime or int, optional
            When it was predicted, if not now; nanoseconds since 1970, or a datetime (without a zone: UTC).
        **columns
            Further columns of the log: ``score``, ``score_<class>``, ``error``, ``trace_id``, ``cost``,
            ``ground_truth``, and any that the model file names as a segment or a business metric.

        Raises
        ------
        TypeError
            `features` is no dict or other mapping, or a column has a name of the log's own.
        """
        pipeline = self._predictions
        if columns and not RESERVED.isdisjoint(columns):
            raise TypeError(_REFUSED)
        record = (
            prediction_id, features.copy() if type(features) is dict else _copied(features),
            prediction, confidence, latency_ms, _now() if timestamp is None else timestamp, columns or None,
        )  # fmt: skip
        if len(pipeline.queue) < pipeline.limit:
            pipeline.queue.extend(record)  # its values: a tuple that is kept is one more for the garbage collector
        else:
            pipeline.crowded(record)

    def log_batch(
        self,
        prediction_ids: Sequence[str],
        features: Any,
        predictions: Sequence[Any],
        confidences: Sequence[float | None] | None = None,
        latencies_ms: Sequence[float | None] | None = None,
        *,
        timestamps: Sequence[datetime | int] | None = None,
        **columns: Sequence[Any],
    ) -> None:
        """Log many predictions: as `log`, with a sequence for every value.

        Parameters
        ----------
        features : sequence of dict, dict of sequences, Arrow table, or data frame of pandas or polars

        Raises
        ------
        UsageError
            The sequences differ in length.

        Examples
        --------
        >>> root = tempfile.mkdtemp()
        >>> with PredictionLogger("churn", "7", root, metrics=False) as logger:
        ...     logger.log_batch(["a", "b"], {"age": [41.0, 25.0]}, [1, 0], score=[0.8, 0.3])
        ...     logger.flush()
        True
        """
        n = len(prediction_ids)
        parts = {"predictions": predictions, "confidences": confidences, "latencies_ms": latencies_ms,
                 "timestamps": timestamps, "features": _rows(features), **columns}  # fmt: skip
        values = {name: [None] * n if part is None else _values(part) for name, part in parts.items()}
        wrong = {name: len(part) for name, part in values.items() if len(part) != n}
        if wrong:
            message = f"log_batch: {n} prediction_ids, and as many are needed of each: {wrong}"
            raise UsageError(message)
        more = [dict(zip(columns, row, strict=True)) for row in zip(*(values[c] for c in columns), strict=True)]
        for row in zip(
            _values(prediction_ids), values["features"], values["predictions"], values["confidences"],
            values["latencies_ms"], values["timestamps"], more or [{}] * n, strict=True,
        ):  # fmt: skip
            self.log(*row[:5], timestamp=row[5], **row[6])

    def log_ground_truth(
        self,
        prediction_id: str,
        ground_truth: Any,
        *,
        label_timestamp: datetime | int | None = None,
        **columns: Any,
    ) -> None:
        """Log what turned out to be true, for a prediction that any process has logged.

        Parameters
        ----------
        prediction_id : str
        ground_truth : class or number
        label_timestamp : datetime or int, optional
            When it became known, if not now.
        **columns
            Further columns.

        Raises
        ------
        UsageError
            The logger has no `labels_uri`.
        """
        pipeline = self._labels
        if not pipeline:
            message = "log_ground_truth: give PredictionLogger a labels_uri, the root that the model file's labels name"
            raise UsageError(message)
        if columns and not RESERVED.isdisjoint(columns):
            raise TypeError(_REFUSED)
        record = (prediction_id, ground_truth, _now() if label_timestamp is None else label_timestamp, columns or None)
        if len(pipeline.queue) < pipeline.limit:
            pipeline.queue.extend(record)
        else:
            pipeline.crowded(record)

    def flush(self, timeout: float = 30.0) -> bool:
        """Wait until everything that was logged before is durable.

        Parameters
        ----------
        timeout : float
            Seconds that it may take to reach the store.

        Returns
        -------
        bool
            True: all of it is in the store. False: some of it is on the local disk, from where it is delivered later.

        Raises
        ------
        NotDurable
            Some of it is neither yet, or some of what was logged since the last flush was dropped.
        """
        stored = [pipeline.flush(timeout) for pipeline in self._pipelines]
        return all(stored)

    def close(self, timeout: float | None = None) -> bool:
        """Flush, as `flush` does, and end; what is logged afterwards is dropped, and counted."""
        for pipeline in self._pipelines:
            lifecycle.forget(pipeline)
        seconds = self._exit_seconds if timeout is None else timeout
        stored = [pipeline.close(seconds) for pipeline in self._pipelines]
        return all(stored)

    def counts(self) -> dict[str, Any]:
        """What became of the records of this process, labels included.

        Examples
        --------
        >>> with PredictionLogger("churn", "7", tempfile.mkdtemp(), metrics=False) as logger:
        ...     logger.log("request-1", {"age": 41.0}, 1)
        >>> logger.counts()
        {'logged': 1, 'adopted': 0, 'stored': 1, 'waiting': 0, 'dropped': {}}
        """
        tallies = [pipeline.tally for pipeline in self._pipelines]
        dropped = sum((tally.dropped for tally in tallies), start=Counter())
        totals = {name: sum(getattr(tally, name) for tally in tallies) for name in ("logged", "adopted", "stored")}
        return {**totals, "waiting": sum(p.waiting() for p in self._pipelines), "dropped": dict(dropped)}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.close)


def _check_limits(limits: Mapping[str, Any]) -> None:
    for name, value in limits.items():
        kind, what = (int, "a whole number") if name in _WHOLE else (int | float, "a number")
        zero, least = (True, "not less than 0") if name == "block_seconds" else (False, "more than 0")
        if isinstance(value, bool) or not isinstance(value, kind) or not (value > 0 or (zero and value == 0)):
            message = f"{name}={value!r}: must be {what}, {least}"
            raise UsageError(message)


def _copied(features: Any) -> dict[str, Any] | None:
    """A copy of features that are no plain dict."""
    if features is None:
        return None
    if isinstance(features, Mapping):
        return dict(features)
    message = f"features must be a dict of names to values; got {type(features).__name__}"
    raise TypeError(message)


def _named(what: str, name: str) -> str:
    if not isinstance(name, str) or not name:
        message = f"{what}={name!r}: must be a text that is not empty"
        raise UsageError(message)
    return name


def _spool_folder(given: str | Path | None) -> Path:
    """The folder for what cannot be delivered at once, which only this user may enter."""
    default = Path(tempfile.gettempdir()) / f"hindcast-spool-{os.getuid()}"
    folder = Path(given or os.environ.get("HINDCAST_SPOOL") or default).absolute()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner, usable = folder.stat().st_uid, os.access(folder, os.W_OK | os.X_OK)
    except OSError as error:
        message = f"spool {folder}: {error.strerror}; name a folder on the local disk that can be written to"
        raise UsageError(message) from error
    if not usable or (folder == default and owner != os.getuid()):
        message = f"spool {folder}: cannot be written to, or is somebody else's; name another folder on the local disk"
        raise UsageError(message)
    return folder


def _values(part: Any) -> Sequence[Any]:
    """A sequence of Python's own values."""
    if hasattr(part, "notna") and part.dtype.kind != "f":  # pandas says NaN for text that is missing
        part = part.astype(object).where(part.notna(), None)
    for method in ("to_pylist", "tolist", "to_list"):
        if hasattr(part, method):
            return getattr(part, method)()  # type: ignore[no-any-return] # all give lists
    return part if isinstance(part, list | tuple) else list(part)


def _rows(features: Any) -> Sequence[Mapping[str, Any]]:
    """One dictionary per row, whatever holds the columns."""
    if hasattr(features, "columns") and not isinstance(features, dict):
        names = list(getattr(features, "column_names", features.columns))
    elif hasattr(features, "items"):
        names = list(features)
    else:
        return list(features)
    lists = [_values(features[name]) for name in names]
    lengths = {len(values) for values in lists}
    if len(lengths) > 1:
        message = f"log_batch: columns of features have {sorted(lengths)} rows; as many are needed of each"
        raise UsageError(message)
    return [dict(zip(names, row, strict=True)) for row in zip(*lists, strict=True)]
