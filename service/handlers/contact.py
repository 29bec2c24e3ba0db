"""What every request on a credential's topic has in common: numbers, first use, hold, document. Pure.

Owns the order: known and not dropped (the executor ignores others), numbers, confirmation, then the verb's own rule.
Source: docs/protocol.md, sections 3.2, 4.5 and 4.6.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from device_sdk.wire import codes
from service.credentials import proofs
from service.domain import (
    clone,
    event,
    moves,
    placement,
    reactivation,
    replacement,
    retirement,
    staging,
    transfer,
    updates,
)
from service.domain.credential import Credential, CredentialState
from service.domain.device import Device, DeviceState, Firmware
from service.domain.event import Event
from service.domain.reactivation import Verdict
from service.errors import ServiceError
from service.handlers import documents
from service.handlers.decision import Context, Decision, Effect, Step

# How stale last_heard_at may be before a request that changes nothing else writes it.
HEARD_EVERY = timedelta(seconds=60)


@dataclass(slots=True)
class Contact:
    """One request in work: the device as it becomes, and what is to be said of it."""

    device: Device
    credential: Credential
    boot_count: int
    steps: list[Step]
    counters: list[str]
    effects: list[Effect]
    events: list[Event] = field(default_factory=list)
    partner: Device | None = None  # as it has become, where it changed
    firmware_before: Firmware = field(default_factory=Firmware)

    def set(self, device: Device) -> None:
        self.device = device
        found = moves.find(device, self.credential.credential_id)
        assert found is not None
        self.credential = found

    def note(self, step: str, detail: str = "") -> None:
        """Count an event and put it into the trace."""
        self.steps.append(Step(step, detail))
        self.counters.append(step)

    def tell(self, kind: str, now: datetime, **data: object) -> None:
        """An event about the device as it is now."""
        self.events.append(replace(event.of(self.device, kind, now), data=data))

    def refuse(self, refusal: ServiceError) -> Decision:
        """The Decision that says no and keeps what has changed."""
        return Decision(
            device=self.device,
            refusal=refusal,
            steps=tuple(self.steps),
            counters=tuple(self.counters),
            effects=tuple(self.effects),
            events=tuple(self.events),
            partner=self.partner,
        )


def open_contact(
    device: Device, context: Context, request_id: str, *, n: int | None, boot_count: int | None, staged: bool = False
) -> Contact | Decision:
    """The contact to go on with, or the Decision that ends here: a repeat, a lower number, a held first use.

    `staged`: the message belongs to the warehouse and confirms nothing.

    Raises ServiceError CONFLICT for a first use that may not be.
    """
    credential = moves.find(device, context.owner)
    assert credential is not None
    counted = credential.last_boot_count if boot_count is None else boot_count
    contact = Contact(device, credential, counted, [], [], [], firmware_before=device.firmware)
    if n is not None:
        repeat = _judge_number(contact, (counted, n), request_id, context)
        if repeat is not None:
            return repeat
    if credential.state is CredentialState.PENDING:
        return contact if staged else _first_use(contact, context)
    after = reactivation.suspect_clones(device, credential)
    if after is not device:
        group = context.world.catalogue.groups[device.group_id]
        after, events = clone.suspect(after, group, "old_credential_heard", context.now)
        contact.set(after)
        contact.note("clone_suspected", "the old credential was heard while a new one was held")
        contact.events += events
    return contact


def close_contact(
    contact: Contact,
    context: Context,
    request_id: str,
    fields: dict[str, object],
    *,
    n: int | None = None,
    desired_rev: int | None = None,
    caps: tuple[str, ...] | None = None,
) -> Decision:
    """The Decision with reply and device. With `n` the reply is stored for a repeat.

    With `desired_rev` the document is brought up to date and sent when the device has another revision.
    """
    device, events = updates.observe(contact.firmware_before, contact.device, context.world.catalogue, context.now)
    contact.events += events
    credential, world = contact.credential, context.world
    if desired_rev is not None:
        credential = documents.heard(device, credential, world, context.encoding, context.now, desired_rev)
        if credential.desired_doc is not None and desired_rev != credential.desired_rev:
            fields = {**fields, "desired": documents.signed(device, credential, world)}
            device = updates.offered(device, world.catalogue, context.now)
    reply = context.reply(request_id, fields)
    credential = _remembering(contact, credential, context, request_id, n, reply)
    device = _told(contact, device, credential, numbered=n is not None, caps=caps)
    if device.state is DeviceState.RETIRED and desired_rev is not None and desired_rev == credential.desired_rev:
        device = retirement.heard(device, credential, context.now)
        contact.note("retirement_heard")
    return Decision(
        device=device,
        reply=reply,
        steps=tuple(contact.steps),
        counters=tuple(contact.counters),
        effects=tuple(contact.effects),
        events=tuple(contact.events),
        partner=contact.partner,
    )


def _remembering(
    contact: Contact, credential: Credential, context: Context, request_id: str, n: int | None, reply: bytes
) -> Credential:
    """What the credential keeps of this request: of a numbered one the reply, for a repeat; of others that it was heard."""
    if n is not None:
        return replace(
            credential,
            last_boot_count=contact.boot_count,
            last_n=n,
            **_first_of_boot(contact, request_id, n),
            last_reply=reply,
            last_heard_at=context.now,
            encoding=context.encoding,
        )
    if credential.last_heard_at is None or context.now - credential.last_heard_at >= HEARD_EVERY:
        return replace(credential, last_heard_at=context.now)
    return credential


def _told(
    contact: Contact, device: Device, credential: Credential, *, numbered: bool, caps: tuple[str, ...] | None
) -> Device:
    """The device with what it has said of itself and with this credential; the same one where nothing is new."""
    changed: dict[str, Any] = {}
    if numbered and contact.boot_count > device.boot_count:
        changed["boot_count"] = contact.boot_count
    if caps is not None and caps != device.caps:
        changed["caps"] = caps
    if credential is not contact.credential:
        changed["credentials"] = moves.with_row(device, credential)
    return replace(device, **changed) if changed else device


def _first_of_boot(contact: Contact, request_id: str, n: int) -> dict[str, Any]:
    return {"first_n": n, "first_id": request_id} if contact.boot_count > contact.credential.last_boot_count else {}


def _judge_number(contact: Contact, number: tuple[int, int], request_id: str, context: Context) -> Decision | None:
    """None to go on; the stored reply for a repeat; CONFLICT for a lower number."""
    credential = contact.credential
    last = (credential.last_boot_count, credential.last_n)
    if number > last or (number == last and credential.last_reply is None):
        return None
    if number == last:
        return Decision(reply=credential.last_reply, counters=("request_repeated",))
    _look_for_clones(contact, number, request_id, context)
    refusal = ServiceError(
        codes.CONFLICT,
        "this number is lower than the last",
        cause="number_lower",
        detail=f"got {number}, last {last}",
        state={"boot_count": last[0], "n": last[1]},
    )
    return contact.refuse(refusal)


def _look_for_clones(contact: Contact, number: tuple[int, int], request_id: str, context: Context) -> None:
    """A boot counter that fell; or the number of this boot's first request in a request that is not that one."""
    credential = contact.credential
    last, first = credential.last_boot_count, credential.first_id
    if credential.state is not CredentialState.CONFIRMED:
        return
    if number[0] < last:
        sign = "boot_count_fell"
    elif number == (last, credential.first_n) and first not in (None, request_id):
        sign = "number_used_twice"
        contact.set(moves.put(contact.device, replace(credential, first_id=None)))  # one sign for each boot
    else:
        return
    group = context.world.catalogue.groups[contact.device.group_id]
    device, events = clone.note_sign(contact.device, group, sign, context.now)
    contact.set(device)
    contact.events += events
    if events:
        contact.note("clone_suspected", f"{sign}: {number} after {(last, credential.last_n)}")


