"""Tables of what operators do and of what is told of devices: accounts, commands, the audit, events.

Part of the one schema of tables.py, whose conventions hold here too.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
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

# Numbers never come back, so that "after SEQ" means the same for ever.
event = Table(
    "event",
    metadata,
    Column("seq", Integer, primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("kind", String, nullable=False),
    Column("group_id", String, nullable=False),
    Column("serial", String, nullable=False),
    Column("thing_id", String),
    Column("ou", String),
    Column("environment", String),
    Column("command_id", String),
    Column("data", String, nullable=False),  # JSON map
    Index("ix_event_command", "command_id", "seq", sqlite_where=text("command_id IS NOT NULL")),
    Index("ix_event_serial", "serial", "group_id"),
    Index("ix_event_thing", "thing_id", "seq", sqlite_where=text("thing_id IS NOT NULL")),
    sqlite_autoincrement=True,
)

account = Table(
    "account",
    metadata,
    Column("name", String, primary_key=True),
    Column("kind", String, nullable=False),
    Column("role", String, nullable=False),
    Column("ou", String),  # scope: this OU and everything below it; None: all
    Column("key_sha256", LargeBinary, nullable=False),  # of a random key of 256 bits, shown once
    Column("key_sealed", LargeBinary, nullable=False),  # for a broker whose list of logins must be made again
    Column("environment", String),  # None: every one
    Column("event_cursor", BigInteger, nullable=False, server_default=text("0")),  # integrators: published up to here
    Column("created_at", BigInteger, nullable=False),
    Column("disabled_at", BigInteger),
    CheckConstraint("kind IN ('operator', 'integrator')", name="kind"),
    CheckConstraint("role IN ('viewer', 'operator', 'admin')", name="role"),
)

command = Table(
    "command",
    metadata,
    Column("command_id", String, primary_key=True),
    Column("account", String, nullable=False),
    Column("request_id", String, nullable=False),
    Column("digest", LargeBinary, nullable=False),  # SHA-256 of the request: a repeated id must be the same request
    Column("verb", String, nullable=False),
    Column("selector", String, nullable=False),  # JSON
    Column("arguments", String, nullable=False),  # JSON, without secrets
    Column("secrets_sealed", LargeBinary),  # JSON map of the arguments that are secrets
    Column("dry_run", Boolean, nullable=False),
    Column("expected_rev", BigInteger),
    Column("state", String, nullable=False),
    Column("rate", Integer),  # devices a second; None: as quick as it goes
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("started_at", BigInteger),
    Column("finished_at", BigInteger),
    Column("cursor", String, nullable=False, server_default=text("''")),  # device_id up to which it is done
    Column("total", Integer),
    Column("done", Integer, nullable=False, server_default=text("0")),
    Column("changed", Integer, nullable=False, server_default=text("0")),
    Column("unchanged", Integer, nullable=False, server_default=text("0")),
    Column("refused", Integer, nullable=False, server_default=text("0")),
    Column("reply", LargeBinary),  # what a repeated request is answered
    Column("lease_owner", String),
    Column("lease_expires_at", BigInteger),
    UniqueConstraint("account", "request_id"),
    CheckConstraint("state IN ('running', 'paused', 'cancelled', 'done', 'expired', 'failed')", name="state"),
    Index("ix_command_open", "created_at", sqlite_where=text("state = 'running'")),
)

command_outcome = Table(
    "command_outcome",
    metadata,
    Column("command_id", ForeignKey("command.command_id", ondelete="CASCADE"), primary_key=True),
    Column("device_id", String, primary_key=True),
    Column("group_id", String, nullable=False),
    Column("serial", String, nullable=False),
    Column("result", String, nullable=False),  # changed, unchanged, refused
    Column("code", String),
    Column("cause", String),
    Column("reason", String),
    Column("at", BigInteger, nullable=False),
    Index("ix_command_outcome_result", "command_id", "result"),
)

audit = Table(
    "audit",
    metadata,
    Column("seq", Integer, primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("account", String, nullable=False),
    Column("command_id", String),
    Column("verb", String, nullable=False),
    Column("selector", String, nullable=False),  # JSON
    Column("arguments", String, nullable=False),  # JSON, without secrets
    Column("group_id", String),
    Column("serial", String),
    Column("before", String),  # JSON
    Column("after", String),  # JSON
    Column("outcome", String, nullable=False),
    Column("cause", String),
    Index("ix_audit_command", "command_id"),
    Index("ix_audit_serial", "serial", "group_id"),
    sqlite_autoincrement=True,
)
