"""Every step that a device took, with the true cause of each refusal and a hint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from service.domain.changes import Trace
from service.operations import chains
from service.operations.hints import hint_of
from service.operations.requests import DeviceName, conflict, not_found, parse_device
from service.storage.database import Database
from service.storage.history_rows import trace_of
from service.storage.tables import device, trace

_COLUMNS = tuple(one for one in trace.columns if one.name != "step_id")


@dataclass(frozen=True, slots=True)
class Step:
    trace: Trace
    hint: str


@dataclass(frozen=True, slots=True)
class DeviceTrace:
    name: DeviceName
    steps: list[Step]  # oldest first; the newest 200 or so are kept
    before: tuple[DeviceTrace, ...] = ()  # of the devices that held its thing earlier, oldest first
    now: DeviceName | None = None  # which holds its thing since it was replaced


async def of_device(database: Database, name: str) -> DeviceTrace:
    """The steps of GROUP/SERIAL, or of a bare serial where it is unique, and of the devices that it has replaced.

    Only requests with a valid proof are here; a running service remembers the others (`unproven`). Raises ServiceError: NOT_FOUND, or CONFLICT with the candidates in `state`.
    """
    async with database.read() as connection:
        found = await _find(connection, name)
        chain = await chains.holders(connection, found)
        at = chain.index(found)
        before = tuple([DeviceTrace(one, await _steps(connection, one)) for one in chain[:at]])
        return DeviceTrace(found, await _steps(connection, found), before, chain[-1] if chain[at + 1 :] else None)


async def _steps(connection: AsyncConnection, name: DeviceName) -> list[Step]:
    query = (
        select(*_COLUMNS)
        .where(trace.c.serial == name.serial, trace.c.group_id == name.group_id)
        .order_by(trace.c.step_id)
    )
    found = [trace_of(tuple(row)) for row in await connection.execute(query)]
    return [Step(one, hint_of(one.cause)) for one in found]


def unproven(answer: Mapping[str, Any] | None) -> list[Step]:
    """The steps in what a running service answered to GET /unproven; none where it does not run."""
    found = [Trace(**{**one, "at": datetime.fromisoformat(one["at"])}) for one in (answer or {}).get("steps", [])]
    return [Step(one, hint_of(one.cause)) for one in found]


async def _find(connection: AsyncConnection, name: str) -> DeviceName:
    """A device that is registered, or was proven without being registered."""
    group_id, serial = parse_device(name)
    registered = select(device.c.group_id).where(device.c.serial == serial)
    traced = select(trace.c.group_id).where(trace.c.serial == serial)
    if group_id is not None:
        registered = registered.where(device.c.group_id == group_id)
        traced = traced.where(trace.c.group_id == group_id)
    groups = sorted((await connection.execute(registered.union(traced))).scalars())
    if not groups and group_id is not None:
        return DeviceName(group_id, serial)  # somebody may have used this name without proving it
    if not groups:
        raise not_found("device_unknown", f"no device {name}")
    if len(groups) > 1:
        names = [str(DeviceName(one, serial)) for one in groups]
        raise conflict("serial_ambiguous", f"several devices have this serial: {', '.join(names)}", candidates=names)
    return DeviceName(groups[0], serial)
