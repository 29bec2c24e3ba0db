"""What the pipeline may rely on in any link: the one over MQTT and the fake."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import pytest

from service.mqtt.link import LinkSettings, MqttLink
from service.mqtt.port import Inbound, Link, LinkDown, Role
from tests.support.broker_site import api_key_login, embedded_site, mosquitto_site
from tests.support.fake_link import FakeLink

A = api_key_login(0xA)
UP, DOWN = (f"pv1/c/{A.credential_id}/{one}/report" for one in ("up", "dn"))


@dataclass
class Rig:
    """A link and its other end."""

    link: Link
    say: Callable[[bytes], Awaitable[None]]  # a device does, on UP
    heard: Callable[[bytes], Awaitable[None]]  # it has, on DOWN
    cut: Callable[[], Awaitable[None]]  # and the link stays down
    arrived: list[Inbound] = field(default_factory=list)

    async def next(self) -> Inbound:
        async with asyncio.timeout(10):
            while not self.arrived:
                await asyncio.sleep(0.005)
        return self.arrived.pop(0)


@pytest.fixture(params=["fake", "embedded", pytest.param("mosquitto", marks=pytest.mark.mosquitto)])
async def rig(request, tmp_path) -> AsyncIterator[Rig]:
    made = a_fake() if request.param == "fake" else over_mqtt(request.param, tmp_path)
    async with made as one:
        yield one


@asynccontextmanager
async def a_fake() -> AsyncIterator[Rig]:
    link = FakeLink(Role.OPERATIONAL, "prod")

    async def say(payload: bytes) -> None:
        link.send(UP, payload)

    async def heard(payload: bytes) -> None:
        assert await link.next(DOWN) == payload

    async def cut() -> None:
        link.down = True

    made = Rig(link, say, heard, cut)
    link.deliver = made.arrived.append
    yield made


@asynccontextmanager
async def over_mqtt(kind: str, folder) -> AsyncIterator[Rig]:
    async with AsyncExitStack() as stack:
        site = await stack.enter_async_context(embedded_site() if kind == "embedded" else mosquitto_site(folder))
        await site.gate.grant([A])
        arrived: list[Inbound] = []
        role, password = Role.OPERATIONAL, site.passwords[Role.OPERATIONAL]
        settings = LinkSettings("127.0.0.1", site.service_ports[role], "firstlight", password)
        link = MqttLink("prod", role, settings, arrived.append)
        running = asyncio.create_task(link.run())
        async with asyncio.timeout(20):
            await link.connected.wait()
        device = await stack.enter_async_context(site.device(A))
        await device.subscribe(DOWN)

        async def say(payload: bytes) -> None:
            await device.say(UP, payload)

        async def heard(payload: bytes) -> None:
            await device.heard(DOWN, payload)

        async def cut() -> None:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

        yield Rig(link, say, heard, cut, arrived)
        await cut()


async def test_a_message_is_delivered_with_its_link_and_is_acknowledged_without_harm_twice(rig: Rig) -> None:
    assert (rig.link.environment, rig.link.role) == ("prod", Role.OPERATIONAL)
    await rig.say(b"one")
    message = await rig.next()
    assert (message.link, message.topic, message.payload) == (rig.link, UP, b"one")
    message.acknowledge()
    message.acknowledge()
    await rig.say(b"two")
    assert (await rig.next()).payload == b"two"


async def test_what_is_published_arrives_in_order(rig: Rig) -> None:
    assert rig.link.up
    for number in range(20):
        await rig.link.publish(DOWN, b"%d" % number)
    for number in range(20):
        await rig.heard(b"%d" % number)


async def test_a_link_that_is_down_says_so_and_takes_nothing(rig: Rig) -> None:
    await rig.say(b"open")
    message = await rig.next()
    await rig.cut()
    assert not rig.link.up
    with pytest.raises(LinkDown):
        await rig.link.publish(DOWN, b"lost")
    message.acknowledge()  # of a connection that is no more: nothing happens
