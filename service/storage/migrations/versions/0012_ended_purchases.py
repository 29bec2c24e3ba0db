"""When a purchase ended: from then on the same can be bought again.

Revision 0012, after 0011. Of a user's purchases of one option at most one is neither refused nor ended.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("purchase", sa.Column("ended_at", sa.BigInteger(), nullable=True))
    op.drop_index("uq_purchase_live", "purchase")
    op.create_index(
        "uq_purchase_live",
        "purchase",
        ["user_id", "product_id", "option_id"],
        unique=True,
        sqlite_where=sa.text("state <> 'refused' AND ended_at IS NULL"),
    )
