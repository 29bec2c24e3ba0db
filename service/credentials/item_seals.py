"""Secret items of a manifest, sealed for one device: AES-256-GCM under a key made of K, name and version.

Owns the sealed form, whole and by ranges. The same secret is sealed alike for a device however often, so nothing that is
sealed is kept: a secret that is an image of its own is encrypted range by range as it is streamed, and only its digest
and tag are remembered. Source: docs/protocol.md, section 9.4; NIST SP 800-38D.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR

from device_sdk.wire import keys
from service.credentials.proofs import hmac_sha256
from service.domain.manifest import Item
from service.errors import Secret

MAX_KNOWN = 16384  # digests and tags, about 200 bytes each
NONCE_BYTES = 12
TAG_BYTES = 16
_BLOCK_BYTES = 16
_FIRST_COUNTER = 2  # of the first block of text, where a nonce has 12 bytes: 1 is the tag's


@dataclass(frozen=True, slots=True)
class SealedImage:
    """A secret as one device downloads it: nonce, ciphertext, tag. Read it as an open image; it has no file."""

    image_id: str  # SHA-256 of all of it, 64 hex
    size: int
    nonce: bytes
    tag: bytes
    key: Secret
    secret: Secret

    def read(self, offset: int, length: int) -> bytes:
        """The bytes from `offset` on: `length` of them, fewer only at the end."""
        end = min(offset + length, self.size)
        body_end = self.size - TAG_BYTES
        parts = [self.nonce[offset : min(end, NONCE_BYTES)]]
        if offset < body_end and end > NONCE_BYTES:
            parts.append(self._body(max(offset, NONCE_BYTES) - NONCE_BYTES, min(end, body_end) - NONCE_BYTES))
        if end > body_end:
            parts.append(self.tag[max(offset - body_end, 0) : end - body_end])
        return b"".join(parts)

    def _body(self, start: int, end: int) -> bytes:
        """Ciphertext of these bytes of the secret."""
        block, within = divmod(start, _BLOCK_BYTES)
        counter = self.nonce + (_FIRST_COUNTER + block).to_bytes(4, "big")
        encryptor = Cipher(AES256(self.key.reveal()), CTR(counter)).encryptor()
        encryptor.update(bytes(within))
        return encryptor.update(self.secret.reveal()[start:end])

    def close(self) -> None:
        """There is nothing to close."""


class ItemSeals:
    """Seals for any device; remembers digests and tags of large secrets, those used last."""

    def __init__(self, bound: int = MAX_KNOWN) -> None:
        self._bound = bound
        self._known: OrderedDict[bytes, tuple[str, bytes]] = OrderedDict()

    def whole(self, device_key: Secret, item: Item) -> bytes:
        """Nonce, ciphertext and tag of an item that has a secret."""
        key, nonce, secret = _parts(device_key, item)
        return nonce + AESGCM(key).encrypt(nonce, secret.reveal(), None)

    def image(self, device_key: Secret, item: Item) -> SealedImage:
        """The same as an image, which is not kept."""
        key, nonce, secret = _parts(device_key, item)
        name = hashlib.sha256(key + nonce).digest()
        found = self._known.get(name)
        if found is None:
            sealed = self.whole(device_key, item)
            found = hashlib.sha256(sealed).hexdigest(), sealed[-TAG_BYTES:]
            self._known[name] = found
            if len(self._known) > self._bound:
                self._known.popitem(last=False)
        self._known.move_to_end(name)
        return SealedImage(found[0], NONCE_BYTES + item.size + TAG_BYTES, nonce, found[1], Secret(key), secret)


def _parts(device_key: Secret, item: Item) -> tuple[bytes, bytes, Secret]:
    assert item.secret is not None
    key = keys.item_key(device_key.reveal(), item.name, item.version, hmac_sha256)
    return key, keys.item_nonce(key, bytes.fromhex(item.sha256), hmac_sha256), item.secret
