"""Computes the golden vectors with nothing of ours: hashlib, hmac, struct, zlib, msgpack.

`python tests/vectors/make.py` writes the JSON files beside it; a test compares them with what this module computes.
Bytes are hex. In packer.json a value {"bin": hex} stands for bytes, {"float": text} for a float.
"""

from __future__ import annotations

import base64
import hashlib
import hmac as stdlib_hmac
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import msgpack

HERE = Path(__file__).parent
K = bytes(range(32))
NONCE = bytes(range(0xA0, 0xB0))
SERVER_NONCE = bytes(range(0xB0, 0xC0))
RANDOM = bytes(range(0x10, 0x20))
THING = "0193b1f2a7c47d3e8f10c2d3e4f5a6b7"
DPS_KEY = "8isrFI1sGsIlvvFSSFRiMfCNzv21fjbE/+ah/lSh3lF8e2YG1Te7w1KpZhJFFXJrqYKi9yegxkqIChbqOS9Egw=="
CLAIM = (
    '{"group_id":"thermo-2026","serial":"T-0001","nonce":"oKGio6SlpqeoqaqrrK2urw","boot_count":3,'
    '"firmware":{"name":"1.0"},"caps":[]}'
)
IMAGE = b"firmware 2.0\n"


def hmac(key: bytes, data: bytes) -> bytes:
    return stdlib_hmac.new(key, data, "sha256").digest()


def canon(*items: str | bytes | int | None) -> bytes:
    out = b""
    for item in items:
        if item is None:
            raw = b""
        elif isinstance(item, str):
            raw = item.encode()
        elif isinstance(item, int):
            raw = struct.pack(">Q", item)
        else:
            raw = item
        out += struct.pack(">I", len(raw)) + raw
    return out


