"""`replace OLD NEW`: a new device becomes the thing of an old one, without the thing being registered anew."""

from __future__ import annotations

from typing import ClassVar

from service.domain import event, replacement
from service.domain.device import Device
from service.domain.event import Event
from service.errors import ServiceError
from service.operations import registration
from service.operations.registration import Registration
from service.operations.requests import bad_request, conflict, parse_device
from service.operations.selectors import ou_of
from service.operations.verbs.reprovision import deadline_of
from service.operations.verbs.verb import Applied, Role, World
from service.operations.verbs.verb import Arguments as Arguments_

NAME = "replace"
ROLE = Role.OPERATOR
SINGLE = True


class Arguments(Arguments_):
    """`new`: GROUP/SERIAL. `device_key` in base64: registers it along, where nobody has yet."""

    SECRET: ClassVar[tuple[str, ...]] = ("device_key",)
    new: str
    device_key: str | None = None
    deadline_s: int = int(replacement.DEFAULT_DEADLINE.total_seconds())


def named(arguments: Arguments) -> tuple[tuple[str, str], ...]:
    """The new device. Raises ServiceError BAD_REQUEST."""
    return (_name(arguments.new),)


def apply(device: Device, arguments: Arguments, world: World) -> Applied:
    name = _name(arguments.new)
    deadline = deadline_of(arguments.deadline_s, replacement.MIN_DEADLINE, replacement.MAX_DEADLINE)
    known = world.others.get(name)
    if known is not None and known.device_id != device.device_id:
        _check_scope(known, world)
    new: Device | None = known
    events: tuple[Event, ...] = ()
    if arguments.device_key is not None:
        new, events = _registered(name, arguments.device_key, known, world)
    before = new
    old, new, begun = replacement.replace(device, new, world.now, deadline=deadline, command_id=world.command_id)
    if old is device and new is before and known is not None:
        return Applied(device)
    return Applied(old, others=(new,), events=(*events, *begun))


def _name(text: str) -> tuple[str, str]:
    group_id, serial = parse_device(text)
    if group_id is None:
        raise bad_request("device_illegal", "name the new device as GROUP/SERIAL", text[:80])
    return group_id, serial


def _check_scope(new: Device, world: World) -> None:
    ou = ou_of(new, world.catalogue.groups.get(new.group_id))
    if world.scope is not None and ou is not None and ou != world.scope and not ou.startswith(world.scope + "/"):
        raise ServiceError("FORBIDDEN", "the new device is outside of your OU", cause="out_of_scope")


def _registered(
    name: tuple[str, str], key: str, known: Device | None, world: World
) -> tuple[Device, tuple[Event, ...]]:
    secret = registration.parse_key(key)
    if known is not None:
        if known.key is not None and known.key != secret:
            raise conflict("serial_conflict", "the new device is registered with another key")
        return known, ()
    asked = Registration(*name, key=secret)
    (outcome,), made = registration.decide(world.catalogue, [asked], {}, world.now, world.random_bytes)
    if not made:
        raise bad_request(outcome.cause or "serial_illegal", outcome.reason or "")
    return made[0], (event.of(made[0], "registered", world.now, command_id=world.command_id),)
