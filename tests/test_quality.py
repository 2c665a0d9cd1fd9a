"""Quality: the profile row, expectations judged by Great Expectations, the page, and what is worth an alert."""

from __future__ import annotations

import gc
import io
import re
import socket
import tempfile
from datetime import timedelta
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import pdtr

from hindcast import datadocs
from hindcast.config import Feature, ModelFile
from hindcast.metrics import METRICS
from hindcast.profile.bins import Bins
from hindcast.profile.scan import Expected, Scanner
from hindcast.quality import LARGE, Rule, WindowFacts, assess, profile_row, quality_findings, usual_volume
from hindcast.results.tables import STATUSES
from hindcast.window import Window

if TYPE_CHECKING:
    from pathlib import Path

    from hindcast.profile.profile import Profile

WINDOW = Window.parse("2013-04-16T15")
FEATURES = {
    "amount": Feature(type="numeric", min=0, max=100, max_missing=0.1),
    "carrier": Feature(type="categorical", values=("AA", "UA"), max_missing=0.0),
}
ROWS = 100


def model(**keys: Any) -> ModelFile:
    given = {"model": "m", "task": "binary", "logs": {"uri": "."}, "reference": {"uri": "."}}
    return ModelFile.model_validate(given | keys)


def scan(*tables: pa.Table, features: dict[str, Feature] = FEATURES) -> Profile:
    """Profile of the tables, one file each, with the limits of `features`."""
    numeric = tuple(f"feature_{n}" for n, f in features.items() if f.type == "numeric")
    categorical = tuple(f"feature_{n}" for n, f in features.items() if f.type == "categorical")
    bins = Bins(numeric, (np.array([0.0, 50, 100]),) * len(numeric), categorical, (("AA", "UA"),) * len(categorical))
    expected = Expected(
        {f"feature_{n}": (f.min, f.max) for n, f in features.items()},
        {f"feature_{n}": frozenset(map(str, f.values)) for n, f in features.items() if f.values is not None},
    )
    scanner = Scanner(bins, expected)
    for table in tables:
        file = io.BytesIO()
        pq.write_table(table, file)
        scanner.read(pq.ParquetFile(file))
    return scanner.profile


def log(amount: Any = None, carrier: Any = None, n: int = ROWS) -> pa.Table:
    """A sound log of n rows, but for the columns given."""
    amount = [50.0] * n if amount is None else amount
    return pa.table({"feature_amount": amount, "feature_carrier": ["AA"] * n if carrier is None else carrier})


def facts(rows: int = ROWS, **keys: Any) -> WindowFacts:
    given = {"duplicate_ids": 0, "misplaced_rows": 0, "newest": WINDOW.end - timedelta(minutes=1), "unreadable": 0}
    return WindowFacts(WINDOW, rows, **(given | {"usual_rows": (90, 100, 110)} | keys))


def judged(profile: Profile, known: WindowFacts | None = None, **keys: Any) -> dict[tuple[str, str], dict[str, Any]]:
    """Rows of the quality table by subject and metric."""
    features = keys.pop("features", FEATURES)
    rows = assess(model(**keys), features, profile, known or facts(profile.rows), docs=False).rows
    by_key = {(row["subject"], row["metric"]): row for row in rows}
    assert len(by_key) == len(rows), "the table's key is subject and metric"
    for row in rows:
        assert row["status"] in STATUSES
        assert METRICS[row["metric"]].family == "quality"
        assert row["reason"] or (row["value"] is not None and row["status"] == "ok")
    return by_key


def found(profile: Profile, known: WindowFacts | None = None, *, confirmed: bool = True, **keys: Any) -> dict[Any, str]:
    """Severity of the findings by subject and metric."""
    known = known or facts(profile.rows)
    rows = list(judged(profile, known, **keys).values())
    findings = quality_findings(rows, profile, known, confirmed=confirmed)
    assert all(f["reason"] and f["baseline"] is None for f in findings)
    return {(f["subject"], f["metric"]): f["severity"] for f in findings}


