"""Who signs in at the administration pages: names, roles, passwords and sessions.

Owns their rows. Passwords are kept as argon2id, sessions as SHA-256 of a random token of 256 bits. Wrong passwords lock a
name for longer and longer, up to 15 minutes and never for good. Hashing blocks for a tenth of a second and takes 64 MiB;
it runs in threads, two at a time.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy import delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from service.errors import Secret, ServiceError
from service.operations.notes import note
from service.operations.requests import bad_request, conflict, not_found
from service.operations.verbs.verb import Role
from service.storage.auditing import acting_for
from service.storage.database import Database
from service.storage.job_tables import admin_session, admin_user
from service.storage.rows import from_ms, to_ms

MIN_PASSWORD_CHARS, MAX_PASSWORD_CHARS = 12, 256
IDLE = timedelta(minutes=30)
LIFE = timedelta(hours=12)
SEEN_EVERY = timedelta(minutes=1)  # a page writes that it was asked for, at most this often
FREE_TRIES = 5
FIRST_LOCK, LONGEST_LOCK = timedelta(seconds=30), timedelta(minutes=15)
TOKEN_BYTES = 32
_NAME = re.compile(r"[a-z0-9-]{1,32}\Z")
_hasher = PasswordHasher()  # argon2id; the library's parameters are those of RFC 9106 for little memory
# Who is not there costs the same work: the hash of a password that nobody has.
_NOBODY = "$argon2id$v=19$m=65536,t=3,p=4$IyzUl8nZ2CGExwI8nZoWdA$fkvoEP8fAlnDGqm5vh7pMkJwBpSAFWbsiVr0It07oKs"
_hashing = ThreadPoolExecutor(2, thread_name_prefix="argon2")


@dataclass(frozen=True, slots=True)
class Administrator:
    name: str
    role: Role
    created_at: datetime | None
    disabled_at: datetime | None
    locked_until: datetime | None


@dataclass(frozen=True, slots=True)
class Session:
    """Who asks. `csrf` belongs to this session only and stands in its forms."""

    name: str
    role: Role
    csrf: str

    def check(self, needed: Role) -> None:
        """Raise ServiceError FORBIDDEN unless the role suffices."""
        if not self.role.may(needed):
            raise ServiceError("FORBIDDEN", f"this needs the role {needed.value}", cause="role_too_low")

    def check_form(self, token: str) -> None:
        """Raise ServiceError FORBIDDEN unless the form is one of this session's."""
        if not hmac.compare_digest(self.csrf.encode(), token.encode("utf-8", "replace")):
            raise ServiceError("FORBIDDEN", "that form is not of this session; open the page again", cause="csrf")


async def create(database: Database, name: str, role: Role, password: Secret, *, by: str, now: datetime) -> None:
    """Raises ServiceError BAD_REQUEST, CONFLICT."""
    if not _NAME.match(name):
        raise bad_request("admin_name_illegal", "a name is 1 to 32 of a-z 0-9 -")
    hashed = await _hash(password)
    with acting_for(by, "admin-create"):
        async with database.write() as transaction:
            connection = transaction.connection
            if await _row(connection, name) is not None:
                raise conflict("admin_exists", f"there is an administrator {name}")
            row = {"name": name, "role": role.value, "password_hash": hashed, "created_at": to_ms(now)}
            await connection.execute(insert(admin_user), [row])


async def set_password(database: Database, name: str, password: Secret, *, by: str) -> None:
    """Its sessions end, and so does a lock. Raises ServiceError NOT_FOUND, BAD_REQUEST."""
    hashed = await _hash(password)
    await _change(database, name, "password", by, password_hash=hashed, failures=0, locked_until=None)


async def set_enabled(database: Database, name: str, *, enabled: bool, by: str, now: datetime) -> None:
    """Its sessions end. Raises ServiceError NOT_FOUND."""
    word = "enable" if enabled else "disable"
    await _change(database, name, word, by, disabled_at=None if enabled else to_ms(now))


async def list_all(database: Database) -> list[Administrator]:
    async with database.read() as connection:
        return [
            Administrator(
                row.name, Role(row.role), from_ms(row.created_at), from_ms(row.disabled_at), from_ms(row.locked_until)
            )
            for row in await connection.execute(select(admin_user).order_by(admin_user.c.name))
        ]


