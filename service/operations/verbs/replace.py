"""`replace OLD NEW`: a new device becomes the thing of an old one, without the thing being registered anew."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field

from service.domain import event, replacement
from service.domain.device import Device
from service.domain.event import Event
from service.domain.group import KeyKind
from service.domain.self_registration import matches
from service.errors import ServiceError
from service.operations import registration
from service.operations.registration import Registration
from service.operations.requests import bad_request, conflict, parse_device
from service.operations.selectors import is_within, ou_of
from service.operations.verbs.reprovision import deadline_of, no_longer
from service.operations.verbs.verb import Applied, Role, World
from service.operations.verbs.verb import Arguments as Arguments_

NAME = "replace"
ROLE = Role.OPERATOR
SINGLE = True


class Arguments(Arguments_):
    """`new`: GROUP/SERIAL. Where nobody has registered it yet, this command does, if it is told how the device proves
    itself: `device_key` or `public_keys` in base64, or `register_new` where that follows from the group (for key kind
    individual a key is made, and shown once). A group whose devices register themselves needs none of them.
    """

    SECRET: ClassVar[tuple[str, ...]] = ("device_key",)
    new: str
    device_key: str | None = None
    public_keys: Annotated[tuple[str, ...], Field(strict=False, max_length=8)] = ()
    register_new: bool = False
    deadline_s: int = int(replacement.DEFAULT_DEADLINE.total_seconds())


def named(arguments: Arguments) -> tuple[tuple[str, str], ...]:
    """The new device. Raises ServiceError BAD_REQUEST."""
    return (_name(arguments.new),)


def apply(device: Device, arguments: Arguments, world: World) -> Applied:
    name = _name(arguments.new)
    deadline = no_longer(deadline_of(arguments.deadline_s, replacement.MIN_DEADLINE, replacement.MAX_DEADLINE), world)
    known = world.others.get(name)
    if known is not None and known.device_id != device.device_id:
        _check_scope(known, world)
    new: Device | None = known
    events: tuple[Event, ...] = ()
    keys: Mapping[str, str] = {}
    if known is not None:
        _check_key(known, device, arguments)
    elif _is_registered_along(name, arguments, world):
        new, events, keys = _registered(name, device, arguments, world)
    before = new
    old, new, begun = replacement.replace(device, new, world.now, deadline=deadline, command_id=world.command_id)
    if old is device and new is before and known is not None:
        return Applied(device)
    return Applied(old, others=(new,), events=(*events, *begun), result={"keys": keys} if keys else {})


def _name(text: str) -> tuple[str, str]:
    group_id, serial = parse_device(text)
    if group_id is None:
        raise bad_request("device_illegal", "name the new device as GROUP/SERIAL", text[:80])
    return group_id, serial


def _check_scope(new: Device, world: World) -> None:
    if not is_within(ou_of(new, world.catalogue.groups.get(new.group_id)), world.scope):
        raise ServiceError("FORBIDDEN", "the new device is outside of your OU", cause="out_of_scope")


def _check_key(known: Device, old: Device, arguments: Arguments) -> None:
    if known.device_id == old.device_id or arguments.device_key is None:
        return  # the rules say what is wrong with itself
    if registration.parse_key(arguments.device_key) != known.key:
        raise conflict("replace_other_key", "the new device is registered with another key")


def _is_registered_along(name: tuple[str, str], arguments: Arguments, world: World) -> bool:
    """Whether a device that nobody knows yet is registered by this command: because it says so, or it would do so itself."""
    if arguments.register_new or arguments.device_key is not None or arguments.public_keys:
        return True
    group = world.catalogue.groups.get(name[0])
    if group is None or not group.self_registration or group.key_kind not in (KeyKind.DERIVED, KeyKind.GROUP):
        return False
    return group.serial_pattern is None or matches(group.serial_pattern, name[1])


def _registered(
    name: tuple[str, str], old: Device, arguments: Arguments, world: World
) -> tuple[Device, tuple[Event, ...], Mapping[str, str]]:
    """The new device, its event, and a key that was made for it, to be shown once. Raises ServiceError BAD_REQUEST.

    Where its group's place is outside of the account's OU it belongs to the thing's from the start: an undo must not
    leave a device behind where the account could not have registered one.
    """
    given = arguments.device_key
    keys = (registration.parse_public_key(index, text) for index, text in enumerate(arguments.public_keys))
    group = world.catalogue.groups.get(name[0])
    is_ours = is_within(group.default_ou if group is not None else None, world.scope)
    asked = Registration(
        *name,
        key=None if given is None else registration.parse_key(given),
        public_keys=tuple(keys),
        ou=None if is_ours else ou_of(old, group),
    )
    (outcome,), made = registration.decide(world.catalogue, [asked], {}, world.now, world.random_bytes)
    if not made:
        raise bad_request(outcome.cause or "serial_illegal", outcome.reason or "")
    shown = {} if outcome.new_key is None else {name[1]: base64.b64encode(outcome.new_key.reveal()).decode("ascii")}
    return made[0], (event.of(made[0], "registered", world.now, command_id=world.command_id),), shown
