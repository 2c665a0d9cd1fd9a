"""Which engine reads a window."""

from pathlib import Path
from typing import Any

import pytest

from hindcast.config import ModelFile
from hindcast.engines.choice import Choice, choose
from hindcast.errors import UsageError
from hindcast.sources.base import LogObject, Manifest


def model(uri: str = "file:///logs", **keys: Any) -> ModelFile:
    return ModelFile(
        model="m", task="binary", logs={"uri": uri}, reference={"uri": "file:///r.parquet"}, path=Path("m.yaml"), **keys
    )


def manifest(gigabytes: float) -> Manifest:
    return Manifest("partitioned", (LogObject("a.parquet", int(gigabytes * 10**9), "e"),))


@pytest.mark.parametrize(
    ("given", "gigabytes", "name", "because"),
    [
        (model(), 500, "local", "no spark section"),
        (model(spark={}), 49, "local", "below spark.above_gb = 50"),
        (model(spark={}), 50, "spark", "50 GB, from spark.above_gb = 50 on"),
        (model(spark={"above_gb": 0.5}), 0.6, "spark", "0.6 GB"),
        (model("bq://p.d.t"), 0.9, "local", "streamed"),
        (model("bq://p.d.t"), 1, "bigquery", "1 GB in BigQuery"),
        (model(engine="spark"), 0, "spark", "set in the model file"),
        (model("bq://p.d.t", engine="local", bigquery={"stream_below_gb": 0}), 9, "local", "set in the model file"),
    ],
)
def test_auto_goes_by_size_and_source(given: ModelFile, gigabytes: float, name: str, because: str) -> None:
    found = choose(given, manifest(gigabytes))
    assert found.name == name
    assert because in found.reason


@pytest.mark.parametrize(("uri", "engine"), [("file:///logs", "bigquery"), ("bq://p.d.t", "spark")])
def test_engine_that_cannot_read_the_source_is_refused(uri: str, engine: str) -> None:
    with pytest.raises(UsageError, match=f"engine {engine} cannot read {uri}"):
        choose(model(uri, engine=engine), manifest(1))


def test_empty_window_is_read_here() -> None:
    assert choose(model(spark={}), Manifest("partitioned", ())) == Choice("local", "0 GB, below spark.above_gb = 50")
