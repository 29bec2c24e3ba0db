"""The service's own keys in one file of mode 0600, and the sealer that encrypts secrets at rest with them.

Owns the file's format, its checks and its rotation. Must not log or show a key. Storage seals with it; the pipeline
takes nonce keys and the service key from it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from device_sdk.wire import codes
from service.errors import Secret, ServiceError
from service.whole_files import write_whole

KEY_BYTES = 32
KID_CHARS = 8
NONCE_BYTES = 12

RandomBytes = Callable[[int], bytes]


class KeyFileError(Exception):
    """The key file is missing, open to others, damaged or holds a known key; the service must not start."""


class SealError(ServiceError):
    """A sealed value was not made by us for its place, or its key is gone. Code INTERNAL."""

    def __init__(self, detail: str) -> None:
        super().__init__(codes.INTERNAL, "internal error", cause="seal_broken", detail=detail)


class Sealer:
    """AES-256-GCM under named keys: seals with the current one, opens with any.

    A sealed value is the key's id (8 ASCII characters), a 12-byte nonce and the ciphertext with its tag. `aad` names
    the place (table, column, row), so that a value moved elsewhere does not open.
    """

    __slots__ = ("_ciphers", "_current", "_label_keys", "_random")

    def __init__(
        self,
        current: str,
        keys: dict[str, Secret],
        *,
        label_key: Secret | None = None,
        old_label_keys: Sequence[Secret] = (),
        random_bytes: RandomBytes = os.urandom,
    ) -> None:
        if current not in keys:
            raise KeyFileError("the current sealing key is not in the file")
        self._current = current
        self._ciphers = {kid: AESGCM(key.reveal()) for kid, key in keys.items()}
        self._random = random_bytes
        self._label_keys = () if label_key is None else (label_key, *old_label_keys)

    @property
    def label_key(self) -> Secret:
        """What signs the installation's labels."""
        return self.label_keys[0]

    @property
    def label_keys(self) -> tuple[Secret, ...]:
        """That one, and those before it whose labels are still good."""
        if not self._label_keys:
            raise SealError("this database was opened without the key of labels")
        return self._label_keys

    @property
    def current_kid(self) -> str:
        """The id of the key that new values are sealed with."""
        return self._current

    def seal(self, plaintext: bytes, aad: bytes) -> bytes:
        nonce = self._random(NONCE_BYTES)
        return self._current.encode("ascii") + nonce + self._ciphers[self._current].encrypt(nonce, plaintext, aad)

    def open(self, sealed: bytes, aad: bytes) -> bytes:
        """The plaintext. Raises SealError for an unknown key id, a wrong place or damaged bytes."""
        kid = kid_of(sealed)
        cipher = self._ciphers.get(kid)
        if cipher is None:
            raise SealError("sealed under a key that this file does not hold")
        try:
            return cipher.decrypt(sealed[KID_CHARS : KID_CHARS + NONCE_BYTES], sealed[KID_CHARS + NONCE_BYTES :], aad)
        except (InvalidTag, ValueError) as error:
            raise SealError("sealed value does not open here") from error


def kid_of(sealed: bytes) -> str:
    """Which key a value was sealed under (so that a rotation finds what is left to do)."""
    return sealed[:KID_CHARS].decode("ascii", "replace")


@dataclass(frozen=True, slots=True)
class OldLabelKey:
    key: Secret
    until: datetime  # when the last of its labels expires


