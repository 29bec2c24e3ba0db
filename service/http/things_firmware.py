"""Firmware over HTTP: whole, by range, or in base64 within JSON; by pages, never more of it in memory than one.

Owns the range and the sending. Whether the key may fetch is asked of the pipeline before the first byte and again
while they flow, so that a dropped key ends its download.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import re
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from device_sdk.wire import codes
from service.errors import ServiceError
from service.http.refusals import Answered, response_of
from service.http.services import Services
from service.http.things_calls import Desk
from service.http.things_models import Fetchable
from service.images.streamer import Streamer

log = logging.getLogger("firstlight.web")
PAGE_BYTES = 48 * 1024  # a multiple of 3, so that pages in base64 join
ASK_AGAIN_S = 1.0
PACE_S = 0.05  # until the byte budget is looked at again
_RANGE = re.compile(r"bytes=(\d{0,15})-(\d{0,15})\Z")


@dataclass(frozen=True, slots=True)
class Part:
    """The bytes from `first` to before `end`."""

    first: int
    end: int


class _Sent(StreamingResponse):
    """Closes what it reads from, however it ended. A download that may not go on is cut off."""

    body_iterator: AsyncGenerator[bytes]

    def __init__(
        self, streamer: Streamer, thing_id: str, body: AsyncGenerator[bytes], *words: Any, **more: Any
    ) -> None:
        super().__init__(body, *words, **more)
        self._streamer = streamer
        self._thing_id = thing_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._streamer.begin_download(self._thing_id)
        except ServiceError as error:
            scope["state"]["cause"] = error.cause
            await response_of(error, scope["state"]["trace"])(scope, receive, send)
            return
        try:
            await super().__call__(scope, receive, send)
        except* ServiceError as errors:
            cause = next(_leaves(errors)).cause
            scope["state"]["cause"] = cause
            log.info("a download was cut off", extra={"cause": cause})
        finally:
            self._streamer.end_download(self._thing_id)
            await self.body_iterator.aclose()


async def fetchable(desk: Desk, version_id: str) -> Fetchable:
    """The version, if the key may fetch it now. Raises ServiceError."""
    found = await desk.ask("http-fetch", version_id=version_id)
    return Fetchable(
        versionId=found["version_id"], name=found["name"], description=found["description"],
        imageId=found["image_id"], size=found["size"],
    )  # fmt: skip


async def as_json(given: Services, desk: Desk, thing_id: str, version: Fetchable) -> StreamingResponse:
    """The version with its firmware in base64."""
    await _is_here(given, version)
    known = {
        "versionId": version.versionId,
        "name": version.name,
        "description": version.description,
        "size": version.size,
        "sha256": version.imageId,
        "firmware": "",
    }
    before, after = json.dumps(known).encode()[:-2], b'"}'
    length = len(before) + 4 * ((version.size + 2) // 3) + len(after)

    async def body() -> AsyncGenerator[bytes]:
        yield before
        async with contextlib.aclosing(_pages(given, desk, thing_id, version, Part(0, version.size))) as pages:
            async for page in pages:
                yield base64.b64encode(page)
        yield after

    told = {"Content-Length": str(length)}
    return _Sent(given.pipeline.streamer, thing_id, body(), headers=told, media_type="application/json")


async def as_bytes(
    given: Services, desk: Desk, thing_id: str, version: Fetchable, headers: Mapping[str, str]
) -> StreamingResponse:
    """The firmware, or the range that is asked for. Raises Answered 416."""
    await _is_here(given, version)
    etag = f'"{version.imageId}"'
    part = _part(headers, etag, version.size, desk.trace_id)
    told = {"Accept-Ranges": "bytes", "ETag": etag}
    status = 200
    if part is None:
        part = Part(0, version.size)
    else:
        status = 206
        told["Content-Range"] = f"bytes {part.first}-{part.end - 1}/{version.size}"
    told["Content-Length"] = str(part.end - part.first)
    pages = _pages(given, desk, thing_id, version, part)
    return _Sent(given.pipeline.streamer, thing_id, pages, status, headers=told, media_type="application/octet-stream")


def _part(headers: Mapping[str, str], etag: str, size: int, trace_id: str) -> Part | None:
    """The one range that is asked for; None: everything (RFC 9110, 14.2). Raises Answered 416 where it has no byte."""
    found = _RANGE.match(headers.get("range", ""))
    if found is None or headers.get("if-range", etag) != etag or not any(found.groups()):
        return None
    first, last = found.groups()
    if not first:
        part = Part(max(size - int(last), 0), size)
    else:
        part = Part(int(first), min(int(last) + 1, size) if last else size)
        if last and int(last) < int(first):
            return None
    if part.first >= part.end:
        body = {"code": codes.RANGE, "reason": "the range has no byte of it", "trace": trace_id}
        raise Answered(416, body, {"Content-Range": f"bytes */{size}"})
    return part


async def _is_here(given: Services, version: Fetchable) -> None:
    """Raises ServiceError: the image cannot be read, which is to be said before the answer has begun."""
    image = await asyncio.to_thread(given.images.open, version.imageId)
    image.close()


async def _pages(given: Services, desk: Desk, thing_id: str, version: Fetchable, part: Part) -> AsyncGenerator[bytes]:
    streamer = given.pipeline.streamer
    image = await asyncio.to_thread(given.images.open, version.imageId)
    try:
        asked_at, offset = time.monotonic(), part.first
        while offset < part.end:
            if time.monotonic() - asked_at >= ASK_AGAIN_S:
                await fetchable(desk, version.versionId)
                asked_at = time.monotonic()
            wanted = min(PAGE_BYTES, part.end - offset)
            while not streamer.may_send(thing_id, wanted):  # noqa: ASYNC110 - a budget that fills by the clock
                await asyncio.sleep(PACE_S)
            page = await asyncio.to_thread(image.read, offset, wanted)
            if len(page) != wanted:
                raise ServiceError(codes.UNAVAILABLE, "the image cannot be read", cause="image_short")
            yield page
            offset += wanted
    finally:
        image.close()


def _leaves(errors: ExceptionGroup[ServiceError]) -> Iterator[ServiceError]:
    for one in errors.exceptions:
        if isinstance(one, ExceptionGroup):
            yield from _leaves(one)
        else:
            yield one
