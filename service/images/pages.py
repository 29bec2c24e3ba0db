"""Pages of images in a bounded cache that all devices share.

Owns the open files and the memory: never more than `page_cache_bytes`, whatever the number or size of images. Reads in
a thread, so that a slow disk delays no reply.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from contextlib import suppress
from typing import Protocol

from service.errors import ServiceError


class OpenImage(Protocol):
    def read(self, offset: int, length: int) -> bytes:
        """The bytes from `offset` on; may be called from any thread. Raises OSError."""
        ...

    def close(self) -> None: ...


class Files(Protocol):
    """What is needed of images/files.py."""

    def open(self, image_id: str) -> OpenImage:
        """Raises ServiceError IMAGE_UNKNOWN."""
        ...


class Pages:
    """`get` gives one page; the longest unused are forgotten."""

    def __init__(self, files: Files, page_bytes: int, cache_bytes: int, open_images: int) -> None:
        self.page_bytes = page_bytes
        self._files = files
        self._bound = max(1, cache_bytes // page_bytes)
        self._open_bound = open_images
        self._pages: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._open: OrderedDict[str, OpenImage] = OrderedDict()
        self._readers: dict[str, int] = {}
        self._reading: dict[tuple[str, int], asyncio.Event] = {}
        self._wanted: deque[tuple[str, int]] = deque(maxlen=max(1, self._bound // 4))
        self._wished = asyncio.Event()

    def cached(self, image_id: str, number: int) -> bytes | None:
        key = (image_id, number)
        page = self._pages.get(key)
        if page is not None:
            self._pages.move_to_end(key)
        return page

    async def get(self, image_id: str, number: int) -> bytes:
        """Page `number` of the image; the last one is shorter. Raises ServiceError IMAGE_UNKNOWN or OSError."""
        key = (image_id, number)
        while True:
            page = self.cached(image_id, number)
            if page is not None:
                return page
            reading = self._reading.get(key)
            if reading is None:
                break
            await reading.wait()
        done = self._reading[key] = asyncio.Event()
        try:
            page = await self._read(image_id, number)
            self._pages[key] = page
            while len(self._pages) > self._bound:
                self._pages.popitem(last=False)
        finally:
            del self._reading[key]
            done.set()
        return page

    def want(self, image_id: str, number: int) -> None:
        """Note that a page will be asked for soon; `read_ahead` reads it meanwhile. Beyond the bound the oldest wish is dropped."""
        key = (image_id, number)
        if key not in self._pages and key not in self._reading:
            self._wanted.append(key)
            self._wished.set()

    async def read_ahead(self) -> None:
        """Read what is wanted, one page at a time, until cancelled."""
        while True:
            self._wished.clear()
            while self._wanted:
                with suppress(ServiceError, OSError):  # whoever needs the page meets the error and reports it
                    await self.get(*self._wanted.popleft())
            await self._wished.wait()

    def close(self) -> None:
        for image in self._open.values():
            image.close()
        self._open.clear()
        self._pages.clear()

    async def _read(self, image_id: str, number: int) -> bytes:
        image = self._open.get(image_id)
        if image is None:
            image = await asyncio.to_thread(self._files.open, image_id)
            raced = self._open.setdefault(image_id, image)
            if raced is not image:
                image.close()
                image = raced
        self._open.move_to_end(image_id)
        self._readers[image_id] = self._readers.get(image_id, 0) + 1
        try:
            return await asyncio.to_thread(image.read, number * self.page_bytes, self.page_bytes)
        finally:
            self._readers[image_id] -= 1
            self._close_surplus()

    def _close_surplus(self) -> None:
        """Close the longest unused files beyond the bound, but none that is being read."""
        for image_id in list(self._open):
            if len(self._open) <= self._open_bound:
                return
            if not self._readers.get(image_id):
                self._readers.pop(image_id, None)
                self._open.pop(image_id).close()
