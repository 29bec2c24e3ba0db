"""Set-top boxes over HTTP: every code of the partner's interface, by a client that is not ours."""

from __future__ import annotations

import base64
import json
import logging
import os
from datetime import UTC, datetime

import httpx
import pytest
from sqlalchemy import select

from service.operations.partners import boxes, services
from service.storage.box_tables import box, box_key
from service.storage.tables import device_public_key
from tests.support.partner_site import EMAIL, LINK, NAME, eight_keys, partner_site, public_key

OTHER = "other@example.com"
IMPORT = "/api/management/stb/import"


def now():
    return datetime.now(UTC)


@pytest.fixture
async def site(tmp_path):
    async with partner_site(tmp_path) as made:
        yield made


async def everything(site):
    async with site.database.read() as connection:
        return [(await connection.execute(select(table))).all() for table in (box, box_key, device_public_key)]


def error(response):
    assert response.status_code == 400, response.text
    found = response.json()
    assert set(found) == {"error"}
    assert set(found["error"]) == {"code", "text"}
    return found["error"]["code"]


async def test_a_sale_links_a_box_that_was_unknown_and_keeps_its_keys_in_order(site):
    keys = eight_keys()
    answer = await site.link(public_keys=keys, chipset_id="A1", mac="00:11:22:33:44:55")
    assert answer.status_code == 200
    assert answer.json() == {"id": "1", "serial_no": "DNA-STB0001", "user": {"id": "1", "email": EMAIL}}
    async with site.database.read() as connection:
        query = select(device_public_key.c.key_index, device_public_key.c.spki).order_by(device_public_key.c.key_index)
        stored = (await connection.execute(query)).all()
    assert [index for index, _ in stored] == list(range(8))
    assert [boxes.registration.parse_public_key(0, text).spki for text in keys.split(";")] == [s for _, s in stored]


@pytest.mark.parametrize("how", ["query", "form", "header and query", "multipart"])
async def test_parameters_come_as_query_or_as_form_and_the_token_as_header(site, how):
    fields = site.sale()
    token = fields.pop("service_token")
    if how == "query":
        answer = await site.client.post(LINK, params={**fields, "service_token": token})
    elif how == "form":
        answer = await site.client.post(LINK, data={**fields, "service_token": token})
    elif how == "multipart":
        parts = {name: (None, value) for name, value in {**fields, "service_token": token}.items()}
        answer = await site.client.post(LINK, files=parts)
    else:
        wrong = {**fields, "service_token": "of no account where there is a header"}
        answer = await site.client.post(LINK, params=wrong, headers={"Service-Token": token})
    assert answer.status_code == 200, answer.text


async def test_a_plus_that_was_not_escaped_in_a_query_is_understood(site):
    keys = eight_keys()
    while "+" not in keys:
        keys = eight_keys()
    fields = site.sale(public_keys="KEYS")
    query = "&".join(f"{name}={value}" for name, value in fields.items()).replace("KEYS", keys)
    assert (await site.client.post(f"{LINK}?{query}")).status_code == 200


@pytest.mark.parametrize("header", [True, False])
async def test_a_wrong_token_gets_401_without_a_body(site, header):
    fields = site.sale(service_token="wrong")
    headers = {"Service-Token": "wrong"} if header else {}
    answer = await site.client.post(LINK, data=fields, headers=headers)
    assert (answer.status_code, answer.content) == (401, b"")


async def test_a_service_that_is_disabled_or_has_a_new_token_is_nobody(site):
    await services.disable(site.database, NAME, now=now())
    assert (await site.link()).status_code == 401
    await services.enable(site.database, NAME)
    await services.rotate(site.database, NAME, now=now(), random_bytes=lambda count: b"n" * count)
    assert (await site.link()).status_code == 401


async def test_outside_of_the_address_list_the_answer_is_exactly_that(tmp_path):
    async with partner_site(tmp_path, allowed="192.0.2.0/24") as site:
        answer = await site.link()
        assert answer.status_code == 400
        expected = {"error": {"code": 9, "text": "Access to this resource is locked to IP addresses"}}
        assert answer.json() == expected
        # A client may say what it likes of its address.
        forged = await site.client.post(LINK, data=site.sale(), headers={"X-Forwarded-For": "192.0.2.7"})
        assert forged.json() == expected


