"""Reading fields of a map that came from outside.

Owns the checks of type and bound, so that nothing that a peer sends raises anything but MalformedError. Runs on MicroPython.
"""

from device_sdk.wire import limits
from device_sdk.wire.packer import PackError, unpackb

TYPE_CHECKING = False  # a checker takes it for typing's, which MicroPython lacks
if TYPE_CHECKING:
    from typing import Any


class MalformedError(ValueError):
    """A payload or a field in it is not what the protocol says."""


def read_map(payload: bytes) -> "dict[str, Any]":
    """The map that a payload holds, checked for size before it is decoded."""
    if len(payload) > limits.MAX_PAYLOAD_BYTES:
        raise MalformedError("too large")
    try:
        value = unpackb(payload)
    except PackError as error:
        raise MalformedError(str(error))
    if not isinstance(value, dict):
        raise MalformedError("not a map")
    return value


def text(source: "dict[str, Any]", key: str, max_chars: int) -> str:
    value = source.get(key)
    if not isinstance(value, str) or len(value) > max_chars:
        raise MalformedError(key)
    return value


def optional_text(source: "dict[str, Any]", key: str, max_chars: int) -> "str | None":
    return text(source, key, max_chars) if source.get(key) is not None else None


def raw(source: "dict[str, Any]", key: str) -> bytes:
    value = source.get(key)
    if not isinstance(value, bytes):
        raise MalformedError(key)
    return value


def raw_list(source: "dict[str, Any]", key: str, most: int, length: int) -> "list[bytes] | None":
    """At most `most` byte strings of `length` bytes each; None when absent."""
    value = source.get(key)
    if value is None:
        return None
    if not isinstance(value, (list, tuple)) or len(value) > most:
        raise MalformedError(key)
    if not all([isinstance(one, bytes) and len(one) == length for one in value]):
        raise MalformedError(key)
    return list(value)


def integer(source: "dict[str, Any]", key: str, low: int, high: int) -> int:
    value = source.get(key)
    if not isinstance(value, int) or value is True or value is False or not low <= value <= high:
        raise MalformedError(key)
    return value


def submap(source: "dict[str, Any]", key: str) -> "dict[str, Any]":
    value = source.get(key)
    if not isinstance(value, dict):
        raise MalformedError(key)
    return value


def retry_after(reply: "dict[str, Any]") -> "int | None":
    """`retry_after_s` of a refusal, capped at 24 h; None when absent or senseless."""
    value = reply.get("retry_after_s")
    if not isinstance(value, int) or value is True or value is False or value < 0:
        return None
    return min(value, limits.RETRY_MAX_S)
