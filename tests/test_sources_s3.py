"""Buckets beyond what every source does: faults on the way, permissions, requests counted, and whole checks."""

import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from threading import Barrier, Lock
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from tests import worlds
from tests.fault_proxy import FAULTS, FaultProxy, Request, before
from tests.s3_server import S3Server
from tests.test_source_contract import FOLDER, START, InBucket, InFolder, parquet
from tests.worlds import World, cli, cli_json, rows_of, snapshot, text

from hindcast.config import load
from hindcast.engines.base import Plan
from hindcast.engines.local import LocalEngine
from hindcast.errors import SourceBusy, SourceError, SourceMissing, SourceUnreadable
from hindcast.profile.bins import Bins
from hindcast.profile.columns import row_groups
from hindcast.profile.scan import Expected
from hindcast.sources import open_source
from hindcast.sources.ahead import MOST_BYTES, PART, Ahead, RangedFile
from hindcast.sources.base import Source
from hindcast.window import HOUR

QUICK = {"backoff_seconds": 0.01}
SLOW = {"config_kwargs": {"read_timeout": 0.4}}
ROWS = 60_000
COLUMNS = [f"feature_{k}" for k in range(12)]


@pytest.fixture(scope="module")
def proxy(s3: S3Server) -> Iterator[FaultProxy]:
    with before(s3.port) as found:
        yield found


