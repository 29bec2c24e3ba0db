"""MessagePack, as strict as the protocol asks: payload bytes to values and back.

Owns the codec only; knows no field and no size limit of a payload (the reader checks that before it decodes). Refuses
what two readers could take differently: extension types, duplicate or non-text keys, integers outside 0..2**53-1, NaN
and infinities, bad UTF-8, more than 8 levels, trailing bytes. Source: docs/protocol.md, section "Payloads", and the
MessagePack specification. Runs on MicroPython.
"""

import struct

from device_sdk.wire import limits

TYPE_CHECKING = False  # a checker takes it for typing's, which MicroPython lacks
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class PackError(ValueError):
    """These bytes are no value that the protocol allows, or this value cannot be sent."""


def packb(value: object) -> bytes:
    """The shortest encoding of None, bool, int, float, str, bytes, list, tuple or a map with text keys.

    Maps are written in the order in which they iterate: bytes that are signed are packed once and kept. Raises
    PackError for any other type and for values outside the bounds above.
    """
    out = bytearray()
    _pack(out, value, 1)
    return bytes(out)


def unpackb(data: bytes) -> "Any":
    """The one value that `data` holds, maps as dict, arrays as list, bin as bytes; raises PackError otherwise."""
    value, end = _unpack(data, 0, 1)
    if end != len(data):
        raise PackError("trailing bytes")
    return value


def _pack(out: bytearray, value: object, depth: int) -> None:
    if value is None:
        out.append(0xC0)
    elif value is True or value is False:
        out.append(0xC3 if value else 0xC2)
    elif isinstance(value, int):
        _pack_int(out, value)
    elif isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):
            raise PackError("not a finite number")
        out.append(0xCB)
        out += struct.pack(">d", value)
    elif isinstance(value, str):
        raw = _utf8(value)
        _pack_head(out, len(raw), 0xA0, 32, (0xD9, 0xDA, 0xDB))
        out += raw
    elif isinstance(value, (bytes, bytearray, memoryview)):
        raw = bytes(value)
        _pack_head(out, len(raw), 0, 0, (0xC4, 0xC5, 0xC6))
        out += raw
    elif isinstance(value, (list, tuple)):
        _check_depth(depth)
        _pack_head(out, len(value), 0x90, 16, (0, 0xDC, 0xDD))
        for item in value:
            _pack(out, item, depth + 1)
    elif isinstance(value, dict):
        _check_depth(depth)
        _pack_head(out, len(value), 0x80, 16, (0, 0xDE, 0xDF))
        for key in value:
            if not isinstance(key, str):
                raise PackError("a key is not text")
            _pack(out, key, depth)
            _pack(out, value[key], depth + 1)
    else:
        raise PackError("cannot pack " + str(type(value)))


def _pack_int(out: bytearray, value: int) -> None:
    if not 0 <= value <= limits.MAX_INT:
        raise PackError("integer out of range")
    if value < 0x80:
        out.append(value)
    elif value < 0x100:
        out.append(0xCC)
        out.append(value)
    elif value < 0x10000:
        out.append(0xCD)
        out += value.to_bytes(2, "big")
    elif value < 0x100000000:
        out.append(0xCE)
        out += value.to_bytes(4, "big")
    else:
        out.append(0xCF)
        out += value.to_bytes(8, "big")


def _pack_head(out: bytearray, length: int, fix: int, fix_limit: int, codes: "tuple[int, int, int]") -> None:
    """A type byte with a length: inside the byte below fix_limit, else 1, 2 or 4 bytes after it."""
    if length < fix_limit:
        out.append(fix | length)
    elif length < 0x100 and codes[0]:
        out.append(codes[0])
        out.append(length)
    elif length < 0x10000:
        out.append(codes[1])
        out += length.to_bytes(2, "big")
    else:
        out.append(codes[2])
        out += length.to_bytes(4, "big")


