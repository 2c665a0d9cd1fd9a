"""Fixtures that test files share; what they need is imported by whoever uses them."""

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.airflow_server import Watched
    from tests.postgres_server import Cluster
    from tests.s3_server import S3Server


@pytest.fixture(scope="session")
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
