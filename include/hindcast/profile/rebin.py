"""Profiles and slices in other bins, where every new bin is made of whole old ones; never in bins that cut through."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hindcast.profile.profile import INVALID_CATEGORY, NEW, NULL_CATEGORY, Profile
from hindcast.profile.slices import SLOTS, WIDTH, Slices

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hindcast.profile.bins import Bins
    from hindcast.profile.slices import Slicing

    Integers = np.ndarray[tuple[int, ...], np.dtype[np.int64]]


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


def resliced(slices: Slices, slicing: Slicing) -> Slices | None:
    """Slices of the same rows in other coarse bins; None where these are not nested in their own.

    Nested means here: every column is there; all of its new edges are among the old ones; of its categories, those that
    lie together on one side, or count as new, do so on the other, or have no rows. Slices keep their names: values of a
    segment that were not told apart then are not found now.
    """
    old = slices.slicing
    labels = [label for label in slices.counts if label[0] in slicing.segments]
    cells = np.stack([slices.counts[label] for label in labels]) if labels else np.zeros((0, 0, SLOTS), np.int64)
    parts = [_numbers(cells, old, slicing, i) for i in range(len(slicing.bins.numeric))]
    parts += [_words(cells, old, slicing, i) for i in range(len(slicing.bins.categorical))]
    found = [part for part in parts if part is not None]
    if len(found) < len(parts):
        return None
    if not labels:
        return Slices(slicing)
    counts = np.stack(found, axis=1)
    return Slices(slicing, dict(zip(labels, counts, strict=True)), {label: slices.rows[label] for label in labels})


def _numbers(cells: Integers, old: Slicing, new: Slicing, i: int) -> Integers | None:
    column, edges = new.bins.numeric[i], new.edges[i]
    if column not in old.bins.numeric:
        return None
    k = old.bins.numeric.index(column)
    fine = old.edges[k]
    if not np.isin(edges, fine).all():
        return None
    found = np.zeros((len(cells), SLOTS), np.int64)
    if len(cells):
        starts = np.append(0, np.searchsorted(fine, edges) + 1)
        found[:, : starts.size] = np.add.reduceat(cells[:, k, : fine.size + 1], starts, axis=1)
        found[:, WIDTH:] = cells[:, k, WIDTH:]
    return found


def _words(cells: Integers, old: Slicing, new: Slicing, i: int) -> Integers | None:
    column = new.bins.categorical[i]
    if column not in old.bins.categorical:
        return None
    at = old.bins.categorical.index(column)
    before, after = old.bins.categories[at], new.bins.categories[i]
    counted = cells[:, len(old.bins.numeric) + at] if len(cells) else np.zeros((0, SLOTS), np.int64)
    found = np.zeros((len(counted), SLOTS), np.int64)
    found[:, WIDTH + NULL_CATEGORY :] = counted[:, WIDTH + NULL_CATEGORY :]
    place = {value: min(slot, WIDTH - 1) for slot, value in enumerate(after)}
    groups: list[tuple[int, Sequence[str]]] = [(slot, (value,)) for slot, value in enumerate(before[: WIDTH - 1])]
    groups.append((WIDTH - 1, before[WIDTH - 1 :]))
    for slot, values in groups:
        places = {place.get(value, WIDTH + NEW) for value in values}
        if not counted[:, slot].any():
            continue
        if len(places) != 1:
            return None
        found[:, places.pop()] += counted[:, slot]
    if counted[:, WIDTH + NEW].any() and not {*after} <= {*before}:
        return None  # rows of a value that has a bin now may be among them
    found[:, WIDTH + NEW] += counted[:, WIDTH + NEW]
    return found
