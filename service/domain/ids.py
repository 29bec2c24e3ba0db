"""New ids: UUIDs of version 7, as 32 lower-case hex.

Owns their layout only; time and randomness are arguments. Source: RFC 9562, section 5.7.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

RANDOM_BYTES = 10
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)


def uuid7_hex(at: datetime, randomness: bytes) -> str:
    """Ids of a later millisecond sort after those of an earlier one. `randomness` is 10 bytes, else ValueError."""
    if len(randomness) != RANDOM_BYTES:
        raise ValueError("an id takes 10 random bytes")
    raw = bytearray(((at - _EPOCH) // _MS).to_bytes(6, "big") + randomness)
    raw[6] = 0x70 | raw[6] & 0x0F
    raw[8] = 0x80 | raw[8] & 0x3F
    return raw.hex()
