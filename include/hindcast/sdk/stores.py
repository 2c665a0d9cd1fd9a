"""Where finished files go: a folder, S3, or BigQuery. Delivering the same file twice leaves it there once.

A file's name is given once, before it is tried for the first time: a folder renames onto it, S3 puts the same key, and
BigQuery refuses a second load job of the same id.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from hindcast.errors import NotDelivered, UsageError
from hindcast.sdk.fitted import fitted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from google.cloud.bigquery import LoadJob, LoadJobConfig

CONNECT_SECONDS, READ_SECONDS = 5.0, 30.0


class Store(Protocol):
    """Takes finished files."""

    def put(self, name: str, content: bytes) -> None:
        """Keep a Parquet file under a name such as ``date=2026-11-28/hour=16/a.parquet``.

        Raises
        ------
        NotDelivered
        """


def open_store(uri: str, options: Mapping[str, Any]) -> Store:
    """The store behind a URI; nothing is asked of it yet.

    Raises
    ------
    UsageError
        No store has this scheme, or its client is not installed.
    """
    scheme = uri.split("://", maxsplit=1)[0] if "://" in uri else "file"
    if scheme == "s3":
        return S3(uri, options)
    if scheme == "bq":
        return BigQuery(uri, options)
    if scheme != "file" or options:
        message = f"{uri}: allowed are a folder (without options), s3://bucket/prefix and bq://project.dataset.table"
        raise UsageError(message)
    return Folder(uri.removeprefix("file://"))


class Folder:
    """A folder, local or mounted."""

    def __init__(self, root: str) -> None:
        if not root:
            message = "uri is empty: name a folder, s3://bucket/prefix or bq://project.dataset.table"
            raise UsageError(message)
        self._root = Path(root).absolute()

    def put(self, name: str, content: bytes) -> None:
        """Write beside, then rename: nobody sees half a file."""
        path = self._root / name
        half = path.with_name(f".{path.name}.half")  # the next attempt writes over it
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_durably(half, content)
            half.replace(path)
            sync_folder(path.parent)
        except OSError as error:
            message = f"{path}: {error.strerror or error}"
            raise NotDelivered(message) from error


def write_durably(path: Path, content: bytes) -> None:
    """Write a file and wait until the disk has it."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Wait until the disk has a folder's names."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class S3:
    """Objects below ``s3://bucket/prefix``.

    Parameters
    ----------
    uri : str
    options : mapping
        For ``boto3.client``: endpoint_url, region_name, aws_access_key_id… Without them, what boto3 finds in the
        environment: keys, a profile, the machine's role.
    """

    def __init__(self, uri: str, options: Mapping[str, Any]) -> None:
        found = re.fullmatch(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(?P<prefix>.*))?", uri)
        if not found:
            message = f"{uri}: names no bucket; allowed: s3://bucket/prefix"
            raise UsageError(message)
        self._bucket, prefix = found["bucket"], (found["prefix"] or "").strip("/")
        self._prefix = f"{prefix}/" if prefix else ""
        self._options = dict(options)
        self._made: Any = None
        try:
            import boto3  # noqa: F401 - said now, not in a thread an hour later
        except ImportError as error:
            message = f"{uri}: boto3 is not installed; install hindcast[sdk]"
            raise UsageError(message) from error

    def put(self, name: str, content: bytes) -> None:
        """Put one object; the service checks it against its MD5 sum."""
        from botocore.exceptions import BotoCoreError, ClientError

        digest = base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()
        key = f"{self._prefix}{name}"
        try:
            self._client.put_object(Bucket=self._bucket, Key=key, Body=content, ContentMD5=digest)
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            hint = " (writing needs s3:PutObject)" if status == 403 else ""
            message = f"s3://{self._bucket}/{key}: {code or status}{hint}"
            raise NotDelivered(message) from error
        except BotoCoreError as error:
            message = f"s3://{self._bucket}/{key}: {error}"
            raise NotDelivered(message) from error

    @property
    def _client(self) -> Any:
        if self._made is None:
            import boto3
            from botocore.config import Config

            # whoever calls tries again, for as long as it takes
            config = Config(
                connect_timeout=CONNECT_SECONDS, read_timeout=READ_SECONDS, retries={"total_max_attempts": 1},
                request_checksum_calculation="when_required",
            )  # fmt: skip
            given = {"config": config, **self._options}
            self._made = boto3.session.Session().client("s3", **given)
        return self._made


