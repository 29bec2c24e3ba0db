"""The wanted version changes while one is on its way, and changes back: what is recorded is what the slot holds."""

from __future__ import annotations

import random

import pytest

from device_sdk.drivers.slots import FileSlots
from tests.support.peer import Peer, firmware
from tests.support.rig import Rig
from tests.unit.core.test_changed_image import OnFiles

FIRST, SECOND = random.Random(4).randbytes(40 * 256), random.Random(5).randbytes(30 * 256 + 9)


class Away(Peer):
    """Has the chunks of one image out of reach while `away` names it."""

    away = None

    def _fetch(self, owner, request, out):
        if request["image"] != self.away:
            super()._fetch(owner, request, out)


def half_way(machine=None):
    """(rig, both versions) with half of the first one fetched."""
    peer = Away()
    first, second = firmware(FIRST), firmware(SECOND, name="3.0", seq=3)
    peer.serve(FIRST)
    peer.serve(SECOND)
    peer.want(first)
    rig = Rig(peer, machine)
    rig.run(lambda: (rig.client.status.progress or 0) >= 50)
    return rig, first, second


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("on_files", [False, True])
def test_a_version_that_is_wanted_again_before_any_of_the_other_arrived_is_fetched_whole(tmp_path, on_files, restarts):
    rig, first, second = half_way(OnFiles(tmp_path) if on_files else None)
    rig.peer.away = bytes.fromhex(second["image_id"])[:8]
    rig.peer.want(second)
    rig.push()
    rig.run_for(1)
    if restarts:
        rig.boot()
        rig.run_for(5)
    rig.peer.want(first)
    rig.push()
    rig.run(lambda: rig.peer.states()[-1] == "confirmed")
    assert "wrong_hash" not in rig.client.counters
    assert "failed" not in rig.peer.states()
    assert rig.client.status.version == "2.0"


def test_a_slot_that_was_lost_is_filled_from_the_beginning(tmp_path):
    """The record of the download is whole and the slot's file is gone."""
    machine = OnFiles(tmp_path)
    rig, _, _ = half_way(machine)
    machine.slots.close()
    (tmp_path / "slot-b.img").unlink()
    rig.boot()
    rig.run(lambda: rig.peer.states()[-1] == "confirmed")
    assert "failed" not in rig.peer.states()


def test_slots_say_whether_what_was_written_is_still_there(tmp_path):
    slots = FileSlots(tmp_path, sync_writes=False)
    slots.boot()
    assert slots.begin("a" * 64, 10) is False
    assert slots.begin("a" * 64, 10) is True
    assert slots.begin("b" * 64, 10) is False
    assert slots.begin("a" * 64, 10) is False
    slots.close()
