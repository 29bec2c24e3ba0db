"""Files that are there whole or not at all, whatever fails on the way."""

from __future__ import annotations

import errno
import os
import stat

import pytest

from service.whole_files import AS_UMASK, create_whole, write_whole


def failing(*_words, **_more):
    raise OSError(errno.EIO, "I/O error")


@pytest.mark.parametrize("step", ["os.fsync", "pathlib.Path.replace"])
def test_a_replacement_that_fails_leaves_the_file_as_it_was(tmp_path, monkeypatch, step):
    path = tmp_path / "keys.json"
    write_whole(path, b"old")
    monkeypatch.setattr(step, failing)
    with pytest.raises(OSError, match="I/O error"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert [*tmp_path.iterdir()] == [path]


def test_a_new_file_that_fails_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr("os.fsync", failing)
    with pytest.raises(OSError, match="I/O error"):
        create_whole(tmp_path / "release.key", b"half")
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("links", [True, False], ids=["a disk", "a memory stick without links"])
def test_a_new_file_takes_no_other_s_place(tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr("os.link", failing)
    path = tmp_path / "device.json"
    create_whole(path, b"first")
    with pytest.raises(FileExistsError):
        create_whole(path, b"second")
    assert path.read_bytes() == b"first"
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize("write", [write_whole, create_whole])
def test_it_is_on_the_disk_before_it_has_its_name_and_then_the_name_is(tmp_path, monkeypatch, write):
    path, flushed = tmp_path / "keys.json", []
    monkeypatch.setattr("os.fsync", lambda file: flushed.append((stat.S_ISDIR(os.fstat(file).st_mode), path.exists())))
    write(path, b"data")
    assert flushed == [(False, False), (True, True)]


@pytest.mark.parametrize(("mode", "expected"), [(0o600, 0o600), (AS_UMASK, 0o640)])
def test_it_is_never_open_to_more_than_its_mode_and_the_umask_say(tmp_path, mode, expected):
    modes = []
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "file", b"data", mode=mode, prepare=lambda file: modes.append(os.fstat(file).st_mode))
    finally:
        os.umask(before)
    modes.append((tmp_path / "file").stat().st_mode)
    assert [stat.S_IMODE(one) for one in modes] == [expected, expected]
