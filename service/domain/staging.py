"""A unit in the warehouse and at its site, as its device's messages see it: what is wanted of it and what it has said.

Owns the rules of `stage`, items, `staged` and `handshake`; steps and settings by name stand in warehouse.py, manifests in
manifest.py. Values and rules, no I/O. Source: docs/protocol.md, section 9.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING

from service.domain import warehouse
from service.domain.credential import Credential, CredentialState
from service.domain.manifest import ItemReport, ItemState, Manifest, SiteSettings
from service.domain.warehouse import DeviceType, Equipment, Step

if TYPE_CHECKING:
    from service.domain.device import Device

_UNPACKED = frozenset({Step.OUT_OF_BOX, Step.SHIPPED, Step.AT_SITE})


@dataclass(frozen=True, slots=True)
class SettingsSaid:
    """What a unit was given of its site's settings and what it said of them."""

    sent_rev: int = 0
    rev: int = 0
    state: str | None = None  # sent, applied, failed
    cause: str | None = None
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Unit:
    equipment: Equipment
    type: DeviceType
    offered: Manifest | None = None  # what `stage` gives now
    manifest: Manifest | None = None  # what the last `stage` gave
    items: Mapping[str, ItemReport] = field(default_factory=dict, hash=False)  # by name
    settings: SiteSettings | None = None  # in force at its site
    said: SettingsSaid = SettingsSaid()


def unit_of(device: Device, credential: Credential) -> Unit | None:
    """The device's unit if this is the pending credential that `stage` gave it."""
    unit = device.unit
    if unit is None or credential.state is not CredentialState.PENDING:
        return None
    return unit if unit.equipment.stage_credential_id == credential.credential_id else None


def in_progress(device: Device, credential: Credential) -> Unit | None:
    """The same while the unit is being staged: no message of the credential confirms it."""
    unit = unit_of(device, credential)
    return unit if unit is not None and unit.equipment.step is Step.STAGED else None


def is_used(device: Device) -> bool:
    """Whether the unit has used what the last `stage` gave it, so that it gets nothing again."""
    unit = device.unit
    if unit is None or unit.equipment.staged_at is None:
        return False
    if unit.equipment.step not in (Step.RECEIVED, Step.STAGED) or unit.items:
        return True
    used = [one for one in device.credentials if one.credential_id == unit.equipment.stage_credential_id]
    return any(one.state is CredentialState.CONFIRMED or one.last_heard_at is not None for one in used)


def staged(unit: Unit, manifest: Manifest, credential_id: str, now: datetime) -> Unit:
    """The unit with a new credential and this manifest to work on."""
    equipment = unit.equipment
    if equipment.step is not Step.STAGED:
        equipment = warehouse.enter(equipment, Step.STAGED, now)
    equipment = replace(
        equipment, manifest_id=manifest.manifest_id, staged_at=now, stage_credential_id=credential_id, cause=None
    )
    return replace(unit, equipment=equipment, manifest=manifest)


def stopped(unit: Unit, cause: str | None) -> Unit:
    """The unit that stands still for this reason, or goes on; the same object when that is so already."""
    if unit.equipment.cause == cause:
        return unit
    return replace(unit, equipment=replace(unit.equipment, cause=cause))


def reported(unit: Unit, report: ItemReport) -> Unit:
    """What it says of an item; the same object when that is no news. An item of no manifest of it is ignored."""
    item = unit.manifest.item(report.name) if unit.manifest is not None else None
    if item is None or item.version != report.version:
        return unit
    before = unit.items.get(report.name)
    if before is not None and replace(before, at=report.at) == report:
        return unit
    unit = replace(unit, items={**unit.items, report.name: report})
    failed = [one for one in unit.items.values() if one.state is ItemState.FAILED]
    return stopped(unit, f"{failed[0].name}: {failed[0].cause or 'failed'}" if failed else None)


def out_of_box(unit: Unit, now: datetime) -> Unit:
    """Everything works. The same object where it has been so already."""
    if unit.equipment.step is not Step.STAGED:
        return unit
    return replace(unit, equipment=warehouse.enter(unit.equipment, Step.OUT_OF_BOX, now))


def arrived(unit: Unit, now: datetime) -> Unit:
    """It speaks from its site; the same object where it did before, or never came out of the warehouse."""
    if unit.equipment.step not in (Step.OUT_OF_BOX, Step.SHIPPED):
        return unit
    return replace(unit, equipment=warehouse.enter(unit.equipment, Step.AT_SITE, now))


def warehouse_values(unit: Unit) -> dict[str, dict[str, object]]:
    """Those settings of its site that it gets with the manifest."""
    if unit.settings is None:
        return {}
    return warehouse.values_named(unit.settings.values, unit.type.warehouse_settings)


def site_values(unit: Unit) -> dict[str, dict[str, object]]:
    """What a handshake gives: a unit takes settings over as a whole, so those of the warehouse step are among them."""
    if unit.settings is None:
        return {}
    names = (*unit.type.warehouse_settings, *unit.type.handshake_settings)
    return warehouse.values_named(unit.settings.values, names)


def wanted_rev(device: Device) -> int | None:
    """The revision of its site's settings that its document names; None: it shakes no hands."""
    unit = device.unit
    if unit is None or unit.equipment.step not in _UNPACKED:
        return None
    return unit.settings.rev if unit.settings is not None else 0


def sent(unit: Unit, now: datetime) -> Unit:
    """It was given the settings in force."""
    rev = unit.settings.rev if unit.settings is not None else 0
    if unit.said.sent_rev == rev:
        return unit
    return replace(unit, said=replace(unit.said, sent_rev=rev, state="sent", cause=None, at=now))


def settings_said(unit: Unit, rev: int, state: str, cause: str | None, now: datetime) -> Unit:
    """What it reports of them; the same object when that is no news or in between."""
    if state not in ("applied", "failed") or (unit.said.rev, unit.said.state) == (rev, state):
        return unit
    said = replace(unit.said, rev=rev, state=state, cause=cause, at=now)
    unit = replace(unit, said=said)
    return stopped(unit, f"settings: {cause or 'failed'}" if state == "failed" else None)
