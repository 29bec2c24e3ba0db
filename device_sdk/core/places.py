"""The places where a device may connect, as rungs of the ladder.

Owns which rungs there are just now, in which order, which endpoint each means and which key speaks there. Tries none of
them. Source: docs/protocol.md, section "The recovery ladder". Runs on MicroPython.
"""

from device_sdk.core import ladder
from device_sdk.core.endpoints import endpoint_of

TYPE_CHECKING = False  # a checker takes it for typing's, which MicroPython lacks
if TYPE_CHECKING:
    from typing import Any

    from device_sdk.core.context import Context
    from device_sdk.core.credentials import Credentials
    from device_sdk.core.identity import Endpoint
    from device_sdk.core.placement import Placement
    from device_sdk.core.trust import Trust

_MOVE = "-move"
_TRUST = "-trust"
_DIGITS = "0123456789"


class Places:
    """Rungs: "next", "current", and "bootstrap" followed by whose endpoint it is (none: the factory's) and its number."""

    def __init__(self, context: "Context", credentials: "Credentials", placement: "Placement", trust: "Trust") -> None:
        self._context = context
        self._credentials = credentials
        self._placement = placement
        self._trust = trust
        self._turn = 0

    def rungs(self) -> "list[str]":
        """In the order of the ladder; never empty."""
        held = self._credentials.places()
        if self._placement.away:
            # On trial: there and nowhere else, until it answers or the trial lapses.
            rungs = [place for place in held if place == ladder.NEXT]
            there = _numbered(_MOVE, self._placement.endpoints)
            return rungs + (there or self._factory())
        if self._placement.returning:
            held.reverse()
        rungs = list(held)
        for place in held:
            record = self._credentials.get(place)
            rungs += _numbered("-" + place, record.get("bootstrap", ()) if record is not None else ())
        return rungs + _numbered(_TRUST, self._trust.bootstrap) + self._factory()

    def endpoint(self, rung: str) -> "Endpoint":
        """Of a bootstrap rung."""
        name = rung[len(ladder.BOOTSTRAP) :]
        if not name.startswith("-"):
            return self._context.identity.bootstrap[int(name)]
        whose = name.rstrip(_DIGITS)
        return endpoint_of(self._list(whose)[int(name[len(whose) :])])

    def bootstrap_behind(self, rung: str) -> "list[dict[str, Any]]":
        """The endpoints that are stored with a credential obtained at this bootstrap rung."""
        name = rung[len(ladder.BOOTSTRAP) :]
        return self._list(name.rstrip(_DIGITS)) if name.startswith("-") else []

    def key(self, rung: str) -> "bytes | None":
        """The device key that speaks on this rung: a transfer of ownership may have changed it."""
        held = [place for place in (ladder.NEXT, ladder.CURRENT) if place in self._credentials.places()]
        for place in held:
            if rung == place or rung.startswith(ladder.BOOTSTRAP + "-" + place):
                return self._credentials.key(place)
        # Elsewhere the confirmed one; but one that was not answered yet may have come to count: by turns.
        known = [self._credentials.key(ladder.CURRENT)]
        for place in held:
            if self._credentials.key(place) not in known:
                known.append(self._credentials.key(place))
        self._turn += 1
        return known[self._turn % len(known)]

    def _list(self, name: str) -> "list[dict[str, Any]]":
        if name == _MOVE:
            return self._placement.endpoints
        if name == _TRUST:
            return self._trust.bootstrap
        record = self._credentials.get(name[1:])
        return record.get("bootstrap", []) if record is not None else []

    def _factory(self) -> "list[str]":
        return [ladder.BOOTSTRAP + str(k) for k in range(len(self._context.identity.bootstrap))]


def _numbered(name: str, endpoints: "Any") -> "list[str]":
    return [ladder.BOOTSTRAP + name + str(k) for k in range(len(endpoints))]
