"""Commands for many devices: meant, approved by a second person, done page by page, and stopped on the way."""

from __future__ import annotations

import os
from datetime import timedelta

import pytest

from service.domain.device import DeviceState
from service.operations import accounts, command_page, devices
from service.operations import commands as engine
from service.operations.accounts import THIS_MACHINE, AccountKind, Operator
from service.operations.command_rows import CommandState
from service.operations.commands import Commands
from service.operations.mass_guard import MAX_RUNNING, MassGuard
from service.operations.selectors import Selector
from service.operations.verbs.verb import Role
from service.storage.operator_tables import audit, event
from service.storage.rows import to_ms
from tests.support.commands import ENVIRONMENTS, Row, ask, named, rows_of, seed
from tests.support.refusals import refused
from tests.support.storage import GROUP, NOW


async def test_a_command_for_more_devices_than_were_meant_changes_nothing(database, clock):
    commands = Commands(database, ENVIRONMENTS, random_bytes=os.urandom, clock=clock, guard=MassGuard(2))
    await seed(database, "sn-1", "sn-2", "sn-3")
    everything = {"group": GROUP.group_id}
    in_silence = commands.submit(THIS_MACHINE, "block", ask("1", selector=everything))
    assert await refused(in_silence) == ("CONFLICT", "mass_unconfirmed")
    too_few = commands.submit(THIS_MACHINE, "block", ask("2", selector=everything, at_most=2))
    assert await refused(too_few) == ("CONFLICT", "more_than_meant")
    assert await rows_of(database, event) == []
    counted = await commands.submit(THIS_MACHINE, "block", ask("3", selector=everything, dry_run=True))
    assert counted.command.total == 3
    two = await commands.submit(THIS_MACHINE, "block", ask("4", selector=named("sn-1", "sn-2")))
    assert two.command.changed == 2
    meant = await commands.submit(THIS_MACHINE, "block", ask("5", selector=everything, at_most=3))
    assert (meant.command.changed, meant.command.unchanged) == (1, 2)


async def test_a_command_for_many_waits_for_a_second_person(database, clock):
    guard = MassGuard(2, second_person=True)
    commands = Commands(database, ENVIRONMENTS, random_bytes=os.urandom, clock=clock, guard=guard)
    await seed(database, "sn-1", "sn-2", "sn-3")
    for name in ("anna", "bert"):
        who = (database, name, AccountKind.OPERATOR)
        await accounts.create(*who, role=Role.ADMIN, now=NOW, random_bytes=os.urandom)
    first, second = (Operator(name, Role.ADMIN, None) for name in ("anna", "bert"))
    asked = await commands.submit(first, "block", ask(selector={"group": GROUP.group_id}, at_most=3))
    command_id = asked.command.command_id
    assert (asked.command.state, await rows_of(database, event)) == (CommandState.PAUSED, [])
    assert await refused(commands.resume(first, command_id)) == ("FORBIDDEN", "second_person_needed")
    assert await commands.work(command_id) is None
    await commands.resume(second, command_id)
    done = await commands.work(command_id)
    assert done is not None
    assert done.command.changed == 3
    log = [Row(row) for row in await rows_of(database, audit)]
    assert [(row.account, row.verb, row.outcome) for row in log[:2]] == [
        ("anna", "block", "accepted"),
        ("bert", "resume", "changed"),
    ]


async def test_a_large_selection_goes_on_where_a_restart_cut_it(database, commands, clock, monkeypatch):
    monkeypatch.setattr(command_page, "PAGE", 4)
    await seed(database, *(f"sn-{number:02}" for number in range(10)))
    status = await commands.submit(THIS_MACHINE, "block", ask(selector={"group": GROUP.group_id}))
    assert (status.command.state, status.command.total, status.command.done) == (CommandState.RUNNING, 10, 4)
    restarted = Commands(database, ENVIRONMENTS, random_bytes=os.urandom, clock=clock)
    assert await restarted.running() == [status.command.command_id]
    seen = []
    await restarted.run(status.command.command_id, lambda command: seen.append(command.done))
    assert seen == [8, 10]
    found = await restarted.status(THIS_MACHINE, "1")
    assert (found.command.state, found.command.changed, len(found.outcomes)) == (CommandState.DONE, 10, 10)
    assert len(await rows_of(database, event)) == 10
    assert await restarted.running() == []


async def test_a_command_is_paused_resumed_and_cancelled(database, commands, monkeypatch):
    monkeypatch.setattr(command_page, "PAGE", 2)
    await seed(database, *(f"sn-{number}" for number in range(6)))
    status = await commands.submit(THIS_MACHINE, "block", ask(selector={"group": GROUP.group_id}))
    await commands.pause(THIS_MACHINE, "1")
    assert await commands.work(status.command.command_id) is None
    await commands.resume(THIS_MACHINE, "1")
    assert (await commands.work(status.command.command_id)).command.done == 4
    assert (await commands.cancel(THIS_MACHINE, "1")).state is CommandState.CANCELLED
    assert await commands.work(status.command.command_id) is None
    for move in (commands.pause, commands.resume):
        assert await refused(move(THIS_MACHINE, "1")) == ("CONFLICT", "command_state")
    page = await devices.list_page(database, Selector(state=DeviceState.BLOCKED))
    assert len(page.devices) == 4


