"""Tables of the warehouse and of the provision API: what is made, for whom, and where each unit is and has been.

The rules of tables.py hold. A unit is named by group and serial number, because orders name it before there is a device
row. Sealed columns are listed in operations/sealed.py, which needs one text column as key of their table.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    UniqueConstraint,
    text,
)

from service.storage.tables import metadata

# What a maker sells: units of it register in this group. JSON arrays name the settings of its two steps.
device_type = Table(
    "device_type",
    metadata,
    Column("name", String, primary_key=True),
    Column("group_id", ForeignKey("registration_group.group_id"), nullable=False),
    Column("description", String, nullable=False, server_default=text("''")),
    Column("manifest_id", ForeignKey("manifest.manifest_id")),  # what `stage` gives; None: the product's static one
    Column("warehouse_settings", String, nullable=False, server_default=text("'[]'")),
    Column("handshake_settings", String, nullable=False, server_default=text("'[]'")),
    Column("created_at", BigInteger, nullable=False),
)

site = Table(
    "site",
    metadata,
    Column("name", String, primary_key=True),
    Column("title", String, nullable=False, server_default=text("''")),
    Column("ou", String, nullable=False),  # where the things of its units go
    Column("settings_rev", BigInteger, nullable=False, server_default=text("0")),  # 0: it has none yet
    Column("created_at", BigInteger, nullable=False),
)

# Every revision that was ever in force; they hold payment and network secrets.
site_settings = Table(
    "site_settings",
    metadata,
    Column("settings_id", String, primary_key=True),  # {site}/{rev}
    Column("site", ForeignKey("site.name", ondelete="CASCADE"), nullable=False),
    Column("rev", BigInteger, nullable=False),
    Column("settings_sealed", LargeBinary, nullable=False),  # JSON map: features, payment, network
    Column("changed_at", BigInteger, nullable=False),
    Column("changed_by", String, nullable=False),  # account
    UniqueConstraint("site", "rev"),
    CheckConstraint("rev >= 1", name="rev"),
)

sales_order = Table(
    "sales_order",
    metadata,
    Column("order_id", String, primary_key=True),  # the number that the business system gave it
    Column("site", ForeignKey("site.name")),
    Column("state", String, nullable=False, server_default=text("'open'")),
    Column("enrol", Boolean, nullable=False, server_default=text("0")),  # it asks for enrolment
    Column("enrolment_state", String, nullable=False, server_default=text("'none'")),
    Column("provider_id", ForeignKey("enrolment_provider.provider_id")),
    Column("organisation", String),  # the customer's id at the provider
    Column("policies", String, nullable=False, server_default=text("'{}'")),  # JSON map, without secrets
    Column("policies_sealed", LargeBinary),  # JSON map of the policies that are secrets (passwords)
    Column("created_at", BigInteger, nullable=False),
    Column("dispatched_at", BigInteger),
    CheckConstraint("state IN ('open', 'dispatched', 'closed', 'cancelled')", name="state"),
    CheckConstraint("NOT enrol OR (provider_id IS NOT NULL AND organisation IS NOT NULL)", name="enrol"),
    Index("ix_sales_order_site", "site"),
    Index("ix_sales_order_enrolment", "enrolment_state", sqlite_where=text("enrol")),
)

order_line = Table(
    "order_line",
    metadata,
    Column("order_id", ForeignKey("sales_order.order_id", ondelete="CASCADE"), primary_key=True),
    Column("line", Integer, primary_key=True),
    Column("device_type", ForeignKey("device_type.name"), nullable=False),
    Column("quantity", Integer, nullable=False),  # 0: as many as are assigned
    CheckConstraint("line >= 1 AND quantity >= 0", name="numbers"),
)

# The serial numbers of a line. A unit is bound to one order at a time; a returned one leaves `released_at` behind.
order_unit = Table(
    "order_unit",
    metadata,
    Column("order_id", String, primary_key=True),
    Column("group_id", String, primary_key=True),
    Column("serial", String, primary_key=True),
    Column("line", Integer, nullable=False),
    Column("bound_at", BigInteger, nullable=False),
    Column("released_at", BigInteger),
    ForeignKeyConstraint(
        ["order_id", "line"], ["order_line.order_id", "order_line.line"], name="fk_order_unit_line", ondelete="CASCADE"
    ),
    Index("ix_order_unit_line", "order_id", "line"),
    Index("uq_order_unit_bound", "serial", "group_id", unique=True, sqlite_where=text("released_at IS NULL")),
)

# Where a unit is now; equipment_step is where it has been.
equipment = Table(
    "equipment",
    metadata,
    Column("group_id", ForeignKey("registration_group.group_id"), primary_key=True),
    Column("serial", String, primary_key=True),
    Column("device_id", ForeignKey("device.device_id"), unique=True),  # None: not handed over for provisioning yet
    Column("device_type", ForeignKey("device_type.name"), nullable=False),
    Column("site", ForeignKey("site.name")),
    Column("step", String, nullable=False),
    Column("step_at", BigInteger, nullable=False),
    Column("manifest_id", ForeignKey("manifest.manifest_id")),  # what the last `stage` gave it
    Column("staged_at", BigInteger),  # the last `stage`; None: it may call, for the first time or after `restage`
    Column("stage_credential_id", String),  # the pending credential that this call gave
    Column("cause", String),  # why it stands still: on the operator's list
    Column("settings_sent_rev", BigInteger, nullable=False, server_default=text("0")),
    Column("settings_rev", BigInteger, nullable=False, server_default=text("0")),  # what it says it has
    Column("settings_state", String),
    Column("settings_cause", String),
    Column("settings_at", BigInteger),
    CheckConstraint("step IN ('received', 'staged', 'out_of_box', 'shipped', 'at_site')", name="step"),
    CheckConstraint("settings_state IN ('sent', 'applied', 'failed')", name="settings_state"),
    Index("ix_equipment_serial", "serial"),
    Index("ix_equipment_site", "site", sqlite_where=text("site IS NOT NULL")),
    Index("ix_equipment_stopped", "step_at", sqlite_where=text("cause IS NOT NULL")),
)

equipment_step = Table(
    "equipment_step",
    metadata,
    Column("seq", Integer, primary_key=True),
    Column("group_id", String, nullable=False),
    Column("serial", String, nullable=False),
    Column("step", String, nullable=False),  # a step, or restaged
    Column("at", BigInteger, nullable=False),
    Column("order_id", String),
    Column("site", String),
    Column("account", String),  # None: the device itself
    Column("note", String, nullable=False, server_default=text("''")),
    Index("ix_equipment_step_serial", "serial", "group_id"),
    sqlite_autoincrement=True,
)

# Never changed once made: a device may be in the midst of it.
manifest = Table(
    "manifest",
    metadata,
    Column("manifest_id", String, primary_key=True),  # hex of the SHA-256 over its items
    Column("product_id", ForeignKey("product.product_id"), nullable=False),
    Column("name", String, nullable=False),  # the build's
    Column("static", Boolean, nullable=False, server_default=text("0")),  # for device types without one of their own
    Column("created_at", BigInteger, nullable=False),
    UniqueConstraint("product_id", "name"),
    CheckConstraint("length(manifest_id) = 64", name="manifest_id"),
    Index("uq_manifest_static", "product_id", unique=True, sqlite_where=text("static")),
)

manifest_secret = Table(
    "manifest_secret",
    metadata,
    Column("secret_id", String, primary_key=True),
    Column("content_sealed", LargeBinary, nullable=False),
)

manifest_item = Table(
    "manifest_item",
    metadata,
    Column("manifest_id", ForeignKey("manifest.manifest_id", ondelete="CASCADE"), primary_key=True),
    Column("name", String, primary_key=True),
    Column("position", Integer, nullable=False),  # from 0, in an order that respects `needs`
    Column("version", String, nullable=False),
    Column("kind", String, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("sha256", String, nullable=False),
    Column("signature", LargeBinary, nullable=False),
    Column("key_id", ForeignKey("release_key.key_id"), nullable=False),
    Column("needs", String, nullable=False, server_default=text("'[]'")),  # JSON array of [name, lowest version]
    # Its bytes are in one of three places: an image of its own (over 16 KiB), here, or sealed in manifest_secret.
    Column("image_id", ForeignKey("image.image_id")),
    Column("content", LargeBinary),
    Column("secret_id", ForeignKey("manifest_secret.secret_id"), unique=True),
    UniqueConstraint("manifest_id", "position"),
    CheckConstraint("kind IN ('software', 'content', 'certificate', 'secret')", name="kind"),
    CheckConstraint("size >= 0", name="size"),
    CheckConstraint("length(sha256) = 64", name="sha256"),
    CheckConstraint("(image_id IS NOT NULL) + (content IS NOT NULL) + (secret_id IS NOT NULL) = 1", name="one_place"),
    CheckConstraint("(kind = 'secret') = (secret_id IS NOT NULL)", name="secret"),
    Index("ix_manifest_item_image", "image_id", sqlite_where=text("image_id IS NOT NULL")),
)

# What a unit last said of an item.
item_report = Table(
    "item_report",
    metadata,
    Column("group_id", String, primary_key=True),
    Column("serial", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("version", String, nullable=False),
    Column("state", String, nullable=False),
    Column("progress", Integer),  # percent fetched
    Column("cause", String),
    Column("at", BigInteger, nullable=False),
    CheckConstraint("state IN ('pending', 'fetched', 'installed', 'working', 'failed')", name="state"),
    Index("ix_item_report_failed", "at", sqlite_where=text("state = 'failed'")),
)

# Groups whose devices may activate over HTTP by their bare serial number. Unsafe, for the time of a migration only.
bare_serial_group = Table(
    "bare_serial_group",
    metadata,
    Column("group_id", ForeignKey("registration_group.group_id", ondelete="CASCADE"), primary_key=True),
    Column("allowed_at", BigInteger, nullable=False),
    Column("allowed_by", String, nullable=False),  # account
)
