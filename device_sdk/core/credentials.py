"""The device's credential records: current and next.

Owns what is stored of a grant and when `current` gives way: only after an `online` was answered ok on `next`. Checks no
proof (activation did). Source: docs/protocol.md, sections "The recovery ladder" and "activate". Runs on MicroPython.
"""

from device_sdk.core import ladder

TYPE_CHECKING = False  # a checker takes it for typing's, which MicroPython lacks
if TYPE_CHECKING:
    from typing import Any

    from device_sdk.core.context import Context


class Credentials:
    """Records by place, "next" and "current": maps with credential_id, thing_id, kind, host, port, tls and the login."""

    def __init__(self, context: "Context") -> None:
        self._records = context.records
        self._by_place: dict[str, dict[str, Any]] = {}

    def load(self) -> None:
        for place in (ladder.NEXT, ladder.CURRENT):
            record = self._records.load(place)
            if record is not None:
                self._by_place[place] = record
        upcoming, current = self._by_place.get(ladder.NEXT), self._by_place.get(ladder.CURRENT)
        if upcoming is not None and current is not None and upcoming["credential_id"] == current["credential_id"]:
            # Power went between the two steps of promote().
            self._delete(ladder.NEXT)

    def get(self, place: str) -> "dict[str, Any] | None":
        return self._by_place.get(place)

    def places(self) -> "list[str]":
        return [place for place in (ladder.NEXT, ladder.CURRENT) if place in self._by_place]

    def store_next(self, record: "dict[str, Any]") -> None:
        self._records.save(ladder.NEXT, record)
        self._by_place[ladder.NEXT] = record

    def promote(self) -> None:
        """`next` was answered: it becomes current. Each step leaves a device that can log in."""
        record = self._by_place[ladder.NEXT]
        self._records.save(ladder.CURRENT, record)
        self._by_place[ladder.CURRENT] = record
        self._delete(ladder.NEXT)

    def wipe(self) -> None:
        """Only for an authenticated `desired.retired`."""
        self._delete(ladder.NEXT)
        self._delete(ladder.CURRENT)

    def _delete(self, place: str) -> None:
        self._records.delete(place)
        self._by_place.pop(place, None)
