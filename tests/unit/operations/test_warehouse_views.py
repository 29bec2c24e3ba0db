"""What operators see of the warehouse: lists, one thing, how far an order has come, what has failed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from service.domain.warehouse import Step
from service.operations import warehouse_pages, warehouse_progress, warehouse_show
from service.operations.accounts import THIS_MACHINE, Operator
from service.operations.verbs.verb import Role
from service.operations.warehouse_pages import Asked
from service.operations.warehouse_progress import Failure
from service.storage.rows import from_ms, to_ms
from service.storage.warehouse_tables import item_report
from tests.support.builds import make, write_build
from tests.support.refusals import refused
from tests.support.storage import DERIVED, NOW, PRODUCT
from tests.support.warehouse import SETTINGS, SITE, Warehouse, put_unit, unit_of

ABROAD = Operator("bob", Role.VIEWER, "acme/us")
NEAR = Operator("eve", Role.VIEWER, "acme/eu")
NAME = f"{DERIVED.group_id}/t-1"


@pytest.fixture
async def house(commands):
    made = Warehouse(commands)
    await made.furnish("t-1", "t-2", "t-3")
    await made.done("set-site", site="hall-1", settings=SETTINGS)
    await made.done("hand-over", order="SO-1", units=[{"unit": NAME}, {"unit": f"{DERIVED.group_id}/t-2"}])
    return made


async def rows(database, what, operator=THIS_MACHINE, **asked):
    page = await warehouse_pages.page(database, operator, what, Asked(**asked))
    return page.rows


async def report(database, serial, name, state, version="1", **fields):
    row = {"group_id": DERIVED.group_id, "serial": serial, "name": name, "version": version, "state": state}
    async with database.write() as transaction:
        await transaction.connection.execute(item_report.insert(), [{**row, "at": to_ms(NOW), **fields}])


async def test_lists_tell_types_sites_orders_and_units(database, house, clock):
    (of_type,) = await rows(database, "device-types")
    assert of_type == {"name": "tablet", "group": DERIVED.group_id, "product": PRODUCT.product_id, "units": 2}
    (site,) = await rows(database, "sites")
    assert site == {**SITE, "settings_rev": 1, "steps": {"received": 2}}
    (order,) = await rows(database, "orders")
    assert {name: order[name] for name in ("name", "site", "units", "handed_over", "stopped", "steps")} == {
        "name": "SO-1", "site": "hall-1", "units": 3, "handed_over": 2, "stopped": 0, "steps": {"received": 2},
    }  # fmt: skip
    unit, other, third = await rows(database, "units", order="SO-1")
    assert unit == {
        "name": NAME, "type": "tablet", "step": "received", "at": to_ms(clock()), "site": "hall-1", "order": "SO-1",
        "handed_over": True,
    }  # fmt: skip
    assert other["name"].endswith("/t-2")
    assert third == {
        "name": f"{DERIVED.group_id}/t-3", "step": "expected", "site": "hall-1", "order": "SO-1", "handed_over": False,
    }  # fmt: skip
    assert len(await rows(database, "units")) == 2


async def test_a_list_comes_by_pages_and_is_narrowed(database, house):
    page = await warehouse_pages.page(database, THIS_MACHINE, "units", Asked(limit=1))
    assert page.after == NAME
    rest = await rows(database, "units", after=page.after)
    assert [one["name"] for one in rest] == [f"{DERIVED.group_id}/t-2"]
    for narrowed in ({"order": "SO-2"}, {"site": "hall-2"}, {"step": "staged"}):
        assert await rows(database, "units", **narrowed) == []
    assert await rows(database, "orders", site="hall-2") == []
    assert len(await rows(database, "units", step="received", site="hall-1")) == 2


async def test_an_operator_sees_what_is_his(database, house):
    for what in ("sites", "orders", "units"):
        assert await rows(database, what, ABROAD) == [], what
        assert await rows(database, what, NEAR) != [], what
    assert await rows(database, "device-types", ABROAD) == []
    for what, name in (("site", "hall-1"), ("order", "SO-1"), ("unit", NAME), ("device-type", "tablet")):
        assert await refused(warehouse_show.show(database, ABROAD, what, name)) == ("FORBIDDEN", "out_of_scope")
    assert await refused(warehouse_progress.progress(database, ABROAD, "SO-1")) == ("FORBIDDEN", "out_of_scope")


async def test_what_is_not_there_is_not_found(database, house):
    for what, cause in (
        ("site", "site_unknown"),
        ("order", "order_unknown"),
        ("unit", "unit_unknown"),
        ("device-type", "type_unknown"),
        ("shelf", "list_unknown"),
    ):
        assert await refused(warehouse_show.show(database, THIS_MACHINE, what, "none")) == ("NOT_FOUND", cause)
    assert await refused(rows(database, "shelves")) == ("NOT_FOUND", "list_unknown")
    assert await refused(rows(database, "units", limit=1001)) == ("BAD_REQUEST", "limit_illegal")
    assert await refused(warehouse_progress.progress(database, THIS_MACHINE, "none")) == ("NOT_FOUND", "order_unknown")


async def test_settings_are_told_by_name_and_their_values_to_an_admin_who_asks(database, house):
    shown = await warehouse_show.site(database, NEAR, "hall-1")
    assert shown["settings"] == ["features.kiosk", "network.ssid", "payment.terminal"]
    assert (await warehouse_show.site(database, THIS_MACHINE, "hall-1", reveal=True))["settings"] == SETTINGS
    assert (await refused(warehouse_show.site(database, NEAR, "hall-1", reveal=True)))[1] == "role_too_low"


async def test_a_unit_tells_where_it_is_and_has_been(database, house, clock):
    shown = await warehouse_show.unit(database, THIS_MACHINE, "t-1")
    assert (shown["name"], shown["step"], shown["device_state"], shown["order"]) == (
        NAME, "received", "registered", "SO-1",
    )  # fmt: skip
    at = to_ms(clock())
    assert shown["been"] == [
        {"step": step, "at": at, "order": "SO-1", "site": "hall-1", "by": "local", "note": None}
        for step in ("received", "handed_over")
    ]
    expected = await warehouse_show.unit(database, THIS_MACHINE, "t-3")
    assert (expected["step"], expected["site"], expected["order"], expected["been"]) == (
        "expected", "hall-1", "SO-1", [],
    )  # fmt: skip


async def test_a_serial_that_two_units_have_must_be_named_with_its_group(database, house):
    await house.done("create-type", types=[{"name": "kiosk", "group": "line-1"}])
    await house.done("receive", units=[{"serial": "t-1", "type": "kiosk"}])
    assert await refused(warehouse_show.unit(database, THIS_MACHINE, "t-1")) == ("CONFLICT", "serial_ambiguous")
    assert (await warehouse_show.unit(database, THIS_MACHINE, NAME))["type"] == "tablet"


async def test_an_order_shows_its_lines(database, house):
    shown = await warehouse_show.order(database, THIS_MACHINE, "SO-1")
    assert shown["lines"] == [{"line": 1, "type": "tablet", "quantity": None, "units": 3}]
    assert shown["steps"] == {"received": 2}


async def test_a_type_shows_the_manifest_that_stage_gives(database, house, images, key, trusted, tmp_path):
    assert (await warehouse_show.device_type(database, THIS_MACHINE, "tablet"))["manifest"] is None
    await make(database, images, write_build(tmp_path), key, static=True)
    shown = await warehouse_show.device_type(database, THIS_MACHINE, "tablet")
    assert (shown["manifest"], shown["manifest_is_static"]) == ("2030-07", True)


async def test_progress_counts_the_bytes_that_are_there_and_lists_failures(
    database, house, images, key, trusted, tmp_path
):
    items = (("a", "software", "1", b"a" * 100, ()), ("b", "software", "1", b"b" * 300, ("a>=1",)))
    made = await make(database, images, write_build(tmp_path, items), key)
    unit = await unit_of(database, "t-1")
    staged = replace(unit, step=Step.STAGED, manifest_id=made.head.manifest_id, staged_at=NOW)
    await put_unit(database, replace(staged, cause="b: wrong_hash"))
    await report(database, "t-1", "a", "working")
    await report(database, "t-1", "b", "failed", progress=50, cause="wrong_hash")
    found = await warehouse_progress.progress(database, THIS_MACHINE, "SO-1")
    assert (found.total, dict(found.steps), found.is_done) == (3, {"expected": 1, "received": 1, "staged": 1}, False)
    first, second, third = found.units
    assert (first.percent, first.working, first.items, first.doing) == (62, 1, 2, "b 1 failed")
    assert (second.step, second.percent, third.step) == ("received", 0, "expected")
    assert found.failures == (Failure(NAME, "staged", "b", "1", "wrong_hash", from_ms(to_ms(NOW))),)


async def test_a_unit_that_stands_still_without_a_failed_item_is_listed_with_its_cause(database, house):
    unit = await unit_of(database, "t-1")
    await put_unit(database, replace(unit, cause="settings: cut_off"))
    found = await warehouse_progress.progress(database, THIS_MACHINE, "SO-1")
    assert [(one.unit, one.item, one.cause) for one in found.failures] == [(NAME, None, "settings: cut_off")]
    assert [(one["name"], one["cause"]) for one in await rows(database, "failures")] == [(NAME, "settings: cut_off")]
    assert await rows(database, "failures", order="SO-2") == await rows(database, "failures", ABROAD) == []


async def test_an_order_is_done_when_every_unit_has_left_or_could(database, house):
    await house.done("release-units", order="SO-1", units=[f"{DERIVED.group_id}/t-3"])
    for serial, step in (("t-1", Step.OUT_OF_BOX), ("t-2", Step.SHIPPED)):
        await put_unit(database, replace(await unit_of(database, serial), step=step))
    found = await warehouse_progress.progress(database, THIS_MACHINE, "SO-1")
    assert found.is_done
    assert [one.percent for one in found.units] == [100, 100]
