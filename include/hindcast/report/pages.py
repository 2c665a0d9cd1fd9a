"""Pages of a report: one hour or one day of a model, as one HTML file that opens offline.

Everything comes from the results tables: no log rows, no clock, no network, so that the same tables give the same page.
"""

from __future__ import annotations

import base64
import hashlib
import os
import tempfile
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from hindcast import __version__
from hindcast.errors import UsageError
from hindcast.report import sections, words
from hindcast.report.reading import Period, begun, expected_checks, read
from hindcast.report.verdict import check_states, gaps, shown_alerts, verdict
from hindcast.window import HOUR

if TYPE_CHECKING:
    from datetime import date

    from hindcast.config import ModelFile
    from hindcast.report.charts import Figure
    from hindcast.report.reading import Read
    from hindcast.results.sql import Store
    from hindcast.window import Window

HERE = Path(__file__).parent


def window_page(
    store: Store, model: ModelFile, window: Window, *, history_days: int = 14, data_docs: str | None = None
) -> str:
    """Report on one hour.

    Parameters
    ----------
    store
        Where the results are.
    model
        Model file of the page's model.
    window
        The hour.
    history_days
        How far back the charts begin, in days before the end of the period; 1 or more.
    data_docs
        Path of the Great Expectations Data Docs relative to the page, if they were written.

    Returns
    -------
    str
        A whole HTML document that requests nothing from anywhere.

    Raises
    ------
    UsageError
        `data_docs` is no relative path, or `history_days` is below 1.
    StoreError
        The results cannot be read.
    """
    return _page(store, model, window.start, window.end, history_days=history_days, data_docs=data_docs)


def day_page(store: Store, model: ModelFile, day: date, *, history_days: int = 14, data_docs: str | None = None) -> str:
    """Report on one day of UTC; its tables show the worst hour of each subject. See `window_page`."""
    start = datetime.combine(day, time(), tzinfo=UTC)
    return _page(store, model, start, start + timedelta(days=1), history_days=history_days, data_docs=data_docs)


def write(path: Path, html: str) -> None:
    """Write a page so that a reader finds the old one or the new one, never half of one.

    Raises
    ------
    UsageError
        The file cannot be written there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        part = Path(name)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(html)
            part.chmod(0o644)  # mkstemp's 0600 would keep colleagues and web servers out
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        message = f"{path}: the report cannot be written: {error}"
        raise UsageError(message) from error


def _page(
    store: Store, model: ModelFile, start: datetime, end: datetime, *, history_days: int, data_docs: str | None
) -> str:
    if history_days < 1:
        message = f"history_days: got {history_days}; allowed: 1 or more"
        raise UsageError(message)
    if data_docs is not None and (data_docs.startswith("/") or any(urlsplit(data_docs)[:2])):
        message = f"data_docs: got {data_docs!r}; allowed: a path relative to the page"
        raise UsageError(message)
    period = begun(store, model, Period(start, end, end - timedelta(days=history_days)))
    return _render(_context(model, period, read(store, model, period)), data_docs)


def _context(model: ModelFile, period: Period, rows: Read) -> dict[str, Any]:
    """Everything that the template shows."""
    alerts = shown_alerts(rows, period)
    n = sum(window["rows"] for window in rows.windows)
    checks = [check for check in expected_checks(model) if check != "triage"]
    judged = f"{', '.join(checks)} of {words.counted(n, 'row')}"
    columns = ("model_version", "config_digest", "manifest_digest")
    return {
        "model": model,
        "period": period,
        "rows": n,
        "as_of": max((row["as_of"] for row in [*rows.windows, *rows.checks]), default=None),
        "verdict": verdict([a for a in alerts if a["firing"]], gaps(model, period, rows), judged),
        "checks": check_states(model, period, rows),
        "alerts": alerts,
        "incidents": {incident["incident_id"]: incident for incident in rows.incidents},
        "performance": sections.performance(model, period, rows, alerts),
        "drift": sections.drift(period, rows),
        "importance": sections.importance(model, rows),
        "quality": sections.quality(rows),
        "planned": _planned(model, period),
        "found": {name: sorted({str(row[name]) for row in rows.windows if row[name]}) for name in columns},
        "late": words.late_text([row for row in rows.windows if row["late_rows"]]),
        "bins": rows.bins,
        "code": __version__,
    }


def _planned(model: ModelFile, period: Period) -> list[str]:
    """What the quiet calendar says about the period, and whom it is about."""
    starts = [period.start + k * HOUR for k in range(period.hours)]
    entries = dict.fromkeys((e.reason, e.subjects) for start in starts for e in model.calendar.within(start))
    return [f"{words.plain(reason, limit=200)} ({', '.join(subjects or ('all',))})" for reason, subjects in entries]


_DRAW = """
const figures = JSON.parse(document.getElementById("figures").textContent);
const touch = matchMedia("(pointer: coarse)").matches;
for (const [id, figure] of Object.entries(figures)) {
  // On a touch screen a drag scrolls the page; elsewhere it zooms, and a double click zooms out.
  if (touch) figure.layout.dragmode = false;
  Plotly.newPlot(id, figure.data, figure.layout, {responsive: true, displayModeBar: false});
}
"""
_FILTERS = (
    "because",
    "counted",
    "details",
    "duration",
    "interval",
    "number",
    "percent",
    "plain",
    "probability",
    "prose",
    "share",
    "title",
)


def _render(context: dict[str, Any], data_docs: str | None) -> str:
    import jinja2
    from markupsafe import Markup
    from plotly.io.json import to_json_plotly
    from plotly.offline import get_plotlyjs

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {name: getattr(words, name) for name in _FILTERS}
    plotly, css = get_plotlyjs(), (HERE / "page.css").read_text(encoding="utf-8")
    figures: dict[str, Figure] = {}

    def place(figure: Figure) -> str:
        """Take a figure up for drawing; gives the id of its element."""
        name = f"chart-{len(figures) + 1}"
        figures[name] = figure
        return name

    def data() -> Markup:
        # plotly escapes <, > and / in strings, so that no name ends the script element.
        return Markup(to_json_plotly(figures, engine="json"))  # noqa: S704

    return environment.get_template("page.html").render(
        context,
        data_docs=data_docs,
        utc=UTC,
        moment=words.moment,
        place=place,
        data=data,
        css=Markup(css),  # noqa: S704 - our own
        plotly=Markup(plotly),  # noqa: S704 - the library's bundle
        draw=Markup(_DRAW),  # noqa: S704 - our own
        policy=_policy(plotly, _DRAW),
    )


def _policy(*scripts: str) -> str:
    """Content security policy: only these scripts run, and nothing is requested from anywhere."""
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{text}'" for text in hashes)
    return f"default-src 'none'; style-src 'unsafe-inline'; img-src data: blob:; script-src {allowed}"
