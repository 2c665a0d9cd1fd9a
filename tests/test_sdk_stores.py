"""Stores of the logging SDK, one suite for all: delivered once, however often it is tried."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.bigquery_server import DATASET, PROJECT, Emulator, between, emulator
from tests.fault_proxy import before
from tests.ports import free_port
from tests.s3_server import REGION, S3Server

from hindcast.errors import NotDelivered
from hindcast.sdk import PredictionLogger
from hindcast.sdk.columns import LABEL, PREDICTION, Columns, parquet
from hindcast.sdk.fitted import fitted
from hindcast.sdk.stores import Store, open_store

__all__ = ["emulator"]
NOON = datetime(2024, 3, 4, 12, 30, tzinfo=UTC)


def content(*ids: str, names: tuple[str, ...] = PREDICTION, **features: Any) -> bytes:
    """A file as the SDK makes it."""
    made = Columns(names)
    values = ({"x": 1.5, **features}, 1, 0.5, 3.0) if names == PREDICTION else (1,)
    chunk = made.chunk(list(zip(*((name, *values, NOON, {}) for name in ids), strict=True)))
    return bytes(parquet(made.table([chunk], {"model_name": "churn", "model_version": "7"})))


class StoreContract:
    """What every store does; a subclass says how to open it and how to read it."""

    @pytest.fixture
    def store(self) -> Store:
        raise NotImplementedError

    def rows(self) -> list[str]:
        """Ids that are there, sorted, as often as they are there."""
        raise NotImplementedError

    @pytest.fixture
    def failing(self) -> Iterator[tuple[Store, Callable[[], None]]]:
        """The store where the first answer is lost after it has done its work, and what heals it."""
        raise NotImplementedError

    @pytest.fixture
    def unreachable(self) -> Store:
        raise NotImplementedError

    def test_what_is_put_is_there(self, store: Store) -> None:
        store.put("date=2024-03-04/hour=12/a-000001.parquet", content("a", "b"))
        store.put("date=2024-03-04/hour=13/a-000002.parquet", content("c", y=None))
        assert self.rows() == ["a", "b", "c"]

    def test_what_is_put_twice_is_there_once(self, store: Store) -> None:
        for _ in range(2):
            store.put("date=2024-03-04/hour=12/twice-000001.parquet", content("a", "b"))
        assert self.rows() == ["a", "b"]

    def test_an_answer_that_is_lost_doubles_nothing(self, failing: tuple[Store, Callable[[], None]]) -> None:
        store, heal = failing
        with pytest.raises(NotDelivered):
            store.put("date=2024-03-04/hour=12/lost-000001.parquet", content("a", "b"))
        heal()
        assert self.rows() == ["a", "b"]
        store.put("date=2024-03-04/hour=12/lost-000001.parquet", content("a", "b"))
        assert self.rows() == ["a", "b"]

    def test_what_cannot_be_reached_is_said(self, unreachable: Store) -> None:
        with pytest.raises(NotDelivered):
            unreachable.put("date=2024-03-04/hour=12/a-000001.parquet", content("a"))


class TestFolder(StoreContract):
    @pytest.fixture(autouse=True)
    def root(self, tmp_path: Path) -> None:
        self.folder = tmp_path / "logs"

    @pytest.fixture
    def store(self) -> Store:
        return open_store(f"file://{self.folder}", {})

    def rows(self) -> list[str]:
        paths = self.folder.glob("date=*/hour=*/*.parquet")
        return sorted(v for path in paths for v in pq.ParquetFile(path).read(["prediction_id"])[0].to_pylist())

    @pytest.fixture
    def failing(self, store: Store) -> tuple[Store, Callable[[], None]]:
        """A process that is killed between renaming and saying so has nobody to say it to: put, and forget."""

        class Forgetful:
            def put(self, name: str, given: bytes) -> None:
                store.put(name, given)
                if not healed:
                    raise NotDelivered

        healed: list[bool] = []
        return Forgetful(), lambda: healed.append(True)

    @pytest.fixture
    def unreachable(self) -> Store:
        self.folder.write_text("no folder")
        return open_store(str(self.folder), {})

    def test_a_file_that_was_left_half_written_is_no_parquet_file_and_is_written_over(self, store: Store) -> None:
        place = self.folder / "date=2024-03-04/hour=12"
        place.mkdir(parents=True)
        (place / ".a-000001.parquet.half").write_bytes(content("a")[:50])
        store.put("date=2024-03-04/hour=12/a-000001.parquet", content("a"))
        assert [path.name for path in place.iterdir()] == ["a-000001.parquet"]


def options(server: S3Server) -> dict[str, Any]:
    return {
        "endpoint_url": server.endpoint, "aws_access_key_id": server.login, "aws_secret_access_key": server.password,
        "region_name": REGION,
    }  # fmt: skip


class TestS3(StoreContract):
    @pytest.fixture(autouse=True)
    def bucket(self, s3: S3Server) -> None:
        self.server, self.name = s3, s3.bucket()

    @pytest.fixture
    def store(self) -> Store:
        return open_store(f"s3://{self.name}/logs/", options(self.server))

    def rows(self) -> list[str]:
        client, found = self.server.client(), []
        for item in client.list_objects_v2(Bucket=self.name, Prefix="logs/date=2024-03-04/").get("Contents", ()):
            body = client.get_object(Bucket=self.name, Key=item["Key"])["Body"].read()
            found += pq.read_table(BytesIO(body), columns=["prediction_id"])[0].to_pylist()
        return sorted(found)

    @pytest.fixture
    def failing(self) -> Iterator[tuple[Store, Callable[[], None]]]:
        with before(self.server.port) as proxy:
            proxy.fail("lost")
            yield open_store(f"s3://{self.name}/logs", options(self.server.through(proxy.port))), proxy.heal

    @pytest.fixture
    def unreachable(self) -> Store:
        return open_store(f"s3://{self.name}/logs", options(self.server.through(free_port())))

    def test_a_login_that_may_not_write_is_told_which_right_it_lacks(self) -> None:
        store = open_store(f"s3://{self.name}/logs", options(self.server.as_("reader")))
        says = rf"s3://{self.name}/logs/date=2024-03-04/hour=12/a.parquet: AccessDenied \(writing needs s3:PutObject\)"
        with pytest.raises(NotDelivered, match=says):
            store.put("date=2024-03-04/hour=12/a.parquet", content("a"))

    def test_a_bucket_that_is_not_there_is_said(self) -> None:
        """Of moto, since SeaweedFS makes the bucket."""
        from moto.server import ThreadedMotoServer

        moto = ThreadedMotoServer("127.0.0.1", free_port(), verbose=False)
        moto.start()
        try:
            store = open_store("s3://not-there/logs", options(self.server.through(moto._port)))
            with pytest.raises(NotDelivered, match=r"s3://not-there/logs/a\.parquet: NoSuchBucket"):
                store.put("a.parquet", content("a"))
        finally:
            moto.stop()

    def test_a_server_that_is_slow_or_overloaded_is_said(self) -> None:
        with before(self.server.port) as proxy:
            for fault, says in (("slowdown", "SlowDown"), ("broken", "InternalError"), ("reset", "onnection")):
                proxy.fail(fault)
                store = open_store(f"s3://{self.name}/logs", options(self.server.through(proxy.port)))
                with pytest.raises(NotDelivered, match=says):
                    store.put("date=2024-03-04/hour=12/a.parquet", content("a"))
            assert proxy.count() == 3  # one request each: whoever asks tries again


class TestBigQuery(StoreContract):
    @pytest.fixture(autouse=True)
    def table(self, emulator: Emulator, request: pytest.FixtureRequest) -> None:
        self.emulator = emulator
        self.name = f"t_{abs(hash(request.node.name)):x}"
        emulator.client().create_dataset(DATASET, exists_ok=True)

    def opened(self, found: Emulator) -> Store:
        return open_store(f"bq://{PROJECT}.{DATASET}.{self.name}", given_to(found))

    @pytest.fixture
    def store(self) -> Store:
        return self.opened(self.emulator)

    def rows(self) -> list[str]:
        query = f"SELECT prediction_id FROM `{PROJECT}.{DATASET}.{self.name}` ORDER BY 1"
        return [row[0] for row in self.emulator.client().query(query).result()]

    @pytest.fixture
    def failing(self) -> Iterator[tuple[Store, Callable[[], None]]]:
        """The load job is done; the answer to its upload is not."""
        healed: list[bool] = []

        def change(path: str, answer: Any) -> tuple[int, Any]:
            return (
                (503, {"error": {"code": 503, "message": "on purpose"}})
                if "/upload/" in path and not healed
                else (200, answer)
            )

        def heal() -> None:
            healed.append(True)
            while not all(job.done() for job in self.emulator.client().list_jobs(max_results=5)):
                pass

        with between(self.emulator, change) as found:
            yield self.opened(found), heal

    @pytest.fixture
    def unreachable(self) -> Store:
        return self.opened(replace(self.emulator, port=free_port()))

    def test_the_table_is_made_partitioned_and_takes_new_columns(self, store: Store) -> None:
        store.put("date=2024-03-04/hour=12/first-000001.parquet", content("a"))
        store.put("date=2024-03-04/hour=12/first-000002.parquet", content("b", city="Rome", unknown=None))
        table = self.emulator.client().get_table(f"{PROJECT}.{DATASET}.{self.name}")
        assert {"feature_city", "timestamp"} <= {field.name for field in table.schema}
        assert self.rows() == ["a", "b"]

    def test_values_of_other_types_than_the_first_are_neither_refused_nor_cut(self, store: Store) -> None:
        """Whole numbers first, as chance has it; then what the feature really is, and what it is by mistake."""
        for name, value in (("a", 5), ("b", 2.5), ("c", "n/a"), ("d", True), ("e", "7")):
            store.put(f"date=2024-03-04/hour=12/other-{name}.parquet", content(name, age=value))
        query = (
            f"SELECT prediction_id, feature_age, unfit_feature_age FROM `{PROJECT}.{DATASET}.{self.name}` ORDER BY 1"
        )
        assert [tuple(row) for row in self.emulator.client().query(query).result()] == [
            ("a", 5.0, None), ("b", 2.5, None), ("c", None, "n/a"), ("d", 1.0, None), ("e", 7.0, None),
        ]  # fmt: skip
        table = self.emulator.client().get_table(f"{PROJECT}.{DATASET}.{self.name}")
        assert table.time_partitioning.field == "timestamp"

    def test_a_load_job_that_failed_is_followed_by_another(self, store: Store) -> None:
        name = "date=2024-03-04/hour=12/failed-000001.parquet"
        with pytest.raises(NotDelivered):
            store.put(name, broken(content("a")))
        store.put(name, content("a"))
        assert self.rows() == ["a"]

    def test_labels_are_loaded_too(self, emulator: Emulator, tmp_path: Path) -> None:
        with PredictionLogger(
            "churn", "7", f"bq://{PROJECT}.{DATASET}.{self.name}", spool=tmp_path, metrics=False,
            labels_uri=f"bq://{PROJECT}.{DATASET}.{self.name}_labels", store_options=given_to(emulator),
        ) as logger:  # fmt: skip
            logger.log("a", {"x": 1.5, "city": "Rome"}, 1, timestamp=NOON)
            logger.log_ground_truth("a", 0, label_timestamp=NOON)
            assert logger.flush(60)
        assert self.rows() == ["a"]
        query = f"SELECT prediction_id, ground_truth, label_timestamp FROM `{PROJECT}.{DATASET}.{self.name}_labels`"
        assert [tuple(row) for row in emulator.client().query(query).result()] == [("a", 0, NOON)]


def given_to(found: Emulator) -> dict[str, Any]:
    """Keyword arguments of BigQuery's client."""
    from google.auth.credentials import AnonymousCredentials

    endpoint = {"api_endpoint": f"http://127.0.0.1:{found.port}"}
    return {"credentials": AnonymousCredentials(), "client_options": endpoint}


