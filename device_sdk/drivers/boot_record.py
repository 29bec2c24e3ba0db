"""What the boot loader of a file-based device remembers: which slot runs, which is on trial, how often it was tried.

Owns two copies of one small record; each save overwrites the older copy, and a copy whose CRC does not fit is passed
over. So a save that is cut off at any byte leaves the record before it. Used by drivers.slots only.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from device_sdk.drivers.failpoints import passing
from device_sdk.drivers.store import write_whole

SLOTS = ("a", "b")
_POINTS = ("record.written", "record.written", "record.renamed", "record.renamed")
_MAX_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class BootState:
    """One state of the boot loader.

    `running` is the slot that runs now. `trial` is the slot that is to prove itself (it runs once `tries` is above 0);
    `versions` says what each slot holds, None for nothing whole; `download` is (image_id, size) of what the other slot
    is being filled with.
    """

    running: str = "a"
    trial: str | None = None
    tries: int = 0
    versions: dict[str, dict[str, Any] | None] = field(default_factory=lambda: {"a": None, "b": None})
    download: tuple[str, int] | None = None

    @property
    def good(self) -> str:
        """The slot to fall back to: the one that runs unless it is on trial, else the other."""
        return other(self.trial) if self.trial is not None else self.running


def other(slot: str) -> str:
    return "b" if slot == "a" else "a"


class BootRecord:
    def __init__(self, directory: Path, *, sync_writes: bool = True) -> None:
        self._paths = [directory / "boot-0.rec", directory / "boot-1.rec"]
        self._sync_writes = sync_writes
        self._counter = 0
        self.state = BootState()
        for path in self._paths:
            found = _decode(path)
            if found is not None and found[0] > self._counter:
                self._counter, self.state = found

    def change(self, **fields: Any) -> None:
        """Store the state with these fields changed; OSError when the disk refuses, and then nothing has changed."""
        state = replace(self.state, **fields)
        body = json.dumps(
            {
                "counter": self._counter + 1,
                "running": state.running,
                "trial": state.trial,
                "tries": state.tries,
                "versions": state.versions,
                "download": state.download,
            }
        ).encode()
        data = b"%08x %s" % (zlib.crc32(body), body)
        passing("record.before_write")
        path = self._paths[(self._counter + 1) % 2]
        write_whole(path, data, sync_writes=self._sync_writes, points=_POINTS)
        self._counter += 1
        self.state = state


def _decode(path: Path) -> tuple[int, BootState] | None:
    """(counter, state) of a whole copy, else None."""
    try:
        data = path.read_bytes()[:_MAX_BYTES]
        if int(data[:8], 16) != zlib.crc32(data[9:]):
            return None
        value = json.loads(data[9:])
        download = value["download"]
        state = BootState(
            running=value["running"],
            trial=value["trial"],
            tries=value["tries"],
            versions=value["versions"],
            download=(download[0], download[1]) if download else None,
        )
        counter = int(value["counter"])
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None
    if state.running not in SLOTS or state.trial not in (None, *SLOTS):
        return None
    return counter, state
