"""Names of the baselines that a model file may choose."""

from __future__ import annotations

import re

DEFAULT = ("reference", "seasonal", "previous_version")
PREVIOUS_WINDOW = "previous_window"
MOST_DAYS, MOST_WEEKS = 56, 8
ALLOWED = (
    f"{', '.join(DEFAULT)}, {PREVIOUS_WINDOW}, trailing_<days>d (1 to {MOST_DAYS}), "
    f"same_hour_<weeks>w (1 to {MOST_WEEKS})"
)
_TRAILING, _SAME_HOUR = re.compile(r"trailing_([1-9][0-9]?)d"), re.compile(r"same_hour_([1-9])w")


def trailing_days(name: str) -> int | None:
    """Days of a trailing baseline; None for another.

    Examples
    --------
    >>> trailing_days("trailing_7d"), trailing_days("trailing_99d"), trailing_days("same_hour_4w")
    (7, None, None)
    """
    return _number(_TRAILING, name, MOST_DAYS)


def same_hour_weeks(name: str) -> int | None:
    """Weeks of a baseline of same hours of the week; None for another.

    Examples
    --------
    >>> same_hour_weeks("same_hour_4w"), same_hour_weeks("same_hour_9w")
    (4, None)
    """
    return _number(_SAME_HOUR, name, MOST_WEEKS)


def known(name: str) -> bool:
    """Whether a baseline of this name exists.

    Examples
    --------
    >>> [known(name) for name in ("seasonal", "trailing_7d", "same_hour_4w", "previous_window", "trailing_99d", "day")]
    [True, True, True, True, False, False]
    """
    return name in {*DEFAULT, PREVIOUS_WINDOW} or bool(trailing_days(name) or same_hour_weeks(name))


def _number(pattern: re.Pattern[str], name: str, most: int) -> int | None:
    found = pattern.fullmatch(name)
    return int(found[1]) if found and int(found[1]) <= most else None
