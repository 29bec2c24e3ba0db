"""The operational connection: online, reports, pushes, chunks.

Owns what is asked on one connection under one credential, in which order, one numbered request at a time. Decides
nothing about firmware and stores nothing but through its neighbours. Source: docs/protocol.md, sections "Requests" to
"report". Runs on MicroPython.
"""

from device_sdk.core import fields
from device_sdk.core.actions import Publish
from device_sdk.core.desired import RefusedDocumentError
from device_sdk.core.fields import MalformedError
from device_sdk.core.requests import Requests
from device_sdk.wire import codes, limits, topics
from device_sdk.wire.packer import packb

TYPE_CHECKING = False  # a checker takes it for typing's, which MicroPython lacks
if TYPE_CHECKING:
    from typing import Any

    from device_sdk.core.context import Context
    from device_sdk.core.desired import Desired
    from device_sdk.core.wishes import Wishes

# What became of the session; the client acts on it.
GOES_ON = "goes_on"
ONLINE = "online"  # the first answered online
REFUSED = "refused"
RETIRED = "retired"

_PATIENCE_S = 120  # a "later" that is shorter is waited for on this connection
_MAX_RENUMBERED = 3
_MAX_BOOT_COUNT = 1 << 48  # a peer that names a higher one is not believed
_LATER = (codes.THROTTLED, codes.UNAVAILABLE, codes.INTERNAL)


