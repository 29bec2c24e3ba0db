"""What an account of one OU may do with the devices of another: nothing, by whatever verb, and wherever they went since."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import timedelta

import pytest

from service.domain.changes import Changes
from service.errors import ServiceError
from service.operations import accounts, command_page, devices, events, looking
from service.operations.accounts import THIS_MACHINE, AccountKind, Operator
from service.operations.command_rows import CommandState
from service.operations.outcomes import Result
from service.operations.selectors import Selector
from service.operations.verbs.table import FLEET
from service.operations.verbs.verb import Role
from service.storage.store import SqlStore
from tests.support.commands import ask, named, seed
from tests.support.refusals import refused
from tests.support.storage import DERIVED, GROUP, NOW, a_device

EUROPE = Operator("eve", Role.ADMIN, "acme/eu")
OUTSIDE = ("acme", "acme/europe", "acme/us", "zeta")
ARGUMENTS = {
    "allocate": {"ou": "acme/eu"},
    "rename": {"name": "mine"},
    "replace": {"new": "line-1/in"},
    "reprovision": {"ou": "acme/eu"},
    "set-attributes": {"attributes": {"a": 1}},
    "set-settings": {"settings": {"a": 1}},
    "set-target": {"version": None},
}  # every other verb needs none


@pytest.mark.parametrize("verb", sorted(FLEET))
async def test_no_verb_reaches_a_device_outside_of_the_account_s_ou(database, commands, verb):
    await seed(database, "in")
    before = [(await seed(database, ou[-2:], ou=ou))[0] for ou in OUTSIDE[:2]]
    names = [one.serial for one in before]
    reached = [*(named(name) for name in names), {"things": [before[1].thing.thing_id]}, named("in", names[0])]
    for number, selector in enumerate((*reached, {"ou": OUTSIDE[1]})):
        asked = ask(str(number), selector=selector, arguments=ARGUMENTS.get(verb, {}), dry_run=number == 1)
        answer = ("FORBIDDEN", "out_of_scope") if selector in reached else ("NOT_FOUND", "selection_empty")
        assert await refused(commands.submit(EUROPE, verb, asked)) == answer, selector
    assert [await devices.show(database, name) for name in names] == before
    assert await events.page(database) == []


async def test_nothing_outside_of_the_account_s_ou_is_shown(database):
    await seed(database, "in")
    for number, ou in enumerate(OUTSIDE):
        await seed(database, f"out-{number}", ou=ou)
        for look in (looking.get, looking.trace):
            assert await refused(look(database, EUROPE, f"line-1/out-{number}")) == ("FORBIDDEN", "out_of_scope")
    page = await looking.list_page(database, EUROPE, Selector(group=GROUP.group_id), now=NOW)
    assert [one["serial"] for one in page.devices] == ["in"]
    assert await looking.trace(database, EUROPE, "line-1/in") == {"steps": []}


async def test_a_replacement_takes_no_device_from_outside_of_the_account_s_ou(database, commands):
    await seed(database, "old")
    async with SqlStore(database, {}).batch() as batch:
        made = [a_device(f"new-{number}", ou=ou) for number, ou in enumerate(OUTSIDE)]
        made.append(a_device("nowhere", group_id=DERIVED.group_id, key=None))  # its group has no OU either
        await batch.save(Changes(devices=tuple((None, one) for one in made)))
    for one in made:
        asked = ask(one.serial, selector=named("old"), arguments={"new": f"{one.group_id}/{one.serial}"})
        status = await commands.submit(EUROPE, "replace", asked)
        assert [(of.code, of.cause) for of in status.outcomes] == [("FORBIDDEN", "out_of_scope")], one.ou
        assert await devices.show(database, one.serial) == one
    assert await events.page(database) == []


async def test_a_device_that_left_the_ou_between_two_pages_is_left_alone(database, commands, monkeypatch):
    monkeypatch.setattr(command_page, "PAGE", 1)
    await accounts.create(
        database, "eve", AccountKind.OPERATOR, role=Role.ADMIN, ou="acme/eu", now=NOW, random_bytes=os.urandom
    )
    _, leaves, _ = await seed(database, "a", "b", "c")
    status = await commands.submit(EUROPE, "block", ask(selector=named("a", "b", "c")))
    assert (status.command.total, status.command.done) == (3, 1)
    gone = replace(leaves, thing=replace(leaves.thing, ou="zeta"))
    async with SqlStore(database, {}).batch() as batch:
        await batch.save(Changes(devices=((leaves, gone),)))
    await commands.run(status.command.command_id)
    assert await devices.show(database, "b") == gone
    assert [one.event.serial for one in await events.page(database)] == ["a", "c"]


async def test_a_device_that_left_the_ou_after_its_page_was_chosen_is_refused(database, commands, monkeypatch):
    """The selection of a page leaves it out; should it not, the page itself looks again."""
    (out,) = await seed(database, "out", ou="zeta")
    await seed(database, "in")

    async def too_many(*_of, **_options):
        return ["dev-in", "dev-out"]

    monkeypatch.setattr(command_page.selectors, "page", too_many)
    status = await commands.submit(EUROPE, "block", ask(selector=named("in")))
    assert [(one.serial, one.result, one.cause) for one in status.outcomes] == [
        ("in", Result.CHANGED, None),
        ("out", Result.REFUSED, "out_of_scope"),
    ]
    assert await devices.show(database, "out") == out
    assert [one.event.serial for one in await events.page(database)] == ["in"]


async def test_the_thing_of_another_ou_is_not_listed_with_the_device_that_is_to_take_it_over(database, commands):
    await seed(database, "old", ou="acme/us")
    async with SqlStore(database, {}).batch() as batch:
        await batch.save(Changes(devices=((None, a_device("new", ou="acme/eu")),)))
    asked = ask(selector=named("old"), arguments={"new": "line-1/new"})
    assert (await commands.submit(THIS_MACHINE, "replace", asked)).command.changed == 1
    assert await refused(looking.get(database, EUROPE, "line-1/new")) == ("FORBIDDEN", "out_of_scope")
    page = await looking.list_page(database, EUROPE, Selector(), now=NOW)
    assert page.devices == []


async def test_a_device_that_is_registered_along_and_let_go_again_stays_in_the_account_s_ou(database, commands):
    """The group's own place is above it, where the account may register nothing."""
    await seed(database, "old")
    devices_ = {"group": GROUP.group_id, "devices": [{"serial": "new"}]}
    status = await commands.submit(EUROPE, "register", ask("1", arguments=devices_))
    assert [one.cause for one in status.outcomes] == ["out_of_scope"]
    asked = ask("2", selector=named("old"), arguments={"new": "line-1/new", "register_new": True})
    assert (await commands.submit(EUROPE, "replace", asked)).command.changed == 1
    assert (await commands.submit(EUROPE, "undo-replace", ask("3", selector=named("old")))).command.changed == 1
    new = await devices.show(database, "new")
    assert (new.thing, new.ou) == (None, "acme/eu")


