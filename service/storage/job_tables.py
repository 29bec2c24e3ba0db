"""Tables of jobs and daemons, of the files that they took, of configuration and of who administers it.

The rules of tables.py hold. Of passwords and sessions only hashes are stored.
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
    text,
)

from service.storage.tables import metadata

# A row for each job and daemon that the code has; made at start.
job = Table(
    "job",
    metadata,
    Column("name", String, primary_key=True),
    Column("kind", String, nullable=False),
    Column("enabled", Boolean, nullable=False, server_default=text("0")),
    Column("cron", String),  # five fields, UTC; None: only when it is told to
    Column("next_due_at", BigInteger),
    Column("run_wanted_at", BigInteger),  # somebody has asked for a run, and by whom
    Column("run_wanted_by", String),
    Column("changed_at", BigInteger, nullable=False),
    CheckConstraint("kind IN ('job', 'daemon')", name="kind"),
    CheckConstraint("(run_wanted_at IS NULL) = (run_wanted_by IS NULL)", name="run_wanted"),
)

job_run = Table(
    "job_run",
    metadata,
    Column("run_id", Integer, primary_key=True),
    Column("job", ForeignKey("job.name"), nullable=False),
    Column("state", String, nullable=False),
    Column("due_at", BigInteger),  # None: somebody has asked for it
    Column("account", String),  # who has
    Column("started_at", BigInteger),  # None: missed
    Column("finished_at", BigInteger),
    Column("result", String, nullable=False, server_default=text("'{}'")),  # JSON map of numbers
    Column("cause", String),
    Column("lease_owner", String),
    Column("lease_expires_at", BigInteger),
    CheckConstraint("state IN ('running', 'done', 'failed', 'lost', 'missed')", name="state"),
    Index("ix_job_run_job", "job", "run_id"),
    Index("uq_job_run_running", "job", unique=True, sqlite_where=text("state = 'running'")),  # never beside itself
    sqlite_autoincrement=True,
)

config_entry = Table(
    "config_entry",
    metadata,
    Column("name", String, primary_key=True),
    Column("value", String),  # JSON
    Column("value_sealed", LargeBinary),  # JSON, where the entry is a secret
    Column("changed_at", BigInteger, nullable=False),
    Column("changed_by", String, nullable=False),
    CheckConstraint("(value IS NULL) <> (value_sealed IS NULL)", name="one_value"),
)

admin_user = Table(
    "admin_user",
    metadata,
    Column("name", String, primary_key=True),
    Column("role", String, nullable=False),
    Column("password_hash", String, nullable=False),  # argon2id
    Column("failures", Integer, nullable=False, server_default=text("0")),
    Column("locked_until", BigInteger),
    Column("created_at", BigInteger, nullable=False),
    Column("disabled_at", BigInteger),
    CheckConstraint("role IN ('viewer', 'operator', 'admin')", name="role"),
)

admin_session = Table(
    "admin_session",
    metadata,
    Column("token_sha256", LargeBinary, primary_key=True),  # of the cookie
    Column("name", ForeignKey("admin_user.name", ondelete="CASCADE"), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("seen_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Index("ix_admin_session_expires", "expires_at"),
    Index("ix_admin_session_name", "name"),
)

# A file is named by what is in it: one that comes again, under whatever name, is known.
taken_file = Table(
    "taken_file",
    metadata,
    Column("interface", String, primary_key=True),  # who has taken it: load, inbound, stb, dispatch ...
    Column("sha256", LargeBinary, primary_key=True),
    Column("name", String, nullable=False),
    Column("taken_at", BigInteger, nullable=False),
    Column("outcome", String, nullable=False),
    Column("report", String, nullable=False, server_default=text("'{}'")),  # JSON map
    CheckConstraint("outcome IN ('taken', 'done', 'failed')", name="outcome"),
    CheckConstraint("length(sha256) = 32", name="sha256"),
)
