"""`activate`: a proven device gets a credential of its own, the same one however often it asks. Pure.

Owns the order of the checks after the look-up; sizes, rates, characters and the server nonce were checked before.
What is raised here was said to someone unproven; what a proven device is refused comes in the Decision.
Source: docs/protocol.md, sections 4.2, 4.4 and 4.9.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import NoReturn

from device_sdk.wire import codes, ids
from service.brokers.gate import Login
from service.credentials import proofs
from service.credentials.authority import SERIAL_BYTES, CsrError, Issued
from service.domain import (
    activation,
    clone,
    event,
    failover,
    group_secrets,
    hook,
    identity,
    moves,
    placement,
    self_registration,
)
from service.domain.activation import Place
from service.domain.credential import Credential, CredentialKind, CredentialState
from service.domain.device import Device, DeviceState
from service.domain.event import Event
from service.domain.group import Group
from service.domain.hook import Question
from service.domain.product import Product
from service.domain.thing import Thing
from service.errors import Secret, ServiceError
from service.handlers.decision import AskHook, Context, Decision, Grant, Incomplete, Step
from service.handlers.door import ORDINARY, Door
from service.protocol import encode
from service.protocol.schemas import Activate, Claim


@dataclass(frozen=True, slots=True)
class _Ask:
    """One activate with what its checks have found out so far."""

    request: Activate
    claim: Claim
    group: Group
    prover: proofs.Prover
    credential_id: str
    newcomer: bool  # registers itself with this message
    door: Door = ORDINARY


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
    ask = _Ask(request, claim, group, prover, credential_id, newcomer=device is None, door=door)
    try:
        return _decide(device, ask, context)
    except ServiceError as refusal:
        events = _hook_denied(ask, device, context) if refusal.code == codes.HOOK_DENIED else ()
        steps = (Step("refused", refusal.detail),)
        return Decision(refusal=refusal, steps=steps, events=events, credential_id=credential_id)


def _decide(device: Device | None, ask: _Ask, context: Context) -> Decision:
    # 8. Rates of serial and group: only now, so that nobody can use them up for another. Once for each message.
    if context.answer is None:
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
        return _repeat(device, existing, ask, context)
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
    issued = _certificate(ask, place, context) if kind is CredentialKind.X509 else None
    decision = _admit(device, ask, place, issued, context)
    return replace(decision, events=told + decision.events) if told else decision


def _look_for_clones(device: Device, ask: _Ask, context: Context) -> tuple[Device, tuple[Event, ...]]:
    if not clone.boot_count_fell(device, ask.claim.boot_count):
        return device, ()
    return clone.note_sign(device, ask.group, "boot_count_fell", context.now)


def _frozen(device: Device, told: tuple[Event, ...], ask: _Ask) -> Decision:
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
            vouched=device is not None and _renewed_from(device, context) is not None,
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


def _self_registered(ask: _Ask, context: Context) -> Device:
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


def _question(device: Device, ask: _Ask, context: Context) -> Question:
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


def _hook_denied(ask: _Ask, device: Device | None, context: Context) -> tuple[Event, ...]:
    data = {"reason": context.answer.reason if context.answer else ""}
    if device is None:
        return (Event("hook_denied", ask.group.group_id, ask.claim.serial, data=data, at=context.now),)
    return (replace(event.of(device, "hook_denied", context.now), data=data),)


def _repeat(device: Device, credential: Credential, ask: _Ask, context: Context) -> Decision:
    """The same reply again, and the broker told again; nothing new."""
    if credential.state is CredentialState.DROPPED or moves.is_expired(credential, context.now):
        raise ServiceError(
            codes.NONCE_EXPIRED, "say hello again", cause="activate_dropped", detail=credential.drop_cause or "expired"
        )
    assert device.thing is not None
    api_key = None
    if credential.kind is CredentialKind.API_KEY:
        nonces = credential.nonce, credential.server_nonce
        api_key = _api_key(ask, *nonces, device.thing, rekey=credential.rekey)
    return Decision(
        reply=_reply(ask, device, credential.grant, context),
        counters=("activate_repeated",),
        effects=(_grant(credential, api_key),),
        credential_id=credential.credential_id,
    )


def _admit(device: Device, ask: _Ask, place: Place, issued: Issued | None, context: Context) -> Decision:
    product = context.world.catalogue.products[ask.group.product_id]
    number_taken = None
    device = ask.door.prepared(device, context)
    counters, steps = [ask.door.verb], [Step(ask.door.verb, "certificate" if issued else "api key")]
    if ask.newcomer:
        counters.append("self_registered")
        steps.insert(0, Step("self_registered"))
    if isinstance(ask.prover, proofs.HmacProver):
        device = group_secrets.bound_to(device, ask.prover.generation, context.now)
    rekey = _rekeys(device, ask, context)
    thing = device.thing
    if thing is None:
        thing = _new_thing(device, product, place, context)
        if context.answer is not None and context.answer.name is not None:
            thing = replace(thing, name=context.answer.name)
        number_taken = product.product_id
    api_key = None
    if issued is None:
        api_key = _api_key(ask, ask.claim.nonce, ask.request.server_nonce, thing, rekey=rekey)
    credential = _credential(device, thing, ask, place, issued, api_key, context, rekey=rekey)
    first = device.state is DeviceState.REGISTERED
    after = replace(
        moves.add_pending(moves.drop_expired(device, context.now), credential, context.now),
        state=DeviceState.ACTIVATED if first else device.state,
        thing=thing,
        boot_count=max(device.boot_count, ask.claim.boot_count),
        model=ask.claim.model or device.model,
        caps=tuple(ask.claim.caps),
    )
    after = ask.door.admitted(after, ask.credential_id, context)
    return Decision(
        device=after,
        reply=_reply(ask, after, credential.grant, context),
        steps=tuple(steps),
        counters=tuple(counters),
        effects=(_grant(credential, api_key),),
        events=_events(after, ask, context, first=first),
        number_taken=number_taken,
        newcomer_of=ask.group.group_id if ask.newcomer else None,
        spki=issued.spki_sha256 if issued else None,
        credential_id=credential.credential_id,
    )


def _events(after: Device, ask: _Ask, context: Context, *, first: bool) -> tuple[Event, ...]:
    """A reactivation is told when it is confirmed."""
    kinds = (("registered",) if ask.newcomer else ()) + (("activated",) if first else ())
    if not ask.door.is_ordinary:
        kinds = (*kinds, ask.door.verb)
    if ask.newcomer and after.ou is not None and after.ou == ask.group.quarantine_ou:
        kinds = (*kinds, "quarantined")
    return tuple(event.of(after, kind, context.now) for kind in kinds)


def _new_thing(device: Device, product: Product, place: Place, context: Context) -> Thing:
    thing_id = identity.uuid7(context.now, context.world.random_bytes(identity.RANDOM_BYTES))
    number = context.next_number.get(product.product_id, 1)
    template = context.world.catalogue.groups[device.group_id].template_settings
    return activation.new_thing(thing_id, device, product, number, place, context.now, template)


def _certificate(ask: _Ask, place: Place, context: Context) -> Issued:
    authority = context.world.authorities.get(place.environment.name)
    if authority is None:
        raise ServiceError(
            codes.UNAVAILABLE,
            "no certificates just now",
            cause="authority_missing",
            detail=f"environment {place.environment.name} has an x509 endpoint and no CA",
        )
    csr = context.csr
    if csr is None:
        raise ServiceError(codes.BAD_REQUEST, "the CSR cannot be read", cause="csr_malformed")
    if csr.spki_sha256 in context.spki_in_use:
        raise ServiceError(codes.BAD_REQUEST, "the CSR's key is in use already; make a new one", cause="csr_key_in_use")
    try:
        return authority.sign_csr(csr, ask.credential_id, context.now, context.world.random_bytes(SERIAL_BYTES))
    except CsrError as error:
        raise ServiceError(codes.BAD_REQUEST, str(error), cause=error.cause) from error


def _credential(
    device: Device,
    thing: Thing,
    ask: _Ask,
    place: Place,
    issued: Issued | None,
    api_key: Secret | None,
    context: Context,
    *,
    rekey: bool,
) -> Credential:
    claim, now = ask.claim, context.now
    lapses_at = ask.door.expires_at(ask.group, now)
    kind = CredentialKind.X509 if issued else CredentialKind.API_KEY
    renewed_from = _renewed_from(device, context)
    return Credential(
        credential_id=ask.credential_id,
        device_id=device.device_id,
        kind=kind,
        state=CredentialState.PENDING,
        environment=place.environment.name,
        created_at=now,
        expires_at=min(lapses_at, issued.expires_at) if issued else lapses_at,
        boot_count=claim.boot_count,
        nonce=claim.nonce,
        server_nonce=ask.request.server_nonce,
        grant=_grant_map(ask, thing, place, kind, issued, context, rekey=rekey),
        encoding=context.encoding,
        api_key_sha256=hashlib.sha256(api_key.reveal()).digest() if api_key else None,
        certificate_pem=issued.pem if issued else None,
        certificate_serial=issued.serial if issued else None,
        spki_sha256=issued.spki_sha256 if issued else None,
        certificate_expires_at=issued.expires_at if issued else None,
        last_boot_count=claim.boot_count,
        approved=renewed_from is not None
        or placement.is_expected(device, place.environment.name)
        or device.rekey
        or not ask.door.is_ordinary,
        renewed_from=renewed_from,
        rekey=rekey,
    )


def _rekeys(device: Device, ask: _Ask, context: Context) -> bool:
    """Whether the device gets a new key with this credential: it changes hands, or it leaves a secret of its group.

    For the second it speaks over the credential that it has: who knows the group's secret could do the rest.
    """
    return device.rekey or (_renewed_from(device, context) is not None and group_secrets.leaves(ask.group, device))


def _renewed_from(device: Device, context: Context) -> str | None:
    """The confirmed credential, if it is the one that asks: then nobody needs to be asked whether it still lives."""
    confirmed = moves.confirmed_of(device.credentials)
    renews = context.operational and confirmed is not None and confirmed.credential_id == context.owner
    return context.owner if renews else None


def _grant_map(
    ask: _Ask,
    thing: Thing,
    place: Place,
    kind: CredentialKind,
    issued: Issued | None,
    context: Context,
    *,
    rekey: bool,
) -> bytes:
    endpoint = place.environment.endpoints[kind]
    grant: dict[str, object] = {
        "thing_id": thing.thing_id,
        "name": thing.name,
        "ou": place.ou,
        "environment": place.environment.name,
        "credential_id": ask.credential_id,
        "kind": kind.value,
        "endpoint": {"host": endpoint.host, "port": endpoint.port, "tls": endpoint.tls},
    }
    if issued is not None:
        grant["certificate"] = issued.pem
    if endpoint.tls and place.environment.ca_pem is not None:
        grant["ca"] = place.environment.ca_pem
    if rekey:
        grant["rekey"] = True
    grant["time"] = int(context.now.timestamp())
    return encode.pack(grant, context.encoding)


def _reply(ask: _Ask, device: Device, grant: bytes, context: Context) -> bytes:
    message = ask.door.granted(context.owner, ask.request.server_nonce, ask.request.claim, grant)
    more = ask.door.told(device, ask.credential_id, ask.prover, context)
    return context.reply(ask.request.id, {"grant": grant, "server_proof": ask.prover.prove(message), **more})


def _grant(credential: Credential, api_key: Secret | None) -> Grant:
    return Grant(
        credential.environment,
        Login(
            credential_id=credential.credential_id,
            kind=credential.kind,
            api_key=api_key,
            api_key_sha256=credential.api_key_sha256,
            certificate_serial=credential.certificate_serial,
        ),
    )


def _api_key(ask: _Ask, nonce: bytes, server_nonce: bytes, thing: Thing, *, rekey: bool) -> Secret:
    prover = ask.prover
    assert isinstance(prover, proofs.HmacProver)  # kind_of gives public keys certificates only
    if rekey:
        prover = prover.rekeyed(nonce, server_nonce, thing.thing_id, ask.credential_id)
    return prover.api_key(nonce, server_nonce, thing.thing_id, ask.credential_id)
