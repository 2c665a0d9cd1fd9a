"""Report pages: what they say, that they request nothing, and that no name from the logs escapes from them."""

from __future__ import annotations

import math
import os
import random
import re
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hindcast.config import ModelFile
from hindcast.errors import UsageError
from hindcast.report import charts, pages, reading, sections, verdict, words
from hindcast.results import tables
from hindcast.results.sql import Store
from hindcast.window import HOUR, Window

Row = dict[str, Any]
HOSTILE = "</script><img src=x onerror=alert(1)>"
END = datetime(2013, 4, 16, 16, tzinfo=UTC)
START = END - timedelta(days=14)
ONSET = END - 6 * HOUR
NUMERIC = ("dep_hour", "distance", "humidity", "pressure", "temp", "visibility", "wind_gust", "wind_speed", HOSTILE)
CATEGORICAL = ("carrier", "dest", "origin")
CHECKS = ("quality", "drift", "performance", "importance", "triage")
DASH, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"
CHROMIUM = Path("/usr/bin/chromium")


def model_file(**more: Any) -> ModelFile:
    content = {
        "model": "flights_delay",
        "owner": {"team": "ops-ml", "oncall": "ops-ml-oncall"},
        "task": "binary",
        "logs": {"uri": "file:///logs"},
        "reference": {"uri": "file:///reference.parquet"},
        "segments": ["carrier"],
        "explain": {"model": {"uri": "file:///model.txt", "format": "lightgbm"}},
        "schedule": {"timezone": "America/New_York"},
    }
    return ModelFile.model_validate(content | more)


MODEL = model_file()


def flights(moment: datetime) -> int:
    """Rows of an hour: nothing flies at night."""
    return 0 if 6 <= moment.hour <= 9 else round(60 + 30 * math.sin((moment.hour - 10) / 4))


def two_weeks() -> dict[str, list[Row]]:
    """Every table of one model over two weeks: delays rise and the visibility drops in the last six hours."""
    noise = random.Random(20130416)  # noqa: S311 - the same rows every time
    found: dict[str, list[Row]] = {
        name: [] for name in ("windows", "checks", "quality", "drift", "performance", "importance")
    }
    moment = START
    while moment < END:
        key = {"model_name": "flights_delay", "window_start": moment}
        n = flights(moment)
        as_of = moment + HOUR + timedelta(minutes=10)
        found["windows"].append(
            key
            | {
                "window_end": moment + HOUR,
                "as_of": as_of,
                "rows": n,
                "bytes": 900 * n,
                "manifest_digest": f"{moment:%m%d%H}abcdef",
            }
            | {
                "config_digest": MODEL.digest,
                "status": "ok" if n else "empty",
                "reason": None,
                "model_version": "v7" if n else None,
            }
        )
        if n:
            found["checks"] += [key | {"check": check, "status": "ok", "as_of": as_of} for check in CHECKS]
            found["performance"] += performance_rows(key, n, as_of, noise)
            found["drift"] += drift_rows(key, n, noise)
        moment += HOUR
    found["quality"] = quality_rows()
    found["importance"] = importance_rows()
    return found


def performance_rows(key: Row, n: int, as_of: datetime, noise: random.Random) -> list[Row]:
    bad = key["window_start"] >= ONSET
    rows = []
    for age in (0, 6, 24):
        if key["window_start"] + (age + 1) * HOUR > END + HOUR:
            continue
        coverage = {0: 0.12, 6: 0.7, 24: 0.98}[age]
        for segment, share in (("*", 1.0), ("carrier=AA", 0.3), ("carrier=UA", 0.25), (f"carrier={HOSTILE}", 0.1)):
            labelled = round(n * share * coverage)
            accuracy = (
                (0.70 if bad else 0.82) - (0.08 if bad and segment == "carrier=AA" else 0) + noise.gauss(0, 0.015)
            )
            values = {"accuracy": (accuracy, 0.82, 0.05), "roc_auc": (accuracy - 0.05, 0.77, 0.06)}
            if segment == "*":
                values |= {
                    "latency_p95_ms": (42 + noise.gauss(0, 3), 41.0, 4.0),
                    "request_count": (float(n), 60.0, None),
                }
                values |= {"error_rate": (abs(noise.gauss(0.004, 0.002)), 0.004, 0.003)}
            for metric, (value, baseline, half) in values.items():
                few = metric in {"accuracy", "roc_auc"} and labelled < 5
                row = key | {"model_version": "v7", "segment": segment, "metric": metric, "label_age_hours": age}
                row |= {
                    "estimated": False,
                    "label_coverage": coverage,
                    "as_of": as_of,
                    "n": labelled,
                    "config_digest": "c",
                }
                if few:
                    row |= {"status": "insufficient_data", "reason": f"{labelled} labels, 5 are needed"}
                else:
                    row |= {
                        "status": "ok",
                        "value": value,
                        "baseline": baseline,
                        "change_percent": 100 * (value - baseline) / baseline,
                    }
                    row |= {"lower": value - half, "upper": value + half} if half else {}
                rows.append(row)
    return rows


