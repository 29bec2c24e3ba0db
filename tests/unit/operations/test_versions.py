"""Signed versions: what is added, what is refused, and what becomes a product's target."""

from __future__ import annotations

from dataclasses import replace

import pytest

from service.domain.changes import Changes
from service.domain.device import Firmware
from service.operations import products, releases, versions
from service.storage.store import SqlStore
from service.storage.upkeep import Upkeep
from tests.support.refusals import refused
from tests.support.releases import add, sign
from tests.support.storage import NOW, PRODUCT, a_device


@pytest.mark.usefixtures("trusted")
async def test_a_signed_version_is_added_and_becomes_the_target(database, images, image, key):
    signed = sign(image, key)
    added = await add(database, images, image, signed, description="faster", target=True)
    assert (added.version.version_id, added.is_target, added.added_at) == (signed.version_id, True, NOW)
    assert images.verify(signed.image_id) == signed.size
    async with SqlStore(database, {}).batch() as batch:
        assert batch.catalogue.products[PRODUCT.product_id].target == added.version
    assert (await products.show(database, PRODUCT.product_id)).target == "2.0"
    # The same again changes nothing but the target.
    assert await add(database, images, image, signed, description="other words") == added
    image.write_bytes(b"next")
    newer = sign(image, key, name="2.1", seq=3)
    await add(database, images, image, newer, name="2.1")
    found = await versions.list_all(database, PRODUCT.product_id)
    assert [(one.version.name, one.is_target) for one in found] == [("2.1", False), ("2.0", True)]


@pytest.mark.usefixtures("trusted")
async def test_a_version_that_is_not_what_was_signed_is_refused(database, images, image, key, tmp_path):
    signed = sign(image, key)
    assert (await refused(add(database, images, image, signed, name="2.1")))[1] == "signature_other"
    assert (await refused(add(database, images, image, signed, product_id="nothing")))[1] == "product_unknown"
    assert (await refused(add(database, images, image, sign(image, key, hardware="rev-z"))))[1] == "signature_other"
    forged = replace(signed, seq=9)
    assert (await refused(add(database, images, image, forged)))[1] == "signature_wrong"
    assert (await refused(add(database, images, image, replace(signed, size=signed.size + 1))))[1] == "signature_wrong"
    other = tmp_path / "other.pem"
    releases.keygen(other)
    assert (await refused(add(database, images, image, sign(image, other))))[1] == "release_key_unknown"
    assert (await refused(add(database, images, tmp_path / "none", signed)))[1] == "image_unreadable"
    image.write_bytes(b"other bytes")
    assert (await refused(add(database, images, image, signed)))[1] == "image_mismatch"
    assert await versions.list_all(database, PRODUCT.product_id) == []
    assert list(images.stored()) == []


@pytest.mark.usefixtures("trusted")
async def test_name_and_seq_stand_for_one_version_of_a_product(database, images, image, key):
    await add(database, images, image, sign(image, key))
    image.write_bytes(b"changed")
    for fields in ({"seq": 2, "name": "2.1"}, {"seq": 3, "name": "2.0"}):
        signed = sign(image, key, **fields)
        said = await refused(add(database, images, image, signed, name=fields["name"]))
        assert said == ("CONFLICT", "version_exists")


@pytest.mark.usefixtures("trusted")
async def test_the_target_can_be_set_and_taken_away(database, images, image, key):
    added = await add(database, images, image, sign(image, key))
    rev = await Upkeep(database).catalogue_rev()
    assert await versions.set_target(database, PRODUCT.product_id, "2.0") == added.version
    assert await Upkeep(database).catalogue_rev() == rev + 1
    assert await versions.set_target(database, PRODUCT.product_id, None) is None
    assert (await products.show(database, PRODUCT.product_id)).target is None
    assert (await refused(versions.set_target(database, PRODUCT.product_id, "9")))[1] == "version_unknown"
    assert (await refused(versions.set_target(database, "nothing", "2.0")))[1] == "product_unknown"


@pytest.mark.usefixtures("trusted")
async def test_a_target_below_what_a_device_has_confirmed_is_refused(database, images, image, key):
    await add(database, images, image, sign(image, key))
    confirmed = a_device(firmware=Firmware(confirmed_seq=3))
    async with SqlStore(database, {}).batch() as batch:
        await batch.save(Changes(devices=((None, confirmed),)))
    assert await refused(versions.set_target(database, PRODUCT.product_id, "2.0")) == ("CONFLICT", "target_seq_lower")
    assert await refused(add(database, images, image, sign(image, key), target=True)) == (
        "CONFLICT",
        "target_seq_lower",
    )
    assert (await products.show(database, PRODUCT.product_id)).target is None
    again = sign(image, key, name="2.0 again", seq=4)
    assert (await add(database, images, image, again, name="2.0 again", target=True)).is_target
