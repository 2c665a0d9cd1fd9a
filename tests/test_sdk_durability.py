"""The logging SDK when things go wrong: kills, forks, signals, full disks, stores that fail.

What counts is what a reader finds: every test reads the files of the store.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from tests.fault_proxy import before
from tests.ports import free_port
from tests.s3_server import REGION, S3Server

from hindcast.sdk import NotDurable, PredictionLogger
from hindcast.sdk.tally import COUNTING

ROOT = Path(__file__).resolve().parents[1]


def ids(root: Path) -> list[str]:
    """Ids in a folder, as often as they are there."""
    return sorted(
        value
        for path in root.rglob("*.parquet")
        for value in pq.ParquetFile(path).read(["prediction_id"])[0].to_pylist()
    )


def settings(server: S3Server) -> dict[str, Any]:
    """What boto3 needs to reach a server."""
    return {
        "endpoint_url": server.endpoint, "aws_access_key_id": server.login, "aws_secret_access_key": server.password,
        "region_name": REGION,
    }  # fmt: skip


def objects(server: S3Server, bucket: str) -> dict[str, list[str]]:
    """Ids in a bucket, by object."""
    client, found = server.client(), {}
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for item in page.get("Contents", ()):
            content = client.get_object(Bucket=bucket, Key=item["Key"])["Body"].read()
            found[item["Key"]] = pq.read_table(BytesIO(content), columns=["prediction_id"])[0].to_pylist()
    return found


def process(script: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
    """A Python process of its own that serves."""
    head = """
import os, signal, sys, threading, time
from hindcast.sdk import NotDurable, PredictionLogger
def say(*words): print(*words, flush=True)
"""
    command = [sys.executable, "-c", head + script, *map(str, arguments)]
    environment = {"PYTHONPATH": str(ROOT / "include"), "PATH": os.environ["PATH"]}
    return subprocess.Popen(command, text=True, env=environment, **{"stdout": subprocess.PIPE, **options})


def ended(script: str, *arguments: object) -> int:
    """The same, until it ends."""
    child = process(script, *arguments)
    child.communicate(timeout=60)
    return child.returncode


# --- kill -9 ---

STREAM = """
options = dict(endpoint_url=sys.argv[5], aws_access_key_id=sys.argv[6], aws_secret_access_key=sys.argv[7],
               region_name=sys.argv[8]) if len(sys.argv) > 5 else {}
logger = PredictionLogger("churn", "7", sys.argv[1], spool=sys.argv[2], max_seconds=0.3, max_rows=2000,
                          queue_records=int(sys.argv[4]), block_seconds=0.001, metrics=False, store_options=options)
turn, i = sys.argv[3], 0
logger.log(f"{turn}-0", {"x": 0.0, "name": "a"}, 1)
say("began")
while True:
    for _ in range(300):
        i += 1
        logger.log(f"{turn}-{i}", {"x": float(i), "name": "a"}, 1)
    say("logged", i, time.time())
    if i % 1500 == 0:
        try:
            logger.flush()
        except NotDurable:
            say("dropped", sum(logger.counts()["dropped"].values()))
        else:
            say("safe", i)
    time.sleep(0.002)
