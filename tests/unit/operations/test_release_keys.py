"""Release keys that the service trusts: added once, retired when no target needs them, and told to devices."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import insert, update

from service.domain.changes import Changes
from service.domain.desired import content
from service.errors import ServiceError
from service.operations import endorsing, ous, releases, versions
from service.storage import tables
from service.storage.store import SqlStore
from service.storage.upkeep import Upkeep
from tests.support.refusals import refused
from tests.support.releases import add, sign
from tests.support.rig import Rig
from tests.support.signed_firmware import Ed25519
from tests.support.storage import GROUP, NOW, PRODUCT, a_credential, a_device, a_thing


async def test_a_release_key_is_trusted_once(database, key, trusted, tmp_path):
    rev = await Upkeep(database).catalogue_rev()
    public = releases.read_public_key(key.with_name("release.pem.pub"))
    assert await releases.add_key(database, public, "main", now=NOW) == trusted
    assert await Upkeep(database).catalogue_rev() == rev
    assert await refused(releases.add_key(database, public, "twin", now=NOW)) == ("CONFLICT", "release_key_exists")
    other = releases.keygen(tmp_path / "other.pem")
    assert await refused(releases.add_key(database, other, "main", now=NOW)) == ("CONFLICT", "release_key_exists")
    assert await releases.list_keys(database) == [trusted]


@pytest.mark.usefixtures("trusted")
async def test_a_retired_release_key_signs_nothing_that_is_added_or_made_a_target(database, images, image, key):
    signed = sign(image, key)
    await add(database, images, image, signed)
    rev = await Upkeep(database).catalogue_rev()
    retired = await releases.retire_key(database, "main", now=NOW)
    assert (retired.name, retired.retired_at) == ("main", NOW)
    assert await Upkeep(database).catalogue_rev() == rev + 1
    assert await releases.retire_key(database, "main", now=NOW + timedelta(days=1)) == retired
    assert await Upkeep(database).catalogue_rev() == rev + 1
    assert (await releases.list_keys(database), await releases.all_keys(database)) == ([], [retired])
    gone = ("CONFLICT", "release_key_retired")
    assert await refused(add(database, images, image, signed)) == gone
    assert await refused(add(database, images, image, sign(image, key, name="2.1", seq=3), name="2.1")) == gone
    assert await refused(versions.set_target(database, PRODUCT.product_id, "2.0")) == gone
    assert await refused(target_of_ou(database, signed.version_id)) == gone
    public = releases.read_public_key(key.with_name("release.pem.pub"))
    assert await refused(releases.add_key(database, public, "main", now=NOW)) == gone
    assert await refused(releases.add_key(database, public, "again", now=NOW)) == gone
    assert [one.version.name for one in await versions.list_all(database, PRODUCT.product_id)] == ["2.0"]
    assert await refused(releases.retire_key(database, "other", now=NOW)) == ("NOT_FOUND", "release_key_name_unknown")


async def target_of_ou(database, version_id):
    return await ous.change(database, "acme", {"target_version_id": version_id}, environments=())


async def target_of_group(database, version_id):
    async with database.write() as transaction:
        of_group = update(tables.registration_group).where(tables.registration_group.c.group_id == GROUP.group_id)
        await transaction.connection.execute(of_group.values(target_version_id=version_id))


async def target_of_thing(database, version_id):
    async with database.write() as transaction:
        await transaction.connection.execute(update(tables.thing).values(target_version_id=version_id))


async def target_of_product(database, version_id):
    await versions.set_target(database, PRODUCT.product_id, None if version_id is None else "2.0")


OWNERS = {
    "product thermometer": target_of_product,
    "group line-1": target_of_group,
    "OU acme": target_of_ou,
    "thing thing-of-sn-1": target_of_thing,
}


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("owner", OWNERS)
async def test_a_release_key_is_not_retired_while_a_version_by_it_is_a_target(database, images, image, key, owner):
    device = a_device()
    async with SqlStore(database, {}).batch() as batch:
        await batch.save(Changes(devices=((None, replace(device, thing=a_thing(device))),)))
    added = await add(database, images, image, sign(image, key))
    await OWNERS[owner](database, added.version.version_id)
    with pytest.raises(ServiceError) as caught:
        await releases.retire_key(database, "main", now=NOW)
    assert (caught.value.code, caught.value.cause) == ("CONFLICT", "release_key_in_use")
    assert caught.value.state == {"targets": [f"Thermometer 2.0: {owner}"]}
    assert f"Thermometer 2.0 (target of {owner})" in caught.value.public
    assert len(await releases.list_keys(database)) == 1
    await OWNERS[owner](database, None)
    assert (await releases.retire_key(database, "main", now=NOW)).retired_at == NOW


@pytest.fixture
def told(database):
    """The `trust` of a device's document."""
    store, device = SqlStore(database, {}), a_device()
    device = replace(device, thing=a_thing(device))

    async def trust():
        return content(device, a_credential(device), await store.catalogue(), NOW).get("trust")

    return trust


async def further(database, tmp_path, name, by):
    """A key that the key in that file endorses, registered; returns its file and what was registered."""
    path = tmp_path / f"{name}.pem"
    public = releases.keygen(path)
    endorsement = endorsing.endorse(public.public_key, releases.load_private(by, None))
    return path, await releases.add_key(database, public, name, now=NOW, endorsements=[endorsement])


async def test_a_retired_key_stands_in_no_desired_document_and_the_list_goes_on_being_sent(
    database, key, trusted, told, tmp_path
):
    assert await told() is None
    _, other = await further(database, tmp_path, "other", key)
    assert sorted((await told())["release_keys"]) == sorted([trusted.public_key, other.public_key])
    # An absent list would leave devices with the one they have.
    await releases.retire_key(database, "other", now=NOW)
    assert await told() == {"release_keys": [trusted.public_key]}
    await releases.retire_key(database, "main", now=NOW)
    assert await told() == {"release_keys": []}


