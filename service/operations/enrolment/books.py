"""What a provider holds of an order by its own answers: our books, for one that exchanges files and cannot be asked.

Owns the reading of finished transactions; the rule stands in domain/enrolment.py. An answer that was refused, or that
named no unit with its errors, says nothing of what is there.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from service.domain import enrolment
from service.domain.enrolment import Asked, RequestType, Unit
from service.operations.enrolment.dep import HeldOrder
from service.operations.enrolment.rows import ACCEPTED, OPEN
from service.storage.enrolment_tables import enrolment_device, enrolment_transaction
from service.storage.rows import from_ms


class Source(StrEnum):
    """Who says what a provider holds."""

    PROVIDER = "provider"  # it was asked now
    BOOKS = "books"  # what it acknowledged, by `as_of`
    TOLD = "told"  # an operator, in its people's name


@dataclass(frozen=True, slots=True)
class Holding:
    """`as_of`: of the last answer that counts, None where there is none. `refused`: answers since then that changed
    nothing in the books; whether something of them was done all the same, only the provider knows.
    """

    order: HeldOrder
    source: Source
    as_of: datetime | None = None
    refused: int = 0


async def acknowledged(connection: AsyncConnection, order_id: str) -> Holding:
    """By every answer about this order that is kept; upkeep keeps those that are needed."""
    of = enrolment_transaction.c
    query = (
        select(of.transaction_id, of.request_type, of.state, of.finished_at)
        .where(of.order_id == order_id, of.state != OPEN)
        .order_by(of.finished_at, of.created_at, of.transaction_id)
    )
    held: frozenset[Unit] = frozenset()
    known, as_of, refused = False, None, 0
    for row in (await connection.execute(query)).all():
        if row.state not in ACCEPTED:
            refused += 1
            continue
        request = RequestType(row.request_type)
        asked, failed = await _outcomes(connection, row.transaction_id, request)
        held = enrolment.acknowledged(held, asked, failed)
        known, as_of, refused = request is not RequestType.VOID or bool(held), from_ms(row.finished_at), 0
    return Holding(HeldOrder(known, tuple(sorted(unit.serial for unit in held))), Source.BOOKS, as_of, refused)


async def _outcomes(
    connection: AsyncConnection, transaction_id: str, request: RequestType
) -> tuple[Asked, frozenset[Unit]]:
    of = enrolment_device.c
    query = select(of.group_id, of.serial, of.leaving, of.outcome).where(of.transaction_id == transaction_id)
    found: list[Any] = list(await connection.execute(query))
    listed = tuple(Unit(one.group_id, one.serial) for one in found if not one.leaving)
    leaving = tuple(Unit(one.group_id, one.serial) for one in found if one.leaving)
    failed = frozenset(Unit(one.group_id, one.serial) for one in found if one.outcome != "done")
    return Asked(request, listed, leaving), failed
