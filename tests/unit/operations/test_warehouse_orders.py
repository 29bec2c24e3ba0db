"""Device types, sites and sales orders by operators' commands: what is made, what is the same again, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from sqlalchemy import update

from service.domain.changes import Changes
from service.domain.device import DeviceState
from service.domain.warehouse import Binding, DeviceType, Line, Order, Site, Step
from service.operations import devices
from service.operations.accounts import Operator
from service.operations.verbs.verb import Role
from service.storage import warehouse_queries as queries
from service.storage.operator_tables import audit, command
from service.storage.store import SqlStore
from service.storage.tables import device, registration_group, thing
from service.storage.warehouse_tables import equipment, site_settings
from tests.support.commands import rows_of
from tests.support.refusals import refused
from tests.support.storage import DERIVED, GROUP, a_device, a_thing
from tests.support.warehouse import SETTINGS, SITE, Warehouse, put_unit, unit_of

ROW = {"order": "SO-1", "site": "hall-1", "type": "tablet"}


@pytest.fixture
def house(commands):
    return Warehouse(commands)


async def read(database, query, *arguments):
    async with database.read() as connection:
        return await query(connection, *arguments)


async def test_a_device_type_says_which_settings_belong_to_which_step(database, house):
    of = {"name": "tablet", "group": GROUP.group_id, "warehouse_settings": ["features.locale"],
          "handshake_settings": ["payment", "network"]}  # fmt: skip
    assert await house.results("create-type", types=[of, of]) == ["changed", "unchanged"]
    assert await read(database, queries.device_types) == {
        "tablet": DeviceType("tablet", GROUP.group_id, "", None, ("features.locale",), ("payment", "network"))
    }
    assert await house.results("create-type", types=[{**of, "description": "another"}]) == ["type_exists"]
    assert await house.results("set-type", type="tablet", description="another") == ["changed"]
    assert await house.results("set-type", type="tablet", description="another") == ["unchanged"]
    assert (await read(database, queries.device_types))["tablet"].description == "another"


@pytest.mark.parametrize(
    ("fields", "cause"),
    [
        ({"name": "a/b"}, "name_illegal"),
        ({"group": "none"}, "group_unknown"),
        ({"manifest": "2030-07"}, "manifest_unknown"),
        ({"handshake_settings": ["sound"]}, "setting_name_illegal"),
        ({"handshake_settings": ["network."]}, "setting_name_illegal"),
        ({"warehouse_settings": ["network"]}, "setting_twice"),
        ({"description": "x" * 129}, "text_illegal"),
    ],
)
async def test_a_device_type_that_cannot_be_is_refused(house, fields, cause):
    assert await house.results("create-type", types=[{"name": "tablet", "group": GROUP.group_id, **fields}]) == [cause]


async def test_a_site_has_settings_under_a_revision(database, house):
    assert await house.results("create-site", sites=[SITE, {**SITE, "name": "hall-2", "settings": SETTINGS}]) == [
        "changed",
        "changed",
    ]
    assert await read(database, queries.sites) == {
        "hall-1": Site("hall-1", SITE["ou"], SITE["title"]),
        "hall-2": Site("hall-2", SITE["ou"], SITE["title"], 1),
    }
    status = await house.ask("set-site", site="hall-2", settings={"payment": {"terminal": "T2", "pin": "123"}})
    assert status.result == {"settings_rev": 2}
    await house.done("set-site", site="hall-2", settings={"network": None, "payment": {"pin": None}})
    assert await house.results("set-site", site="hall-2", settings={"payment": {"terminal": "T2"}}) == ["unchanged"]
    of = (await read(database, queries.sites))["hall-2"]
    assert of.settings_rev == 3
    found = await read(database, queries.settings_of, database.sealer, of)
    assert found == {"features": {"kiosk": True}, "payment": {"terminal": "T2"}}
    assert await house.results("set-site", site="hall-2", settings={"features": {"a": 1}}, replace=True) == ["changed"]
    of = (await read(database, queries.sites))["hall-2"]
    assert await read(database, queries.settings_of, database.sealer, of) == {"features": {"a": 1}}


async def test_settings_are_readable_in_no_column(database, house):
    secret = "hunter2-of-the-hall"
    await house.done("create-site", sites=[{**SITE, "settings": {"network": {"password": secret}}}])
    await house.done("set-site", site="hall-1", settings={"network": {"password": secret + "!"}})
    kept = [dict(row) for of in (audit, command, site_settings) for row in await rows_of(database, of)]
    assert len(kept) == 6
    assert secret not in str(kept)
    assert json.loads(kept[3]["arguments"])["settings"] == ["network.password"]


async def test_a_change_of_settings_may_ask_for_the_revision_that_was_seen(house):
    await house.done("create-site", sites=[{**SITE, "settings": SETTINGS}])
    change = {"site": "hall-1", "settings": {"features": {"kiosk": False}}}
    assert await house.results("set-site", **change, settings_rev=0) == ["rev_stale"]
    assert await house.results("set-site", **change, settings_rev=1) == ["changed"]


async def test_changed_settings_wake_the_service(database, house):
    from service.storage import queries as catalogue

    await house.done("create-site", sites=[SITE])
    before = await read(database, catalogue.catalogue_rev)
    await house.done("set-site", site="hall-1", title="Hall")
    assert await read(database, catalogue.catalogue_rev) == before
    await house.done("set-site", site="hall-1", settings=SETTINGS)
    assert await read(database, catalogue.catalogue_rev) == before + 1


@pytest.mark.parametrize(
    ("fields", "cause"),
    [
        ({"name": ""}, "name_illegal"),
        ({"ou": "acme//x"}, "ou_illegal"),
        ({"settings": {"sound": {}}}, "settings_illegal"),
        ({"settings": {"network": "x"}}, "settings_illegal"),
        ({"settings": {"network": {"a.b": 1}}}, "settings_illegal"),
        ({"settings": {"network": {"a": 1.5}}}, "settings_illegal"),
        ({"settings": {"network": {"a": "x" * 4096}}}, "settings_illegal"),
    ],
)
async def test_a_site_that_cannot_be_is_refused(house, fields, cause):
    assert await house.results("create-site", sites=[{**SITE, **fields}]) == [cause]


async def test_an_order_is_entered_row_by_row(database, house):
    await house.furnish()
    rows = [
        {**ROW, "order": "SO-2", "quantity": 2},
        {"order": "SO-2", "serial": "t-1"},
        {"order": "SO-2", "serial": "t-2"},
    ]
    assert await house.results("enter-order", rows=rows) == ["changed"] * 3
    assert await house.results("enter-order", rows=rows) == ["unchanged"] * 3
    assert await read(database, queries.orders, ["SO-2"]) == {"SO-2": Order("SO-2", "hall-1")}
    assert await read(database, queries.lines, ["SO-2"]) == [Line("SO-2", 1, "tablet", 2)]
    bound = await read(database, queries.bindings_of, "SO-2")
    assert [(one.line, one.group_id, one.serial) for one in bound] == [
        (1, DERIVED.group_id, "t-1"),
        (1, DERIVED.group_id, "t-2"),
    ]
    assert isinstance(bound[0], Binding)


@pytest.mark.parametrize(
    ("row", "cause"),
    [
        ({"order": "SO-9", "type": "tablet"}, "order_unknown"),
        ({"order": "SO-9", "site": "none"}, "site_unknown"),
        ({"order": "SO 9", "site": "hall-1"}, "name_illegal"),
        ({"order": "SO-9", "site": "hall-1", "type": "none"}, "type_unknown"),
        ({"order": "SO-9", "site": "hall-1", "serial": "t-9"}, "type_missing"),
        ({**ROW, "site": "hall-2"}, "order_exists"),
        ({**ROW, "serial": "t/9"}, "serial_illegal"),
        ({**ROW, "line": 1, "type": "kiosk"}, "line_exists"),
        ({**ROW, "line": 7, "type": None, "serial": "t-9"}, "type_missing"),
        ({"order": "SO-2", "site": "hall-1", "type": "tablet", "serial": "t-1"}, "unit_bound"),
        ({**ROW, "quantity": 1}, "line_full"),
    ],
)
async def test_a_row_that_cannot_be_is_refused_for_itself(database, house, row, cause):
    await house.furnish("t-1", "t-2")
    await house.done("create-type", types=[{"name": "kiosk", "group": DERIVED.group_id}])
    await house.done("create-site", sites=[{**SITE, "name": "hall-2"}])
    asked = {name: value for name, value in row.items() if value is not None}
    good = {**ROW, "serial": "t-3"}
    assert await house.results("enter-order", rows=[asked, good]) == [cause, "changed"]
    assert len(await read(database, queries.bindings_of, "SO-1")) == 3
    assert "SO-9" not in await read(database, queries.orders)


async def test_a_refused_row_makes_neither_its_order_nor_its_line(database, house):
    await house.furnish("t-1")
    await house.done("create-type", types=[{"name": "kiosk", "group": DERIVED.group_id}])
    bound = [{**ROW, "order": "SO-2", "serial": "t-1"}, {**ROW, "line": 4, "type": "kiosk", "serial": "t-1"}]
    good = [{**ROW, "order": "SO-3", "serial": "t-2"}, {**ROW, "order": "SO-3", "quantity": 1, "serial": "t-3"}]
    assert await house.results("enter-order", rows=[*bound, *good]) == ["unit_bound"] * 2 + ["changed", "line_full"]
    assert sorted(await read(database, queries.orders)) == ["SO-1", "SO-3"]
    assert await read(database, queries.lines, ["SO-1", "SO-3"]) == [
        Line("SO-1", 1, "tablet", 0), Line("SO-3", 1, "tablet", 0),
    ]  # fmt: skip


async def test_a_full_line_takes_no_more(house):
    await house.furnish()
    rows = [{"order": "SO-2", "site": "hall-1", "type": "tablet", "quantity": 1, "serial": f"t-{n}"} for n in (1, 2)]
    assert await house.results("enter-order", rows=rows) == ["changed", "line_full"]


async def test_a_dry_run_enters_nothing(database, house):
    await house.furnish()
    assert await house.results("enter-order", rows=[{**ROW, "serial": "t-1"}], dry_run=True) == ["changed"]
    assert await read(database, queries.bindings_of, "SO-1") == []


async def test_a_received_unit_of_another_type_does_not_fit_the_line(house):
    await house.furnish()
    await house.done("create-type", types=[{"name": "kiosk", "group": DERIVED.group_id}])
    await house.done("receive", units=[{"serial": "k-1", "type": "kiosk"}])
    assert await house.results("enter-order", rows=[{**ROW, "serial": "k-1"}]) == ["unit_type"]


async def test_an_assigned_unit_is_for_the_site_of_its_order(database, house):
    await house.furnish()
    await house.done("receive", units=[{"serial": "t-1", "type": "tablet"}])
    assert (await unit_of(database, "t-1")).site is None
    await house.done("enter-order", rows=[{**ROW, "serial": "t-1"}])
    assert (await unit_of(database, "t-1")).site == "hall-1"
    await house.done("release-units", order="SO-1", units=[f"{DERIVED.group_id}/t-1"])
    assert (await unit_of(database, "t-1")).site is None
    assert await house.results("enter-order", rows=[{**ROW, "serial": "t-1"}]) == ["changed"]
    assert await house.results("release-units", order="SO-2", units=[f"{DERIVED.group_id}/t-1"]) == ["unit_bound"]
    assert await house.results("release-units", order="SO-2", units=[f"{DERIVED.group_id}/t-9"]) == ["unchanged"]


async def test_an_operator_reaches_the_sites_of_his_ou_only(house, commands):
    await house.furnish("t-1")
    await house.done("hand-over", order="SO-1")
    abroad = Warehouse(commands, Operator("bob", Role.OPERATOR, "acme/us"))
    assert await abroad.results("create-site", sites=[{**SITE, "name": "x"}]) == ["out_of_scope"]
    assert await abroad.results("set-site", site="hall-1", title="mine") == ["out_of_scope"]
    assert await abroad.results("enter-order", rows=[{**ROW, "serial": "t-2"}]) == ["out_of_scope"]
    assert await abroad.results("hand-over", order="SO-1") == ["out_of_scope"]
    name = f"{DERIVED.group_id}/t-1"
    for verb in ("ship", "restage"):
        assert await abroad.results(verb, units=[name]) == ["out_of_scope"]
    assert await abroad.results("release-units", order="SO-1", units=[name]) == ["out_of_scope"]
    assert await abroad.results("receive", units=[{"serial": "t-1", "type": "tablet"}]) == ["out_of_scope"]
    near = Warehouse(commands, Operator("eve", Role.OPERATOR, "acme/eu"))
    assert await near.results("set-site", site="hall-1", title="Hall") == ["changed"]


BOB = Operator("bob", Role.OPERATOR, "acme/us")


async def stood(database, serial, ou, *, active=True):
    """A device at that OU: by its thing, or by allocation."""
    one = a_device(serial, group_id=DERIVED.group_id, key=None)
    if active:
        thing_id = serial.encode().hex().zfill(32)[-32:]
        one = replace(one, state=DeviceState.CONFIRMED, thing=a_thing(one, ou=ou, thing_id=thing_id, name=thing_id))
    else:
        one = replace(one, ou=ou)
    async with SqlStore(database, {}).batch() as batch:
        await batch.save(Changes(devices=((None, one),)))


@pytest.fixture
async def abroad(database, commands, house):
    """Bob's own site and order, in a world where `tablet` registers in a group of the OU acme."""
    async with database.write() as transaction:
        of = registration_group.c.group_id == DERIVED.group_id
        await transaction.connection.execute(update(registration_group).where(of).values(default_ou="acme"))
    await house.furnish("t-1")
    bob = Warehouse(commands, BOB)
    await bob.done("create-site", sites=[{"name": "us", "ou": "acme/us/x"}])
    await bob.done("enter-order", rows=[{"order": "US-1", "site": "us", "type": "tablet"}])
    return bob


