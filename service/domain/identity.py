"""New ids for things and devices. Pure: time and randomness are arguments."""

from __future__ import annotations

from datetime import datetime

RANDOM_BYTES = 10


def uuid7(now: datetime, random: bytes) -> str:
    """A UUIDv7 as 32 lower-case hex. `random`: 10 bytes. Source: RFC 9562, section 5.7."""
    milliseconds = int(now.timestamp() * 1000)
    value = milliseconds << 80 | int.from_bytes(random, "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return f"{value:032x}"
