"""One open request and its repeats.

Owns what is asked on one connection until it is answered: the same id and bytes again after 2 s, then 1.5 times longer
each time, +-25 %, a bounded number of times. Does not read replies beyond their id. Source: docs/protocol.md, section
"Repeating". Runs on MicroPython.
"""

from device_sdk.core.actions import Publish
from device_sdk.wire import topics
from device_sdk.wire.packer import packb

TYPE_CHECKING = False  # a checker takes it for typing's, which MicroPython lacks
if TYPE_CHECKING:
    from typing import Any

    from device_sdk.core.context import Context

_GROWTH = 1.5


class Requests:
    """The requests of one connection, at most one open. `space` and `owner` are those of its topics."""

    def __init__(self, context: "Context", space: str, owner: str) -> None:
        self._context = context
        self._space = space
        self._owner = owner
        self._id = ""
        self._topic = ""
        self._payload = b""
        self._sent = 0
        self._timeout_s = 0.0
        self.verb: str | None = None  # of the open request
        self.wake_at: float | None = None

    def ask(self, verb: str, fields: "dict[str, Any]", now: float) -> None:
        """Send a new request; the one before it is forgotten."""
        self._id = self._context.next_id()
        message = {"id": self._id}
        message.update(fields)
        self._topic = self.topic(verb)
        self._payload = packb(message)
        self.verb = verb
        self.repeat_at(now)
        self.tick(now)

    def answers(self, verb: str, reply: "dict[str, Any]") -> bool:
        """Whether this is the reply to the open request, which then is no longer open."""
        if self.verb is None or verb != self.verb or reply.get("id") != self._id:
            return False
        self.verb = None
        self.wake_at = None
        return True

    def reopen_at(self, verb: str, at: float) -> None:
        """The request that was just answered with "later": the same bytes again at that time."""
        self.verb = verb
        self.repeat_at(at)

    def repeat_at(self, at: float) -> None:
        self._sent = 0
        self._timeout_s = self._context.policy.request_timeout_s
        self.wake_at = at

    def tick(self, now: float) -> bool:
        """Repeat what is due; False when the peer stays silent and it is time to reconnect."""
        if self.verb is None or self.wake_at is None or now < self.wake_at:
            return True
        if self._sent >= self._context.policy.request_tries:
            self._context.trouble("unanswered", self.verb)
            self.verb = None
            self.wake_at = None
            return False
        self._sent += 1
        self._context.act(Publish(self._topic, self._payload, 1))
        self.wake_at = now + self._context.jittered(self._timeout_s)
        self._timeout_s *= _GROWTH
        return True

    def topic(self, verb: str) -> str:
        return topics.up(self._space, self._owner, verb, self._context.policy.root)
