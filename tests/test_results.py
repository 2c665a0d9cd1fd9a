"""The results store on SQLite: transactions, two writers, UTC, hostile content, and the audit's chain."""

import json
import math
import multiprocessing
import sqlite3
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import update

from hindcast.errors import StoreError, UsageError
from hindcast.results import tables
from hindcast.results.sql import Store, location, verify_audit

HOUR = datetime(2013, 4, 16, 15, tzinfo=UTC)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(f"sqlite:///{tmp_path}/results.db")


def importance(feature: str, value: float | None = 0.5, moment: datetime = HOUR, **changed: Any) -> dict[str, Any]:
    row = {"model_name": "m", "window_start": moment, "feature": feature, "importance": value, "status": "ok"}
    return {**row, **changed}


def write(store: Store, rows: list[dict[str, Any]], **key: Any) -> None:
    with store.transaction() as connection:
        store.replace(connection, tables.importance, rows, **(key or {"model_name": "m", "window_start": HOUR}))


def features(store: Store, **key: Any) -> list[str]:
    return [row["feature"] for row in store.rows(tables.importance, **key)]


def test_a_re_run_replaces_its_own_rows_and_no_others(store: Store) -> None:
    later = HOUR + timedelta(hours=1)
    write(store, [importance("z", moment=later)], model_name="m", window_start=later)
    write(store, [importance("a"), importance("b")])
    write(store, [importance("b", 0.7), importance("c")])
    assert features(store, window_start=HOUR) == ["b", "c"]
    assert features(store, window_start=later) == ["z"]
    write(store, [])
    assert features(store) == ["z"]


def test_a_list_in_a_key_means_any_of_it(store: Store) -> None:
    moments = [HOUR + timedelta(hours=k) for k in range(4)]
    write(store, [importance("a", moment=m) for m in moments], model_name="m")
    write(store, [importance("b", moment=moments[1])], model_name="m", window_start=moments[1:3])
    assert features(store, model_name="m") == ["a", "b", "a"]
    assert features(store, window_start=[]) == []


def test_rows_with_different_columns_are_filled_with_null(store: Store) -> None:
    write(store, [importance("a", rank=1), importance("b", reason="why")])
    found = store.rows(tables.importance)
    assert [(row["rank"], row["reason"]) for row in found] == [(1, None), (None, "why")]


def test_an_error_within_a_transaction_leaves_the_rows_of_before(store: Store) -> None:
    write(store, [importance("before")])

    def fail_half_way() -> None:
        with store.transaction() as connection:
            store.replace(connection, tables.importance, [importance("after")], model_name="m")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        fail_half_way()
    assert features(store) == ["before"]
    with pytest.raises(StoreError):
        write(store, [importance("new"), importance("new")])
    assert features(store) == ["before"], "a duplicate key undoes the delete too"


def test_an_unfinished_transaction_is_seen_by_nobody(store: Store, tmp_path: Path) -> None:
    write(store, [importance("before")])
    other = Store(f"sqlite:///{tmp_path}/results.db")
    with store.transaction() as connection:
        store.replace(connection, tables.importance, [importance("after")], model_name="m")
        assert features(store) == features(other) == ["before"]
    assert features(store) == features(other) == ["after"]


def _writer(url: str, name: str, turns: int, ready: Any) -> None:
    store = Store(url)
    ready.wait(60)  # both write at once
    for turn in range(turns):
        with store.transaction() as connection:
            seen = [row["importance"] for row in connection.execute(tables.importance.select()).mappings()]
            rows = [importance("count", sum(seen) + 1 if seen else 1.0)]
            store.replace(connection, tables.importance, rows, model_name="m", window_start=HOUR)
            store.append_audit(connection, actor=name, action="count", content={"turn": turn}, model_name="m")


def test_two_processes_that_read_and_write_lose_nothing(store: Store) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(2)
    processes = [context.Process(target=_writer, args=(store.url, name, 40, ready)) for name in "ab"]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert [row["importance"] for row in store.rows(tables.importance)] == [80]
    assert verify_audit(store) is None
    actors = [row["actor"] for row in store.rows(tables.audit)]
    assert (len(actors), set(actors)) == (80, {"a", "b"})


