"""slices and reference_slices."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from hindcast.results.types import Moment, Name

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Make both tables."""
    op.create_table(
        "reference_slices",
        sa.Column("model_name", Name(), nullable=False),
        sa.Column("reference_digest", Name(), nullable=False),
        sa.Column("slicing_digest", Name(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("model_name", "reference_digest", "slicing_digest"),
        comment="The segments of a reference in coarse bins; the digest names bins and segments.",
    )
    op.create_table(
        "slices",
        sa.Column("model_name", Name(), nullable=False),
        sa.Column("window_start", Moment(), nullable=False),
        sa.Column("bins_digest", Name(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("model_name", "window_start"),
        comment="Profiles of the segments and versions of an hour in coarse bins, where it has several.",
    )


def downgrade() -> None:
    """Drop them."""
    op.drop_table("slices")
    op.drop_table("reference_slices")
