"""Folders of logs: both layouts, ranges, pinned manifests, and what is said when something is not there."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hindcast.config import ModelFile
from hindcast.errors import SourceMissing, SourceUnreadable, UsageError
from hindcast.sources import open_source
from hindcast.sources.files import parquet_files
from hindcast.sources.folder import Folder, flush_time
from hindcast.window import HOUR

START = datetime(2013, 4, 16, 22, tzinfo=UTC)


def put(path: Path, rows: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"feature_a": pa.array(range(rows), pa.int64()), "feature_b": ["x"] * rows}), path)
    return path


def names(folder: Path, hours: int = 1, start: datetime = START) -> list[str]:
    return [item.name for item in Folder(str(folder)).manifest(start, start + hours * HOUR).objects]


def test_partitions_are_half_open_hours_of_utc_across_midnight(tmp_path: Path) -> None:
    for day, hour in (("16", "21"), ("16", "22"), ("16", "23"), ("17", "00"), ("17", "01")):
        put(tmp_path / f"date=2013-04-{day}/hour={hour}/part.parquet")
    assert names(tmp_path) == ["date=2013-04-16/hour=22/part.parquet"]
    expected = ["16/hour=22", "16/hour=23", "17/hour=00"]
    assert names(tmp_path, 3) == [f"date=2013-04-{place}/part.parquet" for place in expected]
    assert names(tmp_path, 0) == names(tmp_path, 1, START + timedelta(days=9)) == []
    local = START.astimezone(tz=None)
    assert names(tmp_path, 1, local) == names(tmp_path)


def test_objects_are_sorted_and_only_finished_parquet_files_count(tmp_path: Path) -> None:
    folder = tmp_path / "date=2013-04-16/hour=22"
    for name in ("b.parquet", "a.parquet", ".c.parquet", "_d.parquet"):
        put(folder / name)
    (folder / "_SUCCESS").touch()
    (folder / "a.parquet.crc").touch()
    put(folder / "deeper/e.parquet")
    assert [Path(name).name for name in names(tmp_path)] == ["a.parquet", "b.parquet"]


@pytest.mark.parametrize(
    "name",
    [
        "2013-04-16T22:30:00Z", "2013-04-16T22:30:00.123456Z", "2013-04-16T22:30:00+00:00", "2013-04-16T22:30:00",
        "2013-04-16T22-30-00Z", "2013-04-16T22-30-00", "2013-04-16T22-30-00Z_part-0", "2013-04-16T22:30:00_a1b2",
        "20130416T223000Z", "2013-04-16T18:30:00-04:00", "2013-04-17T04:00:00+05:30", "2013-04-16 22:30:00",
        "2013-04-16T22:30",
    ],
)  # fmt: skip
def test_flat_files_are_named_by_their_flush_time_in_any_iso_spelling(tmp_path: Path, name: str) -> None:
    put(tmp_path / f"{name}.parquet")
    put(tmp_path / "2013-04-16T21:59:59Z.parquet")
    put(tmp_path / "part-0.parquet")
    manifest = Folder(str(tmp_path)).manifest(START, START + HOUR)
    assert (manifest.layout, [item.name for item in manifest.objects]) == ("flat", [f"{name}.parquet"])


def test_a_flat_file_flushed_at_the_end_of_a_range_is_in_it(tmp_path: Path) -> None:
    for hour in ("22:00:00", "23:00:00", "23:00:01"):
        put(tmp_path / f"2013-04-16T{hour}Z.parquet")
    assert names(tmp_path) == ["2013-04-16T22:00:00Z.parquet", "2013-04-16T23:00:00Z.parquet"]


@given(st.text(max_size=30))
def test_any_name_is_a_moment_of_utc_or_none(stem: str) -> None:
    found = flush_time(stem)
    assert found is None or found.utcoffset() == timedelta(0)


@given(st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001 - zone added
def test_a_moment_in_a_name_is_read_back(moment: datetime) -> None:
    assert flush_time(moment.isoformat()) == moment
    assert flush_time(f"{moment:%Y-%m-%dT%H-%M-%S}_x") == moment.replace(microsecond=0)


def test_the_digest_changes_when_an_object_is_added_rewritten_or_removed(tmp_path: Path) -> None:
    first = put(tmp_path / "date=2013-04-16/hour=22/a.parquet")

    def digest() -> str:
        return Folder(str(tmp_path)).manifest(START, START + HOUR).digest

    seen = [digest()]
    assert digest() == seen[0]
    second = put(first.with_name("b.parquet"))
    seen.append(digest())
    put(second, rows=3)
    seen.append(digest())
    facts = second.stat()
    os.utime(second, ns=(facts.st_atime_ns, facts.st_mtime_ns + 1))
    seen.append(digest())
    second.rename(first.with_name("c.parquet"))
    seen.append(digest())
    assert len(set(seen)) == 5
    first.with_name("c.parquet").unlink()
    assert digest() == seen[0]


def test_other_hours_do_not_change_a_manifest(tmp_path: Path) -> None:
    put(tmp_path / "date=2013-04-16/hour=22/a.parquet")
    before = Folder(str(tmp_path)).manifest(START, START + HOUR)
    put(tmp_path / "date=2013-04-16/hour=23/a.parquet")
    assert Folder(str(tmp_path)).manifest(START, START + HOUR) == before
    assert before.bytes == (tmp_path / "date=2013-04-16/hour=22/a.parquet").stat().st_size


def test_a_root_that_is_not_there_is_missing_and_an_empty_one_is_not(tmp_path: Path) -> None:
    with pytest.raises(SourceMissing, match="nowhere: no such folder") as caught:
        open_source(f"file://{tmp_path}/nowhere")
    assert (caught.value.exit_status, caught.value.transient) == (3, False)
    with pytest.raises(SourceMissing):
        Folder(str(put(tmp_path / "file.parquet")))
    (tmp_path / "empty").mkdir()
    assert names(tmp_path / "empty") == []


def test_what_cannot_be_listed_is_not_taken_for_empty(tmp_path: Path) -> None:
    """A folder that leads to itself stands for one that may not be read, which nothing keeps root from doing."""
    put(tmp_path / "date=2013-04-16/hour=21/a.parquet")
    (tmp_path / "date=2013-04-16/hour=22").symlink_to(tmp_path / "date=2013-04-16/hour=22")
    with pytest.raises(SourceUnreadable, match=r"hour=22: cannot be listed: Too many levels"):
        Folder(str(tmp_path)).manifest(START, START + HOUR)


def test_a_link_that_leads_nowhere_is_an_object_that_cannot_be_read(tmp_path: Path) -> None:
    path = put(tmp_path / "date=2013-04-16/hour=22/a.parquet")
    path.with_name("b.parquet").symlink_to(tmp_path / "gone.parquet")
    source = Folder(str(tmp_path))
    items = source.manifest(START, START + HOUR).objects
    assert [item.name for item in items] == [f"date=2013-04-16/hour=22/{name}.parquet" for name in "ab"]
    with pytest.raises(SourceUnreadable, match=r"b\.parquet: is no readable Parquet file: .*No such file"):
        source.open(items[1])
    assert source._pinned([path, path.with_name("gone.parquet")]) == items[:1], "gone since it was listed"


def test_a_folder_that_is_called_like_a_file_is_part_of_a_reference(tmp_path: Path) -> None:
    """As Spark writes them."""
    put(tmp_path / "train.parquet/part-0.parquet")
    assert [item.name for item in Folder(str(tmp_path)).below()] == ["train.parquet/part-0.parquet"]


@pytest.mark.parametrize("content", [b"", b"PAR1", b"no parquet at all", b"PAR1" + b"\0" * 100 + b"PAR1"])
def test_a_file_that_is_no_parquet_is_unreadable_and_named(tmp_path: Path, content: bytes) -> None:
    path = put(tmp_path / "date=2013-04-16/hour=22/a.parquet")
    path.write_bytes(content)
    source = open_source(str(tmp_path))
    (item,) = source.manifest(START, START + HOUR).objects
    with pytest.raises(SourceUnreadable, match=r"a\.parquet: is no readable Parquet file"):
        source.open(item)
    with pytest.raises(SourceUnreadable, match="is no readable Parquet"):
        list(parquet_files(str(tmp_path)))


def test_a_file_cut_short_or_gone_since_is_unreadable(tmp_path: Path) -> None:
    path = put(tmp_path / "date=2013-04-16/hour=22/a.parquet", rows=500)
    source = open_source(str(tmp_path))
    (item,) = source.manifest(START, START + HOUR).objects
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(SourceUnreadable):
        source.open(item)
    path.unlink()
    with pytest.raises(SourceUnreadable):
        source.open(item)


def test_text_of_large_files_is_read_as_dictionaries_where_asked(tmp_path: Path) -> None:
    put(tmp_path / "2013-04-16T22:30:00Z.parquet", rows=20_000)
    source = open_source(f"file://{tmp_path}")
    (item,) = source.manifest(START, START + HOUR).objects
    assert pa.types.is_dictionary(source.open(item, ["feature_b"]).read().schema.field("feature_b").type)
    assert pa.types.is_string(source.open(item).read().schema.field("feature_b").type)


@pytest.mark.parametrize("uri", ["ftp://host/logs", "gopher://a"])
def test_a_scheme_that_nothing_reads_is_refused_by_name(uri: str) -> None:
    for opening in (open_source, parquet_files):
        with pytest.raises(UsageError, match=f"{uri}: sources of scheme {uri.split(':', maxsplit=1)[0]}://"):
            opening(uri)


def test_a_reference_is_a_file_or_every_file_below_a_folder(tmp_path: Path) -> None:
    for name in ("b/2.parquet", "a/1.parquet", "a/_tmp.parquet"):
        put(tmp_path / name, rows=int(Path(name).stem) if Path(name).stem.isdigit() else 9)
    assert [file.metadata.num_rows for file in parquet_files(str(tmp_path))] == [1, 2]
    assert [file.metadata.num_rows for file in parquet_files(f"file://{tmp_path}/b/2.parquet")] == [2]
    (tmp_path / "none").mkdir()
    for gone in ("none", "nothing.parquet"):
        with pytest.raises(SourceMissing, match=gone):
            parquet_files(str(tmp_path / gone))


def reference(folder: Path, values: list[float], *, statistics: bool = True, **keys: object) -> str:
    from hindcast.checks.reference import _digest

    path = folder / "train.parquet"
    pq.write_table(pa.table({"feature_a": values}), path, write_statistics=statistics)
    content = {"model": "m", "task": "binary", "logs": {"uri": "."}, "reference": {"uri": str(path)}, **keys}
    return _digest(ModelFile.model_validate(content), parquet_files(str(path)))


def test_the_digest_of_a_reference_is_that_of_its_content_and_of_what_is_fitted(tmp_path: Path) -> None:
    first = reference(tmp_path, [1.0, 2.0, 3.0])
    assert reference(tmp_path, [1.0, 2.0, 3.0]) == first, "no address, no time, no path"
    (tmp_path / "b").mkdir()
    assert reference(tmp_path / "b", [1.0, 2.0, 3.0]) == first
    others = [
        reference(tmp_path, [1.0, 2.0, 4.0]),
        reference(tmp_path, [1.0, 2.0, 3.0, 3.0]),
        reference(tmp_path, [1.0, 2.0, 3.0], drift={"bins": 64}),
        reference(tmp_path, [1.0, 2.0, 3.0], features={"a": {"type": "categorical"}}),
        reference(tmp_path, [1.0, 2.0, 3.0], task="regression"),
    ]
    assert len({first, *others}) == 6
    assert reference(tmp_path, [1.0, 2.0, 3.0], features={"a": {"type": "numeric", "min": 0}}) == reference(
        tmp_path, [1.0, 2.0, 3.0], features={"a": {"type": "numeric"}}
    ), "limits are not what bins are fitted to"
