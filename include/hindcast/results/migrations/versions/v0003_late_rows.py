"""Windows know how many rows came late, how late, and how many were dropped."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
NEW = ("late_rows", "late_seconds", "dropped_rows")


def upgrade() -> None:
    """Make it so; a store made just before revisions were recorded may have them."""
    there = {column["name"] for column in sa.inspect(op.get_bind()).get_columns("windows")}
    for name in NEW:
        if name not in there:
            op.add_column("windows", sa.Column(name, sa.BigInteger(), nullable=True))


def downgrade() -> None:
    """Take it back."""
    for name in reversed(NEW):
        op.drop_column("windows", name)
