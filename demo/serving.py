"""A small serving process with traffic of its own: `docker compose --profile demo up`, or `python -m demo.serving`.

It draws requests, scores them, and logs each with `hindcast.sdk`; the truth of a request comes some minutes later.
Metrics are at ``/metrics``. `demo_serving.yaml` beside it is its model file for the compose stack.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prometheus_client import start_http_server

from hindcast.sdk import PredictionLogger

if TYPE_CHECKING:
    from collections.abc import Sequence

MODEL, VERSION = "demo_serving", "1"
COUNTRIES = ("DE", "FR", "US")
REFERENCE, REFERENCE_ROWS = Path(__file__).with_name("demo_serving.parquet"), 5_000


def request(draw: random.Random) -> tuple[dict[str, Any], float]:
    """Features of a request, and what the model says of it: the probability of class 1."""
    features = {"amount": draw.lognormvariate(3, 0.5), "age": draw.gauss(40, 12), "country": draw.choice(COUNTRIES)}
    return features, 1 / (1 + math.exp(-(features["amount"] - 22) / 8))


def reference(path: Path = REFERENCE, seed: int = 2013) -> None:
    """Write what the model was "trained" on: requests with their truth."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    draw, rows = random.Random(seed), []  # noqa: S311 - a demo's data
    for _ in range(REFERENCE_ROWS):
        features, score = request(draw)
        named = {f"feature_{name}": value for name, value in features.items()}
        truth = int(draw.random() < score)
        rows.append({**named, "prediction": int(score > 0.5), "score": score, "ground_truth": truth})
    pq.write_table(pa.Table.from_pylist(rows), path)


def serve(logger: PredictionLogger, *, rate: float, seconds: float, delay: float, seed: int = 1) -> int:
    """Answer `rate` requests a second for so long, labels `delay` seconds later; returns how many there were."""
    draw, waiting, count = random.Random(seed), deque[tuple[float, str, int]](), 0  # noqa: S311 - a demo's traffic
    end = time.monotonic() + seconds
    while (now := time.monotonic()) < end:
        started = time.perf_counter()
        features, score = request(draw)
        known, count = f"{MODEL}-{time.time_ns()}", count + 1
        time.sleep(draw.expovariate(rate))
        latency = 1000 * (time.perf_counter() - started)
        failed = "timeout" if draw.random() < 0.01 else None
        prediction = int(score > 0.5)
        logger.log(known, features, prediction, max(score, 1 - score), latency, score=score, error=failed)
        waiting.append((now + delay, known, int(draw.random() < score)))
        while waiting and waiting[0][0] <= now:
            _, of, truth = waiting.popleft()
            logger.log_ground_truth(of, truth)
    return count


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--uri", default=".hindcast/demo/serving/logs", help="where predictions are logged")
    parser.add_argument("--labels", default=".hindcast/demo/serving/labels", help="where the truth is logged")
    parser.add_argument("--port", type=int, default=9100, help="of /metrics")
    parser.add_argument("--rate", type=float, default=20, help="requests a second")
    parser.add_argument("--delay", type=float, default=300, help="seconds until the truth is known")
    parser.add_argument("--seconds", type=float, default=math.inf, help="how long")
    parser.add_argument("--reference", action="store_true", help=f"only write {REFERENCE.name} again")
    given = parser.parse_args(arguments)
    if given.reference:
        reference()
        return
    start_http_server(given.port)
    with PredictionLogger(MODEL, VERSION, given.uri, labels_uri=given.labels) as logger:
        count = serve(logger, rate=given.rate, seconds=given.seconds, delay=given.delay)
    print(f"{count} predictions")


if __name__ == "__main__":
    main()
