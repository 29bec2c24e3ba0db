"""Keys are rotated while a service runs: at no moment does it meet a secret that it cannot read, and none is lost."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import insert

from service.credentials.changing_keys import changing
from service.credentials.followed_keys import FollowedKeys
from service.credentials.keyfile import KeyFile, KeyFileError
from service.domain.changes import Changes
from service.errors import Secret, ServiceError
from service.operations import key_exchange, rekeying
from service.rotation import Rotation
from service.storage import catalogue_rows, tables
from service.storage.database import Database
from service.storage.store import SqlStore
from tests.support.storage import GROUP, PRODUCT, a_device, new_database

SERIALS = [f"sn-{number}" for number in range(12)]


@pytest.fixture
async def place(tmp_path):
    """Key file and database of 12 device keys."""
    key_file, path = tmp_path / "keys.json", tmp_path / "firstlight.db"
    keys = KeyFile.create(key_file)
    await (await new_database(path, seeded=False)).close()
    database = await Database.open(path, keys.sealer())
    async with database.write() as transaction:
        product = {"product_id": PRODUCT.product_id, "name": PRODUCT.name, "hardware": PRODUCT.hardware}
        await transaction.connection.execute(insert(tables.product), [product])
        group = catalogue_rows.group_row(GROUP, database.sealer)
        await transaction.connection.execute(insert(tables.registration_group), [group])
    await add(database, SERIALS)
    await database.close()
    return key_file, path


async def add(database, serials):
    async with SqlStore(database, {}).batch() as batch:
        await batch.save(Changes(devices=tuple((None, a_device(serial)) for serial in serials)))


async def keys_of(database, serials):
    async with SqlStore(database, {}).batch() as batch:
        loaded = await batch.load(serials=[(GROUP.group_id, serial) for serial in serials])
        return {one.key for one in loaded.by_serial.values()}, len(loaded.by_serial)


@asynccontextmanager
async def running(place):
    """What a service does with keys and database, as its tasks do it; `tick` is left to the test."""
    key_file, path = place
    followed = FollowedKeys(key_file)
    database = await Database.open(path, followed, changed_by=None)
    used = []
    try:
        yield database, Rotation(followed, database, used.append, "prod"), used
    finally:
        await database.close()


async def test_a_service_reads_and_writes_all_the_time_while_keys_are_rotated(place, monkeypatch):
    key_file, path = place
    monkeypatch.setattr(rekeying.reseal, "__kwdefaults__", {"page": 5})
    monkeypatch.setattr(rekeying, "_LOOK_S", 0.01)
    old = KeyFile.load(key_file).seal_current
    async with running(place) as (service, rotation, used):
        await rotation.tick()
        rotating = asyncio.create_task(rekeying.rotate(key_file, path))
        added = []
        while not rotating.done():
            added.append(f"new-{len(added)}")
            await add(service, added[-1:])
            assert await keys_of(service, SERIALS + added) == ({Secret(b"K" * 32)}, len(SERIALS) + len(added))
            if len(added) > 2:  # until then the service has not looked, and goes on with the old key
                await rotation.tick()
            await asyncio.sleep(0.01)  # the rotation's turn with the database
        done = await rotating
        assert (done.retired, done.kept) == ([], [old])
        assert done.kid == KeyFile.load(key_file).seal_current
        assert used[-1].nonce_keys() == KeyFile.load(key_file).nonce_keys()
        # The second run ends it.
        again = await rekeying.rotate(key_file, path, kept_s=0)
        assert (again.kid, again.retired, again.kept) == (done.kid, [old], [])
        await rotation.tick()
        assert await keys_of(service, SERIALS) == ({Secret(b"K" * 32)}, len(SERIALS))
    fresh = await Database.open(path, KeyFile.load(key_file).sealer())
    assert await keys_of(fresh, SERIALS + added) == ({Secret(b"K" * 32)}, len(SERIALS) + len(added))
    await fresh.close()


async def test_nothing_is_sealed_again_before_the_service_has_said_that_it_knows_the_key(place):
    key_file, path = place
    old = KeyFile.load(key_file).seal_current
    async with running(place) as (service, rotation, _):
        await rotation.tick()
        with pytest.raises(ServiceError) as caught:
            await rekeying.rotate(key_file, path, taken_over_s=0)
        assert caught.value.cause == "keys_not_taken_over"
        assert await rekeying.kids_in_use(service) == {old}
        # It goes on where it was, as soon as the service has looked.
        await rotation.tick()
        assert (await rekeying.rotate(key_file, path)).resealed == len(SERIALS)


async def test_the_old_key_stays_as_long_as_some_command_may_still_seal_with_it(place):
    key_file, path = place
    async with running(place) as (_, rotation, _used):
        await rotation.tick()
        with pytest.raises(ServiceError):
            await rekeying.rotate(key_file, path, taken_over_s=0)
        await rotation.tick()
        stays = await rekeying.rotate(key_file, path)
        assert stays.kept
        assert (await rekeying.rotate(key_file, path)).kept == stays.kept
    # With nobody there it goes at once.
    assert (await rekeying.rotate(key_file, path)).retired == stays.kept


async def test_a_service_that_is_set_up_no_more_is_not_waited_for_after_a_rotation_without_any(place):
    key_file, path = place
    async with running(place) as (service, _rotation, _used):
        await rekeying.say_keys(service, "east", KeyFile.load(key_file))
    await rekeying.rotate(key_file, path)
    async with running(place) as (_, rotation, _used):
        await rotation.tick()
        with pytest.raises(ServiceError):
            await rekeying.rotate(key_file, path, taken_over_s=0)
        await rotation.tick()
        assert (await rekeying.rotate(key_file, path, taken_over_s=0)).kept


async def test_one_command_at_a_time_changes_the_keys(place):
    key_file, path = place
    with changing(key_file):
        for command in (rekeying.rotate, key_exchange.announce, key_exchange.use_next, key_exchange.rotate_labels):
            with pytest.raises(KeyFileError, match="another command"):
                await command(key_file, path)
    assert (await rekeying.rotate(key_file, path)).retired


async def test_the_old_key_stays_for_a_service_that_was_started_during_a_rotation_without_any(place, monkeypatch):
    key_file, path = place
    old = KeyFile.load(key_file).seal_current
    begun = FollowedKeys(key_file)  # has read the file, and not opened the database yet
    kids_in_use, opened = rekeying.kids_in_use, []

    async def started_now(database):
        found = await kids_in_use(database)
        opened.append(await Database.open(path, begun, changed_by=None))
        await add(opened[0], ["late"])
        return found

    monkeypatch.setattr(rekeying, "kids_in_use", started_now)
    done = await rekeying.rotate(key_file, path)
    assert (done.retired, done.kept) == ([], [old])
    await opened[0].close()
    fresh = await Database.open(path, KeyFile.load(key_file).sealer())
    assert await keys_of(fresh, ["late"]) == ({Secret(b"K" * 32)}, 1)
    await fresh.close()
