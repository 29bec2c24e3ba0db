"""Which bytes are refused with which code, and what a reply to them echoes."""

import base64
import json
import os

import msgpack
import pytest

from device_sdk.wire import codes
from service.protocol import schemas
from service.protocol.decode import RequestError, decode

NONCE = bytes(range(16))
HELLO = {"id": "1", "group_id": "g", "serial": "s:1", "nonce": NONCE}
ONLINE = {"id": "1", "n": 1, "boot_count": 1, "desired_rev": 0, "caps": []}


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def refused(verb, payload, table=schemas.OPERATIONAL) -> RequestError:
    with pytest.raises(RequestError) as caught:
        decode(verb, payload, table)
    return caught.value


def nested(levels: int):
    value = []
    for _ in range(levels - 1):
        value = [value]
    return value


def test_a_hello_in_both_encodings_is_the_same_request():
    as_json = json.dumps({**HELLO, "nonce": b64(NONCE)}).encode()
    assert decode("hello", msgpack.packb(HELLO)).request == decode("hello", as_json).request
    assert decode("hello", as_json).encoding == "json"


def test_unknown_fields_are_ignored():
    assert decode("hello", msgpack.packb({**HELLO, "later": {"x": 1.5}})).request.serial == "s:1"


CASES = {
    "an empty message": (b"", "undecodable"),
    "a truncated map": (msgpack.packb(HELLO)[:-1], "undecodable"),
    "bytes after the end": (msgpack.packb(HELLO) + b"\x00", "undecodable"),
    "an array": (msgpack.packb([1]), "not_a_map"),
    "a number": (b"\x01", "not_a_map"),
    "the byte that MessagePack never uses": (b"\xc1", "undecodable"),
    "invalid UTF-8": (b"\x81\xa1\xff\x01", "undecodable"),
    "an extension type": (msgpack.packb({"id": "1", "x": msgpack.ExtType(5, b"12")}), "undecodable"),
    "a timestamp": (msgpack.packb({"id": "1", "x": msgpack.Timestamp(1)}), "undecodable"),
    "a key twice": (b"\x82\xa2id\xa11\xa2id\xa12", "duplicate_key"),
    "a key that is a number": (msgpack.packb({1: 2}), "key_not_string"),
    "a key that is bytes": (msgpack.packb({b"id": 2}), "key_not_string"),
    "a negative integer": (msgpack.packb({"id": "1", "x": -1}), "integer_range"),
    "an integer above 2^53-1": (msgpack.packb({"id": "1", "x": 2**53}), "integer_range"),
    "an integer above it in a list in a map": (msgpack.packb({"id": "1", "x": {"y": [2**53]}}), "integer_range"),
    "NaN": (msgpack.packb({"id": "1", "x": float("nan")}), "not_a_number"),
    "infinity": (msgpack.packb({"id": "1", "x": [float("inf")]}), "not_a_number"),
    "nine levels": (msgpack.packb({"id": "1", "x": nested(8)}), "too_deep"),
    "thousands of levels": (b"\x91" * 16000, "too_deep"),
    "thousands of levels of JSON": (b'{"a":' + b"[" * 10000, "too_deep"),
    "nine levels of JSON": (json.dumps({"id": "1", "x": nested(8)}).encode(), "too_deep"),
    "JSON with NaN": (b'{"id":"1","x":NaN}', "not_a_number"),
    "JSON with an infinite number": (b'{"id":"1","x":1e999}', "not_a_number"),
    "JSON with a key twice": (b'{"id":"1","id":"2"}', "duplicate_key"),
    "JSON with half a character": (b'{"id":"1","x":"\\ud800"}', "undecodable"),
    "JSON with text after the end": (b'{"id":"1"} x', "undecodable"),
    "JSON that is not UTF-8": (b'{"id":"\xff"}', "undecodable"),
    "JSON with a huge number": (b'{"id":' + b"9" * 5000 + b"}", "undecodable"),
}


@pytest.mark.parametrize(("payload", "cause"), CASES.values(), ids=CASES)
def test_what_cannot_be_read_is_a_bad_request(payload, cause):
    error = refused("hello", payload)
    assert (error.code, error.id) == (codes.BAD_REQUEST, "")
    assert error.cause in (cause, "extension_type")


def test_eight_levels_are_read():
    for payload in (
        msgpack.packb({**HELLO, "x": nested(7)}),
        json.dumps({**HELLO, "nonce": b64(NONCE), "x": nested(7)}),
    ):
        decode("hello", payload if isinstance(payload, bytes) else payload.encode())


def test_brackets_inside_strings_are_no_levels():
    body = {**HELLO, "nonce": b64(NONCE), "x": '[[[[[[[[[[{{{{{{{{\\"[[[[[['}
    assert decode("hello", json.dumps(body).encode()).request.id == "1"


def test_16384_bytes_are_read_and_one_more_is_too_large():
    fixed = len(msgpack.packb({**HELLO, "x": b"." * 256}))
    fits = msgpack.packb({**HELLO, "x": b"." * (16384 - fixed + 256)})
    assert len(fits) == 16384
    decode("hello", fits)
    assert refused("hello", fits + b".").code == codes.TOO_LARGE


