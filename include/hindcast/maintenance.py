"""Once a day: facts of the day, windows whose labels never came, and the end of what nobody reads any more.

Everything is measured against the day that is asked for, never against a clock: a replay of 2013 deletes nothing of
2013.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, func, select

from hindcast.results import tables
from hindcast.window import HOUR, hours

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from sqlalchemy import ColumnElement, Connection, Table

    from hindcast.config import ModelFile
    from hindcast.results.sql import Row, Store

DAY = timedelta(days=1)
MATURITY_DAYS = 7
SHOWN_WINDOWS = 48


@dataclass(frozen=True)
class Keep:
    """For how many days before the end of the day something is kept.

    Alerts, incidents, findings (alerts are folded from them), windows, days and the audit are kept for ever.

    Attributes
    ----------
    detail : int
        Rows of the check tables and outcomes; at least what the performance baseline looks back.
    profiles : int
        Profiles and the policy's memory; seasonal baselines look back 8 weeks.
    artifacts : int
        Row facts, which labels are joined to until the largest label age has passed, and samples.
    """

    detail: int = 90
    profiles: int = 70
    artifacts: int = 7

    @classmethod
    def of(cls, model: ModelFile) -> Keep:
        """Limits of a model.

        Examples
        --------
        >>> from hindcast.config import ModelFile
        >>> model = ModelFile.model_validate({"model": "m", "task": "binary", "logs": {"uri": "logs"},
        ...     "reference": {"uri": "r.parquet"}, "performance": {"label_ages_hours": [0, 48]}})
        >>> Keep.of(model)
        Keep(detail=90, profiles=70, artifacts=9)
        """
        label_days = -(-_largest_age(model) // 24)
        looked_back = model.performance.baseline_days + label_days + 1
        return cls(max(cls.detail, looked_back), cls.profiles, cls.artifacts + label_days)


# What is kept for `detail`, `profiles` and `artifacts` days; files lie at <artifacts>/<kind>/<model>/<window>.<suffix>.
DETAIL = (tables.quality, tables.drift, tables.performance, tables.importance, tables.checks, tables.outcomes)
LEARNT = (tables.profiles, tables.slices, tables.memory, tables.episodes)
DETAIL_FILES = ("datadocs",)
ROW_FILES = ("facts", "samples")


def _largest_age(model: ModelFile) -> int:
    return max(model.performance.label_ages_hours)


def roll_up(store: Store, model: ModelFile, day: datetime) -> Row:
    """Write the facts of a day into the table `days`, replacing what was there.

    Parameters
    ----------
    store : Store
        The results.
    model : ModelFile
        Whose day.
    day : datetime
        Midnight UTC at which the day starts.

    Returns
    -------
    Row
        The row as stored; `label_coverage` is, by label age in hours, the share of rows whose label was known, over the
        windows that reached that age on the day: those of the same hours `age` hours earlier.
    """
    end = day + DAY
    name = model.model
    windows = _windows_within(store, model, day, end)
    status = [row["status"] for row in windows]
    alerts, incidents = tables.alerts.c, tables.incidents.c
    row: Row = {
        "model_name": name,
        "day": day,
        **{f"hours_{state}": status.count(state) for state in ("ok", "empty", "partial", "failed")},
        "hours_missing": len(list(hours(day, end))) - len(windows),
        "rows": sum(row["rows"] for row in windows),
        "bytes": sum(row["bytes"] for row in windows),
        # An alert opens and resolves at the end of a window, so the day's are after its midnight and up to the next.
        "alerts_opened": len(
            store.rows(tables.alerts, alerts.opened_at > day, alerts.opened_at <= end, model_name=name)
        ),
        "alerts_resolved": len(
            store.rows(tables.alerts, alerts.resolved_at > day, alerts.resolved_at <= end, model_name=name)
        ),
        "incidents_opened": len(
            store.rows(tables.incidents, incidents.opened_at > day, incidents.opened_at <= end, affected_model=name)
        ),
        "label_coverage": json.dumps(
            {str(age): _coverage(store, model, day, age) for age in model.performance.label_ages_hours}
        ),
        "config_digest": model.digest,
    }
    key = {"model_name": name, "day": day}
    store.write(lambda connection: store.replace(connection, tables.days, [row], **key), name)
    return row


def label_maturity(store: Store, model: ModelFile, day: datetime) -> dict[str, Any]:
    """Windows of the last days that are older than the largest label age and still lack labels.

    Returns
    -------
    dict
        `status` (ok or insufficient_data), `reason`, `due` (windows with rows that are old enough), `immature` (how
        many of them are below `performance.min_label_coverage` or were not evaluated), the first `windows` of those.
    """
    age = _largest_age(model)
    settle = timedelta(minutes=model.schedule.settle_minutes)
    end = day + DAY
    # A window is due when it was evaluated at the largest age before the day ended.
    due = [
        row["window_start"]
        for row in _windows_within(store, model, end - MATURITY_DAYS * DAY - age * HOUR, end - age * HOUR)
        if row["rows"] and row["window_end"] + age * HOUR + settle <= end
    ]
    covered = _coverages(store, model, age, due)
    immature = [start for start in due if (covered.get(start) or 0.0) < model.performance.min_label_coverage]
    reason = f"{len(immature)} of {len(due)} windows have too few labels {age} h after their end" if immature else None
    return {
        "status": "insufficient_data" if immature else "ok",
        "reason": reason,
        "due": len(due),
        "immature": len(immature),
        "windows": [start.isoformat() for start in immature[:SHOWN_WINDOWS]],
    }


def newest_day(store: Store, model: ModelFile) -> datetime | None:
    """Midnight of the day of the newest window; None where no window was ever checked."""
    query = select(func.max(tables.windows.c.window_start)).where(tables.windows.c.model_name == model.model)
    found = store.value(query)
    return found.replace(hour=0) if found else None


def retention(
    store: Store, model: ModelFile, day: datetime, keep: Keep | None = None, *, dry_run: bool = False
) -> dict[str, int]:
    """Delete what is older than its limit, counted back from the day's end; how many rows and files went, by table.

    Files go before rows: after a crash in between, the next run finds the rows again.

    Parameters
    ----------
    day : datetime
        Midnight UTC.
    keep : Keep, optional
        The limits; the model's by default.
    dry_run : bool
        Only count what would go.
    """
    keep = keep or Keep.of(model)
    end, name = day + DAY, model.model
    detail, profiles, artifacts = (end - days * DAY for days in (keep.detail, keep.profiles, keep.artifacts))
    files = {
        kind: _old_files(store.artifacts / kind / name, before)
        for kinds, before in ((DETAIL_FILES, detail), (ROW_FILES, artifacts))
        for kind in kinds
    }
    old = {
        table: (table.c.model_name == name) & (table.c.window_start < before)
        for group, before in ((DETAIL, detail), (LEARNT, profiles))
        for table in group
    }
    counts = {kind: len(paths) for kind, paths in files.items()}
    if not dry_run:
        _delete_files([path for paths in files.values() for path in paths])

    def work(connection: Connection) -> dict[str, int]:
        gone = counts | {table.name: _deleted(connection, table, which) for table, which in old.items()}
        gone |= _delete_references(store, model, connection, files=not dry_run)
        if dry_run:
            connection.rollback()
        elif any(gone.values()):
            key = {"model_name": name, "window_start": day}
            store.append_audit(connection, actor="retention", action="delete", content=gone, **key)
        return gone

    return store.write(work, name)


def _delete_references(store: Store, model: ModelFile, connection: Connection, *, files: bool) -> dict[str, int]:
    """Delete fitted references that no stored profile has the bins of, their samples first; the newest stays."""
    table, profiles = tables.references, tables.profiles
    fitted = select(table.c.reference_digest, table.c.bins_digest).where(table.c.model_name == model.model)
    digests = [tuple(row) for row in connection.execute(fitted.order_by(table.c.recorded_at))]
    used = select(profiles.c.bins_digest).where(profiles.c.model_name == model.model).distinct()
    in_use = {*connection.execute(used).scalars(), *(bins for _, bins in digests[-1:])}
    gone = [digest for digest, bins in digests if bins not in in_use]
    for digest in gone if files else ():
        (store.artifacts / "references" / model.model / f"{digest}.parquet").unlink(missing_ok=True)
    counts = {}
    for each in (tables.reference_slices, table):
        old = (each.c.model_name == model.model) & each.c.reference_digest.in_(gone)
        counts[each.name] = _deleted(connection, each, old) if gone else 0
    return counts


def _deleted(connection: Connection, table: Table, which: ColumnElement[bool]) -> int:
    """Delete rows; how many there were, which has to be asked for where nothing is done before the commit."""
    return connection.execute(delete(table).where(which), execution_options={"preserve_rowcount": True}).rowcount


def _old_files(folder: Path, before: datetime) -> list[Path]:
    """Files of windows before a moment, and the folders that Spark writes; their names sort by time."""
    return [path for path in folder.glob("????-??-??T??.*") if path.name < f"{before:%Y-%m-%dT%H}"]


def _delete_files(old: Sequence[Path]) -> None:
    for path in old:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _windows_within(store: Store, model: ModelFile, start: datetime, end: datetime) -> list[Row]:
    moment = tables.windows.c.window_start
    names = ("window_start", "window_end", "rows", "bytes", "status")
    return store.rows(tables.windows, moment >= start, moment < end, columns=names, model_name=model.model)


def _coverages(store: Store, model: ModelFile, age: int, starts: Sequence[datetime]) -> dict[datetime, float]:
    """Label coverage of all rows of each window at an age, where it was evaluated."""
    names = ("window_start", "label_coverage")
    known: dict[datetime, float] = {}
    if not starts:
        return known
    moment = tables.performance.c.window_start
    within = (moment >= min(starts), moment <= max(starts), tables.performance.c.label_coverage.is_not(None))
    key = {"model_name": model.model, "segment": "*", "label_age_hours": age}
    for row in store.rows(tables.performance, *within, columns=names, **key):
        start = row["window_start"]
        known[start] = max(known.get(start, 0.0), row["label_coverage"])
    return known


def _coverage(store: Store, model: ModelFile, day: datetime, age: int) -> float | None:
    windows = _windows_within(store, model, day - age * HOUR, day + DAY - age * HOUR)
    rows = {row["window_start"]: row["rows"] for row in windows if row["rows"]}
    known = _coverages(store, model, age, list(rows))
    total = sum(rows[start] for start in known if start in rows)
    return sum(share * rows[start] for start, share in known.items() if start in rows) / total if total else None
