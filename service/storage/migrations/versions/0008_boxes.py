"""Partner services with their users, set-top boxes and purchases.

Revision 0008, after 0007. No existing table changes.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "access_provider",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("url", sa.String(), nullable=False),
        sa.Column("account", sa.String(), nullable=True),
        sa.Column("secret_sealed", sa.LargeBinary(), nullable=True),
        sa.Column("timeout_s", sa.Integer(), server_default=sa.text("10"), nullable=False),
        sa.CheckConstraint("kind IN ('conditional_access', 'dvb')", name=op.f("ck_access_provider_kind")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_access_provider")),
    )
    op.create_table(
        "partner_service",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("token_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("group_id", sa.String(), nullable=False),
        sa.Column("min_keys", sa.Integer(), server_default=sa.text("8"), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("rotated_at", sa.BigInteger(), nullable=True),
        sa.Column("disabled_at", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("length(token_sha256) = 32", name=op.f("ck_partner_service_token_sha256")),
        sa.CheckConstraint("min_keys BETWEEN 1 AND 8", name=op.f("ck_partner_service_min_keys")),
        sa.ForeignKeyConstraint(
            ["group_id"], ["registration_group.group_id"], name=op.f("fk_partner_service_group_id")
        ),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_partner_service")),
        sa.UniqueConstraint("token_sha256", name=op.f("uq_partner_service_token_sha256")),
    )
    op.create_table(
        "offer",
        sa.Column("service", sa.String(), nullable=False),
        sa.Column("product_id", sa.String(), nullable=False),
        sa.Column("option_id", sa.String(), nullable=False),
        sa.Column("provider", sa.String(), nullable=False),
        sa.Column("package", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["provider"], ["access_provider.name"], name=op.f("fk_offer_provider")),
        sa.ForeignKeyConstraint(
            ["service"], ["partner_service.name"], name=op.f("fk_offer_service"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("service", "product_id", "option_id", name=op.f("pk_offer")),
    )
    op.create_table(
        "partner_address",
        sa.Column("service", sa.String(), nullable=False),
        sa.Column("network", sa.String(), nullable=False),
        sa.Column("added_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["service"], ["partner_service.name"], name=op.f("fk_partner_address_service"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("service", "network", name=op.f("pk_partner_address")),
    )
    op.create_table(
        "partner_user",
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column("service", sa.String(), nullable=False),
        sa.Column("email", sa.String(), nullable=False),
        sa.Column("email_key", sa.String(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["service"], ["partner_service.name"], name=op.f("fk_partner_user_service")),
        sa.PrimaryKeyConstraint("user_id", name=op.f("pk_partner_user")),
        sa.UniqueConstraint("service", "email_key", name=op.f("uq_partner_user_service_email_key")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "box",
        sa.Column("box_id", sa.Integer(), nullable=False),
        sa.Column("service", sa.String(), nullable=False),
        sa.Column("serial_no", sa.String(), nullable=False),
        sa.Column("device_id", sa.String(), nullable=True),
        sa.Column("user_id", sa.Integer(), nullable=True),
        sa.Column("chipset_id", sa.String(), nullable=True),
        sa.Column("mac", sa.String(), nullable=True),
        sa.Column("mac_key", sa.String(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("linked_at", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("(user_id IS NULL) = (linked_at IS NULL)", name=op.f("ck_box_linked")),
        sa.CheckConstraint("length(chipset_id) <= 32", name=op.f("ck_box_chipset_id")),
        sa.CheckConstraint("length(mac) <= 18", name=op.f("ck_box_mac")),
        sa.ForeignKeyConstraint(["device_id"], ["device.device_id"], name=op.f("fk_box_device_id")),
        sa.ForeignKeyConstraint(["service"], ["partner_service.name"], name=op.f("fk_box_service")),
        sa.ForeignKeyConstraint(["user_id"], ["partner_user.user_id"], name=op.f("fk_box_user_id")),
        sa.PrimaryKeyConstraint("box_id", name=op.f("pk_box")),
        sa.UniqueConstraint("device_id", name=op.f("uq_box_device_id")),
        sa.UniqueConstraint("service", "serial_no", name=op.f("uq_box_service_serial_no")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_box_user", "box", ["user_id"], unique=False, sqlite_where=sa.text("user_id IS NOT NULL"))
    op.create_index("uq_box_mac", "box", ["mac_key"], unique=True, sqlite_where=sa.text("mac_key IS NOT NULL"))
    op.create_table(
        "purchase",
        sa.Column("purchase_id", sa.String(), nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column("product_id", sa.String(), nullable=False),
        sa.Column("option_id", sa.String(), nullable=False),
        sa.Column("provider", sa.String(), nullable=False),
        sa.Column("package", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("asked_at", sa.BigInteger(), nullable=True),
        sa.Column("answered_at", sa.BigInteger(), nullable=True),
        sa.Column("reference", sa.String(), nullable=True),
        sa.Column("cause", sa.String(), nullable=True),
        sa.Column("lease_owner", sa.String(), nullable=True),
        sa.Column("lease_expires_at", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("state IN ('asking', 'unknown', 'bought', 'refused')", name=op.f("ck_purchase_state")),
        sa.ForeignKeyConstraint(["user_id"], ["partner_user.user_id"], name=op.f("fk_purchase_user_id")),
        sa.PrimaryKeyConstraint("purchase_id", name=op.f("pk_purchase")),
    )
    op.create_index(
        "uq_purchase_live",
        "purchase",
        ["user_id", "product_id", "option_id"],
        unique=True,
        sqlite_where=sa.text("state <> 'refused'"),
    )
    op.create_table(
        "box_key",
        sa.Column("box_id", sa.Integer(), nullable=False),
        sa.Column("key_index", sa.Integer(), nullable=False),
        sa.Column("spki", sa.LargeBinary(), nullable=False),
        sa.Column("spki_sha256", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint("key_index BETWEEN 0 AND 7", name=op.f("ck_box_key_key_index")),
        sa.ForeignKeyConstraint(["box_id"], ["box.box_id"], name=op.f("fk_box_key_box_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("box_id", "key_index", name=op.f("pk_box_key")),
        sa.UniqueConstraint("spki_sha256", name=op.f("uq_box_key_spki_sha256")),
    )
