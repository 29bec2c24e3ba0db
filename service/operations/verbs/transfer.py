"""`transfer`: have the next activation give a new key, and ask for it at once; the old key is refused from then on."""

from __future__ import annotations

from service.domain import transfer
from service.domain.device import Device
from service.operations.verbs.verb import Applied, Role, World
from service.operations.verbs.verb import Arguments as Arguments_

NAME = "transfer"
ROLE = Role.ADMIN  # whoever holds the old key is locked out by it


class Arguments(Arguments_):
    """None."""


def apply(device: Device, _arguments: Arguments, world: World) -> Applied:
    group = world.catalogue.groups[device.group_id]
    deadline = None if world.expires_at is None else world.expires_at - world.now
    after, events = transfer.begin(device, group, world.now, deadline=deadline, command_id=world.command_id)
    return Applied(after, events=events)
