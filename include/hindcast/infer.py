"""What `hindcast init` writes: expectations inferred from a reference, and the commented model file that holds them."""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, Context, Decimal
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import ValidationError

from hindcast.config import Feature, ModelFile
from hindcast.errors import UsageError
from hindcast.profile.profile import NAN, NEW, NULL, NULL_CATEGORY

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hindcast.profile.profile import Profile

MAX_VALUES = 50
HOUR_ROWS = 100
_MOMENTS = ("timestamp", "date", "time", "duration")


def missing_limit(missing: int, rows: int) -> float:
    r"""Largest missing ratio that an hour may have, from that of the reference.

    The observed ratio p plus three standard deviations of the ratio in an hour of `HOUR_ROWS` rows,
    :math:`3\sqrt{p(1-p)/100}`; then rounded up to two significant digits, at least 0.01, at most 1. An hour
    with fewer rows varies more; alerts ask for more than the ratio alone (`hindcast.quality.quality_findings`).

    Parameters
    ----------
    missing, rows : int
        Of the reference, ``0 <= missing <= rows``, ``rows > 0``.

    Returns
    -------
    float in [0.01, 1].

    Examples
    --------
    >>> missing_limit(0, 1000), missing_limit(50, 1000), missing_limit(1000, 1000)
    (0.01, 0.12, 1.0)
    """
    ratio = missing / rows
    limit = ratio + 3 * math.sqrt(ratio * (1 - ratio) / HOUR_ROWS)
    rounded = float(Context(prec=2, rounding=ROUND_CEILING).create_decimal(Decimal(limit)))
    return min(1.0, max(0.01, rounded))


def infer_features(reference: Profile) -> dict[str, Feature]:
    """Infer expectations that the reference itself meets.

    Parameters
    ----------
    reference : Profile
        Of the training data.

    Returns
    -------
    dict
        Feature name -> type; `missing_limit`; the smallest and largest value of a numeric feature (none for moments,
        which leave any range by themselves); the values of a categorical one that has at most `MAX_VALUES`. In the
        order of the profile's columns.

    Raises
    ------
    UsageError
        The reference has no rows.

    Examples
    --------
    >>> import numpy as np
    >>> from hindcast.profile.bins import Bins
    >>> from hindcast.profile.profile import Profile
    >>> reference = Profile.empty(Bins((), (), ("feature_b",), (("x", "y"),)))
    >>> reference.rows, reference.categorical[0] = 10, [7, 3, 0, 0, 0]
    >>> feature = infer_features(reference)["b"]
    >>> feature.values, feature.max_missing
    (('x', 'y'), 0.01)
    """
    if not reference.rows:
        message = "nothing can be inferred from a reference without rows"
        raise UsageError(message)
    bins, found = reference.bins, {}
    for i, column in enumerate(bins.numeric):
        if column.startswith("feature_"):
            found[column.removeprefix("feature_")] = _numeric(reference, i, column)
    for i, column in enumerate(bins.categorical):
        if column.startswith("feature_"):
            found[column.removeprefix("feature_")] = _categorical(reference, i)
    return found


def _numeric(reference: Profile, i: int, column: str) -> Feature:
    counts, width = reference.numeric[i], reference.bins.width
    missing = reference.rows - int(counts.sum()) + int(counts[width + NULL] + counts[width + NAN])
    limit = missing_limit(missing, reference.rows)
    low, high = float(reference.low[i]), float(reference.high[i])
    moment = any(kind.startswith(_MOMENTS) for kind in reference.types.get(column, {}))
    if moment or low > high:
        return Feature(type="numeric", max_missing=limit)
    return Feature(type="numeric", min=low, max=high, max_missing=limit)


def _categorical(reference: Profile, i: int) -> Feature:
    counts, depth, known = reference.categorical[i], reference.bins.depth, reference.bins.categories[i]
    missing = reference.rows - int(counts.sum()) + int(counts[depth + NULL_CATEGORY])
    closed = 0 < len(known) <= MAX_VALUES and not counts[depth + NEW]
    values = tuple(sorted(known)) if closed else None
    return Feature(type="categorical", values=values, max_missing=missing_limit(missing, reference.rows))


