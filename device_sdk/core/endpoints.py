"""Bootstrap endpoints that the service names, as they are stored and used.

Owns their checks: nothing plain unless the device was built to allow it, at most eight. Connects to none.
Source: docs/protocol.md, section "Desired state". Runs on MicroPython.
"""

from device_sdk.core import fields
from device_sdk.core.fields import MalformedError
from device_sdk.core.identity import Endpoint

TYPE_CHECKING = False  # a checker takes it for typing's, which MicroPython lacks
if TYPE_CHECKING:
    from typing import Any

MAX_ENDPOINTS = 8
MAX_PEM_CHARS = 12 * 1024


def read_list(value: object, allow_plain: bool) -> "list[dict[str, Any]]":
    """Checked maps {host, port, tls, ca?} of an array from outside; absent is none. Raises MalformedError."""
    if value is None:
        return []
    if not isinstance(value, (list, tuple)) or len(value) > MAX_ENDPOINTS:
        raise MalformedError("bootstrap")
    return [_read(one, allow_plain) for one in value]


def _read(value: object, allow_plain: bool) -> "dict[str, Any]":
    if not isinstance(value, dict):
        raise MalformedError("bootstrap")
    one: dict[str, Any] = {
        "host": fields.text(value, "host", 255),
        "port": fields.integer(value, "port", 1, 65535),
        "tls": value.get("tls") is not False,
    }
    if not one["tls"] and not allow_plain:
        raise MalformedError("plain_endpoint")
    ca = fields.optional_text(value, "ca", MAX_PEM_CHARS)
    if ca is not None:
        one["ca"] = ca
    return one


def endpoint_of(stored: "dict[str, Any]") -> Endpoint:
    return Endpoint(stored["host"], stored["port"], stored["tls"], stored.get("ca"))
