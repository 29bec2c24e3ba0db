"""One command at a time changes a key file: it reads it, makes new keys, and writes it, perhaps more than once.

Owns the lock, which is on the file's folder and goes with the process. Of two rotations at once the second would write
over the first one's key, under which secrets are sealed already.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from service.credentials.keyfile import KeyFileError


@contextlib.contextmanager
def changing(path: Path) -> Iterator[None]:
    """Nobody else changes this key file meanwhile. Raises KeyFileError: somebody does."""
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise KeyFileError(f"{path.name} is missing; run `firstlight init`") from error
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise KeyFileError("another command is changing the keys; wait until it has ended") from error
        yield
    finally:
        os.close(folder)
