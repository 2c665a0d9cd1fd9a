"""The soak: predictions through the SDK and a failing S3 into checks that are killed, run twice at once, on PostgreSQL.

``python -m tests.soak --windows 200 --kills 50`` (`make soak`). Everything is seeded; the tables must be those of one
clean run, and every prediction must be in them once.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
from tests import fault_proxy, postgres_server, s3_server, worlds
from tests.worlds import at, differences, snapshot

from hindcast.checks import CHECKS, Run, execute
from hindcast.errors import HindcastError
from hindcast.replay import replay
from hindcast.results import audit, tables
from hindcast.results.sql import Store
from hindcast.sdk import PredictionLogger
from hindcast.window import Window

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.fault_proxy import FaultProxy
    from tests.s3_server import S3Server

RATES = {"slowdown": 0.05, "broken": 0.05, "reset": 0.05, "cut": 0.05, "slow": 0.05}
ROWS, BLOCK, TRIES = 200, 4, 6
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["hindcast.replay", "tests.warm", *(f"hindcast.checks.{check}" for check in CHECKS)])


@dataclass
class Figures:
    """What a soak did, and what it found wrong: nothing, it should be."""

    windows: int
    predictions: int = 0
    requests: int = 0
    failed_requests: dict[str, int] = field(default_factory=dict)
    kills: int = 0
    tried_again: int = 0
    audit_lines: int = 0
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)


def soak(
    folder: Path, server: S3Server, proxy: FaultProxy, results: str, *, windows: int, kills: int, seed: int = 0,
    say: Callable[[str], None] = lambda _: None,
) -> Figures:  # fmt: skip
    """Log, check under fire, check cleanly, compare."""
    began, found, bucket = time.monotonic(), Figures(windows), server.bucket()
    world = worlds.write(folder, labels="none")
    where = {"uri": f"s3://{bucket}/logs", "connection": "lake"}
    worlds.model_file(world, labels=False, logs=where)
    proxy.slow_seconds = 0.5
    proxy.rates(RATES, seed)
    expected = _log(server.through(proxy.port), where["uri"], folder / "spool", windows, say)
    found.predictions = len(expected)
    stored = _ids(server, bucket)
    found.wrong += [f"lost: {name}" for name in (expected - stored)] + [f"invented: {n}" for n in (stored - expected)]
    found.wrong += [f"doubled: {name}" for name, count in stored.items() if count > 1 and name in expected]

    os.environ["AIRFLOW_CONN_LAKE"] = server.through(proxy.port).connection()
    os.environ["HINDCAST_ARTIFACTS"] = str(folder / "artifacts")
    Store(results).engine.dispose()
    _storm(found, str(world.models), results, windows, kills, random.Random(seed), say)  # noqa: S311 - no secret
    found.requests = len(proxy.requests)
    found.failed_requests = dict(Counter(request.fault for request in proxy.requests if request.fault))

    os.environ["AIRFLOW_CONN_LAKE"] = server.connection()
    os.environ["HINDCAST_ARTIFACTS"] = str(folder / "clean")
    say("one clean run")
    clean = replay("alpha", at(0), at(windows), config=str(world.models), results=world.results)
    found.wrong += [f"the clean run had errors: {clean}"] if clean["errors"] else []
    _compare(found, world.results, results)
    found.seconds = round(time.monotonic() - began, 1)
    return found


def _log(server: S3Server, uri: str, spool: Path, windows: int, say: Callable[[str], None]) -> Counter[str]:
    """Log every hour, as a serving process does; returns the ids."""
    keys = {"aws_access_key_id": server.login, "aws_secret_access_key": server.password}
    options = {"endpoint_url": server.endpoint, "region_name": s3_server.REGION, **keys}
    ids: Counter[str] = Counter()
    logger = PredictionLogger("alpha", "1", uri, spool=spool, max_seconds=1, store_options=options, metrics=False)
    with logger:
        for hour in range(windows):
            table = worlds.hour_table("alpha", hour, ROWS)
            if hour % 20 in {4, 5, 6}:  # three hours without a column, so that there are alerts
                table = table.drop_columns(["feature_stops"])
            given = {name.removeprefix("feature_"): table[name].to_pylist() for name in table.column_names
                     if name.startswith("feature_")}  # fmt: skip
            rest = {name: table[name].to_pylist() for name in ("score", "ground_truth")}
            names = table["prediction_id"].to_pylist()
            logger.log_batch(
                names, given, table["prediction"].to_pylist(), latencies_ms=table["latency_ms"].to_pylist(),
                timestamps=table["timestamp"].to_pylist(), **rest,
            )  # fmt: skip
            ids.update(names)
            if hour % 10 == 9 or hour == windows - 1:
                say(f"logged {hour + 1} of {windows} hours")
                while not logger.flush(60):
                    pass
    return ids


def _ids(server: S3Server, bucket: str) -> Counter[str]:
    """Every prediction id in the bucket."""
    client, found = server.client(), Counter[str]()
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for item in page.get("Contents", ()):
            body = client.get_object(Bucket=bucket, Key=item["Key"])["Body"].read()
            found.update(pq.read_table(io.BytesIO(body), columns=["prediction_id"])["prediction_id"].to_pylist())
    return found


def work(config: str, results: str, hours: list[int], tried: Any, environment: dict[str, str]) -> None:
    """A worker: every check of some hours, each tried again while its error may pass, as Airflow does."""
    os.environ.update(environment)  # it is forked from a server that may have begun before they were set
    for hour in hours:
        for check in CHECKS:
            for attempt in range(TRIES):
                run = Run.open("alpha", Window(at(hour)), at(hour + 1) + worlds.SETTLE, config=config, results=results)
                try:
                    execute(run, check)
                    break
                except HindcastError as error:
                    if attempt == TRIES - 1 or not error.transient:
                        raise
                    with tried.get_lock():
                        tried.value += 1
                finally:
                    run.store.engine.dispose()


def _storm(
    found: Figures, config: str, results: str, windows: int, kills: int, chance: random.Random,
    say: Callable[[str], None],
) -> None:  # fmt: skip
    """Two workers at every block of hours; some are killed and started again."""
    tried = CONTEXT.Value("i", 0)
    blocks = [list(range(first, min(first + BLOCK, windows))) for first in range(0, windows, BLOCK)]
    for number, hours in enumerate(blocks):
        due = kills * (number + 1) // len(blocks) - found.kills

        def start(hours: list[int] = hours) -> Any:
            given = {name: os.environ[name] for name in ("AIRFLOW_CONN_LAKE", "HINDCAST_ARTIFACTS")}
            process = CONTEXT.Process(target=work, args=(config, results, hours, tried, given))
            process.start()
            return process

        both = [start(), start()]
        while due > 0:
            time.sleep(chance.uniform(0.1, 2.5))
            victim = chance.randrange(2)
            if both[victim].is_alive():
                found.kills, due = found.kills + 1, due - 1
            both[victim].kill()
            both[victim].join()
            both[victim] = start()
        for process in both:
            process.join()
            if process.exitcode != 0:
                found.wrong.append(f"a worker of hours {hours} ended with {process.exitcode}")
        say(f"checked {hours[-1] + 1} of {windows} hours twice, {found.kills} kills, {tried.value} tries again")
    found.tried_again = tried.value


def _compare(found: Figures, clean: str, results: str) -> None:
    found.wrong += differences(snapshot(clean), snapshot(results))
    store = Store(results)
    verdict, rows = audit.verify(store), store.rows(tables.windows)
    found.audit_lines = verdict.lines
    found.wrong += [] if verdict.whole else [f"audit: {verdict.says}"]
    counted = sum(row["rows"] for row in rows)
    if (len(rows), counted) != (found.windows, found.predictions):
        found.wrong.append(f"{len(rows)} windows with {counted} rows; logged were {found.predictions}")
    found.wrong += [f"duplicates in {row['window_start']}" for row in rows if row["duplicate_ids"]]
    if not store.rows(tables.alerts):
        found.wrong.append("no alerts: nothing was folded")
    store.engine.dispose()


def main() -> int:
    """Run it and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--windows", type=int, default=200)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="hindcast-soak-"))
    (place / "s3").mkdir()

    def say(text: str) -> None:
        sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")

    with (
        s3_server.running(place / "s3") as server,
        fault_proxy.before(server.port) as proxy,
        postgres_server.running() as cluster,
    ):
        found = soak(place / "w", server, proxy, cluster.database(), say=say, **vars(options))
    for name, value in asdict(found).items():
        sys.stdout.write(f"{name}: {value}\n")
    return 1 if found.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
