"""What the serving process exposes to Prometheus, updated in bulk by the thread that builds the columns.

The families are prometheus_client's own, so that its registries, exporters and multi-process mode work as always; a
histogram or summary takes a thousand observations at the price of one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import pyarrow as pa
from prometheus_client import Counter, Gauge, Histogram, Summary

from hindcast.errors import UsageError

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from hindcast.sdk.columns import Chunk

    Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

LATENCY_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
CONFIDENCE = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
# Features beyond these have no series: labels stay bounded.
MOST_FEATURES = 100
_MODEL = ("model_name", "model_version")
_FLOAT, _NOTHING = pa.float64(), np.empty(0)


class ManyHistogram(Histogram):
    """A histogram that takes many observations at once."""

    def observe_many(self, values: Floats) -> None:
        """Count values; right-closed buckets, as `observe` has them.

        Examples
        --------
        >>> histogram = ManyHistogram("a", "b", buckets=(1, 2), registry=None)
        >>> histogram.observe_many(np.array([1.0, 1.5, 9.0]))
        >>> [(sample.name, sample.value) for sample in histogram.collect()[0].samples][:4]
        [('a_bucket', 1.0), ('a_bucket', 2.0), ('a_bucket', 3.0), ('a_count', 3.0)]
        """
        counts = np.bincount(np.searchsorted(self._upper_bounds, values), minlength=len(self._upper_bounds))
        self._sum.inc(float(values.sum()))
        for at in counts.nonzero()[0]:
            self._buckets[at].inc(int(counts[at]))


class ManySummary(Summary):
    """A summary that takes many observations at once."""

    def observe_many(self, values: Floats) -> None:
        """Count and add up values."""
        self._count.inc(values.size)
        self._sum.inc(float(np.add.reduce(values)))


@dataclass(frozen=True)
class Families:
    """The metrics of one registry; loggers of several models share them."""

    predictions: Counter
    errors: Counter
    latency: ManyHistogram
    confidence: ManyHistogram
    feature: ManySummary
    stored: Counter
    dropped: Counter
    failures: Counter
    queued: Gauge
    spooled: Gauge


_FAMILIES: WeakKeyDictionary[CollectorRegistry, Families] = WeakKeyDictionary()


def families(registry: CollectorRegistry) -> Families:
    """The metrics of a registry, made when first asked for.

    Raises
    ------
    UsageError
        Something else has registered one of the names.
    """
    if registry not in _FAMILIES:
        try:
            _FAMILIES[registry] = _made(registry)
        except ValueError as error:
            message = (
                f"{error}: another part of this process registers a metric of that name; remove it, or pass "
                "metrics=False, or metrics=CollectorRegistry() of your own"
            )
            raise UsageError(message) from error
    return _FAMILIES[registry]


def _made(registry: CollectorRegistry) -> Families:
    made: list[Any] = []

    def make(kind: type, name: str, says: str, *labels: str, **options: Any) -> Any:
        made.append(kind(name, says, (*_MODEL, *labels), registry=registry, **options))
        return made[-1]

    try:
        return Families(
            make(Counter, "ml_predictions_total", "Predictions logged"),
            make(Counter, "ml_prediction_errors_total", "Predictions logged with an error"),
            make(ManyHistogram, "ml_prediction_latency_seconds", "Latency of predictions", buckets=LATENCY_SECONDS),
            make(ManyHistogram, "ml_prediction_confidence", "Confidence of predictions", buckets=CONFIDENCE),
            make(ManySummary, "ml_feature_value", "Finite values of numeric features", "feature_name"),
            make(Counter, "ml_log_stored_total", "Records that are in the store"),
            make(Counter, "ml_log_dropped_total", "Records that will never be in the store", "reason"),
            make(Counter, "ml_log_delivery_failures_total", "Attempts to reach the store that failed"),
            make(Gauge, "ml_log_queued_records", "Records in memory", multiprocess_mode="livesum"),
            make(Gauge, "ml_log_spooled_bytes", "What waits on the local disk", multiprocess_mode="livesum"),
        )
    except ValueError:
        for family in made:
            registry.unregister(family)
        raise


class Exposed:
    """Series of one model."""

    def __init__(self, model: dict[str, str], registry: CollectorRegistry) -> None:
        self._families, self._labels = families(registry), model
        of = self._families
        self._predictions, self._errors = of.predictions.labels(**model), of.errors.labels(**model)
        self._latency, self._confidence = of.latency.labels(**model), of.confidence.labels(**model)
        self._stored, self._failures = of.stored.labels(**model), of.failures.labels(**model)
        self._queued, self._spooled = of.queued.labels(**model), of.spooled.labels(**model)
        self._features: dict[str, ManySummary] = {}

    def predicted(self, chunk: Chunk) -> None:
        """Count predictions by their columns."""
        self._predictions.inc(len(chunk["prediction_id"]))
        errors = chunk.get("error")
        if errors is not None:
            self._errors.inc(len(errors) - errors.null_count)
        self._latency.observe_many(_finite(chunk["latency_ms"]) / 1000)
        self._confidence.observe_many(_finite(chunk["confidence"]))
        for column, values in chunk.items():
            if column.startswith("feature_") and (series := self._series(column, values.type)):
                series.observe_many(_finite(values))

    def _series(self, column: str, kind: pa.DataType) -> ManySummary | None:
        found = self._features.get(column)
        if found is None and _is_number(kind) and len(self._features) < MOST_FEATURES:
            name = column.removeprefix("feature_")
            found = self._families.feature.labels(**self._labels, feature_name=name)
            self._features[column] = found
        return found

    def stored(self, rows: int) -> None:
        """Count records that the store has."""
        self._stored.inc(rows)

    def dropped(self, rows: int, reason: str) -> None:
        """Count records that are lost."""
        self._families.dropped.labels(**self._labels, reason=reason).inc(rows)

    def failed(self) -> None:
        """Count an attempt that failed."""
        self._failures.inc()

    def waiting(self, records: int, spooled: int) -> None:
        """Set what is in memory and on the disk."""
        self._queued.set(records)
        self._spooled.set(spooled)


def _is_number(kind: pa.DataType) -> bool:
    return bool(kind == _FLOAT or pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _finite(values: pa.Array) -> Floats:
    """Finite numbers among values; none where they are no numbers."""
    if not _is_number(values.type):
        return _NOTHING
    present = values.drop_null() if values.null_count else values
    if present.type != _FLOAT:
        present = present.cast(_FLOAT, safe=False)
    if not len(present):
        return _NOTHING
    numbers = np.frombuffer(present.buffers()[1], np.float64, len(present), present.offset * 8)
    # the sum is finite only if every value is, and cheaper than to look at each
    return numbers if math.isfinite(np.add.reduce(numbers)) else numbers[np.isfinite(numbers)]
