"""One image on its way to the device, in windows of chunks.

Owns which chunks are there, the windows outstanding, their sizes and time limits, and the record from which a download
goes on after a power loss. Judges no image and reads nothing back. Source: docs/protocol.md, section "Chunk streaming".
Runs on MicroPython.

Record "progress": image_id, chunk_size, low (every chunk below is there) and bits (bitmap of those above, from low).
It is saved once per window, after installer.sync(), and as soon as one window of chunks is not in it, counted over all
windows outstanding: so of the chunks received, power lost costs at most one window. Those on their way come again.
"""

import binascii

from device_sdk.core.window import Window
from device_sdk.wire import frames, limits

TYPE_CHECKING = False  # a checker takes it for typing's, which MicroPython lacks
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from device_sdk.core.context import Context
    from device_sdk.core.ports import Store

    Fetch = Callable[[dict[str, Any]], str]

_MIN_TIMEOUT_S = 2.0
_TIMEOUT_FACTOR = 4.0
_SMOOTHING = 0.25
_MAX_SILENT_ASKS = 5  # windows asked again with no chunk in between: the connection is dead
_MAX_BITMAP_SPAN = 256
_MIN_WINDOWS = 2  # one drains while the next is on its way
_MAX_WINDOWS = 16
_IDLE_PART = 0.25  # of a window's time: a longer pause between two windows is the line's latency


