"""`undo-replace`: let a named successor go, for as long as it has not confirmed; the old device never left."""

from __future__ import annotations

from service.domain import replacement
from service.domain.device import Device, DeviceState
from service.operations.requests import conflict
from service.operations.verbs.verb import Applied, Role, World
from service.operations.verbs.verb import Arguments as Arguments_

NAME = "undo-replace"
ROLE = Role.OPERATOR
SINGLE = True


class Arguments(Arguments_):
    """None. The device may be named by its old or its new serial."""


def apply(device: Device, _arguments: Arguments, world: World) -> Applied:
    old, new = _pair(device, world)
    after_old, after_new, events = replacement.undo(old, new, world.now, command_id=world.command_id)
    if device.device_id == new.device_id:
        return Applied(after_new, others=(after_old,), events=events)
    return Applied(after_old, others=(after_new,), events=events)


def _pair(device: Device, world: World) -> tuple[Device, Device]:
    thing = device.thing
    if device.state is DeviceState.REPLACED:
        return device, device  # the rules say that it is too late
    if thing is None or thing.successor_device_id is None:
        raise conflict("nothing_to_undo", "no replacement of this device is under way")
    return world.devices[thing.holder_device_id], world.devices[thing.successor_device_id]
