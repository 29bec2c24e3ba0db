"""The exchange of the service key and of the key of labels: what is told, who has heard, and what stays good."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import insert

from service.credentials import labels
from service.credentials.followed_keys import FollowedKeys
from service.credentials.keyfile import KeyFile
from service.credentials.labels import LabelText
from service.domain.catalogue import Catalogue
from service.domain.changes import Changes
from service.domain.credential import CredentialKind, CredentialState
from service.domain.desired import content
from service.domain.device import DeviceState
from service.domain.group import Group, KeyKind
from service.errors import Secret, ServiceError
from service.operations import groups, key_exchange, rekeying
from service.pipeline.bounds import Bounds
from service.protocol import encode
from service.rotation import Rotation
from service.storage import tables
from service.storage.database import Database
from service.storage.rows import to_ms
from service.storage.store import SqlStore
from tests.support.fake_store import FakeStore
from tests.support.pipeline_site import Site, catalogue
from tests.support.storage import NOW, PRODUCT, a_credential, a_device, a_thing, empty_database

SIGNED = Group("signed", PRODUCT.product_id, KeyKind.PUBLIC_KEY, default_ou="acme", default_environment="prod")


@pytest.fixture
async def place(tmp_path):
    """(key file, database) of an installation whose service is stopped, with a group of devices with private keys."""
    path = tmp_path / "firstlight.db"
    path.write_bytes(empty_database())
    key_file = tmp_path / "keys.json"
    KeyFile.create(key_file)
    database = await opened(key_file, path)
    async with database.write() as transaction:
        row = {"product_id": PRODUCT.product_id, "name": PRODUCT.name, "hardware": PRODUCT.hardware}
        await transaction.connection.execute(insert(tables.product), [row])
    await groups.create(database, SIGNED, random_bytes=bytes)
    await groups.create(database, replace(SIGNED, group_id="plain", key_kind=KeyKind.INDIVIDUAL), random_bytes=bytes)
    await database.close()
    return key_file, path


async def opened(key_file, path):
    return await Database.open(path, KeyFile.load(key_file).sealer(), check=False)


async def add(place, serial, *, doc=None, heard=True, group_id="signed", state=DeviceState.CONFIRMED):
    """A device; `doc`: what its newest document says."""
    device = a_device(serial, group_id=group_id, key=None, state=state)
    thing = (
        replace(a_thing(device), thing_id=f"thing {serial}", name=serial) if state is DeviceState.CONFIRMED else None
    )
    rows = ()
    if thing is not None:
        rows = (
            a_credential(
                device,
                f"{serial:c>32}",
                kind=CredentialKind.X509,
                state=CredentialState.CONFIRMED,
                confirmed_at=NOW,
                api_key_sha256=None,
                certificate_serial=serial,
                desired_doc=doc,
                desired_rev=1,
                heard_rev=1 if heard else 0,
            ),
        )
    database = await opened(*place)
    async with SqlStore(database, {}).batch() as batch:
        await batch.save(Changes(devices=((None, replace(device, thing=thing, credentials=rows)),)))
    await database.close()


async def refused(awaitable):
    with pytest.raises(ServiceError) as caught:
        await awaitable
    return caught.value.code, caught.value.cause


async def rev(place):
    database = await opened(*place)
    found = (await SqlStore(database, {}).catalogue()).rev
    await database.close()
    return found


def document(keys, encoding="msgpack"):
    return encode.pack({"rev": 1, "trust": {"service_keys": list(keys.told_service_keys())}}, encoding)


async def test_a_service_key_goes_when_every_device_knows_the_next(place):
    before = KeyFile.load(place[0])
    first = await rev(place)
    told = await key_exchange.announce(*place)
    keys = KeyFile.load(place[0])
    assert (told.current, told.next, told.untold) == (*keys.told_service_keys(), 0)
    assert keys.service_key == before.service_key  # it goes on proving
    assert keys.told_service_keys()[0] == before.service_public_key()
    assert await rev(place) == first + 1
    assert await refused(key_exchange.announce(*place)) == ("CONFLICT", "service_key_announced")
    done = await key_exchange.use_next(*place)
    after = KeyFile.load(place[0])
    assert (done.current, done.next) == (told.next, None)
    assert after.told_service_keys() == (told.next,)
    assert after.label_key() == before.label_key()  # labels are still good
    assert await rev(place) == first + 2
    assert await refused(key_exchange.use_next(*place)) == ("CONFLICT", "service_key_not_announced")


async def test_devices_that_have_not_heard_keep_the_old_key_in_use(place):
    await key_exchange.announce(*place)
    keys = KeyFile.load(place[0])
    await add(place, "1", doc=document(keys))
    await add(place, "2", doc=document(keys, "json"))
    await add(place, "3", doc=document(keys), heard=False)
    await add(place, "4", doc=encode.pack({"rev": 1}, "msgpack"))
    await add(place, "5", state=DeviceState.REGISTERED)  # burned with the old one, perhaps
    await add(place, "6", state=DeviceState.RETIRED)
    await add(place, "7", group_id="plain")
    await add(place, "8", state=DeviceState.BLOCKED)
    found = await key_exchange.status(keys, place[1])
    assert (found.untold, found.blocked, found.not_activated) == (2, 1, 1)
    assert await refused(key_exchange.use_next(*place, at_most=1)) == ("CONFLICT", "service_key_untold")
    assert KeyFile.load(place[0]).service_key == keys.service_key
    done = await key_exchange.use_next(*place, at_most=2)
    assert (done.blocked, done.not_activated) == (1, 1)
    assert KeyFile.load(place[0]).service_key == keys.service_next


async def test_devices_that_cannot_be_told_do_not_hold_up_the_next_key(place):
    await key_exchange.announce(*place)
    await add(place, "1", doc=document(KeyFile.load(place[0])))
    await add(place, "2", state=DeviceState.REGISTERED)
    await add(place, "3", state=DeviceState.BLOCKED)
    assert (await key_exchange.use_next(*place)).next is None


@asynccontextmanager
async def service(place, who="prod"):
    """What a service does with keys and database; `tick` is left to the test."""
    key_file, path = place
    followed = FollowedKeys(key_file)
    database = await Database.open(path, followed, changed_by=None)
    used = []
    rotation = Rotation(followed, database, used.append, who)
    await rotation.tick()
    try:
        yield rotation, used
    finally:
        await database.close()


STEPS = [key_exchange.announce, key_exchange.use_next, key_exchange.rotate_labels]


async def test_every_step_is_taken_over_by_all_services_that_run_before_devices_are_told(place, monkeypatch):
    monkeypatch.setattr(rekeying, "_LOOK_S", 0.01)
    async with service(place) as (first, used), service(place, "east") as (second, _):
        for step in STEPS:
            before = await rev(place)
            running = asyncio.create_task(step(*place))
            while KeyFile.load(place[0]).mark() == used[-1].mark():
                await asyncio.sleep(0.01)
            await first.tick()
            assert used[-1].mark() == KeyFile.load(place[0]).mark()
            await asyncio.sleep(0.05)
            assert not running.done()  # another service has still the keys of before
            assert await rev(place) == before
            await second.tick()
            await running
            assert await rev(place) == before + (step is not key_exchange.rotate_labels)


@pytest.mark.parametrize("step", STEPS)
async def test_a_service_that_does_not_take_the_keys_over_is_named_and_nothing_is_told(place, step):
    if step is key_exchange.use_next:
        await key_exchange.announce(*place)
    async with service(place):
        before = await rev(place)
        assert await refused(step(*place, taken_over_s=0)) == ("CONFLICT", "keys_not_taken_over")
        assert await rev(place) == before


def test_only_devices_with_private_keys_are_told_of_service_keys():
    keys = (b"a" * 32, b"b" * 32)
    for kind, told in ((KeyKind.PUBLIC_KEY, {"service_keys": list(keys)}), (KeyKind.INDIVIDUAL, None)):
        device = a_device(group_id="g")
        device = replace(device, thing=a_thing(device))
        world = Catalogue(1, groups={"g": Group("g", PRODUCT.product_id, kind)})
        assert content(device, a_credential(device), world, NOW, keys).get("trust") == told
        assert "trust" not in content(device, a_credential(device), world, NOW)


async def test_a_service_tells_the_keys_that_its_file_says(tmp_path):
    keys = KeyFile.create(tmp_path / "keys.json")
    for one in (keys, keys.announce_service_key(), keys.announce_service_key().use_next_service_key()):
        site = Site(one, FakeStore(catalogue()), Bounds())
        world = site.pipeline.executor._world(site.store.catalogue)
        assert world.told_service_keys == one.told_service_keys()
    assert keys.told_service_keys() == ()


async def test_a_running_service_proves_and_tells_by_the_keys_that_it_was_given_last(tmp_path):
    keys = KeyFile.create(tmp_path / "keys.json")
    site = Site(keys, FakeStore(catalogue()), Bounds())
    for one in (keys.announce_service_key(), keys.announce_service_key().use_next_service_key().rotate()):
        site.pipeline.use_keys(one)
        world = site.pipeline.executor._world(site.store.catalogue)
        assert world.told_service_keys == one.told_service_keys()
        assert world.service_key.public_key().public_bytes_raw() == one.service_public_key()
        assert site.pipeline.admission.nonce_keys == one.nonce_keys()


def test_a_key_file_keeps_what_an_exchange_has_made_of_it(tmp_path):
    path = tmp_path / "keys.json"
    first = KeyFile.create(path)
    for one in (
        first.announce_service_key(),
        first.announce_service_key().use_next_service_key(),
        first.rotate_labels(NOW, NOW - timedelta(days=1)),
    ):
        one.write(path)
        assert KeyFile.load(path) == one
        assert "***" in repr(one)
    assert len({secret.reveal() for secret in one.secrets()}) == len(one.secrets())


LABEL = LabelText(Secret(bytes(range(12))), "line-1", "sn-1", NOW.replace(microsecond=0))


async def add_label(place, expires_at):
    database = await opened(*place)
    row = {"label_id": f"{to_ms(expires_at)}", "group_id": "signed", "serial": "sn-1"}
    async with database.write() as transaction:
        times = {"created_at": 1, "expires_at": to_ms(expires_at)}
        await transaction.connection.execute(insert(tables.label), [{**row, **times}])
    await database.close()


def sealer(place):
    return KeyFile.load(place[0]).sealer()


async def test_a_printed_label_is_good_after_the_key_of_labels_was_exchanged_until_it_expires(place):
    await add_label(place, NOW + timedelta(days=30))
    old = labels.encode(LABEL, sealer(place).label_key)
    done = await key_exchange.rotate_labels(*place, now=NOW)
    assert (done.previous, done.until) == (1, NOW + timedelta(days=30))
    new = labels.encode(LABEL, sealer(place).label_key)
    assert old != new
    for text in (old, new):
        assert labels.decode(text, *sealer(place).label_keys) == LABEL
    # The next exchange after its last label expired forgets it.
    await add_label(place, NOW + timedelta(days=90))
    await key_exchange.rotate_labels(*place, now=NOW + timedelta(days=30))
    assert labels.decode(new, *sealer(place).label_keys) == LABEL
    with pytest.raises(ServiceError) as caught:
        labels.decode(old, *sealer(place).label_keys)
    assert caught.value.cause == "label_foreign"


async def test_a_label_that_is_made_while_the_key_is_exchanged_is_good_as_long_as_it_says(place, monkeypatch):
    settled = key_exchange.settled

    async def late(database, keys, wait_s):
        await settled(database, keys, wait_s)
        await add_label(place, NOW + timedelta(days=90))

    await add_label(place, NOW + timedelta(days=30))
    old = labels.encode(LABEL, sealer(place).label_key)
    with monkeypatch.context() as patched:
        patched.setattr(key_exchange, "settled", late)
        done = await key_exchange.rotate_labels(*place, now=NOW)
    assert (done.previous, done.until) == (1, NOW + timedelta(days=90))
    await key_exchange.rotate_labels(*place, now=NOW + timedelta(days=60))
    assert labels.decode(old, *sealer(place).label_keys) == LABEL


async def test_without_labels_no_older_key_is_kept(place):
    assert (await key_exchange.rotate_labels(*place, now=NOW)).previous == 0
    await asyncio.to_thread(KeyFile.load, place[0])
