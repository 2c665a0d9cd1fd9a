"""What a sample says of the next one: its commonest values are rarer there, and values appear that it has not seen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from hindcast.drift.statistics import Floats


def next_sample(known: ArrayLike, others: float) -> tuple[Floats, float]:
    r"""Counts of a categorical feature as another sample of the same size has them on average.

    Known values were chosen because this sample has many of them, so that the next one has fewer: of values seen r
    times, :math:`(r + 1) N_{r+1} / N_r` each, with :math:`N_r` the number of such values (Good and Turing). Over all
    values seen c times or more this sums to :math:`c N_c` rows less, which are of other values.

    Parameters
    ----------
    known : array-like of shape (n_values,)
        Rows of each value that is told apart: the commonest of this sample, or all.
    others : float
        Rows of other values. If there are none, all values are known, c is 1, and those seen once count as new.

    Returns
    -------
    array of shape (n_values,), and rows of other values
        Same total as before.

    References
    ----------
    Good (1953), Biometrika 40(3-4), 237-264.

    Examples
    --------
    >>> counts, new = next_sample([90, 8, 1, 1], 0)
    >>> counts.tolist(), new
    ([90.0, 8.0, 0.0, 0.0], 2.0)
    """
    counts = np.array(known, dtype=np.float64)
    seen = counts[counts > 0]
    if not seen.size:
        return counts, others
    if not others:
        once = counts == 1
        counts[once] = 0
        return counts, float(once.sum())
    less = _surplus(seen) / seen.size
    left = np.maximum(counts - less, 0.0)
    return left, others + float((counts - left).sum())


def _surplus(seen: Floats) -> float:
    """Rows that the commonest values have by luck; of those seen as often as the least of these only a part is known.

    Of that part c rows each are lost, and of the unknown part (c + 1) rows are won by the next sample. How large it is
    follows from how many values are seen somewhat more often.
    """
    least = float(seen.min())
    width = max(1.0, least // 4)
    near, far = (float(seen[(seen > low) & (seen <= low + width)].sum()) / width for low in (least, least + width))
    growth = float(np.clip(near / far, 0.5, 2.0)) if near and far else 1.0
    here, next_ = (near * growth ** ((width + sign) / (2 * width)) for sign in (1, -1))
    known = float(seen[seen == least].sum())
    return known + next_ * max(1 - known / here, 0.0) if here else known
