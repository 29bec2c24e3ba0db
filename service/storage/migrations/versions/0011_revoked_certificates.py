"""Certificates that are refused although their credential's row is gone.

Revision 0011, after 0010. No existing table changes. Dropped credentials that are still kept are entered; those that a
broker's list alone remembers are taken over from it at its next rendering (storage/revocations.py).
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "revoked_certificate",
        sa.Column("environment", sa.String(), nullable=False),
        sa.Column("serial", sa.String(), nullable=False),
        sa.Column("spki_sha256", sa.LargeBinary(), nullable=True),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "spki_sha256 IS NULL OR length(spki_sha256) = 32", name=op.f("ck_revoked_certificate_spki_sha256")
        ),
        sa.PrimaryKeyConstraint("environment", "serial", name=op.f("pk_revoked_certificate")),
    )
    op.create_index("ix_revoked_certificate_expires", "revoked_certificate", ["expires_at"], unique=False)
    op.create_index(
        "ix_revoked_certificate_spki",
        "revoked_certificate",
        ["spki_sha256"],
        unique=False,
        sqlite_where=sa.text("spki_sha256 IS NOT NULL"),
    )
    op.execute(
        "INSERT INTO revoked_certificate (environment, serial, spki_sha256, expires_at) "
        "SELECT environment, certificate_serial, spki_sha256, "
        "coalesce(certificate_expires_at, dropped_at + 31622400000) "  # 366 days
        "FROM credential WHERE state = 'dropped' AND certificate_serial IS NOT NULL"
    )
