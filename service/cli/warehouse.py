"""`firstlight warehouse`: an order while it is provisioned, live, and what has failed."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from service.cli import context, warehouse_asking
from service.cli.warehouse_display import Display, display_for
from service.operations import warehouse_progress
from service.operations.accounts import THIS_MACHINE
from service.operations.warehouse_pages import Asked
from service.operations.warehouse_progress import Failure, Progress
from service.storage.database import Database

app = typer.Typer(help="Orders in the warehouse: watch them, see what has failed.", no_args_is_help=True)
Order = Annotated[str, typer.Argument(metavar="ORDER")]
LOOK_S = 0.5


@app.command()
def watch(
    order: Order,
    once: Annotated[bool, typer.Option("--once", help="Say how it stands, and end.")] = False,
    every_s: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = LOOK_S,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document a line for each change.")] = False,
) -> None:
    """Devices by step, progress bars and failures of an order, live, until all are out of box.

    Without a terminal a line for each change. Exit code 1 if something has failed at the end.
    """
    display = display_for(as_json=as_json)
    last = context.run(lambda database: follow(database, order, display, None if once else every_s))
    if last.failures:
        raise typer.Exit(1)


@app.command()
def failures(
    order: Annotated[
        str | None, typer.Argument(metavar="[ORDER]", help="Item by item; without it, of every order.")
    ] = None,
    limit: warehouse_asking.LimitOption = 100,
    after: warehouse_asking.AfterOption = "",
    as_json: context.JsonOption = False,
) -> None:
    """What has failed, and why: the operator's list. Without an order the units that stand still, page by page."""
    if order is None:
        asked = Asked(after=after, limit=limit)
        columns = ["name", "order", "site", "step", "cause", "at"]
        warehouse_asking.show_list("failures", asked, columns, as_json=as_json)
        return
    found = context.run(lambda database: warehouse_progress.progress(database, THIS_MACHINE, order)).failures
    columns = ["unit", "step", "item", "cause", "at"]
    context.emit(
        found, as_json=as_json, text=lambda: context.table(f"Failed on {order}", columns, [_row(one) for one in found])
    )


async def follow(database: Database, order: str, display: Display, every_s: float | None) -> Progress:
    """Show it as it goes; ends when all are out of box, or at once where `every_s` is None.

    Reads the order again when another process has written something.
    """
    seen: int | None = None
    try:
        while True:
            version = await database.data_version()
            if version != seen:
                seen = version
                found = await warehouse_progress.progress(database, THIS_MACHINE, order)
                display.show(found)
                if every_s is None or found.is_done:
                    return found
            await asyncio.sleep(every_s or LOOK_S)
    finally:
        display.close()


def _row(one: Failure) -> list[str]:
    item = "-" if one.item is None else f"{one.item} {one.version}"
    return [one.unit, one.step, item, one.cause, context.moment(one.at)]
