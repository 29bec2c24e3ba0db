"""What stands behind the thing API's authorisation: owners, things made beforehand, and the switch for bare serials."""

from __future__ import annotations

import base64
import hashlib
import os
from dataclasses import replace

import pytest
from sqlalchemy import select

from service.credentials.keyfile import KeyFile
from service.credentials.proofs import hmac_sha256
from service.domain import moves
from service.domain.catalogue import Endpoint, Environment
from service.domain.changes import Changes
from service.domain.credential import CredentialKind
from service.errors import ServiceError
from service.operations import accounts, bare_serials, devices, registration, things
from service.operations.accounts import THIS_MACHINE, AccountKind, Operator
from service.operations.looks import Looks
from service.operations.registration import Registration
from service.operations.verbs.verb import Role
from service.storage.operator_tables import audit
from service.storage.store import SqlStore
from tests.support.storage import DERIVED, GROUP, NOW, a_credential, a_device, a_thing, new_database

ENVIRONMENTS = {"prod": Environment("prod", {CredentialKind.API_KEY: Endpoint("broker.example", 8883, tls=True)})}


@pytest.fixture
async def database(tmp_path):
    opened = await new_database(tmp_path / "firstlight.db")
    yield opened
    await opened.close()


async def refused(awaitable):
    with pytest.raises(ServiceError) as caught:
        await awaitable
    return caught.value.code, caught.value.cause


async def register(database, serial="sn-1", group_id=GROUP.group_id, **fields):
    await registration.register(database, Registration(group_id, serial, **fields), now=NOW, random_bytes=os.urandom)


def noting(database):
    return Looks(database, clock=lambda: NOW)


def create(database, serial="sn-1", operator=THIS_MACHINE, group_id=None, key=None):
    return things.create(
        database, ENVIRONMENTS, noting(database), operator, serial,
        group_id=group_id, key=key, now=NOW, random_bytes=os.urandom, trace_id="0" * 16,
    )  # fmt: skip


async def audited(database):
    async with database.read() as connection:
        found = (await connection.execute(select(audit).where(audit.c.verb == "create-thing"))).all()
    return [(one.account, one.serial, one.outcome, one.cause, one.before is not None) for one in found]


async def test_what_an_account_asks_over_http_is_audited(database):
    await register(database)
    line = Operator("line", Role.OPERATOR, None)
    for _ in range(2):
        await create(database, operator=line)
    elsewhere = Operator("else", Role.OPERATOR, "elsewhere")
    await refused(create(database, operator=elsewhere))
    await refused(create(database, operator=elsewhere, group_id=GROUP.group_id))
    key = await accounts.create(
        database, "looks", AccountKind.OPERATOR, role=Role.VIEWER, now=NOW, random_bytes=os.urandom
    )
    await refused(things.owner(database, "looks", key.reveal(), noting(database)))
    await refused(things.owner(database, "looks", b"wrong", noting(database)))
    assert await audited(database) == [
        ("line", "sn-1", "changed", None, True),
        ("line", "sn-1", "unchanged", None, False),
        ("else", None, "refused", "device_unknown", False),
        ("else", "sn-1", "refused", "device_unknown", False),
        ("looks", None, "refused", "owner_role", False),
    ]


async def test_a_thing_is_made_for_a_registered_serial_and_a_second_time_unchanged(database):
    await register(database)
    first, second = await create(database), await create(database)
    assert (first.is_new, second.is_new, first.device_key) == (True, False, None)
    assert first.thing.thing_id == second.thing.thing_id
    assert first.thing.name.endswith(" 1")
    shown = await devices.show(database, f"{GROUP.group_id}/sn-1")
    assert shown.thing is not None
    assert shown.thing.thing_id == first.thing.thing_id


async def test_an_unknown_serial_is_registered_with_a_key_that_is_shown_once(database):
    assert await refused(create(database, "sn-9")) == ("NOT_FOUND", "device_unknown")
    made = await create(database, "sn-9", group_id=GROUP.group_id)
    assert made.device_key is not None
    assert (await devices.show(database, f"{GROUP.group_id}/sn-9")).key == made.device_key
    assert (await create(database, "sn-9", group_id=GROUP.group_id)).device_key is None


async def test_a_given_key_is_taken_and_another_one_for_the_same_serial_is_refused(database):
    key = base64.b64encode(bytes(range(32))).decode()
    made = await create(database, "sn-9", group_id=GROUP.group_id, key=key)
    assert made.device_key is None
    assert (await devices.show(database, f"{GROUP.group_id}/sn-9")).key.reveal() == bytes(range(32))
    other = base64.b64encode(bytes(range(1, 33))).decode()
    assert await refused(create(database, "sn-9", key=other)) == ("CONFLICT", "serial_conflict")


