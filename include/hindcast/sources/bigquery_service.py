"""The BigQuery service: who asks, over what, how long it is tried again, and what its errors mean."""

from __future__ import annotations

import json
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from hindcast.connections import Connection, connection
from hindcast.errors import HindcastError, SourceBusy, SourceMissing, SourceUnreadable, UsageError
from hindcast.sources.base import GIGABYTE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from google.api_core.exceptions import GoogleAPICallError
    from google.cloud.bigquery import Client, QueryJob, Table
    from google.cloud.bigquery_storage_v1 import BigQueryReadClient

# Google's client tries again for ten minutes; a task that Airflow retries need not hang so long.
RETRY_SECONDS = 120.0
# How long one answer is waited for, over REST; Google's client would wait for ever.
ANSWER_SECONDS = 60.0
_SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)
_LIMITED = {"rateLimitExceeded", "quotaExceeded", "jobRateLimitExceeded"}
_TOO_DEAR = "exceeded limit for bytes billed"
_NEEDED = "bigquery.jobs.create, bigquery.tables.get, bigquery.tables.getData, bigquery.readsessions.create"


class Service:
    """Clients for one table, made when they are first asked for.

    Parameters
    ----------
    uri : str
        What messages name.
    project : str
        Of the table; it pays, unless the Connection names another.
    connection_id : str, optional
        Airflow Connection; without one, the credentials of the environment.
    max_gb : float, optional
        No query may bill, and no read session scan, more than so many 10⁹ bytes.
    """

    def __init__(
        self, uri: str, project: str, connection_id: str | None = None, *, max_gb: float | None = None
    ) -> None:
        self.uri, self.project, self._connection_id = uri, project, connection_id
        self.most_bytes = None if max_gb is None else int(max_gb * GIGABYTE)

    def query(self, sql: str, parameters: Sequence[Any], **config: Any) -> QueryJob:
        """Start a query, which may bill no more than allowed."""
        from google.cloud.bigquery import QueryJobConfig

        given = {"maximum_bytes_billed": self.most_bytes, "query_parameters": list(parameters), **config}
        with self.translated():
            chosen = QueryJobConfig(**{name: value for name, value in given.items() if value is not None})
            return self.client.query(sql, job_config=chosen, retry=self.retry, timeout=ANSWER_SECONDS)

    def described(self, name: str) -> Table:
        """What the service knows of a table.

        Raises
        ------
        SourceMissing, SourceUnreadable, SourceBusy
        """
        with self.translated():
            return self.client.get_table(name, retry=self.retry, timeout=ANSWER_SECONDS)

    def refuse_above(self, size: int, what: str) -> None:
        """Raise where `what` would read more bytes than allowed.

        Raises
        ------
        UsageError
        """
        if self.most_bytes is not None and size > self.most_bytes:
            message = (
                f"{self.uri}: {what} {size / GIGABYTE:.3g} GB, more than bigquery.max_gb_billed = "
                f"{self.most_bytes / GIGABYTE:.3g}; raise it, or partition the table by hour"
            )
            raise UsageError(message)

    @cached_property
    def _given(self) -> Connection:
        return connection(self._connection_id) if self._connection_id else Connection("")

    @property
    def billed_to(self) -> str:
        """Project that runs the jobs: the Connection's, else the table's own."""
        return str(self._given.extra.get("project") or self.project)

    @cached_property
    def retry(self) -> Any:
        """What Google's client tries again, for as long as the Connection's ``retry_seconds`` says."""
        from google.cloud.bigquery import DEFAULT_RETRY

        return DEFAULT_RETRY.with_timeout(self._given.number("retry_seconds", RETRY_SECONDS))

    @cached_property
    def client(self) -> Client:
        """Jobs and tables, over REST."""
        from google.cloud import bigquery

        endpoint = self._given.extra.get("api_endpoint")
        if endpoint and not str(endpoint).startswith(("http://", "https://")):
            message = (
                f"connection {self._given.id!r}: extra.api_endpoint is {endpoint!r}; allowed: http://… or https://…"
            )
            raise UsageError(message)
        options = {"api_endpoint": endpoint} if endpoint else None
        with self.translated():
            return bigquery.Client(self.billed_to, credentials=_credentials(self._given), client_options=options)

    @cached_property
    def reader(self) -> BigQueryReadClient:
        """Rows as Arrow, over gRPC; ``grpc_endpoint`` is an emulator's, without encryption."""
        from google.cloud.bigquery_storage_v1 import BigQueryReadClient

        endpoint = self._given.extra.get("grpc_endpoint")
        with self.translated():
            if not endpoint:
                return BigQueryReadClient(credentials=_credentials(self._given))  # type: ignore[no-untyped-call] # Google types it half
            import grpc  # type: ignore[import-untyped] # it ships none
            from google.cloud.bigquery_storage_v1.services.big_query_read.transports import BigQueryReadGrpcTransport

            # a message may hold 16 MB of rows
            channel = grpc.insecure_channel(str(endpoint), [("grpc.max_receive_message_length", -1)])
            return BigQueryReadClient(transport=BigQueryReadGrpcTransport(channel=channel))  # type: ignore[no-untyped-call] # Google types it half

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Turn the vendor's errors into ours; what is worth trying again has been, and is `SourceBusy`."""
        try:
            import google.cloud.bigquery
            import google.cloud.bigquery_storage_v1  # noqa: F401 - whether they are there
            from google.api_core import exceptions as api
            from google.auth import exceptions as auth
            from requests.exceptions import RequestException
        except ImportError as error:
            message = f"{self.uri}: {error.name} is not installed: pip install 'hindcast[bigquery]'"
            raise UsageError(message) from error

        try:
            yield
        except api.GoogleAPICallError as error:
            raise self._refusal(error) from error
        except auth.DefaultCredentialsError as error:
            message = f"{self.uri}: no credentials: name a Connection with a key, or log in: {_first_line(error)}"
            raise UsageError(message) from error
        except (api.RetryError, auth.TransportError, ConnectionError, RequestException, TimeoutError) as error:
            message = f"{self.uri}: no answer: {_first_line(error)}"
            raise SourceBusy(message) from error
        except auth.GoogleAuthError as error:
            message = f"{self.uri}: refused: {_first_line(error)}"
            raise SourceUnreadable(message) from error

    def _refusal(self, error: GoogleAPICallError) -> HindcastError:
        """What an answer of the service means."""
        from google.api_core import exceptions as api

        # REST's entries are dictionaries; over gRPC the entry is the error of the call
        reasons = {entry.get("reason") for entry in error.errors or () if isinstance(entry, dict)}
        says = _first_line(error)
        if _TOO_DEAR in says:  # comes as a failure of the service
            message = f"{self.uri}: {says} (bigquery.max_gb_billed; raise it, or partition the table by hour)"
            return UsageError(message)
        if isinstance(error, api.NotFound):
            return SourceMissing(f"{self.uri}: not found: {says}")
        if isinstance(error, api.ServerError | api.TooManyRequests):
            return SourceBusy(f"{self.uri}: no answer: {says}")
        if isinstance(error, api.Forbidden):
            if reasons & _LIMITED:
                return SourceBusy(f"{self.uri}: a quota is used up: {says}")
            return SourceUnreadable(f"{self.uri}: forbidden: {says} (reading needs {_NEEDED})")
        return SourceUnreadable(f"{self.uri}: refused: {says}")


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _credentials(given: Connection) -> Any:
    """Of a service account's key, anonymous for an emulator, or None for those of the environment."""
    from google.auth.credentials import AnonymousCredentials
    from google.oauth2.service_account import Credentials

    if given.extra.get("is_anonymous"):
        return AnonymousCredentials()  # type: ignore[no-untyped-call] # Google types it half
    try:
        if given.extra.get("key_path"):
            return Credentials.from_service_account_file(given.extra["key_path"], scopes=_SCOPES)  # type: ignore[no-untyped-call] # Google types it half
        key = given.extra.get("keyfile_dict")
        if key:
            content = json.loads(key) if isinstance(key, str) else key
            return Credentials.from_service_account_info(content, scopes=_SCOPES)  # type: ignore[no-untyped-call] # Google types it half
    except (AttributeError, OSError, TypeError, ValueError) as error:
        # what was given is a secret: it is not repeated
        message = f"connection {given.id!r}: holds no readable key of a service account: {type(error).__name__}"
        raise UsageError(message) from error
    return None
