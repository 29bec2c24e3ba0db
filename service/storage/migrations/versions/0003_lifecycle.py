"""The life of a device after activation: moves, replacement, settings, targets, events, commands, accounts, labels.

Revision 0003, after 0002. Existing rows get the defaults: nothing is under way.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:  # noqa: PLR0915 - one statement for each table and column
    op.create_table(
        "account",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("ou", sa.String(), nullable=True),
        sa.Column("key_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("key_sealed", sa.LargeBinary(), nullable=False),
        sa.Column("environment", sa.String(), nullable=True),
        sa.Column("event_cursor", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("disabled_at", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("kind IN ('operator', 'integrator')", name=op.f("ck_account_kind")),
        sa.CheckConstraint("role IN ('viewer', 'operator', 'admin')", name=op.f("ck_account_role")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_account")),
    )
    op.create_table(
        "audit",
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("account", sa.String(), nullable=False),
        sa.Column("command_id", sa.String(), nullable=True),
        sa.Column("verb", sa.String(), nullable=False),
        sa.Column("selector", sa.String(), nullable=False),
        sa.Column("arguments", sa.String(), nullable=False),
        sa.Column("group_id", sa.String(), nullable=True),
        sa.Column("serial", sa.String(), nullable=True),
        sa.Column("before", sa.String(), nullable=True),
        sa.Column("after", sa.String(), nullable=True),
        sa.Column("outcome", sa.String(), nullable=False),
        sa.Column("cause", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_audit")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_audit_command", "audit", ["command_id"], unique=False)
    op.create_index("ix_audit_serial", "audit", ["serial", "group_id"], unique=False)
    op.create_table(
        "command",
        sa.Column("command_id", sa.String(), nullable=False),
        sa.Column("account", sa.String(), nullable=False),
        sa.Column("request_id", sa.String(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("verb", sa.String(), nullable=False),
        sa.Column("selector", sa.String(), nullable=False),
        sa.Column("arguments", sa.String(), nullable=False),
        sa.Column("secrets_sealed", sa.LargeBinary(), nullable=True),
        sa.Column("dry_run", sa.Boolean(), nullable=False),
        sa.Column("expected_rev", sa.BigInteger(), nullable=True),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("rate", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.Column("started_at", sa.BigInteger(), nullable=True),
        sa.Column("finished_at", sa.BigInteger(), nullable=True),
        sa.Column("cursor", sa.String(), server_default=sa.text("''"), nullable=False),
        sa.Column("total", sa.Integer(), nullable=True),
        sa.Column("done", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("changed", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("unchanged", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("refused", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("reply", sa.LargeBinary(), nullable=True),
        sa.Column("lease_owner", sa.String(), nullable=True),
        sa.Column("lease_expires_at", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(
            "state IN ('running', 'paused', 'cancelled', 'done', 'expired', 'failed')", name=op.f("ck_command_state")
        ),
        sa.PrimaryKeyConstraint("command_id", name=op.f("pk_command")),
        sa.UniqueConstraint("account", "request_id", name=op.f("uq_command_account_request_id")),
    )
    op.create_index(
        "ix_command_open", "command", ["created_at"], unique=False, sqlite_where=sa.text("state = 'running'")
    )
    op.create_table(
        "event",
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("group_id", sa.String(), nullable=False),
        sa.Column("serial", sa.String(), nullable=False),
        sa.Column("thing_id", sa.String(), nullable=True),
        sa.Column("ou", sa.String(), nullable=True),
        sa.Column("environment", sa.String(), nullable=True),
        sa.Column("command_id", sa.String(), nullable=True),
        sa.Column("data", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_event")),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_event_command", "event", ["command_id", "seq"], unique=False, sqlite_where=sa.text("command_id IS NOT NULL")
    )
    op.create_index("ix_event_serial", "event", ["serial", "group_id"], unique=False)
    op.create_table(
        "ou",
        sa.Column("path", sa.String(), nullable=False),
        sa.Column("environment", sa.String(), nullable=True),
        sa.Column("target_version_id", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("path", name=op.f("pk_ou")),
    )
    op.create_table(
        "command_outcome",
        sa.Column("command_id", sa.String(), nullable=False),
        sa.Column("device_id", sa.String(), nullable=False),
        sa.Column("group_id", sa.String(), nullable=False),
        sa.Column("serial", sa.String(), nullable=False),
        sa.Column("result", sa.String(), nullable=False),
        sa.Column("code", sa.String(), nullable=True),
        sa.Column("cause", sa.String(), nullable=True),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["command_id"], ["command.command_id"], name=op.f("fk_command_outcome_command_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("command_id", "device_id", name=op.f("pk_command_outcome")),
    )
    op.create_index("ix_command_outcome_result", "command_outcome", ["command_id", "result"], unique=False)
    op.create_table(
        "label",
        sa.Column("label_id", sa.String(), nullable=False),
        sa.Column("group_id", sa.String(), nullable=False),
        sa.Column("serial", sa.String(), nullable=False),
        sa.Column("batch", sa.String(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("used_at", sa.BigInteger(), nullable=True),
        sa.Column("used_by", sa.String(), nullable=True),
        sa.Column("used_command_id", sa.String(), nullable=True),
        sa.Column("cancelled_at", sa.BigInteger(), nullable=True),
        sa.Column("key_sealed", sa.LargeBinary(), nullable=True),
        sa.ForeignKeyConstraint(["group_id"], ["registration_group.group_id"], name=op.f("fk_label_group_id")),
        sa.PrimaryKeyConstraint("label_id", name=op.f("pk_label")),
    )
    op.create_index("ix_label_batch", "label", ["batch"], unique=False)
    op.create_index("ix_label_serial", "label", ["serial", "group_id"], unique=False)
    op.add_column("credential", sa.Column("rekey", sa.Boolean(), server_default=sa.text("0"), nullable=False))
    op.add_column("credential", sa.Column("renewed_from", sa.String(), nullable=True))
    op.add_column("device", sa.Column("batch", sa.String(), nullable=True))
    op.add_column("device", sa.Column("attributes", sa.String(), server_default=sa.text("'{}'"), nullable=False))
    op.add_column("device", sa.Column("frozen", sa.Boolean(), server_default=sa.text("0"), nullable=False))
    op.add_column("device", sa.Column("replaced_by", sa.String(), nullable=True))
    op.add_column("device", sa.Column("tries", sa.String(), server_default=sa.text("'{}'"), nullable=False))
    op.add_column("device", sa.Column("releases", sa.Integer(), server_default=sa.text("0"), nullable=False))
    op.add_column("device", sa.Column("clone_signs", sa.Integer(), server_default=sa.text("0"), nullable=False))
    op.add_column("device", sa.Column("clone_at", sa.BigInteger(), nullable=True))
    op.add_column("device", sa.Column("rekey", sa.Boolean(), server_default=sa.text("0"), nullable=False))
    op.add_column("device", sa.Column("fw_since", sa.BigInteger(), nullable=True))
    op.add_column("device", sa.Column("fw_notified", sa.Integer(), server_default=sa.text("0"), nullable=False))
    op.add_column("device", sa.Column("fw_deferred_until", sa.BigInteger(), nullable=True))
    op.add_column("device", sa.Column("fw_deferred_reason", sa.String(), nullable=True))
    op.create_index("ix_device_batch", "device", ["batch"], unique=False, sqlite_where=sa.text("batch IS NOT NULL"))
    op.create_index(
        "ix_device_firmware",
        "device",
        ["fw_since"],
        unique=False,
        sqlite_where=sa.text("fw_state IS NOT NULL AND fw_state <> 'confirmed'"),
    )
    op.create_index(
        "ix_device_replaced_by",
        "device",
        ["replaced_by"],
        unique=False,
        sqlite_where=sa.text("replaced_by IS NOT NULL"),
    )
    op.add_column("registration_group", sa.Column("target_version_id", sa.String(), nullable=True))
    op.add_column(
        "registration_group", sa.Column("move_method", sa.String(), server_default=sa.text("'migrate'"), nullable=False)
    )
    op.add_column(
        "registration_group", sa.Column("clone_policy", sa.String(), server_default=sa.text("'report'"), nullable=False)
    )
    op.add_column(
        "registration_group",
        sa.Column("template_settings", sa.String(), server_default=sa.text("'{}'"), nullable=False),
    )
    op.add_column("registration_group", sa.Column("credential_life_s", sa.Integer(), nullable=True))
    op.add_column("registration_group", sa.Column("serial_pattern", sa.String(), nullable=True))
    op.add_column("registration_group", sa.Column("quarantine_ou", sa.String(), nullable=True))
    op.add_column("registration_group", sa.Column("self_quota", sa.Integer(), nullable=True))
    op.add_column("registration_group", sa.Column("hook", sa.String(), nullable=True))
    op.add_column("registration_group", sa.Column("failover_environment", sa.String(), nullable=True))
    op.add_column("registration_group", sa.Column("failover_ou", sa.String(), nullable=True))
    op.add_column("registration_group", sa.Column("failover_after_s", sa.Integer(), nullable=True))
    op.add_column("release_key", sa.Column("retired_at", sa.BigInteger(), nullable=True))
    op.add_column("thing", sa.Column("attributes", sa.String(), server_default=sa.text("'{}'"), nullable=False))
    op.add_column("thing", sa.Column("settings", sa.String(), server_default=sa.text("'{}'"), nullable=False))
    op.add_column("thing", sa.Column("settings_rev", sa.BigInteger(), server_default=sa.text("0"), nullable=False))
    op.add_column(
        "thing", sa.Column("settings_reported_rev", sa.BigInteger(), server_default=sa.text("0"), nullable=False)
    )
    op.add_column("thing", sa.Column("settings_state", sa.String(), nullable=True))
    op.add_column("thing", sa.Column("rev", sa.BigInteger(), server_default=sa.text("0"), nullable=False))
    op.add_column("thing", sa.Column("target_version_id", sa.String(), nullable=True))
    op.add_column("thing", sa.Column("successor_deadline_at", sa.BigInteger(), nullable=True))
    op.add_column("thing", sa.Column("successor_command_id", sa.String(), nullable=True))
    op.add_column("thing", sa.Column("home_environment", sa.String(), nullable=True))
    op.add_column("thing", sa.Column("failover_at", sa.BigInteger(), nullable=True))
    op.add_column("thing", sa.Column("move_ou", sa.String(), nullable=True))
    op.add_column("thing", sa.Column("move_environment", sa.String(), nullable=True))
    op.add_column("thing", sa.Column("move_method", sa.String(), nullable=True))
    op.add_column("thing", sa.Column("move_started_at", sa.BigInteger(), nullable=True))
    op.add_column("thing", sa.Column("move_deadline_at", sa.BigInteger(), nullable=True))
    op.add_column("thing", sa.Column("move_command_id", sa.String(), nullable=True))
    op.add_column("thing", sa.Column("move_announced", sa.Boolean(), server_default=sa.text("0"), nullable=False))
    op.create_index(
        "ix_thing_move",
        "thing",
        ["move_deadline_at"],
        unique=False,
        sqlite_where=sa.text("move_deadline_at IS NOT NULL"),
    )
    op.create_index("ix_thing_ou", "thing", ["ou"], unique=False)
    op.create_index(
        "ix_thing_successor_deadline",
        "thing",
        ["successor_deadline_at"],
        unique=False,
        sqlite_where=sa.text("successor_deadline_at IS NOT NULL"),
    )
    op.execute("UPDATE device SET fw_since = fw_reported_at")  # their clocks begin with what they last said
