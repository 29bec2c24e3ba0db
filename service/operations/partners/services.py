"""Partner services: who they are, from where they may ask, and their users.

Owns the rows of services, addresses and users, and the check of a token. Of a token only its hash is kept; it is shown
once. A service without addresses may ask from nowhere.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from sqlalchemy import Row, delete, insert, select, update
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from service.domain.group import KeyKind
from service.errors import Secret, ServiceError
from service.operations.partners.answers import Code, PartnerError, TokenError, required
from service.operations.requests import bad_request, conflict, not_found
from service.storage.box_tables import partner_address, partner_service, partner_user
from service.storage.database import Database
from service.storage.rows import from_ms, to_ms
from service.storage.tables import registration_group

TOKEN_BYTES = 32
MAX_ADDRESSES = 100
MAX_EMAIL_CHARS = 254
MAX_KEYS = 8
_NAME = re.compile(r"[a-z0-9-]{1,32}\Z")
_EMAIL = re.compile(r"[^@\s\x00-\x1f\x7f]{1,64}@[^@\s.\x00-\x1f\x7f]+(\.[^@\s.\x00-\x1f\x7f]+)+\Z")


@dataclass(frozen=True, slots=True)
class PartnerService:
    name: str
    group_id: str  # where its boxes register: a group of key kind public_key
    min_keys: int  # how many public keys `link_user` must bring, at least
    created_at: datetime
    rotated_at: datetime | None
    disabled_at: datetime | None
    addresses: tuple[str, ...] = ()  # networks, as 192.0.2.0/24 or 2001:db8::1/128


@dataclass(frozen=True, slots=True)
class User:
    user_id: int
    email: str


async def create(
    database: Database,
    name: str,
    group_id: str,
    *,
    min_keys: int = MAX_KEYS,
    now: datetime,
    random_bytes: Callable[[int], bytes],
) -> Secret:
    """Make a service; returns its token, which is shown this once. Raises ServiceError."""
    if not _NAME.match(name):
        raise bad_request("partner_name_illegal", "a partner service's name is 1 to 32 of a-z 0-9 -", name[:64])
    if not 1 <= min_keys <= MAX_KEYS:
        raise bad_request("partner_keys_illegal", f"a box has 1 to {MAX_KEYS} public keys")
    token = _new_token(random_bytes)
    async with database.write() as transaction:
        connection = transaction.connection
        kind = select(registration_group.c.key_kind).where(registration_group.c.group_id == group_id)
        found = (await connection.execute(kind)).scalar()
        if found is None:
            raise not_found("group_unknown", f"no group {group_id[:64]}")
        if found != KeyKind.PUBLIC_KEY.value:
            raise bad_request("partner_group_kind", "boxes prove public keys: make a group of key kind public_key")
        if await _row(connection, name) is not None:
            raise conflict("partner_exists", f"there is a partner service {name}")
        row = {
            "name": name,
            "token_sha256": _hash(token.reveal()),
            "group_id": group_id,
            "min_keys": min_keys,
            "created_at": to_ms(now),
        }
        await connection.execute(insert(partner_service), [row])
    return token


async def rotate(database: Database, name: str, *, now: datetime, random_bytes: Callable[[int], bytes]) -> Secret:
    """A new token in place of the old one, which is dead at once. Raises ServiceError NOT_FOUND."""
    token = _new_token(random_bytes)
    await _change(database, name, token_sha256=_hash(token.reveal()), rotated_at=to_ms(now))
    return token


async def disable(database: Database, name: str, *, now: datetime) -> None:
    """Raises ServiceError NOT_FOUND."""
    await _change(database, name, disabled_at=to_ms(now))


async def enable(database: Database, name: str) -> None:
    """Raises ServiceError NOT_FOUND."""
    await _change(database, name, disabled_at=None)


async def allow_address(database: Database, name: str, network: str, *, now: datetime) -> str:
    """Let a service ask from there; the network as it is kept. Raises ServiceError."""
    kept = str(_network(network))
    async with database.write() as transaction:
        connection = transaction.connection
        if await _row(connection, name) is None:
            raise _unknown(name)
        count = len(await _addresses(connection, name))
        if count >= MAX_ADDRESSES:
            raise bad_request("partner_addresses_full", f"a partner service has at most {MAX_ADDRESSES} addresses")
        row = {"service": name, "network": kept, "added_at": to_ms(now)}
        await connection.execute(upsert(partner_address).on_conflict_do_nothing(), [row])
    return kept


async def forbid_address(database: Database, name: str, network: str) -> None:
    """Raises ServiceError NOT_FOUND where it was not allowed."""
    kept = str(_network(network))
    of = partner_address.c
    async with database.write() as transaction:
        gone = await transaction.connection.execute(
            delete(partner_address).where(of.service == name, of.network == kept)
        )
        if not gone.rowcount:
            raise not_found("partner_address_unknown", f"{name} has no address {kept}")


async def list_all(database: Database) -> list[PartnerService]:
    async with database.read() as connection:
        found = (await connection.execute(select(partner_service).order_by(partner_service.c.name))).all()
        return [_service_of(row, await _addresses(connection, row.name)) for row in found]


async def find(database: Database, name: str) -> PartnerService:
    """Raises ServiceError NOT_FOUND."""
    async with database.read() as connection:
        row = await _row(connection, name)
        if row is None:
            raise _unknown(name)
        return _service_of(row, await _addresses(connection, name))


async def admit(database: Database, token: str | None, address: str) -> PartnerService:
    """Whose token this is. In this order: no token, a wrong one, a right one from elsewhere.

    Raises PartnerError REQUIRED, TokenError, PartnerError ADDRESS_LOCKED.
    """
    # 1. There must be one.
    if not token:
        raise required("service_token")
    # 2. It must be somebody's. The index is over hashes, so what is compared says nothing of a token.
    hashed = _hash(token.encode("utf-8", "surrogatepass"))
    of = partner_service.c
    async with database.read() as connection:
        row = (await connection.execute(select(partner_service).where(of.token_sha256 == hashed))).one_or_none()
        if row is None or not hmac.compare_digest(row.token_sha256, hashed) or row.disabled_at is not None:
            raise TokenError
        addresses = await _addresses(connection, row.name)
    # 3. It must come from where that service is.
    if not any(_is_in(address, network) for network in addresses):
        raise PartnerError(Code.ADDRESS_LOCKED, "Access to this resource is locked to IP addresses")
    return _service_of(row, addresses)


async def add_user(database: Database, service: str, email: str | None, *, now: datetime) -> User:
    """The service's user of this address; an existing one is found, so that a retry is safe. Raises PartnerError."""
    address = read_email(email)
    async with database.write() as transaction:
        connection = transaction.connection
        if await _row(connection, service) is None:
            raise _unknown(service)
        known = await user_of(connection, service, address)
        if known is not None:
            transaction.abandon()
            return known
        row = {"service": service, "email": address, "email_key": email_key(address), "created_at": to_ms(now)}
        added = await connection.execute(insert(partner_user).returning(partner_user.c.user_id), row)
        return User(int(added.scalar_one()), address)


