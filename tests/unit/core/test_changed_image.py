"""One byte of the image changes on the disk after it was checked: it is never confirmed, and the old one runs on."""

from __future__ import annotations

import random

import pytest

from device_sdk.core.ports import Product
from device_sdk.drivers.slots import FileSlots
from tests.support.machine import Machine
from tests.support.peer import Peer, firmware
from tests.support.rig import Rig

IMAGE = random.Random(9).randbytes(40 * 256 + 7)
VERSION = firmware(IMAGE)


class OnFiles(Machine):
    """Flash in memory, slots on files. `before_boot` is called while the device is off."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder
        self.started = []  # what the boot loader chose to run, start by start
        self.before_boot = lambda: None
        self.before_healthy = lambda: None
        self.slots = None

    def boot(self):
        self.before_boot()
        if self.slots is not None:
            self.slots.close()
        self.slots = FileSlots(self.folder, sync_writes=False)
        self.slots.boot()
        self.started.append(self.slots.booted()["name"])

    def change(self):
        """One bit of the slot that is filled first."""
        path = self.folder / "slot-b.img"
        content = bytearray(path.read_bytes())
        content[5000] ^= 1
        path.write_bytes(content)

    def begin(self, image_id, size):
        return self.slots.begin(image_id, size)

    def write(self, offset, data):
        self.slots.write(offset, data)

    def sync(self):
        self.slots.sync()

    def read(self, offset, length):
        return self.slots.read(offset, length)

    def install(self, version):
        self.slots.install(version)

    def booted(self):
        return self.slots.booted()

    def confirm(self):
        self.slots.confirm()

    def revert(self):
        self.slots.revert()

    def healthy(self):
        self.before_healthy()
        return self.slots.healthy()


class Later(Product):
    """Holds the restart into a new version back for an hour."""

    def __init__(self):
        self.asked = 0

    def defer(self, version):
        self.asked += 1
        return (3600, "busy") if self.asked == 2 else None


@pytest.fixture
def rig(tmp_path):
    peer = Peer()
    peer.serve(IMAGE)
    peer.want(VERSION)
    made = Rig(peer, OnFiles(tmp_path))
    yield made
    made.machine.slots.close()


def ends_well(rig):
    """The next try fetches the image again, and that one is whole."""
    assert "confirmed" not in rig.peer.states()
    assert rig.machine.booted()["name"] is None
    rig.run(lambda: rig.peer.states()[-1] == "confirmed")
    assert (rig.machine.folder / "current").read_bytes() == IMAGE


@pytest.mark.parametrize("state", ["verified", "installing"])
def test_an_image_changed_between_the_check_and_the_installation_is_never_started(rig, state):
    rig.product = Later() if state == "verified" else None
    rig.run(lambda: state in rig.peer.states())
    rig.machine.change()
    rig.run(lambda: "wrong_hash" in rig.peer.causes())
    assert rig.machine.started == [None]
    ends_well(rig)


def test_an_image_changed_between_the_installation_and_the_start_is_not_started_and_told_as_rolled_back(rig):
    first = [rig.machine.change]
    rig.machine.before_boot = lambda: first.pop()() if rig.reboots == 1 and first else None
    rig.run(lambda: rig.peer.states()[-1:] == ["rolled_back"])
    assert rig.machine.started == [None, None]
    ends_well(rig)


def test_an_image_changed_while_it_is_on_trial_is_not_confirmed(rig):
    first = [rig.machine.change]
    rig.machine.before_healthy = lambda: first.pop()() if first else None
    rig.run(lambda: rig.peer.states()[-1:] == ["rolled_back"])
    assert rig.machine.started == [None, "2.0", None]
    assert "unhealthy" in rig.peer.causes()
    ends_well(rig)


def test_an_image_changed_before_a_second_start_on_trial_is_not_started_again(rig):
    rig.run(lambda: rig.reboots == 1)
    assert rig.machine.booted()["trial"]
    rig.machine.change()
    rig.boot()
    assert rig.machine.started == [None, "2.0", None]
    rig.run(lambda: rig.peer.states()[-1:] == ["rolled_back"])
    ends_well(rig)
