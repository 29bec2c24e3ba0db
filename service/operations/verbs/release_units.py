"""`release-units`: units are on their order no longer, because they were returned or are to go elsewhere."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from pydantic import Field
from sqlalchemy.ext.asyncio import AsyncConnection

from service.domain.warehouse import Equipment, Step
from service.operations.requests import conflict
from service.operations.verbs import warehouse_units
from service.operations.verbs.making import Made
from service.operations.verbs.verb import Arguments as Arguments_
from service.operations.verbs.verb import Role, World
from service.operations.verbs.warehouse_rows import MAX_ROWS, decide, unit_name
from service.storage import warehouse_writes as writes
from service.storage.store import SqlBatch
from service.storage.warehouse_queries import Name

NAME = "release-units"
ROLE = Role.OPERATOR


class Arguments(Arguments_):
    order: Annotated[str, Field(max_length=64)]
    units: Annotated[tuple[str, ...], Field(strict=False, min_length=1, max_length=MAX_ROWS)]  # GROUP/SERIAL


async def make(batch: SqlBatch, connection: AsyncConnection, arguments: Arguments, world: World) -> Made:
    names = [unit_name(one) for one in dict.fromkeys(arguments.units)]
    known = await warehouse_units.load(connection, names, world)
    devices = (await batch.load(serials=names)).by_serial
    gone: list[Name] = []
    homeless: list[Equipment] = []

    def take(name: Name) -> bool:
        known.check(name, devices.get(name))
        order_id = known.order_of(name)
        if order_id is None:
            return False
        if order_id != arguments.order:
            raise conflict("unit_bound", f"{name[1]} is on order {order_id}")
        gone.append(name)
        unit = known.units.get(name)
        if unit is not None and unit.step not in (Step.SHIPPED, Step.AT_SITE):
            homeless.append(replace(unit, site=None))
        return True

    outcomes = decide(names, lambda name: name, take)

    async def write(within: AsyncConnection) -> None:
        await writes.release(within, gone, world.now)
        await writes.put_units(within, homeless)

    return Made(outcomes, write=write)
