"""Any bytes into decode give a request or a ServiceError with a documented code, and nothing else."""

import base64
import json

import msgpack
from hypothesis import example, given, settings
from hypothesis import strategies as st

from device_sdk.wire import codes, limits
from service.errors import ServiceError
from service.protocol import encode, schemas
from service.protocol.decode import Decoded, RequestError, decode, readable_id

VERBS = st.sampled_from([*schemas.OPERATIONAL, "nothing"])
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=20)
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
)
FIELDS = st.sampled_from(
    ["id", "n", "boot_count", "caps", "group_id", "serial", "nonce", "claim", "server_nonce", "proof", "desired_rev",
     "firmware", "image", "stream", "chunk_size", "first", "count", "bitmap", "version_id", "name", "x"]
)  # fmt: skip


def decoded_or_refused(verb, payload):
    found = outcome(verb, payload)
    if isinstance(found, RequestError):
        assert found.code in codes.ALL
        assert found.cause
        assert found.id == "" or 1 <= len(found.id) <= limits.MAX_ID_CHARS
    return found


def outcome(verb, payload) -> Decoded | RequestError:
    try:
        return decode(verb, payload)
    except RequestError as error:
        return error


@given(verb=VERBS, payload=st.binary(max_size=200))
@example(verb="hello", payload=b"")
@example(verb="hello", payload=b"{" * 20)
@example(verb="hello", payload=b"\xdf\xff\xff\xff\xff")
@example(verb="hello", payload=b"\x81\xa2id\xd6\xff\x00\x00\x00\x00")
@example(verb="hello", payload=b'{"id":"\\ud800"}')
@example(verb="hello", payload=b'{"id":' + b"9" * 5000 + b"}")
def test_any_bytes_give_a_request_or_a_documented_code(verb, payload):
    decoded_or_refused(verb, payload)


@given(verb=VERBS, body=st.dictionaries(FIELDS, VALUES, max_size=8))
def test_any_messagepack_map_gives_a_request_or_a_documented_code(verb, body):
    decoded_or_refused(verb, msgpack.packb(body))


@given(verb=VERBS, body=st.dictionaries(FIELDS, VALUES, max_size=8))
def test_any_json_map_gives_a_request_or_a_documented_code(verb, body):
    decoded_or_refused(verb, json.dumps(body, default=repr).encode())


@given(value=VALUES)
@settings(max_examples=50)
def test_what_is_not_a_map_is_refused(value):
    if isinstance(value, dict):
        return
    error = decoded_or_refused("hello", msgpack.packb(value))
    assert isinstance(error, RequestError)
    assert error.code == codes.BAD_REQUEST


@given(
    code=st.sampled_from(codes.ALL),
    encoding=st.sampled_from(["msgpack", "json"]),
    request_id=st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=32),
    chance=st.floats(0, 1, exclude_max=True),
    state=st.none() | st.just({"boot_count": 3, "n": 2**53 - 1}),
)
def test_every_refusal_decodes_again(code, encoding, request_id, chance, state):
    error = ServiceError(code, "because", cause="x", detail="secret cause", state=state)
    payload = encode.refusal(request_id, error, "0123456789abcdef", encoding, chance)
    body = encode.unpack(payload)
    assert (body["id"], body["ok"], body["code"], body["trace"]) == (request_id, False, code, "0123456789abcdef")
    between = encode.RETRY[code]
    assert body.get("retry_after_s") is None if between is None else between[0] <= body["retry_after_s"] <= between[1]
    assert "secret" not in repr({**body, "id": ""})  # the id is any text, so this word too


@given(
    fields=st.dictionaries(
        st.text("abc_", min_size=1, max_size=5), st.binary(max_size=64) | st.integers(0, 2**53 - 1) | st.booleans()
    ),
)
def test_a_reply_decodes_again_in_both_encodings(fields):
    fields = {f"f{name}": value for name, value in fields.items()}
    for encoding in ("msgpack", "json"):
        body = encode.unpack(encode.reply("7", fields, "t" * 16, encoding))
        assert readable_id(body) == "7"
        assert body["ok"] is True
        assert body.keys() == {"id", "ok", "trace", *fields}
        assert {name: body[name] for name in fields} == {name: sent(one, encoding) for name, one in fields.items()}


def sent(value, encoding):
    """A value as a reader of this encoding finds it: JSON has bytes as base64url without padding."""
    if encoding == "msgpack" or not isinstance(value, bytes):
        return value
    return base64.urlsafe_b64encode(value).decode().rstrip("=")
