"""Looking at devices, and an operator's word on one: block, unblock, approve.

Owns no rule of activation. Each change is one transaction with its trace and counter; the running service sees within
a second that credentials were dropped and ends their sessions.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from types import ModuleType
from typing import Any

from sqlalchemy import ColumnElement

from service.domain import event, moves
from service.domain.catalogue import Catalogue
from service.domain.changes import Changes, Trace
from service.domain.credential import Credential, CredentialState
from service.domain.device import Device
from service.operations import chains, selectors
from service.operations.accounts import LOCAL
from service.operations.placing import placed
from service.operations.requests import DeviceName, bad_request, conflict, find_device, parse_device
from service.operations.selectors import Selection, Selector
from service.operations.verbs import block as verb_block
from service.operations.verbs import unblock as verb_unblock
from service.operations.verbs.verb import Applied, World
from service.storage import queries
from service.storage.database import Database
from service.storage.rows import from_ms
from service.storage.store import SqlStore
from service.storage.tables import device as device_table
from service.storage.tables import thing as thing_table
from service.storage.tables import version as version_table

MAX_PAGE = 1000


@dataclass(frozen=True, slots=True)
class DeviceLine:
    """One device in a list."""

    group_id: str
    serial: str
    state: str
    thing: str | None
    environment: str | None
    firmware: str | None  # state of the firmware, as the device last said
    version: str | None  # name of the installed version
    registered_at: datetime | None


@dataclass(frozen=True, slots=True)
class Page:
    devices: list[DeviceLine]
    after: str | None  # give it to see the next page; None at the end


async def show(database: Database, name: str) -> Device:
    """A device with its thing and credentials. Raises ServiceError NOT_FOUND, CONFLICT (several candidates)."""
    async with database.read() as connection:
        found = await find_device(connection, name)
        (shown,) = await queries.devices(connection, database.sealer, serials=[(found.group_id, found.serial)])
    return shown


async def list_page(
    database: Database, selector: Selector | None = None, *, after: str | None = None, limit: int = 100
) -> Page:
    """Selected devices (without a selector: all) by group and serial, at most `limit` (1 to 1000).

    `after` is the last name of the page before. Raises ServiceError BAD_REQUEST.
    """
    if not 1 <= limit <= MAX_PAGE:
        raise bad_request("limit_illegal", f"a page has 1 to {MAX_PAGE} devices")
    asked = Selection(selector or Selector(), None, None)
    if not asked.selector.is_empty:
        selectors.check(asked.selector)
    of = device_table.c
    columns = (
        of.group_id,
        of.serial,
        of.state,
        thing_table.c.name,
        thing_table.c.environment,
        of.fw_state,
        version_table.c.name,
        of.registered_at,
    )
    query = (
        selectors.statement(asked, *columns)
        .outerjoin(version_table, version_table.c.version_id == thing_table.c.installed_version_id)
        .order_by(of.group_id, of.serial)
        .limit(limit + 1)
    )
    if after is not None:
        query = query.where(*_comes_after(after))
    async with database.read() as connection:
        rows = await connection.execute(query, selectors.values(asked))
        found = [_line(tuple(row)) for row in rows]
    shown = found[:limit]
    more = f"{shown[-1].group_id}/{shown[-1].serial}" if len(found) > limit else None
    return Page(shown, more)


def _comes_after(name: str) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    """In the order of group and serial; the second condition lets the index be used. Raises ServiceError BAD_REQUEST."""
    of = device_table.c
    group_id, serial = parse_device(name)
    if group_id is None:
        raise bad_request("device_illegal", "the next page begins after a GROUP/SERIAL")
    return (of.group_id > group_id) | ((of.group_id == group_id) & (of.serial > serial)), of.group_id >= group_id


def _line(row: tuple[Any, ...]) -> DeviceLine:
    values: list[Any] = [*row[:-1], from_ms(row[-1])]
    return DeviceLine(*values)


async def block(database: Database, name: str, *, now: datetime, trace_id: str) -> Device:
    """What the verb `block` does, for one device that may be named by its serial alone.

    Raises ServiceError NOT_FOUND, CONFLICT.
    """
    return await _change(database, name, _by(verb_block, now), step="blocked", now=now, trace_id=trace_id)


async def unblock(database: Database, name: str, *, now: datetime, trace_id: str) -> Device:
    """What the verb `unblock` does. Raises ServiceError NOT_FOUND, CONFLICT."""
    return await _change(database, name, _by(verb_unblock, now), step="unblocked", now=now, trace_id=trace_id)


def _by(verb: ModuleType, now: datetime) -> Callable[[Device], Device]:
    """A verb's rule, where that needs to know nothing but its device and the time."""
    world = World(now, Catalogue(0), LOCAL, "", None, os.urandom)

    def decide(before: Device) -> Device:
        applied: Applied = verb.apply(before, verb.Arguments(), world)
        return applied.device

    return decide


async def approve(
    database: Database, name: str, *, credential_id: str | None = None, now: datetime, trace_id: str
) -> Device:
    """Let a credential that waits for an operator take over at the device's next `online`.

    Without `credential_id` there must be exactly one that waits. Raises ServiceError NOT_FOUND, CONFLICT.
    """

    def decide(before: Device) -> Device:
        waiting = _waiting(before, credential_id)
        return moves.put(before, replace(waiting, approved=True, awaits_operator=False, held_at=None))

    return await _change(database, name, decide, step="approved", now=now, trace_id=trace_id)


def _waiting(device: Device, credential_id: str | None) -> Credential:
    waiting = [
        one
        for one in device.credentials
        if one.state is CredentialState.PENDING and one.awaits_operator and credential_id in (None, one.credential_id)
    ]
    if not waiting:
        raise conflict("nothing_to_approve", "no credential of this device waits for an operator")
    if len(waiting) > 1:
        ids = [one.credential_id for one in waiting]
        raise conflict("approval_ambiguous", f"several credentials wait; name one of {', '.join(ids)}", candidates=ids)
    return waiting[0]


async def _change(
    database: Database, name: str, decide: Callable[[Device], Device], *, step: str, now: datetime, trace_id: str
) -> Device:
    async with database.read() as connection:
        found = await find_device(connection, name)
    async with SqlStore(database, {}).batch() as batch:
        before = (await batch.load(serials=[(found.group_id, found.serial)])).by_serial[found.group_id, found.serial]
        after = decide(before)
        if after is not before:
            trace = Trace(found.group_id, found.serial, now, trace_id, "operator", step)
            told = (event.of(after, step, now),) if step in event.KINDS else ()
            await batch.save(
                Changes(
                    devices=((before, after),),
                    traces=(trace,),
                    events=placed(told, batch.catalogue),
                    counters={f"device_{step}": 1},
                )
            )
    return after


async def chain(database: Database, device: Device) -> list[str]:
    """GROUP/SERIAL of every device that has held this device's thing, oldest first."""
    async with database.read() as connection:
        return [str(one) for one in await chains.holders(connection, DeviceName(device.group_id, device.serial))]
