"""What follows from what a device says of its firmware. Pure.

Owns the firmware states: which report is taken over as it stands, and that `confirmed` and `rolled_back` follow only
from what runs after a boot. Source: docs/protocol.md, section 5.3.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from service.domain.catalogue import Catalogue
from service.domain.device import Device, Firmware, FirmwareState
from service.domain.product import Version

_ON_THE_WAY = frozenset(
    {
        FirmwareState.ACCEPTED,
        FirmwareState.DEFERRED,
        FirmwareState.DOWNLOADING,
        FirmwareState.DOWNLOADED,
        FirmwareState.VERIFIED,
        FirmwareState.INSTALLING,
        FirmwareState.REBOOTING,
    }
)
# What only the service may conclude; a device that says so is answered, but its word is not taken for it.
_CONCLUDED = frozenset({FirmwareState.OFFERED, FirmwareState.CONFIRMED, FirmwareState.TIMED_OUT})


def reported(
    firmware: Firmware,
    state: FirmwareState,
    version_id: str | None,
    progress: int | None,
    cause: str | None,
    boot_count: int,
    now: datetime,
) -> Firmware:
    """After a `report` with a firmware state; `boot_count` is the one that counts for this request."""
    if state in _CONCLUDED:
        return firmware
    version_id = version_id or firmware.version_id
    same = version_id == firmware.version_id
    if same and firmware.state is FirmwareState.CONFIRMED and state in _ON_THE_WAY:
        # A late repeat from before the boot; what has booted stays confirmed unless it fails.
        return firmware
    installing = firmware.installing_boot_count if same else None
    if state is FirmwareState.INSTALLING:
        installing = boot_count
    return replace(
        firmware,
        state=state,
        version_id=version_id,
        progress=progress,
        cause=cause,
        installing_boot_count=installing,
        reported_at=now,
    )


def running(
    firmware: Firmware, version: Version | None, boot_count: int, now: datetime, *, wanted: bool = False
) -> Firmware:
    """After the device said which version runs (None: one that the service does not know, such as the factory's).

    `wanted`: it is the target.
    """
    booted = firmware.installing_boot_count is None or boot_count > firmware.installing_boot_count
    if version is not None and version.version_id == firmware.version_id:
        if firmware.state is FirmwareState.CONFIRMED or not booted:
            return firmware
        return _confirmed(firmware, version, now)
    if version is not None and wanted:
        return _confirmed(firmware, version, now)  # it told of this update while nobody listened
    if firmware.state in (FirmwareState.REBOOTING, FirmwareState.CONFIRMED) and booted:
        return replace(firmware, state=FirmwareState.ROLLED_BACK, cause="old_version_booted", reported_at=now)
    if firmware.state is None and version is not None:
        return _confirmed(firmware, version, now)
    return firmware


def installed(device: Device, version: Version, boot_count: int, now: datetime, *, wanted: bool) -> Device:
    """After `installed`: confirmed if it is the wanted version and has booted since `installing`."""
    firmware = device.firmware
    about_it = firmware.version_id == version.version_id
    booted = not about_it or firmware.installing_boot_count is None or boot_count > firmware.installing_boot_count
    if wanted and booted and not (about_it and firmware.state is FirmwareState.CONFIRMED):
        firmware = _confirmed(firmware, version, now)
    return with_installed(replace(device, firmware=firmware), version) if booted else device


def with_installed(device: Device, version: Version | None) -> Device:
    """The device with its thing's installed version set; unknown ones are None."""
    thing = device.thing
    version_id = version.version_id if version is not None else None
    if thing is None or thing.installed_version_id == version_id:
        return device
    return replace(device, thing=replace(thing, installed_version_id=version_id))


def known(device: Device, catalogue: Catalogue, version_id: str | None) -> Version | None:
    """The version of that id if it belongs to the thing's product."""
    if version_id is None or device.thing is None:
        return None
    return catalogue.version(device.thing.product_id, version_id)


def _confirmed(firmware: Firmware, version: Version, now: datetime) -> Firmware:
    return Firmware(
        state=FirmwareState.CONFIRMED,
        version_id=version.version_id,
        progress=100,
        cause=None,
        installing_boot_count=None,
        confirmed_seq=max(firmware.confirmed_seq, version.seq),
        reported_at=now,
    )
