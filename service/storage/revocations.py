"""Revoked certificates: what a broker's revocation list is made from.

Owns the rows from the drop of a credential, in the transaction that drops it (store.py), until the certificate has run
out. A list of a broker is a cache of them. Decides nothing about who is revoked.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from datetime import datetime, timedelta

from sqlalchemy import and_, delete, select
from sqlalchemy.dialects.sqlite import insert as upsert

from service.domain.credential import Credential, CredentialState
from service.storage.certificate_tables import revoked_certificate
from service.storage.database import Database
from service.storage.rows import Row, to_ms
from service.storage.tables import credential, meta

LONGEST_LIFE = timedelta(days=366)  # of a certificate that a list names and no row knows
KEPT = timedelta(days=1)  # beyond the end of a certificate's life: clocks differ
AT_ONCE = 500
_TAKEN_OVER = "revocation_list_taken_over"  # a name in `meta`, with the environment

INSERT = upsert(revoked_certificate).on_conflict_do_nothing()
SPKI = select(revoked_certificate.c.spki_sha256)


def rows_of(before: Iterable[Credential], after: Iterable[Credential]) -> list[Row]:
    """A row for each certificate of a credential that is dropped by this change."""
    states = {one.credential_id: one.state for one in before}
    return [
        _row(one.environment, one.certificate_serial, one.spki_sha256, _end_of(one))
        for one in after
        if one.state is CredentialState.DROPPED
        and one.certificate_serial is not None
        and states.get(one.credential_id) is not CredentialState.DROPPED
    ]


class Revocations:
    """Those of one environment. Every method may raise ServiceError UNAVAILABLE."""

    def __init__(self, database: Database, environment: str, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._environment = environment
        self._clock = clock
        self._taken_over = False

    async def serials(self) -> frozenset[int]:
        """Serial numbers of all revoked certificates that have not run out."""
        of = revoked_certificate.c
        query = select(of.serial).where(of.environment == self._environment, of.expires_at > to_ms(self._clock()))
        async with self._database.read() as connection:
            return frozenset(int(serial, 16) for serial in (await connection.execute(query)).scalars())

    async def add(self, serial: int, spki_sha256: bytes | None, expires_at: datetime) -> None:
        """One that has no credential: a canary's."""
        async with self._database.write(audit=False) as transaction:
            row = _row(self._environment, f"{serial:x}", spki_sha256, expires_at)
            await transaction.connection.execute(INSERT, [row])

    async def take_over(self, serials: Collection[int]) -> bool:
        """Once in the life of an environment: enter what a list from before this table refuses; True at that one time.

        A certificate that is in use is left out: a list of a database that was restored says nothing about it.
        """
        name = f"{_TAKEN_OVER} {self._environment}"
        done = select(meta.c.value).where(meta.c.name == name)
        if not self._taken_over:
            async with self._database.read() as connection:
                self._taken_over = (await connection.execute(done)).first() is not None
        if self._taken_over:
            return False
        async with self._database.write(audit=False) as transaction:
            connection = transaction.connection
            if (await connection.execute(done)).first() is not None:
                transaction.abandon()
                return False
            expires_at = self._clock() + LONGEST_LIFE
            asked = [f"{serial:x}" for serial in sorted(serials)]
            for start in range(0, len(asked), AT_ONCE):
                some = asked[start : start + AT_ONCE]
                in_use = select(credential.c.certificate_serial).where(
                    and_(credential.c.certificate_serial.in_(some), credential.c.state != CredentialState.DROPPED.value)
                )
                alive = set((await connection.execute(in_use)).scalars())
                new = [_row(self._environment, one, None, expires_at) for one in some if one not in alive]
                if new:
                    await connection.execute(INSERT, new)
            await connection.execute(meta.insert().values(name=name, value=1))
            return True


async def prune(database: Database, now: datetime, *, limit: int) -> int:
    """Delete rows of certificates that have run out; returns how many, at most `limit`."""
    of = revoked_certificate.c
    old = select(of.environment, of.serial).where(of.expires_at < to_ms(now - KEPT)).limit(limit)
    async with database.write(audit=False) as transaction:
        connection = transaction.connection
        found = [tuple(row) for row in await connection.execute(old)]
        for environment, serial in found:
            await connection.execute(
                delete(revoked_certificate).where(of.environment == environment, of.serial == serial)
            )
        if not found:
            transaction.abandon()
        return len(found)


def _row(environment: str, serial: str, spki_sha256: bytes | None, expires_at: datetime) -> Row:
    return {
        "environment": environment,
        "serial": serial,
        "spki_sha256": spki_sha256,
        "expires_at": to_ms(expires_at),
    }


def _end_of(one: Credential) -> datetime:
    return one.certificate_expires_at or (one.dropped_at or one.created_at) + LONGEST_LIFE