def drift_rows(key: Row, n: int, noise: random.Random) -> list[Row]:
    rows = []
    bad = key["window_start"] >= ONSET
    for feature in NUMERIC + CATEGORICAL:
        policy = "phi_squared" if feature in CATEGORICAL else "ks_statistic"
        textbook = "chi2_statistic" if feature in CATEGORICAL else "wasserstein_normalized"
        for baseline in ("seasonal", "reference"):
            size = abs(noise.gauss(0.08, 0.03)) + (0.45 if bad and feature in {"visibility", HOSTILE} else 0)
            for metric in (policy, textbook, "population_stability_index", "jensen_shannon_distance"):
                row = key | {
                    "model_version": "v7",
                    "segment": "*",
                    "feature": feature,
                    "baseline": baseline,
                    "scale_hours": 1,
                }
                row |= {"metric": metric, "n_current": n, "n_baseline": 4 * n, "config_digest": "c"}
                if feature == "wind_gust" and metric == policy:
                    row |= {"status": "insufficient_data", "reason": "the threshold reaches 1: no test has power"}
                else:
                    row |= {"status": "ok", "value": size, "p_value": 1e-9 if size > 0.3 else 0.2}
                    row |= {"threshold": 0.25, "drifted": size > 0.25} if metric == policy else {}
                rows.append(row)
    return rows


def quality_rows() -> list[Row]:
    key = {"model_name": "flights_delay", "model_version": "v7", "window_start": END - HOUR, "config_digest": "c"}
    rows = [
        key | {"subject": f, "metric": "missing_ratio", "value": 0.01, "threshold": 0.05, "status": "ok"}
        for f in NUMERIC + CATEGORICAL
        if f != "visibility"
    ]
    rows.append(
        key | {"subject": "visibility", "metric": "missing_ratio", "value": 0.31, "threshold": 0.05, "status": "failed"}
    )
    rows.append(
        key
        | {
            "subject": "gate",
            "metric": "column_present",
            "status": "missing_column",
            "reason": "no column feature_gate",
        }
    )
    return [
        *rows,
        key
        | {
            "subject": "*",
            "metric": "row_count",
            "status": "insufficient_data",
            "reason": "2 earlier weeks are needed",
        },
    ]


def importance_rows() -> list[Row]:
    key = {
        "model_name": "flights_delay",
        "model_version": "v7",
        "window_start": END - HOUR,
        "n": 56,
        "config_digest": "c",
        "status": "ok",
    }
    ranked = [HOSTILE, "visibility", "temp", "dep_hour", "carrier", "distance"]
    rows = [
        key | {"feature": feature, "importance": 0.4 / rank, "lower": 0.3 / rank, "upper": 0.5 / rank, "rank": rank}
        for rank, feature in enumerate(ranked, 1)
    ]
    return [*rows, key | {"feature": "gate", "status": "missing_column", "reason": "no column feature_gate"}]


def alert_row(serial: int, **more: Any) -> Row:
    row = {
        "alert_id": f"a{serial}",
        "model_name": "flights_delay",
        "kind": "performance",
        "severity": "critical",
        "subject": "*",
    }
    row |= {
        "metric": "accuracy",
        "current_value": 0.7,
        "baseline_value": 0.82,
        "change_percent": -14.634,
        "state": "firing",
    }
    row |= {"opened_at": ONSET + HOUR, "last_seen_at": END, "resolved_at": None, "detected_at": ONSET + HOUR}
    return row | {"incident_id": "inc-1", "details": '{"scale_hours": 1}'} | more


