"""A TCP proxy on loopback that cuts one connection, once, after an exact number of bytes of one direction."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from device_sdk.core import actions
from device_sdk.drivers.aio import AiomqttTransport, Link
from tests.support.loopback_server import LoopbackServer

UP, DOWN = "up", "down"  # to the broker, to the device


@dataclass(frozen=True, slots=True)
class Cut:
    """After `after` bytes of this direction, both ends are cut off; the byte after them never arrives."""

    direction: str
    after: int


class CutProxy(LoopbackServer):
    """`passed`: bytes of the first connection in each direction; `cuts`: 1 once it has cut. Only the first is cut."""

    def __init__(self, to_port: int, cut: Cut | None) -> None:
        super().__init__()
        self.cuts = 0
        self.passed = {UP: 0, DOWN: 0}
        self._to_port, self._cut = to_port, cut
        self._connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        first = self._connections == 1
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._to_port)
        both = (writer, far_writer)
        carrying = {
            asyncio.create_task(self._carry(reader, far_writer, UP, first=first)),
            asyncio.create_task(self._carry(far_reader, writer, DOWN, first=first)),
        }
        try:
            await asyncio.wait(carrying, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in carrying:
                one.cancel()
            await asyncio.gather(*carrying, return_exceptions=True)
            for one in both:
                one.transport.abort()

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: str, *, first: bool
    ) -> None:
        """Until the end of one direction, or until its cut; ending ends the connection."""
        cut = self._cut if first and self._cut is not None and self._cut.direction == direction else None
        with contextlib.suppress(OSError):
            while True:
                room = 65536 if cut is None else cut.after - self.passed[direction]
                if room == 0:
                    self.cuts += 1
                    return
                data = await reader.read(room)
                if not data:
                    return
                if first:
                    self.passed[direction] += len(data)
                writer.write(data)
                await writer.drain()


class ProxiedTransport:
    """A device's transport through proxies, by the port that it wants to reach."""

    def __init__(self, proxies: Mapping[int, CutProxy]) -> None:
        self._proxies = proxies
        self._inner = AiomqttTransport()

    def open(self, connect: actions.Connect) -> AbstractAsyncContextManager[Link]:
        connect.port = self._proxies[connect.port].port
        return self._inner.open(connect)
