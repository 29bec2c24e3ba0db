"""`stage`: the door of the warehouse. A unit that was handed over gets a credential for later, and its manifest. Pure.

Owns who may come in there and what the reply has besides the grant. That the message came over the warehouse's broker
was checked before anything was looked up. Source: docs/protocol.md, sections 9.2 and 9.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from device_sdk.wire import codes, keys
from service.credentials import proofs
from service.domain import manifest, moves, staging
from service.domain.catalogue import STAGED_LIFE
from service.domain.credential import CredentialState
from service.domain.device import Device
from service.domain.group import Group, KeyKind
from service.domain.manifest import ItemKind, Manifest
from service.domain.staging import Unit
from service.errors import ServiceError
from service.handlers import activate
from service.handlers.decision import Context, Decision, Step
from service.handlers.door import Door, Prover
from service.protocol import encode
from service.protocol.schemas import Activate, Claim


def handle(device: Device | None, request: Activate, claim: Claim, context: Context) -> Decision:
    """Decide about one stage. Raises ServiceError REFUSED, the same for every unproven one."""
    decision = activate.handle(device, request, claim, context, _WAREHOUSE)
    if decision.reply is not None and not encode.fits(decision.reply):
        refusal = ServiceError(
            codes.TOO_LARGE, "the manifest does not fit; MessagePack is shorter", cause="manifest_too_large"
        )
        return Decision(refusal=refusal, steps=(Step("refused", refusal.public),), credential_id=decision.credential_id)
    return decision


class _Warehouse(Door):
    verb = "staged"
    is_ordinary = False

    def asked(self, session: str, server_nonce: bytes, claim: bytes) -> bytes:
        return keys.stage_message(session, server_nonce, claim)

    def granted(self, session: str, server_nonce: bytes, claim: bytes, grant: bytes) -> bytes:
        return keys.stage_granted_message(session, server_nonce, claim, grant)

    def judge(self, device: Device | None, group: Group) -> Decision | None:
        unit = device.unit if device is not None else None
        # 1. Handed over.
        if device is None or unit is None:
            refusal = ServiceError(codes.NOT_ALLOCATED, "this unit was not handed over yet", cause="not_handed_over")
            return Decision(refusal=refusal)
        # 2. Once.
        if staging.is_used(device):
            refusal = ServiceError(codes.ALREADY_STAGED, "this unit has been staged", cause="already_staged")
            return Decision(refusal=refusal)
        # 3. With something to install that it can open.
        stopped = _nothing_to_install(unit, group)
        if stopped is not None:
            told = replace(device, unit=staging.stopped(unit, stopped.public))
            return Decision(device=told if told.unit is not unit else None, refusal=stopped)
        return None

    def prepared(self, device: Device, context: Context) -> Device:
        """What an earlier call gave was never used, or there would be no other: it is dropped."""
        assert device.unit is not None
        unused = moves.find(device, device.unit.equipment.stage_credential_id or "")
        if unused is None or unused.state is not CredentialState.PENDING:
            return device
        return moves.put(device, moves.drop(unused, context.now, "staged_again"))

    def admitted(self, device: Device, credential_id: str, context: Context) -> Device:
        unit = device.unit
        assert unit is not None
        assert unit.offered is not None
        return replace(device, unit=staging.staged(unit, unit.offered, credential_id, context.now))

    def told(self, device: Device, credential_id: str, prover: Prover, context: Context) -> Mapping[str, object]:
        unit, thing = device.unit, device.thing
        assert unit is not None
        assert unit.manifest is not None
        assert thing is not None
        content = manifest.document(unit.manifest, _digests(unit.manifest, prover, context))
        values = staging.warehouse_values(unit)
        if values:
            content["settings"] = {"values": values}
        doc = encode.pack(content, context.encoding)
        mac = prover.prove(keys.manifest_message(thing.thing_id, credential_id, doc))
        return {"manifest": {"doc": doc, "mac": mac}}

    def expires_at(self, group: Group, context: Context) -> datetime:  # noqa: ARG002
        warehouse = context.world.catalogue.environments.get(context.asked_in or "")
        return context.now + (STAGED_LIFE if warehouse is None else warehouse.staged_life)


_WAREHOUSE = _Warehouse()


def _digests(of: Manifest, prover: Prover, context: Context) -> dict[str, bytes]:
    """By name, of each secret that is an image of its own, as it is for this unit."""
    if not of.sealed_images:
        return {}
    assert isinstance(prover, proofs.HmacProver)  # others were refused
    sealed = {one.name: context.world.seals.image(prover.key, one) for one in of.sealed_images}
    return {name: bytes.fromhex(one.image_id) for name, one in sealed.items()}


def _nothing_to_install(unit: Unit, group: Group) -> ServiceError | None:
    """Why this unit cannot be staged just now; the operator sees the words too."""
    offered = unit.offered
    if offered is None:
        return ServiceError(codes.NOT_ALLOCATED, "its device type has no manifest yet", cause="manifest_missing")
    has_secrets = any(one.kind is ItemKind.SECRET for one in offered.items)
    if has_secrets and group.key_kind is KeyKind.PUBLIC_KEY:
        return ServiceError(
            codes.BAD_REQUEST,
            "its manifest has secrets, and it has no key to seal them for",
            cause="secrets_unsealable",
        )
    return None
