"""When a retirement ends, the number that a thing was named by, and the OU that a failover took it away from.

Revision 0006, after 0005. Devices retired before have 30 days from now on to hear of it. Numbers are read off the names;
a thing that was renamed gets the next number of its product.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

DAYS_30_MS = 30 * 24 * 3600 * 1000


def upgrade() -> None:
    op.add_column("device", sa.Column("retire_deadline_at", sa.BigInteger(), nullable=True))
    op.add_column("device", sa.Column("retired_reason", sa.String(), nullable=True))
    op.create_index(
        "ix_device_retirement",
        "device",
        ["retire_deadline_at"],
        unique=False,
        sqlite_where=sa.text("retire_deadline_at IS NOT NULL"),
    )
    op.add_column("thing", sa.Column("number", sa.Integer(), server_default=sa.text("0"), nullable=False))
    op.add_column("thing", sa.Column("home_ou", sa.String(), nullable=True))
    op.execute(
        f"UPDATE device SET retire_deadline_at = CAST(strftime('%s', 'now') AS INTEGER) * 1000 + {DAYS_30_MS} "  # noqa: S608 - a number of our own
        "WHERE state = 'retired' AND EXISTS (SELECT 1 FROM credential AS of "
        "WHERE of.device_id = device.device_id AND of.state <> 'dropped')"
    )
    op.execute(
        "UPDATE thing SET number = named.number FROM ("
        "SELECT thing_id, product.name AS product, "
        "CAST(substr(thing.name, length(product.name) + 2) AS INTEGER) AS number "
        "FROM thing JOIN product USING (product_id)) AS named "
        "WHERE named.thing_id = thing.thing_id AND thing.name = named.product || ' ' || named.number"
    )
    op.execute(
        "UPDATE thing SET number = numbered.number FROM ("
        "SELECT thing_id, next_number - 1 + row_number() OVER (PARTITION BY product_id ORDER BY thing_id) AS number "
        "FROM thing JOIN product USING (product_id) WHERE thing.number = 0) AS numbered "
        "WHERE numbered.thing_id = thing.thing_id"
    )
    op.execute(
        "UPDATE product SET next_number = max(next_number, coalesce("
        "(SELECT max(number) + 1 FROM thing WHERE thing.product_id = product.product_id), 1))"
    )
