"""File flash: a record is whole or the one before it, whatever happens in between."""

import os
import signal
import subprocess
import sys

import pytest

from device_sdk.drivers import failpoints
from device_sdk.drivers.store import FileFlash


def test_what_was_saved_is_loaded_by_another_process_start(tmp_path):
    FileFlash(tmp_path).save("current", b"\x00one")
    FileFlash(tmp_path).save("current", b"two")
    assert FileFlash(tmp_path).load("current") == b"two"


def test_a_record_that_was_never_saved_is_none(tmp_path):
    assert FileFlash(tmp_path).load("current") is None


@pytest.mark.parametrize("name", ["", "../x", "A", "a.b", "a/b", "\u00e4"])
def test_a_name_that_could_leave_the_directory_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="record name"):
        FileFlash(tmp_path).save(name, b"")


def test_records_are_private(tmp_path):
    flash = FileFlash(tmp_path / "state")
    flash.save("current", b"secret")
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "state" / "current.rec").stat().st_mode & 0o777 == 0o600


def test_a_left_over_temporary_file_is_removed_and_never_read(tmp_path):
    (tmp_path / "current.new").write_bytes(b"half")
    flash = FileFlash(tmp_path)
    assert flash.load("current") is None
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_old_record(tmp_path):
    code = (
        "import resource, signal, sys; from pathlib import Path; from device_sdk.drivers.store import FileFlash\n"
        "flash = FileFlash(Path(sys.argv[1])); flash.save('current', b'old')\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))\n"
        "try: flash.save('current', bytes(1000))\n"
        "except OSError: print(flash.load('current').decode(), len(list(Path(sys.argv[1]).iterdir())))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["old", "1"]


@pytest.mark.parametrize("point", [name for name in failpoints.NAMES if name.startswith("flash.")])
def test_killed_at_any_point_of_a_save_the_record_is_the_old_or_the_new_one(tmp_path, point):
    code = (
        "import sys; from pathlib import Path; from device_sdk.drivers.store import FileFlash\n"
        "flash = FileFlash(Path(sys.argv[1])); flash.save('current', b'old'); flash.save('current', b'new')\n"
    )
    environment = {**os.environ, failpoints.VARIABLE: f"{point}:2"}
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    expected = b"new" if point in ("flash.renamed", "flash.dir_synced") else b"old"
    assert FileFlash(tmp_path).load("current") == expected


@pytest.mark.parametrize("spec", ["", "flash.written", "flash.written:0", "flash.written:x", "nowhere:1"])
def test_a_failpoint_that_does_not_exist_is_an_error(spec):
    with pytest.raises(ValueError, match="name:n"):
        failpoints.armed(spec)