async def test_a_command_ends_when_its_time_is_over(database, commands, clock, monkeypatch):
    monkeypatch.setattr(command_page, "PAGE", 2)
    await seed(database, *(f"sn-{number}" for number in range(4)))
    until = to_ms(clock.now + timedelta(minutes=1)) // 1000
    status = await commands.submit(THIS_MACHINE, "block", ask(selector={"group": GROUP.group_id}, expires_at=until))
    clock.now += timedelta(minutes=2)
    assert (await commands.work(status.command.command_id)).command.state is CommandState.EXPIRED
    *_, noted = [Row(row) for row in await rows_of(database, audit)]
    assert (noted.command_id, noted.outcome, noted.cause) == (
        status.command.command_id,
        "stopped",
        "command_expired",
    )
    assert (await commands.status(THIS_MACHINE, "1")).command.done == 2


async def test_a_disabled_account_s_command_stops(database, commands, clock, monkeypatch):
    monkeypatch.setattr(command_page, "PAGE", 2)
    await seed(database, *(f"sn-{number}" for number in range(4)))
    await accounts.create(
        database, "alice", AccountKind.OPERATOR, role=Role.OPERATOR, ou="acme", now=NOW, random_bytes=os.urandom
    )
    status = await commands.submit(
        Operator("alice", Role.OPERATOR, "acme"), "block", ask(selector={"group": GROUP.group_id})
    )
    await accounts.disable(database, "alice", now=clock())
    assert (await commands.work(status.command.command_id)).command.state is CommandState.FAILED


async def paced(commands, status, monkeypatch):
    """(devices done, seconds waited before the next page) of each further page."""
    seen, waited = [], []

    async def sleep(seconds):
        waited.append(seconds)

    monkeypatch.setattr(engine.asyncio, "sleep", sleep)
    await commands.run(status.command.command_id, lambda command: seen.append(command.done))
    return seen, waited


async def test_a_large_command_begins_slowly_and_goes_on_at_its_rate(database, commands, monkeypatch):
    monkeypatch.setattr(command_page, "RAMP", 2)
    await seed(database, *(f"sn-{number:02}" for number in range(30)))
    everything = {"group": GROUP.group_id}
    small = await commands.submit(THIS_MACHINE, "block", ask("1", selector=everything, rate=31))
    assert (small.command.done, small.command.state) == (30, CommandState.DONE)
    large = await commands.submit(THIS_MACHINE, "unblock", ask("2", selector=everything, rate=10))
    assert large.command.done == 2
    assert await paced(commands, large, monkeypatch) == ([4, 8, 16, 26, 30], [1.0, 1.0, 1.0, 1.0])
    quick = await commands.submit(THIS_MACHINE, "block", ask("3", selector=everything, rate=20))
    assert (await paced(commands, quick, monkeypatch))[1] == [1.0, 1.0, 1.0]
    dry = await commands.submit(THIS_MACHINE, "block", ask("4", selector=everything, rate=20, dry_run=True))
    assert dry.command.done == 20


@pytest.mark.parametrize("stop_percent", [90, 0])
async def test_a_command_that_most_devices_refuse_is_paused_until_somebody_has_looked(
    database, clock, monkeypatch, stop_percent
):
    monkeypatch.setattr(command_page, "RAMP", 2)
    monkeypatch.setattr(command_page, "LOOKED_AT", (4, 16))
    monkeypatch.setattr(command_page, "PAGE", 8)
    guard = MassGuard(stop_percent=stop_percent)
    commands = Commands(database, ENVIRONMENTS, random_bytes=os.urandom, clock=clock, guard=guard)
    await seed(database, *(f"sn-{number:02}" for number in range(20)))
    status = await commands.submit(THIS_MACHINE, "unblock", ask(selector={"group": GROUP.group_id}))  # none is blocked
    stopped = []
    for _ in range(4):
        await paced(commands, status, monkeypatch)
        now = (await commands.status(THIS_MACHINE, "1")).command
        if now.state is CommandState.DONE:
            break
        stopped.append((now.state, now.done, now.refused))
        await commands.resume(THIS_MACHINE, "1")
    assert now.done == 20
    assert stopped == ([(CommandState.PAUSED, 4, 4), (CommandState.PAUSED, 16, 16)] if stop_percent else [])
    log = [(row.outcome, row.cause) for row in map(Row, await rows_of(database, audit)) if row.serial is None]
    assert log.count(("paused", "many_refused")) == len(stopped)


async def test_one_account_s_commands_leave_room_for_others(database, commands, monkeypatch):
    monkeypatch.setattr(command_page, "PAGE", 1)
    await seed(database, "a", "b")
    anna, bert = (Operator(name, Role.OPERATOR, None) for name in ("anna", "bert"))
    both = {"group": GROUP.group_id}

    async def block(who, id_):
        return await commands.submit(who, "block", ask(id_, selector=both, dry_run=True))

    first = (await block(anna, "0")).command
    for number in range(1, MAX_RUNNING):
        assert (await block(anna, str(number))).command.state is CommandState.RUNNING
    assert await refused(block(anna, "x")) == ("CONFLICT", "commands_many")
    assert (await commands.submit(anna, "block", ask("one", selector=named("a")))).command.state is CommandState.DONE
    assert (await block(bert, "y")).command.state is CommandState.RUNNING
    await commands.pause(anna, first.command_id)
    assert (await block(anna, "x")).command.state is CommandState.RUNNING
    assert await refused(commands.resume(anna, first.command_id)) == ("CONFLICT", "commands_many")
    for number in range(MAX_RUNNING + 1):
        await block(THIS_MACHINE, str(number))


def test_the_bound_of_commands_that_run():
    assert MAX_RUNNING == 20