def alert_rows() -> list[Row]:
    drift = {
        "kind": "drift",
        "metric": "ks_statistic",
        "current_value": 0.53,
        "baseline_value": None,
        "change_percent": None,
    }
    old = END - timedelta(days=5)
    return [
        alert_row(1),
        alert_row(2, subject="visibility", severity="warning", **drift),
        alert_row(3, subject=HOSTILE, severity="warning", **drift),
        alert_row(
            4,
            opened_at=old,
            last_seen_at=old + 3 * HOUR,
            resolved_at=old + 6 * HOUR,
            state="resolved",
            incident_id=None,
        ),
    ]


INCIDENT = {
    "incident_id": "inc-1",
    "severity": "SEV2",
    "title": "Accuracy fell with visibility",
    "description": "Accuracy of all rows is 14.6 % below its baseline.\nVisibility left its usual range.",
    "detected_at": ONSET + HOUR,
    "affected_model": "flights_delay",
    "root_cause": f"Likely the weather feed: visibility, {HOSTILE} drifted first.",
    "state": "open",
    "opened_at": ONSET + HOUR,
}


def fill(store: Store, content: dict[str, list[Row]]) -> Store:
    with store.transaction() as connection:
        for name, rows in content.items():
            store.replace(connection, tables.METADATA.tables[name], rows)
    return store


@pytest.fixture(scope="module")
def content() -> dict[str, list[Row]]:
    return two_weeks() | {"alerts": alert_rows(), "incidents": [INCIDENT]}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, content: dict[str, list[Row]]) -> Store:
    return fill(Store(f"sqlite:///{tmp_path_factory.mktemp('report')}/results.db"), content)


@pytest.fixture(scope="module")
def page(store: Store) -> str:
    return pages.window_page(store, MODEL, Window(END - HOUR))


@pytest.fixture(scope="module")
def day(store: Store) -> str:
    return pages.day_page(store, MODEL, date(2013, 4, 16))


