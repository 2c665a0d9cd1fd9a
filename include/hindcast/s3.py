"""A client of S3 as an Airflow Connection describes it, how long trying again is worth it, and what its refusals mean.

The source of logs reads with it and the logger writes with it, so that both know the same keys of the Connection.
"""

from __future__ import annotations

import json
import os
import threading
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from hindcast.connections import number_of
from hindcast.errors import HindcastError, SourceBusy, SourceMissing, SourceUnreadable, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    import tenacity

    from hindcast.connections import Connection

T = TypeVar("T")

# Eight attempts wait some 16 s in all on average, at most 32.
ATTEMPTS, RETRY_SECONDS, FIRST_PAUSE, LONGEST_PAUSE = 8, 120.0, 0.25, 20.0
CONNECT_SECONDS, READ_SECONDS = 10.0, 20.0
# Sockets that a client holds: no more requests than that at once.
SOCKETS = 16

_PASSING_CODES = {
    "SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "RequestTimeTooSkewed", "Throttling",
    "ThrottlingException", "RequestLimitExceeded", "TooManyRequestsException", "OperationAborted",
    "ConditionalRequestConflict",
}  # fmt: skip
_NEVER = {501, 505}  # the server cannot, today or tomorrow
_WRONG_KEY = {
    "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "TokenRefreshRequired",
    "InvalidClientTokenId", "UnrecognizedClientException",
}  # fmt: skip
_ELSEWHERE = {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}
_CLIENTS: dict[tuple[int, str], Any] = {}
_LOCK = threading.Lock()


class Interrupted(Exception):
    """A body that broke off, or came too slowly: worth asking for again."""


def split(uri: str) -> tuple[str, str]:
    """Bucket, and key or prefix without slashes around it.

    Raises
    ------
    UsageError
        The URI names no bucket.

    Examples
    --------
    >>> split("s3://logs/churn/v2/"), split("s3://logs")
    (('logs', 'churn/v2'), ('logs', ''))
    """
    bucket, _, rest = uri.removeprefix("s3://").partition("/")
    if not uri.startswith("s3://") or not bucket:
        message = f"{uri}: names no bucket; allowed: s3://bucket or s3://bucket/prefix"
        raise UsageError(message)
    return bucket, rest.strip("/")


def client(given: Connection) -> Any:
    """The boto3 client of a Connection; one per process, which any number of threads may share.

    It tries nothing again by itself: `patience` does. Known are the keys of Airflow's own ``aws`` connection: login and
    password (or ``aws_access_key_id`` and ``aws_secret_access_key`` in the extra), ``aws_session_token``,
    ``region_name``, ``endpoint_url``, ``service_config``, ``profile_name``, ``role_arn``, ``assume_role_kwargs``,
    ``config_kwargs``, ``verify``. Without any, the environment's own credentials are used.

    Raises
    ------
    UsageError
        The Connection makes no sense.
    """
    key = (os.getpid(), json.dumps(asdict(given), sort_keys=True, default=str))  # a fork must not share sockets
    with _LOCK:
        if key not in _CLIENTS:
            _CLIENTS[key] = _client(given)
        return _CLIENTS[key]


def _client(given: Connection) -> Any:
    try:
        import boto3
        from botocore.exceptions import BotoCoreError
    except ImportError as error:
        message = "s3:// needs boto3, which is not installed; install hindcast[s3]"
        raise UsageError(message) from error
    extra = given.extra
    endpoint = given.section("service_config", "s3").get("endpoint_url") or extra.get("endpoint_url")
    try:
        session = boto3.session.Session(botocore_session=_session(given))
        return session.client(
            "s3",
            endpoint_url=endpoint,
            verify=extra.get("verify"),
            config=_config(given, own=bool(endpoint)),
        )
    except (BotoCoreError, ValueError, TypeError) as error:
        # boto3 repeats keys of the configuration, never the secret
        message = f"{_named(given)}: makes no client of S3: {_first_line(error)}"
        raise UsageError(message) from error