def test_moments_go_in_from_any_zone_and_come_out_as_utc(store: Store, tmp_path: Path) -> None:
    kolkata = timezone(timedelta(hours=5, minutes=30))
    moment = datetime(2013, 4, 16, 20, 30, 0, 123456, tzinfo=kolkata)
    write(store, [importance("a", moment=moment)], model_name="m")
    (row,) = store.rows(tables.importance, window_start=moment.astimezone(UTC))
    assert (row["window_start"], row["window_start"].utcoffset()) == (moment, timedelta(0))
    raw = sqlite3.connect(tmp_path / "results.db").execute("SELECT window_start FROM importance").fetchone()
    assert raw == ("2013-04-16 15:00:00.123456",)


def test_a_moment_without_a_zone_is_refused(store: Store) -> None:
    naive = HOUR.replace(tzinfo=None)
    for write_or_read in (
        lambda: write(store, [importance("a", moment=naive)], model_name="m"),
        lambda: features(store, window_start=naive),
    ):
        with pytest.raises(StoreError, match="a moment without a time zone"):
            write_or_read()
    assert features(store) == []


HOSTILE = [
    "'; DROP TABLE importance; --",
    '"',
    "%(a)s {b} :c ?",
    "\\",
    "a\0b",
    "\n\r\t",
    "ünï 日本 🛫",
    "null",
    "",
    " ",
    "x" * 100_000,
]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: repr(text)[:20])
def test_hostile_text_comes_back_as_it_was(store: Store, text: str) -> None:
    write(store, [importance(text, reason=text)])
    (row,) = store.rows(tables.importance, feature=text)
    assert (row["feature"], row["reason"]) == (text, text)
    assert features(store, feature=text + "x") == []


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), unique=True, max_size=8))
def test_any_names_are_kept_apart(store: Store, names: list[str]) -> None:
    write(store, [importance(name) for name in names])
    assert sorted(features(store)) == sorted(names)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float64("nan"), np.float32("inf")])
def test_what_is_no_finite_number_is_stored_as_null(store: Store, tmp_path: Path, value: float) -> None:
    write(store, [importance("a", value, lower=value, upper=np.float64(1.5))])
    (row,) = store.rows(tables.importance)
    assert (row["importance"], row["lower"], row["upper"]) == (None, None, 1.5)
    raw = (
        sqlite3.connect(tmp_path / "results.db")
        .execute("SELECT importance, lower, typeof(upper) FROM importance")
        .fetchone()
    )
    assert raw == (None, None, "real")


def test_every_table_of_the_contract_has_its_columns() -> None:
    contract = {
        "windows": "model_name window_start window_end as_of rows bytes manifest_digest config_digest status reason",
        "quality": "model_name model_version window_start subject metric value threshold status reason",
        "drift": "model_name model_version window_start segment feature baseline scale_hours metric value threshold "
        "p_value "
        "drifted status n_current n_baseline reason",
        "performance": "model_name model_version window_start segment metric value lower upper baseline change_percent "
        "estimated label_coverage as_of status label_age_hours reason",
        "importance": "model_name model_version window_start feature importance lower upper rank n reason",
        "alerts": "alert_id model_name kind severity subject metric current_value baseline_value change_percent "
        "state opened_at "
        "last_seen_at resolved_at incident_id details detected_at",
        "incidents": "incident_id severity title description detected_at affected_model symptoms metrics resolved_at "
        "root_cause "
        "resolution state",
        "findings": "model_name window_start check subject segment metric scale_hours value threshold severity "
        "detected_at",
        "profiles": "", "audit": "",
    }  # fmt: skip
    for name, columns in contract.items():
        assert set(columns.split()) <= set(tables.METADATA.tables[name].c.keys()), name


# Opening


