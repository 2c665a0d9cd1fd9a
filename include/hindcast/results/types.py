"""Types of columns: what goes into every database in the same way, and comes out of it as it went in."""

from __future__ import annotations

import hashlib
import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sqlalchemy import TIMESTAMP, DateTime, Float, String, Text, TypeDecorator

if TYPE_CHECKING:
    from sqlalchemy import Dialect
    from sqlalchemy.types import TypeEngine

# An entry of PostgreSQL's indexes holds 2,704 bytes, and a key has several names.
NAME_BYTES = 512


class Moment(TypeDecorator[datetime]):
    """UTC moment; SQLite has no zones, so they are added on the way out."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[datetime]:
        """Name BigQuery's type with a zone, and leave it as it is: what its dialect adapts it to has no name."""
        return TIMESTAMP() if dialect.name == "bigquery" else dialect.type_descriptor(DateTime(timezone=True))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse a moment without a zone; store UTC."""
        if value is None:
            return None
        if value.tzinfo is None:
            message = f"a moment without a time zone: {value!r}"
            raise ValueError(message)
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Return UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Number(TypeDecorator[float]):
    """A finite number; NaN and infinities become null, in every database: SQLite does so with NaN by itself."""

    impl = Float
    cache_ok = True

    def process_bind_param(self, value: float | None, dialect: Dialect) -> float | None:  # noqa: ARG002
        """Store what is finite."""
        return float(value) if value is not None and math.isfinite(value) else None


class Words(TypeDecorator[str]):
    """Text of any length."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:  # noqa: ARG002
        """Store what every database takes."""
        return None if value is None else storable(value)


class Name(TypeDecorator[str]):
    """Text that may stand in a key: at most `NAME_BYTES` bytes, and sorted byte by byte whatever the locale."""

    impl = String
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[str]:
        """Name the collation where the database's own would depend on its locale."""
        return dialect.type_descriptor(String(collation="C") if dialect.name == "postgresql" else String())

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:  # noqa: ARG002
        """Store what every database takes."""
        return None if value is None else bounded(storable(value))


def storable(text: str) -> str:
    r"""Text without what PostgreSQL refuses or UTF-8 cannot hold: NUL becomes its picture, a lone surrogate its escape.

    Examples
    --------
    >>> storable("a\0b"), storable("caf\udce9")
    ('a␀b', 'caf\\udce9')
    """
    if "\0" in text:
        text = text.replace("\0", "␀")
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def bounded(text: str) -> str:
    """Text of at most `NAME_BYTES` bytes: what is longer keeps its beginning, and a digest tells it from its like.

    Examples
    --------
    >>> bounded("short"), len(bounded("x" * 1000)), bounded("x" * 1000)[-20:]
    ('short', 510, 'xxx…44f8354494a5ba03')
    """
    content = text.encode()
    if len(content) <= NAME_BYTES:
        return text
    mark = f"…{hashlib.sha256(content).hexdigest()[:16]}"
    return content[: NAME_BYTES - len(mark.encode())].decode(errors="ignore") + mark
