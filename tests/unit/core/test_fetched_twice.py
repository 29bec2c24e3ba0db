"""What a power loss makes the device fetch a second time: of what it had received, never more than one window.

A chunk counts as fetched when the device has received it. What was asked for and still on its way is lost with the
connection and asked for again: that is no second fetch.
"""

from __future__ import annotations

import random

import pytest

from device_sdk.core.identity import Policy
from device_sdk.core.records import Records
from device_sdk.wire import frames, limits
from tests.support.machine import Machine
from tests.support.peer import Peer, firmware
from tests.support.rig import Rig


def asked_for(fetch):
    """The chunks that one fetch names."""
    if "count" in fetch:
        return set(range(fetch["first"], fetch["first"] + fetch["count"]))
    return set(frames.bitmap_indexes(fetch["first"], fetch["bitmap"]))


def recorded(machine):
    """The chunks of the progress record on this flash."""
    record = Records(machine).load("progress")
    if record is None:
        return set()
    return set(range(record["low"])) | set(frames.bitmap_indexes(record["low"], record["bits"]))


class Receiving(Rig):
    """Notes each chunk as it reaches the device, before the core has seen it."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.received = set()

    def _delivery(self, topic, payload):
        deliver = super()._delivery(topic, payload)
        if not topic.endswith("/chunk"):
            return deliver

        def received():
            self.received.add(frames.decode_chunk(payload)[1])
            deliver()

        return received


class Mute(Peer):
    """Hears what is fetched and sends nothing."""

    def _fetch(self, owner, request, out):
        return None


class Watched(Machine):
    """Calls `before_each` before each operation, and with it after the one before."""

    before_each = staticmethod(lambda _machine: None)

    def _op(self, name):
        self.before_each(self)
        return super()._op(name)


def what_survives(machine):
    """The machine as it is after the power went now."""
    left = Machine()
    left.flash = dict(machine.flash)
    left.idle_id, left.idle = machine.idle_id, machine.idle  # only read: nothing is sent after the restart
    return left


def outstanding(peer, received):
    asked = set()
    for fetch in peer.said("fetch"):
        asked |= asked_for(fetch)
    return len(asked - received)


@pytest.mark.parametrize(
    ("chunk_size", "chunks", "lost"),
    [
        (256, 1600, ()),
        (256, 1600, range(300, 1600, 200)),
        (16384, 640, ()),
        (16384, 640, range(70, 640, 100)),
    ],
    ids=["small chunks", "small chunks, some lost", "large chunks", "large chunks, some lost"],
)
def test_power_lost_at_any_received_chunk_costs_at_most_one_window_of_received_chunks(chunk_size, chunks, lost):
    window = min(limits.MAX_WINDOW_CHUNKS, limits.MAX_WINDOW_BYTES // chunk_size)
    image = random.Random(3).randbytes(chunks * chunk_size - 5)
    version = firmware(image)
    policy = Policy(chunk_size=chunk_size, window_chunks=window)
    peer = Peer()
    peer.serve(image)
    peer.want(version)
    dropped = set(lost)

    def lose(verb, payload):
        """Each of the lost chunks once."""
        index = frames.decode_chunk(payload)[1] if verb == "chunk" else None
        if index in dropped:
            dropped.remove(index)
            return []
        return [payload]

    peer.mangle = lose
    rig = Receiving(peer, Watched(), policy)
    most_outstanding, most_twice, restarts = [0], [0], [0]

    def restart(machine):
        if not rig.received or len(rig.received) == chunks:
            return
        after = Mute(beside=peer)
        after.want(version)
        had = recorded(machine)
        again = Rig(after, what_survives(machine), policy)
        again.run(lambda: len(after.said("fetch")) == 2 or (after.said("fetch") and len(had) + window >= chunks))
        asked = set().union(*[asked_for(fetch) for fetch in after.said("fetch")])
        twice = asked & rig.received
        # Exactly what is missing, nothing that is on record; and nothing received can be asked for later than here.
        assert not asked & had
        assert rig.received - had == twice
        assert len(twice) <= window
        restarts[0] += 1
        most_twice[0] = max(most_twice[0], len(twice))
        most_outstanding[0] = max(most_outstanding[0], outstanding(peer, rig.received))

    rig.machine.before_each = restart
    rig.run(lambda: len(rig.received) == chunks)
    assert restarts[0] >= chunks - 1
    assert most_outstanding[0] > (window if lost else 2 * window)  # a loss takes it back to two windows
    assert most_twice[0] == window


@pytest.mark.parametrize("how", ["before", "after", 1, 20])
def test_power_cut_at_every_operation_of_a_download_fetches_no_more_than_one_window_twice_until_the_end(how):
    image = random.Random(4).randbytes(60 * 256)
    window = 8

    def fresh():
        peer = Peer()
        peer.serve(image)
        peer.want(firmware(image))
        return Receiving(peer, policy=Policy(chunk_size=256, window_chunks=4, max_window_bytes=window * 256))

    whole = fresh()
    whole.run(lambda: len(whole.received) == 60)
    for cut_at in range(1, whole.machine.ops + 1):
        rig = fresh()
        rig.machine.cut_at, rig.machine.cut_how = cut_at, how
        before = []
        rig.on_boot = lambda rig=rig, before=before: before.append((set(rig.received), len(rig.peer.said("fetch"))))
        rig.run(lambda rig=rig: rig.cuts == 1 and rig.client.status.state == "installing")
        received, fetches = before[0]
        twice = [index for fetch in rig.peer.said("fetch")[fetches:] for index in asked_for(fetch) if index in received]
        assert len(twice) <= window, (cut_at, how)
        assert len(twice) == len(set(twice))
        assert bytes(rig.machine.idle) == image