def test_a_sound_window_meets_every_expectation() -> None:
    profile = scan(log())
    assessment = assess(model(), FEATURES, profile, facts(), docs=False)
    assert {row["status"] for row in assessment.rows} == {"ok"}
    assert assessment.success_ratio == 1
    assert assessment.page is None
    assert quality_findings(assessment.rows, profile, facts()) == []


def test_rows_without_a_value_are_counted_once_whatever_the_way_they_lack_it() -> None:
    """Null, NaN, and a file without the column."""
    amounts = pa.array([1.0] * 6 + [None, float("nan")])
    profile = scan(log(amounts, n=8), pa.table({"feature_carrier": ["AA"] * 2}))
    row = profile_row(FEATURES, profile, facts(10))
    assert row["amount.missing_ratio"] == pytest.approx(0.4)
    assert row["amount.column_present"] == pytest.approx(0.8)


def test_ratios_of_faulty_values_are_of_all_rows() -> None:
    amounts = [-1.0] * 3 + [101.0] * 4 + [float("inf")] * 2 + [-float("inf")] + [5.0] * 90
    row = profile_row(FEATURES, scan(log(amounts, ["AA"] * 95 + ["ZZ"] * 5)), facts())
    assert row["amount.below_min_ratio"] == pytest.approx(0.03)
    assert row["amount.above_max_ratio"] == pytest.approx(0.04)
    assert row["amount.non_finite_ratio"] == pytest.approx(0.03)
    assert row["carrier.unexpected_value_ratio"] == pytest.approx(0.05)


def test_faulty_values_fail_with_a_reason_that_names_them() -> None:
    rows = judged(scan(log([-7.0] * 10 + [5.0] * 90, ["AA"] * 95 + ["ZZ"] * 3 + ["YY"] * 2)))
    below, unexpected = rows["amount", "below_min_ratio"], rows["carrier", "unexpected_value_ratio"]
    assert (below["status"], below["threshold"], below["expectation"]) == ("failed", 0, datadocs.LIMITS)
    assert "10 of 100 rows" in below["reason"]
    assert "smallest: -7" in below["reason"]
    assert "'ZZ' (3), 'YY' (2)" in unexpected["reason"]


def test_values_that_are_kept_private_are_not_named() -> None:
    private = {"carrier": FEATURES["carrier"].model_copy(update={"store_values": False})}
    profile = scan(log(carrier=["secret"] * ROWS), features=private)
    rows = judged(profile, features=private)
    assert rows["carrier", "unexpected_value_ratio"]["status"] == "failed"
    assert "secret" not in str(rows)


def test_a_missing_column_is_one_critical_finding() -> None:
    profile = scan(pa.table({"feature_carrier": ["AA"] * ROWS}))
    rows = judged(profile)
    assert {row["status"] for (subject, _), row in rows.items() if subject == "amount"} == {"missing_column"}
    assert rows["amount", "column_present"]["value"] == 0
    assert rows["amount", "missing_ratio"]["value"] is None
    assert rows["carrier", "missing_ratio"]["status"] == "ok"
    assert found(profile) == {("amount", "column_present"): "critical"}


def test_a_column_that_some_files_lack_fails() -> None:
    profile = scan(log(n=60), pa.table({"feature_carrier": ["AA"] * 40}))
    row = judged(profile)["amount", "column_present"]
    assert (row["status"], row["value"]) == ("failed", pytest.approx(0.6))
    assert found(profile)["amount", "column_present"] == "warning"


def test_text_in_a_numeric_column_is_a_changed_type() -> None:
    profile = scan(log(amount=["12"] * ROWS))
    rows = judged(profile)
    assert rows["amount", "column_type"]["status"] == "type_changed"
    assert "string (100 rows)" in rows["amount", "column_type"]["reason"]
    assert rows["amount", "below_min_ratio"]["value"] is None
    assert found(profile) == {("amount", "column_type"): "critical"}


@pytest.mark.parametrize("amount", [pa.array([5] * ROWS, pa.int8()), pa.array([5] * ROWS).cast(pa.decimal128(21, 2))])
def test_any_number_suits_a_numeric_column(amount: pa.Array) -> None:
    assert judged(scan(log(amount)))["amount", "column_type"]["status"] == "ok"


