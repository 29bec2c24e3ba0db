"""Image bytes on disk, named by their SHA-256.

Owns the folder images/<first 2 hex>/<image_id>. An image appears whole and flushed to disk or not at all, is never
changed, and is read by pages: nothing here holds more than one page in memory, whatever the size of an image.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from device_sdk.wire import ids
from service.errors import ServiceError
from service.whole_files import flush_folder

PAGE_BYTES = 1024 * 1024
PREFIX_CHARS = 16  # a chunk names its image by the first 8 bytes of the digest
LEFT_AFTER_S = 24 * 3600.0  # nobody writes to an unfinished image for so long
_INCOMING = "incoming"


@dataclass(frozen=True, slots=True)
class Stored:
    image_id: str
    size: int


class Image:
    """One open image. `read` may be called from any thread; close it, or use it as a context manager."""

    __slots__ = ("_descriptor", "image_id", "size")

    def __init__(self, image_id: str, path: Path) -> None:
        self.image_id = image_id
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.size = os.fstat(self._descriptor).st_size

    def read(self, offset: int, length: int) -> bytes:
        """The bytes from `offset` on: `length` of them, fewer only at the end. Raises OSError."""
        parts = []
        while length > 0:
            part = os.pread(self._descriptor, length, offset)
            if not part:
                break
            parts.append(part)
            offset += len(part)
            length -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        """Twice is as good as once."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class ImageFiles:
    """The images folder of one data directory; it is made when the first image comes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def put(self, pages: Iterable[bytes], *, expected: str | None = None) -> Stored:
        """Store an image from its pages, in a thread; the same bytes again change nothing. See `store`."""
        return await asyncio.to_thread(self.store, pages, expected=expected)

    def store(self, pages: Iterable[bytes], *, expected: str | None = None) -> Stored:
        """Store an image from its pages and return its id and size.

        1. hash while writing, 2. compare with `expected`, 3. refuse the prefix of another image, 4. flush, rename,
        flush the folder. Raises ServiceError: BAD_REQUEST for an empty image or one that is not `expected`, CONFLICT
        where another image begins with the same 8 bytes, UNAVAILABLE where the disk does not take it.
        """
        try:
            incoming = self._folder / _INCOMING
            incoming.mkdir(parents=True, exist_ok=True)
            _sweep(incoming)
            handle, name = tempfile.mkstemp(dir=incoming)
            try:
                with os.fdopen(handle, "wb", buffering=0) as file:
                    stored = _copy(pages, file.fileno())
                    _check(stored, expected)
                    self._check_prefix(stored.image_id)
                    os.fsync(file.fileno())
                self._publish(Path(name), stored.image_id)
            finally:
                with suppress(FileNotFoundError):
                    Path(name).unlink()
        except OSError as error:
            raise ServiceError(
                "UNAVAILABLE",
                "the image cannot be stored now",
                cause="image_storage",
                detail=str(error),
                retry_after_s=15,
            ) from error
        return stored

    def open(self, image_id: str) -> Image:
        """Open a stored image. Raises ServiceError IMAGE_UNKNOWN."""
        path = self.path(image_id)
        try:
            return Image(image_id, path)
        except OSError as error:
            raise ServiceError(
                "IMAGE_UNKNOWN", "no such image", cause="image_file_missing", detail=f"{image_id}: {error.strerror}"
            ) from error

    def verify(self, image_id: str) -> int:
        """Read the whole image and compare its hash with its name; returns its size. Raises ServiceError."""
        digest = hashlib.sha256()
        with self.open(image_id) as image:
            for offset in range(0, image.size, PAGE_BYTES):
                digest.update(image.read(offset, PAGE_BYTES))
            if digest.hexdigest() != image_id:
                raise ServiceError("IMAGE_UNKNOWN", "the image is damaged", cause="image_damaged", detail=image_id)
            return image.size

    def remove(self, image_id: str) -> None:
        """Remove an image that no version names; none is no error."""
        with suppress(FileNotFoundError):
            self.path(image_id).unlink()

    def stored(self) -> Iterator[str]:
        """Ids of all stored images, in order."""
        for folder in sorted(self._folder.glob("[0-9a-f][0-9a-f]")):
            yield from sorted(one.name for one in folder.iterdir() if ids.is_image_id(one.name))

    def path(self, image_id: str) -> Path:
        """Where an image is or would be. Raises ValueError for what is not an image id."""
        if not ids.is_image_id(image_id):
            raise ValueError("not an image id")
        return self._folder / image_id[:2] / image_id

    def _check_prefix(self, image_id: str) -> None:
        folder = self._folder / image_id[:2]
        for one in folder.glob(f"{image_id[:PREFIX_CHARS]}*"):
            if one.name != image_id:
                raise ServiceError(
                    "CONFLICT",
                    "another image begins with the same 8 bytes; change the image by a byte",
                    cause="image_prefix_taken",
                    detail=f"{image_id} and {one.name}",
                )

    def _publish(self, incoming: Path, image_id: str) -> None:
        path = self.path(image_id)
        path.parent.mkdir(exist_ok=True)
        incoming.chmod(0o640)
        incoming.replace(path)  # the same name is the same bytes
        for folder in (path.parent, self._folder):
            flush_folder(folder)


def pages_of(path: Path) -> Iterator[bytes]:
    """A file's bytes by pages, for `put`. Raises OSError."""
    with path.open("rb", buffering=0) as file:
        while page := file.read(PAGE_BYTES):
            yield page


def measure(path: Path) -> Stored:
    """The id and size that a file would have as an image. Raises OSError."""
    digest, size = hashlib.sha256(), 0
    for page in pages_of(path):
        digest.update(page)
        size += len(page)
    return Stored(digest.hexdigest(), size)


def _sweep(incoming: Path) -> None:
    """Remove what a process that died has left; one that still writes touches its file."""
    for left in incoming.iterdir():
        with suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > LEFT_AFTER_S:
                left.unlink()


def _copy(pages: Iterable[bytes], descriptor: int) -> Stored:
    digest, size = hashlib.sha256(), 0
    for page in pages:
        digest.update(page)
        size += len(page)
        rest = memoryview(page)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
    return Stored(digest.hexdigest(), size)


def _check(stored: Stored, expected: str | None) -> None:
    if stored.size < 1:
        raise ServiceError("BAD_REQUEST", "an image has at least one byte", cause="image_empty")
    if expected is not None and stored.image_id != expected:
        raise ServiceError(
            "BAD_REQUEST",
            "the image's bytes are not what was signed",
            cause="image_mismatch",
            detail=f"expected {expected}, got {stored.image_id}",
        )