def _first_use(contact: Contact, context: Context) -> Contact | Decision:
    """The compare-and-set that confirms, or what the policy says instead."""
    device, credential, world = contact.device, contact.credential, context.world
    if staging.in_progress(device, credential) is not None:
        return contact.refuse(_still_staged())
    reactivation.check_confirmable(device, credential, context.now)
    policy = world.catalogue.groups[device.group_id].reactivation
    verdict = reactivation.judge(device, credential, policy, context.now, world.listening_since)
    if verdict is Verdict.CONFIRM:
        _confirm(contact, context)
        return contact
    if verdict is Verdict.ASK:
        _ask_the_old(contact, context)
    elif verdict is Verdict.OPERATOR and not credential.awaits_operator:
        contact.set(moves.put(device, replace(credential, awaits_operator=True)))
        contact.note("operator_needed")
        contact.tell("operator_needed", context.now, credential_id=credential.credential_id)
    return contact.refuse(reactivation.refusal(verdict))


def _still_staged() -> ServiceError:
    return ServiceError(codes.CONFLICT, "first every item must work", cause="still_staged", retry_after_s=60)


def _confirm(contact: Contact, context: Context) -> None:
    """It takes over; what waited for that is done with it: a move is completed, a successor holds its thing."""
    device, credential = contact.device, contact.credential
    renewed = credential.renewed_from is not None
    contact.set(moves.confirm(device, credential, context.now))
    contact.note("confirmed")
    if credential.rekey:
        _change_key(contact, context)
    if replacement.is_successor(device):
        old = context.partner
        assert old is not None
        out, holder, events = replacement.take_over(old, contact.device, context.now)
        contact.partner = out
        contact.set(holder)
        contact.note("replaced", f"took over from {old.serial}")
        contact.events += events
    contact.tell("renewed" if renewed else "confirmed", context.now)
    thing = contact.device.thing
    if thing is not None and thing.move is not None and credential.environment == thing.move.environment:
        moved, events = placement.complete(contact.device, context.world.catalogue, context.now)
        contact.set(moved)
        contact.note("moved", moved.thing.environment if moved.thing else "")
        contact.events += events


def _change_key(contact: Contact, context: Context) -> None:
    """After a transfer of ownership: from now on only the key that was made from this credential's nonces counts."""
    device, credential, world = contact.device, contact.credential, context.world
    prover = proofs.prover_of(world.catalogue.groups[device.group_id], device, world.service_key)
    assert isinstance(prover, proofs.HmacProver)
    assert device.thing is not None
    rekeyed = prover.rekeyed(credential.nonce, credential.server_nonce, device.thing.thing_id, credential.credential_id)
    opened_by = device.rekey_command_id
    device = transfer.end(moves.put(device, replace(credential, rekey=False)))
    contact.set(replace(device, key=rekeyed.key))
    contact.note("rekeyed")
    contact.events.append(event.of(contact.device, "rekeyed", context.now, command_id=opened_by))


def _ask_the_old(contact: Contact, context: Context) -> None:
    """Push the document on the old credential: whoever lives there answers with a report."""
    world = context.world
    held = replace(contact.credential, held_at=context.now)
    device = moves.put(contact.device, held)
    old = moves.confirmed_of(device.credentials)
    assert old is not None
    asked = documents.refreshed(device, old, world, old.encoding, context.now)
    if asked.desired_doc is None:
        asked = documents.first(asked)
    if asked is not old:
        device = moves.put(device, asked)
    contact.set(device)
    contact.effects.append(documents.push(device, asked, world))
    contact.note("held", "the old credential is asked first")
