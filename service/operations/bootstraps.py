"""Bootstrap endpoints of an environment that devices are told besides those of the factory, which always stay.

Owns the rows of `bootstrap_endpoint`. One that is removed keeps its row, so that devices are told that it is gone.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime

from cryptography import x509
from sqlalchemy import select, update
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from service.operations.requests import bad_request, check_placement, conflict, not_found, raise_catalogue_rev
from service.storage.database import Database
from service.storage.rows import from_ms, to_ms
from service.storage.tables import bootstrap_endpoint

MAX_ENDPOINTS = 4  # of an environment: they have to fit into a document with their authorities
MAX_HOST_CHARS = 255
MAX_CA_CHARS = 2048


@dataclass(frozen=True, slots=True)
class BootstrapView:
    """`ca_pem` None: the environment's own authority vouches for it."""

    environment: str
    host: str
    port: int
    tls: bool
    ca_pem: str | None
    added_at: datetime | None
    removed_at: datetime | None


async def add(
    database: Database,
    environment: str,
    host: str,
    port: int,
    *,
    now: datetime,
    tls: bool = True,
    ca_pem: str | None = None,
) -> BootstrapView:
    """Have devices of this environment told of an endpoint; the same again changes nothing.

    Raises ServiceError BAD_REQUEST; CONFLICT: it is there otherwise, or there are too many.
    """
    check_placement(None, environment)
    _check(host, port, ca_pem)
    async with database.write() as transaction:
        connection = transaction.connection
        found = await _views(connection, environment)
        known = next((one for one in found if (one.host, one.port) == (host, port)), None)
        if known is not None and known.removed_at is None:
            if (known.tls, known.ca_pem) != (tls, ca_pem):
                raise conflict("bootstrap_exists", f"{host}:{port} is there with another authority or none; remove it")
            transaction.abandon()
            return known
        if len([one for one in found if one.removed_at is None]) >= MAX_ENDPOINTS:
            raise conflict("bootstrap_full", f"devices are told {MAX_ENDPOINTS} further endpoints; remove one first")
        added = BootstrapView(environment, host, port, tls, ca_pem, from_ms(to_ms(now)), None)
        await _put(connection, added)
        await raise_catalogue_rev(connection)
    return added


async def _put(connection: AsyncConnection, added: BootstrapView) -> None:
    """In the place of one that was removed, where there was one."""
    row = {**asdict(added), "added_at": to_ms(added.added_at), "removed_at": None}
    of = bootstrap_endpoint.c
    statement = insert(bootstrap_endpoint).on_conflict_do_update(
        index_elements=[of.environment, of.host, of.port], set_=row
    )
    await connection.execute(statement, [row])


async def remove(database: Database, environment: str, host: str, port: int, *, now: datetime) -> None:
    """Have devices told of it no more; each forgets it once it was online without it. Raises ServiceError NOT_FOUND."""
    async with database.write() as transaction:
        connection = transaction.connection
        known = {(one.host, one.port) for one in await _views(connection, environment) if one.removed_at is None}
        if (host, port) not in known:
            raise not_found("bootstrap_unknown", f"{environment} has no further endpoint {host}:{port}")
        of = bootstrap_endpoint.c
        which = (of.environment == environment) & (of.host == host) & (of.port == port)
        await connection.execute(update(bootstrap_endpoint).where(which).values(removed_at=to_ms(now)))
        await raise_catalogue_rev(connection)


async def list_all(database: Database, environment: str | None = None) -> list[BootstrapView]:
    """Every endpoint that devices are told, by environment, host and port; without those that were removed."""
    async with database.read() as connection:
        return [one for one in await _views(connection, environment) if one.removed_at is None]


def _check(host: str, port: int, ca_pem: str | None) -> None:
    if not 0 < len(host) <= MAX_HOST_CHARS or not host.isascii() or not host.isprintable() or set(host) & set(" /@"):
        raise bad_request("bootstrap_illegal", "an endpoint has a host name or address")
    if not 1 <= port <= 65535:
        raise bad_request("bootstrap_illegal", "a port is 1 to 65535")
    if ca_pem is None:
        return
    if len(ca_pem) > MAX_CA_CHARS:
        raise bad_request("bootstrap_ca_illegal", f"the authority has at most {MAX_CA_CHARS} characters")
    try:
        x509.load_pem_x509_certificates(ca_pem.encode("ascii"))
    except ValueError as error:
        raise bad_request("bootstrap_ca_illegal", "the authority is one or more certificates in PEM") from error


async def _views(connection: AsyncConnection, environment: str | None) -> list[BootstrapView]:
    of = bootstrap_endpoint.c
    query = select(bootstrap_endpoint).order_by(of.environment, of.host, of.port)
    if environment is not None:
        query = query.where(of.environment == environment)
    return [
        BootstrapView(
            row.environment, row.host, row.port, row.tls, row.ca_pem, from_ms(row.added_at), from_ms(row.removed_at)
        )
        for row in await connection.execute(query)
    ]
