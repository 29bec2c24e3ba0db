"""The token with which the business system posts order dispatch responses. Only its hash is stored."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.dialects.sqlite import insert as upsert

from service.errors import Secret, ServiceError
from service.operations.notes import note
from service.storage.database import Database
from service.storage.job_tables import config_entry
from service.storage.rows import to_ms

_ENTRY = "dispatch.token_sha256"
TOKEN_BYTES = 32


async def rotate(database: Database, *, by: str, now: datetime, random_bytes: Callable[[int], bytes]) -> Secret:
    """A new token, shown this once; the one before it is dead."""
    token = Secret(random_bytes(TOKEN_BYTES).hex().encode("ascii"))
    changed = {"value": json.dumps(_hash(token.reveal())), "changed_at": to_ms(now), "changed_by": by}
    statement = upsert(config_entry).values(name=_ENTRY, **changed)
    async with database.write(audit=False) as transaction:
        await transaction.connection.execute(statement.on_conflict_do_update(index_elements=["name"], set_=changed))
        await note(transaction.connection, by, "dispatch-token", {}, now)
    return token


async def check(database: Database, token: str) -> None:
    """Raises ServiceError REFUSED: there is none, or it is another."""
    async with database.read() as connection:
        found = (await connection.execute(select(config_entry.c.value).where(config_entry.c.name == _ENTRY))).scalar()
    expected = "" if found is None else str(json.loads(found))
    if not hmac.compare_digest(expected, _hash(token.encode("utf-8", "replace"))):
        raise ServiceError("REFUSED", "refused", cause="dispatch_token_wrong")


def _hash(token: bytes) -> str:
    return hashlib.sha256(token).hexdigest()
