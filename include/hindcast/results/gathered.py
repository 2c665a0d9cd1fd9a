"""What a transaction in BigQuery is going to do, gathered until it is committed: rows, conditions, and one script."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any

from sqlalchemy import Boolean, Float, Integer, LargeBinary, Table
from sqlalchemy.exc import DatabaseError, IntegrityError

from hindcast.results.types import Moment, Number

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sqlalchemy.types import TypeEngine

TURNS = "hindcast_turns"  # how often each scope was written to, and by which transaction last
ANY, ALL = "any", "*"  # scopes: raised by every transaction; and by those that are of no scope
OVERTAKEN = "somebody else wrote first"
_PLACE = re.compile(r"%\((\w+)(?=[:)])")


@dataclass
class _Step:
    """What is done to one table: rows to delete (conditions with their values), an update, or rows to insert."""

    table: Table
    kind: str
    conditions: list[str] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)
    rows: list[Mapping[str, Any]] = field(default_factory=list)


class Gathered:
    """What a transaction is going to write, and whose turn it must still be then."""

    def __init__(self) -> None:
        self.token = secrets.token_hex(8)
        self.steps: list[_Step] = []
        self.seen: dict[str, int] = {}
        self.raised: list[str] = [ANY]
        self.new: list[str] = []
        self._marks = count(1)  # no two statements' parameters have one name

    def watch(self, turns: Mapping[str, int], scope: str | None) -> None:
        """Nobody else may write in this scope after these turns; without one, nobody at all."""
        # who is of a scope must not meet who is of none
        for name in (ANY,) if scope is None else (scope, ALL):
            self.seen.setdefault(name, turns.get(name, 0))
        mine = ALL if scope is None else scope
        self.raised.append(mine)
        self.new += [mine] if mine not in turns else []

    def insert(self, table: Table, rows: Iterable[Mapping[str, Any]]) -> None:
        """Rows to insert, values as the database takes them."""
        self._step(table, "insert").rows.extend(rows)

    def change(self, table: Table, kind: str, text: str, values: Mapping[str, Any]) -> None:
        """Rows to delete or to update, as a compiled statement."""
        step, mark = self._step(table, kind), f"w{next(self._marks)}"
        step.values |= {f"{mark}_{name}": value for name, value in values.items()}
        text = _PLACE.sub(rf"%({mark}_\1", text)
        before, where, condition = text.partition(" WHERE ")
        condition = condition if where else "TRUE"  # BigQuery wants one
        step.conditions.append(condition if kind == "delete" else f"{before} WHERE {condition}")

    def _step(self, table: Table, kind: str) -> _Step:
        last = next((step for step in reversed(self.steps) if step.table is table), None)
        if last is None or last.kind != kind or kind == "update":
            last = _Step(table, kind)
            self.steps.append(last)
        return last

    def seen_by(self, names: set[str], home: str) -> tuple[str, dict[str, Any]]:
        """What stands before a query of these tables, so that it sees what the transaction has written to them."""
        found: list[str] = []
        values: dict[str, Any] = {}
        for name in sorted(names & {step.table.name for step in self.steps}):
            steps = [step for step in self.steps if step.table.name == name]
            if any(step.kind == "update" for step in steps):
                message = f"{name}: a transaction in BigQuery cannot read what it has updated"
                raise DatabaseError(message, None, Exception(message))
            columns = ", ".join(f"`{column.name}`" for column in steps[0].table.c)
            source = f"SELECT {columns} FROM `{home}.{name}`"
            for place, step in enumerate(steps):
                values |= step.values
                if step.kind == "delete":
                    source = f"SELECT {columns} FROM ({source}) AS `{name}` WHERE NOT IFNULL({_any(step)}, FALSE)"
                else:
                    key = f"{name}_{place}"
                    kinds = ", ".join(f"{column.name} {bigquery_type(column.type)}" for column in step.table.c)
                    values[key] = [{column.name: row.get(column.name) for column in step.table.c} for row in step.rows]
                    own = ", ".join(f"own.`{column.name}`" for column in step.table.c)
                    source += f" UNION ALL SELECT {own} FROM UNNEST(%({key}:ARRAY<STRUCT<{kinds}>>)s) AS own"
            found.append(f"`{name}` AS ({source})")
        return f"WITH {', '.join(found)} " if found else "", values

    def script(self, staging: str) -> tuple[str, dict[str, Any]]:
        """Everything in one transaction, unless somebody else has written since."""
        mine = sorted(set(self.raised))
        values: dict[str, Any] = {"watched": sorted(self.seen), "seen": sum(self.seen.values())}
        values |= {"mine": mine, "token": self.token}
        watched = f"(SELECT IFNULL(SUM(turn), 0) FROM `{TURNS}` WHERE scope IN UNNEST(%(watched:ARRAY<STRING>)s))"
        parts = ["BEGIN TRANSACTION", f"ASSERT {watched} = %(seen:INT64)s AS '{OVERTAKEN}'"]
        if self.new:
            values["new"] = self.new
            given = "UNNEST(%(new:ARRAY<STRING>)s) AS scope"
            known = f"(SELECT scope FROM `{TURNS}`)"
            parts.append(f"INSERT INTO `{TURNS}` (scope, turn) SELECT scope, 0 FROM {given} WHERE scope NOT IN {known}")
        raised = "turn = turn + 1, token = %(token:STRING)s"
        parts.append(f"UPDATE `{TURNS}` SET {raised} WHERE scope IN UNNEST(%(mine:ARRAY<STRING>)s)")
        for number, step in enumerate(self.steps):
            values |= step.values
            name = step.table.name
            if step.kind == "delete":
                parts.append(f"DELETE FROM `{name}` WHERE {_any(step)}")
            elif step.kind == "update":
                parts += step.conditions
            elif step.rows:
                into, taken = (", ".join(f"`{mark}{column}`" for column in _given(step)) for mark in ("", f"{name}__"))
                parts.append(f"INSERT INTO `{name}` ({into}) SELECT {taken} FROM `{staging}` WHERE step = {number}")
        return "".join(f"{part};\n" for part in [*parts, "COMMIT TRANSACTION"]), values

    def staged(self) -> Any:
        """Rows to insert as one Arrow table, each table's columns under its own name; None where there are none."""
        import pyarrow as pa

        numbers = [(number, step) for number, step in enumerate(self.steps) if step.rows]
        for _, step in numbers:
            _refuse_twins(step)
        if not numbers:
            return None
        columns: dict[str, list[Any]] = {"step": [number for number, step in numbers for _ in step.rows]}
        kinds: dict[str, Any] = {"step": pa.int64()}
        done = 0
        for _, step in numbers:
            for name in _given(step):
                held = columns.setdefault(f"{step.table.name}__{name}", [None] * len(columns["step"]))
                held[done : done + len(step.rows)] = [row.get(name) for row in step.rows]
                kinds[f"{step.table.name}__{name}"] = _arrow_type(step.table.c[name].type)
            done += len(step.rows)
        return pa.table({name: pa.array(values, kinds[name]) for name, values in columns.items()})


