"""Transfer of ownership: the next activation gives the device a new key, and the old one is refused from then on. Pure.

Owns when that is open. The key itself is made from both nonces by handlers/, where the credential is confirmed; it never
crosses the wire. Source: docs/protocol.md, section 7.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from service.domain import event
from service.domain.device import Device, DeviceState
from service.domain.event import Event
from service.domain.group import Group, KeyKind
from service.domain.refusals import conflict

Changed = tuple[Device, tuple[Event, ...]]


def begin(
    device: Device,
    group: Group,
    now: datetime,
    *,
    deadline: timedelta | None = None,
    command_id: str | None = None,
) -> Changed:
    """The device with its next activation opened for a new key; unchanged when it is open for as long already.

    `deadline`: it is open for so long; without one until the device has come. Raises ServiceError CONFLICT: key kind public_key, replaced, retired or blocked.
    """
    if group.key_kind is KeyKind.PUBLIC_KEY:
        raise conflict(
            "transfer_public_key", "a device with public keys holds its private key itself; register new ones"
        )
    if device.state in (DeviceState.REPLACED, DeviceState.RETIRED, DeviceState.BLOCKED):
        raise conflict("transfer_state", f"the device is {device.state.value}")
    until = None if deadline is None else now + deadline
    if device.rekey and _reaches(device.rekey_deadline_at, until):
        return device, ()
    device = replace(device, rekey=True, rekey_deadline_at=until, rekey_command_id=command_id)
    return device, (event.of(device, "transfer_opened", now, command_id=command_id),)


def end(device: Device) -> Device:
    """The device with no transfer open; credentials that wait keep the key that was promised to them."""
    if not device.rekey:
        return device
    return replace(device, rekey=False, rekey_deadline_at=None, rekey_command_id=None)


def abandon(device: Device, now: datetime, why: str) -> Changed:
    """The device with its old key for good, because it will not come any more; the same object with none open."""
    if not device.rekey:
        return device, ()
    told = event.of(device, "transfer_failed", now, command_id=device.rekey_command_id, cause=why)
    return end(device), (told,)


def lapse(device: Device, now: datetime) -> Changed:
    """The device with its old key for good once the time of its transfer is over; the same object before.

    A credential that was given with a new key in time, and waits for its first `online`, brings that key all the same.
    """
    if device.rekey_deadline_at is None or now < device.rekey_deadline_at:
        return device, ()
    return abandon(device, now, "deadline")


def _reaches(until: datetime | None, wanted: datetime | None) -> bool:
    return until is None or (wanted is not None and wanted <= until)
