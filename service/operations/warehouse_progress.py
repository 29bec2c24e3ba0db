"""How far an order has come in the warehouse: each unit's step and items, and what has failed with its cause.

Owns how progress is counted: a unit's percentage is that of the bytes that it has fetched of its manifest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from service.domain.manifest import ItemReport, ItemState
from service.domain.warehouse import Binding, Equipment, Order, OrderState, Step
from service.errors import ServiceError
from service.operations.accounts import Operator
from service.operations.requests import not_found
from service.operations.warehouse_pages import EXPECTED
from service.storage import warehouse_queries as queries
from service.storage.database import Database
from service.storage.warehouse_tables import manifest_item

STEPS = (EXPECTED, *(one.value for one in Step))
_THERE = (ItemState.FETCHED, ItemState.INSTALLED, ItemState.WORKING)
_UNPACKED = (Step.OUT_OF_BOX, Step.SHIPPED, Step.AT_SITE)
Sizes = Mapping[str, int]  # of a manifest's items, by name


@dataclass(frozen=True, slots=True)
class Failure:
    """What stands still, for the operator's list. `item` is None for what is no item: its settings, say."""

    unit: str
    step: str
    item: str | None
    version: str | None
    cause: str
    at: datetime


@dataclass(frozen=True, slots=True)
class UnitProgress:
    unit: str
    step: str
    percent: int = 0  # of its manifest's bytes
    working: int = 0
    items: int = 0
    doing: str | None = None  # the item that it is at: `app 2.1.0 fetched`
    cause: str | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    order: str
    site: str | None
    total: int
    steps: Mapping[str, int] = field(hash=False)
    units: tuple[UnitProgress, ...] = ()
    failures: tuple[Failure, ...] = ()
    state: OrderState = OrderState.OPEN

    @property
    def is_done(self) -> bool:
        """Whether every unit has left the warehouse's hands or could, or nobody waits for them."""
        if self.state in (OrderState.CLOSED, OrderState.CANCELLED):
            return True
        return self.total > 0 and sum(self.steps.get(one.value, 0) for one in _UNPACKED) == self.total


async def progress(database: Database, operator: Operator, order_id: str) -> Progress:
    """Raises ServiceError NOT_FOUND, FORBIDDEN."""
    async with database.read() as connection:
        of = await _order(connection, operator, order_id)
        units = await queries.units_of_order(connection, order_id)
        reports = await queries.item_reports_of_order(connection, order_id)
        sizes = await _sizes(connection, {one.manifest_id for _, one in units if one is not None and one.manifest_id})
    found = []
    failures: list[Failure] = []
    for binding, unit in units:
        said = reports.get((binding.group_id, binding.serial), {})
        found.append(_progress(binding, unit, said, sizes))
        if unit is not None:
            failures += _failures(unit, said)
    steps = Counter(one.step for one in found)
    ordered = {step: steps[step] for step in STEPS if steps[step]}
    return Progress(order_id, of.site, len(found), ordered, tuple(found), tuple(failures), of.state)


def _progress(
    binding: Binding, unit: Equipment | None, said: Mapping[str, ItemReport], sizes: Mapping[str, Sizes]
) -> UnitProgress:
    name = f"{binding.group_id}/{binding.serial}"
    if unit is None:
        return UnitProgress(name, EXPECTED)
    of = sizes.get(unit.manifest_id or "", {})
    working = sum(1 for one in of if one in said and said[one].state is ItemState.WORKING)
    percent = 100 if unit.step in _UNPACKED else _percent(of, said)
    doing = None
    if unit.step is Step.STAGED:
        now = next((said[one] for one in of if one in said and said[one].state is not ItemState.WORKING), None)
        doing = None if now is None else f"{now.name} {now.version} {now.state.value}"
    return UnitProgress(name, unit.step.value, percent, working, len(of), doing, unit.cause)


def _percent(sizes: Sizes, said: Mapping[str, ItemReport]) -> int:
    total = sum(sizes.values())
    if not total:
        return 0
    there = 0
    for name, size in sizes.items():
        report = said.get(name)
        if report is not None:
            there += size * (100 if report.state in _THERE else report.progress or 0)
    return there // total


def _failures(unit: Equipment, said: Mapping[str, ItemReport]) -> list[Failure]:
    name, step = f"{unit.group_id}/{unit.serial}", unit.step.value
    failed = [
        Failure(name, step, one.name, one.version, one.cause or "failed", one.at)
        for one in said.values()
        if one.state is ItemState.FAILED
    ]
    if not failed and unit.cause is not None:
        failed.append(Failure(name, step, None, None, unit.cause, unit.step_at))
    return failed


async def _order(connection: AsyncConnection, operator: Operator, order_id: str) -> Order:
    of = (await queries.orders(connection, [order_id])).get(order_id)
    if of is None:
        raise not_found("order_unknown", f"no order {order_id[:64]!r}")
    where = (await queries.sites(connection, [of.site or ""])).get(of.site or "")
    if not operator.may_see(where.ou if where is not None else None):
        raise ServiceError("FORBIDDEN", "outside of your OU", cause="out_of_scope")
    return of


async def _sizes(connection: AsyncConnection, ids: set[str]) -> dict[str, dict[str, int]]:
    """Of each manifest, in the order of installation."""
    of = manifest_item.c
    query = select(of.manifest_id, of.name, of.size).where(of.manifest_id.in_(ids))
    found: dict[str, dict[str, int]] = {}
    for row in await connection.execute(query.order_by(of.manifest_id, of.position)):
        found.setdefault(row.manifest_id, {})[row.name] = row.size
    return found
