"""`firstlight order`: sales orders, the serial numbers on them, and their hand-over for provisioning."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from service.cli import context, warehouse_asking
from service.cli.asking import given
from service.cli.warehouse_asking import AfterOption, DryRunOption, FileArgument, LimitOption, LinesOption
from service.operations import warehouse_imports, warehouse_show
from service.operations.accounts import THIS_MACHINE
from service.operations.warehouse_pages import Asked

app = typer.Typer(help="Sales orders: they assign serial numbers to a site.", no_args_is_help=True)
Number = Annotated[str, typer.Argument(metavar="ORDER", help="The number that the business system gave it.")]
Orders = Annotated[list[str], typer.Argument(metavar="ORDER...")]
NoteOption = Annotated[str, typer.Option(help="Why, for the audit.")]
Units = Annotated[list[str], typer.Argument(metavar="GROUP/SERIAL...")]


@app.command()
def create(
    order: Number,
    site: Annotated[str, typer.Option(help="Where its units go.")],
    line: Annotated[
        list[str] | None, typer.Option(metavar="TYPE[:QUANTITY]", help="A line of that device type; may stand often.")
    ] = None,
    as_json: context.JsonOption = False,
) -> None:
    """Make a sales order. A line without a quantity takes as many units as are assigned."""
    rows = [{"order": order, "site": site, **_line(number, text)} for number, text in enumerate(line or [], start=1)]
    warehouse_asking.ask("enter-order", {"rows": rows or [{"order": order, "site": site}]}, as_json=as_json)


@app.command()
def assign(
    order: Number,
    serials: Annotated[list[str], typer.Argument(metavar="SERIAL...")],
    line: Annotated[int | None, typer.Option(help="Its number, where the order has several.")] = None,
    dry_run: DryRunOption = False,
    as_json: context.JsonOption = False,
) -> None:
    """Assign serial numbers to an order, and so to its site."""
    rows = [given({"order": order, "line": line, "serial": one}) for one in serials]
    warehouse_asking.ask("enter-order", {"rows": rows}, as_json=as_json, dry_run=dry_run)


@app.command()
def release(order: Number, units: Units, as_json: context.JsonOption = False) -> None:
    """Take units off an order."""
    warehouse_asking.ask("release-units", {"order": order, "units": units}, as_json=as_json)


@app.command()
def close(
    orders: Orders, note: NoteOption = "", dry_run: DryRunOption = False, as_json: context.JsonOption = False
) -> None:
    """Close orders of which every unit has been shipped. Nothing is assigned to a closed order any more."""
    warehouse_asking.ask("close-order", {"orders": orders, "note": note}, as_json=as_json, dry_run=dry_run)


@app.command()
def cancel(
    orders: Orders,
    force: Annotated[
        bool, typer.Option("--force", help="Also where units are staged or out of box; they stay what they are.")
    ] = False,
    note: NoteOption = "",
    dry_run: DryRunOption = False,
    as_json: context.JsonOption = False,
) -> None:
    """Cancel orders: their units are on no order, and for no site, any more. Refused where units were shipped."""
    arguments = {"orders": orders, "force": force, "note": note}
    warehouse_asking.ask("cancel-order", arguments, as_json=as_json, dry_run=dry_run)


@app.command("hand-over")
def hand_over(
    order: Number,
    units: Annotated[list[str] | None, typer.Argument(metavar="[GROUP/SERIAL]...")] = None,
    keys: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Rows of unit (GROUP/SERIAL), key, public_keys: for units that are not registered yet. "
            "*.csv with a header line, or JSON lines.",
        ),
    ] = None,
    dry_run: DryRunOption = False,
    as_json: context.JsonOption = False,
) -> None:
    """Hand the units of an order over for provisioning; from then on they may call `stage`."""
    if keys is not None:
        if units or dry_run:
            context.fail("--keys stands alone: its rows say which units")
        warehouse_asking.import_file(warehouse_imports.keys_of(order), keys, as_json=as_json)
        return
    arguments: dict[str, Any] = {"order": order}
    if units:
        arguments["units"] = [{"unit": one} for one in units]
    warehouse_asking.ask("hand-over", arguments, as_json=as_json, dry_run=dry_run)


@app.command("list")
def list_(
    site: Annotated[str | None, typer.Option(help="Only orders for this site.")] = None,
    limit: LimitOption = 100,
    after: AfterOption = "",
    as_json: context.JsonOption = False,
) -> None:
    """Sales orders by number, with their units by step."""
    columns = ("name", "site", "state", "quantity", "units", "handed_over", "stopped", "steps")
    asked = Asked(after=after, limit=limit, site=site)
    warehouse_asking.show_list("orders", asked, columns, as_json=as_json)


@app.command()
def show(order: Number, as_json: context.JsonOption = False) -> None:
    """One sales order with its lines; `equipment list --order` lists its units."""
    found = context.run(lambda database: warehouse_show.order(database, THIS_MACHINE, order))

    def text() -> None:
        names = ("site", "state", "quantity", "units", "handed_over", "stopped", "steps")
        context.table(
            f"Order {order}", ["", ""], [[one.replace("_", " "), warehouse_asking.cell(found, one)] for one in names]
        )
        columns = ["line", "type", "quantity", "units"]
        rows = [[warehouse_asking.cell(one, name) for name in columns] for one in found["lines"]]
        context.table("Lines", columns, rows)

    context.emit(found, as_json=as_json, text=text)


@app.command("import")
def import_(file: FileArgument, as_json: LinesOption = False) -> None:
    """Enter what each row says: order, site, type, line, quantity, serial. A row may make all of them."""
    warehouse_asking.import_file(warehouse_imports.ORDERS, file, as_json=as_json)


def _line(number: int, text: str) -> dict[str, Any]:
    device_type, colon, quantity = text.partition(":")
    if colon and not (quantity.isascii() and quantity.isdecimal()):
        context.fail(f"--line wants TYPE:QUANTITY, not {text[:64]}")
    return {"line": number, "type": device_type, **({"quantity": int(quantity)} if colon else {})}
