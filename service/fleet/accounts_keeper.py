"""Keeps the brokers' accounts equal to the database's: a new one works, and one that is gone is out, within a second.

Owns the comparison; the gates do the rest. The database is the truth, whoever has changed it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from service.brokers.gate import AccountLogin, BrokerGate, GateError
from service.errors import ServiceError
from service.mqtt import account_topics
from service.operations import accounts
from service.operations.accounts import AccountKind
from service.storage.database import Database

log = logging.getLogger("firstlight.accounts")
LOOK_S = 1.0
_SPACES = {AccountKind.OPERATOR: account_topics.OPERATORS, AccountKind.INTEGRATOR: account_topics.EVENTS}


class AccountsKeeper:
    """`run` it in a task; `look` is one round."""

    def __init__(self, database: Database, gates: Mapping[str, BrokerGate]) -> None:
        self._database = database
        self._gates = gates
        self._failing: set[str] = set()

    async def run(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        for environment, gate in self._gates.items():
            try:
                live = await accounts.live(self._database, environment)
                wanted = [AccountLogin(one.name, _SPACES[one.kind], key, one.key_sha256) for one, key in live]
                granted, revoked = await gate.set_accounts(wanted)
            except (GateError, ServiceError) as error:
                if environment not in self._failing:
                    log.warning("accounts of %s are not up to date: %s", environment, error)
                self._failing.add(environment)
                continue
            self._failing.discard(environment)
            if granted or revoked:
                log.info("accounts of %s: %d granted, %d revoked", environment, granted, revoked)
