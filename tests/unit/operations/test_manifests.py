"""Manifests out of files: their order, their signatures, where their bytes go, and what no device could work with."""

from __future__ import annotations

import hashlib
import sqlite3

import pytest

from device_sdk.wire import limits
from service.domain.manifest import Need
from service.errors import ServiceError
from service.operations import builds, manifests, releases
from service.storage import manifest_queries, warehouse_queries
from tests.support.builds import IMAGE, ITEMS, SECRET, make, write_build
from tests.support.refusals import refused, refused_now
from tests.support.storage import GROUP, NOW, PRODUCT
from tests.support.warehouse import Warehouse


def one(name="app", kind="software", version="1", data=b"x", needs=()):
    return (name, kind, version, data, needs)


async def test_a_build_becomes_a_manifest_in_the_order_of_installation(database, images, key, trusted, tmp_path):
    made = await make(database, images, write_build(tmp_path), key)
    assert [item.name for item in made.items] == ["runtime", "app", "menu", "ca", "wifi"]
    runtime, app, _, _, wifi = made.items
    assert (runtime.content, runtime.size) == (b"runtime" * 100, 700)
    assert (app.image_id, app.content, app.needs) == (
        hashlib.sha256(IMAGE).hexdigest(),
        None,
        (Need("runtime", "1.2"),),
    )
    assert images.verify(app.image_id) == len(IMAGE)
    assert wifi.secret.reveal() == SECRET
    assert (made.head.static, made.head.items, made.head.created_at) == (False, 5, NOW)
    assert await make(database, images, tmp_path / "build.toml", key) == made
    (listed,) = await manifests.list_all(database, PRODUCT.product_id)
    assert await manifests.show(database, PRODUCT.product_id, listed.manifest_id) == made


async def test_a_secret_is_readable_in_no_file(database, images, key, trusted, tmp_path):
    await make(database, images, write_build(tmp_path), key)
    await database.close()
    for path in tmp_path.rglob("*"):
        if path.is_file() and path.name != "wifi.bin":
            assert SECRET not in path.read_bytes(), path
    connection = sqlite3.connect(database.path)
    assert connection.execute("SELECT count(*) FROM manifest_secret").fetchone() == (1,)
    connection.close()


@pytest.mark.parametrize(
    ("items", "words"),
    [
        ((one(needs=("b>=1",)), one("b", needs=("app>=1",))), "each waits for another: app, b"),
        ((one(needs=("b>=1.10",)), one("b", version="1.9")), "app needs b>=1.10, the manifest has 1.9"),
        ((one(needs=("b>=1",)),), "app needs b, which is not in the manifest"),
        ((one(version="1.x"),), "'1.x' is no version"),
        ((one("a b"),), "an item's name is"),
        ((one(data=b""),), "has no bytes"),
        (tuple(one(f"item-{number}") for number in range(limits.MAX_ITEMS + 1)), "1 to 40 items"),
    ],
)
async def test_what_no_device_could_install_is_refused_with_the_reason(
    database, images, key, trusted, tmp_path, items, words
):
    path = write_build(tmp_path, items)
    with pytest.raises(Exception, match=words) as caught:
        await make(database, images, path, key)
    assert caught.value.cause == "manifest_illegal"
    assert await manifests.list_all(database) == []


async def test_a_document_that_fits_no_message_is_refused(database, images, key, trusted, tmp_path):
    needs = tuple(f"{'n' * 60}-{number}>=1" for number in range(12))
    items = [one(f"{'n' * 60}-{number}") for number in range(12)]
    items += [one(f"{'m' * 60}-{number}", needs=needs) for number in range(25)]
    assert await refused(make(database, images, write_build(tmp_path, items), key)) == (
        "BAD_REQUEST",
        "manifest_illegal",
    )


