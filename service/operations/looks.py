"""The audit of what changes nothing: who has looked at what, and what was refused as a whole.

Owns these rows and their number. A question has its row before it is answered. The same one again within ten minutes is
counted, and a second row at their end says how often; of one account's different ones in that time the first 600 have
rows of their own, the rest are counted by verb. So whoever polls leaves a few rows an hour. What is counted is in memory
for that long. Commands that are done write rows of their own (command_rows.py).
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from pydantic import ValidationError
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from service.errors import ServiceError
from service.operations.requests import parse_device
from service.operations.selectors import Selector
from service.storage.database import Database
from service.storage.history import LOOKED
from service.storage.operator_tables import audit
from service.storage.rows import to_ms

WINDOW_S = 600.0
OWN_ROWS = 600  # of one account in that time
REMEMBERED = 4096  # questions of all accounts together; one more has them all written down
NAMES = 10  # devices and things of a selector that are named in a row
MAX_CHARS = 128  # of one argument
_ARGUMENTS = ("command", "what", "name", "order", "site", "step", "product")
_OTHERS = "-"
_NOBODY = ""  # whoever is no operator: all of them together have the rows of one


@dataclass(frozen=True, slots=True)
class Look:
    """One row of the audit. No secret, and bounded whatever was asked."""

    account: str
    verb: str
    selector: Mapping[str, Any]
    arguments: Mapping[str, Any]
    device: tuple[str, str] | None = None  # group, serial
    outcome: str = LOOKED
    cause: str | None = None
    before: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None
    command_id: str | None = None  # of a command that was refused as a whole


@dataclass(slots=True)
class _Open:
    look: Look
    since: datetime
    until: float  # monotonic
    again: int = 0


class Looks:
    """`note` before the answer; `settle` now and then, with `everything` at the end."""

    def __init__(
        self, database: Database, *, clock: Callable[[], datetime], monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._database = database
        self._clock = clock
        self._monotonic = monotonic
        self._open: dict[str, _Open] = {}
        self._own: dict[str, tuple[float, int]] = {}  # of an account: until when, how many rows of its own
        self._one = asyncio.Lock()

    async def note(self, look: Look, *, known: bool = True) -> None:
        """`known`: there is such an account. Raises ServiceError UNAVAILABLE: then nothing may be answered."""
        async with self._one:
            now = self._monotonic()
            row = self._row_of(look, now, known=known)
            before = self._open.get(_key(row))
            if before is not None and before.until > now:
                before.again += 1
                return
            if before is not None or len(self._open) >= REMEMBERED:
                await self._settle(now, everything=before is None)
            at = self._clock()
            async with self._database.write(audit=False) as transaction:
                await add(transaction.connection, row, at)
            self._open[_key(row)] = _Open(row, at, now + WINDOW_S)
            self._spend(look, now, known=known)

    async def settle(self, *, everything: bool = False) -> None:
        """Write down how often was asked again what was first asked ten minutes ago. Raises ServiceError UNAVAILABLE."""
        async with self._one:
            await self._settle(self._monotonic(), everything=everything)

    async def _settle(self, now: float, *, everything: bool) -> None:
        over = {key: one for key, one in self._open.items() if everything or one.until <= now}
        again = [one for one in over.values() if one.again]
        if again:
            at = self._clock()
            async with self._database.write(audit=False) as transaction:
                for one in again:
                    often = {**one.look.arguments, "again": one.again, "since": to_ms(one.since)}
                    await add(transaction.connection, replace(one.look, arguments=often), at)
        for key in over:
            del self._open[key]
        self._own = {account: own for account, own in self._own.items() if own[0] > now}

    def _row_of(self, look: Look, now: float, *, known: bool) -> Look:
        """What has a row: the look itself, or, above the account's share, all others of its verb together."""
        until, rows = self._own.get(look.account if known else _NOBODY, (0.0, 0))
        open_ = self._open.get(_key(look))
        if until <= now or rows < OWN_ROWS or (open_ is not None and open_.until > now):
            return look
        account, verb = (look.account, look.verb) if known else (_OTHERS, _OTHERS)
        return Look(account, verb, {}, {"others": True}, outcome=look.outcome)

    def _spend(self, look: Look, now: float, *, known: bool) -> None:
        whose = look.account if known else _NOBODY
        until, rows = self._own.get(whose, (0.0, 0))
        self._own[whose] = (now + WINDOW_S, 1) if until <= now else (until, rows + 1)


async def add(connection: AsyncConnection, look: Look, at: datetime) -> None:
    """The row, in somebody's transaction."""
    group_id, serial = look.device or (None, None)
    row = {
        "at": to_ms(at),
        "account": look.account,
        "command_id": look.command_id,
        "verb": look.verb,
        "selector": _json(look.selector),
        "arguments": _json(look.arguments),
        "group_id": group_id,
        "serial": serial,
        "before": None if look.before is None else _json(look.before),
        "after": None if look.after is None else _json(look.after),
        "outcome": look.outcome,
        "cause": look.cause,
    }
    await connection.execute(insert(audit), [row])


def of(account: str, verb: str, body: Mapping[str, Any], refused: ServiceError | None = None) -> Look:
    """What a message asked for, as far as that can be read: of a refused one anything may be wrong."""
    outcome, cause = (LOOKED, None) if refused is None else ("refused", refused.cause)
    device = _device(body.get("device"))
    selector = {"devices": ["/".join(device)]} if device is not None else _selector(body.get("selector"))
    arguments = {name: body[name][:MAX_CHARS] for name in _ARGUMENTS if _is_word(body.get(name))}
    return Look(account, verb, selector, arguments, device, outcome, cause)


def _device(name: object) -> tuple[str, str] | None:
    if not isinstance(name, str):
        return None
    try:
        group_id, serial = parse_device(name)
    except ServiceError:
        return None
    return None if group_id is None else (group_id, serial)


def _selector(asked: object) -> dict[str, Any]:
    if asked is None:
        return {}
    try:
        found = Selector.model_validate(asked)
    except ValidationError:
        return {}
    return short(found)


def short(selector: Selector | None) -> dict[str, Any]:
    """As it is stored of a command, but for long lists of names."""
    found = selector.document() if selector is not None else {}
    for names in ("devices", "things"):
        if len(every := found.get(names, [])) > NAMES:
            found[names] = [*every[:NAMES], f"and {len(every) - NAMES} more"]
    return found


def _is_word(value: object) -> bool:
    return isinstance(value, str) and value.isprintable()


def _key(look: Look) -> str:
    asked = (
        look.account,
        look.verb,
        look.selector,
        look.arguments,
        look.device,
        look.outcome,
        look.cause,
        look.command_id,
    )
    return json.dumps(asked, sort_keys=True)


def _json(value: Mapping[str, Any]) -> str:
    """In ASCII: text that nobody has looked at may hold half of a surrogate pair."""
    return json.dumps(dict(value), separators=(",", ":"))
