"""What the core may rely on, held against the installer on files and the one in memory, and both flashes."""

import hashlib
import random

import pytest

from device_sdk.core.ports import InstallError
from device_sdk.drivers.slots import FileSlots
from device_sdk.drivers.store import FileFlash
from device_sdk.simulator.memory import MemoryFlash, MemoryInstaller, SharedChunks
from device_sdk.simulator.power import Power

CHUNK = 256
IMAGE, OTHER = [hashlib.sha256(random.Random(size).randbytes(size)).hexdigest() for size in (600, 300)]
V2 = {"version_id": "2" * 32, "name": "2.0", "seq": 2, "image_id": IMAGE, "size": 600}
V3 = {"version_id": "3" * 32, "name": "3.0", "seq": 3, "image_id": OTHER, "size": 300}


class OnFiles:
    def __init__(self, folder):
        self._folder = folder
        self.restart()

    def restart(self):
        self.installer = FileSlots(self._folder, sync_writes=False)
        self.installer.boot()


class InMemory:
    def __init__(self, _folder):
        self.installer = MemoryInstaller(Power(random.Random(1)), SharedChunks(), CHUNK)
        self.restart()

    def restart(self):
        self.installer.boot()


@pytest.fixture(params=[OnFiles, InMemory])
def device(request, tmp_path):
    return request.param(tmp_path)


def fill(installer, image_id=IMAGE, size=600):
    content = random.Random(size).randbytes(size)
    installer.begin(image_id, size)
    for offset in reversed(range(0, size, CHUNK)):
        installer.write(offset, content[offset : offset + CHUNK])
    installer.sync()
    return content


def running(device):
    booted = device.installer.booted()
    return booted["name"], booted["trial"]


def test_a_new_device_runs_the_factorys_image(device):
    assert device.installer.booted()["version_id"] is None
    assert running(device) == (None, False)


def test_what_was_written_in_any_order_is_read_back_in_any_pieces(device):
    content = fill(device.installer)
    for offset, length in [(0, 600), (0, 256), (255, 2), (500, 100), (599, 1)]:
        assert device.installer.read(offset, length) == content[offset : offset + length]


def test_writing_the_same_place_again_keeps_the_last(device):
    fill(device.installer)
    device.installer.write(256, b"z" * 256)
    assert device.installer.read(255, 258)[1:257] == b"z" * 256


def test_what_was_synced_is_there_after_a_restart_and_the_same_begin(device):
    content = fill(device.installer)
    device.restart()
    device.installer.begin(IMAGE, 600)
    assert device.installer.read(0, 600) == content


def test_another_image_begun_holds_nothing_of_the_one_before(device):
    fill(device.installer)
    device.installer.begin(OTHER, 300)
    assert device.installer.read(0, 300) == bytes(300)


def test_a_write_beyond_the_image_or_before_begin_is_an_install_error(device):
    with pytest.raises(InstallError):
        device.installer.write(0, b"x")
    device.installer.begin(IMAGE, 600)
    with pytest.raises(InstallError):
        device.installer.write(512, bytes(89))


def test_nothing_to_install_is_an_install_error(device):
    with pytest.raises(InstallError):
        device.installer.install(V2)


def test_an_installed_image_runs_on_trial_after_the_restart_and_stays_once_confirmed(device):
    fill(device.installer)
    device.installer.install(V2)
    assert running(device) == (None, False)
    device.restart()
    assert running(device) == ("2.0", True)
    device.installer.confirm()
    for _ in range(5):
        assert running(device) == ("2.0", False)
        device.restart()


def test_installing_the_same_version_twice_is_installing_it_once(device):
    fill(device.installer)
    device.installer.install(V2)
    device.installer.install(V2)
    device.restart()
    assert running(device) == ("2.0", True)


def test_a_trial_that_is_reverted_or_never_confirmed_ends_with_the_old_image(device):
    fill(device.installer)
    device.installer.install(V2)
    device.restart()
    device.installer.revert()
    device.restart()
    assert running(device) == (None, False)
    fill(device.installer)
    device.installer.install(V2)
    seen = []
    for _ in range(5):
        device.restart()
        seen.append(running(device)[0])
    assert seen == ["2.0", "2.0", "2.0", None, None]


def test_an_image_installed_and_never_booted_may_be_overtaken(device):
    fill(device.installer)
    device.installer.install(V2)
    fill(device.installer, OTHER, 300)
    device.installer.install(V3)
    device.restart()
    assert running(device) == ("3.0", True)


def test_while_an_image_is_on_trial_no_other_is_begun(device):
    fill(device.installer)
    device.installer.install(V2)
    device.restart()
    with pytest.raises(InstallError):
        device.installer.begin(OTHER, 300)


def test_a_second_update_follows_the_first(device):
    for image, size, version in ((IMAGE, 600, V2), (OTHER, 300, V3)):
        content = fill(device.installer, image, size)
        assert device.installer.read(0, size) == content
        device.installer.install(version)
        device.restart()
        device.installer.confirm()
        assert running(device) == (version["name"], False)


@pytest.mark.parametrize(
    "make", [lambda folder: FileFlash(folder, sync_writes=False), lambda _: MemoryFlash(Power(None))]
)
def test_a_flash_gives_back_what_was_saved_last_and_none_for_the_rest(make, tmp_path):
    flash = make(tmp_path)
    assert flash.load("current") is None
    for data in (b"", b"one", b"\x00" * 5000, bytearray(b"two")):
        flash.save("current", data)
        assert flash.load("current") == data
    assert flash.load("next") is None
