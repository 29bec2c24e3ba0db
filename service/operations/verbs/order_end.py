"""How a sales order ends: what `close-order` and `cancel-order` look at, order by order.

Owns what is known of an order and which of its states and of its enrolment stand in the way; no verb. Numbers are counted
by the database, because an order may have very many units.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

from sqlalchemy import and_, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from service.domain.enrolment import Enrolment
from service.domain.warehouse import Line, Order, OrderState, Step
from service.operations.requests import conflict, not_found
from service.operations.verbs.making import Made
from service.operations.verbs.verb import World
from service.operations.verbs.warehouse_rows import check_scope, decide
from service.storage import warehouse_queries as queries
from service.storage import warehouse_writes as writes
from service.storage.enrolment_tables import enrolment_state
from service.storage.warehouse_tables import equipment, order_unit, sales_order

SHOWN = 5  # units that a refusal names


@dataclass(frozen=True, slots=True)
class Ending:
    """An order with its units by step (None: not received yet) and where its enrolment stands, units included."""

    order: Order
    ou: str | None
    units: Mapping[Step | None, int]
    shown: Mapping[Step | None, tuple[str, ...]]  # a few of each, as GROUP/SERIAL
    lines: tuple[Line, ...]
    on_line: Mapping[tuple[str, int], int]
    enrolment: frozenset[Enrolment]

    def count(self, *steps: Step | None) -> int:
        return sum(self.units.get(one, 0) for one in steps)

    def named(self, *steps: Step | None) -> str:
        """How many units are in these steps, with the names of some."""
        names = [name for one in steps for name in self.shown.get(one, ())]
        more = self.count(*steps) - len(names[:SHOWN])
        return f"{', '.join(names[:SHOWN])}{f' and {more} more' if more else ''}"

    def check_enrolment(self, good: Collection[Enrolment]) -> None:
        """Raises ServiceError CONFLICT where something is open at, or held by, its enrolment provider."""
        bad = sorted(one.value for one in self.enrolment if one not in good)
        if bad:
            raise conflict("order_enrolment", f"order {self.order.order_id} is {bad[0]} at its enrolment provider")


async def end(
    connection: AsyncConnection,
    order_ids: Collection[str],
    world: World,
    state: OrderState,
    check: Callable[[Ending], None],
    *,
    release: bool = False,
) -> Made:
    """Bring orders into that state, each for itself where `check` does not refuse; with `release` units leave it."""
    names = list(dict.fromkeys(order_ids))
    known = await _load(connection, names)
    ended: list[Order] = []

    def take(order_id: str) -> bool:
        of = known.get(order_id)
        if of is None:
            raise not_found("order_unknown", f"no order {order_id[:64]!r}")
        check_scope(of.ou, world)
        if of.order.state is state:
            return False
        if of.order.state in (OrderState.CLOSED, OrderState.CANCELLED):
            raise conflict("order_state", f"order {order_id} is {of.order.state.value}")
        check(of)
        ended.append(replace(of.order, state=state))
        return True

    outcomes = decide(names, lambda one: ("order", one[:64]), take)

    async def write(within: AsyncConnection) -> None:
        await writes.put_orders(within, ended, world.now)
        if release:
            for one in ended:
                await writes.release_order(within, one.order_id, world.now)

    return Made(outcomes, write=write)


async def _load(connection: AsyncConnection, order_ids: Collection[str]) -> dict[str, Ending]:
    orders = await queries.orders(connection, order_ids)
    sites = await queries.sites(connection, {one.site for one in orders.values() if one.site is not None})
    lines = await queries.lines(connection, list(orders))
    counts = await queries.line_counts(connection, list(orders))
    found = {}
    for order_id, one in orders.items():
        site = sites.get(one.site or "")
        units, shown = await _units(connection, order_id)
        found[order_id] = Ending(
            one,
            site.ou if site is not None else None,
            units,
            shown,
            tuple(line for line in lines if line.order_id == order_id),
            counts,
            await _enrolment(connection, order_id),
        )
    return found


async def _units(
    connection: AsyncConnection, order_id: str
) -> tuple[dict[Step | None, int], dict[Step | None, tuple[str, ...]]]:
    of, unit = order_unit.c, equipment.c
    joined = order_unit.outerjoin(equipment, and_(unit.group_id == of.group_id, unit.serial == of.serial))
    live = and_(of.order_id == order_id, of.released_at.is_(None))
    query = select(unit.step, func.count()).select_from(joined).where(live).group_by(unit.step)
    units = {_step(row[0]): int(row[1]) for row in await connection.execute(query)}
    shown = {}
    for step in units:
        in_step = unit.step.is_(None) if step is None else unit.step == step.value
        some = select(of.group_id, of.serial).select_from(joined).where(live, in_step)
        rows = await connection.execute(some.order_by(of.group_id, of.serial).limit(SHOWN))
        shown[step] = tuple(f"{row.group_id}/{row.serial}" for row in rows)
    return units, shown


async def _enrolment(connection: AsyncConnection, order_id: str) -> frozenset[Enrolment]:
    of_order = select(sales_order.c.enrolment_state).where(sales_order.c.order_id == order_id)
    of_units = select(enrolment_state.c.state).where(enrolment_state.c.order_id == order_id)
    return frozenset(Enrolment(row[0]) for row in await connection.execute(of_order.union(of_units)))


def _step(text: str | None) -> Step | None:
    return None if text is None else Step(text)
