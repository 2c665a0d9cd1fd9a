"""How a report says it: hostile text made safe to read, numbers, moments, and the verdict in one sentence."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from hindcast.metrics import METRICS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime, timedelta, tzinfo

Row = dict[str, Any]

# Control characters, and those that reorder or hide text: a name from the logs must not disguise itself.
_INVISIBLE = [*range(0x20), *range(0x7F, 0xA0), 0xAD, *range(0x200B, 0x2010), *range(0x2028, 0x202F), *range(0x2060, 0x2070), 0xFEFF]
_VISIBLE = dict.fromkeys(_INVISIBLE, "\N{REPLACEMENT CHARACTER}")


def plain(value: object, limit: int = 200) -> str:
    r"""Text from the logs on one line: what cannot be seen is replaced, what is too long is cut. Not escaped.

    Examples
    --------
    >>> plain("a\x00b"), plain("abcdef", limit=4)
    ('a\ufffdb', 'abc…')
    """
    text = str(value)
    text = text if len(text) <= limit else text[: limit - 1] + "…"
    return text.translate(_VISIBLE)


def prose(value: object) -> str:
    """Text of several lines, made safe to read line by line."""
    return "\n".join(plain(line, limit=2000) for line in str(value).splitlines())


def number(value: float | None) -> str:
    """Three significant digits; whole numbers from 1,000 on.

    Examples
    --------
    >>> [number(v) for v in (0.81649, 12.3456, 999.7, 1234567.0, -0.5, 0.0000123, None)]
    ['0.816', '12.3', '1,000', '1,234,567', '−0.5', '1.23e−05', '–']
    """
    if value is None or math.isnan(value):
        return "–"
    text = f"{value:,.0f}" if 999.5 <= abs(value) < math.inf else f"{value:.3g}"
    return text.replace("-", "−")


def percent(value: float | None) -> str:
    """A signed change in percent.

    Examples
    --------
    >>> percent(-14.239), percent(0.0), percent(3), percent(None)
    ('−14.2 %', '0 %', '+3 %', '–')
    """
    if value is None:
        return "–"
    return ("+" if value > 0 else "") + number(value) + " %"


def share(value: float | None) -> str:
    """A fraction as a percentage without sign.

    Examples
    --------
    >>> share(0.7312), share(None)
    ('73.1 %', '–')
    """
    return "–" if value is None else f"{number(100 * value)} %"


def probability(value: float | None) -> str:
    """A p-value; below 0.001 the digits mean nothing.

    Examples
    --------
    >>> probability(0.0413), probability(1e-17), probability(None)
    ('0.0413', '< 0.001', '–')
    """
    return "< 0.001" if value is not None and value < 0.001 else number(value)


def moment(value: datetime | None, zone: tzinfo) -> str:
    """A moment with its zone.

    Examples
    --------
    >>> from datetime import UTC, datetime
    >>> from zoneinfo import ZoneInfo
    >>> moment(datetime(2013, 4, 16, 15, tzinfo=UTC), ZoneInfo("America/New_York"))
    '2013-04-16 11:00 EDT'
    """
    return "–" if value is None else value.astimezone(zone).strftime("%Y-%m-%d %H:%M %Z")


def duration(value: timedelta) -> str:
    """Hours, or days from two on.

    Examples
    --------
    >>> from datetime import timedelta
    >>> duration(timedelta(hours=3)), duration(timedelta(days=3, hours=2))
    ('3 h', '3 d 2 h')
    """
    days, hours = divmod(round(value.total_seconds() / 3600), 24)
    return f"{days} d {hours} h" if days >= 2 else f"{24 * days + hours} h"


def title(metric: str) -> str:
    """What people call a metric; a business metric is called what the model file calls it.

    Examples
    --------
    >>> title("latency_p95_ms"), title("revenue")
    ('latency, 95th percentile', 'revenue')
    """
    return METRICS[metric].title if metric in METRICS else plain(metric)


def counted(n: int, noun: str) -> str:
    """A count and its noun.

    Examples
    --------
    >>> counted(1, "alert"), counted(1200, "row")
    ('1 alert', '1,200 rows')
    """
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def tally(values: Sequence[str]) -> str:
    """How often each value stands in a list.

    Examples
    --------
    >>> tally(["ok", "error", "ok"]), tally(["ok"])
    ('2 ok, 1 error', 'ok')
    """
    if len(values) == 1:
        return plain(values[0])
    return ", ".join(f"{n} {plain(value)}" for value, n in Counter(values).most_common())


def details(text: str | None, pairs: Mapping[str, Any] | None) -> str:
    """What an alert carries beside its columns: a JSON object as ``key: value`` pairs, else the text itself.

    Examples
    --------
    >>> details('{"scale_hours": 6}', {"scale_hours": 6}), details("as is", None), details(None, None)
    ('scale_hours: 6', 'as is', '')
    """
    if pairs is None:
        return plain(text or "", limit=500)
    return "; ".join(f"{plain(key)}: {plain(value)}" for key, value in pairs.items() if value is not None)


@dataclass(frozen=True)
class Verdict:
    """The page in one sentence; `gaps` are what could not be judged, and why."""

    level: Literal["alert", "unknown", "quiet"]
    sentence: str
    gaps: tuple[str, ...]


def verdict(firing: Sequence[Row], gaps: Sequence[str], judged: str) -> Verdict:
    """Say what matters most: what fires, else what could not be judged, else that nothing fires.

    Examples
    --------
    >>> verdict([], [], "quality, drift").sentence
    'Nothing firing; judged: quality, drift.'
    >>> verdict([], ["drift has not run"], "quality").sentence
    'Cannot judge: drift has not run. No alert fires, but that is not health.'
    """
    if firing:
        return Verdict("alert", _worst_of(firing), tuple(gaps))
    if gaps:
        more = f" (and {counted(len(gaps) - 1, 'more gap')}, below)" if len(gaps) > 1 else ""
        return Verdict("unknown", f"Cannot judge: {gaps[0]}{more}. No alert fires, but that is not health.", tuple(gaps))
    return Verdict("quiet", f"Nothing firing; judged: {judged}.", ())


def _worst_of(firing: Sequence[Row]) -> str:
    ranked = sorted(firing, key=lambda a: (a["severity"] != "critical", -abs(a["change_percent"] or 0)))
    critical = sum(alert["severity"] == "critical" for alert in firing)
    worst = ranked[0]
    where = "" if worst["subject"] in {"*", worst["metric"]} else f" of {plain(worst['subject'], limit=60)}"
    change = "" if worst["change_percent"] is None else f" {percent(worst['change_percent'])}"
    grade = f" ({critical} critical)" if critical else ""
    return f"{counted(len(firing), 'alert')} firing{grade}, worst: {title(worst['metric'])}{change}{where}."


JUDGED = frozenset({"ok", "failed", "missing_column", "all_null", "type_changed", "new_column", "constant"})


def gap(check: str, status: str | None, reason: str | None, rows: Sequence[Row]) -> str | None:
    """Why `check` says nothing about health, or None if it does.

    Parameters
    ----------
    check
        Noun of the check.
    status, reason
        How its task ended; None if it has not run.
    rows
        What it wrote about health; when more than half of them were not judged, neither was the window.

    Examples
    --------
    >>> gap("drift", None, None, [])
    'drift has not run'
    >>> gap("drift", "ok", None, [{"status": "insufficient_data", "reason": "20 rows are needed"}])
    'drift: 1 of 1 results not judged (insufficient_data: 20 rows are needed)'
    >>> gap("drift", "ok", None, [{"status": "ok", "reason": None}])
    """
    if status is None:
        return f"{check} has not run"
    if status not in JUDGED:
        return f"{check}: {plain(status)}: {plain(reason or 'no reason was recorded')}"
    if not rows:
        return f"{check} ran and wrote no results"
    unjudged = [f"{row['status']}: {row['reason'] or 'no reason was recorded'}" for row in rows if row["status"] not in JUDGED]
    if 2 * len(unjudged) <= len(rows):
        return None
    common = Counter(unjudged).most_common(1)[0][0]
    return f"{check}: {len(unjudged)} of {len(rows)} results not judged ({plain(common)})"
