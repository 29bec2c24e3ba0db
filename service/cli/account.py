"""`firstlight account`: operators and integrators, who log in at the brokers."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import Annotated

import typer

from service.cli import context
from service.errors import Secret
from service.operations import accounts
from service.operations.accounts import AccountKind
from service.operations.verbs.verb import Role

app = typer.Typer(help="Accounts of operators and integrators at the brokers.", no_args_is_help=True)
NameArgument = Annotated[str, typer.Argument(help="1 to 32 of a-z 0-9 -.")]


@app.command()
def create(
    name: NameArgument,
    kind: Annotated[
        AccountKind, typer.Option(help="operator commands, integrator is told events.")
    ] = AccountKind.OPERATOR,
    role: Annotated[Role, typer.Option(help="What an operator may do.")] = Role.VIEWER,
    ou: Annotated[str | None, typer.Option(help="Only this OU and what is below it.")] = None,
    environment: Annotated[str | None, typer.Option(help="Only at this environment's broker.")] = None,
    as_json: context.JsonOption = False,
) -> None:
    """Make an account; its key is shown this once. It works within a second while the service runs."""
    key: Secret = context.run(
        lambda database: accounts.create(
            database, name, kind, role=role, ou=ou, environment=environment, now=datetime.now(UTC),
            random_bytes=os.urandom,
        )
    )  # fmt: skip
    _show_key(name, key, as_json=as_json)


@app.command()
def rotate(name: NameArgument, as_json: context.JsonOption = False) -> None:
    """A new key, shown this once; the old one is dead within a second."""
    key: Secret = context.run(lambda database: accounts.rotate(database, name, random_bytes=os.urandom))
    _show_key(name, key, as_json=as_json)


@app.command()
def disable(name: NameArgument, as_json: context.JsonOption = False) -> None:
    """Lock an account out; its running commands stop."""
    context.run(lambda database: accounts.disable(database, name, now=datetime.now(UTC)))
    context.done({"account": name, "enabled": False}, as_json=as_json)


@app.command()
def enable(name: NameArgument, as_json: context.JsonOption = False) -> None:
    """Let a disabled account in again, with its key."""
    context.run(lambda database: accounts.enable(database, name))
    context.done({"account": name, "enabled": True}, as_json=as_json)


@app.command()
def remove(name: NameArgument, as_json: context.JsonOption = False) -> None:
    """Take an account away; what it did stays in the audit."""
    context.run(lambda database: accounts.remove(database, name))
    context.done({"account": name, "removed": True}, as_json=as_json)


@app.command("list")
def list_(as_json: context.JsonOption = False) -> None:
    """Every account."""
    found = context.run(accounts.list_all)
    rows = [
        [
            one.name,
            one.kind.value,
            one.role.value,
            one.ou or "-",
            one.environment or "-",
            "no" if one.disabled_at else "yes",
        ]
        for one in found
    ]
    columns = ["account", "kind", "role", "OU", "environment", "enabled"]
    context.emit(found, as_json=as_json, text=lambda: context.table("Accounts", columns, rows))


def _show_key(name: str, key: Secret, *, as_json: bool) -> None:
    text = key.reveal().decode("ascii")
    context.emit(
        {"account": name, "key": text},
        as_json=as_json,
        text=lambda: print(f"account {name}\nuser name and client id: {name}\nkey (shown this once): {text}"),
    )
