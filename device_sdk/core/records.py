"""Small records that are whole or absent, whatever byte a power loss tears them at.

Owns their frame on flash: each name has two places, A and B; a save goes to the one that does not hold the newest
whole record, with a counter one higher and a CRC over all of it. Knows nothing of what a record says. Sits above the
flash port. Runs on MicroPython.

    magic 2 | counter 4 | length 4 | CRC-32 of counter, length and data 4 | data (MessagePack; nil: deleted)
"""

import struct

try:
    from zlib import crc32
except ImportError:  # MicroPython has it elsewhere
    from binascii import crc32

from device_sdk.wire.packer import PackError, packb, unpackb

TYPE_CHECKING = False  # a checker takes it for typing's, which MicroPython lacks
if TYPE_CHECKING:
    from typing import Any

    from device_sdk.core.ports import Flash

_MAGIC = b"F1"
_HEADER_BYTES = 14
_PLACES = ("-a", "-b")


class Records:
    """Values by name: maps of what MessagePack holds. After a torn save the value is the old or the new one, whole."""

    def __init__(self, flash: "Flash") -> None:
        self._flash = flash
        self._newest: dict[str, tuple[int, int]] = {}  # name -> (place, counter) of the newest whole record

    def load(self, name: str) -> "dict[str, Any] | None":
        """The newest whole value, or None if there is none or it was deleted."""
        best = None
        for place in range(2):
            found = _read(self._flash.load(name + _PLACES[place]))
            if found is not None and (best is None or found[0] > best[1]):
                best = (place, found[0], found[1])
        if best is None:
            self._newest.pop(name, None)
            return None
        self._newest[name] = (best[0], best[1])
        return best[2]

    def save(self, name: str, value: "dict[str, Any] | None") -> None:
        """Store durably; the value before it is untouched until this one is whole."""
        if name not in self._newest:
            self.load(name)
        place, counter = self._newest.get(name, (1, 0))
        place, counter = 1 - place, counter + 1
        self._flash.save(name + _PLACES[place], _frame(counter, packb(value)))
        self._newest[name] = (place, counter)

    def delete(self, name: str) -> None:
        """Make it None, and leave nothing of older values in either place."""
        self.save(name, None)
        self.save(name, None)


def _frame(counter: int, data: bytes) -> bytes:
    head = struct.pack(">II", counter, len(data))
    return _MAGIC + head + struct.pack(">I", crc32(head + data) & 0xFFFFFFFF) + data


def _read(stored: "bytes | None") -> "tuple[int, dict[str, Any] | None] | None":
    """(counter, value) of a whole record; None for anything else. Bytes after its end may be left from an older one."""
    if stored is None or len(stored) < _HEADER_BYTES or stored[:2] != _MAGIC:
        return None
    counter, length, crc = struct.unpack(">III", stored[2:_HEADER_BYTES])
    data = stored[_HEADER_BYTES : _HEADER_BYTES + length]
    if len(data) != length or crc32(stored[2:10] + data) & 0xFFFFFFFF != crc:
        return None
    try:
        value = unpackb(data)
    except PackError:
        return None
    if value is not None and not isinstance(value, dict):
        return None
    return counter, value