@pytest.mark.parametrize(
    ("serial", "cause"),
    [
        ("thing-abroad", "out_of_scope"),
        ("allocated-abroad", "out_of_scope"),
        ("unknown", "out_of_scope"),  # its group would put it at acme
        ("at-hall-1", "out_of_scope"),
        ("t-1", "out_of_scope"),  # on an order for hall-1: not even told which
        ("allocated-here", "changed"),
        ("thing-here", "changed"),
    ],
)
async def test_an_order_takes_no_unit_from_another_ou(database, house, abroad, serial, cause):
    await stood(database, "thing-abroad", "acme/eu/bank")
    await stood(database, "allocated-abroad", "acme/eu", active=False)
    await stood(database, "thing-here", "acme/us/y")
    await stood(database, "allocated-here", "acme/us", active=False)
    await stood(database, "at-hall-1", "acme/us/y")  # but the warehouse knows it at hall-1
    await house.done("receive", units=[{"serial": "at-hall-1", "type": "tablet"}])
    await put_unit(database, replace(await unit_of(database, "at-hall-1"), site="hall-1"))
    assert await abroad.results("enter-order", rows=[{"order": "US-1", "serial": serial}]) == [cause]
    bound = await read(database, queries.bindings_of, "US-1")
    assert [one.serial for one in bound] == ([serial] if cause == "changed" else [])


