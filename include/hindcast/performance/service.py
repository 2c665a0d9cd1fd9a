"""How the model was served in a window: volume, failures and latency, in parts that can be added."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from hindcast.performance.counted import Counted
from hindcast.performance.intervals import Score, proportion_score, quantile_score

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt


@dataclass(frozen=True)
class Service:
    """Requests of some rows; add them with ``+``, start from ``Service()``.

    Quantiles of up to 65,536 latencies are exact, beyond at most one part in 8,192 away (see `Counted`): a tenth of
    the quantile's own interval at a million rows.

    Parameters
    ----------
    rows, failed : int
        Requests, and those that ended in an error.
    latency : Counted
        Milliseconds, of one group.

    Examples
    --------
    >>> hour = Service.of([10.0, 20.0, 30.0], [False] * 3) + Service.of([40.0, 50.0, np.nan], [False, False, True])
    >>> scores = hour.scores()
    >>> scores["latency_p50_ms"].value, scores["request_count"].value, scores["latency_p50_ms"].n
    (30.0, 6.0, 5)
    """

    rows: int = 0
    failed: int = 0
    latency: Counted = field(default_factory=lambda: Counted.of([np.empty(0)]))

    @classmethod
    def of(cls, latency_ms: npt.ArrayLike, failed: npt.ArrayLike) -> Service:
        """Sum up one batch; parameters are those of `service_scores`."""
        latency, failures = np.asarray(latency_ms, np.float64), np.asarray(failed, np.bool_)
        return cls(failures.size, int(failures.sum()), Counted.of([latency[np.isfinite(latency)]]))

    def __add__(self, other: Service) -> Service:
        return Service(self.rows + other.rows, self.failed + other.failed, self.latency + other.latency)

    def to_json(self) -> list[Any]:
        """What `json` can write, without any rounding."""
        return [self.rows, self.failed, self.latency.to_json()]

    @classmethod
    def from_json(cls, content: Sequence[Any]) -> Service:
        """Read what `to_json` gave."""
        rows, failed, latency = content
        return cls(rows, failed, Counted.from_json(latency))

    def scores(self) -> dict[str, Score]:
        """Every metric that `service_scores` names."""
        values, until = self.latency.values, np.cumsum(self.latency.counts[0])
        return {
            "latency_p50_ms": quantile_score(values, 0.5, until),
            "latency_p95_ms": quantile_score(values, 0.95, until),
            "latency_p99_ms": quantile_score(values, 0.99, until),
            "request_count": Score(float(self.rows), None, None, self.rows),
            "error_rate": proportion_score(self.failed, self.rows, "no requests"),
        }


def service_scores(latency_ms: npt.ArrayLike, failed: npt.ArrayLike) -> dict[str, Score]:
    """Latency, volume and failures of one window.

    Parameters
    ----------
    latency_ms : array-like of shape (n,) or (0,)
        Milliseconds, NaN where not logged.
    failed : array-like of shape (n,), bool
        The request ended in an error.

    Returns
    -------
    dict of latency_p50_ms, latency_p95_ms, latency_p99_ms (numpy's linear quantiles; beyond 65,536 rows within one
    part in 8,192, see `Service`); request_count, which is what happened and has no interval; error_rate in [0, 1].

    References
    ----------
    A quantile's interval lies between two order statistics (Conover, 1999, Practical Nonparametric Statistics,
    3.2), so its coverage is at least 95 % whatever the distribution; a bound is null when the rows are too few for
    it (an upper bound of the 99th percentile takes 368). Wilson for the error rate.

    Examples
    --------
    >>> scores = service_scores([10.0, 20.0, 30.0, 40.0, 50.0, 60.0], [False] * 5 + [True])
    >>> scores["latency_p50_ms"].value, scores["latency_p50_ms"].lower, scores["request_count"].value
    (35.0, 10.0, 6.0)
    """
    return Service.of(latency_ms, failed).scores()
