"""Replacement: a new device takes over the thing of an old one, which is then never let in again. Pure.

Owns how a successor is named, let go and takes over. Until the successor's first `online` is confirmed the old device
works on as before. Thing id, name, group, OU, environment, settings, target, attributes and history belong to the thing
and stay. Codes are EnOS's, for operators only. Source: docs/protocol.md, section 7.
"""

from __future__ import annotations

from dataclasses import replace as changed
from datetime import datetime, timedelta

from service.domain import event, moves, transfer
from service.domain.credential import CredentialState
from service.domain.device import Device, DeviceState
from service.domain.event import Event
from service.domain.refusals import conflict, not_found
from service.domain.thing import Thing

SAME_GROUP, NOT_FOUND, DUPLICATE_SERIAL, ALREADY_ALLOCATED = 35400, 35404, 35601, 35603
DEFAULT_DEADLINE = timedelta(days=30)
MIN_DEADLINE, MAX_DEADLINE = timedelta(minutes=1), timedelta(days=365)

Pair = tuple[Device, Device, tuple[Event, ...]]


def replace(
    old: Device | None,
    new: Device | None,
    now: datetime,
    *,
    deadline: timedelta = DEFAULT_DEADLINE,
    command_id: str | None = None,
) -> Pair:
    """(old, new, events) with `new` named as the successor of old's thing; unchanged when it is that already.

    Save both. Raises ServiceError CONFLICT or NOT_FOUND with `enos_code` where EnOS has one.
    """
    old, new = _both(old, new)
    if old.device_id == new.device_id:
        raise conflict("replace_same_serial", "a device does not replace itself", enos_code=DUPLICATE_SERIAL)
    if old.group_id != new.group_id:
        raise conflict("replace_other_group", "both devices must be in the same group", enos_code=SAME_GROUP)
    thing = _replaceable(old)
    if thing.successor_device_id == new.device_id:
        return old, new, ()
    if thing.successor_device_id is not None:
        raise conflict(
            "replace_already", "another replacement is under way; undo it first", enos_code=ALREADY_ALLOCATED
        )
    _check_successor(new)
    thing = changed(
        thing,
        successor_device_id=new.device_id,
        successor_deadline_at=now + deadline,
        successor_command_id=command_id,
        rev=thing.rev + 1,
    )
    old = changed(old, thing=thing)
    new = changed(new, thing=thing)
    begun = event.of(old, "replacement_started", now, command_id=command_id, successor=new.serial)
    return old, new, (begun,)


def undo(
    old: Device,
    new: Device,
    now: datetime,
    *,
    why: str | None = None,
    command_id: str | None = None,
) -> Pair:
    """(old, new, events) with the successor let go and what waited for it dropped. Save both.

    `why`: what made the service give up by itself; None: an operator undoes it. Raises ServiceError CONFLICT when the
    successor has taken over already, or there is none.
    """
    thing = old.thing
    if old.state is DeviceState.REPLACED:
        raise conflict(
            "undo_too_late", "the new device has taken over; replace it in turn", enos_code=ALREADY_ALLOCATED
        )
    if thing is None or thing.holder_device_id != old.device_id or thing.successor_device_id != new.device_id:
        raise conflict("nothing_to_undo", "no replacement of this device is under way")
    begun_by = thing.successor_command_id
    thing = changed(
        thing, successor_device_id=None, successor_deadline_at=None, successor_command_id=None, rev=thing.rev + 1
    )
    old = changed(old, thing=thing)
    state = DeviceState.REGISTERED if new.state is DeviceState.ACTIVATED else new.state
    new = changed(moves.enter(without_credentials(new, now, "replacement_undone"), state), thing=None)
    kind = "replacement_undone" if why is None else "replacement_failed"
    data = {"successor": new.serial} if why is None else {"successor": new.serial, "cause": why}
    return old, new, (event.of(old, kind, now, command_id=command_id or begun_by, **data),)


def lapse(old: Device, new: Device, now: datetime) -> Pair:
    """Let a successor go that has not appeared in time; both the same objects when there is none."""
    thing = old.thing
    if thing is None or thing.successor_deadline_at is None or now < thing.successor_deadline_at:
        return old, new, ()
    return undo(old, new, now, why="deadline")


def take_over(old: Device, new: Device, now: datetime) -> Pair:
    """(old, new, events) after the successor's credential was confirmed: it holds the thing, the old one is out.

    The old device keeps the thing's place as its own, so that an operator of that OU still sees it; the batch tag goes
    with the thing. Save both.
    """
    thing = new.thing
    assert thing is not None
    assert thing.successor_device_id == new.device_id
    assert thing.holder_device_id == old.device_id
    command_id = thing.successor_command_id
    held = changed(
        thing,
        holder_device_id=new.device_id,
        successor_device_id=None,
        successor_deadline_at=None,
        successor_command_id=None,
        installed_version_id=None,  # the new device says what it runs
        settings_reported_rev=0,
        settings_state=None,
    )
    new = changed(new, thing=held, batch=old.batch or new.batch)
    out = moves.enter(without_credentials(old, now, "replaced"), DeviceState.REPLACED)
    out = changed(out, thing=None, replaced_by=new.device_id, ou=thing.ou, environment=thing.environment, batch=None)
    out, failed = transfer.abandon(out, now, "replaced")
    told = event.of(new, "replaced", now, command_id=command_id, old_serial=old.serial, new_serial=new.serial)
    return out, new, (told, *failed)


def is_successor(device: Device) -> bool:
    """Whether it is to take over a thing that another device holds."""
    thing = device.thing
    return thing is not None and thing.successor_device_id == device.device_id


def without_credentials(device: Device, now: datetime, why: str) -> Device:
    """The device with every credential dropped."""
    if all(one.state is CredentialState.DROPPED for one in device.credentials):
        return device
    kept = tuple(
        one if one.state is CredentialState.DROPPED else moves.drop(one, now, why) for one in device.credentials
    )
    return changed(device, credentials=kept)


def _both(old: Device | None, new: Device | None) -> tuple[Device, Device]:
    """The two, if they are registered. Raises ServiceError NOT_FOUND."""
    if old is None:
        raise not_found("replace_not_found", "the old device is not registered", enos_code=NOT_FOUND)
    if new is None:
        raise not_found(
            "replace_not_found",
            "the new device is not registered: register it, or let this command do it by giving its device key",
            enos_code=NOT_FOUND,
        )
    return old, new


def _replaceable(old: Device) -> Thing:
    if old.state is DeviceState.REPLACED:
        raise conflict("replace_replaced", "this device was replaced already", enos_code=ALREADY_ALLOCATED)
    if old.state is DeviceState.RETIRED:
        raise conflict("replace_retired", "this device is retired")
    thing = old.thing
    if thing is None:
        raise conflict("replace_not_activated", "this device was never activated: there is nothing to take over")
    if thing.holder_device_id != old.device_id:
        raise conflict(
            "replace_successor", "this device is itself about to replace another", enos_code=ALREADY_ALLOCATED
        )
    if thing.move is not None:
        raise conflict("replace_during_move", "the thing is being moved; wait for it or send it back")
    return thing


def _check_successor(new: Device) -> None:
    if new.thing is not None:
        raise conflict("replace_new_has_thing", "the new device has a thing already", enos_code=ALREADY_ALLOCATED)
    if new.state is not DeviceState.REGISTERED:
        raise conflict("replace_new_state", f"the new device is {new.state.value}")
    if new.frozen:
        raise conflict("replace_new_frozen", "the new device's serial is frozen; `unfreeze` it first")
