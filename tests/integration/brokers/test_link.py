"""The link on both brokers: delivery, acknowledgement by hand, back-pressure, loss and return."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any

import aiomqtt
import paho.mqtt.client as paho_client
import pytest

from service.brokers.embedded import EmbeddedBroker
from service.brokers.mosquitto.plan import SERVICE_USER
from service.mqtt.library import paho_of
from service.mqtt.link import LinkSettings, MqttLink
from service.mqtt.port import Inbound, LinkDown, Role
from tests.support.actor import Actor
from tests.support.broker_site import Site, api_key_login

A = api_key_login(0xA)
UP, DOWN = f"pv1/c/{A.credential_id}/up/report", f"pv1/c/{A.credential_id}/dn/report"


class Inbox:
    def __init__(self) -> None:
        self.messages: asyncio.Queue[Inbound] = asyncio.Queue()

    def __call__(self, message: Inbound) -> None:
        self.messages.put_nowait(message)

    async def next(self) -> Inbound:
        async with asyncio.timeout(10):
            return await self.messages.get()


@contextlib.asynccontextmanager
async def running(link: MqttLink):
    task = asyncio.create_task(link.run())
    try:
        async with asyncio.timeout(10):
            await link.connected.wait()
        yield link
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def link_to(site: Site, inbox: Inbox, **more) -> MqttLink:
    role = Role.OPERATIONAL
    settings = LinkSettings("127.0.0.1", site.service_ports[role], SERVICE_USER, site.passwords[role])
    return MqttLink("test", role, settings, inbox, **more)


def test_aiomqtt_still_has_the_paho_client_that_acknowledgement_by_hand_needs() -> None:
    async def probe() -> object:
        return paho_of(aiomqtt.Client("127.0.0.1"))

    client = asyncio.run(probe())
    assert isinstance(client, paho_client.Client)
    for own in ("_sock_send", "_sock_recv"):
        assert callable(getattr(client, own))
    for public in ("manual_ack_set", "ack", "want_write", "loop_write", "on_socket_register_write"):
        assert hasattr(client, public)


async def test_messages_go_both_ways_and_counts_say_so(site: Site) -> None:
    await site.gate.grant([A])
    inbox = Inbox()
    async with running(link_to(site, inbox)) as link, site.device(A) as device:
        await device.subscribe(f"pv1/c/{A.credential_id}/dn/+")
        await device.say(UP, b"request")
        message = await inbox.next()
        assert (message.topic, message.payload, message.link) == (UP, b"request", link)
        message.acknowledge()
        await link.publish(DOWN, b"reply")
        await device.heard(DOWN, b"reply")
        assert (link.state.received, link.state.sent, link.state.connects) == (1, 1, 1)
        assert link.state.connected_since is not None


@pytest.mark.mosquitto
async def test_what_was_not_acknowledged_stays_open_at_the_broker_and_an_acknowledgement_counts_once(
    real_site: Site,
) -> None:
    """512 open messages are all that the broker hands out: the next one comes when one of them is acknowledged."""
    await real_site.gate.grant([A])
    inbox = Inbox()
    async with running(link_to(real_site, inbox)), real_site.device(A) as device:
        for number in range(513):
            await device.client.publish(UP, b"%d" % number, qos=1)
        open_messages = [await inbox.next() for _ in range(512)]
        await real_site.gate.snapshot()  # the broker's loop has been round
        assert inbox.messages.empty()
        open_messages[0].acknowledge()
        open_messages[0].acknowledge()
        assert (await inbox.next()).payload == b"512"
        await device.client.publish(UP, b"after", qos=1)
        await real_site.gate.snapshot()
        assert inbox.messages.empty()  # the second acknowledgement of the same message opened nothing
        open_messages[1].acknowledge()
        assert (await inbox.next()).payload == b"after"


async def test_a_lost_connection_comes_back_under_a_new_client_id_and_old_acknowledgements_do_nothing() -> None:
    broker = EmbeddedBroker(Role.BOOTSTRAP)
    await broker.start()
    inbox, names = Inbox(), iter(("1" * 32, "2" * 32, "3" * 32, "4" * 32))
    used: list[str] = []

    def client_id() -> str:
        used.append(next(names))
        return used[-1]

    user, password = broker.service_login
    settings = LinkSettings("127.0.0.1", broker.port, user, password)
    link = MqttLink("test", Role.BOOTSTRAP, settings, inbox, client_id=client_id, jitter=lambda: 0.0)
    told: list[int] = []
    link.on_connect = lambda: told.append(link.state.received)
    async with running(link):
        async with Actor(broker.port, "a" * 32) as device:
            await device.client.publish(f"pv1/b/{'a' * 32}/up/hello", b"1", qos=1)
            old = await inbox.next()
        await broker.stop()
        while link.connected.is_set():
            await asyncio.sleep(0)
        with pytest.raises(LinkDown):
            await link.publish(f"pv1/b/{'a' * 32}/dn/hello", b"")
        await broker.start()
        async with asyncio.timeout(20):
            await link.connected.wait()
        old.acknowledge()
        async with Actor(broker.port, "a" * 32) as device:
            await device.client.publish(f"pv1/b/{'a' * 32}/up/hello", b"2", qos=1)
            (await inbox.next()).acknowledge()
        assert link.state.connects == 2
        assert told[0] == 0, "told before the first message of a connection"
        assert told[-1] == 1
        assert len(set(used)) == len(used) >= 2
    await broker.stop()


async def test_a_wrong_password_is_tried_again_for_ever_and_says_why_without_the_password(site: Site) -> None:
    settings = LinkSettings("127.0.0.1", site.service_ports[Role.OPERATIONAL], SERVICE_USER, A.api_key)
    link = MqttLink("test", Role.OPERATIONAL, settings, Inbox(), jitter=lambda: -0.4)
    task = asyncio.create_task(link.run())
    while link.state.last_error is None:
        await asyncio.sleep(0.01)
    assert not link.connected.is_set()
    assert "MqttConnectError" in link.state.last_error
    assert A.api_key is not None
    assert A.api_key.reveal().decode() not in link.state.last_error
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_the_system_is_asked_once_for_all_that_is_there_and_once_for_all_of_a_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A hundred messages at once, and as many back: few calls, nothing lost, nothing out of order."""
    many = 100
    asked: dict[int, list[str]] = {}
    for name in ("recv", "send"):
        real = getattr(socket.socket, name)

        def counted(self: socket.socket, *args: object, name: str = name, real: Any = real) -> Any:
            asked.setdefault(self.fileno(), []).append(name)
            return real(self, *args)

        monkeypatch.setattr(socket.socket, name, counted)
    up = UP.encode()
    publishes = b"".join(bytes([0x30, 3 + len(up)]) + len(up).to_bytes(2, "big") + up + bytes([n]) for n in range(many))
    back, gone = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(2)
        await reader.read(1000)  # CONNECT
        writer.write(b"\x20\x02\x00\x00")
        header = await reader.readexactly(2)
        body = await reader.readexactly(header[1])
        writer.write(b"\x90\x03" + body[:2] + b"\x01" + publishes)
        expected = bytes([0x30, 3 + len(DOWN)]) + len(DOWN).to_bytes(2, "big") + DOWN.encode()
        for n in range(many):
            assert await reader.readexactly(len(expected) + 1) == expected + bytes([n])
        back.set()
        await reader.read()
        writer.close()
        gone.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    inbox = Inbox()
    link = MqttLink("test", Role.OPERATIONAL, LinkSettings("127.0.0.1", server.sockets[0].getsockname()[1]), inbox)
    async with running(link), asyncio.timeout(20):
        heard = [(await inbox.next()).payload for _ in range(many)]
        assert heard == [bytes([n]) for n in range(many)]
        assert link._paho is not None
        sock = link._paho.socket()
        assert sock is not None
        calls = asked[sock.fileno()]
        assert calls.count("recv") < many / 4
        calls.clear()
        for n in range(many):
            await link.publish(DOWN, bytes([n]))
        await back.wait()
        assert calls.count("send") == 1
    async with asyncio.timeout(20):
        await gone.wait()
    server.close()
    await server.wait_closed()


