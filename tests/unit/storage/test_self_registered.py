"""How many devices of a group have registered themselves: counted in the transaction that stores them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy import update

from service.domain.changes import Changes
from service.operations.requests import raise_catalogue_rev
from service.storage import tables
from service.storage.store import SqlStore
from tests.support.storage import DERIVED, GROUP, a_device, new_database


@pytest.fixture
async def database(tmp_path):
    opened = await new_database(tmp_path / "firstlight.db")
    yield opened
    await opened.close()


async def set_quota(database, quota):
    async with database.write() as transaction:
        group = tables.registration_group
        await transaction.connection.execute(update(group).values(self_quota=quota))
        await raise_catalogue_rev(transaction.connection)


async def save(store, count, *serials, group_id=DERIVED.group_id):
    async with store.batch() as batch:
        devices = tuple((None, replace(a_device(one), group_id=group_id)) for one in serials)
        await batch.save(Changes(devices=devices, self_registered={group_id: count}))


async def counted(store):
    async with store.batch() as batch:
        return dict((await batch.load()).self_registered)


async def test_the_count_of_each_group_adds_up(database):
    await set_quota(database, 5)
    store = SqlStore(database, {})
    await save(store, 1, "sn-1")
    await save(store, 2, "sn-2", "sn-3")
    await save(store, 1, "sn-4", group_id=GROUP.group_id)
    assert await counted(store) == {DERIVED.group_id: 3, GROUP.group_id: 1}


async def test_a_group_is_counted_before_it_has_a_quota(database):
    store = SqlStore(database, {})
    await save(store, 1, "sn-1")
    assert await counted(store) == {}
    await set_quota(database, 1)
    assert await counted(store) == {DERIVED.group_id: 1}


async def test_a_batch_that_is_not_stored_counts_nobody(database):
    await set_quota(database, 5)
    store = SqlStore(database, {})

    async def broken():
        async with store.batch() as batch:
            await batch.save(Changes(self_registered={DERIVED.group_id: 1}))
            raise KeyError

    with pytest.raises(KeyError):
        await broken()
    assert await counted(store) == {}
