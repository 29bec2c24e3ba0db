"""The service's own link over TLS: it speaks to the broker that its CA vouches for, and to nobody else."""

from __future__ import annotations

import asyncio
import ssl

import pytest

from service.errors import Secret
from service.mqtt.link import LinkSettings, MqttLink
from service.mqtt.port import Role
from tests.support.certificates import Authority, server_context
from tests.support.impostor import KINDS, impostor
from tests.support.installation import eventually
from tests.support.mqtt_server import MqttServer

WORD = b"the service's password"


def _link(port: int, trusted: Authority) -> MqttLink:
    tls = ssl.create_default_context(cadata=trusted.pem)
    settings = LinkSettings("127.0.0.1", port, "firstlight-service", Secret(WORD), tls)
    return MqttLink("test", Role.OPERATIONAL, settings, lambda _: None)


@pytest.mark.parametrize("kind", KINDS)
async def test_somebody_between_service_and_broker_is_shown_as_tls_and_hears_nothing(kind: str) -> None:
    trusted = Authority()
    with impostor(kind, trusted) as server:
        link = _link(server.port, trusted)
        task = asyncio.create_task(link.run())
        await eventually(lambda: link.state.last_error is not None)
        assert (link.state.last_error or "").startswith("tls: ")
        assert not link.connected.is_set()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert server.connections >= 1
    assert server.heard == b""
    assert not any(word in server.raw for word in (b"MQTT", b"firstlight-service", WORD))


async def test_the_broker_that_the_authority_vouches_for_is_believed() -> None:
    trusted = Authority()
    with MqttServer(lambda *_: [], tls=server_context(trusted, "127.0.0.1")) as server:
        link = _link(server.port, trusted)
        task = asyncio.create_task(link.run())
        await eventually(link.connected.is_set)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