def test_the_place_is_given_or_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HINDCAST_RESULTS", "sqlite:////somewhere/else.db")
    assert location() == "sqlite:////somewhere/else.db"
    assert location("sqlite:///given.db") == "sqlite:///given.db"
    monkeypatch.delenv("HINDCAST_RESULTS")
    assert location() == "sqlite:///.hindcast/results.db"


def test_folders_are_made_and_opening_twice_keeps_what_is_there(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/new/folder/results.db"
    write(Store(url), [importance("a")])
    assert features(Store(url)) == ["a"]
    assert Store(url).artifacts == tmp_path / "new/folder/artifacts"


@pytest.mark.parametrize(
    "url", ["nonsense", "sqlite3:///a.db", "oracle9://scott:tiger@host/db", "postgresql+nodriver://u:tiger@h/d"]
)
def test_a_url_that_is_none_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(UsageError, match="is no usable results URL") as caught:
        Store(url)
    assert "tiger" not in str(caught.value)


def test_a_store_that_cannot_be_opened_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "broken.db").write_bytes(b"no database, but long enough to look like a file" * 100)
    for place in ("file/results.db", "broken.db"):
        with pytest.raises(StoreError) as caught:
            Store(f"sqlite:///{tmp_path}/{place}")
        assert (caught.value.exit_status, caught.value.transient) == (4, True)


# The audit


def audited(store: Store) -> Store:
    for k in range(5):
        with store.transaction() as connection:
            content = {"rows": k, "moment": HOUR, "text": 'ü"\n'}
            key = {"model_name": "m", "window_start": HOUR + timedelta(hours=k)} if k != 2 else {}
            store.append_audit(connection, actor="hindcast", action="triage", content=content, **key)
    return store


def test_an_untouched_audit_is_whole(store: Store) -> None:
    assert verify_audit(store) is None, "an empty one too"
    rows = audited(store).rows(tables.audit)
    assert verify_audit(store) is None
    assert [row["sequence"] for row in rows] == [1, 2, 3, 4, 5]
    assert rows[0]["previous_hash"] == ""
    assert [row["previous_hash"] for row in rows[1:]] == [row["hash"] for row in rows[:-1]]
    assert json.loads(rows[3]["content"])["rows"] == 3


@pytest.mark.parametrize(
    "change",
    [
        {"actor": "somebody"}, {"action": "other"}, {"content": "{}"}, {"model_name": "n"}, {"model_name": None},
        {"window_start": HOUR}, {"window_start": None}, {"recorded_at": HOUR}, {"hash": "0" * 64},
        {"previous_hash": "0" * 64},
    ],
    ids=str,
)  # fmt: skip
def test_any_edit_breaks_the_chain_where_it_was_made(store: Store, change: dict[str, Any]) -> None:
    with audited(store).transaction() as connection:
        connection.execute(update(tables.audit).where(tables.audit.c.sequence == 4).values(**change))
    assert verify_audit(store) in {4, 5}
    assert verify_audit(store) == 4


def test_a_line_that_is_gone_or_slipped_in_breaks_the_chain(store: Store) -> None:
    rows = audited(store).rows(tables.audit)
    with store.transaction() as connection:
        connection.execute(tables.audit.delete().where(tables.audit.c.sequence == 2))
    assert verify_audit(store) == 3
    with store.transaction() as connection:
        connection.execute(tables.audit.insert(), {**rows[2], "sequence": 2})
    assert verify_audit(store) == 2


def test_text_cannot_move_from_one_column_into_the_next(store: Store) -> None:
    with store.transaction() as connection:
        store.append_audit(connection, actor="a\nb", action="c", content={})
    with store.transaction() as connection:
        connection.execute(update(tables.audit).values(actor="a", action="b\nc"))
    assert verify_audit(store) == 1


def test_a_line_is_undone_with_its_transaction(store: Store) -> None:
    audited(store)

    def fail_half_way() -> None:
        with store.transaction() as connection:
            store.append_audit(connection, actor="a", action="b", content={})
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        fail_half_way()
    assert len(store.rows(tables.audit)) == 5
    assert verify_audit(store) is None
