"""The database's tables, and the indexes that make a broken invariant impossible to store.

Owns the schema as SQLAlchemy Core metadata (every_table.py names the modules with the rest); migrations/ brings a database to it, a test compares the two. Times are
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

HEAD = "0014"  # the newest migration; a test holds it equal to Alembic's head

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
    Column("retired_at", BigInteger),
)

# One release key vouches for another; kept when either is retired, because a device may have slept through both.
endorsement = Table(
    "endorsement",
    metadata,
    Column("key_id", ForeignKey("release_key.key_id"), primary_key=True),
    Column("by_key_id", ForeignKey("release_key.key_id"), primary_key=True),
    Column("signature", LargeBinary, nullable=False),
    Column("added_at", BigInteger, nullable=False),
    CheckConstraint("key_id <> by_key_id", name="by_key_id"),
)

# Where devices of an environment may come in besides the factory's endpoints. Rows stay, so that devices are told.
bootstrap_endpoint = Table(
    "bootstrap_endpoint",
    metadata,
    Column("environment", String, primary_key=True),
    Column("host", String, primary_key=True),
    Column("port", Integer, primary_key=True),
    Column("tls", Boolean, nullable=False),
    Column("ca_pem", String),
    Column("added_at", BigInteger, nullable=False),
    Column("removed_at", BigInteger),
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
    Column("target_version_id", String),
    Column("move_method", String, nullable=False, server_default=text("'migrate'")),
    Column("clone_policy", String, nullable=False, server_default=text("'report'")),
    Column("template_settings", String, nullable=False, server_default=text("'{}'")),  # JSON map
    Column("credential_life_s", Integer),
    Column("serial_pattern", String),
    Column("quarantine_ou", String),
    Column("self_quota", Integer),
    Column("hook", String),
    Column("failover_environment", String),
    Column("failover_ou", String),
    Column("failover_after_s", Integer),
    Column("secret_generation", Integer, nullable=False, server_default=text("1")),  # of the secret in this row
    # Every device of kind `group` can speak for its group, so a person stands between it and a second activation.
    CheckConstraint("key_kind <> 'group' OR reactivation = 'operator'", name="reactivation"),
    CheckConstraint("(key_kind IN ('derived', 'group')) = (secret_sealed IS NOT NULL)", name="secret"),
)

# Secrets of a group before the one in its row.
group_secret = Table(
    "group_secret",
    metadata,
    Column("secret_id", String, primary_key=True),  # GROUP/GENERATION
    Column("group_id", ForeignKey("registration_group.group_id"), nullable=False),
    Column("generation", Integer, nullable=False),
    Column("secret_sealed", LargeBinary, nullable=False),
    Column("superseded_at", BigInteger, nullable=False),
    Column("grace_until", BigInteger, nullable=False),
    Column("retired_at", BigInteger),
    UniqueConstraint("group_id", "generation"),
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
    Column("batch", String),
    Column("attributes", String, nullable=False, server_default=text("'{}'")),  # JSON map
    Column("frozen", Boolean, nullable=False, server_default=text("0")),
    Column("replaced_by", String),  # device_id
    Column("tries", String, nullable=False, server_default=text("'{}'")),  # JSON map
    Column("releases", Integer, nullable=False, server_default=text("0")),
    Column("clone_signs", Integer, nullable=False, server_default=text("0")),
    Column("clone_at", BigInteger),
    Column("rekey", Boolean, nullable=False, server_default=text("0")),
    Column("fw_since", BigInteger),
    Column("fw_notified", Integer, nullable=False, server_default=text("0")),
    Column("fw_deferred_until", BigInteger),
    Column("fw_deferred_reason", String),
    Column("secret_generation", Integer),  # which secret of its group its key is made from; None: not proven yet
    Column("retire_deadline_at", BigInteger),
    Column("retired_reason", String),
    Column("rekey_deadline_at", BigInteger),
    Column("rekey_command_id", String),
    UniqueConstraint("group_id", "serial"),
    Index("ix_device_serial", "serial"),
    Index("ix_device_state", "state", "group_id", "serial"),
    Index("ix_device_batch", "batch", sqlite_where=text("batch IS NOT NULL")),
    Index("ix_device_retirement", "retire_deadline_at", sqlite_where=text("retire_deadline_at IS NOT NULL")),
    Index("ix_device_rekey", "rekey_deadline_at", sqlite_where=text("rekey_deadline_at IS NOT NULL")),
    Index("ix_device_replaced_by", "replaced_by", sqlite_where=text("replaced_by IS NOT NULL")),
    # What the clock looks at: firmware states that someone still has to move on from.
    Index(
        "ix_device_firmware",
        "fw_since",
        sqlite_where=text("fw_state IS NOT NULL AND fw_state <> 'confirmed'"),
    ),
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
    Column("attributes", String, nullable=False, server_default=text("'{}'")),  # JSON map
    Column("settings", String, nullable=False, server_default=text("'{}'")),  # JSON map
    Column("settings_rev", BigInteger, nullable=False, server_default=text("0")),
    Column("settings_reported_rev", BigInteger, nullable=False, server_default=text("0")),
    Column("settings_state", String),
    Column("rev", BigInteger, nullable=False, server_default=text("0")),
    Column("target_version_id", String),
    Column("successor_deadline_at", BigInteger),
    Column("successor_command_id", String),
    Column("home_environment", String),
    Column("failover_at", BigInteger),
    Column("move_ou", String),
    Column("move_environment", String),
    Column("move_method", String),
    Column("move_started_at", BigInteger),
    Column("move_deadline_at", BigInteger),
    Column("move_command_id", String),
    Column("move_announced", Boolean, nullable=False, server_default=text("0")),
    Column("number", Integer, nullable=False, server_default=text("0")),  # of its product's things; 0: unknown
    Column("home_ou", String),
    Index("ix_thing_ou", "ou"),
    Index("ix_thing_move", "move_deadline_at", sqlite_where=text("move_deadline_at IS NOT NULL")),
    Index(
        "ix_thing_successor_deadline",
        "successor_deadline_at",
        sqlite_where=text("successor_deadline_at IS NOT NULL"),
    ),
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
    Column("rekey", Boolean, nullable=False, server_default=text("0")),
    Column("renewed_from", String),
    Column("heard_rev", BigInteger, nullable=False, server_default=text("0")),
    Column("first_n", BigInteger, nullable=False, server_default=text("0")),
    Column("first_id", String),
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

ou = Table(
    "ou",
    metadata,
    Column("path", String, primary_key=True),
    Column("environment", String),
    Column("target_version_id", String),
)

label = Table(
    "label",
    metadata,
    Column("label_id", String, primary_key=True),  # hex of the hash of its code; the code itself is only on paper
    Column("group_id", ForeignKey("registration_group.group_id"), nullable=False),
    Column("serial", String, nullable=False),
    Column("batch", String),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("used_at", BigInteger),
    Column("used_by", String),  # account
    Column("used_command_id", String),
    Column("cancelled_at", BigInteger),
    Column("key_sealed", LargeBinary),  # a key that was made with the label, for a device not registered yet
    Index("ix_label_batch", "batch"),
    Index("ix_label_serial", "serial", "group_id"),
)
