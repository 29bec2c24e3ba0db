"""`unfreeze`: let a serial go on that was frozen because two devices spoke under it, and forget the signs of that."""

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
    if not device.frozen and not device.clone_signs:
        raise conflict("not_frozen", "nothing to do: the device is not frozen, and nothing hints at a second one")
    cleared = replace(device, frozen=False, clone_signs=0, clone_at=None)
    # Signs alone have kept nobody out: no integrator was told of them, so none is told that they are gone.
    return Applied(cleared, (Told("unfrozen"),) if device.frozen else ())
