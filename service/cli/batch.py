"""`firstlight batch`: how far a batch has come."""

from __future__ import annotations

from typing import Annotated

import typer

from service.cli import context
from service.operations import batches

app = typer.Typer(help="Devices that were made or delivered together.", no_args_is_help=True)


@app.callback()
def _noun() -> None:
    """A group, so that further commands can stand beside `show`."""


@app.command()
def show(
    batch: Annotated[str, typer.Argument(help="Its tag, such as B42.")],
    limit: Annotated[int, typer.Option(help="List at most so many that are missing.")] = 100,
    as_json: context.JsonOption = False,
) -> None:
    """Counts by state, and which devices have not come into service yet."""
    found = context.run(lambda database: batches.show(database, batch, limit=limit))

    def text() -> None:
        rows = [["devices", str(found.devices)]]
        rows += [[name, str(count)] for name, count in sorted(found.states.items())]
        rows += [[f"labels {name}", str(count)] for name, count in found.labels.items() if count]
        context.table(f"Batch {found.batch}", ["", ""], rows)
        if found.missing:
            print("missing:")
            print("\n".join(f"  {name}" for name in found.missing))
        if found.more_missing:
            print(f"  and {found.more_missing} more")

    context.emit(found, as_json=as_json, text=text)
