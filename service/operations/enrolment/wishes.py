"""What operators wish of an order at its provider: units back, the order gone, written anew, or once more what failed.

Owns the four wishes; each is one audited transaction, and the next run of `enrolment-request` acts on it. Rules stand in
domain/enrolment.py.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from sqlalchemy import select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from service.domain import enrolment
from service.domain.enrolment import Enrolment, IllegalMove, Standing, Unit
from service.operations.enrolment import rows
from service.operations.notes import note
from service.operations.requests import bad_request, conflict, not_found
from service.storage.database import Database
from service.storage.rows import to_ms
from service.storage.warehouse_tables import order_unit


async def give_back(database: Database, order_id: str, serials: Sequence[str], *, by: str, now: datetime) -> Enrolment:
    """These units leave the order, here and at the provider. Raises ServiceError."""
    if not serials:
        raise bad_request("serial_missing", "say which units come back")

    async def change(connection: AsyncConnection, of: rows.OrderOf) -> Standing:
        if of.doubtful:
            raise conflict("enrolment_doubtful", f"the provider may hold order {order_id} although it was refused")
        units = await _bound(connection, order_id, serials)
        unit = order_unit.c
        names = [(one.group_id, one.serial) for one in units]
        await connection.execute(
            update(order_unit)
            .where(unit.order_id == order_id, tuple_(unit.group_id, unit.serial).in_(names))
            .values(released_at=to_ms(now))
        )
        return enrolment.unwanted(of.standing, units)

    return await _wish(database, order_id, "order-return", {"serials": list(serials)}, change, by, now)


async def void(database: Database, order_id: str, *, by: str, now: datetime) -> Enrolment:
    """The whole order goes; the provider is asked for that unless it never was asked for the order. Raises ServiceError.

    Where it is known how the order stands there: adopting.py.
    """

    async def change(_: AsyncConnection, of: rows.OrderOf) -> Standing:
        return enrolment.voided(replace(of.standing, held=of.standing.held or of.doubtful))

    return await _wish(database, order_id, "order-void", {}, change, by, now)


async def override(database: Database, order_id: str, *, by: str, now: datetime) -> Enrolment:
    """The provider's order is written anew with what it is here. Raises ServiceError."""

    async def change(_: AsyncConnection, of: rows.OrderOf) -> Standing:
        return enrolment.overridden(of.standing)

    return await _wish(database, order_id, "order-override", {}, change, by, now)


async def retry(database: Database, order_id: str, *, by: str, now: datetime) -> Enrolment:
    """Ask once more for what failed. Raises ServiceError."""

    async def change(_: AsyncConnection, of: rows.OrderOf) -> Standing:
        return enrolment.retried(of.standing, of.last)

    return await _wish(database, order_id, "order-retry", {}, change, by, now)


async def _wish(
    database: Database,
    order_id: str,
    verb: str,
    arguments: Mapping[str, object],
    change: Callable[[AsyncConnection, rows.OrderOf], Awaitable[Standing]],
    by: str,
    now: datetime,
) -> Enrolment:
    async with database.write(audit=False) as transaction:
        connection = transaction.connection
        of = await rows.order(connection, order_id, database.sealer)
        try:
            after = await change(connection, of)
        except IllegalMove as error:
            raise conflict("enrolment_state", f"order {order_id}: {error}") from error
        await rows.put_standing(connection, of, after, now)
        before = {"enrolment": of.standing.order.value}
        await note(
            connection, by, verb, {"order": order_id, **arguments}, now, before=before,
            after={"enrolment": after.order.value},
        )  # fmt: skip
    return after.order


async def _bound(connection: AsyncConnection, order_id: str, serials: Sequence[str]) -> list[Unit]:
    unit = order_unit.c
    query = select(unit.group_id, unit.serial).where(unit.order_id == order_id, unit.serial.in_(list(serials)))
    found = [Unit(row.group_id, row.serial) for row in await connection.execute(query)]
    missing = set(serials) - {one.serial for one in found}
    if missing:
        raise not_found("unit_unknown", f"{min(missing)[:128]} is not on order {order_id}")
    return found
