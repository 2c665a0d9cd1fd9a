"""What every source of logs in files does, whatever holds them: one suite, and a subclass for each kind of place."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.s3_server import S3Server

from hindcast.errors import SourceMissing, SourceUnreadable
from hindcast.profile.columns import flat, row_groups
from hindcast.sources import open_source
from hindcast.sources.base import LogObject, Manifest, Source
from hindcast.sources.files import parquet_files
from hindcast.window import HOUR

START = datetime(2013, 4, 16, 22, tzinfo=UTC)
FOLDER = "date=2013-04-16/hour=22"


def parquet(rows: int = 1, value: int = 0, **options: object) -> bytes:
    file = BytesIO()
    columns = {"feature_a": np.arange(rows) + value, "feature_b": pa.array(["x"] * rows)}
    pq.write_table(pa.table(columns), file, **options)
    return file.getvalue()


class Place:
    """Somewhere to put files."""

    uri: str
    connection: str | None = None

    def put(self, name: str, content: bytes) -> None:
        raise NotImplementedError

    def remove(self, name: str) -> None:
        raise NotImplementedError

    def make_empty(self) -> None:
        """Let the root be there, and nothing in it."""
        raise NotImplementedError

    def put_all(self, contents: dict[str, bytes]) -> None:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(self.put, contents, contents.values()))

    def source(self) -> Source:
        return open_source(self.uri, self.connection)

    def manifest(self, hours: int = 1, start: datetime = START) -> Manifest:
        return self.source().manifest(start, start + hours * HOUR)

    def names(self, hours: int = 1, start: datetime = START) -> list[str]:
        return [item.name for item in self.manifest(hours, start).objects]


class InFolder(Place):
    def __init__(self, root: Path) -> None:
        self.root, self.uri = root / "logs", f"file://{root}/logs"

    def put(self, name: str, content: bytes) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_name("_unfinished").write_bytes(content)
        path.with_name("_unfinished").rename(path)

    def put_all(self, contents: dict[str, bytes]) -> None:
        for name, content in contents.items():
            self.put(name, content)

    def remove(self, name: str) -> None:
        (self.root / name).unlink()

    def make_empty(self) -> None:
        self.root.mkdir()


class InBucket(Place):
    connection = "lake"

    def __init__(self, server: S3Server, prefix: str = "some/logs") -> None:
        self.bucket, self.prefix, self.client = server.bucket(), prefix, server.client()
        self.uri = f"s3://{self.bucket}/{prefix}".rstrip("/")

    def put(self, name: str, content: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=f"{self.prefix}/{name}".lstrip("/"), Body=content)

    def remove(self, name: str) -> None:
        self.client.delete_object(Bucket=self.bucket, Key=f"{self.prefix}/{name}".lstrip("/"))

    def make_empty(self) -> None:
        self.put("", b"")

    def keep_versions(self) -> None:
        self.client.put_bucket_versioning(Bucket=self.bucket, VersioningConfiguration={"Status": "Enabled"})


class Contract:
    """Subclasses give the fixture `place`."""

    @pytest.fixture
    def place(self) -> Place:
        raise NotImplementedError

    # --- which objects a window has ---

    def test_partitions_are_half_open_hours_of_utc_across_midnight(self, place: Place) -> None:
        hours = ["16/hour=21", "16/hour=22", "16/hour=23", "17/hour=00", "17/hour=01"]
        place.put_all({f"date=2013-04-{hour}/part.parquet": parquet() for hour in hours})
        assert place.manifest().layout == "partitioned"
        assert place.names() == [f"{FOLDER}/part.parquet"]
        assert place.names(3) == [f"date=2013-04-{hour}/part.parquet" for hour in hours[1:4]]
        assert place.names(48, START - timedelta(days=1)) == [f"date=2013-04-{hour}/part.parquet" for hour in hours]
        assert place.names(1, START.astimezone(tz=None)) == place.names()

    def test_an_hour_that_is_not_there_is_empty(self, place: Place) -> None:
        place.put(f"{FOLDER}/part.parquet", parquet())
        assert place.names(0) == place.names(1, START + HOUR) == place.names(30, START + timedelta(days=9)) == []

    def test_only_finished_parquet_files_right_below_the_hour_count(self, place: Place) -> None:
        names = ["b.parquet", "a.parquet", "ü +%20&=.parquet", ".c.parquet", "_d.parquet", "_SUCCESS", "a.parquet.crc",
                 "deeper/e.parquet", "_temporary/0/f.parquet"]  # fmt: skip
        place.put_all({f"{FOLDER}/{name}": parquet() for name in names})
        place.put("date=2013-04-16/hour=220/g.parquet", parquet())
        expected = [f"{FOLDER}/{name}" for name in ("a.parquet", "b.parquet", "ü +%20&=.parquet")]
        assert place.names() == place.names(2) == expected
        source = place.source()
        assert [source.open(item).metadata.num_rows for item in place.manifest().objects] == [1, 1, 1]

    def test_more_objects_than_one_page_of_a_listing(self, place: Place) -> None:
        content = parquet()
        expected = [f"{FOLDER}/{number:04d}.parquet" for number in range(1_003)]
        place.put_all(dict.fromkeys(expected, content))
        place.put("date=2013-04-17/hour=00/next.parquet", content)
        assert place.names() == expected
        assert place.names(5) == [*expected, "date=2013-04-17/hour=00/next.parquet"]
        assert place.manifest().bytes == 1_003 * len(content)

    @pytest.mark.parametrize(
        "name",
        ["2013-04-16T22:30:00Z", "2013-04-16T22-30-00_a1", "20130416T223000Z", "2013-04-16T18:30:00-04:00",
         "2013-04-17T12:15:00+13:45", "2013-04-16 22:30"],
    )  # fmt: skip
    def test_flat_files_are_named_by_their_flush_time(self, place: Place, name: str) -> None:
        others = ["2013-04-16T21:59:59Z", "2013-04-16T23:00:01Z", "2013-04-15T22:30:00Z", "20130415T223000Z",
                  "20130417T223000Z", "2013-04-18T22:30:00Z", "part-0"]  # fmt: skip
        place.put_all({f"{other}.parquet": parquet() for other in [name, *others]})
        manifest = place.manifest()
        assert (manifest.layout, [item.name for item in manifest.objects]) == ("flat", [f"{name}.parquet"])

    def test_a_flat_file_flushed_at_the_end_of_a_range_is_in_it(self, place: Place) -> None:
        place.put_all({f"2013-04-16T{hour}Z.parquet": parquet() for hour in ("22:00:00", "23:00:00", "23:00:01")})
        assert place.names() == ["2013-04-16T22:00:00Z.parquet", "2013-04-16T23:00:00Z.parquet"]
        assert len(place.names(24 * 400, START - timedelta(days=399))) == 3, "over the end of months and years"

    # --- what is not there ---

    def test_a_root_that_is_not_there_is_missing(self, place: Place) -> None:
        with pytest.raises(SourceMissing) as caught:
            place.manifest()
        assert (caught.value.exit_status, caught.value.transient) == (3, False)
        assert place.uri.removeprefix("file://") in str(caught.value)

    def test_a_root_that_is_empty_is_not_missing(self, place: Place) -> None:
        place.make_empty()
        assert place.names() == []

    # --- pinned ---

    def test_a_file_that_arrives_late_changes_the_next_manifest_and_no_other(self, place: Place) -> None:
        place.put(f"{FOLDER}/a.parquet", parquet())
        before = place.manifest()
        place.put(f"{FOLDER}/b.parquet", parquet(2))
        assert [item.name for item in before.objects] == [f"{FOLDER}/a.parquet"]
        after = place.manifest()
        assert [item.name for item in after.objects] == [f"{FOLDER}/a.parquet", f"{FOLDER}/b.parquet"]
        assert before.digest != after.digest
        place.remove(f"{FOLDER}/b.parquet")
        assert place.manifest().digest == before.digest

    def test_other_hours_do_not_change_a_manifest(self, place: Place) -> None:
        place.put(f"{FOLDER}/a.parquet", parquet())
        before = place.manifest()
        place.put("date=2013-04-16/hour=23/a.parquet", parquet())
        assert place.manifest() == before

    def test_the_digest_changes_when_a_file_is_rewritten_in_the_same_size(self, place: Place) -> None:
        place.put(f"{FOLDER}/a.parquet", parquet(3, value=1))
        before = place.manifest()
        place.put(f"{FOLDER}/a.parquet", parquet(3, value=2))
        after = place.manifest()
        assert before.bytes == after.bytes
        assert before.digest != after.digest

    def overwritten(self, source: Source, item: LogObject) -> None:
        with pytest.raises(SourceUnreadable, match=r"a\.parquet: was overwritten since .* were pinned"):
            source.open(item)

    def gone(self, source: Source, item: LogObject) -> None:
        with pytest.raises(SourceUnreadable, match=r"a\.parquet"):
            source.open(item)

    def test_what_was_overwritten_since_it_was_pinned_is_never_read_for_it(self, place: Place) -> None:
        place.put(f"{FOLDER}/a.parquet", parquet(3, value=1))
        source = place.source()
        (item,) = source.manifest(START, START + HOUR).objects
        place.put(f"{FOLDER}/a.parquet", parquet(3, value=2))
        self.overwritten(source, item)
        (item,) = source.manifest(START, START + HOUR).objects
        assert source.open(item).read().column("feature_a").to_pylist() == [2, 3, 4]

    def test_what_is_gone_since_it_was_pinned_is_unreadable(self, place: Place) -> None:
        place.put(f"{FOLDER}/a.parquet", parquet(3, value=1))
        source = place.source()
        (item,) = source.manifest(START, START + HOUR).objects
        place.remove(f"{FOLDER}/a.parquet")
        self.gone(source, item)

    # --- reading ---

    @pytest.mark.parametrize(
        "content",
        [b"", b"PAR1", b"no parquet at all", b"PAR1" + b"\0" * 100 + b"PAR1", parquet(500)[:-20]],
        ids=["empty", "start", "text", "zeros", "cut short"],
    )
    def test_an_object_that_is_damaged_is_unreadable_and_named(self, place: Place, content: bytes) -> None:
        place.put(f"{FOLDER}/a.parquet", content)
        source = place.source()
        (item,) = source.manifest(START, START + HOUR).objects
        with pytest.raises(SourceUnreadable, match=r"a\.parquet: is no readable Parquet file") as caught:
            source.open(item)
        assert (caught.value.exit_status, caught.value.transient) == (3, False)

    @pytest.mark.parametrize("groups", [300_000, 9_000])
    def test_a_large_object_reads_as_it_was_written(self, place: Place, groups: int) -> None:
        rng = np.random.default_rng(0)
        columns = {f"feature_{k}": rng.normal(size=300_000) for k in range(6)}
        columns["feature_t"] = rng.integers(0, 9, 300_000).astype("U1")
        columns["feature_s"] = pa.StructArray.from_arrays([rng.normal(size=300_000)] * 2, ["x", "y"])
        table, written = pa.table(columns), BytesIO()
        pq.write_table(table, written, row_group_size=groups)
        assert len(written.getvalue()) > 12 << 20
        place.put(f"{FOLDER}/a.parquet", written.getvalue())
        source = place.source()
        (item,) = source.manifest(START, START + HOUR).objects
        file = source.open(item)
        expected = flat(table)  # a field of a struct is a column of its own
        assert {"feature_s.x", "feature_s.y"} < set(expected.column_names)
        read = list(row_groups(file, expected.column_names))
        assert len(read) == -(-300_000 // groups)
        for name in expected.column_names:
            assert pa.chunked_array([block.column(name) for block in read]).equals(expected.column(name))
        coded = source.open(item, ["feature_t", "feature_not_there"]).read(["feature_t"])
        assert pa.types.is_dictionary(coded.schema.field("feature_t").type)
        assert coded.column(0).cast(pa.string()).equals(table.column("feature_t"))

    def test_a_source_that_was_sent_elsewhere_reads_the_same(self, place: Place) -> None:
        place.put(f"{FOLDER}/a.parquet", parquet(3, value=7))
        source = place.source()
        manifest = source.manifest(START, START + HOUR)
        other, item = pickle.loads(pickle.dumps((source, manifest.objects[0])))  # noqa: S301 - our own
        assert other.manifest(START, START + HOUR) == manifest
        assert other.open(item).read().column("feature_a").to_pylist() == [7, 8, 9]

    def test_a_reference_is_a_file_or_every_file_below(self, place: Place) -> None:
        names = {"b/2.parquet": 2, "a/1.parquet": 1, "a/_tmp.parquet": 9}
        place.put_all({name: parquet(rows) for name, rows in names.items()})

        def rows(uri: str) -> list[int]:
            return [file.metadata.num_rows for file in parquet_files(uri, connection=place.connection)]

        assert rows(place.uri) == rows(f"{place.uri}/") == [1, 2]
        assert rows(f"{place.uri}/b/2.parquet") == [2]
        with pytest.raises(SourceMissing, match="nothing"):
            rows(f"{place.uri}/nothing.parquet")


class TestFolder(Contract):
    @pytest.fixture
    def place(self, tmp_path: Path) -> Place:
        return InFolder(tmp_path)


class TestBucket(Contract):
    @pytest.fixture
    def place(self, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> InBucket:
        monkeypatch.setenv("AIRFLOW_CONN_LAKE", s3.connection())
        return InBucket(s3)


class TestBucketWithVersions(TestBucket):
    @pytest.fixture
    def place(self, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> InBucket:
        monkeypatch.setenv("AIRFLOW_CONN_LAKE", s3.connection())
        place = InBucket(s3)
        place.keep_versions()
        return place

    def overwritten(self, source: Source, item: LogObject) -> None:
        """The version that was pinned is still there."""
        assert source.open(item).read().column("feature_a").to_pylist() == [1, 2, 3]

    gone = overwritten
