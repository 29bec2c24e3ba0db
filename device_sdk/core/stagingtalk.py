"""What a unit says in the warehouse over the credential that `stage` gave it: reports, pieces, `staged`.

Owns the one open request of such a connection and what is asked next. The work on the items is itemwork.py's, the
connections staging.py's. Source: docs/protocol.md, section "Items". Runs on MicroPython.
"""

from device_sdk.core import fields
from device_sdk.core.actions import Publish
from device_sdk.core.requests import Requests
from device_sdk.wire import codes, limits, topics
from device_sdk.wire.packer import packb

TYPE_CHECKING = False  # a checker takes it for typing's, which MicroPython lacks
if TYPE_CHECKING:
    from typing import Any

    from device_sdk.core.context import Context
    from device_sdk.core.itemwork import ItemWork

BOXED = "boxed"  # what `staged` was answered: the unit is out of box
SHIPPED = "shipped"  # and has left the warehouse meanwhile

_PATIENCE_S = 120  # a "later" that is shorter is waited for on this connection
_LATER = (codes.THROTTLED, codes.UNAVAILABLE, codes.INTERNAL)
_MAX_BOOT_COUNT = 1 << 48  # a peer that names a higher one is not believed


class StagingTalk:
    """One connection."""

    def __init__(self, context: "Context", work: "ItemWork", owner: str, manifest_id: str) -> None:
        self._context = context
        self._work = work
        self._manifest_id = manifest_id
        self._requests = Requests(context, topics.OPERATIONAL, owner)
        self._asked: dict[str, Any] = {}  # the open item request, or the item report on its way
        self._again_at: float | None = None
        self._heard = False  # a report was answered: the service knows that the credential is used

    @property
    def wake_at(self) -> "float | None":
        times = [at for at in (self._requests.wake_at, self._again_at, self._work.wake_at) if at is not None]
        return min(times) if times else None

    def start(self, now: float) -> None:
        """Connected and subscribed. A unit that is done says so again; every other one is heard of first."""
        if self._work.item is None and not self._work.reports:
            self._heard = True
            self._work.online(self._fetch, now)
        self.ask(now)

    def tick(self, now: float) -> bool:
        """False when the service stays silent and it is time to reconnect."""
        if self._again_at is not None and now >= self._again_at:
            self._again_at = None
        return self._requests.tick(now) and self._work.tick(now)

    def message(self, verb: str, message: "dict[str, Any]", now: float) -> "str | None":
        """A reply; BOXED or SHIPPED when `staged` was answered ok. Raises MalformedError."""
        if verb == "fetch":
            self._fetch_refused(message, now)
            return None
        if not self._requests.answers(verb, message):
            return None
        asked, self._asked = self._asked, {}
        if message.get("ok") is not True:
            self._refused(verb, message, now)
        elif verb == "report":
            if self._work.reports and self._work.reports[0] is asked:
                self._work.reports.pop(0)
            if not self._heard:
                self._heard = True
                self._work.online(self._fetch, now)
        elif verb == "item":
            size = fields.integer(message, "size", 1, limits.MAX_INT)
            self._work.piece(asked["offset"], size, fields.raw(message, "data"), now)
        if verb == "staged" and message.get("ok") is True:
            return SHIPPED if message.get("shipped") is True else BOXED
        return None

    def ask(self, now: float) -> None:
        """The next request, when none is open: reports first, then a piece, at the end `staged`."""
        if self._requests.verb is not None or self._again_at is not None:
            return
        wanted = self._work.wants
        if self._work.reports or not self._heard:
            self._report(now)
        elif wanted is not None:
            self._asked = wanted
            self._requests.ask("item", wanted, now)
        elif self._work.item is None:
            staged = self._numbered()
            staged["manifest_id"] = self._manifest_id
            self._requests.ask("staged", staged, now)

    def _refused(self, verb: str, message: "dict[str, Any]", now: float) -> None:
        code = fields.text(message, "code", 64)
        self._context.trouble(code.lower(), "%s refused" % verb)
        state = message.get("state")
        if code == codes.CONFLICT and isinstance(state, dict):
            if "boot_count" in state:
                self._renumber(state)
                return
            self._work.works_too(state.get("items"))
            if self._work.reports:
                return
        wait_s = fields.retry_after(message)
        if verb == "item" and code not in _LATER:
            self._work.refused_item(code)
        self._again_at = now + (_PATIENCE_S if wait_s is None else min(wait_s, _PATIENCE_S))

    def _renumber(self, state: "dict[str, Any]") -> None:
        """The service has seen higher numbers than ours: go on above."""
        boot_count = fields.integer(state, "boot_count", 0, _MAX_BOOT_COUNT)
        n = fields.integer(state, "n", 0, limits.MAX_INT - 1)
        if boot_count > self._context.boot_count:
            self._context.raise_boot_count(boot_count + 1)
        elif boot_count == self._context.boot_count:
            self._context.n = max(self._context.n, n)

    def _fetch_refused(self, message: "dict[str, Any]", now: float) -> None:
        code = fields.text(message, "code", 64)
        sizes = None
        if code == codes.RANGE:
            low = fields.integer(message, "chunk_size_min", limits.MIN_CHUNK_SIZE, limits.MAX_CHUNK_SIZE)
            sizes = (low, fields.integer(message, "chunk_size_max", low, limits.MAX_CHUNK_SIZE))
        request_id = fields.text(message, "id", limits.MAX_ID_CHARS)
        self._work.fetch_refused(request_id, code, fields.retry_after(message), sizes, now)

    def _report(self, now: float) -> None:
        """The oldest news of an item; the first report of a connection also without."""
        report = self._numbered()
        report["desired_rev"] = 0
        if self._work.reports:
            self._asked = self._work.reports[0]
            report["item"] = self._asked
        self._requests.ask("report", report, now)

    def _numbered(self) -> "dict[str, Any]":
        return {"n": self._context.next_n(), "boot_count": self._context.boot_count}

    def _fetch(self, request: "dict[str, Any]") -> str:
        message: dict[str, Any] = {"id": self._context.next_id()}
        message.update(request)
        self._context.act(Publish(self._requests.topic("fetch"), packb(message), 1))
        return str(message["id"])
