"""Release keys that the service trusts: added once, retired when no target needs them, and told to devices."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import update

from service.domain.changes import Changes
from service.domain.desired import content
from service.errors import ServiceError
from service.operations import ous, releases, versions
from service.storage import tables
from service.storage.store import SqlStore
from service.storage.upkeep import Upkeep
from tests.support.refusals import refused
from tests.support.releases import add, sign
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


async def test_a_retired_key_stands_in_no_desired_document_and_the_list_goes_on_being_sent(database, trusted, tmp_path):
    store, device = SqlStore(database, {}), a_device()
    device = replace(device, thing=a_thing(device))
    other = releases.keygen(tmp_path / "other.pem")

    async def told():
        return content(device, a_credential(device), await store.catalogue(), NOW).get("trust")

    assert await told() is None
    await releases.add_key(database, other, "other", now=NOW)
    assert sorted((await told())["release_keys"]) == sorted([trusted.public_key, other.public_key])
    # An absent list would leave devices with the one they have.
    await releases.retire_key(database, "other", now=NOW)
    assert await told() == {"release_keys": [trusted.public_key]}
    await releases.retire_key(database, "main", now=NOW)
    assert await told() == {"release_keys": []}