async def test_an_account_that_was_made_anew_has_nothing_of_the_one_before_it(database, commands, clock, monkeypatch):
    monkeypatch.setattr(command_page, "PAGE", 1)
    await seed(database, "a", "b")

    async def made(now):
        who = (database, "eve", AccountKind.OPERATOR)
        await accounts.create(*who, role=Role.ADMIN, ou="acme/eu", now=now, random_bytes=os.urandom)
        async with database.read() as connection:
            return await accounts.operator(connection, "eve")

    first = await made(NOW)
    asked = ask(selector=named("a", "b"))
    begun = (await commands.submit(first, "block", asked)).command
    await commands.pause(first, begun.command_id)
    assert (await accounts.account_of_command(database, begun.command_id)).name == "eve"
    await accounts.remove(database, "eve")
    second = await made(clock.now + timedelta(hours=1))  # whatever the clock has done since
    assert await accounts.account_of_command(database, begun.command_id) is None
    for command_id in ("1", begun.command_id):
        assert await refused(commands.status(second, command_id)) == ("NOT_FOUND", "command_unknown")
        assert await refused(commands.resume(second, command_id)) == ("NOT_FOUND", "command_unknown")
    assert await refused(commands.submit(second, "block", asked)) == ("CONFLICT", "command_id_taken")
    assert (await commands.submit(second, "block", ask("2", selector=named("a")))).command.unchanged == 1
    await commands.resume(THIS_MACHINE, begun.command_id)
    assert (await commands.work(begun.command_id)).command.state is CommandState.FAILED
    assert [one.event.serial for one in await events.page(database)] == ["a"]


async def test_whose_device_holds_a_thing_of_another_ou_is_not_told(database, commands):
    (other,) = await seed(database, "secret-serial", ou="acme/us")
    thing_id = other.thing.thing_id
    with pytest.raises(ServiceError) as caught:
        await commands.submit(EUROPE, "block", ask(selector={"things": [thing_id]}))
    assert (caught.value.cause, caught.value.state) == ("out_of_scope", {"devices": [thing_id]})
    assert "secret" not in f"{caught.value.public} {caught.value.detail}"
