"""`hand-over`: the units of an order are given over for provisioning; from then on they may call `stage`.

Each is registered if it is not yet, belongs to the OU of its site, and is received if nobody has entered that.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.ext.asyncio import AsyncConnection

from service.domain import event, placement
from service.domain.device import Device, DeviceState
from service.domain.group import KeyKind
from service.domain.warehouse import Equipment, OrderState, Site, Step
from service.operations import registration
from service.operations.registration import Registration
from service.operations.requests import bad_request, conflict, not_found
from service.operations.verbs import warehouse_units
from service.operations.verbs.making import Made
from service.operations.verbs.verb import Arguments as Arguments_
from service.operations.verbs.verb import Role, World
from service.operations.verbs.warehouse_rows import MAX_ROWS, Done, begun, decide
from service.operations.verbs.warehouse_units import Known
from service.storage.store import SqlBatch
from service.storage.warehouse_queries import Name

NAME = "hand-over"
ROLE = Role.OPERATOR
HANDED_OVER = "handed_over"  # the event and the line of where it has been
_OUT_OF_USE = (DeviceState.BLOCKED, DeviceState.REPLACED, DeviceState.RETIRED)


class One(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True)

    unit: Annotated[str, Field(max_length=193)]  # GROUP/SERIAL
    key: str | None = None  # base64; of a unit of kind individual that is not registered yet
    public_keys: Annotated[tuple[str, ...], Field(strict=False, max_length=8)] = ()


class Arguments(Arguments_):
    """All units of the order, a page after the other (`after`: from the answer before); or only these, with keys."""

    order: Annotated[str, Field(max_length=64)]
    units: Annotated[tuple[One, ...] | None, Field(strict=False, min_length=1, max_length=MAX_ROWS)] = None
    after: str | None = None

    def document(self) -> dict[str, Any]:
        """Without the keys."""
        found = self.model_dump(mode="json", exclude_none=True, exclude={"units"})
        return found if self.units is None else {**found, "units": [one.unit for one in self.units]}


async def make(batch: SqlBatch, connection: AsyncConnection, arguments: Arguments, world: World) -> Made:
    given = {one.unit: one for one in arguments.units or ()}
    named = None if arguments.units is None else list(given)
    order_id = arguments.order if named is None else None
    names, after = await warehouse_units.names_of(connection, order_id, named, arguments.after)
    known = await warehouse_units.load(connection, names, world)
    devices = dict((await batch.load(serials=names)).by_serial)
    done = begun(world)

    def take(name: Name) -> bool:
        _check_order(known, name, arguments.order)
        known.check_now(name, devices.get(name))
        return _hand_over(name, given.get("/".join(name)), known, devices, done)

    return done.made(decide(names, lambda name: name, take), {"after": after} if after is not None else {})


def _check_order(known: Known, name: Name, order_id: str) -> None:
    if known.order_of(name) != order_id:
        raise not_found("unit_not_ordered", f"{name[1]} is not on order {order_id}")
    if known.orders[order_id].state not in (OrderState.OPEN, OrderState.DISPATCHED):
        raise conflict("order_state", f"order {order_id} is {known.orders[order_id].state.value}")


def _hand_over(name: Name, keys: One | None, known: Known, devices: dict[Name, Device], done: Done) -> bool:
    world, order_id, site = known.world, known.order_of(name), known.site_of(name)
    before, unit = devices.get(name), known.units.get(name)
    if unit is not None and unit.step in (Step.SHIPPED, Step.AT_SITE):
        raise conflict("unit_step", f"the unit is {unit.step.value}; `receive` it first")
    # 1. The device: registered with the key that its group asks for.
    device = before
    if device is None:
        device = _registered(name, keys, world, devices)
    if device.state in _OUT_OF_USE:
        raise conflict("device_state", f"the device is {device.state.value}")
    # 2. Its place: the site's OU.
    device, events = _placed(device, site, world)
    # 3. The unit: received, if nobody has entered it, and handed over.
    if unit is None:
        unit = Equipment(*name, _type_of(name, known), Step.RECEIVED, world.now, site=site.name if site else None)
        done.keep(unit, Step.RECEIVED.value, site, order_id)
    after = replace(unit, device_id=device.device_id, site=site.name if site else None)
    if device is before and after == unit:
        return False
    if before is None:
        done.events.append(event.of(device, "registered", world.now, command_id=world.command_id))
    done.events += events
    done.change(before, device)
    done.keep(after, HANDED_OVER, site, order_id)
    return True


def _registered(name: Name, keys: One | None, world: World, devices: dict[Name, Device]) -> Device:
    group = world.catalogue.groups[name[0]]
    if group.key_kind is KeyKind.INDIVIDUAL and (keys is None or keys.key is None):
        raise conflict("device_key_missing", "the unit is not registered, and its group needs its device key")
    asked = Registration(
        *name,
        key=None if keys is None or keys.key is None else registration.parse_key(keys.key),
        public_keys=tuple(
            registration.parse_public_key(index, text)
            for index, text in enumerate(keys.public_keys if keys is not None else ())
        ),
    )
    (outcome,), made = registration.decide(world.catalogue, [asked], devices, world.now, world.random_bytes)
    if outcome.result is registration.Result.ERROR:
        raise bad_request(outcome.cause or "", outcome.reason or "")
    return made[0]


def _placed(device: Device, site: Site | None, world: World) -> tuple[Device, tuple[event.Event, ...]]:
    """Before its first `stage` by allocation, later by moving its thing."""
    if site is None:
        return device, ()
    if device.thing is not None:
        if device.thing.ou == site.ou:
            return device, ()
        return placement.reprovision(device, world.catalogue, world.now, ou=site.ou, command_id=world.command_id)
    if device.ou == site.ou:
        return device, ()
    return replace(device, ou=site.ou), ()


def _type_of(name: Name, known: Known) -> str:
    return known.line_types[known.bound[name].order_id, known.bound[name].line]
