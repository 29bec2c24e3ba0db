"""Bytes of a request -> a strict request, or a ServiceError with a documented code. Pure.

Owns size, depth, encoding and the `id` that a reply echoes; knows no device and stores nothing. Sits between the
queue's session bucket and the executor. Any bytes give a value or a ServiceError; no error holds what came in.
Source: docs/protocol.md, section 3.
"""

from __future__ import annotations

import base64
import json
import math
import re
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import msgpack
from pydantic import ValidationError

from device_sdk.wire import codes, ids, limits
from service.errors import ServiceError
from service.protocol import schemas

JSON = "json"
MSGPACK = "msgpack"
# Everything but brackets outside strings; a string that does not end swallows the rest, which the decoder refuses.
_JSON_NO_BRACKET = re.compile(rb'"(?:[^"\\]|\\.)*(?:"|\\?$)|[^"{}\[\]]+', re.DOTALL)

M = TypeVar("M", bound=schemas.Model)


class RequestError(ServiceError):
    """A request that decoding refused, with what the reply needs: `id` ("" when unreadable) and the encoding."""

    def __init__(self, code: str, public: str, *, cause: str, id: str = "", encoding: str = MSGPACK) -> None:  # noqa: A002
        super().__init__(code, public, cause=cause)
        self.id = id
        self.encoding = encoding


@dataclass(frozen=True, slots=True)
class Decoded:
    """One request and the encoding it came in."""

    request: schemas.Request
    encoding: str
    claim: schemas.Claim | None = None  # of an activate: read, not yet proven


def decode(verb: str, payload: bytes, table: dict[str, type[schemas.Model]] = schemas.OPERATIONAL) -> Decoded:
    """The request in a message of this verb. `table` lists the verbs of the topic space. Raises RequestError."""
    encoding = encoding_of(payload)
    body = read_map(payload)
    model = table.get(verb)
    if model is None:
        raise RequestError(
            codes.UNKNOWN_VERB, "unknown verb", cause="unknown_verb", id=readable_id(body), encoding=encoding
        )
    try:
        request: Any = _validate(model, body, encoding)
        claim = None
        if issubclass(model, schemas.Activate):
            claim = decode_claim(request.claim, encoding)
    except RequestError as error:
        error.id, error.encoding = readable_id(body), encoding
        raise
    return Decoded(request, encoding, claim)


def decode_claim(raw: bytes, encoding: str) -> schemas.Claim:
    """The claim inside an activate, in the encoding of the message around it. Raises RequestError."""
    if encoding_of(raw) != encoding:
        _bad("the claim has another encoding than its message", "claim_encoding", encoding)
    return _validate(schemas.Claim, read_map(raw), encoding)


def encoding_of(payload: bytes) -> str:
    return JSON if payload[:1] == b"{" else MSGPACK


def read_map(payload: bytes) -> dict[str, Any]:
    """The outer map, in plain values. Raises RequestError TOO_LARGE or BAD_REQUEST."""
    # 1. Size.
    encoding = encoding_of(payload)
    if len(payload) > limits.MAX_PAYLOAD_BYTES:
        raise RequestError(codes.TOO_LARGE, "larger than 16384 bytes", cause="too_large", encoding=encoding)
    # 2. Depth, before anything is built.
    # 3. Form, 4. values.
    try:
        value = _read_json(payload) if encoding == JSON else _read_msgpack(payload)
    except RequestError:
        raise
    except (ValueError, RecursionError, OverflowError, msgpack.UnpackException) as error:
        raise RequestError(
            codes.BAD_REQUEST, "not valid MessagePack or JSON", cause="undecodable", encoding=encoding
        ) from error
    if not isinstance(value, dict):
        _bad("not a map", "not_a_map", encoding)
    return value


def readable_id(body: dict[str, Any]) -> str:
    """The request's id for the reply, or "" where it cannot be read."""
    found = body.get("id")
    return found if isinstance(found, str) and ids.is_request_id(found) else ""


def _read_msgpack(payload: bytes) -> Any:
    if _msgpack_depth(payload) > limits.MAX_DEPTH:
        _bad("deeper than 8 levels", "too_deep", MSGPACK)
    value = msgpack.unpackb(
        payload, raw=False, strict_map_key=False, object_pairs_hook=_pairs, ext_hook=_no_extension, max_ext_len=0
    )
    _check(value, MSGPACK)
    return value


def _read_json(payload: bytes) -> Any:
    text = payload.decode("utf-8")
    if _json_depth(payload) > limits.MAX_DEPTH:
        _bad("deeper than 8 levels", "too_deep", JSON)
    value = json.loads(text, object_pairs_hook=_pairs, parse_constant=_no_constant)
    _check(value, JSON)
    if "\\u" in text:
        _check_surrogates(value)
    return value


