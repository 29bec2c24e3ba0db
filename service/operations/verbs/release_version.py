"""`release-version`: offer a firmware again that failed or was rolled back as often as it may on a device."""

from __future__ import annotations

from service.domain import updates
from service.domain.device import Device, FirmwareState
from service.operations.requests import conflict
from service.operations.verbs.set_target import version_of
from service.operations.verbs.verb import Applied, Role, Told, World, thing_of
from service.operations.verbs.verb import Arguments as Arguments_

NAME = "release-version"
ROLE = Role.OPERATOR
_OVER = (FirmwareState.FAILED, FirmwareState.ROLLED_BACK, FirmwareState.TIMED_OUT)


class Arguments(Arguments_):
    """`version`: a name or a version id of the thing's product; left out: every one that is held back."""

    version: str | None = None


def apply(device: Device, arguments: Arguments, world: World) -> Applied:
    thing = thing_of(device)
    released = set(device.tries)
    if arguments.version is not None:
        released &= {version_of(world.catalogue, thing.product_id, arguments.version).version_id}
    firmware = device.firmware
    over = firmware.state in _OVER and (arguments.version is None or firmware.version_id in released)
    if not released and not over:
        raise conflict("nothing_to_release", "no version has failed on this device")
    only = released.pop() if arguments.version is not None and released else None
    versions = sorted(device.tries) if only is None else [only]
    return Applied(updates.release(device, only), (Told("version_released", {"versions": versions}),))
