"""What a running service does about keys that a command has changed: it takes them over, and says so.

Owns the moment. Which keys change so, credentials/followed_keys.py knows; who waits for it are operations/rekeying.py and
key_exchange.py.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from service.credentials.followed_keys import FollowedKeys
from service.credentials.keyfile import KeyFile
from service.errors import ServiceError
from service.operations.rekeying import say_keys
from service.storage.database import Database

log = logging.getLogger("firstlight.rotation")
LOOK_S = 1.0


class Rotation:
    """`tick` looks once; `run` does every second. `who`: a name for this service that it has at its next start too."""

    def __init__(self, keys: FollowedKeys, database: Database, use: Callable[[KeyFile], None], who: str) -> None:
        self._keys = keys
        self._database = database
        self._use = use
        self._who = who
        self._used: KeyFile | None = None
        self._said: int | None = None

    async def run(self) -> None:
        while True:
            try:
                await self.tick()
            except ServiceError as error:
                log.warning("which keys are in use was not stored: %s", error)
            await asyncio.sleep(LOOK_S)

    async def tick(self) -> None:
        """Take a changed file over; then say which keys are in use. Raises ServiceError UNAVAILABLE."""
        self._keys.look()  # one small file: not worth a thread
        keys = self._keys.keys  # taken over just now, or by `open`
        if keys is not self._used:
            self._use(keys)
            self._used = keys
        mark = keys.mark()
        if self._said != mark:
            await say_keys(self._database, self._who, keys)
            self._said = mark
