"""Operators' commands: what they select and change, and what they answer, also when repeated."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import pytest

from service.domain import event as happened
from service.domain.changes import Changes
from service.domain.device import DeviceState, Firmware, FirmwareState
from service.operations import devices, events, looking, ous
from service.operations.accounts import THIS_MACHINE
from service.operations.command_rows import CommandState
from service.operations.outcomes import Result
from service.storage.operator_tables import audit, event
from service.storage.store import SqlStore
from tests.support.commands import ALICE, Row, ask, named, rows_of, seed
from tests.support.refusals import refused
from tests.support.releases import add as add_version
from tests.support.releases import sign
from tests.support.storage import GROUP, NOW, PRODUCT, a_device


async def test_a_command_changes_what_is_selected_and_says_so(database, commands):
    await seed(database, "sn-1", "sn-2")
    await seed(database, "sn-3", ou="acme/us")
    status = await commands.submit(THIS_MACHINE, "block", ask(selector={"ou": "acme/eu"}))
    assert (status.command.state, status.command.total, status.command.changed) == (CommandState.DONE, 2, 2)
    states = {name: (await devices.show(database, name)).state for name in ("sn-1", "sn-2", "sn-3")}
    assert list(states.values()) == [DeviceState.BLOCKED, DeviceState.BLOCKED, DeviceState.CONFIRMED]
    told = await rows_of(database, event)
    assert [(row.kind, row.serial, row.ou, row.command_id) for row in map(Row, told)] == [
        ("blocked", "sn-1", "acme/eu", status.command.command_id),
        ("blocked", "sn-2", "acme/eu", status.command.command_id),
    ]
    log = [Row(row) for row in await rows_of(database, audit)]
    assert [(row.serial, row.outcome) for row in log] == [(None, "accepted"), ("sn-1", "changed"), ("sn-2", "changed")]
    assert json.loads(log[0].selector) == {"ou": "acme/eu"}
    assert json.loads(log[1].before) == {"state": "confirmed", "rev": 0, "credentials": ["confirmed"]}
    assert json.loads(log[1].after) == {"state": "blocked", "rev": 1}


async def test_signs_of_a_second_device_are_taken_back_before_it_comes_to_a_freeze(database, commands):
    await seed(database, "sn-1", clone_signs=2, clone_at=NOW)
    assert (await looking.get(database, THIS_MACHINE, "line-1/sn-1"))["clone_signs"] == 2
    status = await commands.submit(THIS_MACHINE, "unfreeze", ask(selector=named("sn-1")))
    assert [one.result for one in status.outcomes] == [Result.CHANGED]
    after = await devices.show(database, "sn-1")
    assert (after.clone_signs, after.clone_at, after.frozen) == (0, None, False)
    *_, noted = [Row(row) for row in await rows_of(database, audit)]
    assert [json.loads(one) for one in (noted.before, noted.after)] == [{"clone_signs": 2, "rev": 0}, {"rev": 1}]
    assert await rows_of(database, event) == []
    again = await commands.submit(THIS_MACHINE, "unfreeze", ask("2", selector=named("sn-1")))
    assert [(one.result, one.cause) for one in again.outcomes] == [(Result.REFUSED, "not_frozen")]


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


async def test_devices_registered_after_a_command_are_not_in_it(database, commands, clock):
    await seed(database, "sn-1")
    await seed(database, "sn-2", registered_at=clock() + timedelta(seconds=1))
    status = await commands.submit(THIS_MACHINE, "block", ask(selector={"group": GROUP.group_id}))
    assert (status.command.total, status.command.changed) == (1, 1)


async def test_a_named_device_is_found_although_the_clock_went_back_since_it_was_registered(database, commands, clock):
    await seed(database, "sn-1", registered_at=clock() + timedelta(hours=1))
    status = await commands.submit(THIS_MACHINE, "block", ask(selector=named("sn-1")))
    assert status.command.changed == 1


@pytest.mark.parametrize(
    ("selector", "serials"),
    [
        ({"ou": "acme"}, {"a", "b", "c", "y", "z"}),
        ({"ou": "acme/e_"}, {"c"}),
        ({"ou": "acme/eu"}, {"a", "b"}),
        ({"environment": "prod", "state": "confirmed"}, {"a", "b", "c"}),
        ({"environment": "test"}, {"y"}),
        ({"batch": "B42"}, {"b"}),
        ({"product": PRODUCT.product_id, "state": "registered"}, {"y", "z"}),
        ({"things": ["f" * 32]}, {"c"}),
        ({"devices": ["line-1/a", "line-1/c", "line-1/a"], "ou": "acme/eu"}, {"a"}),
    ],
)
async def test_the_parts_of_a_selector_narrow_the_selection(database, commands, selector, serials):
    await seed(database, "a")
    await seed(database, "b", ou="acme/eu/x", batch="B42")
    (device,) = await seed(database, "c", ou="acme/e_")
    async with SqlStore(database, {}).batch() as batch:
        made = (a_device("z"), a_device("y", environment="test"))
        await batch.save(Changes(devices=tuple((None, one) for one in made)))
    async with database.write() as transaction:  # a thing id that is one
        await transaction.connection.exec_driver_sql(
            "UPDATE thing SET thing_id = ? WHERE thing_id = ?", ("f" * 32, device.thing.thing_id)
        )
    status = await commands.submit(
        THIS_MACHINE, "set-attributes", ask(selector=selector, arguments={"attributes": {"x": 1}})
    )
    assert {one.serial for one in status.outcomes} == serials


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


async def test_an_attribute_that_is_one_may_become_true(database, commands):
    await seed(database, "sn-1")
    for number, value in enumerate((1, True, True)):
        asked = ask(str(number), selector=named("sn-1"), arguments={"attributes": {"a": value}})
        status = await commands.submit(THIS_MACHINE, "set-attributes", asked)
        assert status.command.changed == (number < 2)
    assert (await devices.show(database, "sn-1")).thing.attributes["a"] is True


async def test_a_registration_makes_devices_and_shows_new_keys(database, commands):
    arguments = {"group": GROUP.group_id, "devices": [{"serial": "n-1", "ou": "acme/eu"}, {"serial": "bad serial"}]}
    request = ask(arguments=arguments)
    status = await commands.submit(ALICE, "register", request)
    assert [(one.serial, one.result) for one in status.outcomes] == [
        ("n-1", Result.CHANGED),
        ("bad serial", Result.REFUSED),
    ]
    assert list(status.result["keys"]) == ["n-1"]
    elsewhere = {"group": GROUP.group_id, "devices": [{"serial": "n-2", "ou": "acme/us"}]}
    status = await commands.submit(ALICE, "register", ask("2", arguments=elsewhere))
    assert [(one.code, one.cause) for one in status.outcomes] == [("FORBIDDEN", "out_of_scope")]
    assert [row["kind"] for row in await rows_of(database, event)] == ["registered"]
    text = json.dumps([dict(row) for row in await rows_of(database, audit)])
    assert "key" not in text


async def test_an_allocation_says_which_ou_a_device_leaves(database, commands):
    async with SqlStore(database, {}).batch() as batch:
        await batch.save(Changes(devices=((None, a_device("sn-1")),)))
    for number, ou in enumerate(("acme/x", "acme/x", "acme/y")):
        arguments = {"ou": ou, "batch": f"B{number}"}
        await commands.submit(
            THIS_MACHINE, "allocate", ask(ou + str(number), selector=named("sn-1"), arguments=arguments)
        )
    told = [json.loads(Row(row).data).get("from_ou") for row in await rows_of(database, event)]
    assert told == [GROUP.default_ou, None, "acme/x"]


async def test_an_ou_that_is_bound_says_the_environment_of_what_is_put_there(database, commands):
    await ous.change(database, "acme/eu", {"environment": "test"}, environments=("prod", "test"))
    elsewhere = {"ou": "acme/eu/hall", "environment": "prod"}
    made = {"group": GROUP.group_id, "devices": [{"serial": "n-1", **elsewhere}]}
    status = await commands.submit(THIS_MACHINE, "register", ask("1", arguments=made))
    assert [(one.code, one.cause) for one in status.outcomes] == [("CONFLICT", "ou_bound")]
    made = {"group": GROUP.group_id, "devices": [{"serial": "n-1", "environment": "prod"}]}
    await commands.submit(THIS_MACHINE, "register", ask("2", arguments=made))
    cases = (elsewhere, {"ou": "acme/eu"}, {"environment": "prod"}, {"environment": "test"}, {"ou": "acme/us"})
    found = []
    for number, arguments in enumerate(cases):
        asked = ask(f"a{number}", selector=named("n-1"), arguments=arguments)
        (one,) = (await commands.submit(THIS_MACHINE, "allocate", asked)).outcomes
        device = await devices.show(database, "n-1")
        found.append((one.cause, device.ou, device.environment))
    assert found == [
        ("ou_bound", None, "prod"),
        (None, "acme/eu", None),  # the OU says it
        ("ou_bound", "acme/eu", None),
        (None, "acme/eu", "test"),
        (None, "acme/us", "test"),
    ]


async def test_a_conflict_brings_each_device_as_it_is_now(database, commands):
    await seed(database, "sn-1", "sn-2")
    await commands.submit(THIS_MACHINE, "rename", ask("1", selector=named("sn-2"), arguments={"name": "Hall"}))
    both = ask("2", selector={"ou": "acme/eu"}, expected_rev=0)
    first = await commands.submit(ALICE, "block", both)
    again = await commands.submit(ALICE, "block", both)
    later = await commands.status(ALICE, "2")
    for status in (first, again, later):
        fine, stale = sorted(status.outcomes, key=lambda one: one.serial)
        assert (fine.result, fine.state, stale.cause) == (Result.CHANGED, None, "rev_stale")
        assert (stale.state["state"], stale.state["rev"], stale.state["name"]) == ("confirmed", 1, "Hall")
    async with SqlStore(database, {}).batch() as batch:  # it left the operator's OU since
        before = await devices.show(database, "sn-2")
        away = replace(before, thing=replace(before.thing, ou="zeta"))
        await batch.save(Changes(devices=((before, away),)))
    assert [one.state for one in (await commands.status(ALICE, "2")).outcomes] == [None, None]


async def test_a_device_is_shown_with_what_it_says_of_its_firmware(database, commands):
    until = NOW + timedelta(hours=2)
    said = Firmware(
        FirmwareState.DEFERRED, "e" * 32, 40, "battery", deferred_until=until, deferred_reason="in use", reported_at=NOW
    )
    await seed(database, "sn-1", firmware=said)
    shown = await looking.get(database, ALICE, f"{GROUP.group_id}/sn-1")
    assert {name: value for name, value in shown.items() if name.startswith("firmware")} == {
        "firmware": "deferred",
        "firmware_version_id": "e" * 32,
        "firmware_progress": 40,
        "firmware_cause": "battery",
        "firmware_deferred_until": int(until.timestamp() * 1000),
        "firmware_deferred_reason": "in use",
    }


@pytest.mark.usefixtures("trusted")
async def test_versions_are_shown_by_their_names_too(database, commands, images, image, key):
    added = (await add_version(database, images, image, sign(image, key))).version
    await seed(database, "sn-1", firmware=Firmware(FirmwareState.DOWNLOADING, added.version_id))
    await commands.submit(THIS_MACHINE, "set-target", ask(selector=named("sn-1"), arguments={"version": "2.0"}))
    shown = await looking.get(database, ALICE, f"{GROUP.group_id}/sn-1")
    assert (shown["firmware_version"], shown["target_version"], shown["target"]) == ("2.0", "2.0", added.version_id)


async def test_the_events_of_a_thing_are_those_of_all_devices_that_held_it(database):
    (old,) = await seed(database, "old")
    new = a_device("new", thing=replace(old.thing, holder_device_id="dev-new"))
    told = [happened.of(one, kind, NOW) for one, kind in ((old, "blocked"), (new, "replaced"), (a_device(), "blocked"))]
    async with SqlStore(database, {}).batch() as batch:
        await batch.save(Changes(events=tuple(told)))
    found = await events.page(database, thing_id=old.thing.thing_id)
    assert [one.event.serial for one in found] == ["old", "new"]
