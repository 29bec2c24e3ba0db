"""What a provider holds becomes what our books say: after a lost answer, a refused repetition, or a transaction given up.

Owns `adopt` and `void`. Adopting writes a transaction that is finished, so the order counts as held (or as not held) from
then on, and whatever is asked next starts from there. Rules stand in domain/enrolment.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from service.domain import enrolment
from service.domain.enrolment import Asked, Enrolment, IllegalMove, RequestType, Unit
from service.operations.enrolment import generic, providers, rows, transformation, wishes
from service.operations.enrolment.dep import HeldOrder
from service.operations.enrolment.providers import Adaptor
from service.operations.enrolment.rows import OrderOf, Transaction
from service.operations.enrolment.working import Working
from service.operations.notes import note
from service.operations.requests import bad_request, conflict

HELD, NOT_HELD = "held by reconciliation", "not held by reconciliation"
NOT_THERE = "the provider does not hold it"


@dataclass(frozen=True, slots=True)
class Adopted:
    """Serial numbers. `foreign`: held there, and no unit of the order here; an override removes them."""

    order_id: str
    state: Enrolment
    held: bool
    enrolled: tuple[str, ...]
    failed: tuple[str, ...]
    foreign: tuple[str, ...]


async def adopt(working: Working, order_id: str, *, by: str, told: Iterable[str] | None = None) -> Adopted:
    """Take over what the provider holds of an order; `told`: as a platform says that cannot be asked, nothing: none.

    Raises ServiceError: NOT_FOUND, CONFLICT (no provider, or an answer is still to come), UNAVAILABLE, BAD_REQUEST.
    """
    async with working.database.read() as connection:
        of = await rows.order(connection, order_id, working.database.sealer)
    held = await _look(working, of, told)
    async with working.database.write(audit=False) as transaction:
        connection = transaction.connection
        of = await rows.order(connection, order_id, working.database.sealer)  # it may have moved on meanwhile
        there = tuple(sorted(unit for unit in of.standing.units if unit.serial in held.serials))
        try:
            after = enrolment.adopted(of.standing, held=held.held, there=there)
        except IllegalMove as error:
            raise conflict("enrolment_state", f"order {order_id}: {error}") from error
        if after != of.standing or of.doubtful:
            now = working.clock()
            absent = {unit: NOT_THERE for unit, state in after.units.items() if state in enrolment.FAILED}
            await rows.put_standing(connection, of, after, now, absent)
            await _record(connection, working, of, there, held=held.held)
            before = {"enrolment": of.standing.order.value, "held": of.standing.held}
            said = {"enrolment": after.order.value, "held": after.held, "serials": len(held.serials)}
            await note(connection, by, "order-adopt", {"order": order_id}, now, before=before, after=said)
    ours = {unit.serial for unit in after.units}
    return Adopted(
        order_id,
        after.order,
        held.held,
        _with(after, Enrolment.ENROLLED),
        _with(after, Enrolment.ENROL_FAILED),
        tuple(sorted(set(held.serials) - ours)),
    )


async def void(working: Working, order_id: str, *, by: str) -> Enrolment:
    """The whole order goes. One that was ever asked for is looked up at the provider first.

    Raises ServiceError as `adopt`; then nothing has changed.
    """
    async with working.database.read() as connection:
        of = await rows.order(connection, order_id, working.database.sealer)
    if of.doubtful and of.provider_id is not None:
        provider = await providers.get(working.database, of.provider_id)
        if provider.adaptor is Adaptor.DEP:
            await adopt(working, order_id, by=by)
    return await wishes.void(working.database, order_id, by=by, now=working.clock())


async def _look(working: Working, of: OrderOf, told: Iterable[str] | None) -> HeldOrder:
    if of.provider_id is None:
        raise conflict("order_without_provider", f"order {of.order_id} is with no provider")
    provider = await providers.get(working.database, of.provider_id)
    if told is None:
        return await transformation.show_order(working, provider, of.order_id)
    if provider.adaptor is Adaptor.DEP:
        raise bad_request("provider_adaptor", f"{provider.provider_id} is asked itself what it holds")
    serials = tuple(sorted(set(told)))
    return HeldOrder(bool(serials), serials)


async def _record(
    connection: AsyncConnection, working: Working, of: OrderOf, there: tuple[Unit, ...], *, held: bool
) -> None:
    """A batch that never leaves, with one transaction that is finished."""
    assert of.provider_id is not None
    assert of.organisation is not None
    now, batch_id, transaction_id = working.clock(), working.new_id(), working.new_id()
    asked = Asked(RequestType.ORDER if held else RequestType.VOID, there)
    order = generic.Order(
        transaction_id=transaction_id, order_id=of.order_id, request_type=asked.request,
        organisation=of.organisation, devices=generic.devices_of(asked),
    )  # fmt: skip
    await rows.add_batch(
        connection, working.database.sealer, batch_id=batch_id, direction="request", provider_id=of.provider_id,
        state="done", record_count=1, document=generic.request_of(batch_id, of.provider_id, now, [order]).to_bytes(),
        file_name=None, now=now,
    )  # fmt: skip
    await rows.add_transaction(connection, transaction_id, of.order_id, batch_id, asked, now)
    record = Transaction(transaction_id, of.order_id, of.provider_id, asked.request, rows.OPEN, there, ())
    await rows.finish(
        connection, record, "complete", HELD if held else NOT_HELD, [_outcome(unit) for unit in there], now
    )


def _outcome(unit: Unit) -> dict[str, Any]:
    return {"group_id": unit.group_id, "serial": unit.serial, "outcome": "done", "code": None, "message": None}


def _with(of: enrolment.Standing, state: Enrolment) -> tuple[str, ...]:
    return tuple(sorted(unit.serial for unit, its in of.units.items() if its is state))