def _config(given: Connection, *, own: bool) -> Any:
    """Of botocore; `own`: an endpoint that is not Amazon's, which may know neither bucket hosts nor checksums."""
    from botocore import UNSIGNED
    from botocore.config import Config

    options = given.section("config_kwargs")
    if given.extra.get("anonymous") or options.get("signature_version") == "unsigned":
        options["signature_version"] = UNSIGNED
    if own:
        options["s3"] = {"addressing_style": "path", **(options.get("s3") or {})}
        options.setdefault("request_checksum_calculation", "when_required")
        options.setdefault("response_checksum_validation", "when_required")
    options["retries"] = {"mode": "standard", "total_max_attempts": 1}
    options.setdefault("connect_timeout", CONNECT_SECONDS)
    options.setdefault("read_timeout", READ_SECONDS)
    options.setdefault("max_pool_connections", SOCKETS)
    return Config(**options)


def _session(given: Connection) -> Any:
    """Credentials and region."""
    import botocore.session

    extra = given.extra
    session = botocore.session.Session(profile=extra.get("profile_name"))
    if extra.get("region_name"):
        session.set_config_variable("region", extra["region_name"])
    key = given.login or extra.get("aws_access_key_id")
    if key:
        secret = given.password or extra.get("aws_secret_access_key")
        if not secret:
            message = f"{_named(given)}: has a login (the access key) and no password (its secret)"
            raise UsageError(message)
        session.set_credentials(key, secret, extra.get("aws_session_token"))
    if extra.get("role_arn"):
        _assume(session, given)
    return session


def _assume(session: Any, given: Connection) -> None:
    """Put the role's credentials, fetched anew before they expire, in the place of those that may assume it."""
    from botocore.credentials import AssumeRoleCredentialFetcher, DeferredRefreshableCredentials

    extra = given.extra
    method = extra.get("assume_role_method", "assume_role")
    if method != "assume_role":
        message = (
            f"{_named(given)}: assume_role_method is {method!r}; allowed: assume_role. For a web identity leave"
            " role_arn out and set AWS_ROLE_ARN and AWS_WEB_IDENTITY_TOKEN_FILE, which boto3 reads itself"
        )
        raise UsageError(message)
    endpoint = given.section("service_config", "sts").get("endpoint_url")
    credentials = session.get_credentials()
    if credentials is None:
        message = f"{_named(given)}: has a role_arn, and nobody has credentials that may assume it"
        raise UsageError(message)
    fetcher = AssumeRoleCredentialFetcher(
        client_creator=partial(session.create_client, endpoint_url=endpoint),
        source_credentials=credentials,
        role_arn=extra["role_arn"],
        extra_args={"RoleSessionName": "hindcast", **given.section("assume_role_kwargs")},
    )
    session._credentials = DeferredRefreshableCredentials(  # noqa: SLF001 - botocore has no public way for these
        method="assume-role", refresh_using=fetcher.fetch_credentials
    )


def patience(given: Connection) -> tenacity.Retrying:
    """How often, and with what pauses, a call is tried again: ``patience(given)(function, …)``.

    Pauses are random below a limit that doubles. The Connection's ``config_kwargs.retries.total_max_attempts`` (or
    ``max_attempts``, of retries alone), and ``retry_seconds`` and ``backoff_seconds`` (the first limit) in the extra
    say otherwise. What is not `passing` is raised at once.

    Raises
    ------
    UsageError
        One of these is no number.
    """
    import tenacity

    retries = given.section("config_kwargs", "retries")
    named = f"connection {given.id!r}: extra.config_kwargs.retries"
    attempts = number_of(retries, "total_max_attempts", 0, named)
    attempts = int(attempts or number_of(retries, "max_attempts", ATTEMPTS - 1, named) + 1)
    seconds = given.number("retry_seconds", RETRY_SECONDS)
    first = given.number("backoff_seconds", FIRST_PAUSE)
    return tenacity.Retrying(
        stop=tenacity.stop_after_attempt(attempts) | tenacity.stop_after_delay(seconds),
        wait=tenacity.wait_random_exponential(multiplier=first, max=LONGEST_PAUSE),
        retry=tenacity.retry_if_exception(passing),
        reraise=True,
    )


