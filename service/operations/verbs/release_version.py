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
    wanted = None
    if arguments.version is not None:
        wanted = version_of(world.catalogue, thing.product_id, arguments.version).version_id
    released = set(device.tries) if wanted is None else {wanted} & set(device.tries)
    firmware = device.firmware
    if firmware.state in _OVER and firmware.version_id is not None and wanted in (None, firmware.version_id):
        released.add(firmware.version_id)  # timed out, or failed for the first time
    if not released:
        raise conflict("nothing_to_release", "no version has failed on this device")
    return Applied(updates.release(device, wanted), (Told("version_released", {"versions": sorted(released)}),))
