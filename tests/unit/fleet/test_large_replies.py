"""Replies that would not fit one message: less of them is told, and never another refusal than the true one."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from service.domain.changes import Changes
from service.operations import accounts
from service.operations.accounts import AccountKind
from service.operations.verbs.verb import Role
from service.storage.store import SqlStore
from tests.support.commands import named, seed
from tests.support.storage import NOW, new_database
from tests.unit.fleet.test_operator_requests import listening


@pytest.fixture
async def database(tmp_path):
    made = await new_database(tmp_path / "firstlight.db")
    await accounts.create(made, "alice", AccountKind.OPERATOR, role=Role.ADMIN, now=NOW, random_bytes=os.urandom)
    yield made
    await made.close()


async def test_a_list_of_more_than_fits_goes_on_at_the_next_page(database):
    serials = [f"serial-number-{number:06}" for number in range(100)]
    await seed(database, *serials, ou="acme/emea/plant-7", batch="B42")
    async with listening(database) as operators:
        said = await operators.ask("alice", "list", limit=100)
        seen = [one["serial"] for one in said["devices"]]
        assert 40 < len(seen) < 100
        while "after" in said:
            said = await operators.ask("alice", "list", limit=100, after=said["after"])
            seen += [one["serial"] for one in said["devices"]]
    assert seen == serials


async def test_attributes_have_a_bound_with_which_a_device_can_be_shown(database):
    await seed(database, "a")
    async with listening(database) as operators:
        for number in range(5):
            attributes = {f"{number}-{one}": "x" * 256 for one in range(7)}
            said = await operators.ask(
                "alice", "set-attributes", id=str(number), selector=named("a"), arguments={"attributes": attributes}
            )
            assert said["ok"] is (number < 4), said
        assert (said["code"], said["cause"]) == ("BAD_REQUEST", "attribute_illegal")
        shown = await operators.ask("alice", "get", device="line-1/a")
        assert len(shown["device"]["attributes"]) == 28


async def test_what_a_hook_has_made_too_large_is_shown_in_part_and_may_shrink(database):
    (before,) = await seed(database, "a")
    huge = replace(before, thing=replace(before.thing, attributes={str(one): "x" * 256 for one in range(64)}))
    async with SqlStore(database, {}).batch() as batch:
        await batch.save(Changes(devices=((before, huge),)))
    async with listening(database) as operators:
        said = await operators.ask("alice", "get", device="line-1/a")
        assert (said["left_out"], said["device"]["state"]) == (["attributes"], "confirmed")
        for number, value in enumerate((None, "x" * 256)):
            asked = {"selector": named("a"), "arguments": {"attributes": {"0": value}}}
            assert (await operators.ask("alice", "set-attributes", id=str(number), **asked))["ok"] is (value is None)


async def test_a_refusal_is_told_although_the_device_does_not_fit_beside_it(database):
    (before,) = await seed(database, "a")
    huge = replace(before, thing=replace(before.thing, attributes={str(one): "x" * 256 for one in range(64)}))
    async with SqlStore(database, {}).batch() as batch:
        await batch.save(Changes(devices=((before, huge),)))
    async with listening(database) as operators:
        said = await operators.ask("alice", "unblock", selector=named("a"))
    assert (said["code"], said["cause"], "state" in said) == ("CONFLICT", "not_blocked", False)
