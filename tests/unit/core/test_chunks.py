"""How an image arrives: windows of chunks, what is asked for again, and what a refused fetch means."""

from __future__ import annotations

import random

import pytest

from device_sdk.core.identity import Policy
from device_sdk.wire import frames, limits, topics
from tests.support.peer import Peer
from tests.support.rig import Rig
from tests.support.signed_firmware import IMAGE, PUBLIC, Ed25519, confirmed, signed, wanting


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
    assert limits.MAX_OUTSTANDING_CHUNKS // 16 <= max(counts) <= 256  # its share when sixteen are asked for at a time
    assert len({fields["stream"] for fields in rig.peer.said("fetch")}) == len(counts)
