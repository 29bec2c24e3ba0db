"""Flash and image slots of a virtual device in memory, honest about power cuts.

Owns what a virtual device keeps while it is off. Chunks that many devices receive alike are held once: each device has
a table of references to what it really received, so 200 devices with one 2 MiB image cost one image.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from device_sdk.core.ports import Flash, Installer, InstallError, Items
from device_sdk.simulator.power import Power, PowerLostError

MAX_SHARED_IMAGES = 4
MAX_TRIALS = 3


class MemoryFlash(Flash):
    """Records in a dictionary. A cut during save() leaves the first bytes new and the rest old, or all of either."""

    def __init__(self, power: Power) -> None:
        self._power = power
        self._records: dict[str, bytes] = {}

    def load(self, name: str) -> bytes | None:
        return self._records.get(name)

    def save(self, name: str, data: bytes) -> None:
        if self._power.step():
            old = self._records.get(name, b"")
            done = self._power.rng.randint(0, len(data))
            self._records[name] = bytes(data[:done]) + old[done:]
            raise PowerLostError
        self._records[name] = bytes(data)

    def copy_from(self, other: MemoryFlash) -> None:
        """What a cloned unit starts with."""
        self._records = dict(other._records)


class SharedChunks:
    """One copy of each chunk of the last few images, given out to every device that received the very same bytes."""

    def __init__(self) -> None:
        self._images: OrderedDict[str, dict[int, bytes]] = OrderedDict()

    def same(self, image_id: str, offset: int, data: bytes) -> bytes:
        """The shared copy when it is equal to `data`, else `data` itself (which the first one becomes for all)."""
        if image_id not in self._images:
            self._images[image_id] = {}
            while len(self._images) > MAX_SHARED_IMAGES:
                self._images.popitem(last=False)
        shared = self._images[image_id].setdefault(offset, data)
        return shared if shared == data else data


class MemoryInstaller(Installer):
    """Two slots, of which only the one being filled holds bytes. Writes not yet synced may be lost in a cut.

    `chunk_size` is that of the core's policy: writes come at its multiples.
    """

    def __init__(self, power: Power, shared: SharedChunks, chunk_size: int) -> None:
        self._power = power
        self._shared = shared
        self._chunk_size = chunk_size
        self._image: tuple[str, int] | None = None
        self._data: dict[int, bytes] = {}
        self._unsynced: dict[int, bytes | None] = {}  # offset -> what stood there before
        self._running: dict[str, Any] = {}
        self._old: dict[str, Any] = {}
        self._next: dict[str, Any] | None = None
        self._trial = False
        self._tries = 0
        self.health = True
        self.bytes_written = 0
        self.bytes_rewritten = 0

    @property
    def arriving(self) -> str | None:
        """The image that is here in part."""
        if self._image is None or sum(len(one) for one in self._data.values()) >= self._image[1]:
            return None
        return self._image[0] if self._data else None

    def boot(self) -> None:
        """What a boot loader does at power-up."""
        for offset, before in self._unsynced.items():
            if self._power.rng.random() < 0.5:
                if before is None:
                    self._data.pop(offset, None)
                else:
                    self._data[offset] = before
        self._unsynced = {}
        if self._next is not None:
            self._old, self._running, self._next = self._running, self._next, None
            self._trial, self._tries = True, 1
        elif self._trial:
            self._tries += 1
            if self._tries > MAX_TRIALS:
                self._running, self._trial = self._old, False

    def begin(self, image_id: str, size: int) -> bool:
        self._step()
        if self._trial:
            raise InstallError("image_on_trial")
        self._next = None
        if self._image != (image_id, size):
            self._image = (image_id, size)
            self._data = {}
            self._unsynced = {}
            return False
        return True

    def write(self, offset: int, data: bytes) -> None:
        self._step()
        if self._image is None or offset % self._chunk_size or offset + len(data) > self._image[1]:
            raise InstallError("beyond_image")
        before = self._data.get(offset)
        self._unsynced.setdefault(offset, before)
        self._data[offset] = self._shared.same(self._image[0], offset, bytes(data))
        self.bytes_written += len(data)
        if before is not None:
            self.bytes_rewritten += len(data)

    def sync(self) -> None:
        self._step()
        self._unsynced = {}

    def read(self, offset: int, length: int) -> bytes:
        if self._image is None:
            raise InstallError("nothing_begun")
        end = min(offset + length, self._image[1])
        out = bytearray()
        at = offset - offset % self._chunk_size
        while at < end:
            size = min(self._chunk_size, self._image[1] - at)
            piece = self._data.get(at, b"").ljust(size, b"\0")
            out += piece[max(offset - at, 0) : end - at]
            at += self._chunk_size
        return bytes(out)

    def install(self, version: dict[str, Any]) -> None:
        self._step()
        if self._next is None and not self._trial:
            if self._image is None:
                raise InstallError("nothing_begun")
            self._next = dict(version)
            self._unsynced = {}

    def booted(self) -> dict[str, Any]:
        return {
            "version_id": self._running.get("version_id"),
            "name": self._running.get("name"),
            "trial": self._trial,
        }

    def copy_from(self, other: MemoryInstaller) -> None:
        """What a cloned unit starts with: the slot that runs."""
        self._running = dict(other._running)

    def confirm(self) -> None:
        self._step()
        self._trial, self._tries = False, 0
        self._image, self._data = None, {}

    def revert(self) -> None:
        self._step()
        self._next = None
        if self._trial:
            self._tries = MAX_TRIALS

    def healthy(self) -> bool:
        return self.health

    def _step(self) -> None:
        """An operation that is done whole or not at all: a cut comes before it."""
        if self._power.step():
            raise PowerLostError


class MemoryItems(Items):
    """What a unit has installed in the warehouse; honest about power cuts as MemoryInstaller is.

    `broken`: names of items that are installed and then do not work.
    """

    def __init__(self, power: Power, shared: SharedChunks, chunk_size: int) -> None:
        self._power = power
        self._area = MemoryInstaller(power, shared, chunk_size)
        self.installed: dict[str, tuple[str, bytes]] = {}  # name -> (version, bytes)
        self.order: list[str] = []  # names as they were installed
        self.broken: set[str] = set()

    @property
    def arriving(self) -> str | None:
        """As of MemoryInstaller."""
        return self._area.arriving

    @property
    def bytes_written(self) -> int:
        return self._area.bytes_written

    def boot(self) -> None:
        self._area.boot()

    def begin(self, image_id: str, size: int) -> bool | None:
        return self._area.begin(image_id, size)

    def write(self, offset: int, data: bytes) -> None:
        self._area.write(offset, data)

    def sync(self) -> None:
        self._area.sync()

    def read(self, offset: int, length: int) -> bytes:
        return self._area.read(offset, length)

    def install(self, item: dict[str, Any], secret: bytes | None) -> None:
        if self._power.step():
            raise PowerLostError
        content = self._area.read(0, item["size"]) if secret is None else secret
        self.installed[item["name"]] = (item["version"], content)
        self.order.append(item["name"])

    def works(self, item: dict[str, Any]) -> bool:
        return item["name"] not in self.broken