"""


def stream(seconds: float, folder: Path, *arguments: object) -> list[tuple[str, ...]]:
    """Let a process log, kill it in mid-stream, and return what it said; the last line may be cut."""
    said = folder / "said"
    with said.open("w") as output:
        child = process(STREAM, *arguments, stdout=output)
    while not said.stat().st_size:
        assert child.poll() is None
        time.sleep(0.01)
    time.sleep(seconds)
    killed = time.time()
    child.kill()
    child.wait()
    lines = said.read_text().split("\n")[:-1]
    return [*(tuple(line.split()) for line in lines), ("killed", str(killed))]


def judge(found: list[str], said: dict[str, list[tuple[str, ...]]]) -> None:
    """Nothing twice, nothing that was said to be safe is missing, and nothing older than a file may be is missing."""
    assert len(found) == len(set(found))
    there = set(found)
    for turn, lines in said.items():
        safe = max((int(line[1]) for line in lines if line[0] == "safe"), default=-1)
        killed = float(lines[-1][1])
        # max_seconds, and a while for a busy machine to have written the file
        old = max((int(line[1]) for line in lines if line[0] == "logged" and float(line[2]) < killed - 2.3), default=-1)
        # on a machine that is busy enough, records are dropped, and that is said
        dropped = max((int(line[1]) for line in lines if line[0] == "dropped"), default=0)
        missing = {f"{turn}-{i}" for i in range(max(safe, old) + 1)} - there
        assert len(missing) <= dropped, (turn, safe, old, dropped, sorted(missing)[:5])


def test_kill_9_in_mid_stream_loses_nothing_that_was_said_to_be_safe(tmp_path: Path) -> None:
    """Six processes, killed one after the other; a seventh finds what they left. Some overflow to the disk."""
    logs, spool = tmp_path / "logs", tmp_path / "spool"
    said = {}
    for turn in range(6):
        queue = 20_000 if turn % 2 else 100
        said[str(turn)] = stream(3.0 if turn > 3 else 0.4 + 0.17 * turn, tmp_path, logs, spool, turn, queue)
    assert any(line[0] == "safe" for lines in said.values() for line in lines)
    with PredictionLogger("churn", "7", str(logs), spool=spool, metrics=False) as logger:
        logger.log("last-0", {"x": 0.0}, 1)
        assert logger.flush()
    judge([name for name in ids(logs) if not name.startswith("last")], said)
    assert not list(spool.rglob("*.parquet"))
    assert not list(spool.rglob("*.jsonl"))


def test_kill_9_while_s3_fails_in_every_way_loses_and_doubles_nothing(s3: S3Server, tmp_path: Path) -> None:
    bucket, said = s3.bucket(), {}
    with before(s3.port) as proxy:
        proxy.rates({"slowdown": 0.15, "broken": 0.1, "reset": 0.15, "lost": 0.2}, seed=3)
        server = s3.through(proxy.port)
        for turn in range(4):
            given = settings(server).values()
            said[str(turn)] = stream(1.0, tmp_path, f"s3://{bucket}/p", tmp_path / "spool", turn, 20_000, *given)
        assert any(request.fault for request in proxy.requests)
        proxy.heal()
        with PredictionLogger(
            "churn", "7", f"s3://{bucket}/p", spool=tmp_path / "spool", metrics=False, store_options=settings(server)
        ) as logger:
            logger.log("last", {"x": 0.0}, 1)
            assert logger.flush()
    found = objects(s3, bucket)
    assert all(key.startswith("p/date=") for key in found)
    judge([name for names in found.values() for name in names if name != "last"], said)


# --- a store that is not there ---


def test_an_unreachable_store_fills_the_spool_and_the_next_process_empties_it(s3: S3Server, tmp_path: Path) -> None:
    bucket, port = s3.bucket(), free_port()
    logger = PredictionLogger(
        "churn", "7", f"s3://{bucket}", spool=tmp_path, metrics=False, store_options=settings(s3.through(port))
    )
    for i in range(100):
        logger.log(f"{i:03}", {"x": i}, 1)
    assert logger.flush(timeout=1.5) is False  # durable, and not in the store
    assert logger.counts() == {"logged": 100, "adopted": 0, "stored": 0, "waiting": 100, "dropped": {}}
    assert logger.close(timeout=0.1) is False
    assert len(list(tmp_path.rglob("*.parquet"))) == 1
    with PredictionLogger(
        "other", "1", f"s3://{bucket}", spool=tmp_path, metrics=False, store_options=settings(s3)
    ) as heir:
        heir.log("heir", {"x": 1}, 1)
        assert heir.flush()
        assert heir.counts() == {"logged": 1, "adopted": 100, "stored": 101, "waiting": 0, "dropped": {}}
    found = objects(s3, bucket)
    assert sorted(name for names in found.values() for name in names) == [*(f"{i:03}" for i in range(100)), "heir"]
    assert not list(tmp_path.rglob("*.parquet"))


def test_a_full_spool_drops_and_says_how_many_and_why(s3: S3Server, tmp_path: Path) -> None:
    from prometheus_client import CollectorRegistry

    registry = CollectorRegistry()
    logger = PredictionLogger(
        "churn", "7", "s3://nowhere", spool=tmp_path, metrics=registry, max_rows=1000, spool_bytes=100_000,
        store_options=settings(s3.through(free_port())),
    )  # fmt: skip
    for i in range(20_000):
        logger.log(f"{i:05}-{'x' * 30}", {"x": i * 0.37}, 1)
    with pytest.raises(NotDurable):
        logger.flush(timeout=5)
    counts = logger.counts()
    assert counts["dropped"]["spool_full"] > 0
    assert counts["waiting"] > 0
    assert counts["logged"] == counts["waiting"] + counts["dropped"]["spool_full"] == 20_000
    labels = {"model_name": "churn", "model_version": "7"}
    dropped = registry.get_sample_value("ml_log_dropped_total", {**labels, "reason": "spool_full"})
    assert dropped == counts["dropped"]["spool_full"]
    assert registry.get_sample_value("ml_log_delivery_failures_total", labels) >= 1  # type: ignore[operator] # it is there
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.parquet")) <= 100_000
    logger.close(timeout=0.1)


def test_without_a_local_disk_files_go_from_memory_to_the_store(tmp_path: Path) -> None:
    logs, spool = tmp_path / "logs", tmp_path / "spool"
    logger = PredictionLogger("churn", "7", str(logs), spool=spool, metrics=False)
    spool.rmdir()
    spool.write_text("no folder any more")
    for i in range(10):
        logger.log(f"{i}", {"x": i}, 1)
    assert logger.flush()
    assert logger.close()
    assert ids(logs) == [f"{i}" for i in range(10)]


def test_neither_store_nor_disk_is_said_where_it_is_asked(tmp_path: Path) -> None:
    spool, root = tmp_path / "spool", tmp_path / "logs"
    logger = PredictionLogger("churn", "7", str(root), spool=spool, metrics=False)
    spool.rmdir()
    for path in (spool, root):
        path.write_text("no folder any more")
    logger.log("a", {"x": 1}, 1)
    with pytest.raises(NotDurable, match="1 records are neither in the store nor on the local disk"):
        logger.flush(timeout=1.5)
    root.unlink()  # and once the store is back, what is in memory gets there
    assert logger.flush()
    assert ids(root) == ["a"]
    logger.close()


def test_a_file_that_somebody_removes_from_the_spool_is_counted(tmp_path: Path) -> None:
    root = tmp_path / "logs"
    root.write_text("not yet a folder")
    logger = PredictionLogger("churn", "7", str(root), spool=tmp_path / "spool", metrics=False)
    logger.log("a", {"x": 1}, 1)
    assert logger.flush(timeout=1.5) is False
    for path in (tmp_path / "spool").rglob("*.parquet"):
        path.unlink()
    with pytest.raises(NotDurable, match="1 are lost"):
        logger.flush()
    assert logger.counts()["dropped"] == {"spool_lost": 1}
    logger.close()


def test_a_turn_that_fails_is_never_called_durable(tmp_path: Path) -> None:
    """Metrics that cannot be counted are as good as any trouble that nobody thought of."""
    from prometheus_client import CollectorRegistry

    logs = tmp_path / "logs"
    logger = PredictionLogger("churn", "7", str(logs), spool=tmp_path / "spool", metrics=CollectorRegistry())
    exposed = logger._predictions._exposed
    assert exposed is not None
    whole, exposed._features = exposed._features, None  # type: ignore[assignment] # on purpose
    logger.log("a", {"x": 1.0}, 1)
    with pytest.raises(NotDurable, match="records could not be made into files: AttributeError"):
        logger.flush()
    exposed._features = whole
    assert logger.flush()
    assert ids(logs) == ["a"]
    logger.close()


def test_a_spool_that_a_cleaner_removed_is_made_again(tmp_path: Path) -> None:
    """As those of temporary folders do: the lock first, since it is the oldest, then the empty folder."""
    logs, spool = tmp_path / "logs", tmp_path / "spool"
    logs.write_text("not yet a folder")
    logger = PredictionLogger("churn", "7", str(logs), spool=spool, metrics=False)
    logger.log("a", {"x": 1}, 1)
    logger.flush(1.5)
    for path in spool.glob("*"):
        shutil.rmtree(path)
    logger.log("b", {"x": 1}, 1)
    with pytest.raises(NotDurable, match=r"1 are lost \(spool_lost: 1\)"):
        logger.flush(timeout=1.5)
    (waiting,) = spool.rglob("*.parquet")
    assert (waiting.parent / "lock").exists()  # nobody takes it from the living
    with PredictionLogger("churn", "7", str(logs), spool=spool, metrics=False) as other:
        other.log("c", {"x": 1}, 1)
        assert other.flush(1.5) is False
        assert other.counts()["adopted"] == 0
        logs.unlink()
    assert logger.flush()
    shutil.rmtree(spool)
    assert logger.close()
    assert ids(logs) == ["b", "c"]


# --- overload ---


def test_overload_goes_to_the_local_disk_and_from_there_to_the_store(tmp_path: Path) -> None:
    """A queue of ten, no time to wait, and a builder that is held up: nearly all goes over the disk."""
    logs, spool = tmp_path / "logs", tmp_path / "spool"
    logger = PredictionLogger("churn", "7", str(logs), spool=spool, metrics=False, queue_records=10, block_seconds=0.0)
    logger.log("first", {"x": 0.0, "name": "a"}, 1)
    logger.flush()
    with COUNTING:
        for i in range(5000):
            logger.log(f"{i:04}", {"x": i + 0.5, "name": "a"}, 1, 0.5, score=0.25)
    assert logger.flush()
    counts = logger.counts()
    logger.close()
    assert counts["dropped"] == {}
    assert counts["stored"] == 5001
    assert ids(logs) == [*(f"{i:04}" for i in range(5000)), "first"]
    assert any("overflow" in path.name for path in logs.rglob("*.parquet"))
    assert not list(spool.rglob("*.jsonl"))
    rows = [row for path in logs.rglob("*overflow*.parquet") for row in pq.ParquetFile(path).read().to_pylist()]
    assert all(row["feature_x"] == int(row["prediction_id"]) + 0.5 for row in rows)
    assert {(row["feature_name"], row["confidence"], row["score"], row["model_version"]) for row in rows} == {
        ("a", 0.5, 0.25, "7")
    }


def test_an_overflow_keeps_what_json_has_no_word_for(tmp_path: Path) -> None:
    from datetime import UTC, date, datetime
    from decimal import Decimal

    import numpy as np

    moment = datetime(2024, 3, 4, 12, tzinfo=UTC)
    logger = PredictionLogger(
        "churn",
        "7",
        str(tmp_path / "logs"),
        spool=tmp_path / "spool",
        metrics=False,
        queue_records=1,
        block_seconds=0.0,
    )
    features = {
        "x": np.float64(1.5), "n": np.int32(2), "at": moment, "s": "ü", "d": Decimal("1.5"), "b": b"y",
        "day": date(2024, 3, 4), "t": np.bool_(True), "many": np.array([1, 2]),
    }  # fmt: skip
    logger.log("first", features, 1, timestamp=moment)
    logger.flush()
    with COUNTING:
        for i in range(300):
            logger.log(f"{i}", features, 1, timestamp=moment)
    logger.close()
    found = [
        (path.name, row)
        for path in (tmp_path / "logs").rglob("*.parquet")
        for row in pq.ParquetFile(path).read().to_pylist()
    ]
    rows = [row for name, row in found if "overflow" in name]
    (expected,) = [row for _, row in found if row["prediction_id"] == "first"]
    assert rows
    for row in rows:
        assert {**row, "prediction_id": "first"} == expected
    assert len(ids(tmp_path / "logs")) == 301


def test_a_disk_that_takes_half_a_record_takes_no_other_with_it(tmp_path: Path) -> None:
    """The process may write files of 20,000 bytes only, for a while."""
    script = """