def test_a_number_suits_a_categorical_column_and_a_list_does_not() -> None:
    assert judged(scan(log(carrier=[1] * ROWS)))["carrier", "column_type"]["status"] == "ok"
    assert judged(scan(log(carrier=[[1]] * ROWS)))["carrier", "column_type"]["status"] == "type_changed"


def test_a_column_of_nulls_is_all_null_and_critical_from_five_rows_on() -> None:
    for kind in (pa.null(), pa.float64()):
        row = judged(scan(log(pa.nulls(ROWS, kind))))["amount", "missing_ratio"]
        assert (row["status"], row["value"], row["threshold"]) == ("all_null", 1, 0.1)
    assert found(scan(log(pa.nulls(5), n=5)))["amount", "missing_ratio"] == "critical"
    assert found(scan(log(pa.nulls(4), n=4)), facts(4, usual_rows=())) == {}


def test_missing_values_without_a_limit_are_recorded_and_not_judged() -> None:
    free = {"amount": Feature(type="numeric")}
    profile = scan(log(pa.nulls(ROWS, pa.float64())), features=free)
    row = judged(profile, features=free)["amount", "missing_ratio"]
    assert (row["value"], row["threshold"], row["status"], row["expectation"]) == (1, None, "all_null", None)
    assert found(profile, features=free) == {}


def test_a_feature_without_bins_cannot_be_judged() -> None:
    rows = judged(scan(log()), features=FEATURES | {"other": Feature(type="numeric")})
    assert {row["status"] for (subject, _), row in rows.items() if subject == "other"} == {"insufficient_data"}


def test_a_column_that_nobody_knows_is_reported_and_wakes_nobody() -> None:
    known = facts(unknown_columns=("feature_extra", "feature_amount"))
    rows = judged(scan(log()), known)
    assert rows["extra", "column_present"]["status"] == "new_column"
    assert rows["amount", "column_present"]["status"] == "ok"
    assert found(scan(log()), known) == {}


def test_of_an_empty_window_only_the_volume_is_judged() -> None:
    rows = judged(scan(), facts(0, newest=None))
    assert list(rows) == [("*", "row_count")]
    assert rows["*", "row_count"]["status"] == "failed"
    assert judged(scan(), facts(0, usual_rows=(0, 2, 0)))["*", "row_count"]["status"] == "ok"
    assert judged(scan(), facts(0, usual_rows=(50, 50)))["*", "row_count"]["status"] == "insufficient_data"


def test_nothing_judged_has_no_success_ratio() -> None:
    assert assess(model(), FEATURES, scan(), facts(0, usual_rows=()), docs=False).success_ratio is None


def test_an_empty_hour_is_critical_where_there_were_always_many_rows() -> None:
    assert found(scan(), facts(0, usual_rows=(LARGE, 30, 40))) == {("*", "row_count"): "critical"}
    assert found(scan(), facts(0, usual_rows=(LARGE - 1, 30, 40))) == {("*", "row_count"): "warning"}
    assert found(scan(), facts(0, usual_rows=(11, 11, 11))) == {}
    assert found(scan(log()), facts(usual_rows=(20, 20, 20))) == {("*", "row_count"): "warning"}


def test_window_facts_are_judged_by_the_model_file() -> None:
    known = facts(duplicate_ids=6, misplaced_rows=6, unreadable=1, newest=WINDOW.start)
    rows = judged(scan(log()), known, quality={"max_duplicates": 0.05, "max_misplaced": 0.1})
    statuses = {metric: rows["*", metric]["status"] for subject, metric in rows if subject == "*"}
    assert statuses == {
        "row_count": "ok",
        "unreadable_objects": "failed",
        "duplicate_ratio": "failed",
        "misplaced_ratio": "ok",
        "freshness_minutes": "failed",
    }
    expected = {("*", "duplicate_ratio"): "warning", ("*", "unreadable_objects"): "critical"}
    assert found(scan(log()), known, quality={"max_duplicates": 0.05, "max_misplaced": 0.1}) == expected


