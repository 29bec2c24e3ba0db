"""`activate` of a device that speaks HTTP: the ordinary way in, but its API key comes in the reply. Pure.

Owns what differs from activate.py: words of its own in the proofs, so that an `activate` that somebody has seen at a
broker never gets a key out of here, and who cannot come in so. Source: docs/partners/things.md.
"""

from __future__ import annotations

from collections.abc import Mapping

from device_sdk.wire import codes, keys
from service.credentials import proofs
from service.domain import moves
from service.domain.device import Device
from service.domain.group import Group, KeyKind
from service.errors import ServiceError
from service.handlers import activate
from service.handlers.decision import Context, Decision
from service.handlers.door import Door, Prover
from service.protocol.http_schemas import HttpActivate
from service.protocol.schemas import Claim


def handle(device: Device | None, request: HttpActivate, claim: Claim, context: Context) -> Decision:
    """Decide about one. Raises ServiceError BAD_REQUEST, or REFUSED, the same for every unproven one."""
    if claim.serial != request.serial or request.group_id not in (None, claim.group_id):
        raise ServiceError(
            codes.BAD_REQUEST, "the claim is another device's than the address", cause="http_claim_other"
        )
    if claim.csr is not None:
        raise ServiceError(codes.BAD_REQUEST, "over HTTP there are API keys only", cause="http_csr")
    return activate.handle(device, request, claim, context, _HTTP)


class _Http(Door):
    def asked(self, session: str, server_nonce: bytes, claim: bytes) -> bytes:
        return keys.http_activate_message(session, server_nonce, claim)

    def granted(self, session: str, server_nonce: bytes, claim: bytes, grant: bytes) -> bytes:
        return keys.http_activated_message(session, server_nonce, claim, grant)

    def judge(self, device: Device | None, group: Group) -> Decision | None:  # noqa: ARG002
        if group.key_kind is KeyKind.PUBLIC_KEY:
            refusal = ServiceError(
                codes.BAD_REQUEST, "a device with public keys has no API key", cause="http_public_key"
            )
            return Decision(refusal=refusal)
        return None

    def told(self, device: Device, credential_id: str, prover: Prover, context: Context) -> Mapping[str, object]:  # noqa: ARG002
        credential, thing = moves.find(device, credential_id), device.thing
        assert credential is not None
        assert thing is not None
        assert isinstance(prover, proofs.HmacProver)  # judge lets nobody else in
        if credential.rekey:
            prover = prover.rekeyed(credential.nonce, credential.server_nonce, thing.thing_id, credential_id)
        key = prover.api_key(credential.nonce, credential.server_nonce, thing.thing_id, credential_id)
        return {"thing_id": thing.thing_id, "name": thing.name, "api_key": key.reveal().decode("ascii")}


_HTTP = _Http()