def hkdf(ikm: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    prk = hmac(salt or bytes(32), ikm)
    out = block = b""
    for number in range(1, -(-length // 32) + 1):
        block = hmac(prk, block + info + bytes([number]))
        out += block
    return out[:length]


def canon_vectors() -> list[dict[str, Any]]:
    cases: list[tuple[str, list[Any]]] = [
        ("pv1 x", []),
        ("pv1 x", [None, 1, ""]),
        ("pv1 x", ["", None, b""]),
        ("pv1 x", [0, 2**53 - 1, 2**64 - 1]),
        ("pv1 x", ["ab", "c"]),
        ("pv1 x", ["a", "bc"]),
        ("pv1 grüße", ["T-0001", bytes([0, 255])]),
    ]

    def shown(item: Any) -> Any:
        return {"bytes": item.hex()} if isinstance(item, bytes) else item

    return [
        {"label": label, "items": [shown(item) for item in items], "canon": canon(label, *items).hex()}
        for label, items in cases
    ]


def keys_vectors() -> dict[str, Any]:
    group_secret = base64.b64decode(DPS_KEY)
    serial = "sn-007-888-abc-mac-a1-b2-c3-d4-e5-f6"
    session = hmac(K, canon("pv1 session", "T-0001", 3, RANDOM))[:16].hex()
    claim = CLAIM.encode()
    credential_id = hashlib.sha256(canon("pv1 credential", session, SERVER_NONCE, claim)).hexdigest()[:32]
    grant = json.dumps({"thing_id": THING, "credential_id": credential_id}).encode()
    doc = b'{"rev":1}'
    info = canon("pv1 api-key", THING, credential_id)
    activated = canon("pv1 activated", session, SERVER_NONCE, hashlib.sha256(claim).digest(), grant)
    return {
        "hmac": [
            # RFC 4231, test cases 1 and 6
            {"key": "0b" * 20, "data": b"Hi There".hex(), "mac": hmac(b"\x0b" * 20, b"Hi There").hex()},
            {"key": "aa" * 131, "data": b"long".hex(), "mac": hmac(b"\xaa" * 131, b"long").hex()},
            {"key": "", "data": "", "mac": hmac(b"", b"").hex()},
        ],
        "hkdf": [
            # RFC 5869, test cases 1 and 3
            {
                "ikm": "0b" * 22,
                "salt": bytes(range(13)).hex(),
                "info": bytes(range(0xF0, 0xFA)).hex(),
                "length": 42,
                "okm": "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
            },
            {"ikm": "0b" * 22, "salt": "", "info": "", "length": 42, "okm": hkdf(b"\x0b" * 22, b"", b"", 42).hex()},
        ],
        "derive": {
            "group_secret": group_secret.hex(),
            "serial": serial,
            "key": base64.b64decode("Jsm0lyGpjaVYVP2g3FnmnmG9dI/9qU24wNoykUmermc=").hex(),
        },
        "activation": {
            "key": K.hex(),
            "group_id": "thermo-2026",
            "serial": "T-0001",
            "boot_count": 3,
            "random": RANDOM.hex(),
            "session": session,
            "nonce": NONCE.hex(),
            "minute": 29000000,
            "nonce_key": bytes(32).hex(),
            "made_server_nonce": hmac(
                bytes(32), canon("pv1 server-nonce", session, "thermo-2026", "T-0001", NONCE, 29000000)
            )[:16].hex(),
            "server_nonce": SERVER_NONCE.hex(),
            "claim": claim.hex(),
            "proof": hmac(K, canon("pv1 activate", session, SERVER_NONCE, claim)).hex(),
            "credential_id": credential_id,
            "thing_id": THING,
            "grant": grant.hex(),
            "server_proof": hmac(K, activated).hex(),
            "api_key": hkdf(K, NONCE + SERVER_NONCE, info, 32).hex(),
            "rekey": hkdf(K, NONCE + SERVER_NONCE, canon("pv1 rekey", THING, credential_id), 32).hex(),
            "doc": doc.hex(),
            "desired_mac": hmac(K, canon("pv1 desired", THING, credential_id, doc)).hex(),
        },
        "warehouse": warehouse_vectors(session, claim, credential_id, grant, doc),
    }


def warehouse_vectors(session: str, claim: bytes, credential_id: str, grant: bytes, doc: bytes) -> dict[str, Any]:
    """The words of section 9 over the values of the activation above."""
    item_key = hkdf(K, b"", canon("pv1 sealed item", "wifi", "3.1"), 32)
    digest = hashlib.sha256(b"the secret").digest()
    granted = canon("pv1 stage granted", session, SERVER_NONCE, hashlib.sha256(claim).digest(), grant)
    return {
        "proof": hmac(K, canon("pv1 stage", session, SERVER_NONCE, claim)).hex(),
        "server_proof": hmac(K, granted).hex(),
        "manifest_mac": hmac(K, canon("pv1 manifest", THING, credential_id, doc)).hex(),
        "handshake_mac": hmac(K, canon("pv1 handshake", THING, credential_id, doc)).hex(),
        "item": {
            "name": "wifi",
            "version": "3.1",
            "sha256": digest.hex(),
            "key": item_key.hex(),
            "nonce": hmac(item_key, canon("pv1 item nonce", digest))[:12].hex(),
        },
    }


def ids_vectors() -> dict[str, Any]:
    image_id = hashlib.sha256(IMAGE).hexdigest()
    message = canon("pv1 image", "Thermometer", "rev-b", "2.0", 2, image_id, len(IMAGE))
    needs = "runtime>=2.1,fonts>=1"
    item = canon("pv1 item", "Thermometer", "app", "software", "2.10", len(IMAGE), image_id, needs)
    public_key = bytes.fromhex("ea4a6c63e29c520abef5507b132ec5f9954776aebebe7b92421eea691446d22c")
    return {
        "item": {
            "product": "Thermometer",
            "name": "app",
            "kind": "software",
            "version": "2.10",
            "size": len(IMAGE),
            "sha256": image_id,
            "needs": [["runtime", "2.1"], ["fonts", "1"]],
            "message": item.hex(),
        },
        "version": {
            "product": "Thermometer",
            "hardware": "rev-b",
            "name": "2.0",
            "seq": 2,
            "image_id": image_id,
            "size": len(IMAGE),
            "message": message.hex(),
            "version_id": hashlib.sha256(message).hexdigest()[:32],
        },
        "release_key": {
            "public_key": public_key.hex(),
            "key_id": hashlib.sha256(canon("pv1 release-key", public_key)).hexdigest()[:32],
            "endorsement_message": canon("pv1 endorse", public_key).hex(),
        },
    }


def frames_vectors() -> dict[str, Any]:
    prefix = hashlib.sha256(IMAGE).digest()[:8]

    def frame(stream: int, index: int, data: bytes, *, last: bool, flags: int = 0) -> bytes:
        return (
            struct.pack(">BBHI", flags | last, stream, len(data) - 1, index)
            + prefix
            + struct.pack(">I", zlib.crc32(data))
            + data
        )

    def good(name: str, stream: int, index: int, data: bytes, *, last: bool) -> dict[str, Any]:
        return {
            "name": name, "stream": stream, "index": index, "prefix": prefix.hex(), "data": data.hex(), "last": last,
            "frame": frame(stream, index, data, last=last).hex(),
        }  # fmt: skip

    chunk = bytes(range(256))
    whole = frame(5, 0, IMAGE, last=True)
    return {
        "good": [
            good("a whole image as one chunk", 5, 0, IMAGE, last=True),
            good("a chunk in the middle", 0, 7, chunk, last=False),
            good("a last chunk of 1 byte", 255, 2**32 - 1, b"\x00", last=True),
            good("a last chunk of exactly the chunk size", 1, 1, chunk, last=True),
        ],
        "bad": [
            {"name": "nothing", "frame": ""},
            {"name": "a header without data", "frame": whole[:20].hex()},
            {"name": "cut short", "frame": whole[:-1].hex()},
            {"name": "too long", "frame": (whole + b"x").hex()},
            {"name": "one bit of the data wrong", "frame": (whole[:-1] + b"\x0b").hex()},
        ],
        "unknown_flags": {"frame": frame(5, 0, IMAGE, last=True, flags=0xFE).hex(), "last": True},
        "bitmaps": [
            {"first": 20, "indexes": [20, 21, 24, 43], "bits": "130080"},
            {"first": 0, "indexes": [0], "bits": "01"},
            {"first": 5, "indexes": [12], "bits": "80"},
            {"first": 5, "indexes": [13], "bits": "0001"},
        ],
        "images": [
            {"size": 1, "chunk_size": 256, "count": 1, "last_length": 1},
            {"size": 256, "chunk_size": 256, "count": 1, "last_length": 256},
            {"size": 257, "chunk_size": 256, "count": 2, "last_length": 1},
            {"size": 512, "chunk_size": 256, "count": 2, "last_length": 256},
            {"size": 2**30, "chunk_size": 65536, "count": 16384, "last_length": 65536},
        ],
    }


def packer_vectors() -> dict[str, Any]:
    values: list[Any] = [
        None, False, True, 0, 127, 128, 255, 256, 65535, 65536, 2**32 - 1, 2**32, 2**53 - 1, 1.5, 0.0,
        "", "a", "a" * 31, "a" * 32, "a" * 255, "a" * 256, "a" * 65536, "grüße", "日本", "😀",
        b"", b"\x00", bytes(255), bytes(256), bytes(65536),
        [], [1, 2], list(range(15)), list(range(16)), [0] * 70000,
        {}, {"a": 1}, {str(k): k for k in range(15)}, {"id": "1", "ok": True, "grant": b"\x81", "retry_after_s": 30},
    ]  # fmt: skip
    deep: Any = 1
    for _ in range(8):
        deep = [deep]
    values.append(deep)

    def shown(value: Any) -> Any:
        if isinstance(value, bytes):
            return {"bin": value.hex()}
        if isinstance(value, float):
            return {"float": str(value)}
        if isinstance(value, list):
            return [shown(item) for item in value]
        if isinstance(value, dict):
            return {key: shown(item) for key, item in value.items()}
        return value

    def pack(value: Any) -> str:
        return bytes(msgpack.packb(value)).hex()

    good = []
    for value in values:
        large = isinstance(value, (str, bytes, list)) and len(value) > 1000
        packed = pack(value)
        if large:
            item = value[0] if isinstance(value, list) else value[:1]
            entry = {"repeat": shown(item), "times": len(value)}
            entry["sha256"] = hashlib.sha256(bytes.fromhex(packed)).hexdigest()
            good.append(entry)
        else:
            good.append({"value": shown(value), "packed": packed})
    bad = [
        ("nothing", ""),
        ("bytes after the end", "c0c0"),
        ("an integer cut short", "cd01"),
        ("a string cut short", "a361"),
        ("a map cut short", "81a161"),
        ("an array that claims 4 thousand million items", "ddffffffff"),
        ("a map that claims 4 thousand million items", "dfffffffff"),
        ("bytes that claim 4 GiB", "c6ffffffff00"),
        ("a negative fixint", "ff"),
        ("an int8", "d0ff"),
        ("an int64, also a positive one", "d30000000000000001"),
        ("2**53", "cf0020000000000000"),
        ("2**64-1", "cfffffffffffffffff"),
        ("a timestamp (extension type)", pack(msgpack.Timestamp(1))),
        ("a fixext 1", "d40100"),
        ("an ext 8", "c7010100"),
        ("the byte that is never used", "c1"),
        ("NaN", "cb7ff8000000000000"),
        ("NaN as float 32", "ca7fc00000"),
        ("infinity", "cb7ff0000000000000"),
        ("minus infinity", "cafff80000"),
        ("duplicate keys", "82a16101a16102"),
        ("a duplicate key in another form", "82a16101d9016102"),
        ("a key that is an integer", "810101"),
        ("a key that is bytes", "81c4016101"),
        ("a key that is nil", "81c001"),
        ("bad UTF-8", "a1ff"),
        ("UTF-8 cut short", "a1c3"),
        ("an over-long form of a slash", "a2c0af"),
        ("a surrogate", "a3eda080"),
        ("beyond Unicode", "a4f4908080"),
        ("nine levels of arrays", "91" * 9 + "01"),
        ("nine levels of maps", "81a161" * 9 + "01"),
    ]
    return {"good": good, "bad": [{"name": name, "packed": packed} for name, packed in bad]}


FILES = {
    "canon.json": canon_vectors,
    "keys.json": keys_vectors,
    "ids.json": ids_vectors,
    "frames.json": frames_vectors,
    "packer.json": packer_vectors,
}


def text_of(name: str) -> str:
    return json.dumps(FILES[name](), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for file_name in FILES:
        (HERE / file_name).write_text(text_of(file_name), encoding="utf-8")
