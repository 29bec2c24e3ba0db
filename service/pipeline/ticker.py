"""What happens because time passes: lapsed credentials, a changed catalogue, counters, pruning.

Owns no rule: what needs one goes through the executor like a message. Every look is bounded by a page.
Source: docs/protocol.md, 4.4 and 5.1.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from service.pipeline.bounds import Bounds
from service.pipeline.executor import EXPIRE, REFRESH, TEND
from service.pipeline.granter import guarded
from service.pipeline.jobs import Job
from service.pipeline.ports import Upkeep
from service.pipeline.record import Record

_REFRESH_PAGE = 256
_TEND_PAGE = 2000  # a round
_RENEW_EVERY = timedelta(hours=1)
_LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
_PRUNE_EVERY = 60  # ticks


class Ticker:
    """`tick` does one round; `run` does one every so often."""

    def __init__(
        self,
        upkeep: Upkeep,
        bounds: Bounds,
        record: Record,
        *,
        clock: Callable[[], datetime],
        submit: Callable[[Job], bool],
    ) -> None:
        self._upkeep = upkeep
        self._bounds = bounds
        self._record = record
        self._clock = clock
        self._submit = submit
        self._refreshed: int | None = None  # the catalogue's revision that every device has been compared with
        self._refreshing: int | None = None
        self._after = ""  # how far the comparison with `_refreshing` has come
        self._tended: int | None = None  # the last event whose device has been looked at
        self._remembered = 0  # the same, as the database has it
        self._renewals_to: datetime | None = None  # whose time came before then has been told
        self._ticks = 0

    async def run(self) -> None:
        while True:
            await self.tick()
            await asyncio.sleep(self._bounds.tick_s)

    async def tick(self) -> None:
        """One round; each part is tried even when another fails."""
        self._ticks += 1
        await guarded("refresh", self._record, self._refresh)
        await guarded("expire", self._record, self._expire)
        await guarded("deadlines", self._record, self._lapse)
        await guarded("changes", self._record, self._tend)
        await guarded("renewals", self._record, self._renew)
        await guarded("counters", self._record, self.flush)
        if self._ticks % _PRUNE_EVERY == 1:
            await guarded("prune", self._record, self._prune)

    async def flush(self) -> None:
        """Store the counters that no batch has taken along."""
        counters = self._record.take_counters()
        if not counters:
            return
        try:
            await self._upkeep.add_counters(counters)
        except BaseException:
            self._record.give_back(counters)
            raise

    async def _refresh(self) -> None:
        """After a change of the catalogue: have the document of every confirmed credential compared, page by page.

        The database remembers which revision all have been compared with, so a change while no service ran, or a
        restart in the middle, is not forgotten. A push to a device that is not connected reaches nobody and does no
        harm: it is told at its next contact.
        """
        if self._refreshed is None:
            self._refreshed = await self._upkeep.refreshed_rev()
        rev = await self._upkeep.catalogue_rev()
        if rev == self._refreshed:
            return
        if rev != self._refreshing:
            self._refreshing, self._after = rev, ""
        while page := await self._upkeep.confirmed(after=self._after, limit=_REFRESH_PAGE):
            for credential_id in page:
                if not self._submit(Job(REFRESH, credential_id, operational=True, trace_id=secrets.token_hex(8))):
                    return  # the queue is full of requests: they come first
                self._after = credential_id
        await self._upkeep.set_refreshed_rev(rev)
        self._refreshed, self._refreshing = rev, None

    async def _expire(self) -> None:
        for credential_id in await self._upkeep.pending_expired(self._clock(), limit=_REFRESH_PAGE):
            self._submit(Job(EXPIRE, credential_id, operational=True, trace_id=secrets.token_hex(8)))

    async def _lapse(self) -> None:
        """Deadlines of moves, replacements and firmware states."""
        for device_id in await self._upkeep.due(self._clock(), limit=_REFRESH_PAGE):
            self._submit(Job(TEND, device_id, operational=True, trace_id=secrets.token_hex(8)))

    async def _tend(self) -> None:
        """Push what operators have changed, by whatever process; the database remembers how far this has come."""
        if self._tended is None:
            self._tended = self._remembered = await self._upkeep.tended_to()
        for number, device_id in await self._upkeep.touched(self._tended, limit=_TEND_PAGE):
            if not self._submit(Job(TEND, device_id, operational=True, trace_id=secrets.token_hex(8))):
                break  # the queue is full of requests: they come first
            self._tended = number
        if self._tended != self._remembered:
            await self._upkeep.set_tended_to(self._tended)
            self._remembered = self._tended

    async def _renew(self) -> None:
        """Tell devices whose credential has come to two thirds of its life; at the start all that have."""
        now = self._clock()
        if self._renewals_to is not None and now - self._renewals_to < _RENEW_EVERY:
            return
        for device_id in await self._upkeep.renewable(self._renewals_to or _LONG_AGO, now):
            if not self._submit(Job(TEND, device_id, operational=True, trace_id=secrets.token_hex(8))):
                return  # the queue is full of requests: all of them again in the next round
        self._renewals_to = now

    async def _prune(self) -> None:
        await self._upkeep.delete_dropped(self._clock() - timedelta(seconds=self._bounds.dropped_kept_s))
        await self._upkeep.prune_traces()
        now, bounds = self._clock(), self._bounds
        await self._upkeep.prune_history(
            events_before=now - timedelta(seconds=bounds.events_kept_s),
            commands_before=now - timedelta(seconds=bounds.commands_kept_s),
            audit_before=now - timedelta(seconds=bounds.audit_kept_s),
        )
