"""The results store: one contract for every database; transactions, two writers, hostile content, the audit."""

from __future__ import annotations

import json
import math
import multiprocessing
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import make_url, update
from sqlalchemy import text as sql
from tests.bigquery_server import PROJECT, emulator

from hindcast.errors import StoreError, UsageError
from hindcast.results import audit, tables
from hindcast.results.database import location, lock_number
from hindcast.results.sql import Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.bigquery_server import Emulator
    from tests.postgres_server import Cluster

__all__ = ["emulator"]
HOUR = datetime(2013, 4, 16, 15, tzinfo=UTC)
# A store per test, not per example; and a test of the contract runs once per database.
_INHERITED = [HealthCheck.function_scoped_fixture, HealthCheck.differing_executors]


def importance(feature: str, value: float | None = 0.5, moment: datetime = HOUR, **changed: Any) -> dict[str, Any]:
    row = {"model_name": "m", "window_start": moment, "feature": feature, "importance": value, "status": "ok"}
    return {**row, **changed}


def write(store: Store, rows: list[dict[str, Any]], **key: Any) -> None:
    with store.transaction() as connection:
        store.replace(connection, tables.importance, rows, **(key or {"model_name": "m", "window_start": HOUR}))


def raw(store: Store, query: str) -> Any:
    """The first row of a query, as the database's driver gives it."""
    with store.engine.connect() as connection:
        return tuple(connection.execute(sql(query)).first() or ())


def broken(store: Store) -> int | None:
    return audit.verify(store).broken


def features(store: Store, **key: Any) -> list[str]:
    return [row["feature"] for row in store.rows(tables.importance, **key)]


def _writer(url: str, name: str, turns: int, ready: Any) -> None:
    store = Store(url)
    ready.wait(60)  # both write at once

    def work(connection: Any) -> None:
        seen = [row["importance"] for row in connection.execute(tables.importance.select()).mappings()]
        rows = [importance("count", sum(seen) + 1 if seen else 1.0)]
        store.replace(connection, tables.importance, rows, model_name="m", window_start=HOUR)
        store.append_audit(connection, actor=name, action="count", content={}, model_name="m")

    for _ in range(turns):
        store.write(work)


HOSTILE = [
    "'; DROP TABLE importance; --",
    '"',
    "%(a)s {b} :c ?",
    "\\",
    "\n\r\t",
    "ünï 日本 🛫",
    "null",
    "",
    " ",
    "x" * 500,
    '{"a": "\\u0000"}',
]


def audited(store: Store) -> Store:
    with store.transaction() as connection:
        for k in range(5):
            content = {"rows": k, "moment": HOUR, "text": 'ü"\n'}
            key = {"model_name": "m", "window_start": HOUR + timedelta(hours=k)} if k != 2 else {}
            store.append_audit(connection, actor="hindcast", action="triage", content=content, **key)
    return store