def bigquery_type(kind: TypeEngine[Any]) -> str:
    """The type of a column in BigQuery."""
    pairs = ((Moment, "TIMESTAMP"), (Number, "FLOAT64"), (Float, "FLOAT64"), (Boolean, "BOOL"), (LargeBinary, "BYTES"))
    found = next((name for each, name in pairs if isinstance(kind, each)), "STRING")
    return "INT64" if isinstance(kind, Integer) else found


def _arrow_type(kind: TypeEngine[Any]) -> Any:
    import pyarrow as pa

    return {
        "TIMESTAMP": pa.timestamp("us", "UTC"), "FLOAT64": pa.float64(), "BOOL": pa.bool_(), "BYTES": pa.binary(),
        "INT64": pa.int64(), "STRING": pa.string(),
    }[bigquery_type(kind)]  # fmt: skip


def _given(step: _Step) -> list[str]:
    named = {name for row in step.rows for name in row}
    return [column.name for column in step.table.c if column.name in named]


def _any(step: _Step) -> str:
    return " OR ".join(f"({condition})" for condition in step.conditions)


def _refuse_twins(step: _Step) -> None:
    """BigQuery knows no keys: it would store two rows of one."""
    known, names = set(), [column.name for column in step.table.primary_key.columns]
    for row in step.rows:
        key = tuple(row.get(name) for name in names)
        if key in known:
            message = f"{step.table.name}: duplicate key {dict(zip(names, key, strict=True))}"
            raise IntegrityError("insert", None, Exception(message))
        known.add(key)
