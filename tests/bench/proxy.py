"""A TCP proxy on loopback that holds everything back for a fixed time, each way.

Owns delay only: order and rate stay as they are, as on a long line. Several connections may run through one proxy.
"""

import asyncio
import contextlib
from collections import deque

from tests.support.loopback_server import LoopbackServer

READ_BYTES = 256 * 1024
MAX_HELD_BYTES = 64 * 1024 * 1024  # far above what a window of the protocol can put on the line


class DelayProxy(LoopbackServer):
    """`async with DelayProxy(host, port, delay_s) as proxy:` then connect to ("127.0.0.1", proxy.port)."""

    def __init__(self, host: str, port: int, delay_s: float) -> None:
        super().__init__()
        self._to = host, port
        self.delay_s = delay_s

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            far_reader, far_writer = await asyncio.open_connection(*self._to)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._carry(reader, far_writer), name="up")
                    group.create_task(self._carry(far_reader, writer), name="down")
            finally:
                await _closed(far_writer)
                await _closed(writer)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held: deque[tuple[float, bytes]] = deque()
        arrived = asyncio.Event()
        room = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._collect(reader, held, arrived, room), name="collect")
            group.create_task(self._release(writer, held, arrived, room), name="release")

    async def _collect(self, reader, held, arrived, room) -> None:
        loop = asyncio.get_running_loop()
        while True:
            with contextlib.suppress(ConnectionError):
                data = await reader.read(READ_BYTES)
                held.append((loop.time() + self.delay_s, data))
                arrived.set()
                if not data:
                    return
                while sum(len(part) for _, part in held) > MAX_HELD_BYTES:
                    room.clear()
                    await room.wait()
                continue
            held.append((loop.time() + self.delay_s, b""))
            arrived.set()
            return

    async def _release(self, writer, held, arrived, room) -> None:
        loop = asyncio.get_running_loop()
        while True:
            while not held:
                arrived.clear()
                await arrived.wait()
            due, data = held[0]
            if due > loop.time():
                await asyncio.sleep(due - loop.time())
            held.popleft()
            room.set()
            with contextlib.suppress(ConnectionError):
                if not data:
                    writer.close()
                    return
                writer.write(data)
                await writer.drain()


async def _closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
