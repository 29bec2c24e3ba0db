"""Settings of sites by operators' commands: what a revision stands for, who hears of a change, what may stand in them."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest
from sqlalchemy import update

from device_sdk.wire.packer import packb, unpackb
from service.domain.catalogue import Endpoint, Environment
from service.domain.changes import Changes
from service.domain.credential import CredentialKind
from service.domain.device import DeviceState
from service.domain.warehouse import Step, values_named
from service.operations import devices
from service.operations.accounts import THIS_MACHINE, Operator
from service.operations.commands import Commands
from service.operations.enrolment import dispatch
from service.operations.verbs.verb import Role
from service.storage import queries as catalogue
from service.storage import warehouse_queries as queries
from service.storage.store import SqlStore
from service.storage.warehouse_tables import equipment
from tests.support.commands import ask, rows_of
from tests.support.refusals import refused
from tests.support.storage import DERIVED, NOW, a_thing
from tests.support.warehouse import SETTINGS, SITE, Warehouse, put_unit, unit_of

HALL_2 = {"name": "hall-2", "ou": "acme/eu/hall-2", "settings": SETTINGS}
NAME = f"{DERIVED.group_id}/t-1"


@pytest.fixture
def house(commands):
    return Warehouse(commands)


async def read(database, query, *arguments):
    async with database.read() as connection:
        return await query(connection, *arguments)


async def revisions(database) -> dict[str, int]:
    return {name: one.settings_rev for name, one in (await read(database, queries.sites)).items()}


async def settings(database, name: str):
    of = (await read(database, queries.sites, [name]))[name]
    return await read(database, queries.settings_of, database.sealer, of)


async def at(database, step: Step, serial: str = "t-1", *, sent_rev: int = 0) -> None:
    """As if the device had come that far, and was given this revision."""
    await put_unit(database, replace(await unit_of(database, serial), step=step))
    async with database.write() as transaction:
        of = equipment.c.serial == serial
        await transaction.connection.execute(update(equipment).where(of).values(settings_sent_rev=sent_rev))


async def test_no_revision_is_that_of_two_sites(database, house):
    await house.furnish()  # hall-1, which has none
    await house.done("create-site", sites=[HALL_2, {**HALL_2, "name": "hall-3"}])
    assert await revisions(database) == {"hall-1": 0, "hall-2": 1, "hall-3": 2}
    await house.done("set-site", site="hall-1", settings=SETTINGS)
    status = await house.ask("set-site", site="hall-2", settings={"features": {"kiosk": False}})
    assert status.result == {"settings_rev": 4}
    assert await revisions(database) == {"hall-1": 3, "hall-2": 4, "hall-3": 2}


async def test_a_type_that_takes_other_settings_renews_those_of_the_sites_of_its_units(database, house):
    await house.furnish("t-1", "t-2")
    await house.done("set-site", site="hall-1", settings=SETTINGS)
    await house.done("create-site", sites=[HALL_2])
    await house.done("hand-over", order="SO-1")
    await at(database, Step.AT_SITE, sent_rev=1)
    rev = await read(database, catalogue.catalogue_rev)
    await house.done("set-type", type="tablet", description="another")
    await house.done(
        "set-type", type="tablet", warehouse_settings=["network"], handshake_settings=["features", "payment"]
    )
    assert (await revisions(database), await read(database, catalogue.catalogue_rev)) == (
        {"hall-1": 1, "hall-2": 2},
        rev,
    )  # fmt: skip - each unit gets the same as before
    await house.done("set-type", type="tablet", handshake_settings=["features"])
    assert await revisions(database) == {"hall-1": 3, "hall-2": 2}
    assert await settings(database, "hall-1") == SETTINGS
    assert await read(database, catalogue.catalogue_rev) == rev + 1


async def test_a_dry_run_of_a_type_renews_nothing(database, house):
    await house.furnish("t-1")
    await house.done("set-site", site="hall-1", settings=SETTINGS)
    await house.done("hand-over", order="SO-1")
    await at(database, Step.AT_SITE, sent_rev=1)
    assert await house.results("set-type", type="tablet", handshake_settings=[], dry_run=True) == ["changed"]
    assert await revisions(database) == {"hall-1": 1}


async def released(database, house, step: Step) -> None:
    """A unit of hall-1 that is on no order any more; and an order for hall-2."""
    await house.furnish("t-1")
    await house.done("create-site", sites=[HALL_2])
    await house.done("enter-order", rows=[{"order": "SO-2", "site": "hall-2", "type": "tablet"}])
    await house.done("hand-over", order="SO-1")
    await at(database, step)
    await house.done("release-units", order="SO-1", units=[NAME])


@pytest.mark.parametrize("step", [Step.SHIPPED, Step.AT_SITE])
async def test_a_unit_that_has_left_the_warehouse_is_for_no_other_site_until_it_is_received(database, house, step):
    await released(database, house, step)
    row = {"order": "SO-2", "serial": "t-1"}
    assert await house.results("enter-order", rows=[row]) == ["unit_elsewhere"]
    (one,) = dispatch.read(json.dumps({"orderId": "SO-2", "lines": [{"line": 1, "serials": ["t-1"]}]}).encode())
    assert (await refused(dispatch.take(database, one, by="local", now=NOW)))[1] == "unit_elsewhere"
    assert (await unit_of(database, "t-1")).site == "hall-1"
    same = {"order": "SO-3", "site": "hall-1", "type": "tablet", "serial": "t-1"}
    assert await house.results("enter-order", rows=[same], dry_run=True) == ["changed"]
    await house.done("receive", units=[{"serial": "t-1", "type": "tablet"}])
    assert await house.results("enter-order", rows=[row]) == ["changed"]
    assert (await unit_of(database, "t-1")).site == "hall-2"


async def test_a_dispatch_takes_a_unit_that_was_received_to_its_site(database, house):
    await released(database, house, Step.OUT_OF_BOX)
    (one,) = dispatch.read(json.dumps({"orderId": "SO-2", "lines": [{"line": 1, "serials": ["t-1"]}]}).encode())
    assert (await dispatch.take(database, one, by="local", now=NOW)).bound == 1
    assert (await unit_of(database, "t-1")).site == "hall-2"
    assert [row["site"] for row in await rows_of(database, equipment)] == ["hall-2"]
    await at(database, Step.SHIPPED)
    assert (await dispatch.take(database, one, by="local", now=NOW)).already == 1


async def test_a_site_for_a_unit_that_was_shipped_without_one_wakes_the_service(database, house):
    await released(database, house, Step.OUT_OF_BOX)
    await at(database, Step.SHIPPED)
    assert (await unit_of(database, "t-1")).site is None
    rev = await read(database, catalogue.catalogue_rev)
    assert await house.results("enter-order", rows=[{"order": "SO-2", "serial": "t-1"}]) == ["changed"]
    assert await read(database, catalogue.catalogue_rev) == rev + 1
    assert (await unit_of(database, "t-1")).site == SITE["name"].replace("1", "2")


WRONG = {
    "fraction": 1.5,
    "negative": -1,
    "too great": 2**53,
    "no name": {"": 1},
    "a long name": {"k" * 65: 1},
    "too deep": [[[[1]]]],
    "too much": "x" * 4096,
}


@pytest.mark.parametrize("value", WRONG.values(), ids=WRONG)
async def test_what_no_device_could_take_is_refused_when_it_is_entered(database, house, value):
    await house.done("create-site", sites=[{**HALL_2, "name": "hall-1"}])
    wrong = {"features": {"volume": value}}
    assert await house.results("set-site", site="hall-1", settings=wrong) == ["settings_illegal"]
    assert await house.results("set-site", site="hall-1", settings=wrong, replace=True) == ["settings_illegal"]
    assert await house.results("create-site", sites=[{**HALL_2, "settings": wrong}]) == ["settings_illegal"]
    assert await settings(database, "hall-1") == SETTINGS
    assert await revisions(database) == {"hall-1": 1}


@pytest.mark.parametrize("values", [{"volume": "\ud800"}, {"\udfff": 1}, {"volume": [{"x\ud800": 1}]}])
async def test_half_a_character_is_refused_before_it_is_stored_anywhere(database, house, values):
    await house.done("create-site", sites=[SITE])
    wrong = {"features": values}
    assert await refused(house.ask("set-site", site="hall-1", settings=wrong)) == ("BAD_REQUEST", "bad_argument")
    assert await refused(house.ask("create-site", sites=[{**HALL_2, "settings": wrong}])) == (
        "BAD_REQUEST", "bad_argument",
    )  # fmt: skip
    assert await refused(house.ask("close-order", orders=["\ud800"])) == ("BAD_REQUEST", "bad_argument")
    assert await revisions(database) == {"hall-1": 0}


async def test_one_is_not_true(database, house):
    await house.done("create-site", sites=[{**HALL_2, "settings": {"features": {"kiosk": True}}}])
    one = {"features": {"kiosk": 1}}
    assert await house.results("create-site", sites=[{**HALL_2, "settings": one}]) == ["site_exists"]
    assert await house.results("set-site", site="hall-2", settings=one) == ["changed"]
    assert (await settings(database, "hall-2"))["features"]["kiosk"] is not True


async def test_what_is_entered_is_what_the_wire_carries(database, house):
    good = {"features": {"b": True, "n": 2**53 - 1, "t": "\u00e9\U0001f600", "l": [1, "x", {}], "m": {"k" * 64: 0}}}
    await house.done("create-site", sites=[{**HALL_2, "settings": good}])
    values = await settings(database, "hall-2")
    assert unpackb(packb({"rev": 1, "values": values}))["values"] == good


async def test_a_site_changes_its_ou_within_the_account_s(database, house, commands):
    await house.furnish("t-1")
    assert await house.results("set-site", site="hall-1", ou="acme/eu/hall-9") == ["changed"]
    assert (await read(database, queries.sites))["hall-1"].ou == "acme/eu/hall-9"
    assert await house.results("set-site", site="hall-1", ou="acme//x") == ["ou_illegal"]
    assert await house.results("set-site", site="hall-1", ou="acme/eu/hall-9") == ["unchanged"]
    await house.done("receive", units=[{"serial": "t-1", "type": "tablet"}])
    eve = Warehouse(commands, Operator("eve", Role.OPERATOR, "acme/eu"))
    assert await eve.results("set-site", site="hall-1", ou="acme/us") == ["out_of_scope"]
    assert await eve.results("set-site", site="hall-1", ou="acme/eu/x") == ["changed"]


async def test_an_occupied_site_changes_its_ou_once_its_devices_are_there(database, clock):
    prod = Environment("prod", {CredentialKind.API_KEY: Endpoint("localhost", 1883, tls=False)})
    commands = Commands(database, {"prod": prod}, random_bytes=os.urandom, clock=clock)
    house = Warehouse(commands)
    await house.furnish("t-1", "t-2")
    await house.done("hand-over", order="SO-1")
    one, two = await devices.show(database, "t-1"), await devices.show(database, "t-2")
    active = replace(two, state=DeviceState.CONFIRMED, thing=a_thing(two, ou=two.ou))
    async with SqlStore(database, {}).batch() as batch:
        await batch.save(Changes(devices=((two, active),)))
    status = await house.ask("set-site", site="hall-1", ou="acme/us")
    assert [(each.cause, each.reason.endswith("line-2/t-1, line-2/t-2")) for each in status.outcomes] == [
        ("site_occupied", True)
    ]

    async def moved(verb, serial, ou):
        asked = ask(f"{verb}-{serial}", selector={"devices": [f"{one.group_id}/{serial}"]}, arguments={"ou": ou})
        status = await commands.submit(THIS_MACHINE, verb, asked)
        assert status.command.refused == 0, status.outcomes

    await moved("allocate", "t-1", "acme/us")
    assert await house.results("set-site", site="hall-1", ou="acme/us") == ["site_occupied"]
    await moved("reprovision", "t-2", "acme/us/x")  # below it is in it
    await house.done("set-site", site="hall-1", ou="acme/us")
    assert (await read(database, queries.sites))["hall-1"].ou == "acme/us"


KINDS = [
    "payment.terminal:text",
    "payment.floor:number",
    "features.kiosk:flag",
    "features.menu:list",
    "network.wifi:map",
]
FIT = {
    "payment": {"terminal": "T1", "floor": 3, "more": 1},
    "features": {"kiosk": True, "menu": [1]},
    "network": {"wifi": {"ssid": "hall"}},
}
MISFITS = [
    {"payment": {"terminal": 1}},
    {"payment": {"floor": True}},
    {"payment": {"floor": "3"}},
    {"features": {"kiosk": 1}},
    {"features": {"menu": {}}},
    {"network": {"wifi": "hall"}},
]


@pytest.mark.parametrize("wrong", MISFITS)
async def test_a_value_is_what_the_device_types_at_its_site_say_it_must_be(database, house, wrong):
    await house.furnish()
    await house.done("set-type", type="tablet", handshake_settings=[*KINDS, "payment"])
    assert await house.results("set-site", site="hall-1", settings=FIT) == ["changed"]
    assert await house.results("set-site", site="hall-1", settings=wrong) == ["setting_kind"]
    assert await settings(database, "hall-1") == FIT
    # Of another site, where no such unit goes, they are nobody's business, until one is ordered.
    await house.done("create-site", sites=[{**HALL_2, "settings": wrong}])
    row = {"order": "SO-2", "site": "hall-2", "type": "tablet"}
    assert await house.results("enter-order", rows=[row]) == ["setting_kind"]
    await house.done("set-site", site="hall-2", settings=FIT, replace=True)
    assert await house.results("enter-order", rows=[row]) == ["changed"]


async def test_what_a_value_must_be_changes_nothing_of_what_a_device_gets(database, house):
    await house.furnish("t-1")
    await house.done("set-site", site="hall-1", settings=FIT)
    await house.done("hand-over", order="SO-1")
    await at(database, Step.AT_SITE, sent_rev=1)
    await house.done("set-type", type="tablet", handshake_settings=["payment.terminal", "features"])
    assert await revisions(database) == {"hall-1": 2}
    await house.done("set-type", type="tablet", handshake_settings=["payment.terminal:text", "features"])
    assert await revisions(database) == {"hall-1": 2}
    of = (await read(database, queries.device_types))["tablet"]
    assert values_named(FIT, of.handshake_settings) == {"payment": {"terminal": "T1"}, "features": FIT["features"]}


@pytest.mark.parametrize("names", [["payment:map"], ["payment.:text"], ["sound.a:text"]])
async def test_what_a_value_must_be_is_said_of_a_value(house, names):
    await house.furnish()
    assert await house.results("set-type", type="tablet", handshake_settings=names) == ["setting_name_illegal"]
    twice = {"warehouse_settings": ["payment.a:text"], "handshake_settings": ["payment.a"]}
    assert await house.results("set-type", type="tablet", **twice) == ["setting_twice"]
