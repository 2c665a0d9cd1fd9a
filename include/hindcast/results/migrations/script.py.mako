"""${message}."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from hindcast.results.types import Moment, Name, Number, Words

revision = "${up_revision}"
down_revision = ${repr(down_revision).replace("'", '"')}


def upgrade() -> None:
    """Make it so."""
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    """Take it back."""
    ${downgrades if downgrades else "pass"}
