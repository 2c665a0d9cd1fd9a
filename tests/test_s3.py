"""Clients of S3 as Airflow Connections describe them: keys, roles, what is tried again, what refusals say."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, ProxyConnectionError, ReadTimeoutError, SSLError
from hypothesis import given
from hypothesis import strategies as st
from tests.fault_proxy import FaultProxy, before
from tests.ports import free_port
from tests.s3_server import S3Server

from hindcast import s3 as access
from hindcast.connections import Connection, connection
from hindcast.errors import HindcastError, SourceBusy, SourceMissing, SourceUnreadable, UsageError


@pytest.fixture
def proxy(s3: S3Server) -> Iterator[FaultProxy]:
    with before(s3.port) as found:
        yield found


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Connection]:
    def connected(content: str) -> Connection:
        monkeypatch.setenv("AIRFLOW_CONN_LAKE", content)
        return connection("lake")

    return connected


def refused(found: Connection, bucket: str, key: str = "k") -> HindcastError:
    """What is said of a failed read, after trying again as the Connection says."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 - whatever boto3 raises
        access.patience(found)(access.client(found).get_object, Bucket=bucket, Key=key)
    assert isinstance(caught.value, Exception)
    return access.refusal(caught.value, f"s3://{bucket}/{key}", f"s3:GetObject on {bucket}/{key}", found)


@given(st.from_regex(r"[a-z][a-z0-9.-]{2,20}", fullmatch=True), st.text("ab/=-", max_size=12))
def test_a_uri_is_a_bucket_and_what_is_below(bucket: str, rest: str) -> None:
    assert access.split(f"s3://{bucket}/{rest}") == (bucket, rest.strip("/"))


@pytest.mark.parametrize("uri", ["s3://", "s3:///a", "s3:/b/a", "gs://b/a", "/b"])
def test_what_names_no_bucket_is_refused(uri: str) -> None:
    with pytest.raises(UsageError, match="names no bucket"):
        access.split(uri)


# --- the Connection ---


def test_the_keys_of_airflows_connection_reach_the_client(connect: Callable[[str], Connection]) -> None:
    extra = {"region_name": "eu-central-1", "aws_session_token": "t", "config_kwargs": {"read_timeout": 7}}
    found = access.client(connect(json.dumps({"login": "a", "password": "b", "extra": extra})))
    credentials = found._request_signer._credentials.get_frozen_credentials()
    assert (credentials.access_key, credentials.secret_key, credentials.token) == ("a", "b", "t")
    assert (found.meta.region_name, found.meta.config.read_timeout) == ("eu-central-1", 7)
    assert found.meta.endpoint_url == "https://s3.eu-central-1.amazonaws.com"
    assert found.meta.config.retries["total_max_attempts"] == 1, "it is tried again once, not twice over"
    inside = {"aws_access_key_id": "c", "aws_secret_access_key": "d", "region_name": "eu-west-1"}
    other = access.client(connect(json.dumps({"extra": inside})))
    assert other._request_signer._credentials.get_frozen_credentials().access_key == "c"


def test_without_a_connection_the_environment_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of-the-environment")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    found = access.client(Connection("", extra={"region_name": "us-east-2"}))
    assert found._request_signer._credentials.access_key == "of-the-environment"
    assert found.meta.endpoint_url == "http://127.0.0.1:1"


def test_a_client_is_made_once_and_shared(connect: Callable[[str], Connection]) -> None:
    one, other = '{"login": "a", "password": "b"}', '{"login": "a", "password": "c"}'
    first = access.client(connect(one))
    assert access.client(connect(one)) is first
    assert access.client(connect(other)) is not first


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"login": "a"}, r"connection 'lake': has a login \(the access key\) and no password"),
        ({"extra": {"profile_name": "nobodys"}}, "'lake': makes no client of S3: .*nobodys"),
        ({"login": "a", "password": "b", "extra": {"endpoint_url": "nowhere"}}, "makes no client of S3: .*nowhere"),
        ({"login": "a", "password": "b", "extra": {"config_kwargs": {"colour": 1}}}, "makes no client of S3: .*colour"),
        (
            {"login": "a", "password": "b", "extra": {"role_arn": "r", "assume_role_method": "assume_role_with_saml"}},
            "assume_role_method is 'assume_role_with_saml'; allowed: assume_role",
        ),
        (
            {"extra": {"service_config": "s3"}},
            r"connection 'lake': extra\.service_config is a str; allowed: a JSON obj",
        ),
        ({"extra": {"service_config": {"s3": 1}}}, r"extra\.service_config\.s3 is a int; allowed: a JSON object"),
        ({"extra": {"config_kwargs": ["retries"]}}, r"extra\.config_kwargs is a list; allowed: a JSON object"),
    ],
)
def test_a_connection_that_makes_no_sense_says_why(
    content: dict[str, Any], said: str, connect: Callable[[str], Connection]
) -> None:
    with pytest.raises(UsageError, match=said):
        access.client(connect(json.dumps({"conn_type": "aws", **content})))


