"""importance: global SHAP importance of the window's sample."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from hindcast.checks.run import Result, Run
from hindcast.checks.statuses import status_of
from hindcast.errors import NotEnoughData
from hindcast.importance import global_importance

if TYPE_CHECKING:
    from collections.abc import Mapping


def check(run: Run) -> Result:
    """Explain the sample.

    Raises
    ------
    ModelRefused
        The artifact must not, or cannot, be loaded.
    """
    pulled, settings = run.pulled, run.model.explain
    if settings.model is None:
        return _nothing(run, "ok", "no model is configured under explain.model")
    path = run.artifact("samples", ".parquet")
    if not pulled["rows"] or not path.exists():
        return _nothing(run, "ok", "no rows")
    features = list(run.reference.features)
    version = pulled["model_version"]
    unusable = _unusable(run, features)
    sample = _without(pq.read_table(path), unusable, run)
    try:
        values = _shap(run, sample, features)
        found = global_importance(values, features, population=pulled["rows"])
    except NotEnoughData as error:
        rows = [_row(run, version, name, status="insufficient_data", reason=str(error)) for name in features]
        return Result("importance", "insufficient_data", str(error), (("importance", run.key, rows),))
    rows = [
        _row(run, version, i.feature, status="ok", reason="", importance=i.importance, lower=i.lower, upper=i.upper,
             rank=i.rank, n=i.n)
        for i in found if i.feature not in unusable
    ]  # fmt: skip
    rows += [_row(run, version, name, status=status, reason=why) for name, (status, why) in unusable.items()]
    top = [i.feature for i in sorted(found, key=lambda i: i.rank)[:3]]
    reason = f"explained as if they were null: {', '.join(unusable)}" if unusable else ""
    return Result("importance", "ok", reason, (("importance", run.key, rows),), {"top": top})


def _unusable(run: Run, features: list[str]) -> dict[str, tuple[str, str]]:
    """Features that the window has no values of the right type of: status and reason."""
    found = {name: status_of(run.profile, run.reference.profile, f"feature_{name}") for name in features}
    return {name: said for name, said in found.items() if said[0] in {"missing_column", "type_changed"}}


def _without(sample: pa.Table, unusable: Mapping[str, object], run: Run) -> pa.Table:
    """The sample with these features null, as a model would have to take them; the others are explained."""
    for name in unusable:
        kind = pa.float64() if run.reference.features[name].type == "numeric" else pa.string()
        kept = sample.drop_columns([name]) if name in sample.column_names else sample
        sample = kept.append_column(name, pa.nulls(sample.num_rows, kind))
    return sample


def _nothing(run: Run, status: str, reason: str) -> Result:
    return Result("importance", status, reason, (("importance", run.key, []),))


def _shap(run: Run, sample: Any, features: list[str]) -> Any:
    from hindcast.artifact import load_artifact
    from hindcast.explainers import shap_values

    artifact, held = run.model.explain.model, run.memories
    assert artifact is not None  # noqa: S101 - `check` returned before
    key = ("model", artifact.uri, artifact.sha256)
    if key not in held:
        held[key] = load_artifact(run.model)
    categorical = [name for name in features if run.reference.features[name].type == "categorical"]
    return shap_values(held[key], sample, features=features, categorical=categorical, method=run.model.explain.method)


def _row(run: Run, version: str, name: str, **values: Any) -> dict[str, Any]:
    empty = dict.fromkeys(("importance", "lower", "upper", "rank", "n"))
    return {**run.key, "model_version": version, "feature": name, **empty, **values}
