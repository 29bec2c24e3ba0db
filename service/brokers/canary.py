"""One MQTT client of the doctor: connects, subscribes, sends, and says what it received.

Owns a single short-lived connection. Judges nothing; doctor.py does. Every wait has a time limit.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from dataclasses import dataclass
from typing import Self

import aiomqtt

from device_sdk.aiomqtt_mended import mend
from service.errors import Secret
from service.mqtt.library import close_socket

WAIT_S = 5.0
# What the library says of a refused connection is what the doctor wants to see: its checks say how it went.
_QUIET = logging.getLogger("firstlight.canary")
_QUIET.setLevel(logging.CRITICAL)


@dataclass(frozen=True, slots=True)
class Door:
    """Where a kind of client connects."""

    host: str
    port: int
    tls: ssl.SSLContext | None = None


class Canary:
    """`async with Canary(...)`; raises aiomqtt.MqttError when the broker does not let it in."""

    def __init__(
        self,
        door: Door,
        client_id: str,
        username: str | None = None,
        password: Secret | None = None,
        will: aiomqtt.Will | None = None,
    ) -> None:
        self.client_id = client_id
        self.received: list[tuple[str, bytes]] = []
        self.lost = asyncio.Event()
        self._news = asyncio.Event()
        self._collector: asyncio.Task[None] | None = None
        self._client = aiomqtt.Client(
            door.host,
            door.port,
            identifier=client_id,
            logger=_QUIET,
            username=username,
            password=None if password is None else password.reveal().decode(),
            tls_context=door.tls,
            will=will,
            clean_session=True,
            keepalive=30,
            timeout=WAIT_S,
        )

    async def __aenter__(self) -> Self:
        mend(self._client)
        try:
            await self._client.__aenter__()
        except aiomqtt.MqttError:
            close_socket(self._client)
            raise
        self._collector = asyncio.create_task(self._collect())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._collector is not None:
            self._collector.cancel()
            await asyncio.gather(self._collector, return_exceptions=True)
        with contextlib.suppress(aiomqtt.MqttError):
            await self._client.__aexit__(None, None, None)

    async def _collect(self) -> None:
        try:
            async for message in self._client.messages:
                payload = message.payload if isinstance(message.payload, bytes) else b""
                self.received.append((message.topic.value, payload))
                self._news.set()
        except aiomqtt.MqttError:
            self.lost.set()
            self._news.set()

    async def subscribe(self, *filters: str) -> None:
        for topic_filter in filters:
            await self._client.subscribe(topic_filter, qos=1)

    async def say(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        await self._client.publish(topic, payload, qos=0, retain=retain)

    async def heard(self, payload: bytes) -> bool:
        """Whether a message with this payload came in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WAIT_S):
                while not self.has(payload) and not self.lost.is_set():
                    self._news.clear()
                    await self._news.wait()
        return self.has(payload)

    async def heard_on(self, topic: str) -> bool:
        """Whether anything came on this topic in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WAIT_S):
                while not self.has_on(topic) and not self.lost.is_set():
                    self._news.clear()
                    await self._news.wait()
        return self.has_on(topic)

    def has_on(self, topic: str) -> bool:
        return any(got == topic for got, _ in self.received)

    def has(self, payload: bytes) -> bool:
        return any(got == payload for _, got in self.received)

    async def ended_within(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.lost.wait()
        return self.lost.is_set()
