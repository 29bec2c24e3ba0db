"""Many sessions that prove an identity they do not have, while its true holder powers up.

Owns the flood and what it may leave behind: counters that agree with the replies, and not a row.
"""

from __future__ import annotations

import asyncio
import random
import ssl
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import msgpack

from device_sdk.simulator import Fleet
from device_sdk.wire import keys, topics
from service.mqtt.port import EVERYWHERE
from tests.bench.mini_mqtt import MiniClient
from tests.support import auditor
from tests.support.site import ENVIRONMENT, GROUP, Site, made_site, until

SERIAL = "victim"
CONNECT_AT_ONCE = 50
UNANSWERED_S = 10.0  # a request that was dropped is left alone after that time


@dataclass(slots=True)
class Flood:
    sessions: int
    attempts: int  # of each session
    codes: Counter[str] = field(default_factory=Counter)
    unanswered: int = 0
    activated_s: float = 0.0  # what the true device needed, in the middle of it

    def line(self) -> str:
        codes = ", ".join(f"{code} {count}" for code, count in sorted(self.codes.items()))
        return (
            f"flood: {self.sessions} sessions, {codes}, {self.unanswered} unanswered;"
            f" the true device was online after {self.activated_s:.1f} s"
        )


async def run_flood(folder: Path, flood: Flood, broker: str, seed: int) -> Flood:
    """Raises AssertionError when the device is kept out, a row appears or the counters are wrong."""
    rng = random.Random(seed)
    async with made_site(folder, broker) as site:
        await site.register([SERIAL])
        if site.mosquittos is not None:
            for role in EVERYWHERE:
                await site.start_broker(role)
        await site.start_service(level="warning")
        before = site.rows()
        gate, flowing = asyncio.Semaphore(CONNECT_AT_ONCE), asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for _ in range(flood.sessions):
                group.create_task(_session(site, flood, rng.randbytes(48), gate, flowing))
            await until(lambda: flood.codes["REFUSED"] >= min(flood.sessions, 200) // 4, 60)
            flood.activated_s = await _true_device(site, rng.getrandbits(64))
            flowing.set()
        await _judge(site, flood, before)
    return flood


async def _session(site: Site, flood: Flood, chance: bytes, gate: asyncio.Semaphore, ended: asyncio.Event) -> None:
    """Attempts until they are used up; while the true device is not in, a round more of them."""
    session, nonce, key = chance[:16].hex(), chance[16:32], chance[32:] * 2
    inbox: asyncio.Queue[bytes] = asyncio.Queue()
    client = MiniClient(lambda _topic, payload: inbox.put_nowait(payload))
    end = site.settings.environments[ENVIRONMENT].endpoints.bootstrap
    tls = ssl.create_default_context(cafile=str(site.settings.ca_dir(ENVIRONMENT) / "ca.pem")) if end.tls else None
    async with gate:
        await client.connect(end.host, end.port, session, tls=tls)
        await client.subscribe(topics.down_filter(topics.BOOTSTRAP, session))

    async def ask(verb: str, body: dict[str, object]) -> dict:
        client.publish(topics.up(topics.BOOTSTRAP, session, verb), msgpack.packb(body))
        try:
            async with asyncio.timeout(UNANSWERED_S):
                return msgpack.unpackb(await inbox.get())
        except TimeoutError:
            flood.unanswered += 1
            return {"ok": False, "code": None}

    try:
        who = {"group_id": GROUP, "serial": SERIAL, "nonce": nonce}
        claim = msgpack.packb({**who, "boot_count": 1, "caps": []})
        attempts = 0
        while attempts < flood.attempts:
            hello = await ask("hello", {"id": "h", **who})
            if not hello["ok"]:
                flood.codes[hello["code"]] += hello["code"] is not None
                continue
            server_nonce = hello["server_nonce"]
            proof = keys.activate_proof(key, session, server_nonce, claim)
            body = {"id": "a", "claim": claim, "server_nonce": server_nonce, "proof": proof}
            while attempts < flood.attempts:
                attempts += ended.is_set() or attempts < flood.attempts - 1  # goes on while the true device waits
                reply = await ask("activate", body)
                flood.codes[reply["code"]] += reply["code"] is not None
                assert not reply["ok"]
                if reply["code"] == "NONCE_EXPIRED":
                    break
    finally:
        client.close()


async def _true_device(site: Site, seed: int) -> float:
    """Seconds from its power-up to its first answered `online`."""
    fleet, stop = Fleet([site.identity(SERIAL)], seed=seed, jitter_s=0), asyncio.Event()
    task = asyncio.create_task(fleet.run(stop))
    begun = time.monotonic()
    try:
        await until(lambda: fleet.devices[0].online_s is not None, 30)
    finally:
        stop.set()
        await task
    return time.monotonic() - begun


async def _judge(site: Site, flood: Flood, before: dict) -> None:
    after = site.rows()
    # 1. Nothing of the flood is stored: one credential and one thing are the true device's.
    assert (len(after["credential"]), len(after["thing"])) == (1, 1)
    assert after["device"] != before["device"]
    changed = {name for name in after if after[name] != before[name]}
    assert changed <= {"credential", "thing", "device", "product", "trace", "event", "sqlite_sequence", "meta"}, changed
    assert len(after["trace"]) < 10
    assert [row[0] for row in site.query("SELECT state FROM credential")] == ["confirmed"]

    # 2. Every refusal was counted under its cause.
    def counted() -> bool:
        counters = dict(site.query("SELECT name, value FROM counter"))
        refused = counters.get("refused_wrong_proof", 0)
        throttled = sum(counters.get(name, 0) for name in ("throttled_session", "queue_full"))
        lost = flood.unanswered
        return (
            flood.codes["REFUSED"] <= refused <= flood.codes["REFUSED"] + lost and flood.codes["THROTTLED"] <= throttled
        )

    try:
        await until(counted, 10)
    except TimeoutError:
        raise AssertionError(f"{flood.line()}; {site.query('SELECT name, value FROM counter')}") from None
    # 3. The service is well, and nothing was logged as a fault.
    assert (await site.ask("/health") or {})["ok"]
    assert await site.stop_service() == 0
    assert auditor.audit(site.settings.database_path) == []
    assert "Traceback" not in site.log()
