"""Files that are there whole or not at all, and on the disk when the call returns, whatever dies in between.

Owns how that is done: a temporary file beside, fsync, its name, fsync of the folder. Knows nothing of what is written.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

AS_UMASK = 0o666  # for what others may read, as far as the user's umask has it


def write_whole(
    path: Path, data: bytes, *, mode: int = 0o600, prepare: Callable[[int], None] = lambda _descriptor: None
) -> None:
    """Replace the file, or make it. `prepare` gets the descriptor before the file has its name. Raises OSError."""
    with _written(path, data, mode, prepare) as temporary:
        temporary.replace(path)


def create_whole(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Make a file that was not there before. Raises FileExistsError: it was; OSError."""
    with _written(path, data, mode, lambda _descriptor: None) as temporary:
        try:
            os.link(temporary, path)
        except FileExistsError:
            raise
        except OSError as error:  # a memory stick has no links
            if path.exists():
                raise FileExistsError(path) from error
            temporary.rename(path)


def flush_folder(path: Path) -> None:
    """What was renamed or deleted in it stays so. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _written(path: Path, data: bytes, mode: int, prepare: Callable[[int], None]) -> Iterator[Path]:
    """A file beside, never open to others for a moment; gone afterwards, unless it has got its name."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            prepare(file.fileno())
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)
    flush_folder(path.parent)
