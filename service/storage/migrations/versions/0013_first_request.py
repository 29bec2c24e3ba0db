"""The first numbered request of a credential's boot: another one with its number is another device's.

Revision 0013, after 0012. Boots under way tell nothing; counting begins with the next.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("credential", sa.Column("first_n", sa.BigInteger(), server_default=sa.text("0"), nullable=False))
    op.add_column("credential", sa.Column("first_id", sa.String(), nullable=True))
