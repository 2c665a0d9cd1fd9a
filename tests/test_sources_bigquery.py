"""Tables as sources: what is pinned, what is asked of the service, and what is said when it does not give it."""

import json
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from tests.bigquery_server import Emulator, between, emulator
from tests.ports import free_port

from hindcast.errors import SourceBusy, SourceMissing, SourceUnreadable, UsageError
from hindcast.sources import bigquery_service, open_source
from hindcast.sources.base import LogObject, Streamed
from hindcast.sources.bigquery import BigQueryTable, TableSlice, read_session
from hindcast.window import HOUR

__all__ = ["emulator"]
START = datetime(2024, 3, 4, 15, tzinfo=UTC)
MICROS = timedelta(microseconds=1)


def rows(offsets: list[timedelta | None]) -> pa.Table:
    return pa.table(
        {
            "prediction_id": [f"id-{i}" for i in range(len(offsets))],
            "timestamp": pa.array([o if o is None else START + o for o in offsets], pa.timestamp("us", "UTC")),
            "feature_a": np.arange(len(offsets), dtype=np.float64),
        }
    )


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    def connected(found: Emulator, **extra: object) -> str:
        content = found.connection
        monkeypatch.setenv("AIRFLOW_CONN_BQ", json.dumps({**content, "extra": {**content["extra"], **extra}}))
        return "bq"

    return connected


def opened(uri: str, connection: str | None = None) -> BigQueryTable:
    source = open_source(uri, connection)
    assert isinstance(source, BigQueryTable)
    assert isinstance(source, Streamed)
    return source


def ids(source: BigQueryTable, item: LogObject) -> list[str]:
    batches = source.batches(item, ["prediction_id"])
    return sorted(name for batch in batches for name in batch.column("prediction_id").to_pylist())


# --- names ---


@pytest.mark.parametrize(
    "uri", ["bq://acme-ml.logs.t", "bq://example.com:acme.logs.t_1", "bq://a.b.2024-rows", "bq://a.b.prévisions"]
)
def test_a_table_is_named_by_project_dataset_and_table(uri: str) -> None:
    assert opened(uri).name == uri.removeprefix("bq://")


@pytest.mark.parametrize(
    "uri", ["bq://a.b", "bq://a.b.c.d", "bq://a.b.c`d", "bq://A.b.c", "bq://a.b-c.d", "bq://a.b.", "bq://a.b.c d", "bq://",
            "bq://a.b.c$20240304", "bq://a.b.c\n"],
)  # fmt: skip
def test_what_names_no_table_is_refused(uri: str) -> None:
    with pytest.raises(UsageError, match=r"names no BigQuery table; allowed: bq://project\.dataset\.table"):
        open_source(uri)


# --- the window ---


def test_a_window_is_its_rows_by_timestamp_half_open(emulator: Emulator, connect: Callable[..., str]) -> None:
    table = rows([-MICROS, timedelta(0), HOUR - MICROS, HOUR, None])
    source = opened(emulator.load("edges", table), connect(emulator))
    (item,) = source.manifest(START, START + HOUR).objects
    assert ids(source, item) == ["id-1", "id-2"]
    (item,) = source.manifest(START - HOUR, START).objects
    assert ids(source, item) == ["id-0"]
    (item,) = source.manifest(START + 5 * HOUR, START + 6 * HOUR).objects
    assert ids(source, item) == []


def test_a_table_that_insists_on_its_partitions_is_read_and_counted(
    emulator: Emulator, connect: Callable[..., str]
) -> None:
    """Partitioned by the hour of the timestamp; a query without a filter on it is refused."""
    from google.api_core.exceptions import BadRequest

    plain = emulator.load("plain", rows([timedelta(minutes=m) for m in (-5, 0, 30, 59, 60)]))[5:]
    name, client = plain.replace(".plain", ".hourly"), emulator.client()
    client.query(
        f"CREATE OR REPLACE TABLE `{name}` PARTITION BY TIMESTAMP_TRUNC(timestamp, HOUR) "
        f"OPTIONS (require_partition_filter = TRUE) AS SELECT * FROM `{plain}`"
    ).result()
    with pytest.raises(BadRequest, match="partition"):
        client.query(f"SELECT COUNT(*) FROM `{name}`").result()
    source = opened(f"bq://{name}", connect(emulator))
    (item,) = source.manifest(START, START + HOUR).objects
    assert ids(source, item) == ["id-1", "id-2", "id-3"]
    assert source.count(item) == 3
    assert isinstance(item, TableSlice)
    chosen = replace(item, stays=())
    assert ids(source, chosen) == ["id-1", "id-2", "id-3"]


