"""Products and groups: what operators may make, and what is refused."""

from __future__ import annotations

import pytest

from service.domain.group import Group, KeyKind, Reactivation
from service.errors import Secret
from service.operations import groups, products
from service.storage.store import SqlStore
from service.storage.upkeep import Upkeep
from tests.support.refusals import refused, refused_now
from tests.support.storage import PRODUCT


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
