import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from hindcast import maintenance
from hindcast.cli import main
from hindcast.config import ModelFile
from hindcast.maintenance import DETAIL, LEARNT, Keep
from hindcast.results import tables
from hindcast.results.sql import Store
from hindcast.window import HOUR

DAY = datetime(2013, 4, 16, tzinfo=UTC)
END = DAY + timedelta(days=1)
OLD = DAY - timedelta(days=365)


def model(**performance: Any) -> ModelFile:
    return ModelFile.model_validate(
        {
            "model": "flights",
            "task": "binary",
            "logs": {"uri": "logs"},
            "reference": {"uri": "reference.parquet"},
            "performance": {"label_ages_hours": [0, 6], **performance},
            "schedule": {"settle_minutes": 10},
        }
    )


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.delenv("HINDCAST_ARTIFACTS", raising=False)
    return Store(f"sqlite:///{tmp_path}/results.db")


def add(store: Store, table: Any, *rows: dict[str, Any]) -> None:
    with store.transaction() as connection:
        for row in rows:
            connection.execute(table.insert(), row)


def window(start: datetime, rows: int = 100, status: str = "ok", name: str = "flights") -> dict[str, Any]:
    return {
        "model_name": name,
        "window_start": start,
        "window_end": start + HOUR,
        "as_of": start + HOUR,
        "rows": rows,
        "bytes": rows * 10,
        "status": status,
    }


def performance(start: datetime, age: int, coverage: float | None, metric: str = "accuracy") -> dict[str, Any]:
    return {
        "model_name": "flights",
        "model_version": "1",
        "window_start": start,
        "segment": "*",
        "metric": metric,
        "label_age_hours": age,
        "estimated": coverage is None,
        "label_coverage": coverage,
        "as_of": start + (age + 1) * HOUR,
        "status": "ok",
    }


def alert(number: int, opened: datetime, resolved: datetime | None, name: str = "flights") -> dict[str, Any]:
    return {
        "alert_id": f"{name}-{number}",
        "model_name": name,
        "kind": "drift",
        "severity": "warning",
        "subject": f"f{number}",
        "metric": "ks_statistic",
        "state": "firing" if resolved is None else "resolved",
        "opened_at": opened,
        "last_seen_at": opened,
        "resolved_at": resolved,
        "detected_at": opened,
    }


def test_references_go_when_no_profile_has_their_bins_any_more(store: Store) -> None:
    def fitted(digest: str, bins: str, day: int, name: str = "flights") -> dict[str, Any]:
        at = DAY + day * 24 * HOUR
        return {
            "model_name": name, "reference_digest": digest, "bins_digest": bins, "rows": 1,
            "profile": b"", "pieces": b"", "recorded_at": at,
        }  # fmt: skip

    add(store, tables.references, fitted("old", "b0", 0), fitted("used", "b1", 1), fitted("new", "b2", 2))
    add(store, tables.references, fitted("old", "b0", 0, "another"))
    slices = {"model_name": "flights", "slicing_digest": "s", "content": b""}
    add(store, tables.reference_slices, *({**slices, "reference_digest": digest} for digest in ("old", "new")))
    profile = {"model_name": "flights", "bins_digest": "b1", "rows": 1, "profile": b""}
    add(store, tables.profiles, {**profile, "window_start": DAY})
    sample = store.artifacts / "references" / "flights" / "old.parquet"
    sample.parent.mkdir(parents=True)
    sample.touch()
    counts = maintenance.retention(store, model(), DAY)
    assert (counts["references"], counts["reference_slices"], sample.exists()) == (1, 1, False)
    left = [(row["model_name"], row["reference_digest"]) for row in store.rows(tables.references)]
    assert left == [("another", "old"), ("flights", "new"), ("flights", "used")]
    assert [row["reference_digest"] for row in store.rows(tables.reference_slices)] == ["new"]


