"""Every command of the command line: what it prints, what it writes, and its exit status."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests import worlds
from tests.worlds import at, cli, cli_json, rows_of, text

from hindcast.replay import replay

COMMAND = Path(sys.executable).parent / "hindcast"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> worlds.World:
    """Thirty hours: accuracy falls from hour 26 on, and a column goes missing in hour 29."""
    made = worlds.write(tmp_path_factory.mktemp("cli") / "w", hours=26, rows=400)
    worlds.write_hours(made, range(26, 29), rows=400, accuracy=0.4)
    worlds.write_hours(made, [29], rows=400, fault=lambda table: table.drop_columns(["feature_stops"]))
    replay("alpha", at(0), at(30), config=str(made.models), results=made.results)
    assert rows_of(made.results, "alerts")
    return made


def real(world: worlds.World, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """The installed command, in a process of its own."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HINDCAST_")}
    environment |= options.pop("env", {})
    command = [COMMAND, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, **options)


# --- check


def test_the_installed_command_checks_a_window(world: worlds.World, tmp_path: Path) -> None:
    """Results go under the working directory, model files come from the environment."""
    environment = {"HINDCAST_CONFIG": str(world.models)}
    done = real(
        world, "check", "alpha", "--window", "2024-03-04T05", "--only", "drift", "--json", cwd=tmp_path, env=environment
    )
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert (found["model"], found["window"], found["checks"]["drift"]["status"]) == ("alpha", "2024-03-04T05:00Z", "ok")
    assert list(found["checks"]) == ["pull", "drift", "triage"]
    assert (tmp_path / ".hindcast/results.db").exists()


def test_check_says_each_check_on_a_line(world: worlds.World) -> None:
    found = cli(world, "check", "alpha", "--window", text(27))
    assert found.exit_code == 0
    lines = found.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["pull", "quality", "drift", "performance", "importance", "triage"]
    assert "accuracy" in lines[3]


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "nobody", "--window", "2024-03-04T05"],
        ["check", "alpha", "--window", "yesterday"],
        ["check", "alpha", "--window", "2024-13-04T05"],
        ["check", "alpha", "--window", ""],
        ["check", "alpha"],
        ["check", "alpha", "--window", "2024-03-04T05", "--only", "everything"],
        ["check", "alpha", "--window", "2024-03-04T05", "--only", "drift,"],
        ["check", "alpha", "--window", "2024-03-04T05", "--as-of", "2024-03-04T05:30"],
        ["check", "alpha", "--window", "2024-03-04T05", "--as-of", "soon"],
        ["check", "alpha", "--window", "2999-01-01T00"],
        ["check", "alpha", "--window", "2024-03-04T05", "--frobnicate"],
        ["replay", "alpha", "--from", "2024-03-04T05", "--to", "2024-03-04T04"],
        ["replay", "alpha", "--from", "2024-03-04T05", "--to", "2024-03-04T06", "--jobs", "0"],
        ["replay", "alpha", "--from", "2024-03-04T05", "--to", "2024-03-04T06", "--what-if", "nothing.yaml"],
        ["incidents", "show", "nonsense"],
        ["incidents", "accept", "nonsense"],
        ["incidents", "accept"],
        ["replay", "nobody", "--from", "2024-03-04T05", "--to", "2024-03-04T06"],
        ["report", "alpha", "-o", "x.html"],
        ["report", "alpha", "--day", "someday", "-o", "x.html"],
        ["diagnose", "alpha", "--from", "2024-03-04T05", "--to", "2024-03-04T05"],
        ["diagnose", "nobody", "--from", "2024-03-04T05", "--to", "2024-03-04T06"],
        ["status", "nobody"],
        ["checklist", "nobody"],
        ["init", "--name", "../x", "--reference", "reference.parquet"],
        ["nonsense"],
    ],
    ids=" ".join,
)
def test_bad_usage_is_exit_2_with_a_message(world: worlds.World, arguments: list[str]) -> None:
    found = cli(world, *arguments)
    assert found.exit_code == 2
    assert found.stderr.strip()


def test_a_model_file_that_is_wrong_is_exit_2_and_names_file_key_and_value(world: worlds.World, tmp_path: Path) -> None:
    copy = worlds.World(tmp_path)
    worlds.model_file(copy, drift={"seasonal_weeks": "many"})
    found = cli(copy, "check", "alpha", "--window", text(0))
    assert found.exit_code == 2
    for words in ("alpha.yaml", "drift.seasonal_weeks", "many"):
        assert words in found.stderr


