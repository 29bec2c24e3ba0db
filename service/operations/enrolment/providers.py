"""Enrolment providers: who they are, how they are reached, and whose files and requests are believed.

Owns their rows. A provider of adaptor `file` exchanges encrypted files with us; one of adaptor `dep` is asked over HTTPS
by the transformation daemon, which exchanges files with the other daemons. Of its token only the hash is stored.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from device_sdk.wire import ids
from service.credentials import cms
from service.errors import Secret, ServiceError
from service.operations.requests import bad_request, check_text, conflict, not_found
from service.storage.auditing import acting_for
from service.storage.database import Database
from service.storage.enrolment_tables import enrolment_provider
from service.storage.rows import from_ms, to_ms
from service.storage.sealing import Sealer, enrolment_provider_aad

TOKEN_BYTES = 32
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Adaptor(StrEnum):
    FILE = "file"  # it reads and writes the generic form itself
    DEP = "dep"  # it speaks JSON over HTTPS


@dataclass(frozen=True, slots=True)
class Provider:
    provider_id: str
    adaptor: Adaptor
    url: str | None
    account: str | None  # who we are there
    recipient_pem: str | None
    signer_pem: str | None
    has_secret: bool
    has_token: bool
    created_at: datetime
    disabled_at: datetime | None


async def create(
    database: Database,
    provider_id: str,
    adaptor: Adaptor,
    *,
    url: str | None = None,
    account: str | None = None,
    secret: Secret | None = None,
    recipient_pem: str | None = None,
    signer_pem: str | None = None,
    by: str,
    now: datetime,
) -> None:
    """Raises ServiceError BAD_REQUEST, CONFLICT."""
    if not ids.is_group_id(provider_id):
        raise bad_request("provider_id_illegal", "a provider's id is 1 to 64 of A-Z a-z 0-9 . _ -")
    _check(adaptor, url, account, recipient_pem, signer_pem, now)
    row = {
        "provider_id": provider_id,
        "adaptor": adaptor.value,
        "url": url,
        "account": account,
        "secret_sealed": _sealed(database.sealer, provider_id, secret),
        "recipient_pem": recipient_pem,
        "signer_pem": signer_pem,
        "created_at": to_ms(now),
    }
    with acting_for(by, "enrolment-provider-create"):
        async with database.write() as transaction:
            connection = transaction.connection
            if await _row(connection, provider_id) is not None:
                raise conflict("provider_exists", f"there is a provider {provider_id}")
            await connection.execute(insert(enrolment_provider), [row])


async def change(
    database: Database,
    provider_id: str,
    *,
    url: str | None = None,
    account: str | None = None,
    secret: Secret | None = None,
    recipient_pem: str | None = None,
    signer_pem: str | None = None,
    by: str,
    now: datetime,
) -> None:
    """What is given replaces what was; the rest stays, and so does the adaptor. Raises NOT_FOUND, BAD_REQUEST."""
    given = {"url": url, "account": account, "recipient_pem": recipient_pem, "signer_pem": signer_pem}
    values: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if not values and secret is None:
        raise bad_request("provider_incomplete", "say what is to change")
    with acting_for(by, "enrolment-provider-set"):
        async with database.write() as transaction:
            connection = transaction.connection
            row = await _row(connection, provider_id)
            if row is None:
                raise _unknown(provider_id)
            # 1. What is given is good in itself; a certificate of before may have run out, and is to be exchanged.
            _check_given(url, account, recipient_pem, signer_pem, now)
            # 2. Sealed only now, when there is such a provider.
            if secret is not None:
                values["secret_sealed"] = _sealed(database.sealer, provider_id, secret)
            of = enrolment_provider.c.provider_id == provider_id
            await connection.execute(update(enrolment_provider).where(of).values(**values))


async def rotate_token(
    database: Database,
    provider_id: str,
    *,
    by: str,
    random_bytes: Callable[[int], bytes],
) -> Secret:
    """A token that the provider signs in with here, shown this once; the one before it is dead. Raises NOT_FOUND."""
    token = Secret(random_bytes(TOKEN_BYTES).hex().encode("ascii"))
    await _change(database, provider_id, "token", by, token_sha256=hashlib.sha256(token.reveal()).digest())
    return token


async def set_enabled(database: Database, provider_id: str, *, enabled: bool, by: str, now: datetime) -> None:
    """A disabled one is asked nothing, and nothing is taken from it. Raises NOT_FOUND."""
    word = "enable" if enabled else "disable"
    await _change(database, provider_id, word, by, disabled_at=None if enabled else to_ms(now))


async def list_all(database: Database) -> list[Provider]:
    async with database.read() as connection:
        query = select(enrolment_provider).order_by(enrolment_provider.c.provider_id)
        return [_provider_of(row) for row in await connection.execute(query)]


async def live(database: Database) -> dict[str, Provider]:
    """Every provider that is not disabled, by its id."""
    return {one.provider_id: one for one in await list_all(database) if one.disabled_at is None}


async def get(database: Database, provider_id: str) -> Provider:
    """Raises ServiceError NOT_FOUND."""
    async with database.read() as connection:
        row = await _row(connection, provider_id)
    if row is None:
        raise _unknown(provider_id)
    return _provider_of(row)


async def secret_of(database: Database, provider_id: str) -> Secret | None:
    """What we sign in with there."""
    async with database.read() as connection:
        row = await _row(connection, provider_id)
    if row is None or row.secret_sealed is None:
        return None
    return Secret(database.sealer.open(row.secret_sealed, enrolment_provider_aad(provider_id)))


async def of_token(database: Database, token: str) -> Provider:
    """Who signs in with this token. Raises ServiceError REFUSED: nobody, or a disabled one."""
    digest = hashlib.sha256(token.encode("utf-8", "replace")).digest()
    async with database.read() as connection:
        found = (
            await connection.execute(select(enrolment_provider).where(enrolment_provider.c.token_sha256 == digest))
        ).first()
    # The look-up is by hash of a random token, so its time says nothing; compared once more all the same.
    if found is None or found.disabled_at is not None or not hmac.compare_digest(found.token_sha256, digest):
        raise ServiceError("REFUSED", "refused", cause="provider_token_wrong")
    return _provider_of(found)


def _check(
    adaptor: Adaptor,
    url: str | None,
    account: str | None,
    recipient_pem: str | None,
    signer_pem: str | None,
    now: datetime,
) -> None:
    if adaptor is Adaptor.DEP and (url is None or account is None):
        raise bad_request("provider_incomplete", "a provider of adaptor dep needs url and account")
    if adaptor is Adaptor.FILE and (recipient_pem is None or signer_pem is None):
        raise bad_request("provider_incomplete", "a provider of adaptor file needs the certificates of both directions")
    _check_given(url, account, recipient_pem, signer_pem, now)


def _check_given(
    url: str | None, account: str | None, recipient_pem: str | None, signer_pem: str | None, now: datetime
) -> None:
    if account is not None:
        check_text("the account", account)
    if url is not None:
        check_url(url)
    try:
        if recipient_pem is not None:
            cms.check_recipient(cms.load_certificate(recipient_pem))
        if signer_pem is not None:
            cms.check_signer(cms.load_certificate(signer_pem), now)
    except cms.CmsError as error:
        raise bad_request(error.cause, str(error)) from error


def check_url(url: str) -> None:
    """Raise ServiceError unless it is https, or http to this very machine, without a login in it."""
    try:
        parts = urlsplit(url)
        good = bool(parts.hostname) and (parts.port or 1) > 0 and "@" not in parts.netloc and not parts.query
    except ValueError:
        good = False
    good = good and url.isascii() and url.isprintable() and " " not in url
    if not good or not (parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)):
        raise bad_request("url_illegal", "a provider's url is https://..., without login and query")


async def _change(database: Database, provider_id: str, word: str, by: str, **values: Any) -> None:
    statement = update(enrolment_provider).where(enrolment_provider.c.provider_id == provider_id).values(**values)
    with acting_for(by, f"enrolment-provider-{word}"):
        async with database.write() as transaction:
            if not (await transaction.connection.execute(statement)).rowcount:
                raise _unknown(provider_id)


def _unknown(provider_id: str) -> ServiceError:
    return not_found("provider_unknown", f"no provider {provider_id[:64]!r}")


async def _row(connection: AsyncConnection, provider_id: str) -> Any:
    query = select(enrolment_provider).where(enrolment_provider.c.provider_id == provider_id)
    return (await connection.execute(query)).first()


def _sealed(sealer: Sealer, provider_id: str, secret: Secret | None) -> bytes | None:
    return None if secret is None else sealer.seal(secret.reveal(), enrolment_provider_aad(provider_id))


def _provider_of(row: Any) -> Provider:
    created_at = from_ms(row.created_at)
    assert created_at is not None
    return Provider(
        row.provider_id,
        Adaptor(row.adaptor),
        row.url,
        row.account,
        row.recipient_pem,
        row.signer_pem,
        row.secret_sealed is not None,
        row.token_sha256 is not None,
        created_at,
        from_ms(row.disabled_at),
    )
