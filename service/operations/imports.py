"""Bulk registration from CSV or JSON lines, row by row.

Owns the two formats and the pages: a few thousand rows a transaction, and a pause between pages in which a running
service writes. Holds one page in memory, however long the file.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator
from contextlib import aclosing, closing
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

from device_sdk.wire import limits
from service.domain.device import PublicKey
from service.errors import ServiceError
from service.operations import row_files
from service.operations.registration import (
    Outcome,
    RandomBytes,
    Registration,
    Result,
    parse_key,
    parse_public_key,
    register_page,
)
from service.operations.requests import bad_request
from service.storage.database import Database

PAGE_ROWS = 2000
PAUSE_S = 0.01  # between two transactions, so that others get the write lock
FIELDS = frozenset({"group", "serial", "key", "public_key", "public_keys", "ou", "environment"})


@dataclass(frozen=True, slots=True)
class RowOutcome:
    row: int  # 1 is the first row of data
    outcome: Outcome


Parsed = Registration | Outcome


async def import_file(
    database: Database, path: Path, *, group_id: str | None, now: Callable[[], datetime], random_bytes: RandomBytes
) -> AsyncIterator[RowOutcome]:
    """Register every row of a file; yields one outcome for each, in order, after its page is committed.

    `*.csv` has a header line; anything else is JSON lines. `group_id` is for rows that name no group. Raises
    ServiceError: BAD_REQUEST for a file that cannot be read at all, UNAVAILABLE where the database does not take a
    page (the rows already yielded are registered; run the import again for the rest).
    """
    first = 1
    async with aclosing(_pages(path, group_id)) as pages:
        async for page in pages:
            asked = [one for one in page if isinstance(one, Registration)]
            outcomes = iter(await register_page(database, asked, now=now(), random_bytes=random_bytes))
            for row, parsed in enumerate(page, start=first):
                yield RowOutcome(row, parsed if isinstance(parsed, Outcome) else next(outcomes))
            first += len(page)
            await asyncio.sleep(PAUSE_S)


async def _pages(path: Path, group_id: str | None) -> AsyncGenerator[list[Parsed]]:
    """The rows, page by page. The next page is read while somebody works on this one."""
    with closing(_parsed(path, group_id)) as rows:

        def read() -> asyncio.Task[list[Parsed]]:
            return asyncio.create_task(asyncio.to_thread(list, islice(rows, PAGE_ROWS)), name="import: read ahead")

        ahead = read()
        try:
            while page := await ahead:
                ahead = read()
                yield page
        finally:
            await asyncio.wait([ahead])  # the file is not closed under the thread that reads it


def _parsed(path: Path, group_id: str | None) -> Generator[Parsed]:
    for row in row_files.rows(path, FIELDS, needed="serial"):
        if isinstance(row, ServiceError):
            yield _error("", "", row.cause, row.public)
        else:
            yield _parse(row, group_id)


def _parse(row: dict[str, Any], group_id: str | None) -> Parsed:
    group, serial = row.get("group", group_id), row.get("serial")
    shown = (_shown(group), _shown(serial))
    unknown = row.keys() - FIELDS
    if unknown:
        return _error(*shown, "row_malformed", f"unknown field {_shown(min(unknown))!r}")
    texts = [row.get(name) for name in ("key", "public_key", "ou", "environment")]
    if not isinstance(serial, str) or not all(text is None or isinstance(text, str) for text in (group, *texts)):
        return _error(*shown, "row_malformed", "serial is missing, or a value is not a text")
    if group is None:
        return _error(*shown, "group_missing", "the row names no group, and none was given for all")
    key, public_key, ou, environment = texts
    try:
        return Registration(
            group_id=group,
            serial=serial,
            key=None if key is None else parse_key(key),
            public_keys=_public_keys(public_key, row.get("public_keys")),
            ou=ou,
            environment=environment,
        )
    except ServiceError as error:
        return _error(*shown, error.cause, error.public)


def _public_keys(one: str | None, several: object) -> tuple[PublicKey, ...]:
    """From one base64 text, or several: a list, or (as CSV has no lists) texts joined by blanks; indexes 0, 1, ..."""
    if isinstance(several, str):
        several = several.split()
    texts = [one] if one is not None and several is None else (several or []) if one is None else None
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise bad_request("public_key_illegal", "give public_key, or public_keys as a list of base64 texts")
    if len(texts) > limits.MAX_PUBLIC_KEYS:
        raise bad_request("public_key_count", f"at most {limits.MAX_PUBLIC_KEYS} public keys")
    return tuple(parse_public_key(index, text) for index, text in enumerate(texts))


def _shown(value: object) -> str:
    """What of a wrong value may stand in a result line: short, printable."""
    text = value[: limits.MAX_SERIAL_CHARS] if isinstance(value, str) else ""
    return text if text.isprintable() else "".join(char if char.isprintable() else "?" for char in text)


def _error(group_id: str, serial: str, cause: str, reason: str) -> Outcome:
    return Outcome(group_id, serial, Result.ERROR, cause, reason)
