"""Streams the chunks that were asked for, fairly over things, at the pace of the link.

Owns permits to fetch (a bounded, short-lived memory of what the rules said), the judgement of a range, at most two
windows a thing and the byte budgets. Keeps no state of a download. Sits beside the executor: a `fetch` with a permit
comes here at once. Source: docs/protocol.md, section 6.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol
from zlib import crc32

from device_sdk.wire import codes, frames, limits
from service.errors import ServiceError
from service.images.pages import Files, OpenImage, Pages
from service.images.sealed import WithSealed
from service.mqtt.port import Link, LinkDown

log = logging.getLogger(__name__)
MAX_DOWNLOADS = 4  # of one thing at a time, beside those over links

_pack_header = struct.Struct(">BBHI8sI").pack


class Range(Protocol):
    """What a fetch asks for, as protocol/schemas reads it."""

    @property
    def image(self) -> bytes: ...
    @property
    def stream(self) -> int: ...
    @property
    def chunk_size(self) -> int: ...
    @property
    def first(self) -> int: ...
    @property
    def count(self) -> int | None: ...
    @property
    def bitmap(self) -> bytes | None: ...


@dataclass(frozen=True, slots=True)
class StreamBounds:
    """Sizes in bytes. pipeline/bounds names them for the whole service."""

    max_chunk_size: int = limits.DEFAULT_MAX_CHUNK_SIZE
    permits: int = 65536
    permit_s: float = 1.0
    page_bytes: int = 256 * 1024
    page_cache_bytes: int = 16 * 1024 * 1024
    turn_bytes: int = 64 * 1024
    open_images: int = 16


@dataclass(slots=True)
class Permit:
    """What one credential may fetch, until a moment of the monotonic clock."""

    credential_id: str
    thing_id: str
    image_id: str
    size: int
    prefix: bytes
    until: float


@dataclass(slots=True, eq=False)
class Window:
    """The chunks of one fetch that are still to be sent."""

    permit: Permit
    topic: str
    stream: int
    chunk_size: int
    indexes: Sequence[int]
    at: int = 0
    cancelled: bool = False


class Bytes(Protocol):
    """A byte budget for each key, such as pipeline/throttle's table."""

    def take(self, key: str, now: float, amount: float = 1.0) -> bool: ...


