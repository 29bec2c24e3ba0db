"""Exchanging a group's secret: what is stored, what is shown, and when a secret can be retired."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from service.domain.changes import Changes
from service.domain.device import DeviceState
from service.domain.group_secrets import MAX_SECRETS, SecretState
from service.errors import Secret, ServiceError
from service.operations import group_secrets, groups
from service.operations.rekeying import kids_in_use, reseal
from service.storage.store import SqlStore
from tests.support.storage import DERIVED, GROUP, NOW, a_device, new_database

LINE = DERIVED.group_id


@pytest.fixture
async def database(tmp_path):
    opened = await new_database(tmp_path / "firstlight.db")
    yield opened
    await opened.close()


def count_up():
    made = iter(range(1, 100))
    return lambda length: bytes([next(made)]) * (length - 1) + b"!"


async def rotate(database, group_id=LINE, *, now=NOW, random_bytes=None, **fields):
    return await group_secrets.rotate(database, group_id, now=now, random_bytes=random_bytes or count_up(), **fields)


async def group(database):
    return (await SqlStore(database, {}).catalogue()).groups[LINE]


async def add(database, serial="sn-1", **fields):
    device = a_device(serial, group_id=LINE, **{"key": None, "state": DeviceState.CONFIRMED, **fields})
    async with SqlStore(database, {}).batch() as batch:
        await batch.save(Changes(devices=((None, device),)))


async def refused(awaitable):
    with pytest.raises(ServiceError) as caught:
        await awaitable
    return caught.value.code, caught.value.cause


async def test_a_new_secret_takes_over_and_the_one_before_is_kept_sealed(database, tmp_path):
    store = SqlStore(database, {})
    rev = (await store.catalogue()).rev
    views, made = await rotate(database, grace_s=60)
    assert [(one.generation, one.state) for one in views] == [(2, SecretState.NEWEST), (1, SecretState.GRACE)]
    found = (await store.catalogue()).groups[LINE]
    assert (found.secret, found.secret_generation) == (made, 2)
    (old,) = found.old_secrets
    assert (old.secret, old.superseded_at, old.grace_until) == (DERIVED.secret, NOW, NOW + timedelta(seconds=60))
    assert (await store.catalogue()).rev > rev
    await database.close()
    everything = b"".join(path.read_bytes() for path in tmp_path.glob("firstlight.db*"))
    assert DERIVED.secret.reveal() not in everything
    assert made.reveal() not in everything


async def test_a_given_secret_is_taken_and_not_shown(database):
    given = Secret(b"from the factory, 32 bytes long!")
    assert (await rotate(database, secret=given))[1] is None
    assert (await group(database)).secret == given
    assert given.reveal().decode() not in repr(await groups.show(database, LINE))


async def test_what_cannot_be_exchanged_is_refused_and_nothing_changes(database):
    assert await refused(rotate(database, "none")) == ("NOT_FOUND", "group_unknown")
    assert await refused(rotate(database, GROUP.group_id)) == ("BAD_REQUEST", "group_secret_needless")
    assert await refused(rotate(database, grace_s=-1)) == ("BAD_REQUEST", "secret_grace_illegal")
    assert await refused(rotate(database, secret=DERIVED.secret)) == ("CONFLICT", "group_secret_used")
    await rotate(database)
    assert await refused(rotate(database, secret=DERIVED.secret)) == ("CONFLICT", "group_secret_used")
    assert (await group(database)).secret_generation == 2


async def test_a_secret_is_retired_when_no_device_needs_it_or_so_many_may_be_lost(database):
    await add(database, "sn-1", secret_generation=1)
    await add(database, "sn-2", secret_generation=1, key=Secret(b"o" * 32))  # has a key of its own
    await add(database, "sn-3", secret_generation=1, state=DeviceState.RETIRED)
    await add(database, "sn-4", secret_generation=2)
    await rotate(database)
    views = await group_secrets.list_all(database, LINE, now=NOW)
    assert [(one.generation, one.state, one.devices) for one in views] == [
        (2, SecretState.NEWEST, 1), (1, SecretState.SUPERSEDED, 1),
    ]  # fmt: skip
    retire = group_secrets.retire
    assert await refused(retire(database, LINE, 2, now=NOW)) == ("CONFLICT", "group_secret_newest")
    assert await refused(retire(database, LINE, 3, now=NOW)) == ("NOT_FOUND", "group_secret_unknown")
    assert await refused(retire(database, LINE, 1, now=NOW)) == ("CONFLICT", "group_secret_in_use")
    assert (await group(database)).old_secrets[0].retired_at is None
    later = NOW + timedelta(days=1)
    views = await retire(database, LINE, 1, now=later, at_most=1)
    assert (views[1].state, views[1].retired_at) == (SecretState.RETIRED, later)
    assert await retire(database, LINE, 1, now=later + timedelta(days=1)) == views  # once and for good


async def test_there_is_a_bound_and_retired_secrets_that_nobody_needs_make_room(database):
    random_bytes = count_up()
    for _ in range(MAX_SECRETS - 1):
        await rotate(database, random_bytes=random_bytes)
    assert await refused(rotate(database, random_bytes=random_bytes)) == ("CONFLICT", "group_secrets_full")
    await add(database, secret_generation=1)
    await group_secrets.retire(database, LINE, 1, now=NOW, at_most=1)
    assert await refused(rotate(database, random_bytes=random_bytes)) == ("CONFLICT", "group_secrets_full")
    await group_secrets.retire(database, LINE, 2, now=NOW)
    views, _ = await rotate(database, random_bytes=random_bytes)
    assert [one.generation for one in views] == [5, 4, 3, 1]


async def test_a_device_s_secret_is_stored_with_it(database):
    store = SqlStore(database, {})
    await add(database)
    async with store.batch() as batch:
        before = (await batch.load(serials=[(LINE, "sn-1")])).by_serial[LINE, "sn-1"]
        assert before.secret_generation is None
        await batch.save(Changes(devices=((before, replace(before, secret_generation=3)),)))
    async with store.batch() as batch:
        assert (await batch.load(serials=[(LINE, "sn-1")])).by_serial[LINE, "sn-1"].secret_generation == 3


async def test_secrets_of_before_are_sealed_again_with_a_new_key(database):
    await rotate(database)
    assert await reseal(database, "another_") == 2
    assert await kids_in_use(database) == {"testkey1"}
    assert (await group(database)).old_secrets[0].secret == DERIVED.secret


async def test_a_group_without_secrets_has_none_to_show(database):
    assert await group_secrets.list_all(database, GROUP.group_id, now=NOW) == []
