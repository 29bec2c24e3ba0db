"""The life of one firmware update on one device: tries, deadlines, and what comes next. Pure.

firmware.py says which state follows from a report; this file says what follows from the state: a version that failed or
was rolled back twice is held back, a state that lasts too long is asked about again, three times, and then timed out.
Nothing is ever just stuck. Source: docs/protocol.md, section 5.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from service.domain import desired, event
from service.domain.catalogue import Catalogue
from service.domain.device import Device, Firmware, FirmwareState
from service.domain.event import Event

S = FirmwareState
ENDED_BADLY = frozenset({S.FAILED, S.ROLLED_BACK})
# How long a device may be silent in a state before it is asked again; a report of progress counts as a sound.
PATIENCE: dict[FirmwareState, timedelta] = {
    S.OFFERED: timedelta(hours=24),  # it may be asleep
    S.ACCEPTED: timedelta(hours=6),
    S.DEFERRED: timedelta(hours=1),  # after the time that it asked for
    S.DOWNLOADING: timedelta(hours=6),
    S.DOWNLOADED: timedelta(hours=1),
    S.VERIFIED: timedelta(hours=1),
    S.INSTALLING: timedelta(hours=1),
    S.REBOOTING: timedelta(hours=1),
    S.FAILED: timedelta(hours=6),  # it tries once more by itself
    S.ROLLED_BACK: timedelta(hours=6),
}
MAX_NOTIFIED = 3
MAX_DEFERRED = timedelta(days=7)  # a device that asks for more is asked again after this

Changed = tuple[Device, tuple[Event, ...]]
_OPEN_TO_OFFERS = frozenset({None, S.OFFERED, S.CONFIRMED, S.TIMED_OUT, S.FAILED, S.ROLLED_BACK})


def observe(before: Firmware, device: Device, catalogue: Catalogue, now: datetime) -> Changed:
    """After a message that may have changed the device's firmware from `before`: clock, tries and events.

    Only versions of its product are counted: a device may name any id, and there is no end of these.
    """
    firmware = device.firmware
    if firmware is before:
        return device, ()
    # 1. Whatever it said, it is alive: the clock begins anew.
    firmware = replace(firmware, since=now, notified=0)
    if firmware.state is not S.DEFERRED:
        firmware = replace(firmware, deferred_until=None, deferred_reason=None)
    device = replace(device, firmware=firmware)
    # 2. The same said again is no news.
    same = firmware.version_id == before.version_id
    if same and firmware.state is before.state:
        return device, ()
    data = {"version_id": firmware.version_id, "cause": firmware.cause}
    version_id = firmware.version_id
    if firmware.state is S.CONFIRMED:
        if version_id in device.tries:
            device = replace(device, tries={one: count for one, count in device.tries.items() if one != version_id})
        return device, (_event(device, "firmware_confirmed", now, data),)
    # 3. An end that was bad counts once, whether the device said so, the service concluded it, or both.
    if firmware.state not in ENDED_BADLY or version_id is None or (same and before.state in ENDED_BADLY):
        return device, ()
    if device.thing is None or catalogue.version(device.thing.product_id, version_id) is None:
        return device, (_event(device, f"firmware_{firmware.state}", now, data),)
    tries = device.tries.get(version_id, 0) + 1
    device = replace(device, tries={**device.tries, version_id: tries})
    told = [_event(device, f"firmware_{firmware.state}", now, {**data, "tries": tries})]
    if tries == desired.MAX_TRIES:
        told.append(_event(device, "firmware_held_back", now, {**data, "tries": tries}))
    if tries >= desired.MAX_TRIES:
        device = replace(device, firmware=replace(firmware, since=None))  # nobody's turn but the operator's
    return device, tuple(told)


def offered(device: Device, catalogue: Catalogue, now: datetime) -> Device:
    """After the document went out: its version is offered, unless it runs, is under way or was answered before."""
    version = desired.target_of(device, catalogue)
    thing, firmware = device.thing, device.firmware
    if version is None or thing is None or thing.installed_version_id == version.version_id:
        return device
    if firmware.state not in _OPEN_TO_OFFERS or (
        firmware.version_id == version.version_id and firmware.state is not None
    ):
        return device
    fresh = Firmware(S.OFFERED, version.version_id, confirmed_seq=firmware.confirmed_seq, since=now)
    return replace(device, firmware=fresh)


def deferred(firmware: Firmware, until_s: int | None, reason: str | None, now: datetime) -> Firmware:
    """With when the device wants to be asked again, `until_s` seconds from now, and why."""
    wait = min(timedelta(seconds=min(until_s or 0, 2**31)), MAX_DEFERRED)
    return replace(firmware, deferred_until=now + wait, deferred_reason=reason)


def is_due(firmware: Firmware, now: datetime) -> bool:
    """Whether the device has been silent for too long in a state that is not the last."""
    patience = PATIENCE.get(firmware.state) if firmware.state is not None else None
    if patience is None or firmware.since is None:
        return False
    return now >= max(firmware.since, firmware.deferred_until or firmware.since) + patience


def look_after(device: Device, catalogue: Catalogue, now: datetime) -> tuple[Device, tuple[Event, ...], bool]:
    """(device, events, whether its document is to be pushed again) once a state has lasted too long."""
    firmware = device.firmware
    if not is_due(firmware, now):
        return device, (), False
    target = desired.target_of(device, catalogue)
    if target is None or target.version_id != firmware.version_id:
        # Not wanted any more, and the device has not spoken of it since.
        return replace(device, firmware=Firmware(confirmed_seq=firmware.confirmed_seq)), (), target is not None
    if firmware.notified < MAX_NOTIFIED:
        asked = replace(firmware, notified=firmware.notified + 1, since=now, deferred_until=None)
        return replace(device, firmware=asked), (), True
    data = {"version_id": firmware.version_id, "state": str(firmware.state), "cause": firmware.cause}
    device = replace(device, firmware=replace(firmware, state=S.TIMED_OUT, since=None, deferred_until=None))
    return device, (_event(device, "firmware_timed_out", now, data),), False


def release(device: Device, version_id: str | None = None) -> Device:
    """Offered again although it failed too often: this version, or every one. The same object when none did."""
    gone = set(device.tries) if version_id is None else {version_id} & set(device.tries)
    firmware = device.firmware
    over = firmware.state in ENDED_BADLY | {S.TIMED_OUT} and version_id in (None, firmware.version_id)
    if not gone and not over:
        return device
    tries = {one: count for one, count in device.tries.items() if one not in gone}
    if over:
        firmware = Firmware(confirmed_seq=firmware.confirmed_seq)
    return replace(device, tries=tries, releases=device.releases + 1, firmware=firmware)


def _event(device: Device, kind: str, now: datetime, data: Mapping[str, object]) -> Event:
    return replace(event.of(device, kind, now), data=data)
