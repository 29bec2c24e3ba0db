"""What an operator sees of a device: for CONFLICT, for the audit's before and after, for `get`. Pure; holds no secret."""

from __future__ import annotations

from typing import Any

from service.domain.device import Device, Firmware
from service.domain.thing import Thing
from service.storage.rows import to_ms


def picture(device: Device) -> dict[str, Any]:
    """One flat map of JSON values; what is not known or not set is left out."""
    found: dict[str, Any] = {
        "group": device.group_id,
        "serial": device.serial,
        "state": device.state.value,
        "batch": device.batch,
        "frozen": device.frozen or None,
        "clone_signs": device.clone_signs or None,
        "replaced_by": device.replaced_by,
        "retired_reason": device.retired_reason,
        "retire_deadline_at": to_ms(device.retire_deadline_at),
        "transfer_open": device.rekey or None,
        "transfer_deadline_at": to_ms(device.rekey_deadline_at),
        "boot_count": device.boot_count,
        "model": device.model,
        "firmware": device.firmware.state.value if device.firmware.state else None,
        **_firmware(device.firmware),
        "tries": dict(device.tries),
        "ou": device.ou,
        "environment": device.environment,
        "attributes": dict(device.attributes),
    }
    if device.thing is not None:
        found |= _thing(device.thing, device)
    found["credentials"] = sorted(one.state.value for one in device.credentials if one.dropped_at is None)
    return {name: value for name, value in found.items() if value not in (None, {}, [])}


def _thing(thing: Thing, device: Device) -> dict[str, Any]:
    """What takes the place of the OU, environment and attributes that the device was registered with, and more."""
    move = thing.move
    return {
        "rev": thing.rev,
        "thing": thing.thing_id,
        "name": thing.name,
        "ou": thing.ou,
        "environment": thing.environment,
        "is_holder": thing.holder_device_id == device.device_id,
        "attributes": dict(thing.attributes),
        "settings": dict(thing.settings),
        "settings_rev": thing.settings_rev,
        "settings_state": thing.settings_state,
        "target": thing.target_version_id,
        "installed": thing.installed_version_id,
        "successor": thing.successor_device_id,
        "moving": move
        and {
            "ou": move.ou,
            "environment": move.environment,
            "method": move.method.value,
            "deadline_at": to_ms(move.deadline_at),
        },
    }


def _firmware(said: Firmware) -> dict[str, Any]:
    """Which version that state is about and what the device says of it: in per cent, why not, until when."""
    return {
        "firmware_version_id": said.version_id,
        "firmware_progress": said.progress,
        "firmware_cause": said.cause,
        "firmware_deferred_until": to_ms(said.deferred_until),
        "firmware_deferred_reason": said.deferred_reason,
    }


def difference(before: Device | None, after: Device) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parts of both pictures in which they differ."""
    was = picture(before) if before is not None else {}
    now = picture(after)
    names = [name for name in {**was, **now} if was.get(name) != now.get(name)]
    return {n: was[n] for n in names if n in was}, {n: now[n] for n in names if n in now}