@pytest.fixture
def place(s3: S3Server, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> InBucket:
    """Files are put past the proxy and read through it."""
    proxy.heal()
    monkeypatch.setenv("AIRFLOW_CONN_LAKE", s3.through(proxy.port).connection(**QUICK))
    return InBucket(s3)


@pytest.fixture(scope="module")
def large() -> bytes:
    """Six megabytes in three row groups."""
    rng = np.random.default_rng(0)
    written = BytesIO()
    pq.write_table(pa.table({name: rng.normal(size=ROWS) for name in COLUMNS}), written, row_group_size=ROWS // 3)
    assert len(written.getvalue()) > 5 << 20
    return written.getvalue()


def bytes_of(source: Source, hours: int = 1) -> dict[str, list[Any]]:
    """Every value of a window's objects."""
    found = {}
    for item in source.manifest(START, START + hours * HOUR).objects:
        file = source.open(item)
        blocks = list(row_groups(file, file.schema_arrow.names))
        found[item.name] = [
            value for name in file.schema_arrow.names for block in blocks for value in block.column(name).to_pylist()
        ]
    return found


def is_get(request: Request) -> bool:
    return request.method == "GET" and not request.listing and "versioning" not in request.query


# --- faults on the way ---


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("what", ["listing", "small", "large"])
def test_each_fault_is_got_over_wherever_it_happens(
    what: str,
    fault: str,
    place: InBucket,
    large: bytes,
    s3: S3Server,
    proxy: FaultProxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place.put(f"{FOLDER}/a.parquet", large if what == "large" else parquet(5))
    expected = bytes_of(place.source())
    requests = proxy.count()
    proxy.heal()
    times = 1 if fault == "slow" else 3
    if fault == "slow":
        monkeypatch.setenv("AIRFLOW_CONN_LAKE", s3.through(proxy.port).connection(**QUICK, **SLOW))
    proxy.fail(fault, times, when=(lambda request: request.listing) if what == "listing" else is_get)
    assert bytes_of(place.source()) == expected
    assert [request.fault for request in proxy.requests if request.fault] == [fault] * times
    again = 0 if (what, fault) == ("listing", "slow") else times  # a page that comes slowly is waited for
    assert proxy.count() == requests + again


def test_many_faults_of_all_kinds_change_nothing_in_what_is_found(
    place: InBucket, large: bytes, proxy: FaultProxy, tmp_path: Path
) -> None:
    files = {f"{FOLDER}/{k:02d}.parquet": parquet(20, value=k) for k in range(60)} | {f"{FOLDER}/large.parquet": large}
    folder = InFolder(tmp_path)
    folder.put_all(files)
    place.put_all(files)
    proxy.rates({"slowdown": 0.05, "broken": 0.05, "reset": 0.05, "lost": 0.05, "cut": 0.05})
    assert bytes_of(place.source()) == bytes_of(folder.source())
    assert proxy.count(lambda request: bool(request.fault)) > 5


@pytest.mark.parametrize("fault", ["slowdown", "reset", "cut"])
@pytest.mark.parametrize("big", [False, True])
def test_what_does_not_pass_in_time_is_busy(
    fault: str,
    big: bool,
    place: InBucket,
    large: bytes,
    s3: S3Server,
    proxy: FaultProxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    retries = {"config_kwargs": {"retries": {"total_max_attempts": 2}}}
    monkeypatch.setenv("AIRFLOW_CONN_LAKE", s3.through(proxy.port).connection(**QUICK, **retries))
    place.put(f"{FOLDER}/a.parquet", large if big else parquet(5))
    source = place.source()
    (item,) = source.manifest(START, START + HOUR).objects
    if big:  # the footer was read; then it fails, below Arrow
        file = source.open(item)
    proxy.fail(fault, times=10_000, when=is_get)
    with pytest.raises(SourceBusy, match="no answer, after trying again") as caught:
        list(row_groups(file if big else source.open(item), COLUMNS))
    assert caught.value.transient
    assert place.uri in str(caught.value)


# --- what is not allowed ---


def said(place: InBucket, proxy: FaultProxy, call: Callable[[], Any]) -> tuple[SourceError, int]:
    """What a call raises, and how many requests it took."""
    proxy.heal()
    with pytest.raises(SourceError) as caught:
        call()
    return caught.value, proxy.count()


def test_a_missing_permission_is_named_and_asked_for_once(
    place: InBucket, s3: S3Server, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.put(f"{FOLDER}/a.parquet", parquet())
    monkeypatch.setenv("AIRFLOW_CONN_LAKE", s3.through(proxy.port).as_("reader").connection(**QUICK))
    error, requests = said(place, proxy, place.manifest)
    needed = f"connection 'lake' needs s3:ListBucket on arn:aws:s3:::{place.bucket}"
    assert (str(error), requests) == (f"{place.uri}: forbidden (AccessDenied): {needed}", 1)
    assert isinstance(error, SourceUnreadable)

    monkeypatch.setenv("AIRFLOW_CONN_LAKE", s3.through(proxy.port).as_("lister").connection(**QUICK))
    source = place.source()
    (item,) = source.manifest(START, START + HOUR).objects
    error, requests = said(place, proxy, lambda: source.open(item))
    key = f"some/logs/{FOLDER}/a.parquet"
    needed = f"connection 'lake' needs s3:GetObject on arn:aws:s3:::{place.bucket}/{key}"
    assert (str(error), requests) == (f"s3://{place.bucket}/{key}: forbidden (AccessDenied): {needed}", 1)

    place.keep_versions()
    monkeypatch.setenv("AIRFLOW_CONN_LAKE", s3.through(proxy.port).as_("lister").connection(**QUICK))
    assert "@" not in place.manifest().objects[0].etag, "who may not ask whether versions are kept pins by ETag"
    monkeypatch.setenv("AIRFLOW_CONN_LAKE", s3.through(proxy.port).connection(**QUICK))
    assert place.manifest().objects[0].etag.endswith("@null")


def test_a_bucket_that_is_not_there_is_missing_and_asked_for_once(place: InBucket, proxy: FaultProxy) -> None:
    error, requests = said(
        place, proxy, lambda: open_source("s3://nobodys-bucket/logs", "lake").manifest(START, START + HOUR)
    )
    assert (str(error), requests) == ("s3://nobodys-bucket/logs: there is no bucket nobodys-bucket", 1)
    assert isinstance(error, SourceMissing)


# --- requests, counted ---


def test_a_window_costs_what_its_own_hour_has_and_not_the_bucket(place: InBucket, proxy: FaultProxy) -> None:
    moments = [START + hour * HOUR for hour in range(-20, 20)]
    content = parquet()
    place.put_all(
        {f"date={m:%Y-%m-%d}/hour={m:%H}/{k}.parquet": content for m in moments for k in range(6)}
        | {f"other/{k}.parquet": content for k in range(40)}
    )
    proxy.heal()
    source = place.source()
    objects = source.manifest(START, START + HOUR).objects
    listed = [request.query["prefix"][0] for request in proxy.requests if request.listing]
    assert listed == ["some/logs/date=", f"some/logs/{FOLDER}/"]
    assert proxy.count() == 3, "and whether versions are kept"
    assert proxy.requests[0].query["max-keys"] == ["10"]
    proxy.heal()
    source.manifest(START + HOUR, START + 2 * HOUR)
    assert proxy.count() == 1, "an hour after the first"
    proxy.heal()
    assert len(source.manifest(START, START + 12 * HOUR).objects) == 12 * 6
    assert proxy.count() == 2, "one for each day"
    proxy.heal()
    source.announce(objects)  # type: ignore[attr-defined]
    assert len([source.open(item) for item in objects]) == 6
    assert proxy.count() == 6, "one for each small object"


def test_a_flat_root_costs_its_own_days(place: InBucket, proxy: FaultProxy) -> None:
    names = [f"{START.replace(day=day):%Y-%m-%dT%H:%M:%SZ}.parquet" for day in range(1, 31)]
    place.put_all(dict.fromkeys(names, parquet()))
    source = place.source()
    source.manifest(START, START + HOUR)
    proxy.heal()
    assert [item.name for item in source.manifest(START, START + HOUR).objects] == [names[15]]
    starts = {request.query["start-after"][0] for request in proxy.requests if "start-after" in request.query}
    assert starts == {"some/logs/2013-04-16", "some/logs/20130416"}


def test_of_a_large_object_only_the_columns_that_are_read_are_fetched(
    place: InBucket, large: bytes, proxy: FaultProxy
) -> None:
    place.put(f"{FOLDER}/a.parquet", large)
    source = place.source()
    (item,) = source.manifest(START, START + HOUR).objects
    proxy.heal()
    blocks = list(row_groups(source.open(item), COLUMNS[:2]))
    assert sum(block.rows for block in blocks) == ROWS
    ranges = [request.headers["range"].removeprefix("bytes=").split("-") for request in proxy.requests]
    sizes = [int(stop) - int(start) + 1 for start, stop in ranges]
    assert len(sizes) == 1 + 3, "the footer, and two neighbouring columns of each row group"
    assert sum(sizes[1:]) < len(large) / 5
    assert all("if-match" in request.headers for request in proxy.requests)


# --- overwritten while it is read ---


def plan_of(place: InBucket, source: Source, tmp_path: Path) -> Plan:
    bins = Bins(tuple(COLUMNS), tuple(np.linspace(-2, 2, 5) for _ in COLUMNS), (), ())
    return Plan(
        source=source, manifest=place.manifest(), bins=bins, expected=Expected(), start=START, end=START + HOUR,
        numeric_prediction=False, extra=(), sample_rows=10, sidecar=tmp_path / "facts.parquet",
    )  # fmt: skip


@pytest.mark.parametrize("versions", [False, True])
def test_an_object_that_is_overwritten_while_it_is_read_is_never_mixed(
    versions: bool, place: InBucket, large: bytes, proxy: FaultProxy, tmp_path: Path
) -> None:
    if versions:
        place.keep_versions()
    place.put_all({f"{FOLDER}/a.parquet": large, f"{FOLDER}/b.parquet": parquet(7)})
    plan = plan_of(place, place.source(), tmp_path)
    proxy.heal()

    def overwrites(request: Request) -> bool:
        seen = sum("a.parquet" in other.path for other in proxy.requests)
        if is_get(request) and "a.parquet" in request.path and seen == 1:
            place.put(f"{FOLDER}/a.parquet", parquet(3))
        return False

    proxy.fail("reset", when=overwrites)
    scan = LocalEngine().scan(plan)
    if versions:
        assert (scan.profile.rows, scan.faults) == (ROWS + 7, {})
    else:
        assert scan.profile.rows == 7
        assert list(scan.faults) == [f"{FOLDER}/a.parquet"]
        assert "a.parquet: was overwritten since" in scan.faults[f"{FOLDER}/a.parquet"]


# --- reading ahead ---


def test_what_was_announced_is_fetched_in_parallel() -> None:
    together = Barrier(4)

    def fetch(key: str) -> bytes:
        together.wait(30)
        return key.encode()

    with ThreadPoolExecutor(4) as pool:
        ahead = Ahead(fetch, pool.submit)
        ahead.announce([(key, 1) for key in "abcd"])
        assert [ahead.take([key]) for key in "abcd"] == [[b"a"], [b"b"], [b"c"], [b"d"]]


@settings(deadline=None)
@given(sizes=st.lists(st.integers(1, 40), max_size=60), order=st.randoms(use_true_random=False))
def test_no_more_lies_ahead_than_is_allowed_and_each_key_is_fetched_once(sizes: list[int], order: Any) -> None:
    lock, fetched, held, worst = Lock(), [], [0], [0]

    def fetch(key: int) -> bytes:
        with lock:
            fetched.append(key)
            held[0] += sizes[key]
            worst[0] = max(worst[0], held[0])
        return bytes(sizes[key])

    asked = list(range(len(sizes)))
    order.shuffle(asked)
    with ThreadPoolExecutor(3) as pool:
        ahead = Ahead(fetch, pool.submit, 100)
        ahead.announce(enumerate(sizes))
        for key in asked:
            (content,) = ahead.take([key])
            assert len(content) == sizes[key]
            with lock:
                held[0] -= sizes[key]
    assert sorted(fetched) == sorted(asked)
    assert worst[0] < 100 + 2 * 40, "the last one that was begun, and the one that is asked for out of turn"


def test_what_failed_is_raised_where_it_is_asked_for_and_the_rest_goes_on() -> None:
    def fetch(key: int) -> bytes:
        if key == 1:
            raise SourceUnreadable("no")
        return bytes([key])

    with ThreadPoolExecutor(2) as pool:
        ahead = Ahead(fetch, pool.submit, 1)
        ahead.announce((key, 1) for key in range(4))
        assert ahead.take([0]) == [b"\0"]
        with pytest.raises(SourceUnreadable):
            ahead.take([1])
        assert ahead.take([2, 3]) == [b"\2", b"\3"]


@settings(deadline=None)
@given(st.data())
def test_a_file_of_ranges_reads_like_any_file(data: st.DataObject) -> None:
    size = data.draw(st.integers(0, 3 * PART // 2))
    content = memoryview(bytes(range(251)) * (size // 251 + 1))[:size]
    edge = st.integers(0, size)
    pairs = st.tuples(edge, edge).map(lambda pair: (min(pair), max(pair)))  # they may overlap
    with ThreadPoolExecutor(2) as pool:
        file = RangedFile(size, lambda start, stop: bytes(content[start:stop]), pool.submit)
        file.announce([pair for pair in data.draw(st.lists(pairs, max_size=4)) if pair[0] < pair[1]])
        for start, stop in data.draw(st.lists(pairs, max_size=5)):
            file.seek(start)
            assert bytes(file.read(stop - start)) == content[start:stop]
            assert file.tell() == stop
        assert file.seek(0, 2) == size


def test_the_bound_is_some_megabytes() -> None:
    assert PART < MOST_BYTES <= 32 << 20


# --- whole checks ---


def in_bucket(world: World, place: InBucket) -> dict[str, Any]:
    """Put a world's files into the bucket; returns the keys of a model file that reads them there."""
    paths = [path for path in world.folder.rglob("*") if path.is_file() and path.suffix in {".parquet", ".txt"}]
    place.put_all({path.relative_to(world.folder).as_posix(): path.read_bytes() for path in paths})
    uri = {name: {"uri": f"{place.uri}/alpha/{name}", "connection": "lake"} for name in ("logs", "labels")}
    content = load(world.models / "alpha.yaml").model_dump(mode="json")["explain"]["model"]
    model = {"uri": f"{place.uri}/model.txt", "connection": "lake", "format": "lightgbm", "sha256": content["sha256"]}
    return {
        **uri,
        "reference": {"uri": f"{place.uri}/reference.parquet", "connection": "lake"},
        "explain": {"model": model, "sample_rows": 100},
    }


def model_file(world: World, keys: dict[str, Any]) -> None:
    """The model file of `worlds`, some of its keys replaced."""
    path = worlds.model_file(world)
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **keys}, sort_keys=False))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return worlds.write(tmp_path_factory.mktemp("bucket") / "w", hours=4, rows=200, explain=True)


def told(results: str) -> dict[str, list[dict[str, Any]]]:
    """Every table, but for what says where the files were."""
    found = snapshot(results, ignore=("audit", "outbox"))
    places = {"config_digest", "manifest_digest", "details", "late_seconds"}
    return {name: [{k: v for k, v in row.items() if k not in places} for row in rows] for name, rows in found.items()}


def test_checks_of_a_bucket_leave_the_same_tables_as_of_a_folder(
    world: World, place: InBucket, proxy: FaultProxy, tmp_path: Path
) -> None:
    """Logs, labels, reference and model in the bucket, a quarter of all requests failing."""
    there = World(tmp_path / "there")
    there.models.mkdir(parents=True)
    model_file(there, in_bucket(world, place))
    proxy.rates({"slowdown": 0.05, "broken": 0.05, "reset": 0.05, "lost": 0.05, "cut": 0.05})
    assert cli(world, "check", "alpha", "--window", text(3)).exit_code == 0
    checked = cli(there, "check", "alpha", "--window", text(3))
    assert checked.exit_code == 0, checked.output
    assert worlds.differences(told(world.results), told(there.results)) == []
    assert {row["status"] for row in rows_of(there.results, "windows")} == {"ok"}
    assert rows_of(there.results, "importance")
    assert any(row["label_coverage"] for row in rows_of(there.results, "performance"))
    assert proxy.count(lambda request: bool(request.fault)) > 3
    items = {item["what"]: item for item in cli_json(there, "checklist", "alpha")}
    assert all(items[what]["ok"] for what in ("logs", "labels", "reference", "model artifact")), items


def test_what_is_wrong_with_a_bucket_is_an_exit_status_and_a_sentence(
    world: World, place: InBucket, s3: S3Server, proxy: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = World(tmp_path / "there")
    there.models.mkdir(parents=True)
    keys = in_bucket(world, place)

    def checked(**other: Any) -> tuple[int, str]:
        model_file(there, {**keys, **other})
        shutil.rmtree(there.folder / "results", ignore_errors=True)
        done = cli(there, "check", "alpha", "--window", text(2), "--only", "quality")
        return done.exit_code, done.output

    status, output = checked(logs={"uri": f"{place.uri}/nothing", "connection": "lake"})
    assert (status, f"{place.uri}/nothing: nothing lies there" in output) == (3, True), output
    status, output = checked(logs={"uri": "s3://nobodys-bucket/logs", "connection": "lake"})
    assert (status, "there is no bucket nobodys-bucket" in output) == (3, True), output
    status, output = checked(logs={"uri": "s3:///logs", "connection": "lake"})
    assert (status, "names no bucket" in output) == (2, True), output
    status, output = checked(logs={"uri": "s3://No_Bucket!/logs", "connection": "lake"})
    assert (status, 'Invalid bucket name "No_Bucket!"' in output) == (2, True), output
    status, output = checked(reference={"uri": f"{place.uri}/nothing.parquet", "connection": "lake"})
    assert (status, f"{place.uri}/nothing.parquet: no such object" in output) == (3, True), output
    monkeypatch.setenv("AIRFLOW_CONN_LAKE", s3.as_("lister").connection())
    status, output = checked()
    assert (status, "needs s3:GetObject on" in output) == (3, True), output
    monkeypatch.setenv("AIRFLOW_CONN_LAKE", s3.connection())
    place.put(f"alpha/logs/{worlds.partition(Path(), worlds.at(2))}/part-1.parquet", b"nonsense")
    status, output = checked()
    assert (status, "1 of 2 objects could not be read" in output) == (0, True), output
    assert [row["status"] for row in rows_of(there.results, "windows")] == ["partial"]
    artifact = {**keys["explain"]["model"], "sha256": "0" * 64}
    model_file(there, {**keys, "explain": {"model": artifact, "sample_rows": 100}})
    done = cli(there, "check", "alpha", "--window", text(3), "--only", "importance")
    assert "sha256 differs" in done.output


def test_profile_and_init_read_a_bucket(world: World, place: InBucket, tmp_path: Path) -> None:
    in_bucket(world, place)
    local = f"{world.folder}/reference.parquet"
    there = World(tmp_path / "there")
    for uri, name, more in (
        (local, "local", []),
        (f"{place.uri}/reference.parquet", "bucket", ["--connection", "lake"]),
    ):
        assert cli(there, "profile", uri, "-o", str(tmp_path / name), *more).exit_code == 0
    assert (tmp_path / "local").read_bytes() == (tmp_path / "bucket").read_bytes()
    options = ["--name", "beta", "--reference", f"{place.uri}/reference.parquet", "--connection", "lake"]
    assert cli(there, "init", *options).exit_code == 0
    model = load(there.models / "beta.yaml")
    assert (model.reference.uri, model.reference.connection) == (f"{place.uri}/reference.parquet", "lake")
    assert len(model.features) == 6
    done = cli(there, "profile", f"{place.uri}/nothing", "-o", str(tmp_path / "none"), "--connection", "lake")
    assert (done.exit_code, "no such object" in done.output) == (3, True)


def test_a_connection_holds_no_secret_in_what_is_printed(place: InBucket, s3: S3Server) -> None:
    assert s3.password not in repr(place.source().__getstate__())  # type: ignore[operator]
    assert json.loads(s3.connection())["password"] == s3.password


def test_an_object_that_came_late_is_found_by_the_sweep(place: InBucket, tmp_path: Path) -> None:
    there = worlds.write(tmp_path / "there", hours=1, rows=60, labels="none")
    part = f"alpha/logs/{worlds.partition(Path(), worlds.at(0))}"
    late = (there.folder / part / "part-1.parquet").read_bytes()
    for path in sorted(there.folder.rglob("part-0.parquet")):
        place.put(path.relative_to(there.folder).as_posix(), path.read_bytes())
    model_file(there, {"logs": {"uri": f"{place.uri}/alpha/logs", "connection": "lake"}})
    path = there.models / "alpha.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in yaml.safe_load(path.read_text()).items() if k != "labels"}))
    assert cli(there, "check", "alpha", "--window", text(0), "--only", "quality").exit_code == 0
    assert cli_json(there, "sweep", "alpha")["changed"] == []
    place.put(f"{part}/part-1.parquet", late)
    (changed,) = cli_json(there, "sweep", "alpha")["changed"]
    assert (changed["rows"], changed["late_rows"], changed["status"]) == (60, 30, "ok")
    assert changed["late_seconds"] > 0
