"""`firstlight audit`: who asked what, and what it changed."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from service.cli import context
from service.operations import audits
from service.operations.requests import parse_device
from service.storage.database import Database


def audit(
    after: Annotated[int, typer.Option(help="Only lines with a higher number than this one.")] = 0,
    limit: Annotated[int, typer.Option(help="At most so many, up to 1000.")] = 100,
    account: Annotated[str | None, typer.Option(help="Only of this account; `local` is this machine's.")] = None,
    command: Annotated[str | None, typer.Option(help="Only of this command, by its id.")] = None,
    device: Annotated[str | None, typer.Option(metavar="GROUP/SERIAL", help="Only about this device.")] = None,
    as_json: context.JsonOption = False,
) -> None:
    """Every command with its selector, looks included, and every device changed or refused, the oldest first."""
    group_id, _, serial = (device or "").rpartition("/")
    if device is not None and not group_id:
        context.fail("name the device as GROUP/SERIAL")

    async def read(database: Database) -> list[audits.AuditLine]:
        if device is not None:
            parse_device(device)
        of = (group_id, serial) if device is not None else None
        return await audits.page(database, after=after, limit=limit, account=account, command_id=command, device=of)

    found: list[audits.AuditLine] = context.run(read)

    def text() -> None:
        for one in found:
            at = one.at.isoformat(timespec="seconds") if one.at is not None else "-"
            what = one.device or json.dumps(one.selector or one.arguments, ensure_ascii=False)
            change = (
                f"{json.dumps(one.before)} -> {json.dumps(one.after)}" if one.after is not None else one.cause or ""
            )
            if "again" in one.arguments:  # a question that was asked more often than it has rows
                change = f"{one.arguments['again']} times more {change}"
            print(f"{one.seq} {at} {one.account} {one.verb} {what} {one.outcome} {change}".rstrip())

    context.emit(found, as_json=as_json, text=text)