def _utf8(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeError:
        raise PackError("text is not valid Unicode")


def _check_depth(depth: int) -> None:
    if depth > limits.MAX_DEPTH:
        raise PackError("too deep")


def _unpack(data: bytes, at: int, depth: int) -> "tuple[Any, int]":
    """(value, end) of the value that starts at `at`; depth is the level a container there would have."""
    if at >= len(data):
        raise PackError("cut short")
    code = data[at]
    at += 1
    if code < 0x80:
        return code, at
    if code < 0x90:
        return _unpack_map(data, at, code & 0x0F, depth)
    if code < 0xA0:
        return _unpack_array(data, at, code & 0x0F, depth)
    if code < 0xC0:
        return _unpack_text(data, at, code & 0x1F)
    if code in _CONSTANTS:
        return _CONSTANTS[code], at
    if code not in _SIZED:
        raise PackError("type not allowed")
    width, take = _SIZED[code]
    end = at + width
    if end > len(data):
        raise PackError("cut short")
    if take is None:
        return _unpack_float(data[at:end]), end
    number = int.from_bytes(data[at:end], "big")
    return take(data, end, number, depth)


def _unpack_int(data: bytes, at: int, number: int, depth: int) -> "tuple[int, int]":  # noqa: ARG001
    if number > limits.MAX_INT:
        raise PackError("integer out of range")
    return number, at


def _unpack_float(raw: bytes) -> float:
    value: float = struct.unpack(">f" if len(raw) == 4 else ">d", raw)[0]
    if value != value or value in (float("inf"), float("-inf")):
        raise PackError("not a finite number")
    return value


def _unpack_sized_text(data: bytes, at: int, length: int, depth: int) -> "tuple[str, int]":  # noqa: ARG001
    return _unpack_text(data, at, length)


def _unpack_text(data: bytes, at: int, length: int) -> "tuple[str, int]":
    raw, end = _unpack_bytes(data, at, length, 0)
    try:
        text = str(raw, "utf-8")
    except UnicodeError:
        raise PackError("bad UTF-8")
    if len(text) != length and not _is_strict(text, raw):
        raise PackError("bad UTF-8")
    return text, end


def _is_strict(text: str, raw: bytes) -> bool:
    """Whether non-ASCII text has no surrogate and no over-long form (MicroPython's decoder lets both pass)."""
    size = 0
    for char in text:
        point = ord(char)
        if 0xD800 <= point <= 0xDFFF or point > 0x10FFFF:
            return False
        size += 1 if point < 0x80 else 2 if point < 0x800 else 3 if point < 0x10000 else 4
    return size == len(raw)


def _unpack_bytes(data: bytes, at: int, length: int, depth: int) -> "tuple[bytes, int]":  # noqa: ARG001
    end = at + length
    if end > len(data):
        raise PackError("cut short")
    return bytes(data[at:end]), end


def _unpack_array(data: bytes, at: int, length: int, depth: int) -> "tuple[list[Any], int]":
    _check_depth(depth)
    out: "list[Any]" = []
    for _ in range(length):
        item, at = _unpack(data, at, depth + 1)
        out.append(item)
    return out, at


def _unpack_map(data: bytes, at: int, length: int, depth: int) -> "tuple[dict[str, Any], int]":
    _check_depth(depth)
    out: "dict[str, Any]" = {}
    for _ in range(length):
        key, at = _unpack(data, at, depth + 1)
        if not isinstance(key, str):
            raise PackError("a key is not text")
        if key in out:
            raise PackError("duplicate key")
        out[key], at = _unpack(data, at, depth + 1)
    return out, at


_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}

# Type byte -> bytes of the number after it, and who takes that number (None: it is a float).
_SIZED: "dict[int, tuple[int, Callable[[bytes, int, int, int], tuple[Any, int]] | None]]" = {
    0xC4: (1, _unpack_bytes),
    0xC5: (2, _unpack_bytes),
    0xC6: (4, _unpack_bytes),
    0xCA: (4, None),
    0xCB: (8, None),
    0xCC: (1, _unpack_int),
    0xCD: (2, _unpack_int),
    0xCE: (4, _unpack_int),
    0xCF: (8, _unpack_int),
    0xD9: (1, _unpack_sized_text),
    0xDA: (2, _unpack_sized_text),
    0xDB: (4, _unpack_sized_text),
    0xDC: (2, _unpack_array),
    0xDD: (4, _unpack_array),
    0xDE: (2, _unpack_map),
    0xDF: (4, _unpack_map),
}
