"""The database's tables, and the indexes that make a broken invariant impossible to store.

Owns the schema as SQLAlchemy Core metadata; migrations/ brings a database to it, a test compares the two. Times are
INTEGER milliseconds since the epoch, ids their lower-case text, `..._sealed` columns hold what the sealer made
(key id, nonce, ciphertext). No other column holds a secret.
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
    MetaData,
    String,
    Table,
    UniqueConstraint,
    func,
    text,
)

HEAD = "0002"  # the newest migration; a test holds it equal to Alembic's head

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

meta = Table(
    "meta",
    metadata,
    Column("name", String, primary_key=True),
    Column("value", BigInteger, nullable=False),
)

product = Table(
    "product",
    metadata,
    Column("product_id", String, primary_key=True),
    Column("name", String, nullable=False, unique=True),  # a version id is computed from it
    Column("hardware", String, nullable=False),
    Column("next_number", Integer, nullable=False, server_default=text("1")),
    Column("target_version_id", String),
    # A target is a version of this very product.
    ForeignKeyConstraint(
        ["product_id", "target_version_id"],
        ["version.product_id", "version.version_id"],
        name="fk_product_target",
        use_alter=False,
    ),
)

release_key = Table(
    "release_key",
    metadata,
    Column("key_id", String, primary_key=True),
    Column("public_key", LargeBinary, nullable=False),
    Column("name", String, nullable=False, unique=True),
    Column("added_at", BigInteger, nullable=False),
)

image = Table(
    "image",
    metadata,
    Column("image_id", String, primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("added_at", BigInteger, nullable=False),
    CheckConstraint("size >= 1", name="size"),
    CheckConstraint("length(image_id) = 64", name="image_id"),
)
# A chunk names its image by 8 bytes: two images that begin alike cannot both be stored.
Index("uq_image_prefix", func.substr(image.c.image_id, 1, 16), unique=True)

version = Table(
    "version",
    metadata,
    Column("version_id", String, primary_key=True),
    Column("product_id", ForeignKey("product.product_id"), nullable=False),
    Column("name", String, nullable=False),
    Column("description", String, nullable=False, server_default=text("''")),
    Column("product", String, nullable=False),
    Column("hardware", String, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("image_id", ForeignKey("image.image_id"), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("signature", LargeBinary, nullable=False),
    Column("key_id", ForeignKey("release_key.key_id"), nullable=False),
    Column("added_at", BigInteger),  # None: added before schema 0002
    UniqueConstraint("product_id", "seq"),
    UniqueConstraint("product_id", "name"),
    UniqueConstraint("product_id", "version_id"),
    CheckConstraint("size >= 1", name="size"),
)

registration_group = Table(
    "registration_group",
    metadata,
    Column("group_id", String, primary_key=True),
    Column("product_id", ForeignKey("product.product_id"), nullable=False),
    Column("key_kind", String, nullable=False),
    Column("secret_sealed", LargeBinary),
    Column("self_registration", Boolean, nullable=False),
    Column("default_ou", String),
    Column("default_environment", String),
    Column("pending_expiry_s", Integer, nullable=False),
    Column("reactivation", String, nullable=False),
    # Every device of kind `group` can speak for its group, so a person stands between it and a second activation.
    CheckConstraint("key_kind <> 'group' OR reactivation = 'operator'", name="reactivation"),
    CheckConstraint("(key_kind IN ('derived', 'group')) = (secret_sealed IS NOT NULL)", name="secret"),
)

device = Table(
    "device",
    metadata,
    Column("device_id", String, primary_key=True),
    Column("group_id", ForeignKey("registration_group.group_id"), nullable=False),
    Column("serial", String, nullable=False),
    Column("state", String, nullable=False),
    Column("registered_at", BigInteger, nullable=False),
    Column("key_sealed", LargeBinary),
    Column("ou", String),
    Column("environment", String),
    Column("boot_count", BigInteger, nullable=False),
    Column("model", String),
    Column("caps", String, nullable=False),  # JSON array
    Column("fw_state", String),
    Column("fw_version_id", String),  # as the device says; need not be one of ours
    Column("fw_progress", Integer),
    Column("fw_cause", String),
    Column("fw_installing_boot_count", BigInteger),
    Column("fw_confirmed_seq", BigInteger, nullable=False),
    Column("fw_reported_at", BigInteger),
    UniqueConstraint("group_id", "serial"),
    Index("ix_device_serial", "serial"),
    Index("ix_device_state", "state", "group_id", "serial"),
)

device_public_key = Table(
    "device_public_key",
    metadata,
    Column("device_id", ForeignKey("device.device_id", ondelete="CASCADE"), primary_key=True),
    Column("key_index", Integer, primary_key=True),
    Column("algorithm", String, nullable=False),
    Column("spki", LargeBinary, nullable=False),
    CheckConstraint("key_index BETWEEN 0 AND 7", name="key_index"),
)

thing = Table(
    "thing",
    metadata,
    Column("thing_id", String, primary_key=True),
    Column("group_id", ForeignKey("registration_group.group_id"), nullable=False),
    Column("product_id", ForeignKey("product.product_id"), nullable=False),
    Column("name", String, nullable=False),
    Column("ou", String, nullable=False),
    Column("environment", String, nullable=False),
    # A device holds at most one thing and is at most one thing's successor.
    Column("holder_device_id", ForeignKey("device.device_id"), nullable=False, unique=True),
    Column("created_at", BigInteger, nullable=False),
    Column("successor_device_id", ForeignKey("device.device_id")),
    Column("installed_version_id", ForeignKey("version.version_id")),
    Index("ix_thing_product", "product_id"),
    Index(
        "uq_thing_successor", "successor_device_id", unique=True, sqlite_where=text("successor_device_id IS NOT NULL")
    ),
)

credential = Table(
    "credential",
    metadata,
    Column("credential_id", String, primary_key=True),
    Column("device_id", ForeignKey("device.device_id"), nullable=False),
    Column("kind", String, nullable=False),
    Column("state", String, nullable=False),
    Column("environment", String, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("boot_count", BigInteger, nullable=False),
    Column("nonce", LargeBinary, nullable=False),
    Column("server_nonce", LargeBinary, nullable=False),
    Column("grant", LargeBinary, nullable=False),
    Column("encoding", String, nullable=False),
    Column("api_key_sha256", LargeBinary),
    Column("certificate_pem", String),
    Column("certificate_serial", String),
    Column("spki_sha256", LargeBinary),
    Column("certificate_expires_at", BigInteger),
    Column("confirmed_at", BigInteger),
    Column("dropped_at", BigInteger),
    Column("drop_cause", String),
    Column("revoked_at", BigInteger),
    Column("last_boot_count", BigInteger, nullable=False),
    Column("last_n", BigInteger, nullable=False),
    Column("last_reply", LargeBinary),
    Column("desired_rev", BigInteger, nullable=False),
    Column("desired_doc", LargeBinary),
    Column("held_at", BigInteger),
    Column("awaits_operator", Boolean, nullable=False),
    Column("approved", Boolean, nullable=False),
    Column("last_heard_at", BigInteger),
    CheckConstraint("state IN ('pending', 'confirmed', 'dropped')", name="state"),
    CheckConstraint("(state = 'dropped') = (dropped_at IS NOT NULL)", name="dropped"),
    Index("ix_credential_device", "device_id", "created_at"),
    Index("uq_credential_confirmed", "device_id", unique=True, sqlite_where=text("state = 'confirmed'")),
    Index("uq_credential_spki", "spki_sha256", unique=True, sqlite_where=text("spki_sha256 IS NOT NULL")),
    Index(
        "uq_credential_certificate",
        "certificate_serial",
        unique=True,
        sqlite_where=text("certificate_serial IS NOT NULL"),
    ),
    # What the ticker asks for: each holds only the rows that it still has to deal with.
    Index("ix_credential_pending", "expires_at", sqlite_where=text("state = 'pending'")),
    Index(
        "ix_credential_unrevoked",
        "credential_id",
        sqlite_where=text("state = 'dropped' AND revoked_at IS NULL"),
    ),
    Index(
        "ix_credential_finished",
        "dropped_at",
        sqlite_where=text("state = 'dropped' AND revoked_at IS NOT NULL"),
    ),
)

trace = Table(
    "trace",
    metadata,
    Column("step_id", Integer, primary_key=True),
    Column("group_id", String, nullable=False),
    Column("serial", String, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("trace_id", String, nullable=False),
    Column("verb", String, nullable=False),
    Column("step", String, nullable=False),
    Column("code", String),
    Column("cause", String),
    Column("detail", String, nullable=False),
    Column("credential_id", String),
    Index("ix_trace_serial", "serial", "group_id"),
)

counter = Table(
    "counter",
    metadata,
    Column("name", String, primary_key=True),
    Column("value", BigInteger, nullable=False),
)
