"""What operators see of the warehouse, page by page: device types, sites, orders, units, manifests.

Owns the lists' fields and who may see which row: a site's OU decides, for its orders and units too. Values of settings
are secret and in no list.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, and_, func, select, true
from sqlalchemy.ext.asyncio import AsyncConnection

from service.operations.accounts import Operator
from service.operations.requests import bad_request, not_found, parse_device
from service.operations.selectors import at_or_below
from service.storage import manifest_queries
from service.storage.database import Database
from service.storage.rows import to_ms
from service.storage.tables import registration_group
from service.storage.warehouse_tables import (
    device_type,
    equipment,
    manifest,
    order_line,
    order_unit,
    sales_order,
    site,
)

MAX_PAGE = 1000
EXPECTED = "expected"  # the step of a unit that is on an order, and not received yet
Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Asked:
    """Which page; `order` and `site` narrow a list of units, `product` one of manifests."""

    after: str = ""
    limit: int = 100
    order: str | None = None
    site: str | None = None
    step: str | None = None
    product: str | None = None


@dataclass(frozen=True, slots=True)
class Page:
    rows: list[Document]
    after: str | None  # give it to see the next; None at the end


async def page(database: Database, operator: Operator, what: str, asked: Asked) -> Page:
    """One page of a list, by name. Raises ServiceError BAD_REQUEST, NOT_FOUND for what there is no list of."""
    if not 1 <= asked.limit <= MAX_PAGE:
        raise bad_request("limit_illegal", f"a page has 1 to {MAX_PAGE} rows")
    found = LISTS.get(what)
    if found is None:
        raise not_found("list_unknown", f"there are lists of {', '.join(LISTS)}")
    async with database.read() as connection:
        rows = await found(connection, operator, asked)
    return Page(rows, str(rows[-1]["name"]) if len(rows) == asked.limit else None)


async def _types(connection: AsyncConnection, operator: Operator, asked: Asked) -> list[Document]:
    of, group = device_type.c, registration_group.c
    units = select(func.count()).where(equipment.c.device_type == of.name).correlate(device_type).scalar_subquery()
    query = (
        select(*of, group.product_id, manifest.c.name.label("manifest"), units.label("units"))
        .join(registration_group, group.group_id == of.group_id)
        .outerjoin(manifest, manifest.c.manifest_id == of.manifest_id)
        .where(of.name > asked.after, _within(group.default_ou, operator))
        .order_by(of.name)
        .limit(asked.limit)
    )
    return [
        _given(
            name=row.name, group=row.group_id, product=row.product_id, description=row.description or None,
            manifest=row.manifest, units=row.units,
        )
        for row in await connection.execute(query)
    ]  # fmt: skip


async def _sites(connection: AsyncConnection, operator: Operator, asked: Asked) -> list[Document]:
    of = site.c
    query = select(site).where(of.name > asked.after, _within(of.ou, operator)).order_by(of.name).limit(asked.limit)
    found = list(await connection.execute(query))
    steps = await _steps(connection, equipment.c.site, [row.name for row in found])
    return [
        _given(
            name=row.name, ou=row.ou, title=row.title or None, settings_rev=row.settings_rev,
            steps=steps.get(row.name, {}),
        )
        for row in found
    ]  # fmt: skip


async def _orders(connection: AsyncConnection, operator: Operator, asked: Asked) -> list[Document]:
    of = sales_order.c
    query = (
        select(of.order_id, of.site, of.state, of.created_at)
        .outerjoin(site, site.c.name == of.site)
        .where(of.order_id > asked.after, _within(site.c.ou, operator))
        .order_by(of.order_id)
        .limit(asked.limit)
    )
    if asked.site is not None:
        query = query.where(of.site == asked.site)
    found = list(await connection.execute(query))
    counts = await order_counts(connection, [row.order_id for row in found])
    return [
        _given(
            name=row.order_id, site=row.site, state=row.state, created_at=row.created_at, **counts[row.order_id]
        )
        for row in found
    ]  # fmt: skip


async def _failures(connection: AsyncConnection, operator: Operator, asked: Asked) -> list[Document]:
    """Units that stand still, each with its cause: the operator's list."""
    return await _units(connection, operator, asked, stopped=True)


