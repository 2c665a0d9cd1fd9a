"""The Prometheus Pushgateway: where it is, how one signs in, and requests that are made again with growing pauses."""

from __future__ import annotations

import base64
import os
import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPSHandler, ProxyHandler, Request, build_opener

from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from hindcast.connections import connection
from hindcast.errors import PushFailed, PushRefused, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from hindcast.connections import Connection

JOB = "hindcast"
ATTEMPTS = 4
_TIMEOUT = 10.0
# Answers that may be others the next time; everything else from 400 to 499 is about what was sent.
_PASSING = {408, 425, 429}
_SIGN_IN = {401, 403, 407}


@dataclass(frozen=True)
class Gateway:
    """One Pushgateway.

    Parameters
    ----------
    url : str
        Without a path below the gateway's own root.
    authorization : str, optional
        Value of the header of that name.
    tls : ssl.SSLContext, optional
        For https; the system's authorities by default.
    """

    url: str
    authorization: str | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = field(default=None, repr=False)

    def put(self, key: Mapping[str, str], families: Sequence[Any]) -> None:
        """Replace a group.

        Parameters
        ----------
        key : mapping
            Labels of the group beside ``job``.
        families : sequence of prometheus_client metrics

        Raises
        ------
        PushRefused
            The gateway will not have it.
        PushFailed
            It could not be reached, also after `ATTEMPTS` tries.
        """
        from prometheus_client import CollectorRegistry, push_to_gateway

        registry = CollectorRegistry()
        for family in families:
            registry.register(family)
        self._asked(push_to_gateway, key, registry=registry)

    def delete(self, key: Mapping[str, str]) -> None:
        """Delete a group; one that is not there is deleted too.

        Raises
        ------
        PushRefused, PushFailed
            See `put`.
        """
        from prometheus_client import delete_from_gateway

        self._asked(delete_from_gateway, key)

    def _asked(self, ask: Callable[..., None], key: Mapping[str, str], **arguments: Any) -> None:
        options = {"job": JOB, "grouping_key": dict(key), "timeout": _TIMEOUT, "handler": self._handler, **arguments}
        again = Retrying(
            stop=stop_after_attempt(ATTEMPTS),
            wait=wait_random_exponential(multiplier=0.5, max=5),
            retry=retry_if_exception(_passes),
            reraise=True,
        )
        try:
            again(ask, self.url, **options)
        except HTTPError as error:
            said = error.read().decode(errors="replace").strip().splitlines()
            message = f"Pushgateway {self.url}: {error}" + (f": {said[0]:.200}" if said else "")
            if _passes(error):
                raise PushFailed(message) from error
            if error.code in _SIGN_IN:
                message += "; check login, password or token of the Airflow connection in HINDCAST_PUSHGATEWAY"
                raise PushFailed(message) from error
            raise PushRefused(message) from error
        except OSError as error:
            message = f"Pushgateway {self.url}: {error}"
            raise PushFailed(message) from error

    def _handler(
        self, url: str, method: str, timeout: float | None, headers: Sequence[tuple[str, str]], data: bytes
    ) -> Callable[[], None]:
        """What prometheus_client calls to send; a redirect is refused, since it would carry the password elsewhere."""

        def send() -> None:
            request = Request(url, data=data, method=method)  # noqa: S310 - http or https, see `find`
            for name, value in headers:
                request.add_header(name, value)
            if self.authorization:
                request.add_header("Authorization", self.authorization)
            with build_opener(HTTPSHandler(context=self.tls), ProxyHandler()).open(request, timeout=timeout):
                pass

        return send


def _passes(error: BaseException) -> bool:
    if isinstance(error, HTTPError):
        return error.code in _PASSING or error.code >= 500
    return isinstance(error, OSError) and not isinstance(getattr(error, "reason", error), ssl.SSLCertVerificationError)


def find(given: str | None = None) -> Gateway | None:
    """The gateway that was given, else the one in HINDCAST_PUSHGATEWAY: a URL, or the name of an Airflow Connection.

    Raises
    ------
    UsageError
        Neither a URL nor a Connection.

    Examples
    --------
    >>> find("http://127.0.0.1:9091/").url
    'http://127.0.0.1:9091'
    >>> os.environ["AIRFLOW_CONN_PUSH"] = '{"conn_type": "http", "schema": "https", "host": "push.example"}'
    >>> find("push").url
    'https://push.example'
    """
    given = given or os.environ.get("HINDCAST_PUSHGATEWAY")
    if not given:
        return None
    if "://" not in given:
        return of_connection(connection(given))
    parts = urlsplit(given)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        message = f"HINDCAST_PUSHGATEWAY: {given!r} is no http or https URL, and no Airflow connection has such a name"
        raise UsageError(message)
    if parts.password:
        message = "HINDCAST_PUSHGATEWAY holds a password: make an Airflow connection, and give its name instead"
        raise UsageError(message)
    return Gateway(given.rstrip("/"))


def of_connection(found: Connection) -> Gateway:
    """The gateway of an Airflow Connection.

    Host, port and schema (http or https) say where it is; login and password are basic authentication. Keys of `extra`:
    `token` (bearer), `ca`, `cert` and `key` (files).

    Raises
    ------
    UsageError
        A part is missing, or a file cannot be read.

    Examples
    --------
    >>> from hindcast.connections import Connection
    >>> made = of_connection(Connection("g", host="gw", port=9091, login="a", password="b"))
    >>> made.url, made.authorization
    ('http://gw:9091', 'Basic YTpi')
    """
    if not found.host:
        message = f"connection {found.id!r}: has no host; the Pushgateway's is needed"
        raise UsageError(message)
    base = found.host if "://" in found.host else f"{found.schema or 'http'}://{found.host}"
    url = base.rstrip("/") + (f":{found.port}" if found.port else "")
    if urlsplit(url).scheme not in {"http", "https"}:
        message = f"connection {found.id!r}: schema {urlsplit(url).scheme!r}; allowed: http, https"
        raise UsageError(message)
    authorization = None
    if found.extra.get("token"):
        authorization = f"Bearer {found.extra['token']}"
    elif found.login:
        authorization = "Basic " + base64.b64encode(f"{found.login}:{found.password or ''}".encode()).decode()
    return Gateway(url, authorization, _tls(found))


def _tls(found: Connection) -> ssl.SSLContext | None:
    files = {name: found.extra.get(name) for name in ("ca", "cert", "key")}
    if not any(files.values()):
        return None
    try:
        context = ssl.create_default_context(cafile=files["ca"])
        if files["cert"]:
            context.load_cert_chain(files["cert"], files["key"])
    except (OSError, ssl.SSLError) as error:
        message = f"connection {found.id!r}: ca, cert or key of its extra cannot be read: {error}"
        raise UsageError(message) from error
    return context
