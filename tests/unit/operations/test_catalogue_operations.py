"""Products, groups, release keys and versions: what operators may make, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from sqlalchemy import update

from device_sdk.wire import ids
from service.domain.changes import Changes
from service.domain.desired import content
from service.domain.device import Firmware
from service.domain.group import Group, KeyKind, Reactivation
from service.errors import Secret, ServiceError
from service.images.files import ImageFiles
from service.operations import groups, ous, products, releases, versions
from service.storage import tables
from service.storage.store import SqlStore
from service.storage.upkeep import Upkeep
from tests.support.storage import GROUP, NOW, PRODUCT, a_credential, a_device, a_thing, new_database


@pytest.fixture
async def database(tmp_path):
    opened = await new_database(tmp_path / "firstlight.db")
    yield opened
    await opened.close()


@pytest.fixture
def images(tmp_path):
    return ImageFiles(tmp_path / "images")


async def refused(awaitable):
    with pytest.raises(ServiceError) as caught:
        await awaitable
    return caught.value.code, caught.value.cause


def refused_now(call, *arguments, **options):
    with pytest.raises(ServiceError) as caught:
        call(*arguments, **options)
    return caught.value.cause


def count_up(length):
    return bytes(range(length))


async def create(database, **fields):
    group = Group(**{"group_id": "new", "product_id": PRODUCT.product_id, **fields})
    return await groups.create(database, group, random_bytes=count_up)


async def test_a_product_is_made_once_and_raises_the_catalogue(database):
    rev = await Upkeep(database).catalogue_rev()
    made = await products.create(database, "lamp", "Lamp", "rev-b")
    assert await products.show(database, "lamp") == made
    assert await Upkeep(database).catalogue_rev() == rev + 1
    assert [one.product_id for one in await products.list_all(database)] == ["lamp", "thermometer"]
    assert await refused(products.create(database, "lamp", "Other", "x")) == ("CONFLICT", "product_exists")
    assert await refused(products.create(database, "other", "Lamp", "x")) == ("CONFLICT", "product_exists")
    assert await refused(products.show(database, "nothing")) == ("NOT_FOUND", "product_unknown")
    assert await Upkeep(database).catalogue_rev() == rev + 1


@pytest.mark.parametrize(
    ("values", "cause"),
    [
        (("", "Lamp", "x"), "product_id_illegal"),
        (("a b", "Lamp", "x"), "product_id_illegal"),
        (("lamp", "", "x"), "text_illegal"),
        (("lamp", "L\namp", "x"), "text_illegal"),
        (("lamp", "L" * 129, "x"), "text_illegal"),
        (("lamp", "Lamp", ""), "text_illegal"),
    ],
)
async def test_an_illegal_product_is_refused(database, values, cause):
    assert await refused(products.create(database, *values)) == ("BAD_REQUEST", cause)


async def test_a_group_secret_is_made_for_the_kinds_that_need_one_and_shown_once(database):
    made, secret = await create(database, key_kind=KeyKind.DERIVED)
    assert secret.reveal() == made.secret.reveal() == count_up(32)
    assert (await create(database, group_id="plain"))[1] is None
    given = Secret(b"0123456789abcdef")
    assert (await create(database, group_id="given", key_kind=KeyKind.DERIVED, secret=given))[1] is None
    async with SqlStore(database, {}).batch() as batch:
        assert batch.catalogue.groups["given"].secret == given
        assert batch.catalogue.groups["new"] == made
    assert "***" in repr(await groups.show(database, "given"))
    assert "0123456789abcdef" not in repr(await groups.list_all(database))


@pytest.mark.parametrize(
    ("fields", "code", "cause"),
    [
        ({"group_id": "a/b"}, "BAD_REQUEST", "group_id_illegal"),
        ({"group_id": "line-1"}, "CONFLICT", "group_exists"),
        ({"product_id": "nothing"}, "NOT_FOUND", "product_unknown"),
        ({"key_kind": KeyKind.GROUP}, "BAD_REQUEST", "group_needs_operator"),
        ({"key_kind": KeyKind.GROUP, "reactivation": Reactivation.OPEN}, "BAD_REQUEST", "group_needs_operator"),
        ({"secret": Secret(b"s" * 32)}, "BAD_REQUEST", "group_secret_needless"),
        ({"pending_expiry_s": 59}, "BAD_REQUEST", "pending_expiry_illegal"),
        ({"self_registration": True}, "BAD_REQUEST", "self_registration_illegal"),
        ({"default_ou": "acme//x"}, "BAD_REQUEST", "ou_illegal"),
        ({"default_environment": "prod eu"}, "BAD_REQUEST", "environment_illegal"),
    ],
)
async def test_an_illegal_group_is_refused(database, fields, code, cause):
    assert await refused(create(database, **fields)) == (code, cause)
    assert len(await groups.list_all(database)) == 2


async def test_a_group_of_kind_group_needs_an_operator_for_reactivation(database):
    made, secret = await create(database, key_kind=KeyKind.GROUP, reactivation=Reactivation.OPERATOR)
    assert secret is not None
    assert made.reactivation is Reactivation.OPERATOR


@pytest.mark.parametrize("text", ["", "not base64!", "YWJj", "A" * 400])
def test_a_group_secret_must_be_base64_of_16_bytes_and_more(text):
    assert refused_now(groups.parse_secret, text) == "group_secret_illegal"


def test_the_group_secret_of_azure_s_example_is_taken():
    text = "8isrFI1sGsIlvvFSSFRiMfCNzv21fjbE/+ah/lSh3lF8e2YG1Te7w1KpZhJFFXJrqYKi9yegxkqIChbqOS9Egw=="
    assert len(groups.parse_secret(text)) == 64


# Releases


@pytest.fixture
def key(tmp_path):
    path = tmp_path / "release.pem"
    releases.keygen(path)
    return path


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image.bin"
    path.write_bytes(b"firmware" * 100)
    return path


def sign(image, key, **fields):
    given = {"product": PRODUCT.name, "hardware": PRODUCT.hardware, "name": "2.0", "seq": 2}
    return releases.sign(image, key, **{**given, **fields})


def test_a_release_key_is_private_and_never_overwritten(key):
    assert key.stat().st_mode & 0o777 == 0o600
    before = key.read_bytes()
    assert refused_now(releases.keygen, key) == "release_key_file_exists"
    assert key.read_bytes() == before
    public = releases.read_public_key(key.with_name("release.pem.pub"))
    assert public.key_id == ids.release_key_id(public.public_key)


def test_a_passphrase_is_wanted_where_one_was_given(tmp_path, image, key):
    path = tmp_path / "locked.pem"
    releases.keygen(path, passphrase=Secret(b"correct horse"))
    assert b"ENCRYPTED" in path.read_bytes()
    assert sign(image, path, passphrase=Secret(b"correct horse")).seq == 2
    assert refused_now(sign, image, path) == "release_key_passphrase"
    assert refused_now(sign, image, path, passphrase=Secret(b"wrong")) == "release_key_illegal"
    assert refused_now(sign, image, key, passphrase=Secret(b"needless")) == "release_key_passphrase"


def test_a_key_of_another_kind_does_not_sign(tmp_path, image):
    other = generate_private_key(SECP256R1())
    path = tmp_path / "p256.pem"
    path.write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    assert refused_now(sign, image, path) == "release_key_illegal"
    pem = other.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    for text in (pem, "", "AAAA", "-----BEGIN PUBLIC KEY-----\nxx\n-----END PUBLIC KEY-----"):
        assert refused_now(releases.parse_public_key, text) == "release_key_illegal"


def test_a_signature_file_comes_back_as_it_was(tmp_path, image, key):
    signed = sign(image, key)
    path = tmp_path / "image.sig"
    path.write_text(signed.to_json())
    assert releases.read_signature(path) == signed
    assert json.loads(path.read_text())["version_id"] == signed.version_id


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"format": "other"}, "signature_malformed"),
        ({"seq": "2"}, "seq_illegal"),
        ({"seq": True}, "seq_illegal"),
        ({"seq": -1}, "seq_illegal"),
        ({"size": 0}, "signature_malformed"),
        ({"size": 1.5}, "signature_malformed"),
        ({"product": 7}, "signature_malformed"),
        ({"name": ""}, "text_illegal"),
        ({"image_id": "xyz"}, "signature_malformed"),
        ({"image_id": None}, "signature_malformed"),
        ({"signature": "%%%"}, "signature_malformed"),
        ({"signature": None}, "signature_malformed"),
    ],
)
def test_a_malformed_signature_file_is_refused(tmp_path, image, key, change, cause):
    path = tmp_path / "image.sig"
    path.write_text(json.dumps({**json.loads(sign(image, key).to_json()), **change}))
    assert refused_now(releases.read_signature, path) == cause


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format": 1}', "[" * 50_000])
def test_what_is_no_signature_file_is_refused(tmp_path, text):
    path = tmp_path / "image.sig"
    path.write_text(text)
    assert refused_now(releases.read_signature, path) == "signature_malformed"
    assert refused_now(releases.read_signature, tmp_path / "none") == "signature_unreadable"


@pytest.fixture
async def trusted(database, key):
    public = releases.read_public_key(key.with_name("release.pem.pub"))
    return await releases.add_key(database, public, "main", now=NOW)


async def add(database, images, image, signature, **fields):
    given = {"product_id": PRODUCT.product_id, "name": "2.0", "image_path": image, "signature": signature, "now": NOW}
    return await versions.add(database, images, **{**given, **fields})


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


def test_an_empty_or_missing_image_is_not_signed(tmp_path, image, key):
    image.write_bytes(b"")
    assert refused_now(sign, image, key) == "image_empty"
    assert refused_now(sign, tmp_path / "none", key) == "image_unreadable"
    assert refused_now(sign, image, key, seq=-1) == "seq_illegal"


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
