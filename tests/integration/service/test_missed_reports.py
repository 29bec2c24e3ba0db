"""What a device did while nobody listened is concluded from what it says next."""

from __future__ import annotations

import hashlib
import os

import pytest

from device_sdk.wire import topics
from tests.integration.service.conftest import Running
from tests.support.mqtt_peer import MqttPeer

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_an_update_whose_reports_were_all_lost_is_confirmed_and_no_rollback(running: Running) -> None:
    site = running.site
    ((first,),) = site.query("SELECT version_id FROM version WHERE name = '2.0'")
    async with MqttPeer(site, "sn-8") as peer:
        assert (await peer.activate())["ok"]
        assert (await peer.online(firmware={"version_id": first}))["ok"]
        assert state(running) == ("confirmed", first, first)
        second = await site.add_version("3.0", 3, os.urandom(1000))
        peer.boot_count, peer.n = 2, 0
        assert (await peer.online(firmware={"version_id": second}))["ok"]
        assert state(running) == ("confirmed", second, second)
        peer.boot_count, peer.n = 3, 0
        assert (await peer.online(firmware={"version_id": first}))["ok"]
        assert state(running) == ("rolled_back", second, first)


def state(running: Running) -> tuple:
    ((fw, version_id, installed),) = running.site.query(
        "SELECT d.fw_state, d.fw_version_id, t.installed_version_id FROM device d"
        " JOIN thing t ON t.holder_device_id = d.device_id WHERE d.serial = 'sn-8'"
    )
    return fw, version_id, installed


async def test_a_new_target_may_be_fetched_the_moment_after_a_chunk_of_the_old_one(running: Running) -> None:
    site = running.site
    images = [os.urandom(1000), os.urandom(1000)]
    await site.add_version("4.0", 4, images[0])
    async with MqttPeer(site, "sn-9") as peer:
        assert (await peer.activate())["ok"]
        assert (await peer.online())["ok"]
        await fetch(peer, images[0])
        assert (await peer.heard("c", "chunk"))[20:] == images[0]
        await site.add_version("5.0", 5, images[1])
        await fetch(peer, images[1])
        assert (await peer.heard("c", "chunk"))[20:] == images[1]
        await fetch(peer, images[0])
        assert peer.unpack(await peer.heard("c", "fetch"))["code"] == "IMAGE_UNKNOWN"


async def fetch(peer: MqttPeer, image: bytes) -> None:
    asked = {"image": hashlib.sha256(image).digest()[:8], "stream": 1, "chunk_size": 1024, "first": 0, "count": 1}
    payload = peer.pack({"id": "f", **asked})
    await peer.say(topics.up("c", peer.credential_id, "fetch"), payload, "c")
