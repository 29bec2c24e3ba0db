"""`restage`: units in the warehouse may call `stage` once more; what an earlier call gave them is good no longer."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from sqlalchemy.ext.asyncio import AsyncConnection

from service.domain import warehouse
from service.operations.requests import check_text, conflict
from service.operations.verbs import warehouse_units
from service.operations.verbs.making import Made
from service.operations.verbs.verb import Arguments as Arguments_
from service.operations.verbs.verb import Role, World, without_credentials
from service.operations.verbs.warehouse_rows import MAX_ROWS, begun, decide, unit_name
from service.storage.store import SqlBatch
from service.storage.warehouse_queries import Name

NAME = "restage"
ROLE = Role.OPERATOR
RESTAGED = "restaged"  # the event and the line of where it has been


class Arguments(Arguments_):
    units: Annotated[tuple[str, ...], Field(strict=False, min_length=1, max_length=MAX_ROWS)]  # GROUP/SERIAL
    note: str = ""


async def make(batch: SqlBatch, connection: AsyncConnection, arguments: Arguments, world: World) -> Made:
    """1. The unit is in the warehouse, and its device in the operator's OU. 2. Its credentials are dropped: whoever holds them is let in no more. 3. It is
    received, and what it said of its items is forgotten.
    """
    check_text("a note", arguments.note, empty=True)
    names = [unit_name(one) for one in dict.fromkeys(arguments.units)]
    known = await warehouse_units.load(connection, names, world)
    devices = (await batch.load(serials=names)).by_serial
    done = begun(world)

    def take(name: Name) -> bool:
        device = devices.get(name)
        unit = known.unit(name, device)
        known.check_now(name, device)
        if unit.device_id is None or device is None:
            raise conflict("unit_not_handed_over", "the unit was never handed over for provisioning")
        again = warehouse.restage(unit, world.now)
        if again == unit:
            return False
        done.change(device, without_credentials(device, world.now, RESTAGED))
        done.keep(again, RESTAGED, known.site_of(name), known.order_of(name), arguments.note)
        done.forgotten.append(name)
        return True

    return done.made(decide(names, lambda name: name, take))
