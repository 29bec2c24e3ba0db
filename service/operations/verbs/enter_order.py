"""`enter-order`: sales orders, their lines and the serial numbers on them, row by row.

A row makes what is not there yet: the order (it names the site), the line (it names the device type) and the assignment
of a serial number. A row that says what is known already changes nothing, so an import that was cut off is run again.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.ext.asyncio import AsyncConnection

from device_sdk.wire import ids
from service.domain.device import Device
from service.domain.warehouse import GONE, Binding, DeviceType, Equipment, Line, Order, OrderState, Site
from service.errors import ServiceError
from service.operations.requests import bad_request, conflict, not_found, raise_catalogue_rev
from service.operations.site_settings import check_kinds
from service.operations.verbs import warehouse_units
from service.operations.verbs.making import Made
from service.operations.verbs.verb import Arguments as Arguments_
from service.operations.verbs.verb import Role, World
from service.operations.verbs.warehouse_rows import MAX_ROWS, check_scope, check_word, decide
from service.operations.verbs.warehouse_units import Known
from service.storage import warehouse_queries as queries
from service.storage import warehouse_writes as writes
from service.storage.store import SqlBatch
from service.storage.warehouse_queries import Name, Settings

NAME = "enter-order"
ROLE = Role.OPERATOR
MAX_LINES = 1000
MAX_QUANTITY = 1_000_000


class One(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True)

    order: str
    site: str | None = None  # needed for a new order
    type: str | None = None  # the device type of the line
    line: Annotated[int, Field(ge=1, le=MAX_LINES)] | None = None  # left out: the order's line of that type
    quantity: Annotated[int, Field(ge=1, le=MAX_QUANTITY)] | None = (
        None  # of a new line, left out: as many as are assigned
    )
    serial: str | None = None


class Arguments(Arguments_):
    rows: Annotated[tuple[One, ...], Field(strict=False, min_length=1, max_length=MAX_ROWS)]


@dataclass
class _Book:
    """The orders that the rows name, as they become row by row."""

    world: World
    sites: dict[str, Site]
    types: dict[str, DeviceType]
    orders: dict[str, Order]
    lines: dict[tuple[str, int], Line]  # as they were before
    counts: dict[tuple[str, int], int]
    bound: dict[Name, Binding]
    units: dict[Name, Equipment]
    known: Known  # the units as they were before
    devices: Mapping[Name, Device]
    settings: Mapping[str, Settings]  # of the sites that the orders are for
    new_orders: list[str] = field(default_factory=list)
    new_lines: dict[tuple[str, int], Line] = field(default_factory=dict)
    new_bound: list[Binding] = field(default_factory=list)
    placed: dict[Name, Equipment] = field(default_factory=dict)

    def take(self, one: One) -> bool:
        """A row that is refused leaves nothing behind: no order, no line of it."""
        orders, lines, bound = len(self.new_orders), dict(self.new_lines), len(self.new_bound)
        try:
            self._enter(one)
        except ServiceError:
            for order_id in self.new_orders[orders:]:
                del self.orders[order_id]
            del self.new_orders[orders:]
            self.new_lines = lines
            raise
        return (orders, lines, bound) != (len(self.new_orders), self.new_lines, len(self.new_bound))

    def _enter(self, one: One) -> None:
        order = self._order(one)
        if one.type is None and one.line is None and one.quantity is None and one.serial is None:
            return
        line = self._line(one, order)
        if one.serial is not None:
            self._bind(one.serial, line)

    def _order(self, one: One) -> Order:
        check_word("an order", one.order)
        known = self.orders.get(one.order)
        if known is not None:
            site = self.sites.get(known.site or "")
            check_scope(site.ou if site is not None else None, self.world)
            if one.site not in (None, known.site):
                raise conflict("order_exists", f"order {one.order} is for {known.site or 'no site'}")
            if known.state is not OrderState.OPEN and one.serial is None:
                raise conflict("order_state", f"order {one.order} is {known.state.value}")
            return known
        if one.site is None:
            raise not_found("order_unknown", f"no order {one.order}; a new one needs its site")
        if one.site not in self.sites:
            raise not_found("site_unknown", f"no site {one.site[:64]!r}")
        check_scope(self.sites[one.site].ou, self.world)
        made = self.orders[one.order] = Order(one.order, one.site)
        self.new_orders.append(one.order)
        return made

    def _line(self, one: One, order: Order) -> Line:
        self._check_known(one)
        numbers = sorted(number for of, number in self._lines() if of == order.order_id)
        fitting = [
            number
            for number in numbers
            if one.line in (None, number) and one.type in (None, self._lines()[order.order_id, number].device_type)
        ]
        if not fitting:
            return self._new_line(one, order, numbers)
        if len(fitting) > 1:
            raise conflict("line_ambiguous", f"order {order.order_id} has several such lines; name one by its number")
        line = self._lines()[order.order_id, fitting[0]]
        if one.quantity is not None and one.quantity != line.quantity:
            count = self.counts.get((line.order_id, line.line), 0)
            if one.quantity < count:
                raise conflict("line_full", f"{count} units are assigned to line {line.line} already")
            line = self._keep(replace(line, quantity=one.quantity))
        return line

    def _check_known(self, one: One) -> None:
        if one.type is not None and one.type not in self.types:
            raise not_found("type_unknown", f"no device type {one.type[:64]!r}")

    def _new_line(self, one: One, order: Order, numbers: Sequence[int]) -> Line:
        if one.line in numbers:
            raise conflict("line_exists", f"line {one.line} of order {order.order_id} is for another device type")
        if one.type is None:
            raise bad_request("type_missing", "a new line needs its device type")
        if order.state is not OrderState.OPEN:
            raise conflict("order_state", f"order {order.order_id} is {order.state.value}")
        number = one.line or max(numbers, default=0) + 1
        if number > MAX_LINES:
            raise bad_request("line_count", f"an order has at most {MAX_LINES} lines")
        check_kinds(self.settings.get(order.site or "", {}), [self.types[one.type]])
        return self._keep(Line(order.order_id, number, one.type, one.quantity or 0))

    def _lines(self) -> Mapping[tuple[str, int], Line]:
        return ChainMap(self.new_lines, self.lines)

    def _keep(self, line: Line) -> Line:
        self.new_lines[line.order_id, line.line] = line
        return line

    def _bind(self, serial: str, line: Line) -> None:
        if not ids.is_serial(serial):
            raise bad_request("serial_illegal", "a serial is 1 to 128 of A-Z a-z 0-9 . _ : -")
        name = (self.types[line.device_type].group_id, serial)
        before, unit = self.bound.get(name), self.units.get(name)
        if before is not None and (before.order_id, before.line) == (line.order_id, line.line):
            return
        self.known.check_now(name, self.devices.get(name))
        if before is not None:
            raise conflict("unit_bound", f"{serial} is on line {before.line} of order {before.order_id}")
        if unit is not None and unit.device_type != line.device_type:
            raise conflict("unit_type", f"{serial} is a {unit.device_type}, not a {line.device_type}")
        order = self.orders[line.order_id]
        if order.state is not OrderState.OPEN:
            raise conflict("order_state", f"order {order.order_id} is {order.state.value}")
        if unit is not None and unit.step in GONE and unit.site not in (None, order.site):
            raise conflict("unit_elsewhere", f"{serial} is {unit.step.value}, for {unit.site}: receive it first")
        count = self.counts.get((line.order_id, line.line), 0)
        if line.quantity and count >= line.quantity:
            raise conflict("line_full", f"line {line.line} of order {order.order_id} has its {line.quantity} units")
        self.counts[line.order_id, line.line] = count + 1
        bound = self.bound[name] = Binding(line.order_id, line.line, *name, self.world.now)
        self.new_bound.append(bound)
        if unit is not None and unit.site != order.site:
            self.placed[name] = self.units[name] = replace(unit, site=order.site)


async def make(batch: SqlBatch, connection: AsyncConnection, arguments: Arguments, world: World) -> Made:
    book = await _book(batch, connection, arguments.rows, world)
    outcomes = decide(arguments.rows, lambda one: ("order", _shown(one)), book.take)

    async def write(within: AsyncConnection) -> None:
        await writes.put_orders(within, [book.orders[one] for one in book.new_orders], world.now)
        await writes.put_lines(within, book.new_lines.values())
        await writes.bind(within, book.new_bound)
        await writes.put_units(within, book.placed.values())
        if any(one.step in GONE for one in book.placed.values()):
            await raise_catalogue_rev(within)  # its site's settings are news to it

    return Made(outcomes, write=write)


async def _book(batch: SqlBatch, connection: AsyncConnection, rows: Sequence[One], world: World) -> _Book:
    wanted = {one.order for one in rows}
    orders = await queries.orders(connection, wanted)
    types = await queries.device_types(connection)
    groups = {one.group_id for one in types.values()}
    names = [(group_id, one.serial) for one in rows if one.serial is not None for group_id in groups]
    lines = await queries.lines(connection, wanted)
    units = await warehouse_units.load(connection, names, world)
    known = [one.site for one in orders.values() if one.site is not None]
    sites = await queries.sites(connection, {*known, *(one.site for one in rows if one.site is not None)})
    devices = {} if world.scope is None else (await batch.load(serials=names)).by_serial
    return _Book(
        world,
        sites,
        types,
        orders,
        {(one.order_id, one.line): one for one in lines},
        await queries.line_counts(connection, wanted),
        dict(units.bound),
        dict(units.units),
        units,
        devices,  # they are asked for where they are, which only an operator with a scope must know
        {name: await queries.settings_of(connection, batch.sealer, one) for name, one in sites.items()},
    )


def _shown(one: One) -> str:
    return one.order[:64] if one.serial is None else f"{one.order[:64]}/{one.serial[:128]}"