@pytest.mark.parametrize("serial", ["thing-abroad", "allocated-abroad", "unknown", "at-hall-1"])
async def test_a_hand_over_takes_no_unit_from_another_ou(database, house, abroad, serial):
    """Also where somebody who may do more has put it on the order: moving it takes rights at both ends."""
    await stood(database, "thing-abroad", "acme/eu/bank")
    await stood(database, "allocated-abroad", "acme/eu", active=False)
    await stood(database, "at-hall-1", "acme/us/y")
    await house.done("enter-order", rows=[{"order": "US-1", "serial": serial}])
    if serial == "at-hall-1":
        await house.done("receive", units=[{"serial": "at-hall-1", "type": "tablet"}])
        await put_unit(database, replace(await unit_of(database, "at-hall-1"), site="hall-1"))
    before = [dict(row) for of in (device, thing, equipment) for row in await rows_of(database, of)]
    assert await abroad.results("hand-over", order="US-1") == ["out_of_scope"]
    assert [dict(row) for of in (device, thing, equipment) for row in await rows_of(database, of)] == before


async def test_an_operator_hands_over_what_is_his_at_both_ends(database, abroad):
    await stood(database, "s-1", "acme/us", active=False)
    await abroad.done("enter-order", rows=[{"order": "US-1", "serial": "s-1"}])
    assert await abroad.results("hand-over", order="US-1") == ["changed"]
    assert (await devices.show(database, "s-1")).ou == "acme/us/x"
    assert await abroad.results("hand-over", order="US-1") == ["unchanged"]