async def _units(
    connection: AsyncConnection, operator: Operator, asked: Asked, *, stopped: bool = False
) -> list[Document]:
    """Those that were received, in the warehouse or beyond; of one order also those that it still expects."""
    of, bound = equipment.c, order_unit.c
    on = and_(bound.group_id == of.group_id, bound.serial == of.serial, bound.released_at.is_(None))
    group_id, serial = (of.group_id, of.serial) if asked.order is None else (bound.group_id, bound.serial)
    joined = (
        equipment.outerjoin(order_unit, on).outerjoin(site, site.c.name == of.site)
        if asked.order is None
        else order_unit.outerjoin(equipment, on)
        .join(sales_order, sales_order.c.order_id == bound.order_id)
        .outerjoin(site, site.c.name == sales_order.c.site)
    )
    after = ("", "") if not asked.after else parse_device(asked.after)
    query = (
        select(group_id.label("of_group"), serial.label("of_serial"), site.c.name.label("of_site"), bound.order_id, *of)
        .select_from(joined.join(registration_group, registration_group.c.group_id == group_id))
        .where(
            (group_id > (after[0] or "")) | and_(group_id == after[0], serial > after[1]),
            _within(func.coalesce(site.c.ou, registration_group.c.default_ou), operator),
        )
        .order_by(group_id, serial)
        .limit(asked.limit)
    )
    if asked.order is not None:
        query = query.where(bound.order_id == asked.order, bound.released_at.is_(None))
    if stopped:
        query = query.where(of.cause.is_not(None))
    for column, wanted in ((site.c.name, asked.site), (of.step, asked.step)):
        if wanted is not None:
            query = query.where(column == wanted)
    return [unit_document(row) for row in await connection.execute(query)]


async def _manifests(connection: AsyncConnection, operator: Operator, asked: Asked) -> list[Document]:
    if operator.scope is not None:  # they belong to products, which have no OU
        return []
    found = [
        _given(
            name=f"{one.product_id}/{one.name}", manifest_id=one.manifest_id, static=one.static, items=one.items,
            size=one.size, created_at=to_ms(one.created_at),
        )
        for one in await manifest_queries.listed(connection, asked.product)
    ]  # fmt: skip
    return [one for one in sorted(found, key=lambda one: one["name"]) if one["name"] > asked.after][: asked.limit]


LISTS: Mapping[str, Callable[[AsyncConnection, Operator, Asked], Awaitable[list[Document]]]] = {
    "device-types": _types,
    "sites": _sites,
    "orders": _orders,
    "units": _units,
    "failures": _failures,
    "manifests": _manifests,
}


async def order_counts(connection: AsyncConnection, order_ids: list[str]) -> dict[str, Document]:
    """Of each order: wanted by its lines, assigned, handed over, stopped, and units by step."""
    of, unit = order_unit.c, equipment.c
    live = and_(of.order_id.in_(order_ids), of.released_at.is_(None))
    joined = order_unit.outerjoin(equipment, and_(unit.group_id == of.group_id, unit.serial == of.serial))
    counted = select(of.order_id, func.count(), func.count(unit.device_id), func.count(unit.cause)).select_from(joined)
    lines = select(order_line.c.order_id, func.sum(order_line.c.quantity)).where(order_line.c.order_id.in_(order_ids))
    wanted = {row[0]: row[1] for row in await connection.execute(lines.group_by(order_line.c.order_id))}
    found: dict[str, Document] = {
        one: {"quantity": wanted.get(one, 0), "units": 0, "handed_over": 0, "stopped": 0, "steps": {}}
        for one in order_ids
    }
    for row in await connection.execute(counted.where(live).group_by(of.order_id)):
        found[row[0]] |= {"units": row[1], "handed_over": row[2], "stopped": row[3]}
    by_step = select(of.order_id, unit.step, func.count()).select_from(joined).where(live, unit.step.is_not(None))
    for row in await connection.execute(by_step.group_by(of.order_id, unit.step)):
        found[row[0]]["steps"][row[1]] = row[2]
    return found


def unit_document(row: Any) -> Document:
    """A unit in a list; `row` is of `equipment`, with its name, site and `order_id` as the statements here call them."""
    return _given(
        name=f"{row.of_group}/{row.of_serial}",
        type=row.device_type,
        step=row.step or EXPECTED,
        at=row.step_at,
        site=row.of_site,
        order=row.order_id,
        handed_over=row.device_id is not None,
        cause=row.cause,
        settings_rev=row.settings_rev or None,
        settings_state=row.settings_state,
    )


async def _steps(connection: AsyncConnection, by: Any, names: list[str]) -> dict[str, dict[str, int]]:
    query: Select[Any] = select(by, equipment.c.step, func.count()).where(by.in_(names)).group_by(by, equipment.c.step)
    found: dict[str, dict[str, int]] = {}
    for row in await connection.execute(query):
        found.setdefault(row[0], {})[row[1]] = row[2]
    return found


def _within(ou: Any, operator: Operator) -> Any:
    return true() if operator.scope is None else at_or_below(ou, operator.scope)


def _given(**fields: Any) -> Document:
    return {name: value for name, value in fields.items() if value is not None}
