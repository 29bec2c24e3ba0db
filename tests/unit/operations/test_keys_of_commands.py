"""Keys that commands make: the reply that shows them fits one message, and may be asked for again if it was lost."""

from __future__ import annotations

import base64
import json
import os
from dataclasses import replace
from datetime import timedelta

import pytest

from service.domain.changes import Changes
from service.domain.device import DeviceState
from service.fleet import replies
from service.operations import devices
from service.operations.accounts import THIS_MACHINE, AccountKind, create
from service.operations.outcomes import Result
from service.operations.verbs.register import MAX_KEYS_BYTES
from service.operations.verbs.verb import Role
from service.protocol import encode
from service.storage.operator_tables import audit, command
from service.storage.store import SqlStore
from tests.support.commands import ALICE, ask, named, rows_of, seed
from tests.support.refusals import refused
from tests.support.storage import GROUP, NOW
from tests.unit.fleet.test_operator_requests import listening


def registering(*serials, **fields):
    return {"group": GROUP.group_id, "devices": [{"serial": serial, "ou": "acme/eu", **fields} for serial in serials]}


async def test_a_serial_that_is_named_twice_is_refused_and_nothing_registered(database, commands):
    for number, serial in enumerate(("n-1", "no serial")):
        asked = ask(str(number), arguments=registering(serial, "n-2", serial))
        assert await refused(commands.submit(ALICE, "register", asked)) == ("BAD_REQUEST", "serial_twice")
    assert await refused(devices.show(database, "n-2")) == ("NOT_FOUND", "device_unknown")


@pytest.mark.parametrize(("chars", "count"), [(12, 100), (40, 100), (60, 90), (128, 56)])
async def test_every_key_that_is_made_is_in_the_reply(database, chars, count):
    await create(database, "alice", AccountKind.OPERATOR, role=Role.OPERATOR, now=NOW, random_bytes=os.urandom)
    serials = [f"n-{number}-".ljust(chars, "x") for number in range(count)]
    async with listening(database) as operators:
        said = await operators.ask("alice", "register", arguments=registering(*serials))
        keys, shown = said["result"]["keys"], said["outcomes"]
        while "after" in said:
            said = await operators.ask("alice", "command-status", id="2", command="1", after=said["after"])
            shown += said["outcomes"]
    assert (sorted(keys), len(shown)) == (sorted(serials), count)
    found = await devices.show(database, serials[-1])
    assert base64.b64decode(keys[serials[-1]]) == found.key.reveal()


async def test_no_outcome_is_missing_or_told_twice_from_page_to_page(database):
    await create(database, "alice", AccountKind.OPERATOR, role=Role.OPERATOR, now=NOW, random_bytes=os.urandom)
    serials = [f"n-{number}".ljust(90, "x" if number % 3 else "?") for number in range(100)]
    async with listening(database) as operators:
        said = await operators.ask("alice", "register", arguments=registering(*serials))
        shown = said["outcomes"]
        while "after" in said:
            said = await operators.ask("alice", "command-status", id="2", command="1", after=said["after"])
            shown += said["outcomes"]
    assert sorted(one["device"] for one in shown) == sorted(f"line-1/{serial}" for serial in serials)


async def test_keys_that_do_not_fit_one_reply_are_not_made(database, commands):
    serials = [f"n-{number}-".ljust(128, "x") for number in range(60)]
    assert await refused(commands.submit(ALICE, "register", ask(arguments=registering(*serials)))) == (
        "BAD_REQUEST", "keys_many",
    )  # fmt: skip
    assert await refused(devices.show(database, serials[0])) == ("NOT_FOUND", "device_unknown")
    key = base64.b64encode(bytes(range(32))).decode()
    status = await commands.submit(ALICE, "register", ask(arguments=registering(*serials, key=key)))
    assert status.command.changed == 60


async def test_a_reply_with_as_many_keys_as_may_be_still_shows_outcomes(database, commands):
    status = await commands.submit(ALICE, "register", ask(arguments=registering("n-1")))
    full = replace(status, result={"keys": {"n-1": "k" * (MAX_KEYS_BYTES - 20)}}, outcomes=status.outcomes * 100)
    fields = replies.status_fields(full)
    assert 1 <= len(fields["outcomes"]) < 100
    assert encode.fits(replies.reply("1" * 32, fields, "t" * 16, "json"))


async def test_whoever_lost_the_reply_asks_again_and_is_shown_the_keys_until_the_device_has_come(
    database, commands, clock
):
    given = base64.b64encode(bytes(range(32))).decode()
    arguments = registering("n-1", "n-2")
    arguments["devices"].append({"serial": "n-3", "ou": "acme/eu", "key": given})
    first = (await commands.submit(ALICE, "register", ask(arguments=arguments))).result
    assert sorted(first["keys"]) == ["n-1", "n-2"]
    clock.now += timedelta(minutes=59)
    assert (await commands.submit(ALICE, "register", ask(arguments=arguments))).result == first
    before = await devices.show(database, "n-1")
    async with SqlStore(database, {}).batch() as batch:
        await batch.save(Changes(devices=((before, replace(before, state=DeviceState.ACTIVATED)),)))
    again = (await commands.submit(ALICE, "register", ask(arguments=arguments))).result
    assert again == {"keys": {"n-2": first["keys"]["n-2"]}}
    other = await commands.submit(ALICE, "register", ask("2", arguments=arguments))  # is no repeat
    assert (other.outcomes[1].result, other.result) == (Result.UNCHANGED, {})
    clock.now += timedelta(minutes=2)
    assert (await commands.submit(ALICE, "register", ask(arguments=arguments))).result == {}
    text = json.dumps([{name: str(value) for name, value in row.items()} for row in
                       [*await rows_of(database, audit), *await rows_of(database, command)]])  # fmt: skip
    assert first["keys"]["n-2"] not in text


async def test_the_key_of_a_device_that_was_registered_along_is_shown_again_too(database, commands):
    await seed(database, "old", ou="acme")
    asked = ask(selector=named("old"), arguments={"new": "line-1/new", "register_new": True})
    first = (await commands.submit(THIS_MACHINE, "replace", asked)).result
    assert list(first["keys"]) == ["new"]
    assert (await commands.submit(THIS_MACHINE, "replace", asked)).result == first
    dry = ask("2", selector=named("old"), arguments={"new": "line-1/newer", "register_new": True}, dry_run=True)
    for _ in range(2):
        assert (await commands.submit(THIS_MACHINE, "replace", dry)).result == {}
