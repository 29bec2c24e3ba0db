"""`report`: how far a device is with what is wanted of it. Pure. Source: docs/protocol.md, section 5.3."""

from __future__ import annotations

from dataclasses import replace

from service.domain import firmware, moves, placement, updates
from service.domain.credential import CredentialState
from service.domain.device import Device, FirmwareState
from service.domain.thing import Move
from service.handlers.contact import Contact, close_contact, open_contact
from service.handlers.decision import Context, Decision
from service.protocol.schemas import FirmwareReport, PlacementReport, Report, SettingsReport

_SETTINGS_STATES = frozenset({"applied", "trying", "failed", "reverted"})


def handle(device: Device, request: Report, context: Context) -> Decision:
    contact = open_contact(device, context, n=request.n, boot_count=request.boot_count)
    if isinstance(contact, Decision):
        return contact
    if request.firmware is not None:
        _take_firmware(contact, request.firmware, context)
    if request.placement is not None:
        _take_placement(contact, request.placement, request.desired_rev, context)
    if request.settings is not None:
        _take_settings(contact, request.settings, context)
    if request.moving is not None:
        _announce(contact, request.moving)
    if request.unsupported:
        contact.counters.append("unsupported_reported")
    return close_contact(contact, context, request.id, {}, n=request.n, desired_rev=request.desired_rev)


def _take_firmware(contact: Contact, said: FirmwareReport, context: Context) -> None:
    before = contact.device.firmware
    after = firmware.reported(
        before, said.state, said.version_id, said.progress, said.cause, contact.boot_count, context.now
    )
    if after is before:
        return
    if after.state is FirmwareState.DEFERRED:
        after = updates.deferred(after, said.until_s, said.cause, context.now)
    contact.set(replace(contact.device, firmware=after))
    if (after.state, after.version_id) != (before.state, before.version_id):
        contact.note(f"firmware_{after.state}", after.cause or "")


def _take_placement(contact: Contact, said: PlacementReport, desired_rev: int, context: Context) -> None:
    """On the old credential: it sets out, or it has come back and says why."""
    thing = contact.device.thing
    if thing is None or thing.move is None or contact.credential.state is not CredentialState.CONFIRMED:
        return
    if said.state != "failed":
        if said.environment in (None, thing.move.environment):
            contact.set(placement.announced(contact.device))
        return
    if not _is_of_this_move(thing.move, said, desired_rev, contact):
        return  # about what was wanted before; the newest document goes out with the reply
    device, events = placement.abandon(contact.device, context.now, said.cause or "failed")
    contact.set(device)
    contact.note("move_failed", said.cause or "")
    contact.events += events


def _is_of_this_move(move: Move, said: PlacementReport, desired_rev: int, contact: Contact) -> bool:
    """Whether a failure is that of the move under way, not of one before it.

    The newest document has this move. An older one (it changed in the meantime, in something else) may have had
    another, unless the device has accepted this one: reports come in their order, so what fails after that is this.
    """
    if desired_rev == contact.credential.desired_rev:
        return True
    return move.announced and said.environment in (None, move.environment)


def _take_settings(contact: Contact, said: SettingsReport, context: Context) -> None:
    thing = contact.device.thing
    if thing is None or (said.rev, said.state) == (thing.settings_reported_rev, thing.settings_state):
        return
    contact.set(
        replace(contact.device, thing=replace(thing, settings_reported_rev=said.rev, settings_state=said.state))
    )
    contact.note(f"settings_{said.state}" if said.state in _SETTINGS_STATES else "settings_reported", f"rev {said.rev}")
    if said.state == "failed":
        contact.tell("settings_failed", context.now, rev=said.rev, cause=said.cause or "")


def _announce(contact: Contact, credential_id: str) -> None:
    """The old credential names the new one that is to take over: no need to ask it again."""
    named = moves.find(contact.device, credential_id)
    if named is None or named.state is not CredentialState.PENDING or named.approved:
        return
    if contact.credential.state is not CredentialState.CONFIRMED:
        return
    contact.set(moves.put(contact.device, replace(named, approved=True, held_at=None, awaits_operator=False)))
    contact.note("move_announced")
