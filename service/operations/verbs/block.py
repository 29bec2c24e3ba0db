"""`block`: refuse a device from now on; its credentials are dropped and dead at the broker within 2 s."""

from __future__ import annotations

from service.domain.device import Device, DeviceState
from service.operations.verbs.verb import Applied, Role, Told, World, entered, without_credentials
from service.operations.verbs.verb import Arguments as Arguments_

NAME = "block"
ROLE = Role.OPERATOR


class Arguments(Arguments_):
    """None."""


def apply(device: Device, _arguments: Arguments, world: World) -> Applied:
    if device.state is DeviceState.BLOCKED:
        return Applied(device)
    blocked = without_credentials(entered(device, DeviceState.BLOCKED), world.now, "blocked")
    return Applied(blocked, (Told("blocked"),))
