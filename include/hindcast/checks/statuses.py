"""What can be said of a column at all: the status of its rows, and the reason."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hindcast.profile.profile import INVALID, NULL
from hindcast.profile.scan import MISSING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hindcast.profile.profile import Profile

_NUMBERS = ("int", "uint", "float", "half", "double", "decimal")


def status_of(profile: Profile, reference: Profile, column: str) -> tuple[str, str]:
    """What can be said of a column of the window at all.

    Returns
    -------
    status and reason; ``ok`` with no reason when its distribution can be compared.
    """
    types = profile.types.get(column, {})
    bins = profile.bins
    if column not in bins.numeric and column not in bins.categorical:
        return "insufficient_data", "the reference has no values of it"
    if profile.rows and set(types) == {MISSING}:
        return "missing_column", f"no log file of the window has the column {column}"
    numeric = column in bins.numeric
    i = (bins.numeric if numeric else bins.categorical).index(column)
    counts = profile.numeric[i] if numeric else profile.categorical[i]
    null, invalid = (bins.width + NULL, bins.width + INVALID) if numeric else (bins.depth + 1, bins.depth + 2)
    if counts[invalid]:
        return "type_changed", f"{counts[invalid]} values are no {'numbers' if numeric else 'text'}: {', '.join(types)}"
    if profile.rows and counts[null] == counts.sum():
        return "all_null", "every value is null"
    if not numeric and not counts[: bins.depth].any():
        now, before = kinds_of(types), kinds_of(reference.types.get(column, {}))
        if now and before and not now & before:
            return "type_changed", f"values are {', '.join(sorted(now))}, in the reference {', '.join(sorted(before))}"
    then = reference.numeric[i, : bins.width] if numeric else reference.categorical[i]
    same = np.count_nonzero(then) == 1 and np.array_equal(counts[: then.size] > 0, then > 0)
    return ("constant", "one value, in the reference and in the window") if same else ("ok", "")


def kinds_of(types: Iterable[str]) -> set[str]:
    """What values are, of types as files name them: numbers of all widths are of one kind.

    Examples
    --------
    >>> sorted(kinds_of(["int64", "double", "string", "null", "date32[day]"]))
    ['date32', 'numbers', 'string']
    """
    known = {kind.partition("[")[0] for kind in types} - {MISSING, "null"}
    return {"numbers" if kind.startswith(_NUMBERS) else kind for kind in known}
