"""A run: one model, one window, as of one moment. `execute` computes a check and commits it in one transaction."""

from __future__ import annotations

import importlib
import json
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from hindcast import config as configuration
from hindcast.checks.context import stamped
from hindcast.checks.reference import Reference, load_reference, reference_slices
from hindcast.drift.baseline import History
from hindcast.errors import HindcastError, SourceUnreadable, UsageError
from hindcast.profile.profile import Profile
from hindcast.profile.slices import VERSION, Slices, Slicing
from hindcast.results import tables
from hindcast.results.sql import Store
from hindcast.sources import labels_of, logs_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from hindcast.config import ModelFile
    from hindcast.sources.base import Source
    from hindcast.window import Window

CHECKS = ("pull", "quality", "drift", "performance", "importance", "triage")


@dataclass(frozen=True)
class Result:
    """What a check found: rows to replace, by table, each with the key that is deleted first.

    `writes` is a sequence of ``(table name, key, rows)``; `facts` are small and go to XCom and the log.
    """

    check: str
    status: str
    reason: str = ""
    writes: Sequence[tuple[str, dict[str, Any], list[dict[str, Any]]]] = ()
    facts: dict[str, Any] = field(default_factory=dict)
    # Raised after the commit: the window is on record, and the task is red.
    error: HindcastError | None = None


