"""`reprovision`: send things to another OU or environment; each ends there or stays where it was."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from pydantic import Field

from service.domain import placement
from service.domain.device import Device
from service.domain.group import MoveMethod
from service.operations.requests import bad_request
from service.operations.verbs.allocate import check_place
from service.operations.verbs.verb import Applied, Role, World
from service.operations.verbs.verb import Arguments as Arguments_

NAME = "reprovision"
ROLE = Role.OPERATOR


class Arguments(Arguments_):
    """`ou` or `environment` or both; `method` left out is the group's."""

    ou: str | None = None
    environment: str | None = None
    method: Annotated[MoveMethod | None, Field(strict=False)] = None
    deadline_s: int = int(placement.DEFAULT_DEADLINE.total_seconds())


def apply(device: Device, arguments: Arguments, world: World) -> Applied:
    if arguments.ou is None and arguments.environment is None:
        raise bad_request("place_missing", "say an OU or an environment")
    check_place(arguments.ou, arguments.environment, world)
    deadline = no_longer(deadline_of(arguments.deadline_s, placement.MIN_DEADLINE, placement.MAX_DEADLINE), world)
    after, events = placement.reprovision(
        device,
        world.catalogue,
        world.now,
        ou=arguments.ou,
        environment=arguments.environment,
        method=arguments.method,
        deadline=deadline,
        command_id=world.command_id,
    )
    return Applied(after, events=events)


def no_longer(deadline: timedelta, world: World) -> timedelta:
    """The deadline, or what is left of the command's time where that is less."""
    return deadline if world.expires_at is None else min(deadline, world.expires_at - world.now)


def deadline_of(seconds: int, least: timedelta, most: timedelta) -> timedelta:
    """Raises ServiceError BAD_REQUEST."""
    if not least.total_seconds() <= seconds <= most.total_seconds():
        raise bad_request(
            "deadline_illegal", f"a deadline is {least.total_seconds():.0f} to {most.total_seconds():.0f} seconds"
        )
    return timedelta(seconds=seconds)
