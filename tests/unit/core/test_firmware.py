"""Firmware on the device: what may be installed, which version is taken, and the way to the confirmed one."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from device_sdk.wire import ids
from tests.support.peer import Peer, firmware, message
from tests.support.rig import Rig
from tests.support.signed_firmware import IMAGE, OTHER, PUBLIC, confirmed, offer, signed, wanting

WAY = ["accepted", "downloading", "downloaded", "verified", "installing", "rebooting", "confirmed"]


def test_a_signed_version_is_fetched_installed_and_confirmed():
    rig = wanting(signed(IMAGE))
    rig.run(confirmed(rig))
    assert rig.peer.states() == WAY
    assert bytes(rig.machine.idle) == IMAGE
    assert (rig.reboots, rig.machine.trial) == (1, False)
    assert rig.client.status.version == "2.0"
    assert rig.client.status.progress is None
    assert rig.client.counters == {}
    assert set(rig.peer.chunks_sent.values()) == {1}
    last = rig.peer.said("online")[-1]
    assert last["firmware"] == {"version_id": signed(IMAGE)["version_id"], "name": "2.0"}
    installing = next(r for r in rig.peer.said("report") if r["firmware"]["state"] == "installing")
    assert last["boot_count"] > installing["boot_count"]


@pytest.mark.parametrize("size", [1, 255, 256, 257, 8 * 256, 300 * 256])
def test_images_of_every_shape_arrive_whole(size):
    image = IMAGE[:1] * size
    rig = wanting(signed(image), image)
    rig.run(confirmed(rig))
    assert bytes(rig.machine.idle) == image


def refused_release():
    version = signed(IMAGE)
    other_key = Ed25519PrivateKey.from_private_bytes(bytes([9]) * 32)
    forged = dict(version, signature=other_key.sign(message(version)))
    unknown = dict(version, key_id=ids.release_key_id(other_key.public_key().public_bytes_raw()))
    return [
        (forged, "wrong_signature"),
        (dict(version, signature=bytes(64)), "wrong_signature"),
        (unknown, "unknown_release_key"),
        (dict(version, version_id="0" * 32), "wrong_version_id"),
        (dict(version, size=version["size"] + 1), "wrong_version_id"),
        (signed(IMAGE, product="Toaster"), "wrong_product"),
        (signed(IMAGE, hardware="rev-a"), "wrong_hardware"),
        (signed(IMAGE, seq=4), "lower_seq"),
        ({}, "malformed_firmware"),
        ("text", "malformed_firmware"),
        (dict(version, version_id="not hex"), "malformed_firmware"),
        (signed(IMAGE, name=""), "malformed_firmware"),
        (dict(version, signature=b"short"), "malformed_firmware"),
        (dict(version, image_id="Z" * 64), "malformed_firmware"),
        (dict(version, size=0), "malformed_firmware"),
        (dict(version, seq="2"), "malformed_firmware"),
    ]


@pytest.mark.parametrize(
    ("version", "cause"), refused_release(), ids=[f"{k} {c}" for k, (_, c) in enumerate(refused_release())]
)
def test_a_version_that_may_not_run_is_not_even_fetched_and_the_device_says_why(version, cause):
    rig = wanting(version, factory_seq=5 if cause == "lower_seq" else 0)
    rig.run_for(60)
    assert rig.peer.said("fetch") == []
    assert rig.peer.states() == ["failed"]
    assert rig.peer.causes() == [cause]
    assert rig.peer.said("report")[0]["desired_rev"] == 1
    assert rig.peer.said("report")[0]["firmware"].get("version_id", "0" * 32) != "not hex"
    assert rig.client.status.cause == cause
    assert (rig.client.status.state, rig.machine.running["name"]) == ("online", None)
    # It says so again after a restart, and takes a good one.
    rig.boot()
    rig.run_for(60)
    assert rig.peer.causes() == [cause, cause]
    offer(rig, signed(OTHER, name="3.0", seq=9), OTHER)
    rig.run(confirmed(rig))
    assert rig.machine.running["name"] == "3.0"


def test_a_device_that_cannot_verify_relies_on_mac_and_hash():
    peer = Peer()
    peer.serve(IMAGE)
    peer.want(firmware(IMAGE, key_id=ids.release_key_id(PUBLIC)))
    rig = Rig(peer, release_keys=(PUBLIC,))
    rig.run(confirmed(rig))


def test_the_version_that_runs_already_is_confirmed_without_a_fetch():
    rig = wanting(signed(IMAGE))
    rig.run(confirmed(rig))
    fetches = len(rig.peer.said("fetch"))
    rig.peer.want(signed(IMAGE), settings={"rev": 1})
    rig.push()
    rig.run_for(60)
    assert rig.peer.said("report")[-1]["firmware"]["state"] == "confirmed"
    assert len(rig.peer.said("fetch")) == fetches


def test_another_version_takes_the_place_of_one_on_its_way():
    rig = wanting(signed(IMAGE))
    rig.run(lambda: rig.client.status.state == "downloading" and (rig.client.status.progress or 0) > 20)
    offer(rig, signed(OTHER, name="3.0", seq=3), OTHER)
    rig.run(confirmed(rig))
    assert rig.machine.running["name"] == "3.0"
    assert rig.reboots == 1


def test_a_version_that_comes_while_another_restarts_waits_its_turn():
    rig = wanting(signed(IMAGE))
    rig.run(lambda: rig.client.status.state == "rebooting")
    offer(rig, signed(OTHER, name="3.0", seq=3), OTHER)
    rig.run(lambda: rig.machine.running["name"] == "3.0" and confirmed(rig)())
    assert rig.reboots == 2


def test_a_document_without_firmware_stops_the_download():
    rig = wanting(signed(IMAGE))
    rig.run(lambda: rig.client.status.state == "downloading")
    rig.peer.want()
    rig.push()
    fetches = len(rig.peer.said("fetch"))
    rig.run_for(60)
    assert len(rig.peer.said("fetch")) == fetches
    assert rig.client.status.state == "online"


def test_a_restart_does_not_wait_for_a_service_that_is_away():
    rig = wanting(signed(IMAGE))
    rig.run(lambda: rig.client.status.state == "installing")
    rig.peer.up = False
    rig.drop()
    rig.run(lambda: rig.reboots == 1, max_s=30)
    rig.peer.up = True
    rig.run(confirmed(rig))
