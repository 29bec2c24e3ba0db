"""`receive`: units that came into the warehouse, new from the factory or back from a customer."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.ext.asyncio import AsyncConnection

from device_sdk.wire import ids
from service.domain import warehouse
from service.domain.warehouse import DeviceType, Equipment, Step
from service.operations.requests import bad_request, check_text, conflict, not_found
from service.operations.verbs import warehouse_units
from service.operations.verbs.making import Made
from service.operations.verbs.verb import Arguments as Arguments_
from service.operations.verbs.verb import Role, World
from service.operations.verbs.warehouse_rows import MAX_ROWS, begun, decide
from service.storage import warehouse_queries as queries
from service.storage.store import SqlBatch
from service.storage.warehouse_queries import Name

NAME = "receive"
ROLE = Role.OPERATOR


class One(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True)

    serial: Annotated[str, Field(max_length=128)]
    type: Annotated[str, Field(max_length=64)]


class Arguments(Arguments_):
    units: Annotated[tuple[One, ...], Field(strict=False, min_length=1, max_length=MAX_ROWS)]
    note: str = ""


async def make(batch: SqlBatch, connection: AsyncConnection, arguments: Arguments, world: World) -> Made:
    check_text("a note", arguments.note, empty=True)
    types = await queries.device_types(connection, {one.type for one in arguments.units})
    names = [_name(one, types) for one in arguments.units]
    known = await warehouse_units.load(connection, names, world)
    devices = (await batch.load(serials=names)).by_serial
    done = begun(world)

    def take(one: One) -> bool:
        if one.type not in types:
            raise not_found("type_unknown", f"no device type {one.type!r}")
        if not ids.is_serial(one.serial):
            raise bad_request("serial_illegal", "a serial is 1 to 128 of A-Z a-z 0-9 . _ : -")
        name = _name(one, types)
        known.check(name, devices.get(name))
        site, before = known.site_of(name), done.units.get(name) or known.units.get(name)
        bound = known.bound.get(name)
        if before is None:
            unit = Equipment(*name, one.type, Step.RECEIVED, world.now, site=site.name if site else None)
        elif before.device_type != one.type:
            raise conflict("unit_type", f"{one.serial} is a {before.device_type}, not a {one.type}")
        elif before.step in (Step.RECEIVED, Step.STAGED, Step.OUT_OF_BOX):
            return False  # it is in the warehouse already
        else:
            unit = warehouse.enter(before, Step.RECEIVED, world.now)
        done.keep(unit, Step.RECEIVED.value, site, bound.order_id if bound else None, arguments.note)
        return True

    return done.made(decide(arguments.units, lambda one: _name(one, types), take))


def _name(one: One, types: dict[str, DeviceType]) -> Name:
    return (types[one.type].group_id if one.type in types else "", one.serial)
