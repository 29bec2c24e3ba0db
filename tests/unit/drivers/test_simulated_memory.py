"""What a virtual device keeps through a power cut, and what it loses."""

import random

import pytest

from device_sdk.core.ports import InstallError
from device_sdk.simulator.fleet import percentile
from device_sdk.simulator.memory import MemoryFlash, MemoryInstaller, SharedChunks
from device_sdk.simulator.power import Power, PowerLostError

CHUNK = 256
V2 = {"version_id": "2" * 32, "name": "2.0"}


def powered(seed=0):
    return Power(random.Random(seed))


def test_a_cut_during_a_save_may_tear_the_record_and_stops_everything_after():
    power = powered()
    flash = MemoryFlash(power)
    flash.save("a", b"old!")
    power.cut_at = 2
    with pytest.raises(PowerLostError):
        flash.save("a", b"new!")
    with pytest.raises(PowerLostError):
        flash.save("b", b"x")
    power.restore()
    assert flash.load("a") in {b"new!"[:n] + b"old!"[n:] for n in range(5)}
    assert flash.load("b") is None


def test_every_length_of_a_torn_record_comes_up():
    seen = set()
    for seed in range(60):
        power = powered(seed)
        flash = MemoryFlash(power)
        power.cut_at = 1
        with pytest.raises(PowerLostError):
            flash.save("a", b"1234")
        seen.add(flash.load("a"))
    assert seen == {b"1234"[:n] for n in range(5)}


def test_chunks_received_alike_are_held_once_and_different_ones_as_they_came():
    shared = SharedChunks()
    installers = [MemoryInstaller(powered(), shared, CHUNK) for _ in range(3)]
    for installer, data in zip(installers, [b"x" * 256, b"x" * 256, b"y" * 256], strict=True):
        installer.begin("ab" * 32, 300)
        installer.write(0, bytes(bytearray(data)))
        installer.write(256, b"tail" + bytes(40))
    assert installers[0]._data[0] is installers[1]._data[0]
    assert installers[2].read(0, 260) == b"y" * 256 + b"tail"
    assert installers[1].read(255, 3) == b"xta"


def test_what_was_not_synced_may_be_lost_and_what_was_is_kept():
    lost = 0
    for seed in range(20):
        power = powered(seed)
        installer = MemoryInstaller(power, SharedChunks(), CHUNK)
        installer.begin("ab" * 32, 512)
        installer.write(0, b"a" * 256)
        installer.sync()
        installer.write(256, b"b" * 256)
        power.cut()
        power.restore()
        installer.boot()
        assert installer.read(0, 256) == b"a" * 256
        lost += installer.read(256, 256) == bytes(256)
    assert 0 < lost < 20


def test_a_trial_that_is_never_confirmed_ends_after_three_boots():
    installer = MemoryInstaller(powered(), SharedChunks(), CHUNK)
    installer.begin("ab" * 32, 10)
    installer.install(V2)
    names = []
    for _ in range(5):
        installer.boot()
        names.append(installer.booted()["name"])
    assert names == ["2.0", "2.0", "2.0", None, None]


def test_a_reverted_trial_ends_at_the_next_boot_and_a_confirmed_one_stays():
    installer = MemoryInstaller(powered(), SharedChunks(), CHUNK)
    for ending, expected in (("revert", None), ("confirm", "2.0")):
        installer.begin("ab" * 32, 10)
        installer.install(V2)
        installer.boot()
        with pytest.raises(InstallError):
            installer.begin("cd" * 32, 10)
        getattr(installer, ending)()
        installer.boot()
        assert installer.booted()["name"] == expected


def test_a_write_beyond_the_image_is_refused():
    installer = MemoryInstaller(powered(), SharedChunks(), CHUNK)
    installer.begin("ab" * 32, 300)
    with pytest.raises(InstallError):
        installer.write(256, bytes(45))


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [([], 50, None), ([1.0], 99, 1.0), ([1.0, 2.0], 50, 1.0), ([1.0, 2.0, 3.0], 50, 2.0), ([1.0, 2.0], 99, 2.0)],
)
def test_percentiles_are_values_that_were_measured(values, percent, expected):
    assert percentile(values, percent) == expected
