"""`staged`: every item works, the unit may be put into its box. Pure. Source: docs/protocol.md, section 9.4."""

from __future__ import annotations

from dataclasses import replace

from device_sdk.wire import codes
from service.domain import manifest, moves, staging
from service.domain.device import Device
from service.domain.warehouse import Step
from service.errors import ServiceError
from service.handlers.contact import close_contact, open_contact
from service.handlers.decision import Context, Decision
from service.protocol.schemas import Staged


def handle(device: Device, request: Staged, context: Context) -> Decision:
    """Raises ServiceError FORBIDDEN for any credential but the one that `stage` gave and nothing has confirmed."""
    credential = moves.find(device, context.owner)
    unit = staging.unit_of(device, credential) if credential is not None else None
    if unit is None or unit.manifest is None:
        raise ServiceError(codes.FORBIDDEN, "only while it is staged", cause="staged_not_staged")
    contact = open_contact(device, context, request.id, n=request.n, boot_count=request.boot_count, staged=True)
    if isinstance(contact, Decision):
        return contact
    # 1. What it worked on is what it was given.
    if request.manifest_id != unit.manifest.manifest_id:
        return contact.refuse(_conflict("another manifest", (), "staged_other_manifest"))
    # 2. It has said of every item that it works.
    missing = manifest.not_working(unit.manifest, unit.items)
    if missing:
        return contact.refuse(_conflict("not every item works", missing, "staged_too_early"))
    after = staging.out_of_box(unit, context.now)
    if after is not unit:
        contact.set(replace(contact.device, unit=after))
        contact.note("out_of_box", unit.manifest.name)
        contact.tell("out_of_box", context.now, manifest=unit.manifest.name)
    # 3. One that did not hear the answer before it was shipped need not shut down where it is now.
    fields: dict[str, object] = {"shipped": True} if after.equipment.step is Step.SHIPPED else {}
    return close_contact(contact, context, request.id, fields, n=request.n)


def _conflict(public: str, items: tuple[str, ...], cause: str) -> ServiceError:
    return ServiceError(codes.CONFLICT, public, cause=cause, state={"items": list(items)})
