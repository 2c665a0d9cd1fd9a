"""A lasting shift is one alert; accepted, by a person or after a time, its level is the usual one from then on."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc
import pytest
from tests import worlds
from tests.worlds import HOUR, START, at, cli, cli_json, rows_of, snapshot

from hindcast import config
from hindcast.checks.levels import accepted, just_accepted, left_out
from hindcast.checks.run import Run
from hindcast.checks.triage import accepted_after
from hindcast.replay import replay
from hindcast.results import audit
from hindcast.results.sql import Store
from hindcast.window import Window

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa

CHECKS = ("pull", "drift", "triage")
TWO = {"features": {"amount": {"type": "numeric"}, "carrier": {"type": "categorical"}}, "segments": []}
ONSET = 220


def higher(table: pa.Table) -> pa.Table:
    """Amounts rise by 0.8 σ."""
    at_ = table.schema.get_field_index("feature_amount")
    return table.set_column(at_, "feature_amount", pc.add(table["feature_amount"], 8.0))


def written(world: worlds.World, first: int, end: int, fault: Any = None) -> None:
    worlds.write_hours(world, range(first, end), rows=120, labels="none", fault=fault)


def replayed(world: worlds.World, first: int, end: int) -> None:
    facts = replay("alpha", at(first), at(end), only=CHECKS, config=str(world.models), results=world.results)
    assert facts["errors"] == 0


def hour(text: str | None) -> float | None:
    return None if text is None else (datetime.fromisoformat(text).replace(tzinfo=UTC) - START) / HOUR


def lives(world: worlds.World) -> list[tuple[str, float | None, float | None]]:
    """Subject, hour of onset and of resolution of every alert."""
    rows = sorted(rows_of(world.results, "alerts"), key=lambda row: row["opened_at"])
    return [(row["subject"], hour(row["opened_at"]), hour(row["resolved_at"])) for row in rows]


@pytest.fixture(scope="module")
def shifted(tmp_path_factory: pytest.TempPathFactory) -> worlds.World:
    """Nine quiet days, then a step that has lasted for a day."""
    world = worlds.write(tmp_path_factory.mktemp("shift") / "w", labels="none", **TWO)
    written(world, 0, ONSET)
    written(world, ONSET, ONSET + 24, higher)
    replayed(world, 0, ONSET + 24)
    return world


@pytest.fixture
def copy(shifted: worlds.World, tmp_path: Path) -> worlds.World:
    return worlds.copied(shifted, tmp_path / "w")


def opened(world: worlds.World) -> float:
    ((subject, onset, resolved),) = lives(world)
    assert (subject, resolved) == ("amount", None)
    assert onset is not None
    assert ONSET < onset <= ONSET + 3
    return onset


def incident(world: worlds.World) -> str:
    (row,) = cli_json(world, "incidents", "alpha")
    return str(row["incident_id"])


# --- by itself


def test_a_step_of_ten_days_is_one_alert_and_stepping_back_is_another(copy: worlds.World) -> None:
    onset, end = opened(copy), ONSET + 240
    written(copy, ONSET + 24, end, higher)
    written(copy, end, end + 60)
    replayed(copy, ONSET + 24, end + 60)
    first, second = lives(copy)
    assert first == ("amount", onset, onset + 168)
    assert second[1] is not None
    assert (second[0], second[2], end < second[1] <= end + 3) == ("amount", None, True)
    (row,) = rows_of(copy.results, "acceptances")
    assert (row["actor"], row["automatic"], row["reason"]) == ("hindcast", 1, "after 168 h")
    assert (hour(row["since"]), hour(row["accepted_at"])) == (onset - 1, onset + 168)
    (line,) = rows_of(copy.results, "audit", action="accept")
    said = json.loads(line["content"])
    assert (line["actor"], said["subject"], said["alert_id"]) == ("hindcast", "amount", row["alert_id"])
    assert len(said["config_digest"]) == 16
    assert audit.verify(Store(copy.results)).whole


def test_without_a_time_it_stays_open_and_nothing_echoes_when_its_hours_come_round(copy: worlds.World) -> None:
    """Up to fifteen days after a step of three days, whose hours are older than what the policy remembers."""
    worlds.model_file(copy, labels=False, **TWO, drift={"accept_after_hours": None})
    onset, end = opened(copy), ONSET + 72
    written(copy, ONSET + 24, end, higher)
    written(copy, end, end + 360)
    replayed(copy, ONSET + 24, end + 360)
    ((_, first, resolved),) = lives(copy)
    assert (first, resolved is not None and end <= resolved <= end + 9) == (onset, True)
    assert rows_of(copy.results, "acceptances") == []
    inside = {hour(row["window_start"]) for row in rows_of(copy.results, "episodes", subject="amount")}
    assert inside >= set(map(float, range(int(onset), end)))
    assert max(filter(None, inside)) < end + 24 + 6, "a day holds the last of them for a day"


def test_hours_of_an_episode_stay_out_of_the_baselines_for_as_long_as_those_reach(copy: worlds.World) -> None:
    run = Run(config.find("alpha", copy.models), Window(at(ONSET + 24 + 600)), at(9999), Store(copy.results))
    from hindcast.checks.drift import _past, series_of

    past, inside = _past(run, series_of(run.reference.bins))
    assert at(ONSET + 10) not in past
    assert inside[at(ONSET + 10)] == {"amount"}
    assert at(ONSET - 10) not in inside


# --- by a person


def test_accepting_ends_the_alert_and_its_level_is_the_usual_one(copy: worlds.World) -> None:
    onset, key = opened(copy), incident(copy)
    (done,) = cli_json(copy, "incidents", "accept", key, "--by", "kim", "--reason", "new tariff")
    assert (done["subject"], done["accepted_at"]) == ("amount", worlds.text(ONSET + 24) + "Z")
    assert lives(copy) == [("amount", onset, ONSET + 24)]
    shown = cli_json(copy, "incidents", "show", key)
    assert (shown["state"], shown["resolution"]) == ("resolved", "amount accepted by kim: new tariff")
    assert "accepted by kim: new tariff" in cli(copy, "incidents", "show", key).stdout
    (line,) = rows_of(copy.results, "audit", action="accept")
    assert (line["actor"], json.loads(line["content"])["reason"]) == ("kim", "new tariff")
    assert audit.verify(Store(copy.results)).whole

    written(copy, ONSET + 24, ONSET + 84, higher)
    written(copy, ONSET + 84, ONSET + 90)
    replayed(copy, ONSET + 24, ONSET + 90)
    _, back = lives(copy)
    assert back[1] is not None
    assert ONSET + 84 < back[1] <= ONSET + 87, "quiet at the new level, and news when it is left"
    assert rows_of(copy.results, "audit", action="accept") == [line]


def test_windows_run_again_give_the_same_as_of_their_moment(copy: worlds.World) -> None:
    cli_json(copy, "incidents", "accept", incident(copy), "--by", "kim")
    written(copy, ONSET + 24, ONSET + 30, higher)
    replayed(copy, ONSET + 24, ONSET + 30)
    before = snapshot(copy.results, ignore=("audit", "checks"))
    for again in (ONSET - 2, ONSET + 10, ONSET + 23, ONSET + 24, ONSET + 29):
        worlds.check_window(copy, again, "--only", "pull,drift", "--as-of", worlds.text(again + 7 / 6))
        assert worlds.differences(before, snapshot(copy.results, ignore=("audit", "checks"))) == []


def test_what_cannot_be_accepted_is_said(copy: worlds.World) -> None:
    key = incident(copy)
    for arguments, words in (
        (["nonsense"], "unknown incident 'nonsense'"),
        (["", "--by", "kim"], "unknown incident ''"),
        ([key, "--subject", "carrier"], "has no open alert about 'carrier'; it has some about: amount"),
    ):
        found = cli(copy, "incidents", "accept", *arguments)
        assert (found.exit_code, words in found.stderr) == (2, True), found.output
    assert rows_of(copy.results, "acceptances") == rows_of(copy.results, "audit", action="accept") == []
    cli_json(copy, "incidents", "accept", key[:6])
    again = cli(copy, "incidents", "accept", key)
    assert (again.exit_code, "has no open alert" in again.stderr) == (2, True)


def nulls(table: pa.Table) -> pa.Table:
    """Amounts rise, and a third of the carriers is missing."""
    at_ = table.schema.get_field_index("feature_carrier")
    column = pc.if_else(pc.equal(table["feature_carrier"], "AA"), None, table["feature_carrier"])
    return higher(table.set_column(at_, "feature_carrier", column))


def test_a_missing_ratio_is_a_level_too_and_one_subject_may_be_accepted_alone(copy: worlds.World) -> None:
    onset = opened(copy)
    written(copy, ONSET + 24, ONSET + 48, nulls)
    replayed(copy, ONSET + 24, ONSET + 48)
    firing = {(row["kind"], row["subject"]) for row in rows_of(copy.results, "alerts", state="firing")}
    assert {("drift", "amount"), ("quality", "carrier")} <= firing
    done = cli_json(copy, "incidents", "accept", incident(copy), "--subject", "carrier", "--by", "kim")
    assert ("quality", "carrier") in {(row["kind"], row["subject"]) for row in done}
    written(copy, ONSET + 48, ONSET + 80, nulls)
    replayed(copy, ONSET + 48, ONSET + 80)
    assert [life for life in lives(copy) if life[2] is None] == [("amount", onset, None)]
    assert {subject for subject, *_ in lives(copy)} == {"amount", "carrier"}
    assert all(since < ONSET + 48 for _, since, _ in lives(copy) if since)


def test_an_accepted_loss_of_performance_is_the_usual_level(tmp_path: Path) -> None:
    world = worlds.write(tmp_path / "w", hours=48, rows=200, labels="inline")

    def lost(first: int, end: int) -> None:
        worlds.write_hours(world, range(first, end), rows=200, labels="inline", accuracy=0.6)
        only = ("pull", "performance", "triage")
        replay("alpha", at(0), at(end), only=only, config=str(world.models), results=world.results)

    lost(48, 68)
    ((subject, onset, _),) = lives(world)
    assert (subject, onset) == ("*", 49)
    cli_json(world, "incidents", "accept", incident(world), "--by", "kim")
    lost(68, 96)
    assert lives(world) == [("*", 49, 68)]
    (row,) = rows_of(
        world.results, "performance", window_start=at(90), segment="*", metric="accuracy", label_age_hours=0
    )
    assert row["baseline"] == pytest.approx(0.6, abs=0.02), "no hour of before is in it"


# --- rules


def test_a_loss_of_performance_is_accepted_before_its_baseline_runs_out() -> None:
    def hours(**drift: Any) -> dict[str, int | None]:
        keys = {"model": "m", "task": "binary", "logs": {"uri": "l"}, "reference": {"uri": "r"}}
        return accepted_after(config.ModelFile.model_validate({**keys, "drift": drift}))

    assert hours() == {"drift": 168, "quality": 168, "performance": 144}
    assert hours(accept_after_hours=48) == {"drift": 48, "quality": 48, "performance": 48}
    assert hours(accept_after_hours=None) == {"drift": None, "quality": None, "performance": 144}


def test_an_acceptance_is_known_from_its_moment_on_and_the_newest_counts() -> None:
    rows = [
        {"kind": "drift", "subject": "a", "since": at(2), "accepted_at": at(9)},
        {"kind": "drift", "subject": "a", "since": at(20), "accepted_at": at(30)},
        {"kind": "performance", "subject": "*", "since": at(2), "accepted_at": at(9)},
    ]
    assert accepted(rows, ("drift",), at(8)) == {}
    assert accepted(rows, ("drift",), at(9))["a"]["since"] == at(2)
    known = accepted(reversed(rows), ("drift",), at(30))
    assert known["a"]["since"] == at(20)
    assert (just_accepted(known, at(29)), just_accepted(known, at(30)), just_accepted(known, None)) == (
        {"a"},
        set(),
        {"a"},
    )
    assert left_out([], {}, known, config.Calendar((), config.ZoneInfo("UTC")), ["a"]) == {}