def test_the_manifest_is_the_table_and_the_moment_it_was_pinned(
    emulator: Emulator, connect: Callable[..., str]
) -> None:
    source = opened(emulator.load("pinned", rows([timedelta(0)])), connect(emulator))
    first, second = (source.manifest(START, START + HOUR) for _ in range(2))
    (item,) = first.objects
    assert (first.layout, item.name) == ("partitioned", source.name)
    assert isinstance(item, TableSlice)
    assert abs(item.snapshot - datetime.now(UTC)) < timedelta(minutes=5)
    assert int(item.etag) == (item.snapshot - datetime(1970, 1, 1, tzinfo=UTC)) // MICROS
    assert first.digest != second.digest


def test_what_is_asked_for_is_columns_rows_and_snapshot(emulator: Emulator) -> None:
    pytest.importorskip("google.cloud.bigquery_storage_v1")
    item = TableSlice("acme-ml.logs.t", 0, "1709568000000001", START, START + HOUR)
    asked = read_session(opened("bq://acme-ml.logs.t"), item, ["timestamp", "feature_a"])
    assert asked.table == "projects/acme-ml/datasets/logs/tables/t"
    assert list(asked.read_options.selected_fields) == ["timestamp", "feature_a"]
    assert asked.read_options.row_restriction == (
        "timestamp >= TIMESTAMP '2024-03-04 15:00:00.000000+00:00' "
        "AND timestamp < TIMESTAMP '2024-03-04 16:00:00.000000+00:00'"
    )
    assert asked.table_modifiers.snapshot_time == datetime(2024, 3, 4, 16, 0, 0, 1, UTC)


def test_types_are_those_that_are_streamed(emulator: Emulator, connect: Callable[..., str]) -> None:
    source = opened(f"bq://{emulator.client().project}.logs.typed", connect(emulator))
    emulator.load("other", rows([]))
    client = emulator.client()
    client.query(
        f"CREATE OR REPLACE TABLE `{source.name}` (timestamp TIMESTAMP, i INT64, f FLOAT64, b BOOL, s STRING, d DATE, "
        "dt DATETIME, t TIME, n NUMERIC, y BYTES, r ARRAY<INT64>)"
    ).result()
    client.query(
        f"INSERT INTO `{source.name}` VALUES (TIMESTAMP '2024-03-04 15:00:00+00:00', 1, 1.5, TRUE, 'x', "
        "DATE '2024-03-04', DATETIME '2024-03-04 15:00:00', TIME '15:00:00', NUMERIC '1.5', b'x', [1, 2])"
    ).result()
    (item,) = source.manifest(START, START + HOUR).objects
    names = [name for name in source.types if name != "r"]
    (batch,) = source.batches(item, names)
    assert [batch.schema.field(name).type for name in names] == [source.schema().field(name).type for name in names]
    assert source.types["r"] == "ARRAY"
    assert pa.types.is_list(source.schema().field("r").type)


# --- what cannot be read ---


def test_a_table_that_is_not_there_is_missing(emulator: Emulator, connect: Callable[..., str]) -> None:
    source = opened(f"bq://{emulator.client().project}.logs.nowhere", connect(emulator))
    with pytest.raises(SourceMissing, match=r"logs\.nowhere: not found") as caught:
        source.manifest(START, START + HOUR)
    assert (caught.value.exit_status, caught.value.transient) == (3, False)


def test_a_view_and_a_table_without_time_are_refused(emulator: Emulator, connect: Callable[..., str]) -> None:
    uri = emulator.load("timed", rows([timedelta(0)]))
    emulator.client().query(f"CREATE OR REPLACE VIEW `{uri[5:]}_view` AS SELECT * FROM `{uri[5:]}`").result()
    with pytest.raises(SourceUnreadable, match="is a VIEW, which has no snapshots"):
        opened(f"{uri}_view", connect(emulator)).manifest(START, START + HOUR)
    untimed = emulator.load("untimed", rows([timedelta(0)]).drop_columns(["timestamp"]))
    with pytest.raises(SourceUnreadable, match="has no column timestamp of type TIMESTAMP"):
        opened(untimed, connect(emulator)).manifest(START, START + HOUR)


def refusal(status: int, reason: str, message: str) -> Callable[[str, object], tuple[int, object]]:
    """An answer in the service's own form."""
    error = {"code": status, "message": message, "errors": [{"reason": reason, "message": message}]}
    return lambda _path, _answer: (status, {"error": error})


DEAR = "Query exceeded limit for bytes billed: 1. 5 or higher required."
DENIED = "Access Denied: Table p:d.t: Permission bigquery.tables.get denied on table p:d.t"


