"""What is counted, remembered and logged of each decision.

Owns the counters that no batch has taken yet, the bounded ring of unproven traces and the log lines. Never holds a
payload or a secret.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Iterable, Mapping

from service.domain.changes import Trace

log = logging.getLogger("firstlight.pipeline")


class Record:
    def __init__(self, bound: int) -> None:
        self.unproven: deque[Trace] = deque(maxlen=bound)
        self._counters: Counter[str] = Counter()

    def count(self, *names: str) -> None:
        for name in names:
            self._counters[name] += 1

    def take_counters(self) -> dict[str, int]:
        """What has been counted since the last call; give it back if it could not be stored."""
        taken, self._counters = self._counters, Counter()
        return dict(taken)

    def give_back(self, counters: Mapping[str, int]) -> None:
        self._counters.update(counters)

    def remember(self, trace: Trace) -> None:
        """A step of someone who has proved nothing."""
        self.unproven.append(trace)
        if log.isEnabledFor(logging.DEBUG):
            log.debug("%s %s", trace.verb, trace.step, extra=_extra(trace))

    def log_steps(self, traces: Iterable[Trace]) -> None:
        """Steps that are committed."""
        if log.isEnabledFor(logging.INFO):
            for trace in traces:
                log.info("%s %s", trace.verb, trace.step, extra=_extra(trace))


def _extra(trace: Trace) -> dict[str, object]:
    return {
        "trace_id": trace.trace_id,
        "verb": trace.verb,
        "code": trace.code,
        "cause": trace.cause,
        "group_id": trace.group_id,
        "serial": trace.serial,
        "credential_id": trace.credential_id,
        "detail": trace.detail,
    }
