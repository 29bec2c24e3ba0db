"""Where to connect next: the recovery ladder.

Owns the order of the rungs, when a rung is given up for the next one, and the waits between tries, without end.
Deletes nothing and knows no credential. Source: docs/protocol.md, section "The recovery ladder". Runs on MicroPython.
"""

from device_sdk.core.backoff import Backoff
from device_sdk.wire import limits

TYPE_CHECKING = False  # a checker takes it for typing's, which MicroPython lacks
if TYPE_CHECKING:
    from device_sdk.core.context import Context

NEXT = "next"
CURRENT = "current"
BOOTSTRAP = "bootstrap"  # followed by which endpoint it is (places.py)


# A new activation while the credential of the last one was not answered yet: rarer each time, or a device that waits
# for an operator would ask for one credential after the other.
_REACTIVATE_FIRST_S = 60.0
_REACTIVATE_MAX_S = 6 * 3600.0
_LASTING_S = 10.0  # a connection shorter than this does not reset the back-off


class Ladder:
    """The rungs are given by name, in order, at each choice, because credentials come and go."""

    def __init__(self, context: "Context") -> None:
        policy = context.policy
        self._tries = policy.rung_tries
        self._span_s = policy.rung_span_s
        self._backoff = Backoff(policy.backoff_first_s, policy.backoff_max_s, context.random_bytes)
        self._refusals = Backoff(limits.RETRY_FIRST_S, limits.RETRY_MAX_S, context.random_bytes)
        self._activations = Backoff(_REACTIVATE_FIRST_S, _REACTIVATE_MAX_S, context.random_bytes)
        self._answered_at: float | None = None
        self._not_before: dict[str, float] = {}
        self._fails = 0
        self._first_fail_at = 0.0
        self._leave = False
        self.rung: str | None = None

    def restart(self) -> None:
        """Other rungs than before: from the first of them, and at once."""
        self.rung = None
        self._fails = 0
        self._leave = False
        self._answered_at = None
        self._not_before = {}

    def activated(self, rungs: "list[str]", now: float) -> None:
        """There is a new credential: from the first rung again; the bootstrap rungs among `rungs` rest for a while."""
        self.rung = None
        self._fails = 0
        self._leave = False
        self._not_before.pop(NEXT, None)
        rest_until = now + self._activations.next()
        for rung in rungs:
            if rung.startswith(BOOTSTRAP):
                self._not_before[rung] = rest_until

    def answered(self, now: float) -> None:
        """An `online` was answered ok, under the credential that from now on is the current one."""
        self.rung = CURRENT
        self._answered_at = now
        self._not_before = {}
        self._refusals.reset()
        self._activations.reset()

    def failed(self, now: float) -> float:
        """A try on this rung came to nothing; gives the time of the next try.

        The rung is left after 3 tries over at least 60 s (the policy's numbers).
        """
        if self._answered_at is not None:
            # It worked here: begin at the first rung again.
            if now - self._answered_at >= _LASTING_S:
                self._backoff.reset()
            self._answered_at = None
            self.rung = None
            self._fails = 0
            return now + self._backoff.next()
        if self._fails == 0:
            self._first_fail_at = now
        self._fails += 1
        if self._fails >= self._tries and now - self._first_fail_at >= self._span_s:
            self._leave = True
        return now + self._backoff.next()

    def refused(self, retry_after_s: "int | None", now: float) -> float:
        """The service said no on this rung: it rests for as long as told (else 1 h, doubling to 24 h); next try's time."""
        wait_s = self._refusals.next() if retry_after_s is None else retry_after_s
        if self.rung is not None:
            self._not_before[self.rung] = now + wait_s
        self._leave = True
        return now + self._backoff.next()

    def choose(self, rungs: "list[str]", at: float) -> "tuple[str, float]":
        """(rung, time) of the next try, not before `at`. `rungs` holds at least one."""
        start = 0
        if self.rung in rungs:
            start = rungs.index(self.rung)
            if self._leave:
                start = (start + 1) % len(rungs)
        if self._leave or self.rung not in rungs:
            self._fails = 0
        self._leave = False
        order = rungs[start:] + rungs[:start]
        best = order[0]
        for rung in order:
            if self._not_before.get(rung, 0.0) <= at:
                best = rung
                break
            if self._not_before.get(rung, 0.0) < self._not_before.get(best, 0.0):
                best = rung
        if best != self.rung:
            self._fails = 0
        self.rung = best
        return best, max(at, self._not_before.get(best, 0.0))