class Session:
    """`up`: an online was answered ok. `refusal`: (code, retry_after_s) after REFUSED."""

    def __init__(
        self,
        context: "Context",
        credential: "dict[str, Any]",
        desired: "Desired",
        wishes: "Wishes",
        spare: bool = False,
    ) -> None:
        """`spare`: there is another credential, which may be in force while this one has to wait."""
        self._context = context
        self._spare = spare
        self._desired = desired
        self._wishes = wishes
        self._firmware = wishes.firmware
        self._sent: dict[str, Any] = {}  # what the open report says besides firmware
        self._telling: dict[str, Any] | None = None  # the firmware map in the open report
        self._report_due = False
        self._doc_cause: str | None = None  # why the newest document was refused, until it is reported
        self._doc_cause_told: str | None = None
        self._again_at: float | None = None  # when to say online or report again after a refusal
        self._contact_at: float | None = None
        self._renumbered = 0
        self.owner: str = credential["credential_id"]
        self._thing_id: str = credential["thing_id"]
        self.requests = Requests(context, topics.OPERATIONAL, self.owner)
        self.up = False
        self.refusal: tuple[str, int | None] = ("", None)

    @property
    def wake_at(self) -> "float | None":
        times = [at for at in (self.requests.wake_at, self._again_at, self._contact_at) if at is not None]
        return min(times) if times else None

    def start(self, now: float) -> None:
        """Connected and subscribed: say online."""
        self._again_at = None
        online = self._numbered()
        online["firmware"] = self._firmware.running
        online["caps"] = []
        self.requests.ask("online", online, now)

    def tick(self, now: float) -> bool:
        """False when the service stays silent and it is time to reconnect."""
        if self._again_at is not None and now >= self._again_at:
            self._again_at = None
            if not self.up:
                self.start(now)
        if self._contact_at is not None and now >= self._contact_at:
            self._report_due = True
            self._next_contact(now)
        self.report(now)
        return self.requests.tick(now)

    def report(self, now: float) -> None:
        """Send what there is to tell, when no request is open."""
        if not self.up or self.requests.verb is not None or self._again_at is not None:
            return
        if self._wishes.handshake.due:
            self.requests.ask("handshake", self._wishes.handshake.asked(), now)
            return
        if not self._report_due and not self._firmware.job.pending and not self._wishes.news.fields:
            return
        report = self._numbered()
        self._telling = self._firmware.job.pending[0] if self._firmware.job.pending else None
        firmware = self._telling
        if self._doc_cause is not None:
            # The document's trouble rides on the state of the job, which it does not change.
            firmware = dict(firmware) if firmware is not None else self._firmware.job.now()
            firmware["cause"] = self._doc_cause
        if firmware is not None:
            report["firmware"] = firmware
        if self._desired.unsupported:
            report["unsupported"] = self._desired.unsupported
        self._sent = dict(self._wishes.news.fields)
        report.update(self._sent)
        self._doc_cause_told, self._doc_cause = self._doc_cause, None
        self._report_due = False
        self._next_contact(now)
        self.requests.ask("report", report, now)

    def fetch(self, request: "dict[str, Any]") -> str:
        """Send one fetch, which is answered by chunks; gives its id."""
        message = {"id": self._context.next_id()}
        message.update(request)
        self._context.act(Publish(self.requests.topic("fetch"), packb(message), 1))
        return message["id"]

    # What arrives

    def message(self, verb: str, message: "dict[str, Any]", now: float) -> str:
        """A reply or push other than a chunk; one of the words above. Raises MalformedError."""
        if verb == "desired":
            self._report_due = True  # every push is answered, also one that brings nothing new
            return self._document(message.get("desired"), now) if self.up else GOES_ON
        if verb == "fetch":
            self._fetch_refused(message, now)
            return GOES_ON
        if message.get("ok") is True:
            return self._answered(verb, message, now)
        if message.get("ok") is not False:
            raise MalformedError("ok")
        # All is read before the request is closed: a reply that makes no sense is none, and the request is repeated.
        code = fields.text(message, "code", 64)
        numbers = _numbers(message) if code == codes.CONFLICT else None
        if not self.requests.answers(verb, message):
            return GOES_ON
        return self._refused(verb, code, fields.retry_after(message), numbers, now)

    def _answered(self, verb: str, reply: "dict[str, Any]", now: float) -> str:
        if not self.requests.answers(verb, reply):
            return GOES_ON
        result = GOES_ON
        if verb == "online":
            self.up = True
            self._next_contact(now)
            result = ONLINE
        elif verb == "report":
            pending = self._firmware.job.pending
            if self._telling is not None and pending and pending[0] is self._telling:
                pending.pop(0)
            sent, self._sent = self._sent, {}
            self._wishes.told(sent)
        elif verb == "handshake":
            self._wishes.handshake.answered(reply, self._thing_id, self.owner, now)
            return result
        self._telling = None
        return result

    def desired_of(self, reply: "dict[str, Any]", now: float) -> str:
        """The document that may come with a reply; after a report that told of its trouble the same is not told again."""
        if reply.get("desired") is None:
            return GOES_ON
        return self._document(reply["desired"], now)

    def _document(self, desired: object, now: float) -> str:
        try:
            found = self._desired.check(desired)
        except RefusedDocumentError as refusal:
            self._context.trouble(refusal.cause, "desired document refused")
            if refusal.cause != self._doc_cause_told:
                self._report_due = True
            self._doc_cause = refusal.cause
            return GOES_ON
        self._doc_cause = None
        self._doc_cause_told = None
        if found is None:
            return GOES_ON
        values, doc = found
        self._report_due = True
        if values.get("retired") is not None:
            self._desired.accept(values, doc)
            return RETIRED
        self._wishes.offer(values, self.owner, now)
        self._desired.accept(values, doc)
        return GOES_ON

    def _refused(
        self, verb: str, code: str, wait_s: "int | None", numbers: "tuple[int, int] | None", now: float
    ) -> str:
        self._context.trouble(code.lower(), "%s refused" % verb)
        if verb == "handshake":
            self._wishes.handshake.put_off()
            return GOES_ON
        self._telling = None
        if numbers is not None and self._renumbered < _MAX_RENUMBERED:
            self._renumbered += 1
            self._renumber(*numbers)
            wait_s = 0
        if wait_s is None and code in _LATER:
            wait_s = _PATIENCE_S
        if verb == "report":
            # Advice: what is still to be told is told later, with a new number.
            self._report_due = True
            self._again_at = now + (_PATIENCE_S if wait_s is None else wait_s)
            if wait_s is None and self._firmware.job.pending:
                self._firmware.job.pending.pop(0)
            return GOES_ON
        patience_s = _PATIENCE_S
        if code == codes.CONFLICT and self._spare:
            # The old credential is asked for 30 s, and must keep silent; who has to wait longer goes on with it.
            patience_s = limits.HOLD_S
        if wait_s is not None and wait_s <= patience_s:
            self._again_at = now + wait_s
            return GOES_ON
        self.refusal = (code, wait_s)
        return REFUSED

    def _renumber(self, boot_count: int, n: int) -> None:
        """The service has seen higher numbers than ours (our record of them was lost): go on above."""
        if boot_count > self._context.boot_count:
            self._context.raise_boot_count(boot_count + 1)
        elif boot_count == self._context.boot_count:
            self._context.n = max(self._context.n, n)

    def _fetch_refused(self, reply: "dict[str, Any]", now: float) -> None:
        if reply.get("ok") is not False:
            raise MalformedError("ok")
        code = fields.text(reply, "code", 64)
        sizes = None
        if code == codes.RANGE:
            low = fields.integer(reply, "chunk_size_min", limits.MIN_CHUNK_SIZE, limits.MAX_CHUNK_SIZE)
            sizes = (low, fields.integer(reply, "chunk_size_max", low, limits.MAX_CHUNK_SIZE))
        request_id = fields.text(reply, "id", limits.MAX_ID_CHARS)
        if code == codes.IMAGE_UNKNOWN:
            self._report_due = True  # its reply brings the document if ours is old
        self._firmware.update.fetch_refused(request_id, code, fields.retry_after(reply), sizes, now)

    def _next_contact(self, now: float) -> None:
        self._contact_at = now + self._context.jittered(self._context.policy.contact_s)

    def _numbered(self) -> "dict[str, Any]":
        n = self._context.next_n()
        return {"n": n, "boot_count": self._context.boot_count, "desired_rev": self._desired.rev}


def _numbers(reply: "dict[str, Any]") -> "tuple[int, int] | None":
    """(boot_count, n) that a CONFLICT names; None when it names none."""
    state = reply.get("state")
    if not isinstance(state, dict):
        return None
    boot_count = fields.integer(state, "boot_count", 0, _MAX_BOOT_COUNT)
    return boot_count, fields.integer(state, "n", 0, limits.MAX_INT - 1)