def test_a_day_is_counted_hour_by_hour(store: Store) -> None:
    add(
        store,
        tables.windows,
        *[window(DAY + hour * HOUR) for hour in range(20)],
        window(DAY + 20 * HOUR, 0, "empty"),
        window(DAY + 21 * HOUR, 50, "partial"),
        window(DAY + 22 * HOUR, 0, "failed"),
        window(DAY - HOUR, 7000),
        window(END, 7000),
        window(DAY + 23 * HOUR, 7000, name="another"),
    )
    row = maintenance.roll_up(store, model(), DAY)
    counts = {name.removeprefix("hours_"): value for name, value in row.items() if name.startswith("hours_")}
    assert counts == {"ok": 20, "empty": 1, "partial": 1, "failed": 1, "missing": 1}
    assert (row["rows"], row["bytes"]) == (2050, 20500)
    assert store.rows(tables.days) == [row]


def test_an_alert_belongs_to_the_day_of_the_window_that_raised_it(store: Store) -> None:
    """An alert opens at the end of its window, so midnight belongs to the day before."""
    add(
        store,
        tables.alerts,
        alert(1, DAY, DAY + HOUR),
        alert(2, DAY + HOUR, END),
        alert(3, END, END + HOUR),
        alert(4, END + HOUR, None),
        alert(5, DAY + HOUR, DAY + 2 * HOUR, name="another"),
    )
    row = maintenance.roll_up(store, model(), DAY)
    assert (row["alerts_opened"], row["alerts_resolved"]) == (2, 2)


def test_rolling_up_again_replaces_the_day(store: Store) -> None:
    add(store, tables.windows, window(DAY))
    first = maintenance.roll_up(store, model(), DAY)
    assert maintenance.roll_up(store, model(), DAY) == first
    add(store, tables.windows, window(DAY + HOUR))
    assert maintenance.roll_up(store, model(), DAY)["hours_ok"] == 2
    assert len(store.rows(tables.days)) == 1


def test_coverage_is_of_the_windows_that_came_of_age_on_the_day(store: Store) -> None:
    late = DAY - 6 * HOUR
    add(store, tables.windows, window(late, 300), window(DAY, 100), window(END - 6 * HOUR, 5000))
    add(
        store,
        tables.performance,
        performance(late, 6, 1.0),
        performance(DAY, 6, 0.2),
        performance(DAY, 6, None, "estimated_accuracy"),
        performance(DAY, 0, 0.05),
        performance(END - 6 * HOUR, 6, 0.0),
        {**performance(DAY, 6, 0.9), "segment": "carrier=AA"},
    )
    row = maintenance.roll_up(store, model(), DAY)
    assert json.loads(row["label_coverage"]) == {"0": pytest.approx(0.05), "6": pytest.approx(0.8)}


def test_without_labels_coverage_is_null_and_not_zero(store: Store) -> None:
    assert json.loads(maintenance.roll_up(store, model(), DAY)["label_coverage"]) == {"0": None, "6": None}


def test_windows_whose_labels_never_came_are_named(store: Store) -> None:
    covered, poor, unjudged, empty, young = (DAY + hour * HOUR for hour in (0, 1, 2, 3, 17))
    add(
        store, tables.windows, *[window(start) for start in (covered, poor, unjudged, young)], window(empty, 0, "empty")
    )
    add(store, tables.performance, performance(covered, 6, 0.5), performance(poor, 6, 0.49), performance(poor, 0, 0.9))
    found = maintenance.label_maturity(store, model(), DAY)
    assert found["windows"] == [poor.isoformat(), unjudged.isoformat()]
    assert (found["due"], found["immature"], found["status"]) == (3, 2, "insufficient_data")
    assert found["reason"] == "2 of 3 windows have too few labels 6 h after their end"


def test_covered_windows_are_ok(store: Store) -> None:
    add(store, tables.windows, window(DAY))
    add(store, tables.performance, performance(DAY, 6, 0.97))
    found = maintenance.label_maturity(store, model(), DAY)
    assert found == {"status": "ok", "reason": None, "due": 1, "immature": 0, "windows": []}


