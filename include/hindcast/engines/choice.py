"""Which engine reads a window: the nearest to the data that can."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hindcast.errors import UsageError
from hindcast.sources.base import GIGABYTE

if TYPE_CHECKING:
    from hindcast.config import ModelFile
    from hindcast.engines.base import Engine
    from hindcast.sources.base import Manifest


@dataclass(frozen=True)
class Choice:
    """Name of an engine, and why this one."""

    name: str
    reason: str


def choose(model: ModelFile, manifest: Manifest) -> Choice:
    """Say which engine reads a window.

    ``auto`` takes the one that is nearest to the data and needs no cluster: this process, until the window is larger
    than the model file's limit for it.

    Raises
    ------
    UsageError
        The configured engine cannot read this kind of source.
    """
    in_bigquery = model.logs.uri.startswith("bq://")
    size = f"{manifest.bytes / GIGABYTE:.3g} GB"
    if model.engine != "auto":
        if (model.engine == "bigquery" and not in_bigquery) or (model.engine == "spark" and in_bigquery):
            message = f"{model.model}: engine {model.engine} cannot read {model.logs.uri}; use auto or local"
            raise UsageError(message)
        return Choice(model.engine, "set in the model file")
    if in_bigquery:
        limit = model.bigquery.stream_below_gb
        if manifest.bytes >= limit * GIGABYTE:
            return Choice("bigquery", f"{size} in BigQuery, from bigquery.stream_below_gb = {limit:g} on")
        return Choice("local", f"{size} in BigQuery, below bigquery.stream_below_gb = {limit:g}: streamed")
    if model.spark is None:
        return Choice("local", f"{size}; no spark section in the model file")
    if manifest.bytes >= model.spark.above_gb * GIGABYTE:
        return Choice("spark", f"{size}, from spark.above_gb = {model.spark.above_gb:g} on")
    return Choice("local", f"{size}, below spark.above_gb = {model.spark.above_gb:g}")


def open_engine(name: str, model: ModelFile) -> Engine:
    """The engine of that name; a client of a cluster or a cloud is imported only here."""
    if name == "spark":
        from hindcast.engines.spark import SparkEngine

        return SparkEngine.of(model)
    if name == "bigquery":
        from hindcast.engines.bigquery import BigQueryEngine

        return BigQueryEngine.of(model)
    from hindcast.engines.local import LocalEngine

    return LocalEngine()
