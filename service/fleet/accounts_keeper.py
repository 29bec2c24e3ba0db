"""Keeps the brokers' accounts equal to the database's: a new one works, and one that is gone is out, within a second.

Owns the comparison; the gates do the rest. The database is the truth, whoever has changed it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping

from service.brokers.gate import BrokerGate, GateError
from service.errors import ServiceError
from service.logins import account_logins
from service.storage.database import Database

log = logging.getLogger("firstlight.accounts")
LOOK_S = 1.0
PATIENCE_S = 10.0  # the time to connect, at the start and after a broker's restart, is no news


class AccountsKeeper:
    """`run` it in a task; `look` is one round."""

    def __init__(
        self, database: Database, gates: Mapping[str, BrokerGate], *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._database = database
        self._gates = gates
        self._monotonic = monotonic
        self._failing: dict[str, float] = {}  # by environment, since when
        self._warned: set[str] = set()

    async def run(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        for environment in self._gates:
            try:
                await self.look_at(environment)
            except Exception:  # one environment's fault holds up no other
                log.exception("accounts of %s are not up to date", environment)

    async def look_at(self, environment: str) -> None:
        """One environment's part of a round."""
        try:
            wanted = await account_logins(self._database, environment)
            granted, revoked = await self._gates[environment].set_accounts(wanted)
        except (GateError, ServiceError) as error:
            now = self._monotonic()
            if now - self._failing.setdefault(environment, now) >= PATIENCE_S and environment not in self._warned:
                log.warning("accounts of %s are not up to date: %s", environment, error)
                self._warned.add(environment)
            return
        self._failing.pop(environment, None)
        self._warned.discard(environment)
        if granted or revoked:
            log.info("accounts of %s: %d granted, %d revoked", environment, granted, revoked)
