"""The publisher: tells integrators what has happened, in order, from where each of them was left off.

Owns the cursor of each account. An event counts as published when a broker's socket has taken it; that is no proof
that anybody has read it, so an integrator keeps the last number and fills gaps with `firstlight events --after`.
Operators are told here what became of a command after its last page.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from device_sdk.wire import topics
from service.errors import ServiceError
from service.fleet import replies
from service.mqtt import account_topics
from service.mqtt.port import Link, LinkDown
from service.operations import accounts, events
from service.operations.accounts import Account, AccountKind
from service.operations.events import Recorded
from service.operations.selectors import is_within
from service.storage.database import Database

log = logging.getLogger("firstlight.publisher")
LOOK_S = 0.5
PAGE = 200
SEND_TIMEOUT_S = 10.0
# What comes of a command for a device after its page was done.
LATER = frozenset({"moved", "move_failed", "replaced", "replacement_failed", "settings_failed"})
Push = Callable[[str, dict[str, Any]], Awaitable[None]]


class Publisher:
    """`run` it in a task; `look` is one round. `links`: the operational ones, by environment."""

    def __init__(
        self, database: Database, links: Mapping[str, Sequence[Link]], push: Push, *, root: str = topics.ROOT
    ) -> None:
        self._database = database
        self._links = links
        self._push = push
        self._root = root
        self._told: int | None = None  # events up to which operators have been told

    async def run(self) -> None:
        while True:
            try:
                await self.look()
            except ServiceError as error:
                log.warning("events wait: %s", error)
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Everything new, page by page. Raises ServiceError UNAVAILABLE."""
        newest = await events.newest(self._database)
        if self._told is None:
            self._told = newest
        for account, cursor in await accounts.integrators(self._database):
            if cursor < newest and account.disabled_at is None:
                await self._publish(account, cursor)
        while self._told < newest:
            page = await events.page(self._database, after=self._told, limit=PAGE, kinds=LATER)
            for one in page:
                await self._tell(one)
            self._told = page[-1].seq if len(page) == PAGE else newest

    async def _publish(self, account: Account, cursor: int) -> None:
        links = [
            link for environment, of in self._links.items() if account.environment in (None, environment) for link in of
        ]
        while links:
            page = await events.page(self._database, after=cursor, limit=PAGE)
            sent = cursor
            for one in page:
                if is_within(one.event.ou, account.ou) and not await self._sent(links, account.name, one):
                    break
                sent = one.seq
            if sent != cursor:
                await accounts.set_event_cursor(self._database, account.name, sent)
            if len(page) < PAGE or sent != page[-1].seq:
                return
            cursor = sent

    async def _sent(self, links: Sequence[Link], name: str, one: Recorded) -> bool:
        """Whether at least one broker has taken it."""
        topic = account_topics.event(name, one.event.kind, self._root)
        payload, taken = replies.push(one.document()), False
        for link in links:
            try:
                async with asyncio.timeout(SEND_TIMEOUT_S):
                    await link.publish(topic, payload)
                taken = True
            except (LinkDown, TimeoutError):
                continue
        return taken

    async def _tell(self, one: Recorded) -> None:
        command_id = one.event.command_id
        if command_id is None:
            return
        account = await accounts.account_of_command(self._database, command_id)
        if account is not None and account.kind is AccountKind.OPERATOR:
            await self._push(account.name, one.document())
