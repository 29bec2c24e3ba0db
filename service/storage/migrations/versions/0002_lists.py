"""When a version was added, and an index for listing devices by state.

Revision 0002, after 0001. Versions added before have no time.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("version", sa.Column("added_at", sa.BigInteger(), nullable=True))
    op.create_index("ix_device_state", "device", ["state", "group_id", "serial"])