@pytest.mark.parametrize(
    ("status", "reason", "message", "kind", "said"),
    [
        (403, "accessDenied", DENIED, SourceUnreadable, r"forbidden: .*Permission bigquery\.tables\.get denied"),
        (403, "rateLimitExceeded", "Exceeded rate limits", SourceBusy, "no answer: .*Exceeded rate limits"),
        (403, "quotaExceeded", "Quota exceeded", SourceBusy, "a quota is used up: .*Quota exceeded"),
        (503, "backendError", "Try again", SourceBusy, "no answer"),
        (429, "tooMany", "Slow down", SourceBusy, "no answer"),
        (400, "invalid", "No such thing", SourceUnreadable, "refused: .*No such thing"),
        (400, "bytesBilledLimitExceeded", DEAR, UsageError, r".*5 or higher required.*bigquery\.max_gb_billed; raise"),
    ],
)  # fmt: skip
def test_refusals_of_the_service_are_terminal_or_worth_trying_again(
    emulator: Emulator,
    connect: Callable[..., str],
    status: int,
    reason: str,
    message: str,
    kind: type[Exception],
    said: str,
) -> None:
    with between(emulator, refusal(status, reason, message)) as proxy:
        source = opened("bq://acme.logs.t", connect(proxy, retry_seconds=1))
        with pytest.raises(kind, match=said) as caught:
            source.manifest(START, START + HOUR)
    assert str(caught.value).startswith("bq://acme.logs.t: ")


def test_a_short_outage_is_sat_out(emulator: Emulator, connect: Callable[..., str]) -> None:
    uri = emulator.load("flaky", rows([timedelta(0)]))
    seen: list[str] = []

    def flaky(path: str, answer: object) -> tuple[int, object]:
        seen.append(path)
        return refusal(503, "backendError", "Try again")(path, answer) if len(seen) in {1, 3} else (200, answer)

    with between(emulator, flaky) as proxy:
        assert opened(uri, connect(proxy)).manifest(START, START + HOUR).objects
    assert len(seen) > 3


def test_rows_of_a_window_are_counted_for_the_sweep(emulator: Emulator, connect: Callable[..., str]) -> None:
    """Those of the window alone, as of the moment that its manifest pins."""
    uri = emulator.load("counted", rows([timedelta(0), timedelta(minutes=59), HOUR, -timedelta(minutes=1)]))
    source = opened(uri, connect(emulator))
    (item,) = source.manifest(START, START + HOUR).objects
    assert source.count(item) == 2
    assert item.arrived is not None


def test_a_service_that_is_not_there_is_busy(connect: Callable[..., str]) -> None:
    source = opened("bq://acme.logs.t", connect(Emulator(free_port(), free_port()), retry_seconds=1))
    with pytest.raises(SourceBusy, match="no answer"):
        source.manifest(START, START + HOUR)


def test_without_googles_client_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google.cloud.bigquery", None)
    with pytest.raises(UsageError, match=r"logs\.t: .* is not installed: pip install 'hindcast\[bigquery\]'"):
        opened("bq://acme.logs.t").manifest(START, START + HOUR)


