"""Audit rows for what changes no row that is audited by itself (storage/auditing.py): a run, a sign-in, a token.

Owns the one statement. Arguments, before and after never hold a secret: callers leave it out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from service.storage.auditing import called
from service.storage.operator_tables import audit
from service.storage.rows import to_ms


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
    """In the transaction of the change itself, which audits nothing else. `verb` unless a command has a name for it."""
    row = {
        "at": to_ms(now),
        "account": account,
        "command_id": None,
        "verb": called(verb),
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