async def list_users(database: Database, service: str, *, after: int = 0, limit: int = 1000) -> list[User]:
    of = partner_user.c
    query = select(of.user_id, of.email).where(of.service == service, of.user_id > after).order_by(of.user_id)
    async with database.read() as connection:
        return [User(*row) for row in await connection.execute(query.limit(limit))]


async def user_of(connection: AsyncConnection, service: str, email: str) -> User | None:
    of = partner_user.c
    query = select(of.user_id, of.email).where(of.service == service, of.email_key == email_key(email))
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else User(*row)


def read_email(email: str | None) -> str:
    """Raises PartnerError REQUIRED, EMAIL_FORMAT."""
    if not email:
        raise required("email")
    if len(email) > MAX_EMAIL_CHARS or not _EMAIL.match(email) or not email.isprintable():
        raise PartnerError(Code.EMAIL_FORMAT, "invalid email address format")
    return email


def email_key(email: str) -> str:
    """What two spellings of one address have in common."""
    return email.casefold()


def _new_token(random_bytes: Callable[[int], bytes]) -> Secret:
    return Secret(base64.urlsafe_b64encode(random_bytes(TOKEN_BYTES)).rstrip(b"="))


def _hash(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


def _network(text: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(text.strip())
    except ValueError as error:
        raise bad_request(
            "partner_address_illegal", "an address is such as 192.0.2.7, 192.0.2.0/24 or 2001:db8::/32"
        ) from error


def _is_in(address: str, network: str) -> bool:
    try:
        found = ip_address(address.split("%", 1)[0])
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    return (mapped or found) in ip_network(network)


def _unknown(name: str) -> ServiceError:
    return not_found("partner_unknown", f"no partner service {name[:64]}")


async def _row(connection: AsyncConnection, name: str) -> Row[tuple[object, ...]] | None:
    query = select(partner_service).where(partner_service.c.name == name)
    return (await connection.execute(query)).one_or_none()


async def _addresses(connection: AsyncConnection, name: str) -> tuple[str, ...]:
    of = partner_address.c
    query = select(of.network).where(of.service == name).order_by(of.network)
    return tuple((await connection.execute(query)).scalars())


async def _change(database: Database, name: str, **values: object) -> None:
    async with database.write() as transaction:
        done = await transaction.connection.execute(
            update(partner_service).where(partner_service.c.name == name).values(**values)
        )
        if not done.rowcount:
            raise _unknown(name)


def _service_of(row: Row[tuple[object, ...]], addresses: tuple[str, ...]) -> PartnerService:
    created_at = from_ms(row.created_at)
    assert created_at is not None
    return PartnerService(
        row.name,
        row.group_id,
        row.min_keys,
        created_at=created_at,
        rotated_at=from_ms(row.rotated_at),
        disabled_at=from_ms(row.disabled_at),
        addresses=addresses,
    )
