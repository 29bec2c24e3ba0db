"""Units by operators' commands: received, handed over, shipped, restaged; where each is and has been."""

from __future__ import annotations

import base64
import os
from dataclasses import replace

import pytest

from service.domain.catalogue import Endpoint, Environment
from service.domain.changes import Changes
from service.domain.credential import CredentialKind, CredentialState
from service.domain.device import DeviceState
from service.domain.warehouse import Equipment, Step
from service.operations import devices
from service.operations.commands import Commands
from service.storage.operator_tables import command, event
from service.storage.store import SqlStore
from service.storage.warehouse_tables import item_report
from tests.support.commands import Row, rows_of
from tests.support.storage import DERIVED, GROUP, NOW, a_credential, a_device, a_thing
from tests.support.warehouse import SITE, Warehouse, put_unit, steps_of, unit_of

NAME = f"{DERIVED.group_id}/t-1"
KEY = base64.b64encode(bytes(range(32))).decode()


@pytest.fixture
def house(commands):
    return Warehouse(commands)


async def at(database, step, serial="t-1"):
    """As if the device had come that far."""
    unit = await unit_of(database, serial)
    staged = {} if step is Step.RECEIVED else {"staged_at": NOW, "stage_credential_id": "c" * 32}
    await put_unit(database, replace(unit, step=step, **staged))


async def test_a_unit_is_received_once(database, house, clock):
    await house.furnish()
    units = [{"serial": "t-1", "type": "tablet"}]
    assert await house.results("receive", units=units, note="pallet 7") == ["changed"]
    assert await unit_of(database, "t-1") == Equipment(DERIVED.group_id, "t-1", "tablet", Step.RECEIVED, clock())
    assert await house.results("receive", units=units) == ["unchanged"]
    assert await steps_of(database, "t-1") == ["received"]
    assert [(one.kind, one.serial) for one in map(Row, await rows_of(database, event))] == [("received", "t-1")]


@pytest.mark.parametrize(
    ("unit", "cause"),
    [
        ({"serial": "t-1", "type": "none"}, "type_unknown"),
        ({"serial": "t 1", "type": "tablet"}, "serial_illegal"),
        ({"serial": "t-1", "type": "kiosk"}, "unit_type"),
    ],
)
async def test_what_cannot_be_received_is_refused(house, unit, cause):
    await house.furnish("t-1")
    await house.done("create-type", types=[{"name": "kiosk", "group": DERIVED.group_id}])
    await house.done("receive", units=[{"serial": "t-1", "type": "tablet"}])
    assert await house.results("receive", units=[unit]) == [cause]


async def test_units_of_an_order_are_registered_and_placed_when_they_are_handed_over(database, house):
    await house.furnish("t-1", "t-2")
    await house.done("receive", units=[{"serial": "t-1", "type": "tablet"}])
    assert await house.results("hand-over", order="SO-1") == ["changed", "changed"]
    assert await house.results("hand-over", order="SO-1") == ["unchanged", "unchanged"]
    for serial in ("t-1", "t-2"):
        device, unit = await devices.show(database, serial), await unit_of(database, serial)
        assert (device.state, device.ou) == (DeviceState.REGISTERED, SITE["ou"])
        assert (unit.device_id, unit.step, unit.site) == (device.device_id, Step.RECEIVED, "hall-1")
        assert await steps_of(database, serial) == ["received", "handed_over"]
    told = [(one.kind, one.serial, one.ou) for one in map(Row, await rows_of(database, event))]
    assert told[1:4] == [(kind, "t-1", SITE["ou"]) for kind in ("registered", "handed_over")] + [
        ("received", "t-2", SITE["ou"])
    ]


async def test_a_unit_of_an_individual_key_needs_it_at_the_latest_when_it_is_handed_over(database, house):
    await house.furnish("t-1", "t-2", group=GROUP.group_id)
    async with SqlStore(database, {}).batch() as batch:
        await batch.save(Changes(devices=((None, a_device("t-1")),)))
    assert await house.results("hand-over", order="SO-1") == ["changed", "device_key_missing"]
    units = [{"unit": f"{GROUP.group_id}/t-2", "key": KEY}]
    assert await house.results("hand-over", order="SO-1", units=units) == ["changed"]
    assert (await devices.show(database, "t-2")).key.reveal() == bytes(range(32))
    assert KEY not in str([dict(row) for row in await rows_of(database, command)])


@pytest.mark.parametrize(
    ("unit", "cause"),
    [
        ({"unit": f"{DERIVED.group_id}/t-9"}, "unit_not_ordered"),
        ({"unit": f"{DERIVED.group_id}/t-2", "key": KEY}, "device_key_needless"),
        ({"unit": f"{DERIVED.group_id}/t-3"}, "device_state"),
        ({"unit": f"{DERIVED.group_id}/t-4"}, "unit_step"),
    ],
)
async def test_what_cannot_be_handed_over_is_refused(database, house, unit, cause):
    await house.furnish("t-2", "t-3", "t-4")
    blocked = a_device("t-3", group_id=DERIVED.group_id, key=None, state=DeviceState.BLOCKED)
    async with SqlStore(database, {}).batch() as batch:
        await batch.save(Changes(devices=((None, blocked),)))
    await house.done("receive", units=[{"serial": "t-4", "type": "tablet"}])
    await at(database, Step.SHIPPED, "t-4")
    assert await house.results("hand-over", order="SO-1", units=[unit]) == [cause]