@dataclass(frozen=True, slots=True)
class KeyFile:
    """The keys of one data directory. `nonce_previous` is None until the first rotation.

    `service_next` is announced to devices and takes the place of `service_key` later; `service_rolled`: that has
    happened before. `label_current` is None as long as labels are signed by a key made from the service key.
    """

    seal_current: str
    seal_keys: dict[str, Secret]
    nonce_current: Secret
    nonce_previous: Secret | None
    service_key: Secret  # Ed25519, raw private bytes
    service_next: Secret | None = None
    service_rolled: bool = False
    label_current: Secret | None = None
    label_previous: tuple[OldLabelKey, ...] = ()

    @classmethod
    def create(cls, path: Path, *, random_bytes: RandomBytes = os.urandom) -> KeyFile:
        """Make new keys and write the file. Raises KeyFileError when there is one already."""
        if path.exists():
            raise KeyFileError(f"{path.name} exists already; it is not replaced")
        seal = Secret(random_bytes(KEY_BYTES))
        kid = _kid(seal)
        made = cls(
            seal_current=kid,
            seal_keys={kid: seal},
            nonce_current=Secret(random_bytes(KEY_BYTES)),
            nonce_previous=None,
            service_key=Secret(random_bytes(KEY_BYTES)),
        )
        made.check()
        made.write(path)
        return made

    @classmethod
    def load(cls, path: Path) -> KeyFile:
        """Read and check the file. Raises KeyFileError with what to do about it."""
        # 1. Only the owner may have had a look at it. Checked on the open file, so that it is not swapped in between.
        text = _read_private(path)
        # 2. Its form.
        try:
            loaded = _from_json(json.loads(text))
        except (ValueError, KeyError, TypeError, AttributeError, binascii.Error) as error:
            raise KeyFileError(f"{path.name} is damaged; restore it from a backup") from error
        # 3. No key that others know.
        loaded.check()
        return loaded

    def check(self) -> None:
        """Refuse wrong lengths, repeated keys and keys that everyone knows. Raises KeyFileError."""
        keys = [*self.seal_keys.values(), self.nonce_current, self.service_key]
        keys += [one for one in (self.nonce_previous, self.service_next, self.label_current) if one is not None]
        keys += [one.key for one in self.label_previous]
        for key in keys:
            raw = key.reveal()
            if len(raw) != KEY_BYTES:
                raise KeyFileError("a key has the wrong length")
            if _is_known(raw):
                raise KeyFileError("a key is a known or default one; make a new key file")
        if len({key.reveal() for key in keys}) != len(keys):
            raise KeyFileError("two keys are the same; make a new key file")
        if self.seal_current not in self.seal_keys or any(_kid(key) != kid for kid, key in self.seal_keys.items()):
            raise KeyFileError("a key does not fit its id")

    def write(self, path: Path) -> None:
        """Replace the file atomically, mode 0600 and the owner that it had, flushed to disk with its directory."""
        path.parent.mkdir(parents=True, exist_ok=True)
        data = json.dumps(self._to_json(), indent=2).encode("ascii") + b"\n"
        write_whole(path, data, prepare=partial(_give_to_owner, path=path))

    def rotate_seal(self, *, random_bytes: RandomBytes = os.urandom) -> KeyFile:
        """With a new current sealing key; the old ones still open what they sealed. Call write() with the result."""
        key = Secret(random_bytes(KEY_BYTES))
        return replace(self, seal_current=_kid(key), seal_keys={**self.seal_keys, _kid(key): key})

    def retire_seal_keys(self) -> KeyFile:
        """Without the sealing keys that are not current; only after every value has been sealed again."""
        return replace(self, seal_keys={self.seal_current: self.seal_keys[self.seal_current]})

    def rotate_nonce(self, *, random_bytes: RandomBytes = os.urandom) -> KeyFile:
        """With a new nonce key; the present one becomes the previous one and is accepted until the next rotation."""
        return replace(self, nonce_current=Secret(random_bytes(KEY_BYTES)), nonce_previous=self.nonce_current)

    def rotate(self, *, random_bytes: RandomBytes = os.urandom) -> KeyFile:
        """Both rotations. The service key stays, because devices hold its public part."""
        return self.rotate_seal(random_bytes=random_bytes).rotate_nonce(random_bytes=random_bytes)

    def announce_service_key(self, *, random_bytes: RandomBytes = os.urandom) -> KeyFile:
        """With the key that is to follow the service key; the service goes on proving with the present one."""
        return replace(self, service_next=Secret(random_bytes(KEY_BYTES)))

    def use_next_service_key(self) -> KeyFile:
        """With the announced service key in place of the present one, which is gone; labels stay good."""
        if self.service_next is None:
            raise KeyFileError("no service key was announced")
        label = self.label_key()
        return replace(self, service_key=self.service_next, service_next=None, service_rolled=True, label_current=label)

    def rotate_labels(self, until: datetime, now: datetime, *, random_bytes: RandomBytes = os.urandom) -> KeyFile:
        """With a new key for labels; the present one is good until its last label expires (`until`)."""
        previous = (OldLabelKey(self.label_key(), until), *self.label_previous)
        kept = tuple(one for one in previous if one.until > now)
        return replace(self, label_current=Secret(random_bytes(KEY_BYTES)), label_previous=kept)

    def sealer(self) -> Sealer:
        older = [one.key for one in self.label_previous]
        return Sealer(self.seal_current, self.seal_keys, label_key=self.label_key(), old_label_keys=older)

    def label_key(self) -> Secret:
        """The key that signs labels and does nothing else; made from the service key until it is rotated."""
        if self.label_current is not None:
            return self.label_current
        derived = HKDF(SHA256(), KEY_BYTES, salt=None, info=b"firstlight label key").derive(self.service_key.reveal())
        return Secret(derived)

    def nonce_keys(self) -> tuple[Secret, ...]:
        """The current key and, after a rotation, the previous one."""
        return (self.nonce_current,) if self.nonce_previous is None else (self.nonce_current, self.nonce_previous)

    def mark(self) -> int:
        """32 bits that differ for every other set of keys in use; sealing keys of before do not matter."""
        words = self._to_json()
        del words["seal"]["keys"]
        text = json.dumps(words, sort_keys=True).encode("ascii")
        return int.from_bytes(hashlib.sha256(b"firstlight key file mark" + text).digest()[:4], "big")

    def follows(self, before: KeyFile) -> bool:
        """Whether commands of ours made it of that one: the same service key, or the one that was announced."""
        return self.service_key in (before.service_key, before.service_next)

    def service_private_key(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self.service_key.reveal())

    def service_public_key(self) -> bytes:
        """32 raw bytes, as `public_key` devices hold it."""
        return _public(self.service_key)

    def told_service_keys(self) -> tuple[bytes, ...]:
        """The public keys that devices of kind `public_key` are told to trust; none before the first exchange."""
        if self.service_next is not None:
            return (_public(self.service_key), _public(self.service_next))
        return (_public(self.service_key),) if self.service_rolled else ()

    def secrets(self) -> list[Secret]:
        """Every key, for a log that must show none."""
        found = [*self.seal_keys.values(), *self.nonce_keys(), self.service_key, self.label_key()]
        found += [one for one in (self.service_next,) if one is not None]
        return found + [one.key for one in self.label_previous]

    def _to_json(self) -> dict[str, Any]:
        found = self._first_keys()
        # As it was before there was anything else to say, so that an older version reads what it knows.
        if self.service_next is not None or self.service_rolled:
            following = None if self.service_next is None else _b64(self.service_next)
            found["service"] = {"next": following, "rolled": self.service_rolled}
        if self.label_current is not None:
            found["label"] = {
                "current": _b64(self.label_current),
                "previous": [{"key": _b64(one.key), "until": one.until.isoformat()} for one in self.label_previous],
            }
        return found

    def _first_keys(self) -> dict[str, Any]:
        return {
            "seal": {"current": self.seal_current, "keys": {kid: _b64(key) for kid, key in self.seal_keys.items()}},
            "nonce": {
                "current": _b64(self.nonce_current),
                "previous": None if self.nonce_previous is None else _b64(self.nonce_previous),
            },
            "service_key": _b64(self.service_key),
        }


