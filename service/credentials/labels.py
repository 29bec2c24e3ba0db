"""The text of a label: a random code, whom it is for and until when, under this installation's signature.

Owns the text's form and its checks, nothing else: whether a code was used is the database's to know. A label is no
device's proof; whoever holds one may claim a serial for a place, and the device still proves its key when it activates.

    FL1: base32( installation 4 | code 12 | expires 5 | length of group 1 | group | serial | signature 16 )

Upper-case letters, digits and a colon: QR codes hold these most densely. Source: docs/onboarding.md.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from dataclasses import dataclass
from datetime import UTC, datetime

from device_sdk.wire import codes, ids
from service.errors import Secret, ServiceError

PREFIX = "FL1:"
CODE_BYTES = 12  # 96 random bits: nobody guesses one
INSTALLATION_BYTES = 4
SIGNATURE_BYTES = 16
_EXPIRES_BYTES = 5
_HEAD_BYTES = INSTALLATION_BYTES + CODE_BYTES + _EXPIRES_BYTES + 1
MAX_TEXT_CHARS = 400  # the longest group and serial make 373


@dataclass(frozen=True, slots=True)
class LabelText:
    """What stands on a label. `code` is what makes it hard to guess: it is on paper only, never stored."""

    code: Secret
    group_id: str
    serial: str
    expires_at: datetime  # whole seconds

    @property
    def label_id(self) -> str:
        """What the database calls this label: 64 hex, from which the code cannot be found."""
        return hashlib.sha256(b"firstlight label id" + self.code.reveal()).hexdigest()


def encode(label: LabelText, key: Secret) -> str:
    """The text to print. `key`: KeyFile.label_key(). `code` has 12 bytes, group and serial are legal ids."""
    group = label.group_id.encode("ascii")
    body = (
        _installation(key)
        + label.code.reveal()
        + int(label.expires_at.timestamp()).to_bytes(_EXPIRES_BYTES, "big")
        + bytes([len(group)])
        + group
        + label.serial.encode("ascii")
    )
    return PREFIX + base64.b32encode(body + _signature(key, body)).decode("ascii").rstrip("=")


def decode(text: str, *keys: Secret) -> LabelText:
    """What a scanner read; `keys`: those that may have signed it. Blanks around it and small letters do not matter.

    Raises ServiceError BAD_REQUEST: `label_malformed` (no label of ours), `label_foreign` (another installation's),
    `label_altered` (cut, misread or forged). Says nothing of expiry or use.
    """
    raw = _raw(text)
    # 1. Whose label it is: a hint for the reader, proved by the next step.
    key = next((one for one in keys if raw[:INSTALLATION_BYTES] == _installation(one)), None)
    if key is None:
        raise _refused("label_foreign", "this label was made by another installation")
    # 2. Signature, over every byte, before any of them is used.
    body, signature = raw[:-SIGNATURE_BYTES], raw[-SIGNATURE_BYTES:]
    if not hmac.compare_digest(signature, _signature(key, body)):
        raise _refused("label_altered", "this label is damaged or was altered; scan it again")
    # 3. Fields. What we signed has them; a fault here is ours.
    names = body[_HEAD_BYTES:]
    length = body[_HEAD_BYTES - 1]
    group_id, serial = names[:length].decode("ascii"), names[length:].decode("ascii")
    if not ids.is_group_id(group_id) or not ids.is_serial(serial):
        raise _refused("label_malformed", "this is no label of Firstlight's")
    expires = int.from_bytes(body[_HEAD_BYTES - 1 - _EXPIRES_BYTES : _HEAD_BYTES - 1], "big")
    code = body[INSTALLATION_BYTES : INSTALLATION_BYTES + CODE_BYTES]
    return LabelText(Secret(code), group_id, serial, datetime.fromtimestamp(expires, UTC))


def _raw(text: str) -> bytes:
    words = text.strip().upper()
    if len(words) > MAX_TEXT_CHARS or not words.startswith(PREFIX) or not words.isascii():
        raise _refused("label_malformed", f"a label's text begins with {PREFIX}")
    letters = words[len(PREFIX) :]
    try:
        raw = base64.b32decode(letters + "=" * (-len(letters) % 8))
    except (binascii.Error, ValueError) as error:
        raise _refused("label_altered", "this label is damaged or was altered; scan it again") from error
    # One text for one label: no other spelling of the same bytes (unused last bits, padding) is taken.
    if base64.b32encode(raw).decode("ascii").rstrip("=") != letters:
        raise _refused("label_altered", "this label is damaged or was altered; scan it again")
    if len(raw) < _HEAD_BYTES + 2 + SIGNATURE_BYTES:
        raise _refused("label_altered", "this label is cut off; scan it again")
    return raw


def _installation(key: Secret) -> bytes:
    return hashlib.sha256(b"firstlight label installation" + key.reveal()).digest()[:INSTALLATION_BYTES]


def _signature(key: Secret, body: bytes) -> bytes:
    return hmac.digest(key.reveal(), b"pv1 label" + body, "sha256")[:SIGNATURE_BYTES]


def _refused(cause: str, public: str) -> ServiceError:
    return ServiceError(codes.BAD_REQUEST, public, cause=cause)
