"""Reprovision and replacement as commands: what is refused, what is saved, and what an operator is told."""

from __future__ import annotations

import base64
import json
import os
from dataclasses import replace

import pytest
from sqlalchemy import update

from service.domain import desired, placement
from service.domain import event as happened
from service.domain.catalogue import Endpoint, Environment
from service.domain.changes import Changes
from service.domain.credential import CredentialKind
from service.domain.device import DeviceState, Firmware, FirmwareState
from service.errors import ServiceError
from service.operations import aftermath, devices, groups
from service.operations.accounts import THIS_MACHINE, Operator
from service.operations.commands import Commands
from service.operations.outcomes import Result
from service.operations.requests import raise_catalogue_rev
from service.operations.verbs.verb import Role
from service.storage import tables
from service.storage.operator_tables import event
from service.storage.store import SqlStore
from tests.support.commands import Clock, Row, ask, named, rows_of, seed
from tests.support.releases import add as add_version
from tests.support.releases import sign
from tests.support.storage import DERIVED, GROUP, NOW, a_device, a_thing, new_database

END = {CredentialKind.API_KEY: Endpoint("localhost", 8883, tls=True)}
ENVIRONMENTS = {name: Environment(name, END) for name in ("prod", "test")}
KEY = base64.b64encode(bytes(range(32))).decode()
ALICE = Operator("alice", Role.OPERATOR, "acme/eu")


@pytest.fixture
async def database(tmp_path):
    opened = await new_database(tmp_path / "firstlight.db")
    yield opened
    await opened.close()


@pytest.fixture
def commands(database):
    return Commands(database, ENVIRONMENTS, random_bytes=os.urandom, clock=Clock())


async def add(database, *made):
    async with SqlStore(database, {}).batch() as batch:
        await batch.save(Changes(devices=tuple((None, one) for one in made)))


async def kinds(database):
    return [Row(row).kind for row in await rows_of(database, event)]


async def test_a_reprovision_starts_a_move_and_another_ou_is_reached_at_once(database, commands):
    await seed(database, "sn-1", "sn-2")
    status = await commands.submit(
        THIS_MACHINE, "reprovision", ask(selector=named("sn-1"), arguments={"ou": "acme/us", "environment": "test"})
    )
    assert status.command.changed == 1
    thing = (await devices.show(database, "sn-1")).thing
    assert (thing.ou, thing.environment, thing.rev) == ("acme/eu", "prod", 1)
    assert (thing.move.ou, thing.move.environment, thing.move.command_id) == (
        "acme/us",
        "test",
        status.command.command_id,
    )
    await commands.submit(THIS_MACHINE, "reprovision", ask("2", selector=named("sn-2"), arguments={"ou": "acme/us"}))
    thing = (await devices.show(database, "sn-2")).thing
    assert (thing.ou, thing.move, thing.rev) == ("acme/us", None, 1)
    assert await kinds(database) == ["move_started", "moved"]