def test_facts_that_the_log_lacks_are_insufficient_data() -> None:
    rows = judged(scan(log()), facts(duplicate_ids=None, newest=None))
    for metric in ("duplicate_ratio", "freshness_minutes"):
        assert (rows["*", metric]["status"], rows["*", metric]["value"]) == ("insufficient_data", None)


def test_a_small_hour_may_end_early() -> None:
    late = facts(newest=WINDOW.start, usual_rows=(19, 100, 100))
    assert judged(scan(log()), late)["*", "freshness_minutes"]["status"] == "insufficient_data"


def test_a_ratio_alerts_from_two_points_and_five_rows_beyond_its_threshold() -> None:
    def missing(rows: int, n: int) -> dict[Any, str]:
        return found(scan(log(pa.array([None] * rows + [1.0] * (n - rows)), n=n)), facts(n, usual_rows=()))

    assert missing(12, 100) == {("amount", "missing_ratio"): "warning"}
    assert missing(11, 100) == {}, "one point beyond 0.1"
    assert missing(4, 10) == {}, "four rows"
    assert missing(5, 10) == {("amount", "missing_ratio"): "warning"}


def test_inferred_limits_wake_nobody_but_for_the_schema_and_lost_values() -> None:
    amounts = pa.array([None] * 20 + [500.0] * 80)
    assert set(found(scan(log(amounts)))) == {("amount", "missing_ratio"), ("amount", "above_max_ratio")}
    assert found(scan(log(amounts)), confirmed=False) == {}
    lost = scan(log(pa.nulls(ROWS)))
    assert found(lost, confirmed=False) == {("amount", "missing_ratio"): "critical"}
    often = {"amount": Feature(type="numeric", max_missing=0.2)}
    assert found(scan(log(pa.nulls(ROWS)), features=often), features=often, confirmed=False) == {}
    gone = scan(pa.table({"feature_carrier": ["AA"] * ROWS}))
    assert found(gone, confirmed=False) == {("amount", "column_present"): "critical"}


@given(st.lists(st.integers(0, 10**6), min_size=3, max_size=8))
def test_usual_rows_are_within_their_own_bounds(rows: list[int]) -> None:
    low, high = usual_volume(rows) or (np.inf, -np.inf)
    assert 0 <= low <= min(rows)
    assert max(rows) <= high
    assert usual_volume(rows[::-1]) == (low, high)


def test_chance_leaves_the_usual_volume_once_in_ten_thousand_hours() -> None:
    for mean in range(500):
        low, high = usual_volume((mean, mean, mean)) or (np.inf, -np.inf)
        assert low == 0 or pdtr(np.ceil(low) - 1, mean) <= 1e-4
        assert 1 - pdtr(high, mean) <= 1e-4


@settings(max_examples=10, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 0.01, 0.5, 1.0]), st.sampled_from([0.0, 0.01, 0.5])), min_size=1, max_size=9
    )
)
def test_great_expectations_decides_as_the_comparison_does(cases: list[tuple[float, float]]) -> None:
    rules = [Rule(f"f{i}", "missing_ratio", high=limit) for i, (_, limit) in enumerate(cases)]
    rules += [Rule(f"f{i}", "column_present", low=limit) for i, (_, limit) in enumerate(cases)]
    rules += [Rule(f"f{i}", "row_count", low=limit, high=0.5) for i, (_, limit) in enumerate(cases)]
    row = {rule.column: cases[int(rule.subject[1:])][0] for rule in rules}
    outcomes = datadocs.validate(rules, row)
    for rule in rules:
        value = row[rule.column]
        met = (rule.low is None or value >= rule.low) and (rule.high is None or value <= rule.high)
        assert outcomes[rule.column].success == met
        assert outcomes[rule.column].error is None


def test_a_value_that_is_no_number_meets_nothing() -> None:
    rules = [Rule("a", "missing_ratio", high=0.5), Rule("b", "column_present", low=0.5), Rule("c", "row_count", 0, 1)]
    assert not any(found.success for found in datadocs.validate(rules, {r.column: np.nan for r in rules}).values())


