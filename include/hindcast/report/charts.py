"""Charts of a report, as plotly figures: pure functions from rows of the results tables to JSON-ready dictionaries.

Figures are plain dictionaries in plotly's own schema, so that building them costs no import; the tests validate them
with plotly. Plotly reads a subset of HTML in every text, so each string from the logs passes through `label` first.
"""

from __future__ import annotations

import html
from datetime import timedelta
from itertools import groupby
from typing import TYPE_CHECKING, Any

from hindcast.metrics import METRICS
from hindcast.report.words import because, interval, number, percent, plain, share

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

Row = dict[str, Any]
Figure = dict[str, Any]

# Okabe and Ito's palette, told apart by colour-blind people as well; https://jfly.uni-koeln.de/color/
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
GREY = "#808080"
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star")
# Low values are transparent, so that the page's own background shows through, light or dark.
HEAT = [[0, "rgba(213,94,0,0.04)"], [0.5, "rgba(213,94,0,0.55)"], [1, "rgba(160,40,0,1)"]]
HOUR = timedelta(hours=1)


def label(value: object, limit: int = 60) -> str:
    """Text from the logs as a plotly label.

    Examples
    --------
    >>> label("<b>x</b> & y")
    '&lt;b&gt;x&lt;/b&gt; &amp; y'
    """
    return html.escape(plain(value, limit=limit), quote=False)


def labels(names: Sequence[str]) -> list[str]:
    """Labels of a category axis: like `label`, but different names stay different.

    Examples
    --------
    >>> labels(["a", "a" * 70, "a" * 71])[1:] == ["a" * 59 + "…", "a" * 59 + "… (2)"]
    True
    """
    seen: dict[str, int] = {}
    found = []
    for name in names:
        text = label(name)
        seen[text] = seen.get(text, 0) + 1
        found.append(text if seen[text] == 1 else f"{text} ({seen[text]})")
    return found


def _x(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M")


def _layout(height: int, start: datetime, end: datetime, **more: Any) -> Figure:
    # The range is exact: hours without rows are part of the picture.
    time = {
        "type": "date",
        "range": [_x(start - HOUR / 2), _x(end - HOUR / 2)],
        "showgrid": False,
        "ticks": "outside",
        "nticks": 6,
    }
    return {**_canvas(height), "xaxis": time, "yaxis": dict(_VALUES), **more}


def _canvas(height: int) -> Figure:
    clear = {"paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)"}
    font = {"family": "system-ui, sans-serif", "size": 12, "color": "#333333"}
    return {**clear, "font": font, "height": height, "margin": {"l": 8, "r": 8, "t": 24, "b": 8}, "showlegend": False}


_VALUES = {"automargin": True, "gridcolor": "rgba(128,128,128,0.25)", "zeroline": False, "nticks": 5}


def metric_chart(
    rows: Sequence[Row], starts: Sequence[datetime], spans: Sequence[Row], *, coverage: bool = False
) -> Figure:
    """One metric of all rows by hour, one line per model version; hours without a value interrupt it.

    Parameters
    ----------
    rows
        Rows of `performance`, one per version and hour (see `mature`).
    starts
        Every hour of the chart, in order.
    spans
        Alerts to shade; an alert with a `number` is called by it.
    coverage
        Draw the label coverage below.
    """
    layout = _layout(380 if coverage else 190, starts[0], starts[-1] + HOUR, hovermode="closest")
    layout["xaxis"]["automargin"] = True
    # A row without a value has no height: its cross stands at the bottom, on an axis of its own.
    layout["yaxis2"] = {"overlaying": "y", "range": [0, 1], "visible": False, "fixedrange": True}
    data = []
    for index, (version, mine) in enumerate(_by_version(rows)):
        data += _lines(version, mine, starts, COLOURS[index % len(COLOURS)], SYMBOLS[index % len(SYMBOLS)])
    data.append(_valueless(rows))
    if coverage:
        layout["yaxis"]["domain"] = layout["yaxis2"]["domain"] = [0.3, 1]
        layout["yaxis3"] = {
            **_VALUES,
            "domain": [0, 0.17],
            "range": [0, 1.05],
            "tickformat": ".0%",
            "nticks": 3,
            "title": {"text": "labels"},
        }
        layout["xaxis"]["anchor"] = "y3"
        data.append(_coverage(rows, starts))
    layout["shapes"], layout["annotations"] = _shade(spans, starts)
    layout["showlegend"] = len({row["model_version"] for row in rows}) > 1
    layout["legend"] = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}
    return {"data": data, "layout": layout}


