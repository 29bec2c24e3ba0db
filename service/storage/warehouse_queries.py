"""Device types, sites, orders and units as values: what the warehouse's operations and handlers read.

Owns the reading statements and the rows' way to values; warehouse_writes.py has the other direction. Decides nothing.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from datetime import datetime
from typing import Any

from sqlalchemy import Select, and_, func, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from service.domain.device import DeviceState
from service.domain.manifest import ItemReport, ItemState
from service.domain.warehouse import Binding, DeviceType, Equipment, Line, Order, OrderState, Site, Step, Visit
from service.storage.rows import from_ms
from service.storage.sealing import Sealer, site_settings_aad
from service.storage.tables import device, thing
from service.storage.warehouse_tables import (
    device_type,
    equipment,
    equipment_step,
    item_report,
    order_line,
    order_unit,
    sales_order,
    site,
    site_settings,
)

Name = tuple[str, str]  # group_id, serial
Settings = dict[str, dict[str, Any]]
_OUT_OF_USE = (DeviceState.REPLACED.value, DeviceState.RETIRED.value)
Reports = dict[Name, dict[str, ItemReport]]  # by unit, then by the item's name


async def device_types(connection: AsyncConnection, names: Collection[str] | None = None) -> dict[str, DeviceType]:
    """By name; `names`: only these."""
    query = select(device_type).order_by(device_type.c.name)
    found = await _rows(connection, query if names is None else query.where(device_type.c.name.in_(names)))
    return {row.name: _device_type(row) for row in found}


async def sites(connection: AsyncConnection, names: Collection[str] | None = None) -> dict[str, Site]:
    query = select(site).order_by(site.c.name)
    found = await _rows(connection, query if names is None else query.where(site.c.name.in_(names)))
    return {row.name: Site(row.name, row.ou, row.title, row.settings_rev) for row in found}


async def settings_of(connection: AsyncConnection, sealer: Sealer, of: Site) -> Settings:
    """The settings of a site that are in force; empty where it has none yet."""
    if not of.settings_rev:
        return {}
    settings_id = f"{of.name}/{of.settings_rev}"
    query = select(site_settings.c.settings_sealed).where(site_settings.c.settings_id == settings_id)
    sealed = (await connection.execute(query)).scalar_one()
    found: Settings = json.loads(sealer.open(sealed, site_settings_aad(settings_id)))
    return found


async def next_settings_rev(connection: AsyncConnection) -> int:
    """Above every revision of every site: a unit that comes from another site knows by the number that it is news."""
    found = (await connection.execute(select(func.max(site_settings.c.rev)))).scalar_one()
    return (found or 0) + 1


async def units_outside(
    connection: AsyncConnection, site_name: str, ou: str, limit: int = 5
) -> tuple[int, tuple[str, ...]]:
    """Units there, or to go there, whose device is in another OU than this and not below it: how many, and some names.

    One that was not handed over yet is in none, and one that is out of use does not count.
    """
    unit, place = equipment.c, func.coalesce(thing.c.ou, device.c.ou)
    joined = equipment.join(device, device.c.device_id == unit.device_id).outerjoin(
        thing, thing.c.holder_device_id == device.c.device_id
    )
    outside = and_(
        unit.site == site_name,
        device.c.state.not_in(_OUT_OF_USE),
        place != ou,
        func.substr(place, 1, len(ou) + 1) != f"{ou}/",
    )
    count = int((await connection.execute(select(func.count()).select_from(joined).where(outside))).scalar_one())
    some = select(unit.group_id, unit.serial).select_from(joined).where(outside)
    rows = await connection.execute(some.order_by(unit.group_id, unit.serial).limit(limit))
    return count, tuple(f"{row.group_id}/{row.serial}" for row in rows)


async def types_at(connection: AsyncConnection, site_name: str) -> list[str]:
    """Names of the device types of which units are for this site, or ordered for it."""
    there = select(equipment.c.device_type).where(equipment.c.site == site_name)
    open_ = [one.value for one in (OrderState.OPEN, OrderState.DISPATCHED)]
    ordered = (
        select(order_line.c.device_type)
        .join(sales_order, sales_order.c.order_id == order_line.c.order_id)
        .where(sales_order.c.site == site_name, sales_order.c.state.in_(open_))
    )
    return list((await connection.execute(there.union(ordered))).scalars())


async def sites_told(connection: AsyncConnection, types: Collection[str]) -> list[str]:
    """Names of the sites whose settings were given to a unit of these device types."""
    of = equipment.c
    query = select(of.site).distinct().where(of.device_type.in_(types), of.site.is_not(None), of.settings_sent_rev > 0)
    return list((await connection.execute(query.order_by(of.site))).scalars())


async def orders(connection: AsyncConnection, order_ids: Collection[str] | None = None) -> dict[str, Order]:
    query = select(sales_order).order_by(sales_order.c.order_id)
    found = await _rows(connection, query if order_ids is None else query.where(sales_order.c.order_id.in_(order_ids)))
    return {row.order_id: Order(row.order_id, row.site, OrderState(row.state)) for row in found}


async def lines(connection: AsyncConnection, order_ids: Collection[str]) -> list[Line]:
    """The lines of these orders, by order and number."""
    query = select(order_line).where(order_line.c.order_id.in_(order_ids))
    found = await _rows(connection, query.order_by(order_line.c.order_id, order_line.c.line))
    return [Line(row.order_id, row.line, row.device_type, row.quantity) for row in found]


async def line_counts(connection: AsyncConnection, order_ids: Collection[str]) -> dict[tuple[str, int], int]:
    """How many units are bound to each line of these orders that has any."""
    of = order_unit.c
    query = (
        select(of.order_id, of.line, func.count())
        .where(of.order_id.in_(order_ids), of.released_at.is_(None))
        .group_by(of.order_id, of.line)
    )
    return {(row[0], row[1]): int(row[2]) for row in await connection.execute(query)}


async def bindings(connection: AsyncConnection, names: Collection[Name]) -> dict[Name, Binding]:
    """Which order these units are bound to now."""
    of = order_unit.c
    query = select(order_unit).where(tuple_(of.group_id, of.serial).in_(list(names)), of.released_at.is_(None))
    return {(row.group_id, row.serial): _binding(row) for row in await _rows(connection, query)}


async def bindings_of(
    connection: AsyncConnection, order_id: str, *, after: Name = ("", ""), limit: int = 1000
) -> list[Binding]:
    """A page of the units of an order, by name."""
    of = order_unit.c
    query = (
        select(order_unit)
        .where(of.order_id == order_id, of.released_at.is_(None), tuple_(of.group_id, of.serial) > tuple_(*after))
        .order_by(of.group_id, of.serial)
        .limit(limit)
    )
    return [_binding(row) for row in await _rows(connection, query)]


async def units(connection: AsyncConnection, names: Collection[Name]) -> dict[Name, Equipment]:
    of = equipment.c
    query = select(equipment).where(tuple_(of.group_id, of.serial).in_(list(names)))
    return {(row.group_id, row.serial): unit_of(row) for row in await _rows(connection, query)}


async def units_of_order(connection: AsyncConnection, order_id: str) -> list[tuple[Binding, Equipment | None]]:
    """Every unit of an order by name; None: it has not been received yet."""
    of, unit = order_unit.c, equipment.c
    joined = order_unit.outerjoin(equipment, and_(unit.group_id == of.group_id, unit.serial == of.serial))
    query = (
        select(
            *(column.label(f"of_{column.name}") for column in of),
            *equipment.columns,
        )
        .select_from(joined)
        .where(of.order_id == order_id, of.released_at.is_(None))
        .order_by(of.group_id, of.serial)
    )
    found = []
    for row in await _rows(connection, query):
        binding = _binding(row, "of_")
        found.append((binding, unit_of(row) if row.step is not None else None))
    return found


async def serial_names(connection: AsyncConnection, serial: str) -> list[Name]:
    """Every unit of that serial number, known to an order or received."""
    ordered = select(order_unit.c.group_id, order_unit.c.serial).where(order_unit.c.serial == serial)
    received = select(equipment.c.group_id, equipment.c.serial).where(equipment.c.serial == serial)
    return sorted((row[0], row[1]) for row in await connection.execute(ordered.union(received)))


async def visits(connection: AsyncConnection, name: Name, *, limit: int = 200) -> list[Visit]:
    """Where a unit has been, the oldest first; of more than `limit` the newest."""
    of = equipment_step.c
    query = select(equipment_step).where(of.serial == name[1], of.group_id == name[0]).order_by(of.seq.desc())
    found = [
        Visit(row.group_id, row.serial, row.step, _at(row.at), row.order_id, row.site, row.account, row.note)
        for row in await _rows(connection, query.limit(limit))
    ]
    return found[::-1]


async def item_reports(connection: AsyncConnection, names: Iterable[Name]) -> Reports:
    """What these units last said of their items, by name of the item."""
    of = item_report.c
    query = select(item_report).where(tuple_(of.group_id, of.serial).in_(list(names)))
    return await _reports(connection, query)


async def item_reports_of_order(connection: AsyncConnection, order_id: str) -> Reports:
    of, unit = item_report.c, order_unit.c
    joined = item_report.join(order_unit, and_(unit.group_id == of.group_id, unit.serial == of.serial))
    query = select(item_report).select_from(joined).where(unit.order_id == order_id, unit.released_at.is_(None))
    return await _reports(connection, query)


async def _reports(connection: AsyncConnection, query: Select[Any]) -> Reports:
    found: Reports = {}
    for row in await _rows(connection, query.order_by(item_report.c.name)):
        report = ItemReport(row.name, row.version, ItemState(row.state), _at(row.at), row.progress, row.cause)
        found.setdefault((row.group_id, row.serial), {})[row.name] = report
    return found


def unit_of(row: Any) -> Equipment:
    return Equipment(
        group_id=row.group_id,
        serial=row.serial,
        device_type=row.device_type,
        step=Step(row.step),
        step_at=_at(row.step_at),
        device_id=row.device_id,
        site=row.site,
        manifest_id=row.manifest_id,
        staged_at=from_ms(row.staged_at),
        stage_credential_id=row.stage_credential_id,
        cause=row.cause,
    )


def _device_type(row: Any) -> DeviceType:
    return DeviceType(
        name=row.name,
        group_id=row.group_id,
        description=row.description,
        manifest_id=row.manifest_id,
        warehouse_settings=tuple(json.loads(row.warehouse_settings)),
        handshake_settings=tuple(json.loads(row.handshake_settings)),
    )


def _binding(row: Any, prefix: str = "") -> Binding:
    order_id, line, group_id, serial, bound_at = (
        getattr(row, prefix + name) for name in ("order_id", "line", "group_id", "serial", "bound_at")
    )
    return Binding(order_id, line, group_id, serial, _at(bound_at))


def _at(value: int) -> datetime:
    at = from_ms(value)
    assert at is not None
    return at


async def _rows(connection: AsyncConnection, query: Select[Any]) -> list[Any]:
    return list((await connection.execute(query)).all())
