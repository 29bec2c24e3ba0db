"""What an admitted device is given: a credential, the grant that says where and how, and the reply with both. Pure.

Owns the making of these, and nothing of who gets them: activate.py decides. The same reply again is made here too.
Source: docs/protocol.md, sections 4.2 and 4.4.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

from device_sdk.wire import codes
from service.brokers.gate import Login
from service.credentials import proofs
from service.credentials.authority import SERIAL_BYTES, CsrError, Issued, Order
from service.domain import activation, event, group_secrets, identity, moves, placement
from service.domain.activation import Place
from service.domain.credential import Credential, CredentialKind, CredentialState
from service.domain.device import Device, DeviceState
from service.domain.event import Event
from service.domain.group import Group
from service.domain.product import Product
from service.domain.thing import Thing
from service.errors import Secret, ServiceError
from service.handlers.decision import Context, Decision, Grant, Proven, Step, Unsigned
from service.handlers.door import ORDINARY, Door
from service.protocol import encode
from service.protocol.schemas import Activate, Claim


@dataclass(frozen=True, slots=True)
class Ask:
    """One activate with what its checks have found out so far."""

    request: Activate
    claim: Claim
    group: Group
    prover: proofs.Prover
    credential_id: str
    newcomer: bool  # registers itself with this message
    door: Door = ORDINARY


def repeat(device: Device, credential: Credential, ask: Ask, context: Context) -> Decision:
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


def admit(device: Device, ask: Ask, place: Place, issued: Issued | None, context: Context) -> Decision:
    product = context.world.catalogue.products[ask.group.product_id]
    device = ask.door.prepared(device, context)
    counters, steps = [ask.door.verb], [Step(ask.door.verb, "certificate" if issued else "api key")]
    if ask.newcomer:
        counters.append("self_registered")
        steps.insert(0, Step("self_registered"))
    if isinstance(ask.prover, proofs.HmacProver):
        device = group_secrets.bound_to(device, ask.prover.generation, context.now)
    rekey = _rekeys(device, ask, context)
    thing = device.thing or _new_thing(device, product, place, context)
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
        number_taken=product.product_id if device.thing is None else None,
        newcomer_of=ask.group.group_id if ask.newcomer else None,
        spki=issued.spki_sha256 if issued else None,
        credential_id=credential.credential_id,
    )


def _events(after: Device, ask: Ask, context: Context, *, first: bool) -> tuple[Event, ...]:
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
    made = activation.new_thing(thing_id, device, product, number, place, context.now, template)
    named = context.answer.name if context.answer is not None else None  # by the hook of its group
    return made if named is None else replace(made, name=named)


def certificate(device: Device | None, ask: Ask, place: Place, context: Context) -> Issued:
    """The certificate of this message, which was proven by what is known of `device`.

    Raises Unsigned while it is not made, and ServiceError.
    """
    environment = place.environment.name
    if environment not in context.world.issuers:
        raise ServiceError(
            codes.UNAVAILABLE,
            "no certificates just now",
            cause="authority_missing",
            detail=f"environment {environment} has an x509 endpoint and no CA",
        )
    csr = context.csr
    if csr is None:
        raise ServiceError(codes.BAD_REQUEST, "the CSR cannot be read", cause="csr_malformed")
    if csr.spki_sha256 in context.spki_in_use:
        raise ServiceError(codes.BAD_REQUEST, "the CSR's key is in use already; make a new one", cause="csr_key_in_use")
    if context.signed is None or context.signed[0].environment != environment:
        serial = context.world.random_bytes(SERIAL_BYTES)
        order = Order(environment, csr, ask.credential_id, context.now, serial)
        raise Unsigned(order, Proven(device, ask.prover))
    signed = context.signed[1]
    if isinstance(signed, CsrError):
        raise ServiceError(codes.BAD_REQUEST, str(signed), cause=signed.cause) from signed
    return signed


def _credential(
    device: Device,
    thing: Thing,
    ask: Ask,
    place: Place,
    issued: Issued | None,
    api_key: Secret | None,
    context: Context,
    *,
    rekey: bool,
) -> Credential:
    claim, now = ask.claim, context.now
    lapses_at = ask.door.expires_at(ask.group, context)
    kind = CredentialKind.X509 if issued else CredentialKind.API_KEY
    renewed = renewed_from(device, context)
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
        approved=renewed is not None or _is_awaited(device, ask, place),
        renewed_from=renewed,
        rekey=rekey,
    )


def _is_awaited(device: Device, ask: Ask, place: Place) -> bool:
    """Whether somebody has seen to it that the device comes: it moves here, changes hands, or uses a door of its own."""
    return placement.is_expected(device, place.environment.name) or device.rekey or not ask.door.is_ordinary


def _rekeys(device: Device, ask: Ask, context: Context) -> bool:
    """Whether the device gets a new key with this credential: it changes hands, or it leaves a secret of its group.

    For the second it speaks over the credential that it has: who knows the group's secret could do the rest.
    """
    return device.rekey or (renewed_from(device, context) is not None and group_secrets.leaves(ask.group, device))


def renewed_from(device: Device, context: Context) -> str | None:
    """The confirmed credential, if it is the one that asks: then nobody needs to be asked whether it still lives."""
    confirmed = moves.confirmed_of(device.credentials)
    renews = context.operational and confirmed is not None and confirmed.credential_id == context.owner
    return context.owner if renews else None


def _grant_map(
    ask: Ask,
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


def _reply(ask: Ask, device: Device, grant: bytes, context: Context) -> bytes:
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


def _api_key(ask: Ask, nonce: bytes, server_nonce: bytes, thing: Thing, *, rekey: bool) -> Secret:
    prover = ask.prover
    assert isinstance(prover, proofs.HmacProver)  # kind_of gives public keys certificates only
    if rekey:
        prover = prover.rekeyed(nonce, server_nonce, thing.thing_id, ask.credential_id)
    return prover.api_key(nonce, server_nonce, thing.thing_id, ask.credential_id)
