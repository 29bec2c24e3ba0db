"""The keys of a process that runs while they are changed: a sealer that follows its key file.

Owns when the file is looked at again. `firstlight keys rotate` puts a new key into the file, flushed to disk, before
anything is sealed under it; so whoever meets a value under a key that he does not know finds that key in the file.
The service key and the key of labels follow in the same way: rotation.py hands them on.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from service.credentials.keyfile import KeyFile, KeyFileError, kid_of
from service.errors import Secret

log = logging.getLogger("firstlight.keys")


class FollowedKeys:
    """Implements Sealer. `look` takes the file over if it has changed; `open` does by itself for an unknown key.

    Raises KeyFileError when there is no file to begin with.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = _mark(path)  # before the file is read: a change in between is seen by the first look
        self.keys = KeyFile.load(path)
        self._sealer = self.keys.sealer()

    @property
    def label_key(self) -> Secret:
        return self._sealer.label_key

    @property
    def label_keys(self) -> tuple[Secret, ...]:
        return self._sealer.label_keys

    def service_private_key(self) -> Ed25519PrivateKey:
        """As it is now: do not keep it."""
        return self.keys.service_private_key()

    def seal(self, plaintext: bytes, aad: bytes) -> bytes:
        return self._sealer.seal(plaintext, aad)

    def open(self, sealed: bytes, aad: bytes) -> bytes:
        """As Sealer.open does."""
        if kid_of(sealed) not in self.keys.seal_keys:
            self.look()
        return self._sealer.open(sealed, aad)

    def look(self) -> bool:
        """Whether the file is another one and its keys are `keys` from now on.

        A file that cannot be read, or that needs a restart, changes nothing; it is said once. Blocks for a small file.
        """
        mark = _mark(self._path)
        if mark == self._seen:
            return False
        try:
            found = KeyFile.load(self._path)
        except KeyFileError as error:
            self._seen = mark
            log.warning("the new key file is not taken over: %s", error)
            return False
        self._seen = mark
        # A file that is no successor of ours is another installation's, or was left behind by two steps of an exchange.
        if not found.follows(self.keys):
            log.warning("the new key file is not taken over: it is not by `firstlight keys`; restart the service")
            return False
        # A key that has left the file stays known: somebody may be reading what was there before.
        found = replace(found, seal_keys=self.keys.seal_keys | found.seal_keys)
        if found == self.keys:
            return False
        self.keys = found
        self._sealer = found.sealer()
        log.info("a changed key file was taken over; secrets are sealed under key %s", found.seal_current)
        return True


def _mark(path: Path) -> tuple[int, int, int] | None:
    """Differs after every replacement of the file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
