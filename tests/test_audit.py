"""The audit as a person verifies it: what the command finds, what it needs a kept hash for, and its exit status."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from sqlalchemy import delete, text, update

from hindcast.cli import main
from hindcast.results import audit, tables
from hindcast.results.sql import Store

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

HOUR = datetime(2013, 4, 16, 15, tzinfo=UTC)
LINES = 6
table = tables.audit


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Six triages, each with its row of `checks`, and an acceptance."""
    store = Store(f"sqlite:///{tmp_path}/results.db")
    for k in range(LINES):
        key = {"model_name": "m", "window_start": HOUR + timedelta(hours=k)}
        with store.transaction() as connection:
            row = {**key, "check": "triage", "status": "ok", "as_of": HOUR}
            store.replace(connection, tables.checks, [row], **key, check="triage")
            store.append_audit(connection, actor="hindcast", action="triage", content={"k": k}, **key)
    with store.transaction() as connection:
        store.append_audit(connection, actor="kim", action="accept", content={}, model_name="n", window_start=HOUR)
    return store


def run(store: Store, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["audit", *arguments, "--results", store.url])


def change(store: Store, *statements: Any) -> None:
    with store.transaction() as connection:
        for statement in statements:
            connection.execute(statement)


def rewritten(store: Store, first: int = 1) -> None:
    """Every line from `first` on with a new content and a hash that fits: what a careful forger does."""
    rows, before = store.rows(table), ""
    change(store, text("DROP INDEX audit_chain"))
    for row in rows:
        if row["sequence"] >= first:
            row |= {"content": '{"forged": 1}', "previous_hash": before}
            row["hash"] = audit.line_hash(row)
            change(store, update(table).where(table.c.sequence == row["sequence"]).values(**row))
        before = row["hash"]


def test_a_whole_audit_is_status_0_and_tells_its_newest_hash(store: Store) -> None:
    newest = store.rows(table)[-1]["hash"]
    done = run(store, "verify")
    assert (done.exit_code, done.output) == (0, f"7 lines, newest hash {newest}\n")
    found = json.loads(run(store, "verify", "--expect", newest, "--json").output)
    assert found == {"whole": True, "lines": 7, "head": newest, "broken": None, "missing": []}


def swapped() -> list[Any]:
    """Lines 3 and 4 exchange their places."""
    moves = ((3, 99), (4, 3), (99, 4))
    return [update(table).where(table.c.sequence == old).values(sequence=new) for old, new in moves]


def renumbered() -> list[Any]:
    """What comes after line 2 moves up by one."""
    return [update(table).where(table.c.sequence == old).values(sequence=old - 1) for old in range(3, LINES + 2)]


@pytest.mark.parametrize(
    ("statements", "line"),
    [
        ([update(table).where(table.c.sequence == 4).values(content='{"k": 9}')], 4),
        ([update(table).where(table.c.sequence == 7).values(actor="sam")], 7),
        ([delete(table).where(table.c.sequence == 1)], 2),
        ([delete(table).where(table.c.sequence == 5)], 6),
        ([delete(table).where(table.c.sequence == 2), *renumbered()], 2),
        (swapped(), 3),
        ([update(table).where(table.c.sequence == 7).values(sequence=8)], 8),
    ],
    ids=["edited", "edited at the end", "first gone", "one gone", "gone and renumbered", "swapped", "a gap"],
)  # fmt: skip
def test_what_was_done_to_a_line_is_status_1_and_names_it(store: Store, statements: list[Any], line: int) -> None:
    change(store, *statements)
    done = run(store, "verify")
    assert done.exit_code == 1
    assert f"is not whole: line {line} was changed or does not follow the line before it" in done.output


def test_lines_gone_at_the_end_are_found_by_the_checks_they_tell_of(store: Store) -> None:
    change(store, delete(table).where(table.c.sequence >= 5))
    done = run(store, "verify")
    assert done.exit_code == 1
    assert "there is no line for triage of m 2013-04-16T19, triage of m 2013-04-16T20" in done.output
    assert "was changed" not in done.output


@pytest.mark.parametrize(
    "made",
    ["recorded_at = 'yesterday'", "window_start = ''", "content = NULL", "content = '{'", "content = '[1]'",
     "content = x'ff'", "actor = 5", "hash = ''"],
)  # fmt: skip
def test_an_edit_that_nothing_can_read_is_found_at_its_line(store: Store, made: str) -> None:
    """SQLite keeps anything in any column."""
    change(store, text(f"UPDATE audit SET {made} WHERE sequence = 4"))
    done = run(store, "verify")
    assert done.exit_code == 1
    assert "is not whole: line 4 was changed or does not follow the line before it" in done.output
    listed = run(store, "--json")
    assert (listed.exit_code, len(json.loads(listed.output))) == (0, LINES + 1)
    assert run(store).exit_code == 0


def test_an_acceptance_without_its_line_is_found(store: Store) -> None:
    row = {
        "model_name": "m", "kind": "drift", "subject": "age", "accepted_at": HOUR, "since": HOUR, "alert_id": "a1",
        "automatic": False, "actor": "kim",
    }  # fmt: skip
    content = {"alert_id": "a1", "accepted_at": HOUR}
    with store.transaction() as connection:
        store.replace(connection, tables.acceptances, [row], model_name="m")
        store.append_audit(connection, actor="kim", action="accept", content=content, model_name="m")
    assert run(store, "verify").exit_code == 0
    change(store, delete(table).where(table.c.sequence == 8))
    done = run(store, "verify")
    assert done.exit_code == 1
    assert "there is no line for acceptance of m drift age 2013-04-16T15" in done.output


def test_what_a_chain_cannot_prove_needs_a_hash_that_was_kept(store: Store) -> None:
    kept = store.rows(table)[-1]["hash"]
    change(store, delete(table).where(table.c.sequence == 7))
    assert run(store, "verify").exit_code == 0, "nothing tells of this one"
    assert f"no line for hash {kept}" in run(store, "verify", "--expect", kept).output

    kept = store.rows(table)[-1]["hash"]
    rewritten(store, 3)
    assert run(store, "verify").exit_code == 0, "a chain that was written anew is a chain"
    assert run(store, "verify", "--expect", kept).exit_code == 1


def test_many_missing_lines_are_counted(store: Store) -> None:
    change(store, delete(table))
    done = run(store, "verify")
    assert done.exit_code == 1
    assert done.output.rstrip().endswith("and 1 more")
    assert len(json.loads(run(store, "verify", "--json").output.partition("\nhindcast")[0])["missing"]) == LINES


def test_lines_are_listed_by_model_newest_last(store: Store) -> None:
    found = json.loads(run(store, "m", "--last", "2", "--json").output)
    assert [(row["sequence"], row["content"]) for row in found] == [(5, {"k": 4}), (6, {"k": 5})]
    lines = run(store).output.splitlines()
    assert len(lines) == 2 * (LINES + 1)
    assert "kim  accept  n  2013-04-16T15:00Z" in lines[-2]
    assert run(store, "nobody").output == "the audit has no lines\n"