async def test_a_serial_of_two_groups_needs_the_group(database):
    await register(database)
    await register(database, group_id=DERIVED.group_id, ou="acme", environment="prod")
    assert await refused(create(database)) == ("CONFLICT", "serial_ambiguous")
    assert (await create(database, group_id=DERIVED.group_id)).thing.group_id == DERIVED.group_id
    assert await refused(create(database, group_id="nobody")) == ("NOT_FOUND", "group_unknown")


async def test_an_owner_of_another_ou_neither_sees_nor_makes_a_thing(database):
    stranger = Operator("stranger", Role.OPERATOR, "elsewhere")
    await register(database)
    assert await refused(create(database, operator=stranger)) == ("NOT_FOUND", "device_unknown")
    key = base64.b64encode(bytes(range(32))).decode()  # not even whether a key is right
    assert await refused(create(database, operator=stranger, key=key)) == ("NOT_FOUND", "device_unknown")
    code, _ = await refused(create(database, "sn-9", operator=stranger, group_id=GROUP.group_id))
    assert code == "FORBIDDEN"


async def test_a_blocked_device_gets_no_thing(database):
    await register(database)
    await devices.block(database, "sn-1", now=NOW, trace_id="0" * 16)
    assert (await refused(create(database)))[0] == "BLOCKED"


async def test_only_a_live_key_of_that_very_thing_is_known(database):
    device = a_device()
    live = a_credential(device, "a" * 32, api_key_sha256=hashlib.sha256(b"live").digest())
    gone = a_credential(device, "b" * 32, api_key_sha256=hashlib.sha256(b"gone").digest())
    thing_id = "1" * 32
    stored = replace(
        device, thing=a_thing(device, thing_id=thing_id), credentials=(live, moves.drop(gone, NOW, "superseded"))
    )
    async with SqlStore(database, {}).batch() as batch:
        await batch.save(Changes(devices=((None, stored),)))
    found = await things.caller(database, thing_id, b"live")
    assert (found.credential_id, found.is_pending) == ("a" * 32, True)
    wrong = ("REFUSED", "thing_key_wrong")
    assert await refused(things.caller(database, thing_id, b"gone")) == wrong
    assert await refused(things.caller(database, "2" * 32, b"live")) == wrong
    assert await refused(things.caller(database, "", b"live")) == wrong


async def test_only_an_enabled_operator_with_its_key_is_an_owner(database):
    async def account(name, kind=AccountKind.OPERATOR, role=Role.OPERATOR):
        made = await accounts.create(database, name, kind, role=role, now=NOW, random_bytes=os.urandom)
        return made.reveal()

    key, viewer = await account("line"), await account("looks", role=Role.VIEWER)
    integrator = await account("told", AccountKind.INTEGRATOR)
    assert (await things.owner(database, "line", key, noting(database))).name == "line"
    wrong = ("REFUSED", "owner_key_wrong")
    assert await refused(things.owner(database, "line", viewer, noting(database))) == wrong
    assert await refused(things.owner(database, "nobody", key, noting(database))) == wrong
    assert await refused(things.owner(database, "told", integrator, noting(database))) == wrong
    assert await refused(things.owner(database, "looks", viewer, noting(database))) == ("FORBIDDEN", "owner_role")
    await accounts.disable(database, "line", now=NOW)
    assert await refused(things.owner(database, "line", key, noting(database))) == wrong


async def test_bare_serials_are_off_until_allowed_and_again_when_forbidden(database, tmp_path):
    service_key = KeyFile.create(tmp_path / "keys.json").service_private_key()

    def speak(serial="sn-1", group_id=None):
        return bare_serials.spoken_for(database, serial, group_id, service_key)

    await register(database)
    closed = ("REFUSED", "bare_serial_refused")
    assert await refused(speak()) == closed
    await bare_serials.allow(database, GROUP.group_id, by="local", now=NOW)
    await bare_serials.allow(database, GROUP.group_id, by="local", now=NOW)
    assert await bare_serials.allowed(database) == [GROUP.group_id]
    spoken = await speak()
    key = (await devices.show(database, "sn-1")).key.reveal()
    assert spoken.prove(b"message") == hmac_sha256(key, b"message")
    # Not for a serial that nobody registered, nor for another group's.
    assert await refused(speak("sn-9")) == closed
    await register(database, "sn-2", DERIVED.group_id)
    assert await refused(speak("sn-2")) == closed
    await bare_serials.allow(database, DERIVED.group_id, by="local", now=NOW)
    await register(database, "sn-1", DERIVED.group_id)
    assert await refused(speak()) == ("CONFLICT", "serial_ambiguous")
    assert (await speak(group_id=DERIVED.group_id)).group_id == DERIVED.group_id
    await bare_serials.forbid(database, GROUP.group_id)
    assert await refused(speak(group_id=GROUP.group_id)) == closed
    assert await refused(bare_serials.forbid(database, GROUP.group_id)) == ("NOT_FOUND", "bare_serial_off")
    assert await refused(bare_serials.allow(database, "nobody", by="local", now=NOW)) == ("NOT_FOUND", "group_unknown")
