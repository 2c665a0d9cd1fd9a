"""The default engine: this process, with pyarrow and numpy, in memory bounded by a chunk of rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from hindcast.engines.base import Plan, Scan
from hindcast.errors import SourceUnreadable
from hindcast.profile.facts import RowFacts
from hindcast.profile.scan import Scanner
from hindcast.sources.base import Announced, Streamed
from hindcast.threads import usable_threads

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hindcast.sources.base import LogObject


class LocalEngine:
    """Reads every object of a window in this process."""

    def scan(self, plan: Plan) -> Scan:
        """Read the rows once."""
        faults: dict[str, str] = {}
        while True:
            try:
                return _scan(plan, faults)
            except _Broken as broken:
                # A file that breaks half way has already been counted: start over without it.
                faults[broken.name] = broken.reason


class _Broken(Exception):
    def __init__(self, name: str, reason: str) -> None:
        self.name, self.reason = name, reason


def row_facts(plan: Plan) -> RowFacts:
    """The sink that keeps the facts of a plan's rows."""
    return RowFacts(
        plan.sidecar,
        plan.start,
        plan.end,
        filter_rows=plan.manifest.layout == "flat",
        numeric_prediction=plan.numeric_prediction,
        extra=plan.extra,
        sample_rows=plan.sample_rows,
    )


def _scan(plan: Plan, faults: dict[str, str]) -> Scan:
    facts = row_facts(plan)
    scanner = Scanner(plan.bins, plan.expected, facts, threads=usable_threads())
    known = {*plan.bins.numeric, *plan.bins.categorical}
    unknown: set[str] = set()
    objects = [item for item in plan.manifest.objects if item.name not in faults]
    if isinstance(plan.source, Announced):
        plan.source.announce(objects)
    with scanner.gathering():
        for item in objects:
            unknown |= _read(scanner, facts, plan, item, faults) - known
    facts.close()
    return Scan(scanner.profile, facts.noted, facts.sample, facts.duplicates.count(), frozenset(unknown), faults)


def _read(scanner: Scanner, facts: RowFacts, plan: Plan, item: LogObject, faults: dict[str, str]) -> set[str]:
    """Add one object; returns its feature columns."""
    if isinstance(plan.source, Streamed):
        names = plan.source.schema().names
        every = dict.fromkeys([*facts.wants(plan.source.schema()), *plan.bins.numeric, *plan.bins.categorical])
        stream(scanner, plan.source, item, [name for name in every if name in names], facts)
        return {name for name in names if name.startswith("feature_")}
    try:
        file = plan.source.open(item, plan.bins.categorical)
    except SourceUnreadable as error:
        faults[item.name] = str(error)
        return set()
    try:
        scanner.read(file)
    except (OSError, pa.ArrowException, SourceUnreadable) as error:
        facts.discard()
        reason = str(error) if isinstance(error, SourceUnreadable) else f"{item.name}: cannot be read: {error}"
        raise _Broken(item.name, reason) from error
    except BaseException:
        facts.discard()
        raise
    return {name for name in file.schema_arrow.names if name.startswith("feature_")}


def stream(scanner: Scanner, source: Streamed, item: LogObject, columns: Sequence[str], facts: RowFacts) -> None:
    """Add some columns of an object that is no file.

    Raises
    ------
    SourceError
        It broke off; nothing stays of it.
    """
    try:
        with scanner.gathering():
            for batch in source.batches(item, columns):
                scanner.add(batch)
    except BaseException:
        facts.discard()
        raise
