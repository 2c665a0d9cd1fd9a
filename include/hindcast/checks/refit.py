"""What becomes of stored hours when the reference is fitted anew: profiles of other bins are never added up silently.

They are re-binned where the new bins are nested in the old ones, else profiled again from the logs, else left out; the
row of the check `drift` says how many of each.
"""

from __future__ import annotations

import logging
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hindcast.checks.pull import plan_of
from hindcast.engines.choice import choose, open_engine
from hindcast.errors import HindcastError, SourceError
from hindcast.profile import files
from hindcast.profile.profile import Profile
from hindcast.profile.rebin import rebinned, resliced
from hindcast.profile.slices import Slices, Slicing
from hindcast.ready import pinned
from hindcast.results import tables
from hindcast.window import Window

if TYPE_CHECKING:
    from datetime import datetime

    from hindcast.checks.run import Run

    Row = dict[str, Any]

logger = logging.getLogger(__name__)

# Rows that one check reads again at most, some seconds of work; what is left is the next hour's.
MOST_ROWS = 5_000_000


@dataclass
class Refit:
    """Hours that were stored in other bins, and what became of them; `rows` are to be written, by table.

    `halves` are hours that were re-binned but for their segments and versions: what is left of them without their logs.
    """

    rebinned: int = 0
    recomputed: int = 0
    unsliced: int = 0
    left: int = 0
    why: str = ""
    halves: dict[datetime, Row] = field(default_factory=dict)
    rows: dict[str, list[Row]] = field(default_factory=lambda: {"profiles": [], "slices": []})

    def __str__(self) -> str:
        why = f" ({self.why})" if self.why else ""
        parts = {
            f"{self.rebinned} hours re-binned": self.rebinned,
            f"{self.recomputed} profiled again from the logs": self.recomputed,
            f"{self.unsliced} re-binned without segments and versions{why}": self.unsliced,
            f"{self.left} left out of baselines{why}": self.left,
        }
        return f"the reference was fitted anew: {', '.join(part for part, n in parts.items() if n)}"

    @property
    def writes(self) -> list[tuple[str, Row, list[Row]]]:
        """As `hindcast.checks.run.Result` wants them."""
        return [
            (name, {"model_name": rows[0]["model_name"], "window_start": [row["window_start"] for row in rows]}, rows)
            for name, rows in self.rows.items()
            if rows
        ]


def refitted(run: Run, reach: datetime) -> Refit | None:
    """Bring the stored hours since `reach` into the bins of the reference; None where all are."""
    table = tables.profiles
    known = run.memories.get("bins of history")
    if known == run.reference.bins.digest:
        return None
    within = (table.c.window_start >= reach, table.c.window_start < run.window.start, table.c.rows > 0)
    other = table.c.bins_digest != run.reference.bins.digest
    names = ("window_start", "bins_digest", "rows")
    stale = run.store.rows(table, *within, other, columns=names, model_name=run.model.model)
    if not stale:
        run.memories["bins of history"] = run.reference.bins.digest
        return None
    found = Refit()
    before = _old_slicings(run, {row["bins_digest"] for row in stale})
    cut = [row for row in reversed(stale) if not _nested(run, row, before.get(row["bins_digest"]), found)]
    _again(run, cut, found)
    again = {row["window_start"] for row in found.rows["profiles"]}
    for hour, row in found.halves.items():
        if hour not in again:
            found.rows["profiles"].append(row)
            found.unsliced, found.left = found.unsliced + 1, found.left - 1
    for row in found.rows["profiles"]:
        run.history.put(row["window_start"], row["profile"])
    # Until they are committed, with the rows of this check.
    run.memories["wholes"] = {row["window_start"]: row["profile"] for row in found.rows["profiles"]}
    run.memories["resliced"] = {row["window_start"]: row["content"] for row in found.rows["slices"]}
    logger.warning("%s %s: %s", run.model.model, run.window, found)
    return found


def _old_slicings(run: Run, digests: set[str]) -> dict[str, Slicing]:
    """Fine and coarse bins by the digest of the fine ones."""
    rows = run.store.rows(tables.references, model_name=run.model.model, bins_digest=sorted(digests))
    return {row["bins_digest"]: Slicing.of(files.load(row["profile"]), run.slicing.segments) for row in rows}


def _nested(run: Run, row: Row, before: Slicing | None, found: Refit) -> bool:
    """Re-bin one hour, if that is exact."""
    if before is None:
        return False
    key = {"model_name": run.model.model, "window_start": row["window_start"]}
    (stored,) = run.store.rows(tables.profiles, **key)
    profile = rebinned(Profile.from_bytes(stored["profile"], before.bins), run.reference.bins)
    if profile is None:
        return False
    own = {**stored, "bins_digest": run.reference.bins.digest, "profile": profile.to_bytes()}
    for sliced in run.store.rows(tables.slices, **key, bins_digest=before.digest):
        slices = resliced(Slices.from_bytes(sliced["content"], before), run.slicing)
        if slices is None:
            found.halves[row["window_start"]] = own
            return False
        content = {"bins_digest": run.slicing.digest, "content": slices.to_bytes()}
        found.rows["slices"].append({**sliced, **content})
    found.rows["profiles"].append(own)
    found.rebinned += 1
    return True


def _again(run: Run, stale: list[Row], found: Refit) -> None:
    """Profile hours again, newest first, until the rows or the logs are used up."""
    read = 0
    for done, row in enumerate(stale):
        if read and read + row["rows"] > MOST_ROWS:
            found.left, found.why = found.left + len(stale) - done, "the next hours do more"
            return
        read += row["rows"]
        try:
            _profiled(run, row, found)
        except SourceError as error:
            # Logs are deleted from the oldest on: what is older than an hour without them is not looked for.
            found.left, found.why = found.left + len(stale) - done, str(error)
            return
        except HindcastError as error:
            found.left, found.why = found.left + 1, str(error)


def _profiled(run: Run, row: Row, found: Refit) -> None:
    """Read an hour again, and nothing of it but its profile.

    Raises
    ------
    SourceError
        Its logs are gone.
    HindcastError
        They hold other rows than those that were judged.
    """
    hour = run.at(Window(row["window_start"]), run.as_of)
    manifest = pinned(run.model, hour.logs, hour.window)
    with tempfile.TemporaryDirectory(prefix="hindcast-") as folder:
        plan = replace(plan_of(hour, manifest), sidecar=Path(folder, "facts.parquet"))
        scan = open_engine(choose(run.model, manifest).name, run.model).scan(plan)
    if scan.profile.rows != row["rows"]:
        message = f"{hour.window}: the logs have {scan.profile.rows} rows where {row['rows']} were judged"
        raise (SourceError if not scan.profile.rows else HindcastError)(message)
    key = {"model_name": run.model.model, "window_start": row["window_start"]}
    digest = scan.profile.bins.digest
    content = {"bins_digest": digest, "rows": scan.profile.rows, "profile": scan.profile.to_bytes()}
    found.rows["profiles"].append({**key, **content})
    if scan.slices is not None and run.model.segments:
        sliced = {"bins_digest": scan.slices.slicing.digest, "content": scan.slices.to_bytes()}
        found.rows["slices"].append({**key, **sliced})
    found.recomputed += 1
