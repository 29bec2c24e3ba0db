"""`firstlight events`: what has happened, from any number on, and as it happens."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from typing import Annotated, Any

import typer

from device_sdk.wire import ids
from service.cli import context
from service.domain.event import KINDS
from service.operations import events as reading
from service.operations.events import Recorded
from service.operations.requests import check_placement, parse_device
from service.storage.database import Database

FOLLOW_S = 0.5


def events(
    after: Annotated[int, typer.Option(help="Only events with a higher number than this one.")] = 0,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with those that come, until interrupted.")
    ] = False,
    limit: Annotated[int | None, typer.Option(help="At most so many.")] = None,
    ou: Annotated[str | None, typer.Option(help="Only of this OU and what is below it.")] = None,
    kind: Annotated[list[str], typer.Option(help="Only of this kind; may stand often.")] = [],  # noqa: B006
    device: Annotated[str | None, typer.Option(metavar="GROUP/SERIAL", help="Only of this device.")] = None,
    thing: Annotated[
        str | None, typer.Option(help="Only of this thing, by its id, whichever device held it at the time.")
    ] = None,
    command: Annotated[str | None, typer.Option(help="Only what followed from this command, by its id.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document a line instead of text.")] = False,
) -> None:
    """Events by number. Keep the last number, and `--after` it shows what was missed."""
    unknown = [one for one in kind if one not in KINDS]
    if unknown:
        context.fail(f"no events are called {', '.join(unknown)}")

    async def show(database: Database) -> None:
        check_placement(ou, None)
        group_id, serial = parse_device(device) if device is not None else (None, "")
        if device is not None and group_id is None:
            context.fail("name the device as GROUP/SERIAL")
        if thing is not None and not ids.is_hex_id(thing):
            context.fail("a thing is named by its 32 lower-case hex digits")
        wanted = {
            "scope": ou,
            "kinds": kind,
            "device": (group_id, serial) if group_id is not None else None,
            "command_id": command,
            "thing_id": thing,
        }
        async for page in _pages(database, after, limit, wanted, follow=follow):
            _print(page, as_json=as_json)

    context.run(show)


async def _pages(
    database: Database, after: int, limit: int | None, wanted: dict[str, Any], *, follow: bool
) -> AsyncIterator[list[Recorded]]:
    """Page by page up to `limit` events; with `follow` also those that come, without end."""
    left = limit
    while left is None or left > 0:
        page = await reading.page(
            database, after=after, limit=min(left or reading.MAX_PAGE, reading.MAX_PAGE), **wanted
        )
        if page:
            yield page
            after = page[-1].seq
            left = None if left is None else left - len(page)
        elif not follow:
            return
        else:
            await asyncio.sleep(FOLLOW_S)


def _print(page: list[Recorded], *, as_json: bool) -> None:
    for one in page:
        of = one.event
        if as_json:
            print(json.dumps(one.document(), ensure_ascii=False))
            continue
        at = of.at.isoformat(timespec="seconds") if of.at is not None else "-"
        data = " ".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in of.data.items())
        print(f"{one.seq} {at} {of.kind} {of.group_id}/{of.serial} {of.ou or '-'} {data}".rstrip())
    sys.stdout.flush()
