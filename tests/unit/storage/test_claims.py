"""What a serial costs that somebody has only claimed: the same, whatever there is behind it."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import pytest
from sqlalchemy import event

from service.domain.catalogue import Environment
from service.domain.changes import Changes
from service.domain.warehouse import DeviceType, Equipment, Step
from service.storage import warehouse_writes
from service.storage.store import SqlStore
from tests.support.storage import GROUP, NOW, a_credential, a_device, a_thing, new_database

PLAIN, UNIT, HOLDER, SUCCESSOR = ((GROUP.group_id, serial) for serial in ("plain", "unit", "old", "new"))
NOBODY = (GROUP.group_id, "nobody"), ("nowhere", "plain")


@pytest.fixture
async def store(tmp_path):
    """A plain device, a unit of a warehouse, and two devices between which a thing changes hands."""
    database = await new_database(tmp_path / "firstlight.db")
    store = SqlStore(database, {"prod": Environment("prod", {})})
    plain, unit, old, new = (a_device(serial) for serial in ("plain", "unit", "old", "new"))
    thing = a_thing(old, successor_device_id=new.device_id)
    old = replace(old, thing=thing, credentials=(a_credential(old),))
    async with store.batch() as batch:
        await batch.save(Changes(devices=((None, plain), (None, unit), (None, new), (None, old))))
    async with database.write() as transaction:
        to = transaction.connection
        await warehouse_writes.put_device_types(to, [DeviceType("tablet", GROUP.group_id)], NOW)
        await warehouse_writes.put_units(to, [Equipment(*UNIT, "tablet", Step.RECEIVED, NOW, device_id="dev-unit")])
    yield store
    await database.close()


@contextmanager
def counted(store):
    """The statements of this database."""
    statements: list[str] = []
    engine = store._database._connections.engine.sync_engine

    def count(*given) -> None:
        statements.append(given[2])

    event.listen(engine, "before_cursor_execute", count)
    try:
        yield statements
    finally:
        event.remove(engine, "before_cursor_execute", count)


async def loaded(store, **asked):
    async with store.batch() as batch:
        with counted(store) as statements:
            return await batch.load(**asked), len(statements)


async def test_a_claim_costs_the_same_number_of_queries_whoever_it_names(store):
    costs = {name: (await loaded(store, claimed=[name]))[1] for name in (PLAIN, UNIT, HOLDER, SUCCESSOR, *NOBODY)}
    assert set(costs.values()) == {costs[PLAIN]}, costs


async def test_there_is_more_to_load_of_a_unit_and_of_those_between_whom_a_thing_changes_hands(store):
    for name, more in ((PLAIN, False), (UNIT, True), (HOLDER, True), (SUCCESSOR, True)):
        found, _ = await loaded(store, claimed=[name])
        device = found.by_serial[name]
        assert list(found.by_device_id) == [device.device_id]
        assert found.incomplete == ({device.device_id} if more else set())
        assert device.unit is None


async def test_once_it_is_proven_all_of_it_comes(store):
    found, _ = await loaded(store, device_ids=["dev-unit"])
    assert found.by_device_id["dev-unit"].unit is not None
    for one in ("dev-old", "dev-new"):
        found, _ = await loaded(store, device_ids=[one])
        assert set(found.by_device_id) == {"dev-old", "dev-new"}
        assert not found.incomplete


async def test_a_device_that_a_credential_names_beside_a_claim_is_whole(store):
    found, _ = await loaded(store, claimed=[HOLDER, SUCCESSOR], credential_ids=["c" * 32])
    assert set(found.by_device_id) == {"dev-old", "dev-new"}
    assert not found.incomplete
