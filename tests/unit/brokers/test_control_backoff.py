"""How long the admin's connection waits before it is made again: a broker that was restarted often is found as soon."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import aiomqtt

from service.brokers.mosquitto import control
from service.brokers.mosquitto.control import DynsecControl
from service.errors import Secret

ROUNDS = 12


class Waits:
    """asyncio, but nobody sleeps: the waits are kept, and after enough of them it ends."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def __getattr__(self, name: str) -> object:
        return getattr(asyncio, name)

    async def sleep(self, seconds: float) -> None:
        self.seconds.append(seconds)
        if len(self.seconds) == ROUNDS:
            raise asyncio.CancelledError


async def waits_of(monkeypatch, lasts_s: float) -> list[float]:
    waits, now = Waits(), [0.0]

    class Lost(DynsecControl):
        async def _one_connection(self) -> None:
            now[0] += lasts_s
            raise aiomqtt.MqttError("lost")

    monkeypatch.setattr(control, "asyncio", waits)
    lost = Lost("localhost", 1, Secret(b"password"), jitter=lambda: 0.5, monotonic=lambda: now[0])
    with suppress(asyncio.CancelledError):
        await lost.run()
    return waits.seconds


async def test_a_connection_that_lasted_is_made_again_at_once_however_often_it_was_lost(monkeypatch) -> None:
    assert await waits_of(monkeypatch, control.STABLE_S) == [control.FIRST_RETRY_S] * ROUNDS


async def test_a_broker_that_ends_every_connection_is_asked_ever_more_seldom(monkeypatch) -> None:
    waits = await waits_of(monkeypatch, 0.1)
    assert waits == sorted(waits)
    assert waits[-1] == control.MAX_RETRY_S
