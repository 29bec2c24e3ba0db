"""What happens because time passes: lapsed credentials, a changed catalogue, counters, pruning.

Owns no rule: what needs one goes through the executor like a message. Every look is bounded by a page.
Source: docs/protocol.md, 4.4 and 5.1.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime, timedelta

from service.pipeline.bounds import Bounds
from service.pipeline.executor import EXPIRE, REFRESH
from service.pipeline.granter import guarded
from service.pipeline.jobs import Job
from service.pipeline.ports import Upkeep
from service.pipeline.record import Record

_REFRESH_PAGE = 256
_PRUNE_EVERY = 60  # ticks


class Ticker:
    """`heard` is told of every credential in use; `tick` does one round."""

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
        self._online: OrderedDict[str, str] = OrderedDict()
        self._to_refresh: list[str] = []
        self._rev: int | None = None
        self._ticks = 0

    def heard(self, credential_id: str, environment: str) -> None:
        """Note that a credential spoke; beyond the bound the longest silent is forgotten."""
        self._online[credential_id] = environment
        self._online.move_to_end(credential_id)
        if len(self._online) > self._bounds.online_credentials:
            self._online.popitem(last=False)

    def forget(self, credential_id: str) -> None:
        self._online.pop(credential_id, None)

    async def run(self) -> None:
        while True:
            await self.tick()
            await asyncio.sleep(self._bounds.tick_s)

    async def tick(self) -> None:
        """One round; each part is tried even when another fails."""
        self._ticks += 1
        await guarded("refresh", self._record, self._refresh)
        await guarded("expire", self._record, self._expire)
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
        """After a change of the catalogue: have the document of everyone online compared, a page each round."""
        rev = await self._upkeep.catalogue_rev()
        if self._rev is not None and rev != self._rev:
            self._to_refresh = list(self._online)
        self._rev = rev
        while self._to_refresh:
            page, self._to_refresh = self._to_refresh[:_REFRESH_PAGE], self._to_refresh[_REFRESH_PAGE:]
            for at, credential_id in enumerate(page):
                if not self._submit(Job(REFRESH, credential_id, operational=True, trace_id=secrets.token_hex(8))):
                    self._to_refresh = page[at:] + self._to_refresh
                    return  # the queue is full of requests: they come first
            await asyncio.sleep(0)

    async def _expire(self) -> None:
        for credential_id in await self._upkeep.pending_expired(self._clock(), limit=_REFRESH_PAGE):
            self._submit(Job(EXPIRE, credential_id, operational=True, trace_id=secrets.token_hex(8)))

    async def _prune(self) -> None:
        await self._upkeep.delete_dropped(self._clock() - timedelta(seconds=self._bounds.dropped_kept_s))
        await self._upkeep.prune_traces()
