"""`retire`: take a device out of use for good; it is told to wipe its credentials."""

from __future__ import annotations

from service.domain import retirement
from service.domain.device import Device
from service.operations.requests import check_text
from service.operations.verbs.reprovision import deadline_of, no_longer
from service.operations.verbs.verb import Applied, Role, World
from service.operations.verbs.verb import Arguments as Arguments_

NAME = "retire"
ROLE = Role.ADMIN  # it cannot be taken back from afar


class Arguments(Arguments_):
    """`reason` is told to the device too. After `deadline_s` its credential is dropped, heard or not."""

    reason: str = retirement.REASON
    deadline_s: int = int(retirement.DEFAULT_DEADLINE.total_seconds())


def apply(device: Device, arguments: Arguments, world: World) -> Applied:
    check_text("a reason", arguments.reason)
    after, events = retirement.retire(
        device,
        world.now,
        reason=arguments.reason,
        deadline=no_longer(deadline_of(arguments.deadline_s, retirement.MIN_DEADLINE, retirement.MAX_DEADLINE), world),
        command_id=world.command_id,
    )
    return Applied(after, events=events)
