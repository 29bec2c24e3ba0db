"""`retire`: take a device out of use for good; it is told to wipe its credentials."""

from __future__ import annotations

from dataclasses import replace

from service.domain.device import Device, DeviceState
from service.operations.requests import check_text, conflict
from service.operations.verbs.verb import Applied, Role, Told, World, entered
from service.operations.verbs.verb import Arguments as Arguments_

NAME = "retire"
ROLE = Role.ADMIN  # it cannot be taken back from afar


class Arguments(Arguments_):
    reason: str = "retired by an operator"


def apply(device: Device, arguments: Arguments, _world: World) -> Applied:
    check_text("a reason", arguments.reason)
    thing = device.thing
    if device.state is DeviceState.RETIRED:
        return Applied(device)
    if thing is not None and thing.successor_device_id is not None:
        raise conflict("replacement_under_way", "a replacement is under way: undo it first")
    retired = entered(device, DeviceState.RETIRED)
    if thing is not None and thing.move is not None:
        retired = replace(retired, thing=replace(thing, move=None))
    return Applied(retired, (Told("retired", {"reason": arguments.reason}),))
