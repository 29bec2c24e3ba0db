"""From hello to confirmed firmware through the pipeline over fakes."""

import pytest

from device_sdk.wire import frames, topics
from service.domain.credential import CredentialState
from service.domain.device import DeviceState, FirmwareState
from tests.support.pipeline_site import IMAGE, NEW, Peer, running


@pytest.mark.parametrize("encoding", ["msgpack", "json"])
async def test_a_device_goes_from_hello_to_confirmed_firmware(tmp_path, encoding):
    async with running(tmp_path) as site:
        peer = Peer(site, encoding=encoding)
        assert (await peer.activate())["ok"]
        assert peer.grant["name"] == "Thermometer 1"
        assert peer.credential_id in site.gate.logins
        reply = await peer.online()
        assert reply["ok"], reply
        assert site.store.device("line-1", "sn-1").state is DeviceState.CONFIRMED
        doc = peer.document(reply["desired"])
        assert doc["rev"] == 1
        assert doc["firmware"]["version_id"] == NEW.version_id
        got = await fetch_all(peer)
        assert got == IMAGE
        for state in ("verified", "installing", "rebooting"):
            assert (await peer.report(desired_rev=1, firmware={"state": state, "version_id": NEW.version_id}))["ok"]
        peer.boot_count += 1
        reply = await peer.online(desired_rev=1, firmware={"version_id": NEW.version_id})
        assert reply["ok"]
        assert "desired" not in reply
        device = site.store.device("line-1", "sn-1")
        assert device.firmware.state is FirmwareState.CONFIRMED
        assert device.thing.installed_version_id == NEW.version_id
        assert [one.state for one in device.credentials] == [CredentialState.CONFIRMED]
        assert site.boot.acknowledged + site.op.acknowledged == peer.requests


async def fetch_all(peer) -> bytes:
    total = frames.chunk_count(len(IMAGE), 256)
    peer.site.op.send(
        topics.up("c", peer.credential_id, "fetch"),
        peer.pack(
            {
                "id": "f",
                "image": bytes.fromhex(NEW.image_id)[:8],
                "stream": 3,
                "chunk_size": 256,
                "first": 0,
                "count": total,
            }
        ),
    )
    peer.requests += 1
    parts = []
    for _ in range(total):
        frame = await peer.site.op.next(topics.down("c", peer.credential_id, "chunk"))
        stream, index, prefix, data, last = frames.decode_chunk(frame)
        assert (stream, index, prefix, last) == (3, len(parts), bytes.fromhex(NEW.image_id)[:8], index == total - 1)
        parts.append(data)
    return b"".join(parts)
