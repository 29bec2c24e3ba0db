"""`unfreeze`: let a serial go on that was frozen because two devices spoke under it."""

from __future__ import annotations

from dataclasses import replace

from service.domain.device import Device
from service.operations.requests import conflict
from service.operations.verbs.verb import Applied, Role, Told, World
from service.operations.verbs.verb import Arguments as Arguments_

NAME = "unfreeze"
ROLE = Role.OPERATOR


class Arguments(Arguments_):
    """None."""


def apply(device: Device, _arguments: Arguments, _world: World) -> Applied:
    if not device.frozen:
        raise conflict("not_frozen", "the device is not frozen")
    return Applied(replace(device, frozen=False, clone_signs=0, clone_at=None), (Told("unfrozen"),))
