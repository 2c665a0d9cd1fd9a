"""Airflow on this machine: three processes on SQLite, started and stopped by ``make up`` and ``make down``.

::

    python -m demo.airflow up [--port 8080]     start, wait until healthy, print the address and the password
    python -m demo.airflow status
    python -m demo.airflow down

Everything lies under one folder (``.airflow``): the database, the secrets (made once, readable by their owner alone),
the pid files and the logs. Nothing listens beyond 127.0.0.1, and signing in needs a password, because other people may
have accounts on the machine. The tests and ``make demo`` use the same class:

>>> with Airflow(Path(".airflow")) as airflow:                                   # doctest: +SKIP
...     airflow.unpause("hindcast_hourly__flights_delay")
...     run = airflow.trigger("hindcast_hourly__flights_delay", {"window_start": "2013-04-16T15"})
...     state, tasks = airflow.wait("hindcast_hourly__flights_delay", run)
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from http import HTTPStatus
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import psutil  # type: ignore[import-untyped]  # has no stubs

from hindcast import config
from hindcast.errors import ConfigError, HindcastError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    import httpx

ROOT = Path(__file__).resolve().parents[1]
HOST = "127.0.0.1"
PORT = 8080
COMPONENTS = {
    "api-server": ["api-server"],
    # The api-server reads the log files itself; the scheduler's own log server would listen on all interfaces.
    "scheduler": ["scheduler", "--skip-serve-logs"],
    "dag-processor": ["dag-processor"],
}
# Only where a model file asks to wait for complete logs: it looks for them while no worker is busy.
TRIGGERER = {"triggerer": ["triggerer", "--skip-serve-logs"]}
HEALTHY_WITHIN = 180.0
STOPPED_WITHIN = 30.0
LOG_TAIL = 30
ATTEMPTS = 4


class AirflowError(HindcastError):
    """Airflow did not start, or did not do what it was asked; the message has the end of the log."""


class Airflow:
    """Airflow's api-server, scheduler and dag-processor on a SQLite file.

    Parameters
    ----------
    home : Path
        AIRFLOW_HOME; made when it is not there.
    port : int
        Port of the api-server; when it is taken, or 0, a free one is chosen.
    environment : mapping of str to str
        Further variables for the processes, such as HINDCAST_CONFIG and HINDCAST_RESULTS.
    """

    def __init__(self, home: Path, port: int = PORT, *, environment: Mapping[str, str] | None = None) -> None:
        self.home = home.absolute()
        self.asked_port = port
        self.extra = dict(environment or {})
        self._client: httpx.Client | None = None
        self._children: list[subprocess.Popen[bytes]] = []
        self._started = False

    def __enter__(self) -> Self:
        self._started = self.up()
        return self

    def __exit__(self, *_: object) -> None:
        if self._started:  # what was running before stays
            self.down()

    # --- processes ---

    def up(self) -> bool:
        """Start what is not running and wait until all three are healthy.

        Returns
        -------
        bool
            False when it was running already.

        Raises
        ------
        AirflowError
            A component ended or did not become healthy in time.
        """
        if all(self.processes().values()):
            return False
        needed = self.components
        self.down()
        self.home.mkdir(parents=True, exist_ok=True)
        self.home.chmod(0o700)  # the database holds connections and sessions
        port = self.asked_port if self.asked_port and _is_free(self.asked_port) else _free_port()
        self._state.write_text(json.dumps({"port": port}))
        environment = self._environment(port)
        try:
            self._migrate(environment)
            for name, arguments in needed.items():
                self._start(name, arguments, environment)
            _wait_until(self._is_healthy, HEALTHY_WITHIN, lambda: f"Airflow did not become healthy\n{self._tails()}")
        except BaseException:
            self.down()
            raise
        return True

    def down(self) -> bool:
        """End every process of every component: SIGTERM, then SIGKILL; False when none was running."""
        if self._client is not None:
            self._client.close()
            self._client = None
        groups = [pid for name in COMPONENTS | TRIGGERER if (pid := self._pid(name)) and _members(pid)]
        for group in groups:
            _signal(group, signal.SIGTERM)
        deadline = time.monotonic() + STOPPED_WITHIN
        while time.monotonic() < deadline and any(_members(group) for group in groups):
            time.sleep(0.1)
        for group in groups:
            _signal(group, signal.SIGKILL)
        while self._children:
            self._children.pop().wait()
        for name in COMPONENTS | TRIGGERER:
            self._pid_file(name).unlink(missing_ok=True)
        return bool(groups)

    def processes(self) -> dict[str, int | None]:
        """Process id of each component, None where it does not run."""
        pids = {name: self._pid(name) for name in self.components}
        return {name: pid if pid and pid in _members(pid) else None for name, pid in pids.items()}

    @property
    def components(self) -> dict[str, list[str]]:
        """What has to run for the model files that are there."""
        place = self.extra.get("HINDCAST_CONFIG") or os.environ.get("HINDCAST_CONFIG") or ROOT / "include" / "models"
        try:
            models = [item for item in config.load_all(place) if not isinstance(item, ConfigError)]
        except ConfigError:  # the DAGs will say so
            models = []
        return COMPONENTS | TRIGGERER if any(model.logs.ready for model in models) else COMPONENTS

    def _pid(self, name: str) -> int | None:
        try:
            return int(self._pid_file(name).read_text())
        except (FileNotFoundError, ValueError):
            return None

    @property
    def url(self) -> str:
        """Address of the UI and of the REST API."""
        return f"http://{HOST}:{json.loads(self._state.read_text())['port']}"

    @property
    def password(self) -> str:
        """Password of the user ``admin``."""
        return str(json.loads(self._passwords.read_text())["admin"])

    @property
    def _state(self) -> Path:
        return self.home / "state.json"

    @property
    def _passwords(self) -> Path:
        return self.home / "passwords.json"

    def _pid_file(self, name: str) -> Path:
        return self.home / f"{name}.pid"

    def _log_file(self, name: str) -> Path:
        return self.home / "logs" / f"{name}.log"

    def _environment(self, port: int) -> dict[str, str]:
        keys = _kept(
            self.home / "secrets.json",
            lambda: {
                "jwt": secrets.token_urlsafe(64),
                "session": secrets.token_urlsafe(32),
                "fernet": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
            },
        )
        _kept(self._passwords, lambda: {"admin": secrets.token_urlsafe(12)})
        url = f"http://{HOST}:{port}"
        path = os.pathsep.join(filter(None, [str(ROOT / "include"), os.environ.get("PYTHONPATH")]))
        return {
            "HINDCAST_RESULTS": f"sqlite:///{Path.cwd()}/.hindcast/results.db",
            "AIRFLOW__CORE__PARALLELISM": "4",
            **os.environ,
            "PYTHONPATH": path,
            "AIRFLOW_HOME": str(self.home),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{self.home}/airflow.db",
            "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CORE__FERNET_KEY": keys["fernet"],
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "False",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(self._passwords),
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
            "AIRFLOW__API__HOST": HOST,
            "AIRFLOW__API__PORT": str(port),
            "AIRFLOW__API__BASE_URL": url,
            "AIRFLOW__API__SECRET_KEY": keys["session"],
            "AIRFLOW__API_AUTH__JWT_SECRET": keys["jwt"],
            **self.extra,
        }

    def _migrate(self, environment: Mapping[str, str]) -> None:
        """Make the database, once per version of Airflow."""
        stamp = self.home / "migrated"
        if stamp.exists() and stamp.read_text() == version("apache-airflow"):
            return
        log = self._log_file("migrate")
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as output:
            ended = subprocess.run(
                [_command(), "db", "migrate"], env=environment, stdout=output, stderr=subprocess.STDOUT, check=False
            )
        if ended.returncode:
            message = f"airflow db migrate ended with {ended.returncode}; the end of {log}:\n{_tail(log)}"
            raise AirflowError(message)
        stamp.write_text(version("apache-airflow"))

    def _start(self, name: str, arguments: list[str], environment: Mapping[str, str]) -> None:
        log = self._log_file(name)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as output:
            # A session of its own: a signal to its group reaches its children and nothing else.
            process = subprocess.Popen(
                [_command(), *arguments],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._pid_file(name).write_text(str(process.pid))
        self._children.append(process)

    def _is_healthy(self) -> bool:
        ended = [name for name, pid in self.processes().items() if pid is None]
        if ended:
            message = f"{ended[0]} ended; the end of its log:\n{_tail(self._log_file(ended[0]))}"
            raise AirflowError(message)
        return all(status == "healthy" for status in self.health().values())

    def health(self) -> dict[str, str | None]:
        """Return what Airflow says of its components; empty statuses while it does not answer."""
        import httpx

        try:
            answer = httpx.get(f"{self.url}/api/v2/monitor/health", timeout=5)
            answer.raise_for_status()
        except httpx.HTTPError:
            return {"metadatabase": None}
        parts = [
            "metadatabase",
            "scheduler",
            "dag_processor",
            *(["triggerer"] if "triggerer" in self.components else []),
        ]
        return {part: answer.json()[part]["status"] for part in parts}

    def _tails(self) -> str:
        return "\n".join(f"--- {name}\n{_tail(self._log_file(name))}" for name in self.components)

    # --- REST ---

    def request(self, method: str, path: str, *, body: object = None, **query: Any) -> Any:
        """Call the REST API as ``admin`` and return the JSON of its answer.

        Raises
        ------
        AirflowError
            The answer is an error; the message has what Airflow said.
        """
        answer = self._send(method, path, body, query)
        # On SQLite, Airflow's api-server blocks itself while a task reports its state in the very moment in which it
        # writes down who calls it: after 5 s it gives up with a "Database error", before it has done anything.
        for _ in range(ATTEMPTS - 1):
            if answer.status_code != HTTPStatus.INTERNAL_SERVER_ERROR:
                break
            answer = self._send(method, path, body, query)
        if answer.is_error:
            message = f"{method} {path}: {answer.status_code} {answer.text}"
            raise AirflowError(message)
        return answer.json()

    def _send(self, method: str, path: str, body: object, query: Mapping[str, Any]) -> httpx.Response:
        import httpx

        if self._client is None:
            credentials = {"username": "admin", "password": self.password}
            token = httpx.post(f"{self.url}/auth/token", json=credentials, timeout=30).raise_for_status().json()
            headers = {"Authorization": f"Bearer {token['access_token']}", "Accept": "application/json"}
            self._client = httpx.Client(base_url=f"{self.url}/api/v2", headers=headers, timeout=60)
        return self._client.request(method, path, json=body, params=dict(query) or None)

    def dag_ids(self) -> list[str]:
        """Every DAG that Airflow has read so far."""
        return [dag["dag_id"] for dag in self.request("GET", "/dags", limit=500)["dags"]]

    def wait_for_dags(self, dag_ids: Collection[str], within: float = 60.0) -> None:
        """Wait until Airflow has read the files of these DAGs."""
        missing = set(dag_ids)
        _wait_until(
            lambda: missing <= set(self.dag_ids()),
            within,
            lambda: f"Airflow has not read {missing - set(self.dag_ids())}",
        )

    def unpause(self, dag_id: str) -> None:
        """Let the DAG run, as soon as Airflow has read its file."""
        self.wait_for_dags([dag_id])
        self.request("PATCH", f"/dags/{dag_id}", body={"is_paused": False})

    def trigger(self, dag_id: str, conf: Mapping[str, object] | None = None, run_id: str | None = None) -> str:
        """Start a manual run without logical date and return its run id."""
        body = {"logical_date": None, "conf": dict(conf or {}), **({"dag_run_id": run_id} if run_id else {})}
        return str(self.request("POST", f"/dags/{dag_id}/dagRuns", body=body)["dag_run_id"])

    def wait(self, dag_id: str, run_id: str, timeout: float = 120.0) -> tuple[str, dict[str, str | None]]:
        """Wait for the end of a run; its state and the states of its tasks.

        Raises
        ------
        AirflowError
            It did not end within `timeout` seconds.
        """
        path = f"/dags/{dag_id}/dagRuns/{run_id}"

        def states() -> dict[str, str | None]:
            tasks = self.request("GET", f"{path}/taskInstances", limit=500)["task_instances"]
            return {task["task_id"]: task["state"] for task in tasks}

        def ended() -> bool:
            return self.request("GET", path)["state"] in {"success", "failed"}

        _wait_until(ended, timeout, lambda: f"{dag_id} {run_id} did not end; its tasks: {states()}")
        return self.request("GET", path)["state"], states()

    def task_log(self, dag_id: str, run_id: str, task_id: str, attempt: int = 1) -> str:
        """Text of a task's log."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/logs/{attempt}"
        content = self.request("GET", path, full_content=True)["content"]
        return content if isinstance(content, str) else "\n".join(json.dumps(line) for line in content)

    def xcom(self, dag_id: str, run_id: str, task_id: str) -> Any:
        """Return what a task returned."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/return_value"
        return self.request("GET", path)["value"]


def _wait_until(condition: Callable[[], bool], seconds: float, failure: Callable[[], str]) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            message = f"after {seconds:.0f} s: {failure()}"
            raise AirflowError(message)
        time.sleep(0.25)


def _command() -> str:
    command = Path(sys.executable).with_name("airflow")
    if not command.exists():
        message = f"{command}: Airflow is not installed beside this Python; run `make setup`"
        raise AirflowError(message)
    return str(command)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _write_private(path: Path, text: str) -> None:
    """Write a file that no other account can read, not even for the moment in which it is made."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


