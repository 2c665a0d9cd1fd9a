"""Run by Alembic: migrates through the connection that `hindcast.results.schema` hands over, in its transaction."""

from __future__ import annotations

from typing import Any, Literal

from alembic import context

from hindcast.results import types
from hindcast.results.schema import VERSION_TABLE
from hindcast.results.tables import METADATA


def rendered(kind: str, item: Any, _context: Any) -> str | Literal[False]:
    """Our column types by their own names, as the template imports them."""
    return f"{type(item).__name__}()" if kind == "type" and type(item).__module__ == types.__name__ else False


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    version_table=VERSION_TABLE,
    render_item=rendered,
)
with context.begin_transaction():
    context.run_migrations()
