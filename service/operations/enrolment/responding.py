"""The job `enrolment-response`: what providers answered becomes the state of orders and units, and workflow events.

Owns the processing of loaded batches, one batch in one transaction: an answer that does not fit changes nothing and is
failed as a whole. An answer to a transaction that was answered before, or given up, counts for nothing.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from service.domain import enrolment
from service.domain.enrolment import Answer, Answered, Enrolment, IllegalMove, Problem, Unit
from service.errors import ServiceError
from service.operations.enrolment import generic, rows
from service.operations.enrolment.rows import OPEN, Transaction
from service.operations.enrolment.working import Working
from service.operations.notes import note
from service.operations.requests import bad_request, conflict

SUCCESS, FAILURE = "enrolment_succeeded", "enrolment_failed"
MAX_NOTES_CHARS = 4000


async def run(working: Working) -> Counter[str]:
    """Counts of orders by what came of them, and of batches that failed."""
    counts: Counter[str] = Counter()
    async with working.database.read() as connection:
        loaded = [row.batch_id for row in await rows.batches(connection, "response", "loaded")]
    for batch_id in loaded:
        try:
            async with working.database.write() as transaction:
                counts += await _process(transaction.connection, batch_id, working)
        except ServiceError as error:
            if error.code == "UNAVAILABLE":
                raise
            async with working.database.write() as transaction:
                await _fail(transaction.connection, batch_id, error, working)
            counts["failed_batches"] += 1
    return counts


async def _fail(connection: AsyncConnection, batch_id: str, error: ServiceError, working: Working) -> None:
    """The answer counts for nothing; the requests that it was to answer say so, for whoever looks at their orders."""
    now = working.clock()
    row = await rows.batch(connection, batch_id)
    await rows.set_batch(connection, batch_id, now, state="failed", cause=error.cause)
    response = generic.read_response(rows.document_of(row, working.database.sealer))
    requests = set()
    for said in response.orders:
        of = await rows.transaction(connection, said.transaction_id)
        if of is not None and of.provider_id == row.provider_id and of.state == OPEN:
            requests.add(await rows.batch_of(connection, of.transaction_id))
    for request in requests:
        await rows.set_batch(connection, request, now, cause=f"its answer {batch_id} failed: {error.cause}")


async def _process(connection: AsyncConnection, batch_id: str, working: Working) -> Counter[str]:
    row = await rows.batch(connection, batch_id)
    response = generic.read_response(rows.document_of(row, working.database.sealer))
    counts: Counter[str] = Counter()
    asked_in: set[str] = set()
    for said in response.orders:
        of = await rows.transaction(connection, said.transaction_id)
        if of is None or of.provider_id != row.provider_id or of.order_id != said.order_id:
            raise bad_request("transaction_foreign", "the answer is about a transaction that was not asked for there")
        if of.state != OPEN or said.status is Answer.IN_PROGRESS:
            counts["still_open" if of.state == OPEN else "repeated"] += 1
            continue
        counts[await _conclude(connection, of, generic.answered_of(said, of.asked), working)] += 1
        asked_in.add(await rows.batch_of(connection, of.transaction_id))
    for request in asked_in:
        await _close(connection, request, working)
    await rows.set_batch(connection, batch_id, working.clock(), state="done")
    return counts


async def give_up(working: Working, order_id: str, *, by: str) -> Enrolment:
    """End the open transaction of an order as ERROR: its answer is waited for no more, and counts for nothing if it comes.

    Raises ServiceError: NOT_FOUND, CONFLICT (nothing is open).
    """
    async with working.database.write(audit=False) as transaction:
        connection = transaction.connection
        before = (await rows.order(connection, order_id, working.database.sealer)).standing.order
        of = await rows.open_of(connection, order_id)
        if of is None:
            raise conflict("transaction_none", f"order {order_id} waits for no answer")
        given_up = Problem("", f"given up by {by}: no answer that could be used")
        await _conclude(connection, of, Answered(Answer.ERROR, (given_up,)), working)
        await _close(connection, await rows.batch_of(connection, of.transaction_id), working)
        after = (await rows.order(connection, order_id, working.database.sealer)).standing.order
        await note(
            connection, by, "order-give-up", {"order": order_id, "transaction": of.transaction_id}, working.clock(),
            before={"enrolment": before.value}, after={"enrolment": after.value},
        )  # fmt: skip
    return after


async def _close(connection: AsyncConnection, request: str, working: Working) -> None:
    """A request whose every transaction has ended is neither sent nor asked about any more."""
    if not await rows.open_transactions(connection, request):
        await rows.set_batch(connection, request, working.clock(), state="done", next_at=None)


async def _conclude(connection: AsyncConnection, of: Transaction, answer: Answered, working: Working) -> str:
    now = working.clock()
    order = await rows.order(connection, of.order_id, working.database.sealer)
    try:
        after = enrolment.answered(order.standing, of.asked, answer)
    except IllegalMove as error:
        raise bad_request("answer_impossible", f"order {of.order_id}: {error}") from error
    causes = _causes(of, answer, after.units)
    await rows.put_standing(connection, order, after, now, causes)
    state = answer.answer.value.lower()
    outcomes = [_outcome(unit, after.units[unit], answer, causes) for unit in of.asked.units]
    await rows.finish(connection, of, state, "; ".join(map(str, answer.problems))[:500] or None, outcomes, now)
    failed = after.order in enrolment.FAILED
    wanted = working.config["enrolment.events_on_failure" if failed else "enrolment.events_on_success"]
    if wanted:
        await rows.add_event(
            connection, FAILURE if failed else SUCCESS, of.order_id, of.transaction_id, notes(of, answer), now
        )
    return state


def notes(of: Transaction, answer: Answered) -> str:
    """What an operator reads: the request, the provider's word, and its messages, also those on single units."""
    lines = [f"{of.request.value} {answer.answer.value}"]
    lines += [str(problem) for problem in answer.problems]
    lines += [f"{unit}: {problem}" for unit, problem in sorted(answer.failed.items())]
    text = "\n".join(lines)
    return text if len(text) <= MAX_NOTES_CHARS else text[: MAX_NOTES_CHARS - 2] + "\n…"


def _causes(of: Transaction, answer: Answered, units: enrolment.States) -> dict[Unit, str]:
    overall = "; ".join(map(str, answer.problems)) or "the provider gives no reason"
    return {
        unit: str(answer.failed.get(unit, overall))[:500] for unit in of.asked.units if units[unit] in enrolment.FAILED
    }


def _outcome(unit: Unit, state: enrolment.Enrolment, answer: Answered, causes: dict[Unit, str]) -> dict[str, Any]:
    problem = answer.failed.get(unit)
    failed = state in enrolment.FAILED or problem is not None or answer.answer is Answer.ERROR
    return {
        "group_id": unit.group_id,
        "serial": unit.serial,
        "outcome": "failed" if failed else "done",
        "code": problem.code if problem is not None else None,
        "message": problem.message if problem is not None else causes.get(unit),
    }
