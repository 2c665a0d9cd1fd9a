"""A BigQuery emulator for tests: `local-bigquery`, in an environment of its own, over REST and gRPC.

It needs Python 3.13, so it is built once, below ``.hindcast/emulators``. Its DuckDB extensions exist for one version of
DuckDB only: the pins matter. The module fixture `emulator` boots it in some 3 to 15 s and stops it with its children.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, NoReturn

import pyarrow.parquet as pq
import pytest
from tests.ports import free_ports

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pyarrow as pa

ROOT = Path(__file__).resolve().parents[1] / ".hindcast" / "emulators"
PROJECT, DATASET = "hindcast-test", "logs"
DUCKDB = "duckdb==1.5.5"
PACKAGES = (
    "local-bigquery==0.4.0", DUCKDB, "duckdb-extensions==1.5.5", "duckdb-extension-ducklake==1.5.5",
    "duckdb-extension-icu==1.5.5", "duckdb-extension-spatial==1.5.5",
)  # fmt: skip
INSTALL = "from duckdb_extensions import import_extension as i; [i(name) for name in ('icu', 'spatial', 'ducklake')]"


@dataclass(frozen=True)
class Emulator:
    """A running emulator; `connection` is the content of an Airflow Connection to it."""

    port: int
    grpc_port: int

    @property
    def connection(self) -> dict[str, Any]:
        extra = {
            "is_anonymous": True,
            "project": PROJECT,
            "api_endpoint": f"http://127.0.0.1:{self.port}",
            "grpc_endpoint": f"127.0.0.1:{self.grpc_port}",
        }
        return {"conn_type": "google_cloud_platform", "extra": extra}

    def results(self, dataset: str) -> str:
        """A Connection to a new dataset for results, as `AIRFLOW_CONN_…` holds it."""
        self.client().create_dataset(dataset)
        extra = {**self.connection["extra"], "dataset": dataset}
        return json.dumps({**self.connection, "extra": extra})

    def client(self) -> Any:
        from google.auth.credentials import AnonymousCredentials
        from google.cloud import bigquery

        options = {"api_endpoint": f"http://127.0.0.1:{self.port}"}
        return bigquery.Client(PROJECT, credentials=AnonymousCredentials(), client_options=options)

    def load(self, name: str, table: pa.Table) -> str:
        """Load rows as a table of the dataset; returns its URI."""
        from google.cloud.bigquery import LoadJobConfig

        file = BytesIO()
        pq.write_table(table, file)
        file.seek(0)
        config = LoadJobConfig(source_format="PARQUET", write_disposition="WRITE_TRUNCATE")
        self.client().load_table_from_file(file, f"{PROJECT}.{DATASET}.{name}", job_config=config).result()
        return f"bq://{PROJECT}.{DATASET}.{name}"


def missing(reason: str) -> NoReturn:
    """Skip for want of the service; where services are required, that is a failure."""
    if os.environ.get("REQUIRE_SERVICES"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    """One emulator per test module."""
    pytest.importorskip("google.cloud.bigquery", reason="the extra `bigquery` is not installed")
    with running(tmp_path_factory.mktemp("bigquery")) as found:
        yield found


@contextmanager
def running(folder: Path) -> Iterator[Emulator]:
    """An emulator with its data in `folder`."""
    home = built()
    found = Emulator(*free_ports(2))
    command = [
        home / "env/bin/local-bigquery", "--host", "127.0.0.1", "--port", str(found.port), "--grpc-port",
        str(found.grpc_port), "--project", PROJECT, "--data-dir", str(folder / "data"),
    ]  # fmt: skip
    log = folder / "server.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            command, env={**os.environ, "HOME": str(home)}, stdout=output, stderr=output, start_new_session=True
        )
    try:
        _await(found, server, log)
        found.client().create_dataset(DATASET)
        yield found
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def _await(found: Emulator, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        if server.poll() is not None:
            break
        try:
            for port in (found.port, found.grpc_port):
                socket.create_connection(("127.0.0.1", port), 5).close()
        except OSError:
            time.sleep(0.2)
        else:
            return
    message = f"the emulator did not start: {log.read_text(errors='replace')[-2000:]}"
    raise RuntimeError(message)


@contextmanager
def between(found: Emulator, change: Callable[[str, Any], tuple[int, Any]]) -> Iterator[Emulator]:
    """The emulator's REST endpoint with a proxy before it: `change` sees each path and answer and gives status and
    answer, as the real service would give what the emulator never does: bytes of a dry run, refusals, outages.
    """

    class Proxy(BaseHTTPRequestHandler):
        def _forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            kept = {
                name: value
                for name, value in self.headers.items()
                if name.title() in {"Content-Type", "Content-Encoding"}
            }
            connection = HTTPConnection("127.0.0.1", found.port, timeout=60)
            connection.request(self.command, self.path, body, kept)
            answer = connection.getresponse()
            status, content = change(self.path, json.loads(answer.read() or b"null"))
            upload = answer.getheader("Location")  # where a load job's file goes
            connection.close()
            sent = json.dumps(content).encode()
            self.send_response(status if content is not None and status != 200 else answer.status)
            self.send_header("Content-Type", "application/json")
            if upload:
                self.send_header("Location", upload)
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        do_GET = do_POST = do_DELETE = _forward  # noqa: N815 - names that http.server calls

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield replace(found, port=server.server_port)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def built() -> Path:
    """Where the emulator's environment is, built by whoever comes first."""
    home = ROOT / "local-bigquery-0.4.0"
    ROOT.mkdir(parents=True, exist_ok=True)
    with (ROOT / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (home / "ready").exists():
            _build(home)
    return home


def _build(home: Path) -> None:
    python = _python()
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    (home / "override.txt").write_text(DUCKDB)
    uv = [sys.executable, "-m", "uv"]
    install = [*uv, "pip", "install", "--quiet", "--compile-bytecode"]
    inside = str(home / "env/bin/python")
    for command in (
        [*uv, "venv", "--quiet", "--python", python, str(home / "env")],
        [*install, "--python", inside, "--override", str(home / "override.txt"), *PACKAGES],
        # extensions are unpacked below HOME, where the server finds them
        ["env", f"HOME={home}", inside, "-c", INSTALL],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            missing(f"the BigQuery emulator cannot be built: {done.stderr[-500:]}")
    (home / "ready").touch()


def _python() -> str:
    """A Python 3.13, wherever one is; a shim that only names it does not run."""
    places = [
        sys.executable,
        shutil.which("python3.13") or "",
        *map(str, Path.home().glob(".pyenv/versions/3.13*/bin/python")),
    ]
    for place in filter(None, places):
        done = subprocess.run(
            [place, "-c", "import sys; print(*sys.version_info[:2])"], capture_output=True, text=True, check=False
        )
        if done.stdout.split() == ["3", "13"]:
            return place
    missing("the BigQuery emulator needs Python 3.13, which is not here")


if __name__ == "__main__":
    print(built())  # noqa: T201 - what `.ci/run` shows
