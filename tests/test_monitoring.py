"""Rules, routes and the rotation: held to the tools of Prometheus and Alertmanager, and to the files they come from."""

from __future__ import annotations

import re
import subprocess
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import yaml
from click.testing import CliRunner
from tests.prometheus_server import binary

from hindcast import oncall, prometheus
from hindcast.cli import main
from hindcast.config import ModelFile
from hindcast.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]
RULES = ROOT / "include" / "prometheus"
ROTA = ROOT / "include" / "oncall.yaml"
ALERTMANAGER = ROOT / "include" / "alertmanager" / "alertmanager.yml"


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load((RULES / "rules" / "alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def ran(*command: str, folder: Path = RULES) -> str:
    done = subprocess.run([binary(command[0]), *command[1:]], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# --- what is generated ---


@pytest.mark.parametrize(
    ("path", "command"),
    [
        (RULES / "rules" / "models.yaml", ["metrics", "rules", "--config", str(ROOT / "include" / "models")]),
        (ALERTMANAGER, ["oncall", "--alertmanager"]),
    ],
    ids=["rules", "routes"],
)
def test_generated_files_are_current(path: Path, command: list[str]) -> None:
    done = CliRunner().invoke(main, [*command, "--rota", str(ROTA)])
    assert done.exit_code == 0, done.output
    assert path.read_text(encoding="utf-8") == done.output, "run: make monitoring"


def test_limits_follow_the_model_file() -> None:
    content = {"model": "m", "task": "binary", "logs": {"uri": "l"}, "labels": {"uri": "y"}, "reference": {"uri": "r"}}
    model = ModelFile.model_validate(
        content
        | {"alerting": {"latency_p95_ms": 250, "predictions_stale_hours": 2}, "schedule": {"settle_minutes": 30}}
    )
    found = prometheus.limits(model)
    assert (found["latency_p95_seconds"], found["predictions_age_seconds"]) == (0.25, 7200)
    assert found["checks_age_seconds"] == 3.5 * 3600
    assert found["labels_age_seconds"] == 48 * 3600
    plain = ModelFile.model_validate(content)
    assert "latency_p95_seconds" not in prometheus.limits(plain)
    assert plain.digest == ModelFile.model_validate(content | {"alerting": {"error_rate": 0.5}}).digest


# --- rules ---


def test_rules_and_configuration_are_valid() -> None:
    ran("promtool", "check", "config", "prometheus.yml")


def test_every_alert_says_what_whom_and_what_to_do() -> None:
    for rule in alerts():
        assert {"severity", "owner", "class"} <= set(rule["labels"]), rule["alert"]
        reported = {"report_url"} if rule["labels"]["class"] in {"incident", "symptom"} else set()
        assert {"summary", "description", "runbook_url", *reported} == set(rule["annotations"]), rule["alert"]
        playbook = rule["annotations"]["runbook_url"].rpartition("/")[2]
        text = (ROOT / "include" / "playbooks" / playbook).read_text(encoding="utf-8")
        assert len(text.splitlines()) >= 5, playbook
        assert "{{" not in text, "Prometheus would take it for a template"
        assert f"({playbook})" in (ROOT / "include" / "playbooks" / "index.md").read_text(encoding="utf-8")


def test_every_alert_is_tested_quiet_firing_and_resolved() -> None:
    tests = yaml.safe_load((RULES / "tests" / "alerts.test.yaml").read_text())["tests"]
    told = {
        test["name"]: "".join("F" if case["exp_alerts"] else "q" for case in test["alert_rule_test"]) for test in tests
    }
    assert set(told) == {rule["alert"] for rule in alerts()}
    for name, story in told.items():
        assert re.search("q.*Fq" if name != "HindcastDeadMansSwitch" else "^F+$", story), (name, story)
    ran("promtool", "test", "rules", "tests/alerts.test.yaml")


# --- the rotation ---


def rota(**changes: Any) -> oncall.Rotation:
    content = {"owners": ["o"], "timezone": "America/New_York", "from": "2026-02-23", "handover": "09:00",
               "people": ["ada", "ben", "chi"], **changes}  # fmt: skip
    return oncall.Rotation.model_validate(content)


def test_a_handover_stays_at_nine_when_summer_time_begins() -> None:
    """New York puts its clocks forward on 8 March 2026: nine o'clock is 14:00 UTC before, and 13:00 UTC after."""
    rotation, until = rota(), date(2026, 6, 1)

    def who(text: str) -> str | None:
        shift = oncall.on_call(rotation, until, datetime.fromisoformat(text))
        return shift.person if shift else None

    assert (who("2026-03-02T13:59Z"), who("2026-03-02T14:00Z")) == ("ada", "ben")
    assert (who("2026-03-09T12:59Z"), who("2026-03-09T13:00Z")) == ("ben", "chi")
    assert (who("2026-02-23T13:59Z"), who("2026-06-01T04:00Z")) == (None, None)


def matches(interval: dict[str, Any], moment: datetime) -> bool:
    """Alertmanager's time intervals, as its documentation defines them."""
    local = moment.astimezone(ZoneInfo(interval["location"]))

    def within(key: str, value: int) -> bool:
        bounds = [[int(b) for b in text.split(":")] for text in interval[key]]
        return any(low[0] <= value <= low[-1] for low in bounds)

    minute = local.hour * 60 + local.minute
    spans = [
        [int(t[:2]) * 60 + int(t[3:]) for t in (s["start_time"], s["end_time"])] for s in interval.get("times", [])
    ]
    dated = within("days_of_month", local.day) and within("months", local.month) and within("years", local.year)
    return dated and (not spans or any(start <= minute < end for start, end in spans))


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Kolkata", "Australia/Lord_Howe"])
def test_routes_wake_whom_the_rotation_names_at_every_hour_of_a_year(zone: str) -> None:
    override = {"from": "2026-04-03T22:30", "to": "2026-04-06T06:15", "person": "ada"}
    somewhere = {"webhook": "http://a"}
    content = {
        "until": "2027-02-24",
        "rotations": {"r": rota(timezone=zone, overrides=[override]).model_dump(by_alias=True)},
        "people": {"ada": somewhere, "ben": somewhere, "chi": somewhere},
        "default": somewhere,
        "heartbeat": somewhere,
    }
    made = oncall.OnCall.model_validate(content)
    intervals = {i["name"]: i["time_intervals"] for i in oncall.alertmanager(made)["time_intervals"]}
    rotation, moment = made.rotations["r"], datetime(2026, 2, 22, 0, 15, tzinfo=UTC)
    shifts = oncall.shifts(rotation, made.until)
    assert "ada" in {shift.person for shift in shifts if f"{shift.start:%m-%d %H:%M}" == "04-03 22:30"}
    while moment < datetime(2027, 2, 26, tzinfo=UTC):
        local = moment.astimezone(ZoneInfo(zone)).replace(tzinfo=None)
        expected = [f"r-{shift.person}" for shift in shifts if shift.start <= local < shift.end]
        assert [n for n, some in intervals.items() if any(matches(i, moment) for i in some)] == expected, moment
        moment += timedelta(hours=7, minutes=13)


def test_the_command_says_who_is_on_call() -> None:
    def said(*arguments: str) -> str:
        done = CliRunner().invoke(main, ["oncall", "--rota", str(ROTA), *arguments])
        assert done.exit_code == 0, done.output
        return done.output

    assert said("--at", "2026-12-25T12:00Z").startswith("ops-ml: chi until 2026-12-26T09:00:00-05:00, then ")
    assert yaml.safe_load(said("--at", "2026-12-01T12:00Z", "--json"))[0]["person"] == "ben"
    assert "nobody" in said("--at", "2020-01-01")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"people": {"ada": {}}}, "rotations.ops-ml: 'ben' is none of people"),
        ({"email": None}, "email: is needed"),
        ({"default": {"webhook_token": True}}, "webhook_token is of a webhook, and there is none"),
        ({"channels": {"nobody": {}}}, "channels: 'nobody' is no rotation"),
        ({"until": "soon"}, "until: "),
    ],
)
def test_a_wrong_rotation_is_refused_with_file_and_key(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "oncall.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(ROTA.read_text()) | change))
    with pytest.raises(ConfigError, match=re.escape(str(path))) as caught:
        oncall.load(path)
    assert message in str(caught.value)


# --- routes ---


def test_the_configuration_of_alertmanager_is_valid() -> None:
    assert "SUCCESS" in ran("amtool", "check-config", str(ALERTMANAGER))


@pytest.mark.parametrize(
    ("labels", "receivers"),
    [
        ("alertname=HindcastIncident severity=critical class=incident owner=ops-ml model_name=m",
         "person-ada,person-ben,person-chi,channel-ops-ml"),
        ("alertname=HindcastDrift severity=warning class=symptom owner=ops-ml model_name=m", "channel-ops-ml"),
        ("alertname=HindcastGatewayDown severity=critical class=pipeline owner=hindcast",
         "person-ada,person-ben,person-chi,channel-ops-ml"),
        ("alertname=HindcastIncident severity=critical class=incident owner=strangers model_name=m", "default"),
        ("alertname=HindcastDeadMansSwitch severity=none class=heartbeat owner=hindcast", "heartbeat"),
    ],
)  # fmt: skip
def test_alerts_go_where_severity_and_owner_say(labels: str, receivers: str) -> None:
    """A person's route is silent outside their shifts, which amtool does not look at."""
    config = f"--config.file={ALERTMANAGER}"
    ran("amtool", "config", "routes", "test", config, f"--verify.receivers={receivers}", *labels.split())


def test_secrets_are_files() -> None:
    text = ALERTMANAGER.read_text(encoding="utf-8")
    for key in ("slack_api_url", "routing_key", "smtp_auth_password"):
        assert f"{key}_file: {oncall.SECRETS}/" in text
        assert f"{key}: " not in text
