"""The publisher: tells integrators what has happened, in order, from where each of them was left off.

Owns the loop of each environment over its integrators; their positions are operations/event_positions.py's. An event
counts as published when the socket of the environment's broker has taken it; that is no proof that anybody has read
it, so an integrator keeps the last number and fills gaps with `firstlight events --after`. Operators are told here what
became of a command after its last page.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

from device_sdk.wire import topics
from service.errors import ServiceError
from service.fleet import replies
from service.mqtt import account_topics
from service.mqtt.port import Link, LinkDown
from service.operations import accounts, aftermath, event_positions, events
from service.operations.accounts import Account, AccountKind
from service.operations.events import Recorded
from service.storage.database import Database

log = logging.getLogger("firstlight.publisher")
LOOK_S = 0.5
PAGE = 200
SEND_TIMEOUT_S = 10.0
# What comes of a command for a device after its page was done.
LATER = frozenset(
    {"moved", "move_failed", "replaced", "replacement_failed", "settings_failed", "rekeyed", "transfer_failed"}
)
Push = Callable[[str, dict[str, Any]], Awaitable[None]]


class Publisher:
    """`run` it in a task; `look_at` is one round of one environment. `links`: the operational ones, by environment."""

    def __init__(self, database: Database, links: Mapping[str, Link], push: Push, *, root: str = topics.ROOT) -> None:
        self._database = database
        self._links = links
        self._push = push
        self._root = root
        self._tidied: set[str] = set()  # environments without positions of accounts that are gone
        self._told: int | None = None  # events up to which operators have been told

    async def run(self) -> None:
        """An environment whose broker is slow or away holds up no other."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._for_ever(self.tell_operators), name="events to operators")
            for environment in self._links:
                look = partial(self.look_at, environment)
                group.create_task(self._for_ever(look), name=f"events of {environment}")

    async def _for_ever(self, look: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await look()
            except ServiceError as error:
                log.warning("events wait: %s", error)
            except Exception:  # one environment's fault holds up no other
                log.exception("events wait")
            await asyncio.sleep(LOOK_S)

    async def look_at(self, environment: str) -> None:
        """Everything that the integrators at these brokers have not been told. Raises ServiceError UNAVAILABLE."""
        if environment not in self._tidied:
            await event_positions.forget_the_gone(self._database, environment)
            self._tidied.add(environment)
        newest = await events.newest(self._database)
        for account, position in await event_positions.of_integrators(self._database, environment):
            if position < newest:
                await self._publish(environment, account, position)

    async def _publish(self, environment: str, account: Account, position: int) -> None:
        while True:
            page = await events.page(self._database, after=position, limit=PAGE)
            sent = position
            for one in page:
                if events.concerns(one.event, account.ou) and not await self._sent(environment, account.name, one):
                    break
                sent = one.seq
            if sent != position:
                await event_positions.advance(self._database, environment, account.name, sent)
            if len(page) < PAGE or sent != page[-1].seq:
                return
            position = sent

    async def _sent(self, environment: str, name: str, one: Recorded) -> bool:
        """Whether the broker has taken it."""
        topic = account_topics.event(name, one.event.kind, self._root)
        try:
            async with asyncio.timeout(SEND_TIMEOUT_S):
                await self._links[environment].publish(topic, replies.push(one.document()))
        except (LinkDown, TimeoutError):
            return False
        return True

    async def tell_operators(self) -> None:
        """What became of their commands since the last look. Raises ServiceError UNAVAILABLE."""
        newest = await events.newest(self._database)
        if self._told is None:
            self._told = newest
        while self._told < newest:
            page = await events.page(self._database, after=self._told, limit=PAGE, kinds=LATER)
            for one in page:
                await self._tell(one)
            self._told = page[-1].seq if len(page) == PAGE else newest

    async def _tell(self, one: Recorded) -> None:
        async with self._database.read() as connection:
            command_id = await aftermath.command_of(connection, one)
        if command_id is None:
            return
        account = await accounts.account_of_command(self._database, command_id)
        if account is not None and account.kind is AccountKind.OPERATOR:
            await self._push(account.name, {**one.document(), "command": command_id})
