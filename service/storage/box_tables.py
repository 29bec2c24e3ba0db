"""Tables of partner services: who they are, their users and set-top boxes, and what was bought.

The rules of tables.py hold. Of tokens only hashes are stored.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    UniqueConstraint,
    text,
)

from service.storage.tables import metadata

partner_service = Table(
    "partner_service",
    metadata,
    Column("name", String, primary_key=True),
    Column("token_sha256", LargeBinary, nullable=False, unique=True),  # of a random token of 256 bits, shown once
    Column("group_id", ForeignKey("registration_group.group_id"), nullable=False),  # its boxes register here
    Column("min_keys", Integer, nullable=False, server_default=text("8")),
    Column("created_at", BigInteger, nullable=False),
    Column("rotated_at", BigInteger),
    Column("disabled_at", BigInteger),
    CheckConstraint("min_keys BETWEEN 1 AND 8", name="min_keys"),
    CheckConstraint("length(token_sha256) = 32", name="token_sha256"),
)

partner_address = Table(
    "partner_address",
    metadata,
    Column("service", ForeignKey("partner_service.name", ondelete="CASCADE"), primary_key=True),
    Column("network", String, primary_key=True),  # 192.0.2.0/24, 2001:db8::/32 or one address as /32, /128
    Column("added_at", BigInteger, nullable=False),
)

partner_user = Table(
    "partner_user",
    metadata,
    Column("user_id", Integer, primary_key=True),
    Column("service", ForeignKey("partner_service.name"), nullable=False),
    Column("email", String, nullable=False),  # as given
    Column("email_key", String, nullable=False),  # as compared
    Column("created_at", BigInteger, nullable=False),
    UniqueConstraint("service", "email_key"),
    sqlite_autoincrement=True,
)

box = Table(
    "box",
    metadata,
    Column("box_id", Integer, primary_key=True),
    Column("service", ForeignKey("partner_service.name"), nullable=False),
    Column("serial_no", String, nullable=False),
    Column("device_id", ForeignKey("device.device_id"), unique=True),
    Column("user_id", ForeignKey("partner_user.user_id")),
    Column("chipset_id", String),
    Column("mac", String),  # as given
    Column("mac_key", String),  # as compared
    Column("created_at", BigInteger, nullable=False),
    Column("linked_at", BigInteger),
    UniqueConstraint("service", "serial_no"),
    CheckConstraint("length(chipset_id) <= 32", name="chipset_id"),
    CheckConstraint("length(mac) <= 18", name="mac"),
    CheckConstraint("(user_id IS NULL) = (linked_at IS NULL)", name="linked"),
    Index("uq_box_mac", "mac_key", unique=True, sqlite_where=text("mac_key IS NOT NULL")),
    Index("ix_box_user", "user_id", sqlite_where=text("user_id IS NOT NULL")),
    sqlite_autoincrement=True,
)

# As the factory or the sale gave them; what sign-in is checked against stands in device_public_key.
box_key = Table(
    "box_key",
    metadata,
    Column("box_id", ForeignKey("box.box_id", ondelete="CASCADE"), primary_key=True),
    Column("key_index", Integer, primary_key=True),
    Column("spki", LargeBinary, nullable=False),
    Column("spki_sha256", LargeBinary, nullable=False, unique=True),  # no key belongs to two boxes
    CheckConstraint("key_index BETWEEN 0 AND 7", name="key_index"),
)

# Who grants access to what was bought: a conditional-access system or a DVB one, both asked over SOAP.
access_provider = Table(
    "access_provider",
    metadata,
    Column("name", String, primary_key=True),
    Column("kind", String, nullable=False),
    Column("url", String, nullable=False),
    Column("account", String),
    Column("secret_sealed", LargeBinary),
    Column("timeout_s", Integer, nullable=False, server_default=text("10")),
    CheckConstraint("kind IN ('conditional_access', 'dvb')", name="kind"),
)

offer = Table(
    "offer",
    metadata,
    Column("service", ForeignKey("partner_service.name", ondelete="CASCADE"), primary_key=True),
    Column("product_id", String, primary_key=True),  # the partner's number, not one of our products
    Column("option_id", String, primary_key=True),
    Column("provider", ForeignKey("access_provider.name"), nullable=False),
    Column("package", String, nullable=False),  # what the provider calls it
)

# Stored as `asking` before the provider is called, so that a retry asks with the same key and buys nothing twice.
purchase = Table(
    "purchase",
    metadata,
    Column("purchase_id", String, primary_key=True),  # the idempotency key that the provider is given
    Column("user_id", ForeignKey("partner_user.user_id"), nullable=False),
    Column("product_id", String, nullable=False),
    Column("option_id", String, nullable=False),
    Column("provider", String, nullable=False),
    Column("package", String, nullable=False),
    Column("state", String, nullable=False),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    Column("created_at", BigInteger, nullable=False),
    Column("asked_at", BigInteger),
    Column("answered_at", BigInteger),
    Column("reference", String),  # the provider's
    Column("cause", String),
    Column("lease_owner", String),  # who is asking now; nobody else does until it lapses
    Column("lease_expires_at", BigInteger),
    Column("ended_at", BigInteger),  # the same can be bought again from then on
    CheckConstraint("state IN ('asking', 'unknown', 'bought', 'refused')", name="state"),
    Index(
        "uq_purchase_live",
        "user_id",
        "product_id",
        "option_id",
        unique=True,
        sqlite_where=text("state <> 'refused' AND ended_at IS NULL"),
    ),
)