class Contract:
    """What every store does; how often it is tried depends on what a statement takes."""

    TURNS = 40
    EDITS: ClassVar[list[dict[str, Any]]] = [
        {"actor": "somebody"}, {"action": "other"}, {"content": "{}"}, {"model_name": "n"}, {"model_name": None},
        {"window_start": HOUR}, {"window_start": None}, {"recorded_at": HOUR}, {"hash": "0" * 64},
        {"previous_hash": "0" * 64},
    ]  # fmt: skip

    def test_a_re_run_replaces_its_own_rows_and_no_others(self, store: Store) -> None:
        later = HOUR + timedelta(hours=1)
        write(store, [importance("z", moment=later)], model_name="m", window_start=later)
        write(store, [importance("a"), importance("b")])
        write(store, [importance("b", 0.7), importance("c")])
        assert features(store, window_start=HOUR) == ["b", "c"]
        assert features(store, window_start=later) == ["z"]
        write(store, [])
        assert features(store) == ["z"]

    def test_a_list_in_a_key_means_any_of_it(self, store: Store) -> None:
        moments = [HOUR + timedelta(hours=k) for k in range(4)]
        write(store, [importance("a", moment=m) for m in moments], model_name="m")
        write(store, [importance("b", moment=moments[1])], model_name="m", window_start=moments[1:3])
        assert features(store, model_name="m") == ["a", "b", "a"]
        assert features(store, window_start=[]) == []

    def test_rows_with_different_columns_are_filled_with_null(self, store: Store) -> None:
        write(store, [importance("a", rank=1), importance("b", reason="why")])
        found = store.rows(tables.importance)
        assert [(row["rank"], row["reason"]) for row in found] == [(1, None), (None, "why")]

    def test_an_error_within_a_transaction_leaves_the_rows_of_before(self, store: Store) -> None:
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

    def test_an_unfinished_transaction_is_seen_by_nobody(self, store: Store) -> None:
        write(store, [importance("before")])
        other = Store(store.url)
        with store.transaction() as connection:
            store.replace(connection, tables.importance, [importance("after")], model_name="m")
            assert features(store) == features(other) == ["before"]
        assert features(store) == features(other) == ["after"]

    def test_two_processes_that_read_and_write_lose_nothing(self, store: Store) -> None:
        context = multiprocessing.get_context("spawn")
        ready = context.Barrier(2)
        processes = [context.Process(target=_writer, args=(store.url, name, self.TURNS, ready)) for name in "ab"]
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)
        assert [process.exitcode for process in processes] == [0, 0]
        assert [row["importance"] for row in store.rows(tables.importance)] == [2 * self.TURNS]
        assert broken(store) is None
        actors = [row["actor"] for row in store.rows(tables.audit)]
        assert (len(actors), set(actors)) == (2 * self.TURNS, {"a", "b"})

    def test_moments_go_in_from_any_zone_and_come_out_as_utc(self, store: Store) -> None:
        kolkata = timezone(timedelta(hours=5, minutes=30))
        moment = datetime(2013, 4, 16, 20, 30, 0, 123456, tzinfo=kolkata)
        write(store, [importance("a", moment=moment)], model_name="m")
        (row,) = store.rows(tables.importance, window_start=moment.astimezone(UTC))
        assert (row["window_start"], row["window_start"].utcoffset()) == (moment, timedelta(0))

    def test_a_moment_without_a_zone_is_refused(self, store: Store) -> None:
        naive = HOUR.replace(tzinfo=None)
        for write_or_read in (
            lambda: write(store, [importance("a", moment=naive)], model_name="m"),
            lambda: features(store, window_start=naive),
        ):
            with pytest.raises(StoreError, match="a moment without a time zone"):
                write_or_read()
        assert features(store) == []

    def test_hostile_text_comes_back_as_it_was(self, store: Store) -> None:
        write(store, [importance(text, reason=text) for text in HOSTILE])
        assert {row["feature"]: row["reason"] for row in store.rows(tables.importance)} == {t: t for t in HOSTILE}
        assert sorted(features(store, feature=HOSTILE)) == sorted(HOSTILE)
        for text in HOSTILE[:2]:
            assert features(store, feature=text) == features(store, feature=[text, "other"]) == [text]
            assert features(store, feature=text + "x") == []

    def test_what_not_every_database_stores_is_written_out_and_still_found(self, store: Store) -> None:
        stored = {"a\0b\0": "a␀b␀", "caf\udce9": "caf\\udce9", "\0\ud800": "␀\\ud800"}
        write(store, [importance(text, reason=text) for text in stored])
        found = store.rows(tables.importance, feature=list(stored))
        assert {row["feature"]: row["reason"] for row in found} == {text: text for text in stored.values()}
        with store.transaction() as connection:
            for text in stored:
                store.append_audit(connection, actor=text, action=text, content={"text": text}, model_name=text)
        assert broken(store) is None

    def test_a_name_of_any_length_is_a_key(self, store: Store) -> None:
        """An index of PostgreSQL refuses long entries; repeated letters would shrink, so these are not."""
        letters = "".join(chr(0x4E00 + (k * k) % 20_000) for k in range(60_000))
        names = [letters, letters[:-1], letters[:300]]
        write(store, [importance(name, reason=name) for name in names])
        assert [row["reason"] for row in store.rows(tables.importance, feature=names[0])] == [letters]
        assert len(set(features(store))) == 3
        assert all(len(name.encode()) <= 512 for name in features(store))
        write(store, [], model_name="m", feature=names)
        assert features(store) == []

    @settings(deadline=None, max_examples=25, suppress_health_check=_INHERITED)
    @given(
        st.lists(
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="␀"), max_size=20),
            unique=True,
            max_size=8,
        )
    )
    def test_any_names_are_kept_apart(self, store: Store, names: list[str]) -> None:
        write(store, [importance(name) for name in names])
        found = [name.replace("␀", "\0") for name in features(store)]
        assert sorted(found) == sorted(names)

    def test_names_are_sorted_by_their_bytes(self, store: Store) -> None:
        """A database's locale must not decide the order in which anything is folded or summed."""
        names = ["a", "B", "_", "ä", "Z", "b", "-", "1", "a b", "ab", "日"]
        write(store, [importance(name) for name in names])
        assert features(store) == sorted(names, key=str.encode)

    def test_bytes_come_back_as_they_were(self, store: Store) -> None:
        content = bytes(range(256)) * 1000
        row = {"model_name": "m", "window_start": HOUR, "bins_digest": "d", "rows": 2**40, "profile": content}
        with store.transaction() as connection:
            store.replace(connection, tables.profiles, [row], model_name="m")
        assert store.rows(tables.profiles) == [row]

    def test_thousands_of_keys_are_asked_for_at_once(self, store: Store) -> None:
        write(store, [importance(f"f{k}") for k in range(0, 20_000, 10)])
        assert len(features(store, feature=[f"f{k}" for k in range(20_000)])) == 2000

    def test_what_is_no_finite_number_is_stored_as_null(self, store: Store) -> None:
        values = [math.nan, math.inf, -math.inf, np.float64("nan"), np.float32("inf")]
        write(store, [importance(str(k), value, lower=value, upper=np.float64(1.5)) for k, value in enumerate(values)])
        found = [(row["importance"], row["lower"], row["upper"]) for row in store.rows(tables.importance)]
        assert found == [(None, None, 1.5)] * len(values)
        assert raw(store, "SELECT COUNT(*), COUNT(importance), COUNT(lower), SUM(upper) FROM importance") == (
            5,
            0,
            0,
            7.5,
        )

    # The audit

    def test_an_untouched_audit_is_whole(self, store: Store) -> None:
        assert broken(store) is None, "an empty one too"
        rows = audited(store).rows(tables.audit)
        assert broken(store) is None
        assert [row["sequence"] for row in rows] == [1, 2, 3, 4, 5]
        assert rows[0]["previous_hash"] == ""
        assert [row["previous_hash"] for row in rows[1:]] == [row["hash"] for row in rows[:-1]]
        assert json.loads(rows[3]["content"])["rows"] == 3

    def test_any_edit_breaks_the_chain_where_it_was_made(self, store: Store) -> None:
        line = tables.audit.c.sequence == 4
        (row,) = audited(store).rows(tables.audit, line)
        for change in self.EDITS:
            for values, found in ((change, 4), ({name: row[name] for name in change}, None)):
                with store.transaction() as connection:
                    connection.execute(update(tables.audit).where(line).values(**values))
                assert broken(store) == found, (change, values)

    def test_a_line_that_is_gone_or_slipped_in_breaks_the_chain(self, store: Store) -> None:
        rows = audited(store).rows(tables.audit)
        with store.transaction() as connection:
            connection.execute(tables.audit.delete().where(tables.audit.c.sequence == 2))
        assert broken(store) == 3
        with store.transaction() as connection:
            connection.execute(tables.audit.insert(), {**rows[1], "content": "{}"})
        assert broken(store) == 2

    def test_text_cannot_move_from_one_column_into_the_next(self, store: Store) -> None:
        with store.transaction() as connection:
            store.append_audit(connection, actor="a\nb", action="c", content={})
        with store.transaction() as connection:
            connection.execute(update(tables.audit).values(actor="a", action="b\nc"))
        assert broken(store) == 1

    def test_a_line_is_undone_with_its_transaction(self, store: Store) -> None:
        audited(store)

        def fail_half_way() -> None:
            with store.transaction() as connection:
                store.append_audit(connection, actor="a", action="b", content={})
                raise RuntimeError("half way")

        with pytest.raises(RuntimeError, match="half way"):
            fail_half_way()
        assert len(store.rows(tables.audit)) == 5
        assert broken(store) is None


