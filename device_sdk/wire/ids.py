"""Which names are legal, and the ids that both sides compute.

Owns the character rules of section 1 and the computed ids (credential, version, release key); makes no random id.
Source: docs/protocol.md, section "Identities, keys, bytes". Runs on MicroPython.
"""

import hashlib

from device_sdk.wire import limits
from device_sdk.wire.canon import canon

_NAME = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"
_GROUP = frozenset(_NAME)
_SERIAL = frozenset(_NAME + ":")
_HEX = frozenset("0123456789abcdef")
_VERB = frozenset("abcdefghijklmnopqrstuvwxyz")


def is_group_id(text: str) -> bool:
    return 1 <= len(text) <= limits.MAX_GROUP_ID_CHARS and _only(text, _GROUP)


def is_serial(text: str) -> bool:
    return 1 <= len(text) <= limits.MAX_SERIAL_CHARS and _only(text, _SERIAL)


def is_hex_id(text: str) -> bool:
    """Whether it is 32 lower-case hex: a session, thing, credential or version."""
    return len(text) == limits.ID_HEX_CHARS and _only(text, _HEX)


def is_image_id(text: str) -> bool:
    return len(text) == limits.IMAGE_ID_HEX_CHARS and _only(text, _HEX)


def is_item_name(text: str) -> bool:
    return 1 <= len(text) <= limits.MAX_ITEM_NAME_CHARS and _only(text, _GROUP)


def is_verb(text: str) -> bool:
    return 1 <= len(text) <= limits.MAX_VERB_CHARS and _only(text, _VERB)


def is_request_id(text: str) -> bool:
    """Whether it is 1-32 printable ASCII characters."""
    return 1 <= len(text) <= limits.MAX_ID_CHARS and all(" " <= c <= "~" for c in text)


def hex_of(raw: bytes) -> str:
    """Lower-case hex (bytes.hex is missing from small MicroPython builds)."""
    return "".join(["%02x" % b for b in raw])


def digest_id(data: bytes) -> str:
    """First 32 hex of SHA-256(data)."""
    return hex_of(hashlib.sha256(data).digest()[:16])


def credential_id(session: str, server_nonce: bytes, claim: bytes) -> str:
    """The id of the credential that this very `activate` asks for: a repeat computes the same one."""
    return digest_id(canon("pv1 credential", session, server_nonce, claim))


def image_message(product: str, hardware: str, name: str, seq: int, image_id: str, size: int) -> bytes:
    """The bytes `m` that a release key signs and a version id is computed from."""
    return canon("pv1 image", product, hardware, name, seq, image_id, size)


def version_id(product: str, hardware: str, name: str, seq: int, image_id: str, size: int) -> str:
    return digest_id(image_message(product, hardware, name, seq, image_id, size))


def item_message(product: str, name: str, kind: str, version: str, size: int, sha256: str, needs: str) -> bytes:
    """The bytes that a release key signs for an item of a manifest. `sha256`: 64 hex; `needs`: manifest.needs_text."""
    return canon("pv1 item", product, name, kind, version, size, sha256, needs)


def release_key_id(public_key: bytes) -> str:
    """The id of an Ed25519 release key, from its 32 raw public bytes."""
    return digest_id(canon("pv1 release-key", public_key))


def endorsement_message(public_key: bytes) -> bytes:
    """The bytes that a release key signs to vouch for another one, given by its 32 raw public bytes."""
    return canon("pv1 endorse", public_key)


def _only(text: str, allowed: "frozenset[str]") -> bool:
    return allowed.issuperset(text)