import resource
from hindcast.sdk.tally import COUNTING
logger = PredictionLogger("churn", "7", sys.argv[1], spool=sys.argv[2], metrics=False, queue_records=1, block_seconds=0)
logger.log("first", {"x": 0}, 1)
logger.flush()
with COUNTING:
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
    for i in range(400):
        logger.log(f"{i:04}", {"x": i, "name": "abc" * 5}, 1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    for i in range(400, 410):
        logger.log(f"{i:04}", {"x": i, "name": "abc" * 5}, 1)
try:
    logger.flush()
except NotDurable:
    say(logger.counts()["dropped"].get("spool_failed"), sum(logger.counts()["dropped"].values()))
"""
    child = process(script, tmp_path / "logs", tmp_path / "spool", stderr=subprocess.DEVNULL)
    said, _ = child.communicate(timeout=60)
    failed, dropped = map(int, said.split())
    assert 0 < failed == dropped
    found = ids(tmp_path / "logs")
    assert len(found) == 411 - dropped
    assert found[-11:-1] == [f"{i:04}" for i in range(400, 410)]


def test_a_spool_of_another_version_loses_what_cannot_be_read_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logs, spool = tmp_path / "logs", tmp_path / "spool"
    with PredictionLogger("churn", "7", str(logs), spool=spool, metrics=False) as logger:
        logger.log("first", {"x": 1}, 1)
        logger.flush()
        (own,) = spool.glob("*/*")
    dead, half = own.parent / "churn-1-dead", own.parent / ".churn-2-dead"
    for folder in (dead, half):
        folder.mkdir()
        (folder / "lock").touch()
    model = '{"model_name": "other", "model_version": "1"}'
    good = '["%s", {"x": 2}, 1, null, null, 1700000000000000000, {}]'
    bad = ["5", "[]", "null", '{"a": 1}', "no json", '["short", 1]', good.replace("17", '{"$moment": 5}, ') % "long"]
    lines = [model, good % "a", *bad, good % "b", (good % "torn")[:20]]
    (dead / "overflow-1.jsonl").write_text("\n".join(lines))
    (dead / "overflow-2.jsonl").write_text(f"{good % 'nobody'}\n{good % 's'}\n")
    (dead / "overflow-3.jsonl").touch()
    (dead / ".half.parquet").write_bytes(b"PAR1")
    (dead / "of a later version").write_text("kept")
    with PredictionLogger("churn", "7", str(logs), spool=spool, metrics=False) as heir:
        heir.log("heir", {"x": 1}, 1)
        with pytest.raises(NotDurable, match=r"8 are lost \(unreadable: 8\)"):
            heir.flush()
        assert heir.flush()
    assert ids(logs) == ["a", "b", "first", "heir"]
    assert [path.name for path in spool.rglob("*.jsonl*")] == ["overflow-2.jsonl.damaged"]
    assert "does not say whose records it holds; kept, and not delivered" in caplog.text
    assert (dead / "of a later version").read_text() == "kept"


# --- the end of a process ---


def test_at_exit_everything_is_flushed(tmp_path: Path) -> None:
    script = """
logger = PredictionLogger("churn", "7", sys.argv[1], spool=sys.argv[2])
for i in range(1000):
    logger.log(f"{i:04}", {"x": i}, 1)
"""
    assert ended(script, tmp_path / "logs", tmp_path / "spool") == 0
    assert ids(tmp_path / "logs") == [f"{i:04}" for i in range(1000)]


def test_on_sigterm_everything_is_flushed_and_the_process_ends_by_it(tmp_path: Path) -> None:
    script = """
logger = PredictionLogger("churn", "7", sys.argv[1], spool=sys.argv[2])
for i in range(1000):
    logger.log(f"{i:04}", {"x": i}, 1)
say("ready")
time.sleep(60)
"""
    child = process(script, tmp_path / "logs", tmp_path / "spool")
    assert child.stdout is not None
    child.stdout.readline()
    child.terminate()
    child.communicate(timeout=30)
    assert child.returncode == -signal.SIGTERM
    assert ids(tmp_path / "logs") == [f"{i:04}" for i in range(1000)]


def test_a_handler_that_was_there_is_called_when_all_is_durable_and_logging_goes_on(tmp_path: Path) -> None:
    """It ends the process at once, as no exit would; what it logs itself is kept as well."""
    script = """
def handler(number, frame):
    found = [name for _, _, names in os.walk(os.path.dirname(sys.argv[1])) for name in names]
    os.write(1, f"found {sum(name.endswith('.parquet') for name in found)}\\n".encode())
    logger.log("of the handler", {"x": 1}, 1)
    logger.flush()
    os._exit(7)
signal.signal(signal.SIGTERM, handler)
logger = PredictionLogger("churn", "7", sys.argv[1], spool=sys.argv[2], max_seconds=3600)
for i in range(1000):
    logger.log(f"{i:04}", {"x": i}, 1)
say("ready")
while True:
    time.sleep(0.1)
"""
    child = process(script, tmp_path / "logs", tmp_path / "spool")
    assert child.stdout is not None
    child.stdout.readline()
    child.terminate()
    said, _ = child.communicate(timeout=30)
    assert child.returncode == 7
    assert said.split() == ["found", "1"]
    assert ids(tmp_path / "logs") == [*(f"{i:04}" for i in range(1000)), "of the handler"]


def test_a_process_that_ignores_sigterm_goes_on_ignoring_it(tmp_path: Path) -> None:
    script = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
logger = PredictionLogger("churn", "7", sys.argv[1], spool=sys.argv[2])
os.kill(os.getpid(), signal.SIGTERM)
logger.log("after", {"x": 1}, 1)
"""
    assert ended(script, tmp_path / "logs", tmp_path / "spool") == 0
    assert ids(tmp_path / "logs") == ["after"]


# --- forks ---


def test_forked_workers_each_write_their_own_and_the_parent_its_own(tmp_path: Path) -> None:
    """As gunicorn does with --preload: the logger is made, and used, before the workers are forked."""
    script = """
logger = PredictionLogger("churn", "7", sys.argv[1], spool=sys.argv[2])
for i in range(500):
    logger.log(f"parent-{i}", {"x": i}, 1)
children = []
for n in range(4):
    child = os.fork()
    if child == 0:
        for i in range(500):
            logger.log(f"{n}-{i}", {"x": i}, 1)
        sys.exit(0)  # as gunicorn's workers end
    children.append(child)
for i in range(500, 1000):
    logger.log(f"parent-{i}", {"x": i}, 1)
say(*(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""
    child = process(script, tmp_path / "logs", tmp_path / "spool")
    said, _ = child.communicate(timeout=60)
    assert (child.returncode, said.split()) == (0, ["0"] * 4)
    expected = [f"parent-{i}" for i in range(1000)] + [f"{n}-{i}" for n in range(4) for i in range(500)]
    assert ids(tmp_path / "logs") == sorted(expected)
    assert len({path.name for path in (tmp_path / "logs").rglob("*.parquet")}) >= 5


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_children_of_multiprocessing_flush_at_their_end(tmp_path: Path, method: str) -> None:
    """They end without atexit."""
    (tmp_path / "served.py").write_text("""
import multiprocessing, sys
from hindcast.sdk import PredictionLogger
logger = PredictionLogger("churn", "7", sys.argv[1], spool=sys.argv[2])
def work(n):
    for i in range(100):
        logger.log(f"{n}-{i}", {"x": i}, 1)
if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[3])
    children = [context.Process(target=work, args=(n,)) for n in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    sys.exit(sum(child.exitcode for child in children))
""")
    command = [sys.executable, tmp_path / "served.py", tmp_path / "logs", tmp_path / "spool", method]
    environment = {"PYTHONPATH": str(ROOT / "include")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=60)
    assert done.returncode == 0, done.stderr
    assert ids(tmp_path / "logs") == sorted(f"{n}-{i}" for n in range(2) for i in range(100))


def test_a_child_that_lives_on_does_not_keep_what_its_killed_parent_left(tmp_path: Path) -> None:
    script = """
logger = PredictionLogger("churn", "7", sys.argv[1], spool=sys.argv[2], metrics=False)
logger.log("parent", {"x": 1}, 1)
logger.flush(1.5)
child = os.fork()
if child == 0:
    time.sleep(60)
say(child)
time.sleep(60)
"""
    logs = tmp_path / "logs"
    logs.write_text("not yet a folder")
    parent = process(script, logs, tmp_path / "spool")
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    logs.unlink()
    try:
        with PredictionLogger("churn", "7", str(logs), spool=tmp_path / "spool", metrics=False) as heir:
            heir.log("heir", {"x": 1}, 1)
            assert heir.flush()
        assert ids(logs) == ["heir", "parent"]
        os.kill(child, 0)  # it did live
    finally:
        os.kill(child, signal.SIGKILL)
        parent.stdout.close()


def test_two_living_processes_leave_each_other_alone(tmp_path: Path) -> None:
    logs, spool = tmp_path / "logs", tmp_path / "spool"
    logs.write_text("not yet a folder")
    first = PredictionLogger("churn", "7", str(logs), spool=spool, metrics=False)
    first.log("first", {"x": 1}, 1)
    assert first.flush(timeout=1.5) is False
    second = PredictionLogger("churn", "7", str(logs), spool=spool, metrics=False)
    second.log("second", {"x": 1}, 1)
    assert second.flush(timeout=1.5) is False
    assert (first.counts()["adopted"], second.counts()["adopted"]) == (0, 0)
    logs.unlink()
    assert first.close()
    assert second.close()
    assert ids(logs) == ["first", "second"]


def test_a_damaged_file_of_the_spool_is_kept_apart_and_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logs, spool = tmp_path / "logs", tmp_path / "spool"
    logs.write_text("not yet a folder")
    logger = PredictionLogger("churn", "7", str(logs), spool=spool, metrics=False)
    for moment in (0, 3_600_000_000_000):
        logger.log(f"{moment}", {"x": 1}, 1, timestamp=moment + 1)
    assert logger.close(timeout=1.5) is False
    first, _ = sorted(spool.rglob("*.parquet"))
    first.write_bytes(first.read_bytes()[:100])
    logs.unlink()
    with PredictionLogger("churn", "7", str(logs), spool=spool, metrics=False) as heir:
        heir.log("heir", {"x": 1}, 1)
        assert heir.flush()
    assert ids(logs) == ["3600000000000", "heir"]
    assert [path.name for path in spool.rglob("*.damaged")] == [f"{first.name}.damaged"]
    assert "is no readable Parquet file; kept, and not delivered" in caplog.text
