"""Great Expectations' side of the quality check: validation of the profile row, and its Data Docs page.

The page comes from Great Expectations' own renderer, as one file without scripts. Their frame loads scripts and styles
from other hosts and does not escape column names, so it is replaced: the same sections and tables, with a small style
sheet inside. Names and values from the logs are hostile and are escaped before the renderer sees them.
"""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from hindcast.metrics import METRICS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hindcast.quality import Rule
    from hindcast.window import Window

# The section of the window itself; the parenthesis sorts it before ordinary names.
WHOLE = "(whole window)"

_STYLE = """
:root{color-scheme:light dark;--line:#8885;--soft:#8882;--good:#18794e;--bad:#c62a2f;--warn:#ad5700}
@media (prefers-color-scheme:dark){:root{--good:#4cc38a;--bad:#ff6369;--warn:#f1a10d}}
body{font:15px/1.5 system-ui,sans-serif;margin:0}
header{padding:.7rem 1.5rem;border-bottom:1px solid var(--line);font-weight:600}
h4,h5,h6{margin:.3rem 0}
body>main{display:flex;gap:1.5rem;padding:1rem 1.5rem}
body>main>:first-child{flex:0 0 14rem}
body>main>:last-child{flex:1;min-width:0}
.sticky{position:sticky;top:1rem}
.card{border:1px solid var(--line);border-radius:6px;margin-bottom:1rem}
.card-header{background:var(--soft);padding:.3rem .6rem}
.card-body{padding:.4rem .6rem;max-height:70vh;overflow:auto}
.nav{list-style:none;margin:0;padding:0}
.ge-section{margin-bottom:1.2rem;scroll-margin-top:1rem}
.alert{background:var(--soft);border-radius:6px;padding:.3rem .8rem}
table{border-collapse:collapse;width:100%;margin:.4rem 0 .8rem}
.table-sm{width:auto}
th,td{border-bottom:1px solid var(--line);padding:.25rem .8rem .25rem 0;text-align:left;vertical-align:top}
td{overflow-wrap:anywhere}
th:nth-child(3){width:9rem}
th:first-child:nth-last-child(3){width:4rem}
td:last-child{font-variant-numeric:tabular-nums}
.fas{font-style:normal;font-weight:700}
.fa-check-circle::before{content:"\\2714";color:var(--good)}
.fa-times::before{content:"\\2718";color:var(--bad)}
.fa-exclamation-triangle::before{content:"!";color:var(--warn)}
.text-danger{color:var(--bad)}
body:has(#failed-only:checked) tr:has(>.hide-succeeded-validation-target-child),
body:has(#failed-only:checked) .ge-section:has(.hide-succeeded-validations-column-section-target-child){display:none}
@media (max-width:50rem){body>main{display:block}.sticky{position:static}}
"""
_TEMPLATES = {
    "page.j2": """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{{ page_title | e }}</title><style>{% include 'style.css' %}</style></head>
<body><header>{{ page_title | e }}</header><main>{% include 'sidebar.j2' %}
<div>{% for section in sections %}{% set section_loop = loop %}{% include 'section.j2' %}{% endfor %}</div>
</main></body></html>
""",
    "page_action_card.j2": """<div class="card"><div class="card-header"><strong>Actions</strong></div>
<div class="card-body"><label><input type="checkbox" id="failed-only"> Failed only</label></div></div>
""",
    "style.css": _STYLE,
}


@dataclass(frozen=True)
class Outcome:
    """Verdict of Great Expectations on one expectation; `error` is the message of an exception inside the result."""

    success: bool
    error: str | None = None
    low: float | None = None
    high: float | None = None


@cache
def _batch_definition() -> Any:
    """Great Expectations' context of this process: in memory, silent, with no site and no temporary directory."""
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


def expectations(judged: Sequence[Rule]) -> list[Any]:
    """Great Expectations' own objects for `judged`, in their order."""
    import great_expectations.expectations as gxe

    made = []
    for rule in judged:
        bounds = {"min_value": rule.low, "max_value": rule.high}
        made.append(getattr(gxe, str(rule.expectation))(column=rule.column, **bounds))
    return made


