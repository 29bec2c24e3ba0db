"""The file-based A/B installer: the slot that runs is never written, and a trial ends confirmed or reverted."""

import subprocess
import sys

import pytest

from device_sdk.core.ports import InstallError
from device_sdk.drivers.slots import FileSlots

V2 = {"version_id": "2" * 32, "name": "2.0"}
V3 = {"version_id": "3" * 32, "name": "3.0"}
IMAGE = "ab" * 32
FACTORY = {"version_id": None, "name": None, "trial": False, "slot": "a"}


def filled(folder, version=V2, content=b"new image"):
    slots = FileSlots(folder)
    slots.boot()
    slots.begin(IMAGE, len(content))
    slots.write(0, content)
    slots.install(version)
    return slots


def started(folder):
    slots = FileSlots(folder)
    slots.boot()
    return slots


def test_the_factory_slot_runs_first(tmp_path):
    assert started(tmp_path).booted() == FACTORY


def test_an_installed_image_runs_on_trial_from_the_next_boot(tmp_path):
    slots = filled(tmp_path)
    assert slots.booted()["slot"] == "a"
    assert started(tmp_path).booted() == {**V2, "trial": True, "slot": "b"}
    assert (tmp_path / "current").read_bytes() == b"new image"


def test_a_confirmed_image_stays(tmp_path):
    filled(tmp_path)
    started(tmp_path).confirm()
    for _ in range(5):
        assert started(tmp_path).booted() == {**V2, "trial": False, "slot": "b"}


def test_an_image_that_never_confirms_is_left_after_three_boots(tmp_path):
    filled(tmp_path)
    assert [started(tmp_path).booted()["slot"] for _ in range(5)] == ["b", "b", "b", "a", "a"]


def test_a_reverted_image_is_left_at_the_next_boot(tmp_path):
    filled(tmp_path)
    started(tmp_path).revert()
    assert started(tmp_path).booted() == FACTORY


def test_an_installed_image_reverted_before_it_ran_never_runs(tmp_path):
    filled(tmp_path).revert()
    assert started(tmp_path).booted()["slot"] == "a"


def test_while_an_image_is_on_trial_no_other_is_begun(tmp_path):
    filled(tmp_path)
    slots = started(tmp_path)
    with pytest.raises(InstallError, match="trial"):
        slots.begin(IMAGE, 4)


def test_an_image_installed_and_not_yet_booted_may_be_overtaken_by_another(tmp_path):
    slots = filled(tmp_path)
    slots.begin("cd" * 32, 5)
    slots.write(0, b"third")
    slots.install(V3)
    assert started(tmp_path).booted()["name"] == "3.0"


def test_installing_the_same_version_again_changes_nothing(tmp_path):
    filled(tmp_path).install(V2)
    slots = started(tmp_path)
    slots.install(V2)
    assert slots.booted() == {**V2, "trial": True, "slot": "b"}


def test_the_next_image_goes_into_the_slot_that_does_not_run(tmp_path):
    filled(tmp_path)
    slots = started(tmp_path)
    slots.confirm()
    slots.begin("cd" * 32, 5)
    slots.write(0, b"third")
    assert (tmp_path / "current").read_bytes() == b"new image"
    slots.install(V3)
    assert started(tmp_path).booted()["name"] == "3.0"


def test_the_same_image_begun_again_keeps_what_was_written(tmp_path):
    slots = started(tmp_path)
    slots.begin(IMAGE, 8)
    slots.write(4, b"tail")
    slots = started(tmp_path)
    slots.begin(IMAGE, 8)
    assert slots.read(0, 8) == b"\x00\x00\x00\x00tail"


def test_another_image_begun_starts_from_nothing(tmp_path):
    slots = started(tmp_path)
    slots.begin(IMAGE, 8)
    slots.write(0, b"whatever")
    slots.begin("cd" * 32, 4)
    assert slots.read(0, 8) == bytes(4)


@pytest.mark.parametrize(("offset", "data"), [(-1, b"x"), (8, b"x"), (0, bytes(9)), (7, b"xx")])
def test_nothing_is_written_beyond_the_image(tmp_path, offset, data):
    slots = started(tmp_path)
    slots.begin(IMAGE, 8)
    with pytest.raises(InstallError, match="beyond"):
        slots.write(offset, data)


def test_nothing_is_written_or_installed_before_it_was_begun(tmp_path):
    slots = started(tmp_path)
    with pytest.raises(InstallError):
        slots.write(0, b"x")
    with pytest.raises(InstallError):
        slots.install(V2)


def test_a_boot_record_torn_at_any_byte_leaves_the_one_before(tmp_path):
    filled(tmp_path)  # record n: installed
    before = {path.name: path.read_bytes() for path in tmp_path.glob("boot-*.rec")}
    started(tmp_path)  # record n + 1: first trial boot
    newest = next(p for p in tmp_path.glob("boot-*.rec") if before.get(p.name) != p.read_bytes())
    whole = newest.read_bytes()
    for length in range(len(whole)):
        newest.write_bytes(whole[:length])
        # The boot was forgotten: the trial has its first boot again.
        slots = FileSlots(tmp_path, sync_writes=False)
        assert slots.booted()["slot"] == "a"
        slots.boot()
        assert slots.booted() == {**V2, "trial": True, "slot": "b"}


def test_the_health_check_is_the_embedding_codes(tmp_path):
    assert FileSlots(tmp_path).healthy()
    assert not FileSlots(tmp_path, health_check=lambda: False).healthy()


def test_an_image_larger_than_the_disk_allows_is_an_install_error_and_the_device_stays_as_it_was(tmp_path):
    code = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from device_sdk.core.ports import InstallError; from device_sdk.drivers.slots import FileSlots\n"
        "slots = FileSlots(Path(sys.argv[1])); slots.boot()\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try: slots.begin('ab' * 32, 100_000)\n"
        "except InstallError as error: print(error.cause)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "no_space"
    assert started(tmp_path).booted() == FACTORY