class Lane:
    """The windows that wait for one link, one queue a thing, served in turn."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.of_thing: dict[str, deque[Window]] = {}
        self.turn: deque[str] = deque()
        self.arrived = asyncio.Event()

    def add(self, window: Window) -> None:
        waiting = self.of_thing.get(window.permit.thing_id)
        if waiting is None:
            self.of_thing[window.permit.thing_id] = deque((window,))
            self.turn.append(window.permit.thing_id)
            self.arrived.set()
        else:
            waiting.append(window)

    def outstanding(self, thing_id: str) -> int:
        """Chunks asked for and not yet sent."""
        return sum(len(window.indexes) - window.at for window in self.of_thing.get(thing_id, ()))

    def clear(self) -> None:
        self.of_thing.clear()
        self.turn.clear()


class Streamer:
    """`request` judges and queues, `run_lane` sends."""

    def __init__(
        self,
        files: Files,
        bounds: StreamBounds,
        *,
        monotonic: Callable[[], float],
        per_thing: Bytes,
        overall: Bytes,
        count: Callable[[str], None],
    ) -> None:
        self.bounds = bounds
        self._files = WithSealed(files)
        self._pages = Pages(self._files, bounds.page_bytes, bounds.page_cache_bytes, bounds.open_images)
        self._monotonic = monotonic
        self._per_thing = per_thing
        self._overall = overall
        self._count = count
        self._permits: OrderedDict[str, Permit] = OrderedDict()
        self._lanes: dict[int, Lane] = {}
        self._downloads: Counter[str] = Counter()  # by thing: those that go another way than a link
        self.bytes_sent = 0
        self.chunks_sent = 0

    @property
    def idle(self) -> bool:
        return not any(lane.of_thing for lane in self._lanes.values())

    def authorise(self, credential_id: str, thing_id: str, image_id: str, size: int) -> Permit:
        """Remember what the rules allow this credential, for a short time."""
        permit = Permit(
            credential_id,
            thing_id,
            image_id,
            size,
            bytes.fromhex(image_id[:16]),
            self._monotonic() + self.bounds.permit_s,
        )
        self._permits[credential_id] = permit
        self._permits.move_to_end(credential_id)
        if len(self._permits) > self.bounds.permits:
            self._permits.popitem(last=False)
        return permit

    def keep(self, image_id: str, image: OpenImage) -> None:
        """An image without a file, which somebody may fetch."""
        self._files.keep(image_id, image)

    def permit(self, credential_id: str) -> Permit | None:
        """What this credential may fetch, if it was asked lately."""
        permit = self._permits.get(credential_id)
        if permit is None or permit.until <= self._monotonic():
            return None
        return permit

    def forget(self, credential_ids: Iterable[str]) -> None:
        """These are dropped: no permit, and nothing more of what they have asked for."""
        gone = set(credential_ids)
        for credential_id in gone:
            self._permits.pop(credential_id, None)
        for lane in self._lanes.values():
            for waiting in lane.of_thing.values():
                for window in waiting:
                    if window.permit.credential_id in gone:
                        window.cancelled = True

    def request(self, link: Link, permit: Permit, asked: Range, topic: str) -> None:
        """Queue exactly the chunks asked for. Raises ServiceError IMAGE_UNKNOWN, RANGE or THROTTLED."""
        # 1. The image of the desired document, and no other.
        if asked.image != permit.prefix:
            raise ServiceError(
                codes.IMAGE_UNKNOWN, "not the image of the current desired document", cause="image_unknown"
            )
        # 2. The range; nothing is clamped.
        indexes = self._indexes(asked, permit.size)
        # 3. What is outstanding, with this window.
        lane = self._lane(link)
        chunks = lane.outstanding(permit.thing_id) + len(indexes)
        if chunks > min(limits.MAX_OUTSTANDING_CHUNKS, limits.MAX_OUTSTANDING_BYTES // asked.chunk_size):
            raise ServiceError(codes.THROTTLED, "too many chunks are outstanding", cause="throttled_windows")
        # 4. Byte budgets.
        now, size = self._monotonic(), len(indexes) * asked.chunk_size
        if not self._per_thing.take(permit.thing_id, now, size):
            raise ServiceError(codes.THROTTLED, "too many bytes", cause="throttled_thing_bytes")
        if not self._overall.take("", now, size):
            raise ServiceError(codes.THROTTLED, "too many bytes", cause="throttled_stream_bytes")
        lane.add(Window(permit, topic, asked.stream, asked.chunk_size, indexes))
        self._pages.want(permit.image_id, indexes[0] * asked.chunk_size // self._pages.page_bytes)

    def begin_download(self, thing_id: str) -> None:
        """One that goes another way than a link; `end_download` later. Raises ServiceError THROTTLED."""
        if self._downloads[thing_id] >= MAX_DOWNLOADS:
            raise ServiceError(codes.THROTTLED, "too many downloads", cause="throttled_downloads", retry_after_s=5)
        self._downloads[thing_id] += 1

    def end_download(self, thing_id: str) -> None:
        self._downloads[thing_id] -= 1
        if not self._downloads[thing_id]:
            del self._downloads[thing_id]

    def may_send(self, thing_id: str, size: int) -> bool:
        """Whether the byte budgets have room for that much to go to this thing by another way; it is taken."""
        now = self._monotonic()
        return self._per_thing.take(thing_id, now, size) and self._overall.take("", now, size)

    async def run_lane(self, link: Link) -> None:
        """Send what waits for this link, a turn for each thing, until cancelled."""
        lane = self._lane(link)
        while True:
            while lane.turn:
                thing_id = lane.turn.popleft()
                waiting = lane.of_thing[thing_id]
                try:
                    finished = await self._send_turn(lane.link, waiting[0])
                except LinkDown:
                    self._count("stream_link_down")
                    lane.clear()  # whoever asked asks again
                    break
                except Exception:  # costs this window, not the streams of all others
                    self._count("internal_fault")
                    log.exception("a window was not sent")
                    finished = True
                if finished:
                    waiting.popleft()
                if waiting:
                    lane.turn.append(thing_id)
                else:
                    del lane.of_thing[thing_id]
            lane.arrived.clear()
            if not lane.turn:
                await lane.arrived.wait()

    async def read_ahead(self) -> None:
        """Read pages that will be sent soon, until cancelled."""
        await self._pages.read_ahead()

    def close(self) -> None:
        self._pages.close()

    def _lane(self, link: Link) -> Lane:
        lane = self._lanes.get(id(link))
        if lane is None:
            lane = self._lanes[id(link)] = Lane(link)
        return lane

    def _indexes(self, asked: Range, size: int) -> Sequence[int]:
        chunk_size, first = asked.chunk_size, asked.first
        if not frames.is_chunk_size(chunk_size) or chunk_size > self.bounds.max_chunk_size:
            raise self._range("chunk size")
        if (asked.count is None) == (asked.bitmap is None):
            raise self._range("exactly one of count and bitmap")
        bound = min(limits.MAX_WINDOW_CHUNKS, limits.MAX_WINDOW_BYTES // chunk_size)
        indexes: Sequence[int]
        if asked.count is not None:
            indexes = range(first, first + asked.count)
        else:
            assert asked.bitmap is not None
            if int.from_bytes(asked.bitmap, "little").bit_count() > bound:
                raise self._range("more than a window")
            indexes = frames.bitmap_indexes(first, asked.bitmap)
        if not 1 <= len(indexes) <= bound:
            raise self._range("none, or more than a window")
        if indexes[-1] >= frames.chunk_count(size, chunk_size):
            raise self._range("beyond the last chunk")
        return indexes

    def _range(self, what: str) -> ServiceError:
        return ServiceError(
            codes.RANGE,
            f"impossible range: {what}",
            cause="range",
            state={"chunk_size_min": limits.MIN_CHUNK_SIZE, "chunk_size_max": self.bounds.max_chunk_size},
        )

    async def _send_turn(self, link: Link, window: Window) -> bool:
        """Send about `turn_bytes` of a window; whether it is finished."""
        permit, chunk_size, indexes = window.permit, window.chunk_size, window.indexes
        page_bytes, pages, publish, topic = self._pages.page_bytes, self._pages, link.publish, window.topic
        last = frames.chunk_count(permit.size, chunk_size) - 1
        end = min(len(indexes), window.at + max(1, self.bounds.turn_bytes // chunk_size))
        page, held = b"", -1
        while window.at < end:
            if window.cancelled:
                return True
            index = indexes[window.at]
            number, within = divmod(index * chunk_size, page_bytes)  # both are powers of two: a chunk is in one page
            if number != held:
                found = pages.cached(permit.image_id, number)
                if found is None:
                    found = await self._page(permit, number)
                    if found is None:
                        return True
                page, held = found, number
                if indexes[-1] * chunk_size >= (number + 1) * page_bytes:
                    pages.want(permit.image_id, number + 1)
            data = page[within : within + chunk_size]
            header = _pack_header(index == last, window.stream, len(data) - 1, index, permit.prefix, crc32(data))
            # Before it is sent: whoever has the last chunk may ask for the next window at once.
            window.at += 1
            await publish(topic, header + data)
            self.bytes_sent += len(data)
            self.chunks_sent += 1
        return window.at >= len(indexes)

    async def _page(self, permit: Permit, number: int) -> bytes | None:
        """The page, or None when the image cannot be read: the device's request ends unanswered and it asks again."""
        try:
            page = await self._pages.get(permit.image_id, number)
        except (ServiceError, OSError) as error:
            self._count("image_unreadable")
            log.error("image %s cannot be read: %s", permit.image_id, getattr(error, "detail", "") or error)  # noqa: TRY400
            return None
        start = number * self._pages.page_bytes
        if len(page) != min(self._pages.page_bytes, permit.size - start):
            self._count("image_unreadable")
            log.error("image %s has another size than its version", permit.image_id)
            return None
        return page
