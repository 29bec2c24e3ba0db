"""Device types, sites, orders and units into their tables. Owns the writing statements; decides nothing.

Every function runs in the caller's transaction.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import and_, delete, insert, select, tuple_, update
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from service.domain.warehouse import GONE, Binding, DeviceType, Equipment, Line, Order, Site, Visit
from service.storage.rows import to_ms
from service.storage.sealing import Sealer, site_settings_aad
from service.storage.warehouse_queries import Name, Settings
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


async def put_device_types(connection: AsyncConnection, types: Iterable[DeviceType], now: datetime) -> None:
    """New ones are made, known ones changed."""
    rows = [
        {
            "name": one.name,
            "group_id": one.group_id,
            "description": one.description,
            "manifest_id": one.manifest_id,
            "warehouse_settings": json.dumps(one.warehouse_settings),
            "handshake_settings": json.dumps(one.handshake_settings),
            "created_at": to_ms(now),
        }
        for one in types
    ]
    await _put(connection, device_type, rows, keep=("created_at",))


async def put_sites(connection: AsyncConnection, sites: Iterable[Site], now: datetime) -> None:
    rows = [
        {
            "name": one.name,
            "title": one.title,
            "ou": one.ou,
            "settings_rev": one.settings_rev,
            "created_at": to_ms(now),
        }
        for one in sites
    ]
    await _put(connection, site, rows, keep=("created_at",))


async def add_settings(
    connection: AsyncConnection, sealer: Sealer, of: Site, settings: Settings, now: datetime, account: str
) -> None:
    """The settings of this site's revision `settings_rev`. The site is there already."""
    settings_id = f"{of.name}/{of.settings_rev}"
    plain = json.dumps(settings, ensure_ascii=False, sort_keys=True).encode()
    row = {
        "settings_id": settings_id,
        "site": of.name,
        "rev": of.settings_rev,
        "settings_sealed": sealer.seal(plain, site_settings_aad(settings_id)),
        "changed_at": to_ms(now),
        "changed_by": account,
    }
    await connection.execute(insert(site_settings), [row])


async def put_orders(connection: AsyncConnection, orders: Iterable[Order], now: datetime) -> None:
    rows = [
        {"order_id": one.order_id, "site": one.site, "state": one.state.value, "created_at": to_ms(now)}
        for one in orders
    ]
    await _put(connection, sales_order, rows, keep=("created_at",))


async def put_lines(connection: AsyncConnection, lines: Iterable[Line]) -> None:
    rows = [
        {"order_id": one.order_id, "line": one.line, "device_type": one.device_type, "quantity": one.quantity}
        for one in lines
    ]
    await _put(connection, order_line, rows)


async def bind(connection: AsyncConnection, bound: Iterable[Binding]) -> None:
    """A unit that came back to an order that it was released from is bound to it again."""
    rows = [
        {
            "order_id": one.order_id,
            "group_id": one.group_id,
            "serial": one.serial,
            "line": one.line,
            "bound_at": to_ms(one.bound_at),
            "released_at": None,
        }
        for one in bound
    ]
    await _put(connection, order_unit, rows)


async def release(connection: AsyncConnection, names: Sequence[Name], now: datetime) -> None:
    of = order_unit.c
    if names:
        statement = update(order_unit).where(tuple_(of.group_id, of.serial).in_(names), of.released_at.is_(None))
        await connection.execute(statement.values(released_at=to_ms(now)))


async def release_order(connection: AsyncConnection, order_id: str, now: datetime) -> None:
    """Every unit leaves this order; those that have not left the warehouse are for no site any more."""
    of, unit = order_unit.c, equipment.c
    live = and_(of.order_id == order_id, of.released_at.is_(None))
    of_order = select(of.group_id, of.serial).where(live)
    here = and_(tuple_(unit.group_id, unit.serial).in_(of_order), unit.step.not_in([one.value for one in GONE]))
    await connection.execute(update(equipment).where(here).values(site=None))
    await connection.execute(update(order_unit).where(live).values(released_at=to_ms(now)))


async def put_units(connection: AsyncConnection, units: Iterable[Equipment]) -> None:
    """As they are now; what a unit says of its settings stays as it is."""
    rows = [
        {
            "group_id": one.group_id,
            "serial": one.serial,
            "device_id": one.device_id,
            "device_type": one.device_type,
            "site": one.site,
            "step": one.step.value,
            "step_at": to_ms(one.step_at),
            "manifest_id": one.manifest_id,
            "staged_at": to_ms(one.staged_at),
            "stage_credential_id": one.stage_credential_id,
            "cause": one.cause,
        }
        for one in units
    ]
    await _put(connection, equipment, rows)


async def add_visits(connection: AsyncConnection, visits: Iterable[Visit]) -> None:
    rows = [
        {
            "group_id": one.group_id,
            "serial": one.serial,
            "step": one.step,
            "at": to_ms(one.at),
            "order_id": one.order_id,
            "site": one.site,
            "account": one.account,
            "note": one.note,
        }
        for one in visits
    ]
    if rows:
        await connection.execute(insert(equipment_step), rows)


async def forget_reports(connection: AsyncConnection, names: Sequence[Name]) -> None:
    """What these units said of their items: before they are staged anew."""
    if names:
        statement = delete(item_report).where(tuple_(item_report.c.group_id, item_report.c.serial).in_(names))
        await connection.execute(statement)


async def _put(
    connection: AsyncConnection, table: Any, rows: Sequence[dict[str, Any]], keep: Sequence[str] = ()
) -> None:
    if not rows:
        return
    statement = upsert(table)
    keys = list(table.primary_key.columns)
    names = [name for name in rows[0] if name not in {one.name for one in keys} and name not in keep]
    changed = {name: statement.excluded[name] for name in names}
    await connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=changed), rows)
