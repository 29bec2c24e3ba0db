"""`target`, `current`, `installed`, `rename`: what the simplest devices use. Pure.

Source: docs/protocol.md, sections 5.4 and 5.5.
"""

from __future__ import annotations

from dataclasses import replace

from device_sdk.wire import codes
from service.domain import desired, firmware, moves
from service.domain.credential import CredentialState
from service.domain.device import Device, FirmwareState
from service.domain.product import Version
from service.errors import ServiceError
from service.handlers import documents
from service.handlers.contact import close_contact, open_contact
from service.handlers.decision import Context, Decision
from service.protocol.schemas import Current, Installed, Rename, Target


def target(device: Device, request: Target, context: Context) -> Decision:
    """The whole desired document, or NO_TARGET."""
    contact = open_contact(device, context, request.id, n=None, boot_count=None)
    if isinstance(contact, Decision):
        return contact
    if desired.target_of(contact.device, context.world.catalogue) is None:
        refusal = ServiceError(codes.NO_TARGET, "this product has no target version", cause="no_target")
        return replace(close_contact(contact, context, request.id, {}), reply=None, refusal=refusal)
    credential = documents.refreshed(contact.device, contact.credential, context.world, context.encoding, context.now)
    if credential is not contact.credential:
        contact.set(moves.put(contact.device, credential))
    document = documents.signed(contact.device, credential, context.world)
    return close_contact(contact, context, request.id, {"desired": document})


def current(device: Device, request: Current, context: Context) -> Decision:
    """The version that the service believes installed."""
    contact = open_contact(device, context, request.id, n=None, boot_count=None)
    if isinstance(contact, Decision):
        return contact
    thing = contact.device.thing
    assert thing is not None
    version = firmware.known(contact.device, context.world.catalogue, thing.installed_version_id)
    return close_contact(contact, context, request.id, {} if version is None else {"version": _public(version)})


def installed(device: Device, request: Installed, context: Context) -> Decision:
    """The device has switched to a version."""
    contact = open_contact(device, context, request.id, n=request.n, boot_count=request.boot_count)
    if isinstance(contact, Decision):
        return contact
    version = firmware.known(contact.device, context.world.catalogue, request.version_id)
    if version is None:
        refusal = ServiceError(codes.NOT_FOUND, "no such version of this product", cause="version_not_found")
        return replace(close_contact(contact, context, request.id, {}), reply=None, refusal=refusal)
    wanted = desired.target_of(contact.device, context.world.catalogue)
    before = contact.device
    after = firmware.installed(
        before, version, contact.boot_count, context.now, wanted=wanted is not None and wanted == version
    )
    if after is not before:
        contact.set(after)
        if after.firmware is not before.firmware and after.firmware.state is FirmwareState.CONFIRMED:
            contact.note("firmware_confirmed", version.name)
    return close_contact(contact, context, request.id, {"version": _public(version)}, n=request.n)


def rename(device: Device, request: Rename, context: Context) -> Decision:
    """The thing's new name. Raises ServiceError FORBIDDEN while the credential is pending."""
    credential = moves.find(device, context.owner)
    if credential is None or credential.state is not CredentialState.CONFIRMED:
        raise ServiceError(codes.FORBIDDEN, "say online first", cause="rename_pending")
    contact = open_contact(device, context, request.id, n=request.n, boot_count=request.boot_count)
    if isinstance(contact, Decision):
        return contact
    thing = contact.device.thing
    assert thing is not None
    if thing.name != request.name:
        contact.set(replace(contact.device, thing=replace(thing, name=request.name)))
        contact.note("renamed", request.name)
    return close_contact(contact, context, request.id, {"name": request.name}, n=request.n)


def _public(version: Version) -> dict[str, object]:
    return {"version_id": version.version_id, "name": version.name, "description": version.description}
