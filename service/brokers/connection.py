"""One client's connection to the embedded broker: reads packets, holds the bounds, writes packets.

Owns the reader loop, the outbound bounds and the keep-alive deadline of one connection. Decides nothing about access
(policy.py) and nothing about who else gets a message (embedded.py). amqtt gives the packet formats and the adapters.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from amqtt.adapters import BufferReader, StreamReaderAdapter, StreamWriterAdapter
from amqtt.mqtt.packet import (
    DISCONNECT,
    PINGREQ,
    PUBACK,
    PUBLISH,
    SUBSCRIBE,
    UNSUBSCRIBE,
    MQTTFixedHeader,
)
from amqtt.mqtt.pingresp import PingRespPacket
from amqtt.mqtt.suback import SubackPacket
from amqtt.mqtt.subscribe import SubscribePacket
from amqtt.mqtt.unsuback import UnsubackPacket
from amqtt.mqtt.unsubscribe import UnsubscribePacket

from service.brokers.policy import Principal

MAX_PACKET_BYTES = 256 * 1024
MAX_OUTBOUND_BYTES = 4 * 1024 * 1024  # to a device that does not read; above it QoS 0 messages to it are dropped
MAX_UNREAD_BYTES = 8 * 1024 * 1024  # answers to a device included, which are not dropped; above it its connection ends
MAX_UNACKNOWLEDGED = 512  # QoS 1 to one client; above it its publishers wait
MAX_SUBSCRIPTIONS = 8
_SUBACK_REFUSED = 0x80


class ProtocolViolation(Exception):  # noqa: N818 - what MQTT calls it
    """The client broke MQTT 3.1.1 or a bound; the connection ends."""


class Router(Protocol):
    """What a connection asks of its broker."""

    async def route(self, sender: Connection, topic: str, payload: bytes) -> None: ...

    def subscribe(self, client: Connection, topic_filter: str, qos: int) -> bool: ...

    def unsubscribe(self, client: Connection, topic_filter: str) -> None: ...


class Connection:
    """Authenticated; `principal` never changes. Lives exactly as long as its TCP connection."""

    def __init__(
        self,
        principal: Principal,
        client_id: str,
        keepalive_s: int,
        streams: tuple[StreamReaderAdapter, StreamWriterAdapter],
        monotonic: Callable[[], float],
    ) -> None:
        self.principal = principal
        self.client_id = client_id
        self.closed = asyncio.Event()
        self.dropped = 0  # messages to it that its bounds refused
        self.filters: dict[str, int] = {}  # topic filter -> granted QoS
        self._reader = streams[0]._reader  # noqa: SLF001 - amqtt's adapter reads one field at a time
        self._writer = streams[1]._writer  # noqa: SLF001 - and hides the size of the write buffer
        self._keepalive_s = keepalive_s
        self._monotonic = monotonic
        self._heard_at = monotonic()
        self._packet_id = 0
        self._unacknowledged: set[int] = set()
        self._room = asyncio.Event()
        self._room.set()
        self._over = False

    # --- reading ------------------------------------------------------------------------------------------------

    async def serve(self, router: Router) -> bool:
        """Handle packets until the connection ends. True if the client said DISCONNECT. Raises ProtocolViolation."""
        try:
            while True:
                kind, flags, body = await self._packet()
                self._heard_at = self._monotonic()
                if kind == PUBLISH:
                    await self._publish(router, flags, body)
                elif kind == PUBACK:
                    self._acknowledged(body)
                elif kind == PINGREQ:
                    self.write(PingRespPacket.build().to_bytes())
                elif kind == SUBSCRIBE:
                    await self._subscribe(router, body)
                elif kind == UNSUBSCRIBE:
                    await self._unsubscribe(router, body)
                elif kind == DISCONNECT:
                    return True
                else:
                    raise ProtocolViolation(f"packet type {kind}")
                if not self.principal.is_service and self._unread_bytes() > MAX_UNREAD_BYTES:
                    raise ProtocolViolation("it asks on and reads nothing")
        except (asyncio.IncompleteReadError, ConnectionError):
            return False
        finally:
            self._over = True
            self._room.set()  # whoever waits to publish to it finds it gone

    async def _packet(self) -> tuple[int, int, bytes]:
        first = (await self._reader.readexactly(1))[0]
        length, shift = 0, 0
        while True:
            byte = (await self._reader.readexactly(1))[0]
            length |= (byte & 0x7F) << shift
            if not byte & 0x80:
                break
            shift += 7
            if shift > 21:
                raise ProtocolViolation("malformed length")
        if length > MAX_PACKET_BYTES:
            raise ProtocolViolation(f"packet of {length} bytes")
        return first >> 4, first & 0x0F, await self._reader.readexactly(length) if length else b""

    async def _publish(self, router: Router, flags: int, body: bytes) -> None:
        qos = (flags >> 1) & 3
        if flags & 1:
            raise ProtocolViolation("retained message")
        if qos > 1 or len(body) < 2:
            raise ProtocolViolation("QoS 2 or short packet")
        end = 2 + int.from_bytes(body[:2], "big")
        start = end + 2 if qos else end
        if len(body) < start:
            raise ProtocolViolation("short packet")
        try:
            topic = body[2:end].decode()
        except UnicodeDecodeError:
            raise ProtocolViolation("topic is not UTF-8") from None
        if not topic or any(c in topic for c in "+#\0"):
            raise ProtocolViolation("wildcard or empty topic")
        await router.route(self, topic, body[start:])
        if qos:
            self.write(b"\x40\x02" + body[end : end + 2])

    async def _subscribe(self, router: Router, body: bytes) -> None:
        packet = await SubscribePacket.from_stream(BufferReader(body), MQTTFixedHeader(SUBSCRIBE, 2, len(body)))
        if packet.variable_header is None or not packet.payload or not packet.payload.topics:
            raise ProtocolViolation("empty SUBSCRIBE")
        codes = []
        for topic_filter, qos in packet.payload.topics:
            granted = min(qos, 1)
            full = len(self.filters) >= MAX_SUBSCRIPTIONS and topic_filter not in self.filters
            ok = not full and router.subscribe(self, topic_filter, granted)
            codes.append(granted if ok else _SUBACK_REFUSED)
        self.write(SubackPacket.build(packet.variable_header.packet_id, codes).to_bytes())

    async def _unsubscribe(self, router: Router, body: bytes) -> None:
        packet = await UnsubscribePacket.from_stream(BufferReader(body), MQTTFixedHeader(UNSUBSCRIBE, 2, len(body)))
        if packet.variable_header is None or not packet.payload or not packet.payload.topics:
            raise ProtocolViolation("empty UNSUBSCRIBE")
        for topic_filter in packet.payload.topics:
            router.unsubscribe(self, topic_filter)
        self.write(UnsubackPacket.build(packet.variable_header.packet_id).to_bytes())

    def _acknowledged(self, body: bytes) -> None:
        if len(body) != 2:
            raise ProtocolViolation("malformed PUBACK")
        self._unacknowledged.discard(int.from_bytes(body, "big"))
        self._room.set()

    # --- writing ------------------------------------------------------------------------------------------------

    async def send(self, topic: bytes, payload: bytes, qos: int) -> None:
        """One message to this client.

        The service's connection pushes back: whoever publishes to it waits until it has room. A device's connection
        never makes anybody wait: what its buffer has no room for is dropped and counted, and the device asks again.
        """
        while qos and not self._over and len(self._unacknowledged) >= MAX_UNACKNOWLEDGED:
            if not self.principal.is_service:
                self.dropped += 1
                return
            self._room.clear()
            await self._room.wait()
        if self._over or self._writer.transport.is_closing():
            return
        if not self.principal.is_service and self._unread_bytes() > MAX_OUTBOUND_BYTES:
            self.dropped += 1
            return
        self._write_publish(topic, payload, qos)
        if self.principal.is_service:
            await self._drain()

    def _write_publish(self, topic: bytes, payload: bytes, qos: int) -> None:
        packet_id = b""
        if qos:
            self._packet_id = self._packet_id % 0xFFFF + 1
            self._unacknowledged.add(self._packet_id)
            packet_id = self._packet_id.to_bytes(2, "big")
        length = 2 + len(topic) + len(packet_id) + len(payload)
        head = bytearray([0x30 | qos << 1])
        while length > 0x7F:
            head.append(length & 0x7F | 0x80)
            length >>= 7
        head.append(length)
        self.write(b"".join((head, len(topic).to_bytes(2, "big"), topic, packet_id, payload)))

    async def _drain(self) -> None:
        try:
            await self._writer.drain()
        except ConnectionError:
            return

    def _unread_bytes(self) -> int:
        waiting: int = self._writer.transport.get_write_buffer_size()
        return waiting

    def write(self, data: bytes) -> None:
        if not self._writer.transport.is_closing():
            self._writer.write(data)

    # --- ending -------------------------------------------------------------------------------------------------

    @property
    def is_silent(self) -> bool:
        """Whether one and a half keep-alives passed without a packet."""
        return self._keepalive_s > 0 and self._monotonic() - self._heard_at > 1.5 * self._keepalive_s

    def end(self) -> None:
        """Cut the connection now; what is still unsent is lost."""
        self._over = True
        self._room.set()
        self._writer.transport.abort()
