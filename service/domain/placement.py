"""Reprovision: a thing is sent to another OU or environment, and ends there or stays where it was. Pure.

Owns how a move begins, is completed by the first `online` at the new place, and is given up. Until it is completed the
thing's own place is the old one, and the device's confirmed credential there stays good: that is its way back.
Group id, group secret, serial and device key are never touched. Source: docs/protocol.md, section 7.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from service.domain import event, moves
from service.domain.catalogue import Catalogue, Environment, Ou
from service.domain.credential import CredentialState
from service.domain.device import Device, DeviceState
from service.domain.event import Event
from service.domain.group import MoveMethod
from service.domain.product import name_of
from service.domain.refusals import conflict, forbidden, not_found
from service.domain.thing import Move, Thing

DEFAULT_DEADLINE = timedelta(hours=24)
MIN_DEADLINE, MAX_DEADLINE = timedelta(minutes=1), timedelta(days=30)

Changed = tuple[Device, tuple[Event, ...]]


def reprovision(
    device: Device,
    catalogue: Catalogue,
    now: datetime,
    *,
    ou: str | None = None,
    environment: str | None = None,
    method: MoveMethod | None = None,
    deadline: timedelta = DEFAULT_DEADLINE,
    command_id: str | None = None,
) -> Changed:
    """The device with its thing on the way to a place; unchanged (the same object) when it is there or on its way.

    What is left out stays as it is; `method` left out is the group's. Without a reconnect inside one environment: then
    the thing is moved at once. Back to the thing's own place ends a move that is under way. Raises ServiceError
    CONFLICT (not activated, replaced, retired, blocked, frozen, replacement open, OU bound to another environment),
    FORBIDDEN (method never), NOT_FOUND (environment).
    """
    thing = check_movable(device)
    wanted_ou = ou or _ou_at_home(thing, environment) or thing.ou
    wanted = environment_of(catalogue, wanted_ou, environment, thing.environment)
    method = method or catalogue.groups[device.group_id].move_method
    # 1. Where it is already, or going already: nothing changes.
    place = (wanted_ou, wanted.name)
    if place == _place(thing.move or thing):
        return device, ()
    if method is MoveMethod.NEVER:
        raise forbidden("move_never", "this group's things are not moved; give a method to do it all the same")
    # 2. A move that is under way ends here.
    events: tuple[Event, ...] = ()
    if thing.move is not None:
        is_back = place == _place(thing)
        device, events = abandon(device, now, "cancelled" if is_back else "superseded")
        if is_back:
            return _with_next_rev(device), events
    # 3. It sets out.
    move = Move(wanted_ou, wanted.name, method, now, now + deadline, command_id)
    device, told = _set_out(_with_next_rev(device, move=move), move, catalogue, now)
    return device, (*events, *told)


def _place(of: Thing | Move) -> tuple[str, str]:
    return of.ou, of.environment


def _with_next_rev(device: Device, move: Move | None = None) -> Device:
    thing = _thing(device)
    return replace(device, thing=replace(thing, rev=thing.rev + 1, move=move))


def _set_out(device: Device, move: Move, catalogue: Catalogue, now: datetime) -> Changed:
    """Inside one environment the thing is simply there; elsewhere it goes by itself: the desired document says so."""
    if move.environment == _thing(device).environment:
        return complete(device, catalogue, now)
    begun = event.of(
        device, "move_started", now, command_id=move.command_id,
        to_ou=move.ou, to_environment=move.environment, method=move.method.value,
    )  # fmt: skip
    return device, (begun,)


def _ou_at_home(thing: Thing, environment: str | None) -> str | None:
    """Where it belonged before a failover, if it is sent back home without a word about the OU."""
    away = thing.home_environment not in (None, thing.environment)
    return thing.home_ou if away and environment == thing.home_environment else None


def check_movable(device: Device) -> Thing:
    """The thing of a device whose place may change. Raises ServiceError CONFLICT."""
    if device.state in (DeviceState.REPLACED, DeviceState.RETIRED, DeviceState.BLOCKED):
        raise conflict(f"move_{device.state.value}", f"the device is {device.state.value}")
    if device.frozen:
        raise conflict("move_frozen", "the serial is frozen; `unfreeze` it first")
    if device.thing is None:
        raise conflict("move_not_activated", "the device was never activated: `allocate` says where it belongs")
    if device.thing.successor_device_id is not None:
        raise conflict("move_during_replacement", "the thing is being replaced; undo that or wait for it")
    return device.thing


def environment_of(catalogue: Catalogue, ou: str, named: str | None, present: str) -> Environment:
    """The environment of an OU: what is named, else what the OU is bound to, else the present one.

    Raises ServiceError CONFLICT for one that the OU is not bound to, NOT_FOUND for one that this service does not know.
    """
    check_bound(catalogue, ou, named)
    name = named or bound_environment(catalogue, ou) or present
    found = catalogue.environments.get(name)
    if found is None or not found.endpoints:
        raise not_found("environment_unknown", f"no environment {name[:64]}")
    return found


def check_bound(catalogue: Catalogue, ou: str | None, environment: str | None) -> None:
    """Raise ServiceError CONFLICT if the OU is bound to another environment than is named."""
    if ou is None or environment is None:
        return
    bound = bound_environment(catalogue, ou)
    if bound not in (None, environment):
        raise conflict("ou_bound", f"{ou} belongs to environment {bound}")


def bound_environment(catalogue: Catalogue, ou: str) -> str | None:
    """The environment that this OU or the nearest OU above it is bound to."""
    return next((one.environment for one in ous_above(catalogue, ou) if one.environment is not None), None)


def ous_above(catalogue: Catalogue, ou: str) -> list[Ou]:
    """The OU itself and those above it, nearest first, as far as they have something of their own."""
    if not catalogue.ous:
        return []
    parts = ou.split("/")
    paths = ("/".join(parts[:length]) for length in range(len(parts), 0, -1))
    return [catalogue.ous[path] for path in paths if path in catalogue.ous]


def announced(device: Device) -> Device:
    """After the device said on its old credential that it sets out: what comes from the new place is expected."""
    thing = device.thing
    if thing is None or thing.move is None or thing.move.announced:
        return device
    return replace(device, thing=replace(thing, move=replace(thing.move, announced=True)))


def is_expected(device: Device, environment: str) -> bool:
    """Whether a credential of that environment takes over without the old one being asked."""
    thing = device.thing
    return (
        thing is not None and thing.move is not None and thing.move.announced and thing.move.environment == environment
    )


def complete(device: Device, catalogue: Catalogue, now: datetime) -> Changed:
    """The thing is where its move led: after the first `online` there was confirmed, or at once inside an environment."""
    thing = _thing(device)
    move = thing.move
    assert move is not None
    came_from = {"from_ou": thing.ou, "from_environment": thing.environment, "method": move.method.value}
    thing = replace(_remembering(thing, move), ou=move.ou, environment=move.environment, move=None)
    if move.method is MoveMethod.INITIALISE:
        thing = initialised(thing, device, catalogue)
    device = replace(device, thing=thing)
    return device, (event.of(device, "moved", now, command_id=move.command_id, **came_from),)


def _remembering(thing: Thing, move: Move) -> Thing:
    """With what is remembered of its home during a failover: until it is back, or an operator said otherwise."""
    by_operator = thing.failover_at != move.started_at
    if move.environment == thing.home_environment or (by_operator and move.environment != thing.environment):
        return replace(thing, home_environment=None, home_ou=None)
    return replace(thing, home_ou=None) if by_operator else thing


def initialised(thing: Thing, device: Device, catalogue: Catalogue) -> Thing:
    """Settings as the group's template has them, the product's name and its number again, no target of its own."""
    group = catalogue.groups[device.group_id]
    product = catalogue.products.get(thing.product_id)
    settings = group.template_settings
    rev = thing.settings_rev + 1 if settings or thing.settings_rev else 0
    name = name_of(product, thing.number) if product is not None and thing.number else thing.name
    return replace(thing, name=name, settings=settings, settings_rev=rev, target_version_id=None)


def abandon(device: Device, now: datetime, why: str) -> Changed:
    """The thing stays where it was: the move is over, and what waited at the new place is dropped."""
    thing = _thing(device)
    move = thing.move
    if move is None:
        return device, ()
    kept = tuple(
        moves.drop(one, now, "move_failed")
        if one.state is CredentialState.PENDING and one.environment == move.environment != thing.environment
        else one
        for one in device.credentials
    )
    device = replace(device, thing=replace(thing, move=None), credentials=kept)
    told = event.of(
        device, "move_failed", now, command_id=move.command_id,
        to_ou=move.ou, to_environment=move.environment, cause=why[:256],
    )  # fmt: skip
    return device, (told,)


def lapse(device: Device, now: datetime) -> Changed:
    """Give up a move whose deadline is over; the same object when there is none."""
    thing = device.thing
    if thing is None or thing.move is None or now < thing.move.deadline_at:
        return device, ()
    return abandon(device, now, "deadline")


def _thing(device: Device) -> Thing:
    assert device.thing is not None
    return device.thing