def _pairs(pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key, value in pairs:
        if key.__class__ is not str:
            _bad("a key is not a string", "key_not_string")
        made[key] = value
    if len(made) != len(pairs):
        _bad("a key stands twice", "duplicate_key")
    return made


def _check(value: Any, encoding: str) -> None:
    """Refuse numbers that the protocol has no place for; nesting is at most MAX_DEPTH here."""
    kind = value.__class__
    if kind is dict:
        for item in value.values():
            if item.__class__ is not str and item.__class__ is not bytes:
                _check(item, encoding)
    elif kind is list:
        for item in value:
            _check(item, encoding)
    elif kind is int:
        if not 0 <= value <= limits.MAX_INT:
            _bad("an integer outside 0..2^53-1", "integer_range", encoding)
    elif kind is float and not math.isfinite(value):
        _bad("a number that is none", "not_a_number", encoding)


def _check_surrogates(value: Any) -> None:
    """JSON can spell half a character; UTF-8 cannot. UnicodeEncodeError is a ValueError."""
    if isinstance(value, str):
        value.encode("utf-8")
    elif isinstance(value, list):
        for item in value:
            _check_surrogates(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            key.encode("utf-8")
            _check_surrogates(item)


def _no_extension(_code: int, _data: bytes) -> NoReturn:
    _bad("an extension type", "extension_type")


def _no_constant(_name: str) -> NoReturn:
    _bad("a number that is none", "not_a_number", JSON)


def _validate(model: type[M], body: dict[str, Any], encoding: str) -> M:
    if encoding == JSON:
        for field in model.RAW:
            text = body.get(field)
            if text is not None:
                body[field] = _base64url(text)
    try:
        return model.model_validate(body)
    except ValidationError as error:
        # Only where and which rule: never the value. A location can hold a key of the sender's (attributes), so only
        # its first step, which is a field of ours, is told.
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        field = str(first["loc"][0]) if first["loc"] else "message"
        raise RequestError(
            codes.BAD_REQUEST, f"field {field} is missing or wrong", cause="bad_field", encoding=encoding
        ) from None


def _base64url(text: Any) -> bytes:
    if not isinstance(text, str):
        _bad("bytes are not base64url", "bad_base64url", JSON)
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except ValueError:
        raw = None
    if raw is None or base64.urlsafe_b64encode(raw).rstrip(b"=") != text.encode("utf-8", "replace"):
        _bad("bytes are not base64url without padding", "bad_base64url", JSON)
    return raw


def _bad(public: str, cause: str, encoding: str = MSGPACK) -> NoReturn:
    raise RequestError(codes.BAD_REQUEST, public, cause=cause, encoding=encoding)


def _plan() -> tuple[tuple[int, int, int], ...]:
    """For each first byte: (bytes of payload after it or of its length field, kind, children).

    Kind 0: skip a fixed number of bytes; 1: a length field of that many bytes, then that many bytes; 2: a container of
    `children`; 3: a container whose count is a field of that many bytes, times `children`; 4: invalid.
    """
    plan = [(0, 0, 0)] * 256
    for byte in range(0x80, 0x90):
        plan[byte] = (0, 2, 2 * (byte & 15))
    for byte in range(0x90, 0xA0):
        plan[byte] = (0, 2, byte & 15)
    for byte in range(0xA0, 0xC0):
        plan[byte] = (byte & 31, 0, 0)
    plan[0xC1] = (0, 4, 0)
    for byte, size in ((0xC4, 1), (0xC5, 2), (0xC6, 4), (0xD9, 1), (0xDA, 2), (0xDB, 4)):
        plan[byte] = (size, 1, 0)
    for byte in (0xC7, 0xC8, 0xC9, *range(0xD4, 0xD9)):
        plan[byte] = (0, 4, 0)  # extension types
    for byte, size in ((0xCA, 4), (0xCB, 8), (0xCC, 1), (0xCD, 2), (0xCE, 4), (0xCF, 8)):
        plan[byte] = (size, 0, 0)
    for byte, size in ((0xD0, 1), (0xD1, 2), (0xD2, 4), (0xD3, 8)):
        plan[byte] = (size, 0, 0)
    for byte, size, times in ((0xDC, 2, 1), (0xDD, 4, 1), (0xDE, 2, 2), (0xDF, 4, 2)):
        plan[byte] = (size, 3, times)
    return tuple(plan)


_PLAN = _plan()


def _msgpack_depth(data: bytes) -> int:
    """Levels of maps and arrays, found by skipping over the bytes; stops one past the bound.

    A truncated or invalid message gives a depth within the bound: the decoder after it says what is wrong.
    """
    position, end, left = 0, len(data), 1
    stack: list[int] = []
    while position < end:
        size, kind, children = _PLAN[data[position]]
        position += 1
        left -= 1
        if kind == 0:
            position += size
        elif kind == 1:
            position += size + int.from_bytes(data[position : position + size], "big")
        elif kind == 4:  # invalid or an extension type: nothing after it is built, the decoder stops there too
            break
        else:
            if kind == 3:
                children *= int.from_bytes(data[position : position + size], "big")
                position += size
            stack.append(left)
            if len(stack) > limits.MAX_DEPTH:
                break
            left = children
        while left == 0 and stack:
            left = stack.pop()
        if not stack:
            break
    return len(stack)


def _json_depth(payload: bytes) -> int:
    """The highest count of open brackets outside strings; stops one past the bound."""
    depth = highest = 0
    for bracket in _JSON_NO_BRACKET.sub(b"", payload):
        if bracket in b"{[":
            depth += 1
            highest = max(highest, depth)
            if highest > limits.MAX_DEPTH:
                break
        else:
            depth -= 1
    return highest
