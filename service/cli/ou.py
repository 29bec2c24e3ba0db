"""`firstlight ou`: what an organisation unit has of its own."""

from __future__ import annotations

from typing import Annotated

import typer

from service.cli import context
from service.operations import ous

app = typer.Typer(help="Organisation units: bind them to an environment, give them a target.", no_args_is_help=True)

Path = Annotated[str, typer.Argument(metavar="OU", help="Such as acme/emea; what it has counts for all below it.")]


@app.command("set")
def set_(
    path: Path,
    environment: Annotated[str | None, typer.Option(help="Things of this OU belong there.")] = None,
    target: Annotated[
        str | None, typer.Option(metavar="VERSION_ID", help="A firmware target, before the group's.")
    ] = None,
    as_json: context.JsonOption = False,
) -> None:
    """Bind an OU to an environment, or give it a firmware target. Moves no thing that is elsewhere: `reprovision` does."""
    given = {"environment": environment, "target_version_id": target}
    _change(path, {name: value for name, value in given.items() if value is not None}, as_json=as_json)


@app.command()
def clear(
    path: Path,
    environment: Annotated[bool, typer.Option("--environment", help="Unbind it.")] = False,
    target: Annotated[bool, typer.Option("--target", help="Take its target away.")] = False,
    as_json: context.JsonOption = False,
) -> None:
    """Take away what an OU has of its own."""
    chosen = {"environment": environment, "target_version_id": target}
    _change(path, {name: None for name, wanted in chosen.items() if wanted}, as_json=as_json)


@app.command("list")
def list_(as_json: context.JsonOption = False) -> None:
    """Every OU that has something of its own."""
    found = context.run(ous.list_all)
    rows = [[one.path, one.environment or "-", one.target_version_id or "-"] for one in found]
    context.emit(found, as_json=as_json, text=lambda: context.table("OUs", ["ou", "environment", "target"], rows))


def _change(path: str, changes: dict[str, str | None], *, as_json: bool) -> None:
    environments = context.settings().environments
    changed = context.run(lambda database: ous.change(database, path, changes, environments=environments))
    context.emit(
        changed,
        as_json=as_json,
        text=lambda: print(
            f"{path}: environment {changed.environment or '-'}, target {changed.target_version_id or '-'}"
        ),
    )
