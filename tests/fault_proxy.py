"""An HTTP proxy that fails on purpose: before S3 (or any server), it counts requests and breaks some of them.

The Host header is forwarded unchanged, so that signatures hold.
"""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

# slowdown, broken: 503 and 500 in S3's own words, the request is not forwarded.  reset: the connection is reset before
# the request is forwarded.  lost: the request is forwarded and done, its answer is lost.  cut: half of the body, then
# the end.  slow: the body in crumbs.
FAULTS = ("slowdown", "broken", "reset", "lost", "cut", "slow")
_ERRORS = {"slowdown": (503, "SlowDown"), "broken": (500, "InternalError")}
_PIECE = 65_536


@dataclass(frozen=True)
class Request:
    """One request that came, and the fault it met, if any."""

    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    fault: str = ""

    @property
    def listing(self) -> bool:
        return self.method == "GET" and bool({"list-type", "versions", "prefix"} & set(self.query))


class FaultProxy:
    """Stands before a server on this machine.

    Attributes
    ----------
    port : int
    requests : list of Request
        Everything that came, in order.
    """

    def __init__(self, target: int) -> None:
        self.target, self.requests = target, list[Request]()
        self._lock = threading.Lock()
        self._chosen: list[tuple[str, Callable[[Request], bool], list[int]]] = []
        self._rates: dict[str, float] = {}
        self._random = random.Random(0)  # noqa: S311 - no secret
        self.slow_seconds, self.slow_pieces = 3.0, 20
        proxy = self

        class Handler(_Handler):
            owner = proxy

        class Server(ThreadingHTTPServer):
            request_queue_size = 128
            daemon_threads = True

            def handle_error(self, request: object, client_address: object) -> None:
                """Clients that give up are what this is for."""

        self.server = Server(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port

    def fail(self, fault: str, times: int = 1, when: Callable[[Request], bool] = lambda _: True) -> None:
        """Break the next `times` requests that `when` says yes to."""
        assert fault in FAULTS
        self._chosen.append((fault, when, [times]))

    def rates(self, rates: Mapping[str, float], seed: int = 0) -> None:
        """Break this share of all requests in each way, at random."""
        assert set(rates) <= set(FAULTS)
        self._rates, self._random = dict(rates), random.Random(seed)  # noqa: S311 - no secret

    def heal(self) -> None:
        """Break nothing any more, and forget what came."""
        with self._lock:
            self._chosen.clear()
            self._rates.clear()
            self.requests.clear()

    def count(self, when: Callable[[Request], bool] = lambda _: True) -> int:
        """Requests that came."""
        with self._lock:
            return sum(map(when, self.requests))

    def met(self, request: Request) -> str:
        """The fault for a request, which is written down."""
        with self._lock:
            fault = self._fault(request)
            self.requests.append(Request(request.method, request.path, request.query, request.headers, fault))
            return fault

    def _fault(self, request: Request) -> str:
        for fault, when, left in self._chosen:
            if left[0] > 0 and when(request):
                left[0] -= 1
                return fault
        drawn = self._random.random() if self._rates else 1.0
        for fault, rate in self._rates.items():
            drawn -= rate
            if drawn < 0:
                return fault
        return ""


@contextmanager
def before(port: int) -> Iterator[FaultProxy]:
    """A proxy before a server on this machine."""
    proxy = FaultProxy(port)
    thread = threading.Thread(target=proxy.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.server.shutdown()
        proxy.server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    owner: FaultProxy
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def _any(self) -> None:
        url = urlsplit(self.path)
        request = Request(
            self.command,
            url.path,
            parse_qs(url.query, keep_blank_values=True),
            {k.lower(): v for k, v in self.headers.items()},
        )
        fault = self.owner.met(request)
        if fault == "reset":
            self._reset()
            return
        body = self._body()
        if fault in _ERRORS:
            self._error(*_ERRORS[fault])
            return
        self._forward(body, fault)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _any  # noqa: N815 - names that http.server calls

    def _body(self) -> bytes:
        # http.server has answered `Expect: 100-continue` already
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _error(self, status: int, code: str) -> None:
        content = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>on purpose</Message></Error>".encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _reset(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def _forward(self, body: bytes, fault: str) -> None:
        upstream = HTTPConnection("127.0.0.1", self.owner.target, timeout=120)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in {"connection", "expect", "transfer-encoding"}:
                    upstream.putheader(name, value)
            upstream.endheaders(body or None)
            answer = upstream.getresponse()
            content = answer.read()
        except (OSError, HTTPException):
            self._reset()
            return
        finally:
            upstream.close()
        if fault == "lost":
            self._reset()
            return
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in {"connection", "transfer-encoding", "content-length", "date", "server"}:
                self.send_header(name, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else None
        if answer.status not in {204, 304}:
            self.send_header("Content-Length", length or str(len(content)))
        self.end_headers()
        self._send(content, fault)

    def _send(self, content: bytes, fault: str) -> None:
        if fault == "cut" and content:
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            self.close_connection = True
        elif fault == "slow" and content:
            step = max(1, len(content) // self.owner.slow_pieces)
            for start in range(0, len(content), step):
                self.wfile.write(content[start : start + step])
                self.wfile.flush()
                time.sleep(self.owner.slow_seconds / self.owner.slow_pieces)
        else:
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        pass
