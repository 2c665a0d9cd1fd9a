"""What-if: stored history decided again as another model file would have, and nothing written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc
import pytest
import yaml
from tests import worlds
from tests.test_acceptance import higher
from tests.worlds import at, cli, cli_json, rows_of, snapshot, text

from hindcast.replay import replay

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa

LOSS, SHIFT, END = 60, 90, 130
CHECKS = ("pull", "quality", "drift", "performance", "triage")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> worlds.World:
    """Two and a half days; then a day of wrong answers, an empty hour in it, and a day of higher amounts."""
    made = worlds.write(tmp_path_factory.mktemp("whatif") / "w", hours=LOSS, rows=300)
    hours = [hour for hour in range(LOSS, LOSS + 20) if hour != LOSS + 9]
    worlds.write_hours(made, hours, rows=300, accuracy=0.6)
    worlds.write_hours(made, range(LOSS + 20, SHIFT), rows=300)
    worlds.write_hours(made, range(SHIFT, SHIFT + 24), rows=300, fault=higher)
    worlds.write_hours(made, range(SHIFT + 24, END), rows=300)
    facts = replay("alpha", at(0), at(END), only=CHECKS, config=str(made.models), results=made.results)
    assert facts["errors"] == 0
    return made


def farther(table: pa.Table) -> pa.Table:
    """Distances double."""
    at_ = table.schema.get_field_index("feature_distance")
    return table.set_column(at_, "feature_distance", pc.multiply(table["feature_distance"], 2.0))


def other(world: worlds.World, folder: Path, **keys: Any) -> Path:
    """The world's model file with some keys changed, elsewhere."""
    content = yaml.safe_load((world.models / "alpha.yaml").read_text())
    for section in ("logs", "labels", "reference"):
        content[section]["uri"] = str((world.models / content[section]["uri"]).resolve())
    path = folder / "other.yaml"
    path.write_text(yaml.safe_dump({**content, **keys}))
    return path


def decided(world: worlds.World, path: Path, first: int = 0, end: int = END) -> Any:
    before = snapshot(world.results, ignore=())
    found = cli_json(world, "replay", "alpha", "--from", text(first), "--to", text(end), "--what-if", str(path))
    assert worlds.differences(before, snapshot(world.results, ignore=())) == [], "nothing was written"
    return found


def counts(found: Any) -> tuple[int, int, int]:
    return found["same"], found["added"], found["gone"]


@pytest.mark.parametrize("first", [0, LOSS - 30, LOSS, SHIFT - 2])
def test_the_same_file_raises_the_same_alerts_wherever_it_begins(
    world: worlds.World, tmp_path: Path, first: int
) -> None:
    found = decided(world, other(world, tmp_path), first)
    opened = [row for row in rows_of(world.results, "alerts") if row["opened_at"] > f"{at(first):%Y-%m-%d %H}:30"]
    assert counts(found) == (len(opened), 0, 0)
    assert len(opened) >= 1
    for alert in found["alerts"]:
        assert alert["raised"] == alert["would"], "value by value, texts included"
    assert sum(week["raised"] for week in found["weeks"]) == sum(week["would"] for week in found["weeks"])
    assert found["windows"] == END - first - (first <= LOSS + 9)


def kinds(found: Any, what: str) -> set[tuple[str, str]]:
    return {(alert["kind"], alert["subject"]) for alert in found["alerts"] if alert["what"] == what}


def test_a_quiet_entry_takes_away_what_it_covers(world: worlds.World, tmp_path: Path) -> None:
    entries = [{"from": at(LOSS - 1), "to": at(LOSS + 21), "reason": "storm"}]
    found = decided(world, other(world, tmp_path, quiet=entries), LOSS - 10)
    assert ("performance", "*") in kinds(found, "gone")
    assert ("drift", "amount") in kinds(found, "same")
    entries[0]["subjects"] = ["carrier"]
    assert counts(decided(world, other(world, tmp_path, quiet=entries), LOSS - 10))[1:] == (0, 0)