async def test_publishers_wait_while_the_socket_takes_no_more_and_nothing_piles_up() -> None:
    """A broker that stops reading: publishers stop; when it reads again they go on; when it dies they get LinkDown."""
    reading, streams = asyncio.Event(), []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        streams.append(writer)
        await reader.readexactly(2)
        await reader.read(1000)  # CONNECT
        writer.write(b"\x20\x02\x00\x00")
        header = await reader.readexactly(2)
        body = await reader.readexactly(header[1])
        writer.write(b"\x90\x03" + body[:2] + b"\x01")
        await reading.wait()
        reading.clear()
        taken = 0
        while taken < 8_000_000:
            taken += len(await reader.read(65536))
        await reading.wait()
        writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    link = MqttLink("test", Role.OPERATIONAL, LinkSettings("127.0.0.1", port), Inbox())
    sent = 0

    async def stream() -> None:
        nonlocal sent
        while True:
            await link.publish(DOWN, bytes(16384))
            sent += 1

    async def stalled() -> None:
        """Until a round of the loop brings nothing more out."""
        before = -1
        while before != sent or link._writable.is_set():
            before = sent
            await asyncio.sleep(0.02)

    async with running(link):
        streams_running = [asyncio.create_task(stream()) for _ in range(50)]
        async with asyncio.timeout(20):
            await stalled()
        paho = link._paho
        assert paho is not None
        assert len(paho._out_packet) <= 2
        before = sent
        reading.set()
        async with asyncio.timeout(20):
            while sent < before + 100:
                await asyncio.sleep(0.01)
            await stalled()
        reading.set()
        results = await asyncio.gather(*streams_running, return_exceptions=True)
        assert all(isinstance(result, LinkDown) for result in results)
    server.close()