def _scatter(mode: str, **attributes: Any) -> Figure:
    return {"type": "scatter", "mode": mode, "showlegend": False, **attributes}


def _by_version(rows: Sequence[Row]) -> Iterator[tuple[str, list[Row]]]:
    for version, mine in groupby(
        sorted(rows, key=lambda r: (r["model_version"], r["window_start"])), lambda r: r["model_version"]
    ):
        yield version, list(mine)


def _lines(version: str, rows: Sequence[Row], starts: Sequence[datetime], colour: str, symbol: str) -> list[Figure]:
    """Band, baseline and line of one version."""
    at = {row["window_start"]: row for row in rows}
    found = [at.get(start) for start in starts]
    x = [_x(start) for start in starts]
    unit = METRICS[rows[0]["metric"]].unit if rows[0]["metric"] in METRICS else ""
    line = _scatter(
        "lines+markers",
        x=x,
        y=[row and row["value"] for row in found],
        name="all versions" if version == "*" else f"version {label(version)}",
        legendgroup=label(version),
        showlegend=True,
        line={"color": colour, "width": 1.5},
        marker={"size": 4, "symbol": [_symbol(row, symbol) for row in found]},
        text=[_hover(row) if row else "" for row in found],
        hovertemplate=f"%{{x|%d %b %H:%M}} UTC<br><b>%{{y:.3g}}</b> {unit}%{{text}}<extra></extra>",
    )
    dashes = {"color": GREY, "width": 1.5, "dash": "dot"}
    baseline = _scatter("lines", x=x, y=[row and row["baseline"] for row in found], hoverinfo="skip", line=dashes)
    return [_band(found, starts, colour), baseline, line]


def _symbol(row: Row | None, symbol: str) -> str:
    """Open where the number is estimated without labels, or from too few of them."""
    return f"{symbol}-open" if row and (row["estimated"] or row["status"] != "ok") else symbol


def _hover(row: Row) -> str:
    band = "" if row["lower"] is None and row["upper"] is None else f" ({interval(row)})"
    change = (
        f"<br>baseline {number(row['baseline'])}, {percent(row['change_percent'])}"
        if row["baseline"] is not None
        else ""
    )
    weak = "" if row["status"] == "ok" else f"<br>{label(because(row), limit=120)}"
    kind = "estimated without labels" if row["estimated"] else f"label age {row['label_age_hours']} h"
    labelled = "" if row["label_coverage"] is None else f", {share(row['label_coverage'])} labelled"
    return f"{band}{change}<br>n {number(row['n'])}, {kind}{labelled}<br>version {label(row['model_version'])}{weak}"


def _band(found: Sequence[Row | None], starts: Sequence[datetime], colour: str) -> Figure:
    """Polygon per run of hours that have an interval; filling between two lines would bridge the gaps."""
    x: list[str | None] = []
    y: list[float | None] = []
    pairs = zip(found, starts, strict=True)
    for known, run in groupby(
        pairs, lambda pair: pair[0] is not None and pair[0]["lower"] is not None and pair[0]["upper"] is not None
    ):
        if known:
            hours = [(row, _x(start)) for row, start in run if row]
            x += [at for _, at in hours] + [at for _, at in reversed(hours)] + [None]
            y += [row["lower"] for row, _ in hours] + [row["upper"] for row, _ in reversed(hours)] + [None]
    # A line around it: the interval of a lonely hour has no width to fill.
    edge = {"color": colour, "width": 0.5}
    return _scatter("lines", x=x, y=y, fill="toself", fillcolor=colour, opacity=0.3, line=edge, hoverinfo="skip")