FIELDS = {
    "no id": ("hello", {**HELLO, "id": None}),
    "an id of 33 characters": ("hello", {**HELLO, "id": "x" * 33}),
    "an id with a line feed": ("hello", {**HELLO, "id": "a\n"}),
    "an id that is a number": ("hello", {**HELLO, "id": 1}),
    "a nonce of 15 bytes": ("hello", {**HELLO, "nonce": bytes(15)}),
    "a nonce that is a string": ("hello", {**HELLO, "nonce": "x" * 16}),
    "a group of 65 characters": ("hello", {**HELLO, "group_id": "g" * 65}),
    "an empty group": ("hello", {**HELLO, "group_id": ""}),
    "a group with a colon": ("hello", {**HELLO, "group_id": "a:b"}),
    "a serial of 129 characters": ("hello", {**HELLO, "serial": "s" * 129}),
    "a serial with a slash": ("hello", {**HELLO, "serial": "a/b"}),
    "a serial with a plus": ("hello", {**HELLO, "serial": "+"}),
    "a serial with a NUL": ("hello", {**HELLO, "serial": "a\0"}),
    "a serial with a look-alike letter": ("hello", {**HELLO, "serial": "ѕn-1"}),
    "a serial with a line feed at the end": ("hello", {**HELLO, "serial": "sn-1\n"}),
    "n as a float": ("online", {**ONLINE, "n": 1.0}),
    "n as a string": ("online", {**ONLINE, "n": "1"}),
    "n as true": ("online", {**ONLINE, "n": True}),
    "no boot_count": ("online", {k: v for k, v in ONLINE.items() if k != "boot_count"}),
    "33 caps": ("online", {**ONLINE, "caps": ["x"] * 33}),
    "an unknown firmware state": ("report", {"id": "1", "n": 1, "desired_rev": 0, "firmware": {"state": "flying"}}),
    "a progress of 101": (
        "report",
        {"id": "1", "n": 1, "desired_rev": 0, "firmware": {"state": "failed", "progress": 101}},
    ),
    "a version id in capitals": ("installed", {"id": "1", "n": 1, "version_id": "A" * 32}),
    "a name of 129 characters": ("rename", {"id": "1", "n": 1, "name": "x" * 129}),
    "a name with a line feed": ("rename", {"id": "1", "n": 1, "name": "a\nb"}),
    "an empty name": ("rename", {"id": "1", "n": 1, "name": ""}),
    "an image of 7 bytes": (
        "fetch",
        {"id": "1", "image": bytes(7), "stream": 0, "chunk_size": 256, "first": 0, "count": 1},
    ),
    "a stream of 256": (
        "fetch",
        {"id": "1", "image": bytes(8), "stream": 256, "chunk_size": 256, "first": 0, "count": 1},
    ),
}


@pytest.mark.parametrize(("verb", "body"), FIELDS.values(), ids=FIELDS)
def test_a_field_that_is_missing_or_wrong_is_a_bad_request(verb, body):
    error = refused(verb, msgpack.packb(body))
    assert (error.code, error.cause) == (codes.BAD_REQUEST, "bad_field")


def test_the_id_is_echoed_when_another_field_is_wrong():
    assert refused("online", msgpack.packb({"id": "abc", "n": "x"})).id == "abc"


def test_an_unknown_verb_is_refused_with_its_id():
    error = refused("dance", msgpack.packb({"id": "9"}))
    assert (error.code, error.id) == (codes.UNKNOWN_VERB, "9")


def test_operational_verbs_are_unknown_in_the_bootstrap_space():
    assert refused("online", msgpack.packb(ONLINE), schemas.BOOTSTRAP).code == codes.UNKNOWN_VERB


@pytest.mark.parametrize("text", ["AA==", "A", "AB\n", "a+b/", "AAAAAAAAAAAAAAAAAAAAAB", 5], ids=repr)
def test_bytes_that_are_not_plain_base64url_are_refused(text):
    error = refused("hello", json.dumps({**HELLO, "nonce": text}).encode())
    assert error.code == codes.BAD_REQUEST


def activate(claim: bytes) -> bytes:
    return msgpack.packb({"id": "1", "claim": claim, "server_nonce": NONCE, "proof": bytes(32)})


def test_a_claim_in_another_encoding_than_its_message_is_refused():
    claim = json.dumps({"group_id": "g", "serial": "s", "nonce": b64(NONCE), "boot_count": 1, "caps": []}).encode()
    assert refused("activate", activate(claim)).cause == "claim_encoding"


def test_a_bad_claim_is_refused_with_the_id_of_its_message():
    for claim in (b"\xc1", msgpack.packb({"group_id": "g"}), b"\x91" * 9):
        error = refused("activate", activate(claim))
        assert (error.code, error.id) == (codes.BAD_REQUEST, "1")


def test_no_error_holds_what_came_in():
    secret = "canary" + os.urandom(8).hex()
    bodies = [
        {**HELLO, "serial": secret + "/"},
        {**HELLO, "nonce": secret.encode()},
        {**HELLO, "group_id": {secret: secret}},
        {secret: float("nan")},
    ]
    for body in bodies:
        error = refused("hello", msgpack.packb(body))
        assert secret not in f"{error} {error.public} {error.detail} {error.cause}"
        assert error.__cause__ is None or secret not in str(error.__cause__)
