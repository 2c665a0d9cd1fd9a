"""Data quality of a window: the model file's expectations, judged by Great Expectations on the window's profile.

The rows themselves are never validated: all that an expectation asks is already counted in the profile. One row with a
column per feature and metric (``amount.missing_ratio``) is what Great Expectations sees, so that a window of a hundred
million rows costs what a window of ten does. See docs/adr/0003-great-expectations-on-profiles.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hindcast import datadocs
from hindcast.metrics import METRICS
from hindcast.profile.profile import INVALID, INVALID_CATEGORY, MINUS_INF, NAN, NULL, NULL_CATEGORY, PLUS_INF
from hindcast.window import HOUR

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from hindcast.config import Feature, ModelFile
    from hindcast.profile.profile import Profile
    from hindcast.window import Window

Row = dict[str, Any]

WINDOW = "*"
USUAL_WINDOWS = 3  # fewer earlier windows say nothing about what is usual
LARGE = 20  # rows an hour; a smaller hour may be empty, or end early, by chance
STALE_MINUTES = 30.0
ALERT_ROWS = 5
ALERT_RATIO = 0.02
RARELY = 0.1
# Status and reason of a feature that nobody asked for.
NEW_COLUMN = "new_column", "the log has this column; the model file and the reference know no value of it"
_RATIOS = frozenset(name for name in METRICS if name.endswith("_ratio")) | {"column_present"}
_FAULTS = frozenset({"failed", "all_null", "missing_column", "type_changed"})


@dataclass(frozen=True)
class WindowFacts:
    """What is known of the window beside its profile.

    Parameters
    ----------
    window : Window
    rows : int
    duplicate_ids : int or None
        Rows beyond the first of each id; None when the log has no ids.
    misplaced_rows : int
        Rows whose timestamp lies outside the partition that holds them.
    newest : datetime or None
        Newest timestamp; None when the log has none.
    unreadable : int
        Log objects that could not be read.
    usual_rows : tuple of int
        Rows of the same hour of the week (or day) in earlier windows, newest first.
    unknown_columns : tuple of str
        Feature columns of the log that neither the model file nor the reference knows.
    """

    window: Window
    rows: int
    duplicate_ids: int | None
    misplaced_rows: int
    newest: datetime | None
    unreadable: int
    usual_rows: tuple[int, ...] = ()
    unknown_columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rule:
    """One expectation: ``low <= value <= high``. With neither, `why` says what keeps it from being judged.

    A rule without bounds and without `why` only records its value.
    """

    subject: str
    metric: str
    low: float | None = None
    high: float | None = None
    why: str | None = None

    @property
    def column(self) -> str:
        """Its column in the profile row."""
        return f"{self.subject}.{self.metric}"

    @property
    def judged(self) -> bool:
        """Whether there is anything to judge; a rule that says why it cannot be, counts."""
        return not (self.low is None and self.high is None and self.why is None)

    @property
    def expectation(self) -> str | None:
        """Great Expectations class that judges it."""
        return datadocs.LIMITS if self.judged else None


@dataclass(frozen=True)
class Assessment:
    """Result of `assess`: rows for the table ``quality``, the Data Docs page, the ratio of expectations met."""

    rows: list[Row]
    page: str | None
    success_ratio: float | None


def usual_volume(usual_rows: Sequence[int]) -> tuple[float, float] | None:
    r"""Fewest and most rows that an hour may have, from the same hour of earlier weeks or days.

    Never under a quarter of the smallest, :math:`m`, nor over four times the largest. Small counts vary by chance:
    under `LARGE` rows the bound is :math:`m - 3.35\sqrt m` instead, so that an hour with up to eleven rows may be
    empty. If rows come independently (Poisson), chance alone leaves these bounds once in ten thousand hours or less. An
    hour that is usually empty may have `LARGE` rows.

    Parameters
    ----------
    usual_rows : sequence of int
        Rows of earlier windows.

    Returns
    -------
    tuple of two floats, or None with fewer than `USUAL_WINDOWS` windows.

    Examples
    --------
    >>> usual_volume([100, 120, 140]), usual_volume([2, 3, 4]), usual_volume([0, 0, 0]), usual_volume([100, 120])
    ((25.0, 560.0), (0.0, 20.0), (0.0, 20.0), None)
    """
    if len(usual_rows) < USUAL_WINDOWS:
        return None
    low, high = min(usual_rows), max(usual_rows)
    return max(0.0, min(low / 4, low - 3.35 * math.sqrt(low))), float(max(4 * high, LARGE))


def profile_row(features: Mapping[str, Feature], profile: Profile, facts: WindowFacts) -> dict[str, float]:
    """One row, a column per feature and metric: what Great Expectations judges.

    Every ratio is of the window's rows. A missing value is a null, a NaN (how some writers log a null) or a row of a
    file without the column; non-finite is plus or minus infinity. What cannot be known is left out: all but
    ``column_present`` of a column that is missing, limits of a column without a readable value, everything of a
    feature without bins.

    Returns
    -------
    dict
        ``<feature>.<metric>`` and ``*.<metric>`` -> value. A window without rows has ``*.row_count`` and
        ``*.unreadable_objects`` alone.

    Examples
    --------
    >>> import numpy as np
    >>> from hindcast.config import Feature
    >>> from hindcast.profile.bins import Bins
    >>> from hindcast.profile.profile import Profile
    >>> from hindcast.window import Window
    >>> profile = Profile.empty(Bins(("feature_a",), (np.array([0.0, 1.0]),), (), ()))
    >>> profile.rows, profile.numeric[0] = 4, [1, 2, 0, 1, 0, 0, 0, 0]
    >>> facts = WindowFacts(Window.parse("2013-04-16T15"), 4, 0, 0, None, 0)
    >>> profile_row({"a": Feature(type="numeric", min=0)}, profile, facts)["a.missing_ratio"]
    0.25
    """
    row = {"row_count": float(facts.rows), "unreadable_objects": float(facts.unreadable)}
    if facts.rows:
        row["misplaced_ratio"] = facts.misplaced_rows / facts.rows
        if facts.duplicate_ids is not None:
            row["duplicate_ratio"] = facts.duplicate_ids / facts.rows
        if facts.newest is not None:
            row["freshness_minutes"] = max(0.0, (facts.window.end - facts.newest) / HOUR * 60)
    values = {f"{WINDOW}.{metric}": value for metric, value in row.items()}
    if facts.rows:
        for name in features:
            found = _feature_values(f"feature_{name}", profile)
            values.update({f"{name}.{metric}": value for metric, value in found.items()})
    return values


def _feature_values(column: str, profile: Profile) -> dict[str, float]:
    bins, rows = profile.bins, profile.rows
    if column in bins.numeric:
        i = bins.numeric.index(column)
        counts, slots = profile.numeric[i], profile.numeric[i, bins.width :].tolist()
        null, invalid = slots[NULL] + slots[NAN], slots[INVALID]
    elif column in bins.categorical:
        i = bins.categorical.index(column)
        counts, slots = profile.categorical[i], profile.categorical[i, bins.depth :].tolist()
        null, invalid = slots[NULL_CATEGORY], slots[INVALID_CATEGORY]
    else:
        return {}
    present = int(counts.sum())
    values = {"column_present": present / rows}
    if not present:
        return values
    values |= {"column_type": float(not invalid), "missing_ratio": (rows - present + null) / rows}
    if invalid and present == null + invalid:
        return values
    if column in bins.categorical:
        values["unexpected_value_ratio"] = profile.outside[len(bins.numeric) + i, 0].item() / rows
        return values
    below, above = profile.outside[i].tolist()
    values["non_finite_ratio"] = (slots[MINUS_INF] + slots[PLUS_INF]) / rows
    return values | {"below_min_ratio": below / rows, "above_max_ratio": above / rows}


def rules(model: ModelFile, features: Mapping[str, Feature], facts: WindowFacts) -> list[Rule]:
    """Return what the model file expects of the window; without rows, only of its volume and unreadable objects.

    The newest prediction of a window is at most 60 minutes older than its end. More than `STALE_MINUTES` is a fault
    only where no earlier hour had fewer than `LARGE` rows: with rows spread evenly, chance alone leaves the second half
    of such an hour empty once in twenty thousand hours.
    """
    volume = usual_volume(facts.usual_rows)
    few = f"{len(facts.usual_rows)} earlier windows of this hour are known; {USUAL_WINDOWS} are needed to judge"
    whole = [
        Rule(WINDOW, "row_count", *volume) if volume else Rule(WINDOW, "row_count", why=few),
        Rule(WINDOW, "unreadable_objects", high=0.0),
    ]
    if not facts.rows:
        return whole if facts.unreadable else whole[:1]
    small = f"this hour had as few as {min(facts.usual_rows, default=0)} rows before; from {LARGE} on it can be judged"
    stale = Rule(WINDOW, "freshness_minutes", high=STALE_MINUTES)
    if not volume or min(facts.usual_rows) < LARGE:
        stale = replace(stale, high=None, why=small if volume else few)
    whole += [
        Rule(WINDOW, "duplicate_ratio", high=model.quality.max_duplicates),
        Rule(WINDOW, "misplaced_ratio", high=model.quality.max_misplaced),
        stale,
    ]
    return whole + [rule for name, feature in features.items() for rule in _feature_rules(name, feature)]


def _feature_rules(name: str, feature: Feature) -> list[Rule]:
    expected = [
        Rule(name, "column_present", low=1.0),
        Rule(name, "column_type", low=1.0),
        Rule(name, "missing_ratio", high=feature.max_missing),
    ]
    if feature.type == "numeric":
        expected.append(Rule(name, "non_finite_ratio", high=0.0))
    if feature.min is not None:
        expected.append(Rule(name, "below_min_ratio", high=0.0))
    if feature.max is not None:
        expected.append(Rule(name, "above_max_ratio", high=0.0))
    if feature.values is not None:
        expected.append(Rule(name, "unexpected_value_ratio", high=0.0))
    return expected


def assess(
    model: ModelFile, features: Mapping[str, Feature], profile: Profile, facts: WindowFacts, *, docs: bool = True
) -> Assessment:
    """Judge one window.

    Parameters
    ----------
    model : ModelFile
    features : mapping
        Feature name -> what is expected of it: the model file's, or inferred (`hindcast.infer`).
    profile : Profile
        Of the window, scanned with the limits and allowed values of the same `features`.
    facts : WindowFacts
    docs : bool
        Also render the Data Docs page.

    Returns
    -------
    Assessment
        A row per expectation. A feature without ``max_missing`` has its missing ratio recorded, not judged (no
        `expectation`). `success_ratio` leaves out what could not be judged; None when nothing could.
    """
    row = profile_row(features, profile, facts)
    expected = rules(model, features, facts)
    judged = [rule for rule in expected if rule.column in row and (rule.low is not None or rule.high is not None)]
    outcomes = datadocs.validate(judged, row)
    rows = [_judge(rule, row, features, profile, outcomes.get(rule.column)) for rule in expected]
    rows += [_new_column(name) for name in _unknown(facts, features)] if facts.rows else []
    page = datadocs.page(model.model, facts.window, rows, outcomes) if docs else None
    return Assessment(rows, page, success_ratio(rows))


def success_ratio(rows: Sequence[Row]) -> float | None:
    """Share of the expectations that were met, of those that could be judged; None when none could.

    Examples
    --------
    >>> success_ratio([{"expectation": "e", "status": "ok"}, {"expectation": "e", "status": "failed"}])
    0.5
    """
    judged = [row["status"] == "ok" for row in rows if row["expectation"] and row["status"] != "insufficient_data"]
    return sum(judged) / len(judged) if judged else None


def _unknown(facts: WindowFacts, features: Mapping[str, Feature]) -> list[str]:
    names = dict.fromkeys(column.removeprefix("feature_") for column in facts.unknown_columns)
    return [name for name in names if name not in features]


def _new_column(name: str) -> Row:
    return _row(Rule(name, "column_present"), 1.0, *NEW_COLUMN)


def _row(rule: Rule, value: float | None, status: str, reason: str | None) -> Row:
    above = value is not None and rule.high is not None and value > rule.high
    threshold = rule.high if above or rule.low is None else rule.low
    return {
        "subject": rule.subject,
        "metric": rule.metric,
        "value": value,
        "threshold": threshold,
        "status": status,
        "reason": reason,
        "expectation": rule.expectation,
    }


def _judge(
    rule: Rule,
    row: Mapping[str, float],
    features: Mapping[str, Feature],
    profile: Profile,
    outcome: datadocs.Outcome | None,
) -> Row:
    """Turn one rule into its row of the quality table."""
    value = row.get(rule.column)
    if value is None:
        return _row(rule, None, *_unknowable(rule, row, profile))
    if rule.why is not None:
        return _row(rule, value, "insufficient_data", rule.why)
    if outcome is None:  # recorded only
        unjudged = "every value is missing; the model file sets no max_missing, so it is not judged"
        return _row(rule, value, *(("all_null", unjudged) if value == 1 else ("ok", None)))
    if outcome.error is not None:
        return _row(rule, value, "error", f"Great Expectations: {outcome.error}")
    if outcome.success:
        return _row(rule, value, "ok", None)
    named = {"column_type": "type_changed"}
    if value == 0 and rule.metric == "column_present":
        named["column_present"] = "missing_column"
    if value == 1 and rule.metric == "missing_ratio":
        named["missing_ratio"] = "all_null"
    status = named.get(rule.metric, "failed")
    return _row(rule, value, status, _reason(rule, value, features.get(rule.subject), profile))


def _unknowable(rule: Rule, row: Mapping[str, float], profile: Profile) -> tuple[str, str]:
    """Status and reason of a value that the profile cannot give."""
    if rule.subject == WINDOW and rule.metric == "duplicate_ratio":
        return "insufficient_data", "the log has no prediction_id that can be read"
    if rule.subject == WINDOW and rule.metric == "freshness_minutes":
        return "insufficient_data", "the log has no timestamp that can be read"
    present = row.get(f"{rule.subject}.column_present")
    if present is None:
        return "insufficient_data", "the reference has no value of this feature, so its values are not counted"
    if present == 0:
        return "missing_column", "no file of the window has the column"
    if row.get(f"{rule.subject}.column_type") == 0:
        return "type_changed", f"no readable value; the column holds {_types(rule.subject, profile)}"
    return "insufficient_data", "the reference has this feature with another type than the model file"


def _types(name: str, profile: Profile) -> str:
    found = profile.types.get(f"feature_{name}", {})
    return ", ".join(f"{kind} ({rows:,} rows)" for kind, rows in sorted(found.items())) or "an unknown type"


def _reason(rule: Rule, value: float, feature: Feature | None, profile: Profile) -> str:
    """One sentence on an expectation that is not met."""
    title = METRICS[rule.metric].title
    if rule.metric == "row_count":
        return f"{value:,.0f} rows; from {rule.low or 0:,.0f} to {rule.high or 0:,.0f} would be usual at this hour"
    if rule.metric == "freshness_minutes":
        return f"the newest prediction is {value:.0f} minutes older than the window's end; {rule.high:.0f} are allowed"
    if rule.metric == "unreadable_objects":
        return f"{value:,.0f} log objects could not be read"
    if feature is not None and rule.metric == "column_type":
        return f"expected {feature.type}, found {_types(rule.subject, profile)}"
    if rule.metric == "column_present":
        return "no file of the window has the column" if value == 0 else f"only {value:.1%} of the rows have the column"
    rows = round(value * profile.rows)
    limit = 0.0 if rule.high is None else rule.high
    text = f"{rows:,} of {profile.rows:,} rows ({value:.1%}): {title}"
    if feature is not None:
        text += _detail(rule, feature, profile)
    return f"{text}; {limit:.4g} of the rows is allowed" if limit else f"{text}; none is allowed"


def _detail(rule: Rule, feature: Feature, profile: Profile) -> str:
    """Limits and what was found beyond them."""
    column = f"feature_{rule.subject}"
    if rule.metric == "unexpected_value_ratio":
        return _unexpected(column, feature, profile)
    if rule.metric == "below_min_ratio" and feature.min is not None:
        return f" {feature.min:g} (smallest: {profile.low[profile.bins.numeric.index(column)]:g})"
    if rule.metric == "above_max_ratio" and feature.max is not None:
        return f" {feature.max:g} (largest: {profile.high[profile.bins.numeric.index(column)]:g})"
    return ""


def _unexpected(column: str, feature: Feature, profile: Profile) -> str:
    """Name the most frequent new values, unless the model file keeps values private."""
    if not feature.store_values:
        return ""
    allowed = {str(value) for value in feature.values or ()}
    new = [(rows, value) for value, (_, rows) in profile.new_values.get(column, {}).items() if value not in allowed]
    shown = ", ".join(f"{value[:80]!r} ({rows:,})" for rows, value in sorted(new, key=lambda e: (-e[0], e[1]))[:3])
    return f" ({shown})" if shown else ""


def quality_findings(rows: Sequence[Row], profile: Profile, facts: WindowFacts, *, confirmed: bool = True) -> list[Row]:
    """Return the rows of `assess` that are worth an alert: few and right.

    - A ratio alerts when it exceeds its threshold by at least `ALERT_RATIO` and concerns at least `ALERT_ROWS` rows.
    - A column that is missing or has changed its type is critical, whatever the number of rows; a column without any
      value from `ALERT_ROWS` rows on (two rows at night that lack the weather wake nobody).
    - Duplicates alert from `ALERT_ROWS` rows on, unreadable objects always (critical).
    - Volume alerts when it fails; critical when an hour that never had fewer than `LARGE` rows is empty.
    - Freshness never does: a log that stopped is next hour's volume. New columns and what could not be judged neither.

    Parameters
    ----------
    rows : sequence of dict
        From `assess`.
    profile : Profile
    facts : WindowFacts
    confirmed : bool
        Whether a person wrote the features' limits. Inferred ones say what the training data had, not what is possible:
        of these, only a missing column, a changed type and the loss of all values of a feature that rarely lacks one
        (``max_missing`` up to `RARELY`) alert. The drift check, which knows the history, judges the rest.

    Returns
    -------
    list of dict
        Keys subject, metric, value, baseline (None), threshold, severity (warning or critical), reason. A missing
        column or a changed type is one finding, not one per expectation that it takes along.
    """
    findings = []
    for row in rows:
        severity = _severity(row, profile.rows, facts, confirmed=confirmed)
        if severity:
            kept = {key: row[key] for key in ("subject", "metric", "value", "threshold", "reason")}
            findings.append({**kept, "baseline": None, "severity": severity})
    return findings


def _severity(row: Row, n: int, facts: WindowFacts, *, confirmed: bool) -> str | None:
    metric, value, threshold = row["metric"], row["value"], row["threshold"]
    if row["status"] not in _FAULTS or value is None or threshold is None:
        return None
    if metric in {"column_type", "unreadable_objects"} or (metric == "column_present" and value == 0):
        return "critical"
    if metric == "row_count":
        return "critical" if value == 0 and min(facts.usual_rows) >= LARGE else "warning"
    concerned = round((1 - value if metric == "column_present" else value) * n)
    if concerned < ALERT_ROWS or metric not in _RATIOS:
        return None
    if row["status"] == "all_null":
        return "critical" if confirmed or threshold <= RARELY else None
    beyond = round(abs(value - threshold), 9) >= ALERT_RATIO or metric == "duplicate_ratio"
    return "warning" if beyond and (confirmed or row["subject"] == WINDOW) else None
