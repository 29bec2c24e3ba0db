"""The warehouse's verbs on real sockets: asked, answered, refused and looked at over MQTT."""

from __future__ import annotations

import asyncio
import itertools
import json
from dataclasses import replace

import pytest

from service.domain.warehouse import Step
from service.operations.accounts import AccountKind
from service.operations.verbs.verb import Role
from tests.integration.service.conftest import Running
from tests.integration.service.test_operators import account, ask, operator
from tests.support.actor import Actor
from tests.support.site import GROUP, OU, until
from tests.support.warehouse import put_unit, unit_of

pytestmark = pytest.mark.asyncio(loop_scope="module")
SITE = {"name": "hall-1", "ou": f"{OU}/hall-1", "settings": {"network": {"password": "swordfish"}}}


async def test_an_operator_makes_a_site_and_looks_at_it(running: Running) -> None:
    async with operator(running, "walter", ou=OU) as walter:
        said = await ask(walter, "create-site", {"id": "1", "arguments": {"sites": [SITE]}})
        assert (said["ok"], said["changed"], said["outcomes"]) == (
            True, 1, [{"device": "site/hall-1", "result": "changed"}],
        )  # fmt: skip
        other = {"id": "2", "arguments": {"sites": [{**SITE, "title": "another"}]}}
        refused = await ask(walter, "create-site", other)
        assert (refused["ok"], refused["code"], refused["cause"]) == (False, "CONFLICT", "site_exists")
        listed = await ask(walter, "warehouse-list", {"id": "3", "what": "sites"})
        assert [row["name"] for row in listed["rows"]] == ["hall-1"]
        shown = await ask(walter, "warehouse-show", {"id": "4", "what": "site", "name": "hall-1"})
        assert shown["row"]["settings"] == ["network.password"]
        assert "swordfish" not in str(walter.received)
        unknown = await ask(walter, "warehouse-tell", {"id": "5"})
        assert unknown["code"] == "UNKNOWN_VERB"


async def test_a_page_of_rows_is_answered_row_by_row(running: Running) -> None:
    async with operator(running, "wanda") as wanda:
        sites = [{**SITE, "name": f"hall-{number}"} for number in (7, 8)]
        sites.insert(1, {**SITE, "name": "no name"})
        said = await ask(wanda, "create-site", {"id": "1", "arguments": {"sites": sites}})
        assert [one["result"] for one in said["outcomes"]] == ["changed", "refused", "changed"]
        assert said["outcomes"][1]["cause"] == "name_illegal"


class Desk:
    """An operator who gives one command after the other, each with an id of its own."""

    def __init__(self, actor) -> None:
        self.actor, self.ids = actor, itertools.count()

    async def results(self, verb: str, **arguments: object) -> list[str]:
        """Of each row: changed, unchanged, or the cause of its refusal."""
        said = await ask(self.actor, verb, {"id": str(next(self.ids)), "arguments": arguments})
        return [one.get("cause") or one["result"] for one in said.get("outcomes", [said])]

    async def row(self, what: str, name: str) -> dict:
        said = await ask(self.actor, "warehouse-show", {"id": str(next(self.ids)), "what": what, "name": name})
        return said["row"]


async def came(running: Running, serial: str, step: Step) -> None:
    """As if its device had come that far."""
    unit = await unit_of(running.service.database, serial, GROUP)
    await put_unit(running.service.database, replace(unit, step=step))


async def test_units_go_through_the_warehouse_by_messages(running: Running) -> None:
    one, two = f"{GROUP}/sn-15", f"{GROUP}/sn-16"
    accounts = {
        "wilma": {"role": Role.ADMIN, "ou": OU},
        "mallory": {"ou": "elsewhere"},
        "crm": {"kind": AccountKind.INTEGRATOR, "ou": OU},
    }
    keys = await asyncio.gather(*(account(running, name, **more) for name, more in accounts.items()))
    port = running.site.ports["api_key"]
    async with (
        Actor(port, "wilma", "wilma", keys[0]) as wilma,
        Actor(port, "mallory", "mallory", keys[1]) as mallory,
        Actor(port, "crm", "crm", keys[2]) as crm,
    ):
        for one_of, space in ((wilma, "o/wilma/dn"), (mallory, "o/mallory/dn"), (crm, "e/crm")):
            await one_of.subscribe(f"pv1/{space}/#")
        desk, stranger = Desk(wilma), Desk(mallory)
        assert await desk.results("create-type", types=[{"name": "tablet", "group": GROUP}]) == ["changed"]
        assert await desk.results("create-site", sites=[{"name": "hall", "ou": f"{OU}/hall"}]) == ["changed"]
        # 1. Orders and the units on them; a stranger's order takes none of them.
        row = {"order": "SO-1", "site": "hall", "type": "tablet"}
        rows = [{**row, "serial": "sn-15"}, {**row, "serial": "sn-16"}, {**row, "serial": "s/1"}]
        assert await desk.results("enter-order", rows=rows) == ["changed", "changed", "serial_illegal"]
        assert await stranger.results("create-site", sites=[{"name": "den", "ou": "elsewhere/den"}]) == ["changed"]
        theirs = {"order": "X-1", "site": "den", "type": "tablet"}
        assert await stranger.results("enter-order", rows=[{**theirs, "serial": "sn-17"}]) == ["out_of_scope"]
        assert await stranger.results("hand-over", order="SO-1") == ["out_of_scope"] * 2
        # 2. Received, handed over, each once.
        units = [{"serial": "sn-15", "type": "tablet"}, {"serial": "sn-16", "type": "none"}]
        assert await desk.results("receive", units=units, note="pallet 7") == ["changed", "type_unknown"]
        assert await desk.results("hand-over", order="SO-1") == ["changed", "changed"]
        assert await desk.results("hand-over", order="SO-1") == ["unchanged", "unchanged"]
        assert (await desk.row("unit", one))["step"] == "received"
        # 3. One failed in its staging and is staged anew; both go.
        await came(running, "sn-15", Step.STAGED)
        await came(running, "sn-16", Step.OUT_OF_BOX)
        assert await stranger.results("restage", units=[one]) == ["out_of_scope"]
        assert await desk.results("cancel-order", orders=["SO-1"]) == ["units_staged"]
        assert await desk.results("restage", units=[one], note="flash") == ["changed"]
        assert await desk.results("restage", units=[one, f"{GROUP}/sn-19"]) == ["unchanged", "unit_unknown"]
        assert await desk.results("ship", order="SO-1") == ["unit_step", "changed"]
        assert await desk.results("close-order", orders=["SO-1"]) == ["order_unfinished"]
        await came(running, "sn-15", Step.AT_SITE)
        assert await desk.results("close-order", orders=["SO-1"]) == ["changed"]
        assert (await desk.row("order", "SO-1"))["state"] == "closed"
        been = [line["step"] for line in (await desk.row("unit", one))["been"]]
        assert been == ["received", "handed_over", "restaged"]
        assert [line["step"] for line in (await desk.row("unit", two))["been"]][-1] == "shipped"
        # 4. And the business system was told.
        await until(lambda: len(crm.received) >= 6)
        told = [json.loads(payload) for _, payload in crm.received]
        assert [(one["event"], one["serial"]) for one in told] == [
            ("received", "sn-15"), ("handed_over", "sn-15"), ("received", "sn-16"), ("handed_over", "sn-16"),
            ("restaged", "sn-15"), ("shipped", "sn-16"),
        ]  # fmt: skip
