"""One MQTT client of a test: connects, subscribes, remembers what it received. Judges by messages, never by SUBACK."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from typing import Self

import aiomqtt

WAIT_S = 10.0


class Actor:
    """`async with Actor(...)`. Raises aiomqtt.MqttError when it is not let in."""

    def __init__(
        self,
        port: int,
        client_id: str,
        username: str | None = None,
        password: str | None = None,
        tls: ssl.SSLContext | None = None,
        will: aiomqtt.Will | None = None,
        keepalive: int = 30,
    ) -> None:
        self.client = aiomqtt.Client(
            "127.0.0.1",
            port,
            identifier=client_id,
            username=username,
            password=password,
            tls_context=tls,
            will=will,
            clean_session=True,
            keepalive=keepalive,
            timeout=WAIT_S,
        )
        self.client_id = client_id
        self.received: list[tuple[str, bytes]] = []
        self.lost = asyncio.Event()
        self._changed = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        try:
            await self.client.__aenter__()
        except aiomqtt.MqttError:
            self.client._client.disconnect()  # aiomqtt leaves the socket of a refused connection open
            self.client._client.loop_write()
            raise
        self._task = asyncio.create_task(self._collect())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        with suppress(aiomqtt.MqttError):
            await self.client.__aexit__(None, None, None)

    async def _collect(self) -> None:
        try:
            async for message in self.client.messages:
                async with self._changed:
                    self.received.append((message.topic.value, bytes(message.payload)))
                    self._changed.notify_all()
        except aiomqtt.MqttError:
            self.lost.set()

    async def subscribe(self, *filters: str, qos: int = 1) -> None:
        for topic_filter in filters:
            await self.client.subscribe(topic_filter, qos=qos)

    async def say(self, topic: str, payload: bytes = b"", *, retain: bool = False) -> None:
        await self.client.publish(topic, payload, qos=0, retain=retain)

    async def heard(self, topic: str, payload: bytes | None = None) -> None:
        """Wait until a message came on `topic` (with `payload`)."""

        def there() -> bool:
            return any(t == topic and payload in (None, p) for t, p in self.received)

        async with asyncio.timeout(WAIT_S), self._changed:
            await self._changed.wait_for(there)

    def topics(self) -> set[str]:
        return {topic for topic, _ in self.received}

    def drop(self) -> None:
        """Cut the connection without DISCONNECT, as a power loss does."""
        sock = self.client._client.socket()
        assert sock is not None
        sock.shutdown(2)
