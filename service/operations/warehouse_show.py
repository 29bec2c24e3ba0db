"""What operators see of one thing in the warehouse: a device type, a site, an order, a unit with where it has been.

Owns the fields and the operator's scope; changes nothing. Settings are told by name, their values to an admin who asks.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import and_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from service.domain.manifest import ItemReport
from service.domain.warehouse import Site, Visit
from service.errors import ServiceError
from service.operations.accounts import Operator
from service.operations.requests import conflict, not_found, parse_device
from service.operations.verbs.verb import Role
from service.operations.warehouse_pages import EXPECTED, Document, order_counts, unit_document
from service.storage import manifest_queries
from service.storage import warehouse_queries as queries
from service.storage.database import Database
from service.storage.rows import to_ms
from service.storage.tables import device, registration_group
from service.storage.warehouse_queries import Name
from service.storage.warehouse_tables import equipment, order_unit


async def show(database: Database, operator: Operator, what: str, name: str) -> Document:
    """By the word for it. Raises ServiceError NOT_FOUND, also for what there is nothing to show of; FORBIDDEN."""
    shown = {"device-type": device_type, "site": site, "order": order, "unit": unit}.get(what)
    if shown is None:
        raise not_found("list_unknown", "there is device-type, site, order, unit to show")
    return await shown(database, operator, name)


async def device_type(database: Database, operator: Operator, name: str) -> Document:
    """Raises ServiceError NOT_FOUND, FORBIDDEN."""
    async with database.read() as connection:
        found = (await queries.device_types(connection, [name])).get(name)
        if found is None:
            raise not_found("type_unknown", f"no device type {name[:64]!r}")
        group = await _group(connection, found.group_id)
        _check(operator, group.default_ou)
        manifest_id = (await manifest_queries.ids_for(connection, [found])).get(name)
        known = {one.manifest_id: one for one in await manifest_queries.listed(connection, group.product_id)}
    given = known.get(manifest_id or "")
    return {
        "name": found.name,
        "group": found.group_id,
        "product": group.product_id,
        "description": found.description,
        "manifest": given.name if given is not None else None,
        "manifest_is_static": given is not None and found.manifest_id is None,
        "warehouse_settings": list(found.warehouse_settings),
        "handshake_settings": list(found.handshake_settings),
    }


async def site(database: Database, operator: Operator, name: str, *, reveal: bool = False) -> Document:
    """With `reveal` the settings' values too, for an admin. Raises ServiceError NOT_FOUND, FORBIDDEN."""
    async with database.read() as connection:
        of = await _site(connection, operator, name)
        settings = await queries.settings_of(connection, database.sealer, of)
    found: Document = {"name": of.name, "ou": of.ou, "title": of.title, "settings_rev": of.settings_rev}
    if reveal:
        if not operator.role.may(Role.ADMIN):
            raise ServiceError("FORBIDDEN", "this needs the role admin", cause="role_too_low")
        return {**found, "settings": settings}
    return {**found, "settings": sorted(f"{section}.{one}" for section, values in settings.items() for one in values)}


async def order(database: Database, operator: Operator, order_id: str) -> Document:
    """Its lines and how many of their units have come how far. Raises ServiceError NOT_FOUND, FORBIDDEN."""
    async with database.read() as connection:
        of = (await queries.orders(connection, [order_id])).get(order_id)
        if of is None:
            raise not_found("order_unknown", f"no order {order_id[:64]!r}")
        where = (await queries.sites(connection, [of.site or ""])).get(of.site or "")
        _check(operator, where.ou if where is not None else None)
        assigned = await queries.line_counts(connection, [order_id])
        lines = [
            {
                "line": one.line,
                "type": one.device_type,
                "quantity": one.quantity or None,
                "units": assigned.get((order_id, one.line), 0),
            }
            for one in await queries.lines(connection, [order_id])
        ]
        counts = (await order_counts(connection, [order_id]))[order_id]
    return {"name": order_id, "site": of.site, "state": of.state.value, **counts, "lines": lines}