def follower(*factory):
    """A device of the SDK with these release keys from the factory."""
    rig = Rig(crypto=Ed25519(), release_keys=factory)
    rig.run(lambda: rig.client.status.state == "online")
    return rig


def follow(rig, trust):
    rig.peer.want(trust=trust)
    rig.push()
    rig.run_for(1)
    return rig.client._context.release_keys


async def test_a_device_follows_from_key_to_key_also_when_it_slept_through_two_exchanges(
    database, key, trusted, told, tmp_path
):
    awake, asleep = follower(trusted.public_key), follower(trusted.public_key)
    second_file, second = await further(database, tmp_path, "second", key)
    assert sorted(follow(awake, await told())) == sorted([trusted.public_key, second.public_key])
    await releases.retire_key(database, "main", now=NOW)
    assert follow(awake, await told()) == [second.public_key]
    _, third = await further(database, tmp_path, "third", second_file)
    await releases.retire_key(database, "second", now=NOW)
    trust = await told()
    assert [one["by"] for one in trust["endorsements"]] == [second.key_id, trusted.key_id]
    assert follow(awake, trust) == [third.public_key]
    assert follow(asleep, trust) == [third.public_key]


async def test_a_key_that_was_put_into_the_database_by_force_is_not_taken_by_devices(database, trusted, told):
    foreign = bytes(32)
    async with database.write() as transaction:
        row = {"key_id": "f" * 32, "public_key": foreign, "name": "foreign", "added_at": 1}
        await transaction.connection.execute(insert(tables.release_key), [row])
        forged = {"key_id": "f" * 32, "by_key_id": trusted.key_id, "signature": bytes(64), "added_at": 1}
        await transaction.connection.execute(insert(tables.endorsement), [forged])
    trust = await told()
    assert foreign in trust["release_keys"]
    assert follow(follower(trusted.public_key), trust) == [trusted.public_key]


async def test_a_further_key_needs_an_endorsement_that_verifies_or_the_word_that_it_has_none(
    database, key, trusted, told, tmp_path
):
    public = releases.keygen(tmp_path / "other.pem")
    stranger_file = tmp_path / "stranger.pem"
    stranger = releases.keygen(stranger_file)

    async def adding(*endorsements, **fields):
        return await releases.add_key(database, public, "other", now=NOW, endorsements=endorsements, **fields)

    good = endorsing.endorse(public.public_key, releases.load_private(key, None))
    by_stranger = endorsing.endorse(public.public_key, releases.load_private(stranger_file, None))
    assert await refused(adding()) == ("CONFLICT", "release_key_not_endorsed")
    assert await refused(adding(replace(good, signature=bytes(64)))) == ("BAD_REQUEST", "endorsement_wrong")
    assert await refused(adding(by_stranger)) == ("NOT_FOUND", "release_key_unknown")
    of_another = endorsing.endorse(stranger.public_key, releases.load_private(key, None))
    assert await refused(adding(of_another)) == ("BAD_REQUEST", "endorsement_other")
    assert await releases.list_keys(database) == [trusted]
    await adding(unendorsed=True)
    assert "endorsements" not in await told()
    rev = await Upkeep(database).catalogue_rev()
    assert await endorsing.add(database, good, now=NOW)
    assert not await endorsing.add(database, good, now=NOW)  # once is enough
    await adding(good)
    assert await Upkeep(database).catalogue_rev() == rev + 1
    assert [one["by"] for one in (await told())["endorsements"]] == [trusted.key_id]
    assert [one.endorsed_by for one in await releases.all_keys(database)] == [(), (trusted.key_id,)]


async def test_a_key_vouches_neither_for_itself_nor_for_one_that_is_unknown(database, key, trusted):
    private = releases.load_private(key, None)
    with pytest.raises(ServiceError, match="itself"):
        endorsing.endorse(trusted.public_key, private)
    assert await refused(endorsing.add(database, endorsing.endorse(bytes(32), private), now=NOW)) == (
        "NOT_FOUND",
        "release_key_unknown",
    )


async def test_no_more_keys_are_trusted_than_a_device_keeps(database, key, trusted, tmp_path):
    for number in range(7):
        await further(database, tmp_path, f"key {number}", key)
    with pytest.raises(ServiceError) as caught:
        await further(database, tmp_path, "one too many", key)
    assert caught.value.cause == "release_keys_full"
    await releases.retire_key(database, "key 0", now=NOW)
    await further(database, tmp_path, "in its place", key)


@pytest.mark.parametrize(
    "change",
    [
        {"format": "another"},
        {"public_key": "AAAA"},
        {"signature": "AAAA"},
        {"signature": "%"},
        {"by": "x"},
        {"by": 1},
        {"public_key": None},
    ],
    ids=str,
)
def test_an_endorsement_file_is_read_strictly(key, change):
    good = endorsing.endorse(bytes(32), releases.load_private(key, None))
    text = json.loads(endorsing.to_json(good))
    assert endorsing.parse(json.dumps(text).encode()) == good
    with pytest.raises(ServiceError) as caught:
        endorsing.parse(json.dumps({**text, **change}).encode())
    assert caught.value.cause == "endorsement_malformed"


def test_an_endorsement_file_that_is_no_json_is_refused():
    for text in (b"", b"{", b"[]", b"\xff", b"[" * 5000):
        with pytest.raises(ServiceError):
            endorsing.parse(text)
