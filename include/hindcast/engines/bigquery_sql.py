"""The SQL that profiles a window inside BigQuery: text and parameters, no service.

Every number is one that the kernel would have found, bit for bit:

- ``RANGE_BUCKET`` counts the edges at or below a point, and bins are right-closed: they need the edges strictly below
  it. Both point and edges are mirrored (negated), so that the edges at or above it are counted instead.
- A value enters the sums as a whole number of units, rounded half to even: adding 1.5 * 2**52 units and taking them
  away again rounds so in the arithmetic of FLOAT64 itself, where ``ROUND`` would round half away from zero.
- New values of a category are the ones with the smallest ``FARM_FINGERPRINT``, ties by their bytes.

Source: https://cloud.google.com/bigquery/docs/reference/standard-sql/array_functions#range_bucket
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hindcast.profile.profile import MINUS_INF, NAN, NEW_VALUES_KEPT, NULL, PLUS_INF
from hindcast.sources.bigquery import named_of, quoted, rows_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    from hindcast.profile.bins import Bins
    from hindcast.profile.scan import Expected

# How a column becomes a number, or text, as the kernel makes it; columns of other types are streamed to the kernel.
AS_NUMBER = {
    "FLOAT64": "{}",
    "INT64": "CAST({} AS FLOAT64)",
    "BOOL": "CAST(CAST({} AS INT64) AS FLOAT64)",
    "TIMESTAMP": "CAST(UNIX_MICROS({}) AS FLOAT64)",
    "DATE": "86400e6 * UNIX_DATE({})",
    "NUMERIC": "CAST(CAST({} AS STRING) AS FLOAT64)",
}
AS_TEXT = {"STRING": "{}", "INT64": "CAST({} AS STRING)", "BOOL": "CAST({} AS STRING)"}
# A statement may hold 1 MB and a request 10 MB: 50 columns of 1,024 edges make 2 MB of parameters.
_MOST_COLUMNS, _MOST_EDGES, _MOST_CHARACTERS = 100, 102_400, 2_000_000
# Adding so many units rounds a FLOAT64 below 2**51 units to whole ones, ties to even: what the kernel does.
_ANCHOR = 1.5 * 2.0**52
# Slots of values that lie in no bin are told by negative numbers: -1 - slot.
_SLOTS = "CASE WHEN cell.x IS NULL THEN {null} WHEN IS_NAN(cell.x) THEN {nan} WHEN cell.x = CAST('-inf' AS FLOAT64) "
_SLOTS += "THEN {minus} WHEN cell.x = CAST('inf' AS FLOAT64) THEN {plus} ELSE cell.bucket END"


@dataclass(frozen=True)
class Window:
    """Which rows: a table (checked by its source), as of a snapshot, with ``start <= timestamp < end``.

    `stays` is that of `hindcast.sources.bigquery.TableSlice`.
    """

    table: str
    snapshot: datetime
    start: datetime
    end: datetime
    stays: tuple[tuple[str, int], ...] | None = None

    @property
    def rows(self) -> str:
        """The clause that names them."""
        return rows_of(self.table, "timestamp", self.stays)

    @property
    def parameters(self) -> dict[str, Any]:
        """Values of the clause."""
        return {"snapshot": self.snapshot, "start": self.start, "end": self.end, **named_of(self.stays)}


@dataclass(frozen=True)
class Statement:
    """One query.

    Attributes
    ----------
    sql : str
    parameters : dict
        Name -> datetime, int, list of str, or a dict of floats and lists of floats.
    columns : tuple of int
        Positions in the bins of the columns that it profiles.
    """

    sql: str
    parameters: dict[str, Any]
    columns: tuple[int, ...] = ()


def numeric_statements(
    window: Window, bins: Bins, expected: Expected, types: Mapping[str, str], pushed: Sequence[int]
) -> list[Statement]:
    """Queries that count and sum numeric columns: one, unless the parameters grow too large.

    Each gives rows of ``position`` (in `Statement.columns`), ``slot`` (edges at or above the value; -1 - slot of what
    lies in no bin), ``found``, ``units``, ``low``, ``high``, ``below``, ``above``.

    Parameters
    ----------
    window : Window
    bins : Bins
    expected : Expected
        Ranges to count against.
    types : mapping
        Column -> BigQuery type, of `AS_NUMBER`.
    pushed : sequence of int
        Positions of the columns in ``bins.numeric``.
    """
    parts = _parts(pushed, lambda i: bins.edges[i].size, _MOST_EDGES)
    return [_numeric(window, bins, expected, types, part) for part in parts]


def _numeric(
    window: Window, bins: Bins, expected: Expected, types: Mapping[str, str], part: tuple[int, ...]
) -> Statement:
    names = [bins.numeric[i] for i in part]
    numbers = [AS_NUMBER[types[name]].format(quoted(name)) for name in names]
    slots = _SLOTS.format(null=-1 - NULL, nan=-1 - NAN, minus=-1 - MINUS_INF, plus=-1 - PLUS_INF)
    sql = f"""WITH chosen AS (
SELECT {_listed(f"{number} AS x{k}" for k, number in enumerate(numbers))}
{window.rows}
), placed AS (
SELECT *, {_listed(f"RANGE_BUCKET(-x{k}, @c{k}.mirrored) AS b{k}" for k in range(len(part)))}
FROM chosen
), cells AS (
SELECT cell.position, cell.x, cell.units, cell.below, cell.above, {slots} AS slot
FROM placed CROSS JOIN UNNEST([
{_listed(_cell(k) for k in range(len(part)))}
]) AS cell
)
SELECT position, slot, COUNT(*) AS found, SUM(IF(slot >= 0, CAST(units AS INT64), 0)) AS units,
MIN(x) AS low, MAX(x) AS high, COUNTIF(below) AS below, COUNTIF(above) AS above
FROM cells GROUP BY position, slot"""
    columns = {f"c{k}": _limits(bins, expected, i) for k, i in enumerate(part)}
    return Statement(sql, {**window.parameters, **columns}, part)


def _cell(k: int) -> str:
    """What is known of one value before it is counted."""
    clipped = f"LEAST(GREATEST(x{k}, @c{k}.low), @c{k}.high)"
    return (
        f"STRUCT({k} AS position, x{k} AS x, b{k} AS bucket, "
        f"((({clipped} - @c{k}.center) + @c{k}.anchor) - @c{k}.anchor) / @c{k}.unit AS units, "
        f"x{k} < @c{k}.minimum AS below, x{k} > @c{k}.maximum AS above)"
    )


def _limits(bins: Bins, expected: Expected, i: int) -> dict[str, Any]:
    minimum, maximum = expected.limits.get(bins.numeric[i], (None, None))
    return {
        "mirrored": (-bins.edges[i][::-1]).tolist(),
        "low": float(bins.limits[i, 0]),
        "high": float(bins.limits[i, 1]),
        "center": float(bins.center[i]),
        "anchor": float(_ANCHOR * bins.unit[i]),
        "unit": float(bins.unit[i]),
        "minimum": None if minimum is None else float(minimum),
        "maximum": None if maximum is None else float(maximum),
    }


def categorical_statements(
    window: Window, bins: Bins, expected: Expected, types: Mapping[str, str], pushed: Sequence[int]
) -> list[Statement]:
    """Queries that count categorical columns: one, unless the known values grow too many.

    Each gives up to three rows per ``position``, by whether the value is ``known`` (null for nulls): ``found`` and
    ``unexpected`` rows, and ``kept``, the values with their counts and hashes, of too many the smallest hashes.
    Parameters as `numeric_statements` has them, of ``bins.categorical`` and `AS_TEXT`.
    """

    def size(i: int) -> int:
        allowed = expected.allowed.get(bins.categorical[i], frozenset())
        return sum(map(len, bins.categories[i])) + sum(map(len, allowed))

    parts = _parts(pushed, size, _MOST_CHARACTERS)
    return [_categorical(window, bins, expected, types, part) for part in parts]


def _categorical(
    window: Window, bins: Bins, expected: Expected, types: Mapping[str, str], part: tuple[int, ...]
) -> Statement:
    names = [bins.categorical[i] for i in part]
    texts = [AS_TEXT[types[name]].format(quoted(name)) for name in names]
    known = {f"k{k}": list(bins.categories[i]) for k, i in enumerate(part)}
    allowed = {f"a{k}": sorted(expected.allowed[name]) for k, name in enumerate(names) if name in expected.allowed}
    most = max(bins.depth, NEW_VALUES_KEPT)
    sql = f"""WITH chosen AS (
SELECT {_listed(f"{text} AS t{k}" for k, text in enumerate(texts))}
{window.rows}
), counted AS (
SELECT cell.position, cell.text, COUNT(*) AS found
FROM chosen CROSS JOIN UNNEST([
{_listed(f"STRUCT({k} AS position, t{k} AS text)" for k in range(len(part)))}
]) AS cell
GROUP BY position, text
), judged AS (
SELECT position, text, found, FARM_FINGERPRINT(text) AS hash,
CASE WHEN text IS NULL THEN NULL {_per_position(f"k{k}" for k in range(len(part)))} END AS known,
CASE WHEN text IS NULL THEN TRUE {_per_position(allowed)} ELSE TRUE END AS allowed
FROM counted
)
SELECT position, known, SUM(found) AS found, SUM(IF(allowed, 0, found)) AS unexpected,
ARRAY_AGG(STRUCT(text AS text, found AS found, hash AS hash) ORDER BY hash, text LIMIT {most}) AS kept
FROM judged GROUP BY position, known"""
    return Statement(sql, {**window.parameters, **known, **allowed}, part)


def sample_statement(
    window: Window, types: Mapping[str, str], features: Sequence[str], at_most: int, seed: int
) -> Statement:
    """Query for the features of the rows whose key, once seeded, is at most so large.

    Gives ``key`` and ``moment`` (what `hindcast.profile.sampling.Sample.begin` takes), and ``f0``, ``f1``… for the
    features. A row without an id has the hash of its moment.
    """
    moment = "UNIX_MICROS(`timestamp`)"
    key = f"CAST({moment} AS STRING)"
    if "prediction_id" in types:
        key = f"IFNULL({AS_TEXT[types['prediction_id']].format('`prediction_id`')}, {key})"
    chosen = _listed(f"{quoted(name)} AS f{k}" for k, name in enumerate(features))
    sql = f"""SELECT FARM_FINGERPRINT({key}) AS key, {moment} AS moment,
{chosen}
{window.rows}
AND (FARM_FINGERPRINT({key}) ^ @seed) <= @at_most"""
    return Statement(sql, {**window.parameters, "seed": seed, "at_most": at_most})


def _per_position(parameters: Iterable[str]) -> str:
    return " ".join(f"WHEN position = {name[1:]} THEN text IN UNNEST(@{name})" for name in parameters)


def _listed(items: Iterable[str]) -> str:
    return ",\n".join(items)


def _parts(columns: Sequence[int], size: Callable[[int], int], most: int) -> Iterator[tuple[int, ...]]:
    """Cut columns into runs that fit into one statement."""
    part: list[int] = []
    held = 0
    for i in columns:
        if part and (held + size(i) > most or len(part) == _MOST_COLUMNS):
            yield tuple(part)
            part, held = [], 0
        part.append(i)
        held += size(i)
    if part:
        yield tuple(part)
