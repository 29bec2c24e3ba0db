"""`firstlight command`: any verb by its name, and what became of a command."""

from __future__ import annotations

import json
import os
from typing import Annotated, Any

import typer

from service.cli import asking, context
from service.fleet import replies
from service.operations.accounts import THIS_MACHINE
from service.operations.command_rows import Command
from service.operations.commands import Commands
from service.operations.outcomes import Result
from service.storage.database import Database

app = typer.Typer(help="Commands over many devices, and what became of them.", no_args_is_help=True)
CommandArgument = Annotated[str, typer.Argument(help="Its id, or the --id that it was given.")]


@app.command()
def submit(
    verb: str,
    request: Annotated[
        str, typer.Argument(metavar="JSON", help="As an operator would publish it; - reads standard input.")
    ],
    as_json: context.JsonOption = False,
) -> None:
    """Run a command given as JSON: {"selector": ..., "arguments": ..., "dry_run": ...}."""
    text = typer.get_text_stream("stdin").read() if request == "-" else request
    try:
        body = json.loads(text)
    except ValueError:
        context.fail("the request is not JSON")
    if not isinstance(body, dict):
        context.fail("the request is not a JSON object")
    asking.ask(verb, asking.request_from({"id": os.urandom(8).hex(), **body}), as_json=as_json)


@app.command()
def status(
    command: CommandArgument,
    after: Annotated[str, typer.Option(help="The last device id of the page before.")] = "",
    result: Annotated[Result | None, typer.Option(help="Only these.")] = None,
    failed_after: Annotated[
        int, typer.Option(metavar="SEQ", help="The last number of the page before, of devices that failed later.")
    ] = 0,
    as_json: context.JsonOption = False,
) -> None:
    """How far a command has come, device by device, and which devices failed afterwards and why."""

    async def action(commands: Commands, _: Database) -> Any:
        return await commands.status(THIS_MACHINE, command, after=after, result=result, failed_after=failed_after)

    asking.show(asking.with_commands(action), as_json=as_json)


@app.command("list")
def list_(limit: int = 20, as_json: context.JsonOption = False) -> None:
    """The newest commands, whoever asked for them."""

    async def action(commands: Commands, _: Database) -> Any:
        return await commands.newest(THIS_MACHINE, limit=limit)

    found: list[Command] = asking.with_commands(action)
    columns = ["command", "account", "verb", "state", "done", "of", "changed", "refused", "created"]
    rows = [
        [
            one.command_id, one.account, one.verb, one.state.value, str(one.done), str(one.total), str(one.changed),
            str(one.refused), one.created_at.isoformat(timespec="seconds"),
        ]
        for one in found
    ]  # fmt: skip
    plain = [replies.command_fields(one) for one in found]
    context.emit(plain, as_json=as_json, text=lambda: context.table("Commands", columns, rows))


@app.command()
def pause(command: CommandArgument, as_json: context.JsonOption = False) -> None:
    """Stop after the page that is under way."""
    _move("pause", command, as_json=as_json)


@app.command()
def resume(command: CommandArgument, as_json: context.JsonOption = False) -> None:
    """Let a paused command go on: in the running service, else with `firstlight command run`."""
    _move("resume", command, as_json=as_json)


@app.command()
def cancel(command: CommandArgument, as_json: context.JsonOption = False) -> None:
    """End a command; what was done stays done."""
    _move("cancel", command, as_json=as_json)


@app.command()
def run(command: CommandArgument, as_json: context.JsonOption = False) -> None:
    """Work a command off here, where no service does; where one does, follow it."""

    async def action(commands: Commands, _: Database) -> Any:
        found = await commands.status(THIS_MACHINE, command, limit=1)
        await commands.run(found.command.command_id, asking.show_progress)
        return await commands.status(THIS_MACHINE, command)

    asking.show(asking.with_commands(action), as_json=as_json)


def _move(name: str, command: str, *, as_json: bool) -> None:
    async def action(commands: Commands, _: Database) -> Any:
        moves = {"pause": commands.pause, "resume": commands.resume, "cancel": commands.cancel}
        return await moves[name](THIS_MACHINE, command)

    moved: Command = asking.with_commands(action)
    context.emit(
        replies.command_fields(moved), as_json=as_json, text=lambda: print(f"{moved.command_id} {moved.state.value}")
    )
