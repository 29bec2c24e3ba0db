"""Who has held a thing: the chain of replacements that a device is part of. Reads only."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from service.operations.requests import DeviceName
from service.storage.tables import device

MAX_CHAIN = 100  # devices that are looked for, one after the other


async def holders(connection: AsyncConnection, name: DeviceName) -> list[DeviceName]:
    """Every device that has held this device's thing, oldest first; itself alone where there is one, or it is unknown.

    A successor that has not taken over yet is not in it.
    """
    of = device.c
    query = select(of.device_id, of.group_id, of.serial, of.replaced_by)
    first = (await connection.execute(query.where(of.group_id == name.group_id, of.serial == name.serial))).first()
    found = [name]
    if first is None:
        return found
    after = first.replaced_by
    while after is not None and len(found) < MAX_CHAIN:
        row = (await connection.execute(query.where(of.device_id == after))).first()
        if row is None:
            break
        found.append(DeviceName(row.group_id, row.serial))
        after = row.replaced_by
    before = first.device_id
    while len(found) < MAX_CHAIN:
        row = (await connection.execute(query.where(of.replaced_by == before))).first()
        if row is None:
            break
        found.insert(0, DeviceName(row.group_id, row.serial))
        before = row.device_id
    return found
