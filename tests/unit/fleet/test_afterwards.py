"""What became of a command after its last page: pushed to the operator who asked, and answered by `command-status`."""

from __future__ import annotations

import asyncio
import json
import os

import pytest

from service.domain import event
from service.domain.changes import Changes
from service.fleet.commander import Commander
from service.fleet.publisher import Publisher
from service.mqtt.port import Inbound
from service.operations import accounts, devices
from service.operations.accounts import AccountKind
from service.operations.commands import Commands
from service.operations.verbs.verb import Role
from service.storage.store import SqlStore
from tests.support.commands import ENVIRONMENTS, Clock, ask, seed
from tests.support.storage import GROUP, NOW, new_database


class Wire:
    def __init__(self) -> None:
        self.said: asyncio.Queue[tuple[str, dict]] = asyncio.Queue()

    async def publish(self, topic: str, payload: bytes) -> None:
        self.said.put_nowait((topic, json.loads(payload)))


@pytest.fixture
async def database(tmp_path):
    made = await new_database(tmp_path / "firstlight.db")
    await accounts.create(made, "alice", AccountKind.OPERATOR, role=Role.OPERATOR, now=NOW, random_bytes=os.urandom)
    yield made
    await made.close()


@pytest.fixture
async def commands(database):
    return Commands(database, ENVIRONMENTS, random_bytes=os.urandom, clock=Clock())


async def a_failed_change(database, commands, serials: int = 1, cause: str = "no such volume") -> str:
    """Settings of alice's that each device refuses; the id of her command."""
    names = [f"sn-{number:03}" for number in range(serials)]
    await seed(database, *names)
    async with database.read() as connection:
        alice = await accounts.operator(connection, "alice")
    asked = ask("7", selector={"group": GROUP.group_id}, arguments={"settings": {"volume": 3}})
    status = await commands.submit(alice, "set-settings", asked)
    async with SqlStore(database, {}).batch() as batch:
        found = [await devices.show(database, name) for name in names]
        told = tuple(event.of(one, "settings_failed", NOW, rev=1, cause=cause) for one in found)
        await batch.save(Changes(events=told))
    return status.command.command_id


async def answer(database, commands, **body) -> dict:
    """What the commander says to alice's `command-status`."""
    wire = Wire()
    commander = Commander(database, commands, [wire])
    payload = json.dumps({"id": "1", **body}).encode()
    running = asyncio.create_task(commander.run())
    try:
        commander.deliver(Inbound(wire, "pv1/o/alice/up/command-status", payload, lambda: None))
        async with asyncio.timeout(20):
            topic, said = await wire.said.get()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert topic == "pv1/o/alice/dn/command-status"
    return said


async def test_an_operator_is_told_which_device_failed_after_the_command_was_done(database, commands):
    pushed = []

    async def push(account, fields):
        pushed.append((account, fields))

    publisher = Publisher(database, {}, push)
    await publisher.tell_operators()
    command_id = await a_failed_change(database, commands)
    for _ in range(2):
        await publisher.tell_operators()
    ((account, fields),) = pushed
    assert account == "alice"
    assert (fields["event"], fields["command"], fields["serial"]) == ("settings_failed", command_id, "sn-000")
    assert fields["data"]["cause"] == "no such volume"


async def test_an_operator_who_missed_the_push_asks_which_devices_failed_and_why(database, commands):
    await a_failed_change(database, commands, 2)
    said = await answer(database, commands, command="7")
    assert said["later"] == {"settings_changed": 2, "settings_failed": 2}
    seqs = [one.pop("seq") for one in said["failed"]]
    at = int(NOW.timestamp() * 1000)
    one = {"event": "settings_failed", "cause": "no such volume", "at": at}
    assert said["failed"] == [{"device": f"{GROUP.group_id}/sn-00{number}", **one} for number in range(2)]
    rest = await answer(database, commands, command="7", failed_after=seqs[0])
    assert [one["seq"] for one in rest["failed"]] == seqs[1:]
    assert (await answer(database, commands, command="7", result="failed"))["code"] == "BAD_REQUEST"


async def test_failures_that_do_not_fit_one_reply_are_on_the_next_page(database, commands):
    await a_failed_change(database, commands, 70, cause="x" * 200)
    seen, after = [], 0
    while after is not None:
        said = await answer(database, commands, command="7", failed_after=after)
        assert said["ok"]
        assert len(said["outcomes"]) > 30
        seen += [one["device"] for one in said["failed"]]
        after = said.get("failed_after")
    assert seen == [f"{GROUP.group_id}/sn-{number:03}" for number in range(70)]