async def test_a_unit_for_another_site_takes_its_thing_there(database, clock):
    prod = Environment("prod", {CredentialKind.API_KEY: Endpoint("localhost", 1883, tls=False)})
    house = Warehouse(Commands(database, {"prod": prod}, random_bytes=os.urandom, clock=clock))
    await house.furnish("t-1")
    await house.done("hand-over", order="SO-1")
    before = await devices.show(database, "t-1")
    known = replace(before, state=DeviceState.CONFIRMED, thing=a_thing(before, ou=SITE["ou"], thing_id="a" * 32))
    async with SqlStore(database, {}).batch() as batch:
        await batch.save(Changes(devices=((before, known),)))
    await house.done("create-site", sites=[{"name": "hall-2", "ou": "acme/us/hall-2"}])
    await house.done("release-units", order="SO-1", units=[NAME])
    await house.done("enter-order", rows=[{"order": "SO-2", "site": "hall-2", "type": "tablet", "serial": "t-1"}])
    assert await house.results("hand-over", order="SO-2") == ["changed"]
    assert (await devices.show(database, "t-1")).thing.ou == "acme/us/hall-2"
    assert (await unit_of(database, "t-1")).site == "hall-2"


async def test_what_is_out_of_box_is_shipped_and_the_rest_refused(database, house):
    await house.furnish("t-1", "t-2", "t-3")
    await house.done("hand-over", order="SO-1")
    await at(database, Step.OUT_OF_BOX, "t-1")
    await at(database, Step.SHIPPED, "t-2")
    assert await house.results("ship", order="SO-1", note="truck 3") == ["changed", "unchanged", "unit_step"]
    assert (await unit_of(database, "t-1")).step is Step.SHIPPED
    assert await steps_of(database, "t-1") == ["received", "handed_over", "shipped"]
    assert await house.results("ship", units=[NAME, f"{DERIVED.group_id}/t-9"]) == ["unchanged", "unit_unknown"]


async def test_a_large_order_goes_by_pages(database, house):
    serials = [f"t-{number:03d}" for number in range(130)]
    await house.furnish()
    for page in (serials[:100], serials[100:]):
        await house.done(
            "enter-order", rows=[{"order": "SO-1", "site": "hall-1", "type": "tablet", "serial": one} for one in page]
        )
    first = await house.ask("hand-over", order="SO-1")
    assert (first.command.changed, first.result) == (100, {"after": f"{DERIVED.group_id}/t-099"})
    second = await house.ask("hand-over", order="SO-1", after=first.result["after"])
    assert (second.command.changed, dict(second.result)) == (30, {})


async def test_a_returned_unit_is_received_again(database, house):
    await house.furnish("t-1")
    await house.done("hand-over", order="SO-1")
    await at(database, Step.AT_SITE)
    assert await house.results("restage", units=[NAME]) == ["unit_step"]
    assert await house.results("receive", units=[{"serial": "t-1", "type": "tablet"}]) == ["changed"]
    unit = await unit_of(database, "t-1")
    assert (unit.step, unit.staged_at) == (Step.RECEIVED, NOW)  # it needs a `restage` before it is staged again


async def test_restage_drops_what_the_earlier_call_gave_and_forgets_its_reports(database, house):
    await house.furnish("t-1")
    await house.done("hand-over", order="SO-1")
    device = await devices.show(database, "t-1")
    async with SqlStore(database, {}).batch() as batch:
        await batch.save(Changes(devices=((device, replace(device, credentials=(a_credential(device),))),)))
    await at(database, Step.STAGED)
    report = {"group_id": DERIVED.group_id, "serial": "t-1", "name": "os", "version": "1", "state": "failed", "at": 1}
    async with database.write() as transaction:
        await transaction.connection.execute(item_report.insert(), [report])
    assert await house.results("restage", units=[NAME], note="flash replaced") == ["changed"]
    unit = await unit_of(database, "t-1")
    assert (unit.step, unit.staged_at, unit.stage_credential_id) == (Step.RECEIVED, None, None)
    (credential,) = (await devices.show(database, "t-1")).credentials
    assert (credential.state, credential.drop_cause) == (CredentialState.DROPPED, "restaged")
    assert await rows_of(database, item_report) == []
    assert (await steps_of(database, "t-1"))[-1] == "restaged"
    assert await house.results("restage", units=[NAME]) == ["unchanged"]


async def test_only_what_was_handed_over_is_restaged(house):
    await house.furnish("t-1")
    assert await house.results("restage", units=[NAME]) == ["unit_unknown"]
    await house.done("receive", units=[{"serial": "t-1", "type": "tablet"}])
    assert await house.results("restage", units=[NAME]) == ["unit_not_handed_over"]