def _valueless(rows: Sequence[Row]) -> Figure:
    """Crosses at the bottom of the chart where an hour has a row without a value; hovering says why."""
    missing = [row for row in rows if row["value"] is None]
    return _scatter(
        "markers",
        x=[_x(row["window_start"]) for row in missing],
        y=[0.02] * len(missing),
        yaxis="y2",
        cliponaxis=False,
        marker={"symbol": "x-thin-open", "size": 6, "color": GREY, "line": {"width": 1.5}},
        text=[label(because(row), limit=120) for row in missing],
        hovertemplate="%{x|%d %b %H:%M} UTC<br>no value<br>%{text}<extra></extra>",
    )


def _coverage(rows: Sequence[Row], starts: Sequence[datetime]) -> Figure:
    known: dict[datetime, float] = {}
    for row in rows:
        if row["label_coverage"] is not None:
            known[row["window_start"]] = max(known.get(row["window_start"], 0), row["label_coverage"])
    return _scatter(
        "lines",
        x=[_x(start) for start in starts],
        # An hour without rows has no labels: zero, which unlike a gap a filled area can show.
        y=[known.get(start, 0) for start in starts],
        yaxis="y3",
        fill="tozeroy",
        fillcolor="rgba(128,128,128,0.25)",
        line={"color": GREY, "width": 1, "shape": "hvh"},
        hovertemplate="%{x|%d %b %H:%M} UTC<br>labels known for %{y:.1%}<extra></extra>",
    )


