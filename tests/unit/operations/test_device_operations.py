"""Registration, imports, lists, and an operator's word on one device."""

from __future__ import annotations

import base64
import csv
import json
import os
from collections import Counter
from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, SECP384R1
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as new_ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from service.domain.changes import Changes
from service.domain.credential import CredentialState
from service.domain.device import DeviceState, KeyAlgorithm
from service.domain.group import Group, KeyKind
from service.errors import Secret, ServiceError
from service.operations import devices, groups, imports, registration, stats, traces
from service.operations.registration import Registration, Result
from service.operations.selectors import Selector
from service.storage.store import SqlStore
from tests.support.storage import DERIVED, GROUP, NOW, PRODUCT, a_credential, a_device, a_thing, new_database

KEY = base64.b64encode(bytes(range(32))).decode()


def public_text(private):
    return base64.b64encode(private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()


ED25519, P256, P384 = (
    public_text(one) for one in (Ed25519PrivateKey.generate(), new_ec(SECP256R1()), new_ec(SECP384R1()))
)


def rsa_text(bits):
    """A public key of this size; nobody has its private one, and making one takes seconds."""
    public = RSAPublicNumbers(65537, (1 << (bits - 1)) + 1).public_key()
    return base64.b64encode(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()


@pytest.fixture
async def database(tmp_path):
    opened = await new_database(tmp_path / "firstlight.db")
    public = Group("public", PRODUCT.product_id, KeyKind.PUBLIC_KEY)
    await groups.create(opened, public, random_bytes=os.urandom)
    yield opened
    await opened.close()


async def refused(awaitable):
    with pytest.raises(ServiceError) as caught:
        await awaitable
    return caught.value.code, caught.value.cause


async def register(database, group_id=GROUP.group_id, serial="sn-1", **fields):
    asked = Registration(group_id, serial, **fields)
    return await registration.register(database, asked, now=NOW, random_bytes=os.urandom)


async def test_a_device_without_a_key_gets_one_and_it_is_returned_once(database):
    outcome = await register(database)
    assert outcome.result is Result.REGISTERED
    shown = await devices.show(database, "line-1/sn-1")
    assert shown.key == outcome.new_key
    assert len(outcome.new_key) == 32
    assert (shown.state, shown.registered_at) == (DeviceState.REGISTERED, NOW)
    again = await register(database)
    assert (again.result, again.new_key) == (Result.ALREADY_REGISTERED, None)
    assert (await devices.show(database, "sn-1")).device_id == shown.device_id


async def test_the_same_data_again_is_no_error_and_other_data_is(database):
    given = {"key": registration.parse_key(KEY), "ou": "acme/x", "environment": "prod"}
    assert (await register(database, **given)).new_key is None
    assert (await register(database, **given)).result is Result.ALREADY_REGISTERED
    for change in ({"key": Secret(b"o" * 32)}, {"ou": None}, {"environment": "test"}):
        assert await refused(register(database, **{**given, **change})) == ("CONFLICT", "serial_conflict")


async def test_the_same_serial_in_two_groups_is_two_devices(database):
    await register(database)
    await register(database, DERIVED.group_id)
    assert await refused(devices.show(database, "sn-1")) == ("CONFLICT", "serial_ambiguous")
    assert (await devices.show(database, "line-2/sn-1")).key is None
    with pytest.raises(ServiceError, match="line-1/sn-1, line-2/sn-1"):
        await devices.show(database, "sn-1")


@pytest.mark.parametrize(
    ("fields", "code", "cause"),
    [
        ({"serial": ""}, "BAD_REQUEST", "serial_illegal"),
        ({"serial": "a b"}, "BAD_REQUEST", "serial_illegal"),
        ({"serial": "s" * 129}, "BAD_REQUEST", "serial_illegal"),
        ({"group_id": "nobody"}, "NOT_FOUND", "group_unknown"),
        ({"ou": "/"}, "BAD_REQUEST", "ou_illegal"),
        ({"environment": "a/b"}, "BAD_REQUEST", "environment_illegal"),
        ({"group_id": "line-2", "key": Secret(b"k" * 32)}, "BAD_REQUEST", "device_key_needless"),
        ({"public_keys": (registration.parse_public_key(0, ED25519),)}, "BAD_REQUEST", "public_key_needless"),
        ({"group_id": "public"}, "BAD_REQUEST", "public_key_count"),
        ({"group_id": "public", "key": Secret(b"k" * 32)}, "BAD_REQUEST", "device_key_needless"),
        (
            {"group_id": "public", "public_keys": (registration.parse_public_key(1, ED25519),) * 2},
            "BAD_REQUEST",
            "public_key_count",
        ),
    ],
)
async def test_an_illegal_registration_is_refused_and_leaves_no_row(database, fields, code, cause):
    assert await refused(register(database, **fields)) == (code, cause)
    assert (await devices.list_page(database)).devices == []


async def test_public_keys_come_back_with_their_algorithm(database):
    keys = (registration.parse_public_key(3, P256), registration.parse_public_key(0, ED25519))
    await register(database, "public", public_keys=keys)
    shown = await devices.show(database, "public/sn-1")
    assert [(key.index, key.algorithm) for key in shown.public_keys] == [
        (0, KeyAlgorithm.ED25519),
        (3, KeyAlgorithm.ECDSA_P256),
    ]
    assert (await register(database, "public", public_keys=keys)).result is Result.ALREADY_REGISTERED


@pytest.mark.parametrize("bits", [2048, 4096])
def test_an_rsa_key_whose_signature_fits_a_proof_is_taken(bits):
    assert registration.parse_public_key(0, rsa_text(bits)).algorithm is KeyAlgorithm.RSA_PSS


@pytest.mark.parametrize(
    ("index", "text"),
    [(0, P384), (8, ED25519), (-1, ED25519), (0, ""), (0, "x"), (0, KEY), (0, rsa_text(1024)), (0, rsa_text(4104))],
    ids=["another curve", "index 8", "index -1", "empty", "no base64", "no key", "short rsa", "long rsa"],
)
def test_a_public_key_that_cannot_be_used_is_refused(index, text):
    with pytest.raises(ServiceError) as caught:
        registration.parse_public_key(index, text)
    assert caught.value.cause == "public_key_illegal"


@pytest.mark.parametrize("text", ["", "x", KEY + "AAAA", base64.b64encode(b"\0" * 32).decode()])
def test_a_device_key_that_is_none_is_refused(text):
    with pytest.raises(ServiceError) as caught:
        registration.parse_key(text)
    assert caught.value.cause == "device_key_illegal"


# Imports


async def run_import(database, path, group_id=GROUP.group_id):
    found = imports.import_file(database, path, group_id=group_id, now=lambda: NOW, random_bytes=os.urandom)
    return [one async for one in found]


async def test_a_csv_file_gives_one_result_for_each_row_and_can_be_run_again(database, tmp_path):
    path = tmp_path / "devices.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["serial", "group", "key", "ou", "environment"])
        writer.writerows(
            [
                ["sn-1", "", KEY, "acme", "prod"],
                ["sn-2"],
                ["sn 3"],
                ["sn-4", "line-2", "", "", ""],
                ["sn-5", "nobody"],
                ["sn-1", "", KEY, "acme", "prod"],
                ["sn-1", "", "", "other", "prod"],
                ["sn-6", "", "no key"],
                ["a", "b", "c", "d", "e", "f"],
            ]
        )
    found = await run_import(database, path)
    assert [one.row for one in found] == list(range(1, 10))
    assert [one.outcome.cause or one.outcome.result.value for one in found] == [
        "registered",
        "registered",
        "serial_illegal",
        "registered",
        "group_unknown",
        "already_registered",
        "serial_conflict",
        "device_key_illegal",
        "row_malformed",
    ]
    assert found[0].outcome.new_key is None
    assert (await devices.show(database, "sn-2")).key == found[1].outcome.new_key
    again = await run_import(database, path)
    assert Counter(one.outcome.result for one in again) == {Result.ALREADY_REGISTERED: 4, Result.ERROR: 5}
    assert (await stats.collect(database)).counters == {"device_registered": 3}


async def test_json_lines_give_one_result_for_each_line_whatever_stands_in_them(database, tmp_path):
    lines = [
        json.dumps({"serial": "sn-1", "key": KEY}),
        json.dumps({"serial": "sn-2", "group": "public", "public_keys": [ED25519, P256]}),
        json.dumps({"serial": "sn-3", "group": "public", "public_key": ED25519}),
        "",
        "{",
        "[1]",
        "[" * 20_000,
        json.dumps({"serial": 5}),
        json.dumps({"serial": "sn-4", "colour": "red"}),
        json.dumps({"serial": "sn-5", "public_keys": [1]}),
        json.dumps({"serial": "x" * 100_000}),
        json.dumps({"serial": "sn-6", "group": "public", "public_key": ED25519, "public_keys": [P256]}),
        "\udcff\udcfe",
        json.dumps({"serial": "sn-7"}),
    ]
    path = tmp_path / "devices.jsonl"
    path.write_bytes("\n".join(lines).encode("utf-8", "surrogateescape"))
    found = await run_import(database, path)
    assert [one.outcome.cause or one.outcome.result.value for one in found] == [
        "registered",
        "registered",
        "registered",
        "row_malformed",
        "row_malformed",
        "row_malformed",
        "row_malformed",
        "row_malformed",
        "public_key_illegal",
        "row_malformed",
        "public_key_illegal",
        "row_malformed",
        "registered",
    ]
    assert all(one.outcome.serial.isprintable() and len(one.outcome.serial) <= 128 for one in found)


async def test_rows_without_a_group_need_one_for_all(database, tmp_path):
    path = tmp_path / "devices.csv"
    path.write_text("serial\nsn-1\n")
    assert [one.outcome.cause for one in await run_import(database, path, None)] == ["group_missing"]


@pytest.mark.parametrize("text", ["", "sn-1\n", "serial,colour\n", "serial,serial\n"])
async def test_a_csv_file_without_a_right_header_is_refused(database, tmp_path, text):
    path = tmp_path / "devices.csv"
    path.write_text(text)
    assert await refused(run_import(database, path)) == ("BAD_REQUEST", "import_header")
    assert await refused(run_import(database, tmp_path / "none.csv")) == ("BAD_REQUEST", "import_unreadable")


async def test_an_import_commits_page_by_page_and_lets_others_write_between(database, tmp_path, monkeypatch):
    monkeypatch.setattr(imports, "PAGE_ROWS", 10)
    path = tmp_path / "devices.csv"
    path.write_text("serial\n" + "".join(f"sn-{n}\n" for n in range(35)))
    seen = []
    found = imports.import_file(database, path, group_id=GROUP.group_id, now=lambda: NOW, random_bytes=os.urandom)
    async for one in found:
        if one.row % 10 == 1:
            await register(database, DERIVED.group_id, f"between-{one.row}")
            seen.append((await stats.collect(database)).devices["registered"])
    assert seen == [11, 22, 33, 39]


async def test_an_import_that_is_given_up_has_closed_its_file(database, tmp_path, monkeypatch):
    monkeypatch.setattr(imports, "PAGE_ROWS", 10)
    path = tmp_path / "devices.csv"
    path.write_text("serial\n" + "".join(f"sn-{n}\n" for n in range(35)))
    found = imports.import_file(database, path, group_id=GROUP.group_id, now=lambda: NOW, random_bytes=os.urandom)
    assert (await anext(found)).row == 1
    await found.aclose()  # an unclosed file would be a warning, and warnings are errors
    assert (await stats.collect(database)).devices == {"registered": 10}


# Lists


async def test_a_list_goes_on_page_by_page_in_one_order(database):
    for serial in ("b", "a", "c"):
        await register(database, serial=serial)
    await register(database, DERIVED.group_id, "a")
    names, after = [], None
    while True:
        page = await devices.list_page(database, limit=3, after=after)
        names += [f"{one.group_id}/{one.serial}" for one in page.devices]
        after = page.after
        if after is None:
            break
    assert names == ["line-1/a", "line-1/b", "line-1/c", "line-2/a"]
    only = await devices.list_page(database, Selector(group="line-2"))
    assert [one.serial for one in only.devices] == ["a"]
    assert (await devices.list_page(database, Selector(state=DeviceState.BLOCKED))).devices == []
    for wrong in ({"limit": 0}, {"limit": 1001}, {"after": "bare"}, {"after": "a/b/c"}):
        assert (await refused(devices.list_page(database, **wrong)))[0] == "BAD_REQUEST"


async def test_one_state_is_listed_by_its_index(database):
    await register(database)
    await devices.block(database, "sn-1", now=NOW, trace_id="0" * 16)
    assert [one.state for one in (await devices.list_page(database, Selector(state=DeviceState.BLOCKED))).devices] == [
        "blocked"
    ]


# An operator's word


async def live_device(database, **fields):
    device = a_device(state=DeviceState.CONFIRMED)
    first = a_credential(device, "a" * 32, state=CredentialState.CONFIRMED, confirmed_at=NOW)
    second = a_credential(device, "b" * 32, created_at=NOW + timedelta(seconds=1), **fields)
    device = replace(device, thing=a_thing(device), credentials=(first, second))
    async with SqlStore(database, {}).batch() as batch:
        await batch.save(Changes(devices=((None, device),)))
    return device


async def test_blocking_drops_every_credential_and_unblocking_lets_the_device_activate_again(database):
    before = await live_device(database)
    blocked = await devices.block(database, "sn-1", now=NOW, trace_id="1" * 16)
    assert blocked.state is DeviceState.BLOCKED
    assert {(one.state, one.drop_cause, one.revoked_at) for one in blocked.credentials} == {
        (CredentialState.DROPPED, "blocked", None)
    }
    assert await devices.show(database, "sn-1") == blocked
    assert await devices.block(database, "sn-1", now=NOW, trace_id="2" * 16) == blocked
    free = await devices.unblock(database, "sn-1", now=NOW, trace_id="3" * 16)
    assert (free.state, free.thing) == (DeviceState.REGISTERED, before.thing)
    assert await refused(devices.unblock(database, "sn-1", now=NOW, trace_id="4" * 16)) == ("CONFLICT", "not_blocked")
    assert [one.trace.step for one in (await traces.of_device(database, "sn-1")).steps] == ["blocked", "unblocked"]
    counters = (await stats.collect(database)).counters
    assert (counters["device_blocked"], counters["device_unblocked"]) == (1, 1)


@pytest.mark.unaudited
async def test_a_replaced_device_cannot_be_blocked(database):
    async with SqlStore(database, {}).batch() as batch:
        await batch.save(Changes(devices=((None, a_device(state=DeviceState.REPLACED)),)))
    said = await refused(devices.block(database, "sn-1", now=NOW, trace_id="0" * 16))
    assert said == ("CONFLICT", "illegal_move")


async def test_approval_is_for_the_credential_that_waits(database):
    await live_device(database, awaits_operator=True, held_at=NOW)
    approved = await devices.approve(database, "sn-1", now=NOW, trace_id="0" * 16)
    first, second = approved.credentials
    assert (second.approved, second.awaits_operator) == (True, False)
    assert first.state is CredentialState.CONFIRMED
    said = await refused(devices.approve(database, "sn-1", now=NOW, trace_id="0" * 16))
    assert said == ("CONFLICT", "nothing_to_approve")


async def test_approval_names_its_credential_when_several_wait(database):
    before = await live_device(database, awaits_operator=True)
    third = a_credential(before, "d" * 32, awaits_operator=True, created_at=NOW + timedelta(seconds=2))
    async with SqlStore(database, {}).batch() as batch:
        await batch.save(Changes(devices=((before, replace(before, credentials=(*before.credentials, third))),)))
    said = await refused(devices.approve(database, "sn-1", now=NOW, trace_id="0" * 16))
    assert said == ("CONFLICT", "approval_ambiguous")
    approved = await devices.approve(database, "sn-1", credential_id="d" * 32, now=NOW, trace_id="0" * 16)
    assert [one.approved for one in approved.credentials] == [False, False, True]


# Traces