@pytest.mark.parametrize("url", ["nonsense", "nosuch://x/y", "postgresql+nosuch://x/y", "://", "sqlite:"])
def test_a_results_url_that_is_none_is_exit_2(world: worlds.World, url: str) -> None:
    assert cli(world, "status", results=url).exit_code == 2


def test_a_results_store_that_cannot_be_used_is_exit_4(world: worlds.World, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "text.db").write_text("not a database, and longer than the header of one " * 10)
    urls = [f"sqlite:///{tmp_path}/file/results.db", f"sqlite:///{tmp_path}/text.db", f"sqlite:///{tmp_path}"]
    for url in urls:
        found = cli(world, "check", "alpha", "--window", text(3), results=url)
        assert (found.exit_code, bool(found.stderr.strip())) == (4, True), url


@pytest.mark.parametrize("scheme", ["postgresql+psycopg", "postgresql", "postgres"])  # without a driver: psycopg's
def test_a_database_that_does_not_answer_is_exit_4(world: worlds.World, scheme: str) -> None:
    pytest.importorskip("psycopg")
    found = cli(world, "status", results=f"{scheme}://nobody:secret@127.0.0.1:9/none")
    assert found.exit_code == 4
    assert "secret" not in found.stderr


def test_a_reference_that_is_missing_or_broken_is_exit_3(tmp_path: Path) -> None:
    made = worlds.write(tmp_path / "w", hours=1)
    path = made.folder / "reference.parquet"
    content = path.read_bytes()
    for damaged in (None, b"no parquet", content[:-100]):
        path.unlink(missing_ok=True)
        if damaged is not None:
            path.write_bytes(damaged)
        found = cli(made, "check", "alpha", "--window", text(0))
        assert found.exit_code == 3
        assert "reference.parquet" in found.stderr


# --- init, validate, checklist


def test_init_writes_a_model_file_that_can_be_used_at_once(world: worlds.World, tmp_path: Path) -> None:
    fresh = worlds.World(tmp_path)
    facts = cli_json(fresh, "init", "--name", "fresh", "--reference", str(world.folder / "reference.parquet"))
    assert (facts["features"], facts["rows"]) == (6, 20_000)
    path = Path(facts["path"])
    assert cli_json(fresh, "validate") == {"valid": ["fresh"], "faults": []}
    assert cli(fresh, "check", "fresh", "--window", text(0)).exit_code == 3  # the logs are not filled in
    path.write_text(path.read_text().replace("EDIT-ME/logs", str(world.logs())))
    found = cli_json(fresh, "check", "fresh", "--window", text(5))
    assert {facts["status"] for facts in found["checks"].values()} == {"ok"}
    assert found["checks"]["quality"]["failed"] == []
    again = cli(fresh, "init", "--name", "fresh", "--reference", str(world.folder / "reference.parquet"))
    assert (again.exit_code, "already" in again.stderr) == (2, True)


def test_init_reads_training_data_without_prefixes(tmp_path: Path) -> None:
    plain = worlds.World(tmp_path)
    table = worlds.reference(500)
    pq.write_table(
        table.rename_columns([n.removeprefix("feature_") for n in table.column_names]), tmp_path / "train.parquet"
    )
    facts = cli_json(
        plain, "init", "--name", "plain", "--reference", f"file://{tmp_path}/train.parquet", "--task", "regression"
    )
    assert facts["features"] == 6
    assert cli_json(plain, "validate")["valid"] == ["plain"]


def test_init_without_a_reference_is_exit_3(tmp_path: Path) -> None:
    assert (
        cli(worlds.World(tmp_path), "init", "--name", "x", "--reference", str(tmp_path / "none.parquet")).exit_code == 3
    )


def test_validate_names_every_fault_and_the_good_files(world: worlds.World, tmp_path: Path) -> None:
    several = worlds.World(tmp_path)
    worlds.model_file(several, "good")
    worlds.model_file(several, "bad", tsak="binary")
    (several.models / "worse.yaml").write_text("model: [")
    found = cli(several, "validate", "--json")
    assert found.exit_code == 2
    content = json.loads(found.stdout)
    assert content["valid"] == ["good"]
    assert len(content["faults"]) == 2
    assert "tsak" in found.stderr


def test_status_says_which_model_file_it_left_out(tmp_path: Path) -> None:
    several = worlds.World(tmp_path)
    worlds.model_file(several, "good")
    worlds.model_file(several, "bad", tsak="binary")
    found = cli(several, "status")
    assert found.exit_code == 0
    assert "good" in found.stdout
    assert "tsak" in found.stderr