def test_an_exception_inside_a_result_is_an_error_and_not_a_failure() -> None:
    rules = [Rule("a", "missing_ratio", high=0.0), Rule("b", "missing_ratio", high=0.0)]
    outcomes = datadocs.validate(rules, {"a.missing_ratio": "half", "b.missing_ratio": 0.0})  # type: ignore[dict-item]
    assert not any(outcome.success for outcome in outcomes.values())
    assert "str" in (outcomes["a.missing_ratio"].error or "")


class _Reader(HTMLParser):
    """Collects what a browser would make of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.remote: list[str] = []
        self.handlers: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in {"src", "href", "action"} and not (value or "").startswith("#"):
                self.remote.append(f"{tag} {name}={value}")
            if name.startswith("on"):
                self.handlers.append(name)

    def handle_data(self, data: str) -> None:
        self.text += data


def read(page: str) -> _Reader:
    reader = _Reader()
    reader.feed(page)
    return reader


def test_the_page_shows_every_evaluated_expectation_and_needs_no_network() -> None:
    profile = scan(log([500.0] * 30 + [5.0] * 70))
    assessment = assess(model(model="flights"), FEATURES, profile, facts())
    reader = read(assessment.page or "")
    assert reader.remote == []
    assert reader.handlers == []
    assert not {"script", "link", "img", "iframe"} & set(reader.tags)
    assert "url(" not in (assessment.page or "")
    assert "30 of 100 rows (30.0%)" in reader.text
    assert "Great Expectations Version" in reader.text
    assert re.search(r"Evaluated Expectations\s*15\b", reader.text)
    assert re.search(r"Unsuccessful Expectations\s*1\b", reader.text)
    assert "flights / window 2013-04-16T15:00Z" in reader.text


def test_the_page_of_the_same_window_is_the_same() -> None:
    pages = {assess(model(), FEATURES, scan(log()), facts()).page for _ in range(2)}
    assert len(pages) == 1


HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "$PARAMETER ${x} $$",
    "{{7*7}}",
    "a\u202eb\x00",
    "*",
    "a.b",
]


def test_hostile_names_and_values_are_shown_and_never_run() -> None:
    features = dict.fromkeys(HOSTILE, FEATURES["carrier"])
    table = pa.table({f"feature_{name}": HOSTILE * 2 for name in HOSTILE})
    profile = scan(table, features=features)
    assessment = assess(model(), features, profile, facts(profile.rows, unknown_columns=("feature_<b>",)))
    page = assessment.page or ""
    reader = read(page)
    assert not {"script", "img", "b"} & set(reader.tags)
    assert reader.handlers == []
    for name in HOSTILE[:4]:
        assert name in reader.text
    assert not {"\x00", "\u202e"} & set(page)
    failed = {
        row["subject"]
        for row in assessment.rows
        if row["metric"] == "unexpected_value_ratio" and row["status"] == "failed"
    }
    assert failed == set(HOSTILE)


def test_an_error_is_shown_on_the_page_escaped() -> None:
    rows = judged(scan(log()))
    row = rows["amount", "missing_ratio"] | {"status": "error", "reason": "Great Expectations: <script>"}
    page = datadocs.page(
        "m", WINDOW, [row], {"amount.missing_ratio": datadocs.Outcome(success=False, error="<script>")}
    )
    assert "script" not in read(page).tags
    assert "raised an exception" in page


def test_twenty_windows_leave_no_objects_and_no_files_behind_and_open_no_connection(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*_: object) -> None:
        message = "the quality check opened a connection"
        raise AssertionError(message)

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    datadocs._batch_definition.cache_clear()
    profile, known = scan(log()), facts()

    def objects(calls: int) -> int:
        for _ in range(calls):
            assess(model(), FEATURES, profile, known)
        gc.collect()
        return len(gc.get_objects())

    first = objects(5)
    assert objects(20) - first < 80, "four objects a window would already be more than none"
    assert list(tmp_path.iterdir()) == []