def test_a_description_that_is_none_is_refused(tmp_path):
    path = write_build(tmp_path, [one()])
    text = path.read_text()
    for broken, cause in (
        ("", "build_malformed"),
        ("[[item]", "build_malformed"),
        (text + "size = 1\n", "build_malformed"),
        (text.replace("software", "hardware"), "build_malformed"),
        (text.replace("needs = []", 'needs = ["b"]'), "build_malformed"),
        (text.replace("needs = []", 'needs = ["b=1"]'), "build_malformed"),
        (text + text, "build_malformed"),
        (text.replace("app.bin", "none.bin"), "build_unreadable"),
    ):
        path.write_text(broken)
        assert refused_now(builds.read, path) == cause, broken
    path.write_bytes(b"\xff")
    assert refused_now(builds.read, path) == "build_malformed"
    assert refused_now(builds.read, tmp_path / "none.toml") == "build_unreadable"
    path = write_build(tmp_path, [one(kind="secret", data=b"x" * (limits.MAX_SECRET_BYTES + 1))])
    assert refused_now(builds.read, path) == "build_size"


async def test_an_item_may_have_16_kib_in_the_manifest_and_more_as_an_image(database, images, key, trusted, tmp_path):
    items = [one("a", data=b"a" * limits.MAX_INLINE_BYTES), one("b", data=b"b" * (limits.MAX_INLINE_BYTES + 1))]
    items.append(one("s", kind="secret", data=b"s" * limits.MAX_INLINE_BYTES))
    items.append(one("t", kind="secret", data=b"t" * (limits.MAX_INLINE_BYTES + 1)))
    made = await make(database, images, write_build(tmp_path, items), key)
    assert [item.image_id is not None for item in made.items] == [False, True, False, False]
    assert [item.is_sealed_image for item in made.items] == [False, False, False, True]
    assert made.items[3].secret.reveal() == b"t" * (limits.MAX_INLINE_BYTES + 1)
    assert list(images.stored()) == [made.items[1].image_id]  # a secret is no file


async def test_the_secrets_of_a_manifest_have_4_mib_together(database, images, key, trusted, tmp_path):
    full = [one(f"s{n}", kind="secret", data=bytes([n]) * limits.MAX_SECRET_BYTES) for n in range(4)]
    parts = builds.read(write_build(tmp_path, full))
    signatures = builds.sign(parts, key, product=PRODUCT.name)
    one_more = builds.read(write_build(tmp_path, [*full, one("a", kind="secret")]))
    more = builds.sign(one_more, key, product=PRODUCT.name)
    given = {"product_id": PRODUCT.product_id, "static": False, "now": NOW}
    refusal = manifests.build(database, images, name="more", parts=one_more, signatures=more, **given)
    assert await refused(refusal) == ("BAD_REQUEST", "manifest_illegal")
    assert await manifests.build(database, images, name="full", parts=parts, signatures=signatures, **given)


async def test_every_item_is_signed_for_this_product_by_a_key_that_is_trusted(database, images, key, trusted, tmp_path):
    parts = builds.read(write_build(tmp_path))
    good = builds.sign(parts, key, product=PRODUCT.name)
    other = tmp_path / "other.pem"
    releases.keygen(other)

    async def taken(signatures):
        return await manifests.build(
            database, images, product_id=PRODUCT.product_id, name="b", parts=parts, signatures=signatures, now=NOW
        )

    assert await refused(taken({name: of for name, of in good.items() if name != "ca"})) == (
        "BAD_REQUEST",
        "signature_missing",
    )
    for wrong, cause in (
        (builds.sign(parts, other, product=PRODUCT.name), "release_key_unknown"),
        (builds.sign(parts, key, product="Other"), "signature_wrong"),
        ({**good, "ca": good["app"]}, "signature_wrong"),
    ):
        assert (await refused(taken(wrong)))[1] == cause
    await releases.retire_key(database, trusted.name, now=NOW)
    assert (await refused(taken(good)))[1] == "release_key_retired"


def test_signatures_travel_in_a_file(tmp_path, key):
    parts = builds.read(write_build(tmp_path))
    signed = builds.sign(parts, key, product=PRODUCT.name)
    path = tmp_path / "build.sig.json"
    path.write_text(builds.signatures_text(signed))
    assert builds.read_signatures(path) == signed
    for broken in (
        "",
        "{}",
        "[]",
        '{"format": "x", "items": {}}',
        path.read_text().replace('"signature": "', '"signature": "!'),
    ):
        path.write_text(broken)
        assert refused_now(builds.read_signatures, path) == "signature_malformed"


