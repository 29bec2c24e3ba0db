"""The device's credential records: current and next.

Owns what is stored of a grant and when `current` gives way: only after an `online` was answered ok on `next`; and the
device key after a transfer of ownership, which comes into force at the same moment. Checks no proof (activation did).
Source: docs/protocol.md, sections "The recovery ladder" and "activate". Runs on MicroPython.
"""

from device_sdk.core import ladder

TYPE_CHECKING = False  # a checker takes it for typing's, which MicroPython lacks
if TYPE_CHECKING:
    from typing import Any

    from device_sdk.core.context import Context


class Credentials:
    """Records by place, "next" and "current": maps with credential_id, thing_id, kind, host, port, tls and the login;
    `bootstrap`: the endpoints known with it; `renew`: the newest renewal that it answers; `key`: K if not the factory's.
    """

    def __init__(self, context: "Context") -> None:
        self._factory_key = context.identity.key
        self._records = context.records
        self._by_place: dict[str, dict[str, Any]] = {}
        self._key = context.identity.key

    def load(self) -> None:
        owned = self._records.load("key")
        if owned is not None:
            self._key = owned["key"]
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

    def key(self, place: str) -> "bytes | None":
        """K under that credential; without one, K as it was confirmed last. None for a public-key device."""
        record = self._by_place.get(place)
        if record is None:
            return self._key
        key: bytes | None = record.get("key", self._factory_key)
        return key

    def places(self) -> "list[str]":
        return [place for place in (ladder.NEXT, ladder.CURRENT) if place in self._by_place]

    def store_next(self, record: "dict[str, Any]") -> None:
        self._records.save(ladder.NEXT, record)
        self._by_place[ladder.NEXT] = record

    def promote(self) -> None:
        """`next` was answered: it becomes current. Each step leaves a device that can log in."""
        record = self._by_place[ladder.NEXT]
        if record.get("key", self._factory_key) != self._key:
            # Outlives the credential: the key before it is refused from now on.
            self._records.save("key", {"key": record.get("key", self._factory_key)})
            self._key = record.get("key", self._factory_key)
        self._records.save(ladder.CURRENT, record)
        self._by_place[ladder.CURRENT] = record
        self._delete(ladder.NEXT)

    def discard_next(self) -> None:
        """Only once an `online` was answered on `current` and `next` is known to have led nowhere."""
        if ladder.NEXT in self._by_place:
            self._delete(ladder.NEXT)

    def wipe(self) -> None:
        """Only for an authenticated `desired.retired`."""
        self._delete(ladder.NEXT)
        self._delete(ladder.CURRENT)

    def _delete(self, place: str) -> None:
        self._records.delete(place)
        self._by_place.pop(place, None)