def _kept(path: Path, make: Callable[[], dict[str, str]]) -> dict[str, str]:
    """Return the JSON at `path`, made the first time."""
    if not path.exists():
        _write_private(path, json.dumps(make()))
    content: dict[str, str] = json.loads(path.read_text())
    return content


def _tail(path: Path) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-LOG_TAIL:]) if path.exists() else "(no log)"


def _members(group: int) -> list[int]:
    """Airflow's processes in a process group; a pid file may be old and its number another program's by now."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == group and "airflow" in " ".join(process.cmdline()):
                found.append(process.pid)
        except (ProcessLookupError, psutil.Error):  # it ended meanwhile; a zombie has no command line
            continue
    return found


def _signal(group: int, number: signal.Signals) -> None:
    if _members(group):
        with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
            os.killpg(group, number)


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m demo.airflow", description="Airflow on this machine.")
    parser.add_argument("action", choices=["up", "down", "status"])
    parser.add_argument("--home", type=Path, default=ROOT / ".airflow", help="AIRFLOW_HOME (default: %(default)s)")
    parser.add_argument("--port", type=int, default=PORT, help="port of the UI (default: %(default)s)")
    options = parser.parse_args()
    airflow = Airflow(options.home, options.port)
    try:
        return {"up": _up, "down": _down, "status": _status}[options.action](airflow)
    except AirflowError as error:
        print(error, file=sys.stderr)
        return 1


def _up(airflow: Airflow) -> int:
    print(f"Starting Airflow under {airflow.home} …")
    started = airflow.up()
    print("Airflow is running." if started else "Airflow is already running.")
    if started and not airflow.url.endswith(f":{airflow.asked_port}"):
        print(f"Port {airflow.asked_port} is taken; a free one was chosen.")
    print(f"  {airflow.url}   user admin   password {airflow.password}   (`make down` stops it)")
    return 0


def _down(airflow: Airflow) -> int:
    print("Airflow is stopped." if airflow.down() else "Airflow was not running.")
    return 0


def _status(airflow: Airflow) -> int:
    processes = airflow.processes()
    for name, pid in processes.items():
        print(f"{name}: {f'running, pid {pid}' if pid else 'not running'}")
    if all(processes.values()):
        print(f"{airflow.url}: {', '.join(f'{part} {state}' for part, state in airflow.health().items())}")
    return 0 if all(processes.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
