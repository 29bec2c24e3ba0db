"""How far the time to REFUSED tells which serials exist: wrong proofs against the real database, without a broker.

Known and unknown serials take turns in random order, so that whatever slows the machine down slows both down; medians
are compared, which a few interrupted attempts do not move. The measure proves itself: with a delay of a fifth planted
for known serials it must show.
A difference of a few hundredths does not show here.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import msgpack
import pytest

from device_sdk.wire import codes, topics
from service.credentials import proofs
from service.mqtt.port import Inbound, Role
from tests.support.lifecycle import GROUP, WireLink, World
from tests.support.site import seed_of_run

KNOWN = [f"sn-{number}" for number in range(20)]
UNKNOWN = [f"no-{number}" for number in range(20)]
PLANTED = 0.2  # of the median
BOUND = 0.1  # how far the medians may lie apart: half of what is planted
ATTEMPTS = 3000  # of each kind
RECENT = 50


class Stopwatch:
    """Notes when a link of the service publishes a reply, and which."""

    def __init__(self, link: WireLink) -> None:
        self.link = link
        self.reply: dict = {}
        self.at = 0.0
        self.arrived = asyncio.Event()
        link.publish = self.publish

    async def publish(self, topic: str, payload: bytes) -> None:
        self.at = time.perf_counter()
        self.reply = msgpack.unpackb(payload)
        self.arrived.set()


@dataclass
class Prober:
    """Asks as an attacker does: a session of its own and a well-formed, wrong proof for each attempt."""

    world: World
    rng: random.Random
    watch: Stopwatch
    usual_s: float = 0.0  # what an unknown serial took lately

    async def refused_s(self, serial: str) -> float:
        """Seconds from the arrival of an activate to its REFUSED."""
        self.world.clock.advance(0.01)  # the buckets of all sessions together refill
        session, nonce = self.rng.randbytes(16).hex(), self.rng.randbytes(16)
        asked = {"group_id": GROUP.group_id, "serial": serial, "nonce": nonce}
        await self._ask(session, "hello", asked)
        server_nonce = self.watch.reply["server_nonce"]
        claim = msgpack.packb({**asked, "boot_count": 1, "caps": []})
        body = {"claim": claim, "server_nonce": server_nonce, "proof": self.rng.randbytes(32)}
        taken = await self._ask(session, "activate", body)
        assert self.watch.reply["code"] == codes.REFUSED, self.watch.reply
        return taken

    async def _ask(self, session: str, verb: str, body: dict) -> float:
        payload = msgpack.packb({"id": "1", **body})
        message = Inbound(self.watch.link, topics.up("b", session, verb), payload, lambda: None)
        self.watch.arrived.clear()
        began = time.perf_counter()
        self.world.pipeline.deliver(message)
        async with asyncio.timeout(30):
            await self.watch.arrived.wait()
        return self.watch.at - began

    async def medians(self, attempts: int) -> tuple[float, float]:
        """Seconds, of `attempts` known serials and as many unknown ones."""
        order = [True, False] * attempts
        self.rng.shuffle(order)
        taken: dict[bool, list[float]] = {True: [], False: []}
        for known in order:
            taken[known].append(await self.refused_s(self.rng.choice(KNOWN if known else UNKNOWN)))
            if not known and len(taken[False]) % RECENT == 0:
                self.usual_s = statistics.median(taken[False][-RECENT:])
        return statistics.median(taken[True]), statistics.median(taken[False])


@pytest.fixture
async def prober(tmp_path: Path) -> AsyncIterator[Prober]:
    world = await World.create(tmp_path, KNOWN)
    yield Prober(world, random.Random(seed_of_run()), Stopwatch(world.links["prod", Role.BOOTSTRAP]))
    await world.close()


def plant(monkeypatch: pytest.MonkeyPatch, prober: Prober) -> None:
    """Known serials take longer from now on, by a share of what it takes just then: a machine under load is slower."""
    real = proofs.verify_claimant

    def slower(group, device, *rest, **named):
        until = time.perf_counter() + PLANTED * prober.usual_s
        while device is not None and time.perf_counter() < until:
            pass
        return real(group, device, *rest, **named)

    monkeypatch.setattr(proofs, "verify_claimant", slower)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("planted", [False, True], ids=["as it is", "planted"])
async def test_the_time_to_refused_of_known_and_unknown_serials_is_within_a_tenth(prober, monkeypatch, planted):
    if planted:
        plant(monkeypatch, prober)
    known, unknown = await prober.medians(ATTEMPTS)
    apart = known / unknown - 1
    print(f"known {known * 1e6:.0f} us, unknown {unknown * 1e6:.0f} us, apart {apart:+.1%}")
    if planted:
        assert apart > BOUND
    else:
        assert abs(apart) < BOUND
