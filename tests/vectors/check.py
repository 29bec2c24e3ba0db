"""Compares device_sdk.wire with the golden vectors. Runs on CPython and MicroPython; raises AssertionError.

Each check_* takes the values of one file and gives the number of cases looked at.
"""

import binascii
import hashlib
import json

from device_sdk.wire import frames, ids, keys, manifest
from device_sdk.wire.canon import canon
from device_sdk.wire.packer import PackError, packb, unpackb

unhex = binascii.unhexlify


def check_canon(cases):
    for case in cases:
        items = [unhex(item["bytes"]) if isinstance(item, dict) else item for item in case["items"]]
        assert canon(case["label"], *items) == unhex(case["canon"]), case
    return len(cases)


def check_keys(vectors):
    for case in vectors["hmac"]:
        assert keys.hmac_sha256(unhex(case["key"]), unhex(case["data"])) == unhex(case["mac"]), case
    for case in vectors["hkdf"]:
        okm = keys.hkdf_sha256(unhex(case["ikm"]), unhex(case["salt"]), unhex(case["info"]), case["length"])
        assert okm == unhex(case["okm"]), case
    derive = vectors["derive"]
    assert keys.derive_key(unhex(derive["group_secret"]), derive["serial"]) == unhex(derive["key"])
    check_activation(vectors["activation"])
    check_warehouse(vectors["activation"], vectors["warehouse"])
    return len(vectors["hmac"]) + len(vectors["hkdf"]) + 3


def check_warehouse(a, v):
    key, session, server_nonce = unhex(a["key"]), a["session"], unhex(a["server_nonce"])
    claim, grant, doc = unhex(a["claim"]), unhex(a["grant"]), unhex(a["doc"])
    proof = keys.hmac_sha256(key, keys.stage_message(session, server_nonce, claim))
    assert proof == unhex(v["proof"])
    granted = keys.stage_granted_message(session, server_nonce, claim, grant)
    assert keys.hmac_sha256(key, granted) == unhex(v["server_proof"])
    place = (a["thing_id"], a["credential_id"], doc)
    assert keys.hmac_sha256(key, keys.manifest_message(*place)) == unhex(v["manifest_mac"])
    assert keys.hmac_sha256(key, keys.handshake_message(*place)) == unhex(v["handshake_mac"])
    item = v["item"]
    item_key = keys.item_key(key, item["name"], item["version"])
    assert item_key == unhex(item["key"])
    assert keys.item_nonce(item_key, unhex(item["sha256"])) == unhex(item["nonce"])


def check_activation(v):
    key, session, nonce, server_nonce = unhex(v["key"]), v["session"], unhex(v["nonce"]), unhex(v["server_nonce"])
    claim, grant, doc = unhex(v["claim"]), unhex(v["grant"]), unhex(v["doc"])
    thing_id, credential_id = v["thing_id"], v["credential_id"]
    assert keys.session_id(key, v["serial"], v["boot_count"], unhex(v["random"])) == session
    made = keys.server_nonce(unhex(v["nonce_key"]), session, v["group_id"], v["serial"], nonce, v["minute"])
    assert made == unhex(v["made_server_nonce"])
    assert keys.activate_proof(key, session, server_nonce, claim) == unhex(v["proof"])
    assert ids.credential_id(session, server_nonce, claim) == credential_id
    assert keys.activated_proof(key, session, server_nonce, claim, grant) == unhex(v["server_proof"])
    assert keys.api_key(key, nonce, server_nonce, thing_id, credential_id) == v["api_key"]
    assert keys.rekey(key, nonce, server_nonce, thing_id, credential_id) == unhex(v["rekey"])
    assert keys.desired_mac(key, thing_id, credential_id, doc) == unhex(v["desired_mac"])


def check_ids(vectors):
    v = vectors["version"]
    fields = (v["product"], v["hardware"], v["name"], v["seq"], v["image_id"], v["size"])
    assert ids.image_message(*fields) == unhex(v["message"])
    assert ids.version_id(*fields) == v["version_id"]
    i = vectors["item"]
    needs = manifest.needs_text([(name, lowest) for name, lowest in i["needs"]])
    made = ids.item_message(i["product"], i["name"], i["kind"], i["version"], i["size"], i["sha256"], needs)
    assert made == unhex(i["message"])
    key = vectors["release_key"]
    assert ids.release_key_id(unhex(key["public_key"])) == key["key_id"]
    assert ids.endorsement_message(unhex(key["public_key"])) == unhex(key["endorsement_message"])
    return 2


def check_frames(vectors):
    for case in vectors["good"]:
        parts = (case["stream"], case["index"], unhex(case["prefix"]), unhex(case["data"]), case["last"])
        assert frames.encode_chunk(*parts) == unhex(case["frame"]), case["name"]
        assert frames.decode_chunk(unhex(case["frame"])) == parts, case["name"]
    for case in vectors["bad"]:
        try:
            frames.decode_chunk(unhex(case["frame"]))
        except frames.FrameError:
            continue
        raise AssertionError(case["name"])
    flags = vectors["unknown_flags"]
    assert frames.decode_chunk(unhex(flags["frame"]))[4] is flags["last"]
    for case in vectors["bitmaps"]:
        assert frames.bitmap(case["first"], case["indexes"]) == unhex(case["bits"]), case
        assert frames.bitmap_indexes(case["first"], unhex(case["bits"])) == case["indexes"], case
    for case in vectors["images"]:
        assert frames.chunk_count(case["size"], case["chunk_size"]) == case["count"], case
        assert frames.chunk_length(case["count"] - 1, case["size"], case["chunk_size"]) == case["last_length"], case
    return len(vectors["good"]) + len(vectors["bad"]) + len(vectors["bitmaps"]) + len(vectors["images"]) + 1


def value_of(shown):
    """The value that a vector's JSON stands for."""
    if isinstance(shown, dict):
        if len(shown) == 1 and "bin" in shown:
            return unhex(shown["bin"])
        if len(shown) == 1 and "float" in shown:
            return float(shown["float"])
        return {key: value_of(shown[key]) for key in shown}
    if isinstance(shown, list):
        return [value_of(item) for item in shown]
    return shown


def check_packer(vectors, ordered=True):
    """`ordered`: whether dictionaries keep the order of their keys here."""
    for case in vectors["good"]:
        if "repeat" in case:
            item = value_of(case["repeat"])
            value = (item if isinstance(item, (str, bytes)) else [item]) * case["times"]
            packed = packb(value)
            assert hashlib.sha256(packed).digest() == unhex(case["sha256"]), case
            assert unpackb(packed) == value, case
            continue
        value = value_of(case["value"])
        if ordered or not isinstance(value, dict) or len(value) < 2:
            assert packb(value) == unhex(case["packed"]), case
        assert unpackb(packb(value)) == value, case
        assert unpackb(unhex(case["packed"])) == value, case
    for case in vectors["bad"]:
        try:
            unpackb(unhex(case["packed"]))
        except PackError:
            continue
        raise AssertionError(case["name"])
    return len(vectors["good"]) + len(vectors["bad"])


def read(folder, name):
    with open(folder + "/" + name, encoding="utf-8") as file:  # noqa: PTH123  MicroPython has no pathlib
        return json.load(file)
