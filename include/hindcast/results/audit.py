"""The audit: what was decided, on which inputs, by whom. Each line holds the hash of the line before.

An edit, a line that is gone, slipped in or moved breaks the chain at its place. A chain cannot prove that its end is
still there, nor that nobody wrote all of it anew: the first is found by the rows of checks and acceptances as far as
they reach, the second by a hash that was kept elsewhere.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import insert, select

from hindcast.results import tables
from hindcast.results.database import wait_for
from hindcast.results.types import bounded, storable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sqlalchemy import Connection

    from hindcast.results.sql import Row, Store

_SHOWN = 5


@dataclass(frozen=True)
class Verdict:
    """What following the chain found.

    Attributes
    ----------
    lines : int
    head : str
        Hash of the newest line: keep it elsewhere, and ask for it the next time.
    broken : int or None
        Sequence of the first line that was changed or does not follow the line before it.
    missing : tuple of str
        Triages and acceptances that are on record and have no line, and expected hashes that no line has.
    """

    lines: int
    head: str
    broken: int | None
    missing: tuple[str, ...]

    @property
    def whole(self) -> bool:
        """Nothing was found."""
        return self.broken is None and not self.missing

    @property
    def says(self) -> str:
        """What is wrong, in words."""
        found = []
        if self.broken is not None:
            found.append(f"line {self.broken} was changed or does not follow the line before it")
        if self.missing:
            more = f" and {len(self.missing) - _SHOWN} more" if len(self.missing) > _SHOWN else ""
            found.append(f"there is no line for {', '.join(self.missing[:_SHOWN])}{more}")
        return "; ".join(found)

    def to_json(self) -> dict[str, Any]:
        """As the command line prints it."""
        return {"whole": self.whole, **asdict(self)}


def append(connection: Connection, *, actor: str, action: str, content: Mapping[str, Any], **key: Any) -> None:
    """Add one line, within the transaction that does what it tells of."""
    # Two writers must not follow the same line. Whoever has more to lock has done so by now: this comes last.
    wait_for(connection, "audit")
    table = tables.audit
    newest = connection.execute(
        select(table.c.sequence, table.c.hash).order_by(table.c.sequence.desc()).limit(1)
    ).first()
    names = {name: bounded(storable(value)) if isinstance(value, str) else value for name, value in key.items()}
    row = {
        "sequence": newest.sequence + 1 if newest else 1,
        "recorded_at": datetime.now(UTC),
        "actor": bounded(storable(actor)),
        "action": bounded(storable(action)),
        "content": json.dumps(content, sort_keys=True, default=str),
        "previous_hash": newest.hash if newest else "",
        **names,
    }
    connection.execute(insert(table), {**row, "hash": line_hash(row)})


def verify(store: Store, expected: Iterable[str] = ()) -> Verdict:
    """Follow the chain from its first line.

    Parameters
    ----------
    store : Store
    expected : iterable of str
        Hashes of lines that were once seen, `Verdict.head` of an earlier day for instance.
    """
    before, broken, rows = "", None, lines(store)
    for position, row in enumerate(rows, 1):
        follows = row["sequence"] == position and row["previous_hash"] == before
        if broken is None and not (follows and row["hash"] == line_hash(row)):
            broken = int(row["sequence"])
        before = row["hash"]
    known = {row["hash"] for row in rows}
    missing = [f"hash {item}" for item in expected if item not in known]
    return Verdict(len(rows), before, broken, (*missing, *_unrecorded(store, rows), *_unaccepted(store, rows)))


def lines(store: Store, **key: Any) -> list[Row]:
    """Lines, oldest first; of one that was made unreadable, a moment that is none for instance, its number and hash."""
    try:
        return store.rows(tables.audit, **key)
    except (TypeError, ValueError):  # of the database's driver; which line it was, it does not say
        found = []
    for row in store.rows(tables.audit, columns=("sequence", "hash"), **key):
        try:
            found += store.rows(tables.audit, sequence=row["sequence"])
        except (TypeError, ValueError):
            empty: Row = dict.fromkeys(tables.audit.c.keys())
            found.append({**empty, "actor": "", "action": "unreadable", **row})
    return found


def _unrecorded(store: Store, rows: list[Row]) -> list[str]:
    """Windows with a triage that no line tells of; a line is written in the transaction of its check's row."""
    told = {(row["model_name"], row["window_start"]) for row in rows if row["action"] == "triage"}
    columns = ("model_name", "window_start")
    done = store.rows(tables.checks, tables.checks.c.status != "error", columns=columns, check="triage")
    return [
        f"triage of {row['model_name']} {row['window_start']:%Y-%m-%dT%H}"
        for row in done
        if (row["model_name"], row["window_start"]) not in told
    ]


def _unaccepted(store: Store, rows: list[Row]) -> list[str]:
    """Levels whose acceptance no line tells of; a line is written in the transaction of its row."""
    accepted = [content_of(row) for row in rows if row["action"] == "accept"]
    told = {(content.get("alert_id"), content.get("accepted_at")) for content in accepted}
    return [
        f"acceptance of {row['model_name']} {row['kind']} {row['subject']} {row['accepted_at']:%Y-%m-%dT%H}"
        for row in store.rows(tables.acceptances)
        if (row["alert_id"], str(row["accepted_at"])) not in told
    ]


def content_of(row: Row) -> dict[str, Any]:
    """Content of a line, empty where somebody made it unreadable."""
    try:
        found = json.loads(row["content"])
    except (TypeError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def line_hash(row: Mapping[str, Any]) -> str:
    """Hash of a line over its content and the hash of the line before."""
    key = {name: row.get(name) for name in ("model_name", "window_start") if row.get(name) is not None}
    parts = [row["previous_hash"], row["recorded_at"] and row["recorded_at"].isoformat(), row["actor"], row["action"]]
    parts += [json.dumps(key, sort_keys=True, default=str), row["content"]]
    # As JSON, so that no text can move from one part into the next.
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()
