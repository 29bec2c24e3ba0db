"""`unblock`: let a blocked device activate again; it keeps its thing."""

from __future__ import annotations

from service.domain.device import Device, DeviceState
from service.operations.requests import conflict
from service.operations.verbs.verb import Applied, Role, Told, World, entered
from service.operations.verbs.verb import Arguments as Arguments_

NAME = "unblock"
ROLE = Role.OPERATOR


class Arguments(Arguments_):
    """None."""


def apply(device: Device, _arguments: Arguments, _world: World) -> Applied:
    if device.state is not DeviceState.BLOCKED:
        raise conflict("not_blocked", f"the device is not blocked but {device.state.value}")
    return Applied(entered(device, DeviceState.REGISTERED), (Told("unblocked"),))
