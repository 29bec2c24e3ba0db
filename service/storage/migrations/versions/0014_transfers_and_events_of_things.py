"""Until when a transfer of ownership is open, and by which command; events by thing.

Revision 0014, after 0013. Transfers that are open stay so.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("device", sa.Column("rekey_deadline_at", sa.BigInteger(), nullable=True))
    op.add_column("device", sa.Column("rekey_command_id", sa.String(), nullable=True))
    op.create_index(
        "ix_device_rekey",
        "device",
        ["rekey_deadline_at"],
        unique=False,
        sqlite_where=sa.text("rekey_deadline_at IS NOT NULL"),
    )
    op.create_index(
        "ix_event_thing",
        "event",
        ["thing_id", "seq"],
        unique=False,
        sqlite_where=sa.text("thing_id IS NOT NULL"),
    )
