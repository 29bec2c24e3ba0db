"""What a running service does about rotated keys: it takes them over, and says so.

Owns the moment. Which keys change so, credentials/followed_keys.py knows; who waits for it is operations/rekeying.py.
"""

from __future__ import annotations

import asyncio
import logging

from service.credentials.followed_keys import FollowedKeys
from service.errors import ServiceError
from service.operations.rekeying import say_seals_with
from service.pipeline.inbound import Admission
from service.storage.database import Database

log = logging.getLogger("firstlight.rotation")
LOOK_S = 1.0


class Rotation:
    """`tick` looks once; `run` does every second. `who`: a name for this service that it has at its next start too."""

    def __init__(self, keys: FollowedKeys, database: Database, admission: Admission, who: str) -> None:
        self._keys = keys
        self._database = database
        self._admission = admission
        self._who = who
        self._said: str | None = None

    async def run(self) -> None:
        while True:
            try:
                await self.tick()
            except ServiceError as error:
                log.warning("which key secrets are sealed with was not stored: %s", error)
            await asyncio.sleep(LOOK_S)

    async def tick(self) -> None:
        """Take a rotated file over; then say which key is in use. Raises ServiceError UNAVAILABLE."""
        self._keys.look()  # one small file: not worth a thread
        keys = self._keys.keys  # taken over just now, or by `open`
        self._admission.nonce_keys = keys.nonce_keys()
        if self._said != keys.seal_current:
            await say_seals_with(self._database, self._who, keys.seal_current)
            self._said = keys.seal_current
