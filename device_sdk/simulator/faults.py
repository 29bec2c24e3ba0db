"""Network faults for virtual devices: messages lost, doubled, late or out of order, from a seeded generator.

Owns a transport that stands before another one. It changes no byte of a message.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from device_sdk.core.actions import Connect
from device_sdk.drivers import connection
from device_sdk.drivers.aio import Link, LinkLostError, Transport

REORDER_S = 0.02  # long enough for the next message to overtake


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """Probabilities per message (0..1), both ways; `cut` is the chance that a message ends the connection instead."""

    drop: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    delay: float = 0.0
    max_delay_s: float = 0.5
    cut: float = 0.0


class FaultyTransport:
    def __init__(self, inner: Transport, plan: FaultPlan, rng: random.Random) -> None:
        self._inner = inner
        self._plan = plan
        self._rng = rng

    @asynccontextmanager
    async def open(self, connect: Connect) -> AsyncIterator[Link]:
        async with self._inner.open(connect) as inner:
            link = _FaultyLink(inner, self._plan, self._rng)
            try:
                yield link
            finally:
                await link.close()


class _FaultyLink:
    def __init__(self, inner: Link, plan: FaultPlan, rng: random.Random) -> None:
        self._inner = inner
        self._plan = plan
        self._rng = rng
        self._inbox: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue(connection.MAX_INCOMING)
        self._lost = asyncio.Event()
        self._late: set[asyncio.TimerHandle] = set()
        self._pump = asyncio.create_task(self._carry(), name="faults")

    def publish(self, topic: str, payload: bytes, qos: int) -> None:
        self._pass_on(lambda: self._inner.publish(topic, payload, qos))

    async def receive(self) -> list[tuple[str, bytes]]:
        getting = asyncio.create_task(self._inbox.get())
        losing = asyncio.create_task(self._lost.wait())
        try:
            await asyncio.wait({getting, losing}, return_when=asyncio.FIRST_COMPLETED)
            if not getting.done():
                raise LinkLostError("cut by the fault plan or lost")
            batch = [getting.result()]
        finally:
            getting.cancel()
            losing.cancel()
        while not self._inbox.empty():
            batch.append(self._inbox.get_nowait())
        return batch

    async def close(self) -> None:
        for handle in self._late:
            handle.cancel()
        self._pump.cancel()
        await asyncio.wait({self._pump})

    async def _carry(self) -> None:
        try:
            while True:
                for message in await self._inner.receive():
                    self._pass_on(lambda message=message: self._put(message))  # type: ignore[misc]
        except LinkLostError:
            self._lost.set()

    def _put(self, message: tuple[str, bytes]) -> None:
        if not self._inbox.full():
            self._inbox.put_nowait(message)

    def _pass_on(self, deliver: Callable[[], None]) -> None:
        """Do it never, once or twice, now or later."""
        plan, rng = self._plan, self._rng
        if rng.random() < plan.cut:
            self._lost.set()
            return
        if rng.random() < plan.drop:
            return
        for _ in range(2 if rng.random() < plan.duplicate else 1):
            wait_s = 0.0
            if rng.random() < plan.reorder:
                wait_s = REORDER_S
            if rng.random() < plan.delay:
                wait_s += rng.random() * plan.max_delay_s
            if wait_s:
                self._later(wait_s, deliver)
            else:
                deliver()

    def _later(self, wait_s: float, deliver: Callable[[], None]) -> None:
        def now() -> None:
            self._late.discard(handle)
            deliver()

        handle = asyncio.get_running_loop().call_later(wait_s, now)
        self._late.add(handle)
