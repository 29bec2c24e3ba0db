"""A message on its way: what the stages hand to each other, and queues that are fair between sessions.

Owns the order in which waiting messages are taken; decides nothing about them. No asyncio, no clock.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass

from service.credentials.authority import Csr, Order, Signed
from service.domain.hook import Answer
from service.handlers.decision import Proven
from service.mqtt.port import Link
from service.protocol.decode import Decoded


@dataclass(slots=True, eq=False)
class Job:
    """One decoded request, or (link None) something that the clock asks of a credential's device."""

    verb: str
    owner: str  # session or credential id; of what the clock asks of a device, its device id
    operational: bool
    trace_id: str
    link: Link | None = None
    decoded: Decoded | None = None
    acknowledge: Callable[[], None] | None = None
    csr: Csr | None = None
    answer: Answer | None = None  # of the group's hook
    signed: tuple[Order, Signed] | None = None  # its certificate
    proven: Proven | None = None  # when it was found to need one

    @property
    def encoding(self) -> str:
        return self.decoded.encoding if self.decoded is not None else ""

    @property
    def request_id(self) -> str:
        return self.decoded.request.id if self.decoded is not None else ""

    def done(self) -> None:
        """Acknowledge, once."""
        acknowledge, self.acknowledge = self.acknowledge, None
        if acknowledge is not None:
            acknowledge()


class FairQueue:
    """Takes one job of each owner in turn, so that a flood of one delays nobody else."""

    __slots__ = ("_bound", "_count", "_of_owner", "_per_owner")

    def __init__(self, bound: int, per_owner: int) -> None:
        self._bound = bound
        self._per_owner = per_owner
        self._of_owner: OrderedDict[str, deque[Job]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def offer(self, job: Job) -> bool:
        """Whether there was room, for this owner and overall."""
        if self._count >= self._bound:
            return False
        waiting = self._of_owner.get(job.owner)
        if waiting is None:
            self._of_owner[job.owner] = deque((job,))
        elif len(waiting) >= self._per_owner:
            return False
        else:
            waiting.append(job)
        self._count += 1
        return True

    def take(self, limit: int) -> list[Job]:
        """Up to `limit` jobs, round robin over owners."""
        taken: list[Job] = []
        while len(taken) < limit and self._of_owner:
            owner, waiting = self._of_owner.popitem(last=False)
            taken.append(waiting.popleft())
            if waiting:
                self._of_owner[owner] = waiting
        self._count -= len(taken)
        return taken
