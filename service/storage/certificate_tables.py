"""The table of revoked certificates. The rules of tables.py hold; revocations.py reads and writes it."""

from __future__ import annotations

from sqlalchemy import BigInteger, CheckConstraint, Column, Index, LargeBinary, String, Table, text

from service.storage.tables import metadata

# A row from the drop of a credential with a certificate until that certificate has run out. Outlives the credential's row.
revoked_certificate = Table(
    "revoked_certificate",
    metadata,
    Column("environment", String, primary_key=True),  # whose CA has issued it
    Column("serial", String, primary_key=True),  # lower-case hex
    Column("spki_sha256", LargeBinary),  # None: taken over from a list that does not say it
    Column("expires_at", BigInteger, nullable=False),
    CheckConstraint("spki_sha256 IS NULL OR length(spki_sha256) = 32", name="spki_sha256"),
    Index("ix_revoked_certificate_expires", "expires_at"),
    Index("ix_revoked_certificate_spki", "spki_sha256", sqlite_where=text("spki_sha256 IS NOT NULL")),
)