class BigQuery:
    """Load jobs into ``bq://project.dataset.table``, made on the first one and partitioned by the hour.

    Parameters
    ----------
    uri : str
    options : mapping
        For ``google.cloud.bigquery.Client``: project, credentials, client_options… Without them, the default
        credentials of the environment.
    """

    def __init__(self, uri: str, options: Mapping[str, Any]) -> None:
        found = re.fullmatch(r"bq://((?:[a-z0-9.-]+:)?[a-z][a-z0-9-]*)\.(\w{1,1024})\.([\w-]{1,1024})", uri)
        if not found:
            message = f"{uri}: names no BigQuery table; allowed: bq://project.dataset.table"
            raise UsageError(message)
        self._table, self._options = ".".join(found.groups()), {"project": found[1], **options}
        self._made: Any = None
        try:
            import google.cloud.bigquery  # noqa: F401 - said now, not in a thread an hour later
        except ImportError as error:
            message = f"{uri}: google-cloud-bigquery is not installed; install hindcast[bigquery]"
            raise UsageError(message) from error

    def put(self, name: str, content: bytes) -> None:
        """Load one file, under the next job id of its name that has not failed."""
        from google.api_core.exceptions import GoogleAPICallError, RetryError
        from google.auth.exceptions import GoogleAuthError

        try:
            self._load(Path(name).stem, content)
        except (GoogleAPICallError, RetryError, GoogleAuthError, OSError) as error:
            says = str(getattr(error, "message", "") or error).partition("\n")[0]
            message = f"bq://{self._table}: {type(error).__name__}: {says}"
            raise NotDelivered(message) from error

    def _load(self, stem: str, content: bytes) -> None:
        from google.api_core.exceptions import Conflict

        kinds = self._kinds()
        content, widened = fitted(content, kinds)
        if widened:
            self._widen(widened)
        config = self._config(content, exists=bool(kinds))
        for attempt in count():
            job_id = f"hindcast-{stem}-{attempt}"
            try:
                job = self._started(job_id, content, config)
                ours = True
            except Conflict:
                job, ours = self._client.get_job(job_id, retry=None, timeout=READ_SECONDS), False
            if self._loaded(job, raises=ours):
                return

    def _started(self, job_id: str, content: bytes, config: LoadJobConfig) -> LoadJob:
        import io

        return self._client.load_table_from_file(  # type: ignore[no-any-return] # the client is not typed here
            io.BytesIO(content), self._table, size=len(content), job_id=job_id, job_config=config,
            timeout=READ_SECONDS, num_retries=0,
        )  # fmt: skip

    @staticmethod
    def _loaded(job: LoadJob, *, raises: bool) -> bool:
        """Wait until the job is done; False if it is an earlier one that failed, whose rows are not there."""
        from google.api_core.exceptions import GoogleAPICallError
        from google.cloud.bigquery import DEFAULT_RETRY

        try:
            job.result(DEFAULT_RETRY.with_timeout(READ_SECONDS), timeout=2 * READ_SECONDS)
        except GoogleAPICallError:
            if raises or job.state != "DONE" or not job.error_result:
                raise
            return False
        return True

    def _kinds(self) -> dict[str, str]:
        """Types of the table's columns, by their names in lower case, as the service compares them; none: no table."""
        from google.api_core.exceptions import NotFound

        try:
            table = self._client.get_table(self._table, retry=None, timeout=READ_SECONDS)
        except NotFound:
            return {}
        return {field.name.lower(): field.field_type for field in table.schema}

    def _widen(self, columns: Sequence[str]) -> None:
        """Make floats of the table's whole numbers; the service allows no other change of a type."""
        changes = ", ".join(f"ALTER COLUMN `{name}` SET DATA TYPE FLOAT64" for name in columns)
        job = self._client.query(f"ALTER TABLE `{self._table}` {changes}", retry=None, timeout=READ_SECONDS)
        job.result(timeout=READ_SECONDS)

    @staticmethod
    def _config(content: bytes, *, exists: bool) -> LoadJobConfig:
        from google.cloud.bigquery import LoadJobConfig, TimePartitioning

        config = LoadJobConfig(source_format="PARQUET", write_disposition="WRITE_APPEND")
        if exists:
            config.schema_update_options = ["ALLOW_FIELD_ADDITION", "ALLOW_FIELD_RELAXATION"]
        else:
            names = pq.read_schema(pa.BufferReader(content)).names
            field = "timestamp" if "timestamp" in names else "label_timestamp"
            config.time_partitioning = TimePartitioning(type_="HOUR", field=field)
        return config

    @property
    def _client(self) -> Any:
        if self._made is None:
            from google.cloud import bigquery

            self._made = bigquery.Client(**self._options)
        return self._made
