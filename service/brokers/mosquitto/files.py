"""Whole files or none: a broker never reads half of what we write, whatever dies in between."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

from service.whole_files import write_whole

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


def write_for(owner: str | None, path: Path, data: bytes) -> None:
    """Replace `path` by `data`, whole or not at all, mode 0600. Raises OSError.

    `owner` is given the file when this process is root and such a user exists.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, data, prepare=partial(_give, owner))


def _give(owner: str | None, file: int | Path) -> None:
    if owner is not None and os.geteuid() == 0:
        shutil.chown(file, owner)


def _lock(directory: Path, owner: str | None) -> int:
    path = directory / ".lock"
    descriptor = os.open(path, os.O_RDONLY | os.O_CREAT, 0o644)
    _give(owner, path)
    return descriptor


def _taken(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
