"""A small serving process with traffic of its own: `docker compose --profile demo up`, or `python -m demo.serving`.

It draws requests, scores them, and logs each with `hindcast.sdk`; the truth of a request comes some minutes later.
Metrics are at ``/metrics``.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections import deque
from typing import TYPE_CHECKING

from prometheus_client import start_http_server

from hindcast.sdk import PredictionLogger

if TYPE_CHECKING:
    from collections.abc import Sequence

MODEL, VERSION = "demo_serving", "1"
COUNTRIES = ("DE", "FR", "US")


def serve(logger: PredictionLogger, *, rate: float, seconds: float, delay: float, seed: int = 1) -> int:
    """Answer `rate` requests a second for so long, labels `delay` seconds later; returns how many there were."""
    draw, waiting, count = random.Random(seed), deque[tuple[float, str, int]](), 0  # noqa: S311 - a demo's traffic
    end = time.monotonic() + seconds
    while (now := time.monotonic()) < end:
        started = time.perf_counter()
        features = {"amount": draw.lognormvariate(3, 0.5), "age": draw.gauss(40, 12), "country": draw.choice(COUNTRIES)}
        score = 1 / (1 + math.exp(-(features["amount"] - 22) / 8))
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
    given = parser.parse_args(arguments)
    start_http_server(given.port)
    with PredictionLogger(MODEL, VERSION, given.uri, labels_uri=given.labels) as logger:
        count = serve(logger, rate=given.rate, seconds=given.seconds, delay=given.delay)
    print(f"{count} predictions")


if __name__ == "__main__":
    main()
