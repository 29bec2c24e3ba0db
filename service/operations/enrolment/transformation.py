"""The daemon `transformation`: turns the generic form into a provider's and back, for providers that speak JSON.

Owns the exchange with the provider: extracted files are sent as bulk enrol, transactions are asked about until they are
final, and the answer goes into the inbox of the load daemon as a generic file of ours. What the provider posts by itself
(`inbound`) goes the same way. A provider that cannot be reached, or gives no answer of its form, is tried again, with the
file kept in `work`, and given up after a number of tries.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from datetime import timedelta
from functools import partial
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from service.credentials.cms import Keyholder
from service.domain.enrolment import Answer, Problem
from service.errors import ServiceError
from service.operations.enrolment import dep, files, generic, providers, rows
from service.operations.enrolment.dep import Party, Refused
from service.operations.enrolment.files import Effect
from service.operations.enrolment.folders import SUFFIX
from service.operations.enrolment.generic import Error, OrderAnswer, Request
from service.operations.enrolment.providers import Adaptor, Provider
from service.operations.enrolment.working import AskError, Working
from service.operations.requests import bad_request, not_found
from service.storage.enrolment_tables import enrolment_batch
from service.storage.rows import to_ms

INTERFACE = "transformation"
MAX_BACKOFF = timedelta(hours=1)
Inbound = str  # what became of a posted answer: taken, repeated, in_progress


async def run(working: Working) -> Counter[str]:
    """Counts of files and transactions by what came of them."""
    counts: Counter[str] = Counter()
    speaking = [one for one in (await providers.live(working.database)).values() if one.adaptor is Adaptor.DEP]
    us = files.ours(working) if speaking else None
    for provider in speaking:
        assert us is not None
        counts += await _send_all(working, provider, us)
        counts += await _check_all(working, provider, us)
    return counts


async def inbound(working: Working, provider: Provider, data: bytes) -> Inbound:
    """A provider's JSON about a transaction that it was given. Raises ServiceError."""
    if provider.adaptor is not Adaptor.DEP:
        raise bad_request("provider_adaptor", "this provider exchanges files")
    answer = dep.read_json(data)
    reference = dep.reference_of(answer)
    async with working.database.read() as connection:
        row = None if reference is None else await rows.batch_by_reference(connection, provider.provider_id, reference)
    if row is None:
        raise not_found("transaction_unknown", "no such transaction")
    if row.state != "sent" or row.next_at is None:
        return "repeated"
    request = generic.read_request(rows.document_of(row, working.database.sealer))
    answers = dep.read_check(answer, request)
    if answers is None:
        return "in_progress"
    await _answer(working, provider, files.ours(working), request, answers)
    return "taken"


async def show_order(working: Working, provider: Provider, order_id: str) -> dep.HeldOrder:
    """What the provider holds of an order. Raises ServiceError UNAVAILABLE, BAD_REQUEST."""
    if provider.adaptor is not Adaptor.DEP:
        raise bad_request("provider_adaptor", "a provider that exchanges files cannot be asked what it holds")
    try:
        answer = await _ask(working, provider, dep.SHOW_ORDER, dep.show_orders([order_id], _party(provider)))
    except AskError as error:
        raise ServiceError(
            "UNAVAILABLE", f"the provider cannot be asked: {error}", cause="provider_unreachable"
        ) from error
    return dep.read_show(answer, order_id)


# -- sending ----------------------------------------------------------------------------------------------------------


async def _send_all(working: Working, provider: Provider, us: Keyholder) -> Counter[str]:
    prepare = partial(_send, working, provider, us)
    found = await files.work_off(working, INTERFACE, "outbox", provider, us, prepare)
    return Counter({f"files_{name}": number for name, number in found.items()})


async def _send(working: Working, provider: Provider, us: Keyholder, data: bytes) -> Effect:
    """Ask the provider; what it said is stored in the transaction that remembers the file.

    Cut off in between, the same batch is sent again under the same transactionId.
    """
    request = generic.read_request(data)
    async with working.database.read() as connection:
        row = await rows.batch(connection, request.identifier)
    if row is None or row.provider_id != provider.provider_id or row.direction != "request":
        raise not_found("batch_unknown", "the file is of no batch of ours")
    if row.state == "prepared":
        raise files.Later  # extract has not said so yet
    if row.state != "extracted":
        return partial(_noted, {"batch": request.identifier, "note": f"the batch is {row.state}"})
    if row.next_at is not None and row.next_at > (to_ms(working.clock()) or 0):
        raise files.Later
    try:
        read = dep.read_bulk_answer(
            await _ask(working, provider, dep.BULK_ENROL, dep.bulk_enrol(request, _party(provider)))
        )
    except (AskError, ServiceError) as error:
        # A proxy's page instead of the provider's answer is no answer: nobody knows what the provider did.
        why = _why(error)
        if row.attempts + 1 < working.config["enrolment.max_attempts"]:
            await _put_off(working, row, why)
            raise files.Later from error
        read = Refused((Problem("", why),))
    if isinstance(read, Refused):
        await _put_answer(working, provider, us, request, [_refused(one, read) for one in request.orders])
        return partial(_sent, working, request, {"cause": "refused", "next_at": None})
    due = working.clock() + timedelta(seconds=working.config["enrolment.check_every_s"])
    return partial(
        _sent, working, request, {"reference": read.reference, "next_at": to_ms(due), "cause": None, "attempts": 0}
    )


