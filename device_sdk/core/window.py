"""One fetch outstanding: which chunks it still misses. Values only. Runs on MicroPython."""

from device_sdk.wire import frames

TYPE_CHECKING = False  # a checker takes it for typing's, which MicroPython lacks
if TYPE_CHECKING:
    from typing import Any


class Window:
    """`missing` is never empty. Times are monotonic seconds."""

    def __init__(self, missing: "set[int]", now: float) -> None:
        self.missing = missing
        self.first_asked_at = now
        self.asked_at = now
        self.request_id = ""

    def wanted(self) -> "dict[str, Any]":
        """The fields of `fetch` that name the missing chunks: a count where they follow each other, else a bitmap."""
        first, last = min(self.missing), max(self.missing)
        if last - first + 1 == len(self.missing):
            return {"first": first, "count": len(self.missing)}
        return {"first": first, "bitmap": frames.bitmap(first, sorted(self.missing))}