def test_no_credentials_at_all_says_what_to_set(monkeypatch: pytest.MonkeyPatch, s3: S3Server) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    found = refused(Connection("", extra={"endpoint_url": s3.endpoint, "region_name": "us-east-1"}), "b")
    assert isinstance(found, UsageError)
    assert "no credentials: name a connection in the model file" in str(found)


def test_an_anonymous_connection_signs_nothing(
    s3: S3Server, proxy: FaultProxy, connect: Callable[[str], Connection]
) -> None:
    through = s3.through(proxy.port)
    for extra in ({"anonymous": True}, {"config_kwargs": {"signature_version": "unsigned"}}):
        found = connect(json.dumps({"extra": {"endpoint_url": through.endpoint, "region_name": "us-east-1", **extra}}))
        assert "forbidden (AccessDenied)" in str(refused(found, s3.bucket()))
    connect(through.connection())
    refused(connection("lake"), s3.bucket())
    signed = ["authorization" in request.headers for request in proxy.requests]
    assert signed == [False, False, True]


def test_a_role_is_assumed_and_its_credentials_are_used(connect: Callable[[str], Connection]) -> None:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    try:
        with before(port) as proxy:
            endpoint = f"http://127.0.0.1:{proxy.port}"
            extra = {
                "endpoint_url": endpoint,
                "region_name": "us-east-1",
                "role_arn": "arn:aws:iam::123456789012:role/reader",
                "assume_role_kwargs": {"ExternalId": "hindcast-1"},
                "service_config": {"sts": {"endpoint_url": endpoint}},
            }
            found = connect(json.dumps({"login": "a", "password": "b", "extra": extra}))
            client = access.client(found)
            client.create_bucket(Bucket="logs")
            client.list_objects_v2(Bucket="logs")
            used = [
                request.headers["authorization"].partition("Credential=")[2].split("/")[0] for request in proxy.requests
            ]
    finally:
        server.stop()
    assert used[0] == "a", "the role is asked for with the Connection's own key"
    assert len(used) == 3
    assert used[1] == used[2] != "a"


# --- what is tried again ---


def answer(status: int, code: str) -> ClientError:
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "GetObject")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (answer(503, "SlowDown"), True),
        (answer(500, "InternalError"), True),
        (answer(502, "Bad Gateway"), True),
        (answer(429, ""), True),
        (answer(400, "RequestTimeout"), True),
        (answer(501, "NotImplemented"), False),
        (answer(403, "AccessDenied"), False),
        (answer(404, "NoSuchBucket"), False),
        (answer(404, "NoSuchKey"), False),
        (answer(412, "PreconditionFailed"), False),
        (answer(416, "InvalidRange"), False),
        (EndpointConnectionError(endpoint_url="u"), True),
        (ReadTimeoutError(endpoint_url="u"), True),
        (ProxyConnectionError(proxy_url="u"), True),
        (SSLError(endpoint_url="u", error="certificate"), False),
        (ConnectionResetError(), True),
        (access.Interrupted(), True),
        (ValueError(), False),
        (KeyboardInterrupt(), False),
    ],
)
def test_what_passes_and_what_does_not(error: BaseException, expected: bool) -> None:
    assert access.passing(error) is expected


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ({"retry_seconds": "soon"}, r"connection 'lake': extra\.retry_seconds is 'soon'; allowed: a number, 0 or more"),
        ({"backoff_seconds": -1}, r"extra\.backoff_seconds is -1; allowed"),
        ({"retry_seconds": float("nan")}, r"extra\.retry_seconds is nan; allowed"),
        (
            {"config_kwargs": {"retries": {"max_attempts": [3]}}},
            r"config_kwargs\.retries\.max_attempts is \[3\]; allowed",
        ),
        ({"config_kwargs": {"retries": 3}}, r"extra\.config_kwargs\.retries is a int; allowed: a JSON object"),
    ],
)
def test_how_often_and_how_long_are_numbers(
    extra: dict[str, Any], said: str, connect: Callable[[str], Connection]
) -> None:
    with pytest.raises(UsageError, match=said):
        access.patience(connect(json.dumps({"conn_type": "aws", "extra": extra})))


