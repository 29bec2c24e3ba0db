"""Jobs, their schedules and runs, files taken, configuration, and who administers.

Revision 0010, after 0009. No existing table changes.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "admin_user",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("password_hash", sa.String(), nullable=False),
        sa.Column("failures", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("locked_until", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("disabled_at", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("role IN ('viewer', 'operator', 'admin')", name=op.f("ck_admin_user_role")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_admin_user")),
    )
    op.create_table(
        "config_entry",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("value", sa.String(), nullable=True),
        sa.Column("value_sealed", sa.LargeBinary(), nullable=True),
        sa.Column("changed_at", sa.BigInteger(), nullable=False),
        sa.Column("changed_by", sa.String(), nullable=False),
        sa.CheckConstraint("(value IS NULL) <> (value_sealed IS NULL)", name=op.f("ck_config_entry_one_value")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_config_entry")),
    )
    op.create_table(
        "job",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("enabled", sa.Boolean(), server_default=sa.text("0"), nullable=False),
        sa.Column("cron", sa.String(), nullable=True),
        sa.Column("next_due_at", sa.BigInteger(), nullable=True),
        sa.Column("run_wanted_at", sa.BigInteger(), nullable=True),
        sa.Column("run_wanted_by", sa.String(), nullable=True),
        sa.Column("changed_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("kind IN ('job', 'daemon')", name=op.f("ck_job_kind")),
        sa.CheckConstraint("(run_wanted_at IS NULL) = (run_wanted_by IS NULL)", name=op.f("ck_job_run_wanted")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_job")),
    )
    op.create_table(
        "taken_file",
        sa.Column("interface", sa.String(), nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("taken_at", sa.BigInteger(), nullable=False),
        sa.Column("outcome", sa.String(), nullable=False),
        sa.Column("report", sa.String(), server_default=sa.text("'{}'"), nullable=False),
        sa.CheckConstraint("outcome IN ('taken', 'done', 'failed')", name=op.f("ck_taken_file_outcome")),
        sa.CheckConstraint("length(sha256) = 32", name=op.f("ck_taken_file_sha256")),
        sa.PrimaryKeyConstraint("interface", "sha256", name=op.f("pk_taken_file")),
    )
    op.create_table(
        "admin_session",
        sa.Column("token_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("seen_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["name"], ["admin_user.name"], name=op.f("fk_admin_session_name"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("token_sha256", name=op.f("pk_admin_session")),
    )
    op.create_index("ix_admin_session_expires", "admin_session", ["expires_at"], unique=False)
    op.create_index("ix_admin_session_name", "admin_session", ["name"], unique=False)
    op.create_table(
        "job_run",
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("job", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("due_at", sa.BigInteger(), nullable=True),
        sa.Column("account", sa.String(), nullable=True),
        sa.Column("started_at", sa.BigInteger(), nullable=True),
        sa.Column("finished_at", sa.BigInteger(), nullable=True),
        sa.Column("result", sa.String(), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("cause", sa.String(), nullable=True),
        sa.Column("lease_owner", sa.String(), nullable=True),
        sa.Column("lease_expires_at", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("state IN ('running', 'done', 'failed', 'lost', 'missed')", name=op.f("ck_job_run_state")),
        sa.ForeignKeyConstraint(["job"], ["job.name"], name=op.f("fk_job_run_job")),
        sa.PrimaryKeyConstraint("run_id", name=op.f("pk_job_run")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_job_run_job", "job_run", ["job", "run_id"], unique=False)
    op.create_index("uq_job_run_running", "job_run", ["job"], unique=True, sqlite_where=sa.text("state = 'running'"))
