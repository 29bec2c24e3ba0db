"""Replies and pushes -> bytes, in the encoding asked for. Owns the only table from an error to its wire form. Pure.

Sits after the commit, before the link. Fields stand in the order given, so the same content gives the same bytes.
Source: docs/protocol.md, section 3.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

import msgpack

from device_sdk.wire import codes, limits
from service.errors import ServiceError
from service.protocol.decode import JSON, MSGPACK, encoding_of

# code -> (lowest, highest) seconds of retry_after_s, drawn evenly so that a crowd spreads out; None: the device's own
# back-off (1 h, doubling) or its next step counts.
RETRY: dict[str, tuple[int, int] | None] = {
    codes.BAD_REQUEST: None,
    codes.TOO_LARGE: None,
    codes.UNKNOWN_VERB: None,
    codes.THROTTLED: (1, 5),
    codes.REFUSED: (30, 90),
    codes.NONCE_EXPIRED: None,
    codes.NOT_ALLOCATED: (300, 900),
    codes.BLOCKED: (300, 900),
    codes.REPLACED: None,
    codes.RETIRED: None,
    codes.CONFLICT: None,
    codes.FORBIDDEN: None,
    codes.NOT_FOUND: None,
    codes.NOT_IN_WAREHOUSE: None,
    codes.ALREADY_STAGED: None,
    codes.NO_TARGET: None,
    codes.IMAGE_UNKNOWN: None,
    codes.RANGE: None,
    codes.HOOK_DENIED: None,
    codes.HOOK_TIMEOUT: (5, 15),
    codes.UNAVAILABLE: (5, 15),
    codes.INTERNAL: (5, 15),
}


def pack(value: Mapping[str, Any], encoding: str) -> bytes:
    """One map in the given encoding, with its fields in the order of the mapping."""
    if encoding == MSGPACK:
        packed: bytes = msgpack.packb(value)
        return packed
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=_base64url).encode("utf-8")


def unpack(data: bytes) -> dict[str, Any]:
    """A map that `pack` made and we stored. Byte fields of JSON stay base64url text."""
    value: dict[str, Any] = (
        json.loads(data) if encoding_of(data) == JSON else msgpack.unpackb(data, raw=False, strict_map_key=True)
    )
    return value


def reply(request_id: str, fields: Mapping[str, Any], trace_id: str, encoding: str) -> bytes:
    """The reply to a request that was granted."""
    return pack({"id": request_id, "ok": True, **fields, "trace": trace_id}, encoding)


def refusal(request_id: str, error: ServiceError, trace_id: str, encoding: str, chance: float) -> bytes:
    """The reply to a request that was refused. `chance` in [0, 1) draws the retry time from the code's range."""
    body: dict[str, Any] = {"id": request_id, "ok": False, "code": error.code, "reason": error.public}
    retry_after_s = error.retry_after_s
    between = RETRY[error.code]
    if retry_after_s is None and between is not None:
        retry_after_s = between[0] + int(chance * (between[1] - between[0] + 1))
    if retry_after_s is not None:
        body["retry_after_s"] = retry_after_s
    if error.code == codes.RANGE:
        body.update(error.state or {})
    elif error.state is not None:
        body["state"] = error.state
    body["trace"] = trace_id
    return pack(body, encoding)


def desired(doc: bytes, mac: bytes, encoding: str) -> bytes:
    """The push on dn/desired."""
    return pack({"desired": {"doc": doc, "mac": mac}}, encoding)


def fits(payload: bytes) -> bool:
    return len(payload) <= limits.MAX_PAYLOAD_BYTES


def _base64url(value: object) -> str:
    if not isinstance(value, (bytes, bytearray)):
        raise TypeError(f"cannot encode {type(value).__name__}")
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode("ascii")
