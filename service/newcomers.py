"""Logins that another process of the same database has promised for an environment that this one serves.

Owns the look at new pending credentials, once a second, for processes that serve only some environments. A device
whose credential was made elsewhere is let in here within about a second; until then its login is refused, and it tries
again. Grants of this process's own are not repeated.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import and_, literal_column, or_, select

from service.errors import ServiceError
from service.logins import login_of
from service.pipeline.granter import Granter
from service.storage import queries
from service.storage.database import Database
from service.storage.rows import from_ms, to_ms
from service.storage.store import SqlStore
from service.storage.tables import credential

log = logging.getLogger("firstlight.newcomers")
LOOK_EVERY_S = 1.0
OVERLAP = timedelta(seconds=60)  # a commit may come later than the time in its row; clocks of two machines differ
PAGE = 1000


class Newcomers:
    """Use: `run` in a task; `look` does one round."""

    def __init__(
        self,
        database: Database,
        store: SqlStore,
        granters: Mapping[str, Granter],
        service_key: Ed25519PrivateKey,
        *,
        clock: Callable[[], datetime],
    ) -> None:
        self._database = database
        self._store = store
        self._granters = granters
        self._service_key = service_key
        self._clock = clock
        self._since = clock() - OVERLAP

    async def run(self) -> None:
        while True:
            try:
                await self.look()
            except ServiceError as error:
                log.warning("new logins of other processes put off: %s", error.detail or error.public)
            except Exception:
                log.exception("new logins of other processes put off")
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self) -> int:
        """Grant what is new; returns how many. Raises ServiceError UNAVAILABLE."""
        begun = self._clock()
        granted, after = 0, (self._since, "")
        while page := await self._page(*after):
            granted += await self._grant({row[0]: row[1] for row in page})
            after = (page[-1][2], page[-1][0])
        self._since = begun - OVERLAP
        return granted

    async def _page(self, since: datetime, after: str) -> list[tuple[str, str, datetime]]:
        """(credential, environment, made at) of the next ones that are pending, oldest first."""
        of, at = credential.c, to_ms(since)
        query = (
            select(of.credential_id, of.environment, of.created_at)
            .where(of.state == literal_column("'pending'"), of.environment.in_(list(self._granters)))
            .where(or_(of.created_at > at, and_(of.created_at == at, of.credential_id > after)))
            .order_by(of.created_at, of.credential_id)
            .limit(PAGE)
        )
        async with self._database.read() as connection:
            rows = (await connection.execute(query)).all()
        return [(row[0], row[1], from_ms(row[2]) or since) for row in rows]

    async def _grant(self, environments: Mapping[str, str]) -> int:
        """Grant those of these credentials that this process has not been asked for; how many."""
        wanted = [one for one, environment in environments.items() if not self._granters[environment].has_seen(one)]
        if not wanted:
            return 0
        async with self._database.read() as connection:
            found = await queries.devices(connection, self._database.sealer, credential_ids=wanted)
        catalogue = await self._store.catalogue()
        asked = set(wanted)
        for device in found:
            for one in device.credentials:
                login = login_of(catalogue, device, one, self._service_key) if one.credential_id in asked else None
                if login is not None:
                    self._granters[one.environment].submit(login, lambda _: None)
        return len(wanted)
