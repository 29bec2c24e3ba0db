"""`item`: a piece of an item that is no image of its own; a secret comes sealed for this device alone. Pure.

Owns also which key that is sealed with.

Source: docs/protocol.md, section 9.4.
"""

from __future__ import annotations

from dataclasses import replace

from device_sdk.wire import codes, limits
from service.credentials import proofs
from service.domain import manifest, moves, staging
from service.domain.device import Device
from service.errors import Secret, ServiceError
from service.handlers.decision import Context, Decision
from service.protocol.schemas import Item


def handle(device: Device, request: Item, context: Context) -> Decision:
    """Raises ServiceError FORBIDDEN, NOT_FOUND or RANGE."""
    credential = moves.find(device, context.owner)
    unit = staging.unit_of(device, credential) if credential is not None else None
    if credential is None or unit is None:
        raise ServiceError(codes.FORBIDDEN, "only with what `stage` gave, before online", cause="item_not_staged")
    wanted = unit.manifest.item(request.name) if unit.manifest is not None else None
    content = _content(device, wanted, context) if wanted is not None else None
    if content is None:
        raise ServiceError(codes.NOT_FOUND, "no such item, or it is an image", cause="item_not_found")
    if request.offset >= len(content):
        raise ServiceError(codes.RANGE, "beyond the end", cause="item_range", state={"size": len(content)})
    piece = content[request.offset : request.offset + limits.MAX_PIECE_BYTES]
    used = device
    if credential.last_heard_at is None:
        used = moves.put(device, replace(credential, last_heard_at=context.now))
    return Decision(
        device=used if used is not device else None,
        reply=context.reply(request.id, {"name": wanted.name if wanted else "", "size": len(content), "data": piece}),
    )


def _content(device: Device, item: manifest.Item | None, context: Context) -> bytes | None:
    if item is None or item.image_id is not None or item.is_sealed_image:
        return None
    if item.secret is None:
        return item.content
    return context.world.seals.whole(sealing_key(device, context), item)


def sealing_key(device: Device, context: Context) -> Secret:
    """The K that secrets are sealed for this unit with."""
    group = context.world.catalogue.groups[device.group_id]
    prover = proofs.signer_of(group, device, context.world.service_key)
    assert isinstance(prover, proofs.HmacProver)  # `stage` refused a public-key device
    return prover.key