def test_thresholds_and_floors_of_the_other_file_decide(world: worlds.World, tmp_path: Path) -> None:
    performance = {"metrics": ["accuracy"], "threshold": 0.9, "critical": 0.95}
    found = decided(world, other(world, tmp_path, performance=performance), LOSS - 10)
    assert ("performance", "*") in kinds(found, "gone")
    found = decided(world, other(world, tmp_path, drift={"effect_floor": 5.0}), LOSS - 10)
    assert kinds(found, "gone") == {("drift", "amount")}
    found = decided(world, other(world, tmp_path, drift={"scales": [24]}), LOSS - 10)
    (shift,) = (alert for alert in found["alerts"] if (alert["kind"], alert["subject"]) == ("drift", "amount"))
    assert shift["would"]["opened_at"] > shift["raised"]["opened_at"], "a day tells later than an hour"


def test_a_larger_budget_raises_more(world: worlds.World, tmp_path: Path) -> None:
    found = decided(world, other(world, tmp_path, drift={"budget_false_alarms_per_week": 100}), 24)
    assert found["added"] > 0
    assert kinds(found, "gone") == set()


def test_what_is_accepted_by_itself_follows_the_other_file(world: worlds.World, tmp_path: Path) -> None:
    long = worlds.copied(world, tmp_path / "long")
    worlds.write_hours(long, range(END, END + 40), rows=300, fault=farther)
    replay("alpha", at(END), at(END + 40), only=CHECKS, config=str(long.models), results=long.results)
    found = decided(long, other(long, tmp_path, drift={"accept_after_hours": 24}), END, END + 40)
    (shift,) = (alert for alert in found["alerts"] if alert["kind"] == "drift")
    assert (shift["what"], shift["raised"]["state"], shift["would"]["state"]) == ("same", "firing", "resolved")
    assert "accepted by hindcast: after 24 h" in shift["would"]["details"]
    copy = worlds.copied(long, tmp_path / "copy")
    worlds.model_file(copy, drift={"accept_after_hours": 24})
    replay("alpha", at(END), at(END + 40), only=CHECKS, again=True, config=str(copy.models), results=copy.results)
    (row,) = (row for row in rows_of(copy.results, "alerts") if row["opened_at"] > f"{at(END):%Y-%m-%d %H}:30")
    assert row["details"] == shift["would"]["details"], "what a real replay with that file gives"


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"drift": {"bins": 64}}, "drift.bins: 64 instead of 1024"),
        ({"reference": {"uri": "elsewhere.parquet"}}, "reference.uri: 'elsewhere.parquet' instead of"),
        ({"model": "beta"}, "model: 'beta' instead of 'alpha'"),
        ({"quality": {"max_duplicates": 0.5}}, "quality.max_duplicates: 0.5 instead of 0.0"),
        ({"performance": {"label_ages_hours": [0, 48]}}, "performance.label_ages_hours: [0, 48] instead of [0, 6, 24]"),
        ({"performance": {"threshold": 0.5}}, "threshold (0.5) must not exceed critical (0.1)"),
    ],
)
def test_what_stored_history_cannot_tell_is_refused(
    world: worlds.World, tmp_path: Path, keys: dict[str, Any], words: str
) -> None:
    path = other(world, tmp_path, **keys)
    found = cli(world, "replay", "alpha", "--from", text(0), "--to", text(9), "--what-if", str(path))
    assert (found.exit_code, f"{path}: " in found.stderr, words in found.stderr) == (2, True, True), found.stderr


def test_who_owns_or_explains_it_decides_nothing(world: worlds.World, tmp_path: Path) -> None:
    path = other(world, tmp_path, owner={"team": "others"}, schedule={"hourly": "manual"})
    assert counts(decided(world, path, SHIFT - 2))[1:] == (0, 0)


def test_a_time_that_was_never_checked_and_options_of_a_real_replay_are_refused(
    world: worlds.World, tmp_path: Path
) -> None:
    path = str(other(world, tmp_path))
    found = cli(world, "replay", "alpha", "--from", text(900), "--to", text(910), "--what-if", path)
    assert (found.exit_code, "no window with rows was checked" in found.stderr) == (2, True)
    found = cli(world, "replay", "alpha", "--from", text(0), "--to", text(9), "--what-if", path, "--again")
    assert (found.exit_code, "--again" in found.stderr) == (2, True)


def test_the_table_names_each_alert_on_both_sides(world: worlds.World, tmp_path: Path) -> None:
    path = other(world, tmp_path, drift={"effect_floor": 5.0})
    found = cli(world, "replay", "alpha", "--from", text(SHIFT - 5), "--to", text(END), "--what-if", str(path))
    assert found.exit_code == 0
    line = next(line for line in found.stdout.splitlines() if "amount" in line)
    assert "gone" in line
    assert "windows decided again" in found.stdout
