"""Comparing an order with what the provider holds of it, and what an override would change there.

Owns the comparison; nothing is changed, here or there. A provider that exchanges files cannot be asked: what it holds is
then what it has acknowledged (books.py), or what its people say.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from service.domain import enrolment
from service.domain.enrolment import Enrolment, RequestType
from service.operations.enrolment import books, providers, rows, transformation
from service.operations.enrolment.books import Holding, Source
from service.operations.enrolment.dep import HeldOrder
from service.operations.enrolment.providers import Adaptor
from service.operations.enrolment.working import Working
from service.operations.requests import bad_request, conflict


@dataclass(frozen=True, slots=True)
class Difference:
    """Serial numbers. `held`: the provider knows the order at all. Who says so, and when: see Holding."""

    order_id: str
    provider_id: str
    state: Enrolment
    held: bool
    agreed: tuple[str, ...]
    only_here: tuple[str, ...]  # enrolled here, not there
    only_there: tuple[str, ...]  # held there, not enrolled here
    open: tuple[str, ...]  # an answer or a run is still to come
    source: Source
    as_of: datetime | None
    refused: int

    @property
    def same(self) -> bool:
        return not self.only_here and not self.only_there


@dataclass(frozen=True, slots=True)
class Override:
    """What an override would leave, add and remove at the provider. Who says so, and when: see Holding."""

    order_id: str
    provider_id: str
    keeps: tuple[str, ...]
    adds: tuple[str, ...]
    removes: tuple[str, ...]
    source: Source
    as_of: datetime | None
    refused: int


async def compare(working: Working, order_id: str, *, told: Iterable[str] | None = None) -> Difference:
    """`told`: the serials that a platform which cannot be asked says it holds; nothing: none.

    Raises ServiceError: NOT_FOUND, CONFLICT (it is with no provider), UNAVAILABLE (it cannot be reached), BAD_REQUEST.
    """
    of, holding = await _both(working, order_id, told)
    here = {unit.serial for unit, state in of.standing.units.items() if state is Enrolment.ENROLLED}
    waits = {
        unit.serial
        for unit, state in of.standing.units.items()
        if state in (Enrolment.ENROL_SENT, Enrolment.UNENROL_SENT, Enrolment.UNENROL_PENDING)
    }
    there = set(holding.order.serials)
    assert of.provider_id is not None
    return Difference(
        order_id,
        of.provider_id,
        of.standing.order,
        holding.order.held,
        tuple(sorted(here & there)),
        tuple(sorted(here - there)),
        tuple(sorted(there - here - waits)),
        tuple(sorted(waits)),
        holding.source,
        holding.as_of,
        holding.refused,
    )


async def preview_override(working: Working, order_id: str, *, told: Iterable[str] | None = None) -> Override:
    """As if an override were asked for now. Raises ServiceError as `compare`."""
    of, holding = await _both(working, order_id, told)
    try:
        asked = enrolment.plan(enrolment.overridden(of.standing))
    except enrolment.IllegalMove as error:
        raise conflict("enrolment_state", f"order {order_id}: {error}") from error
    listed = {unit.serial for unit in asked.listed} if asked and asked.request is RequestType.OVERRIDE else set()
    there = set(holding.order.serials)
    assert of.provider_id is not None
    return Override(
        order_id,
        of.provider_id,
        tuple(sorted(listed & there)),
        tuple(sorted(listed - there)),
        tuple(sorted(there - listed)),
        holding.source,
        holding.as_of,
        holding.refused,
    )


async def _both(working: Working, order_id: str, told: Iterable[str] | None) -> tuple[rows.OrderOf, Holding]:
    async with working.database.read() as connection:
        of = await rows.order(connection, order_id, working.database.sealer)
        by_books = await books.acknowledged(connection, order_id)
    if of.provider_id is None:
        raise conflict("order_without_provider", f"order {order_id} is with no provider")
    provider = await providers.get(working.database, of.provider_id)
    if provider.adaptor is Adaptor.DEP:
        if told is not None:
            raise bad_request("provider_adaptor", f"{provider.provider_id} is asked itself what it holds")
        held = await transformation.show_order(working, provider, order_id)
        return of, Holding(held, Source.PROVIDER, working.clock())
    if told is not None:
        serials = tuple(sorted(set(told)))
        return of, Holding(HeldOrder(bool(serials), serials), Source.TOLD, working.clock())
    return of, by_books
