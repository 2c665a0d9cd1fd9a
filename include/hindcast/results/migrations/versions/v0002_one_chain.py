"""No two lines of the audit follow the same line: its chain cannot fork."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make it so."""
    op.create_index("audit_chain", "audit", ["previous_hash"], unique=True)


def downgrade() -> None:
    """Take it back."""
    op.drop_index("audit_chain", table_name="audit")
