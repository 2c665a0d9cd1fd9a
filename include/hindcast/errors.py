"""Every error that Hindcast raises on purpose.

::

    HindcastError                 exit status 1
    ├── UsageError                2   what the caller asked for makes no sense
    │   └── ConfigError           2   a model file is wrong: file, key, value, what is allowed
    ├── SourceError               3   logs, labels, reference or model artifact
    │   ├── SourceMissing         3   terminal: it is not there
    │   ├── SourceUnreadable      3   terminal: it is there and cannot be read
    │   └── SourceBusy            3   transient: worth trying again
    ├── StoreError                4   transient: the results store refused or could not be reached
    │   └── StoreMismatch         4   terminal: its tables are not those of this version
    ├── ModelRefused              1   a model artifact that must not, or cannot, be loaded
    └── NotEnoughData             -   a statistic has too few rows; always caught and stored as a status

Airflow fails a task at once on a terminal error and retries the transient ones.
"""

from __future__ import annotations


class HindcastError(Exception):
    """Base of the tree; `exit_status` is what the command line returns."""

    exit_status = 1
    transient = False


class UsageError(HindcastError):
    """What the caller asked for makes no sense; the message says what would."""

    exit_status = 2


class ConfigError(UsageError):
    """A model file is wrong; the message names file, key, value and what is allowed."""


class SourceError(HindcastError):
    """Logs, labels, a reference or a model artifact could not be had."""

    exit_status = 3


class SourceMissing(SourceError):
    """The place does not exist."""


class SourceUnreadable(SourceError):
    """The place exists and its content cannot be read."""


class SourceBusy(SourceError):
    """The source did not answer this time."""

    transient = True


class StoreError(HindcastError):
    """The results store refused or could not be reached."""

    exit_status = 4
    transient = True


class StoreMismatch(StoreError):
    """The store's tables are not those of this version, and cannot be made so."""

    transient = False


class ModelRefused(HindcastError):
    """A model artifact that must not be loaded (wrong sha256, a pickle nobody allowed) or cannot be."""


class NotEnoughData(HindcastError):
    """Too few rows for a number; becomes a row with status ``insufficient_data``."""