def validate(judged: Sequence[Rule], row: Mapping[str, float]) -> dict[str, Outcome]:
    """Let Great Expectations judge `row`; verdicts by column of the row, since results come in another order."""
    import great_expectations as gx
    import pandas as pd

    if not judged:
        return {}
    frame = pd.DataFrame([{rule.column: row[rule.column] for rule in judged if rule.column in row}])
    suite = gx.ExpectationSuite(name="window", expectations=expectations(judged))
    batch = _batch_definition().get_batch({"dataframe": frame})
    outcomes = {}
    for result in batch.validate(suite, result_format="BASIC").results:
        asked, error = result.expectation_config.kwargs, _exception(result.exception_info)
        bounds = asked.get("min_value"), asked.get("max_value")
        outcomes[asked["column"]] = Outcome(bool(result.success), error, *bounds)
    return outcomes


def _exception(info: Mapping[str, Any]) -> str | None:
    """Message of the first exception inside a result; Great Expectations nests it by metric, or not."""
    found = [info] if "raised_exception" in info else list(info.values())
    messages = [str(entry["exception_message"]) or "unknown exception" for entry in found if entry["raised_exception"]]
    return messages[0] if messages else None


@cache
def _view() -> Any:
    """Return the page view with our frame around its templates, compiled once per process."""
    import jinja2
    from great_expectations.render.view import DefaultJinjaPageView

    view = DefaultJinjaPageView()
    view.env.loader = jinja2.ChoiceLoader([jinja2.DictLoader(_TEMPLATES), view.env.loader])
    view.env.auto_reload = False  # else each of a page's hundreds of template calls asks the disk for changes
    view.env.trim_blocks = view.env.lstrip_blocks = True
    return view


def safe(text: str) -> str:
    """Text from the logs for a place that Great Expectations does not escape; what cannot be seen is shown as its code.

    Examples
    --------
    >>> safe("<script>"), safe("a$b")
    ('&lt;script&gt;', 'a&#36;b')
    """
    shown = text if text.isprintable() else repr(text)[1:-1]
    return html.escape(shown).replace("$", "&#36;")


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
    from great_expectations.core.expectation_validation_result import ExpectationSuiteValidationResult
    from great_expectations.render.renderer.page_renderer import ValidationResultsPageRenderer

    evaluated = [(row, outcomes.get(f"{row['subject']}.{row['metric']}")) for row in rows]
    results = [_result(row, outcome) for row, outcome in evaluated if outcome is not None]
    met = sum(result.success for result in results)
    moment = window.end.isoformat()
    validation = ExpectationSuiteValidationResult(
        results=results,
        success=met == len(results),
        suite_name=name,
        statistics={
            "evaluated_expectations": len(results),
            "successful_expectations": met,
            "unsuccessful_expectations": len(results) - met,
            "success_percent": 100 * met / len(results) if results else None,
        },
        meta={
            "great_expectations_version": version,
            "run_id": {"run_name": moment, "run_time": moment},
            "batch_spec": {"data_asset_name": f"window {window}"},
        },
    )
    document = ValidationResultsPageRenderer(run_info_at_end=True).render(validation)
    # The suite's name would link to a page of a site that is not built.
    document.sections[0].content_blocks[0].subheader.string_template["styling"]["params"].pop("expectation_suite_name")
    return re.sub(r"\s*\n\s*", "\n", _view().render(document))


def _result(row: Mapping[str, Any], outcome: Outcome) -> Any:
    """Return a result as the renderer wants it: grouped by feature instead of by column, in our words."""
    from great_expectations.core.expectation_validation_result import ExpectationValidationResult
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration
    from great_expectations.util import camel_to_snake

    words = f"{METRICS[row['metric']].title}: {_bounds(outcome)}"
    if row["reason"]:
        words += f"\n{row['reason']}"
    subject = WHOLE if row["subject"] == "*" else row["subject"]
    configuration = ExpectationConfiguration(
        type=camel_to_snake(row["expectation"]),
        kwargs={"column": safe(subject)},
        description="\n".join(safe(line) for line in words.split("\n")),
    )
    info = {"raised_exception": bool(outcome.error), "exception_message": outcome.error, "exception_traceback": ""}
    return ExpectationValidationResult(
        success=outcome.success,
        expectation_config=configuration,
        result={"observed_value": row["value"]},
        exception_info=info,
    )


def _bounds(outcome: Outcome) -> str:
    low = [] if outcome.low is None else [f"at least {outcome.low:,.6g}"]
    return ", ".join(low + ([] if outcome.high is None else [f"at most {outcome.high:,.6g}"]))
