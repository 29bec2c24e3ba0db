"""A simple device that has its thing renamed again and again, whatever is killed meanwhile, and notes what it was told."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

from tests.support.auditor import Told
from tests.support.mqtt_peer import MqttPeer
from tests.support.site import Site

ANSWER_S, AGAIN_S = 1.0, 0.2


class Renamer:
    def __init__(self, site: Site, serial: str) -> None:
        self.serial = serial
        self.told: list[Told] = []
        self._site = site

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` is set and the last rename was answered."""
        async with MqttPeer(self._site, self.serial) as peer:
            await _until(peer, peer.activate, {"ok": True})
            await _until(peer, peer.online, {"ok": True})
            while not stop.is_set():
                peer.n += 1
                body = {"n": peer.n, "boot_count": peer.boot_count, "name": f"roof {peer.n}"}
                await _until(peer, lambda body=body: peer.ask("c", "rename", body), {"ok": True, "name": body["name"]})
                numbers = (peer.boot_count, peer.n)
                self.told.append(
                    Told(peer.group_id, peer.serial, "rename", peer.credential_id, None, numbers, body["name"])
                )
                await asyncio.sleep(AGAIN_S)


async def _until(peer: MqttPeer, ask: Callable[[], Awaitable[dict[str, Any]]], expected: dict[str, Any]) -> None:
    """Repeat what is not answered so, each time over a new connection. The peer's own hello asserts its answer."""
    while True:
        with contextlib.suppress(OSError, TimeoutError, AssertionError):
            async with asyncio.timeout(ANSWER_S):
                reply = await ask()
            if {name: reply.get(name) for name in expected} == expected:
                return
        for space in ("b", "c"):
            await peer.cut(space)
        await asyncio.sleep(AGAIN_S)