def call(given: Connection, uri: str, permission: str, function: Callable[..., T], /, **arguments: Any) -> T:
    """Call a function of the client, again while it makes sense.

    Raises
    ------
    HindcastError
        As `refusal` says.
    """
    from botocore.exceptions import BotoCoreError, ClientError
    from urllib3.exceptions import HTTPError

    try:
        return patience(given)(function, **arguments)
    except (BotoCoreError, ClientError, HTTPError, Interrupted, OSError) as error:
        raise refusal(error, uri, permission, given) from error


def passing(error: BaseException) -> bool:
    """Whether the same call may succeed in a moment: an overloaded or broken server, a lost connection, half a body.

    Examples
    --------
    >>> from botocore.exceptions import ClientError
    >>> def answer(status, code):
    ...     return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "GetObject")
    >>> passing(answer(503, "SlowDown")), passing(answer(403, "AccessDenied")), passing(Interrupted())
    (True, False, True)
    """
    from botocore import exceptions as vendor
    from botocore.parsers import ResponseParserError
    from urllib3.exceptions import HTTPError

    if isinstance(error, vendor.ClientError):
        status, code = answered(error)
        return (status >= 500 and status not in _NEVER) or status in {408, 429} or code in _PASSING_CODES
    if isinstance(error, vendor.SSLError):
        return False
    lost = (vendor.ConnectionError, vendor.HTTPClientError, vendor.IncompleteReadError, ResponseParserError)
    return isinstance(error, (Interrupted, HTTPError, ConnectionError, TimeoutError, *lost))


def answered(error: Any) -> tuple[int, str]:
    """Status and code of botocore's ClientError."""
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return int(status), str(error.response.get("Error", {}).get("Code", ""))


def refusal(error: Exception, uri: str, permission: str, given: Connection) -> HindcastError:
    """What a failed call means to whoever reads or writes at `uri`; `permission` is what it needed.

    Returns
    -------
    `SourceBusy` after what is `passing`, `SourceMissing` without the bucket, `UsageError` without credentials or of a
    name that no bucket has, `SourceUnreadable` otherwise.
    """
    from botocore import exceptions as vendor

    if passing(error):
        return SourceBusy(f"{uri}: no answer, after trying again: {_first_line(error)}")
    if isinstance(error, vendor.NoCredentialsError | vendor.PartialCredentialsError):
        return UsageError(
            f"{uri}: no credentials: name a connection in the model file (or --connection), or set AWS_ACCESS_KEY_ID "
            "and AWS_SECRET_ACCESS_KEY"
        )
    if isinstance(error, vendor.ParamValidationError):  # such as a bucket that cannot be called so
        return UsageError(f"{uri}: {' '.join(str(error).split())}")
    if not isinstance(error, vendor.ClientError):
        return SourceUnreadable(f"{uri}: {_first_line(error)}")
    status, code = answered(error)
    if code == "NoSuchBucket":
        return SourceMissing(f"{uri}: there is no bucket {split(uri)[0]}")
    return SourceUnreadable(f"{uri}: {_reason(error, status, code, permission, given)}")


def _reason(error: Any, status: int, code: str, permission: str, given: Connection) -> str:
    """Why the server will not, and what to do about it."""
    if error.operation_name == "AssumeRole":
        return f"{_named(given)} may not assume {given.extra.get('role_arn')}: {code} (needs sts:AssumeRole)"
    if code in _WRONG_KEY:
        return f"{_named(given)}: its key is not accepted: {code}"
    if code in _ELSEWHERE or status in {301, 307}:
        region = error.response["ResponseMetadata"].get("HTTPHeaders", {}).get("x-amz-bucket-region")
        where = f"in region {region}" if region else "in another region"
        return f"the bucket lies {where}; set region_name in the extra of {_named(given)}"
    if code == "InvalidObjectState":
        return "is archived; restore it, or leave its hours out"
    if status == 403:
        return f"forbidden ({code or 'AccessDenied'}): {_named(given)} needs {permission}"
    return f"refused: {status} {_first_line(error)}"


def _named(given: Connection) -> str:
    return f"connection {given.id!r}" if given.id else "the environment's account"


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
