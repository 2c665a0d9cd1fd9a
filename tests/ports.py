"""Ports for the servers of tests."""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack

# below those that Linux gives to outgoing connections: one of these could take a port before its server does
RANGE = range(10_000, 32_000)
_of_this_process = random.SystemRandom()  # not the seeded generator: tests in parallel would pick alike


def free_ports(count: int) -> list[int]:
    """Different free ports of the loopback; all are held until the last is found."""
    found: list[int] = []
    with ExitStack() as held:
        for port in _of_this_process.sample(RANGE, len(RANGE)):
            try:
                held.enter_context(socket.create_server(("127.0.0.1", port)))
            except OSError:
                continue
            found.append(port)
            if len(found) == count:
                return found
    message = f"no {count} free ports from {RANGE.start} to {RANGE.stop}"
    raise RuntimeError(message)


def free_port() -> int:
    """A free port of the loopback."""
    return free_ports(1)[0]
