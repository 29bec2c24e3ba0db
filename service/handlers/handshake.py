"""`handshake`: a unit speaks from its site and gets the settings there, none as well. Pure; they are stored nowhere on
the way.

Source: docs/protocol.md, section 9.6.
"""

from __future__ import annotations

from dataclasses import replace

from device_sdk.wire import codes, keys
from service.credentials import proofs
from service.domain import moves, staging
from service.domain.credential import CredentialState
from service.domain.device import Device
from service.domain.staging import Unit
from service.errors import ServiceError
from service.handlers.contact import Contact, close_contact, open_contact
from service.handlers.decision import Context, Decision
from service.protocol import encode
from service.protocol.schemas import Handshake


def handle(device: Device, request: Handshake, context: Context) -> Decision:
    """Raises ServiceError FORBIDDEN while the credential is pending."""
    credential = moves.find(device, context.owner)
    if credential is None or credential.state is not CredentialState.CONFIRMED:
        raise ServiceError(codes.FORBIDDEN, "say online first", cause="handshake_pending")
    contact = open_contact(device, context, request.id, n=None, boot_count=None)
    if isinstance(contact, Decision):
        return contact
    unit = contact.device.unit
    if unit is None:
        return close_contact(contact, context, request.id, {})
    _arrive(contact, unit, context)
    fields: dict[str, object] = {}
    # Each revision stands for one site's settings, so that another one, a lower one too, is news; 0: the site has none.
    rev = staging.wanted_rev(contact.device)
    if rev is not None and rev != request.settings_rev:
        fields["settings"] = _signed(contact.device, unit, rev, context)
        assert contact.device.unit is not None
        after = staging.sent(contact.device.unit, context.now)
        if after is not contact.device.unit:
            contact.set(replace(contact.device, unit=after))
            contact.note("site_settings_sent", f"rev {rev}")
    return close_contact(contact, context, request.id, fields)


def _arrive(contact: Contact, unit: Unit, context: Context) -> None:
    after = staging.arrived(unit, context.now)
    if after is not unit:
        contact.set(replace(contact.device, unit=after))
        contact.note("at_site", unit.equipment.site or "")
        contact.tell("at_site", context.now, site=unit.equipment.site or "")


def _signed(device: Device, unit: Unit, rev: int, context: Context) -> dict[str, object]:
    assert device.thing is not None
    doc = encode.pack({"rev": rev, "values": staging.site_values(unit)}, context.encoding)
    group = context.world.catalogue.groups[device.group_id]
    message = keys.handshake_message(device.thing.thing_id, context.owner, doc)
    return {"doc": doc, "mac": proofs.signer_of(group, device, context.world.service_key).prove(message)}
