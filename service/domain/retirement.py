"""Retirement: a device is told to wipe its credentials, and loses them in any case when its time is over. Pure.

Owns how it begins and ends. The confirmed credential stays for a while, because the word that devices obey comes over it;
a device that is never heard of again must not keep it for ever. Source: docs/protocol.md, sections 5.1 and 7.5.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from service.domain import event, moves, placement, transfer
from service.domain.credential import Credential, CredentialState
from service.domain.device import Device, DeviceState
from service.domain.event import Event
from service.domain.refusals import conflict

DEFAULT_DEADLINE = timedelta(days=30)
MIN_DEADLINE, MAX_DEADLINE = timedelta(minutes=1), timedelta(days=365)
REASON = "retired by an operator"

Changed = tuple[Device, tuple[Event, ...]]


def retire(
    device: Device,
    now: datetime,
    *,
    reason: str = REASON,
    deadline: timedelta = DEFAULT_DEADLINE,
    command_id: str | None = None,
) -> Changed:
    """The device out of use; unchanged (the same object) when it is already.

    Raises ServiceError CONFLICT: a replacement is under way, replaced.
    """
    if device.state is DeviceState.RETIRED:
        return device, ()
    thing = device.thing
    if thing is not None and thing.successor_device_id is not None:
        raise conflict("replacement_under_way", "a replacement is under way: undo it first")
    try:
        device = moves.enter(device, DeviceState.RETIRED)
    except moves.IllegalMove as error:
        raise conflict("illegal_move", f"a device that is {device.state.value} cannot become retired") from error
    told: tuple[Event, ...] = ()
    if thing is not None:
        device, told = placement.abandon(device, now, "retired")
    device, failed = transfer.abandon(device, now, "retired")
    kept = tuple(
        moves.drop(one, now, "retired") if one.state is CredentialState.PENDING else one for one in device.credentials
    )
    speaks = moves.confirmed_of(kept) is not None
    device = replace(
        device,
        credentials=kept,
        retired_reason=reason,
        retire_deadline_at=now + deadline if speaks else None,
    )
    return device, (*told, *failed, event.of(device, "retired", now, command_id=command_id, reason=reason))


def heard(device: Device, credential: Credential, now: datetime) -> Device:
    """It has read that it is to wipe its credentials: nobody needs this one any more."""
    device = moves.put(device, moves.drop(credential, now, "retired"))
    return replace(device, retire_deadline_at=None)


def lapse(device: Device, now: datetime) -> Changed:
    """The device without a credential once its time is over; the same object before."""
    if device.retire_deadline_at is None or now < device.retire_deadline_at:
        return device, ()
    kept = tuple(
        one if one.state is CredentialState.DROPPED else moves.drop(one, now, "retired") for one in device.credentials
    )
    device = replace(device, credentials=kept, retire_deadline_at=None)
    return device, (event.of(device, "retirement_unheard", now),)