class Elements(HTMLParser):
    """Elements of a page: tag, attributes and the text inside, as a browser without scripts would build them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._open:
            while self._open.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        for tag in {*self._open[-1:]}:
            self.text.setdefault(tag, []).append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def visible(page: str) -> str:
    """What a reader reads, in one line: everything before the scripts, without tags."""
    body = page[page.index("<body>") : page.index("<noscript>")]
    return " ".join(re.sub(r"<[^>]+>", " ", body).split())


def verdict_of(page: str) -> str:
    found = re.search(r'<div class="verdict (\w+)">(.*?)</div>', page, re.DOTALL)
    assert found
    return f"{found[1]}: {visible(f'<body>{found[2]}<noscript>')}"


# What the page says ---------------------------------------------------------------------------------------------------


def test_header_names_window_zone_version_owner_and_the_worst_alert(page: str) -> None:
    text = visible(page)
    assert f"flights_delay 2013-04-16 15:00{DASH}16:00 UTC" in text
    assert "2013-04-16 11:00 EDT to 2013-04-16 12:00 EDT (America/New_York)" in text
    assert "As of 2013-04-16 16:10 UTC" in text
    assert "ops-ml, on call: ops-ml-oncall" in text
    assert verdict_of(page) == f"alert: ▲ Alert 3 alerts firing (1 critical), worst: accuracy {MINUS}14.6 %, for 6 h."


def test_alert_that_was_over_before_the_period_is_not_listed(page: str) -> None:
    assert "A3" in visible(page)
    assert "A4" not in visible(page)


def test_alert_resolved_after_the_period_is_shown_as_it_stood(store: Store) -> None:
    page = pages.window_page(store, MODEL, Window(END - timedelta(days=5) + HOUR))
    assert verdict_of(page).startswith(
        f"alert: ▲ Alert 1 alert firing (1 critical), worst: accuracy {MINUS}14.6 %, for 3 h."
    )


def test_incident_is_told_with_its_diagnosis(page: str) -> None:
    text = visible(page)
    assert "SEV2: Accuracy fell with visibility" in text
    assert "Likely the weather feed: visibility," in text
    assert "alerts A1, A2, A3" in text


def test_every_missing_value_has_its_reason(page: str) -> None:
    text = visible(page)
    assert "no column feature_gate" in text
    assert "the threshold reaches 1: no test has power" in text
    assert "2 earlier weeks are needed" in text
    assert text.count("no value ") >= 3  # two of quality, one of drift


def test_quality_counts_and_lists_failures_first(page: str) -> None:
    text = visible(page)
    assert "1 failed, 1 missing_column, 1 insufficient_data, 11 ok." in text
    section = text[text.index("Not ok, failures first") :]
    assert section.index("visibility") < section.index("the window")


def test_day_page_shows_the_worst_hour_and_what_is_still_missing(day: str) -> None:
    text = visible(day)
    assert "flights_delay 2013-04-16 UTC" in text
    assert "8 of 24 hours have not been checked" in text
    assert "6 of 12" in text  # the visibility drifted in six of the twelve hours that had flights
    assert text.index("carrier=AA") < text.index("carrier=UA")  # the worse segment first


def test_provenance_names_digests_and_code(page: str) -> None:
    text = visible(page)
    assert MODEL.digest in text
    assert "041615abcdef" in text
    assert "Hindcast 0.1.0" in text


def test_changed_model_file_is_said(store: Store) -> None:
    changed = model_file(segments=["carrier", "origin"])
    assert "it has changed since" in visible(pages.window_page(store, changed, Window(END - HOUR)))


def test_same_tables_give_the_same_page(store: Store, page: str) -> None:
    assert pages.window_page(store, MODEL, Window(END - HOUR)) == page


# Silence is not health ------------------------------------------------------------------------------------------------


def quiet(tmp_path: Path, content: dict[str, list[Row]], **changed: list[Row]) -> str:
    """Verdict of a page whose newest window is the last but one day's noon, when nothing was wrong."""
    noon = END - timedelta(days=1, hours=4)
    mine = {
        name: [row for row in rows if row.get("window_start") == noon]
        for name, rows in content.items()
        if name not in {"alerts", "incidents"}
    }
    moved = {name: [row | {"window_start": noon} for row in content[name]] for name in ("quality", "importance")}
    store = fill(Store(f"sqlite:///{tmp_path}/results.db"), mine | moved | changed)
    return verdict_of(pages.window_page(store, MODEL, Window(noon)))


def at_noon(content: dict[str, list[Row]], table: str) -> list[Row]:
    return [row for row in content[table] if row["window_start"] == END - timedelta(days=1, hours=4)]


def test_calm_window_is_quiet_and_says_what_was_judged(tmp_path: Path, content: dict[str, list[Row]]) -> None:
    assert (
        quiet(tmp_path, content)
        == "quiet: ✓ Quiet Nothing firing; judged: quality, drift, performance, importance of 74 rows."
    )


def test_check_that_has_not_run_is_no_health(tmp_path: Path, content: dict[str, list[Row]]) -> None:
    checks = [row for row in at_noon(content, "checks") if row["check"] != "drift"]
    assert quiet(tmp_path, content, checks=checks).startswith("unknown: ? Unknown Cannot judge: drift has not run.")


def test_check_that_failed_is_no_health(tmp_path: Path, content: dict[str, list[Row]]) -> None:
    broken = {"status": "error", "reason": "the model artifact is gone"}
    checks = [row | broken if row["check"] == "importance" else row for row in at_noon(content, "checks")]
    assert "importance: error: the model artifact is gone" in quiet(tmp_path, content, checks=checks)


def test_mostly_insufficient_data_is_no_health(tmp_path: Path, content: dict[str, list[Row]]) -> None:
    nothing = {"status": "insufficient_data", "value": None, "drifted": None, "reason": "20 rows are needed"}
    drift = [row | nothing for row in at_noon(content, "drift")]
    said = quiet(tmp_path, content, drift=drift)
    assert "drift: 12 of 12 results not judged (insufficient_data: 20 rows are needed)" in said


