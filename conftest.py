"""For tests and the examples in docstrings alike."""

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _environment() -> Iterator[None]:
    """What one sets in the environment, the next does not see, in whatever order they run."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


def pytest_xdist_auto_num_workers() -> int:
    """Workers of ``-n auto``: one more than cores, since many tests wait for servers, and at most four."""
    return min((os.cpu_count() or 1) + 1, 4)
