"""Great Expectations' side of the quality check: validation of the profile row, and its Data Docs page.

The page has the sections and tables of Great Expectations' own, in one file without scripts: theirs loads scripts and
styles from other hosts and does not escape column names. Names and values from the logs are hostile and are escaped.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from hindcast.metrics import METRICS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hindcast.quality import Rule
    from hindcast.window import Window

# The section of the window itself, which comes first.
WHOLE = "(whole window)"

# In the look of Great Expectations' own Data Docs, whose renderer takes 20 times as long, and does not escape names.
_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{{ title }}</title><style>
:root{color-scheme:light dark;--line:#8885;--soft:#8882;--good:#18794e;--bad:#c62a2f;--warn:#ad5700}
@media (prefers-color-scheme:dark){:root{--good:#4cc38a;--bad:#ff6369;--warn:#f1a10d}}
body{font:15px/1.5 system-ui,sans-serif;margin:0}
header{padding:.7rem 1.5rem;border-bottom:1px solid var(--line);font-weight:600}
h1,h2{font-size:1rem;margin:.3rem 0}
body>main{display:flex;gap:1.5rem;padding:1rem 1.5rem}
aside{flex:0 0 14rem;overflow-wrap:anywhere}
article{flex:1;min-width:0}
.sticky{position:sticky;top:1rem}
.card{border:1px solid var(--line);border-radius:6px;margin-bottom:1rem}
.card>strong{display:block;background:var(--soft);padding:.3rem .6rem}
.card>*{padding:.4rem .6rem;max-height:70vh;overflow:auto}
ul{list-style:none;margin:0}
section{margin-bottom:1.2rem;scroll-margin-top:1rem}
h2{background:var(--soft);border-radius:6px;padding:.3rem .8rem}
table{border-collapse:collapse;margin:.4rem 0 .8rem}
.rules{width:100%}
th,td{border-bottom:1px solid var(--line);padding:.25rem .8rem .25rem 0;text-align:left;vertical-align:top}
td{overflow-wrap:anywhere}
.rules th:first-child{width:4rem}
.rules th:last-child{width:9rem}
td:last-child{font-variant-numeric:tabular-nums}
.met,.failed,.error{font-weight:700}
.met{color:var(--good)}
.failed,strong{color:var(--bad)}
.card strong{color:inherit}
.error{color:var(--warn)}
body:has(#failed-only:checked) tr:has(>.met),
body:has(#failed-only:checked) .sound{display:none}
@media (max-width:50rem){body>main{display:block}.sticky{position:static}}
</style></head>
<body><header>{{ title }}</header><main>
<aside><h1>Expectation Validation Result</h1><p>Evaluates whether a batch of data matches expectations.</p>
<div class="sticky"><div class="card"><strong>Actions</strong>
<label><input type="checkbox" id="failed-only"> Failed only</label></div>
<nav class="card"><strong>Table of Contents</strong><ul>
<li><a href="#overview">Overview</a></li>
{% for section in sections %}<li><a href="#section-{{ loop.index }}">{{ section.name }}</a></li>
{% endfor %}<li><a href="#run">Run Info</a></li></ul></nav></div></aside>
<article><section id="overview"><h2>Overview</h2>
<p>Expectation Suite: {{ suite }}<br>Data asset: {{ asset }}<br>Status:
{% if met == total %}<span class="met">&#10004;</span> Succeeded{% else %}
<span class="failed">&#10008;</span> Failed{% endif %}</p>
<table><tr><td>Evaluated Expectations</td><td>{{ total }}</td></tr>
<tr><td>Successful Expectations</td><td>{{ met }}</td></tr>
<tr><td>Unsuccessful Expectations</td><td>{{ total - met }}</td></tr>
<tr><td>Success Percent</td><td>{{ "%.4g%%" % (100 * met / total) if total else "--" }}</td></tr></table></section>
{% for section in sections %}<section id="section-{{ loop.index }}"{% if section.sound %} class="sound"{% endif %}>
<h2>{{ section.name }}</h2>
<table class="rules"><tr><th>Status</th><th>Expectation</th><th>Observed Value</th></tr>
{% for rule in section.rules %}<tr><td class="{{ rule.kind }}">{{ signs[rule.kind] }}</td><td>{{ rule.words }}
{% if rule.reason %}<br>{{ rule.reason }}{% endif %}
{% if rule.error %}<br><strong>raised an exception: <code>{{ rule.error }}</code></strong>{% endif %}
</td><td>{{ rule.value }}</td></tr>
{% endfor %}</table></section>
{% endfor %}<section id="run"><h2>Run Info</h2>
<table><tr><td>Great Expectations Version</td><td>{{ version }}</td></tr>
<tr><td>Run Name</td><td>{{ run }}</td></tr><tr><td>Run Time</td><td>{{ run }}</td></tr>
<tr><td>Data asset</td><td>{{ asset }}</td></tr></table></section></article></main></body></html>
"""
_SIGNS = {"met": "\N{HEAVY CHECK MARK}", "failed": "\N{HEAVY BALLOT X}", "error": "!"}


