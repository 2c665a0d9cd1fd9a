"""Alerts as a fold: one per onset, whatever the order of the findings and however often it is folded."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hindcast.alerts import REOPENS_WITHIN, RESOLVED_AFTER, acceptance_of, alert_id, due, fold
from hindcast.window import HOUR

Row = dict[str, Any]
START = datetime(2013, 4, 16, tzinfo=UTC)
HOURS = 120


def at(hour: int) -> datetime:
    return START + hour * HOUR


def finding(hour: int, subject: str = "a", **changed: Any) -> Row:
    row = {
        "model_name": "m", "check": "drift", "kind": "drift", "subject": subject, "segment": "*", "scale_hours": 1,
        "metric": "ks_statistic", "label_age_hours": 0, "value": 0.5 + hour / 1000, "baseline": None,
        "change_percent": None,
        "threshold": 0.1, "severity": "warning", "reason": f"at {hour}", "window_start": at(hour),
        "detected_at": at(hour + 1),
    }  # fmt: skip
    return {**row, **changed}


def judged(
    hours: range | list[int] = range(HOURS), check: str = "drift", age: int = 0
) -> dict[tuple[str, int], list[datetime]]:
    return {(check, age): [at(h) for h in hours]}


def spans(alerts: list[Row]) -> list[tuple[str, int, int, int | None]]:
    def hour(moment: datetime | None) -> int | None:
        return None if moment is None else int((moment - START) / HOUR)

    return [(a["subject"], hour(a["opened_at"]), hour(a["last_seen_at"]), hour(a["resolved_at"])) for a in alerts]


def test_an_alert_opens_at_the_end_of_its_window_and_resolves_after_exactly_three_quiet_ones() -> None:
    found = [finding(3), finding(4)]
    for until, resolved in ((5, None), (7, None), (8, 8), (20, 8)):
        (alert,) = fold(found, judged(range(until)), [])
        assert spans([alert]) == [("a", 4, 5, resolved)]
        assert alert["state"] == ("resolved" if resolved else "firing")
        assert (alert["detected_at"], alert["current_value"]) == (at(4), found[1]["value"])


def test_a_finding_among_the_quiet_windows_starts_the_count_again() -> None:
    assert spans(fold([finding(3), finding(6)], judged(range(9)), [])) == [("a", 4, 7, None)]
    assert spans(fold([finding(3), finding(6)], judged(range(10)), [])) == [("a", 4, 7, 10)]


def test_empty_and_unjudged_windows_are_not_quiet() -> None:
    night = [*range(6), *range(30, HOURS)]
    assert spans(fold([finding(3)], judged(night), [])) == [("a", 4, 4, 31)]
    assert spans(fold([finding(3)], {}, [])) == [("a", 4, 4, None)]
    assert spans(fold([finding(3)], judged(check="quality"), [])) == [("a", 4, 4, None)], "another check's windows"


def test_windows_are_counted_at_the_label_age_that_found_it() -> None:
    found = [finding(3, kind="performance", check="performance", label_age_hours=24)]
    both = judged(range(90), "performance", 0) | judged(range(6), "performance", 24)
    assert spans(fold(found, both, [])) == [("a", 4, 4, None)]
    both |= judged(range(7), "performance", 24)
    assert spans(fold(found, both, [])) == [("a", 4, 4, 7)]


def test_what_comes_back_within_a_day_re_opens_and_later_is_another_alert() -> None:
    resolved = 4 + RESOLVED_AFTER
    within = resolved + int(REOPENS_WITHIN / HOUR) - 1
    assert spans(fold([finding(3), finding(within)], judged(), [])) == [("a", 4, within + 1, within + 4)]
    later = fold([finding(3), finding(within + 1)], judged(), [])
    assert spans(later) == [("a", 4, 4, resolved), ("a", within + 2, within + 2, within + 5)]
    assert len({a["alert_id"] for a in later}) == 2


def test_subjects_and_kinds_have_their_own_alerts() -> None:
    found = [finding(3), finding(3, "b"), finding(3, kind="quality", check="drift")]
    assert [(a["kind"], a["subject"]) for a in fold(found, judged(), [])] == [
        ("drift", "a"),
        ("drift", "b"),
        ("quality", "a"),
    ]


def test_several_metrics_and_scales_of_a_subject_are_one_alert_with_the_gravest_word() -> None:
    found = [
        finding(3, scale_hours=6),
        finding(3, metric="wasserstein_normalized", severity="critical", value=9.0, reason="far"),
        finding(5, scale_hours=24), finding(5, metric="wasserstein_normalized", value=7.0),
    ]  # fmt: skip
    (alert,) = fold(found, judged(), [])
    assert (alert["metric"], alert["severity"], alert["current_value"]) == ("wasserstein_normalized", "critical", 7.0)
    for word in ('"scales_hours": [1, 6, 24]', '"windows": 2', '"onset": "far"', "ks_statistic"):
        assert word in alert["details"]


def test_ids_depend_on_what_the_alert_is_about_and_on_nothing_else() -> None:
    (alert,) = fold([finding(3)], judged(), [])
    assert alert["alert_id"] == alert_id("m", "drift", "a", "ks_statistic", at(4))
    assert len(alert["alert_id"]) == 16
    other = fold([finding(3, value=9.0, reason="other", severity="critical", detected_at=at(90))], judged(range(5)), [])
    assert other[0]["alert_id"] == alert["alert_id"]
    ids = {
        alert_id(*parts, at(0))
        for parts in (("m", "d", "a", "k"), ("md", "", "a", "k"), ("m", "da", "", "k"), ("m", "d", "ak", ""))
    }
    assert len(ids) == 4


def test_an_episode_that_overlaps_a_published_one_keeps_its_id_onset_and_detection() -> None:
    published = fold([finding(6)], judged(range(8)), [])
    again = fold([finding(4), finding(6), finding(7)], judged(range(9)), published)
    assert [(a["alert_id"], a["opened_at"], a["detected_at"]) for a in again] == [
        (published[0]["alert_id"], at(7), at(7))
    ]
    assert again[0]["last_seen_at"] == at(8)


def test_an_episode_elsewhere_or_of_another_subject_takes_no_published_id() -> None:
    published = fold([finding(6)], judged(range(40)), [])
    assert published[0]["resolved_at"] == at(10)
    assert fold([finding(50)], judged(), published)[0]["alert_id"] == alert_id(
        "m", "drift", "a", "ks_statistic", at(51)
    )
    assert fold([finding(6, "b")], judged(), published)[0]["alert_id"] == alert_id(
        "m", "drift", "b", "ks_statistic", at(7)
    )


def test_a_published_alert_that_is_split_gives_its_id_to_one_part_only() -> None:
    published = fold([finding(h) for h in range(3, 60)], judged(), [])
    split = fold([finding(3), finding(50)], judged(), published)
    assert len(split) == len({a["alert_id"] for a in split}) == 2
    assert split[0]["alert_id"] == published[0]["alert_id"]


def test_two_published_alerts_that_become_one_give_it_the_older_id() -> None:
    published = fold([finding(3), finding(60)], judged(), [])
    assert len(published) == 2
    joined = fold([finding(h) for h in range(3, 61, 10)], judged(), published)
    assert [a["alert_id"] for a in joined] == [published[0]["alert_id"]]


found_ = st.lists(
    st.builds(
        finding,
        st.integers(0, 90),
        st.sampled_from("ab"),
        metric=st.sampled_from(["ks_statistic", "phi_squared"]),
        scale_hours=st.sampled_from([1, 6, 24]),
        severity=st.sampled_from(["warning", "critical"]),
    ),
    max_size=25,
    unique_by=lambda f: (f["window_start"], f["subject"], f["metric"], f["scale_hours"]),
)
windows_ = st.sets(st.integers(0, 110)).map(sorted)


@given(found_, windows_, st.randoms(use_true_random=False))
def test_the_order_of_the_findings_does_not_matter(found: list[Row], windows: list[int], random: Any) -> None:
    shuffled = list(found)
    random.shuffle(shuffled)
    assert fold(shuffled, judged(windows), []) == fold(found, judged(windows), [])


@given(found_, windows_)
def test_folding_again_changes_nothing(found: list[Row], windows: list[int]) -> None:
    alerts = fold(found, judged(windows), [])
    assert fold(found, judged(windows), alerts) == alerts


@given(found_, windows_)
def test_every_finding_lies_in_exactly_one_alert_and_no_two_of_a_subject_overlap(
    found: list[Row], windows: list[int]
) -> None:
    alerts = fold(found, judged(windows), [])
    assert len({a["alert_id"] for a in alerts}) == len(alerts)
    for row in found:
        if row["scale_hours"] > 1:
            continue  # it may be an echo, see below
        end = row["window_start"] + HOUR
        holding = [a for a in alerts if a["subject"] == row["subject"] and a["opened_at"] <= end <= a["last_seen_at"]]
        assert len(holding) == 1
    for subject in "ab":
        mine = [a for a in alerts if a["subject"] == subject]
        assert sum(a["state"] == "firing" for a in mine) <= 1
        assert all(a["resolved_at"] and b["opened_at"] > a["resolved_at"] + REOPENS_WITHIN for a, b in pairwise(mine))
        assert all(a["opened_at"] <= a["last_seen_at"] < (a["resolved_at"] or at(10_000)) for a in mine)


@given(found_, windows_, st.integers(0, 110))
def test_hour_by_hour_gives_the_ids_and_onsets_of_once_for_all(found: list[Row], windows: list[int], jump: int) -> None:
    published: list[Row] = []
    for now in (jump, 120):
        seen = [f for f in found if f["window_start"] <= at(now)]
        published = fold(seen, judged([w for w in windows if w <= now]), published)
    assert published == fold(found, judged(windows), [])


@given(found_, found_, windows_)
def test_another_fold_of_other_findings_never_shares_an_id(
    found: list[Row], other: list[Row], windows: list[int]
) -> None:
    published = fold(found, judged(windows), [])
    alerts = fold(other, judged(windows), published)
    assert len({a["alert_id"] for a in alerts}) == len(alerts)


def test_longer_windows_that_only_hold_the_bad_hour_prolong_nothing() -> None:
    echoes = [finding(h, scale_hours=6) for h in range(4, 9)]
    assert spans(fold([finding(3), *echoes], judged(), [])) == [("a", 4, 4, 7)]
    assert spans(fold([finding(3), *echoes, finding(9, scale_hours=6)], judged(), [])) == [("a", 4, 10, 13)]
    assert spans(fold([*echoes, finding(8)], judged(), [])) == [("a", 5, 9, 12)], "what came before is no echo"
    assert spans(fold([finding(3), *[finding(h, "b", scale_hours=6) for h in range(4, 9)]], judged(), [])) == [
        ("a", 4, 4, 7), ("b", 5, 9, 12),
    ]  # fmt: skip


def test_what_is_published_is_not_changed_in_place() -> None:
    published = fold([finding(3)], judged(range(5)), [])
    before = [dict(row) for row in published]
    fold([finding(3), finding(4)], judged(), published)
    assert published == before


@pytest.mark.parametrize("quiet", range(5))
def test_a_gap_of_three_judged_windows_resolves_and_a_shorter_one_does_not(quiet: int) -> None:
    later = 4 + quiet + int(REOPENS_WITHIN / HOUR) + RESOLVED_AFTER
    windows = [3, *range(4, 4 + quiet), later]
    alerts = fold([finding(3), finding(later)], judged(windows), [])
    assert len(alerts) == (2 if quiet >= RESOLVED_AFTER else 1)
    assert alerts[0]["opened_at"] - timedelta(hours=4) == START


# --- accepted, planned


def acceptance(hour: int, subject: str = "a", **changed: Any) -> Row:
    row = {"kind": "drift", "subject": subject, "accepted_at": at(hour), "actor": "kim", "reason": "so be it"}
    return {**row, "alert_id": "x", **changed}


def test_an_accepted_alert_ends_at_that_moment_and_what_comes_later_is_another() -> None:
    found = [finding(h) for h in range(3, 30)]
    first, second = fold(found, judged(), [], acceptances=[acceptance(20)])
    assert spans([first, second]) == [("a", 4, 20, 20), ("a", 21, 30, 33)]
    assert '"resolution": "accepted by kim: so be it"' in first["details"]
    assert "resolution" not in second["details"]


def test_an_acceptance_of_what_is_not_open_or_of_another_subject_or_limit_ends_nothing() -> None:
    found, plain = [finding(3)], fold([finding(3)], judged(), [])
    for other in (acceptance(2), acceptance(7), acceptance(50), acceptance(5, "b"), acceptance(5, kind="quality")):
        assert fold(found, judged(), [], acceptances=[other]) == plain, other
    limit = [finding(h, kind="quality", metric="missing_ratio") for h in range(3, 9)]
    assert fold(limit, judged(), [], acceptances=[acceptance(5, kind="quality")]) == fold(limit, judged(), [])


def test_planned_findings_open_and_prolong_nothing_and_planned_windows_are_not_quiet() -> None:
    sale = {"planned": "sale"}
    assert fold([finding(3, **sale)], judged(), []) == []
    found = [finding(3), *(finding(h, severity="critical", **sale) for h in range(4, 10))]

    def planned(subject: str, start: datetime, _scale: int) -> str:
        return "sale" if subject == "a" and at(4) <= start < at(10) else ""

    (alert,) = fold(found, judged(), [], planned=planned)
    assert (spans([alert]), alert["severity"]) == ([("a", 4, 4, 13)], "warning")


accepted_ = st.lists(st.builds(acceptance, st.integers(0, 110), st.sampled_from("ab")), max_size=3)


@given(found_, windows_, accepted_, st.integers(0, 110))
def test_acceptances_too_give_hour_by_hour_what_they_give_at_once(
    found: list[Row], windows: list[int], acceptances: list[Row], jump: int
) -> None:
    published: list[Row] = []
    for now in (jump, 120):
        seen = [f for f in found if f["window_start"] <= at(now)]
        known = [row for row in acceptances if row["accepted_at"] <= at(now) + HOUR]
        published = fold(seen, judged([w for w in windows if w <= now]), published, acceptances=known)
    assert published == fold(found, judged(windows), [], acceptances=acceptances)


def test_what_is_open_long_enough_is_due_once() -> None:
    alerts = fold([*(finding(h) for h in range(3, 60)), finding(3, "b")], judged(), [])
    after = {"drift": 24}
    assert [a["subject"] for a in due(alerts, at(27), after, [])] == []
    (ripe,) = due(alerts, at(28), after, [])
    row = acceptance_of(ripe, at(28), automatic=True, actor="hindcast", reason="")
    assert (row["since"], row["accepted_at"], row["alert_id"]) == (at(3), at(28), ripe["alert_id"])
    assert due(alerts, at(29), after, [row]) == []
    assert due(alerts, at(29), {"drift": None}, []) == due(alerts, at(29), {}, []) == []
    limit = fold([finding(h, kind="quality", metric="missing_ratio") for h in range(3, 60)], judged(), [])
    assert due(limit, at(50), {"quality": 24}, []) == []
