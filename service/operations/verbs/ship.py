"""`ship`: units that are out of box have left the warehouse, or one site for another."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from sqlalchemy.ext.asyncio import AsyncConnection

from service.domain import warehouse
from service.domain.warehouse import Step
from service.operations.requests import check_text
from service.operations.verbs import warehouse_units
from service.operations.verbs.making import Made
from service.operations.verbs.verb import Arguments as Arguments_
from service.operations.verbs.verb import Role, World
from service.operations.verbs.warehouse_rows import MAX_ROWS, begun, decide
from service.storage.store import SqlBatch
from service.storage.warehouse_queries import Name

NAME = "ship"
ROLE = Role.OPERATOR


class Arguments(Arguments_):
    """`units` as GROUP/SERIAL, or all of an order, a page after the other (`after`: from the answer before)."""

    units: Annotated[tuple[str, ...] | None, Field(strict=False, min_length=1, max_length=MAX_ROWS)] = None
    order: Annotated[str, Field(max_length=64)] | None = None
    after: str | None = None
    note: str = ""


async def make(batch: SqlBatch, connection: AsyncConnection, arguments: Arguments, world: World) -> Made:
    check_text("a note", arguments.note, empty=True)
    names, after = await warehouse_units.names_of(connection, arguments.order, arguments.units, arguments.after)
    known = await warehouse_units.load(connection, names, world)
    devices = (await batch.load(serials=names)).by_serial
    done = begun(world)

    def take(name: Name) -> bool:
        unit, site = known.unit(name, devices.get(name)), known.site_of(name)
        if unit.step is Step.SHIPPED:
            return False
        gone = warehouse.enter(unit, Step.SHIPPED, world.now)
        done.keep(gone, Step.SHIPPED.value, site, known.order_of(name), arguments.note)
        return True

    return done.made(decide(names, lambda name: name, take), {"after": after} if after is not None else {})
