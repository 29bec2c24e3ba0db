"""Groups whose devices may activate over HTTP by their bare serial number: unsafe, for the time of a migration only.

Owns the switch, which is off for every group until an operator turns it on, and who may be spoken for while it is on:
the service then makes the proof that the device cannot make. What follows is an activation like any other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import delete, select
from sqlalchemy.dialects.sqlite import insert

from device_sdk.wire import codes
from service.credentials import proofs
from service.domain.group import KeyKind
from service.errors import ServiceError
from service.operations.requests import bad_request, conflict, not_found
from service.storage import queries
from service.storage.database import Database
from service.storage.rows import to_ms
from service.storage.store import SqlStore
from service.storage.tables import device, registration_group
from service.storage.warehouse_tables import bare_serial_group


@dataclass(frozen=True, slots=True)
class Spoken:
    """A device that is spoken for. `prove` makes what it would prove itself with."""

    group_id: str
    boot_count: int
    prove: Callable[[bytes], bytes]


async def allow(database: Database, group_id: str, *, by: str, now: datetime) -> None:
    """Raises ServiceError NOT_FOUND, or BAD_REQUEST: its devices have public keys, and so no API key."""
    async with database.write() as transaction:
        of = registration_group.c
        kind = (
            await transaction.connection.execute(select(of.key_kind).where(of.group_id == group_id))
        ).scalar_one_or_none()
        if kind is None:
            raise not_found("group_unknown", f"no group {group_id}")
        if kind == KeyKind.PUBLIC_KEY.value:
            raise bad_request("bare_serial_illegal", "devices with public keys have no API key")
        row = {"group_id": group_id, "allowed_at": to_ms(now), "allowed_by": by}
        await transaction.connection.execute(insert(bare_serial_group).on_conflict_do_nothing(), [row])


async def forbid(database: Database, group_id: str) -> None:
    """From the next request on. What devices have got by then stays theirs. Raises ServiceError NOT_FOUND."""
    async with database.write() as transaction:
        statement = delete(bare_serial_group).where(bare_serial_group.c.group_id == group_id)
        if not (await transaction.connection.execute(statement)).rowcount:
            raise not_found("bare_serial_off", f"bare serials are not allowed in {group_id}")


async def allowed(database: Database) -> list[str]:
    """The groups that allow it."""
    async with database.read() as connection:
        query = select(bare_serial_group.c.group_id).order_by(bare_serial_group.c.group_id)
        return [str(row[0]) for row in await connection.execute(query)]


async def spoken_for(database: Database, serial: str, group_id: str | None, service_key: Ed25519PrivateKey) -> Spoken:
    """The registered device of this serial in a group that allows it.

    Raises ServiceError REFUSED, alike for an unknown serial and for a group that does not allow it; CONFLICT where
    several such groups have this serial.
    """
    query = (
        select(device.c.group_id)
        .join(bare_serial_group, bare_serial_group.c.group_id == device.c.group_id)
        .where(device.c.serial == serial)
    )
    if group_id is not None:
        query = query.where(device.c.group_id == group_id)
    async with database.read() as connection:
        names = [(str(row[0]), serial) for row in await connection.execute(query.limit(2))]
        if len(names) > 1:
            raise conflict("serial_ambiguous", "several devices have this serial; say group_id")
        found = await queries.devices(connection, database.sealer, serials=names) if names else []
    if not found:
        raise _refused("bare_serial_refused")
    (one,) = found
    group = (await SqlStore(database, {}).catalogue()).groups[one.group_id]
    try:
        prover = proofs.prover_of(group, one, service_key)
    except proofs.Unproven as error:
        raise _refused("bare_serial_keyless") from error
    return Spoken(one.group_id, one.boot_count, prover.prove)


def _refused(cause: str) -> ServiceError:
    return ServiceError(codes.REFUSED, "refused", cause=cause)