async def test_bytes_that_changed_after_they_were_signed_are_refused(database, images, key, trusted, tmp_path):
    for name, cause in (("runtime", "build_changed"), ("app", "image_mismatch")):
        path = write_build(tmp_path)
        parts = builds.read(path)
        signatures = builds.sign(parts, key, product=PRODUCT.name)
        file = tmp_path / f"{name}.bin"
        file.write_bytes(file.read_bytes()[:-1] + b"!")
        made = manifests.build(
            database, images, product_id=PRODUCT.product_id, name="b", parts=parts, signatures=signatures, now=NOW
        )
        assert (await refused(made))[1] == cause


async def test_a_product_has_one_static_manifest_and_a_type_may_have_its_own(
    database, images, key, trusted, tmp_path, commands
):
    house = Warehouse(commands)
    await house.done("create-type", types=[{"name": "tablet", "group": GROUP.group_id}])

    async def given():
        async with database.read() as connection:
            types = await warehouse_queries.device_types(connection)
            return (await manifest_queries.ids_for(connection, types.values())).get("tablet")

    assert await given() is None
    first = await make(database, images, write_build(tmp_path), key, "first", static=True)
    assert await given() == first.head.manifest_id
    second = await make(database, images, write_build(tmp_path, ITEMS[1:2]), key, "second", static=True)
    assert await given() == second.head.manifest_id
    assert [(of.name, of.static) for of in await manifests.list_all(database)] == sorted(
        [("first", False), ("second", True)], key=lambda of: (first if of[0] == "first" else second).head.manifest_id
    )
    await house.done("set-type", type="tablet", manifest="first")
    assert await given() == first.head.manifest_id
    await house.done("set-type", type="tablet", manifest="")
    assert await given() == second.head.manifest_id


async def test_a_name_stands_for_one_manifest_for_ever(database, images, key, trusted, tmp_path):
    await make(database, images, write_build(tmp_path), key)
    other = make(database, images, write_build(tmp_path, ITEMS[1:2]), key)
    assert await refused(other) == ("CONFLICT", "manifest_exists")
    assert await refused(manifests.show(database, PRODUCT.product_id, "none")) == ("NOT_FOUND", "manifest_unknown")
    unknown = make(database, images, tmp_path / "build.toml", key, product_id="none")
    assert await refused(unknown) == ("NOT_FOUND", "product_unknown")


async def test_a_release_key_is_not_retired_under_a_manifest_that_stage_gives(
    database, images, key, trusted, tmp_path, commands
):
    house = Warehouse(commands)
    await make(database, images, write_build(tmp_path), key, "first", static=True)
    with pytest.raises(ServiceError, match=f"manifest first \\(target of product {PRODUCT.product_id}"):
        await releases.retire_key(database, trusted.name, now=NOW)
    await house.done("create-type", types=[{"name": "tablet", "group": GROUP.group_id, "manifest": "first"}])
    other = tmp_path / "other.pem"
    releases.keygen(other)
    public = releases.read_public_key(other.with_name("other.pem.pub"))
    await releases.add_key(database, public, "other", now=NOW, unendorsed=True)
    await make(database, images, write_build(tmp_path, ITEMS[1:2]), other, "second", static=True)
    with pytest.raises(ServiceError, match=r"manifest first \(target of device type tablet"):
        await releases.retire_key(database, trusted.name, now=NOW)
    await house.done("set-type", type="tablet", manifest="")
    await releases.retire_key(database, trusted.name, now=NOW)
    assert await house.results("set-type", type="tablet", manifest="first") == ["release_key_retired"]
    again = [{"name": "kiosk", "group": GROUP.group_id, "manifest": "first"}]
    assert await house.results("create-type", types=again) == ["release_key_retired"]
