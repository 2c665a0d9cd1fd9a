"""What every engine does: it reads the rows of one window once."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from hindcast.profile.bins import Bins
    from hindcast.profile.facts import Noted
    from hindcast.profile.profile import Profile
    from hindcast.profile.sampling import Sample
    from hindcast.profile.scan import Expected
    from hindcast.profile.slices import Slices, Slicing
    from hindcast.sources.base import Manifest, Source


@dataclass(frozen=True)
class Plan:
    """What to read of one window, and what to make of it; it can be pickled and sent to executors.

    Attributes
    ----------
    source : Source
    manifest : Manifest
        The objects that were pinned; nothing else is read.
    bins : Bins
    expected : Expected
        Ranges and allowed values to count against.
    start, end : datetime
        The window; in the flat layout, rows outside of it are left out.
    numeric_prediction : bool
        Regression: predictions and labels are numbers; otherwise they are class names.
    extra : tuple of str
        Further columns for the row facts: segments and business metrics.
    sample_rows : int
    sidecar : Path
        Where the row facts go: one Parquet file, or a folder of them.
    drop_duplicates : bool
        Of rows with one id leave out all but one (`hindcast.engines.repeats`).
    settle : timedelta
        For how long after its end files are named that may hold rows of the window; of the flat layout.
    slicing : Slicing, optional
        Segments and versions to profile in coarse bins beside the whole.
    """

    source: Source
    manifest: Manifest
    bins: Bins
    expected: Expected
    start: datetime
    end: datetime
    numeric_prediction: bool
    extra: tuple[str, ...]
    sample_rows: int
    sidecar: Path
    drop_duplicates: bool = False
    settle: timedelta = timedelta(0)
    slicing: Slicing | None = None


@dataclass(frozen=True)
class Scan:
    """What was found in the rows.

    Attributes
    ----------
    profile : Profile
    noted : Noted
        Counts of the pass beside the profile: misplaced rows, versions, newest timestamp, missing columns.
    sample : Sample
    duplicates : int
        Rows beyond the first of each id.
    unknown : frozenset of str
        Feature columns that the reference has not.
    faults : dict
        Objects that could not be read -> why.
    dropped : int
        How many of the duplicates were left out.
    slices : Slices, optional
        Of the rows, where the plan has a slicing.
    """

    profile: Profile
    noted: Noted
    sample: Sample
    duplicates: int
    unknown: frozenset[str] = frozenset()
    faults: dict[str, str] = field(default_factory=dict)
    dropped: int = 0
    slices: Slices | None = None


class Engine(Protocol):
    """Reads windows; `scan` leaves the row facts at the plan's sidecar, or no file where there are no rows."""

    def scan(self, plan: Plan) -> Scan:
        """Read the rows once.

        Raises
        ------
        SourceError
            Nothing could be read at all; an object that cannot be read is only a fault.
        """