async def test_a_unit_whose_device_was_moved_away_is_not_restaged_from_its_old_site(database, house, abroad):
    await stood(database, "s-1", "acme/us", active=False)
    await abroad.done("enter-order", rows=[{"order": "US-1", "serial": "s-1"}])
    await abroad.done("hand-over", order="US-1")
    before = await devices.show(database, "s-1")
    async with SqlStore(database, {}).batch() as batch:
        await batch.save(Changes(devices=((before, replace(before, ou="acme/eu")),)))
    assert await abroad.results("restage", units=[f"{DERIVED.group_id}/s-1"]) == ["out_of_scope"]
    assert await house.results("restage", units=[f"{DERIVED.group_id}/s-1"]) == ["unchanged"]


@pytest.mark.parametrize("moved", ["allocation", "thing"])
async def test_a_unit_whose_device_was_moved_away_is_nothing_to_its_old_site_s_operator(database, house, abroad, moved):
    """It is on his order, for his site: where its device is now counts for every verb of the warehouse."""
    await stood(database, "s-1", "acme/us/x", active=moved == "thing")
    await abroad.done("enter-order", rows=[{"order": "US-1", "serial": "s-1"}])
    await abroad.done("hand-over", order="US-1")
    unit = await unit_of(database, "s-1")
    before = await devices.show(database, "s-1")
    after = replace(before, ou="acme/eu")
    if moved == "thing":
        after = replace(before, thing=replace(before.thing, ou="acme/eu"))
    async with SqlStore(database, {}).batch() as batch:
        await batch.save(Changes(devices=((before, after),)))
    for verb, step, arguments in (
        ("ship", Step.OUT_OF_BOX, {"order": "US-1"}),
        ("receive", Step.AT_SITE, {"units": [{"serial": "s-1", "type": "tablet"}]}),
        ("release-units", Step.AT_SITE, {"order": "US-1", "units": [f"{DERIVED.group_id}/s-1"]}),
    ):
        await put_unit(database, replace(unit, step=step))
        assert await abroad.results(verb, **arguments) == ["out_of_scope"], verb
        assert (await unit_of(database, "s-1")).step is step
        assert await house.results(verb, **arguments) == ["changed"], verb


