"""The short form of `make soak`: everything in it happens, a few times."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests import fault_proxy
from tests.soak import soak

if TYPE_CHECKING:
    from pathlib import Path

    from tests.postgres_server import Cluster
    from tests.s3_server import S3Server


@pytest.mark.timeout(900)
def test_nothing_is_lost_and_nothing_counted_twice(s3: S3Server, postgres: Cluster, tmp_path: Path) -> None:
    with fault_proxy.before(s3.port) as proxy:
        found = soak(tmp_path / "w", s3, proxy, postgres.database(), windows=8, kills=3, seed=4)
    assert found.wrong == []
    assert (found.windows, found.kills) == (8, 3)
    assert found.audit_lines >= 16
    assert set(found.failed_requests) == {"slowdown", "broken", "reset", "cut", "slow"}
