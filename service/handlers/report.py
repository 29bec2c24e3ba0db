"""`report`: how far a device is with what is wanted of it. Pure. Source: docs/protocol.md, section 5.3."""

from __future__ import annotations

from dataclasses import replace

from service.domain import firmware, moves, placement, staging, updates
from service.domain.credential import Credential, CredentialState
from service.domain.device import Device, FirmwareState
from service.domain.manifest import ItemReport, ItemState
from service.domain.thing import Move
from service.handlers.contact import Contact, close_contact, open_contact
from service.handlers.decision import Context, Decision
from service.protocol.schemas import FirmwareReport, ItemSaid, PlacementReport, Report, SettingsReport

_SETTINGS_STATES = frozenset({"applied", "trying", "failed", "reverted"})


def handle(device: Device, request: Report, context: Context) -> Decision:
    credential = moves.find(device, context.owner)
    if credential is not None and _is_from_warehouse(device, credential, request):
        return _from_warehouse(device, request, context)
    contact = open_contact(device, context, request.id, n=request.n, boot_count=request.boot_count)
    if isinstance(contact, Decision):
        return contact
    if request.firmware is not None:
        _take_firmware(contact, request.firmware, context)
    if request.placement is not None:
        _take_placement(contact, request.placement, request.desired_rev, context)
    if request.settings is not None:
        _take_settings(contact, request.settings, context)
    if request.site is not None:
        _take_site(contact, request.site, context)
    if request.moving is not None:
        _announce(contact, request.moving)
    if request.unsupported:
        contact.counters.append("unsupported_reported")
    return close_contact(contact, context, request.id, {}, n=request.n, desired_rev=request.desired_rev)


def _is_from_warehouse(device: Device, credential: Credential, request: Report) -> bool:
    """A word about an item is one whatever the unit's step: it may not know yet that `staged` was answered."""
    if request.item is not None:
        return staging.unit_of(device, credential) is not None
    return staging.in_progress(device, credential) is not None


def _from_warehouse(device: Device, request: Report, context: Context) -> Decision:
    """Nothing is confirmed and nothing wanted yet: only what it says of its items counts."""
    contact = open_contact(device, context, request.id, n=request.n, boot_count=request.boot_count, staged=True)
    if isinstance(contact, Decision):
        return contact
    if request.item is not None:
        _take_item(contact, request.item, context)
    return close_contact(contact, context, request.id, {}, n=request.n)


def _take_item(contact: Contact, said: ItemSaid, context: Context) -> None:
    unit = contact.device.unit
    assert unit is not None
    report = ItemReport(said.name, said.version, said.state, context.now, said.progress, said.cause)
    after = staging.reported(unit, report)
    if after is unit:
        return
    before = unit.items.get(said.name)
    contact.set(replace(contact.device, unit=after))
    if before is None or (before.version, before.state) != (said.version, said.state):
        contact.note(f"item_{said.state}", f"{said.name} {said.version}" + (f": {said.cause}" if said.cause else ""))
        if said.state is ItemState.FAILED:
            contact.tell("item_failed", context.now, item=said.name, version=said.version, cause=said.cause or "")


def _take_site(contact: Contact, said: SettingsReport, context: Context) -> None:
    unit = contact.device.unit
    if unit is None:
        return
    after = staging.settings_said(unit, said.rev, said.state, said.cause, context.now)
    if after is unit:
        return
    contact.set(replace(contact.device, unit=after))
    contact.note(f"site_settings_{said.state}", f"rev {said.rev}")
    if said.state == "failed":
        contact.tell(
            "settings_failed", context.now, site=unit.equipment.site or "", rev=said.rev, cause=said.cause or ""
        )


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
