"""Canonical bytes: what every proof, mac and computed id is taken over.

Owns the one encoding of a list of items into bytes that cannot be read two ways. Source: docs/protocol.md,
section "Identities, keys, bytes". Runs on MicroPython.
"""

_MAX_INTEGER = (1 << 64) - 1


def canon(label: str, *items: "str | bytes | int | None") -> bytes:
    """The label and each item as a 4-byte big-endian length and its bytes.

    Strings are UTF-8, integers 8 bytes big-endian, bytes raw, None empty. Raises TypeError for anything else (bool
    among it) and ValueError for an integer outside 0..2**64-1.
    """
    parts = []
    for item in (label,) + items:
        raw = item if type(item) is bytes else _item_bytes(item)
        parts.append(len(raw).to_bytes(4, "big"))
        parts.append(raw)
    return b"".join(parts)


def _item_bytes(item: "str | bytes | int | None") -> bytes:
    if item is None:
        return b""
    if isinstance(item, str):
        return item.encode("utf-8")
    if isinstance(item, (bytes, bytearray, memoryview)):
        return bytes(item)
    if isinstance(item, int) and not isinstance(item, bool):
        if not 0 <= item <= _MAX_INTEGER:
            raise ValueError("integer out of range")
        return item.to_bytes(8, "big")
    raise TypeError("cannot take " + str(type(item)))
