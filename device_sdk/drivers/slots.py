"""An A/B slot installer on files: two slots, of which one runs while the other is filled.

Owns the slot files and the part a boot loader plays (boot(): which slot runs, is a trial over). It must never write
into the slot that runs. Sits below device_sdk.core as its `installer`.

The core reads an image back and verifies it before install(). Here it is read again before each start on trial and
before it is confirmed: one that has changed since is not started, or is not healthy.

A new image runs on trial until confirm(); if it was started `max_trials` times without that, or after revert(), the
next boot() goes back to the slot before it. `current` is a symbolic link to the slot that runs.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from device_sdk.core.ports import Installer, InstallError
from device_sdk.drivers.boot_record import BootRecord, other
from device_sdk.drivers.failpoints import passing
from device_sdk.drivers.store import sync_directory

DEFAULT_MAX_TRIALS = 3  # boots that a new image gets to confirm itself; one more than a single unlucky power cut


class FileSlots(Installer):
    """Slots `slot-a.img` and `slot-b.img` in one directory.

    `health_check` is asked before a new image is confirmed. Call boot() once at each start of the device (the agent
    does), before the core asks anything.
    """

    def __init__(
        self,
        directory: Path,
        *,
        health_check: Callable[[], bool] = lambda: True,
        max_trials: int = DEFAULT_MAX_TRIALS,
        sync_writes: bool = True,
    ) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory = directory
        self._health_check = health_check
        self._max_trials = max_trials
        self._sync_writes = sync_writes
        self._record = BootRecord(directory, sync_writes=sync_writes)
        self._handle: int | None = None

    # What a boot loader does

    def boot(self) -> str:
        """Decide which slot runs from now on, and return it. Once per start."""
        passing("slots.before_boot")
        state = self._record.state
        if state.trial is not None:
            if state.tries >= self._max_trials:
                self._record.change(running=state.good, trial=None, tries=0)
            elif not self._whole(state.trial):
                versions = {**state.versions, state.trial: None}
                self._record.change(running=state.good, trial=None, tries=0, versions=versions)
            else:
                self._record.change(running=state.trial, tries=state.tries + 1)
        self._point_current()
        passing("slots.booted")
        return self._record.state.running

    # The core's installer

    def begin(self, image_id: str, size: int) -> bool:
        """Make the idle slot ready for this image. True: it is the same again, and what was written is kept."""
        passing("slots.before_begin")
        state = self._record.state
        if state.trial is not None and state.trial == state.running:
            raise InstallError("image_on_trial")
        if state.trial is not None:
            self._record.change(trial=None, tries=0)  # installed, never booted, and now overtaken by another
            state = self._record.state
        idle = other(state.running)
        if state.download == (image_id, size) and self._path(idle).exists():
            self._open(idle)
            return True
        self._close()
        # The slot counts as empty before its first byte changes, so nothing half overwritten can be booted.
        self._record.change(download=None, versions={**state.versions, idle: None})
        passing("slots.forgotten")
        with self._path(idle).open("wb") as file:
            _make_room(file.fileno(), size)
            if self._sync_writes:
                os.fsync(file.fileno())
        if self._sync_writes:
            sync_directory(self._directory)
        self._record.change(download=(image_id, size))
        self._open(idle)
        passing("slots.begun")
        return False

    def write(self, offset: int, data: bytes) -> None:
        """Bytes of the image at `offset`; InstallError beyond its end."""
        handle, size = self._filling()
        if offset < 0 or offset + len(data) > size:
            raise InstallError("beyond_image")
        passing("slots.before_chunk")
        view = memoryview(data)
        while view:
            done = os.pwrite(handle, view, offset)
            view = view[done:]
            offset += done
        passing("slots.chunk_written")

    def read(self, offset: int, length: int) -> bytes:
        """What stands in the slot being filled, read back from the file."""
        handle, _ = self._filling()
        return os.pread(handle, length, offset)

    def sync(self) -> None:
        """Everything written so far is on the disk when this returns."""
        if self._handle is not None and self._sync_writes:
            os.fdatasync(self._handle)

    def install(self, version: dict[str, Any]) -> None:
        """The filled slot holds `version` and is to run, on trial, from the next boot."""
        passing("slots.before_install")
        state = self._record.state
        if state.trial is not None and _same(state.versions[state.trial], version):
            return  # said again after a power loss: it is already to run next
        self._filling()
        self.sync()
        passing("slots.image_synced")
        self._close()
        state = self._record.state
        slot = other(state.running)
        self._record.change(versions={**state.versions, slot: dict(version)}, trial=slot, tries=0, download=None)
        passing("slots.installed")

    def booted(self) -> dict[str, Any]:
        """What runs: {version_id, name, trial} as the core wants it, and `slot` ("a" or "b")."""
        state = self._record.state
        version = state.versions[state.running] or {}
        return {
            "version_id": version.get("version_id"),
            "name": version.get("name"),
            "trial": state.trial == state.running,
            "slot": state.running,
        }

    def confirm(self) -> None:
        """The image that runs is good; it stays. Harmless when it is not on trial."""
        passing("slots.before_confirm")
        state = self._record.state
        if state.trial is not None and state.trial == state.running:
            self._record.change(trial=None, tries=0)
        passing("slots.confirmed")

    def revert(self) -> None:
        """Give up the trial: the next boot runs the slot before it."""
        passing("slots.before_revert")
        state = self._record.state
        if state.trial is not None:
            if state.trial == state.running:
                self._record.change(tries=self._max_trials)
            else:
                self._record.change(trial=None, tries=0)
        passing("slots.reverted")

    def healthy(self) -> bool:
        """Whether the slot still holds what was installed and the product's own check is content."""
        return self._whole(self._record.state.running) and self._health_check()

    def close(self) -> None:
        self._close()

    def _filling(self) -> tuple[int, int]:
        """The open file and the size of the image being filled; InstallError when there is none."""
        state = self._record.state
        if state.download is None:
            raise InstallError("nothing_begun")
        if self._handle is None:
            self._open(other(state.running))
        assert self._handle is not None
        return self._handle, state.download[1]

    def _whole(self, slot: str) -> bool:
        """Whether the slot holds the image of its version, by SHA-256; True where its version names no image."""
        image_id = (self._record.state.versions[slot] or {}).get("image_id")
        if image_id is None:
            return True
        try:
            with self._path(slot).open("rb") as file:
                return bool(hashlib.file_digest(file, "sha256").hexdigest() == image_id)
        except OSError:
            return False

    def _open(self, slot: str) -> None:
        if self._handle is None:
            self._handle = os.open(self._path(slot), os.O_RDWR)

    def _close(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def _path(self, slot: str) -> Path:
        return self._directory / f"slot-{slot}.img"

    def _point_current(self) -> None:
        """Let `current` point to the slot that runs, for programs that start what it holds."""
        link = self._directory / "current"
        target = self._path(self._record.state.running).name
        with contextlib.suppress(OSError):
            if link.readlink() == Path(target):
                return
        fresh = self._directory / "current.new"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(target)
        fresh.replace(link)


def _same(held: dict[str, Any] | None, version: dict[str, Any]) -> bool:
    return held is not None and held.get("version_id") == version.get("version_id")


def _make_room(handle: int, size: int) -> None:
    """Zeros of that length, really allocated where the file system can: a full disk shows before the first chunk."""
    try:
        os.posix_fallocate(handle, 0, size)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise InstallError("no_space") from error
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise
        os.ftruncate(handle, size)
