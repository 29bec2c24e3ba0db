"""Flash on a file system: small named records that survive a power loss.

Owns the order of writes that makes a record whole or absent: temporary file, fsync, rename, fsync of the directory. It
must not look into a record: the core keeps two copies of each with a counter and a CRC, so that a torn one is noticed.
Sits below device_sdk.core as its `flash`.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from device_sdk.core.ports import Flash
from device_sdk.drivers.failpoints import passing

_NAME = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_-")
MAX_RECORD_BYTES = 1024 * 1024  # more than any record of the core; a larger file is not ours


class FileFlash(Flash):
    """Records as files `<name>.rec` in one directory that belongs to this device alone (mode 0700, files 0600).

    `sync_writes=False` leaves out the fsyncs: for simulations, where the machine itself stays on.
    """

    def __init__(self, directory: Path, *, sync_writes: bool = True) -> None:
        self._directory = directory
        self._sync_writes = sync_writes
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left_over in directory.glob("*.new"):
            left_over.unlink(missing_ok=True)

    def load(self, name: str) -> bytes | None:
        """The record's bytes as they were last saved, or None if there is none."""
        try:
            with self._path(name).open("rb") as file:
                return file.read(MAX_RECORD_BYTES)
        except FileNotFoundError:
            return None

    def save(self, name: str, data: bytes) -> None:
        """Replace the record; on return it is on the disk. OSError when the disk refuses: the old record stays."""
        path = self._path(name)
        passing("flash.before_write")
        write_whole(path, data, sync_writes=self._sync_writes, points=_POINTS)

    def _path(self, name: str) -> Path:
        if not name or not _NAME.issuperset(name):
            raise ValueError(f"not a record name: {name!r}")
        return self._directory / f"{name}.rec"


_POINTS = ("flash.written", "flash.synced", "flash.renamed", "flash.dir_synced")


def write_whole(path: Path, data: bytes, *, sync_writes: bool, points: tuple[str, str, str, str]) -> None:
    """Write `data` beside `path` and rename it there. `points` are the failpoints after each of the four steps."""
    fresh = path.with_suffix(".new")
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            passing(points[0])
            if sync_writes:
                os.fsync(file.fileno())
        passing(points[1])
        fresh.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            fresh.unlink(missing_ok=True)
        raise
    passing(points[2])
    if sync_writes:
        sync_directory(path.parent)
    passing(points[3])


def sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
