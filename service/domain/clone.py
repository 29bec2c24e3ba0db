"""Two devices under one serial: what counts as a sign, and what follows from enough of them. Pure.

A boot counter that goes down is one sign: a device whose storage was wiped gives it once, two devices in turn give it
again and again. So is the number of a boot's first request in another request: two devices that share their storage take
each other's counter over from the refusals, and then start with the same. The old credential heard while a new one waits is enough by itself. By the group's policy the serial is
then frozen: what is confirmed works on, nothing new is let in until an operator unfreezes it.
Source: docs/protocol.md, section 4.6; SECURITY.md, cloned devices.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from service.domain import event
from service.domain.device import Device
from service.domain.event import Event
from service.domain.group import ClonePolicy, Group

ENOUGH = 3  # signs
WINDOW = timedelta(hours=24)  # after so long without one, counting begins anew

Changed = tuple[Device, tuple[Event, ...]]


def boot_count_fell(device: Device, boot_count: int) -> bool:
    """Whether a new claim's boot counter is below that of the claim before it."""
    return bool(device.credentials) and boot_count < device.credentials[-1].boot_count


def note_sign(device: Device, group: Group, sign: str, now: datetime) -> Changed:
    """One more sign; events once there are enough."""
    recent = device.clone_at is not None and now - device.clone_at <= WINDOW
    signs = (device.clone_signs if recent else 0) + 1
    device = replace(device, clone_signs=signs, clone_at=now)
    return suspect(device, group, sign, now) if signs == ENOUGH else (device, ())


def suspect(device: Device, group: Group, sign: str, now: datetime) -> Changed:
    """There are two devices: tell it, and freeze the serial where the group wants that."""
    told = [event.of(device, "clone_suspected", now, sign=sign)]
    if group.clone_policy is ClonePolicy.FREEZE and not device.frozen:
        device = replace(device, frozen=True)
        told.append(event.of(device, "frozen", now, sign=sign))
    return device, tuple(told)