async def sign_in(
    database: Database, name: str, password: Secret, *, now: datetime, random_bytes: Callable[[int], bytes]
) -> Secret:
    """A new session's token. Raises ServiceError REFUSED, in the same words and after the same work for every reason."""
    async with database.read() as connection:
        row = await _row(connection, name)
    locked = row is not None and (row.locked_until or 0) > (to_ms(now) or 0)
    known = row is not None and row.disabled_at is None
    right = await _verify(row.password_hash if known else _NOBODY, password)
    if not (right and known) or locked:
        if known and not locked:
            await _note_failure(database, name, now)
        raise ServiceError("REFUSED", "wrong name or password, or locked for a while", cause="admin_refused")
    token = Secret(random_bytes(TOKEN_BYTES).hex().encode("ascii"))
    async with database.write(audit=False) as transaction:
        connection = transaction.connection
        await connection.execute(
            update(admin_user).where(admin_user.c.name == name).values(failures=0, locked_until=None)
        )
        await connection.execute(delete(admin_session).where(admin_session.c.expires_at < to_ms(now)))
        session = {
            "token_sha256": _digest(token.reveal()),
            "name": name,
            "created_at": to_ms(now),
            "seen_at": to_ms(now),
            "expires_at": to_ms(now + LIFE),
        }
        await connection.execute(insert(admin_session), [session])
        await note(connection, name, "admin-sign-in", {}, now, outcome="accepted")
    return token


async def session_of(database: Database, token: str, now: datetime) -> Session:
    """Raises ServiceError REFUSED: none, lapsed, or its bearer is locked out."""
    digest = _digest(token.encode("utf-8", "replace"))
    of = admin_session.c
    query = (
        select(of.name, of.seen_at, of.expires_at, admin_user.c.role, admin_user.c.disabled_at)
        .join(admin_user, admin_user.c.name == of.name)
        .where(of.token_sha256 == digest)
    )
    async with database.read() as connection:
        row = (await connection.execute(query)).first()
    at = to_ms(now) or 0
    if row is None or row.disabled_at is not None or row.expires_at <= at or row.seen_at + _ms(IDLE) <= at:
        raise ServiceError("REFUSED", "sign in", cause="admin_session")
    if row.seen_at + _ms(SEEN_EVERY) <= at:
        async with database.write() as transaction:
            await transaction.connection.execute(
                update(admin_session).where(of.token_sha256 == digest).values(seen_at=at)
            )
    csrf = hmac.digest(token.encode("utf-8", "replace"), b"firstlight admin form", "sha256").hex()
    return Session(row.name, Role(row.role), csrf)


async def sign_out(database: Database, token: str) -> None:
    digest = _digest(token.encode("utf-8", "replace"))
    async with database.write() as transaction:
        await transaction.connection.execute(delete(admin_session).where(admin_session.c.token_sha256 == digest))


async def _note_failure(database: Database, name: str, now: datetime) -> None:
    async with database.write(audit=False) as transaction:
        connection = transaction.connection
        row = await _row(connection, name)
        if row is None:
            return
        failures = row.failures + 1
        lock = None
        if failures >= FREE_TRIES:
            lock = to_ms(now + min(LONGEST_LOCK, FIRST_LOCK * 2 ** min(failures - FREE_TRIES, 10)))
        await connection.execute(
            update(admin_user).where(admin_user.c.name == name).values(failures=failures, locked_until=lock)
        )
        await note(connection, name, "admin-sign-in", {}, now, outcome="refused")


async def _change(database: Database, name: str, word: str, by: str, **values: Any) -> None:
    with acting_for(by, f"admin-{word}"):
        async with database.write() as transaction:
            connection = transaction.connection
            if await _row(connection, name) is None:
                raise not_found("admin_unknown", f"no administrator {name[:64]!r}")
            await connection.execute(update(admin_user).where(admin_user.c.name == name).values(**values))
            await connection.execute(delete(admin_session).where(admin_session.c.name == name))


async def _hash(password: Secret) -> str:
    text = password.reveal().decode("utf-8", "replace")
    if not MIN_PASSWORD_CHARS <= len(text) <= MAX_PASSWORD_CHARS:
        raise bad_request("password_short", f"a password has {MIN_PASSWORD_CHARS} to {MAX_PASSWORD_CHARS} characters")
    return await asyncio.get_running_loop().run_in_executor(_hashing, _hasher.hash, text)


async def _verify(hashed: str, password: Secret) -> bool:
    def work() -> bool:
        try:
            return _hasher.verify(hashed, password.reveal().decode("utf-8", "replace")[: MAX_PASSWORD_CHARS + 1])
        except (VerificationError, InvalidHashError):
            return False

    return await asyncio.get_running_loop().run_in_executor(_hashing, work)


async def _row(connection: AsyncConnection, name: str) -> Any:
    return (await connection.execute(select(admin_user).where(admin_user.c.name == name))).first()


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


def _ms(span: timedelta) -> int:
    return int(span.total_seconds() * 1000)
