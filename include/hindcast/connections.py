"""Secrets and addresses are Airflow Connections, whether a task asks or the command line.

A Connection comes from ``AIRFLOW_CONN_<ID>`` (JSON or URI) or, inside a task, from whatever secrets backend or metadata
database Airflow is configured with.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import Any

from hindcast.errors import UsageError


@dataclass(frozen=True)
class Connection:
    """What an Airflow Connection says; the password is never shown."""

    id: str
    kind: str = ""
    host: str | None = None
    port: int | None = None
    schema: str | None = None
    login: str | None = None
    password: str | None = field(default=None, repr=False)
    extra: dict[str, Any] = field(default_factory=dict, repr=False)

    def number(self, key: str, default: float) -> float:
        """A number of the extra that is not negative.

        Raises
        ------
        UsageError
            It is none.

        Examples
        --------
        >>> Connection("lake", extra={"retry_seconds": "30"}).number("retry_seconds", 120.0)
        30.0
        """
        return number_of(self.extra, key, default, f"connection {self.id!r}: extra")

    def section(self, *keys: str) -> dict[str, Any]:
        """A JSON object inside the extra; empty where there is none.

        Raises
        ------
        UsageError
            Something else stands there.

        Examples
        --------
        >>> Connection("lake", extra={"service_config": {"s3": {"a": 1}}}).section("service_config", "s3")
        {'a': 1}
        """
        found: Any = self.extra
        for at, key in enumerate(keys, 1):
            found = found.get(key) or {}
            if not isinstance(found, dict):
                where = ".".join(keys[:at])
                message = f"connection {self.id!r}: extra.{where} is a {type(found).__name__}; allowed: a JSON object"
                raise UsageError(message)
        return dict(found)


def number_of(content: dict[str, Any], key: str, default: float, named: str) -> float:
    """A number that is not negative, under a key of some JSON that is called `named`.

    Raises
    ------
    UsageError
    """
    given = content.get(key, default)
    try:
        found = float(given)
    except (TypeError, ValueError):
        found = -1.0
    if not 0 <= found < float("inf"):
        message = f"{named}.{key} is {given!r}; allowed: a number, 0 or more"
        raise UsageError(message)
    return found


def connection(name: str) -> Connection:
    """The Connection of that name.

    Raises
    ------
    UsageError
        There is none, or it cannot be read.

    Examples
    --------
    >>> os.environ["AIRFLOW_CONN_LAKE"] = '{"conn_type": "spark", "host": "local[2]", "extra": {"packages": "a:b:1"}}'
    >>> connection("lake").host, connection("lake").extra
    ('local[2]', {'packages': 'a:b:1'})
    """
    given = os.environ.get(f"AIRFLOW_CONN_{name.upper()}")
    if given and given.lstrip().startswith("{"):
        return _from_json(name, given)
    # Importing Airflow costs seconds: only for what its own parser or its secrets backends must read.
    try:
        from airflow.sdk import Connection as AirflowConnection
        from airflow.sdk.exceptions import AirflowNotFoundException, AirflowRuntimeError
    except ImportError as error:
        message = f"connection {name!r}: set AIRFLOW_CONN_{name.upper()} to JSON; Airflow is not installed here"
        raise UsageError(message) from error

    try:
        found = AirflowConnection.get(name)
    except (AirflowNotFoundException, AirflowRuntimeError, ValueError) as error:
        message = (
            f"connection {name!r}: not found ({error}); add it in Airflow, or set AIRFLOW_CONN_{name.upper()} to JSON "
            'such as {"conn_type": "aws", "login": "…", "password": "…", "extra": {}}'
        )
        raise UsageError(message) from error
    return Connection(
        name, found.conn_type or "", found.host, found.port, found.schema, found.login, found.password,
        found.extra_dejson,
    )  # fmt: skip


def _from_json(name: str, text: str) -> Connection:
    try:
        content = json.loads(text)
        extra = content.get("extra") or {}
        extra = json.loads(extra) if isinstance(extra, str) else extra
        port = content.get("port")
        return Connection(
            name,
            content.get("conn_type") or "",
            content.get("host"),
            int(port) if port else None,
            content.get("schema"),
            _text(content.get("login")),
            _text(content.get("password")),
            dict(extra),
        )
    except (AttributeError, ValueError, TypeError) as error:
        # the text holds a secret: it is not repeated
        message = (
            f"connection {name!r}: AIRFLOW_CONN_{name.upper()} is no valid JSON connection: {type(error).__name__}"
        )
        raise UsageError(message) from error


def _text(value: Any) -> str | None:
    """JSON may hold a number where text belongs."""
    return None if value is None else str(value)