@dataclass(frozen=True)
class Outcome:
    """Verdict of Great Expectations on one expectation; `error` is the message of an exception inside the result."""

    success: bool
    error: str | None = None
    low: float | None = None
    high: float | None = None


@cache
def import_great_expectations() -> None:
    """Import it as if PySpark were not there.

    It would import PySpark wherever it finds it, for half a second and in vain; and PySpark 4.3, when it misses a
    package of its Connect client, ends a process whose main module is no file (a spawned one) without a word.
    """
    hidden = ("pyspark", "pyspark.sql.connect")
    there = {name: sys.modules[name] for name in hidden if name in sys.modules}
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: a module that is said to be absent
    try:
        import great_expectations  # noqa: F401
    finally:
        for name in hidden:
            del sys.modules[name]
        sys.modules.update(there)


def prepare() -> None:
    """Import Great Expectations and make its context, ahead of the first window."""
    _batch_definition()


@cache
def _batch_definition() -> Any:
    """Great Expectations' context of this process: in memory, silent, with no site and no temporary directory."""
    import_great_expectations()
    import great_expectations as gx
    from great_expectations.data_context.types.base import (
        DataContextConfig,
        InMemoryStoreBackendDefaults,
        ProgressBarsConfig,
    )

    context = gx.get_context(
        mode="ephemeral",
        project_config=DataContextConfig(
            store_backend_defaults=InMemoryStoreBackendDefaults(init_temp_docs_sites=False),
            progress_bars=ProgressBarsConfig(globally=False, metric_calculations=False),
            analytics_enabled=False,
        ),
    )
    asset = context.data_sources.add_pandas("profiles").add_dataframe_asset("window")
    return asset.add_batch_definition_whole_dataframe("row")


LIMITS = "ExpectColumnPairValuesAToBeGreaterThanB"
"""Name of the expectation that judges every rule: limits stand beside the values, as columns of one table."""


@cache
def _suite() -> Any:
    """Every value at least its lower limit, and at most its upper one.

    Two expectations over a table with a row per rule, since an expectation costs 1.5 to 8 ms of bookkeeping, however
    many rows it judges.
    """
    import great_expectations as gx
    import great_expectations.expectations as gxe

    sides = (("value", "low"), ("high", "value"))
    # A value that is no number is compared too, and fails.
    made = [getattr(gxe, LIMITS)(column_A=a, column_B=b, or_equal=True, ignore_row_if="neither") for a, b in sides]
    return gx.ExpectationSuite(name="window", expectations=made)