def test_checklist_says_what_is_missing(world: worlds.World, tmp_path: Path) -> None:
    items = {item["what"]: item for item in cli_json(world, "checklist", "alpha")}
    assert {what for what, item in items.items() if not item["ok"]} == set()
    assert "20000 rows" in items["reference"]["says"]
    bare = worlds.World(tmp_path)
    worlds.model_file(bare, owner=None, features=None, explain={"model": {"uri": "../none.txt", "format": "lightgbm"}})
    missing = {item["what"]: item["ok"] for item in cli_json(bare, "checklist", "alpha")}
    assert {what for what, ok in missing.items() if not ok} == {
        "logs", "labels", "reference", "model artifact", "owner", "features", "checked",
    }  # fmt: skip


# --- status, incidents, diagnose, report


def test_status_before_anything_was_checked(world: worlds.World) -> None:
    store = world.store_at("nothing")
    assert cli_json(world, "status", results=store)[0]["window"] is None
    assert "never checked" in cli(world, "status", "alpha", results=store).stdout
    assert cli_json(world, "incidents", results=store) == []
    assert "no open incidents" in cli(world, "incidents", results=store).stdout
    assert cli_json(world, "diagnose", "alpha", "--from", text(0), "--to", text(1), results=store)["parts"] == []


def test_status_shows_the_newest_window_and_what_fires(world: worlds.World) -> None:
    (found,) = cli_json(world, "status")
    assert (found["model"], found["window"]["window_start"]) == ("alpha", "2024-03-05T05:00Z")
    assert {row["check"] for row in found["checks"]} >= {"pull", "quality", "drift", "performance", "triage"}
    firing = {(alert["kind"], alert["subject"]) for alert in found["firing"]}
    assert {("performance", "*"), ("quality", "stops")} <= firing
    assert "performance accuracy" in cli(world, "status", "alpha").stdout


def test_incidents_are_listed_with_their_cause(world: worlds.World) -> None:
    found = cli_json(world, "incidents", "alpha")
    assert found
    assert {row["state"] for row in found} == {"open"}
    assert all(row["root_cause"] and row["title"] for row in found)
    assert cli_json(world, "incidents", "alpha", "--all") == found
    assert found[0]["incident_id"] in cli(world, "incidents").stdout
    assert cli_json(world, "incidents", "list", "alpha") == found
    shown = cli_json(world, "incidents", "show", found[0]["incident_id"])
    assert {"performance", "quality"} <= {alert["kind"] for alert in shown["alerts"]}
    text_ = cli(world, "incidents", "show", found[0]["incident_id"][:8]).stdout
    assert "open; accepted by itself 2024-03-11T03:00Z" in text_, "six days after the loss began"
    assert "--by" in cli_help("incidents", "accept")


def cli_help(*arguments: str) -> str:
    from click.testing import CliRunner

    from hindcast.cli import main

    found = CliRunner().invoke(main, [*arguments, "--help"])
    assert found.exit_code == 0
    return found.output


def test_a_limit_cannot_be_accepted_and_the_rest_of_its_incident_can(world: worlds.World, tmp_path: Path) -> None:
    copy = worlds.copied(world, tmp_path / "w")
    (incident,) = cli_json(copy, "incidents")
    key = incident["incident_id"]
    found = cli(copy, "incidents", "accept", key, "--subject", "stops")
    assert (found.exit_code, "a limit is no level; change it in the model file" in found.stderr) == (2, True)
    done = cli_json(copy, "incidents", "accept", key, "--by", "kim")
    assert "*" in {row["subject"] for row in done}
    assert {row["kind"] for row in done} <= {"performance", "drift"}
    firing = {(alert["kind"], alert["subject"]) for alert in cli_json(copy, "status")[0]["firing"]}
    assert firing == {("quality", "stops")}


def test_diagnose_says_how_far_the_metric_fell(world: worlds.World) -> None:
    found = cli_json(world, "diagnose", "alpha", "--from", text(26), "--to", text(29))
    assert found["metric"] == "accuracy"
    assert (found["value"] < 0.5, found["baseline"] > 0.85) == (True, True)
    assert "the whole of the traffic" in found["cause"]
    assert "accuracy" in cli(world, "diagnose", "alpha", "--from", text(26), "--to", text(29)).stdout


@pytest.mark.parametrize("what", [["--window", "2024-03-05T02"], ["--day", "2024-03-04"]])
def test_report_writes_one_page_that_opens_offline(world: worlds.World, tmp_path: Path, what: list[str]) -> None:
    page = tmp_path / "new" / "report.html"
    facts = cli_json(world, "report", "alpha", *what, "-o", str(page))
    content = page.read_text(encoding="utf-8")
    assert facts["bytes"] == page.stat().st_size
    assert "alpha" in content
    assert content.lstrip().lower().startswith("<!doctype html")
    # Nothing is fetched; a link that a reader may follow is another matter.
    assert not re.search(r"<(?:script|img|link|iframe)[^>]+(?:src|href)=[\"']?(?:https?:)?//", content)


