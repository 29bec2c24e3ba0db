"""Renewal: a new credential over the connection of the one in use.

Owns which renewal is wanted (record "renew"), when it is tried and when the device goes over to the new credential. The
asking is activation.py's. Until the new one is answered the one in use stays.
Source: docs/protocol.md, section "Renewal". Runs on MicroPython.
"""

from device_sdk.core import fields, ladder
from device_sdk.core.activation import Activation, Refused
from device_sdk.core.backoff import Backoff
from device_sdk.core.fields import MalformedError
from device_sdk.wire import limits, topics

TYPE_CHECKING = False  # a checker takes it for typing's, which MicroPython lacks
if TYPE_CHECKING:
    from typing import Any

    from device_sdk.core.context import Context
    from device_sdk.core.credentials import Credentials
    from device_sdk.core.news import News

_ANNOUNCE_S = 10.0  # how long it waits with going over until the service has heard of it
_FIRST_S = 60.0
_MAX_S = 6 * 3600.0


class Renewal:
    """On one connection at a time: begin(), reply(), goes_over(), end()."""

    def __init__(self, context: "Context", credentials: "Credentials", news: "News") -> None:
        self._context = context
        self._credentials = credentials
        self._news = news
        self._wanted: dict[str, Any] | None = None
        self._attempt: Activation | None = None
        self._again_at = 0.0
        self._over_at: float | None = None
        self._waits = Backoff(_FIRST_S, _MAX_S, context.random_bytes)

    def load(self) -> None:
        self._wanted = self._context.records.load("renew")

    def offer(self, offer: object, owner: str) -> None:
        """The `credential` of an accepted document, which came to credential `owner`."""
        if offer is None:
            return
        try:
            if not isinstance(offer, dict):
                raise MalformedError("credential")
            number = fields.integer(offer, "renew", 0, limits.MAX_INT)
        except MalformedError as error:
            self._context.trouble("renewal_refused", str(error))
            return
        current = self._credentials.get(ladder.CURRENT)
        if current is None or number <= current.get("renew", 0):
            return
        self._wanted = {"credential_id": owner, "n": number}
        self._context.records.save("renew", self._wanted)

    def begin(self, owner: str, firmware: "dict[str, Any]", now: float) -> None:
        """On an answered connection: ask for a new credential if one is wanted and it is time."""
        if not self._due(owner) or now < self._again_at:
            return
        self._again_at = now + self._waits.next()
        self._attempt = Activation(self._context, firmware, topics.OPERATIONAL, owner)
        self._attempt.start(now)

    def reply(self, verb: str, message: "dict[str, Any]", now: float) -> None:
        """An answer to `hello` or `activate`. Raises MalformedError."""
        if self._attempt is None:
            return
        result = self._attempt.reply(verb, message, now)
        if isinstance(result, Refused):
            self._attempt = None
            if result.retry_after_s is not None:
                self._again_at = now + result.retry_after_s
        elif result is not None:
            assert self._wanted is not None
            self._attempt = None
            current = self._credentials.get(ladder.CURRENT) or {}
            result["renew"] = self._wanted["n"]
            result["bootstrap"] = current.get("bootstrap", [])
            self._credentials.store_next(result)
            self._context.note("info", "renewed", result["credential_id"])
            self._news.tell("moving", result["credential_id"])
            self._over_at = now + _ANNOUNCE_S

    def goes_over(self, now: float) -> bool:
        """Whether to leave this connection for the new credential."""
        return self._over_at is not None and (now >= self._over_at or not self._news.waits("moving"))

    def tick(self, now: float) -> bool:
        """False when the service stays silent and it is time to reconnect."""
        return self._attempt is None or self._attempt.requests.tick(now)

    def wake_at(self, owner: str) -> "float | None":
        if self._over_at is not None:
            return self._over_at
        if self._attempt is not None:
            return self._attempt.requests.wake_at
        return self._again_at if self._due(owner) else None

    def end(self) -> None:
        """The connection is no more."""
        self._attempt = None
        self._over_at = None
        self._news.drop("moving")

    def answered(self, credential: "dict[str, Any]") -> None:
        """An `online` was answered ok with this credential."""
        if self._wanted is not None and credential["credential_id"] != self._wanted["credential_id"]:
            self._wanted = None
            self._context.records.save("renew", None)
            self._waits.reset()
            self._again_at = 0.0

    def _due(self, owner: str) -> bool:
        return (
            self._wanted is not None
            and self._wanted["credential_id"] == owner
            and self._attempt is None
            and self._over_at is None
        )
