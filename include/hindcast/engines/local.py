"""The default engine: this process, with pyarrow and numpy, in memory bounded by a chunk of rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import pyarrow as pa

from hindcast.engines.base import Plan, Scan
from hindcast.engines.repeats import Repeats, find_repeats
from hindcast.engines.strayed import strayed
from hindcast.errors import SourceUnreadable, UsageError
from hindcast.profile.columns import flat_schema
from hindcast.profile.facts import Noted, RowFacts
from hindcast.profile.scan import Scanner
from hindcast.sources.base import Announced, Streamed
from hindcast.threads import usable_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import pyarrow.parquet as pq

    from hindcast.engines.repeats import Bytes, Flags
    from hindcast.sources.base import LogObject


@dataclass(frozen=True)
class LocalEngine:
    """Reads every object of a window in this process.

    Parameters
    ----------
    marks : mapping, optional
        Name of an object -> a bit per row of it, set for those to leave out; then nobody looks for duplicates.
    """

    marks: Mapping[str, Bytes] | None = None

    def scan(self, plan: Plan) -> Scan:
        """Read the rows once."""
        faults: dict[str, str] = {}
        while True:
            try:
                found = _scan(plan, faults, self.marks)
            except _Broken as broken:
                # A file that breaks half way has already been counted: start over without it.
                faults[broken.name] = broken.reason
            else:
                names = [item.name for item in plan.manifest.objects if item.name in faults]
                return replace(found, faults={name: faults[name] for name in names})


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
        counts_duplicates=not plan.drop_duplicates,
    )


def _scan(plan: Plan, faults: dict[str, str], marks: Mapping[str, Bytes] | None = None) -> Scan:
    facts = row_facts(plan)
    scanner = Scanner(plan.bins, plan.expected, facts, slicing=plan.slicing, threads=usable_threads())
    known = {*plan.bins.numeric, *plan.bins.categorical}
    unknown: set[str] = set()
    objects = [item for item in plan.manifest.objects if item.name not in faults]
    repeats = Repeats()
    if marks is not None:
        repeats = Repeats(0, {k: marks[item.name] for k, item in enumerate(objects) if item.name in marks})
    elif plan.drop_duplicates and isinstance(plan.source, Streamed):
        objects, repeats = _chosen(plan.source, objects)
    elif plan.drop_duplicates:
        repeats = _repeats(plan, objects)
    _announce(plan, objects)
    with scanner.gathering():
        for number, item in enumerate(objects):
            unknown |= _read(scanner, facts, plan, item, faults, partial(repeats.kept, number)) - known
    facts.close()
    duplicates, unseen = facts.duplicates.count() + repeats.rows, frozenset(unknown)
    return Scan(
        scanner.profile, facts.noted, facts.sample, duplicates, unseen, faults, repeats.rows, slices=scanner.slices
    )


def _announce(plan: Plan, objects: Sequence[LogObject]) -> None:
    if isinstance(plan.source, Announced):
        plan.source.announce(objects)


def _repeats(plan: Plan, objects: Sequence[LogObject]) -> Repeats:
    """Look for rows that stand twice in the objects that can be read."""
    name = ""

    def opened(number: int) -> pq.ParquetFile | None:
        nonlocal name
        name = objects[number].name
        try:
            return plan.source.open(objects[number], plan.bins.categorical)
        except SourceUnreadable:
            return None  # whoever reads its rows will say so

    _announce(plan, objects)
    try:
        return find_repeats(plan, range(len(objects)), opened)
    except (OSError, pa.ArrowException, SourceUnreadable) as error:
        raise _Broken(name, why(name, error)) from error


def _chosen(source: Streamed, objects: Sequence[LogObject]) -> tuple[list[LogObject], Repeats]:
    """The objects of a table with one row of each id, and how many are left out: the table's own queries do so."""
    from hindcast.engines.bigquery_repeats import without_repeats
    from hindcast.sources.bigquery import BigQueryTable, as_slice

    if not isinstance(source, BigQueryTable):
        message = "duplicates are dropped of files and of tables in BigQuery; say logs.duplicates: count"
        raise UsageError(message)
    found = [without_repeats(source, as_slice(item)) for item in objects]
    return [item for item, _ in found], Repeats(sum(left_out for _, left_out in found))


def why(name: str, error: Exception) -> str:
    """What is said of an object that broke while it was read."""
    return str(error) if isinstance(error, SourceUnreadable) else f"{name}: cannot be read: {error}"


def _read(
    scanner: Scanner,
    facts: RowFacts,
    plan: Plan,
    item: LogObject,
    faults: dict[str, str],
    kept: Callable[[pq.ParquetFile], Flags | None],
) -> set[str]:
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
        facts.noted += Noted(misplaced=strayed(plan, item, file))
        scanner.read(file, kept(file))
    except (OSError, pa.ArrowException, SourceUnreadable) as error:
        facts.discard()
        raise _Broken(item.name, why(item.name, error)) from error
    except BaseException:
        facts.discard()
        raise
    return {name for name in flat_schema(file.schema_arrow).names if name.startswith("feature_")}


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