class TestSQLite(Contract):
    """A file."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        return Store(f"sqlite:///{tmp_path}/results.db")


class TestPostgreSQL(Contract):
    """A server."""

    @pytest.fixture
    def store(self, postgres: Cluster) -> Iterator[Store]:
        store = Store(postgres.store())
        yield store
        store.engine.dispose()


@pytest.fixture(scope="module")
def dataset(emulator: Emulator) -> Iterator[Store]:
    """A store in BigQuery; its tables take seconds to make."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_CONN_BQ", emulator.results("contract"))
        store = Store(f"bigquery://{PROJECT}/contract?connection=bq")
        yield store
        store.engine.dispose()


class TestBigQuery(Contract):
    """The emulator: a dataset for all tests, emptied after each."""

    TURNS = 1
    EDITS = Contract.EDITS[:1]

    @pytest.fixture
    def store(self, dataset: Store) -> Iterator[Store]:
        yield dataset
        with dataset.transaction() as connection:
            for table in (tables.importance, tables.audit, tables.profiles):
                connection.execute(table.delete())

    def test_any_names_are_kept_apart(self, store: Store) -> None:
        """What the others are asked by the dozen, once."""
        names = [chr(code) + "." for code in (1, 9, 32, 34, 37, 39, 92, 96, 0x85, 0x2028, 0xFEFF, 0x1F600)]
        write(store, [importance(name) for name in names])
        assert sorted(features(store)) == sorted(names)


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


