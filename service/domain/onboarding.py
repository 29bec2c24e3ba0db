"""A label and what scanning it does: register if needed, tag, place and describe a device. Pure.

Owns the rule of first use and the order of its checks. The label's text was checked before (credentials/labels.py);
the device still has to prove its own key when it activates: a label places it, nothing more.
Source: docs/onboarding.md.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from service.domain import event
from service.domain.device import Device, DeviceState
from service.domain.event import Event
from service.domain.refusals import conflict
from service.domain.thing import Scalar
from service.errors import Secret, ServiceError

_REFUSED_STATES = (DeviceState.BLOCKED, DeviceState.REPLACED, DeviceState.RETIRED)


@dataclass(frozen=True, slots=True)
class Label:
    """One row. The code is only on paper; `label_id` is its hash."""

    label_id: str
    group_id: str
    serial: str
    batch: str | None
    created_at: datetime
    expires_at: datetime
    used_at: datetime | None = None
    used_by: str | None = None  # account
    cancelled_at: datetime | None = None  # a newer label was printed for the same serial
    key: Secret | None = None  # made with the label, for a device that was not registered then


@dataclass(frozen=True, slots=True)
class Site:
    """Where an operator says that the device stands."""

    ou: str
    environment: str | None = None
    attributes: Mapping[str, Scalar] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class Onboarded:
    """`device` is the same object as before where nothing changes."""

    device: Device
    events: tuple[Event, ...] = ()


class LabelReusedError(ServiceError):
    """Someone else has used this label, or another one of this serial. `alarm` is to be stored; nothing else changes."""

    def __init__(self, alarm: Event) -> None:
        super().__init__("CONFLICT", "this label was used by someone else", cause="label_reused")
        self.alarm = alarm


def check_label(label: Label, users: Collection[str], device: Device | None, account: str, now: datetime) -> None:
    """Whether this account may use the label now. `users`: who has used any label of this serial.

    Raises LabelReusedError, or ServiceError CONFLICT: cancelled, expired.
    """
    # 1. First use, before anything that a finder of the label could learn from.
    others = sorted(user for user in users if user != account)
    if others:
        raise LabelReusedError(_alarm(label, device, others[0], account, now))
    # 2. A newer label takes the place of an older one; one that was used stays valid for a repeat.
    if label.used_at is not None:
        return
    if label.cancelled_at is not None:
        raise conflict("label_cancelled", "a newer label was printed for this serial")
    # 3. Expiry.
    if now >= label.expires_at:
        raise conflict("label_expired", f"this label expired on {label.expires_at:%Y-%m-%d}")


def onboard(
    device: Device,
    label: Label,
    site: Site,
    now: datetime,
    *,
    left: str | None = None,
    command_id: str | None = None,
) -> Onboarded:
    """The device tagged, placed and described; its state, key and credentials stay as they are.

    `left`: the OU where it belonged, whose integrators are told that it leaves. Raises ServiceError CONFLICT: a device
    that is blocked, retired, replaced or frozen, one that is in service elsewhere, a used label with other wishes.
    """
    if device.state in _REFUSED_STATES:
        raise conflict(f"onboard_{device.state.value}", f"this device is {device.state.value}")
    if device.frozen:
        raise conflict("onboard_frozen", "the serial is frozen; `unfreeze` it first")
    after = _described(_placed(device, site), site)
    after = replace(after, batch=label.batch or device.batch)
    if label.used_at is not None:
        if after != device:
            raise conflict(
                "label_used", "this label was used already; `set-attributes` and `reprovision` change a device"
            )
        return Onboarded(device)
    told: dict[str, object] = {"batch": after.batch, "label_id": label.label_id}
    if left not in (None, site.ou):
        told["from_ou"] = left
    return Onboarded(after, (event.of(after, "onboarded", now, command_id=command_id, **told),))


def _placed(device: Device, site: Site) -> Device:
    thing = device.thing
    if thing is None:
        return replace(device, ou=site.ou, environment=site.environment or device.environment)
    if (thing.ou, thing.environment) != (site.ou, site.environment or thing.environment):
        raise conflict("onboard_elsewhere", f"this device is in service in {thing.ou}: `reprovision` moves it")
    return device


def _described(device: Device, site: Site) -> Device:
    thing = device.thing
    before = device.attributes if thing is None else thing.attributes
    after = {name: value for name, value in {**before, **site.attributes}.items() if value is not None}
    if after == dict(before):
        return device
    if thing is None:
        return replace(device, attributes=after)
    return replace(device, thing=replace(thing, attributes=after, rev=thing.rev + 1))


def _alarm(label: Label, device: Device | None, first: str, second: str, now: datetime) -> Event:
    data = {"label_id": label.label_id, "batch": label.batch, "used_by": first, "scanned_by": second}
    if device is not None:
        return event.of(device, "label_reused", now, **data)
    return Event("label_reused", label.group_id, label.serial, data=data, at=now)
