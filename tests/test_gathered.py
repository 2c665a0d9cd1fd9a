"""What a transaction in BigQuery gathers, without any service: one statement per table, and values of their own."""

from __future__ import annotations

import re

import pytest
from sqlalchemy.exc import IntegrityError

from hindcast.results import tables
from hindcast.results.gathered import Gathered


def deleted(gathered: Gathered, table: object, hour: int) -> None:
    gathered.change(table, "delete", "DELETE FROM `x` WHERE `x`.`hour` = %(hour_1:INT64)s", {"hour_1": hour})  # type: ignore[arg-type]


def test_many_keys_of_a_table_are_one_statement_and_each_keeps_its_value() -> None:
    gathered = Gathered()
    gathered.watch({"any": 3, "m": 2}, "m")
    for hour in (1, 2):
        deleted(gathered, tables.drift, hour)
        deleted(gathered, tables.checks, 10 * hour)
    script, values = gathered.script("staging")
    statements = [line for line in script.split(";\n") if line.startswith("DELETE")]
    assert [line.split("`")[1] for line in statements] == ["drift", "checks"]
    given = [[values[name] for name in re.findall(r"%\((w\w+):", line)] for line in statements]
    assert given == [[1, 2], [10, 20]]


def test_what_comes_after_an_insert_of_the_same_table_stays_after_it() -> None:
    gathered = Gathered()
    deleted(gathered, tables.drift, 1)
    gathered.insert(tables.drift, [{"feature": "a"}])
    deleted(gathered, tables.drift, 2)
    gathered.insert(tables.drift, [{"feature": "b"}])
    script, _ = gathered.script("staging")
    assert re.findall(r"^(?:DELETE|INSERT)", script, re.MULTILINE) == ["DELETE", "INSERT", "DELETE", "INSERT"]
    assert gathered.staged().column_names == ["step", "drift__feature"]
    assert gathered.staged().to_pydict() == {"step": [1, 3], "drift__feature": ["a", "b"]}


@pytest.mark.parametrize(
    ("scope", "watched", "raised"), [("m", ["*", "m"], ["any", "m"]), (None, ["any"], ["*", "any"])]
)
def test_whoever_is_of_no_scope_meets_everybody(scope: str | None, watched: list[str], raised: list[str]) -> None:
    gathered = Gathered()
    gathered.watch({"any": 5, "m": 2, "*": 1}, scope)
    _, values = gathered.script("staging")
    assert (values["watched"], values["mine"]) == (watched, raised)
    assert values["seen"] == sum({"any": 5, "m": 2, "*": 1}[name] for name in watched)


def test_two_rows_of_a_key_are_refused() -> None:
    gathered = Gathered()
    gathered.insert(tables.drift, [{"model_name": "m", "feature": "a"}] * 2)
    with pytest.raises(IntegrityError, match="drift: duplicate key"):
        gathered.staged()