def _shade(spans: Sequence[Row], starts: Sequence[datetime]) -> tuple[list[Figure], list[Figure]]:
    """Alerts as rectangles: the outline is solid when critical, dotted when a warning."""
    shapes: list[Figure] = []
    notes: list[Figure] = []
    for alert in spans:
        # `opened_at` is the end of the hour that raised it.
        start = max(alert["opened_at"] - HOUR, starts[0])
        end = min(alert["until"], starts[-1] + HOUR)
        edge = {"color": COLOURS[1], "width": 1, "dash": "solid" if alert["severity"] == "critical" else "dot"}
        place: Figure = {"x0": _x(start - HOUR / 2), "x1": _x(end - HOUR / 2), "y0": 0, "y1": 1, "yref": "y domain"}
        fill = {"layer": "below", "fillcolor": "rgba(213,94,0,0.15)", "line": edge}
        shapes.append({"type": "rect", **place, **fill})
        if alert.get("number"):
            notes.append(_note(alert["number"], place["x0"], len(notes), late=start > starts[len(starts) // 2]))
    return shapes, notes


def _note(text: str, x: str, place: int, *, late: bool) -> Figure:
    """Write an alert's number above the start of its rectangle; several stand side by side, away from the edge."""
    side = {"xanchor": "right", "xshift": -22 * place} if late else {"xanchor": "left", "xshift": 22 * place}
    return {"text": text, "x": x, "y": 1, "yref": "y domain", "yanchor": "bottom", "showarrow": False, **side}


def heat_map(rows: Sequence[Row], starts: Sequence[datetime], features: Sequence[str]) -> Figure:
    """Drift of features by hour: darker is larger; outlined where the policy decided so, grey where nobody could.

    Parameters
    ----------
    rows
        Rows of `drift`, one per feature and hour.
    starts
        Every hour of the chart, in order.
    features
        Names from the top of the chart to its bottom.
    """
    names = labels(features)
    at = {(row["feature"], row["window_start"]): row for row in rows}
    grid = [[at.get((feature, start)) for start in starts] for feature in features]
    largest = max((row["value"] for row in rows if row["value"] is not None), default=0)
    x = [_x(start) for start in starts]
    frame: Figure = {"type": "heatmap", "x": x, "y": names, "zmin": 0, "hoverongaps": False}
    hover = "%{y}<br>%{x|%d %b %H:%M} UTC<br>"
    judged = {
        **frame,
        "z": [[_rounded(row) for row in line] for line in grid],
        # One weak feature must not look like a fire: the scale reaches at least 0.3.
        "zmax": max(0.3, min(largest, 1)),
        "colorscale": HEAT,
        "colorbar": _COLOUR_BAR,
        "text": [[_decision(row) for row in line] for line in grid],
        "hovertemplate": hover + "%{z:.3g}%{text}<extra></extra>",
    }
    unjudged = {
        **frame,
        "z": [[1 if row and row["value"] is None else None for row in line] for line in grid],
        "zmax": 1,
        "colorscale": [[0, "rgba(128,128,128,0.35)"], [1, "rgba(128,128,128,0.35)"]],
        "showscale": False,
        "text": [[_why(row) for row in line] for line in grid],
        "hovertemplate": hover + "no value: %{text}<extra></extra>",
    }
    layout = _layout(90 + 20 * len(names), starts[0], starts[-1] + HOUR)
    layout["xaxis"]["automargin"] = True
    layout["yaxis"] = _categories(features, names)
    layout["shapes"] = [shape for index, line in enumerate(grid) for shape in _outlines(line, starts, index)]
    return {"data": [unjudged, judged], "layout": layout}


# Above the chart: beside it, it would take a third of a phone.
_COLOUR_BAR = {
    "orientation": "h",
    "thickness": 8,
    "len": 0.5,
    "outlinewidth": 0,
    "nticks": 4,
    "x": 1,
    "xanchor": "right",
    "y": 1,
    "yanchor": "bottom",
    "ypad": 4,
}


def _categories(raw: Sequence[str], names: Sequence[str]) -> Figure:
    # Ticks are cut shorter than the names that hovering shows: a phone is 380 pixels wide.
    ticks = {"tickmode": "array", "tickvals": list(names), "ticktext": [label(name, limit=20) for name in raw]}
    return {"type": "category", "automargin": True, "autorange": "reversed", "showgrid": False, **ticks}


def _rounded(row: Row | None) -> float | None:
    return None if row is None or row["value"] is None else float(f"{row['value']:.4g}")


def _decision(row: Row | None) -> str:
    if row is None or row["value"] is None or not row["drifted"]:
        return ""
    return f"<br>drifted: beyond {number(row['threshold'])}" if row["threshold"] is not None else "<br>drifted"


def _why(row: Row | None) -> str:
    if row is None or row["value"] is not None:
        return ""
    return label(because(row), limit=120)


def _outlines(line: Sequence[Row | None], starts: Sequence[datetime], index: int) -> Iterator[Figure]:
    """One rectangle per run of drifted hours."""
    for drifted, run in groupby(zip(line, starts, strict=True), lambda pair: bool(pair[0] and pair[0]["drifted"])):
        hours = [start for _, start in run]
        if drifted:
            place = {
                "x0": _x(hours[0] - HOUR / 2),
                "x1": _x(hours[-1] + HOUR / 2),
                "y0": index - 0.5,
                "y1": index + 0.5,
            }
            yield {"type": "rect", **place, "line": {"color": "#333333", "width": 1.5}}


def importance_chart(rows: Sequence[Row]) -> Figure:
    """Mean |SHAP value| per feature with its 95 % interval, in the order of the rows."""
    raw = [row["feature"] for row in rows]
    names = labels(raw)
    errors = {"type": "data", "symmetric": False, "thickness": 1.5, "width": 3, "color": GREY}
    bars = {
        "type": "bar",
        "orientation": "h",
        "y": names,
        "x": [row["importance"] for row in rows],
        "error_x": errors
        | {"array": [_reach(r, "upper") for r in rows], "arrayminus": [_reach(r, "lower") for r in rows]},
        "marker": {"color": COLOURS[0]},
        "text": [_interval(row) for row in rows],
        "textposition": "none",
        "hovertemplate": "%{y}<br>%{x:.3g}%{text}<extra></extra>",
    }
    layout = {
        **_canvas(70 + 20 * len(names)),
        "xaxis": {**_VALUES, "rangemode": "tozero"},
        "yaxis": _categories(raw, names),
        "bargap": 0.35,
    }
    return {"data": [bars], "layout": layout}


def _reach(row: Row, side: str) -> float:
    """Length of one half of the error bar; none where no interval was computed."""
    return 0.0 if row[side] is None else abs(float(row[side]) - float(row["importance"]))


def _interval(row: Row) -> str:
    return f" ({interval(row)}), n {number(row['n'])}"
