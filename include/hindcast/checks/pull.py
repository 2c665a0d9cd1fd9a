"""pull: pin the window's objects, read each row once, keep profile, row facts and sample."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from hindcast.checks.run import Result, Run, settle
from hindcast.engines.base import Plan
from hindcast.engines.choice import choose, open_engine
from hindcast.errors import SourceUnreadable
from hindcast.profile.scan import Expected
from hindcast.unfinished import unfinished

if TYPE_CHECKING:
    from hindcast.engines.base import Scan
    from hindcast.engines.choice import Choice
    from hindcast.sources.base import Manifest

logger = logging.getLogger(__name__)


def check(run: Run) -> Result:
    """Read the window.

    Raises
    ------
    SourceMissing
        The root of the logs is not there.
    """
    manifest = run.logs.manifest(run.window.start, run.window.end)
    if manifest.layout == "flat":
        manifest = run.logs.manifest(run.window.start, run.window.end + settle(run.model))
    choice = choose(run.model, manifest)
    logger.info("%s %s: read by engine %s (%s)", run.model.model, run.window, choice.name, choice.reason)
    scan = open_engine(choice.name, run.model).scan(_plan(run, manifest))
    _write_sample(run, scan)
    return _result(run, manifest, choice, scan)


def _plan(run: Run, manifest: Manifest) -> Plan:
    return Plan(
        source=run.logs,
        manifest=manifest,
        bins=run.reference.bins,
        expected=_expected(run),
        start=run.window.start,
        end=run.window.end,
        numeric_prediction=run.model.task == "regression",
        extra=(*(c for columns in run.segment_columns.values() for c in columns), *_business(run)),
        sample_rows=run.model.explain.sample_rows,
        sidecar=run.artifact("facts", ".parquet"),
    )


def _expected(run: Run) -> Expected:
    limits, allowed = {}, {}
    for name, feature in run.reference.features.items():
        if feature.type == "numeric" and (feature.min is not None or feature.max is not None):
            limits[f"feature_{name}"] = (feature.min, feature.max)
        if feature.type == "categorical" and feature.values is not None:
            allowed[f"feature_{name}"] = frozenset(_text(value) for value in feature.values)
    return Expected(limits, allowed)


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _business(run: Run) -> list[str]:
    return [metric.column for metric in run.model.business.values()]


def _write_sample(run: Run, scan: Scan) -> None:
    path = run.artifact("samples", ".parquet")
    if not scan.profile.rows:
        path.unlink(missing_ok=True)
        return
    temporary = unfinished(path)
    pq.write_table(scan.sample.table(), temporary, compression="zstd")
    temporary.replace(path)


def _status(manifest: Manifest, scan: Scan) -> tuple[str, str]:
    """Status of the window, and its reason."""
    faults, objects = scan.faults, len(manifest.objects)
    if objects and len(faults) == objects:
        return "failed", f"none of {objects} objects could be read; first: {next(iter(faults.values()))}"
    if faults:
        return "partial", f"{len(faults)} of {objects} objects could not be read: {_first(faults)}"
    if not scan.profile.rows:
        return "empty", "no rows"
    return "ok", f"the logs lack {', '.join(sorted(scan.noted.missing))}" if scan.noted.missing else ""


def _result(run: Run, manifest: Manifest, choice: Choice, scan: Scan) -> Result:
    status, reason = _status(manifest, scan)
    profile, noted = scan.profile, scan.noted
    details = {
        "objects": manifest.to_json(),
        "engine": choice.reason,
        "unreadable": scan.faults,
        "unknown_columns": sorted(name.removeprefix("feature_") for name in scan.unknown),
        "missing_columns": sorted(noted.missing),
        "versions": dict(sorted(noted.versions.items())),
    }
    row = {
        **run.key,
        "window_end": run.window.end,
        "as_of": run.as_of,
        "rows": profile.rows,
        "bytes": manifest.bytes,
        "manifest_digest": manifest.digest,
        "status": status,
        "reason": reason,
        "model_version": max(sorted(noted.versions), key=lambda name: noted.versions[name], default=None),
        "duplicate_ids": scan.duplicates,
        "misplaced_rows": noted.misplaced,
        "newest_prediction": noted.newest,
        "engine": choice.name,
        "details": json.dumps(details),
        "recorded_at": datetime.now(UTC),
    }
    content = profile.to_bytes()
    stored = [{**run.key, "bins_digest": profile.bins.digest, "rows": profile.rows, "profile": content}]
    run.history.put(run.window.start, content)
    facts: dict[str, Any] = {
        "rows": profile.rows,
        "objects": len(manifest.objects),
        "duplicate_ids": scan.duplicates,
        "engine": choice.name,
    }
    error = SourceUnreadable(f"{run.model.model} {run.window}: {reason}") if status == "failed" else None
    writes = (("windows", run.key, [row]), ("profiles", run.key, stored if status != "failed" else []))
    return Result("pull", status, reason, writes, facts, error)


def _first(faults: dict[str, str]) -> str:
    return "; ".join(list(faults.values())[:3])
