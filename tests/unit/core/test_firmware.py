"""Firmware on the device: what may be installed, how it arrives, and how a bad one leaves the old one running."""

from __future__ import annotations

import random

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from device_sdk.core.identity import Policy
from device_sdk.core.ports import Crypto, InstallError
from device_sdk.wire import frames, ids, topics
from tests.support.peer import Peer, Rig, firmware, message

IMAGE = random.Random(7).randbytes(40 * 256 + 1)
OTHER = random.Random(8).randbytes(11 * 256)
RELEASE = Ed25519PrivateKey.from_private_bytes(bytes([7]) * 32)
PUBLIC = RELEASE.public_key().public_bytes_raw()
WAY = ["accepted", "downloading", "downloaded", "verified", "installing", "rebooting", "confirmed"]


class Ed25519(Crypto):
    def verify_ed25519(self, public_key, message, signature):
        try:
            Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
        except InvalidSignature:
            return False
        return True


def signed(image, **changes):
    version = firmware(image, key_id=ids.release_key_id(PUBLIC), **changes)
    version["signature"] = RELEASE.sign(message(version))
    return version


def wanting(version, image=IMAGE, **identity):
    peer = Peer()
    peer.serve(image)
    peer.want(version)
    return Rig(peer, crypto=Ed25519(), release_keys=(PUBLIC,), **identity)


def confirmed(rig):
    return lambda: "confirmed" in rig.peer.states() and rig.client.status.state == "online"


def offer(rig, version, image):
    rig.peer.serve(image)
    rig.peer.want(version)
    rig.push()


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


def test_an_image_that_is_not_the_promised_one_is_never_installed_and_quarantined_after_two_tries():
    rig = wanting(signed(IMAGE))
    wrong = bytearray(IMAGE)
    wrong[5000] ^= 1
    rig.peer.images[bytes.fromhex(signed(IMAGE)["image_id"])[:8]] = bytes(wrong)
    rig.run_for(24 * 3600)
    assert rig.peer.causes() == ["wrong_hash", "wrong_hash"]
    assert rig.machine.next_boot is None
    assert (rig.reboots, rig.machine.running["name"]) == (0, None)
    assert rig.client.status.cause == "wrong_hash"
    assert set(rig.peer.chunks_sent.values()) == {2}
    offer(rig, signed(OTHER, name="3.0", seq=3), OTHER)
    rig.run(confirmed(rig))
    offer(rig, signed(IMAGE), IMAGE)
    rig.run_for(60)
    assert rig.peer.causes()[-1] == "lower_seq"


def test_seq_rises_only_when_a_version_is_confirmed():
    rig = wanting(signed(IMAGE, seq=7))
    rig.machine.healthy_answer = False
    rig.run(lambda: "rolled_back" in rig.peer.states())
    rig.machine.healthy_answer = True
    offer(rig, signed(OTHER, name="1.5", seq=6), OTHER)
    rig.run(confirmed(rig))
    assert rig.machine.running["name"] == "1.5"
    offer(rig, signed(IMAGE, seq=5), IMAGE)
    rig.run(lambda: "lower_seq" in rig.peer.causes())


def test_an_unhealthy_image_is_rolled_back_reported_and_quarantined_after_two_tries():
    rig = wanting(signed(IMAGE))
    rig.machine.healthy_answer = False
    rig.run_for(24 * 3600)
    assert rig.peer.states()[-1] == "rolled_back"
    assert set(rig.peer.causes()) == {"unhealthy"}
    assert rig.reboots == 4
    assert rig.machine.running["name"] is None
    assert rig.client.status.state == "online"
    rig.peer.want(signed(IMAGE), settings={"rev": 1})
    rig.push()
    rig.run_for(3600)
    assert rig.reboots == 4


def test_a_quarantined_version_is_tried_again_once_an_operator_releases_it():
    rig = wanting(signed(IMAGE))
    rig.machine.healthy_answer = False
    rig.run_for(24 * 3600)
    rig.peer.want()  # held back by the service too
    rig.push()
    rig.run_for(60)
    rig.machine.healthy_answer = True
    released = {**signed(IMAGE), "release": 1}
    rig.peer.want(released)
    rig.push()
    rig.run(confirmed(rig))
    assert rig.machine.running["name"] == "2.0"


def test_a_release_that_is_known_already_releases_nothing_again():
    rig = wanting({**signed(IMAGE), "release": 1})
    rig.machine.healthy_answer = False
    rig.run_for(24 * 3600)
    assert rig.reboots == 4
    rig.peer.want({**signed(IMAGE), "release": 1}, settings={"rev": 1})
    rig.push()
    rig.run_for(3600)
    assert rig.reboots == 4


