"""pull: pin the window's objects, read each row once, keep profile, row facts and sample."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from hindcast.checks.run import Result, Run, settle
from hindcast.errors import SourceUnreadable
from hindcast.profile.facts import RowFacts
from hindcast.profile.scan import Expected, Scanner

if TYPE_CHECKING:
    from hindcast.profile.profile import Profile
    from hindcast.sources.base import LogObject, Manifest


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
    faults: dict[str, str] = {}
    while True:
        try:
            scanner, facts, unknown = _scan(run, manifest, faults)
            break
        except _Broken as broken:
            # A file that breaks half way has already been counted: start over without it.
            faults[broken.name] = broken.reason
    facts.close()
    _write_sample(run, facts)
    return _result(run, manifest, scanner.profile, facts, faults, unknown)


class _Broken(Exception):
    def __init__(self, name: str, reason: str) -> None:
        self.name, self.reason = name, reason


def _scan(run: Run, manifest: Manifest, faults: dict[str, str]) -> tuple[Scanner, RowFacts, set[str]]:
    bins = run.reference.bins
    facts = RowFacts(
        run.artifact("facts", ".parquet"),
        run.window.start,
        run.window.end,
        filter_rows=manifest.layout == "flat",
        numeric_prediction=run.model.task == "regression",
        extra=(*(c for columns in run.segment_columns.values() for c in columns), *_business(run)),
        sample_rows=run.model.explain.sample_rows,
    )
    scanner = Scanner(bins, _expected(run), facts)
    known = {*bins.numeric, *bins.categorical}
    unknown: set[str] = set()
    for item in manifest.objects:
        if item.name in faults:
            continue
        try:
            file = run.logs.open(item, bins.categorical)
        except SourceUnreadable as error:
            faults[item.name] = str(error)
            continue
        unknown |= {n for n in file.schema_arrow.names if n.startswith("feature_") and n not in known}
        _read(scanner, facts, file, item)
    return scanner, facts, unknown


def _read(scanner: Scanner, facts: RowFacts, file: pq.ParquetFile, item: LogObject) -> None:
    try:
        scanner.read(file)
    except (OSError, pa.ArrowException) as error:
        facts.discard()
        raise _Broken(item.name, f"{item.name}: cannot be read: {error}") from error


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


def _write_sample(run: Run, facts: RowFacts) -> None:
    path = run.artifact("samples", ".parquet")
    if not facts.rows:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")  # another process may check the same window
    pq.write_table(facts.sample.table(), temporary, compression="zstd")
    temporary.replace(path)


def _result(
    run: Run, manifest: Manifest, profile: Profile, facts: RowFacts, faults: dict[str, str], unknown: set[str]
) -> Result:
    status, reason = "ok", ""
    if manifest.objects and len(faults) == len(manifest.objects):
        status, reason = "failed", f"none of {len(faults)} objects could be read; first: {next(iter(faults.values()))}"
    elif faults:
        status, reason = (
            "partial",
            f"{len(faults)} of {len(manifest.objects)} objects could not be read: {_first(faults)}",
        )
    elif not profile.rows:
        status, reason = "empty", "no rows"
    elif facts.missing:
        reason = f"the logs lack {', '.join(sorted(facts.missing))}"
    duplicates = facts.duplicates.count()
    version = max(sorted(facts.versions), key=lambda name: facts.versions[name], default=None)
    details = {
        "objects": manifest.to_json(),
        "unreadable": faults,
        "unknown_columns": sorted(name.removeprefix("feature_") for name in unknown),
        "missing_columns": sorted(facts.missing),
        "versions": dict(sorted(facts.versions.items())),
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
        "model_version": version,
        "duplicate_ids": duplicates,
        "misplaced_rows": facts.misplaced,
        "newest_prediction": facts.newest,
        "details": json.dumps(details),
        "recorded_at": datetime.now(UTC),
    }
    content = profile.to_bytes()
    stored = [{**run.key, "bins_digest": profile.bins.digest, "rows": profile.rows, "profile": content}]
    run.history.put(run.window.start, content)
    facts_out: dict[str, Any] = {"rows": profile.rows, "objects": len(manifest.objects), "duplicate_ids": duplicates}
    error = SourceUnreadable(f"{run.model.model} {run.window}: {reason}") if status == "failed" else None
    writes = (("windows", run.key, [row]), ("profiles", run.key, stored if status != "failed" else []))
    return Result("pull", status, reason, writes, facts_out, error)


def _first(faults: dict[str, str]) -> str:
    return "; ".join(list(faults.values())[:3])
