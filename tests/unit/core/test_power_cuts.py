"""Power may go at every operation on flash and installer, and records may be torn at every byte."""

from __future__ import annotations

import random

import pytest

from device_sdk.core.records import Records
from device_sdk.wire import frames
from tests.support.machine import Machine
from tests.support.peer import Peer, firmware
from tests.support.rig import Rig

CHUNKS = 40
IMAGE = random.Random(11).randbytes(CHUNKS * 256)
MAX_WINDOW = 8


def fresh(cut_at=None, how="before"):
    peer = Peer()
    peer.serve(IMAGE)
    peer.want(firmware(IMAGE))
    machine = Machine()
    machine.cut_at, machine.cut_how = cut_at, how
    return Rig(peer, machine)


def finish(rig):
    rig.run(
        lambda: rig.machine.running["name"] == "2.0" and rig.client.status.state == "online" and not rig.machine.trial
    )
    rig.run_for(5)
    return rig


OPERATIONS = finish(fresh()).machine.ops


def check(rig):
    assert rig.cuts == 1
    assert bytes(rig.machine.idle) == IMAGE
    assert rig.peer.states()[-1] == "confirmed"
    confirmed = [name for name, known in rig.peer.credentials.items() if known["state"] == "confirmed"]
    assert confirmed == [rig.owner]


@pytest.mark.parametrize("how", ["before", "after", 1, 20])
def test_power_cut_at_every_operation_of_an_activation_and_a_download(how):
    assert OPERATIONS > 60
    for cut_at in range(1, OPERATIONS + 1):
        rig = finish(fresh(cut_at, how))
        check(rig)
        # A trial that was cut short is a second download by right; else at most one window comes twice.
        if rig.reboots == 1:
            twice = rig.machine.write_bytes - len(IMAGE)
            assert twice <= MAX_WINDOW * 256, (cut_at, how)


def test_two_windows_that_each_miss_a_chunk_cost_no_more_than_one_window():
    rig = fresh()
    rig.policy.max_window_bytes = 4 * 256
    rig.peer.mangle = lambda verb, p: [] if verb == "chunk" and frames.decode_chunk(p)[1] in (3, 7) else [p]
    rig.run(lambda: rig.machine.write_bytes == 6 * 256)
    rig.peer.mangle = None
    rig.boot()
    finish(rig)
    assert rig.machine.write_bytes - len(IMAGE) <= 4 * 256


def test_power_cut_again_and_again_still_ends():
    rig = fresh()
    rig.machine.cut_at = 1
    step = [1]

    def again():
        step[0] += 1
        rig.machine.cut_at = rig.machine.ops + step[0]

    rig.on_boot = again
    finish(rig)
    assert rig.cuts >= 12


def test_a_record_torn_at_every_byte_is_the_old_or_the_new_value():
    old, new = {"a": 1, "text": "old" * 20}, {"a": 2, "text": "newer"}

    class Torn(Machine):
        def save(self, name, data):
            self.flash[name] = data

    for first_extra in range(3):
        machine = Torn()
        records = Records(machine)
        for number in range(first_extra):
            records.save("r", {"a": number, "text": "x" * 90})
        records.save("r", old)
        before = dict(machine.flash)
        records.save("r", new)
        (name,) = [n for n in machine.flash if machine.flash[n] != before.get(n)]
        whole, gone = machine.flash[name], before.get(name, b"")
        for at in range(len(whole) + 1):
            for tail in (b"", gone[at:], bytes(len(whole) - at)):
                machine.flash[name] = whole[:at] + tail
                loaded = Records(machine).load("r")
                assert loaded == (new if machine.flash[name][: len(whole)] == whole else old)
                # And the next save is as good as any.
                torn = dict(machine.flash)
                again = Records(machine)
                again.save("r", {"a": 3})
                assert Records(machine).load("r") == {"a": 3}
                machine.flash = torn


def test_a_deleted_record_leaves_nothing_behind():
    machine = Machine()
    records = Records(machine)
    records.save("r", {"password": "hunter2"})
    records.save("r", {"password": "hunter2"})
    records.delete("r")
    assert Records(machine).load("r") is None
    assert not any(b"hunter2" in data for data in machine.flash.values())


@pytest.mark.parametrize("junk", [b"", b"F1", b"F1" + bytes(12), b"\xff" * 64, bytes(64)], ids=repr)
def test_junk_on_the_flash_is_no_record(junk):
    machine = Machine()
    machine.flash = {"r-a": junk, "r-b": junk}
    records = Records(machine)
    assert records.load("r") is None
    records.save("r", {"a": 1})
    assert Records(machine).load("r") == {"a": 1}
