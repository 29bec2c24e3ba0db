"""Replies and pushes on their way to one link.

Owns a bounded queue and one sender; what a link cannot take is dropped, because the device asks again. Sits after the
commit.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque

from service.mqtt.port import Link, LinkDown
from service.pipeline.record import Record

log = logging.getLogger("firstlight.outbox")


class Outbox:
    def __init__(self, link: Link, bound: int, record: Record) -> None:
        self._link = link
        self._bound = bound
        self._record = record
        self._waiting: deque[tuple[str, bytes]] = deque()
        self._arrived = asyncio.Event()
        self._sending = False

    @property
    def idle(self) -> bool:
        return not self._waiting and not self._sending

    def put(self, topic: str, payload: bytes) -> None:
        if len(self._waiting) >= self._bound:
            self._record.count("reply_dropped_full")
            return
        self._waiting.append((topic, payload))
        self._arrived.set()

    async def run(self) -> None:
        while True:
            self._arrived.clear()
            while self._waiting:
                topic, payload = self._waiting.popleft()
                self._sending = True
                try:
                    await self._link.publish(topic, payload)
                except LinkDown:
                    self._record.count("reply_dropped_link_down")
                except Exception:  # costs this message, not all that come after it
                    self._record.count("internal_fault")
                    log.exception("a message was not sent")
                finally:
                    self._sending = False
            await self._arrived.wait()
