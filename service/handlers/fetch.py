"""`fetch`, and the same over HTTP: who may fetch what. Pure; the streamer judges the range and sends the chunks.

Source: docs/protocol.md, section 6.1; docs/partners/things.md, section 4.
"""

from __future__ import annotations

from dataclasses import replace

from device_sdk.wire import codes
from service.domain import desired, firmware, moves, staging
from service.domain.credential import Credential, CredentialState
from service.domain.device import Device
from service.domain.staging import Unit
from service.errors import ServiceError
from service.handlers.decision import Authorise, Context, Decision
from service.handlers.item import sealing_key
from service.protocol.http_schemas import HttpFetch
from service.protocol.schemas import Fetch


def handle(device: Device, request: Fetch, context: Context) -> Decision:
    """The one image that this credential may fetch now. Raises ServiceError FORBIDDEN or IMAGE_UNKNOWN."""
    credential = moves.find(device, context.owner)
    unit = staging.unit_of(device, credential) if credential is not None else None
    if credential is not None and unit is not None:
        return _of_manifest(device, credential, unit, request, context)
    if credential is None or credential.state is not CredentialState.CONFIRMED:
        raise ServiceError(codes.FORBIDDEN, "say online first", cause="fetch_pending")
    version = desired.target_of(device, context.world.catalogue)
    if version is None or device.thing is None:
        raise image_unknown()
    return Decision(effects=(Authorise(context.owner, device.thing.thing_id, version.image_id, version.size),))


def _of_manifest(device: Device, credential: Credential, unit: Unit, request: Fetch, context: Context) -> Decision:
    """In the warehouse: the images of the manifest's items. The credential counts as used from now on."""
    effect = _authorise(device, unit, request.image, context)
    used = device
    if credential.last_heard_at is None:
        used = moves.put(device, replace(credential, last_heard_at=context.now))
    return Decision(device=used if used is not device else None, effects=(effect,))


def _authorise(device: Device, unit: Unit, prefix: bytes, context: Context) -> Authorise:
    """An image of the manifest; else one that is sealed for this unit, whose digest nobody else has."""
    if unit.manifest is None or device.thing is None:
        raise image_unknown()
    thing_id = device.thing.thing_id
    item = unit.manifest.image(prefix)
    if item is not None and item.image_id is not None:
        return Authorise(context.owner, thing_id, item.image_id, item.size)
    for one in unit.manifest.sealed_images:
        sealed = context.world.seals.image(sealing_key(device, context), one)
        if bytes.fromhex(sealed.image_id).startswith(prefix):
            return Authorise(context.owner, thing_id, sealed.image_id, sealed.size, sealed)
    raise image_unknown()


def version(device: Device, request: HttpFetch, context: Context) -> Decision:
    """The version that a device without MQTT may fetch: its target, or the one that it has.

    That one so that a device can go back to it or mend it; no other, for a version of before may have a known hole, and
    one that is no target yet is nobody's. By no release key that was retired. Raises ServiceError FORBIDDEN, NOT_FOUND.
    """
    credential = moves.find(device, context.owner)
    if credential is None or credential.state is not CredentialState.CONFIRMED:
        raise ServiceError(codes.FORBIDDEN, "say online first", cause="fetch_pending")
    catalogue = context.world.catalogue
    found = desired.target_of(device, catalogue)
    if found is None or found.version_id != request.version_id:
        installed = device.thing.installed_version_id if device.thing is not None else None
        found = firmware.known(device, catalogue, installed if installed == request.version_id else None)
    if found is None or found.key_id in catalogue.retired_keys:
        raise ServiceError(codes.NOT_FOUND, "not a version that the thing is to have or has", cause="version_not_own")
    fields = {"version_id": found.version_id, "name": found.name, "description": found.description}
    reply = context.reply(request.id, {**fields, "image_id": found.image_id, "size": found.size})
    return Decision(reply=reply)


def image_unknown() -> ServiceError:
    return ServiceError(codes.IMAGE_UNKNOWN, "not the image of the current desired document", cause="image_unknown")
