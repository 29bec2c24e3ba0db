"""Transfer of ownership: the next activation gives the device a new key, and the old one is refused from then on. Pure.

Owns when that is open. The key itself is made from both nonces by handlers/, where the credential is confirmed; it never
crosses the wire. Source: docs/protocol.md, section 7.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from service.domain import event
from service.domain.device import Device, DeviceState
from service.domain.event import Event
from service.domain.group import Group, KeyKind
from service.domain.refusals import conflict


def begin(
    device: Device, group: Group, now: datetime, *, command_id: str | None = None
) -> tuple[Device, tuple[Event, ...]]:
    """The device with its next activation opened for a new key; unchanged when it is open already.

    Raises ServiceError CONFLICT: key kind public_key, replaced, retired or blocked.
    """
    if group.key_kind is KeyKind.PUBLIC_KEY:
        raise conflict(
            "transfer_public_key", "a device with public keys holds its private key itself; register new ones"
        )
    if device.state in (DeviceState.REPLACED, DeviceState.RETIRED, DeviceState.BLOCKED):
        raise conflict("transfer_state", f"the device is {device.state.value}")
    if device.rekey:
        return device, ()
    device = replace(device, rekey=True)
    return device, (event.of(device, "transfer_opened", now, command_id=command_id),)


def end(device: Device) -> Device:
    """The device with no transfer open; credentials that wait keep the key that was promised to them."""
    return replace(device, rekey=False) if device.rekey else device
