"""A manifest's items on a file system: one file for each, of the version that is installed.

Owns the folder `items`: `incoming` (the image on its way, and whose it is) and a folder
`installed/{name}` for each item, with `content` and `version`. An item is linked into place whole; power lost in between leaves the old or the new one.
Sits below device_sdk.core as its `items`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

from device_sdk.core.ports import InstallError, Items
from device_sdk.drivers.failpoints import passing
from device_sdk.drivers.store import sync_directory, write_whole

CHECK_TIMEOUT_S = 60
_POINTS = ("items.written", "items.synced", "items.renamed", "items.dir_synced")


class FileItems(Items):
    """`check_command` is run as `COMMAND NAME VERSION FILE` once an item is installed: exit code 0, it works."""

    def __init__(self, directory: Path, *, check_command: str | None = None) -> None:
        self._directory = directory
        self._installed = directory / "installed"
        self._incoming = directory / "incoming"
        self._check = shlex.split(check_command) if check_command is not None else None
        self._installed.mkdir(mode=0o700, parents=True, exist_ok=True)

    def path(self, name: str) -> Path:
        """The file of an installed item."""
        return self._installed / name / "content"

    def version(self, name: str) -> str | None:
        with contextlib.suppress(OSError, ValueError):
            return str(json.loads(self._version_file(name).read_bytes())["version"])
        return None

    def begin(self, image_id: str, size: int) -> bool:
        whose = self._incoming.with_suffix(".id")
        wanted = f"{image_id} {size}".encode()
        with contextlib.suppress(FileNotFoundError):
            if whose.read_bytes() == wanted and self._incoming.stat().st_size == size:
                return True
        # A new file: the old one may be linked as an installed item.
        whose.unlink(missing_ok=True)
        self._incoming.unlink(missing_ok=True)
        with self._incoming.open("xb") as file:
            os.fchmod(file.fileno(), 0o600)
            file.truncate(size)
        write_whole(whose, wanted, sync_writes=True, points=_POINTS)
        return False

    def write(self, offset: int, data: bytes) -> None:
        with self._incoming.open("r+b") as file:
            file.seek(offset)
            file.write(data)

    def sync(self) -> None:
        with self._incoming.open("r+b") as file:
            os.fsync(file.fileno())
        passing("items.fetched")

    def read(self, offset: int, length: int) -> bytes:
        with self._incoming.open("rb") as file:
            file.seek(offset)
            return file.read(length)

    def install(self, item: dict[str, Any], secret: bytes | None) -> None:
        target = self.path(item["name"])
        target.parent.mkdir(mode=0o700, exist_ok=True)
        if secret is not None:
            write_whole(target, secret, sync_writes=True, points=_POINTS)
        else:
            self.sync()
            fresh = self._directory / "linked"
            fresh.unlink(missing_ok=True)
            os.link(self._incoming, fresh)
            passing("items.linked")
            fresh.replace(target)
            sync_directory(target.parent)
        sync_directory(self._installed)
        told = json.dumps({"version": item["version"], "kind": item["kind"], "sha256": item["sha256"]}).encode()
        write_whole(self._version_file(item["name"]), told, sync_writes=True, points=_POINTS)

    def works(self, item: dict[str, Any]) -> bool:
        if self._check is None:
            return True
        words = [*self._check, item["name"], item["version"], str(self.path(item["name"]))]
        try:
            done = subprocess.run(words, check=False, timeout=CHECK_TIMEOUT_S)  # noqa: S603
        except (OSError, subprocess.TimeoutExpired) as error:
            raise InstallError("check_failed") from error
        return done.returncode == 0

    def _version_file(self, name: str) -> Path:
        return self._installed / name / "version"
