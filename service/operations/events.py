"""Reading events: what has happened, in the order of its commits, from any number on.

Owns the pages and who may see which event; writing them is the store's. A number never comes back, so whoever keeps
the last one it has seen misses nothing.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from service.domain.event import Event
from service.operations.selectors import at_or_below, is_within
from service.storage.database import Database
from service.storage.operator_tables import event
from service.storage.rows import from_ms, to_ms

MAX_PAGE = 1000
LEFT = "from_ou"  # in the data of an event: the OU that the thing was in before


@dataclass(frozen=True, slots=True)
class Recorded:
    """An event with its number. It has its time."""

    seq: int
    event: Event

    def document(self) -> dict[str, Any]:
        """As integrators and the command show it."""
        of = self.event
        found = {
            "seq": self.seq,
            "at": to_ms(of.at),
            "event": of.kind,
            "group": of.group_id,
            "serial": of.serial,
            "thing": of.thing_id,
            "ou": of.ou,
            "environment": of.environment,
            "command": of.command_id,
            "data": dict(of.data) or None,
        }
        return {name: value for name, value in found.items() if value is not None}


def concerns(one: Event, scope: str | None) -> bool:
    """Whether it happened in this OU or below, or to a thing that left it with this event."""
    left = one.data.get(LEFT)
    return is_within(one.ou, scope) or (isinstance(left, str) and is_within(left, scope))


async def newest(database: Database) -> int:
    """The number of the last event; 0 where there is none."""
    async with database.read() as connection:
        return int((await connection.execute(select(func.coalesce(func.max(event.c.seq), 0)))).scalar_one())


async def page(
    database: Database,
    *,
    after: int = 0,
    limit: int = MAX_PAGE,
    scope: str | None = None,
    kinds: Collection[str] = (),
    device: tuple[str, str] | None = None,
    command_id: str | None = None,
    thing_id: str | None = None,
) -> list[Recorded]:
    """The next events by number. `scope`: only those of this OU and below, and of what has just left it."""
    async with database.read() as connection:
        return await read(
            connection,
            after=after,
            limit=limit,
            scope=scope,
            kinds=kinds,
            device=device,
            command_id=command_id,
            thing_id=thing_id,
        )


async def read(
    connection: AsyncConnection,
    *,
    after: int,
    limit: int,
    scope: str | None = None,
    kinds: Collection[str] = (),
    device: tuple[str, str] | None = None,
    command_id: str | None = None,
    thing_id: str | None = None,
) -> list[Recorded]:
    query = select(event).where(event.c.seq > after).order_by(event.c.seq).limit(min(limit, MAX_PAGE))
    if scope is not None:
        left = func.json_extract(event.c.data, f"$.{LEFT}")
        query = query.where(or_(at_or_below(event.c.ou, scope), at_or_below(left, scope)))
    if kinds:
        query = query.where(event.c.kind.in_(kinds))
    if device is not None:
        query = query.where(event.c.group_id == device[0], event.c.serial == device[1])
    if thing_id is not None:
        query = query.where(event.c.thing_id == thing_id)
    if command_id is not None:
        query = query.where(event.c.command_id == command_id)
    return [recorded(row) for row in await connection.execute(query)]


def recorded(row: Any) -> Recorded:
    """From a whole row of the table."""
    return Recorded(
        row.seq,
        Event(
            kind=row.kind,
            group_id=row.group_id,
            serial=row.serial,
            thing_id=row.thing_id,
            ou=row.ou,
            environment=row.environment,
            command_id=row.command_id,
            data=json.loads(row.data),
            at=from_ms(row.at),
        ),
    )
