"""Whether the logs of a window are all there: by a marker or a minimum volume that the model file asks for."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from hindcast.errors import SourceBusy, SourceUnreadable, UsageError
from hindcast.sources.base import Marked, Streamed
from hindcast.window import text

if TYPE_CHECKING:
    from datetime import datetime

    from hindcast.config import ModelFile
    from hindcast.sources.base import LogObject, Manifest, Source
    from hindcast.window import Window


@dataclass(frozen=True)
class Readiness:
    """Whether a window is complete, and what is missing."""

    ready: bool
    reason: str = ""


def pinned(model: ModelFile, logs: Source, window: Window) -> Manifest:
    """The objects that may hold rows of a window, as they are now.

    Raises
    ------
    SourceError
        The logs cannot be listed.
    """
    manifest = logs.manifest(window.start, window.end)
    if manifest.layout == "flat":
        settle = timedelta(minutes=model.schedule.settle_minutes)
        manifest = logs.manifest(window.start, window.end + settle)
    return manifest


def deadline(model: ModelFile, window: Window) -> datetime:
    """Until when a window is waited for."""
    wait = model.logs.ready.wait_minutes if model.logs.ready else 0
    return window.end + timedelta(minutes=model.schedule.settle_minutes + wait)


def readiness(
    model: ModelFile, logs: Source, window: Window, known: dict[tuple[str, str], int] | None = None
) -> Readiness:
    """Say whether all is there that `logs.ready` asks for; without that key, everything is ready.

    Parameters
    ----------
    known : dict, optional
        Rows of objects by name and etag, filled here: whoever asks again and again opens each object once.

    Raises
    ------
    UsageError
        A marker is asked for where there is no folder for it.
    SourceError
        The logs cannot be listed.
    """
    wanted = model.logs.ready
    if wanted is None:
        return Readiness(ready=True)
    try:
        manifest = pinned(model, logs, window)
        lacks = []
        if wanted.marker and not _marked(logs, manifest, window, wanted.marker):
            lacks.append(f"no {wanted.marker}")
        if wanted.min_objects is not None and len(manifest.objects) < wanted.min_objects:
            lacks.append(f"{len(manifest.objects)} of {wanted.min_objects} objects")
        if wanted.min_rows is not None:
            rows = sum(_rows(logs, item, {} if known is None else known) for item in manifest.objects)
            lacks += [f"{rows} of {wanted.min_rows} rows"] if rows < wanted.min_rows else []
    except SourceBusy as error:
        lacks = [str(error)]
    return Readiness(not lacks, ", ".join(lacks))


def refuse_unless_ready(model: ModelFile, logs: Source, window: Window, now: datetime) -> None:
    """Raise while a window is not complete and still waited for.

    Raises
    ------
    SourceBusy
        It is not ready: what is missing, and until when it is waited for.
    """
    if now >= deadline(model, window):
        return
    found = readiness(model, logs, window)
    if not found.ready:
        until = text(deadline(model, window))
        message = (
            f"{model.model} {window}: not ready: {found.reason}; check it again later (from {until} on it is read as "
            "it stands), or say --incomplete"
        )
        raise SourceBusy(message)


def _marked(logs: Source, manifest: Manifest, window: Window, marker: str) -> bool:
    if (manifest.layout != "partitioned" and manifest.objects) or not isinstance(logs, Marked):
        message = (
            f"logs.ready.marker: {logs.uri} has no folder per hour, where {marker} could lie; "
            "use min_objects or min_rows"
        )
        raise UsageError(message)
    return logs.has(f"date={window.start:%Y-%m-%d}/hour={window.start:%H}/{marker}")


def _rows(logs: Source, item: LogObject, known: dict[tuple[str, str], int]) -> int:
    """Rows of an object; none while it cannot be read."""
    if isinstance(logs, Streamed):
        return logs.count(item)
    key = (item.name, item.etag)
    if key not in known:
        try:
            known[key] = int(logs.open(item).metadata.num_rows)
        except SourceUnreadable:
            return 0
    return known[key]