def broken(file: bytes) -> bytes:
    """A file whose end can be read, and whose content cannot."""
    return file[:4] + bytes(60) + file[64:]


MOMENT = datetime(2024, 3, 4, tzinfo=UTC)


@pytest.mark.parametrize(
    ("kind", "value", "expected", "beside", "widened"),
    [
        ("INTEGER", 5, 5, None, False),
        ("INTEGER", 5.0, 5, None, False),
        ("INTEGER", 2.5, 2.5, None, True),
        ("INTEGER", float("inf"), float("inf"), None, True),
        ("INTEGER", 2.0**70, 2.0**70, None, True),
        ("INTEGER", True, 1, None, False),
        ("INTEGER", "7", 7, None, False),
        ("INTEGER", "7.5", 7.5, None, True),
        ("INTEGER", "n/a", None, "n/a", False),
        ("FLOAT", 5, 5.0, None, False),
        ("FLOAT64", "2.5", 2.5, None, False),
        ("FLOAT", "n/a", None, "n/a", False),
        ("FLOAT", MOMENT, None, str(MOMENT), False),
        ("STRING", 2.5, "2.5", None, False),
        ("STRING", True, "True", None, False),
        ("BOOLEAN", 1, True, None, False),
        ("BOOLEAN", 2, None, "2", False),
        ("BOOLEAN", "yes", None, "yes", False),
        ("TIMESTAMP", MOMENT, MOMENT, None, False),
        ("TIMESTAMP", 5, None, "5", False),
        ("NUMERIC", 5, 5, None, False),
    ],
)
def test_a_file_fits_the_types_that_a_table_has(
    kind: str, value: Any, expected: Any, beside: str | None, widened: bool
) -> None:
    """No value is changed, and none is lost."""
    fits, widening = fitted(content("a", y=value), {"feature_y": kind, "prediction": "INTEGER"})
    (row,) = pq.read_table(BytesIO(fits)).to_pylist()
    assert (row["feature_y"], type(row["feature_y"])) == (expected, type(expected))
    assert row.get("unfit_feature_y") == beside
    assert widening == (["feature_y"] if widened else [])
    assert (row["prediction_id"], row["prediction"]) == ("a", 1)


def test_a_column_of_no_type_is_left_out_for_bigquery_alone(tmp_path: Path) -> None:
    whole = content("a", unknown=None)
    assert pa.types.is_null(pq.read_schema(BytesIO(whole)).field("feature_unknown").type)
    kept = pq.read_table(BytesIO(fitted(whole, {})[0]))
    assert "feature_unknown" not in kept.column_names
    assert kept["prediction_id"].to_pylist() == ["a"]
    assert fitted(content("a", names=LABEL), {}) == (content("a", names=LABEL), [])
