"""Every derivation and proof of protocol version 1: what device and service must compute alike.

Owns the list of items under each label, once for both sides. Keeps no key, reads no clock, makes no randomness. Each
`*_message` gives the canonical bytes; the function beside it takes the HMAC over them. Who holds a faster HMAC passes it
as `hmac` (a function of key and data giving 32 bytes); a public-key device signs the `*_message` instead.
Source: docs/protocol.md, sections "Identities, keys, bytes", "Activation" and "Desired state"; RFC 2104; RFC 5869.
Runs on MicroPython.
"""

import hashlib

from device_sdk.wire.canon import canon
from device_sdk.wire.ids import hex_of

TYPE_CHECKING = False  # a checker takes it for typing's, which MicroPython lacks
if TYPE_CHECKING:
    from collections.abc import Callable

    Hmac = Callable[[bytes, bytes], bytes]

_BLOCK = 64
_API_KEY_BYTES = 32
_DEVICE_KEY_BYTES = 32


def hmac_sha256(key: bytes, data: bytes) -> bytes:
    """HMAC-SHA256, 32 bytes. Source: RFC 2104."""
    if len(key) > _BLOCK:
        key = hashlib.sha256(key).digest()
    key = bytes(key) + bytes(_BLOCK - len(key))
    inner = hashlib.sha256(bytes([b ^ 0x36 for b in key]))
    inner.update(data)
    outer = hashlib.sha256(bytes([b ^ 0x5C for b in key]))
    outer.update(inner.digest())
    return outer.digest()


def hkdf_sha256(ikm: bytes, salt: bytes, info: bytes, length: int, hmac: "Hmac" = hmac_sha256) -> bytes:
    """HKDF with SHA-256, extract and expand, `length` 1..8160 bytes. Source: RFC 5869."""
    if not 1 <= length <= 255 * 32:
        raise ValueError("HKDF gives 1..8160 bytes")
    prk = hmac(salt if salt else bytes(32), ikm)
    out = b""
    block = b""
    number = 0
    while len(out) < length:
        number += 1
        block = hmac(prk, block + info + bytes([number]))
        out += block
    return out[:length]


def same(left: bytes, right: bytes) -> bool:
    """Whether two byte strings are equal, in a time that does not depend on where they differ."""
    if len(left) != len(right):
        return False
    difference = 0
    for a, b in zip(left, right):
        difference |= a ^ b
    return difference == 0


def derive_key(group_secret: bytes, serial: str, hmac: "Hmac" = hmac_sha256) -> bytes:
    """K of a device in a group of kind `derived` or `group`: the derivation that Azure DPS uses."""
    return hmac(group_secret, serial.encode("utf-8"))


def session_message(serial: str, boot_count: int, random16: bytes) -> bytes:
    return canon("pv1 session", serial, boot_count, random16)


def session_of(mac: bytes) -> str:
    """The session id that a MAC (or signature) over session_message stands for: 32 hex."""
    return hex_of(mac[:16])


def session_id(key: bytes, serial: str, boot_count: int, random16: bytes, hmac: "Hmac" = hmac_sha256) -> str:
    """A new bootstrap session, 32 hex: unguessable from outside even where `random16` is poor."""
    return session_of(hmac(key, session_message(serial, boot_count, random16)))


def server_nonce(
    nonce_key: bytes, session: str, group_id: str, serial: str, nonce: bytes, minute: int, hmac: "Hmac" = hmac_sha256
) -> bytes:
    """The service's nonce (16 bytes) for a hello in `minute` (whole minutes since the epoch)."""
    return hmac(nonce_key, canon("pv1 server-nonce", session, group_id, serial, nonce, minute))[:16]