def test_a_login_may_be_written_as_a_number(s3: S3Server, connect: Callable[[str], Connection]) -> None:
    content = json.loads(s3.connection()) | {"login": 1234, "password": 5678}
    assert "its key is not accepted: InvalidAccessKeyId" in str(refused(connect(json.dumps(content)), s3.bucket()))


@pytest.mark.parametrize("fault", ["slowdown", "broken", "reset"])
def test_what_passes_is_tried_again_as_often_as_the_connection_says(
    fault: str, s3: S3Server, proxy: FaultProxy, connect: Callable[[str], Connection]
) -> None:
    bucket, through = s3.bucket(), s3.through(proxy.port)
    s3.client().put_object(Bucket=bucket, Key="k", Body=b"content")
    found = connect(through.connection(backoff_seconds=0.01))
    proxy.fail(fault, times=access.ATTEMPTS - 1)
    got = access.patience(found)(access.client(found).get_object, Bucket=bucket, Key="k")
    assert got["Body"].read() == b"content"
    assert proxy.count() == access.ATTEMPTS
    proxy.heal()
    found = connect(through.connection(backoff_seconds=0.01, config_kwargs={"retries": {"max_attempts": 2}}))
    proxy.fail(fault, times=3)
    said = refused(found, bucket)
    assert isinstance(said, SourceBusy)
    assert said.transient
    assert "no answer, after trying again" in str(said)
    assert proxy.count() == 3


def test_nobody_listening_is_busy(s3: S3Server, connect: Callable[[str], Connection]) -> None:
    found = connect(s3.through(free_port()).connection(backoff_seconds=0.01))
    assert isinstance(refused(found, "b"), SourceBusy)


def test_what_does_not_pass_is_asked_once(
    s3: S3Server, proxy: FaultProxy, connect: Callable[[str], Connection]
) -> None:
    bucket, through = s3.bucket(), s3.through(proxy.port)
    said = refused(connect(through.as_("lister").connection()), bucket)
    assert isinstance(said, SourceUnreadable)
    assert str(said) == (
        f"s3://{bucket}/k: forbidden (AccessDenied): connection 'lake' needs s3:GetObject on {bucket}/k"
    )
    assert proxy.count() == 1
    said = refused(connect(through.connection()), "nobodys-bucket")
    assert isinstance(said, SourceMissing)
    assert str(said) == "s3://nobodys-bucket/k: there is no bucket nobodys-bucket"
    assert proxy.count() == 2
    stranger = json.loads(through.connection()) | {"password": "wrong"}
    said = refused(connect(json.dumps(stranger)), bucket)
    assert isinstance(said, SourceUnreadable)
    assert str(said) == f"s3://{bucket}/k: connection 'lake': its key is not accepted: SignatureDoesNotMatch"
    assert proxy.count() == 3


def test_a_bucket_of_another_region_says_which(connect: Callable[[str], Connection]) -> None:
    error = ClientError(
        {
            "Error": {"Code": "PermanentRedirect"},
            "ResponseMetadata": {"HTTPStatusCode": 301, "HTTPHeaders": {"x-amz-bucket-region": "eu-west-3"}},
        },
        "ListObjectsV2",
    )
    said = access.refusal(error, "s3://b/p", "s3:ListBucket", connect("{}"))
    assert (
        str(said) == "s3://b/p: the bucket lies in region eu-west-3; set region_name in the extra of connection 'lake'"
    )
