"""One Spark session per process, made from an Airflow Connection: master, conf and packages."""

from __future__ import annotations

import atexit
import os
import shutil
import socket
import sys
import tempfile
import zipfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import hindcast
from hindcast import errors
from hindcast.errors import HindcastError, SourceBusy, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pyspark.sql import SparkSession

    from hindcast.connections import Connection

# What a Connection may override.
_DEFAULTS: Final = {
    "spark.app.name": "hindcast",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.log.level": "ERROR",
    # Two attempts of one task write the same bytes under names of their own, so a straggler may be raced.
    "spark.speculation": "false",
}
# What it may not: tasks hand over Arrow batches of a few large rows, and moments are UTC everywhere.
_FIXED: Final = {"spark.sql.session.timeZone": "UTC", "spark.sql.execution.arrow.maxRecordsPerBatch": "16"}
_ANSWER_SECONDS: Final = 5.0
_MASTER_PORT: Final = 7077
_running: dict[str, SparkSession] = {}


def settings(given: Connection) -> dict[str, str]:
    """Spark properties of a Connection: ``host`` (and ``port``) is the master, ``extra`` holds conf and packages.

    Parameters
    ----------
    given : Connection
        ``extra``: ``conf`` (mapping of Spark properties), ``packages`` and ``repositories`` (Maven coordinates and
        addresses, as a list or with commas). Other keys, which Airflow's own Spark operators read, are left alone.

    Raises
    ------
    UsageError
        There is no master, or ``conf`` is no mapping.

    Examples
    --------
    >>> from hindcast.connections import Connection
    >>> lake = Connection("lake", host="spark://head", port=7077, extra={"conf": {"spark.executor.memory": "4g"}})
    >>> found = settings(lake)
    >>> found["spark.master"], found["spark.executor.memory"], found["spark.sql.session.timeZone"]
    ('spark://head:7077', '4g', 'UTC')
    """
    conf = given.extra.get("conf") or {}
    if not given.host or not isinstance(conf, dict):
        message = (
            f'connection {given.id!r}: names no usable Spark; host must be a master such as "local[*]", "yarn" or '
            '"spark://head:7077", and extra.conf a mapping of Spark properties'
        )
        raise UsageError(message)
    master = given.host
    if given.port:  # Airflow's URI form of a connection takes spark:// for its own scheme
        master = f"{master if '://' in master else f'spark://{master}'}:{given.port}"
    found = {**_DEFAULTS, "spark.master": master}
    if master.startswith("local"):
        found |= {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}
    for key, name in (("packages", "spark.jars.packages"), ("repositories", "spark.jars.repositories")):
        values = given.extra.get(key)
        if values:
            found[name] = values if isinstance(values, str) else ",".join(values)
    found |= {name: _property(value) for name, value in conf.items()}
    # the cores of a machine are shared out among its tasks
    return found | {"spark.executorEnv.HINDCAST_THREADS": found.get("spark.task.cpus", "1")} | _FIXED


def _property(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def session(wanted: Mapping[str, str]) -> SparkSession:
    """The session of these properties; another one that this process has is stopped first.

    Raises
    ------
    UsageError
        pyspark or Java is not installed here.
    SourceBusy
        The master does not answer, or refuses.
    """
    key = repr(sorted(wanted.items()))
    if key not in _running:
        stop()
        _running[key] = _start(wanted)
    return _running[key]


def stop() -> None:
    """End the session of this process, if there is one."""
    while _running:
        _running.popitem()[1].stop()


def _start(wanted: Mapping[str, str]) -> SparkSession:
    _check_installed()
    _check_master(wanted["spark.master"])
    from py4j.protocol import Py4JError  # type: ignore[import-untyped]
    from pyspark.errors import PySparkException
    from pyspark.sql import SparkSession

    # pyspark hands this to its workers; it reads no property of that name outside of spark-submit
    os.environ.setdefault("PYSPARK_PYTHON", wanted.get("spark.pyspark.python", sys.executable))
    builder = SparkSession.builder
    for name, value in wanted.items():
        builder = builder.config(name, value)
    try:
        found = builder.getOrCreate()
    except (PySparkException, OSError, Py4JError) as error:
        message = f"Spark at {wanted['spark.master']}: no session could be started: {_first_line(error)}"
        raise SourceBusy(message) from error
    found.sparkContext.addPyFile(str(_shipped()))
    atexit.register(stop)
    return found


def _check_installed() -> None:
    try:
        import pyspark  # noqa: F401 - only whether it is there
    except ImportError as error:
        message = "engine spark: pyspark is not installed; pip install 'hindcast[spark]', or use engine: local"
        raise UsageError(message) from error
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home, "bin", "java")) if home else "java"
    if shutil.which(java) is None:
        message = f"engine spark: {java} is not there; Spark 4 needs Java 17 or 21 (JAVA_HOME, or java on the PATH)"
        raise UsageError(message)


def _check_master(master: str) -> None:
    """Ask whether a standalone master listens: Spark itself would try for a minute and then end the process's JVM."""
    if not master.startswith("spark://"):
        return
    refused = []
    for address in master.removeprefix("spark://").split(","):
        place = urlsplit(f"//{address}")
        try:
            socket.create_connection((place.hostname or "", place.port or _MASTER_PORT), _ANSWER_SECONDS).close()
        except OSError as error:
            refused.append(f"{address}: {error}")
        else:
            return
    message = f"Spark at {master}: no master answers within {_ANSWER_SECONDS:g} s ({'; '.join(refused)})"
    raise SourceBusy(message)


def _shipped() -> Path:
    """The package as a zip, so that executors run the code of the driver; numpy and pyarrow must be there already."""
    root = Path(hindcast.__file__).parent
    folder = Path(tempfile.mkdtemp(prefix="hindcast-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    archive = folder / "hindcast.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as content:
        for path in sorted(root.rglob("*.py")):
            content.write(path, path.relative_to(root.parent))
    return archive


@contextmanager
def failures(doing: str) -> Iterator[None]:
    """Turn the failure of a job into an error of our own tree.

    Raises
    ------
    HindcastError
        The kind that a task raised in an executor; `SourceBusy` when Spark itself gave up.
    """
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException, PythonException

    try:
        yield
    except PythonException as error:
        kind, reason = _raised(str(error))
        message = f"{doing}: {reason}"
        raise kind(message) from error
    except (PySparkException, Py4JError) as error:
        message = f"{doing}: Spark gave up: {_first_line(error)}"
        raise SourceBusy(message) from error


def _raised(trace: str) -> tuple[type[HindcastError], str]:
    r"""Kind and text of the exception that ends the traceback of an executor.

    Examples
    --------
    >>> _raised("Traceback:\n  File ...\nhindcast.errors.SourceMissing: /logs: no such folder\n\tat org.apache...")
    (<class 'hindcast.errors.SourceMissing'>, '/logs: no such folder')
    """
    lines = [line for line in trace.splitlines() if line and not line[0].isspace()]
    for line in reversed(lines):
        if line.startswith("hindcast.errors."):
            name, _, reason = line.removeprefix("hindcast.errors.").partition(": ")
            return getattr(errors, name, HindcastError), reason
    return HindcastError, lines[-1] if lines else "no reason given"


def _first_line(error: Exception) -> str:
    java: Any = getattr(error, "java_exception", None)
    text = str(java.toString()) if java is not None else str(error)
    return text.strip().splitlines()[0] if text.strip() else type(error).__name__
