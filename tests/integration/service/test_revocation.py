"""A credential that is dropped is dead within two seconds, live session included, through the real service."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from service.mqtt.port import EVERYWHERE
from tests.support.mqtt_peer import MqttPeer
from tests.support.site import GROUP, Site, made_site

DEAD_WITHIN_S = 2.0


@pytest.fixture(params=["embedded", pytest.param("mosquitto", marks=pytest.mark.mosquitto)])
async def site(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Site]:
    async with made_site(tmp_path, request.param) as made:
        await made.register(["sn-1", "sn-2"])
        if made.mosquittos is not None:
            for role in EVERYWHERE:
                await made.start_broker(role)
        await made.start_service()
        yield made


async def test_blocking_a_device_by_command_ends_its_live_session_and_its_login(site: Site) -> None:
    async with MqttPeer(site, "sn-1") as peer, MqttPeer(site, "sn-2") as other:
        for one in (peer, other):
            assert (await one.activate())["ok"]
            assert (await one.online())["ok"]
        session = await peer.client("c")
        await site.command("device", "block", f"{GROUP}/sn-1")
        begun = time.monotonic()
        async with asyncio.timeout(DEAD_WITHIN_S):
            await session.lost
        assert time.monotonic() - begun < DEAD_WITHIN_S
        with pytest.raises(ConnectionError):
            await peer.online()
        assert (await other.report())["ok"]  # nobody else lost anything
        await peer.new_session()
        assert (await peer.activate())["code"] == "BLOCKED"
        await site.command("device", "unblock", f"{GROUP}/sn-1")
        assert (await peer.activate())["ok"]
        assert (await peer.online())["ok"]
    assert await site.stop_service() == 0
    assert "Traceback" not in site.log()


async def test_a_device_blocked_while_the_service_was_down_is_dead_when_it_is_back(site: Site) -> None:
    async with MqttPeer(site, "sn-1") as peer:
        assert (await peer.activate())["ok"]
        assert (await peer.online())["ok"]
        await site.stop_service()
        await site.command("device", "block", f"{GROUP}/sn-1")
        await site.start_service()
        begun = time.monotonic()
        while True:
            try:
                async with asyncio.timeout(DEAD_WITHIN_S):
                    await (await peer.client("c")).lost
            except ConnectionError:
                break
        assert time.monotonic() - begun < DEAD_WITHIN_S