async def test_a_listed_proxy_may_say_for_whom_it_asks(tmp_path):
    async with partner_site(tmp_path, allowed="192.0.2.0/24", trusted_proxies=["127.0.0.1/32"]) as site:
        asked = await site.client.post(LINK, data=site.sale(), headers={"X-Forwarded-For": "192.0.2.7"})
        assert asked.status_code == 200
        assert error(await site.link(serial_no="DNA-2")) == 9


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"service_token": None}, 1426),
        ({"serial_no": None}, 1426),
        ({"serial_no": "not a serial"}, 1426),
        ({"serial_no": "S" * 65}, 1426),
        ({"email": None}, 1426),
        ({"public_keys": "x"}, 1426),
        ({"public_keys": ";".join(["AAAA"] * 8)}, 1426),
        ({"public_keys": ";".join(public_key() for _ in range(7))}, 1426),
        ({"public_keys": ";".join(public_key() for _ in range(9))}, 1426),
        ({"public_keys": ";".join([public_key()] * 8)}, 1434),
        ({"chipset_id": "c" * 33}, 1427),
        ({"mac": "0" * 19}, 1428),
        ({"email": "no address"}, 1436),
        ({"email": "nobody@example.com"}, 1414),
        # The order: what is missing before lengths, lengths before the address's form, its form before its user.
        ({"serial_no": None, "email": "no address", "mac": "0" * 19}, 1426),
        ({"chipset_id": "c" * 33, "mac": "0" * 19, "email": "no address"}, 1427),
        ({"mac": "0" * 19, "email": "no address"}, 1428),
    ],
)
async def test_what_is_missing_or_wrong_has_its_code_and_changes_nothing(site, fields, code):
    assert error(await site.link(**fields)) == code
    assert await everything(site) == [[], [], []]


async def test_a_service_may_allow_fewer_keys_than_eight(site):
    made = {"min_keys": 2, "now": now(), "random_bytes": lambda count: b"f" * count}
    token = (await services.create(site.database, "few", "boxes", **made)).reveal().decode()
    await services.allow_address(site.database, "few", "127.0.0.1", now=now())
    await services.add_user(site.database, "few", EMAIL, now=now())
    for count, status in ((1, 400), (2, 200), (3, 200), (8, 200), (9, 400)):
        keys = ";".join(public_key() for _ in range(count))
        answer = await site.link(service_token=token, serial_no=f"F-{count}", public_keys=keys)
        assert answer.status_code == status, count
        if status == 400:
            assert error(answer) == 1426
            assert "2 to 8 keys" in answer.json()["error"]["text"]


async def test_a_sale_may_have_up_to_a_mebibyte_and_no_more(site):
    fields = site.sale()
    length = len(str(httpx.QueryParams({**fields, "note": ""})))
    over = await site.client.post(LINK, data={**fields, "note": "n" * (1024 * 1024 - length + 1)})
    assert (over.status_code, over.json()["error"]["code"]) == (413, 9413)
    assert await everything(site) == [[], [], []]
    assert (await site.client.post(LINK, data={**fields, "note": "n" * (1024 * 1024 - length)})).status_code == 200
    long = await site.link(serial_no="DNA-2", public_keys="A" * 1_000_000)
    assert error(long) == 1426  # however long the parameter is, it is read
    assert error(await site.link(serial_no="DNA-2", public_keys=";".join("A" * 100_000 for _ in range(8)))) == 1426


async def test_a_serial_of_a_device_that_is_no_box_is_taken(site):
    spki = boxes.registration.parse_public_key(0, public_key())
    asked = [boxes.registration.Registration("boxes", "DNA-STB0001", public_keys=(spki,))]
    await boxes.registration.register_page(site.database, asked, now=now(), random_bytes=os.urandom)
    before = await everything(site)
    for _ in range(2):
        assert error(await site.link()) == 1434
    listed = {"boxes": [{"serial_no": "DNA-STB0001", "public_keys": [public_key()]}]}
    answer = await site.client.post(IMPORT, json=listed, headers={"Service-Token": site.token})
    assert answer.json()["boxes"][0]["error"] == {"code": 1434, "text": "record already exists for value: serial_no"}
    assert await everything(site) == before


async def test_a_box_is_linked_once_and_a_retry_is_told_so(site):
    await services.add_user(site.database, NAME, OTHER, now=now())
    keys = eight_keys()
    assert (await site.link(public_keys=keys)).status_code == 200
    before = await everything(site)
    assert error(await site.link(public_keys=keys)) == 1433
    assert error(await site.link(public_keys=keys, email="STB_USER@example.com")) == 1433
    assert error(await site.link(public_keys=keys, email=OTHER)) == 1435
    assert await everything(site) == before


async def test_a_key_or_a_mac_of_another_box_is_taken(site):
    keys = eight_keys()
    assert (await site.link(public_keys=keys, mac="00:11:22:33:44:55")).status_code == 200
    mixed = ";".join([*(public_key() for _ in range(7)), keys.split(";")[3]])
    assert error(await site.link(serial_no="DNA-2", public_keys=mixed)) == 1434
    assert error(await site.link(serial_no="DNA-2", mac="00-11-22-33-44-55")) == 1434
    assert error(await site.link(serial_no="DNA-2", mac="001122334455")) == 1434
    assert (await site.link(serial_no="DNA-2", mac="00:11:22:33:44:56")).status_code == 200


