"""What the embedded broker guards beyond access: sessions, bounds, malformed packets."""

from __future__ import annotations

import asyncio
import contextlib

import aiomqtt
import pytest

from service.brokers import connection as bounds
from service.brokers.embedded import EmbeddedBroker, EmbeddedGate
from service.mqtt.port import Role
from tests.support.actor import Actor
from tests.support.broker_site import Site, api_key_login

A = api_key_login(0xA)
NAME = A.credential_id
KEY = A.api_key.reveal().decode()


def connect_packet(
    client_id: str, username: str | None = None, password: str | None = None, *, clean: bool = True
) -> bytes:
    def text(value: str) -> bytes:
        return len(value).to_bytes(2, "big") + value.encode()

    flags = (2 if clean else 0) | (0x80 if username is not None else 0) | (0x40 if password is not None else 0)
    body = b"\0\4MQTT\4" + bytes([flags]) + b"\0\x1e" + text(client_id)
    body += b"".join(text(x) for x in (username, password) if x is not None)
    return b"\x10" + length(len(body)) + body


def length(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


@pytest.mark.parametrize("clean", [True, False])
async def test_a_refused_connect_with_a_known_client_id_does_not_disturb_its_owner(embedded: Site, clean: bool) -> None:
    await embedded.gate.grant([A])
    async with embedded.device(A) as owner, embedded.service(Role.OPERATIONAL) as service:
        await owner.subscribe(f"pv1/c/{NAME}/dn/+")
        for password in ("wrong", "", None):
            reader, writer = await asyncio.open_connection("127.0.0.1", embedded.ports[Role.OPERATIONAL])
            writer.write(connect_packet(NAME, NAME, password, clean=clean))
            assert (await reader.readexactly(4))[3] in (4, 5)
            assert await reader.read() == b""  # and it is closed
            writer.close()
        await service.say(f"pv1/c/{NAME}/dn/desired", b"still here")
        await owner.heard(f"pv1/c/{NAME}/dn/desired", b"still here")
        assert not owner.lost.is_set()


async def test_the_same_device_again_takes_over_from_itself(embedded: Site) -> None:
    await embedded.gate.grant([A])
    async with embedded.service(Role.OPERATIONAL) as service, embedded.device(A) as first:
        await first.subscribe(f"pv1/c/{NAME}/dn/+")
        async with embedded.device(A) as second:
            await first.lost.wait()
            await second.subscribe(f"pv1/c/{NAME}/dn/+")
            await service.say(f"pv1/c/{NAME}/dn/desired")
            await second.heard(f"pv1/c/{NAME}/dn/desired")


async def test_a_bootstrap_client_cannot_take_the_service_s_client_id(embedded: Site) -> None:
    async with embedded.service(Role.BOOTSTRAP) as service, embedded.session("1" * 32) as device:
        await service.subscribe("pv1/b/+/up/+")
        with pytest.raises(aiomqtt.MqttError):
            await embedded.session(service.client_id).__aenter__()
        await device.say(f"pv1/b/{'1' * 32}/up/hello")
        await service.heard(f"pv1/b/{'1' * 32}/up/hello")


async def test_a_device_that_does_not_read_holds_no_more_than_its_bound(embedded: Site, monkeypatch) -> None:
    monkeypatch.setattr(bounds, "MAX_OUTBOUND_BYTES", 64 * 1024)
    session = "1" * 32
    reader, writer = await asyncio.open_connection("127.0.0.1", embedded.ports[Role.BOOTSTRAP], limit=1024)
    writer.write(connect_packet(session) + b"\x82" + subscribe_body(f"pv1/b/{session}/dn/+"))
    await reader.readexactly(4 + 5)
    async with embedded.service(Role.BOOTSTRAP) as service, embedded.session("2" * 32) as other:
        await other.subscribe(f"pv1/b/{'2' * 32}/dn/+")
        for _ in range(1000):
            await service.say(f"pv1/b/{session}/dn/chunk", bytes(16 * 1024))
        await service.say(f"pv1/b/{'2' * 32}/dn/hello")
        await other.heard(f"pv1/b/{'2' * 32}/dn/hello")  # nobody else waits for it
    writer.transport.abort()


def subscribe_body(topic_filter: str) -> bytes:
    body = b"\0\1" + len(topic_filter).to_bytes(2, "big") + topic_filter.encode() + b"\1"
    return length(len(body)) + body


async def test_a_dropped_message_to_a_slow_device_is_counted(monkeypatch) -> None:
    monkeypatch.setattr(bounds, "MAX_OUTBOUND_BYTES", -1)
    broker = EmbeddedBroker(Role.BOOTSTRAP)
    await broker.start()
    user, password = broker.service_login
    async with (
        Actor(broker.port, "3" * 32, user, password.reveal().decode()) as service,
        Actor(broker.port, "1" * 32) as device,
    ):
        await device.subscribe(f"pv1/b/{'1' * 32}/dn/+")
        await service.subscribe("pv1/b/+/up/+")
        await service.say(f"pv1/b/{'1' * 32}/dn/hello")
        await service.client.subscribe("pv1/b/+/up/x")  # answered after what came before it
        slow = broker.connection_of("1" * 32)
        assert slow is not None
        assert slow.dropped == 1
    await broker.stop()


def publish_packet(topic: str, number: int) -> bytes:
    body = len(topic).to_bytes(2, "big") + topic.encode() + number.to_bytes(2, "big")
    return b"\x32" + length(len(body)) + body


async def connected(port: int, packet: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(packet)
    await reader.readexactly(4)
    return reader, writer


@pytest.mark.parametrize("how", ["lost", "stopped"])
async def test_a_service_that_goes_with_a_full_hand_leaves_nobody_waiting(monkeypatch, how: str) -> None:
    monkeypatch.setattr(bounds, "MAX_UNACKNOWLEDGED", 3)
    broker = EmbeddedBroker(Role.BOOTSTRAP)
    await broker.start()
    user, password = broker.service_login
    hello = connect_packet("3" * 32, user, password.reveal().decode())
    reader, service = await connected(broker.port, hello)
    service.write(b"\x82" + subscribe_body("pv1/b/+/up/+"))
    await reader.readexactly(5)
    reader, device = await connected(broker.port, connect_packet("1" * 32))
    device.write(b"".join(publish_packet(f"pv1/b/{'1' * 32}/up/hello", number) for number in range(1, 6)))
    await reader.readexactly(3 * 4)  # the fourth waits for a service that acknowledges nothing
    async with asyncio.timeout(20):
        if how == "lost":
            service.transport.abort()
            await reader.readexactly(2 * 4)
        await broker.stop()
    service.transport.abort()
    device.transport.abort()


async def test_a_device_that_asks_on_and_does_not_read_is_ended(embedded: Site, monkeypatch) -> None:
    port = embedded.ports[Role.BOOTSTRAP]
    reader, writer = await connected(port, connect_packet("1" * 32))
    writer.write(b"\xc0\x00")
    assert await reader.readexactly(2) == b"\xd0\x00"
    monkeypatch.setattr(bounds, "MAX_UNREAD_BYTES", -1)  # as if nothing of what it was sent had been read
    writer.write(b"\xc0\x00")
    async with asyncio.timeout(20):
        assert await reader.read() in (b"", b"\xd0\x00")
    async with embedded.service(Role.BOOTSTRAP) as service:  # nobody else is
        await service.subscribe("pv1/b/+/up/+")
    writer.close()


@pytest.mark.parametrize(
    "packet",
    [
        b"\x30" + length(bounds.MAX_PACKET_BYTES + 1),
        b"\x30\xff\xff\xff\xff\x01",
        b"\x30\x00",
        b"\x30\x05\x00\x09abc",
        b"\x31\x09\x00\x04pv1/abc",
        b"\x34\x09\x00\x04pv1/abc",
        b"\x30\x05\x00\x01#ab",
        b"\x30\x05\x00\x02\xff\xfea",
        b"\x00\x00",
        b"\xf0\x00",
        b"\x10\x00",
        b"\x40\x01\x00",
        b"\x82\x02\x00\x01",
        b"\x82\x00",
        b"\xa2\x01\x00",
        b"\x20\x02\x00\x00",
        b"\x62\x02\x00\x01",
    ],
)
async def test_a_packet_beyond_the_rules_ends_its_own_connection_only(embedded: Site, packet: bytes) -> None:
    async with embedded.session("2" * 32) as other:
        reader, writer = await asyncio.open_connection("127.0.0.1", embedded.ports[Role.BOOTSTRAP])
        writer.write(connect_packet("1" * 32))
        await reader.readexactly(4)
        writer.write(packet)
        async with asyncio.timeout(20):
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
        writer.close()
        await other.subscribe(f"pv1/b/{'2' * 32}/dn/+")


@pytest.mark.parametrize(
    "first", [b"GET / HTTP/1.1\r\n\r\n", b"\x10\xff\xff\x7f", b"\x10\x00", b"\x30\x02\x00\x00", b"\xff" * 50]
)
async def test_what_is_no_connect_is_cut_off(embedded: Site, first: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", embedded.ports[Role.BOOTSTRAP])
    writer.write(first)
    async with asyncio.timeout(5):
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
    writer.close()


async def test_one_connection_too_many_is_cut_off_and_a_place_becomes_free_again() -> None:
    broker = EmbeddedBroker(Role.BOOTSTRAP, max_connections=1)
    await broker.start()
    async with Actor(broker.port, "1" * 32):
        reader, writer = await asyncio.open_connection("127.0.0.1", broker.port)
        writer.write(connect_packet("2" * 32))
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()
    while broker.connection_of("1" * 32) is not None:
        await asyncio.sleep(0)
    async with Actor(broker.port, "2" * 32):
        pass
    await broker.stop()


async def test_stop_ends_every_connection_and_start_takes_the_same_port_with_nothing_left_over() -> None:
    broker = EmbeddedBroker(Role.OPERATIONAL)
    await broker.start()
    port = broker.port
    await EmbeddedGate(broker).grant([A])
    async with Actor(port, NAME, NAME, KEY) as device:
        await broker.stop()
        await device.lost.wait()
    await broker.start()
    assert broker.port == port
    async with Actor(port, NAME, NAME, KEY):
        pass
    await broker.stop()


async def test_a_port_in_use_is_an_ordinary_error() -> None:
    first = EmbeddedBroker(Role.BOOTSTRAP)
    await first.start()
    second = EmbeddedBroker(Role.BOOTSTRAP, port=first.port)
    with pytest.raises(OSError, match=str(first.port)):
        await second.start()
    await first.stop()
