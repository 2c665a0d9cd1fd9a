"""How a report says it: hostile text made safe to read, numbers and moments."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import TYPE_CHECKING, Any

from hindcast.metrics import METRICS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime, timedelta, tzinfo

MINUS, NOTHING = "\N{MINUS SIGN}", "\N{EN DASH}"

# Control characters, and those that reorder or hide text: a name from the logs must not disguise itself.
_INVISIBLE = [
    *range(0x20),
    *range(0x7F, 0xA0),
    0xAD,
    *range(0x200B, 0x2010),
    *range(0x2028, 0x202F),
    *range(0x2060, 0x2070),
    0xFEFF,
]
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
        return NOTHING
    text = f"{value:,.0f}" if 999.5 <= abs(value) < math.inf else f"{value:.3g}"
    return text.replace("-", MINUS)


def percent(value: float | None) -> str:
    """Write a signed change in percent.

    Examples
    --------
    >>> percent(-14.239), percent(0.0), percent(3), percent(None)
    ('−14.2 %', '0 %', '+3 %', '–')
    """
    if value is None:
        return NOTHING
    return ("+" if value > 0 else "") + number(value) + " %"


def share(value: float | None) -> str:
    """Write a fraction as a percentage without sign.

    Examples
    --------
    >>> share(0.7312), share(None)
    ('73.1 %', '–')
    """
    return NOTHING if value is None else f"{number(100 * value)} %"


def interval(row: Mapping[str, Any]) -> str:
    """Write the 95 % interval of a row, of which one end may be unknown.

    Examples
    --------
    >>> interval({"lower": 0.7, "upper": 0.912}), interval({"lower": 20.66, "upper": None})
    ('0.7 to 0.912', '20.7 or more')
    """
    lower, upper = row["lower"], row["upper"]
    if lower is not None and upper is not None:
        return f"{number(lower)} to {number(upper)}"
    if lower is not None:
        return f"{number(lower)} or more"
    return NOTHING if upper is None else f"{number(upper)} or less"


def probability(value: float | None) -> str:
    """Write a p-value; below 0.001 the digits mean nothing.

    Examples
    --------
    >>> probability(0.0413), probability(1e-17), probability(None)
    ('0.0413', '< 0.001', '–')
    """
    return "< 0.001" if value is not None and value < 0.001 else number(value)


def moment(value: datetime | None, zone: tzinfo) -> str:
    """Write a moment with its zone.

    Examples
    --------
    >>> from datetime import UTC, datetime
    >>> from zoneinfo import ZoneInfo
    >>> moment(datetime(2013, 4, 16, 15, tzinfo=UTC), ZoneInfo("America/New_York"))
    '2013-04-16 11:00 EDT'
    """
    return NOTHING if value is None else value.astimezone(zone).strftime("%Y-%m-%d %H:%M %Z")


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
    """Say what people call a metric; a business metric is called what the model file calls it.

    Examples
    --------
    >>> title("latency_p95_ms"), title("revenue")
    ('latency, 95th percentile', 'revenue')
    """
    return METRICS[metric].title if metric in METRICS else plain(metric)


def counted(n: int, noun: str) -> str:
    """Write a count and its noun.

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


def details(text: str | None) -> str:
    """Write what an alert carries beside its columns: a JSON object as ``key: value`` pairs, else the text itself.

    Examples
    --------
    >>> details('{"scales_hours": [1, 6], "why": null}'), details("as is"), details(None)
    ('scales_hours: 1, 6', 'as is', '')
    """
    try:
        content = json.loads(text or "")
    except ValueError:
        content = None
    if not isinstance(content, dict):
        return plain(text or "", limit=500)
    # The alert policy's own words, where it left any, say all that the other keys do.
    said = {key: content[key] for key in ("onset", "latest", "resolution") if content.get(key)}
    if said.get("latest") == said.get("onset"):
        said.pop("latest", None)
    content = said or content
    return "; ".join(f"{plain(key)}: {_listed(value)}" for key, value in content.items() if value is not None)


def _listed(value: object) -> str:
    return ", ".join(plain(item) for item in value) if isinstance(value, list) else plain(value)


def because(row: Mapping[str, Any]) -> str:
    """Say why a row has no value: its status and its reason.

    Examples
    --------
    >>> because({"status": "all_null", "reason": None})
    'all_null: no reason was recorded'
    """
    return f"{row['status']}: {row['reason'] or 'no reason was recorded'}"


def late_text(windows: Sequence[Mapping[str, Any]]) -> str:
    """What came late, in words.

    Examples
    --------
    >>> late_text([{"late_rows": 20, "late_seconds": 5400}, {"late_rows": 3, "late_seconds": None}])
    '23 rows of 2 windows came after these were checked, up to 1.5 h after the hour'
    """
    if not windows:
        return ""
    rows, lag = sum(row["late_rows"] for row in windows), max(row["late_seconds"] or 0 for row in windows)
    counted = f"{len(windows)} windows" if len(windows) > 1 else "1 window"
    checked = "these were" if len(windows) > 1 else "it was"
    return f"{rows} rows of {counted} came after {checked} checked" + (
        f", up to {lag / 3600:.1f} h after the hour" if lag else ""
    )
