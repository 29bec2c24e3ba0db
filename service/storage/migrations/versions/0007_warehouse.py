"""Device types, sites, orders, units and manifests; groups that may activate by bare serial.

Revision 0007, after 0006. No existing table changes.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "equipment_step",
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("group_id", sa.String(), nullable=False),
        sa.Column("serial", sa.String(), nullable=False),
        sa.Column("step", sa.String(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("order_id", sa.String(), nullable=True),
        sa.Column("site", sa.String(), nullable=True),
        sa.Column("account", sa.String(), nullable=True),
        sa.Column("note", sa.String(), server_default=sa.text("''"), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_equipment_step")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_equipment_step_serial", "equipment_step", ["serial", "group_id"], unique=False)
    op.create_table(
        "item_report",
        sa.Column("group_id", sa.String(), nullable=False),
        sa.Column("serial", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("progress", sa.Integer(), nullable=True),
        sa.Column("cause", sa.String(), nullable=True),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "state IN ('pending', 'fetched', 'installed', 'working', 'failed')", name=op.f("ck_item_report_state")
        ),
        sa.PrimaryKeyConstraint("group_id", "serial", "name", name=op.f("pk_item_report")),
    )
    op.create_index(
        "ix_item_report_failed", "item_report", ["at"], unique=False, sqlite_where=sa.text("state = 'failed'")
    )
    op.create_table(
        "manifest_secret",
        sa.Column("secret_id", sa.String(), nullable=False),
        sa.Column("content_sealed", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("secret_id", name=op.f("pk_manifest_secret")),
    )
    op.create_table(
        "site",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("title", sa.String(), server_default=sa.text("''"), nullable=False),
        sa.Column("ou", sa.String(), nullable=False),
        sa.Column("settings_rev", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_site")),
    )
    op.create_table(
        "manifest",
        sa.Column("manifest_id", sa.String(), nullable=False),
        sa.Column("product_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("static", sa.Boolean(), server_default=sa.text("0"), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("length(manifest_id) = 64", name=op.f("ck_manifest_manifest_id")),
        sa.ForeignKeyConstraint(["product_id"], ["product.product_id"], name=op.f("fk_manifest_product_id")),
        sa.PrimaryKeyConstraint("manifest_id", name=op.f("pk_manifest")),
        sa.UniqueConstraint("product_id", "name", name=op.f("uq_manifest_product_id_name")),
    )
    op.create_index("uq_manifest_static", "manifest", ["product_id"], unique=True, sqlite_where=sa.text("static"))
    op.create_table(
        "sales_order",
        sa.Column("order_id", sa.String(), nullable=False),
        sa.Column("site", sa.String(), nullable=True),
        sa.Column("state", sa.String(), server_default=sa.text("'open'"), nullable=False),
        sa.Column("enrol", sa.Boolean(), server_default=sa.text("0"), nullable=False),
        sa.Column("enrolment_state", sa.String(), server_default=sa.text("'none'"), nullable=False),
        sa.Column("provider_id", sa.String(), nullable=True),
        sa.Column("organisation", sa.String(), nullable=True),
        sa.Column("policies", sa.String(), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("policies_sealed", sa.LargeBinary(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("dispatched_at", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("state IN ('open', 'dispatched', 'closed', 'cancelled')", name=op.f("ck_sales_order_state")),
        sa.CheckConstraint(
            "NOT enrol OR (provider_id IS NOT NULL AND organisation IS NOT NULL)", name=op.f("ck_sales_order_enrol")
        ),
        sa.ForeignKeyConstraint(
            ["provider_id"], ["enrolment_provider.provider_id"], name=op.f("fk_sales_order_provider_id")
        ),
        sa.ForeignKeyConstraint(["site"], ["site.name"], name=op.f("fk_sales_order_site")),
        sa.PrimaryKeyConstraint("order_id", name=op.f("pk_sales_order")),
    )
    op.create_index(
        "ix_sales_order_enrolment", "sales_order", ["enrolment_state"], unique=False, sqlite_where=sa.text("enrol")
    )
    op.create_index("ix_sales_order_site", "sales_order", ["site"], unique=False)
    op.create_table(
        "site_settings",
        sa.Column("settings_id", sa.String(), nullable=False),
        sa.Column("site", sa.String(), nullable=False),
        sa.Column("rev", sa.BigInteger(), nullable=False),
        sa.Column("settings_sealed", sa.LargeBinary(), nullable=False),
        sa.Column("changed_at", sa.BigInteger(), nullable=False),
        sa.Column("changed_by", sa.String(), nullable=False),
        sa.CheckConstraint("rev >= 1", name=op.f("ck_site_settings_rev")),
        sa.ForeignKeyConstraint(["site"], ["site.name"], name=op.f("fk_site_settings_site"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("settings_id", name=op.f("pk_site_settings")),
        sa.UniqueConstraint("site", "rev", name=op.f("uq_site_settings_site_rev")),
    )
    op.create_table(
        "bare_serial_group",
        sa.Column("group_id", sa.String(), nullable=False),
        sa.Column("allowed_at", sa.BigInteger(), nullable=False),
        sa.Column("allowed_by", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["group_id"],
            ["registration_group.group_id"],
            name=op.f("fk_bare_serial_group_group_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("group_id", name=op.f("pk_bare_serial_group")),
    )
    op.create_table(
        "device_type",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("group_id", sa.String(), nullable=False),
        sa.Column("description", sa.String(), server_default=sa.text("''"), nullable=False),
        sa.Column("manifest_id", sa.String(), nullable=True),
        sa.Column("warehouse_settings", sa.String(), server_default=sa.text("'[]'"), nullable=False),
        sa.Column("handshake_settings", sa.String(), server_default=sa.text("'[]'"), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["group_id"], ["registration_group.group_id"], name=op.f("fk_device_type_group_id")),
        sa.ForeignKeyConstraint(["manifest_id"], ["manifest.manifest_id"], name=op.f("fk_device_type_manifest_id")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_device_type")),
    )
    op.create_table(
        "manifest_item",
        sa.Column("manifest_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("signature", sa.LargeBinary(), nullable=False),
        sa.Column("key_id", sa.String(), nullable=False),
        sa.Column("needs", sa.String(), server_default=sa.text("'[]'"), nullable=False),
        sa.Column("image_id", sa.String(), nullable=True),
        sa.Column("content", sa.LargeBinary(), nullable=True),
        sa.Column("secret_id", sa.String(), nullable=True),
        sa.CheckConstraint("(kind = 'secret') = (secret_id IS NOT NULL)", name=op.f("ck_manifest_item_secret")),
        sa.CheckConstraint(
            "kind IN ('software', 'content', 'certificate', 'secret')", name=op.f("ck_manifest_item_kind")
        ),
        sa.CheckConstraint(
            "(image_id IS NOT NULL) + (content IS NOT NULL) + (secret_id IS NOT NULL) = 1",
            name=op.f("ck_manifest_item_one_place"),
        ),
        sa.CheckConstraint("length(sha256) = 64", name=op.f("ck_manifest_item_sha256")),
        sa.CheckConstraint("size >= 0", name=op.f("ck_manifest_item_size")),
        sa.ForeignKeyConstraint(["image_id"], ["image.image_id"], name=op.f("fk_manifest_item_image_id")),
        sa.ForeignKeyConstraint(["key_id"], ["release_key.key_id"], name=op.f("fk_manifest_item_key_id")),
        sa.ForeignKeyConstraint(
            ["manifest_id"], ["manifest.manifest_id"], name=op.f("fk_manifest_item_manifest_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["secret_id"], ["manifest_secret.secret_id"], name=op.f("fk_manifest_item_secret_id")),
        sa.PrimaryKeyConstraint("manifest_id", "name", name=op.f("pk_manifest_item")),
        sa.UniqueConstraint("manifest_id", "position", name=op.f("uq_manifest_item_manifest_id_position")),
        sa.UniqueConstraint("secret_id", name=op.f("uq_manifest_item_secret_id")),
    )
    op.create_index(
        "ix_manifest_item_image",
        "manifest_item",
        ["image_id"],
        unique=False,
        sqlite_where=sa.text("image_id IS NOT NULL"),
    )
    op.create_table(
        "equipment",
        sa.Column("group_id", sa.String(), nullable=False),
        sa.Column("serial", sa.String(), nullable=False),
        sa.Column("device_id", sa.String(), nullable=True),
        sa.Column("device_type", sa.String(), nullable=False),
        sa.Column("site", sa.String(), nullable=True),
        sa.Column("step", sa.String(), nullable=False),
        sa.Column("step_at", sa.BigInteger(), nullable=False),
        sa.Column("manifest_id", sa.String(), nullable=True),
        sa.Column("staged_at", sa.BigInteger(), nullable=True),
        sa.Column("stage_credential_id", sa.String(), nullable=True),
        sa.Column("cause", sa.String(), nullable=True),
        sa.Column("settings_sent_rev", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("settings_rev", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("settings_state", sa.String(), nullable=True),
        sa.Column("settings_cause", sa.String(), nullable=True),
        sa.Column("settings_at", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("settings_state IN ('sent', 'applied', 'failed')", name=op.f("ck_equipment_settings_state")),
        sa.CheckConstraint(
            "step IN ('received', 'staged', 'out_of_box', 'shipped', 'at_site')", name=op.f("ck_equipment_step")
        ),
        sa.ForeignKeyConstraint(["device_id"], ["device.device_id"], name=op.f("fk_equipment_device_id")),
        sa.ForeignKeyConstraint(["device_type"], ["device_type.name"], name=op.f("fk_equipment_device_type")),
        sa.ForeignKeyConstraint(["group_id"], ["registration_group.group_id"], name=op.f("fk_equipment_group_id")),
        sa.ForeignKeyConstraint(["manifest_id"], ["manifest.manifest_id"], name=op.f("fk_equipment_manifest_id")),
        sa.ForeignKeyConstraint(["site"], ["site.name"], name=op.f("fk_equipment_site")),
        sa.PrimaryKeyConstraint("group_id", "serial", name=op.f("pk_equipment")),
        sa.UniqueConstraint("device_id", name=op.f("uq_equipment_device_id")),
    )
    op.create_index("ix_equipment_serial", "equipment", ["serial"], unique=False)
    op.create_index("ix_equipment_site", "equipment", ["site"], unique=False, sqlite_where=sa.text("site IS NOT NULL"))
    op.create_index(
        "ix_equipment_stopped", "equipment", ["step_at"], unique=False, sqlite_where=sa.text("cause IS NOT NULL")
    )
    op.create_table(
        "order_line",
        sa.Column("order_id", sa.String(), nullable=False),
        sa.Column("line", sa.Integer(), nullable=False),
        sa.Column("device_type", sa.String(), nullable=False),
        sa.Column("quantity", sa.Integer(), nullable=False),
        sa.CheckConstraint("line >= 1 AND quantity >= 0", name=op.f("ck_order_line_numbers")),
        sa.ForeignKeyConstraint(["device_type"], ["device_type.name"], name=op.f("fk_order_line_device_type")),
        sa.ForeignKeyConstraint(
            ["order_id"], ["sales_order.order_id"], name=op.f("fk_order_line_order_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("order_id", "line", name=op.f("pk_order_line")),
    )
    op.create_table(
        "order_unit",
        sa.Column("order_id", sa.String(), nullable=False),
        sa.Column("group_id", sa.String(), nullable=False),
        sa.Column("serial", sa.String(), nullable=False),
        sa.Column("line", sa.Integer(), nullable=False),
        sa.Column("bound_at", sa.BigInteger(), nullable=False),
        sa.Column("released_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["order_id", "line"],
            ["order_line.order_id", "order_line.line"],
            name="fk_order_unit_line",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("order_id", "group_id", "serial", name=op.f("pk_order_unit")),
    )
    op.create_index("ix_order_unit_line", "order_unit", ["order_id", "line"], unique=False)
    op.create_index(
        "uq_order_unit_bound",
        "order_unit",
        ["serial", "group_id"],
        unique=True,
        sqlite_where=sa.text("released_at IS NULL"),
    )
