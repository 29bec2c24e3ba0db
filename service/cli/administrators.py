"""`firstlight admin`: who signs in at the administration pages."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Annotated

import typer

from service.cli import context
from service.errors import Secret
from service.operations import administrators
from service.operations.accounts import LOCAL
from service.operations.verbs.verb import Role

app = typer.Typer(help="Who signs in at the administration pages (/admin).", no_args_is_help=True)
NameArgument = Annotated[str, typer.Argument(help="1 to 32 of a-z 0-9 -.")]
StdinOption = Annotated[bool, typer.Option("--password-stdin", help="Read the password from standard input.")]


@app.command()
def create(
    name: NameArgument,
    role: Annotated[Role, typer.Option(help="viewer looks, operator runs, admin changes.")] = Role.ADMIN,
    password_stdin: StdinOption = False,
    as_json: context.JsonOption = False,
) -> None:
    """Make an administrator; the password has 12 to 256 characters."""
    password = _password(from_stdin=password_stdin)
    context.run(lambda database: administrators.create(database, name, role, password, by=LOCAL, now=datetime.now(UTC)))
    context.done({"administrator": name, "role": role}, as_json=as_json, said=f"administrator {name} made")


@app.command()
def password(name: NameArgument, password_stdin: StdinOption = False, as_json: context.JsonOption = False) -> None:
    """A new password; sessions and a lock end."""
    new = _password(from_stdin=password_stdin)
    context.run(lambda database: administrators.set_password(database, name, new, by=LOCAL))
    context.done({"administrator": name, "password": "set"}, as_json=as_json)


@app.command("list")
def list_(as_json: context.JsonOption = False) -> None:
    """Every administrator."""
    found = context.run(administrators.list_all)
    now = datetime.now(UTC)
    rows = [
        [
            one.name,
            one.role.value,
            "no" if one.disabled_at else "yes",
            context.moment(one.locked_until) if one.locked_until and one.locked_until > now else "-",
        ]
        for one in found
    ]
    columns = ["administrator", "role", "enabled", "locked until"]
    context.emit(found, as_json=as_json, text=lambda: context.table("Administrators", columns, rows))


@app.command()
def disable(name: NameArgument, as_json: context.JsonOption = False) -> None:
    """Lock out for good; sessions end at once."""
    _set_enabled(name, enabled=False, as_json=as_json)


@app.command()
def enable(name: NameArgument, as_json: context.JsonOption = False) -> None:
    """Let in again, with the password as it was."""
    _set_enabled(name, enabled=True, as_json=as_json)


def _set_enabled(name: str, *, enabled: bool, as_json: bool) -> None:
    context.run(
        lambda database: administrators.set_enabled(database, name, enabled=enabled, by=LOCAL, now=datetime.now(UTC))
    )
    context.done({"administrator": name, "enabled": enabled}, as_json=as_json)


def _password(*, from_stdin: bool) -> Secret:
    if from_stdin:
        return Secret(sys.stdin.readline().rstrip("\n").encode())
    return Secret(str(typer.prompt("Password", hide_input=True, confirmation_prompt=True)).encode())