def test_an_image_that_crashes_at_start_is_rolled_back_by_the_boot_loader():
    rig = wanting(signed(IMAGE))
    rig.machine.bad_images = (signed(IMAGE)["version_id"],)
    rig.run_for(24 * 3600)
    assert rig.reboots == 2
    assert set(rig.peer.causes()) == {"not_confirmed"}
    assert rig.machine.running["name"] is None


def test_an_image_that_cannot_reach_the_service_is_given_up_after_its_trial():
    rig = wanting(signed(IMAGE))
    rig.run(lambda: rig.client.status.state == "rebooting")
    rig.peer.up = False
    rig.run(lambda: rig.reboots == 1)
    rig.run_for(899)
    assert rig.machine.running["name"] == "2.0"
    rig.run_for(10)
    assert rig.machine.running["name"] is None
    rig.peer.up = True
    rig.run(confirmed(rig))
    assert "no_contact" in rig.peer.causes()


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


def test_lost_damaged_and_foreign_chunks_are_asked_for_again_by_bitmap():
    rig = wanting(signed(IMAGE))
    chance = random.Random(3)
    lost = {1, 3}  # of the first window
    foreign = frames.encode_chunk(0, 0, b"foreign!", b"x" * 256, False)

    def mangle(verb, payload):
        if verb != "chunk":
            return [payload]
        if frames.decode_chunk(payload)[1] in lost:
            lost.remove(frames.decode_chunk(payload)[1])
            return []
        return chance.choices(
            [[payload], [], [payload[:-1]], [foreign, payload], [payload, payload]], [60, 1, 1, 1, 1]
        )[0]

    rig.peer.mangle = mangle
    rig.run(confirmed(rig))
    assert bytes(rig.machine.idle) == IMAGE
    assert any(fetch.get("bitmap") == b"\x05" and fetch["first"] == 1 for fetch in rig.peer.said("fetch"))


def test_a_chunk_of_the_wrong_length_or_beyond_the_image_is_ignored():
    rig = wanting(signed(IMAGE))
    rig.run(lambda: rig.client.status.state == "downloading")
    prefix = bytes.fromhex(signed(IMAGE)["image_id"])[:8]
    written = rig.machine.write_bytes
    for frame in (
        frames.encode_chunk(0, 30, prefix, b"short", False),
        frames.encode_chunk(0, 41, prefix, b"x" * 256, False),
        frames.encode_chunk(0, 40, prefix, b"xx", True),
        b"",
        bytes(20),
        bytes(70000),
    ):
        rig.deliver(topics.down("c", rig.owner, "chunk"), frame)
    assert rig.machine.write_bytes == written
    assert rig.client.counters["damaged_chunk"] == 5
    assert rig.client.counters["foreign_chunk"] == 1


def test_two_windows_are_outstanding_and_the_next_is_asked_before_the_last_has_drained():
    rig = wanting(signed(IMAGE))
    held = []
    rig.peer.mangle = lambda verb, p: held.append(p) or [] if verb == "chunk" else [p]
    rig.run(lambda: len(rig.peer.said("fetch")) == 2)
    rig.run_for(1)
    assert len(rig.peer.said("fetch")) == 2
    topic = topics.down("c", rig.owner, "chunk")
    for frame in held[:4]:
        rig.deliver(topic, frame)
    assert len(rig.peer.said("fetch")) == 3


def test_a_line_with_a_long_round_trip_gets_more_windows_and_a_late_window_takes_them_back():
    rig = wanting(signed(IMAGE * 40), IMAGE * 40)
    held = []
    rig.peer.mangle = lambda verb, p: held.append(p) or [] if verb == "chunk" else [p]
    rig.run(lambda: rig.peer.said("fetch"))
    topic = topics.down("c", rig.owner, "chunk")
    asked_at_once = []
    for _ in range(12):
        rig.run_for(0.1)
        before, arrived = len(rig.peer.said("fetch")), list(held)
        held.clear()
        for frame in arrived:
            rig.deliver(topic, frame)
        asked_at_once.append(len(rig.peer.said("fetch")) - before)
    assert asked_at_once[0] == 2
    assert max(asked_at_once) > 4
    held.clear()
    before = len(rig.peer.said("fetch"))
    rig.run_for(2.5)
    late = rig.peer.said("fetch")[before:]
    assert late, "nothing was asked again"
    for frame in held[:]:
        rig.deliver(topic, frame)
    assert len(rig.peer.said("fetch")) - before - len(late) <= 2


def test_a_late_window_halves_and_a_good_one_grows():
    rig = wanting(signed(IMAGE * 8), IMAGE * 8)
    asked = rig.peer.requests
    rig.peer.mangle = lambda verb, p: [] if verb == "chunk" else [p]
    rig.run(lambda: len(rig.peer.said("fetch")) == 4)
    counts = [fields["count"] for verb, fields in asked if verb == "fetch"]
    assert counts == [4, 4, 2, 1]
    rig.peer.mangle = None
    rig.run(confirmed(rig))
    counts = [fields.get("count", 0) for fields in rig.peer.said("fetch")]
    assert max(counts) == 2048 // 256


