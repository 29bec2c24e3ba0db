"""Operators' commands: rights, selectors, pages, repeats, restarts, and every kind of bad input."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from datetime import timedelta

import pytest
from pydantic import ValidationError
from sqlalchemy import insert

from service.domain.catalogue import Environment
from service.domain.changes import Changes
from service.domain.credential import CredentialState
from service.domain.device import DeviceState
from service.domain.product import Version
from service.errors import ServiceError
from service.operations import accounts, command_page, devices
from service.operations.accounts import THIS_MACHINE, AccountKind, Operator
from service.operations.command_rows import CommandState
from service.operations.commands import Commands, MassGuard, Request
from service.operations.outcomes import Result
from service.operations.selectors import Selector
from service.operations.verbs.verb import Role
from service.storage.rows import to_ms, version_row
from service.storage.store import SqlStore
from service.storage.tables import audit, event, image, release_key, version
from tests.support.storage import GROUP, NOW, PRODUCT, a_credential, a_device, a_thing, new_database

ENVIRONMENTS = {"prod": Environment("prod", {}), "test": Environment("test", {})}
KNOWN = json.dumps({"group": GROUP.group_id, "devices": [{"serial": "sn-1"}]})


class Clock:
    def __init__(self):
        self.now = NOW + timedelta(hours=1)

    def __call__(self):
        return self.now


@pytest.fixture
async def database(tmp_path):
    opened = await new_database(tmp_path / "firstlight.db")
    yield opened
    await opened.close()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def commands(database, clock):
    return Commands(database, ENVIRONMENTS, random_bytes=os.urandom, clock=clock)


async def seed(database, *serials, ou="acme/eu", **fields):
    """Confirmed devices, each with a thing in `ou`."""
    made = []
    for number, serial in enumerate(serials):
        device = a_device(serial, state=DeviceState.CONFIRMED, **fields)
        thing = a_thing(device, ou=ou, thing_id=f"{serial}{number}".encode().hex().rjust(32, "0")[-32:])
        row = a_credential(
            device, serial.encode().hex().rjust(32, "0"), state=CredentialState.CONFIRMED, confirmed_at=NOW
        )
        made.append(replace(device, thing=thing, credentials=(row,)))
    async with SqlStore(database, {}).batch() as batch:
        await batch.save(Changes(devices=tuple((None, one) for one in made)))
    return made


async def rows_of(database, table):
    async with database.read() as connection:
        return [row._mapping for row in await connection.execute(table.select())]


def ask(id_="1", **fields):
    return Request.model_validate({"id": id_, **fields})


def named(*serials):
    return {"devices": [f"{GROUP.group_id}/{serial}" for serial in serials]}


async def refused(awaitable):
    with pytest.raises(ServiceError) as caught:
        await awaitable
    return caught.value.code, caught.value.cause


async def test_a_command_changes_what_is_selected_and_says_so(database, commands):
    await seed(database, "sn-1", "sn-2")
    await seed(database, "sn-3", ou="acme/us")
    status = await commands.submit(THIS_MACHINE, "block", ask(selector={"ou": "acme/eu"}))
    assert (status.command.state, status.command.total, status.command.changed) == (CommandState.DONE, 2, 2)
    states = {name: (await devices.show(database, name)).state for name in ("sn-1", "sn-2", "sn-3")}
    assert list(states.values()) == [DeviceState.BLOCKED, DeviceState.BLOCKED, DeviceState.CONFIRMED]
    told = await rows_of(database, event)
    assert [(row.kind, row.serial, row.ou, row.command_id) for row in map(_Row, told)] == [
        ("blocked", "sn-1", "acme/eu", status.command.command_id),
        ("blocked", "sn-2", "acme/eu", status.command.command_id),
    ]
    log = [_Row(row) for row in await rows_of(database, audit)]
    assert [(row.serial, row.outcome) for row in log] == [(None, "accepted"), ("sn-1", "changed"), ("sn-2", "changed")]
    assert json.loads(log[0].selector) == {"ou": "acme/eu"}
    assert json.loads(log[1].before) == {"state": "confirmed", "rev": 0, "credentials": ["confirmed"]}
    assert json.loads(log[1].after) == {"state": "blocked", "rev": 1}


class _Row:
    def __init__(self, mapping):
        self.__dict__.update(mapping)


async def test_a_command_for_more_devices_than_were_meant_changes_nothing(database, clock):
    commands = Commands(database, ENVIRONMENTS, random_bytes=os.urandom, clock=clock, guard=MassGuard(2))
    await seed(database, "sn-1", "sn-2", "sn-3")
    everything = {"group": GROUP.group_id}
    in_silence = commands.submit(THIS_MACHINE, "block", ask("1", selector=everything))
    assert await refused(in_silence) == ("CONFLICT", "mass_unconfirmed")
    too_few = commands.submit(THIS_MACHINE, "block", ask("2", selector=everything, at_most=2))
    assert await refused(too_few) == ("CONFLICT", "more_than_meant")
    assert await rows_of(database, event) == []
    counted = await commands.submit(THIS_MACHINE, "block", ask("3", selector=everything, dry_run=True))
    assert counted.command.total == 3
    two = await commands.submit(THIS_MACHINE, "block", ask("4", selector=named("sn-1", "sn-2")))
    assert two.command.changed == 2
    meant = await commands.submit(THIS_MACHINE, "block", ask("5", selector=everything, at_most=3))
    assert (meant.command.changed, meant.command.unchanged) == (1, 2)


async def test_a_command_for_many_waits_for_a_second_person(database, clock):
    guard = MassGuard(2, second_person=True)
    commands = Commands(database, ENVIRONMENTS, random_bytes=os.urandom, clock=clock, guard=guard)
    await seed(database, "sn-1", "sn-2", "sn-3")
    for name in ("anna", "bert"):
        who = (database, name, AccountKind.OPERATOR)
        await accounts.create(*who, role=Role.ADMIN, now=NOW, random_bytes=os.urandom)
    first, second = (Operator(name, Role.ADMIN, None) for name in ("anna", "bert"))
    asked = await commands.submit(first, "block", ask(selector={"group": GROUP.group_id}, at_most=3))
    command_id = asked.command.command_id
    assert (asked.command.state, await rows_of(database, event)) == (CommandState.PAUSED, [])
    assert await refused(commands.resume(first, command_id)) == ("FORBIDDEN", "second_person_needed")
    assert await commands.work(command_id) is None
    await commands.resume(second, command_id)
    done = await commands.work(command_id)
    assert done is not None
    assert done.command.changed == 3
    log = [_Row(row) for row in await rows_of(database, audit)]
    assert [(row.outcome, row.cause) for row in log[:2]] == [("accepted", None), ("running", "by_bert")]


async def test_a_dry_run_says_what_would_be_and_changes_nothing(database, commands):
    await seed(database, "sn-1", "sn-2")
    await commands.submit(THIS_MACHINE, "block", ask("0", selector=named("sn-2")))
    before = [await devices.show(database, name) for name in ("sn-1", "sn-2")]
    status = await commands.submit(THIS_MACHINE, "unblock", ask(selector={"group": GROUP.group_id}, dry_run=True))
    assert {one.serial: (one.result, one.cause) for one in status.outcomes} == {
        "sn-1": (Result.REFUSED, "not_blocked"),
        "sn-2": (Result.CHANGED, None),
    }
    assert [await devices.show(database, name) for name in ("sn-1", "sn-2")] == before
    assert len(await rows_of(database, event)) == 1


async def test_a_repeated_command_is_answered_again_and_done_once(database, commands):
    await seed(database, "sn-1")
    first = await commands.submit(THIS_MACHINE, "rename", ask(selector=named("sn-1"), arguments={"name": "a"}))
    await commands.submit(THIS_MACHINE, "rename", ask("2", selector=named("sn-1"), arguments={"name": "b"}))
    again = await commands.submit(THIS_MACHINE, "rename", ask(selector=named("sn-1"), arguments={"name": "a"}))
    assert (again.command, again.outcomes) == (first.command, first.outcomes)
    assert (await devices.show(database, "sn-1")).thing.name == "b"
    other = commands.submit(THIS_MACHINE, "rename", ask(selector=named("sn-1"), arguments={"name": "c"}))
    assert await refused(other) == ("CONFLICT", "command_id_taken")


async def test_an_expected_revision_compares_and_sets(database, commands):
    await seed(database, "sn-1")
    for number, name in enumerate("ab"):
        done = await commands.submit(
            THIS_MACHINE, "rename", ask(name, selector=named("sn-1"), arguments={"name": name}, expected_rev=number)
        )
        assert done.command.changed == 1
    stale = await commands.submit(
        THIS_MACHINE, "rename", ask("c", selector=named("sn-1"), arguments={"name": "c"}, expected_rev=1)
    )
    assert [(one.code, one.cause) for one in stale.outcomes] == [("CONFLICT", "rev_stale")]
    assert (await devices.show(database, "sn-1")).thing.name == "b"


async def test_a_large_selection_goes_on_where_a_restart_cut_it(database, commands, clock, monkeypatch):
    monkeypatch.setattr(command_page, "PAGE", 4)
    await seed(database, *(f"sn-{number:02}" for number in range(10)))
    status = await commands.submit(THIS_MACHINE, "block", ask(selector={"group": GROUP.group_id}))
    assert (status.command.state, status.command.total, status.command.done) == (CommandState.RUNNING, 10, 4)
    restarted = Commands(database, ENVIRONMENTS, random_bytes=os.urandom, clock=clock)
    assert await restarted.running() == [status.command.command_id]
    seen = []
    await restarted.run(status.command.command_id, lambda command: seen.append(command.done))
    assert seen == [8, 10]
    found = await restarted.status(THIS_MACHINE, "1")
    assert (found.command.state, found.command.changed, len(found.outcomes)) == (CommandState.DONE, 10, 10)
    assert len(await rows_of(database, event)) == 10
    assert await restarted.running() == []


async def test_a_command_is_paused_resumed_and_cancelled(database, commands, monkeypatch):
    monkeypatch.setattr(command_page, "PAGE", 2)
    await seed(database, *(f"sn-{number}" for number in range(6)))
    status = await commands.submit(THIS_MACHINE, "block", ask(selector={"group": GROUP.group_id}))
    await commands.pause(THIS_MACHINE, "1")
    assert await commands.work(status.command.command_id) is None
    await commands.resume(THIS_MACHINE, "1")
    assert (await commands.work(status.command.command_id)).command.done == 4
    assert (await commands.cancel(THIS_MACHINE, "1")).state is CommandState.CANCELLED
    assert await commands.work(status.command.command_id) is None
    for move in (commands.pause, commands.resume):
        assert await refused(move(THIS_MACHINE, "1")) == ("CONFLICT", "command_state")
    page = await devices.list_page(database, state=DeviceState.BLOCKED)
    assert len(page.devices) == 4


async def test_a_command_ends_when_its_time_is_over(database, commands, clock, monkeypatch):
    monkeypatch.setattr(command_page, "PAGE", 2)
    await seed(database, *(f"sn-{number}" for number in range(4)))
    until = to_ms(clock.now + timedelta(minutes=1)) // 1000
    status = await commands.submit(THIS_MACHINE, "block", ask(selector={"group": GROUP.group_id}, expires_at=until))
    clock.now += timedelta(minutes=2)
    assert (await commands.work(status.command.command_id)).command.state is CommandState.EXPIRED
    assert (await commands.status(THIS_MACHINE, "1")).command.done == 2


async def test_a_disabled_account_s_command_stops(database, commands, clock, monkeypatch):
    monkeypatch.setattr(command_page, "PAGE", 2)
    await seed(database, *(f"sn-{number}" for number in range(4)))
    await accounts.create(
        database, "alice", AccountKind.OPERATOR, role=Role.OPERATOR, ou="acme", now=NOW, random_bytes=os.urandom
    )
    status = await commands.submit(
        Operator("alice", Role.OPERATOR, "acme"), "block", ask(selector={"group": GROUP.group_id})
    )
    await accounts.disable(database, "alice", now=clock())
    assert (await commands.work(status.command.command_id)).command.state is CommandState.FAILED


async def test_devices_registered_after_a_command_are_not_in_it(database, commands, clock):
    await seed(database, "sn-1")
    await seed(database, "sn-2", registered_at=clock() + timedelta(seconds=1))
    status = await commands.submit(THIS_MACHINE, "block", ask(selector={"group": GROUP.group_id}))
    assert (status.command.total, status.command.changed) == (1, 1)


@pytest.mark.parametrize(
    ("selector", "serials"),
    [
        ({"ou": "acme"}, {"a", "b", "c", "z"}),
        ({"ou": "acme/e_"}, {"c"}),
        ({"ou": "acme/eu"}, {"a", "b"}),
        ({"environment": "prod", "state": "confirmed"}, {"a", "b", "c"}),
        ({"batch": "B42"}, {"b"}),
        ({"product": PRODUCT.product_id, "state": "registered"}, {"z"}),
        ({"things": ["f" * 32]}, {"c"}),
        ({"devices": ["line-1/a", "line-1/c", "line-1/a"], "ou": "acme/eu"}, {"a"}),
    ],
)
async def test_the_parts_of_a_selector_narrow_the_selection(database, commands, selector, serials):
    await seed(database, "a")
    await seed(database, "b", ou="acme/eu/x", batch="B42")
    (device,) = await seed(database, "c", ou="acme/e_")
    async with SqlStore(database, {}).batch() as batch:
        await batch.save(Changes(devices=((None, a_device("z")),)))
    async with database.write() as transaction:  # a thing id that is one
        await transaction.connection.exec_driver_sql(
            "UPDATE thing SET thing_id = ? WHERE thing_id = ?", ("f" * 32, device.thing.thing_id)
        )
    status = await commands.submit(
        THIS_MACHINE, "set-attributes", ask(selector=selector, arguments={"attributes": {"x": 1}})
    )
    assert {one.serial for one in status.outcomes} == serials


ALICE = Operator("alice", Role.OPERATOR, "acme/eu")
VIEWER = Operator("vera", Role.VIEWER, None)
BAD = {
    "no such verb": (THIS_MACHINE, "explode", {}, ("UNKNOWN_VERB", "unknown_verb")),
    "no selector": (THIS_MACHINE, "block", {}, ("BAD_REQUEST", "selector_empty")),
    "an empty selector": (THIS_MACHINE, "block", {"selector": {}}, ("BAD_REQUEST", "selector_empty")),
    "nothing selected": (THIS_MACHINE, "block", {"selector": {"ou": "nowhere"}}, ("NOT_FOUND", "selection_empty")),
    "no such batch": (THIS_MACHINE, "block", {"selector": {"batch": "B9"}}, ("NOT_FOUND", "selection_empty")),
    "no such group": (THIS_MACHINE, "block", {"selector": {"group": "x"}}, ("NOT_FOUND", "group_unknown")),
    "no such product": (THIS_MACHINE, "block", {"selector": {"product": "x"}}, ("NOT_FOUND", "product_unknown")),
    "no such device": (THIS_MACHINE, "block", {"selector": named("sn-1", "x")}, ("NOT_FOUND", "device_unknown")),
    "no such thing": (THIS_MACHINE, "block", {"selector": {"things": ["0" * 32]}}, ("NOT_FOUND", "device_unknown")),
    "a bare serial": (THIS_MACHINE, "block", {"selector": {"devices": ["sn-1"]}}, ("BAD_REQUEST", "device_illegal")),
    "an illegal thing": (THIS_MACHINE, "block", {"selector": {"things": ["X"]}}, ("BAD_REQUEST", "thing_illegal")),
    "an illegal OU": (THIS_MACHINE, "block", {"selector": {"ou": "a//b"}}, ("BAD_REQUEST", "ou_illegal")),
    "an illegal batch": (THIS_MACHINE, "block", {"selector": {"batch": "%"}}, ("BAD_REQUEST", "selector_illegal")),
    "an illegal environment": (
        THIS_MACHINE, "block", {"selector": {"environment": "a b"}}, ("BAD_REQUEST", "environment_illegal"),
    ),
    "outside of the scope, by name": (ALICE, "block", {"selector": named("sn-1", "us")}, ("FORBIDDEN", "out_of_scope")),
    "outside of the scope, by OU": (ALICE, "block", {"selector": {"ou": "acme/us"}}, ("NOT_FOUND", "selection_empty")),
    "a scope that only begins alike": (
        Operator("al", Role.OPERATOR, "acme/e"), "block", {"selector": named("sn-1")}, ("FORBIDDEN", "out_of_scope"),
    ),
    "a viewer who changes": (VIEWER, "block", {"selector": named("sn-1")}, ("FORBIDDEN", "role_too_low")),
    "an operator who retires": (ALICE, "retire", {"selector": named("sn-1")}, ("FORBIDDEN", "role_too_low")),
    "an expired command": (
        THIS_MACHINE, "block", {"selector": named("sn-1"), "expires_at": 1}, ("CONFLICT", "command_expired"),
    ),
    "an unknown argument": (
        THIS_MACHINE, "block", {"selector": named("sn-1"), "arguments": {"x": 1}}, ("BAD_REQUEST", "bad_argument"),
    ),
    "a missing argument": (THIS_MACHINE, "rename", {"selector": named("sn-1")}, ("BAD_REQUEST", "bad_argument")),
    "one name for many": (
        THIS_MACHINE, "rename", {"selector": {"group": "line-1"}, "arguments": {"name": "x"}},
        ("BAD_REQUEST", "one_device_only"),
    ),
    "a registration with a selector": (
        THIS_MACHINE, "register",
        {"selector": named("sn-1"), "arguments": {"group": "line-1", "devices": [{"serial": "s"}]}},
        ("BAD_REQUEST", "selector_needless"),
    ),
    "a registration in no group": (
        THIS_MACHINE, "register", {"arguments": {"group": "x", "devices": [{"serial": "s"}]}},
        ("NOT_FOUND", "group_unknown"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
async def test_bad_input_is_refused_as_a_whole_and_changes_nothing(database, commands, case):
    operator, verb, fields, expected = BAD[case]
    await seed(database, "sn-1")
    await seed(database, "us", ou="acme/us")
    before = [await devices.show(database, name) for name in ("sn-1", "us")]
    assert await refused(commands.submit(operator, verb, ask(**fields))) == expected
    assert [await devices.show(database, name) for name in ("sn-1", "us")] == before
    assert await rows_of(database, event) == []
    (noted,) = [_Row(row) for row in await rows_of(database, audit)]
    assert (noted.account, noted.outcome.removeprefix("dry run, "), noted.cause) == (
        operator.name,
        "refused",
        expected[1],
    )


REFUSED = {
    "unblock what is not blocked": ("unblock", {}, ("CONFLICT", "not_blocked")),
    "unfreeze what is not frozen": ("unfreeze", {}, ("CONFLICT", "not_frozen")),
    "allocate what has a thing": ("allocate", {"ou": "x"}, ("CONFLICT", "already_activated")),
    "allocate nowhere": ("allocate", {}, ("BAD_REQUEST", "place_missing")),
    "allocate to no environment": ("allocate", {"environment": "mars"}, ("NOT_FOUND", "environment_unknown")),
    "allocate to an illegal OU": ("allocate", {"ou": "/x"}, ("BAD_REQUEST", "ou_illegal")),
    "a version that is not": ("set-target", {"version": "v9"}, ("NOT_FOUND", "version_unknown")),
    "a name that cannot be printed": ("rename", {"name": "\n"}, ("BAD_REQUEST", "text_illegal")),
    "a fraction in the settings": ("set-settings", {"settings": {"a": 1.5}}, ("BAD_REQUEST", "settings_illegal")),
    "settings too deep": ("set-settings", {"settings": {"a": {"b": {"c": [{"d": 1}]}}}}, ("BAD_REQUEST", "settings_illegal")),
    "settings too large": ("set-settings", {"settings": {"a": "x" * 5000}}, ("BAD_REQUEST", "settings_illegal")),
    "an attribute too long": ("set-attributes", {"attributes": {"a": "x" * 257}}, ("BAD_REQUEST", "attribute_illegal")),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
async def test_what_a_verb_refuses_is_an_outcome_and_changes_nothing(database, commands, case):
    verb, arguments, expected = REFUSED[case]
    (before,) = await seed(database, "sn-1")
    status = await commands.submit(THIS_MACHINE, verb, ask(selector=named("sn-1"), arguments=arguments))
    assert [(one.result, one.code, one.cause) for one in status.outcomes] == [(Result.REFUSED, *expected)]
    assert await devices.show(database, "sn-1") == before


async def test_a_version_of_a_retired_release_key_is_refused_as_a_thing_s_target(database, commands):
    (before,) = await seed(database, "sn-1")
    found = Version("v" * 32, PRODUCT.product_id, "2.0", "", PRODUCT.name, "rev-a", 2, "0" * 64, 9, bytes(64), "k" * 32)
    async with database.write() as transaction:
        key = {"key_id": found.key_id, "public_key": bytes(32), "name": "main", "added_at": 0, "retired_at": 1}
        await transaction.connection.execute(insert(release_key), [key])
        await transaction.connection.execute(insert(image), [{"image_id": "0" * 64, "size": 9, "added_at": 0}])
        await transaction.connection.execute(insert(version), [version_row(found, NOW)])
    request = ask(selector=named("sn-1"), arguments={"version": "2.0"})
    (outcome,) = (await commands.submit(THIS_MACHINE, "set-target", request)).outcomes
    assert (outcome.code, outcome.cause) == ("CONFLICT", "release_key_retired")
    assert await devices.show(database, "sn-1") == before


async def test_settings_and_attributes_are_merged_and_taken_away(database, commands):
    await seed(database, "sn-1")
    for number, settings in enumerate(({"a": 1, "b": {"c": True}}, {"a": None, "d": "x"}, {"d": "x"})):
        await commands.submit(
            THIS_MACHINE, "set-settings", ask(f"s{number}", selector=named("sn-1"), arguments={"settings": settings})
        )
        await commands.submit(
            THIS_MACHINE,
            "set-attributes",
            ask(
                f"a{number}",
                selector=named("sn-1"),
                arguments={"attributes": {k: str(v) for k, v in settings.items() if v}},
            ),
        )
    thing = (await devices.show(database, "sn-1")).thing
    assert (thing.settings, thing.settings_rev) == ({"b": {"c": True}, "d": "x"}, 2)
    assert thing.attributes == {"a": "1", "b": "{'c': True}", "d": "x"}
    assert thing.rev == 4


async def test_a_registration_makes_devices_and_shows_new_keys_once(database, commands):
    arguments = {"group": GROUP.group_id, "devices": [{"serial": "n-1", "ou": "acme/eu"}, {"serial": "bad serial"}]}
    request = ask(arguments=arguments)
    status = await commands.submit(ALICE, "register", request)
    assert [(one.serial, one.result) for one in status.outcomes] == [
        ("n-1", Result.CHANGED),
        ("bad serial", Result.REFUSED),
    ]
    assert list(status.result["keys"]) == ["n-1"]
    assert (await commands.submit(ALICE, "register", request)).result == {}
    elsewhere = {"group": GROUP.group_id, "devices": [{"serial": "n-2", "ou": "acme/us"}]}
    status = await commands.submit(ALICE, "register", ask("2", arguments=elsewhere))
    assert [(one.code, one.cause) for one in status.outcomes] == [("FORBIDDEN", "out_of_scope")]
    assert [row["kind"] for row in await rows_of(database, event)] == ["registered"]
    text = json.dumps([dict(row) for row in await rows_of(database, audit)])
    assert "key" not in text


async def test_an_operator_sees_his_own_commands_only(database, commands):
    await seed(database, "sn-1")
    mine = await commands.submit(ALICE, "block", ask(selector=named("sn-1")))
    bob = Operator("bob", Role.ADMIN, "acme")
    assert await refused(commands.status(bob, mine.command.command_id)) == ("NOT_FOUND", "command_unknown")
    assert await refused(commands.cancel(bob, "1")) == ("NOT_FOUND", "command_unknown")
    assert (await commands.status(THIS_MACHINE, mine.command.command_id)).command == mine.command
    assert await commands.newest(bob) == []


@pytest.mark.parametrize("field", ["dryrun", "who", "Selector"])
def test_a_misspelt_field_is_no_field(field):
    with pytest.raises(ValidationError):
        ask(**{field: True})
    with pytest.raises(ValidationError):
        Selector.model_validate({field: "x"})


@pytest.mark.parametrize(
    "name", ["", "Alice", "a b", "a/b", "+", "#", "local", "firstlight", "a" * 33, "0" * 32, "a\n"]
)
async def test_an_illegal_account_name_makes_no_account(database, name):
    made = accounts.create(database, name, AccountKind.OPERATOR, now=NOW, random_bytes=os.urandom)
    assert await refused(made) == ("BAD_REQUEST", "account_name_illegal")
    assert await accounts.list_all(database) == []