def test_a_service_that_never_answers_is_busy(connect: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes the connection and says nothing, as behind a broken network."""
    monkeypatch.setattr(bigquery_service, "ANSWER_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        source = opened("bq://acme.logs.t", connect(Emulator(port, port), retry_seconds=0.5))
        with pytest.raises(SourceBusy, match=r"no answer: .*[Tt]imed? ?out"):
            source.manifest(START, START + HOUR)


def test_a_range_is_no_value_streamed_or_chosen(emulator: Emulator, connect: Callable[..., str]) -> None:
    uri = emulator.load("plainly", rows([timedelta(0), MICROS]))
    emulator.client().query(
        f"CREATE OR REPLACE TABLE `{uri[5:]}_ranges` AS SELECT *, "
        f"RANGE(DATE '2024-01-01', DATE '2024-02-01') AS feature_stay FROM `{uri[5:]}`"
    ).result()
    source = opened(f"{uri}_ranges", connect(emulator))
    (item,) = source.manifest(START, START + HOUR).objects
    assert isinstance(item, TableSlice)
    for part in (item, replace(item, stays=())):
        (batch,) = source.batches(part, ["feature_stay", "feature_a"])
        assert batch.schema.types == [source.schema().field("feature_stay").type, pa.float64()]
        assert sorted(batch.column("feature_a").to_pylist()) == [0.0, 1.0]


def test_the_query_that_counts_is_capped(emulator: Emulator, connect: Callable[..., str]) -> None:
    source = open_source(emulator.load("dear", rows([timedelta(0)])), connect(emulator), max_gb=2.5)
    assert isinstance(source, BigQueryTable)
    (item,) = source.manifest(START, START + HOUR).objects
    assert source.count(item) == 1
    ran = [job for job in emulator.client().list_jobs(all_users=True) if job.job_type == "query"]
    assert [job.maximum_bytes_billed for job in ran if "logs.dear`" in job.query] == [2_500_000_000]


def test_a_table_is_no_file() -> None:
    item = TableSlice("a.b.c", 0, "0", START, START + HOUR)
    with pytest.raises(UsageError, match=r"bq://a\.b\.c: a\.b\.c is read as rows, not as a Parquet file"):
        opened("bq://a.b.c").open(item)


def test_an_object_of_a_folder_is_no_slice(emulator: Emulator, connect: Callable[..., str]) -> None:
    with pytest.raises(UsageError, match="is no part of a BigQuery table"):
        list(opened("bq://a.b.c", connect(emulator)).batches(LogObject("a.parquet", 1, "x"), ["timestamp"]))


# --- credentials ---


def key(folder: Path) -> dict[str, str]:
    """The key file of a service account, as the console gives it; nobody's."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    private = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    content = {
        "type": "service_account", "project_id": "acme", "private_key": private.decode(),
        "client_email": "hindcast@acme.iam.gserviceaccount.com", "token_uri": "https://oauth2.googleapis.com/token",
    }  # fmt: skip
    (folder / "key.json").write_text(json.dumps(content))
    return content


@pytest.mark.parametrize("form", ["key_path", "keyfile_dict", "keyfile_dict as text"])
def test_a_connection_gives_a_service_account_and_the_project_that_pays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    pytest.importorskip("google.cloud.bigquery")
    content = key(tmp_path)
    given: dict[str, object] = {"key_path": str(tmp_path / "key.json")}
    if form != "key_path":
        given = {"keyfile_dict": json.dumps(content) if "text" in form else content}
    extra = {**given, "project": "payer"}
    monkeypatch.setenv("AIRFLOW_CONN_BQ", json.dumps({"conn_type": "google_cloud_platform", "extra": extra}))
    source = opened("bq://acme.logs.t", "bq")
    assert source.client.project == "payer"
    assert source.client._credentials.service_account_email == content["client_email"]


@pytest.mark.parametrize(
    "given",
    [
        {"key_path": "nowhere.json"},
        {"key_path": 12},
        {"keyfile_dict": "{secret"},
        {"keyfile_dict": {"a": "secret"}},
        {"keyfile_dict": ["secret"]},
    ],
)
def test_a_key_that_cannot_be_read_is_refused_without_repeating_it(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, object]
) -> None:  # fmt: skip
    pytest.importorskip("google.cloud.bigquery")
    monkeypatch.setenv("AIRFLOW_CONN_BQ", json.dumps({"conn_type": "google_cloud_platform", "extra": given}))
    with pytest.raises(UsageError, match="connection 'bq': holds no readable key") as caught:
        _ = opened("bq://acme.logs.t", "bq").client
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ({"api_endpoint": "localhost:9050"}, r"extra\.api_endpoint is 'localhost:9050'; allowed: http"),
        ({"retry_seconds": "soon"}, r"extra\.retry_seconds is 'soon'; allowed: a number, 0 or more"),
    ],
)
def test_a_connection_that_makes_no_sense_says_why(
    emulator: Emulator, connect: Callable[..., str], extra: dict[str, object], said: str
) -> None:
    with pytest.raises(UsageError, match=f"connection 'bq': {said}"):
        opened("bq://acme.logs.t", connect(emulator, **extra)).manifest(START, START + HOUR)


def test_a_connection_without_a_key_means_the_credentials_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Application default credentials: on Google's machines those of the machine, elsewhere of a file."""
    pytest.importorskip("google.cloud.bigquery")
    content = key(tmp_path)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
    extra = {"project": "payer"}
    monkeypatch.setenv("AIRFLOW_CONN_BQ", json.dumps({"conn_type": "google_cloud_platform", "extra": extra}))
    source = opened("bq://acme.logs.t", "bq")
    assert source.client.project == "payer"
    assert source.client._credentials.service_account_email == content["client_email"]


def test_without_any_credentials_that_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("google.cloud.bigquery")
    for name in [name for name in os.environ if name.startswith(("GOOGLE_", "CLOUDSDK_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "nowhere.json"))
    with pytest.raises(UsageError, match=r"bq://acme\.logs\.t: no credentials"):
        _ = opened("bq://acme.logs.t").client
