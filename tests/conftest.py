"""Fixtures that test files share; what they need is imported by whoever uses them."""

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.airflow_server import Watched


@pytest.fixture(scope="session")
def watched(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Watched]":
    """A real Airflow that watches the small models of `tests.airflow_server`; it boots in some 10 to 25 s."""
    from tests.airflow_server import running

    with running(tmp_path_factory.mktemp("watched")) as found:
        yield found
