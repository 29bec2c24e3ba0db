"""Which revision of its document a credential's device has said to have.

Revision 0004, after 0003. Documents stored before count as heard, so that the upgrade pushes nothing.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("credential", sa.Column("heard_rev", sa.BigInteger(), nullable=False, server_default=sa.text("0")))
    op.execute("UPDATE credential SET heard_rev = desired_rev")
