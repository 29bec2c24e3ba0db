"""`fetch`: who may fetch what. Pure; the streamer judges the range and sends the chunks.

Source: docs/protocol.md, section 6.1.
"""

from __future__ import annotations

from device_sdk.wire import codes
from service.domain import desired, moves
from service.domain.credential import CredentialState
from service.domain.device import Device
from service.errors import ServiceError
from service.handlers.decision import Authorise, Context, Decision


def handle(device: Device, context: Context) -> Decision:
    """The one image that this credential may fetch now. Raises ServiceError FORBIDDEN or IMAGE_UNKNOWN."""
    credential = moves.find(device, context.owner)
    if credential is None or credential.state is not CredentialState.CONFIRMED:
        raise ServiceError(codes.FORBIDDEN, "say online first", cause="fetch_pending")
    version = desired.target_of(device, context.world.catalogue)
    if version is None or device.thing is None:
        raise image_unknown()
    return Decision(effects=(Authorise(context.owner, device.thing.thing_id, version.image_id, version.size),))


def image_unknown() -> ServiceError:
    return ServiceError(codes.IMAGE_UNKNOWN, "not the image of the current desired document", cause="image_unknown")
