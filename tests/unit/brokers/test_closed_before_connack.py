"""A broker that closes the connection before its CONNACK: the service tries again at once, not after a time-out."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from service.brokers.mosquitto.control import DynsecControl
from service.errors import Secret
from service.mqtt.link import LinkSettings, MqttLink
from service.mqtt.port import Role


def link(port):
    return MqttLink("test", Role.OPERATIONAL, LinkSettings("127.0.0.1", port), lambda _message: None)


def control(port):
    return DynsecControl("127.0.0.1", port, Secret(b"secret"))


@pytest.mark.parametrize("make", [link, control])
async def test_a_connection_that_is_closed_before_its_connack_is_tried_again_at_once(make):
    tries = asyncio.Semaphore(0)

    async def close(reader, writer):
        await reader.read(1)
        tries.release()
        writer.transport.abort()

    async with await asyncio.start_server(close, "127.0.0.1", 0) as server:
        running = asyncio.create_task(make(server.sockets[0].getsockname()[1]).run())
        async with asyncio.timeout(2.5):  # both wait 3 s or more for a CONNACK
            await tries.acquire()
            await tries.acquire()
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