# Reaching a server


def test_a_connection_that_is_lost_half_way_is_tried_again(postgres: Cluster) -> None:
    store, tries = Store(postgres.store()), []

    def work(connection: Any) -> None:
        tries.append(1)
        store.replace(connection, tables.importance, [importance("a")], model_name="m")
        if len(tries) == 1:
            backend = connection.execute(sql("SELECT pg_backend_pid()")).scalar()
            postgres.say(f"SELECT pg_terminate_backend({backend}, 5000)")
        store.replace(connection, tables.importance, [importance("b")], model_name="m", feature="b")

    store.write(work, "m")
    assert (len(tries), features(store)) == (2, ["a", "b"])
    postgres.say(
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{store.engine.url.database}'"
    )
    assert features(store) == ["a", "b"], "what was pooled is gone, and nobody notices"
    store.engine.dispose()


def test_what_would_only_fail_again_is_not_tried_again(postgres: Cluster) -> None:
    store, tries = Store(postgres.store()), []

    def work(connection: Any) -> None:
        tries.append(1)
        store.replace(connection, tables.importance, [importance("a"), importance("a")], model_name="m")

    with pytest.raises(StoreError, match="duplicate key"):
        store.write(work, "m")
    assert len(tries) == 1
    store.engine.dispose()


def test_models_do_not_wait_for_each_other_and_two_of_one_model_do(postgres: Cluster) -> None:
    """The second of a model gives up when the lock's time is over; here at once."""
    store = Store(postgres.store())
    with store.transaction("m"), store.transaction("n") as connection:
        store.replace(connection, tables.importance, [importance("a", model_name="n")], model_name="n")
        free = sql("SELECT pg_try_advisory_xact_lock(:number)")
        taken = [connection.execute(free, {"number": lock_number(scope)}).scalar() for scope in ("m", "*", "o")]
    assert taken == [False, False, True]
    store.engine.dispose()


def test_a_server_that_is_not_there_is_a_store_error_without_the_password() -> None:
    with pytest.raises(StoreError, match="results store postgresql") as caught:
        Store("postgresql://kim:tiger@127.0.0.1:1/results")
    assert (caught.value.exit_status, caught.value.transient) == (4, True)
    assert "tiger" not in str(caught.value)


def test_the_store_may_be_an_airflow_connection(postgres: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    url = make_url(postgres.store())
    content = {"conn_type": "postgres", "host": url.host, "port": url.port, "login": url.username, "password": "t!ger",
               "schema": url.database, "extra": {"application_name": "hindcast"}}  # fmt: skip
    monkeypatch.setenv("AIRFLOW_CONN_RESULTS", json.dumps(content))
    monkeypatch.setenv("HINDCAST_RESULTS_CONN", "results")
    monkeypatch.delenv("HINDCAST_RESULTS", raising=False)
    store = Store()
    write(store, [importance("a")])
    assert features(Store(str(url))) == ["a"]
    assert raw(store, "SHOW application_name") == ("hindcast",)
    assert "t!ger" not in store.shown
    store.engine.dispose()
    monkeypatch.setenv("HINDCAST_RESULTS", str(url))
    with pytest.raises(UsageError, match="both HINDCAST_RESULTS and HINDCAST_RESULTS_CONN are set"):
        Store()
    monkeypatch.delenv("HINDCAST_RESULTS")
    monkeypatch.setenv("AIRFLOW_CONN_RESULTS", json.dumps({**content, "conn_type": "mysql"}))
    with pytest.raises(UsageError, match="in 'mysql'; use postgres, google_cloud_platform or sqlite"):
        Store()
