"""`activate`: a proven device gets a credential of its own, the same one however often it asks. Pure.

Owns the order of the checks after the look-up; sizes, rates, characters and the server nonce were checked before.
What is raised here was said to someone unproven; what a proven device is refused comes in the Decision.
Source: docs/protocol.md, sections 4.2, 4.4 and 4.9.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NoReturn

from device_sdk.wire import codes, ids
from service.credentials import proofs
from service.domain import (
    activation,
    clone,
    event,
    failover,
    hook,
    identity,
    moves,
    self_registration,
)
from service.domain.credential import CredentialKind
from service.domain.device import Device, DeviceState
from service.domain.event import Event
from service.domain.group import Group
from service.domain.hook import Question
from service.errors import ServiceError
from service.handlers import grants
from service.handlers.decision import AskHook, Context, Decision, Incomplete, Step
from service.handlers.door import ORDINARY, Door
from service.handlers.grants import Ask
from service.protocol.schemas import Activate, Claim


def handle(device: Device | None, request: Activate, claim: Claim, context: Context, door: Door = ORDINARY) -> Decision:
    """Decide about one activate, or about a stage, which comes by another door. Raises ServiceError REFUSED, the same for every unproven one."""
    # 6. Look-up: `device` is who the claim names, or nobody.
    group = context.world.catalogue.groups.get(claim.group_id)
    # 7. Proof, at the same cost whoever is named.
    prover = _proven(device, group, request, claim, context, door)
    if device is not None and context.incomplete:
        raise Incomplete(device.device_id)
    assert group is not None
    credential_id = ids.credential_id(context.owner, request.server_nonce, request.claim)
    ask = Ask(request, claim, group, prover, credential_id, newcomer=device is None, door=door)
    try:
        return _decide(device, ask, context)
    except ServiceError as refusal:
        events = _hook_denied(ask, device, context) if refusal.code == codes.HOOK_DENIED else ()
        steps = (Step("refused", refusal.detail),)
        return Decision(refusal=refusal, steps=steps, events=events, credential_id=credential_id)


def _decide(device: Device | None, ask: Ask, context: Context) -> Decision:
    known = device
    # 8. Rates of serial and group: only now, so that nobody can use them up for another. Once for each message.
    if context.answer is None and context.signed is None:
        context.world.admit(ask.group.group_id, ask.claim.serial)
    refused = ask.door.judge(device, ask.group)
    if refused is not None:
        return replace(refused, credential_id=ask.credential_id)
    if device is None:
        device = _self_registered(ask, context)
    # 9. State of the device and of this very credential.
    activation.check_state(device)
    existing = moves.find(device, ask.credential_id)
    if existing is not None:
        return grants.repeat(device, existing, ask, context)
    told: tuple[Event, ...] = ()
    if ask.door.is_ordinary:
        device, told = _look_for_clones(device, ask, context)
    if device.frozen:
        return _frozen(device, told, ask)
    # 10. Place. A hook may refuse the device or, the first time, place it elsewhere.
    if ask.group.hook is not None and not context.operational and ask.door.is_ordinary:
        if context.answer is None:
            return Decision(effects=(AskHook(_question(device, ask, context)),), credential_id=ask.credential_id)
        device = hook.overridden(device, context.answer, context.world.catalogue)
    if not context.operational and ask.door.is_ordinary:
        device, moved = failover.judge(
            device, ask.group, context.asked_in, context.world.catalogue, context.now, context.world.down_since
        )
        told += moved
    place = activation.place_of(device, ask.group, context.world.catalogue, operational=context.operational)
    kind = activation.kind_of(ask.group, place, has_csr=ask.claim.csr is not None)
    # 11. CSR.
    issued = grants.certificate(known, ask, place, context) if kind is CredentialKind.X509 else None
    decision = grants.admit(device, ask, place, issued, context)
    return replace(decision, events=told + decision.events) if told else decision


def _look_for_clones(device: Device, ask: Ask, context: Context) -> tuple[Device, tuple[Event, ...]]:
    if not clone.boot_count_fell(device, ask.claim.boot_count):
        return device, ()
    return clone.note_sign(device, ask.group, "boot_count_fell", context.now)


def _frozen(device: Device, told: tuple[Event, ...], ask: Ask) -> Decision:
    """Refused for one sign too many."""
    return Decision(
        device=device,
        refusal=activation.frozen(),
        steps=(Step("frozen", "boot_count_fell"),),
        events=told,
        credential_id=ask.credential_id,
    )


def _proven(
    device: Device | None, group: Group | None, request: Activate, claim: Claim, context: Context, door: Door
) -> proofs.Prover:
    if context.proven is not None and context.proven.device is device:
        return context.proven.prover
    message = door.asked(context.owner, request.server_nonce, request.claim)
    try:
        prover = proofs.verify_claimant(
            group,
            device,
            claim.serial,
            claim.key_index or 0,
            context.world.service_key,
            message,
            request.proof,
            now=context.now,
            vouched=device is not None and grants.renewed_from(device, context) is not None,
        )
    except proofs.Unproven as error:
        _refuse(str(error))
    if device is None and (group is None or not group.self_registration):
        _refuse("unknown serial")  # with a derived key even an unregistered serial can be proven
    return prover


def _refuse(cause: str) -> NoReturn:
    raise ServiceError(
        codes.REFUSED, "refused", cause="refused_" + cause.replace(" ", "_").replace(".", ""), detail=cause
    )


def _self_registered(ask: Ask, context: Context) -> Device:
    """Raises ServiceError NOT_ALLOCATED: the group's quota or pattern."""
    group_id, serial = ask.group.group_id, ask.claim.serial
    return Device(
        device_id=identity.uuid7(context.now, context.world.random_bytes(identity.RANDOM_BYTES)),
        group_id=group_id,
        serial=serial,
        state=DeviceState.REGISTERED,
        registered_at=context.now,
        ou=self_registration.quarantine_of(ask.group, serial, context.self_registered.get(group_id, 0)),
    )


def _question(device: Device, ask: Ask, context: Context) -> Question:
    """What the hook is told: the device as it says it is, and the place that it would get."""
    assert ask.group.hook is not None
    try:
        place = activation.place_of(device, ask.group, context.world.catalogue)
        ou, environment = place.ou, place.environment.name
    except ServiceError:  # the hook may know one
        ou, environment = "", ""
    return Question(
        hook=ask.group.hook,
        credential_id=ask.credential_id,
        group_id=device.group_id,
        serial=device.serial,
        registered=not ask.newcomer,
        thing_id=device.thing.thing_id if device.thing else None,
        ou=ou,
        environment=environment,
        model=ask.claim.model,
        boot_count=ask.claim.boot_count,
        attributes=ask.claim.attributes or {},
    )


def _hook_denied(ask: Ask, device: Device | None, context: Context) -> tuple[Event, ...]:
    data = {"reason": context.answer.reason if context.answer else ""}
    if device is None:
        return (Event("hook_denied", ask.group.group_id, ask.claim.serial, data=data, at=context.now),)
    return (replace(event.of(device, "hook_denied", context.now), data=data),)