# --- retention ---

KEY = {"model_name": "flights"}
CONTENT: dict[str, dict[str, Any]] = {
    "quality": {"subject": "*", "metric": "rows", "status": "ok"},
    "drift": {"segment": "*", "feature": "a", "baseline": "reference", "scale_hours": 1, "metric": "m", "status": "ok"},
    "performance": {
        "model_version": "1",
        "segment": "*",
        "metric": "accuracy",
        "label_age_hours": 0,
        "estimated": False,
        "as_of": DAY,
        "status": "ok",
    },
    "importance": {"feature": "a", "status": "ok"},
    "checks": {"check": "pull", "status": "ok", "as_of": DAY},
    "outcomes": {"label_age_hours": 0, "outcomes": b""},
    "slices": {"bins_digest": "b", "content": b""},
    "profiles": {"bins_digest": "x", "rows": 1, "profile": b""},
    "memory": {"check": "drift", "content": b""},
    "episodes": {"check": "drift", "subject": "a"},
}


def put(store: Store, name: str, start: datetime, owner: str = "flights") -> None:
    add(store, tables.METADATA.tables[name], {"model_name": owner, "window_start": start, **CONTENT[name]})


def test_every_table_of_details_is_covered_here() -> None:
    assert {table.name for table in (*DETAIL, *LEARNT)} == set(CONTENT)


@pytest.mark.parametrize("name", sorted(CONTENT))
def test_rows_are_kept_to_the_hour_of_their_limit(store: Store, name: str) -> None:
    days = Keep().detail if name in {table.name for table in DETAIL} else Keep().profiles
    limit = END - timedelta(days=days)
    for start in (limit - HOUR, limit, DAY):
        put(store, name, start)
    put(store, name, OLD, owner="another")
    counts = maintenance.retention(store, model(), DAY)
    left = [(row["model_name"], row["window_start"]) for row in store.rows(tables.METADATA.tables[name])]
    assert left == [("another", OLD), ("flights", limit), ("flights", DAY)]
    assert counts == {key: int(key == name) for key in counts}


def test_files_of_old_windows_go_and_nothing_else_does(store: Store) -> None:
    limit = END - timedelta(days=Keep.of(model()).artifacts)
    paths = {}
    for kind in ("facts", "samples", "datadocs"):
        for owner in ("flights", "another"):
            for start in (limit - HOUR, limit, OLD):
                path = store.artifacts / kind / owner / f"{start:%Y-%m-%dT%H}.parquet"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(b"")
                paths[kind, owner, start] = path
    counts = maintenance.retention(store, model(), DAY)
    gone = {key for key, path in paths.items() if not path.exists()}
    old_files = {(kind, "flights", start) for kind in ("facts", "samples") for start in (limit - HOUR, OLD)}
    assert gone == old_files | {("datadocs", "flights", OLD)}
    assert {name: count for name, count in counts.items() if count} == {"facts": 2, "samples": 2, "datadocs": 1}


def test_a_folder_of_row_facts_and_what_a_killed_driver_left_go_as_a_file_does(store: Store) -> None:
    folder = store.artifacts / "facts" / "flights"
    for name in (f"{OLD:%Y-%m-%dT%H}.parquet", f"{OLD:%Y-%m-%dT%H}.0f3a.tmp", f"{END:%Y-%m-%dT%H}.parquet"):
        (folder / name).mkdir(parents=True)
        (folder / name / "bucket-00000-of-00001.parquet").write_bytes(b"")
    assert maintenance.retention(store, model(), DAY)["facts"] == 2
    assert [path.name for path in folder.iterdir()] == [f"{END:%Y-%m-%dT%H}.parquet"]


