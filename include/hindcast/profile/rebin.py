"""A profile in other bins, where every new bin is made of whole old ones; never in bins that cut through."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hindcast.profile.profile import INVALID_CATEGORY, NEW, NULL_CATEGORY, Profile

if TYPE_CHECKING:
    from hindcast.profile.bins import Bins


def rebinned(profile: Profile, bins: Bins) -> Profile | None:
    """The same rows in other bins; None where these are not nested in the profile's own.

    Nested means: every numeric column is there, with all of its new edges among the old ones and the same ends; every
    category with a bin is known one by one, or there was no value without a bin. Counts are exact. A bin's sum of
    values is rounded to the new unit, a 2**30th of the column's range.

    Examples
    --------
    >>> from hindcast.profile.bins import Bins
    >>> fine = Bins(("feature_a",), (np.array([0.0, 1.0, 2.0]),), (), ())
    >>> profile = Profile.empty(fine)
    >>> profile.numeric[0, :4], profile.rows = [1, 2, 3, 4], 10
    >>> coarse = rebinned(profile, Bins(("feature_a",), (np.array([0.0, 2.0]),), (), ()))
    >>> coarse.numeric[0, :3].tolist()
    [1, 5, 4]
    >>> rebinned(profile, Bins(("feature_a",), (np.array([1.5]),), (), ())) is None
    True
    """
    found = Profile.empty(bins)
    found.rows = profile.rows
    every = {*bins.numeric, *bins.categorical}
    if not all(_number(profile, found, i) for i in range(len(bins.numeric))):
        return None
    if not all(_category(profile, found, i) for i in range(len(bins.categorical))):
        return None
    found.types = {column: dict(types) for column, types in profile.types.items() if column in every}
    return found


def _number(old: Profile, new: Profile, i: int) -> bool:
    column, edges = new.bins.numeric[i], new.bins.edges[i]
    if column not in old.bins.numeric:
        return False
    k = old.bins.numeric.index(column)
    fine = old.bins.edges[k]
    at = np.searchsorted(fine, edges)
    # what lies beyond the ends was clipped to them before it was summed
    ends = edges[0] == fine[0] and edges[-1] == fine[-1]
    if not ends or not np.array_equal(fine[at], edges):
        return False
    starts = np.append(0, at + 1)
    counts = old.numeric[k, : fine.size + 1]
    values = old.sums[k, : fine.size + 1] * old.bins.unit[k] + counts * (old.bins.center[k] - new.bins.center[i])
    new.numeric[i, : starts.size] = np.add.reduceat(counts, starts)
    new.numeric[i, new.bins.width :] = old.numeric[k, old.bins.width :]
    new.sums[i, : starts.size] = np.rint(np.add.reduceat(values, starts) / new.bins.unit[i]).astype(np.int64)
    new.low[i], new.high[i], new.outside[i] = old.low[k], old.high[k], old.outside[k]
    return True


def _category(old: Profile, new: Profile, i: int) -> bool:
    column, values = new.bins.categorical[i], new.bins.categories[i]
    if column not in old.bins.categorical:
        return False
    k = old.bins.categorical.index(column)
    known = old.bins.categories[k]
    named = old.new_values.get(column, {})
    counts = dict(zip(known, old.categorical[k].tolist(), strict=False))
    unnamed = int(old.categorical[k, old.bins.depth + NEW]) - sum(rows for _, rows in named.values())
    if unnamed and not {*values} <= {*known}:
        return False  # rows of a value that has a bin now may be among them
    if any(counts[value] for value in {*known}.difference(values)):
        return False  # their hashes, by which new values are kept, are not known here
    new.categorical[i, : len(values)] = [counts.get(v, 0) + named.get(v, (0, 0))[1] for v in values]
    moved = sum(named[value][1] for value in {*named}.intersection(values))
    new.categorical[i, new.bins.depth + NEW] = old.categorical[k, old.bins.depth + NEW] - moved
    for slot in (NULL_CATEGORY, INVALID_CATEGORY):
        new.categorical[i, new.bins.depth + slot] = old.categorical[k, old.bins.depth + slot]
    left = {value: of for value, of in named.items() if value not in values}
    if left:
        new.new_values[column] = left
    new.outside[len(new.bins.numeric) + i] = old.outside[len(old.bins.numeric) + k]
    return True