async def _sent(
    working: Working, request: Request, values: dict[str, Any], connection: AsyncConnection
) -> dict[str, Any]:
    await rows.set_batch(connection, request.identifier, working.clock(), state="sent", **values)
    return {"batch": request.identifier, **{name: values[name] for name in ("reference", "cause") if values.get(name)}}


async def _noted(report: dict[str, Any], _: AsyncConnection) -> dict[str, Any]:
    return report


# -- asking what became of it -----------------------------------------------------------------------------------------


async def _check_all(working: Working, provider: Provider, us: Keyholder) -> Counter[str]:
    counts: Counter[str] = Counter()
    now = to_ms(working.clock())
    of = enrolment_batch.c
    query = select(enrolment_batch).where(
        of.provider_id == provider.provider_id, of.direction == "request", of.state == "sent", of.next_at <= now
    )
    async with working.database.read() as connection:
        due = list(await connection.execute(query.order_by(of.next_at)))
    for row in due:
        counts[await _check(working, provider, us, row)] += 1
    return counts


async def _check(working: Working, provider: Provider, us: Keyholder, row: Any) -> str:
    request = generic.read_request(rows.document_of(row, working.database.sealer))
    asked = dep.check_transaction(row.reference, _party(provider))
    try:
        answers = dep.read_check(await _ask(working, provider, dep.CHECK_TRANSACTION, asked), request)
    except (AskError, ServiceError) as error:
        # Unlike a request that nobody took, this one is with the provider: it is asked until somebody gives it up.
        await _put_off(working, row, _why(error))
        return "unreachable"
    if answers is None:
        due = working.clock() + timedelta(seconds=working.config["enrolment.check_every_s"])
        async with working.database.write() as transaction:
            await rows.set_batch(
                transaction.connection, row.batch_id, working.clock(), next_at=to_ms(due), attempts=0, cause=None
            )
        return "in_progress"
    await _answer(working, provider, us, request, answers)
    return "answered"


async def _answer(
    working: Working, provider: Provider, us: Keyholder, request: Request, answers: list[OrderAnswer]
) -> None:
    """The file first: cut off before the row says so, the provider is asked again and the same file put down again."""
    await _put_answer(working, provider, us, request, answers)
    async with working.database.write() as transaction:
        await rows.set_batch(transaction.connection, request.identifier, working.clock(), next_at=None, cause=None)


async def _put_answer(
    working: Working, provider: Provider, us: Keyholder, request: Request, answers: list[OrderAnswer]
) -> None:
    """As a generic file for the load daemon. The same answer has the same identifier, so it is loaded once."""
    said = b"".join(one.model_dump_json().encode() for one in answers)
    identifier = hashlib.sha256(request.identifier.encode() + said).hexdigest()[:32]
    response = generic.response_of(identifier, provider.provider_id, working.clock(), answers)
    await files.put(working, "inbox", provider, identifier + SUFFIX, response.to_bytes(), us)


async def _put_off(working: Working, row: Any, why: str) -> None:
    """Later and later, up to an hour."""
    wait = min(MAX_BACKOFF, timedelta(seconds=10) * 2 ** min(row.attempts, 12))
    async with working.database.write() as transaction:
        await rows.set_batch(
            transaction.connection, row.batch_id, working.clock(), attempts=row.attempts + 1,
            next_at=to_ms(working.clock() + wait), cause=why[:200],
        )  # fmt: skip


async def _ask(working: Working, provider: Provider, path: str, document: dict[str, Any]) -> dep.Json:
    """Raises AskError, ServiceError BAD_REQUEST. A refusal comes with a body that says why, whatever the status is."""
    assert provider.url is not None
    secret = await providers.secret_of(working.database, provider.provider_id)
    status, body = await working.ask(f"{provider.url.rstrip('/')}/{path}", json.dumps(document).encode(), secret)
    if status >= 500 or status in (401, 403, 404, 408, 429):
        raise AskError(f"it answered with status {status}")
    return dep.read_json(body)


def _why(error: AskError | ServiceError) -> str:
    """Why there is no answer that could be used; a fault of ours goes on."""
    if isinstance(error, AskError):
        return f"the provider could not be reached: {error}"
    if error.code != "BAD_REQUEST":
        raise error
    return error.public


def _party(provider: Provider) -> Party:
    return Party(provider.account or "")


def _refused(order: generic.Order, refused: Refused) -> OrderAnswer:
    return OrderAnswer(
        transaction_id=order.transaction_id,
        order_id=order.order_id,
        status=Answer.ERROR,
        errors=[Error(code=one.code, message=one.message) for one in refused.problems],
    )
