"""What the pipeline may rely on in any store: the database's and the fake."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy.exc import IntegrityError

from service.domain.catalogue import Catalogue, Environment
from service.domain.changes import Changes, Trace
from service.domain.credential import CredentialKind, CredentialState
from service.domain.device import DeviceState, Firmware, FirmwareState, KeyAlgorithm, PublicKey
from service.domain.group import MoveMethod
from service.domain.thing import Move
from service.errors import Secret
from service.storage.store import SqlStore
from service.storage.upkeep import Upkeep
from tests.support.fake_store import FakeStore
from tests.support.storage import DERIVED, GROUP, NOW, PRODUCT, a_credential, a_device, a_thing, new_database

ENVIRONMENTS = {"prod": Environment("prod", {})}
REFUSED = (ValueError, IntegrityError)


@pytest.fixture(params=["sql", "fake"])
async def store(request, tmp_path):
    if request.param == "fake":
        groups = {GROUP.group_id: GROUP, DERIVED.group_id: DERIVED}
        yield FakeStore(Catalogue(1, groups, {PRODUCT.product_id: PRODUCT}, {}, ENVIRONMENTS))
        return
    database = await new_database(tmp_path / "firstlight.db")
    yield SqlStore(database, ENVIRONMENTS)
    await database.close()


async def save(store, *devices, **changes):
    async with store.batch() as batch:
        await batch.save(Changes(devices=tuple(devices), **changes))


async def load(store, **asked):
    async with store.batch() as batch:
        return await batch.load(**asked)


def serial_of(device):
    return {"serials": [(device.group_id, device.serial)]}


async def test_the_catalogue_has_groups_products_and_environments(store):
    async with store.batch() as batch:
        assert batch.catalogue.groups[GROUP.group_id] == GROUP
        assert batch.catalogue.groups[DERIVED.group_id].secret == DERIVED.secret
        assert batch.catalogue.products[PRODUCT.product_id] == PRODUCT
        assert batch.catalogue.environments["prod"].name == "prod"


async def test_nothing_asked_or_nothing_found_is_an_empty_answer(store):
    for asked in ({}, {"serials": [("line-1", "nobody")], "credential_ids": ["f" * 32], "spki": [b"x" * 32]}):
        loaded = await load(store, **asked)
        assert not loaded.by_serial
        assert not loaded.by_credential
        assert not loaded.spki_in_use
        assert loaded.next_numbers == {PRODUCT.product_id: 1}


async def test_a_saved_device_comes_back_as_it_was(store):
    bare = a_device()
    firmware = Firmware(FirmwareState.INSTALLING, "a" * 32, 40, "slow", 7, 3, NOW)
    full = a_device(
        "sn:2",
        state=DeviceState.CONFIRMED,
        ou="acme/lab",
        environment="prod",
        boot_count=9,
        model="M ü",
        caps=("fetch", "json"),
        firmware=firmware,
    )
    full = replace(
        full,
        thing=a_thing(full),
        credentials=(
            a_credential(
                full,
                "1" * 32,
                state=CredentialState.DROPPED,
                dropped_at=NOW,
                drop_cause="replaced",
                revoked_at=NOW,
                created_at=NOW - timedelta(days=2),
            ),
            a_credential(
                full,
                "2" * 32,
                kind=CredentialKind.X509,
                state=CredentialState.CONFIRMED,
                api_key_sha256=None,
                certificate_pem="PEM",
                certificate_serial="0af",
                spki_sha256=b"p" * 32,
                certificate_expires_at=NOW,
                confirmed_at=NOW,
                last_n=5,
                last_reply=b"reply",
                desired_rev=4,
                desired_doc=b"doc",
                held_at=NOW,
                awaits_operator=True,
                approved=True,
                last_heard_at=NOW,
            ),
        ),
    )
    keys = tuple(PublicKey(index, KeyAlgorithm.ED25519, bytes([index]) * 44) for index in (0, 7))
    public = a_device("sn-3", key=None, public_keys=keys)
    await save(store, (None, bare), (None, full), (None, public))
    asked = [(GROUP.group_id, one.serial) for one in (bare, full, public)]
    loaded = await load(store, serials=asked, credential_ids=["2" * 32, "1" * 32])
    assert set(loaded.by_serial.values()) == {bare, full, public}
    assert loaded.by_serial[GROUP.group_id, "sn:2"] == full
    assert loaded.by_credential["2" * 32] is loaded.by_credential["1" * 32] is loaded.by_serial[GROUP.group_id, "sn:2"]


async def test_what_operators_gave_a_device_and_its_thing_comes_back(store):
    device = a_device(
        batch="B42",
        attributes={"floor": 3},
        frozen=True,
        replaced_by="dev-other",
        tries={"a" * 32: 2},
        releases=4,
        clone_signs=2,
        clone_at=NOW,
        rekey=True,
        firmware=Firmware(
            FirmwareState.DEFERRED, "a" * 32, since=NOW, notified=2, deferred_until=NOW, deferred_reason="busy"
        ),
    )
    move = Move("acme/b", "prod", MoveMethod.INITIALISE, NOW, NOW + timedelta(hours=1), "c1", announced=True)
    thing = a_thing(
        device,
        attributes={"site": "Köln", "floor": 3, "live": True, "note": None},
        settings={"interval_s": 60, "network": {"apn": "m2m"}},
        settings_rev=3,
        settings_reported_rev=2,
        settings_state="applied",
        rev=9,
        target_version_id="b" * 32,
        move=move,
        successor_deadline_at=NOW,
        successor_command_id="c2",
        home_environment="prod",
        failover_at=NOW,
    )
    device = replace(device, thing=thing, credentials=(a_credential(device, rekey=True, renewed_from="d" * 32),))
    await save(store, (None, device))
    assert (await load(store, device_ids=[device.device_id])).by_device_id == {device.device_id: device}
    placed = replace(device, thing=replace(thing, move=None, ou="acme/b", attributes={}))
    await save(store, (device, placed))
    assert (await load(store, device_ids=[device.device_id])).by_device_id == {device.device_id: placed}


async def test_a_device_that_is_to_take_over_a_thing_comes_with_its_holder_and_the_other_way_round(store):
    holder, successor = a_device("sn-1"), a_device("sn-2")
    holder = replace(holder, thing=a_thing(holder))
    await save(store, (None, holder), (None, successor))
    thing = replace(holder.thing, successor_device_id=successor.device_id)
    named = replace(holder, thing=thing), replace(successor, thing=thing)
    await save(store, (holder, named[0]), (successor, named[1]))
    for one in named:
        assert set((await load(store, **serial_of(one))).by_device_id.values()) == set(named)
    taken = replace(thing, holder_device_id=successor.device_id, successor_device_id=None)
    after = replace(named[0], thing=None), replace(named[1], thing=taken)
    await save(store, (named[0], after[0]), (named[1], after[1]))
    loaded = await load(store, device_ids=[holder.device_id, successor.device_id, "nobody"])
    assert set(loaded.by_device_id.values()) == set(after)
    assert list((await load(store, **serial_of(successor))).by_device_id) == [successor.device_id]


async def test_only_what_was_asked_for_is_loaded(store):
    devices = [a_device(f"sn-{n}") for n in range(5)]
    await save(store, *((None, one) for one in devices))
    loaded = await load(store, serials=[(GROUP.group_id, "sn-3"), (DERIVED.group_id, "sn-1")])
    assert list(loaded.by_serial) == [(GROUP.group_id, "sn-3")]


async def test_a_change_of_every_part_is_kept(store):
    before = a_device()
    await save(store, (None, before))
    first = replace(before, state=DeviceState.ACTIVATED, thing=a_thing(before), credentials=(a_credential(before),))
    await save(store, (before, first))
    confirmed = replace(
        first.credentials[0], state=CredentialState.CONFIRMED, confirmed_at=NOW, last_n=1, last_reply=b"x" * 300
    )
    second = replace(
        first,
        state=DeviceState.CONFIRMED,
        boot_count=3,
        key=Secret(b"L" * 32),
        thing=replace(first.thing, name="Kitchen"),
        credentials=(confirmed,),
    )
    await save(store, (first, second))
    assert (await load(store, **serial_of(before))).by_serial[GROUP.group_id, "sn-1"] == second


async def test_a_new_credential_is_confirmed_in_the_save_that_drops_the_old_one(store):
    device = a_device()
    device = replace(device, thing=a_thing(device))
    old = a_credential(device, "a" * 32, state=CredentialState.CONFIRMED, confirmed_at=NOW)
    new = a_credential(device, "b" * 32, created_at=NOW + timedelta(seconds=1))
    before = replace(device, credentials=(old, new))
    await save(store, (None, before))
    swapped = (
        replace(old, state=CredentialState.DROPPED, dropped_at=NOW, drop_cause="superseded"),
        replace(new, state=CredentialState.CONFIRMED, confirmed_at=NOW),
    )
    # Whatever the order in the aggregate, no moment has two confirmed ones.
    await save(store, (before, replace(before, credentials=swapped[::-1])))
    assert (await load(store, **serial_of(device))).by_serial[GROUP.group_id, "sn-1"].credentials == swapped


async def test_two_confirmed_credentials_of_a_device_are_refused_and_nothing_is_kept(store):
    device = a_device()
    two = tuple(a_credential(device, letter * 32, state=CredentialState.CONFIRMED, confirmed_at=NOW) for letter in "ab")
    with pytest.raises(REFUSED):
        await save(store, (None, replace(device, credentials=two)), counters={"activated": 1})
    assert not (await load(store, **serial_of(device))).by_serial


@pytest.mark.parametrize("what", ["serial", "credential", "spki"])
async def test_what_must_be_unique_is_refused_twice(store, what):
    first = a_device("sn-1")
    first = replace(first, credentials=(a_credential(first, spki_sha256=b"p" * 32),))
    await save(store, (None, first))
    other = a_device("sn-1" if what == "serial" else "sn-2", device_id="other")
    credential_id = "c" * 32 if what == "credential" else "d" * 32
    spki = b"p" * 32 if what == "spki" else b"q" * 32
    if what != "serial":
        other = replace(other, credentials=(a_credential(other, credential_id, spki_sha256=spki),))
    with pytest.raises(REFUSED):
        await save(store, (None, other))
    assert (await load(store, **serial_of(first))).by_serial[GROUP.group_id, "sn-1"] == first


async def test_a_credential_cannot_be_left_out_of_a_save(store):
    device = a_device()
    full = replace(device, credentials=(a_credential(device),))
    await save(store, (None, full))
    with pytest.raises(REFUSED):
        await save(store, (full, device))


async def test_spki_hashes_in_use_are_named(store):
    device = a_device()
    await save(store, (None, replace(device, credentials=(a_credential(device, spki_sha256=b"p" * 32),))))
    assert (await load(store, spki=[b"p" * 32, b"q" * 32])).spki_in_use == {b"p" * 32}


async def test_the_key_of_a_revoked_certificate_is_in_use_although_its_credential_is_forgotten(store):
    device = a_device()
    certificate = {"kind": CredentialKind.X509, "spki_sha256": b"p" * 32, "certificate_serial": "af"}
    live = replace(device, credentials=(a_credential(device, **certificate),))
    await save(store, (None, live))
    dropped = replace(live.credentials[0], state=CredentialState.DROPPED, dropped_at=NOW, revoked_at=NOW)
    await save(store, (live, replace(live, credentials=(dropped,))))
    await forget_dropped(store)
    assert (await load(store, spki=[b"p" * 32, b"q" * 32])).spki_in_use == {b"p" * 32}


async def forget_dropped(store):
    """As the clock does, a while after a credential was dropped."""
    if isinstance(store, FakeStore):
        store.devices = {key: replace(one, credentials=()) for key, one in store.devices.items()}
    else:
        assert await Upkeep(store._database).delete_dropped(NOW + timedelta(days=1)) == 1


async def test_numbers_go_on_from_where_they_were_saved(store):
    await save(store, numbers={PRODUCT.product_id: 18})
    assert (await load(store)).next_numbers == {PRODUCT.product_id: 18}


async def test_an_error_inside_a_batch_takes_everything_back(store):
    async def saves_and_fails():
        async with store.batch() as batch:
            await batch.save(Changes(devices=((None, a_device()),), numbers={PRODUCT.product_id: 9}))
            raise LookupError

    with pytest.raises(LookupError):
        await saves_and_fails()
    loaded = await load(store, **serial_of(a_device()))
    assert not loaded.by_serial
    assert loaded.next_numbers == {PRODUCT.product_id: 1}


async def test_a_batch_sees_what_it_has_saved(store):
    async with store.batch() as batch:
        await batch.save(Changes(devices=((None, a_device()),)))
        assert (await batch.load(**serial_of(a_device()))).by_serial


async def test_256_devices_go_through_one_load_and_one_save(store):
    devices = [a_device(f"sn-{n}") for n in range(256)]
    await save(store, *((None, one) for one in devices))
    pairs = [(one, replace(one, boot_count=n)) for n, one in enumerate(devices)]
    steps = tuple(Trace(GROUP.group_id, one.serial, NOW, "0" * 16, "activate", "activated") for one in devices)
    await save(store, *pairs, traces=steps, counters={"activated": 256})
    loaded = await load(store, serials=[(GROUP.group_id, one.serial) for one in devices])
    assert {one.boot_count for one in loaded.by_serial.values()} == set(range(256))
