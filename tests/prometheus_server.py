"""Debian's Prometheus, Pushgateway and Alertmanager for tests, each on a free loopback port."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import time
import urllib.request
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlencode

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path


def binary(*names: str) -> str:
    """Path of a server or tool; the test is skipped where it is missing, and fails where it must not be."""
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        reason = f"no {names[0]} is installed"
        if os.environ.get("REQUIRE_SERVICES") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def fetched(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - our own servers
        return answer.read().decode()


def until(look: Callable[[], Any], what: str, seconds: float = 60) -> Any:
    """The first true answer; a generous limit, since the machine may be busy."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(0.1)
    pytest.fail(f"waited {seconds} s for {what}")


class Server:
    """A process that answers ``/-/ready``."""

    names: Sequence[str]

    def __init__(self, folder: Path, arguments: Sequence[str] = ()) -> None:
        self.folder, self.arguments, self.port = folder, list(arguments), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def log(self) -> Path:
        return self.folder / f"{self.names[0]}.log"

    def command(self) -> list[str]:
        raise NotImplementedError

    def start(self) -> None:
        command = [binary(*self.names), f"--web.listen-address=127.0.0.1:{self.port}", *self.command(), *self.arguments]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        until(self._ready, f"{command[0]}, whose log is {self.log}")

    def _ready(self) -> bool:
        if self.process and self.process.poll() is not None:
            pytest.fail(self.log.read_text())
        try:
            return bool(fetched(f"{self.url}/-/ready")) or True
        except OSError as error:
            return "401" in str(error) or "certificate" in str(error).lower() or "400" in str(error)

    def stop(self) -> None:
        if self.process:
            self.process.terminate()
            self.process.wait()
            self.process = None

    def __enter__(self) -> Any:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class Pushgateway(Server):
    """Keeps its groups while it is down, as Debian's does, unless `forgets`."""

    names = ("prometheus-pushgateway", "pushgateway")

    def __init__(self, folder: Path, arguments: Sequence[str] = (), *, forgets: bool = False) -> None:
        super().__init__(folder, arguments)
        self.forgets = forgets

    def command(self) -> list[str]:
        return [f"--persistence.file={'' if self.forgets else self.folder / 'groups'}"]

    def samples(self) -> list[Any]:
        families = text_string_to_metric_families(fetched(f"{self.url}/metrics"))
        return [sample for family in families for sample in family.samples if "job" in sample.labels]

    def groups(self, model: str = "alpha") -> dict[str, dict[str, dict[tuple[tuple[str, str], ...], float]]]:
        """Check -> metric -> labels but those of the group -> value."""
        found: dict[str, Any] = defaultdict(lambda: defaultdict(dict))
        for sample in self.samples():
            labels = dict(sample.labels)
            if sample.name.startswith("ml_") and labels.get("model_name") == model:
                assert (labels.pop("job"), labels.pop("model_name"), labels.pop("instance")) == ("hindcast", model, "")
                found[labels.pop("check")][sample.name][tuple(sorted(labels.items()))] = sample.value
        return found


class Prometheus(Server):
    names = ("prometheus",)

    def __init__(self, folder: Path, config: Path, arguments: Sequence[str] = ()) -> None:
        super().__init__(folder, arguments)
        self.config = config

    def command(self) -> list[str]:
        return [f"--config.file={self.config}", f"--storage.tsdb.path={self.folder}/tsdb"]

    def query(self, expression: str, at: float | None = None) -> list[dict[str, Any]]:
        given = {"query": expression} | ({"time": str(at)} if at is not None else {})
        return json.loads(fetched(f"{self.url}/api/v1/query?{urlencode(given)}"))["data"]["result"]

    def query_range(self, expression: str, start: float, end: float, step: float) -> list[dict[str, Any]]:
        given = {"query": expression, "start": str(start), "end": str(end), "step": str(step)}
        return json.loads(fetched(f"{self.url}/api/v1/query_range?{urlencode(given)}"))["data"]["result"]


class Alertmanager(Server):
    names = ("prometheus-alertmanager", "alertmanager")

    def __init__(self, folder: Path, config: Path) -> None:
        super().__init__(folder)
        self.config = config

    def command(self) -> list[str]:
        return [f"--config.file={self.config}", f"--storage.path={self.folder}/am", "--cluster.listen-address="]


class Webhook:
    """Receives what Alertmanager sends, or anything else; by path, in the order in which it came."""

    def __init__(self) -> None:
        self.received: list[tuple[str, dict[str, str], bytes]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def _take(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                outer.received.append((self.path, dict(self.headers), body))
                self.send_response(200)
                self.end_headers()

            do_POST = do_PUT = do_DELETE = _take  # noqa: N815 - http.server's names

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def notices(self, path: str) -> list[dict[str, Any]]:
        return [json.loads(body) for at, _, body in self.received if at == path]
