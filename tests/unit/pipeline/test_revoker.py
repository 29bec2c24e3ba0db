"""Dropped credentials of several environments: each broker is told by itself."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import pytest

from service.brokers.gate import GateError
from service.pipeline.bounds import Bounds
from service.pipeline.granter import Granter, Revoker
from service.pipeline.record import Record
from tests.support.fake_link import START
from tests.support.storage import a_credential, a_device

DEVICE = a_device()


class Dropped:
    """What the database says is not yet revoked."""

    def __init__(self):
        self.rows = {}

    def drop(self, number, environment):
        one = a_credential(DEVICE, f"{number:032x}", environment=environment)
        self.rows[one.credential_id] = one

    async def unrevoked(self, *, after="", limit=2):
        return [self.rows[name] for name in sorted(self.rows) if name > after][:limit]

    async def mark_revoked(self, credential_ids, _at):
        for one in credential_ids:
            del self.rows[one]


class Gate:
    def __init__(self):
        self.answers = asyncio.Event()
        self.answers.set()
        self.calls = 0
        self.told = asyncio.Event()

    async def revoke(self, logins):
        self.calls += 1
        await self.answers.wait()
        self.told.set()


@asynccontextmanager
async def revoking(**bounds):
    upkeep, gates = Dropped(), {"prod": Gate(), "east": Gate()}
    limits, record = replace(Bounds(), **bounds), Record(10)
    granters = {name: Granter(gate, limits, record) for name, gate in gates.items()}
    revoker = Revoker(upkeep, granters, limits, record, clock=lambda: START, forget=lambda _: None)
    running = asyncio.create_task(revoker.run())
    try:
        yield upkeep, gates, revoker
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        assert not revoker._calls


async def test_a_broker_that_does_not_answer_holds_up_no_other():
    async with revoking(gate_timeout_s=600.0, tick_s=0.01) as (upkeep, gates, revoker):
        gates["east"].answers.clear()
        for number in range(5):
            upkeep.drop(number, "east")
        upkeep.drop(5, "prod")
        async with asyncio.timeout(60):
            for number in range(6, 9):  # one after the other, while the other broker keeps silent
                await gates["prod"].told.wait()
                gates["prod"].told.clear()
                upkeep.drop(number, "prod")
                revoker.wake()
            assert gates["east"].calls == 1  # and is not asked again meanwhile
            gates["east"].answers.set()
            while upkeep.rows:
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("error", [GateError("no"), RuntimeError("a fault")])
async def test_one_that_fails_is_asked_again(error):
    async with revoking(tick_s=0.01) as (upkeep, gates, revoker):
        real = gates["prod"].revoke

        async def once(_logins):
            gates["prod"].revoke = real
            raise error

        gates["prod"].revoke = once
        upkeep.drop(1, "prod")
        upkeep.drop(2, "east")
        revoker.wake()
        async with asyncio.timeout(60):
            while upkeep.rows:
                await asyncio.sleep(0.01)
