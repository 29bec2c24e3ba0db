"""Device types, sites, orders and units from files, row by row: a page of rows is one command like any other.

Owns which columns a file may have and how they become a verb's rows. Rights, rules and audit are the verb's; an import
that was cut off is simply run again.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from service.errors import ServiceError
from service.operations import row_files
from service.operations.accounts import Operator
from service.operations.commands import Commands, Request
from service.operations.outcomes import Outcome, Result
from service.operations.requests import field_refused
from service.operations.verbs import create_site, create_type, enter_order, hand_over, receive
from service.operations.verbs.warehouse_rows import MAX_ROWS

PAUSE_S = 0.005  # between two transactions, so that others get the write lock


@dataclass(frozen=True, slots=True)
class Kind:
    """What a file's rows are: the verb, its argument that holds them, and the form of one."""

    verb: str
    argument: str
    one: type[BaseModel]
    named: str  # the field that a row is known by
    parsers: Mapping[str, Callable[[str], Any]]
    more: Mapping[str, Any]  # further arguments of the verb


@dataclass(frozen=True, slots=True)
class RowResult:
    row: int  # 1 is the first row of data
    name: str
    result: Result
    cause: str | None = None
    reason: str | None = None


def _words(text: str) -> list[str]:
    return text.split()


def _settings(text: str) -> Any:
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError("not a map")  # noqa: TRY004 - as every parser
    return found


_OF_TYPE = {"warehouse_settings": _words, "handshake_settings": _words}
DEVICE_TYPES = Kind(create_type.NAME, "types", create_type.One, "name", _OF_TYPE, {})
SITES = Kind(create_site.NAME, "sites", create_site.One, "name", {"settings": _settings}, {})
ORDERS = Kind(enter_order.NAME, "rows", enter_order.One, "order", {"line": int, "quantity": int}, {})
UNITS = Kind(receive.NAME, "units", receive.One, "serial", {}, {})


def keys_of(order_id: str) -> Kind:
    """Units of this order with their keys, to be handed over."""
    return Kind(hand_over.NAME, "units", hand_over.One, "unit", {"public_keys": _words}, {"order": order_id})


async def import_file(
    commands: Commands, operator: Operator, kind: Kind, path: Path, *, new_id: Callable[[], str]
) -> AsyncIterator[RowResult]:
    """Enter every row; yields one result for each, in order, after its page is committed.

    `new_id` makes the id of each command. Raises ServiceError: BAD_REQUEST for a file that cannot be read at all,
    FORBIDDEN for a role that is too low, UNAVAILABLE where the database does not take a page (the rows that were
    yielded are entered; run the import again for the rest).
    """
    first = 1
    found = _checked(kind, path)
    while page := await asyncio.to_thread(list, islice(found, MAX_ROWS)):
        good = [one for one in page if not isinstance(one, RowResult)]
        outcomes: Iterator[Outcome] = iter(())
        if good:
            arguments = {kind.argument: [one.model_dump(mode="json", exclude_none=True) for one in good], **kind.more}
            status = await commands.submit(operator, kind.verb, Request(id=new_id(), arguments=arguments))
            outcomes = iter(status.outcomes)
        for row, one in enumerate(page, start=first):
            if isinstance(one, RowResult):
                yield RowResult(row, one.name, one.result, one.cause, one.reason)
            else:
                of = next(outcomes)
                yield RowResult(row, f"{of.group_id}/{of.serial}", of.result, of.cause, of.reason)
        first += len(page)
        await asyncio.sleep(PAUSE_S)


def _checked(kind: Kind, path: Path) -> Iterator[BaseModel | RowResult]:
    """Each row in the verb's form, or refused already."""
    for row in row_files.rows(path, kind.one.model_fields, kind.parsers):
        if isinstance(row, ServiceError):
            yield _refused("", row)
            continue
        try:
            yield kind.one.model_validate(row)
        except ValidationError as error:
            name = row.get(kind.named)
            yield _refused(name if isinstance(name, str) else "", field_refused(error, "field"))


def _refused(name: str, error: ServiceError) -> RowResult:
    return RowResult(0, name[:200], Result.REFUSED, error.cause, error.public)
