"""Tables of device enrolment: providers, what they were asked for, what they answered, and how each unit stands.

The rules of tables.py hold. Orders stand in warehouse_tables.py. A unit is named by group and serial number, as orders
and provider files do.
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

enrolment_provider = Table(
    "enrolment_provider",
    metadata,
    Column("provider_id", String, primary_key=True),
    Column("adaptor", String, nullable=False),  # which transformation speaks for it
    Column("url", String),  # None: files only
    Column("account", String),
    Column("secret_sealed", LargeBinary),  # what we sign in with there
    Column("token_sha256", LargeBinary, unique=True),  # what it signs in with here
    Column("recipient_pem", String),  # its certificate: files for it are encrypted to this
    Column("signer_pem", String),  # its certificate: files of it are signed with this
    Column("created_at", BigInteger, nullable=False),
    Column("disabled_at", BigInteger),
)

# One file or one exchange with a provider, in the generic form.
enrolment_batch = Table(
    "enrolment_batch",
    metadata,
    Column("batch_id", String, primary_key=True),
    Column("direction", String, nullable=False),
    Column("provider_id", ForeignKey("enrolment_provider.provider_id"), nullable=False),
    Column("state", String, nullable=False),
    Column("record_count", Integer, nullable=False),
    Column("document_sealed", LargeBinary, nullable=False),  # the generic JSON; its policies may hold passwords
    Column("file_name", String),
    Column("reference", String),  # the provider's transaction
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    Column("next_at", BigInteger),  # when it is asked about again
    Column("cause", String),
    Column("created_at", BigInteger, nullable=False),
    Column("changed_at", BigInteger, nullable=False),
    CheckConstraint("direction IN ('request', 'response')", name="direction"),
    CheckConstraint("state IN ('prepared', 'extracted', 'sent', 'loaded', 'done', 'failed')", name="state"),
    Index("ix_enrolment_batch_open", "direction", "state", sqlite_where=text("state NOT IN ('done', 'failed')")),
    Index("ix_enrolment_batch_reference", "provider_id", "reference", sqlite_where=text("reference IS NOT NULL")),
)

enrolment_transaction = Table(
    "enrolment_transaction",
    metadata,
    Column("transaction_id", String, primary_key=True),
    Column("order_id", ForeignKey("sales_order.order_id"), nullable=False),
    Column("batch_id", ForeignKey("enrolment_batch.batch_id"), nullable=False),
    Column("request_type", String, nullable=False),
    Column("state", String, nullable=False),
    Column("cause", String),
    Column("created_at", BigInteger, nullable=False),
    Column("finished_at", BigInteger),
    CheckConstraint("request_type IN ('OR', 'RE', 'VD', 'OV')", name="request_type"),
    CheckConstraint("state IN ('open', 'complete', 'complete_with_errors', 'error')", name="state"),
    CheckConstraint("(state = 'open') = (finished_at IS NULL)", name="finished"),
    Index("uq_enrolment_transaction_open", "order_id", unique=True, sqlite_where=text("state = 'open'")),
    Index("ix_enrolment_transaction_order", "order_id", "created_at"),
    Index("ix_enrolment_transaction_batch", "batch_id"),
)

# What a transaction asked for each unit, and what became of it.
enrolment_device = Table(
    "enrolment_device",
    metadata,
    Column(
        "transaction_id",
        ForeignKey("enrolment_transaction.transaction_id", ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("group_id", String, primary_key=True),
    Column("serial", String, primary_key=True),
    Column("leaving", Boolean, nullable=False, server_default=text("0")),  # by not being named in an override
    Column("outcome", String),  # None: no answer yet
    Column("code", String),  # the provider's
    Column("message", String),  # the provider's
    Column("at", BigInteger),
    CheckConstraint("outcome IN ('done', 'failed')", name="outcome"),
    Index("ix_enrolment_device_serial", "serial", "group_id"),
)

# How a unit stands with a provider now. No row: none.
enrolment_state = Table(
    "enrolment_state",
    metadata,
    Column("group_id", String, primary_key=True),
    Column("serial", String, primary_key=True),
    Column("state", String, nullable=False),
    Column("provider_id", ForeignKey("enrolment_provider.provider_id"), nullable=False),
    Column("organisation", String, nullable=False),
    Column("order_id", ForeignKey("sales_order.order_id"), nullable=False),
    Column("cause", String),
    Column("changed_at", BigInteger, nullable=False),
    CheckConstraint(
        "state IN ('none', 'enrol_pending', 'enrol_sent', 'enrolled', 'enrol_failed', 'unenrol_pending',"
        " 'unenrol_sent', 'unenrolled', 'unenrol_failed')",
        name="state",
    ),
    Index("ix_enrolment_state_order", "order_id", "state"),
    Index("ix_enrolment_state_pending", "state", sqlite_where=text("state IN ('enrol_pending', 'unenrol_pending')")),
)

workflow_event = Table(
    "workflow_event",
    metadata,
    Column("seq", Integer, primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("kind", String, nullable=False),
    Column("order_id", String, nullable=False),
    Column("transaction_id", String),
    Column("notes", String, nullable=False, server_default=text("''")),
    Index("ix_workflow_event_order", "order_id"),
    sqlite_autoincrement=True,
)
