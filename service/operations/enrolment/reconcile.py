"""Comparing an order with what the provider holds of it, and what an override would change there.

Owns the comparison; nothing is changed, here or there.
"""

from __future__ import annotations

from dataclasses import dataclass

from service.domain import enrolment
from service.domain.enrolment import Enrolment, RequestType
from service.operations.enrolment import providers, rows, transformation
from service.operations.enrolment.dep import HeldOrder
from service.operations.enrolment.working import Working
from service.operations.requests import conflict


@dataclass(frozen=True, slots=True)
class Difference:
    """Serial numbers. `held`: the provider knows the order at all."""

    order_id: str
    provider_id: str
    state: Enrolment
    held: bool
    agreed: tuple[str, ...]
    only_here: tuple[str, ...]  # enrolled here, not there
    only_there: tuple[str, ...]  # held there, not enrolled here
    open: tuple[str, ...]  # an answer or a run is still to come

    @property
    def same(self) -> bool:
        return not self.only_here and not self.only_there


@dataclass(frozen=True, slots=True)
class Override:
    """What an override would leave, add and remove at the provider."""

    order_id: str
    keeps: tuple[str, ...]
    adds: tuple[str, ...]
    removes: tuple[str, ...]


async def compare(working: Working, order_id: str) -> Difference:
    """Raises ServiceError: NOT_FOUND, CONFLICT (it is with no provider), UNAVAILABLE (it cannot be asked)."""
    of, held = await _both(working, order_id)
    here = {unit.serial for unit, state in of.standing.units.items() if state is Enrolment.ENROLLED}
    waits = {
        unit.serial
        for unit, state in of.standing.units.items()
        if state in (Enrolment.ENROL_SENT, Enrolment.UNENROL_SENT, Enrolment.UNENROL_PENDING)
    }
    there = set(held.serials)
    assert of.provider_id is not None
    return Difference(
        order_id,
        of.provider_id,
        of.standing.order,
        held.held,
        tuple(sorted(here & there)),
        tuple(sorted(here - there)),
        tuple(sorted(there - here - waits)),
        tuple(sorted(waits)),
    )


async def preview_override(working: Working, order_id: str) -> Override:
    """As if an override were asked for now. Raises ServiceError as `compare`."""
    of, held = await _both(working, order_id)
    try:
        asked = enrolment.plan(enrolment.overridden(of.standing))
    except enrolment.IllegalMove as error:
        raise conflict("enrolment_state", f"order {order_id}: {error}") from error
    listed = {unit.serial for unit in asked.listed} if asked and asked.request is RequestType.OVERRIDE else set()
    there = set(held.serials)
    return Override(
        order_id, tuple(sorted(listed & there)), tuple(sorted(listed - there)), tuple(sorted(there - listed))
    )


async def _both(working: Working, order_id: str) -> tuple[rows.OrderOf, HeldOrder]:
    async with working.database.read() as connection:
        of = await rows.order(connection, order_id, working.database.sealer)
    if of.provider_id is None:
        raise conflict("order_without_provider", f"order {order_id} is with no provider")
    provider = await providers.get(working.database, of.provider_id)
    return of, await transformation.show_order(working, provider, order_id)
