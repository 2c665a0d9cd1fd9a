"""Names for files that are being written: whoever looks for the finished one never sees half of it.

A process that is killed leaves its own behind; whoever writes the same file next removes those.
"""

from __future__ import annotations

import itertools
import os
import platform
import re
import secrets
import shutil
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_SELF = secrets.token_hex(4)  # a process that starts anew may get the same number
_COUNT = itertools.count()
# A writer on another machine cannot be asked whether it lives; nothing is written for so long.
_ABANDONED_S = 24 * 3600.0


def unfinished(path: Path) -> Path:
    """Name beside `path` to write it under, and then to rename; what dead processes left of it is removed.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "new" / "sample.parquet"
    >>> first = unfinished(path)
    >>> _ = first.write_text("rows")
    >>> _ = first.replace(path)
    >>> [found.name for found in path.parent.iterdir()]
    ['sample.parquet']
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for other in path.parent.glob(f"{_escaped(path.name)}.*.tmp"):
        if _is_abandoned(other, path.name):
            remove(other)
    return path.with_name(f"{path.name}.{_machine()}.{os.getpid()}.{_SELF}.{next(_COUNT)}.tmp")


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _escaped(name: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", name)


def _machine() -> str:
    return re.sub(r"[^A-Za-z0-9-]", "-", platform.node())


def _is_abandoned(other: Path, name: str) -> bool:
    match = re.fullmatch(r"([A-Za-z0-9-]*)\.(\d+)\.([0-9a-f]{8})\.\d+", other.name[len(name) + 1 : -len(".tmp")])
    if match and match[1] == _machine():
        process = int(match[2])
        return match[3] != _SELF if process == os.getpid() else not _lives(process)
    try:
        return time.time() - other.stat().st_mtime > _ABANDONED_S
    except FileNotFoundError:  # finished or removed since
        return False


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True
