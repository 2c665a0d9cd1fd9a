"""Fixtures that test files share; what they need is imported by whoever uses them. And which files come first."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.airflow_server import Watched
    from tests.postgres_server import Cluster
    from tests.s3_server import S3Server


# From the longest on: a worker that begins one of them last would keep all others waiting. The rest, and the examples
# in docstrings, fill the gaps at the end; `make test` keeps this order (``--no-loadscope-reorder``).
LONG = (
    "test_hour", "test_engine_bigquery", "test_acceptance", "test_whatif", "test_benchmarks", "test_engines",
    "test_results_bigquery", "test_results", "test_scheduler", "test_quiet", "test_races", "test_paged",
    "test_fuzz", "test_schemas", "test_push", "test_soak", "test_multivariate", "test_policy", "test_late",
    "test_schema", "test_sdk_durability", "test_source_contract", "test_cli", "test_cross_source", "test_report",
    "test_demo_flights", "test_drift_statistics", "test_repeats", "test_sources_s3", "test_sdk_stores",
    "test_sources_bigquery", "test_dags", "test_docs", "test_replay",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Bring the long files forward, each as a whole."""
    rank = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: rank.get(Path(item.path).stem, len(LONG)))


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Watched]":
    """A real Airflow that watches the small models of `tests.airflow_server`; it boots in some 10 to 25 s."""
    from tests.airflow_server import running

    with running(tmp_path_factory.mktemp("watched")) as found:
        yield found


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[S3Server]":
    """A real S3 server with logins of few rights; it boots in some 4 s."""
    from tests.s3_server import running

    rights = {"lister": ("List",), "reader": ("Read",)}
    with running(tmp_path_factory.mktemp("s3"), rights) as found:
        yield found


@pytest.fixture(scope="session")
def postgres() -> "Iterator[Cluster]":
    """A real PostgreSQL cluster; it boots in a second."""
    from tests.postgres_server import running

    with running() as cluster:
        yield cluster
