"""Incidents: which alerts belong together, how grave they are, and what they are called."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hindcast.incidents import group, incident_of, severity_of, symptom, title_of

Row = dict[str, Any]
START = datetime(2013, 4, 16, tzinfo=UTC)


def alert(
    opened: int,
    resolved: int | None,
    kind: str = "drift",
    severity: str = "warning",
    subject: str = "a",
    **changed: Any,
) -> Row:
    row = {
        "alert_id": f"{kind}-{subject}-{opened}", "model_name": "m", "kind": kind, "severity": severity,
        "subject": subject,
        "metric": "ks_statistic", "current_value": 0.4, "baseline_value": None, "change_percent": None,
        "opened_at": START + timedelta(hours=opened), "detected_at": START + timedelta(hours=opened + 1),
        "resolved_at": None if resolved is None else START + timedelta(hours=resolved),
    }  # fmt: skip
    return {**row, **changed}


def sizes(*alerts: Row) -> list[int]:
    return [len(members) for members in group(alerts)]


def test_alerts_that_are_open_together_are_one_incident() -> None:
    assert sizes(alert(1, 5), alert(5, 9), alert(9, 10)) == [3]
    assert sizes(alert(1, 5), alert(6, 9)) == [1, 1]
    assert sizes(alert(1, 20), alert(2, 3), alert(15, 16)) == [3], "the longest decides, not the last"
    assert sizes(alert(1, None), alert(90, 91), alert(200, None)) == [3]
    assert sizes() == []


spans_ = st.lists(st.tuples(st.integers(0, 60), st.none() | st.integers(1, 20)), max_size=12).map(
    lambda spans: [
        alert(a, None if d is None else a + d, subject=str(i))
        for i, (a, d) in enumerate(sorted(spans, key=lambda s: s[0]))
    ]
)


@given(spans_)
def test_groups_are_the_connected_stretches_of_time(alerts: list[Row]) -> None:
    groups = group(alerts)
    assert [a for members in groups for a in members] == alerts
    ends = [[a["resolved_at"] for a in members] for members in groups]
    for earlier, later in zip(ends, groups[1:], strict=False):
        assert None not in earlier
        assert max(earlier) < min(a["opened_at"] for a in later)
    for members in groups:
        for i, member in enumerate(members[1:], 1):
            before = [a["resolved_at"] for a in members[:i]]
            assert None in before or max(before) >= member["opened_at"]


def test_ten_features_of_one_hour_are_one_incident_named_by_the_gravest() -> None:
    members = [alert(3, 9, subject=f"f{i}") for i in range(9)] + [
        alert(3, 9, "quality", "critical", "f9", metric="missing_ratio")
    ]
    (found,) = group(members)
    row = incident_of(found)
    assert row["severity"] == "SEV3"
    assert row["title"] == "m: quality (critical): missing values (null, NaN or no column) of f9 0.4, and 9 more"
    assert (row["opened_at"], row["detected_at"]) == (START + timedelta(hours=3), START + timedelta(hours=4))
    assert len(json.loads(row["symptoms"])) == 10
    assert json.loads(row["metrics"]) == ["ks_statistic", "missing_ratio"]


def test_an_incident_is_resolved_with_its_last_alert() -> None:
    row = incident_of([alert(1, 5), alert(2, 9)])
    assert (row["state"], row["resolved_at"]) == ("resolved", START + timedelta(hours=9))
    row = incident_of([alert(1, 5), alert(2, None)])
    assert (row["state"], row["resolved_at"], row["resolution"]) == ("open", None, None)


def test_its_resolution_says_who_accepted_what() -> None:
    said = {"details": json.dumps({"resolution": "accepted by kim: new tariff"})}
    row = incident_of([alert(1, 5, **said), alert(2, 9, subject="b")])
    assert row["resolution"] == "a accepted by kim: new tariff; all others resolved by themselves"
    assert incident_of([alert(1, 5, **said)])["resolution"] == "a accepted by kim: new tariff"
    assert incident_of([alert(1, 5)])["resolution"] == "all alerts resolved by themselves"


def test_its_id_is_that_of_its_first_alert_and_model_and_stays_as_more_join() -> None:
    first = alert(1, None)
    ids = {
        incident_of(members)["incident_id"]
        for members in ([first], [first, alert(2, 3)], [{**first, "severity": "critical"}])
    }
    assert len(ids) == 1
    assert incident_of([{**first, "model_name": "n"}])["incident_id"] not in ids
    assert incident_of([alert(2, None)])["incident_id"] not in ids


@pytest.mark.parametrize(
    ("members", "severity"),
    [
        ([("drift", "warning", "a")], "SEV4"),
        ([("performance", "warning", "*"), ("quality", "warning", "a")], "SEV4"),
        ([("quality", "critical", "a")], "SEV3"),
        ([("performance", "critical", "carrier=HA")], "SEV3"),
        ([("drift", "warning", "a"), ("performance", "critical", "*")], "SEV2"),
        ([("performance", "critical", "*"), ("system", "critical", "*")], "SEV1"),
        ([("system", "warning", "*")], "SEV4"),
    ],
)
def test_severities(members: list[tuple[str, str, str]], severity: str) -> None:
    assert severity_of([alert(1, None, *member) for member in members]) == severity


def test_a_symptom_says_value_baseline_and_change_when_it_has_them() -> None:
    full = alert(
        1,
        None,
        "performance",
        "critical",
        "*",
        metric="accuracy",
        current_value=0.72,
        baseline_value=0.8,
        change_percent=-10.0,
    )
    assert symptom(full) == "performance (critical): accuracy 0.72 against 0.8 (-10 %)"
    assert symptom(alert(1, None)) == "drift (warning): Kolmogorov-Smirnov D of a 0.4"
    assert symptom(alert(1, None, current_value=None, metric="own_metric")) == "drift (warning): own_metric of a"
    zero = alert(1, None, "performance", subject="*", metric="error_rate", current_value=0.2, baseline_value=0.0)
    assert symptom(zero) == "performance (warning): requests that failed 0.2"


def test_the_whole_model_comes_before_a_segment_and_performance_before_drift() -> None:
    members = [
        alert(1, None, "drift"),
        alert(2, None, "performance", subject="carrier=HA"),
        alert(3, None, "performance", subject="*"),
    ]
    assert title_of(members).startswith("m: performance (warning): Kolmogorov-Smirnov D 0.4, and 2 more")
