"""What a batch of messages reads and writes of the units behind its devices.

Owns how a unit is put together from the warehouse's tables, and which rows follow when its device has changed it. One
query finds whether there are any; only for those that are asked for in full others follow. Manifests never change and
are kept.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import String, bindparam, column, func, select, update
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from service.domain.device import Device
from service.domain.manifest import Manifest, SiteSettings
from service.domain.staging import SettingsSaid, Unit
from service.domain.warehouse import Binding, Equipment, Visit
from service.storage import manifest_queries, warehouse_queries, warehouse_writes
from service.storage.rows import Row, from_ms, to_ms
from service.storage.sealing import Sealer, site_settings_aad
from service.storage.warehouse_tables import equipment, item_report, site, site_settings

MAX_MANIFESTS = 32  # kept in memory, with their inline items and secrets; those used last
MAX_MANIFEST_BYTES = 16 * 1024 * 1024  # of what they hold, beside the newest
_Name = tuple[str, str]  # group_id, serial
Known = dict[str, tuple[Equipment, SettingsSaid]]  # by device id

_ASKED = func.json_each(bindparam("device_ids", type_=String)).table_valued(column("value", String), name="asked")
_UNITS = select(equipment).select_from(_ASKED.join(equipment, equipment.c.device_id == _ASKED.c.value))
_SETTINGS = (
    select(site.c.name, site_settings.c.rev, site_settings.c.settings_id, site_settings.c.settings_sealed)
    .join(site_settings, (site_settings.c.site == site.c.name) & (site_settings.c.rev == site.c.settings_rev))
    .where(site.c.name.in_(bindparam("sites", expanding=True)))
)


class Units:
    """One for each store, because it keeps manifests."""

    def __init__(self) -> None:
        self._manifests: OrderedDict[str, Manifest] = OrderedDict()

    async def find(self, connection: AsyncConnection, devices: Sequence[Device]) -> Known:
        """Those of these devices that are units, by device id. One query, also for no device at all."""
        asked = {"device_ids": json.dumps([one.device_id for one in devices])}
        rows = (await connection.execute(_UNITS, asked)).all()
        return {row.device_id: (warehouse_queries.unit_of(row), _said(row)) for row in rows}

    async def with_units(
        self, connection: AsyncConnection, sealer: Sealer, devices: Sequence[Device], known: Known
    ) -> list[Device]:
        """The same devices, those that are units with all that the warehouse knows of them."""
        asked = {one.device_id: known[one.device_id] for one in devices if one.device_id in known}
        if not asked:
            return list(devices)
        units = await self._load(connection, sealer, asked)
        return [replace(one, unit=units.get(one.device_id)) for one in devices]

    async def _load(self, connection: AsyncConnection, sealer: Sealer, known: Known) -> dict[str, Unit]:
        every = [one for one, _ in known.values()]
        types = await warehouse_queries.device_types(connection, {one.device_type for one in every})
        offered = await manifest_queries.ids_for(connection, list(types.values()))
        ids = {one.manifest_id for one in every if one.manifest_id is not None} | set(offered.values())
        manifests = await self._manifests_of(connection, sealer, ids)
        items = await warehouse_queries.item_reports(connection, [(one.group_id, one.serial) for one in every])
        settings = await _settings(connection, sealer, {one.site for one in every if one.site is not None})
        return {
            device_id: Unit(
                equipment=one,
                type=types[one.device_type],
                offered=manifests.get(offered.get(one.device_type, "")),
                manifest=manifests.get(one.manifest_id or ""),
                items=items.get((one.group_id, one.serial), {}),
                settings=settings.get(one.site or ""),
                said=said,
            )
            for device_id, (one, said) in known.items()
        }

    async def _manifests_of(
        self, connection: AsyncConnection, sealer: Sealer, ids: Collection[str]
    ) -> dict[str, Manifest]:
        missing = [one for one in ids if one not in self._manifests]
        found = await manifest_queries.manifests(connection, sealer, missing) if missing else {}
        for one in ids:
            if one in self._manifests:
                found[one] = self._manifests[one]
                self._manifests.move_to_end(one)
        self._manifests.update(found)
        while len(self._manifests) > MAX_MANIFESTS or (len(self._manifests) > 1 and self._held() > MAX_MANIFEST_BYTES):
            self._manifests.popitem(last=False)
        return found

    def _held(self) -> int:
        """Bytes of all items that are no image files."""
        return sum(item.size for one in self._manifests.values() for item in one.items if item.image_id is None)


async def save(connection: AsyncConnection, changes: Sequence[tuple[Device | None, Device]]) -> None:
    """What these devices have changed of their units: where they are, what they said, and the history."""
    changed = [
        (before.unit, after.unit)
        for before, after in changes
        if before is not None and before.unit is not None and after.unit is not None and after.unit is not before.unit
    ]
    if not changed:
        return
    moved = [after for before, after in changed if after.equipment != before.equipment]
    await warehouse_writes.put_units(connection, [one.equipment for one in moved])
    await _save_said(connection, [after for before, after in changed if after.said != before.said])
    await _save_items(connection, changed)
    await _save_history(connection, changed)


async def _save_said(connection: AsyncConnection, units: Sequence[Unit]) -> None:
    rows = [
        {
            "of_group": one.equipment.group_id,
            "of_serial": one.equipment.serial,
            "settings_sent_rev": one.said.sent_rev,
            "settings_rev": one.said.rev,
            "settings_state": one.said.state,
            "settings_cause": one.said.cause,
            "settings_at": to_ms(one.said.at),
        }
        for one in units
    ]
    if rows:
        where = (equipment.c.group_id == bindparam("of_group")) & (equipment.c.serial == bindparam("of_serial"))
        await connection.execute(update(equipment).where(where), rows)


async def _save_items(connection: AsyncConnection, changed: Sequence[tuple[Unit, Unit]]) -> None:
    rows: list[Row] = [
        {
            "group_id": after.equipment.group_id,
            "serial": after.equipment.serial,
            "name": name,
            "version": said.version,
            "state": said.state.value,
            "progress": said.progress,
            "cause": said.cause,
            "at": to_ms(said.at),
        }
        for before, after in changed
        for name, said in after.items.items()
        if before.items.get(name) is not said
    ]
    if rows:
        statement = upsert(item_report)
        keys = list(item_report.primary_key.columns)
        given = {name: statement.excluded[name] for name in ("version", "state", "progress", "cause", "at")}
        await connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=given), rows)


async def _save_history(connection: AsyncConnection, changed: Sequence[tuple[Unit, Unit]]) -> None:
    entered = [after.equipment for before, after in changed if after.equipment.step is not before.equipment.step]
    if not entered:
        return
    bound = await warehouse_queries.bindings(connection, [(one.group_id, one.serial) for one in entered])
    await warehouse_writes.add_visits(connection, [_visit(one, bound) for one in entered])


def _visit(unit: Equipment, bound: dict[_Name, Binding]) -> Visit:
    binding = bound.get((unit.group_id, unit.serial))
    order_id = binding.order_id if binding is not None else None
    return Visit(unit.group_id, unit.serial, unit.step.value, unit.step_at, order_id, unit.site)


async def _settings(connection: AsyncConnection, sealer: Sealer, sites: Collection[str]) -> dict[str, SiteSettings]:
    if not sites:
        return {}
    found = await connection.execute(_SETTINGS, {"sites": list(sites)})
    return {
        row.name: SiteSettings(
            row.rev, json.loads(sealer.open(row.settings_sealed, site_settings_aad(row.settings_id)))
        )
        for row in found
    }


def _said(row: Any) -> SettingsSaid:
    return SettingsSaid(
        sent_rev=row.settings_sent_rev,
        rev=row.settings_rev,
        state=row.settings_state,
        cause=row.settings_cause,
        at=from_ms(row.settings_at),
    )
