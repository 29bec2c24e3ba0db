"""Writing the audit for what is no command: configuration, jobs, enrolment, who administers. Reading it is audits.py's.

Owns the one statement. Arguments, before and after never hold a secret: callers leave it out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from service.storage.rows import to_ms
from service.storage.tables import audit


async def note(
    connection: AsyncConnection,
    account: str,
    verb: str,
    arguments: Mapping[str, Any],
    now: datetime,
    *,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
    outcome: str = "changed",
) -> None:
    """In the transaction of the change itself."""
    row = {
        "at": to_ms(now),
        "account": account,
        "command_id": None,
        "verb": verb,
        "selector": "{}",
        "arguments": _json(arguments),
        "before": None if before is None else _json(before),
        "after": None if after is None else _json(after),
        "outcome": outcome,
        "cause": None,
    }
    await connection.execute(insert(audit), [row])


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(dict(value), ensure_ascii=False, separators=(",", ":"))
