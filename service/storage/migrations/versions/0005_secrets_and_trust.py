"""Several secrets of a group, endorsements of release keys, further bootstrap endpoints.

Revision 0005, after 0004. Devices that have come in by their group's secret have done so by the only one there was.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "endorsement",
        sa.Column("key_id", sa.String(), nullable=False),
        sa.Column("by_key_id", sa.String(), nullable=False),
        sa.Column("signature", sa.LargeBinary(), nullable=False),
        sa.Column("added_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("key_id <> by_key_id", name=op.f("ck_endorsement_by_key_id")),
        sa.ForeignKeyConstraint(["by_key_id"], ["release_key.key_id"], name=op.f("fk_endorsement_by_key_id")),
        sa.ForeignKeyConstraint(["key_id"], ["release_key.key_id"], name=op.f("fk_endorsement_key_id")),
        sa.PrimaryKeyConstraint("key_id", "by_key_id", name=op.f("pk_endorsement")),
    )
    op.create_table(
        "bootstrap_endpoint",
        sa.Column("environment", sa.String(), nullable=False),
        sa.Column("host", sa.String(), nullable=False),
        sa.Column("port", sa.Integer(), nullable=False),
        sa.Column("tls", sa.Boolean(), nullable=False),
        sa.Column("ca_pem", sa.String(), nullable=True),
        sa.Column("added_at", sa.BigInteger(), nullable=False),
        sa.Column("removed_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("environment", "host", "port", name=op.f("pk_bootstrap_endpoint")),
    )
    op.create_table(
        "group_secret",
        sa.Column("secret_id", sa.String(), nullable=False),
        sa.Column("group_id", sa.String(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("secret_sealed", sa.LargeBinary(), nullable=False),
        sa.Column("superseded_at", sa.BigInteger(), nullable=False),
        sa.Column("grace_until", sa.BigInteger(), nullable=False),
        sa.Column("retired_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["group_id"], ["registration_group.group_id"], name=op.f("fk_group_secret_group_id")),
        sa.PrimaryKeyConstraint("secret_id", name=op.f("pk_group_secret")),
        sa.UniqueConstraint("group_id", "generation", name=op.f("uq_group_secret_group_id_generation")),
    )
    op.add_column(
        "registration_group",
        sa.Column("secret_generation", sa.Integer(), server_default=sa.text("1"), nullable=False),
    )
    op.add_column("device", sa.Column("secret_generation", sa.Integer(), nullable=True))
    op.execute(
        "UPDATE device SET secret_generation = 1 WHERE state <> 'registered' AND group_id IN "
        "(SELECT group_id FROM registration_group WHERE key_kind IN ('derived', 'group'))"
    )
