"""A small MQTT 3.1.1 server in one thread, whose only other client is a function: for tests of devices.

It knows CONNECT, SUBSCRIBE, PUBLISH with QoS 0 and 1, PINGREQ and DISCONNECT, routes nothing between clients, and can do
what a real broker only does when it is broken: refuse, fall silent, cut a connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Iterable

from tests.support.loopback_server import ThreadedLoopbackServer

Answer = Callable[[str, str, bytes], Iterable[tuple[str, bytes]]]


class MqttServer(ThreadedLoopbackServer):
    """Listens on 127.0.0.1 at `port`. `answer(client_id, topic, payload)` gives the messages to send back.

    `connack` is the return code for the next CONNECTs (0: welcome), `login(client_id, username, password)` decides when
    it is 0. Use it as a context manager; everything may be set from the test's thread.
    """

    def __init__(self, answer: Answer, *, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(tls)
        self.answer = answer
        self.connack = 0
        self.silent = False
        self.login: Callable[[str, str | None, str | None], bool] = lambda *_who: True
        self.connects: list[str] = []
        self.errors: list[BaseException] = []
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aexit__(self, *error: object) -> None:
        self._cut()  # nothing that a client does not take keeps its session open
        await super().__aexit__(*error)

    def cut(self) -> None:
        """End every connection without a word."""
        self._loop.call_soon_threadsafe(self._cut)

    def push(self, topic: str, payload: bytes) -> None:
        """A message to every client (each takes what is its own)."""
        self._loop.call_soon_threadsafe(self._push, topic, payload)

    def _push(self, topic: str, payload: bytes) -> None:
        for writer in self._writers:
            writer.write(_publish(topic, payload))

    def _cut(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            await self._session(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            pass
        except Exception as error:  # noqa: BLE001  # shown to the test by `errors`
            self.errors.append(error)
        finally:
            self._writers.discard(writer)
            writer.close()
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                await writer.wait_closed()

    async def _session(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        kind, body = await _packet(reader)
        assert kind >> 4 == 1
        client_id, username, password = _connect(body)
        self.connects.append(client_id)
        code = self.connack or (0 if self.login(client_id, username, password) else 5)
        writer.write(bytes([0x20, 2, 0, code]))
        while code == 0:
            await writer.drain()
            kind, body = await _packet(reader)
            if kind >> 4 == 14:
                return
            if kind >> 4 == 12:
                writer.write(b"\xd0\x00")
            elif kind >> 4 == 8:
                count = _filters(body[2:])
                writer.write(bytes([0x90, 2 + count]) + body[:2] + b"\x01" * count)
            elif kind >> 4 == 3:
                length = int.from_bytes(body[:2], "big")
                topic, rest = body[2 : 2 + length].decode(), body[2 + length :]
                if kind & 6:
                    writer.write(b"\x40\x02" + rest[:2])
                    rest = rest[2:]
                if not self.silent:
                    for back, payload in self.answer(client_id, topic, rest):
                        writer.write(_publish(back, payload))
                        await writer.drain()


async def _packet(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    kind = (await reader.readexactly(1))[0]
    length = shift = 0
    while True:
        byte = (await reader.readexactly(1))[0]
        length |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return kind, await reader.readexactly(length)


def _connect(body: bytes) -> tuple[str, str | None, str | None]:
    texts = []
    flags, rest = body[7], body[10:]
    for present in (True, bool(flags & 0x80), bool(flags & 0x40)):
        if present:
            length = int.from_bytes(rest[:2], "big")
            texts.append(rest[2 : 2 + length].decode())
            rest = rest[2 + length :]
        else:
            texts.append(None)
    return texts[0] or "", texts[1], texts[2]


def _filters(body: bytes) -> int:
    count = 0
    while body:
        body = body[2 + int.from_bytes(body[:2], "big") + 1 :]
        count += 1
    return count


def _publish(topic: str, payload: bytes) -> bytes:
    name = topic.encode()
    body = len(name).to_bytes(2, "big") + name + payload
    length, out = len(body), bytearray([0x30])
    while True:
        out.append(length & 0x7F | (0x80 if length > 0x7F else 0))
        length >>= 7
        if not length:
            return bytes(out) + body