def test_chunks_that_stay_away_cost_the_connection_not_the_download():
    rig = wanting(signed(IMAGE))
    rig.run(lambda: rig.client.status.state == "downloading" and (rig.client.status.progress or 0) > 30)
    rig.peer.mangle = lambda verb, p: [] if verb == "chunk" else [p]
    count = len(rig.peer.connects)
    rig.run(lambda: len(rig.peer.connects) > count)
    assert rig.client.counters["no_chunks"] == 1
    rig.peer.mangle = None
    rig.run(confirmed(rig))


def test_a_throttled_fetch_waits_as_long_as_it_was_told():
    rig = wanting(signed(IMAGE))
    rig.peer.refuse["fetch"] = {"code": "THROTTLED", "retry_after_s": 5}
    rig.run(lambda: len(rig.peer.said("fetch")) == 2)
    start = rig.now
    rig.run(lambda: len(rig.peer.said("fetch")) > 2)
    assert 5 <= rig.now - start < 6
    rig.peer.refuse = {}
    rig.run(confirmed(rig))


def test_a_chunk_size_that_the_service_does_not_serve_is_replaced():
    rig = wanting(signed(IMAGE))
    serve = rig.peer._fetch

    def strict(owner, request, out):
        if request["chunk_size"] != 512:
            return {"ok": False, "code": "RANGE", "chunk_size_min": 512, "chunk_size_max": 512}
        return serve(owner, request, out)

    rig.peer._fetch = strict
    rig.run(confirmed(rig))
    assert bytes(rig.machine.idle) == IMAGE


@pytest.mark.parametrize("code", ["IMAGE_UNKNOWN", "FORBIDDEN", "RANGE"])
def test_a_refused_fetch_defers_the_download_and_it_is_tried_again(code):
    rig = wanting(signed(IMAGE))
    rig.peer.refuse["fetch"] = {"code": code, "chunk_size_min": 256, "chunk_size_max": 65536}
    rig.run_for(600)
    assert "deferred" in rig.peer.states()
    assert code.lower() in rig.peer.causes()
    assert len(rig.peer.said("fetch")) <= 12
    rig.peer.refuse = {}
    rig.run(confirmed(rig))


@pytest.mark.parametrize("method", ["begin", "write", "sync", "read", "install"])
@pytest.mark.parametrize("error", [InstallError("no_space"), OSError("flash")], ids=["InstallError", "OSError"])
def test_an_installer_that_fails_is_reported_and_tried_again(method, error):
    rig = wanting(signed(IMAGE))
    rig.machine.fail[method] = error
    cause = "no_space" if isinstance(error, InstallError) else "flash_error"
    rig.run(lambda: cause in rig.peer.causes())
    assert rig.machine.next_boot is None
    rig.machine.fail = {}
    rig.run(confirmed(rig))


def test_a_confirm_that_fails_is_tried_again_at_the_next_contact():
    rig = wanting(signed(IMAGE))
    rig.machine.fail["confirm"] = OSError("flash")
    rig.run(lambda: rig.reboots == 1 and rig.client.status.state == "online")
    assert rig.machine.trial
    rig.machine.fail = {}
    rig.drop()
    rig.run(confirmed(rig))
    assert not rig.machine.trial


def test_a_restart_does_not_wait_for_a_service_that_is_away():
    rig = wanting(signed(IMAGE))
    rig.run(lambda: rig.client.status.state == "installing")
    rig.peer.up = False
    rig.drop()
    rig.run(lambda: rig.reboots == 1, max_s=30)
    rig.peer.up = True
    rig.run(confirmed(rig))


def test_a_connection_lost_in_the_middle_costs_no_chunk_that_had_arrived():
    rig = wanting(signed(IMAGE))
    rig.run(lambda: (rig.client.status.progress or 0) > 40)
    written = rig.machine.write_bytes
    rig.drop()
    rig.run(confirmed(rig))
    assert rig.machine.write_bytes == len(IMAGE)
    assert 0 < written < len(IMAGE)


def test_large_windows_respect_the_protocol_s_bounds():
    image = IMAGE * 120
    rig = Rig(Peer(), crypto=Ed25519(), release_keys=(PUBLIC,), policy=Policy(chunk_size=256))
    rig.peer.serve(image)
    rig.peer.want(signed(image))
    rig.run(confirmed(rig))
    counts = [fields.get("count", 0) for fields in rig.peer.said("fetch")]
    assert max(counts) == 256
    assert len({fields["stream"] for fields in rig.peer.said("fetch")}) == len(counts)