class Run:
    """One model, one window, as of one moment; sources, store and stored profiles opened when first used.

    Parameters
    ----------
    model : ModelFile
    window : Window
    as_of : datetime
        What was not known then does not exist: no later label, no later window.
    store : Store
    publish : bool
        Put metrics into the outbox: scheduled runs do, replays and backfills do not.
    """

    def __init__(
        self, model: ModelFile, window: Window, as_of: datetime, store: Store, *, publish: bool = False
    ) -> None:
        if as_of < window.end:
            message = f"as-of {as_of.isoformat()} lies before the end of window {window}: it is not over yet"
            raise UsageError(message)
        self.model, self.window, self.as_of, self.store, self.publish = model, window, as_of, store, publish

    @classmethod
    def open(
        cls,
        name: str,
        window: Window,
        as_of: datetime | None = None,
        *,
        config: str | Path | None = None,
        results: str | None = None,
        now: datetime | None = None,
        publish: bool = False,
    ) -> Run:
        """Find the model and open the store.

        Without `as_of`, it is the moment when the window's last labels are due, or `now` if that is earlier: a mature
        window gives the same rows for ever.
        """
        model = configuration.find(name, config)
        as_of = as_of or min(ripe(model, window), now or datetime.now(UTC))
        return cls(model, window, as_of, Store(results), publish=publish)

    def at(self, window: Window, as_of: datetime) -> Run:
        """The same model at another window, sharing what is open."""
        other = Run(self.model, window, as_of, self.store, publish=self.publish)
        for name in ("logs", "labels", "reference", "slicing", "reference_slices", "history", "outcomes", "memories"):
            if name in self.__dict__:
                other.__dict__[name] = self.__dict__[name]
        return other

    @property
    def key(self) -> dict[str, Any]:
        """What identifies the rows of this run."""
        return {"model_name": self.model.model, "window_start": self.window.start}

    @property
    def detected_at(self) -> datetime:
        """When the window's own logs told: its settle time, also when it is checked long after."""
        return min(self.as_of, self.window.end + settle(self.model))

    @property
    def segment_columns(self) -> dict[str, tuple[str, ...]]:
        """Segment -> columns of the log that may hold it, the feature first."""
        return {name: (f"feature_{name}", name) for name in self.model.segments}

    @property
    def segment_values(self) -> dict[str, dict[str, tuple[str, ...] | None]]:
        """Segment -> column of the log -> the values that the reference knows best, None where it knows none."""
        bins, most = self.reference.bins, self.model.performance.max_segment_values
        known = dict(zip(bins.categorical, bins.categories, strict=True))
        return {
            name: {column: tuple(known[column][:most]) if column in known else None for column in columns}
            for name, columns in self.segment_columns.items()
        }

    @cached_property
    def logs(self) -> Source:
        """Where the prediction logs are."""
        return logs_of(self.model)

    @cached_property
    def labels(self) -> Source | None:
        """Where late ground truth is."""
        return labels_of(self.model)

    @cached_property
    def reference(self) -> Reference:
        """The fitted reference, from the store or fitted now."""
        return load_reference(self.model, self.store, self.logs if self.model.reference.uri is None else None)

    @cached_property
    def slicing(self) -> Slicing:
        """Segments, of the values that the reference knows best, and versions."""
        return Slicing.of(self.reference.profile, {**self.segment_values, VERSION: {VERSION: None}})

    @cached_property
    def reference_slices(self) -> Slices:
        """Segments of the reference, from the store or counted now."""
        logs = self.logs if self.model.reference.uri is None else None
        return reference_slices(self.model, self.store, logs, self.reference, self.slicing)

    @cached_property
    def history(self) -> History:
        """Stored hourly profiles."""
        return History(self.reference.bins, self._profiles, lambda hours: self._profiles(hours, "rows"))

    @cached_property
    def acceptances(self) -> list[dict[str, Any]]:
        """Every level that was accepted, by anybody and at any time."""
        return self.store.rows(tables.acceptances, model_name=self.model.model)

    @cached_property
    def outcomes(self) -> dict[Any, Any]:
        """Outcomes of earlier windows, held between the windows of a replay."""
        return {}

    @cached_property
    def memories(self) -> dict[Any, Any]:
        """Policy memories of earlier windows, held between the windows of a replay."""
        return {}

    def wholes(self, hours: Sequence[datetime]) -> dict[datetime, bytes]:
        """Stored profiles of some hours, and those that are about to be."""
        again = self.memories.get("wholes", {})
        return {hour: again[hour] for hour in hours if hour in again} | self._profiles(hours)

    def _profiles(self, hours: Sequence[datetime], column: str = "profile") -> dict[datetime, Any]:
        table, found = tables.profiles, {}
        for first in range(0, len(hours), 500):
            rows = self.store.rows(
                table,
                columns=("window_start", column),
                model_name=self.model.model,
                bins_digest=self.reference.bins.digest,
                window_start=list(hours[first : first + 500]),
            )
            found.update({row["window_start"]: row[column] for row in rows})
        return found

    @cached_property
    def pulled(self) -> dict[str, Any]:
        """The window's row, as `pull` wrote it.

        Raises
        ------
        UsageError
            The window was never pulled.
        SourceUnreadable
            None of its objects could be read.
        """
        rows = self.store.rows(tables.windows, **self.key)
        if not rows:
            message = f"{self.model.model} {self.window}: was not pulled yet; run the check pull first"
            raise UsageError(message)
        if rows[0]["status"] == "failed":
            message = f"{self.model.model} {self.window}: {rows[0]['reason']}"
            raise SourceUnreadable(message)
        return {**rows[0], **json.loads(rows[0]["details"])}

    @cached_property
    def profile(self) -> Profile:
        """The window's profile, as `pull` wrote it."""
        content = self._profiles([self.window.start]).get(self.window.start)
        return Profile.from_bytes(content, self.reference.bins) if content else Profile.empty(self.reference.bins)

    def artifact(self, kind: str, suffix: str, window: Window | None = None) -> Path:
        """Where a file of a window lies; the model's name is safe in a path, config.py sees to that."""
        name = f"{(window or self.window).start:%Y-%m-%dT%H}{suffix}"
        return self.store.artifacts / kind / self.model.model / name


def ripe(model: ModelFile, window: Window) -> datetime:
    """When the last labels of a window are due: from then on, it gives the same rows for ever."""
    return window.end + settle(model) + timedelta(hours=max(model.performance.label_ages_hours))


def settle(model: ModelFile) -> timedelta:
    """How long after a window's end its log files may still arrive."""
    return timedelta(minutes=model.schedule.settle_minutes)