def api_key(
    key: bytes, nonce: bytes, server_nonce: bytes, thing_id: str, credential_id: str, hmac: "Hmac" = hmac_sha256
) -> str:
    """The 64 hex characters a device logs in with; both sides compute it and it never crosses the wire."""
    info = canon("pv1 api-key", thing_id, credential_id)
    return hex_of(hkdf_sha256(key, nonce + server_nonce, info, _API_KEY_BYTES, hmac))


def activate_message(session: str, server_nonce: bytes, claim: bytes) -> bytes:
    return canon("pv1 activate", session, server_nonce, claim)


def activate_proof(key: bytes, session: str, server_nonce: bytes, claim: bytes, hmac: "Hmac" = hmac_sha256) -> bytes:
    """The device's proof over the exact bytes of its claim."""
    return hmac(key, activate_message(session, server_nonce, claim))


def activated_message(session: str, server_nonce: bytes, claim: bytes, grant: bytes) -> bytes:
    return canon("pv1 activated", session, server_nonce, hashlib.sha256(claim).digest(), grant)


def activated_proof(
    key: bytes, session: str, server_nonce: bytes, claim: bytes, grant: bytes, hmac: "Hmac" = hmac_sha256
) -> bytes:
    """The service's proof (`server_proof`) over the exact bytes of its grant."""
    return hmac(key, activated_message(session, server_nonce, claim, grant))


def http_activate_message(session: str, server_nonce: bytes, claim: bytes) -> bytes:
    """What a device proves over HTTP, where the reply has the API key: an `activate` seen at a broker is no such proof."""
    return canon("pv1 http activate", session, server_nonce, claim)


def http_activated_message(session: str, server_nonce: bytes, claim: bytes, grant: bytes) -> bytes:
    return canon("pv1 http activated", session, server_nonce, hashlib.sha256(claim).digest(), grant)


def rekey(
    key: bytes, nonce: bytes, server_nonce: bytes, thing_id: str, credential_id: str, hmac: "Hmac" = hmac_sha256
) -> bytes:
    """K' after a transfer of ownership: from the first connection with that credential on, in place of K."""
    info = canon("pv1 rekey", thing_id, credential_id)
    return hkdf_sha256(key, nonce + server_nonce, info, _DEVICE_KEY_BYTES, hmac)


def desired_message(thing_id: str, credential_id: str, doc: bytes) -> bytes:
    return canon("pv1 desired", thing_id, credential_id, doc)


def desired_mac(key: bytes, thing_id: str, credential_id: str, doc: bytes, hmac: "Hmac" = hmac_sha256) -> bytes:
    """The mac of a desired document, over its exact bytes."""
    return hmac(key, desired_message(thing_id, credential_id, doc))


def stage_message(session: str, server_nonce: bytes, claim: bytes) -> bytes:
    """What a device proves in the warehouse: a word of its own, so that no `activate` passes for a `stage`."""
    return canon("pv1 stage", session, server_nonce, claim)


def stage_granted_message(session: str, server_nonce: bytes, claim: bytes, grant: bytes) -> bytes:
    return canon("pv1 stage granted", session, server_nonce, hashlib.sha256(claim).digest(), grant)


def manifest_message(thing_id: str, credential_id: str, doc: bytes) -> bytes:
    return canon("pv1 manifest", thing_id, credential_id, doc)


def handshake_message(thing_id: str, credential_id: str, doc: bytes) -> bytes:
    return canon("pv1 handshake", thing_id, credential_id, doc)


def item_key(key: bytes, name: str, version: str, hmac: "Hmac" = hmac_sha256) -> bytes:
    """The AES-256 key that a secret item is sealed with for one device."""
    return hkdf_sha256(key, b"", canon("pv1 sealed item", name, version), _DEVICE_KEY_BYTES, hmac)


def item_nonce(item_key: bytes, sha256: bytes, hmac: "Hmac" = hmac_sha256) -> bytes:
    """The 12 bytes of nonce for a content: the same content is sealed alike, another never under the same nonce."""
    return hmac(item_key, canon("pv1 item nonce", sha256))[:12]