async def unit(database: Database, operator: Operator, text: str) -> Document:
    """Where a unit is and where it has been, with what it said of its items.

    By GROUP/SERIAL, or a serial number that is there once. Raises ServiceError NOT_FOUND, CONFLICT (several have this
    serial number), FORBIDDEN.
    """
    async with database.read() as connection:
        name = await unit_named(connection, text)
        row = await _unit_row(connection, name)
        bound = (await queries.bindings(connection, [name])).get(name)
        site_name = row.site if row is not None else None
        if bound is not None:
            site_name = (await queries.orders(connection, [bound.order_id]))[bound.order_id].site
        where = (await queries.sites(connection, [site_name or ""])).get(site_name or "")
        group = await _group(connection, name[0])
        _check(operator, where.ou if where is not None else group.default_ou)
        visits = await queries.visits(connection, name)
        reports = (await queries.item_reports(connection, [name])).get(name, {})
        manifest = await _manifest_name(connection, row)
    if row is None:
        order_id = bound.order_id if bound is not None else None
        found: Document = {"name": "/".join(name), "step": EXPECTED, "site": site_name, "order": order_id}
    else:
        found = {**unit_document(row), "device_state": row.device_state, "settings_cause": row.settings_cause}
    been = [_visit(one) for one in visits]
    items = [_report(one) for one in reports.values()]
    return {**found, "manifest": manifest, "been": been, "items": items}


def _visit(one: Visit) -> Document:
    return {
        "step": one.step,
        "at": to_ms(one.at),
        "order": one.order_id,
        "site": one.site,
        "by": one.account or "the device",
        "note": one.note or None,
    }


def _report(one: ItemReport) -> Document:
    return {
        "name": one.name,
        "version": one.version,
        "state": one.state.value,
        "progress": one.progress,
        "cause": one.cause,
        "at": to_ms(one.at),
    }


async def unit_named(connection: AsyncConnection, text: str) -> Name:
    """The unit of that name. Raises ServiceError: none, or several of that serial number."""
    group_id, serial = parse_device(text)
    found = [one for one in await queries.serial_names(connection, serial) if group_id in (None, one[0])]
    if not found:
        raise not_found("unit_unknown", f"no unit {text[:200]}")
    if len(found) > 1:
        names = ["/".join(one) for one in found]
        raise conflict("serial_ambiguous", f"several units have this serial: {', '.join(names)}", candidates=names)
    return found[0]


async def _site(connection: AsyncConnection, operator: Operator, name: str) -> Site:
    found = (await queries.sites(connection, [name])).get(name)
    if found is None:
        raise not_found("site_unknown", f"no site {name[:64]!r}")
    _check(operator, found.ou)
    return found


async def _unit_row(connection: AsyncConnection, name: Name) -> Any:
    of, bound = equipment.c, order_unit.c
    on = and_(bound.group_id == of.group_id, bound.serial == of.serial, bound.released_at.is_(None))
    query = (
        select(
            of.group_id.label("of_group"),
            of.serial.label("of_serial"),
            of.site.label("of_site"),
            bound.order_id,
            device.c.state.label("device_state"),
            *of,
        )
        .select_from(equipment)
        .outerjoin(order_unit, on)
        .outerjoin(device, device.c.device_id == of.device_id)
        .where(of.group_id == name[0], of.serial == name[1])
    )
    return (await connection.execute(query)).first()


async def _manifest_name(connection: AsyncConnection, row: Any) -> str | None:
    if row is None or row.manifest_id is None:
        return None
    known = await manifest_queries.listed(connection)
    return next((one.name for one in known if one.manifest_id == row.manifest_id), None)


async def _group(connection: AsyncConnection, group_id: str) -> Any:
    of = registration_group.c
    query = select(of.product_id, of.default_ou).where(of.group_id == group_id)
    return (await connection.execute(query)).one()


def _check(operator: Operator, ou: str | None) -> None:
    if not operator.may_see(ou):
        raise ServiceError("FORBIDDEN", "outside of your OU", cause="out_of_scope")