def test_empty_window_is_no_health(store: Store) -> None:
    page = pages.window_page(store, MODEL, Window(END - timedelta(days=1, hours=8)))
    assert verdict_of(page).startswith("unknown: ? Unknown Cannot judge: no predictions were logged.")


def test_empty_store_gives_a_page_that_says_so(tmp_path: Path) -> None:
    page = pages.window_page(Store(f"sqlite:///{tmp_path}/results.db"), MODEL, Window(END))
    assert verdict_of(page).startswith("unknown: ? Unknown Cannot judge: this period has not been checked.")
    assert "not checked" in visible(page)


# Self-contained, accessible, safe -------------------------------------------------------------------------------------


@pytest.fixture(params=["page", "day"])
def elements(request: pytest.FixtureRequest) -> Elements:
    return Elements(request.getfixturevalue(request.param))


def test_nothing_is_requested(elements: Elements) -> None:
    assert {tag for tag, _ in elements.found} & {
        "img",
        "link",
        "iframe",
        "object",
        "embed",
        "base",
        "form",
        "video",
        "audio",
    } == set()
    references = [
        value
        for _, attributes in elements.found
        for name, value in attributes.items()
        if name in {"src", "href", "srcset", "action"}
    ]
    assert references == []
    assert not re.search(r"@import|url\(", "".join(elements.text["style"]))


def test_bundle_of_plotly_is_there_once(page: str) -> None:
    assert len(re.findall(r"plotly\.js v\d", page)) == 1


def test_ids_are_unique_and_every_reference_resolves(elements: Elements) -> None:
    ids = [attributes["id"] for _, attributes in elements.found if "id" in attributes]
    assert [name for name, n in Counter(ids).items() if n > 1] == []
    assert {
        attributes["aria-labelledby"] for _, attributes in elements.found if "aria-labelledby" in attributes
    } <= set(ids)


def test_tables_have_captions_and_scopes_and_charts_a_sentence(elements: Elements) -> None:
    assert len(elements.all("caption")) == len(elements.all("table")) >= 6
    assert all(attributes.get("scope") in {"col", "row"} for attributes in elements.all("th"))
    assert len(elements.all("figcaption")) == len(elements.all("figure")) == 8
    assert len(elements.all("h1")) == 1


def test_hostile_name_stays_text(elements: Elements, page: str) -> None:
    assert len(elements.all("script")) == 3
    assert not any(name.startswith("on") for _, attributes in elements.found for name in attributes)
    assert HOSTILE not in page
    assert "&lt;/script&gt;&lt;img src=x onerror=alert(1)&gt;" in page


@given(st.text())
def test_label_holds_no_markup_and_no_control_character(text: str) -> None:
    shown = charts.label(text)
    assert "<" not in shown
    assert not re.search(r"&(?!lt;|gt;|amp;)", shown)
    assert not re.search("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", shown)


@given(st.lists(st.text(alphabet="ab<&\x00\x01", max_size=70), unique=True))
def test_labels_of_different_names_differ(names: list[str]) -> None:
    assert len(set(charts.labels(names))) == len(names)


@pytest.mark.parametrize("path", ["javascript:alert(1)", "https://example.com/", "//example.com/", "/etc/passwd"])
def test_link_to_data_docs_must_be_relative(store: Store, path: str) -> None:
    with pytest.raises(UsageError, match="relative to the page"):
        pages.window_page(store, MODEL, Window(END - HOUR), data_docs=path)


def test_link_to_data_docs_is_written(store: Store) -> None:
    page = pages.window_page(store, MODEL, Window(END - HOUR), data_docs='docs/"index".html')
    assert [link["href"] for link in Elements(page).all("a")] == ['docs/"index".html']


# Charts ---------------------------------------------------------------------------------------------------------------


def point(hour: int, **more: Any) -> Row:
    row = {
        "model_name": "m",
        "model_version": "v1",
        "window_start": START + hour * HOUR,
        "segment": "*",
        "metric": "accuracy",
    }
    row |= {"value": 0.8, "lower": 0.7, "upper": 0.9, "baseline": 0.82, "change_percent": -2.4, "estimated": False}
    row |= {"label_coverage": 0.9, "status": "ok", "reason": None, "label_age_hours": 24, "n": 50}
    return row | more