def model_text(
    name: str,
    task: str,
    reference_path: str,
    features: Mapping[str, Feature],
    positive_class: str | float | bool | None = None,  # noqa: FBT001 - a class may be named true
    *,
    connection: str | None = None,
) -> str:
    """Commented YAML of a model file, for a person to read, tighten and complete.

    Parameters
    ----------
    name : str
        Model.
    task : {"binary", "multiclass", "regression"}
    reference_path : str
        Relative to the model file's directory, absolute, or a URI.
    features : mapping
        As `infer_features` returns them.
    positive_class : optional
        Binary only; by default 1.
    connection : str, optional
        Airflow Connection of a reference that lies in a bucket.

    Returns
    -------
    str
        The same for the same arguments; `hindcast.config.load` accepts it. Where the logs lie has to be filled in.

    Raises
    ------
    UsageError
        `name` or `task` would be refused.

    Examples
    --------
    >>> text = model_text("churn", "binary", "train.parquet", {"age": Feature(type="numeric", min=18, max=99)})
    >>> print(text[text.index("features:"):text.index("# segments")].strip())
    features:
      age: {type: numeric, min: 18, max: 99}
    """
    required = {"model": name, "task": task, "logs": {"uri": "."}, "reference": {"uri": reference_path}}
    try:
        ModelFile.model_validate(required)
    except ValidationError as error:
        faults = "; ".join(f"{e['loc'][0]}: got {e['input']!r}; {e['msg']}" for e in error.errors())
        raise UsageError(faults) from None
    positive = ""
    if task == "binary":
        positive = f"\npositive_class: {_flow(1 if positive_class is None else positive_class)}"
    listed = {feature: _keys(expected) for feature, expected in features.items()}
    return _TEMPLATE.format(
        model=_flow(name),
        task=task,
        positive=positive,
        reference=_flow(reference_path) + (f", connection: {_flow(connection)}" if connection else ""),
        features=_block({"features": listed}),
    )


def _keys(feature: Feature) -> dict[str, Any]:
    """Keys of a feature that are set, in the order a person reads them; whole numbers without a fraction."""
    keys: dict[str, Any] = {"type": feature.type}
    for key in ("min", "max", "max_missing"):
        value = getattr(feature, key)
        if value is not None:
            keys[key] = int(value) if value.is_integer() and abs(value) < 2**53 else value
    if not feature.store_values:
        keys["store_values"] = False
    if feature.values is not None:
        keys["values"] = list(feature.values)
    return keys


def _flow(value: object) -> str:
    """Quote a scalar so that it can stand anywhere, also inside braces."""
    return _dump([value], default_flow_style=True, width=math.inf).strip()[1:-1]


def _block(value: object) -> str:
    return _dump(value, default_flow_style=None, sort_keys=False, width=120).rstrip()


def _dump(value: object, **style: Any) -> str:
    """Letters of any script as they are, unless one of them (U+0085) would not come back."""
    text: str = yaml.safe_dump(value, allow_unicode=True, **style)
    return text if yaml.safe_load(text) == value else yaml.safe_dump(value, **style)


_TEMPLATE = """\
# A model file makes a model monitored: an hourly and a daily DAG appear in Airflow, named after it. `hindcast init`
# wrote this one from the reference; read it, tighten it, and let `hindcast validate` check it. Relative paths start at
# this file's folder. Secrets never stand here, only the names of Airflow connections.

model: {model}
owner: {{team: unowned, oncall: unowned}}   # EDIT: who is told, and who is woken
task: {task}{positive}

# EDIT: where the predictions are logged, one folder an hour: date=YYYY-MM-DD/hour=HH, in UTC.
logs: {{uri: EDIT-ME/logs}}
# The truth, when it comes later than the prediction; the same layout, by the hour in which it came.
# labels: {{uri: EDIT-ME/labels}}

# What the model was trained on.
reference: {{uri: {reference}}}

# What each feature may look like. The limits are those that the reference has: widen them to what is possible, so that
# a row outside is a fault of the data. max_missing is for one hour; raise it where a whole hour may lack the value (a
# sensor, a vendor). A key that is left out is not checked.
{features}

# segments: []            # features or columns whose values are also judged one by one
# quality: {{max_duplicates: 0, max_misplaced: 0}}
# performance: {{baseline_days: 7, threshold: 0.05, critical: 0.10, label_ages_hours: [0, 6, 24]}}
# drift: {{budget_false_alarms_per_week: 1, seasonal_weeks: 4}}
# explain: {{model: {{uri: EDIT-ME/model.txt, format: lightgbm}}}}
# schedule: {{settle_minutes: 10, timezone: UTC}}
"""