class Download:
    """`fetch(fields)` sends one fetch and gives its id. Call open() first, then resume() on every connection.

    `store`: where the image goes; without one, to the slot that does not run.
    """

    def __init__(
        self, context: "Context", image_id: str, size: int, chunk_size: int, store: "Store | None" = None
    ) -> None:
        self._context = context
        self._store: Store = context.installer if store is None else store
        self._image_id = image_id
        self._prefix = binascii.unhexlify(image_id[:16])
        self._size = size
        self._chunk_size = chunk_size
        self._fetch: Fetch | None = None
        self._windows: list[Window] = []
        self._have: set[int] = set()  # those at or above _low
        self._low = 0
        self._unsaved = 0
        self._stream = 0
        self._window_chunks = 1
        self._smoothed_s = 0.0
        self._drained_at = 0.0
        self._hold_until = 0.0
        self._held = False
        self._silent_asks = 0
        self._parallel = _MIN_WINDOWS
        self._between = False  # a window has drained, and no chunk has come since
        self.count = 0

    def open(self) -> None:
        """Make room, and take up the record of this image if there is one. Raises what the installer raises."""
        stored = self._context.records.load("progress")
        if stored is not None and stored["image_id"] != self._image_id:
            # Before the store is made ready for another: what the record says is there will be no more.
            self.forget()
            stored = None
        kept = self._store.begin(self._image_id, self._size)
        if stored is not None and kept is False:
            self.forget()
        elif stored is not None:
            self._chunk_size = stored["chunk_size"]
            self._low = stored["low"]
            self._have = set(frames.bitmap_indexes(self._low, stored["bits"]))
        self.count = frames.chunk_count(self._size, self._chunk_size)
        self._window_chunks = min(self._context.policy.window_chunks, self._max_window())

    def forget(self) -> None:
        """The next download of this image starts from nothing."""
        self._context.records.save("progress", None)

    @property
    def complete(self) -> bool:
        return self._low >= self.count

    @property
    def percent(self) -> int:
        return (self._low + len(self._have)) * 100 // self.count if self.count else 0

    @property
    def wake_at(self) -> "float | None":
        if self._fetch is None or self.complete:
            return None
        times = [self._deadline(window) for window in self._windows]
        if self._held:
            times.append(self._hold_until)
        return min(times) if times else None

    def resume(self, fetch: "Fetch", now: float) -> None:
        self._fetch = fetch
        self._windows = []
        self._drained_at = now
        self._hold_until = now
        self._held = False
        self._silent_asks = 0
        self._fill(now)

    def pause(self) -> None:
        self._fetch = None
        self._windows = []

    def chunk(self, frame: bytes, now: float) -> None:
        """Store a frame if it is one of this image; any other is counted and ignored."""
        try:
            _, index, prefix, data, _ = frames.decode_chunk(frame)
        except frames.FrameError as error:
            self._context.trouble("damaged_chunk", str(error))
            return
        if prefix != self._prefix or index >= self.count:
            self._context.trouble("foreign_chunk")
            return
        if len(data) != frames.chunk_length(index, self._size, self._chunk_size):
            self._context.trouble("damaged_chunk", "length")
            return
        self._silent_asks = 0
        self._note_pause(now)
        if index < self._low or index in self._have:
            return
        self._store.write(index * self._chunk_size, data)
        self._have.add(index)
        self._unsaved += 1
        while self._low in self._have:
            self._have.remove(self._low)
            self._low += 1
        finished = self._tick_off(index, now)
        if finished or self._unsaved >= self._window_chunks:
            self._save()
        if finished:
            self._fill(now)

    def refused(self, request_id: str, wait_s: float, now: float) -> bool:
        """A fetch was answered with "later"; False if it is none of ours."""
        for window in self._windows:
            if window.request_id == request_id:
                self._windows.remove(window)
                self._hold_until = now + wait_s
                self._held = True
                return True
        return False

    def asked(self, request_id: str) -> bool:
        return any([window.request_id == request_id for window in self._windows])

    def tick(self, now: float) -> bool:
        """Ask again for what is late; False when nothing comes any more and it is time to reconnect."""
        if self._fetch is None:
            return True
        for window in list(self._windows):
            if now >= self._deadline(window):
                self._silent_asks += 1
                if self._silent_asks > _MAX_SILENT_ASKS:
                    self._context.trouble("no_chunks")
                    return False
                self._window_chunks = max(1, self._window_chunks // 2)
                self._parallel = _MIN_WINDOWS
                window.missing = set(sorted(window.missing)[: self._window_chunks])
                self._ask(window, now)
        self._fill(now)
        return True

    def _tick_off(self, index: int, now: float) -> bool:
        """Whether this chunk was the last missing one of its window, which then is done."""
        for window in self._windows:
            if index in window.missing:
                window.missing.remove(index)
                if window.missing:
                    return False
                self._windows.remove(window)
                took_s = now - max(window.first_asked_at, self._drained_at)
                self._smoothed_s += (took_s - self._smoothed_s) * (_SMOOTHING if self._smoothed_s else 1.0)
                self._drained_at = now
                self._between = bool(self._windows)
                grown = self._window_chunks + max(1, self._window_chunks // 2)
                self._window_chunks = min(self._max_window(), grown)
                return True
        return False

    def _note_pause(self, now: float) -> None:
        """The line stood idle between two windows that were both asked for: ask for one more from now on."""
        if self._between:
            self._between = False
            if now - self._drained_at > _IDLE_PART * self._smoothed_s and self._parallel < _MAX_WINDOWS:
                self._parallel += 1

    def _fill(self, now: float) -> None:
        """Keep windows outstanding: two, so that one is asked for before the other has drained, more on a long line."""
        if now < self._hold_until:
            return
        self._held = False
        while self._fetch is not None and len(self._windows) < self._parallel:
            missing = self._next_missing(self._room())
            if not missing:
                return
            window = Window(missing, now)
            self._windows.append(window)
            self._ask(window, now)

    def _room(self) -> int:
        """How many chunks the next window may have: the more are asked for at a time, the smaller each."""
        most = min(limits.MAX_OUTSTANDING_CHUNKS, limits.MAX_OUTSTANDING_BYTES // self._chunk_size)
        waiting = sum([len(window.missing) for window in self._windows])
        return min(self._window_chunks, most // self._parallel, most - waiting)

    def _next_missing(self, most: int) -> "set[int]":
        """The first chunks that are neither here nor asked for, at most so many and as a bitmap spans."""
        asked: set[int] = set()
        for window in self._windows:
            asked |= window.missing
        index = self._low
        out: set[int] = set()
        first = -1
        while index < self.count and len(out) < most:
            if index not in self._have and index not in asked:
                if first < 0:
                    first = index
                if index - first >= _MAX_BITMAP_SPAN:
                    break
                out.add(index)
            index += 1
        return out

    def _ask(self, window: Window, now: float) -> None:
        assert self._fetch is not None
        self._stream = (self._stream + 1) % 256
        request: dict[str, Any] = {"image": self._prefix, "stream": self._stream, "chunk_size": self._chunk_size}
        request.update(window.wanted())
        window.asked_at = now
        window.request_id = self._fetch(request)

    def _deadline(self, window: Window) -> float:
        timeout_s = max(_MIN_TIMEOUT_S, _TIMEOUT_FACTOR * self._smoothed_s)
        return max(window.asked_at, self._drained_at, self._hold_until) + timeout_s

    def _max_window(self) -> int:
        most = min(self._context.policy.max_window_bytes, limits.MAX_WINDOW_BYTES) // self._chunk_size
        return max(1, min(limits.MAX_WINDOW_CHUNKS, most))

    def _save(self) -> None:
        self._store.sync()
        bits = frames.bitmap(self._low, list(self._have)) if self._have else b""
        record = {"image_id": self._image_id, "chunk_size": self._chunk_size, "low": self._low, "bits": bits}
        self._context.records.save("progress", record)
        self._unsaved = 0
