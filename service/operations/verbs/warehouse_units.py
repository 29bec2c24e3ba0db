"""The units that a warehouse command names, with their orders and sites: loaded once, judged one by one.

Owns whose they are: a unit belongs to its order's site's OU, else to its own site's, else to its group's default, and to
the OU where its device is. Who takes it elsewhere, or its credentials away, needs that also of one that is nowhere yet.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncConnection

from service.domain.device import Device
from service.domain.warehouse import Binding, Equipment, Order, Site
from service.operations.requests import bad_request, not_found
from service.operations.selectors import ou_of
from service.operations.verbs.verb import World
from service.operations.verbs.warehouse_rows import check_scope, unit_name
from service.storage import warehouse_queries as queries
from service.storage.warehouse_queries import Name

MAX_PAGE = 100  # units of a whole order in one command; the answer says where the next page begins


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of the units that are named."""

    world: World
    units: Mapping[Name, Equipment]
    bound: Mapping[Name, Binding]
    orders: Mapping[str, Order]
    sites: Mapping[str, Site]
    line_types: Mapping[tuple[str, int], str]  # (order, line) -> its device type

    def unit(self, name: Name, device: Device | None) -> Equipment:
        """Raises ServiceError NOT_FOUND, or FORBIDDEN: another OU's."""
        found = self.units.get(name)
        if found is None:
            raise not_found("unit_unknown", f"no unit {name[0]}/{name[1]} was received")
        self.check(name, device)
        return found

    def site_of(self, name: Name) -> Site | None:
        """Where it goes: what its order says, else where it was sent."""
        bound, unit = self.bound.get(name), self.units.get(name)
        if bound is not None:
            return self.sites.get(self.orders[bound.order_id].site or "")
        return None if unit is None else self.sites.get(unit.site or "")

    def order_of(self, name: Name) -> str | None:
        bound = self.bound.get(name)
        return None if bound is None else bound.order_id

    def check(self, name: Name, device: Device | None) -> None:
        """Raises ServiceError FORBIDDEN unless the unit is the operator's.

        1. The site of its order and its own, else what its group says. 2. Where its device is, if it is anywhere.
        """
        group, sites = self.world.catalogue.groups.get(name[0]), self._sites_of(name)
        for site in sites:
            check_scope(site.ou, self.world)
        if not sites:
            check_scope(group.default_ou if group is not None else None, self.world)
        at = None if device is None else device.thing.ou if device.thing is not None else device.ou
        if at is not None:
            check_scope(at, self.world)

    def check_now(self, name: Name, device: Device | None) -> None:
        """Raises ServiceError FORBIDDEN unless the unit is the operator's at every place that it has.

        1. Its order's site, and the site where the warehouse knows it. 2. Where its device is. 3. One that nobody knows
        yet is where its group would put it.
        """
        group, here = self.world.catalogue.groups.get(name[0]), self._own_site(name)
        for site in self._sites_of(name):
            check_scope(site.ou, self.world)
        if device is not None:
            check_scope(ou_of(device, group), self.world)
        elif here is None:
            check_scope(group.default_ou if group is not None else None, self.world)

    def _own_site(self, name: Name) -> Site | None:
        """Where the warehouse knows it."""
        unit = self.units.get(name)
        return None if unit is None else self.sites.get(unit.site or "")

    def _sites_of(self, name: Name) -> list[Site]:
        return [site for site in (self.site_of(name), self._own_site(name)) if site is not None]


async def load(connection: AsyncConnection, names: Collection[Name], world: World) -> Known:
    units = await queries.units(connection, names)
    bound = await queries.bindings(connection, names)
    orders = await queries.orders(connection, {one.order_id for one in bound.values()})
    named = {one.site for one in orders.values()} | {one.site for one in units.values()}
    sites = await queries.sites(connection, [one for one in named if one is not None])
    lines = await queries.lines(connection, list(orders))
    types = {(one.order_id, one.line): one.device_type for one in lines}
    return Known(world, units, bound, orders, sites, types)


async def names_of(
    connection: AsyncConnection, order_id: str | None, units: Collection[str] | None, after: str | None
) -> tuple[list[Name], str | None]:
    """The units that are named, or a page of those of an order; and where its next page begins.

    Raises ServiceError BAD_REQUEST, NOT_FOUND.
    """
    if (order_id is None) == (units is None):
        raise bad_request("units_missing", "name units or an order, one of the two")
    if order_id is None:
        return [unit_name(one) for one in dict.fromkeys(units or ())], None
    if order_id not in await queries.orders(connection, [order_id]):
        raise not_found("order_unknown", f"no order {order_id[:64]!r}")
    begin = unit_name(after) if after is not None else ("", "")
    found = await queries.bindings_of(connection, order_id, after=begin, limit=MAX_PAGE)
    names = [(one.group_id, one.serial) for one in found]
    return names, "/".join(names[-1]) if len(names) == MAX_PAGE else None