def validate(judged: Sequence[Rule], row: Mapping[str, float]) -> dict[str, Outcome]:
    """Let Great Expectations judge the values of `row` by the limits of the rules; verdicts by column of the row."""
    import numpy as np
    import pandas as pd

    if not judged:
        return {}
    limits = {
        "value": [row[rule.column] for rule in judged],
        "low": [-np.inf if rule.low is None else rule.low for rule in judged],
        "high": [np.inf if rule.high is None else rule.high for rule in judged],
    }
    batch = _batch_definition().get_batch({"dataframe": pd.DataFrame(limits)})
    unmet: set[int] = set()
    error: str | None = None
    for result in batch.validate(_suite(), result_format="COMPLETE").results:
        error = error or _exception(result.exception_info)
        unmet.update(result.result.get("unexpected_index_list") or ())
    return {
        rule.column: Outcome(error is None and place not in unmet, error, rule.low, rule.high)
        for place, rule in enumerate(judged)
    }


def _exception(info: Mapping[str, Any]) -> str | None:
    """Message of the first exception inside a result; Great Expectations nests it by metric, or not."""
    found = [info] if "raised_exception" in info else list(info.values())
    messages = [str(entry["exception_message"]) or "unknown exception" for entry in found if entry["raised_exception"]]
    return messages[0] if messages else None


@cache
def _template() -> Any:
    import jinja2

    return jinja2.Environment(autoescape=True, trim_blocks=True).from_string(_PAGE)


def visible(text: str) -> str:
    r"""Text from the logs; what cannot be seen is shown as its code. The template escapes it.

    Examples
    --------
    >>> visible("carrier"), visible("a\u202eb")
    ('carrier', 'a\\u202eb')
    """
    return text if text.isprintable() else repr(text)[1:-1]


def page(name: str, window: Window, rows: Sequence[Mapping[str, Any]], outcomes: Mapping[str, Outcome]) -> str:
    """HTML of one validation.

    Parameters
    ----------
    name : str
        Model.
    window : Window
    rows : sequence of mappings
        Rows of the table ``quality``.
    outcomes : mapping
        ``<subject>.<metric>`` -> verdict; rows without one were not evaluated and are not shown.

    Returns
    -------
    str
        A whole document, the same for the same arguments; opens without a network.
    """
    from great_expectations import __version__ as version

    evaluated = [(row, outcomes.get(f"{row['subject']}.{row['metric']}")) for row in rows]
    rules: dict[str, list[dict[str, str]]] = {}
    for row, outcome in evaluated:
        if outcome is not None:
            rules.setdefault(row["subject"], []).append(_rule(row, outcome))
    kinds = [rule["kind"] for several in rules.values() for rule in several]
    asset, run = f"window {window}", f"{window.end:%Y-%m-%dT%H:%M:%SZ}"
    text: str = _template().render(
        title=f"Validations / {visible(name)} / {asset} / {run}",
        suite=visible(name),
        asset=asset,
        run=run,
        version=version,
        total=len(kinds),
        met=kinds.count("met"),
        signs=_SIGNS,
        sections=[
            {
                "name": WHOLE if subject == "*" else visible(subject),
                "rules": several,
                "sound": all(rule["kind"] == "met" for rule in several),
            }
            for subject, several in sorted(rules.items(), key=lambda item: (item[0] != "*", item[0]))
        ],
    )
    return text


def _rule(row: Mapping[str, Any], outcome: Outcome) -> dict[str, str]:
    """One line of the page, in words."""
    return {
        "kind": "error" if outcome.error else "met" if outcome.success else "failed",
        "words": f"{METRICS[row['metric']].title}: {_bounds(outcome)}",
        "reason": visible(row["reason"] or ""),
        "error": visible(outcome.error or ""),
        "value": "--" if row["value"] is None else f"{row['value']:,.6g}",
    }


def _bounds(outcome: Outcome) -> str:
    low = [] if outcome.low is None else [f"at least {outcome.low:,.6g}"]
    return ", ".join(low + ([] if outcome.high is None else [f"at most {outcome.high:,.6g}"]))