def test_a_report_that_cannot_be_written_is_an_error_without_traceback(world: worlds.World, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = cli(world, "report", "alpha", "--window", text(3), "-o", str(tmp_path / "file" / "x.html"))
    assert found.exit_code != 0
    assert found.stderr.strip()


# --- profile


def test_profile_fits_bins_once_and_takes_them_again(world: worlds.World, tmp_path: Path) -> None:
    first, second = tmp_path / "first.parquet", tmp_path / "second.parquet"
    logs = str(world.partition(3))
    fitted = cli(
        world, "profile", str(world.folder / "reference.parquet"), "-o", str(first), "--n-bins", "64", "--json"
    )
    assert fitted.exit_code == 0
    assert "20000 rows" in fitted.stderr
    facts = json.loads(fitted.stdout)
    taken = json.loads(
        cli(world, "profile", logs, str(world.partition(4)), "--bins", str(first), "-o", str(second), "--json").stdout
    )
    assert taken["bins_digest"] == facts["bins_digest"]
    assert (facts["rows"], taken["rows"]) == (20_000, 800)
    rows = {row["column"]: row for row in pq.read_table(second).to_pylist()}
    assert set(rows) == {f"feature_{n}" for n in (*worlds.NUMERIC, "carrier", "origin")}
    for name in ("feature_amount", "feature_carrier"):
        assert sum(rows[name]["counts"]) + rows[name]["null"] + (rows[name]["new"] or 0) == 800
    table = pq.read_table(world.partition(3), partitioning=None)
    carriers = [
        *table["feature_carrier"].to_pylist(),
        *pq.read_table(world.partition(4), partitioning=None)["feature_carrier"].to_pylist(),
    ]
    counted = dict(zip(rows["feature_carrier"]["categories"], rows["feature_carrier"]["counts"], strict=True))
    assert counted == {name: carriers.count(name) for name in counted}


def test_profile_of_what_is_not_there_is_exit_3(world: worlds.World, tmp_path: Path) -> None:
    assert cli(world, "profile", str(tmp_path / "none"), "-o", str(tmp_path / "p")).exit_code == 3
    (tmp_path / "text.parquet").write_text("text")
    assert cli(world, "profile", str(tmp_path / "text.parquet"), "-o", str(tmp_path / "p")).exit_code == 3
    reference = str(world.folder / "reference.parquet")
    assert cli(world, "profile", reference, "--bins", str(tmp_path / "none"), "-o", str(tmp_path / "p")).exit_code == 3
    assert (
        cli(world, "profile", reference, "--bins", str(tmp_path / "text.parquet"), "-o", str(tmp_path / "p")).exit_code
        == 3
    )
    pq.write_table(pa.table({"x": [1]}), tmp_path / "other.parquet")
    other = str(tmp_path / "other.parquet")
    assert cli(world, "profile", reference, "--bins", other, "-o", str(tmp_path / "p")).exit_code == 3
    assert not (tmp_path / "p").exists()


def test_profile_into_a_place_that_cannot_be_written_is_exit_1(world: worlds.World, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = cli(world, "profile", str(world.folder / "reference.parquet"), "-o", str(tmp_path / "file" / "p"))
    assert found.exit_code == 1
    assert found.stderr.strip()


# --- everywhere


def test_every_command_has_the_common_options_and_help(world: worlds.World) -> None:
    from hindcast.cli import main

    assert set(main.commands) >= {
        "check", "replay", "init", "status", "report", "diagnose", "profile", "incidents", "checklist", "validate",
    }  # fmt: skip
    groups = [command for command in main.commands.values() if isinstance(command, click.Group)]
    inner = [command for group in groups for command in group.commands.values()]
    assert {group.name for group in groups} == {"audit", "incidents", "metrics"}
    for command in [*(command for command in main.commands.values() if command not in groups), *inner]:
        options = {name for parameter in command.params for name in parameter.opts}
        assert {"--config", "--results", "--json"} <= options
        assert command.help


def test_commands_that_only_read_change_nothing(world: worlds.World, tmp_path: Path) -> None:
    before = worlds.snapshot(world.results, ignore=())
    for command in (["status"], ["incidents", "--all"], ["checklist", "alpha"], ["validate"],
                    ["diagnose", "alpha", "--from", text(0), "--to", text(30)],
                    ["report", "alpha", "--window", text(3), "-o", str(tmp_path / "x.html")]):  # fmt: skip
        assert cli(world, *command).exit_code == 0
    assert worlds.snapshot(world.results, ignore=()) == before
