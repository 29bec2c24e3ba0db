"""What devices of one environment must be told of their own accord: a changed document, a renewal that is due.

Owns how far that has come, by catalogue and by event. A push is QoS 0 and reaches nobody while the link is down, and a
device that stays connected to its broker has no reason to ask: so what was told counts only when the link has been up
for a while since, and is told again after a reconnect or a restart. Told twice does no harm.
Source: docs/protocol.md, 5.1.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Generic, TypeVar

from service.mqtt.port import Link
from service.pipeline.executor import REFRESH, TEND
from service.pipeline.jobs import Job
from service.pipeline.ports import Upkeep

SURE_AFTER = timedelta(seconds=30)  # twice the links' keep-alive: by then a dead connection has been noticed
_REFRESH_PAGE = 256
_TEND_PAGE = 2000  # a round
_RENEW_EVERY = timedelta(hours=1)
_MAX_TOLD = 64  # more than there are rounds in SURE_AFTER
_LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)

T = TypeVar("T")


class Progress(Generic[T]):
    """How far devices were told, and how far that is sure to have reached them."""

    def __init__(self, value: T) -> None:
        self.value = self.sure = value
        self._told: deque[tuple[datetime, T]] = deque()

    def advance(self, value: T, now: datetime) -> None:
        self.value = value
        if len(self._told) >= _MAX_TOLD:  # nothing becomes sure: the newest goes with the one before it
            self._told.pop()
        self._told.append((now, value))

    def again(self) -> None:
        """Forget what is not sure."""
        self.value = self.sure
        self._told.clear()

    def settle(self, now: datetime) -> bool:
        """Whether more has become sure."""
        before = self.sure
        if self._told and self._told[-1][0] > now:  # the clock was set back: as if told just now
            self._told = deque((min(at, now), value) for at, value in self._told)
        while self._told and now - self._told[0][0] >= SURE_AFTER:
            self.sure = self._told.popleft()[1]
        return self.sure != before


class Teller:
    """One environment's. Every method but `again` may raise ServiceError UNAVAILABLE; what failed comes again."""

    def __init__(
        self, link: Link, upkeep: Upkeep, *, clock: Callable[[], datetime], submit: Callable[[Job], bool]
    ) -> None:
        self._environment = link.environment
        self._link = link
        self._upkeep = upkeep
        self._clock = clock
        self._submit = submit
        self._catalogue: Progress[int] | None = None  # the revision that every device has been compared with
        self._comparing: int | None = None  # with which revision
        self._after = ""  # how far that has come
        self._events: Progress[int] | None = None  # the last event whose device has been looked at
        self._renewals = Progress(_LONG_AGO)  # whose time came before then has been told
        self._renewed_at = _LONG_AGO

    def again(self) -> None:
        """What was told lately may have reached nobody."""
        if self._catalogue is not None:
            self._catalogue.again()
        if self._events is not None:
            self._events.again()
        self._renewals.again()
        self._comparing, self._renewed_at = None, _LONG_AGO

    async def refresh(self, rev: int) -> None:
        """After a change of the catalogue: have the document of every confirmed credential compared, page by page."""
        if self._catalogue is None:
            self._catalogue = Progress(await self._upkeep.refreshed_rev(self._environment))
        progress = self._catalogue
        if self._link.up and progress.settle(self._clock()):
            await self._upkeep.set_refreshed_rev(self._environment, progress.sure)
        if rev == progress.value:
            return
        if rev != self._comparing:
            self._comparing, self._after = rev, ""
        while page := await self._upkeep.confirmed(self._environment, after=self._after, limit=_REFRESH_PAGE):
            for credential_id in page:
                if not self._ask(REFRESH, credential_id):
                    return
                self._after = credential_id
        if self._comparing == rev:  # not asked to tell again meanwhile
            progress.advance(rev, self._clock())
            self._comparing = None

    async def tend(self) -> None:
        """Look at the devices that an event touched, by whatever process it was made."""
        if self._events is None:
            self._events = Progress(await self._upkeep.tended_to(self._environment))
        progress = self._events
        if self._link.up and progress.settle(self._clock()):
            await self._upkeep.set_tended_to(self._environment, progress.sure)
        after = progress.value
        found = await self._upkeep.touched(self._environment, after, limit=_TEND_PAGE)
        told = after
        for number, device_id in found:
            if not self._ask(TEND, device_id):
                break
            told = number
        if told != after == progress.value:
            progress.advance(told, self._clock())

    async def renew(self) -> None:
        """Tell devices whose credential has come to two thirds of its life; at the start all that have."""
        now = self._clock()
        if now < self._renewed_at:  # the clock was set back: what comes to its time again is told again
            self._renewals, self._renewed_at = Progress(_LONG_AGO), _LONG_AGO
        progress = self._renewals
        if self._link.up:
            progress.settle(now)
        if now - self._renewed_at < _RENEW_EVERY:
            return
        since = progress.value
        for device_id in await self._upkeep.renewable(self._environment, since, now):
            if not self._ask(TEND, device_id):
                return  # all of them again in the next round
        if progress.value == since:
            progress.advance(now, now)
            self._renewed_at = now

    def _ask(self, verb: str, owner: str) -> bool:
        """False when the queue is full of requests: they come first."""
        return self._submit(Job(verb, owner, operational=True, trace_id=secrets.token_hex(8)))
