"""A throwaway PostgreSQL cluster on a free loopback port; it boots in a second and is gone at the end.

`initdb` refuses root, so that root runs it as nobody.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import create_engine
from tests.ports import free_port

from hindcast.results.sql import Store

if TYPE_CHECKING:
    from collections.abc import Iterator

NOBODY = 65534
TEMPLATE = "hindcast_template"
FASTER = "-F -c synchronous_commit=off -c full_page_writes=off -c max_connections=60"
_numbers = count(1)


@dataclass(frozen=True)
class Cluster:
    """A running cluster; everybody on loopback is let in as postgres."""

    port: int
    folder: Path
    templates: list[str] = field(default_factory=list)

    def address(self, database: str) -> str:
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/{database}"

    def database(self, template: str = "template1") -> str:
        """URL of a new database, empty or a copy of one that nobody is connected to."""
        name = f"hindcast_{os.getpid()}_{next(_numbers)}"
        self.say(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return self.address(name)

    def store(self) -> str:
        """URL of a new database with the results tables: a copy, which is faster than making them."""
        if TEMPLATE not in self.templates:
            self.say(f'CREATE DATABASE "{TEMPLATE}"')
            Store(self.address(TEMPLATE)).engine.dispose()
            self.templates.append(TEMPLATE)
        return self.database(TEMPLATE)

    def say(self, statement: str) -> None:
        engine = create_engine(self.address("postgres"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(statement)
        engine.dispose()

    def stop(self) -> None:
        _as_nobody("pg_ctl", "-D", self.folder / "data", "-m", "immediate", "-w", "stop", folder=self.folder)

    def start(self) -> None:
        options = f"-p {self.port} -h 127.0.0.1 -k {self.folder} {FASTER}"
        log = self.folder / "log"
        _as_nobody("pg_ctl", "-D", self.folder / "data", "-w", "-l", log, "-o", options, "start", folder=self.folder)


def program(name: str) -> str | None:
    """Where a program of the server is: on the path, or where Debian keeps it."""
    newest = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(newest[-1]) if newest else None)


def _as_nobody(name: str, *arguments: str | Path, folder: Path) -> None:
    command = [program(name) or name, *map(str, arguments)]
    if os.getuid() == 0:
        command = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *command]
    with (folder / "output").open("a+b") as output:  # not a pipe: the server would hold it open
        environment = {**os.environ, "HOME": str(folder)}
        done = subprocess.run(
            command, stdout=output, stderr=output, env=environment, cwd=folder, check=False, timeout=60
        )
        output.seek(0)
        assert done.returncode == 0, output.read().decode()


@contextmanager
def running() -> Iterator[Cluster]:
    """Boot a cluster; skip where the server is not installed."""
    if program("initdb") is None or program("pg_ctl") is None:
        reason = "PostgreSQL's server is not installed (Debian: apt-get install postgresql)"
        if os.environ.get("REQUIRE_SERVICES") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="hindcast-pg-"))
    if os.getuid() == 0:
        os.chown(folder, NOBODY, NOBODY)
    cluster = Cluster(free_port(), folder)
    options = ("-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync")
    try:
        _as_nobody("initdb", "-D", folder / "data", *options, folder=folder)
        cluster.start()
        try:
            yield cluster
        finally:
            cluster.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
