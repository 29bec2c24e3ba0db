"""Many virtual devices over one real connection per broker, for load tests.

Owns the shared connections and the way of each message to the device that its topic names. The broker must know a
load-test identity that may read and write every device's topics; `firstlight doctor` fails where it finds one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Self

from device_sdk.core.actions import Connect
from device_sdk.drivers import connection
from device_sdk.drivers.aio import AiomqttTransport, Link, LinkLostError, Transport, ended

MAX_SHARED = 16 * connection.MAX_INCOMING  # messages and requests that may wait on a shared connection

Route = Callable[[Connect], Connect]


class MultiplexTransport:
    """`route` turns a device's Connect into the shared one: the load-test identity's login, and a `subscribe` that
    holds for all devices (`pv1/b/+/dn/+`). Devices with the same routed host, port and client id share a connection.

    Use it as an asynchronous context manager; leaving it ends the shared connections.
    """

    def __init__(self, route: Route, inner: Transport | None = None) -> None:
        self._route = route
        self._inner = inner or AiomqttTransport(max_incoming=MAX_SHARED, max_outgoing=MAX_SHARED)
        self._shared: dict[tuple[str, int, str], _Shared] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for shared in self._shared.values():
            await shared.close()

    @asynccontextmanager
    async def open(self, connect: Connect) -> AsyncIterator[Link]:
        routed = self._route(connect)
        key = (routed.host, routed.port, routed.client_id)
        shared = self._shared.setdefault(key, _Shared(self._inner, routed))
        await shared.ready()
        owner = connect.subscribe[0].split("/")[-3]
        link = _SharedLink(shared)
        shared.links[owner] = link
        try:
            yield link
        finally:
            if shared.links.get(owner) is link:
                del shared.links[owner]


class _Shared:
    def __init__(self, transport: Transport, connect: Connect) -> None:
        self._transport = transport
        self._connect = connect
        self._opening = asyncio.Lock()
        self._reader: asyncio.Task[None] | None = None
        self.link: Link | None = None
        self.links: dict[str, _SharedLink] = {}

    async def ready(self) -> None:
        """The shared connection is open; ConnectError of whoever tried."""
        async with self._opening:
            if self.link is None:
                await self.close()
                opened = asyncio.get_running_loop().create_future()
                self._reader = asyncio.create_task(self._run(opened), name="shared connection")
                await opened

    async def _run(self, opened: asyncio.Future[None]) -> None:
        try:
            async with self._transport.open(self._connect) as link:
                self.link = link
                opened.set_result(None)
                while True:
                    self._hand_out(await link.receive())
        except LinkLostError:
            pass
        except Exception as error:
            if opened.done():
                raise
            opened.set_exception(error)
        finally:
            self.link = None
            for waiting in self.links.values():
                waiting.lose()

    def _hand_out(self, batch: list[tuple[str, bytes]]) -> None:
        for message in batch:
            link = self.links.get(message[0].rsplit("/", 3)[-3])
            if link is not None:
                link.put(message)

    async def close(self) -> None:
        if self._reader is not None:
            await ended(self._reader)
            self._reader = None


class _SharedLink:
    def __init__(self, shared: _Shared) -> None:
        self._shared = shared
        self._inbox: deque[tuple[str, bytes]] = deque()
        self._arrived = asyncio.Event()
        self._lost = False

    def put(self, message: tuple[str, bytes]) -> None:
        if len(self._inbox) < connection.MAX_INCOMING:
            self._inbox.append(message)
            self._arrived.set()

    def lose(self) -> None:
        self._lost = True
        self._arrived.set()

    def publish(self, topic: str, payload: bytes, qos: int) -> None:
        if self._shared.link is not None:
            self._shared.link.publish(topic, payload, qos)

    async def receive(self) -> list[tuple[str, bytes]]:
        await self._arrived.wait()
        if not self._inbox:
            raise LinkLostError("the shared connection ended")
        batch = list(self._inbox)
        self._inbox.clear()
        if not self._lost:
            self._arrived.clear()
        return batch
