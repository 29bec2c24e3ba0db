"""Device enrolment with external providers.

Revision 0009, after 0008. No existing table changes.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "enrolment_provider",
        sa.Column("provider_id", sa.String(), nullable=False),
        sa.Column("adaptor", sa.String(), nullable=False),
        sa.Column("url", sa.String(), nullable=True),
        sa.Column("account", sa.String(), nullable=True),
        sa.Column("secret_sealed", sa.LargeBinary(), nullable=True),
        sa.Column("token_sha256", sa.LargeBinary(), nullable=True),
        sa.Column("recipient_pem", sa.String(), nullable=True),
        sa.Column("signer_pem", sa.String(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("disabled_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("provider_id", name=op.f("pk_enrolment_provider")),
        sa.UniqueConstraint("token_sha256", name=op.f("uq_enrolment_provider_token_sha256")),
    )
    op.create_table(
        "workflow_event",
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("order_id", sa.String(), nullable=False),
        sa.Column("transaction_id", sa.String(), nullable=True),
        sa.Column("notes", sa.String(), server_default=sa.text("''"), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_workflow_event")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_workflow_event_order", "workflow_event", ["order_id"], unique=False)
    op.create_table(
        "enrolment_batch",
        sa.Column("batch_id", sa.String(), nullable=False),
        sa.Column("direction", sa.String(), nullable=False),
        sa.Column("provider_id", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("record_count", sa.Integer(), nullable=False),
        sa.Column("document_sealed", sa.LargeBinary(), nullable=False),
        sa.Column("file_name", sa.String(), nullable=True),
        sa.Column("reference", sa.String(), nullable=True),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("next_at", sa.BigInteger(), nullable=True),
        sa.Column("cause", sa.String(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("changed_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("direction IN ('request', 'response')", name=op.f("ck_enrolment_batch_direction")),
        sa.CheckConstraint(
            "state IN ('prepared', 'extracted', 'sent', 'loaded', 'done', 'failed')",
            name=op.f("ck_enrolment_batch_state"),
        ),
        sa.ForeignKeyConstraint(
            ["provider_id"], ["enrolment_provider.provider_id"], name=op.f("fk_enrolment_batch_provider_id")
        ),
        sa.PrimaryKeyConstraint("batch_id", name=op.f("pk_enrolment_batch")),
    )
    op.create_index(
        "ix_enrolment_batch_open",
        "enrolment_batch",
        ["direction", "state"],
        unique=False,
        sqlite_where=sa.text("state NOT IN ('done', 'failed')"),
    )
    op.create_index(
        "ix_enrolment_batch_reference",
        "enrolment_batch",
        ["provider_id", "reference"],
        unique=False,
        sqlite_where=sa.text("reference IS NOT NULL"),
    )
    op.create_table(
        "enrolment_state",
        sa.Column("group_id", sa.String(), nullable=False),
        sa.Column("serial", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("provider_id", sa.String(), nullable=False),
        sa.Column("organisation", sa.String(), nullable=False),
        sa.Column("order_id", sa.String(), nullable=False),
        sa.Column("cause", sa.String(), nullable=True),
        sa.Column("changed_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "state IN ('none', 'enrol_pending', 'enrol_sent', 'enrolled', 'enrol_failed', 'unenrol_pending', 'unenrol_sent', 'unenrolled', 'unenrol_failed')",
            name=op.f("ck_enrolment_state_state"),
        ),
        sa.ForeignKeyConstraint(["order_id"], ["sales_order.order_id"], name=op.f("fk_enrolment_state_order_id")),
        sa.ForeignKeyConstraint(
            ["provider_id"], ["enrolment_provider.provider_id"], name=op.f("fk_enrolment_state_provider_id")
        ),
        sa.PrimaryKeyConstraint("group_id", "serial", name=op.f("pk_enrolment_state")),
    )
    op.create_index("ix_enrolment_state_order", "enrolment_state", ["order_id", "state"], unique=False)
    op.create_index(
        "ix_enrolment_state_pending",
        "enrolment_state",
        ["state"],
        unique=False,
        sqlite_where=sa.text("state IN ('enrol_pending', 'unenrol_pending')"),
    )
    op.create_table(
        "enrolment_transaction",
        sa.Column("transaction_id", sa.String(), nullable=False),
        sa.Column("order_id", sa.String(), nullable=False),
        sa.Column("batch_id", sa.String(), nullable=False),
        sa.Column("request_type", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("cause", sa.String(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("finished_at", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("(state = 'open') = (finished_at IS NULL)", name=op.f("ck_enrolment_transaction_finished")),
        sa.CheckConstraint(
            "request_type IN ('OR', 'RE', 'VD', 'OV')", name=op.f("ck_enrolment_transaction_request_type")
        ),
        sa.CheckConstraint(
            "state IN ('open', 'complete', 'complete_with_errors', 'error')",
            name=op.f("ck_enrolment_transaction_state"),
        ),
        sa.ForeignKeyConstraint(
            ["batch_id"], ["enrolment_batch.batch_id"], name=op.f("fk_enrolment_transaction_batch_id")
        ),
        sa.ForeignKeyConstraint(["order_id"], ["sales_order.order_id"], name=op.f("fk_enrolment_transaction_order_id")),
        sa.PrimaryKeyConstraint("transaction_id", name=op.f("pk_enrolment_transaction")),
    )
    op.create_index("ix_enrolment_transaction_batch", "enrolment_transaction", ["batch_id"], unique=False)
    op.create_index("ix_enrolment_transaction_order", "enrolment_transaction", ["order_id", "created_at"], unique=False)
    op.create_index(
        "uq_enrolment_transaction_open",
        "enrolment_transaction",
        ["order_id"],
        unique=True,
        sqlite_where=sa.text("state = 'open'"),
    )
    op.create_table(
        "enrolment_device",
        sa.Column("transaction_id", sa.String(), nullable=False),
        sa.Column("group_id", sa.String(), nullable=False),
        sa.Column("serial", sa.String(), nullable=False),
        sa.Column("leaving", sa.Boolean(), server_default=sa.text("0"), nullable=False),
        sa.Column("outcome", sa.String(), nullable=True),
        sa.Column("code", sa.String(), nullable=True),
        sa.Column("message", sa.String(), nullable=True),
        sa.Column("at", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("outcome IN ('done', 'failed')", name=op.f("ck_enrolment_device_outcome")),
        sa.ForeignKeyConstraint(
            ["transaction_id"],
            ["enrolment_transaction.transaction_id"],
            name=op.f("fk_enrolment_device_transaction_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("transaction_id", "group_id", "serial", name=op.f("pk_enrolment_device")),
    )
    op.create_index("ix_enrolment_device_serial", "enrolment_device", ["serial", "group_id"], unique=False)
