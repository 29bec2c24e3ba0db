"""`firstlight onboard`: what a scanned label puts to work."""

from __future__ import annotations

import json
import os
from typing import Annotated, Any

import typer

from service.cli import context
from service.cli.asking import request_from, with_more
from service.installation import domain_environments
from service.operations import accounts
from service.operations.command_rows import Status
from service.operations.commands import Commands, Request
from service.operations.verbs import onboard as verb
from service.storage.database import Database


def onboard(
    scan: Annotated[str, typer.Option(help="What the scanner read; - takes it from standard input.")],
    ou: Annotated[str, typer.Option(help="Where the device belongs, such as acme/emea/plant-7.")],
    environment: Annotated[str | None, typer.Option(help="Its environment, where OU and group do not say it.")] = None,
    site: Annotated[str | None, typer.Option(help="Where it stands: the attribute `site`.")] = None,
    attributes: Annotated[str, typer.Option(metavar="JSON", help='A map, such as {"floor": 2}.')] = "{}",
    device_key: Annotated[
        str | None,
        typer.Option(
            envvar="FIRSTLIGHT_DEVICE_KEY", help="Its key in base64, where it is individual and not known yet."
        ),
    ] = None,
    account: Annotated[str | None, typer.Option(help="In the name of this operator's account, within its OU.")] = None,
    *,
    more: dict[str, Any],
    as_json: context.JsonOption = False,
) -> None:
    """Register the device of a label if need be, tag, place and describe it. A label works once.

    A used label in the hands of another account changes nothing and raises the event label_reused.
    """
    given: dict[str, Any] = {
        "scan": typer.get_text_stream("stdin").readline() if scan == "-" else scan,
        "ou": ou,
        "environment": environment,
        "site": site,
        "attributes": _map(attributes),
        "device_key": device_key,
    }
    arguments = {name: value for name, value in given.items() if value is not None}
    request = request_from({"arguments": arguments, **more})
    _show(context.run(lambda database: _submit(database, account, request)), ou, as_json=as_json)


async def _submit(database: Database, account: str | None, request: Request) -> Status:
    """In the name of the account, or of this machine."""
    environments = domain_environments(context.settings())
    operator = accounts.THIS_MACHINE
    if account is not None:
        async with database.read() as connection:
            operator = await accounts.operator(connection, account)
    return await Commands(database, environments, random_bytes=os.urandom).submit(operator, verb.NAME, request)


def _show(status: Status, ou: str, *, as_json: bool) -> None:
    """What came of it. Ends the command where it was refused."""
    (outcome,) = status.outcomes
    name = f"{outcome.group_id}/{outcome.serial}"
    if outcome.reason is not None:
        context.fail(f"{name}: {outcome.reason}")
    words = "would be onboarded" if status.command.dry_run else "onboarded"
    if outcome.result == "unchanged":
        words = "was onboarded already"
    context.emit(
        {**context.plain(outcome), **status.result},
        as_json=as_json,
        text=lambda: print(f"{name} {words} to {ou}"),
    )


command = with_more(onboard, "dry_run", "request_id", "expires_at")


def _map(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        context.fail('--attributes: a JSON map, such as {"floor": 2}')
    return found
