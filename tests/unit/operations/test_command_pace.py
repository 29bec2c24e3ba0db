"""How fast a command goes, who works on it, and what a selector and a target mean beyond their own rows."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from sqlalchemy import insert

from service.domain import desired
from service.domain.changes import Changes
from service.operations import command_page, devices
from service.operations import commands as engine
from service.operations.accounts import THIS_MACHINE
from service.operations.command_rows import CommandState
from service.operations.commands import LEASE, Commands
from service.storage import catalogue_rows
from service.storage.store import SqlStore
from service.storage.tables import product, registration_group
from tests.support.commands import ENVIRONMENTS, ask, named, seed
from tests.support.releases import add as add_version
from tests.support.releases import sign
from tests.support.storage import GROUP, a_device


async def test_a_command_changes_no_more_devices_a_second_than_its_rate(database, commands, clock, monkeypatch):
    waited = []

    async def sleep(seconds):
        waited.append(seconds)

    monkeypatch.setattr(engine.asyncio, "sleep", sleep)
    await seed(database, *(f"sn-{number}" for number in range(7)))
    status = await commands.submit(THIS_MACHINE, "block", ask(selector={"group": GROUP.group_id}, rate=3))
    assert (status.command.done, status.command.total) == (3, 7)
    done = []
    await commands.run(status.command.command_id, lambda command: done.append(command.done))
    assert done == [6, 7]
    assert waited == [1.0]


async def test_a_rate_above_a_page_waits_for_a_part_of_a_second(database, commands, monkeypatch):
    monkeypatch.setattr(command_page, "PAGE", 2)
    await seed(database, *(f"sn-{number}" for number in range(3)))
    status = await commands.submit(THIS_MACHINE, "block", ask(selector={"group": GROUP.group_id}, rate=8))
    assert status.command.done == 2
    assert command_page.pause_s(status.command, 2) == 0.25
    unlimited = replace(status.command, rate=None)
    assert (command_page.page_size(unlimited), command_page.pause_s(unlimited, 2)) == (2, 0.0)


async def test_one_works_on_a_command_and_another_begins_when_its_lease_has_run_out(
    database, commands, clock, monkeypatch
):
    monkeypatch.setattr(command_page, "PAGE", 1)
    await seed(database, *(f"sn-{number}" for number in range(4)))
    status = await commands.submit(THIS_MACHINE, "block", ask(selector={"group": GROUP.group_id}))
    command_id = status.command.command_id
    other = Commands(database, ENVIRONMENTS, random_bytes=os.urandom, clock=clock)
    assert (await commands.work(command_id)).command.done == 2
    assert await other.work(command_id) is None
    clock.now += LEASE
    assert (await other.work(command_id)).command.done == 3
    assert await commands.work(command_id) is None
    last = await other.work(command_id)
    assert (last.command.done, last.command.state) == (4, CommandState.RUNNING)
    assert (await other.work(command_id)).command.state is CommandState.DONE


@pytest.mark.parametrize("verb", ["block", "rename"])
async def test_a_product_selects_its_own_devices_only(database, commands, verb):
    async with database.write() as transaction:
        row = {"product_id": "hygrometer", "name": "Hygrometer", "hardware": "rev-a"}
        await transaction.connection.execute(insert(product), [row])
        group = replace(GROUP, group_id="line-9", product_id="hygrometer")
        await transaction.connection.execute(
            insert(registration_group), [catalogue_rows.group_row(group, database.sealer)]
        )
    await seed(database, "a")
    async with SqlStore(database, {}).batch() as batch:
        await batch.save(Changes(devices=((None, a_device("b", group_id="line-9")),)))
    arguments = {"name": "x"} if verb == "rename" else {}
    for wanted, serial in (("thermometer", "a"), ("hygrometer", "b")):
        asked = ask(wanted, selector={"product": wanted}, arguments=arguments)
        status = await commands.submit(THIS_MACHINE, verb, asked)
        assert [one.serial for one in status.outcomes] == [serial]


@pytest.mark.usefixtures("trusted")
async def test_a_target_of_a_thing_s_own_is_what_its_device_is_to_run(database, commands, images, image, key):
    one, two = [
        (await add_version(database, images, image, sign(image, key, name=name, seq=seq), name=name)).version.version_id
        for name, seq in (("2.0", 2), ("3.0", 3))
    ]
    await seed(database, "own", "other")

    async def wanted():
        catalogue = await SqlStore(database, {}).catalogue()
        found = [desired.target_of(await devices.show(database, name), catalogue) for name in ("own", "other")]
        return [version and version.version_id for version in found]

    assert await wanted() == [None, None]
    for number, (version, expected) in enumerate((("3.0", two), (one, one), (None, None))):
        asked = ask(str(number), selector=named("own"), arguments={"version": version})
        assert (await commands.submit(THIS_MACHINE, "set-target", asked)).command.changed == 1
        assert await wanted() == [expected, None]


async def test_what_fills_one_page_exactly_is_done_before_the_reply(database, commands, monkeypatch):
    monkeypatch.setattr(command_page, "PAGE", 2)
    await seed(database, "a", "b")
    for number, fields in enumerate(({"selector": {"group": GROUP.group_id}}, {"selector": named("a"), "rate": 1})):
        status = await commands.submit(THIS_MACHINE, "block", ask(str(number), **fields))
        assert (status.command.state, status.command.finished_at is None) == (CommandState.DONE, False)
    assert await commands.running() == []
