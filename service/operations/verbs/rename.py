"""`rename`: give a thing another name."""

from __future__ import annotations

from dataclasses import replace

from service.domain.device import Device
from service.operations.requests import check_text
from service.operations.verbs.verb import Applied, Role, Told, World, thing_of
from service.operations.verbs.verb import Arguments as Arguments_

NAME = "rename"
ROLE = Role.OPERATOR
SINGLE = True  # a name for many would be no name


class Arguments(Arguments_):
    name: str


def apply(device: Device, arguments: Arguments, _world: World) -> Applied:
    check_text("a name", arguments.name)
    thing = thing_of(device)
    if thing.name == arguments.name:
        return Applied(device)
    renamed = replace(device, thing=replace(thing, name=arguments.name))
    return Applied(renamed, (Told("renamed", {"before": thing.name, "after": arguments.name}),))