REFUSED = {
    "nowhere": (THIS_MACHINE, {}, ("BAD_REQUEST", "place_missing")),
    "an illegal OU": (THIS_MACHINE, {"ou": "a b"}, ("BAD_REQUEST", "ou_illegal")),
    "an illegal environment": (THIS_MACHINE, {"environment": "a/b"}, ("BAD_REQUEST", "environment_illegal")),
    "an unknown environment": (THIS_MACHINE, {"environment": "mars"}, ("NOT_FOUND", "environment_unknown")),
    "out of the operator's OU": (ALICE, {"ou": "acme/us"}, ("FORBIDDEN", "out_of_scope")),
    "a method that forbids it": (THIS_MACHINE, {"environment": "test", "method": "never"}, ("FORBIDDEN", "move_never")),
    "a deadline of a second": (THIS_MACHINE, {"ou": "x", "deadline_s": 1}, ("BAD_REQUEST", "deadline_illegal")),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_a_reprovision_is_refused_and_nothing_moves(database, commands, case):
    operator, arguments, expected = REFUSED[case]
    (before,) = await seed(database, "sn-1")
    status = await commands.submit(operator, "reprovision", ask(selector=named("sn-1"), arguments=arguments))
    assert [(one.result, one.code, one.cause) for one in status.outcomes] == [(Result.REFUSED, *expected)]
    assert await devices.show(database, "sn-1") == before


async def outcome_of(commands, verb, id_, selector, **arguments):
    (one,) = (await commands.submit(THIS_MACHINE, verb, ask(id_, selector=selector, arguments=arguments))).outcomes
    return one.result.value, one.cause


async def test_a_replacement_names_a_successor_and_is_undone(database, commands):
    (old,) = await seed(database, "old")
    await add(database, a_device("new"))
    assert await outcome_of(commands, "replace", "1", named("old"), new="line-1/new") == ("changed", None)
    new = await devices.show(database, "new")
    assert (new.thing.successor_device_id, new.thing.holder_device_id) == (new.device_id, old.device_id)
    assert (await devices.show(database, "old")).thing == new.thing
    assert new.thing.rev == 1
    assert await outcome_of(commands, "replace", "2", named("old"), new="line-1/new") == ("unchanged", None)
    assert await outcome_of(commands, "undo-replace", "3", named("old")) == ("changed", None)
    new = await devices.show(database, "new")
    assert (new.thing, new.state) == (None, DeviceState.REGISTERED)
    assert (await devices.show(database, "old")).thing == replace(old.thing, rev=2)
    assert await kinds(database) == ["replacement_started", "replacement_undone"]
    assert await outcome_of(commands, "undo-replace", "4", named("old")) == ("refused", "nothing_to_undo")


async def test_a_replacement_by_a_key_registers_the_new_device(database, commands):
    await seed(database, "old")
    assert await outcome_of(commands, "replace", "1", named("old"), new="line-1/new", device_key=KEY) == (
        "changed",
        None,
    )
    new = await devices.show(database, "new")
    assert new.key.reveal() == bytes(range(32))
    assert await kinds(database) == ["registered", "replacement_started"]
    async with database.read() as connection:
        stored = (await connection.exec_driver_sql("SELECT arguments FROM command")).scalar_one()
    assert KEY not in stored


async def test_a_replacement_may_make_the_key_and_shows_it(database, commands):
    await seed(database, "old")
    asked = ask("1", selector=named("old"), arguments={"new": "line-1/new", "register_new": True})
    tried = await commands.submit(THIS_MACHINE, "replace", asked.model_copy(update={"id": "dry", "dry_run": True}))
    assert (tried.command.changed, tried.result, await kinds(database)) == (1, {}, [])
    status = await commands.submit(THIS_MACHINE, "replace", asked)
    key = base64.b64decode(status.result["keys"]["new"])
    assert (await devices.show(database, "new")).key.reveal() == key
    again = await commands.submit(THIS_MACHINE, "replace", asked)
    assert (again.command.command_id, again.result) == (status.command.command_id, status.result)
    assert await kinds(database) == ["registered", "replacement_started"]


async def of_derived_keys(database, policy):
    """A device in service in a group that derives keys, whose policy this is."""
    thing = a_thing(a_device("d-1", group_id="line-2"))
    await add(database, a_device("d-1", group_id="line-2", key=None, state=DeviceState.CONFIRMED, thing=thing))
    async with database.write() as transaction:
        group = tables.registration_group
        await transaction.connection.execute(update(group).where(group.c.group_id == "line-2").values(policy))
        await raise_catalogue_rev(transaction.connection)


NOBODY = {"self_registration": False}
SELF = {
    "a group whose devices register themselves": ({"self_registration": True}, {}, None),
    "and the serial fits": ({"self_registration": True, "serial_pattern": "d-*"}, {}, None),
    "and the serial does not fit": ({"self_registration": True, "serial_pattern": "e-*"}, {}, "replace_not_found"),
    "no self-registration": (NOBODY, {}, "replace_not_found"),
    "no self-registration, and told to": (NOBODY, {"register_new": True}, None),
    "a key of its own where there is none": (NOBODY, {"device_key": KEY}, "device_key_needless"),
}


@pytest.mark.parametrize("case", SELF)
async def test_a_new_device_whose_key_follows_from_its_group_is_registered_along_or_not(database, commands, case):
    policy, arguments, cause = SELF[case]
    await of_derived_keys(database, policy)
    selector = {"devices": ["line-2/d-1"]}
    said = await outcome_of(commands, "replace", "1", selector, new="line-2/d-2", **arguments)
    assert said == (("changed", None) if cause is None else ("refused", cause))
    if cause is not None:
        with pytest.raises(ServiceError, match="no device"):
            await devices.show(database, "line-2/d-2")
        assert (await devices.show(database, "d-1")).thing.successor_device_id is None


async def test_a_new_device_that_is_known_keeps_its_own_key(database, commands):
    await seed(database, "old")
    await add(database, a_device("new"))
    asked = ask("1", selector=named("old"), arguments={"new": "line-1/new", "device_key": KEY})
    (refused,) = (await commands.submit(THIS_MACHINE, "replace", asked)).outcomes
    assert (refused.code, refused.cause, refused.enos_code) == ("CONFLICT", "replace_other_key", 35601)
    assert await outcome_of(commands, "replace", "2", named("old"), new="line-1/new", register_new=True) == (
        "changed",
        None,
    )


async def test_contradictory_replacements_are_refused_with_enos_codes(database, commands):
    await seed(database, "old", "other")
    await add(database, a_device("new"), a_device("else", group_id=DERIVED.group_id, key=None), a_device("n2"))
    wrong = {
        "line-1/old": "replace_same_serial",
        "line-1/nobody": "replace_not_found",
        "line-2/else": "replace_other_group",
        "line-1/other": "replace_new_has_thing",
    }
    for number, (new, cause) in enumerate(wrong.items()):
        assert await outcome_of(commands, "replace", f"w{number}", named("old"), new=new) == ("refused", cause)
    status = await commands.submit(
        THIS_MACHINE, "replace", ask("e", selector=named("old"), arguments={"new": "line-1/other"})
    )
    assert status.outcomes[0].enos_code == 35603
    await commands.submit(THIS_MACHINE, "replace", ask("1", selector=named("old"), arguments={"new": "line-1/new"}))
    assert await outcome_of(commands, "replace", "2", named("old"), new="line-1/n2") == ("refused", "replace_already")
    moved = await outcome_of(commands, "reprovision", "3", named("old"), environment="test")
    assert moved == ("refused", "move_during_replacement")
    await commands.submit(
        THIS_MACHINE, "reprovision", ask("4", selector=named("other"), arguments={"environment": "test"})
    )
    assert await outcome_of(commands, "replace", "5", named("other"), new="line-1/n2") == (
        "refused",
        "replace_during_move",
    )
    assert await outcome_of(commands, "retire", "6", named("old")) == ("refused", "replacement_under_way")


async def test_a_version_that_was_held_back_is_released(database, commands):
    firmware = Firmware(FirmwareState.FAILED, "e" * 32, cause="boot", reported_at=NOW, confirmed_seq=3)
    await seed(database, "sn-1", tries={"e" * 32: 2}, firmware=firmware)
    assert await outcome_of(commands, "release-version", "1", named("sn-1")) == ("changed", None)
    device = await devices.show(database, "sn-1")
    assert (device.tries, device.firmware) == ({}, Firmware(confirmed_seq=3))
    assert await outcome_of(commands, "release-version", "2", named("sn-1")) == ("refused", "nothing_to_release")


@pytest.mark.parametrize("state", [FirmwareState.TIMED_OUT, FirmwareState.FAILED])
async def test_a_version_that_timed_out_or_failed_once_is_released_by_its_name_and_no_other(
    database, commands, images, image, key, trusted, state
):
    found = (await add_version(database, images, image, sign(image, key))).version
    await add_version(database, images, image, sign(image, key, name="3.0", seq=3), name="3.0")
    firmware = Firmware(state, found.version_id, reported_at=NOW, confirmed_seq=1)
    await seed(database, "sn-1", tries={"e" * 32: 2}, firmware=firmware)
    refused = await outcome_of(commands, "release-version", "1", named("sn-1"), version="3.0")
    assert refused == ("refused", "nothing_to_release")
    assert await outcome_of(commands, "release-version", "2", named("sn-1"), version="2.0") == ("changed", None)
    device = await devices.show(database, "sn-1")
    assert (device.firmware, device.tries, device.releases) == (Firmware(confirmed_seq=1), {"e" * 32: 2}, 1)
    (told,) = [Row(row) for row in await rows_of(database, event)]
    assert json.loads(told.data)["versions"] == [found.version_id]


@pytest.mark.unaudited
async def test_a_replaced_device_is_neither_moved_nor_replaced_again(database, commands):
    await add(database, a_device("gone", state=DeviceState.REPLACED, replaced_by="dev-x"), a_device("new"))
    assert await outcome_of(commands, "reprovision", "1", named("gone"), ou="acme/us") == ("refused", "move_replaced")
    assert await outcome_of(commands, "replace", "2", named("gone"), new="line-1/new") == (
        "refused",
        "replace_replaced",
    )
    assert await outcome_of(commands, "undo-replace", "3", named("gone")) == ("refused", "undo_too_late")


async def test_a_transfer_is_opened_once(database, commands):
    await seed(database, "sn-1")
    assert await outcome_of(commands, "transfer", "1", named("sn-1")) == ("changed", None)
    assert (await devices.show(database, "sn-1")).rekey
    assert await outcome_of(commands, "transfer", "2", named("sn-1")) == ("unchanged", None)
    assert await kinds(database) == ["transfer_opened"]


async def test_an_unknown_old_device_refuses_the_replacement(database, commands):
    with pytest.raises(ServiceError) as caught:
        await commands.submit(THIS_MACHINE, "replace", ask(selector=named("x"), arguments={"new": "line-1/new"}))
    assert (caught.value.code, caught.value.cause) == ("NOT_FOUND", "device_unknown")
    assert GROUP.group_id == "line-1"


async def test_initialise_resets_a_thing_to_the_group_s_template(database, commands):
    await seed(database, "sn-1", "sn-2")
    given = {"settings": {"volume": 3, "mode": "day"}}
    await commands.submit(THIS_MACHINE, "set-settings", ask("1", selector={"group": GROUP.group_id}, arguments=given))
    await groups.change(database, GROUP.group_id, {"template_settings": {"interval_s": 60}})
    before = (await devices.show(database, "sn-1")).thing
    assert before.settings == given["settings"]
    for serial, method in (("sn-1", "initialise"), ("sn-2", "migrate")):
        arguments = {"ou": "acme/us", "method": method}
        await commands.submit(THIS_MACHINE, "reprovision", ask(serial, selector=named(serial), arguments=arguments))
    after = (await devices.show(database, "sn-1")).thing
    assert (after.ou, after.settings, after.settings_rev) == ("acme/us", {"interval_s": 60}, before.settings_rev + 1)
    assert (await devices.show(database, "sn-2")).thing.settings == given["settings"]


async def fails(database, serial, *events_of):
    """What the service writes when a move was given up, or a device says that it cannot use its settings."""
    async with SqlStore(database, {}).batch() as batch:
        before = await devices.show(database, serial)
        after, events = before, ()
        if before.thing.move is not None:
            after, events = placement.abandon(before, NOW, "unreachable")
        events += tuple(happened.of(before, kind, NOW, **data) for kind, data in events_of)
        await batch.save(Changes(devices=((before, after),) if after is not before else (), events=events))


async def test_a_command_says_which_devices_failed_later_and_why(database, commands, monkeypatch):
    monkeypatch.setattr(aftermath, "MAX_PAGE", 2)
    await seed(database, "sn-1", "sn-2", "sn-3", "sn-4")
    sent = ask("1", selector={"group": GROUP.group_id}, arguments={"environment": "test"})
    await commands.submit(THIS_MACHINE, "reprovision", sent)
    other = ask("2", selector=named("sn-4"), arguments={"environment": "prod"})
    await commands.submit(THIS_MACHINE, "reprovision", other)
    for serial in ("sn-3", "sn-1"):
        await fails(database, serial)
    first = await commands.status(THIS_MACHINE, "1")
    second = await commands.status(THIS_MACHINE, "1", failed_after=first.failed_after)
    told = [(one.event.serial, one.event.kind, one.event.data["cause"], one.event.at) for one in first.failed]
    assert told[1] == ("sn-3", "move_failed", "unreachable", NOW)
    assert [one.event.serial for one in (*first.failed, *second.failed)] == ["sn-4", "sn-3", "sn-1"]
    assert second.failed_after is None
    assert first.later["move_failed"] == 3
    assert (await commands.status(THIS_MACHINE, "2")).failed == ()


async def test_settings_that_a_device_cannot_use_are_those_of_the_command_that_made_them(database, commands):
    await seed(database, "sn-1", "sn-2")
    for number in ("1", "2"):
        given = {"settings": {"volume": int(number)}}
        everything = {"group": GROUP.group_id}
        await commands.submit(THIS_MACHINE, "set-settings", ask(number, selector=everything, arguments=given))
    of_a_site = ("settings_failed", {"rev": 2, "cause": "x", "site": "hall"})  # a unit's, with revisions of its own
    await fails(database, "sn-2", ("settings_failed", {"rev": 2, "cause": "no such volume"}), of_a_site)
    first, second = [await commands.status(THIS_MACHINE, number) for number in ("1", "2")]
    assert (first.failed, first.later) == ((), {"settings_changed": 2})
    assert [(one.event.serial, one.event.data["cause"]) for one in second.failed] == [("sn-2", "no such volume")]
    assert second.later == {"settings_changed": 2, "settings_failed": 1}
    async with database.read() as connection:
        assert await aftermath.command_of(connection, second.failed[0]) == second.command.command_id


@pytest.mark.parametrize(("expires_s", "waits_s"), [(600, 600), (48 * 3600, 7200), (None, 7200), (0, 0.322)])
async def test_what_a_command_waits_for_ends_with_it(database, commands, expires_s, waits_s):
    now = commands.now()
    await seed(database, "sn-1", "sn-2")
    await add(database, a_device("new"))
    more = {}
    if expires_s is not None:  # a whole second; the clock is between two
        more = {"expires_at": int(now.timestamp()) + max(expires_s, 1)}
        waits_s = min(waits_s, more["expires_at"] - now.timestamp())
    sent = ask("1", selector=named("sn-1"), arguments={"environment": "test", "deadline_s": 7200}, **more)
    await commands.submit(THIS_MACHINE, "reprovision", sent)
    asked = ask("2", selector=named("sn-2"), arguments={"new": "line-1/new", "deadline_s": 7200}, **more)
    await commands.submit(THIS_MACHINE, "replace", asked)
    device = await devices.show(database, "sn-1")
    await seed(database, "sn-3", "sn-4")
    await commands.submit(
        THIS_MACHINE, "retire", ask("3", selector=named("sn-3"), arguments={"deadline_s": 7200}, **more)
    )
    await commands.submit(THIS_MACHINE, "transfer", ask("4", selector=named("sn-4"), **more))
    assert (await devices.show(database, "sn-3")).retire_deadline_at == device.thing.move.deadline_at
    until = (await devices.show(database, "sn-4")).rekey_deadline_at
    assert (until and until.timestamp()) == more.get("expires_at")
    successor = (await devices.show(database, "sn-2")).thing
    for until in (device.thing.move.deadline_at, successor.successor_deadline_at):
        assert (until - now).total_seconds() == pytest.approx(waits_s, abs=0.01)
    document = desired.content(device, device.credentials[0], await SqlStore(database, ENVIRONMENTS).catalogue(), now)
    assert document["placement"]["deadline_s"] == max(1, int(waits_s))


async def test_a_move_that_ends_because_its_device_is_retired_is_reported_as_failed(database, commands):
    await seed(database, "sn-1")
    move = await commands.submit(
        THIS_MACHINE, "reprovision", ask("1", selector=named("sn-1"), arguments={"environment": "test"})
    )
    await commands.submit(THIS_MACHINE, "retire", ask("2", selector=named("sn-1")))
    assert await kinds(database) == ["move_started", "move_failed", "retired"]
    status = await commands.status(THIS_MACHINE, move.command.command_id)
    assert [(one.event.serial, one.event.data["cause"]) for one in status.failed] == [("sn-1", "retired")]
    assert (await devices.show(database, "sn-1")).thing.move is None


async def test_both_devices_of_a_thing_in_one_page_change_it_once(database, commands):
    await seed(database, "old")
    await add(database, a_device("new", ou="acme/eu"))
    assert await outcome_of(commands, "replace", "1", named("old"), new="line-1/new") == ("changed", None)
    for number, verb in enumerate(("set-settings", "set-attributes")):
        arguments = {verb.removeprefix("set-"): {"a": 1}}
        asked = ask(f"s{number}", selector={"group": GROUP.group_id}, arguments=arguments)
        status = await commands.submit(THIS_MACHINE, verb, asked)
        assert sorted(one.result for one in status.outcomes) == [Result.CHANGED, Result.UNCHANGED]
    old, new = [await devices.show(database, serial) for serial in ("old", "new")]
    assert old.thing == new.thing
    assert (old.thing.rev, old.thing.settings_rev, old.thing.successor_device_id) == (3, 1, new.device_id)
    assert await kinds(database) == ["replacement_started", "settings_changed", "attributes_changed"]
