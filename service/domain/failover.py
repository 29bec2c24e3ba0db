"""Failover: a device that cannot get back into its environment is placed in the one that its group names. Pure.

Owns when that is so, and the hysteresis that keeps devices from going back and forth. The move itself is an ordinary
one (placement.py): the thing's own place stays the old one until the device has confirmed at the new place.
Source: docs/onboarding.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from service.domain import event, moves, placement
from service.domain.catalogue import Catalogue
from service.domain.device import Device, DeviceState
from service.domain.event import Event
from service.domain.group import Group, MoveMethod
from service.domain.thing import Move, Thing

DEADLINE = timedelta(hours=1)  # to confirm at the new place; afterwards it belongs where it was
TRIED_FOR = timedelta(seconds=60)  # how long ago it must have been sent back to its own environment at least once
STAYS_TIMES = 4  # a failed-over thing stays at least so many times the group's waiting time
STAYS = timedelta(hours=1)  # and at least this long


def judge(
    device: Device,
    group: Group,
    asked_in: str | None,
    catalogue: Catalogue,
    now: datetime,
    down_since: Mapping[str, datetime],
) -> tuple[Device, tuple[Event, ...]]:
    """A proven device asks for a credential at the bootstrap brokers of environment `asked_in`: where does it belong?

    The same object where the policy has nothing to say. `down_since`: environments whose operational broker the
    service itself cannot reach.
    """
    thing = device.thing
    if thing is None or group.failover_after_s is None:
        return device, ()
    wait = timedelta(seconds=group.failover_after_s)
    if thing.move is not None and thing.move.started_at == thing.failover_at and _is_down(thing, down_since, wait, now):
        return placement.announced(device), ()
    target = _target(thing, group)
    if target is None or target not in catalogue.environments or not _may_move(device, thing):
        return device, ()
    # 1. Hysteresis: not before it has stayed for a while.
    if thing.failover_at is not None and now < thing.failover_at + max(STAYS_TIMES * wait, STAYS):
        return device, ()
    # 2. Evidence: silence for the whole time, and that it, or the service itself, finds its environment closed.
    if not _is_silent(device, wait, now) or not _is_closed(device, thing, asked_in, down_since, wait, now):
        return device, ()
    back = target == thing.home_environment
    move = Move(_ou(device, thing, group, back=back), target, MoveMethod.MIGRATE, now, now + DEADLINE)
    # 3. Nobody need be asked whether the old credential still lives if the service itself finds the place closed.
    move = replace(move, announced=_is_down(thing, down_since, wait, now))
    if thing.home_environment in (None, thing.environment):
        thing = replace(thing, home_environment=thing.environment, home_ou=thing.ou)
    moved = replace(device, thing=replace(thing, move=move, failover_at=now))
    told = event.of(moved, "failed_over", now)
    return moved, (replace(told, data={"from": thing.environment, "to": target, "back": back}),)


def _may_move(device: Device, thing: Thing) -> bool:
    return (
        device.state is DeviceState.CONFIRMED
        and thing.move is None
        and thing.successor_device_id is None
        and thing.holder_device_id == device.device_id
    )


def _target(thing: Thing, group: Group) -> str | None:
    """Away from home to the group's failover environment; from there back home, if it was a failover that led there."""
    if thing.environment != group.failover_environment:
        return group.failover_environment
    return thing.home_environment if thing.home_environment != thing.environment else None


def _ou(device: Device, thing: Thing, group: Group, *, back: bool) -> str:
    if not back:
        return group.failover_ou or thing.ou
    if thing.home_ou is not None:
        return thing.home_ou
    # Failed over before OUs were remembered; else an operator gave it another one meanwhile.
    return (device.ou or group.default_ou or thing.ou) if thing.ou == group.failover_ou else thing.ou


def _is_silent(device: Device, wait: timedelta, now: datetime) -> bool:
    heard = _heard_at(device)
    return heard is not None and now >= heard + wait


def _is_closed(
    device: Device,
    thing: Thing,
    asked_in: str | None,
    down_since: Mapping[str, datetime],
    wait: timedelta,
    now: datetime,
) -> bool:
    if _is_down(thing, down_since, wait, now):
        return True
    # Asking at its own environment's door it may well get in; elsewhere, it was sent home before and is here again.
    return asked_in not in (None, thing.environment) and any(
        one.confirmed_at is None and one.environment == thing.environment and one.created_at <= now - TRIED_FOR
        for one in device.credentials
        if one.created_at > (_heard_at(device) or now)
    )


def _is_down(thing: Thing, down_since: Mapping[str, datetime], wait: timedelta, now: datetime) -> bool:
    since = down_since.get(thing.environment)
    return since is not None and now >= since + wait


def _heard_at(device: Device) -> datetime | None:
    """When it last said something on its confirmed credential."""
    confirmed = moves.confirmed_of(device.credentials)
    if confirmed is None:
        return None
    times = (confirmed.last_heard_at, confirmed.confirmed_at)
    return max((at for at in times if at is not None), default=confirmed.created_at)
