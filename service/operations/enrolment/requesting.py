"""The job `enrolment-request`: finds orders and units that wait, and prepares batches in the generic form.

Owns the sweep. One open transaction for an order at a time; a batch of one provider holds at most 200 orders.
"""

from __future__ import annotations

from collections import Counter

from sqlalchemy.ext.asyncio import AsyncConnection

from service.domain import enrolment
from service.domain.enrolment import Asked, IllegalMove
from service.operations.enrolment import generic, providers, rows
from service.operations.enrolment.working import Working

ORDERS = 200  # of one batch
DEVICES = 50_000  # of one batch, unless a single order has more
SWEPT = 5000  # orders in one run


async def run(working: Working) -> Counter[str]:
    """Counts of orders by what came of them."""
    counts: Counter[str] = Counter()
    await _sweep_released(working, counts)
    live = await providers.live(working.database)
    async with working.database.read() as connection:
        waiting, counts["waiting"] = await rows.candidates(connection, SWEPT, live)
    by_provider: dict[str, list[str]] = {}
    for order_id in waiting:
        async with working.database.read() as connection:
            of = await rows.order(connection, order_id, working.database.sealer)
        if of.provider_id in live:  # it may have changed meanwhile
            by_provider.setdefault(of.provider_id, []).append(order_id)
    for provider_id, order_ids in by_provider.items():
        for start in range(0, len(order_ids), ORDERS):
            await _prepare(working, provider_id, order_ids[start : start + ORDERS], counts)
    return +counts


async def _sweep_released(working: Working, counts: Counter[str]) -> None:
    """A unit that has left its order shall leave it at the provider too."""
    async with working.database.read() as connection:
        found = await rows.released(connection)
    for order_id, units in found.items():
        async with working.database.write() as transaction:
            connection = transaction.connection
            of = await rows.order(connection, order_id, working.database.sealer)
            try:
                after = enrolment.unwanted(of.standing, units)
            except IllegalMove:
                transaction.abandon()  # an answer is still to come; the next run finds it again
                continue
            await rows.put_standing(connection, of, after, working.clock())
            counts["released"] += len(units)


async def _prepare(working: Working, provider_id: str, order_ids: list[str], counts: Counter[str]) -> None:
    """One batch, with its transactions, in one database transaction."""
    now, batch_id = working.clock(), working.new_id()
    async with working.database.write() as transaction:
        connection = transaction.connection
        made: list[generic.Order] = []
        opened: list[tuple[str, str, Asked]] = []
        devices = 0
        for order_id in order_ids:
            of = await rows.order(connection, order_id, working.database.sealer)
            asked = enrolment.plan(of.standing)
            if asked is None or (made and devices + len(asked.units) > DEVICES):
                continue
            if len({unit.serial for unit in asked.units}) != len(asked.units):
                counts["ambiguous"] += 1  # providers know serial numbers only; an operator releases one of the two
                continue
            devices += len(asked.units)
            transaction_id = working.new_id()
            made.append(_order(of, asked, transaction_id))
            opened.append((transaction_id, order_id, asked))
            await rows.put_standing(connection, of, enrolment.sent(of.standing, asked), now)
            counts[asked.request.value] += 1
        if not made:
            transaction.abandon()
            return
        document = generic.request_of(batch_id, provider_id, now, made).to_bytes()
        await rows.add_batch(
            connection, working.database.sealer, batch_id=batch_id, direction="request", provider_id=provider_id,
            state="prepared", record_count=len(made), document=document, file_name=None, now=now,
        )  # fmt: skip
        await _open(connection, opened, batch_id, working)
        counts["batches"] += 1


async def _open(
    connection: AsyncConnection, opened: list[tuple[str, str, Asked]], batch_id: str, working: Working
) -> None:
    for transaction_id, order_id, asked in opened:
        await rows.add_transaction(connection, transaction_id, order_id, batch_id, asked, working.clock())


def _order(of: rows.OrderOf, asked: Asked, transaction_id: str) -> generic.Order:
    assert of.organisation is not None
    entering = asked.request in (enrolment.RequestType.ORDER, enrolment.RequestType.OVERRIDE)
    return generic.Order(
        transaction_id=transaction_id,
        order_id=of.order_id,
        request_type=asked.request,
        organisation=of.organisation,
        policies=dict(of.policies) if entering else {},
        devices=[] if asked.request is enrolment.RequestType.VOID else generic.devices_of(asked),
    )
