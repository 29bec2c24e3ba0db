"""Sales orders that end: closed when everything is shipped, cancelled while nothing is; and what stands in the way."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from sqlalchemy import insert, update

from service.domain.warehouse import OrderState, Step
from service.errors import ServiceError
from service.operations.accounts import Operator
from service.operations.enrolment import dispatch
from service.operations.verbs.verb import Role
from service.storage import warehouse_queries as queries
from service.storage.enrolment_tables import enrolment_provider, enrolment_state
from service.storage.operator_tables import audit
from service.storage.rows import to_ms
from service.storage.warehouse_tables import sales_order
from tests.support.commands import Row, rows_of
from tests.support.storage import DERIVED, NOW
from tests.support.warehouse import SITE, Warehouse, put_unit, unit_of

G = DERIVED.group_id


@pytest.fixture
async def house(commands):
    made = Warehouse(commands)
    await made.furnish("t-1", "t-2")
    await made.done("hand-over", order="SO-1")
    return made


async def at(database, **steps: Step) -> None:
    """As if the units had come that far: t_1=Step.SHIPPED."""
    for name, step in steps.items():
        await put_unit(database, replace(await unit_of(database, name.replace("_", "-")), step=step))


async def order(database, order_id: str = "SO-1"):
    async with database.read() as connection:
        state = (await queries.orders(connection, [order_id]))[order_id].state
        return state, [one.serial for one in await queries.bindings_of(connection, order_id)]


async def test_an_order_is_closed_when_every_unit_is_shipped(database, house):
    assert await house.results("close-order", orders=["SO-1"]) == ["order_unfinished"]
    await at(database, t_1=Step.SHIPPED, t_2=Step.OUT_OF_BOX)
    (refused,) = (await house.ask("close-order", orders=["SO-1"])).outcomes
    assert refused.reason == f"not shipped: {G}/t-2"
    await at(database, t_2=Step.AT_SITE)
    assert await house.results("close-order", orders=["SO-1"], dry_run=True) == ["changed"]
    assert await order(database) == (OrderState.OPEN, ["t-1", "t-2"])
    assert await house.results("close-order", orders=["SO-1"], note="invoice 7") == ["changed"]
    assert await house.results("close-order", orders=["SO-1", "SO-1"]) == ["unchanged"]
    assert await order(database) == (OrderState.CLOSED, ["t-1", "t-2"])  # they are its units for good
    (row,) = [
        one
        for one in map(Row, await rows_of(database, audit))
        if one.verb == "close-order" and "invoice" in one.arguments
    ]
    assert (row.outcome, json.loads(row.arguments)) == ("accepted", {"orders": ["SO-1"], "note": "invoice 7"})


async def test_a_line_that_is_short_of_units_keeps_its_order_open_until_it_is_made_smaller(database, house):
    await house.done("enter-order", rows=[{"order": "SO-1", "line": 1, "type": "tablet", "quantity": 3}])
    await at(database, t_1=Step.SHIPPED, t_2=Step.SHIPPED)
    (refused,) = (await house.ask("close-order", orders=["SO-1"])).outcomes
    assert (refused.cause, refused.reason) == ("order_unfinished", "line 1 is for 3 units and has 2")
    await house.done("enter-order", rows=[{"order": "SO-1", "line": 1, "type": "tablet", "quantity": 2}])
    assert await house.results("close-order", orders=["SO-1"]) == ["changed"]


async def test_an_order_without_units_is_not_closed_but_cancelled(house):
    await house.done("enter-order", rows=[{"order": "SO-2", "site": "hall-1"}])
    assert await house.results("close-order", orders=["SO-2"]) == ["order_unfinished"]
    assert await house.results("cancel-order", orders=["SO-2"]) == ["changed"]


async def test_a_cancelled_order_frees_its_units_for_another(database, house):
    await house.done("enter-order", rows=[{"order": "SO-1", "serial": "t-3"}])  # never received
    assert await house.results("cancel-order", orders=["SO-1"], dry_run=True) == ["changed"]
    assert len((await order(database))[1]) == 3
    assert await house.results("cancel-order", orders=["SO-1", "SO-1", "SO-9"]) == ["changed", "order_unknown"]
    assert await order(database) == (OrderState.CANCELLED, [])
    assert (await unit_of(database, "t-1")).site is None
    assert await house.results("cancel-order", orders=["SO-1"]) == ["unchanged"]
    await house.done("create-site", sites=[{**SITE, "name": "hall-2"}])
    rows = [{"order": "SO-2", "site": "hall-2", "type": "tablet", "serial": one} for one in ("t-1", "t-3")]
    await house.done("enter-order", rows=rows)
    assert (await unit_of(database, "t-1")).site == "hall-2"


async def test_units_that_were_staged_are_freed_by_force_only_and_stay_what_they_are(database, house):
    await at(database, t_1=Step.STAGED, t_2=Step.OUT_OF_BOX)
    (refused,) = (await house.ask("cancel-order", orders=["SO-1"])).outcomes
    assert (refused.cause, refused.reason) == ("units_staged", f"staged or out of box: {G}/t-1, {G}/t-2")
    assert await order(database) == (OrderState.OPEN, ["t-1", "t-2"])
    assert await house.results("cancel-order", orders=["SO-1"], force=True) == ["changed"]
    assert await order(database) == (OrderState.CANCELLED, [])
    assert [(await unit_of(database, one)).step for one in ("t-1", "t-2")] == [Step.STAGED, Step.OUT_OF_BOX]
    assert [(await unit_of(database, one)).site for one in ("t-1", "t-2")] == [None, None]


@pytest.mark.parametrize("step", [Step.SHIPPED, Step.AT_SITE])
async def test_what_was_shipped_is_not_cancelled_by_force_either(database, house, step):
    await at(database, t_1=step)
    assert await house.results("cancel-order", orders=["SO-1"], force=True) == ["units_shipped"]
    await house.done("receive", units=[{"serial": "t-1", "type": "tablet"}])
    assert await house.results("cancel-order", orders=["SO-1"]) == ["changed"]


async def test_a_refusal_names_a_few_units_of_many(database, house):
    serials = [f"t-{number}" for number in range(3, 9)]
    await house.done("enter-order", rows=[{"order": "SO-1", "serial": one} for one in serials])
    await house.done("hand-over", order="SO-1")
    await at(database, **{one.replace("-", "_"): Step.STAGED for one in serials}, t_2=Step.OUT_OF_BOX)
    (refused,) = (await house.ask("cancel-order", orders=["SO-1"])).outcomes
    assert refused.reason.endswith(f"{G}/t-7 and 2 more")


async def test_what_has_ended_is_neither_changed_nor_dispatched_nor_ended_otherwise(database, house):
    await at(database, t_1=Step.SHIPPED, t_2=Step.SHIPPED)
    await house.done("close-order", orders=["SO-1"])
    await house.done("enter-order", rows=[{"order": "SO-2", "site": "hall-1", "type": "tablet"}])
    await house.done("cancel-order", orders=["SO-2"])
    assert await house.results("cancel-order", orders=["SO-1"]) == ["order_state"]
    assert await house.results("close-order", orders=["SO-2"]) == ["order_state"]
    for order_id in ("SO-1", "SO-2"):
        rows = [{"order": order_id, "serial": "t-7"}]
        assert await house.results("enter-order", rows=rows) == ["order_state"]
        (one,) = dispatch.read(json.dumps({"orderId": order_id}).encode())
        with pytest.raises(ServiceError) as refused:
            await dispatch.take(database, one, by="local", now=NOW)
        assert refused.value.cause == "order_state"
    assert await house.results("hand-over", order="SO-1") == ["order_state", "order_state"]


async def enrolled(database, of_order: str, of_unit: str) -> None:
    provider = {"provider_id": "dep", "adaptor": "file", "created_at": to_ms(NOW)}
    unit = {"group_id": G, "serial": "t-1", "state": of_unit, "provider_id": "dep", "organisation": "o",
            "order_id": "SO-1", "changed_at": to_ms(NOW)}  # fmt: skip
    async with database.write() as transaction:
        await transaction.connection.execute(insert(enrolment_provider), [provider])
        await transaction.connection.execute(insert(enrolment_state), [unit])
        wish = {"enrol": True, "provider_id": "dep", "organisation": "o", "enrolment_state": of_order}
        await transaction.connection.execute(update(sales_order).values(**wish))


@pytest.mark.parametrize(
    ("of_order", "of_unit", "closed", "cancelled"),
    [
        ("enrol_pending", "enrol_pending", "order_enrolment", "order_enrolment"),
        ("enrol_sent", "enrol_sent", "order_enrolment", "order_enrolment"),
        ("enrol_failed", "enrol_failed", "order_enrolment", "order_enrolment"),
        ("enrolled", "unenrol_sent", "order_enrolment", "order_enrolment"),
        ("enrolled", "enrolled", "changed", "order_enrolment"),
        ("unenrolled", "unenrolled", "changed", "changed"),
    ],
)
async def test_an_order_ends_only_where_its_provider_has_no_word_to_say(
    database, house, of_order, of_unit, closed, cancelled
):
    await enrolled(database, of_order, of_unit)
    assert await house.results("cancel-order", orders=["SO-1"], dry_run=True) == [cancelled]
    await at(database, t_1=Step.SHIPPED, t_2=Step.SHIPPED)
    assert await house.results("close-order", orders=["SO-1"], dry_run=True) == [closed]


async def test_an_order_of_another_ou_is_not_ended(commands, house):
    bob = Warehouse(commands, Operator("bob", Role.OPERATOR, "acme/us"))
    for verb in ("close-order", "cancel-order"):
        assert await bob.results(verb, orders=["SO-1"]) == ["out_of_scope"]
    eve = Warehouse(commands, Operator("eve", Role.OPERATOR, "acme/eu"))
    assert await eve.results("cancel-order", orders=["SO-1"]) == ["changed"]