HOURS = [START + hour * HOUR for hour in range(6)]


def test_figures_are_valid_plotly(store: Store) -> None:
    graph_objects = pytest.importorskip("plotly.graph_objects")
    period = reading.Period(END - HOUR, END, START)
    read = reading.read(store, MODEL, period)
    shown = sections.performance(MODEL, period, read, verdict.shown_alerts(read, period))
    figures = [
        chart["figure"]
        for chart in (*shown["charts"], *sections.drift(period, read)["maps"], sections.importance(MODEL, read))
    ]
    assert len(figures) == 8
    for figure in figures:
        graph_objects.Figure(figure)  # raises on any attribute that plotly does not know


def test_line_and_band_are_interrupted_where_there_are_no_rows() -> None:
    figure = charts.metric_chart([point(0), point(1), point(4)], HOURS, [])
    band, _, line = figure["data"][:3]
    assert line["y"] == [0.8, 0.8, None, None, 0.8, None]
    assert "connectgaps" not in line
    assert band["y"] == [0.7, 0.7, 0.9, 0.9, None, 0.7, 0.9, None]


def test_row_without_value_is_marked_with_its_reason() -> None:
    missing = point(2, value=None, lower=None, upper=None, status="insufficient_data", reason="<3 labels")
    crosses = charts.metric_chart([point(0), missing], HOURS, [])["data"][-1]
    assert crosses["text"] == ["insufficient_data: &lt;3 labels"]


def test_every_version_has_its_own_line_and_a_legend() -> None:
    figure = charts.metric_chart([point(0), point(1, model_version="v2")], HOURS, [])
    assert [trace["name"] for trace in figure["data"] if trace["showlegend"]] == ["version v1", "version v2"]
    assert figure["layout"]["showlegend"]


def test_alert_is_shaded_from_the_hour_that_raised_it() -> None:
    alert = alert_row(1, opened_at=START + 3 * HOUR, until=START + 5 * HOUR, number="A1")
    layout = charts.metric_chart([point(0)], HOURS, [alert])["layout"]
    assert [(shape["x0"], shape["x1"]) for shape in layout["shapes"]] == [("2013-04-02 17:30", "2013-04-02 20:30")]
    assert [note["text"] for note in layout["annotations"]] == ["A1"]


def test_drifted_hours_in_a_row_are_outlined_together() -> None:
    key = {"feature": "a", "status": "ok", "reason": None, "threshold": 0.2}
    rows = [
        key | {"window_start": start, "value": 0.1 + 0.3 * bad, "drifted": bad}
        for start, bad in zip(HOURS, (False, True, True, False, True, False), strict=True)
    ]
    layout = charts.heat_map(rows, HOURS, ["a"])["layout"]
    assert [(shape["x0"][-5:], shape["x1"][-5:]) for shape in layout["shapes"]] == [
        ("16:30", "18:30"),
        ("19:30", "20:30"),
    ]


def test_category_is_shown_by_the_distance_that_it_has() -> None:
    key = {"window_start": START, "baseline": "seasonal"}
    metrics = {
        "temp": ("ks_statistic", "jensen_shannon_distance"),
        "carrier": ("chi2_statistic", "jensen_shannon_distance"),
    }
    rows = [key | {"feature": feature, "metric": metric} for feature, named in metrics.items() for metric in named]
    shown = {(row["feature"], row["metric"]) for row in reading.deciding_drift(rows)}
    assert shown == {("temp", "ks_statistic"), ("carrier", "jensen_shannon_distance")}


def test_reference_decides_as_long_as_there_is_no_seasonal_baseline() -> None:
    row = {"window_start": START, "baseline": "reference", "feature": "temp", "metric": "ks_statistic"}
    assert reading.deciding_drift([row]) == [row]
    assert reading.deciding_drift([row, row | {"baseline": "seasonal"}]) == [row | {"baseline": "seasonal"}]


def test_charts_of_a_young_model_begin_with_its_first_predictions(store: Store) -> None:
    start = START + timedelta(days=3)
    period = reading.begun(store, MODEL, reading.Period(start, start + HOUR, start - timedelta(days=14)))
    assert period.history_start == START


