"""Another process holds the database: everybody is put off, nothing is half written, and it goes on by itself.

Source: the service waits `BUSY_TIMEOUT_S` for a lock. The short run makes that short; the long one holds for 30 s.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from device_sdk.wire import topics
from tests.support import auditor
from tests.support.mqtt_peer import MqttPeer
from tests.support.site import Site, made_site, until

DEVICES = 6
SMALL_QUEUE = 20
HELD_S, HELD_LONG_S = 1.0, 30.0
RSS_GROWTH_BYTES = 64 * 1024 * 1024  # 8192 requests wait at most, each a few KiB with all that belongs to it
HOLD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
connection.execute("UPDATE meta SET value = value + 1 WHERE name = 'catalogue_rev'")
print("held", flush=True)
sys.stdin.read()
connection.execute("ROLLBACK")
"""


@asynccontextmanager
async def held(site: Site) -> AsyncIterator[None]:
    """Another process is in the middle of a write."""
    pipe = asyncio.subprocess.PIPE
    words = (sys.executable, "-c", HOLD, str(site.settings.database_path))
    process = await asyncio.create_subprocess_exec(*words, stdin=pipe, stdout=pipe)
    try:
        assert await process.stdout.readline() == b"held\n"
        yield
    finally:
        process.stdin.close()
        await process.wait()


@asynccontextmanager
async def devices(site: Site) -> AsyncIterator[list[MqttPeer]]:
    """All but the last are online; the last one has never been activated."""
    peers = [MqttPeer(site, f"sn-{number}") for number in range(DEVICES)]
    try:
        async with asyncio.TaskGroup() as group:
            for peer in peers[:-1]:
                group.create_task(come_online(peer))
        yield peers
    finally:
        for peer in peers:
            await peer.cut("b")
            await peer.cut("c")


async def come_online(peer: MqttPeer) -> None:
    assert (await peer.activate())["ok"]
    assert (await peer.online())["ok"]


class Asking:
    """Devices that ask again as soon as they are answered, and one that asks without waiting for answers."""

    def __init__(self, peers: list[MqttPeer], within_s: float) -> None:
        *self.known, self.new = peers
        self.within_s = within_s
        self.ending = asyncio.Event()  # from now on the holder may let go at any moment
        self.released = asyncio.Event()  # it has
        self.codes: Counter[str] = Counter()
        self.slowest_s = 0.0

    async def ask(self, peer: MqttPeer, verb: str, body: Callable[[], bytes], space: str) -> None:
        """The same request until it is granted; before the release nothing else than UNAVAILABLE."""
        while True:
            released, began = self.released.is_set(), time.monotonic()
            async with asyncio.timeout(self.within_s):
                await peer.say(topics.up(space, peer._owner(space), verb), body(), space)
                reply = peer.unpack(await peer.heard(space, verb, self.within_s))
            self.slowest_s = max(self.slowest_s, time.monotonic() - began)
            if reply["ok"]:
                assert self.ending.is_set(), "it was granted while nothing could be stored"
                return
            self.codes[reply["code"]] += 1
            assert reply["code"] in ("UNAVAILABLE", "THROTTLED"), reply
            assert not released or reply["code"] == "THROTTLED", reply
            if reply["code"] == "UNAVAILABLE":
                assert 5 <= reply["retry_after_s"] <= 15, reply
            else:
                await asyncio.sleep(0.2)  # more haste would only be throttled again

    async def flood(self) -> None:
        """More than can be queued, of one device; what comes back is nobody's."""
        peer = self.known[0]
        topic = topics.up("c", peer.credential_id, "target")
        number = 0
        while not self.released.is_set():
            for _ in range(5):
                number += 1
                await peer.say(topic, peer.pack({"id": f"flood-{number}"}), "c")
            await asyncio.sleep(0.06)  # below the rate of one credential: it is the queue that must hold

    async def run(self, nonce: bytes) -> None:
        new = self.new.pack({"id": "again", **self.new.activate_body(nonce)})
        async with asyncio.TaskGroup() as group:
            group.create_task(self.flood())
            group.create_task(self.ask(self.new, "activate", lambda: new, "b"))
            for peer in self.known[1:]:
                report = peer.pack({"id": "r", "n": peer.n + 1, "desired_rev": 0})
                group.create_task(self.ask(peer, "report", lambda one=report: one, "c"))


def no_trace_of_it(site: Site) -> None:
    assert site.query("SELECT count(*) FROM credential") == [(DEVICES,)]
    assert auditor.audit(site.settings.database_path) == []


async def test_a_held_database_puts_everybody_off_and_is_forgotten_when_it_is_released(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.storage.connections.BUSY_TIMEOUT_S", 0.1)
    async with made_site(tmp_path) as site:
        await site.register([f"sn-{number}" for number in range(DEVICES)])
        async with site.serving_here() as service, devices(site) as peers:
            admission = service.pipeline.admission
            admission._bounds = replace(admission._bounds, queued_requests=SMALL_QUEUE)
            asking = Asking(peers, within_s=20)
            nonce = await peers[-1].hello()
            async with asyncio.TaskGroup() as group:
                async with held(site):
                    before = site.rows()
                    task = group.create_task(asking.run(nonce))
                    longest, end = 0, time.monotonic() + HELD_S
                    while time.monotonic() < end or not asking.codes["UNAVAILABLE"] >= DEVICES:
                        longest = max(longest, len(admission._requests))
                        await asyncio.sleep(0.01)
                    assert site.rows() == before
                    asking.ending.set()
                asking.released.set()
            assert task.done()
            assert longest <= SMALL_QUEUE
            await until(lambda: admission.idle)
        no_trace_of_it(site)


@pytest.mark.long
async def test_a_database_held_for_30_s_puts_everybody_off_and_memory_stays_bounded(tmp_path: Path) -> None:
    async with made_site(tmp_path) as site:
        await site.register([f"sn-{number}" for number in range(DEVICES)])
        await site.start_service()
        async with devices(site) as peers:
            asking = Asking(peers, within_s=60)
            nonce = await peers[-1].hello()
            memory = [resident_bytes(site.pid)]
            async with asyncio.TaskGroup() as group:
                async with held(site):
                    before, began = site.rows(), time.monotonic()
                    group.create_task(asking.run(nonce))
                    while time.monotonic() - began < HELD_LONG_S:
                        memory.append(resident_bytes(site.pid))
                        await asyncio.sleep(0.2)
                    assert site.rows() == before
                    asking.ending.set()
                released = time.monotonic()
                asking.released.set()
            recovered_s = time.monotonic() - released
        print(
            f"held {HELD_LONG_S:.0f} s: {dict(asking.codes)}, slowest answer {asking.slowest_s:.1f} s, all granted"
            f" {recovered_s:.1f} s after the release, memory +{(max(memory) - memory[0]) / 2**20:.1f} MiB"
        )
        assert asking.codes["UNAVAILABLE"] >= DEVICES
        assert max(memory) - memory[0] < RSS_GROWTH_BYTES
        assert (await site.ask("/health") or {})["ok"]
        assert await site.stop_service() == 0
        assert "Traceback" not in site.log()
        no_trace_of_it(site)


def resident_bytes(pid: int) -> int:
    line = next(one for one in Path(f"/proc/{pid}/status").read_text().splitlines() if one.startswith("VmRSS"))
    return int(line.split()[1]) * 1024
