"""What the commander takes from operators' topics: from whom, how many, and that a command is steered from there."""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import asynccontextmanager

import pytest

from service.domain.device import DeviceState
from service.fleet.commander import BURST, RATE, Commander
from service.fleet.turns import QUEUED, QUEUED_EACH, Turns
from service.mqtt.port import Inbound
from service.operations import accounts, command_page, devices
from service.operations.accounts import AccountKind
from service.operations.commands import Commands
from service.operations.selectors import Selector
from service.operations.verbs.verb import Role
from tests.support.commands import ENVIRONMENTS, Clock, named, seed
from tests.support.storage import GROUP, NOW, new_database

KINDS = {"alice": AccountKind.OPERATOR, "gone": AccountKind.OPERATOR, "erp": AccountKind.INTEGRATOR}


class Wire:
    def __init__(self) -> None:
        self.said: asyncio.Queue[tuple[str, dict]] = asyncio.Queue()

    async def publish(self, topic: str, payload: bytes) -> None:
        self.said.put_nowait((topic, json.loads(payload)))


class Operators:
    """The commander with its brokers left out. Messages are acknowledged one by one, as a broker sees it."""

    def __init__(self, database, commands=None):
        self.wire, self.acknowledged, self.counted, self.seconds = Wire(), 0, [], 1000.0
        self.commands = commands
        self.commander = Commander(
            database, commands, [self.wire], count=self.counted.append, monotonic=lambda: self.seconds
        )

    def say(self, name: str, verb: str, **body) -> None:
        self.commander.deliver(
            Inbound(self.wire, f"pv1/o/{name}/up/{verb}", json.dumps({"id": "1", **body}).encode(), self._acknowledge)
        )

    async def ask(self, name: str, verb: str, **body) -> dict:
        self.say(name, verb, **body)
        return await self._next(name, verb)

    async def progress(self, name: str) -> dict:
        return await self._next(name, "progress")

    async def _next(self, name: str, verb: str) -> dict:
        """The next message on this topic; what came on another before it is passed over."""
        async with asyncio.timeout(20):
            while (said := await self.wire.said.get())[0] != f"pv1/o/{name}/dn/{verb}":
                pass
        return said[1]

    def _acknowledge(self) -> None:
        self.acknowledged += 1


@pytest.fixture
async def database(tmp_path):
    made = await new_database(tmp_path / "firstlight.db")
    for name, kind in KINDS.items():
        await accounts.create(made, name, kind, role=Role.ADMIN, now=NOW, random_bytes=os.urandom)
    await accounts.disable(made, "gone", now=NOW)
    yield made
    await made.close()


@asynccontextmanager
async def listening(database, kind=Commands):
    commands = kind(database, ENVIRONMENTS, random_bytes=os.urandom, clock=Clock())
    operators = Operators(database, commands)
    running = asyncio.create_task(operators.commander.run())
    try:
        yield operators
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@pytest.mark.parametrize("name", ["erp", "gone", "nobody", accounts.LOCAL])
async def test_who_is_no_operator_is_refused_whatever_he_asks(database, name):
    (before,) = await seed(database, "sn-1")
    async with listening(database) as operators:
        for verb, body in (
            ("block", {"selector": named("sn-1")}),
            ("get", {"device": "line-1/sn-1"}),
            ("list", {}),
            ("command-status", {"command": "1"}),
            ("cancel", {"command": "1"}),
        ):
            said = await operators.ask(name, verb, **body)
            assert (said["ok"], said["code"], said["cause"]) == (False, "FORBIDDEN", "account_unknown"), verb
        assert (await operators.ask("alice", "get", device="line-1/sn-1"))["ok"]
    assert await devices.show(database, "sn-1") == before


def test_more_requests_of_one_operator_than_his_burst_are_dropped_until_his_rate_gives_more():
    operators = Operators(None)
    for _ in range(int(BURST) + 1):
        operators.say("alice", "list")
    assert (operators.counted, operators.acknowledged) == (["throttled_operator"], 1)
    operators.say("bob", "list")  # another has a share of his own
    operators.seconds += 1
    for _ in range(int(RATE) + 1):
        operators.say("alice", "list")
    assert (operators.counted, operators.acknowledged) == (["throttled_operator"] * 2, 2)


def test_one_request_more_than_wait_at_once_is_dropped():
    operators = Operators(None)
    for number in range(QUEUED + 1):
        operators.say(f"op-{number}", "list")
    assert (operators.counted, operators.acknowledged) == (["throttled_operator"], 1)


def test_one_operator_has_a_part_of_what_waits_only():
    operators = Operators(None)
    for _ in range(QUEUED_EACH + 1):
        operators.seconds += 1
        operators.say("alice", "list")
    assert (operators.counted, operators.acknowledged) == (["throttled_operator"], 1)


def test_a_flood_of_one_operator_delays_another_by_one_turn():
    turns = Turns()
    asked = ["alice"] * 5 + ["bob", "carol", "bob"]
    assert all(turns.offer(name, f"{name} {number}") for number, name in enumerate(asked))
    taken = [turns.take().partition(" ")[0] for _ in range(len(turns))]
    assert taken == ["alice", "bob", "carol", "alice", "bob", "alice", "alice", "alice"]
    assert len(turns) == 0


def test_the_bounds_of_operators_requests():
    assert (QUEUED, QUEUED_EACH, RATE, BURST) == (256, 128, 20, 60)


class Held(Commands):
    """Whoever begins to work on a command says so, and waits for `let_go`."""

    def __init__(self, *given, **options) -> None:
        super().__init__(*given, **options)
        self.begun: asyncio.Queue[str] = asyncio.Queue()
        self.let_go = asyncio.Event()

    async def run(self, command_id, *given) -> None:
        self.begun.put_nowait(command_id)
        await self.let_go.wait()
        await super().run(command_id, *given)


async def test_a_command_is_paused_resumed_and_cancelled_over_mqtt(database, monkeypatch):
    monkeypatch.setattr(command_page, "PAGE", 1)
    await seed(database, "a", "b", "c")
    async with listening(database, Held) as operators:
        said = await operators.ask("alice", "block", selector={"group": GROUP.group_id})
        assert (said["state"], said["total"], said["done"]) == ("running", 3, 1)
        assert await operators.commands.begun.get() == said["command"]
        for _ in range(2):
            paused = await operators.ask("alice", "pause", id="2", command="1")
            assert (paused["ok"], paused["state"], paused["command"]) == (True, "paused", said["command"])
        operators.commands.let_go.set()
        assert (await operators.progress("alice"))["state"] == "paused"
        assert (await operators.ask("alice", "command-status", id="3", command="1"))["done"] == 1
        assert (await operators.ask("alice", "resume", id="4", command="1"))["state"] == "running"
        while (told := await operators.progress("alice"))["state"] != "done":
            pass
        assert told["done"] == 3
        refused = await operators.ask("alice", "cancel", id="5", command="1")
        assert (refused["code"], refused["cause"]) == ("CONFLICT", "command_state")
        operators.commands.let_go.clear()
        said = await operators.ask("alice", "unblock", id="6", selector={"group": GROUP.group_id})
        while await operators.commands.begun.get() != said["command"]:
            pass
        assert (await operators.ask("alice", "cancel", id="7", command="6"))["state"] == "cancelled"
        operators.commands.let_go.set()
        assert (await operators.progress("alice"))["state"] == "cancelled"
    page = await devices.list_page(database, Selector(state=DeviceState.BLOCKED))
    assert len(page.devices) == 2
