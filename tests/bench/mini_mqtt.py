"""A small MQTT 3.1.1 client on asyncio, so that the load generator costs little of the two cores that it shares.

Owns bytes of CONNECT, SUBSCRIBE, PUBLISH, PUBACK and PINGREQ; knows nothing of Firstlight. Not for use outside bench: it
trusts the broker and repeats nothing.
"""

import asyncio
import ssl
from collections.abc import Callable

KEEPALIVE_S = 30
CONNACK, PUBLISH, SUBACK = 2, 3, 9


def _text(value: bytes) -> bytes:
    return len(value).to_bytes(2, "big") + value


def _packet(first: int, body: bytes) -> bytes:
    length, size = bytearray(), len(body)
    while True:
        size, digit = size >> 7, size & 127
        length.append(digit | (128 if size else 0))
        if not size:
            return bytes((first,)) + bytes(length) + body


def publish_packet(topic: str, payload: bytes, qos: int = 1, packet_id: int = 1) -> bytes:
    body = _text(topic.encode()) + (packet_id.to_bytes(2, "big") if qos else b"") + payload
    return _packet(0x30 | qos << 1, body)


class MiniClient(asyncio.Protocol):
    """One connection. `received(topic, payload)` is called for each PUBLISH, in order."""

    def __init__(self, received: Callable[[str, bytes], None]) -> None:
        self._received = received
        self._buffer = bytearray()
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._packet_id = 0
        self._ping: asyncio.TimerHandle | None = None
        self.transport: asyncio.Transport | None = None
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def connect(
        self,
        host: str,
        port: int,
        client_id: str,
        *,
        username: str | None = None,
        password: str | None = None,
        tls: ssl.SSLContext | None = None,
        server_hostname: str | None = None,
    ) -> None:
        """Raises ConnectionError when the broker says no, TimeoutError when it says nothing."""
        name = (server_hostname or host) if tls else None
        await asyncio.get_running_loop().create_connection(lambda: self, host, port, ssl=tls, server_hostname=name)
        flags, body = 2, _text(client_id.encode())
        if username is not None:
            flags |= 0xC0
            body += _text(username.encode()) + _text((password or "").encode())
        head = _text(b"MQTT") + bytes((4, flags)) + KEEPALIVE_S.to_bytes(2, "big")
        answer = await self._ask(CONNACK, _packet(0x10, head + body))
        if answer[1]:
            self.close()
            raise ConnectionError(f"CONNACK {answer[1]}")
        self._keep_alive()

    async def subscribe(self, topic: str, qos: int = 1) -> None:
        body = b"\x00\x01" + _text(topic.encode()) + bytes((qos,))
        answer = await self._ask(SUBACK, _packet(0x82, body))
        if answer[2] >= 0x80:
            raise ConnectionError(f"SUBACK {answer[2]}")

    def publish(self, topic: str, payload: bytes, qos: int = 1) -> None:
        self._packet_id = self._packet_id % 65535 + 1
        self._write(publish_packet(topic, payload, qos, self._packet_id))

    def close(self) -> None:
        if self._ping is not None:
            self._ping.cancel()
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(b"\xe0\x00")
            self.transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def connection_lost(self, exc: Exception | None) -> None:
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(ConnectionError("lost"))
        if not self.lost.done():
            self.lost.set_result(None)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        start, end = 0, len(buffer)
        while end - start >= 2:
            length, shift, at = 0, 0, start + 1
            while at < end:
                digit = buffer[at]
                length |= (digit & 127) << shift
                shift, at = shift + 7, at + 1
                if digit < 128:
                    break
            else:
                break
            if end - at < length:
                break
            self._packet_received(buffer[start], bytes(memoryview(buffer)[at : at + length]))
            start = at + length
        if start:
            del buffer[:start]

    def _packet_received(self, first: int, body: bytes) -> None:
        kind = first >> 4
        if kind == PUBLISH:
            size = 2 + int.from_bytes(body[:2], "big")
            topic = body[2:size].decode()
            if first & 6:
                self._write(b"\x40\x02" + body[size : size + 2])
                size += 2
            self._received(topic, body[size:])
        elif kind in self._waiting and not self._waiting[kind].done():
            self._waiting[kind].set_result(body)

    async def _ask(self, kind: int, packet: bytes) -> bytes:
        self._waiting[kind] = asyncio.get_running_loop().create_future()
        self._write(packet)
        return await asyncio.wait_for(self._waiting[kind], 10)

    def _write(self, packet: bytes) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(packet)

    def _keep_alive(self) -> None:
        self._write(b"\xc0\x00")
        self._ping = asyncio.get_running_loop().call_later(KEEPALIVE_S / 2, self._keep_alive)
