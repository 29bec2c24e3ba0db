"""Operators' requests that wait: one of each operator in turn, so that whoever asks much waits for himself.

Owns the order and the bounds; knows nothing of what is asked. No asyncio, no clock.
"""

from __future__ import annotations

from collections import OrderedDict, deque

from service.mqtt.port import Inbound

QUEUED = 256  # requests of all operators together
QUEUED_EACH = 128  # of one of them


class Turns:
    def __init__(self) -> None:
        self._of: OrderedDict[str, deque[Inbound]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def offer(self, operator: str, message: Inbound) -> bool:
        """Whether there was room, for this operator and overall."""
        waiting = self._of.get(operator, ())
        if self._count >= QUEUED or len(waiting) >= QUEUED_EACH:
            return False
        self._of.setdefault(operator, deque()).append(message)
        self._count += 1
        return True

    def take(self) -> Inbound:
        """The next one; there must be one. Its operator's next is taken after everybody else's next."""
        operator, waiting = self._of.popitem(last=False)
        message = waiting.popleft()
        if waiting:
            self._of[operator] = waiting
        self._count -= 1
        return message
