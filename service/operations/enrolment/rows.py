"""Orders, units, batches and transactions of enrolment in the database. Owns the statements, no rule."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import and_, false, func, insert, or_, select, update
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from service.domain.enrolment import Asked, Enrolment, RequestType, Standing, Unit
from service.operations.requests import not_found
from service.storage.enrolment_tables import (
    enrolment_batch,
    enrolment_device,
    enrolment_state,
    enrolment_transaction,
    workflow_event,
)
from service.storage.rows import to_ms
from service.storage.sealing import Sealer, enrolment_batch_aad, order_policies_aad
from service.storage.warehouse_tables import order_unit, sales_order

OPEN = "open"
ACCEPTED = ("complete", "complete_with_errors")
PAGE = 500  # rows of one statement


@dataclass(frozen=True, slots=True)
class OrderOf:
    """What a sales order says of enrolment."""

    order_id: str
    enrol: bool
    provider_id: str | None
    organisation: str | None
    policies: Mapping[str, Any]  # with the secret ones
    standing: Standing
    last: RequestType | None  # what was asked last, and has been answered
    doubtful: bool  # asked for since the provider last accepted something, and refused: it may hold it all the same


@dataclass(frozen=True, slots=True)
class Transaction:
    transaction_id: str
    order_id: str
    provider_id: str
    request: RequestType
    state: str
    listed: tuple[Unit, ...]
    leaving: tuple[Unit, ...]

    @property
    def asked(self) -> Asked:
        return Asked(self.request, self.listed, self.leaving)


async def order(connection: AsyncConnection, order_id: str, sealer: Sealer) -> OrderOf:
    """Raises ServiceError NOT_FOUND."""
    row = (await connection.execute(select(sales_order).where(sales_order.c.order_id == order_id))).first()
    if row is None:
        raise not_found("order_unknown", f"no sales order {order_id[:64]!r}")
    of = enrolment_state.c
    units = {
        Unit(found.group_id, found.serial): Enrolment(found.state)
        for found in await connection.execute(select(of.group_id, of.serial, of.state).where(of.order_id == order_id))
    }
    last, held, refused = await _history(connection, order_id)
    policies = json.loads(row.policies)
    if row.policies_sealed is not None:
        policies |= json.loads(sealer.open(row.policies_sealed, order_policies_aad(order_id)))
    return OrderOf(
        order_id,
        bool(row.enrol),
        row.provider_id,
        row.organisation,
        policies,
        Standing(Enrolment(row.enrolment_state), units, held),
        last,
        doubtful=refused and not held,
    )


async def _history(connection: AsyncConnection, order_id: str) -> tuple[RequestType | None, bool, bool]:
    """What was asked last, whether the provider holds the order since what it accepted last, and if it refused since."""
    of = enrolment_transaction.c
    query = (
        select(of.request_type, of.state)
        .where(of.order_id == order_id, of.finished_at.is_not(None))
        .order_by(of.finished_at.desc(), of.created_at.desc(), of.transaction_id.desc())
    )
    last, held, refused = None, False, False
    for number, row in enumerate(await connection.execute(query)):
        if number == 0:
            last = RequestType(row.request_type)
        if row.state in ACCEPTED:
            held = RequestType(row.request_type) is not RequestType.VOID
            break
        refused = True
    return last, held, refused


async def put_standing(
    connection: AsyncConnection,
    of: OrderOf,
    after: Standing,
    now: datetime,
    causes: Mapping[Unit, str] | None = None,
) -> None:
    """Store how order and units stand now; `causes`: why a unit failed."""
    if after.order is not of.standing.order:
        await connection.execute(
            update(sales_order).where(sales_order.c.order_id == of.order_id).values(enrolment_state=after.order.value)
        )
    rows = [
        {
            "group_id": unit.group_id,
            "serial": unit.serial,
            "state": state.value,
            "provider_id": of.provider_id,
            "organisation": of.organisation,
            "order_id": of.order_id,
            "cause": (causes or {}).get(unit),
            "changed_at": to_ms(now),
        }
        for unit, state in after.units.items()
        if of.standing.units.get(unit) is not state
    ]
    for start in range(0, len(rows), PAGE):
        statement = upsert(enrolment_state)
        statement = statement.on_conflict_do_update(
            index_elements=["group_id", "serial"],
            set_={
                name: statement.excluded[name]
                for name in ("state", "provider_id", "organisation", "order_id", "cause", "changed_at")
            },
        )
        await connection.execute(statement, rows[start : start + PAGE])


async def candidates(connection: AsyncConnection, limit: int, provider_ids: Collection[str]) -> tuple[list[str], int]:
    """Orders with these providers that wait for a request, by their own state or by that of a unit; the oldest first.

    And how many wait with others: however many they are, they take nobody's place.
    """
    of, unit = sales_order.c, enrolment_state.c
    waiting = (Enrolment.ENROL_PENDING.value, Enrolment.UNENROL_PENDING.value)
    opened = select(enrolment_transaction.c.order_id).where(enrolment_transaction.c.state == OPEN)
    wait = and_(
        or_(of.enrolment_state.in_(waiting), of.order_id.in_(select(unit.order_id).where(unit.state.in_(waiting)))),
        of.order_id.not_in(opened),
    )
    theirs = of.enrol & of.provider_id.in_(list(provider_ids))
    query = select(of.order_id).where(wait, theirs).order_by(of.created_at, of.order_id).limit(limit)
    others = select(func.count()).where(wait, ~func.coalesce(theirs, false()))
    found = list((await connection.execute(query)).scalars())
    return found, (await connection.execute(others)).scalar_one()


async def released(connection: AsyncConnection) -> dict[str, list[Unit]]:
    """Units that have left their order but are enrolled with it still, by order."""
    state, unit = enrolment_state.c, order_unit.c
    here = (unit.order_id == state.order_id) & (unit.group_id == state.group_id) & (unit.serial == state.serial)
    query = (
        select(state.order_id, state.group_id, state.serial)
        .select_from(enrolment_state.join(order_unit, here))
        .where(
            state.state.in_((Enrolment.ENROLLED.value, Enrolment.ENROL_PENDING.value)), unit.released_at.is_not(None)
        )
    )
    found: dict[str, list[Unit]] = {}
    for row in await connection.execute(query):
        found.setdefault(row.order_id, []).append(Unit(row.group_id, row.serial))
    return found


async def add_batch(
    connection: AsyncConnection,
    sealer: Sealer,
    *,
    batch_id: str,
    direction: str,
    provider_id: str,
    state: str,
    record_count: int,
    document: bytes,
    file_name: str | None,
    now: datetime,
) -> None:
    row = {
        "batch_id": batch_id,
        "direction": direction,
        "provider_id": provider_id,
        "state": state,
        "record_count": record_count,
        "document_sealed": sealer.seal(document, enrolment_batch_aad(batch_id)),
        "file_name": file_name,
        "created_at": to_ms(now),
        "changed_at": to_ms(now),
    }
    await connection.execute(insert(enrolment_batch), [row])


async def batches(
    connection: AsyncConnection, direction: str, state: str, *, provider_ids: Iterable[str] | None = None
) -> list[Any]:
    """Rows of the batches in one state, the oldest first."""
    of = enrolment_batch.c
    query = select(enrolment_batch).where(of.direction == direction, of.state == state)
    if provider_ids is not None:
        query = query.where(of.provider_id.in_(list(provider_ids)))
    return list(await connection.execute(query.order_by(of.created_at, of.batch_id)))


async def batch(connection: AsyncConnection, batch_id: str) -> Any:
    return (await connection.execute(select(enrolment_batch).where(enrolment_batch.c.batch_id == batch_id))).first()


async def batch_by_reference(connection: AsyncConnection, provider_id: str, reference: str) -> Any:
    of = enrolment_batch.c
    query = select(enrolment_batch).where(of.provider_id == provider_id, of.reference == reference)
    return (await connection.execute(query)).first()


async def set_batch(connection: AsyncConnection, batch_id: str, now: datetime, **values: Any) -> None:
    await connection.execute(
        update(enrolment_batch).where(enrolment_batch.c.batch_id == batch_id).values(changed_at=to_ms(now), **values)
    )


def document_of(row: Any, sealer: Sealer) -> bytes:
    return sealer.open(row.document_sealed, enrolment_batch_aad(row.batch_id))


async def add_transaction(
    connection: AsyncConnection, transaction_id: str, order_id: str, batch_id: str, asked: Asked, now: datetime
) -> None:
    row = {
        "transaction_id": transaction_id,
        "order_id": order_id,
        "batch_id": batch_id,
        "request_type": asked.request.value,
        "state": OPEN,
        "created_at": to_ms(now),
    }
    await connection.execute(insert(enrolment_transaction), [row])
    rows = [
        {"transaction_id": transaction_id, "group_id": unit.group_id, "serial": unit.serial, "leaving": leaving}
        for units, leaving in ((asked.listed, False), (asked.leaving, True))
        for unit in units
    ]
    for start in range(0, len(rows), PAGE):
        await connection.execute(insert(enrolment_device), rows[start : start + PAGE])


async def transaction(connection: AsyncConnection, transaction_id: str) -> Transaction | None:
    of, by = enrolment_transaction.c, enrolment_batch.c
    query = (
        select(of.transaction_id, of.order_id, by.provider_id, of.request_type, of.state)
        .select_from(enrolment_transaction.join(enrolment_batch, of.batch_id == by.batch_id))
        .where(of.transaction_id == transaction_id)
    )
    row = (await connection.execute(query)).first()
    if row is None:
        return None
    device = enrolment_device.c
    found = (
        await connection.execute(
            select(device.group_id, device.serial, device.leaving)
            .where(device.transaction_id == transaction_id)
            .order_by(device.group_id, device.serial)
        )
    ).all()
    return Transaction(
        row.transaction_id,
        row.order_id,
        row.provider_id,
        RequestType(row.request_type),
        row.state,
        tuple(Unit(one.group_id, one.serial) for one in found if not one.leaving),
        tuple(Unit(one.group_id, one.serial) for one in found if one.leaving),
    )


async def open_of(connection: AsyncConnection, order_id: str) -> Transaction | None:
    """The one transaction of this order whose answer is still to come."""
    of = enrolment_transaction.c
    query = select(of.transaction_id).where(of.order_id == order_id, of.state == OPEN)
    transaction_id = (await connection.execute(query)).scalar()
    return None if transaction_id is None else await transaction(connection, transaction_id)


async def finish(
    connection: AsyncConnection,
    of: Transaction,
    state: str,
    cause: str | None,
    outcomes: Sequence[Mapping[str, Any]],
    now: datetime,
) -> None:
    """`outcomes`: one map for each unit with group_id, serial, outcome, code, message."""
    await connection.execute(
        update(enrolment_transaction)
        .where(enrolment_transaction.c.transaction_id == of.transaction_id)
        .values(state=state, cause=cause, finished_at=to_ms(now))
    )
    device = enrolment_device.c
    for one in outcomes:
        await connection.execute(
            update(enrolment_device)
            .where(
                device.transaction_id == of.transaction_id,
                device.group_id == one["group_id"],
                device.serial == one["serial"],
            )
            .values(outcome=one["outcome"], code=one["code"], message=one["message"], at=to_ms(now))
        )


async def open_transactions(connection: AsyncConnection, batch_id: str) -> int:
    of = enrolment_transaction.c
    query = select(of.transaction_id).where(of.batch_id == batch_id, of.state == OPEN)
    return len((await connection.execute(query)).all())


async def batch_of(connection: AsyncConnection, transaction_id: str) -> str:
    of = enrolment_transaction.c
    return str((await connection.execute(select(of.batch_id).where(of.transaction_id == transaction_id))).scalar_one())


async def add_event(
    connection: AsyncConnection, kind: str, order_id: str, transaction_id: str | None, notes: str, now: datetime
) -> None:
    row = {
        "at": to_ms(now), "kind": kind, "order_id": order_id, "transaction_id": transaction_id, "notes": notes,
    }  # fmt: skip
    await connection.execute(insert(workflow_event), [row])
