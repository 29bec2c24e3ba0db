"""From the terminal to operations/commands.py: selection options, running a command, showing what came of it.

Owns what every verb on the command line has in common; verbs.py has a function for each.
"""

from __future__ import annotations

import inspect
import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from service.cli import context
from service.cli.option_tables import extended
from service.cli.selecting import SELECTION, selector_of
from service.fleet import replies
from service.installation import domain_environments, mass_guard
from service.operations.accounts import THIS_MACHINE
from service.operations.command_rows import Command, CommandState, Status
from service.operations.commands import Commands, Request
from service.operations.outcomes import Result
from service.operations.requests import field_refused
from service.storage.database import Database

Action = Callable[[Commands, Database], Any]
_MORE: dict[str, tuple[Any, Any]] = {
    "dry_run": (
        Annotated[bool, typer.Option("--dry-run", help="Only say what would happen, device by device.")],
        False,
    ),
    "expected_rev": (Annotated[int | None, typer.Option(help="Only where the thing has this revision.")], None),
    "rate": (Annotated[int | None, typer.Option(help="At most so many devices a second.")], None),
    "at_most": (
        Annotated[int | None, typer.Option(help="Refuse if more devices are selected; needed for large selections.")],
        None,
    ),
    "request_id": (
        Annotated[str | None, typer.Option("--id", help="Of this command; the same id again does nothing new.")],
        None,
    ),
    "expires_at": (
        Annotated[
            str | None,
            typer.Option(
                metavar="TIME", help="Nothing is done or waited for later: unix seconds or 2030-07-01T12:00Z."
            ),
        ],
        None,
    ),
    "as_json": (context.JsonOption, False),
}
_FIELDS = ("dry_run", "expected_rev", "rate", "at_most")  # of the request, under the names of their options


def selected_command(function: Callable[..., dict[str, Any]]) -> Callable[..., None]:
    """A typer command from a function that makes a verb's arguments out of its own options.

    Its name with hyphens is the verb. The options that select devices and those of every command are added to its own.
    """
    verb = function.__name__.replace("_", "-")
    own = list(inspect.signature(function).parameters)

    def command(**given: Any) -> None:
        arguments = function(**{name: given.pop(name) for name in own})
        body = {"arguments": arguments, **fields_of(given)}
        selector = selector_of(given)
        ask(verb, request_from({**body, "selector": selector} if selector else body), as_json=given["as_json"])

    return extended(function, {**SELECTION, **_MORE}, command)


def with_more(function: Callable[..., None], *names: str) -> Callable[..., None]:
    """A typer command from one that takes the fields which every command has, as a map `more`.

    `names`: of those that this one has; all of them where none is named.
    """
    added = {name: _MORE[name] for name in names or _MORE if name != "as_json"}

    def command(**given: Any) -> None:
        more = {name: given.pop(name) for name in added}
        function(**given, more=fields_of(more))

    return extended(function, added, command)


def fields_of(given: dict[str, Any]) -> dict[str, Any]:
    """The fields of a request from the options that every command has. Ends the command where one is none."""
    found = {name: given[name] for name in _FIELDS if given.get(name) is not None}
    if given.get("expires_at") is not None:
        found["expires_at"] = _unix_seconds(given["expires_at"])
    return {"id": given.get("request_id") or os.urandom(8).hex(), **found}


def _unix_seconds(text: str) -> int:
    try:
        if text.isascii() and text.isdigit():
            return int(text)
        at = datetime.fromisoformat(text)
        return int((at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError):
        context.fail("--expires-at: unix seconds, or a time such as 2030-07-01T12:00Z")


def request_from(body: dict[str, Any]) -> Request:
    try:
        return Request.model_validate(body)
    except ValidationError as error:
        context.fail(field_refused(error, "field").public)


def given(arguments: dict[str, Any]) -> dict[str, Any]:
    """Without what was left out."""
    return {name: value for name, value in arguments.items() if value is not None}


def request_one(device: str, arguments: dict[str, Any], **more: Any) -> Request:
    """A request for one device. Ends the command where it is none."""
    body = {
        "id": os.urandom(8).hex(),
        "selector": {"devices": [device]},
        "arguments": given(arguments),
        **{name: value for name, value in more.items() if value is not None},
    }
    return request_from(body)


def ask_one(verb: str, device: str, arguments: dict[str, Any], as_json: bool, **more: Any) -> None:
    """`ask` about one device; `more` are fields of the request."""
    ask(verb, request_one(device, arguments, **more), as_json=as_json)


def ask(verb: str, request: Request, *, as_json: bool) -> None:
    """Run one command to its end and show what came of it; exit code 1 where a device was refused."""

    async def action(commands: Commands, _: Database) -> Status:
        status = await commands.submit(THIS_MACHINE, verb, request)
        if status.command.state is CommandState.RUNNING:
            await commands.run(status.command.command_id, show_progress)
        if status.command.total > len(status.outcomes) or status.command.state is CommandState.RUNNING:
            result = status.result
            status = await commands.status(THIS_MACHINE, status.command.command_id)
            return replace(status, result=result)
        return status

    show(with_commands(action), as_json=as_json)


def with_commands(action: Action) -> Any:
    settings = context.settings()
    environments, guard = domain_environments(settings), mass_guard(settings)
    return context.run(
        lambda database: action(Commands(database, environments, random_bytes=os.urandom, guard=guard), database)
    )


def show_progress(command: Command) -> None:
    print(f"{command.done} of {command.total}", file=sys.stderr)


def show(status: Status, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({**replies.command_fields(status.command), **_plain(status)}, ensure_ascii=False))
    else:
        _print(status)
    if status.command.refused or status.command.state in (CommandState.FAILED, CommandState.EXPIRED):
        raise typer.Exit(1)


def _plain(status: Status) -> dict[str, Any]:
    outcomes = [replies.outcome_fields(one) for one in status.outcomes]
    more = {
        "later": dict(status.later),
        "failed": [replies.failure_fields(one) for one in status.failed],
        "after": status.after,
        "failed_after": status.failed_after,
        "result": dict(status.result),
    }
    return {"outcomes": outcomes, **{name: value for name, value in more.items() if value}}


def _print(status: Status) -> None:
    of = status.command
    would = "would be " if of.dry_run else ""
    print(
        f"{of.verb}: {of.changed} {would}changed, {of.unchanged} unchanged, {of.refused} {would}refused, "
        f"{of.done} of {of.total}, {of.state.value} (command {of.command_id})"
    )
    for one in status.outcomes:
        if one.result is Result.REFUSED or of.dry_run:
            why = f": {one.reason} ({one.cause})" if one.cause else ""
            print(f"  {one.group_id}/{one.serial} {would}{one.result.value}{why}")
            if one.state is not None:
                print(f"    now: {', '.join(f'{name} {value}' for name, value in one.state.items())}")
    if status.after is not None:
        print(f"  more: firstlight command status {of.command_id} --after {status.after}")
    for kind, count in status.later.items():
        print(f"  {kind}: {count}")
    for failed in status.failed:
        event = failed.event
        at = f" at {context.moment(event.at)}" if event.at is not None else ""
        print(f"  {event.group_id}/{event.serial} {event.kind}{at}: {event.data.get('cause') or 'no cause was told'}")
    if status.failed_after is not None:
        print(f"  more: firstlight command status {of.command_id} --failed-after {status.failed_after}")
    for serial, key in dict(status.result.get("keys") or {}).items() if isinstance(status.result, dict) else ():
        print(f"device key of {serial} (shown this once): {key}")
