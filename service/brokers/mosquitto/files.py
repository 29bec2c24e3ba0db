"""Whole files or none: a broker never reads half of what we write, whatever dies in between."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

LOCKED_S = 10.0  # how long one writer waits for another
_LOOK_S = 0.02


@contextlib.contextmanager
def alone(directory: Path, owner: str | None = None) -> Iterator[None]:
    """One writer of an environment's files at a time, of whatever process: all Mosquittos render before their start."""
    lock = _lock(directory, owner)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


@contextlib.asynccontextmanager
async def alone_soon(directory: Path, owner: str | None = None) -> AsyncIterator[None]:
    """As `alone`, for the event loop. Raises TimeoutError after 10 s, OSError."""
    lock = _lock(directory, owner)
    try:
        async with asyncio.timeout(LOCKED_S):
            while not _taken(lock):  # noqa: ASYNC110 - another process has it
                await asyncio.sleep(_LOOK_S)
        yield
    finally:
        os.close(lock)


def write_whole(path: Path, data: bytes, *, mode: int = 0o600, owner: str | None = None) -> None:
    """Replace `path` by `data`: temporary file, fsync, rename, fsync of the folder. Raises OSError.

    `owner` is given the file when this process is root and such a user exists.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if owner is not None and os.geteuid() == 0:
            shutil.chown(temporary, owner)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _lock(directory: Path, owner: str | None) -> int:
    path = directory / ".lock"
    descriptor = os.open(path, os.O_RDONLY | os.O_CREAT, 0o644)
    if owner is not None and os.geteuid() == 0:
        shutil.chown(path, owner)
    return descriptor


def _taken(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