def _from_json(data: Any) -> KeyFile:
    previous = data["nonce"]["previous"]
    service, label = data.get("service", {}), data.get("label", {})
    return KeyFile(
        seal_current=data["seal"]["current"],
        seal_keys={kid: _key(text) for kid, text in data["seal"]["keys"].items()},
        nonce_current=_key(data["nonce"]["current"]),
        nonce_previous=None if previous is None else _key(previous),
        service_key=_key(data["service_key"]),
        service_next=_optional(service.get("next")),
        service_rolled=bool(service.get("rolled", False)),
        label_current=_optional(label.get("current")),
        label_previous=tuple(
            OldLabelKey(_key(one["key"]), datetime.fromisoformat(one["until"])) for one in label.get("previous", [])
        ),
    )


def _give_to_owner(handle: int, path: Path) -> None:
    """The service still reads what root has rotated."""
    try:
        owner = path.stat()
    except FileNotFoundError:
        return
    if (owner.st_uid, owner.st_gid) != (os.geteuid(), os.getegid()) and os.geteuid() == 0:
        os.fchown(handle, owner.st_uid, owner.st_gid)


def _read_private(path: Path) -> str:
    try:
        with path.open(encoding="ascii") as file:
            found = os.fstat(file.fileno())
            if stat.S_IMODE(found.st_mode) & 0o077:
                raise KeyFileError(f"{path.name} can be read by others; make new keys, or chmod 600 if nobody has")
            return file.read()
    except FileNotFoundError as error:
        raise KeyFileError(f"{path.name} is missing; run `firstlight init`") from error
    except (OSError, UnicodeDecodeError) as error:
        raise KeyFileError(f"{path.name} cannot be read") from error


def _kid(key: Secret) -> str:
    """8 hex characters computed from the key, so that an id never names two keys."""
    return hashlib.sha256(b"firstlight seal key id" + key.reveal()).hexdigest()[:KID_CHARS]


def _is_known(raw: bytes) -> bool:
    """Whether a key is one byte repeated, a plain count, or a word repeated or padded with zeros: never from a generator."""
    few_values = len(set(raw)) < 8
    counting = len({(b - a) % 256 for a, b in pairwise(raw)}) == 1
    printable = all(0x20 <= b <= 0x7E for b in raw.rstrip(b"\0"))
    return few_values or counting or printable


def _b64(key: Secret) -> str:
    return base64.b64encode(key.reveal()).decode("ascii")


def _optional(text: str | None) -> Secret | None:
    return None if text is None else _key(text)


def _public(key: Secret) -> bytes:
    private = Ed25519PrivateKey.from_private_bytes(key.reveal())
    return private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def _key(text: str) -> Secret:
    return Secret(base64.b64decode(text, validate=True))