def test_alerts_findings_windows_and_the_audit_are_kept(store: Store) -> None:
    add(store, tables.alerts, alert(1, OLD, OLD + HOUR))
    add(store, tables.windows, window(OLD))
    put(store, "quality", OLD)
    with store.transaction() as connection:
        store.append_audit(connection, actor="test", action="decide", content={}, window_start=OLD)
    maintenance.retention(store, model(), DAY)
    assert len(store.rows(tables.alerts)) == len(store.rows(tables.windows)) == 1
    assert [row["action"] for row in store.rows(tables.audit)] == ["decide", "delete"]


def test_a_second_time_there_is_nothing_to_delete_and_nothing_to_record(store: Store) -> None:
    put(store, "quality", OLD)
    maintenance.retention(store, model(), DAY)
    assert set(maintenance.retention(store, model(), DAY).values()) == {0}
    assert len(store.rows(tables.audit)) == 1


def test_a_dry_run_counts_what_would_go_and_leaves_it(store: Store) -> None:
    for start in (OLD, END):
        for name in ("quality", "profiles"):
            put(store, name, start)
    (store.artifacts / "facts" / "flights").mkdir(parents=True)
    (store.artifacts / "facts" / "flights" / f"{OLD:%Y-%m-%dT%H}.parquet").touch()
    told = maintenance.retention(store, model(), DAY, dry_run=True)
    assert {name: count for name, count in told.items() if count} == {"facts": 1, "quality": 1, "profiles": 1}
    assert (len(store.rows(tables.quality)), store.rows(tables.audit)) == (2, [])
    assert maintenance.retention(store, model(), DAY) == told
    assert len(store.rows(tables.quality)) == 1


def test_the_command_counts_back_from_the_newest_window(store: Store, tmp_path: Path) -> None:
    from tests.worlds import World, model_file

    add(store, tables.windows, window(DAY + 5 * HOUR, name="alpha"))
    with store.transaction() as connection:
        row = {"model_name": "alpha", "bins_digest": "d", "rows": 1, "profile": b""}
        moments = [DAY + timedelta(days=1 - Keep().profiles) - step for step in (HOUR, 0 * HOUR)]
        store.replace(connection, tables.profiles, [{**row, "window_start": m} for m in moments], model_name="alpha")
    for name in ("alpha", "beta"):
        model_file(World(tmp_path), name)
    place = ["--results", store.url, "--config", str(tmp_path / "models")]
    told = CliRunner().invoke(main, ["prune", "--dry-run", *place])
    lines = ["alpha: would delete 1 profiles, as of the end of 2013-04-16", "beta: was never checked"]
    assert (told.exit_code, told.output.splitlines()) == (0, lines)
    assert len(store.rows(tables.profiles)) == 2
    done = json.loads(CliRunner().invoke(main, ["prune", "alpha", "--json", *place]).output)
    assert (done["alpha"]["day"], done["alpha"]["profiles"]) == ("2013-04-16", 1)
    assert [row["window_start"] for row in store.rows(tables.profiles)] == [moments[1]]
    early = CliRunner().invoke(main, ["prune", "alpha", "--day", "2013-01-01", *place]).output
    assert early == "alpha: deleted nothing, as of the end of 2013-01-01\n"


def test_a_replay_of_the_past_deletes_nothing_of_it(store: Store) -> None:
    """The limits count back from the day, not from today."""
    put(store, "quality", OLD)
    assert set(maintenance.retention(store, model(), OLD).values()) == {0}
    assert store.rows(tables.quality)


@given(
    baseline=st.integers(1, 90),
    ages=st.lists(st.integers(0, 24 * 90), min_size=1, max_size=4),
)
def test_nothing_is_deleted_that_a_baseline_or_a_late_label_still_needs(baseline: int, ages: list[int]) -> None:
    keep = Keep.of(model(baseline_days=baseline, label_ages_hours=ages))
    assert keep.detail * 24 >= baseline * 24 + max(ages)
    assert keep.artifacts * 24 >= max(ages)
    assert keep.profiles >= 8 * 7 + 7
