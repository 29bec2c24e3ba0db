"""`firstlight equipment`: units in the warehouse and beyond: where each is and has been."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from service.cli import context, warehouse_asking
from service.cli.asking import given
from service.cli.warehouse_asking import AfterOption, DryRunOption, FileArgument, LimitOption, LinesOption, cell
from service.domain.warehouse import Step
from service.operations import warehouse_imports, warehouse_show
from service.operations.accounts import THIS_MACHINE
from service.operations.warehouse_pages import Asked, Document
from service.storage.database import Database

app = typer.Typer(help="Units: received, staged, out of box, shipped, at their site.", no_args_is_help=True)
Serials = Annotated[list[str], typer.Argument(metavar="SERIAL...")]
Units = Annotated[list[str] | None, typer.Argument(metavar="[[GROUP/]SERIAL]...")]
NoteOption = Annotated[str, typer.Option(help="Kept with where the unit has been.")]
_UNIT = ("type", "step", "at", "order", "site", "handed_over", "device_state", "manifest", "settings_rev",
         "settings_state", "settings_cause", "cause")  # fmt: skip


@app.command()
def receive(
    serials: Serials,
    device_type: Annotated[str, typer.Option("--type", help="Their device type.")],
    note: NoteOption = "",
    as_json: context.JsonOption = False,
) -> None:
    """Units came into the warehouse, new from the factory or back from a customer."""
    units = [{"serial": one, "type": device_type} for one in serials]
    warehouse_asking.ask("receive", {"units": units, "note": note}, as_json=as_json)


@app.command()
def ship(
    units: Units = None,
    order: Annotated[str | None, typer.Option(help="Every unit of this order.")] = None,
    note: NoteOption = "",
    dry_run: DryRunOption = False,
    as_json: context.JsonOption = False,
) -> None:
    """Units that are out of box have left the warehouse."""
    arguments: dict[str, Any] = {"units": _named(units) if units else None, "order": order, "note": note}
    warehouse_asking.ask("ship", given(arguments), as_json=as_json, dry_run=dry_run)


@app.command()
def restage(
    units: Annotated[list[str], typer.Argument(metavar="[GROUP/]SERIAL...")],
    note: NoteOption = "",
    dry_run: DryRunOption = False,
    as_json: context.JsonOption = False,
) -> None:
    """Let units in the warehouse call `stage` once more; what an earlier call gave them is good no longer."""
    arguments = {"units": _named(units), "note": note}
    warehouse_asking.ask("restage", arguments, as_json=as_json, dry_run=dry_run)


@app.command("list")
def list_(
    order: Annotated[str | None, typer.Option(help="Only units of this order.")] = None,
    site: Annotated[str | None, typer.Option(help="Only units for this site.")] = None,
    step: Annotated[Step | None, typer.Option(help="Only units that are there.")] = None,
    limit: LimitOption = 100,
    after: AfterOption = "",
    as_json: context.JsonOption = False,
) -> None:
    """Units that were received, by group and serial; of an order also those that it still expects."""
    columns = ("name", "type", "step", "at", "order", "site", "handed_over", "cause")
    asked = Asked(after=after, limit=limit, order=order, site=site, step=None if step is None else step.value)
    warehouse_asking.show_list("units", asked, columns, as_json=as_json)


@app.command()
def show(
    unit: Annotated[str, typer.Argument(metavar="SERIAL", help="Or GROUP/SERIAL where several have it.")],
    as_json: context.JsonOption = False,
) -> None:
    """Where a unit is and has been, and what it said of its items."""
    found = context.run(lambda database: warehouse_show.unit(database, THIS_MACHINE, unit))
    context.emit(found, as_json=as_json, text=lambda: _print(found))


@app.command("import")
def import_(file: FileArgument, as_json: LinesOption = False) -> None:
    """Receive the unit of every row: serial, type."""
    warehouse_asking.import_file(warehouse_imports.UNITS, file, as_json=as_json)


def _named(units: list[str]) -> list[str]:
    """With the group of each; a bare serial is looked for."""

    async def names(database: Database) -> list[str]:
        async with database.read() as connection:
            return ["/".join(await warehouse_show.unit_named(connection, one)) for one in units]

    if all("/" in one for one in units):
        return units
    return context.run(names)


def _print(found: Document) -> None:
    context.table(f"Unit {found['name']}", ["", ""], [[one.replace("_", " "), cell(found, one)] for one in _UNIT])
    columns = ["step", "at", "order", "site", "by", "note"]
    context.table("Has been", columns, [[cell(one, name) for name in columns] for one in found["been"]])
    if found["items"]:
        columns = ["name", "version", "state", "cause", "at"]
        context.table("Items", columns, [[cell(one, name) for name in columns] for one in found["items"]])