async def test_an_operator_receives_and_ships_what_is_on_his_way_and_nowhere_yet(database, house, abroad):
    """Who may has put it on an order for his site; nobody has registered it."""
    await house.done("enter-order", rows=[{"order": "US-1", "serial": "s-9"}])
    units = [{"serial": "s-9", "type": "tablet"}]
    assert await abroad.results("receive", units=units) == ["changed"]
    await put_unit(database, replace(await unit_of(database, "s-9"), step=Step.OUT_OF_BOX))
    assert await abroad.results("ship", order="US-1") == ["changed"]
    # The same as a unit that the warehouse knows at another site is not his, whatever his order says.
    await put_unit(database, replace(await unit_of(database, "s-9"), site="hall-1"))
    assert await abroad.results("receive", units=units) == ["out_of_scope"]


async def test_a_viewer_changes_nothing_and_an_operator_no_device_type(commands):
    viewer = Warehouse(commands, Operator("bob", Role.VIEWER))
    assert await refused(viewer.ask("create-site", sites=[SITE])) == ("FORBIDDEN", "role_too_low")
    operator = Warehouse(commands, Operator("eve", Role.OPERATOR))
    of = {"name": "tablet", "group": GROUP.group_id}
    assert await refused(operator.ask("create-type", types=[of])) == ("FORBIDDEN", "role_too_low")