def test_segment_that_certainly_changed_comes_before_a_tiny_one(tmp_path: Path) -> None:
    tiny = {"segment": "carrier=XX", "change_percent": -60.0, "lower": 0.1, "upper": 0.95, "baseline": 0.82}
    sure = {"segment": "carrier=YY", "change_percent": -12.0, "lower": 0.7, "upper": 0.78, "baseline": 0.82}
    rows = [point(0, model_name="flights_delay", as_of=START, **more) for more in (tiny, sure)]
    store = fill(Store(f"sqlite:///{tmp_path}/results.db"), {"performance": rows})
    text = visible(pages.window_page(store, MODEL, Window(START)))
    assert text.index("carrier=YY") < text.index("carrier=XX")


@given(st.permutations([(0, 0.7), (6, None), (24, 0.8), (72, None)]))
def test_largest_label_age_that_has_a_value_is_chosen_in_any_order(rows: list[tuple[int, float | None]]) -> None:
    chosen = reading.mature([point(0, label_age_hours=age, value=value) for age, value in rows])
    assert [(row["label_age_hours"], row["value"]) for row in chosen] == [(24, 0.8)]


def test_regression_is_judged_by_its_error_and_worse_is_higher(tmp_path: Path) -> None:
    model = model_file(task="regression")
    rows = [
        point(
            0,
            model_name="flights_delay",
            metric="mean_absolute_error",
            segment=segment,
            change_percent=change,
            as_of=START,
        )
        for segment, change in (("*", 1.0), ("carrier=AA", -30.0), ("carrier=UA", 12.0))
    ]
    store = fill(Store(f"sqlite:///{tmp_path}/results.db"), {"performance": rows})
    text = visible(pages.window_page(store, model, Window(START)))
    assert "mean absolute error by segment" in text
    assert text.index("carrier=UA") < text.index("carrier=AA")


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_number_has_three_digits_and_can_be_read_back(value: float) -> None:
    shown = float(words.number(value).replace(",", "").replace("\N{MINUS SIGN}", "-"))
    assert math.isclose(shown, value, rel_tol=0.006, abs_tol=1e-320)


# Writing --------------------------------------------------------------------------------------------------------------


def test_write_replaces_the_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "page.html"
    pages.write(path, "old")
    pages.write(path, "néw")
    assert path.read_text(encoding="utf-8") == "néw"
    assert list(path.parent.iterdir()) == [path]


def test_write_that_fails_says_where_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "page.html").mkdir()
    with pytest.raises(UsageError, match=r"page\.html: the report cannot be written"):
        pages.write(tmp_path / "page.html", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


# In a browser ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Any:
    """Chromium that cannot reach any network."""
    missing = None if CHROMIUM.exists() else f"{CHROMIUM} is not installed"
    if missing and os.environ.get("REQUIRE_SERVICES") == "1":
        pytest.fail(missing)
    if missing:
        pytest.skip(missing)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        yield chromium
        chromium.close()


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1280, "dark")])
@pytest.mark.parametrize("name", ["page", "day"])
def test_browser_draws_every_chart_without_error_request_or_overflow(
    browser: Any, request: pytest.FixtureRequest, tmp_path: Path, *, name: str, width: int, scheme: str
) -> None:
    path = tmp_path / "report.html"
    pages.write(path, request.getfixturevalue(name))
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
    tab = context.new_page()
    heard: list[str] = []
    tab.on("console", lambda message: heard.append(message.text))
    tab.on("pageerror", lambda error: heard.append(str(error)))
    tab.on("dialog", lambda dialog: heard.append(dialog.message))
    tab.on("request", lambda asked: heard.append(asked.url) if asked.url != path.as_uri() else None)
    tab.goto(path.as_uri())
    tab.wait_for_function(
        "[...document.querySelectorAll('.chart')].every(chart => chart.querySelector('svg.main-svg'))"
    )
    assert heard == []
    assert tab.locator(".chart").count() == 8
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.locator("img, [onerror]").count() == 0
    assert tab.locator(".chart text", has_text="</script><img src=x").count() > 0  # the name as text, in a chart
    context.close()
