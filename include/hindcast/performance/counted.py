"""How often each number occurs: every number while they are few, narrow buckets beyond; in parts that can be added."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]
    Ints = npt.NDArray[np.int64]

# So many rows are kept as they are; more fall into buckets.
EXACT_ROWS = 65_536
# A bucket is what sign, exponent and the first 12 bits of a float64 tell.
_SHIFT = 40


@dataclass(frozen=True, eq=False)
class Counted:
    """Finite numbers of some rows of one or more groups, in any order; add them with ``+``.

    Up to 65,536 rows every number stands for itself. Beyond, it stands for the middle of its bucket, at most one part
    in 8,192 away. Which of the two depends on the number of rows alone, so that every order and every split gives
    the same.

    Attributes
    ----------
    values : float64 array of shape (n,)
        Distinct, ascending.
    counts : int64 array of shape (n_groups, n)
        Rows of each group at each value.

    Examples
    --------
    >>> total = Counted.of([np.array([0.5, 0.1]), np.array([0.5])]) + Counted.of([np.array([0.1]), np.array([])])
    >>> total.values.tolist(), total.counts.tolist(), total.rows
    ([0.1, 0.5], [[2, 1], [0, 1]], 4)
    """

    values: Floats
    counts: Ints

    @classmethod
    def of(cls, groups: Sequence[Floats]) -> Counted:
        """Count the numbers of each group."""
        few = sum(group.size for group in groups) <= EXACT_ROWS
        total = cls(np.empty(0), np.zeros((len(groups), 0), np.int64))
        for k, group in enumerate(groups):
            values = np.sort(group) + 0.0  # one zero
            values, rows = _distinct(values if few else _middles(values), np.ones((1, group.size), np.int64))
            counts = np.zeros((len(groups), values.size), np.int64)
            counts[k] = rows[0]
            total += cls(values, counts)
        return total

    @property
    def rows(self) -> int:
        """Rows of all groups."""
        return int(self.counts.sum())

    @property
    def exact(self) -> bool:
        """Every number stands for itself."""
        return self.rows <= EXACT_ROWS

    def __add__(self, other: Counted) -> Counted:
        values, counts = np.append(self.values, other.values), np.append(self.counts, other.counts, axis=1)
        if counts.sum() > EXACT_ROWS:
            values = _middles(values)
        order = np.argsort(values, kind="stable")
        return Counted(*_distinct(values[order], counts[:, order]))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Counted) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash((self.values.tobytes(), self.counts.tobytes()))

    def to_json(self) -> list[Any]:
        """What `json` can write, without any rounding."""
        return [self.values.tolist(), self.counts.tolist()]

    @classmethod
    def from_json(cls, content: Sequence[Any]) -> Counted:
        """Read what `to_json` gave."""
        values, counts = content
        return cls(np.array(values, np.float64), np.array(counts, np.int64).reshape(len(counts), -1))


def _middles(values: Floats) -> Floats:
    """Middle of each value's bucket; it is in that bucket, so that doing it again changes nothing."""
    buckets = values.view(np.int64) >> _SHIFT
    return ((buckets << _SHIFT) | (1 << (_SHIFT - 1))).view(np.float64)


def _distinct(ordered: Floats, counts: Ints) -> tuple[Floats, Ints]:
    if not ordered.size:
        return ordered, counts
    fresh = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    return ordered[fresh], np.add.reduceat(counts, fresh, axis=1)
