"""What of the outbox the gateway was given."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from hindcast.results.types import Moment, Name, Words

revision = "0004"
down_revision = "0003"
COMMENT = "What of the outbox the gateway was given: no row while it waits."
OUTBOX = "Metrics for the Pushgateway: the newest window per (model, check)."
OUTBOX_BEFORE = "Metrics waiting for the Pushgateway: the newest window per (model, check)."


def upgrade() -> None:
    """Make it so; a store made just before revisions were recorded may have it."""
    if not sa.inspect(op.get_bind()).has_table("pushes"):
        op.create_table(
            "pushes",
            sa.Column("model_name", Name(), nullable=False),
            sa.Column("check", Name(), nullable=False),
            sa.Column("window_start", Moment(), nullable=False),
            sa.Column("pushed_at", Moment(), nullable=False),
            sa.Column("status", Name(), nullable=False),
            sa.Column("reason", Words(), nullable=True),
            sa.PrimaryKeyConstraint("model_name", "check"),
            comment=COMMENT,
        )
    if op.get_bind().dialect.supports_comments:
        op.create_table_comment("outbox", OUTBOX, existing_comment=OUTBOX_BEFORE)


def downgrade() -> None:
    """Take it back."""
    if op.get_bind().dialect.supports_comments:
        op.create_table_comment("outbox", OUTBOX_BEFORE, existing_comment=OUTBOX)
    op.drop_table("pushes")
