"""The handshake: what the place where the device stands wants of it.

Owns record "shake" (the revision that the newest document named) and when the handshake is due: once after each start,
and when that revision is another. The settings it brings are taken over by settings.py. Source: docs/protocol.md,
section "At the customer's". Runs on MicroPython.
"""

from device_sdk.core import fields
from device_sdk.core.fields import MalformedError
from device_sdk.wire import keys, limits

TYPE_CHECKING = False  # a checker takes it for typing's, which MicroPython lacks
if TYPE_CHECKING:
    from typing import Any

    from device_sdk.core.context import Context
    from device_sdk.core.settings import Settings


class Handshake:
    """`due`: it is to be said on the next answered connection."""

    def __init__(self, context: "Context", site: "Settings") -> None:
        self._context = context
        self._site = site
        self._wanted: int | None = None
        self.due = False
        self._put_off = False

    def load(self) -> None:
        """Once per boot."""
        stored = self._context.records.load("shake")
        if stored is not None:
            self._wanted = stored["rev"]
            self.due = True

    def offer(self, offer: object) -> None:
        """The `handshake` of an accepted document; None: it says nothing of it."""
        if offer is None:
            return
        try:
            if not isinstance(offer, dict):
                raise MalformedError("handshake")
            rev = fields.integer(offer, "settings_rev", 0, limits.MAX_INT)
        except MalformedError as error:
            self._context.trouble("handshake_refused", str(error))
            return
        if rev != self._wanted:
            self._context.records.save("shake", {"rev": rev})
            self._wanted = rev
            self.due = True

    def asked(self) -> "dict[str, Any]":
        return {"settings_rev": self._site.rev}

    def answered(self, reply: "dict[str, Any]", thing_id: str, owner: str, now: float) -> None:
        """Settings that do not prove themselves are ignored; they come again with the next handshake."""
        self.due = False
        settings = reply.get("settings")
        if settings is None:
            return
        if not isinstance(settings, dict):
            raise MalformedError("settings")
        doc = fields.raw(settings, "doc")
        mac = fields.raw(settings, "mac")
        if not self._context.prover.fits(keys.handshake_message(thing_id, owner, doc), mac):
            self._context.trouble("mac", "settings of the site refused")
            return
        self._site.offer(fields.read_map(doc), now)

    def put_off(self) -> None:
        """It was refused: again on the next connection."""
        self.due = False
        self._put_off = True

    def online(self) -> None:
        """A connection was answered."""
        self.due = self.due or self._put_off
        self._put_off = False
