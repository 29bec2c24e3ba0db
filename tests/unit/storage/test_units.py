"""Units with their devices: what a batch reads of the warehouse's tables, and what it writes there."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import event

from service.domain import staging
from service.domain.changes import Changes
from service.domain.manifest import ItemReport, ItemState
from service.domain.warehouse import Binding, DeviceType, Equipment, Line, Order, Site, Step
from service.storage import manifest_queries, units, warehouse_queries, warehouse_writes
from service.storage.store import SqlStore
from tests.support.staged_peer import VALUES, build, item
from tests.support.storage import GROUP, NOW, a_credential, a_device, a_sealer, a_thing, new_database

NAME = (GROUP.group_id, "sn-1")


@pytest.fixture
async def store(tmp_path):
    """One device that is a unit of an order, and one that is none."""
    database = await new_database(tmp_path / "firstlight.db")
    store = SqlStore(database, {})
    async with store.batch() as batch:
        await batch.save(Changes(devices=((None, a_device()), (None, a_device("sn-2")))))
    yield store
    await database.close()


async def furnish(store: SqlStore, *, settings: bool = True) -> None:
    database = store._database
    site = Site("hall-1", "acme/hall-1", settings_rev=1 if settings else 0)
    unit = Equipment(*NAME, "tablet", Step.RECEIVED, NOW, device_id="dev-sn-1", site="hall-1")
    async with database.write() as transaction:
        to = transaction.connection
        await warehouse_writes.put_device_types(to, [DeviceType("tablet", GROUP.group_id)], NOW)
        await warehouse_writes.put_sites(to, [site], NOW)
        if settings:
            await warehouse_writes.add_settings(to, database.sealer, site, VALUES, NOW, "alice")
        await warehouse_writes.put_orders(to, [Order("SO-1", "hall-1")], NOW)
        await warehouse_writes.put_lines(to, [Line("SO-1", 1, "tablet", 5)])
        await warehouse_writes.bind(to, [Binding("SO-1", 1, *NAME, NOW)])
        await warehouse_writes.put_units(to, [unit])


async def loaded(store: SqlStore, serial: str = "sn-1"):
    async with store.batch() as batch:
        return (await batch.load(serials=[(GROUP.group_id, serial)])).by_serial[GROUP.group_id, serial]


async def test_a_device_comes_with_its_unit_and_the_settings_in_force_at_its_site(store):
    await furnish(store)
    unit = (await loaded(store)).unit
    assert (unit.equipment.step, unit.type.name, unit.settings.rev) == (Step.RECEIVED, "tablet", 1)
    assert unit.settings.values == VALUES
    assert (unit.offered, unit.manifest, unit.items) == (None, None, {})
    assert (await loaded(store, "sn-2")).unit is None


async def test_a_site_without_settings_has_none(store):
    await furnish(store, settings=False)
    assert (await loaded(store)).unit.settings is None


async def test_what_a_device_changes_of_its_unit_is_there_afterwards_with_its_history(store):
    await furnish(store)
    device = await loaded(store)
    later = NOW + timedelta(minutes=5)
    changed = replace(device.unit, equipment=staging.warehouse.enter(device.unit.equipment, Step.STAGED, later))
    report = ItemReport("app", "2.1", ItemState.FAILED, later, 40, "wrong_hash")
    changed = staging.sent(replace(changed, items={"app": report}), later)
    async with store.batch() as batch:
        await batch.save(Changes(devices=((device, replace(device, unit=changed)),)))
    assert (await loaded(store)).unit == changed
    async with store._database.read() as connection:
        (visit,) = await warehouse_queries.visits(connection, NAME)
    assert (visit.step, visit.at, visit.order_id, visit.site, visit.account) == (
        "staged",
        later,
        "SO-1",
        "hall-1",
        None,
    )
    # Once more, with other news of the same item.
    again = replace(changed, items={"app": replace(report, state=ItemState.WORKING, progress=None, cause=None)})
    async with store.batch() as batch:
        await batch.save(Changes(devices=((replace(device, unit=changed), replace(device, unit=again)),)))
    assert (await loaded(store)).unit == again
    async with store._database.read() as connection:
        assert len(await warehouse_queries.visits(connection, NAME)) == 1


async def test_a_device_whose_unit_is_as_it_was_writes_nothing_there(store):
    await furnish(store)
    device = await loaded(store)
    thing = a_thing(device)
    after = replace(device, thing=thing, credentials=(a_credential(device),))
    written = []
    event.listen(
        store._database._connections.engine.sync_engine,
        "before_cursor_execute",
        lambda *given: written.append(given[2]) if "equipment" in given[2] or "item_report" in given[2] else None,
    )
    async with store.batch() as batch:
        await batch.save(Changes(devices=((device, after),)))
    assert written == []


async def test_devices_that_are_no_units_cost_one_question(store):
    asked = []
    event.listen(
        store._database._connections.engine.sync_engine, "before_cursor_execute", lambda *given: asked.append(given[2])
    )
    await loaded(store, "sn-2")
    assert len([one for one in asked if "equipment" in one]) == 1
    assert not [one for one in asked if "item_report" in one or "device_type.name" in one or "site_settings.rev" in one]


@pytest.mark.parametrize("bound", ["MAX_MANIFESTS", "MAX_MANIFEST_BYTES"])
async def test_manifests_are_kept_only_so_many_and_read_anew_when_they_are_wanted(store, monkeypatch, bound):
    await furnish(store)
    monkeypatch.setattr(units, bound, 1)
    known = units.Units()
    made = [build(item("a", name.encode()), name=name) for name in ("one", "two")]
    read = []

    async def counted(connection, sealer, ids):
        read.append(sorted(ids))
        return {one.manifest_id: one for one in made if one.manifest_id in ids}

    monkeypatch.setattr(manifest_queries, "manifests", counted)
    one, two = (each.manifest_id for each in made)
    async with store._database.read() as connection:
        for wanted in ({one}, {one}, {two}, {one}):
            assert set(await known._manifests_of(connection, a_sealer(), wanted)) == wanted
    assert read == [[one], [two], [one]]
