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
from hindcast.profile.facts import Sidecar
from hindcast.profile.scan import Expected
from hindcast.ready import pinned, readiness
from hindcast.results import tables
from hindcast.unfinished import unfinished

if TYPE_CHECKING:
    from hindcast.engines.base import Scan
    from hindcast.engines.choice import Choice
    from hindcast.ready import Readiness
    from hindcast.sources.base import Manifest

logger = logging.getLogger(__name__)


def check(run: Run) -> Result:
    """Read the window.

    Raises
    ------
    SourceMissing
        The root of the logs is not there.
    """
    complete = readiness(run.model, run.logs, run.window)
    manifest = pinned(run.model, run.logs, run.window)
    choice = choose(run.model, manifest)
    logger.info("%s %s: read by engine %s (%s)", run.model.model, run.window, choice.name, choice.reason)
    scan = open_engine(choice.name, run.model).scan(plan_of(run, manifest))
    _write_sample(run, scan)
    return _result(run, manifest, choice, scan, complete)


def plan_of(run: Run, manifest: Manifest) -> Plan:
    """What to read of the window, and what to make of it."""
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
        drop_duplicates=run.model.logs.duplicates == "drop",
        settle=settle(run.model),
        slicing=run.slicing,
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


def _status(run: Run, manifest: Manifest, scan: Scan, complete: Readiness) -> tuple[str, str]:
    """Status of the window, and its reason; what was not complete when it was read is partial at best."""
    status, reason = _read_status(run, manifest, scan)
    if complete.ready:
        return status, reason
    said = f"not complete ({complete.reason}), read as it stood"
    return "partial" if status == "ok" else status, f"{said}; {reason}" if reason else said


def _read_status(run: Run, manifest: Manifest, scan: Scan) -> tuple[str, str]:
    faults, objects = scan.faults, len(manifest.objects)
    if objects and len(faults) == objects:
        return "failed", f"none of {objects} objects could be read; first: {next(iter(faults.values()))}"
    if faults:
        reason = f"{len(faults)} of {objects} objects could not be read: {_first(faults)}"
        most = run.model.logs.max_unreadable
        if len(faults) > most * objects:
            return "failed", f"{reason}; more than logs.max_unreadable = {most:g} of them"
        return "partial", reason
    if not scan.profile.rows:
        return "empty", "no rows"
    said = [f"the logs lack {', '.join(sorted(scan.noted.missing))}"] if scan.noted.missing else []
    said += [f"nothing can be made of {', '.join(sorted(scan.noted.unfit))}"] if scan.noted.unfit else []
    return "ok", "; ".join(said)


def _result(run: Run, manifest: Manifest, choice: Choice, scan: Scan, complete: Readiness) -> Result:
    status, reason = _status(run, manifest, scan, complete)
    profile, noted = scan.profile, scan.noted
    rows = 0 if status == "failed" else profile.rows
    if status == "failed":  # what could be read of it is judged at no later label age either
        Sidecar(run.artifact("facts", ".parquet")).close()
        run.artifact("samples", ".parquet").unlink(missing_ok=True)
    details = {
        "objects": manifest.to_json(),
        "engine": choice.reason,
        "unreadable": scan.faults,
        "unknown_columns": sorted(name.removeprefix("feature_") for name in scan.unknown),
        "missing_columns": sorted({*noted.missing, *(name.partition(" ")[0] for name in noted.unfit)}),
        **({} if complete.ready else {"incomplete": complete.reason}),
        **({"read_rows": profile.rows} if status == "failed" else {}),  # which are late no more when they count again
        "versions": dict(sorted(noted.versions.items())),
    }
    row = {
        **run.key,
        "window_end": run.window.end,
        "as_of": run.as_of,
        "rows": rows,
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
        "dropped_rows": scan.dropped,
        **_late(run, manifest, profile.rows),
    }
    content = profile.to_bytes()
    stored = [{**run.key, "bins_digest": profile.bins.digest, "rows": profile.rows, "profile": content}]
    run.history.put(run.window.start, content)
    facts: dict[str, Any] = {
        "rows": profile.rows,
        "objects": len(manifest.objects),
        "duplicate_ids": scan.duplicates,
        "dropped_rows": scan.dropped or None,
        "engine": choice.name,
    }
    error = SourceUnreadable(f"{run.model.model} {run.window}: {reason}") if status == "failed" else None
    writes = (
        ("windows", run.key, [row]),
        ("profiles", run.key, stored if status != "failed" else []),
        ("slices", run.key, _sliced(run, scan) if status != "failed" else []),
    )
    return Result("pull", status, reason, writes, facts, error)


def _sliced(run: Run, scan: Scan) -> list[dict[str, Any]]:
    """The slices' row; none where there are no segments, and one version: its slice is the whole."""
    if scan.slices is None or (not run.model.segments and len(scan.slices.rows) < 2):
        return []
    digest = scan.slices.slicing.digest
    return [{**run.key, "bins_digest": digest, "content": scan.slices.to_bytes()}]


def _late(run: Run, manifest: Manifest, rows: int) -> dict[str, Any]:
    """What came after the window was first read: how many rows, and how long after its end the last of them.

    Counted against the row that an earlier run left, so that reading the same objects again changes nothing.
    """
    stored = run.store.rows(tables.windows, **run.key)
    if not stored:
        return {"late_rows": 0, "late_seconds": None}
    before, details = stored[0], json.loads(stored[0]["details"] or "{}")
    seen = {tuple(item) for item in details.get("objects", ())}
    fresh = [item for item in manifest.objects if (item.name, item.size, item.etag) not in seen]
    late, lag = max(rows - details.get("read_rows", before["rows"]), 0) if fresh else 0, before["late_seconds"]
    arrived = [item.arrived for item in fresh if item.arrived]
    if late and arrived:
        lag = max(int((max(arrived) - run.window.end).total_seconds()), lag or 0)
    return {"late_rows": (before["late_rows"] or 0) + late, "late_seconds": lag}


def _first(faults: dict[str, str]) -> str:
    return "; ".join(list(faults.values())[:3])
