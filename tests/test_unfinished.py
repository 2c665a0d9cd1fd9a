"""Files that are being written: found by nobody, and removed when their writer died."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from hindcast.unfinished import unfinished

WRITE = """
import sys, time, pathlib
from hindcast.unfinished import unfinished
found = unfinished(pathlib.Path(sys.argv[1]))
(found.mkdir() if sys.argv[2] == "folder" else found.write_text("half"))
print(found, flush=True)
time.sleep(60)
"""


def writer(path: Path, kind: str = "file") -> tuple[subprocess.Popen[str], str]:
    """A process that began to write, and what it writes."""
    process = subprocess.Popen([sys.executable, "-c", WRITE, str(path), kind], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def test_what_a_killed_process_left_is_removed_by_the_next_writer(tmp_path: Path) -> None:
    for kind in ("file", "folder"):
        process, left = writer(tmp_path / "a" / "2013-04-16T15.parquet", kind)
        process.kill()
        process.communicate()
        assert Path(left).exists()
        unfinished(tmp_path / "a" / "2013-04-16T15.parquet")
        assert not Path(left).exists()


def test_what_a_living_process_writes_stays(tmp_path: Path) -> None:
    process, left = writer(tmp_path / "b.parquet")
    mine = unfinished(tmp_path / "b.parquet")
    mine.write_text("half")
    assert unfinished(tmp_path / "b.parquet") != mine
    assert Path(left).exists()
    assert mine.exists()
    process.kill()
    process.communicate()


def test_other_files_stay(tmp_path: Path) -> None:
    others = [tmp_path / "c.parquet.notes.tmp", tmp_path / "c.parquet", tmp_path / "[c].parquet.node.1.00000000.0.tmp"]
    for other in others:
        other.write_text("kept")
    unfinished(tmp_path / "c.parquet")
    assert all(other.exists() for other in others)


def test_what_another_machine_abandoned_goes_after_a_day(tmp_path: Path) -> None:
    theirs = tmp_path / "d.parquet.elsewhere.1.00000000.0.tmp"
    theirs.write_text("half")
    unfinished(tmp_path / "d.parquet")
    assert theirs.exists()
    os.utime(theirs, (0, 0))
    unfinished(tmp_path / "d.parquet")
    assert not theirs.exists()
