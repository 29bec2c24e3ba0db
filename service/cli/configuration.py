"""`firstlight config`: what is changed while the service runs. How it starts stands in firstlight.toml."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from service.cli import context
from service.operations import configuration
from service.operations.accounts import LOCAL
from service.operations.configuration import Shown

app = typer.Typer(help="Configuration that the running service takes over.", no_args_is_help=True)


@app.command()
def show(as_json: context.JsonOption = False) -> None:
    """Every entry, its value and who changed it."""
    found = context.run(configuration.show)
    context.emit(found, as_json=as_json, text=lambda: _show(found))


@app.command("set")
def set_(
    name: Annotated[str, typer.Argument(help="As `show` has it.")], value: str, as_json: context.JsonOption = False
) -> None:
    """Change one entry; it is audited."""
    done = context.run(lambda database: configuration.put(database, name, value, by=LOCAL, now=datetime.now(UTC)))
    context.emit(done, as_json=as_json, text=lambda: _show([done]))


def _show(found: list[Shown]) -> None:
    rows = [[one.name, _word(one.value), _word(one.default), one.changed_by or "-", one.help] for one in found]
    context.table("Configuration", ["name", "value", "default", "changed by", "what it is"], rows)


def _word(value: bool | int) -> str:
    return str(value).lower()
