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
    ├── PushFailed                1   transient: the Pushgateway could not be reached or lets nobody in
    ├── PushRefused               1   terminal: it refuses what was sent
    ├── NotDurable                1   logging SDK: records that could not be kept
    ├── NotDelivered              1   logging SDK, transient: the store did not take a file
    ├── ModelRefused              1   a model artifact that must not, or cannot, be loaded
    └── NotEnoughData             -   a statistic has too few rows; always caught and stored as a status

Airflow retries the transient ones and fails a task at once on every other. All of them stand here, since its rules are
made of `kinds`; what someone derives from one of them elsewhere is treated like it.
"""

from __future__ import annotations


class HindcastError(Exception):
    """Base of the tree; `exit_status` is what the command line returns."""

    exit_status = 1
    transient = False


def kinds() -> list[type[HindcastError]]:
    """Every error of this module, each before the one that it derives from.

    Examples
    --------
    >>> kinds().index(StoreMismatch) < kinds().index(StoreError) < kinds().index(HindcastError)
    True
    """
    found = [kind for kind in globals().values() if isinstance(kind, type) and issubclass(kind, HindcastError)]
    return sorted(found, key=lambda kind: -len(kind.__mro__))


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


class PushFailed(HindcastError):
    """The gateway could not be reached or lets nobody in; the outbox keeps what was to be pushed."""

    transient = True


class PushRefused(HindcastError):
    """The gateway refuses one group, and would refuse it again."""


class NotDurable(HindcastError):
    """Records are neither in the store nor on the local disk yet, or could not be kept."""


class NotDelivered(HindcastError):
    """The store did not take a file this time; it is tried again."""

    transient = True


class ModelRefused(HindcastError):
    """A model artifact that must not be loaded (wrong sha256, a pickle nobody allowed) or cannot be."""


class NotEnoughData(HindcastError):
    """Too few rows for a number; becomes a row with status ``insufficient_data``."""