def compute(run: Run, check: str) -> Result:
    """What a check finds, nothing written.

    Raises
    ------
    HindcastError
        The check could not be done; a fault that nobody foresaw is the cause of one.
    """
    if check not in CHECKS:
        message = f"unknown check {check!r}; known: {', '.join(CHECKS)}"
        raise UsageError(message)
    try:
        # Each check's module is imported only where it runs: importing Great Expectations costs seconds.
        result: Result = importlib.import_module(f"hindcast.checks.{check}").check(run)
    except HindcastError:
        raise
    except Exception as error:  # whatever a library makes of strange data stops this check, and no other
        message = f"{check}: unexpected {type(error).__name__}: {error}"
        raise HindcastError(message) from error
    return result


def commit(run: Run, result: Result, seconds: float) -> None:
    """Write a result in one transaction: its rows, the check's own row, and its metrics if they are to be pushed."""
    run.store.write(lambda connection: _write(run, result, seconds, connection), run.model.model)


def _fold(run: Run, started: float) -> Result:
    """Triage in the transaction that writes it: what another run finds meanwhile comes before it or after it.

    Alerts are folded from the findings of many windows, those of other runs too. Folded before the transaction, what
    was found meanwhile would be missing from the alerts until the next triage.
    """

    def work(connection: Any) -> Result:
        run.__dict__.pop("acceptances", None)  # somebody may have accepted a level since
        result = compute(run, "triage")
        _write(run, result, time.perf_counter() - started, connection)
        return result

    return run.store.write(work, run.model.model)


def carry_out(run: Run, check: str) -> Result:
    """Compute a check and commit it; an error is a result too, whose row says why."""
    started = time.perf_counter()
    try:
        if check == "triage":
            return _fold(run, started)
        result = compute(run, check)
    except HindcastError as error:
        result = Result(check, "error", str(error), error=error)
    commit(run, result, time.perf_counter() - started)
    return result


def _write(run: Run, result: Result, seconds: float, connection: Any) -> None:
    own = {
        **run.key,
        "check": result.check,
        "status": result.status,
        "reason": result.reason,
        "as_of": run.as_of,
        "config_digest": run.model.digest,
        "duration_seconds": seconds,
        "recorded_at": datetime.now(UTC),
    }
    writes = [_stamped(run, name, key, rows) for name, key, rows in result.writes]
    run.store.replace_all(connection, [*writes, (tables.checks, {**run.key, "check": result.check}, [own])])
    for row in (row for name, _, rows in result.writes if name == "acceptances" for row in rows):
        audit_acceptance(run, connection, row)
    if result.check == "triage":
        content = {**result.facts, "as_of": run.as_of, "config_digest": run.model.digest}
        run.store.append_audit(connection, actor="hindcast", action="triage", content=content, **run.key)
    if run.publish:
        from hindcast.push import fill

        fill(run, result, seconds, connection)


def audit_acceptance(run: Run, connection: Any, row: dict[str, Any]) -> None:
    """Record who accepted what, under which model file."""
    content = {name: row[name] for name in ("alert_id", "kind", "subject", "since", "accepted_at", "reason")}
    content["config_digest"] = run.model.digest
    run.store.append_audit(connection, actor=row["actor"], action="accept", content=content, **run.key)


def _stamped(run: Run, name: str, key: dict[str, Any], rows: list[dict[str, Any]]) -> tuple[Any, dict[str, Any], Any]:
    """What is written to a table, each row with the digest of the model file, findings with what was planned."""
    table = tables.METADATA.tables[name]
    stamp = {"config_digest": run.model.digest} if "config_digest" in table.c else {}
    written = stamped(run, rows) if table is tables.findings else rows
    return table, key, [{**stamp, **row} for row in written]


def execute(run: Run, check: str) -> dict[str, Any]:
    """Compute one check and commit it; returns its facts with ``status`` and ``reason``.

    Raises
    ------
    HindcastError
        The check could not be done. Its row says so, and what earlier runs wrote stays.
    """
    result = carry_out(run, check)
    if result.error:
        raise result.error
    return {"status": result.status, "reason": result.reason, **result.facts}
