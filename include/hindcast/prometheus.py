"""What Prometheus is told of the models: a rule file with their owners, their limits, and the end of the rotation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hindcast.config import MANUAL

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from hindcast.config import ModelFile

INFO, LIMIT, UNTIL = "hindcast:model:info", "hindcast:model:limit", "hindcast:oncall:until_timestamp_seconds"


def limits(model: ModelFile) -> dict[str, float]:
    """What a model's figures are held to, by name.

    Examples
    --------
    >>> from hindcast.config import ModelFile
    >>> model = ModelFile.model_validate({"model": "m", "task": "binary", "logs": {"uri": "logs"},
    ...     "labels": {"uri": "labels"}, "reference": {"uri": "r.parquet"}, "alerting": {"latency_p95_ms": 200}})
    >>> limits(model)["latency_p95_seconds"], limits(model)["labels_age_seconds"] / 3600
    (0.2, 48.0)
    """
    given = model.alerting
    found = {
        "error_rate": given.error_rate,
        "throughput_drop": given.throughput_drop,
        "checks_age_seconds": (given.checks_stale_hours * 60 + model.schedule.settle_minutes) * 60,
        "predictions_age_seconds": given.predictions_stale_hours * 3600,
    }
    if given.latency_p95_ms is not None:
        found["latency_p95_seconds"] = given.latency_p95_ms / 1000
    if model.labels is not None or given.labels_stale_hours is not None:
        last = max(model.performance.label_ages_hours) + 24
        found["labels_age_seconds"] = (given.labels_stale_hours or last) * 3600
    return found


def rules(models: Iterable[ModelFile], until: datetime | None = None) -> dict[str, Any]:
    """The rule file: one recording rule per model, one per limit, and until when the on-call rotation reaches."""
    found: list[dict[str, Any]] = []
    for model in models:
        schedule = "manual" if model.schedule.hourly == MANUAL else "hourly"
        owner = {"owner": model.owner.oncall, "team": model.owner.team, "schedule": schedule}
        found.append({"record": INFO, "expr": "vector(1)", "labels": {"model_name": model.model, **owner}})
        for name, value in sorted(limits(model).items()):
            labels = {"model_name": model.model, "limit": name}
            found.append({"record": LIMIT, "expr": f"vector({value:.12g})", "labels": labels})
    if until:
        found.append({"record": UNTIL, "expr": f"vector({until.timestamp():.0f})"})
    return {"groups": [{"name": "hindcast_models_of_the_files", "interval": "30s", "rules": found}]}