async def test_a_factory_s_box_takes_the_keys_of_its_sale(site):
    listed = {"boxes": [{"serial_no": "DNA-STB0001", "public_keys": [public_key()], "mac": "aa:bb"}]}
    headers = {"Service-Token": site.token}
    answer = await site.client.post(IMPORT, json=listed, headers=headers)
    assert answer.json() == {"boxes": [{"serial_no": "DNA-STB0001", "result": "imported", "error": None}]}
    again = await site.client.post(IMPORT, json=listed, headers=headers)
    assert again.json()["boxes"][0]["result"] == "already_imported"
    sold = await site.link()
    assert sold.json()["id"] == "1"
    (boxes_, keys, of_device) = await everything(site)
    assert len(boxes_) == 1
    assert len(keys) == len(of_device) == 8
    other = await site.client.post(IMPORT, json=listed, headers=headers)
    assert other.json()["boxes"][0]["error"]["code"] == 1434  # it is another box by now


async def test_a_wrong_box_in_the_factory_s_list_refuses_no_other(site):
    good = {"serial_no": "A-1", "public_keys": f"{public_key()};{public_key()}"}
    listed = {"boxes": [good, {"serial_no": "A-2", "public_keys": []}, {"serial_no": "A-3", "public_keys": ["x"]}, {}]}
    headers = {"Service-Token": site.token}
    answer = (await site.client.post(IMPORT, json=listed, headers=headers)).json()["boxes"]
    assert [one["result"] for one in answer] == ["imported", "error", "error", "error"]
    assert {one["error"]["code"] for one in answer[1:]} == {1426}
    assert len((await everything(site))[1]) == 2


@pytest.mark.parametrize("joined", [True, False])
async def test_a_factory_s_keys_keep_their_order_and_are_eight_at_most(site, joined):
    keys = [public_key() for _ in range(8)]
    nine = [public_key() for _ in range(9)]
    given = [";".join(one) if joined else one for one in (keys, nine, keys[:1] * 2)]
    listed = {"boxes": [{"serial_no": f"A-{at}", "public_keys": one} for at, one in enumerate(given)]}
    answer = await site.client.post(IMPORT, json=listed, headers={"Service-Token": site.token})
    assert [one["error"] and one["error"]["code"] for one in answer.json()["boxes"]] == [None, 1426, 1434]
    async with site.database.read() as connection:
        for table in (box_key, device_public_key):
            rows = await connection.execute(select(table.c.key_index, table.c.spki).order_by(table.c.key_index))
            assert list(rows) == [(index, base64.b64decode(key)) for index, key in enumerate(keys)]


async def test_an_unlinked_box_can_be_sold_again(site):
    await services.add_user(site.database, NAME, OTHER, now=now())
    assert (await site.link()).status_code == 200
    await boxes.unlink(site.database, NAME, "DNA-STB0001")
    assert (await site.link(email=OTHER)).status_code == 200


async def test_users_are_made_once(site):
    first = await site.client.post("/api/management/user", data={"service_token": site.token, "email": OTHER})
    again = await site.client.post("/api/management/user", params={"service_token": site.token, "email": OTHER})
    assert first.json() == again.json() == {"id": "2", "email": OTHER}
    wrong = await site.client.post("/api/management/user", params={"service_token": site.token, "email": "@"})
    assert error(wrong) == 1436


async def test_one_service_knows_nothing_of_another_s_boxes(site):
    token = await services.create(site.database, "radio", "boxes", now=now(), random_bytes=lambda n: b"r" * n)
    await services.allow_address(site.database, "radio", "127.0.0.1", now=now())
    assert (await site.link()).status_code == 200
    theirs = await site.link(service_token=token.reveal().decode())
    assert error(theirs) == 1414  # not even the user is theirs


async def test_tokens_and_keys_are_in_no_log(site, caplog):
    caplog.set_level(logging.DEBUG)
    fields = site.sale()
    await site.client.post(LINK, params=fields)
    await site.client.post(LINK, data={**fields, "service_token": "wrong-token-of-somebody"})
    said = json.dumps([record.getMessage() for record in caplog.records if not record.name.startswith("http")])
    assert site.token not in said
    assert "wrong-token-of-somebody" not in said
    assert fields["public_keys"][:40] not in said


@pytest.mark.parametrize(
    "raw",
    [
        "00" * 32,
        "01" + "00" * 31,
        "ed" + "ff" * 31,
        "c7176a70" + "3d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    ],
)
async def test_a_key_for_which_anybody_can_sign_is_no_key(site, raw):
    spki = base64.b64encode(bytes.fromhex("302a300506032b6570032100" + raw)).decode()
    keys = ";".join([*(public_key() for _ in range(7)), spki])
    assert error(await site.link(public_keys=keys)) == 1426
