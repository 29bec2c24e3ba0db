"""The first schema: products, versions, groups, devices, things, credentials, traces and counters.

Revision 0001.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "counter",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_counter")),
    )
    op.create_table(
        "image",
        sa.Column("image_id", sa.String(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("added_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("length(image_id) = 64", name=op.f("ck_image_image_id")),
        sa.CheckConstraint("size >= 1", name=op.f("ck_image_size")),
        sa.PrimaryKeyConstraint("image_id", name=op.f("pk_image")),
    )
    op.create_table(
        "meta",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_meta")),
    )
    op.create_table(
        "product",
        sa.Column("product_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("hardware", sa.String(), nullable=False),
        sa.Column("next_number", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("target_version_id", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(
            ["product_id", "target_version_id"], ["version.product_id", "version.version_id"], name="fk_product_target"
        ),
        sa.PrimaryKeyConstraint("product_id", name=op.f("pk_product")),
        sa.UniqueConstraint("name", name=op.f("uq_product_name")),
    )
    op.create_table(
        "release_key",
        sa.Column("key_id", sa.String(), nullable=False),
        sa.Column("public_key", sa.LargeBinary(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("added_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("key_id", name=op.f("pk_release_key")),
        sa.UniqueConstraint("name", name=op.f("uq_release_key_name")),
    )
    op.create_table(
        "trace",
        sa.Column("step_id", sa.Integer(), nullable=False),
        sa.Column("group_id", sa.String(), nullable=False),
        sa.Column("serial", sa.String(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("trace_id", sa.String(), nullable=False),
        sa.Column("verb", sa.String(), nullable=False),
        sa.Column("step", sa.String(), nullable=False),
        sa.Column("code", sa.String(), nullable=True),
        sa.Column("cause", sa.String(), nullable=True),
        sa.Column("detail", sa.String(), nullable=False),
        sa.Column("credential_id", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("step_id", name=op.f("pk_trace")),
    )
    op.create_index("ix_trace_serial", "trace", ["serial", "group_id"], unique=False)
    # A chunk names its image by 8 bytes: two images that begin alike cannot both be stored.
    op.create_index("uq_image_prefix", "image", [sa.text("substr(image_id, 1, 16)")], unique=True)
    op.create_table(
        "version",
        sa.Column("version_id", sa.String(), nullable=False),
        sa.Column("product_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("description", sa.String(), server_default=sa.text("''"), nullable=False),
        sa.Column("product", sa.String(), nullable=False),
        sa.Column("hardware", sa.String(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("image_id", sa.String(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("signature", sa.LargeBinary(), nullable=False),
        sa.Column("key_id", sa.String(), nullable=False),
        sa.CheckConstraint("size >= 1", name=op.f("ck_version_size")),
        sa.ForeignKeyConstraint(["image_id"], ["image.image_id"], name=op.f("fk_version_image_id")),
        sa.ForeignKeyConstraint(["key_id"], ["release_key.key_id"], name=op.f("fk_version_key_id")),
        sa.ForeignKeyConstraint(["product_id"], ["product.product_id"], name=op.f("fk_version_product_id")),
        sa.PrimaryKeyConstraint("version_id", name=op.f("pk_version")),
        sa.UniqueConstraint("product_id", "name", name=op.f("uq_version_product_id_name")),
        sa.UniqueConstraint("product_id", "seq", name=op.f("uq_version_product_id_seq")),
        sa.UniqueConstraint("product_id", "version_id", name=op.f("uq_version_product_id_version_id")),
    )
    op.create_table(
        "registration_group",
        sa.Column("group_id", sa.String(), nullable=False),
        sa.Column("product_id", sa.String(), nullable=False),
        sa.Column("key_kind", sa.String(), nullable=False),
        sa.Column("secret_sealed", sa.LargeBinary(), nullable=True),
        sa.Column("self_registration", sa.Boolean(), nullable=False),
        sa.Column("default_ou", sa.String(), nullable=True),
        sa.Column("default_environment", sa.String(), nullable=True),
        sa.Column("pending_expiry_s", sa.Integer(), nullable=False),
        sa.Column("reactivation", sa.String(), nullable=False),
        sa.CheckConstraint(
            "(key_kind IN ('derived', 'group')) = (secret_sealed IS NOT NULL)",
            name=op.f("ck_registration_group_secret"),
        ),
        sa.CheckConstraint(
            "key_kind <> 'group' OR reactivation = 'operator'", name=op.f("ck_registration_group_reactivation")
        ),
        sa.ForeignKeyConstraint(["product_id"], ["product.product_id"], name=op.f("fk_registration_group_product_id")),
        sa.PrimaryKeyConstraint("group_id", name=op.f("pk_registration_group")),
    )
    op.create_table(
        "device",
        sa.Column("device_id", sa.String(), nullable=False),
        sa.Column("group_id", sa.String(), nullable=False),
        sa.Column("serial", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("registered_at", sa.BigInteger(), nullable=False),
        sa.Column("key_sealed", sa.LargeBinary(), nullable=True),
        sa.Column("ou", sa.String(), nullable=True),
        sa.Column("environment", sa.String(), nullable=True),
        sa.Column("boot_count", sa.BigInteger(), nullable=False),
        sa.Column("model", sa.String(), nullable=True),
        sa.Column("caps", sa.String(), nullable=False),
        sa.Column("fw_state", sa.String(), nullable=True),
        sa.Column("fw_version_id", sa.String(), nullable=True),
        sa.Column("fw_progress", sa.Integer(), nullable=True),
        sa.Column("fw_cause", sa.String(), nullable=True),
        sa.Column("fw_installing_boot_count", sa.BigInteger(), nullable=True),
        sa.Column("fw_confirmed_seq", sa.BigInteger(), nullable=False),
        sa.Column("fw_reported_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["group_id"], ["registration_group.group_id"], name=op.f("fk_device_group_id")),
        sa.PrimaryKeyConstraint("device_id", name=op.f("pk_device")),
        sa.UniqueConstraint("group_id", "serial", name=op.f("uq_device_group_id_serial")),
    )
    op.create_index("ix_device_serial", "device", ["serial"], unique=False)
    op.create_table(
        "credential",
        sa.Column("credential_id", sa.String(), nullable=False),
        sa.Column("device_id", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("environment", sa.String(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("boot_count", sa.BigInteger(), nullable=False),
        sa.Column("nonce", sa.LargeBinary(), nullable=False),
        sa.Column("server_nonce", sa.LargeBinary(), nullable=False),
        sa.Column("grant", sa.LargeBinary(), nullable=False),
        sa.Column("encoding", sa.String(), nullable=False),
        sa.Column("api_key_sha256", sa.LargeBinary(), nullable=True),
        sa.Column("certificate_pem", sa.String(), nullable=True),
        sa.Column("certificate_serial", sa.String(), nullable=True),
        sa.Column("spki_sha256", sa.LargeBinary(), nullable=True),
        sa.Column("certificate_expires_at", sa.BigInteger(), nullable=True),
        sa.Column("confirmed_at", sa.BigInteger(), nullable=True),
        sa.Column("dropped_at", sa.BigInteger(), nullable=True),
        sa.Column("drop_cause", sa.String(), nullable=True),
        sa.Column("revoked_at", sa.BigInteger(), nullable=True),
        sa.Column("last_boot_count", sa.BigInteger(), nullable=False),
        sa.Column("last_n", sa.BigInteger(), nullable=False),
        sa.Column("last_reply", sa.LargeBinary(), nullable=True),
        sa.Column("desired_rev", sa.BigInteger(), nullable=False),
        sa.Column("desired_doc", sa.LargeBinary(), nullable=True),
        sa.Column("held_at", sa.BigInteger(), nullable=True),
        sa.Column("awaits_operator", sa.Boolean(), nullable=False),
        sa.Column("approved", sa.Boolean(), nullable=False),
        sa.Column("last_heard_at", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("(state = 'dropped') = (dropped_at IS NOT NULL)", name=op.f("ck_credential_dropped")),
        sa.CheckConstraint("state IN ('pending', 'confirmed', 'dropped')", name=op.f("ck_credential_state")),
        sa.ForeignKeyConstraint(["device_id"], ["device.device_id"], name=op.f("fk_credential_device_id")),
        sa.PrimaryKeyConstraint("credential_id", name=op.f("pk_credential")),
    )
    op.create_index("ix_credential_device", "credential", ["device_id", "created_at"], unique=False)
    op.create_index(
        "ix_credential_finished",
        "credential",
        ["dropped_at"],
        unique=False,
        sqlite_where=sa.text("state = 'dropped' AND revoked_at IS NOT NULL"),
    )
    op.create_index(
        "ix_credential_pending", "credential", ["expires_at"], unique=False, sqlite_where=sa.text("state = 'pending'")
    )
    op.create_index(
        "ix_credential_unrevoked",
        "credential",
        ["credential_id"],
        unique=False,
        sqlite_where=sa.text("state = 'dropped' AND revoked_at IS NULL"),
    )
    op.create_index(
        "uq_credential_certificate",
        "credential",
        ["certificate_serial"],
        unique=True,
        sqlite_where=sa.text("certificate_serial IS NOT NULL"),
    )
    op.create_index(
        "uq_credential_confirmed", "credential", ["device_id"], unique=True, sqlite_where=sa.text("state = 'confirmed'")
    )
    op.create_index(
        "uq_credential_spki",
        "credential",
        ["spki_sha256"],
        unique=True,
        sqlite_where=sa.text("spki_sha256 IS NOT NULL"),
    )
    op.create_table(
        "device_public_key",
        sa.Column("device_id", sa.String(), nullable=False),
        sa.Column("key_index", sa.Integer(), nullable=False),
        sa.Column("algorithm", sa.String(), nullable=False),
        sa.Column("spki", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint("key_index BETWEEN 0 AND 7", name=op.f("ck_device_public_key_key_index")),
        sa.ForeignKeyConstraint(
            ["device_id"], ["device.device_id"], name=op.f("fk_device_public_key_device_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("device_id", "key_index", name=op.f("pk_device_public_key")),
    )
    op.create_table(
        "thing",
        sa.Column("thing_id", sa.String(), nullable=False),
        sa.Column("group_id", sa.String(), nullable=False),
        sa.Column("product_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("ou", sa.String(), nullable=False),
        sa.Column("environment", sa.String(), nullable=False),
        sa.Column("holder_device_id", sa.String(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("successor_device_id", sa.String(), nullable=True),
        sa.Column("installed_version_id", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(["group_id"], ["registration_group.group_id"], name=op.f("fk_thing_group_id")),
        sa.ForeignKeyConstraint(["holder_device_id"], ["device.device_id"], name=op.f("fk_thing_holder_device_id")),
        sa.ForeignKeyConstraint(
            ["installed_version_id"], ["version.version_id"], name=op.f("fk_thing_installed_version_id")
        ),
        sa.ForeignKeyConstraint(["product_id"], ["product.product_id"], name=op.f("fk_thing_product_id")),
        sa.ForeignKeyConstraint(
            ["successor_device_id"], ["device.device_id"], name=op.f("fk_thing_successor_device_id")
        ),
        sa.PrimaryKeyConstraint("thing_id", name=op.f("pk_thing")),
        sa.UniqueConstraint("holder_device_id", name=op.f("uq_thing_holder_device_id")),
    )
    op.create_index("ix_thing_product", "thing", ["product_id"], unique=False)
    op.create_index(
        "uq_thing_successor",
        "thing",
        ["successor_device_id"],
        unique=True,
        sqlite_where=sa.text("successor_device_id IS NOT NULL"),
    )
    # Storage raises it with every change of groups, products, versions, targets or release keys.
    op.execute("INSERT INTO meta (name, value) VALUES ('catalogue_rev', 1)")
