"""quality: the expectations of the model file, judged by Great Expectations over the window's profile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hindcast.checks.run import Result, Run
from hindcast.drift.baseline import same_local_hour
from hindcast.quality import WindowFacts, assess, quality_findings
from hindcast.results import tables
from hindcast.unfinished import unfinished

if TYPE_CHECKING:
    from datetime import datetime


def check(run: Run) -> Result:
    """Judge the window; write its Data Docs page beside the results."""
    pulled = run.pulled
    missing = pulled["missing_columns"]
    facts = WindowFacts(
        run.window,
        pulled["rows"],
        None if "prediction_id" in missing else pulled["duplicate_ids"] - (pulled["dropped_rows"] or 0),
        pulled["misplaced_rows"],
        pulled["newest_prediction"],
        len(pulled["unreadable"]),
        usual_rows(run),
        tuple(pulled["unknown_columns"]),
    )
    found = assess(run.model, run.reference.features, run.profile, facts)
    stamp = {**run.key, "model_version": pulled["model_version"]}
    rows = [{**stamp, **row} for row in found.rows]
    # Limits that nobody wrote down, only inferred, are shown when they are passed; they wake nobody.
    worth = quality_findings(found.rows, run.profile, facts, confirmed=bool(run.model.features))
    findings = [_finding(run, finding) for finding in worth]
    writes = (("quality", run.key, rows), ("findings", {**run.key, "check": "quality"}, findings))
    out: dict[str, Any] = {
        "success_ratio": found.success_ratio,
        "failed": sorted({f"{row['subject']} {row['metric']}" for row in rows if row["status"] not in _HARMLESS}),
    }
    if found.page is not None:
        out["data_docs"] = _write_page(run, found.page)
    return Result("quality", "ok", "" if pulled["rows"] else "no rows", writes, out)


_HARMLESS = {"ok", "insufficient_data", "new_column"}


def usual_rows(run: Run) -> tuple[int, ...]:
    """Rows of the same local hour in the 8 weeks before, newest first; with fewer than 3, of the 7 days before."""
    table, zone = tables.windows, run.model.zone
    for days, back in ((7, 8), (1, 7)):
        hours: list[datetime] = [same_local_hour(run.window.start, days * k, zone) for k in range(1, back + 1)]
        found = run.store.rows(
            table,
            table.c.status.in_(["ok", "empty"]),
            columns=("window_start", "rows"),
            model_name=run.model.model,
            window_start=hours,
        )
        if len(found) >= 3:
            break
    newest_first = sorted(found, key=lambda row: row["window_start"], reverse=True)
    return tuple(row["rows"] for row in newest_first)


def _finding(run: Run, finding: dict[str, Any]) -> dict[str, Any]:
    return {
        **run.key,
        "check": "quality",
        "kind": "quality",
        "segment": "*",
        "scale_hours": 1,
        "label_age_hours": 0,
        "change_percent": None,
        "detected_at": run.detected_at,
        **finding,
    }


def _write_page(run: Run, page: str) -> str:
    path = run.artifact("datadocs", ".html")
    temporary = unfinished(path)
    temporary.write_text(page, encoding="utf-8")
    temporary.replace(path)
    return str(path)
