"""What happens because time passes: lapsed credentials, deadlines, counters, pruning; telling.py's rounds.

Owns no rule: what needs one goes through the executor like a message. Every look is bounded by a page.
Source: docs/protocol.md, 4.4 and 5.1.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial

from service.mqtt.port import Link
from service.pipeline.bounds import Bounds
from service.pipeline.executor import EXPIRE, TEND
from service.pipeline.granter import guarded
from service.pipeline.jobs import Job
from service.pipeline.ports import Upkeep
from service.pipeline.record import Record
from service.pipeline.telling import Teller

_PAGE = 256
_SELDOM = 60  # ticks


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
        self._tellers: dict[str, Teller] = {}  # by environment
        self._ticks = 0

    def watch(self, link: Link) -> None:
        """Tell this environment's devices; `link` is its operational one."""
        self._tellers[link.environment] = Teller(link, self._upkeep, clock=self._clock, submit=self._submit)

    def tell_again(self, environment: str | None = None) -> None:
        """What was told lately to devices of this environment, or of all, may have reached nobody."""
        for name, teller in self._tellers.items():
            if environment in (None, name):
                teller.again()

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
        for teller in self._tellers.values():
            await guarded("changes", self._record, teller.tend)
            await guarded("renewals", self._record, teller.renew)
        await guarded("counters", self._record, self.flush)
        if self._ticks % _SELDOM == 1:
            await guarded("lives", self._record, self._end_lives)
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
        rev = await self._upkeep.catalogue_rev()
        for teller in self._tellers.values():
            await guarded("refresh", self._record, partial(teller.refresh, rev))

    async def _expire(self) -> None:
        for credential_id in await self._upkeep.pending_expired(self._clock(), limit=_PAGE):
            self._submit(Job(EXPIRE, credential_id, operational=True, trace_id=secrets.token_hex(8)))

    async def _end_lives(self) -> None:
        """API keys that nobody renewed in time. One walk over those in use, where a group gives them a life."""
        for credential_id in await self._upkeep.outlived(self._clock(), limit=_PAGE):
            self._submit(Job(EXPIRE, credential_id, operational=True, trace_id=secrets.token_hex(8)))

    async def _lapse(self) -> None:
        """Deadlines of moves, replacements and firmware states."""
        for device_id in await self._upkeep.due(self._clock(), limit=_PAGE):
            self._submit(Job(TEND, device_id, operational=True, trace_id=secrets.token_hex(8)))

    async def _prune(self) -> None:
        await self._upkeep.delete_dropped(self._clock() - timedelta(seconds=self._bounds.dropped_kept_s))
        await self._upkeep.prune_traces()
        now, bounds = self._clock(), self._bounds
        await self._upkeep.prune_revoked(now)
        await self._upkeep.prune_history(
            events_before=now - timedelta(seconds=bounds.events_kept_s),
            commands_before=now - timedelta(seconds=bounds.commands_kept_s),
            audit_before=now - timedelta(seconds=bounds.audit_kept_s),
        )
