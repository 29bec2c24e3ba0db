"""`online`: a credential is in use; says what runs and gets what is wanted. Pure.

Source: docs/protocol.md, section 4.5.
"""

from __future__ import annotations

from dataclasses import replace

from service.domain import desired, firmware
from service.domain.device import Device, FirmwareState
from service.handlers.contact import Contact, close_contact, open_contact
from service.handlers.decision import Context, Decision, Step
from service.protocol.schemas import Online, Running


def handle(device: Device, request: Online, context: Context) -> Decision:
    contact = open_contact(device, context, request.id, n=request.n, boot_count=request.boot_count)
    if isinstance(contact, Decision):
        return contact
    if request.firmware is not None:
        take_running(contact, request.firmware, context)
    if not contact.steps:
        contact.steps.append(Step("online", f"boot {request.boot_count}"))
    thing = contact.device.thing
    assert thing is not None
    return close_contact(
        contact,
        context,
        request.id,
        {"name": thing.name, "ou": thing.ou, "environment": thing.environment},
        n=request.n,
        desired_rev=request.desired_rev,
        caps=tuple(request.caps),
    )


def take_running(contact: Contact, running: Running, context: Context) -> None:
    """Take over what the device says runs now, and conclude whether an update has worked."""
    device = contact.device
    version = firmware.known(device, context.world.catalogue, running.version_id)
    wanted = version is not None and version == desired.target_of(device, context.world.catalogue)
    after = firmware.running(device.firmware, version, contact.boot_count, context.now, wanted=wanted)
    changed = firmware.with_installed(device, version)
    if after is not device.firmware:
        changed = replace(changed, firmware=after)
        if after.state is FirmwareState.CONFIRMED:
            contact.note("firmware_confirmed", version.name if version else "")
        else:
            contact.note("firmware_rolled_back")
    if changed is not device:
        contact.set(changed)
